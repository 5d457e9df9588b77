//! The balance identity, per currency: what the provider says we have against what our ledger adds up to. Called by `reconcile` with
//! both sides read. Nothing is added over currencies, and nothing is explained by an amount alone: every item is rows.
//!
//! ```text
//! provider   = available + pending of GET /v1/balance
//! ledger     = sum of our rows since the anchor: charges, refunds and their failures, disputes and their reversals, payouts and their
//!              reversals, corrections; gross, because no webhook tells a fee
//! difference = provider - ledger
//! items      = opening            the balance at the anchor: what was there before we knew the account
//!            - fees               of every movement since the anchor, from the provider; a refund does not give them back
//!            + missing_in_ledger  movements whose source our ledger does not know (a webhook that is lost or on its way), gross
//!            - missing_provider   rows of ours that the provider has not booked
//!            + converted          what was taken in one currency and booked in another: plus in the one, minus in the other
//! drift      = difference - items = 0
//! ```
//!
//! A payout leaves the balance and enters the ledger when it is made, so one in transit is on neither side and no item. What both
//! sides have with different amounts is no item either: that is the drift, and its rows are the evidence.

use super::{
    input::{Entry, Input, Movement},
    report::{Balance, Exception, ExceptionKind, Item},
};
use crate::domain::{
    money,
    reconcile::{Evidence, Suspect},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Sums per currency, minor units.
type Sums = BTreeMap<String, i64>;

/// Rows that are named as evidence of one drift.
const EVIDENCE: usize = 10;

/// From where the identity is measured. It moves with the window, so that a run need not read the account's whole history: what is before
/// `through` is settled and only its sums are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// Our first ledger row, Unix seconds by the provider's clock: rows since then are counted.
    pub since: i64,
    /// Movements before this are in `fees` and `converted` already.
    pub through: i64,
    pub opening: Sums,
    pub fees: Sums,
    pub converted: Sums,
}

impl Anchor {
    /// Of an account that is looked at for the first time. `first` is our first ledger row. The opening balance is what the provider has less everything
    /// that has moved since, so it is 0 for an account that began with us.
    pub fn begin(first: i64, movements: &[Movement], ledger: &[Entry], balances: &Sums) -> Self {
        let known: BTreeSet<&str> = ledger.iter().map(|e| e.source.as_str()).collect();
        // A movement may be a second older than the row of its event.
        let ours = movements.iter().filter(|m| m.source.as_deref().is_some_and(|source| known.contains(source)));
        let since = ours.map(|m| m.created).chain([first]).min().unwrap_or(first);
        let mut opening = balances.clone();
        for m in unique(movements).into_iter().filter(|m| m.created >= since) {
            *opening.entry(m.currency.clone()).or_default() -= m.net();
        }
        opening.retain(|_, amount| *amount != 0);
        Self { since, through: since, opening, ..Self::default() }
    }
}

/// What the identity came to.
pub(super) struct Judged {
    pub balances: Vec<Balance>,
    pub exceptions: Vec<Exception>,
    /// The anchor of the next run.
    pub next: Anchor,
}

/// What the two sides have for one source, per currency.
#[derive(Default)]
struct Group<'a> {
    movements: Vec<&'a Movement>,
    entries: Vec<&'a Entry>,
}

/// One item per name and currency, and where the sides differ.
#[derive(Default)]
struct Findings<'a> {
    fees: Sums,
    converted: Sums,
    missing_in_ledger: Sums,
    missing_provider: Sums,
    /// Per currency: source, our sum, theirs.
    differing: BTreeMap<String, Vec<(&'a str, i64, i64)>>,
    /// The oldest row that is not settled.
    oldest: Option<i64>,
}

pub(super) fn judge(input: &Input) -> Judged {
    let movements = unique(&input.movements);
    let mut found = Findings::default();
    let mut groups: BTreeMap<&str, Group<'_>> = BTreeMap::new();
    for m in &movements {
        if m.created >= input.anchor.through {
            add(&mut found.fees, &m.currency, -fee(m));
            if let Some((shown, currency)) = &m.presentment {
                add(&mut found.converted, &m.currency, m.amount);
                add(&mut found.converted, currency, -shown);
            }
        }
        if m.kind != "fee" {
            groups.entry(m.source.as_deref().unwrap_or(&m.id)).or_default().movements.push(m);
        }
    }
    for e in input.ledger.iter().filter(|e| e.at >= input.anchor.since) {
        groups.entry(&e.source).or_default().entries.push(e);
    }
    for (source, group) in &groups {
        found.look(source, group, input.anchor.through);
    }
    let next = next(input, &movements, found.oldest);
    let (balances, exceptions) = identities(input, &found);
    Judged { balances, exceptions, next }
}

/// The fee of a movement, or all of it if it is one.
pub(super) fn fee(m: &Movement) -> i64 {
    if m.kind == "fee" { -m.net() } else { m.fee }
}

/// Amount and currency that our ledger should have for it.
fn booked(m: &Movement) -> (i64, &str) {
    m.presentment.as_ref().map_or((m.amount, &m.currency), |(amount, currency)| (*amount, currency))
}

impl<'a> Findings<'a> {
    /// Compares what both sides have for one source; if that differs, kind by kind. A correction of ours belongs to all kinds.
    fn look(&mut self, source: &'a str, group: &Group<'a>, through: i64) {
        let (theirs, ours) =
            (sums(group.movements.iter().map(|m| booked(m))), sums(group.entries.iter().map(|e| (e.amount, &*e.currency))));
        if theirs == ours {
            return;
        }
        let kinds: BTreeSet<&str> = group.movements.iter().map(|m| &*m.kind).chain(group.entries.iter().map(|e| &*e.kind)).collect();
        let mut both = false;
        for kind in kinds {
            let movements: Vec<_> = group.movements.iter().filter(|m| m.kind == kind).collect();
            let entries: Vec<_> = group.entries.iter().filter(|e| e.kind == kind).collect();
            if entries.is_empty() {
                for m in movements.iter().filter(|m| m.created >= through) {
                    let (amount, currency) = booked(m);
                    add(&mut self.missing_in_ledger, currency, amount);
                    self.keep(Some(m.created));
                }
            } else if movements.is_empty() && kind != "adjustment" {
                for e in entries.iter().filter(|e| e.at >= through) {
                    add(&mut self.missing_provider, &e.currency, -e.amount);
                    self.keep(Some(e.at));
                }
            } else if movements.is_empty() {
                // A correction that does not make the sides equal.
                let late = entries.iter().map(|e| e.at).filter(|at| *at >= through).min();
                both |= late.is_some();
                self.keep(late);
            } else {
                let equal = sums(movements.iter().map(|m| booked(m))) == sums(entries.iter().map(|e| (e.amount, &*e.currency)));
                let moment = movements.iter().map(|m| m.created).min().filter(|at| !equal && *at >= through);
                both |= moment.is_some();
                self.keep(moment);
            }
        }
        if both {
            let currencies: BTreeSet<_> = theirs.keys().chain(ours.keys()).cloned().collect();
            for c in currencies {
                let (ours, theirs) = (ours.get(&c).copied().unwrap_or(0), theirs.get(&c).copied().unwrap_or(0));
                if ours != theirs {
                    self.differing.entry(c).or_default().push((source, ours, theirs));
                }
            }
        }
    }

    fn keep(&mut self, at: Option<i64>) {
        self.oldest = self.oldest.into_iter().chain(at).min();
    }
}

fn sums<'a>(amounts: impl Iterator<Item = (i64, &'a str)>) -> Sums {
    let mut sums = Sums::new();
    amounts.for_each(|(amount, currency)| add(&mut sums, currency, amount));
    sums.retain(|_, amount| *amount != 0);
    sums
}

fn add(sums: &mut Sums, currency: &str, amount: i64) {
    *sums.entry(currency.to_owned()).or_default() += amount;
}

fn unique(movements: &[Movement]) -> Vec<&Movement> {
    super::book::unique(movements, |m| &m.id).into_values().collect()
}

/// The anchor moves past the last row before the window, but never past one that is not settled. Where nothing happened it stays, so that
/// the same data looked at a second later are the same input.
fn next(input: &Input, movements: &[&Movement], oldest: Option<i64>) -> Anchor {
    let mut next = input.anchor.clone();
    let end = input.window_from.min(oldest.unwrap_or(i64::MAX));
    let rows = movements.iter().map(|m| m.created).chain(input.ledger.iter().map(|e| e.at));
    next.through = rows.filter(|at| *at < end).max().map_or(next.through, |last| next.through.max(last + 1));
    for m in movements.iter().filter(|m| (input.anchor.through..next.through).contains(&m.created)) {
        add(&mut next.fees, &m.currency, -fee(m));
        if let Some((shown, currency)) = &m.presentment {
            add(&mut next.converted, &m.currency, m.amount);
            add(&mut next.converted, currency, -shown);
        }
    }
    next
}

fn identities(input: &Input, found: &Findings<'_>) -> (Vec<Balance>, Vec<Exception>) {
    let mut ledger = input.ledger_before.clone();
    for e in input.ledger.iter().filter(|e| e.at >= input.anchor.since) {
        add(&mut ledger, &e.currency, e.amount);
    }
    let of = |sums: &Sums, currency: &str| sums.get(currency).copied().unwrap_or(0);
    let anchor = &input.anchor;
    let all = [&input.balances, &ledger, &anchor.opening, &anchor.fees, &found.fees, &input.in_transit, &found.missing_in_ledger];
    let currencies: BTreeSet<&String> = all.iter().flat_map(|sums| sums.keys()).collect();
    let (mut balances, mut exceptions) = (Vec::new(), Vec::new());
    for c in currencies {
        let items: Vec<Item> = [
            ("opening", of(&anchor.opening, c)),
            ("fees", of(&anchor.fees, c) + of(&found.fees, c)),
            ("missing_in_ledger", of(&found.missing_in_ledger, c)),
            ("missing_provider", of(&found.missing_provider, c)),
            ("converted", of(&anchor.converted, c) + of(&found.converted, c)),
        ]
        .into_iter()
        .filter(|(_, amount)| *amount != 0)
        .map(|(name, amount)| Item { name, amount })
        .collect();
        let (provider, ours) = (of(&input.balances, c), of(&ledger, c));
        let explained: i64 = items.iter().map(|item| item.amount).sum();
        let drift = provider - ours - explained;
        let in_transit = of(&input.in_transit, c);
        balances.push(Balance {
            currency: c.clone(),
            exponent: money::exponent(c),
            provider,
            ledger: ours,
            difference: provider - ours,
            items,
            drift: input.complete.then_some(drift),
            in_transit,
        });
        if input.complete && drift != 0 {
            exceptions.push(drifted(c, ours + explained, provider, found.differing.get(c).map_or(&[], Vec::as_slice)));
        }
    }
    (balances, exceptions)
}

fn drifted(currency: &str, expected: i64, actual: i64, rows: &[(&str, i64, i64)]) -> Exception {
    let show = |amount| money::display(amount, currency);
    let drift = actual - expected;
    let cause = match rows {
        [] => "no row explains it".to_owned(),
        [(source, ours, theirs)] => format!("{source} is {} in our ledger and {} at the provider", show(*ours), show(*theirs)),
        rows => format!("{} rows differ in their amounts", rows.len()),
    };
    let explanation = format!(
        "The provider's balance is {}; our ledger with everything known besides comes to {}. It is off by {}: {cause}.",
        show(actual),
        show(expected),
        show(drift)
    );
    let action = if rows.is_empty() {
        "Compare the provider's balance report with the ledger day by day; nothing that was read accounts for the difference."
    } else {
        "Look at the rows named; book a correction for what the provider has right."
    };
    let mut exception = Exception::new(ExceptionKind::BalanceDrift, None, None, currency, drift).says(explanation, action);
    exception = exception.amounts(expected, actual);
    for (source, ours, theirs) in rows.iter().take(EVIDENCE) {
        exception.evidence.push(Evidence { field: (*source).to_owned(), ledger: (*ours).into(), provider: (*theirs).into() });
    }
    if !rows.is_empty() && rows.iter().map(|(_, ours, theirs)| theirs - ours).sum::<i64>() == drift {
        let reason = format!("the differences of {} rows add up to {}", rows.len(), show(drift));
        exception.suspects.push(Suspect { balance_transaction_ids: Vec::new(), reason });
    }
    exception
}
