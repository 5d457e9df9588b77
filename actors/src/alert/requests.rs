//! What people ask of alerts: looking, acknowledging, snoozing, silencing. The client functions for gateway and command line, and what
//! the actor does with them. Everything a person does is journalled with who did it.

use chrono::{DateTime, Utc};
use serde_json::{Value as Json, json};

use super::{
    Message, NOUN, State, timeout,
    view::{event_view, silence_view, whole},
};
use crate::{
    actor,
    domain::{
        alert_rule::{Alert, State as AlertState},
        notify::{Matcher, Quiet, Silence},
    },
    env::{Env, rfc3339},
    error::{Error, Result},
    operations::notifications,
    store::{AlertEventFilter, NotificationFilter},
};

/// Events and messages shown with one alert.
const SHOWN: i64 = 200;
const LONGEST_NOTE: usize = 500;

/// What somebody says about an alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    Acknowledge { note: String },
    Unacknowledge,
    Snooze { until: DateTime<Utc> },
}

/// A silence as it is asked for.
#[derive(Clone, Debug)]
pub struct NewSilence {
    pub matchers: Vec<Matcher>,
    /// `None`: from now on.
    pub starts_at: Option<DateTime<Utc>>,
    pub ends_at: DateTime<Utc>,
    pub author: String,
    pub reason: String,
}

/// Every alert that is remembered, firing ones first. `state`: empty (pending and firing), `firing`, `pending`, `resolved` or `all`;
/// `severity`: empty or one. Errors: `invalid` naming the field.
pub async fn overview(env: &Env, state: &str, severity: &str) -> Result<Vec<Json>> {
    if !["", "firing", "pending", "resolved", "acknowledged", "all"].contains(&state) {
        return Err(Error::field("state", "state is firing, pending, resolved, acknowledged or all"));
    }
    if !["", "info", "warning", "critical"].contains(&severity) {
        return Err(Error::field("severity", "severity is info, warning or critical"));
    }
    let all = actor::call(env, NOUN, timeout(env), Message::Overview).await?;
    let wanted = |alert: &Json| {
        let of_state = match state {
            "" => alert["state"] != "resolved",
            "all" => true,
            "acknowledged" => !alert["acknowledged"].is_null(),
            state => alert["state"] == state,
        };
        of_state && (severity.is_empty() || alert["severity"] == severity) && (alert["state"] != "resolved" || alert["fire_count"] != 0)
    };
    Ok(all.into_iter().filter(wanted).collect())
}

/// One alert (by fingerprint) or episode (`al_...`, also one of the past) with its timeline and its messages. Errors: `not_found`.
pub async fn get(env: &Env, id: &str) -> Result<Json> {
    let all = actor::call(env, NOUN, timeout(env), Message::Overview).await?;
    let now = all.into_iter().find(|alert| alert["id"] == id || alert["episode"] == id);
    let episode = now.as_ref().and_then(|alert| alert["episode"].as_str()).unwrap_or(id).to_owned();
    let filter = AlertEventFilter { alert: episode.clone(), ..AlertEventFilter::default() };
    let events = env.store().alert_events(&filter, SHOWN).await?;
    let alert = if let Some(alert) = now {
        alert
    } else {
        // Of an episode that is over, what it was when it began or ended.
        let known = events.iter().find(|(_, event)| event.detail.get("name").is_some());
        let mut alert = known.map(|(_, e)| e.detail.clone()).ok_or_else(|| Error::not_found(format!("there is no alert {id}")))?;
        alert["episode"] = json!(episode);
        alert["state"] = json!("resolved");
        alert
    };
    let mut timeline: Vec<Json> = events.iter().map(|(n, event)| event_view(*n, event)).collect();
    timeline.reverse();
    let filter = NotificationFilter { alert: episode, ..NotificationFilter::default() };
    let (deliveries, _) = notifications::list(env, &filter, 100).await?;
    Ok(json!({"ok": true, "alert": alert, "timeline": timeline, "deliveries": deliveries}))
}

/// What happened to alerts, newest first, and the cursor of the next page.
pub async fn history(env: &Env, filter: &AlertEventFilter, limit: usize) -> Result<(Vec<Json>, Option<String>)> {
    let events = env.store().alert_events(filter, i64::try_from(limit).unwrap_or(100) + 1).await?;
    let next = (events.len() > limit).then(|| events[limit - 1].0.to_string());
    Ok((events.iter().take(limit).map(|(n, event)| event_view(*n, event)).collect(), next))
}

/// Answers an alert that fires; the alert as it is after it. Errors: `not_found`, `conflict` with reason `not_firing`, `invalid` naming
/// the field.
pub async fn respond(env: &Env, id: &str, response: Response, by: &str) -> Result<Json> {
    if matches!(&response, Response::Acknowledge { note } if note.len() > LONGEST_NOTE) {
        return Err(Error::field("note", format!("a note has at most {LONGEST_NOTE} bytes")));
    }
    let message = |reply| Message::Respond { id: id.to_owned(), response: response.clone(), by: by.to_owned(), reply };
    actor::call(env, NOUN, timeout(env), message).await
}

/// Silences that are not over for more than a day, newest first.
pub async fn silences(env: &Env) -> Result<Vec<Json>> {
    let all = actor::call(env, NOUN, timeout(env), Message::Silences).await?;
    Ok(all.iter().map(|silence| silence_view(silence, env.now())).collect())
}

/// Errors: `invalid` naming the field.
pub async fn silence(env: &Env, new: NewSilence) -> Result<Json> {
    let made = actor::call(env, NOUN, timeout(env), |reply| Message::Silence { new: Box::new(new.clone()), reply }).await?;
    Ok(silence_view(&made, env.now()))
}

/// Errors: `not_found`, `conflict` with reason `ended`.
pub async fn end_silence(env: &Env, id: &str, by: &str) -> Result<Json> {
    let message = |reply| Message::EndSilence { id: id.to_owned(), by: by.to_owned(), reply };
    let ended = actor::call(env, NOUN, timeout(env), message).await?;
    Ok(silence_view(&ended, env.now()))
}

impl State {
    pub(super) async fn respond(&mut self, id: &str, response: Response, by: &str) -> Result<Json> {
        let now = self.env.now();
        let book = self.book().await?;
        let found = book.alerts.values().find(|alert| alert.fingerprint == id || alert.id() == id);
        let mut alert: Alert = found.cloned().ok_or_else(|| Error::not_found(format!("no alert {id} fires; it may be over")))?;
        let not_firing = |why| Error::conflict("not_firing", why);
        let (kind, fact, detail) = match &response {
            Response::Acknowledge { note } => {
                alert.acknowledge(by, note, now).map_err(not_firing)?;
                ("acknowledged", "alert.acknowledged", json!({"by": by, "note": note}))
            }
            Response::Unacknowledge => {
                alert.unacknowledge().map_err(not_firing)?;
                ("unacknowledged", "alert.unacknowledged", json!({"by": by}))
            }
            Response::Snooze { until } => {
                let fires = alert.state == AlertState::Firing;
                alert.snooze(*until, now).map_err(|why| if fires { Error::field("until", why) } else { not_firing(why) })?;
                ("snoozed", "alert.snoozed", json!({"by": by, "until": rfc3339(*until)}))
            }
        };
        book.happened(&alert, kind, Some(by), detail.clone(), now);
        book.unwritten.facts.push(book.env.fact(fact, &alert.fingerprint, detail));
        book.keep(alert.clone(), now);
        self.write().await?;
        let book = self.book().await?;
        let (none, rules) = (Quiet::default(), &book.env.config().rules);
        Ok(whole(&alert, book.quiet.get(&alert.fingerprint).unwrap_or(&none), &[], rules))
    }

    pub(super) async fn silence(&mut self, new: NewSilence) -> Result<Silence> {
        let now = self.env.now();
        let silence = Silence {
            id: format!("sil_{}", uuid::Uuid::now_v7().simple()),
            matchers: new.matchers,
            starts_at: new.starts_at.unwrap_or(now),
            ends_at: new.ends_at,
            author: new.author,
            reason: new.reason,
            created_at: now,
            ended_at: None,
            ended_by: None,
        };
        silence.check(now).map_err(|(field, why)| Error::field(field, why))?;
        let book = self.book().await?;
        book.unwritten.facts.push(book.env.fact("silence.made", &silence.id, silence_view(&silence, now)));
        book.unwritten.silences.insert(silence.id.clone(), silence.clone());
        book.silences.insert(0, silence.clone());
        self.write().await?;
        Ok(silence)
    }

    pub(super) async fn end_silence(&mut self, id: &str, by: &str) -> Result<Silence> {
        let now = self.env.now();
        let book = self.book().await?;
        let found = book.silences.iter_mut().find(|silence| silence.id == id);
        let silence = found.ok_or_else(|| Error::not_found(format!("there is no silence {id}")))?;
        if silence.state(now) == "expired" {
            return Err(Error::conflict("ended", "this silence is over already"));
        }
        (silence.ended_at, silence.ended_by) = (Some(now), Some(by.to_owned()));
        let silence = silence.clone();
        book.unwritten.facts.push(book.env.fact("silence.ended", id, json!({"by": by})));
        book.unwritten.silences.insert(silence.id.clone(), silence.clone());
        self.write().await?;
        Ok(silence)
    }
}
