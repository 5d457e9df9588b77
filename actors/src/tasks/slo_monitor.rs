//! slo_monitor: the hourly verdict on the service level, as seed phase 68 has it: `logs/slo_status.json` and its history.

use serde_json::json;

use crate::{
    domain::schedule::Schedule,
    error::{Error, Result},
    slo,
    task::{Record, Run, TaskSpec},
};

pub(super) fn spec() -> TaskSpec {
    TaskSpec::new("slo_monitor", "slo", Schedule::every(3600), "Writes down whether the service level holds: PASS, FAIL or NO_DATA.")
        .runs(|run| Box::pin(work(run)))
        .leaves(Some("slo_status.json"), Some("slo_status.ndjson"))
        .timeout_s(30)
        .retries(2)
}

async fn work(run: Run) -> Result<Record> {
    let (_, standings) = slo::standings(&run.env).await?;
    match slo::judged(&run.env, "monitor").await?.status.clone() {
        serde_json::Value::Object(mut record) => {
            let level =
                |s: &crate::domain::slo::Standing| json!({"name": s.level.name, "status": s.verdict.status, "clause": s.verdict.clause});
            record.insert("objectives".into(), standings.iter().map(level).collect());
            Ok(record)
        }
        other => Err(Error::internal(format!("a verdict is an object, not {other}"))),
    }
}
