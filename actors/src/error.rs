//! The one error type. Used by every module; turned into an HTTP status by `gateway/respond.rs` and into an exit code by
//! the command line, each in one table. A failed *request* is a value of this type in the reply; an `Err` out of an actor's
//! `handle` means "restart me" and nothing else.

use std::{borrow::Cow, fmt};

/// What a caller can do about it. `Unavailable` and `Limited` are worth trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    Invalid,
    Unauthorized,
    Forbidden,
    NotFound,
    Conflict,
    Limited,
    Unavailable,
    Internal,
}

impl Code {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Limited => "limited",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Unavailable | Self::Limited)
    }
}

/// An error with its code, a machine-readable `reason` (`nothing_to_refund`, `backup_running`, ...) and a sentence for a person.
/// The sentence of an `Internal` error is for the log and never reaches an HTTP client.
#[derive(Debug, Clone, thiserror::Error)]
pub struct Error {
    pub code: Code,
    pub reason: Cow<'static, str>,
    pub message: String,
    /// The request field that is wrong, if one is (HTTP 422).
    pub field: Option<Cow<'static, str>>,
    /// When to try again, in seconds.
    pub retry_after_s: Option<u64>,
    /// Members that only this error has, e.g. the `run_id` of the run that is in the way.
    pub extra: serde_json::Map<String, serde_json::Value>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)
    }
}

impl Error {
    pub fn new(code: Code, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), message: message.into(), field: None, retry_after_s: None, extra: serde_json::Map::new() }
    }

    pub fn invalid(reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(Code::Invalid, reason, message)
    }

    /// A request field with a value that cannot be used: HTTP 422 naming the field.
    pub fn field(field: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let mut error = Self::new(Code::Invalid, "field", message);
        error.field = Some(field.into());
        error
    }

    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(Code::Unauthorized, "unauthorized", message)
    }

    pub fn forbidden(reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(Code::Forbidden, reason, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, "not_found", message)
    }

    pub fn conflict(reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(Code::Conflict, reason, message)
    }

    pub fn limited(message: impl Into<String>, retry_after_s: u64) -> Self {
        Self { retry_after_s: Some(retry_after_s), ..Self::new(Code::Limited, "limited", message) }
    }

    pub fn unavailable(reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { retry_after_s: Some(1), ..Self::new(Code::Unavailable, reason, message) }
    }

    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(Code::Internal, "internal", message.to_string())
    }

    /// Puts what was being attempted before the message, as in "cannot write logs/slo_status.json: disk full".
    #[must_use]
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.extra.insert(name.to_owned(), value.into());
        self
    }

    pub fn is_retryable(&self) -> bool {
        self.code.is_retryable()
    }
}

/// File errors keep the kind: a full disk or a missing permission is `Unavailable`, not a bug of ours.
impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind as Kind;
        match error.kind() {
            Kind::NotFound => Self::new(Code::NotFound, "file_not_found", error.to_string()),
            Kind::PermissionDenied => Self::unavailable("permission", error.to_string()),
            Kind::StorageFull | Kind::ReadOnlyFilesystem | Kind::QuotaExceeded => Self::unavailable("io", error.to_string()),
            Kind::NotADirectory | Kind::IsADirectory | Kind::AlreadyExists => Self::conflict("path", error.to_string()),
            _ => Self::internal(error),
        }
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::internal(format!("JSON: {error}"))
    }
}

/// Adds context to any error that can become ours.
pub trait Context<T> {
    fn context(self, doing: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, doing: impl fmt::Display) -> Result<T> {
        self.map_err(|error| error.into().context(doing))
    }
}
