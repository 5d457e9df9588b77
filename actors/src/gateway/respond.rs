//! Answers: JSON, redirects, and every error as `application/problem+json` (RFC 9457) by the one table from our codes to HTTP.
//! Called by every handler and by the listener. The text of an internal error never reaches a client: it is logged once under
//! an id, and the answer carries the id.

use serde_json::{Map, Value as Json, json};
use warp::{
    http::{HeaderValue, Response as HttpResponse, StatusCode, header},
    reply::Response,
};

use crate::{
    error::{Code, Error},
    files,
};

/// Why a request was refused, for the access log; travels as an extension of the response.
#[derive(Clone, Debug)]
pub(super) struct Refused(pub(super) String);

/// Marks the answer to a request that no route took, so that the listener can tell 405 from 404.
#[derive(Clone, Copy, Debug)]
pub(super) struct NoRoute;

/// 200 with this body.
pub fn json(body: &Json) -> Response {
    with_status(StatusCode::OK, body)
}

/// 200 with JSON that is text already.
pub(super) fn json_text(body: bytes::Bytes) -> Response {
    typed(StatusCode::OK, "application/json", body)
}

pub fn with_status(status: StatusCode, body: &Json) -> Response {
    typed(status, "application/json", body.to_string())
}

/// 200 with text of a type of its own.
pub(super) fn text(content_type: &'static str, body: bytes::Bytes) -> Response {
    typed(StatusCode::OK, content_type, body)
}

/// 202 for a run that goes on: where to look for its end.
pub(super) fn accepted(run_id: &str) -> Response {
    let status_url = format!("/api/runs/{run_id}");
    let mut response =
        with_status(StatusCode::ACCEPTED, &json!({"ok": true, "run_id": run_id, "state": "running", "status_url": status_url}));
    set(&mut response, header::LOCATION, &status_url);
    response
}

/// 303: the browser goes on with GET.
pub fn see_other(location: &str) -> Response {
    let mut response = typed(StatusCode::SEE_OTHER, "text/plain; charset=utf-8", String::new());
    set(&mut response, header::LOCATION, location);
    response
}

/// The error as a client may see it.
pub fn problem(error: &Error) -> Response {
    let status = status(error);
    let mut body = Map::new();
    body.insert("type".into(), "about:blank".into());
    body.insert("title".into(), status.canonical_reason().unwrap_or("Error").into());
    body.insert("status".into(), status.as_u16().into());
    let detail = if error.code == Code::Internal {
        let id = format!("err_{}", files::random_hex(8));
        tracing::error!(target: "gateway", error_id = id, error = error.message, "an internal error");
        body.insert("error_id".into(), id.as_str().into());
        format!("An internal error; the log has it under {id}.")
    } else {
        error.message.clone()
    };
    body.insert("detail".into(), detail.into());
    body.insert("ok".into(), false.into());
    body.insert("error".into(), error.code.as_str().into());
    body.insert("reason".into(), error.reason.as_ref().into());
    if let Some(field) = &error.field {
        body.insert("field".into(), field.as_ref().into());
    }
    if error.code != Code::Internal {
        for (name, value) in &error.extra {
            body.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    let mut response = typed(status, "application/problem+json", Json::Object(body).to_string());
    if let Some(seconds) = retry_after(error) {
        set(&mut response, header::RETRY_AFTER, &seconds.to_string());
    }
    if status == StatusCode::UNAUTHORIZED {
        set(&mut response, header::WWW_AUTHENTICATE, "DashKey realm=\"echopilot\"");
    }
    response.extensions_mut().insert(Refused(error.reason.to_string()));
    response
}

/// The one table from codes and reasons to HTTP.
pub fn status(error: &Error) -> StatusCode {
    match (error.code, error.reason.as_ref()) {
        (Code::Invalid, "method_not_allowed") => StatusCode::METHOD_NOT_ALLOWED,
        (Code::Invalid, "body_timeout") => StatusCode::REQUEST_TIMEOUT,
        (Code::Invalid, "too_large") => StatusCode::PAYLOAD_TOO_LARGE,
        (Code::Invalid, "media_type") => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        (Code::Invalid, "field") => StatusCode::UNPROCESSABLE_ENTITY,
        (Code::Invalid, _) => StatusCode::BAD_REQUEST,
        (Code::Unauthorized, _) => StatusCode::UNAUTHORIZED,
        (Code::Forbidden, _) => StatusCode::FORBIDDEN,
        (Code::NotFound, _) => StatusCode::NOT_FOUND,
        (Code::Conflict, _) => StatusCode::CONFLICT,
        (Code::Limited, _) => StatusCode::TOO_MANY_REQUESTS,
        (Code::Unavailable, reason) if reason.starts_with("provider_") => StatusCode::BAD_GATEWAY,
        (Code::Unavailable, _) => StatusCode::SERVICE_UNAVAILABLE,
        (Code::Internal, _) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// 429 and 503 always say when to come back.
fn retry_after(error: &Error) -> Option<u64> {
    match error.code {
        Code::Limited | Code::Unavailable => Some(error.retry_after_s.unwrap_or(1).max(1)),
        _ => error.retry_after_s,
    }
}

pub(super) fn not_found() -> Response {
    problem(&Error::not_found("there is nothing at this address"))
}

/// 405 with the methods that would have been right.
pub(super) fn method_not_allowed(allow: &str) -> Response {
    let mut response = problem(&Error::invalid("method_not_allowed", format!("this address answers to {allow}")));
    set(&mut response, header::ALLOW, allow);
    response
}

pub(super) fn set(response: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn typed(status: StatusCode, content_type: &'static str, body: impl Into<bytes::Bytes>) -> Response {
    let mut response: Response = HttpResponse::new(body.into().into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    async fn body(response: Response) -> Json {
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    #[test]
    fn every_code_and_special_reason_has_its_status() {
        let error = |code, reason: &'static str| Error::new(code, reason, "m");
        for (code, reason, expected) in [
            (Code::Invalid, "body", 400),
            (Code::Invalid, "signature", 400),
            (Code::Invalid, "method_not_allowed", 405),
            (Code::Invalid, "body_timeout", 408),
            (Code::Invalid, "too_large", 413),
            (Code::Invalid, "media_type", 415),
            (Code::Invalid, "field", 422),
            (Code::Unauthorized, "unauthorized", 401),
            (Code::Forbidden, "live_mode", 403),
            (Code::NotFound, "not_found", 404),
            (Code::Conflict, "backup_running", 409),
            (Code::Limited, "limited", 429),
            (Code::Unavailable, "restarting", 503),
            (Code::Unavailable, "timeout", 503),
            (Code::Unavailable, "provider_unavailable", 502),
            (Code::Internal, "internal", 500),
        ] {
            assert_eq!(status(&error(code, reason)).as_u16(), expected, "{code:?} {reason}");
        }
    }

    #[tokio::test]
    async fn an_error_is_a_problem_with_its_own_members() {
        let response = problem(&Error::field("amount_minor", "too small").with("minimum", 50));
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let body = body(response).await;
        for (name, value) in [("ok", json!(false)), ("error", json!("invalid")), ("reason", json!("field")), ("status", json!(422))] {
            assert_eq!(body[name], value, "{name}");
        }
        assert_eq!((&body["field"], &body["detail"], &body["minimum"]), (&json!("amount_minor"), &json!("too small"), &json!(50)));
    }

    #[tokio::test]
    async fn internal_text_stays_inside_and_an_id_goes_out() {
        let response = problem(&Error::internal("SELECT secret FROM table").with("leak", "x"));
        assert!(!response.headers().contains_key("retry-after"));
        let body = body(response).await;
        assert!(!body.to_string().contains("SELECT") && body.get("leak").is_none());
        assert!(body["error_id"].as_str().unwrap().starts_with("err_"));
    }

    #[test]
    fn who_must_wait_is_told_how_long() {
        assert_eq!(problem(&Error::limited("slow down", 30)).headers()["retry-after"], "30");
        assert_eq!(problem(&Error::unavailable("restarting", "m")).headers()["retry-after"], "1");
        assert_eq!(problem(&Error::new(Code::Unavailable, "x", "m")).headers()["retry-after"], "1");
        assert!(!problem(&Error::not_found("m")).headers().contains_key("retry-after"));
    }
}
