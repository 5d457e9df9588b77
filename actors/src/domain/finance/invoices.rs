//! Every invoice in one state, with its exceptions: is what it says was paid covered by payments, do we know it as the provider does, is it
//! forgotten. Called by `reconcile`. What rests on something being absent is only said by a complete run.

use super::{
    book::Book,
    input::{Charge, Input, Invoice},
    report::{Exception, ExceptionKind as Kind, InvoiceState as State},
};
use crate::domain::money::display;

const DAY: i64 = 86_400;
/// A draft is forgotten after this.
const STALE_DRAFT: i64 = 3 * DAY;

/// Judges one invoice.
pub(super) fn judge(input: &Input, book: &Book<'_>, invoice: &Invoice) -> (State, Vec<Exception>) {
    let case = Case::new(input, book, invoice);
    let mut found = case.against_ours();
    let state = match invoice.status.as_str() {
        "draft" => case.draft(&mut found),
        "void" => case.void(&mut found),
        _ => {
            let state = case.paid(&mut found);
            state.unwrap_or_else(|| case.unpaid(&mut found))
        }
    };
    let first = match found.first().map(|e| e.kind) {
        Some(Kind::StatusMismatch) => State::StatusMismatch,
        Some(Kind::AmountMismatch) => State::AmountMismatch,
        _ => state,
    };
    (first, found)
}

struct Case<'a> {
    input: &'a Input,
    book: &'a Book<'a>,
    invoice: &'a Invoice,
    charges: &'a [&'a Charge],
    /// By its payments.
    through: i64,
    name: String,
}

impl<'a> Case<'a> {
    fn new(input: &'a Input, book: &'a Book<'a>, invoice: &'a Invoice) -> Self {
        let name = invoice.number.clone().unwrap_or_else(|| invoice.id.clone());
        Self { input, book, invoice, charges: book.charges(&invoice.id), through: book.paid(&invoice.id), name }
    }

    fn show(&self, amount: i64) -> String {
        display(amount, &self.invoice.currency)
    }

    fn exception(&self, kind: Kind, charge: Option<&str>, risk: i64) -> Exception {
        Exception::new(kind, Some(&self.invoice.id), charge, &self.invoice.currency, risk).of(self.invoice.customer.as_deref())
    }

    /// Our copy of it, unless a webhook may still be on its way or came after we asked; and the sum that must hold on the invoice itself.
    fn against_ours(&self) -> Vec<Exception> {
        let (i, input) = (self.invoice, self.input);
        let mut found = Vec::new();
        let quiet = i.changed_at + input.grace_s <= input.now;
        match self.book.local.get(i.id.as_str()) {
            Some(ours) if quiet && ours.seen_at < input.now => {
                if ours.status != i.status {
                    let text = format!("Invoice {} is {} here and {} at the provider.", self.name, ours.status, i.status);
                    let exception = self.exception(Kind::StatusMismatch, None, i.amount_due).evidence("status", &*ours.status, &*i.status);
                    found.push(exception.says(text, "Look for its webhook among the events; fetch it again if it never came."));
                } else if i.status != "draft" && (ours.amount_due, &ours.currency) != (i.amount_due, &i.currency) {
                    let (here, there) = (display(ours.amount_due, &ours.currency), self.show(i.amount_due));
                    let text = format!("Invoice {} is over {here} here and over {there} at the provider.", self.name);
                    let exception = self.exception(Kind::AmountMismatch, None, i.amount_due - ours.amount_due);
                    let exception = exception.evidence("amount_due", here, there).amounts(ours.amount_due, i.amount_due);
                    found.push(exception.says(text, "Look for a webhook about it that was not applied."));
                }
            }
            None if quiet && i.status != "draft" && i.created >= input.anchor.since => {
                let text =
                    format!("Invoice {} over {} is {} at the provider and not known here.", self.name, self.show(i.amount_due), i.status);
                let exception = self.exception(Kind::StatusMismatch, None, i.amount_due).evidence("status", (), &*i.status);
                found.push(exception.says(text, "Its webhooks were lost: fetch the events since then."));
            }
            _ => {}
        }
        if found.is_empty() && i.status != "draft" && (i.amount_remaining < 0 || i.amount_due != i.amount_paid + i.amount_remaining) {
            let (due, paid, rest) = (self.show(i.amount_due), self.show(i.amount_paid), self.show(i.amount_remaining));
            let text = format!("Invoice {} does not add up: {due} due, {paid} paid and {rest} remaining.", self.name);
            let exception = self.exception(Kind::AmountMismatch, None, i.amount_due - i.amount_paid - i.amount_remaining);
            let exception = exception.amounts(i.amount_due, i.amount_paid + i.amount_remaining);
            found.push(exception.says(text, "Ask the provider about this invoice: its own figures contradict each other."));
        }
        found
    }

    fn draft(&self, found: &mut Vec<Exception>) -> State {
        let age = self.input.now - self.invoice.created;
        if age <= STALE_DRAFT {
            return State::Draft;
        }
        let text = format!("A draft over {} has waited for {} days.", self.show(self.invoice.amount_due), age / DAY);
        let exception = self.exception(Kind::StaleDraft, None, self.invoice.amount_due);
        found.push(exception.says(text, "Finalize it, or delete it."));
        State::StaleDraft
    }

    /// What is left of the charges.
    fn kept(&self) -> i64 {
        self.charges.iter().map(|c| c.kept()).sum()
    }

    fn void(&self, found: &mut Vec<Exception>) -> State {
        let money = if self.charges.is_empty() { self.through } else { self.kept() };
        if money <= 0 {
            return State::Void;
        }
        let text = format!("Invoice {} is void, and {} was paid for it.", self.name, self.show(money));
        let exception = self.exception(Kind::VoidWithPayment, self.charge(), money).amounts(0, money);
        found.push(exception.says(text, "Refund the payment, or bill it again."));
        State::VoidWithPayment
    }

    fn charge(&self) -> Option<&'a str> {
        self.charges.iter().map(|c| c.id.as_str()).max()
    }

    /// What is wrong with the money of an invoice that is paid, in whole or in part; none if it still waits for all of it.
    fn paid(&self, found: &mut Vec<Exception>) -> Option<State> {
        let i = self.invoice;
        let mut state = self.surplus(found);
        if i.status != "paid" {
            return state;
        }
        if i.amount_due <= 0 && self.charges.is_empty() {
            return state.or(Some(State::NothingDue));
        }
        let covered = self.through + i.off_provider + i.credited;
        let claimed = i.amount_paid.max(i.amount_due);
        if self.input.complete && covered < claimed {
            let missing = claimed - covered;
            let (kind, own, text) = if covered == 0 {
                let text = format!("Invoice {} says that {} was paid, and there is no payment for it.", self.name, self.show(claimed));
                (Kind::PaidWithoutPayment, State::PaidWithoutPayment, text)
            } else {
                let (claimed, covered) = (self.show(claimed), self.show(covered));
                let text = format!("Invoice {} is paid with {claimed}; its payments come to {covered}.", self.name);
                (Kind::Underpaid, State::Underpaid, text)
            };
            let exception = self.exception(kind, None, missing).amounts(claimed, covered);
            found.push(exception.says(text, "Find out how it was marked as paid; bill what is missing, or record how it was paid."));
            state = state.or(Some(own));
        }
        let disputed = self.disputed(found);
        let refunded = self.refunded(found);
        let settled = if self.charges.is_empty() && self.through == 0 { State::SettledElsewhere } else { State::Settled };
        state.or(disputed).or(refunded).or(Some(settled))
    }

    /// More came in than was due.
    fn surplus(&self, found: &mut Vec<Exception>) -> Option<State> {
        let i = self.invoice;
        let counted: Vec<&&Charge> = self.charges.iter().filter(|c| c.kept() > 0).collect();
        let excess = self.kept() + i.off_provider - i.amount_due;
        if counted.len() > 1 && excess > 0 {
            let text = format!(
                "Invoice {} over {} was paid {} times: {} too much.",
                self.name,
                self.show(i.amount_due),
                counted.len(),
                self.show(excess)
            );
            let mut exception = self.exception(Kind::DuplicatePayment, self.charge(), excess).amounts(i.amount_due, i.amount_due + excess);
            for charge in counted {
                exception = exception.evidence(&charge.id, (), charge.kept());
            }
            found.push(exception.says(text, "Refund the payment that came second."));
            return Some(State::DuplicatePayment);
        }
        let over = i.amount_overpaid.max(self.through + i.off_provider - i.amount_due);
        // What was given back again is no surplus any more.
        let over = if self.charges.is_empty() { over } else { over.min(excess.max(0)) };
        if over <= 0 {
            return None;
        }
        let text = format!("Invoice {} over {} was paid with {} too much.", self.name, self.show(i.amount_due), self.show(over));
        let exception = self.exception(Kind::Overpaid, self.charge(), over).amounts(i.amount_due, i.amount_due + over);
        found.push(exception.says(text, "Give the surplus back, or leave it as the customer's credit."));
        Some(State::Overpaid)
    }

    fn disputed(&self, found: &mut Vec<Exception>) -> Option<State> {
        let before = found.len();
        for charge in self.charges {
            let disputes = self.book.disputes(&charge.id);
            let held: i64 = disputes.iter().map(|d| d.amount).sum();
            if disputes.is_empty() && !charge.disputed {
                continue;
            }
            let amount = if disputes.is_empty() { charge.kept() } else { held };
            let how = disputes.iter().map(|d| d.status.as_str()).max().unwrap_or("disputed").replace('_', " ");
            let text = format!("Invoice {} counts as paid, and {} of it is disputed ({how}).", self.name, self.show(amount));
            let exception = self.exception(Kind::DisputedPaid, Some(&charge.id), amount).evidence("dispute", (), how);
            let action = "Answer the dispute before it is due; if it is lost, write the invoice off with a credit note.";
            found.push(exception.says(text, action));
        }
        (found.len() > before).then_some(State::Disputed)
    }

    /// Revenue is overstated by what was given back of the invoice without a credit note. Trial payments are given back on purpose.
    fn refunded(&self, found: &mut Vec<Exception>) -> Option<State> {
        let i = self.invoice;
        let refunded: i64 = self.charges.iter().map(|c| c.refunded).sum();
        let overstated = (i.amount_paid.min(i.amount_due) - i.credited - i.off_provider - self.kept()).min(refunded);
        if refunded <= 0 || overstated <= 0 {
            return None;
        }
        if !(i.trial || self.charges.iter().any(|c| c.trial)) {
            let (back, paid) = (self.show(overstated), self.show(i.amount_paid));
            let text = format!("Invoice {} counts {paid} as paid, and {back} of it was refunded without a credit note.", self.name);
            let exception =
                self.exception(Kind::RefundedButPaid, self.charge(), overstated).amounts(i.amount_paid, i.amount_paid - overstated);
            found.push(exception.says(text, "Issue a credit note over the refund, so that revenue is not overstated."));
        }
        Some(State::Refunded)
    }

    fn unpaid(&self, found: &mut Vec<Exception>) -> State {
        let i = self.invoice;
        if i.status == "uncollectible" {
            return State::Uncollectible;
        }
        let days = overdue_days(i, self.input.now);
        if days < 1 || i.amount_remaining <= 0 {
            return State::Open;
        }
        let s = if days == 1 { "" } else { "s" };
        let text = format!("Invoice {}: {} is {days} day{s} past due.", self.name, self.show(i.amount_remaining));
        let exception = self.exception(Kind::OpenPastDue, None, i.amount_remaining).amounts(i.amount_due, i.amount_paid);
        found.push(exception.says(text, "Remind the customer, or collect it again; write it off if it will not come."));
        State::OpenPastDue
    }
}

/// Whole days since an open invoice was due; one without a date was due at once.
pub(super) fn overdue_days(invoice: &Invoice, now: i64) -> i64 {
    let due = invoice.due_date.or(invoice.finalized_at).unwrap_or(invoice.created);
    (now - due).div_euclid(DAY).max(0)
}
