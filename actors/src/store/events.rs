//! Webhook events: stored once by their id before they are acknowledged, listed, and taken for processing in order of arrival.

use chrono::{DateTime, Utc};

use super::{
    Store,
    booking::{Origin, booked},
    engine::{Batch, Fact, Row, Value},
};
use crate::{domain::ledger::Applied, error::Result};

/// A verified event on its way into the store.
#[derive(Clone, Debug)]
pub struct NewEvent {
    pub event_id: String,
    pub event_type: String,
    pub object_id: Option<String>,
    /// The state of that object, if it has one.
    pub object_state: Option<String>,
    /// Unix seconds, the provider's clock.
    pub created: i64,
    pub livemode: bool,
    pub received_at: DateTime<Utc>,
    /// `webhook` or `backfill`.
    pub origin: &'static str,
    /// The raw body, byte for byte.
    pub body: String,
}

/// A stored event, without its body.
#[derive(Clone, Debug)]
pub struct EventRow {
    pub n: i64,
    pub event_id: String,
    pub event_type: String,
    pub object_id: Option<String>,
    pub created: i64,
    pub livemode: bool,
    pub received_at: DateTime<Utc>,
    pub status: String,
    pub attempts: i64,
    pub error: Option<String>,
    pub duplicates: i64,
    pub object_state: Option<String>,
    /// `webhook` or `backfill`.
    pub origin: String,
    /// The event that told the same before: of the same type, about the same object in the same state.
    pub same_fact_as: Option<String>,
}

/// An event that waits to be processed.
#[derive(Clone, Debug)]
pub struct OpenEvent {
    pub n: i64,
    pub event_id: String,
    pub livemode: bool,
    pub origin: String,
    pub attempts: i64,
    pub received_at: DateTime<Utc>,
    /// It was processed before: somebody replays it.
    pub is_replay: bool,
    pub body: String,
}

/// Which events to list; empty text means any.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    pub event_type: String,
    pub status: String,
    pub object_id: String,
    /// Received at or after, microseconds since the Unix epoch.
    pub since: i64,
    /// Received before, microseconds since the Unix epoch; 0: until now.
    pub until: i64,
    /// Without those that told what another had told before.
    pub distinct: bool,
    /// Cursor: only rows with a smaller `n`; 0 starts at the newest.
    pub before: i64,
    pub limit: i64,
}

const INSERT: &str =
    "INSERT INTO webhook_event (event_id, event_type, object_id, created, livemode, received_at, status, origin, next_try_at, body, object_state)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'received', ?7, 0, ?8, ?9) ON CONFLICT (event_id) DO NOTHING";

/// The columns of `event_row`; `e` is the event.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT n, event_id, event_type, object_id, created, livemode, received_at, status, attempts, error, duplicates, object_state, origin,
            (SELECT f.event_id FROM webhook_event f WHERE f.object_id = e.object_id AND f.event_type = e.event_type
             AND f.object_state = e.object_state AND f.n < e.n ORDER BY f.n LIMIT 1) FROM webhook_event e ",
            $rest
        )
    };
}

impl Store {
    /// Stores an event with its journal entry, or counts a duplicate. Answers whether it is new, after the commit.
    pub async fn insert_event(&self, event: NewEvent, fact: Fact) -> Result<bool> {
        let id: Value = event.event_id.as_str().into();
        let batch = Batch::new()
            .guard(
                INSERT,
                vec![
                    id.clone(),
                    event.event_type.into(),
                    event.object_id.into(),
                    event.created.into(),
                    event.livemode.into(),
                    event.received_at.into(),
                    event.origin.into(),
                    event.body.into(),
                    event.object_state.into(),
                ],
            )
            .journal(fact);
        let is_new = self.engine.write(batch).await?.affected(0) == 1;
        if !is_new {
            let sql = "UPDATE webhook_event SET duplicates = duplicates + 1 WHERE event_id = ?1";
            self.engine.write(Batch::new().sql(sql, vec![id])).await?;
        }
        Ok(is_new)
    }

    /// Newest first.
    pub async fn events(&self, filter: &EventFilter) -> Result<Vec<EventRow>> {
        let sql = select!(
            "WHERE (?1 = '' OR event_type = ?1) AND (?2 = '' OR status = ?2) AND (?3 = '' OR object_id = ?3) AND received_at >= ?4
            AND (?5 = 0 OR received_at < ?5) AND (?6 = 0 OR n < ?6) AND (?7 = 0 OR object_state IS NULL OR NOT EXISTS
            (SELECT 1 FROM webhook_event g WHERE g.object_id = e.object_id AND g.event_type = e.event_type
             AND g.object_state = e.object_state AND g.n < e.n)) ORDER BY n DESC LIMIT ?8"
        );
        let params = vec![
            filter.event_type.as_str().into(),
            filter.status.as_str().into(),
            filter.object_id.as_str().into(),
            filter.since.into(),
            filter.until.into(),
            filter.before.into(),
            filter.distinct.into(),
            filter.limit.into(),
        ];
        self.engine.read(sql, params).await?.iter().map(event_row).collect()
    }

    /// One event with its raw body.
    pub async fn event(&self, event_id: &str) -> Result<Option<(EventRow, String)>> {
        let rows = self.engine.read(select!("WHERE event_id = ?1"), vec![event_id.into()]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let bodies = self.engine.read("SELECT body FROM webhook_event WHERE event_id = ?1", vec![event_id.into()]).await?;
        bodies.first().map(|body| Ok((event_row(row)?, body.text(0)?.to_owned()))).transpose()
    }

    /// (event id, status) of the events that were created in this time of the provider, both ends included.
    pub async fn event_statuses(&self, created_gte: i64, created_lte: i64) -> Result<Vec<(String, String)>> {
        let sql = "SELECT event_id, status FROM webhook_event WHERE created >= ?1 AND created <= ?2";
        let rows = self.engine.read(sql, vec![created_gte.into(), created_lte.into()]).await?;
        rows.iter().map(|r| Ok((r.text(0)?.to_owned(), r.text(1)?.to_owned()))).collect()
    }

    /// Any event that was dealt with waits to be processed again, with all its attempts; `fact` is in the same commit. False if there is no
    /// such event, or it waits already.
    pub async fn replay_event(&self, event_id: &str, now: DateTime<Utc>, fact: Fact) -> Result<bool> {
        let sql = "UPDATE webhook_event SET status = 'received', attempts = 0, next_try_at = ?2 WHERE event_id = ?1
            AND (status <> 'received' OR next_try_at > ?2)";
        let batch = Batch::new().guard(sql, vec![event_id.into(), now.into()]).journal(fact);
        Ok(self.engine.write(batch).await?.affected(0) == 1)
    }

    /// Events that wait to be processed and whose time has come, oldest first.
    pub async fn open_events(&self, now: DateTime<Utc>, limit: i64) -> Result<Vec<OpenEvent>> {
        let sql = "SELECT n, event_id, livemode, origin, attempts, body, received_at, processed_at FROM webhook_event WHERE status = 'received' AND next_try_at <= ?1 ORDER BY next_try_at, n LIMIT ?2";
        let rows = self.engine.read(sql, vec![now.into(), limit.into()]).await?;
        rows.iter()
            .map(|r| {
                Ok(OpenEvent {
                    n: r.int(0)?,
                    event_id: r.text(1)?.to_owned(),
                    livemode: r.int(2)? != 0,
                    origin: r.text(3)?.to_owned(),
                    attempts: r.int(4)?,
                    received_at: r.time(6)?,
                    is_replay: r.opt_int(7)?.is_some(),
                    body: r.text(5)?.to_owned(),
                })
            })
            .collect()
    }

    /// The place of the newest processed event of a type; 0 if there is none.
    pub async fn newest_processed(&self, event_type: &str) -> Result<i64> {
        let sql = "SELECT COALESCE(MAX(n), 0) FROM webhook_event WHERE event_type = ?1 AND status = 'processed'";
        let rows = self.engine.read(sql, vec![event_type.into()]).await?;
        rows.first().map_or(Ok(0), |row| row.int(0))
    }

    /// (number of events not yet processed, when the oldest of them was received).
    pub async fn open_event_count(&self) -> Result<(i64, Option<DateTime<Utc>>)> {
        let rows = self.engine.read("SELECT COUNT(*), MIN(received_at) FROM webhook_event WHERE status = 'received'", vec![]).await?;
        rows.first().map_or(Ok((0, None)), |r| Ok((r.int(0)?, r.opt_time(1)?)))
    }

    /// Events that failed for good and that `self_heal` did not put back since `since`, newest first: what has failed for long is least
    /// likely to be understood now. The journal's own facts say what was put back.
    pub async fn failed_events(&self, since: DateTime<Utc>, limit: i64) -> Result<Vec<EventRow>> {
        let sql = select!(
            "WHERE status = 'failed' AND event_id NOT IN (SELECT subject FROM journal WHERE kind = 'self_heal.repaired' AND at >= ?1) ORDER BY n DESC LIMIT ?2"
        );
        self.engine.read(sql, vec![since.into(), limit.into()]).await?.iter().map(event_row).collect()
    }

    /// A failed event waits to be processed again, with all its attempts; `fact` is in the same commit. False if it is not failed any more.
    pub async fn put_back_event(&self, n: i64, now: DateTime<Utc>, fact: Fact) -> Result<bool> {
        let sql = "UPDATE webhook_event SET status = 'received', attempts = 0, next_try_at = ?2 WHERE n = ?1 AND status = 'failed'";
        let batch = Batch::new().guard(sql, vec![n.into(), now.into()]).journal(fact);
        Ok(self.engine.write(batch).await?.affected(0) == 1)
    }

    /// (number of events received before `before` that could have been processed by now, when the oldest of them was received).
    pub async fn overdue_events(&self, before: DateTime<Utc>, now: DateTime<Utc>) -> Result<(i64, Option<DateTime<Utc>>)> {
        let sql =
            "SELECT COUNT(*), MIN(received_at) FROM webhook_event WHERE status = 'received' AND next_try_at <= ?2 AND received_at < ?1";
        let rows = self.engine.read(sql, vec![before.into(), now.into()]).await?;
        rows.first().map_or(Ok((0, None)), |r| Ok((r.int(0)?, r.opt_time(1)?)))
    }

    /// Counts by status among events received since `since`.
    pub async fn event_counts(&self, since: DateTime<Utc>) -> Result<Vec<(String, i64)>> {
        let sql = "SELECT status, COUNT(*) FROM webhook_event WHERE received_at >= ?1 GROUP BY status ORDER BY status";
        let rows = self.engine.read(sql, vec![since.into()]).await?;
        rows.iter().map(|r| Ok((r.text(0)?.to_owned(), r.int(1)?))).collect()
    }

    /// Books what an event means and marks it processed, all or nothing, and only if nobody did so before.
    pub async fn apply_event(&self, event: &OpenEvent, created: i64, applied: &Applied, provider: &str, now: DateTime<Utc>) -> Result<()> {
        let done = "UPDATE webhook_event SET status = 'processed', processed_at = ?2, attempts = attempts + 1, error = NULL WHERE n = ?1 AND status = 'received'";
        let mut batch = Batch::new().guard(done, vec![event.n.into(), now.into()]);
        let origin =
            Origin { provider, livemode: event.livemode, event_id: Some(&event.event_id), origin: &event.origin, at: created, now };
        batch = booked(batch, applied, &origin);
        self.engine.write(batch).await.map(|_| ())
    }

    pub async fn ignore_event(&self, n: i64, now: DateTime<Utc>) -> Result<()> {
        let sql =
            "UPDATE webhook_event SET status = 'ignored', processed_at = ?2, attempts = attempts + 1 WHERE n = ?1 AND status = 'received'";
        self.engine.write(Batch::new().sql(sql, vec![n.into(), now.into()])).await.map(|_| ())
    }

    /// Records a failed attempt; with `retry_at` the event stays open until then, without it is `failed` for good.
    pub async fn fail_event(&self, n: i64, error: &str, retry_at: Option<DateTime<Utc>>, fact: Fact) -> Result<()> {
        let sql = "UPDATE webhook_event SET status = ?2, attempts = attempts + 1, error = ?3, next_try_at = ?4, failed_at = ?5 WHERE n = ?1 AND status = 'received'";
        let status = if retry_at.is_some() { "received" } else { "failed" };
        let batch = Batch::new().guard(sql, vec![n.into(), status.into(), error.into(), retry_at.into(), fact.at.into()]).journal(fact);
        self.engine.write(batch).await.map(|_| ())
    }
}

fn event_row(row: &Row) -> Result<EventRow> {
    Ok(EventRow {
        n: row.int(0)?,
        event_id: row.text(1)?.to_owned(),
        event_type: row.text(2)?.to_owned(),
        object_id: row.opt_text(3)?,
        created: row.int(4)?,
        livemode: row.int(5)? != 0,
        received_at: row.time(6)?,
        status: row.text(7)?.to_owned(),
        attempts: row.int(8)?,
        error: row.opt_text(9)?,
        duplicates: row.int(10)?,
        object_state: row.opt_text(11)?,
        origin: row.text(12)?.to_owned(),
        same_fact_as: row.opt_text(13)?,
    })
}
