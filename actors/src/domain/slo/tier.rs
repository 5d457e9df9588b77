//! When a burning budget is told: four tiers of two windows each, and the absolute rule for few events. A tier does not fire on what chance
//! alone explains. Used by `burn.rs`, and by `level.rs` for what can never fire.

use super::{
    Level, PPM,
    series::{Indicator, Series},
    wilson,
};

/// A tier burns when both windows use up the budget faster than `budget_percent` of it per long window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tier {
    /// `page` or `ticket`.
    pub severity: &'static str,
    pub long: &'static str,
    pub short: &'static str,
    pub long_minutes: i64,
    pub short_minutes: i64,
    pub budget_percent: u32,
}

impl Tier {
    /// The worst first.
    pub const ALL: [Self; 4] = [
        Self { severity: "page", long: "1h", short: "5m", long_minutes: 60, short_minutes: 5, budget_percent: 2 },
        Self { severity: "page", long: "6h", short: "30m", long_minutes: 360, short_minutes: 30, budget_percent: 5 },
        Self { severity: "ticket", long: "1d", short: "2h", long_minutes: 1440, short_minutes: 120, budget_percent: 10 },
        Self { severity: "ticket", long: "3d", short: "6h", long_minutes: 4320, short_minutes: 360, budget_percent: 10 },
    ];

    /// Bad events needed in the long window: at ten requests an hour a single failure would page otherwise (slok/sloth#666).
    pub fn min_bad(&self) -> u64 {
        if self.severity == "page" { 3 } else { 2 }
    }

    /// The burn rate above which the tier fires: budget share * period / long window. 14.4, 6, 3 and 1 for 30 days.
    pub fn factor(&self, period_minutes: i64) -> f64 {
        (i64::from(self.budget_percent) * period_minutes) as f64 / (100 * self.long_minutes) as f64
    }

    /// Whether errors only could make it fire.
    pub fn reachable(&self, period_minutes: i64, budget_ppm: u64) -> bool {
        self.long_minutes > period_minutes || self.exceeded(period_minutes, budget_ppm, (1, 1))
    }

    /// bad / total > factor * budget, with every division multiplied out. Strict, as in Prometheus.
    pub(super) fn exceeded(&self, period_minutes: i64, budget_ppm: u64, (bad, total): (u64, u64)) -> bool {
        let wide = |value: i64| u128::from(value.max(0).unsigned_abs());
        u128::from(bad) * 100 * wide(self.long_minutes) * u128::from(PPM)
            > u128::from(self.budget_percent) * wide(period_minutes) * u128::from(budget_ppm) * u128::from(total)
    }

    /// Whether it fires at `end`: both windows burn, and the long one has enough events, enough bad ones, and with 95 % confidence more than
    /// are allowed.
    pub(super) fn at(&self, promise: &Promise, series: &Series, end: i64) -> Stand {
        let (bad, total) = series.window(end, self.long_minutes);
        let exceeded = |counters| self.exceeded(promise.period, promise.budget_ppm, counters);
        let burning = exceeded((bad, total)) && exceeded(series.window(end, self.short_minutes));
        let held_by = if !burning {
            None
        } else if bad < self.min_bad() {
            Some("min_bad")
        } else if total < promise.min_events {
            Some("min_events")
        } else if !promise.is_exceeded_surely(bad, total) {
            Some("interval")
        } else {
            None
        };
        Stand { burning, firing: burning && held_by.is_none(), held_by }
    }
}

/// How a tier stands at one minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stand {
    pub(super) burning: bool,
    pub(super) firing: bool,
    pub(super) held_by: Option<&'static str>,
}

/// One indicator of a level with its numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Promise {
    pub(super) indicator: Indicator,
    pub(super) budget_ppm: u64,
    /// The nominal length of the window in minutes: what the factors refer to.
    pub(super) period: i64,
    /// The budget's window at this instant.
    pub(super) from: i64,
    pub(super) until: i64,
    /// Below this many events no tier fires. Slices of time are not events: of them none is demanded.
    min_events: u64,
    /// The same for the absolute rule: so few good events are few.
    pub(super) few: u64,
}

impl Promise {
    pub(super) fn new(level: &Level, indicator: Indicator, now: i64) -> Self {
        let (from, until) = level.window.at(now);
        let min_events = if level.slices.is_some() { 0 } else { level.min_events };
        Self {
            indicator,
            budget_ppm: indicator.budget_ppm(level),
            period: level.window.days() * 1440,
            from,
            until,
            min_events,
            few: level.min_events,
        }
    }

    pub(super) fn tiers(&self) -> impl Iterator<Item = Tier> + use<> {
        let period = self.period;
        Tier::ALL.into_iter().filter(move |tier| tier.long_minutes <= period)
    }

    /// With 95 % confidence more are bad than allowed.
    fn is_exceeded_surely(&self, bad: u64, total: u64) -> bool {
        wilson(bad, total).is_some_and(|(low, _)| low > self.budget_ppm as f64 / PPM as f64)
    }

    /// (bad, good, firing) of the absolute rule at `end`.
    pub(super) fn absolute(&self, series: &Series, end: i64) -> (u64, u64, bool) {
        let (bad, total) = series.window(end, ABSOLUTE_MINUTES);
        let good = total.saturating_sub(bad);
        (bad, good, bad >= ABSOLUTE_BAD && good < self.few && self.is_exceeded_surely(bad, total))
    }
}

/// The absolute rule looks at the last six hours ...
const ABSOLUTE_MINUTES: i64 = 360;
/// ... and wants as many bad events, while fewer than `min_events` were good: a trickle that has died must page, too.
pub(super) const ABSOLUTE_BAD: u64 = 3;
