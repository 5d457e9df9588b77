//! One objective as it was configured: whose events, what share must be good, how fast, over which window. Made by `config.rs` and by the
//! import of OpenSLO; judged by `burn.rs`. A target of 100 % is refused, and a tier that can never fire is named.

use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveTime, TimeZone, Utc};
use chrono_tz::Tz;

use super::{PPM, tier::Tier};

/// The longest window: a quarter.
pub const MAX_WINDOW_DAYS: i64 = 92;

/// A unit of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// From Monday on.
    Week,
    Month,
    Quarter,
}

impl Unit {
    pub const ALL: [Self; 3] = [Self::Week, Self::Month, Self::Quarter];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Week => "week",
            Self::Month => "month",
            Self::Quarter => "quarter",
        }
    }
}

/// The time over which an objective must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// The last so many days.
    Rolling { days: i64 },
    /// The present week, month or quarter of a zone.
    Calendar { unit: Unit, zone: Tz },
}

impl Window {
    /// `30d`, `week`, `month` or `quarter`; the zone is that of a calendar window. The error is a sentence that says what would be right.
    pub fn parse(text: &str, zone: Tz) -> Result<Self, String> {
        let text = text.trim();
        if let Some(unit) = Unit::ALL.into_iter().find(|unit| unit.as_str() == text) {
            return Ok(Self::Calendar { unit, zone });
        }
        let days = text.strip_suffix('d').and_then(|n| n.parse::<i64>().ok());
        let weeks = text.strip_suffix('w').and_then(|n| n.parse::<i64>().ok()).and_then(|n| n.checked_mul(7));
        match days.or(weeks) {
            Some(days) if (1..=MAX_WINDOW_DAYS).contains(&days) => Ok(Self::Rolling { days }),
            Some(days) => Err(format!("{days} days are not between 1 and {MAX_WINDOW_DAYS}")),
            None => Err(format!("\"{text}\" is no window: 30d, 4w, week, month or quarter")),
        }
    }

    /// `30d` or `month`.
    pub fn name(&self) -> String {
        match self {
            Self::Rolling { days } => format!("{days}d"),
            Self::Calendar { unit, .. } => unit.as_str().to_owned(),
        }
    }

    /// The longest it can be, in days.
    pub fn days(&self) -> i64 {
        match self {
            Self::Rolling { days } => *days,
            Self::Calendar { unit: Unit::Week, .. } => 7,
            Self::Calendar { unit: Unit::Month, .. } => 31,
            Self::Calendar { unit: Unit::Quarter, .. } => 92,
        }
    }

    /// The minutes [from, until) of the window at the start of minute `now`: a rolling one ends with `now`, one of the calendar later.
    pub fn at(&self, now: i64) -> (i64, i64) {
        match self {
            Self::Rolling { days } => (now.saturating_sub(days.saturating_mul(1440)), now),
            Self::Calendar { unit, zone } => calendar(*unit, *zone, now).unwrap_or((now.saturating_sub(self.days() * 1440), now)),
        }
    }
}

fn calendar(unit: Unit, zone: Tz, now: i64) -> Option<(i64, i64)> {
    let today = DateTime::from_timestamp(now.checked_mul(60)?, 0)?.with_timezone(&zone).date_naive();
    let month = |year: i32, month0: u32| NaiveDate::from_ymd_opt(year + i32::try_from(month0 / 12).ok()?, month0 % 12 + 1, 1);
    let (first, next) = match unit {
        Unit::Week => {
            let first = today.checked_sub_days(Days::new(today.weekday().num_days_from_monday().into()))?;
            (first, first.checked_add_days(Days::new(7))?)
        }
        Unit::Month => (month(today.year(), today.month0())?, month(today.year(), today.month0() + 1)?),
        Unit::Quarter => (month(today.year(), today.month0() / 3 * 3)?, month(today.year(), today.month0() / 3 * 3 + 3)?),
    };
    Some((midnight(first, zone)?, midnight(next, zone)?))
}

/// The first minute of a day. Where the clocks go forward at midnight, the day begins at one.
fn midnight(day: NaiveDate, zone: Tz) -> Option<i64> {
    let at = |hour| zone.from_local_datetime(&day.and_time(NaiveTime::from_hms_opt(hour, 0, 0)?)).earliest();
    let first = at(0).or_else(|| at(1))?;
    Some(first.with_timezone(&Utc).timestamp().div_euclid(60))
}

/// How fast good answers are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// Fast up to and including this many milliseconds.
    pub ms: u64,
    /// The share of the successful events that must be fast, in ppm.
    pub share_ppm: u64,
}

/// The budget counts slices of time instead of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slices {
    /// How long a slice is.
    pub minutes: i64,
    /// A slice is good if at least this share of its events is, in ppm. One without events is neither good nor bad.
    pub share_ppm: u64,
}

/// One objective.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    pub name: String,
    /// Whose events are counted.
    pub service: String,
    /// The share of events that must succeed, in ppm; one of this and `latency` is there.
    pub success_ppm: Option<u64>,
    pub latency: Option<Latency>,
    pub window: Window,
    /// Below this many events the rules for small samples decide.
    pub min_events: u64,
    pub slices: Option<Slices>,
    /// Whether silence is told once it could have cost a part of the budget.
    pub no_data: bool,
}

impl Level {
    /// Refuses what cannot be judged. Each problem is (key, sentence).
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let mut share = |key: &'static str, ppm: u64| {
            if ppm == 0 {
                problems.push((key, "must be above 0 %".to_owned()));
            } else if ppm >= PPM {
                problems.push((key, "must be below 100 %: a target of 100 % leaves no budget, and every error would break it".to_owned()));
            }
        };
        if let Some(success_ppm) = self.success_ppm {
            share("target", success_ppm);
        }
        if let Some(latency) = self.latency {
            share("latency_share", latency.share_ppm);
        }
        if let Some(slices) = self.slices {
            share("timeslice_target", slices.share_ppm);
            if !(1..=60).contains(&slices.minutes) {
                problems.push(("timeslice_s", format!("must be 60 to 3600, not {}", slices.minutes * 60)));
            }
        }
        if self.success_ppm.is_none() && self.latency.is_none() {
            problems.push(("target", "is missing, and so is latency_ms: an objective promises one of them at least".to_owned()));
        }
        if self.latency.is_some_and(|latency| latency.ms == 0) {
            problems.push(("latency_ms", "must be at least 1: 0 ms is faster than anything".to_owned()));
        }
        if !(1..=MAX_WINDOW_DAYS).contains(&self.window.days()) {
            problems.push(("window", format!("{} days are not between 1 and {MAX_WINDOW_DAYS}", self.window.days())));
        }
        problems
    }

    /// The share of events that may be bad, in ppm: of failed ones, or of slow ones if that is all that is promised.
    pub fn budget_ppm(&self) -> u64 {
        PPM.saturating_sub(self.success_ppm.or(self.latency.map(|latency| latency.share_ppm)).unwrap_or(PPM))
    }

    /// What will not work as one may expect, e.g. a tier that even errors only could not make fire.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let shares = [("target", self.success_ppm), ("latency_share", self.latency.map(|latency| latency.share_ppm))];
        for (key, share_ppm) in shares.into_iter().filter_map(|(key, share)| Some((key, share?))) {
            let budget_ppm = PPM.saturating_sub(share_ppm);
            for tier in Tier::ALL.iter().filter(|tier| !tier.reachable(self.window.days() * 1440, budget_ppm)) {
                warnings.push(format!(
                    "objectives.{}.{key}: the tier {}/{} ({}) can never fire: it needs {} times a budget of {} %, more than all events",
                    self.name,
                    tier.long,
                    tier.short,
                    tier.severity,
                    tier.factor(self.window.days() * 1440),
                    budget_ppm as f64 / 1e4,
                ));
            }
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(text: &str) -> i64 {
        text.parse::<DateTime<Utc>>().unwrap().timestamp() / 60
    }

    #[test]
    fn a_window_is_read_as_it_is_written() {
        for (text, name, days) in
            [("30d", "30d", 30), ("4w", "28d", 28), (" month ", "month", 31), ("quarter", "quarter", 92), ("week", "week", 7)]
        {
            let window = Window::parse(text, Tz::UTC).unwrap();
            assert_eq!((window.name().as_str(), window.days()), (name, days));
        }
        for (wrong, says) in [
            ("0d", "between 1 and 92"),
            ("93d", "between 1 and 92"),
            ("soon", "30d, 4w, week"),
            ("", "no window"),
            ("99999999999999999999w", "no window"),
        ] {
            assert!(Window::parse(wrong, Tz::UTC).unwrap_err().contains(says), "{wrong}");
        }
    }

    #[test]
    fn windows_of_the_calendar_begin_and_end_where_the_zone_says() {
        let cases = [
            ("month", "UTC", "2026-02-14T12:00:00Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"),
            ("month", "Europe/Berlin", "2026-03-31T22:30:00Z", "2026-03-31T22:00:00Z", "2026-04-30T22:00:00Z"),
            // 743 hours: the clocks went forward in between.
            ("month", "Europe/Berlin", "2026-03-31T21:30:00Z", "2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z"),
            ("week", "UTC", "2026-11-29T23:59:00Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"),
            ("quarter", "UTC", "2026-12-31T23:59:00Z", "2026-10-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("quarter", "America/New_York", "2026-01-01T04:59:00Z", "2025-10-01T04:00:00Z", "2026-01-01T05:00:00Z"),
            // The clocks go forward at midnight here: the month's first day has no hour 0.
            ("month", "Asia/Beirut", "2026-03-29T12:00:00Z", "2026-02-28T22:00:00Z", "2026-03-31T21:00:00Z"),
        ];
        for (unit, zone, now, from, until) in cases {
            let window = Window::parse(unit, zone.parse().unwrap()).unwrap();
            assert_eq!(window.at(minute(now)), (minute(from), minute(until)), "{unit} {zone} {now}");
        }
        assert_eq!(Window::Rolling { days: 1 }.at(5000), (3560, 5000));
    }

    #[test]
    fn a_target_of_all_events_is_refused_and_a_tier_out_of_reach_is_named() {
        let level = |success_ppm| Level {
            name: "shop".into(),
            service: "push:shop".into(),
            success_ppm: Some(success_ppm),
            latency: None,
            window: Window::Rolling { days: 30 },
            min_events: 20,
            slices: None,
            no_data: true,
        };
        let problems = level(PPM).problems();
        assert_eq!(problems[0].0, "target");
        assert!(problems[0].1.contains("100 %"), "{problems:?}");
        assert!(level(999_000).problems().is_empty() && level(999_000).warnings().is_empty());
        let warnings = level(900_000).warnings();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].starts_with("objectives.shop.target: the tier 1h/5m (page) can never fire"), "{warnings:?}");
        let wrong = Level {
            latency: Some(Latency { ms: 0, share_ppm: 0 }),
            slices: Some(Slices { minutes: 61, share_ppm: PPM }),
            window: Window::Rolling { days: 0 },
            ..level(999_000)
        };
        let keys: Vec<_> = wrong.problems().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["latency_share", "timeslice_target", "timeslice_s", "latency_ms", "window"]);
        let nothing = Level { success_ppm: None, ..level(999_000) };
        assert!(nothing.problems()[0].1.contains("one of them at least"));
    }
}
