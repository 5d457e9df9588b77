//! The command line: each command with a running daemon, which it asks, and without one, when it does the work itself under the same
//! locks. `journal verify` names what somebody did to the database behind the program's back.

use integration_tests::{Output, SHORT, Setup, hmac_hex, json_lines, now_unix, until, yesterday};
use serde_json::{Value as Json, json};

use crate::{ingest::charge_event, setup};

/// Runs a command and answers its `--json` output after exit code 0.
#[track_caller]
fn said(setup: &Setup, arguments: &[&str]) -> Json {
    let mut all = arguments.to_vec();
    all.push("--json");
    setup.cli(&all).json(0)
}

/// The list in an answer, wherever it is: the answer itself or its member of that name.
fn list<'a>(value: &'a Json, name: &str) -> &'a Vec<Json> {
    value.as_array().or_else(|| value[name].as_array()).unwrap_or_else(|| panic!("no list {name} in {value}"))
}

/// A setup whose daemon has done a little and stopped.
fn after_some_work() -> Setup {
    let daemon = setup().start();
    for n in 0..12 {
        daemon.deliver(&charge_event(&format!("evt_cli_{n}"), &format!("ch_cli_{n}"), 100)).ok();
    }
    daemon.settle();
    daemon.task_result("heartbeat");
    daemon.stop()
}

#[test]
fn check_says_what_would_fail_before_it_does() {
    let setup = setup();
    let fine = setup.cli(&["check"]);
    fine.expect(0);
    assert!(!fine.stdout.trim().is_empty());
    let bad = self::setup().env("ECHOPILOT__SLO__P95_SM", "5").cli(&["check"]);
    assert_eq!(bad.code, Some(78), "{}", bad.stderr);
    assert!(format!("{}{}", bad.stdout, bad.stderr).contains("did you mean slo.p95_ms?"), "{}{}", bad.stdout, bad.stderr);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let busy = self::setup().env("ECHOPILOT__SERVER__LISTEN", &address).cli(&["check"]);
    assert!(busy.code.is_some_and(|code| code != 0), "{}", busy.stdout);
    assert!(format!("{}{}", busy.stdout, busy.stderr).contains(&address), "{}{}", busy.stdout, busy.stderr);
}

#[test]
fn wrong_usage_is_2_and_help_names_every_command() {
    let setup = setup();
    setup.cli(&["frobnicate"]).expect(2);
    setup.cli(&["task"]).expect(2);
    let help = setup.cli(&["--help"]);
    for command in [
        "run",
        "check",
        "actor",
        "task",
        "backup",
        "portal-link",
        "status",
        "journal",
        "keys",
        "webhooks",
        "ledger",
        "reconcile",
        "exceptions",
        "slo",
        "sandbox",
    ] {
        assert!(help.expect(0).lines().any(|line| line.trim_start().starts_with(command)), "{command} is in:\n{}", help.stdout);
    }
}

#[test]
fn tasks_are_listed_and_run_with_and_without_a_daemon() {
    let setup = setup();
    let tasks = said(&setup, &["task", "list"]);
    assert_eq!(list(&tasks, "tasks").len(), 23, "{tasks}");
    let planned = list(&tasks, "tasks").iter().filter(|task| task.to_string().contains("\"planned\"")).count();
    assert_eq!(planned, 9, "{tasks}");
    let plain = setup.cli(&["task", "list"]);
    assert!(plain.expect(0).contains("payout_recon") && !plain.stdout.contains('\u{1b}'), "a table without colours:\n{}", plain.stdout);

    setup.cli(&["task", "run", "heartbeat"]).expect(0);
    assert_eq!(json_lines_or_one(&setup, "heartbeat"), "true");
    let refused = setup.cli(&["task", "run", "ceo_brief"]);
    assert!(refused.code.is_some_and(|code| code != 0) && refused.stderr.contains("planned"), "{} {}", refused.stdout, refused.stderr);
    assert!(setup.cli(&["task", "run", "no_such_task"]).code.is_some_and(|code| code != 0));
    assert_eq!(setup.count("SELECT COUNT(*) FROM task_run WHERE task = 'heartbeat' AND cause = 'manual' AND state = 'succeeded'"), 1);

    let daemon = setup.start();
    let run = said(daemon.setup(), &["task", "run", "slo_monitor"]);
    assert!(run.to_string().contains("NO_DATA") || run.to_string().contains("succeeded"), "{run}");
    assert_eq!(json_lines(&daemon.setup().logs("slo_status.ndjson")).len(), 1);
    assert_eq!(list(&said(daemon.setup(), &["task", "list"]), "tasks").len(), 23);
    let status = said(daemon.setup(), &["status"]);
    for part in ["timer", "ingest", "gateway", "heartbeat"] {
        assert!(status.to_string().contains(&format!("\"{part}\"")), "{part} is in {status}");
    }
    assert!(daemon.cli(&["status"]).expect(0).contains("running"));
}

#[test]
fn a_task_is_paused_shown_and_resumed_with_and_without_a_daemon() {
    let setup = setup();
    let exercise = |setup: &Setup| {
        let paused = said(setup, &["task", "pause", "heartbeat", "--reason", "a move", "--until", "2h"]);
        assert_eq!((&paused["paused"]["why"], paused["paused"]["until"].is_string()), (&json!("a move"), true), "{paused}");
        let told = setup.cli(&["task", "show", "heartbeat"]);
        assert!(told.expect(0).contains("paused") && told.stdout.contains("a move"), "{}", told.stdout);
        let resumed = said(setup, &["task", "resume", "heartbeat"]);
        assert_eq!(resumed["paused"], Json::Null, "{resumed}");
        let refused = setup.cli(&["task", "resume", "heartbeat"]);
        assert!(refused.code.is_some_and(|code| code != 0) && refused.stderr.contains("not paused"), "{}", refused.stderr);
        let planned = setup.cli(&["task", "pause", "ceo_brief"]);
        assert!(planned.code.is_some_and(|code| code != 0) && planned.stderr.contains("planned"), "{}", planned.stderr);
        let nobody = setup.cli(&["task", "pause", "no_such_task"]);
        assert!(nobody.code.is_some_and(|code| code != 0) && nobody.stderr.contains("no_such_task"), "{}", nobody.stderr);
        let late = setup.cli(&["task", "pause", "heartbeat", "--until", "2020-01-01"]);
        assert!(late.code.is_some_and(|code| code != 0) && late.stderr.contains("until"), "{}", late.stderr);
        let soon = setup.cli(&["task", "pause", "heartbeat", "--until", "soon"]);
        soon.expect(2);
        assert!(soon.stderr.contains("--until") && soon.stderr.contains("2h"), "{}", soon.stderr);
    };
    exercise(&setup);
    let daemon = setup.start();
    exercise(daemon.setup());
    said(daemon.setup(), &["task", "pause", "heartbeat"]);
    let setup = daemon.stop();
    assert_eq!(setup.count("SELECT COUNT(*) FROM task_pause"), 1, "a pause outlives the daemon");
}

#[test]
fn slots_of_the_past_are_made_up_for_and_the_level_counts_them_with_and_without_a_daemon() {
    let setup = setup();
    let backfill = |setup: &Setup, from: i64, more: &[&str]| {
        let (from, to) = (yesterday(from), yesterday(from + 150));
        let mut arguments = vec!["task", "backfill", "heartbeat", "--from", &*from, "--to", &*to];
        arguments.extend(more);
        said(setup, &arguments)
    };
    let made_up = |setup: &Setup| setup.count("SELECT COUNT(*) FROM task_run WHERE cause = 'backfill' AND state = 'succeeded'");
    let preview = backfill(&setup, 30, &["--dry-run"]);
    assert_eq!((&preview["slots"], &preview["queued"], &preview["dry_run"]), (&json!(3), &json!(3), &json!(true)), "{preview}");
    assert_eq!(setup.count("SELECT COUNT(*) FROM task_run"), 0, "a dry run queues nothing");
    assert_eq!(backfill(&setup, 30, &[])["queued"], 3);
    assert_eq!(made_up(&setup), 3, "without a daemon they have run when the command ends");
    let wrong = setup.cli(&["task", "backfill", "heartbeat", "--from", "2026-03-02", "--to", "2026-03-01"]);
    assert!(wrong.code.is_some_and(|code| code != 0) && wrong.stderr.contains("from <= to"), "{}", wrong.stderr);
    setup.cli(&["task", "backfill", "heartbeat", "--from", "2026-03-02"]).expect(2);
    assert_eq!(said(&setup, &["task", "level", "--hours", "1"])["status"], "NO_DATA");

    let daemon = setup.start();
    assert_eq!(backfill(daemon.setup(), 30, &["--redo-failed"])["kept"], 3);
    assert_eq!(backfill(daemon.setup(), 630, &[])["queued"], 3);
    until("the slots to be made up for", SHORT, || (made_up(daemon.setup()) == 6).then_some(()));
    let shown = said(daemon.setup(), &["task", "show", "heartbeat"]);
    assert_eq!(list(&shown, "runs").len(), 5, "{shown}");
    assert!(list(&shown, "runs").iter().all(|run| run["failed_attempts"].is_array() && run["result"].is_object()), "{shown}");
    let level = daemon.cli(&["task", "level", "--hours", "48", "--json"]).json(1);
    assert_eq!(
        (&level["status"], &level["total"]["due"], &level["tasks"]["heartbeat"]["late"]),
        (&json!("FAIL"), &json!(6), &json!(6)),
        "{level}"
    );
    let text = daemon.cli(&["task", "level", "--hours", "48"]);
    assert!(text.expect(1).contains("MISSED") && text.stdout.contains("FAIL of 99.00 % in 48 h"), "{}", text.stdout);

    let run_id = list(&shown, "runs")[0]["run_id"].as_str().expect("an id").to_owned();
    let ended = daemon.cli(&["task", "cancel", &run_id]);
    assert!(ended.code.is_some_and(|code| code != 0) && ended.stderr.contains("has ended"), "{}", ended.stderr);
    let nobody = daemon.cli(&["task", "cancel", "run_none"]);
    assert!(nobody.code.is_some_and(|code| code != 0) && nobody.stderr.contains("no such run"), "{}", nobody.stderr);
}

#[test]
fn a_schedule_can_be_tried_out_before_it_is_used() {
    let setup = setup();
    let night = ["task", "next", "--cron", "30 2 * * *", "--zone", "Europe/Berlin", "--after", "2026-03-27T12:00:00Z", "-n", "3"];
    let answer = said(&setup, &night);
    assert_eq!(answer["slots"], json!(["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]), "{answer}");
    let local = json!(["2026-03-28T02:30:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]);
    assert_eq!((&answer["schedule"], &answer["local"]), (&json!("daily 02:30 Europe/Berlin"), &local), "{answer}");
    let plain = setup.cli(&night);
    assert!(plain.expect(0).contains("2026-03-29T01:00:00Z  2026-03-29T03:00:00+02:00"), "{}", plain.stdout);
    let utc = said(&setup, &["task", "next", "--cron", "every 6 h", "--after", "2026-03-27T14:00:00+02:00", "-n", "1"]);
    assert_eq!((&utc["slots"], &utc["local"]), (&json!(["2026-03-27T18:00:00Z"]), &Json::Null), "{utc}");
    assert_eq!(said(&setup, &["task", "next", "heartbeat"])["count"], 5);

    let wrong = setup.cli(&["task", "next", "--cron", "30 2 * * *", "--zone", "Europe/Berln"]);
    assert!(wrong.code == Some(64) && wrong.stderr.contains("did you mean Europe/Berlin?"), "{wrong:?}");
    for usage in
        [&["task", "next"][..], &["task", "next", "heartbeat", "--cron", "* * * * *"], &["task", "next", "heartbeat", "--zone", "UTC"]]
    {
        setup.cli(usage).expect(2);
    }
}

/// The member `ok` of a task's latest report.
fn json_lines_or_one(setup: &Setup, task: &str) -> String {
    integration_tests::json_file(&setup.logs(&format!("{task}.json")))["ok"].to_string()
}

#[test]
fn status_without_a_daemon_says_so() {
    let output = setup().cli(&["status"]);
    assert!(format!("{}{}", output.stdout, output.stderr).to_lowercase().contains("not running") || output.code != Some(0), "{output:?}");
}

#[test]
fn a_stale_note_of_where_the_daemon_is_does_not_lead_astray() {
    let setup = setup().start().kill9();
    assert!(setup.data("daemon.json").exists(), "a killed daemon leaves its note");
    setup.cli(&["task", "run", "heartbeat"]).expect(0);
}

#[test]
fn backups_are_made_listed_and_restored_with_and_without_a_daemon() {
    let setup = after_some_work();
    setup.cli(&["backup", "run"]).expect(0);
    let made = list(&said(&setup, &["backup", "list"]), "backups").clone();
    assert_eq!(made.len(), 1, "{made:?}");
    let archive = setup.root().join(made[0]["archive"].as_str().expect("a path"));
    assert!(archive.exists());

    let daemon = setup.start();
    let again = said(daemon.setup(), &["backup", "run"]);
    assert!(again.to_string().contains("passed"), "{again}");
    let listed = list(&said(daemon.setup(), &["backup", "list"]), "backups").clone();
    assert_eq!(listed.len(), 1, "the same day replaces: {listed:?}");
    let target = daemon.root().join("restored");
    let restored = daemon.cli(&["backup", "restore", &archive.to_string_lossy(), "--to", &target.to_string_lossy()]);
    restored.expect(0);
    let copy = rusqlite::Connection::open(target.join("database/echopilot.db")).expect("the copy opens");
    let events: i64 = copy.query_row("SELECT COUNT(*) FROM webhook_event", [], |row| row.get(0)).expect("a count");
    assert_eq!(events, 12);
}

#[test]
fn a_portal_link_is_the_same_with_and_without_a_daemon() {
    let setup = setup().env("ECHOPILOT__SERVER__PUBLIC_URL", "https://pay.example.com");
    let check = |output: Output| {
        let text = output.expect(0).to_owned();
        let url =
            text.split_whitespace().find(|word| word.starts_with("https://")).unwrap_or_else(|| panic!("no link in {text}")).to_owned();
        let expires = url.split("expires=").nth(1).and_then(|rest| rest.split('&').next()).and_then(|n| n.parse::<i64>().ok());
        let expires = expires.unwrap_or_else(|| panic!("no expiry in {url}"));
        assert!((expires - now_unix() - 86_400).abs() < 60, "{url}");
        let signature = hmac_hex("portal-0123456789abcdef0123456789abcdef", format!("user+tag@example.com:{expires}").as_bytes());
        assert_eq!(url, format!("https://pay.example.com/portal?email=user%2Btag%40example.com&expires={expires}&sig={signature}"));
    };
    check(setup.cli(&["portal-link", "User+Tag@Example.com"]));
    let bad = setup.cli(&["portal-link", "nobody"]);
    assert!(bad.code.is_some_and(|code| code != 0), "{}", bad.stdout);
    let daemon = setup.start();
    check(daemon.cli(&["portal-link", "user+tag@example.com"]));
}

#[test]
fn keys_are_made_listed_and_revoked_with_and_without_a_daemon() {
    let setup = setup();
    let made = said(&setup, &["keys", "create", "reader", "--scope", "read"]);
    let secret = made["key"].as_str().unwrap_or_else(|| panic!("the key is shown once: {made}")).to_owned();
    let id = made["id"].as_str().expect("an id").to_owned();
    let daemon = setup.start();
    daemon.send("GET", "/api/slo/status", &secret, &Json::Null).ok();
    daemon.send("POST", "/api/backup/run", &secret, &Json::Null).problem(403, "forbidden");
    let listed = said(daemon.setup(), &["keys", "list"]);
    assert!(listed.to_string().contains("reader") && !listed.to_string().contains(&secret), "{listed}");
    daemon.cli(&["keys", "revoke", &id]).expect(0);
    daemon.send("GET", "/api/slo/status", &secret, &Json::Null).problem(401, "unauthorized");
}

/// A copy of a stopped daemon's set-up in which `damage` was done to the journal; what `journal verify` says of it.
#[track_caller]
fn verified_after(original: &Setup, damage: &str) -> Json {
    let copy = setup();
    std::fs::create_dir_all(copy.data("")).expect("the data directory");
    for name in ["echopilot.db", "echopilot.db-wal", "node"] {
        if original.data(name).exists() {
            std::fs::copy(original.data(name), copy.data(name)).expect("a copy");
        }
    }
    let database = rusqlite::Connection::open(copy.data("echopilot.db")).expect("it opens");
    database.execute_batch(damage).unwrap_or_else(|e| panic!("{damage}: {e}"));
    database.close().expect("closed");
    let report = copy.cli(&["journal", "verify", "--json"]).json(1);
    let plain = copy.cli(&["journal", "verify"]);
    assert_eq!(plain.code, Some(1));
    let at = format!("at {}", report["breaks"][0]["seq"]);
    assert!(plain.stdout.contains(&at) && plain.stdout.contains("broken"), "it says which:\n{}", plain.stdout);
    report
}

#[test]
fn journal_verify_names_a_changed_a_removed_and_a_swapped_row() {
    let setup = after_some_work();
    let whole = said(&setup, &["journal", "verify"]);
    assert_eq!((&whole["ok"], &whole["breaks"]), (&json!(true), &json!([])), "{whole}");
    assert!(whole["entries"].as_i64().is_some_and(|n| n > 20), "{whole}");

    let first = |report: &Json| {
        assert_eq!(report["ok"], false, "{report}");
        (report["breaks"][0]["seq"].as_i64().unwrap_or_default(), report["breaks"][0]["kind"].as_str().unwrap_or_default().to_owned())
    };
    let changed = verified_after(&setup, "UPDATE journal SET data = replace(data, '\"', '\"') || ' ' WHERE seq = 12");
    assert_eq!(first(&changed), (12, "changed".to_owned()), "{changed}");
    let subject = verified_after(&setup, "UPDATE journal SET subject = 'evt_forged' WHERE seq = 13");
    assert_eq!(first(&subject), (13, "changed".to_owned()), "{subject}");
    let removed = verified_after(&setup, "DELETE FROM journal WHERE seq = 12");
    assert_eq!(first(&removed), (12, "removed".to_owned()), "{removed}");
    let tail = verified_after(&setup, "DELETE FROM journal WHERE seq = (SELECT MAX(seq) FROM journal)");
    assert_eq!(first(&tail).1, "removed", "{tail}");
    let swapped = verified_after(
        &setup,
        "UPDATE journal SET seq = -1 WHERE seq = 12; UPDATE journal SET seq = 12 WHERE seq = 13; UPDATE journal SET seq = 13 WHERE seq = -1;",
    );
    assert_eq!(first(&swapped).0, 12, "{swapped}");
    assert!(matches!(first(&swapped).1.as_str(), "changed" | "reordered"), "{swapped}");
    setup.cli(&["journal", "verify"]).expect(0);
}
