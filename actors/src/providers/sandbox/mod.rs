//! The built-in payment provider: an HTTP server of its own that speaks the real one's `/v1`, keeps what it is told in a file
//! of its own, pays out daily and sends signed webhooks, all by a virtual clock. Started by the supervisor when no provider
//! is configured, and driven by the official clients as well as by ours. It never shares code or data with the ledger that is
//! reconciled against it.

#[cfg(test)]
mod billing_tests;
mod catalog;
mod charges;
mod clock;
mod collection;
mod control;
mod credit_notes;
mod customers;
mod disputes;
mod documents;
mod events;
mod failure;
mod form;
mod history;
mod hosted;
mod http;
mod invoice_items;
mod invoices;
mod lists;
mod manual_payouts;
mod payments;
mod payouts;
mod proration;
mod query;
mod refunds;
mod renewals;
mod routes;
mod shapes;
mod subscription_shapes;
mod subscriptions;
#[cfg(test)]
mod tests;
mod webhooks;

use std::{
    fmt::{self, Write as _},
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use chrono::{DateTime, Utc};
use ring::rand::SecureRandom as _;
use serde_json::Value as Json;
use tokio::sync::{Mutex as AsyncMutex, Notify};

use self::{
    control::Chaos,
    documents::{Origin, Tx},
};
use crate::{
    error::{Error, Result},
    store::{
        engine::{Batch, Engine as _},
        sqlite::Sqlite,
    },
};

/// What the sandbox is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The sandbox's own file; created when missing.
    pub database: PathBuf,
    /// Hundredths of a percent of a charge.
    pub fee_basis_points: i64,
    /// Fixed part of the fee in US cents; other currencies have their own (`payments::fee`).
    pub fee_fixed_minor: i64,
    /// Fee of a dispute in minor units of its currency.
    pub dispute_fee_minor: i64,
    /// Midnights (UTC) until a charge can be paid out.
    pub settlement_days: i64,
}

impl Settings {
    /// 2.9 % + 0.30, settled after two days: the provider's usual terms.
    pub fn new(database: impl Into<PathBuf>) -> Self {
        Self { database: database.into(), fee_basis_points: 290, fee_fixed_minor: 30, dispute_fee_minor: 1500, settlement_days: 2 }
    }
}

type Clock = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

/// A handle; clones share the same sandbox.
#[derive(Clone)]
pub struct Sandbox {
    inner: Arc<Inner>,
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").field("database", &self.inner.settings.database).finish_non_exhaustive()
    }
}

struct Inner {
    engine: Sqlite,
    settings: Settings,
    clock: Clock,
    /// Requests are served one at a time: an object is never changed by two of them at once.
    state: AsyncMutex<State>,
    /// Held by whoever moves the clock.
    advancing: AsyncMutex<()>,
    /// Held by whoever delivers webhooks, so that the order of creation is kept.
    delivering: AsyncMutex<()>,
    wake: Notify,
    /// Idempotency keys of requests under way.
    in_flight: Mutex<std::collections::HashSet<String>>,
    address: Mutex<String>,
    client: OnceLock<reqwest::Client>,
}

struct State {
    next_seq: i64,
    /// Virtual time is real time plus this many seconds.
    offset: i64,
    /// The latest virtual time seen: it never goes back, whatever the real clock does.
    latest: i64,
    chaos: Chaos,
    endpoints: Arc<Vec<Json>>,
}

impl Inner {
    /// Real time, Unix seconds: for signatures.
    fn real_now(&self) -> i64 {
        (self.clock)().timestamp()
    }

    fn base(&self) -> String {
        self.address.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn load_endpoints(&self) -> Result<Vec<Json>> {
        let rows = self.engine.read_here("SELECT body FROM object WHERE kind = 'webhook_endpoint' ORDER BY seq", Vec::new()).await?;
        rows.iter().map(|row| row.json(0)).collect()
    }

    /// Starts a unit of work at the present virtual time.
    async fn begin(&self, origin: Origin) -> Tx<'_> {
        let mut state = self.state.lock().await;
        let now = self.virtual_now(&mut state);
        Tx::new(self, state, now, origin)
    }

    fn virtual_now(&self, state: &mut State) -> i64 {
        state.latest = state.latest.max(self.real_now() + state.offset);
        state.latest
    }

    fn client(&self) -> &reqwest::Client {
        self.client.get_or_init(|| {
            // A redirect is a failed delivery; a proxy has no business with a loopback address.
            reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .timeout(std::time::Duration::from_secs(10))
                .build()
                .expect("a client without files or proxies can always be built once a TLS provider is installed")
        })
    }
}

impl Sandbox {
    /// Opens or creates the file and continues where it was. `clock` is real time; the sandbox adds its own offset.
    pub async fn open(settings: Settings, clock: Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>) -> Result<Self> {
        let engine = Sqlite::open(&settings.database, documents::MIGRATIONS, None)?;
        let next_seq = engine.read_here("SELECT MAX(seq) FROM object", Vec::new()).await?[0].opt_int(0)?.unwrap_or(0);
        let (mut offset, mut chaos) = (0, Chaos::default());
        for row in engine.read_here("SELECT name, value FROM meta", Vec::new()).await? {
            match row.text(0)? {
                "offset" => offset = row.text(1)?.parse().map_err(|_| Error::internal("the sandbox's clock offset is not a number"))?,
                "chaos" => chaos = serde_json::from_str(row.text(1)?)?,
                _ => {}
            }
        }
        // After a clock that went back, time goes on from the newest object. The daemon's endpoint is no part of a story that was
        // begun in the past: it is older than its beginning and has a later date.
        let newest = "SELECT MAX(created) FROM object WHERE kind <> 'webhook_endpoint'";
        let latest = engine.read_here(newest, Vec::new()).await?[0].opt_int(0)?.unwrap_or(i64::MIN);
        let inner = Inner {
            engine,
            settings,
            clock,
            state: AsyncMutex::new(State { next_seq, offset, latest, chaos, endpoints: Arc::default() }),
            advancing: AsyncMutex::default(),
            delivering: AsyncMutex::default(),
            wake: Notify::new(),
            in_flight: Mutex::default(),
            address: Mutex::default(),
            client: OnceLock::new(),
        };
        let endpoints = Arc::new(inner.load_endpoints().await?);
        inner.state.lock().await.endpoints = endpoints;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Creates or updates the daemon's own webhook endpoint: its address changes at every start on port 0, and what is still
    /// to be delivered goes to the new one. After a change of `secret` both sign for 24 hours.
    pub async fn set_daemon_endpoint(&self, url: &str, secret: &str) -> Result<()> {
        let mut tx = self.inner.begin(Origin::default()).await;
        webhooks::set_daemon_endpoint(&mut tx, url, secret).await?;
        tx.commit().await
    }

    /// Sets the clock of an empty sandbox back, so that a story told by advancing it ends now. False if there are objects.
    pub async fn start_in_past(&self, seconds: i64) -> Result<bool> {
        let mut tx = self.inner.begin(Origin::default()).await;
        let objects = tx.read("SELECT COUNT(*) FROM object WHERE kind <> 'webhook_endpoint'", Vec::new()).await?[0].int(0)?;
        if objects > 0 || seconds < 0 {
            return Ok(false);
        }
        tx.set_offset(-seconds);
        tx.restart_clock();
        tx.commit().await?;
        Ok(true)
    }

    /// Serves until `stop` is done: requests, what the clock makes due, and webhooks. The listener stays with the caller.
    pub async fn serve(&self, listener: Arc<tokio::net::TcpListener>, stop: impl Future<Output = ()> + Send) -> Result<()> {
        *self.inner.address.lock().unwrap_or_else(PoisonError::into_inner) = format!("http://{}", listener.local_addr()?);
        tokio::select! {
            () = http::accept(self.inner.clone(), &listener) => {}
            () = self.inner.keep_time() => {}
            () = stop => {}
        }
        Ok(())
    }

    /// Waits until everything accepted is stored and lets go of the file.
    pub async fn close(&self) -> Result<()> {
        self.inner.engine.close().await
    }

    /// Virtual time, Unix seconds.
    pub async fn now(&self) -> i64 {
        let mut state = self.inner.state.lock().await;
        self.inner.virtual_now(&mut state)
    }

    /// Moves the virtual clock and returns when everything that fell due has been done, in the order of time, and its
    /// webhooks were delivered or their try failed. Answers (now, offset).
    pub async fn advance(&self, seconds: i64) -> Result<(i64, i64)> {
        self.inner.advance(seconds).await
    }

    /// Sets switches of the chaos, as `PUT /_control/chaos` does, and answers all of them.
    pub async fn set_chaos(&self, switches: &Json) -> Result<Json> {
        control::change_chaos(&self.inner, switches).await
    }

    /// Opens a dispute over a charge, or closes it: `outcome` is `open`, `won` or `lost`.
    pub async fn dispute(&self, charge: &str, outcome: &str) -> Result<Json> {
        control::dispute(&self.inner, &serde_json::json!({ "charge": charge, "outcome": outcome })).await
    }

    /// Forgets everything but the daemon's endpoint; the clock shows real time again.
    pub async fn reset(&self) -> Result<()> {
        let _advancing = self.inner.advancing.lock().await;
        let mut state = self.inner.state.lock().await;
        let batch = Batch::new()
            .sql("DELETE FROM object WHERE kind <> 'webhook_endpoint' OR second IS NOT 'daemon'", Vec::new())
            .sql("DELETE FROM delivery", Vec::new())
            .sql("DELETE FROM attempt", Vec::new())
            .sql("DELETE FROM idempotency", Vec::new())
            .sql("DELETE FROM meta", Vec::new());
        self.inner.engine.write(batch).await?;
        (state.offset, state.latest, state.chaos) = (0, i64::MIN, Chaos::default());
        state.endpoints = Arc::new(self.inner.load_endpoints().await?);
        Ok(())
    }
}

/// Lowercase hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("writing to a String cannot fail");
        hex
    })
}

/// Letters and digits nobody can guess.
fn random_text(length: usize) -> String {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut bytes = vec![0; length];
    ring::rand::SystemRandom::new().fill(&mut bytes).expect("the system's random numbers are available");
    bytes.iter().map(|b| char::from(ALPHABET[usize::from(*b) % ALPHABET.len()])).collect()
}

/// True with the given probability.
fn chance(probability: f64) -> bool {
    if probability <= 0.0 {
        return false;
    }
    let mut bytes = [0; 4];
    ring::rand::SystemRandom::new().fill(&mut bytes).expect("the system's random numbers are available");
    f64::from(u32::from_le_bytes(bytes)) < probability * 4_294_967_296.0
}
