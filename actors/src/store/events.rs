//! Webhook events: stored once by their id before they are acknowledged, listed, and taken for processing in order of arrival.

use chrono::{DateTime, Utc};

use super::{
    Store,
    engine::{Batch, Fact, Row, Value},
};
use crate::{domain::ledger::Applied, error::Result};

/// A verified event on its way into the store.
#[derive(Clone, Debug)]
pub struct NewEvent {
    pub event_id: String,
    pub event_type: String,
    pub object_id: Option<String>,
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
}

/// An event that waits to be processed.
#[derive(Clone, Debug)]
pub struct OpenEvent {
    pub n: i64,
    pub event_id: String,
    pub livemode: bool,
    pub origin: String,
    pub attempts: i64,
    pub body: String,
}

/// Which events to list; empty text means any.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    pub event_type: String,
    pub status: String,
    /// Received at or after, microseconds since the Unix epoch.
    pub since: i64,
    /// Cursor: only rows with a smaller `n`; 0 starts at the newest.
    pub before: i64,
    pub limit: i64,
}

const INSERT: &str =
    "INSERT INTO webhook_event (event_id, event_type, object_id, created, livemode, received_at, status, origin, next_try_at, body)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'received', ?7, 0, ?8) ON CONFLICT (event_id) DO NOTHING";
const LIST: &str = "SELECT n, event_id, event_type, object_id, created, livemode, received_at, status, attempts, error, duplicates
    FROM webhook_event WHERE (?1 = '' OR event_type = ?1) AND (?2 = '' OR status = ?2) AND received_at >= ?3 AND (?4 = 0 OR n < ?4)
    ORDER BY n DESC LIMIT ?5";
const OBJECT: &str = "INSERT INTO provider_object (kind, id, livemode, status, rank, event_created, customer, email, amount, currency, parent, created, body)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
    ON CONFLICT (kind, id) DO UPDATE SET livemode = excluded.livemode, status = excluded.status, rank = excluded.rank,
    event_created = excluded.event_created, customer = excluded.customer, email = excluded.email, amount = excluded.amount,
    currency = excluded.currency, parent = excluded.parent, created = excluded.created, body = excluded.body
    WHERE excluded.event_created > provider_object.event_created
    OR (excluded.event_created = provider_object.event_created AND excluded.rank >= provider_object.rank)";
const LEDGER: &str = "INSERT INTO ledger (id, provider, livemode, kind, source, seq, amount, currency, at, customer, invoice, payment_intent, event_id, origin, recorded_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15) ON CONFLICT (provider, livemode, kind, source, seq) DO NOTHING";

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

    pub async fn events(&self, filter: &EventFilter) -> Result<Vec<EventRow>> {
        let params = vec![
            filter.event_type.as_str().into(),
            filter.status.as_str().into(),
            filter.since.into(),
            filter.before.into(),
            filter.limit.into(),
        ];
        self.engine.read(LIST, params).await?.iter().map(event_row).collect()
    }

    /// Events that wait to be processed and whose time has come, oldest first.
    pub async fn open_events(&self, now: DateTime<Utc>, limit: i64) -> Result<Vec<OpenEvent>> {
        let sql = "SELECT n, event_id, livemode, origin, attempts, body FROM webhook_event WHERE status = 'received' AND next_try_at <= ?1 ORDER BY next_try_at, n LIMIT ?2";
        let rows = self.engine.read(sql, vec![now.into(), limit.into()]).await?;
        rows.iter()
            .map(|r| {
                Ok(OpenEvent {
                    n: r.int(0)?,
                    event_id: r.text(1)?.to_owned(),
                    livemode: r.int(2)? != 0,
                    origin: r.text(3)?.to_owned(),
                    attempts: r.int(4)?,
                    body: r.text(5)?.to_owned(),
                })
            })
            .collect()
    }

    /// (number of events not yet processed, when the oldest of them was received).
    pub async fn open_event_count(&self) -> Result<(i64, Option<DateTime<Utc>>)> {
        let rows = self.engine.read("SELECT COUNT(*), MIN(received_at) FROM webhook_event WHERE status = 'received'", vec![]).await?;
        rows.first().map_or(Ok((0, None)), |r| Ok((r.int(0)?, r.opt_time(1)?)))
    }

    /// Events that failed for good and that `self_heal` did not put back since `since`, newest first: what has failed for long is least
    /// likely to be understood now. The journal's own facts say what was put back.
    pub async fn failed_events(&self, since: DateTime<Utc>, limit: i64) -> Result<Vec<EventRow>> {
        let sql = "SELECT n, event_id, event_type, object_id, created, livemode, received_at, status, attempts, error, duplicates
            FROM webhook_event WHERE status = 'failed'
            AND event_id NOT IN (SELECT subject FROM journal WHERE kind = 'self_heal.repaired' AND at >= ?1) ORDER BY n DESC LIMIT ?2";
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
        for entry in &applied.entries {
            batch = batch.sql(
                LEDGER,
                vec![
                    format!("le_{}", uuid::Uuid::now_v7().simple()).into(),
                    provider.into(),
                    event.livemode.into(),
                    entry.kind.as_str().into(),
                    entry.source.as_str().into(),
                    entry.seq.into(),
                    entry.amount.into(),
                    entry.currency.as_str().into(),
                    entry.at.into(),
                    entry.customer.clone().into(),
                    entry.invoice.clone().into(),
                    entry.payment_intent.clone().into(),
                    event.event_id.as_str().into(),
                    event.origin.as_str().into(),
                    now.into(),
                ],
            );
        }
        for object in &applied.objects {
            batch = batch.sql(
                OBJECT,
                vec![
                    object.kind.into(),
                    object.id.as_str().into(),
                    event.livemode.into(),
                    object.status.as_str().into(),
                    object.rank.into(),
                    created.into(),
                    object.customer.clone().into(),
                    object.email.clone().into(),
                    object.amount.into(),
                    object.currency.as_str().into(),
                    object.parent.clone().into(),
                    object.created.into(),
                    (&object.body).into(),
                ],
            );
        }
        self.engine.write(batch).await.map(|_| ())
    }

    pub async fn ignore_event(&self, n: i64, now: DateTime<Utc>) -> Result<()> {
        let sql =
            "UPDATE webhook_event SET status = 'ignored', processed_at = ?2, attempts = attempts + 1 WHERE n = ?1 AND status = 'received'";
        self.engine.write(Batch::new().sql(sql, vec![n.into(), now.into()])).await.map(|_| ())
    }

    /// Records a failed attempt; with `retry_at` the event stays open until then, without it is `failed` for good.
    pub async fn fail_event(&self, n: i64, error: &str, retry_at: Option<DateTime<Utc>>, fact: Fact) -> Result<()> {
        let sql = "UPDATE webhook_event SET status = ?2, attempts = attempts + 1, error = ?3, next_try_at = ?4 WHERE n = ?1 AND status = 'received'";
        let status = if retry_at.is_some() { "received" } else { "failed" };
        let batch = Batch::new().guard(sql, vec![n.into(), status.into(), error.into(), retry_at.into()]).journal(fact);
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
    })
}
