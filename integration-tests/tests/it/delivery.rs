//! Delivery from outside: whoever takes our messages is busy, fails or hangs up first, and the daemon is killed while they wait. Every
//! message arrives, within the limits of who takes it, and under one id.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use integration_tests::{Came, LONG, Recorder, Reply, Setup, always, until};
use serde_json::{Value as Json, json};

use crate::setup;

/// A critical alert from the start on, with so many times four words.
fn firing(words: usize) -> Setup {
    let setup = setup().watchful();
    setup.write_rules(&always("mine", &"too much of it ".repeat(words)));
    setup
}

/// The first request to each path is too much, the second is cut off, the third fails, the rest is taken.
fn difficult(path: &str, before: usize) -> Reply {
    match before {
        0 => Reply::Status("429 Too Many Requests", "retry-after: 1\r\n"),
        1 => Reply::HangUp,
        2 => Reply::Status("500 Internal Server Error", ""),
        _ if path.contains("enqueue") => Reply::Status("202 Accepted", ""),
        _ => Reply::Take,
    }
}

#[test]
fn whoever_is_busy_fails_or_hangs_up_gets_the_message_all_the_same_and_within_its_limits() {
    let recorder = Recorder::answering(difficult);
    let url = recorder.url("");
    let mut setup = firing(400)
        .env("SLACK_WEBHOOK_URL", format!("{url}/slack"))
        .env("TELEGRAM_BOT_TOKEN", "123:secret")
        .env("TELEGRAM_CHAT_ID", "42")
        .env("ECHOPILOT__CHANNELS__TELEGRAM__URL", url.clone())
        .env("PAGERDUTY_ROUTING_KEY", "r".repeat(32))
        .env("ECHOPILOT__CHANNELS__PAGERDUTY__URL", url.clone())
        .env("ECHOPILOT__CHANNELS__NTFY__URL", url)
        .env("ECHOPILOT__CHANNELS__NTFY__TOPIC", "alerts");
    for channel in ["SLACK", "TELEGRAM", "PAGERDUTY", "NTFY"] {
        setup = setup.env(&format!("ECHOPILOT__CHANNELS__{channel}__MIN_SEVERITY"), "critical");
    }
    let daemon = setup.start();
    until("all four took it", LONG, || (recorder.taken() >= 4).then_some(()));
    until("it is written down", LONG, || (daemon.setup().messages_sent() == 4).then_some(()));
    let came = recorder.came();
    assert_eq!(came.len(), 16, "four times each: {:?}", came.iter().map(|c| &c.path).collect::<Vec<_>>());
    let took = |part: &str| came.iter().find(|c| c.taken && c.path.contains(part)).map_or_else(|| panic!("{part}"), Came::json);
    let length = |text: &Json| text.as_str().expect("text").chars().count();
    let slack = took("/slack");
    assert!(slack["blocks"].as_array().is_some_and(|b| b.len() <= 50), "{slack}");
    for block in slack["blocks"].as_array().expect("blocks") {
        assert!(block["text"]["text"].as_str().is_none_or(|t| t.chars().count() <= 3000), "{block}");
    }
    let telegram = took("/sendMessage");
    assert!(length(&telegram["text"]) <= 4096 && telegram["chat_id"] == "42", "{telegram}");
    let pager = took("/v2/enqueue");
    assert!(length(&pager["payload"]["summary"]) <= 1024 && length(&pager["dedup_key"]) <= 255, "{pager}");
    assert_eq!((&pager["event_action"], &pager["payload"]["severity"]), (&json!("trigger"), &json!("critical")));
    let ntfy = came.iter().find(|c| c.taken && c.json()["topic"] == "alerts").expect("ntfy has it").json();
    assert!(ntfy["priority"].as_i64().is_some_and(|p| (1..=5).contains(&p)), "{ntfy}");
    let attempts = daemon.setup().count("SELECT COUNT(*) FROM delivery_attempt WHERE ok = 0 AND status = 429");
    assert_eq!(attempts, 4, "the provider's answer is kept");
    assert_eq!(daemon.setup().count("SELECT COUNT(*) FROM delivery_attempt WHERE error LIKE '%123:secret%'"), 0, "and no secret");
}

#[test]
fn what_waits_while_the_daemon_is_killed_arrives_once_under_the_id_it_had() {
    let open = Arc::new(AtomicBool::new(false));
    let recorder = Recorder::while_open(&open);
    let daemon = firing(1).telling(&recorder, "critical").start();
    until("it was tried", LONG, || (recorder.came().len() >= 2).then_some(()));
    let setup = daemon.kill9();
    open.store(true, Ordering::SeqCst);
    let daemon = setup.start();
    until("it is sent", LONG, || (daemon.setup().messages_sent() == 1).then_some(()));
    assert_eq!((recorder.ids().len(), recorder.taken()), (1, 1), "{:?}", recorder.came());
}

#[test]
fn a_daemon_that_is_killed_while_it_sends_sends_the_same_message_again() {
    let killed = Arc::new(AtomicBool::new(false));
    let dead = killed.clone();
    // Whoever takes it does so at once and answers late: the daemon cannot know.
    let recorder = Recorder::answering(move |_, _| {
        until("the daemon is dead", LONG, || dead.load(Ordering::SeqCst).then_some(()));
        Reply::Take
    });
    let daemon = firing(1).telling(&recorder, "critical").start();
    until("it is being sent", LONG, || (recorder.came().len() == 1).then_some(()));
    let setup = daemon.kill9();
    assert_eq!(setup.messages_sent(), 0);
    killed.store(true, Ordering::SeqCst);
    let daemon = setup.start();
    until("it is sent", LONG, || (daemon.setup().messages_sent() == 1).then_some(()));
    let came = recorder.came();
    assert_eq!((came.len(), recorder.ids().len()), (2, 1), "the receiver knows it again by its id: {came:?}");
    assert_eq!(came[0].json(), came[1].json());
}
