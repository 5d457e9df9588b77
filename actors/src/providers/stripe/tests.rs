//! The client against a scripted server on loopback: what is sent, in which order with what is written down, what is tried again and
//! what is taken for the end.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::error::Code;

/// One answer: status, further headers, body. Status 0 hangs up.
type Answering = (u16, &'static str, Value);

/// What was done, in the order of doing it.
type Story = Arc<Mutex<Vec<String>>>;

fn note(story: &Story, what: impl Into<String>) {
    story.lock().unwrap_or_else(PoisonError::into_inner).push(what.into());
}

fn told(story: &Story) -> Vec<String> {
    story.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// A server that gives one answer per request, in order, and then no more.
async fn server(script: Vec<Answering>) -> (String, Story) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let (story, script) = (Story::default(), Arc::new(Mutex::new(VecDeque::from(script))));
    let told = story.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (story, script) = (told.clone(), script.clone());
            tokio::spawn(async move {
                let Some(request) = read_request(&mut stream).await else { return };
                note(&story, request);
                let (status, headers, body) = script.lock().unwrap().pop_front().unwrap_or((0, "", Value::Null));
                if status > 0 {
                    let body = if body.is_null() { "not JSON".to_owned() } else { body.to_string() };
                    let answer = format!(
                        "HTTP/1.1 {status} X\r\nDate: Mon, 02 Mar 2026 10:00:00 GMT\r\nRequest-Id: req_7\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    (base, story)
}

/// `METHOD path key body`.
async fn read_request(stream: &mut tokio::net::TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let header = |name: &str| {
                head.lines().find_map(|l| l.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name))).map(|(_, v)| v.trim())
            };
            let length: usize = header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
            if body.len() >= length {
                let line: Vec<&str> = head.lines().next()?.split(' ').collect();
                return Some(format!("{} {} {} {body}", line[0], line[1], header("idempotency-key").unwrap_or("-")));
            }
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => bytes.extend_from_slice(&chunk[..n]),
        }
    }
}

/// An outbox that tells its part of the story and refuses as the store's does.
#[derive(Default)]
struct Kept {
    story: Story,
    calls: Mutex<BTreeMap<String, (String, String)>>,
}

impl Outbox for Kept {
    fn sent<'a>(&'a self, key: &'a str, path: &'a str, request: &'a str) -> Pending<'a> {
        Box::pin(async move {
            note(&self.story, format!("sent {key}"));
            let new = (path.to_owned(), request.to_owned());
            let kept = self.calls.lock().unwrap().entry(key.to_owned()).or_insert_with(|| new.clone()).clone();
            if kept == new { Ok(()) } else { Err(Error::conflict("idempotency_error", "the key was used for something else")) }
        })
    }

    fn answered<'a>(&'a self, key: &'a str, answered: Answered<'a>) -> Pending<'a> {
        Box::pin(async move {
            note(&self.story, format!("answered {key} {} {:?} {:?}", answered.status, answered.request_id, answered.object_id));
            Ok(())
        })
    }
}

fn client(base: &str, key: &str) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default(); // another test did
    Client::new(base, key, Client::loopback_http_client().unwrap())
}

/// A client whose outbox tells the same story as the server.
fn recording(base: &str, story: &Story) -> Client {
    client(base, "sk_test_1").with_outbox(Arc::new(Kept { story: story.clone(), ..Kept::default() }))
}

fn amount(amount: &str) -> [(&'static str, String); 1] {
    [("amount", amount.to_owned())]
}

#[tokio::test]
async fn a_key_is_written_down_before_anything_is_sent_and_is_the_same_on_every_try() {
    let (base, story) =
        server(vec![(500, "", json!({})), (0, "", Value::Null), (200, "", json!({"id": "re_1", "unknown": {"kept": [1]}}))]).await;
    let answer = recording(&base, &story).post("/v1/refunds", &amount("5"), "k1").await.unwrap();
    assert_eq!(answer.body["unknown"]["kept"][0], 1, "what we do not know is kept");
    assert_eq!(answer.request_id.as_deref(), Some("req_7"));
    let sent = "POST /v1/refunds k1 amount=5";
    assert_eq!(told(&story), ["sent k1", sent, sent, sent, "answered k1 200 Some(\"req_7\") Some(\"re_1\")"]);
}

#[tokio::test]
async fn a_key_that_was_used_for_something_else_sends_nothing() {
    let (base, story) = server(vec![(200, "", json!({"id": "re_1"})), (200, "", json!({"id": "re_1"}))]).await;
    let client = recording(&base, &story);
    client.post("/v1/refunds", &amount("5"), "k1").await.unwrap();
    for (path, params) in [("/v1/refunds", amount("6")), ("/v1/invoices", amount("5"))] {
        let error = client.post(path, &params, "k1").await.unwrap_err();
        assert_eq!((error.code, error.reason.as_ref()), (Code::Conflict, "idempotency_error"));
    }
    assert_eq!(told(&story).iter().filter(|line| line.starts_with("POST")).count(), 1);
    client.post("/v1/refunds", &amount("5"), "k1").await.unwrap();
    assert_eq!(told(&story).iter().filter(|line| line.starts_with("POST")).count(), 2, "the same again may be sent");
    let long = "k".repeat(256);
    assert!(client.post("/v1/refunds", &amount("5"), &long).await.is_err() && client.post("/v1/refunds", &amount("5"), "").await.is_err());
}

#[tokio::test]
async fn only_a_call_that_was_answered_is_noted_as_answered() {
    let in_use = json!({"error": {"code": "idempotency_key_in_use", "type": "idempotency_error"}});
    let refused = json!({"error": {"code": "charge_already_refunded", "type": "invalid_request_error"}});
    let (base, story) = server(vec![
        (0, "", Value::Null),
        (0, "", Value::Null),
        (0, "", Value::Null),
        (409, "", in_use.clone()),
        (409, "", in_use.clone()),
        (409, "", in_use),
        (400, "", refused),
    ])
    .await;
    let client = recording(&base, &story);
    assert_eq!(client.post("/v1/refunds", &[], "k1").await.unwrap_err().reason, "provider_unavailable");
    assert_eq!(client.post("/v1/refunds", &[], "k2").await.unwrap_err().reason, "idempotency_key_in_use");
    assert_eq!(client.post("/v1/refunds", &[], "k3").await.unwrap_err().extra["provider_request_id"], "req_7");
    let answered: Vec<_> = told(&story).into_iter().filter(|line| line.starts_with("answered")).collect();
    assert_eq!(answered, ["answered k3 400 Some(\"req_7\") None"]);
}

#[tokio::test]
async fn the_providers_word_on_retrying_comes_first_and_too_many_requests_are_waited_out_for_reads() {
    let (base, story) = server(vec![
        (429, "Retry-After: 1\r\n", json!({})),
        (200, "", json!({})),
        (429, "", json!({})),
        (500, "Stripe-Should-Retry: false\r\n", json!({})),
        (400, "Stripe-Should-Retry: true\r\n", json!({})),
        (200, "", json!({})),
    ])
    .await;
    let client = client(&base, "sk_test_1");
    let start = Instant::now();
    client.get("/v1/a", &[]).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1), "as long as the provider said");
    assert_eq!(client.post("/v1/b", &[], "k").await.unwrap_err().code, Code::Limited);
    assert_eq!(client.get("/v1/c", &[]).await.unwrap_err().code, Code::Unavailable);
    let start = Instant::now();
    client.post("/v1/d", &[], "k").await.unwrap();
    assert!(start.elapsed() >= SHORTEST_WAIT, "never sooner");
    let paths: Vec<_> = told(&story).iter().map(|line| line.split(' ').nth(1).unwrap_or_default().to_owned()).collect();
    assert_eq!(paths, ["/v1/a", "/v1/a", "/v1/b", "/v1/c", "/v1/d", "/v1/d"]);
}

/// What was logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn every_answer_is_logged_with_its_request_id_and_never_with_the_key() {
    let (base, _) = server(vec![(200, "", json!({})), (500, "", json!({})), (400, "", json!({}))]).await;
    let client = client(&base, "sk_test_very_secret");
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false).with_writer(move || writer.clone());
    let logged = tracing::subscriber::set_default(subscriber.finish());
    // With a single listener a line that another thread is the first to pass would be taken for one that nobody wants.
    let second = tracing::Dispatch::new(tracing_subscriber::registry());
    tracing::callsite::rebuild_interest_cache();
    client.get("/v1/fine", &[]).await.unwrap();
    client.post("/v1/bad", &[], "k").await.unwrap_err();
    drop((logged, second));
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let with = |level: &str, path: &str| {
        text.lines().filter(|l| l.contains(level) && l.contains("stripe:") && l.contains(path) && l.contains("req_7")).count()
    };
    assert_eq!((with("DEBUG", "/v1/fine"), with("DEBUG", "/v1/bad")), (1, 2), "{text}");
    assert_eq!((with("INFO", "/v1/bad"), with("WARN", "/v1/bad")), (1, 1), "every error with it: {text}");
    assert!(!text.contains("very_secret"), "{text}");
}

#[tokio::test]
async fn an_object_of_the_other_mode_and_a_key_of_no_known_kind_are_refused() {
    let live = json!({"id": "ch_1", "livemode": true});
    for (key, body, fine) in [
        ("sk_test_1", live.clone(), false),
        ("rk_test_1", json!({"has_more": false, "data": [{"id": "ch_0", "livemode": false}, live.clone()]}), false),
        ("sk_live_1", json!({"id": "ch_1", "livemode": false}), false),
        ("rk_live_1", live, true),
        ("rk_test_1", json!({"id": "re_1"}), true),
    ] {
        let (base, _) = server(vec![(200, "", body.clone())]).await;
        let result = client(&base, key).get("/v1/x", &[]).await;
        assert_eq!(result.as_ref().err().map(|e| e.reason.as_ref()), (!fine).then_some("livemode_mismatch"), "{key} {body}");
    }
    let (base, story) = server(vec![(200, "", json!({}))]).await;
    for key in ["pk_test_1", "sk_prod_1", "", "ek_1"] {
        assert_eq!(client(&base, key).get("/v1/x", &[]).await.unwrap_err().reason, "unknown_key", "{key}");
    }
    assert_eq!(told(&story), Vec::<String>::new(), "nothing was asked");
}

#[tokio::test]
async fn a_page_that_fails_is_never_the_end_of_the_list() {
    let page = |ids: &[&str], more: bool| json!({"object": "list", "has_more": more, "data": ids.iter().map(|id| json!({"id": id})).collect::<Vec<_>>()});
    let (base, _) = server(vec![(200, "", page(&["a", "b"], true)), (200, "", page(&["b", "c"], false))]).await;
    let ids: Vec<_> = client(&base, "sk_test_1").list_all("/v1/x", &[]).await.unwrap().iter().map(|o| o["id"].clone()).collect();
    assert_eq!(ids, ["a", "b", "c"], "an object that moved to the next page is there once");
    for second in
        [(400, "", json!({"error": {}})), (200, "", json!({"data": []})), (200, "", json!({"has_more": false})), (200, "", page(&[], true))]
    {
        let (base, _) = server(vec![(200, "", page(&["a"], true)), second.clone()]).await;
        assert!(client(&base, "sk_test_1").list_all("/v1/x", &[]).await.is_err(), "{second:?}");
    }
}

#[tokio::test]
async fn reads_in_the_background_keep_to_our_rate_and_a_refund_does_not_wait_for_them() {
    let (base, story) = server(vec![(200, "", json!({"id": "x"})); 40]).await;
    let client = client(&base, "sk_test_1").with_pace(2, 1);
    let background = client.background();
    let start = Instant::now();
    let reading = tokio::spawn(async move {
        for _ in 0..6 {
            background.get("/v1/slow", &[]).await.unwrap();
        }
    });
    client.post("/v1/refunds", &[], "k").await.unwrap();
    let interactive = start.elapsed();
    reading.await.unwrap();
    let all = start.elapsed();
    assert!(all >= Duration::from_millis(1900), "six at two a second, two of them at once: {all:?}");
    assert!(interactive < Duration::from_millis(900), "the refund took {interactive:?}");
    assert_eq!(told(&story).len(), 7);
}

#[tokio::test]
async fn the_permissions_a_restricted_key_lacks_are_named_by_harmless_reads() {
    let refused = json!({"error": {"type": "invalid_request_error", "message": "Having the 'rak_payout_read' permission would allow this request to continue."}});
    let mut script: Vec<Answering> = vec![(200, "", json!({"data": [], "has_more": false})); 10];
    script[8] = (403, "", refused);
    let (base, story) = server(script).await;
    let lacking = client(&base, "rk_test_1").lacking_permissions().await.unwrap();
    assert_eq!(lacking, [Lacking { resource: "Payouts", permission: Some("rak_payout_read".into()) }]);
    assert!(told(&story).iter().all(|line| line.starts_with("GET ")), "{:?}", told(&story));
    let (base, _) = server(vec![(401, "", json!({"error": {"message": "Invalid API Key"}}))]).await;
    assert_eq!(client(&base, "rk_test_1").lacking_permissions().await.unwrap_err().code, Code::Forbidden, "the key itself is refused");
}

#[test]
fn the_key_is_never_printed() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::new("http://127.0.0.1:1/", "sk_test_very_secret", Client::http_client().unwrap());
    assert_eq!(format!("{client:?}"), r#"Client { base: "http://127.0.0.1:1", mode: Some(Test), .. }"#);
}

#[test]
fn waits_stay_between_half_a_second_and_five() {
    for attempt in 1..40 {
        let wait = backoff(attempt);
        assert!((SHORTEST_WAIT..=Duration::from_secs(5)).contains(&wait), "{wait:?}");
    }
}

#[tokio::test]
async fn a_longer_wait_than_we_take_is_left_to_the_caller_and_not_cut_short() {
    let (base, story) = server(vec![(429, "Retry-After: 31\r\n", json!({})), (200, "", json!({"id": "x"}))]).await;
    let error = client(&base, "sk_test_1").get("/v1/balance", &[]).await.unwrap_err();
    assert_eq!((error.code, error.retry_after_s), (Code::Limited, Some(31)));
    assert_eq!(told(&story).len(), 1);
}
