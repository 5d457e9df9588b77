//! An alert as reports, the API and the pages show it. Used by the actor and its client functions.

use serde_json::{Value as Json, json};

use crate::{
    domain::{
        alert_rule::{Alert, Catalogue},
        notify::{Quiet, Silence},
    },
    env::rfc3339,
    store::AlertEvent,
};

/// The short form: journal, reports, history.
pub fn view(alert: &Alert) -> Json {
    json!({
        "id": alert.fingerprint, "name": alert.name, "system": alert.system, "severity": alert.severity.as_str(), "state": alert.state,
        "since": rfc3339(alert.since), "value": alert.value, "threshold": alert.threshold, "reason": alert.reason,
    })
}

/// With everything that is known. `effects` are the fingerprints of alerts that are told with this one.
pub(super) fn whole(alert: &Alert, quiet: &Quiet, effects: &[&str], catalogue: &Catalogue) -> Json {
    let rule = catalogue.of(&alert.name);
    let text = |of: fn(&crate::domain::alert_rule::Rule) -> &String| rule.map(|rule| of(rule).as_str());
    let acknowledged = alert.acknowledged.as_ref().map(|a| json!({"by": a.by, "at": rfc3339(a.at), "note": a.note}));
    let last_good = alert.last_good.as_ref().map(|(value, at)| json!({"value": value, "at": rfc3339(*at)}));
    let mut all = view(alert);
    let more = json!({
        "episode": alert.id(), "labels": alert.labels, "until": alert.until.map(rfc3339), "last_change": rfc3339(alert.last_change),
        "acknowledged": acknowledged, "snoozed_until": alert.snoozed_until.map(rfc3339), "last_good": last_good, "flapping": alert.flapping,
        "fire_count": alert.fire_count, "component": catalogue.component(&alert.name, &alert.system), "effect_of": quiet.effect_of,
        "waits_for": quiet.waits_for,
        "effects": effects, "silenced_by": quiet.silenced_by, "maintenance": quiet.maintenance, "what": text(|r| &r.what),
        "owner": text(|r| &r.owner), "runbook": text(|r| &r.runbook), "task": rule.and_then(|r| r.task.as_deref()),
    });
    if let (Some(all), Json::Object(more)) = (all.as_object_mut(), more) {
        all.extend(more);
    }
    all
}

pub(super) fn silence_view(silence: &Silence, now: chrono::DateTime<chrono::Utc>) -> Json {
    let texts: Vec<String> = silence.matchers.iter().map(ToString::to_string).collect();
    json!({
        "id": silence.id, "state": silence.state(now), "matchers": silence.matchers, "matches": texts, "starts_at": rfc3339(silence.starts_at),
        "ends_at": rfc3339(silence.ends_at), "author": silence.author, "reason": silence.reason, "created_at": rfc3339(silence.created_at),
        "ended_at": silence.ended_at.map(rfc3339), "ended_by": silence.ended_by,
    })
}

pub(super) fn event_view(n: i64, event: &AlertEvent) -> Json {
    json!({
        "n": n.to_string(), "at": rfc3339(event.at), "kind": event.kind, "alert": event.fingerprint, "episode": event.alert, "by": event.by,
        "detail": event.detail,
    })
}
