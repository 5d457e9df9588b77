//! What people do to runs that the schedule did not: cancelling, and making slots of the past run after all.

use chrono::{DateTime, Utc};

use super::{
    Store,
    engine::{Batch, Fact},
    runs::NewRun,
};
use crate::error::Result;

impl Store {
    /// Ends a run that waits (`cancelled`), or asks the process that carries it out to do so. Answers the states of the runs it touched:
    /// `cancelled` or `running`.
    pub async fn cancel(&self, run_id: &str, by: &str, at: DateTime<Utc>, fact: Fact) -> Result<Option<String>> {
        let sql = "UPDATE task_run SET cancel_by = ?2, ended_at = CASE state WHEN 'pending' THEN ?3 ELSE ended_at END, holds = CASE state WHEN 'pending' THEN 0 ELSE holds END,
            error = CASE state WHEN 'pending' THEN ?4 ELSE error END, state = CASE state WHEN 'pending' THEN 'cancelled' ELSE state END
            WHERE run_id = ?1 AND state IN ('pending', 'running') RETURNING state";
        let params = vec![run_id.into(), by.into(), at.into(), format!("cancelled by {by} before it began").into()];
        let outcomes = self.engine.write(Batch::new().guard(sql, params).journal(fact)).await?;
        outcomes.rows(0).first().map(|r| r.text(0).map(str::to_owned)).transpose()
    }

    /// Asks for the running runs of a task to be cancelled; answers which.
    pub async fn cancel_running(&self, task: &str, by: &str) -> Result<Vec<String>> {
        let sql =
            "UPDATE task_run SET cancel_by = ?2 WHERE task = ?1 AND state IN ('pending', 'running') AND state = 'running' RETURNING run_id";
        let outcomes = self.engine.write(Batch::new().sql(sql, vec![task.into(), by.into()])).await?;
        outcomes.rows(0).iter().map(|r| Ok(r.text(0)?.to_owned())).collect()
    }

    /// Whether somebody asked for a run to be cancelled.
    pub async fn is_cancel_asked(&self, run_id: &str) -> Result<bool> {
        let sql = "SELECT 1 FROM task_run WHERE run_id = ?1 AND cancel_by IS NOT NULL";
        Ok(!self.engine.read(sql, vec![run_id.into()]).await?.is_empty())
    }

    /// Runs of ours that somebody wants cancelled: (run_id, by whom).
    pub async fn cancel_requests(&self, incarnation: &str) -> Result<Vec<(String, String)>> {
        let sql = "SELECT run_id, cancel_by FROM task_run WHERE state IN ('pending', 'running') AND state = 'running' AND incarnation = ?1 AND cancel_by IS NOT NULL";
        let rows = self.engine.read(sql, vec![incarnation.into()]).await?;
        rows.iter().map(|r| Ok((r.text(0)?.to_owned(), r.text(1)?.to_owned()))).collect()
    }

    /// Puts slots of the past into the queue, to be run one after the other: those without a row, and those whose row says that nothing
    /// ran (`missed`, `skipped`), or that it ran badly if `redo_failed`. Answers how many were queued.
    pub async fn backfill(&self, runs: &[NewRun], redo_failed: bool, fact: Fact) -> Result<u64> {
        let sql = "INSERT INTO task_run (run_id, task, slot, cause, state, reason, asked_by, incarnation) VALUES (?1, ?2, ?3, 'backfill', 'pending', 'queued_backfill', ?4, ?5)
            ON CONFLICT (task, slot) WHERE cause <> 'manual' DO UPDATE SET run_id = excluded.run_id, cause = 'backfill', state = 'pending', reason = 'queued_backfill',
              asked_by = excluded.asked_by, incarnation = excluded.incarnation, attempts = 0, started_at = NULL, ended_at = NULL, lag_ms = NULL, error = NULL, result = NULL, cancel_by = NULL
              WHERE task_run.state IN ('missed', 'skipped') OR (?6 = 1 AND task_run.state IN ('failed', 'timed_out', 'cancelled'))";
        let mut batch = Batch::new();
        for run in runs {
            let params = vec![
                run.run_id.as_str().into(),
                run.task.as_str().into(),
                run.slot.into(),
                run.asked_by.clone().into(),
                run.incarnation.as_str().into(),
                redo_failed.into(),
            ];
            batch = batch.sql(sql, params);
        }
        let outcomes = self.engine.write(batch.journal(fact)).await?;
        Ok((0..runs.len()).map(|i| outcomes.affected(i)).sum())
    }

    /// The states of a task's slots in [from, to]: (slot, state).
    pub async fn slot_states(&self, task: &str, from: DateTime<Utc>, to: DateTime<Utc>) -> Result<Vec<(DateTime<Utc>, String)>> {
        let sql = "SELECT slot, state FROM task_run WHERE task = ?1 AND slot >= ?2 AND slot <= ?3 AND cause <> 'manual'";
        let rows = self.engine.read(sql, vec![task.into(), from.into(), to.into()]).await?;
        rows.iter().map(|r| Ok((r.time(0)?, r.text(1)?.to_owned()))).collect()
    }
}
