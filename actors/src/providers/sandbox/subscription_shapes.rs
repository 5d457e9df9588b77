//! New subscriptions, their items, and the lines they put on invoices, with every member that the API version has. Called by
//! subscriptions and renewals, which set what means something; here are the rest, so that no client misses one.

use serde_json::{Value as Json, json};

use super::{
    documents::{Kind, id_of},
    payments::amount_text,
};

/// A subscription without status, periods and invoice.
pub(super) fn subscription(now: i64, customer: &Json, price: &Json, quantity: i64) -> Json {
    let id = Kind::Subscription.new_id();
    let mut body = json!({
        "id": id, "object": "subscription", "automatic_tax": { "disabled_reason": null, "enabled": false, "liability": null },
        "billing_cycle_anchor": now, "billing_mode": { "flexible": null, "type": "classic", "updated_at": null }, "billing_schedules": [],
        "cancel_at_period_end": false, "cancellation_details": { "comment": null, "feedback": null, "feedback_option": null, "reason": null },
        "collection_method": "charge_automatically", "created": now, "currency": price["currency"], "customer": customer["id"],
        "default_tax_rates": [], "discounts": [],
        "invoice_settings": { "account_tax_ids": null, "custom_fields": null, "description": null, "footer": null,
                              "issuer": { "account": null, "type": "self" } },
        "items": { "object": "list", "data": [item(&id, now, price, quantity)], "has_more": false, "total_count": 1,
                   "url": format!("/v1/subscription_items?subscription={id}") },
        "livemode": false, "metadata": {},
        "payment_settings": { "payment_method_options": null, "payment_method_types": null, "save_default_payment_method": "off" },
        "start_date": now, "status": "incomplete", "trial_settings": { "end_behavior": { "billing_cycle_anchor": null, "missing_payment_method": "create_invoice" } },
    });
    for name in NOT_OF_A_SUBSCRIPTION {
        body[*name] = Json::Null;
    }
    body
}

/// Members of a subscription that are null until something happens, or always here.
const NOT_OF_A_SUBSCRIPTION: &[&str] = &[
    "application",
    "application_fee_percent",
    "billing_cycle_anchor_config",
    "billing_thresholds",
    "cancel_at",
    "canceled_at",
    "customer_account",
    "days_until_due",
    "default_payment_method",
    "default_source",
    "description",
    "ended_at",
    "latest_invoice",
    "managed_payments",
    "next_pending_invoice_item_invoice",
    "on_behalf_of",
    "pause_collection",
    "pending_invoice_item_interval",
    "pending_setup_intent",
    "pending_update",
    "schedule",
    "test_clock",
    "transfer_data",
    "trial_end",
    "trial_start",
];

fn item(subscription: &str, now: i64, price: &Json, quantity: i64) -> Json {
    let mut body = json!({
        "id": format!("si_{}", super::random_text(14)), "object": "subscription_item", "billed_until": null, "billing_thresholds": null,
        "created": now, "current_period_end": now, "current_period_start": now, "discounts": [], "metadata": {},
        "subscription": subscription, "tax_rates": [],
    });
    set_price(&mut body, price, quantity);
    body
}

/// What an item is charged by; `plan` is the older name of the same price.
pub(super) fn set_price(item: &mut Json, price: &Json, quantity: i64) {
    let recurring = &price["recurring"];
    item["plan"] = json!({
        "id": price["id"], "object": "plan", "active": price["active"], "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"], "billing_scheme": "per_unit", "created": price["created"],
        "currency": price["currency"], "interval": recurring["interval"], "interval_count": recurring["interval_count"], "livemode": false,
        "metadata": price["metadata"], "meter": null, "nickname": price["nickname"], "product": price["product"], "tiers_mode": null,
        "transform_usage": null, "trial_period_days": null, "usage_type": "licensed",
    });
    item["price"] = price.clone();
    item["quantity"] = quantity.into();
}

/// The one item of a subscription.
pub(super) fn item_of(subscription: &Json) -> &Json {
    &subscription["items"]["data"][0]
}

/// Start and end of the present period.
pub(super) fn period_of(subscription: &Json) -> (i64, i64) {
    let time = |name: &str| item_of(subscription)[name].as_i64().unwrap_or_default();
    (time("current_period_start"), time("current_period_end"))
}

pub(super) fn set_period(subscription: &mut Json, (start, end): (i64, i64)) {
    let item = &mut subscription["items"]["data"][0];
    (item["current_period_start"], item["current_period_end"]) = (start.into(), end.into());
}

/// What a whole period costs.
pub(super) fn cost_of(item: &Json) -> i64 {
    item["price"]["unit_amount"].as_i64().unwrap_or_default() * item["quantity"].as_i64().unwrap_or(1)
}

/// What makes an invoice one of a subscription.
pub(super) fn parent(subscription: &Json) -> Json {
    json!({
        "quote_details": null, "type": "subscription_details",
        "subscription_details": { "metadata": subscription["metadata"], "subscription": subscription["id"], "subscription_proration_date": null },
    })
}

/// The subscription that made an invoice.
pub(super) fn subscription_of(invoice: &Json) -> Option<&str> {
    invoice["parent"]["subscription_details"]["subscription"].as_str()
}

/// One line of a subscription's invoice: `amount` for the item's price over the period.
pub(super) fn line(invoice: &str, item: &Json, amount: i64, period: (i64, i64), description: &str) -> Json {
    let price = &item["price"];
    json!({
        "id": format!("il_{}", super::random_text(24)), "object": "line_item", "amount": amount, "currency": price["currency"],
        "description": description, "discount_amounts": [], "discountable": true, "discounts": [], "invoice": invoice, "livemode": false,
        "metadata": {},
        "parent": {
            "invoice_item_details": null, "type": "subscription_item_details",
            "subscription_item_details": { "invoice_item": null, "proration": false, "proration_details": { "credited_items": null },
                                           "subscription": item["subscription"], "subscription_item": item["id"] },
        },
        "period": { "end": period.1, "start": period.0 }, "pretax_credit_amounts": [], "pricing": pricing(price),
        "quantity": item["quantity"], "quantity_decimal": item["quantity"].to_string(), "subscription": item["subscription"],
        "subtotal": amount, "taxes": [],
    })
}

fn pricing(price: &Json) -> Json {
    json!({ "price_details": { "price": price["id"], "product": price["product"] }, "type": "price_details",
            "unit_amount_decimal": price["unit_amount_decimal"] })
}

/// "1 × Team (at $49.00 / month)"
pub(super) fn title(item: &Json, product: &str) -> String {
    let price = &item["price"];
    let unit = amount_text(price["unit_amount"].as_i64().unwrap_or_default(), price["currency"].as_str().unwrap_or_default());
    let every = match (price["recurring"]["interval_count"].as_i64().unwrap_or(1), price["recurring"]["interval"].as_str()) {
        (1, interval) => interval.unwrap_or_default().to_owned(),
        (count, interval) => format!("{count} {}s", interval.unwrap_or_default()),
    };
    format!("{} × {product} (at {unit} / {every})", item["quantity"])
}

/// A proration that waits for the subscription's next invoice.
pub(super) fn proration(now: i64, subscription: &Json, item: &Json, amount: i64, description: &str) -> Json {
    json!({
        "id": Kind::InvoiceItem.new_id(), "object": "invoiceitem", "amount": amount, "currency": subscription["currency"],
        "customer": subscription["customer"], "date": now, "description": description, "discountable": false, "discounts": [],
        "invoice": null, "livemode": false, "metadata": {}, "net_amount": amount,
        "parent": { "subscription_details": { "subscription": subscription["id"], "subscription_item": item["id"] },
                    "type": "subscription_details" },
        "period": { "end": period_of(subscription).1, "start": now }, "pricing": pricing(&item["price"]), "proration": true,
        "proration_details": { "discount_amounts": [] }, "quantity": item["quantity"], "quantity_decimal": item["quantity"].to_string(),
        "tax_rates": [], "test_clock": null,
    })
}

/// The line that a proration becomes on an invoice; the item remembers it.
pub(super) fn prorated_line(invoice: &Json, proration: &mut Json, item: &Json) -> Json {
    proration["invoice"] = invoice["id"].clone();
    let period = (proration["period"]["start"].as_i64().unwrap_or_default(), proration["period"]["end"].as_i64().unwrap_or_default());
    let description = proration["description"].as_str().unwrap_or_default();
    let mut line = line(id_of(invoice), item, proration["amount"].as_i64().unwrap_or_default(), period, description);
    (line["pricing"], line["quantity"]) = (proration["pricing"].clone(), proration["quantity"].clone());
    (line["quantity_decimal"], line["discountable"]) = (proration["quantity_decimal"].clone(), false.into());
    let details = &mut line["parent"]["subscription_item_details"];
    (details["invoice_item"], details["proration"]) = (proration["id"].clone(), true.into());
    line
}
