//! `/_control`: what the real provider does not have. The virtual clock, faults on demand, disputes, a fresh start. Needs no key
//! and therefore refuses every request that a web page could have sent.

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::{
    Inner, Sandbox, clock, disputes,
    documents::{Kind, Origin},
    history,
};
use crate::{
    domain::spelling,
    error::{Error, Result},
};

/// Faults that are switched on. Probabilities are per event, counts are of the next objects or calls to hit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Chaos {
    pub(super) drop_webhook: f64,
    pub(super) duplicate_webhook: f64,
    pub(super) reorder_webhook: f64,
    /// Virtual seconds between an event and its first delivery.
    pub(super) delay_webhook_s: i64,
    /// Charges whose movement is one minor unit short.
    pub(super) skew_amount: i64,
    /// Charges whose movement is in another currency.
    pub(super) skew_currency: i64,
    /// Charges that are accompanied by a movement nobody made.
    pub(super) ghost_balance_transaction: i64,
    /// Payouts that are one minor unit less than their movements.
    pub(super) payout_residual: i64,
    /// Payouts that the bank returns.
    pub(super) payout_fail: i64,
    /// Refunds that the balance is too low for and the bank account cannot make up: they wait for the next settlement.
    pub(super) refund_pending: i64,
    /// Pages of lists answered with 500.
    pub(super) fail_page: i64,
    /// Pages of lists that take `SLOW_PAGE_MS` longer.
    pub(super) slow_page: i64,
    /// Calls answered with 429.
    pub(super) status_429: i64,
    /// Calls that do their work and then answer 500.
    pub(super) error_after_commit: i64,
    /// Added to every call until it is 0 again.
    pub(super) slow_ms: i64,
}

/// Long enough to be noticed, short enough not to be given up.
pub(super) const SLOW_PAGE_MS: i64 = 2_000;

/// Takes one off a counter; true if there was one.
pub(super) fn take(counter: &mut i64) -> bool {
    let hit = *counter > 0;
    *counter -= i64::from(hit);
    hit
}

impl Chaos {
    /// Applies the given switches. The error names every one that does not exist or has an impossible value.
    fn merge(&self, changes: &Json) -> Result<Self> {
        let Some(changes) = changes.as_object() else { return Err(Error::invalid("body", "a JSON object of switches is expected")) };
        let mut merged = serde_json::to_value(self)?;
        let unknown: Vec<&str> = changes.keys().map(String::as_str).filter(|k| merged.get(k).is_none()).collect();
        if !unknown.is_empty() {
            let known: Vec<&str> = merged.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
            return Err(Error::invalid("unknown_switch", unknown_switches(&unknown, &known)));
        }
        let is_probability = |name: &str| matches!(name, "drop_webhook" | "duplicate_webhook" | "reorder_webhook");
        let possible = |name: &str, value: &Json| {
            if is_probability(name) {
                value.as_f64().is_some_and(|p| (0.0..=1.0).contains(&p))
            } else {
                value.as_i64().is_some_and(|n| (0..=1_000_000_000).contains(&n))
            }
        };
        let wrong: Vec<&str> = changes.iter().filter(|(k, v)| !possible(k, v)).map(|(k, _)| k.as_str()).collect();
        if !wrong.is_empty() {
            return Err(Error::invalid(
                "impossible_value",
                format!("not a probability from 0 to 1 or a whole number from 0: {}", wrong.join(", ")),
            ));
        }
        for (name, value) in changes {
            merged[name] = value.clone();
        }
        Ok(serde_json::from_value(merged)?)
    }
}

fn unknown_switches(unknown: &[&str], known: &[&str]) -> String {
    let said: Vec<String> = unknown
        .iter()
        .map(|name| match spelling::nearest(name, known) {
            Some(meant) => format!("there is no switch '{name}', did you mean {meant}?"),
            None => format!("there is no switch '{name}'; there are {}", known.join(", ")),
        })
        .collect();
    said.join("; ")
}

/// Answers a request below `/_control`: status and body.
pub(super) async fn answer(inner: &std::sync::Arc<Inner>, method: &str, path: &[&str], body: &[u8]) -> (u16, Json) {
    let body = match (method, body) {
        ("GET", _) | (_, []) => json!({}),
        (_, body) => match serde_json::from_slice(body) {
            Ok(body) => body,
            Err(error) => return (400, problem(&Error::invalid("body", format!("the body is not JSON: {error}")))),
        },
    };
    let result = match (method, path) {
        ("GET", ["clock"]) => Ok(clock::answer(inner).await),
        ("POST", ["clock"]) => advance(inner, &body).await,
        ("GET", ["chaos"]) => serde_json::to_value(&inner.state.lock().await.chaos).map_err(Error::from),
        ("PUT", ["chaos"]) => change_chaos(inner, &body).await,
        ("POST", ["dispute"]) => dispute(inner, &body).await,
        ("POST", ["roll_secret"]) => match body["endpoint"].as_str() {
            Some(id) => roll_secret(inner, id).await,
            None => Err(Error::field("endpoint", "endpoint is missing")),
        },
        ("POST", ["endpoints", id, "roll"]) => roll_secret(inner, id).await,
        ("GET", ["events", id]) => history::of_event(inner, id).await,
        ("GET", ["events"]) => history::newest(inner).await,
        ("POST", ["reset"]) => match (Sandbox { inner: inner.clone() }).reset().await {
            Ok(()) => Ok(clock::answer(inner).await),
            Err(error) => Err(error),
        },
        _ => Err(Error::not_found("there is no such control")),
    };
    match result {
        Ok(body) => (200, body),
        Err(error) => {
            let status = match error.code {
                crate::error::Code::NotFound => 404,
                crate::error::Code::Invalid => 400,
                _ => 500,
            };
            (status, problem(&error))
        }
    }
}

fn problem(error: &Error) -> Json {
    json!({ "error": { "reason": error.reason, "message": error.message } })
}

async fn advance(inner: &Inner, body: &Json) -> Result<Json> {
    let seconds = match body["advance_seconds"].as_i64() {
        Some(seconds) if (0..=clock::LONGEST_ADVANCE_S).contains(&seconds) => seconds,
        _ => return Err(Error::field("advance_seconds", format!("advance_seconds must be from 0 to {}", clock::LONGEST_ADVANCE_S))),
    };
    let (now, offset) = inner.advance(seconds).await?;
    Ok(json!({ "now": now, "offset_seconds": offset }))
}

pub(super) async fn change_chaos(inner: &Inner, body: &Json) -> Result<Json> {
    let mut tx = inner.begin(Origin::default()).await;
    tx.chaos = tx.chaos.merge(body)?;
    let state = serde_json::to_value(&tx.chaos)?;
    tx.commit().await?;
    Ok(state)
}

pub(super) async fn dispute(inner: &Inner, body: &Json) -> Result<Json> {
    let charge = body["charge"].as_str().ok_or_else(|| Error::field("charge", "charge is missing"))?;
    let outcome @ ("open" | "won" | "lost") = body["outcome"].as_str().unwrap_or("open") else {
        return Err(Error::field("outcome", "outcome must be open, won or lost"));
    };
    inner.catch_up().await?;
    let mut tx = inner.begin(Origin::default()).await;
    let dispute = disputes::set(&mut tx, charge, outcome).await.map_err(|f| Error::invalid("dispute", f.message.clone()))?;
    let base = tx.base();
    tx.commit().await?;
    Ok(super::documents::public(dispute, &base))
}

/// Gives an endpoint a new secret; the old one signs as well for a day.
async fn roll_secret(inner: &Inner, id: &str) -> Result<Json> {
    let mut tx = inner.begin(Origin::default()).await;
    let mut endpoint = tx.get(Kind::WebhookEndpoint, id).await?.ok_or_else(|| Error::not_found("there is no such endpoint"))?;
    let secret = format!("whsec_{}", super::random_text(32));
    super::webhooks::roll_secret(&mut endpoint, &secret, tx.now);
    tx.put(endpoint);
    tx.commit().await?;
    Ok(json!({ "endpoint": id, "secret": secret }))
}
