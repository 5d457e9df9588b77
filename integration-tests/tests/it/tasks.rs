//! The HTTP contract of tasks: pausing, resuming, making up for the past, cancelling; who may, and what is said to a wrong request.

use integration_tests::{SHORT, until, yesterday};
use serde_json::{Value as Json, json};

use crate::{
    contract::{key, typed},
    setup,
};

#[test]
fn a_task_is_paused_resumed_and_made_up_for_by_those_who_may() {
    let daemon = setup().start();
    let (_, read) = key(&daemon, "read");
    let (_, operate) = key(&daemon, "operate");
    for path in ["/api/tasks/heartbeat/pause", "/api/tasks/heartbeat/resume", "/api/tasks/heartbeat/backfill", "/api/runs/run_none/cancel"]
    {
        daemon.send("POST", path, &read, &Json::Null).problem(403, "forbidden");
    }
    let task =
        daemon.send("POST", "/api/tasks/heartbeat/pause", &operate, &json!({"reason": "a move", "until": "2099-01-01T00:00:00Z"})).ok();
    assert_eq!((&task["name"], &task["state"]), (&json!("heartbeat"), &json!("paused")), "{task}");
    typed(&task["paused"], &[("at", "s"), ("by", "s"), ("why", "s"), ("until", "s0")]);
    assert_eq!((&task["paused"]["why"], &task["paused"]["until"]), (&json!("a move"), &json!("2099-01-01T00:00:00Z")), "{task}");
    typed(
        &task["policy"],
        &[("catch_up", "so"), ("overlap", "s"), ("timeout_s", "i"), ("total_timeout_s", "i"), ("retries", "i"), ("pause_after", "i")],
    );
    assert_eq!(daemon.run_task("heartbeat")["state"], "succeeded", "by hand it still runs");
    let task = daemon.post("/api/tasks/heartbeat/resume", &Json::Null).ok();
    assert_eq!((&task["state"], &task["paused"]), (&json!("scheduled"), &Json::Null), "{task}");
    assert_eq!(daemon.post("/api/tasks/heartbeat/resume", &Json::Null).problem(409, "conflict")["reason"], "not_paused");
    let plain = daemon.post("/api/tasks/heartbeat/pause", &Json::Null).ok();
    assert_eq!((&plain["paused"]["until"], plain["paused"]["why"].is_string()), (&Json::Null, true), "{plain}");
    daemon.post("/api/tasks/heartbeat/resume", &Json::Null).ok();

    let range = |dry_run: bool| json!({"from": yesterday(30), "to": yesterday(300), "dry_run": dry_run});
    let preview = daemon.post("/api/tasks/heartbeat/backfill", &range(true)).ok();
    typed(&preview, &[("slots", "i"), ("queued", "i"), ("kept", "i"), ("dry_run", "b")]);
    assert_eq!((&preview["slots"], &preview["queued"], &preview["kept"]), (&json!(5), &json!(5), &json!(0)), "{preview}");
    assert_eq!(daemon.get("/api/tasks/heartbeat/runs").ok()["count"], 1, "a dry run queues nothing");
    assert_eq!(daemon.post("/api/tasks/heartbeat/backfill", &range(false)).ok()["queued"], 5);
    let runs = until("the slots to be made up for", SHORT, || {
        let runs = daemon.get("/api/tasks/heartbeat/runs?state=succeeded&limit=100").ok();
        (runs["count"] == 6).then_some(runs)
    });
    let made_up: Vec<_> = runs["runs"].as_array().expect("a list").iter().filter(|r| r["trigger"] == "backfill").collect();
    assert_eq!(made_up.len(), 5, "{runs}");
    assert!(made_up.iter().all(|r| r["slot"].as_str().is_some_and(|s| (yesterday(60)..=yesterday(300)).contains(&s.to_owned()))), "{runs}");
    let again = daemon.post("/api/tasks/heartbeat/backfill", &range(false)).ok();
    assert_eq!((&again["queued"], &again["kept"]), (&json!(0), &json!(5)), "what ran stays as it is: {again}");
}

#[test]
fn what_is_wrong_with_a_request_about_tasks_is_named() {
    let daemon = setup().start();
    let pause = |body: Json| daemon.post("/api/tasks/heartbeat/pause", &body);
    for (body, field) in [
        (json!({"until": "soon"}), "until"),
        (json!({"until": 5}), "until"),
        (json!({"until": "2020-01-01T00:00:00Z"}), "until"),
        (json!({"reason": 5}), "reason"),
        (json!({"why": "x"}), "why"),
    ] {
        assert_eq!(pause(body.clone()).problem(422, "invalid")["field"], field, "{body}");
    }
    let backfill = |body: &Json| daemon.post("/api/tasks/heartbeat/backfill", body);
    for (body, field) in [
        (json!({}), "from"),
        (json!({"from": "2026-03-01T00:00:00Z"}), "to"),
        (json!({"from": "2026-03-01", "to": "2026-03-01T00:00:00Z"}), "from"),
        (json!({"from": "2026-03-01T00:00:00Z", "to": "2026-03-01T00:00:00Z", "dry_run": "yes"}), "dry_run"),
        (json!({"from": "2026-03-01T00:00:00Z", "to": "2026-03-01T00:00:00Z", "redo": true}), "redo"),
    ] {
        assert_eq!(backfill(&body).problem(422, "invalid")["field"], field, "{body}");
    }
    for (from, to, field) in [("2026-03-02", "2026-03-01", "to"), ("2026-03-01", "2099-01-01", "to"), ("2025-01-01", "2026-01-01", "from")]
    {
        let body = json!({"from": format!("{from}T00:00:00Z"), "to": format!("{to}T00:00:00Z")});
        assert_eq!(backfill(&body).problem(422, "invalid")["field"], field, "{body}");
    }
    assert_eq!(daemon.get("/api/tasks/heartbeat/runs?state=fine").problem(422, "invalid")["field"], "state");
    for hours in ["0", "x", "2161"] {
        assert_eq!(daemon.get(&format!("/api/schedule/level?hours={hours}")).problem(422, "invalid")["field"], "hours");
    }
    for verb in ["pause", "resume", "backfill"] {
        let body = json!({"from": "2026-03-01T00:00:00Z", "to": "2026-03-01T00:00:00Z"});
        let body = if verb == "backfill" { &body } else { &Json::Null };
        daemon.post(&format!("/api/tasks/no_such_task/{verb}"), body).problem(404, "not_found");
        assert_eq!(daemon.post(&format!("/api/tasks/ceo_brief/{verb}"), body).problem(409, "conflict")["reason"], "planned", "{verb}");
    }
    daemon.post("/api/runs/run_none/cancel", &Json::Null).problem(404, "not_found");
    let run = daemon.run_task("heartbeat");
    let ended = daemon.post(&format!("/api/runs/{}/cancel", run["run_id"].as_str().expect("an id")), &Json::Null);
    assert_eq!(ended.problem(409, "conflict")["reason"], "ended");
    typed(&run, &[("failed_attempts", "a"), ("result", "o"), ("lag_ms", "i0"), ("duration_ms", "i"), ("error", "s0"), ("asked_by", "s")]);
}
