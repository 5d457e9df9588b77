//! What `/v1` answers when it does not answer 200: the provider's error types, codes and sentences. Called by every
//! handler of the sandbox. Says also whether the failure is stored under its idempotency key and whether what was done
//! before it stays done (a declined card leaves a failed charge behind).

use std::borrow::Cow;

use serde_json::{Map, Value as Json, json};

use crate::error::Error;

pub(super) type Api<T> = Result<T, Box<Failure>>;

#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) status: u16,
    kind: &'static str,
    code: Option<&'static str>,
    pub(super) message: Cow<'static, str>,
    param: Option<String>,
    extra: Map<String, Json>,
    /// What the handler changed before it failed is committed.
    pub(super) commit: bool,
    /// The answer is replayed for the same idempotency key. Refused parameters are not: the caller may mend them.
    pub(super) stored: bool,
}

impl Failure {
    fn new(status: u16, kind: &'static str, code: Option<&'static str>, message: impl Into<Cow<'static, str>>) -> Box<Self> {
        Box::new(Self { status, kind, code, message: message.into(), param: None, extra: Map::new(), commit: false, stored: false })
    }

    /// A parameter that cannot be used; not stored.
    pub(super) fn parameter(code: &'static str, param: impl Into<String>, message: impl Into<Cow<'static, str>>) -> Box<Self> {
        let mut failure = Self::new(400, "invalid_request_error", Some(code), message);
        failure.param = Some(param.into());
        failure
    }

    /// A parameter whose value the provider refuses without a code; not stored.
    pub(super) fn invalid(param: &str, message: impl Into<Cow<'static, str>>) -> Box<Self> {
        Self::new(400, "invalid_request_error", None, message).param(param)
    }

    pub(super) fn missing_parameter(param: &str) -> Box<Self> {
        Self::parameter("parameter_missing", param, format!("Missing required param: {param}."))
    }

    /// A request with sound parameters that the object's state forbids; stored.
    pub(super) fn refused(code: Option<&'static str>, message: impl Into<Cow<'static, str>>) -> Box<Self> {
        let mut failure = Self::new(400, "invalid_request_error", code, message);
        failure.stored = true;
        failure
    }

    /// The object of the URL (404) or of a parameter (400) does not exist.
    pub(super) fn no_such(name: &str, id: &str, param: &str) -> Box<Self> {
        let mut failure = Self::new(
            if param == "id" { 404 } else { 400 },
            "invalid_request_error",
            Some("resource_missing"),
            format!("No such {name}: '{id}'"),
        );
        failure.param = Some(param.to_owned());
        failure
    }

    pub(super) fn unknown_url(method: &str, path: &str) -> Box<Self> {
        Self::new(
            404,
            "invalid_request_error",
            None,
            format!(
                "Unrecognized request URL ({method}: {path}). Please see https://stripe.com/docs or we can help at https://support.stripe.com/."
            ),
        )
    }

    pub(super) fn no_key() -> Box<Self> {
        Self::new(
            401,
            "invalid_request_error",
            None,
            "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY'). See https://stripe.com/docs/api#authentication for details, or we can help at https://support.stripe.com/.",
        )
    }

    /// Shows as much of the key as the provider does: enough to recognise it, not to use it.
    pub(super) fn wrong_key(key: &str) -> Box<Self> {
        let characters: Vec<char> = key.chars().collect();
        let masked = match characters.len() {
            n if n > 12 => characters[..8].iter().chain(&vec!['*'; n - 12]).chain(&characters[n - 4..]).collect(),
            n => "*".repeat(n),
        };
        Self::new(401, "invalid_request_error", None, format!("Invalid API Key provided: {masked}"))
    }

    pub(super) fn rate_limit() -> Box<Self> {
        Self::new(
            429,
            "invalid_request_error",
            Some("rate_limit"),
            "Request rate limit exceeded. Learn more about rate limits here https://stripe.com/docs/rate-limits.",
        )
    }

    pub(super) fn key_reused(key: &str) -> Box<Self> {
        Self::new(
            400,
            "idempotency_error",
            None,
            format!(
                "Keys for idempotent requests can only be used with the same parameters they were first used with. Try using a key other than '{key}' if you meant to execute a different request."
            ),
        )
    }

    pub(super) fn key_elsewhere(key: &str, first: &str, now: &str) -> Box<Self> {
        Self::new(
            400,
            "idempotency_error",
            None,
            format!(
                "Keys for idempotent requests can only be used for the same endpoint they were first used for ('{now}' vs '{first}'). Try using a key other than '{key}' if you meant to execute a different request."
            ),
        )
    }

    pub(super) fn key_in_use(key: &str) -> Box<Self> {
        Self::new(
            409,
            "idempotency_error",
            Some("idempotency_key_in_use"),
            format!("There is currently another in-progress request using this Idempotent Key '{key}'. Please try again later."),
        )
    }

    /// The card's issuer said no. What was recorded of the attempt stays.
    pub(super) fn declined(decline_code: &str, charge: &str) -> Box<Self> {
        let (code, message) = super::customers::decline(decline_code);
        let mut failure = Self::new(402, "card_error", Some(code), message);
        (failure.commit, failure.stored) = (true, true);
        failure.extra.insert("decline_code".into(), decline_code.into());
        if !charge.is_empty() {
            failure.extra.insert("charge".into(), charge.into());
        }
        failure
    }

    /// A list page that is made to fail; nothing was done.
    pub(super) fn page() -> Box<Self> {
        Self::new(500, "api_error", None, "An unknown error occurred")
    }

    /// The failure that is injected after the work was committed.
    pub(super) fn after_commit() -> Box<Self> {
        let mut failure = Self::new(500, "api_error", None, "An unknown error occurred");
        failure.stored = true;
        failure
    }

    /// The same answer, but nothing of the attempt stays.
    #[must_use]
    pub(super) fn undone(mut self: Box<Self>) -> Box<Self> {
        self.commit = false;
        self
    }

    #[must_use]
    pub(super) fn param(mut self: Box<Self>, param: &str) -> Box<Self> {
        self.param = Some(param.to_owned());
        self
    }

    #[must_use]
    pub(super) fn with(mut self: Box<Self>, name: &str, value: Json) -> Box<Self> {
        self.extra.insert(name.to_owned(), value);
        self
    }

    pub(super) fn body(&self) -> Json {
        let mut error = Map::new();
        if let Some(code) = self.code {
            error.insert("code".into(), code.into());
            error.insert("doc_url".into(), format!("https://stripe.com/docs/error-codes/{}", code.replace('_', "-")).into());
        }
        error.extend(self.extra.clone());
        error.insert("message".into(), self.message.as_ref().into());
        if let Some(param) = &self.param {
            error.insert("param".into(), param.as_str().into());
        }
        error.insert("type".into(), self.kind.into());
        json!({ "error": error })
    }
}

/// A failure of ours, e.g. of the disk: the caller sees no detail and may try again.
impl From<Error> for Box<Failure> {
    fn from(error: Error) -> Self {
        tracing::error!(target: "sandbox", error = %error, "the sandbox could not serve a request");
        Failure::new(500, "api_error", None, "An unknown error occurred")
    }
}
