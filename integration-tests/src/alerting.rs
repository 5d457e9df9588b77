//! What tests of alerts set up: rules of their own, looks within seconds, and a receiver of the messages.

use crate::{Setup, recorder::Recorder};

/// The secret of the webhook that messages go to.
pub const ALERT_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A critical rule that always fires, because the database does answer. `what` is also its runbook.
pub fn always(name: &str, what: &str) -> String {
    format!(
        "[rules.{name}]\nsystem = \"own\"\ncomponent = \"mine\"\nseverity = \"critical\"\nfigure = \"database_up\"\nbelow = 2\nwhat = \"{what}\"\nowner = \"Me.\"\nrunbook = \"{what}\"\n"
    )
}

impl Setup {
    /// Rules laid over the built-in ones from the next start on.
    pub fn write_rules(&self, rules: &str) {
        std::fs::create_dir_all(self.configs("")).expect("a folder");
        std::fs::write(self.configs("alerts.toml"), rules).expect("written");
    }

    /// Messages that were sent and are written down as such.
    pub fn messages_sent(&self) -> i64 {
        self.count("SELECT COUNT(*) FROM notification WHERE state = 'sent'")
    }

    /// Scheduled runs, and alerts that are looked at and told within a second.
    #[must_use]
    pub fn watchful(self) -> Self {
        self.schedule()
            .env("ECHOPILOT__NOTIFY__GROUP_WAIT_S", "1")
            .env("ECHOPILOT__NOTIFY__GROUP_INTERVAL_S", "1")
            .env("ECHOPILOT__ALERT__WATCH_EVERY_S", "1")
    }

    /// Messages of this severity and above go to the recorder, as signed webhooks.
    #[must_use]
    pub fn telling(self, recorder: &Recorder, min_severity: &str) -> Self {
        self.env("ECHOPILOT__CHANNELS__WEBHOOK__MIN_SEVERITY", min_severity)
            .env("ECHOPILOT__CHANNELS__WEBHOOK__URL", recorder.url("/hook"))
            .env("ALERT_WEBHOOK_SECRET", ALERT_SECRET)
    }
}
