//! Service levels: the minutes that requests are counted in, the verdict over the evaluation window and the burn of the error budget.
//! Called by the slo actor, by its two tasks and by the status endpoint. Verdicts come from exact integer counters; the histogram only
//! supplies the percentiles that are shown. No clock: the caller names the minute.

mod absence;
mod burn;
mod histogram;
mod judge;
mod level;
mod minute;
pub mod openslo;
mod series;
mod standing;
mod tier;
mod track;

use serde_json::{Value, json};

pub use absence::{Absence, absence};
pub use burn::{Absolute, Budget, BurnRates, Fired, ObjectiveReport, Report, TierState, burn, burn_down, fired_between};
pub use histogram::{ERROR_BOUND, Histogram};
pub use judge::{Status, Verdict, judge, wilson};
pub use level::{Latency, Level, MAX_WINDOW_DAYS, Slices, Unit, Window};
pub use minute::{Counts, Minute};
pub use standing::{Excluded, Judgement, Standing, stand};
pub use tier::Tier;
pub use track::{Track, hour_of, pack, unpack};

/// One million: shares are in parts per million.
pub(crate) const PPM: u64 = 1_000_000;

/// What was promised. The defaults are those of the settings `slo.*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Objective {
    /// A successful answer is fast up to and including this many milliseconds.
    pub p95_ms: u64,
    /// The share of requests that must succeed, in ppm.
    pub success_ppm: u64,
    /// The share of successful answers that must be fast, in ppm.
    pub latency_share_ppm: u64,
    /// The evaluation window of the verdict, in minutes, the current one included.
    pub window_minutes: i64,
    /// Below this many events the small-sample rule decides.
    pub min_events: u64,
    /// The period of the error budget, in days.
    pub period_days: i64,
}

impl Default for Objective {
    fn default() -> Self {
        Self { p95_ms: 1200, success_ppm: 980_000, latency_share_ppm: 950_000, window_minutes: 60, min_events: 20, period_days: 30 }
    }
}

impl Objective {
    /// Refuses what cannot be judged (a target of 100 % leaves no budget); the error names the field.
    pub fn validate(&self) -> Result<(), String> {
        let share = |name: &str, ppm: u64| {
            if (1..PPM).contains(&ppm) { Ok(()) } else { Err(format!("{name}: {ppm} ppm is not between 0 and 100 %, both excluded")) }
        };
        share("success_ppm", self.success_ppm)?;
        share("latency_share_ppm", self.latency_share_ppm)?;
        if self.p95_ms == 0 {
            return Err("p95_ms: 0 ms is faster than anything".to_owned());
        }
        if !(1..=1440).contains(&self.window_minutes) {
            return Err(format!("window_minutes: {} is not between 1 and 1440", self.window_minutes));
        }
        if !(4..=90).contains(&self.period_days) {
            return Err(format!("period_days: {} is not between 4 and 90", self.period_days));
        }
        Ok(())
    }

    /// The same as an objective among others: of the service `api`, whose silence is nobody's fault.
    pub fn level(&self) -> Level {
        Level {
            name: "api".to_owned(),
            service: "api".to_owned(),
            success_ppm: Some(self.success_ppm),
            latency: Some(Latency { ms: self.p95_ms, share_ppm: self.latency_share_ppm }),
            window: Window::Rolling { days: self.period_days },
            min_events: self.min_events,
            slices: None,
            no_data: false,
        }
    }
}

/// The `details` object of the status answer and of `logs/slo_status.json`: the verdict's numbers, the report and the sketch's bound.
/// `evaluated_at` is RFC 3339; `evaluator` is `monitor`, `guard` or `request`.
pub fn details(objective: &Objective, verdict: &Verdict, report: &Report, evaluated_at: &str, evaluator: &str) -> Value {
    json!({
        "window_s": objective.window_minutes * 60,
        "n": verdict.n,
        "bad": verdict.bad,
        "slow": verdict.slow,
        "coverage": verdict.coverage,
        "state": verdict.status,
        "rule": verdict.rule,
        "clause": verdict.clause,
        "error_rate_interval": verdict.error_rate_interval,
        "targets": objective,
        "gate": report.gate,
        "breach": report.breach,
        "worst": report.worst,
        "objectives": report.objectives,
        "sketch": {"alpha": ERROR_BOUND, "p50_ms": verdict.p50_ms, "p95_ms": verdict.p95_ms, "p99_ms": verdict.p99_ms},
        "evaluated_at": evaluated_at,
        "evaluator": evaluator,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_a_perfect_target_is_not() {
        assert_eq!(Objective::default().validate(), Ok(()));
        let wrong = [
            Objective { success_ppm: 1_000_000, ..Objective::default() },
            Objective { latency_share_ppm: 0, ..Objective::default() },
            Objective { p95_ms: 0, ..Objective::default() },
            Objective { window_minutes: 0, ..Objective::default() },
            Objective { period_days: 3, ..Objective::default() },
        ];
        assert!(wrong.iter().all(|objective| objective.validate().is_err()));
    }

    #[test]
    fn the_details_have_the_published_members() {
        let mut minute = Minute::new(1000);
        minute.record(250_000, false, 1200);
        let objective = Objective::default();
        let verdict = judge(&objective, [&minute], 1000);
        let report = burn(&objective.level(), [&minute], 1001);
        let details = details(&objective, &verdict, &report, "2025-10-20T17:00:00Z", "monitor");
        assert_eq!((&details["n"], &details["state"], &details["sketch"]["alpha"]), (&json!(1), &json!("PASS"), &json!(0.005)));
        let objectives = details["objectives"].as_array().unwrap();
        assert_eq!(objectives.len(), 2);
        for member in ["name", "kind", "target_ppm", "period_s", "sli", "budget", "burn", "tiers"] {
            assert!(objectives[0].get(member).is_some(), "{member}");
        }
        assert_eq!(objectives[0]["burn"]["5m"], json!(0.0));
        assert_eq!(objectives[1]["threshold_ms"], json!(1200));
    }
}
