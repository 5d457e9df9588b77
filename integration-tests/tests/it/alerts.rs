//! Alerts from outside: a recorder on loopback counts the messages of the real program, killed while an alert fires, and a person
//! acknowledges by the link in a message, by the command line and over HTTP.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::{Arc, Mutex},
};

use integration_tests::{LONG, SHORT, Setup, until};
use serde_json::{Value as Json, json};

use crate::setup;

/// What came in, as JSON.
struct Recorder {
    address: String,
    got: Arc<Mutex<Vec<Json>>>,
}

impl Recorder {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let got = Arc::new(Mutex::new(Vec::new()));
        let kept = got.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let (mut bytes, mut buffer) = (Vec::new(), [0_u8; 4096]);
                while let Ok(n) = stream.read(&mut buffer) {
                    bytes.extend_from_slice(&buffer[..n]);
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let length = head.lines().find_map(|l| l.to_lowercase().strip_prefix("content-length: ")?.trim().parse().ok());
                    if n == 0 || length.is_some_and(|l: usize| body.len() >= l) {
                        kept.lock().expect("unlocked").push(serde_json::from_str(body).unwrap_or(Json::Null));
                        break;
                    }
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            }
        });
        Self { address, got }
    }

    fn got(&self) -> Vec<Json> {
        self.got.lock().expect("unlocked").clone()
    }
}

/// A rule that always fires, because the database does answer.
const RULE: &str = "[rules.mine]\nsystem = \"own\"\ncomponent = \"mine\"\nseverity = \"critical\"\nfigure = \"database_up\"\nbelow = 2\nwhat = \"always so\"\nowner = \"Me.\"\nrunbook = \"Nothing.\"\ntask = \"heartbeat\"\n";

fn telling(recorder: &Recorder) -> Setup {
    let setup = setup()
        .schedule()
        .env("ECHOPILOT__CHANNELS__WEBHOOK__MIN_SEVERITY", "critical")
        .env("ECHOPILOT__CHANNELS__WEBHOOK__URL", format!("http://{}/hook", recorder.address))
        .env("ALERT_WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        .env("ECHOPILOT__NOTIFY__GROUP_WAIT_S", "1")
        .env("ECHOPILOT__NOTIFY__GROUP_INTERVAL_S", "1")
        .env("ECHOPILOT__ALERT__WATCH_EVERY_S", "1");
    std::fs::create_dir_all(setup.configs("")).expect("a folder");
    std::fs::write(setup.configs("alerts.toml"), RULE).expect("written");
    setup
}

fn sent(setup: &Setup) -> i64 {
    setup.count("SELECT COUNT(*) FROM notification WHERE state = 'sent'")
}

#[test]
fn killed_while_it_fires_it_tells_its_beginning_once_and_its_end_once() {
    let recorder = Recorder::start();
    let daemon = telling(&recorder).start();
    until("it is told", LONG, || (sent(daemon.setup()) == 1).then_some(()));
    let mut setup = daemon.kill9();
    for _ in 0..3 {
        let daemon = setup.start();
        until("it fires again as before", LONG, || {
            let alerts = daemon.get("/api/alerts?state=firing").ok();
            alerts["alerts"].as_array().is_some_and(|all| all.iter().any(|a| a["name"] == "mine")).then_some(())
        });
        setup = daemon.kill9();
    }
    assert_eq!((recorder.got().len(), sent(&setup)), (1, 1), "told once: {:?}", recorder.got());
    std::fs::write(setup.configs("alerts.toml"), format!("{RULE}off = true\n")).expect("written");
    let daemon = setup.start();
    until("its end is told", LONG, || (sent(daemon.setup()) == 2).then_some(()));
    let got = recorder.got();
    let ids: std::collections::BTreeSet<String> = got.iter().map(|m| m["data"]["id"].to_string()).collect();
    assert_eq!((got.len(), ids.len()), (2, 2), "{got:?}");
}

#[test]
fn a_link_acknowledges_once_and_the_rest_is_done_over_http_and_on_the_command_line() {
    let recorder = Recorder::start();
    let daemon = telling(&recorder).start();
    until("it is told", LONG, || (sent(daemon.setup()) == 1).then_some(()));
    let id = daemon.get("/api/alerts?state=firing&severity=critical").ok()["alerts"][0]["id"].as_str().expect("an id").to_owned();
    let shown = daemon.get(&format!("/api/alerts/{id}")).ok();
    assert_eq!(shown["deliveries"][0]["attempts"][0]["ok"], true, "{shown}");
    let text = daemon.setup().column("SELECT message FROM notification")[0].clone();
    let message: Json = serde_json::from_str(&text).expect("JSON");
    let link = message["alerts"][0]["links"]["acknowledge"].as_str().expect("a link");
    let (_, query) = link.split_once('?').expect("a query");

    // A look changes nothing, needs no key and tells nobody where it was.
    let page = daemon.request("GET", &format!("/act?{query}"), &[], b"");
    assert_eq!(page.status, 200);
    assert!(page.text().contains("<button") && page.text().contains("always so"), "{}", page.text());
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    assert!(page.header("content-security-policy").is_some_and(|p| p.contains("default-src 'none'")));
    let acknowledged = || daemon.get(&format!("/api/alerts/{id}")).ok()["alert"]["acknowledged"].clone();
    assert!(acknowledged().is_null());
    let form = [("content-type", "application/x-www-form-urlencoded")];
    for forged in [query.replace("do=ack", "do=run"), query.replace("sig=", "sig=0"), String::new()] {
        let refused = daemon.request("POST", "/act", &form, forged.as_bytes());
        assert_eq!(refused.status, 403);
        assert!(refused.text().contains("This link does not work") && acknowledged().is_null());
    }
    assert_eq!(daemon.request("POST", "/act", &form, query.as_bytes()).status, 200);
    assert_eq!(acknowledged()["by"], "link in a message");
    let again = daemon.request("POST", "/act", &form, query.as_bytes());
    assert!(again.status == 200 && again.text().contains("Done already"), "{}", again.text());

    daemon.post(&format!("/api/alerts/{id}/unack"), &json!({})).ok();
    daemon.post(&format!("/api/alerts/{id}/snooze"), &json!({"minutes": 30})).ok();
    daemon.post(&format!("/api/alerts/{id}/snooze"), &json!({"minutes": "x"})).problem(422, "invalid");
    daemon.post("/api/silences", &json!({"matchers": ["system=~.*"], "reason": "r", "duration_s": 60})).problem(422, "invalid");
    daemon.get("/api/alerts?state=wrong").problem(422, "invalid");
    daemon.cli(&["alerts", "silence", "alertname=mine", "--reason", "known", "--until", "2h"]).expect(0);
    let silenced = until("it is silenced", SHORT, || {
        let shown = daemon.get(&format!("/api/alerts/{id}")).ok();
        shown["alert"]["silenced_by"].as_array().is_some_and(|s| !s.is_empty()).then_some(shown)
    });
    let kinds: Vec<&str> = silenced["timeline"].as_array().expect("a list").iter().filter_map(|e| e["kind"].as_str()).collect();
    assert!(["fired", "told", "acknowledged", "unacknowledged", "snoozed", "silenced"].iter().all(|k| kinds.contains(k)), "{kinds:?}");
    daemon.cli(&["alerts", "list"]).expect(1);
    daemon.cli(&["alerts", "history", "--since", "1h"]).expect(0);
    let metrics = daemon.request("GET", "/metrics", &[], b"").text();
    assert!(metrics.contains("echopilot_alerts{severity=\"critical\",state=\"firing\"} 1"), "{metrics}");
    assert!(metrics.contains("echopilot_notifications{channel=\"webhook\",state=\"sent\"} 1"));
}
