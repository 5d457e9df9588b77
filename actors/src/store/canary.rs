//! Trial payments from end to end: a row before the first call, its ids as they become known, its end.

use chrono::{DateTime, Utc};

use super::{
    Store,
    engine::{Batch, Fact, Row},
};
use crate::error::Result;

/// One trial payment.
#[derive(Clone, Debug, Default)]
pub struct CanaryRow {
    pub id: String,
    /// `running`, `passed` or `failed`.
    pub state: String,
    /// The step it is at, or failed in; `tidied` when what a failed one left behind was taken back.
    pub step: String,
    pub started_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub invoice: Option<String>,
    pub charge: Option<String>,
    pub refund: Option<String>,
    /// Milliseconds from the call to the effect of its webhook.
    pub paid_ms: Option<i64>,
    pub refunded_ms: Option<i64>,
    pub error: Option<String>,
}

macro_rules! select {
    ($rest:literal) => {
        concat!("SELECT id, state, step, started_at, ended_at, invoice, charge, refund, paid_ms, refunded_ms, error FROM canary ", $rest)
    };
}

impl Store {
    pub async fn insert_canary(&self, id: &str, livemode: bool, now: DateTime<Utc>) -> Result<()> {
        let sql = "INSERT INTO canary (id, livemode, state, step, started_at) VALUES (?1, ?2, 'running', 'customer', ?3)";
        self.engine.write(Batch::new().sql(sql, vec![id.into(), livemode.into(), now.into()])).await.map(|_| ())
    }

    /// Writes down how far a trial payment is.
    pub async fn update_canary(&self, row: &CanaryRow) -> Result<()> {
        self.engine.write(Batch::new().sql(UPDATE, update_params(row))).await.map(|_| ())
    }

    /// The same for its end, with a fact for the journal.
    pub async fn end_canary(&self, row: &CanaryRow, fact: Fact) -> Result<()> {
        self.engine.write(Batch::new().sql(UPDATE, update_params(row)).journal(fact)).await.map(|_| ())
    }

    /// Newest first.
    pub async fn canaries(&self, limit: i64) -> Result<Vec<CanaryRow>> {
        self.engine.read(select!("ORDER BY n DESC LIMIT ?1"), vec![limit.into()]).await?.iter().map(canary_row).collect()
    }

    /// Those that may have left something behind at the provider, of one mode: the other mode's objects cannot be asked for.
    pub async fn untidy_canaries(&self, livemode: bool) -> Result<Vec<CanaryRow>> {
        let sql = select!("WHERE state <> 'passed' AND step <> 'tidied' AND livemode = ?1 ORDER BY n");
        self.engine.read(sql, vec![livemode.into()]).await?.iter().map(canary_row).collect()
    }

    /// Forgets trial payments that ended before `before`.
    pub async fn prune_canaries(&self, before: DateTime<Utc>) -> Result<()> {
        let sql = "DELETE FROM canary WHERE ended_at < ?1 AND (state = 'passed' OR step = 'tidied')";
        self.engine.write(Batch::new().sql(sql, vec![before.into()])).await.map(|_| ())
    }

    /// The newest event's place, for `webhook_took_effect`.
    pub async fn last_event(&self) -> Result<i64> {
        let rows = self.engine.read("SELECT COALESCE(MAX(n), 0) FROM webhook_event", vec![]).await?;
        rows.first().map_or(Ok(0), |row| row.int(0))
    }

    /// Whether an event of that type about that object was delivered after `after` and has been processed.
    pub async fn webhook_took_effect(&self, after: i64, event_type: &str, object: &str) -> Result<bool> {
        let sql = "SELECT 1 FROM webhook_event WHERE n > ?1 AND event_type = ?2 AND object_id = ?3 AND origin = 'webhook' AND status = 'processed' LIMIT 1";
        Ok(!self.engine.read(sql, vec![after.into(), event_type.into(), object.into()]).await?.is_empty())
    }
}

const UPDATE: &str = "UPDATE canary SET state = ?2, step = ?3, ended_at = ?4, invoice = ?5, charge = ?6, refund = ?7, paid_ms = ?8,
    refunded_ms = ?9, error = ?10 WHERE id = ?1";

fn update_params(row: &CanaryRow) -> Vec<super::engine::Value> {
    vec![
        row.id.as_str().into(),
        row.state.as_str().into(),
        row.step.as_str().into(),
        row.ended_at.into(),
        row.invoice.clone().into(),
        row.charge.clone().into(),
        row.refund.clone().into(),
        row.paid_ms.into(),
        row.refunded_ms.into(),
        row.error.clone().into(),
    ]
}

fn canary_row(row: &Row) -> Result<CanaryRow> {
    Ok(CanaryRow {
        id: row.text(0)?.to_owned(),
        state: row.text(1)?.to_owned(),
        step: row.text(2)?.to_owned(),
        started_at: row.time(3)?,
        ended_at: row.opt_time(4)?,
        invoice: row.opt_text(5)?,
        charge: row.opt_text(6)?,
        refund: row.opt_text(7)?,
        paid_ms: row.opt_int(8)?,
        refunded_ms: row.opt_int(9)?,
        error: row.opt_text(10)?,
    })
}
