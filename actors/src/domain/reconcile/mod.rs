//! Payout reconciliation: does every payout equal its balance transactions, and does our ledger agree with each of them. Called by
//! the recon actor and by the offline command with everything already read. Pure: the report depends on the input alone, not on its
//! order; nothing is matched fuzzily, nothing is resolved by itself, and amounts of different currencies are never added.

mod book;
mod chains;
mod digest;
mod explain;
mod input;
mod join;
mod lines;
mod payouts;
mod report;
mod rows;
mod sides;
mod suspects;
mod texts;

pub use digest::{Digests, RowDigest};
pub use input::{Input, LedgerLine, LedgerView, Payout, ProviderInfo, Transaction, TransactionView};
pub use lines::{ledger_line, transaction_line};
pub use report::{
    Category, Evidence, Exception, ExceptionCounts, ExceptionKind, PayoutRow, PayoutStatus, Report, RowStatus, Severity, Summary, Suspect,
    Total, Unsettled, Window,
};
pub(in crate::domain) use report::{exception_id, hex};

pub use rows::{JudgedRow, rows};
pub use sides::{Settings, Sides};

use book::Book;
use std::collections::{BTreeMap, HashMap, HashSet};

/// The report file's schema name.
pub const SCHEMA: &str = "echopilot.payout_recon/1";

/// Reconciles both sides. `ts`, `run_id` and `generated_at` of the report are left for the caller.
pub fn reconcile(input: &Input) -> Report {
    let (mut sides, settings) = (Sides::of(input), Settings::from(input));
    let digests = sides.take_digests();
    judge(&sides, &settings).identified(&digests.finish(&settings))
}

/// Reconciles both sides that are already in their place; `Report::identified` has still to be called.
pub fn judge(sides: &Sides, settings: &Settings) -> Report {
    let mut book = Book::new(sides);
    let joined = join::join(settings, &mut book);
    let judged = payouts::judge(settings, &book, &joined.exceptions);
    let mut exceptions = joined.exceptions;
    exceptions.extend(judged.exceptions);
    exceptions.sort_unstable_by(|a, b| (a.severity, a.kind, &a.id, &a.explanation).cmp(&(b.severity, b.kind, &b.id, &b.explanation)));
    let mut payouts = judged.rows;
    name_exceptions(&mut payouts, &exceptions);
    let mut errors = settings.errors.clone();
    errors.sort_unstable();
    let summary = summarise(settings, &book, &payouts, &joined.ledger_only, &exceptions);
    Report {
        ok: summary.ok,
        ts: None,
        run_id: None,
        schema: SCHEMA,
        recon_id: String::new(),
        input_digest: String::new(),
        generated_at: None,
        complete: settings.complete,
        errors,
        provider: settings.provider.clone(),
        window: Window {
            from: if settings.window_from > 0 { rfc3339(settings.window_from) } else { None },
            to: rfc3339(settings.now),
            grace_days: settings.grace_days,
        },
        summary,
        totals: judged.totals.into_values().collect(),
        payouts,
        unsettled: unsettled(&book),
        exceptions,
    }
}

fn rfc3339(at: i64) -> Option<String> {
    Some(chrono::DateTime::from_timestamp(at, 0)?.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
}

fn name_exceptions(payouts: &mut [PayoutRow], exceptions: &[Exception]) {
    let mut by_payout: HashMap<&str, Vec<String>> = HashMap::new();
    for exception in exceptions {
        if let Some(payout) = &exception.payout_id {
            by_payout.entry(payout).or_default().push(exception.id.clone());
        }
    }
    for payout in payouts {
        payout.exceptions = by_payout.remove(payout.id.as_str()).unwrap_or_default();
    }
}

fn summarise(
    settings: &Settings,
    book: &Book<'_>,
    payouts: &[PayoutRow],
    ledger_only: &BTreeMap<RowStatus, u64>,
    exceptions: &[Exception],
) -> Summary {
    let mut summary = Summary { total: payouts.len() as u64, ..Summary::default() };
    summary.payouts = PayoutStatus::ALL.iter().map(|status| (status.as_str(), 0)).collect();
    summary.exceptions.by_severity = [Severity::High, Severity::Medium, Severity::Low].map(|severity| (severity, 0)).into();
    let mut counts = [0; RowStatus::ALL.len()];
    let (mut unknown, mut unmatched) = (HashSet::new(), HashSet::new());
    for row in &book.rows {
        counts[row.status as usize] += 1;
        let missing = row.status == RowStatus::MissingInLedger;
        match row.payout {
            Some(payout) if missing => _ = unknown.insert(payout),
            None if missing => summary.unsettled_missing += 1,
            _ => {}
        }
        if let (Some(payout), false) = (row.payout, matches!(row.status, RowStatus::Matched | RowStatus::FeeBooked)) {
            unmatched.insert(book.payouts[payout as usize].id.as_str());
        }
    }
    summary.transactions = RowStatus::ALL.iter().map(|status| (status.as_str(), counts[*status as usize])).collect();
    for (status, count) in ledger_only {
        *summary.transactions.entry(status.as_str()).or_default() += count;
    }
    let known: HashSet<&str> = book.payouts.iter().map(|payout| payout.id.as_str()).collect();
    let mut differing = HashSet::new();
    for exception in exceptions {
        summary.exceptions.open += 1;
        *summary.exceptions.by_severity.entry(exception.severity).or_default() += 1;
        if matches!(exception.kind, ExceptionKind::AmountMismatch | ExceptionKind::CurrencyMismatch | ExceptionKind::UnbalancedPayout) {
            differing.extend(exception.payout_id.as_deref().filter(|id| known.contains(id)));
        }
    }
    for payout in payouts {
        *summary.payouts.entry(payout.status.as_str()).or_default() += 1;
        let clean = !unmatched.contains(payout.id.as_str()) && !differing.contains(payout.id.as_str());
        summary.matched += u64::from(payout.status == PayoutStatus::Balanced && clean);
    }
    summary.amount_mismatch = differing.len() as u64;
    summary.missing_in_ledger = unknown.len() as u64 + summary.unsettled_missing;
    summary.payouts.insert("total", summary.total);
    summary.transactions.insert("total", book.rows.len() as u64 + ledger_only.values().sum::<u64>());
    summary.ok = settings.complete && exceptions.iter().all(|exception| exception.severity == Severity::Low);
    summary
}

fn unsettled(book: &Book<'_>) -> Vec<Unsettled> {
    let mut by_currency: BTreeMap<&str, Unsettled> = BTreeMap::new();
    for tx in book.rows.iter().filter(|row| row.payout.is_none()).map(|row| book.tx(row)) {
        let currency = book.sides.text(tx.currency);
        let entry = by_currency.entry(currency).or_insert_with(|| Unsettled {
            currency: currency.to_owned(),
            count: 0,
            net: 0,
            oldest_created: tx.created,
            next_available_on: tx.available_on,
        });
        entry.count += 1;
        entry.net += tx.net;
        entry.oldest_created = entry.oldest_created.min(tx.created);
        entry.next_available_on = entry.next_available_on.min(tx.available_on);
    }
    by_currency.into_values().collect()
}

#[cfg(test)]
mod faults_tests;
#[cfg(test)]
mod tests;
