//! How late starts were, as the occurrence ledger says: milliseconds from when a start was due (the slot and the task's jitter) to when
//! its work began on its thread.

use std::{collections::BTreeMap, fmt::Write as _};

use echopilot_actors::store::Store;
use futures_util::{StreamExt as _, stream};

/// Upper bounds of the histogram, in milliseconds; the last bucket is open.
const BOUNDS: [i64; 6] = [1, 5, 10, 50, 100, 1000];
/// Rows read of one task at most: more than any of these measurements makes.
const ROWS: i64 = 100_000;

#[derive(Debug, Default)]
pub(crate) struct Lateness {
    /// Of the runs that began, sorted.
    late_ms: Vec<i64>,
    /// Slots by what became of them: `succeeded`, `skipped overlap`, `missed`, ...
    pub(crate) ends: BTreeMap<String, usize>,
}

impl Lateness {
    /// Reads the scheduled slots of these tasks with their slot at or after `from`.
    pub(crate) async fn read(store: &Store, tasks: &[&str], from: chrono::DateTime<chrono::Utc>) -> Self {
        let rows = stream::iter(tasks).map(|task| store.runs(task, None, 0, ROWS)).buffer_unordered(4).collect::<Vec<_>>().await;
        let mut found = Self::default();
        for run in rows.into_iter().flat_map(|rows| rows.expect("the ledger can be read")) {
            if run.slot < from || run.cause == "manual" {
                continue;
            }
            let end = run.reason.map_or(run.state.clone(), |reason| format!("{} {reason}", run.state));
            *found.ends.entry(end).or_default() += 1;
            if let (Some(late_ms), true) = (run.lag_ms, run.started_at.is_some()) {
                found.late_ms.push(late_ms);
            }
        }
        found.late_ms.sort_unstable();
        found
    }

    pub(crate) fn started(&self) -> usize {
        self.late_ms.len()
    }

    /// The lateness that this share of the starts did not exceed.
    pub(crate) fn percentile(&self, share: f64) -> i64 {
        let n = self.late_ms.len();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a count")]
        let at = ((n as f64 * share) as usize).min(n.saturating_sub(1));
        self.late_ms.get(at).copied().unwrap_or(-1)
    }

    /// `p50 1 ms, p99 3 ms, max 9 ms`
    pub(crate) fn summary(&self) -> String {
        let max = self.percentile(1.0);
        format!("p50 {} ms, p99 {} ms, max {max} ms of {} starts", self.percentile(0.5), self.percentile(0.99), self.started())
    }

    /// One line: how many starts lie in each bucket, and what became of the slots.
    pub(crate) fn histogram(&self) -> String {
        let mut line = String::from("  ");
        let mut below = 0;
        for bound in BOUNDS {
            let within = self.late_ms.partition_point(|late| *late <= bound);
            let _ = write!(line, "<={bound} ms: {}  ", within - below);
            below = within;
        }
        let _ = write!(line, "later: {}", self.late_ms.len() - below);
        let others: Vec<String> = self.ends.iter().filter(|(end, _)| *end != "succeeded").map(|(end, n)| format!("{n} {end}")).collect();
        let missed: usize = self.ends.get("missed").copied().unwrap_or(0);
        let rest = if others.is_empty() { "all succeeded".to_owned() } else { others.join(", ") };
        format!("{line};  missed: {missed}; {rest}")
    }
}
