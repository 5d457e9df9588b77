//! Credit notes: less to pay on an open invoice; on a paid one money back, credit for the next invoice, or something that
//! happened elsewhere. Called by the dispatcher; invoices ask here what a customer's credit pays of them.

use serde_json::{Value as Json, json};

use super::{
    documents::{Kind, Query, Tx, id_of},
    failure::{Api, Failure},
    form::Params,
    invoices,
    payments::amount_text,
    refunds,
};

const REASONS: &[&str] = &["duplicate", "fraudulent", "order_change", "product_unsatisfactory"];

pub(super) async fn create(tx: &mut Tx<'_>, p: Params<'_>) -> Api<Json> {
    p.only(&["invoice", "amount", "lines", "refund_amount", "credit_amount", "out_of_band_amount", "reason", "memo", "metadata"])?;
    let mut invoice = tx.need(Kind::Invoice, p.required("invoice")?, "invoice").await?;
    if !matches!(invoice["status"].as_str(), Some("open" | "paid")) {
        return Err(Failure::refused(None, "You can only create credit notes for invoices that are open or paid.").param("invoice"));
    }
    let reason = p.choice("reason", REASONS)?;
    let id = Kind::CreditNote.new_id();
    let lines = lines(p, &invoice)?;
    let amount: i64 = lines.iter().filter_map(|l| l["amount"].as_i64()).sum();
    let others = tx.find(&Query::linked(Kind::CreditNote, id_of(&invoice))).await?;
    let credited: i64 = others.iter().filter(|n| n["status"] == "issued").filter_map(|n| n["total"].as_i64()).sum();
    let currency = invoice["currency"].as_str().unwrap_or_default().to_owned();
    let left = invoice["total"].as_i64().unwrap_or_default() - credited;
    if !(1..=left).contains(&amount) {
        let message = format!(
            "The credit note's amount ({}) must be more than nothing and no more than what is left of the invoice ({}).",
            amount_text(amount, &currency),
            amount_text(left, &currency)
        );
        return Err(Failure::refused(None, message).param("amount"));
    }
    let pre = amount.min(invoice["amount_remaining"].as_i64().unwrap_or_default());
    let split = Split::of(p, amount - pre, &currency)?;
    let mut note = shape(tx.now, &id, &invoice, &lines, amount, pre);
    note["number"] = format!("{}-CN-{:02}", invoice["number"].as_str().unwrap_or_default(), others.len() + 1).into();
    (note["reason"], note["memo"]) = (reason.into(), p.text_or_null("memo"));
    note["out_of_band_amount"] = split.out_of_band.into();
    p.merge_metadata(&mut note);
    if split.refund > 0 {
        let charge = charge_of(tx, &invoice).await?;
        let refund = refunds::make(tx, charge, Some(split.refund), None, None).await?;
        note["refunds"] =
            json!([{ "amount_refunded": split.refund, "payment_record_refund": null, "refund": refund["id"], "type": "refund" }]);
    }
    if split.credit > 0 {
        change_balance(tx, &invoice, -split.credit).await?;
    }
    add(&mut invoice, "post_payment_credit_notes_amount", amount - pre);
    if pre > 0 {
        lower(tx, &mut invoice, pre).await?;
    }
    tx.put(invoice.clone());
    tx.put(note.clone());
    tx.emit("credit_note.created", &note, None);
    tx.emit("invoice.updated", &invoice, None);
    if pre > 0 && invoice["amount_remaining"] == 0 {
        invoices::nothing_left(tx, invoice).await?;
    }
    Ok(note)
}

/// Where the part that was paid already goes.
struct Split {
    refund: i64,
    credit: i64,
    out_of_band: i64,
}

impl Split {
    fn of(p: Params<'_>, post: i64, currency: &str) -> Api<Self> {
        let part = |name: &str| match p.int(name)? {
            Some(n) if n < 0 => {
                Err(Failure::parameter("parameter_invalid_integer", name, "This value must be greater than or equal to 0."))
            }
            other => Ok(other.unwrap_or_default()),
        };
        let split = Self { refund: part("refund_amount")?, credit: part("credit_amount")?, out_of_band: part("out_of_band_amount")? };
        let sum = split.refund.saturating_add(split.credit).saturating_add(split.out_of_band);
        if sum == post {
            return Ok(split);
        }
        let message = format!(
            "The sum of credit amount, refund amount and out of band amount ({}) must equal the post payment credit note amount ({}).",
            amount_text(sum, currency),
            amount_text(post, currency)
        );
        Err(Failure::refused(None, message))
    }
}

/// `amount` as one line, or the lines that are given: of the invoice, or free ones.
fn lines(p: Params<'_>, invoice: &Json) -> Api<Vec<Json>> {
    let line = |amount: i64, description: Json, of: Json, quantity: Option<i64>| {
        let unit = quantity.filter(|q| *q > 0 && amount % q == 0).map(|q| amount / q);
        json!({
            "id": format!("cnli_{}", super::random_text(24)), "object": "credit_note_line_item", "amount": amount, "description": description,
            "discount_amount": 0, "discount_amounts": [], "livemode": false, "metadata": {}, "pretax_credit_amounts": [],
            "quantity": quantity, "tax_rates": [], "taxes": [], "type": if of.is_null() { "custom_line_item" } else { "invoice_line_item" },
            "invoice_line_item": of, "unit_amount": unit, "unit_amount_decimal": unit.map(|u| u.to_string()),
        })
    };
    let given = p.items("lines");
    if given.is_empty() {
        let amount = p.int("amount")?.ok_or_else(|| Failure::missing_parameter("amount"))?;
        return Ok(vec![line(amount, "Credit".into(), Json::Null, Some(1))]);
    }
    if p.has("amount") {
        return Err(Failure::refused(None, "You may only specify one of these parameters: amount, lines."));
    }
    let known = invoice["lines"]["data"].as_array().cloned().unwrap_or_default();
    given
        .into_iter()
        .map(|item| {
            item.only(&["type", "invoice_line_item", "amount", "quantity", "description", "unit_amount"])?;
            let quantity = item.int("quantity")?;
            if item.required("type")? == "custom_line_item" {
                let unit = item.int("unit_amount")?.ok_or_else(|| Failure::missing_parameter("lines[unit_amount]"))?;
                let quantity = quantity.unwrap_or(1);
                let amount = unit.checked_mul(quantity).filter(|a| *a <= crate::domain::money::MAXIMUM);
                let amount =
                    amount.ok_or_else(|| Failure::parameter("amount_too_large", "lines[unit_amount]", "The amount is too large."))?;
                return Ok(line(amount, item.text_or_null("description"), Json::Null, Some(quantity)));
            }
            let id = item.required("invoice_line_item")?;
            let of = known.iter().find(|l| l["id"] == id).ok_or_else(|| Failure::no_such("line_item", id, "lines[invoice_line_item]"))?;
            let whole = of["amount"].as_i64().unwrap_or_default();
            let all = of["quantity"].as_i64().unwrap_or(1).max(1);
            let amount = item.int("amount")?.unwrap_or_else(|| quantity.map_or(whole, |q| whole / all * q));
            Ok(line(amount, of["description"].clone(), of["id"].clone(), quantity))
        })
        .collect()
}

fn shape(now: i64, id: &str, invoice: &Json, lines: &[Json], amount: i64, pre: i64) -> Json {
    let kind = match (pre > 0, amount > pre) {
        (true, true) => "mixed",
        (true, false) => "pre_payment",
        _ => "post_payment",
    };
    json!({
        "id": id, "object": "credit_note", "amount": amount, "amount_shipping": 0, "created": now, "currency": invoice["currency"],
        "customer": invoice["customer"], "customer_account": null, "customer_balance_transaction": null, "discount_amount": 0,
        "discount_amounts": [], "effective_at": now, "invoice": invoice["id"],
        "lines": { "object": "list", "data": lines, "has_more": false, "url": format!("/v1/credit_notes/{id}/lines") },
        "livemode": false, "memo": null, "metadata": {}, "number": null, "out_of_band_amount": null,
        "pdf": invoice["hosted_invoice_url"], "post_payment_amount": amount - pre, "pre_payment_amount": pre, "pretax_credit_amounts": [],
        "reason": null, "refunds": [], "shipping_cost": null, "status": "issued", "subtotal": amount, "subtotal_excluding_tax": amount,
        "total": amount, "total_excluding_tax": amount, "total_taxes": [], "type": kind, "voided_at": null,
    })
}

fn add(body: &mut Json, name: &str, amount: i64) {
    body[name] = (body[name].as_i64().unwrap_or_default() + amount).into();
}

/// Takes from (or, below zero, puts back to) what is to be paid, also of the payment that is open for it.
async fn lower(tx: &mut Tx<'_>, invoice: &mut Json, amount: i64) -> Api<()> {
    add(invoice, "pre_payment_credit_notes_amount", amount);
    add(invoice, "amount_due", -amount);
    add(invoice, "amount_remaining", -amount);
    let open = Query { status: Some("open".into()), ..Query::linked(Kind::InvoicePayment, id_of(invoice)) };
    for mut payment in tx.find(&open).await? {
        let mut intent =
            tx.need(Kind::PaymentIntent, payment["payment"]["payment_intent"].as_str().unwrap_or_default(), "payment_intent").await?;
        (payment["amount_requested"], intent["amount"]) = (invoice["amount_remaining"].clone(), invoice["amount_remaining"].clone());
        tx.put(payment);
        tx.put(intent);
    }
    Ok(())
}

async fn charge_of(tx: &Tx<'_>, invoice: &Json) -> Api<Json> {
    let paid = Query { status: Some("paid".into()), ..Query::linked(Kind::InvoicePayment, id_of(invoice)) };
    let payment = tx.find(&paid).await?.pop();
    let intent = payment.as_ref().and_then(|p| p["payment"]["payment_intent"].as_str());
    let Some(intent) = intent else { return Err(Failure::refused(None, "The invoice was not paid by a charge that could be refunded.")) };
    let intent = tx.need(Kind::PaymentIntent, intent, "payment_intent").await?;
    tx.need(Kind::Charge, intent["latest_charge"].as_str().unwrap_or_default(), "charge").await
}

async fn change_balance(tx: &mut Tx<'_>, invoice: &Json, amount: i64) -> Api<()> {
    let mut customer = tx.need(Kind::Customer, invoice["customer"].as_str().unwrap_or_default(), "customer").await?;
    let previous = json!({ "balance": customer["balance"] });
    add(&mut customer, "balance", amount);
    tx.put(customer.clone());
    tx.emit("customer.updated", &customer, Some(previous));
    Ok(())
}

pub(super) async fn update(tx: &mut Tx<'_>, id: &str, p: Params<'_>) -> Api<Json> {
    p.only(&["memo", "metadata"])?;
    let mut note = tx.need(Kind::CreditNote, id, "id").await?;
    let previous = json!({ "memo": note["memo"], "metadata": note["metadata"] });
    p.copy_texts(&mut note, &["memo"]);
    p.merge_metadata(&mut note);
    tx.put(note.clone());
    tx.emit("credit_note.updated", &note, Some(previous));
    Ok(note)
}

/// Only while its invoice is still open: money that was given back stays given back.
pub(super) async fn void(tx: &mut Tx<'_>, id: &str, p: Params<'_>) -> Api<Json> {
    p.only(&[])?;
    let mut note = tx.need(Kind::CreditNote, id, "id").await?;
    let mut invoice = tx.need(Kind::Invoice, note["invoice"].as_str().unwrap_or_default(), "invoice").await?;
    if note["status"] != "issued" || invoice["status"] != "open" {
        return Err(Failure::refused(None, "You can only void an issued credit note of an open invoice."));
    }
    lower(tx, &mut invoice, -note["pre_payment_amount"].as_i64().unwrap_or_default()).await?;
    (note["status"], note["voided_at"]) = ("void".into(), tx.now.into());
    tx.put(invoice.clone());
    tx.put(note.clone());
    tx.emit("credit_note.voided", &note, None);
    tx.emit("invoice.updated", &invoice, None);
    Ok(note)
}
