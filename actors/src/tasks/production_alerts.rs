//! production_alerts: checks the four systems of seed phase 69 (API health, database connectivity, job processing, system
//! resources) and the daemon's own parts, and hands the checks to the alert actor, which decides what fires and resolves.

use std::time::Instant;

use chrono::TimeDelta;
use serde_json::json;

use crate::{
    alert, backup,
    domain::{
        alert_rule::{Api, Check, Database, Jobs, Part, Resources, Thresholds, api_health, database, jobs, parts, resources},
        schedule::Schedule,
    },
    env::Env,
    error::Result,
    measure, slo,
    task::{Record, Run, TaskSpec},
};

/// A scheduled task whose latest run has been going on for longer is stuck.
const STUCK_S: i64 = 3600;

pub(super) fn spec() -> TaskSpec {
    TaskSpec::new(
        "production_alerts",
        "alert",
        Schedule::every(300),
        "Checks API, database, jobs and resources, and keeps the state of every alert.",
    )
    .runs(|run| Box::pin(work(run)))
    .leaves(Some("production_alerts.json"), Some("production_alerts.ndjson"))
    .timeout_s(60)
}

async fn work(run: Run) -> Result<Record> {
    let env = &run.env;
    let checks = measured(env).await;
    let evaluated = alert::evaluate(env, checks.clone()).await?;
    let mut record = Record::new();
    record.insert("active".into(), evaluated.active.iter().map(alert::view).collect());
    record.insert("resolved".into(), evaluated.resolved.iter().map(alert::view).collect());
    record.insert("checked".into(), json!(checks));
    Ok(record)
}

/// Every check of the four systems. A system that cannot be asked is a check of its own, never a missing one.
async fn measured(env: &Env) -> Vec<Check> {
    let limits = thresholds(env);
    let mut checks = Vec::new();
    checks.extend(match slo::judged(env, "alerts").await {
        Ok(judged) => {
            let v = &judged.verdict;
            api_health(&Api { requests: v.n, failed: v.bad, p95_ms: v.p95_ms, verdict: v.status }, &limits)
        }
        Err(error) => vec![unanswered("api_health", "api", &error.message)],
    });
    let start = Instant::now();
    let connect_ok = env.store().ping().await.is_ok();
    let latency_ms = connect_ok.then(|| start.elapsed().as_secs_f64() * 1e3);
    checks.extend(database(&Database { connect_ok, latency_ms, queue_depth: env.store().depth() as u64 }, &limits));
    checks.extend(match job_figures(env).await {
        Ok(figures) => jobs(&figures, &limits),
        Err(error) => vec![unanswered("jobs", "jobs", &error.message)],
    });
    checks.extend(match measure::usage(env).await {
        Ok(usage) => resources(
            &Resources {
                cpu_percent: usage.cpu_percent,
                memory_percent: usage.memory_percent,
                disk_percent: usage.disk_percent,
                open_files: usage.open_files,
                open_files_limit: usage.open_files_limit,
            },
            &limits,
        ),
        Err(error) => vec![unanswered("resources", "resources", &error.message)],
    });
    checks.push(match backup::proof_age_check(env, env.now()).await {
        Ok(check) => check,
        Err(error) => unanswered("backup_age", "backup", &error.message),
    });
    checks.extend(match part_states(env).await {
        Ok(states) => parts(&states),
        Err(error) => vec![unanswered("parts", "parts", &error.message)],
    });
    checks
}

async fn part_states(env: &Env) -> Result<Vec<Part>> {
    let children = env.tree()?.status().await?;
    Ok(children.into_iter().map(|c| Part { name: c.name, down: c.down }).collect())
}

async fn job_figures(env: &Env) -> Result<Jobs> {
    let now = env.now();
    let (failed, missed) = env.store().bad_runs(now - TimeDelta::hours(1)).await?;
    let (unprocessed, oldest) = env.store().open_event_count().await?;
    let running = env.store().latest_runs().await?;
    let stuck =
        running.iter().filter(|r| r.state == "running" && r.started_at.is_some_and(|at| (now - at).num_seconds() > STUCK_S)).count();
    Ok(Jobs {
        failed_last_hour: failed.unsigned_abs(),
        overdue: missed.unsigned_abs(),
        stuck: stuck as u64,
        unprocessed_webhooks: unprocessed.unsigned_abs(),
        oldest_webhook_age_s: oldest.map(|at| (now - at).num_seconds()),
    })
}

fn thresholds(env: &Env) -> Thresholds {
    let alert = &env.config().alert;
    Thresholds {
        warn_percent: alert.warn_percent,
        critical_percent: alert.critical_percent,
        slow_ms: alert.slow_ms,
        failed_percent: alert.failed_percent,
        min_failed: alert.min_failed,
        queue_depth: alert.queue_depth,
        webhook_age_s: alert.webhook_age_s,
    }
}

fn unanswered(name: &str, system: &'static str, why: &str) -> Check {
    Check {
        name: name.to_owned(),
        system,
        ok: Some(false),
        severity: crate::domain::alert_rule::Severity::Critical,
        value: None,
        threshold: "an answer".into(),
        reason: format!("no figures: {why}"),
        ..Check::default()
    }
}
