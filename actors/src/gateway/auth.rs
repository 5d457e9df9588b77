//! Who may do what: the key in `X-Dash-Key` or the browser's session, its scope, and the throttle on wrong keys per address. Called
//! by `route::api` for every endpoint that needs a key. Keys are compared as hashes in constant time, all of them, and the use
//! of one for a change is journalled before the change. A wrong key is never logged.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use secrecy::ExposeSecret as _;
use serde_json::json;
use subtle::ConstantTimeEq as _;
use warp::http::Method;

pub(super) use crate::operations::keys::Scope;
use crate::{
    env::Env,
    error::{Error, Result},
    operations::keys::digest_of,
    store::KeyRow,
};

use super::{route::Request, session};

/// The id under which the key from `DASHBOARD_KEY` appears.
pub(super) const DASHBOARD: &str = "dashboard";
/// How long a list of keys read from the store is used; revoking here takes effect at once, on another node after this.
const FRESH: Duration = Duration::from_secs(3);
const WINDOW: Duration = Duration::from_mins(1);
/// Wrong keys per address and window.
const FAILURES: u32 = 10;
/// Addresses remembered at most.
const ADDRESSES: usize = 10_000;

/// Whose request it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// `dashboard` or the key's id.
    pub(super) key_id: String,
    pub(super) scope: Scope,
}

/// What is needed to let requests in. Outlives the gateway actor, so that a crash forgives no wrong guess.
#[derive(Debug, Default)]
pub(super) struct Gate {
    keys: Mutex<Option<(Instant, Arc<Vec<KeyRow>>)>>,
    throttle: Throttle,
}

impl Gate {
    /// Lets a request in or says why not: `limited`, `unauthorized`, `forbidden` (`scope`, `origin`), `unavailable`.
    pub(super) async fn admit(&self, env: &Env, request: &Request, needed: Scope) -> Result<Caller> {
        let caller = if request.headers.contains_key("x-dash-key") {
            self.by_key(env, request.header("x-dash-key").unwrap_or_default(), request.peer).await?
        } else {
            self.by_session(env, request).await?
        };
        if !caller.scope.allows(needed) {
            return Err(Error::forbidden("scope", format!("this needs a key with the scope {}", needed.as_str())));
        }
        if changes(&request.method) {
            let data = json!({"route": request.pattern, "method": request.method.as_str(), "scope": caller.scope.as_str(), "peer": request.peer.ip().to_string()});
            env.store().journal(env.fact("key.used", &caller.key_id, data)).await?;
        }
        Ok(caller)
    }

    /// Checks a key as it was presented. A throttled address is refused even with the right one, or guessing would go on.
    pub(super) async fn by_key(&self, env: &Env, key: &str, peer: SocketAddr) -> Result<Caller> {
        self.throttle.check(peer.ip(), Instant::now())?;
        let hash = digest_of(key);
        let dashboard = digest_of(env.secrets().dash_key.expose_secret());
        if bool::from(hash.ct_eq(&dashboard)) {
            return Ok(Caller { key_id: DASHBOARD.to_owned(), scope: Scope::Admin });
        }
        let keys = self.keys(env).await?;
        let now = env.now();
        let mut found = None;
        for row in keys.iter() {
            // No early exit: how long it takes must not depend on which key is nearly right.
            if bool::from(hash.ct_eq(row.hash.as_slice())) && is_valid(row, now) {
                found = Scope::parse(&row.scope).map(|scope| (row.id.clone(), scope));
            }
        }
        if let Some((key_id, scope)) = found {
            return Ok(Caller { key_id, scope });
        }
        self.throttle.failed(peer.ip(), Instant::now());
        tracing::info!(target: "gateway", peer = %peer.ip(), "a wrong key");
        Err(Error::unauthorized("this key is not valid"))
    }

    async fn by_session(&self, env: &Env, request: &Request) -> Result<Caller> {
        let needs = || Error::unauthorized("send a key in X-Dash-Key, or sign in");
        let session = session::read(env, &request.headers).ok_or_else(needs)?;
        if !session.still_holds(env, &self.keys_for(env, &session).await?) {
            return Err(needs());
        }
        if changes(&request.method) {
            session::check_origin(env, &request.headers)?;
        }
        Ok(Caller { key_id: session.key_id, scope: session.scope })
    }

    /// The dashboard key's sessions need no store.
    async fn keys_for(&self, env: &Env, session: &session::Session) -> Result<Arc<Vec<KeyRow>>> {
        if session.key_id == DASHBOARD { Ok(Arc::default()) } else { self.keys(env).await }
    }

    async fn keys(&self, env: &Env) -> Result<Arc<Vec<KeyRow>>> {
        if let Some((at, keys)) = &*self.keys.lock().unwrap_or_else(PoisonError::into_inner)
            && at.elapsed() < FRESH
        {
            return Ok(keys.clone());
        }
        let keys = Arc::new(env.store().keys().await?);
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), keys.clone()));
        Ok(keys)
    }

    /// Reads the keys anew at the next request: one was made or revoked.
    pub(super) fn forget_keys(&self) {
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

pub(super) fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

/// Neither expired nor revoked.
pub(super) fn is_valid(key: &KeyRow, now: chrono::DateTime<chrono::Utc>) -> bool {
    key.revoked_at.is_none() && key.expires_at.is_none_or(|at| now < at)
}

/// Wrong keys per address in the running minute.
#[derive(Debug, Default)]
struct Throttle {
    seen: Mutex<HashMap<IpAddr, (Instant, u32)>>,
}

impl Throttle {
    fn check(&self, address: IpAddr, now: Instant) -> Result<()> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.get(&network(address)) {
            Some((since, count)) if *count >= FAILURES && now.duration_since(*since) < WINDOW => {
                let wait = WINDOW.saturating_sub(now.duration_since(*since)).as_secs() + 1;
                Err(Error::limited("too many wrong keys from this address", wait))
            }
            _ => Ok(()),
        }
    }

    fn failed(&self, address: IpAddr, now: Instant) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let address = network(address);
        if seen.len() >= ADDRESSES && !seen.contains_key(&address) {
            seen.retain(|_, (since, _)| now.duration_since(*since) < WINDOW);
            if seen.len() >= ADDRESSES {
                seen.clear(); // an attack from that many addresses is not stopped by counting them
            }
        }
        let entry = seen.entry(address).or_insert((now, 0));
        if now.duration_since(entry.0) >= WINDOW {
            *entry = (now, 0);
        }
        entry.1 += 1;
    }
}

/// Of an IPv6 address the half that a host does not choose by itself.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_wrong_keys_close_the_door_for_a_minute_to_that_address_only() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        let (bad, other): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        for _ in 0..FAILURES {
            assert!(throttle.check(bad, start).is_ok());
            throttle.failed(bad, start);
        }
        let error = throttle.check(bad, start + Duration::from_secs(20)).unwrap_err();
        assert_eq!((error.code, error.retry_after_s), (crate::error::Code::Limited, Some(41)));
        assert!(throttle.check(other, start).is_ok());
        assert!(throttle.check(bad, start + WINDOW).is_ok());
        throttle.failed(bad, start + WINDOW);
        assert!(throttle.check(bad, start + WINDOW).is_ok());
    }

    #[test]
    fn the_memory_of_the_throttle_is_bounded() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for n in 0..u32::try_from(ADDRESSES).unwrap() + 500 {
            throttle.failed(IpAddr::V4(n.into()), now);
        }
        assert!(throttle.seen.lock().unwrap().len() <= ADDRESSES);
    }

    #[test]
    fn one_ipv6_network_is_one_address() {
        let net = |text: &str| network(text.parse().unwrap());
        assert_eq!(net("2001:db8::1"), net("2001:db8::ffff:2"));
        assert_ne!(net("2001:db8::1"), net("2001:db8:0:1::1"));
        assert_eq!(net("::ffff:192.0.2.1"), net("192.0.2.1"));
    }
}
