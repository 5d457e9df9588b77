//! The ledger and the webhooks on the command line, with a running daemon, which is asked, and without one.

use std::io::{Read as _, Write as _};

use integration_tests::{LONG, Output, Setup, until};
use serde_json::Value as Json;

use crate::{contract::key, ingest::charge_event, setup};

#[track_caller]
fn said(setup: &Setup, arguments: &[&str]) -> Json {
    let mut all = arguments.to_vec();
    all.push("--json");
    setup.cli(&all).json(0)
}

/// The story is the same with a daemon and without one.
fn correct_and_replay(setup: &Setup, row: &str) {
    let balances = |sum: i64| {
        let answer = said(setup, &["ledger", "balances"]);
        assert_eq!(answer["balances"][0]["total_minor"], sum, "{answer}");
    };
    let before = said(setup, &["ledger", "balances"])["balances"][0]["total_minor"].as_i64().expect("a sum");
    let correct = ["ledger", "correct", row, "--amount", "-7", "--reason", "typed wrongly"];
    let dry = said(setup, &[&correct[..], &["--dry-run"]].concat());
    assert_eq!(dry["after_minor"], dry["before_minor"].as_i64().expect("a number") - 7, "{dry}");
    balances(before);
    let key = format!("key {before}");
    for replayed in [false, true] {
        let made = said(setup, &[&correct[..], &["--idempotency-key", &key]].concat());
        assert_eq!(made["replayed"], replayed, "{made}");
        balances(before - 7);
    }
    let list = said(setup, &["ledger", "list", "--kind", "charge"]);
    assert_eq!((&list["entries"][0]["corrects"], &list["entries"][0]["origin"]), (&Json::from(row), &Json::from("manual")), "{list}");

    let dry = said(setup, &["webhooks", "replay", "--type", "charge.succeeded", "--dry-run"]);
    assert_eq!((&dry["matched"], &dry["replayed"]), (&Json::from(2), &Json::from(0)), "{dry}");
    let one = said(setup, &["webhooks", "replay", "evt_money_0"]);
    assert_eq!(one["replayed"], 1, "{one}");
    until("it is processed again", LONG, || {
        (said(setup, &["webhooks", "show", "evt_money_0"])["webhook"]["status"] == "processed").then_some(())
    });
    balances(before - 7);
    let shown = said(setup, &["webhooks", "show", "evt_money_0"]);
    assert_eq!(shown["webhook"]["body"]["type"], "charge.succeeded", "{shown}");
    let listed = said(setup, &["webhooks", "list", "--object-id", "ch_money_1"]);
    assert_eq!(listed["webhooks"][0]["event_id"], "evt_money_1", "{listed}");
    let gaps = said(setup, &["webhooks", "gaps"]);
    assert_eq!((&gaps["last"]["never_delivered"], &gaps["last"]["not_filled"]), (&Json::from(0), &Json::from(0)), "{gaps}");
}

#[test]
fn the_ledger_is_corrected_and_events_are_replayed_with_a_daemon_and_without_one() {
    let daemon = setup().start();
    for n in 0..2 {
        daemon.deliver(&charge_event(&format!("evt_money_{n}"), &format!("ch_money_{n}"), 100)).ok();
    }
    daemon.settle();
    let row = daemon.setup().column("SELECT id FROM ledger ORDER BY n").remove(0);
    correct_and_replay(daemon.setup(), &row);
    let setup = daemon.stop();
    correct_and_replay(&setup, &row);
    assert_eq!(setup.count("SELECT COUNT(*) FROM journal WHERE kind = 'webhook.replayed'"), 2);
    assert_eq!(setup.count("SELECT COUNT(*) FROM journal WHERE kind = 'ledger.corrected'"), 2);
    for (arguments, code) in [
        (&["webhooks", "replay"][..], 64),
        (&["webhooks", "replay", "evt_none"], 64),
        (&["webhooks", "show", "evt_none"], 64),
        (&["ledger", "correct", "le_none", "--amount", "1", "--reason", "x"], 64),
        (&["ledger", "correct", "le_none", "--reason", "x"], 2),
    ] {
        let output: Output = setup.cli(arguments);
        output.expect(code);
    }
}

/// A provider that accepts the key and refuses it to read payouts.
fn without_payouts() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = vec![0; 8192];
            let n = stream.read(&mut head).unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..n]).into_owned();
            assert!(head.starts_with("GET "), "only harmless reads: {head}");
            let (status, body) = if head.starts_with("GET /v1/payouts") {
                (
                    403,
                    r#"{"error":{"type":"invalid_request_error","message":"Having the 'rak_payout_read' permission would allow this request to continue."}}"#,
                )
            } else {
                (200, r#"{"object":"list","data":[],"has_more":false}"#)
            };
            let answer = format!(
                "HTTP/1.1 {status} X\r\nDate: Mon, 02 Mar 2026 10:00:00 GMT\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    url
}

#[test]
fn check_names_the_permissions_that_a_restricted_key_lacks() {
    let restricted = setup()
        .env("STRIPE_MODE", "test")
        .env("STRIPE_SECRET_KEY", "rk_test_0123456789abcdef0123456789abcdef")
        .env("ECHOPILOT__PROVIDER__BASE_URL", without_payouts());
    let output = restricted.cli(&["check", "--json"]);
    let answer = output.json(1);
    let provider = answer["checks"].as_array().and_then(|c| c.iter().find(|c| c["name"] == "provider")).expect("it is looked at").clone();
    assert_eq!(provider["state"], "fail", "{provider}");
    let detail = provider["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("Payouts (rak_payout_read)") && !detail.contains("Charges"), "{detail}");
    assert!(!format!("{}{}", output.stdout, output.stderr).contains("0123456789abcdef"), "the key is never printed");
}

#[test]
fn what_changes_the_ledger_or_replays_events_needs_its_scope() {
    let daemon = setup().start();
    let (_, read) = key(&daemon, "read");
    let (_, operate) = key(&daemon, "operate");
    for (method, path, needs) in [
        ("GET", "/api/ledger", "read"),
        ("GET", "/api/ledger/balances", "read"),
        ("GET", "/api/payments/gaps", "read"),
        ("GET", "/api/payments/webhooks/evt_none", "operate"),
        ("POST", "/api/payments/webhooks/evt_none/replay", "operate"),
        ("POST", "/api/payments/webhooks/replay", "operate"),
        ("POST", "/api/payments/gaps/scan", "operate"),
        ("POST", "/api/ledger/corrections", "admin"),
    ] {
        daemon.request(method, path, &[], b"").problem(401, "unauthorized");
        let with_read = daemon.send(method, path, &read, &Json::Null).status;
        let with_operate = daemon.send(method, path, &operate, &Json::Null).status;
        let expected = (needs != "read", needs == "admin");
        assert_eq!((with_read == 403, with_operate == 403), expected, "{method} {path}: {with_read} {with_operate}");
    }
}
