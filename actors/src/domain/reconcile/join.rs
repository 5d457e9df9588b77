//! Joins balance transactions with ledger rows on (kind, source), source by source and on integers only, and gives every row of either
//! side exactly one status. Used by `reconcile` only; never matches by amount or date alone.

use super::{
    book::{Book, Class, Row},
    chains::{Chains, small},
    explain::{self, Subject},
    input::LedgerView,
    report::{Exception, RowStatus},
    sides::{Line, Settings, Sides},
    texts::Name,
};
use crate::domain::ledger::Kind;
use hashbrown::{HashMap, HashSet};
use std::collections::BTreeMap;

/// What the join found, besides the statuses it wrote into the rows.
#[derive(Debug, Default)]
pub(super) struct Joined {
    pub exceptions: Vec<Exception>,
    /// Ledger rows without a balance transaction, by status.
    pub ledger_only: BTreeMap<RowStatus, u64>,
}

/// More rows than this with one key are paired in order, without looking for equal amounts first.
const PAIRING_LIMIT: usize = 64;
/// A charge of one of these kinds may take so many days until it is booked.
const BANK_DEBIT_GRACE_DAYS: i64 = 21;
const BANK_DEBITS: [&str; 8] =
    ["ach_debit", "acss_debit", "au_becs_debit", "bacs_debit", "nz_bank_account", "sepa_debit", "us_bank_account", "ach_credit_transfer"];

/// The ledger by source.
struct Ledger<'a> {
    sides: &'a Sides,
    by_source: Chains,
    /// Rows that are spoken for.
    taken: Vec<bool>,
    /// Sums of corrections, by the source they correct.
    corrections: HashMap<Name, i64>,
}

impl<'a> Ledger<'a> {
    fn new(sides: &'a Sides) -> Self {
        let mut by_source = Chains::new(sides.texts.len(), sides.ledger.len());
        sides.ledger.iter().enumerate().for_each(|(at, line)| by_source.push(line.source.index(), small(at)));
        let mut ledger = Self { sides, by_source, taken: vec![false; sides.ledger.len()], corrections: HashMap::new() };
        // An adjustment with the source of another row corrects it and has no balance transaction of its own.
        let adjustment = sides.kind(Kind::Adjustment);
        for (at, line) in sides.ledger.iter().enumerate().filter(|(_, line)| line.kind == adjustment) {
            if ledger.lines(line.source).any(|other| other.kind != adjustment) {
                ledger.taken[at] = true;
                *ledger.corrections.entry(line.source).or_default() += line.amount;
            }
        }
        ledger
    }

    fn line(&self, at: u32) -> &'a Line {
        &self.sides.ledger[at as usize]
    }

    fn lines(&self, source: Name) -> impl Iterator<Item = &'a Line> + '_ {
        self.by_source.of(source.index()).map(|at| self.line(at))
    }

    /// Rows of a source that nothing has been said about.
    fn open(&self, source: Name) -> impl Iterator<Item = u32> + '_ {
        self.by_source.of(source.index()).filter(|at| !self.taken[*at as usize])
    }

    /// Speaks for the rows of this kind and source; false if there are none left.
    fn take(&mut self, kind: Name, source: Name) -> bool {
        let found: Vec<u32> = self.open(source).filter(|at| self.line(*at).kind == kind).collect();
        found.iter().for_each(|at| self.taken[*at as usize] = true);
        !found.is_empty()
    }
}

pub(super) fn join(settings: &Settings, book: &mut Book<'_>) -> Joined {
    let sides = book.sides;
    let (mut out, mut ledger) = (Joined::default(), Ledger::new(sides));
    let mut by_source = Chains::new(sides.texts.len(), book.rows.len());
    let mut alone = Vec::new();
    for (at, row) in book.rows.iter().enumerate() {
        match (row.class, book.tx(row).source) {
            (Class::Ledger(_) | Class::PartialCaptureReversal, Some(source)) => by_source.push(source.index(), small(at)),
            _ => alone.push(at),
        }
    }
    alone.sort_unstable_by(|a, b| book.age(&book.rows[*a]).cmp(&book.age(&book.rows[*b])));
    for at in alone {
        by_itself(book, at, &mut ledger, &mut out);
    }
    let unasked: HashSet<&str> = settings.unasked.iter().map(String::as_str).collect();
    let mut join = Join { settings, unasked, book, out, pairs: Vec::new() };
    for source in sides.texts.names() {
        if by_source.is_empty(source.index()) && ledger.by_source.is_empty(source.index()) {
            continue;
        }
        let rows: Vec<usize> = by_source.of(source.index()).map(|at| at as usize).collect();
        let lines: Vec<u32> = ledger.open(source).collect();
        let correction = ledger.corrections.get(&source).copied().unwrap_or(0);
        join.source(rows, lines, correction);
    }
    join.out
}

/// A row that no group of ledger rows is looked up for: costs, payouts, unknown categories, rows without a source.
fn by_itself(book: &mut Book<'_>, at: usize, ledger: &mut Ledger<'_>, out: &mut Joined) {
    let (sides, row) = (book.sides, book.rows[at]);
    let tx = book.tx(&row);
    let mut known = |kind: Kind, source: Option<Name>| source.is_some_and(|source| ledger.take(sides.kind(kind), source));
    let status = match row.class {
        Class::Fee => {
            let _ = known(Kind::Fee, tx.source) || known(Kind::Fee, Some(tx.id));
            RowStatus::FeeBooked
        }
        Class::Payout(kind) if tx.source.is_some_and(|id| book.payout(id).is_some()) || known(kind, tx.source) => row.settled(),
        Class::Unknown if known(Kind::Adjustment, tx.source) => row.settled(),
        Class::Unknown => RowStatus::Unclassified,
        _ => RowStatus::MissingInLedger,
    };
    conclude(book, at, status, &[], tx.amount, &mut out.exceptions);
}

struct Join<'a, 'b> {
    settings: &'b Settings,
    unasked: HashSet<&'b str>,
    book: &'b mut Book<'a>,
    out: Joined,
    pairs: Vec<(usize, Vec<u32>)>,
}

impl Join<'_, '_> {
    /// All rows and open ledger rows of one source.
    fn source(&mut self, mut rows: Vec<usize>, mut lines: Vec<u32>, correction: i64) {
        if self.ordinary(&rows, &lines) {
            let row = &mut self.book.rows[rows[0]];
            row.status = row.settled();
            return;
        }
        let sides = self.book.sides;
        rows.sort_unstable_by(|a, b| self.book.age(&self.book.rows[*a]).cmp(&self.book.age(&self.book.rows[*b])));
        lines.sort_unstable_by_key(|at| sides.ledger_line(*at));
        let kind_of = |book: &Book<'_>, at: usize| match book.rows[at].class {
            Class::Ledger(kind) => sides.kind(kind),
            _ => sides.kind(Kind::Charge),
        };
        while let Some(kind) = rows.first().map(|at| kind_of(self.book, *at)) {
            let members: Vec<usize> = rows.extract_if(.., |at| kind_of(self.book, *at) == kind).collect();
            let slots = slots(sides, lines.extract_if(.., |at| sides.ledger[*at as usize].kind == kind));
            self.group(&members, slots, correction);
        }
        while let Some(kind) = lines.first().map(|at| sides.ledger[*at as usize].kind) {
            for lines in slots(sides, lines.extract_if(.., |at| sides.ledger[*at as usize].kind == kind)) {
                self.ledger_only(&lines);
            }
        }
    }

    /// One row and one ledger row that agree in everything: nearly all are like this.
    fn ordinary(&self, rows: &[usize], lines: &[u32]) -> bool {
        let ([row], [line]) = (rows, lines) else { return false };
        let (row, line) = (&self.book.rows[*row], &self.book.sides.ledger[*line as usize]);
        let (tx, Class::Ledger(kind)) = (self.book.tx(row), row.class) else { return false };
        self.book.sides.kind(kind) == line.kind
            && tx.amount == line.amount
            && tx.currency == line.currency
            && !self.book.conflicts.contains_key(&tx.id)
    }

    /// All rows and ledger rows of one (kind, source). A partial capture's reversal lowers the first charge; it has that row's status.
    fn group(&mut self, members: &[usize], mut left: Vec<Vec<u32>>, correction: i64) {
        let (sides, book) = (self.book.sides, &mut *self.book);
        let (folds, mains): (Vec<usize>, Vec<usize>) =
            members.iter().partition(|at| book.rows[**at].class == Class::PartialCaptureReversal);
        let folded: i64 = folds.iter().map(|at| book.tx(&book.rows[*at]).amount).sum();
        let amount = |book: &Book<'_>, at: usize| book.tx(&book.rows[at]).amount + if mains.first() == Some(&at) { folded } else { 0 };
        let mut open: Vec<usize> = mains.clone();
        let known = !left.is_empty();
        self.pairs.clear();
        if (2..=PAIRING_LIMIT).contains(&open.len().max(left.len())) {
            // Equal amounts first, so that a disagreement is reported for the row that has it.
            left.retain(|lines| {
                let line = &sides.ledger[lines[0] as usize];
                let same = |at: &usize| amount(book, *at) == line.amount && book.tx(&book.rows[*at]).currency == line.currency;
                open.iter().position(same).map(|position| self.pairs.push((open.remove(position), lines.clone()))).is_none()
            });
        }
        let in_order = open.len().min(left.len());
        self.pairs.extend(open.drain(..in_order).zip(left.drain(..in_order)));
        for (at, lines) in self.pairs.drain(..) {
            let (effective, lines) = (amount(book, at), views(sides, &lines));
            let status = judge(book, at, &lines, effective, correction);
            conclude(book, at, status, &lines, effective, &mut self.out.exceptions);
        }
        for at in open {
            let effective = amount(book, at);
            conclude(book, at, RowStatus::MissingInLedger, &[], effective, &mut self.out.exceptions);
        }
        for at in folds {
            let status = match mains.first().map(|main| book.rows[*main].status) {
                Some(RowStatus::Matched | RowStatus::MatchedPendingPayout) => book.rows[at].settled(),
                None if known => book.rows[at].settled(),
                None => RowStatus::MissingInLedger,
                Some(other) => other,
            };
            let contradicts = book.conflicts.contains_key(&book.tx(&book.rows[at]).id);
            if mains.is_empty() || contradicts {
                let amount = book.tx(&book.rows[at]).amount;
                conclude(book, at, status, &[], amount, &mut self.out.exceptions);
            } else {
                book.rows[at].status = status;
            }
        }
        if !mains.is_empty() {
            // Without it the charge itself is older than what was read, and its ledger row is accounted for.
            left.iter().for_each(|lines| self.ledger_only(lines));
        }
    }

    /// A slot of the ledger that no balance transaction belongs to: a payout's row has the payout as its counterpart; others are young,
    /// outside the window, or missing at the provider.
    fn ledger_only(&mut self, slot: &[u32]) {
        let (settings, source) = (self.settings, self.book.sides.ledger[slot[0] as usize].source);
        let lines = views(self.book.sides, slot);
        let line = &lines[0];
        let sign = match Kind::parse(&line.kind) {
            Some(Kind::Payout) => -1,
            Some(Kind::PayoutReversal) => 1,
            _ => 0,
        };
        if let (true, Some(place)) = (sign != 0, self.book.payout(source)) {
            let payout = self.book.payouts[place as usize];
            self.out.exceptions.extend(explain::payout_line(&lines, payout, sign * payout.amount));
            return;
        }
        if line.at < settings.window_from {
            return;
        }
        let young = settings.now - line.at < grace_days(settings, line) * 86_400;
        let status = match lines.len() {
            1 if young || !settings.complete || self.unasked.contains(line.source.as_ref()) => RowStatus::PendingProvider,
            1 => RowStatus::MissingProvider,
            _ => RowStatus::DuplicateLocal,
        };
        *self.out.ledger_only.entry(status).or_default() += 1;
        self.out.exceptions.extend(explain::ledger_row(status, &lines, settings.now));
    }
}

/// Ledger rows by `seq`, in its order; more than one in a slot is a duplicate.
fn slots(sides: &Sides, lines: impl Iterator<Item = u32>) -> Vec<Vec<u32>> {
    let mut slots: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
    lines.for_each(|at| slots.entry(sides.ledger[at as usize].seq).or_default().push(at));
    slots.into_values().collect()
}

fn views<'a>(sides: &'a Sides, lines: &[u32]) -> Vec<LedgerView<'a>> {
    lines.iter().map(|at| sides.ledger_line(*at)).collect()
}

fn grace_days(settings: &Settings, line: &LedgerView<'_>) -> i64 {
    let bank_debit = line.method.as_deref().is_some_and(|method| BANK_DEBITS.contains(&method));
    if bank_debit { settings.grace_days.max(BANK_DEBIT_GRACE_DAYS) } else { settings.grace_days }
}

/// The first that applies: a duplicate in the ledger, another currency, another amount, or nothing wrong.
fn judge(book: &Book<'_>, at: usize, lines: &[LedgerView<'_>], effective: i64, correction: i64) -> RowStatus {
    let row = &book.rows[at];
    match provider_side(book, row, &lines[0], effective) {
        _ if lines.len() > 1 => RowStatus::DuplicateLocal,
        None => RowStatus::CurrencyMismatch,
        Some(actual) if actual != lines[0].amount && actual != lines[0].amount + correction => RowStatus::AmountMismatch,
        Some(_) => row.settled(),
    }
}

/// The row's amount in the ledger row's currency: as settled, or for a converted row as the customer saw it.
fn provider_side(book: &Book<'_>, row: &Row, line: &LedgerView<'_>, effective: i64) -> Option<i64> {
    let (sides, tx) = (book.sides, book.tx(row));
    if sides.text(tx.currency) == line.currency {
        return Some(effective);
    }
    let (amount, currency) = sides.presentments.get(&row.at)?;
    (sides.text(*currency) == line.currency).then(|| amount * tx.amount.signum())
}

/// Writes a row's status and reports it if it is an exception; a row about which the provider contradicts itself is that before
/// all else.
fn conclude(book: &mut Book<'_>, at: usize, status: RowStatus, lines: &[LedgerView<'_>], effective: i64, out: &mut Vec<Exception>) {
    let row = book.rows[at];
    let conflicts = book.conflicts.get(&book.tx(&row).id).map_or(&[][..], Vec::as_slice);
    let status = if conflicts.is_empty() { status } else { RowStatus::ProviderInconsistent };
    if status != row.settled() && status != RowStatus::FeeBooked {
        let actual = lines.first().and_then(|line| provider_side(book, &row, line, effective)).unwrap_or(effective);
        let payout = row.payout.map(|place| book.payouts[place as usize]);
        out.extend(explain::row(&Subject { tx: book.sides.tx(row.at), status, payout, conflicts }, lines, actual));
    }
    book.rows[at].status = status;
}

#[cfg(test)]
mod tests {
    use super::super::{Input, LedgerLine, Transaction, reconcile};
    use serde_json::json;

    /// (kind, balance transaction) of the exceptions for rows and ledger rows of one charge; each is (id, amount, created).
    fn run(rows: &[(&str, &str, i64, i64)], amounts: &[i64]) -> Vec<(&'static str, String)> {
        let value = |(id, category, amount, created): &(&str, &str, i64, i64)| json!({"id": id, "amount": amount, "currency": "usd", "reporting_category": category, "source": "ch_1", "created": created});
        let transactions = rows.iter().map(|row| Transaction::from_json(&value(row), None).unwrap()).collect();
        let line = |(seq, amount): (i64, &i64)| {
            let value = json!({"id": format!("le_{seq}"), "kind": "charge", "source": "ch_1", "seq": seq, "amount": amount, "currency": "usd", "at": 1});
            LedgerLine::from_json(&value).unwrap()
        };
        let ledger = (0..).zip(amounts).map(line).collect();
        let report = reconcile(&Input { transactions, ledger, now: 100, complete: true, ..Input::default() });
        report.exceptions.iter().map(|e| (e.kind.as_str(), e.balance_transaction_id.clone().unwrap_or_default())).collect()
    }

    #[test]
    fn several_rows_of_one_source_are_paired_by_amount_and_then_by_time() {
        let (early, late) = (("txn_b", "charge", 500, 1), ("txn_a", "charge", 700, 2));
        let one = |kind, id: &str| vec![(kind, id.to_owned())];
        for rows in [[early, late], [late, early]] {
            assert_eq!(run(&rows, &[500, 700]), []);
            assert_eq!(run(&rows, &[700]), one("missing_in_ledger", "txn_b"));
            assert_eq!(run(&rows, &[600, 700]), one("amount_mismatch", "txn_b"));
            assert_eq!(run(&rows, &[600]), [("missing_in_ledger", "txn_a".to_owned()), ("amount_mismatch", "txn_b".to_owned())]);
            assert_eq!(run(&rows, &[500, 700, 900]), one("missing_provider", ""));
        }
    }

    #[test]
    fn a_partial_capture_counts_with_its_reversal() {
        let (charge, reversal) = (("txn_1", "charge", 500, 1), ("txn_2", "partial_capture_reversal", -200, 1));
        assert_eq!(run(&[reversal, charge], &[300]), []);
        assert_eq!(run(&[reversal, charge], &[500]), [("amount_mismatch", "txn_1".to_owned())]);
        assert_eq!(run(&[reversal], &[300]), [], "the charge is older than what was read");
        assert_eq!(run(&[reversal], &[]), [("missing_in_ledger", "txn_2".to_owned())]);
        assert_eq!(run(&[reversal, charge], &[]), [("missing_in_ledger", "txn_1".to_owned())]);
    }
}
