//! The schedule's own service level: of the slots that were due, how many started in time, late or not at all, and why. Counted from the
//! occurrence ledger, so that it is the same after a restart and on every node.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::desk::Desk;
use crate::{env::rfc3339, error::Result, store::SlotCount};

/// The slots of one task, or of all.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TaskLevel {
    /// Slots that have come due and are not waiting or running.
    pub due: i64,
    /// Began within `late_ms`.
    pub on_time: i64,
    /// Began later, among them those that were made up for.
    pub late: i64,
    /// Nothing ran for them.
    pub missed: i64,
    /// Did not run, by reason.
    pub skipped: BTreeMap<String, i64>,
    /// Of those that began: failed or timed out.
    pub failed: i64,
    pub cancelled: i64,
    /// Share of `due` without the slots that were skipped on purpose (`paused`, `blackout`, `maintenance`); null without any.
    pub on_time_ratio: Option<f64>,
    /// Starts by how late they were.
    pub lateness: Lateness,
}

/// Starts by lateness, each slot in one bucket.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Lateness {
    pub within_10_ms: i64,
    pub within_50_ms: i64,
    pub within_100_ms: i64,
    pub within_1_s: i64,
    pub later: i64,
}

/// The service level since `since`.
#[derive(Clone, Debug, Serialize)]
pub struct Level {
    pub since: String,
    /// A start later than this is late.
    pub late_ms: i64,
    /// The share of slots that are to start in time.
    pub objective: f64,
    /// `PASS`, `FAIL` or `NO_DATA`.
    pub status: &'static str,
    pub total: TaskLevel,
    pub tasks: BTreeMap<String, TaskLevel>,
}

/// A start within this time of its slot is on time for the service level: the third bucket's bound.
pub const LATE_MS: i64 = 1000;

pub(super) async fn measure(desk: &Desk, since: DateTime<Utc>) -> Result<Level> {
    let objective = desk.env.config().timer.objective;
    Ok(judge(&desk.env.store().slot_counts(since).await?, since, objective))
}

fn judge(counts: &[SlotCount], since: DateTime<Utc>, objective: f64) -> Level {
    let mut tasks: BTreeMap<String, TaskLevel> = BTreeMap::new();
    let mut total = TaskLevel::default();
    for count in counts {
        tasks.entry(count.task.clone()).or_default().add(count);
        total.add(count);
    }
    tasks.values_mut().for_each(TaskLevel::close);
    total.close();
    let status = match total.on_time_ratio {
        None => "NO_DATA",
        Some(ratio) if ratio < objective => "FAIL",
        Some(_) => "PASS",
    };
    Level { since: rfc3339(since), late_ms: LATE_MS, objective, status, total, tasks }
}

impl TaskLevel {
    fn add(&mut self, count: &SlotCount) {
        let [a, b, c, d, later] = count.late;
        match count.state.as_str() {
            "pending" | "running" => return,
            "missed" => self.missed += count.slots,
            "skipped" => *self.skipped.entry(count.reason.clone().unwrap_or_default()).or_default() += count.slots,
            state => {
                let began = a + b + c + d + later;
                // A backfill is asked for by a person and says nothing about the schedule; the slot itself was not served in time.
                let in_time = if count.cause == "schedule" { began - later } else { 0 };
                self.on_time += in_time;
                self.late += count.slots - in_time;
                match state {
                    "failed" | "timed_out" => self.failed += count.slots,
                    "cancelled" => self.cancelled += count.slots,
                    _ => {}
                }
            }
        }
        self.due += count.slots;
        self.lateness.within_10_ms += a;
        self.lateness.within_50_ms += b;
        self.lateness.within_100_ms += c;
        self.lateness.within_1_s += d;
        self.lateness.later += later;
    }

    fn close(&mut self) {
        let on_purpose: i64 = ["paused", "blackout", "maintenance"].iter().filter_map(|reason| self.skipped.get(*reason)).sum();
        let counted = self.due - on_purpose;
        self.on_time_ratio = (counted > 0).then(|| self.on_time as f64 / counted as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(state: &str, reason: Option<&str>, cause: &str, slots: i64, late: [i64; 5]) -> SlotCount {
        SlotCount { task: "t".into(), state: state.into(), reason: reason.map(str::to_owned), cause: cause.into(), slots, late }
    }

    #[test]
    fn every_slot_is_counted_once_and_what_was_skipped_on_purpose_costs_nothing() {
        let counts = [
            count("succeeded", None, "schedule", 90, [80, 8, 1, 1, 0]),
            count("succeeded", None, "catch_up", 2, [0, 0, 0, 0, 2]),
            count("failed", None, "schedule", 3, [1, 1, 0, 0, 1]),
            count("missed", None, "schedule", 2, [0; 5]),
            count("skipped", Some("overlap"), "schedule", 1, [0; 5]),
            count("skipped", Some("paused"), "schedule", 50, [0; 5]),
            count("running", None, "schedule", 1, [1, 0, 0, 0, 0]),
        ];
        let level = judge(&counts, DateTime::UNIX_EPOCH, 0.99);
        let t = &level.total;
        assert_eq!((t.due, t.on_time, t.late, t.missed, t.failed), (148, 92, 3, 2, 3));
        assert_eq!((t.skipped["overlap"], t.skipped["paused"]), (1, 50));
        assert_eq!(t.on_time + t.late + t.missed + t.skipped.values().sum::<i64>(), t.due);
        assert_eq!(t.on_time_ratio, Some(92.0 / 98.0));
        assert_eq!((level.status, level.tasks.len()), ("FAIL", 1));
        assert_eq!(judge(&counts[5..6], DateTime::UNIX_EPOCH, 0.99).status, "NO_DATA");
    }
}
