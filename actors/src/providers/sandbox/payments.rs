//! Payment intents and charges: what happens when a card is charged, with its fee and its movement on the balance. Called by
//! the dispatcher, by invoices that are paid and by the hosted page.

use serde_json::{Value as Json, json};

use super::{
    catalog,
    control::take,
    customers,
    documents::{Kind, Query, Tx, id_of},
    failure::{Api, Failure},
    form::Params,
    invoices,
    payouts::{self, Movement},
    shapes,
};
use crate::domain::money;

/// The provider's fee for a charge: a share, rounded half up, and a fixed part that depends on the currency.
pub(super) fn fee(amount: i64, currency: &str, basis_points: i64, fixed_usd: i64) -> i64 {
    let fixed = match (currency, money::exponent(currency)) {
        ("eur" | "chf", _) => fixed_usd * 5 / 6,
        ("gbp", _) => fixed_usd * 2 / 3,
        (_, 3) => fixed_usd * 10,
        _ => fixed_usd,
    };
    (amount * basis_points + 5_000).div_euclid(10_000) + fixed
}

/// `amount` and `currency`, within the provider's limits.
pub(super) fn checked_amount(p: Params<'_>) -> Api<(i64, String)> {
    let amount = p.int("amount")?.ok_or_else(|| Failure::missing_parameter("amount"))?;
    let currency = catalog::currency(p)?;
    if amount < 1 {
        return Err(Failure::parameter("parameter_invalid_integer", "amount", "This value must be greater than or equal to 1."));
    }
    let minimum = money::minimum_charge(&currency);
    if amount < minimum {
        let message = format!("Amount must be at least {}", amount_text(minimum, &currency));
        return Err(Failure::parameter("amount_too_small", "amount", message));
    }
    if amount > money::MAXIMUM {
        let message = format!("Amount must be no more than {}", amount_text(money::MAXIMUM, &currency));
        return Err(Failure::parameter("amount_too_large", "amount", message));
    }
    check_step(amount, &currency)?;
    Ok((amount, currency))
}

/// Whole units where only those exist, and no last digit of thousandths.
pub(super) fn check_step(amount: i64, currency: &str) -> Api<()> {
    let step = money::step(currency);
    if amount % step == 0 {
        return Ok(());
    }
    let message = format!("Amount must be divisible by {step} for {}", currency.to_uppercase());
    Err(Failure::parameter("invalid_charge_amount_no_decimal_compatible", "amount", message))
}

/// "$7.00" as the provider's sentences have it; "7.00 chf" where it has no symbol.
pub(super) fn amount_text(amount: i64, currency: &str) -> String {
    let number = money::format_minor(amount, currency);
    match currency {
        "usd" => format!("${number}"),
        "eur" => format!("€{number}"),
        "gbp" => format!("£{number}"),
        "jpy" => format!("¥{number}"),
        other => format!("{number} {other}"),
    }
}

pub(super) async fn create_intent(tx: &mut Tx<'_>, p: Params<'_>) -> Api<Json> {
    p.only(&[
        "amount",
        "currency",
        "customer",
        "payment_method",
        "confirm",
        "capture_method",
        "description",
        "metadata",
        "payment_method_types",
        "automatic_payment_methods",
        "off_session",
        "receipt_email",
        "statement_descriptor",
        "return_url",
        "error_on_requires_action",
    ])?;
    let (amount, currency) = checked_amount(p)?;
    let customer = match p.text("customer") {
        Some(id) => customers::living(tx, id, "customer").await?["id"].clone(),
        None => Json::Null,
    };
    let mut body = shapes::intent(tx.now, amount, &currency, customer);
    body["capture_method"] = p.choice("capture_method", &["automatic", "automatic_async", "manual"])?.unwrap_or("automatic_async").into();
    p.copy_texts(&mut body, &["description", "receipt_email", "statement_descriptor"]);
    p.merge_metadata(&mut body);
    if let Some(id) = p.text("payment_method") {
        body["payment_method"] = customers::method(tx, id, "payment_method").await?["id"].clone();
        body["status"] = "requires_confirmation".into();
    }
    tx.put(body.clone());
    tx.emit("payment_intent.created", &body, None);
    if p.boolean("confirm")?.unwrap_or(false) {
        if body["payment_method"].is_null() {
            return Err(Failure::missing_parameter("payment_method"));
        }
        return confirm(tx, body).await;
    }
    Ok(body)
}

pub(super) fn unexpected_state(intent: &Json, doing: &str) -> Box<Failure> {
    let status = intent["status"].as_str().unwrap_or_default();
    let message = format!("You cannot {doing} this PaymentIntent because it has a status of {status}.");
    Failure::refused(Some("payment_intent_unexpected_state"), message).with("payment_intent", intent.clone())
}

pub(super) async fn confirm_intent(tx: &mut Tx<'_>, id: &str, p: Params<'_>) -> Api<Json> {
    p.only(&["payment_method", "return_url", "off_session", "receipt_email"])?;
    let mut intent = tx.need(Kind::PaymentIntent, id, "id").await?;
    if !matches!(intent["status"].as_str(), Some("requires_payment_method" | "requires_confirmation")) {
        return Err(unexpected_state(&intent, "confirm"));
    }
    if let Some(method) = p.text("payment_method") {
        intent["payment_method"] = customers::method(tx, method, "payment_method").await?["id"].clone();
    }
    if intent["payment_method"].is_null() {
        return Err(Failure::refused(
            Some("payment_intent_unexpected_state"),
            "You cannot confirm this PaymentIntent because it's missing a payment method. You can either update the PaymentIntent with a payment method and then confirm it again, or confirm it again directly with a payment method or ConfirmationToken.",
        ));
    }
    p.copy_texts(&mut intent, &["receipt_email"]);
    confirm(tx, intent).await
}

/// Charges the intent's payment method. A decline leaves a failed charge and the intent waiting for another card.
pub(super) async fn confirm(tx: &mut Tx<'_>, mut intent: Json) -> Api<Json> {
    let method = tx.need(Kind::PaymentMethod, intent["payment_method"].as_str().unwrap_or_default(), "payment_method").await?;
    let mut charge = shapes::charge(tx.now, &intent, &method);
    intent["latest_charge"] = charge["id"].clone();
    if let Some(code) = method["_decline"].as_str() {
        return Err(decline(tx, intent, charge, &method, code).await?);
    }
    if intent["capture_method"] == "manual" {
        charge["captured"] = false.into();
        charge["amount_captured"] = 0.into();
        (intent["status"], intent["amount_capturable"]) = ("requires_capture".into(), intent["amount"].clone());
        tx.put(charge.clone());
        tx.emit("charge.succeeded", &charge, None);
        tx.put(intent.clone());
        tx.emit("payment_intent.amount_capturable_updated", &intent, None);
        return Ok(intent);
    }
    take_money(tx, &mut charge);
    tx.put(charge.clone());
    tx.emit("charge.succeeded", &charge, None);
    succeed(tx, intent, charge["amount"].as_i64().unwrap_or_default()).await
}

/// The money arrived: the intent is done, and the invoice it was for learns of it.
async fn succeed(tx: &mut Tx<'_>, mut intent: Json, received: i64) -> Api<Json> {
    (intent["status"], intent["amount_received"], intent["amount_capturable"]) = ("succeeded".into(), received.into(), 0.into());
    intent["last_payment_error"] = Json::Null;
    tx.put(intent.clone());
    tx.emit("payment_intent.succeeded", &intent, None);
    invoices::on_payment(tx, &intent).await?;
    Ok(intent)
}

/// What a refused card leaves behind.
pub(super) fn failed(tx: &mut Tx<'_>, charge: &mut Json, code: &str) {
    let (error, message) = customers::decline(code);
    charge["status"] = "failed".into();
    (charge["paid"], charge["captured"], charge["amount_captured"]) = (false.into(), false.into(), 0.into());
    (charge["failure_code"], charge["failure_message"]) = (error.into(), message.into());
    charge["outcome"]["network_status"] = "declined_by_network".into();
    charge["outcome"]["reason"] = code.into();
    charge["outcome"]["seller_message"] = "The bank did not return any further details with this decline.".into();
    charge["outcome"]["type"] = "issuer_declined".into();
    tx.put(charge.clone());
    tx.emit("charge.failed", charge, None);
}

async fn decline(tx: &mut Tx<'_>, mut intent: Json, mut charge: Json, method: &Json, code: &str) -> Api<Box<Failure>> {
    let (error, message) = customers::decline(code);
    failed(tx, &mut charge, code);
    (intent["status"], intent["payment_method"]) = ("requires_payment_method".into(), Json::Null);
    intent["last_payment_error"] = json!({
        "charge": charge["id"], "code": error, "decline_code": code,
        "doc_url": format!("https://stripe.com/docs/error-codes/{}", error.replace('_', "-")), "message": message,
        "payment_method": super::documents::public(method.clone(), ""), "source": null, "type": "card_error",
    });
    tx.put(intent.clone());
    tx.emit("payment_intent.payment_failed", &intent, None);
    invoices::on_decline(tx, &intent).await?;
    Ok(Failure::declined(code, id_of(&charge)).with("payment_intent", super::documents::public(intent, "")))
}

/// Puts the movement of a captured charge on the balance, with the faults that are switched on. What was authorised but not
/// captured goes back at once, as a movement of its own.
pub(super) fn take_money(tx: &mut Tx<'_>, charge: &mut Json) {
    let number = |name: &str| charge[name].as_i64().unwrap_or_default();
    let (amount, captured) = (number("amount"), number("amount_captured"));
    let currency = charge["currency"].as_str().unwrap_or_default().to_owned();
    let settings = &tx.inner.settings;
    let cost = |amount| fee(amount, &currency, settings.fee_basis_points, settings.fee_fixed_minor);
    let not_captured = cost(captured) - cost(amount);
    let mut movement = Movement {
        amount,
        fee: cost(amount),
        available_on: payouts::available_on(tx.now, settings.settlement_days),
        currency: currency.clone(),
        kind: "charge",
        category: "charge",
        source: id_of(charge).to_owned(),
        description: charge["description"].clone(),
    };
    if take(&mut tx.chaos.ghost_balance_transaction) {
        payouts::book(tx, &Movement { source: Kind::Charge.new_id(), ..movement.clone() });
    }
    movement.amount -= i64::from(take(&mut tx.chaos.skew_amount));
    if take(&mut tx.chaos.skew_currency) {
        movement.currency = if movement.currency == "usd" { "eur" } else { "usd" }.into();
    }
    charge["balance_transaction"] = payouts::book(tx, &movement);
    if captured < amount {
        const KIND: &str = "partial_capture_reversal";
        let back = Movement { amount: captured - amount, fee: not_captured, kind: KIND, category: KIND, ..movement };
        payouts::book(tx, &back);
    }
}

pub(super) async fn capture_intent(tx: &mut Tx<'_>, id: &str, p: Params<'_>) -> Api<Json> {
    p.only(&["amount_to_capture", "metadata"])?;
    let mut intent = tx.need(Kind::PaymentIntent, id, "id").await?;
    if intent["status"] != "requires_capture" {
        return Err(unexpected_state(&intent, "capture"));
    }
    let charge = tx.need(Kind::Charge, intent["latest_charge"].as_str().unwrap_or_default(), "latest_charge").await?;
    p.merge_metadata(&mut intent);
    capture(tx, charge, Some(intent), p.int("amount_to_capture")?, "amount_to_capture").await.map(|(_, intent)| intent)
}

/// Takes what an authorised charge holds, or a part of it; answers the charge and its intent.
pub(super) async fn capture(
    tx: &mut Tx<'_>,
    mut charge: Json,
    intent: Option<Json>,
    wanted: Option<i64>,
    param: &str,
) -> Api<(Json, Json)> {
    let whole = charge["amount"].as_i64().unwrap_or_default();
    let amount = wanted.unwrap_or(whole);
    if !(1..=whole).contains(&amount) {
        let message = format!("The amount to capture must be from 1 to the amount authorized ({whole}).");
        return Err(Failure::parameter("amount_too_large", param, message));
    }
    check_step(amount, charge["currency"].as_str().unwrap_or_default())?;
    (charge["captured"], charge["amount_captured"]) = (true.into(), amount.into());
    take_money(tx, &mut charge);
    tx.put(charge.clone());
    tx.emit("charge.captured", &charge, None);
    let intent = match intent {
        Some(intent) => succeed(tx, intent, amount).await?,
        None => Json::Null,
    };
    Ok((charge, intent))
}

pub(super) async fn cancel_intent(tx: &mut Tx<'_>, id: &str, p: Params<'_>) -> Api<Json> {
    p.only(&["cancellation_reason"])?;
    let reasons = ["duplicate", "fraudulent", "requested_by_customer", "abandoned"];
    let reason = p.choice("cancellation_reason", &reasons)?;
    let intent = tx.need(Kind::PaymentIntent, id, "id").await?;
    if matches!(intent["status"].as_str(), Some("succeeded" | "canceled")) {
        return Err(unexpected_state(&intent, "cancel"));
    }
    let invoice = tx.find(&Query { second: Some(id.to_owned()), ..Query::of(Kind::InvoicePayment) }).await?;
    if !invoice.is_empty() {
        return Err(Failure::refused(None, "You cannot cancel a PaymentIntent that was created by an invoice. Void the invoice instead."));
    }
    cancel(tx, intent, reason).await
}

pub(super) async fn cancel(tx: &mut Tx<'_>, mut intent: Json, reason: Option<&str>) -> Api<Json> {
    if intent["status"] == "requires_capture" {
        let mut charge = tx.need(Kind::Charge, intent["latest_charge"].as_str().unwrap_or_default(), "latest_charge").await?;
        // Nothing was taken: the authorisation is let go.
        (charge["refunded"], charge["amount_refunded"]) = (true.into(), charge["amount"].clone());
        tx.put(charge.clone());
        tx.emit("charge.refunded", &charge, None);
    }
    (intent["status"], intent["canceled_at"]) = ("canceled".into(), tx.now.into());
    (intent["cancellation_reason"], intent["amount_capturable"]) = (reason.into(), 0.into());
    tx.put(intent.clone());
    tx.emit("payment_intent.canceled", &intent, None);
    Ok(intent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fees_are_rounded_half_up_and_fixed_per_currency() {
        for (amount, currency, expected) in [
            (9900, "usd", 317),
            (50, "usd", 31),
            (10_000, "eur", 315),
            (10_000, "gbp", 310),
            (1_000, "jpy", 59),
            (500, "usd", 45),
            (17, "usd", 30),
            (18, "usd", 31),
        ] {
            assert_eq!(fee(amount, currency, 290, 30), expected, "{amount} {currency}");
        }
    }

    #[test]
    fn amounts_in_sentences_carry_their_symbol() {
        assert_eq!(amount_text(700, "usd"), "$7.00");
        assert_eq!(amount_text(700, "jpy"), "¥700");
        assert_eq!(amount_text(700, "chf"), "7.00 chf");
    }
}
