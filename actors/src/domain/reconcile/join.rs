//! Joins balance transactions with ledger rows on (kind, source), by hash map and on integers only, and gives every row of either
//! side exactly one status. Used by `reconcile` only; never matches by amount or date alone.

use super::{
    book::{Book, Class, Row},
    explain,
    input::{Input, LedgerLine},
    report::{Exception, RowStatus},
};
use crate::domain::ledger::Kind;
use std::collections::{BTreeMap, HashMap, HashSet};

/// What the join found, besides the statuses it wrote into the rows.
#[derive(Debug, Default)]
pub(super) struct Joined {
    pub exceptions: Vec<Exception>,
    /// Ledger rows without a balance transaction, by status.
    pub ledger_only: BTreeMap<RowStatus, u64>,
}

type Key<'a> = (&'a str, &'a str);
/// Ledger rows of one key by `seq`; more than one row in a slot is a duplicate.
type Slots<'a> = BTreeMap<i64, Vec<&'a LedgerLine>>;

/// More rows than this with one key are paired in order, without looking for equal amounts first.
const PAIRING_LIMIT: usize = 64;

pub(super) fn join<'a>(input: &'a Input, book: &mut Book<'a>) -> Joined {
    let mut out = Joined::default();
    let (mut ledger, corrections) = index(&input.ledger);
    let mut groups: HashMap<(Kind, &'a str), Vec<usize>> = HashMap::with_capacity(book.rows.len());
    for at in 0..book.rows.len() {
        let source = book.rows[at].tx.source.as_deref();
        match (book.rows[at].class, source) {
            (Class::Ledger(kind), Some(source)) => groups.entry((kind, source)).or_default().push(at),
            (Class::PartialCaptureReversal, Some(source)) => groups.entry((Kind::Charge, source)).or_default().push(at),
            _ => alone(book, at, &mut ledger, &mut out),
        }
    }
    for ((kind, source), members) in groups {
        let slots = ledger.remove(&(kind.as_str(), source)).unwrap_or_default();
        let correction = corrections.get(source).copied().unwrap_or(0);
        group(book, &members, slots, correction, input, &mut out);
    }
    for lines in ledger.into_values().flat_map(BTreeMap::into_values) {
        ledger_only(book, &lines, input, &mut out);
    }
    out
}

/// Ledger rows by key, and the sum of corrections by the source they correct: an adjustment with the source of another row has no
/// balance transaction of its own.
fn index(lines: &[LedgerLine]) -> (HashMap<Key<'_>, Slots<'_>>, HashMap<&str, i64>) {
    let adjusts = |line: &LedgerLine| line.kind == Kind::Adjustment.as_str();
    let sources: HashSet<&str> = lines.iter().filter(|line| !adjusts(line)).map(|line| line.source.as_str()).collect();
    let mut ledger: HashMap<Key<'_>, Slots<'_>> = HashMap::with_capacity(lines.len());
    let mut corrections: HashMap<&str, i64> = HashMap::new();
    for line in lines {
        if adjusts(line) && sources.contains(line.source.as_str()) {
            *corrections.entry(&line.source).or_default() += line.amount;
        } else {
            ledger.entry((&line.kind, &line.source)).or_default().entry(line.seq).or_default().push(line);
        }
    }
    for lines in ledger.values_mut().flat_map(BTreeMap::values_mut) {
        lines.sort_unstable();
    }
    (ledger, corrections)
}

/// A row that no group of ledger rows is looked up for: costs, payouts, unknown categories, rows without a source.
fn alone<'a>(book: &mut Book<'a>, at: usize, ledger: &mut HashMap<Key<'a>, Slots<'a>>, out: &mut Joined) {
    let row = &book.rows[at];
    let source = row.tx.source.as_deref();
    let mut known = |kind: Kind, source: Option<&'a str>| source.is_some_and(|source| ledger.remove(&(kind.as_str(), source)).is_some());
    let status = match row.class {
        Class::Fee => {
            let _ = known(Kind::Fee, source) || known(Kind::Fee, Some(&row.tx.id));
            RowStatus::FeeBooked
        }
        Class::Payout(kind) if source.is_some_and(|id| book.payouts.contains_key(id)) || known(kind, source) => row.settled(),
        Class::Unknown if known(Kind::Adjustment, source) => row.settled(),
        Class::Unknown => RowStatus::Unclassified,
        _ => RowStatus::MissingInLedger,
    };
    let amount = book.rows[at].tx.amount;
    conclude(&mut book.rows[at], status, &[], amount, out);
}

/// All rows and ledger rows of one (kind, source). A partial capture's reversal lowers the first charge; it has that row's status.
fn group(book: &mut Book<'_>, members: &[usize], slots: Slots<'_>, correction: i64, input: &Input, out: &mut Joined) {
    let (folds, mains): (Vec<usize>, Vec<usize>) = members.iter().partition(|at| book.rows[**at].class == Class::PartialCaptureReversal);
    let folded: i64 = folds.iter().map(|at| book.rows[*at].tx.amount).sum();
    let amount = |book: &Book<'_>, at: usize| book.rows[at].tx.amount + if mains.first() == Some(&at) { folded } else { 0 };
    let mut open: Vec<usize> = mains.clone();
    let mut left: Vec<Vec<&LedgerLine>> = slots.into_values().collect();
    let known = !left.is_empty();
    let mut pairs: Vec<(usize, Vec<&LedgerLine>)> = Vec::with_capacity(open.len());
    if (2..=PAIRING_LIMIT).contains(&open.len().max(left.len())) {
        // Equal amounts first, so that a disagreement is reported for the row that has it.
        left.retain(|lines| {
            let same = |at: &usize| amount(book, *at) == lines[0].amount && book.rows[*at].tx.currency == lines[0].currency;
            open.iter().position(same).map(|position| pairs.push((open.remove(position), lines.clone()))).is_none()
        });
    }
    let in_order = open.len().min(left.len());
    pairs.extend(open.drain(..in_order).zip(left.drain(..in_order)));
    for (at, lines) in pairs {
        let effective = amount(book, at);
        let status = judge(&book.rows[at], &lines, effective, correction);
        conclude(&mut book.rows[at], status, &lines, effective, out);
    }
    for at in open {
        let effective = amount(book, at);
        conclude(&mut book.rows[at], RowStatus::MissingInLedger, &[], effective, out);
    }
    for at in folds {
        let status = match mains.first().map(|main| book.rows[*main].status) {
            Some(RowStatus::Matched | RowStatus::MatchedPendingPayout) => book.rows[at].settled(),
            None if known => book.rows[at].settled(),
            None => RowStatus::MissingInLedger,
            Some(other) => other,
        };
        if mains.is_empty() {
            let amount = book.rows[at].tx.amount;
            conclude(&mut book.rows[at], status, &[], amount, out);
        } else {
            book.rows[at].status = status;
        }
    }
    if mains.is_empty() {
        // The charge itself is older than what was read; its ledger row is accounted for.
        left.clear();
    }
    for lines in left {
        ledger_only(book, &lines, input, out);
    }
}

/// The first that applies: a duplicate in the ledger, another currency, another amount, or nothing wrong.
fn judge(row: &Row<'_>, lines: &[&LedgerLine], effective: i64, correction: i64) -> RowStatus {
    let line = lines[0];
    match provider_side(row, line, effective) {
        _ if lines.len() > 1 => RowStatus::DuplicateLocal,
        None => RowStatus::CurrencyMismatch,
        Some(actual) if actual != line.amount && actual != line.amount + correction => RowStatus::AmountMismatch,
        Some(_) => row.settled(),
    }
}

/// The row's amount in the ledger row's currency: as settled, or for a converted row as the customer saw it.
fn provider_side(row: &Row<'_>, line: &LedgerLine, effective: i64) -> Option<i64> {
    if row.tx.currency == line.currency {
        return Some(effective);
    }
    let (amount, _) = row.tx.presentment.as_ref().filter(|(_, currency)| *currency == line.currency)?;
    Some(amount * row.tx.amount.signum())
}

/// Writes a row's status and reports it if it is an exception; a row about which the provider contradicts itself is that before
/// all else.
fn conclude(row: &mut Row<'_>, status: RowStatus, lines: &[&LedgerLine], effective: i64, out: &mut Joined) {
    row.status = if row.conflicts.is_empty() { status } else { RowStatus::ProviderInconsistent };
    let actual = lines.first().and_then(|line| provider_side(row, line, effective)).unwrap_or(effective);
    out.exceptions.extend(explain::row(row, lines, actual));
}

/// A slot of the ledger that no balance transaction belongs to: a payout's row has the payout as its counterpart; others are young,
/// outside the window, or missing at the provider.
fn ledger_only(book: &Book<'_>, lines: &[&LedgerLine], input: &Input, out: &mut Joined) {
    let line = lines[0];
    let sign = match Kind::parse(&line.kind) {
        Some(Kind::Payout) => -1,
        Some(Kind::PayoutReversal) => 1,
        _ => 0,
    };
    if let (true, Some(payout)) = (sign != 0, book.payouts.get(line.source.as_str())) {
        out.exceptions.extend(explain::payout_line(lines, payout, sign * payout.amount));
        return;
    }
    if line.at < input.window_from {
        return;
    }
    let young = input.now - line.at < input.grace_days * 86_400;
    let status = match lines.len() {
        1 if young || !input.complete => RowStatus::PendingProvider,
        1 => RowStatus::MissingProvider,
        _ => RowStatus::DuplicateLocal,
    };
    *out.ledger_only.entry(status).or_default() += 1;
    out.exceptions.extend(explain::ledger_row(status, lines, input));
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
