//! What the schedule keeps beside the occurrence ledger (`runs.rs`): pauses, the leases of the processes that carry runs out, the
//! schedule's own service level, and the pruning of old history.

use chrono::{DateTime, Utc};

use super::{
    Store,
    engine::{Batch, Fact, Row},
};
use crate::error::Result;

/// A task that is paused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    pub task: String,
    pub at: DateTime<Utc>,
    pub by: String,
    pub why: String,
    /// `None`: until somebody resumes it.
    pub until: Option<DateTime<Utc>>,
}

/// A failed attempt as it is listed.
#[derive(Clone, Debug)]
pub struct AttemptRow {
    pub attempt: i64,
    pub state: String,
    pub error: String,
    pub is_retryable: bool,
    pub started_at: DateTime<Utc>,
    pub ended_at: DateTime<Utc>,
}

/// A process that holds, or held, runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    pub incarnation: String,
    /// The data directory's name: two incarnations of one node never live at the same time.
    pub node: String,
    /// Grows while it lives.
    pub lease: i64,
    /// It is gone when its lease has stood still for so long: its own setting, not the observer's.
    pub limit_s: i64,
    pub seen_at: DateTime<Utc>,
}

/// How many slots of a task ended in one way: a line of the schedule's service level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotCount {
    pub task: String,
    pub state: String,
    pub reason: Option<String>,
    pub cause: String,
    pub slots: i64,
    /// Starts by lateness: within 10 ms, 50 ms, 100 ms, 1 s, and later. Only runs that began are counted.
    pub late: [i64; 5],
}

/// What became of a slot or of a run by hand, so far: what the metrics are counted from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotOutcome {
    /// Grows with every row.
    pub n: i64,
    pub task: String,
    pub cause: String,
    pub state: String,
    pub reason: Option<String>,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    pub lag_ms: Option<i64>,
}

impl Store {
    /// Takes or renews our lease; false if it had been taken from us: somebody thought us dead.
    pub async fn renew_lease(&self, incarnation: &str, node: &str, limit_s: i64, at: DateTime<Utc>, first: bool) -> Result<bool> {
        let sql = if first {
            "INSERT INTO node (incarnation, node, lease, limit_s, seen_at) VALUES (?1, ?2, 1, ?4, ?3)
                ON CONFLICT (incarnation) DO UPDATE SET lease = node.lease + 1, limit_s = excluded.limit_s, seen_at = excluded.seen_at"
        } else {
            "UPDATE node SET lease = lease + 1, limit_s = ?4, seen_at = ?3 WHERE incarnation = ?1 AND node = ?2"
        };
        let outcomes = self.engine.write(Batch::new().sql(sql, vec![incarnation.into(), node.into(), at.into(), limit_s.into()])).await?;
        Ok(outcomes.affected(0) == 1)
    }

    /// Takes the lease away from a process that is gone; false if it was renewed since, or another observer was first.
    pub async fn end_lease(&self, incarnation: &str, lease: i64) -> Result<bool> {
        let sql = "DELETE FROM node WHERE incarnation = ?1 AND lease = ?2";
        Ok(self.engine.write(Batch::new().sql(sql, vec![incarnation.into(), lease.into()])).await?.affected(0) == 1)
    }

    /// Gives our lease back at the end.
    pub async fn leave(&self, incarnation: &str) -> Result<()> {
        let sql = "DELETE FROM node WHERE incarnation = ?1";
        self.engine.write(Batch::new().sql(sql, vec![incarnation.into()])).await.map(|_| ())
    }

    pub async fn nodes(&self) -> Result<Vec<NodeRow>> {
        let rows = self.engine.read("SELECT incarnation, node, lease, limit_s, seen_at FROM node", vec![]).await?;
        let node = |r: &Row| {
            Ok(NodeRow {
                incarnation: r.text(0)?.to_owned(),
                node: r.text(1)?.to_owned(),
                lease: r.int(2)?,
                limit_s: r.int(3)?,
                seen_at: r.time(4)?,
            })
        };
        rows.iter().map(node).collect()
    }

    /// Pauses a task, or changes its pause.
    pub async fn pause_task(&self, pause: &Pause, fact: Fact) -> Result<()> {
        let sql = "INSERT INTO task_pause (task, at, paused_by, why, until) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (task) DO UPDATE SET
            at = excluded.at, paused_by = excluded.paused_by, why = excluded.why, until = excluded.until";
        let params =
            vec![pause.task.as_str().into(), pause.at.into(), pause.by.as_str().into(), pause.why.as_str().into(), pause.until.into()];
        self.engine.write(Batch::new().guard(sql, params).journal(fact)).await.map(|_| ())
    }

    /// False if it was not paused.
    pub async fn resume_task(&self, task: &str, fact: Fact) -> Result<bool> {
        let resumed = "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        let at = fact.at.timestamp_micros().to_string();
        let batch = Batch::new()
            .guard("DELETE FROM task_pause WHERE task = ?1", vec![task.into()])
            .sql(resumed, vec![resumed_key(task).into(), at.into()])
            .journal(fact);
        Ok(self.engine.write(batch).await?.affected(0) == 1)
    }

    /// The pauses that hold at `now`.
    pub async fn pauses(&self, now: DateTime<Utc>) -> Result<Vec<Pause>> {
        let sql = "SELECT task, at, paused_by, why, until FROM task_pause WHERE until IS NULL OR until > ?1 ORDER BY task";
        let rows = self.engine.read(sql, vec![now.into()]).await?;
        let pause = |r: &Row| {
            Ok(Pause {
                task: r.text(0)?.to_owned(),
                at: r.time(1)?,
                by: r.text(2)?.to_owned(),
                why: r.text(3)?.to_owned(),
                until: r.opt_time(4)?,
            })
        };
        rows.iter().map(pause).collect()
    }

    /// What became of the slots since `since`, manual runs left out.
    pub async fn slot_counts(&self, since: DateTime<Utc>) -> Result<Vec<SlotCount>> {
        // `cause || ''` keeps the planner from walking the whole (task, slot) index for the grouping: the window's rows are few.
        let sql = "SELECT task, state, reason, cause, COUNT(*),
              SUM(CASE WHEN lag_ms <= 10 AND started_at IS NOT NULL THEN 1 ELSE 0 END),
              SUM(CASE WHEN lag_ms > 10 AND lag_ms <= 50 AND started_at IS NOT NULL THEN 1 ELSE 0 END),
              SUM(CASE WHEN lag_ms > 50 AND lag_ms <= 100 AND started_at IS NOT NULL THEN 1 ELSE 0 END),
              SUM(CASE WHEN lag_ms > 100 AND lag_ms <= 1000 AND started_at IS NOT NULL THEN 1 ELSE 0 END),
              SUM(CASE WHEN lag_ms > 1000 AND started_at IS NOT NULL THEN 1 ELSE 0 END)
            FROM task_run WHERE slot >= ?1 AND cause || '' <> 'manual' GROUP BY task, state, reason, cause ORDER BY task, state, reason, cause";
        let rows = self.engine.read(sql, vec![since.into()]).await?;
        let count = |r: &Row| {
            Ok(SlotCount {
                task: r.text(0)?.to_owned(),
                state: r.text(1)?.to_owned(),
                reason: r.opt_text(2)?,
                cause: r.text(3)?.to_owned(),
                slots: r.int(4)?,
                late: [r.int(5)?, r.int(6)?, r.int(7)?, r.int(8)?, r.int(9)?],
            })
        };
        rows.iter().map(count).collect()
    }

    /// The states of a task's latest scheduled runs that began and ended after it was last resumed, newest first.
    pub async fn latest_ends(&self, task: &str, limit: u32) -> Result<Vec<String>> {
        let resumed: i64 = self.meta(&resumed_key(task)).await?.and_then(|at| at.parse().ok()).unwrap_or(0);
        let sql = "SELECT state FROM task_run WHERE task = ?1 AND cause <> 'manual' AND state IN ('succeeded', 'failed', 'timed_out') AND ended_at > ?3
            ORDER BY n DESC LIMIT ?2";
        let rows = self.engine.read(sql, vec![task.into(), limit.into(), resumed.into()]).await?;
        rows.iter().map(|r| Ok(r.text(0)?.to_owned())).collect()
    }

    /// Runs that ended badly since `since`: (failed or timed out, missed).
    pub async fn bad_runs(&self, since: DateTime<Utc>) -> Result<(i64, i64)> {
        let sql = "SELECT COALESCE(SUM(CASE WHEN state IN ('failed', 'timed_out') AND ended_at >= ?1 THEN 1 ELSE 0 END), 0),
            COALESCE(SUM(CASE WHEN state = 'missed' AND slot >= ?1 THEN 1 ELSE 0 END), 0) FROM task_run WHERE slot >= ?2";
        // A run ends within days of its slot; without a bound on the slot the whole history would be walked.
        let rows = self.engine.read(sql, vec![since.into(), (since - chrono::TimeDelta::days(7)).into()]).await?;
        rows.first().map_or(Ok((0, 0)), |r| Ok((r.int(0)?, r.int(1)?)))
    }

    /// The first `limit` rows of a process's runs after row `after`.
    pub async fn outcomes(&self, incarnation: &str, after: i64, limit: i64) -> Result<Vec<SlotOutcome>> {
        let sql = "SELECT n, task, cause, state, reason, started_at, ended_at, lag_ms FROM task_run WHERE n > ?2 AND incarnation = ?1 ORDER BY n LIMIT ?3";
        let rows = self.engine.read(sql, vec![incarnation.into(), after.into(), limit.into()]).await?;
        let outcome = |r: &Row| {
            Ok(SlotOutcome {
                n: r.int(0)?,
                task: r.text(1)?.to_owned(),
                cause: r.text(2)?.to_owned(),
                state: r.text(3)?.to_owned(),
                reason: r.opt_text(4)?,
                started_at: r.opt_time(5)?,
                ended_at: r.opt_time(6)?,
                lag_ms: r.opt_int(7)?,
            })
        };
        rows.iter().map(outcome).collect()
    }

    /// The newest row of the ledger.
    pub async fn newest_row(&self) -> Result<i64> {
        let rows = self.engine.read("SELECT COALESCE(MAX(n), 0) FROM task_run", vec![]).await?;
        rows.first().map_or(Ok(0), |r| r.int(0))
    }

    /// When a task's newest success began and ended.
    pub async fn last_success(&self, task: &str) -> Result<Option<(Option<DateTime<Utc>>, Option<DateTime<Utc>>)>> {
        let sql = "SELECT started_at, ended_at FROM task_run WHERE task = ?1 AND state = 'succeeded' ORDER BY n DESC LIMIT 1";
        let rows = self.engine.read(sql, vec![task.into()]).await?;
        rows.first().map(|r| Ok((r.opt_time(0)?, r.opt_time(1)?))).transpose()
    }

    /// The attempts of a run that failed, oldest first.
    pub async fn attempts(&self, run_id: &str) -> Result<Vec<AttemptRow>> {
        let sql = "SELECT attempt, state, error, retryable, started_at, ended_at FROM task_attempt WHERE run_id = ?1 ORDER BY attempt";
        let rows = self.engine.read(sql, vec![run_id.into()]).await?;
        let attempt = |r: &Row| {
            Ok(AttemptRow {
                attempt: r.int(0)?,
                state: r.text(1)?.to_owned(),
                error: r.text(2)?.to_owned(),
                is_retryable: r.int(3)? == 1,
                started_at: r.time(4)?,
                ended_at: r.time(5)?,
            })
        };
        rows.iter().map(attempt).collect()
    }

    /// Forgets runs whose slot is older than `rows_before` and results older than `results_before`, `limit` of each at most. The latest
    /// run of a task, runs without an end and the marks stay. Answers how many rows went.
    pub async fn prune_runs(&self, rows_before: DateTime<Utc>, results_before: DateTime<Utc>, limit: i64) -> Result<u64> {
        let attempts = "DELETE FROM task_attempt WHERE run_id IN (SELECT run_id FROM task_run AS o WHERE slot < ?1 AND state NOT IN ('pending', 'running')
            AND n < (SELECT MAX(n) FROM task_run AS r WHERE r.task = o.task) ORDER BY slot LIMIT ?2)";
        let rows = "DELETE FROM task_run WHERE n IN (SELECT n FROM task_run AS o WHERE slot < ?1 AND state NOT IN ('pending', 'running')
            AND n < (SELECT MAX(n) FROM task_run AS r WHERE r.task = o.task) ORDER BY slot LIMIT ?2)";
        let results = "UPDATE task_run SET result = NULL WHERE n IN (SELECT n FROM task_run AS o WHERE slot < ?1 AND result IS NOT NULL
            AND state NOT IN ('pending', 'running') AND n < (SELECT MAX(n) FROM task_run AS r WHERE r.task = o.task) ORDER BY slot LIMIT ?2)";
        let batch = Batch::new()
            .sql(attempts, vec![rows_before.into(), limit.into()])
            .sql(rows, vec![rows_before.into(), limit.into()])
            .sql(results, vec![results_before.into(), limit.into()]);
        Ok(self.engine.write(batch).await?.affected(1))
    }
}

/// Where it is kept when a task was last resumed.
fn resumed_key(task: &str) -> String {
    format!("resumed:{task}")
}
