//! replica_sync: brings archives, payouts, audits and the journal's checkpoint to the second target and says how far behind that is. The
//! work is `operations/sync_replica`; this raises the alerts.

use crate::{
    alert,
    domain::{
        alert_rule::{Check, Severity},
        schedule::Schedule,
    },
    env::{Env, rfc3339},
    error::{Error, Result},
    operations::sync_replica::{Synced, sync_replica},
    task::{Record, Run, TaskSpec},
};

pub(super) fn spec() -> TaskSpec {
    TaskSpec::new("replica_sync", "backup", Schedule::every(2 * super::HOUR), "Copies new archives to a second place, verified by digest.")
        .runs(|run| Box::pin(work(run)))
        .leaves(Some("replica_sync.json"), Some("replica_sync.ndjson"))
        .timeout_s(7000) // before the next slot, which goes on with what was cut off
}

async fn work(run: Run) -> Result<Record> {
    let env = &run.env;
    let synced = sync_replica(env, &run.run_id).await?;
    alert::evaluate(env, checks(env, &synced)).await?;
    let serde_json::Value::Object(mut record) = serde_json::to_value(&synced)? else {
        return Err(Error::internal("a report is an object"));
    };
    record.insert("ts".into(), rfc3339(env.now()).into());
    Ok(record)
}

/// Without a second target there is nothing to measure, and an alert of an earlier one is resolved.
fn checks(env: &Env, synced: &Synced) -> Vec<Check> {
    let max_h = env.config().replica.max_lag_h;
    let lag_h = synced.lag_s / super::HOUR;
    let check = |name: &str, ok: bool, value: String, threshold: String, reason: String| Check {
        name: name.into(),
        system: "backup",
        ok: Some(ok),
        severity: Severity::Critical,
        value: Some(value),
        threshold,
        reason,
        ..Check::default()
    };
    let reason = match synced.problems.first() {
        Some(problem) => format!("{}: {}", problem.name, problem.error),
        None => "the second target has everything".to_owned(),
    };
    let lag = if synced.lag_s > 0 {
        format!("an archive of {lag_h} h ago is not at the second target")
    } else {
        "every archive is at the second target".into()
    };
    vec![
        check("replica_lag", synced.lag_s <= max_h * super::HOUR, format!("{lag_h} h"), format!("<= {max_h} h"), lag),
        check("replica_sync", synced.ok, format!("{} problems", synced.problems.len()), "0 problems".into(), reason),
    ]
}
