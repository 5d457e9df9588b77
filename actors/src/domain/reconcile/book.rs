//! Brings the input of a reconciliation into order before anything is judged: repeated pages collapsed, every balance transaction
//! classified, a payout's own transaction taken out by id. Used by `reconcile` only.

use super::{
    input::{Input, Payout, Transaction},
    report::{Evidence, RowStatus},
};
use crate::domain::ledger::Kind;
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// What a balance transaction is, by its reporting category first and its type second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Class {
    /// Joined with the ledger row of this kind and the same source.
    Ledger(Kind),
    /// Lowers the charge it belongs to.
    PartialCaptureReversal,
    /// The provider's own cost; no ledger row is needed.
    Fee,
    /// Money leaving in, or coming back from, a payout: its counterpart is the payout object.
    Payout(Kind),
    Unknown,
}

impl Class {
    fn of(category: &str, kind: &str) -> Self {
        let by_name = |name: &str| match name {
            "charge" | "payment" => Some(Self::Ledger(Kind::Charge)),
            "refund" | "payment_refund" => Some(Self::Ledger(Kind::Refund)),
            "refund_failure" | "payment_failure_refund" => Some(Self::Ledger(Kind::RefundFailure)),
            "dispute" => Some(Self::Ledger(Kind::Dispute)),
            "dispute_reversal" => Some(Self::Ledger(Kind::DisputeReversal)),
            "partial_capture_reversal" => Some(Self::PartialCaptureReversal),
            "fee" | "stripe_fee" | "stripe_fx_fee" | "tax" | "tax_fee" | "network_cost" => Some(Self::Fee),
            "payout" => Some(Self::Payout(Kind::Payout)),
            "payout_reversal" | "payout_cancel" | "payout_failure" => Some(Self::Payout(Kind::PayoutReversal)),
            _ => None,
        };
        match by_name(category) {
            Some(class) => class,
            None if category.is_empty() => by_name(kind).unwrap_or(Self::Unknown),
            None => Self::Unknown,
        }
    }
}

/// A balance transaction with what we make of it.
#[derive(Debug)]
pub(super) struct Row<'a> {
    pub tx: &'a Transaction,
    /// The payout it is in; none = not settled yet.
    pub payout: Option<&'a Payout>,
    pub class: Class,
    pub status: RowStatus,
    /// Where the provider contradicts itself about this row.
    pub conflicts: Vec<Evidence>,
}

impl Row<'_> {
    pub(super) fn category(&self) -> &str {
        if self.tx.reporting_category.is_empty() { &self.tx.kind } else { &self.tx.reporting_category }
    }

    /// The state of a row about which nothing is wrong.
    pub(super) fn settled(&self) -> RowStatus {
        if self.payout.is_some() { RowStatus::Matched } else { RowStatus::MatchedPendingPayout }
    }
}

/// The provider's side in order.
#[derive(Debug)]
pub(super) struct Book<'a> {
    /// By id; of two different copies the smaller one, and the id is in `torn`.
    pub payouts: HashMap<&'a str, &'a Payout>,
    /// Payouts of which there are two copies that differ.
    pub torn: HashSet<&'a str>,
    /// Without the payouts' own transactions, by (created, id).
    pub rows: Vec<Row<'a>>,
    /// Amounts that came back from failed payouts, by transaction id and by payout id.
    pub returned: HashMap<&'a str, i64>,
}

impl<'a> Book<'a> {
    pub(super) fn new(input: &'a Input) -> Self {
        let (payouts, torn) = index(&input.payouts);
        let mut seen: HashMap<&str, usize> = HashMap::with_capacity(input.transactions.len());
        let mut rows: Vec<Row<'a>> = Vec::with_capacity(input.transactions.len());
        for tx in &input.transactions {
            let at = *seen.entry(&tx.id).or_insert(rows.len());
            if at == rows.len() {
                rows.push(Row {
                    tx,
                    payout: None,
                    class: Class::of(&tx.reporting_category, &tx.kind),
                    status: RowStatus::Matched,
                    conflicts: Vec::new(),
                });
            } else {
                merge(&mut rows[at], tx);
            }
        }
        rows.sort_unstable_by(|a, b| (a.tx.created, &a.tx.id).cmp(&(b.tx.created, &b.tx.id)));
        let failures: HashSet<&str> = payouts.values().filter_map(|p| p.failure_balance_transaction.as_deref()).collect();
        let mut returned = HashMap::new();
        for row in &rows {
            let back = row.class == Class::Payout(Kind::PayoutReversal);
            if back || failures.contains(row.tx.id.as_str()) {
                returned.insert(row.tx.id.as_str(), row.tx.amount);
            }
            if let (true, Some(source)) = (back, &row.tx.source) {
                returned.insert(source.as_str(), row.tx.amount);
            }
        }
        let leaving: HashSet<&str> = payouts.values().filter_map(|p| p.balance_transaction.as_deref()).collect();
        for row in &mut rows {
            row.payout = row.tx.payout.as_deref().and_then(|id| payouts.get(id).copied());
            check(row);
            row.conflicts.sort_by(|a, b| a.field.cmp(&b.field));
        }
        rows.retain(|row| !is_own(row, &leaving, &payouts));
        Self { payouts, torn, rows, returned }
    }
}

fn index(payouts: &[Payout]) -> (HashMap<&str, &Payout>, HashSet<&str>) {
    let (mut by_id, mut torn) = (HashMap::<&str, &Payout>::with_capacity(payouts.len()), HashSet::new());
    for payout in payouts {
        let kept = by_id.entry(&payout.id).or_insert(payout);
        if *kept != payout {
            torn.insert(payout.id.as_str());
            *kept = payout.min(kept);
        }
    }
    (by_id, torn)
}

/// A payout's own transaction is its counterpart, not one of its items. By id: a failed payout's returned amount is a member of a
/// later payout and must stay in. Only where the provider names no id does the source decide.
fn is_own(row: &Row<'_>, leaving: &HashSet<&str>, payouts: &HashMap<&str, &Payout>) -> bool {
    let id = Some(row.tx.id.as_str());
    let of = |payout: &Payout| row.tx.source.as_deref() == Some(payout.id.as_str());
    match row.payout {
        Some(payout) => {
            let named = [payout.balance_transaction.as_deref(), payout.failure_balance_transaction.as_deref()];
            named.contains(&id)
                || named[0].is_none() && row.class == Class::Payout(Kind::Payout) && of(payout)
                || named[1].is_none() && row.class == Class::Payout(Kind::PayoutReversal) && of(payout)
        }
        None => {
            leaving.contains(row.tx.id.as_str())
                || row.class == Class::Payout(Kind::Payout) && row.tx.source.as_deref().is_some_and(|source| payouts.contains_key(source))
        }
    }
}

/// The same row from two pages is one row; what differs is kept as evidence. Which copy stays does not depend on their order.
fn merge<'a>(row: &mut Row<'a>, tx: &'a Transaction) {
    let old = row.tx;
    let mut differ = |field: &str, a: Value, b: Value| {
        if a == b {
            return;
        }
        let at = row.conflicts.iter().position(|conflict| conflict.field == field).unwrap_or_else(|| {
            row.conflicts.push(Evidence { field: field.to_owned(), ledger: Value::Null, provider: Value::Array(Vec::new()) });
            row.conflicts.len() - 1
        });
        if let Value::Array(values) = &mut row.conflicts[at].provider {
            values.extend([a, b]);
            values.sort_by_key(ToString::to_string);
            values.dedup();
        }
    };
    differ("amount", old.amount.into(), tx.amount.into());
    differ("fee", old.fee.into(), tx.fee.into());
    differ("net", old.net.into(), tx.net.into());
    differ("currency", old.currency.clone().into(), tx.currency.clone().into());
    differ("reporting_category", old.reporting_category.clone().into(), tx.reporting_category.clone().into());
    differ("source", old.source.clone().into(), tx.source.clone().into());
    if let (Some(a), Some(b)) = (&old.payout, &tx.payout) {
        differ("payout", a.clone().into(), b.clone().into());
    }
    let settled_first = |t: &'a Transaction| (t.payout.is_none(), t);
    if settled_first(tx) < settled_first(old) {
        row.tx = tx;
        row.class = Class::of(&tx.reporting_category, &tx.kind);
    }
}

/// Invariants of one balance transaction: `amount - fee = net`, and the fee's details add up to it.
fn check(row: &mut Row<'_>) {
    let tx = row.tx;
    if tx.amount - tx.fee != tx.net {
        row.conflicts.push(Evidence { field: "net".to_owned(), ledger: (tx.amount - tx.fee).into(), provider: tx.net.into() });
    }
    if let Some(details) = tx.fee_details
        && details != tx.fee
    {
        row.conflicts.push(Evidence { field: "fee".to_owned(), ledger: details.into(), provider: tx.fee.into() });
    }
}
