//! The ledger and the webhooks on the command line, with a running daemon, which is asked, and without one.

use integration_tests::{LONG, Output, Setup, until};
use serde_json::Value as Json;

use crate::{ingest::charge_event, setup};

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
