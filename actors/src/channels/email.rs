//! E-mail over SMTP: one mail with text and HTML to all recipients, in one conversation. Who was refused for now is asked again alone,
//! so that nobody gets it twice; the Message-ID is the message's id, and all mails about a group are one thread. Nothing goes over the
//! network in the clear. Called by `send`.

use std::{net::IpAddr, time::Duration};

use askama::Template;
use lettre::{
    Message as Mail,
    message::{
        Mailbox, MultiPart,
        header::{HeaderName, HeaderValue},
    },
    transport::smtp::{
        authentication::{Credentials, Mechanism},
        client::{AsyncSmtpConnection, Certificate, TlsParameters},
        commands::{Data, Mail as From, Rcpt},
        extension::ClientId,
    },
};
use ring::digest;

use super::{Channel, Context, Failure, Receipt, absent, secret};
use crate::{
    config::EmailChannel,
    domain::notify::{Fact, Kind, Message, byline, cut, facts, links, name, subject, text},
    files,
};

const PASSWORD: &str = "SMTP_PASS";
/// Characters of a server's error that are kept.
const KEPT: usize = 500;

pub(super) const CHANNEL: Channel = Channel {
    name: "email",
    doc: "Mail to one or more addresses, over your SMTP server.",
    limit: "what your server takes",
    tells_by: Some("Message-ID, where the mailbox looks at it"),
    merges: true,
    missing: |config, secrets| {
        let settings = &config.channels.email;
        absent([
            ("channels.email.host", !settings.host.is_empty()),
            ("channels.email.from", !settings.from.is_empty()),
            ("channels.email.to", !settings.to.is_empty()),
            (PASSWORD, settings.user.is_empty() || secret(secrets, PASSWORD).is_some()),
        ])
    },
    settings: |config| (config.channels.email.min_severity, config.channels.email.per_minute),
};

#[derive(Template)]
#[template(path = "mail.html")]
struct Html {
    title: String,
    byline: String,
    alerts: Vec<Shown>,
    more: u64,
    url: String,
}

struct Shown {
    name: String,
    state: &'static str,
    facts: Vec<Fact>,
    links: Vec<(&'static str, String)>,
}

pub(super) async fn send(context: Context<'_>, message: &Message) -> Result<Receipt, Failure> {
    let settings = &context.config.channels.email;
    let from = mailbox("channels.email.from", &settings.from)?;
    let to = settings.to.iter().map(|text| mailbox("channels.email.to", text)).collect::<Result<Vec<_>, _>>()?;
    let mail = compose(message, &from, &to)?.formatted();
    let open: Vec<&Mailbox> = to.iter().filter(|to| !context.accepted.contains(&to.email.to_string())).collect();
    // The limit in the settings is that of one answer; a server that answers every command just in time is slow enough.
    let whole = Duration::from_secs(settings.timeout_s.saturating_mul(3));
    let talk = async {
        let mut connection = connect(settings, secret(context.secrets, PASSWORD)).await?;
        let told = tell(&mut connection, &from, &open, &mail).await;
        let _ = connection.quit().await; // what was accepted is accepted
        told
    };
    let told = match tokio::time::timeout(whole, talk).await {
        Ok(told) => told?,
        Err(_) => return Err(Failure { retryable: true, error: format!("no end after {} s", whole.as_secs()), ..Failure::default() }),
    };
    told.judged(context.accepted)
}

/// What became of each recipient.
#[derive(Debug, Default)]
struct Told {
    accepted: Vec<String>,
    refused: Vec<Failure>,
    /// The server's last word about the mail.
    answer: Option<String>,
}

impl Told {
    /// Done if somebody has it and nobody is left who may still get it.
    fn judged(self, before: &[String]) -> Result<Receipt, Failure> {
        let texts: Vec<&str> = self.refused.iter().map(|failure| failure.error.as_str()).collect();
        let error = cut(&texts.join("; "), KEPT);
        let accepted: Vec<String> = before.iter().chain(&self.accepted).cloned().collect();
        if let Some(first) = self.refused.iter().find(|failure| failure.retryable) {
            return Err(Failure { retryable: true, retry_after: None, status: first.status, error, accepted });
        }
        if accepted.is_empty() {
            return Err(Failure { status: self.refused.first().and_then(|f| f.status), error, ..Failure::default() });
        }
        Ok(Receipt { status: Some(250), reference: self.answer, note: (!error.is_empty()).then_some(error) })
    }
}

async fn connect(settings: &EmailChannel, password: Option<&str>) -> Result<AsyncSmtpConnection, Failure> {
    let hello = ClientId::default();
    let encrypted = settings.tls != "none";
    if !encrypted && settings.host != "localhost" && !settings.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
        return Err(Failure::permanent("channels.email.tls = \"none\" is for a server on this machine only"));
    }
    let parameters = if encrypted { Some(parameters(settings).await?) } else { None };
    let from_the_start = parameters.clone().filter(|_| settings.tls == "tls");
    let limit = Some(Duration::from_secs(settings.timeout_s));
    let mut connection = AsyncSmtpConnection::connect_tokio1((settings.host.as_str(), settings.port), limit, &hello, from_the_start, None)
        .await
        .map_err(failed)?;
    if let Some(parameters) = parameters.filter(|_| settings.tls == "starttls") {
        if !connection.can_starttls() {
            let error = "the server offers no STARTTLS, and nothing is sent in the clear".to_owned();
            return Err(Failure { retryable: true, error, ..Failure::default() });
        }
        connection.starttls(parameters, &hello).await.map_err(failed)?;
    }
    if !settings.user.is_empty() {
        let credentials = Credentials::new(settings.user.clone(), password.unwrap_or_default().to_owned());
        connection.auth(&[Mechanism::Plain, Mechanism::Login], &credentials).await.map_err(failed)?;
    }
    Ok(connection)
}

async fn parameters(settings: &EmailChannel) -> Result<TlsParameters, Failure> {
    let mut builder = TlsParameters::builder(settings.host.clone());
    if !settings.ca_file.as_os_str().is_empty() {
        let path = settings.ca_file.display();
        let pem =
            tokio::fs::read(&settings.ca_file).await.map_err(|e| Failure::permanent(format!("channels.email.ca_file {path}: {e}")))?;
        let authority = Certificate::from_pem(&pem).map_err(|e| Failure::permanent(format!("channels.email.ca_file {path}: {e}")))?;
        builder = builder.add_root_certificate(authority);
    }
    builder.build_rustls().map_err(failed)
}

/// One transaction: each recipient is accepted or refused for itself, and the mail goes to those accepted.
async fn tell(connection: &mut AsyncSmtpConnection, from: &Mailbox, to: &[&Mailbox], mail: &[u8]) -> Result<Told, Failure> {
    connection.command(From::new(Some(from.email.clone()), Vec::new())).await.map_err(failed)?;
    let mut told = Told::default();
    for to in to {
        match connection.command(Rcpt::new(to.email.clone(), Vec::new())).await.map_err(failed) {
            Ok(_) => told.accepted.push(to.email.to_string()),
            // Without a status it was not the server's word: the connection is gone, and with it the transaction.
            Err(failure) if failure.status.is_none() => return Err(failure),
            Err(failure) => told.refused.push(Failure { error: format!("{}: {}", to.email, failure.error), ..failure }),
        }
    }
    if !told.accepted.is_empty() {
        connection.command(Data).await.map_err(failed)?;
        let response = connection.message(mail).await.map_err(failed)?;
        told.answer = response.message().next().map(|text| cut(text, 200));
    }
    Ok(told)
}

fn failed(error: lettre::transport::smtp::Error) -> Failure {
    let status = error.status().and_then(|code| code.to_string().parse().ok());
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    Failure { retryable: !error.is_permanent() && !error.is_client(), status, error: cut(&text, KEPT), ..Failure::default() }
}

fn mailbox(setting: &str, text: &str) -> Result<Mailbox, Failure> {
    text.trim().parse().map_err(|e| Failure::permanent(format!("{setting}: {text} is no mail address: {e}")))
}

fn compose(message: &Message, from: &Mailbox, to: &[Mailbox]) -> Result<Mail, Failure> {
    let domain = from.email.domain();
    let mut mail = Mail::builder()
        .from(from.clone())
        .date(message.at.into())
        .subject(subject(message))
        .message_id(Some(format!("<{}@{domain}>", message.id)))
        .raw_header(HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned()));
    for to in to {
        mail = mail.to(to.clone());
    }
    if message.kind != Kind::Test {
        let group = files::hex(&digest::digest(&digest::SHA256, message.group.as_bytes()).as_ref()[..16]);
        let thread = format!("<thread-{group}@{domain}>");
        mail = mail.in_reply_to(thread.clone()).references(thread);
    }
    let html = html(message).map_err(|e| Failure::permanent(format!("the mail cannot be written: {e}")))?;
    mail.multipart(MultiPart::alternative_plain_html(text(message), html))
        .map_err(|e| Failure::permanent(format!("the mail cannot be put together: {e}")))
}

fn html(message: &Message) -> Result<String, askama::Error> {
    let shown = message.alerts.iter().map(|line| Shown {
        name: name(line),
        state: if line.resolved { "resolved" } else { line.severity.as_str() },
        facts: facts(line, message.at),
        links: links(line).into_iter().map(|(word, link)| (word, link.to_owned())).collect(),
    });
    Html { title: subject(message), byline: byline(message), alerts: shown.collect(), more: message.more, url: message.url.clone() }
        .render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::notify::{
        Line,
        render::tests::{line, message},
    };

    fn composed(message: &Message) -> String {
        let to = ["Zoë <zoe@example.com>", "ops@example.com"].map(|text| mailbox("to", text).unwrap());
        let mail = compose(message, &mailbox("from", "EchoPilot <alerts@shop.example>").unwrap(), &to).unwrap();
        String::from_utf8(mail.formatted()).unwrap()
    }

    #[test]
    fn a_mail_has_the_messages_id_a_thread_and_a_subject_in_ascii() {
        let mail = composed(&message(Kind::Firing, vec![line("disk")]));
        assert!(mail.is_ascii());
        let thread = mail.lines().find(|l| l.starts_with("References: ")).unwrap().to_owned();
        assert!(thread.starts_with("References: <thread-") && thread.ends_with("@shop.example>"));
        for part in [
            "Message-ID: <ntf_0190@shop.example>",
            "Auto-Submitted: auto-generated",
            "Date: Sun, 01 Mar 2026 12:05:00 +0000",
            "text/plain",
            "text/html",
        ] {
            assert!(mail.contains(part), "{part} is not in\n{mail}");
        }
        let again = composed(&Message { id: "ntf_2".into(), ..message(Kind::Resolved, Vec::new()) });
        assert!(again.contains(&thread), "one group is one thread");
        assert!(!composed(&message(Kind::Test, Vec::new())).contains("References"));
    }

    #[test]
    fn what_stands_in_an_alert_is_no_markup_and_no_header() {
        let bad = Line { reason: "<script>alert(1)</script>".into(), name: "\"><b>".into(), ..line("disk") };
        let html = html(&message(Kind::Firing, vec![bad])).unwrap();
        assert!(!html.contains("<script>") && !html.contains("<b>") && html.contains("&#60;script&#62;"), "{html}");
        let mail = composed(&Message { title: "x\r\nBcc: evil@example.com".into(), ..message(Kind::Firing, Vec::new()) });
        assert!(!mail.lines().any(|l| l.starts_with("Bcc:")), "{mail}");
    }

    #[test]
    fn one_recipient_who_is_refused_keeps_the_mail_from_nobody_else() {
        let refused = |retryable| Failure { retryable, status: Some(550), error: "x: no".into(), ..Failure::default() };
        let told = |accepted: &[&str], refused: Vec<Failure>| Told {
            accepted: accepted.iter().map(|t| (*t).to_owned()).collect(),
            refused,
            answer: None,
        };
        assert_eq!(told(&["a"], vec![refused(false)]).judged(&[]).unwrap().note.as_deref(), Some("x: no"));
        let later = told(&["a"], vec![refused(true)]).judged(&[]).unwrap_err();
        assert!(later.retryable && later.accepted == ["a"]);
        assert!(!told(&[], vec![refused(false)]).judged(&[]).unwrap_err().retryable);
        assert!(told(&[], vec![refused(false)]).judged(&["a".to_owned()]).is_ok(), "somebody has it from before");
    }
}
