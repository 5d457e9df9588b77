//! An environment for the unit tests of actors: temporary folders, a clock that can be set, a real store, no network. Compiled for
//! tests only.

use tempfile::TempDir;

use crate::{
    config::{Config, Environment, Secrets},
    env::{Clock, Env, Parts},
    providers::stripe::Client,
    store::Store,
};

pub(crate) struct Fixture {
    pub(crate) env: Env,
    pub(crate) clock: Clock,
    pub(crate) folder: TempDir,
}

/// A fresh environment at the given time (RFC 3339).
pub(crate) fn fixture(now: &str) -> Fixture {
    reopen(tempfile::tempdir().expect("a temporary folder"), now, |_| {})
}

/// An environment over folders that are already there: a new incarnation on the old database.
pub(crate) fn reopen(folder: TempDir, now: &str, change: impl FnOnce(&mut Config)) -> Fixture {
    reopen_as(folder, now, "test", change)
}

/// The same as the node of that name.
pub(crate) fn reopen_as(folder: TempDir, now: &str, node: &str, change: impl FnOnce(&mut Config)) -> Fixture {
    // Port 9 on loopback: nobody answers, at once.
    reopen_asking("http://127.0.0.1:9", folder, now, node, change)
}

/// The same with a provider at this base URL.
pub(crate) fn reopen_asking(base: &str, folder: TempDir, now: &str, node: &str, change: impl FnOnce(&mut Config)) -> Fixture {
    let _ = rustls::crypto::ring::default_provider().install_default(); // another test did
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let environment: Environment = [
        ("ECHOPILOT__PATHS__DATA", path("data")),
        ("ECHOPILOT__PATHS__LOGS", path("logs")),
        ("ECHOPILOT__PATHS__BACKUPS", path("backups")),
        ("ECHOPILOT__PATHS__CONFIGS", path("configs")),
        ("ECHOPILOT__TIMER__STOP_GRACE_S", "1".into()),
        ("ECHOPILOT__SUPERVISOR__DRILLS", "true".into()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let mut config = Config::load(None, &environment).expect("the defaults are valid");
    change(&mut config);
    for name in ["data", "logs", "backups", "configs"] {
        std::fs::create_dir_all(folder.path().join(name)).expect("a folder can be made");
    }
    let clock = Clock::fixed(now.parse().expect("an RFC 3339 time"));
    let incarnation = format!("test_{}", uuid::Uuid::now_v7().simple());
    let http = Client::http_client().expect("a client can be built");
    let env = Env::new(Parts {
        secrets: Secrets::load(&config, &environment).expect("secrets can be made"),
        store: Store::open(&config.database_path(), node).expect("a store can be opened"),
        provider: Client::new(base, "sk_test_x", http.clone()),
        http,
        clock: clock.clone(),
        config,
        sandbox: None,
        instance: incarnation.clone(),
        incarnation,
        node: node.to_owned(),
        server_address: ([127, 0, 0, 1], 1).into(),
        sandbox_address: None,
    });
    Fixture { env, clock, folder }
}

/// Waits until `done` says so, for ten seconds at most.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while !done().await {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}
