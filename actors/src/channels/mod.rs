//! Ways of telling a person. `ALL` is the table; `send` gives a message the form of one channel, hands it over once and says what the
//! other side answered. Called by the delivery, which repeats, and by the test button. A channel never waits to try again by itself,
//! and nothing that it answers holds a secret.

mod alertmanager;
mod email;
mod http;
mod ntfy;
mod pagerduty;
mod slack;
mod telegram;
mod webhook;

use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret as _;

use crate::{
    config::{Config, Secrets},
    domain::{
        alert_rule::Severity,
        notify::{Line, Message},
    },
};

/// How often an Alertmanager is told again what fires, and how long it believes that.
pub const REFRESH: Duration = Duration::from_mins(1);

/// One way of telling a person.
#[derive(Clone, Copy, Debug)]
pub struct Channel {
    /// Its section in the configuration.
    pub name: &'static str,
    /// One sentence.
    pub doc: &'static str,
    /// What the other side takes.
    pub limit: &'static str,
    /// By what the other side can tell that it has a message already; `None` if it cannot.
    pub tells_by: Option<&'static str>,
    /// Whether several messages can be put together in one; not where each opens or closes something of its own.
    pub merges: bool,
    missing: fn(&Config, &Secrets) -> Vec<&'static str>,
    settings: fn(&Config) -> (Severity, u32),
}

/// Every channel.
pub const ALL: [Channel; 7] =
    [email::CHANNEL, slack::CHANNEL, telegram::CHANNEL, webhook::CHANNEL, alertmanager::CHANNEL, pagerduty::CHANNEL, ntfy::CHANNEL];

impl Channel {
    pub fn named(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|channel| channel.name == name)
    }

    /// The settings and variables that it needs and that are not set.
    pub fn missing(&self, config: &Config, secrets: &Secrets) -> Vec<&'static str> {
        (self.missing)(config, secrets)
    }

    pub fn is_on(&self, config: &Config, secrets: &Secrets) -> bool {
        self.missing(config, secrets).is_empty()
    }

    /// What is worth a message here.
    pub fn min_severity(&self, config: &Config) -> Severity {
        (self.settings)(config).0
    }

    /// Messages a minute, at least 1.
    pub fn per_minute(&self, config: &Config) -> usize {
        usize::try_from((self.settings)(config).1).unwrap_or(usize::MAX).max(1)
    }
}

/// What a channel needs beside the message.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub http: &'a reqwest::Client,
    pub config: &'a Config,
    pub secrets: &'a Secrets,
    pub now: DateTime<Utc>,
    /// Recipients that have the message already, from an attempt before.
    pub accepted: &'a [String],
}

/// The other side took the message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    pub status: Option<u16>,
    /// What it calls the message.
    pub reference: Option<String>,
    /// What is worth knowing although it worked: a recipient who was refused.
    pub note: Option<String>,
}

/// It did not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// Whether another attempt makes sense.
    pub retryable: bool,
    /// When, if the other side said so.
    pub retry_after: Option<Duration>,
    pub status: Option<u16>,
    /// In the other side's words.
    pub error: String,
    /// Recipients that have the message nevertheless.
    pub accepted: Vec<String>,
}

impl Failure {
    /// What no further attempt will change.
    fn permanent(error: impl Into<String>) -> Self {
        Self { error: error.into(), ..Self::default() }
    }
}

/// Hands a message over once.
pub async fn send(context: Context<'_>, channel: &str, message: &Message) -> Result<Receipt, Failure> {
    let sent = match channel {
        "email" => email::send(context, message).await,
        "slack" => slack::send(context, message).await,
        "telegram" => telegram::send(context, message).await,
        "webhook" => webhook::send(context, message).await,
        "alertmanager" => alertmanager::send(context, message).await,
        "pagerduty" => pagerduty::send(context, message).await,
        "ntfy" => ntfy::send(context, message).await,
        other => Err(Failure::permanent(format!("there is no channel called {other}"))),
    };
    sent.map(|receipt| Receipt { note: receipt.note.map(|text| clean(&text, context.secrets)), ..receipt })
        .map_err(|failure| Failure { error: clean(&failure.error, context.secrets), ..failure })
}

/// Tells an Alertmanager that these alerts still fire: it forgets what it does not hear of.
pub async fn refresh(context: Context<'_>, alerts: &[Line], url: &str) -> Result<Receipt, Failure> {
    alertmanager::post(context, alerts, url).await.map_err(|failure| Failure { error: clean(&failure.error, context.secrets), ..failure })
}

/// The text without what must not be kept or shown.
fn clean(text: &str, secrets: &Secrets) -> String {
    secrets
        .channels
        .values()
        .flat_map(|secret| secret.expose_secret().split(','))
        .map(str::trim)
        .filter(|secret| secret.len() >= 8)
        .fold(text.to_owned(), |text, secret| if text.contains(secret) { text.replace(secret, "***") } else { text })
}

/// The secret of that variable, trimmed.
fn secret<'a>(secrets: &'a Secrets, name: &str) -> Option<&'a str> {
    secrets.channels.get(name).map(|secret| secret.expose_secret().trim()).filter(|text| !text.is_empty())
}

/// The names of what is not there.
fn absent<const N: usize>(needs: [(&'static str, bool); N]) -> Vec<&'static str> {
    needs.into_iter().filter(|(_, there)| !there).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fixture;

    #[test]
    fn the_table_is_complete_and_says_what_is_missing() {
        let f = fixture("2026-03-01T00:00:00Z");
        let (config, secrets) = (f.env.config(), f.env.secrets());
        let mut names: Vec<_> = ALL.iter().map(|channel| channel.name).collect();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for channel in &ALL {
            assert!(channel.doc.ends_with('.') && !channel.limit.is_empty(), "{}", channel.name);
            assert!(!channel.is_on(config, secrets), "{} is on without anything being set", channel.name);
            assert!(channel.per_minute(config) >= 10);
            assert_eq!(Channel::named(channel.name).map(|c| c.name), Some(channel.name));
        }
        assert_eq!(
            Channel::named("email").unwrap().missing(config, secrets),
            ["channels.email.host", "channels.email.from", "channels.email.to"]
        );
    }

    #[test]
    fn no_answer_holds_a_secret() {
        let mut secrets = fixture("2026-03-01T00:00:00Z").env.secrets().clone();
        secrets.channels.insert("TELEGRAM_BOT_TOKEN", "123456:abcdef".to_owned().into());
        assert_eq!(clean("no route to /bot123456:abcdef/sendMessage", &secrets), "no route to /bot***/sendMessage");
    }
}
