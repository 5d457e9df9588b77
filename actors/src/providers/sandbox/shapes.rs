//! New invoices, payment intents and charges with every member that the API version has. Called by the handlers that make
//! them. Members that mean something are set there; here are the rest, so that no client misses one.

use serde_json::{Value as Json, json};

use super::documents::Kind;

/// A draft without lines.
pub(super) fn invoice(id: &str, now: i64, customer: &Json, currency: &str) -> Json {
    let mut body = json!({
        "id": id, "object": "invoice", "account_country": "US", "account_name": "EchoPilot sandbox", "attempted": false, "auto_advance": false,
        "automatic_tax": { "disabled_reason": null, "enabled": false, "liability": null, "provider": null, "status": null },
        "billing_reason": "manual", "collection_method": "charge_automatically", "created": now, "currency": currency,
        "customer": customer["id"], "customer_address": customer["address"], "customer_email": customer["email"],
        "customer_name": customer["name"], "customer_phone": customer["phone"], "customer_shipping": customer["shipping"],
        "customer_tax_exempt": customer["tax_exempt"], "issuer": { "account": null, "type": "self" },
        "lines": { "object": "list", "data": [], "has_more": false, "url": format!("/v1/invoices/{id}/lines") },
        "livemode": false, "metadata": {}, "period_end": now, "period_start": now, "status": "draft",
        "payment_settings": { "default_mandate": null, "payment_method_options": null, "payment_method_types": null },
        "status_transitions": { "finalized_at": null, "marked_uncollectible_at": null, "paid_at": null, "voided_at": null },
    });
    for name in NOT_OF_AN_INVOICE {
        body[*name] = Json::Null;
    }
    for name in EMPTY {
        body[*name] = json!([]);
    }
    for name in ZERO {
        body[*name] = 0.into();
    }
    body
}

/// Members of an invoice that are null, an empty list or 0 until something happens, or always here.
const NOT_OF_AN_INVOICE: &[&str] = &[
    "account_tax_ids",
    "application",
    "automatically_finalizes_at",
    "custom_fields",
    "default_payment_method",
    "default_source",
    "description",
    "due_date",
    "effective_at",
    "ending_balance",
    "footer",
    "from_invoice",
    "hosted_invoice_url",
    "invoice_pdf",
    "last_finalization_error",
    "latest_revision",
    "next_payment_attempt",
    "number",
    "on_behalf_of",
    "parent",
    "receipt_number",
    "rendering",
    "shipping_cost",
    "shipping_details",
    "statement_descriptor",
    "test_clock",
    "webhooks_delivered_at",
];
const EMPTY: &[&str] =
    &["customer_tax_ids", "default_tax_rates", "discounts", "total_discount_amounts", "total_pretax_credit_amounts", "total_taxes"];
const ZERO: &[&str] = &[
    "amount_due",
    "amount_overpaid",
    "amount_paid",
    "amount_paid_off_stripe",
    "amount_remaining",
    "amount_shipping",
    "attempt_count",
    "post_payment_credit_notes_amount",
    "pre_payment_credit_notes_amount",
    "starting_balance",
    "subtotal",
    "subtotal_excluding_tax",
    "total",
    "total_excluding_tax",
];

/// An intent that waits for a payment method.
pub(super) fn intent(now: i64, amount: i64, currency: &str, customer: Json) -> Json {
    let id = Kind::PaymentIntent.new_id();
    let mut body = json!({
        "client_secret": format!("{id}_secret_{}", super::random_text(25)),
        "id": id, "object": "payment_intent", "amount": amount, "amount_capturable": 0, "amount_details": { "tip": {} },
        "amount_received": 0, "capture_method": "automatic_async", "confirmation_method": "automatic", "created": now,
        "currency": currency, "customer": customer, "livemode": false, "metadata": {},
        "payment_method_types": ["card"], "status": "requires_payment_method",
    });
    for name in NOT_OF_AN_INTENT {
        body[*name] = Json::Null;
    }
    body
}

/// Members of a payment intent that are null until something happens, or always here.
const NOT_OF_AN_INTENT: &[&str] = &[
    "application",
    "application_fee_amount",
    "automatic_payment_methods",
    "canceled_at",
    "cancellation_reason",
    "description",
    "last_payment_error",
    "latest_charge",
    "next_action",
    "on_behalf_of",
    "payment_method",
    "payment_method_options",
    "payment_record",
    "processing",
    "receipt_email",
    "review",
    "setup_future_usage",
    "shipping",
    "source",
    "statement_descriptor",
    "statement_descriptor_suffix",
    "transfer_data",
    "transfer_group",
];

/// A charge that succeeded and was captured.
pub(super) fn charge(now: i64, intent: &Json, method: &Json) -> Json {
    let mut body = json!({
        "id": Kind::Charge.new_id(), "object": "charge", "amount": intent["amount"], "amount_captured": intent["amount"],
        "amount_refunded": 0, "billing_details": method["billing_details"], "calculated_statement_descriptor": "ECHOPILOT SANDBOX",
        "captured": true, "created": now, "currency": intent["currency"], "customer": intent["customer"],
        "description": intent["description"], "disputed": false, "fraud_details": {}, "livemode": false, "metadata": intent["metadata"],
        "outcome": { "advice_code": null, "network_advice_code": null, "network_decline_code": null, "network_status": "approved_by_network",
                     "reason": null, "risk_level": "normal", "risk_score": 12, "rule": null, "seller_message": "Payment complete.", "type": "authorized" },
        "paid": true, "payment_intent": intent["id"], "payment_method": method["id"],
        "payment_method_details": details(intent, &method["card"]),
        "radar_options": {}, "receipt_email": intent["receipt_email"], "refunded": false,
        "statement_descriptor": intent["statement_descriptor"], "status": "succeeded", "_refunds": method["_refunds"],
    });
    for name in NOT_OF_A_CHARGE {
        body[*name] = Json::Null;
    }
    body
}

/// How the charge was paid.
fn details(intent: &Json, card: &Json) -> Json {
    json!({
        "card": {
            "amount_authorized": intent["amount"], "authorization_code": null, "brand": card["brand"], "checks": card["checks"],
            "country": card["country"], "exp_month": card["exp_month"], "exp_year": card["exp_year"], "fingerprint": card["fingerprint"],
            "funding": card["funding"], "installments": null, "last4": card["last4"], "mandate": null, "network": card["brand"],
            "network_token": { "used": false }, "network_transaction_id": null, "regulated_status": "unregulated",
            "setup_credential_usage": null, "stored_credential_usage": null,
            "three_d_secure": null, "wallet": null,
        },
        "type": "card",
    })
}

/// Members of a charge that are null until something happens, or always here.
const NOT_OF_A_CHARGE: &[&str] = &[
    "application",
    "application_fee",
    "application_fee_amount",
    "balance_transaction",
    "failure_balance_transaction",
    "failure_code",
    "failure_message",
    "on_behalf_of",
    "receipt_number",
    "receipt_url",
    "review",
    "shipping",
    "source",
    "source_transfer",
    "statement_descriptor_suffix",
    "transfer",
    "transfer_data",
    "transfer_group",
];
