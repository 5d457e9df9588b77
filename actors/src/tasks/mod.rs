//! The task table: one row per scheduled task, in the order of `task list`. From it come the schedule, the command line, the API,
//! the dashboard and the tests that run over all of them. A task with a file is real; the others are planned and have no slots.

mod daily_backup;
mod finance_reconcile;
mod heartbeat;
mod incident_scanner;
mod observability_snapshot;
mod ops_sentinel;
mod payment_recon_nightly;
mod payout_recon;
mod production_alerts;
mod replica_sync;
mod self_heal;
mod slo_guard;
mod slo_monitor;
mod weekly_audit;

use std::time::Duration;

use crate::{
    config::{Config, TaskSettings},
    domain::{
        schedule::{Blackout, Schedule, jitter},
        spelling::distance,
    },
    error::{Error, Result},
    task::TaskSpec,
};

const HOUR: i64 = 3600;

/// All 23, as numbered in the specification.
pub fn table() -> Vec<TaskSpec> {
    vec![
        heartbeat::spec(),
        TaskSpec::new("ceo_brief", "insight", daily("08:00"), "Yesterday in one page: money, risks, what to do."),
        TaskSpec::new("daily_report", "insight", daily("09:00"), "What ran, what failed and why, what is outstanding."),
        self_heal::spec(),
        TaskSpec::new("pricing_ai", "insight", daily("03:00"), "Margin and measured elasticity per product, with a bounded proposal."),
        weekly_audit::spec(),
        replica_sync::spec(),
        TaskSpec::new("ai_ops_brain", "insight", Schedule::every(12 * HOUR), "Ranked findings with evidence; proposes, never acts."),
        production_alerts::spec(),
        ops_sentinel::spec(),
        TaskSpec::new("revenue_intelligence", "insight", Schedule::every(HOUR / 2), "Revenue, MRR and trend from the ledger."),
        finance_reconcile::spec(),
        TaskSpec::new("auto_governance", "insight", Schedule::every(HOUR), "Health of the business and of its compliance, check by check."),
        observability_snapshot::spec(),
        payout_recon::spec(),
        TaskSpec::new("churn_ai", "insight", Schedule::every(2 * HOUR), "Which customers are about to leave, and why we think so."),
        slo_guard::spec(),
        TaskSpec::new("support_inbox", "insight", Schedule::every(HOUR), "Unread support mail by urgency, matched to customers."),
        TaskSpec::new("cost_tracker", "insight", daily("01:10"), "Cost by kind, projection for the month, gross margin."),
        incident_scanner::spec(),
        payment_recon_nightly::spec(),
        slo_monitor::spec(),
        daily_backup::spec(),
    ]
}

/// The table with what the configuration changes in it. Errors are `invalid` and name every key that is wrong.
pub fn configured(config: &Config) -> Result<Vec<TaskSpec>> {
    let mut table = table();
    let mut problems = Vec::new();
    for (name, settings) in &config.tasks {
        match table.iter_mut().find(|spec| spec.name == name) {
            Some(spec) => problems.extend(change(spec, settings).into_iter().map(|p| format!("tasks.{name}.{p}"))),
            None => problems.push(format!("tasks.{name}: there is no such task{}", did_you_mean(name))),
        }
    }
    if problems.is_empty() { Ok(table) } else { Err(Error::invalid("configuration", problems.join("; "))) }
}

fn did_you_mean(name: &str) -> String {
    let nearest = table().iter().map(|spec| (distance(spec.name, name), spec.name)).min().filter(|(d, near)| *d <= 1 + near.len() / 4);
    nearest.map(|(_, near)| format!(", did you mean {near}?")).unwrap_or_default()
}

/// Changes a task as configured; answers what is wrong, each with its key.
fn change(spec: &mut TaskSpec, settings: &TaskSettings) -> Vec<String> {
    let mut problems = Vec::new();
    let zone = settings.zone.as_deref();
    if let Some(text) = &settings.schedule {
        match Schedule::parse(text, zone) {
            Ok(schedule) => {
                spec.policy.catch_up = schedule.default_catch_up();
                spec.schedule = schedule;
            }
            Err(problem) => problems.push(format!("schedule: {problem}")),
        }
    } else if zone.is_some() && settings.blackout.is_none() {
        problems.push("zone: it belongs to a schedule or to blackout windows, and neither is set".into());
    }
    let policy = &mut spec.policy;
    if let Some(seconds) = settings.jitter_s {
        policy.jitter = jitter(spec.name, seconds);
    }
    for text in settings.blackout.iter().flatten() {
        match Blackout::parse(text, zone) {
            Ok(window) => policy.blackout.push(window),
            Err(problem) => problems.push(format!("blackout: {problem}")),
        }
    }
    for (key, seconds) in [("timeout_s", settings.timeout_s), ("total_timeout_s", settings.total_timeout_s)] {
        if seconds.is_some_and(|s| !(1..=2_592_000).contains(&s)) {
            problems.push(format!("{key}: must be 1 to 2592000"));
        }
    }
    if settings.retries.is_some_and(|n| n > 100) {
        problems.push("retries: must be at most 100".into());
    }
    policy.timeout = settings.timeout_s.map_or(policy.timeout, Duration::from_secs);
    policy.total_timeout = settings.total_timeout_s.map_or(policy.total_timeout, Duration::from_secs);
    policy.catch_up = settings.catch_up.unwrap_or(policy.catch_up);
    policy.overlap = settings.overlap.unwrap_or(policy.overlap);
    policy.retries = settings.retries.unwrap_or(policy.retries);
    policy.pause_after = settings.pause_after.unwrap_or(policy.pause_after);
    if settings.ping_url.as_ref().is_some_and(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
        problems.push("ping_url: must start with http:// or https://".into());
    }
    spec.ping_url.clone_from(&settings.ping_url);
    problems
}

/// Every day at `HH:MM` UTC.
fn daily(time: &str) -> Schedule {
    cron(&time.split_once(':').map(|(h, m)| format!("{m} {h} * * *")).expect("a time in the table is HH:MM"))
}

fn cron(expression: &str) -> Schedule {
    Schedule::cron(expression).expect("the table's expressions are tested")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::domain::schedule::{CatchUp, Overlap};

    #[test]
    fn there_are_23_tasks_with_their_own_names_and_a_sentence_each() {
        let table = table();
        assert_eq!(table.len(), 23);
        assert_eq!(table.iter().map(|t| t.name).collect::<HashSet<_>>().len(), 23);
        for task in &table {
            assert!(task.doc.ends_with('.') && task.doc.len() > 20, "{}", task.name);
            assert!(task.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", task.name);
        }
    }

    #[test]
    fn schedules_are_those_of_the_specification() {
        let table = table();
        let schedule = |name: &str| table.iter().find(|t| t.name == name).map(|t| t.schedule.describe()).unwrap_or_default();
        for (name, expected) in [
            ("heartbeat", "every 60 s"),
            ("ceo_brief", "daily 08:00 UTC"),
            ("weekly_audit", "Mon 00:30 UTC"),
            ("production_alerts", "every 5 min"),
            ("payout_recon", "every 6 h"),
            ("finance_reconcile", "every 6 h"),
            ("payment_recon_nightly", "daily 23:50 UTC"),
            ("daily_backup", "daily 00:30 UTC"),
            ("slo_guard", "every 10 min"),
        ] {
            assert_eq!(schedule(name), expected, "{name}");
        }
    }

    #[test]
    fn every_task_with_work_has_a_file_of_its_name() {
        for task in table().iter().filter(|t| t.work.is_some()) {
            let file = format!("{}/src/tasks/{}.rs", env!("CARGO_MANIFEST_DIR"), task.name);
            assert!(std::path::Path::new(&file).exists(), "{file}");
        }
    }

    fn with(pairs: &[(&str, &str)]) -> Result<Vec<TaskSpec>> {
        let mut environment: crate::config::Environment = [("ECHOPILOT__PATHS__CONFIGS".to_owned(), "no-such-folder".to_owned())].into();
        environment.extend(pairs.iter().map(|(key, value)| (format!("ECHOPILOT__TASKS__{key}"), (*value).to_owned())));
        configured(&Config::load(None, &environment)?)
    }

    #[test]
    fn a_task_is_changed_by_the_configuration() {
        let table = with(&[
            ("DAILY_BACKUP__SCHEDULE", "daily 02:30"),
            ("DAILY_BACKUP__ZONE", "Europe/Berlin"),
            ("DAILY_BACKUP__JITTER_S", "60"),
            ("DAILY_BACKUP__BLACKOUT", "[\"Sat 22:00-Sun 06:00\"]"),
            ("DAILY_BACKUP__CATCH_UP", "{ all = { max_age_s = 3600, max_count = 2 } }"),
            ("HEARTBEAT__SCHEDULE", "every 30 s"),
            ("HEARTBEAT__OVERLAP", "queue_one"),
            ("HEARTBEAT__RETRIES", "4"),
        ])
        .unwrap();
        let task = |name: &str| table.iter().find(|t| t.name == name).unwrap().clone();
        let backup = task("daily_backup");
        assert_eq!(backup.schedule.describe(), "daily 02:30 Europe/Berlin");
        assert_eq!((backup.policy.blackout.len(), backup.policy.catch_up), (1, CatchUp::All { max_age_s: 3600, max_count: 2 }));
        assert_eq!(backup.policy.jitter, jitter("daily_backup", 60));
        let heartbeat = task("heartbeat");
        assert_eq!((heartbeat.schedule, heartbeat.policy.retries), (Schedule::every(30), 4));
        assert_eq!(heartbeat.policy.overlap, Overlap::QueueOne);
    }

    #[test]
    fn what_is_wrong_with_a_tasks_configuration_is_named() {
        let cases: [(&[(&str, &str)], &str); 8] = [
            (&[("HARTBEAT__RETRIES", "1")], "tasks.hartbeat: there is no such task, did you mean heartbeat?"),
            (&[("HEARTBEAT__SCHEDULE", "now and then")], "tasks.heartbeat.schedule: "),
            (&[("HEARTBEAT__SCHEDULE", "daily 02:30"), ("HEARTBEAT__ZONE", "Europe/Berlim")], "Europe/Berlin"),
            (&[("HEARTBEAT__SCHEDULE", "every 5 s"), ("HEARTBEAT__ZONE", "Europe/Berlin")], "tasks.heartbeat.schedule: "),
            (&[("HEARTBEAT__ZONE", "Europe/Berlin")], "tasks.heartbeat.zone: "),
            (&[("HEARTBEAT__BLACKOUT", "[\"sometimes\"]")], "tasks.heartbeat.blackout: "),
            (&[("HEARTBEAT__TIMEOUT_S", "0")], "tasks.heartbeat.timeout_s: must be 1 to"),
            (&[("HEARTBEAT__OVERLAPS", "skip")], "unknown field `overlaps`"),
        ];
        for (pairs, expected) in cases {
            let error = with(pairs).unwrap_err();
            assert!(error.message.contains(expected), "{pairs:?}: {}", error.message);
        }
    }
}
