//! The repairs of `self_heal` in the real program: what was put aside, failed or left behind is brought back or swept, once, and said.

use std::time::Duration;

use integration_tests::{LONG, SHORT, TestDaemon, until};
use serde_json::Value as Json;

use crate::{ingest::charge_event, setup};

#[test]
fn it_brings_back_a_part_and_an_event_and_sweeps_what_was_left() {
    let daemon = setup().start();
    let mut event = charge_event("evt_heal", "ch_heal", 1200);
    let whole = event.to_string();
    event["data"]["object"] = serde_json::json!({"id": "ch_heal"});
    assert_eq!(daemon.deliver(&event).status, 200);
    let status = |daemon: &TestDaemon| daemon.webhook("evt_heal").and_then(|row| row["status"].as_str().map(str::to_owned));
    until("the event to fail", SHORT, || (status(&daemon).as_deref() == Some("failed")).then_some(()));
    // As if the program had learned to read it since.
    let setup = daemon.stop();
    let connection = rusqlite::Connection::open(setup.data("echopilot.db")).expect("it opens");
    connection.execute("UPDATE webhook_event SET body = ?1", [&whole]).expect("it is written");
    drop(connection);
    let (old, young) = (setup.logs(".old.tmp"), setup.backups(".young.tmp"));
    for (path, age_s) in [(&old, 7200), (&young, 60)] {
        std::fs::write(path, "half").expect("a file");
        let modified = std::time::UNIX_EPOCH + Duration::from_secs(integration_tests::now_unix().unsigned_abs() - age_s);
        std::fs::File::open(path).and_then(|file| file.set_modified(modified)).expect("it can be dated");
    }

    let daemon = setup.drills().env("ECHOPILOT__SUPERVISOR__MAX_RESTARTS", "0").env("ECHOPILOT__SUPERVISOR__PING_EVERY_MS", "100").start();
    let put_aside = || {
        daemon.post("/api/supervisor/recon/drill", &Json::Null).ok();
        until("recon is put aside", SHORT, || (daemon.part("recon")["state"] == "quarantined").then_some(()));
    };
    put_aside();
    let alert = |state: &str| {
        let sql = format!("SELECT COUNT(*) FROM alert WHERE name = 'part_recon' AND state = '{state}'");
        until(&format!("the alert to be {state}"), SHORT, || (daemon.setup().count(&sql) == 1).then_some(()));
    };
    alert("firing");
    let result = daemon.task_result("self_heal");
    let repairs: Vec<_> = result["repairs"].as_array().expect("a list").iter().map(|r| [&r["kind"], &r["subject"], &r["result"]]).collect();
    let expected = [["part", "recon", "released"], ["event", "evt_heal", "put_back"], ["file", "logs/.old.tmp", "removed"]];
    assert_eq!(repairs, expected, "{result}");
    assert_eq!((result["ok"].as_bool(), result["repaired"].as_u64()), (Some(true), Some(3)), "{result}");
    assert!(!old.exists() && young.exists());
    until("recon is back", LONG, || (daemon.part("recon")["state"] == "running").then_some(()));
    until("the event to be processed", SHORT, || (status(&daemon).as_deref() == Some("processed")).then_some(()));
    assert_eq!(daemon.setup().column("SELECT source FROM ledger"), ["ch_heal"]);
    alert("resolved");
    assert_eq!(daemon.setup().count("SELECT COUNT(*) FROM journal WHERE kind = 'self_heal.repaired'"), 3);

    // Again: the part is a person's now, and there is nothing else to do.
    put_aside();
    let result = daemon.task_result("self_heal");
    assert_eq!((result["ok"].as_bool(), result["left"].as_u64(), result["repaired"].as_u64()), (Some(true), Some(1), Some(0)), "{result}");
    assert!(result["repairs"][0]["error"].as_str().is_some_and(|why| why.starts_with("released_before")), "{result}");
    assert_eq!(daemon.part("recon")["state"], "quarantined");
    assert_eq!(integration_tests::json_lines(&daemon.setup().logs("self_heal.ndjson")).len(), 2);
    daemon.cli(&["journal", "verify"]).expect(0);
    std::fs::remove_file(&young).expect("it is there");
}
