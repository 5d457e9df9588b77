//! Alerts from outside: a recorder on loopback counts the messages of the real program, killed while an alert fires, and a person
//! acknowledges by the link in a message, by the command line and over HTTP.

use integration_tests::{LONG, Recorder, SHORT, Setup, always, until};
use serde_json::{Value as Json, json};

use crate::setup;

/// One rule that always fires, and a task that its message offers to run.
fn rules() -> String {
    format!("{}task = \"heartbeat\"\n", always("mine", "always so"))
}

fn telling(recorder: &Recorder) -> Setup {
    let setup = setup().watchful().telling(recorder, "critical");
    setup.write_rules(&rules());
    setup
}

#[test]
fn killed_while_it_fires_it_tells_its_beginning_once_and_its_end_once() {
    let recorder = Recorder::start();
    let daemon = telling(&recorder).start();
    until("it is told", LONG, || (daemon.setup().messages_sent() == 1).then_some(()));
    let mut setup = daemon.kill9();
    for _ in 0..3 {
        let daemon = setup.start();
        until("it fires again as before", LONG, || {
            let alerts = daemon.get("/api/alerts?state=firing").ok();
            alerts["alerts"].as_array().is_some_and(|all| all.iter().any(|a| a["name"] == "mine")).then_some(())
        });
        setup = daemon.kill9();
    }
    assert_eq!((recorder.came().len(), setup.messages_sent()), (1, 1), "told once: {:?}", recorder.came());
    setup.write_rules(&format!("{}off = true\n", rules()));
    let daemon = setup.start();
    until("its end is told", LONG, || (daemon.setup().messages_sent() == 2).then_some(()));
    let got = recorder.came();
    let ids: std::collections::BTreeSet<String> = got.iter().map(|m| m.json()["data"]["id"].to_string()).collect();
    assert_eq!((got.len(), ids.len()), (2, 2), "{got:?}");
}

#[test]
fn a_message_names_the_settings_that_were_changed_before() {
    let recorder = Recorder::start();
    let setup = telling(&recorder);
    setup.write_rules("");
    let setup = setup.start().stop();
    setup.write_rules(&rules());
    let daemon = setup.env("ECHOPILOT__NOTIFY__REPEAT_S", "7200").start();
    let came = until("it is told", LONG, || recorder.came().pop());
    let changed = came.json()["data"]["alerts"][0]["changed"].to_string();
    assert!(changed.contains("settings were changed: alerts.toml, notify.repeat_s"), "{changed}");
    assert_eq!(daemon.setup().count("SELECT COUNT(*) FROM journal WHERE kind = 'settings.changed'"), 1);
}

#[test]
fn a_link_acknowledges_once_and_the_rest_is_done_over_http_and_on_the_command_line() {
    let recorder = Recorder::start();
    let daemon = telling(&recorder).start();
    until("it is told", LONG, || (daemon.setup().messages_sent() == 1).then_some(()));
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
