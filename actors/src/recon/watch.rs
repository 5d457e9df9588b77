//! The payout watch at work: reads the balance, its movements and the payouts, asks `domain/payout_watch`, keeps what is expected and
//! what is wrong in the store, and tells the alerts. A look that could not see everything changes nothing but that it says so.

use std::{collections::BTreeMap, time::Duration};

use chrono::TimeDelta;
use serde_json::{Value as Json, json};

use crate::{
    alert,
    domain::{
        alert_rule::{Check, Severity},
        payout_watch::{self, Looked, Memory, Movement, Payout, Problem, Shown},
    },
    env::{Env, rfc3339},
    error::{Error, Result},
};

/// Where the store keeps the last look. `memory` is for the next one and is shown to nobody.
const KEY: &str = "payout_watch";
/// The family of its checks.
const SYSTEM: &str = "payouts";

/// How often it looks.
pub(super) fn every(env: &Env) -> Duration {
    Duration::from_secs(env.config().recon.watch_every_s)
}

/// The last look, for the API; none before the first.
pub async fn watched(env: &Env) -> Result<Option<Json>> {
    let Some(text) = env.store().meta(KEY).await? else { return Ok(None) };
    let mut seen: Json = serde_json::from_str(&text)?;
    if let Some(seen) = seen.as_object_mut() {
        seen.remove("memory");
    }
    Ok(Some(seen))
}

/// One look. What went wrong is written down and logged: the next look is soon.
pub(super) async fn look(env: &Env) {
    if let Err(error) = try_look(env).await {
        tracing::warn!(actor = super::NOUN, %error, "the payouts could not be looked at");
        if let Err(error) = note(env, &error).await {
            tracing::warn!(actor = super::NOUN, %error, "and that could not be written down");
        }
    }
}

async fn try_look(env: &Env) -> Result<()> {
    let before = env.store().meta(KEY).await?.map(|text| serde_json::from_str::<Json>(&text)).transpose()?;
    let mode = env.config().provider.mode.as_str();
    // Another mode is another account.
    let memory: Option<Memory> = before.filter(|b| b["mode"] == mode).and_then(|b| serde_json::from_value(b["memory"].clone()).ok());
    let shown = read(env, memory.as_ref()).await?;
    // A sandbox that began anew is behind what is remembered.
    let memory = memory.filter(|m| m.at <= shown.now);
    let Looked { expected, problems, memory } = payout_watch::look(&shown, memory.as_ref());
    let problems_json: Vec<Json> = problems.iter().map(view).collect();
    let at = chrono::DateTime::from_timestamp(shown.now, 0).map(rfc3339);
    let seen = json!({
        "ok": problems.is_empty(), "ts": rfc3339(env.now()), "at": at, "mode": mode, "complete": true, "errors": [], "expected": expected,
        "problems": problems_json, "memory": memory,
    });
    env.store().set_meta(KEY, &seen.to_string()).await?;
    tell(env, &problems).await
}

fn view(problem: &Problem) -> Json {
    let mut view = json!(problem);
    view["name"] = problem.name().into();
    view["severity"] = problem.severity().as_str().into();
    view
}

/// Leaves the last look as it is and says that it could not be repeated.
async fn note(env: &Env, error: &Error) -> Result<()> {
    let mut seen: Json = match env.store().meta(KEY).await? {
        Some(text) => serde_json::from_str(&text)?,
        None => json!({"mode": env.config().provider.mode.as_str(), "at": null, "expected": [], "problems": []}),
    };
    (seen["ok"], seen["complete"], seen["ts"]) = (false.into(), false.into(), rfc3339(env.now()).into());
    seen["errors"] = json!([error.message]);
    env.store().set_meta(KEY, &seen.to_string()).await
}

/// Every problem is a check of its own; what was one and is none any more is a good one, until its alert has resolved.
async fn tell(env: &Env, problems: &[Problem]) -> Result<()> {
    let mut checks: Vec<Check> = problems
        .iter()
        .map(|p| Check {
            name: p.name(),
            system: SYSTEM,
            ok: Some(false),
            severity: p.severity(),
            value: p.short_by.map(|by| crate::domain::money::display(by, &p.currency)),
            threshold: "paid in full and in time".into(),
            reason: p.reason.clone(),
            ..Check::default()
        })
        .collect();
    for alert in alert::list(env).await?.into_iter().filter(|a| a.system == SYSTEM) {
        if !checks.iter().any(|check| check.name == alert.name) {
            checks.push(Check {
                name: alert.name,
                system: SYSTEM,
                ok: Some(true),
                severity: Severity::Info,
                value: None,
                threshold: alert.threshold,
                reason: "the payout's trouble is over".into(),
                ..Check::default()
            });
        }
    }
    if !checks.is_empty() {
        alert::evaluate(env, checks).await?;
    }
    Ok(())
}

/// What the provider shows, at one moment: the same balance before and after. Errors: `unavailable` with reason `balance_moved` if there was no such moment.
async fn read(env: &Env, memory: Option<&Memory>) -> Result<Shown> {
    let (provider, recon) = (super::provider(env), &env.config().recon);
    let now = provider.now().await?;
    let from = (now - TimeDelta::days(recon.window_days)).timestamp();
    let pending_from = (now - TimeDelta::days(recon.grace_days)).timestamp();
    let movements_from = memory.map_or(pending_from, |m| pending_from.min(m.at - 3600)).max(from);
    let (mut before, ahead) = (provider.balance().await?, (now + TimeDelta::days(1)).timestamp());
    for _ in 0..3 {
        let answer = provider.payouts(from, ahead).await?;
        let payouts = list(&answer, read_payout)?;
        // Until its reconciliation is completed the provider refuses to list what is in a payout.
        let listed = |id: &str| answer.iter().any(|p| p["id"] == id && p["reconciliation_status"] != "in_progress");
        let movements = list(&provider.balance_transactions(movements_from, ahead).await?, read_movement)?;
        let after = provider.balance().await?;
        if before != after {
            before = after;
            continue;
        }
        let mut members = BTreeMap::new();
        for payout in payout_watch::wanted(&payouts, memory).into_iter().filter(|p| listed(&p.id)) {
            let rows = list(&provider.balance_transactions_of_payout(&payout.id).await?, read_movement)?;
            let own = |m: &Movement| m.source.as_deref() == Some(&payout.id) && Some(&m.id) != payout.failure_balance_transaction.as_ref();
            members.insert(payout.id.clone(), rows.into_iter().filter(|m| !own(m)).map(|m| (m.id, m.net)).collect());
        }
        let available = available(&after)?;
        return Ok(Shown { now: now.timestamp(), available, movements, movements_from, payouts, members, late_days: recon.late_days });
    }
    Err(Error::unavailable("balance_moved", "the balance did not stand still while the payouts were read"))
}

fn list<T>(objects: &[Json], read: fn(&Json) -> Option<T>) -> Result<Vec<T>> {
    let bad = |o: &Json| Error::internal(format!("the provider's answer: {} cannot be read", o["id"].as_str().unwrap_or("an object")));
    objects.iter().map(|o| read(o).ok_or_else(|| bad(o))).collect()
}

fn text(value: &Json) -> Option<String> {
    value.as_str().or_else(|| value["id"].as_str()).map(str::to_owned)
}

fn read_payout(p: &Json) -> Option<Payout> {
    let created = p["created"].as_i64()?;
    Some(Payout {
        id: text(&p["id"])?,
        amount: p["amount"].as_i64()?,
        currency: text(&p["currency"])?.to_lowercase(),
        status: text(&p["status"])?,
        created,
        arrival_date: p["arrival_date"].as_i64().unwrap_or(created),
        automatic: p["automatic"] != false,
        failure_balance_transaction: text(&p["failure_balance_transaction"]),
        failure_code: text(&p["failure_code"]),
        failure_message: text(&p["failure_message"]),
    })
}

fn read_movement(m: &Json) -> Option<Movement> {
    let created = m["created"].as_i64()?;
    Some(Movement {
        id: text(&m["id"])?,
        net: m["net"].as_i64()?,
        currency: text(&m["currency"])?.to_lowercase(),
        created,
        available_on: m["available_on"].as_i64().unwrap_or(created),
        pending: m["status"] == "pending",
        source: text(&m["source"]),
    })
}

fn available(balance: &Json) -> Result<BTreeMap<String, i64>> {
    let parts = balance["available"].as_array().ok_or_else(|| Error::internal("the provider's answer: a balance has no available"))?;
    let mut sums = BTreeMap::new();
    for part in parts {
        let (currency, amount) = part["currency"].as_str().zip(part["amount"].as_i64()).unwrap_or_default();
        *sums.entry(currency.to_lowercase()).or_insert(0) += amount;
    }
    Ok(sums)
}
