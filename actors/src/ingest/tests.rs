//! Ingest over a real store: applied once, in any order, after a crash; what is refused, and what a replay changes (nothing).

use super::*;
use crate::{
    store::EventFilter,
    supervisor::Supervisor,
    testing::{self, Fixture, until},
};

/// A delivery signed at the fixture's time.
async fn deliver(fixture: &Fixture, body: &str) -> Result<Received> {
    let header = signature::header(&fixture.env.secrets().webhook_texts(), fixture.env.now().timestamp(), body.as_bytes());
    receive(&fixture.env, Some(&header), Bytes::copy_from_slice(body.as_bytes())).await
}

fn invoice(event: &str, created: i64, status: &str) -> String {
    json!({"id": event, "object": "event", "type": "invoice.updated", "created": created, "livemode": false, "data": {"object": {
        "id": "in_1", "object": "invoice", "status": status, "created": 1, "currency": "usd", "total": 500, "amount_due": 500,
        "amount_paid": 0, "customer": "cus_1", "customer_email": "A@Example.com"}}})
    .to_string()
}

fn charge(event: &str, id: &str) -> String {
    json!({"id": event, "object": "event", "type": "charge.succeeded", "created": 5, "livemode": false, "data": {"object": {
        "id": id, "object": "charge", "amount": 1200, "amount_captured": 1200, "amount_refunded": 0, "currency": "usd", "created": 5,
        "captured": true, "paid": true, "refunded": false, "status": "succeeded", "customer": "cus_1"}}})
    .to_string()
}

async fn statuses(fixture: &Fixture) -> Vec<(String, String, i64)> {
    let filter = EventFilter { limit: 100, ..EventFilter::default() };
    let mut rows = fixture.env.store().events(&filter).await.unwrap();
    rows.reverse();
    rows.into_iter().map(|r| (r.event_id, r.status, r.duplicates)).collect()
}

async fn settled(fixture: &Fixture, n: usize) {
    until("every event is processed", || async {
        let rows = statuses(fixture).await;
        rows.len() == n && rows.iter().all(|(_, status, _)| status != "received")
    })
    .await;
}

async fn start(fixture: &Fixture) -> Supervisor {
    Supervisor::start(fixture.env.clone(), vec![actor::spec(NOUN, true, Ingest::default)]).await.unwrap()
}

#[tokio::test]
async fn a_replayed_webhook_is_applied_once() {
    let fixture = testing::fixture("2026-03-01T10:00:00Z");
    let supervisor = start(&fixture).await;
    for n in 0..5 {
        assert_eq!(deliver(&fixture, &charge("evt_1", "ch_1")).await.unwrap(), Received { duplicate: n > 0 });
    }
    // The same fact under another event id is stored and books nothing twice.
    deliver(&fixture, &charge("evt_2", "ch_1")).await.unwrap();
    settled(&fixture, 2).await;
    assert_eq!(statuses(&fixture).await[0], ("evt_1".into(), "processed".into(), 4));
    assert_eq!(fixture.env.store().ledger_count().await.unwrap(), 1);
    supervisor.stop().await;
}

#[tokio::test]
async fn a_late_event_never_takes_a_state_back() {
    let fixture = testing::fixture("2026-03-01T10:00:00Z");
    let supervisor = start(&fixture).await;
    deliver(&fixture, &invoice("evt_paid", 20, "paid")).await.unwrap();
    deliver(&fixture, &invoice("evt_open", 10, "open")).await.unwrap();
    settled(&fixture, 2).await;
    let row = fixture.env.store().object("invoice", "in_1").await.unwrap().unwrap();
    assert_eq!(row.status, "paid");
    supervisor.stop().await;
}

#[tokio::test]
async fn what_was_stored_before_a_crash_is_processed_after_it() {
    let fixture = testing::fixture("2026-03-01T10:00:00Z");
    deliver(&fixture, &charge("evt_1", "ch_1")).await.unwrap(); // nobody is there to be woken
    fixture.env.store().close().await.unwrap();
    let fixture = testing::reopen(fixture.folder, "2026-03-01T11:00:00Z", |_| {});
    let supervisor = start(&fixture).await;
    settled(&fixture, 1).await;
    assert_eq!(fixture.env.store().ledger_count().await.unwrap(), 1);
    supervisor.stop().await;
}

#[tokio::test]
async fn unknown_types_are_ignored_and_malformed_events_failed_and_both_are_kept() {
    let fixture = testing::fixture("2026-03-01T10:00:00Z");
    let supervisor = start(&fixture).await;
    deliver(&fixture, r#"{"id":"evt_u","type":"radar.early_fraud_warning.created","created":1,"data":{"object":{"id":"x"}}}"#)
        .await
        .unwrap();
    deliver(&fixture, r#"{"id":"evt_m","type":"charge.succeeded","created":1,"data":{"object":{"id":"ch_1"}}}"#).await.unwrap();
    settled(&fixture, 2).await;
    let rows = statuses(&fixture).await;
    assert_eq!((rows[0].1.as_str(), rows[1].1.as_str()), ("ignored", "failed"));
    supervisor.stop().await;
}

#[tokio::test]
async fn what_is_refused_is_not_stored() {
    let fixture = testing::fixture("2026-03-01T10:00:00Z");
    let live = r#"{"id":"evt_l","type":"x","created":1,"livemode":true,"data":{"object":{}}}"#;
    assert_eq!(deliver(&fixture, live).await.unwrap_err().reason, "livemode");
    for body in ["", "[]", "{", "null", r#"{"type":"x"}"#, r#"{"id":"","type":"x"}"#] {
        assert_eq!(deliver(&fixture, body).await.unwrap_err().reason, "body", "{body:?}");
    }
    assert_eq!(receive(&fixture.env, None, Bytes::from_static(b"{}")).await.unwrap_err().reason, "signature");
    assert_eq!(statuses(&fixture).await, []);
}
