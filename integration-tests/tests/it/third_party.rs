//! Our client against a server that neither we nor the provider wrote: localstripe, a program of its own on a loopback port, with the
//! daemon in test mode pointed at it. Covers customers, payments, refunds, lists and signed webhooks.
//!
//! What it cannot do, and so is not shown here: one-off invoices (it makes them for subscriptions only), finalising, payouts with
//! filters, balance transactions of a payout, disputes, refund reasons, idempotency keys, and refusing a refund of more than is left.

use std::time::Duration;

use integration_tests::{LONG, Peer, TestDaemon, WEBHOOK_SECRET, peer, python, run_to_end, until};
use serde_json::{Value as Json, json};

use crate::setup;

const KEY: &str = "sk_test_localstripe123";

/// The daemon in test mode with that server as its provider.
fn against(server: &Peer) -> TestDaemon {
    let daemon =
        setup().env("STRIPE_MODE", "test").env("STRIPE_SECRET_KEY", KEY).env("ECHOPILOT__PROVIDER__BASE_URL", server.url()).start();
    assert!(daemon.ready["sandbox_address"].is_null(), "no sandbox of ours is in between");
    daemon
}

fn local_server() -> Peer {
    let mut server = python();
    server.arg(peer("localstripe_server.py"));
    Peer::start(server)
}

/// Lets a business happen on the server, by the provider's official client, with the daemon as its webhook endpoint.
fn business(server: &Peer, daemon: &TestDaemon) -> Json {
    let mut client = python();
    client.arg(peer("localstripe_business.py")).args([&server.url(), KEY, &format!("{}/webhook/stripe", daemon.url()), WEBHOOK_SECRET]);
    run_to_end(client, Duration::from_mins(1)).json(0)
}

/// Its events arrive a second later.
fn processed(daemon: &TestDaemon, kinds: &[&str]) -> Vec<Json> {
    until("the signed webhooks to be processed", LONG, || {
        let list = daemon.get("/api/payments/webhooks?limit=100").ok();
        let all = list["webhooks"].as_array()?.clone();
        let done = |kind: &str| all.iter().any(|w| w["event_type"] == kind && w["status"] == "processed");
        kinds.iter().all(|kind| done(kind)).then_some(all)
    })
}

#[test]
fn our_client_and_webhooks_work_with_a_server_of_a_third_party() {
    let server = local_server();
    let daemon = against(&server);
    let made = business(&server, &daemon);
    let webhooks = processed(&daemon, &["customer.created", "payment_intent.succeeded", "invoice.created", "invoice.payment_succeeded"]);
    assert!(webhooks.iter().all(|w| w["livemode"] == false && w["error"].is_null()), "{webhooks:?}");
    assert_eq!(daemon.get("/api/payments/webhooks").ok()["rejected"], json!([]), "every signature was right");

    // An invoice of the old shape, without number, page and payments, is shown for what it has.
    let invoices = daemon.get("/api/customer/invoices/sub%40example.com").ok();
    let invoice = &invoices["invoices"][0];
    assert_eq!((&invoice["id"], &invoice["status"], &invoice["amount"]), (&made["invoice"], &json!("paid"), &json!("25.00")), "{invoices}");
    assert!(invoice["number"].is_null() && invoice["hosted_invoice_url"].is_null(), "{invoice}");

    // The newest payment is found in its list and refunded in part, once for one key, although the server knows no keys.
    let refund = |key: &str, body: &Json| {
        let headers = [("x-dash-key", daemon.key.as_str()), ("idempotency-key", key), ("content-type", "application/json")];
        daemon.request("POST", "/api/payments/refund-last", &headers, body.to_string().as_bytes())
    };
    let part = json!({"amount_minor": 1000, "expected_payment_id": made["charge"]});
    let first = refund("part", &part).ok();
    assert_eq!((&first["payment_id"], &first["amount_minor"], &first["status"]), (&made["charge"], &json!(1000), &json!("succeeded")));
    let again = refund("part", &part).ok();
    assert_eq!((&again["refund_id"], &again["replayed"]), (&first["refund_id"], &json!(true)));
    let charge = provider(&daemon, &server, &format!("charges/{}", made["charge"].as_str().expect("an id")));
    assert_eq!(charge["amount_refunded"], 1000, "refunded once");
    // It would refund more than is left; we do not ask it to.
    refund("more", &json!({"amount_minor": 1501})).problem(422, "invalid");
    assert_eq!(refund("rest", &json!({})).ok()["amount_minor"], 1500);
    assert_eq!(refund("none", &json!({})).problem(409, "conflict")["reason"], "nothing_to_refund");
    // What it refuses is told as its refusal.
    let made_later = business(&server, &daemon);
    assert_ne!(made_later["charge"], made["charge"]);
    let refused = refund("why", &json!({"reason": "duplicate"}));
    assert_eq!(refused.problem(502, "unavailable")["reason"], "provider_refused", "{}", refused.text());

    // What it cannot answer fails and is never an empty list: nothing is reconciled against nothing.
    let run = daemon.run_task("payout_recon");
    assert_eq!(run["state"], "failed", "{run}");
    let asked = json!({"email": "one-off@example.com", "amount": "12.00"});
    assert_eq!(daemon.post("/api/payments/create-invoice", &asked).problem(502, "unavailable")["error"], "unavailable");
}

/// An object as the server has it.
fn provider(daemon: &TestDaemon, server: &Peer, path: &str) -> Json {
    let key = format!("Bearer {KEY}");
    daemon.request("GET", &format!("{}/v1/{path}", server.url()), &[("authorization", &key)], b"").expect(200)
}
