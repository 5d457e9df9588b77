//! Keys, scopes, sessions and the throttle.

use std::collections::BTreeMap;

use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{KEY, Running, read};

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
        ("read", Method::POST, "/api/supervisor/slo/release", 403),
        ("operate", Method::POST, "/api/supervisor/slo/release", 409),
        ("operate", Method::POST, "/api/supervisor/nobody/release", 404),
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
