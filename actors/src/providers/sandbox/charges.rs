//! Charges as such: the older way to pay with a token, their capture and what can be changed about them and about a payment
//! intent later. Called by the dispatcher. How a card is charged, what it costs and what it moves is `payments.rs`.

use serde_json::{Value as Json, json};

use super::{
    customers,
    documents::{Kind, Tx, id_of},
    failure::{Api, Failure},
    form::Params,
    payments, shapes,
};

/// `POST /v1/charges`: with a token or payment method, without an intent.
pub(super) async fn create(tx: &mut Tx<'_>, p: Params<'_>) -> Api<Json> {
    p.only(&["amount", "currency", "source", "customer", "capture", "description", "metadata", "receipt_email", "statement_descriptor"])?;
    let (amount, currency) = payments::checked_amount(p)?;
    let customer = match p.text("customer") {
        Some(id) => customers::living(tx, id, "customer").await?["id"].clone(),
        None => Json::Null,
    };
    let method = customers::method(tx, p.required("source")?, "source").await?;
    let mut order = shapes::intent(tx.now, amount, &currency, customer);
    p.copy_texts(&mut order, &["description", "receipt_email", "statement_descriptor"]);
    p.merge_metadata(&mut order);
    let mut charge = shapes::charge(tx.now, &order, &method);
    charge["payment_intent"] = Json::Null;
    if let Some(code) = method["_decline"].as_str() {
        payments::failed(tx, &mut charge, code);
        return Err(Failure::declined(code, id_of(&charge)));
    }
    if p.boolean("capture")?.unwrap_or(true) {
        payments::take_money(tx, &mut charge);
    } else {
        (charge["captured"], charge["amount_captured"]) = (false.into(), 0.into());
    }
    tx.put(charge.clone());
    tx.emit("charge.succeeded", &charge, None);
    Ok(charge)
}

pub(super) async fn update(tx: &mut Tx<'_>, id: &str, p: Params<'_>) -> Api<Json> {
    p.only(&["description", "metadata", "receipt_email", "customer"])?;
    let mut charge = tx.need(Kind::Charge, id, "id").await?;
    let before = charge.clone();
    if let Some(customer) = p.text("customer") {
        let message = "This charge has a customer already. You may not replace it.";
        if !charge["customer"].is_null() && charge["customer"] != customer {
            return Err(Failure::refused(None, message).param("customer"));
        }
        charge["customer"] = customers::living(tx, customer, "customer").await?["id"].clone();
    }
    p.copy_texts(&mut charge, &["description", "receipt_email"]);
    p.merge_metadata(&mut charge);
    tx.put(charge.clone());
    tx.emit("charge.updated", &charge, Some(changes(&before, &charge)));
    Ok(charge)
}

pub(super) async fn capture(tx: &mut Tx<'_>, id: &str, p: Params<'_>) -> Api<Json> {
    p.only(&["amount", "receipt_email", "statement_descriptor"])?;
    let mut charge = tx.need(Kind::Charge, id, "id").await?;
    if charge["captured"] == true {
        return Err(Failure::refused(Some("charge_already_captured"), format!("Charge {id} has already been captured.")));
    }
    if charge["status"] != "succeeded" || charge["refunded"] == true {
        return Err(Failure::refused(Some("charge_not_capturable"), format!("Charge {id} cannot be captured.")));
    }
    p.copy_texts(&mut charge, &["receipt_email", "statement_descriptor"]);
    let intent = match charge["payment_intent"].as_str() {
        Some(intent) => Some(tx.need(Kind::PaymentIntent, intent, "payment_intent").await?),
        None => None,
    };
    payments::capture(tx, charge, intent, p.int("amount")?, "amount").await.map(|(charge, _)| charge)
}

/// `POST /v1/payment_intents/{id}`: what may be changed before it is confirmed, and its notes at any time.
pub(super) async fn update_intent(tx: &mut Tx<'_>, id: &str, p: Params<'_>) -> Api<Json> {
    const BEFORE_CONFIRMATION: [&str; 4] = ["amount", "currency", "customer", "payment_method"];
    p.only(&[&BEFORE_CONFIRMATION[..], &["description", "metadata", "receipt_email", "statement_descriptor"]].concat())?;
    let mut intent = tx.need(Kind::PaymentIntent, id, "id").await?;
    let waits = matches!(intent["status"].as_str(), Some("requires_payment_method" | "requires_confirmation"));
    if !waits && BEFORE_CONFIRMATION.iter().any(|name| p.has(name)) {
        return Err(payments::unexpected_state(&intent, "update"));
    }
    if p.has("amount") || p.has("currency") {
        let known = json!({ "amount": intent["amount"].to_string(), "currency": intent["currency"] });
        let wanted = |name: &str| p.text(name).map_or(known[name].clone(), Json::from);
        let tree = json!({ "amount": wanted("amount"), "currency": wanted("currency") });
        let (amount, currency) = payments::checked_amount(Params::new(&tree))?;
        (intent["amount"], intent["currency"]) = (amount.into(), currency.into());
    }
    if let Some(customer) = p.text("customer") {
        intent["customer"] = customers::living(tx, customer, "customer").await?["id"].clone();
    }
    if let Some(method) = p.text("payment_method") {
        intent["payment_method"] = customers::method(tx, method, "payment_method").await?["id"].clone();
        intent["status"] = "requires_confirmation".into();
    }
    p.copy_texts(&mut intent, &["description", "receipt_email", "statement_descriptor"]);
    p.merge_metadata(&mut intent);
    tx.put(intent.clone());
    Ok(intent)
}

/// The members that have another value now, with their old ones.
pub(super) fn changes(before: &Json, after: &Json) -> Json {
    let members = before.as_object().into_iter().flatten();
    members.filter(|(name, value)| after[name.as_str()] != **value).map(|(name, value)| (name.clone(), value.clone())).collect()
}
