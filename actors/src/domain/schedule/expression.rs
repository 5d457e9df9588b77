//! A cron expression on the clock of a zone. The rule for days on which the clock changes stands in the documentation of the family
//! (`mod.rs`); here it is two functions each: the next slot and the last one.
//!
//! Times of day are found by walking the pattern over the local clock and taking for each local time the first instant that shows it or
//! a later one. That never decreases, so the slots after an instant are those of the local times its clock has not shown yet, and both
//! directions agree by construction. Expressions that follow real time look at the instants themselves.

use chrono::{DateTime, TimeDelta, Timelike, Utc};
use chrono_tz::Tz;
use croner::parser::{CronParser, Seconds, Year};

use super::wall::{Back, Shown, Wall, back, latest_shown, shown, wall};

/// A checked cron expression: minute, hour, day of month, month, weekday; a sixth field in front means seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    text: String,
    pattern: Box<croner::Cron>,
    /// `None` is UTC.
    zone: Option<Tz>,
    /// It names hours, and not all of them: its slots are local times of day.
    names_hours: bool,
}

impl Expression {
    pub(super) fn new(expression: &str, zone: Option<Tz>) -> Result<Self, String> {
        let text = expression.trim().to_owned();
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let pattern = parser.parse(&text).map_err(|e| format!("cron expression \"{text}\": {e}"))?;
        pattern
            .find_next_occurrence(&DateTime::UNIX_EPOCH, false)
            .map_err(|_| format!("cron expression \"{text}\": no date ever matches it"))?;
        let names_hours = !(0..24).all(|hour| pattern.pattern.hour_match(hour).unwrap_or(false));
        Ok(Self { text, pattern: Box::new(pattern), zone, names_hours })
    }

    /// The expression as it was written, without its zone.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whose clock it is read on; `None` is UTC.
    pub fn zone(&self) -> Option<Tz> {
        self.zone
    }

    /// The first slot later than `after`; the caller checks that it is.
    pub(super) fn next(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let after = whole_second(after);
        match self.zone {
            None => self.match_from(after, false),
            Some(zone) if self.names_hours => Some(shown(zone, self.match_from(latest_shown(zone, after)?, false)?)?.first()),
            Some(zone) => {
                let in_second_pass = back(zone, after).and_then(|back| self.in_second_pass_from(zone, back, after));
                let onwards = || self.next_shown(zone, latest_shown(zone, after)?);
                // What the first pass still holds comes before the second one, and that before everything after it.
                match (onwards(), in_second_pass) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                }
            }
        }
    }

    /// The last slot not later than `at_or_before`; the caller checks that it is.
    pub(super) fn last(&self, at_or_before: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let through = whole_second(at_or_before);
        match self.zone {
            None => self.match_until(through),
            Some(zone) if self.names_hours => Some(shown(zone, self.match_until(latest_shown(zone, through)?)?)?.first()),
            Some(zone) => match back(zone, through).filter(|back| through >= back.change) {
                None => self.last_shown(zone, through),
                Some(back) => {
                    let now = wall(zone, through)?;
                    let since = now - self.match_until(now)?;
                    let in_second_pass = through.checked_sub_signed(since).filter(|slot| *slot >= back.change);
                    in_second_pass.or_else(|| self.last_shown(zone, second_before(back.change)?))
                }
            },
        }
    }

    /// The first slot after `after` in the second pass of a clock going back.
    fn in_second_pass_from(&self, zone: Tz, back: Back, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let from = back.change.max(after.checked_add_signed(TimeDelta::seconds(1))?);
        let now = wall(zone, from)?;
        let wait = self.match_from(now, true)? - now;
        from.checked_add_signed(wait).filter(|slot| *slot < back.end)
    }

    /// When the first local time after `from` that matches and exists is shown first.
    fn next_shown(&self, zone: Tz, from: Wall) -> Option<DateTime<Utc>> {
        let mut at = self.match_from(from, false)?;
        loop {
            match shown(zone, at)? {
                Shown::Once(instant) | Shown::Twice(instant, _) => return Some(instant),
                Shown::Never { end, .. } => at = self.match_from(wall(zone, end).filter(|wall| *wall > at)?, true)?,
            }
        }
    }

    /// When the last local time that matches and exists was shown, seen from an instant that is not in a second pass.
    fn last_shown(&self, zone: Tz, through: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut at = self.match_until(wall(zone, through)?)?;
        loop {
            match shown(zone, at)? {
                Shown::Once(instant) => return Some(instant),
                Shown::Twice(first, second) => return Some(if second <= through { second } else { first }),
                Shown::Never { before, .. } => at = self.match_until(before).filter(|wall| *wall < at)?,
            }
        }
    }

    fn match_from(&self, wall: Wall, inclusive: bool) -> Option<Wall> {
        self.pattern.find_next_occurrence(&wall, inclusive).ok()
    }

    fn match_until(&self, wall: Wall) -> Option<Wall> {
        self.pattern.find_previous_occurrence(&wall, true).ok()
    }
}

fn whole_second(time: DateTime<Utc>) -> DateTime<Utc> {
    time.with_nanosecond(0).unwrap_or(time)
}

fn second_before(time: DateTime<Utc>) -> Option<DateTime<Utc>> {
    time.checked_sub_signed(TimeDelta::seconds(1))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use chrono::{NaiveDate, TimeZone};
    use chrono_tz::TZ_VARIANTS;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::schedule::Schedule;

    fn zoned(text: &str, zone: &str) -> Schedule {
        Schedule::cron_in(text, zone).unwrap()
    }

    fn t(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    /// The slots of a UTC day that is not an ordinary one, as the local clock shows them.
    fn local_slots(expression: &str, zone: &str, from: &str, hours: i64) -> Vec<String> {
        let schedule = zoned(expression, zone);
        let from = t(from);
        let slots = schedule.slots(from - TimeDelta::seconds(1), from + TimeDelta::hours(hours), 1000);
        slots.iter().map(|slot| schedule.local(*slot).unwrap()[5..22].to_owned()).collect()
    }

    #[test]
    fn a_local_time_that_does_not_exist_runs_once_at_the_next_valid_instant() {
        let night = "2026-03-28T23:00:00Z"; // Berlin, 29 March 00:00; the clock goes from 02:00 to 03:00
        let cases: [(&str, &[&str]); 7] = [
            ("30 2 * * *", &["03-29T03:00:00+02"]),
            ("0 3 * * *", &["03-29T03:00:00+02"]),
            ("30 2,3 * * *", &["03-29T03:00:00+02", "03-29T03:30:00+02"]),
            ("*/15 2 * * *", &["03-29T03:00:00+02"]),
            ("0,30 1-3 * * *", &["03-29T01:00:00+01", "03-29T01:30:00+01", "03-29T03:00:00+02", "03-29T03:30:00+02"]),
            ("0 */2 * * *", &["03-29T00:00:00+01", "03-29T03:00:00+02", "03-29T04:00:00+02"]),
            ("30 * * * *", &["03-29T00:30:00+01", "03-29T01:30:00+01", "03-29T03:30:00+02", "03-29T04:30:00+02"]),
        ];
        for (expression, expected) in cases {
            assert_eq!(local_slots(expression, "Europe/Berlin", night, 4), expected, "{expression}");
        }
    }

    #[test]
    fn a_local_time_that_occurs_twice_runs_once_at_its_first_pass() {
        let night = "2026-10-24T22:00:00Z"; // Berlin, 25 October 00:00; the clock goes from 03:00 back to 02:00
        let cases: [(&str, &[&str]); 5] = [
            ("30 2 * * *", &["10-25T02:30:00+02"]),
            ("30 2,3 * * *", &["10-25T02:30:00+02", "10-25T03:30:00+01"]),
            ("0 */2 * * *", &["10-25T00:00:00+02", "10-25T02:00:00+02", "10-25T04:00:00+01"]),
            ("*/30 2 * * *", &["10-25T02:00:00+02", "10-25T02:30:00+02"]),
            ("30 * * * *", &["10-25T00:30:00+02", "10-25T01:30:00+02", "10-25T02:30:00+02", "10-25T02:30:00+01", "10-25T03:30:00+01"]),
        ];
        for (expression, expected) in cases {
            assert_eq!(local_slots(expression, "Europe/Berlin", night, 5), expected, "{expression}");
        }
    }

    #[test]
    fn shifts_of_half_an_hour_of_two_hours_and_of_a_day_follow_the_same_rule() {
        assert_eq!(local_slots("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T13:00:00Z", 12), ["10-04T02:30:00+11"]);
        assert_eq!(local_slots("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T13:00:00Z", 12), ["04-05T01:45:00+11"]);
        assert_eq!(local_slots("30 1,2 * * *", "Antarctica/Troll", "2026-03-29T00:00:00Z", 12), ["03-29T03:00:00+02"]);
        assert_eq!(local_slots("30 1,2 * * *", "Antarctica/Troll", "2026-10-24T22:00:00Z", 12), ["10-25T01:30:00+02", "10-25T02:30:00+02"]);
        // Samoa had no 30 December 2011.
        let samoa = ["12-29T02:30:00-10", "12-31T00:00:00+14", "12-31T02:30:00+14"];
        assert_eq!(local_slots("30 2 * * *", "Pacific/Apia", "2011-12-29T11:00:00Z", 48), samoa);
        assert_eq!(local_slots("0 0 30 12 *", "Pacific/Apia", "2011-12-29T11:00:00Z", 48), ["12-31T00:00:00+14"]);
    }

    #[test]
    fn the_end_of_the_calendar_is_never() {
        for expression in ["30 2 * * *", "0 * * * *"] {
            for zone in ["Asia/Tokyo", "America/Lima", "Europe/Berlin"] {
                let schedule = zoned(expression, zone);
                assert_eq!(schedule.next_after(DateTime::<Utc>::MAX_UTC), DateTime::<Utc>::MAX_UTC, "{expression} {zone}");
                assert_eq!(schedule.last_through(DateTime::<Utc>::MIN_UTC), None, "{expression} {zone}");
                assert!(schedule.local(DateTime::<Utc>::MAX_UTC - TimeDelta::hours(30)).is_some());
                let _ = (schedule.next_after(DateTime::<Utc>::MIN_UTC), schedule.last_through(DateTime::<Utc>::MAX_UTC));
            }
        }
    }

    #[test]
    fn ten_thousand_slots_are_no_work() {
        let start = std::time::Instant::now();
        for (expression, zone) in
            [("30 2 * * *", "Europe/Berlin"), ("*/5 9-17 * * 1-5", "America/New_York"), ("*/10 * * * *", "Asia/Tokyo")]
        {
            let schedule = zoned(expression, zone);
            let last = (0..10_000).fold(t("2026-01-01T00:00:00Z"), |at, _| schedule.next_after(at));
            assert!(last < DateTime::<Utc>::MAX_UTC);
        }
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }

    /// Our written rule by brute force: minute after minute of real time, with what the clock has shown so far.
    fn oracle(expression: &Expression, zone: Tz, from: DateTime<Utc>, minutes: i64) -> BTreeSet<DateTime<Utc>> {
        let matches = |wall: Wall| expression.pattern.is_time_matching(&wall).unwrap();
        let shown_at = |at: DateTime<Utc>| zone.from_utc_datetime(&at.naive_utc()).naive_local().and_utc();
        let mut found = BTreeSet::new();
        let mut shown_so_far = shown_at(from - TimeDelta::days(2)); // long before, so that no second pass begins before it
        for n in -2 * 24 * 60..minutes {
            let at = from + TimeDelta::minutes(n);
            let now = shown_at(at);
            let mut due = false;
            if expression.names_hours {
                while shown_so_far < now {
                    shown_so_far += TimeDelta::minutes(1);
                    due |= matches(shown_so_far);
                }
            } else {
                due = matches(now);
            }
            if due && n >= 0 {
                found.insert(at);
            }
        }
        found
    }

    const ZONES: [&str; 14] = [
        "Europe/Berlin",
        "Europe/Dublin",
        "America/New_York",
        "America/St_Johns",
        "America/Santiago",
        "America/Sao_Paulo",
        "Australia/Lord_Howe",
        "Antarctica/Troll",
        "Africa/Cairo",
        "Africa/Casablanca",
        "Asia/Gaza",
        "Asia/Tehran",
        "Asia/Pyongyang",
        "Pacific/Apia",
    ];

    /// The instants at which a zone's offset changes in a year.
    fn changes(zone: Tz, year: i32) -> Vec<DateTime<Utc>> {
        let start = NaiveDate::from_ymd_opt(year, 1, 1).unwrap().and_hms_opt(0, 0, 0).unwrap().and_utc();
        let offset = |at: DateTime<Utc>| chrono::Offset::fix(&zone.offset_from_utc_datetime(&at.naive_utc()));
        // Nothing undoes itself within a week; the exact moment is then looked for in quarters of an hour.
        let weeks = (0..53).map(|n| start + TimeDelta::weeks(n)).filter(|week| offset(*week) != offset(*week + TimeDelta::weeks(1)));
        weeks
            .flat_map(|week| (1..=7 * 96).map(move |n| week + TimeDelta::minutes(15 * n)))
            .filter(|at| offset(*at) != offset(*at - TimeDelta::minutes(15)))
            .collect()
    }

    #[test]
    fn every_minute_around_every_change_of_the_clock_agrees_with_the_written_rule() {
        let expressions = [
            "30 2 * * *",
            "0 0 * * *",
            "*/15 * * * *",
            "7 * * * *",
            "*/20 0-3 * * *",
            "* 2 * * *",
            "59 23 * * *",
            "0 */2 * * *",
            "10,40 1,2,3 * * 0",
            "0 * * * 0",
            "0 12 31 * 5",
        ];
        let mut checked = 0;
        for name in ZONES {
            let zone: Tz = name.parse().unwrap();
            for change in [2005, 2011, 2018, 2026].into_iter().flat_map(|year| changes(zone, year)) {
                let (from, minutes) = (change - TimeDelta::hours(26), 52 * 60);
                let to = from + TimeDelta::minutes(minutes - 1);
                for text in expressions {
                    let schedule = zoned(text, name);
                    let Schedule::Cron(expression) = &schedule else { unreachable!() };
                    let expected: Vec<_> = oracle(expression, zone, from, minutes).into_iter().collect();
                    assert_eq!(schedule.slots(from - TimeDelta::seconds(1), to, usize::MAX), expected, "{text} {name} {change}");
                    let mut backward: Vec<_> =
                        std::iter::successors(schedule.last_through(to), |slot| schedule.last_through(*slot - TimeDelta::milliseconds(1)))
                            .take_while(|slot| *slot >= from)
                            .collect();
                    backward.reverse();
                    assert_eq!(backward, expected, "{text} {name} {change} backward");
                    checked += expected.len();
                }
            }
        }
        assert!(checked > 10_000, "{checked}");
    }

    fn expression() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "30 2 * * *",
            "*/10 0-4 * * *",
            "15,45 * * * *",
            "0 0 * * *",
            "*/7 */3 * * *",
            "20 30 1 * * *",
            "0 0 1 1 *",
            "3 * 29 2 *",
        ])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn in_every_zone_both_directions_agree_and_always_move(
            zone in 0..TZ_VARIANTS.len(), expression in expression(), at in -1_000_000_000i64..4_200_000_000, ms in 0i64..1000,
        ) {
            let schedule = zoned(expression, TZ_VARIANTS[zone].name());
            let at = DateTime::from_timestamp_millis(at * 1000 + ms).unwrap();
            let (last, next) = (schedule.last_through(at).unwrap(), schedule.next_after(at));
            prop_assert!(last <= at && at < next && next < DateTime::<Utc>::MAX_UTC);
            prop_assert_eq!(schedule.next_after(last), next);
            prop_assert_eq!(schedule.last_through(next), Some(next));
            prop_assert_eq!(schedule.last_through(next - TimeDelta::milliseconds(1)), Some(last));
            prop_assert_eq!(schedule.count_between(last, next), 1);
        }

        #[test]
        fn around_a_change_of_the_clock_too(zone in prop::sample::select(ZONES.to_vec()), expression in expression(), year in 2000i32..2036, which: prop::sample::Index, offset in -100_000i64..100_000) {
            let changes = changes(zone.parse().unwrap(), year);
            prop_assume!(!changes.is_empty());
            let at = changes[which.index(changes.len())] + TimeDelta::seconds(offset);
            let schedule = zoned(expression, zone);
            let (last, next) = (schedule.last_through(at).unwrap(), schedule.next_after(at));
            prop_assert!(last <= at && at < next);
            prop_assert_eq!((schedule.next_after(last), schedule.last_through(next)), (next, Some(next)));
        }
    }
}
