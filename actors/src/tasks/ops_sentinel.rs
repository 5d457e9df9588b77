//! ops_sentinel: every three minutes the machine's and the API's figures, warnings above the thresholds, and what is out of line
//! with the recent past. Clock skew is judged only against a real provider: the sandbox has a virtual clock.

use serde_json::{Value as Json, json};

use crate::{
    config::ProviderMode,
    domain::{alert_rule::anomaly, schedule::Schedule},
    env::{Env, blocking},
    error::Result,
    measure, slo,
    task::{Record, Run, TaskSpec},
};

const HISTORY: &str = "ops_sentinel.ndjson";
/// How many earlier records are the recent past.
const PAST: usize = 240;
/// A clock further off than this is a warning: webhook signatures are refused at 300 s.
const SKEW_S: i64 = 30;
/// Percent points below which a difference is noise.
const QUANTUM_PERCENT: f64 = 5.0;
const QUANTUM_MS: f64 = 50.0;

pub(super) fn spec() -> TaskSpec {
    TaskSpec::new(
        "ops_sentinel",
        "alert",
        Schedule::every(180),
        "Watches CPU, memory, disk, open files, clock and own latency for limits and oddities.",
    )
    .runs(|run| Box::pin(work(run)))
    .leaves(None, Some(HISTORY))
    .timeout_s(60)
}

async fn work(run: Run) -> Result<Record> {
    let env = &run.env;
    let usage = measure::usage(env).await?;
    let p95_ms = slo::judged(env, "sentinel").await?.verdict.p95_ms;
    let skew_s = clock_skew_s(env).await;
    let open_files_percent =
        usage.open_files.zip(usage.open_files_limit).filter(|(_, limit)| *limit > 0).map(|(n, limit)| 100.0 * n as f64 / limit as f64);
    let figures = [
        ("cpu_percent", usage.cpu_percent, "%", env.config().alert.warn_percent, QUANTUM_PERCENT),
        ("memory_percent", usage.memory_percent, "%", env.config().alert.warn_percent, QUANTUM_PERCENT),
        ("disk_percent", usage.disk_percent, "%", env.config().alert.warn_percent, QUANTUM_PERCENT),
        ("open_files_percent", open_files_percent, "%", env.config().alert.warn_percent, QUANTUM_PERCENT),
        ("p95_ms", p95_ms, "ms", env.config().alert.slow_ms, QUANTUM_MS),
    ];
    let past = past(env).await?;
    let (mut warnings, mut anomalies) = (Vec::new(), Vec::new());
    let mut record = Record::new();
    for (name, value, unit, limit, quantum) in figures {
        record.insert(name.into(), json!(value));
        let Some(value) = value else { continue };
        if value > limit {
            warnings.push(json!({"figure": name, "value": value, "limit": limit, "reason": format!("{name} is {value:.1} {unit}, above {limit} {unit}")}));
        }
        let series: Vec<f64> = past.iter().filter_map(|line| line[name].as_f64()).collect();
        if let Some(reason) = anomaly(&series, value, quantum) {
            anomalies.push(json!({"figure": name, "value": value, "reason": reason}));
        }
    }
    record.insert("clock_skew_s".into(), json!(skew_s));
    if let Some(skew) = skew_s.filter(|s| s.abs() > SKEW_S) {
        warnings.push(json!({"figure": "clock_skew_s", "value": skew, "limit": SKEW_S, "reason": format!("our clock is {skew} s off the provider's")}));
    }
    record.insert("ok".into(), warnings.is_empty().into());
    record.insert("warnings".into(), warnings.into());
    record.insert("anomalies".into(), anomalies.into());
    Ok(record)
}

async fn clock_skew_s(env: &Env) -> Option<i64> {
    if env.config().provider.mode == ProviderMode::Sandbox {
        return None;
    }
    let there = env.provider().now().await.ok()?;
    Some((env.now() - there).num_seconds())
}

/// The latest records; a torn or foreign line is passed over.
async fn past(env: &Env) -> Result<Vec<Json>> {
    let path = env.log_path(HISTORY);
    blocking(move || {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error.into()),
        };
        Ok(text.lines().rev().take(PAST).filter_map(|line| serde_json::from_str(line).ok()).collect())
    })
    .await
}
