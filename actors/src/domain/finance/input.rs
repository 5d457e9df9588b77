//! What the finance reconciliation reads: the provider's invoices, their payments, charges, refunds, disputes and movements on the
//! balance, and what we know ourselves, as plain values. Built by the recon actor from API answers and rows of the store. Reading is
//! lenient about what may be absent or expanded and strict about ids and money; every error names the field.

use super::Anchor;
use crate::domain::reconcile::hex;
use ring::digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Everything a run looks at; the report depends on nothing else, and not on the order of its lists. It is kept with the run as
/// JSON, so that the run can be repeated without the provider.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    pub invoices: Vec<Invoice>,
    pub payments: Vec<InvoicePayment>,
    pub charges: Vec<Charge>,
    pub refunds: Vec<Refund>,
    pub disputes: Vec<Dispute>,
    /// Those before `anchor.through` are only looked at to match ledger rows.
    pub movements: Vec<Movement>,
    /// Available plus pending at the provider, per currency.
    pub balances: BTreeMap<String, i64>,
    /// Payouts that are pending or in transit, per currency.
    pub in_transit: BTreeMap<String, i64>,
    /// Our invoices as the webhooks left them, of any age.
    pub local: Vec<LocalInvoice>,
    /// Our ledger from `ledger_from` on.
    pub ledger: Vec<Entry>,
    /// The sum of our ledger from `anchor.since` up to `ledger_from`, per currency.
    pub ledger_before: BTreeMap<String, i64>,
    pub anchor: Anchor,
    /// Unix seconds by the provider's clock.
    pub now: i64,
    pub window_from: i64,
    /// How long a webhook may be on its way.
    pub grace_s: i64,
    /// False if anything could not be read: then nothing is called missing at the provider.
    pub complete: bool,
    /// What could not be read, one sentence each.
    pub errors: Vec<String>,
    pub provider: Provider,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    pub name: String,
    pub api_version: String,
    pub livemode: bool,
}

/// Money in minor units of `currency`, times in Unix seconds; here and below.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Invoice {
    pub id: String,
    /// None until it is finalized.
    pub number: Option<String>,
    pub customer: Option<String>,
    /// `draft | open | paid | void | uncollectible`.
    pub status: String,
    pub currency: String,
    pub amount_due: i64,
    pub amount_paid: i64,
    pub amount_remaining: i64,
    pub amount_overpaid: i64,
    /// The part of `amount_paid` that did not come through the provider.
    pub off_provider: i64,
    /// Credited after it was paid.
    pub credited: i64,
    pub created: i64,
    pub due_date: Option<i64>,
    pub finalized_at: Option<i64>,
    /// The last change of its status.
    pub changed_at: i64,
    /// One of our own trial payments.
    pub trial: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InvoicePayment {
    pub id: String,
    pub invoice: String,
    pub payment_intent: Option<String>,
    pub charge: Option<String>,
    /// 0 until it is paid.
    pub amount_paid: i64,
    /// `open | paid | canceled`.
    pub status: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Charge {
    pub id: String,
    pub customer: Option<String>,
    pub payment_intent: Option<String>,
    pub currency: String,
    /// What was taken; 0 for an authorisation.
    pub captured: i64,
    pub refunded: i64,
    /// `succeeded | pending | failed`.
    pub status: String,
    pub disputed: bool,
    pub created: i64,
    pub trial: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Refund {
    pub id: String,
    pub charge: Option<String>,
    pub amount: i64,
    pub currency: String,
    pub status: String,
    pub created: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Dispute {
    pub id: String,
    pub charge: Option<String>,
    pub amount: i64,
    pub currency: String,
    pub status: String,
    pub created: i64,
}

/// A balance transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Movement {
    pub id: String,
    /// The ledger's kind that it belongs to, `fee`, or the provider's own word for it.
    pub kind: String,
    pub source: Option<String>,
    /// Gross and signed, in the currency of the balance.
    pub amount: i64,
    pub fee: i64,
    pub currency: String,
    pub created: i64,
    /// Signed amount and currency as the customer saw them, if it was converted.
    pub presentment: Option<(i64, String)>,
}

/// What we know of an invoice.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LocalInvoice {
    pub id: String,
    pub number: Option<String>,
    pub status: String,
    pub currency: String,
    pub amount_due: i64,
    /// When the event was created that told us last.
    pub seen_at: i64,
}

/// A row of our ledger; a correction (`adjustment`) names the source it corrects.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Entry {
    pub id: String,
    pub kind: String,
    pub source: String,
    pub amount: i64,
    pub currency: String,
    pub at: i64,
}

/// The mark of a trial payment in an object's metadata.
const TRIAL: &str = "/metadata/echopilot_canary";

impl Invoice {
    pub fn from_json(value: &Value) -> Result<Self, String> {
        let created = integer(value, "created")?;
        let moments = &value["status_transitions"];
        let last = moments.as_object().into_iter().flat_map(|m| m.values()).filter_map(Value::as_i64).max();
        Ok(Self {
            id: text(value, "id")?,
            number: optional(value, "number"),
            customer: reference(value, "customer"),
            status: optional(value, "status").unwrap_or_else(|| "draft".to_owned()),
            currency: text(value, "currency")?.to_lowercase(),
            amount_due: integer(value, "amount_due")?,
            amount_paid: integer(value, "amount_paid")?,
            amount_remaining: integer(value, "amount_remaining")?,
            amount_overpaid: or_zero(value, "amount_overpaid")?,
            off_provider: or_zero(value, "amount_paid_off_stripe")?,
            credited: or_zero(value, "post_payment_credit_notes_amount")?,
            created,
            due_date: value["due_date"].as_i64(),
            finalized_at: moments["finalized_at"].as_i64(),
            changed_at: last.unwrap_or(created),
            trial: value.pointer(TRIAL).is_some(),
        })
    }
}

impl InvoicePayment {
    pub fn from_json(value: &Value) -> Result<Self, String> {
        let payment = &value["payment"];
        Ok(Self {
            id: text(value, "id")?,
            invoice: reference(value, "invoice").ok_or("invoice is missing")?,
            payment_intent: reference(payment, "payment_intent"),
            charge: reference(payment, "charge"),
            amount_paid: or_zero(value, "amount_paid")?,
            status: optional(value, "status").unwrap_or_default(),
        })
    }
}

impl Charge {
    pub fn from_json(value: &Value) -> Result<Self, String> {
        let captured = value["captured"] == true;
        let whole = integer(value, "amount")?;
        let amount = if value["amount_captured"].is_null() { whole } else { integer(value, "amount_captured")? };
        Ok(Self {
            id: text(value, "id")?,
            customer: reference(value, "customer"),
            payment_intent: reference(value, "payment_intent"),
            currency: text(value, "currency")?.to_lowercase(),
            captured: if captured { amount } else { 0 },
            // An authorisation that was let go is shown as refunded; no money moved.
            refunded: if captured { or_zero(value, "amount_refunded")? } else { 0 },
            status: optional(value, "status").unwrap_or_default(),
            disputed: value["disputed"] == true,
            created: integer(value, "created")?,
            trial: value.pointer(TRIAL).is_some(),
        })
    }

    /// Money was taken.
    pub(super) fn is_paid(&self) -> bool {
        self.status == "succeeded" && self.captured > 0
    }

    /// What of it is still ours.
    pub(super) fn kept(&self) -> i64 {
        self.captured - self.refunded
    }
}

impl Refund {
    pub fn from_json(value: &Value) -> Result<Self, String> {
        Ok(Self {
            id: text(value, "id")?,
            charge: reference(value, "charge"),
            amount: integer(value, "amount")?,
            currency: text(value, "currency")?.to_lowercase(),
            status: optional(value, "status").unwrap_or_default(),
            created: integer(value, "created")?,
        })
    }
}

impl Dispute {
    pub fn from_json(value: &Value) -> Result<Self, String> {
        let Refund { id, charge, amount, currency, status, created } = Refund::from_json(value)?;
        Ok(Self { id, charge, amount, currency, status, created })
    }

    /// The money is gone: withdrawn and not given back. Inquiries (`warning_*`) take none.
    pub(super) fn holds_money(&self) -> bool {
        !self.status.starts_with("warning") && !matches!(self.status.as_str(), "won" | "prevented")
    }
}

impl Movement {
    pub fn from_json(value: &Value) -> Result<Self, String> {
        let word = ["reporting_category", "type"].iter().find_map(|name| optional(value, name)).unwrap_or_default();
        let amount = integer(value, "amount")?;
        Ok(Self {
            id: text(value, "id")?,
            kind: kind(&word).to_owned(),
            source: reference(value, "source"),
            amount,
            fee: or_zero(value, "fee")?,
            currency: text(value, "currency")?.to_lowercase(),
            created: integer(value, "created")?,
            presentment: presentment(value, amount),
        })
    }

    /// What the balance changed by.
    pub fn net(&self) -> i64 {
        self.amount - self.fee
    }
}

/// The provider's category or type as a kind of the ledger.
fn kind(word: &str) -> &str {
    match word {
        "payment" | "partial_capture_reversal" => "charge",
        "payment_refund" => "refund",
        "payment_failure_refund" | "payment_refund_failure" => "refund_failure",
        "payout_cancel" | "payout_failure" => "payout_reversal",
        "stripe_fee" | "tax" | "tax_fee" | "network_cost" | "application_fee" => "fee",
        other => other,
    }
}

/// Without an exchange rate nothing was converted.
fn presentment(value: &Value, amount: i64) -> Option<(i64, String)> {
    if value["exchange_rate"].is_null() {
        return None;
    }
    let source = &value["source"];
    let shown = source["amount_captured"].as_i64().or_else(|| source["amount"].as_i64())?;
    Some((shown.checked_abs()? * amount.signum(), source["currency"].as_str()?.to_lowercase()))
}

impl Input {
    /// SHA-256 (lower-case hex) over both sides and the settings, the same in every order of the lists. The moment is no part of it: looked at
    /// again, the same data are the same input.
    pub(super) fn digest(&self) -> String {
        fn lines<T: Serialize>(all: &mut Vec<String>, kind: &str, items: &[T]) {
            all.extend(items.iter().map(|item| format!("{kind} {}", serde_json::to_string(item).expect("plain structs always serialise"))));
        }
        let mut all = Vec::new();
        lines(&mut all, "invoice", &self.invoices);
        lines(&mut all, "payment", &self.payments);
        lines(&mut all, "charge", &self.charges);
        lines(&mut all, "refund", &self.refunds);
        lines(&mut all, "dispute", &self.disputes);
        lines(&mut all, "movement", &self.movements);
        lines(&mut all, "local", &self.local);
        lines(&mut all, "ledger", &self.ledger);
        lines(&mut all, "error", &self.errors);
        all.sort_unstable();
        let rest = (&self.balances, &self.in_transit, &self.ledger_before, &self.anchor, &self.provider);
        lines(&mut all, "sums", &[rest]);
        lines(&mut all, "settings", &[(self.now - self.window_from, self.grace_s, self.complete)]);
        hex(digest::digest(&digest::SHA256, all.join("\n").as_bytes()).as_ref())
    }
}

fn optional(value: &Value, field: &str) -> Option<String> {
    value.get(field)?.as_str().map(str::to_owned)
}

fn text(value: &Value, field: &str) -> Result<String, String> {
    optional(value, field).filter(|text| !text.is_empty()).ok_or_else(|| format!("{field} is missing or not a text"))
}

/// Bounded so that sums of thousands of rows stay within an i64.
fn integer(value: &Value, field: &str) -> Result<i64, String> {
    match value.get(field) {
        None | Some(Value::Null) => Err(format!("{field} is missing")),
        Some(number) => {
            number.as_i64().filter(|n| n.abs_diff(0) <= 1_000_000_000_000_000).ok_or_else(|| format!("{field} is not an integer in range"))
        }
    }
}

fn or_zero(value: &Value, field: &str) -> Result<i64, String> {
    if value.get(field).is_none_or(Value::is_null) { Ok(0) } else { integer(value, field) }
}

/// The id of a reference that may be expanded to the whole object.
fn reference(value: &Value, field: &str) -> Option<String> {
    let reference = value.get(field)?;
    reference.as_str().or_else(|| reference.get("id")?.as_str()).filter(|id| !id.is_empty()).map(str::to_owned)
}
