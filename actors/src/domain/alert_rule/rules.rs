//! The rules of the four systems that are watched (seed phase 69): API health, database connectivity, job processing and system
//! resources. Each takes what was measured and returns its checks; the caller measures. Something that could not be measured is a check without data.

use super::{Check, Severity};
use crate::domain::slo::Status;

/// Above these values a check is bad. The settings `alerts.*`.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Thresholds {
    /// CPU, memory, disk and open files: warning above this many percent.
    pub warn_percent: f64,
    /// Memory, disk and open files: critical above this many percent. A busy CPU alone is never critical.
    pub critical_percent: f64,
    /// An answer of the API or the database is slow above this many milliseconds.
    pub slow_ms: f64,
    /// Failed requests in percent of the window's requests.
    pub failed_percent: f64,
    /// Fewer failed requests or failed runs than this say nothing.
    pub min_failed: u64,
    /// Writes waiting for the database.
    pub queue_depth: u64,
    /// The age in seconds at which an unprocessed webhook is a warning; at three times that it is critical.
    pub webhook_age_s: i64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            warn_percent: 85.0,
            critical_percent: 95.0,
            slow_ms: 2000.0,
            failed_percent: 2.0,
            min_failed: 3,
            queue_depth: 1000,
            webhook_age_s: 300,
        }
    }
}

/// The API over the evaluation window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Api {
    pub requests: u64,
    pub failed: u64,
    /// `None` without a successful answer.
    pub p95_ms: Option<f64>,
    /// The verdict of the service level.
    pub verdict: Status,
}

/// The database now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Database {
    pub connect_ok: bool,
    /// How long the probe took; `None` if it did not come back.
    pub latency_ms: Option<f64>,
    /// Writes waiting.
    pub queue_depth: u64,
}

/// The scheduled runs and the webhooks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Jobs {
    /// Runs that ended `failed` or `timed_out` within the last hour.
    pub failed_last_hour: u64,
    /// Tasks whose due slot has no run yet although it should have started.
    pub overdue: u64,
    /// Runs that go on past their timeout.
    pub stuck: u64,
    /// Webhook events accepted and not applied yet.
    pub unprocessed_webhooks: u64,
    /// The age of the oldest of them in seconds.
    pub oldest_webhook_age_s: Option<i64>,
}

/// The machine and the process; `None` for what this system does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Resources {
    pub cpu_percent: Option<f64>,
    /// Used, that is, not available, of the machine's memory.
    pub memory_percent: Option<f64>,
    /// Of the file system that holds the data.
    pub disk_percent: Option<f64>,
    pub open_files: Option<u64>,
    /// The process's limit.
    pub open_files_limit: Option<u64>,
}

/// `api_errors`, `api_latency`, `api_slo`.
pub fn api_health(api: &Api, limits: &Thresholds) -> Vec<Check> {
    let Api { requests, failed, p95_ms, verdict } = *api;
    let rule = Rule("api");
    let failed_percent = (requests > 0).then(|| failed.min(requests) as f64 * 100.0 / requests as f64);
    let errors = Check {
        ok: failed_percent.map(|percent| percent <= limits.failed_percent || failed < limits.min_failed),
        severity: if failed_percent.is_some_and(|percent| percent > 50.0) { Severity::Critical } else { Severity::Warning },
        value: failed_percent.map(|percent| format!("{percent:.1} %")),
        threshold: format!("<= {} % failed, or fewer than {}", limits.failed_percent, limits.min_failed),
        reason: format!("{failed} of {requests} requests failed"),
        ..rule.check("api_errors")
    };
    let latency = Check {
        ok: p95_ms.map(|ms| ms <= limits.slow_ms),
        value: p95_ms.map(|ms| format!("{ms:.0} ms")),
        threshold: format!("<= {} ms", limits.slow_ms),
        reason: p95_ms.map_or("no answer to measure".to_owned(), |ms| format!("95 % of the answers took at most {ms:.0} ms")),
        ..rule.check("api_latency")
    };
    let slo = Check {
        ok: match verdict {
            Status::Pass => Some(true),
            Status::Fail => Some(false),
            Status::NoData => None,
        },
        severity: Severity::Critical,
        value: Some(verdict.as_str().to_owned()),
        threshold: "not FAIL".to_owned(),
        reason: format!("the service level is {}", verdict.as_str()),
        ..rule.check("api_slo")
    };
    vec![errors, latency, slo]
}

/// `database_connect`, `database_latency`, `database_queue`.
pub fn database(database: &Database, limits: &Thresholds) -> Vec<Check> {
    let Database { connect_ok, latency_ms, queue_depth } = *database;
    let rule = Rule("database");
    let connect = Check {
        ok: Some(connect_ok),
        severity: Severity::Critical,
        threshold: "answers".to_owned(),
        reason: if connect_ok { "the database answers" } else { "the database does not answer" }.to_owned(),
        ..rule.check("database_connect")
    };
    let latency_ms = latency_ms.filter(|_| connect_ok);
    let latency = Check {
        ok: latency_ms.map(|ms| ms <= limits.slow_ms),
        value: latency_ms.map(|ms| format!("{ms:.0} ms")),
        threshold: format!("<= {} ms", limits.slow_ms),
        reason: latency_ms.map_or("no answer to measure".to_owned(), |ms| format!("the database answered in {ms:.0} ms")),
        ..rule.check("database_latency")
    };
    vec![connect, latency, rule.count("database_queue", queue_depth, limits.queue_depth, "writes wait for the database")]
}

/// `jobs_failed`, `jobs_overdue`, `jobs_stuck`, `webhooks_unprocessed`.
pub fn jobs(jobs: &Jobs, limits: &Thresholds) -> Vec<Check> {
    let rule = Rule("jobs");
    let waiting = jobs.unprocessed_webhooks;
    // The age decides, not the number: a burst that drains is fine, a single event that nobody takes is not.
    let age = if waiting == 0 { 0 } else { jobs.oldest_webhook_age_s.unwrap_or(0).max(0) };
    let critical_age = limits.webhook_age_s.saturating_mul(3);
    let webhooks = Check {
        ok: Some(age <= limits.webhook_age_s),
        severity: if age > critical_age { Severity::Critical } else { Severity::Warning },
        value: Some(format!("{age} s")),
        threshold: format!("<= {} s", limits.webhook_age_s),
        reason: if waiting == 0 {
            "no webhook event waits".to_owned()
        } else {
            format!("{waiting} webhook events wait, the oldest for {age} s")
        },
        ..rule.check("webhooks_unprocessed")
    };
    vec![
        rule.count("jobs_failed", jobs.failed_last_hour, limits.min_failed.saturating_sub(1), "runs failed within the last hour"),
        rule.count("jobs_overdue", jobs.overdue, 0, "tasks are overdue"),
        Check { severity: Severity::Critical, ..rule.count("jobs_stuck", jobs.stuck, 0, "runs are stuck past their timeout") },
        webhooks,
    ]
}

/// `cpu`, `memory`, `disk`, `open_files`.
pub fn resources(resources: &Resources, limits: &Thresholds) -> Vec<Check> {
    let open_files = match (resources.open_files, resources.open_files_limit) {
        (Some(open), Some(limit)) if limit > 0 => Some(open as f64 * 100.0 / limit as f64),
        _ => None,
    };
    let rule = Rule("resources");
    let percent = |name: &str, what: &str, value: Option<f64>, can_be_critical: bool| {
        let value = value.filter(|percent| percent.is_finite());
        let critical = can_be_critical && value.is_some_and(|percent| percent > limits.critical_percent);
        Check {
            ok: value.map(|percent| percent <= limits.warn_percent),
            severity: if critical { Severity::Critical } else { Severity::Warning },
            value: value.map(|percent| format!("{percent:.1} %")),
            threshold: format!("<= {} %", limits.warn_percent),
            reason: value.map_or(format!("{what}: not measured"), |percent| format!("{what}: {percent:.1} % used")),
            ..rule.check(name)
        }
    };
    vec![
        percent("cpu", "CPU", resources.cpu_percent, false),
        percent("memory", "memory", resources.memory_percent, true),
        percent("disk", "disk", resources.disk_percent, true),
        percent("open_files", "open files", open_files, true),
    ]
}

/// One part of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub name: &'static str,
    /// Why it stays down; `None` while it runs, and during a restart.
    pub down: Option<String>,
}

/// The parts of the daemon, a check for each: each fires, is told and resolves on its own, also while another is down already.
pub fn parts(parts: &[Part]) -> Vec<Check> {
    let rule = Rule("parts");
    let check = |part: &Part| Check {
        ok: Some(part.down.is_none()),
        severity: Severity::Critical,
        value: Some(if part.down.is_some() { "down" } else { "up" }.to_owned()),
        threshold: "up".into(),
        reason: part.down.as_ref().map_or_else(|| format!("{} is up", part.name), |why| format!("{} is {why}", part.name)),
        ..rule.check(&format!("part_{}", part.name))
    };
    parts.iter().map(check).collect()
}

/// Makes the checks of one system.
struct Rule(&'static str);

impl Rule {
    /// A check without data, to be completed.
    fn check(&self, name: &str) -> Check {
        Check {
            name: name.to_owned(),
            system: self.0,
            ok: None,
            severity: Severity::Warning,
            value: None,
            threshold: String::new(),
            reason: String::new(),
            ..Check::default()
        }
    }

    /// A number that must not exceed its limit.
    fn count(&self, name: &str, n: u64, limit: u64, what: &str) -> Check {
        Check {
            ok: Some(n <= limit),
            value: Some(n.to_string()),
            threshold: format!("<= {limit}"),
            reason: format!("{n} {what}"),
            ..self.check(name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Severity::{Critical, Warning};

    const HEALTHY: Api = Api { requests: 1000, failed: 0, p95_ms: Some(120.0), verdict: Status::Pass };
    const CONNECTED: Database = Database { connect_ok: true, latency_ms: Some(3.0), queue_depth: 0 };

    fn named(checks: &[Check], name: &str) -> (Option<bool>, Severity) {
        let check = checks.iter().find(|check| check.name == name).unwrap();
        assert!(!check.reason.is_empty() && !check.threshold.is_empty());
        (check.ok, check.severity)
    }

    fn api(api: Api, name: &str) -> (Option<bool>, Severity) {
        named(&api_health(&api, &Thresholds::default()), name)
    }

    #[test]
    fn every_part_has_a_check_of_its_own() {
        let up = Part { name: "slo", down: None };
        let checks = parts(&[up, Part { name: "recon", down: Some("put aside".into()) }]);
        assert_eq!(named(&checks, "part_slo"), (Some(true), Critical));
        assert_eq!(named(&checks, "part_recon"), (Some(false), Critical));
        assert_eq!((checks[1].system, checks[1].reason.as_str()), ("parts", "recon is put aside"));
    }

    #[test]
    fn api_checks_by_what_was_measured() {
        let cases = [
            (HEALTHY, "api_errors", (Some(true), Warning)),
            (Api { failed: 20, ..HEALTHY }, "api_errors", (Some(true), Warning)),
            (Api { failed: 21, ..HEALTHY }, "api_errors", (Some(false), Warning)),
            (Api { failed: 501, ..HEALTHY }, "api_errors", (Some(false), Critical)),
            (Api { requests: 2, failed: 2, ..HEALTHY }, "api_errors", (Some(true), Critical)),
            (Api { requests: 0, failed: 0, p95_ms: None, verdict: Status::NoData }, "api_errors", (None, Warning)),
            (HEALTHY, "api_latency", (Some(true), Warning)),
            (Api { p95_ms: Some(2000.0), ..HEALTHY }, "api_latency", (Some(true), Warning)),
            (Api { p95_ms: Some(2000.5), ..HEALTHY }, "api_latency", (Some(false), Warning)),
            (Api { p95_ms: None, ..HEALTHY }, "api_latency", (None, Warning)),
            (HEALTHY, "api_slo", (Some(true), Critical)),
            (Api { verdict: Status::Fail, ..HEALTHY }, "api_slo", (Some(false), Critical)),
            (Api { verdict: Status::NoData, ..HEALTHY }, "api_slo", (None, Critical)),
        ];
        for (measured, name, expected) in cases {
            assert_eq!(api(measured, name), expected, "{measured:?} {name}");
        }
    }

    #[test]
    fn database_checks_by_what_was_measured() {
        let down = Database { connect_ok: false, latency_ms: Some(5000.0), queue_depth: 1001 };
        let cases = [
            (CONNECTED, "database_connect", (Some(true), Critical)),
            (down, "database_connect", (Some(false), Critical)),
            (CONNECTED, "database_latency", (Some(true), Warning)),
            (Database { latency_ms: Some(2001.0), ..CONNECTED }, "database_latency", (Some(false), Warning)),
            (down, "database_latency", (None, Warning)),
            (CONNECTED, "database_queue", (Some(true), Warning)),
            (down, "database_queue", (Some(false), Warning)),
        ];
        for (measured, name, expected) in cases {
            assert_eq!(named(&database(&measured, &Thresholds::default()), name), expected, "{measured:?} {name}");
        }
    }

    #[test]
    fn job_checks_by_what_was_measured() {
        let webhooks = |n, age| Jobs { unprocessed_webhooks: n, oldest_webhook_age_s: age, ..Jobs::default() };
        let cases = [
            (Jobs::default(), "jobs_failed", (Some(true), Warning)),
            (Jobs { failed_last_hour: 2, ..Jobs::default() }, "jobs_failed", (Some(true), Warning)),
            (Jobs { failed_last_hour: 3, ..Jobs::default() }, "jobs_failed", (Some(false), Warning)),
            (Jobs { overdue: 1, ..Jobs::default() }, "jobs_overdue", (Some(false), Warning)),
            (Jobs { stuck: 1, ..Jobs::default() }, "jobs_stuck", (Some(false), Critical)),
            (Jobs::default(), "jobs_stuck", (Some(true), Critical)),
            (webhooks(0, Some(9999)), "webhooks_unprocessed", (Some(true), Warning)),
            (webhooks(5000, Some(20)), "webhooks_unprocessed", (Some(true), Warning)),
            (webhooks(1, Some(301)), "webhooks_unprocessed", (Some(false), Warning)),
            (webhooks(1, Some(901)), "webhooks_unprocessed", (Some(false), Critical)),
        ];
        for (measured, name, expected) in cases {
            assert_eq!(named(&jobs(&measured, &Thresholds::default()), name), expected, "{measured:?} {name}");
        }
    }

    #[test]
    fn resource_checks_by_what_was_measured() {
        let of = |percent| Resources {
            cpu_percent: percent,
            memory_percent: percent,
            disk_percent: percent,
            open_files: percent.map(|_| 900),
            open_files_limit: Some(1000),
        };
        let cases = [
            (of(Some(85.0)), "cpu", (Some(true), Warning)),
            (of(Some(85.1)), "cpu", (Some(false), Warning)),
            (of(Some(99.0)), "cpu", (Some(false), Warning)),
            (of(Some(99.0)), "memory", (Some(false), Critical)),
            (of(Some(95.0)), "disk", (Some(false), Warning)),
            (of(None), "disk", (None, Warning)),
            (of(Some(f64::NAN)), "disk", (None, Warning)),
            (of(Some(1.0)), "open_files", (Some(false), Warning)),
            (of(None), "open_files", (None, Warning)),
        ];
        for (measured, name, expected) in cases {
            assert_eq!(named(&resources(&measured, &Thresholds::default()), name), expected, "{measured:?} {name}");
        }
    }

    #[test]
    fn every_rule_has_a_name_of_its_own() {
        let limits = Thresholds::default();
        let checks = [
            api_health(&HEALTHY, &limits),
            database(&CONNECTED, &limits),
            jobs(&Jobs::default(), &limits),
            resources(&Resources::default(), &limits),
        ]
        .concat();
        let names: std::collections::BTreeSet<_> = checks.iter().map(|check| &check.name).collect();
        assert_eq!((names.len(), checks.len()), (14, 14));
    }
}
