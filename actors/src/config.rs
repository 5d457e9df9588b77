//! Settings and secrets. `configs/echopilot.toml` is embedded as the defaults, so the documentation is the default and the list
//! of known keys; a file, `--config` and the environment are laid over it. An unknown key is an error with a suggestion, a
//! secret in a file is an error that names its environment variable.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use toml::{Table, Value};

use self::layers::{SEED_NAMES, flatten, number, overlay_file, set_text};
use crate::{
    domain::alert_rule::Catalogue,
    error::{Context as _, Error, Result},
};

mod checks;
mod layers;
mod levels;
mod probes;
mod secrets;
mod sections;

pub use levels::SERVICES;
pub use probes::host_and_port;
pub use secrets::{BucketKeys, CHANNEL_SECRETS, Secrets, mode_of_key};
pub use sections::*;

/// Every setting with its sentence and default.
pub const DEFAULTS: &str = include_str!("../../configs/echopilot.toml");

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub server: Server,
    pub paths: Paths,
    pub database: Database,
    pub provider: Provider,
    pub sandbox: Sandbox,
    pub portal: Portal,
    pub recon: Recon,
    pub canary: Canary,
    pub slo: Slo,
    pub objectives: BTreeMap<String, ObjectiveSettings>,
    pub probes: BTreeMap<String, ProbeSettings>,
    pub connectivity: Connectivity,
    pub alert: AlertThresholds,
    pub notify: Notify,
    pub channels: Channels,
    pub pushes: BTreeMap<String, PushSettings>,
    /// What each alert is about and what to do, from `configs/alerts.toml`.
    #[serde(skip)]
    pub rules: Catalogue,
    pub incidents: Incidents,
    /// Every setting by its path: rules name some as their limits, and a message says which were changed.
    #[serde(skip)]
    flat: BTreeMap<String, Value>,
    pub heartbeat: Heartbeat,
    pub backup: Backup,
    pub retention: Retention,
    pub replica: Replica,
    pub supervisor: Supervisor,
    pub timer: Timer,
    pub tasks: BTreeMap<String, TaskSettings>,
    pub log: Log,
}

/// What `--demo` and other callers read from the environment, taken as a value so that tests need not touch the process.
pub type Environment = BTreeMap<String, String>;

/// Every alert with its sentence and default.
pub const DEFAULT_RULES: &str = include_str!("../../configs/alerts.toml");

impl Config {
    /// Lays the sources over each other. `file` is what `--config` named. Errors are `invalid`, name every key that is wrong, where
    /// it was set and what would be right.
    pub fn load(file: Option<&Path>, environment: &Environment) -> Result<Self> {
        let mut settings: Table = DEFAULTS.parse().map_err(|e| Error::internal(format!("the embedded defaults: {e}")))?;
        let schema = settings.clone();
        let configs = environment.get("ECHOPILOT__PATHS__CONFIGS").map_or_else(|| PathBuf::from("configs"), PathBuf::from);
        let standard = configs.join("echopilot.toml");
        let mut problems = Vec::new();
        for file in standard.exists().then_some(standard.as_path()).into_iter().chain(file) {
            problems.extend(overlay_file(&mut settings, &schema, file)?);
        }
        let prefixed = environment.iter().filter_map(|(name, text)| {
            let path = name.strip_prefix("ECHOPILOT__")?.to_lowercase().replace("__", ".");
            Some((name.as_str(), path, text))
        });
        let of_the_seed = SEED_NAMES.iter().filter_map(|(name, path)| Some((*name, (*path).to_owned(), environment.get(*name)?)));
        for (name, path, text) in prefixed.chain(of_the_seed) {
            problems.extend(set_text(&mut settings, &schema, &path, text, &format!("environment variable {name}")).err());
        }
        let mut rules = read_rules(&configs.join("alerts.toml"))?;
        let mut flat = BTreeMap::new();
        flatten(&settings, "", &mut flat);
        let of_rules = |e| Error::invalid("configuration", format!("{}: {e}", configs.join("alerts.toml").display()));
        problems.extend(rules.settle(|path| flat.get(path).and_then(number)).err().map(of_rules));
        let config: Self = match Value::Table(settings).try_into() {
            Ok(config) => Self { rules, flat, ..config },
            Err(error) => {
                problems.push(Error::invalid("configuration", error.to_string().trim()));
                return Err(together(&problems));
            }
        };
        // A provider key alone means that the provider it belongs to is wanted.
        let chosen = environment.contains_key("STRIPE_MODE") || environment.contains_key("ECHOPILOT__PROVIDER__MODE");
        if !chosen && config.provider.mode == ProviderMode::Sandbox && environment.contains_key("STRIPE_SECRET_KEY") {
            let what = "STRIPE_SECRET_KEY is set but the provider mode is sandbox: set STRIPE_MODE to test or live, or unset the key";
            problems.push(Error::invalid("configuration", what));
        }
        problems.extend(config.validate().err());
        if problems.is_empty() { Ok(config) } else { Err(together(&problems)) }
    }

    /// The setting of this path (`alert.warn_percent`), if it is a number.
    pub fn number(&self, path: &str) -> Option<f64> {
        self.flat.get(path).and_then(number)
    }

    /// Every setting as text, by its path, and the rules of alerts as one. There is no secret among them.
    pub fn flat(&self) -> BTreeMap<String, String> {
        let settings = self.flat.iter().map(|(path, value)| (path.clone(), value.to_string()));
        settings.chain([("alerts.toml".to_owned(), format!("{:?}", self.rules))]).collect()
    }

    /// Whether a daemon ran on this data directory before and its database is gone.
    pub fn data_is_older_than_database(&self) -> bool {
        self.paths.data.join("node").exists() && !self.database_path().exists()
    }

    /// The embedded database's file.
    pub fn database_path(&self) -> PathBuf {
        match self.database.url.strip_prefix("sqlite:") {
            Some(path) => PathBuf::from(path),
            None => self.paths.data.join("echopilot.db"),
        }
    }
}

/// The catalogue of alerts, with the user's file over it if there is one.
fn read_rules(file: &Path) -> Result<Catalogue> {
    let over = if file.exists() { Some(std::fs::read_to_string(file).context(format!("cannot read {}", file.display()))?) } else { None };
    Catalogue::read(DEFAULT_RULES, over.as_deref()).map_err(|e| Error::invalid("configuration", format!("{}: {e}", file.display())))
}

/// Everything that is wrong in one error.
fn together(problems: &[Error]) -> Error {
    Error::invalid("configuration", problems.iter().map(|p| p.message.as_str()).collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        // A folder without a file, so that the repository's own does not take part.
        let mut all: Environment = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        all.entry("ECHOPILOT__PATHS__CONFIGS".into()).or_insert_with(|| "no-such-folder".into());
        all
    }

    fn failure(pairs: &[(&str, &str)]) -> String {
        Config::load(None, &environment(pairs)).expect_err("must be refused").message
    }

    #[test]
    fn the_embedded_file_is_a_complete_configuration() {
        let config = Config::load(None, &environment(&[])).unwrap();
        assert_eq!(config.slo.p95_ms, 1200);
        assert_eq!(config.provider.mode, ProviderMode::Sandbox);
    }

    #[test]
    fn the_environment_wins_and_the_seeds_names_win_over_it() {
        let config = Config::load(None, &environment(&[("ECHOPILOT__SLO__P95_MS", "500"), ("SLO_SUCCESS_RATE", "0.9")])).unwrap();
        assert_eq!((config.slo.p95_ms, config.slo.success_rate), (500, 0.9));
        let config = Config::load(None, &environment(&[("ECHOPILOT__SLO__P95_MS", "500"), ("SLO_P95_MS", "700")])).unwrap();
        assert_eq!(config.slo.p95_ms, 700);
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(failure(&[("ECHOPILOT__SERVER__LISTNE", "127.0.0.1:0")]).contains("did you mean server.listen?"));
        assert!(failure(&[("ECHOPILOT__SLO__P95_MS", "fast")]).contains("must be a whole number"));
        assert!(failure(&[("SLO_SUCCESS_RATE", "1.5")]).contains("between 0 and 1"));
        assert!(failure(&[("STRIPE_SECRET_KEY", "sk_test_abc")]).contains("set STRIPE_MODE"));
        assert!(failure(&[("ECHOPILOT__PROVIDER__SECRET_KEY", "x")]).contains("STRIPE_SECRET_KEY"));
        assert!(failure(&[("ECHOPILOT__SANDBOX__LISTEN", "0.0.0.0:80")]).contains("loopback"));
        assert!(failure(&[("ECHOPILOT__SUPERVISOR__MAX_MAILBOX", "0")]).contains("supervisor.max_mailbox must be at least 1"));
        assert!(failure(&[("ECHOPILOT__SUPERVISOR__PING_LIMIT_MS", "0")]).contains("ping_limit_ms"));
    }

    #[test]
    fn a_secret_in_a_file_is_refused_with_its_variables_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("echopilot.toml");
        std::fs::write(&file, "[server]\ndash_key = \"x\"\n").unwrap();
        let message = Config::load(Some(&file), &environment(&[])).expect_err("refused").message;
        assert!(message.contains("DASHBOARD_KEY"), "{message}");
        std::fs::write(&file, "[slo]\np95 = 3\n").unwrap();
        let message = Config::load(Some(&file), &environment(&[])).expect_err("refused").message;
        assert!(message.contains("slo.p95_ms"), "{message}");
    }

    #[test]
    fn the_mode_is_read_from_the_keys_prefix_only() {
        for (key, mode) in [
            ("sk_test_1", Some(ProviderMode::Test)),
            ("rk_test_1", Some(ProviderMode::Test)),
            ("sk_live_1", Some(ProviderMode::Live)),
            ("rk_live_1", Some(ProviderMode::Live)),
            ("pk_test_1", None),
            ("sk_test_", None),
            ("sk_test", None),
            ("sk_prod_1", None),
            ("", None),
        ] {
            assert_eq!(mode_of_key(key), mode, "{key}");
        }
    }

    #[test]
    fn live_mode_makes_no_secrets_and_checks_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().to_str().unwrap();
        let load = |pairs: &[(&str, &str)]| {
            let mut all = vec![("ECHOPILOT__PATHS__DATA", data)];
            all.extend_from_slice(pairs);
            let environment = environment(&all);
            Secrets::load(&Config::load(None, &environment).unwrap(), &environment).map_err(|e| e.message)
        };
        assert!(load(&[("STRIPE_MODE", "live")]).unwrap_err().contains("openssl rand"));
        assert!(load(&[("STRIPE_MODE", "live"), ("DASHBOARD_KEY", "short")]).unwrap_err().contains("shorter than 32"));
        assert!(load(&[("STRIPE_MODE", "test"), ("STRIPE_SECRET_KEY", "sk_live_abc")]).unwrap_err().contains("live key"));
        assert!(load(&[("STRIPE_MODE", "test"), ("STRIPE_SECRET_KEY", "pk_test_abc")]).unwrap_err().contains("must start with"));
        let first = load(&[]).unwrap();
        let second = load(&[]).unwrap();
        assert_eq!(first.dash_key.expose_secret(), second.dash_key.expose_secret());
        assert!(!format!("{first:?}").contains(first.dash_key.expose_secret()));
    }
}
