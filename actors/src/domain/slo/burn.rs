//! How fast the error budget burns: four tiers of two windows each (the set Sloth uses for 30 days, after the SRE workbook), the budget
//! by events, and what fired since the last look. Used by the guard, the monitor and the status endpoint. Integers decide everywhere.

use chrono::{DateTime, Utc};
use serde::ser::SerializeMap;

use super::{
    Minute, Objective, PPM,
    series::{Indicator, Series},
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
    pub fn factor(&self, objective: &Objective) -> f64 {
        (i64::from(self.budget_percent) * period_minutes(objective)) as f64 / (100 * self.long_minutes) as f64
    }

    /// bad / total > factor * budget, with every division multiplied out. Strict, as in Prometheus.
    fn exceeded(&self, objective: &Objective, budget_ppm: u64, (bad, total): (u64, u64)) -> bool {
        let wide = |value: i64| u128::from(value.max(0).unsigned_abs());
        u128::from(bad) * 100 * wide(self.long_minutes) * u128::from(PPM)
            > u128::from(self.budget_percent) * wide(period_minutes(objective)) * u128::from(budget_ppm) * u128::from(total)
    }

    /// (burning, firing): firing is burning with enough bad events.
    fn at(&self, objective: &Objective, budget_ppm: u64, series: &Series, end: i64) -> (bool, bool) {
        let long = series.window(end, self.long_minutes);
        let burning =
            self.exceeded(objective, budget_ppm, long) && self.exceeded(objective, budget_ppm, series.window(end, self.short_minutes));
        (burning, burning && long.0 >= self.min_bad())
    }
}

/// A tier and how it stands.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct TierState {
    pub severity: &'static str,
    pub long: &'static str,
    pub short: &'static str,
    pub factor: f64,
    pub firing: bool,
    /// Both windows burn, but too few bad events for it to fire.
    pub held_back: bool,
    /// False if even 100 % errors could not make it fire: the target is too low for this tier.
    pub reachable: bool,
    /// When it began to fire without a pause.
    pub since: Option<DateTime<Utc>>,
}

/// The error budget of the period, by events: a quiet night with errors costs what its few requests cost, not what its hours would.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Budget {
    /// Bad events the period's traffic allows (cut to a whole number).
    pub total: u64,
    pub used: u64,
    pub remaining: i64,
    /// used / allowed, exactly before rounding to 6 decimals; above 1 when overspent; null without traffic.
    pub used_ratio: Option<f64>,
    /// All of it used, by at least 3 bad events.
    pub exhausted: bool,
    /// When it would be used up at the rate of the last day; null if that is not within the period (old events leave it by then) or past.
    pub exhausts_at: Option<DateTime<Utc>>,
}

/// Burn rates by window (`5m` ... `3d` and the period), 1 = exactly the budget; null for a window without events. A JSON object.
#[derive(Clone, Debug, PartialEq)]
pub struct BurnRates(Vec<(String, Option<f64>)>);

impl BurnRates {
    pub fn get(&self, window: &str) -> Option<f64> {
        self.0.iter().find(|(name, _)| name == window).and_then(|(_, rate)| *rate)
    }
}

impl serde::Serialize for BurnRates {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (window, rate) in &self.0 {
            map.serialize_entry(window, rate)?;
        }
        map.end()
    }
}

/// One objective: success of requests or speed of successful answers.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct ObjectiveReport {
    pub name: &'static str,
    /// `availability` or `latency`.
    pub kind: &'static str,
    pub target_ppm: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold_ms: Option<u64>,
    pub period_s: i64,
    /// Good events / all events of the period, cut to 6 decimals; null without events.
    pub sli: Option<f64>,
    pub budget: Budget,
    pub burn: BurnRates,
    pub tiers: Vec<TierState>,
}

/// The worst thing that fires.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Worst {
    pub objective: &'static str,
    /// `page`, `budget` (exhausted) or `ticket`.
    pub severity: &'static str,
    /// `1h/5m`, or `30d` for the budget.
    pub windows: String,
}

/// The least number of bad events before a tier fires, and whether it holds one back now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Gate {
    pub min_bad: u64,
    pub min_bad_ticket: u64,
    /// False if a tier burns but has too few bad events to fire.
    pub met: bool,
}

/// Both objectives at one instant.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "four separate answers of a JSON object")]
pub struct Report {
    /// A page tier fires or a budget is exhausted: the guard raises an alert.
    pub breach: bool,
    /// One alert for both page tiers of both objectives.
    pub page: bool,
    /// One alert for both ticket tiers of both objectives.
    pub ticket: bool,
    pub budget_exhausted: bool,
    pub worst: Option<Worst>,
    pub gate: Gate,
    pub objectives: Vec<ObjectiveReport>,
    /// Minutes observed / minutes of the period.
    pub coverage: f64,
}

/// The report at the start of `now_minute` (minutes since the epoch): windows are the closed minutes before it. Minutes outside the period
/// are ignored. A window longer than the history is judged by what there is; `coverage` says so.
pub fn burn<'a>(objective: &Objective, minutes: impl IntoIterator<Item = &'a Minute>, now_minute: i64) -> Report {
    let minutes: Vec<&Minute> = minutes.into_iter().collect();
    let from = now_minute.saturating_sub(period_minutes(objective));
    let of = |indicator: Indicator| Series::new(minutes.iter().copied(), from, now_minute, |minute| indicator.counters(minute));
    let series = Indicator::ALL.map(|indicator| (indicator, of(indicator)));
    let coverage = series[0].1.coverage();
    let objectives: Vec<_> = series.iter().map(|(indicator, series)| report_objective(objective, *indicator, series, now_minute)).collect();
    let tiers = || objectives.iter().flat_map(|o| o.tiers.iter().map(move |tier| (o.name, tier)));
    let fires = |severity: &str| tiers().find(|(_, tier)| tier.firing && tier.severity == severity);
    let as_worst = |(objective, tier): (&'static str, &TierState)| Worst {
        objective,
        severity: tier.severity,
        windows: format!("{}/{}", tier.long, tier.short),
    };
    let exhausted = objectives.iter().find(|o| o.budget.exhausted);
    let worst = fires("page")
        .map(as_worst)
        .or_else(|| exhausted.map(|o| Worst { objective: o.name, severity: "budget", windows: format!("{}d", objective.period_days) }))
        .or_else(|| fires("ticket").map(as_worst));
    Report {
        breach: fires("page").is_some() || exhausted.is_some(),
        page: fires("page").is_some(),
        ticket: fires("ticket").is_some(),
        budget_exhausted: exhausted.is_some(),
        worst,
        gate: Gate { min_bad: Tier::ALL[0].min_bad(), min_bad_ticket: Tier::ALL[3].min_bad(), met: !tiers().any(|(_, t)| t.held_back) },
        coverage,
        objectives,
    }
}

/// A tier that fired at some closed minute.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Fired {
    pub objective: &'static str,
    pub severity: &'static str,
    pub long: &'static str,
    pub short: &'static str,
    /// Minutes since the epoch.
    pub first_minute: i64,
    pub last_minute: i64,
    pub minutes: u64,
}

/// What fired at any minute in (since, now]: a 5-minute burst that began and ended between two looks of the guard shows only here.
pub fn fired_between<'a>(objective: &Objective, minutes: impl IntoIterator<Item = &'a Minute>, since: i64, now: i64) -> Vec<Fired> {
    let minutes: Vec<&Minute> = minutes.into_iter().collect();
    let since = since.max(now.saturating_sub(period_minutes(objective)));
    let mut fired = Vec::new();
    for indicator in Indicator::ALL {
        let series = Series::new(minutes.iter().copied(), since.saturating_sub(Tier::ALL[3].long_minutes), now, |m| indicator.counters(m));
        for tier in Tier::ALL {
            let fires = |end: &i64| tier.at(objective, indicator.budget_ppm(objective), &series, *end).1;
            let ends: Vec<i64> = (since.saturating_add(1)..=now).filter(fires).collect();
            let (Some(first_minute), Some(last_minute)) = (ends.first().copied(), ends.last().copied()) else { continue };
            let Tier { severity, long, short, .. } = tier;
            let minutes = ends.len() as u64;
            fired.push(Fired { objective: indicator.name(), severity, long, short, first_minute, last_minute, minutes });
        }
    }
    fired
}

fn report_objective(objective: &Objective, indicator: Indicator, series: &Series, now: i64) -> ObjectiveReport {
    let budget_ppm = indicator.budget_ppm(objective);
    let (bad, total) = series.window(now, period_minutes(objective));
    let good_ppm = (total > 0).then(|| u128::from(total - bad.min(total)) * u128::from(PPM) / u128::from(total.max(1)));
    ObjectiveReport {
        name: indicator.name(),
        kind: indicator.name(),
        target_ppm: PPM - budget_ppm,
        threshold_ms: (indicator == Indicator::Latency).then_some(objective.p95_ms),
        period_s: period_minutes(objective) * 60,
        sli: good_ppm.map(|ppm| ppm as f64 / PPM as f64),
        budget: report_budget(objective, budget_ppm, series, now),
        burn: burn_rates(objective, budget_ppm, series, now),
        tiers: Tier::ALL.iter().map(|tier| report_tier(objective, tier, budget_ppm, series, now)).collect(),
    }
}

fn report_tier(objective: &Objective, tier: &Tier, budget_ppm: u64, series: &Series, now: i64) -> TierState {
    let (burning, firing) = tier.at(objective, budget_ppm, series, now);
    let since = firing.then(|| {
        let fires = |end: &i64| tier.at(objective, budget_ppm, series, *end).1;
        (now - period_minutes(objective)..=now).rev().take_while(fires).last().and_then(start_of)
    });
    TierState {
        severity: tier.severity,
        long: tier.long,
        short: tier.short,
        factor: tier.factor(objective),
        firing,
        held_back: burning && !firing,
        reachable: tier.exceeded(objective, budget_ppm, (1, 1)),
        since: since.flatten(),
    }
}

fn report_budget(objective: &Objective, budget_ppm: u64, series: &Series, now: i64) -> Budget {
    let (used, events) = series.window(now, period_minutes(objective));
    let allowed_millionths = u128::from(budget_ppm) * u128::from(events);
    let used_millionths = u128::from(used) * u128::from(PPM);
    let total = u64::try_from(allowed_millionths / u128::from(PPM)).unwrap_or(u64::MAX);
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let spent = used_millionths >= allowed_millionths;
    Budget {
        total,
        used,
        remaining: signed(total) - signed(used),
        used_ratio: (allowed_millionths > 0).then(|| six_decimals(used_millionths as f64 / allowed_millionths as f64)),
        exhausted: spent && used >= Tier::ALL[0].min_bad(),
        exhausts_at: if spent { None } else { exhausts_at(objective, allowed_millionths - used_millionths, series, now) },
    }
}

/// The rest of the budget (in millionths of an event) at the rate of the last day, or of the history if it is shorter.
fn exhausts_at(objective: &Objective, rest_millionths: u128, series: &Series, now: i64) -> Option<DateTime<Utc>> {
    let day = Tier::ALL[2].long_minutes;
    let (bad, _) = series.window(now, day);
    let span = (now - series.first_seen()?).clamp(1, day);
    let per_event = u128::from(bad) * u128::from(PPM);
    let minutes = (rest_millionths * u128::from(span.unsigned_abs())).checked_div(per_event)?;
    let minutes = i64::try_from(minutes).ok().filter(|m| *m <= period_minutes(objective))?;
    start_of(now + minutes)
}

fn burn_rates(objective: &Objective, budget_ppm: u64, series: &Series, now: i64) -> BurnRates {
    const WINDOWS: [(&str, i64); 7] = [("5m", 5), ("30m", 30), ("1h", 60), ("2h", 120), ("6h", 360), ("1d", 1440), ("3d", 4320)];
    let rate = |window: i64| {
        let (bad, total) = series.window(now, window);
        let allowed = budget_ppm as f64 / PPM as f64 * total as f64;
        (total > 0).then(|| six_decimals(bad as f64 / allowed))
    };
    let mut rates: Vec<_> = WINDOWS.iter().map(|(name, window)| ((*name).to_owned(), rate(*window))).collect();
    rates.push((format!("{}d", objective.period_days), rate(period_minutes(objective))));
    BurnRates(rates)
}

fn period_minutes(objective: &Objective) -> i64 {
    objective.period_days.clamp(1, 3650) * 1440
}

fn start_of(minute: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(minute.checked_mul(60)?, 0)
}

/// For display only.
fn six_decimals(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

#[cfg(test)]
#[path = "burn_tests.rs"]
mod tests;
