//! What is watched outside: a certificate of a real TLS server that ends soon, a server that goes away, and a job that says it failed.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
};

use integration_tests::{LONG, TestDaemon, until};
use serde_json::Value as Json;

use crate::setup;

/// Ended when it goes.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill(); // ours, by its own id
        let _ = self.0.wait();
    }
}

fn firing(daemon: &TestDaemon, name: &str) -> Option<Json> {
    daemon.get("/api/alerts?state=firing").ok()["alerts"].as_array().into_iter().flatten().find(|a| a["name"] == name).cloned()
}

#[test]
fn a_certificate_that_ends_soon_and_a_server_that_is_gone_are_told_apart() {
    let setup = setup();
    let file = |name: &str| setup.root().join(name).to_str().expect("a path").to_owned();
    let (certificate, key) = (file("certificate.pem"), file("key.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "5",
            "-subj",
            "/CN=localhost",
        ])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-out", &certificate, "-keyout", &key])
        .stderr(Stdio::null())
        .status();
    assert!(made.is_ok_and(|status| status.success()), "openssl makes a certificate");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let target = format!("127.0.0.1:{port}");
    let child = Command::new("openssl")
        .args(["s_server", "-accept", &target, "-cert", &certificate, "-key", &key, "-quiet", "-www"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl serves");
    let server = Ended(child);
    let daemon = setup
        .env("SSL_CERT_FILE", certificate)
        .env("ECHOPILOT__PROBES__SHOP__KIND", "tls")
        .env("ECHOPILOT__PROBES__SHOP__TARGET", target)
        .env("ECHOPILOT__PROBES__SHOP__EVERY_S", "5")
        .env("ECHOPILOT__PROBES__SHOP__TIMEOUT_S", "4")
        .schedule()
        .start();
    let told = until("the certificate is told", LONG, || firing(&daemon, "certificate"));
    assert_eq!(told["severity"], "warning", "{told}");
    assert!(firing(&daemon, "probe").is_none(), "the server answers");
    drop(server);
    let told = until("the server is gone", LONG, || firing(&daemon, "probe"));
    assert_eq!(told["severity"], "critical", "{told}");
}

#[test]
fn a_job_that_says_it_failed_is_an_alert_until_it_is_well_again() {
    let daemon = setup().schedule().env("ECHOPILOT__PUSHES__NIGHTLY__EVERY_S", "3600").start();
    let url = daemon.get("/api/pushes/nightly").ok()["push"]["ping_url"].as_str().expect("the administrator sees it").to_owned();
    let path = url.split_once("//").and_then(|(_, rest)| rest.find('/').map(|i| rest[i..].to_owned())).expect("an address");
    assert_eq!(daemon.request("GET", &format!("{path}/fail"), &[], b"").status, 200);
    until("it is told", LONG, || firing(&daemon, "push"));
    assert_eq!(daemon.request("GET", &path, &[], b"").status, 200);
    until("it is over", LONG, || firing(&daemon, "push").is_none().then_some(()));
}
