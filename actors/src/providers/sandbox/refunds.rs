//! Refunds: whole or in part, at once. Called by the dispatcher. The money comes from the balance, which may become
//! negative until the next charges settle; a refund of a charge that has not settled yet settles together with it.

use serde_json::{Value as Json, json};

use super::{
    documents::{Kind, Tx, id_of},
    failure::{Api, Failure},
    form::Params,
    payments::amount_text,
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
    let mut charge = charge(tx, p).await?;
    let amount = checked(&charge, amount)?;
    let mut body = json!({
        "id": Kind::Refund.new_id(), "object": "refund", "amount": amount, "balance_transaction": null, "charge": charge["id"],
        "created": tx.now, "currency": charge["currency"], "customer": charge["customer"],
        "destination_details": { "card": { "reference": null, "reference_status": "pending", "reference_type": "acquirer_reference_number", "type": "refund" },
                                 "type": "card" },
        "failure_balance_transaction": null, "metadata": {}, "payment_intent": charge["payment_intent"],
        "payment_method": charge["payment_method"], "pending_reason": null, "reason": reason, "receipt_number": null,
        "source_transfer_reversal": null, "status": "succeeded", "transfer_reversal": null,
    });
    p.merge_metadata(&mut body);
    let available_on = payouts::available_with(tx, &charge).await?;
    body["balance_transaction"] = payouts::book(
        tx,
        &Movement {
            amount: -amount,
            fee: 0,
            available_on,
            currency: charge["currency"].as_str().unwrap_or_default().to_owned(),
            kind: "refund",
            category: "refund",
            source: id_of(&body).to_owned(),
            description: "REFUND FOR CHARGE".into(),
        },
    );
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
