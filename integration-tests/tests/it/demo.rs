//! A newcomer's first command: `run --demo` serves with a year of something true to show, the differences that were planted in it are
//! found and no others, and the same command again, or after a kill in the middle, changes nothing that was done.

use std::{collections::BTreeMap, time::Duration};

use integration_tests::{Setup, TestDaemon};
use serde_json::Value as Json;

use crate::setup;

/// A year may take so long in a debug build on a busy machine.
const YEAR: Duration = Duration::from_mins(8);

/// Every object of a list, newest first.
fn all(daemon: &TestDaemon, kind: &str) -> Vec<Json> {
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let separator = if kind.contains('?') { '&' } else { '?' };
        let page = daemon.provider(&format!("{kind}{separator}limit=100{after}"));
        found.extend(page["data"].as_array().expect("a list").iter().cloned());
        if page["has_more"] != true {
            return found;
        }
        after = format!("&starting_after={}", found[found.len() - 1]["id"].as_str().expect("an id"));
    }
}

/// What must stay the same.
fn business(daemon: &TestDaemon) -> (usize, usize, usize, i64) {
    daemon.settle();
    let (charges, payouts, subscriptions) = (all(daemon, "charges"), all(daemon, "payouts"), all(daemon, "subscriptions?status=all"));
    (charges.len(), payouts.len(), subscriptions.len(), daemon.setup().count("SELECT COUNT(*) FROM ledger"))
}

/// How often each text occurs.
fn counted<'a>(texts: impl IntoIterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    texts.into_iter().fold(BTreeMap::new(), |mut counts, text| {
        *counts.entry(text).or_default() += 1;
        counts
    })
}

fn text<'a>(object: &'a Json, member: &str) -> &'a str {
    object[member].as_str().unwrap_or_default()
}

/// (kind, source) of what the demo noted when it planted it, sorted.
fn planted(setup: &Setup) -> Vec<(String, String)> {
    let noted = setup.column("SELECT value FROM meta WHERE key = 'demo.planted'");
    let noted: Vec<Json> = serde_json::from_str(noted.first().expect("a note of what was planted")).expect("JSON");
    let mut pairs: Vec<_> = noted.iter().map(|p| (text(p, "kind").to_owned(), text(p, "source").to_owned())).collect();
    pairs.sort();
    pairs
}

/// (kind, source) of the exceptions that the first reconciliation reported, sorted.
fn reported(setup: &Setup) -> Vec<(String, String)> {
    let line = std::fs::read_to_string(setup.logs("payout_recon.ndjson")).expect("the history of reconciliations");
    let first: Json = serde_json::from_str(line.lines().next().expect("a first run")).expect("JSON");
    assert_eq!(first["complete"], true, "{first}");
    let exceptions = first["exceptions"].as_array().expect("exceptions");
    let source =
        |e: &Json| if text(e, "kind") == "unbalanced_payout" { text(e, "payout_id").to_owned() } else { text(e, "source_id").to_owned() };
    let mut pairs: Vec<_> = exceptions.iter().map(|e| (text(e, "kind").to_owned(), source(e))).collect();
    pairs.sort();
    pairs
}

/// What was planted was found, nothing else was, and the provider itself shows it.
fn finds_what_was_planted(daemon: &TestDaemon) {
    let planted = planted(daemon.setup());
    assert_eq!(reported(daemon.setup()), planted, "the first reconciliation finds exactly what was planted");
    let kinds = counted(planted.iter().map(|(kind, _)| kind.as_str()));
    let expected = [("amount_mismatch", 1), ("currency_mismatch", 1), ("missing_in_ledger", 3), ("unbalanced_payout", 1)];
    assert_eq!(kinds, BTreeMap::from(expected));
    for (kind, source) in &planted {
        let unknown = || daemon.setup().count(&format!("SELECT COUNT(*) FROM ledger WHERE source = '{source}'")) == 0;
        let movement = || daemon.provider(&format!("balance_transactions?source={source}"))["data"][0].clone();
        let charge = || daemon.provider(&format!("charges/{source}"));
        match kind.as_str() {
            "amount_mismatch" => assert_ne!(movement()["amount"], charge()["amount"]),
            "currency_mismatch" => assert_ne!(movement()["currency"], charge()["currency"]),
            "missing_in_ledger" => assert!(unknown() && movement()["amount"].is_i64(), "{source}"),
            _ => {
                let members = all(daemon, &format!("balance_transactions?payout={source}"));
                assert_ne!(members.iter().filter_map(|m| m["net"].as_i64()).sum::<i64>(), 0);
            }
        }
    }
}

#[test]
fn a_years_demo_is_a_believable_business_and_its_planted_differences_are_found() {
    let daemon = setup().argument("--demo").start_within(YEAR);
    eprintln!("ready after {:.1} s", daemon.ready_after.as_secs_f64());
    daemon.settle();
    finds_what_was_planted(&daemon);
    let subscriptions = all(&daemon, "subscriptions?status=all");
    let states = counted(subscriptions.iter().map(|s| text(s, "status")));
    assert!(
        subscriptions.len() >= 300 && states["active"] >= 150 && states["canceled"] >= 40 && states.contains_key("trialing"),
        "{states:?}"
    );
    let currencies = counted(subscriptions.iter().map(|s| text(s, "currency")));
    assert!(currencies["usd"] >= 100 && currencies["eur"] >= 60, "{currencies:?}");
    let why = counted(subscriptions.iter().map(|s| text(&s["cancellation_details"], "reason")));
    assert!(why["cancellation_requested"] >= 25 && why["payment_failed"] >= 5, "{why:?}");
    let invoices = all(&daemon, "invoices");
    let reasons = counted(invoices.iter().map(|i| text(i, "billing_reason")));
    assert!(reasons["subscription_cycle"] >= 700 && reasons["subscription_update"] >= 5 && reasons["manual"] >= 10, "{reasons:?}");
    assert!(invoices.iter().any(|i| i["status"] == "paid" && i["attempt_count"].as_i64() > Some(1)), "a new card paid an old invoice");
    let refunds = all(&daemon, "refunds");
    let disputes =
        counted(all(&daemon, "disputes").iter().map(|d| text(d, "status").to_owned()).collect::<Vec<_>>().iter().map(String::as_str)).len();
    assert!(refunds.len() >= 6 && disputes == 3, "{} refunds, {disputes} states of disputes", refunds.len());
    let payouts = all(&daemon, "payouts");
    let failed: Vec<_> = payouts.iter().filter(|p| p["status"] == "failed").collect();
    assert!(!failed.is_empty() && payouts.len() >= 200, "{} payouts", payouts.len());
    for payout in failed {
        let back = daemon.provider(&format!("balance_transactions/{}", text(payout, "failure_balance_transaction")));
        assert_eq!((&back["status"], &back["amount"]), (&"available".into(), &payout["amount"]), "it rolled into a later payout");
    }
    // Joining days are spread over the year, and more of them are late than early.
    let joined: Vec<i64> = subscriptions.iter().filter_map(|s| s["created"].as_i64()).collect();
    let (first, last) = (joined[joined.len() - 1], joined[0]);
    assert!(last - first > 350 * 86_400);
    let late = joined.iter().filter(|at| **at > first.midpoint(last)).count();
    assert!(late * 2 > joined.len(), "{late} of {} joined in the second half", joined.len());
}

#[test]
fn a_demo_is_complete_when_it_is_ready_and_a_second_one_changes_nothing() {
    let daemon = setup().argument("--demo").argument("--demo-days=45").start_within(YEAR);
    let first = business(&daemon);
    assert!(first.0 >= 20 && first.1 >= 10 && first.2 >= 30, "{first:?}");
    finds_what_was_planted(&daemon);
    let events = daemon.setup().count("SELECT COUNT(*) FROM webhook_event");
    let ended = daemon.terminate();
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert!(ended.said.contains("TEST MODE") && ended.said.contains("6 differences planted, 6 of them found"), "{}", ended.said);
    let daemon = ended.setup.start();
    assert_eq!(business(&daemon), first, "the second demo changed something");
    assert_eq!(daemon.setup().count("SELECT COUNT(*) FROM webhook_event"), events);
    let page = daemon.request("GET", "/", &[], b"");
    assert!(page.status < 400 && page.text().contains("TEST MODE") || page.status == 303, "{} {}", page.status, page.text());
    assert_eq!(daemon.post("/api/payments/refund-last", &Json::Null).status, 200, "there is something to refund");
}

#[test]
fn a_demo_that_is_killed_in_the_middle_goes_on_and_nothing_is_there_twice() {
    let charges = |setup: &Setup| {
        setup.data("echopilot.db").exists()
            && setup.sql().query_row("SELECT COUNT(*) FROM ledger WHERE kind = 'charge'", [], |r| r.get(0)).unwrap_or(0) >= 20
    };
    let setup = setup().argument("--demo").argument("--demo-days=45").start_and_kill_when("some payments", charges);
    assert_ne!(setup.column("SELECT value FROM meta WHERE key = 'demo.seeded'"), ["done"], "it was killed too late to show anything");
    let daemon = setup.start_within(YEAR);
    finds_what_was_planted(&daemon);
    let emails: Vec<Json> = all(&daemon, "customers");
    let doubled: Vec<_> = counted(emails.iter().map(|c| text(c, "email"))).into_iter().filter(|(_, n)| *n > 1).collect();
    assert!(doubled.is_empty(), "{doubled:?}");
    // The same story as one that nobody disturbed: the same seed has the same payments.
    let sorted = |daemon: &TestDaemon| {
        let mut amounts: Vec<(String, i64)> = all(daemon, "invoices")
            .iter()
            .map(|i| (text(i, "customer_email").to_owned(), i["total"].as_i64().unwrap_or_default()))
            .collect();
        amounts.sort();
        amounts
    };
    let undisturbed = crate::setup().argument("--demo").argument("--demo-days=45").start_within(YEAR);
    let (one, other) = (sorted(&daemon), sorted(&undisturbed));
    assert_eq!(one.len(), other.len());
    // A proration depends on the second it is made in; everything else is the same to the cent.
    for (one, other) in one.iter().zip(&other) {
        assert!(one.0 == other.0 && (one.1 - other.1).abs() <= 2, "{one:?} {other:?}");
    }
}
