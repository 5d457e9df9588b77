//! The sections of `configs/echopilot.toml` as types: a key is a field here and a line with its sentence there.

use std::path::PathBuf;

use serde::Deserialize;

use crate::domain::{
    alert_rule::Severity,
    push,
    retention::Policy,
    schedule::{CatchUp, Overlap},
};

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
