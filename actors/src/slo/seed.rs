//! The seed's service level (phase 68): one verdict on the daemon's own requests over the evaluation window, with trial payments standing in
//! where there are few. Asked by the slo actor, and by the proof of restore from what a store has written down.

use serde_json::{Value as Json, json};

use super::{API, Tracks, stand::excluded};
use crate::{
    config::Config,
    domain::slo::{Counts, Minute, Report, Track, Verdict, burn, details, judge},
    env::rfc3339,
    error::Result,
    operations::canary,
    store::Store,
};

/// Judges requests, and trials where there are few requests; the last is the body of `GET /api/slo/status`.
pub(super) fn judge_all(
    config: &Config,
    tracks: &Tracks,
    excluded: &[(String, crate::domain::slo::Excluded)],
    now: chrono::DateTime<chrono::Utc>,
    evaluator: &str,
) -> (Verdict, Report, Json) {
    let objective = config.objective();
    let minute = Minute::of(now);
    let nothing = Track::new();
    let of = |service: &str| tracks.get(service).map_or(&nothing, |track| &**track);
    let counts_of = |service: &str, at: i64| excluded.iter().any(|(whose, e)| (whose.is_empty() || whose == service) && e.covers(at));
    let window = |service: &'static str| {
        let minutes = of(service).minutes(minute - objective.window_minutes, minute + 1);
        minutes.filter(|m| !counts_of(service, m.minute)).collect::<Vec<Minute>>()
    };
    let (requests, trials) = (window(API), window(canary::SERVICE));
    let tried = judge(&objective, &trials, minute);
    let few = judge(&objective, &requests, minute).n < objective.min_events;
    // Their latency is that of another thing, so only whether they failed counts with the requests'.
    let stand_ins: Vec<Minute> = if few { trials.iter().map(outcomes).collect() } else { Vec::new() };
    let verdict = judge(&objective, requests.iter().chain(&stand_ins), minute);
    let period = |service: &'static str| {
        let counts = of(service).counts(minute - objective.period_days * 1440, minute);
        counts.filter(|m| !counts_of(service, m.minute)).collect::<Vec<Counts>>()
    };
    let mut all = period(API);
    if few {
        all.extend(period(canary::SERVICE).into_iter().map(|m| Counts { slow: 0, ..m }));
    }
    let report = burn(&objective.level(), all, minute);
    let at = rfc3339(now);
    let mut explained = details(&objective, &verdict, &report, &at, evaluator);
    explained["canary"] = json!({
        "n": tried.n, "bad": tried.bad, "slow": tried.slow, "p50_ms": tried.p50_ms, "p95_ms": tried.p95_ms,
        "counted": !stand_ins.is_empty(),
    });
    let from = minute - objective.period_days * 1440;
    let shown = excluded.iter().filter(|(whose, e)| (whose.is_empty() || whose == API) && e.until > from && e.from <= minute);
    explained["excluded"] = shown.map(|(_, e)| json!(e)).collect();
    let status = json!({
        "ok": true,
        "ts_iso": at,
        "status": verdict.status.as_str(),
        "breach": verdict.breach,
        "p95_ms": verdict.p95_ms,
        "success_rate": verdict.success_rate,
        "details": explained,
    });
    (verdict, report, status)
}

/// The body of `GET /api/slo/status` as of `at`, from what a store has written down: the proof of restore asks two of them.
pub async fn judged_from(store: &Store, config: &Config, at: chrono::DateTime<chrono::Utc>) -> Result<Json> {
    let objective = config.objective();
    let (from, until) = (Minute::of(at) - objective.period_days * 1440, Minute::of(at));
    let mut tracks = Tracks::new();
    for service in [API, canary::SERVICE] {
        let stored = store.track(service, from, until - objective.window_minutes).await?;
        // The minute that was open is another in each.
        let mut closed = Track::new();
        stored.minutes(from, until).for_each(|minute| closed.add(&minute));
        tracks.insert(service.into(), closed.into());
    }
    let excluded = excluded(store, config, at).await?;
    Ok(judge_all(config, &tracks, &excluded, at, "proof").2)
}

/// How the trials of a minute ended, without their latencies.
fn outcomes(minute: &Minute) -> Minute {
    Minute { total: minute.total, bad: minute.bad, ..Minute::new(minute.minute) }
}
