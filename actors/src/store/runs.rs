//! The occurrence ledger: a row for every due slot of every task, claimed by the unique (task, slot), and one for every run
//! asked for by hand. The high-water mark outlives the history.

use chrono::{DateTime, Utc};
use serde_json::Value as Json;

use super::{
    Store,
    engine::{Batch, Fact, Row},
};
use crate::error::Result;

/// A slot's row as it is first written.
#[derive(Clone, Debug)]
pub struct NewRun {
    pub run_id: String,
    pub task: &'static str,
    pub slot: DateTime<Utc>,
    /// `schedule`, `catch_up` or `manual`.
    pub cause: &'static str,
    /// `pending`, `running`, `skipped` or `missed`.
    pub state: &'static str,
    pub reason: Option<&'static str>,
    pub asked_by: Option<String>,
    pub incarnation: String,
    pub started_at: Option<DateTime<Utc>>,
    pub lag_ms: Option<i64>,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct RunEnd {
    /// `succeeded`, `failed`, `timed_out`, `cancelled` or `skipped`.
    pub state: &'static str,
    pub reason: Option<&'static str>,
    pub attempts: u32,
    pub ended_at: DateTime<Utc>,
    pub error: Option<String>,
    pub result: Option<Json>,
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
}

const INSERT: &str = "INSERT INTO task_run (run_id, task, slot, cause, state, reason, asked_by, incarnation, started_at, lag_ms)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING";
const MARK: &str = "INSERT INTO task_mark (task, through) VALUES (?1, ?2)
    ON CONFLICT (task) DO UPDATE SET through = excluded.through WHERE excluded.through > task_mark.through";
const END: &str = "UPDATE task_run SET state = ?2, reason = ?3, attempts = ?4, ended_at = ?5, error = ?6, result = ?7
    WHERE run_id = ?1 AND state IN ('pending', 'running')";
/// The columns of a `RunRow`, spelled once.
macro_rules! select {
    ($rest:literal) => {
        concat!("SELECT n, run_id, task, slot, cause, state, reason, attempts, asked_by, started_at, ended_at, lag_ms, error, result FROM task_run ", $rest)
    };
}

impl Store {
    /// Claims a slot: true if this row is the slot's row, false if the slot already has one.
    pub async fn claim_run(&self, run: &NewRun, fact: Fact) -> Result<bool> {
        let batch = Batch::new().guard(INSERT, insert_params(run)).journal(fact);
        Ok(self.engine.write(batch).await?.affected(0) == 1)
    }

    /// Writes rows for slots that will not run (`skipped`, `missed`) and moves the mark, all in one commit.
    pub async fn close_slots(&self, task: &str, rows: &[NewRun], through: DateTime<Utc>) -> Result<()> {
        let mut batch = Batch::new();
        for run in rows {
            batch = batch.sql(INSERT, insert_params(run));
        }
        self.engine.write(batch.sql(MARK, vec![task.into(), through.into()])).await.map(|_| ())
    }

    pub async fn task_marks(&self) -> Result<Vec<(String, DateTime<Utc>)>> {
        let rows = self.engine.read("SELECT task, through FROM task_mark", vec![]).await?;
        rows.iter().map(|r| Ok((r.text(0)?.to_owned(), r.time(1)?))).collect()
    }

    /// Writes a run's end; false if it already had one (a late answer changes nothing).
    pub async fn end_run(&self, run_id: &str, end: &RunEnd, fact: Fact) -> Result<bool> {
        let params = vec![
            run_id.into(),
            end.state.into(),
            end.reason.into(),
            end.attempts.into(),
            end.ended_at.into(),
            end.error.clone().into(),
            end.result.as_ref().into(),
        ];
        Ok(self.engine.write(Batch::new().guard(END, params).journal(fact)).await?.affected(0) == 1)
    }

    pub async fn start_pending(&self, run_id: &str, at: DateTime<Utc>) -> Result<()> {
        let sql = "UPDATE task_run SET state = 'running', started_at = ?2 WHERE run_id = ?1 AND state = 'pending'";
        self.engine.write(Batch::new().sql(sql, vec![run_id.into(), at.into()])).await.map(|_| ())
    }

    /// Runs that another incarnation left without an end: (run_id, task).
    pub async fn orphaned_runs(&self, incarnation: &str) -> Result<Vec<(String, String)>> {
        let sql = "SELECT run_id, task FROM task_run WHERE state IN ('pending', 'running') AND incarnation <> ?1";
        let rows = self.engine.read(sql, vec![incarnation.into()]).await?;
        rows.iter().map(|r| Ok((r.text(0)?.to_owned(), r.text(1)?.to_owned()))).collect()
    }

    /// Open runs of this incarnation: (run_id, task).
    pub async fn open_runs(&self, incarnation: &str) -> Result<Vec<(String, String)>> {
        let sql = "SELECT run_id, task FROM task_run WHERE state IN ('pending', 'running') AND incarnation = ?1";
        let rows = self.engine.read(sql, vec![incarnation.into()]).await?;
        rows.iter().map(|r| Ok((r.text(0)?.to_owned(), r.text(1)?.to_owned()))).collect()
    }

    pub async fn run(&self, run_id: &str) -> Result<Option<RunRow>> {
        let sql = select!("WHERE run_id = ?1");
        self.engine.read(sql, vec![run_id.into()]).await?.first().map(run_row).transpose()
    }

    /// A task's runs, newest first; `before` is a cursor (0 starts at the newest).
    pub async fn runs(&self, task: &str, before: i64, limit: i64) -> Result<Vec<RunRow>> {
        let sql = select!("WHERE task = ?1 AND (?2 = 0 OR n < ?2) ORDER BY n DESC LIMIT ?3");
        self.engine.read(sql, vec![task.into(), before.into(), limit.into()]).await?.iter().map(run_row).collect()
    }

    /// The latest run of every task.
    pub async fn latest_runs(&self) -> Result<Vec<RunRow>> {
        let sql = select!("WHERE n IN (SELECT MAX(n) FROM task_run GROUP BY task)");
        self.engine.read(sql, vec![]).await?.iter().map(run_row).collect()
    }

    /// The newest scheduled run of `task` with its slot in (after, before].
    pub async fn run_between(&self, task: &str, after: DateTime<Utc>, before: DateTime<Utc>) -> Result<Option<RunRow>> {
        let sql = select!("WHERE task = ?1 AND slot > ?2 AND slot <= ?3 ORDER BY slot DESC LIMIT 1");
        self.engine.read(sql, vec![task.into(), after.into(), before.into()]).await?.first().map(run_row).transpose()
    }

    /// Runs that ended badly since `since`: (failed or timed out, missed).
    pub async fn bad_runs(&self, since: DateTime<Utc>) -> Result<(i64, i64)> {
        let sql = "SELECT COALESCE(SUM(CASE WHEN state IN ('failed', 'timed_out') AND ended_at >= ?1 THEN 1 ELSE 0 END), 0),
            COALESCE(SUM(CASE WHEN state = 'missed' AND slot >= ?1 THEN 1 ELSE 0 END), 0) FROM task_run WHERE slot >= ?1 OR ended_at >= ?1";
        let rows = self.engine.read(sql, vec![since.into()]).await?;
        rows.first().map_or(Ok((0, 0)), |r| Ok((r.int(0)?, r.int(1)?)))
    }
}

fn insert_params(run: &NewRun) -> Vec<super::engine::Value> {
    vec![
        run.run_id.as_str().into(),
        run.task.into(),
        run.slot.into(),
        run.cause.into(),
        run.state.into(),
        run.reason.into(),
        run.asked_by.clone().into(),
        run.incarnation.as_str().into(),
        run.started_at.into(),
        run.lag_ms.into(),
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
    })
}
