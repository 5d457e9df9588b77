//! What the program tells systemd, over a real notification socket: ready, the watchdog's food while every critical part answers,
//! nothing while one hangs, stopping. And the unit that is shipped.

use std::{
    collections::BTreeMap,
    os::unix::net::UnixDatagram,
    path::Path,
    time::{Duration, Instant},
};

use echopilot_actors::config::Config;
use integration_tests::{LONG, Setup, until};
use serde_json::json;

use crate::setup;

/// What systemd would hear.
struct Systemd(UnixDatagram);

impl Systemd {
    fn listen(setup: &Setup) -> Self {
        let socket = UnixDatagram::bind(setup.root().join("notify")).expect("a socket");
        socket.set_nonblocking(true).expect("it can");
        Self(socket)
    }

    /// The next messages, as many as have come.
    fn heard(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let mut all = Vec::new();
        while let Ok(n) = self.0.recv(&mut buffer) {
            all.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
        }
        all
    }

    fn waits_for(&self, word: &str) -> Vec<String> {
        let mut all = Vec::new();
        until(&format!("systemd to hear {word}"), LONG, || {
            all.extend(self.heard());
            all.iter().any(|message| message.lines().any(|line| line.starts_with(word))).then_some(())
        });
        all
    }
}

#[test]
fn systemd_hears_ready_then_the_watchdog_while_every_critical_part_answers_then_stopping() {
    let setup = setup()
        .drills()
        .env("WATCHDOG_USEC", "600000")
        .env("ECHOPILOT__SUPERVISOR__PING_EVERY_MS", "200")
        .env("ECHOPILOT__SUPERVISOR__PING_LIMIT_MS", "3000");
    let systemd = Systemd::listen(&setup);
    let socket = setup.root().join("notify").to_string_lossy().into_owned();
    let daemon = setup.env("NOTIFY_SOCKET", &socket).start();
    systemd.waits_for("READY=1");
    let begun = Instant::now();
    for _ in 0..5 {
        let heard = systemd.waits_for("WATCHDOG=1");
        assert!(heard.iter().any(|m| m.contains("STATUS=serving")), "{heard:?}");
    }
    let fed = begun.elapsed() / 5;
    println!("fed every {fed:?} on average, asked for every 600 ms");
    assert!(fed < Duration::from_millis(600), "often enough: {fed:?}");

    // A critical part hangs: no food from the first look after it until it was killed and restarted.
    daemon.post("/api/supervisor/ingest/drill", &json!({"kind": "hang"})).ok();
    let hungry = systemd.waits_for("STATUS=not well: ingest");
    assert!(!hungry.last().expect("something").contains("WATCHDOG=1"), "{hungry:?}");
    let mut before_restart = Vec::new();
    until("ingest is back", LONG, || {
        before_restart.extend(systemd.heard());
        (daemon.part("ingest")["generation"] == 2).then_some(())
    });
    // The one message that may have come between the restart and our seeing it is the last.
    before_restart.pop();
    assert!(before_restart.iter().all(|m| !m.contains("WATCHDOG=1")), "not while it hangs: {before_restart:?}");
    systemd.waits_for("WATCHDOG=1");

    let ended = daemon.terminate();
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    let last = systemd.waits_for("STOPPING=1");
    let stopping = last.iter().find(|m| m.contains("STOPPING=1")).expect("it came");
    let extended = stopping.lines().find_map(|line| line.strip_prefix("EXTEND_TIMEOUT_USEC=")).and_then(|n| n.parse::<u64>().ok());
    assert!(extended.is_some_and(|us| us > 90_000_000), "nine parts of 10 s each: {stopping}");
}

/// The unit's settings by name; a name may be there several times.
fn unit() -> BTreeMap<String, Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/echopilot.service");
    let text = std::fs::read_to_string(path).expect("the unit is shipped");
    let mut settings: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')) {
        settings.entry(name.to_owned()).or_default().push(value.to_owned());
    }
    settings
}

#[test]
fn the_unit_agrees_with_the_limits_of_the_daemon() {
    let unit = unit();
    let one = |name: &str| unit.get(name).and_then(|v| v.first()).unwrap_or_else(|| panic!("{name} is set")).clone();
    let seconds = |name: &str| one(name).parse::<u64>().unwrap_or_else(|_| panic!("{name} is in seconds"));
    assert_eq!((one("Type"), one("NotifyAccess"), one("Restart")), ("notify".into(), "main".into(), "on-failure".into()));
    let environment = [("ECHOPILOT__PATHS__CONFIGS".to_owned(), "no-such-folder".to_owned())].into();
    let limits = Config::load(None, &environment).expect("the defaults are valid").supervisor;
    let healing_ms = limits.ping_every_ms + limits.ping_limit_ms + limits.kill_limit_ms;
    assert!(seconds("WatchdogSec") * 1000 > healing_ms, "a part that hangs is restarted before systemd ends the process");
    let stop_ms = 9 * (limits.stop_timeout_ms + 500) + 2000 + 10_000;
    assert!(seconds("TimeoutStopSec") * 1000 >= stop_ms, "no stop is cut short: {stop_ms} ms");
    for name in ["NoNewPrivileges", "ProtectSystem", "SystemCallFilter", "RestrictAddressFamilies", "MemoryDenyWriteExecute"] {
        assert!(unit.contains_key(name), "{name}");
    }
}
