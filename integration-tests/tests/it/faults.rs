//! Bad starts and bad days: each wrong start ends at once with its own exit code and a sentence that says what to do; each fault
//! while running costs as little as it must, and nothing that was acknowledged.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use integration_tests::{LONG, Output, SHORT, TestDaemon, WEBHOOK_SECRET, signed, until};
use serde_json::Value as Json;

use crate::{ingest::charge_event, setup};

/// sysexits: configuration, and input or output.
const CONFIG: i32 = 78;

#[track_caller]
fn says(output: &Output, words: &[&str]) {
    for word in words {
        assert!(output.stderr.contains(word), "{} should say {word:?}:\n{}", output.what, output.stderr);
    }
    assert!(!output.stderr.contains("panicked") && !output.stderr.contains("RUST_BACKTRACE"), "{}", output.stderr);
}

#[test]
fn an_unknown_key_ends_the_start_with_78_and_a_suggestion() {
    let by_environment = setup().env("ECHOPILOT__SERVER__LISTNE", "127.0.0.1:0").start_refused();
    by_environment.expect(CONFIG);
    says(&by_environment, &["server.listne", "did you mean server.listen?", "ECHOPILOT__SERVER__LISTNE"]);

    let setup = setup();
    std::fs::write(setup.configs("echopilot.toml"), "[slo]\nsuccess_rte = 0.9\n").expect("a file");
    let by_file = setup.start_refused();
    by_file.expect(CONFIG);
    says(&by_file, &["slo.success_rte", "did you mean slo.success_rate?", "echopilot.toml"]);
}

#[test]
fn a_value_that_cannot_be_used_is_named_with_its_rule() {
    for (name, value, words) in [
        ("SLO_SUCCESS_RATE", "1.5", "between 0 and 1"),
        ("ECHOPILOT__SERVER__MAX_IN_FLIGHT", "many", "a whole number"),
        ("ECHOPILOT__SANDBOX__LISTEN", "0.0.0.0:0", "loopback"),
        ("STRIPE_MODE", "alive", "provider"),
    ] {
        let output = setup().env(name, value).start_refused();
        output.expect(CONFIG);
        says(&output, &[words]);
    }
}

#[test]
fn a_secret_in_a_file_is_refused_with_the_name_of_its_variable_and_is_not_repeated() {
    let setup = setup();
    std::fs::write(setup.configs("echopilot.toml"), "[server]\ndash_key = \"do-not-print-this-secret\"\n").expect("a file");
    let output = setup.start_refused();
    output.expect(CONFIG);
    says(&output, &["DASHBOARD_KEY"]);
    assert!(!output.stderr.contains("do-not-print"), "{}", output.stderr);
}

#[test]
fn live_mode_without_its_secrets_does_not_start_and_makes_none() {
    let setup = setup().without("SESSION_SECRET").without("STRIPE_WEBHOOK_SECRET").env("STRIPE_MODE", "live");
    let setup = setup.env("STRIPE_SECRET_KEY", "sk_test_0123456789abcdef0123456789abcdef");
    let output = setup.start_refused();
    output.expect(CONFIG);
    says(&output, &["DASHBOARD_KEY"]);
    assert!(!setup.data("dash_key").exists(), "in live mode nothing is made up");
}

#[test]
fn a_port_in_use_is_named_with_its_key() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let output = setup().env("ECHOPILOT__SERVER__LISTEN", &address).start_refused();
    assert!(output.code.is_some_and(|code| code >= 64), "{:?}", output.code);
    says(&output, &[&address, "server.listen"]);
    let sandbox = setup().env("ECHOPILOT__SANDBOX__LISTEN", &address).start_refused();
    says(&sandbox, &[&address, "sandbox.listen"]);
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    // Below a regular file: no permission of the superuser helps there.
    let setup = setup();
    let file = setup.root().join("a-file");
    std::fs::write(&file, "not a directory").expect("a file");
    for name in ["DATA", "LOGS", "BACKUPS"] {
        let path = file.join("below").to_string_lossy().into_owned();
        let output = self::setup().env(&format!("ECHOPILOT__PATHS__{name}"), &path).start_refused();
        assert!(output.code.is_some_and(|code| code >= 64), "{:?} {}", output.code, output.stderr);
        says(&output, &[&path]);
    }
}

#[test]
fn a_database_file_that_is_none_is_left_alone() {
    let setup = setup();
    std::fs::create_dir_all(setup.data("")).expect("the data directory");
    let text = "this is somebody's diary, not a database\n".repeat(300);
    std::fs::write(setup.data("echopilot.db"), &text).expect("a file");
    let output = setup.start_refused();
    assert!(output.code.is_some_and(|code| code >= 64), "{:?}", output.code);
    says(&output, &["echopilot.db", "not an SQLite database"]);
    assert_eq!(std::fs::read_to_string(setup.data("echopilot.db")).expect("it is still there"), text);
}

#[test]
fn a_database_of_a_newer_program_is_left_alone() {
    let setup = setup().start().stop();
    let connection = rusqlite::Connection::open(setup.data("echopilot.db")).expect("it opens");
    connection.execute_batch("PRAGMA user_version = 999").expect("a newer version");
    drop(connection);
    let output = setup.start_refused();
    assert!(output.code.is_some_and(|code| code >= 64), "{:?}", output.code);
    says(&output, &["999"]);
}

#[test]
fn a_second_daemon_on_the_same_data_is_refused_and_the_first_serves_on() {
    let daemon = setup().start();
    let output = daemon.setup().start_refused();
    assert!(output.code.is_some_and(|code| code >= 64), "{:?}", output.code);
    says(&output, &["in use", &daemon.pid().to_string()]);
    daemon.get("/api/slo/status").ok();
}

/// What clients saw while something broke.
#[derive(Debug, Default)]
struct Seen {
    answers: u64,
    refused: u64,
    wrong: Vec<String>,
    acknowledged: BTreeSet<String>,
}

/// Loads the daemon from four threads: two deliver webhooks, two ask for the service level. Only 200, or 503 with `Retry-After`,
/// is right. At most 4 x 3000 requests.
fn load(daemon: &TestDaemon, stop: &Arc<AtomicBool>, seen: &Arc<Mutex<Seen>>) -> Vec<std::thread::JoinHandle<()>> {
    (0..4)
        .map(|thread| {
            let (address, key, stop, seen) = (daemon.address().to_owned(), daemon.key.clone(), stop.clone(), seen.clone());
            std::thread::spawn(move || {
                for n in 0..3000 {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let id = format!("evt_load_{thread}_{n}");
                    let request = if thread < 2 {
                        webhook_request(&charge_event(&id, &format!("ch_load_{thread}_{n}"), 1))
                    } else {
                        format!("GET /api/slo/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Dash-Key: {key}\r\n\r\n")
                    };
                    let answer = exchange(&address, &request);
                    let mut seen = seen.lock().expect("no thread panics with it");
                    let lower = answer.to_lowercase();
                    seen.answers += 1;
                    if answer.starts_with("HTTP/1.1 200") {
                        if thread < 2 {
                            seen.acknowledged.insert(id);
                        }
                    } else if answer.starts_with("HTTP/1.1 503") && lower.contains("\r\nretry-after:") && lower.contains("\"unavailable\"")
                    {
                        seen.refused += 1;
                    } else {
                        seen.wrong.push(answer.lines().next().unwrap_or("the connection was dropped").to_owned());
                    }
                }
            })
        })
        .collect()
}

fn webhook_request(event: &Json) -> String {
    let body = event.to_string();
    format!(
        "POST /api/payments/webhook HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\nStripe-Signature: {}\r\n\r\n{body}",
        body.len(),
        signed(WEBHOOK_SECRET, body.as_bytes())
    )
}

/// Sends a request on a connection of its own and reads to the end; empty if the connection fails.
fn exchange(address: &str, request: &str) -> String {
    let mut answer = Vec::new();
    if let Ok(mut stream) = TcpStream::connect(address) {
        let _ = stream.set_read_timeout(Some(SHORT));
        let _ = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_end(&mut answer).map(drop));
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Crashes `part` under load and waits for its replacement.
fn crash_under_load(part: &str) {
    let daemon = setup().drills().start();
    let before = daemon.part(part);
    let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
    let threads = load(&daemon, &stop, &seen);
    let answers = || seen.lock().expect("no thread panics with it").answers;
    until("some load", LONG, || (answers() > 50).then_some(()));
    let drilled = daemon.post(&format!("/api/supervisor/{part}/drill"), &Json::Null);
    assert!(matches!(drilled.status, 200 | 503), "{}", drilled.text()); // 503: it waits in the part's mailbox behind the load
    // Others answer while it restarts.
    daemon.get("/api/tasks").ok();
    assert_eq!(daemon.request("GET", "/healthz", &[], b"").status, 200);
    let after = until("the replacement", LONG, || {
        let now = daemon.part(part);
        (now["state"] == "running" && now["generation"].as_u64() > before["generation"].as_u64()).then_some(now)
    });
    let enough = answers() + 100;
    until("more load", LONG, || (answers() > enough).then_some(()));
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("a client does not panic");
    }
    assert_eq!(after["restarts"].as_u64(), before["restarts"].as_u64().map(|n| n + 1), "{after}");
    assert!(after["last_failure"].as_str().is_some_and(|cause| cause.contains("drill")), "the cause is kept: {after}");
    let seen = std::mem::take(&mut *seen.lock().expect("the threads ended"));
    assert!(seen.wrong.is_empty(), "only 200 and 503 with Retry-After are right: {:?}", &seen.wrong[..seen.wrong.len().min(5)]);
    assert!(!seen.acknowledged.is_empty());
    daemon.settle();
    let stored: BTreeSet<_> = daemon.setup().column("SELECT event_id FROM webhook_event").into_iter().collect();
    assert!(seen.acknowledged.is_subset(&stored), "nothing acknowledged is lost");
    let booked = daemon.setup().column("SELECT source FROM ledger");
    assert_eq!(booked.len(), stored.len(), "each is booked once");
    assert_eq!(booked.iter().collect::<BTreeSet<_>>().len(), booked.len());
    until("the crash to be in the journal", SHORT, || {
        let sql = format!("SELECT COUNT(*) FROM journal WHERE kind = 'actor.failed' AND subject = '{part}'");
        (daemon.setup().count(&sql) == 1).then_some(())
    });
    let log = std::fs::read_to_string(daemon.setup().logs("echopilot.ndjson")).expect("the log");
    let line = log.lines().find(|line| line.contains("failed; restarting")).expect("one structured line says so");
    let line: Json = serde_json::from_str(line).expect("a line of the log is JSON");
    assert!(line.to_string().contains("drill") && line.to_string().contains(part), "{line}");
}

#[test]
fn a_crash_of_the_slo_part_under_load_costs_its_callers_a_503_at_most() {
    crash_under_load("slo");
}

#[test]
fn a_crash_of_ingest_under_load_loses_nothing_that_was_acknowledged() {
    crash_under_load("ingest");
}

#[test]
fn the_daemon_stays_ready_under_load() {
    let daemon = setup().start();
    let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
    let threads = load(&daemon, &stop, &seen);
    let answers = || seen.lock().expect("no thread panics with it").answers;
    until("some load", LONG, || (answers() > 100).then_some(()));
    let asked: Vec<_> = (0..20)
        .map(|_| {
            let enough = answers() + 10;
            until("more load", LONG, || (answers() > enough).then_some(()));
            daemon.request("GET", "/readyz", &[], b"")
        })
        .collect();
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("a client does not panic");
    }
    let unready: Vec<_> = asked.iter().filter(|answer| answer.status != 200).map(integration_tests::Answer::text).collect();
    assert!(unready.is_empty(), "{} of {}: {}", unready.len(), asked.len(), unready[0]);
    assert!(seen.lock().expect("the threads ended").wrong.is_empty());
}

#[test]
fn a_crash_of_the_gateway_under_load_drops_no_connection() {
    crash_under_load("gateway");
}

#[test]
fn without_drills_nobody_can_crash_a_part() {
    let daemon = setup().start();
    daemon.post("/api/supervisor/slo/drill", &Json::Null).problem(403, "forbidden");
}

#[test]
fn a_stop_under_load_ends_with_0_and_loses_nothing_that_was_acknowledged() {
    let daemon = setup().start();
    let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
    let threads = load(&daemon, &stop, &seen);
    until("some load", LONG, || (seen.lock().expect("no thread panics with it").answers > 100).then_some(()));
    let ended = daemon.terminate();
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("a client does not panic");
    }
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert!(ended.took < Duration::from_secs(12), "it took {:?}", ended.took);
    let acknowledged = std::mem::take(&mut seen.lock().expect("the threads ended").acknowledged);
    let stored: BTreeSet<_> = ended.setup.column("SELECT event_id FROM webhook_event").into_iter().collect();
    assert!(!acknowledged.is_empty() && acknowledged.is_subset(&stored), "nothing acknowledged is lost");
    assert!(!ended.setup.data("daemon.json").exists(), "nothing points at a process that is gone");
    let stopped = ended.setup.count("SELECT COUNT(DISTINCT subject) FROM journal WHERE kind = 'actor.stopped'");
    assert!(stopped >= 8, "each part's stop is in the journal: {stopped}");
}

#[test]
fn sigint_stops_as_well() {
    let mut daemon = setup().start();
    daemon.signal("INT");
    assert_eq!(daemon.ended().code, Some(0));
}

#[test]
fn a_request_head_that_does_not_come_closes_the_connection() {
    let daemon = setup().env("ECHOPILOT__SERVER__HEADER_TIMEOUT_MS", "500").start();
    let mut slow = TcpStream::connect(daemon.address()).expect("a connection");
    slow.set_read_timeout(Some(SHORT)).expect("a time limit");
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ").expect("half a head");
    let start = Instant::now();
    let mut answer = Vec::new();
    slow.read_to_end(&mut answer).expect("the connection is closed, not left open");
    assert!(start.elapsed() < Duration::from_secs(5), "closed after {:?}", start.elapsed());
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    daemon.get("/api/slo/status").ok();
}

#[test]
fn a_body_that_does_not_come_is_answered_408() {
    let daemon = setup().env("ECHOPILOT__SERVER__BODY_TIMEOUT_MS", "500").start();
    let answer = exchange(
        daemon.address(),
        "POST /api/payments/webhook HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 100\r\nStripe-Signature: t=1,v1=a\r\n\r\n{\"id\"",
    );
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[test]
fn a_flood_of_connections_is_bounded_and_passes() {
    let daemon = setup().env("ECHOPILOT__SERVER__MAX_CONNECTIONS", "32").env("ECHOPILOT__SERVER__HEADER_TIMEOUT_MS", "1500").start();
    let fds = || std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).map_or(0, Iterator::count);
    let before = fds();
    let flood: Vec<_> = (0..200).filter_map(|_| TcpStream::connect(daemon.address()).ok()).collect();
    assert_eq!(flood.len(), 200, "the kernel takes them, the daemon as many as it wants");
    until("the daemon to take as many as it may", SHORT, || (fds() > before + 16).then_some(()));
    assert!(fds() <= before + 40, "{} descriptors, {before} before", fds());
    // They said nothing, so the header limit ends them and a real request gets its turn.
    let answer = until("an answer in spite of the flood", LONG, || {
        let answer = exchange(daemon.address(), "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        answer.starts_with("HTTP/1.1").then_some(answer)
    });
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(flood);
}
