//! The business's own ledger and the last known state of the provider's objects.

use serde_json::Value as Json;

use super::{Store, engine::Row};
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

impl Store {
    /// Ledger lines with `at` in [from, to], for the reconciliation.
    pub async fn ledger_lines(&self, livemode: bool, from: i64, to: i64) -> Result<Vec<LedgerLine>> {
        let sql = "SELECT id, kind, source, seq, amount, currency, at FROM ledger WHERE livemode = ?1 AND at >= ?2 AND at <= ?3 ORDER BY n";
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

    /// Totals per currency and kind of what happened since `from` (Unix seconds, the provider's clock).
    pub async fn ledger_totals(&self, livemode: bool, from: i64) -> Result<Vec<CurrencyTotals>> {
        let sql = "SELECT currency, kind, CAST(SUM(amount) AS BIGINT), COUNT(*) FROM ledger WHERE livemode = ?1 AND at >= ?2 GROUP BY currency, kind ORDER BY currency, kind";
        let rows = self.engine.read(sql, vec![livemode.into(), from.into()]).await?;
        rows.iter()
            .map(|r| {
                Ok(CurrencyTotals {
                    currency: r.text(0)?.to_owned(),
                    kind: r.text(1)?.to_owned(),
                    amount_minor: r.int(2)?,
                    count: r.int(3)?,
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

fn object_row(row: &Row) -> Result<ObjectRow> {
    Ok(ObjectRow {
        id: row.text(0)?.to_owned(),
        status: row.text(1)?.to_owned(),
        parent: row.opt_text(2)?,
        created: row.int(3)?,
        body: row.json(4)?,
    })
}
