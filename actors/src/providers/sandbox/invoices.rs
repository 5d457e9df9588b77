//! Invoices from draft to paid, void or uncollectible, with their payments. Called by the dispatcher, by payments (an
//! intent that belongs to an invoice was paid or declined), by the clock and by the hosted page.

use serde_json::{Value as Json, json};

use super::{
    catalog,
    clock::DAY,
    customers,
    documents::{Kind, Query, Tx, id_of},
    failure::{Api, Failure},
    form::Params,
    invoice_items, payments, proration, renewals, shapes,
    subscription_shapes::subscription_of,
};
use crate::domain::money;

/// A draft that advances automatically is finalized after this time.
const DRAFT_S: i64 = 3600;

pub(super) async fn create(tx: &mut Tx<'_>, p: Params<'_>) -> Api<Json> {
    p.only(&[
        "customer",
        "auto_advance",
        "collection_method",
        "currency",
        "days_until_due",
        "due_date",
        "description",
        "metadata",
        "footer",
        "default_payment_method",
        "pending_invoice_items_behavior",
        "statement_descriptor",
    ])?;
    let customer = customers::living(tx, p.required("customer")?, "customer").await?;
    let pending = match p.choice("pending_invoice_items_behavior", &["exclude", "include"])? {
        Some("include") => {
            let query = Query { customer: Some(id_of(&customer).into()), ..Query::with_status(Kind::InvoiceItem, "pending") };
            // Prorations wait for an invoice of their subscription.
            tx.find(&query).await?.into_iter().filter(|item| item["parent"].is_null()).collect()
        }
        _ => Vec::new(),
    };
    let currency = match (p.has("currency"), pending.first()) {
        (true, _) => catalog::currency(p)?,
        (false, Some(item)) => item["currency"].as_str().unwrap_or_default().to_owned(),
        (false, None) => customer["currency"].as_str().unwrap_or("usd").to_owned(),
    };
    let id = Kind::Invoice.new_id();
    let mut body = shapes::invoice(&id, tx.now, &customer, &currency);
    change(tx, &mut body, p).await?;
    for mut item in pending.into_iter().filter(|item| item["currency"] == currency.as_str()) {
        invoice_items::attach(&mut item, &mut body);
        tx.put(item);
    }
    total(&mut body);
    tx.put(body.clone());
    tx.emit("invoice.created", &body, None);
    Ok(body)
}

/// What a draft can be told at creation and later.
async fn change(tx: &mut Tx<'_>, body: &mut Json, p: Params<'_>) -> Api<()> {
    if let Some(method) = p.choice("collection_method", &["charge_automatically", "send_invoice"])? {
        body["collection_method"] = method.into();
    }
    if let Some(id) = p.text("default_payment_method") {
        body["default_payment_method"] = customers::method(tx, id, "default_payment_method").await?["id"].clone();
    }
    if let Some(advance) = p.boolean("auto_advance")? {
        body["auto_advance"] = advance.into();
        let at = advance.then_some(tx.now + DRAFT_S);
        (body["automatically_finalizes_at"], body["_due"]) = (at.into(), at.into());
    }
    let (days, date) = (p.int("days_until_due")?, p.int("due_date")?);
    let sends = body["collection_method"] == "send_invoice";
    match (days, date) {
        (Some(_), Some(_)) => {
            return Err(Failure::refused(None, "You may only specify one of these parameters: days_until_due, due_date."));
        }
        (Some(_), _) | (_, Some(_)) if !sends => {
            return Err(Failure::parameter(
                "parameter_invalid_empty",
                if days.is_some() { "days_until_due" } else { "due_date" },
                "You can only set a due date if the invoice's collection method is 'send_invoice'.",
            ));
        }
        (Some(days), _) if days < 0 => {
            return Err(Failure::parameter(
                "parameter_invalid_integer",
                "days_until_due",
                "This value must be greater than or equal to 0.",
            ));
        }
        (Some(days), _) => (body["_days_until_due"], body["due_date"]) = (days.into(), (tx.now + days * DAY).into()),
        (_, Some(date)) => (body["_days_until_due"], body["due_date"]) = (Json::Null, date.into()),
        (None, None) if sends && body["due_date"].is_null() => {
            return Err(Failure::parameter(
                "parameter_missing",
                "days_until_due",
                "If the collection method is 'send_invoice' you must specify 'days_until_due' or 'due_date'.",
            ));
        }
        (None, None) => {}
    }
    p.copy_texts(body, &["description", "footer", "statement_descriptor"]);
    p.merge_metadata(body);
    Ok(())
}

/// Recomputes the sums of a draft from its lines.
pub(super) fn total(invoice: &mut Json) {
    let sum: i64 = invoice["lines"]["data"].as_array().map_or(0, |lines| lines.iter().filter_map(|l| l["amount"].as_i64()).sum());
    for name in ["subtotal", "subtotal_excluding_tax", "total", "total_excluding_tax"] {
        invoice[name] = sum.into();
    }
    let due = sum.max(0);
    (invoice["amount_due"], invoice["amount_remaining"]) = (due.into(), due.into());
}

/// An invoice that can still be edited.
pub(super) async fn draft(tx: &Tx<'_>, id: &str, param: &str) -> Api<Json> {
    let invoice = tx.need(Kind::Invoice, id, param).await?;
    if invoice["status"] == "draft" {
        return Ok(invoice);
    }
    Err(Failure::refused(Some("invoice_not_editable"), "This invoice is no longer editable"))
}

pub(super) async fn update(tx: &mut Tx<'_>, id: &str, p: Params<'_>) -> Api<Json> {
    const ALWAYS: [&str; 4] = ["auto_advance", "default_payment_method", "description", "metadata"];
    const DRAFT: [&str; 5] = ["collection_method", "days_until_due", "due_date", "footer", "statement_descriptor"];
    p.only(&[&ALWAYS[..], &DRAFT[..]].concat())?;
    let mut body = tx.need(Kind::Invoice, id, "id").await?;
    if body["status"] != "draft" && DRAFT.iter().any(|name| p.has(name)) {
        return Err(Failure::refused(Some("invoice_not_editable"), "Finalized invoices can't be updated in this way"));
    }
    change(tx, &mut body, p).await?;
    if body["status"] != "draft" {
        (body["automatically_finalizes_at"], body["_due"]) = (Json::Null, Json::Null);
    }
    tx.put(body.clone());
    tx.emit("invoice.updated", &body, None);
    Ok(body)
}

/// Deletes a draft; its items wait for another invoice.
pub(super) async fn delete(tx: &mut Tx<'_>, id: &str) -> Api<Json> {
    let invoice = tx.need(Kind::Invoice, id, "id").await?;
    if invoice["status"] != "draft" {
        return Err(Failure::refused(Some("invoice_not_editable"), "You can only delete draft invoices."));
    }
    for mut item in tx.find(&Query::linked(Kind::InvoiceItem, id)).await? {
        item["invoice"] = Json::Null;
        tx.put(item);
    }
    tx.delete(id);
    tx.emit("invoice.deleted", &invoice, None);
    Ok(json!({ "id": id, "object": "invoice", "deleted": true }))
}

pub(super) async fn finalize(tx: &mut Tx<'_>, id: &str, p: Params<'_>) -> Api<Json> {
    p.only(&["auto_advance"])?;
    let mut invoice = tx.need(Kind::Invoice, id, "id").await?;
    if let Some(advance) = p.boolean("auto_advance")? {
        invoice["auto_advance"] = advance.into();
    }
    if invoice["status"] != "draft" {
        return Err(Failure::refused(
            Some("invoice_not_editable"),
            "This invoice is already finalized, you can't re-finalize a non-draft invoice.",
        ));
    }
    finalize_draft(tx, invoice).await
}

/// Gives the invoice its number and its page, and a payment intent if there is something to pay.
pub(super) async fn finalize_draft(tx: &mut Tx<'_>, mut invoice: Json) -> Api<Json> {
    let currency = invoice["currency"].as_str().unwrap_or_default().to_owned();
    let customer = invoice["customer"].as_str().unwrap_or_default().to_owned();
    let mut customer = customers::living(tx, &customer, "customer").await?;
    let minimum = money::minimum_charge(&currency);
    let balance = customer["balance"].as_i64().unwrap_or_default();
    // A trifle of a subscription waits for its next invoice; another invoice of so little cannot be collected at all.
    let carried = if subscription_of(&invoice).is_some() { minimum } else { 0 };
    let (amount, after) = proration::settle(invoice["total"].as_i64().unwrap_or_default(), balance, carried);
    if amount > 0 && amount < minimum {
        return Err(Failure::refused(Some("amount_too_small"), "The invoice's amount is below the smallest that can be charged."));
    }
    (invoice["starting_balance"], invoice["ending_balance"]) = (balance.into(), after.into());
    (invoice["amount_due"], invoice["amount_remaining"]) = (amount.into(), amount.into());
    let before = customer.clone();
    customer["balance"] = after.into();
    if balance != after {
        tx.emit_change("customer.updated", &before, &customer);
    }
    let sequence = customer["next_invoice_sequence"].as_i64().unwrap_or(1);
    invoice["number"] = format!("{}-{sequence:04}", customer["invoice_prefix"].as_str().unwrap_or("SANDBOX")).into();
    customer["next_invoice_sequence"] = (sequence + 1).into();
    customer["currency"] = invoice["currency"].clone();
    tx.put(customer);
    if let Some(days) = invoice["_days_until_due"].as_i64() {
        invoice["due_date"] = (tx.now + days * DAY).into();
    }
    (invoice["status"], invoice["effective_at"]) = ("open".into(), tx.now.into());
    (invoice["automatically_finalizes_at"], invoice["_due"]) = (Json::Null, Json::Null);
    invoice["status_transitions"]["finalized_at"] = tx.now.into();
    invoice["hosted_invoice_url"] = format!("/invoice/{}", id_of(&invoice)).into();
    if amount > 0 {
        let mut intent = shapes::intent(tx.now, amount, &currency, invoice["customer"].clone());
        intent["description"] = invoice["description"].clone();
        tx.put(intent.clone());
        tx.put(json!({
            "id": Kind::InvoicePayment.new_id(), "object": "invoice_payment", "amount_paid": null, "amount_requested": amount,
            "created": tx.now, "currency": currency, "invoice": invoice["id"], "is_default": true, "livemode": false,
            "payment": { "charge": null, "payment_intent": intent["id"], "payment_record": null, "type": "payment_intent" }, "status": "open",
            "status_transitions": { "canceled_at": null, "paid_at": null },
        }));
        tx.emit("payment_intent.created", &intent, None);
    }
    tx.put(invoice.clone());
    tx.emit("invoice.finalized", &invoice, None);
    if amount == 0 {
        return Ok(close_as_paid(tx, invoice));
    }
    Ok(invoice)
}

/// Stores a draft that is finalized when its hour is over.
pub(super) fn wait_as_draft(tx: &mut Tx<'_>, invoice: &mut Json) {
    let at = tx.now + DRAFT_S;
    (invoice["automatically_finalizes_at"], invoice["_due"]) = (at.into(), at.into());
    tx.put(invoice.clone());
    tx.emit("invoice.created", invoice, None);
}

fn close_as_paid(tx: &mut Tx<'_>, mut invoice: Json) -> Json {
    (invoice["next_payment_attempt"], invoice["_due"]) = (Json::Null, Json::Null);
    (invoice["status"], invoice["attempted"], invoice["amount_remaining"]) = ("paid".into(), true.into(), 0.into());
    invoice["status_transitions"]["paid_at"] = tx.now.into();
    tx.put(invoice.clone());
    tx.emit("invoice.updated", &invoice, Some(json!({ "status": "open" })));
    tx.emit("invoice.paid", &invoice, None);
    tx.emit("invoice.payment_succeeded", &invoice, None);
    invoice
}

/// A credit note took the rest: nobody has to pay any more.
pub(super) async fn nothing_left(tx: &mut Tx<'_>, invoice: Json) -> Api<()> {
    cancel_payments(tx, id_of(&invoice)).await?;
    close_as_paid(tx, invoice);
    Ok(())
}

pub(super) async fn pay(tx: &mut Tx<'_>, id: &str, p: Params<'_>) -> Api<Json> {
    p.only(&["payment_method", "paid_out_of_band", "off_session", "forgive", "source"])?;
    let mut invoice = tx.need(Kind::Invoice, id, "id").await?;
    if invoice["status"] == "draft" {
        invoice = finalize_draft(tx, invoice).await?;
    }
    match invoice["status"].as_str() {
        Some("open" | "uncollectible") => {}
        Some("paid") => return Err(Failure::refused(None, "Invoice is already paid")),
        status => return Err(Failure::refused(None, format!("Invoices with status {} cannot be paid.", status.unwrap_or_default()))),
    }
    if p.boolean("paid_out_of_band")?.unwrap_or(false) {
        cancel_payments(tx, id).await?;
        (invoice["amount_paid"], invoice["amount_paid_off_stripe"]) = (invoice["amount_due"].clone(), invoice["amount_due"].clone());
        let invoice = close_as_paid(tx, invoice);
        renewals::paid(tx, &invoice).await?;
        return Ok(invoice);
    }
    let method = match p.text("payment_method").or(p.text("source")) {
        Some(id) => customers::method(tx, id, "payment_method").await?["id"].clone(),
        None => default_method(tx, &invoice).await?,
    };
    let payment = tx.find(&Query { status: Some("open".into()), ..Query::linked(Kind::InvoicePayment, id) }).await?.pop();
    let intent = payment.as_ref().and_then(|p| p["payment"]["payment_intent"].as_str());
    let Some(intent) = intent else { return Err(Failure::refused(None, "The invoice has no open payment.")) };
    let mut intent = tx.need(Kind::PaymentIntent, intent, "payment_intent").await?;
    intent["payment_method"] = method;
    payments::confirm(tx, intent).await?;
    tx.need(Kind::Invoice, id, "id").await
}

/// The card of the invoice, or else of its subscription, or else of its customer.
async fn default_method(tx: &Tx<'_>, invoice: &Json) -> Api<Json> {
    let subscription = match subscription_of(invoice) {
        Some(id) => tx.get(Kind::Subscription, id).await?.unwrap_or_default(),
        None => Json::Null,
    };
    let customer = customers::living(tx, invoice["customer"].as_str().unwrap_or_default(), "customer").await?;
    let methods = [
        &invoice["default_payment_method"],
        &subscription["default_payment_method"],
        &customer["invoice_settings"]["default_payment_method"],
    ];
    match methods.into_iter().find(|m| m.is_string()) {
        Some(method) => Ok(method.clone()),
        None => Err(Failure::refused(
            None,
            "There is no `default_payment_method` set on this Customer or Invoice. Please add a payment method or pass one to this call.",
        )),
    }
}

/// The invoice whose payment runs through this intent, with that payment.
async fn of_intent(tx: &Tx<'_>, intent: &Json) -> Api<Option<(Json, Json)>> {
    let payment = tx.find(&Query { second: Some(id_of(intent).into()), ..Query::of(Kind::InvoicePayment) }).await?.pop();
    let Some(payment) = payment else { return Ok(None) };
    let invoice = tx.need(Kind::Invoice, payment["invoice"].as_str().unwrap_or_default(), "invoice").await?;
    Ok(Some((invoice, payment)))
}

/// An intent was paid: if it was for an invoice, so is that.
pub(super) async fn on_payment(tx: &mut Tx<'_>, intent: &Json) -> Api<()> {
    let Some((mut invoice, mut payment)) = of_intent(tx, intent).await? else { return Ok(()) };
    let amount = intent["amount_received"].clone();
    (payment["status"], payment["amount_paid"]) = ("paid".into(), amount.clone());
    payment["status_transitions"]["paid_at"] = tx.now.into();
    tx.put(payment.clone());
    tx.emit("invoice_payment.paid", &payment, None);
    invoice["amount_paid"] = amount;
    invoice["attempt_count"] = (invoice["attempt_count"].as_i64().unwrap_or_default() + 1).into();
    let invoice = close_as_paid(tx, invoice);
    renewals::paid(tx, &invoice).await
}

/// An intent was declined: if it was for an invoice, that counts the attempt.
pub(super) async fn on_decline(tx: &mut Tx<'_>, intent: &Json) -> Api<()> {
    let Some((mut invoice, _)) = of_intent(tx, intent).await? else { return Ok(()) };
    count_failure(tx, &mut invoice);
    Ok(())
}

/// An attempt to have an invoice paid failed.
pub(super) fn count_failure(tx: &mut Tx<'_>, invoice: &mut Json) {
    invoice["attempt_count"] = (invoice["attempt_count"].as_i64().unwrap_or_default() + 1).into();
    invoice["attempted"] = true.into();
    tx.put(invoice.clone());
    tx.emit("invoice.payment_failed", invoice, None);
}

async fn cancel_payments(tx: &mut Tx<'_>, id: &str) -> Api<()> {
    for mut payment in tx.find(&Query { status: Some("open".into()), ..Query::linked(Kind::InvoicePayment, id) }).await? {
        if let Some(intent) = payment["payment"]["payment_intent"].as_str() {
            let intent = tx.need(Kind::PaymentIntent, intent, "payment_intent").await?;
            payments::cancel(tx, intent, Some("void_invoice")).await?;
        }
        payment["status"] = "canceled".into();
        payment["status_transitions"]["canceled_at"] = tx.now.into();
        tx.put(payment);
    }
    Ok(())
}

pub(super) async fn void(tx: &mut Tx<'_>, id: &str) -> Api<Json> {
    let mut invoice = tx.need(Kind::Invoice, id, "id").await?;
    if !matches!(invoice["status"].as_str(), Some("open" | "uncollectible")) {
        return Err(Failure::refused(None, "You can only void open or uncollectible invoices."));
    }
    cancel_payments(tx, id).await?;
    invoice["status"] = "void".into();
    invoice["status_transitions"]["voided_at"] = tx.now.into();
    tx.put(invoice.clone());
    tx.emit("invoice.voided", &invoice, None);
    Ok(invoice)
}

pub(super) async fn mark_uncollectible(tx: &mut Tx<'_>, id: &str) -> Api<Json> {
    let mut invoice = tx.need(Kind::Invoice, id, "id").await?;
    if invoice["status"] != "open" {
        return Err(Failure::refused(None, "You can only mark open invoices as uncollectible."));
    }
    invoice["status"] = "uncollectible".into();
    invoice["status_transitions"]["marked_uncollectible_at"] = tx.now.into();
    tx.put(invoice.clone());
    tx.emit("invoice.marked_uncollectible", &invoice, None);
    Ok(invoice)
}

pub(super) async fn send(tx: &mut Tx<'_>, id: &str) -> Api<Json> {
    let mut invoice = tx.need(Kind::Invoice, id, "id").await?;
    if invoice["collection_method"] != "send_invoice" {
        return Err(Failure::refused(None, "You can only manually send an invoice if its collection method is 'send_invoice'."));
    }
    if invoice["status"] == "draft" {
        invoice = finalize_draft(tx, invoice).await?;
    }
    tx.emit("invoice.sent", &invoice, None);
    Ok(invoice)
}
