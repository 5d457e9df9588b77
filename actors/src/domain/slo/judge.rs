//! The verdict over the evaluation window: PASS, FAIL or NO_DATA, with the rule that decided and a sentence. Used by the status endpoint,
//! the monitor and the guard alike, so that the three can never disagree. Integers decide; floats are for display and for the interval.

use super::{Counts, Level, Minute, Objective, PPM};

/// The 95 % quantile of the normal distribution, two-sided.
const Z: f64 = 1.959_963_984_540_054;
/// Below `min_events` a single bad event proves nothing, and neither do two.
const SMALL_SAMPLE_BAD: u64 = 3;

/// What the window says. Written `PASS`, `FAIL`, `NO_DATA`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    Pass,
    Fail,
    NoData,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::NoData => "NO_DATA",
        }
    }
}

/// The verdict with everything that explains it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Verdict {
    pub status: Status,
    /// True exactly when `status` is FAIL.
    pub breach: bool,
    /// The 95th percentile of the successful answers in milliseconds, from the histogram: for display, the counters decide.
    pub p95_ms: Option<f64>,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    /// 0..1, cut (not rounded) to 6 decimals, so that a rate below the target never looks like the target.
    pub success_rate: Option<f64>,
    /// Requests in the window.
    pub n: u64,
    pub bad: u64,
    pub slow: u64,
    /// The Wilson 95 % interval of the error rate.
    pub error_rate_interval: Option<(f64, f64)>,
    /// Which rule decided: `no_data`, `success_rate`, `success_rate_small_sample`, `p95`, `p95_small_sample` or `within_objective`.
    pub rule: &'static str,
    /// The same as a sentence with the numbers.
    pub clause: String,
    /// Minutes observed / minutes of the window, 0..1.
    pub coverage: f64,
}

/// Judges the last `window_minutes` minutes up to and including `now_minute` (minutes since the epoch), which may still be open.
/// Minutes outside the window are ignored, so the caller may hand in more.
pub fn judge<'a>(objective: &Objective, minutes: impl IntoIterator<Item = &'a Minute>, now_minute: i64) -> Verdict {
    let window = objective.window_minutes.max(1);
    let mut sum = Minute::new(now_minute);
    let mut observed = std::collections::BTreeSet::new();
    for minute in minutes.into_iter().filter(|m| m.minute <= now_minute && m.minute > now_minute.saturating_sub(window)) {
        sum.merge(minute);
        observed.insert(minute.minute);
    }
    let (status, rule, clause) = decide(&objective.level(), &sum.counts(), &format!("in the last {} minutes", objective.window_minutes));
    Verdict {
        status,
        breach: status == Status::Fail,
        p95_ms: sum.latency.quantile_ms(950_000),
        p50_ms: sum.latency.quantile_ms(500_000),
        p99_ms: sum.latency.quantile_ms(990_000),
        success_rate: floored_share(sum.succeeded(), sum.total),
        n: sum.total,
        bad: sum.bad,
        slow: sum.slow,
        error_rate_interval: wilson(sum.bad, sum.total),
        rule,
        clause,
        coverage: floored_share(observed.len() as u64, window.unsigned_abs()).unwrap_or(0.0),
    }
}

/// Status, rule and sentence for these sums; `span` says of which time they are.
pub(super) fn decide(level: &Level, sum: &Counts, span: &str) -> (Status, &'static str, String) {
    let (n, answered) = (sum.total, sum.succeeded());
    if n == 0 {
        return (Status::NoData, "no_data", format!("no requests {span}"));
    }
    if let Some(success_ppm) = level.success_ppm {
        let errors = Share { what: "failed", bad: sum.bad, n, allowed_ppm: PPM.saturating_sub(success_ppm) };
        if let Some((small, clause)) = errors.broken(level.min_events) {
            return (Status::Fail, if small { "success_rate_small_sample" } else { "success_rate" }, clause);
        }
    }
    if let Some(latency) = level.latency {
        let slow = Share { what: "answered too slowly", bad: sum.slow, n: answered, allowed_ppm: PPM.saturating_sub(latency.share_ppm) };
        if let Some((small, clause)) = slow.broken(level.min_events) {
            let clause = format!("{clause}; slow is more than {} ms", latency.ms);
            return (Status::Fail, if small { "p95_small_sample" } else { "p95" }, clause);
        }
    }
    let few = if n < level.min_events { " (few events: only a clear breach would fail)" } else { "" };
    let slow = if level.latency.is_some() { format!(", {} of {answered} were slow", sum.slow) } else { String::new() };
    (Status::Pass, "within_objective", format!("{} of {n} requests failed{slow}: within the objective{few}", sum.bad))
}

/// One ratio against what is allowed of it.
struct Share {
    what: &'static str,
    bad: u64,
    n: u64,
    allowed_ppm: u64,
}

impl Share {
    /// Whether the allowed share is exceeded, whether by the small-sample rule, and the sentence. With `min_events` and more the counters
    /// decide exactly: good < ceil(target * n) <=> bad * 10^6 > allowed * n. With fewer, the interval must lie above what is allowed.
    fn broken(&self, min_events: u64) -> Option<(bool, String)> {
        let Self { what, bad, n, allowed_ppm } = *self;
        let allowed = allowed_ppm as f64 / PPM as f64;
        let percent = allowed_ppm as f64 / 10_000.0;
        if n >= min_events {
            let over = u128::from(bad) * u128::from(PPM) > u128::from(allowed_ppm) * u128::from(n);
            return over.then(|| (false, format!("{bad} of {n} requests {what}, more than the {percent} % allowed")));
        }
        let (low, high) = wilson(bad, n)?;
        let clause = || {
            format!(
                "{bad} of only {n} requests {what}: with 95 % confidence {:.1} to {:.1} %, more than the {percent} % allowed",
                low * 100.0,
                high * 100.0
            )
        };
        (bad >= SMALL_SAMPLE_BAD && low > allowed).then(|| (true, clause()))
    }
}

/// The Wilson score interval (95 %) of `bad` out of `n`; `None` for n = 0.
pub fn wilson(bad: u64, n: u64) -> Option<(f64, f64)> {
    if n == 0 {
        return None;
    }
    let count = n as f64;
    let rate = bad.min(n) as f64 / count;
    let middle = rate + Z * Z / (2.0 * count);
    let half = Z * (rate * (1.0 - rate) / count + Z * Z / (4.0 * count * count)).sqrt();
    let scale = 1.0 + Z * Z / count;
    // Without a bad event the lower bound is zero, which the rounding of floats would just miss.
    let low = if bad == 0 { 0.0 } else { ((middle - half) / scale).max(0.0) };
    Some((low, ((middle + half) / scale).min(1.0)))
}

/// part / whole cut to 6 decimals.
pub(super) fn floored_share(part: u64, whole: u64) -> Option<f64> {
    if whole == 0 {
        return None;
    }
    let millionths = u128::from(part.min(whole)) * u128::from(PPM) / u128::from(whole);
    Some(millionths as f64 / PPM as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 29_000_000;

    fn minute(at: i64, fast: u64, slow: u64, bad: u64) -> Minute {
        let mut minute = Minute::new(at);
        (0..fast).for_each(|_| minute.record(850_000, false, 1200));
        (0..slow).for_each(|_| minute.record(2_000_000, false, 1200));
        (0..bad).for_each(|_| minute.record(1_000, true, 1200));
        minute
    }

    fn verdict(fast: u64, slow: u64, bad: u64) -> Verdict {
        judge(&Objective::default(), [&minute(NOW, fast, slow, bad)], NOW)
    }

    #[test]
    fn the_verdict_by_numbers_of_fast_slow_and_failed_requests() {
        use Status::{Fail, NoData, Pass};
        let cases = [
            ((0, 0, 0), NoData, "no_data"),
            ((1, 0, 0), Pass, "within_objective"),
            ((0, 0, 1), Pass, "within_objective"),
            ((0, 0, 2), Pass, "within_objective"),
            ((0, 0, 3), Fail, "success_rate_small_sample"),
            ((16, 0, 3), Fail, "success_rate_small_sample"),
            ((17, 0, 2), Pass, "within_objective"),
            ((19, 0, 1), Fail, "success_rate"),
            ((49, 0, 1), Pass, "within_objective"),
            ((48, 0, 1), Fail, "success_rate"),
            ((98, 0, 2), Pass, "within_objective"),
            ((97, 0, 3), Fail, "success_rate"),
            ((0, 2, 0), Pass, "within_objective"),
            ((0, 3, 0), Fail, "p95_small_sample"),
            ((19, 1, 0), Pass, "within_objective"),
            ((18, 2, 0), Fail, "p95"),
            ((95, 5, 0), Pass, "within_objective"),
            ((94, 6, 0), Fail, "p95"),
            ((0, 100, 100), Fail, "success_rate"),
        ];
        for ((fast, slow, bad), status, rule) in cases {
            let verdict = verdict(fast, slow, bad);
            assert_eq!((verdict.status, verdict.rule), (status, rule), "{fast} fast, {slow} slow, {bad} bad: {}", verdict.clause);
            assert_eq!(verdict.breach, status == Fail);
        }
    }

    #[test]
    fn no_data_has_no_numbers() {
        let verdict = verdict(0, 0, 0);
        assert_eq!((verdict.p95_ms, verdict.success_rate, verdict.error_rate_interval), (None, None, None));
        assert_eq!(serde_json::to_value(verdict.status).unwrap(), serde_json::json!("NO_DATA"));
        assert_eq!((Status::Pass.as_str(), Status::Fail.as_str()), ("PASS", "FAIL"));
    }

    #[test]
    fn the_window_ends_with_the_open_minute_and_ignores_everything_else() {
        let minutes = [minute(NOW + 1, 0, 0, 50), minute(NOW, 40, 0, 0), minute(NOW - 59, 20, 0, 0), minute(NOW - 60, 0, 0, 50)];
        let verdict = judge(&Objective::default(), &minutes, NOW);
        assert_eq!((verdict.n, verdict.bad, verdict.status), (60, 0, Status::Pass));
        assert!((verdict.coverage - 0.033_333).abs() < 1e-9);
    }

    #[test]
    fn the_rate_is_cut_towards_failure_and_the_percentile_is_close() {
        let verdict = verdict(2, 0, 1);
        assert_eq!(verdict.success_rate, Some(0.666_666));
        assert!((verdict.p95_ms.unwrap() - 850.0).abs() <= 850.0 * 0.005);
        assert_eq!(floored_share(9_989_999, 10_000_000), Some(0.998_999));
    }

    #[test]
    fn the_wilson_interval_matches_published_values() {
        let cases = [(0, 10, 0.0, 0.277_5), (1, 10, 0.017_9, 0.404_2), (3, 19, 0.055_2, 0.375_7), (10, 10, 0.722_5, 1.0)];
        for (bad, n, low, high) in cases {
            let (l, h) = wilson(bad, n).unwrap();
            assert!((l - low).abs() < 1e-4 && (h - high).abs() < 1e-4, "{bad} of {n}: {l} {h}");
        }
        assert_eq!(wilson(0, 0), None);
    }

    proptest! {
        #[test]
        fn with_enough_events_the_counter_rule_is_the_nearest_rank_rule(fast in 0u64..400, slow in 0u64..400) {
            prop_assume!(fast + slow >= 20);
            let n = fast + slow;
            let rank = (n * 95).div_ceil(100);
            prop_assert_eq!(verdict(fast, slow, 0).status == Status::Fail, fast < rank);
        }
    }
}
