//! What the provider's refusals mean to us: whether to try again, when, and as which error. Called by the client for every answer that is
//! not a success. It never puts a header or a body into an error but the provider's own sentence.

use std::time::Duration;

use reqwest::{
    Method, StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};
use serde_json::Value;

use super::{LONGEST_RETRY_AFTER_S, SHORTEST_WAIT, header};
use crate::error::{Code, Error};

pub(super) fn should_retry(method: &Method, status: StatusCode, headers: &HeaderMap) -> bool {
    if status == StatusCode::TOO_MANY_REQUESTS && asked_wait_s(headers).is_some_and(|seconds| seconds > LONGEST_RETRY_AFTER_S) {
        return false;
    }
    match header(headers, "stripe-should-retry") {
        Some("true") => true,
        Some("false") => false,
        _ => {
            status == StatusCode::CONFLICT || status.is_server_error() || (method == Method::GET && status == StatusCode::TOO_MANY_REQUESTS)
        }
    }
}

pub(super) fn retry_after(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    let seconds = asked_wait_s(headers)?;
    (status == StatusCode::TOO_MANY_REQUESTS && seconds <= LONGEST_RETRY_AFTER_S).then(|| Duration::from_secs(seconds).max(SHORTEST_WAIT))
}

fn asked_wait_s(headers: &HeaderMap) -> Option<u64> {
    header(headers, RETRY_AFTER.as_str())?.parse().ok()
}

pub(super) fn provider_error(status: StatusCode, headers: &HeaderMap, body: Option<&Value>, request_id: Option<String>) -> Error {
    let detail = body.map_or(&Value::Null, |b| &b["error"]);
    let text = |name: &str| detail[name].as_str();
    let reason = text("code").or(text("type")).unwrap_or("provider_error").to_owned();
    let message = text("message").unwrap_or("the provider gave no reason").to_owned();
    let mut error = match status.as_u16() {
        401 | 403 => Error::new(Code::Forbidden, reason, message),
        404 => Error::new(Code::NotFound, reason, message),
        429 => {
            let mut error = Error::limited(message, asked_wait_s(headers).unwrap_or(1));
            error.reason = reason.into();
            error
        }
        402 | 409 => Error::new(Code::Conflict, reason, message),
        400 if is_conflict(&reason) => Error::new(Code::Conflict, reason, message),
        400..=499 => Error::new(Code::Invalid, reason, message),
        _ => Error::unavailable("provider_unavailable", message),
    };
    if let Some(permission) = permission(&error.message) {
        let permission = permission.to_owned();
        error.message = format!("{} (the key lacks the permission {permission})", error.message);
        error = error.with("permission", permission);
    }
    for name in ["decline_code", "param", "charge"] {
        if let Some(value) = text(name) {
            error = error.with(name, value);
        }
    }
    error = error.with("provider_status", status.as_u16());
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

/// The permission that a refusal of a restricted key names, e.g. `rak_charge_read`.
fn permission(message: &str) -> Option<&str> {
    message.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).find(|word| word.len() > 4 && word.starts_with("rak_"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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

    #[test]
    fn a_restricted_keys_refusal_names_the_permission_it_lacks() {
        let message = "The provided key 'rk_test_***abc' does not have the required permissions for this endpoint. Having the 'rak_payout_read' permission would allow this request to continue.";
        let body = json!({"error": {"type": "invalid_request_error", "message": message}});
        let error = provider_error(StatusCode::FORBIDDEN, &HeaderMap::new(), Some(&body), None);
        assert_eq!((error.code, &error.extra["permission"]), (Code::Forbidden, &json!("rak_payout_read")));
        assert!(error.message.ends_with("(the key lacks the permission rak_payout_read)"), "{}", error.message);
        assert_eq!(permission("no such word, but rak_ alone"), None);
    }
}
