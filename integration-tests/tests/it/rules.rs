//! The rules of alerts from outside: each says what to do, a file changes and adds them, they are judged on what is measured, and
//! replayed on what was recorded, with and without a daemon.

use integration_tests::{SHORT, until};
use serde_json::{Value as Json, json};

use crate::setup;

fn active(record: &Json) -> Vec<String> {
    let mut names: Vec<_> =
        record["active"].as_array().into_iter().flatten().filter_map(|a| a["name"].as_str()).map(str::to_owned).collect();
    names.sort();
    names
}

#[test]
fn every_rule_has_an_owner_a_runbook_and_its_causes() {
    let daemon = setup().start();
    let rules = daemon.get("/api/rules").ok();
    let rule = |name: &str| rules["rules"].as_array().expect("a list").iter().find(|r| r["name"] == name).cloned().expect("it is there");
    for expected in [
        "api_errors",
        "api_latency",
        "database_connect",
        "database_latency",
        "jobs_failed",
        "jobs_stuck",
        "cpu",
        "memory",
        "disk",
        "webhook_failures",
        "payment_errors",
        "revenue_drop",
        "slo_burn",
        "recon_exceptions",
        "payout_*",
        "part_*",
        "jobs_overdue",
        "backup*",
        "clock_skew",
        "certificate",
        "journal_broken",
        "probe",
        "push",
        "delivery",
    ] {
        let rule = rule(expected);
        for member in ["what", "owner", "runbook", "severity", "component", "system"] {
            assert!(rule[member].as_str().is_some_and(|text| !text.is_empty()), "{expected} has {member}: {rule}");
        }
    }
    assert_eq!(
        (&rule("webhook_failures")["above"], &rule("payment_errors")["above"], &rule("revenue_drop")["below"]),
        (&json!(3.0), &json!(5.0), &json!(-30.0))
    );
    assert!(rule("recon_exceptions")["causes"].as_array().is_some_and(|c| c.contains(&json!("database")) && c.contains(&json!("disk"))));
}

#[test]
fn a_file_changes_rules_and_adds_some_and_what_is_wrong_in_it_is_named() {
    let setup = setup();
    std::fs::create_dir_all(setup.configs("")).expect("a folder");
    let file = setup.configs("alerts.toml");
    for (text, expected) in [
        ("[rules.disk]\nabvoe = 3\n", "unknown field `abvoe`"),
        (
            "[rules.mine]\nsystem = \"own\"\nfigure = \"cpu_percent\"\nwhat = \"w\"\nowner = \"o\"\nrunbook = \"r\"\n",
            "a figure needs one of above",
        ),
        ("[rules.disk]\nabove = \"alert.wran_percent\"\n", "there is no setting alert.wran_percent"),
        ("[causes]\ndisk = [\"database\"]\n", "is a cause of itself"),
    ] {
        std::fs::write(&file, text).expect("written");
        let refused = setup.start_refused();
        assert!(refused.stderr.contains(expected) && refused.stderr.contains("alerts.toml"), "{text}: {}", refused.stderr);
    }
    std::fs::write(
        &file,
        "[rules.cpu]\noff = true\n[rules.waiting]\nsystem = \"own\"\nseverity = \"info\"\nfigure = \"webhooks_waiting\"\nunit = \"events\"\nat_least = 0\nwhat = \"always so\"\nowner = \"Me.\"\nrunbook = \"Nothing.\"\n",
    )
    .expect("written");
    let daemon = setup.start();
    let record = daemon.run_task("production_alerts");
    assert!(active(&record["result"]).contains(&"waiting".to_owned()), "{record}");
    let checked = record["result"]["checked"].as_array().expect("a list").clone();
    assert!(checked.iter().all(|c| c["name"] != "cpu") && checked.iter().any(|c| c["name"] == "memory"), "{record}");
}

/// Rows as a business in trouble has them, in numbers just beyond the limits.
fn trouble(database: &rusqlite::Connection) {
    let (now, micros) = (integration_tests::now_unix(), 1_000_000);
    let midnight = now - now % 86_400;
    let event = |n: i64, kind: &str| {
        let row = "INSERT INTO webhook_event (event_id, event_type, created, livemode, received_at, status, origin, body, processed_at)
            VALUES (?1, ?2, ?3, 0, ?4, 'processed', 'webhook', '{}', ?4)";
        database.execute(row, rusqlite::params![format!("evt_{n}"), kind, now - 60, now * micros]).expect("an event");
    };
    (0..17).for_each(|n| event(n, "charge.succeeded"));
    (17..20).for_each(|n| event(n, "charge.failed"));
    let charge = |n: i64, amount: i64, at: i64| {
        let row = "INSERT INTO ledger (id, provider, livemode, kind, source, seq, amount, currency, at, origin, recorded_at)
            VALUES (?1, 'stripe', 0, 'charge', ?1, 1, ?2, 'eur', ?3, 'webhook', ?4)";
        database.execute(row, rusqlite::params![format!("ch_{n}"), amount, at, now * micros]).expect("a row of the ledger");
    };
    (0..10).for_each(|n| charge(n, 1000, midnight - 2 * 86_400 + n));
    (10..16).for_each(|n| charge(n, 1100, midnight - 86_400 + n)); // 66.00 after 100.00 EUR
    let run = |n: i64, task: &str, state: &str, hours_ago: i64| {
        let row = "INSERT INTO task_run (n, run_id, task, slot, cause, state, incarnation, started_at, ended_at)
            VALUES (?1, ?2, ?3, ?4, 'schedule', ?5, 'another', ?4, ?6)";
        let at = (now - hours_ago * 3600 - n) * micros;
        let ended = (state != "running").then_some(at + micros);
        database.execute(row, rusqlite::params![n, format!("run_{n}"), task, at, state, ended]).expect("a run");
    };
    (1000..1003).for_each(|n| run(n, "payout_recon", "failed", 0));
    run(1003, "payout_recon", "missed", 0);
    run(1004, "daily_backup", "running", 40);
    run(0, "slo_monitor", "succeeded", 24 * 9); // the first of all: so long no backup was proven
}

#[test]
fn a_business_in_trouble_raises_each_rule_that_is_made_for_it_and_a_healthy_one_none() {
    let daemon = setup().start();
    let named = ["backup_age", "jobs_failed", "jobs_overdue", "jobs_stuck", "payment_errors", "revenue_drop"];
    let raised = |record: &Json| active(&record["result"]).into_iter().filter(|name| named.contains(&name.as_str())).collect::<Vec<_>>();
    let healthy = daemon.run_task("production_alerts");
    assert_eq!(raised(&healthy), Vec::<String>::new(), "{healthy}");
    trouble(&rusqlite::Connection::open(daemon.setup().data("echopilot.db")).expect("the database"));
    let record = daemon.run_task("production_alerts");
    assert_eq!(raised(&record), named, "{record}");
    let reason = |name: &str| {
        let found = record["result"]["active"].as_array().into_iter().flatten().find(|a| a["name"] == name).cloned();
        found.map(|a| a["reason"].to_string()).unwrap_or_default()
    };
    assert!(reason("payment_errors").contains("3 of 20 payments failed"), "{}", reason("payment_errors"));
    assert!(reason("revenue_drop").contains("(-34 %)"), "{}", reason("revenue_drop"));
}

#[test]
fn webhooks_that_fail_and_a_journal_that_was_changed_are_alerts() {
    let daemon = setup().start();
    daemon.run_task("production_alerts");
    for n in 0..4 {
        // Authentic, and not what it says it is: it cannot be applied.
        let event = json!({"id": format!("evt_broken_{n}"), "object": "event", "type": "charge.succeeded", "created": integration_tests::now_unix(), "livemode": false,
            "data": {"object": {"id": format!("ch_{n}"), "object": "charge", "amount": "many"}}});
        assert_eq!(daemon.deliver(&event).status, 200);
    }
    until("they failed", SHORT, || {
        (daemon.setup().count("SELECT COUNT(*) FROM webhook_event WHERE failed_at IS NOT NULL") == 4).then_some(())
    });
    let record = daemon.run_task("production_alerts");
    assert!(active(&record["result"]).contains(&"webhook_failures".to_owned()), "{record}");
    assert!(!active(&record["result"]).contains(&"journal_broken".to_owned()), "{record}");

    let setup = daemon.stop();
    let database = rusqlite::Connection::open(setup.data("echopilot.db")).expect("the database");
    database.execute("UPDATE journal SET data = '{\"changed\":1}' WHERE seq = (SELECT MAX(seq) FROM journal)", []).expect("changed");
    drop(database);
    let daemon = setup.start();
    let record = daemon.run_task("production_alerts");
    assert!(active(&record["result"]).contains(&"journal_broken".to_owned()), "{record}");
}

#[test]
fn rules_are_replayed_on_what_was_recorded_with_and_without_a_daemon() {
    let daemon = setup().start();
    let empty = daemon.cli(&["alerts", "replay"]);
    assert!(empty.code != Some(0) && empty.stderr.contains("nothing was recorded"), "{} {}", empty.stdout, empty.stderr);
    daemon.run_task("production_alerts");
    daemon.run_task("production_alerts");
    let rules = daemon.root().join("rules.toml");
    std::fs::write(&rules, "[rules.memory]\nabove = 0\ncritical_above = 100\n").expect("written");
    let rules = rules.to_str().expect("a path").to_owned();
    let asked = ["alerts", "replay", "--rules", &rules, "--since", "1d", "--json"];
    let (one, two) = (daemon.cli(&asked).json(0), daemon.cli(&asked).json(0));
    assert_eq!(one["episodes"], two["episodes"]);
    let names: Vec<_> = one["episodes"].as_array().expect("a list").iter().filter_map(|e| e["name"].as_str()).collect();
    assert!(names.contains(&"memory"), "{one}");
    assert!(
        daemon.get("/api/alerts").ok()["alerts"].as_array().expect("a list").iter().all(|a| a["name"] != "memory"),
        "nothing was raised"
    );
    let text = daemon.cli(&asked[..6]);
    assert!(text.expect(0).contains("2 observations") && text.stdout.contains("memory"), "{}", text.stdout);
    let wrong = daemon.post("/api/rules/replay", &json!({"rules": "[rules.memory]\nabvoe = 1\n"}));
    assert_eq!(wrong.problem(422, "invalid")["field"], "rules");
    daemon.post("/api/rules/replay", &json!({"since": "yesterday"})).problem(422, "invalid");

    let setup = daemon.stop();
    let offline = setup.cli(&asked).json(0);
    assert_eq!(offline["episodes"], one["episodes"], "the same without a daemon");
}
