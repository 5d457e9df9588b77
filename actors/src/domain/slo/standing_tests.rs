//! Cases for `standing.rs`: which clause decides, and what is left out.

use super::super::{Objective, Slices, Window};
use super::*;

const NOW: i64 = 29_000_160;

fn level(success_ppm: u64) -> Level {
    Level { latency: None, no_data: true, ..Objective { success_ppm, ..Objective::default() }.level() }
}

fn minutes(from: i64, to: i64, total: u64, bad: u64) -> Vec<Counts> {
    (NOW - from..NOW - to).map(|minute| Counts { minute, total, bad, slow: 0 }).collect()
}

fn one(minute: i64, total: u64, bad: u64) -> Counts {
    Counts { minute, total, bad, slow: 0 }
}

fn excluded(from: i64, until: i64) -> Excluded {
    Excluded {
        id: "mnt_1".into(),
        kind: "maintenance".into(),
        from: NOW - from,
        until: NOW - until,
        reason: "move".into(),
        author: "kim".into(),
    }
}

fn judged(level: &Level, minutes: Vec<Counts>) -> Standing {
    stand(level, minutes, &[], NOW - 50_000, NOW)
}

#[test]
fn few_events_are_judged_by_what_they_prove() {
    use Status::{Fail, NoData, Pass};
    // (events, bad of them) in the last hour, at 99.9 %.
    let cases = [
        ((0, 0), NoData, "no_data"),
        ((1, 1), Pass, "within_objective"),
        ((2, 2), Pass, "within_objective"),
        ((3, 3), Fail, "success_rate_small_sample"),
        ((10, 1), Pass, "within_objective"),
        ((19, 2), Pass, "within_objective"),
        ((19, 3), Fail, "success_rate_small_sample"),
        ((20, 1), Fail, "success_rate"),
        ((1000, 1), Pass, "within_objective"),
        ((1000, 2), Fail, "success_rate"),
    ];
    for ((n, bad), status, rule) in cases {
        let rows = if n == 0 { vec![] } else { vec![one(NOW - 3, n, bad)] };
        let seen = judged(&level(999_000), rows).verdict;
        assert_eq!((seen.status, seen.rule), (status, rule), "{bad} of {n}: {}", seen.clause);
        assert_eq!(seen.error_rate_interval.is_some(), n > 0);
    }
}

#[test]
fn one_error_never_pages_and_a_dead_trickle_does() {
    // A month of ten events an hour without an error, then the last hours.
    let month = |tail: Vec<Counts>| {
        let mut rows: Vec<Counts> = minutes(43_000, 400, 0, 0);
        rows.iter_mut().step_by(6).for_each(|m| m.total = 1);
        rows.extend(tail);
        judged(&level(999_000), rows)
    };
    let hourly = |bad_from: i64| (NOW - 400..NOW).step_by(6).map(|m| one(m, 1, u64::from(m >= NOW - bad_from))).collect::<Vec<_>>();
    let one_bad = month(hourly(5));
    assert_eq!((one_bad.verdict.status, one_bad.severity()), (Status::Pass, None), "{}", one_bad.verdict.clause);
    assert_eq!(one_bad.report.objectives[0].tiers[0].held_by, Some("min_bad"));
    assert!(one_bad.report.objectives[0].tiers[0].burning, "what Prometheus would have fired is still shown");
    // Two hours of errors only: the hour has 10 events, too few for its tier; the six hours have enough.
    let two_hours = month(hourly(120));
    assert_eq!((two_hours.verdict.status, two_hours.severity()), (Status::Fail, Some("page")), "{}", two_hours.verdict.clause);
    assert_eq!(two_hours.report.objectives[0].tiers[0].held_by, Some("min_events"));
    // One event every two hours, all bad: three in six hours, and no tier can ever say so.
    let mut rows: Vec<Counts> = (1..300).map(|n| one(NOW - 400 - n * 120, 1, 0)).collect();
    rows.extend([one(NOW - 350, 1, 1), one(NOW - 230, 1, 1), one(NOW - 110, 1, 1)]);
    let trickle = judged(&level(990_000), rows);
    assert!(trickle.report.objectives[0].absolute.firing && trickle.report.page);
    assert!(trickle.report.objectives[0].tiers.iter().all(|tier| tier.severity != "page" || !tier.firing));
    assert_eq!((trickle.verdict.rule, trickle.severity()), ("absolute", Some("page")), "{}", trickle.verdict.clause);
}

#[test]
fn chance_alone_pages_nobody_in_a_month_of_few_events() {
    // Ten events an hour at half the allowed error rate, eight months of it from a fixed seed; every closed minute is looked at.
    let mut state = 20_261_128u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    // At all of what is allowed it may happen once.
    for (rate_ppm, most) in [(500, 0), (1000, 1)] {
        let mut pages = 0;
        for _ in 0..8 {
            let rows: Vec<Counts> = (NOW - 43_200..NOW)
                .filter_map(|minute| if next() % 6 == 0 { Some(one(minute, 1, u64::from(next() % 1_000_000 < rate_ppm))) } else { None })
                .collect();
            let fired = super::super::fired_between(&level(999_000), rows, NOW - 43_000, NOW);
            pages += fired.iter().filter(|f| f.severity == "page").count();
        }
        assert!(pages <= most, "{pages} at {rate_ppm} ppm");
    }
}

#[test]
fn silence_is_no_data_and_not_a_pass() {
    let seen = judged(&level(999_000), minutes(20_000, 10, 100, 0));
    assert_eq!((seen.verdict.status, seen.verdict.rule, seen.severity()), (Status::NoData, "absence", Some("page")));
    assert!(seen.verdict.clause.contains("no event for 10 min, in which 1000 were to be expected"), "{}", seen.verdict.clause);
    // During a maintenance, and right after it, it is not told.
    for until in [-5, 0] {
        let quiet = stand(&level(999_000), minutes(20_000, 10, 100, 0), &[excluded(10, until)], NOW - 20_000, NOW);
        assert_eq!((quiet.verdict.status, quiet.severity()), (Status::Pass, None), "{}", quiet.verdict.clause);
    }
}

#[test]
fn excluded_minutes_count_neither_for_nor_against_and_stay_visible() {
    let rows = [minutes(3000, 100, 100, 0), minutes(100, 40, 100, 100), minutes(40, 0, 100, 0)].concat();
    let before = judged(&level(999_000), rows.clone());
    assert_eq!((before.verdict.status, before.verdict.bad), (Status::Fail, 6000));
    let after = stand(&level(999_000), rows, &[excluded(100, 40)], NOW - 3000, NOW);
    assert_eq!((after.verdict.status, after.verdict.n, after.verdict.bad), (Status::Pass, 294_000, 0), "{}", after.verdict.clause);
    assert_eq!((after.excluded_events, after.excluded_bad, after.excluded.len(), after.severity()), (6000, 6000, 1, None));
    let shown = after.to_json();
    assert_eq!(
        (&shown["excluded"][0]["reason"], &shown["excluded"][0]["minutes"], &shown["status"]),
        (&json!("move"), &json!(60), &json!("PASS"))
    );
}

#[test]
fn a_calendar_window_forgets_the_month_before_and_tiers_do_not() {
    // The first of a month at 00:30 UTC; the last half hour of the month before was all errors.
    let now = "2026-12-01T00:30:00Z".parse::<chrono::DateTime<chrono::Utc>>().unwrap().timestamp() / 60;
    let month = Level { window: Window::parse("month", chrono_tz::Tz::UTC).unwrap(), ..level(990_000) };
    let rows: Vec<Counts> = (now - 60..now).map(|minute| one(minute, 100, if minute < now - 30 { 100 } else { 0 })).collect();
    let seen = stand(&month, rows.clone(), &[], now - 60, now);
    assert_eq!((seen.verdict.status, seen.verdict.bad, seen.report.objectives[0].budget.used), (Status::Pass, 0, 0));
    assert!(seen.report.objectives[0].burn.get("1h") > Some(40.0) && seen.report.objectives[0].burn.get("month") == Some(0.0));
    // A minute before midnight that was still the old month, and paged.
    let seen = stand(&month, rows, &[], now - 60, now - 30);
    assert_eq!((seen.verdict.status, seen.severity()), (Status::Fail, Some("page")));
}

#[test]
fn slices_of_time_weigh_a_busy_and_a_quiet_minute_alike() {
    // One busy minute fails entirely: 10 000 of 11 439 events, but one of 1440 slices.
    let mut rows = minutes(1440, 0, 1, 0);
    rows[700] = one(NOW - 740, 10_000, 10_000);
    let events = judged(&level(990_000), rows.clone());
    let slices = judged(&Level { slices: Some(Slices { minutes: 1, share_ppm: 950_000 }), ..level(990_000) }, rows);
    assert_eq!((events.verdict.status, slices.verdict.status), (Status::Fail, Status::Pass), "{}", slices.verdict.clause);
    assert_eq!((slices.report.objectives[0].n, slices.report.objectives[0].bad, slices.report.objectives[0].budget.total), (1440, 1, 14));
    let outage = judged(
        &Level { slices: Some(Slices { minutes: 5, share_ppm: 950_000 }), ..level(990_000) },
        [minutes(1440, 60, 10, 0), minutes(60, 0, 10, 10)].concat(),
    );
    assert_eq!(
        (outage.verdict.rule, outage.severity(), outage.report.objectives[0].bad),
        ("success_rate", Some("page"), 12),
        "{}",
        outage.verdict.clause
    );
}
