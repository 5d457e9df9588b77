//! ntfy: a push message to whoever subscribed to the topic, on ntfy.sh or a server of one's own. ntfy cannot tell that it has a message
//! already. Called by `send`.

use serde_json::{Value as Json, json};

use super::{Channel, Context, Failure, Receipt, absent, http, secret};
use crate::domain::{
    alert_rule::Severity,
    notify::{Fact, Kind, Message, byline, cut, facts, fit, links, name, subject},
};

const TOKEN: &str = "NTFY_TOKEN";
/// Bytes of a message; a longer one becomes an attachment, which nobody opens at night.
const TEXT: usize = 4096;
const TITLE: usize = 250;
const FACT: usize = 400;

pub(super) const CHANNEL: Channel = Channel {
    name: "ntfy",
    doc: "A push message over ntfy, on ntfy.sh or a server of yours.",
    limit: "4096 bytes; ntfy.sh takes 250 messages a day",
    tells_by: None,
    merges: true,
    missing: |config, _| {
        let settings = &config.channels.ntfy;
        absent([("channels.ntfy.url", !settings.url.is_empty()), ("channels.ntfy.topic", !settings.topic.is_empty())])
    },
    settings: |config| (config.channels.ntfy.min_severity, config.channels.ntfy.per_minute),
};

pub(super) async fn send(context: Context<'_>, message: &Message) -> Result<Receipt, Failure> {
    let settings = &context.config.channels.ntfy;
    let mut request = context.http.post(format!("{}/", settings.url.trim_end_matches('/'))).json(&body(&settings.topic, message));
    if let Some(token) = secret(context.secrets, TOKEN) {
        request = request.bearer_auth(token);
    }
    let answer = http::post(request, context.now).await?;
    let answered: Json = serde_json::from_str(&answer.body).unwrap_or_default();
    Ok(Receipt { status: Some(answer.status), reference: answered["id"].as_str().map(str::to_owned), note: None })
}

fn body(topic: &str, message: &Message) -> Json {
    let mut lines = vec![byline(message)];
    for line in &message.alerts {
        let state = if line.resolved { "resolved" } else { line.severity.as_str() };
        lines.push(format!("\n{} - {state}", cut(&name(line), FACT)));
        lines.extend(facts(line, message.at).into_iter().map(|Fact { label, text }| format!("{label}: {}", cut(&text, FACT))));
    }
    if message.more > 0 {
        lines.push(format!("and {} more", message.more));
    }
    // 5 wakes somebody, 3 is the usual one, 2 makes no sound.
    let (priority, tag) = match (message.kind, message.severity) {
        (Kind::Resolved, _) => (2, "white_check_mark"),
        (Kind::Test, _) => (3, "test_tube"),
        (_, Severity::Critical) => (5, "rotating_light"),
        (_, Severity::Warning) => (3, "warning"),
        (_, Severity::Info) => (2, "information_source"),
    };
    let clicks = message.alerts.first().filter(|line| !line.resolved).map(links).unwrap_or_default();
    let actions: Vec<Json> = clicks.into_iter().take(3).map(|(label, url)| json!({"action": "view", "label": label, "url": url})).collect();
    let mut body = json!({
        "topic": topic, "title": cut(&subject(message), TITLE), "message": fit(lines, TEXT, str::len), "priority": priority, "tags": [tag], "actions": actions,
    });
    if !message.url.is_empty() {
        body["click"] = message.url.as_str().into();
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::notify::render::tests::{line, message};

    #[test]
    fn a_push_has_its_priority_its_clicks_and_no_more_bytes_than_fit() {
        let one = body("ops", &message(Kind::Firing, vec![line("disk")]));
        assert_eq!(
            (&one["priority"], &one["tags"][0], &one["click"]),
            (&json!(5), &json!("rotating_light"), &json!("https://ops.example/alerts"))
        );
        assert_eq!(one["actions"].as_array().unwrap().len(), 2);
        assert_eq!(body("ops", &message(Kind::Resolved, vec![line("disk")]))["priority"], 2);
        let many = body("ops", &message(Kind::Digest, vec![line("ünïcödé"); 50]));
        assert!(many["message"].as_str().unwrap().len() <= TEXT);
    }
}
