//! The client for Stripe's API: form-encoded requests, JSON answers, retries, paging, and its errors as ours. Called by the
//! gateway, the tasks and the demo; the sandbox answers the same requests. Answers are JSON values on purpose: fields come
//! and go between API versions, and the raw object is what is stored. It never logs or prints the key.

mod calls;

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use reqwest::{
    Method, StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};
use serde_json::Value;

use crate::{
    config::{ProviderMode, mode_of_key},
    domain::backoff::Backoff,
    error::{Code, Error, Result},
    files,
};

/// The version every request asks for and every object is modelled after.
pub const API_VERSION: &str = "2026-10-28.endive";
/// Where the real one is.
pub const LIVE_BASE: &str = "https://api.stripe.com";

const ATTEMPTS: u32 = 3;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(30);
const SHORTEST_WAIT: Duration = Duration::from_millis(500);
const RETRY: Backoff = Backoff::new(500, 2, 5000);
/// A `Retry-After` beyond this is for the caller to wait out.
const LONGEST_RETRY_AFTER_S: u64 = 30;
/// Pages of one list: a million objects, after which something is wrong.
const PAGES: usize = 10_000;

/// A successful answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub body: Value,
    /// The provider's clock, from the `Date` header: whole seconds.
    pub provider_now: DateTime<Utc>,
    pub request_id: Option<String>,
    /// The answer was stored under the idempotency key by an earlier request.
    pub replayed: bool,
}

/// Form fields in order; nested names are written out, as in `created[gte]`.
pub type Params<'a> = &'a [(&'a str, String)];

/// A handle for one base URL and key; cheap to clone. `http` must have been built after a TLS provider was installed.
#[derive(Clone)]
pub struct Client {
    base: Arc<str>,
    key: Arc<str>,
    http: reqwest::Client,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base", &self.base).field("mode", &mode_of_key(&self.key)).finish_non_exhaustive()
    }
}

/// What came of one try.
enum Tried {
    Done(Answer),
    Failed { error: Error, again: bool, wait: Option<Duration> },
}

impl Client {
    /// `base_url` without a path, e.g. `http://127.0.0.1:4242` or `LIVE_BASE`; `http` from `http_client()`.
    pub fn new(base_url: &str, key: &str, http: reqwest::Client) -> Self {
        Self { base: base_url.trim_end_matches('/').into(), key: key.into(), http }
    }

    /// An HTTP client with the right time limits, to be shared.
    pub fn http_client() -> Result<reqwest::Client> {
        Self::build(reqwest::Client::builder())
    }

    /// The same without a proxy: one has no business with the loopback address of our own sandbox.
    pub fn loopback_http_client() -> Result<reqwest::Client> {
        Self::build(reqwest::Client::builder().no_proxy())
    }

    fn build(builder: reqwest::ClientBuilder) -> Result<reqwest::Client> {
        builder
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| Error::internal(format!("the HTTP client cannot be built: {e}")))
    }

    /// Of this client's key.
    pub fn mode(&self) -> Option<ProviderMode> {
        mode_of_key(&self.key)
    }

    /// A read: tried again on lost connections, 409, 429 and 5xx. `path` begins with `/v1/`.
    pub async fn get(&self, path: &str, params: Params<'_>) -> Result<Answer> {
        self.call(Method::GET, path, params, None).await
    }

    /// The key must have been stored before: a retry, of this call or after a crash, sends the same one.
    pub async fn post(&self, path: &str, params: Params<'_>, idempotency_key: &str) -> Result<Answer> {
        self.call(Method::POST, path, params, Some(idempotency_key)).await
    }

    /// Ends or removes something. Tried again as a read is: the second time it is gone.
    pub async fn delete(&self, path: &str) -> Result<Answer> {
        self.call(Method::DELETE, path, &[], None).await
    }

    async fn call(&self, method: Method, path: &str, params: Params<'_>, key: Option<&str>) -> Result<Answer> {
        let mut attempt = 1;
        loop {
            match self.attempt(&method, path, params, key).await {
                Tried::Done(answer) => return Ok(answer),
                Tried::Failed { again: true, wait, error } if attempt < ATTEMPTS => {
                    let wait = wait.unwrap_or_else(|| backoff(attempt));
                    tracing::info!(target: "stripe", method = %method, path, attempt, wait_ms = wait.as_millis(), error = %error, "trying again");
                    tokio::time::sleep(wait).await;
                    attempt += 1;
                }
                Tried::Failed { error, .. } => return Err(error.context(format!("{method} {path}"))),
            }
        }
    }

    async fn attempt(&self, method: &Method, path: &str, params: Params<'_>, key: Option<&str>) -> Tried {
        let encoded = form_urlencoded::Serializer::new(String::new()).extend_pairs(params).finish();
        let url = format!("{}{path}", self.base);
        let mut request = match *method {
            Method::POST => self.http.post(url).header("content-type", "application/x-www-form-urlencoded").body(encoded),
            _ if encoded.is_empty() => self.http.get(url),
            _ => self.http.get(format!("{url}?{encoded}")),
        };
        request = request.bearer_auth(&self.key).header("stripe-version", API_VERSION).timeout(TIMEOUT);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return lost(&error),
        };
        let (status, headers) = (response.status(), response.headers().clone());
        let body = match response.bytes().await {
            Ok(body) => body,
            Err(error) => return lost(&error),
        };
        let request_id = header(&headers, "request-id").map(str::to_owned);
        tracing::debug!(target: "stripe", method = %method, path, status = status.as_u16(), request_id, "answered");
        let json: Option<Value> = serde_json::from_slice(&body).ok();
        match (status.is_success(), json) {
            (true, Some(body)) => match header(&headers, "date").and_then(|d| DateTime::parse_from_rfc2822(d).ok()) {
                Some(date) => Tried::Done(Answer {
                    body,
                    provider_now: date.with_timezone(&Utc),
                    request_id,
                    replayed: header(&headers, "idempotent-replayed") == Some("true"),
                }),
                None => failed(Error::unavailable("provider_unavailable", "the provider's answer has no readable Date"), false),
            },
            (true, None) => failed(Error::unavailable("provider_unavailable", "the provider's answer is not JSON"), method == Method::GET),
            (false, body) => Tried::Failed {
                again: should_retry(method, status, &headers),
                wait: retry_after(status, &headers),
                error: provider_error(status, &headers, body.as_ref(), request_id),
            },
        }
    }

    /// Every object of a list, newest first. Objects that arrive while it is read may be missing; none is there twice. A page
    /// that cannot be read is an error and never the end of the list.
    pub async fn list_all(&self, path: &str, params: Params<'_>) -> Result<Vec<Value>> {
        let (mut all, mut seen, mut after) = (Vec::new(), HashSet::new(), None::<String>);
        for _ in 0..PAGES {
            let mut page_params = params.to_vec();
            page_params.push(("limit", "100".into()));
            page_params.extend(after.take().map(|id| ("starting_after", id)));
            let mut page = self.get(path, &page_params).await?.body;
            let has_more = page["has_more"].as_bool();
            let (Some(has_more), Value::Array(data)) = (has_more, page["data"].take()) else {
                return Err(Error::unavailable("provider_unavailable", format!("the provider's answer to {path} is not a list")));
            };
            after = data.last().and_then(|o| o["id"].as_str()).map(str::to_owned);
            all.extend(data.into_iter().filter(|o| o["id"].as_str().is_none_or(|id| seen.insert(id.to_owned()))));
            match (has_more, &after) {
                (false, _) => return Ok(all),
                (true, Some(_)) => {}
                (true, None) => {
                    return Err(Error::unavailable("provider_unavailable", format!("{path} promises more after an empty page")));
                }
            }
        }
        Err(Error::unavailable("provider_unavailable", format!("{path} does not end")))
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

fn failed(error: Error, again: bool) -> Tried {
    Tried::Failed { error, again, wait: None }
}

/// The answer never came: the same key makes trying again safe.
fn lost(error: &reqwest::Error) -> Tried {
    failed(Error::unavailable("provider_unavailable", format!("the provider cannot be reached: {}", without_url(error))), true)
}

/// The cause without the URL, which may carry a customer's address.
fn without_url(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if error.is_timeout() {
        "timed out".into()
    } else if std::ptr::addr_eq(cause, error) {
        "request failed".into()
    } else {
        cause.to_string()
    }
}

fn should_retry(method: &Method, status: StatusCode, headers: &HeaderMap) -> bool {
    match header(headers, "stripe-should-retry") {
        Some("true") => true,
        Some("false") => false,
        _ => {
            status == StatusCode::CONFLICT || status.is_server_error() || (method == Method::GET && status == StatusCode::TOO_MANY_REQUESTS)
        }
    }
}

fn retry_after(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = header(headers, RETRY_AFTER.as_str())?.parse().ok()?;
    (status == StatusCode::TOO_MANY_REQUESTS && seconds <= LONGEST_RETRY_AFTER_S).then(|| Duration::from_secs(seconds).max(SHORTEST_WAIT))
}

/// 0.5 s doubled per attempt up to 5 s, half of it random, never less than 0.5 s.
fn backoff(attempt: u32) -> Duration {
    Duration::from_millis(RETRY.delay_ms(attempt, files::random_unit())).max(SHORTEST_WAIT)
}

fn provider_error(status: StatusCode, headers: &HeaderMap, body: Option<&Value>, request_id: Option<String>) -> Error {
    let detail = body.map_or(&Value::Null, |b| &b["error"]);
    let text = |name: &str| detail[name].as_str();
    let reason = text("code").or(text("type")).unwrap_or("provider_error").to_owned();
    let message = text("message").unwrap_or("the provider gave no reason").to_owned();
    let mut error = match status.as_u16() {
        401 | 403 => Error::new(Code::Forbidden, reason, message),
        404 => Error::new(Code::NotFound, reason, message),
        429 => {
            let wait = header(headers, RETRY_AFTER.as_str()).and_then(|v| v.parse().ok()).unwrap_or(1);
            let mut error = Error::limited(message, wait);
            error.reason = reason.into();
            error
        }
        402 | 409 => Error::new(Code::Conflict, reason, message),
        400 if is_conflict(&reason) => Error::new(Code::Conflict, reason, message),
        400..=499 => Error::new(Code::Invalid, reason, message),
        _ => Error::unavailable("provider_unavailable", message),
    };
    for name in ["decline_code", "param", "charge"] {
        if let Some(value) = text(name) {
            error = error.with(name, value);
        }
    }
    match request_id {
        Some(id) => error.with("provider_request_id", id),
        None => error,
    }
}

/// Requests that were sound but that the object's state, or another request with the same key, forbids.
fn is_conflict(reason: &str) -> bool {
    matches!(
        reason,
        "idempotency_error"
            | "charge_already_refunded"
            | "charge_disputed"
            | "refund_disputed_payment"
            | "charge_not_refundable"
            | "balance_insufficient"
            | "invoice_not_editable"
            | "payment_intent_unexpected_state"
            | "payout_reconciliation_not_ready"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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

    #[test]
    fn what_may_be_tried_again_follows_the_providers_own_word() {
        let none = HeaderMap::new();
        let with = |value: &'static str| HeaderMap::from_iter([("stripe-should-retry".parse().unwrap(), value.parse().unwrap())]);
        for (method, status, headers, expected) in [
            (Method::POST, 500, &none, true),
            (Method::POST, 409, &none, true),
            (Method::POST, 429, &none, false),
            (Method::GET, 429, &none, true),
            (Method::GET, 400, &none, false),
            (Method::POST, 500, &with("false"), false),
            (Method::POST, 400, &with("true"), true),
        ] {
            assert_eq!(should_retry(&method, StatusCode::from_u16(status).unwrap(), headers), expected, "{method} {status}");
        }
    }

    #[test]
    fn the_providers_errors_become_ours() {
        let body = |code: &str| json!({"error": {"code": code, "type": "invalid_request_error", "message": "m", "param": "p"}});
        for (status, code, expected, reason) in [
            (401, "", Code::Forbidden, ""),
            (404, "resource_missing", Code::NotFound, "resource_missing"),
            (400, "charge_already_refunded", Code::Conflict, "charge_already_refunded"),
            (400, "parameter_missing", Code::Invalid, "parameter_missing"),
            (402, "card_declined", Code::Conflict, "card_declined"),
            (409, "idempotency_key_in_use", Code::Conflict, "idempotency_key_in_use"),
            (429, "rate_limit", Code::Limited, "rate_limit"),
            (500, "", Code::Unavailable, "provider_unavailable"),
        ] {
            let error = provider_error(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), Some(&body(code)), Some("req_1".into()));
            assert_eq!((error.code, error.reason.as_ref()), (expected, reason), "{status}");
            assert_eq!(error.extra["provider_request_id"], "req_1");
        }
    }
}
