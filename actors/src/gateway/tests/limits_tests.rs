//! Slow clients, too many requests, wrong addresses and methods, panics, crashes and stops.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{Running, read};

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
async fn one_request_too_many_is_told_to_come_again() {
    let it = Running::start(&[("SERVER__MAX_IN_FLIGHT", "1")]).await;
    let slow = it.slow().await;
    let refused = it.http.get(it.url("/nothing")).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(read(refused).await.1["reason"], "overloaded");
    assert_eq!(it.http.get(it.url("/healthz")).send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(slow.await.unwrap().unwrap().status(), StatusCode::OK);
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn a_crash_of_the_gateway_drops_no_connection_and_no_request() {
    let it = Running::start(&[]).await;
    let slow = it.slow().await;
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
    let slow = it.slow().await;
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
