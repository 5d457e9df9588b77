//! Alertmanager: each alert goes to API v2 with its labels, so that it has the same fingerprint there as here. What fires has an end that
//! is moved on by `refresh`; what is over gets its real end. Called by `send` and by the delivery's tick.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Map, Value as Json, json};

use super::{Channel, Context, Failure, REFRESH, Receipt, absent, http, secret};
use crate::domain::notify::{Fact, Kind, Line, Message, facts};

const TOKEN: &str = "ALERTMANAGER_TOKEN";
/// An alert ends by itself when it was not told again for so many refreshes: then this program is away.
const BELIEVED: i32 = 10;

pub(super) const CHANNEL: Channel = Channel {
    name: "alertmanager",
    doc: "A Prometheus Alertmanager, which groups, silences and tells by its own rules.",
    limit: "none of ours; what fires is told again every minute",
    tells_by: Some("the alert's labels"),
    merges: false,
    missing: |config, _| absent([("channels.alertmanager.url", !config.channels.alertmanager.url.is_empty())]),
    settings: |config| (config.channels.alertmanager.min_severity, config.channels.alertmanager.per_minute),
};

pub(super) async fn send(context: Context<'_>, message: &Message) -> Result<Receipt, Failure> {
    if message.kind == Kind::Test {
        let ends = rfc3339(context.now + TimeDelta::minutes(1));
        let test = json!([{
            "labels": {"alertname": "echopilot_test", "system": "alerts"}, "annotations": {"summary": message.title},
            "startsAt": rfc3339(message.at), "endsAt": ends, "generatorURL": message.url,
        }]);
        return hand_over(context, &test).await;
    }
    post(context, &message.alerts, &message.url).await
}

/// Tells the state of these alerts as it is now.
pub(super) async fn post(context: Context<'_>, alerts: &[Line], url: &str) -> Result<Receipt, Failure> {
    hand_over(context, &alerts.iter().map(|line| alert(line, url, context.now)).collect()).await
}

async fn hand_over(context: Context<'_>, body: &Json) -> Result<Receipt, Failure> {
    let address = format!("{}/api/v2/alerts", context.config.channels.alertmanager.url.trim_end_matches('/'));
    let mut request = context.http.post(address).json(body);
    if let Some(token) = secret(context.secrets, TOKEN) {
        request = request.bearer_auth(token);
    }
    let answer = http::post(request, context.now).await?;
    Ok(Receipt { status: Some(answer.status), ..Receipt::default() })
}

fn alert(line: &Line, url: &str, now: DateTime<Utc>) -> Json {
    let mut annotations = Map::new();
    for Fact { label, text } in facts(line, now) {
        annotations.insert(label.to_lowercase().replace(' ', "_"), text.into());
    }
    annotations.insert("summary".into(), line.what.as_str().into());
    annotations.insert("severity".into(), line.severity.as_str().into());
    annotations.insert("alert".into(), line.alert.as_str().into());
    let believed = TimeDelta::from_std(REFRESH * BELIEVED.unsigned_abs()).unwrap_or_default();
    let ends = if line.resolved { line.until.unwrap_or(now).min(now) } else { now + believed };
    json!({
        "labels": line.labels, "annotations": annotations, "startsAt": rfc3339(line.since.min(ends)), "endsAt": rfc3339(ends), "generatorURL": url,
    })
}

fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::notify::render::tests::line;

    #[test]
    fn labels_are_the_identity_and_the_end_is_the_real_one_or_moves_on() {
        let now = "2026-03-01T12:05:00Z".parse().unwrap();
        let fires = alert(&line("disk"), "https://ops.example/alerts", now);
        assert_eq!(fires["labels"], json!({"alertname": "disk", "mount": "/srv", "system": "resources"}));
        assert_eq!((&fires["startsAt"], &fires["endsAt"]), (&json!("2026-03-01T10:00:00.000Z"), &json!("2026-03-01T12:15:00.000Z")));
        assert_eq!(
            (&fires["annotations"]["what_to_do"], &fires["annotations"]["severity"]),
            (&json!("Make room: `du -x /srv`."), &json!("critical"))
        );
        let over = Line { resolved: true, until: Some("2026-03-01T11:00:00Z".parse().unwrap()), ..line("disk") };
        assert_eq!(alert(&over, "", now)["endsAt"], "2026-03-01T11:00:00.000Z");
    }
}
