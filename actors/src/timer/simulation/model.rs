//! The occurrence ledger as a model: what the statements of `store/runs.rs` do, over maps. `agrees.rs` holds the two against each other.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{
    domain::schedule::Overlap,
    store::{Claim, Place},
};

/// Microseconds since the Unix epoch.
pub(super) type Slot = i64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) state: &'static str,
    pub(super) reason: Option<&'static str>,
    pub(super) cause: &'static str,
    pub(super) incarnation: u32,
    pub(super) attempts: u32,
    pub(super) holds: bool,
}

impl Row {
    fn is_open(&self) -> bool {
        matches!(self.state, "pending" | "running")
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct TaskLedger {
    pub(super) rows: HashMap<Slot, Row>,
    pub(super) open: BTreeSet<Slot>,
    pub(super) mark: Option<Slot>,
    /// The first mark: the task's slots begin after it.
    pub(super) first: Option<Slot>,
    pub(super) paused: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    pub(super) tasks: Vec<TaskLedger>,
    /// Incarnation to (node, lease).
    pub(super) leases: BTreeMap<u32, (usize, i64)>,
}

impl Ledger {
    pub(super) fn new(tasks: usize) -> Self {
        Self { tasks: vec![TaskLedger::default(); tasks], leases: BTreeMap::new() }
    }

    pub(super) fn claim(&mut self, task: usize, slot: Slot, cause: &'static str, place: Place, incarnation: u32) -> Claim {
        if !self.leases.contains_key(&incarnation) {
            return Claim::NoLease;
        }
        let t = &mut self.tasks[task];
        let is_open = |test: fn(&Row) -> bool| t.open.iter().any(|s| test(&t.rows[s]));
        let (held, queued) = (is_open(|r| r.holds), is_open(|r| r.state == "pending" && r.reason == Some("queued")));
        let (state, reason, claim) = match place {
            _ if t.paused => ("skipped", Some("paused"), Claim::Paused),
            Place::InLine => ("pending", Some("catch_up"), Claim::Queued),
            Place::Now(Overlap::Allow) => ("running", None, Claim::Begun),
            Place::Now(_) if !held => ("running", None, Claim::Begun),
            Place::Now(Overlap::QueueOne | Overlap::CancelOther) if !queued => ("pending", Some("queued"), Claim::Queued),
            Place::Now(_) => ("skipped", Some("overlap"), Claim::Overlap),
        };
        let begins = claim == Claim::Begun;
        let holds = begins && place != Place::Now(Overlap::Allow);
        let row = Row { state, reason, cause, incarnation, attempts: u32::from(begins), holds };
        let written_off = |old: &Row| old.state == "missed" || old.state == "skipped" && old.reason == Some("catch_up");
        if t.rows.get(&slot).is_some_and(|old| !written_off(old)) {
            return Claim::Taken;
        }
        t.rows.insert(slot, row);
        if row.is_open() {
            t.open.insert(slot);
        }
        claim
    }

    pub(super) fn close(&mut self, task: usize, rows: &[(Slot, &'static str, Option<&'static str>)], incarnation: u32, through: Slot) {
        let t = &mut self.tasks[task];
        for (slot, state, reason) in rows {
            let row = Row { state, reason: *reason, cause: "schedule", incarnation, attempts: 0, holds: false };
            t.rows.entry(*slot).or_insert(row);
        }
        t.first = t.first.or(Some(through));
        t.mark = Some(t.mark.map_or(through, |mark| mark.max(through)));
    }

    pub(super) fn end(&mut self, task: usize, slot: Slot, incarnation: u32, state: &'static str) -> bool {
        let t = &mut self.tasks[task];
        let Some(row) = t.rows.get_mut(&slot).filter(|r| r.is_open() && r.incarnation == incarnation) else { return false };
        (row.state, row.reason, row.holds) = (state, None, false);
        t.open.remove(&slot);
        true
    }

    pub(super) fn next_attempt(&mut self, task: usize, slot: Slot, incarnation: u32, attempt: u32) -> bool {
        let row = self.tasks[task].rows.get_mut(&slot).filter(|r| r.state == "running" && r.incarnation == incarnation);
        row.map(|row| row.attempts = attempt).is_some()
    }

    pub(super) fn begin_waiting(&mut self, task: usize, incarnation: u32) -> Option<(Slot, u32)> {
        let t = &mut self.tasks[task];
        if !self.leases.contains_key(&incarnation) || t.paused || t.open.iter().any(|s| t.rows[s].holds) {
            return None;
        }
        let slot = *t.open.iter().find(|s| t.rows[s].state == "pending")?;
        let row = t.rows.get_mut(&slot)?;
        (row.state, row.reason, row.holds, row.incarnation) = ("running", None, true, incarnation);
        row.attempts += 1;
        Some((slot, row.attempts))
    }

    pub(super) fn take_over(&mut self, task: usize, slot: Slot, from: u32, to: u32) -> bool {
        let row = self.tasks[task].rows.get_mut(&slot).filter(|r| r.is_open() && r.incarnation == from);
        row.map(|row| (row.state, row.reason, row.holds, row.incarnation) = ("pending", Some("taken_over"), false, to)).is_some()
    }
}
