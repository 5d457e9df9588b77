//! slo_guard: looks at the burn of the error budget every ten minutes and raises an alert on a breach.

use serde_json::json;

use crate::{
    alert,
    domain::{
        alert_rule::{Check, Severity},
        schedule::Schedule,
        slo::Status,
    },
    error::Result,
    slo,
    task::{Record, Run, TaskSpec},
};

pub(super) fn spec() -> TaskSpec {
    TaskSpec::new("slo_guard", "slo", Schedule::every(600), "Measures how fast the error budget burns and raises an alert on a breach.")
        .runs(|run| Box::pin(work(run)))
        .leaves(Some("slo_report.json"), Some("slo_report.ndjson"))
        .timeout_s(30)
        .retries(2)
}

async fn work(run: Run) -> Result<Record> {
    let judged = slo::judged(&run.env, "guard").await?;
    let (verdict, report) = (&judged.verdict, &judged.report);
    let breach = verdict.breach || report.breach;
    let why = match (&report.worst, verdict.breach) {
        (Some(worst), false) => format!("the error budget for {} burns too fast over {}", worst.objective, worst.windows),
        _ => verdict.clause.clone(),
    };
    let check = Check {
        name: "slo_burn".into(),
        system: "api",
        ok: (verdict.status != Status::NoData).then_some(!breach),
        severity: Severity::Critical,
        value: verdict.success_rate.map(|rate| format!("{rate} success rate")),
        threshold: format!(">= {}", run.env.config().slo.success_rate),
        reason: why.clone(),
        ..Check::default()
    };
    alert::evaluate(&run.env, vec![check]).await?;
    let mut record = Record::new();
    record.insert("status".into(), verdict.status.as_str().into());
    record.insert("breach".into(), breach.into());
    record.insert("reason".into(), why.into());
    record.insert("p95_ms".into(), json!(verdict.p95_ms));
    record.insert("success_rate".into(), json!(verdict.success_rate));
    record.insert("verdict".into(), json!(verdict));
    record.insert("report".into(), json!(report));
    Ok(record)
}
