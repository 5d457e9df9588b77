//! Finance reconciliation: is every invoice covered by payments and every payment by the ledger, and does the ledger add up to the provider's
//! balance. Called by the recon actor with everything already read. Pure: the report depends on the input alone, not on its
//! order; nothing is matched fuzzily, nothing is resolved by itself, and amounts of different currencies are never added.

mod balance;
mod book;
mod input;
mod invoices;
mod payments;
mod report;

pub use balance::Anchor;
pub use input::{Charge, Dispute, Entry, Input, Invoice, InvoicePayment, LocalInvoice, Movement, Provider, Refund};
pub use report::{
    Amount, Balance, Counts, Exception, ExceptionKind, InvoiceRow, InvoiceState, Item, PaymentRow, PaymentState, Report, Summary, Total,
    Window,
};

use crate::domain::{money, reconcile::Severity};
use book::Book;
use report::AGES;
use std::collections::{BTreeMap, HashMap};

/// The report file's schema name.
pub const SCHEMA: &str = "echopilot.finance_reconcile/1";

/// Reconciles both sides; answers the report and where the next run measures the balance from (for a complete run only). `ts`, `run_id` and
/// `generated_at` of the report are left for the caller.
pub fn reconcile(input: &Input) -> (Report, Anchor) {
    let book = Book::new(input);
    let balance = balance::judge(input);
    let (mut exceptions, mut summary) = (balance.exceptions, Summary::default());
    summary.invoices = InvoiceState::ALL.iter().map(|state| (state.as_str(), 0)).collect();
    summary.payments = PaymentState::ALL.iter().map(|state| (state.as_str(), 0)).collect();
    let (mut invoices, mut payments) = (Vec::new(), Vec::new());
    for invoice in book.invoices.values() {
        let (state, found) = invoices::judge(input, &book, invoice);
        *summary.invoices.entry(state.as_str()).or_default() += 1;
        if !matches!(state, InvoiceState::Settled | InvoiceState::NothingDue) {
            invoices.push(invoice_row(invoice, state));
        }
        exceptions.extend(found);
    }
    for (charge, state, found) in payments::judge(input, &book) {
        *summary.payments.entry(state.as_str()).or_default() += 1;
        if !matches!(state, PaymentState::Matched | PaymentState::Failed | PaymentState::Trial) {
            payments.push(payment_row(charge, state, book.invoice_of.get(charge.id.as_str()).copied()));
        }
        exceptions.extend(found);
    }
    if input.complete {
        exceptions.extend(gaps(input, &book));
    }
    exceptions.sort_unstable_by(|a, b| (a.severity, a.kind, &a.id).cmp(&(b.severity, b.kind, &b.id)));
    name_exceptions(&mut invoices, &mut payments, &exceptions);
    summary.invoices.insert("total", book.invoices.len() as u64);
    summary.payments.insert("total", book.charges.len() as u64);
    count(&mut summary, &exceptions);
    summary.ok = input.complete && exceptions.iter().all(|e| e.severity == Severity::Low);
    let (digest, totals) = (input.digest(), totals(input, &book));
    let mut errors = input.errors.clone();
    errors.sort_unstable();
    let report = Report {
        ok: summary.ok,
        ts: None,
        run_id: None,
        schema: SCHEMA,
        recon_id: format!("frun_{}", &digest[..16]),
        input_digest: format!("sha256:{digest}"),
        generated_at: None,
        complete: input.complete,
        errors,
        provider: input.provider.clone(),
        window: Window { from: rfc3339(input.window_from), to: rfc3339(input.now), grace_s: input.grace_s },
        summary,
        totals,
        balances: balance.balances,
        invoices,
        payments,
        exceptions,
    };
    (report, balance.next)
}

fn rfc3339(at: i64) -> Option<String> {
    Some(chrono::DateTime::from_timestamp(at, 0)?.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
}

fn invoice_row(i: &Invoice, state: InvoiceState) -> InvoiceRow {
    InvoiceRow {
        id: i.id.clone(),
        number: i.number.clone(),
        state,
        customer: i.customer.clone(),
        currency: i.currency.clone(),
        amount_due: i.amount_due,
        amount_remaining: i.amount_remaining,
        exceptions: Vec::new(),
    }
}

fn payment_row(c: &Charge, state: PaymentState, invoice: Option<&str>) -> PaymentRow {
    PaymentRow {
        id: c.id.clone(),
        state,
        invoice: invoice.map(str::to_owned),
        customer: c.customer.clone(),
        currency: c.currency.clone(),
        captured: c.captured,
        refunded: c.refunded,
        exceptions: Vec::new(),
    }
}

fn name_exceptions(invoices: &mut [InvoiceRow], payments: &mut [PaymentRow], exceptions: &[Exception]) {
    let mut of: HashMap<&str, Vec<String>> = HashMap::new();
    for e in exceptions {
        for id in [&e.invoice_id, &e.charge_id].into_iter().flatten() {
            of.entry(id).or_default().push(e.id.clone());
        }
    }
    invoices.iter_mut().for_each(|row| row.exceptions = of.get(row.id.as_str()).cloned().unwrap_or_default());
    payments.iter_mut().for_each(|row| row.exceptions = of.get(row.id.as_str()).cloned().unwrap_or_default());
}

fn count(summary: &mut Summary, exceptions: &[Exception]) {
    let counts = &mut summary.exceptions;
    counts.by_severity = [Severity::High, Severity::Medium, Severity::Low].map(|severity| (severity, 0)).into();
    counts.by_kind = ExceptionKind::ALL.iter().map(|kind| (kind.as_str(), 0)).collect();
    let mut at_risk: BTreeMap<&str, i64> = BTreeMap::new();
    for e in exceptions {
        counts.open += 1;
        *counts.by_severity.entry(e.severity).or_default() += 1;
        *counts.by_kind.entry(e.kind.as_str()).or_default() += 1;
        *at_risk.entry(&e.currency).or_default() += e.at_risk_minor;
    }
    let at_risk = at_risk.into_iter().filter(|(currency, _)| !currency.is_empty());
    summary.at_risk =
        at_risk.map(|(currency, amount)| Amount { currency: currency.to_owned(), exponent: money::exponent(currency), amount }).collect();
}

/// Numbers that nobody has, between the first and the last that were given within the window, per prefix.
fn gaps(input: &Input, book: &Book<'_>) -> Vec<Exception> {
    let parse = |number: &str| {
        let (prefix, digits) = number.rsplit_once('-')?;
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| digits.parse::<u64>().ok()).flatten().map(|n| (prefix.to_owned(), n))
    };
    let mut known: BTreeMap<String, BTreeMap<u64, Option<&Invoice>>> = BTreeMap::new();
    for number in book.local.values().filter_map(|local| local.number.as_deref()).filter_map(parse) {
        known.entry(number.0).or_default().insert(number.1, None);
    }
    let mut windows: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for invoice in book.invoices.values() {
        let Some((prefix, n)) = invoice.number.as_deref().and_then(parse) else { continue };
        if invoice.finalized_at.is_some_and(|at| at >= input.window_from) {
            let range = windows.entry(prefix.clone()).or_insert((n, n));
            *range = (range.0.min(n), range.1.max(n));
        }
        known.entry(prefix).or_default().insert(n, Some(invoice));
    }
    let mut found = Vec::new();
    for (prefix, (first, last)) in windows {
        let numbers: Vec<_> = known.remove(&prefix).unwrap_or_default().range(first..=last).map(|(n, i)| (*n, *i)).collect();
        for pair in numbers.windows(2).filter(|pair| pair[1].0 > pair[0].0 + 1) {
            let (from, to, after) = (pair[0].0 + 1, pair[1].0 - 1, pair[1].1);
            let width = after.and_then(|i| i.number.as_deref()).map_or(4, |number| number.len() - prefix.len() - 1);
            let name = |n: u64| format!("{prefix}-{n:0width$}");
            let text = match to - from {
                0 => format!("There is no invoice {}.", name(from)),
                _ => format!("There are no invoices {} to {}.", name(from), name(to)),
            };
            let exception = Exception::new(ExceptionKind::NumberGap, None, Some(&name(from)), after.map_or("", |i| &i.currency), 0);
            found.push(exception.of(after.and_then(|i| i.customer.as_deref())).says(
                text,
                "An accountant will ask: find out whether the invoice was deleted or made elsewhere, and keep the answer with this exception.",
            ));
        }
    }
    found
}

fn totals(input: &Input, book: &Book<'_>) -> Vec<Total> {
    let mut totals: BTreeMap<String, Total> = BTreeMap::new();
    let mut of = |currency: &str, change: &dyn Fn(&mut Total)| {
        change(totals.entry(currency.to_owned()).or_insert_with(|| Total::new(currency)));
    };
    for i in book.invoices.values() {
        if i.finalized_at.is_some_and(|at| at >= input.window_from) && i.status != "void" {
            of(&i.currency, &|t| t.invoiced += i.amount_due);
        }
        if i.status == "open" {
            let days = invoices::overdue_days(i, input.now);
            let age = AGES.iter().find(|(_, up_to)| days <= *up_to).map_or("90+", |(name, _)| name);
            of(&i.currency, &|t| {
                t.outstanding += i.amount_remaining;
                *t.aging.entry(age).or_default() += i.amount_remaining;
            });
        }
    }
    for c in book.charges.values().filter(|c| c.is_paid() && c.created >= input.window_from) {
        of(&c.currency, &|t| t.collected += c.captured);
    }
    let refunds = book::unique(&input.refunds, |r| &r.id);
    for r in refunds.values().filter(|r| matches!(r.status.as_str(), "succeeded" | "pending") && r.created >= input.window_from) {
        of(&r.currency, &|t| t.refunded += r.amount);
    }
    let disputes = book::unique(&input.disputes, |d| &d.id);
    for d in disputes.values().filter(|d| d.holds_money() && d.created >= input.window_from) {
        of(&d.currency, &|t| t.disputed += d.amount);
    }
    let movements = book::unique(&input.movements, |m| &m.id);
    for m in movements.values().filter(|m| m.created >= input.window_from) {
        let fee = balance::fee(m);
        if fee != 0 {
            of(&m.currency, &|t| t.fees += fee);
        }
    }
    totals.into_values().collect()
}

#[cfg(test)]
mod tests;
