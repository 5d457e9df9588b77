//! Reconciliation as it stands: the latest reports, the exceptions, and what a person decides about them.

use serde_json::{Value as Json, json};
use warp::{filters::BoxedFilter, http::Method, reply::Response};

use super::{
    Shell,
    auth::Scope,
    respond,
    route::{Call, any_of, api, page},
};
use crate::{
    env::rfc3339,
    error::{Error, Result},
    recon,
    store::{ExceptionFilter, ExceptionRow},
};

const SCOPES: [&str; 2] = ["payouts", "finance"];
const STATUSES: [&str; 4] = ["open", "acknowledged", "resolved", "auto_resolved"];
/// A reason is a sentence, not a file.
const LONGEST_REASON: usize = 1000;

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // The latest reconciliation of payouts.
        api(shell, Method::GET, "/api/recon/payouts", Scope::Read, payouts),
        // The latest reconciliation of invoices, payments and the balance.
        api(shell, Method::GET, "/api/recon/finance", Scope::Read, finance),
        // The coming payouts, and what is wrong with those that came.
        api(shell, Method::GET, "/api/recon/watch", Scope::Read, watch),
        // What did not agree, with when it was seen first and last, and what was decided about it.
        api(shell, Method::GET, "/api/recon/exceptions", Scope::Read, exceptions),
        // One of them.
        api(shell, Method::GET, "/api/recon/exceptions/{id}", Scope::Read, exception),
        // Somebody is looking into it: quiet until either side says something else.
        api(shell, Method::POST, "/api/recon/exceptions/{id}/acknowledge", Scope::Operate, acknowledge),
        // It is settled as it is: quiet until either side says something else.
        api(shell, Method::POST, "/api/recon/exceptions/{id}/resolve", Scope::Operate, resolve),
        // It was decided too early.
        api(shell, Method::POST, "/api/recon/exceptions/{id}/reopen", Scope::Operate, reopen),
    ])
}

async fn payouts(call: Call) -> Result<Response> {
    let report = call.env().store().latest_recon("payouts").await?;
    Ok(respond::json(&report.ok_or_else(|| Error::not_found("payouts have not been reconciled yet"))?))
}

async fn finance(call: Call) -> Result<Response> {
    let report = call.env().store().latest_recon("finance").await?;
    Ok(respond::json(&report.ok_or_else(|| Error::not_found("invoices and payments have not been reconciled yet"))?))
}

async fn watch(call: Call) -> Result<Response> {
    let seen = recon::watched(call.env()).await?;
    Ok(respond::json(&seen.ok_or_else(|| Error::not_found("the payouts have not been looked at yet"))?))
}

/// Filters: `scope`, `status`, `kind`, `payout`.
async fn exceptions(call: Call) -> Result<Response> {
    let request = &call.request;
    let one_of = |field: &'static str, words: &[&str]| match request.query(field)?.unwrap_or_default() {
        word if word.is_empty() || words.contains(&word.as_str()) => Ok(word),
        _ => Err(Error::field(field, format!("{field} is one of {}", words.join(", ")))),
    };
    let filter = ExceptionFilter {
        scope: one_of("scope", &SCOPES)?,
        status: one_of("status", &STATUSES)?,
        kind: request.query("kind")?.unwrap_or_default(),
        payout: request.query("payout")?.unwrap_or_default(),
    };
    let all = call.env().store().exceptions(&filter).await?.into_iter().map(view).collect();
    let (exceptions, next) = page(request, all, "id")?;
    Ok(respond::json(&json!({"ok": true, "count": exceptions.len(), "exceptions": exceptions, "next": next})))
}

async fn exception(call: Call) -> Result<Response> {
    let row = find(&call).await?;
    Ok(respond::json(&json!({"ok": true, "exception": view(row)})))
}

async fn acknowledge(call: Call) -> Result<Response> {
    decide(call, &["open"], "acknowledged").await
}

async fn resolve(call: Call) -> Result<Response> {
    decide(call, &["open", "acknowledged"], "resolved").await
}

async fn reopen(call: Call) -> Result<Response> {
    decide(call, &["acknowledged", "resolved"], "open").await
}

/// Body: `{"reason":"..."}`, which is kept with who decided and goes into the journal.
async fn decide(call: Call, from: &[&str], to: &'static str) -> Result<Response> {
    let body = call.request.json()?;
    let reason = body["reason"].as_str().map(str::trim).unwrap_or_default();
    if reason.is_empty() || reason.len() > LONGEST_REASON {
        return Err(Error::field("reason", format!("reason is missing: a text of up to {LONGEST_REASON} bytes that says why")));
    }
    let row = find(&call).await?;
    let (env, by) = (call.env(), call.caller.key_id.as_str());
    let fact = env.fact("recon.decided", &row.id, json!({"from": row.status, "to": to, "by": by, "reason": reason, "kind": row.kind}));
    if !env.store().decide_exception(&row.id, from, to, by, reason, fact).await? {
        let now = env.store().exception(&row.id).await?.map_or(row.status, |e| e.status);
        return Err(Error::conflict("exception_state", format!("the exception is {now}, so it cannot become {to}")).with("status", now));
    }
    exception(call).await
}

async fn find(call: &Call) -> Result<ExceptionRow> {
    let id = call.request.param(0)?;
    call.env().store().exception(id).await?.ok_or_else(|| Error::not_found(format!("there is no exception {id}")))
}

/// The report's record with what only the store knows.
fn view(e: ExceptionRow) -> Json {
    let mut body = if e.body.is_object() { e.body } else { json!({}) };
    let own = json!({
        "id": e.id, "scope": e.scope, "kind": e.kind, "severity": e.severity, "status": e.status, "first_seen": rfc3339(e.first_seen),
        "last_seen": rfc3339(e.last_seen), "occurrences": e.occurrences, "at_risk_minor": e.risk, "currency": e.currency,
        "decided_at": e.decided_at.map(rfc3339), "decided_by": e.decided_by, "decision": e.decision,
    });
    if let (Json::Object(body), Json::Object(own)) = (&mut body, own) {
        body.extend(own);
    }
    body
}
