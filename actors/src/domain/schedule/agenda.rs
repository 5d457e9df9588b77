//! What is due when, over all tasks: a queue of next due times over the tasks' marks. The timer asks it for rounds, writes each round
//! into the occurrence ledger and settles it; the simulation does the same against a model of the ledger. It reads no clock: a clock
//! that jumps is an argument like any other.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};

use super::{CatchUp, Policy, Schedule, plan};

/// What is to become of a slot. The ledger has the last word: it may hold a row for the slot already, or another run in its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Run,
    /// With the reason for the ledger.
    Skip(&'static str),
    Miss,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub slot: DateTime<Utc>,
    /// `schedule`, or `catch_up` for a slot that is made up for.
    pub cause: &'static str,
    pub fate: Fate,
}

/// The decisions about one task's due slots, oldest first. To be settled once the ledger has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// The task, by its place in the agenda.
    pub index: usize,
    pub decisions: Vec<Decision>,
    /// The task's new mark.
    pub through: DateTime<Utc>,
}

#[derive(Clone, Debug)]
struct Entry {
    schedule: Schedule,
    policy: Policy,
    /// `None`: not on the agenda (planned, or its mark is not known yet).
    mark: Option<DateTime<Utc>>,
    /// It is paused until then.
    paused: Option<DateTime<Utc>>,
}

impl Entry {
    fn due_at(&self) -> Option<DateTime<Utc>> {
        self.schedule.next_after(self.mark?).checked_add_signed(self.policy.jitter)
    }
}

#[derive(Clone, Debug)]
pub struct Agenda {
    entries: Vec<Entry>,
    queue: BTreeSet<(DateTime<Utc>, usize)>,
    on_time_s: i64,
    /// The latest time it was asked for, to notice a clock that steps back.
    latest: DateTime<Utc>,
}

impl Agenda {
    /// A slot looked at within `on_time_s` seconds of being due is on time; a later one falls under its task's catch-up policy.
    pub fn new(tasks: impl IntoIterator<Item = (Schedule, Policy)>, on_time_s: i64) -> Self {
        let entry = |(schedule, policy)| Entry { schedule, policy, mark: None, paused: None };
        Self { entries: tasks.into_iter().map(entry).collect(), queue: BTreeSet::new(), on_time_s, latest: DateTime::<Utc>::MIN_UTC }
    }

    /// Puts a task on the agenda: all its slots up to and including `mark` are accounted for.
    pub fn set_mark(&mut self, index: usize, mark: DateTime<Utc>) {
        let before = self.entries[index].due_at();
        self.entries[index].mark = Some(mark);
        self.requeue(index, before);
    }

    /// Until then the task's slots are skipped with reason `paused`; `None`: it is not paused.
    pub fn set_paused(&mut self, index: usize, until: Option<DateTime<Utc>>) {
        self.entries[index].paused = until;
    }

    /// When the next start is due, over all tasks.
    pub fn next_at(&self) -> Option<DateTime<Utc>> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// A round for every task with due slots, the longest due first, at most `limit` of them; a long backlog is several rounds. Asked
    /// again before a round is settled, it answers the same.
    pub fn due(&mut self, now: DateTime<Utc>, limit: usize) -> Vec<Round> {
        if self.latest - now > TimeDelta::seconds(self.on_time_s) {
            self.step_back(now);
        }
        self.latest = now;
        let due: Vec<usize> = self.queue.iter().take_while(|(at, _)| *at <= now).map(|(_, index)| *index).take(limit).collect();
        due.into_iter().filter_map(|index| self.round(index, now)).collect()
    }

    fn round(&self, index: usize, now: DateTime<Utc>) -> Option<Round> {
        let entry = &self.entries[index];
        let nominal = now - entry.policy.jitter;
        let plan = plan(&entry.schedule, entry.policy.catch_up, entry.mark?, nominal, self.on_time_s);
        let mut decisions: Vec<Decision> = Vec::with_capacity(plan.len());
        decisions.extend(plan.run.iter().map(|slot| Decision { slot: *slot, cause: plan.trigger(*slot), fate: Fate::Run }));
        decisions.extend(plan.skipped.iter().map(|(slot, why)| Decision { slot: *slot, cause: "schedule", fate: Fate::Skip(why) }));
        decisions.extend(plan.missed.iter().map(|slot| Decision { slot: *slot, cause: "schedule", fate: Fate::Miss }));
        decisions.sort_unstable_by_key(|d| d.slot);
        if !entry.policy.blackout.is_empty() {
            entry.policy.black_out(&mut decisions, now);
        }
        if let Some(until) = entry.paused {
            // One that came due while it was paused, and one that would begin now while it still is.
            for decision in decisions.iter_mut().filter(|d| d.slot < until || now < until) {
                (decision.fate, decision.cause) = (Fate::Skip("paused"), "schedule");
            }
        }
        Some(Round { index, decisions, through: plan.through })
    }

    /// The clock stands behind what has been accounted for: begin again from now, or nothing would run until it has caught up. Slots
    /// that come up a second time have their rows; the ledger starts only those that were written off.
    fn step_back(&mut self, now: DateTime<Utc>) {
        for index in 0..self.entries.len() {
            // What came due within the last moments is still on time.
            let again = now - self.entries[index].policy.jitter - TimeDelta::seconds(self.on_time_s);
            if self.entries[index].mark.is_some_and(|mark| mark > again) {
                self.set_mark(index, again);
            }
        }
    }

    fn requeue(&mut self, index: usize, before: Option<DateTime<Utc>>) {
        if let Some(at) = before {
            self.queue.remove(&(at, index));
        }
        if let Some(at) = self.entries[index].due_at() {
            self.queue.insert((at, index));
        }
    }
}

impl Policy {
    /// Takes the starts out of the blackout windows. A `once` run that is taken out is replaced by the newest of its backlog that is not.
    fn black_out(&self, decisions: &mut [Decision], now: DateTime<Utc>) {
        let mut replaced = false;
        for decision in decisions.iter_mut().filter(|d| self.blacked_out(d.slot, now).is_some()) {
            replaced |= decision.fate == Fate::Run;
            (decision.fate, decision.cause) = (Fate::Skip("blackout"), "schedule");
        }
        if replaced && self.catch_up == CatchUp::Once {
            let newest = decisions.iter_mut().rev().find(|d| d.fate == Fate::Skip("catch_up"));
            if let Some(newest) = newest {
                (newest.fate, newest.cause) = (Fate::Run, "catch_up");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::schedule::Blackout;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn agenda(policy: Policy) -> Agenda {
        let mut agenda = Agenda::new([(Schedule::every(3600), policy)], 10);
        agenda.set_mark(0, at("2026-03-01T00:00:00Z"));
        agenda
    }

    fn fates(agenda: &mut Agenda, now: &str) -> Vec<(u32, Fate)> {
        use chrono::Timelike as _;
        let rounds = agenda.due(at(now), 100);
        for round in &rounds {
            agenda.set_mark(round.index, round.through);
        }
        rounds.into_iter().flat_map(|r| r.decisions).map(|d| (d.slot.hour(), d.fate)).collect()
    }

    #[test]
    fn nothing_is_due_before_its_time_and_each_slot_once() {
        let mut agenda = agenda(Policy::new(CatchUp::Skip));
        assert_eq!(agenda.next_at(), Some(at("2026-03-01T01:00:00Z")));
        assert_eq!(fates(&mut agenda, "2026-03-01T00:59:59Z"), []);
        assert_eq!(fates(&mut agenda, "2026-03-01T01:00:00Z"), [(1, Fate::Run)]);
        assert_eq!(fates(&mut agenda, "2026-03-01T01:00:00Z"), []);
        assert_eq!(agenda.next_at(), Some(at("2026-03-01T02:00:00Z")));
    }

    #[test]
    fn a_round_that_is_not_settled_comes_again() {
        let mut agenda = agenda(Policy::new(CatchUp::Skip));
        let now = at("2026-03-01T01:00:01Z");
        assert_eq!(agenda.due(now, 9), agenda.due(now, 9));
        assert_eq!(agenda.due(now, 9).len(), 1);
    }

    #[test]
    fn jitter_delays_the_start_and_not_the_slot() {
        let mut agenda = agenda(Policy { jitter: TimeDelta::seconds(40), ..Policy::new(CatchUp::Skip) });
        assert_eq!(agenda.next_at(), Some(at("2026-03-01T01:00:40Z")));
        assert_eq!(fates(&mut agenda, "2026-03-01T01:00:39Z"), []);
        assert_eq!(fates(&mut agenda, "2026-03-01T01:00:45Z"), [(1, Fate::Run)]);
    }

    #[test]
    fn while_paused_every_slot_is_skipped_as_paused_also_those_of_an_outage() {
        let mut agenda = agenda(Policy::new(CatchUp::Once));
        agenda.set_paused(0, Some(DateTime::<Utc>::MAX_UTC));
        let paused = Fate::Skip("paused");
        assert_eq!(fates(&mut agenda, "2026-03-01T03:00:00Z"), [(1, paused), (2, paused), (3, paused)]);
        agenda.set_paused(0, None);
        assert_eq!(fates(&mut agenda, "2026-03-01T04:00:00Z"), [(4, Fate::Run)], "a resume does not catch up");
    }

    #[test]
    fn blackout_windows_take_out_starts_and_a_backlog_runs_the_newest_outside_them() {
        let window = || vec![Blackout::parse("daily 04:00-06:00", None).unwrap()];
        let out = Fate::Skip("blackout");
        let mut on_time = agenda(Policy { blackout: window(), ..Policy::new(CatchUp::Skip) });
        assert_eq!(fates(&mut on_time, "2026-03-01T03:00:00Z")[2], (3, Fate::Run));
        assert_eq!(fates(&mut on_time, "2026-03-01T04:00:00Z"), [(4, out)]);
        assert_eq!(fates(&mut on_time, "2026-03-01T06:00:00Z"), [(5, out), (6, Fate::Run)]);
        // Down from 0 to 5 and looked at inside the window: nothing may start now.
        let mut inside = agenda(Policy { blackout: window(), ..Policy::new(CatchUp::Once) });
        assert!(fates(&mut inside, "2026-03-01T05:30:00Z").iter().all(|(_, fate)| *fate == out));
        // Looked at after it, when the newest slot lies inside it.
        let mut after =
            Agenda::new([(Schedule::cron("0 1-5 * * *").unwrap(), Policy { blackout: window(), ..Policy::new(CatchUp::Once) })], 10);
        after.set_mark(0, at("2026-03-01T00:00:00Z"));
        let folded = Fate::Skip("catch_up");
        assert_eq!(fates(&mut after, "2026-03-01T07:00:00Z"), [(1, folded), (2, folded), (3, Fate::Run), (4, out), (5, out)]);
    }

    #[test]
    fn after_a_clock_that_stepped_back_slots_come_up_again_instead_of_being_waited_for() {
        let mut agenda = agenda(Policy::new(CatchUp::Skip));
        let jumped = fates(&mut agenda, "2026-03-02T00:00:00Z");
        assert_eq!((jumped.len(), jumped.last()), (24, Some(&(0, Fate::Run))));
        assert_eq!(fates(&mut agenda, "2026-03-01T01:30:00Z"), []);
        assert_eq!(fates(&mut agenda, "2026-03-01T02:00:00Z"), [(2, Fate::Run)]);
        assert_eq!(fates(&mut agenda, "2026-03-01T01:00:05Z"), [(1, Fate::Run)], "set back to just after a slot");
    }

    #[test]
    fn ten_thousand_tasks_cost_only_those_that_are_due() {
        let mut agenda = Agenda::new((0..10_000).map(|n| (Schedule::every(n + 1), Policy::new(CatchUp::Skip))), 10);
        for index in 0..10_000 {
            agenda.set_mark(index, at("2026-03-01T00:00:00Z"));
        }
        let rounds = agenda.due(at("2026-03-01T00:00:01Z"), 100);
        assert!(rounds.len() < 100 && !rounds.is_empty());
    }
}
