//! observability_snapshot: the state of everything at once, hourly: machine, process, API, queues, parts, service level.

use serde_json::json;

use crate::{
    domain::schedule::Schedule,
    env::rfc3339,
    error::Result,
    measure, slo,
    task::{Record, Run, TaskSpec},
};

pub(super) fn spec() -> TaskSpec {
    TaskSpec::new(
        "observability_snapshot",
        "slo",
        Schedule::every(3600),
        "Writes down machine, process, API, queues, parts and service level together.",
    )
    .runs(|run| Box::pin(work(run)))
    .leaves(Some("observability.json"), Some("observability.ndjson"))
    .timeout_s(60)
}

async fn work(run: Run) -> Result<Record> {
    let env = &run.env;
    let usage = measure::usage(env).await?;
    let judged = slo::judged(env, "snapshot").await?;
    let parts = env.tree()?.status().await?;
    let (unprocessed, oldest) = env.store().open_event_count().await?;
    let mut record = Record::new();
    record.insert("uptime_s".into(), env.uptime().as_secs().into());
    record.insert("system".into(), json!(usage));
    record.insert(
        "api".into(),
        json!({"requests": judged.verdict.n, "failed": judged.verdict.bad, "p50_ms": judged.verdict.p50_ms, "p95_ms": judged.verdict.p95_ms, "p99_ms": judged.verdict.p99_ms}),
    );
    record
        .insert("queues".into(), json!({"store": env.store().depth(), "webhooks": unprocessed, "oldest_webhook_at": oldest.map(rfc3339)}));
    record.insert(
        "parts".into(),
        json!(parts.iter().map(|p| json!({"name": p.name, "state": p.state, "restarts": p.restarts})).collect::<Vec<_>>()),
    );
    record.insert("slo".into(), json!({"status": judged.verdict.status, "breach": judged.verdict.breach, "success_rate": judged.verdict.success_rate, "clause": judged.verdict.clause}));
    let (_, standings) = slo::standings(env).await?;
    let budget = |s: &crate::domain::slo::Standing| s.report.objectives.iter().filter_map(|o| o.budget.used_ratio).reduce(f64::max);
    let level =
        |s: &crate::domain::slo::Standing| json!({"name": s.level.name, "status": s.verdict.status, "budget_used_ratio": budget(s)});
    record.insert("objectives".into(), standings.iter().map(level).collect());
    let probes = env.store().probes().await?;
    record.insert("probes".into(), probes.iter().map(|p| json!({"name": p.name, "state": p.state})).collect());
    record.insert("ledger_rows".into(), env.store().ledger_count().await?.into());
    Ok(record)
}
