//! One HTTP request of a channel and what its answer means for another attempt. Called by the channels that speak HTTP. The address is
//! never part of an error: at Slack and Telegram it is the secret.

use std::{error::Error as _, time::Duration};

use chrono::{DateTime, Utc};
use reqwest::RequestBuilder;

use super::Failure;
use crate::domain::notify::cut;

/// Of an answer this much is read, and this much of it kept.
const READ: usize = 64 * 1024;
const KEPT: usize = 500;
/// Nobody is believed who asks us to wait longer.
const LONGEST: Duration = Duration::from_hours(1);

/// A successful answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

/// Sends it. 408, 425, 429, 5xx and everything that happens on the way may pass; what else is refused is refused for good.
pub(super) async fn post(request: RequestBuilder, now: DateTime<Utc>) -> Result<Answer, Failure> {
    let mut response = request.send().await.map_err(lost)?;
    let status = response.status();
    let header = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
    let retry_after = header.and_then(|text| wait(text, now));
    let mut body = Vec::new();
    while body.len() < READ {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            // A success whose text is cut off was a success.
            Err(_) if status.is_success() => break,
            Err(error) => return Err(lost(error)),
        }
    }
    let body = String::from_utf8_lossy(&body).trim().to_owned();
    if status.is_success() {
        return Ok(Answer { status: status.as_u16(), body });
    }
    Err(Failure {
        retryable: may_pass(status.as_u16()),
        retry_after,
        status: Some(status.as_u16()),
        error: cut(format!("{status}: {body}").trim_end_matches([':', ' ']), KEPT),
        accepted: Vec::new(),
    })
}

pub(super) fn may_pass(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..=599)
}

/// How long `Retry-After` asks to wait: seconds, or a date.
fn wait(text: &str, now: DateTime<Utc>) -> Option<Duration> {
    let text = text.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => (DateTime::parse_from_rfc2822(text).ok()?.to_utc() - now).to_std().unwrap_or_default(),
    };
    Some(wait.min(LONGEST))
}

/// No answer: the network, the name, the certificate, the time.
fn lost(error: reqwest::Error) -> Failure {
    let retryable = !error.is_builder();
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    Failure { retryable, error: cut(&text, KEPT), ..Failure::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_tried_again_and_what_is_wrong_is_not() {
        for (status, again) in [
            (408, true),
            (425, true),
            (429, true),
            (500, true),
            (503, true),
            (599, true),
            (400, false),
            (401, false),
            (404, false),
            (410, false),
            (302, false),
        ] {
            assert_eq!(may_pass(status), again, "{status}");
        }
    }

    #[test]
    fn the_wait_is_read_as_seconds_or_as_a_date_and_is_bounded() {
        let now = "2026-03-01T12:00:00Z".parse().unwrap();
        for (text, seconds) in [
            ("7", Some(7)),
            ("Sun, 01 Mar 2026 12:00:30 GMT", Some(30)),
            ("Sun, 01 Mar 2026 11:00:00 GMT", Some(0)),
            ("99999999", Some(3600)),
            ("soon", None),
            ("-1", None),
        ] {
            assert_eq!(wait(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
