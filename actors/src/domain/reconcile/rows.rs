//! A reconciliation's rows one by one: what a payout is made of, and in which one state each balance transaction is. Called for the page
//! and the export of a payout's rows; it judges as `reconcile` does and reports nothing else.

use super::{
    book::Book,
    input::Input,
    join,
    report::RowStatus,
    sides::{Settings, Sides},
};
use serde::Serialize;

/// A balance transaction with its state; money in minor units of `currency`, times in Unix seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JudgedRow {
    pub id: String,
    /// None: in no payout yet.
    pub payout: Option<String>,
    pub reporting_category: String,
    pub source: Option<String>,
    pub status: RowStatus,
    pub created: i64,
    pub available_on: i64,
    pub gross: i64,
    pub fee: i64,
    pub net: i64,
    pub currency: String,
}

/// Every balance transaction but the payouts' own, by time and id.
pub fn rows(input: &Input) -> Vec<JudgedRow> {
    let (sides, settings) = (Sides::of(input), Settings::from(input));
    let mut book = Book::new(&sides);
    join::join(&settings, &mut book);
    let mut rows: Vec<JudgedRow> = book
        .rows
        .iter()
        .map(|row| {
            let tx = book.tx(row);
            let text = |name| sides.texts.get(name).to_owned();
            JudgedRow {
                id: text(tx.id),
                payout: row.payout.map(|place| book.payouts[place as usize].id.clone()),
                reporting_category: text(tx.category),
                source: tx.source.map(text),
                status: row.status,
                created: tx.created,
                available_on: tx.available_on,
                gross: tx.amount,
                fee: tx.fee,
                net: tx.net,
                currency: text(tx.currency),
            }
        })
        .collect();
    rows.sort_unstable_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
    rows
}
