//! What payout reconciliation reads: provider payouts, their balance transactions and our ledger rows, as plain values. Built by the
//! recon actor from API answers and by the command line from files. Reading is lenient about what may be absent or expanded and
//! strict about ids and money; every error names the field.

use ring::digest;
use serde::Serialize;
use serde_json::Value;

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
    /// What could not be read, one sentence each. A payout whose id is named here is not judged.
    pub errors: Vec<String>,
    pub provider: ProviderInfo,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LedgerLine {
    pub id: String,
    pub kind: String,
    pub source: String,
    pub seq: i64,
    /// Minor units, signed as in the provider's balance.
    pub amount: i64,
    pub currency: String,
    pub at: i64,
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

impl LedgerLine {
    /// A line of an offline file: `{"id","kind","source","amount","currency","at"}` with an optional `seq` (0).
    pub fn from_json(value: &Value) -> Result<Self, String> {
        Ok(Self {
            id: text(value, "id")?,
            kind: text(value, "kind")?,
            source: text(value, "source")?,
            seq: if absent(value, "seq") { 0 } else { time(value, "seq")? },
            amount: money(value, "amount")?,
            currency: text(value, "currency")?.to_lowercase(),
            at: time(value, "at")?,
        })
    }
}

impl Input {
    /// SHA-256 (lower-case hex) over both sides and the settings, the same in every order and for repeated rows.
    pub(super) fn digest(&self) -> String {
        let mut lines: Vec<String> = Vec::with_capacity(self.payouts.len() + self.transactions.len() + self.ledger.len() + 1);
        lines.extend(self.payouts.iter().map(|p| line("payout", p)));
        lines.extend(self.transactions.iter().map(|t| line("transaction", t)));
        lines.sort_unstable();
        lines.dedup();
        // A ledger row that is there twice is a finding, not a repeated page, so it counts twice.
        let mut ledger: Vec<String> = self.ledger.iter().map(|l| line("ledger", l)).collect();
        ledger.sort_unstable();
        lines.append(&mut ledger);
        let mut errors = self.errors.clone();
        errors.sort_unstable();
        lines.push(line("settings", &(self.now, self.window_from, self.grace_days, self.complete, errors, &self.provider)));
        let mut context = digest::Context::new(&digest::SHA256);
        for line in &lines {
            context.update(line.as_bytes());
            context.update(b"\n");
        }
        super::report::hex(context.finish().as_ref())
    }
}

fn line(kind: &str, value: &impl Serialize) -> String {
    format!("{kind} {}", serde_json::to_string(value).expect("plain structs of texts and integers always serialise"))
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
    value[field].as_i64().filter(|n| n.abs_diff(0) < 1 << 40).ok_or_else(|| format!("{field} is not an integer in range"))
}

/// Bounded so that sums of thousands of rows stay within an i64.
fn money(value: &Value, field: &str) -> Result<i64, String> {
    if absent(value, field) {
        return Err(format!("{field} is missing"));
    }
    let amount = value[field].as_i64().ok_or_else(|| format!("{field} is not an integer"))?;
    if amount.abs_diff(0) > 1_000_000_000_000_000 { Err(format!("{field} is out of range")) } else { Ok(amount) }
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
