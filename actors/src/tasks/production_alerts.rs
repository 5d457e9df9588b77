//! production_alerts: every five minutes everything that the alert rules are judged on is measured (seed phase 69: API health, database
//! connectivity, job processing, system resources; and payments, revenue, backups, journal, parts), kept for the replay, and put to
//! the alert actor, which decides what fires and resolves.

use chrono::TimeDelta;
use serde_json::json;

use crate::{
    alert::{self, figures},
    domain::schedule::Schedule,
    error::Result,
    task::{Record, Run, TaskSpec},
};

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
    let measured = figures::everything(env).await;
    let checks = measured.checks(env);
    let evaluated = alert::evaluate(env, checks.clone()).await?;
    let keep_from = env.now() - TimeDelta::days(env.config().alert.observations_days);
    env.store().put_observation(env.now(), &measured.samples, keep_from).await?;
    let mut record = Record::new();
    record.insert("active".into(), evaluated.active.iter().map(alert::view).collect());
    record.insert("resolved".into(), evaluated.resolved.iter().map(alert::view).collect());
    record.insert("checked".into(), json!(checks));
    record.insert("figures".into(), json!(measured.samples));
    Ok(record)
}
