//! Reconciliation as it stands: the latest reports, the exceptions, and what a person decides about them.

use serde_json::json;
use warp::{
    filters::BoxedFilter,
    http::{Method, header::CONTENT_DISPOSITION},
    reply::Response,
};

use super::{
    Shell,
    auth::Scope,
    respond,
    route::{Call, any_of, api, page},
};
use crate::{
    error::{Error, Result},
    operations::{
        exceptions::{self, Decision},
        export,
    },
    recon,
    store::ExceptionFilter,
};

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // The latest reconciliation of payouts.
        api(shell, Method::GET, "/api/recon/payouts", Scope::Read, payouts),
        // One payout with its rows, each in its state.
        api(shell, Method::GET, "/api/recon/payouts/{id}", Scope::Read, payout),
        // Findings as CSV.
        api(shell, Method::GET, "/api/recon/export", Scope::Read, export),
        // The latest reconciliation of invoices, payments and the balance.
        api(shell, Method::GET, "/api/recon/finance", Scope::Read, finance),
        // The coming payouts, and what is wrong with those that came.
        api(shell, Method::GET, "/api/recon/watch", Scope::Read, watch),
        // All three at once; null for what there is not yet.
        api(shell, Method::GET, "/api/recon/latest", Scope::Read, latest),
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

async fn payout(call: Call) -> Result<Response> {
    let (env, id) = (call.env(), call.request.param(0)?);
    let report = env.store().latest_recon("payouts").await?.unwrap_or_default();
    let found = report["payouts"].as_array().into_iter().flatten().find(|p| p["id"] == id);
    let payout = found.ok_or_else(|| Error::not_found(format!("the latest reconciliation has no payout {id}")))?;
    let rows = recon::latest_rows(env).await?.into_iter().filter(|row| row.payout.as_deref() == Some(id));
    let (rows, next) = page(&call.request, rows.map(|row| json!(row)).collect(), "id")?;
    let filter = ExceptionFilter { scope: "payouts".into(), payout: id.to_owned(), ..ExceptionFilter::default() };
    let exceptions = exceptions::list(env, &filter).await?;
    Ok(respond::json(&json!({"ok": true, "payout": payout, "count": rows.len(), "rows": rows, "next": next, "exceptions": exceptions})))
}

/// `?what=exceptions|payouts|rows|totals`.
async fn export(call: Call) -> Result<Response> {
    let what = call.request.query("what")?.unwrap_or_default();
    let csv = export::csv(call.env(), &what).await?;
    let mut response = respond::text("text/csv; charset=utf-8", csv.into());
    let file = format!("attachment; filename=\"{what}_{}.csv\"", call.env().now().format("%Y-%m-%d"));
    respond::set(&mut response, CONTENT_DISPOSITION, &file);
    Ok(response)
}

async fn finance(call: Call) -> Result<Response> {
    let report = call.env().store().latest_recon("finance").await?;
    Ok(respond::json(&report.ok_or_else(|| Error::not_found("invoices and payments have not been reconciled yet"))?))
}

async fn watch(call: Call) -> Result<Response> {
    let seen = recon::watched(call.env()).await?;
    Ok(respond::json(&seen.ok_or_else(|| Error::not_found("the payouts have not been looked at yet"))?))
}

async fn latest(call: Call) -> Result<Response> {
    let (env, store) = (call.env(), call.env().store());
    let (payouts, finance) = (store.latest_recon("payouts").await?, store.latest_recon("finance").await?);
    Ok(respond::json(&json!({"ok": true, "payouts": payouts, "finance": finance, "watch": recon::watched(env).await?})))
}

/// Filters: `scope`, `status`, `kind`, `payout`.
async fn exceptions(call: Call) -> Result<Response> {
    let request = &call.request;
    let text = |field| request.query(field).map(Option::unwrap_or_default);
    let filter = ExceptionFilter { scope: text("scope")?, status: text("status")?, kind: text("kind")?, payout: text("payout")? };
    let (exceptions, next) = page(request, exceptions::list(call.env(), &filter).await?, "id")?;
    Ok(respond::json(&json!({"ok": true, "count": exceptions.len(), "exceptions": exceptions, "next": next})))
}

async fn exception(call: Call) -> Result<Response> {
    let exception = exceptions::one(call.env(), call.request.param(0)?).await?;
    Ok(respond::json(&json!({"ok": true, "exception": exception})))
}

async fn acknowledge(call: Call) -> Result<Response> {
    decide(call, Decision::Acknowledge).await
}

async fn resolve(call: Call) -> Result<Response> {
    decide(call, Decision::Resolve).await
}

async fn reopen(call: Call) -> Result<Response> {
    decide(call, Decision::Reopen).await
}

/// Body: `{"reason":"..."}`.
async fn decide(call: Call, decision: Decision) -> Result<Response> {
    let body = call.request.json()?;
    let reason = body["reason"].as_str().unwrap_or_default();
    let exception = exceptions::decide(call.env(), call.request.param(0)?, decision, reason, &call.caller.key_id).await?;
    Ok(respond::json(&json!({"ok": true, "exception": exception})))
}
