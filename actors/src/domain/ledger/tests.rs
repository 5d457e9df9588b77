//! Tables and properties of `ledger`: every event type, malformed events, and independence from the order of arrival.

use super::*;
use proptest::prelude::*;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

fn event(kind: &str, created: i64, object: Value) -> Value {
    json!({"id": format!("evt_{kind}_{created}"), "type": kind, "created": created, "data": {"object": object}})
}

fn thing(id: &str, extra: Value) -> Value {
    let mut body = json!({"id": id, "amount": 1000, "currency": "USD", "created": 50, "status": "succeeded"});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

/// (kind, amount, at) of each row that an event adds.
fn rows(kind: &str, object: Value) -> Vec<(&'static str, i64, i64)> {
    let applied = apply(&event(kind, 90, object)).unwrap().unwrap();
    applied.entries.iter().map(|e| (e.kind.as_str(), e.amount, e.at)).collect()
}

#[test]
fn every_event_that_moves_money_adds_its_row() {
    for (kind, object, expected) in [
        ("charge.succeeded", thing("ch_1", json!({"captured": true, "amount_captured": 1000})), vec![("charge", 1000, 50)]),
        ("charge.succeeded", thing("ch_1", json!({"captured": false, "amount_captured": 0})), vec![]),
        ("charge.captured", thing("ch_1", json!({"captured": true, "amount_captured": 600})), vec![("charge", 600, 90)]),
        ("charge.refunded", thing("ch_1", json!({"captured": true, "amount_refunded": 10})), vec![]),
        ("charge.failed", thing("ch_1", json!({"status": "failed"})), vec![]),
        ("refund.created", thing("re_1", json!({"charge": "ch_1"})), vec![("refund", -1000, 50)]),
        ("refund.updated", thing("re_1", json!({"status": "pending"})), vec![("refund", -1000, 50)]),
        ("refund.created", thing("re_1", json!({"status": "requires_action"})), vec![]),
        ("refund.failed", thing("re_1", json!({"status": "failed"})), vec![("refund_failure", 1000, 90)]),
        ("charge.dispute.created", thing("dp_1", json!({"status": "needs_response"})), vec![]),
        ("charge.dispute.funds_withdrawn", thing("dp_1", json!({"status": "needs_response"})), vec![("dispute", -1000, 90)]),
        ("charge.dispute.funds_reinstated", thing("dp_1", json!({"status": "won"})), vec![("dispute_reversal", 1000, 90)]),
        ("payout.created", thing("po_1", json!({"status": "pending"})), vec![("payout", -1000, 50)]),
        ("payout.paid", thing("po_1", json!({"status": "paid", "amount": -7})), vec![("payout", 7, 50)]),
        ("payout.updated", thing("po_1", json!({"status": "failed"})), vec![]),
        ("payout.failed", thing("po_1", json!({"status": "failed"})), vec![("payout_reversal", 1000, 90)]),
        ("payout.canceled", thing("po_1", json!({"status": "canceled"})), vec![("payout_reversal", 1000, 90)]),
    ] {
        assert_eq!(rows(kind, object.clone()), expected, "{kind} {object}");
    }
}

#[test]
fn references_are_read_whether_expanded_or_not() {
    let body = thing(
        "ch_1",
        json!({"captured": true, "customer": {"id": "cus_1"}, "invoice": "in_1", "payment_intent": "pi_1", "billing_details": {"email": "A@B.c"}}),
    );
    let applied = apply(&event("charge.succeeded", 90, body)).unwrap().unwrap();
    let (entry, object) = (&applied.entries[0], &applied.objects[0]);
    assert_eq!(
        (entry.customer.as_deref(), entry.invoice.as_deref(), entry.payment_intent.as_deref()),
        (Some("cus_1"), Some("in_1"), Some("pi_1"))
    );
    assert_eq!(
        (object.kind, object.email.as_deref(), object.parent.as_deref(), object.currency.as_str()),
        ("charge", Some("a@b.c"), Some("pi_1"), "usd")
    );
}

#[test]
fn a_malformed_event_names_its_field_and_an_unknown_one_is_ignored() {
    for field in ["id", "amount", "currency", "created"] {
        for wrong in [Value::Null, json!(1.5), json!([])] {
            let body = thing("ch_1", json!({ field: wrong }));
            let error = apply(&event("charge.succeeded", 90, body)).unwrap_err();
            assert!(error.starts_with(&format!("data.object.{field} is ")), "{error}");
        }
    }
    assert_eq!(apply(&json!({"type": "charge.succeeded", "created": 1})).unwrap_err(), "data.object is missing");
    assert_eq!(apply(&json!({"created": 1})).unwrap_err(), "type is missing");
    assert_eq!(apply(&json!({"type": "charge.succeeded"})).unwrap_err(), "created is missing");
    for kind in ["balance.available", "customer.subscription.updated", "charge.dispute", "x", "invoice.upcoming"] {
        assert_eq!(apply(&event(kind, 1, json!({}))), Ok(None), "{kind}");
    }
}

#[test]
fn a_deleted_customer_stays_deleted() {
    let stub = apply(&event("customer.deleted", 90, json!({"id": "cus_1", "deleted": true}))).unwrap().unwrap().objects.remove(0);
    let updated =
        apply(&event("customer.updated", 90, json!({"id": "cus_1", "created": 5, "email": "A@b.c"}))).unwrap().unwrap().objects.remove(0);
    assert_eq!((stub.status.as_str(), updated.status.as_str(), updated.email.as_deref()), ("deleted", "active", Some("a@b.c")));
    assert!(supersedes((90, updated.rank), (90, stub.rank)) && !supersedes((90, stub.rank), (90, updated.rank)));
}

#[test]
fn kinds_and_their_names_agree() {
    for kind in Kind::ALL {
        assert_eq!(Kind::parse(kind.as_str()), Some(kind));
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
    }
    assert_eq!(Kind::parse("Charge"), None);
}

type Store = (BTreeSet<(Kind, String, i64)>, BTreeMap<(&'static str, String), (i64, Object)>);

fn replay<'a>(events: impl IntoIterator<Item = &'a Value>) -> Store {
    let mut store = Store::default();
    for event in events {
        let (at, applied) = (event["created"].as_i64().unwrap(), apply(event).unwrap().unwrap());
        store.0.extend(applied.entries.into_iter().map(|e| (e.kind, e.source, e.seq)));
        for new in applied.objects {
            let key = (new.kind, new.id.clone());
            if store.1.get(&key).is_none_or(|(old_at, old)| supersedes((*old_at, old.rank), (at, new.rank))) {
                store.1.insert(key, (at, new));
            }
        }
    }
    store
}

fn any_event() -> impl Strategy<Value = Value> {
    let kinds = prop::sample::select(vec![
        ("charge.succeeded", "succeeded"),
        ("charge.failed", "failed"),
        ("charge.refunded", "succeeded"),
        ("refund.created", "pending"),
        ("refund.updated", "succeeded"),
        ("refund.failed", "failed"),
        ("payout.created", "pending"),
        ("payout.paid", "paid"),
        ("payout.failed", "failed"),
        ("customer.updated", ""),
        ("customer.deleted", ""),
        ("charge.dispute.closed", "won"),
    ]);
    (kinds, 0..3i64, 0..4i64, 0..3i64, any::<bool>()).prop_map(|((kind, status), id, at, refunded, captured)| {
        event(kind, at, thing(&format!("x_{id}"), json!({"status": status, "captured": captured, "amount_refunded": refunded})))
    })
}

proptest! {
    #[test]
    fn any_order_with_duplicates_ends_in_the_same_state(
        (events, shuffled) in prop::collection::vec(any_event(), 0..12)
            .prop_flat_map(|events| (Just(events.clone()), Just([events.clone(), events].concat()).prop_shuffle())),
    ) {
        prop_assert_eq!(replay(&events), replay(&shuffled));
    }
}
