//! Settings and secrets. `configs/echopilot.toml` is embedded as the defaults, so the documentation is the default and the list
//! of known keys; a file, `--config` and the environment are laid over it. An unknown key is an error with a suggestion, a
//! secret in a file is an error that names its environment variable.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use echopilot_archive::pattern::Patterns;
use secrecy::SecretString;
use serde::Deserialize;
use toml::{Table, Value};

use crate::{
    domain::{
        alert_rule::{Catalogue, Severity},
        archive::Include,
        log_line, push,
        replica::Place,
        retention::Policy,
        schedule::{Blackout, CatchUp, Overlap},
        spelling::distance,
    },
    error::{Context as _, Error, Result},
    files,
};

mod levels;
mod probes;

pub use levels::SERVICES;
pub use probes::host_and_port;

/// Every setting with its sentence and default.
pub const DEFAULTS: &str = include_str!("../../configs/echopilot.toml");

macro_rules! section {
    ($name:ident { $($field:ident: $t:ty),* $(,)? }) => {
        #[doc = concat!("The section of that name in `configs/echopilot.toml`, where each key has its sentence: ", stringify!($name), ".")]
        #[derive(Clone, Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $(pub $field: $t),* }
    };
}
section!(Server {
    listen: std::net::SocketAddr,
    public_url: String,
    max_connections: usize,
    max_in_flight: usize,
    header_timeout_ms: u64,
    body_timeout_ms: u64,
    max_body_bytes: usize,
    actor_timeout_ms: u64,
});
section!(Paths { data: PathBuf, logs: PathBuf, backups: PathBuf, configs: PathBuf });
section!(Database { url: String });
section!(Provider { mode: ProviderMode, base_url: String, max_per_s: u32, max_in_flight: usize });
section!(Sandbox { listen: std::net::SocketAddr });
section!(Portal { ttl_s: i64 });
section!(Recon { window_days: i64, grace_days: i64, gap_every_s: u64, gap_grace_s: i64, watch_every_s: u64, late_days: i64 });
section!(Canary { mode: CanaryMode, every_s: u64, timeout_s: u64, slow_ms: u64, amount_minor: i64, currency: String, customer: String });
section!(Slo { p95_ms: u64, success_rate: f64, window_minutes: i64, min_events: u64, period_days: i64 });
section!(AlertThresholds {
    warn_percent: f64,
    critical_percent: f64,
    slow_ms: f64,
    failed_percent: f64,
    min_failed: u64,
    queue_depth: u64,
    webhook_age_s: i64,
    webhook_failures: u64,
    payment_failed_percent: f64,
    revenue_drop_percent: f64,
    fire_after: u32,
    resolve_after: u32,
    watch_every_s: u64,
    observations_days: i64,
    history_days: i64,
});
section!(Notify {
    group_by: Vec<String>,
    group_wait_s: i64,
    group_interval_s: i64,
    repeat_s: i64,
    send_resolved: bool,
    storm_per_name: usize,
    links_h: i64,
    maintenance: Vec<String>,
});
section!(Connectivity { check: Vec<String>, timeout_s: u64 });
section!(EmailChannel {
    min_severity: Severity,
    per_minute: u32,
    host: String,
    port: u16,
    user: String,
    from: String,
    to: Vec<String>,
    tls: String,
    ca_file: PathBuf,
    timeout_s: u64,
});
section!(SlackChannel { min_severity: Severity, per_minute: u32 });
section!(TelegramChannel { min_severity: Severity, per_minute: u32, chat_id: String, url: String });
section!(WebhookChannel { min_severity: Severity, per_minute: u32, url: String });
section!(AlertmanagerChannel { min_severity: Severity, per_minute: u32, url: String });
section!(PagerdutyChannel { min_severity: Severity, per_minute: u32, url: String });
section!(NtfyChannel { min_severity: Severity, per_minute: u32, url: String, topic: String });
section!(Channels {
    email: EmailChannel,
    slack: SlackChannel,
    telegram: TelegramChannel,
    webhook: WebhookChannel,
    alertmanager: AlertmanagerChannel,
    pagerduty: PagerdutyChannel,
    ntfy: NtfyChannel,
});
section!(Incidents {
    patterns: Vec<String>,
    ignore: Vec<String>,
    max_mb: u64,
    warm_up_h: i64,
    burst_min: u64,
    quiet_min: i64,
    reopen_h: i64,
    max_open: usize,
    keep_days: i64,
});
section!(Heartbeat { url: String });
section!(Backup {
    include: Vec<String>,
    exclude: Vec<String>,
    threads: usize,
    full_every_days: i64,
    reserve_mb: u64,
    proof_max_age_h: i64,
    proof_sample: usize,
    recipients: Vec<String>,
    identity_file: PathBuf,
});
section!(Retention {
    keep_last: usize,
    keep_within_days: i64,
    keep_daily: usize,
    keep_weekly: usize,
    keep_monthly: usize,
    keep_yearly: usize,
    max_removed: usize,
    payouts_keep_days: i64,
});
section!(Replica {
    url: String,
    endpoint: String,
    region: String,
    append_only: bool,
    max_lag_h: i64,
    part_mb: usize,
    retries: usize,
    timeout_s: u64,
});
section!(Supervisor {
    max_restarts: u32,
    window_s: u64,
    backoff_base_ms: u64,
    backoff_cap_ms: u64,
    cool_down_s: u64,
    stop_timeout_ms: u64,
    ping_every_ms: u64,
    ping_limit_ms: u64,
    kill_limit_ms: u64,
    max_mailbox: usize,
    drills: bool,
});
section!(Timer {
    enabled: bool,
    stop_grace_s: u64,
    max_running: usize,
    lease_s: u64,
    objective: f64,
    history_days: i64,
    result_days: i64,
    max_result_bytes: usize,
});
section!(Log { level: String, max_bytes: u64, keep: u32 });

impl Retention {
    pub fn policy(&self) -> Policy {
        let Self { keep_last, keep_within_days, keep_daily, keep_weekly, keep_monthly, keep_yearly, max_removed, .. } = *self;
        Policy { keep_last, keep_within_days, keep_daily, keep_weekly, keep_monthly, keep_yearly, max_removed }
    }
}

/// How one task is to differ from its built-in way; the comment in `configs/echopilot.toml` has each key's sentence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TaskSettings {
    pub schedule: Option<String>,
    pub zone: Option<String>,
    pub jitter_s: Option<u32>,
    pub catch_up: Option<CatchUp>,
    pub overlap: Option<Overlap>,
    pub timeout_s: Option<u64>,
    pub total_timeout_s: Option<u64>,
    pub retries: Option<u32>,
    pub pause_after: Option<u32>,
    pub blackout: Option<Vec<String>>,
    pub ping_url: Option<String>,
}

/// A further service level; the comment in `configs/echopilot.toml` has each key's sentence.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectiveSettings {
    pub service: String,
    pub target: f64,
    pub latency_ms: u64,
    pub latency_share: f64,
    pub window: String,
    pub zone: String,
    pub min_events: u64,
    pub timeslice_s: u64,
    pub timeslice_target: f64,
    pub no_data: bool,
    pub enabled: bool,
}

impl Default for ObjectiveSettings {
    fn default() -> Self {
        Self {
            service: String::new(),
            target: 0.99,
            latency_ms: 0,
            latency_share: 0.95,
            window: "30d".into(),
            zone: "UTC".into(),
            min_events: 20,
            timeslice_s: 0,
            timeslice_target: 0.95,
            no_data: true,
            enabled: true,
        }
    }
}

/// Something outside that is asked whether it is well; the comment in `configs/echopilot.toml` has each key's sentence.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProbeSettings {
    pub kind: String,
    pub target: String,
    pub every_s: u64,
    pub timeout_s: u64,
    pub status: String,
    pub contains: String,
    pub json: String,
    pub equals: String,
    pub max_ms: u64,
    pub cert_days: i64,
}

impl Default for ProbeSettings {
    fn default() -> Self {
        let text = String::new;
        let (kind, status) = ("http".to_owned(), "200-299".to_owned());
        let (target, contains, json, equals) = (text(), text(), text(), text());
        Self { kind, target, every_s: 20, timeout_s: 10, status, contains, json, equals, max_ms: 5000, cert_days: 14 }
    }
}

/// A job of the user's own that reports to us; the comment in `configs/echopilot.toml` has each key's sentence.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PushSettings {
    pub every_s: u64,
    pub schedule: Option<String>,
    pub zone: Option<String>,
    pub grace_s: u64,
}

impl Default for PushSettings {
    fn default() -> Self {
        Self { every_s: 86_400, schedule: None, zone: None, grace_s: 3600 }
    }
}

impl PushSettings {
    /// When it is to report. The error names the setting.
    pub fn plan(&self, name: &str) -> Result<push::Plan, String> {
        if !push::is_name(name) {
            return Err(format!("pushes.{name}: a name has lowercase letters, digits and - _ . only: it is part of the ping URL"));
        }
        push::Plan::new(self.every_s, self.schedule.as_deref(), self.zone.as_deref(), self.grace_s)
            .map_err(|e| format!("pushes.{name}: {e}"))
    }
}

impl Channels {
    fn problems(&self) -> Vec<String> {
        let url = |text: &str| text.is_empty() || text.starts_with("http://") || text.starts_with("https://");
        let mut problems = Vec::new();
        for (name, text) in [
            ("telegram", &self.telegram.url),
            ("webhook", &self.webhook.url),
            ("alertmanager", &self.alertmanager.url),
            ("pagerduty", &self.pagerduty.url),
            ("ntfy", &self.ntfy.url),
        ] {
            if !url(text) {
                problems.push(format!("channels.{name}.url must start with http:// or https://"));
            }
        }
        let host = &self.email.host;
        let here = host.is_empty() || host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        match self.email.tls.as_str() {
            "starttls" | "tls" => {}
            "none" if here => {}
            "none" => problems.push(format!("channels.email.tls = \"none\" is for a server on this machine only, not for {host}")),
            other => problems.push(format!("channels.email.tls must be starttls, tls or none, not {other:?}")),
        }
        if self.email.timeout_s == 0 {
            problems.push("channels.email.timeout_s must be at least 1".to_owned());
        }
        problems
    }
}

/// When trial payments are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CanaryMode {
    /// With the sandbox and in test mode.
    Auto,
    /// In live mode too, with the customer that is named.
    On,
    Off,
}

/// Which payment provider the daemon talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderMode {
    Sandbox,
    Test,
    Live,
}

impl ProviderMode {
    pub fn is_live(self) -> bool {
        self == Self::Live
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::Test => "test",
            Self::Live => "live",
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub server: Server,
    pub paths: Paths,
    pub database: Database,
    pub provider: Provider,
    pub sandbox: Sandbox,
    pub portal: Portal,
    pub recon: Recon,
    pub canary: Canary,
    pub slo: Slo,
    pub objectives: BTreeMap<String, ObjectiveSettings>,
    pub probes: BTreeMap<String, ProbeSettings>,
    pub connectivity: Connectivity,
    pub alert: AlertThresholds,
    pub notify: Notify,
    pub channels: Channels,
    pub pushes: BTreeMap<String, PushSettings>,
    /// What each alert is about and what to do, from `configs/alerts.toml`.
    #[serde(skip)]
    pub rules: Catalogue,
    pub incidents: Incidents,
    /// Every setting by its path: rules name some as their limits, and a message says which were changed.
    #[serde(skip)]
    flat: BTreeMap<String, Value>,
    pub heartbeat: Heartbeat,
    pub backup: Backup,
    pub retention: Retention,
    pub replica: Replica,
    pub supervisor: Supervisor,
    pub timer: Timer,
    pub tasks: BTreeMap<String, TaskSettings>,
    pub log: Log,
}

/// What `--demo` and other callers read from the environment, taken as a value so that tests need not touch the process.
pub type Environment = BTreeMap<String, String>;

/// Every alert with its sentence and default.
pub const DEFAULT_RULES: &str = include_str!("../../configs/alerts.toml");
/// Sections whose keys are names of the user's choice, or of tasks.
const NAMED: [&str; 4] = ["tasks", "objectives", "probes", "pushes"];
/// Names from the seed that stand for a setting.
const SEED_NAMES: [(&str, &str); 9] = [
    ("STRIPE_MODE", "provider.mode"),
    ("SLO_P95_MS", "slo.p95_ms"),
    ("SLO_SUCCESS_RATE", "slo.success_rate"),
    ("SMTP_HOST", "channels.email.host"),
    ("SMTP_PORT", "channels.email.port"),
    ("SMTP_USER", "channels.email.user"),
    ("SMTP_FROM", "channels.email.from"),
    ("REPORTS_TO", "channels.email.to"),
    ("TELEGRAM_CHAT_ID", "channels.telegram.chat_id"),
];
/// What the channels need and no file may hold.
pub const CHANNEL_SECRETS: [&str; 7] = [
    "SMTP_PASS",
    "SLACK_WEBHOOK_URL",
    "TELEGRAM_BOT_TOKEN",
    "ALERT_WEBHOOK_SECRET",
    "ALERTMANAGER_TOKEN",
    "PAGERDUTY_ROUTING_KEY",
    "NTFY_TOKEN",
];
/// Keys somebody might look for in a file, and the variable each really is.
const SECRET_NAMES: [(&str, &str); 20] = [
    ("aws_access_key_id", "AWS_ACCESS_KEY_ID"),
    ("access_key_id", "AWS_ACCESS_KEY_ID"),
    ("aws_secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    ("secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    ("aws_session_token", "AWS_SESSION_TOKEN"),
    ("dashboard_key", "DASHBOARD_KEY"),
    ("dash_key", "DASHBOARD_KEY"),
    ("session_secret", "SESSION_SECRET"),
    ("portal_secret", "SESSION_SECRET"),
    ("secret_key", "STRIPE_SECRET_KEY"),
    ("stripe_secret_key", "STRIPE_SECRET_KEY"),
    ("api_key", "STRIPE_SECRET_KEY"),
    ("channels.webhook.secret", "ALERT_WEBHOOK_SECRET"),
    ("pass", "SMTP_PASS"),
    ("password", "SMTP_PASS"),
    ("bot_token", "TELEGRAM_BOT_TOKEN"),
    ("routing_key", "PAGERDUTY_ROUTING_KEY"),
    ("webhook_url", "SLACK_WEBHOOK_URL"),
    ("webhook_secret", "STRIPE_WEBHOOK_SECRET"),
    ("stripe_webhook_secret", "STRIPE_WEBHOOK_SECRET"),
];

impl Config {
    /// Lays the sources over each other. `file` is what `--config` named. Errors are `invalid`, name every key that is wrong, where
    /// it was set and what would be right.
    pub fn load(file: Option<&Path>, environment: &Environment) -> Result<Self> {
        let mut settings: Table = DEFAULTS.parse().map_err(|e| Error::internal(format!("the embedded defaults: {e}")))?;
        let schema = settings.clone();
        let configs = environment.get("ECHOPILOT__PATHS__CONFIGS").map_or_else(|| PathBuf::from("configs"), PathBuf::from);
        let standard = configs.join("echopilot.toml");
        let mut problems = Vec::new();
        for file in standard.exists().then_some(standard.as_path()).into_iter().chain(file) {
            problems.extend(overlay_file(&mut settings, &schema, file)?);
        }
        let prefixed = environment.iter().filter_map(|(name, text)| {
            let path = name.strip_prefix("ECHOPILOT__")?.to_lowercase().replace("__", ".");
            Some((name.as_str(), path, text))
        });
        let of_the_seed = SEED_NAMES.iter().filter_map(|(name, path)| Some((*name, (*path).to_owned(), environment.get(*name)?)));
        for (name, path, text) in prefixed.chain(of_the_seed) {
            problems.extend(set_text(&mut settings, &schema, &path, text, &format!("environment variable {name}")).err());
        }
        let mut rules = read_rules(&configs.join("alerts.toml"))?;
        let mut flat = BTreeMap::new();
        flatten(&settings, "", &mut flat);
        let of_rules = |e| Error::invalid("configuration", format!("{}: {e}", configs.join("alerts.toml").display()));
        problems.extend(rules.settle(|path| flat.get(path).and_then(number)).err().map(of_rules));
        let config: Self = match Value::Table(settings).try_into() {
            Ok(config) => Self { rules, flat, ..config },
            Err(error) => {
                problems.push(Error::invalid("configuration", error.to_string().trim()));
                return Err(together(&problems));
            }
        };
        // A provider key alone means that the provider it belongs to is wanted.
        let chosen = environment.contains_key("STRIPE_MODE") || environment.contains_key("ECHOPILOT__PROVIDER__MODE");
        if !chosen && config.provider.mode == ProviderMode::Sandbox && environment.contains_key("STRIPE_SECRET_KEY") {
            let what = "STRIPE_SECRET_KEY is set but the provider mode is sandbox: set STRIPE_MODE to test or live, or unset the key";
            problems.push(Error::invalid("configuration", what));
        }
        problems.extend(config.validate().err());
        if problems.is_empty() { Ok(config) } else { Err(together(&problems)) }
    }

    /// The setting of this path (`alert.warn_percent`), if it is a number.
    pub fn number(&self, path: &str) -> Option<f64> {
        self.flat.get(path).and_then(number)
    }

    /// Every setting as text, by its path, and the rules of alerts as one. There is no secret among them.
    pub fn flat(&self) -> BTreeMap<String, String> {
        let settings = self.flat.iter().map(|(path, value)| (path.clone(), value.to_string()));
        settings.chain([("alerts.toml".to_owned(), format!("{:?}", self.rules))]).collect()
    }

    /// Rules that a type cannot say. All broken ones are named together.
    fn validate(&self) -> Result<()> {
        let url = |text: &str| text.is_empty() || text.starts_with("http://") || text.starts_with("https://");
        let rules = [
            (self.slo.success_rate > 0.0 && self.slo.success_rate < 1.0, "slo.success_rate must be between 0 and 1, e.g. 0.98"),
            (self.slo.p95_ms > 0, "slo.p95_ms must be at least 1"),
            (self.slo.window_minutes > 0, "slo.window_minutes must be at least 1"),
            ((1..=35).contains(&self.slo.period_days), "slo.period_days must be 1 to 35: older minutes are not kept"),
            ((1..=86_400).contains(&self.portal.ttl_s), "portal.ttl_s must be 1 to 86400"),
            (self.recon.window_days > 0, "recon.window_days must be at least 1"),
            (self.backup.full_every_days > 0, "backup.full_every_days must be at least 1"),
            (self.backup.proof_max_age_h > 0, "backup.proof_max_age_h must be at least 1"),
            (self.backup.threads <= 256, "backup.threads must be at most 256"),
            (self.retention.keep_last > 0, "retention.keep_last must be at least 1"),
            (
                self.retention.keep_within_days >= 0 && self.retention.payouts_keep_days >= 0,
                "retention.keep_within_days and retention.payouts_keep_days must not be negative",
            ),
            ((5..=512).contains(&self.replica.part_mb), "replica.part_mb must be 5 to 512: S3 takes no smaller pieces"),
            (self.replica.max_lag_h > 0 && self.replica.timeout_s > 0, "replica.max_lag_h and replica.timeout_s must be at least 1"),
            (url(&self.replica.endpoint), "replica.endpoint must start with http:// or https://"),
            (
                self.provider.max_per_s > 0 && self.provider.max_in_flight > 0,
                "provider.max_per_s and provider.max_in_flight must be at least 1",
            ),
            (self.recon.gap_every_s > 0 && self.recon.watch_every_s > 0, "recon.gap_every_s and recon.watch_every_s must be at least 1"),
            (self.recon.gap_grace_s >= 0 && self.recon.late_days >= 0, "recon.gap_grace_s and recon.late_days must not be negative"),
            (self.canary.every_s >= 60 && self.canary.timeout_s > 0, "canary.every_s must be at least 60 and canary.timeout_s at least 1"),
            (self.canary.amount_minor > 0, "canary.amount_minor must be at least 1"),
            (
                !(self.provider.mode.is_live() && self.canary.mode == CanaryMode::On && self.canary.customer.is_empty()),
                "canary.mode = \"on\" in live mode needs canary.customer: a customer of yours with a card",
            ),
            (self.recon.grace_days >= 0, "recon.grace_days must not be negative"),
            (self.server.max_body_bytes >= 1024, "server.max_body_bytes must be at least 1024"),
            (self.server.max_connections > 0, "server.max_connections must be at least 1"),
            (self.server.max_in_flight > 0, "server.max_in_flight must be at least 1"),
            (self.server.header_timeout_ms > 0 && self.server.body_timeout_ms > 0, "server timeouts must be at least 1 ms"),
            (
                self.supervisor.ping_every_ms > 0 && self.supervisor.ping_limit_ms > 0 && self.supervisor.kill_limit_ms > 0,
                "supervisor.ping_every_ms, ping_limit_ms and kill_limit_ms must be at least 1",
            ),
            (self.supervisor.window_s > 0, "supervisor.window_s must be at least 1"),
            (self.supervisor.max_mailbox > 0, "supervisor.max_mailbox must be at least 1"),
            (url(&self.server.public_url), "server.public_url must start with http:// or https://"),
            (url(&self.heartbeat.url), "heartbeat.url must start with http:// or https://"),
            (url(&self.provider.base_url) && !self.provider.base_url.is_empty(), "provider.base_url must start with http:// or https://"),
            (
                !self.provider.mode.is_live() || self.provider.base_url.starts_with("https://"),
                "provider.base_url must be https:// in live mode",
            ),
            ((1..=300).contains(&self.alert.watch_every_s), "alert.watch_every_s must be 1 to 300"),
            (
                [self.alert.observations_days, self.alert.history_days].iter().all(|days| (1..=36_500).contains(days)),
                "alert.observations_days and alert.history_days must be 1 to 36500",
            ),
            (
                self.notify.group_wait_s >= 0 && self.notify.group_interval_s >= 1 && self.notify.repeat_s >= 60,
                "notify.group_wait_s must not be negative, group_interval_s at least 1 and repeat_s at least 60",
            ),
            (
                (1..=1024).contains(&self.incidents.max_mb) && (1..=1000).contains(&self.incidents.max_open),
                "incidents.max_mb must be 1 to 1024 and incidents.max_open 1 to 1000",
            ),
            (
                [self.incidents.quiet_min, self.incidents.keep_days].iter().all(|n| (1..=36_500).contains(n))
                    && [self.incidents.warm_up_h, self.incidents.reopen_h].iter().all(|n| (0..=36_500).contains(n)),
                "incidents.quiet_min and keep_days must be 1 to 36500, warm_up_h and reopen_h 0 to 36500",
            ),
            ((1..=720).contains(&self.notify.links_h), "notify.links_h must be 1 to 720"),
            (self.alert.fire_after > 0 && self.alert.resolve_after > 0, "alert.fire_after and alert.resolve_after must be at least 1"),
            (
                self.database.url.is_empty() || self.database.url.starts_with("sqlite:"),
                "database.url must be sqlite:PATH (postgres:// is not compiled into this program)",
            ),
            (self.timer.max_running > 0, "timer.max_running must be at least 1"),
            (self.timer.lease_s >= 3, "timer.lease_s must be at least 3"),
            (self.timer.objective > 0.0 && self.timer.objective < 1.0, "timer.objective must be between 0 and 1, e.g. 0.99"),
            (
                [self.timer.history_days, self.timer.result_days].iter().all(|days| (1..=36_500).contains(days)),
                "timer.history_days and timer.result_days must be 1 to 36500",
            ),
            (self.timer.stop_grace_s <= 3600, "timer.stop_grace_s must be at most 3600"),
            (self.timer.max_result_bytes >= 1024, "timer.max_result_bytes must be at least 1024"),
            (self.sandbox.listen.ip().is_loopback(), "sandbox.listen must be a loopback address: the sandbox accepts any test key"),
        ];
        let mut broken: Vec<_> = rules.iter().filter(|(holds, _)| !holds).map(|(_, rule)| (*rule).to_owned()).collect();
        broken.extend(log_line::Patterns::new(&self.incidents.patterns).err().map(|e| format!("incidents.patterns: {e}")));
        broken.extend(
            self.notify.maintenance.iter().filter_map(|text| Blackout::parse(text, None).err()).map(|e| format!("notify.maintenance: {e}")),
        );
        broken.extend(self.level_problems());
        broken.extend(self.probe_problems());
        broken.extend(self.channels.problems());
        broken.extend(self.pushes.iter().filter_map(|(name, push)| push.plan(name).err()));
        broken.extend(Place::parse(&self.replica.url, &self.replica.endpoint).err());
        broken.extend(self.backup.include.iter().filter_map(|item| Include::parse(item).err()));
        broken.extend(Patterns::new(&self.backup.exclude).err().map(|e| format!("backup.exclude: {e}")));
        if broken.is_empty() { Ok(()) } else { Err(Error::invalid("configuration", broken.join("; "))) }
    }

    /// Whether a daemon ran on this data directory before and its database is gone.
    pub fn data_is_older_than_database(&self) -> bool {
        self.paths.data.join("node").exists() && !self.database_path().exists()
    }

    /// The embedded database's file.
    pub fn database_path(&self) -> PathBuf {
        match self.database.url.strip_prefix("sqlite:") {
            Some(path) => PathBuf::from(path),
            None => self.paths.data.join("echopilot.db"),
        }
    }
}

/// The catalogue of alerts, with the user's file over it if there is one.
fn read_rules(file: &Path) -> Result<Catalogue> {
    let over = if file.exists() { Some(std::fs::read_to_string(file).context(format!("cannot read {}", file.display()))?) } else { None };
    Catalogue::read(DEFAULT_RULES, over.as_deref()).map_err(|e| Error::invalid("configuration", format!("{}: {e}", file.display())))
}

fn flatten(table: &Table, prefix: &str, flat: &mut BTreeMap<String, Value>) {
    for (key, value) in table {
        let path = format!("{prefix}{key}");
        match value {
            Value::Table(inner) => flatten(inner, &format!("{path}."), flat),
            value => drop(flat.insert(path, value.clone())),
        }
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Float(number) => Some(*number),
        #[expect(clippy::cast_precision_loss, reason = "a limit of an alert")]
        Value::Integer(number) => Some(*number as f64),
        _ => None,
    }
}

/// Everything that is wrong in one error.
fn together(problems: &[Error]) -> Error {
    Error::invalid("configuration", problems.iter().map(|p| p.message.as_str()).collect::<Vec<_>>().join("; "))
}

/// Lays a file over the settings and answers what is wrong in it; an error if it cannot be read at all.
fn overlay_file(settings: &mut Table, schema: &Table, file: &Path) -> Result<Vec<Error>> {
    let text = std::fs::read_to_string(file).context(format!("cannot read {}", file.display()))?;
    let table: Table = text
        .parse()
        .map_err(|e: toml::de::Error| Error::invalid("configuration", format!("{}: {}", file.display(), e.to_string().trim())))?;
    let mut problems = Vec::new();
    overlay(settings, schema, table, "", &file.display().to_string(), &mut problems);
    Ok(problems)
}

fn overlay(settings: &mut Table, schema: &Table, over: Table, prefix: &str, origin: &str, problems: &mut Vec<Error>) {
    for (key, value) in over {
        let path = format!("{prefix}{key}");
        let Some(known) = schema.get(&key) else {
            problems.push(unknown_key(&path, origin));
            continue;
        };
        match (value, settings.get_mut(&key), known) {
            // Any name will do; its keys are looked at when the whole is read, the name of a task where the tasks are known.
            (Value::Table(inner), Some(Value::Table(target)), _) if NAMED.contains(&&*path) => overlay_named(target, inner),
            (Value::Table(inner), Some(Value::Table(target)), Value::Table(schema)) => {
                overlay(target, schema, inner, &format!("{path}."), origin, problems);
            }
            (value, _, _) => {
                settings.insert(key, value);
            }
        }
    }
}

fn overlay_named(target: &mut Table, over: Table) {
    for (name, value) in over {
        match (value, target.get_mut(&name)) {
            (Value::Table(inner), Some(Value::Table(known))) => known.extend(inner),
            (value, _) => drop(target.insert(name, value)),
        }
    }
}

/// Sets `path` from text, which is read as the type the default has.
fn set_text(settings: &mut Table, schema: &Table, path: &str, text: &str, origin: &str) -> Result<()> {
    let parts: Vec<&str> = path.split('.').collect();
    if let [section, name, key] = parts[..]
        && NAMED.contains(&section)
    {
        // Read as TOML if it is that (a number, a list, a quoted text), else as text.
        let parsed = format!("v = {text}").parse::<Table>().ok().and_then(|mut t| t.remove("v"));
        let inner = Table::from_iter([(key.to_owned(), parsed.unwrap_or_else(|| Value::String(text.to_owned())))]);
        if let Some(Value::Table(target)) = settings.get_mut(section) {
            overlay_named(target, Table::from_iter([(name.to_owned(), Value::Table(inner))]));
        }
        return Ok(());
    }
    let (key, sections) = parts.split_last().ok_or_else(|| unknown_key(path, origin))?;
    let holder = sections.iter().try_fold(schema, |table, section| table.get(*section)?.as_table());
    let default = holder.filter(|_| !sections.is_empty()).and_then(|table| table.get(*key)).filter(|value| !value.is_table());
    let Some(default) = default else { return Err(unknown_key(path, origin)) };
    let bad = |expected: &str| Error::invalid("configuration", format!("{origin}: {path} must be {expected}, not \"{text}\""));
    let value = match default {
        Value::Integer(_) => Value::Integer(text.trim().parse().map_err(|_| bad("a whole number"))?),
        Value::Float(_) => Value::Float(text.trim().parse().map_err(|_| bad("a number"))?),
        Value::Boolean(_) => Value::Boolean(text.trim().parse().map_err(|_| bad("true or false"))?),
        Value::Array(_) => list(text).ok_or_else(|| bad("a list, as in [\"a\", \"b\"] or a,b"))?,
        _ => Value::String(text.to_owned()),
    };
    let holder = sections.iter().try_fold(settings, |table, section| table.get_mut(*section)?.as_table_mut());
    if let Some(table) = holder {
        table.insert((*key).to_owned(), value);
    }
    Ok(())
}

/// A list from the environment: as TOML writes it, or texts with commas between them.
fn list(text: &str) -> Option<Value> {
    if text.trim_start().starts_with('[') {
        return format!("v = {text}").parse::<Table>().ok()?.remove("v").filter(Value::is_array);
    }
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    Some(Value::Array(items.map(|item| Value::String(item.to_owned())).collect()))
}

fn unknown_key(path: &str, origin: &str) -> Error {
    let last = path.rsplit('.').next().unwrap_or(path);
    if let Some((_, variable)) = SECRET_NAMES.iter().find(|(name, _)| *name == last || *name == path) {
        return Error::invalid(
            "configuration",
            format!("{origin}: {path} is a secret and is not set here: use the environment variable {variable}"),
        );
    }
    let hint = nearest(path).map(|near| format!(", did you mean {near}?")).unwrap_or_default();
    Error::invalid("configuration", format!("{origin}: unknown key {path}{hint}"))
}

/// The known key or section closest to `path`, if one is close.
fn nearest(path: &str) -> Option<String> {
    let schema: Table = DEFAULTS.parse().ok()?;
    let mut known: Vec<String> = Vec::new();
    let mut open: Vec<(String, &Table)> = vec![(String::new(), &schema)];
    while let Some((prefix, table)) = open.pop() {
        for (key, value) in table {
            let name = format!("{prefix}{key}");
            open.extend(value.as_table().map(|inner| (format!("{name}."), inner)));
            known.push(name);
        }
    }
    known.into_iter().map(|k| (distance(&k, path), k)).min().filter(|(d, k)| *d <= 1 + k.len() / 4).map(|(_, k)| k)
}

/// The secrets in use. `Debug` shows none of them.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// The `admin` key of the API and dashboard.
    pub dash_key: SecretString,
    /// Where a generated `dash_key` is kept; `None` if it came from the environment.
    pub dash_key_file: Option<PathBuf>,
    /// HMAC key of portal links, used for nothing else.
    pub portal: SecretString,
    /// HMAC key of session cookies.
    pub cookie: SecretString,
    /// Webhook endpoint secrets; several while one is being rotated.
    pub webhook: Vec<SecretString>,
    /// The provider's API key.
    pub provider: SecretString,
    /// Of the second target, if that is a bucket.
    pub bucket: Option<BucketKeys>,
    /// HMAC key of the links in messages.
    pub links: SecretString,
    /// What the channels need, by the name of its environment variable ([`CHANNEL_SECRETS`]).
    pub channels: BTreeMap<&'static str, SecretString>,
}

/// What opens the bucket of the second target: from the environment only.
#[derive(Clone, Debug)]
pub struct BucketKeys {
    /// `AWS_ACCESS_KEY_ID`: a name and no secret.
    pub id: String,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret: SecretString,
    /// `AWS_SESSION_TOKEN`, of keys that end by themselves.
    pub token: Option<SecretString>,
}

impl BucketKeys {
    /// `None` if `replica.url` is no bucket. Needs nothing but the two arguments, so that a restore works where no daemon ever ran.
    pub fn load(config: &Config, environment: &Environment) -> Result<Option<Self>> {
        if !config.replica.url.starts_with("s3://") {
            return Ok(None);
        }
        let given = |name: &str| environment.get(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let needed = |name: &str| {
            given(name)
                .ok_or_else(|| Error::invalid("configuration", format!("{name} is not set, and replica.url is a bucket that needs it")))
        };
        Ok(Some(Self {
            id: needed("AWS_ACCESS_KEY_ID")?,
            secret: needed("AWS_SECRET_ACCESS_KEY")?.into(),
            token: given("AWS_SESSION_TOKEN").map(Into::into),
        }))
    }
}

impl Secrets {
    /// Takes each secret from the environment or, outside live mode, from a 0600 file in the data directory that is made at the
    /// first start. In live mode a missing or short one is an error that says how to make one.
    pub fn load(config: &Config, environment: &Environment) -> Result<Self> {
        let live = config.provider.mode.is_live();
        let given = |name: &str| environment.get(name).map(|v| v.trim()).filter(|v| !v.is_empty());
        let secret = |variable: &str, file: &str, prefix: &str| -> Result<(SecretString, Option<PathBuf>)> {
            match given(variable) {
                Some(value) if live && value.len() < 32 => Err(too_short(variable)),
                Some(value) => Ok((value.into(), None)),
                None if live => Err(missing(variable)),
                None => {
                    let path = config.paths.data.join(file);
                    Ok((files::secret(&path, prefix)?.into(), Some(path)))
                }
            }
        };
        let (dash_key, dash_key_file) = secret("DASHBOARD_KEY", "dash_key", "ep_")?;
        let (portal, _) = secret("SESSION_SECRET", "portal_secret", "")?;
        let webhook = match given("STRIPE_WEBHOOK_SECRET") {
            Some(list) => list.split(',').map(|s| s.trim().to_owned().into()).collect(),
            None => vec![secret("STRIPE_WEBHOOK_SECRET", "webhook_secret", "whsec_")?.0],
        };
        let provider = match (config.provider.mode, given("STRIPE_SECRET_KEY")) {
            (ProviderMode::Sandbox, _) => "sk_test_sandbox".to_owned().into(),
            (mode, Some(key)) => check_provider_key(mode, key)?,
            (_, None) => {
                return Err(Error::invalid(
                    "configuration",
                    "STRIPE_SECRET_KEY is not set: copy a restricted key from the provider's dashboard",
                ));
            }
        };
        Ok(Self {
            dash_key,
            dash_key_file,
            portal,
            cookie: files::secret(&config.paths.data.join("cookie_secret"), "")?.into(),
            webhook,
            provider,
            bucket: BucketKeys::load(config, environment)?,
            links: files::secret(&config.paths.data.join("links_secret"), "")?.into(),
            channels: CHANNEL_SECRETS.iter().filter_map(|name| Some((*name, given(name)?.to_owned().into()))).collect(),
        })
    }

    pub fn webhook_texts(&self) -> Vec<&str> {
        self.webhook.iter().map(secrecy::ExposeSecret::expose_secret).collect()
    }
}

/// The mode of a provider's secret or restricted key, by its prefix; `None` for anything else, which must be refused.
pub fn mode_of_key(key: &str) -> Option<ProviderMode> {
    let rest = key.strip_prefix("sk_").or_else(|| key.strip_prefix("rk_"))?;
    match rest.split_once('_') {
        Some(("test", secret)) if !secret.is_empty() => Some(ProviderMode::Test),
        Some(("live", secret)) if !secret.is_empty() => Some(ProviderMode::Live),
        _ => None,
    }
}

/// Fails closed: a live key in test mode, a test key in live mode and an unknown prefix are refused.
fn check_provider_key(mode: ProviderMode, key: &str) -> Result<SecretString> {
    let prefix_mode = mode_of_key(key)
        .ok_or_else(|| Error::invalid("configuration", "STRIPE_SECRET_KEY must start with sk_test_, rk_test_, sk_live_ or rk_live_"))?;
    if prefix_mode == mode {
        Ok(key.to_owned().into())
    } else {
        Err(Error::invalid(
            "configuration",
            format!("STRIPE_SECRET_KEY is a {} key but the provider mode is {}", prefix_mode.as_str(), mode.as_str()),
        ))
    }
}

fn missing(variable: &str) -> Error {
    Error::invalid(
        "configuration",
        format!("{variable} is not set, and live mode makes no secrets: set it to the output of `openssl rand -hex 32`"),
    )
}

fn too_short(variable: &str) -> Error {
    Error::invalid("configuration", format!("{variable} is shorter than 32 characters: set it to the output of `openssl rand -hex 32`"))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        // A folder without a file, so that the repository's own does not take part.
        let mut all: Environment = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        all.entry("ECHOPILOT__PATHS__CONFIGS".into()).or_insert_with(|| "no-such-folder".into());
        all
    }

    fn failure(pairs: &[(&str, &str)]) -> String {
        Config::load(None, &environment(pairs)).expect_err("must be refused").message
    }

    #[test]
    fn the_embedded_file_is_a_complete_configuration() {
        let config = Config::load(None, &environment(&[])).unwrap();
        assert_eq!(config.slo.p95_ms, 1200);
        assert_eq!(config.provider.mode, ProviderMode::Sandbox);
    }

    #[test]
    fn the_environment_wins_and_the_seeds_names_win_over_it() {
        let config = Config::load(None, &environment(&[("ECHOPILOT__SLO__P95_MS", "500"), ("SLO_SUCCESS_RATE", "0.9")])).unwrap();
        assert_eq!((config.slo.p95_ms, config.slo.success_rate), (500, 0.9));
        let config = Config::load(None, &environment(&[("ECHOPILOT__SLO__P95_MS", "500"), ("SLO_P95_MS", "700")])).unwrap();
        assert_eq!(config.slo.p95_ms, 700);
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(failure(&[("ECHOPILOT__SERVER__LISTNE", "127.0.0.1:0")]).contains("did you mean server.listen?"));
        assert!(failure(&[("ECHOPILOT__SLO__P95_MS", "fast")]).contains("must be a whole number"));
        assert!(failure(&[("SLO_SUCCESS_RATE", "1.5")]).contains("between 0 and 1"));
        assert!(failure(&[("STRIPE_SECRET_KEY", "sk_test_abc")]).contains("set STRIPE_MODE"));
        assert!(failure(&[("ECHOPILOT__PROVIDER__SECRET_KEY", "x")]).contains("STRIPE_SECRET_KEY"));
        assert!(failure(&[("ECHOPILOT__SANDBOX__LISTEN", "0.0.0.0:80")]).contains("loopback"));
        assert!(failure(&[("ECHOPILOT__SUPERVISOR__MAX_MAILBOX", "0")]).contains("supervisor.max_mailbox must be at least 1"));
        assert!(failure(&[("ECHOPILOT__SUPERVISOR__PING_LIMIT_MS", "0")]).contains("ping_limit_ms"));
    }

    #[test]
    fn a_secret_in_a_file_is_refused_with_its_variables_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("echopilot.toml");
        std::fs::write(&file, "[server]\ndash_key = \"x\"\n").unwrap();
        let message = Config::load(Some(&file), &environment(&[])).expect_err("refused").message;
        assert!(message.contains("DASHBOARD_KEY"), "{message}");
        std::fs::write(&file, "[slo]\np95 = 3\n").unwrap();
        let message = Config::load(Some(&file), &environment(&[])).expect_err("refused").message;
        assert!(message.contains("slo.p95_ms"), "{message}");
    }

    #[test]
    fn the_mode_is_read_from_the_keys_prefix_only() {
        for (key, mode) in [
            ("sk_test_1", Some(ProviderMode::Test)),
            ("rk_test_1", Some(ProviderMode::Test)),
            ("sk_live_1", Some(ProviderMode::Live)),
            ("rk_live_1", Some(ProviderMode::Live)),
            ("pk_test_1", None),
            ("sk_test_", None),
            ("sk_test", None),
            ("sk_prod_1", None),
            ("", None),
        ] {
            assert_eq!(mode_of_key(key), mode, "{key}");
        }
    }

    #[test]
    fn live_mode_makes_no_secrets_and_checks_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().to_str().unwrap();
        let load = |pairs: &[(&str, &str)]| {
            let mut all = vec![("ECHOPILOT__PATHS__DATA", data)];
            all.extend_from_slice(pairs);
            let environment = environment(&all);
            Secrets::load(&Config::load(None, &environment).unwrap(), &environment).map_err(|e| e.message)
        };
        assert!(load(&[("STRIPE_MODE", "live")]).unwrap_err().contains("openssl rand"));
        assert!(load(&[("STRIPE_MODE", "live"), ("DASHBOARD_KEY", "short")]).unwrap_err().contains("shorter than 32"));
        assert!(load(&[("STRIPE_MODE", "test"), ("STRIPE_SECRET_KEY", "sk_live_abc")]).unwrap_err().contains("live key"));
        assert!(load(&[("STRIPE_MODE", "test"), ("STRIPE_SECRET_KEY", "pk_test_abc")]).unwrap_err().contains("must start with"));
        let first = load(&[]).unwrap();
        let second = load(&[]).unwrap();
        assert_eq!(first.dash_key.expose_secret(), second.dash_key.expose_secret());
        assert!(!format!("{first:?}").contains(first.dash_key.expose_secret()));
    }
}
