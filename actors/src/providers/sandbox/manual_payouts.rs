//! Payouts made by hand, standard or instant, and their canceling. Called by the dispatcher. Their movement is part of the next
//! automatic payout, because that pays out what is left; they cannot be itemised themselves.

use serde_json::{Value as Json, json};

use super::{
    documents::{Kind, Tx, id_of},
    failure::{Api, Failure},
    form::Params,
    payments::amount_text,
    payouts::{self, Movement},
};

/// An instant payout is with the bank after this time.
const INSTANT_S: i64 = 30 * 60;

pub(super) async fn create(tx: &mut Tx<'_>, p: Params<'_>) -> Api<Json> {
    p.only(&["amount", "currency", "description", "metadata", "method", "source_type", "statement_descriptor"])?;
    let amount = p.int("amount")?.ok_or_else(|| Failure::missing_parameter("amount"))?;
    let currency = super::catalog::currency(p)?;
    if amount < 1 {
        return Err(Failure::parameter("parameter_invalid_integer", "amount", "This value must be greater than or equal to 1."));
    }
    let smallest = payouts::smallest(&currency);
    if amount % smallest != 0 {
        let message = format!("Payouts in {} must be divisible by {smallest}.", currency.to_uppercase());
        return Err(Failure::parameter("payouts_not_allowed", "amount", message));
    }
    let method = p.choice("method", &["standard", "instant"])?.unwrap_or("standard");
    p.choice("source_type", &["card"])?;
    let available = available(tx, &currency).await?;
    if amount > available {
        let message = format!(
            "You have insufficient funds in your Stripe account for this transfer. Your card balance is too low: {} is available.",
            amount_text(available, &currency)
        );
        return Err(Failure::refused(Some("balance_insufficient"), message));
    }
    let mut payout = payouts::shape(tx.now, &Kind::Payout.new_id(), amount, &currency, false);
    p.copy_texts(&mut payout, &["description", "statement_descriptor"]);
    p.merge_metadata(&mut payout);
    if method == "instant" {
        payout["method"] = "instant".into();
        (payout["arrival_date"], payout["_due"]) = ((tx.now + INSTANT_S).into(), (tx.now + 60).into());
    }
    let own = Movement {
        amount: -amount,
        fee: 0,
        currency,
        kind: "payout",
        category: "payout",
        source: id_of(&payout).to_owned(),
        description: payout["description"].clone(),
        available_on: tx.now,
    };
    payout["balance_transaction"] = payouts::book(tx, &own);
    tx.put(payout.clone());
    tx.emit("payout.created", &payout, None);
    Ok(payout)
}

async fn available(tx: &Tx<'_>, currency: &str) -> Api<i64> {
    let balance = payouts::balance(tx, &[]).await?;
    let found = balance["available"].as_array().into_iter().flatten().find(|b| b["currency"] == currency);
    Ok(found.and_then(|b| b["amount"].as_i64()).unwrap_or_default())
}

pub(super) async fn update(tx: &mut Tx<'_>, id: &str, p: Params<'_>) -> Api<Json> {
    p.only(&["metadata"])?;
    let mut payout = tx.need(Kind::Payout, id, "id").await?;
    let previous = json!({ "metadata": payout["metadata"] });
    p.merge_metadata(&mut payout);
    tx.put(payout.clone());
    tx.emit("payout.updated", &payout, Some(previous));
    Ok(payout)
}

/// Only one that was made by hand and has not left yet.
pub(super) async fn cancel(tx: &mut Tx<'_>, id: &str, p: Params<'_>) -> Api<Json> {
    p.only(&[])?;
    let mut payout = tx.need(Kind::Payout, id, "id").await?;
    if payout["automatic"] == true {
        return Err(Failure::refused(None, "Automatic payouts cannot be canceled."));
    }
    if payout["status"] != "pending" {
        return Err(Failure::refused(None, "Payouts can only be canceled while they are pending."));
    }
    let now = tx.now;
    payouts::give_back(tx, &mut payout, "payout_cancel", now);
    (payout["status"], payout["_due"]) = ("canceled".into(), Json::Null);
    payout["trace_id"] = json!({ "status": "unsupported", "value": null });
    tx.put(payout.clone());
    tx.emit("payout.canceled", &payout, None);
    Ok(payout)
}
