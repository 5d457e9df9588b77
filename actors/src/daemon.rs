//! Puts the parts together: directories, lock, secrets, listeners, store, environment, children. The only place that knows all
//! of them; the task table and the child list go from here to the timer and the supervisor as values, so that there is no cycle.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use secrecy::ExposeSecret as _;
use serde_json::json;
use tokio::{net::TcpListener, sync::watch, task::AbortHandle};

use crate::{
    actor::{self, ChildSpec},
    alert, backup,
    config::{Config, Environment, ProviderMode, Secrets},
    domain::alert_rule::{self, Part},
    env::{Clock, Env, Parts},
    error::{Context as _, Error, Result},
    execution::{self, Workshop},
    files, gateway, ingest, insight, ping,
    providers::{
        sandbox::{Sandbox, Settings},
        stripe::{self, Answered, Client, Outbox},
    },
    recon, sandbox, slo,
    store::Store,
    supervisor::Supervisor,
    tasks,
    timer::{self, Timer},
};

/// What the sandbox's and the store's end may add to the children's.
const STORE: Duration = Duration::from_secs(10);

/// What to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everything: HTTP and the schedule.
    Serve,
    /// What a command needs to do its work without a running daemon: no HTTP, nothing scheduled.
    Offline,
}

/// A running instance. It holds the data directory's lock until it is stopped.
#[derive(Debug)]
pub struct Daemon {
    pub env: Env,
    supervisor: Supervisor,
    mode: Mode,
    /// Carries what is down to the alerts.
    watch: Option<AbortHandle>,
    _lock: File,
}

impl Daemon {
    /// Starts everything in order. Errors say what is wrong and what to do: `conflict` (another daemon has the data directory),
    /// `unavailable` (`address_in_use`, a directory that cannot be written), `invalid` (secrets, `not_a_database`).
    pub async fn start(mut config: Config, environment: &Environment, mode: Mode, clock: Clock) -> Result<Self> {
        execution::keep_panics();
        let _ = rustls::crypto::ring::default_provider().install_default(); // a second instance finds it installed
        config.timer.enabled &= mode == Mode::Serve;
        let table = tasks::configured(&config)?;
        for path in [&config.paths.data, &config.paths.logs, &config.paths.backups] {
            usable_directory(path)?;
        }
        // Secrets and customers' addresses: for the owner alone.
        std::fs::set_permissions(&config.paths.data, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        let lock = take_lock(&config.paths.data)?;
        let secrets = Secrets::load(&config, environment)?;
        let listener = if mode == Mode::Serve { Some(bind(config.server.listen, "server.listen").await?) } else { None };
        let sandbox_listener = match config.provider.mode {
            ProviderMode::Sandbox => Some(bind(config.sandbox.listen, "sandbox.listen").await?),
            _ => None,
        };
        let sandbox_address = sandbox_listener.as_ref().map(tokio::net::TcpListener::local_addr).transpose()?;
        let server_address = listener.as_ref().map_or(Ok(config.server.listen), tokio::net::TcpListener::local_addr)?;
        if config.data_is_older_than_database() {
            tracing::error!(path = %config.database_path().display(), "this data directory was used before and its database is missing: starting with an empty one");
        }
        let node = files::secret(&config.paths.data.join("node"), "node_")?;
        let node = node[..21].to_owned();
        let store = Store::open(&config.database_path(), &node)?;
        let http = Client::http_client()?;
        let base_url = sandbox_address.map_or_else(|| config.provider.base_url.clone(), |a| format!("http://{a}"));
        let to_provider = if sandbox_address.is_some() { Client::loopback_http_client()? } else { http.clone() };
        let sent = Sent { store: store.clone(), clock: clock.clone() };
        let mut provider = Client::new(&base_url, secrets.provider.expose_secret(), to_provider).with_outbox(Arc::new(sent));
        if sandbox_address.is_none() {
            provider = provider.with_pace(config.provider.max_per_s, config.provider.max_in_flight); // our own has no limit to keep to
        }
        let sandbox = match sandbox_address {
            Some(_) => {
                let clock = clock.clone();
                Some(Sandbox::open(Settings::new(config.paths.data.join("sandbox.db")), Arc::new(move || clock.now())).await?)
            }
            None => None,
        };
        let incarnation = format!("inc_{}", uuid::Uuid::now_v7().simple());
        let env = Env::new(Parts {
            instance: incarnation.clone(),
            incarnation,
            node,
            config,
            secrets,
            clock,
            store,
            provider,
            http,
            sandbox,
            server_address,
            sandbox_address,
        });
        let workshop = Workshop::new(env.config().timer.max_running)?;
        let children = children(&env, Timer::new(table, workshop), listener, sandbox_listener);
        let supervisor = match Supervisor::start(env.clone(), children).await {
            Ok(supervisor) => supervisor,
            Err(error) => {
                env.store().close().await?;
                return Err(error);
            }
        };
        let watch = (mode == Mode::Serve).then(|| tokio::spawn(raise(env.clone(), supervisor.parts())).abort_handle());
        let daemon = Self { env, supervisor, mode, watch, _lock: lock };
        daemon.announce().await?;
        Ok(daemon)
    }

    /// Tells the sandbox where webhooks go, and commands where the daemon is.
    async fn announce(&self) -> Result<()> {
        if self.mode == Mode::Offline {
            return Ok(());
        }
        let env = &self.env;
        if !env.config().heartbeat.url.is_empty() {
            drop(ping::tell(env, &env.config().heartbeat.url, ping::Signal::Start, None, String::new())); // nobody waits for it
        }
        if let Some(sandbox) = env.sandbox() {
            let url = format!("http://{}/api/payments/webhook", env.server_address());
            let secret = env.secrets().webhook.first().ok_or_else(|| Error::internal("there is no webhook secret"))?;
            sandbox.set_daemon_endpoint(&url, secret.expose_secret()).await?;
        }
        let sandbox_address = env.sandbox_address().map(|a| a.to_string());
        let whereabouts =
            json!({"pid": std::process::id(), "address": env.server_address().to_string(), "sandbox_address": sandbox_address});
        let path = env.data_path("daemon.json");
        crate::env::blocking(move || files::replace(&path, whereabouts.to_string().as_bytes(), files::MODE_PRIVATE)).await
    }

    /// Ends when a critical part could not be kept running, with the reason.
    pub async fn fatal(&self) -> String {
        self.supervisor.fatal().await
    }

    /// How long `stop` can take, at most.
    pub fn stop_limit(&self) -> Duration {
        self.supervisor.stop_limit() + STORE
    }

    /// Stops the children in reverse order, then the store. Nothing acknowledged is lost.
    pub async fn stop(self) -> Result<()> {
        if self.mode == Mode::Serve {
            let _ = std::fs::remove_file(self.env.data_path("daemon.json")); // a stale one names a process that is gone
        }
        if let Some(watch) = &self.watch {
            watch.abort(); // a part that is stopped is no alert
        }
        self.supervisor.stop().await;
        if let Some(sandbox) = self.env.sandbox() {
            sandbox.close().await?;
        }
        self.env.store().close().await
    }
}

/// The client's outbox over our store.
struct Sent {
    store: Store,
    clock: Clock,
}

impl Outbox for Sent {
    fn sent<'a>(&'a self, key: &'a str, path: &'a str, request: &'a str) -> stripe::Pending<'a> {
        Box::pin(self.store.call_sent(key, path, request, self.clock.now()))
    }

    fn answered<'a>(&'a self, key: &'a str, answered: Answered<'a>) -> stripe::Pending<'a> {
        Box::pin(self.store.call_answered(key, answered.status, answered.request_id, answered.object_id, self.clock.now()))
    }
}

/// Puts every change of what is down to the alerts, as often as it takes to fire or to resolve. While the alert actor itself is the
/// part that is down, it is told when it is back.
async fn raise(env: Env, mut parts: watch::Receiver<Vec<Part>>) {
    let limits = &env.config().alert;
    let times = limits.fire_after.max(limits.resolve_after);
    let pause = Duration::from_millis(env.config().supervisor.ping_every_ms);
    let mut left = 0;
    loop {
        if left == 0 {
            if parts.changed().await.is_err() {
                return; // the supervisor is gone
            }
            left = times;
        }
        let now = parts.borrow_and_update().clone();
        match alert::evaluate(&env, alert_rule::parts(&now)).await {
            Ok(_) => left -= 1,
            Err(error) => tracing::warn!(actor = "supervisor", %error, "the alerts were not told what is down; trying again"),
        }
        if left > 0 {
            match tokio::time::timeout(pause, parts.changed()).await {
                Ok(Ok(())) => left = times, // something else now
                Ok(Err(_)) => return,       // the supervisor is gone
                Err(_) => {}
            }
        }
    }
}

/// Every child, in the order of starting; producers of work last.
fn children(env: &Env, schedule: Timer, listener: Option<TcpListener>, sandbox_listener: Option<TcpListener>) -> Vec<ChildSpec> {
    let serves = listener.is_some();
    let mut specs = Vec::new();
    if let Some(listener) = sandbox_listener {
        let server = sandbox::SandboxServer::new(Arc::new(listener));
        specs.push(actor::spec(sandbox::NOUN, false, move || server.clone()));
    }
    specs.extend([
        actor::spec(slo::NOUN, false, || slo::Slo),
        actor::spec(alert::NOUN, false, || alert::Alerts),
        actor::spec(recon::NOUN, false, || recon::Recon),
        actor::spec(backup::NOUN, false, || backup::Backup),
        actor::spec(insight::NOUN, false, || insight::Insight),
        actor::spec(ingest::NOUN, true, move || ingest::Ingest { finds_gaps: serves }),
        actor::spec(timer::NOUN, true, move || schedule.clone()).stop_timeout(timer::stop_timeout(env)),
    ]);
    if let Some(listener) = listener {
        let server = gateway::Gateway::new(env, listener);
        specs.push(actor::spec(gateway::NOUN, true, move || server.clone()));
    }
    specs
}

/// Makes the directory if it is not there, and proves that a file can be written in it. Errors have reason `path`, `permission` or `io`.
pub fn usable_directory(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o750).create(path);
    let usable = made.and_then(|()| tempfile::tempfile_in(path).map(drop));
    usable.map_err(|error| {
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        let error = Error::from(error).context(format!("the directory {} cannot be used", path.display()));
        if missing { Error { reason: "path".into(), ..error } } else { error }
    })
}

/// One daemon per data directory: the lock is the kernel's, so it cannot be left behind. It is held as long as the file is open.
/// Errors: `conflict` with reason `data_directory_in_use`, naming the process.
pub fn take_lock(data: &Path) -> Result<File> {
    let path = data.join("lock");
    let mut file = File::options()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .open(&path)
        .context(format!("cannot open {}", path.display()))?;
    if !patiently(|| file.try_lock().is_ok()) {
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder); // only for the message
        return Err(Error::conflict("data_directory_in_use", format!("{} is in use by process {}", data.display(), holder.trim())));
    }
    file.set_len(0)?;
    write!(file, "{}", std::process::id())?;
    Ok(file)
}

/// A command that looks whether a daemon runs holds the lock for an instant: that is not a reason to give up.
fn patiently(mut attempt: impl FnMut() -> bool) -> bool {
    (0..10).any(|tries| {
        if tries > 0 {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        attempt()
    })
}

/// Where a running daemon serves.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct Whereabouts {
    pub pid: u32,
    pub address: std::net::SocketAddr,
    /// None if a provider is configured.
    #[serde(default)]
    pub sandbox_address: Option<std::net::SocketAddr>,
}

/// The daemon that has the data directory, if one serves. A file left behind by one that was killed is not believed: the lock
/// must be held, by the very process the file names.
pub fn running(data: &Path) -> Option<Whereabouts> {
    let lock = data.join("lock");
    if File::open(&lock).is_ok_and(|file| file.try_lock_shared().is_ok()) {
        return None;
    }
    let holder: u32 = std::fs::read_to_string(&lock).ok()?.trim().parse().ok()?;
    let whereabouts: Whereabouts = serde_json::from_slice(&std::fs::read(data.join("daemon.json")).ok()?).ok()?;
    Some(whereabouts).filter(|w| w.pid == holder)
}

async fn bind(address: std::net::SocketAddr, key: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let reason = if error.kind() == std::io::ErrorKind::AddrInUse { "address_in_use" } else { "address" };
        Error::unavailable(reason, format!("cannot listen on {address} ({key}): {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        env::Tree as _,
        testing::{self, until},
    };

    #[tokio::test]
    async fn what_is_down_is_told_as_soon_as_the_alert_part_is_back_and_resolves_with_it() {
        let fixture = testing::reopen(tempfile::tempdir().unwrap(), "2026-03-01T00:00:00Z", |config| {
            (config.supervisor.max_restarts, config.supervisor.ping_every_ms) = (0, 20);
        });
        let env = &fixture.env;
        let specs = vec![actor::spec(slo::NOUN, false, || slo::Slo), actor::spec(alert::NOUN, false, || alert::Alerts)];
        let supervisor = Supervisor::start(env.clone(), specs).await.unwrap();
        let task = tokio::spawn(raise(env.clone(), supervisor.parts()));
        let down = |noun: &'static str| {
            let supervisor = supervisor.clone();
            async move { supervisor.status().await.unwrap().iter().any(|c| c.name == noun && c.down.is_some()) }
        };
        for noun in [alert::NOUN, slo::NOUN] {
            supervisor.drill(noun.into()).await.unwrap();
            until("it is put aside", || down(noun)).await;
        }
        supervisor.release(alert::NOUN.into(), "a test".into()).await.unwrap();
        until("the alert of the other part", || async { alert::list(env).await.is_ok_and(|l| l.len() == 1 && l[0].name == "part_slo") })
            .await;
        let alert = alert::list(env).await.unwrap().remove(0);
        assert!(alert.reason.contains("slo is put aside, failed too often") && alert.reason.contains("drill"), "{}", alert.reason);
        supervisor.release(slo::NOUN.into(), "a test".into()).await.unwrap();
        until("it resolves", || async { alert::list(env).await.is_ok_and(|l| l.is_empty()) }).await;
        task.abort();
        supervisor.stop().await;
    }
}
