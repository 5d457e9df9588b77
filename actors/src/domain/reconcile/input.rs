//! What payout reconciliation reads: provider payouts, their balance transactions and our ledger rows, as plain values. Built by the
//! recon actor from API answers and by the command line from files. Reading is lenient about what may be absent or expanded and
//! strict about ids and money; every error names the field.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::borrow::Cow;

/// Everything a run looks at. The report depends on nothing else.
#[derive(Clone, Debug, Default)]
pub struct Input {
    pub payouts: Vec<Payout>,
    /// With `payout` = the payout whose list a row came from; none = not in any payout yet. A row may come twice.
    pub transactions: Vec<Transaction>,
    pub ledger: Vec<LedgerLine>,
    /// Unix seconds by the provider's clock.
    pub now: i64,
    /// Unix seconds; ledger rows before it are never reported missing. 0 or less = no window.
    pub window_from: i64,
    /// How long a ledger row may be without a balance transaction before it is missing at the provider.
    pub grace_days: i64,
    /// False if any page could not be read: then nothing is called missing at the provider.
    pub complete: bool,
    /// What could not be read, one sentence each.
    pub errors: Vec<String>,
    /// Payouts whose lists could not be read: they are not judged.
    pub unread: Vec<String>,
    /// Sources of ledger rows about which the provider has still to be asked: their rows are not missing yet.
    pub unasked: Vec<String>,
    pub provider: ProviderInfo,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderInfo {
    pub name: String,
    pub api_version: String,
    pub livemode: bool,
}

/// A provider payout; money in minor units, negative for a debit of our bank account; times in Unix seconds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Payout {
    pub id: String,
    pub amount: i64,
    pub currency: String,
    /// `pending | in_transit | paid | failed | canceled`.
    pub status: String,
    pub created: i64,
    /// `created` if the provider gives none.
    pub arrival_date: i64,
    pub automatic: bool,
    pub method: String,
    /// `completed | in_progress | not_applicable`; none if not given.
    pub reconciliation_status: Option<String>,
    pub balance_transaction: Option<String>,
    pub failure_balance_transaction: Option<String>,
    pub trace_id: Option<String>,
}

/// A balance transaction; money in minor units of the settlement currency.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Transaction {
    pub id: String,
    pub amount: i64,
    pub fee: i64,
    pub net: i64,
    pub currency: String,
    /// The provider's `type`.
    pub kind: String,
    /// Empty if not given: then `kind` decides.
    pub reporting_category: String,
    pub source: Option<String>,
    pub status: String,
    pub created: i64,
    pub available_on: i64,
    /// Sum of `fee_details`, if given.
    pub fee_details: Option<i64>,
    /// Absolute amount and currency as the customer saw them: only for a converted row whose source was expanded.
    pub presentment: Option<(i64, String)>,
    pub payout: Option<String>,
}

/// A row of our ledger (`domain::ledger`); `kind` is kept as text, so that an unknown one is reported instead of lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LedgerLine {
    pub id: String,
    pub kind: String,
    pub source: String,
    pub seq: i64,
    /// Minor units, signed as in the provider's balance.
    pub amount: i64,
    pub currency: String,
    pub at: i64,
    /// How a charge was paid, the provider's word (`card`, `sepa_debit`), if known: a bank debit takes longer to be booked.
    pub method: Option<String>,
}

/// A balance transaction whose texts are lent: from a line of a file, from an API answer, or from the texts of a reconciliation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TransactionView<'a> {
    pub id: Cow<'a, str>,
    pub amount: i64,
    pub fee: i64,
    pub net: i64,
    pub currency: Cow<'a, str>,
    /// The reporting category, or the type where there is none.
    pub category: Cow<'a, str>,
    pub source: Option<Cow<'a, str>>,
    pub created: i64,
    pub available_on: i64,
    pub fee_details: Option<i64>,
    pub presentment: Option<(i64, Cow<'a, str>)>,
    pub payout: Option<Cow<'a, str>>,
}

/// A ledger row whose texts are lent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LedgerView<'a> {
    pub id: Cow<'a, str>,
    pub kind: Cow<'a, str>,
    pub source: Cow<'a, str>,
    pub seq: i64,
    pub amount: i64,
    pub currency: Cow<'a, str>,
    pub at: i64,
    pub method: Option<Cow<'a, str>>,
}

impl Payout {
    pub fn from_json(value: &Value) -> Result<Self, String> {
        let created = time(value, "created")?;
        Ok(Self {
            id: text(value, "id")?,
            amount: money(value, "amount")?,
            currency: text(value, "currency")?.to_lowercase(),
            status: optional(value, "status").unwrap_or_else(|| "paid".to_owned()),
            created,
            arrival_date: if absent(value, "arrival_date") { created } else { time(value, "arrival_date")? },
            automatic: value.get("automatic").and_then(Value::as_bool).unwrap_or(true),
            method: optional(value, "method").unwrap_or_else(|| "standard".to_owned()),
            reconciliation_status: optional(value, "reconciliation_status"),
            balance_transaction: reference(value, "balance_transaction"),
            failure_balance_transaction: reference(value, "failure_balance_transaction"),
            trace_id: value.get("trace_id").and_then(|trace| trace.as_str().or_else(|| trace.get("value")?.as_str())).map(str::to_owned),
        })
    }
}

impl Transaction {
    /// `payout` is the payout whose list this row is from; without it a `payout` member of the row itself counts.
    pub fn from_json(value: &Value, payout: Option<&str>) -> Result<Self, String> {
        let (amount, created) = (money(value, "amount")?, time(value, "created")?);
        let fee = if absent(value, "fee") { 0 } else { money(value, "fee")? };
        Ok(Self {
            id: text(value, "id")?,
            amount,
            fee,
            net: if absent(value, "net") { amount - fee } else { money(value, "net")? },
            currency: text(value, "currency")?.to_lowercase(),
            kind: optional(value, "type").unwrap_or_default(),
            reporting_category: optional(value, "reporting_category").unwrap_or_default(),
            source: reference(value, "source"),
            status: optional(value, "status").unwrap_or_else(|| "available".to_owned()),
            created,
            available_on: if absent(value, "available_on") { created } else { time(value, "available_on")? },
            fee_details: fee_details(value)?,
            presentment: presentment(value),
            payout: payout.map(str::to_owned).or_else(|| reference(value, "payout")),
        })
    }
}

impl From<Transaction> for TransactionView<'static> {
    fn from(t: Transaction) -> Self {
        Self {
            id: t.id.into(),
            amount: t.amount,
            fee: t.fee,
            net: t.net,
            currency: t.currency.into(),
            category: if t.reporting_category.is_empty() { t.kind } else { t.reporting_category }.into(),
            source: t.source.map(Cow::from),
            created: t.created,
            available_on: t.available_on,
            fee_details: t.fee_details,
            presentment: t.presentment.map(|(amount, currency)| (amount, currency.into())),
            payout: t.payout.map(Cow::from),
        }
    }
}

impl LedgerLine {
    /// A line of an offline file: `{"id","kind","source","amount","currency","at"}` with an optional `seq` (0) and
    /// `payment_method_type`.
    pub fn from_json(value: &Value) -> Result<Self, String> {
        Ok(Self {
            id: text(value, "id")?,
            kind: text(value, "kind")?,
            source: text(value, "source")?,
            seq: if absent(value, "seq") { 0 } else { time(value, "seq")? },
            amount: money(value, "amount")?,
            currency: text(value, "currency")?.to_lowercase(),
            at: time(value, "at")?,
            method: optional(value, "payment_method_type"),
        })
    }
}

impl From<LedgerLine> for LedgerView<'static> {
    fn from(line: LedgerLine) -> Self {
        Self {
            id: line.id.into(),
            kind: line.kind.into(),
            source: line.source.into(),
            seq: line.seq,
            amount: line.amount,
            currency: line.currency.into(),
            at: line.at,
            method: line.method.map(Cow::from),
        }
    }
}

fn absent(value: &Value, field: &str) -> bool {
    value.get(field).is_none_or(Value::is_null)
}

fn optional(value: &Value, field: &str) -> Option<String> {
    value.get(field).and_then(Value::as_str).map(str::to_owned)
}

fn text(value: &Value, field: &str) -> Result<String, String> {
    match optional(value, field) {
        Some(text) if !text.is_empty() => Ok(text),
        _ if absent(value, field) => Err(format!("{field} is missing")),
        _ => Err(format!("{field} is not a text")),
    }
}

fn time(value: &Value, field: &str) -> Result<i64, String> {
    if absent(value, field) {
        return Err(format!("{field} is missing"));
    }
    value[field].as_i64().filter(|n| is_time(*n)).ok_or_else(|| format!("{field} is not an integer in range"))
}

/// Bounded so that the sums of a payout's rows stay within an i64.
fn money(value: &Value, field: &str) -> Result<i64, String> {
    if absent(value, field) {
        return Err(format!("{field} is missing"));
    }
    let amount = value[field].as_i64().ok_or_else(|| format!("{field} is not an integer"))?;
    if is_money(amount) { Ok(amount) } else { Err(format!("{field} is out of range")) }
}

pub(super) fn is_money(amount: i64) -> bool {
    amount.abs_diff(0) <= 1_000_000_000_000_000
}

pub(super) fn is_time(at: i64) -> bool {
    at.abs_diff(0) < 1 << 40
}

fn reference(value: &Value, field: &str) -> Option<String> {
    let reference = value.get(field)?;
    reference.as_str().or_else(|| reference.get("id")?.as_str()).filter(|id| !id.is_empty()).map(str::to_owned)
}

fn fee_details(value: &Value) -> Result<Option<i64>, String> {
    let Some(list) = value.get("fee_details").and_then(Value::as_array) else { return Ok(None) };
    // An empty list on a row with a fee is a provider that does not itemise, not a contradiction.
    if list.is_empty() {
        return Ok(None);
    }
    let amounts: Result<Vec<i64>, String> =
        list.iter().map(|detail| money(detail, "amount").map_err(|e| format!("fee_details.{e}"))).collect();
    Ok(Some(amounts?.iter().sum()))
}

/// Without an exchange rate nothing was converted, and a different currency is a contradiction rather than a presentment.
fn presentment(value: &Value) -> Option<(i64, String)> {
    if absent(value, "exchange_rate") {
        return None;
    }
    let source = value.get("source")?;
    let amount = source.get("amount_captured").and_then(Value::as_i64).or_else(|| source.get("amount")?.as_i64())?;
    Some((amount.checked_abs()?, source.get("currency")?.as_str()?.to_lowercase()))
}
