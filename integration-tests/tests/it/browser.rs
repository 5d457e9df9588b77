//! The pages as a person meets them: headless Chromium signs in, presses every button and opens the portal
//! (`peers/browser.py`). The screenshots stay in `integration-tests/out/` to be looked at.

use std::{path::PathBuf, time::Duration};

use integration_tests::{LONG, Recorder, always, peer, python, run_to_end, until};

use serde_json::json;

use crate::setup;

#[test]
fn chromium_signs_in_presses_the_three_buttons_and_opens_the_portal() {
    let recorder = Recorder::start();
    let setup = setup().telling(&recorder, "critical");
    // Alerts with more words than fit.
    let long = "what-is-the-matter-without-a-space-in-it ".repeat(4);
    setup.write_rules(&["mine", "another_rule_with_quite_a_long_name_of_its_own"].map(|name| always(name, &long)).concat());
    let daemon = setup.start();
    daemon.task_result("production_alerts");
    for (id, how) in daemon.setup().column("SELECT fingerprint FROM alert WHERE state = 'firing'").iter().zip(["ack", "snooze"]) {
        daemon.post(&format!("/api/alerts/{id}/{how}"), &json!({})).ok();
    }
    let silence = json!({"matchers": ["alertname=another_rule_with_quite_a_long_name_of_its_own"], "reason": long, "duration_s": 3600});
    daemon.post("/api/silences", &silence).ok();
    let mut client = python();
    client.arg(peer("story.py")).arg(daemon.sandbox()).args(["pay", "browser@example.com", "4200", "A line <script>alert(1)</script>"]);
    let paid = run_to_end(client, LONG).json(0);
    daemon.settle();
    until("the payment to be in the ledger", LONG, || (daemon.setup().count("SELECT COUNT(*) FROM ledger") > 0).then_some(()));
    daemon.chaos(&json!({"ghost_balance_transaction": 1})); // something to be decided about
    for _ in 0..5 {
        daemon.advance(86_400);
    }
    daemon.settle();
    daemon.task_result("payout_recon");
    daemon.task_result("heartbeat");
    daemon.post("/api/backup/run", &serde_json::Value::Null).ok();
    let link = daemon.get("/api/customer/signed-url/browser@example.com").ok();
    let portal = link["signed_url"].as_str().expect("a link");
    let out = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("out");
    std::fs::create_dir_all(&out).expect("a folder for the screenshots");
    let mut browser = python();
    browser.arg(peer("browser.py")).args([&daemon.url(), &daemon.key]).arg(&out).arg(daemon.root()).arg(portal);
    let output = run_to_end(browser, Duration::from_mins(6));
    output.expect(0);
    let shots: Vec<_> = integration_tests::names(&out).into_iter().filter(|path| path.extension().is_some_and(|e| e == "png")).collect();
    assert!(shots.len() >= 3, "there are screenshots to look at: {shots:?}");
    assert_eq!(recorder.came().iter().filter(|came| came.json()["data"]["kind"] == "test").count(), 1, "the test button sent one message");
    assert!(paid["invoice"].is_string());
}
