//! Products and prices: what an invoice item can refer to. Called by the dispatcher and by invoice items.

use serde_json::{Value as Json, json};

use super::{
    documents::{Kind, Tx},
    failure::{Api, Failure},
    form::Params,
};
use crate::domain::money;

const PRICE: &[&str] = &["currency", "unit_amount", "active", "metadata", "nickname", "recurring", "lookup_key", "tax_behavior"];

pub(super) fn create_product(tx: &mut Tx<'_>, p: Params<'_>) -> Api<Json> {
    p.only(&["name", "active", "default_price_data", "description", "metadata", "images", "statement_descriptor", "unit_label", "url"])?;
    let mut body = json!({
        "id": Kind::Product.new_id(), "object": "product", "active": p.boolean("active")?.unwrap_or(true), "created": tx.now,
        "default_price": null, "description": null, "images": p.list("images"), "livemode": false, "marketing_features": [],
        "metadata": {}, "name": p.required("name")?, "package_dimensions": null, "shippable": null, "statement_descriptor": null,
        "tax_code": null, "type": "service", "unit_label": null, "updated": tx.now, "url": null,
    });
    p.copy_texts(&mut body, &["description", "statement_descriptor", "unit_label", "url"]);
    p.merge_metadata(&mut body);
    if let Some(data) = p.sub("default_price_data") {
        data.only(PRICE)?;
        body["default_price"] = new_price(tx, data, &body)?["id"].clone();
    }
    tx.put(body.clone());
    tx.emit("product.created", &body, None);
    Ok(body)
}

pub(super) async fn update_product(tx: &mut Tx<'_>, id: &str, p: Params<'_>) -> Api<Json> {
    p.only(&["name", "active", "description", "metadata", "default_price"])?;
    let before = tx.need(Kind::Product, id, "id").await?;
    let mut body = before.clone();
    if let Some(active) = p.boolean("active")? {
        body["active"] = active.into();
    }
    if let Some(price) = p.text("default_price") {
        tx.need(Kind::Price, price, "default_price").await?;
    }
    p.copy_texts(&mut body, &["description", "default_price"]);
    if let Some(name) = p.text("name") {
        body["name"] = name.into();
    }
    p.merge_metadata(&mut body);
    body["updated"] = tx.now.into();
    tx.put(body.clone());
    tx.emit_change("product.updated", &before, &body);
    Ok(body)
}

pub(super) async fn create_price(tx: &mut Tx<'_>, p: Params<'_>) -> Api<Json> {
    p.only(&[PRICE, &["product", "product_data"]].concat())?;
    let product = match (p.text("product"), p.sub("product_data")) {
        (Some(id), None) => tx.need(Kind::Product, id, "product").await?,
        (None, Some(data)) => create_product(tx, data)?,
        _ => return Err(Failure::missing_parameter("product")),
    };
    new_price(tx, p, &product)
}

fn new_price(tx: &mut Tx<'_>, p: Params<'_>, product: &Json) -> Api<Json> {
    let currency = currency(p)?;
    let amount = p.int("unit_amount")?.ok_or_else(|| Failure::missing_parameter("unit_amount"))?;
    if !(0..=money::MAXIMUM).contains(&amount) {
        return Err(Failure::parameter("parameter_invalid_integer", "unit_amount", "Invalid non-negative integer"));
    }
    let recurring = match p.sub("recurring") {
        None => Json::Null,
        Some(r) => {
            r.only(&["interval", "interval_count"])?;
            let interval = r
                .choice("interval", &["day", "week", "month", "year"])?
                .ok_or_else(|| Failure::missing_parameter("recurring[interval]"))?;
            let count = r.int("interval_count")?.unwrap_or(1);
            let longest = match interval {
                "day" => 1095,
                "week" => 156,
                "month" => 36,
                _ => 3,
            };
            if !(1..=longest).contains(&count) {
                let message = format!("An interval of more than three years is not possible: at most {longest} {interval}s.");
                return Err(Failure::parameter("parameter_invalid_integer", "recurring[interval_count]", message));
            }
            json!({ "interval": interval, "interval_count": count, "meter": null,
                    "trial_period_days": null, "usage_type": "licensed" })
        }
    };
    let mut body = json!({
        "id": Kind::Price.new_id(), "object": "price", "active": p.boolean("active")?.unwrap_or(true), "billing_scheme": "per_unit",
        "created": tx.now, "currency": currency, "custom_unit_amount": null, "livemode": false, "lookup_key": null, "metadata": {},
        "nickname": null, "product": product["id"], "recurring": recurring,
        "tax_behavior": p.choice("tax_behavior", &["exclusive", "inclusive", "unspecified"])?.unwrap_or("unspecified"),
        "tiers_mode": null, "transform_quantity": null, "type": if recurring.is_null() { "one_time" } else { "recurring" },
        "unit_amount": amount, "unit_amount_decimal": amount.to_string(),
    });
    p.copy_texts(&mut body, &["nickname", "lookup_key"]);
    p.merge_metadata(&mut body);
    tx.put(body.clone());
    tx.emit("price.created", &body, None);
    Ok(body)
}

pub(super) async fn update_price(tx: &mut Tx<'_>, id: &str, p: Params<'_>) -> Api<Json> {
    p.only(&["active", "metadata", "nickname"])?;
    let before = tx.need(Kind::Price, id, "id").await?;
    let mut body = before.clone();
    if let Some(active) = p.boolean("active")? {
        body["active"] = active.into();
    }
    p.copy_texts(&mut body, &["nickname"]);
    p.merge_metadata(&mut body);
    tx.put(body.clone());
    tx.emit_change("price.updated", &before, &body);
    Ok(body)
}

/// The currency parameter: known, in lowercase.
pub(super) fn currency(p: Params<'_>) -> Api<String> {
    let currency = p.required("currency")?.to_ascii_lowercase();
    if money::is_currency(&currency) { Ok(currency) } else { Err(Failure::invalid("currency", format!("Invalid currency: {currency}"))) }
}
