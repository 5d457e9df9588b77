//! The way of a webhook into the ledger: which deliveries are accepted, what is stored, what order does to state, and what is left
//! after a crash (kills under load are in `chaos.rs`).

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Stdio,
};

use integration_tests::{SHORT, TestDaemon, WEBHOOK_SECRET, now_unix, peer, python, signed, v1};
use serde_json::{Value as Json, json};

use crate::setup;

const PATH: &str = "/api/payments/webhook";

/// A payment that succeeded, as the provider would tell it.
pub(crate) fn charge_event(id: &str, charge: &str, amount: i64) -> Json {
    let created = now_unix();
    json!({
        "id": id, "object": "event", "api_version": "2026-10-28.endive", "created": created, "type": "charge.succeeded",
        "livemode": false, "pending_webhooks": 1, "request": {"id": null, "idempotency_key": null},
        "data": {"object": {
            "id": charge, "object": "charge", "amount": amount, "amount_captured": amount, "amount_refunded": 0, "currency": "usd",
            "captured": true, "paid": true, "refunded": false, "disputed": false, "status": "succeeded", "created": created,
            "customer": "cus_test", "payment_intent": format!("pi_{charge}"), "livemode": false,
            "billing_details": {"email": null}, "balance_transaction": null
        }}
    })
}

fn invoice_event(id: &str, invoice: &str, (kind, status): (&str, &str), created: i64) -> Json {
    json!({
        "id": id, "object": "event", "created": created, "type": kind, "livemode": false,
        "data": {"object": {
            "id": invoice, "object": "invoice", "status": status, "number": "A-0001", "currency": "usd", "total": 900,
            "amount_due": 900, "amount_paid": if status == "paid" { 900 } else { 0 }, "amount_remaining": if status == "paid" { 0 } else { 900 },
            "customer": "cus_order", "customer_email": "order@example.com", "created": created, "livemode": false,
            "lines": {"object": "list", "data": []}, "hosted_invoice_url": null
        }}
    })
}

fn post(daemon: &TestDaemon, header: Option<&str>, body: &[u8]) -> integration_tests::Answer {
    let headers: Vec<_> = header.iter().map(|value| ("stripe-signature", *value)).collect();
    daemon.request("POST", PATH, &headers, body)
}

/// Makes the signature header for a body, if there is to be one.
type Header = Box<dyn Fn(&[u8]) -> Option<String>>;

#[test]
fn only_deliveries_with_a_right_and_recent_signature_are_stored() {
    const OLD_SECRET: &str = "whsec_the_one_before_0123456789abcdef";
    let daemon = setup().env("STRIPE_WEBHOOK_SECRET", format!("{WEBHOOK_SECRET},{OLD_SECRET}")).start();
    let body_of = |n: usize| charge_event(&format!("evt_sig_{n}"), &format!("ch_sig_{n}"), 100).to_string().into_bytes();
    let now = now_unix();
    let right = |body: &[u8], t: i64| v1(WEBHOOK_SECRET, t, body);
    let table: Vec<(&str, u16, Header)> = vec![
        ("right", 200, Box::new(move |b| Some(format!("t={now},v1={}", right(b, now))))),
        ("the secret before", 200, Box::new(move |b| Some(format!("t={now},v1={}", v1(OLD_SECRET, now, b))))),
        ("two v1, the second right", 200, Box::new(move |b| Some(format!("t={now},v1={},v1={}", "0".repeat(64), right(b, now))))),
        ("a v0 beside it", 200, Box::new(move |b| Some(format!("t={now},v0={},v1={}", "0".repeat(64), right(b, now))))),
        ("v1 before t", 200, Box::new(move |b| Some(format!("v1={},t={now}", right(b, now))))),
        ("290 s old", 200, Box::new(move |b| Some(format!("t={},v1={}", now - 290, right(b, now - 290))))),
        ("missing", 400, Box::new(|_| None)),
        ("empty", 400, Box::new(|_| Some(String::new()))),
        ("malformed", 400, Box::new(|_| Some("nonsense".into()))),
        ("no time", 400, Box::new(move |b| Some(format!("v1={}", right(b, now))))),
        ("letters in the time", 400, Box::new(move |b| Some(format!("t={now}abc,v1={}", right(b, now))))),
        ("a sign before the time", 400, Box::new(move |b| Some(format!("t=+{now},v1={}", right(b, now))))),
        ("301 s old and more", 400, Box::new(move |b| Some(format!("t={},v1={}", now - 301, right(b, now - 301))))),
        ("from the future", 400, Box::new(move |b| Some(format!("t={},v1={}", now + 400, right(b, now + 400))))),
        ("an hour from the future", 400, Box::new(move |b| Some(format!("t={},v1={}", now + 3600, right(b, now + 3600))))),
        ("another secret", 400, Box::new(move |b| Some(format!("t={now},v1={}", v1("whsec_other", now, b))))),
        ("a newline after the secret", 400, Box::new(move |b| Some(format!("t={now},v1={}", v1(&format!("{WEBHOOK_SECRET}\n"), now, b))))),
        ("v0 only", 400, Box::new(move |b| Some(format!("t={now},v0={}", right(b, now))))),
        ("t twice", 400, Box::new(move |b| Some(format!("t={now},t={now},v1={}", right(b, now))))),
        ("uppercase hex", 400, Box::new(move |b| Some(format!("t={now},v1={}", right(b, now).to_uppercase())))),
        ("half a signature", 400, Box::new(move |b| Some(format!("t={now},v1={}", &right(b, now)[..32])))),
        ("a space after the comma", 400, Box::new(move |b| Some(format!("t={now}, v1={}", right(b, now))))),
        ("of a body with one more newline", 400, Box::new(move |b| Some(format!("t={now},v1={}", right(&[b, b"\n"].concat(), now))))),
    ];
    let mut accepted = BTreeSet::new();
    for (n, (name, status, header)) in table.iter().enumerate() {
        let body = body_of(n);
        let answer = post(&daemon, header(&body).as_deref(), &body);
        assert_eq!(answer.status, *status, "{name}: {}", answer.text());
        if *status == 200 {
            assert_eq!(answer.ok(), json!({"ok": true, "received": true, "duplicate": false}), "{name}");
            accepted.insert(format!("evt_sig_{n}"));
        } else {
            answer.problem(400, "invalid");
        }
    }
    let stored: BTreeSet<_> = daemon.setup().column("SELECT event_id FROM webhook_event").into_iter().collect();
    assert_eq!(stored, accepted, "what was refused is not stored");
    let other = body_of(999);
    let answer = daemon.request("POST", "/webhook/stripe", &[("stripe-signature", &signed(WEBHOOK_SECRET, &other))], &other);
    assert_eq!(answer.ok()["received"], true, "the other path is the same endpoint");
}

#[test]
fn a_header_made_by_the_official_client_is_accepted() {
    let daemon = setup().start();
    let body = charge_event("evt_sdk_signed", "ch_sdk_signed", 100).to_string();
    let mut client = python();
    client.arg(peer("story.py")).arg(daemon.sandbox()).args(["sign", WEBHOOK_SECRET]);
    let mut child = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("Python starts");
    child.stdin.take().expect("a pipe").write_all(body.as_bytes()).expect("the body is taken");
    let output = child.wait_with_output().expect("Python ends");
    let header: Json = serde_json::from_slice(&output.stdout).expect("a line of JSON");
    assert_eq!(post(&daemon, header["header"].as_str(), body.as_bytes()).ok()["duplicate"], false);
}

#[test]
fn a_body_over_the_limit_is_refused_with_413_however_it_is_sent() {
    let daemon = setup().start();
    let limit = 512 * 1024;
    let fits = padded("evt_fits", limit);
    assert_eq!(post(&daemon, Some(&signed(WEBHOOK_SECRET, &fits)), &fits).status, 200, "exactly the limit is accepted");
    let large = padded("evt_large", limit + 1);
    post(&daemon, Some(&signed(WEBHOOK_SECRET, &large)), &large).problem(413, "invalid");

    // The same in chunks, which announce no length.
    let mut stream = TcpStream::connect(daemon.address()).expect("a connection");
    stream.set_read_timeout(Some(SHORT)).expect("a time limit");
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\nStripe-Signature: {}\r\n\r\n",
        signed(WEBHOOK_SECRET, &large)
    );
    stream.write_all(head.as_bytes()).expect("the head is taken");
    for part in large.chunks(60_000) {
        // The daemon may answer and close before all of it was sent.
        let sent = write!(stream, "{:x}\r\n", part.len()).and_then(|()| stream.write_all(part)).and_then(|()| stream.write_all(b"\r\n"));
        if sent.is_err() {
            break;
        }
    }
    let _ = stream.write_all(b"0\r\n\r\n");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(daemon.setup().column("SELECT event_id FROM webhook_event"), ["evt_fits"]);
}

/// An event whose body has exactly `length` bytes.
fn padded(id: &str, length: usize) -> Vec<u8> {
    let mut event = json!({"id": id, "object": "event", "type": "test.padding", "created": 1, "livemode": false, "padding": ""});
    let rest = length - event.to_string().len();
    event["padding"] = "x".repeat(rest).into();
    event.to_string().into_bytes()
}

#[test]
fn bodies_that_are_no_events_are_refused_and_do_not_come_back() {
    let daemon = setup().start();
    let bodies: [&[u8]; 7] = [
        b"",
        b"not json",
        b"{\"id\":\"evt_x\",\"type\":\"charge.succeeded\"",
        b"\xff\xfe{\"id\":\"evt_x\"}",
        b"[]",
        b"{}",
        b"{\"id\":7,\"type\":\"charge.succeeded\",\"created\":1,\"data\":{\"object\":{}}}",
    ];
    for body in bodies {
        let answer = post(&daemon, Some(&signed(WEBHOOK_SECRET, body)), body);
        answer.problem(400, "invalid");
    }
    let live =
        json!({"id": "evt_live", "object": "event", "type": "charge.succeeded", "created": 1, "livemode": true, "data": {"object": {}}});
    daemon.deliver(&live).problem(400, "invalid");
    assert_eq!(daemon.setup().count("SELECT COUNT(*) FROM webhook_event"), 0);
}

#[test]
fn an_unknown_type_is_stored_and_ignored_and_a_broken_event_fails_without_stopping_the_others() {
    let daemon = setup().start();
    daemon.deliver(&json!({"id": "evt_new", "object": "event", "type": "moon.landed", "created": 5, "livemode": false, "data": {"object": {"id": "m_1"}}})).ok();
    daemon.deliver(&json!({"id": "evt_bad", "object": "event", "type": "charge.succeeded", "created": 5, "livemode": false, "data": {"object": {"id": "ch_bad"}}})).ok();
    daemon.deliver(&charge_event("evt_good", "ch_good", 150)).ok();
    daemon.settle();
    let status = |id: &str| daemon.webhook(id).map(|w| w["status"].as_str().unwrap_or_default().to_owned()).unwrap_or_default();
    assert_eq!((status("evt_new").as_str(), status("evt_good").as_str()), ("ignored", "processed"));
    let bad = daemon.webhook("evt_bad").expect("it is listed");
    assert_eq!(bad["status"], "failed", "{bad}");
    assert!(bad["error"].as_str().is_some_and(|e| !e.is_empty()), "{bad}");
    let filtered = daemon.get("/api/payments/webhooks?status=ignored").ok();
    assert_eq!((filtered["count"].as_u64(), &filtered["webhooks"][0]["event_id"]), (Some(1), &json!("evt_new")), "{filtered}");
}

#[test]
fn a_duplicate_is_acknowledged_counted_and_applied_once() {
    let daemon = setup().start();
    let event = charge_event("evt_twice", "ch_twice", 4200);
    assert_eq!(daemon.deliver(&event).ok()["duplicate"], false);
    daemon.settle();
    for _ in 0..3 {
        assert_eq!(daemon.deliver(&event).ok()["duplicate"], true);
    }
    // The same fact told by two events.
    let mut retold = event.clone();
    retold["id"] = "evt_twice_again".into();
    daemon.deliver(&retold).ok();
    daemon.settle();
    let row = daemon.webhook("evt_twice").expect("it is listed");
    assert_eq!((&row["duplicates"], &row["status"]), (&json!(3), &json!("processed")), "{row}");
    assert_eq!(daemon.setup().count("SELECT COUNT(*) FROM ledger WHERE source = 'ch_twice'"), 1);
    assert_eq!(daemon.setup().count("SELECT SUM(amount) FROM ledger"), 4200);
}

#[test]
fn events_out_of_order_never_take_a_state_back() {
    let states = [("invoice.created", "draft"), ("invoice.finalized", "open"), ("invoice.paid", "paid")];
    // Every order of arrival of the three ends in `paid`, whether the provider's seconds tell them apart or not.
    let daemon = setup().start();
    let start = now_unix() - 100;
    for (number, order) in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]].into_iter().enumerate() {
        for step_s in [0, 10] {
            let invoice = format!("in_order_{number}_{step_s}");
            for index in order {
                let created = start + step_s * i64::try_from(index).expect("small");
                daemon.deliver(&invoice_event(&format!("evt_{invoice}_{index}"), &invoice, states[index], created)).ok();
                daemon.settle();
            }
            let status = daemon.setup().column(&format!("SELECT status FROM provider_object WHERE kind = 'invoice' AND id = '{invoice}'"));
            assert_eq!(status, ["paid"], "order {order:?}, {step_s} s apart");
        }
    }
}

#[test]
fn what_was_acknowledged_but_not_processed_is_picked_up_after_a_crash() {
    let daemon = setup().start();
    for n in 0..50 {
        daemon.deliver(&charge_event(&format!("evt_left_{n}"), &format!("ch_left_{n}"), 10)).ok();
    }
    daemon.settle();
    let setup = daemon.kill9();
    // As if it had died between the acknowledgement and the processing.
    let connection = rusqlite::Connection::open(setup.data("echopilot.db")).expect("the database of a dead process");
    let changed =
        connection.execute("UPDATE webhook_event SET status = 'received', processed_at = NULL, next_try_at = 0", []).expect("an update");
    assert_eq!(changed, 50);
    // The database itself refuses this; the next start puts the refusal back.
    connection.execute_batch("DROP TRIGGER ledger_is_not_shortened; DELETE FROM ledger WHERE n % 2 = 0").expect("a delete");
    drop(connection);
    let daemon = setup.start();
    daemon.settle();
    assert_eq!(daemon.setup().count("SELECT COUNT(*) FROM webhook_event WHERE status = 'processed'"), 50);
    assert_eq!(daemon.setup().count("SELECT COUNT(*) FROM ledger"), 50, "each exactly once");
}
