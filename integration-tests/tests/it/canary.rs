//! Trial payments from end to end: one that passes, one whose webhook is lost, what it leaves behind, and what they mean for the service level.

use std::{io::Write as _, net::TcpStream};

use integration_tests::{SHORT, until};
use serde_json::{Value as Json, json};

use crate::{contract::key, setup};

#[test]
fn a_trial_payment_is_made_paid_refunded_and_measured() {
    let daemon = setup().start();
    let trial = daemon.post("/api/slo/canary/run", &Json::Null).ok();
    let trial = &trial["trial"];
    assert_eq!((&trial["state"], &trial["error"]), (&json!("passed"), &Json::Null), "{trial}");
    let charge = daemon.provider(&format!("charges/{}", trial["charge_id"].as_str().expect("an id")));
    assert_eq!((&charge["refunded"], &charge["amount"]), (&json!(true), &json!(100)));
    let (paid, refunded) = (trial["paid_ms"].as_i64().expect("measured"), trial["refunded_ms"].as_i64().expect("measured"));
    assert_eq!(trial["total_ms"], json!(paid + refunded));
    // It is listed, and stands in for requests of customers while there are few of them.
    let list = daemon.get("/api/slo/canary").ok();
    assert_eq!((&list["on"], &list["trials"][0]["id"]), (&json!(true), &trial["id"]), "{list}");
    let status = daemon.get("/api/slo/status").ok();
    let canary = &status["details"]["canary"];
    assert_eq!((&canary["n"], &canary["bad"], &canary["counted"]), (&json!(1), &json!(0), &json!(true)), "{status}");
    assert!(canary["p95_ms"].as_f64().is_some_and(|ms| ms <= (paid + refunded) as f64 * 1.01), "{canary}");
    // It is not the last payment.
    assert_eq!(daemon.post("/api/payments/refund-last", &Json::Null).problem(409, "conflict")["reason"], "nothing_to_refund");
}

#[test]
fn a_lost_webhook_fails_the_trial_raises_an_alert_and_the_next_one_takes_its_payment_back() {
    let daemon = setup().env("ECHOPILOT__CANARY__TIMEOUT_S", "1").start();
    daemon.chaos(&json!({"drop_webhook": 1.0}));
    let answer = daemon.post("/api/slo/canary/run", &Json::Null);
    let lost = answer.json()["trial"].clone();
    assert_eq!((&lost["state"], &lost["step"]), (&json!("failed"), &json!("paid_webhook")), "{lost}");
    assert!(lost["error"].as_str().is_some_and(|e| e.contains("charge.succeeded") && e.contains("within 1 s")), "{lost}");
    let alert = |state: &str| {
        let alerts = daemon.get("/api/alerts").ok();
        let found = alerts["alerts"].as_array().expect("a list").iter().find(|a| a["name"] == "payment_canary").cloned();
        (found.as_ref().is_some_and(|a| a["state"] == state) || (state == "gone" && found.is_none())).then_some(())
    };
    until("the alert", SHORT, || alert("firing"));
    let bad = daemon.get("/api/slo/status").ok()["details"]["canary"]["bad"].clone();
    assert_eq!(bad, 1);

    daemon.chaos(&json!({"drop_webhook": 0.0}));
    for _ in 0..2 {
        assert_eq!(daemon.post("/api/slo/canary/run", &Json::Null).ok()["trial"]["state"], "passed");
    }
    let charge = daemon.provider(&format!("charges/{}", lost["charge_id"].as_str().expect("an id")));
    assert_eq!(charge["refunded"], true, "what the failed one took was given back");
    until("the alert to be over", SHORT, || alert("gone").or_else(|| alert("resolved")));
    let trials = daemon.get("/api/slo/canary").ok();
    assert_eq!(trials["trials"][2]["step"], "tidied", "{trials}");
}

#[test]
fn a_trial_that_was_cut_off_is_taken_back_after_the_restart() {
    let daemon = setup().env("ECHOPILOT__CANARY__TIMEOUT_S", "30").start();
    daemon.chaos(&json!({"drop_webhook": 1.0}));
    let (_, key) = key(&daemon, "operate");
    // Nobody waits for the answer: the trial goes on by itself.
    let mut asked = TcpStream::connect(daemon.address()).expect("the daemon listens");
    write!(asked, "POST /api/slo/canary/run HTTP/1.1\r\nhost: x\r\nx-dash-key: {key}\r\ncontent-length: 0\r\n\r\n")
        .expect("it can be asked");
    let newest = || daemon.get("/api/slo/canary").ok()["trials"][0].clone();
    let cut_off = until("the payment", SHORT, || Some(newest()).filter(|t| t["step"] == "paid_webhook"));
    let daemon = daemon.kill9().start();
    daemon.chaos(&json!({"drop_webhook": 0.0}));
    assert_eq!(daemon.post("/api/slo/canary/run", &Json::Null).ok()["trial"]["state"], "passed");
    let charge = daemon.provider(&format!("charges/{}", cut_off["charge_id"].as_str().expect("an id")));
    assert_eq!(charge["refunded"], true);
    let trials = daemon.get("/api/slo/canary").ok();
    assert_eq!((&trials["trials"][1]["step"], &trials["trials"][1]["error"]), (&json!("tidied"), &json!("it was cut off")), "{trials}");
}

#[test]
fn trial_payments_can_be_switched_off() {
    let daemon = setup().env("ECHOPILOT__CANARY__MODE", "off").start();
    assert_eq!(daemon.post("/api/slo/canary/run", &Json::Null).problem(403, "forbidden")["reason"], "canary_off");
    assert_eq!(daemon.get("/api/slo/canary").ok()["on"], false);
}
