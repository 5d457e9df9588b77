//! The occurrence ledger: a row for every due slot of every task, claimed by the unique (task, slot), and one for every run asked for
//! by hand. What a slot becomes is decided in the statement that claims it, so that two daemons on one database cannot disagree. The
//! high-water mark outlives the history. Pauses, leases and upkeep are in `schedule.rs`.

use chrono::{DateTime, Utc};
use serde_json::Value as Json;

use super::{
    Store,
    engine::{Batch, Fact, Row, Value},
};
use crate::{domain::schedule::Overlap, error::Result};

/// A slot's row as it is first written.
#[derive(Clone, Debug)]
pub struct NewRun {
    pub run_id: String,
    pub task: String,
    pub slot: DateTime<Utc>,
    /// `schedule`, `catch_up`, `manual` or `backfill`.
    pub cause: &'static str,
    /// `pending` (it waits for the task it depends on), `running`, `skipped` or `missed`.
    pub state: &'static str,
    pub reason: Option<&'static str>,
    pub asked_by: Option<String>,
    /// The process that carries it out: the lease it is held under.
    pub incarnation: String,
    pub at: DateTime<Utc>,
    pub lag_ms: Option<i64>,
}

/// Where a claimed run is to go while another run of its task is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It begins now, or what the task's overlap policy says.
    Now(Overlap),
    /// It waits behind the others in any case: one of a backlog that is made up for.
    InLine,
}

impl Place {
    fn as_str(self) -> &'static str {
        match self {
            Self::Now(overlap) => overlap.as_str(),
            Self::InLine => "line",
        }
    }
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The row is ours, in the state that was asked for.
    Begun,
    /// Another run is going on; the row waits as `pending` for its end.
    Queued,
    /// The row is `skipped` with reason `overlap`.
    Overlap,
    /// The row is `skipped` with reason `paused`.
    Paused,
    /// This process holds no lease: another node took it away. Nothing was written.
    NoLease,
    /// The slot has its row already; or, for a manual run, another run is going on. Nothing was written.
    Taken,
}

/// How a run, or one attempt of it, ended badly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// From 1.
    pub attempt: u32,
    /// `failed`, `timed_out` or `cancelled`.
    pub state: &'static str,
    pub error: String,
    pub is_retryable: bool,
    pub started_at: DateTime<Utc>,
    pub ended_at: DateTime<Utc>,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct RunEnd {
    /// `succeeded`, `failed`, `timed_out`, `cancelled`, `skipped` or `missed`.
    pub state: &'static str,
    pub reason: Option<&'static str>,
    pub attempts: u32,
    /// When the work of the first attempt really began, and how late that was; `None` leaves what the claim said.
    pub began: Option<(DateTime<Utc>, i64)>,
    pub ended_at: DateTime<Utc>,
    pub error: Option<String>,
    pub result: Option<Json>,
    /// The attempt that ended it badly.
    pub last_attempt: Option<Attempt>,
}

#[derive(Clone, Debug)]
pub struct RunRow {
    pub n: i64,
    pub run_id: String,
    pub task: String,
    pub slot: DateTime<Utc>,
    pub cause: String,
    pub state: String,
    pub reason: Option<String>,
    pub attempts: i64,
    pub asked_by: Option<String>,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    pub lag_ms: Option<i64>,
    pub error: Option<String>,
    pub result: Option<String>,
    pub incarnation: String,
}

/// The claim decides, also anew about a slot that was written off (`missed`, or folded into another run): that happens when a clock
/// had jumped ahead and was set back, or was wrong on another node. A slot that ran is never claimed again.
///
/// Questions for open runs repeat the condition of their index (`task_run_open`): without it every claim would walk the task's history.
const CLAIM: &str =
    "INSERT INTO task_run (run_id, task, slot, cause, state, reason, asked_by, incarnation, started_at, lag_ms, attempts, holds)
    SELECT ?1, ?2, ?3, ?4,
      CASE v.verdict WHEN 'begin' THEN ?5 WHEN 'queued' THEN 'pending' WHEN 'catch_up' THEN 'pending' ELSE 'skipped' END,
      CASE v.verdict WHEN 'begin' THEN ?6 ELSE v.verdict END, ?7, ?8,
      CASE WHEN v.verdict = 'begin' AND ?5 = 'running' THEN ?9 END, ?10,
      CASE WHEN v.verdict = 'begin' AND ?5 = 'running' THEN 1 ELSE 0 END,
      CASE WHEN v.verdict = 'begin' AND ?11 <> 'allow' THEN 1 ELSE 0 END
    FROM (SELECT CASE
        WHEN c.paused > 0 AND ?4 <> 'manual' THEN 'paused'
        WHEN ?11 = 'line' THEN 'catch_up'
        WHEN c.held = 0 OR ?11 = 'allow' THEN 'begin'
        WHEN ?4 = 'manual' THEN 'refused'
        WHEN ?11 IN ('queue_one', 'cancel_other') AND c.queued = 0 THEN 'queued'
        ELSE 'overlap' END AS verdict
      FROM (SELECT (SELECT COUNT(*) FROM task_run WHERE task = ?2 AND holds = 1) AS held,
          (SELECT COUNT(*) FROM task_run WHERE task = ?2 AND state IN ('pending', 'running') AND state = 'pending' AND reason = 'queued') AS queued,
          (SELECT COUNT(*) FROM task_pause WHERE task = ?2 AND (until IS NULL OR until > ?9)) AS paused) AS c) AS v
    WHERE v.verdict <> 'refused'
    ON CONFLICT (task, slot) WHERE cause <> 'manual' DO UPDATE SET run_id = excluded.run_id, cause = excluded.cause, state = excluded.state,
      reason = excluded.reason, incarnation = excluded.incarnation, started_at = excluded.started_at, lag_ms = excluded.lag_ms,
      attempts = excluded.attempts, holds = excluded.holds, asked_by = excluded.asked_by, ended_at = NULL, error = NULL, result = NULL, cancel_by = NULL
      WHERE task_run.state = 'missed' OR task_run.state = 'skipped' AND task_run.reason = 'catch_up'
    RETURNING state, reason";
const INSERT: &str = "INSERT INTO task_run (run_id, task, slot, cause, state, reason, incarnation)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING";
const MARK: &str = "INSERT INTO task_mark (task, through) VALUES (?1, ?2)
    ON CONFLICT (task) DO UPDATE SET through = excluded.through WHERE excluded.through > task_mark.through";
const END: &str = "UPDATE task_run SET state = ?3, reason = ?4, attempts = ?5, ended_at = ?6, error = ?7, result = ?8, holds = 0,
      started_at = COALESCE(?9, started_at), lag_ms = COALESCE(?10, lag_ms)
    WHERE run_id = ?1 AND incarnation = ?2 AND state IN ('pending', 'running')";
const ATTEMPT: &str = "INSERT INTO task_attempt (run_id, attempt, state, error, retryable, started_at, ended_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING";
/// The columns of a `RunRow`, spelled once.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT n, run_id, task, slot, cause, state, reason, attempts, asked_by, started_at, ended_at, lag_ms, error, result, incarnation
             FROM task_run ",
            $rest
        )
    };
}

impl Store {
    /// Claims a slot, or the place of a manual run.
    pub async fn claim_run(&self, run: &NewRun, place: Place, fact: Fact) -> Result<Claim> {
        self.claim(leased(&run.incarnation), 1, run, place, fact).await
    }

    /// Claims the only slot of a round and moves the task's mark, in one commit.
    pub async fn claim_through(&self, run: &NewRun, place: Place, through: DateTime<Utc>, fact: Fact) -> Result<Claim> {
        // The mark first: it moves whatever the claim decides.
        let batch = leased(&run.incarnation).sql(MARK, vec![run.task.as_str().into(), through.into()]);
        self.claim(batch, 2, run, place, fact).await
    }

    async fn claim(&self, batch: Batch, at: usize, run: &NewRun, place: Place, fact: Fact) -> Result<Claim> {
        let params = vec![
            run.run_id.as_str().into(),
            run.task.as_str().into(),
            run.slot.into(),
            run.cause.into(),
            run.state.into(),
            run.reason.into(),
            run.asked_by.clone().into(),
            run.incarnation.as_str().into(),
            run.at.into(),
            run.lag_ms.into(),
            place.as_str().into(),
        ];
        let outcomes = self.engine.write(batch.guard(CLAIM, params).journal(fact)).await?;
        if outcomes.rows(0).is_empty() {
            return Ok(Claim::NoLease);
        }
        let Some(row) = outcomes.rows(at).first() else { return Ok(Claim::Taken) };
        Ok(match (row.text(0)?, row.opt_text(1)?.as_deref()) {
            ("skipped", Some("paused")) => Claim::Paused,
            ("skipped", _) => Claim::Overlap,
            ("pending", Some("queued" | "catch_up")) => Claim::Queued,
            _ => Claim::Begun,
        })
    }

    /// Writes rows for slots that will not run (`skipped`, `missed`) and moves the mark, all in one commit.
    pub async fn close_slots(&self, task: &str, rows: &[NewRun], through: DateTime<Utc>) -> Result<()> {
        let mut batch = Batch::new();
        for run in rows {
            let params = vec![
                run.run_id.as_str().into(),
                run.task.as_str().into(),
                run.slot.into(),
                run.cause.into(),
                run.state.into(),
                run.reason.into(),
                run.incarnation.as_str().into(),
            ];
            batch = batch.sql(INSERT, params);
        }
        self.engine.write(batch.sql(MARK, vec![task.into(), through.into()])).await.map(|_| ())
    }

    /// The marks of tasks that were never seen before: their slots begin at `through`. All in one commit.
    pub async fn begin_marks(&self, tasks: &[&str], through: DateTime<Utc>) -> Result<()> {
        let batch = tasks.iter().fold(Batch::new(), |batch, task| batch.sql(MARK, vec![(*task).into(), through.into()]));
        self.engine.write(batch).await.map(|_| ())
    }

    pub async fn task_marks(&self) -> Result<Vec<(String, DateTime<Utc>)>> {
        let rows = self.engine.read("SELECT task, through FROM task_mark", vec![]).await?;
        rows.iter().map(|r| Ok((r.text(0)?.to_owned(), r.time(1)?))).collect()
    }

    /// Writes a run's end; false if it is not held by `incarnation` any more or has its end (a late answer changes nothing).
    pub async fn end_run(&self, run_id: &str, incarnation: &str, end: &RunEnd, fact: Fact) -> Result<bool> {
        let params = vec![
            run_id.into(),
            incarnation.into(),
            end.state.into(),
            end.reason.into(),
            end.attempts.into(),
            end.ended_at.into(),
            end.error.clone().into(),
            end.result.as_ref().into(),
            end.began.map(|(at, _)| at).into(),
            end.began.map(|(_, lag_ms)| lag_ms).into(),
        ];
        let mut batch = Batch::new().guard(END, params);
        if let Some(attempt) = &end.last_attempt {
            batch = batch.sql(ATTEMPT, attempt_params(run_id, attempt));
        }
        Ok(self.engine.write(batch.journal(fact)).await?.affected(0) == 1)
    }

    /// Keeps the error of an attempt that will be followed by another; false if the run is not held by `incarnation` any more.
    pub async fn failed_attempt(&self, run_id: &str, incarnation: &str, attempt: &Attempt) -> Result<bool> {
        let sql = "UPDATE task_run SET attempts = ?3 WHERE run_id = ?1 AND incarnation = ?2 AND state = 'running'";
        let params = vec![run_id.into(), incarnation.into(), (attempt.attempt + 1).into()];
        let batch = Batch::new().guard(sql, params).sql(ATTEMPT, attempt_params(run_id, attempt));
        Ok(self.engine.write(batch).await?.affected(0) == 1)
    }

    /// The task it waited for has ended: a run that holds its place begins. False if it was cancelled meanwhile.
    pub async fn start_pending(&self, run_id: &str, incarnation: &str, at: DateTime<Utc>) -> Result<bool> {
        let sql = "UPDATE task_run SET state = 'running', reason = NULL, started_at = ?3, attempts = CASE attempts WHEN 0 THEN 1 ELSE attempts END
            WHERE run_id = ?1 AND incarnation = ?2 AND state IN ('pending', 'running')";
        Ok(self.engine.write(Batch::new().sql(sql, vec![run_id.into(), incarnation.into(), at.into()])).await?.affected(0) == 1)
    }

    /// Tasks with a run that waits for its place, each with that place free.
    pub async fn tasks_waiting(&self) -> Result<Vec<String>> {
        let sql = "SELECT DISTINCT task FROM task_run AS w WHERE state IN ('pending', 'running') AND state = 'pending' AND holds = 0 AND reason <> 'dependency'
            AND NOT EXISTS (SELECT 1 FROM task_run WHERE task = w.task AND holds = 1)";
        self.engine.read(sql, vec![]).await?.iter().map(|r| Ok(r.text(0)?.to_owned())).collect()
    }

    /// Gives the place of `task`, if it is free, to the run that has waited longest (backfills last) and puts it under our lease. While the
    /// task is paused, or in a `blackout`, only one that a person asked for.
    pub async fn begin_waiting(&self, task: &str, incarnation: &str, at: DateTime<Utc>, blackout: bool) -> Result<Option<RunRow>> {
        let sql = "UPDATE task_run SET state = 'running', reason = NULL, holds = 1, incarnation = ?2, started_at = ?3, attempts = attempts + 1
            WHERE n = (SELECT n FROM task_run WHERE task = ?1 AND state IN ('pending', 'running') AND state = 'pending' AND holds = 0 AND reason <> 'dependency'
                  AND (cause IN ('manual', 'backfill') OR ?4 = 0 AND NOT EXISTS (SELECT 1 FROM task_pause WHERE task = ?1 AND (until IS NULL OR until > ?3)))
                ORDER BY CASE cause WHEN 'backfill' THEN 1 ELSE 0 END, slot, n LIMIT 1)
              AND NOT EXISTS (SELECT 1 FROM task_run WHERE task = ?1 AND holds = 1)
            RETURNING n, run_id, task, slot, cause, state, reason, attempts, asked_by, started_at, ended_at, lag_ms, error, result, incarnation";
        let batch = leased(incarnation).sql(sql, vec![task.into(), incarnation.into(), at.into(), blackout.into()]);
        self.engine.write(batch).await?.rows(1).first().map(run_row).transpose()
    }

    /// Runs without an end, oldest first.
    pub async fn open_runs(&self) -> Result<Vec<RunRow>> {
        // `+ 0`: ordered by the key it would walk the whole history instead of the index of open runs.
        let sql = select!("WHERE state IN ('pending', 'running') ORDER BY n + 0");
        self.engine.read(sql, vec![]).await?.iter().map(run_row).collect()
    }

    /// Takes a run from a process that is gone: it waits for its place again, now as ours. The attempt that was cut off is kept.
    pub async fn take_over(&self, run: &RunRow, incarnation: &str, cut_off: Option<&Attempt>, fact: Fact) -> Result<bool> {
        let sql = "UPDATE task_run SET state = 'pending', reason = 'taken_over', holds = 0, incarnation = ?3
            WHERE run_id = ?1 AND incarnation = ?2 AND state IN ('pending', 'running')";
        let mut batch = Batch::new().guard(sql, vec![run.run_id.as_str().into(), run.incarnation.as_str().into(), incarnation.into()]);
        if let Some(attempt) = cut_off {
            batch = batch.sql(ATTEMPT, attempt_params(&run.run_id, attempt));
        }
        Ok(self.engine.write(batch.journal(fact)).await?.affected(0) == 1)
    }

    pub async fn run(&self, run_id: &str) -> Result<Option<RunRow>> {
        let sql = select!("WHERE run_id = ?1");
        self.engine.read(sql, vec![run_id.into()]).await?.first().map(run_row).transpose()
    }

    /// The run that holds a task's place.
    pub async fn run_in_place(&self, task: &str) -> Result<Option<RunRow>> {
        let sql = select!("WHERE task = ?1 AND holds = 1");
        self.engine.read(sql, vec![task.into()]).await?.first().map(run_row).transpose()
    }

    /// A task's runs, newest first; `before` is a cursor (0 starts at the newest). With `state`, only those in it.
    pub async fn runs(&self, task: &str, state: Option<&str>, before: i64, limit: i64) -> Result<Vec<RunRow>> {
        let sql = select!("WHERE task = ?1 AND (?2 = 0 OR n < ?2) AND (?4 = '' OR state = ?4) ORDER BY n DESC LIMIT ?3");
        let params: Vec<Value> = vec![task.into(), before.into(), limit.into(), state.unwrap_or_default().into()];
        self.engine.read(sql, params).await?.iter().map(run_row).collect()
    }

    /// When the oldest run that is kept was due.
    pub async fn first_slot(&self) -> Result<Option<DateTime<Utc>>> {
        let rows = self.engine.read("SELECT slot FROM task_run ORDER BY n LIMIT 1", vec![]).await?;
        rows.first().map(|r| r.time(0)).transpose()
    }

    /// The latest run of every task. Walks from task to task by the index: the cost does not grow with the history.
    pub async fn latest_runs(&self) -> Result<Vec<RunRow>> {
        let sql = concat!(
            "WITH RECURSIVE t (task) AS (SELECT MIN(task) FROM task_run UNION ALL
               SELECT (SELECT MIN(task) FROM task_run WHERE task > t.task) FROM t WHERE t.task IS NOT NULL) ",
            select!("WHERE n IN (SELECT (SELECT MAX(n) FROM task_run AS r WHERE r.task = t.task) FROM t WHERE t.task IS NOT NULL)")
        );
        self.engine.read(sql, vec![]).await?.iter().map(run_row).collect()
    }

    /// The newest scheduled run of `task` with its slot in (after, before].
    pub async fn run_between(&self, task: &str, after: DateTime<Utc>, before: DateTime<Utc>) -> Result<Option<RunRow>> {
        let sql = select!("WHERE task = ?1 AND slot > ?2 AND slot <= ?3 AND cause <> 'manual' ORDER BY slot DESC LIMIT 1");
        self.engine.read(sql, vec![task.into(), after.into(), before.into()]).await?.first().map(run_row).transpose()
    }
}

/// A batch that writes nothing unless that process holds its lease.
fn leased(incarnation: &str) -> Batch {
    Batch::new().guard("SELECT 1 FROM node WHERE incarnation = ?1", vec![incarnation.into()])
}

fn attempt_params(run_id: &str, attempt: &Attempt) -> Vec<Value> {
    vec![
        run_id.into(),
        attempt.attempt.into(),
        attempt.state.into(),
        attempt.error.as_str().into(),
        attempt.is_retryable.into(),
        attempt.started_at.into(),
        attempt.ended_at.into(),
    ]
}

fn run_row(row: &Row) -> Result<RunRow> {
    Ok(RunRow {
        n: row.int(0)?,
        run_id: row.text(1)?.to_owned(),
        task: row.text(2)?.to_owned(),
        slot: row.time(3)?,
        cause: row.text(4)?.to_owned(),
        state: row.text(5)?.to_owned(),
        reason: row.opt_text(6)?,
        attempts: row.int(7)?,
        asked_by: row.opt_text(8)?,
        started_at: row.opt_time(9)?,
        ended_at: row.opt_time(10)?,
        lag_ms: row.opt_int(11)?,
        error: row.opt_text(12)?,
        result: row.opt_text(13)?,
        incarnation: row.text(14)?.to_owned(),
    })
}
