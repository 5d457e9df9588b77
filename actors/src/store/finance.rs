//! What the finance reconciliation reads of our own: invoices as the webhooks left them, and the ledger as sums.

use std::collections::BTreeMap;

use super::{Store, engine::Row};
use crate::{domain::finance::LocalInvoice, error::Result};

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, body ->> 'number', status, currency, amount, event_created FROM provider_object WHERE kind = 'invoice' AND livemode = ?1 AND ",
            $rest
        )
    };
}

impl Store {
    /// Our invoices created since `from` (Unix seconds), and those that are not settled here, of any age.
    pub async fn local_invoices(&self, livemode: bool, from: i64) -> Result<Vec<LocalInvoice>> {
        let sql = select!("(created >= ?2 OR status IN ('draft', 'open')) AND status <> 'deleted' ORDER BY id");
        self.engine.read(sql, vec![livemode.into(), from.into()]).await?.iter().map(local_invoice).collect()
    }

    /// One of our invoices.
    pub async fn local_invoice(&self, livemode: bool, id: &str) -> Result<Option<LocalInvoice>> {
        let rows = self.engine.read(select!("id = ?2"), vec![livemode.into(), id.into()]).await?;
        rows.first().map(local_invoice).transpose()
    }

    /// Ids of the invoices for which we heard of a payment since `from` (Unix seconds, the provider's clock).
    pub async fn invoices_paid_since(&self, livemode: bool, from: i64) -> Result<Vec<String>> {
        let sql = "SELECT DISTINCT parent FROM provider_object WHERE kind = 'invoice_payment' AND livemode = ?1 AND event_created >= ?2
            AND parent IS NOT NULL ORDER BY parent";
        let rows = self.engine.read(sql, vec![livemode.into(), from.into()]).await?;
        rows.iter().map(|r| r.text(0).map(str::to_owned)).collect()
    }

    /// Sums of the ledger per currency over `at` in [from, before), minor units.
    pub async fn ledger_sums(&self, livemode: bool, from: i64, before: i64) -> Result<BTreeMap<String, i64>> {
        let sql = "SELECT currency, CAST(SUM(amount) AS BIGINT) FROM ledger WHERE livemode = ?1 AND at >= ?2 AND at < ?3 GROUP BY currency";
        let rows = self.engine.read(sql, vec![livemode.into(), from.into(), before.into()]).await?;
        rows.iter().map(|r| Ok((r.text(0)?.to_owned(), r.int(1)?))).collect()
    }

    /// When the first thing in our ledger happened, Unix seconds by the provider's clock.
    pub async fn ledger_begin(&self, livemode: bool) -> Result<Option<i64>> {
        let rows = self.engine.read("SELECT MIN(at) FROM ledger WHERE livemode = ?1", vec![livemode.into()]).await?;
        rows.first().map_or(Ok(None), |r| r.opt_int(0))
    }
}

fn local_invoice(row: &Row) -> Result<LocalInvoice> {
    Ok(LocalInvoice {
        id: row.text(0)?.to_owned(),
        number: row.opt_text(1)?,
        status: row.text(2)?.to_owned(),
        currency: row.text(3)?.to_owned(),
        amount_due: row.int(4)?,
        seen_at: row.int(5)?,
    })
}
