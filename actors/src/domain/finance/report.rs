//! What the finance reconciliation says: the schema `echopilot.finance_reconcile/1`, the states of invoices and payments, and
//! exceptions with the same fields as those of payouts, so that one list shows both. Written as JSON by the recon actor; the same input gives the
//! same bytes except for the three fields the caller sets.

use super::input::Provider;
use crate::domain::{
    money,
    reconcile::{Evidence, Severity, Suspect, exception_id},
    words::words,
};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// The whole report. `ts`, `run_id` and `generated_at` are none until the caller sets them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Same as `summary.ok`: on every record of every task.
    pub ok: bool,
    pub ts: Option<String>,
    pub run_id: Option<String>,
    pub schema: &'static str,
    /// `frun_` and the first 16 hex digits of the input's digest.
    pub recon_id: String,
    /// `sha256:` and 64 hex digits, independent of the input's order.
    pub input_digest: String,
    pub generated_at: Option<String>,
    pub complete: bool,
    pub errors: Vec<String>,
    pub provider: Provider,
    pub window: Window,
    pub summary: Summary,
    pub totals: Vec<Total>,
    pub balances: Vec<Balance>,
    /// Those that are not simply settled; `summary.invoices` counts all.
    pub invoices: Vec<InvoiceRow>,
    /// Those that do not simply match; `summary.payments` counts all.
    pub payments: Vec<PaymentRow>,
    pub exceptions: Vec<Exception>,
}

/// RFC 3339 UTC by the provider's clock. Everything open belongs to it whatever its age.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Window {
    pub from: Option<String>,
    pub to: Option<String>,
    pub grace_s: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Complete, and no exception above low.
    pub ok: bool,
    /// `total` and one count per state.
    pub invoices: BTreeMap<&'static str, u64>,
    /// The same for charges.
    pub payments: BTreeMap<&'static str, u64>,
    pub exceptions: Counts,
    /// Sums over the exceptions, per currency.
    pub at_risk: Vec<Amount>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub open: u64,
    pub by_severity: BTreeMap<Severity, u64>,
    pub by_kind: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    pub currency: String,
    pub exponent: u32,
    pub amount: i64,
}

/// Sums of one currency over the window, minor units; `outstanding` is all that is open, of any age.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Total {
    pub currency: String,
    pub exponent: u32,
    /// Due on invoices finalized in the window and not void.
    pub invoiced: i64,
    /// Taken by charges.
    pub collected: i64,
    pub refunded: i64,
    /// Withdrawn by disputes and not given back.
    pub disputed: i64,
    pub fees: i64,
    pub outstanding: i64,
    /// `outstanding` by days since it was due.
    pub aging: BTreeMap<&'static str, i64>,
}

/// The balance identity of one currency; see `balance.rs` for the formula.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Balance {
    pub currency: String,
    pub exponent: u32,
    /// Available plus pending at the provider.
    pub provider: i64,
    /// The sum of our ledger.
    pub ledger: i64,
    /// `provider - ledger`.
    pub difference: i64,
    /// What explains the difference, by name.
    pub items: Vec<Item>,
    /// `difference` less the items: 0 when everything is known. None if it could not be judged.
    pub drift: Option<i64>,
    /// Paid out and not arrived: gone from both sides, so no part of the identity.
    pub in_transit: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Item {
    pub name: &'static str,
    pub amount: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InvoiceRow {
    pub id: String,
    pub number: Option<String>,
    pub state: InvoiceState,
    pub customer: Option<String>,
    pub currency: String,
    pub amount_due: i64,
    pub amount_remaining: i64,
    /// Ids of the exceptions that concern it.
    pub exceptions: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PaymentRow {
    /// The charge.
    pub id: String,
    pub state: PaymentState,
    pub invoice: Option<String>,
    pub customer: Option<String>,
    pub currency: String,
    pub captured: i64,
    pub refunded: i64,
    pub exceptions: Vec<String>,
}

words!(
    /// The one state of an invoice: the first of these that fits.
    InvoiceState {
        StatusMismatch = "status_mismatch",
        AmountMismatch = "amount_mismatch",
        StaleDraft = "stale_draft",
        Draft = "draft",
        VoidWithPayment = "void_with_payment",
        Void = "void",
        DuplicatePayment = "duplicate_payment",
        PaidWithoutPayment = "paid_without_payment",
        Underpaid = "underpaid",
        Overpaid = "overpaid",
        Disputed = "disputed",
        Refunded = "refunded",
        OpenPastDue = "open_past_due",
        Open = "open",
        Uncollectible = "uncollectible",
        NothingDue = "nothing_due",
        SettledElsewhere = "settled_elsewhere",
        Settled = "settled",
    }
);

words!(
    /// The one state of a charge: the first of these that fits.
    PaymentState {
        Failed = "failed",
        Pending = "pending",
        Authorised = "authorised",
        MissingInLedger = "missing_in_ledger",
        PendingLedger = "pending_ledger",
        AmountMismatch = "amount_mismatch",
        Disputed = "disputed",
        Refunded = "refunded",
        Trial = "trial",
        Matched = "matched",
        PaymentWithoutInvoice = "payment_without_invoice",
        WithoutInvoice = "without_invoice",
    }
);

words!(
    /// What kind of disagreement an exception is.
    ExceptionKind {
        PaidWithoutPayment = "paid_without_payment",
        PaymentWithoutInvoice = "payment_without_invoice",
        Underpaid = "underpaid",
        Overpaid = "overpaid",
        RefundedButPaid = "refunded_but_paid",
        DisputedPaid = "disputed_paid",
        VoidWithPayment = "void_with_payment",
        OpenPastDue = "open_past_due",
        StatusMismatch = "status_mismatch",
        DuplicatePayment = "duplicate_payment",
        NumberGap = "number_gap",
        StaleDraft = "stale_draft",
        AmountMismatch = "amount_mismatch",
        MissingInLedger = "missing_in_ledger",
        BalanceDrift = "balance_drift",
    }
);

impl ExceptionKind {
    pub fn severity(self) -> Severity {
        match self {
            Self::PaidWithoutPayment | Self::VoidWithPayment | Self::DuplicatePayment | Self::BalanceDrift => Severity::High,
            Self::PaymentWithoutInvoice
            | Self::Underpaid
            | Self::Overpaid
            | Self::DisputedPaid
            | Self::StatusMismatch
            | Self::AmountMismatch
            | Self::MissingInLedger => Severity::Medium,
            Self::RefundedButPaid | Self::OpenPastDue | Self::NumberGap | Self::StaleDraft => Severity::Low,
        }
    }
}

/// A disagreement, explained. `expected` is our side or what the invoice says, `actual` the provider's or what the payments say, in minor
/// units of `currency`. The fields are those of a payout's exception, with the charge and the customer named.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Exception {
    /// `exc_` and 16 hex digits: the same disagreement has the same id in every run.
    pub id: String,
    pub kind: ExceptionKind,
    pub severity: Severity,
    pub status: &'static str,
    pub payout_id: Option<String>,
    pub balance_transaction_id: Option<String>,
    /// The charge, or for a gap the number that is missing first.
    pub source_id: Option<String>,
    pub ledger_ids: Vec<String>,
    pub invoice_id: Option<String>,
    pub charge_id: Option<String>,
    pub customer_id: Option<String>,
    pub currency: String,
    pub expected: Option<i64>,
    pub actual: Option<i64>,
    pub difference: Option<i64>,
    /// Money at risk, minor units of `currency`.
    pub at_risk_minor: i64,
    pub explanation: String,
    pub evidence: Vec<Evidence>,
    pub suspects: Vec<Suspect>,
    pub suggested_action: String,
}

impl Exception {
    /// `risk` in minor units. The id is of the kind, the invoice and the source, so these are given here.
    pub(super) fn new(kind: ExceptionKind, invoice: Option<&str>, source: Option<&str>, currency: &str, risk: i64) -> Self {
        let key = ["finance", kind.as_str(), invoice.unwrap_or_default(), source.unwrap_or_default(), currency].join("|");
        Self {
            id: exception_id(&key),
            kind,
            severity: kind.severity(),
            status: "open",
            payout_id: None,
            balance_transaction_id: None,
            source_id: source.map(str::to_owned),
            ledger_ids: Vec::new(),
            invoice_id: invoice.map(str::to_owned),
            charge_id: source.filter(|id| id.starts_with("ch_") || id.starts_with("py_")).map(str::to_owned),
            customer_id: None,
            currency: currency.to_owned(),
            expected: None,
            actual: None,
            difference: None,
            at_risk_minor: risk.saturating_abs(),
            explanation: String::new(),
            evidence: Vec::new(),
            suspects: Vec::new(),
            suggested_action: String::new(),
        }
    }

    /// What is wrong and what to do about it, a sentence each.
    pub(super) fn says(mut self, explanation: impl Into<String>, suggested_action: impl Into<String>) -> Self {
        (self.explanation, self.suggested_action) = (explanation.into(), suggested_action.into());
        self
    }

    pub(super) fn amounts(mut self, expected: i64, actual: i64) -> Self {
        (self.expected, self.actual, self.difference) = (Some(expected), Some(actual), Some(actual - expected));
        self
    }

    pub(super) fn evidence(mut self, field: &str, ledger: impl Into<Value>, provider: impl Into<Value>) -> Self {
        self.evidence.push(Evidence { field: field.to_owned(), ledger: ledger.into(), provider: provider.into() });
        self
    }

    pub(super) fn of(mut self, customer: Option<&str>) -> Self {
        self.customer_id = customer.map(str::to_owned);
        self
    }

    /// What both sides say, as text: a person's decision about an exception holds as long as this does.
    pub fn sides(&self) -> String {
        let side = |amount: Option<i64>| amount.map_or_else(|| "-".to_owned(), |a| a.to_string());
        let words: Vec<String> = self.evidence.iter().map(|e| format!("{}={}/{}", e.field, e.ledger, e.provider)).collect();
        format!("{}|{}|{}|{}", side(self.expected), side(self.actual), self.currency, words.join(","))
    }
}

impl Total {
    pub(super) fn new(currency: &str) -> Self {
        let aging = AGES.iter().map(|(name, _)| (*name, 0)).collect();
        Self { currency: currency.to_owned(), exponent: money::exponent(currency), aging, ..Self::default() }
    }
}

/// Days since an amount was due, each up to and including.
pub(super) const AGES: [(&str, i64); 4] = [("0-30", 30), ("31-60", 60), ("61-90", 90), ("90+", i64::MAX)];
