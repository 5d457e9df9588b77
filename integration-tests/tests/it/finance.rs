//! Invoices, payments and the balance in the real program: what agrees is quiet, what does not is an exception, and payouts that go wrong
//! are told while they do.

use std::collections::BTreeSet;

use integration_tests::{LONG, SHORT, TestDaemon, json_file, json_lines, until};
use serde_json::{Value as Json, json};

use crate::setup;

const DAY: i64 = 86_400;

fn id(object: &Json) -> String {
    object["id"].as_str().unwrap_or_else(|| panic!("no id: {object}")).to_owned()
}

fn customer(daemon: &TestDaemon, email: &str) -> String {
    let id = id(&daemon.provider_post("customers", &[("email", email)]).expect(200));
    let card = self::id(&daemon.provider_post("payment_methods/pm_card_visa/attach", &[("customer", &id)]).expect(200));
    daemon.provider_post(&format!("customers/{id}"), &[("invoice_settings[default_payment_method]", &card)]).expect(200);
    id
}

/// An invoice that is open and due in a day.
fn invoice(daemon: &TestDaemon, customer: &str, amount: &str, currency: &str) -> String {
    let terms = [("customer", customer), ("currency", currency), ("collection_method", "send_invoice"), ("days_until_due", "1")];
    let invoice = id(&daemon.provider_post("invoices", &terms).expect(200));
    let item = [("customer", customer), ("invoice", &invoice), ("amount", amount), ("currency", currency)];
    daemon.provider_post("invoiceitems", &item).expect(200);
    daemon.provider_post(&format!("invoices/{invoice}/finalize"), &[]).expect(200);
    invoice
}

/// A paid invoice and its charge.
fn sale(daemon: &TestDaemon, customer: &str, amount: &str, currency: &str) -> (String, String) {
    let invoice = invoice(daemon, customer, amount, currency);
    daemon.provider_post(&format!("invoices/{invoice}/pay"), &[]).expect(200);
    (invoice, id(&daemon.provider("charges?limit=1")["data"][0]))
}

fn dispute(daemon: &TestDaemon, charge: &str, outcome: &str) {
    let url = format!("{}/_control/dispute", daemon.sandbox());
    let body = json!({"charge": charge, "outcome": outcome}).to_string();
    daemon.request("POST", &url, &[("content-type", "application/json")], body.as_bytes()).expect(200);
}

/// (kind, invoice) of every exception.
fn found(report: &Json) -> BTreeSet<(&str, &str)> {
    let list = report["exceptions"].as_array().unwrap_or_else(|| panic!("no exceptions in {report}"));
    list.iter().map(|e| (e["kind"].as_str().unwrap_or_default(), e["invoice_id"].as_str().unwrap_or_default())).collect()
}

fn assert_no_drift(report: &Json) {
    assert_eq!(report["complete"], true, "{report}");
    for balance in report["balances"].as_array().expect("a list") {
        assert_eq!(balance["drift"], 0, "{balance}");
    }
}

#[test]
fn invoices_and_payments_end_in_one_state_each_and_the_balance_has_no_drift() {
    let daemon = setup().start();
    daemon.get("/api/recon/finance").problem(404, "not_found");
    let (ann, bob) = (customer(&daemon, "ann@example.com"), customer(&daemon, "bob@example.com"));
    let sales: Vec<_> = [("4900", "usd"), ("1900", "usd"), ("12900", "usd")].map(|(amount, c)| sale(&daemon, &ann, amount, c)).into();
    let euro = sale(&daemon, &bob, "3000", "eur");
    let forgotten = invoice(&daemon, &bob, "700", "eur");
    let outside = invoice(&daemon, &bob, "800", "eur");
    daemon.provider_post(&format!("invoices/{outside}/pay"), &[("paid_out_of_band", "true")]).expect(200);
    daemon.provider_post("refunds", &[("charge", &sales[0].1), ("amount", "900")]).expect(200);
    dispute(&daemon, &sales[1].1, "open");
    dispute(&daemon, &euro.1, "won");
    daemon.chaos(&json!({"payout_fail": 1}));
    for _ in 0..4 {
        daemon.advance(DAY);
    }
    daemon.settle();
    let report = daemon.task_result("finance_reconcile");
    let expected = [("refunded_but_paid", &*sales[0].0), ("disputed_paid", &*sales[1].0), ("open_past_due", &*forgotten)];
    assert_eq!(found(&report), expected.into(), "{report}");
    assert_no_drift(&report);
    let states = &report["summary"]["invoices"];
    for (state, count) in [("total", 6), ("settled", 2), ("refunded", 1), ("disputed", 1), ("open_past_due", 1), ("settled_elsewhere", 1)] {
        assert_eq!(states[state], count, "{state}: {states}");
    }
    assert_eq!((&report["summary"]["payments"]["matched"], &report["summary"]["payments"]["total"]), (&json!(3), &json!(4)), "{report}");
    let total = |currency: &str| report["totals"].as_array().and_then(|t| t.iter().find(|t| t["currency"] == currency)).cloned();
    let (usd, eur) = (total("usd").expect("dollars"), total("eur").expect("euros"));
    let (collected, refunded, disputed) = (json!(19_700), json!(900), json!(1900));
    assert_eq!((&usd["collected"], &usd["refunded"], &usd["disputed"]), (&collected, &refunded, &disputed), "{usd}");
    assert_eq!((&eur["invoiced"], &eur["outstanding"], &eur["aging"]["0-30"]), (&json!(4500), &json!(700), &json!(700)), "{eur}");
    let file = json_file(&daemon.setup().logs("finance_reconcile.json"));
    assert_eq!(file, report, "the file is the run's result");
    assert_eq!((&file["schema"], file["recon_id"].as_str().map(str::len)), (&json!("echopilot.finance_reconcile/1"), Some(21)));
    assert_eq!(json_lines(&daemon.setup().logs("finance_reconcile.ndjson")).len(), 1);
    assert_eq!(daemon.get("/api/recon/finance").expect(200), report);

    // One list shows the exceptions of both reconciliations, and a person decides about them alike.
    let listed = daemon.get("/api/recon/exceptions?scope=finance&status=open").ok();
    assert_eq!(listed["count"], 3, "{listed}");
    let one =
        listed["exceptions"].as_array().and_then(|l| l.iter().find(|e| e["kind"] == "refunded_but_paid")).expect("it is listed").clone();
    assert_eq!((&one["severity"], &one["at_risk_minor"], &one["charge_id"]), (&json!("low"), &json!(900), &json!(sales[0].1)), "{one}");
    let path = format!("/api/recon/exceptions/{}/resolve", id(&one));
    daemon.post(&path, &json!({"reason": "a credit note is written"})).ok();

    // Paid after all: the exception resolves by itself; a webhook that never came is named and is no drift.
    daemon.provider_post(&format!("invoices/{forgotten}/pay"), &[]).expect(200);
    daemon.chaos(&json!({"drop_webhook": 1.0}));
    let (lost, _) = sale(&daemon, &ann, "5000", "usd");
    daemon.chaos(&json!({"drop_webhook": 0.0}));
    daemon.advance(1000);
    daemon.settle();
    let report = daemon.task_result("finance_reconcile");
    let expected =
        [("refunded_but_paid", &*sales[0].0), ("disputed_paid", &*sales[1].0), ("missing_in_ledger", &*lost), ("status_mismatch", &*lost)];
    assert_eq!(found(&report), expected.into(), "{report}");
    assert_no_drift(&report);
    let resolved = daemon.get("/api/recon/exceptions?scope=finance&status=auto_resolved").ok();
    assert_eq!((&resolved["count"], &resolved["exceptions"][0]["kind"]), (&json!(1), &json!("open_past_due")), "{resolved}");
    let stays = daemon.get("/api/recon/exceptions?scope=finance&status=resolved").ok();
    assert_eq!(stays["exceptions"][0]["id"], one["id"], "what a person decided stays decided: {stays}");
    daemon.cli(&["journal", "verify"]).expect(0);
}

#[test]
fn a_payout_that_the_bank_returns_is_told_and_over_when_its_money_has_arrived() {
    let daemon = setup().schedule().env("ECHOPILOT__RECON__WATCH_EVERY_S", "1").start();
    let (invoice, _) = sale(&daemon, &customer(&daemon, "ann@example.com"), "10000", "usd");
    let watch = |what: &str, holds: &dyn Fn(&Json) -> bool| {
        until(what, LONG, || {
            let answer = daemon.get("/api/recon/watch");
            let seen = (answer.status == 200).then(|| answer.json())?;
            (seen["complete"] == true && holds(&seen)).then_some(seen)
        })
    };
    let seen = watch("the payout to be foreseen", &|seen| seen["expected"][0]["amount"] == 9680);
    assert_eq!((&seen["ok"], &seen["problems"], &seen["expected"][0]["payout"]), (&json!(true), &json!([]), &Json::Null), "{seen}");
    assert!(seen.get("memory").is_none() && invoice.starts_with("in_"));
    daemon.chaos(&json!({"payout_fail": 1}));
    daemon.advance(3 * DAY);
    let payouts = daemon.provider("payouts");
    let failed = payouts["data"].as_array().and_then(|l| l.iter().find(|p| p["status"] == "failed")).expect("a failed payout").clone();
    let seen = watch("the failed payout to be seen", &|seen| seen["problems"][0]["kind"] == "failed");
    assert_eq!((&seen["problems"][0]["payout"], &seen["ok"]), (&failed["id"], &json!(false)), "{seen}");
    let name = format!("payout_failed_{}", id(&failed));
    let alert = |state: &str| {
        let sql = format!("SELECT body FROM alert WHERE name = '{name}' AND state = '{state}'");
        until(&format!("{name} to be {state}"), SHORT, || daemon.setup().column(&sql).first().cloned())
    };
    let fired = alert("firing");
    assert!(fired.contains("over 96.80 USD failed: The bank account has been closed (account_closed)"), "{fired}");
    daemon.advance(3 * DAY);
    watch("the money to have arrived", &|seen| seen["ok"] == true);
    alert("resolved");
}

#[test]
fn the_demo_has_only_findings_that_are_true() {
    let daemon = setup().argument("--demo").argument("--demo-days").argument("60").start();
    daemon.settle();
    let report = daemon.task_result("finance_reconcile");
    // The balance differs by what was planted in it, and says so.
    let planted = daemon.setup().column("SELECT value FROM meta WHERE key = 'demo.planted'").remove(0);
    let of_kind = |kind: &'static str| report["exceptions"].as_array().expect("a list").iter().filter(move |e| e["kind"] == kind);
    for drift in of_kind("balance_drift") {
        for evidence in drift["evidence"].as_array().expect("a list").iter().filter_map(|e| e["field"].as_str()) {
            let source = evidence.split_whitespace().last().expect("a source");
            assert!(planted.contains(source), "{source} was not planted: {drift}");
        }
    }
    assert!(of_kind("balance_drift").count() <= 2, "{report}");
    let invoices = daemon.provider("invoices?status=open&limit=100");
    let open: BTreeSet<String> = invoices["data"].as_array().expect("a list").iter().map(id).collect();
    let refunded = daemon.provider("refunds?limit=100")["data"].as_array().expect("a list").len();
    let of =
        |kind: &str| found(&report).into_iter().filter(|(k, _)| *k == kind).map(|(_, invoice)| invoice.to_owned()).collect::<BTreeSet<_>>();
    assert!(of("refunded_but_paid").len() <= refunded, "{report}");
    let disputed = daemon.provider("disputes?limit=100")["data"].as_array().expect("a list").len();
    assert!(of("disputed_paid").len() <= disputed, "{report}");
    assert!(of("open_past_due").is_subset(&open), "{report}");
    let other: Vec<_> = found(&report)
        .into_iter()
        .filter(|(kind, _)| !["refunded_but_paid", "open_past_due", "disputed_paid", "balance_drift", "missing_in_ledger"].contains(kind))
        .collect();
    assert_eq!(other, [], "{report}");
}

#[test]
fn a_payout_that_the_provider_has_listed_is_reconciled_without_waiting_for_the_schedule() {
    let daemon = setup().schedule().env("ECHOPILOT__RECON__WATCH_EVERY_S", "1").env("ECHOPILOT__CANARY__MODE", "off").start();
    let ann = customer(&daemon, "ann@example.com");
    sale(&daemon, &ann, "4900", "usd");
    for _ in 0..5 {
        daemon.advance(86_400);
    }
    until("a reconciliation that nobody asked for", LONG, || {
        let runs = daemon.get("/api/tasks/payout_recon/runs?state=succeeded").ok();
        let prompted =
            runs["runs"].as_array().expect("a list").iter().any(|r| r["asked_by"].as_str().is_some_and(|by| by.starts_with("recon")));
        let report = daemon.get("/api/recon/payouts");
        (prompted && report.status == 200 && report.json()["summary"]["matched"] == 1).then_some(())
    });
}
