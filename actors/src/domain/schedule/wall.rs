//! A zone's local clock and real time: which instants show a local time, and which local times an instant's clock has shown. Used by
//! `expression.rs`. A local time is written as a `DateTime<Utc>` of the same digits ([`Wall`]), which is what the pattern is walked over.

use chrono::{DateTime, MappedLocalTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::{GapInfo, Tz};

/// What the clock on the wall shows, labelled UTC. Whole seconds.
pub(super) type Wall = DateTime<Utc>;

/// When the clock shows a local time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// Once.
    Once(DateTime<Utc>),
    /// Twice, because the clock went back.
    Twice(DateTime<Utc>, DateTime<Utc>),
    /// Never, because the clock went forward: from `before`, the last second it did show, straight to what it shows at `end`.
    Never { before: Wall, end: DateTime<Utc> },
}

impl Shown {
    /// The first instant at which the clock shows this time or a later one.
    pub(super) fn first(self) -> DateTime<Utc> {
        match self {
            Self::Once(instant) | Self::Twice(instant, _) | Self::Never { end: instant, .. } => instant,
        }
    }
}

/// The clock going back, seen from inside of the times it shows twice: first pass up to `change`, second pass from there to `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Back {
    pub(super) change: DateTime<Utc>,
    pub(super) end: DateTime<Utc>,
}

/// What the clock shows at an instant. `None` at the end of the calendar.
pub(super) fn wall(zone: Tz, instant: DateTime<Utc>) -> Option<Wall> {
    instant.checked_add_signed(offset(zone, instant))
}

/// When the clock shows this. `None` outside of what is known about the zone.
pub(super) fn shown(zone: Tz, wall: Wall) -> Option<Shown> {
    let local: NaiveDateTime = wall.naive_utc();
    let instant = |offset: chrono_tz::TzOffset| wall.checked_sub_signed(seconds(&offset));
    match zone.offset_from_local_datetime(&local) {
        MappedLocalTime::Single(offset) => Some(Shown::Once(instant(offset)?)),
        MappedLocalTime::Ambiguous(a, b) => {
            let (a, b) = (instant(a)?, instant(b)?);
            Some(Shown::Twice(a.min(b), a.max(b)))
        }
        MappedLocalTime::None => {
            let gap = GapInfo::new(&local, &zone)?;
            let (begin, _) = gap.begin?;
            let before = begin.and_utc().checked_sub_signed(TimeDelta::seconds(1))?;
            Some(Shown::Never { before, end: gap.end?.with_timezone(&Utc) })
        }
    }
}

/// The clock going back, if `instant` is in one of the two passes.
pub(super) fn back(zone: Tz, instant: DateTime<Utc>) -> Option<Back> {
    let Shown::Twice(first, second) = shown(zone, wall(zone, instant)?)? else { return None };
    let change = change(zone, first, second);
    Some(Back { change, end: change.checked_add_signed(second - first)? })
}

/// The latest local time the clock has shown up to and including `instant`: in a second pass that is the end of the first one.
pub(super) fn latest_shown(zone: Tz, instant: DateTime<Utc>) -> Option<Wall> {
    match back(zone, instant) {
        Some(Back { change, .. }) if instant >= change => wall(zone, change.checked_sub_signed(TimeDelta::seconds(1))?),
        _ => wall(zone, instant),
    }
}

/// The first instant after `from`, up to `to`, that has another offset than `from`.
fn change(zone: Tz, from: DateTime<Utc>, to: DateTime<Utc>) -> DateTime<Utc> {
    let before = offset(zone, from);
    let (mut same, mut other) = (from.timestamp(), to.timestamp());
    while other - same > 1 {
        let middle = same + (other - same) / 2;
        let instant = DateTime::from_timestamp(middle, 0).unwrap_or(to);
        if offset(zone, instant) == before { same = middle } else { other = middle }
    }
    DateTime::from_timestamp(other, 0).unwrap_or(to)
}

fn offset(zone: Tz, instant: DateTime<Utc>) -> TimeDelta {
    seconds(&zone.offset_from_utc_datetime(&instant.naive_utc()))
}

fn seconds(offset: &chrono_tz::TzOffset) -> TimeDelta {
    TimeDelta::seconds(offset.fix().local_minus_utc().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t(text: &str) -> DateTime<Utc> {
        format!("{text}Z").parse().unwrap()
    }

    #[test]
    fn a_local_time_is_shown_once_twice_or_never() {
        let cases = [
            (Tz::Europe__Berlin, "2026-01-10T02:30:00", Shown::Once(t("2026-01-10T01:30:00"))),
            (Tz::Europe__Berlin, "2026-10-25T02:30:00", Shown::Twice(t("2026-10-25T00:30:00"), t("2026-10-25T01:30:00"))),
            (Tz::Europe__Berlin, "2026-03-29T02:30:00", Shown::Never { before: t("2026-03-29T01:59:59"), end: t("2026-03-29T01:00:00") }),
            (
                Tz::Australia__Lord_Howe,
                "2026-10-04T02:10:00",
                Shown::Never { before: t("2026-10-04T01:59:59"), end: t("2026-10-03T15:30:00") },
            ),
            (Tz::Pacific__Apia, "2011-12-30T12:00:00", Shown::Never { before: t("2011-12-29T23:59:59"), end: t("2011-12-30T10:00:00") }),
        ];
        for (zone, wall, expected) in cases {
            assert_eq!(shown(zone, t(wall)), Some(expected), "{zone} {wall}");
        }
    }

    #[test]
    fn in_the_second_pass_the_clock_has_already_shown_all_of_the_first() {
        let zone = Tz::Europe__Berlin;
        let cases = [
            ("2026-10-25T00:00:00", "2026-10-25T02:00:00"),
            ("2026-10-25T00:59:59", "2026-10-25T02:59:59"),
            ("2026-10-25T01:00:00", "2026-10-25T02:59:59"),
            ("2026-10-25T01:59:59", "2026-10-25T02:59:59"),
            ("2026-10-25T02:00:00", "2026-10-25T03:00:00"),
        ];
        for (instant, latest) in cases {
            assert_eq!(latest_shown(zone, t(instant)), Some(t(latest)), "{instant}");
        }
        assert_eq!(back(zone, t("2026-10-25T00:30:00")), Some(Back { change: t("2026-10-25T01:00:00"), end: t("2026-10-25T02:00:00") }));
        assert_eq!(back(zone, t("2026-10-25T02:00:00")), None);
    }

    #[test]
    fn the_end_of_the_calendar_is_no_panic() {
        for end in [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC] {
            for zone in [Tz::Asia__Tokyo, Tz::America__Lima, Tz::Europe__Berlin] {
                let _ = (latest_shown(zone, end), back(zone, end), shown(zone, end));
            }
        }
    }
}
