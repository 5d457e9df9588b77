//! The arithmetic of recurring billing: where a period ends and what a part of one costs. Called by subscriptions and their
//! renewals. Pure: time is an argument, money is an integer in minor units, and every line is rounded once.

use chrono::{DateTime, Months};
use serde_json::Value as Json;

use super::clock::DAY;

/// How often a price is charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    unit: Unit,
    count: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// Of this many seconds: a day or a week.
    Seconds(i64),
    /// Of this many calendar months: one, or a year.
    Months(i64),
}

impl Interval {
    /// Of a recurring price; none for one that is charged once.
    pub(super) fn of(price: &Json) -> Option<Self> {
        let recurring = &price["recurring"];
        let unit = match recurring["interval"].as_str()? {
            "day" => Unit::Seconds(DAY),
            "week" => Unit::Seconds(7 * DAY),
            "month" => Unit::Months(1),
            _ => Unit::Months(12),
        };
        Some(Self { unit, count: recurring["interval_count"].as_i64().unwrap_or(1).max(1) })
    }

    /// The first end of a period after `time`, counted from the anchor: a subscription of the 31st is charged on the last day of
    /// a shorter month and on the 31st again after it.
    pub(super) fn next_end(self, anchor: i64, time: i64) -> i64 {
        // Counted in the longest possible months, so never too far.
        let mut n = (time - anchor).div_euclid(self.count * self.longest()).max(0);
        loop {
            let end = self.end(anchor, n);
            if end > time {
                return end;
            }
            n += 1;
        }
    }

    fn longest(self) -> i64 {
        match self.unit {
            Unit::Seconds(seconds) => seconds,
            Unit::Months(months) => months * 31 * DAY,
        }
    }

    /// The anchor moved by `n` intervals.
    fn end(self, anchor: i64, n: i64) -> i64 {
        match self.unit {
            Unit::Seconds(seconds) => anchor + n * self.count * seconds,
            Unit::Months(months) => {
                let months = u32::try_from(n * self.count * months).unwrap_or(u32::MAX);
                let moved = DateTime::from_timestamp(anchor, 0).and_then(|at| at.checked_add_months(Months::new(months)));
                moved.map_or(i64::MAX, |at| at.timestamp())
            }
        }
    }
}

/// What the time from `now` to the end of the period costs of `amount`, rounded half up. All of it at the beginning, nothing at
/// the end.
pub(super) fn remaining(amount: i64, (start, end): (i64, i64), now: i64) -> i64 {
    let (whole, rest) = (i128::from(end - start), i128::from((end - now).clamp(0, (end - start).max(0))));
    if whole <= 0 {
        return 0;
    }
    i64::try_from((i128::from(amount) * rest * 2 + whole).div_euclid(whole * 2)).unwrap_or(i64::MAX)
}

/// What is due of an invoice's total after the customer's balance (negative: in the customer's favour), and the balance after it.
/// What is less than can be charged waits on the balance for the next invoice.
pub(super) fn settle(total: i64, balance: i64, minimum: i64) -> (i64, i64) {
    let raw = total.saturating_add(balance);
    if raw <= 0 || raw < minimum { (0, raw) } else { (raw, 0) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp()
    }

    fn every(interval: &str, count: i64) -> Interval {
        Interval::of(&json!({"recurring": {"interval": interval, "interval_count": count}})).unwrap()
    }

    #[test]
    fn a_period_ends_on_the_anchors_day_or_the_last_one_of_a_shorter_month() {
        let anchor = at("2025-12-31T10:00:00Z");
        let mut time = anchor;
        let mut ends = Vec::new();
        for _ in 0..4 {
            time = every("month", 1).next_end(anchor, time);
            ends.push(DateTime::from_timestamp(time, 0).unwrap().format("%m-%d").to_string());
        }
        assert_eq!(ends, ["01-31", "02-28", "03-31", "04-30"]);
        assert_eq!(every("year", 1).next_end(at("2024-02-29T00:00:00Z"), at("2024-02-29T00:00:00Z")), at("2025-02-28T00:00:00Z"));
        assert_eq!(every("week", 2).next_end(anchor, anchor), anchor + 14 * DAY);
        assert_eq!(every("month", 3).next_end(anchor, at("2026-01-05T00:00:00Z")), at("2026-03-31T10:00:00Z"));
        assert_eq!(every("day", 1).next_end(anchor, anchor + 400 * DAY), anchor + 401 * DAY);
        assert_eq!(Interval::of(&json!({"recurring": null})), None);
    }

    #[test]
    fn a_part_is_rounded_half_up_and_the_whole_is_exact() {
        for (amount, period, now, part) in [
            (3100, (0, 31), 0, 3100),
            (3100, (0, 31), 31, 0),
            (3100, (0, 31), 10, 2100),
            (100, (0, 3), 1, 67),
            (100, (0, 8), 7, 13),
            (100, (0, 3), -5, 100),
            (100, (0, 3), 9, 0),
            (100, (5, 5), 5, 0),
        ] {
            assert_eq!(remaining(amount, period, now), part, "{amount} {period:?} {now}");
        }
    }

    #[test]
    fn a_balance_is_used_before_a_card_and_a_trifle_waits() {
        assert_eq!(settle(5000, 0, 50), (5000, 0));
        assert_eq!(settle(5000, -2000, 50), (3000, 0));
        assert_eq!(settle(-1500, 0, 50), (0, -1500));
        assert_eq!(settle(1000, -2500, 50), (0, -1500));
        assert_eq!(settle(20, 0, 50), (0, 20));
        assert_eq!(settle(4900, 20, 50), (4920, 0));
    }

    proptest::proptest! {
        #[test]
        fn what_is_used_and_what_remains_are_the_whole_but_for_one_rounding(amount in 0_i64..100_000_000, length in 1_i64..40_000_000, cut in 0_i64..40_000_000) {
            let now = cut.min(length);
            let used = remaining(amount, (0, length), length - now);
            let rest = remaining(amount, (0, length), now);
            proptest::prop_assert!((used + rest - amount).abs() <= 1);
            proptest::prop_assert!((0..=amount).contains(&rest));
        }

        #[test]
        fn a_period_always_ends_after_the_time_and_not_twice(anchor in 0_i64..4_000_000_000, later in 0_i64..400_000_000, months in 1_i64..13) {
            let interval = every("month", months);
            let end = interval.next_end(anchor, anchor + later);
            proptest::prop_assert!(end > anchor + later);
            proptest::prop_assert!(interval.next_end(anchor, end - 1) == end);
        }
    }
}
