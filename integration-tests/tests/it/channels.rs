//! Channels and pushes from outside: the signed webhook is verified by the official library of its specification, and jobs report as they
//! do to healthchecks.io.

use integration_tests::{ALERT_SECRET, LONG, Recorder, TestDaemon, fed, peer, python, until};
use serde_json::json;

use crate::setup;

/// Where a job reports, as the administrator sees it.
pub(crate) fn ping_path(daemon: &TestDaemon, name: &str) -> String {
    let url = daemon.get(&format!("/api/pushes/{name}")).ok()["push"]["ping_url"].as_str().expect("the administrator sees it").to_owned();
    url.split_once("//").and_then(|(_, rest)| rest.find('/').map(|i| rest[i..].to_owned())).expect("an address")
}

#[test]
fn the_webhooks_signature_is_that_of_the_standard_webhooks_library() {
    let recorder = Recorder::start();
    let daemon = setup().telling(&recorder, "critical").start();
    let told = daemon.post("/api/channels/webhook/test", &json!({})).ok();
    assert_eq!(told["ok"], true, "{told}");
    let came = until("it arrives", LONG, || recorder.came().pop());
    assert_eq!(came.json()["data"]["kind"], "test", "{came:?}");
    let verified = |body: &[u8]| {
        let mut command = python();
        command.arg(peer("standard_webhook.py")).arg(ALERT_SECRET);
        command.args(["webhook-id", "webhook-timestamp", "webhook-signature"].map(|name| came.header(name)));
        fed(command, body)
    };
    assert_eq!(verified(&came.body), "valid");
    let mut changed = came.body.clone();
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
    let daemon = setup()
        .env("ECHOPILOT__PUSHES__NIGHTLY__EVERY_S", "3600")
        .env("ECHOPILOT__PUSHES__NIGHTLY__GRACE_S", "60")
        .env("ECHOPILOT__OBJECTIVES__NIGHTLY__SERVICE", "push:nightly")
        .env("ECHOPILOT__OBJECTIVES__NIGHTLY__TARGET", "0.9")
        .start();
    let path = ping_path(&daemon, "nightly");
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
    let events = |column: &str| format!("SELECT COALESCE(SUM({column}), 0) FROM slo_minute WHERE service = 'push:nightly'");
    until("its ends are events of a service", LONG, || (daemon.setup().count(&events("total")) == 3).then_some(()));
    assert_eq!(daemon.setup().count(&events("bad")), 1);
    assert_eq!(ping("GET", "/nonsense", b"").status, 400, "as healthchecks.io answers an address that is none");
    let other = path.replace("/nightly", "/weekly");
    assert_eq!(daemon.request("GET", &other, &[], b"").status, 404);
}
