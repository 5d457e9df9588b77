//! The balance: movements, their settlement, and the daily payout of every currency. Called by whoever moves money and by the
//! clock at midnight. A payout is exactly the sum of its movements, unless a fault was asked for.

use serde_json::{Value as Json, json};

use super::{
    clock::{DAY, next_midnight},
    control::take,
    documents::{Kind, Query, Tx, UNPAID, id_of},
    failure::{Api, Failure},
};
use crate::error::Result;

/// From creation until the bank has it in hand; the money arrives at the next midnight.
const PENDING_S: i64 = 6 * 3600;

/// A movement on the balance.
#[derive(Clone, Debug)]
pub(super) struct Movement {
    /// Signed, gross.
    pub(super) amount: i64,
    pub(super) fee: i64,
    pub(super) currency: String,
    pub(super) kind: &'static str,
    pub(super) category: &'static str,
    /// Empty if nothing caused it.
    pub(super) source: String,
    pub(super) description: Json,
    /// Pending until then.
    pub(super) available_on: i64,
}

/// The midnight at which money taken now can be paid out.
pub(super) fn available_on(now: i64, settlement_days: i64) -> i64 {
    next_midnight(now) + (settlement_days - 1).max(0) * DAY
}

/// When money given back for a charge leaves the balance: with the charge's own if that is still pending, else now.
pub(super) async fn available_with(tx: &Tx<'_>, charge: &Json) -> Result<i64> {
    let Some(id) = charge["balance_transaction"].as_str() else { return Ok(tx.now) };
    let movement = tx.get(Kind::BalanceTransaction, id).await?;
    Ok(movement.filter(|m| m["status"] == "pending").and_then(|m| m["available_on"].as_i64()).unwrap_or(tx.now))
}

/// Books a movement and answers its id. Money that is gone at once is paid for at the next midnight, whatever settles then.
pub(super) fn book(tx: &mut Tx<'_>, m: &Movement) -> Json {
    let pending = m.available_on > tx.now;
    let due = if pending { Some(m.available_on) } else { (m.amount < m.fee).then(|| next_midnight(tx.now)) };
    let fees = match m.fee {
        0 => json!([]),
        fee => {
            json!([{ "amount": fee, "application": null, "currency": m.currency, "description": "Processing fees", "type": "stripe_fee" }])
        }
    };
    let body = json!({
        "id": Kind::BalanceTransaction.new_id(), "object": "balance_transaction", "amount": m.amount, "available_on": m.available_on,
        "balance_type": "payments", "created": tx.now, "currency": m.currency, "description": m.description, "exchange_rate": null,
        "fee": m.fee, "fee_details": fees, "net": m.amount - m.fee, "reporting_category": m.category,
        "source": (!m.source.is_empty()).then_some(&m.source), "status": if pending { "pending" } else { "available" }, "type": m.kind,
        "_due": due,
    });
    let id = body["id"].clone();
    tx.put(body);
    id
}

/// A pending movement becomes available.
pub(super) fn settle(tx: &mut Tx<'_>, mut movement: Json) {
    (movement["status"], movement["_due"]) = ("available".into(), Json::Null);
    tx.put(movement);
}

/// At midnight: one payout per currency of all that is available. One of less than nothing is taken from the bank account.
pub(super) async fn pay_out(tx: &mut Tx<'_>, settled: &[Json]) -> Api<()> {
    let unpaid = tx.find(&Query::with_status(Kind::BalanceTransaction, UNPAID)).await?;
    let balance = balance(tx, settled).await?;
    tx.emit("balance.available", &balance, None);
    let mut currencies: Vec<&str> = unpaid.iter().filter_map(|m| m["currency"].as_str()).collect();
    currencies.sort_unstable();
    currencies.dedup();
    for currency in currencies {
        let mut members: Vec<Json> = unpaid.iter().filter(|m| m["currency"] == currency).cloned().collect();
        let sum: i64 = members.iter().filter_map(|m| m["net"].as_i64()).sum();
        // What is less than a whole unit waits for the next payout.
        let rest = sum.rem_euclid(smallest(currency));
        if sum == rest {
            continue;
        }
        if rest > 0 {
            members.push(carry(tx, currency, -rest).await?);
            carry(tx, currency, rest).await?;
        }
        create(tx, currency, sum - rest, &members);
    }
    Ok(())
}

/// The multiple that a payout must be of: some currencies are charged in hundredths and paid out in whole units.
pub(super) fn smallest(currency: &str) -> i64 {
    if matches!(currency, "huf" | "twd" | "isk" | "ugx") { 100 } else { 1 }
}

async fn carry(tx: &mut Tx<'_>, currency: &str, amount: i64) -> Api<Json> {
    let movement = Movement {
        amount,
        fee: 0,
        currency: currency.to_owned(),
        kind: "adjustment",
        category: "other_adjustment",
        source: String::new(),
        description: "Less than a whole unit, carried to the next payout".into(),
        available_on: tx.now,
    };
    let id = book(tx, &movement);
    let mut body = tx.need(Kind::BalanceTransaction, id.as_str().unwrap_or_default(), "balance_transaction").await?;
    body["_due"] = Json::Null;
    tx.put(body.clone());
    Ok(body)
}

/// What is in the balance and in no payout yet, pending or available.
pub(super) async fn unpaid(tx: &Tx<'_>, currency: &str) -> Result<i64> {
    let rows = tx
        .read(
            "SELECT COALESCE(SUM(net), 0) FROM object
             WHERE kind = 'balance_transaction' AND status IN ('pending', 'unpaid') AND currency = ?1",
            vec![currency.into()],
        )
        .await?;
    rows[0].int(0)
}

/// Refuses a payout whose movements cannot be listed: made by hand, or not reconciled yet.
pub(super) fn itemised(payout: &Json) -> Api<()> {
    match payout["reconciliation_status"].as_str() {
        Some("completed") => Ok(()),
        Some("in_progress") => Err(Failure::refused(
            Some("payout_reconciliation_not_ready"),
            "The balance transactions of this payout are not known yet: its reconciliation is in progress.",
        )
        .param("payout")),
        _ => {
            Err(Failure::refused(None, "Balance transaction history can only be filtered on automatic transfers, not manual.")
                .param("payout"))
        }
    }
}

/// A payout that was decided; who decides says what its own movement belongs to.
pub(super) fn shape(now: i64, id: &str, amount: i64, currency: &str, automatic: bool) -> Json {
    json!({
        "id": id, "object": "payout", "amount": amount, "application_fee": null, "application_fee_amount": null,
        "arrival_date": next_midnight(now), "automatic": automatic, "balance_transaction": null, "created": now, "currency": currency,
        "description": if automatic { Some("STRIPE PAYOUT") } else { None }, "destination": null, "failure_balance_transaction": null,
        "failure_code": null, "failure_message": null, "livemode": false, "metadata": {}, "method": "standard", "original_payout": null,
        "payout_method": null, "reconciliation_status": if automatic { "in_progress" } else { "not_applicable" }, "reversed_by": null,
        "source_type": "card", "statement_descriptor": null, "status": "pending", "trace_id": { "status": "pending", "value": null },
        "type": "bank_account", "_due": now + PENDING_S,
    })
}

fn create(tx: &mut Tx<'_>, currency: &str, sum: i64, members: &[Json]) {
    let id = Kind::Payout.new_id();
    // A payout of nothing would not be one.
    let amount = sum - i64::from(sum > 1 && take(&mut tx.chaos.payout_residual));
    for member in members {
        let mut member = member.clone();
        member["_payout"] = id.as_str().into();
        tx.put(member);
    }
    let own = json!({
        "id": Kind::BalanceTransaction.new_id(), "object": "balance_transaction", "amount": -amount, "available_on": tx.now,
        "balance_type": "payments", "created": tx.now, "currency": currency, "description": "STRIPE PAYOUT", "exchange_rate": null, "fee": 0,
        "fee_details": [], "net": -amount, "reporting_category": "payout", "source": id, "status": "available", "type": "payout",
        "_payout": id,
    });
    let mut payout = shape(tx.now, &id, amount, currency, true);
    payout["balance_transaction"] = own["id"].clone();
    tx.put(own);
    tx.put(payout.clone());
    tx.emit("payout.created", &payout, None);
}

/// The next step of a payout: to the bank, then arrived or returned.
pub(super) fn proceed(tx: &mut Tx<'_>, mut payout: Json) {
    if payout["status"] == "pending" {
        (payout["status"], payout["_due"]) = ("in_transit".into(), payout["arrival_date"].clone());
        tx.put(payout.clone());
        tx.emit("payout.updated", &payout, Some(json!({ "status": "pending" })));
        return;
    }
    payout["_due"] = Json::Null;
    let automatic = payout["automatic"] == true;
    if automatic {
        payout["reconciliation_status"] = "completed".into();
    }
    if take(&mut tx.chaos.payout_fail) {
        give_back(tx, &mut payout, "payout_failure", next_midnight(tx.now));
        (payout["status"], payout["failure_code"]) = ("failed".into(), "account_closed".into());
        payout["failure_message"] = "The bank account has been closed.".into();
        payout["trace_id"] = json!({ "status": "unsupported", "value": null });
        tx.put(payout.clone());
        tx.emit("payout.failed", &payout, None);
    } else {
        payout["status"] = "paid".into();
        payout["trace_id"] = json!({ "status": "supported", "value": super::random_text(15).to_uppercase() });
        tx.put(payout.clone());
        tx.emit("payout.paid", &payout, None);
    }
    if automatic {
        tx.emit("payout.reconciliation_completed", &payout, None);
    }
}

/// The money of a payout that did not arrive comes back and is part of the next one.
pub(super) fn give_back(tx: &mut Tx<'_>, payout: &mut Json, kind: &'static str, available_on: i64) {
    let returned = Movement {
        amount: payout["amount"].as_i64().unwrap_or_default(),
        fee: 0,
        currency: payout["currency"].as_str().unwrap_or_default().to_owned(),
        kind,
        category: "payout_reversal",
        source: id_of(payout).to_owned(),
        description: if kind == "payout_cancel" { "PAYOUT CANCEL" } else { "PAYOUT FAILURE" }.into(),
        available_on,
    };
    payout["failure_balance_transaction"] = book(tx, &returned);
}

/// `GET /v1/balance`: per currency, what is available and what is still pending. `settled` are movements that have become
/// available but are not stored as such yet.
pub(super) async fn balance(tx: &Tx<'_>, settled: &[Json]) -> Result<Json> {
    let rows = tx
        .read(
            "SELECT currency, status = 'pending', SUM(net) FROM object WHERE kind = 'balance_transaction' GROUP BY 1, 2 ORDER BY 1",
            Vec::new(),
        )
        .await?;
    let (mut available, mut pending) = (std::collections::BTreeMap::new(), std::collections::BTreeMap::new());
    for row in rows {
        let (currency, sum) = (row.text(0)?.to_owned(), row.int(2)?);
        available.entry(currency.clone()).or_insert(0);
        pending.entry(currency.clone()).or_insert(0);
        *(if row.int(1)? == 1 { &mut pending } else { &mut available }).entry(currency).or_insert(0) += sum;
    }
    for movement in settled {
        let (currency, net) = (movement["currency"].as_str().unwrap_or_default(), movement["net"].as_i64().unwrap_or_default());
        *available.entry(currency.to_owned()).or_insert(0) += net;
        *pending.entry(currency.to_owned()).or_insert(0) -= net;
    }
    if available.is_empty() {
        available.insert("usd".into(), 0);
        pending.insert("usd".into(), 0);
    }
    let list = |amounts: std::collections::BTreeMap<String, i64>| -> Json {
        amounts
            .into_iter()
            .map(|(currency, amount)| json!({ "amount": amount, "currency": currency, "source_types": { "card": amount } }))
            .collect()
    };
    Ok(json!({ "object": "balance", "available": list(available), "livemode": false, "pending": list(pending) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_available_at_a_midnight_and_the_second_one_by_default() {
        let noon = 20_000 * DAY + DAY / 2;
        assert_eq!(available_on(noon, 2), 20_002 * DAY);
        assert_eq!(available_on(noon, 1), 20_001 * DAY);
        assert_eq!(available_on(20_000 * DAY, 2), 20_002 * DAY);
        assert_eq!(available_on(20_000 * DAY - 1, 2), 20_001 * DAY);
    }
}
