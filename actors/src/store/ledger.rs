//! The business's own ledger and the last known state of the provider's objects.

use chrono::{DateTime, Utc};
use serde_json::Value as Json;

use super::{
    Store,
    engine::{Batch, Fact, Row},
};
use crate::{domain::reconcile::LedgerLine, error::Result};

/// A provider's object as last seen.
#[derive(Clone, Debug)]
pub struct ObjectRow {
    pub id: String,
    pub status: String,
    pub parent: Option<String>,
    pub created: i64,
    pub body: Json,
}

/// Signed minor units per ledger kind in one currency.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct CurrencyTotals {
    pub currency: String,
    pub kind: String,
    pub amount_minor: i64,
    pub count: i64,
}

/// A row of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerRow {
    pub n: i64,
    pub id: String,
    pub kind: String,
    pub source: String,
    pub seq: i64,
    /// Signed minor units of `currency`.
    pub amount: i64,
    pub currency: String,
    /// Unix seconds, the provider's clock.
    pub at: i64,
    pub customer: Option<String>,
    pub invoice: Option<String>,
    pub payment_intent: Option<String>,
    pub event_id: Option<String>,
    /// `webhook`, `api`, `backfill` or `manual`.
    pub origin: String,
    pub recorded_at: DateTime<Utc>,
    /// The row that this one corrects, and why.
    pub corrects: Option<String>,
    pub note: Option<String>,
}

/// Which rows to list; empty text means any.
#[derive(Clone, Debug, Default)]
pub struct LedgerFilter {
    pub livemode: bool,
    pub kind: String,
    pub source: String,
    pub customer: String,
    pub invoice: String,
    /// Happened at or after, Unix seconds, the provider's clock.
    pub since: i64,
    /// Cursor: only rows with a smaller `n`; 0 starts at the newest.
    pub before: i64,
    pub limit: i64,
}

/// A charge within some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaymentInTime {
    pub id: String,
    /// Unix seconds, the provider's clock.
    pub at: i64,
    pub customer: Option<String>,
    /// Minor units of `currency`.
    pub amount: i64,
    pub currency: String,
    pub status: String,
    pub is_failed: bool,
}

/// A correction to be appended.
#[derive(Clone, Copy, Debug)]
pub struct NewCorrection<'a> {
    pub id: &'a str,
    /// The id of the row.
    pub corrects: &'a str,
    /// What is added to it, signed minor units.
    pub amount: i64,
    /// Why.
    pub note: &'a str,
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT n, id, kind, source, seq, amount, currency, at, customer, invoice, payment_intent, event_id, origin, recorded_at, corrects, note FROM ledger ",
            $rest
        )
    };
}

impl Store {
    /// Ledger lines with `at` in [from, to], for the reconciliation: each with its corrections, which have no lines of their own.
    pub async fn ledger_lines(&self, livemode: bool, from: i64, to: i64) -> Result<Vec<LedgerLine>> {
        let sql = "SELECT id, kind, source, seq,
            CAST(amount + COALESCE((SELECT SUM(c.amount) FROM ledger c WHERE c.corrects = l.id), 0) AS BIGINT), currency, at
            FROM ledger l WHERE livemode = ?1 AND at >= ?2 AND at <= ?3 AND corrects IS NULL ORDER BY n";
        let rows = self.engine.read(sql, vec![livemode.into(), from.into(), to.into()]).await?;
        rows.iter()
            .map(|r| {
                Ok(LedgerLine {
                    id: r.text(0)?.to_owned(),
                    kind: r.text(1)?.to_owned(),
                    source: r.text(2)?.to_owned(),
                    seq: r.int(3)?,
                    amount: r.int(4)?,
                    currency: r.text(5)?.to_owned(),
                    at: r.int(6)?,
                    method: None,
                })
            })
            .collect()
    }

    /// Totals per currency and kind up to `until` (Unix seconds, the provider's clock); corrections count with what they correct.
    pub async fn ledger_balances(&self, livemode: bool, until: i64) -> Result<Vec<CurrencyTotals>> {
        let sql = "SELECT currency, kind, CAST(SUM(amount) AS BIGINT), COUNT(*) FROM ledger WHERE livemode = ?1 AND at <= ?2 GROUP BY currency, kind ORDER BY currency, kind";
        self.engine.read(sql, vec![livemode.into(), until.into()]).await?.iter().map(totals_row).collect()
    }

    /// Rows of the ledger, newest first.
    pub async fn ledger_rows(&self, filter: &LedgerFilter) -> Result<Vec<LedgerRow>> {
        let sql = select!(
            "WHERE livemode = ?1 AND (?2 = '' OR kind = ?2) AND (?3 = '' OR source = ?3) AND (?4 = '' OR customer = ?4) AND (?5 = '' OR invoice = ?5)
            AND at >= ?6 AND (?7 = 0 OR n < ?7) ORDER BY n DESC LIMIT ?8"
        );
        let params = vec![
            filter.livemode.into(),
            filter.kind.as_str().into(),
            filter.source.as_str().into(),
            filter.customer.as_str().into(),
            filter.invoice.as_str().into(),
            filter.since.into(),
            filter.before.into(),
            filter.limit.into(),
        ];
        self.engine.read(sql, params).await?.iter().map(ledger_row).collect()
    }

    pub async fn ledger_row(&self, id: &str) -> Result<Option<LedgerRow>> {
        self.engine.read(select!("WHERE id = ?1"), vec![id.into()]).await?.first().map(ledger_row).transpose()
    }

    /// What corrects a row, oldest first.
    pub async fn corrections_of(&self, id: &str) -> Result<Vec<LedgerRow>> {
        self.engine.read(select!("WHERE corrects = ?1 ORDER BY n"), vec![id.into()]).await?.iter().map(ledger_row).collect()
    }

    /// Appends a correction: a row of its own with the place, the currency and the time of the one it corrects. False if a row with this id is
    /// there already, or the corrected one is not there or a correction itself.
    pub async fn insert_correction(&self, new: &NewCorrection<'_>, now: DateTime<Utc>, fact: Fact) -> Result<bool> {
        let sql = "INSERT INTO ledger (id, provider, livemode, kind, source, seq, amount, currency, at, customer, invoice, payment_intent, origin, recorded_at, corrects, note)
            SELECT ?1, provider, livemode, kind, source, (SELECT MAX(m.seq) + 1 FROM ledger m WHERE m.provider = l.provider
            AND m.livemode = l.livemode AND m.kind = l.kind AND m.source = l.source), ?3, currency, at, customer, invoice, payment_intent, 'manual', ?5, id, ?4
            FROM ledger l WHERE id = ?2 AND corrects IS NULL ON CONFLICT DO NOTHING";
        let params = vec![new.id.into(), new.corrects.into(), new.amount.into(), new.note.into(), now.into()];
        Ok(self.engine.write(Batch::new().guard(sql, params).journal(fact)).await?.affected(0) == 1)
    }

    /// Totals per currency and kind of what happened since `from` (Unix seconds, the provider's clock).
    pub async fn ledger_totals(&self, livemode: bool, from: i64) -> Result<Vec<CurrencyTotals>> {
        let sql = "SELECT currency, kind, CAST(SUM(amount) AS BIGINT), COUNT(*) FROM ledger WHERE livemode = ?1 AND at >= ?2 GROUP BY currency, kind ORDER BY currency, kind";
        self.engine.read(sql, vec![livemode.into(), from.into()]).await?.iter().map(totals_row).collect()
    }

    /// Charges made in [from, to) (Unix seconds, the provider's clock): those the ledger has, and those known as objects only, e.g. as failed.
    pub async fn payments_in_time(&self, livemode: bool, from: i64, to: i64, limit: i64) -> Result<Vec<PaymentInTime>> {
        let sql = "SELECT id, created, customer, amount, currency, status FROM provider_object
            WHERE kind = 'charge' AND livemode = ?1 AND created >= ?2 AND created < ?3
            UNION ALL SELECT source, at, customer, amount, currency, 'succeeded' FROM ledger l
            WHERE livemode = ?1 AND kind = 'charge' AND corrects IS NULL AND at >= ?2 AND at < ?3
            AND NOT EXISTS (SELECT 1 FROM provider_object o WHERE o.kind = 'charge' AND o.id = l.source) ORDER BY 2 DESC, 1 LIMIT ?4";
        let rows = self.engine.read(sql, vec![livemode.into(), from.into(), to.into(), limit.into()]).await?;
        rows.iter()
            .map(|r| {
                Ok(PaymentInTime {
                    id: r.text(0)?.to_owned(),
                    at: r.int(1)?,
                    customer: r.opt_text(2)?,
                    amount: r.int(3)?,
                    currency: r.text(4)?.to_owned(),
                    status: r.text(5)?.to_owned(),
                    is_failed: r.text(5)? == "failed",
                })
            })
            .collect()
    }

    pub async fn ledger_count(&self) -> Result<i64> {
        let rows = self.engine.read("SELECT COUNT(*) FROM ledger", vec![]).await?;
        rows.first().map_or(Ok(0), |r| r.int(0))
    }

    /// Ids of the customers known under this canonical e-mail address.
    pub async fn customers_by_email(&self, email: &str, livemode: bool) -> Result<Vec<String>> {
        let sql = "SELECT id FROM provider_object WHERE kind = 'customer' AND email = ?1 AND livemode = ?2 AND status <> 'deleted' ORDER BY created, id";
        let rows = self.engine.read(sql, vec![email.into(), livemode.into()]).await?;
        rows.iter().map(|r| r.text(0).map(str::to_owned)).collect()
    }

    /// Objects of one kind that belong to a customer, newest first.
    pub async fn objects_of_customer(&self, kind: &str, customer: &str) -> Result<Vec<ObjectRow>> {
        let sql = "SELECT id, status, parent, created, body FROM provider_object WHERE kind = ?1 AND customer = ?2 ORDER BY created DESC, id DESC LIMIT 1000";
        self.engine.read(sql, vec![kind.into(), customer.into()]).await?.iter().map(object_row).collect()
    }

    /// Objects of one kind under another object: the charges of a payment intent, the payments of an invoice.
    pub async fn objects_of_parent(&self, kind: &str, parent: &str) -> Result<Vec<ObjectRow>> {
        let sql = "SELECT id, status, parent, created, body FROM provider_object WHERE kind = ?1 AND parent = ?2 ORDER BY created DESC, id DESC LIMIT 1000";
        self.engine.read(sql, vec![kind.into(), parent.into()]).await?.iter().map(object_row).collect()
    }

    pub async fn object(&self, kind: &str, id: &str) -> Result<Option<ObjectRow>> {
        let sql = "SELECT id, status, parent, created, body FROM provider_object WHERE kind = ?1 AND id = ?2";
        self.engine.read(sql, vec![kind.into(), id.into()]).await?.first().map(object_row).transpose()
    }
}

fn totals_row(row: &Row) -> Result<CurrencyTotals> {
    Ok(CurrencyTotals { currency: row.text(0)?.to_owned(), kind: row.text(1)?.to_owned(), amount_minor: row.int(2)?, count: row.int(3)? })
}

fn ledger_row(row: &Row) -> Result<LedgerRow> {
    Ok(LedgerRow {
        n: row.int(0)?,
        id: row.text(1)?.to_owned(),
        kind: row.text(2)?.to_owned(),
        source: row.text(3)?.to_owned(),
        seq: row.int(4)?,
        amount: row.int(5)?,
        currency: row.text(6)?.to_owned(),
        at: row.int(7)?,
        customer: row.opt_text(8)?,
        invoice: row.opt_text(9)?,
        payment_intent: row.opt_text(10)?,
        event_id: row.opt_text(11)?,
        origin: row.text(12)?.to_owned(),
        recorded_at: row.time(13)?,
        corrects: row.opt_text(14)?,
        note: row.opt_text(15)?,
    })
}

fn object_row(row: &Row) -> Result<ObjectRow> {
    Ok(ObjectRow {
        id: row.text(0)?.to_owned(),
        status: row.text(1)?.to_owned(),
        parent: row.opt_text(2)?,
        created: row.int(3)?,
        body: row.json(4)?,
    })
}
