//! Channels and pushes from outside: the signed webhook is verified by the official library of its specification, and jobs report as they
//! do to healthchecks.io.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::mpsc,
};

use integration_tests::{LONG, fed, peer, python};
use serde_json::{Value as Json, json};

use crate::setup;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Takes one request and answers 200: its headers in lower case, and its body.
fn one_request() -> (String, mpsc::Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a request");
        let (mut bytes, mut buffer) = (Vec::new(), [0_u8; 4096]);
        loop {
            let n = stream.read(&mut buffer).expect("readable");
            bytes.extend_from_slice(&buffer[..n]);
            let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = header(&head, "content-length").parse::<usize>().expect("a length");
            if bytes.len() >= end + 4 + length {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                let exact = String::from_utf8_lossy(&bytes[..end]).into_owned();
                let _ = sender.send((exact, bytes[end + 4..].to_vec()));
                return;
            }
        }
    });
    (address, receiver)
}

fn header(head: &str, name: &str) -> String {
    let mut values = head.lines().filter_map(|line| line.split_once(": ")).filter(|(key, _)| key.eq_ignore_ascii_case(name));
    values.next().map_or_else(|| panic!("{name} in {head}"), |(_, value)| value.trim().to_owned())
}

#[test]
fn the_webhooks_signature_is_that_of_the_standard_webhooks_library() {
    let (address, got) = one_request();
    let daemon =
        setup().env("ECHOPILOT__CHANNELS__WEBHOOK__URL", format!("http://{address}/hook")).env("ALERT_WEBHOOK_SECRET", SECRET).start();
    let told = daemon.post("/api/channels/webhook/test", &json!({})).ok();
    assert_eq!(told["ok"], true, "{told}");
    let (head, body) = got.recv_timeout(LONG).expect("it arrives");
    let message: Json = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(message["data"]["kind"], "test", "{message}");
    let verified = |body: &[u8]| {
        let mut command = python();
        command.arg(peer("standard_webhook.py")).arg(SECRET);
        command.args(["webhook-id", "webhook-timestamp", "webhook-signature"].map(|name| header(&head, name)));
        fed(command, body)
    };
    assert_eq!(verified(&body), "valid");
    let mut changed = body.clone();
    *changed.last_mut().expect("a body") = b' ';
    assert!(verified(&changed).starts_with("refused"), "a changed body is refused");
}

#[test]
fn a_channel_that_is_off_says_what_it_needs_and_a_refusal_is_told() {
    let daemon = setup().env("ECHOPILOT__CHANNELS__ALERTMANAGER__URL", "http://127.0.0.1:9").start();
    let channels = daemon.get("/api/channels").ok();
    let of =
        |name: &str| channels["channels"].as_array().expect("a list").iter().find(|c| c["name"] == name).cloned().expect("it is there");
    for (name, needs) in [
        ("email", "channels.email.host"),
        ("slack", "SLACK_WEBHOOK_URL"),
        ("telegram", "TELEGRAM_BOT_TOKEN"),
        ("pagerduty", "PAGERDUTY_ROUTING_KEY"),
    ] {
        assert!(of(name).to_string().contains(needs), "{name}: {}", of(name));
    }
    let refused = daemon.post("/api/channels/alertmanager/test", &json!({}));
    assert!(refused.status != 200 || refused.json()["ok"] == false, "nobody listens there: {}", refused.text());
    daemon.post("/api/channels/nonsense/test", &json!({})).problem(404, "not_found");
}

#[test]
fn a_job_reports_as_to_healthchecks() {
    let daemon = setup().env("ECHOPILOT__PUSHES__NIGHTLY__EVERY_S", "3600").env("ECHOPILOT__PUSHES__NIGHTLY__GRACE_S", "60").start();
    let url = daemon.get("/api/pushes/nightly").ok()["push"]["ping_url"].as_str().expect("the administrator sees it").to_owned();
    let path = url.split_once("//").and_then(|(_, rest)| rest.find('/').map(|i| rest[i..].to_owned())).expect("an address");
    let ping = |method: &str, end: &str, body: &[u8]| daemon.request(method, &format!("{path}{end}"), &[], body);
    let started = ping("GET", "/start?rid=123e4567-e89b-12d3-a456-426614174000", b"");
    assert_eq!((started.status, &*started.text()), (200, "OK"));
    assert!(started.header("ping-body-limit").is_some());
    assert_eq!(ping("POST", "?rid=123e4567-e89b-12d3-a456-426614174000", b"42 rows").status, 200);
    let shown = daemon.get("/api/pushes/nightly").ok();
    assert_eq!((&shown["push"]["state"], &shown["push"]["failed"]), (&json!("up"), &json!(false)), "{shown}");
    assert!(shown.to_string().contains("42 rows"), "{shown}");
    assert_eq!(ping("GET", "/7", b"").status, 200);
    let shown = daemon.get("/api/pushes/nightly").ok();
    assert_eq!((&shown["push"]["state"], &shown["push"]["exit_status"]), (&json!("down"), &json!(7)), "{shown}");
    assert_eq!(ping("GET", "", b"").status, 200);
    assert_eq!(daemon.get("/api/pushes/nightly").ok()["push"]["state"], "up");
    assert_eq!(ping("GET", "/nonsense", b"").status, 400, "as healthchecks.io answers an address that is none");
    let other = path.replace("/nightly", "/weekly");
    assert_eq!(daemon.request("GET", &other, &[], b"").status, 404);
}
