//! The secrets: from the environment, or made at the first start outside live mode, and in no file of settings.

use std::{collections::BTreeMap, path::PathBuf};

use secrecy::SecretString;

use super::{Config, Environment, ProviderMode};
use crate::{
    error::{Error, Result},
    files,
};

/// What the channels need and no file may hold.
pub const CHANNEL_SECRETS: [&str; 7] = [
    "SMTP_PASS",
    "SLACK_WEBHOOK_URL",
    "TELEGRAM_BOT_TOKEN",
    "ALERT_WEBHOOK_SECRET",
    "ALERTMANAGER_TOKEN",
    "PAGERDUTY_ROUTING_KEY",
    "NTFY_TOKEN",
];
/// Keys somebody might look for in a file, and the variable each really is.
const SECRET_NAMES: [(&str, &str); 20] = [
    ("aws_access_key_id", "AWS_ACCESS_KEY_ID"),
    ("access_key_id", "AWS_ACCESS_KEY_ID"),
    ("aws_secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    ("secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    ("aws_session_token", "AWS_SESSION_TOKEN"),
    ("dashboard_key", "DASHBOARD_KEY"),
    ("dash_key", "DASHBOARD_KEY"),
    ("session_secret", "SESSION_SECRET"),
    ("portal_secret", "SESSION_SECRET"),
    ("secret_key", "STRIPE_SECRET_KEY"),
    ("stripe_secret_key", "STRIPE_SECRET_KEY"),
    ("api_key", "STRIPE_SECRET_KEY"),
    ("channels.webhook.secret", "ALERT_WEBHOOK_SECRET"),
    ("pass", "SMTP_PASS"),
    ("password", "SMTP_PASS"),
    ("bot_token", "TELEGRAM_BOT_TOKEN"),
    ("routing_key", "PAGERDUTY_ROUTING_KEY"),
    ("webhook_url", "SLACK_WEBHOOK_URL"),
    ("webhook_secret", "STRIPE_WEBHOOK_SECRET"),
    ("stripe_webhook_secret", "STRIPE_WEBHOOK_SECRET"),
];

/// The environment variable that somebody means who looks for a secret under this path.
pub(super) fn variable_of(path: &str) -> Option<&'static str> {
    let last = path.rsplit('.').next().unwrap_or(path);
    SECRET_NAMES.iter().find(|(name, _)| *name == last || *name == path).map(|(_, variable)| *variable)
}

/// The secrets in use. `Debug` shows none of them.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// The `admin` key of the API and dashboard.
    pub dash_key: SecretString,
    /// Where a generated `dash_key` is kept; `None` if it came from the environment.
    pub dash_key_file: Option<PathBuf>,
    /// HMAC key of portal links, used for nothing else.
    pub portal: SecretString,
    /// HMAC key of session cookies.
    pub cookie: SecretString,
    /// Webhook endpoint secrets; several while one is being rotated.
    pub webhook: Vec<SecretString>,
    /// The provider's API key.
    pub provider: SecretString,
    /// Of the second target, if that is a bucket.
    pub bucket: Option<BucketKeys>,
    /// HMAC key of the links in messages.
    pub links: SecretString,
    /// What the channels need, by the name of its environment variable ([`CHANNEL_SECRETS`]).
    pub channels: BTreeMap<&'static str, SecretString>,
}

/// What opens the bucket of the second target: from the environment only.
#[derive(Clone, Debug)]
pub struct BucketKeys {
    /// `AWS_ACCESS_KEY_ID`: a name and no secret.
    pub id: String,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret: SecretString,
    /// `AWS_SESSION_TOKEN`, of keys that end by themselves.
    pub token: Option<SecretString>,
}

impl BucketKeys {
    /// `None` if `replica.url` is no bucket. Needs nothing but the two arguments, so that a restore works where no daemon ever ran.
    pub fn load(config: &Config, environment: &Environment) -> Result<Option<Self>> {
        if !config.replica.url.starts_with("s3://") {
            return Ok(None);
        }
        let given = |name: &str| environment.get(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let needed = |name: &str| {
            given(name)
                .ok_or_else(|| Error::invalid("configuration", format!("{name} is not set, and replica.url is a bucket that needs it")))
        };
        Ok(Some(Self {
            id: needed("AWS_ACCESS_KEY_ID")?,
            secret: needed("AWS_SECRET_ACCESS_KEY")?.into(),
            token: given("AWS_SESSION_TOKEN").map(Into::into),
        }))
    }
}

impl Secrets {
    /// Takes each secret from the environment or, outside live mode, from a 0600 file in the data directory that is made at the
    /// first start. In live mode a missing or short one is an error that says how to make one.
    pub fn load(config: &Config, environment: &Environment) -> Result<Self> {
        let live = config.provider.mode.is_live();
        let given = |name: &str| environment.get(name).map(|v| v.trim()).filter(|v| !v.is_empty());
        let secret = |variable: &str, file: &str, prefix: &str| -> Result<(SecretString, Option<PathBuf>)> {
            match given(variable) {
                Some(value) if live && value.len() < 32 => Err(too_short(variable)),
                Some(value) => Ok((value.into(), None)),
                None if live => Err(missing(variable)),
                None => {
                    let path = config.paths.data.join(file);
                    Ok((files::secret(&path, prefix)?.into(), Some(path)))
                }
            }
        };
        let (dash_key, dash_key_file) = secret("DASHBOARD_KEY", "dash_key", "ep_")?;
        let (portal, _) = secret("SESSION_SECRET", "portal_secret", "")?;
        let webhook = match given("STRIPE_WEBHOOK_SECRET") {
            Some(list) => list.split(',').map(|s| s.trim().to_owned().into()).collect(),
            None => vec![secret("STRIPE_WEBHOOK_SECRET", "webhook_secret", "whsec_")?.0],
        };
        let provider = match (config.provider.mode, given("STRIPE_SECRET_KEY")) {
            (ProviderMode::Sandbox, _) => "sk_test_sandbox".to_owned().into(),
            (mode, Some(key)) => check_provider_key(mode, key)?,
            (_, None) => {
                return Err(Error::invalid(
                    "configuration",
                    "STRIPE_SECRET_KEY is not set: copy a restricted key from the provider's dashboard",
                ));
            }
        };
        Ok(Self {
            dash_key,
            dash_key_file,
            portal,
            cookie: files::secret(&config.paths.data.join("cookie_secret"), "")?.into(),
            webhook,
            provider,
            bucket: BucketKeys::load(config, environment)?,
            links: files::secret(&config.paths.data.join("links_secret"), "")?.into(),
            channels: CHANNEL_SECRETS.iter().filter_map(|name| Some((*name, given(name)?.to_owned().into()))).collect(),
        })
    }

    pub fn webhook_texts(&self) -> Vec<&str> {
        self.webhook.iter().map(secrecy::ExposeSecret::expose_secret).collect()
    }
}

/// The mode of a provider's secret or restricted key, by its prefix; `None` for anything else, which must be refused.
pub fn mode_of_key(key: &str) -> Option<ProviderMode> {
    let rest = key.strip_prefix("sk_").or_else(|| key.strip_prefix("rk_"))?;
    match rest.split_once('_') {
        Some(("test", secret)) if !secret.is_empty() => Some(ProviderMode::Test),
        Some(("live", secret)) if !secret.is_empty() => Some(ProviderMode::Live),
        _ => None,
    }
}

/// Fails closed: a live key in test mode, a test key in live mode and an unknown prefix are refused.
fn check_provider_key(mode: ProviderMode, key: &str) -> Result<SecretString> {
    let prefix_mode = mode_of_key(key)
        .ok_or_else(|| Error::invalid("configuration", "STRIPE_SECRET_KEY must start with sk_test_, rk_test_, sk_live_ or rk_live_"))?;
    if prefix_mode == mode {
        Ok(key.to_owned().into())
    } else {
        Err(Error::invalid(
            "configuration",
            format!("STRIPE_SECRET_KEY is a {} key but the provider mode is {}", prefix_mode.as_str(), mode.as_str()),
        ))
    }
}

fn missing(variable: &str) -> Error {
    Error::invalid(
        "configuration",
        format!("{variable} is not set, and live mode makes no secrets: set it to the output of `openssl rand -hex 32`"),
    )
}

fn too_short(variable: &str) -> Error {
    Error::invalid("configuration", format!("{variable} is shorter than 32 characters: set it to the output of `openssl rand -hex 32`"))
}
