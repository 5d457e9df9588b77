//! Invoice items: a charge to come, on a draft invoice or waiting for the customer's next one. An item on an invoice is also
//! a line of it. Called by the dispatcher and by invoices.

use serde_json::{Value as Json, json};

use super::{
    catalog, customers,
    documents::{Kind, Tx, id_of},
    failure::{Api, Failure},
    form::Params,
    invoices,
};

pub(super) async fn create(tx: &mut Tx<'_>, p: Params<'_>) -> Api<Json> {
    p.only(&[
        "customer",
        "invoice",
        "amount",
        "currency",
        "description",
        "metadata",
        "period",
        "discountable",
        "quantity",
        "pricing",
        "price_data",
    ])?;
    let customer = customers::living(tx, p.required("customer")?, "customer").await?;
    let invoice = match p.text("invoice") {
        Some(id) => Some(invoices::draft(tx, id, "invoice").await?),
        None => None,
    };
    let (unit, quantity, currency, price) = amount(tx, p, invoice.as_ref(), &customer).await?;
    if let Some(invoice) = &invoice {
        if invoice["customer"] != customer["id"] {
            return Err(Failure::refused(None, "The invoice does not belong to the customer.").param("invoice"));
        }
        if invoice["currency"] != currency.as_str() {
            let message = format!(
                "You cannot combine currencies on a single invoice. The invoice is in {}, the item in {currency}.",
                invoice["currency"].as_str().unwrap_or_default()
            );
            return Err(Failure::refused(None, message).param("currency"));
        }
    }
    let period = match p.sub("period") {
        Some(period) => {
            period.only(&["start", "end"])?;
            let start = period.int("start")?.ok_or_else(|| Failure::missing_parameter("period[start]"))?;
            json!({ "end": period.int("end")?.unwrap_or(start), "start": start })
        }
        None => json!({ "end": tx.now, "start": tx.now }),
    };
    let mut body = json!({
        "id": Kind::InvoiceItem.new_id(), "object": "invoiceitem", "amount": unit * quantity, "currency": currency, "customer": customer["id"],
        "date": tx.now, "description": null, "discountable": p.boolean("discountable")?.unwrap_or(unit > 0), "discounts": [],
        "invoice": null, "livemode": false, "metadata": {}, "net_amount": unit * quantity, "parent": null, "period": period,
        "pricing": { "price_details": price, "type": "price_details", "unit_amount_decimal": unit.to_string() },
        "proration": false, "proration_details": null, "quantity": quantity, "quantity_decimal": quantity.to_string(), "tax_rates": [],
        "test_clock": null,
    });
    p.copy_texts(&mut body, &["description"]);
    p.merge_metadata(&mut body);
    if let Some(mut invoice) = invoice {
        attach(&mut body, &mut invoice);
        invoices::total(&mut invoice);
        tx.put(invoice);
    }
    tx.put(body.clone());
    tx.emit("invoiceitem.created", &body, None);
    Ok(body)
}

/// Unit amount, quantity, currency and the price's details, from `amount`, `pricing[price]` or `price_data`.
async fn amount(tx: &mut Tx<'_>, p: Params<'_>, invoice: Option<&Json>, customer: &Json) -> Api<(i64, i64, String, Json)> {
    let quantity = p.int("quantity")?.unwrap_or(1);
    if !(0..=1_000_000).contains(&quantity) {
        return Err(Failure::parameter("parameter_invalid_integer", "quantity", "This value must be from 0 to 1000000."));
    }
    let price = match (p.sub("pricing"), p.sub("price_data")) {
        (Some(pricing), None) => {
            pricing.only(&["price"])?;
            Some(tx.need(Kind::Price, pricing.required("price")?, "pricing[price]").await?)
        }
        (None, Some(data)) => Some(catalog::create_price(tx, data).await?),
        (None, None) => None,
        _ => return Err(Failure::refused(None, "You may only specify one of these parameters: pricing, price_data.")),
    };
    let (unit, currency, details) = if let Some(price) = price {
        let unit = price["unit_amount"].as_i64().unwrap_or_default();
        let currency = price["currency"].as_str().unwrap_or_default().to_owned();
        (unit, currency, json!({ "price": price["id"], "product": price["product"] }))
    } else {
        let unit = p.int("amount")?.ok_or_else(|| Failure::missing_parameter("amount"))?;
        let known = invoice.and_then(|i| i["currency"].as_str()).or(customer["currency"].as_str());
        let currency = match (p.has("currency"), known) {
            (false, Some(known)) => known.to_owned(),
            _ => catalog::currency(p)?,
        };
        (unit, currency, Json::Null)
    };
    match unit.checked_mul(quantity) {
        Some(total) if total.abs() <= crate::domain::money::MAXIMUM => Ok((unit, quantity, currency, details)),
        _ => Err(Failure::parameter("amount_too_large", "amount", "Amount must be no more than 99999999")),
    }
}

/// Makes a pending item a line of a draft.
pub(super) fn attach(item: &mut Json, invoice: &mut Json) {
    item["invoice"] = invoice["id"].clone();
    let line = json!({
        "id": format!("il_{}", super::random_text(24)), "object": "line_item", "amount": item["amount"], "currency": item["currency"],
        "description": item["description"], "discount_amounts": [], "discountable": item["discountable"], "discounts": [],
        "invoice": invoice["id"], "livemode": false, "metadata": item["metadata"],
        "parent": {
            "invoice_item_details": { "invoice_item": item["id"], "proration": false, "proration_details": { "credited_items": null },
                                      "subscription": null },
            "subscription_item_details": null, "type": "invoice_item_details",
        },
        "period": item["period"], "pretax_credit_amounts": [], "pricing": item["pricing"], "quantity": item["quantity"],
        "quantity_decimal": item["quantity_decimal"], "subscription": null, "subtotal": item["amount"], "taxes": [],
    });
    if let Some(lines) = invoice["lines"]["data"].as_array_mut() {
        lines.push(line);
    }
}

/// Changes an item that waits, or that is on a draft, and the line it is there.
pub(super) async fn update(tx: &mut Tx<'_>, id: &str, p: Params<'_>) -> Api<Json> {
    p.only(&["amount", "description", "discountable", "metadata", "quantity"])?;
    let mut item = tx.need(Kind::InvoiceItem, id, "id").await?;
    let invoice = match item["invoice"].as_str() {
        Some(invoice) => Some(invoices::draft(tx, invoice, "invoice").await?),
        None => None,
    };
    let old = item["quantity"].as_i64().unwrap_or(1);
    let quantity = p.int("quantity")?.unwrap_or(old);
    let unit = match p.int("amount")? {
        Some(amount) => amount,
        None => item["amount"].as_i64().unwrap_or_default() / old.max(1),
    };
    let amount = unit.checked_mul(quantity).filter(|a| a.abs() <= crate::domain::money::MAXIMUM && quantity >= 0);
    let Some(amount) = amount else {
        return Err(Failure::parameter("amount_too_large", "amount", "Amount must be no more than 99999999"));
    };
    (item["amount"], item["net_amount"]) = (amount.into(), amount.into());
    (item["quantity"], item["quantity_decimal"]) = (quantity.into(), quantity.to_string().into());
    item["pricing"]["unit_amount_decimal"] = unit.to_string().into();
    if let Some(discountable) = p.boolean("discountable")? {
        item["discountable"] = discountable.into();
    }
    p.copy_texts(&mut item, &["description"]);
    p.merge_metadata(&mut item);
    if let Some(mut invoice) = invoice {
        let lines = invoice["lines"]["data"].as_array_mut().into_iter().flatten();
        for line in lines.filter(|line| line["parent"]["invoice_item_details"]["invoice_item"] == id) {
            for name in ["amount", "description", "discountable", "metadata", "pricing", "quantity", "quantity_decimal"] {
                line[name] = item[name].clone();
            }
            line["subtotal"] = item["amount"].clone();
        }
        invoices::total(&mut invoice);
        tx.put(invoice);
    }
    tx.put(item.clone());
    Ok(item)
}

pub(super) async fn delete(tx: &mut Tx<'_>, id: &str) -> Api<Json> {
    let item = tx.need(Kind::InvoiceItem, id, "id").await?;
    if let Some(invoice) = item["invoice"].as_str() {
        let mut invoice = invoices::draft(tx, invoice, "invoice").await?;
        if let Some(lines) = invoice["lines"]["data"].as_array_mut() {
            let made_by = |line: &Json, parent: &str| line["parent"][parent]["invoice_item"] == id;
            lines.retain(|line| !made_by(line, "invoice_item_details") && !made_by(line, "subscription_item_details"));
        }
        invoices::total(&mut invoice);
        tx.put(invoice);
    }
    tx.delete(id_of(&item));
    tx.emit("invoiceitem.deleted", &item, None);
    Ok(json!({ "id": id, "object": "invoiceitem", "deleted": true }))
}
