//! Both sides of a payout reconciliation as they are kept with the run: enough to make the same report again without the provider, and
//! what the next run falls back on where the provider does not answer.

use std::io::{Read as _, Write as _};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value as Json, json};

use crate::{
    domain::reconcile::{Input, LedgerLine, Payout, ProviderInfo, Report, Transaction, reconcile},
    error::{Error, Result},
};

/// What both sides said, as it was fetched and read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Inputs {
    pub(super) payouts: Vec<Json>,
    /// Each with the `payout` whose list it came from, or null.
    pub(super) transactions: Vec<Json>,
    pub(super) ledger: Vec<Json>,
    pub(super) now: i64,
    pub(super) window_from: i64,
    pub(super) grace_days: i64,
    pub(super) errors: Vec<String>,
    pub(super) unread: Vec<String>,
    pub(super) unasked: Vec<String>,
    pub(super) provider: ProviderInfo,
}

impl Inputs {
    pub(super) fn from_packed(bytes: &[u8]) -> Result<Self> {
        unpack(bytes)
    }

    /// Errors: `internal`, naming the field that an object of the provider lacks.
    pub(super) fn read(&self) -> Result<Input> {
        let bad = |error: String| Error::internal(format!("the provider's answer: {error}"));
        let transaction = |t: &Json| Transaction::from_json(t, None);
        Ok(Input {
            payouts: self.payouts.iter().map(Payout::from_json).collect::<Result<_, _>>().map_err(bad)?,
            transactions: self.transactions.iter().map(transaction).collect::<Result<_, _>>().map_err(bad)?,
            ledger: self.ledger.iter().map(LedgerLine::from_json).collect::<Result<_, _>>().map_err(bad)?,
            now: self.now,
            window_from: self.window_from,
            grace_days: self.grace_days,
            complete: self.errors.is_empty(),
            errors: self.errors.clone(),
            unread: self.unread.clone(),
            unasked: self.unasked.clone(),
            provider: self.provider.clone(),
        })
    }
}

/// Makes the report of a kept run again; `ts`, `run_id` and `generated_at` are left out, all else is the same.
pub fn recompute(packed: &[u8]) -> Result<Report> {
    Ok(reconcile(&Inputs::from_packed(packed)?.read()?))
}

pub(super) fn ledger_json(line: &LedgerLine) -> Json {
    json!({
        "id": line.id, "kind": line.kind, "source": line.source, "seq": line.seq, "amount": line.amount, "currency": line.currency,
        "at": line.at, "payment_method_type": line.method,
    })
}

/// A balance transaction with only what a reconciliation reads. An expanded source matters where money was converted.
pub(super) fn trimmed(transaction: &Json, payout: Option<&str>) -> Json {
    const KEPT: [&str; 12] = [
        "id",
        "amount",
        "available_on",
        "created",
        "currency",
        "exchange_rate",
        "fee",
        "net",
        "reporting_category",
        "source",
        "status",
        "type",
    ];
    let mut kept: serde_json::Map<String, Json> = KEPT.iter().map(|name| ((*name).to_owned(), transaction[*name].clone())).collect();
    if let Some(source) = transaction["source"].as_object() {
        let lean = |name: &str| source.get(name).cloned().unwrap_or_default();
        let lean = if transaction["exchange_rate"].is_null() {
            lean("id")
        } else {
            json!({"id": lean("id"), "amount": lean("amount"), "amount_captured": lean("amount_captured"), "currency": lean("currency")})
        };
        kept.insert("source".to_owned(), lean);
    }
    if let Some(details) = transaction["fee_details"].as_array() {
        kept.insert("fee_details".to_owned(), details.iter().map(|detail| json!({"amount": detail["amount"]})).collect());
    }
    kept.insert("payout".to_owned(), payout.into());
    Json::Object(kept)
}

pub(super) fn pack(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&serde_json::to_vec(value)?)?;
    Ok(gzip.finish()?)
}

pub(super) fn unpack<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}
