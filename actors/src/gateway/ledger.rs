//! The ledger: its rows, what they come to, and corrections; and the gaps between the provider's events and ours. Rows are only ever
//! appended, here as everywhere.

use std::time::Duration;

use serde_json::{Value as Json, json};
use warp::{
    filters::BoxedFilter,
    http::{Method, StatusCode},
    reply::Response,
};

use super::{
    Shell,
    auth::Scope,
    respond,
    route::{Call, any_of, api},
};
use crate::{
    domain::ledger::Kind,
    error::{Error, Result},
    ingest::{self, gaps},
    operations::correct_ledger::{self, Asked},
    store::LedgerFilter,
};

/// How long a client waits for a look at the provider's events; it goes on without it.
const SCAN: Duration = Duration::from_secs(20);
const GAP_STATES: [&str; 3] = ["found", "filled", "failed"];

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // Rows of the ledger, newest first.
        api(shell, Method::GET, "/api/ledger", Scope::Read, rows),
        // What they come to, per currency and kind.
        api(shell, Method::GET, "/api/ledger/balances", Scope::Read, balances),
        // Appends a row that corrects another.
        api(shell, Method::POST, "/api/ledger/corrections", Scope::Admin, correct),
        // Events that the provider had and we had not, and when that was looked at.
        api(shell, Method::GET, "/api/payments/gaps", Scope::Read, found),
        // Looks now.
        api(shell, Method::POST, "/api/payments/gaps/scan", Scope::Operate, scan),
    ])
}

/// Filters: `kind`, `source`, `customer`, `invoice`, `since` (Unix seconds, when it happened).
async fn rows(call: Call) -> Result<Response> {
    let request = &call.request;
    let limit = request.limit()?;
    let text = |name: &'static str| request.query(name).map(Option::unwrap_or_default);
    let kind = text("kind")?;
    if !kind.is_empty() && Kind::parse(&kind).is_none() {
        return Err(Error::field("kind", format!("kind is one of {}", Kind::ALL.map(Kind::as_str).join(", "))));
    }
    let filter = LedgerFilter {
        livemode: call.env().config().provider.mode.is_live(),
        kind,
        source: text("source")?,
        customer: text("customer")?,
        invoice: text("invoice")?,
        since: request.number("since", 0, 0..=i64::MAX)?,
        before: request.number("after", 0, 1..=i64::MAX)?,
        limit: i64::try_from(limit + 1).unwrap_or(i64::MAX),
    };
    let mut rows = call.env().store().ledger_rows(&filter).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|row| row.n.to_string());
    let entries: Vec<Json> = rows.iter().map(correct_ledger::view).collect();
    Ok(respond::json(&json!({"ok": true, "count": entries.len(), "entries": entries, "next": next})))
}

/// `as_of`: only what had happened by then (Unix seconds, the provider's clock).
async fn balances(call: Call) -> Result<Response> {
    let as_of = call.request.number("as_of", i64::MAX, 0..=i64::MAX)?;
    let as_of = Some(as_of).filter(|at| *at < i64::MAX);
    correct_ledger::balances(call.env(), as_of).await.map(|answer| respond::json(&answer))
}

/// Body: `{"corrects","amount_minor","reason","dry_run"}`.
async fn correct(call: Call) -> Result<Response> {
    let body = call.request.json()?;
    let asked = Asked::from_json(&body, &call.caller.key_id)?;
    let dry_run = match &body["dry_run"] {
        Json::Null => false,
        value => value.as_bool().ok_or_else(|| Error::field("dry_run", "dry_run must be true or false"))?,
    };
    let key = match call.request.idempotency_key()? {
        Some(key) => key,
        None if dry_run => String::new(),
        None => return Err(Error::field("Idempotency-Key", "a correction needs an Idempotency-Key: its repetition would correct twice")),
    };
    correct_ledger::correct(call.env(), &asked, &key, dry_run).await.map(|answer| respond::json(&answer))
}

/// Filter: `state`.
async fn found(call: Call) -> Result<Response> {
    let request = &call.request;
    let limit = request.limit()?;
    let state = request.query("state")?.unwrap_or_default();
    if !state.is_empty() && !GAP_STATES.contains(&state.as_str()) {
        return Err(Error::field("state", format!("state is one of {}", GAP_STATES.join(", "))));
    }
    let after = request.query("after")?.unwrap_or_default();
    let before = match after.split_once('.') {
        Some((at, id)) => (at.parse().map_err(|_| Error::field("after", "this cursor is not known"))?, id),
        None if after.is_empty() => (0, ""),
        None => return Err(Error::field("after", "this cursor is not known")),
    };
    let mut rows = call.env().store().gaps(&state, before, i64::try_from(limit + 1).unwrap_or(i64::MAX)).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let mut answer = ingest::gap_state(call.env()).await?;
    answer["next"] = rows.last().filter(|_| more).map(|g| format!("{}.{}", g.found_at.timestamp_micros(), g.id)).into();
    answer["count"] = rows.len().into();
    answer["gaps"] = rows.iter().map(gaps::view).collect();
    Ok(respond::json(&answer))
}

/// Body: `{"dry_run"}`. Waits for the look; one that takes long is answered 202 and goes on.
async fn scan(call: Call) -> Result<Response> {
    let dry_run = call.request.json()?["dry_run"].as_bool().unwrap_or(false);
    match ingest::scan(call.env(), dry_run, SCAN).await {
        Ok(last) => Ok(respond::json(&json!({"ok": true, "state": "done", "last": last}))),
        Err(error) if error.reason == "timeout" => {
            let mut answer = respond::json(&json!({"ok": true, "state": "scanning", "status_url": "/api/payments/gaps"}));
            *answer.status_mut() = StatusCode::ACCEPTED;
            Ok(answer)
        }
        Err(error) => Err(error),
    }
}
