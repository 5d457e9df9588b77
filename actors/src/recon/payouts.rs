//! Reconciling payouts: fetches both sides, asks `domain/reconcile`, keeps the result. A fetch that failed makes the run incomplete and is
//! never taken for an empty list; nothing is called missing at the provider before the provider was asked about it by name.

mod fetch;
mod inputs;
#[cfg(test)]
pub(super) mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value as Json;

use super::{Outcome, provider};
use crate::{
    alert,
    domain::{
        alert_rule::{Check, Severity},
        ledger::Kind,
        reconcile::{ExceptionKind, Input, JudgedRow, ProviderInfo, Report, Transaction, reconcile, rows},
    },
    env::{Env, blocking, rfc3339},
    error::{Error, Result},
    providers::stripe::API_VERSION,
    store::{ExceptionRow, Finding},
    task::{Record, Run},
};
pub use inputs::recompute;
use inputs::{Inputs, ledger_json, pack, trimmed};

/// How far before the oldest payout or row the ledger is read: what it may be about.
const LEDGER_MARGIN: TimeDelta = TimeDelta::days(40);
/// Ledger rows that the provider is asked about one by one, in one run; the rest wait for the next.
const QUESTIONS: usize = 200;

/// Reconciles the payouts of the window, and older ones that are not done with, and writes the result down.
pub(super) async fn run(run: &Run) -> Result<Record> {
    let (report, json, open) = reconciled(run).await?;
    alert::evaluate(&run.env, vec![check(&report, &open)]).await?;
    match json {
        Json::Object(map) => Ok(map),
        other => Err(Error::internal(format!("a report is an object, not {other}"))),
    }
}

/// The report, kept with its inputs, the same as JSON, and which of its exceptions nobody has decided about.
async fn reconciled(run: &Run) -> Result<(Report, Json, HashSet<String>)> {
    let env = &run.env;
    let (previous, open) = before(env).await?;
    let now = provider(env).now().await?;
    let (inputs, input, mut report) = judged(env, now, &previous, &open).await?;
    let generated_at = rfc3339(env.now());
    (report.ts, report.run_id, report.generated_at) = (Some(generated_at.clone()), Some(run.run_id.clone()), Some(generated_at));
    let json = serde_json::to_value(&report)?;
    let outcome = Outcome {
        scope: "payouts",
        recon_id: &report.recon_id,
        input_digest: &report.input_digest,
        complete: report.complete,
        ok: report.ok,
        inputs: blocking(move || pack(&inputs)).await?,
        report: &json,
        findings: findings(&report),
    };
    let scope = Scope::new(&input, &report, &previous);
    let open = super::keep(run, outcome, |body| scope.has(body)).await?;
    Ok((report, json, open))
}

/// The report as it would have been at an earlier time of the provider's clock, by what both sides say now; nothing is kept of it. Errors:
/// `unavailable` `incomplete` if not everything could be read.
pub(super) async fn as_of(env: &Env, at: DateTime<Utc>) -> Result<Report> {
    let (previous, open) = before(env).await?;
    let (_, _, report) = judged(env, at, &previous, &open).await?;
    if report.complete { Ok(report) } else { Err(Error::unavailable("incomplete", report.errors.join("; "))) }
}

/// Both sides as of that time, and the judgement.
async fn judged(env: &Env, now: DateTime<Utc>, previous: &Inputs, open: &[ExceptionRow]) -> Result<(Inputs, Input, Report)> {
    let mut judged = judge(fetch_both(env, now, previous, open).await?).await?;
    if ask(env, &judged.2, open, &mut judged.0).await {
        judged = judge(judged.0).await?;
    }
    Ok(judged)
}

/// Seconds of work for a large business: not on the threads that answer others.
async fn judge(inputs: Inputs) -> Result<(Inputs, Input, Report)> {
    blocking(move || {
        let input = inputs.read()?;
        let report = reconcile(&input);
        Ok((inputs, input, report))
    })
    .await
}

/// Every balance transaction of the latest run in its state, by time. Errors: `not_found` before the first run.
pub async fn latest_rows(env: &Env) -> Result<Vec<JudgedRow>> {
    let Some((_, packed)) = env.store().latest_recon_inputs("payouts").await? else {
        return Err(Error::not_found("payouts have not been reconciled yet"));
    };
    blocking(move || Ok(rows(&Inputs::from_packed(&packed)?.read()?))).await
}

/// The inputs of the run before, empty at first, and the exceptions that are open.
async fn before(env: &Env) -> Result<(Inputs, Vec<ExceptionRow>)> {
    let open = env.store().open_exceptions("payouts").await?;
    let previous = match env.store().latest_recon_inputs("payouts").await? {
        Some((_, packed)) => blocking(move || Inputs::from_packed(&packed)).await.unwrap_or_else(|error| {
            tracing::warn!(actor = super::NOUN, error = %error, "the inputs of the run before cannot be read");
            Inputs::default()
        }),
        None => Inputs::default(),
    };
    // Another mode of the provider is another account.
    let same = previous.provider.name == env.config().provider.mode.as_str();
    Ok((if same { previous } else { Inputs::default() }, open))
}

/// Everything is judged as of one instant, by the provider's clock.
async fn fetch_both(env: &Env, now: DateTime<Utc>, previous: &Inputs, open: &[ExceptionRow]) -> Result<Inputs> {
    let config = env.config();
    let window_from = (now - TimeDelta::days(config.recon.window_days)).timestamp();
    let open_payouts: HashSet<String> = open.iter().filter_map(|e| e.body["payout_id"].as_str()).map(str::to_owned).collect();
    let fetched = fetch::fetch(env, now, window_from, previous, &open_payouts).await?;
    // A payout may hold what waited for long: what its rows are about is as old as they are.
    let fetched_at = fetched.payouts.iter().chain(&fetched.transactions).filter_map(|o| o["created"].as_i64());
    let oldest = fetched_at.min().map_or(window_from, |at| at.min(window_from));
    let livemode = config.provider.mode.is_live();
    let ledger = env.store().ledger_lines(livemode, oldest - LEDGER_MARGIN.num_seconds(), now.timestamp()).await?;
    let methods: HashMap<&str, &Json> = previous
        .ledger
        .iter()
        .filter_map(|l| Some((l["source"].as_str()?, &l["payment_method_type"])))
        .filter(|(_, m)| !m.is_null())
        .collect();
    let ledger = ledger.iter().map(|line| {
        let mut line = ledger_json(line);
        if let Some(method) = line["source"].as_str().and_then(|source| methods.get(source)) {
            line["payment_method_type"] = (*method).clone();
        }
        line
    });
    Ok(Inputs {
        ledger: ledger.collect(),
        payouts: fetched.payouts,
        transactions: fetched.transactions,
        now: now.timestamp(),
        window_from,
        grace_days: config.recon.grace_days,
        errors: fetched.errors,
        unread: fetched.unread,
        unasked: Vec::new(),
        provider: ProviderInfo { name: config.provider.mode.as_str().to_owned(), api_version: API_VERSION.to_owned(), livemode },
    })
}

/// Asks the provider about each ledger row that would be called missing for the first time; true if that changed the inputs. A bank debit
/// takes longer, so how the charge was paid is looked up as well.
async fn ask(env: &Env, report: &Report, open: &[ExceptionRow], inputs: &mut Inputs) -> bool {
    let asked_before: HashSet<&str> = open.iter().map(|e| e.id.as_str()).collect();
    let missing = report.exceptions.iter().filter(|e| e.kind == ExceptionKind::MissingProvider && !asked_before.contains(e.id.as_str()));
    let sources: BTreeSet<String> = missing.filter_map(|e| e.source_id.clone()).collect();
    if sources.is_empty() {
        return false;
    }
    let known: HashSet<String> = inputs.transactions.iter().filter_map(|t| t["id"].as_str().map(str::to_owned)).collect();
    for (n, source) in sources.iter().enumerate() {
        if n >= QUESTIONS {
            inputs.unasked.push(source.clone());
            continue;
        }
        match of_source(env, source, inputs.now, &known).await {
            Ok(found) if found.is_empty() => {
                let method = method(env, source).await;
                let lines = inputs.ledger.iter_mut().filter(|l| l["source"] == source.as_str() && l["kind"] == Kind::Charge.as_str());
                lines.for_each(|line| line["payment_method_type"] = method.clone());
            }
            Ok(found) => inputs.transactions.extend(found),
            Err(error) => {
                inputs.errors.push(format!("the balance transactions of {source} could not be read: {error}"));
                inputs.unasked.push(source.clone());
            }
        }
    }
    true
}

/// What the provider has for one source besides what is `known`. Errors: also of an answer that is no list of balance transactions.
async fn of_source(env: &Env, source: &str, now: i64, known: &HashSet<String>) -> Result<Vec<Json>> {
    let found = provider(env).balance_transactions_of_source(source, now).await?;
    let found = found.iter().filter(|t| t["id"].as_str().is_none_or(|id| !known.contains(id)));
    let found: Vec<Json> = found.map(|t| trimmed(t, None)).collect();
    match found.iter().find_map(|t| Transaction::from_json(t, None).err()) {
        Some(what) => Err(Error::internal(format!("the provider's answer: {what}"))),
        None => Ok(found),
    }
}

/// How a charge was paid, as its own events said; null if that is not known.
async fn method(env: &Env, charge: &str) -> Json {
    let object = env.store().object("charge", charge).await.ok().flatten();
    object.map_or(Json::Null, |object| object.body["payment_method_details"]["type"].clone())
}

/// What a run looked at: an exception it does not find again is over only if it is about that.
struct Scope {
    payouts: HashSet<String>,
    transactions: HashSet<String>,
    ledger: HashSet<String>,
}

impl Scope {
    fn new(input: &Input, report: &Report, previous: &Inputs) -> Self {
        let from = input.window_from;
        // A transaction that was there and is gone belongs to the window by the time it had.
        let before = previous.transactions.iter().filter(|t| t["created"].as_i64().is_some_and(|at| at >= from));
        let before = before.filter_map(|t| t["id"].as_str().map(str::to_owned));
        Self {
            payouts: report.payouts.iter().map(|p| p.id.clone()).collect(),
            transactions: input.transactions.iter().map(|t: &Transaction| t.id.clone()).chain(before).collect(),
            ledger: input.ledger.iter().filter(|l| l.at >= from).map(|l| l.id.clone()).collect(),
        }
    }

    fn has(&self, exception: &Json) -> bool {
        let (row, payout) = (exception["balance_transaction_id"].as_str(), exception["payout_id"].as_str());
        match (row, payout) {
            (Some(row), _) => self.transactions.contains(row),
            (None, Some(payout)) => self.payouts.contains(payout),
            (None, None) => {
                let ids = exception["ledger_ids"].as_array();
                ids.into_iter().flatten().filter_map(Json::as_str).any(|id| self.ledger.contains(id))
            }
        }
    }
}

fn findings(report: &Report) -> Vec<Finding> {
    let finding = |e: &crate::domain::reconcile::Exception| Finding {
        id: e.id.clone(),
        kind: e.kind.as_str(),
        severity: e.severity.as_str(),
        currency: e.currency.clone(),
        risk: e.at_risk(),
        sides: e.sides(),
        body: serde_json::to_value(e).unwrap_or_default(),
    };
    report.exceptions.iter().map(finding).collect()
}

fn check(report: &Report, open: &HashSet<String>) -> Check {
    let serious = report.exceptions.iter().filter(|e| e.severity != crate::domain::reconcile::Severity::Low && open.contains(&e.id));
    let serious: Vec<&str> = serious.map(|e| e.explanation.as_str()).collect();
    super::exceptions_check("recon_exceptions", &serious, report.complete, Severity::Critical, "every payout agrees with the ledger")
}
