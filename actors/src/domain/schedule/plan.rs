//! What becomes of every slot between the timer's high-water mark and now: run, skipped with a reason, or missed. The timer records
//! the plan in the occurrence ledger and moves its mark to `through`; nothing between the two marks is ever left out or taken twice.

use chrono::{DateTime, TimeDelta, Utc};

use super::Schedule;

/// How many slots one plan covers unless the caller says otherwise: a year-long outage of a 60 s task is 526 plans, not one huge one.
pub const DEFAULT_CHUNK: usize = 1000;

/// What happens to slots that passed while nothing was there to run them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// They are recorded as missed.
    Skip,
    /// The whole backlog becomes one run, that of the newest due slot; the others are skipped with reason `catch_up`.
    Once,
    /// Those not older than `max_age_s`, and of them the newest `max_count`, run, oldest first; the others are missed.
    All { max_age_s: i64, max_count: usize },
}

/// The fate of each slot in (mark, through]. Every slot is in exactly one of the three lists; each list is oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// To be started now; [`Plan::trigger`] tells which of them are late.
    pub run: Vec<DateTime<Utc>>,
    /// Not to be started, with the reason for the ledger: `catch_up` here, `overlap` and `paused` where the timer decides so.
    pub skipped: Vec<(DateTime<Utc>, &'static str)>,
    /// Nothing was there to run them and the policy does not make up for it.
    pub missed: Vec<DateTime<Utc>>,
    /// The new mark: `now` if all due slots are in this plan, else the last slot in it; then plan again from here.
    pub through: DateTime<Utc>,
    /// Slots after `through` are due already.
    pub more: bool,
    /// By how many seconds the clock stands before the mark (0 normally). Nothing runs until it has caught up, so a large value is an alert.
    pub stepped_back_s: i64,
    late_before: DateTime<Utc>,
}

impl Plan {
    /// `schedule` for a slot that is on time, `catch_up` for one that is made up for.
    pub fn trigger(&self, slot: DateTime<Utc>) -> &'static str {
        if slot < self.late_before { "catch_up" } else { "schedule" }
    }

    /// How many slots the plan decides about.
    pub fn len(&self) -> usize {
        self.run.len() + self.skipped.len() + self.missed.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// [`plan_chunk`] with [`DEFAULT_CHUNK`].
pub fn plan(schedule: &Schedule, policy: CatchUp, mark: DateTime<Utc>, now: DateTime<Utc>, on_time_s: i64) -> Plan {
    plan_chunk(schedule, policy, mark, now, on_time_s, DEFAULT_CHUNK)
}

/// Decides about the oldest `limit` slots in (mark, now]. A slot at most `on_time_s` seconds old runs normally; an older one falls under
/// `policy`. Under `Once` a slot that is on time stands for the backlog too, so two runs never follow each other for no reason.
/// A clock that stepped back (`now` before `mark`) plans nothing and keeps the mark.
pub fn plan_chunk(schedule: &Schedule, policy: CatchUp, mark: DateTime<Utc>, now: DateTime<Utc>, on_time_s: i64, limit: usize) -> Plan {
    let late_before = earlier(now, on_time_s.max(0));
    let stepped_back_s = (mark - now).num_seconds().max(0);
    let mut plan = Plan { run: vec![], skipped: vec![], missed: vec![], through: mark.max(now), more: false, stepped_back_s, late_before };
    if now < mark {
        return plan;
    }
    let slots = schedule.slots(mark, now, limit.max(1));
    let newest_due = schedule.last_through(now);
    if let Some(last) = slots.last()
        && newest_due.is_some_and(|newest| newest > *last)
    {
        (plan.through, plan.more) = (*last, true);
    }
    let made_up_from = match policy {
        CatchUp::All { max_age_s, max_count } => oldest_made_up(schedule, mark, late_before, earlier(now, max_age_s), max_count),
        CatchUp::Skip | CatchUp::Once => None,
    };
    for slot in slots {
        if slot >= late_before {
            plan.run.push(slot);
            continue;
        }
        match policy {
            CatchUp::Once if Some(slot) == newest_due => plan.run.push(slot),
            CatchUp::Once => plan.skipped.push((slot, "catch_up")),
            CatchUp::All { .. } if made_up_from.is_some_and(|from| slot >= from) => plan.run.push(slot),
            CatchUp::All { .. } | CatchUp::Skip => plan.missed.push(slot),
        }
    }
    plan
}

/// The oldest late slot that `All` still runs: walks back from the newest late one, so the work is bounded by `max_count`.
fn oldest_made_up(
    schedule: &Schedule,
    mark: DateTime<Utc>,
    late_before: DateTime<Utc>,
    not_before: DateTime<Utc>,
    max_count: usize,
) -> Option<DateTime<Utc>> {
    let before = |time: DateTime<Utc>| time.checked_sub_signed(TimeDelta::nanoseconds(1)).and_then(|t| schedule.last_through(t));
    std::iter::successors(before(late_before), |slot| before(*slot))
        .take(max_count)
        .take_while(|slot| *slot > mark && *slot >= not_before)
        .last()
}

fn earlier(time: DateTime<Utc>, seconds: i64) -> DateTime<Utc> {
    TimeDelta::try_seconds(seconds.max(0)).and_then(|span| time.checked_sub_signed(span)).unwrap_or(DateTime::<Utc>::MIN_UTC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    /// Slots of an hourly task from hour 0 to hour `now_h`, the mark at hour 0, as hours.
    fn hours(policy: CatchUp, now_s: i64) -> (Vec<i64>, Vec<i64>, Vec<i64>) {
        let plan = plan(&Schedule::every(3600), policy, at(0), at(now_s), 2);
        let hour = |slot: &DateTime<Utc>| slot.timestamp() / 3600;
        (
            plan.run.iter().map(hour).collect(),
            plan.skipped.iter().map(|(slot, _)| hour(slot)).collect(),
            plan.missed.iter().map(hour).collect(),
        )
    }

    #[test]
    fn each_policy_treats_a_backlog_its_own_way() {
        let all = |max_age_h: i64, max_count| CatchUp::All { max_age_s: max_age_h * 3600, max_count };
        let late = 4 * 3600 + 100;
        let on_time = 4 * 3600 + 2;
        let cases = [
            (CatchUp::Skip, late, (vec![], vec![], vec![1, 2, 3, 4])),
            (CatchUp::Skip, on_time, (vec![4], vec![], vec![1, 2, 3])),
            (CatchUp::Once, late, (vec![4], vec![1, 2, 3], vec![])),
            (CatchUp::Once, on_time, (vec![4], vec![1, 2, 3], vec![])),
            (all(100, 100), late, (vec![1, 2, 3, 4], vec![], vec![])),
            (all(2, 100), late, (vec![3, 4], vec![], vec![1, 2])),
            (all(100, 2), late, (vec![3, 4], vec![], vec![1, 2])),
            (all(100, 2), on_time, (vec![2, 3, 4], vec![], vec![1])),
            (all(100, 0), late, (vec![], vec![], vec![1, 2, 3, 4])),
            (all(0, 100), on_time, (vec![4], vec![], vec![1, 2, 3])),
        ];
        for (policy, now, expected) in cases {
            assert_eq!(hours(policy, now), expected, "{policy:?} at {now}");
        }
    }

    #[test]
    fn a_run_says_whether_it_is_made_up_for() {
        let plan = plan(&Schedule::every(60), CatchUp::All { max_age_s: 600, max_count: 9 }, at(0), at(121), 2);
        assert_eq!(plan.run.iter().map(|slot| plan.trigger(*slot)).collect::<Vec<_>>(), ["catch_up", "schedule"]);
    }

    #[test]
    fn a_clock_that_stepped_back_plans_nothing_and_keeps_the_mark() {
        let plan = plan(&Schedule::every(60), CatchUp::Once, at(600), at(300), 2);
        assert!(plan.is_empty());
        assert_eq!((plan.through, plan.more, plan.stepped_back_s), (at(600), false, 300));
    }

    #[test]
    fn nothing_due_moves_the_mark_to_now() {
        let plan = plan(&Schedule::every(3600), CatchUp::Once, at(10), at(20), 2);
        assert!(plan.is_empty());
        assert_eq!(plan.through, at(20));
    }

    #[test]
    fn a_year_of_outage_is_planned_in_chunks_and_runs_once() {
        let (schedule, now) = (Schedule::every(60), at(365 * 86_400 + 30));
        let (mut mark, mut chunks, mut run, mut skipped) = (at(0), 0, vec![], 0);
        loop {
            let plan = plan(&schedule, CatchUp::Once, mark, now, 2);
            assert!(plan.len() <= DEFAULT_CHUNK && plan.through > mark);
            (mark, chunks, skipped) = (plan.through, chunks + 1, skipped + plan.skipped.len());
            run.extend(plan.run);
            if !plan.more {
                break;
            }
        }
        assert_eq!((chunks, run, skipped, mark), (526, vec![at(365 * 86_400)], 525_599, now));
    }

    fn any_schedule() -> impl Strategy<Value = Schedule> {
        prop_oneof![
            (1i64..5000).prop_map(Schedule::every),
            prop_oneof![Just("*/5 * * * *"), Just("50 23 * * *"), Just("7 */3 * * *")].prop_map(|e| Schedule::cron(e).unwrap()),
        ]
    }

    fn any_policy() -> impl Strategy<Value = CatchUp> {
        prop_oneof![
            Just(CatchUp::Skip),
            Just(CatchUp::Once),
            (0i64..200_000, 0usize..20).prop_map(|(max_age_s, max_count)| CatchUp::All { max_age_s, max_count }),
        ]
    }

    proptest! {
        #[test]
        fn over_any_walk_of_the_clock_every_slot_lands_in_exactly_one_list_once(
            schedule in any_schedule(), policy in any_policy(), start in 0i64..2_000_000_000, limit in 1usize..40,
            steps in prop::collection::vec(-5_000i64..60_000, 1..12), on_time in 0i64..120,
        ) {
            let (first, mut mark, mut now, mut seen) = (at(start), at(start), start, Vec::new());
            for step in steps {
                now += step;
                for _ in 0..30 {
                    let plan = plan_chunk(&schedule, policy, mark, at(now), on_time, limit);
                    prop_assert!(plan.through >= mark && plan.len() <= limit);
                    prop_assert!(plan.more || plan.through == at(now).max(mark));
                    seen.extend(plan.run.iter().chain(&plan.missed).copied());
                    seen.extend(plan.skipped.iter().map(|(slot, _)| *slot));
                    mark = plan.through;
                    if !plan.more { break; }
                }
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, schedule.slots(first, mark, usize::MAX));
        }
    }
}
