//! Judges every payout: does it equal its balance transactions, did it arrive, did a failed one come back. Used by `reconcile` only,
//! after the rows have their statuses.

use super::{
    book::{Book, Class, Row},
    input::{Input, Payout},
    report::{Category, Exception, ExceptionKind, PayoutRow, PayoutStatus, RowStatus, Total},
    suspects::Suspects,
};
use crate::domain::{ledger::Kind, money::display};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

const DAY_S: i64 = 86_400;
const STALE_AFTER_S: i64 = 3 * DAY_S;
const REVERSAL_WITHIN_S: i64 = 10 * DAY_S;
const OVERDUE_AFTER_BUSINESS_DAYS: u32 = 5;
/// Evidence lists at most so many rows.
const EVIDENCE_LIMIT: usize = 20;

#[derive(Debug, Default)]
pub(super) struct Judged {
    /// Newest first, then by id; their `exceptions` are filled in by the caller.
    pub rows: Vec<PayoutRow>,
    pub exceptions: Vec<Exception>,
    pub totals: BTreeMap<String, Total>,
}

pub(super) fn judge(input: &Input, book: &Book<'_>, of_rows: &[Exception]) -> Judged {
    let mut members: HashMap<&str, Vec<&Row<'_>>> = HashMap::with_capacity(book.payouts.len());
    for row in &book.rows {
        if let Some(payout) = row.payout {
            members.entry(&payout.id).or_default().push(row);
        }
    }
    let mut suspects = Suspects::new(book, of_rows);
    let mut payouts: Vec<&Payout> = book.payouts.values().copied().collect();
    payouts.sort_unstable_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
    let mut out = Judged::default();
    for payout in payouts {
        let members = members.get(payout.id.as_str()).map_or(&[][..], Vec::as_slice);
        one(input, book, payout, members, &mut suspects, &mut out);
    }
    out
}

fn one(input: &Input, book: &Book<'_>, payout: &Payout, members: &[&Row<'_>], suspects: &mut Suspects<'_>, out: &mut Judged) {
    let (own, foreign): (Vec<&Row<'_>>, Vec<&Row<'_>>) = members.iter().partition(|row| row.tx.currency == payout.currency);
    let sum_net: i64 = own.iter().map(|row| row.tx.net).sum();
    let residual = itemised(input, payout, members.len()).then_some(payout.amount - sum_net);
    let mut found: Vec<Exception> = Vec::new();
    if book.torn.contains(payout.id.as_str()) {
        found.push(Exception::new(
            ExceptionKind::ProviderInconsistent,
            &payout.currency,
            format!("The provider gave two different versions of payout {}.", payout.id),
            "Fetch the payout again; if it stays so, ask the provider.",
        ));
    }
    if foreign.iter().any(|row| row.status != RowStatus::CurrencyMismatch) {
        found.push(other_currency(payout, &foreign));
    }
    // A row with only its currency wrong is reported once, not again as a residual of the same amount.
    let relabelled = !foreign.is_empty() && residual == Some(foreign.iter().map(|row| row.tx.net).sum());
    if let Some(residual) = residual.filter(|residual| *residual != 0 && !relabelled) {
        let mut exception = unbalanced(payout, sum_net, residual, members.len());
        exception.suspects = suspects.of(payout, residual, members);
        found.push(exception);
    }
    let off = residual.is_some_and(|residual| residual != 0) || !foreign.is_empty();
    let (status, reason) = state(input, book, payout, residual, off);
    found.extend(reason);
    out.exceptions.extend(found.into_iter().map(|mut exception| {
        exception.payout_id = Some(payout.id.clone());
        exception.finish(Some(payout))
    }));
    if let Some(residual) = residual {
        let total = out.totals.entry(payout.currency.clone()).or_insert_with(|| Total::new(&payout.currency));
        add(total, payout, &own, residual);
    }
    out.rows.push(PayoutRow {
        id: payout.id.clone(),
        status,
        provider_status: payout.status.clone(),
        amount: payout.amount,
        currency: payout.currency.clone(),
        automatic: payout.automatic,
        method: payout.method.clone(),
        created: payout.created,
        arrival_date: payout.arrival_date,
        reconciliation_status: payout.reconciliation_status.clone(),
        trace_id: payout.trace_id.clone(),
        items: members.len() as u64,
        sum_net,
        residual,
        by_category: by_category(&own),
        exceptions: Vec::new(),
    });
}

fn has_failed(payout: &Payout) -> bool {
    matches!(payout.status.as_str(), "failed" | "canceled")
}

/// Whether the rows that make up the payout are there to be added up.
fn itemised(input: &Input, payout: &Payout, items: usize) -> bool {
    let unread = !input.complete && (items == 0 || input.errors.iter().any(|error| error.contains(&payout.id)));
    let listed = match payout.reconciliation_status.as_deref() {
        Some(status) => status == "completed",
        None => payout.automatic && (items > 0 || payout.status == "paid"),
    };
    listed && !unread && !(items == 0 && has_failed(payout))
}

/// The payout's state, with the exception that the state itself is.
fn state(input: &Input, book: &Book<'_>, payout: &Payout, residual: Option<i64>, off: bool) -> (PayoutStatus, Option<Exception>) {
    let on_its_way = matches!(payout.status.as_str(), "pending" | "in_transit");
    let recon = payout.reconciliation_status.as_deref();
    if has_failed(payout) {
        let late = input.complete && input.now - payout.created.max(payout.arrival_date) > REVERSAL_WITHIN_S;
        return match (came_back(book, payout), off) {
            (false, _) if late => (PayoutStatus::MissingReversal, Some(missing_reversal(payout))),
            (_, true) => (PayoutStatus::Unbalanced, None),
            (true, false) => (PayoutStatus::FailedReversed, None),
            (false, false) => (PayoutStatus::Pending, None),
        };
    }
    if off {
        (PayoutStatus::Unbalanced, None)
    } else if on_its_way && input.now > business_days_after(payout.arrival_date, OVERDUE_AFTER_BUSINESS_DAYS) {
        (PayoutStatus::Overdue, Some(overdue(payout)))
    } else if recon == Some("in_progress") && input.now > payout.created + STALE_AFTER_S {
        (PayoutStatus::StaleReconciliation, Some(stale(payout)))
    } else if recon == Some("not_applicable") || (recon.is_none() && !payout.automatic) {
        (PayoutStatus::NotItemizable, None)
    } else {
        match (payout.status.as_str(), residual) {
            ("in_transit", _) => (PayoutStatus::InTransit, None),
            ("pending", _) | (_, None) => (PayoutStatus::Pending, None),
            _ => (PayoutStatus::Balanced, None),
        }
    }
}

fn came_back(book: &Book<'_>, payout: &Payout) -> bool {
    let by_id = payout.failure_balance_transaction.as_deref().and_then(|id| book.returned.get(id));
    by_id.or_else(|| book.returned.get(payout.id.as_str())) == Some(&payout.amount)
}

/// The same time of day, so many days from Monday to Friday later. Bank holidays are not known here.
fn business_days_after(at: i64, days: u32) -> i64 {
    let (mut at, mut left) = (at, days);
    while left > 0 {
        at += DAY_S;
        // 1970-01-01 was a Thursday, so day 2 was a Saturday.
        if !matches!(at.div_euclid(DAY_S).rem_euclid(7), 2 | 3) {
            left -= 1;
        }
    }
    at
}

fn unbalanced(payout: &Payout, sum_net: i64, residual: i64, items: usize) -> Exception {
    let money = |amount| display(amount, &payout.currency);
    Exception::new(
        ExceptionKind::UnbalancedPayout,
        &payout.currency,
        format!(
            "Payout {} is {}, its {items} balance transactions add up to {}: {} is unexplained.",
            payout.id,
            money(payout.amount),
            money(sum_net),
            money(residual)
        ),
        "Check the suspects, if there are any; otherwise ask the provider which item makes up the difference.",
    )
    .amounts(Some(sum_net), Some(payout.amount))
    .evidence("residual", Value::Null, residual)
}

fn other_currency(payout: &Payout, foreign: &[&Row<'_>]) -> Exception {
    let ids: Vec<&str> = foreign.iter().take(EVIDENCE_LIMIT).map(|row| row.tx.id.as_str()).collect();
    let mut currencies: Vec<&str> = foreign.iter().map(|row| row.tx.currency.as_str()).collect();
    currencies.sort_unstable();
    currencies.dedup();
    Exception::new(
        ExceptionKind::CurrencyMismatch,
        &payout.currency,
        format!(
            "Payout {} is in {}, but {} of its balance transactions are in {}.",
            payout.id,
            payout.currency.to_uppercase(),
            foreign.len(),
            currencies.join(", ").to_uppercase()
        ),
        "Check the payout at the provider: a payout has one currency.",
    )
    .evidence("balance_transactions", Value::Null, ids)
}

fn missing_reversal(payout: &Payout) -> Exception {
    let amount = display(payout.amount, &payout.currency);
    Exception::new(
        ExceptionKind::MissingReversal,
        &payout.currency,
        format!("Payout {} over {amount} is {}, and the money has not come back to the balance within 10 days.", payout.id, payout.status),
        "Ask the provider where the money is.",
    )
    .amounts(Some(payout.amount), None)
}

fn overdue(payout: &Payout) -> Exception {
    let amount = display(payout.amount, &payout.currency);
    Exception::new(
        ExceptionKind::OverduePayout,
        &payout.currency,
        format!(
            "Payout {} over {amount} is still {} {OVERDUE_AFTER_BUSINESS_DAYS} business days after its arrival date.",
            payout.id, payout.status
        ),
        "Ask the bank with the payout's trace id, then the provider.",
    )
    .amounts(Some(payout.amount), None)
}

fn stale(payout: &Payout) -> Exception {
    Exception::new(
        ExceptionKind::StaleReconciliation,
        &payout.currency,
        format!("The provider has not finished listing what is in payout {} three days after it was made.", payout.id),
        "Nothing to book; ask the provider if it stays so.",
    )
}

fn by_category(rows: &[&Row<'_>]) -> Vec<Category> {
    let mut categories: BTreeMap<&str, Category> = BTreeMap::new();
    for row in rows {
        let category = categories.entry(row.category()).or_default();
        category.count += 1;
        category.gross += row.tx.amount;
        category.fee += row.tx.fee;
        category.net += row.tx.net;
    }
    categories.into_iter().map(|(name, category)| Category { reporting_category: name.to_owned(), ..category }).collect()
}

fn add(total: &mut Total, payout: &Payout, rows: &[&Row<'_>], residual: i64) {
    total.payout_amount += payout.amount;
    total.unexplained += residual;
    for Row { tx, class, .. } in rows {
        total.net += tx.net;
        total.fees -= tx.fee;
        // Nothing for a consistent row; keeps the sum of the parts equal to the net for one that is not.
        total.other += tx.net - (tx.amount - tx.fee);
        let part = match class {
            Class::Ledger(Kind::Charge) | Class::PartialCaptureReversal => &mut total.gross,
            Class::Ledger(Kind::Refund | Kind::RefundFailure) => &mut total.refunds,
            Class::Ledger(Kind::Dispute | Kind::DisputeReversal) => &mut total.disputes,
            Class::Fee => &mut total.fees,
            _ => &mut total.other,
        };
        *part += tx.amount;
    }
}

#[cfg(test)]
mod tests {
    use super::business_days_after;

    #[test]
    fn weekends_do_not_count_as_business_days() {
        let monday = 4 * 86_400;
        for (from, to) in [(monday, monday + 7), (monday + 4, monday + 11), (monday + 5, monday + 11), (monday + 6, monday + 11)] {
            let days = from - monday;
            let (from, to) = (monday + days * 86_400, monday + (to - monday) * 86_400);
            assert_eq!(business_days_after(from, 5), to);
        }
        assert_eq!(business_days_after(monday + 3600, 1), monday + 86_400 + 3600);
    }
}
