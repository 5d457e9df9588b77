//! `echopilot sandbox`: the faults, the clock, disputes and deliveries of a running daemon's sandbox from the command line, and
//! what it says when there is none.

use integration_tests::SHORT;
use integration_tests::until;
use serde_json::json;

use crate::setup;

#[test]
fn the_sandbox_is_driven_from_the_command_line() {
    let daemon = setup().start();
    let json = |arguments: &[&str]| daemon.cli(&[&["--json", "sandbox"], arguments].concat()).json(0);
    assert_eq!(json(&["chaos"])["drop_webhook"], 0.0);
    let set = json(&["chaos", "drop_webhook=0.5", "skew_amount=2", "slow_page=1"]);
    assert_eq!((&set["drop_webhook"], &set["skew_amount"], &set["slow_page"]), (&json!(0.5), &json!(2), &json!(1)));
    let shown = daemon.cli(&["sandbox", "chaos"]);
    assert!(shown.expect(0).lines().any(|l| l.split_whitespace().eq(["skew_amount", "2"])), "{}", shown.stdout);
    let wrong = daemon.cli(&["sandbox", "chaos", "skew_ammount=1"]);
    assert!(wrong.code.is_some_and(|c| c != 0) && wrong.stderr.contains("did you mean skew_amount?"), "{}", wrong.stderr);
    assert_eq!(json(&["chaos"])["skew_amount"], 2, "and nothing was changed");
    json(&["chaos", "drop_webhook=0", "skew_amount=0", "slow_page=0"]);

    let before = json(&["clock"]);
    let after = json(&["clock", "advance", "2d"]);
    assert_eq!(after["offset_seconds"].as_i64().unwrap_or_default() - before["offset_seconds"].as_i64().unwrap_or_default(), 172_800);

    let charge = daemon.provider_post("charges", &[("amount", "5000"), ("currency", "usd"), ("source", "tok_visa")]).expect(200);
    let id = charge["id"].as_str().expect("an id");
    assert_eq!(json(&["dispute", id])["status"], "needs_response");
    let lost = daemon.cli(&["sandbox", "dispute", id, "--outcome", "lost"]);
    assert!(lost.expect(0).contains("is lost"), "{}", lost.stdout);
    daemon.cli(&["sandbox", "dispute", "ch_nobody"]).code.filter(|c| *c != 0).expect("no such charge");

    let event = until("the charge's event to be delivered", SHORT, || {
        let listed = json(&["events"]);
        let events = listed["events"].as_array()?;
        let found = events.iter().find(|e| e["type"] == "charge.succeeded" && e["object"] == *id)?;
        (found["pending_webhooks"] == 0).then(|| found["id"].as_str().expect("an id").to_owned())
    });
    let history = json(&["events", &event]);
    let codes: Vec<_> = history["deliveries"].as_array().expect("deliveries").iter().map(|d| d["attempts"][0]["code"].clone()).collect();
    assert_eq!(codes, [json!(200)], "{history}");
    assert!(daemon.cli(&["sandbox", "events", &event]).expect(0).contains("delivered"));
    daemon.cli(&["sandbox", "events", "evt_nobody"]).code.filter(|c| *c != 0).expect("no such event");

    daemon.settle();
    json(&["reset"]);
    assert_eq!(daemon.provider("charges")["data"], json!([]));
    assert!(daemon.setup().count("SELECT COUNT(*) FROM ledger") > 0, "the daemon's own ledger keeps what it heard");
}

#[test]
fn without_a_daemon_or_with_a_provider_there_is_no_sandbox_to_drive() {
    let setup = setup();
    let none = setup.cli(&["sandbox", "chaos"]);
    assert!(none.code.is_some_and(|c| c != 0) && none.stderr.contains("no daemon runs"), "{}", none.stderr);
    let provider = self::setup()
        .env("STRIPE_MODE", "test")
        .env("STRIPE_SECRET_KEY", "sk_test_nobody_is_asked")
        .env("ECHOPILOT__PROVIDER__BASE_URL", "http://127.0.0.1:9")
        .start();
    let refused = provider.cli(&["sandbox", "reset"]);
    assert!(refused.code.is_some_and(|c| c != 0) && refused.stderr.contains("no sandbox"), "{}", refused.stderr);
}
