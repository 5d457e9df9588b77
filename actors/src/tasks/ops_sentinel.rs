//! ops_sentinel: every three minutes the machine's and the API's figures, warnings above the thresholds, and what is out of line
//! with the recent past. Both go to the alert actor. Clock skew is judged only against a real provider: the sandbox has a virtual clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use serde_json::json;

use crate::{
    alert,
    domain::{
        alert_rule::{self, Check, Severity},
        anomaly::{self, Figure, Kind, Sample, Season},
        incident::State,
        schedule::Schedule,
    },
    env::Env,
    error::Result,
    measure, slo,
    store::NewSample,
    task::{Record, Run, TaskSpec},
};

/// A clock further off than this is a warning: webhook signatures are refused at 300 s.
const SKEW_S: i64 = 30;

/// A figure that is watched.
struct Watched {
    name: &'static str,
    /// The figure of the alert rules, if one is about it.
    rule: &'static str,
    /// What it is about, as incidents have it.
    component: &'static str,
    unit: &'static str,
    figure: Figure,
    /// Its absence means something: the others are missing whenever nobody asks.
    always: bool,
}

const fn watched(name: &'static str, rule: &'static str, component: &'static str, unit: &'static str, kind: Kind, floor: f64) -> Watched {
    Watched { name, rule, component, unit, figure: Figure { kind, floor }, always: matches!(kind, Kind::Level) }
}

/// The last number of each is the least difference that matters, in its unit.
const FIGURES: [Watched; 7] = [
    watched("cpu_percent", "cpu_percent", "cpu", "%", Kind::Level, 5.0),
    watched("memory_percent", "memory_percent", "memory", "%", Kind::Level, 2.0),
    watched("disk_percent", "disk_percent", "disk", "%", Kind::Level, 1.0),
    watched("open_files_percent", "open_files_percent", "memory", "%", Kind::Level, 2.0),
    watched("p95_ms", "api_p95_ms", "api", "ms", Kind::Latency, 50.0),
    watched("database_ms", "", "database", "ms", Kind::Latency, 20.0),
    watched("api_failed", "", "api", "requests", Kind::Count, 1.0),
];

pub(super) fn spec() -> TaskSpec {
    TaskSpec::new(
        "ops_sentinel",
        "alert",
        Schedule::every(180),
        "Watches CPU, memory, disk, open files, clock and own latency for limits and oddities.",
    )
    .runs(|run| Box::pin(work(run)))
    .leaves(None, Some("ops_sentinel.ndjson"))
    .timeout_s(60)
}

async fn work(run: Run) -> Result<Record> {
    let env = &run.env;
    let at = env.now().timestamp();
    let values = measured(env).await?;
    let skew_s = measure::clock_skew_s(env).await;
    let (past, seasons) = (env.store().figure_samples(at).await?, env.store().figure_seasons().await?);
    let open = env.store().live_incidents(env.now()).await?;
    let troubled: BTreeSet<String> = open.into_iter().filter(|i| i.state == State::Open).map(|i| i.key).collect();
    let times: BTreeSet<i64> = past.values().flatten().map(|sample| sample.at).collect();
    let (mut record, mut warnings, mut anomalies, mut samples, mut checks) =
        (Record::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for watched in &FIGURES {
        let Watched { name, unit, .. } = *watched;
        let value = values[name];
        record.insert(name.into(), json!(value));
        let past = past.get(name).map_or(&[][..], Vec::as_slice);
        let limit = limit(env, watched);
        let over = value.zip(limit).filter(|(value, limit)| value > limit);
        if let Some((value, limit)) = over {
            warnings.push(json!({"figure": name, "value": value, "limit": limit, "reason": format!("{name} is {value:.1} {unit}, above {limit} {unit}")}));
        }
        let Some(value) = value else {
            let missing = 1 + past.last().map_or(0, |last| times.range(last.at + 1..).count());
            if let Some(reason) = anomaly::gone(past.len(), missing).filter(|_| watched.always) {
                anomalies.push(json!({"figure": name, "value": null, "score": 1.0, "reason": reason}));
                checks.push(unlike(name, Some(false), None, reason));
            }
            continue;
        };
        let none = Season::default();
        let was = past.last().is_some_and(|last| last.left_out);
        let judged = anomaly::judge(watched.figure, past, seasons.get(name).unwrap_or(&none), at, value, was && last_alarmed(past));
        if judged.alarm {
            let methods: Vec<&str> = judged.votes.iter().filter(|vote| vote.beyond).map(|vote| vote.method).collect();
            anomalies
                .push(json!({"figure": name, "value": value, "score": round(judged.score), "methods": methods, "reason": judged.reason}));
        }
        let left_out = judged.alarm || troubled.contains(watched.component);
        samples.push(NewSample { figure: name, sample: Sample { at, value, odd: judged.odd, left_out } });
        // Over its limit it is an alert already; that it is unusual too is no second one.
        let ok = (past.len() >= anomaly::WARM_UP).then_some(!judged.alarm || over.is_some());
        checks.push(unlike(name, ok, Some(format!("{value:.1} {unit}")), judged.reason));
    }
    record.insert("clock_skew_s".into(), json!(skew_s));
    if let Some(skew) = skew_s.filter(|s| s.abs() > SKEW_S) {
        warnings.push(json!({"figure": "clock_skew_s", "value": skew, "limit": SKEW_S, "reason": format!("our clock is {skew} s off the provider's")}));
    }
    env.store().put_figures(&samples, at).await?;
    checks.extend(by_rules(env, &values, skew_s));
    alert::evaluate(env, checks).await?;
    record.insert("ok".into(), warnings.is_empty().into());
    record.insert("warnings".into(), warnings.into());
    record.insert("anomalies".into(), anomalies.into());
    Ok(record)
}

/// Whether the samples end in an alarm, and not only in an incident about the same.
fn last_alarmed(past: &[Sample]) -> bool {
    past.iter().rev().take(5).any(|sample| sample.odd)
}

async fn measured(env: &Env) -> Result<BTreeMap<&'static str, Option<f64>>> {
    let usage = measure::usage(env).await?;
    let judged = slo::judged(env, "sentinel").await?;
    let start = Instant::now();
    let database_ms = env.store().ping().await.is_ok().then(|| start.elapsed().as_secs_f64() * 1e3);
    Ok([
        ("cpu_percent", usage.cpu_percent),
        ("memory_percent", usage.memory_percent),
        ("disk_percent", usage.disk_percent),
        ("open_files_percent", usage.open_files_percent()),
        ("p95_ms", judged.verdict.p95_ms),
        ("database_ms", database_ms),
        ("api_failed", (judged.verdict.n > 0).then_some(judged.verdict.bad as f64)),
    ]
    .into())
}

fn limit(env: &Env, watched: &Watched) -> Option<f64> {
    match watched.unit {
        "%" => Some(env.config().alert.warn_percent),
        "ms" => Some(env.config().alert.slow_ms),
        _ => None,
    }
}

/// The checks of the rules that are about these figures: the same alerts that `production_alerts` raises, found sooner.
fn by_rules(env: &Env, values: &BTreeMap<&'static str, Option<f64>>, skew_s: Option<i64>) -> Vec<Check> {
    let of = |watched: &Watched| alert_rule::Sample::new(watched.rule, values[watched.name]);
    let mut samples: Vec<_> = FIGURES.iter().filter(|watched| !watched.rule.is_empty()).map(of).collect();
    samples.push(alert_rule::Sample::new("clock_skew_s", skew_s.map(|s| s.abs() as f64)));
    alert_rule::judge(env.config().rules.rules(), &samples)
}

fn unlike(figure: &str, ok: Option<bool>, value: Option<String>, reason: String) -> Check {
    Check {
        name: format!("sentinel_{figure}"),
        system: "sentinel",
        ok,
        severity: Severity::Warning,
        value,
        threshold: "like the last day".into(),
        reason,
        ..Check::default()
    }
}

fn round(score: f64) -> f64 {
    (score * 1000.0).round() / 1000.0
}
