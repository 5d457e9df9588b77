//! What a provider event means: the rows it adds to the append-only ledger and the latest state of the object it carries. Called
//! by ingest for every stored webhook and by the gap finder for backfilled events. Pure; must never read balance transactions,
//! or reconciliation would compare the provider's feed with itself.

mod state;

use crate::domain::portal::canonical_email;
use ring::digest;
use serde_json::Value;

/// What a ledger row records. The sign of its amount is the effect on our balance at the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Charge,
    Refund,
    RefundFailure,
    Dispute,
    DisputeReversal,
    Fee,
    Adjustment,
    Payout,
    PayoutReversal,
}

impl Kind {
    pub const ALL: [Self; 9] = [
        Self::Charge,
        Self::Refund,
        Self::RefundFailure,
        Self::Dispute,
        Self::DisputeReversal,
        Self::Fee,
        Self::Adjustment,
        Self::Payout,
        Self::PayoutReversal,
    ];

    /// The name in the store, in reports and in offline files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Charge => "charge",
            Self::Refund => "refund",
            Self::RefundFailure => "refund_failure",
            Self::Dispute => "dispute",
            Self::DisputeReversal => "dispute_reversal",
            Self::Fee => "fee",
            Self::Adjustment => "adjustment",
            Self::Payout => "payout",
            Self::PayoutReversal => "payout_reversal",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A row to append. (kind, source, seq) is unique per provider and mode, so that a repeated event adds nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    /// Id of the provider object that moved the money: `ch_`, `re_`, `dp_`, `po_`.
    pub source: String,
    pub seq: i64,
    /// Minor units, negative when it lowers our balance.
    pub amount: i64,
    /// ISO code in lower case.
    pub currency: String,
    /// Unix seconds, provider's clock.
    pub at: i64,
    pub customer: Option<String>,
    pub invoice: Option<String>,
    pub payment_intent: Option<String>,
}

/// Latest known state of a provider object, for an upsert that never goes backwards (`supersedes`).
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// `customer | charge | payment_intent | invoice | invoice_payment | refund | dispute | payout`.
    pub kind: &'static str,
    pub id: String,
    /// The provider's own word; `active` or `deleted` for a customer.
    pub status: String,
    /// How far its status is along its way (`state`): a state of a lower level never replaces one of a higher.
    pub level: i64,
    /// Decides between two events of the same second. Opaque: step of the status, then money moved, then a digest of the body.
    pub rank: i64,
    pub customer: Option<String>,
    /// Canonical (`portal::canonical_email`); none if the provider has none or it is not an address.
    pub email: Option<String>,
    /// Minor units, as the object states it: an invoice's `amount_due`, 0 for a customer.
    pub amount: i64,
    /// Lower case; empty for a customer without one.
    pub currency: String,
    /// refund, dispute -> charge; charge -> payment intent; invoice payment -> invoice; payout -> the payout it repeats.
    pub parent: Option<String>,
    /// Unix seconds.
    pub created: i64,
    pub body: Value,
}

/// What one event adds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    pub entries: Vec<Entry>,
    pub objects: Vec<Object>,
}

/// True if the state from `new` may replace the one from `old`; each is (level, the event's `created`, rank). What is further along its
/// way wins, then what is later: a total order, so that every order of arrival ends in the same state, and an event that is older or
/// would go back never replaces anything.
pub fn supersedes(old: (i64, i64, i64), new: (i64, i64, i64)) -> bool {
    new > old
}

pub use state::{STATES, is_open, level};

/// What an object that the provider answered means, as an event about it would: a refund we asked for, an object that was looked up.
/// `at` is the provider's time of the answer.
pub fn from_answer(body: &Value, at: i64) -> Result<Option<Applied>, String> {
    let status = body.get("status").and_then(Value::as_str).unwrap_or_default();
    let kind = match (text(body, "object")?, status) {
        ("refund", "failed") => "refund.failed",
        ("refund", "canceled") => "refund.updated",
        ("refund", _) => "refund.created",
        ("charge", "succeeded") => "charge.succeeded",
        ("charge", _) => "charge.updated",
        ("payout", "failed") => "payout.failed",
        ("payout", "canceled") => "payout.canceled",
        ("payout", _) => "payout.updated",
        ("invoice", _) => "invoice.updated",
        ("dispute", _) => "charge.dispute.updated",
        ("payment_intent", _) => "payment_intent.created",
        ("customer", _) if body.get("deleted").is_some_and(|d| d == true) => "customer.deleted",
        ("customer", _) => "customer.updated",
        _ => return Ok(None),
    };
    apply(&serde_json::json!({"type": kind, "created": at, "data": {"object": body}}))
}

/// Reads one event. `Ok(None)` is a type we do not act on; the error names the field that is missing or of the wrong type.
pub fn apply(event: &Value) -> Result<Option<Applied>, String> {
    let kind = text(event, "type")?;
    let at = integer(event, "created")?;
    let Some(family) = family(kind) else { return Ok(None) };
    let body = event.get("data").and_then(|data| data.get("object")).filter(|body| body.is_object()).ok_or("data.object is missing")?;
    let object = object(family, kind, at, body).map_err(|field| format!("data.object.{field}"))?;
    let entries = entries(kind, at, body, &object).map_err(|field| format!("data.object.{field}"))?;
    Ok(Some(Applied { entries, objects: vec![object] }))
}

/// The kind of object that an event type carries, for the types we act on.
fn family(kind: &str) -> Option<&'static str> {
    let (object, action) = kind.rsplit_once('.')?;
    let (family, actions): (_, &[&str]) = match object {
        "charge" => ("charge", &["succeeded", "captured", "failed", "refunded", "updated", "pending", "expired"]),
        "charge.dispute" => ("dispute", &["created", "updated", "closed", "funds_withdrawn", "funds_reinstated"]),
        "refund" => ("refund", &["created", "updated", "failed"]),
        "invoice" => (
            "invoice",
            &[
                "created",
                "finalized",
                "paid",
                "payment_failed",
                "voided",
                "marked_uncollectible",
                "overdue",
                "overpaid",
                "updated",
                "deleted",
                "sent",
                "payment_succeeded",
            ],
        ),
        "invoice_payment" => ("invoice_payment", &["paid"]),
        "payment_intent" => (
            "payment_intent",
            &["created", "processing", "requires_action", "amount_capturable_updated", "succeeded", "payment_failed", "canceled"],
        ),
        "payout" => ("payout", &["created", "updated", "paid", "failed", "canceled", "reconciliation_completed"]),
        "customer" => ("customer", &["created", "updated", "deleted"]),
        _ => return None,
    };
    actions.contains(&action).then_some(family)
}

/// The ledger rows of an event, if money moved. A charge that is only authorised moves none; a refund counts as soon as it is
/// pending, because the provider takes the money then. What was taken back had been given: should its first event be missing, the
/// row is made by the last one.
fn entries(kind: &str, at: i64, body: &Value, object: &Object) -> Result<Vec<Entry>, String> {
    let status = object.status.as_str();
    let flag = |name: &str| body.get(name).and_then(Value::as_bool).unwrap_or(false);
    let moved = id_of(body, "balance_transaction").is_some();
    let charged =
        || if body.get("amount_captured").is_some_and(|v| !v.is_null()) { integer(body, "amount_captured") } else { Ok(object.amount) };
    let rows = match kind {
        "charge.succeeded" if flag("captured") => vec![(Kind::Charge, charged()?, object.created)],
        "charge.captured" => vec![(Kind::Charge, charged()?, at)],
        "refund.created" | "refund.updated" if matches!(status, "succeeded" | "pending") => {
            vec![(Kind::Refund, -object.amount, object.created)]
        }
        // One that waited for the customer was never booked: its failure alone would be money from nowhere.
        "refund.failed" => vec![(Kind::Refund, -object.amount, object.created), (Kind::RefundFailure, object.amount, at)],
        "refund.updated" if status == "canceled" && moved => {
            vec![(Kind::Refund, -object.amount, object.created), (Kind::RefundFailure, object.amount, at)]
        }
        "charge.dispute.funds_withdrawn" => vec![(Kind::Dispute, -object.amount, at)],
        "charge.dispute.funds_reinstated" => vec![(Kind::DisputeReversal, object.amount, at)],
        "payout.failed" | "payout.canceled" => {
            vec![(Kind::Payout, -object.amount, object.created), (Kind::PayoutReversal, object.amount, at)]
        }
        _ if object.kind == "payout" && !matches!(status, "failed" | "canceled") => vec![(Kind::Payout, -object.amount, object.created)],
        _ => Vec::new(),
    };
    let (invoice, payment_intent) = (id_of(body, "invoice"), id_of(body, "payment_intent"));
    let entry = |(kind, amount, at)| Entry {
        kind,
        source: object.id.clone(),
        seq: 0,
        amount,
        currency: object.currency.clone(),
        at,
        customer: object.customer.clone(),
        invoice: invoice.clone(),
        payment_intent: payment_intent.clone(),
    };
    Ok(rows.into_iter().map(entry).collect())
}

fn object(family: &'static str, kind: &str, at: i64, body: &Value) -> Result<Object, String> {
    let id = text(body, "id")?.to_owned();
    let deleted = kind.ends_with(".deleted");
    let customer = family == "customer";
    let status = if deleted {
        "deleted".to_owned()
    } else if customer {
        "active".to_owned()
    } else {
        body.get("status").and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let amount = match family {
        "customer" => 0,
        "invoice" => integer(body, "amount_due")?,
        "invoice_payment" if body.get("amount_paid").is_none_or(Value::is_null) => integer(body, "amount_requested")?,
        "invoice_payment" => integer(body, "amount_paid")?,
        _ => integer(body, "amount")?,
    };
    let currency = if customer { body.get("currency").and_then(Value::as_str).unwrap_or_default() } else { text(body, "currency")? };
    // A deleted customer may come as a stub of id and `deleted`.
    let created = if deleted && body.get("created").is_none() { at } else { integer(body, "created")? };
    let emails: &[&str] = match family {
        "customer" => &["/email"],
        "charge" => &["/billing_details/email", "/receipt_email"],
        "invoice" => &["/customer_email"],
        "payment_intent" => &["/receipt_email"],
        _ => &[],
    };
    let parent = match family {
        "refund" | "dispute" => id_of(body, "charge"),
        "charge" => id_of(body, "payment_intent"),
        "invoice_payment" => id_of(body, "invoice"),
        "payout" => id_of(body, "original_payout"),
        _ => None,
    };
    Ok(Object {
        kind: family,
        level: level(family, &status),
        rank: rank(family, &status, body),
        customer: if customer { Some(id.clone()) } else { id_of(body, "customer") },
        email: emails.iter().find_map(|path| body.pointer(path)?.as_str()).and_then(|raw| canonical_email(raw).ok()),
        id,
        status,
        amount,
        currency: currency.to_lowercase(),
        parent,
        created,
        body: body.clone(),
    })
}

/// step of the status << 56 | money or steps moved << 24 | 24 bits of a digest of the body. The digest only makes the choice
/// between two different states of one second the same in every order of arrival.
fn rank(family: &str, status: &str, body: &Value) -> i64 {
    let number = |name: &str| body.get(name).and_then(Value::as_i64).unwrap_or(0);
    let progress = match family {
        "charge" => number("amount_refunded"),
        "invoice" | "invoice_payment" => number("amount_paid"),
        "payment_intent" => number("amount_received"),
        "dispute" => body.get("balance_transactions").and_then(Value::as_array).map_or(0, |list| i64::try_from(list.len()).unwrap_or(0)),
        "payout" => i64::from(body.get("reconciliation_status").and_then(Value::as_str) == Some("completed")),
        _ => 0,
    };
    let hash = digest::digest(&digest::SHA256, body.to_string().as_bytes());
    let tie = hash.as_ref()[..3].iter().fold(0, |tie, byte| tie << 8 | i64::from(*byte));
    step(family, status, body) << 56 | progress.clamp(0, 0xffff_ffff) << 24 | tie
}

/// How far along a state is: of two states with the same event time the later step wins, terminal ones last. Unknown words are 0.
fn step(family: &str, status: &str, body: &Value) -> i64 {
    let flag = |name: &str| body.get(name).and_then(Value::as_bool).unwrap_or(false);
    let order: &[&str] = match family {
        // Within `succeeded` a charge still goes on: captured, then disputed, then wholly refunded.
        "charge" if status == "succeeded" => {
            return if flag("refunded") {
                7
            } else if flag("disputed") {
                6
            } else if flag("captured") {
                5
            } else {
                4
            };
        }
        "charge" => &["pending", "failed"],
        // A failed attempt falls back to requires_payment_method; succeeded and canceled never change.
        "payment_intent" => &[
            "requires_payment_method",
            "requires_confirmation",
            "requires_action",
            "processing",
            "requires_capture",
            "canceled",
            "succeeded",
        ],
        // uncollectible can still become paid or void.
        "invoice" => &["draft", "open", "uncollectible", "void", "paid", "deleted"],
        "invoice_payment" => &["open", "canceled", "paid"],
        // succeeded can still become failed, when the customer's bank returns the money.
        "refund" => &["pending", "requires_action", "succeeded", "canceled", "failed"],
        "dispute" => &[
            "warning_needs_response",
            "warning_under_review",
            "needs_response",
            "under_review",
            "appeal_needs_response",
            "appeal_under_review",
            "warning_closed",
            "prevented",
            "lost",
            "won",
        ],
        // paid can still become failed, within five business days.
        "payout" => &["pending", "in_transit", "paid", "canceled", "failed"],
        _ => &["active", "deleted"],
    };
    order.iter().zip(1..).find(|(word, _)| **word == status).map_or(0, |(_, step)| step)
}

fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str, String> {
    match value.get(field) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        None | Some(Value::Null) => Err(format!("{field} is missing")),
        Some(_) => Err(format!("{field} is not a text")),
    }
}

fn integer(value: &Value, field: &str) -> Result<i64, String> {
    match value.get(field) {
        None | Some(Value::Null) => Err(format!("{field} is missing")),
        // i64::MIN has no negative, and amounts are negated.
        Some(number) => number.as_i64().filter(|n| *n > i64::MIN).ok_or_else(|| format!("{field} is not an integer")),
    }
}

/// The id of a reference that may be expanded to the whole object.
fn id_of(value: &Value, field: &str) -> Option<String> {
    let reference = value.get(field)?;
    reference.as_str().or_else(|| reference.get("id")?.as_str()).filter(|id| !id.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests;
