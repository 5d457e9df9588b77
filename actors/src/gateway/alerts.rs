//! Alerts over HTTP: what is wrong, what happened, what people were told, and what a person says about it: acknowledge, snooze, silence.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value as Json, json};
use warp::{filters::BoxedFilter, http::Method, reply::Response};

use super::{
    Shell,
    auth::Scope,
    respond,
    route::{Call, Request, any_of, api, body_time, page, time_in},
};
use crate::{
    alert::{self, NewSilence, Response as Answer},
    domain::notify::Matcher,
    error::{Error, Result},
    store::AlertEventFilter,
};

/// How long a snooze is unless asked otherwise.
const SNOOZE_MINUTES: i64 = 60;
const HISTORY: TimeDelta = TimeDelta::days(7);

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // What is wrong just now: `?state=firing|pending|resolved|acknowledged|all&severity=`.
        api(shell, Method::GET, "/api/alerts", Scope::Read, list),
        // What happened to alerts, newest first: `?since=&until=&name=`.
        api(shell, Method::GET, "/api/alerts/history", Scope::Read, history),
        // One alert or episode with its timeline and every message about it.
        api(shell, Method::GET, "/api/alerts/{id}", Scope::Read, one),
        // Somebody looks after it: `{"note"}`.
        api(shell, Method::POST, "/api/alerts/{id}/ack", Scope::Operate, acknowledge),
        api(shell, Method::POST, "/api/alerts/{id}/unack", Scope::Operate, unacknowledge),
        // Not now: `{"minutes"}` or `{"until"}`, an hour unless said otherwise.
        api(shell, Method::POST, "/api/alerts/{id}/snooze", Scope::Operate, snooze),
        // Who is not to be told about what.
        api(shell, Method::GET, "/api/silences", Scope::Read, silences),
        // Makes one: `{"matchers":["system=backup"],"reason","ends_at" or "duration_s","starts_at","author"}`.
        api(shell, Method::POST, "/api/silences", Scope::Operate, silence),
        // Ends one before its time.
        api(shell, Method::POST, "/api/silences/{id}/end", Scope::Operate, end),
        api(shell, Method::DELETE, "/api/silences/{id}", Scope::Operate, end),
    ])
}

async fn list(call: Call) -> Result<Response> {
    let text = |field| call.request.query(field).map(Option::unwrap_or_default);
    let (alerts, next) = page(&call.request, alert::overview(call.env(), &text("state")?, &text("severity")?).await?, "id")?;
    Ok(respond::json(&json!({"ok": true, "count": alerts.len(), "alerts": alerts, "next": next})))
}

async fn one(call: Call) -> Result<Response> {
    Ok(respond::json(&alert::get(call.env(), call.request.param(0)?).await?))
}

async fn history(call: Call) -> Result<Response> {
    let request = &call.request;
    let before = match request.query("after")? {
        None => 0,
        Some(text) => text.parse().ok().filter(|n| *n > 0).ok_or_else(|| Error::field("after", "this cursor is not known"))?,
    };
    let filter = AlertEventFilter {
        since: Some(at(request, "since")?.unwrap_or(call.env().now() - HISTORY)),
        until: at(request, "until")?,
        name: request.query("name")?.unwrap_or_default(),
        before,
        ..AlertEventFilter::default()
    };
    let (events, next) = alert::history(call.env(), &filter, request.limit()?).await?;
    Ok(respond::json(&json!({"ok": true, "count": events.len(), "events": events, "next": next})))
}

async fn acknowledge(call: Call) -> Result<Response> {
    let note = text(&call.request.json()?, "note")?.unwrap_or_default();
    answer(call, Answer::Acknowledge { note }).await
}

async fn unacknowledge(call: Call) -> Result<Response> {
    answer(call, Answer::Unacknowledge).await
}

async fn snooze(call: Call) -> Result<Response> {
    let body = call.request.json()?;
    let minutes = match &body["minutes"] {
        Json::Null => SNOOZE_MINUTES,
        minutes => minutes
            .as_i64()
            .filter(|n| (0..=7 * 24 * 60).contains(n))
            .ok_or_else(|| Error::field("minutes", "minutes must be a whole number from 0 (ends a snooze) to 10080"))?,
    };
    let until = body_time(&body, "until")?.unwrap_or(call.env().now() + TimeDelta::minutes(minutes));
    answer(call, Answer::Snooze { until }).await
}

async fn answer(call: Call, answer: Answer) -> Result<Response> {
    let alert = alert::respond(call.env(), call.request.param(0)?, answer, &call.caller.key_id).await?;
    Ok(respond::json(&json!({"ok": true, "alert": alert})))
}

async fn silences(call: Call) -> Result<Response> {
    let (silences, next) = page(&call.request, alert::silences(call.env()).await?, "id")?;
    Ok(respond::json(&json!({"ok": true, "count": silences.len(), "silences": silences, "next": next})))
}

async fn silence(call: Call) -> Result<Response> {
    let body = call.request.json()?;
    let matchers =
        body["matchers"].as_array().ok_or_else(|| Error::field("matchers", "matchers must be a list, like [\"system=backup\"]"))?;
    let matchers = matchers.iter().map(matcher).collect::<Result<Vec<_>>>()?;
    let starts_at = body_time(&body, "starts_at")?;
    let ends_at = match (body_time(&body, "ends_at")?, &body["duration_s"]) {
        (Some(at), Json::Null) => at,
        (None, duration) => {
            let seconds = duration.as_i64().filter(|s| *s > 0).and_then(TimeDelta::try_seconds);
            let seconds =
                seconds.ok_or_else(|| Error::field("ends_at", "say when it ends: ends_at, or duration_s as a number of seconds"))?;
            let start = starts_at.unwrap_or(call.env().now());
            start.checked_add_signed(seconds).ok_or_else(|| Error::field("duration_s", "duration_s is too long"))?
        }
        (Some(_), _) => return Err(Error::field("duration_s", "give ends_at or duration_s, not both")),
    };
    let author = text(&body, "author")?.filter(|a| !a.is_empty()).unwrap_or_else(|| call.caller.key_id.clone());
    let new = NewSilence { matchers, starts_at, ends_at, author, reason: text(&body, "reason")?.unwrap_or_default() };
    Ok(respond::json(&json!({"ok": true, "silence": alert::silence(call.env(), new).await?})))
}

async fn end(call: Call) -> Result<Response> {
    let silence = alert::end_silence(call.env(), call.request.param(0)?, &call.caller.key_id).await?;
    Ok(respond::json(&json!({"ok": true, "silence": silence})))
}

/// As text, or as Alertmanager writes it.
fn matcher(value: &Json) -> Result<Matcher> {
    let wrong = |why: String| Error::field("matchers", why);
    if let Some(text) = value.as_str() {
        return Matcher::parse(text).map_err(wrong);
    }
    let given: Matcher = serde_json::from_value(value.clone())
        .map_err(|_| wrong("a matcher is text like system=backup, or an object with name, value, isRegex and isEqual".into()))?;
    Matcher::new(&given.name, &given.value, given.is_regex, given.is_equal).map_err(wrong)
}

fn text(body: &Json, field: &'static str) -> Result<Option<String>> {
    match &body[field] {
        Json::Null => Ok(None),
        Json::String(text) => Ok(Some(text.trim().to_owned())),
        _ => Err(Error::field(field, format!("{field} must be text"))),
    }
}

fn at(request: &Request, field: &'static str) -> Result<Option<DateTime<Utc>>> {
    request.query(field)?.map(|text| time_in(field, &text.replace(' ', "+"))).transpose()
}
