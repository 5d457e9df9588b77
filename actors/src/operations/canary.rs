//! A trial payment from end to end: make an invoice, pay it, wait for the webhook's effect, refund it, wait for that. Called by the slo actor
//! as a schedule says and by hand. Its latency is a service level of its own. Whatever one leaves behind when it fails is taken back at
//! once, or by the next one or the next start; a trial payment is never what refund-last takes for the last payment.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::{Value as Json, json};
use tokio::time::{Instant, sleep};

use super::by_provider;
use crate::{
    alert,
    config::{CanaryMode, ProviderMode},
    domain::alert_rule::{Check, Severity},
    env::{Env, rfc3339},
    error::{Code, Error, Result},
    files,
    store::CanaryRow,
};

/// The service whose outcomes and latencies the meter counts.
pub const SERVICE: &str = "canary";
/// Marks the invoice and the charge at the provider.
pub const MARK: &str = "echopilot_canary";
/// The customer that is made for it in test mode.
const EMAIL: &str = "canary@echopilot.invalid";
const CUSTOMER: &str = "canary.customer";
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const KEPT: TimeDelta = TimeDelta::days(35);

/// Whether trial payments are made with this configuration.
pub fn is_on(env: &Env) -> bool {
    match env.config().canary.mode {
        CanaryMode::Off => false,
        CanaryMode::On => true,
        CanaryMode::Auto => !env.config().provider.mode.is_live() && env.provider().mode() == Some(ProviderMode::Test),
    }
}

/// The id of the customer whose payments are trials, if one was made or configured.
pub async fn customer_id(env: &Env) -> Result<Option<String>> {
    match env.config().canary.customer.as_str() {
        "" => Ok(env.store().meta(CUSTOMER).await?.filter(|id| !id.is_empty())),
        id => Ok(Some(id.to_owned())),
    }
}

/// Makes one trial payment and takes back what earlier ones left; answers its record, whose `state` is `passed` or `failed`. Errors:
/// `forbidden` `canary_off`, `conflict` `demo_running`, and those of the store: a provider that fails is an outcome, not an error.
pub async fn run(env: &Env) -> Result<Json> {
    if !is_on(env) {
        return Err(Error::forbidden("canary_off", "trial payments are off (canary.mode)"));
    }
    let store = env.store();
    if super::demo::is_being_made(env).await? {
        return Err(Error::conflict("demo_running", "the demo business is being made, in the past: no trial payments meanwhile"));
    }
    take_back_all(env).await?;
    store.prune_canaries(env.now() - KEPT).await?;
    let id = format!("can_{}", uuid::Uuid::now_v7().simple());
    store.insert_canary(&id, env.config().provider.mode.is_live(), env.now()).await?;
    let mut row = CanaryRow { id, state: "running".into(), step: "customer".into(), started_at: env.now(), ..CanaryRow::default() };
    let outcome = pay_and_refund(env, &mut row).await;
    row.ended_at = Some(env.now());
    match &outcome {
        Ok(()) => (row.state, row.step) = ("passed".into(), "done".into()),
        Err(error) => (row.state, row.error) = ("failed".into(), Some(error.message.clone())),
    }
    let data = json!({"state": row.state, "step": row.step, "paid_ms": row.paid_ms, "refunded_ms": row.refunded_ms, "error": row.error});
    store.end_canary(&row, env.fact("canary.ended", &row.id, data)).await?;
    measured(env, &row);
    alert::evaluate(env, vec![check(env, &row)]).await?;
    let told = view(&row);
    if outcome.is_err() {
        tidy(env, row).await?; // at once: there may be no next one for long
    }
    Ok(told)
}

/// Takes back what trial payments left behind, also when none are made any more.
pub async fn take_back_all(env: &Env) -> Result<()> {
    for left in env.store().untidy_canaries(env.config().provider.mode.is_live()).await? {
        tidy(env, left).await?;
    }
    Ok(())
}

async fn pay_and_refund(env: &Env, row: &mut CanaryRow) -> Result<()> {
    let (provider, store, settings) = (env.provider(), env.store(), &env.config().canary);
    let key = |what: &str| format!("ep-{}-{what}", row_key(&row.id));
    let keys = ["invoice", "item", "finalize", "pay", "mark", "refund"].map(key);
    let customer = customer(env).await?;
    step(env, row, "invoice").await?;
    let invoice = provider.create_trial_invoice(&customer, &settings.currency, (MARK, &row.id), &keys[0]).await.map_err(by_provider)?;
    let invoice = id_of(&invoice)?;
    row.invoice = Some(invoice.clone());
    step(env, row, "finalize").await?;
    let what = "Trial payment, refunded at once";
    provider
        .create_invoice_item(&invoice, &customer, settings.amount_minor, &settings.currency, what, &keys[1])
        .await
        .map_err(by_provider)?;
    provider.finalize_invoice(&invoice, &keys[2]).await.map_err(by_provider)?;

    step(env, row, "pay").await?;
    let (begun, after) = (Instant::now(), store.last_event().await?);
    provider.pay_invoice(&invoice, &[], &keys[3]).await.map_err(by_provider)?;
    let charge = charge_of(env, &invoice).await?.ok_or_else(|| Error::unavailable("no_charge", "the paid invoice has no charge"))?;
    row.charge = Some(charge.clone());
    step(env, row, "paid_webhook").await?;
    took_effect(env, after, "charge.succeeded", &charge).await?;
    row.paid_ms = Some(elapsed_ms(begun));
    if let Err(error) = provider.mark_charge(&charge, (MARK, &row.id), &keys[4]).await {
        tracing::warn!(target: "canary", id = row.id, %error, "the trial payment could not be marked; it is known by its customer");
    }

    step(env, row, "refund").await?;
    let (begun, after) = (Instant::now(), store.last_event().await?);
    let refund = provider.create_refund(&charge, None, None, &keys[5]).await.map_err(by_provider)?.body;
    let refund = id_of(&refund)?;
    row.refund = Some(refund.clone());
    step(env, row, "refund_webhook").await?;
    took_effect(env, after, "refund.created", &refund).await?;
    row.refunded_ms = Some(elapsed_ms(begun));
    Ok(())
}

/// What an idempotency key may be made of.
fn row_key(id: &str) -> String {
    id.replace('_', "-")
}

async fn step(env: &Env, row: &mut CanaryRow, step: &str) -> Result<()> {
    step.clone_into(&mut row.step);
    env.store().update_canary(row).await
}

/// The customer whose card is charged; in test mode one is made and remembered.
async fn customer(env: &Env) -> Result<String> {
    if let Some(id) = customer_id(env).await? {
        match env.provider().get(&format!("/v1/customers/{id}"), &[]).await {
            Ok(answer) if answer.body["deleted"] != true => {
                let has_card = answer.body["invoice_settings"]["default_payment_method"].is_string();
                if !has_card && env.config().canary.customer.is_empty() {
                    give_card(env, &id).await?; // the attempt that made this customer was cut off
                }
                return Ok(id);
            }
            Ok(_) => {}
            Err(error) if error.code == Code::NotFound => {} // the sandbox was reset
            Err(error) => return Err(by_provider(error)),
        }
    }
    if !env.config().canary.customer.is_empty() {
        return Err(Error::invalid("canary_customer", "the customer in canary.customer does not exist at the provider"));
    }
    let made = env.provider().create_customer(EMAIL, &format!("ep-canary-{}", files::random_hex(8))).await.map_err(by_provider)?;
    let id = id_of(&made)?;
    env.store().set_meta(CUSTOMER, &id).await?;
    give_card(env, &id).await?;
    Ok(id)
}

async fn give_card(env: &Env, customer: &str) -> Result<()> {
    let key = format!("ep-canary-card-{}", files::random_hex(8));
    env.provider().attach_payment_method(customer, "pm_card_visa", &key).await.map(drop).map_err(by_provider)
}

async fn charge_of(env: &Env, invoice: &str) -> Result<Option<String>> {
    let payments = env.provider().invoice_payments(invoice).await.map_err(by_provider)?;
    let paid = payments.iter().find(|p| p["status"] == "paid");
    let Some(intent) = paid.and_then(|p| p["payment"]["payment_intent"].as_str()) else { return Ok(None) };
    let intent = env.provider().payment_intent(intent).await.map_err(by_provider)?;
    Ok(intent["latest_charge"].as_str().map(str::to_owned))
}

/// Waits until the webhook came in and was processed. The gap finder's backfill does not count: the way itself is on trial.
async fn took_effect(env: &Env, after: i64, event_type: &str, object: &str) -> Result<()> {
    let limit = Duration::from_secs(env.config().canary.timeout_s);
    let begun = Instant::now();
    while !env.store().webhook_took_effect(after, event_type, object).await? {
        if begun.elapsed() > limit {
            let text = format!("the webhook {event_type} of {object} has not taken effect within {} s", limit.as_secs());
            return Err(Error::unavailable("webhook_missing", text));
        }
        sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Takes back what a trial payment left behind that failed or was cut off: a draft is deleted, an open invoice voided, a payment refunded.
/// What cannot be taken back now is tried again next time.
async fn tidy(env: &Env, mut row: CanaryRow) -> Result<()> {
    match take_back(env, &row).await {
        Ok(()) => {
            (row.state, row.step) = ("failed".into(), "tidied".into());
            row.ended_at = row.ended_at.or(Some(env.now()));
            row.error = row.error.or_else(|| Some("it was cut off".into()));
            env.store().end_canary(&row, env.fact("canary.tidied", &row.id, json!({"invoice": row.invoice, "charge": row.charge}))).await
        }
        Err(error) => {
            tracing::warn!(target: "canary", id = row.id, %error, "what a trial payment left behind could not be taken back yet");
            Ok(())
        }
    }
}

async fn take_back(env: &Env, row: &CanaryRow) -> Result<()> {
    let Some(invoice) = &row.invoice else { return Ok(()) };
    let (provider, key) = (env.provider(), |what: &str| format!("ep-{}-{what}", row_key(&row.id)));
    let now = match provider.invoice(invoice).await {
        Ok(now) => now,
        Err(error) if error.code == Code::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    match now["status"].as_str() {
        Some("draft") => provider.delete(&format!("/v1/invoices/{invoice}")).await.map(drop),
        Some("open" | "uncollectible") => provider.void_invoice(invoice, &key("void")).await.map(drop),
        Some("paid") => {
            let Some(charge) = charge_of(env, invoice).await? else { return Ok(()) };
            if provider.charge(&charge).await?["refunded"] == true {
                return Ok(());
            }
            provider.create_refund(&charge, None, None, &key("refund")).await.map(drop)
        }
        _ => Ok(()),
    }
}

fn measured(env: &Env, row: &CanaryRow) {
    let took_ms = row.paid_ms.unwrap_or(0) + row.refunded_ms.unwrap_or(0);
    let failed = row.state != "passed";
    env.meter().record(SERVICE, env.now(), u64::try_from(took_ms).unwrap_or(0) * 1000, failed);
}

fn check(env: &Env, row: &CanaryRow) -> Check {
    let took_ms = row.paid_ms.zip(row.refunded_ms).map(|(paid, refunded)| paid + refunded);
    let reason = match &row.error {
        Some(error) => format!("the trial payment {} failed at the step {}: {error}", row.id, row.step),
        None => "an invoice was paid and refunded, and both webhooks took effect".to_owned(),
    };
    Check {
        name: "payment_canary".into(),
        system: "payments",
        ok: Some(row.error.is_none()),
        severity: Severity::Critical,
        value: took_ms.map(|ms| format!("{ms} ms")),
        threshold: format!("both webhooks within {} s", env.config().canary.timeout_s),
        reason,
        ..Check::default()
    }
}

/// A trial payment as the API shows it.
pub fn view(row: &CanaryRow) -> Json {
    json!({
        "id": row.id, "state": row.state, "step": row.step, "started_at": rfc3339(row.started_at), "ended_at": row.ended_at.map(rfc3339),
        "invoice_id": row.invoice, "charge_id": row.charge, "refund_id": row.refund, "paid_ms": row.paid_ms, "refunded_ms": row.refunded_ms,
        "total_ms": row.paid_ms.zip(row.refunded_ms).map(|(a, b)| a + b), "error": row.error,
    })
}

fn id_of(object: &Json) -> Result<String> {
    let id = object["id"].as_str().map(str::to_owned);
    id.ok_or_else(|| Error::unavailable("provider_unavailable", "the provider's answer has no id"))
}

fn elapsed_ms(since: Instant) -> i64 {
    i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX)
}
