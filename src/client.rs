//! The HTTP client by which commands ask a running daemon. JSON in, JSON out; a problem+json answer becomes the error it was
//! made from. It never prints the key.

use std::{fmt, net::SocketAddr, time::Duration};

use echopilot_actors::error::{Code, Error, Result};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, StatusCode};
use serde_json::Value as Json;

/// Items of a page that the API gives at most.
const PAGE: usize = 100;
const CONNECT: Duration = Duration::from_secs(3);
/// A backup's answer waits up to 30 seconds on the daemon's side.
const TOTAL: Duration = Duration::from_secs(40);
/// What may stand in a path segment as it is.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A running daemon and the key to it.
#[derive(Clone)]
pub(crate) struct Client {
    address: SocketAddr,
    key: String,
    http: reqwest::Client,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Client {
    pub(crate) fn new(address: SocketAddr, key: String) -> Result<Self> {
        // The daemon is on this machine: a proxy has no business in between.
        let http = reqwest::Client::builder().no_proxy().connect_timeout(CONNECT).timeout(TOTAL).build().map_err(Error::internal)?;
        Ok(Self { address, key, http })
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Json> {
        self.call(Method::GET, path, None).await
    }

    /// A list page by page, up to `most` items: the first answer, with all of them as its `member`. `path` has a query.
    pub(crate) async fn all(&self, path: &str, member: &str, most: usize) -> Result<Json> {
        let mut answer = self.get(&format!("{path}&limit={}", most.clamp(1, PAGE))).await?;
        let mut items = answer[member].as_array_mut().map(std::mem::take).unwrap_or_default();
        while let Some(after) = answer["next"].take().as_str().filter(|_| items.len() < most) {
            let limit = (most - items.len()).min(PAGE);
            let mut page = self.get(&format!("{path}&limit={limit}&after={}", segment(after))).await?;
            items.extend(page[member].as_array_mut().map(std::mem::take).unwrap_or_default());
            answer["next"] = page["next"].take();
        }
        answer["count"] = items.len().into();
        answer[member] = items.into();
        Ok(answer)
    }

    pub(crate) async fn post(&self, path: &str, body: Option<&Json>) -> Result<Json> {
        self.call(Method::POST, path, body).await
    }

    /// A request that its repetition with the same key does not do again.
    pub(crate) async fn post_once(&self, path: &str, body: &Json, idempotency_key: &str) -> Result<Json> {
        self.send(self.request(Method::POST, path).header("idempotency-key", idempotency_key), Some(body)).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Json>) -> Result<Json> {
        self.send(self.request(method, path), body).await
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.address)).header("x-dash-key", &self.key)
    }

    async fn send(&self, mut request: reqwest::RequestBuilder, body: Option<&Json>) -> Result<Json> {
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|e| self.silent(&e))?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(|e| self.silent(&e))?;
        match serde_json::from_slice(&bytes) {
            Ok(answer) if status.is_success() => Ok(answer),
            answer => Err(refusal(status, &answer.unwrap_or_default())),
        }
    }

    fn silent(&self, error: &reqwest::Error) -> Error {
        let what = if error.is_timeout() { "did not answer in time" } else { "cannot be reached" };
        Error::unavailable("daemon_unreachable", format!("the daemon at {} {what}: {}", self.address, innermost(error)))
    }
}

/// The cause that says something; the outer ones repeat the address.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// One segment of a path: whatever is in it stays in it.
pub(crate) fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// The daemon's error as ours.
fn refusal(status: StatusCode, problem: &Json) -> Error {
    let code = match status.as_u16() {
        401 => Code::Unauthorized,
        403 => Code::Forbidden,
        404 => Code::NotFound,
        409 => Code::Conflict,
        429 => Code::Limited,
        400..=499 => Code::Invalid,
        502 | 503 => Code::Unavailable,
        _ => Code::Internal,
    };
    let text = |member: &str| problem[member].as_str().map(str::to_owned);
    let reason = text("reason").unwrap_or_else(|| code.as_str().to_owned());
    let message = text("detail").unwrap_or_else(|| format!("the daemon answered {status}"));
    let mut error = Error::new(code, reason, message);
    if let Some(run_id) = text("run_id") {
        error = error.with("run_id", run_id);
    }
    error
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_problem_is_the_error_it_was_made_from() {
        let problem =
            json!({"ok": false, "error": "conflict", "reason": "backup_running", "detail": "a backup is running", "run_id": "run_1"});
        let error = refusal(StatusCode::CONFLICT, &problem);
        assert_eq!((error.code, error.reason.as_ref(), error.message.as_str()), (Code::Conflict, "backup_running", "a backup is running"));
        assert_eq!(error.extra["run_id"], "run_1");
        assert_eq!(refusal(StatusCode::BAD_GATEWAY, &Json::Null).code, Code::Unavailable);
        assert_eq!(refusal(StatusCode::UNPROCESSABLE_ENTITY, &Json::Null).code, Code::Invalid);
    }

    #[test]
    fn an_address_stays_one_segment() {
        assert_eq!(segment("a/b?c@example.com"), "a%2Fb%3Fc%40example.com");
        assert_eq!(segment("payout_recon"), "payout_recon");
    }
}
