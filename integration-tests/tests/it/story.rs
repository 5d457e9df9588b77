//! The main job from end to end: the provider's official client makes a customer pay, and everything the seed
//! promises comes out of the running daemon. Then a webhook is lost on purpose, and reconciliation names it.

use std::{os::unix::fs::MetadataExt as _, time::Duration};

use integration_tests::{
    LONG, TestDaemon, command, hmac_hex, json_file, json_lines, modes, now_unix, peer, python, run_to_end, sha256, until,
};
use serde_json::{Value as Json, json};

use crate::setup;

const EMAIL: &str = "ada+books@example.com";
const AMOUNT: i64 = 12_345;

/// Runs `peers/story.py` against the daemon's sandbox; answers what it printed.
fn outside_client(daemon: &TestDaemon, arguments: &[&str]) -> Json {
    let mut python = python();
    python.arg(peer("story.py")).arg(daemon.sandbox()).args(arguments);
    run_to_end(python, LONG).json(0)
}

fn text(value: &Json) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not text")).to_owned()
}

/// Waits until an event of this type about this object was stored and processed.
fn processed(daemon: &TestDaemon, event_type: &str, object: &str) -> Json {
    until(&format!("{event_type} about {object} to be processed"), LONG, || {
        let list = daemon.get(&format!("/api/payments/webhooks?limit=100&type={event_type}")).ok();
        let found = list["webhooks"].as_array()?.iter().find(|w| w["object_id"] == object).cloned()?;
        assert_ne!(found["status"], "failed", "{found}");
        (found["status"] == "processed").then_some(found)
    })
}

/// Moves the sandbox's clock a day at a time until a payout is paid.
fn until_a_payout_is_paid(daemon: &TestDaemon, already: usize) -> Json {
    for _ in 0..14 {
        daemon.advance(86_400);
        let paid = daemon.provider("payouts?status=paid&limit=100");
        let list = paid["data"].as_array().expect("a list");
        if list.len() > already {
            return list[0].clone();
        }
    }
    panic!("two weeks passed and no payout was paid: {}", daemon.provider("payouts"));
}

#[test]
fn a_real_payment_goes_in_and_everything_the_seed_promises_comes_out() {
    let setup = setup();
    let configuration = "[server]\nmax_in_flight = 200\n";
    std::fs::write(setup.configs("echopilot.toml"), configuration).expect("a configuration file");
    let daemon = setup.start();

    let paid = outside_client(&daemon, &["pay", EMAIL, &AMOUNT.to_string(), "Six <b>books</b>"]);
    the_webhooks_arrive_signed_and_are_in_the_ledger(&daemon, &paid);
    let payout = until_a_payout_is_paid(&daemon, 0);
    assert_eq!((payout["automatic"].clone(), payout["amount"].clone()), (json!(true), paid["net"].clone()), "{payout}");
    daemon.settle();
    the_payout_is_matched_to_the_cent(&daemon, &payout);
    the_nightly_archive_is_byte_identical_and_a_second_run_changes_nothing(&daemon);
    the_service_level_is_judged_from_the_daemons_own_requests(&daemon);
    the_four_systems_are_checked(&daemon);
    gnu_tar_extracts_the_backup_and_the_contents_are_equal(&daemon, configuration);
    the_signed_link_opens_the_page_with_that_invoice(&daemon, &paid);
    the_last_payment_is_refunded_and_the_refunds_webhook_arrives(&daemon, &paid);
    a_lost_webhook_is_named(&daemon);

    let journal = daemon.cli(&["journal", "verify", "--json"]).json(0);
    assert_eq!(journal["ok"], true, "{journal}");
    daemon.stop();
}

fn the_webhooks_arrive_signed_and_are_in_the_ledger(daemon: &TestDaemon, paid: &Json) {
    let (invoice, charge) = (text(&paid["invoice"]), text(&paid["charge"]));
    let event = processed(daemon, "charge.succeeded", &charge);
    processed(daemon, "invoice.paid", &invoice);
    processed(daemon, "invoice.finalized", &invoice);
    let fields = ["event_id", "event_type", "created", "received_at", "livemode", "status", "attempts", "error", "object_id", "duplicates"];
    for field in fields {
        assert!(event.get(field).is_some(), "a webhook has {field}: {event}");
    }
    assert!(text(&event["event_id"]).starts_with("evt_") && text(&event["received_at"]).ends_with('Z'), "{event}");
    assert_eq!((&event["livemode"], &event["duplicates"], &event["error"]), (&json!(false), &json!(0), &Json::Null), "{event}");
    let row = format!("SELECT amount || ' ' || currency || ' ' || origin FROM ledger WHERE kind = 'charge' AND source = '{charge}'");
    assert_eq!(daemon.setup().column(&row), [format!("{AMOUNT} usd webhook")]);
    let journalled = format!("SELECT COUNT(*) FROM journal WHERE kind = 'webhook.received' AND subject = '{}'", text(&event["event_id"]));
    assert_eq!(daemon.setup().count(&journalled), 1);
}

fn the_payout_is_matched_to_the_cent(daemon: &TestDaemon, payout: &Json) {
    let report = daemon.task_result("payout_recon");
    let file = json_file(&daemon.setup().logs("payout_recon.json"));
    assert_eq!(file, report, "the file is the run's result");
    assert_eq!(file["schema"], "echopilot.payout_recon/1");
    assert_eq!((&file["ok"], &file["complete"]), (&json!(true), &json!(true)), "{file}");
    let summary = &file["summary"];
    assert_eq!(
        (&summary["matched"], &summary["amount_mismatch"], &summary["missing_in_ledger"], &summary["total"]),
        (&json!(1), &json!(0), &json!(0), &json!(1)),
        "{summary}"
    );
    let found = &file["payouts"][0];
    assert_eq!((&found["id"], &found["amount"]), (&payout["id"], &payout["amount"]), "{found}");
    assert_eq!((&found["status"], &found["residual"], &found["sum_net"]), (&json!("balanced"), &json!(0), &payout["amount"]), "{found}");
    assert_eq!(file["exceptions"], json!([]));
    let history = json_lines(&daemon.setup().logs("payout_recon.ndjson"));
    assert_eq!(history.last().map(|line| &line["run_id"]), Some(&file["run_id"]));
    let again = daemon.task_result("payout_recon");
    assert_eq!(again["recon_id"], report["recon_id"], "the same input gives the same reconciliation");
    let api = daemon.get("/api/recon/payouts").ok();
    assert!(api.to_string().contains(&text(&payout["id"])), "{api}");
}

fn the_nightly_archive_is_byte_identical_and_a_second_run_changes_nothing(daemon: &TestDaemon) {
    let record = daemon.task_result("payment_recon_nightly");
    for (field, expected) in [("ok", json!(true)), ("src", json!("logs/payout_recon.json")), ("exists", json!(true))] {
        assert_eq!(record[field], expected, "{record}");
    }
    let target = daemon.root().join(text(&record["dst"]));
    let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    assert!(name.starts_with("payout_recon_20") && name.len() == "payout_recon_2026-01-01.json".len(), "{name}");
    let source = std::fs::read(daemon.setup().logs("payout_recon.json")).expect("the report");
    assert_eq!(std::fs::read(&target).expect("the archive"), source);
    assert_eq!(record["sha256"], sha256(&source));
    assert_eq!(modes(&target), 0o600);
    let inode = std::fs::metadata(&target).expect("the archive").ino();
    let second = daemon.task_result("payment_recon_nightly");
    assert_eq!((&second["ok"], &second["unchanged"], &second["sha256"]), (&json!(true), &json!(true), &record["sha256"]), "{second}");
    assert_eq!(std::fs::metadata(&target).expect("the archive").ino(), inode, "the file was not touched");
    assert_eq!(std::fs::read_dir(daemon.setup().backups("payouts")).expect("the folder").count(), 1, "and nothing was added");
    let log = json_lines(&daemon.setup().logs("payment_recon_nightly.log"));
    assert_eq!(log.len(), 2);
    for field in ["ts", "ok", "src", "dst", "exists"] {
        assert!(log[0].get(field).is_some(), "seed phase 67 has {field}: {}", log[0]);
    }
}

fn the_service_level_is_judged_from_the_daemons_own_requests(daemon: &TestDaemon) {
    for _ in 0..30 {
        daemon.get("/api/payments/webhooks?limit=1").ok();
    }
    let status = daemon.get("/api/slo/status").ok();
    let monitor = daemon.task_result("slo_monitor");
    let file = json_file(&daemon.setup().logs("slo_status.json"));
    assert_eq!(file, monitor);
    for judged in [&status, &file] {
        assert_eq!((&judged["ok"], &judged["status"], &judged["breach"]), (&json!(true), &json!("PASS"), &json!(false)), "{judged}");
        assert!(text(&judged["ts_iso"]).ends_with('Z') && judged["details"].is_object(), "{judged}");
        assert!(judged["p95_ms"].as_f64().is_some_and(|ms| ms > 0.0 && ms < 1200.0), "{judged}");
        assert_eq!(judged["success_rate"].as_f64(), Some(1.0), "{judged}");
    }
    assert!(requests_counted(&status) >= 30, "more than the thirty requests just made: {status}");
    assert_eq!(json_lines(&daemon.setup().logs("slo_status.ndjson")).len(), 1);

    let guard = daemon.task_result("slo_guard");
    assert_eq!((&guard["status"], &guard["breach"]), (&json!("PASS"), &json!(false)), "{guard}");
    assert!(guard["verdict"]["n"].as_u64().is_some_and(|n| n >= 30), "{guard}");
    assert_eq!(json_file(&daemon.setup().logs("slo_report.json")), guard);
    assert_eq!(json_lines(&daemon.setup().logs("slo_report.ndjson")).len(), 1);
    until("the minutes to be in the store", Duration::from_secs(30), || {
        (daemon.setup().count("SELECT COALESCE(SUM(total), 0) FROM slo_minute") >= 30).then_some(())
    });
}

/// The number of requests behind a verdict, wherever the details keep it.
fn requests_counted(status: &Json) -> u64 {
    fn find(value: &Json) -> Option<u64> {
        match value {
            Json::Object(map) => ["n", "requests", "total"]
                .iter()
                .find_map(|name| map.get(*name).and_then(Json::as_u64))
                .or_else(|| map.values().find_map(find)),
            Json::Array(list) => list.iter().find_map(find),
            _ => None,
        }
    }
    find(&status["details"]).unwrap_or_default()
}

fn the_four_systems_are_checked(daemon: &TestDaemon) {
    let record = daemon.task_result("production_alerts");
    assert_eq!(json_file(&daemon.setup().logs("production_alerts.json")), record);
    let checked = record["checked"].as_array().expect("a list of checks");
    for system in ["api", "database", "jobs", "resources"] {
        let of_system: Vec<_> = checked.iter().filter(|check| check["system"] == system).collect();
        assert!(!of_system.is_empty(), "{system} is checked: {record}");
        for check in of_system {
            assert!(check["ok"].is_boolean() && !text(&check["reason"]).is_empty(), "a check says what it found: {check}");
        }
    }
    let database = checked.iter().find(|check| check["system"] == "database").expect("just seen");
    assert_eq!(database["ok"], true, "{database}");
    assert!(record["active"].is_array() && record["resolved"].is_array(), "{record}");
}

fn gnu_tar_extracts_the_backup_and_the_contents_are_equal(daemon: &TestDaemon, configuration: &str) {
    let record = daemon.task_result("daily_backup");
    for field in ["ok", "ts", "archive", "size_bytes", "size_mb", "run_id", "files", "reused_bytes", "sha256", "proof"] {
        assert!(record.get(field).is_some(), "a backup's record has {field}: {record}");
    }
    assert_eq!((&record["ok"], &record["proof"]["state"]), (&json!(true), &json!("passed")), "{record}");
    let archive = daemon.root().join(text(&record["archive"]));
    let bytes = std::fs::read(&archive).expect("the archive");
    assert_eq!((record["size_bytes"].as_u64(), record["sha256"].clone()), (Some(bytes.len() as u64), json!(sha256(&bytes))), "{record}");
    let log = json_lines(&daemon.setup().logs("backup_daily.log"));
    assert_eq!(log.last().map(|line| &line["sha256"]), Some(&record["sha256"]));

    let target = daemon.root().join("extracted");
    std::fs::create_dir(&target).expect("a directory");
    let mut version = command("tar");
    version.arg("--version");
    assert!(run_to_end(version, LONG).expect(0).contains("GNU tar"), "the tar on the path is GNU tar");
    let mut tar = command("tar");
    tar.arg("xzf").arg(&archive).arg("-C").arg(&target);
    run_to_end(tar, LONG).expect(0);
    let same = |name: &str| {
        assert_eq!(
            std::fs::read(target.join(name)).unwrap_or_else(|e| panic!("{name} is in the archive: {e}")),
            std::fs::read(daemon.root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}")),
            "{name}"
        );
    };
    same("logs/payout_recon.json");
    same("logs/payout_recon.ndjson");
    same("logs/slo_status.json");
    same("logs/payment_recon_nightly.log");
    same("configs/echopilot.toml");
    assert_eq!(std::fs::read_to_string(target.join("configs/echopilot.toml")).ok().as_deref(), Some(configuration));
    let payouts = std::fs::read_dir(daemon.setup().backups("payouts")).expect("the folder");
    for entry in payouts.flatten() {
        same(&format!("backups/payouts/{}", entry.file_name().to_string_lossy()));
    }
    let copy = rusqlite::Connection::open(target.join("database/echopilot.db")).expect("the copy opens");
    let integrity: String = copy.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("an answer");
    assert_eq!(integrity, "ok");
    let ledger: i64 = copy.query_row("SELECT COUNT(*) FROM ledger", [], |row| row.get(0)).expect("a count");
    assert_eq!(ledger, daemon.setup().count("SELECT COUNT(*) FROM ledger"));
    let whole = std::fs::read(target.join("database/echopilot.db")).expect("the copy");
    for secret in [daemon.key.as_str(), integration_tests::WEBHOOK_SECRET] {
        assert!(!contains(&whole, secret.as_bytes()), "no secret is in the archive");
    }

    let by_hand = daemon.post("/api/backup/run", &Json::Null).ok();
    for field in ["ok", "ts", "archive", "size_bytes", "size_mb", "run_id", "files", "reused_bytes", "sha256", "proof"] {
        assert!(by_hand.get(field).is_some(), "{by_hand}");
    }
    let size_mb = by_hand["size_bytes"].as_f64().expect("a size") / 1_048_576.0;
    assert!((by_hand["size_mb"].as_f64().expect("a size") - size_mb).abs() < 0.006, "{by_hand}");
    assert!(text(&by_hand["archive"]).starts_with("backups/daily/backup_20"), "{by_hand}");
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

fn the_signed_link_opens_the_page_with_that_invoice(daemon: &TestDaemon, paid: &Json) {
    let answer = daemon.get("/api/customer/signed-url/ada%2Bbooks@example.com").ok();
    assert_eq!(answer["email"], EMAIL, "{answer}");
    let (url, expires) = (text(&answer["signed_url"]), answer["expires"].as_i64().expect("Unix seconds"));
    assert!((expires - now_unix() - 86_400).abs() < 60, "24 hours: {answer}");
    assert!(text(&answer["expires_iso"]).ends_with('Z'), "{answer}");
    let signature = hmac_hex("portal-0123456789abcdef0123456789abcdef", format!("{EMAIL}:{expires}").as_bytes());
    assert!(url.starts_with(&format!("{}/portal?", daemon.url())), "{url}");
    assert!(url.contains("email=ada%2Bbooks%40example.com") && url.contains(&format!("sig={signature}")), "{url}");

    let page = daemon.request("GET", &url, &[], b"");
    assert_eq!(page.status, 200, "{}", page.text());
    let html = page.text();
    assert!(html.contains(&text(&paid["number"])) && html.contains("123.45"), "the page shows the invoice:\n{html}");
    assert!(!html.contains("<b>books") && html.contains("TEST MODE"), "it escapes, and says TEST MODE:\n{html}");
    assert_eq!(page.header("cache-control"), Some("no-store"));
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    assert!(page.header("content-security-policy").is_some_and(|policy| policy.contains("default-src 'none'")), "{:?}", page.headers);

    let invoices = daemon.get("/api/customer/invoices/ada%2Bbooks@example.com").ok();
    let invoice = &invoices["invoices"][0];
    assert_eq!((&invoices["email"], &invoice["id"], &invoice["number"]), (&json!(EMAIL), &paid["invoice"], &paid["number"]), "{invoices}");
    assert_eq!(
        (&invoice["status"], &invoice["amount_minor"], &invoice["amount"]),
        (&json!("paid"), &json!(AMOUNT), &json!("123.45")),
        "{invoices}"
    );

    let (other, _) = url.split_once("&sig=").expect("a signature");
    let wrong = daemon.request("GET", &format!("{other}&sig={}", "0".repeat(64)), &[], b"");
    let expired = now_unix() - 10;
    let old = hmac_hex("portal-0123456789abcdef0123456789abcdef", format!("{EMAIL}:{expired}").as_bytes());
    let expired = daemon.request("GET", &format!("/portal?email=ada%2Bbooks%40example.com&expires={expired}&sig={old}"), &[], b"");
    let missing = daemon.request("GET", "/portal", &[], b"");
    for refusal in [&wrong, &expired, &missing] {
        assert_eq!(refusal.status, 403, "{}", refusal.what);
        assert!(!refusal.text().contains(&text(&paid["number"])), "{}", refusal.what);
    }
    assert_eq!(wrong.body, missing.body, "one generic refusal");
}

fn the_last_payment_is_refunded_and_the_refunds_webhook_arrives(daemon: &TestDaemon, paid: &Json) {
    let charge = text(&paid["charge"]);
    let refund = daemon.post("/api/payments/refund-last", &json!({"expected_payment_id": charge})).ok();
    let expected = [
        ("payment_id", json!(charge)),
        ("amount_minor", json!(AMOUNT)),
        ("currency", json!("usd")),
        ("status", json!("succeeded")),
        ("replayed", json!(false)),
    ];
    for (field, value) in expected {
        assert_eq!(refund[field], value, "{refund}");
    }
    let refund_id = text(&refund["refund_id"]);
    processed(daemon, "refund.created", &refund_id);
    processed(daemon, "charge.refunded", &charge);
    let row = format!("SELECT amount || ' ' || currency FROM ledger WHERE kind = 'refund' AND source = '{refund_id}'");
    assert_eq!(daemon.setup().column(&row), [format!("-{AMOUNT} usd")]);
    let log = json_lines(&daemon.setup().logs("refunds.log"));
    assert!(log.iter().any(|line| line["refund_id"] == refund_id), "{log:?}");
    let provider = daemon.provider(&format!("charges/{charge}"));
    assert_eq!((&provider["refunded"], &provider["amount_refunded"]), (&json!(true), &json!(AMOUNT)));
    let invoices = daemon.get("/api/customer/invoices/ada%2Bbooks@example.com").ok();
    assert_eq!(invoices["invoices"][0]["refunded_minor"], AMOUNT, "{invoices}");
    daemon.post("/api/payments/refund-last", &Json::Null).problem(409, "conflict");
}

fn a_lost_webhook_is_named(daemon: &TestDaemon) {
    let state = daemon.chaos(&json!({"drop_webhook": 1}));
    assert_eq!(state["drop_webhook"].as_f64(), Some(1.0), "{state}");
    let lost = outside_client(daemon, &["pay", "grace@example.com", "77000"]);
    let charge = text(&lost["charge"]);
    let unsettled = daemon.task_result("payout_recon");
    assert_named(&unsettled, &charge, "before the payout");
    daemon.chaos(&json!({"drop_webhook": 0}));
    daemon.settle();
    let payout = until_a_payout_is_paid(daemon, 1);
    daemon.settle();
    let report = daemon.task_result("payout_recon");
    assert_named(&report, &charge, "in the payout");
    assert_eq!(report["ok"], false, "{report}");
    let found = report["payouts"].as_array().and_then(|list| list.iter().find(|p| p["id"] == payout["id"])).expect("the payout");
    assert_eq!(found["residual"], 0, "the provider's own numbers still add up: {found}");
    let stored = format!("SELECT COUNT(*) FROM webhook_event WHERE body LIKE '%{charge}%'");
    assert_eq!(daemon.setup().count(&stored), 0, "the webhook really was lost");
    let exceptions = daemon.get("/api/recon/exceptions").ok();
    assert!(exceptions.to_string().contains(&charge), "{exceptions}");
}

fn assert_named(report: &Json, charge: &str, when: &str) {
    let named: Vec<_> = report["exceptions"].as_array().expect("a list").iter().filter(|e| e["source_id"] == charge).collect();
    assert_eq!(named.len(), 1, "{when}: {report}");
    assert_eq!(named[0]["kind"], "missing_in_ledger", "{when}: {}", named[0]);
    assert_eq!(report["summary"]["missing_in_ledger"], 1, "{when}: {}", report["summary"]);
}

#[test]
fn the_official_client_verifies_every_event_that_the_sandbox_sends() {
    let daemon = setup().start();
    let received = outside_client(&daemon, &["receive", "8", "verify@example.com"]);
    assert_eq!(received["refused"], json!([]), "{received}");
    let accepted = received["accepted"].as_array().expect("a list");
    assert!(accepted.len() >= 8, "{received}");
    for event in accepted {
        let id = text(&event["id"]);
        let stored = until(&format!("{id} to reach the daemon too"), LONG, || daemon.webhook(&id));
        assert_eq!(stored["event_type"], event["type"], "{stored}");
    }
}
