//! What is watched outside: a certificate of a real TLS server that ends soon, a server that goes away, and a job that says it failed.

use std::net::TcpListener;

use integration_tests::{LONG, Recorder, SHORT, Serving, Setup, TestDaemon, command, faketime, run_to_end, until};
use serde_json::json;

use crate::{backup::firing, channels::ping_path, setup};

/// A certificate for this machine, made 30 days ago, that ends in so many days; and its key.
fn made(setup: &Setup, days: i64) -> (String, String) {
    let file = |name: &str| setup.root().join(name).to_str().expect("a path").to_owned();
    let (certificate, key) = (file("certificate.pem"), file("key.pem"));
    let mut openssl = command("openssl");
    openssl
        .env("LD_PRELOAD", faketime())
        .env("FAKETIME", "-30d")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=localhost"])
        .args(["-days", &(30 + days).to_string()])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-out", &certificate, "-keyout", &key]);
    run_to_end(openssl, SHORT).expect(0);
    (certificate, key)
}

/// A TLS server whose certificate ends in so many days, and a daemon that watches it.
fn watched(days: i64) -> (Serving, TestDaemon) {
    let setup = setup();
    let (certificate, key) = made(&setup, days);
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let target = format!("127.0.0.1:{port}");
    let mut openssl = command("openssl");
    openssl.args(["s_server", "-accept", &target, "-cert", &certificate, "-key", &key, "-quiet", "-www"]);
    let server = Serving::start(openssl);
    let daemon = setup
        .env("SSL_CERT_FILE", certificate)
        .env("ECHOPILOT__PROBES__SHOP__KIND", "tls")
        .env("ECHOPILOT__PROBES__SHOP__TARGET", target)
        .env("ECHOPILOT__PROBES__SHOP__EVERY_S", "5")
        .env("ECHOPILOT__PROBES__SHOP__TIMEOUT_S", "4")
        .schedule()
        .start();
    (server, daemon)
}

#[test]
fn a_certificate_that_ends_soon_and_a_server_that_is_gone_are_told_apart() {
    let (server, daemon) = watched(5);
    let told = until("the certificate is told", LONG, || firing(&daemon, "certificate"));
    assert_eq!(told["severity"], "warning", "{told}");
    assert!(firing(&daemon, "probe").is_none(), "the server answers");
    drop(server);
    let told = until("the server is gone", LONG, || firing(&daemon, "probe"));
    assert_eq!(told["severity"], "critical", "{told}");
}

#[test]
fn a_certificate_that_has_ended_says_when() {
    let (_server, daemon) = watched(-2);
    let told = until("the certificate is told", LONG, || firing(&daemon, "certificate"));
    assert!(told["reason"].as_str().is_some_and(|why| why.ends_with("the certificate ended 2 days ago")), "{told}");
    let told = until("nobody can connect", LONG, || firing(&daemon, "probe"));
    assert!(told["reason"].as_str().is_some_and(|why| why.contains("expired")), "{told}");
}

#[test]
fn a_job_that_says_it_failed_is_an_alert_until_it_is_well_again() {
    let daemon = setup().schedule().env("ECHOPILOT__PUSHES__NIGHTLY__EVERY_S", "3600").start();
    let path = ping_path(&daemon, "nightly");
    assert_eq!(daemon.request("GET", &format!("{path}/fail"), &[], b"").status, 200);
    until("it is told", LONG, || firing(&daemon, "push"));
    assert_eq!(daemon.request("GET", &path, &[], b"").status, 200);
    until("it is over", LONG, || firing(&daemon, "push").is_none().then_some(()));
}

#[test]
fn the_switch_outside_hears_of_us_only_while_every_critical_part_answers() {
    let switch = Recorder::start();
    let daemon = setup().drills().env("ECHOPILOT__HEARTBEAT__URL", switch.url("/uuid")).start();
    let paths = || switch.came().into_iter().map(|came| came.path).collect::<Vec<_>>();
    until("the start", LONG, || (paths() == ["/uuid/start"]).then_some(()));
    assert_eq!(daemon.run_task("heartbeat")["state"], "succeeded");
    assert_eq!(paths(), ["/uuid/start", "/uuid"]);
    daemon.post("/api/supervisor/ingest/drill", &json!({"kind": "hang"})).ok();
    daemon.run_task("heartbeat");
    assert_eq!(paths(), ["/uuid/start", "/uuid", "/uuid/fail"]);
    let why = String::from_utf8_lossy(&switch.came()[2].body).into_owned();
    assert!(why.contains("ingest"), "it says which part: {why}");
    until("the part is back", LONG, || (daemon.part("ingest")["generation"].as_u64() >= Some(2)).then_some(()));
    daemon.run_task("heartbeat");
    assert_eq!(paths().last().map(String::as_str), Some("/uuid"));
}
