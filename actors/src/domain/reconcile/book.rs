//! Brings the input of a reconciliation into order before anything is judged: repeated pages collapsed, every balance transaction
//! classified, a payout's own transaction taken out by id. Used by `reconcile` only.

use super::{
    chains::{Chains, small},
    input::Payout,
    report::{Evidence, RowStatus},
    sides::{Sides, Tx},
    texts::Name,
};
use crate::domain::ledger::Kind;
use hashbrown::{HashMap, HashSet};
use serde_json::Value;

/// What a balance transaction is, by its reporting category, or by its type where it has none.
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
    fn of(category: &str) -> Self {
        match category {
            "charge" | "payment" => Self::Ledger(Kind::Charge),
            "refund" | "payment_refund" => Self::Ledger(Kind::Refund),
            "refund_failure" | "payment_failure_refund" => Self::Ledger(Kind::RefundFailure),
            "dispute" => Self::Ledger(Kind::Dispute),
            "dispute_reversal" => Self::Ledger(Kind::DisputeReversal),
            "partial_capture_reversal" => Self::PartialCaptureReversal,
            "fee" | "stripe_fee" | "stripe_fx_fee" | "tax" | "tax_fee" | "network_cost" => Self::Fee,
            "payout" => Self::Payout(Kind::Payout),
            "payout_reversal" | "payout_cancel" | "payout_failure" => Self::Payout(Kind::PayoutReversal),
            _ => Self::Unknown,
        }
    }
}

/// A balance transaction with what we make of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// Its place in the transactions.
    pub at: u32,
    /// The place of the payout it is in; none = not settled yet.
    pub payout: Option<u32>,
    pub class: Class,
    pub status: RowStatus,
}

impl Row {
    /// The state of a row about which nothing is wrong.
    pub(super) fn settled(&self) -> RowStatus {
        if self.payout.is_some() { RowStatus::Matched } else { RowStatus::MatchedPendingPayout }
    }
}

/// The transactions with which payouts left, and with which failed ones came back.
#[derive(Default)]
struct Own {
    /// Both, of each payout.
    of: Vec<[Option<Name>; 2]>,
    leaving: HashSet<Name>,
    back: HashSet<Name>,
}

/// The provider's side in order.
#[derive(Debug)]
pub(super) struct Book<'a> {
    pub sides: &'a Sides,
    /// Newest first, then by id, each once; of two different copies the smaller one.
    pub payouts: Vec<&'a Payout>,
    pub payout_names: Vec<Name>,
    /// The transaction with which each failed payout's money came back.
    pub backs: Vec<Option<Name>>,
    /// The currency of each payout.
    pub currencies: Vec<Name>,
    by_name: HashMap<Name, u32>,
    /// Payouts of which there are two copies that differ.
    pub torn: HashSet<u32>,
    /// Without the payouts' own transactions; their order means nothing.
    pub rows: Vec<Row>,
    /// Where the provider contradicts itself about a transaction.
    pub conflicts: HashMap<Name, Vec<Evidence>>,
    /// Amounts that came back from failed payouts, by transaction id and by payout id.
    pub returned: HashMap<Name, i64>,
}

impl<'a> Book<'a> {
    pub(super) fn new(sides: &'a Sides) -> Self {
        let mut book = Self {
            sides,
            payouts: Vec::new(),
            payout_names: Vec::new(),
            backs: Vec::new(),
            currencies: Vec::new(),
            by_name: HashMap::new(),
            torn: HashSet::new(),
            rows: Vec::with_capacity(sides.transactions.len()),
            conflicts: HashMap::new(),
            returned: HashMap::new(),
        };
        let own = book.index_payouts();
        book.index_rows();
        for row in &mut book.rows {
            let tx = &sides.transactions[row.at as usize];
            row.payout = tx.payout.and_then(|name| book.by_name.get(&name).copied());
            let came_back = row.class == Class::Payout(Kind::PayoutReversal);
            if came_back || own.back.contains(&tx.id) {
                book.returned.insert(tx.id, tx.amount);
            }
            if let (true, Some(source)) = (came_back, tx.source) {
                book.returned.insert(source, tx.amount);
            }
            check(sides, row.at, tx, &mut book.conflicts);
        }
        book.conflicts.values_mut().for_each(|conflicts| conflicts.sort_by(|a, b| a.field.cmp(&b.field)));
        let known = &book.by_name;
        book.rows.retain(|row| !is_own(sides, row, &own, known));
        book
    }

    pub(super) fn tx(&self, row: &Row) -> &'a Tx {
        &self.sides.transactions[row.at as usize]
    }

    /// The place of the payout of this name.
    pub(super) fn payout(&self, name: Name) -> Option<u32> {
        self.by_name.get(&name).copied()
    }

    /// The rows of each payout.
    pub(super) fn members(&self) -> Chains {
        let mut members = Chains::new(self.payouts.len(), self.rows.len());
        for (at, row) in self.rows.iter().enumerate() {
            if let Some(payout) = row.payout {
                members.push(payout as usize, small(at));
            }
        }
        members
    }

    /// For sorting rows by when they were made; ids settle what time does not.
    pub(super) fn age(&self, row: &Row) -> (i64, &'a str) {
        let tx = self.tx(row);
        (tx.created, self.sides.text(tx.id))
    }

    /// Puts the payouts in order.
    fn index_payouts(&mut self) -> Own {
        let all = &self.sides.payouts;
        let mut order: Vec<u32> = (0..all.len()).map(small).collect();
        order.sort_unstable_by(|a, b| {
            let (a, b) = (&all[*a as usize].payout, &all[*b as usize].payout);
            a.id.cmp(&b.id).then_with(|| a.cmp(b))
        });
        let mut kept: Vec<(u32, bool)> = Vec::with_capacity(order.len());
        for at in order {
            match kept.last_mut() {
                Some((last, torn)) if all[*last as usize].id == all[at as usize].id => {
                    *torn |= all[*last as usize].payout != all[at as usize].payout;
                }
                _ => kept.push((at, false)),
            }
        }
        kept.sort_by_key(|(at, _)| std::cmp::Reverse(all[*at as usize].payout.created));
        let mut own = Own::default();
        for (at, torn) in kept {
            let (known, place) = (&all[at as usize], small(self.payouts.len()));
            self.payouts.push(&known.payout);
            self.payout_names.push(known.id);
            self.backs.push(known.back);
            self.currencies.push(known.currency);
            self.by_name.insert(known.id, place);
            own.of.push([known.leaving, known.back]);
            own.leaving.extend(known.leaving);
            own.back.extend(known.back);
            if torn {
                self.torn.insert(place);
            }
        }
        own
    }

    /// One row per id.
    fn index_rows(&mut self) {
        const NEW: u32 = u32::MAX;
        let sides = self.sides;
        let mut classes: HashMap<Name, Class> = HashMap::new();
        let mut seen = vec![NEW; sides.texts.len()];
        for (at, tx) in sides.transactions.iter().enumerate() {
            let class = *classes.entry(tx.category).or_insert_with(|| Class::of(sides.text(tx.category)));
            let place = &mut seen[tx.id.index()];
            if *place == NEW {
                *place = small(self.rows.len());
                self.rows.push(Row { at: small(at), payout: None, class, status: RowStatus::Matched });
                continue;
            }
            let row = &mut self.rows[*place as usize];
            merge(sides, row.at, small(at), &mut self.conflicts);
            // Which copy stays does not depend on their order: a settled one before an unsettled one.
            let settled_first = |at: u32| (sides.transactions[at as usize].payout.is_none(), sides.tx(at));
            if settled_first(small(at)) < settled_first(row.at) {
                (row.at, row.class) = (small(at), class);
            }
        }
    }
}

/// A payout's own transaction is its counterpart, not one of its items. By id: a failed payout's returned amount is a member of a
/// later payout and must stay in. Only where the provider names no id does the source decide.
fn is_own(sides: &Sides, row: &Row, own: &Own, known: &HashMap<Name, u32>) -> bool {
    let tx = &sides.transactions[row.at as usize];
    let of = |payout: u32| tx.source.is_some_and(|source| known.get(&source) == Some(&payout));
    match row.payout {
        Some(payout) => {
            let named = own.of[payout as usize];
            named.contains(&Some(tx.id))
                || named[0].is_none() && row.class == Class::Payout(Kind::Payout) && of(payout)
                || named[1].is_none() && row.class == Class::Payout(Kind::PayoutReversal) && of(payout)
        }
        None => {
            own.leaving.contains(&tx.id)
                || row.class == Class::Payout(Kind::Payout) && tx.source.is_some_and(|source| known.contains_key(&source))
        }
    }
}

/// The same row from two pages is one row; what differs is kept as evidence.
fn merge(sides: &Sides, old: u32, new: u32, conflicts: &mut HashMap<Name, Vec<Evidence>>) {
    let id = sides.transactions[new as usize].id;
    let (old, new) = (sides.tx(old), sides.tx(new));
    let mut differ = |field: &str, a: Value, b: Value| {
        if a == b {
            return;
        }
        let conflicts = conflicts.entry(id).or_default();
        let at = conflicts.iter().position(|conflict| conflict.field == field).unwrap_or_else(|| {
            conflicts.push(Evidence { field: field.to_owned(), ledger: Value::Null, provider: Value::Array(Vec::new()) });
            conflicts.len() - 1
        });
        if let Value::Array(values) = &mut conflicts[at].provider {
            values.extend([a, b]);
            values.sort_by_key(ToString::to_string);
            values.dedup();
        }
    };
    differ("amount", old.amount.into(), new.amount.into());
    differ("fee", old.fee.into(), new.fee.into());
    differ("net", old.net.into(), new.net.into());
    differ("currency", old.currency.as_ref().into(), new.currency.as_ref().into());
    differ("reporting_category", old.category.as_ref().into(), new.category.as_ref().into());
    differ("source", old.source.as_deref().into(), new.source.as_deref().into());
    if let (Some(a), Some(b)) = (&old.payout, &new.payout) {
        differ("payout", a.as_ref().into(), b.as_ref().into());
    }
}

/// Invariants of one balance transaction: `amount - fee = net`, and the fee's details add up to it.
fn check(sides: &Sides, at: u32, tx: &Tx, conflicts: &mut HashMap<Name, Vec<Evidence>>) {
    if tx.amount - tx.fee != tx.net {
        let found = Evidence { field: "net".to_owned(), ledger: (tx.amount - tx.fee).into(), provider: tx.net.into() };
        conflicts.entry(tx.id).or_default().push(found);
    }
    if let Some(details) = sides.fee_details.get(&at) {
        conflicts.entry(tx.id).or_default().push(Evidence { field: "fee".to_owned(), ledger: (*details).into(), provider: tx.fee.into() });
    }
}
