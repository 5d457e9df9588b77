//! Disputes: a customer's bank takes money back, and sometimes returns it. Opened and decided by `/_control/dispute`, because
//! no merchant can do that; answered and given up under `/v1/disputes`.

use serde_json::{Value as Json, json};

use super::{
    clock::DAY,
    documents::{Kind, Query, Tx, id_of},
    failure::{Api, Failure},
    form::Params,
    payouts::{self, Movement},
};

/// Every piece of evidence a dispute can have.
const EVIDENCE: [&str; 27] = [
    "access_activity_log",
    "billing_address",
    "cancellation_policy",
    "cancellation_policy_disclosure",
    "cancellation_rebuttal",
    "customer_communication",
    "customer_email_address",
    "customer_name",
    "customer_purchase_ip",
    "customer_signature",
    "duplicate_charge_documentation",
    "duplicate_charge_explanation",
    "duplicate_charge_id",
    "product_description",
    "receipt",
    "refund_policy",
    "refund_policy_disclosure",
    "refund_refusal_explanation",
    "service_date",
    "service_documentation",
    "shipping_address",
    "shipping_carrier",
    "shipping_date",
    "shipping_documentation",
    "shipping_tracking_number",
    "uncategorized_file",
    "uncategorized_text",
];

/// Opens a dispute over what is left of a charge, and closes it if `outcome` is `won` or `lost`. An open one is closed.
pub(super) async fn set(tx: &mut Tx<'_>, charge: &str, outcome: &str) -> Api<Json> {
    let charge = tx.need(Kind::Charge, charge, "charge").await?;
    let existing = tx.find(&Query::linked(Kind::Dispute, id_of(&charge))).await?.pop();
    let dispute = match existing {
        Some(dispute) if is_open(&dispute) && outcome != "open" => dispute,
        Some(_) => return Err(Failure::refused(Some("charge_disputed"), "The charge has a dispute already.")),
        None => open(tx, charge.clone()).await?,
    };
    if outcome == "open" { Ok(dispute) } else { decide(tx, dispute, outcome).await }
}

fn is_open(dispute: &Json) -> bool {
    matches!(dispute["status"].as_str(), Some("needs_response" | "under_review"))
}

/// The bank's last word: `won` returns the money, `lost` does not.
async fn decide(tx: &mut Tx<'_>, mut dispute: Json, outcome: &str) -> Api<Json> {
    dispute["status"] = outcome.into();
    dispute["is_charge_refundable"] = (outcome == "won").into();
    if outcome == "won" {
        let available_on = payouts::available_on(tx.now, tx.inner.settings.settlement_days);
        let amount = dispute["amount"].as_i64().unwrap_or_default();
        let reinstated = book(tx, &dispute, amount, 0, "dispute_reversal", available_on).await?;
        push(&mut dispute, reinstated);
        let mut charge = tx.need(Kind::Charge, dispute["charge"].as_str().unwrap_or_default(), "charge").await?;
        charge["disputed"] = false.into();
        tx.put(charge);
        tx.put(dispute.clone());
        tx.emit("charge.dispute.funds_reinstated", &dispute, None);
    }
    tx.put(dispute.clone());
    tx.emit("charge.dispute.closed", &dispute, None);
    Ok(dispute)
}

/// Evidence, which is handed in at once unless `submit` is false. The provider's magic words decide a test dispute.
pub(super) async fn update(tx: &mut Tx<'_>, id: &str, p: Params<'_>) -> Api<Json> {
    p.only(&["evidence", "metadata", "submit"])?;
    let mut dispute = tx.need(Kind::Dispute, id, "id").await?;
    let before = dispute.clone();
    if let Some(evidence) = p.sub("evidence") {
        evidence.only(&EVIDENCE)?;
        if dispute["status"] != "needs_response" {
            return Err(Failure::refused(None, "Evidence can only be given while the dispute needs a response.").param("evidence"));
        }
        evidence.copy_texts(&mut dispute["evidence"], &EVIDENCE);
        dispute["evidence_details"]["has_evidence"] = true.into();
        if p.boolean("submit")?.unwrap_or(true) {
            dispute["status"] = "under_review".into();
            let details = &mut dispute["evidence_details"];
            (details["submission_count"], details["submission_method"]) = (1.into(), "manual".into());
        }
    }
    p.merge_metadata(&mut dispute);
    tx.put(dispute.clone());
    tx.emit("charge.dispute.updated", &dispute, Some(super::charges::changes(&before, &dispute)));
    match (dispute["status"].as_str(), dispute["evidence"]["uncategorized_text"].as_str()) {
        (Some("under_review"), Some("winning_evidence")) => decide(tx, dispute, "won").await,
        (Some("under_review"), Some("losing_evidence")) => decide(tx, dispute, "lost").await,
        _ => Ok(dispute),
    }
}

/// Gives up: the dispute is lost.
pub(super) async fn close(tx: &mut Tx<'_>, id: &str, p: Params<'_>) -> Api<Json> {
    p.only(&[])?;
    let dispute = tx.need(Kind::Dispute, id, "id").await?;
    if !is_open(&dispute) {
        return Err(Failure::refused(Some("dispute_already_closed"), "This dispute is already closed."));
    }
    decide(tx, dispute, "lost").await
}

async fn open(tx: &mut Tx<'_>, mut charge: Json) -> Api<Json> {
    let amount = charge["amount_captured"].as_i64().unwrap_or_default() - charge["amount_refunded"].as_i64().unwrap_or_default();
    if charge["status"] != "succeeded" || amount <= 0 {
        return Err(Failure::refused(None, "The charge has nothing left that could be disputed."));
    }
    let mut dispute = json!({
        "id": Kind::Dispute.new_id(), "object": "dispute", "amount": amount, "balance_transactions": [], "charge": charge["id"],
        "created": tx.now, "currency": charge["currency"], "enhanced_eligibility_types": [], "evidence": evidence(),
        "evidence_details": { "due_by": tx.now + 14 * DAY, "enhanced_eligibility": {}, "has_evidence": false, "past_due": false,
                              "submission_count": 0, "submission_method": "not_submitted" },
        "is_charge_refundable": false, "livemode": false, "metadata": {}, "payment_intent": charge["payment_intent"],
        "payment_method_details": {
            "card": { "brand": charge["payment_method_details"]["card"]["brand"], "case_type": "chargeback",
                      "network": charge["payment_method_details"]["card"]["brand"], "network_reason_code": "10.4" },
            "type": "card",
        },
        "reason": "fraudulent", "status": "needs_response",
    });
    let available_on = payouts::available_with(tx, &charge).await?;
    let fee = tx.inner.settings.dispute_fee_minor;
    let withdrawn = book(tx, &dispute, -amount, fee, "dispute", available_on).await?;
    push(&mut dispute, withdrawn);
    charge["disputed"] = true.into();
    tx.put(charge.clone());
    tx.put(dispute.clone());
    tx.emit("charge.dispute.created", &dispute, None);
    tx.emit("charge.dispute.funds_withdrawn", &dispute, None);
    tx.emit("charge.updated", &charge, Some(json!({ "disputed": false })));
    Ok(dispute)
}

/// No evidence yet.
fn evidence() -> Json {
    let mut evidence: serde_json::Map<String, Json> = EVIDENCE.iter().map(|name| ((*name).to_owned(), Json::Null)).collect();
    evidence.insert("enhanced_evidence".into(), json!({}));
    evidence.into()
}

async fn book(tx: &mut Tx<'_>, dispute: &Json, amount: i64, fee: i64, category: &'static str, available_on: i64) -> Api<Json> {
    let movement = Movement {
        amount,
        fee,
        available_on,
        currency: dispute["currency"].as_str().unwrap_or_default().to_owned(),
        kind: "adjustment",
        category,
        source: id_of(dispute).to_owned(),
        description: format!(
            "Chargeback {} for {}",
            if amount < 0 { "withdrawal" } else { "reversal" },
            dispute["charge"].as_str().unwrap_or_default()
        )
        .into(),
    };
    let id = payouts::book(tx, &movement);
    tx.need(Kind::BalanceTransaction, id.as_str().unwrap_or_default(), "balance_transaction").await
}

fn push(dispute: &mut Json, movement: Json) {
    if let Some(list) = dispute["balance_transactions"].as_array_mut() {
        list.push(super::documents::public(movement, ""));
    }
}
