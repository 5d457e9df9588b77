//! Delivery from outside: whoever takes our messages is busy, fails or hangs up first, and the daemon is killed while they wait. Every
//! message arrives, within the limits of who takes it, and under one id.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use integration_tests::{LONG, Setup, until};
use serde_json::{Value as Json, json};

use crate::setup;

/// A rule that always fires, because the database does answer; with more words than any limit allows.
fn rule(words: usize) -> String {
    let what = "too much of it ".repeat(words);
    format!(
        "[rules.mine]\nsystem = \"own\"\ncomponent = \"mine\"\nseverity = \"critical\"\nfigure = \"database_up\"\nbelow = 2\nwhat = \"{what}\"\nowner = \"Me.\"\nrunbook = \"{what}\"\n"
    )
}

fn firing(setup: Setup, words: usize) -> Setup {
    let setup = setup
        .schedule()
        .env("ECHOPILOT__NOTIFY__GROUP_WAIT_S", "1")
        .env("ECHOPILOT__NOTIFY__GROUP_INTERVAL_S", "1")
        .env("ECHOPILOT__ALERT__WATCH_EVERY_S", "1");
    std::fs::create_dir_all(setup.configs("")).expect("a folder");
    std::fs::write(setup.configs("alerts.toml"), rule(words)).expect("written");
    setup
}

/// One request as it came: path, headers, body.
#[derive(Clone, Debug)]
struct Came {
    path: String,
    head: String,
    body: Json,
    taken: bool,
}

/// Answers the first request to each path with 429, cuts off the second, answers the third with 500, and takes the rest; while `closed`
/// all of them get 500.
struct Recorder {
    address: String,
    came: Arc<Mutex<Vec<Came>>>,
    closed: Arc<AtomicBool>,
}

impl Recorder {
    fn start(difficult: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let (came, closed) = (Arc::new(Mutex::new(Vec::<Came>::new())), Arc::new(AtomicBool::new(false)));
        let (kept, shut) = (came.clone(), closed.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, shut) = (kept.clone(), shut.clone());
                std::thread::spawn(move || serve(stream, &kept, shut.load(Ordering::SeqCst), difficult));
            }
        });
        Self { address, came, closed }
    }

    fn came(&self) -> Vec<Came> {
        self.came.lock().expect("unlocked").clone()
    }
}

fn serve(mut stream: TcpStream, kept: &Mutex<Vec<Came>>, closed: bool, difficult: bool) {
    let (mut bytes, mut buffer) = (Vec::new(), [0_u8; 8192]);
    let (head, body) = loop {
        let Ok(n @ 1..) = stream.read(&mut buffer) else { return };
        bytes.extend_from_slice(&buffer[..n]);
        let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let length = head.lines().find_map(|l| l.to_lowercase().strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
        if bytes.len() >= end + 4 + length.unwrap_or(0) {
            break (head, bytes[end + 4..].to_vec());
        }
    };
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut kept = kept.lock().expect("unlocked");
    let before = kept.iter().filter(|c| c.path == path).count();
    let answer = match (closed, difficult, before) {
        (true, _, _) | (false, true, 2) => Some(("500 Internal Server Error", "")),
        (false, true, 0) => Some(("429 Too Many Requests", "retry-after: 1\r\n")),
        (false, true, 1) => None,
        _ => Some((if path.contains("enqueue") { "202 Accepted" } else { "200 OK" }, "")),
    };
    let taken = answer.is_some_and(|(status, _)| status.starts_with('2'));
    kept.push(Came { path, head, body: serde_json::from_slice(&body).unwrap_or(Json::Null), taken });
    drop(kept);
    if let Some((status, more)) = answer {
        let text = if status.starts_with('2') { "{\"ok\":true}" } else { "{\"ok\":false}" };
        let _ = write!(stream, "HTTP/1.1 {status}\r\n{more}content-length: {}\r\nconnection: close\r\n\r\n{text}", text.len());
    }
}

#[test]
fn whoever_is_busy_fails_or_hangs_up_gets_the_message_all_the_same_and_within_its_limits() {
    let recorder = Recorder::start(true);
    let url = format!("http://{}", recorder.address);
    let mut setup = firing(setup(), 400)
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
    until("all four took it", LONG, || (recorder.came().iter().filter(|c| c.taken).count() >= 4).then_some(()));
    until("it is written down", LONG, || {
        (daemon.setup().count("SELECT COUNT(*) FROM notification WHERE state = 'sent'") == 4).then_some(())
    });
    let came = recorder.came();
    assert_eq!(came.len(), 16, "four times each: {:?}", came.iter().map(|c| &c.path).collect::<Vec<_>>());
    let took = |part: &str| came.iter().find(|c| c.taken && c.path.contains(part)).map_or_else(|| panic!("{part}"), |c| c.body.clone());
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
    let ntfy = came.iter().find(|c| c.taken && c.body["topic"] == "alerts").expect("ntfy has it").body.clone();
    assert!(ntfy["priority"].as_i64().is_some_and(|p| (1..=5).contains(&p)), "{ntfy}");
    let attempts = daemon.setup().count("SELECT COUNT(*) FROM delivery_attempt WHERE ok = 0 AND status = 429");
    assert_eq!(attempts, 4, "the provider's answer is kept");
    assert_eq!(daemon.setup().count("SELECT COUNT(*) FROM delivery_attempt WHERE error LIKE '%123:secret%'"), 0, "and no secret");
}

#[test]
fn what_waits_while_the_daemon_is_killed_arrives_once_under_the_id_it_had() {
    let recorder = Recorder::start(false);
    recorder.closed.store(true, Ordering::SeqCst);
    let setup = firing(setup(), 1)
        .env("ECHOPILOT__CHANNELS__WEBHOOK__URL", format!("http://{}/hook", recorder.address))
        .env("ECHOPILOT__CHANNELS__WEBHOOK__MIN_SEVERITY", "critical")
        .env("ALERT_WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let daemon = setup.start();
    until("it was tried", LONG, || (recorder.came().len() >= 2).then_some(()));
    let setup = daemon.kill9();
    recorder.closed.store(false, Ordering::SeqCst);
    let daemon = setup.start();
    until("it is sent", LONG, || (daemon.setup().count("SELECT COUNT(*) FROM notification WHERE state = 'sent'") == 1).then_some(()));
    let came = recorder.came();
    let id = |c: &Came| c.head.lines().find_map(|l| l.to_lowercase().strip_prefix("webhook-id: ").map(str::to_owned)).expect("an id");
    let ids: std::collections::BTreeSet<String> = came.iter().map(id).collect();
    assert_eq!((ids.len(), came.iter().filter(|c| c.taken).count()), (1, 1), "{came:?}");
}
