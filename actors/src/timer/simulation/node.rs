//! One node of the simulation: what the timer does (`mod.rs`, `desk.rs`, `lease.rs`), step by step, with a crash possible before and
//! after each write.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;

use super::{DAY, Event, Execution, HOUR, MINUTE, SECOND, World, model::Slot, time};
use crate::{
    domain::schedule::{Agenda, Fate, Orphan, Overlap, Round},
    store::{Claim, Place},
    timer::{ON_TIME_S, ROUND, lease::usable},
};

/// Longer than the real one: a year has fewer renewals to go through.
const LEASE: i64 = 10 * MINUTE;
const LOOK_AT_LEAST: i64 = LEASE / 3;
/// After a jump of the clock or a time of standing still it is looked at within the real timer's longest sleep.
const LONGEST_SLEEP: i64 = 5 * SECOND;

/// The process died here.
struct Dead;
type Alive<T> = Result<T, Dead>;

pub(super) struct Node {
    index: usize,
    incarnation: u32,
    alarm: u64,
    process: Option<Process>,
    /// How far its wall clock is off.
    offset: i64,
    still: bool,
    kept: Vec<Event>,
    sound_since: Option<i64>,
}

struct Process {
    agenda: Agenda,
    /// Dies at this many more writes.
    fuse: Option<u64>,
    floor: BTreeSet<(usize, Slot)>,
    waiting: BTreeSet<usize>,
    seen: BTreeMap<u32, (i64, i64)>,
    renewed: i64,
}

impl Node {
    pub(super) fn new(index: usize) -> Self {
        Self { index, incarnation: index as u32, alarm: 0, process: None, offset: 0, still: false, kept: Vec::new(), sound_since: None }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.process.is_some()
    }

    pub(super) fn stands_still(&self) -> bool {
        self.still
    }

    pub(super) fn keep(&mut self, event: Event) {
        self.kept.push(event);
    }

    /// Writes down since when, or until when, this node could be relied on.
    pub(super) fn note_soundness(&mut self, world: &mut World, still_there: bool) {
        let sound = still_there && self.is_alive() && !self.still && self.offset == 0;
        match (sound, self.sound_since) {
            (true, None) => self.sound_since = Some(world.now),
            (false, Some(since)) => {
                world.sound[self.index].push((since, world.now));
                self.sound_since = None;
            }
            _ => {}
        }
    }

    pub(super) fn set_right(&mut self, world: &mut World) {
        self.offset = 0;
        if let Some(process) = &mut self.process {
            process.fuse = None;
        }
        self.note_soundness(world, true);
    }

    fn clock(&self, world: &World) -> i64 {
        world.now + self.offset
    }

    pub(super) fn start(&mut self, world: &mut World) {
        if self.process.is_some() {
            return;
        }
        self.incarnation += 2; // even numbers are one node's, odd ones the other's
        let tasks = world.tasks.iter().map(|t| (t.schedule.clone(), t.policy.clone()));
        let fuse = (!world.calm && world.random.one_in(3)).then(|| world.random.below(2000));
        self.process = Some(Process {
            agenda: Agenda::new(tasks, ON_TIME_S),
            fuse,
            floor: BTreeSet::new(),
            waiting: BTreeSet::new(),
            seen: BTreeMap::new(),
            renewed: world.now,
        });
        if !world.calm {
            world.later(MINUTE, 4 * DAY, Event::Crash { node: self.index });
        }
        if self.take_up(world).is_err() {
            return self.crash(world);
        }
        self.note_soundness(world, true);
        self.set_alarm(world, 0);
    }

    /// One alarm is set at a time; an older one that still comes is stale.
    fn set_alarm(&mut self, world: &mut World, sleep: i64) {
        self.alarm += 1;
        world.push(world.now + sleep, Event::Wake { node: self.index, alarm: self.alarm });
    }

    pub(super) fn crash(&mut self, world: &mut World) {
        if world.calm && self.process.is_some() {
            return; // planned before the calm
        }
        if self.process.take().is_some() {
            world.crashes += 1;
            for executions in world.executions.values_mut() {
                executions.retain(|e| (e.node, e.incarnation) != (self.index, self.incarnation));
            }
            world.executions.retain(|_, executions| !executions.is_empty());
            self.kept.clear();
            self.note_soundness(world, true);
            if !world.calm {
                let gap = [SECOND, 20 * SECOND, 10 * MINUTE, 8 * HOUR, 3 * DAY][world.random.below(5) as usize];
                world.later(SECOND / 10, gap, Event::Start { node: self.index });
            }
        }
    }

    pub(super) fn stand_still(&mut self, world: &mut World) {
        if world.calm {
            return;
        }
        self.still = true;
        self.note_soundness(world, true);
        let most = [MINUTE, HOUR, 6 * HOUR][world.random.below(3) as usize];
        world.later(SECOND, most, Event::GoOn { node: self.index });
        world.later(6 * HOUR, 15 * DAY, Event::StandStill { node: self.index });
    }

    pub(super) fn go_on(&mut self, world: &mut World) {
        self.still = false;
        for event in std::mem::take(&mut self.kept) {
            world.push(world.now, event);
        }
        if self.is_alive() {
            let sleep = world.random.between(0, LONGEST_SLEEP);
            self.set_alarm(world, sleep);
        }
        self.note_soundness(world, true);
    }

    /// The clock is set wrong, by up to two hours, or right again.
    pub(super) fn jump(&mut self, world: &mut World, by: i64) {
        if world.calm {
            return;
        }
        self.offset = by;
        self.note_soundness(world, true);
        if by == 0 {
            let by = world.random.between(-2 * HOUR, 2 * HOUR) / SECOND * SECOND;
            world.later(HOUR, 20 * DAY, Event::Jump { node: self.index, by });
        } else {
            world.later(SECOND, 5 * HOUR, Event::Jump { node: self.index, by: 0 });
        }
        // The real one reads the clock again after its longest sleep; only after a jump does that matter.
        if self.is_alive() {
            let sleep = world.random.between(0, LONGEST_SLEEP);
            self.set_alarm(world, sleep);
        }
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("only a living node does anything")
    }

    /// A write that the process may not survive: it dies before it, or just after it.
    fn write<T>(&mut self, world: &mut World, write: impl FnOnce(&mut World) -> T) -> Alive<T> {
        let dies = match &mut self.process().fuse {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        };
        if dies && world.random.one_in(2) {
            return Err(Dead);
        }
        let result = write(world);
        if dies { Err(Dead) } else { Ok(result) }
    }

    fn take_up(&mut self, world: &mut World) -> Alive<()> {
        let (incarnation, index, now) = (self.incarnation, self.index, self.clock(world));
        self.write(world, |w| w.ledger.leases.insert(incarnation, (index, 1)))?;
        self.look_after_others(world)?;
        self.begin_all_waiting(world)?;
        for task in 0..world.tasks.len() {
            let mark = if let Some(mark) = world.ledger.tasks[task].mark {
                usable(time(mark), time(now) - world.tasks[task].policy.jitter)
            } else {
                self.write(world, |w| w.ledger.close(task, &[], incarnation, now))?;
                time(now)
            };
            self.process().agenda.set_mark(task, mark);
        }
        self.read_pauses(world);
        Ok(())
    }

    fn read_pauses(&mut self, world: &World) {
        for task in 0..world.tasks.len() {
            let paused = world.ledger.tasks[task].paused;
            self.process().agenda.set_paused(task, paused.then_some(chrono::DateTime::<chrono::Utc>::MAX_UTC));
        }
    }

    pub(super) fn wake(&mut self, world: &mut World, alarm: u64) {
        if self.process.is_none() || alarm != self.alarm {
            return;
        }
        if self.look(world).is_err() {
            return self.crash(world);
        }
        let now = self.clock(world);
        let next = self.process().agenda.next_at().map_or(LOOK_AT_LEAST, |at| (at - time(now)).num_microseconds().unwrap_or(LOOK_AT_LEAST));
        // A little late, as any sleep.
        let lateness = world.random.between(0, 3000);
        self.set_alarm(world, next.clamp(1000, LOOK_AT_LEAST) + lateness);
    }

    fn look(&mut self, world: &mut World) -> Alive<()> {
        if world.now - self.process().renewed >= LEASE / 3 {
            self.process().renewed = world.now;
            self.renew(world)?;
        }
        loop {
            let now = self.clock(world);
            let rounds = self.process().agenda.due(time(now), ROUND);
            if rounds.is_empty() {
                return Ok(());
            }
            for round in rounds {
                let (task, through) = (round.index, round.through);
                self.follow(world, round)?;
                self.process().agenda.set_mark(task, through);
            }
        }
    }

    fn follow(&mut self, world: &mut World, round: Round) -> Alive<()> {
        let (task, incarnation) = (round.index, self.incarnation);
        let policy = world.tasks[task].policy.clone();
        let starts: Vec<_> = round.decisions.iter().filter(|d| d.fate == Fate::Run).collect();
        let place = if starts.len() > 1 && policy.overlap != Overlap::Allow { Place::InLine } else { Place::Now(policy.overlap) };
        for start in &starts {
            let (slot, cause) = (start.slot.timestamp_micros(), start.cause);
            let mut claim = self.write(world, |w| w.ledger.claim(task, slot, cause, place, incarnation))?;
            if claim == Claim::NoLease {
                self.regain(world)?;
                claim = self.write(world, |w| w.ledger.claim(task, slot, cause, place, incarnation))?;
            }
            match claim {
                Claim::Begun => self.begin(world, task, slot, 1),
                Claim::Queued => {
                    world.queued.insert((task, slot));
                    self.process().waiting.insert(task);
                    if place == Place::Now(Overlap::CancelOther) {
                        self.cancel_running(world, task)?;
                    }
                }
                _ => {}
            }
        }
        if place == Place::InLine {
            self.begin_waiting(world, task)?;
        }
        let closed: Vec<_> = round
            .decisions
            .iter()
            .filter_map(|d| match d.fate {
                Fate::Run => None,
                Fate::Skip(reason) => Some((d.slot.timestamp_micros(), "skipped", Some(reason))),
                Fate::Miss => Some((d.slot.timestamp_micros(), "missed", None)),
            })
            .collect();
        self.write(world, |w| w.ledger.close(task, &closed, incarnation, round.through.timestamp_micros()))
    }

    /// The work of an attempt begins; when it will be done is drawn now.
    fn begin(&mut self, world: &mut World, task: usize, slot: Slot, attempt: u32) {
        self.process().floor.insert((task, slot));
        let execution = Execution { node: self.index, incarnation: self.incarnation, attempt, began: world.now };
        let others: Vec<_> = world.executions.iter().filter(|((t, _), _)| *t == task).flat_map(|(_, e)| e.iter().copied()).collect();
        let exclusive = world.tasks[task].policy.overlap != Overlap::Allow;
        // Only beside a process that stood still for longer than its lease may a run begin that is going on elsewhere.
        let beside = others.iter().find(|e| world.ledger.leases.contains_key(&e.incarnation));
        assert!(!exclusive || beside.is_none(), "{} {}: begins beside {beside:?}", world.tasks[task].name, time(slot));
        world.executions.entry((task, slot)).or_default().push(execution);
        world.counts.entry((task, slot)).or_default().0 += 1;
        let length = world.tasks[task].length;
        let slow = world.random.one_in(50);
        let most = if slow { 4 * HOUR.min(40 * length) } else { 2 * length };
        let timeout = i64::try_from(world.tasks[task].policy.timeout.as_micros()).unwrap_or(i64::MAX);
        let at = world.now + world.random.between(1000, most).min(timeout);
        world.push(at, Event::Done { node: self.index, incarnation: self.incarnation, task, slot });
    }

    /// Ends this process's execution; false if there was none: it was cancelled, or belongs to another process.
    fn stop(&mut self, world: &mut World, task: usize, slot: Slot) -> Option<Execution> {
        self.process().floor.remove(&(task, slot));
        let executions = world.executions.get_mut(&(task, slot))?;
        let mine = executions.iter().position(|e| (e.node, e.incarnation) == (self.index, self.incarnation))?;
        let execution = executions.remove(mine);
        if executions.is_empty() {
            world.executions.remove(&(task, slot));
        }
        Some(execution)
    }

    pub(super) fn done(&mut self, world: &mut World, incarnation: u32, task: usize, slot: Slot) {
        if self.process.is_none() || incarnation != self.incarnation || !self.process().floor.contains(&(task, slot)) {
            return;
        }
        let Some(execution) = self.stop(world, task, slot) else { return };
        let policy = &world.tasks[task].policy;
        let timeout = i64::try_from(policy.timeout.as_micros()).unwrap_or(i64::MAX);
        let timed_out = world.now - execution.began >= timeout;
        let (failed, retryable) = (timed_out || world.random.one_in(20), timed_out || world.random.one_in(2));
        let spent = std::time::Duration::from_micros((world.now - execution.began).unsigned_abs());
        let unit = world.random.unit();
        let wait = world.tasks[task].policy.wait_before_next(execution.attempt, retryable, spent, unit).filter(|_| failed);
        let alive = match wait {
            Some(wait) => self.try_again(world, task, slot, execution.attempt + 1, wait.as_micros() as i64),
            None => self.end(
                world,
                task,
                slot,
                if timed_out {
                    "timed_out"
                } else if failed {
                    "failed"
                } else {
                    "succeeded"
                },
            ),
        };
        if alive.is_err() {
            self.crash(world);
        }
    }

    fn try_again(&mut self, world: &mut World, task: usize, slot: Slot, attempt: u32, wait: i64) -> Alive<()> {
        let incarnation = self.incarnation;
        if self.write(world, |w| w.ledger.next_attempt(task, slot, incarnation, attempt))? {
            self.process().floor.insert((task, slot));
            world.push(world.now + wait, Event::Again { node: self.index, incarnation, task, slot });
            return Ok(());
        }
        self.end(world, task, slot, "cancelled")
    }

    pub(super) fn again(&mut self, world: &mut World, incarnation: u32, task: usize, slot: Slot) {
        if self.process.is_none() || incarnation != self.incarnation || !self.process().floor.contains(&(task, slot)) {
            return;
        }
        let row = world.ledger.tasks[task].rows.get(&slot).copied();
        match row.filter(|r| r.state == "running" && r.incarnation == incarnation) {
            Some(row) => self.begin(world, task, slot, row.attempts),
            None => drop(self.process().floor.remove(&(task, slot))),
        }
    }

    fn end(&mut self, world: &mut World, task: usize, slot: Slot, state: &'static str) -> Alive<()> {
        let incarnation = self.incarnation;
        self.process().floor.remove(&(task, slot));
        self.write(world, |w| {
            if w.ledger.end(task, slot, incarnation, state) && state == "succeeded" {
                w.counts.entry((task, slot)).or_default().1 += 1;
            }
        })?;
        if self.process().waiting.remove(&task) {
            self.begin_waiting(world, task)?;
        }
        Ok(())
    }

    fn cancel_running(&mut self, world: &mut World, task: usize) -> Alive<()> {
        let mine: Vec<Slot> = self.process().floor.iter().filter(|(t, _)| *t == task).map(|(_, slot)| *slot).collect();
        for slot in mine {
            self.stop(world, task, slot);
            self.end(world, task, slot, "cancelled")?;
        }
        Ok(())
    }

    fn begin_waiting(&mut self, world: &mut World, task: usize) -> Alive<()> {
        let incarnation = self.incarnation;
        self.process().waiting.insert(task);
        let now = time(self.clock(world));
        if world.tasks[task].policy.blacked_out(now, now).is_some() {
            return Ok(());
        }
        if let Some((slot, attempt)) = self.write(world, |w| w.ledger.begin_waiting(task, incarnation))? {
            self.begin(world, task, slot, attempt);
        }
        Ok(())
    }

    fn begin_all_waiting(&mut self, world: &mut World) -> Alive<()> {
        for task in 0..world.tasks.len() {
            let ledger = &world.ledger.tasks[task];
            let (pending, held) =
                (ledger.open.iter().any(|s| ledger.rows[s].state == "pending"), ledger.open.iter().any(|s| ledger.rows[s].holds));
            if pending && !held {
                self.begin_waiting(world, task)?;
            }
        }
        Ok(())
    }

    fn renew(&mut self, world: &mut World) -> Alive<()> {
        let incarnation = self.incarnation;
        let held = self.write(world, |w| w.ledger.leases.get_mut(&incarnation).map(|(_, lease)| *lease += 1).is_some())?;
        if !held {
            self.regain(world)?;
        }
        self.look_after_others(world)?;
        self.begin_all_waiting(world)?;
        self.read_pauses(world);
        Ok(())
    }

    fn regain(&mut self, world: &mut World) -> Alive<()> {
        let (incarnation, index) = (self.incarnation, self.index);
        for (task, slot) in self.process().floor.clone() {
            let row = world.ledger.tasks[task].rows[&slot];
            if row.incarnation != incarnation || !matches!(row.state, "pending" | "running") {
                self.stop(world, task, slot);
                self.end(world, task, slot, "cancelled")?;
            }
        }
        self.write(world, |w| w.ledger.leases.insert(incarnation, (index, 1)))?;
        Ok(())
    }

    fn look_after_others(&mut self, world: &mut World) -> Alive<()> {
        let (incarnation, index) = (self.incarnation, self.index);
        let others: Vec<(u32, usize, i64)> =
            world.ledger.leases.iter().filter(|(i, _)| **i != incarnation).map(|(i, (node, lease))| (*i, *node, *lease)).collect();
        self.process().seen.retain(|i, _| others.iter().any(|(other, ..)| other == i));
        for (other, node, lease) in others {
            let now = world.now;
            let last = self.process().seen.entry(other).or_insert((lease, now));
            if last.0 != lease {
                *last = (lease, now);
            }
            let stale = now - last.1 >= LEASE;
            if node == index || stale {
                self.write(world, |w| {
                    if w.ledger.leases.get(&other).is_some_and(|(_, l)| *l == lease) {
                        w.ledger.leases.remove(&other);
                    }
                })?;
            }
        }
        for task in 0..world.tasks.len() {
            for slot in world.ledger.tasks[task].open.clone() {
                let row = world.ledger.tasks[task].rows[&slot];
                let mine_and_lost =
                    row.incarnation == incarnation && row.state == "running" && !self.process().floor.contains(&(task, slot));
                if mine_and_lost || !world.ledger.leases.contains_key(&row.incarnation) {
                    self.resolve(world, task, slot)?;
                }
            }
        }
        Ok(())
    }

    fn resolve(&mut self, world: &mut World, task: usize, slot: Slot) -> Alive<()> {
        let (row, me, now) = (world.ledger.tasks[task].rows[&slot], self.incarnation, self.clock(world));
        let begun = row.attempts.max(u32::from(row.state == "running"));
        let fate = world.tasks[task].policy.orphan(begun, true, time(slot), time(now), ON_TIME_S);
        self.write(world, |w| match fate {
            Orphan::TakeOver => w.ledger.take_over(task, slot, row.incarnation, me),
            Orphan::Fail => w.ledger.end(task, slot, row.incarnation, "failed"),
            Orphan::Miss => w.ledger.end(task, slot, row.incarnation, "missed"),
        })?;
        if fate == Orphan::TakeOver {
            self.process().waiting.insert(task);
        }
        Ok(())
    }
}

#[test]
fn a_mark_ahead_of_the_clock_is_not_waited_for() {
    let now = time(super::START);
    assert_eq!(usable(now + TimeDelta::hours(2), now), now - TimeDelta::seconds(ON_TIME_S));
    assert_eq!(usable(now - TimeDelta::hours(2), now), now - TimeDelta::hours(2));
}
