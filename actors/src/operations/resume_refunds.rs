//! Brings refunds to their end that a crash, a lost answer or a silent webhook left open. Called by the gateway at its start and every
//! while, and by the gap finder. It reads before it asks: what the provider has made is never made again.

use serde_json::json;

use super::{
    book_answer,
    refund_last::{resume, test_mode},
};
use crate::{
    env::{Env, rfc3339},
    error::{Code, Result},
    providers::stripe::OpenObject,
    store::RefundIntent,
};

/// A request that intended a refund has ended by then.
const IN_FLIGHT: chrono::TimeDelta = chrono::TimeDelta::seconds(90);

/// Finishes refunds that were intended and have no outcome: after a crash or a lost answer, with the same idempotency key, and never
/// twice, because the charge is read first (the provider forgets keys after a day). Those of the last minute belong to a
/// request that may still be going on. Answers how many were finished.
pub async fn resume_open_intents(env: &Env) -> Result<usize> {
    if test_mode(env).is_err() {
        return Ok(0);
    }
    let open = env.store().open_refund_intents().await?;
    let mut done = 0;
    let old = |i: &&RefundIntent| i.state == "intended" && (i.created_at < env.started_at() || env.now() - i.created_at > IN_FLIGHT);
    for intent in open.iter().filter(old) {
        match resume(env, intent, "resume").await {
            Ok(_) => {
                tracing::warn!(target: "gateway", intent = intent.id, "an interrupted refund was finished");
                done += 1;
            }
            Err(error) if error.is_retryable() => return Err(error),
            Err(error) => tracing::warn!(target: "gateway", intent = intent.id, %error, "an interrupted refund was given up"),
        }
    }
    Ok(done)
}

/// Reads the refunds of ours that have not come to their end, in case their webhooks do not come; answers how many were looked at.
pub async fn follow_pending(env: &Env) -> Result<usize> {
    let open = env.store().open_refund_intents().await?;
    let mut looked = 0;
    for id in open.iter().filter(|i| i.state == "pending").filter_map(|i| i.refund_id.as_deref()) {
        match env.provider().background().object(OpenObject::Refund, id).await {
            Ok(refund) => book_answer(env, &refund).await?,
            Err(error) if error.code == Code::NotFound => continue, // test data was cleared: nobody will hear of it any more
            Err(error) => return Err(error),
        }
        looked += 1;
    }
    Ok(looked)
}

/// Says which calls of processes before this one were never answered. Those of refunds are brought to their end by
/// `resume_open_intents`; for the others the log names the key, under which the same request is safe for a day. Answers how many.
pub async fn report_unanswered(env: &Env) -> Result<usize> {
    let calls = env.store().unanswered_calls(env.started_at(), 100).await?;
    for call in &calls {
        tracing::warn!(target: "stripe", key = call.key, path = call.path, attempts = call.attempts, sent_at = rfc3339(call.sent_at), "a call of before was never answered");
    }
    if !calls.is_empty() {
        let keys: Vec<&str> = calls.iter().map(|c| c.key.as_str()).collect();
        env.store().journal(env.fact("provider.unanswered", env.incarnation(), json!({"keys": keys}))).await?;
    }
    Ok(calls.len())
}
