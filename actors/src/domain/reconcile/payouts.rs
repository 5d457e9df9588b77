//! Judges every payout: does it equal its balance transactions, did it arrive, did a failed one come back. Used by `reconcile` only,
//! after the rows have their statuses.

use super::{
    book::{Book, Class, Row},
    input::Payout,
    report::{Category, Exception, ExceptionKind, PayoutRow, PayoutStatus, RowStatus, Total},
    sides::Settings,
    suspects::{Residual, Suspects},
    texts::Name,
};
use crate::domain::{ledger::Kind, money::display};
use hashbrown::HashSet;
use serde_json::Value;
use std::collections::BTreeMap;

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

pub(super) fn judge(settings: &Settings, book: &Book<'_>, of_rows: &[Exception]) -> Judged {
    let (chains, mut out) = (book.members(), Judged::default());
    let unread: HashSet<&str> = settings.unread.iter().map(String::as_str).collect();
    let mut off = Vec::new();
    for place in 0..book.payouts.len() {
        let mut members: Vec<&Row> = chains.of(place).map(|at| &book.rows[at as usize]).collect();
        members.reverse();
        off.extend(one(settings, book, place, &members, &unread, &mut out));
    }
    let suspects = Suspects::new(book, of_rows, off.iter().map(|(_, residual)| residual));
    for (mut exception, residual) in off {
        let payout = book.payouts[residual.place];
        exception.suspects = suspects.of(&residual, chains.of(residual.place).map(|at| &book.rows[at as usize]));
        exception.payout_id = Some(payout.id.clone());
        out.exceptions.push(exception.finish(Some(payout)));
    }
    out
}

/// Judges one payout; what does not add up is answered, to be explained when all of that is known.
fn one(
    settings: &Settings,
    book: &Book<'_>,
    place: usize,
    members: &[&Row],
    unread: &HashSet<&str>,
    out: &mut Judged,
) -> Option<(Exception, Residual)> {
    let (payout, currency) = (book.payouts[place], book.currencies[place]);
    let (own, foreign): (Vec<&Row>, Vec<&Row>) = members.iter().partition(|row| book.tx(row).currency == currency);
    let net = |rows: &[&Row]| rows.iter().map(|row| book.tx(row).net).sum::<i64>();
    let sum_net = net(&own);
    let read = !unread.contains(payout.id.as_str()) && (settings.complete || !members.is_empty());
    let residual = itemised(payout, members.len(), read).then_some(payout.amount - sum_net);
    let mut found: Vec<Exception> = Vec::new();
    if book.torn.contains(&super::chains::small(place)) {
        found.push(Exception::new(
            ExceptionKind::ProviderInconsistent,
            &payout.currency,
            format!("The provider gave two different versions of payout {}.", payout.id),
            "Fetch the payout again; if it stays so, ask the provider.",
        ));
    }
    if foreign.iter().any(|row| row.status != RowStatus::CurrencyMismatch) {
        found.push(other_currency(book, payout, &foreign));
    }
    // A row with only its currency wrong is reported once, not again as a residual of the same amount.
    let relabelled = !foreign.is_empty() && residual == Some(net(&foreign));
    let off = residual.filter(|residual| *residual != 0 && !relabelled);
    let unbalanced = off.map(|residual| {
        let exception = unbalanced(payout, sum_net, residual, members.len());
        (exception, Residual { place, currency, amount: residual })
    });
    let status = state(settings, book, place, residual, residual.is_some_and(|r| r != 0) || !foreign.is_empty());
    found.extend(late(settings, book, place));
    out.exceptions.extend(found.into_iter().map(|mut exception| {
        exception.payout_id = Some(payout.id.clone());
        exception.finish(Some(payout))
    }));
    if let Some(residual) = residual {
        let total = out.totals.entry(payout.currency.clone()).or_insert_with(|| Total::new(&payout.currency));
        add(total, book, payout, &own, residual);
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
        by_category: by_category(book, &own),
        exceptions: Vec::new(),
    });
    unbalanced
}

fn has_failed(payout: &Payout) -> bool {
    matches!(payout.status.as_str(), "failed" | "canceled")
}

/// Whether the rows that make up the payout are there to be added up.
fn itemised(payout: &Payout, items: usize, read: bool) -> bool {
    let listed = match payout.reconciliation_status.as_deref() {
        Some(status) => status == "completed",
        None => payout.automatic && (items > 0 || payout.status == "paid"),
    };
    listed && read && !(items == 0 && has_failed(payout))
}

/// What is late about a payout, if something is.
fn lateness(settings: &Settings, book: &Book<'_>, place: usize) -> Option<PayoutStatus> {
    let (payout, now) = (book.payouts[place], settings.now);
    let on_its_way = matches!(payout.status.as_str(), "pending" | "in_transit");
    if has_failed(payout) {
        let late = settings.complete && now - payout.created.max(payout.arrival_date) > REVERSAL_WITHIN_S;
        (late && !came_back(book, place)).then_some(PayoutStatus::MissingReversal)
    } else if on_its_way && now > business_days_after(payout.arrival_date, OVERDUE_AFTER_BUSINESS_DAYS) {
        Some(PayoutStatus::Overdue)
    } else if payout.reconciliation_status.as_deref() == Some("in_progress") && now > payout.created + STALE_AFTER_S {
        Some(PayoutStatus::StaleReconciliation)
    } else {
        None
    }
}

/// The payout's state. Money that has not come back is worse than a sum that is off, and that is worse than being late.
fn state(settings: &Settings, book: &Book<'_>, place: usize, residual: Option<i64>, off: bool) -> PayoutStatus {
    let payout = book.payouts[place];
    let recon = payout.reconciliation_status.as_deref();
    match lateness(settings, book, place) {
        Some(PayoutStatus::MissingReversal) => PayoutStatus::MissingReversal,
        _ if off => PayoutStatus::Unbalanced,
        Some(late) => late,
        None if has_failed(payout) && came_back(book, place) => PayoutStatus::FailedReversed,
        None if has_failed(payout) => PayoutStatus::Pending,
        None if recon == Some("not_applicable") || (recon.is_none() && !payout.automatic) => PayoutStatus::NotItemizable,
        None => match (payout.status.as_str(), residual) {
            ("in_transit", _) => PayoutStatus::InTransit,
            ("pending", _) | (_, None) => PayoutStatus::Pending,
            _ => PayoutStatus::Balanced,
        },
    }
}

/// The exception of a payout that is late: also of one whose sum is off.
fn late(settings: &Settings, book: &Book<'_>, place: usize) -> Option<Exception> {
    let payout = book.payouts[place];
    match lateness(settings, book, place)? {
        PayoutStatus::MissingReversal => Some(missing_reversal(payout)),
        PayoutStatus::Overdue => Some(overdue(payout)),
        _ => Some(stale(payout)),
    }
}

fn came_back(book: &Book<'_>, place: usize) -> bool {
    let by_id = book.backs[place].and_then(|id| book.returned.get(&id));
    by_id.or_else(|| book.returned.get(&book.payout_names[place])) == Some(&book.payouts[place].amount)
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

fn other_currency(book: &Book<'_>, payout: &Payout, foreign: &[&Row]) -> Exception {
    let mut ids: Vec<&str> = foreign.iter().map(|row| book.sides.text(book.tx(row).id)).collect();
    ids.sort_unstable();
    ids.truncate(EVIDENCE_LIMIT);
    let mut currencies: Vec<&str> = foreign.iter().map(|row| book.sides.text(book.tx(row).currency)).collect();
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

fn by_category(book: &Book<'_>, rows: &[&Row]) -> Vec<Category> {
    let mut categories: Vec<(Name, Category)> = Vec::new();
    for tx in rows.iter().map(|row| book.tx(row)) {
        let at = categories.iter().position(|(name, _)| *name == tx.category).unwrap_or_else(|| {
            let reporting_category = book.sides.text(tx.category).to_owned();
            categories.push((tx.category, Category { reporting_category, ..Category::default() }));
            categories.len() - 1
        });
        let category = &mut categories[at].1;
        category.count += 1;
        category.gross += tx.amount;
        category.fee += tx.fee;
        category.net += tx.net;
    }
    let mut categories: Vec<Category> = categories.into_iter().map(|(_, category)| category).collect();
    categories.sort_unstable_by(|a, b| a.reporting_category.cmp(&b.reporting_category));
    categories
}

fn add(total: &mut Total, book: &Book<'_>, payout: &Payout, rows: &[&Row], residual: i64) {
    total.payout_amount += payout.amount;
    total.unexplained += residual;
    for row in rows {
        let tx = book.tx(row);
        total.net += tx.net;
        total.fees -= tx.fee;
        // Nothing for a consistent row; keeps the sum of the parts equal to the net for one that is not.
        total.other += tx.net - (tx.amount - tx.fee);
        let part = match row.class {
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
