//! The audit's own decisions: which archives are due, which days are missing.

use std::collections::BTreeSet;

use chrono::{NaiveDate, TimeDelta};

use super::archives::{gaps, is_due};

fn day(d: u32) -> NaiveDate {
    NaiveDate::from_ymd_opt(2026, 3, d).unwrap()
}

#[test]
fn a_day_without_an_archive_is_named_but_today_may_still_come_and_retention_leaves_no_gap() {
    let dates = BTreeSet::from([day(1), day(2), day(4)]);
    let none = BTreeSet::new();
    assert_eq!(gaps(&dates, &none, day(5)), [day(3)]);
    assert_eq!(gaps(&dates, &none, day(6)), [day(3), day(5)]);
    assert_eq!(gaps(&BTreeSet::new(), &none, day(6)), []);
    assert_eq!(gaps(&dates, &BTreeSet::from([day(3)]), day(6)), [day(5)]);
}

#[test]
fn every_archive_is_read_whole_once_in_any_four_weeks_and_a_quarter_each_week() {
    let monday = NaiveDate::from_ymd_opt(2026, 12, 14).unwrap(); // over a new year
    for first in 0..30 {
        let archive = monday - TimeDelta::days(first);
        for start in 0..6 {
            let due = (start..start + 4).filter(|week| is_due(archive, monday + TimeDelta::weeks(*week))).count();
            assert_eq!(due, 1, "{archive} from week {start}");
        }
    }
    let due = (0..28).filter(|n| is_due(monday - TimeDelta::days(*n), monday)).count();
    assert_eq!(due, 7);
}
