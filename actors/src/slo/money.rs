//! What the bad minutes of an objective may have cost: payments, customers and amounts that fell into them. It says what was at risk, not what
//! was lost: a payment in a bad minute may have gone well. Called for one objective at a time.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use crate::{
    domain::{money, slo::Counts},
    env::Env,
    error::Result,
    operations::canary,
    store::PaymentInTime,
};

/// Stretches that are looked at, the latest first.
const STRETCHES: usize = 200;
/// Payments that are listed.
const LISTED: usize = 100;
/// Payments that are read of one stretch.
const READ: i64 = 2000;

/// Stretches [from, to) of minutes with bad or slow events, those closer than five minutes to each other as one.
pub(super) fn bad_minutes(counts: &[Counts], from: i64, to: i64) -> Vec<(i64, i64)> {
    let mut stretches: Vec<(i64, i64)> = Vec::new();
    for minute in counts.iter().filter(|m| m.minute >= from && m.minute < to && m.bad + m.slow > 0).map(|m| m.minute) {
        match stretches.last_mut() {
            Some((_, end)) if minute - *end < 5 => *end = minute + 1,
            _ => stretches.push((minute, minute + 1)),
        }
    }
    stretches
}

/// The payments of these stretches: how many, of how many customers, how much per currency, and a list of the latest.
pub async fn at_risk(env: &Env, stretches: &[(i64, i64)]) -> Result<Json> {
    let trial = canary::customer_id(env).await?;
    let live = env.config().provider.mode.is_live();
    let (mut payments, mut cut): (BTreeMap<String, PaymentInTime>, bool) = (BTreeMap::new(), stretches.len() > STRETCHES);
    for (from, to) in stretches.iter().rev().take(STRETCHES) {
        let found = env.store().payments_in_time(live, from * 60, to * 60, READ).await?;
        cut |= i64::try_from(found.len()).unwrap_or(READ) >= READ;
        let found = found.into_iter().filter(|payment| trial.is_none() || payment.customer != trial); // our own trial payments
        payments.extend(found.map(|payment| (payment.id.clone(), payment)));
    }
    let customers: BTreeSet<&str> = payments.values().filter_map(|p| p.customer.as_deref()).collect();
    let mut amounts: BTreeMap<&str, (i64, i64, u64)> = BTreeMap::new();
    for payment in payments.values() {
        let sum = amounts.entry(&payment.currency).or_default();
        sum.0 = sum.0.saturating_add(payment.amount);
        if payment.is_failed {
            sum.1 = sum.1.saturating_add(payment.amount);
        }
        sum.2 += 1;
    }
    let amounts: Vec<Json> = amounts
        .iter()
        .map(|(currency, (minor, failed, count))| {
            json!({
                "currency": currency, "amount_minor": minor, "amount": money::display(*minor, currency), "failed_minor": failed,
                "payments": count,
            })
        })
        .collect();
    let mut listed: Vec<&PaymentInTime> = payments.values().collect();
    listed.sort_by(|a, b| (b.is_failed, b.at, &b.id).cmp(&(a.is_failed, a.at, &a.id)));
    let list: Vec<Json> = listed
        .iter()
        .take(LISTED)
        .map(|p| {
            json!({
                "id": p.id, "at": chrono::DateTime::from_timestamp(p.at, 0).map(crate::env::rfc3339), "customer": p.customer,
                "amount_minor": p.amount, "currency": p.currency, "amount": money::display(p.amount, &p.currency), "failed": p.is_failed,
                "status": p.status,
            })
        })
        .collect();
    Ok(json!({
        "bad_minutes": stretches.iter().map(|(from, to)| to - from).sum::<i64>(),
        "payments": payments.len(),
        "failed": payments.values().filter(|p| p.is_failed).count(),
        "customers": customers.len(),
        "amounts": amounts,
        "list": list,
        "truncated": cut,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_minutes_close_to_each_other_are_one_stretch() {
        let at = |minute, bad, slow| Counts { minute, total: 9, bad, slow };
        let counts = [at(1, 1, 0), at(2, 0, 0), at(5, 0, 1), at(11, 1, 0), at(20, 0, 0), at(30, 1, 0)];
        assert_eq!(bad_minutes(&counts, 0, 30), [(1, 6), (11, 12)]);
    }
}
