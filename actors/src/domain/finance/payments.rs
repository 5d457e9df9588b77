//! Every charge in one state, with its exceptions: does our ledger know it with its amount, and is it for an invoice. Called by
//! `reconcile`. A charge without an invoice is no fault; one that looks like the payment of an open invoice is a suggestion.

use super::{
    book::Book,
    input::{Charge, Input, Invoice},
    report::{Exception, ExceptionKind as Kind, PaymentState as State},
};
use crate::domain::{money::display, reconcile::Suspect};
use std::collections::BTreeSet;

/// Judges every charge, in the order of ids.
pub(super) fn judge<'a>(input: &Input, book: &Book<'a>) -> Vec<(&'a Charge, State, Vec<Exception>)> {
    let mut suggested = BTreeSet::new();
    let mut in_order: Vec<&Charge> = book.charges.values().copied().collect();
    in_order.sort_unstable_by_key(|c| (c.created, &c.id));
    let mut all: Vec<_> = in_order
        .into_iter()
        .map(|charge| {
            let (state, found) = one(input, book, charge, &mut suggested);
            (charge, state, found)
        })
        .collect();
    all.sort_unstable_by_key(|(charge, ..)| &charge.id);
    all
}

fn one<'a>(input: &Input, book: &Book<'a>, charge: &'a Charge, suggested: &mut BTreeSet<&'a str>) -> (State, Vec<Exception>) {
    match charge.status.as_str() {
        "failed" => return (State::Failed, Vec::new()),
        "pending" => return (State::Pending, Vec::new()),
        _ if charge.captured <= 0 => return (State::Authorised, Vec::new()),
        _ => {}
    }
    let (mut found, mut state) = (Vec::new(), None);
    if let Some((own, exception)) = in_ledger(input, book, charge) {
        state = Some(own);
        found.extend(exception);
    }
    let invoice = book.invoice_of.get(charge.id.as_str());
    let wanted = if invoice.is_none() && input.complete && !charge.trial { open_invoice(book, charge, suggested) } else { None };
    if let Some(invoice) = wanted {
        suggested.insert(&invoice.id);
        state = state.or(Some(State::PaymentWithoutInvoice));
        found.push(suggest(charge, invoice));
    }
    let rest = if charge.disputed || !book.disputes(&charge.id).is_empty() {
        State::Disputed
    } else if charge.trial {
        State::Trial
    } else if charge.kept() <= 0 {
        State::Refunded
    } else if invoice.is_some() {
        State::Matched
    } else {
        State::WithoutInvoice
    };
    (state.unwrap_or(rest), found)
}

/// What is wrong with our own record of a charge.
fn in_ledger(input: &Input, book: &Book<'_>, charge: &Charge) -> Option<(State, Option<Exception>)> {
    let rows = book.rows(&charge.id);
    let theirs = display(charge.captured, &charge.currency);
    let exception = |kind, risk| {
        let invoice = book.invoice_of.get(charge.id.as_str()).copied();
        Exception::new(kind, invoice, Some(&charge.id), &charge.currency, risk).of(charge.customer.as_deref())
    };
    if rows.is_empty() {
        if charge.created < input.window_from {
            return None; // its row may be older than what was read
        }
        if charge.created + input.grace_s > input.now {
            return Some((State::PendingLedger, None));
        }
        let text = format!("The provider took {theirs} with {} and our ledger does not know it.", charge.id);
        let action = "Its webhook was lost: fetch the events since then.";
        return Some((State::MissingInLedger, Some(exception(Kind::MissingInLedger, charge.captured).says(text, action))));
    }
    let ours: i64 = rows.iter().filter(|e| e.currency == charge.currency).map(|e| e.amount).sum();
    if ours == charge.captured && rows.iter().all(|e| e.currency == charge.currency) {
        return None;
    }
    let ids = || rows.iter().map(|e| e.id.clone());
    let mut exception = if let Some(other) = rows.iter().find(|e| e.currency != charge.currency) {
        let here = display(other.amount, &other.currency);
        let text = format!("Ledger says {here} for {}, the provider took {theirs}.", charge.id);
        exception(Kind::AmountMismatch, charge.captured)
            .evidence("currency", &*other.currency, &*charge.currency)
            .says(text, "One of the two currencies is wrong: correct the ledger row.")
    } else {
        let (here, off) = (display(ours, &charge.currency), display(charge.captured - ours, &charge.currency));
        let text = format!("Ledger says {here} for {}, the provider took {theirs}.", charge.id);
        exception(Kind::AmountMismatch, charge.captured - ours)
            .amounts(ours, charge.captured)
            .evidence("amount", ours, charge.captured)
            .says(text, format!("Compare the charge's captured amount; book a correction of {off}."))
    };
    exception.ledger_ids = ids().collect();
    exception.ledger_ids.sort_unstable();
    Some((State::AmountMismatch, Some(exception)))
}

/// An open invoice of the same customer over just this amount that the charge could be the payment of; each is named once.
fn open_invoice<'a>(book: &Book<'a>, charge: &Charge, suggested: &BTreeSet<&'a str>) -> Option<&'a Invoice> {
    let customer = charge.customer.as_deref()?;
    let fits = |i: &&&Invoice| {
        i.status == "open"
            && i.customer.as_deref() == Some(customer)
            && (i.amount_remaining, &i.currency) == (charge.kept(), &charge.currency)
            && charge.kept() > 0
            && i.created <= charge.created
            && !suggested.contains(i.id.as_str())
    };
    book.invoices.values().filter(fits).copied().min_by_key(|i| (i.created, &i.id))
}

fn suggest(charge: &Charge, invoice: &Invoice) -> Exception {
    let name = invoice.number.as_deref().unwrap_or(&invoice.id);
    let amount = display(charge.captured, &charge.currency);
    let text = format!("{} took {amount} without an invoice, and the same customer has invoice {name} open over just as much.", charge.id);
    let mut exception = Exception::new(Kind::PaymentWithoutInvoice, Some(&invoice.id), Some(&charge.id), &charge.currency, charge.kept())
        .of(charge.customer.as_deref())
        .amounts(invoice.amount_remaining, charge.kept())
        .says(text, format!("If it was meant for invoice {name}, attach it there; else the customer will be asked twice."));
    let reason = format!("invoice {name}: same customer, currency and amount");
    exception.suspects.push(Suspect { balance_transaction_ids: Vec::new(), reason });
    exception
}
