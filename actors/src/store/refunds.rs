//! Refund intents, written before the provider is asked, and answers kept for a caller's idempotency key.

use chrono::{DateTime, Utc};
use serde_json::Value as Json;

use super::{
    Store,
    booking::{Origin, booked},
    engine::{Batch, Fact, Row},
};
use crate::{domain::ledger::Applied, error::Result};

/// What a refund came to, to be written down.
#[derive(Clone, Copy, Debug)]
pub struct RefundEnd<'a> {
    /// The intent's.
    pub id: &'a str,
    pub refund_id: &'a str,
    /// To the caller.
    pub answer: &'a Json,
    pub applied: &'a Applied,
}

#[derive(Clone, Debug)]
pub struct RefundIntent {
    /// Also the idempotency key sent to the provider.
    pub id: String,
    /// The caller's own Idempotency-Key.
    pub caller_key: Option<String>,
    pub charge: String,
    pub payment_intent: Option<String>,
    pub amount: i64,
    pub currency: String,
    pub reason: Option<String>,
    /// `intended`, `succeeded`, `pending` or `failed`; it follows the refund's own events.
    pub state: String,
    pub refund_id: Option<String>,
    /// What was answered, to be answered again.
    pub answer: Option<Json>,
    pub created_at: DateTime<Utc>,
}

/// What a key was used for before.
#[derive(Clone, Debug)]
pub struct IdempotentAnswer {
    /// Digest of the request that used the key.
    pub request: String,
    /// `None` while that request is still being worked on.
    pub answer: Option<Json>,
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, caller_key, charge, payment_intent, amount, currency, reason, state, refund_id, answer, created_at FROM refund_intent ",
            $rest
        )
    };
}

impl Store {
    /// Writes the intent; false if one of this id or caller's key exists.
    pub async fn insert_refund_intent(&self, intent: &RefundIntent, now: DateTime<Utc>, fact: Fact) -> Result<bool> {
        let sql =
            "INSERT INTO refund_intent (id, caller_key, charge, payment_intent, amount, currency, reason, state, created_at, updated_at)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'intended', ?8, ?8) ON CONFLICT DO NOTHING";
        let params = vec![
            intent.id.as_str().into(),
            intent.caller_key.clone().into(),
            intent.charge.as_str().into(),
            intent.payment_intent.clone().into(),
            intent.amount.into(),
            intent.currency.as_str().into(),
            intent.reason.clone().into(),
            now.into(),
        ];
        Ok(self.engine.write(Batch::new().guard(sql, params).journal(fact)).await?.affected(0) == 1)
    }

    /// Writes a refund that the provider has made: what was answered, the row of the ledger and the state it has by now, which may be a later
    /// one than the answer's. False if its good end was written before, which a repetition then changes no more.
    pub async fn end_refund_intent(&self, end: &RefundEnd<'_>, from: &Origin<'_>, fact: Fact) -> Result<bool> {
        let ended = "UPDATE refund_intent SET state = 'pending', refund_id = ?2, answer = ?3, updated_at = ?4
            WHERE id = ?1 AND (answer IS NULL OR refund_id IS NULL)";
        let params = vec![end.id.into(), end.refund_id.into(), end.answer.into(), from.now.into()];
        let answered =
            "UPDATE provider_call SET state = 'answered', status = 200, object_id = ?2, answered_at = ?3 WHERE key = ?1 AND state = 'sent'";
        let batch =
            Batch::new().guard(ended, params).journal(fact).sql(answered, vec![end.id.into(), end.refund_id.into(), from.now.into()]);
        let first = self.engine.write(booked(batch, end.applied, from)).await?.affected(0) == 1;
        if !first {
            self.book(end.applied, from).await?;
        }
        Ok(first)
    }

    /// Writes that the provider refused; nothing was refunded. False if the intent has come to another end.
    pub async fn refuse_refund_intent(&self, id: &str, answer: &Json, now: DateTime<Utc>, fact: Fact) -> Result<bool> {
        let sql = "UPDATE refund_intent SET state = 'failed', answer = ?2, updated_at = ?3 WHERE id = ?1 AND refund_id IS NULL AND state = 'intended'";
        let batch = Batch::new().guard(sql, vec![id.into(), answer.into(), now.into()]).journal(fact);
        Ok(self.engine.write(batch).await?.affected(0) == 1)
    }

    /// How many refunds that were intended under this id or one made from it have failed.
    pub async fn failed_refund_intents(&self, base: &str) -> Result<i64> {
        let sql = "SELECT COUNT(*) FROM refund_intent WHERE state = 'failed' AND (id = ?1 OR id LIKE ?1 || '-r%')";
        let rows = self.engine.read(sql, vec![base.into()]).await?;
        rows.first().map_or(Ok(0), |r| r.int(0))
    }

    /// Whether another intent has this refund.
    pub async fn has_refund(&self, refund_id: &str) -> Result<bool> {
        let rows = self.engine.read("SELECT 1 FROM refund_intent WHERE refund_id = ?1", vec![refund_id.into()]).await?;
        Ok(!rows.is_empty())
    }

    pub async fn refund_intent(&self, id: &str) -> Result<Option<RefundIntent>> {
        self.engine.read(select!("WHERE id = ?1"), vec![id.into()]).await?.first().map(intent_row).transpose()
    }

    pub async fn refund_intent_by_caller_key(&self, key: &str) -> Result<Option<RefundIntent>> {
        self.engine.read(select!("WHERE caller_key = ?1"), vec![key.into()]).await?.first().map(intent_row).transpose()
    }

    /// Intents whose outcome is not known: what a crash between the intent and the answer left behind.
    pub async fn open_refund_intents(&self) -> Result<Vec<RefundIntent>> {
        self.engine
            .read(select!("WHERE state IN ('intended', 'pending') ORDER BY created_at"), vec![])
            .await?
            .iter()
            .map(intent_row)
            .collect()
    }

    /// Takes `key` for `operation`: `None` if it was free, else what it was used for.
    pub async fn take_key(&self, operation: &str, key: &str, request: &str, now: DateTime<Utc>) -> Result<Option<IdempotentAnswer>> {
        let sql = "INSERT INTO idempotent_answer (operation, key, request, created_at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (operation, key) DO NOTHING";
        let taken =
            self.engine.write(Batch::new().sql(sql, vec![operation.into(), key.into(), request.into(), now.into()])).await?.affected(0)
                == 1;
        if taken {
            return Ok(None);
        }
        let sql = "SELECT request, answer FROM idempotent_answer WHERE operation = ?1 AND key = ?2";
        let rows = self.engine.read(sql, vec![operation.into(), key.into()]).await?;
        rows.first()
            .map(|r| {
                let answer = r.opt_text(1)?.map(|t| serde_json::from_str(&t)).transpose()?;
                Ok(IdempotentAnswer { request: r.text(0)?.to_owned(), answer })
            })
            .transpose()
    }

    pub async fn keep_answer(&self, operation: &str, key: &str, answer: &Json) -> Result<()> {
        let sql = "UPDATE idempotent_answer SET answer = ?3 WHERE operation = ?1 AND key = ?2";
        self.engine.write(Batch::new().sql(sql, vec![operation.into(), key.into(), answer.into()])).await.map(|_| ())
    }

    /// Lets a key go after a failure that may be tried again.
    pub async fn free_key(&self, operation: &str, key: &str) -> Result<()> {
        let sql = "DELETE FROM idempotent_answer WHERE operation = ?1 AND key = ?2 AND answer IS NULL";
        self.engine.write(Batch::new().sql(sql, vec![operation.into(), key.into()])).await.map(|_| ())
    }
}

fn intent_row(row: &Row) -> Result<RefundIntent> {
    Ok(RefundIntent {
        id: row.text(0)?.to_owned(),
        caller_key: row.opt_text(1)?,
        charge: row.text(2)?.to_owned(),
        payment_intent: row.opt_text(3)?,
        amount: row.int(4)?,
        currency: row.text(5)?.to_owned(),
        reason: row.opt_text(6)?,
        state: row.text(7)?.to_owned(),
        refund_id: row.opt_text(8)?,
        answer: row.opt_text(9)?.map(|t| serde_json::from_str(&t)).transpose()?,
        created_at: row.time(10)?,
    })
}
