//! Turns a disagreement into an exception record: who says what, the difference, a sentence for a person and what to do about it.
//! Used by `reconcile` only; decides nothing.

use super::{
    input::{LedgerView, Payout, TransactionView},
    report::{Evidence, Exception, ExceptionKind, RowStatus},
};
use crate::domain::money::display;

/// A balance transaction to be explained.
pub(super) struct Subject<'a> {
    pub tx: TransactionView<'a>,
    pub status: RowStatus,
    pub payout: Option<&'a Payout>,
    pub conflicts: &'a [Evidence],
}

/// The exception of a balance transaction, if its status is one. `lines` are its ledger rows, `actual` the provider's amount in the
/// first one's currency.
pub(super) fn row(row: &Subject<'_>, lines: &[LedgerView<'_>], actual: i64) -> Option<Exception> {
    let tx = &row.tx;
    let (source, currency) = (tx.source.as_deref().unwrap_or(&tx.id), tx.currency.as_ref());
    let provider = display(actual, currency);
    let sum: Option<i64> = (!lines.is_empty() && lines.iter().all(|line| line.currency == lines[0].currency))
        .then(|| lines.iter().map(|line| line.amount).sum());
    let ledger = sum.map_or_else(|| "several currencies".to_owned(), |sum| display(sum, &lines[0].currency));
    let mut exception = match row.status {
        RowStatus::MissingInLedger => Exception::new(
            ExceptionKind::MissingInLedger,
            currency,
            format!("The provider booked {provider} for {source} ({}); the ledger does not know it.", tx.category),
            format!("Find the event of {source} that was not received and replay it; the gap finder does this for lost webhooks."),
        )
        .amounts(None, Some(actual)),
        RowStatus::AmountMismatch => Exception::new(
            ExceptionKind::AmountMismatch,
            &lines[0].currency,
            format!("Ledger says {ledger} for {source}, the provider settled {}.", display(actual, &lines[0].currency)),
            format!(
                "Compare the amount of {source} at the provider; book a correction of {}.",
                display(actual - lines[0].amount, &lines[0].currency)
            ),
        )
        .amounts(sum, Some(actual))
        .evidence("amount", lines[0].amount, actual),
        RowStatus::CurrencyMismatch => Exception::new(
            ExceptionKind::CurrencyMismatch,
            currency,
            format!("Ledger says {ledger} for {source}, the provider settled {provider}: the currencies differ."),
            format!("Check the currency of {source} at the provider before booking anything."),
        )
        .evidence("currency", lines[0].currency.as_ref(), currency)
        .evidence("amount", lines[0].amount, actual),
        RowStatus::DuplicateLocal => duplicate(lines, source, sum, Some(actual), currency),
        RowStatus::ProviderInconsistent => Exception::new(
            ExceptionKind::ProviderInconsistent,
            currency,
            format!("The provider contradicts itself about {}: {}.", tx.id, conflict_names(row)),
            "Fetch the balance transaction again; if it stays so, ask the provider.",
        )
        .amounts(sum, Some(actual)),
        RowStatus::Unclassified => Exception::new(
            ExceptionKind::Unclassified,
            currency,
            format!("{} over {provider} has the category {:?}, which EchoPilot does not know.", tx.id, tx.category),
            "Look at it at the provider and book it as an adjustment with this source.",
        )
        .amounts(None, Some(actual)),
        _ => return None,
    };
    exception.evidence.extend(row.conflicts.iter().cloned());
    if row.status == RowStatus::DuplicateLocal && lines[0].currency != currency {
        exception = exception.evidence("currency", lines[0].currency.as_ref(), currency);
    } else if matches!(row.status, RowStatus::DuplicateLocal | RowStatus::ProviderInconsistent)
        && lines.first().is_some_and(|line| line.amount != actual)
    {
        exception = exception.evidence("amount", lines[0].amount, actual);
    }
    exception.balance_transaction_id = Some(tx.id.to_string());
    exception.source_id = tx.source.as_deref().map(str::to_owned);
    exception.payout_id = tx.payout.as_deref().map(str::to_owned);
    exception.ledger_ids = lines.iter().map(|line| line.id.to_string()).collect();
    Some(exception.finish(row.payout))
}

fn conflict_names(row: &Subject<'_>) -> String {
    let mut names: Vec<String> = row.conflicts.iter().map(|c| format!("{} is {} against {}", c.field, c.provider, c.ledger)).collect();
    names.sort_unstable();
    names.join("; ").replace(" against null", "")
}

fn duplicate(lines: &[LedgerView<'_>], source: &str, sum: Option<i64>, actual: Option<i64>, currency: &str) -> Exception {
    let ids: Vec<&str> = lines.iter().take(20).map(|line| line.id.as_ref()).collect();
    let total = sum.map_or_else(String::new, |sum| format!(", together {}", display(sum, &lines[0].currency)));
    let comparable = if lines[0].currency == currency { actual } else { None };
    Exception::new(
        ExceptionKind::DuplicateLocal,
        currency,
        format!("The ledger has {} rows for {} {source}{total}; there is one movement.", lines.len(), lines[0].kind),
        "Keep one row and book a correction for the others.",
    )
    .amounts(sum, comparable)
    .evidence("rows", ids, serde_json::Value::Null)
}

/// The exception of a ledger row without a balance transaction, if its status is one.
pub(super) fn ledger_row(status: RowStatus, lines: &[LedgerView<'_>], now: i64) -> Option<Exception> {
    let line = &lines[0];
    let mut exception = match status {
        RowStatus::MissingProvider => Exception::new(
            ExceptionKind::MissingProvider,
            &line.currency,
            format!(
                "Ledger says {} for {} {} since {} days; the provider has no balance transaction for it.",
                display(line.amount, &line.currency),
                line.kind,
                line.source,
                (now - line.at) / 86_400
            ),
            format!(
                "Look {} up at the provider; if it does not exist, book a correction of {}.",
                line.source,
                display(-line.amount, &line.currency)
            ),
        )
        .amounts(Some(line.amount), None),
        RowStatus::DuplicateLocal => {
            let same = lines.iter().all(|other| other.currency == line.currency);
            let sum = same.then(|| lines.iter().map(|line| line.amount).sum());
            duplicate(lines, &line.source, sum, None, &line.currency)
        }
        _ => return None,
    };
    exception.source_id = Some(line.source.to_string());
    exception.ledger_ids = lines.iter().map(|line| line.id.to_string()).collect();
    Some(exception.finish(None))
}

/// A ledger row of a payout against the payout itself; `actual` is the payout's amount with the row's sign.
pub(super) fn payout_line(lines: &[LedgerView<'_>], payout: &Payout, actual: i64) -> Option<Exception> {
    let line = &lines[0];
    let (ledger, provider) = (display(line.amount, &line.currency), display(actual, &payout.currency));
    let sentence = format!("Ledger says {ledger} for {} {}, the provider says {provider}.", line.kind, payout.id);
    let mut exception =
        if lines.len() > 1 {
            let sum = lines.iter().all(|other| other.currency == line.currency).then(|| lines.iter().map(|line| line.amount).sum());
            duplicate(lines, &payout.id, sum, Some(actual), &payout.currency)
        } else if line.currency != payout.currency {
            Exception::new(ExceptionKind::CurrencyMismatch, &payout.currency, sentence, "Check the payout's currency at the provider.")
                .evidence("currency", line.currency.as_ref(), payout.currency.as_str())
        } else if line.amount != actual {
            let action = format!("Compare the payout's amount; book a correction of {}.", display(actual - line.amount, &line.currency));
            Exception::new(ExceptionKind::AmountMismatch, &payout.currency, sentence, action)
                .amounts(Some(line.amount), Some(actual))
                .evidence("amount", line.amount, actual)
        } else {
            return None;
        };
    exception.source_id = Some(payout.id.clone());
    exception.ledger_ids = lines.iter().map(|line| line.id.to_string()).collect();
    Some(exception.finish(Some(payout)))
}
