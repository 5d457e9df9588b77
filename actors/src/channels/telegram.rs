//! Telegram: a bot writes to a chat, with Telegram's HTML. The token is part of the address and the secret. Telegram cannot tell that it
//! has a message already. Called by `send`.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::{Channel, Context, Failure, Receipt, absent, http, secret};
use crate::domain::notify::{Fact, Kind, Line, Message, byline, cut, escape, facts, fit, links, name, subject};

const TOKEN: &str = "TELEGRAM_BOT_TOKEN";
/// Characters of a message as Telegram counts them; ours are counted with their markup, so there are always fewer.
const TEXT: usize = 4096;
/// Characters of one fact before it is escaped.
const FACT: usize = 500;

pub(super) const CHANNEL: Channel = Channel {
    name: "telegram",
    doc: "A Telegram chat, over a bot.",
    limit: "4096 characters; about one message a second in a chat, 20 a minute in a group",
    tells_by: None,
    merges: true,
    missing: |config, secrets| {
        absent([(TOKEN, secret(secrets, TOKEN).is_some()), ("channels.telegram.chat_id", !config.channels.telegram.chat_id.is_empty())])
    },
    settings: |config| (config.channels.telegram.min_severity, config.channels.telegram.per_minute),
};

pub(super) async fn send(context: Context<'_>, message: &Message) -> Result<Receipt, Failure> {
    let settings = &context.config.channels.telegram;
    let token = secret(context.secrets, TOKEN).ok_or_else(|| Failure::permanent(format!("{TOKEN} is not set")))?;
    let address = format!("{}/bot{token}/sendMessage", settings.url.trim_end_matches('/'));
    let answer = http::post(context.http.post(address).json(&body(&settings.chat_id, message)), context.now).await.map_err(more)?;
    let sent: Json = serde_json::from_str(&answer.body).unwrap_or_default();
    Ok(Receipt { status: Some(answer.status), reference: sent["result"]["message_id"].as_i64().map(|n| n.to_string()), note: None })
}

/// Telegram says in the body how long to wait, and why it refuses.
fn more(failure: Failure) -> Failure {
    let body = failure.error.find('{').and_then(|start| serde_json::from_str::<Json>(&failure.error[start..]).ok()).unwrap_or_default();
    let wait = body["parameters"]["retry_after"].as_u64().map(|seconds| Duration::from_secs(seconds.min(3600)));
    Failure { retry_after: wait.or(failure.retry_after), ..failure }
}

fn body(chat_id: &str, message: &Message) -> Json {
    let mut lines = vec![format!("<b>{}</b>", escape(&cut(&subject(message), FACT))), escape(&byline(message))];
    for line in &message.alerts {
        lines.extend(alert(line, message));
    }
    if message.more > 0 {
        lines.push(format!("and {} more", message.more));
    }
    let link = if message.url.is_empty() { String::new() } else { format!("\n{}", anchor("All of it", &message.url)) };
    let text = fit(lines, TEXT - units(&link), units) + &link;
    json!({
        "chat_id": chat_id, "text": text, "parse_mode": "HTML", "link_preview_options": {"is_disabled": true},
        "disable_notification": message.kind == Kind::Resolved,
    })
}

fn alert(line: &Line, message: &Message) -> Vec<String> {
    let state = if line.resolved { "resolved" } else { line.severity.as_str() };
    let mut lines = vec![String::new(), format!("<b>{}</b> - {state}", escape(&cut(&name(line), FACT)))];
    let clicks: Vec<_> = links(line).into_iter().map(|(word, link)| anchor(word, link)).collect();
    if !clicks.is_empty() {
        lines.push(clicks.join(" · "));
    }
    lines.extend(facts(line, message.at).into_iter().map(|Fact { label, text }| format!("<i>{label}:</i> {}", escape(&cut(&text, FACT)))));
    lines
}

fn anchor(word: &str, link: &str) -> String {
    format!("<a href=\"{}\">{word}</a>", escape(link).replace('"', "%22"))
}

fn units(text: &str) -> usize {
    text.encode_utf16().count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::notify::render::tests::{line, message};

    #[test]
    fn a_message_is_cut_between_lines_so_that_no_tag_is_torn() {
        let one = body("-100", &message(Kind::Firing, vec![line("disk")]));
        let text = one["text"].as_str().unwrap();
        assert!(text.starts_with("<b>[critical] Disk &lt;nearly&gt; full &amp; Ümläut</b>\n"), "{text}");
        assert!(text.contains("<a href=\"https://ops.example/a?x=1&amp;y=2\">Acknowledge</a>"), "{text}");
        let many = body("-100", &message(Kind::Digest, vec![line("disk"); 50]));
        let text = many["text"].as_str().unwrap();
        assert!(units(text) <= TEXT && text.ends_with("\n…\n<a href=\"https://ops.example/alerts\">All of it</a>"), "{text}");
        for tag in ["b", "i", "a"] {
            let opened = text.matches(&format!("<{tag}>")).count() + text.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, text.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }

    #[test]
    fn the_body_says_how_long_to_wait() {
        let error = "429 Too Many Requests: {\"ok\":false,\"error_code\":429,\"parameters\":{\"retry_after\":7}}".to_owned();
        assert_eq!(more(Failure { error, ..Failure::default() }).retry_after, Some(Duration::from_secs(7)));
        assert_eq!(more(Failure::permanent("no json {")).retry_after, None);
    }
}
