//! Refunds: whole or in part. Called by the dispatcher, by credit notes and by the clock. A refund of a pending charge settles
//! with it; later the money comes from the balance, pending charges included, and where that is too low from the bank account
//! or, if a fault was asked for, the refund waits for the next settlement. Two test cards have refunds that wait a day, or come back after one.

use serde_json::{Value as Json, json};

use super::{
    clock::DAY,
    control::take,
    documents::{Kind, Query, Tx, id_of},
    failure::{Api, Failure},
    form::Params,
    payments::{amount_text, check_step},
    payouts::{self, Movement},
};

const REASONS: &[&str] = &["duplicate", "fraudulent", "requested_by_customer"];

pub(super) async fn create(tx: &mut Tx<'_>, p: Params<'_>) -> Api<Json> {
    p.only(&["charge", "payment_intent", "amount", "reason", "metadata", "instructions_email"])?;
    let amount = p.int("amount")?;
    if amount.is_some_and(|a| a < 1) {
        return Err(Failure::parameter("parameter_invalid_integer", "amount", "This value must be greater than or equal to 1."));
    }
    let reason = p.choice("reason", REASONS)?;
    let charge = charge(tx, p).await?;
    make(tx, charge, amount, reason, Some(p)).await
}

/// Refunds a charge, all that is left of it if `amount` is none.
pub(super) async fn make(tx: &mut Tx<'_>, mut charge: Json, amount: Option<i64>, reason: Option<&str>, p: Option<Params<'_>>) -> Api<Json> {
    let amount = checked(&charge, amount)?;
    let currency = charge["currency"].as_str().unwrap_or_default().to_owned();
    check_step(amount, &currency)?;
    let mut body = json!({
        "id": Kind::Refund.new_id(), "object": "refund", "amount": amount, "balance_transaction": null, "charge": charge["id"],
        "created": tx.now, "currency": currency, "customer": charge["customer"],
        "destination_details": { "card": { "reference": null, "reference_status": "pending", "reference_type": "acquirer_reference_number", "type": "refund" },
                                 "type": "card" },
        "failure_balance_transaction": null, "metadata": {}, "payment_intent": charge["payment_intent"],
        "payment_method": charge["payment_method"], "pending_reason": null, "reason": reason, "receipt_number": null,
        "source_transfer_reversal": null, "status": "pending", "transfer_reversal": null,
    });
    if let Some(p) = p {
        p.merge_metadata(&mut body);
    }
    let fate = charge["_refunds"].as_str().unwrap_or_default().to_owned();
    // While the charge itself is pending its money is there, whatever its fee took from it.
    let settled = payouts::available_with(tx, &charge).await? <= tx.now;
    if settled && payouts::unpaid(tx, &currency).await? < amount && take(&mut tx.chaos.refund_pending) {
        body["pending_reason"] = "insufficient_funds".into();
    } else if fate == "wait" {
        (body["pending_reason"], body["_due"]) = ("processing".into(), (tx.now + DAY).into());
    } else {
        pay(tx, &mut body, &charge).await?;
    }
    if fate == "fail" {
        (body["_fails"], body["_due"]) = (true.into(), (tx.now + DAY).into());
    }
    let refunded = charge["amount_refunded"].as_i64().unwrap_or_default() + amount;
    let previous = json!({ "amount_refunded": charge["amount_refunded"], "refunded": charge["refunded"] });
    charge["amount_refunded"] = refunded.into();
    // Only a full refund makes a charge `refunded`.
    charge["refunded"] = (refunded == charge["amount_captured"].as_i64().unwrap_or_default()).into();
    tx.put(charge.clone());
    tx.put(body.clone());
    tx.emit("refund.created", &body, None);
    tx.emit("charge.refunded", &charge, Some(previous));
    Ok(body)
}

fn movement(refund: &Json, sign: i64, available_on: i64) -> Movement {
    let (kind, description) = if sign < 0 { ("refund", "REFUND FOR CHARGE") } else { ("refund_failure", "REFUND FAILURE") };
    Movement {
        amount: sign * refund["amount"].as_i64().unwrap_or_default(),
        fee: 0,
        available_on,
        currency: refund["currency"].as_str().unwrap_or_default().to_owned(),
        kind,
        category: kind,
        source: id_of(refund).to_owned(),
        description: description.into(),
    }
}

/// Takes the refund's money from the balance.
async fn pay(tx: &mut Tx<'_>, refund: &mut Json, charge: &Json) -> Api<()> {
    let available_on = payouts::available_with(tx, charge).await?;
    refund["balance_transaction"] = payouts::book(tx, &movement(refund, -1, available_on));
    (refund["status"], refund["pending_reason"]) = ("succeeded".into(), Json::Null);
    Ok(())
}

async fn charge_of(tx: &Tx<'_>, refund: &Json) -> Api<Json> {
    tx.need(Kind::Charge, refund["charge"].as_str().unwrap_or_default(), "charge").await
}

async fn complete(tx: &mut Tx<'_>, mut refund: Json) -> Api<()> {
    let charge = charge_of(tx, &refund).await?;
    let previous = json!({ "status": refund["status"], "pending_reason": refund["pending_reason"], "balance_transaction": null });
    pay(tx, &mut refund, &charge).await?;
    tx.put(refund.clone());
    tx.emit("refund.updated", &refund, Some(previous));
    Ok(())
}

/// The day of a refund that waits, or that comes back, is over.
pub(super) async fn proceed(tx: &mut Tx<'_>, mut refund: Json) -> Api<()> {
    refund["_due"] = Json::Null;
    match (refund["status"].as_str(), refund["_fails"] == true) {
        (Some("succeeded"), true) => fail(tx, refund).await,
        (Some("pending"), _) if refund["pending_reason"] == "processing" => complete(tx, refund).await,
        _ => {
            tx.put(refund);
            Ok(())
        }
    }
}

/// The customer's bank sends the money back.
async fn fail(tx: &mut Tx<'_>, mut refund: Json) -> Api<()> {
    let now = tx.now;
    refund["failure_balance_transaction"] = payouts::book(tx, &movement(&refund, 1, now));
    (refund["status"], refund["failure_reason"]) = ("failed".into(), "expired_or_canceled_card".into());
    let mut charge = charge_of(tx, &refund).await?;
    let previous = json!({ "amount_refunded": charge["amount_refunded"], "refunded": charge["refunded"] });
    let left = charge["amount_refunded"].as_i64().unwrap_or_default() - refund["amount"].as_i64().unwrap_or_default();
    (charge["amount_refunded"], charge["refunded"]) = (left.into(), false.into());
    tx.put(charge.clone());
    tx.put(refund.clone());
    tx.emit("refund.failed", &refund, None);
    tx.emit("charge.updated", &charge, Some(previous));
    Ok(())
}

/// After a settlement: refunds that waited for money, oldest first, as far as it reaches.
pub(super) async fn retry(tx: &mut Tx<'_>) -> Api<()> {
    let mut left = std::collections::HashMap::new();
    for refund in tx.find(&Query::with_status(Kind::Refund, "pending")).await? {
        if refund["pending_reason"] != "insufficient_funds" {
            continue;
        }
        let (currency, amount) = (refund["currency"].as_str().unwrap_or_default(), refund["amount"].as_i64().unwrap_or_default());
        if !left.contains_key(currency) {
            left.insert(currency.to_owned(), payouts::unpaid(tx, currency).await?);
        }
        let Some(money) = left.get_mut(currency).filter(|money| **money >= amount) else { continue };
        *money -= amount;
        complete(tx, refund).await?;
    }
    Ok(())
}

/// The charge that `charge` or `payment_intent` names.
async fn charge(tx: &Tx<'_>, p: Params<'_>) -> Api<Json> {
    match (p.text("charge"), p.text("payment_intent")) {
        (Some(id), None) => tx.need(Kind::Charge, id, "charge").await,
        (None, Some(id)) => {
            let intent = tx.need(Kind::PaymentIntent, id, "payment_intent").await?;
            match intent["latest_charge"].as_str() {
                Some(charge) => tx.need(Kind::Charge, charge, "payment_intent").await,
                None => Err(Failure::refused(None, format!("This PaymentIntent ({id}) does not have a successful charge to refund."))),
            }
        }
        (None, None) => Err(Failure::parameter(
            "parameter_missing",
            "charge",
            "One of the following params should be provided for this request: payment_intent or charge.",
        )),
        _ => Err(Failure::refused(None, "You may only specify one of these parameters: payment_intent, charge.")),
    }
}

/// The amount to refund: what was asked for if that much is left, else all that is left.
fn checked(charge: &Json, wanted: Option<i64>) -> Api<i64> {
    let id = id_of(charge);
    let currency = charge["currency"].as_str().unwrap_or_default();
    let left = charge["amount_captured"].as_i64().unwrap_or_default() - charge["amount_refunded"].as_i64().unwrap_or_default();
    if charge["disputed"] == true {
        return Err(Failure::refused(Some("charge_disputed"), format!("Charge {id} has been charged back; cannot issue a refund.")));
    }
    if charge["status"] != "succeeded" || charge["captured"] != true {
        return Err(Failure::refused(Some("charge_not_refundable"), format!("Charge {id} was not captured and cannot be refunded.")));
    }
    if left == 0 {
        return Err(Failure::refused(Some("charge_already_refunded"), format!("Charge {id} has already been refunded.")));
    }
    match wanted {
        Some(amount) if amount > left => Err(Failure::refused(
            None,
            format!(
                "Refund amount ({}) is greater than unrefunded amount on charge ({})",
                amount_text(amount, currency),
                amount_text(left, currency)
            ),
        )
        .param("amount")),
        other => Ok(other.unwrap_or(left)),
    }
}

pub(super) async fn update(tx: &mut Tx<'_>, id: &str, p: Params<'_>) -> Api<Json> {
    p.only(&["metadata"])?;
    let mut body = tx.need(Kind::Refund, id, "id").await?;
    let previous = json!({ "metadata": body["metadata"] });
    p.merge_metadata(&mut body);
    tx.put(body.clone());
    tx.emit("refund.updated", &body, Some(previous));
    Ok(body)
}

/// Only a refund that waits for its customer can be canceled, and a card's never does.
pub(super) async fn cancel(tx: &mut Tx<'_>, id: &str, p: Params<'_>) -> Api<Json> {
    p.only(&[])?;
    let body = tx.need(Kind::Refund, id, "id").await?;
    let status = body["status"].as_str().unwrap_or_default();
    Err(Failure::refused(
        None,
        format!("You cannot cancel this refund because it has a status of {status}; only requires_action can be canceled."),
    ))
}
