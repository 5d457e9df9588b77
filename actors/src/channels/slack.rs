//! Slack: an incoming webhook gets blocks, and a text for notifications. The address is the secret. Slack cannot tell that it has a
//! message already. Called by `send`.

use serde_json::{Value as Json, json};

use super::{Channel, Context, Failure, Receipt, absent, http, secret};
use crate::domain::notify::{Fact, Line, Message, byline, cut, escape, facts, fit, links, name, subject};

const ADDRESS: &str = "SLACK_WEBHOOK_URL";
/// Characters of a header and of a section.
const HEADER: usize = 150;
const SECTION: usize = 3000;
/// Alerts with a block of their own; a message has 50 blocks at most.
const LISTED: usize = 40;
/// Characters of one fact before it is escaped.
const FACT: usize = 500;

pub(super) const CHANNEL: Channel = Channel {
    name: "slack",
    doc: "A Slack channel, over an incoming webhook.",
    limit: "50 blocks of 3000 characters; about one message a second",
    tells_by: None,
    merges: true,
    missing: |_, secrets| absent([(ADDRESS, secret(secrets, ADDRESS).is_some())]),
    settings: |config| (config.channels.slack.min_severity, config.channels.slack.per_minute),
};

pub(super) async fn send(context: Context<'_>, message: &Message) -> Result<Receipt, Failure> {
    let address = secret(context.secrets, ADDRESS).ok_or_else(|| Failure::permanent(format!("{ADDRESS} is not set")))?;
    let answer = http::post(context.http.post(address).json(&body(message)), context.now).await?;
    Ok(Receipt { status: Some(answer.status), ..Receipt::default() })
}

fn body(message: &Message) -> Json {
    let title = subject(message);
    let mut blocks = vec![
        json!({"type": "header", "text": {"type": "plain_text", "text": cut(&title, HEADER), "emoji": false}}),
        json!({"type": "context", "elements": [{"type": "mrkdwn", "text": escape(&byline(message))}]}),
    ];
    blocks.extend(message.alerts.iter().take(LISTED).map(|line| section(line, message)));
    let unlisted = message.more + message.alerts.len().saturating_sub(LISTED) as u64;
    let mut end = Vec::new();
    if unlisted > 0 {
        end.push(format!("and {unlisted} more"));
    }
    if !message.url.is_empty() {
        end.push(format!("<{}|All of it>", escape(&message.url)));
    }
    if !end.is_empty() {
        blocks.push(json!({"type": "context", "elements": [{"type": "mrkdwn", "text": end.join(" - ")}]}));
    }
    json!({"text": escape(&cut(&title, SECTION / 5)), "blocks": blocks, "unfurl_links": false})
}

fn section(line: &Line, message: &Message) -> Json {
    let state = if line.resolved { "resolved" } else { line.severity.as_str() };
    let first = format!("*{}* - {state}", escape(&cut(&name(line), FACT)));
    // Links come before what may be cut off.
    let clicks = links(line).into_iter().map(|(word, link)| format!("<{}|{word}>", escape(link))).collect::<Vec<_>>().join(" · ");
    let rest = facts(line, message.at).into_iter().map(|Fact { label, text }| format!("*{label}:* {}", escape(&cut(&text, FACT))));
    let lines = std::iter::once(first).chain((!clicks.is_empty()).then_some(clicks)).chain(rest);
    json!({"type": "section", "text": {"type": "mrkdwn", "text": fit(lines, SECTION, |text| text.encode_utf16().count())}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::notify::{
        Kind,
        render::tests::{line, message},
    };

    #[test]
    fn a_message_is_escaped_and_keeps_to_the_limits() {
        let one = body(&message(Kind::Firing, vec![line("disk")]));
        assert_eq!(one["blocks"][0]["text"]["text"], "[critical] Disk <nearly> full & Ümläut", "a header is plain text");
        let text = one["blocks"][2]["text"]["text"].as_str().unwrap();
        assert!(text.contains("*Fine would be:* &lt;= 85 %") && text.contains("<https://ops.example/a?x=1&amp;y=2|Acknowledge>"), "{text}");
        assert_eq!(one["text"], "[critical] Disk &lt;nearly&gt; full &amp; Ümläut");
        let long = Line { reason: "<&>".repeat(2000), changed: vec!["ü".repeat(9000); 3], ..line("disk") };
        let many = body(&Message { title: "x".repeat(900), ..message(Kind::Digest, vec![long; 60]) });
        let blocks = many["blocks"].as_array().unwrap();
        assert!(blocks.len() <= 50);
        assert!(blocks[0]["text"]["text"].as_str().unwrap().chars().count() <= HEADER);
        assert!(blocks[2..42].iter().all(|b| b["text"]["text"].as_str().unwrap().encode_utf16().count() <= SECTION));
        assert!(blocks.last().unwrap().to_string().contains("and 20 more"));
    }
}
