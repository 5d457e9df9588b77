//! Looks at folders of logs, with what each look leaves in the store.

use std::{fs, io::Write as _};

use chrono::TimeDelta;

use super::*;
use crate::testing::{self, Fixture};

/// Appends lines to a log.
fn log(fixture: &Fixture, file: &str, lines: &str) {
    let path = fixture.env.log_path(file);
    fs::OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(lines.as_bytes()).unwrap();
}

/// One look, as the timer would start it; alerts and levels cannot be asked here.
async fn look(fixture: &Fixture) -> Record {
    let env = fixture.env.clone();
    let run = Run { slot: env.now(), env, run_id: "run_1".into(), cause: "schedule", asked_by: None, attempt: 1 };
    work(run).await.unwrap()
}

async fn open(fixture: &Fixture) -> Vec<Incident> {
    let live = fixture.env.store().live_incidents(fixture.env.now()).await.unwrap();
    live.into_iter().filter(|i| i.state == State::Open).collect()
}

fn later(fixture: &Fixture, by: TimeDelta) {
    fixture.clock.set(fixture.env.now() + by);
}

#[tokio::test]
async fn a_pattern_in_a_log_is_an_incident_with_masked_samples_and_every_byte_is_read_once() {
    let fixture = testing::fixture("2026-03-01T10:00:00Z");
    log(&fixture, "shop.log", "all is well\nERROR: No space left on device for ana@shop.example token=abc123def456\n");
    let record = look(&fixture).await;
    assert_eq!((&record["open"], &record["logs"]["lines"], &record["opened"].as_array().unwrap().len()), (&json!(1), &json!(2), &1));
    assert_eq!(record["unasked"].as_array().unwrap().len(), 2, "alerts and levels: {}", record["unasked"]);
    let incident = open(&fixture).await.remove(0);
    assert_eq!((incident.key.as_str(), incident.severity, incident.count), ("disk", Severity::Critical, 1));
    assert_eq!(incident.samples, ["ERROR: No space left on device for [e-mail] token=[hidden]"]);
    later(&fixture, TimeDelta::minutes(5));
    assert_eq!(look(&fixture).await["logs"]["bytes"], json!(0), "cost grows with new bytes only");
    log(&fixture, "shop.log", "ERROR: No space left on device again\n");
    look(&fixture).await;
    assert_eq!((open(&fixture).await.len(), open(&fixture).await[0].count), (1, 2));
    let timeline = fixture.env.store().incident_events(&incident.id).await.unwrap();
    assert_eq!(timeline.len(), 1, "{timeline:?}");
}

#[tokio::test]
async fn an_error_of_a_new_kind_is_an_incident_only_after_the_warm_up_and_known_ones_are_none() {
    let fixture = testing::fixture("2026-03-01T10:00:00Z");
    let known = |n: usize| format!("{{\"level\":\"ERROR\",\"task\":\"shop\",\"message\":\"order ord_{n}aaa111 refused\"}}\n");
    log(&fixture, "shop.ndjson", &known(1));
    look(&fixture).await;
    assert!(open(&fixture).await.is_empty(), "everything is new on the first day");
    later(&fixture, TimeDelta::hours(25));
    log(&fixture, "shop.ndjson", &known(2));
    log(&fixture, "shop.ndjson", "{\"level\":\"ERROR\",\"message\":\"cannot sign in to the warehouse\",\"error\":\"denied\"}\n");
    look(&fixture).await;
    let found = open(&fixture).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].title, "cannot sign in to the warehouse: denied");
    // What goes on belongs to it; what is over is closed.
    later(&fixture, TimeDelta::minutes(5));
    log(&fixture, "shop.ndjson", "{\"level\":\"ERROR\",\"message\":\"cannot sign in to the warehouse\",\"error\":\"denied\"}\n");
    look(&fixture).await;
    assert_eq!((open(&fixture).await.len(), open(&fixture).await[0].count), (1, 2));
}

#[tokio::test]
async fn a_burst_of_a_known_kind_is_an_incident() {
    let fixture = testing::fixture("2026-03-01T10:00:00Z");
    let line = "2026-03-01 WARN slow answer of the warehouse after 900 ms\n";
    for _ in 0..30 {
        log(&fixture, "shop.log", line);
        look(&fixture).await;
        later(&fixture, TimeDelta::minutes(5));
    }
    assert!(open(&fixture).await.is_empty());
    log(&fixture, "shop.log", &line.repeat(60));
    look(&fixture).await;
    let found = open(&fixture).await;
    assert_eq!((found.len(), found[0].count), (1, 60));
    assert!(found[0].signals.values().any(|s| s.text.starts_with("60 lines of shop.log where 1.")), "{:?}", found[0].signals);
}

#[tokio::test]
async fn its_own_history_and_what_is_told_by_alerts_is_not_found_again() {
    let fixture = testing::fixture("2026-03-01T10:00:00Z");
    log(&fixture, "incidents.ndjson", "{\"level\":\"ERROR\",\"message\":\"No space left on device\"}\n");
    log(&fixture, "production_alerts.ndjson", "{\"reason\":\"No space left on device\"}\n");
    log(
        &fixture,
        "echopilot.ndjson",
        "{\"level\":\"WARN\",\"actor\":\"alert\",\"reason\":\"No space left on device\",\"message\":\"fired\"}\n",
    );
    log(&fixture, "notes.txt", "No space left on device\n");
    let record = look(&fixture).await;
    assert_eq!((&record["open"], &record["logs"]["lines"]), (&json!(0), &json!(1)), "{record:?}");
}

#[tokio::test]
async fn broken_lines_are_counted_and_many_of_them_are_an_incident() {
    let fixture = testing::fixture("2026-03-01T10:00:00Z");
    log(&fixture, "shop.ndjson", &format!("{{\"ok\":true}}\n{}", "{\"torn\n".repeat(3)));
    assert_eq!(look(&fixture).await["logs"]["broken_lines"], json!(3));
    assert!(open(&fixture).await.is_empty());
    log(&fixture, "shop.ndjson", &"not json\n".repeat(30));
    look(&fixture).await;
    assert_eq!(open(&fixture).await[0].key, "broken:shop.ndjson");
}

#[tokio::test]
async fn a_serious_exception_is_an_incident_and_nothing_is_closed_while_not_everything_could_be_asked() {
    use crate::store::{Finding as Exception, NewRecon};
    let fixture = testing::fixture("2026-03-01T10:00:00Z");
    let finding = Exception {
        id: "exc_a".into(),
        kind: "amount_mismatch",
        severity: "high",
        currency: "usd".into(),
        risk: 1250,
        sides: "1|2".into(),
        body: json!({"explanation": "12.50 USD are missing"}),
    };
    let recon = NewRecon {
        scope: "payouts",
        run_id: "run_1",
        recon_id: "prun_1",
        at: fixture.env.now(),
        complete: true,
        ok: false,
        inputs: Vec::new(),
        report: &json!({}),
        findings: vec![finding],
        gone: Vec::new(),
    };
    fixture.env.store().record_recon(recon, fixture.env.fact("recon.done", "run_1", json!({}))).await.unwrap();
    look(&fixture).await;
    let found = open(&fixture).await;
    assert_eq!(
        (found.len(), found[0].key.as_str(), found[0].samples.as_slice()),
        (1, "recon", ["12.50 USD are missing".to_owned()].as_slice())
    );
    assert!(found[0].signals["recon:payouts"].text.contains("12.50 USD"));
    crate::operations::exceptions::decide(&fixture.env, "exc_a", crate::operations::exceptions::Decision::Resolve, "it was paid", "ana")
        .await
        .unwrap();
    later(&fixture, TimeDelta::hours(2));
    look(&fixture).await;
    assert_eq!(open(&fixture).await.len(), 1, "the alerts could not be asked, so silence says nothing");
}

#[tokio::test]
async fn a_person_acknowledges_and_closes_with_a_reason() {
    use crate::operations::incidents;
    let fixture = testing::fixture("2026-03-01T10:00:00Z");
    log(&fixture, "shop.log", "thread 'main' panicked at src/main.rs:1\n");
    look(&fixture).await;
    let env = &fixture.env;
    let (listed, next) = incidents::list(env, "open", "", 20).await.unwrap();
    assert_eq!((listed.len(), next), (1, None));
    let id = listed[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(incidents::acknowledge(env, &id, "ana").await.unwrap()["acknowledged_by"], json!("ana"));
    assert_eq!(incidents::close(env, &id, "ana", " ").await.unwrap_err().field.as_deref(), Some("reason"));
    later(&fixture, TimeDelta::minutes(1));
    let closed = incidents::close(env, &id, "ana", "restarted").await.unwrap();
    let kinds: Vec<&str> = closed["timeline"].as_array().unwrap().iter().filter_map(|e| e["kind"].as_str()).collect();
    assert_eq!((closed["state"].as_str(), kinds), (Some("closed"), vec!["opened", "acknowledged", "closed"]));
    assert_eq!(incidents::close(env, &id, "ana", "again").await.unwrap_err().reason, "incident_state");
    assert_eq!(incidents::one(env, "inc_none").await.unwrap_err().code.as_str(), "not_found");
    assert_eq!(incidents::list(env, "shut", "", 20).await.unwrap_err().field.as_deref(), Some("state"));
    assert!(incidents::list(env, "open", "", 20).await.unwrap().0.is_empty());
}
