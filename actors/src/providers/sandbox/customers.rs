//! Customers and payment methods, including the provider's test cards (`pm_card_visa`, `tok_chargeDeclined`, ...): each use
//! of a test id makes a payment method of its own. Called by the dispatcher and by payments.

use serde_json::{Value as Json, json};

use super::{
    documents::{Kind, Tx, id_of},
    failure::{Api, Failure},
    form::Params,
    renewals,
};

const ADDRESS: &[&str] = &["city", "country", "line1", "line2", "postal_code", "state"];
const CUSTOMER: &[&str] = &[
    "email",
    "name",
    "phone",
    "description",
    "metadata",
    "address",
    "shipping",
    "invoice_settings",
    "payment_method",
    "preferred_locales",
    "tax_exempt",
    "invoice_prefix",
];

pub(super) async fn create(tx: &mut Tx<'_>, p: Params<'_>) -> Api<Json> {
    p.only(CUSTOMER)?;
    let mut body = json!({
        "id": Kind::Customer.new_id(), "object": "customer", "address": null, "balance": 0, "created": tx.now, "currency": null,
        "default_source": null, "delinquent": false, "description": null, "discount": null, "email": null,
        "invoice_prefix": super::random_text(8).to_uppercase(),
        "invoice_settings": { "custom_fields": null, "default_payment_method": null, "footer": null, "rendering_options": null },
        "livemode": false, "metadata": {}, "name": null, "next_invoice_sequence": 1, "phone": null, "preferred_locales": [],
        "shipping": null, "tax_exempt": "none", "test_clock": null,
    });
    if let Some(id) = p.text("payment_method") {
        let mut method = method(tx, id, "payment_method").await?;
        attach_to(tx, &mut method, id_of(&body))?;
    }
    change(tx, &mut body, p).await?;
    tx.put(body.clone());
    tx.emit("customer.created", &body, None);
    Ok(body)
}

async fn change(tx: &mut Tx<'_>, body: &mut Json, p: Params<'_>) -> Api<()> {
    if let Some(email) = p.text("email")
        && (!email.contains('@') || email.len() > 512 || email.chars().any(char::is_control))
    {
        return Err(Failure::parameter("email_invalid", "email", format!("Invalid email address: {email}")));
    }
    p.copy_texts(body, &["email", "name", "phone", "description", "invoice_prefix"]);
    if p.has("address") {
        body["address"] = p.record("address", ADDRESS)?;
    }
    if let Some(shipping) = p.sub("shipping") {
        shipping.only(&["address", "name", "phone"])?;
        body["shipping"] = json!({
            "address": shipping.record("address", ADDRESS)?, "carrier": null, "name": shipping.text_or_null("name"),
            "phone": shipping.text_or_null("phone"), "tracking_number": null,
        });
    }
    if p.has("preferred_locales") {
        body["preferred_locales"] = json!(p.list("preferred_locales"));
    }
    if let Some(exempt) = p.choice("tax_exempt", &["none", "exempt", "reverse"])? {
        body["tax_exempt"] = exempt.into();
    }
    if let Some(settings) = p.sub("invoice_settings") {
        settings.only(&["default_payment_method", "footer"])?;
        if let Some(id) = settings.text("default_payment_method") {
            const PARAM: &str = "invoice_settings[default_payment_method]";
            let mut chosen = method(tx, id, PARAM).await?;
            if is_test_id(id) {
                attach_to(tx, &mut chosen, id_of(body))?;
            } else if chosen["customer"] != body["id"] {
                return Err(Failure::parameter(
                    "resource_missing",
                    PARAM,
                    format!(
                        "The customer does not have a payment method with the ID {id}. The payment method must be attached to the customer."
                    ),
                ));
            }
            body["invoice_settings"]["default_payment_method"] = chosen["id"].clone();
        }
        if settings.has("footer") {
            body["invoice_settings"]["footer"] = settings.text_or_null("footer");
        }
    }
    p.merge_metadata(body);
    Ok(())
}

/// A customer that is not deleted.
pub(super) async fn living(tx: &Tx<'_>, id: &str, param: &str) -> Api<Json> {
    let body = tx.need(Kind::Customer, id, param).await?;
    if body["deleted"] == true { Err(Failure::no_such("customer", id, param)) } else { Ok(body) }
}

pub(super) async fn update(tx: &mut Tx<'_>, id: &str, p: Params<'_>) -> Api<Json> {
    p.only(CUSTOMER)?;
    let before = living(tx, id, "id").await?;
    let mut body = before.clone();
    change(tx, &mut body, p).await?;
    tx.put(body.clone());
    tx.emit_change("customer.updated", &before, &body);
    Ok(body)
}

pub(super) async fn delete(tx: &mut Tx<'_>, id: &str) -> Api<Json> {
    let body = living(tx, id, "id").await?;
    renewals::finish_all(tx, id).await?;
    let gone = json!({ "id": id, "object": "customer", "deleted": true, "_created": body["created"] });
    tx.put(gone.clone());
    tx.emit("customer.deleted", &body, None);
    Ok(gone)
}

/// A card that behaves as its test id says.
struct TestCard {
    /// What follows `pm_card_` or `tok_`; `visa_` may stand between.
    name: &'static str,
    number: &'static str,
    brand: &'static str,
    fate: Fate,
}

/// What becomes of a test card's payments.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Paid,
    /// The bank says no, with this decline code, also when a customer is to have the card.
    Declined(&'static str),
    /// A customer can have it; its payments are declined.
    DeclinedLater(&'static str),
    /// Its refunds come back after a day.
    RefundsFail,
    /// Its refunds take a day.
    RefundsWait,
}

const CARDS: &[TestCard] = &[
    card("visa", "4242424242424242", "visa", Fate::Paid),
    card("visa_debit", "4000056655665556", "visa", Fate::Paid),
    card("mastercard", "5555555555554444", "mastercard", Fate::Paid),
    card("amex", "378282246310005", "amex", Fate::Paid),
    card("discover", "6011111111111117", "discover", Fate::Paid),
    card("chargeDeclined", "4000000000000002", "visa", Fate::Declined("generic_decline")),
    card("chargeDeclinedInsufficientFunds", "4000000000009995", "visa", Fate::Declined("insufficient_funds")),
    card("chargeDeclinedLostCard", "4000000000009987", "visa", Fate::Declined("lost_card")),
    card("chargeDeclinedStolenCard", "4000000000009979", "visa", Fate::Declined("stolen_card")),
    card("chargeDeclinedExpiredCard", "4000000000000069", "visa", Fate::Declined("expired_card")),
    card("chargeDeclinedIncorrectCvc", "4000000000000127", "visa", Fate::Declined("incorrect_cvc")),
    card("chargeDeclinedProcessingError", "4000000000000119", "visa", Fate::Declined("processing_error")),
    card("chargeCustomerFail", "4000000000000341", "visa", Fate::DeclinedLater("generic_decline")),
    card("refundFail", "4000000000005126", "visa", Fate::RefundsFail),
    card("pendingRefund", "4000000000007726", "visa", Fate::RefundsWait),
];

const fn card(name: &'static str, number: &'static str, brand: &'static str, fate: Fate) -> TestCard {
    TestCard { name, number, brand, fate }
}

fn test_card(id: &str) -> Option<&'static TestCard> {
    let name = id.strip_prefix("pm_card_").or_else(|| id.strip_prefix("tok_"))?;
    let find = |name: &str| CARDS.iter().find(|c| c.name == name);
    find(name).or_else(|| find(name.strip_prefix("visa_")?))
}

pub(super) fn is_test_id(id: &str) -> bool {
    test_card(id).is_some()
}

/// The error code and the sentence of a decline.
pub(super) fn decline(decline_code: &str) -> (&'static str, &'static str) {
    match decline_code {
        "insufficient_funds" => ("card_declined", "Your card has insufficient funds."),
        "expired_card" => ("expired_card", "Your card has expired."),
        "incorrect_cvc" => ("incorrect_cvc", "Your card's security code is incorrect."),
        "processing_error" => ("processing_error", "An error occurred while processing your card. Try again in a little bit."),
        _ => ("card_declined", "Your card was declined."),
    }
}

fn new_method(tx: &mut Tx<'_>, card: &TestCard) -> Json {
    let (decline, attachable) = match card.fate {
        Fate::Declined(code) => (Some(code), false),
        Fate::DeclinedLater(code) => (Some(code), true),
        _ => (None, true),
    };
    let refunds = match card.fate {
        Fate::RefundsFail => Some("fail"),
        Fate::RefundsWait => Some("wait"),
        _ => None,
    };
    let body = json!({
        "id": Kind::PaymentMethod.new_id(), "object": "payment_method", "allow_redisplay": "unspecified",
        "billing_details": { "address": empty_address(), "email": null, "name": null, "phone": null, "tax_id": null },
        "card": {
            "brand": card.brand, "checks": { "address_line1_check": null, "address_postal_code_check": null, "cvc_check": "pass" },
            "country": "US", "display_brand": card.brand, "exp_month": 8, "exp_year": 2040, "fingerprint": format!("sandbox{}", card.name),
            "funding": "credit", "generated_from": null, "last4": &card.number[card.number.len() - 4..],
            "networks": { "available": [card.brand], "preferred": null }, "regulated_status": "unregulated",
            "three_d_secure_usage": { "supported": true }, "wallet": null,
        },
        "created": tx.now, "customer": null, "livemode": false, "metadata": {}, "type": "card",
        "_decline": decline, "_attachable": attachable, "_refunds": refunds,
    });
    tx.put(body.clone());
    body
}

pub(super) fn empty_address() -> Json {
    json!({ "city": null, "country": null, "line1": null, "line2": null, "postal_code": null, "state": null })
}

/// The payment method that an id or a test id names.
pub(super) async fn method(tx: &mut Tx<'_>, id: &str, param: &str) -> Api<Json> {
    match test_card(id) {
        Some(card) => Ok(new_method(tx, card)),
        None => match tx.get(Kind::PaymentMethod, id).await? {
            Some(body) => Ok(body),
            None => Err(Failure::no_such("PaymentMethod", id, param)),
        },
    }
}

fn attach_to(tx: &mut Tx<'_>, method: &mut Json, customer: &str) -> Api<()> {
    if method["_attachable"] == false {
        let code = method["_decline"].as_str().unwrap_or_default().to_owned();
        return Err(Failure::declined(&code, ""));
    }
    if method["customer"].as_str().is_some_and(|c| c != customer) {
        return Err(Failure::refused(
            None,
            "The payment method you provided has already been attached to a customer. Detach it before attaching it to another one.",
        ));
    }
    method["customer"] = customer.into();
    tx.put(method.clone());
    tx.emit("payment_method.attached", method, None);
    Ok(())
}

pub(super) fn create_method(tx: &mut Tx<'_>, p: Params<'_>) -> Api<Json> {
    p.only(&["type", "card", "billing_details", "metadata", "allow_redisplay"])?;
    if p.required("type")? != "card" {
        return Err(Failure::parameter("payment_method_unsupported_type", "type", "Only the payment method type card exists here."));
    }
    let card = p.sub("card").ok_or_else(|| Failure::missing_parameter("card"))?;
    card.only(&["token", "number", "exp_month", "exp_year", "cvc"])?;
    let found = match (card.text("token"), card.text("number")) {
        (Some(token), _) => test_card(token).ok_or_else(|| Failure::no_such("token", token, "card[token]"))?,
        (None, Some(number)) => CARDS.iter().find(|c| c.number == number.replace(' ', "")).ok_or_else(|| {
            Failure::parameter(
                "incorrect_number",
                "card[number]",
                "Only the test card numbers can be used here; a real number must never be sent.",
            )
        })?,
        (None, None) => return Err(Failure::missing_parameter("card[number]")),
    };
    let mut body = new_method(tx, found);
    if let Some(details) = p.sub("billing_details") {
        details.only(&["address", "email", "name", "phone"])?;
        details.copy_texts(&mut body["billing_details"], &["email", "name", "phone"]);
        if details.has("address") {
            body["billing_details"]["address"] = details.record("address", ADDRESS)?;
        }
    }
    p.merge_metadata(&mut body);
    tx.put(body.clone());
    Ok(body)
}

pub(super) async fn attach_method(tx: &mut Tx<'_>, id: &str, p: Params<'_>) -> Api<Json> {
    p.only(&["customer"])?;
    let customer = living(tx, p.required("customer")?, "customer").await?;
    let mut body = method(tx, id, "id").await?;
    attach_to(tx, &mut body, id_of(&customer))?;
    Ok(body)
}

pub(super) async fn detach_method(tx: &mut Tx<'_>, id: &str) -> Api<Json> {
    let mut body = tx.need(Kind::PaymentMethod, id, "id").await?;
    if body["customer"].is_null() {
        return Err(Failure::refused(None, "The payment method you provided is not attached to a customer so detachment is impossible."));
    }
    body["customer"] = Json::Null;
    tx.put(body.clone());
    tx.emit("payment_method.detached", &body, None);
    Ok(body)
}
