//! How fast the error budget burns: four tiers of two windows each (the set Sloth uses for 30 days, after the SRE workbook), an absolute rule
//! for few events, the budget by events, and what fired since the last look. Used by the guard, the monitor and the status endpoint.
//! Integers decide; only the confidence bound that holds a tier back is a float.

use chrono::{DateTime, Utc};
use serde::ser::SerializeMap;

use super::{
    Counts, Level, PPM,
    series::{Indicator, Series},
    tier::{ABSOLUTE_BAD, Promise, Stand, Tier},
    wilson,
};

/// A tier and how it stands.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "four separate answers of a JSON object")]
pub struct TierState {
    pub severity: &'static str,
    pub long: &'static str,
    pub short: &'static str,
    pub factor: f64,
    pub firing: bool,
    /// Both windows burn: what Prometheus would fire.
    pub burning: bool,
    /// Both windows burn, but it does not fire for want of events.
    pub held_back: bool,
    /// What holds it back: `min_bad`, `min_events` or `interval`.
    pub held_by: Option<&'static str>,
    /// Events of the long window, and the bad ones.
    pub n: u64,
    pub bad: u64,
    /// The Wilson 95 % interval of the bad share in the long window.
    pub interval: Option<(f64, f64)>,
    /// False if even 100 % errors could not make it fire: the target is too low for this tier.
    pub reachable: bool,
    /// When it began to fire without a pause.
    pub since: Option<DateTime<Utc>>,
}

/// The absolute rule and how it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Absolute {
    pub severity: &'static str,
    pub window: &'static str,
    pub bad: u64,
    pub good: u64,
    pub min_bad: u64,
    /// So many good ones and it is for the tiers to decide.
    pub max_good: u64,
    pub firing: bool,
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
    /// Events of the period (slices of time, if the budget counts those), and the bad ones.
    pub n: u64,
    pub bad: u64,
    /// Good events / all events of the period, cut to 6 decimals; null without events.
    pub sli: Option<f64>,
    pub budget: Budget,
    pub burn: BurnRates,
    pub tiers: Vec<TierState>,
    pub absolute: Absolute,
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
    pub min_events: u64,
    /// False if a tier burns but has too few events to fire.
    pub met: bool,
}

/// All that a level promises at one instant.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "four separate answers of a JSON object")]
pub struct Report {
    /// A page tier fires or a budget is exhausted: the guard raises an alert.
    pub breach: bool,
    /// One alert for both page tiers and the absolute rule of both objectives.
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

/// The report at the start of `now` (minutes since the epoch): windows are the closed minutes before it. A window longer than the history
/// is judged by what there is; `coverage` says so.
pub fn burn<M: Into<Counts>>(level: &Level, minutes: impl IntoIterator<Item = M>, now: i64) -> Report {
    let minutes: Vec<Counts> = minutes.into_iter().map(Into::into).collect();
    let indicators = Indicator::of(level);
    let series: Vec<(Promise, Series)> = indicators.into_iter().map(|indicator| series(level, &minutes, indicator, now)).collect();
    let (from, _) = level.window.at(now);
    let coverage = Series::new(minutes.iter().copied(), from, now, None, |m| (m.bad, m.total)).coverage();
    let objectives: Vec<_> = series.iter().map(|(promise, series)| report_objective(level, promise, series, now)).collect();
    let tiers = || objectives.iter().flat_map(|o| o.tiers.iter().map(move |tier| (o.name, tier)));
    let fires = |severity: &str| {
        tiers().find(|(_, tier)| tier.firing && tier.severity == severity).map(|(objective, tier)| Worst {
            objective,
            severity: tier.severity,
            windows: format!("{}/{}", tier.long, tier.short),
        })
    };
    let absolute = objectives.iter().find(|o| o.absolute.firing);
    let absolute = absolute.map(|o| Worst { objective: o.name, severity: "page", windows: o.absolute.window.to_owned() });
    let exhausted = objectives.iter().find(|o| o.budget.exhausted);
    let exhausted = exhausted.map(|o| Worst { objective: o.name, severity: "budget", windows: level.window.name() });
    let page = fires("page").or(absolute);
    let (breach, budget_exhausted) = (page.is_some() || exhausted.is_some(), exhausted.is_some());
    Report {
        breach,
        page: page.is_some(),
        ticket: fires("ticket").is_some(),
        budget_exhausted,
        worst: page.or(exhausted).or_else(|| fires("ticket")),
        gate: Gate {
            min_bad: Tier::ALL[0].min_bad(),
            min_bad_ticket: Tier::ALL[3].min_bad(),
            min_events: level.min_events,
            met: !tiers().any(|(_, t)| t.held_back),
        },
        coverage,
        objectives,
    }
}

fn series(level: &Level, minutes: &[Counts], indicator: Indicator, now: i64) -> (Promise, Series) {
    let promise = Promise::new(level, indicator, now);
    let from = promise.from.min(now.saturating_sub(Tier::ALL[3].long_minutes));
    (promise, Series::new(minutes.iter().copied(), from, now, level.slices, |minute| indicator.counters(minute)))
}

/// Something that fired at some closed minute.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Fired {
    pub objective: &'static str,
    pub severity: &'static str,
    /// The windows; `absolute` instead of a short one for the rule for few events.
    pub long: &'static str,
    pub short: &'static str,
    /// Minutes since the epoch.
    pub first_minute: i64,
    pub last_minute: i64,
    pub minutes: u64,
}

/// What fired at any minute in (since, now]: a 5-minute burst that began and ended between two looks of the guard shows only here.
pub fn fired_between<M: Into<Counts>>(level: &Level, minutes: impl IntoIterator<Item = M>, since: i64, now: i64) -> Vec<Fired> {
    let minutes: Vec<Counts> = minutes.into_iter().map(Into::into).collect();
    let since = since.max(now.saturating_sub(level.window.days() * 1440));
    let mut fired = Vec::new();
    for indicator in Indicator::of(level) {
        let promise = Promise::new(level, indicator, now);
        let series = Series::new(minutes.iter().copied(), since.saturating_sub(Tier::ALL[3].long_minutes), now, level.slices, |m| {
            indicator.counters(m)
        });
        let mut note = |severity, long, short, fires: &dyn Fn(i64) -> bool| {
            let ends: Vec<i64> = (since.saturating_add(1)..=now).filter(|end| fires(*end)).collect();
            let (Some(first_minute), Some(last_minute)) = (ends.first().copied(), ends.last().copied()) else { return };
            fired.push(Fired { objective: indicator.name(), severity, long, short, first_minute, last_minute, minutes: ends.len() as u64 });
        };
        for tier in promise.tiers() {
            note(tier.severity, tier.long, tier.short, &|end| tier.at(&promise, &series, end).firing);
        }
        note("page", "6h", "absolute", &|end| promise.absolute(&series, end).2);
    }
    fired
}

/// (minute, bad so far, events so far) of the present window at the end of each `step` minutes: the chart of the budget burning down.
pub fn burn_down<M: Into<Counts>>(
    level: &Level,
    minutes: impl IntoIterator<Item = M>,
    now: i64,
    latency: bool,
    step: i64,
) -> Vec<(i64, u64, u64)> {
    let indicator = if latency { Indicator::Latency } else { Indicator::Availability };
    let minutes: Vec<Counts> = minutes.into_iter().map(Into::into).collect();
    let (promise, series) = series(level, &minutes, indicator, now);
    let step = usize::try_from(step).unwrap_or(1).max(1);
    let point = |end: i64| {
        let (bad, total) = series.window(end, end - promise.from);
        (end, bad, total)
    };
    (promise.from..now).step_by(step).skip(1).chain([now]).map(point).collect()
}

fn report_objective(level: &Level, promise: &Promise, series: &Series, now: i64) -> ObjectiveReport {
    let (bad, total) = series.window(now, now - promise.from);
    let good_ppm = (total > 0).then(|| u128::from(total - bad.min(total)) * u128::from(PPM) / u128::from(total.max(1)));
    ObjectiveReport {
        name: promise.indicator.name(),
        kind: promise.indicator.name(),
        target_ppm: PPM - promise.budget_ppm,
        threshold_ms: level.latency.filter(|_| promise.indicator == Indicator::Latency).map(|latency| latency.ms),
        period_s: promise.period * 60,
        n: total,
        bad,
        sli: good_ppm.map(|ppm| ppm as f64 / PPM as f64),
        budget: report_budget(promise, series, now),
        burn: burn_rates(level, promise, series, now),
        tiers: promise.tiers().map(|tier| report_tier(&tier, promise, series, now)).collect(),
        absolute: report_absolute(promise, series, now),
    }
}

/// When something that fires at `now` began to do so without a pause.
fn since(series: &Series, now: i64, fires: impl Fn(i64) -> bool) -> Option<DateTime<Utc>> {
    (series.start()..=now).rev().take_while(|end| fires(*end)).last().and_then(start_of)
}

fn report_tier(tier: &Tier, promise: &Promise, series: &Series, now: i64) -> TierState {
    let Stand { burning, firing, held_by } = tier.at(promise, series, now);
    let (bad, n) = series.window(now, tier.long_minutes);
    TierState {
        severity: tier.severity,
        long: tier.long,
        short: tier.short,
        factor: tier.factor(promise.period),
        firing,
        burning,
        held_back: burning && !firing,
        held_by,
        n,
        bad,
        interval: wilson(bad, n),
        reachable: tier.reachable(promise.period, promise.budget_ppm),
        since: if firing { since(series, now, |end| tier.at(promise, series, end).firing) } else { None },
    }
}

fn report_absolute(promise: &Promise, series: &Series, now: i64) -> Absolute {
    let (bad, good, firing) = promise.absolute(series, now);
    let since = if firing { since(series, now, |end| promise.absolute(series, end).2) } else { None };
    Absolute { severity: "page", window: "6h", bad, good, min_bad: ABSOLUTE_BAD, max_good: promise.few, firing, since }
}

fn report_budget(promise: &Promise, series: &Series, now: i64) -> Budget {
    let (used, events) = series.window(now, now - promise.from);
    let allowed_millionths = u128::from(promise.budget_ppm) * u128::from(events);
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
        exhausts_at: if spent { None } else { exhausts_at(promise, allowed_millionths - used_millionths, series, now) },
    }
}

/// The rest of the budget (in millionths of an event) at the rate of the last day, or of the history if it is shorter.
fn exhausts_at(promise: &Promise, rest_millionths: u128, series: &Series, now: i64) -> Option<DateTime<Utc>> {
    let day = Tier::ALL[2].long_minutes;
    let (bad, _) = series.window(now, day);
    let span = (now - series.first_seen()?).clamp(1, day);
    let per_event = u128::from(bad) * u128::from(PPM);
    let minutes = (rest_millionths * u128::from(span.unsigned_abs())).checked_div(per_event)?;
    // A window of the calendar ends at its end; a rolling one has lost by then what is in it now.
    let left = if promise.until > now { promise.until - now } else { promise.period };
    let minutes = i64::try_from(minutes).ok().filter(|m| *m <= left)?;
    start_of(now + minutes)
}

fn burn_rates(level: &Level, promise: &Promise, series: &Series, now: i64) -> BurnRates {
    const WINDOWS: [(&str, i64); 7] = [("5m", 5), ("30m", 30), ("1h", 60), ("2h", 120), ("6h", 360), ("1d", 1440), ("3d", 4320)];
    let rate = |window: i64| {
        let (bad, total) = series.window(now, window);
        let allowed = promise.budget_ppm as f64 / PPM as f64 * total as f64;
        (total > 0).then(|| six_decimals(bad as f64 / allowed))
    };
    let mut rates: Vec<_> = WINDOWS.iter().map(|(name, window)| ((*name).to_owned(), rate(*window))).collect();
    rates.push((level.window.name(), rate(now - promise.from)));
    BurnRates(rates)
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
