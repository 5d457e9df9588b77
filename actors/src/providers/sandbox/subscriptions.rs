//! Subscriptions as a merchant asks for them: begun, changed with prorations, canceled now or at the end of the period. Called by
//! the dispatcher. What time does to them is in `renewals.rs`. One item per subscription; more are refused, not ignored.

use chrono::DateTime;
use serde_json::Value as Json;

use super::{
    clock::DAY,
    customers,
    documents::{Kind, Tx, id_of},
    failure::{Api, Failure},
    form::Params,
    proration,
    proration::Interval,
    renewals,
    subscription_shapes::{self as shapes, cost_of, item_of, period_of, set_period, set_price},
};

const FEEDBACK: &[&str] =
    &["customer_service", "low_quality", "missing_features", "other", "switched_service", "too_complex", "too_expensive", "unused"];

pub(super) async fn create(tx: &mut Tx<'_>, p: Params<'_>) -> Api<Json> {
    p.only(&[
        "customer",
        "items",
        "cancel_at_period_end",
        "collection_method",
        "currency",
        "days_until_due",
        "default_payment_method",
        "description",
        "metadata",
        "off_session",
        "payment_behavior",
        "proration_behavior",
        "trial_end",
        "trial_period_days",
    ])?;
    let customer = customers::living(tx, p.required("customer")?, "customer").await?;
    let item = p.only_element("items")?.ok_or_else(|| Failure::missing_parameter("items"))?;
    item.only(&["price", "quantity"])?;
    let price = recurring_price(tx, item.required("price").map_err(|f| f.param("items[0][price]"))?, None).await?;
    let mut body = shapes::subscription(tx.now, &customer, &price, quantity(item)?.unwrap_or(1));
    if p.has("currency") && super::catalog::currency(p)? != body["currency"] {
        return Err(Failure::parameter("parameter_invalid_string", "currency", "The price is not in this currency."));
    }
    collection_terms(&mut body, p)?;
    change_details(tx, &mut body, p).await?;
    let trial_end = trial_end(tx.now, p)?;
    let anchor = trial_end.unwrap_or(tx.now);
    body["billing_cycle_anchor"] = anchor.into();
    let interval = Interval::of(&price).ok_or_else(not_recurring)?;
    let end = trial_end.unwrap_or_else(|| interval.next_end(anchor, tx.now));
    set_period(&mut body, (tx.now, end));
    if let Some(end) = trial_end {
        (body["trial_start"], body["trial_end"], body["status"]) = (tx.now.into(), end.into(), "trialing".into());
    }
    set_cancellation(tx.now, &mut body, p)?;
    let behaviour = p.choice("payment_behavior", &["allow_incomplete", "default_incomplete", "error_if_incomplete"])?;
    let charged = body["collection_method"] == "charge_automatically" && trial_end.is_none() && cost_of(item_of(&body)) > 0;
    let known = [&body["default_payment_method"], &customer["invoice_settings"]["default_payment_method"]].iter().any(|m| m.is_string());
    if charged && !known && behaviour != Some("default_incomplete") {
        let message =
            "This customer has no attached payment source or default payment method. Please consider adding a default payment method.";
        return Err(Failure::refused(Some("resource_missing"), message));
    }
    begin(tx, body, behaviour).await
}

/// The first invoice, and what its payment makes of the subscription.
async fn begin(tx: &mut Tx<'_>, mut body: Json, behaviour: Option<&str>) -> Api<Json> {
    let sends = body["collection_method"] == "send_invoice";
    if sends && body["status"] == "incomplete" {
        body["status"] = "active".into();
    }
    let id = id_of(&body).to_owned();
    let mut invoice = renewals::draft(tx, &body, "subscription_create", true).await?;
    body["latest_invoice"] = invoice["id"].clone();
    renewals::schedule(&mut body);
    tx.put(body.clone());
    if behaviour == Some("default_incomplete") {
        // The customer pays it: nobody is charged from here.
        invoice["auto_advance"] = false.into();
        tx.put(invoice.clone());
        tx.emit("invoice.created", &invoice, None);
        super::invoices::finalize_draft(tx, invoice.clone()).await?;
    } else {
        invoice = renewals::due_at_once(tx, invoice).await?;
    }
    let paid = tx.get(Kind::Invoice, id_of(&invoice)).await?.is_some_and(|i| i["status"] == "paid");
    if behaviour == Some("error_if_incomplete") && !paid && !sends {
        return Err(Failure::declined("generic_decline", "").undone());
    }
    let mut body = tx.need(Kind::Subscription, &id, "id").await?;
    if paid && body["status"] == "incomplete" {
        body["status"] = "active".into();
    }
    renewals::schedule(&mut body);
    tx.put(body.clone());
    tx.emit("customer.subscription.created", &body, None);
    Ok(body)
}

fn not_recurring() -> Box<Failure> {
    Failure::parameter(
        "parameter_invalid_string",
        "items[0][price]",
        "The price specified is set to `type=one_time` but this field only accepts prices with `type=recurring`.",
    )
}

/// A price that a subscription can have, in its currency.
async fn recurring_price(tx: &Tx<'_>, id: &str, currency: Option<&Json>) -> Api<Json> {
    let price = tx.need(Kind::Price, id, "items[0][price]").await?;
    if price["recurring"].is_null() {
        return Err(not_recurring());
    }
    if price["active"] == false {
        let message = "The price specified is inactive. This field only accepts active prices.";
        return Err(Failure::parameter("price_inactive", "items[0][price]", message));
    }
    if currency.is_some_and(|currency| *currency != price["currency"]) {
        let message = format!("The price specified only supports `{}`.", price["currency"].as_str().unwrap_or_default());
        return Err(Failure::parameter("parameter_invalid_string", "items[0][price]", message));
    }
    Ok(price)
}

fn quantity(item: Params<'_>) -> Api<Option<i64>> {
    match item.int("quantity")? {
        Some(quantity) if !(0..=1_000_000).contains(&quantity) => {
            Err(Failure::parameter("parameter_invalid_integer", "items[0][quantity]", "This value must be from 0 to 1000000."))
        }
        quantity => Ok(quantity),
    }
}

fn trial_end(now: i64, p: Params<'_>) -> Api<Option<i64>> {
    let end = match (p.int("trial_period_days")?, p.int("trial_end")?) {
        (Some(_), Some(_)) => {
            return Err(Failure::refused(None, "You may only specify one of these parameters: trial_period_days, trial_end."));
        }
        (Some(days), None) if !(0..=730).contains(&days) => {
            return Err(Failure::parameter("parameter_invalid_integer", "trial_period_days", "This value must be from 0 to 730."));
        }
        (Some(days), None) => now + days * DAY,
        (None, Some(end)) if !(now..=now + 1826 * DAY).contains(&end) => {
            return Err(Failure::parameter("parameter_invalid_integer", "trial_end", "The trial must end within five years from now."));
        }
        (None, Some(end)) => end,
        (None, None) => now,
    };
    Ok((end > now).then_some(end))
}

fn collection_terms(body: &mut Json, p: Params<'_>) -> Api<()> {
    if let Some(method) = p.choice("collection_method", &["charge_automatically", "send_invoice"])? {
        body["collection_method"] = method.into();
    }
    let days = p.int("days_until_due")?;
    match (body["collection_method"] == "send_invoice", days) {
        (true, None) => Err(Failure::missing_parameter("days_until_due")),
        (true, Some(days)) if days < 0 => {
            Err(Failure::parameter("parameter_invalid_integer", "days_until_due", "This value must be greater than or equal to 0."))
        }
        (true, Some(days)) => {
            body["days_until_due"] = days.into();
            Ok(())
        }
        (false, Some(_)) => Err(Failure::parameter(
            "parameter_invalid_empty",
            "days_until_due",
            "You can only set `days_until_due` if the subscription's collection method is `send_invoice`.",
        )),
        (false, None) => Ok(()),
    }
}

/// What can be said at the beginning and later.
async fn change_details(tx: &mut Tx<'_>, body: &mut Json, p: Params<'_>) -> Api<()> {
    const PARAM: &str = "default_payment_method";
    if let Some(id) = p.text(PARAM) {
        let method = customers::method(tx, id, PARAM).await?;
        if method["customer"] != body["customer"] {
            let message = format!(
                "The customer does not have a payment method with the ID {id}. The payment method must be attached to the customer."
            );
            return Err(Failure::parameter("resource_missing", PARAM, message));
        }
        body[PARAM] = method["id"].clone();
    } else if p.has(PARAM) {
        body[PARAM] = Json::Null;
    }
    p.copy_texts(body, &["description"]);
    p.merge_metadata(body);
    Ok(())
}

/// `cancel_at_period_end`: the wish is noted with its time, and can be taken back until the period ends.
fn set_cancellation(now: i64, body: &mut Json, p: Params<'_>) -> Api<()> {
    let at_end = match p.boolean("cancel_at_period_end")? {
        Some(at_end) if body["cancel_at_period_end"] != at_end => at_end,
        _ => return Ok(()),
    };
    body["cancel_at_period_end"] = at_end.into();
    (body["cancel_at"], body["canceled_at"]) = (Json::Null, Json::Null);
    body["cancellation_details"]["reason"] = Json::Null;
    if at_end {
        (body["cancel_at"], body["canceled_at"]) = (period_of(body).1.into(), now.into());
        body["cancellation_details"]["reason"] = "cancellation_requested".into();
    }
    Ok(())
}

fn note_why(body: &mut Json, p: Params<'_>) -> Api<()> {
    let Some(details) = p.sub("cancellation_details") else { return Ok(()) };
    details.only(&["comment", "feedback"])?;
    details.copy_texts(&mut body["cancellation_details"], &["comment"]);
    if let Some(feedback) = details.choice("feedback", FEEDBACK)? {
        body["cancellation_details"]["feedback"] = feedback.into();
    }
    Ok(())
}

pub(super) async fn update(tx: &mut Tx<'_>, id: &str, p: Params<'_>) -> Api<Json> {
    const AFTER_THE_END: &[&str] = &["cancellation_details", "metadata"];
    const BEFORE: &[&str] = &[
        "cancel_at_period_end",
        "default_payment_method",
        "description",
        "items",
        "off_session",
        "payment_behavior",
        "proration_behavior",
    ];
    p.only(&[AFTER_THE_END, BEFORE].concat())?;
    let before = tx.need(Kind::Subscription, id, "id").await?;
    if renewals::has_ended(&before) && BEFORE.iter().any(|name| p.has(name)) {
        return Err(Failure::refused(None, "A canceled subscription can only update its cancellation_details and metadata."));
    }
    p.choice("payment_behavior", &["allow_incomplete"])?;
    let behaviour = p.choice("proration_behavior", &["create_prorations", "none", "always_invoice"])?.unwrap_or("create_prorations");
    let mut body = before.clone();
    change_details(tx, &mut body, p).await?;
    note_why(&mut body, p)?;
    let now_due = match p.only_element("items")? {
        Some(item) => change_item(tx, &mut body, item, behaviour).await?,
        None => None,
    };
    set_cancellation(tx.now, &mut body, p)?;
    renewals::schedule(&mut body);
    if let Some(invoice) = now_due {
        body["latest_invoice"] = invoice["id"].clone();
        tx.put(body);
        // A card that is declined leaves the change in place and the subscription past due.
        renewals::due_at_once(tx, invoice).await?;
        body = tx.need(Kind::Subscription, id, "id").await?;
    }
    tx.put(body.clone());
    tx.emit_change("customer.subscription.updated", &before, &body);
    Ok(body)
}

/// Another price or quantity; answers the invoice if one is due at once. Another interval begins a new period now, and is
/// invoiced now whatever becomes of the old one.
async fn change_item(tx: &mut Tx<'_>, body: &mut Json, p: Params<'_>, behaviour: &str) -> Api<Option<Json>> {
    p.only(&["id", "price", "quantity"])?;
    let old = item_of(body).clone();
    match p.text("id") {
        Some(id) if old["id"] == id => {}
        Some(id) => return Err(Failure::no_such("subscription_item", id, "items[0][id]")),
        None => {
            let message = "A subscription has one item here: name it by items[0][id] to change it.";
            return Err(Failure::parameter("parameter_missing", "items[0][id]", message));
        }
    }
    if body["status"] == "incomplete" {
        return Err(Failure::refused(None, "This subscription's first invoice is not paid yet; its items cannot be changed."));
    }
    let price = match p.text("price") {
        Some(id) => recurring_price(tx, id, Some(&body["currency"])).await?,
        None => old["price"].clone(),
    };
    let mut new = old.clone();
    set_price(&mut new, &price, quantity(p)?.or(old["quantity"].as_i64()).unwrap_or(1));
    if new["price"]["id"] == old["price"]["id"] && new["quantity"] == old["quantity"] {
        return Ok(None);
    }
    let restarts = Interval::of(&price) != Interval::of(&old["price"]);
    let trial = body["status"] == "trialing";
    if !trial && behaviour != "none" {
        prorate(tx, body, &old, if restarts { None } else { Some(&new) }).await?;
    }
    body["items"]["data"][0] = new;
    if trial {
        return Ok(None);
    }
    if restarts {
        body["billing_cycle_anchor"] = tx.now.into();
        let end = Interval::of(&price).map_or(tx.now, |interval| interval.next_end(tx.now, tx.now));
        set_period(body, (tx.now, end));
        if body["cancel_at_period_end"] == true {
            body["cancel_at"] = end.into();
        }
    } else if behaviour != "always_invoice" {
        return Ok(None);
    }
    Ok(Some(renewals::draft(tx, body, "subscription_update", restarts).await?))
}

/// Gives back the unused time of the old item and, within the same period, takes the rest of it for the new one.
async fn prorate(tx: &mut Tx<'_>, body: &Json, old: &Json, new: Option<&Json>) -> Api<()> {
    let period = period_of(body);
    let day = DateTime::from_timestamp(tx.now, 0).map(|now| now.format("%d %b %Y").to_string()).unwrap_or_default();
    let unused = format!("Unused time on {} after {day}", titled(tx, old).await?);
    wait(tx, shapes::proration(tx.now, body, old, -proration::remaining(cost_of(old), period, tx.now), &unused));
    if let Some(new) = new {
        let rest = format!("Remaining time on {} after {day}", titled(tx, new).await?);
        wait(tx, shapes::proration(tx.now, body, new, proration::remaining(cost_of(new), period, tx.now), &rest));
    }
    Ok(())
}

async fn titled(tx: &Tx<'_>, item: &Json) -> Api<String> {
    let name = renewals::product_name(tx, item).await?;
    Ok(match item["quantity"].as_i64() {
        Some(1) => name,
        quantity => format!("{} × {name}", quantity.unwrap_or_default()),
    })
}

fn wait(tx: &mut Tx<'_>, proration: Json) {
    tx.put(proration.clone());
    tx.emit("invoiceitem.created", &proration, None);
}

/// Ends a subscription now. `prorate` gives back the unused time, on the customer's balance if nothing else is due.
pub(super) async fn cancel(tx: &mut Tx<'_>, id: &str, p: Params<'_>) -> Api<Json> {
    p.only(&["cancellation_details", "invoice_now", "prorate"])?;
    let (invoice_now, prorated) = (p.boolean("invoice_now")?.unwrap_or(false), p.boolean("prorate")?.unwrap_or(false));
    let mut body = tx.need(Kind::Subscription, id, "id").await?;
    if renewals::has_ended(&body) {
        return Err(Failure::no_such("subscription", id, "id"));
    }
    note_why(&mut body, p)?;
    if prorated && matches!(body["status"].as_str(), Some("active" | "past_due")) {
        let old = item_of(&body).clone();
        prorate(tx, &body, &old, None).await?;
    }
    if invoice_now {
        let mut invoice = renewals::draft(tx, &body, "subscription_update", false).await?;
        invoice["auto_advance"] = false.into();
        body["latest_invoice"] = invoice["id"].clone();
        tx.put(body.clone());
        renewals::due_at_once(tx, invoice).await?;
    } else if !prorated {
        renewals::forget_prorations(tx, id).await?;
    }
    renewals::finish(tx, body, "cancellation_requested").await
}
