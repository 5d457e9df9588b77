//! Everything a task, a handler or an actor may touch: settings, clock, store, files, the provider, the request meter. It is
//! made once in `lib.rs` and handed down by value; cloning is cheap. It knows neither actors nor HTTP routing.

use std::{
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Instant,
};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::Value as Json;

use crate::{
    config::{Config, Secrets},
    domain::restart::Restart,
    error::{Context as _, Error, Result},
    files,
    mailbox::Mailboxes,
    meter::Meter,
    providers::{sandbox::Sandbox, stripe::Client},
    store::{Store, engine::Fact},
};

/// The daemon's own clock. The provider has another one (`stripe::Answer::provider_now`).
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Microseconds since the Unix epoch when set by hand, else 0.
    fixed: Arc<AtomicI64>,
}

impl Clock {
    /// A clock that stands still until it is set again: tests.
    pub fn fixed(at: DateTime<Utc>) -> Self {
        Self { fixed: Arc::new(AtomicI64::new(at.timestamp_micros())) }
    }

    pub fn set(&self, at: DateTime<Utc>) {
        self.fixed.store(at.timestamp_micros(), Ordering::SeqCst);
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    pub fn now(&self) -> DateTime<Utc> {
        match self.fixed.load(Ordering::SeqCst) {
            0 => Utc::now(),
            micros => DateTime::from_timestamp_micros(micros).unwrap_or_else(Utc::now),
        }
    }
}

/// RFC 3339 in UTC with `Z` and whole seconds: `ts`, `*_at` and `slot` everywhere.
pub fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// The state of one child of the supervisor.
#[derive(Clone, Debug, Serialize)]
pub struct ChildStatus {
    pub name: &'static str,
    /// `starting`, `running`, `hung` (did not answer, is being killed), `restarting`, `quarantined` (put aside), `finished` or
    /// `failed` (down for good, because of what `restart` says), `stopped`.
    pub state: &'static str,
    pub critical: bool,
    pub restart: Restart,
    /// Grows with every start; messages of an older generation are ignored.
    pub generation: u64,
    pub restarts: u64,
    pub last_failure: Option<String>,
    pub last_failure_at: Option<String>,
    pub started_at: Option<String>,
    pub uptime_s: Option<i64>,
    /// Microseconds from the last failure to the replacement answering.
    pub last_recovery_us: Option<u64>,
    /// Why it stays down: it was put aside, or failed and is not to be restarted. `None` also during a restart.
    pub down: Option<String>,
    /// While it is put aside: until when.
    pub quarantined_until: Option<String>,
    /// Messages that wait, of this incarnation.
    pub mailbox_depth: usize,
    /// Messages handled by this incarnation.
    pub handled: u64,
    /// How long the message being handled has been so; null between two messages.
    pub in_handler_ms: Option<u64>,
    /// The longest that one message took this incarnation.
    pub handler_longest_ms: u64,
    /// All the time this incarnation spent on messages.
    pub handler_total_ms: u64,
}

/// How a part is broken on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drill {
    /// Its handler panics.
    #[default]
    Panic,
    /// Its handler waits for ever: it can be killed.
    Hang,
    /// Its handler blocks its thread for ever: nothing but the end of the process helps.
    Spin,
}

impl Drill {
    /// Errors: `invalid`, naming the field `kind`.
    pub fn named(kind: &str) -> Result<Self> {
        match kind {
            "panic" => Ok(Self::Panic),
            "hang" => Ok(Self::Hang),
            "spin" => Ok(Self::Spin),
            other => Err(Error::field("kind", format!("kind must be panic, hang or spin, not {other:?}"))),
        }
    }
}

/// Who releases a part from quarantine as a repair of its own accord: once in a row. Anybody else is a person.
pub const SELF_HEAL: &str = "self_heal";

pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// What others may ask of the supervisor without knowing it.
pub trait Tree: Send + Sync {
    fn status(&self) -> Pending<'_, Vec<ChildStatus>>;
    /// Asks every critical child for an answer; the error names the first that gave none.
    fn probe_critical(&self) -> Pending<'_, ()>;
    /// Breaks a child on purpose (`supervisor.drills`). Errors: `forbidden` without that setting, `not_found`, `conflict` with reason
    /// `not_running`.
    fn rehearse(&self, child: String, drill: Drill) -> Pending<'_, ()>;
    /// Crashes a child on purpose.
    fn drill(&self, child: String) -> Pending<'_, ()> {
        self.rehearse(child, Drill::Panic)
    }
    /// Starts a child that was put aside. `by` is who asked, for the journal. Errors: `not_found`, `conflict` with reason
    /// `not_quarantined`, or `released_before` if [`SELF_HEAL`] did it before in this row of quarantines.
    fn release(&self, child: String, by: String) -> Pending<'_, ()>;
}

pub struct Parts {
    pub config: Config,
    pub secrets: Secrets,
    pub clock: Clock,
    pub store: Store,
    pub provider: Client,
    pub http: reqwest::Client,
    pub sandbox: Option<Sandbox>,
    /// Prefix of actor names: unique in the process.
    pub instance: String,
    /// This process's incarnation: runs it started are orphans once it is gone.
    pub incarnation: String,
    /// The data directory's name, the same for all incarnations on it.
    pub node: String,
    pub server_address: SocketAddr,
    pub sandbox_address: Option<SocketAddr>,
}

struct Inner {
    parts: Parts,
    started: Instant,
    started_at: DateTime<Utc>,
    meter: Arc<Meter>,
    mailboxes: Mailboxes,
    tree: OnceLock<Arc<dyn Tree>>,
}

#[derive(Clone)]
pub struct Env(Arc<Inner>);

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env").field("instance", &self.0.parts.instance).finish_non_exhaustive()
    }
}

impl Env {
    pub fn new(mut parts: Parts) -> Self {
        let started_at = parts.clock.now();
        let (meter, mailboxes) = (Arc::new(Meter::new(parts.config.thresholds())), Mailboxes::default());
        let (counter, clock) = (meter.clone(), parts.clock.clone());
        let counted = move |took_us, failed| counter.record("provider", clock.now(), took_us, failed);
        parts.provider = parts.provider.with_count(Arc::new(counted));
        Self(Arc::new(Inner { parts, started: Instant::now(), started_at, meter, mailboxes, tree: OnceLock::new() }))
    }

    pub fn config(&self) -> &Config {
        &self.0.parts.config
    }

    pub fn secrets(&self) -> &Secrets {
        &self.0.parts.secrets
    }

    pub fn store(&self) -> &Store {
        &self.0.parts.store
    }

    pub fn provider(&self) -> &Client {
        &self.0.parts.provider
    }

    pub fn http(&self) -> &reqwest::Client {
        &self.0.parts.http
    }

    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.0.parts.sandbox.as_ref()
    }

    pub fn instance(&self) -> &str {
        &self.0.parts.instance
    }

    pub fn incarnation(&self) -> &str {
        &self.0.parts.incarnation
    }

    pub fn node(&self) -> &str {
        &self.0.parts.node
    }

    pub fn server_address(&self) -> SocketAddr {
        self.0.parts.server_address
    }

    pub fn sandbox_address(&self) -> Option<SocketAddr> {
        self.0.parts.sandbox_address
    }

    pub fn meter(&self) -> &Meter {
        &self.0.meter
    }

    /// What waits for each actor.
    pub fn mailboxes(&self) -> &Mailboxes {
        &self.0.mailboxes
    }

    /// Where customers reach us: from the configuration, never from a request's Host header.
    pub fn public_url(&self) -> String {
        match self.config().server.public_url.trim_end_matches('/') {
            "" => format!("http://{}", self.server_address()),
            url => url.to_owned(),
        }
    }

    pub fn now(&self) -> DateTime<Utc> {
        self.0.parts.clock.now()
    }

    pub fn uptime(&self) -> std::time::Duration {
        self.0.started.elapsed()
    }

    pub fn started_at(&self) -> DateTime<Utc> {
        self.0.started_at
    }

    /// A fact for the journal, dated now.
    pub fn fact(&self, kind: &'static str, subject: impl Into<String>, data: Json) -> Fact {
        Fact { at: self.now(), kind, subject: subject.into(), data }
    }

    /// Set once by `lib.rs`, when the supervisor runs.
    pub fn set_tree(&self, tree: Arc<dyn Tree>) {
        let _ = self.0.tree.set(tree); // a second supervisor in one instance does not exist
    }

    pub fn tree(&self) -> Result<&dyn Tree> {
        self.0.tree.get().map(|t| &**t).ok_or_else(|| Error::unavailable("starting", "the supervisor is not running yet"))
    }

    pub fn log_path(&self, name: &str) -> PathBuf {
        self.config().paths.logs.join(name)
    }

    pub fn backup_path(&self, name: &str) -> PathBuf {
        self.config().paths.backups.join(name)
    }

    pub fn data_path(&self, name: &str) -> PathBuf {
        self.config().paths.data.join(name)
    }

    /// Replaces a report atomically. Runs off the async threads.
    pub async fn write_report(&self, path: PathBuf, value: Json) -> Result<()> {
        blocking(move || files::replace_json(&path, &value)).await
    }

    /// Appends a line to a history file, rotated by size.
    pub async fn append(&self, path: PathBuf, line: Json) -> Result<()> {
        let (max_bytes, keep) = (self.config().log.max_bytes, self.config().log.keep);
        blocking(move || files::append_line(&path, &line, max_bytes, keep)).await
    }

    /// The latest report of that name, if there is one.
    pub async fn read_report(&self, path: PathBuf) -> Result<Json> {
        blocking(move || Self::read_json(&path)).await
    }

    fn read_json(path: &Path) -> Result<Json> {
        let text = std::fs::read(path).context(format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).map_err(|e| Error::invalid("not_json", format!("{} is not JSON: {e}", path.display())))
    }
}

/// Runs file or CPU work off the async threads; a panic in it is an error, not a lost thread.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(format!("a blocking piece of work ended badly: {e}")))?
}
