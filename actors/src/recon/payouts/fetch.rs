//! The provider's side of a payout reconciliation: the window, what is not final yet although it is older, and the members of each payout.
//! What cannot be fetched is named, makes the run incomplete and is taken from the run before, never for an empty list.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value as Json;

use super::{
    super::provider,
    inputs::{Inputs, pack, trimmed, unpack},
};
use crate::{
    domain::reconcile::Payout,
    env::Env,
    error::{Code, Error, Result},
};

/// A paid payout may still fail for a few business days; after this it will not.
const FINAL_AFTER: TimeDelta = TimeDelta::days(10);

/// What the provider said, and what it did not.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    pub(super) payouts: Vec<Json>,
    /// Trimmed, each with its `payout` or null.
    pub(super) transactions: Vec<Json>,
    pub(super) errors: Vec<String>,
    /// Payouts of whose members nothing is known.
    pub(super) unread: Vec<String>,
}

/// Errors: those of the list of payouts, if there is no run before to take it from.
pub(super) async fn fetch(env: &Env, now: DateTime<Utc>, window_from: i64, previous: &Inputs, open: &HashSet<String>) -> Result<Fetched> {
    let mut fetched = Fetched::default();
    fetched.payouts = match provider(env).payouts(window_from, now.timestamp()).await {
        Ok(payouts) => payouts,
        Err(error) if previous.payouts.is_empty() => return Err(error),
        Err(error) => {
            fetched.errors.push(format!("the list of payouts could not be read: {error}"));
            previous.payouts.clone()
        }
    };
    older(env, now, previous, open, &mut fetched).await;
    let mut seen = HashSet::new();
    for payout in fetched.payouts.clone().iter().filter(|p| p["automatic"] == true && p["reconciliation_status"] == "completed") {
        for member in members(env, now, payout, previous, &mut fetched).await {
            seen.insert(id(&member).to_owned());
            fetched.transactions.push(member);
        }
    }
    let unsettled: Vec<Json> = match provider(env).balance_transactions(window_from, now.timestamp()).await {
        Ok(all) => all.iter().map(|t| trimmed(t, None)).collect(),
        Err(error) => {
            fetched.errors.push(format!("the list of balance transactions could not be read: {error}"));
            previous.transactions.iter().filter(|t| t["payout"].is_null()).cloned().collect()
        }
    };
    fetched.transactions.extend(unsettled.into_iter().filter(|t| !seen.contains(id(t))));
    Ok(fetched)
}

fn id(object: &Json) -> &str {
    object["id"].as_str().unwrap_or_default()
}

/// Payouts from before the window that are not final or have open exceptions.
async fn older(env: &Env, now: DateTime<Utc>, previous: &Inputs, open: &HashSet<String>, fetched: &mut Fetched) {
    let mut known: HashSet<String> = fetched.payouts.iter().map(|p| id(p).to_owned()).collect();
    for status in ["pending", "in_transit"] {
        match provider(env).payouts_in_state(status, now.timestamp()).await {
            Ok(payouts) => fetched.payouts.extend(payouts.into_iter().filter(|p| known.insert(id(p).to_owned()))),
            Err(error) => fetched.errors.push(format!("the list of {status} payouts could not be read: {error}")),
        }
    }
    let carried = previous.payouts.iter().filter(|p| !is_final(p, now)).map(|p| id(p).to_owned());
    let mut wanted: Vec<String> = open.iter().cloned().chain(carried).filter(|id| known.insert(id.clone())).collect();
    wanted.sort_unstable();
    for wanted in wanted {
        match provider(env).payout(&wanted).await {
            Ok(payout) => fetched.payouts.push(payout),
            // It is certain then that there is no such payout: what is said about it stays for a person.
            Err(error) if error.code == Code::NotFound => {}
            Err(error) => {
                fetched.errors.push(format!("payout {wanted} could not be read: {error}"));
                fetched.payouts.extend(previous.payouts.iter().find(|p| id(p) == wanted).cloned());
            }
        }
    }
}

/// Whether a payout and its members stay as they are.
fn is_final(payout: &Json, now: DateTime<Utc>) -> bool {
    let Ok(payout) = Payout::from_json(payout) else { return false };
    let settled = now.timestamp() - payout.arrival_date.max(payout.created) > FINAL_AFTER.num_seconds();
    let listed = payout.reconciliation_status.as_deref() != Some("in_progress");
    listed
        && match payout.status.as_str() {
            "paid" => settled,
            "failed" | "canceled" => settled && payout.failure_balance_transaction.is_some(),
            _ => false,
        }
}

/// A payout's members: kept from an earlier run if it will not change any more, else from the provider, else as the run before had them.
async fn members(env: &Env, now: DateTime<Utc>, payout: &Json, previous: &Inputs, fetched: &mut Fetched) -> Vec<Json> {
    let (id, last) = (id(payout).to_owned(), is_final(payout, now));
    let state = Payout::from_json(payout).map(|payout| payout.digest().hex()).unwrap_or_default();
    if last && let Some(kept) = kept(env, &id, &state).await {
        return kept;
    }
    match provider(env).balance_transactions_of_payout(&id).await {
        Ok(members) => {
            let members: Vec<Json> = members.iter().map(|t| trimmed(t, Some(&id))).collect();
            if last && let Err(error) = keep(env, &id, &state, &members).await {
                tracing::warn!(actor = "recon", payout = id, error = %error, "the members of a payout were not kept and will be fetched again");
            }
            members
        }
        Err(error) => {
            fetched.errors.push(format!("the balance transactions of payout {id} could not be read: {error}"));
            let before: Vec<Json> = previous.transactions.iter().filter(|t| t["payout"] == id.as_str()).cloned().collect();
            if before.is_empty() {
                fetched.unread.push(id);
            }
            before
        }
    }
}

/// What cannot be read is fetched again: it is only a copy.
async fn kept(env: &Env, payout: &str, state: &str) -> Option<Vec<Json>> {
    let packed = env.store().payout_members(payout, state).await.ok().flatten()?;
    unpack(&packed).ok()
}

async fn keep(env: &Env, payout: &str, state: &str, members: &[Json]) -> Result<(), Error> {
    env.store().keep_payout_members(payout, state, env.now(), pack(&members)?).await
}
