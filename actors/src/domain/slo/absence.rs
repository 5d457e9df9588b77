//! Silence: how many events there should have been, and whether that many, all of them failed, would have cost a noticeable part of the
//! budget. What is usual comes from the same time of the day and of the week before, so that a quiet night is no outage, and an outage
//! never becomes the usual. Used by `standing.rs`.

use super::{Counts, Level, PPM};

const DAY: i64 = 1440;
const WEEK: i64 = 7 * DAY;
/// (severity, share of the budget in percent, natural logarithm of the odds that chance alone makes such a silence).
const LIMITS: [(&str, u64, f64); 2] = [("page", 5, 13.8), ("ticket", 1, 11.5)];
/// By how many minutes the reference may be moved.
const SHIFTS: [i64; 7] = [-30, -20, -10, 0, 10, 20, 30];
/// With less history there is no saying what is usual.
const LEARN_MINUTES: i64 = DAY + 30;
const LEARN_EVENTS: u64 = 20;

/// What silence there is and what it means.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Absence {
    /// The last minute with events, minutes since the epoch; null if none is known.
    pub last_minute: Option<i64>,
    /// Minutes without an event up to now.
    pub silent_minutes: i64,
    /// Events that were to be expected in them; null while it is not known what is usual.
    pub expected: Option<f64>,
    /// So many expected events make a page, and a ticket: the events that would burn 5 % and 1 % of the budget, and at least as many that chance
    /// alone would not leave them out.
    pub page_above: Option<f64>,
    pub ticket_above: Option<f64>,
    /// `page` or `ticket`, if it is told.
    pub severity: Option<&'static str>,
    pub clause: String,
}

/// Judges the silence before minute `now`. `watched_since` is when somebody began to count: before it silence means nothing.
pub fn absence(level: &Level, minutes: &[Counts], watched_since: i64, now: i64) -> Absence {
    let last_minute = minutes.iter().filter(|m| m.total > 0).map(|m| m.minute).max();
    let silent = |clause: String| Absence {
        last_minute,
        silent_minutes: 0,
        expected: None,
        page_above: None,
        ticket_above: None,
        severity: None,
        clause,
    };
    let Some(last) = last_minute else { return silent("there never was an event: it is not known how many are usual".to_owned()) };
    let from = watched_since.max(last.saturating_add(1)).min(now);
    let Some(usual) = Usual::new(minutes, last.saturating_add(1)) else {
        return Absence { silent_minutes: now - from, ..silent("too few events are known to say how many are usual".to_owned()) };
    };
    let expected = usual.expected(from, now);
    let budget = usual.per_minute() * (level.window.days() * DAY) as f64 * level.budget_ppm() as f64 / PPM as f64;
    let limit = |(_, percent, odds): (&str, u64, f64)| (budget * percent as f64 / 100.0).max(odds);
    let severity = LIMITS.iter().find(|limits| level.no_data && expected >= limit(**limits)).map(|(severity, ..)| *severity);
    let silent_minutes = now - from;
    let clause = match severity {
        Some(_) => format!("no event for {silent_minutes} min, in which {expected:.0} were to be expected"),
        None if silent_minutes == 0 => "events are coming in".to_owned(),
        None => format!("no event for {silent_minutes} min, in which {expected:.1} were to be expected: that may be chance"),
    };
    Absence {
        last_minute,
        silent_minutes,
        expected: Some((expected * 10.0).round() / 10.0),
        page_above: Some((limit(LIMITS[0]) * 10.0).round() / 10.0),
        ticket_above: Some((limit(LIMITS[1]) * 10.0).round() / 10.0),
        severity,
        clause,
    }
}

/// How many events are usual, from the minutes before the silence.
struct Usual {
    first: i64,
    /// Events of the minutes [first, end).
    totals: Vec<u64>,
}

impl Usual {
    /// `None` if too little is known.
    fn new(minutes: &[Counts], end: i64) -> Option<Self> {
        let first = minutes.iter().filter(|m| m.total > 0).map(|m| m.minute).min()?;
        let mut totals = vec![0u64; usize::try_from(end - first).ok()?];
        for minute in minutes {
            if let Some(total) = usize::try_from(minute.minute - first).ok().and_then(|at| totals.get_mut(at)) {
                *total = total.saturating_add(minute.total);
            }
        }
        let enough = end - first >= LEARN_MINUTES && totals.iter().sum::<u64>() >= LEARN_EVENTS;
        enough.then_some(Self { first, totals })
    }

    fn end(&self) -> i64 {
        self.first + i64::try_from(self.totals.len()).unwrap_or(i64::MAX)
    }

    fn per_minute(&self) -> f64 {
        self.totals.iter().sum::<u64>() as f64 / self.totals.len().max(1) as f64
    }

    /// In the minutes [from, to): the least of what was usual a day and a week before, as far as that is known. Who comes half an
    /// hour later or goes earlier than yesterday is not missing: the reference is moved by as much, to where there was least.
    fn expected(&self, from: i64, to: i64) -> f64 {
        let at = |step: i64, shift: i64| (from..to).map(|minute| self.before(minute + shift, step)).sum::<u64>();
        let least = |step: i64| {
            let known = self.end() - self.first >= step + SHIFTS[0].abs();
            known.then(|| SHIFTS.iter().map(|shift| at(step, *shift)).min().unwrap_or(0))
        };
        [least(DAY), least(WEEK)].into_iter().flatten().min().unwrap_or(0) as f64
    }

    /// The events of the latest minute before the silence that lies whole steps before `minute`.
    fn before(&self, minute: i64, step: i64) -> u64 {
        let steps = (minute - self.end()).div_euclid(step) + 1;
        let at = minute - steps.max(1) * step - self.first;
        usize::try_from(at).ok().and_then(|at| self.totals.get(at)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Objective;
    use super::*;

    const NOW: i64 = 29_000_160; // midnight is a multiple of 1440

    fn level(success_ppm: u64) -> Level {
        Level { no_data: true, ..Objective { success_ppm, ..Objective::default() }.level() }
    }

    /// `rate(minute)` events in each of the minutes [from, to) before NOW.
    fn minutes(from: i64, to: i64, rate: impl Fn(i64) -> u64) -> Vec<Counts> {
        (NOW - from..NOW - to).map(|minute| Counts { minute, total: rate(minute), ..Counts::default() }).collect()
    }

    #[test]
    fn with_even_traffic_silence_is_told_after_the_time_that_would_burn_the_share() {
        // 99.9 % over 30 days: 43.2 minutes of failure are the budget; 1 % of it is 26 s, 5 % 2.16 min.
        for (silent, severity) in [(0, None), (1, Some("ticket")), (2, Some("ticket")), (3, Some("page"))] {
            let seen = absence(&level(999_000), &minutes(20_000, silent, |_| 100), NOW - 20_000, NOW);
            assert_eq!((seen.silent_minutes, seen.severity), (silent, severity), "{}", seen.clause);
        }
        // 98 %: 8.64 min and 43.2 min.
        for (silent, severity) in [(8, None), (9, Some("ticket")), (43, Some("ticket")), (44, Some("page"))] {
            assert_eq!(absence(&level(980_000), &minutes(20_000, silent, |_| 100), NOW - 20_000, NOW).severity, severity, "{silent} min");
        }
    }

    #[test]
    fn a_quiet_night_is_no_outage_and_neither_is_a_trickle_between_two_events() {
        let day = |minute: i64| if (480..1200).contains(&minute.rem_euclid(1440)) { 30 } else { 0 };
        let night = minutes(20_000, 0, day);
        assert_eq!(absence(&level(999_000), &night, NOW - 20_000, NOW).severity, None, "midnight");
        let trickle = minutes(40_000, 0, |minute| u64::from(minute % 30 == 0));
        for ago in 0..30 {
            let seen: Vec<_> = trickle.iter().filter(|m| m.minute < NOW - ago).copied().collect();
            assert_eq!(absence(&level(999_000), &seen, NOW - 40_000, NOW).severity, None);
        }
    }

    #[test]
    fn a_trickle_that_died_is_told_and_stays_told_for_eight_days() {
        let trickle = |silent| absence(&level(999_000), &minutes(43_200, silent, |minute| u64::from(minute % 30 == 0)), NOW - 43_200, NOW);
        assert_eq!(trickle(300).severity, None);
        assert_eq!(trickle(480).severity, Some("page"), "{}", trickle(480).clause);
        for day in 1..=8 {
            assert_eq!(trickle(day * 1440).severity, Some("page"), "{}", trickle(day * 1440).clause);
        }
    }

    #[test]
    fn silence_before_anybody_looked_means_nothing_and_the_unknown_is_said() {
        let seen = absence(&level(999_000), &minutes(20_000, 600, |_| 100), NOW, NOW);
        assert_eq!((seen.silent_minutes, seen.severity), (0, None));
        assert!(absence(&level(999_000), &[], NOW - 9, NOW).clause.contains("never was an event"));
        assert!(absence(&level(999_000), &minutes(600, 590, |_| 1), NOW - 600, NOW).clause.contains("too few events"));
        let ignored = Level { no_data: false, ..level(999_000) };
        assert_eq!(absence(&ignored, &minutes(20_000, 600, |_| 100), 0, NOW).severity, None);
    }
}
