//! Cases for `burn.rs`: hand numbers of the SRE workbook and of two measured incidents.

use super::super::{Minute, Objective};
use super::*;
use proptest::prelude::*;

const NOW: i64 = 29_000_000;

fn three_nines() -> Level {
    of(999_000)
}

fn of(success_ppm: u64) -> Level {
    Objective { success_ppm, ..Objective::default() }.level()
}

fn usual() -> Level {
    Objective::default().level()
}

/// `bad` of `total` in each of the minutes [from, to) before NOW.
fn minutes(from: i64, to: i64, total: u64, bad: u64) -> Vec<Minute> {
    (NOW - from..NOW - to).map(|minute| Minute { minute, total, bad, ..Minute::default() }).collect()
}

fn tier<'a>(report: &'a Report, long: &str) -> &'a TierState {
    report.objectives[0].tiers.iter().find(|tier| tier.long == long).unwrap()
}

#[test]
fn the_factors_follow_from_the_share_of_the_budget() {
    let factors = |days: i64| Tier::ALL.map(|tier| tier.factor(days * 1440));
    for (days, expected) in [(30, [14.4, 6.0, 3.0, 1.0]), (28, [13.44, 5.6, 2.8, 0.933_333])] {
        let close = factors(days).iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(close, "{days} days: {:?}", factors(days));
    }
}

#[test]
fn a_tier_fires_strictly_above_its_factor() {
    // 14.4 times a budget of 0.1 % is 1.44 %: 144 bad of 10 000 is exactly the limit.
    for (bad, firing) in [(144, false), (145, true)] {
        let mut rows = minutes(60, 0, 0, 0);
        rows[59] = Minute { minute: NOW - 1, total: 10_000, bad, ..Minute::default() };
        let report = burn(&three_nines(), &rows, NOW);
        assert_eq!(tier(&report, "1h").firing, firing, "{bad} bad");
    }
}

#[test]
fn both_windows_must_burn() {
    // An hour ago everything failed for half an hour; the last five minutes are fine.
    let rows = [minutes(60, 30, 100, 100), minutes(30, 0, 100, 0)].concat();
    let report = burn(&three_nines(), &rows, NOW);
    assert_eq!(report.objectives[0].burn.get("1h"), Some(500.0));
    assert_eq!(report.objectives[0].burn.get("5m"), Some(0.0));
    assert!(!tier(&report, "1h").firing && !tier(&report, "1h").held_back);
}

#[test]
fn the_open_minute_and_the_future_are_not_in_any_window() {
    let rows = [minutes(60, 0, 100, 0), minutes(0, -5, 100, 100)].concat();
    let report = burn(&three_nines(), &rows, NOW);
    assert_eq!((report.breach, report.objectives[0].budget.used), (false, 0));
}

#[test]
fn few_bad_events_are_held_back_and_said_so() {
    let objective = Level { min_events: 10, ..three_nines() };
    for (bad, firing) in [(1, false), (2, false), (3, true)] {
        // Ten requests an hour: one failure is 10 %, far above 1.44 %.
        let mut rows = minutes(43_200, 0, 0, 0);
        rows.iter_mut().step_by(6).for_each(|minute| minute.total = 1);
        (rows[43_199].total, rows[43_199].bad) = (bad, bad);
        let report = burn(&objective, &rows, NOW);
        let page = tier(&report, "1h");
        assert_eq!((page.firing, page.held_back, report.gate.met), (firing, !firing, firing), "{bad} bad");
    }
}

#[test]
fn the_budget_is_spent_by_events_not_by_hours() {
    // 2.906 million events in 30 days at 99.9 %; the measured day incident had 619 bad, the night incident 312.
    let traffic = |bad| {
        let mut rows = minutes(43_200, 0, 67, 0);
        rows[0].total += 2_906_000 - 43_200 * 67;
        rows[20_000].bad = bad;
        rows[20_000].total = 67;
        burn(&three_nines(), &rows, NOW).objectives[0].budget.clone()
    };
    let (day, night) = (traffic(619), traffic(312));
    assert_eq!((day.total, day.used, day.remaining), (2906, 619, 2287));
    assert!((day.used_ratio.unwrap() - 0.213).abs() < 5e-4, "{day:?}");
    assert!((night.used_ratio.unwrap() - 0.107_4).abs() < 5e-4, "{night:?}");
    assert!(!day.exhausted && day.exhausts_at.is_none(), "nothing failed within the last day");
}

#[test]
fn a_spent_budget_is_a_breach_and_a_burning_one_has_a_date() {
    // 2 % allowed of 43 200 * 10 events is 8640; 3600 bad in the last day leave 5040, which last 1.4 days more.
    let mut rows = minutes(43_200, 0, 10, 0);
    rows.iter_mut().rev().take(720).for_each(|minute| minute.bad = 5);
    let budget = burn(&usual(), &rows, NOW).objectives[0].budget.clone();
    assert_eq!((budget.total, budget.remaining, budget.exhausted), (8640, 5040, false));
    assert_eq!(budget.exhausts_at, start_of(NOW + 2016));

    rows.iter_mut().rev().skip(2000).take(1008).for_each(|minute| minute.bad = 5);
    let report = burn(&usual(), &rows, NOW);
    let spent = &report.objectives[0].budget;
    assert_eq!((spent.remaining, spent.exhausted, spent.exhausts_at), (0, true, None));
    assert_eq!((report.breach, report.budget_exhausted, spent.used_ratio), (true, true, Some(1.0)));
}

#[test]
fn the_worst_comes_first_and_since_is_when_it_began() {
    let rows = [minutes(43_200, 10, 100, 0), minutes(10, 0, 100, 100)].concat();
    let report = burn(&three_nines(), &rows, NOW);
    let worst = report.worst.clone().unwrap();
    assert_eq!((worst.objective, worst.severity, worst.windows.as_str()), ("availability", "page", "1h/5m"));
    // One failed minute in sixty is 1.67 % > 1.44 %: it fires from the first minute on.
    assert_eq!(tier(&report, "1h").since, start_of(NOW - 9));
}

#[test]
fn slow_answers_burn_the_latency_budget_only() {
    let rows: Vec<Minute> = (NOW - 60..NOW).map(|minute| Minute { minute, total: 10, slow: 10, ..Minute::default() }).collect();
    let report = burn(&usual(), &rows, NOW);
    assert_eq!(report.objectives[1].burn.get("1h"), Some(20.0));
    assert!(report.objectives[1].tiers[0].firing && !report.objectives[0].tiers[0].firing);
    assert!(report.objectives[0].burn.get("5m") == Some(0.0) && report.page);
}

#[test]
fn a_tier_that_can_never_fire_is_named() {
    let reachable = |success_ppm| {
        let report = burn::<Counts>(&of(success_ppm), [], NOW);
        report.objectives[0].tiers.iter().map(|tier| tier.reachable).collect::<Vec<_>>()
    };
    assert_eq!(reachable(930_556), [true, true, true, true]);
    assert_eq!(reachable(930_555), [false, true, true, true]);
    assert_eq!(reachable(800_000), [false, false, true, true]);
}

#[test]
fn nothing_observed_is_no_breach_and_has_no_rates() {
    let report = burn::<Counts>(&usual(), [], NOW);
    assert!(!report.breach && report.worst.is_none() && report.gate.met);
    assert_eq!((report.coverage, report.objectives[0].sli, report.objectives[0].budget.used_ratio), (0.0, None, None));
    assert_eq!(report.objectives[0].burn.get("30d"), None);
}

#[test]
fn a_burst_between_two_looks_is_found() {
    let rows = [minutes(43_200, 20, 100, 0), minutes(20, 14, 100, 90), minutes(14, 0, 100, 0)].concat();
    assert!(!tier(&burn(&three_nines(), &rows, NOW), "1h").firing, "over by now");
    let fired = fired_between(&three_nines(), &rows, NOW - 30, NOW);
    let quick = fired.iter().find(|f| (f.objective, f.long) == ("availability", "1h")).unwrap();
    assert_eq!((quick.severity, quick.first_minute, quick.last_minute, quick.minutes), ("page", NOW - 19, NOW - 10, 10));
    assert!(fired_between(&three_nines(), &rows, NOW - 5, NOW).iter().all(|f| f.long != "1h"));
}

proptest! {
    #[test]
    fn integer_and_exact_rational_comparison_agree(bad in 0u64..3000, more in 0u64..1_000_000, budget_ppm in 1u64..1_000_000, which in 0usize..4) {
        let (tier, total) = (Tier::ALL[which], bad + more);
        // factor * 10 is an integer for 30 days, the form of the rule in the literature.
        let factor10 = [144u128, 60, 30, 10][which];
        let expected = u128::from(bad) * 1_000_000 * 10 > factor10 * u128::from(budget_ppm) * u128::from(total);
        prop_assert_eq!(tier.exceeded(43_200, budget_ppm, (bad, total)), expected);
    }
}
