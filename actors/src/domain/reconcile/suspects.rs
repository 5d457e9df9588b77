//! Looks for balance transactions that would explain why a payout does not equal its items. Used by `reconcile` only; bounded in
//! time, and only ever a hint: nothing is resolved by it.

use super::{
    book::{Book, Class, Row},
    input::Payout,
    report::{Exception, ExceptionKind, RowStatus, Suspect},
};
use std::collections::HashMap;

/// Newest unsettled rows of which pairs and triples are tried: under 10,000 combinations together.
const PAIRS_OF: usize = 100;
const TRIPLES_OF: usize = 30;
/// More single candidates than this explain nothing.
const SINGLES: usize = 5;

#[derive(Debug)]
pub(super) struct Suspects<'a> {
    book: &'a Book<'a>,
    /// Amount mismatches by payout: (balance transaction, provider minus ledger).
    mismatches: HashMap<&'a str, Vec<(&'a str, i64)>>,
    /// Rows by (currency, net); made when the first residual turns up.
    by_net: Option<HashMap<(&'a str, i64), Vec<&'a Row<'a>>>>,
}

impl<'a> Suspects<'a> {
    pub(super) fn new(book: &'a Book<'a>, of_rows: &'a [Exception]) -> Self {
        let mut mismatches: HashMap<&str, Vec<(&str, i64)>> = HashMap::new();
        for exception in of_rows.iter().filter(|exception| exception.kind == ExceptionKind::AmountMismatch) {
            if let (Some(payout), Some(id), Some(difference)) =
                (&exception.payout_id, &exception.balance_transaction_id, exception.difference)
            {
                mismatches.entry(payout).or_default().push((id, difference));
            }
        }
        Self { book, mismatches, by_net: None }
    }

    /// `residual` = payout amount minus the sum of its items; positive when the payout is too large.
    pub(super) fn of(&mut self, payout: &Payout, residual: i64, members: &[&Row<'_>]) -> Vec<Suspect> {
        let mut found = Vec::new();
        let mismatches = self.mismatches.get(payout.id.as_str()).map_or(&[][..], Vec::as_slice);
        found.extend(
            mismatches
                .iter()
                .filter(|(_, difference)| *difference == -residual)
                .map(|(id, _)| suspect([*id], "its amount differs from the ledger by exactly this much")),
        );
        found.extend(members.iter().filter(|row| row.tx.net == -residual && row.status == RowStatus::MissingInLedger).map(|row| {
            suspect([row.tx.id.as_str()], "it is listed in the payout, the ledger does not know it, and its net is the difference")
        }));
        found.extend(self.elsewhere(payout, residual));
        if found.is_empty() {
            found.extend(self.combination(payout, residual));
        }
        found.sort_by(|a, b| a.balance_transaction_ids.cmp(&b.balance_transaction_ids));
        found.dedup_by(|a, b| a.balance_transaction_ids == b.balance_transaction_ids);
        found.truncate(SINGLES);
        found
    }

    /// Single rows outside the payout with exactly this net, of either sign.
    fn elsewhere(&mut self, payout: &Payout, residual: i64) -> Vec<Suspect> {
        let book = self.book;
        let by_net = self.by_net.get_or_insert_with(|| {
            let mut map: HashMap<(&str, i64), Vec<&Row<'_>>> = HashMap::with_capacity(book.rows.len());
            for row in &book.rows {
                map.entry((&row.tx.currency, row.tx.net)).or_default().push(row);
            }
            map
        });
        let mut hits: Vec<&Row<'_>> = Vec::new();
        for net in [residual, -residual] {
            let rows = by_net.get(&(payout.currency.as_str(), net)).map_or(&[][..], Vec::as_slice);
            hits.extend(rows.iter().copied().filter(|row| row.payout.is_none_or(|other| other.id != payout.id)).take(SINGLES + 1));
        }
        if hits.len() > SINGLES {
            return Vec::new();
        }
        let reason = |row: &Row<'_>| match (row.class, row.tx.net == residual) {
            (Class::Fee, _) => "a cost of the provider of this amount, not in the payout",
            (_, true) => "its net is the difference, and it is not in the payout",
            (_, false) => "its net is the difference with the other sign, and it is not in the payout",
        };
        hits.into_iter().map(|row| suspect([row.tx.id.as_str()], reason(row))).collect()
    }

    /// Two or three unsettled rows that add up to the residual, within a fixed number of tries.
    fn combination(&self, payout: &Payout, residual: i64) -> Option<Suspect> {
        let open = self.book.rows.iter().rev().filter(|row| row.payout.is_none() && row.tx.currency == payout.currency);
        let rows: Vec<&Row<'_>> = open.take(PAIRS_OF).collect();
        let reason = "unsettled rows that add up to the difference";
        for (i, a) in rows.iter().enumerate() {
            if let Some(b) = rows[i + 1..].iter().find(|b| a.tx.net + b.tx.net == residual) {
                return Some(suspect([a.tx.id.as_str(), &b.tx.id], reason));
            }
        }
        let rows = &rows[..rows.len().min(TRIPLES_OF)];
        for (i, a) in rows.iter().enumerate() {
            for (j, b) in rows.iter().enumerate().skip(i + 1) {
                if let Some(c) = rows[j + 1..].iter().find(|c| a.tx.net + b.tx.net + c.tx.net == residual) {
                    return Some(suspect([a.tx.id.as_str(), &b.tx.id, &c.tx.id], reason));
                }
            }
        }
        None
    }
}

fn suspect<const N: usize>(ids: [&str; N], reason: &str) -> Suspect {
    let mut ids = ids.map(str::to_owned).to_vec();
    ids.sort_unstable();
    Suspect { balance_transaction_ids: ids, reason: reason.to_owned() }
}
