//! When a task is due: an interval anchored at the Unix epoch, or a cron expression on the clock of UTC or of a named zone. The timer
//! asks for the slots, for jitter and blackout windows, and for the plan (`plan.rs`) of what becomes of each of them; the API and the command line ask for previews. Never reads a clock.
//!
//! In a cron expression a restricted day of the month and a restricted weekday are joined by OR, a stepped star (`*/20`) counts as restricted.
//!
//! # Days on which the clock changes
//!
//! An expression may be read on the clock of a named time zone (`expression.rs`). Which of two rules holds depends on its hour field:
//!
//! * It **names hours** (`30 2 * * *`, `*/15 1-3 * * *`, `0 */6 * * *`): its slots are local times of day. A local time that does not exist
//!   runs once, at the next instant that does exist: several such times of one gap are one slot, and one slot with a regular one at that
//!   instant. A local time that occurs twice runs once, at its first pass. So every local time of day has its run, and never two.
//! * It **leaves the hour open** (`*`, or anything that allows all 24): it names no time of day and follows real time, as cron does. Its
//!   slots are all instants at which the local clock shows a matching time; nothing is moved, merged or left out.

mod agenda;
mod blackout;
mod expression;
mod jitter;
mod plan;
mod policy;
mod wall;
mod words;
mod zone;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

pub use agenda::{Agenda, Decision, Fate, Round};
pub use blackout::Blackout;
pub use expression::Expression;
pub use jitter::jitter;
pub use plan::{CatchUp, DEFAULT_CHUNK, Plan, plan, plan_chunk};
pub use policy::{Orphan, Overlap, Policy};

/// The version of the time zone database that is compiled in, such as `2025b`.
pub const TIME_ZONE_DATABASE: &str = chrono_tz::IANA_TZDB_VERSION;

/// When a task is due. Slots are whole seconds in UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Every `seconds`, at the multiples of it since the Unix epoch: a restart neither loses nor adds a slot. At least 1.
    Every { seconds: i64 },
    /// At the times an expression names; made by [`Schedule::cron`], which is what guarantees that there always is a next one.
    Cron(Expression),
}

impl Schedule {
    /// An interval in seconds; anything below one second counts as one.
    pub const fn every(seconds: i64) -> Self {
        Self::Every { seconds: if seconds < 1 { 1 } else { seconds } }
    }

    /// A cron expression in UTC. The error is a sentence naming the expression: it does not parse, or no date ever matches it (30 February).
    pub fn cron(expression: &str) -> Result<Self, String> {
        Self::on_clock(expression, None)
    }

    /// A cron expression on the clock of a time zone by its name (`Europe/Berlin`). The error is a sentence, also for an unknown zone.
    pub fn cron_in(expression: &str, zone: &str) -> Result<Self, String> {
        Self::on_clock(expression, zone::named(zone)?)
    }

    fn on_clock(expression: &str, zone: Option<Tz>) -> Result<Self, String> {
        Expression::new(expression, zone).map(Self::Cron)
    }

    /// What the clock of its zone shows at an instant, with the offset: `2026-03-29T03:00:00+02:00`. `None` in UTC.
    pub fn local(&self, at: DateTime<Utc>) -> Option<String> {
        let zone = match self {
            Self::Every { .. } => None,
            Self::Cron(expression) => expression.zone(),
        }?;
        wall::wall(zone, at)?; // at the very end of the calendar there is no local time
        Some(at.with_timezone(&zone).to_rfc3339_opts(chrono::SecondsFormat::Secs, false))
    }

    /// The first slot strictly later than `after`. Past the end of the calendar (year 5000) it is the last representable instant.
    pub fn next_after(&self, after: DateTime<Utc>) -> DateTime<Utc> {
        let next = match self {
            Self::Every { seconds } => {
                let seconds = (*seconds).max(1);
                at(after.timestamp().div_euclid(seconds).saturating_add(1).saturating_mul(seconds))
            }
            Self::Cron(expression) => expression.next(after),
        };
        // A library that returned an instant of the past would make the timer spin: fail towards "never" instead.
        next.filter(|slot| *slot > after).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// The last slot not later than `at_or_before`, if there is one.
    pub fn last_through(&self, at_or_before: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Self::Every { seconds } => {
                let seconds = (*seconds).max(1);
                at(at_or_before.timestamp().div_euclid(seconds) * seconds)
            }
            Self::Cron(expression) => expression.last(at_or_before).filter(|slot| *slot <= at_or_before),
        }
    }

    /// The slots in (after, through], oldest first, at most `limit` of them.
    pub fn slots(&self, after_exclusive: DateTime<Utc>, through_inclusive: DateTime<Utc>, limit: usize) -> Vec<DateTime<Utc>> {
        self.upcoming(after_exclusive).take(limit).take_while(|slot| *slot <= through_inclusive).collect()
    }

    /// How many slots lie in (after, through]. Immediate for an interval; an expression is walked.
    pub fn count_between(&self, after_exclusive: DateTime<Utc>, through_inclusive: DateTime<Utc>) -> u64 {
        if through_inclusive <= after_exclusive {
            return 0;
        }
        match self {
            Self::Every { seconds } => {
                let seconds = (*seconds).max(1);
                let count = through_inclusive.timestamp().div_euclid(seconds) - after_exclusive.timestamp().div_euclid(seconds);
                count.unsigned_abs()
            }
            Self::Cron(_) => self.upcoming(after_exclusive).take_while(|slot| *slot <= through_inclusive).count() as u64,
        }
    }

    /// The usual distance between two slots in seconds: the interval, or the median of an expression's next 16 distances.
    pub fn typical_period_s(&self) -> i64 {
        match self {
            Self::Every { seconds } => (*seconds).max(1),
            Self::Cron(_) => {
                // Some ordinary Monday: any fixed start will do, it only has to be the same every time.
                let start = DateTime::UNIX_EPOCH + TimeDelta::days(20_458);
                let slots: Vec<_> = self.upcoming(start).take(17).collect();
                let mut gaps: Vec<i64> = slots.windows(2).map(|pair| (pair[1] - pair[0]).num_seconds()).collect();
                gaps.sort_unstable();
                gaps.get(gaps.len() / 2).copied().unwrap_or(i64::MAX)
            }
        }
    }

    /// What becomes of slots that passed unserved unless the task says otherwise: `skip` below one hour, else `once`.
    pub fn default_catch_up(&self) -> CatchUp {
        if self.typical_period_s() < 3600 { CatchUp::Skip } else { CatchUp::Once }
    }

    fn upcoming(&self, after: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> + '_ {
        let step = |slot: DateTime<Utc>| Some(self.next_after(slot)).filter(|next| *next < DateTime::<Utc>::MAX_UTC);
        std::iter::successors(step(after), move |slot| step(*slot))
    }
}

fn at(seconds: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(seconds, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn t(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn cron(text: &str) -> Schedule {
        Schedule::cron(text).unwrap()
    }

    #[test]
    fn the_next_slot_is_strictly_later() {
        let cases = [
            (Schedule::every(60), "2025-10-20T00:00:00Z", "2025-10-20T00:01:00Z"),
            (Schedule::every(60), "2025-10-20T00:00:59.999Z", "2025-10-20T00:01:00Z"),
            (Schedule::every(60), "2025-10-20T00:01:00.001Z", "2025-10-20T00:02:00Z"),
            (Schedule::every(21_600), "2025-10-20T05:59:59Z", "2025-10-20T06:00:00Z"),
            (cron("50 23 * * *"), "2025-10-20T23:50:00Z", "2025-10-21T23:50:00Z"),
            (cron("50 23 * * *"), "2025-10-20T23:49:59.5Z", "2025-10-20T23:50:00Z"),
            (cron("50 23 * * *"), "2025-10-20T23:50:00.5Z", "2025-10-21T23:50:00Z"),
            (cron("30 0 * * 1"), "2025-10-20T00:30:00Z", "2025-10-27T00:30:00Z"),
            (cron("0 0 29 2 *"), "2025-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            (cron("0 0 29 2 *"), "2096-03-01T00:00:00Z", "2104-02-29T00:00:00Z"),
        ];
        for (schedule, after, expected) in cases {
            assert_eq!(schedule.next_after(t(after)), t(expected), "{} after {after}", schedule.describe());
        }
        assert_eq!(Schedule::every(60).next_after(DateTime::<Utc>::MAX_UTC), DateTime::<Utc>::MAX_UTC);
        assert_eq!(cron("0 0 * * *").next_after(DateTime::<Utc>::MAX_UTC), DateTime::<Utc>::MAX_UTC);
    }

    #[test]
    fn intervals_are_anchored_at_the_epoch_also_before_it() {
        assert_eq!(Schedule::every(60).next_after(t("1969-12-31T23:58:30Z")), t("1969-12-31T23:59:00Z"));
        assert_eq!(Schedule::every(7).next_after(t("1970-01-01T00:00:00Z")).timestamp(), 7);
    }

    #[test]
    fn an_expression_that_cannot_run_is_refused_with_a_sentence() {
        for bad in ["", "* * * *", "61 * * * *", "0 0 30 2 *", "soon", "@reboot", "0 0 1 1 * 2030 7 8"] {
            let error = Schedule::cron(bad).unwrap_err();
            assert!(error.starts_with("cron expression"), "{bad}: {error}");
        }
    }

    #[test]
    fn the_typical_period_decides_the_default_catch_up() {
        let cases = [
            (Schedule::every(180), 180, CatchUp::Skip),
            (Schedule::every(3600), 3600, CatchUp::Once),
            (cron("*/5 * * * *"), 300, CatchUp::Skip),
            (cron("50 23 * * *"), 86_400, CatchUp::Once),
            (cron("30 0 * * 1"), 604_800, CatchUp::Once),
        ];
        for (schedule, period, policy) in cases {
            assert_eq!((schedule.typical_period_s(), schedule.default_catch_up()), (period, policy), "{}", schedule.describe());
        }
    }

    proptest! {
        #[test]
        fn slots_counts_and_steps_agree(start in 0i64..4_000_000_000, span in 0i64..2_000_000, which in 0usize..5) {
            let schedule = [Schedule::every(3600), Schedule::every(7213), cron("50 23 * * *"), cron("13 */7 * * *"), cron("30 0 1 * 1")][which].clone();
            let (from, to) = (at(start).unwrap(), at(start + span).unwrap());
            let slots = schedule.slots(from, to, usize::MAX);
            prop_assert_eq!(slots.len() as u64, schedule.count_between(from, to));
            prop_assert!(slots.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(slots.iter().all(|slot| *slot > from && *slot <= to));
            prop_assert!(schedule.next_after(to) > to);
            let last = schedule.last_through(to).unwrap();
            prop_assert!(last <= to && schedule.next_after(last) > to);
            if let Some(newest) = slots.last() {
                prop_assert_eq!(*newest, last);
            }
        }
    }
}
