//! Which archives stay and which go, each with its reason in words. Used by the backup actor for the local folder and by the sync for
//! the second target. Pure, and careful: the newest archive that is known to restore never goes, nor anything newer than it, and one
//! that is not known to restore never takes the place of one that is.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use chrono::{DateTime, Datelike as _, NaiveDate, TimeDelta, Utc};

/// What is known of an archive's worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It was restored, and everything was there.
    Proven,
    /// Nobody tried yet.
    Unproven,
    /// Something could not be archived whole.
    Partial,
    /// Its proof failed.
    Failed,
}

/// One archive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Archive {
    /// The UTC day that it is the archive of.
    pub date: NaiveDate,
    pub made_at: DateTime<Utc>,
    pub size_bytes: u64,
    pub state: State,
    /// Why it must stay whatever the rules say; `None` for most.
    pub pinned: Option<String>,
}

/// The `[retention]` section. A count of 0 is a rule that keeps nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub keep_last: usize,
    pub keep_within_days: i64,
    pub keep_daily: usize,
    pub keep_weekly: usize,
    pub keep_monthly: usize,
    pub keep_yearly: usize,
    /// No more go at a time.
    pub max_removed: usize,
}

/// What becomes of an archive.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Decision {
    #[serde(flatten)]
    pub archive: Archive,
    pub keep: bool,
    /// Every rule that keeps it, or why none does.
    pub reasons: Vec<String>,
}

/// A way to say which period a day is in: names sort as the periods do.
type Period = fn(NaiveDate) -> String;

const PERIODS: [(&str, Period); 4] = [
    ("day", |d| d.to_string()),
    ("ISO week", |d| format!("{:04}-W{:02}", d.iso_week().year(), d.iso_week().week())),
    ("month", |d| d.format("%Y-%m").to_string()),
    ("year", |d| d.format("%Y").to_string()),
];

/// Decides for every archive, newest first. The order of the input does not matter.
pub fn plan(archives: &[Archive], policy: &Policy, now: DateTime<Utc>) -> Vec<Decision> {
    let mut sorted: Vec<&Archive> = archives.iter().collect();
    sorted.sort_by_key(|a| Reverse(*a));
    let mut reasons: Vec<Vec<String>> = sorted.iter().map(|a| standing(a, policy, now)).collect();
    let proven: Vec<usize> = (0..sorted.len()).filter(|i| sorted[*i].state == State::Proven).collect();
    match proven.first() {
        Some(last) => {
            reasons[*last].push("the last proven archive".into());
            for newer in &mut reasons[..*last] {
                newer.push("newer than the last proven archive".into());
            }
        }
        None => reasons.iter_mut().for_each(|r| r.push("no archive is proven: nothing is removed".into())),
    }
    for (n, i) in proven.iter().take(policy.keep_last).enumerate() {
        reasons[*i].push(if n == 0 { "the newest".into() } else { format!("one of the newest {}", policy.keep_last) });
    }
    let counts = [policy.keep_daily, policy.keep_weekly, policy.keep_monthly, policy.keep_yearly];
    for ((kind, period), count) in PERIODS.into_iter().zip(counts) {
        periodic(&sorted, &mut reasons, kind, period, count);
    }
    limited(&sorted, reasons, policy.max_removed)
}

/// The reasons that have nothing to do with the other archives.
fn standing(archive: &Archive, policy: &Policy, now: DateTime<Utc>) -> Vec<String> {
    let mut reasons: Vec<String> = archive.pinned.iter().cloned().collect();
    let young =
        TimeDelta::try_days(policy.keep_within_days).and_then(|d| now.checked_sub_signed(d)).is_none_or(|oldest| archive.made_at > oldest);
    if policy.keep_within_days > 0 && young {
        reasons.push(format!("younger than {} days", policy.keep_within_days));
    }
    reasons
}

/// Keeps the newest proven archive of each of the newest `count` periods that have one. A period in between that has only archives that
/// are unproven or partial keeps its newest one too: it is better than none, and takes nobody's place.
fn periodic(sorted: &[&Archive], reasons: &mut [Vec<String>], kind: &str, period: Period, count: usize) {
    let newest_of = |states: &[State]| {
        let mut newest: BTreeMap<String, usize> = BTreeMap::new();
        for (i, archive) in sorted.iter().enumerate().filter(|(_, a)| states.contains(&a.state)) {
            newest.entry(period(archive.date)).or_insert(i);
        }
        newest
    };
    let proven = newest_of(&[State::Proven]);
    for (name, i) in proven.iter().rev().take(count) {
        reasons[*i].push(format!("newest of {kind} {name}"));
    }
    // Without this many periods, the rule reaches back to the beginning.
    let oldest = count.checked_sub(1).map(|n| proven.keys().rev().nth(n));
    for (name, i) in newest_of(&[State::Unproven, State::Partial]) {
        let in_reach = oldest.is_some_and(|oldest| oldest.is_none_or(|oldest| name > *oldest));
        if in_reach && !proven.contains_key(&name) {
            reasons[i].push(format!("newest of {kind} {name}, which has no proven one; it takes no place"));
        }
    }
}

/// Takes the oldest first of those that no rule keeps, and no more than `max` of them.
fn limited(sorted: &[&Archive], reasons: Vec<Vec<String>>, max: usize) -> Vec<Decision> {
    let excess = reasons.iter().filter(|r| r.is_empty()).count().saturating_sub(max);
    let mut spared = 0;
    let decide = |(archive, reasons): (&&Archive, Vec<String>)| {
        let (keep, reasons) = match (reasons.is_empty(), spared < excess) {
            (false, _) => (true, reasons),
            (true, true) => {
                spared += 1;
                (true, vec![format!("for now: no more than {max} are removed at a time")])
            }
            (true, false) => (false, vec!["no rule keeps it".to_owned()]),
        };
        Decision { archive: (*archive).clone(), keep, reasons }
    };
    sorted.iter().zip(reasons).map(decide).collect()
}

/// The archives of payouts, by their days: those that go. They are not backups but evidence, and have a rule of their own: `keep_days`
/// full days stay, 0 means all for ever.
pub fn payouts_to_remove(dates: &BTreeSet<NaiveDate>, keep_days: i64, today: NaiveDate, max_removed: usize) -> Vec<NaiveDate> {
    let oldest = TimeDelta::try_days(keep_days).and_then(|d| today.checked_sub_signed(d));
    match oldest {
        Some(oldest) if keep_days > 0 => dates.iter().copied().take_while(|d| *d < oldest).take(max_removed).collect(),
        _ => Vec::new(),
    }
}

/// Of things that are made often (checkpoints), those that go: all of the last `days` stay, and of each day before them the newest.
pub fn thinned(made: &[DateTime<Utc>], days: i64, now: DateTime<Utc>) -> BTreeSet<DateTime<Utc>> {
    let newest: BTreeMap<NaiveDate, DateTime<Utc>> =
        made.iter().copied().collect::<BTreeSet<_>>().into_iter().map(|at| (at.date_naive(), at)).collect();
    let oldest = now - TimeDelta::days(days);
    made.iter().copied().filter(|at| *at < oldest && newest.get(&at.date_naive()) != Some(at)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: Policy = Policy {
        keep_last: 3,
        keep_within_days: 2,
        keep_daily: 7,
        keep_weekly: 5,
        keep_monthly: 12,
        keep_yearly: 3,
        max_removed: usize::MAX,
    };
    const NONE: Policy = Policy {
        keep_last: 0,
        keep_within_days: 0,
        keep_daily: 0,
        keep_weekly: 0,
        keep_monthly: 0,
        keep_yearly: 0,
        max_removed: usize::MAX,
    };

    fn day(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    fn archive(date: &str, state: State) -> Archive {
        let date = day(date);
        Archive { date, made_at: date.and_hms_opt(0, 30, 0).unwrap().and_utc(), size_bytes: 1000, state, pinned: None }
    }

    fn now() -> DateTime<Utc> {
        "2026-03-10T12:00:00Z".parse().unwrap()
    }

    fn kept(archives: &[Archive], policy: &Policy) -> Vec<String> {
        plan(archives, policy, now()).iter().filter(|d| d.keep).map(|d| d.archive.date.to_string()).collect()
    }

    fn reasons(archives: &[Archive], policy: &Policy, date: &str) -> String {
        plan(archives, policy, now()).iter().find(|d| d.archive.date == day(date)).unwrap().reasons.join("; ")
    }

    #[test]
    fn each_rule_keeps_the_newest_of_its_periods_and_says_so() {
        use State::Proven;
        let days = ["2026-03-09", "2026-03-08", "2026-03-02", "2026-03-01", "2026-02-27", "2026-01-31", "2025-12-31", "2024-06-01"];
        let all: Vec<_> = days.iter().map(|d| archive(d, Proven)).collect();
        assert_eq!(kept(&all, &Policy { keep_last: 2, ..NONE }), ["2026-03-09", "2026-03-08"]);
        assert_eq!(kept(&all, &Policy { keep_within_days: 3, ..NONE }), ["2026-03-09", "2026-03-08"]);
        // The 8th of March 2026 is a Sunday: the end of a week that the 2nd began.
        assert_eq!(kept(&all, &Policy { keep_weekly: 3, ..NONE }), ["2026-03-09", "2026-03-08", "2026-03-01"]);
        assert_eq!(kept(&all, &Policy { keep_monthly: 3, ..NONE }), ["2026-03-09", "2026-02-27", "2026-01-31"]);
        assert_eq!(kept(&all, &Policy { keep_yearly: 5, ..NONE }), ["2026-03-09", "2025-12-31", "2024-06-01"]);
        assert_eq!(reasons(&all, &Policy { keep_weekly: 3, ..NONE }, "2026-03-01"), "newest of ISO week 2026-W09");
        assert_eq!(reasons(&all, &Policy { keep_yearly: 5, ..NONE }, "2024-06-01"), "newest of year 2024");
        assert_eq!(reasons(&all, &NONE, "2026-03-02"), "no rule keeps it");
        assert_eq!(reasons(&all, &NONE, "2026-03-09"), "the last proven archive");
    }

    #[test]
    fn what_is_not_proven_takes_no_place_and_what_is_newer_than_the_last_proven_stays() {
        use State::{Failed, Partial, Proven, Unproven};
        let all = [
            archive("2026-03-09", Failed),
            archive("2026-03-08", Partial),
            archive("2026-03-07", Proven),
            archive("2026-03-06", Unproven),
            archive("2026-03-05", Failed),
            archive("2026-03-04", Proven),
            archive("2026-03-03", Unproven),
            archive("2026-03-02", Proven),
        ];
        assert_eq!(kept(&all, &NONE), ["2026-03-09", "2026-03-08", "2026-03-07"]);
        // Two days that have a proven archive; the one between them that has only an unproven one comes on top.
        assert_eq!(kept(&all, &Policy { keep_daily: 2, ..NONE }), ["2026-03-09", "2026-03-08", "2026-03-07", "2026-03-06", "2026-03-04"]);
        assert!(reasons(&all, &Policy { keep_daily: 2, ..NONE }, "2026-03-06").ends_with("which has no proven one; it takes no place"));
        assert_eq!(kept(&all, &Policy { keep_last: 2, ..NONE }), ["2026-03-09", "2026-03-08", "2026-03-07", "2026-03-04"]);
        let none: Vec<_> = all.iter().filter(|a| a.state != Proven).cloned().collect();
        assert_eq!(kept(&none, &NONE).len(), none.len(), "without a proven one nothing goes");
    }

    #[test]
    fn a_limit_takes_the_oldest_and_a_pin_holds() {
        let mut all: Vec<_> = (1..=9).map(|d| archive(&format!("2026-03-0{d}"), State::Proven)).collect();
        all[0].pinned = Some("a run needs it".into());
        let policy = Policy { keep_last: 2, max_removed: 3, ..NONE };
        let gone: Vec<_> = plan(&all, &policy, now()).into_iter().filter(|d| !d.keep).map(|d| d.archive.date.to_string()).collect();
        assert_eq!(gone, ["2026-03-04", "2026-03-03", "2026-03-02"]);
        assert_eq!(reasons(&all, &policy, "2026-03-01"), "a run needs it");
        assert_eq!(reasons(&all, &policy, "2026-03-06"), "for now: no more than 3 are removed at a time");
    }

    #[test]
    fn archives_of_payouts_stay_for_ever_unless_days_are_named() {
        let dates: BTreeSet<_> = (1..=9).map(|d| day(&format!("2026-03-0{d}"))).collect();
        assert_eq!(payouts_to_remove(&dates, 0, day("2030-01-01"), 10), []);
        assert_eq!(payouts_to_remove(&dates, 7, day("2026-03-10"), 10), [day("2026-03-01"), day("2026-03-02")]);
        assert_eq!(payouts_to_remove(&dates, 7, day("2026-03-10"), 1), [day("2026-03-01")]);
        assert_eq!(payouts_to_remove(&dates, i64::MAX, day("2026-03-10"), 1), []);
    }

    #[test]
    fn older_checkpoints_thin_out_to_one_a_day() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let made = [
            at("2026-01-01T02:00:00Z"),
            at("2026-01-01T22:00:00Z"),
            at("2026-01-02T01:00:00Z"),
            at("2026-03-09T01:00:00Z"),
            at("2026-03-09T03:00:00Z"),
        ];
        assert_eq!(thinned(&made, 35, now()), BTreeSet::from([made[0]]));
    }

    fn archives() -> impl Strategy<Value = Vec<Archive>> {
        let state = prop_oneof![4 => Just(State::Proven), 1 => Just(State::Unproven), 1 => Just(State::Partial), 1 => Just(State::Failed)];
        let one = (0_i64..900, 0_i64..86_400, 1_u64..5, state, prop::bool::weighted(0.05)).prop_map(
            |(back, second, size_bytes, state, pinned)| {
                let date = day("2026-03-10") - TimeDelta::days(back);
                let made_at = date.and_hms_opt(0, 0, 0).unwrap().and_utc() + TimeDelta::seconds(second);
                Archive { date, made_at, size_bytes, state, pinned: pinned.then(|| "pinned".into()) }
            },
        );
        prop::collection::vec(one, 0..60)
    }

    fn policies() -> impl Strategy<Value = Policy> {
        (0_usize..5, 0_i64..10, 0_usize..9, 0_usize..7, 0_usize..14, 0_usize..5).prop_map(
            |(last, within, daily, weekly, monthly, yearly)| Policy {
                keep_last: last,
                keep_within_days: within,
                keep_daily: daily,
                keep_weekly: weekly,
                keep_monthly: monthly,
                keep_yearly: yearly,
                max_removed: usize::MAX,
            },
        )
    }

    fn split(archives: &[Archive], policy: &Policy) -> (Vec<Archive>, Vec<Archive>) {
        let (kept, gone): (Vec<_>, Vec<_>) = plan(archives, policy, now()).into_iter().partition(|d| d.keep);
        let archives = |all: Vec<Decision>| all.into_iter().map(|d| d.archive).collect();
        (archives(kept), archives(gone))
    }

    proptest! {
        #[test]
        fn the_order_of_the_input_does_not_matter((archives, policy) in (archives(), policies()), seed in any::<u64>()) {
            let mut other = archives.clone();
            let n = other.len().max(1) as u64;
            for i in 0..other.len() {
                let j = usize::try_from(seed.rotate_left(u32::try_from(i).unwrap()) % n).unwrap();
                other.swap(i, j);
            }
            prop_assert_eq!(plan(&archives, &policy, now()), plan(&other, &policy, now()));
        }

        #[test]
        fn planning_again_over_what_was_kept_removes_nothing(archives in archives(), policy in policies()) {
            let (kept, _) = split(&archives, &policy);
            prop_assert_eq!(split(&kept, &policy).1, vec![]);
        }

        #[test]
        fn the_last_proven_one_and_everything_newer_stay(archives in archives(), policy in policies(), max in 0_usize..5) {
            for policy in [policy, Policy { max_removed: max, ..policy }] {
                let (kept, gone) = split(&archives, &policy);
                prop_assert_eq!(kept.len() + gone.len(), archives.len());
                prop_assert!(archives.is_empty() || !kept.is_empty());
                prop_assert!(gone.len() <= policy.max_removed);
                match archives.iter().filter(|a| a.state == State::Proven).max() {
                    Some(last) => prop_assert!(kept.contains(last) && gone.iter().all(|a| a < last)),
                    None => prop_assert!(gone.is_empty()),
                }
                prop_assert!(gone.iter().all(|a| a.pinned.is_none()));
            }
        }

        #[test]
        fn more_is_never_less(archives in archives(), policy in policies(), more in policies()) {
            let sum = Policy {
                keep_last: policy.keep_last + more.keep_last,
                keep_within_days: policy.keep_within_days + more.keep_within_days,
                keep_daily: policy.keep_daily + more.keep_daily,
                keep_weekly: policy.keep_weekly + more.keep_weekly,
                keep_monthly: policy.keep_monthly + more.keep_monthly,
                keep_yearly: policy.keep_yearly + more.keep_yearly,
                max_removed: usize::MAX,
            };
            let (few, many) = (split(&archives, &policy).0, split(&archives, &sum).0);
            prop_assert!(few.iter().all(|a| many.contains(a)));
        }

        #[test]
        fn archives_that_are_not_proven_push_no_proven_one_out(archives in archives(), policy in policies()) {
            let proven: Vec<_> = archives.iter().filter(|a| a.state == State::Proven).cloned().collect();
            let (alone, _) = split(&proven, &policy);
            let (together, _) = split(&archives, &policy);
            prop_assert!(alone.iter().all(|a| together.contains(a)));
        }
    }

    #[test]
    fn the_default_policy_keeps_a_bounded_number_of_a_long_daily_history() {
        let first = day("2020-01-01");
        let all: Vec<_> = (0..2260).map(|n| archive(&(first + TimeDelta::days(n)).to_string(), State::Proven)).collect();
        let kept = split(&all, &ALL).0;
        assert!((20..=27).contains(&kept.len()), "{}", kept.len());
    }
}
