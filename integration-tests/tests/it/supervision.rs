//! The supervisor at work in the real program: parts that hang, that block their thread, that fail too often, that are flooded.
//! Limits are made small by the environment; the rules are those of production.

use std::time::{Duration, Instant};

use integration_tests::{LONG, SHORT, Setup, TestDaemon, until};
use serde_json::{Value as Json, json};

use crate::{ingest::charge_event, setup};

/// The exit code of a process that a critical part made useless: systemd starts it again.
const FATAL: i32 = 70;

/// Pings that notice a hang within a second.
fn quick(setup: Setup) -> Setup {
    setup
        .drills()
        .env("ECHOPILOT__SUPERVISOR__PING_EVERY_MS", "100")
        .env("ECHOPILOT__SUPERVISOR__PING_LIMIT_MS", "700")
        .env("ECHOPILOT__SUPERVISOR__KILL_LIMIT_MS", "500")
}

fn drill(daemon: &TestDaemon, part: &str, kind: &str) {
    daemon.post(&format!("/api/supervisor/{part}/drill"), &json!({ "kind": kind })).ok();
}

fn is_back(daemon: &TestDaemon, part: &str, generation: u64) -> Json {
    until(&format!("{part} is back"), LONG, || {
        let now = daemon.part(part);
        (now["state"] == "running" && now["generation"].as_u64() >= Some(generation)).then_some(now)
    })
}

fn ready(daemon: &TestDaemon) -> (u16, Json) {
    let answer = daemon.request("GET", "/readyz", &[], b"");
    (answer.status, answer.json())
}

/// The kinds of the journal's entries about a part, oldest first.
fn journal(daemon: &TestDaemon, part: &str) -> Vec<String> {
    daemon.setup().column(&format!("SELECT kind FROM journal WHERE subject = '{part}' AND kind LIKE 'actor.%' ORDER BY at, seq"))
}

#[test]
fn a_part_that_hangs_is_killed_and_comes_back() {
    let daemon = quick(setup()).start();
    drill(&daemon, "ingest", "hang");
    assert_eq!(daemon.deliver(&charge_event("evt_hang", "ch_hang", 100)).status, 200, "acceptance does not depend on it");
    let now = is_back(&daemon, "ingest", 2);
    assert_eq!(now["last_failure"], "hung: no answer for 700 ms", "{now}");
    daemon.settle();
    assert_eq!(daemon.setup().column("SELECT source FROM ledger").len(), 1, "its replacement found the row");
    until("the journal", SHORT, || (journal(&daemon, "ingest").ends_with(&["actor.restarted".into()])).then_some(()));
    assert!(journal(&daemon, "ingest").contains(&"actor.hung".into()));
    assert_eq!(ready(&daemon).1["status"], "ready");
}

#[test]
fn a_handler_that_never_waits_ends_the_process_with_70_and_the_next_start_is_well() {
    // One that is not critical: nobody can get rid of it, whatever it is.
    let mut daemon = quick(setup()).start();
    assert_eq!(daemon.deliver(&charge_event("evt_spin", "ch_spin", 100)).status, 200);
    drill(&daemon, "insight", "spin");
    let ended = daemon.ended();
    assert_eq!(ended.code, Some(FATAL), "{}", ended.said);
    assert!(ended.said.contains("insight cannot be killed: its handler never waits"), "{}", ended.said);
    let mut setup = ended.setup;
    assert_eq!(setup.count("SELECT COUNT(*) FROM journal WHERE kind = 'actor.fatal' AND subject = 'insight'"), 1);
    assert!(ended.took < Duration::from_secs(15), "{:?}", ended.took);
    setup = setup.without("ECHOPILOT__SUPERVISOR__DRILLS");
    let daemon = setup.start();
    daemon.settle();
    assert_eq!(daemon.setup().column("SELECT source FROM ledger").len(), 1, "nothing acknowledged is lost");
}

#[test]
fn with_every_thread_blocked_the_process_ends_with_70_as_well() {
    let mut daemon = quick(setup()).env("TOKIO_WORKER_THREADS", "1").start();
    // The only worker is gone as soon as the drill arrives: an answer cannot be expected.
    let _ = daemon.try_request(
        "POST",
        "/api/supervisor/slo/drill",
        &[("x-dash-key", &daemon.key.clone()), ("content-type", "application/json"), ("connection", "close")],
        br#"{"kind":"spin"}"#,
    );
    let ended = daemon.ended();
    assert_eq!(ended.code, Some(FATAL), "{}", ended.said);
    assert!(ended.said.contains("every thread is blocked"), "{}", ended.said);
}

#[test]
fn a_critical_part_over_its_budget_ends_the_process_with_70() {
    let mut daemon = setup().drills().env("ECHOPILOT__SUPERVISOR__MAX_RESTARTS", "0").start();
    drill(&daemon, "timer", "panic");
    let ended = daemon.ended();
    assert_eq!(ended.code, Some(FATAL), "{}", ended.said);
    assert!(ended.said.contains("timer failed too often: more than 0 restarts within 60 s"), "{}", ended.said);
}

/// The alert of a part, whatever its state.
fn alert(daemon: &TestDaemon, part: &str) -> Option<String> {
    daemon.setup().column(&format!("SELECT state FROM alert WHERE name = 'part_{part}'")).pop()
}

#[test]
fn a_part_that_is_put_aside_is_named_everywhere_until_it_is_released() {
    let daemon = quick(setup()).env("ECHOPILOT__SUPERVISOR__MAX_RESTARTS", "0").start();
    assert_eq!(ready(&daemon), (200, json!({"ok": true, "status": "ready"})));
    drill(&daemon, "recon", "panic");
    let part = until("recon is put aside", SHORT, || Some(daemon.part("recon")).filter(|p| p["state"] == "quarantined"));
    assert!(part["down"].as_str().is_some_and(|why| why.contains("failed too often") && why.contains("drill")), "{part}");
    assert!(part["quarantined_until"].as_str().is_some_and(|at| at.ends_with('Z')), "{part}");
    // It serves, and says that it is not whole.
    let (status, body) = ready(&daemon);
    assert_eq!((status, &body["status"]), (200, &json!("degraded")), "{body}");
    assert_eq!(body["degraded"][0]["part"], "recon", "{body}");
    assert!(body["degraded"][0]["reason"].as_str().is_some_and(|why| why.contains("drill")), "{body}");
    assert_eq!(daemon.request("GET", "/healthz", &[], b"").status, 200);
    daemon.get("/api/slo/status").ok();
    until("an alert", SHORT, || (alert(&daemon, "recon").as_deref() == Some("firing")).then_some(()));
    // So does the command line.
    let status = daemon.cli(&["status"]);
    assert!(status.expect(1).contains("recon: put aside, failed too often"), "{}", status.stdout);
    let run = daemon.run_task("payout_recon");
    assert_eq!(run["state"], "failed", "what needs it fails with a reason: {run}");
    daemon.cli(&["actor", "release", "nobody"]).expect(64);
    daemon.cli(&["actor", "release", "slo"]).expect(1);
    daemon.cli(&["actor", "release", "recon"]).expect(0);
    is_back(&daemon, "recon", 2);
    assert_eq!(ready(&daemon).1["status"], "ready");
    until("the alert to resolve", SHORT, || (alert(&daemon, "recon").as_deref() == Some("resolved")).then_some(()));
    until("the journal", SHORT, || {
        let kinds = journal(&daemon, "recon");
        ["actor.quarantined", "actor.released", "actor.restarted"].iter().all(|k| kinds.iter().any(|kind| kind == k)).then_some(())
    });
    assert_eq!(daemon.run_task("payout_recon")["state"], "succeeded");
    daemon.cli(&["status"]).expect(0);
}

#[test]
fn a_part_that_is_put_aside_comes_back_by_itself_after_its_cool_down() {
    let setup = quick(setup()).env("ECHOPILOT__SUPERVISOR__MAX_RESTARTS", "0").env("ECHOPILOT__SUPERVISOR__COOL_DOWN_S", "1");
    let daemon = setup.start();
    daemon.cli(&["actor", "drill", "backup"]).expect(0);
    until("backup is put aside", SHORT, || (daemon.part("backup")["restarts"] == 1).then_some(()));
    is_back(&daemon, "backup", 2);
}

/// Resident memory in kB.
fn resident(daemon: &TestDaemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("the process lives");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux says so");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).expect("a number")
}

/// Sends `n` requests from eight threads, each on one connection; answers the statuses, and whether every 503 said when to
/// come back.
fn flood(daemon: &TestDaemon, n: usize, request: impl Fn(&TestDaemon, usize) -> integration_tests::Answer + Sync) -> Vec<u16> {
    let statuses = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (statuses, request) = (&statuses, &request);
            scope.spawn(move || {
                for i in (thread..n).step_by(8) {
                    let answer = request(daemon, i);
                    assert!(answer.status != 503 || answer.header("retry-after").is_some_and(|s| s.parse::<u32>().is_ok()), "{answer:?}");
                    statuses.lock().expect("no thread panics with it").push(answer.status);
                }
            });
        }
    });
    statuses.into_inner().expect("the threads ended")
}

#[test]
fn a_flood_on_a_part_that_does_not_move_meets_503_with_retry_after_and_memory_stays_flat() {
    let setup = setup().drills().env("ECHOPILOT__SUPERVISOR__MAX_MAILBOX", "16").env("ECHOPILOT__SERVER__ACTOR_TIMEOUT_MS", "50");
    let daemon = setup.start();
    flood(&daemon, 400, |daemon, _| daemon.get("/api/slo/status")); // warm
    drill(&daemon, "slo", "hang");
    flood(&daemon, 400, |daemon, _| daemon.get("/api/slo/status")); // full
    let before = resident(&daemon);
    let begun = Instant::now();
    let statuses = flood(&daemon, 4000, |daemon, _| daemon.get("/api/slo/status"));
    let took = begun.elapsed();
    let after = resident(&daemon);
    assert!(statuses.iter().all(|status| *status == 503), "{statuses:?}");
    let depth = daemon.part("slo")["mailbox_depth"].as_u64().expect("a number");
    assert!((16..=17).contains(&depth), "as many as may, and the supervisor's ping: {depth}");
    println!("4000 refusals in {took:?}; resident {before} kB before, {after} kB after");
    assert!(after < before + 8 * 1024, "{before} kB before, {after} kB after");
    let overloaded = daemon.get("/api/slo/status").problem(503, "unavailable");
    assert_eq!(overloaded["reason"], "overloaded", "{overloaded}");
    daemon.get("/api/tasks").ok(); // others have their own mailboxes
}

#[test]
fn a_flood_of_webhooks_on_an_ingest_that_does_not_move_is_accepted_and_waits_in_the_store() {
    let setup = setup().drills().env("ECHOPILOT__SUPERVISOR__PING_EVERY_MS", "200").env("ECHOPILOT__SUPERVISOR__PING_LIMIT_MS", "8000");
    let daemon = setup.start();
    flood(&daemon, 200, |daemon, i| daemon.deliver(&charge_event(&format!("evt_warm_{i}"), &format!("ch_warm_{i}"), 1))); // warm
    drill(&daemon, "ingest", "hang");
    let before = resident(&daemon);
    let statuses = flood(&daemon, 1500, |daemon, i| daemon.deliver(&charge_event(&format!("evt_f_{i}"), &format!("ch_f_{i}"), 1)));
    let (after, part) = (resident(&daemon), daemon.part("ingest"));
    assert!(statuses.iter().all(|status| *status == 200), "accepting does not need the actor");
    if part["generation"] == 1 {
        assert!(part["mailbox_depth"].as_u64().is_some_and(|depth| depth <= 3), "one wake-up is enough for all: {part}");
    }
    println!("1500 accepted; resident {before} kB before, {after} kB after");
    assert!(after < before + 24 * 1024, "{before} kB before, {after} kB after");
    is_back(&daemon, "ingest", 2);
    daemon.settle();
    assert_eq!(daemon.setup().column("SELECT source FROM ledger").len(), 1700, "each is booked once");
}

#[test]
fn a_drill_or_a_release_that_makes_no_sense_is_refused_by_name() {
    let daemon = setup().drills().start();
    let wrong = daemon.post("/api/supervisor/slo/drill", &json!({"kind": "melt"})).problem(422, "invalid");
    assert_eq!(wrong["field"], "kind", "{wrong}");
    assert!(wrong["detail"].as_str().is_some_and(|text| text.contains("panic, hang or spin")), "{wrong}");
    daemon.post("/api/supervisor/slo/drill", &json!({"kind": 5})).problem(422, "invalid");
    daemon.post("/api/supervisor/nobody/drill", &Json::Null).problem(404, "not_found");
    daemon.post("/api/supervisor/nobody/release", &Json::Null).problem(404, "not_found");
    let running = daemon.post("/api/supervisor/slo/release", &Json::Null).problem(409, "conflict");
    assert_eq!(running["reason"], "not_quarantined", "{running}");
    let down = setup();
    let output = down.cli(&["actor", "list"]);
    assert_eq!(output.code, Some(69), "{}", output.stderr);
    assert!(output.stderr.contains("no daemon runs"), "{}", output.stderr);
    let listed = daemon.cli(&["actor", "list"]);
    assert!(listed.expect(0).lines().any(|line| line.starts_with("ingest *") && line.contains("running")), "{}", listed.stdout);
}
