//! The sandbox's front door: connections, keys, idempotency, injected faults and headers.
//! Every request is served by one unit of work that commits before it is answered.

use std::{convert::Infallible, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use bytes::Bytes;
use chrono::DateTime;
use http_body_util::Limited;
use hyper_util::rt::{TokioIo, TokioTimer};
use ring::digest;
use serde_json::{Value as Json, json};
use tower_service::Service as _;
use warp::{
    Filter,
    http::{HeaderMap, HeaderValue, Method, Response, StatusCode},
};

use super::{
    Inner, clock, control,
    control::take,
    documents::{Origin, Tx},
    failure::{Api, Failure},
    form::{self, Params},
    hosted, lists, routes,
};
use crate::error::Result;

const BODY_LIMIT: usize = 1 << 20;
const CONNECTIONS: usize = 512;
const REQUEST_ID: &str = "request-id";
/// Also the time a kept-alive connection may idle.
const HEADER_TIMEOUT: Duration = Duration::from_mins(1);

/// Serves connections until dropped; those it opened go with it.
pub(super) async fn accept(inner: Arc<Inner>, listener: &tokio::net::TcpListener) {
    let filter = warp::method()
        .and(warp::path::full())
        .and(warp::query::raw().or(warp::any().map(String::new)).unify())
        .and(warp::header::headers_cloned())
        .and(warp::body::bytes())
        .then(move |method, path: warp::path::FullPath, query, headers, body| {
            let inner = inner.clone();
            async move { respond(&inner, Request { method, path: path.as_str().to_owned(), query, headers, body }).await }
        })
        // The only thing that the filter itself refuses is a body that cannot be read to its end.
        .recover(|_| async {
            Ok::<_, Infallible>(plain(
                413,
                &json!({ "error": { "message": "The request body is too large.", "type": "invalid_request_error" } }),
            ))
        })
        .unify()
        .boxed();
    let service = warp::service(filter);
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS {
            connections.join_next().await;
        }
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(target: "sandbox", error = %error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let service = service.clone();
        connections.spawn(async move {
            let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let mut service = service.clone();
                service.call(request.map(|body| Limited::new(body, BODY_LIMIT)))
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

struct Request {
    method: Method,
    path: String,
    query: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }
}

fn plain(status: u16, body: &Json) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    response
}

async fn respond(inner: &Arc<Inner>, request: Request) -> Response<Bytes> {
    let path: Vec<&str> = request.path.split('/').filter(|s| !s.is_empty()).collect();
    let mut response = match path.as_slice() {
        ["v1", rest @ ..] => serve_v1(inner, &request, rest).await,
        ["_control", rest @ ..] => {
            if request.header("origin").is_some() {
                plain(403, &json!({ "error": { "reason": "origin", "message": "web pages may not control the sandbox" } }))
            } else {
                let (status, body) = control::answer(inner, request.method.as_str(), rest, &request.body).await;
                plain(status, &body)
            }
        }
        ["invoice", rest @ ..] => hosted::answer(inner, request.method.as_str(), rest).await,
        _ => plain(404, &Failure::unknown_url(request.method.as_str(), &request.path).body()),
    };
    let now = {
        let mut state = inner.state.lock().await;
        inner.virtual_now(&mut state)
    };
    // Clients judge windows by this header: it is the virtual clock, not ours.
    let date = DateTime::from_timestamp(now, 0).unwrap_or_default().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    set(&mut response, "date", &date);
    if !response.headers().contains_key(REQUEST_ID) {
        set(&mut response, REQUEST_ID, &request_id());
    }
    response
}

fn request_id() -> String {
    format!("req_{}", super::random_text(14))
}

fn set(response: &mut Response<Bytes>, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// A test key, by Bearer or Basic.
fn check_key(request: &Request) -> Api<()> {
    let header = request.header("authorization").unwrap_or_default();
    let key = match header.split_once(' ') {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => key.trim().to_owned(),
        Some((scheme, pair)) if scheme.eq_ignore_ascii_case("basic") => {
            decode_base64(pair.trim()).and_then(|pair| pair.split_once(':').map(|(user, _)| user.to_owned())).unwrap_or_default()
        }
        _ => return Err(Failure::no_key()),
    };
    match key.strip_prefix("sk_test_").or_else(|| key.strip_prefix("rk_test_")) {
        Some(rest) if !rest.is_empty() => Ok(()),
        _ if key.is_empty() => Err(Failure::no_key()),
        _ => Err(Failure::wrong_key(&key)),
    }
}

fn decode_base64(text: &str) -> Option<String> {
    String::from_utf8(STANDARD_NO_PAD.decode(text.trim_end_matches('=')).ok()?).ok()
}

/// An answer of `/v1` before it gets its headers.
struct Answer {
    status: u16,
    body: String,
    replayed_from: Option<String>,
}

async fn serve_v1(inner: &Arc<Inner>, request: &Request, path: &[&str]) -> Response<Bytes> {
    let id = request_id();
    let key = request.header("idempotency-key").filter(|_| request.method == Method::POST).map(str::to_owned);
    let result = match InFlight::enter(inner, key.as_deref()) {
        Ok(_in_flight) => match delay(inner, request, path).await {
            Ok(delay) => {
                tokio::time::sleep(delay).await;
                work(inner, request, path, &id, key.clone()).await
            }
            Err(error) => Err(error.into()),
        },
        Err(failure) => Err(failure),
    };
    let answer = result.unwrap_or_else(|f| Answer { status: f.status, body: f.body().to_string(), replayed_from: None });
    tracing::debug!(target: "sandbox", request = id, method = %request.method, path = request.path, status = answer.status, "answered");
    let mut response = plain(answer.status, &Json::Null);
    *response.body_mut() = Bytes::from(answer.body);
    set(&mut response, REQUEST_ID, &id);
    set(&mut response, "stripe-version", crate::providers::stripe::API_VERSION);
    if let Some(key) = key {
        set(&mut response, "idempotency-key", &key);
    }
    if let Some(original) = answer.replayed_from {
        set(&mut response, "idempotent-replayed", "true");
        set(&mut response, "original-request", &original);
    }
    if answer.status == 429 {
        set(&mut response, "retry-after", "1");
    }
    response
}

/// Whether the call asks for a page of a list.
fn is_page(request: &Request, path: &[&str]) -> bool {
    request.method == Method::GET && matches!(path, [name] | [_, _, name] if *name != "balance")
}

/// How long the call is held up on purpose.
async fn delay(inner: &Inner, request: &Request, path: &[&str]) -> Result<Duration> {
    let mut tx = inner.begin(Origin::default()).await;
    let mut delay = tx.chaos.slow_ms;
    if is_page(request, path) && take(&mut tx.chaos.slow_page) {
        delay += control::SLOW_PAGE_MS;
        tx.commit().await?;
    }
    Ok(Duration::from_millis(delay.unsigned_abs()))
}

/// Marks an idempotency key as being worked on, for as long as it lives.
struct InFlight<'a> {
    inner: &'a Inner,
    key: Option<String>,
}

impl<'a> InFlight<'a> {
    fn enter(inner: &'a Inner, key: Option<&str>) -> Api<Self> {
        if let Some(key) = key {
            if key.is_empty() || key.len() > 255 {
                let message = "Idempotency keys must have from 1 to 255 characters.";
                return Err(Failure::parameter("parameter_invalid_string", "Idempotency-Key", message));
            }
            let mut keys = inner.in_flight.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if !keys.insert(key.to_owned()) {
                return Err(Failure::key_in_use(key));
            }
        }
        Ok(Self { inner, key: key.map(str::to_owned) })
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            self.inner.in_flight.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(key);
        }
    }
}

async fn work(inner: &Inner, request: &Request, path: &[&str], id: &str, key: Option<String>) -> Api<Answer> {
    check_key(request)?;
    let params = if request.method == Method::POST { form::decode(&request.body)? } else { form::decode(request.query.as_bytes())? };
    inner.catch_up().await?;
    let mut tx = inner.begin(Origin { request: Some(id.to_owned()), key: key.clone() }).await;
    if take(&mut tx.chaos.status_429) {
        tx.commit().await?;
        return Err(Failure::rate_limit());
    }
    if is_page(request, path) && take(&mut tx.chaos.fail_page) {
        tx.commit().await?;
        return Err(Failure::page());
    }
    let fingerprint = fingerprint(request, &params);
    if let Some(key) = &key
        && let Some(answer) = replay(&tx, key, &fingerprint).await?
    {
        return Ok(answer);
    }
    let method = request.method.as_str();
    let mut result = routes::dispatch(&mut tx, method, path, &request.path, Params::new(&params)).await;
    if let Ok(body) = result {
        result = lists::expand(&tx, body, Params::new(&params)).await;
    }
    if let Err(failure) = &result
        && !failure.commit
    {
        // What it changed is forgotten; only its answer may be kept.
        let (inner, origin) = (tx.inner, tx.origin.clone());
        drop(tx);
        tx = inner.begin(origin).await;
    }
    if method == "POST" && result.is_ok() && take(&mut tx.chaos.error_after_commit) {
        result = Err(Failure::after_commit());
    }
    let (status, body, stored) = match &result {
        Ok(body) => (200, body.to_string(), true),
        Err(failure) => (failure.status, failure.body().to_string(), failure.stored),
    };
    if let Some(key) = key.filter(|_| stored) {
        tx.also(
            "INSERT INTO idempotency (key, fingerprint, status, body, request, created) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (key) DO UPDATE SET fingerprint = excluded.fingerprint, status = excluded.status, body = excluded.body,
             request = excluded.request, created = excluded.created",
            vec![key.into(), fingerprint.into(), i64::from(status).into(), body.as_str().into(), id.into(), tx.now.into()],
        );
    }
    tx.commit().await?;
    Ok(Answer { status, body, replayed_from: None })
}

/// The address and a digest of the parameters.
fn fingerprint(request: &Request, params: &Json) -> String {
    format!("{} {}", request.path, super::hex(digest::digest(&digest::SHA256, params.to_string().as_bytes()).as_ref()))
}

/// The stored answer of an idempotency key, for 24 hours of virtual time.
async fn replay(tx: &Tx<'_>, key: &str, fingerprint: &str) -> Api<Option<Answer>> {
    let rows = tx
        .read(
            "SELECT fingerprint, status, body, request FROM idempotency WHERE key = ?1 AND created > ?2",
            vec![key.into(), (tx.now - clock::DAY).into()],
        )
        .await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let path = |fingerprint: &str| fingerprint.split(' ').next().unwrap_or_default().to_owned();
    let (first, asked) = (path(row.text(0)?), path(fingerprint));
    if first != asked {
        return Err(Failure::key_elsewhere(key, &first, &asked));
    }
    if row.text(0)? != fingerprint {
        return Err(Failure::key_reused(key));
    }
    let answer: Result<Answer> = (|| {
        let status = u16::try_from(row.int(1)?).unwrap_or(500);
        Ok(Answer { status, body: row.text(2)?.to_owned(), replayed_from: Some(row.text(3)?.to_owned()) })
    })();
    Ok(Some(answer?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_authentication_is_read() {
        assert_eq!(decode_base64("c2tfdGVzdF9hYmM6").as_deref(), Some("sk_test_abc:"));
        assert_eq!(decode_base64("YTpi").as_deref(), Some("a:b"));
        assert_eq!(decode_base64("!"), None);
    }
}
