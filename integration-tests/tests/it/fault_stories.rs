//! Faults as they happen to the real program, each with the messages that people get counted: a full disk, a database that takes no
//! writes, a provider that is gone, a probe that flaps, five hundred alerts at once, a clock that jumps.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use integration_tests::{LONG, Peer, Recorder, SHORT, SmallDisk, always, faketime, now_unix, peer, python, until};
use serde_json::Value as Json;

use crate::{ingest::charge_event, setup};

/// A message as its reader sees it: its kind, and the names of the alerts it lists.
fn told(recorder: &Recorder) -> Vec<(String, Vec<String>)> {
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    let one = |message: Json| {
        let alerts = message["data"]["alerts"].as_array().into_iter().flatten().map(|alert| text(&alert["name"])).collect();
        (text(&message["data"]["kind"]), alerts)
    };
    recorder.came().iter().filter(|came| came.taken).map(|came| one(came.json())).collect()
}

fn message(kind: &str, alerts: &[&str]) -> (String, Vec<String>) {
    (kind.to_owned(), alerts.iter().map(|name| (*name).to_owned()).collect())
}

/// So long a test waits for a message that must not come.
fn quiet() {
    std::thread::sleep(Duration::from_secs(6));
}

#[test]
fn a_full_disk_is_one_message_although_nothing_can_be_written_and_one_when_there_is_room() {
    let recorder = Recorder::start();
    let setup = setup().watchful().telling(&recorder, "critical");
    let Some(disk) = SmallDisk::mount(&setup.data(""), 64) else { return };
    let daemon = setup.start();
    let full = disk.fill();
    until("webhooks are refused", LONG, || (daemon.deliver(&charge_event("evt_full", "ch_full", 100)).status == 503).then_some(()));
    until("it is told", LONG, || (!told(&recorder).is_empty()).then_some(()));
    until("the database is an effect", LONG, || {
        let alerts = daemon.get("/api/alerts?state=firing").ok();
        alerts["alerts"].as_array()?.iter().any(|alert| alert["name"] == "database_connect").then_some(())
    });
    quiet();
    assert_eq!(told(&recorder), [message("firing", &["disk"])]);
    assert_eq!(daemon.setup().count("SELECT COUNT(*) FROM notification"), 0, "it was told although it could not be written down");
    drop(full);
    until("webhooks are taken again", LONG, || (daemon.deliver(&charge_event("evt_full", "ch_full", 100)).status == 200).then_some(()));
    until("its end is told", LONG, || (told(&recorder).len() == 2).then_some(()));
    until("both are written down", LONG, || (daemon.setup().messages_sent() == 2).then_some(()));
    quiet();
    assert_eq!(told(&recorder), [message("firing", &["disk"]), message("resolved", &["disk"])]);
    assert_eq!(recorder.ids().len(), 2);
    drop(daemon.stop());
    drop(disk);
}

#[test]
fn a_database_that_takes_no_writes_is_one_message_and_nothing_is_forgotten() {
    let recorder = Recorder::start();
    let daemon = setup().watchful().telling(&recorder, "critical").start();
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE;
    let other = rusqlite::Connection::open_with_flags(daemon.setup().data("echopilot.db"), flags).expect("it opens");
    other.execute_batch("BEGIN IMMEDIATE").expect("the lock that a writer needs");
    let refused = daemon.deliver(&charge_event("evt_locked", "ch_locked", 100));
    assert_eq!(refused.status, 503, "what cannot be kept is not acknowledged");
    until("it is told", LONG, || (!told(&recorder).is_empty()).then_some(()));
    quiet();
    assert_eq!(told(&recorder), [message("firing", &["database_connect"])]);
    other.execute_batch("ROLLBACK").expect("it is free again");
    assert_eq!(daemon.deliver(&charge_event("evt_locked", "ch_locked", 100)).status, 200);
    until("its end is told", LONG, || (told(&recorder).len() == 2).then_some(()));
    until("both are written down", LONG, || (daemon.setup().messages_sent() == 2).then_some(()));
    // What happened meanwhile is in the history, and a restart tells nothing again.
    let kinds = daemon.setup().column(
        "SELECT e.kind FROM alert_event e JOIN alert a ON a.fingerprint = e.fingerprint WHERE a.name = 'database_connect' ORDER BY e.at",
    );
    for kind in ["fired", "told", "resolved"] {
        assert!(kinds.iter().any(|k| k == kind), "{kind} in {kinds:?}");
    }
    let daemon = daemon.kill9().start();
    quiet();
    assert_eq!(told(&recorder), [message("firing", &["database_connect"]), message("resolved", &["database_connect"])]);
    drop(daemon);
}

#[test]
fn a_provider_that_is_gone_is_one_message_and_its_end_brings_no_others() {
    let provider = |port: &str| {
        let mut server = python();
        server.arg(peer("localstripe_server.py")).arg(port);
        Peer::start(server)
    };
    let server = provider("0");
    let url = server.url();
    let recorder = Recorder::start();
    let daemon = setup()
        .watchful()
        .telling(&recorder, "warning")
        .env("STRIPE_MODE", "test")
        .env("STRIPE_SECRET_KEY", "sk_test_localstripe123")
        .env("ECHOPILOT__PROVIDER__BASE_URL", &url)
        .env("ECHOPILOT__TASKS__PAYOUT_RECON__RETRIES", "0")
        .env("ECHOPILOT__NOTIFY__GROUP_WAIT_S", "10")
        .start();
    drop(server);
    // A trial payment and a reconciliation fail; both say so before it is sure that the provider is gone.
    let _ = daemon.post("/api/slo/canary/run", &Json::Null);
    assert_eq!(daemon.run_task("payout_recon")["state"], "failed");
    until("it is told", Duration::from_secs(150), || (!told(&recorder).is_empty()).then_some(()));
    quiet();
    assert_eq!(told(&recorder), [message("firing", &["provider_failing"])]);
    let effects = recorder.came()[0].json()["data"]["alerts"][0]["effects"].to_string();
    assert!(effects.contains("payment_canary"), "what follows from it is inside: {effects}");
    // It is back. The trial payment is bad until the next one is made; that is named at the end, and no message.
    let server = provider(url.rsplit(':').next().expect("a port"));
    until("its end is told", LONG, || (told(&recorder).len() == 2).then_some(()));
    quiet();
    assert_eq!(told(&recorder), [message("firing", &["provider_failing"]), message("resolved", &["provider_failing"])]);
    let rest = recorder.came()[1].json()["data"]["alerts"][0]["effects"].to_string();
    assert!(rest.contains("payment_canary"), "{rest}");
    let shown = daemon.get("/api/alerts?state=firing").ok();
    let canary = shown["alerts"].as_array().into_iter().flatten().find(|alert| alert["name"] == "payment_canary").cloned();
    assert!(canary.is_some_and(|alert| alert["waits_for"].is_string()), "{shown}");
    drop(server);
}

#[test]
fn a_probe_that_flaps_is_told_once_until_it_is_calm() {
    let up = Arc::new(AtomicBool::new(true));
    let (recorder, server) = (Recorder::start(), Recorder::while_open(&up));
    let daemon = setup()
        .watchful()
        .telling(&recorder, "critical")
        .env("ECHOPILOT__PROBES__SHOP__TARGET", server.url("/health"))
        .env("ECHOPILOT__PROBES__SHOP__EVERY_S", "1")
        .env("ECHOPILOT__PROBES__SHOP__TIMEOUT_S", "1")
        .start();
    // Two bad looks, two good ones, and so on.
    for turn in 0..12 {
        let seen = server.came().len();
        up.store(turn % 2 == 1, Ordering::SeqCst);
        until("two more looks", LONG, || (server.came().len() >= seen + 2).then_some(()));
    }
    up.store(true, Ordering::SeqCst);
    assert_eq!(told(&recorder), [message("firing", &["probe"])]);
    until("it is calm", LONG, || (told(&recorder).len() == 2).then_some(()));
    quiet();
    assert_eq!(told(&recorder), [message("firing", &["probe"]), message("resolved", &["probe"])]);
    drop(daemon);
}

#[test]
fn five_hundred_alerts_at_once_are_one_message_and_none_after_a_restart() {
    let rules = (0..500).fold(String::new(), |mut rules, n| {
        write!(rules, "{}", always(&format!("mine_{n:03}"), "always so")).expect("writing to a string cannot fail");
        rules
    });
    let recorder = Recorder::start();
    let setup = setup().watchful().telling(&recorder, "critical");
    setup.write_rules(&rules);
    let daemon = setup.start();
    until("it is told", LONG, || (!told(&recorder).is_empty()).then_some(()));
    let firing = "SELECT COUNT(*) FROM alert WHERE state = 'firing' AND name LIKE 'mine_%'";
    until("all are kept", SHORT, || (daemon.setup().count(firing) == 500).then_some(()));
    quiet();
    let all = told(&recorder);
    assert_eq!((all.len(), &*all[0].0), (1, "firing"), "{all:?}");
    let first = recorder.came()[0].json();
    assert!(first["data"]["title"].as_str().is_some_and(|title| title.contains("499 more")), "{}", first["data"]["title"]);
    assert_eq!((all[0].1.len() as u64 + first["data"]["more"].as_u64().unwrap_or(0)), 500, "each is listed or counted");
    let daemon = daemon.kill9().start();
    until("all are known again", SHORT, || (daemon.setup().count(firing) == 500).then_some(()));
    quiet();
    assert_eq!(told(&recorder).len(), 1, "and not told again");
}

#[test]
fn a_clock_that_jumps_tells_nothing_twice_and_holds_nothing_back() {
    let recorder = Recorder::start();
    let setup = setup().watchful().telling(&recorder, "critical");
    let clock = setup.root().join("clock");
    let jump = |to: &str| std::fs::write(&clock, to).expect("written");
    jump("+0");
    setup.write_rules(&always("mine", "always so"));
    let up = Arc::new(AtomicBool::new(true));
    let server = Recorder::while_open(&up);
    let daemon = setup
        .env("ECHOPILOT__PROBES__SHOP__TARGET", server.url("/health"))
        .env("ECHOPILOT__PROBES__SHOP__EVERY_S", "1")
        .env("LD_PRELOAD", faketime())
        .env("FAKETIME_TIMESTAMP_FILE", clock.to_str().expect("a path"))
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .start();
    until("it is told", LONG, || (told(&recorder).len() == 1).then_some(()));
    jump("+3h");
    let shown =
        daemon.get("/healthz").header("date").and_then(|at| chrono::DateTime::parse_from_rfc2822(at).ok()).expect("every answer has one");
    assert!(shown.timestamp() > now_unix() + 2 * 3600, "the program has the other time");
    quiet();
    up.store(false, Ordering::SeqCst);
    until("what begins after a jump ahead is told", LONG, || (told(&recorder).len() == 2).then_some(()));
    jump("-3h");
    quiet();
    assert_eq!(told(&recorder), [message("firing", &["mine"]), message("firing", &["probe"])]);
    up.store(true, Ordering::SeqCst);
    until("what ends after a jump back is told", LONG, || (told(&recorder).len() == 3).then_some(()));
    quiet();
    assert_eq!(told(&recorder).len(), 3, "{:?}", told(&recorder));
    drop(daemon);
}
