//! PagerDuty: Events API v2. A group is one incident by its key: telling it again changes nothing there, and its end closes it. Called by
//! `send`.

use chrono::SecondsFormat;
use ring::digest;
use serde_json::{Map, Value as Json, json};

use super::{Channel, Context, Failure, Receipt, absent, http, secret};
use crate::{
    domain::{
        alert_rule::Severity,
        notify::{Fact, Kind, Line, Message, cut, facts, links, name, subject},
    },
    files,
};

const KEY: &str = "PAGERDUTY_ROUTING_KEY";
const SUMMARY: usize = 1024;
const DEDUP_KEY: usize = 255;
/// Alerts listed, and characters of one fact: together far below the 512 kB that an event may have.
const LISTED: usize = 40;
const FACT: usize = 400;

pub(super) const CHANNEL: Channel = Channel {
    name: "pagerduty",
    doc: "A PagerDuty service, over Events API v2.",
    limit: "512 kB an event, 1024 characters of summary",
    tells_by: Some("dedup_key"),
    merges: false,
    missing: |config, secrets| {
        absent([(KEY, secret(secrets, KEY).is_some()), ("channels.pagerduty.url", !config.channels.pagerduty.url.is_empty())])
    },
    settings: |config| (config.channels.pagerduty.min_severity, config.channels.pagerduty.per_minute),
};

pub(super) async fn send(context: Context<'_>, message: &Message) -> Result<Receipt, Failure> {
    let key = secret(context.secrets, KEY).ok_or_else(|| Failure::permanent(format!("{KEY} is not set")))?;
    let address = format!("{}/v2/enqueue", context.config.channels.pagerduty.url.trim_end_matches('/'));
    let enqueue = async |body: Json| http::post(context.http.post(&address).json(&body), context.now).await;
    let answer = enqueue(event(key, message)).await?;
    if message.kind == Kind::Test {
        enqueue(closing(key, message)).await?; // nobody is to be left with an incident that is none
    }
    let answered: Json = serde_json::from_str(&answer.body).unwrap_or_default();
    Ok(Receipt { status: Some(answer.status), reference: answered["dedup_key"].as_str().map(str::to_owned), note: None })
}

fn event(key: &str, message: &Message) -> Json {
    if message.kind == Kind::Resolved {
        return closing(key, message);
    }
    let first = message.alerts.first();
    let label = |name: &str| first.and_then(|line| line.labels.get(name)).map_or("echopilot", String::as_str);
    let severity = match message.severity {
        Severity::Critical => "critical",
        Severity::Warning => "warning",
        Severity::Info => "info",
    };
    let mut details: Map<String, Json> = message.alerts.iter().take(LISTED).map(|line| (name(line), about(line, message))).collect();
    let unlisted = message.more + message.alerts.len().saturating_sub(LISTED) as u64;
    if unlisted > 0 {
        details.insert("more".into(), unlisted.into());
    }
    let clicks = first.map(links).unwrap_or_default();
    let page = (!message.url.is_empty()).then_some(("All of it", message.url.as_str()));
    let links: Vec<Json> = clicks.into_iter().chain(page).map(|(text, href)| json!({"href": href, "text": text})).collect();
    json!({
        "routing_key": key, "event_action": "trigger", "dedup_key": dedup_key(&message.group), "client": "EchoPilot", "client_url": message.url,
        "payload": {
            "summary": cut(&subject(message), SUMMARY), "source": source(&message.url), "severity": severity,
            "timestamp": message.at.to_rfc3339_opts(SecondsFormat::Millis, true), "component": label("system"), "group": cut(&message.group, DEDUP_KEY),
            "class": label("alertname"), "custom_details": details,
        },
        "links": links,
    })
}

fn closing(key: &str, message: &Message) -> Json {
    json!({"routing_key": key, "event_action": "resolve", "dedup_key": dedup_key(&message.group)})
}

fn about(line: &Line, message: &Message) -> Json {
    facts(line, message.at)
        .into_iter()
        .map(|Fact { label, text }| (label.to_owned(), Json::from(cut(&text, FACT))))
        .collect::<Map<_, _>>()
        .into()
}

/// The group's key, or its digest where that would be too long.
fn dedup_key(group: &str) -> String {
    if group.chars().count() <= DEDUP_KEY {
        group.to_owned()
    } else {
        files::hex(digest::digest(&digest::SHA256, group.as_bytes()).as_ref())
    }
}

/// The host that the page is on.
fn source(url: &str) -> &str {
    url.split("://").nth(1).and_then(|rest| rest.split('/').next()).filter(|host| !host.is_empty()).unwrap_or("echopilot")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::notify::render::tests::{line, message};

    #[test]
    fn a_group_is_one_incident_that_its_end_closes() {
        let fires = event("key", &message(Kind::Firing, vec![line("disk")]));
        let over = event("key", &message(Kind::Resolved, vec![line("disk")]));
        assert_eq!((&fires["event_action"], &over["event_action"]), (&json!("trigger"), &json!("resolve")));
        assert_eq!((&fires["dedup_key"], &over["dedup_key"]), (&json!("system=resources"), &json!("system=resources")));
        assert_eq!((&fires["payload"]["source"], &fires["payload"]["class"]), (&json!("ops.example"), &json!("disk")));
        assert_eq!(fires["payload"]["custom_details"]["disk (mount=/srv)"]["Value"], "97.0 %");
        assert_eq!(fires["links"][0], json!({"href": "https://ops.example/a?x=1&y=2", "text": "Acknowledge"}));
    }

    #[test]
    fn an_event_keeps_to_the_limits() {
        let long = Line { reason: "ü".repeat(5000), changed: vec!["y".repeat(9000); 9], ..line("disk") };
        let lines = (0..60).map(|n| Line { labels: [("n".to_owned(), n.to_string())].into(), ..long.clone() }).collect();
        let all = event("key", &Message { group: "g".repeat(300), title: "x".repeat(3000), ..message(Kind::Firing, lines) });
        assert!(all.to_string().len() < 512_000);
        assert_eq!(all["payload"]["summary"].as_str().unwrap().chars().count(), SUMMARY);
        assert_eq!(all["dedup_key"].as_str().unwrap().len(), 64);
        assert_eq!(all["payload"]["custom_details"]["more"], 20);
    }
}
