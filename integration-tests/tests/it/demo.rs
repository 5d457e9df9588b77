//! A newcomer's first command: `run --demo` serves with something true to show, and the same command again changes nothing.

use integration_tests::{LONG, TestDaemon, until};
use serde_json::Value as Json;

use crate::setup;

fn business(daemon: &TestDaemon) -> (usize, usize, i64) {
    daemon.settle();
    let all = |kind: &str| {
        let (mut count, mut after) = (0, String::new());
        loop {
            let page = daemon.provider(&format!("{kind}?limit=100{after}"));
            let data = page["data"].as_array().expect("a list");
            count += data.len();
            if page["has_more"] != true {
                return count;
            }
            after = format!("&starting_after={}", data[data.len() - 1]["id"].as_str().expect("an id"));
        }
    };
    (all("charges"), all("payouts"), daemon.setup().count("SELECT COUNT(*) FROM ledger"))
}

#[test]
fn a_demo_is_ready_with_payments_and_a_second_one_changes_nothing() {
    let daemon = setup().argument("--demo").start();
    until("the demo to have payments", LONG, || {
        (daemon.setup().count("SELECT COUNT(*) FROM ledger WHERE kind = 'charge'") > 0).then_some(())
    });
    let first = until("the demo to be complete", LONG, || {
        let before = business(&daemon);
        (before == business(&daemon) && before.1 > 0).then_some(before)
    });
    assert!(first.0 >= 10 && first.1 >= 3, "a few weeks of business: {first:?}");
    let report = daemon.task_result("payout_recon");
    assert_eq!(report["ok"], true, "the demo reconciles: {report}");
    let events = daemon.setup().count("SELECT COUNT(*) FROM webhook_event");
    daemon.signal("TERM");
    let mut daemon = daemon;
    let ended = daemon.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert!(ended.said.contains("TEST MODE") && ended.said.contains("http://127.0.0.1:"), "{}", ended.said);
    let daemon = ended.setup.start();
    assert_eq!(business(&daemon), first, "the second demo changed something");
    assert_eq!(daemon.setup().count("SELECT COUNT(*) FROM webhook_event"), events);
    let page = daemon.request("GET", "/", &[], b"");
    assert!(page.status < 400 && page.text().contains("TEST MODE") || page.status == 303, "{} {}", page.status, page.text());
    assert_eq!(daemon.post("/api/payments/refund-last", &Json::Null).status, 200, "there is something to refund");
}
