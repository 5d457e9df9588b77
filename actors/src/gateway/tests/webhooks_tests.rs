//! Deliveries of the provider: stored once, or refused without a trace in the store; never acknowledged before they are durable.

use reqwest::StatusCode;
use ring::hmac;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Running, SECRET, read};
use crate::files;

impl Running {
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
async fn without_the_store_nothing_is_acknowledged_and_the_probe_says_why() {
    let it = Running::start(&[]).await;
    assert_eq!(it.get("/readyz").await.1["status"], "ready");
    it.daemon.env.store().close().await.unwrap();
    let body = event("evt_1");
    let response = it.http.post(it.url("/api/payments/webhook")).header("stripe-signature", signed(body.as_bytes(), it.now())).body(body);
    let response = response.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key("retry-after"));
    let (status, ready) = it.get("/readyz").await;
    assert_eq!((status, &ready["part"]), (503, &json!("store")), "{ready}");
    assert_eq!(it.get("/healthz").await.0, 200);
    let _ = it.daemon.stop().await; // its store is gone already
}
