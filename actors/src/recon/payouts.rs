//! Reconciling payouts: fetches both sides, asks `domain/reconcile`, keeps the result. A fetch that failed makes the run incomplete and is
//! never taken for an empty list; what could not be judged is not called missing.

use std::{collections::HashSet, io::Write as _};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value as Json, json};

use super::Outcome;
use crate::{
    alert,
    domain::{
        alert_rule::{Check, Severity},
        reconcile::{Input, Payout, ProviderInfo, Report, Transaction, reconcile},
    },
    env::{Env, rfc3339},
    error::{Error, Result},
    providers::stripe::API_VERSION,
    store::Finding,
    task::{Record, Run},
};

/// How far before the window the ledger is read: what a payout at its start may contain.
const LEDGER_MARGIN_DAYS: i64 = 40;

/// Both sides of a reconciliation, as fetched.
struct Sides {
    now: DateTime<Utc>,
    window_from: i64,
    payouts: Vec<Json>,
    /// With the payout whose list it came from.
    transactions: Vec<(Json, Option<String>)>,
    errors: Vec<String>,
}

/// Reconciles the payouts of the window and writes the result down.
pub(super) async fn run(run: &Run) -> Result<Record> {
    let env = &run.env;
    let sides = fetch(env).await?;
    let livemode = env.config().provider.mode.is_live();
    let ledger_from = sides.window_from - TimeDelta::days(LEDGER_MARGIN_DAYS).num_seconds();
    let ledger = env.store().ledger_lines(livemode, ledger_from, sides.now.timestamp()).await?;
    let input = Input {
        payouts: sides.payouts.iter().map(Payout::from_json).collect::<Result<_, _>>().map_err(bad_object)?,
        transactions: sides
            .transactions
            .iter()
            .map(|(t, payout)| Transaction::from_json(t, payout.as_deref()))
            .collect::<Result<_, _>>()
            .map_err(bad_object)?,
        ledger,
        now: sides.now.timestamp(),
        window_from: sides.window_from,
        grace_days: env.config().recon.grace_days,
        complete: sides.errors.is_empty(),
        errors: sides.errors.clone(),
        provider: ProviderInfo { name: env.config().provider.mode.as_str().to_owned(), api_version: API_VERSION.to_owned(), livemode },
        ..Input::default()
    };
    let mut report = reconcile(&input);
    let generated_at = rfc3339(env.now());
    (report.ts, report.run_id, report.generated_at) = (Some(generated_at.clone()), Some(run.run_id.clone()), Some(generated_at));
    let json = serde_json::to_value(&report)?;
    let findings = report
        .exceptions
        .iter()
        .map(|e| Finding {
            id: e.id.clone(),
            kind: e.kind.as_str(),
            severity: e.severity.as_str(),
            currency: e.currency.clone(),
            risk: e.at_risk(),
            sides: e.sides(),
            body: serde_json::to_value(e).unwrap_or_default(),
        })
        .collect();
    let outcome = Outcome {
        scope: "payouts",
        recon_id: &report.recon_id,
        input_digest: &report.input_digest,
        complete: report.complete,
        ok: report.ok,
        inputs: inputs(&input, &sides)?,
        report: &json,
        findings,
    };
    super::keep(run, outcome, |_| true).await?;
    alert::evaluate(env, vec![exceptions_check(&report)]).await?;
    match json {
        Json::Object(map) => Ok(map),
        other => Err(Error::internal(format!("a report is an object, not {other}"))),
    }
}

fn bad_object(error: String) -> Error {
    Error::internal(format!("the provider's answer: {error}"))
}

/// Asks the provider for everything in the window. A payout whose members cannot be fetched makes the run incomplete; the rest
/// is not reconciled without its lists at all.
async fn fetch(env: &Env) -> Result<Sides> {
    let provider = env.provider();
    let now = provider.now().await?;
    let window_from = (now - TimeDelta::days(env.config().recon.window_days)).timestamp();
    let payouts = provider.payouts(window_from, now.timestamp()).await?;
    let (mut transactions, mut errors, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    for payout in payouts.iter().filter(|p| p["automatic"] == true && p["reconciliation_status"] == "completed") {
        let Some(id) = payout["id"].as_str() else { continue };
        match provider.balance_transactions_of_payout(id).await {
            Ok(members) => {
                for member in members {
                    seen.insert(member["id"].as_str().unwrap_or_default().to_owned());
                    transactions.push((member, Some(id.to_owned())));
                }
            }
            Err(error) => errors.push(format!("{id}: {error}")),
        }
    }
    let all = provider.balance_transactions(window_from, now.timestamp()).await?;
    let unsettled = all.into_iter().filter(|t| !seen.contains(t["id"].as_str().unwrap_or_default()));
    transactions.extend(unsettled.map(|t| (t, None)));
    Ok(Sides { now, window_from, payouts, transactions, errors })
}

/// Both sides, compressed, so that the run can be recomputed without the provider.
fn inputs(input: &Input, sides: &Sides) -> Result<Vec<u8>> {
    let transactions: Vec<Json> = sides
        .transactions
        .iter()
        .map(|(t, payout)| {
            let mut t = t.clone();
            t["payout"] = payout.clone().into();
            t
        })
        .collect();
    let ledger: Vec<Json> = input
        .ledger
        .iter()
        .map(|l| json!({"id": l.id, "kind": l.kind, "source": l.source, "seq": l.seq, "amount": l.amount, "currency": l.currency, "at": l.at}))
        .collect();
    let all = json!({
        "payouts": sides.payouts, "transactions": transactions, "ledger": ledger, "now": input.now, "window_from": input.window_from,
        "grace_days": input.grace_days, "errors": input.errors,
    });
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(all.to_string().as_bytes())?;
    Ok(gzip.finish()?)
}

fn exceptions_check(report: &Report) -> Check {
    let serious: Vec<_> = report.exceptions.iter().filter(|e| e.severity != crate::domain::reconcile::Severity::Low).collect();
    Check {
        name: "recon_exceptions".into(),
        system: "recon",
        ok: report.complete.then_some(serious.is_empty()),
        severity: Severity::Critical,
        value: Some(format!("{} exceptions", serious.len())),
        threshold: "0 exceptions".into(),
        reason: serious.first().map_or_else(|| "every payout agrees with the ledger".to_owned(), |first| first.explanation.clone()),
    }
}
