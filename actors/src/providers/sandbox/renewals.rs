//! What becomes of a subscription as time goes by: its periods and their invoices, the end of a trial, a payment that came or
//! did not, its end. Called by the clock, by invoices that were paid or not, and by the handlers in `subscriptions.rs`.

use serde_json::Value as Json;

use super::{
    clock::DAY,
    collection, customers,
    documents::{Kind, Query, Tx, id_of},
    failure::Api,
    invoices,
    proration::Interval,
    shapes,
    subscription_shapes::{cost_of, item_of, line, parent, period_of, prorated_line, set_period, subscription_of, title},
};

/// A first invoice that is not paid within this time ends the subscription before it began.
const INCOMPLETE_S: i64 = 23 * 3600;
/// The end of a trial is announced this long before it.
const REMINDER_S: i64 = 3 * DAY;

/// When the clock must look at a subscription again.
pub(super) fn schedule(subscription: &mut Json) {
    let end = period_of(subscription).1;
    let due = match subscription["status"].as_str() {
        Some("incomplete") => subscription["created"].as_i64().map(|created| created + INCOMPLETE_S),
        Some("trialing") if subscription["_reminded"] != true => Some(end - REMINDER_S),
        Some("trialing" | "active" | "past_due") => Some(end),
        _ => None,
    };
    subscription["_due"] = due.into();
}

/// A subscription's time has come.
pub(super) async fn proceed(tx: &mut Tx<'_>, mut subscription: Json) -> Api<()> {
    let end = period_of(&subscription).1;
    if subscription["status"] == "incomplete" {
        return expire(tx, subscription).await;
    }
    if tx.now < end {
        subscription["_reminded"] = true.into();
        schedule(&mut subscription);
        tx.put(subscription.clone());
        tx.emit("customer.subscription.trial_will_end", &subscription, None);
        return Ok(());
    }
    if subscription["cancel_at_period_end"] == true {
        return finish(tx, subscription, "cancellation_requested").await.map(drop);
    }
    renew(tx, subscription).await
}

/// The next period begins, with a draft that is finalized in an hour.
async fn renew(tx: &mut Tx<'_>, mut subscription: Json) -> Api<()> {
    let before = subscription.clone();
    let (start, end) = period_of(&subscription);
    let anchor = subscription["billing_cycle_anchor"].as_i64().unwrap_or(end);
    let next = Interval::of(&item_of(&subscription)["price"]).map_or(end + 30 * DAY, |interval| interval.next_end(anchor, end));
    set_period(&mut subscription, (end, next));
    if subscription["status"] == "trialing" {
        subscription["status"] = "active".into();
    }
    schedule(&mut subscription);
    let mut invoice = draft(tx, &subscription, "subscription_cycle", true).await?;
    (invoice["period_start"], invoice["period_end"]) = (start.into(), end.into());
    invoices::wait_as_draft(tx, &mut invoice);
    subscription["latest_invoice"] = invoice["id"].clone();
    tx.put(subscription.clone());
    tx.emit_change("customer.subscription.updated", &before, &subscription);
    Ok(())
}

/// A draft of the subscription with its waiting prorations and, if `whole`, the present period. The caller stores it with
/// `invoices::wait_as_draft` or `due_at_once`.
pub(super) async fn draft(tx: &mut Tx<'_>, subscription: &Json, reason: &str, whole: bool) -> Api<Json> {
    let customer = customers::living(tx, subscription["customer"].as_str().unwrap_or_default(), "customer").await?;
    let id = Kind::Invoice.new_id();
    let mut invoice = shapes::invoice(&id, tx.now, &customer, subscription["currency"].as_str().unwrap_or_default());
    (invoice["billing_reason"], invoice["auto_advance"], invoice["parent"]) = (reason.into(), true.into(), parent(subscription));
    invoice["collection_method"] = subscription["collection_method"].clone();
    invoice["_days_until_due"] = subscription["days_until_due"].clone();
    let item = item_of(subscription);
    let mut lines = Vec::new();
    for mut proration in waiting(tx, id_of(subscription)).await? {
        lines.push(prorated_line(&invoice, &mut proration, item));
        tx.put(proration);
    }
    if whole {
        let trial = subscription["status"] == "trialing";
        let title = title(item, &product_name(tx, item).await?);
        let (amount, text) = if trial { (0, format!("Trial period for {title}")) } else { (cost_of(item), title) };
        lines.push(line(&id, item, amount, period_of(subscription), &text));
    }
    invoice["lines"]["data"] = lines.into();
    invoices::total(&mut invoice);
    Ok(invoice)
}

/// Finalizes a draft of a subscription now and collects it; answers the invoice as it is then.
pub(super) async fn due_at_once(tx: &mut Tx<'_>, invoice: Json) -> Api<Json> {
    tx.put(invoice.clone());
    tx.emit("invoice.created", &invoice, None);
    let invoice = invoices::finalize_draft(tx, invoice).await?;
    collection::collect(tx, invoice).await
}

/// Prorations of a subscription that no invoice has yet.
async fn waiting(tx: &Tx<'_>, subscription: &str) -> Api<Vec<Json>> {
    Ok(tx.find(&Query { second: Some(subscription.to_owned()), status: Some("pending".into()), ..Query::of(Kind::InvoiceItem) }).await?)
}

pub(super) async fn product_name(tx: &Tx<'_>, item: &Json) -> Api<String> {
    let product = tx.get(Kind::Product, item["price"]["product"].as_str().unwrap_or_default()).await?;
    Ok(product.and_then(|p| p["name"].as_str().map(str::to_owned)).unwrap_or_else(|| "Subscription".into()))
}

async fn of_invoice(tx: &Tx<'_>, invoice: &Json) -> Api<Option<Json>> {
    match subscription_of(invoice) {
        Some(id) => Ok(tx.get(Kind::Subscription, id).await?),
        None => Ok(None),
    }
}

/// An invoice was paid: the subscription that waited for it is active.
pub(super) async fn paid(tx: &mut Tx<'_>, invoice: &Json) -> Api<()> {
    let Some(before) = of_invoice(tx, invoice).await? else { return Ok(()) };
    let waited = matches!(before["status"].as_str(), Some("incomplete" | "past_due" | "unpaid"));
    if !waited || before["latest_invoice"] != invoice["id"] {
        return Ok(());
    }
    let mut subscription = before.clone();
    subscription["status"] = "active".into();
    schedule(&mut subscription);
    tx.put(subscription.clone());
    tx.emit_change("customer.subscription.updated", &before, &subscription);
    Ok(())
}

/// An attempt to collect an invoice failed: the subscription is past due, or at its end when that was the last attempt.
pub(super) async fn not_paid(tx: &mut Tx<'_>, invoice: &Json) -> Api<()> {
    let Some(before) = of_invoice(tx, invoice).await? else { return Ok(()) };
    if !matches!(before["status"].as_str(), Some("active" | "past_due")) {
        return Ok(());
    }
    if invoice["next_payment_attempt"].is_null() {
        return finish(tx, before, "payment_failed").await.map(drop);
    }
    let mut subscription = before.clone();
    subscription["status"] = "past_due".into();
    if before["status"] != "past_due" {
        tx.put(subscription.clone());
        tx.emit_change("customer.subscription.updated", &before, &subscription);
    }
    Ok(())
}

/// The first invoice was never paid.
async fn expire(tx: &mut Tx<'_>, before: Json) -> Api<()> {
    let mut subscription = before.clone();
    (subscription["status"], subscription["ended_at"]) = ("incomplete_expired".into(), tx.now.into());
    schedule(&mut subscription);
    tx.put(subscription.clone());
    if let Some(invoice) = subscription["latest_invoice"].as_str()
        && tx.get(Kind::Invoice, invoice).await?.is_some_and(|i| i["status"] == "open")
    {
        invoices::void(tx, invoice).await?;
    }
    tx.emit_change("customer.subscription.updated", &before, &subscription);
    Ok(())
}

/// Ends a subscription: nothing more is invoiced, and nobody is charged any more for what is open.
pub(super) async fn finish(tx: &mut Tx<'_>, mut subscription: Json, reason: &str) -> Api<Json> {
    (subscription["status"], subscription["ended_at"]) = ("canceled".into(), tx.now.into());
    if subscription["canceled_at"].is_null() {
        subscription["canceled_at"] = tx.now.into();
    }
    subscription["cancellation_details"]["reason"] = reason.into();
    schedule(&mut subscription);
    tx.put(subscription.clone());
    for mut invoice in tx.find(&Query::linked(Kind::Invoice, id_of(&subscription))).await? {
        if matches!(invoice["status"].as_str(), Some("draft" | "open")) {
            (invoice["auto_advance"], invoice["next_payment_attempt"]) = (false.into(), Json::Null);
            (invoice["automatically_finalizes_at"], invoice["_due"]) = (Json::Null, Json::Null);
            tx.put(invoice);
        }
    }
    tx.emit("customer.subscription.deleted", &subscription, None);
    Ok(subscription)
}

/// Ends everything a customer who is deleted had subscribed to.
pub(super) async fn finish_all(tx: &mut Tx<'_>, customer: &str) -> Api<()> {
    for subscription in tx.find(&Query { customer: Some(customer.to_owned()), ..Query::of(Kind::Subscription) }).await? {
        if !has_ended(&subscription) {
            forget_prorations(tx, id_of(&subscription)).await?;
            finish(tx, subscription, "cancellation_requested").await?;
        }
    }
    Ok(())
}

pub(super) fn has_ended(subscription: &Json) -> bool {
    matches!(subscription["status"].as_str(), Some("canceled" | "incomplete_expired"))
}

/// Removes prorations that wait for an invoice that will not come.
pub(super) async fn forget_prorations(tx: &mut Tx<'_>, subscription: &str) -> Api<()> {
    for proration in waiting(tx, subscription).await? {
        tx.delete(id_of(&proration));
        tx.emit("invoiceitem.deleted", &proration, None);
    }
    Ok(())
}
