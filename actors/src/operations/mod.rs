//! What an operator can do, one operation per file: called by the gateway and the command line alike. An operation has no state of its
//! own; what must not be lost is in the store before anybody outside is asked.

/// A trial payment from end to end.
pub mod canary;
/// Rows of the ledger that correct others.
pub mod correct_ledger;
/// A test invoice, finalized and not paid.
pub mod create_invoice;
/// A few weeks of a small business in the sandbox.
pub mod demo;
/// What does not agree, and what is decided about it.
pub mod exceptions;
pub mod exclude;
/// Findings as CSV.
pub mod export;
/// What signed links in messages do.
pub mod follow_link;
/// What went wrong, and what people do about it.
pub mod incidents;
/// A customer's invoices, over all customers with that address.
pub mod invoices;
/// API keys.
pub mod keys;
/// What was sent to people, and whether it arrived.
pub mod notifications;
/// Signed links to the customer's page.
pub mod portal_link;
/// Jobs of the user's own that report to us.
pub mod pushes;
/// Refunds the newest payment, in test mode.
pub mod refund_last;
/// When rules would have fired on recorded history.
pub mod replay_alerts;
/// Stored events, processed again.
pub mod replay_events;
/// Refunds that were left open, brought to their end.
pub mod resume_refunds;
/// The second target of the backups, brought up to date.
pub mod sync_replica;

use crate::{
    domain::ledger,
    env::Env,
    error::{Code, Error, Result},
    providers::{STRIPE, stripe::Answer},
    store::Origin,
};

/// Books what an answer of the provider to something we did means (a payment or a refund of ours, an invoice): what its webhook will tell
/// is there already then, and adds nothing twice. An answer that we do not understand is left to its webhook.
pub async fn book_answer(env: &Env, answer: &Answer) -> Result<()> {
    let at = answer.provider_now.timestamp();
    match ledger::from_answer(&answer.body, at) {
        Ok(Some(applied)) => env.store().book(&applied, &answered_at(env, at)).await,
        Ok(None) | Err(_) => Ok(()),
    }
}

/// Where an answer that came at this time of the provider belongs.
fn answered_at(env: &Env, at: i64) -> Origin<'static> {
    Origin { provider: STRIPE, livemode: env.config().provider.mode.is_live(), event_id: None, origin: "api", at, now: env.now() }
}

/// The provider's failure as ours: what it refused is not the caller's mistake. A conflict stays one, because it tells the state of an object.
fn by_provider(error: Error) -> Error {
    match error.code {
        Code::Conflict | Code::Internal => error,
        Code::Unavailable => Error { reason: "provider_unavailable".into(), ..error },
        Code::Limited => Error { code: Code::Unavailable, reason: "provider_limited".into(), ..error },
        _ => {
            let reason = error.reason.to_string();
            Error { code: Code::Unavailable, reason: "provider_refused".into(), field: None, ..error }.with("provider_reason", reason)
        }
    }
}

/// A digest of what was asked, to tell a repetition of a request from another one under the same key.
fn fingerprint(asked: &serde_json::Value) -> String {
    crate::files::hex(ring::digest::digest(&ring::digest::SHA256, asked.to_string().as_bytes()).as_ref())
}
