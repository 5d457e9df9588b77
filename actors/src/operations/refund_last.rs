//! Refunds the newest captured payment and only that one, in test mode. Called by the gateway and the command line. The intent is
//! durable before the provider is asked; its id is the provider's idempotency key and is written on the refund, so that neither a
//! double click nor a crash nor a lost answer refunds twice. `resume_refunds.rs` finishes what a crash left open.

use serde_json::{Value as Json, json};

use super::{answered_at, by_provider, canary, fingerprint};
use crate::{
    config::ProviderMode,
    domain::ledger,
    env::{Env, rfc3339},
    error::{Code, Error, Result},
    providers::stripe::{Answer, OpenObject, intent_of},
    store::{RefundEnd, RefundIntent},
};

const OPERATION: &str = "refund_last";
/// The provider's words for why.
const REASONS: [&str; 3] = ["duplicate", "fraudulent", "requested_by_customer"];
/// How many pages of a hundred of the newest charges are looked at: with so many failed ones and trial payments before it, a payment is
/// not "the last" any more.
const LOOK_AT: usize = 50;

/// What a caller asks for. All but `asked_by` may be left out.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// `ch_...` or `pi_...`: refuse if the newest payment is another one.
    pub expected_payment_id: Option<String>,
    pub amount_minor: Option<i64>,
    /// `duplicate`, `fraudulent` or `requested_by_customer`.
    pub reason: Option<String>,
    pub idempotency_key: Option<String>,
    pub asked_by: String,
}

impl Asked {
    /// Reads the members of a request body; anything of the wrong kind is named.
    pub fn from_json(body: &Json, idempotency_key: Option<String>, asked_by: &str) -> Result<Self> {
        let text = |name: &'static str| match &body[name] {
            Json::Null => Ok(None),
            Json::String(text) => Ok(Some(text.clone())),
            _ => Err(Error::field(name, format!("{name} must be a text"))),
        };
        let amount_minor = match &body["amount_minor"] {
            Json::Null => None,
            value => Some(
                value
                    .as_i64()
                    .filter(|a| *a > 0)
                    .ok_or_else(|| Error::field("amount_minor", "amount_minor must be a whole number above 0"))?,
            ),
        };
        let asked = Self {
            expected_payment_id: text("expected_payment_id")?,
            amount_minor,
            reason: text("reason")?,
            idempotency_key,
            asked_by: asked_by.to_owned(),
        };
        if asked.reason.as_deref().is_some_and(|r| !REASONS.contains(&r)) {
            return Err(Error::field("reason", format!("reason is one of {}", REASONS.join(", "))));
        }
        let payment = |id: &str| ["ch_", "py_", "pi_"].iter().any(|p| id.len() > p.len() && id.starts_with(p));
        if asked.expected_payment_id.as_deref().is_some_and(|id| !payment(id)) {
            return Err(Error::field("expected_payment_id", "expected_payment_id is a charge (ch_...) or a payment intent (pi_...)"));
        }
        Ok(asked)
    }

    fn fingerprint(&self) -> String {
        fingerprint(&json!([self.expected_payment_id, self.amount_minor, self.reason]))
    }
}

/// Refunds the newest payment: `{"ok","refund_id","payment_id","amount_minor","currency","status","replayed"}`. Errors: `forbidden`
/// `live_mode`; `conflict` `nothing_to_refund`, `payment_changed`, `idempotency_key_reused`; `invalid` naming a field;
/// `unavailable` `provider_*`, after which the same request is safe to repeat.
pub async fn refund_last(env: &Env, asked: &Asked) -> Result<Json> {
    test_mode(env)?;
    let Some(key) = &asked.idempotency_key else { return refund(env, asked).await };
    let store = env.store();
    let before = store.take_key(OPERATION, key, &asked.fingerprint(), env.now()).await?;
    let intent = store.refund_intent_by_caller_key(key).await?;
    if let Some(before) = before {
        if before.request != asked.fingerprint() {
            return Err(Error::conflict("idempotency_key_reused", "this Idempotency-Key was used for another request"));
        }
        if let Some(answer) = before.answer {
            return Ok(as_it_is_now(replayed(answer), intent.as_ref()));
        }
    }
    // A first request that has not ended, was cut off or refused: its intent, if it came so far, is carried on under the same key.
    let result = match &intent {
        Some(intent) => carry_on(env, intent, &asked.asked_by).await.map(replayed),
        None => refund(env, asked).await,
    };
    match &result {
        Ok(answer) => store.keep_answer(OPERATION, key, answer).await?,
        // Nothing happened and the key may be used again; one with an intent belongs to it, and an unknown outcome keeps it.
        Err(error) if error.code != Code::Unavailable && store.refund_intent_by_caller_key(key).await?.is_none() => {
            store.free_key(OPERATION, key).await?;
        }
        Err(_) => {}
    }
    result
}

/// Three guards, of which each would do: the mode, the key's kind, and later the charge's own `livemode`.
pub(super) fn test_mode(env: &Env) -> Result<()> {
    if env.config().provider.mode.is_live() || env.provider().mode() != Some(ProviderMode::Test) { Err(live()) } else { Ok(()) }
}

fn live() -> Error {
    Error::forbidden("live_mode", "refund-last works in test mode only")
}

fn nothing(why: &str) -> Error {
    Error::conflict("nothing_to_refund", why)
}

async fn refund(env: &Env, asked: &Asked) -> Result<Json> {
    let charge = last_payment(env).await?.ok_or_else(|| nothing("there is no captured payment"))?;
    let mut intent = match decide(&charge, asked) {
        // Perhaps by a refund of ours whose answer was lost: then the repetition gets that answer.
        Err(error) if error.reason == "nothing_to_refund" => return carry_on_unfinished(env, &charge, asked).await?.ok_or(error),
        decided => decided?,
    };
    let (store, now) = (env.store(), env.now());
    // One that failed has used its key up: the next is another refund.
    let failed = store.failed_refund_intents(&intent.id).await?;
    if failed > 0 {
        intent.id = format!("{}-r{failed}", intent.id);
    }
    let data = json!({
        "charge": intent.charge, "amount_minor": intent.amount, "currency": intent.currency, "reason": intent.reason, "asked_by": asked.asked_by,
    });
    if store.insert_refund_intent(&intent, now, env.fact("refund.intent", &intent.id, data)).await? {
        return finish(env, &intent, &asked.asked_by).await;
    }
    match store.refund_intent(&intent.id).await? {
        // Another request's refund of the same amount, this moment: two were asked for, so this one must be asked again, after it.
        Some(before) if asked.idempotency_key.is_some() && before.caller_key != asked.idempotency_key => {
            Err(Error::conflict("refund_running", "another refund of this payment was just made; ask again"))
        }
        Some(before) => carry_on(env, &before, &asked.asked_by).await.map(replayed),
        None => Err(Error::conflict("idempotency_key_reused", "this Idempotency-Key belongs to the refund of another payment")),
    }
}

/// Reads the provider's charges, newest first, until there is a payment.
async fn last_payment(env: &Env) -> Result<Option<Json>> {
    let trial = canary::customer_id(env).await?;
    let mut pages = env.provider().pages("/v1/charges", &[]);
    for _ in 0..LOOK_AT {
        let Some(page) = pages.next().await.map_err(by_provider)? else { break };
        if let Some(charge) = newest(&page, trial.as_deref()) {
            return Ok(Some(charge.clone()));
        }
    }
    Ok(None)
}

/// The newest captured payment of a customer, whatever became of it since; the provider's order decides within a second. Trial payments
/// are no customer's.
fn newest<'a>(charges: &'a [Json], trial: Option<&str>) -> Option<&'a Json> {
    let is_trial = |c: &Json| c["metadata"][canary::MARK].is_string() || (trial.is_some() && c["customer"].as_str() == trial);
    let paid = charges.iter().filter(|c| c["status"] == "succeeded" && c["captured"] == true && !is_trial(c));
    paid.reduce(|best, c| if c["created"].as_i64() > best["created"].as_i64() { c } else { best })
}

/// What is to be refunded of this charge, or why nothing is.
fn decide(charge: &Json, asked: &Asked) -> Result<RefundIntent> {
    let text = |name: &str| charge[name].as_str().map(str::to_owned);
    let (id, payment_intent) = (text("id").unwrap_or_default(), text("payment_intent"));
    if charge["livemode"] != false {
        return Err(live());
    }
    if let Some(expected) = &asked.expected_payment_id
        && *expected != id
        && Some(expected) != payment_intent.as_ref()
    {
        return Err(Error::conflict("payment_changed", "the newest payment is another one now").with("payment_id", id));
    }
    let number = |name: &str| charge[name].as_i64().unwrap_or_default();
    let captured = charge["amount_captured"].as_i64().unwrap_or_else(|| number("amount"));
    let (refunded, left) = (number("amount_refunded"), captured - number("amount_refunded"));
    if charge["disputed"] == true {
        return Err(nothing("the newest payment is disputed").with("payment_id", id));
    }
    if charge["refunded"] == true || left <= 0 {
        return Err(nothing("the newest payment is refunded already").with("payment_id", id));
    }
    let amount = asked.amount_minor.unwrap_or(left);
    if amount > left {
        return Err(Error::field("amount_minor", format!("only {left} of this payment is left to refund")).with("payment_id", id));
    }
    if amount < left && asked.idempotency_key.is_none() {
        return Err(Error::field("Idempotency-Key", "a partial refund needs an Idempotency-Key: its repetition would refund more"));
    }
    Ok(RefundIntent {
        id: format!("ep-refund-{id}-{refunded}-{amount}"),
        caller_key: asked.idempotency_key.clone(),
        charge: id,
        payment_intent,
        amount,
        currency: text("currency").unwrap_or_default(),
        reason: asked.reason.clone(),
        state: "intended".to_owned(),
        refund_id: None,
        answer: None,
        created_at: chrono::DateTime::UNIX_EPOCH, // the store dates it
    })
}

/// What an intent of an earlier request came to, or its end if it has none yet.
async fn carry_on(env: &Env, intent: &RefundIntent, asked_by: &str) -> Result<Json> {
    match &intent.answer {
        Some(answer) if answer["ok"] == true => Ok(as_it_is_now(answer.clone(), Some(intent))),
        _ => resume(env, intent, asked_by).await,
    }
}

/// Asks the provider and writes down what came of it. When it says that it failed, or nothing, the refund may have been made all the same,
/// and the key would only repeat the failure: then its refunds are read.
async fn finish(env: &Env, intent: &RefundIntent, asked_by: &str) -> Result<Json> {
    match env.provider().create_intended_refund(&intent.charge, Some(intent.amount), intent.reason.as_deref(), &intent.id).await {
        Ok(answer) => succeeded(env, intent, &answer, answer.replayed, asked_by).await,
        Err(error) if error.code == Code::Unavailable => match made(env, intent).await {
            Ok(Some(refund)) => succeeded(env, intent, &refund, false, asked_by).await,
            _ => Err(failed(env, intent, error, asked_by).await?),
        },
        Err(error) => Err(failed(env, intent, error, asked_by).await?),
    }
}

async fn succeeded(env: &Env, intent: &RefundIntent, refund: &Answer, again: bool, asked_by: &str) -> Result<Json> {
    let (body, at) = (&refund.body, refund.provider_now.timestamp());
    let (status, refund_id) = (body["status"].as_str().unwrap_or("pending"), body["id"].as_str().unwrap_or_default());
    let answer = json!({
        "ok": true, "refund_id": refund_id, "payment_id": intent.charge, "amount_minor": body["amount"].as_i64().unwrap_or(intent.amount),
        "currency": intent.currency, "status": status, "replayed": again,
    });
    let fact = env.fact("refund.result", &intent.id, json!({"refund_id": refund_id, "status": status, "amount_minor": intent.amount}));
    // An answer that we do not understand is an answer all the same: its webhook books it.
    let applied = ledger::from_answer(body, at).ok().flatten().unwrap_or_default();
    let end = RefundEnd { id: &intent.id, refund_id, answer: &answer, applied: &applied };
    if env.store().end_refund_intent(&end, &answered_at(env, at), fact).await? {
        log(env, intent, asked_by, &answer).await; // once: of several who asked at the same time one wrote the end
    }
    Ok(answer)
}

/// Writes a refusal down; after a lost answer the intent stays open, because nobody knows.
async fn failed(env: &Env, intent: &RefundIntent, error: Error, asked_by: &str) -> Result<Error> {
    let unknown = error.is_retryable() || matches!(error.reason.as_ref(), "idempotency_key_in_use" | "livemode_mismatch");
    let error = translated(error);
    let line = json!({"ok": false, "error": error.message, "reason": error.reason, "outcome_known": !unknown});
    if !unknown {
        let fact = env.fact("refund.result", &intent.id, line.clone());
        env.store().refuse_refund_intent(&intent.id, &line, env.now(), fact).await?;
    }
    log(env, intent, asked_by, &line).await;
    Ok(error)
}

fn translated(error: Error) -> Error {
    let settled = ["charge_already_refunded", "charge_disputed", "refund_disputed_payment", "charge_not_refundable"];
    let reason = error.reason.to_string();
    if settled.contains(&reason.as_str()) {
        nothing("the provider says that this payment cannot be refunded any more").with("provider_reason", reason)
    } else if reason == "idempotency_key_in_use" {
        Error::conflict("refund_running", "this refund is being made")
    } else {
        by_provider(error)
    }
}

/// One line of `logs/refunds.log`. The refund is in the store and the journal by now: a full disk must not make it look failed.
async fn log(env: &Env, intent: &RefundIntent, asked_by: &str, outcome: &Json) {
    let mut line = json!({
        "ts": rfc3339(env.now()), "ok": outcome["ok"], "refund_id": outcome["refund_id"], "payment_id": intent.charge,
        "amount_minor": intent.amount, "currency": intent.currency, "status": outcome["status"], "reason": intent.reason, "asked_by": asked_by,
    });
    if outcome["ok"] == false {
        line["error"] = outcome["error"].clone();
        line["outcome_known"] = outcome["outcome_known"].clone();
    }
    if let Err(error) = env.append(env.log_path("refunds.log"), line).await {
        tracing::error!(target: "gateway", %error, "a refund could not be written to logs/refunds.log");
    }
}

fn replayed(mut answer: Json) -> Json {
    answer["replayed"] = true.into();
    answer
}

/// The refund of this charge that was intended and has no outcome, brought to its end.
async fn carry_on_unfinished(env: &Env, charge: &Json, asked: &Asked) -> Result<Option<Json>> {
    let open = env.store().open_refund_intents().await?;
    let same =
        |i: &&RefundIntent| i.state == "intended" && charge["id"] == i.charge.as_str() && asked.amount_minor.is_none_or(|a| a == i.amount);
    match open.iter().find(same) {
        Some(intent) => resume(env, intent, &asked.asked_by).await.map(|answer| Some(replayed(answer))),
        None => Ok(None),
    }
}

/// Brings an intent without an outcome to its end: reads what the provider has before anything is asked of it again.
pub(super) async fn resume(env: &Env, intent: &RefundIntent, asked_by: &str) -> Result<Json> {
    let result = if let Some(refund) = there(made(env, intent).await)?.flatten() {
        succeeded(env, intent, &refund, true, asked_by).await
    } else {
        let charge = there(env.provider().charge(&intent.charge).await)?;
        let (before, now) = (refunded_before(intent), charge.as_ref().and_then(|c| c["amount_refunded"].as_i64()));
        if before.is_some() && now == before {
            finish(env, intent, asked_by).await
        } else {
            let why =
                if charge.is_some() { "the payment was refunded otherwise meanwhile" } else { "the provider has no such payment any more" };
            let error = failed(env, intent, nothing(why), asked_by).await?;
            // That it was not made is known by now, though the call itself was never answered.
            env.store().call_answered(&intent.id, 409, None, None, env.now()).await?;
            Err(error)
        }
    };
    if let (Ok(answer), Some(key)) = (&result, &intent.caller_key) {
        env.store().keep_answer(OPERATION, key, answer).await?;
    }
    result
}

/// What the provider has, or nothing: test data can be cleared at any time.
fn there<T>(answered: Result<T>) -> Result<Option<T>> {
    match answered {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.code == Code::NotFound => Ok(None),
        Err(error) => Err(by_provider(error)),
    }
}

/// The refund that was made for this intent: the one that carries its id. One without any such mark (made by an older program) counts
/// only if it is the only one of this amount and belongs to no other intent.
async fn made(env: &Env, intent: &RefundIntent) -> Result<Option<Answer>> {
    let refunds = env.provider().refunds_of_charge(&intent.charge).await?;
    let mut found = refunds.iter().find(|r| intent_of(r) == Some(&intent.id)).and_then(|r| r["id"].as_str());
    if found.is_none() {
        let alike: Vec<_> = refunds.iter().filter(|r| intent_of(r).is_none() && r["amount"].as_i64() == Some(intent.amount)).collect();
        if let [only] = alike.as_slice()
            && let Some(id) = only["id"].as_str()
            && !env.store().has_refund(id).await?
        {
            found = Some(id);
        }
    }
    match found {
        Some(id) => env.provider().object(OpenObject::Refund, id).await.map(Some),
        None => Ok(None),
    }
}

/// How much of the charge was refunded when the intent was made: it is part of its id.
fn refunded_before(intent: &RefundIntent) -> Option<i64> {
    let tail = intent.id.strip_prefix("ep-refund-")?.strip_prefix(intent.charge.as_str())?.strip_prefix('-')?;
    tail.split('-').next()?.parse().ok()
}

/// An answer of before with the state that its refund has by now.
fn as_it_is_now(mut answer: Json, intent: Option<&RefundIntent>) -> Json {
    match intent.map(|i| i.state.as_str()) {
        Some(state @ ("succeeded" | "failed")) if answer["status"] != "canceled" => answer["status"] = state.into(),
        _ => {}
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charge(id: &str, created: i64) -> Json {
        json!({
            "id": id, "payment_intent": format!("pi_{id}"), "status": "succeeded", "captured": true, "livemode": false, "disputed": false,
            "refunded": false, "amount": 1000, "amount_captured": 1000, "amount_refunded": 0, "currency": "usd", "created": created,
        })
    }

    fn with(name: &str, value: Json) -> Json {
        let mut charge = charge("ch_1", 5);
        charge[name] = value;
        charge
    }

    #[test]
    fn the_newest_captured_payment_is_the_one() {
        let (mut failed, mut authorised) = (charge("ch_3", 30), charge("ch_4", 40));
        failed["status"] = "failed".into();
        authorised["captured"] = false.into();
        let charges = [charge("ch_1", 10), authorised, failed, charge("ch_2", 20), charge("ch_2b", 20)];
        assert_eq!(newest(&charges, None).unwrap()["id"], "ch_2");
        assert!(newest(&charges[1..3], None).is_none());
        let mut trial = charge("ch_9", 90);
        trial["customer"] = "cus_trial".into();
        let mut marked = charge("ch_8", 80);
        marked["metadata"] = json!({canary::MARK: "can_1"});
        let with_trials = [trial, marked, charge("ch_2", 20)];
        assert_eq!(newest(&with_trials, Some("cus_trial")).unwrap()["id"], "ch_2");
    }

    #[test]
    fn one_that_is_refunded_or_disputed_is_never_passed_over_for_an_older_one() {
        let reason = |charge: &Json, asked: &Asked| decide(charge, asked).map(|i| i.id).map_err(|e| e.reason.to_string());
        let any = Asked::default();
        assert_eq!(reason(&charge("ch_1", 5), &any), Ok("ep-refund-ch_1-0-1000".into()));
        assert_eq!(reason(&with("amount_refunded", json!(400)), &any), Ok("ep-refund-ch_1-400-600".into()));
        assert_eq!(reason(&with("refunded", json!(true)), &any), Err("nothing_to_refund".into()));
        assert_eq!(reason(&with("amount_refunded", json!(1000)), &any), Err("nothing_to_refund".into()));
        assert_eq!(reason(&with("disputed", json!(true)), &any), Err("nothing_to_refund".into()));
        assert_eq!(reason(&with("livemode", json!(true)), &any), Err("live_mode".into()));
        assert_eq!(reason(&with("livemode", Json::Null), &any), Err("live_mode".into()));
        let expecting = |id: &str| Asked { expected_payment_id: Some(id.into()), ..Asked::default() };
        assert!(reason(&charge("ch_1", 5), &expecting("ch_1")).is_ok());
        assert!(reason(&charge("ch_1", 5), &expecting("pi_ch_1")).is_ok());
        assert_eq!(reason(&charge("ch_1", 5), &expecting("ch_0")), Err("payment_changed".into()));
    }

    #[test]
    fn a_partial_refund_needs_a_key() {
        let field = |amount, key: Option<&str>| {
            let asked = Asked { amount_minor: Some(amount), idempotency_key: key.map(str::to_owned), ..Asked::default() };
            decide(&charge("ch_1", 5), &asked).err().and_then(|e| e.field)
        };
        assert_eq!(field(300, None).as_deref(), Some("Idempotency-Key"));
        assert_eq!(field(300, Some("k")), None);
        assert_eq!(field(1000, None), None);
        assert_eq!(field(1001, Some("k")).as_deref(), Some("amount_minor"));
    }

    #[test]
    fn what_is_wrong_in_a_body_is_named() {
        for (body, field) in [
            (json!({"amount_minor": 0}), "amount_minor"),
            (json!({"amount_minor": 1.5}), "amount_minor"),
            (json!({"amount_minor": "5"}), "amount_minor"),
            (json!({"reason": "because"}), "reason"),
            (json!({"reason": 1}), "reason"),
            (json!({"expected_payment_id": "in_1"}), "expected_payment_id"),
            (json!({"expected_payment_id": "ch_"}), "expected_payment_id"),
        ] {
            assert_eq!(Asked::from_json(&body, None, "t").unwrap_err().field.as_deref(), Some(field), "{body}");
        }
        assert!(Asked::from_json(&json!({}), None, "t").is_ok());
    }

    #[test]
    fn an_intents_id_tells_what_was_refunded_before() {
        let intent = decide(&with("amount_refunded", json!(400)), &Asked::default()).unwrap();
        assert_eq!(refunded_before(&intent), Some(400));
        let again = RefundIntent { id: format!("{}-r2", intent.id), ..intent };
        assert_eq!(refunded_before(&again), Some(400));
    }
}
