//! The client for Stripe's API: form-encoded requests, JSON answers, retries, paging, and its errors as ours. Called by the
//! gateway, the tasks and the demo; the sandbox answers the same requests. Answers are JSON values on purpose: fields come
//! and go between API versions, and the raw object is what is stored. It never logs or prints the key.

mod calls;
mod failure;
mod lookups;
mod outbox;
mod pace;
mod permissions;

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use reqwest::{Method, header::HeaderMap};
use ring::digest;
use serde_json::Value;

use self::{
    failure::{provider_error, retry_after, should_retry},
    pace::Pace,
};
pub use self::{
    lookups::{OpenObject, intent_of},
    outbox::{Answered, Outbox, Pending},
    permissions::Lacking,
};
use crate::{
    config::{ProviderMode, mode_of_key},
    domain::backoff::Backoff,
    error::{Error, Result},
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
/// What the provider takes as an idempotency key.
const LONGEST_KEY: usize = 255;
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
    outbox: Option<Arc<dyn Outbox>>,
    /// For reads in the background; shared by all clones.
    pace: Option<Arc<Pace>>,
    in_background: bool,
    count: Option<Count>,
}

/// Is told how long each call took, its tries and waits included, in microseconds, and whether the provider failed.
pub type Count = Arc<dyn Fn(u64, bool) + Send + Sync>;

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
        let base = base_url.trim_end_matches('/').into();
        Self { base, key: key.into(), http, outbox: None, pace: None, in_background: false, count: None }
    }

    /// Writes every change down before it is asked for.
    #[must_use]
    pub fn with_outbox(self, outbox: Arc<dyn Outbox>) -> Self {
        Self { outbox: Some(outbox), ..self }
    }

    /// Counts every call.
    #[must_use]
    pub fn with_count(self, count: Count) -> Self {
        Self { count: Some(count), ..self }
    }

    /// A view for what others do at the provider, as the demo plays them: nothing of it is written down as ours.
    #[must_use]
    pub fn as_others(&self) -> Self {
        Self { outbox: None, count: None, ..self.clone() }
    }

    /// Limits what `background()` and all its clones together ask for.
    #[must_use]
    pub fn with_pace(self, max_per_s: u32, max_in_flight: usize) -> Self {
        Self { pace: Some(Arc::new(Pace::new(max_per_s, max_in_flight))), ..self }
    }

    /// A view for reconciliation and catching up: it keeps to our own rate, so that what a person waits for has the provider's.
    #[must_use]
    pub fn background(&self) -> Self {
        Self { in_background: true, ..self.clone() }
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

    /// A change, tried again on lost connections, 409 and 5xx with the same key, which is durable in the outbox before anything is sent:
    /// a retry, of this call or after a crash, sends the same one. Errors: `conflict` with reason `idempotency_error` if the key was
    /// used for something else.
    pub async fn post(&self, path: &str, params: Params<'_>, idempotency_key: &str) -> Result<Answer> {
        if idempotency_key.is_empty() || idempotency_key.len() > LONGEST_KEY {
            return Err(Error::internal(format!("an idempotency key has 1 to {LONGEST_KEY} characters: {idempotency_key}")));
        }
        let Some(outbox) = &self.outbox else { return self.call(Method::POST, path, params, Some(idempotency_key)).await };
        let request = files::hex(digest::digest(&digest::SHA256, encoded(params).as_bytes()).as_ref());
        outbox.sent(idempotency_key, path, &request).await?;
        let result = self.call(Method::POST, path, params, Some(idempotency_key)).await;
        if let Some(answered) = what_was_answered(&result) {
            // The answer is here: that it could not be noted must not make it look lost.
            if let Err(error) = outbox.answered(idempotency_key, answered).await {
                tracing::error!(target: "stripe", path, %error, "the provider's answer could not be noted");
            }
        }
        result
    }

    /// Ends or removes something. Tried again as a read is: the second time it is gone.
    pub async fn delete(&self, path: &str) -> Result<Answer> {
        self.call(Method::DELETE, path, &[], None).await
    }

    async fn call(&self, method: Method, path: &str, params: Params<'_>, key: Option<&str>) -> Result<Answer> {
        let began = std::time::Instant::now();
        let result = self.call_in_tries(method, path, params, key).await;
        if let Some(count) = &self.count {
            // What we asked wrongly is not the provider's failure.
            let failed = result.as_ref().is_err_and(Error::is_retryable);
            count(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX), failed);
        }
        result
    }

    async fn call_in_tries(&self, method: Method, path: &str, params: Params<'_>, key: Option<&str>) -> Result<Answer> {
        if self.mode().is_none() {
            return Err(Error::forbidden("unknown_key", "the provider's key is of no known kind: nothing is asked with it"));
        }
        let mut attempt = 1;
        loop {
            let place = match &self.pace {
                Some(pace) if self.in_background => pace.enter().await,
                _ => None,
            };
            match self.attempt(&method, path, params, key).await {
                Tried::Done(answer) => return Ok(answer),
                Tried::Failed { again: true, wait, error } if attempt < ATTEMPTS => {
                    let wait = wait.unwrap_or_else(|| backoff(attempt));
                    let request_id = request_id_of(&error);
                    tracing::info!(target: "stripe", method = %method, path, attempt, wait_ms = wait.as_millis(), error = %error, request_id, "trying again");
                    drop(place); // whoever waits for it need not wait for us
                    tokio::time::sleep(wait).await;
                    attempt += 1;
                }
                Tried::Failed { error, .. } => {
                    tracing::warn!(target: "stripe", method = %method, path, attempt, error = %error, request_id = request_id_of(&error), "the provider gave no good answer");
                    return Err(error.context(format!("{method} {path}")));
                }
            }
        }
    }

    async fn attempt(&self, method: &Method, path: &str, params: Params<'_>, key: Option<&str>) -> Tried {
        let encoded = encoded(params);
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
                _ if self.is_of_another_mode(&body) => {
                    let say = "the provider answered with an object of the other mode (live or test) than the key's";
                    let error = Error::forbidden("livemode_mismatch", say);
                    failed(request_id.map_or_else(|| error.clone(), |id| error.clone().with("provider_request_id", id)), false)
                }
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

    /// Whether an object, or one of a list, says that it is of the other mode. One that does not say (a refund) is believed.
    fn is_of_another_mode(&self, body: &Value) -> bool {
        let live = self.mode() == Some(ProviderMode::Live);
        let other = |object: &Value| object["livemode"].as_bool().is_some_and(|livemode| livemode != live);
        other(body) || body["data"].as_array().is_some_and(|list| list.iter().any(other))
    }

    /// Every object of a list, newest first. Objects that arrive while it is read may be missing; none is there twice. A page
    /// that cannot be read is an error and never the end of the list.
    pub async fn list_all(&self, path: &str, params: Params<'_>) -> Result<Vec<Value>> {
        let (mut all, mut pages) = (Vec::new(), self.pages(path, params));
        while let Some(page) = pages.next().await? {
            all.extend(page);
        }
        Ok(all)
    }

    /// The same page by page, for lists that need not be held whole.
    pub fn pages(&self, path: &str, params: Params<'_>) -> Pages {
        let params = params.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        Pages { client: self.clone(), path: path.to_owned(), params, seen: HashSet::new(), after: None, read: 0, ended: false }
    }
}

/// A list that is being read.
#[derive(Debug)]
pub struct Pages {
    client: Client,
    path: String,
    params: Vec<(String, String)>,
    seen: HashSet<String>,
    after: Option<String>,
    read: usize,
    ended: bool,
}

impl Pages {
    /// The next page's objects that were on none before; `None` is the end, which the provider itself has told.
    pub async fn next(&mut self) -> Result<Option<Vec<Value>>> {
        if self.ended {
            return Ok(None);
        }
        let bad = |what: String| Error::unavailable("provider_unavailable", what);
        if self.read == PAGES {
            return Err(bad(format!("{} does not end", self.path)));
        }
        let mut params: Vec<(&str, String)> = self.params.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        params.push(("limit", "100".into()));
        params.extend(self.after.clone().map(|id| ("starting_after", id)));
        let mut page = self.client.get(&self.path, &params).await?.body;
        let has_more = page["has_more"].as_bool();
        let (Some(has_more), Value::Array(data)) = (has_more, page["data"].take()) else {
            return Err(bad(format!("the provider's answer to {} is not a list", self.path)));
        };
        self.after = data.last().and_then(|o| o["id"].as_str()).map(str::to_owned);
        if has_more && self.after.is_none() {
            return Err(bad(format!("{} promises more after an empty page", self.path)));
        }
        (self.read, self.ended) = (self.read + 1, !has_more);
        let seen = &mut self.seen;
        Ok(Some(data.into_iter().filter(|o| o["id"].as_str().is_none_or(|id| seen.insert(id.to_owned()))).collect()))
    }
}

fn encoded(params: Params<'_>) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(params).finish()
}

fn request_id_of(error: &Error) -> Option<&str> {
    error.extra.get("provider_request_id").and_then(Value::as_str)
}

/// What is known of a call after all its tries; `None` if it may have taken effect without our knowing.
fn what_was_answered(result: &Result<Answer>) -> Option<Answered<'_>> {
    match result {
        Ok(answer) => Some(Answered { status: 200, request_id: answer.request_id.as_deref(), object_id: answer.body["id"].as_str() }),
        // Another call with this key is under way: its answer counts.
        Err(error) if error.reason == "idempotency_key_in_use" => None,
        Err(error) => {
            let status = error.extra.get("provider_status").and_then(Value::as_u64)?;
            Some(Answered { status: u16::try_from(status).ok()?, request_id: request_id_of(error), object_id: None })
        }
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

/// 0.5 s doubled per attempt up to 5 s, half of it random, never less than 0.5 s.
fn backoff(attempt: u32) -> Duration {
    Duration::from_millis(RETRY.delay_ms(attempt, files::random_unit())).max(SHORTEST_WAIT)
}

#[cfg(test)]
mod tests;
