//! Tables and properties of `ledger`: every event type, malformed events, and independence from the order of arrival.

use super::*;
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;

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
        ("refund.failed", thing("re_1", json!({"status": "failed"})), vec![("refund", -1000, 50), ("refund_failure", 1000, 90)]),
        ("charge.dispute.created", thing("dp_1", json!({"status": "needs_response"})), vec![]),
        ("charge.dispute.funds_withdrawn", thing("dp_1", json!({"status": "needs_response"})), vec![("dispute", -1000, 90)]),
        ("charge.dispute.funds_reinstated", thing("dp_1", json!({"status": "won"})), vec![("dispute_reversal", 1000, 90)]),
        ("payout.created", thing("po_1", json!({"status": "pending"})), vec![("payout", -1000, 50)]),
        ("payout.paid", thing("po_1", json!({"status": "paid", "amount": -7})), vec![("payout", 7, 50)]),
        ("payout.updated", thing("po_1", json!({"status": "failed"})), vec![]),
        ("payout.failed", thing("po_1", json!({"status": "failed"})), vec![("payout", -1000, 50), ("payout_reversal", 1000, 90)]),
        ("payout.canceled", thing("po_1", json!({"status": "canceled"})), vec![("payout", -1000, 50), ("payout_reversal", 1000, 90)]),
        (
            "refund.failed",
            thing("re_1", json!({"status": "failed", "balance_transaction": "txn_1"})),
            vec![("refund", -1000, 50), ("refund_failure", 1000, 90)],
        ),
        (
            "refund.updated",
            thing("re_1", json!({"status": "canceled", "balance_transaction": "txn_1"})),
            vec![("refund", -1000, 50), ("refund_failure", 1000, 90)],
        ),
        ("refund.updated", thing("re_1", json!({"status": "canceled"})), vec![]),
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
    let order = |object: &Object| (object.level, 90, object.rank);
    assert!(supersedes(order(&updated), order(&stub)) && !supersedes(order(&stub), order(&updated)));
}

#[test]
fn kinds_and_their_names_agree() {
    for kind in Kind::ALL {
        assert_eq!(Kind::parse(kind.as_str()), Some(kind));
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
    }
    assert_eq!(Kind::parse("Charge"), None);
}

/// The rows of the ledger and the objects with the order that decided, as the store keeps them.
#[derive(Debug, Default, PartialEq)]
struct Kept {
    ledger: BTreeMap<(Kind, String, i64), Entry>,
    objects: BTreeMap<(&'static str, String), (Order, Object)>,
}

/// (level, the event's `created`, rank).
type Order = (i64, i64, i64);

fn replay<'a>(events: impl IntoIterator<Item = &'a Value>) -> Kept {
    let mut kept = Kept::default();
    for event in events {
        let (at, applied) = (event["created"].as_i64().unwrap(), apply(event).unwrap().unwrap());
        for entry in applied.entries {
            kept.ledger.entry((entry.kind, entry.source.clone(), entry.seq)).or_insert(entry);
        }
        for new in applied.objects {
            let (key, order) = ((new.kind, new.id.clone()), (new.level, at, new.rank));
            if kept.objects.get(&key).is_none_or(|(old, _)| supersedes(*old, order)) {
                kept.objects.insert(key, (order, new));
            }
        }
    }
    kept
}

fn any_event() -> impl Strategy<Value = Value> {
    let kinds = prop::sample::select(vec![
        ("charge.succeeded", "succeeded"),
        ("charge.failed", "failed"),
        ("charge.refunded", "succeeded"),
        ("charge.pending", "pending"),
        ("refund.created", "pending"),
        ("refund.updated", "succeeded"),
        ("refund.updated", "canceled"),
        ("payout.created", "pending"),
        ("payout.updated", "in_transit"),
        ("payout.paid", "paid"),
        ("customer.updated", ""),
        ("customer.deleted", ""),
        ("charge.dispute.created", "needs_response"),
        ("charge.dispute.updated", "under_review"),
        ("charge.dispute.closed", "lost"),
        ("charge.dispute.closed", "won"),
        ("payment_intent.payment_failed", "requires_payment_method"),
        ("payment_intent.processing", "processing"),
        ("payment_intent.succeeded", "succeeded"),
    ]);
    (kinds, 0..3i64, 0..4i64, 0..3i64, any::<bool>()).prop_map(|((kind, status), id, at, refunded, captured)| {
        let extra = json!({"status": status, "captured": captured, "amount_refunded": refunded, "amount_received": refunded});
        event(kind, at, thing(&format!("x_{id}"), extra))
    })
}

/// What the provider tells once per object, always in the same second and with the same content.
fn once() -> Vec<Value> {
    let invoice = |kind: &str, at, status: &str, paid| {
        event(kind, at, json!({"id": "in_1", "amount_due": 900, "amount_paid": paid, "currency": "usd", "created": 1, "status": status}))
    };
    vec![
        event("refund.failed", 7, thing("re_9", json!({"status": "failed", "balance_transaction": "txn_1"}))),
        event("refund.created", 5, thing("re_9", json!({"status": "pending", "balance_transaction": "txn_1"}))),
        event("payout.created", 3, thing("po_9", json!({"status": "pending"}))),
        event("payout.paid", 6, thing("po_9", json!({"status": "paid"}))),
        event("payout.failed", 9, thing("po_9", json!({"status": "failed"}))),
        invoice("invoice.created", 1, "draft", 0),
        invoice("invoice.finalized", 2, "open", 0),
        invoice("invoice.marked_uncollectible", 3, "uncollectible", 0),
        invoice("invoice.paid", 4, "paid", 900),
        // Sent late with a time of its own, as a retried job of the provider would: it must not reopen anything.
        invoice("invoice.updated", 8, "open", 0),
    ]
}

/// The same fact under another event id.
fn under_another_id(events: &[Value]) -> Vec<Value> {
    events
        .iter()
        .cloned()
        .map(|mut event| {
            event["id"] = format!("{}_again", event["id"].as_str().unwrap()).into();
            event
        })
        .collect()
}

proptest! {
    #[test]
    fn any_order_with_duplicates_ends_in_the_same_state(
        (events, shuffled) in prop::collection::vec(any_event(), 0..12).prop_flat_map(|mut events| {
            // Two events of one type about one object have one time: it is what dates their row.
            events.sort_by_key(|e| (e["type"].to_string(), e["data"]["object"]["id"].to_string()));
            events.dedup_by_key(|e| (e["type"].to_string(), e["data"]["object"]["id"].to_string()));
            (Just(events.clone()), Just([events.clone(), under_another_id(&events), events].concat()).prop_shuffle())
        }),
    ) {
        prop_assert_eq!(replay(&events), replay(&shuffled));
    }

    #[test]
    fn the_whole_life_of_an_object_ends_the_same_in_every_order(
        shuffled in Just([once(), under_another_id(&once())].concat()).prop_shuffle(),
    ) {
        let kept = replay(&shuffled);
        prop_assert_eq!(&kept, &replay(&once()));
        let status = |kind, id: &str| kept.objects[&(kind, id.to_owned())].1.status.clone();
        prop_assert_eq!([status("invoice", "in_1"), status("refund", "re_9"), status("payout", "po_9")], ["paid", "failed", "failed"]);
        let net = |source: &str| kept.ledger.values().filter(|e| e.source == source).map(|e| e.amount).sum::<i64>();
        prop_assert_eq!((net("re_9"), net("po_9"), kept.ledger.len()), (0, 0, 4));
    }
}

#[test]
fn an_answer_of_the_provider_books_what_its_event_would() {
    let refund = thing("re_1", json!({"object": "refund", "status": "pending", "charge": "ch_1"}));
    let (answer, told) =
        (from_answer(&refund, 60).unwrap().unwrap(), apply(&event("refund.created", 61, refund.clone())).unwrap().unwrap());
    assert_eq!(answer, told, "the same row and the same state, so that whichever is first makes the other one nothing");
    let failed = thing("re_1", json!({"object": "refund", "status": "failed", "balance_transaction": "txn_1"}));
    assert_eq!(from_answer(&failed, 60).unwrap().unwrap().entries.len(), 2);
    assert_eq!(from_answer(&thing("x", json!({"object": "coupon"})), 60), Ok(None));
}
