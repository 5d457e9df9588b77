//! Reconciles as soon as there is something new to reconcile: when the provider has said that a payout is listed, failed or was canceled. Called at
//! every look of the recon actor; the schedule of `payout_recon` is the net below it. It only asks the timer for a run, so the run has its
//! row like any other.

use super::NOUN;
use crate::{env::Env, error::Result, timer};

const TASK: &str = "payout_recon";
const EVENTS: [&str; 3] = ["payout.reconciliation_completed", "payout.failed", "payout.canceled"];
/// Where the store keeps the place of the newest event that was followed.
const FOLLOWED: &str = "recon.followed_event";

pub(super) async fn look(env: &Env) {
    match try_look(env).await {
        Ok(()) => {}
        // One is running: what is new is looked at after it.
        Err(error) if error.reason == "already_running" => {}
        Err(error) => tracing::warn!(actor = NOUN, %error, "a reconciliation could not be asked for; the schedule will make it"),
    }
}

async fn try_look(env: &Env) -> Result<()> {
    let store = env.store();
    let followed = store.meta(FOLLOWED).await?.and_then(|n| n.parse::<i64>().ok()).unwrap_or(0);
    let mut newest = 0;
    for event_type in EVENTS {
        newest = newest.max(store.newest_processed(event_type).await?);
    }
    if newest <= followed {
        return Ok(());
    }
    timer::run_now(env, TASK, "recon: a payout is complete or came back").await?;
    store.set_meta(FOLLOWED, &newest.to_string()).await
}
