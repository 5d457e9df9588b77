//! Incidents from outside: a line in a log becomes one, on the command line, over HTTP and in a browser (`peers/incidents_page.py`).

use std::{fs, io::Write as _, path::Path};

use integration_tests::{LONG, peer, python, run_to_end};
use serde_json::json;

use crate::setup;

fn append(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).expect("a log can be opened");
    file.write_all(text.as_bytes()).expect("a log can be written");
}

#[test]
fn a_line_in_a_log_is_an_incident_that_people_see_acknowledge_and_close() {
    let daemon = setup().start();
    let log = daemon.setup().logs("shop.log");
    append(&log, "ERROR cannot write order 7 of ana@shop.example: No space left on device\n");
    let record = daemon.task_result("incident_scanner");
    assert_eq!((&record["open"], &record["unasked"]), (&json!(1), &json!([])), "{record}");
    let listed = daemon.get("/api/incidents?state=open").ok();
    assert_eq!((listed["count"].as_i64(), &listed["incidents"][0]["key"]), (Some(1), &json!("disk")));
    let id = listed["incidents"][0]["id"].as_str().expect("an id").to_owned();
    let one = daemon.get(&format!("/api/incidents/{id}")).ok();
    assert_eq!(one["incident"]["samples"][0], "ERROR cannot write order 7 of [e-mail]: No space left on device");

    // Rotated between two looks: what was not read yet is found in the numbered file, and nothing is read twice.
    append(&log, "no space left on device, again\n");
    fs::rename(&log, daemon.setup().logs("shop.log.1")).expect("a log is rotated");
    append(&log, "no space left on device, and again\n");
    daemon.task_result("incident_scanner");
    assert_eq!(daemon.get(&format!("/api/incidents/{id}")).ok()["incident"]["count"], 3);

    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("out");
    fs::create_dir_all(&out).expect("a folder for the screenshots");
    let mut browser = python();
    browser.arg(peer("incidents_page.py")).args([&daemon.url(), &daemon.key]).arg(&out);
    run_to_end(browser, LONG * 4).expect(0);

    let cli = |arguments: &[&str]| daemon.cli(arguments);
    assert!(cli(&["incidents", "list"]).stdout.contains(&id));
    let acknowledged = cli(&["--json", "incidents", "ack", &id]).json(0);
    assert!(acknowledged["incident"]["acknowledged_by"].is_string(), "{acknowledged}");
    let closed = daemon.post(&format!("/api/incidents/{id}/close"), &json!({"reason": "the disk was cleared"})).ok();
    assert_eq!(closed["incident"]["state"], "closed");
    let again = daemon.post(&format!("/api/incidents/{id}/close"), &json!({"reason": "again"})).problem(409, "conflict");
    assert_eq!(again["reason"], "incident_state");
    assert_eq!(cli(&["incidents", "list"]).code, Some(0));
    let history = fs::read_to_string(daemon.setup().logs("incidents.ndjson")).expect("a history");
    assert_eq!(history.lines().count(), 2, "{history}");
    let kinds = "SELECT group_concat(kind, ' ') FROM (SELECT kind FROM journal WHERE kind LIKE 'incident.%' ORDER BY seq)";
    assert_eq!(daemon.setup().column(kinds), ["incident.opened incident.acknowledged incident.closed"]);
}
