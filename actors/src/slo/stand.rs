//! Every objective judged: the report, one of them with its charts and the money in its bad minutes, what fired since the last look, and
//! events that others push. Called by the gateway, the guard, the metrics. It asks the slo actor for the minutes and judges off its thread.

use chrono::{DateTime, Utc};
use serde_json::{Value as Json, json};

use super::{Tracks, at_risk, money, tracks};
use crate::{
    config::Config,
    domain::{
        schedule::Blackout,
        slo::{Counts, Excluded, Fired, Histogram, Level, Minute, Standing, Window, burn_down, fired_between, stand},
    },
    env::{Env, blocking, rfc3339},
    error::{Error, Result},
    store::Store,
};

/// A pushed sample may be this much ahead of our clock, and this old.
const AHEAD_MINUTES: i64 = 5;
const BACK_DAYS: i64 = 35;
/// More alike in one sample than this is a mistake.
const MOST: u64 = 1_000_000;
/// Points of a chart.
const POINTS: i64 = 240;

/// What of the last days does not count, by service ('' is all).
pub(super) async fn excluded(store: &Store, config: &Config, now: DateTime<Utc>) -> Result<Vec<(String, Excluded)>> {
    let entries = store.excluded_since(now, config.keep_days()).await?;
    let entries = entries.into_iter().filter_map(|entry| Some((entry.service.clone(), entry.excluded()?)));
    let (from, until) = (Minute::of(now) - config.keep_days() * 1440, Minute::of(now) + 1);
    let windows = config.notify.maintenance.iter().filter_map(|text| Blackout::parse(text, None).ok()); // refused when the settings were read
    let windows = windows.flat_map(|window| window.between(from, until).into_iter().map(move |times| (window.as_str().to_owned(), times)));
    let entry = |(reason, (from, until))| Excluded {
        id: format!("notify.maintenance: {reason}"),
        kind: "maintenance".into(),
        from,
        until,
        reason,
        author: "the configuration".into(),
    };
    Ok(entries.chain(windows.map(|window| (String::new(), entry(window)))).collect())
}

fn of_service(excluded: &[(String, Excluded)], service: &str) -> Vec<Excluded> {
    excluded.iter().filter(|(whose, _)| whose.is_empty() || whose == service).map(|(_, e)| e.clone()).collect()
}

/// All that is needed to judge.
struct Desk {
    now: DateTime<Utc>,
    tracks: Tracks,
    excluded: Vec<(String, Excluded)>,
    watched_since: i64,
}

impl Desk {
    async fn new(env: &Env) -> Result<Self> {
        let now = env.now();
        let watched_since = Minute::of(env.started_at());
        Ok(Self { now, tracks: tracks(env).await?, excluded: excluded(env.store(), env.config(), now).await?, watched_since })
    }

    /// The minutes that judging this level at `now` may need: its window, the longest tier, and a week for what is usual.
    fn counts(&self, level: &Level) -> Vec<Counts> {
        let now = Minute::of(self.now);
        let from = level.window.at(now).0.min(now - level.window.days().max(15) * 1440);
        self.tracks.get(level.service.as_str()).map(|track| track.counts(from, now + 1).collect()).unwrap_or_default()
    }

    fn stand(&self, level: &Level) -> Standing {
        stand(level, self.counts(level), &of_service(&self.excluded, &level.service), self.watched_since, Minute::of(self.now))
    }
}

/// How every objective stands.
pub async fn standings(env: &Env) -> Result<(DateTime<Utc>, Vec<Standing>)> {
    let (desk, levels) = (Desk::new(env).await?, env.config().levels());
    blocking(move || Ok((desk.now, levels.iter().map(|level| desk.stand(level)).collect()))).await
}

/// The body of `GET /api/slo/report`, and the error-budget report of the guard.
pub async fn report(env: &Env) -> Result<Json> {
    let (now, standings) = standings(env).await?;
    Ok(report_of(env, now, &standings))
}

/// The same of standings that are known.
pub fn report_of(env: &Env, now: DateTime<Utc>, standings: &[Standing]) -> Json {
    let count = |status: &str| standings.iter().filter(|s| s.verdict.status.as_str() == status).count();
    json!({
        "ok": true,
        "ts_iso": rfc3339(now),
        "counts": {"PASS": count("PASS"), "FAIL": count("FAIL"), "NO_DATA": count("NO_DATA")},
        "breach": standings.iter().any(|s| s.report.breach),
        "count": standings.len(),
        "objectives": standings.iter().map(Standing::to_json).collect::<Vec<_>>(),
        "warnings": env.config().level_warnings(),
    })
}

/// What fired at any closed minute in (since, now], by objective.
pub async fn fired(env: &Env, since: i64) -> Result<Vec<(String, Vec<Fired>)>> {
    let (desk, levels) = (Desk::new(env).await?, env.config().levels());
    blocking(move || {
        let now = Minute::of(desk.now);
        let of = |level: &Level| {
            let excluded = of_service(&desk.excluded, &level.service);
            let counts = desk.counts(level).into_iter().filter(|m| !excluded.iter().any(|e| e.covers(m.minute)));
            (level.name.clone(), fired_between(level, counts, since, now))
        };
        Ok(levels.iter().map(of).filter(|(_, fired)| !fired.is_empty()).collect())
    })
    .await
}

/// One objective with its charts, and the payments in its bad minutes. Errors: `not_found`.
pub async fn detail(env: &Env, name: &str) -> Result<Json> {
    let levels = env.config().levels();
    let level = levels.into_iter().find(|level| level.name == name);
    let level = level.ok_or_else(|| Error::not_found(format!("there is no objective named {name}")))?;
    let desk = Desk::new(env).await?;
    let (now, service) = (Minute::of(desk.now), level.service.clone());
    let (from, until) = level.window.at(now);
    let (level, standing, burned, counts) = blocking(move || {
        let standing = desk.stand(&level);
        let counts: Vec<Counts> =
            desk.counts(&level).into_iter().filter(|m| !standing.excluded.iter().any(|e| e.covers(m.minute))).collect();
        let step = ((now - from) / POINTS).max(1);
        let burned: Vec<Json> = standing.report.objectives.iter().map(|o| down(&level, &counts, now, until, o.name, step)).collect();
        Ok((level, standing, burned, counts))
    })
    .await?;
    let latencies = env.store().latencies(&service, from.min(now - 1440), now).await?;
    let mut body = standing.to_json();
    body["ok"] = true.into();
    body["ts_iso"] = rfc3339(env.now()).into();
    body["from"] = time(from);
    body["until"] = time(until);
    body["zone"] = match level.window {
        Window::Calendar { zone, .. } => zone.name().into(),
        Window::Rolling { .. } => Json::Null,
    };
    body["burn_down"] = burned.into();
    body["latency"] = latency_chart(&latencies, now);
    body["at_risk"] = at_risk(env, &money::bad_minutes(&counts, from, now)).await?;
    Ok(body)
}

/// The share of the budget that was left at each point, by events.
fn down(level: &Level, counts: &[Counts], now: i64, until: i64, indicator: &str, step: i64) -> Json {
    let points = burn_down(level, counts.iter().copied(), now, indicator == "latency", step);
    let target = if indicator == "latency" { level.latency.map(|l| l.share_ppm) } else { level.success_ppm }.unwrap_or(1_000_000);
    // What the whole window allows so far: the line ends where the budget stands now.
    let allowed = points.last().map_or(0.0, |(_, _, total)| *total as f64 * (1_000_000 - target) as f64 / 1e6);
    let left = |bad: u64| if allowed > 0.0 { ((1.0 - bad as f64 / allowed) * 1e4).round() / 1e4 } else { 1.0 };
    let points: Vec<Json> = points.iter().map(|(minute, bad, total)| json!([minute * 60, left(*bad), bad, total])).collect();
    json!({"name": indicator, "until": until * 60, "points": points})
}

/// Quantiles of the last day, in quarters of an hour.
fn latency_chart(latencies: &[(i64, i64, Histogram)], now: i64) -> Json {
    const STEP: i64 = 15;
    let mut merged: std::collections::BTreeMap<i64, Histogram> = std::collections::BTreeMap::new();
    for (minute, _, histogram) in latencies.iter().filter(|(minute, ..)| *minute >= now - 1440) {
        merged.entry(minute.div_euclid(STEP) * STEP).or_default().merge(histogram);
    }
    let mut all = Histogram::new();
    for histogram in merged.values() {
        all.merge(histogram);
    }
    let quantiles = |h: &Histogram| [h.quantile_ms(500_000), h.quantile_ms(950_000), h.quantile_ms(990_000)];
    let points: Vec<Json> = merged
        .iter()
        .filter(|(_, h)| h.count() > 0)
        .map(|(minute, h)| {
            let [p50, p95, p99] = quantiles(h);
            json!([minute * 60, p50, p95, p99, h.count()])
        })
        .collect();
    let [p50, p95, p99] = quantiles(&all);
    json!({"alpha": crate::domain::slo::ERROR_BOUND, "n": all.count(), "p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "points": points})
}

fn time(minute: i64) -> Json {
    DateTime::from_timestamp(minute.saturating_mul(60), 0).map(rfc3339).into()
}

/// A pushed event, or several alike.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// `push:NAME`, or `NAME` alone.
    pub service: String,
    pub ok: bool,
    #[serde(default)]
    pub latency_ms: Option<f64>,
    #[serde(default)]
    pub count: Option<u64>,
    /// When it was; now, if it is not said.
    #[serde(default)]
    pub at: Option<DateTime<Utc>>,
}

/// Counts pushed events; all of them or, with an error that names the field, none. Answers how many.
pub fn push(env: &Env, samples: &[Sample]) -> Result<u64> {
    let now = env.now();
    let levels = env.config().levels();
    let mut events = Vec::new();
    for (index, sample) in samples.iter().enumerate() {
        let field = |name: &str| if samples.len() == 1 { name.to_owned() } else { format!("events[{index}].{name}") };
        let wrong = |name: &str, what: String| Err(Error::field(field(name), format!("{} {what}", field(name))));
        let name = sample.service.strip_prefix("push:").unwrap_or(&sample.service);
        let service = format!("push:{name}");
        if !levels.iter().any(|level| level.service == service) {
            return wrong("service", format!("is not pushed to: no objective has service = \"{service}\""));
        }
        let at = Minute::of(sample.at.unwrap_or(now));
        if sample.at.is_some_and(|at| at > now + chrono::TimeDelta::minutes(AHEAD_MINUTES)) {
            return wrong("at", format!("is more than {AHEAD_MINUTES} minutes in the future"));
        }
        if at < Minute::of(now) - BACK_DAYS * 1440 {
            return wrong("at", format!("is older than {BACK_DAYS} days"));
        }
        let count = sample.count.unwrap_or(1);
        if !(1..=MOST).contains(&count) {
            return wrong("count", format!("must be 1 to {MOST}"));
        }
        let latency_ms = sample.latency_ms.unwrap_or(0.0);
        if !(0.0..=3_600_000.0).contains(&latency_ms) {
            return wrong("latency_ms", "must be 0 to 3600000".to_owned());
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and an hour")]
        let latency_us = (latency_ms * 1000.0).round() as u64;
        events.push((service, at, latency_us, !sample.ok, count));
    }
    for (service, at, latency_us, failed, count) in &events {
        env.meter().record_many(service, *at, *latency_us, *failed, *count);
    }
    Ok(events.iter().map(|(.., count)| count).sum())
}
