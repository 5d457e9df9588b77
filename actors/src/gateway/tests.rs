//! The gateway over real HTTP: a whole daemon in this process on a free port, with the sandbox as provider. What a client may send
//! that is wrong, late, too much or not allowed, and what it is told.

use std::{collections::BTreeMap, time::Duration};

use reqwest::{Method, Response, StatusCode};
use ring::hmac;
use serde_json::{Value as Json, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use warp::filters::BoxedFilter;

use super::{
    Shell,
    route::{any_of, open},
};
use crate::{
    config::{Config, Environment},
    daemon::{Daemon, Mode},
    env::Clock,
    files,
};

const KEY: &str = "ep_test_key";
const SECRET: &str = "whsec_test_secret";

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(warp::reply::Response,)> {
    any_of([
        open(shell, Method::GET, "/test/panic", |_, _| async { panic!("a handler panics") }),
        open(shell, Method::GET, "/test/slow", |_, _| async {
            tokio::time::sleep(Duration::from_millis(400)).await;
            Ok(super::respond::json(&json!({"ok": true})))
        }),
    ])
}

pub(super) struct Running {
    pub(super) daemon: Daemon,
    pub(super) http: reqwest::Client,
    _folder: tempfile::TempDir,
}

impl Running {
    pub(super) async fn start(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let mut environment: Environment = BTreeMap::from([
            ("ECHOPILOT__PATHS__DATA".to_owned(), path("data")),
            ("ECHOPILOT__PATHS__LOGS".to_owned(), path("logs")),
            ("ECHOPILOT__PATHS__BACKUPS".to_owned(), path("backups")),
            ("ECHOPILOT__PATHS__CONFIGS".to_owned(), path("configs")),
            ("DASHBOARD_KEY".to_owned(), KEY.to_owned()),
            ("STRIPE_WEBHOOK_SECRET".to_owned(), SECRET.to_owned()),
        ]);
        for (name, value) in
            [("SERVER__LISTEN", "127.0.0.1:0"), ("TIMER__ENABLED", "false"), ("SUPERVISOR__DRILLS", "true")].iter().chain(settings)
        {
            environment.insert(format!("ECHOPILOT__{name}"), (*value).to_owned());
        }
        let config = Config::load(None, &environment).unwrap();
        let daemon = Daemon::start(config, &environment, Mode::Serve, Clock::default()).await.unwrap();
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap();
        Self { daemon, http, _folder: folder }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.daemon.env.server_address())
    }

    pub(super) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, self.url(path)).header("x-dash-key", KEY)
    }

    pub(super) async fn get(&self, path: &str) -> (u16, Json) {
        read(self.request(Method::GET, path).send().await.unwrap()).await
    }

    pub(super) async fn post(&self, path: &str, body: &Json) -> (u16, Json) {
        let request = self.request(Method::POST, path).header("content-type", "application/json").body(body.to_string());
        read(request.send().await.unwrap()).await
    }

    async fn deliver(&self, signature: Option<&str>, body: impl Into<reqwest::Body>) -> (u16, Json) {
        let mut request = self.http.post(self.url("/api/payments/webhook")).body(body);
        if let Some(signature) = signature {
            request = request.header("stripe-signature", signature);
        }
        read(request.send().await.unwrap()).await
    }

    fn now(&self) -> i64 {
        self.daemon.env.now().timestamp()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.daemon.env.server_address()).await.unwrap()
    }
}

pub(super) async fn read(response: Response) -> (u16, Json) {
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default())
}

fn signed(body: &[u8], at: i64) -> String {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()));
    context.update(format!("{at}.").as_bytes());
    context.update(body);
    format!("t={at},v1={}", files::hex(context.sign().as_ref()))
}

fn event(id: &str) -> String {
    json!({"id": id, "object": "event", "type": "product.created", "created": 1, "livemode": false, "data": {"object": {"id": "prod_1"}}})
        .to_string()
}

#[tokio::test]
async fn a_delivery_is_stored_once_and_its_repetition_counted() {
    let it = Running::start(&[]).await;
    let body = event("evt_1");
    let (status, answer) = it.deliver(Some(&signed(body.as_bytes(), it.now())), body.clone()).await;
    assert_eq!((status, answer), (200, json!({"ok": true, "received": true, "duplicate": false})));
    let (_, answer) = it.deliver(Some(&signed(body.as_bytes(), it.now())), body.clone()).await;
    assert_eq!(answer["duplicate"], true);
    let other = it.http.post(it.url("/webhook/stripe")).header("stripe-signature", signed(body.as_bytes(), it.now())).body(body);
    assert_eq!(read(other.send().await.unwrap()).await.1["duplicate"], true);
    let (_, list) = it.get("/api/payments/webhooks?type=product.created").await;
    assert_eq!((&list["count"], &list["webhooks"][0]["duplicates"], &list["next"]), (&json!(1), &json!(2), &Json::Null));
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn a_bad_signature_or_body_is_refused_remembered_by_hash_and_not_stored() {
    let it = Running::start(&[]).await;
    let (body, now) = (event("evt_1"), it.now());
    let good = signed(body.as_bytes(), now);
    let upper = good.to_uppercase().replace("T=", "t=").replace("V1=", "v1=");
    let cases = [
        None,
        Some(String::new()),
        Some("rubbish".into()),
        Some(format!("t={now},v1={}", "0".repeat(64))),
        Some(good[..good.len() - 2].to_owned()),
        Some(good.replace("v1=", "v0=")),
        Some(format!("t={now},{good}")),
        Some(upper),
        Some(signed(body.as_bytes(), now - 400)),
        Some(signed(body.as_bytes(), now + 400)),
        Some(signed(b"another body", now)),
    ];
    let count = cases.len();
    for case in cases {
        let (status, answer) = it.deliver(case.as_deref(), body.clone()).await;
        assert_eq!((status, &answer["error"], &answer["reason"]), (400, &json!("invalid"), &json!("signature")), "{case:?}");
    }
    let twice = it.http.post(it.url("/api/payments/webhook")).header("stripe-signature", &good).header("stripe-signature", &good);
    assert_eq!(read(twice.body(body.clone()).send().await.unwrap()).await.0, 400);
    for body in [&b"\xff\xfe"[..], b"no json", b"[]", b"{\"id\":\"evt_2\"}"] {
        let (status, answer) = it.deliver(Some(&signed(body, now)), body.to_vec()).await;
        assert_eq!((status, &answer["reason"]), (400, &json!("body")));
    }
    let live = event("evt_3").replace("\"livemode\":false", "\"livemode\":true");
    assert_eq!(it.deliver(Some(&signed(live.as_bytes(), now)), live.clone()).await.1["reason"], "livemode");
    let (_, list) = it.get("/api/payments/webhooks").await;
    assert_eq!(list["count"], 0);
    assert_eq!(list["rejected"].as_array().unwrap().len(), count + 6);
    assert_eq!((&list["rejected"][0]["reason"], list["rejected"][0]["sha256"].as_str().unwrap().len()), (&json!("livemode"), 64));
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_however_it_is_framed() {
    let it = Running::start(&[]).await;
    let limit = 512 * 1024;
    let pad = |size: usize| {
        let body = event("evt_1");
        format!("{body}{}", " ".repeat(size - body.len()))
    };
    let exact = pad(limit);
    assert_eq!(it.deliver(Some(&signed(exact.as_bytes(), it.now())), exact.clone()).await.0, 200);
    let large = pad(limit + 1);
    let (status, answer) = it.deliver(Some(&signed(large.as_bytes(), it.now())), large.clone()).await;
    assert_eq!((status, &answer["reason"]), (413, &json!("too_large")));
    let chunks: Vec<Result<Vec<u8>, std::io::Error>> = large.as_bytes().chunks(10_000).map(|c| Ok(c.to_vec())).collect();
    let mut socket = it.connect().await;
    socket.write_all(b"POST /api/payments/webhook HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    for chunk in chunks.into_iter().flatten() {
        socket.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await.unwrap();
        socket.write_all(&chunk).await.unwrap();
        socket.write_all(b"\r\n").await.unwrap();
    }
    socket.write_all(b"0\r\n\r\n").await.unwrap();
    let mut head = [0; 12];
    socket.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 413");
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn slow_clients_are_closed_or_told() {
    let it = Running::start(&[("SERVER__HEADER_TIMEOUT_MS", "200"), ("SERVER__BODY_TIMEOUT_MS", "200")]).await;
    let limit = Duration::from_secs(5);
    for sent in [&b""[..], b"G", b"GET / HTTP/1.1\r\nhost: x\r\n"] {
        let mut socket = it.connect().await;
        socket.write_all(sent).await.unwrap();
        let mut rest = Vec::new();
        tokio::time::timeout(limit, socket.read_to_end(&mut rest)).await.expect("the connection is closed").unwrap();
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&rest));
    }
    let mut socket = it.connect().await;
    socket.write_all(b"POST /api/payments/webhook HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc").await.unwrap();
    let mut head = [0; 12];
    tokio::time::timeout(limit, socket.read_exact(&mut head)).await.expect("it is answered").unwrap();
    assert_eq!(&head, b"HTTP/1.1 408");
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn what_is_not_there_or_not_possible_is_a_problem() {
    let it = Running::start(&[]).await;
    for path in [
        "/nothing",
        "/api",
        "/api/tasks/",
        "/api/tasks/no_such_task",
        "/api/runs/run_0",
        "/api/recon/payouts",
        "/api/reports/..%2Fx/latest",
    ] {
        let (status, body) = it.get(path).await;
        assert_eq!(
            (status, &body["error"], &body["ok"], &body["status"]),
            (404, &json!("not_found"), &json!(false), &json!(404)),
            "{path}"
        );
    }
    for (method, path, allow) in [
        (Method::GET, "/api/payments/webhook", "POST"),
        (Method::POST, "/api/payments/webhooks", "GET, HEAD"),
        (Method::PUT, "/api/keys", "GET, HEAD, POST"),
        (Method::DELETE, "/api/slo/status", "GET, HEAD"),
    ] {
        let response = it.request(method, path).send().await.unwrap();
        assert_eq!(response.headers()["allow"], allow, "{path}");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(read(response).await.1["reason"], "method_not_allowed");
    }
    for query in ["limit=0", "limit=101", "status=odd", "since=never", "after=x", "limit=1&limit=1"] {
        let (status, body) = it.get(&format!("/api/payments/webhooks?{query}")).await;
        assert_eq!((status, body["field"].as_str()), (422, query.split('=').next()), "{query}");
    }
    assert_eq!(it.request(Method::HEAD, "/healthz").send().await.unwrap().status(), StatusCode::OK);
    let (status, body) = it.get("/test/panic").await;
    assert_eq!((status, &body["error"], body["detail"].as_str().unwrap().contains("a handler panics")), (500, &json!("internal"), false));
    assert_eq!(it.get("/healthz").await.0, 200);
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn keys_open_what_their_scope_allows_until_they_end() {
    let it = Running::start(&[]).await;
    let with = |key: String, method: Method, path: &'static str| {
        let request = it.http.request(method, it.url(path)).header("x-dash-key", key);
        async move { request.send().await.unwrap().status().as_u16() }
    };
    let bare = it.http.get(it.url("/api/slo/status")).send().await.unwrap();
    assert!(bare.headers().contains_key("www-authenticate"));
    assert_eq!(bare.status().as_u16(), 401);
    let mut keys = BTreeMap::new();
    for scope in ["read", "operate", "refund", "admin"] {
        let (status, made) = it.post("/api/keys", &json!({"name": scope, "scope": scope})).await;
        assert_eq!(status, 201);
        keys.insert(scope, (made["key"].as_str().unwrap().to_owned(), made["id"].as_str().unwrap().to_owned()));
    }
    for (scope, method, path, expected) in [
        ("read", Method::GET, "/api/slo/status", 200),
        ("read", Method::POST, "/api/payments/refund-last", 403),
        ("read", Method::POST, "/api/tasks/heartbeat/run", 403),
        ("read", Method::GET, "/api/keys", 403),
        ("refund", Method::GET, "/api/slo/status", 200),
        ("refund", Method::POST, "/api/payments/refund-last", 409),
        ("refund", Method::POST, "/api/payments/create-invoice", 403),
        ("operate", Method::POST, "/api/payments/create-invoice", 422),
        ("operate", Method::POST, "/api/payments/refund-last", 403),
        ("operate", Method::POST, "/api/supervisor/slo/drill", 403),
        ("admin", Method::GET, "/api/keys", 200),
    ] {
        assert_eq!(with(keys[scope].0.clone(), method, path).await, expected, "{scope} {path}");
    }
    let listed = it.get("/api/keys").await.1;
    assert!(listed["count"] == 4 && !listed.to_string().contains(&keys["read"].0));
    let path = format!("/api/keys/{}", keys["read"].1);
    assert_eq!(it.request(Method::DELETE, &path).send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(it.request(Method::DELETE, &path).send().await.unwrap().status(), StatusCode::NOT_FOUND);
    assert_eq!(with(keys["read"].0.clone(), Method::GET, "/api/slo/status").await, 401);
    assert_eq!(it.post("/api/keys", &json!({"name": "x", "scope": "god"})).await.1["field"], "scope");
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn guessing_keys_is_slowed_down() {
    let it = Running::start(&[]).await;
    for _ in 0..10 {
        let wrong = it.http.get(it.url("/api/slo/status")).header("x-dash-key", "wrong").send().await.unwrap();
        assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    }
    let limited = it.http.get(it.url("/api/slo/status")).header("x-dash-key", "wrong").send().await.unwrap();
    assert_eq!(limited.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(limited.headers().contains_key("retry-after"));
    assert_eq!(it.get("/healthz").await.0, 200);
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn a_session_works_from_our_own_pages_only() {
    let it = Running::start(&[]).await;
    let sign_in = |key: &str| it.http.post(it.url("/session")).form_key(key);
    let wrong = sign_in("wrong").send().await.unwrap();
    assert_eq!((wrong.status().as_u16(), wrong.headers()["location"].to_str().unwrap()), (303, "/login?error=unauthorized"));
    let good = sign_in(KEY).send().await.unwrap();
    let cookie = good.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert_eq!(good.headers()["location"], "/");
    for part in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let get = |cookie: String| it.http.get(it.url("/api/overview")).header("cookie", cookie).send();
    assert_eq!(get(cookie.clone()).await.unwrap().status(), StatusCode::OK);
    assert_eq!(get(cookie.replace(".admin.", ".read.")).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        get(format!("{}0", &cookie[..cookie.len() - 1])).await.unwrap().status().as_u16() / 100,
        if cookie.ends_with('0') { 2 } else { 4 }
    );
    let ours = it.url("");
    for (origin, expected) in [(None, 403), (Some("https://evil.example"), 403), (Some("null"), 403), (Some(ours.as_str()), 202)] {
        let mut request = it.http.post(it.url("/api/tasks/heartbeat/run")).header("cookie", &cookie);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        assert_eq!(request.send().await.unwrap().status().as_u16(), expected, "{origin:?}");
    }
    let end = it.http.delete(it.url("/session")).header("cookie", &cookie).header("origin", &ours).send().await.unwrap();
    assert!(end.headers()["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    let json = it.http.post(it.url("/session")).header("content-type", "application/json").body(json!({"key": KEY}).to_string());
    assert_eq!(read(json.send().await.unwrap()).await.1["scope"], "admin");
    it.daemon.stop().await.unwrap();
}

trait Form {
    fn form_key(self, key: &str) -> Self;
}

impl Form for reqwest::RequestBuilder {
    fn form_key(self, key: &str) -> Self {
        self.header("content-type", "application/x-www-form-urlencoded").body(format!("key={key}"))
    }
}

#[tokio::test]
async fn one_request_too_many_is_told_to_come_again() {
    let it = Running::start(&[("SERVER__MAX_IN_FLIGHT", "1")]).await;
    let slow = tokio::spawn(it.http.get(it.url("/test/slow")).send());
    let refused = loop {
        let response = it.http.get(it.url("/healthz")).send().await.unwrap();
        if response.status() == StatusCode::SERVICE_UNAVAILABLE || slow.is_finished() {
            break response;
        }
    };
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(read(refused).await.1["reason"], "overloaded");
    assert_eq!(slow.await.unwrap().unwrap().status(), StatusCode::OK);
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn a_crash_of_the_gateway_drops_no_connection_and_no_request() {
    let it = Running::start(&[]).await;
    let slow = tokio::spawn(it.http.get(it.url("/test/slow")).send());
    let (status, body) = it.post("/api/supervisor/gateway/drill", &json!({})).await;
    assert_eq!((status, &body["child"]), (200, &json!("gateway")));
    for _ in 0..50 {
        assert_eq!(reqwest::get(it.url("/healthz")).await.unwrap().status(), StatusCode::OK);
    }
    assert_eq!(slow.await.unwrap().unwrap().status(), StatusCode::OK);
    let (_, status) = it.get("/api/supervisor/status").await;
    let gateway = status["tree"].as_array().unwrap().iter().find(|c| c["name"] == "gateway").unwrap().clone();
    assert_eq!((&gateway["restarts"], &gateway["state"]), (&json!(1), &json!("running")));
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn a_stop_lets_requests_end() {
    let it = Running::start(&[]).await;
    let slow = tokio::spawn(it.http.get(it.url("/test/slow")).send());
    tokio::time::sleep(Duration::from_millis(100)).await; // until it is being answered
    let address = it.daemon.env.server_address();
    it.daemon.stop().await.unwrap();
    assert_eq!(slow.await.unwrap().unwrap().status(), StatusCode::OK);
    let late = TcpStream::connect(address).await;
    if let Ok(mut socket) = late {
        let _ = socket.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_millis(200), socket.read_to_end(&mut answer)).await;
        assert!(answer.is_empty());
    }
}
