//! What a type cannot say about the settings: limits, and what belongs together. All that is broken is named at once.

use echopilot_archive::pattern::Patterns;

use super::{CanaryMode, Channels, Config};
use crate::{
    domain::{archive::Include, log_line, replica::Place, schedule::Blackout},
    error::{Error, Result},
};

/// Nothing, or an address as the HTTP client takes it.
fn is_url_or_empty(text: &str) -> bool {
    text.is_empty() || text.starts_with("http://") || text.starts_with("https://")
}

impl Config {
    /// Rules that a type cannot say. All broken ones are named together.
    pub(super) fn validate(&self) -> Result<()> {
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
            (is_url_or_empty(&self.replica.endpoint), "replica.endpoint must start with http:// or https://"),
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
            (is_url_or_empty(&self.server.public_url), "server.public_url must start with http:// or https://"),
            (is_url_or_empty(&self.heartbeat.url), "heartbeat.url must start with http:// or https://"),
            (
                is_url_or_empty(&self.provider.base_url) && !self.provider.base_url.is_empty(),
                "provider.base_url must start with http:// or https://",
            ),
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
}

impl Channels {
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, text) in [
            ("telegram", &self.telegram.url),
            ("webhook", &self.webhook.url),
            ("alertmanager", &self.alertmanager.url),
            ("pagerduty", &self.pagerduty.url),
            ("ntfy", &self.ntfy.url),
        ] {
            if !is_url_or_empty(text) {
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
