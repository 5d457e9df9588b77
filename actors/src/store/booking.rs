//! Booking what an event or an answer of the provider means: rows of the ledger, the latest states of objects, and the refunds of ours
//! that follow them. Called for events and for answers alike, always inside the caller's batch, so that either all of it is there or
//! nothing. It never changes or removes a row of the ledger.

use chrono::{DateTime, Utc};
use serde_json::Value as Json;

use super::{
    Store,
    engine::{Batch, Value},
};
use crate::{
    domain::ledger::{Applied, Object},
    error::Result,
};

const LEDGER: &str = "INSERT INTO ledger (id, provider, livemode, kind, source, seq, amount, currency, at, customer, invoice, payment_intent, event_id, origin, recorded_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15) ON CONFLICT (provider, livemode, kind, source, seq) DO NOTHING";
/// The order of `domain::ledger::supersedes`; what is equal is the same.
const OBJECT: &str = "INSERT INTO provider_object (kind, id, livemode, status, rank, event_created, customer, email, amount, currency, parent, created, body, level)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
    ON CONFLICT (kind, id) DO UPDATE SET livemode = excluded.livemode, status = excluded.status, rank = excluded.rank,
    event_created = excluded.event_created, customer = excluded.customer, email = excluded.email, amount = excluded.amount,
    currency = excluded.currency, parent = excluded.parent, created = excluded.created, body = excluded.body, level = excluded.level
    WHERE excluded.level > provider_object.level OR (excluded.level = provider_object.level
    AND (excluded.event_created > provider_object.event_created
    OR (excluded.event_created = provider_object.event_created AND excluded.rank > provider_object.rank)))";
/// A refund of ours takes the state that the refund at the provider has by now, whichever event or answer brought it. One that failed
/// after it had succeeded says so, and may be made again.
pub(super) const INTENT: &str = "UPDATE refund_intent SET refund_id = ?1, updated_at = ?3,
    state = (SELECT CASE WHEN o.status = 'succeeded' THEN 'succeeded' WHEN o.status IN ('failed', 'canceled') THEN 'failed' ELSE 'pending' END
      FROM provider_object o WHERE o.kind = 'refund' AND o.id = ?1)
    WHERE (id = ?2 OR refund_id = ?1) AND EXISTS (SELECT 1 FROM provider_object o WHERE o.kind = 'refund' AND o.id = ?1)";

/// The refund is there, so the call that asked for it was heard, though its own answer was lost.
const CALL: &str =
    "UPDATE provider_call SET state = 'answered', status = 200, object_id = ?2, answered_at = ?3 WHERE key = ?1 AND state = 'sent'";

/// In the words of the index `provider_object_open`.
pub(super) const OPEN: &str =
    "SELECT kind, id, status, body FROM provider_object WHERE kind = ?1 AND livemode = ?2 AND event_created < ?3 AND id > ?4
    AND status IN ('draft', 'open', 'pending', 'requires_action', 'in_transit', 'needs_response', 'under_review',
    'warning_needs_response', 'warning_under_review', 'appeal_needs_response', 'appeal_under_review') ORDER BY id LIMIT ?5";

/// Where something to be booked comes from.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    pub provider: &'a str,
    pub livemode: bool,
    pub event_id: Option<&'a str>,
    /// `webhook`, `backfill` or `api`.
    pub origin: &'a str,
    /// Of the event or the answer, Unix seconds, the provider's clock.
    pub at: i64,
    pub now: DateTime<Utc>,
}

/// The batch with what is to be booked.
pub(super) fn booked(mut batch: Batch, applied: &Applied, from: &Origin<'_>) -> Batch {
    for entry in &applied.entries {
        let params = vec![
            format!("le_{}", uuid::Uuid::now_v7().simple()).into(),
            from.provider.into(),
            from.livemode.into(),
            entry.kind.as_str().into(),
            entry.source.as_str().into(),
            entry.seq.into(),
            entry.amount.into(),
            entry.currency.as_str().into(),
            entry.at.into(),
            entry.customer.clone().into(),
            entry.invoice.clone().into(),
            entry.payment_intent.clone().into(),
            from.event_id.into(),
            from.origin.into(),
            from.now.into(),
        ];
        batch = batch.sql(LEDGER, params);
    }
    for object in &applied.objects {
        batch = batch.sql(OBJECT, object_params(object, from));
        if object.kind == "refund" {
            let intent: Value = object.body["metadata"]["echopilot_intent"].as_str().into();
            batch = batch.sql(INTENT, vec![object.id.as_str().into(), intent.clone(), from.now.into()]);
            batch = batch.sql(CALL, vec![intent, object.id.as_str().into(), from.now.into()]);
        }
    }
    batch
}

fn object_params(object: &Object, from: &Origin<'_>) -> Vec<Value> {
    vec![
        object.kind.into(),
        object.id.as_str().into(),
        from.livemode.into(),
        object.status.as_str().into(),
        object.rank.into(),
        from.at.into(),
        object.customer.clone().into(),
        object.email.clone().into(),
        object.amount.into(),
        object.currency.as_str().into(),
        object.parent.clone().into(),
        object.created.into(),
        (&object.body).into(),
        object.level.into(),
    ]
}

/// An object in a state that will change, as we know it.
#[derive(Clone, Debug)]
pub struct OpenObjectRow {
    pub kind: String,
    pub id: String,
    pub status: String,
    pub body: Json,
}

impl Store {
    /// Books what an answer of the provider means.
    pub async fn book(&self, applied: &Applied, from: &Origin<'_>) -> Result<()> {
        self.engine.write(booked(Batch::new(), applied, from)).await.map(|_| ())
    }

    /// Objects of a kind in one of the states that are on their way, last heard of before `before` (the provider's clock): after `after` in the
    /// order of ids, at most `limit`, so that a bounded look goes round.
    pub async fn open_objects(&self, kind: &str, livemode: bool, before: i64, after: &str, limit: i64) -> Result<Vec<OpenObjectRow>> {
        let rows = self.engine.read(OPEN, vec![kind.into(), livemode.into(), before.into(), after.into(), limit.into()]).await?;
        rows.iter()
            .map(|r| Ok(OpenObjectRow { kind: r.text(0)?.into(), id: r.text(1)?.into(), status: r.text(2)?.into(), body: r.json(3)? }))
            .collect()
    }
}
