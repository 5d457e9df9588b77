//! The browser's session: a signed cookie that says which key it was opened with, for twelve hours. `POST /session` opens one,
//! `POST /session/end` or `DELETE /session` ends it. The pages ask `current`. The cookie holds no secret and cannot be made without
//! ours; it dies with its key. State-changing requests by cookie must come from our own pages (`check_origin`).

use ring::hmac;
use secrecy::ExposeSecret as _;
use serde_json::json;
use warp::{
    Reply as _,
    filters::BoxedFilter,
    http::{HeaderMap, Method, header},
    reply::Response,
};

use super::{
    Shell,
    auth::{DASHBOARD, Scope, is_valid},
    respond,
    route::{Request, any_of, open},
};
use crate::{
    env::{Env, rfc3339},
    error::{Error, Result},
    files,
    operations::keys::digest_of,
    store::KeyRow,
};

const COOKIE: &str = "echopilot_session";
const TTL_S: i64 = 12 * 3600;

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // Signs in: a form's or a JSON object's `key`.
        open(shell, Method::POST, "/session", begin),
        // Signs out.
        open(shell, Method::DELETE, "/session", end),
        // Signs out from a form, which knows no DELETE.
        open(shell, Method::POST, "/session/end", end),
    ])
}

/// What a cookie says, once its signature is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// `dashboard` or the key's id.
    pub key_id: String,
    pub scope: Scope,
    /// Unix seconds.
    pub expires: i64,
    /// Start of the digest of the key's digest: a replaced key ends the sessions of the old one.
    print: String,
}

impl Session {
    /// Whether the key it was opened with is still valid and the same.
    pub(super) fn still_holds(&self, env: &Env, keys: &[KeyRow]) -> bool {
        if self.key_id == DASHBOARD {
            return self.print == print(&digest_of(env.secrets().dash_key.expose_secret()));
        }
        keys.iter().any(|k| k.id == self.key_id && k.scope == self.scope.as_str() && print(&k.hash) == self.print && is_valid(k, env.now()))
    }
}

/// The session of a page's request, checked against the keys as they are now; `None` means: sign in.
pub async fn current(env: &Env, headers: &HeaderMap) -> Option<Session> {
    let session = read(env, headers)?;
    let keys = if session.key_id == DASHBOARD { Vec::new() } else { env.store().keys().await.ok()? };
    session.still_holds(env, &keys).then_some(session)
}

/// Reads the cookie: signature and time, not yet the key.
pub(super) fn read(env: &Env, headers: &HeaderMap) -> Option<Session> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
    let value = cookies.flat_map(|c| c.split(';')).find_map(|c| c.trim().strip_prefix(COOKIE)?.strip_prefix('='))?;
    let (payload, signature) = value.rsplit_once('.')?;
    let given: Vec<u8> = (0..signature.len() / 2).map_while(|i| u8::from_str_radix(signature.get(2 * i..2 * i + 2)?, 16).ok()).collect();
    hmac::verify(&signing_key(env), payload.as_bytes(), &given).ok()?;
    let mut parts = payload.split('.');
    let (key_id, scope, expires, print) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let session =
        Session { key_id: key_id.to_owned(), scope: Scope::parse(scope)?, expires: expires.parse().ok()?, print: print.to_owned() };
    (env.now().timestamp() < session.expires).then_some(session)
}

/// A change by cookie must come from a page of ours. Errors: `forbidden` with reason `origin`.
pub(super) fn check_origin(env: &Env, headers: &HeaderMap) -> Result<()> {
    let origin = headers.get(header::ORIGIN).and_then(|o| o.to_str().ok()).unwrap_or_default();
    if is_our_origin(env, origin) { Ok(()) } else { Err(Error::forbidden("origin", "this request does not come from our own page")) }
}

/// Our own address, or the configured public one. On a loopback address `localhost` is ours too.
fn is_our_origin(env: &Env, origin: &str) -> bool {
    let address = env.server_address();
    let public = env.public_url();
    let public = public.split('/').take(3).collect::<Vec<_>>().join("/");
    origin.eq_ignore_ascii_case(&public)
        || origin == format!("http://{address}")
        || (address.ip().is_loopback() && origin == format!("http://localhost:{}", address.port()))
}

async fn begin(shell: Shell, request: Request) -> Result<Response> {
    let env = &shell.env;
    if request.headers.contains_key(header::ORIGIN) {
        check_origin(env, &request.headers)?;
    }
    let by_form = is_form(&request);
    let key = if by_form {
        form_urlencoded::parse(&request.body).find(|(name, _)| name == "key").map(|(_, value)| value.into_owned())
    } else {
        request.json()?["key"].as_str().map(str::to_owned)
    };
    let key = key.ok_or_else(|| Error::field("key", "key is missing"))?;
    let caller = match shell.gate.by_key(env, key.trim(), request.peer).await {
        Ok(caller) => caller,
        Err(error) if by_form => return Ok(respond::see_other(&format!("/login?error={}", error.reason))),
        Err(error) => return Err(error),
    };
    let data = json!({"route": "/session", "method": "POST", "scope": caller.scope.as_str(), "peer": request.peer.ip().to_string()});
    env.store().journal(env.fact("key.used", &caller.key_id, data)).await?;
    let session = Session {
        print: print(&digest_of(key.trim())),
        key_id: caller.key_id,
        scope: caller.scope,
        expires: env.now().timestamp() + TTL_S,
    };
    let mut response = if by_form {
        respond::see_other("/")
    } else {
        let expires_at = chrono::DateTime::from_timestamp(session.expires, 0).map(rfc3339);
        respond::json(&json!({"ok": true, "scope": session.scope.as_str(), "expires_at": expires_at}))
    };
    respond::set(&mut response, header::SET_COOKIE, &cookie(env, &value(env, &session), TTL_S));
    Ok(response)
}

async fn end(shell: Shell, request: Request) -> Result<Response> {
    if read(&shell.env, &request.headers).is_some() {
        check_origin(&shell.env, &request.headers)?;
    }
    let mut response = if is_form(&request) { respond::see_other("/login") } else { respond::json(&json!({"ok": true})) };
    respond::set(&mut response, header::SET_COOKIE, &cookie(&shell.env, "", 0));
    Ok(response.into_response())
}

fn is_form(request: &Request) -> bool {
    request.header("content-type").is_some_and(|t| t.starts_with("application/x-www-form-urlencoded"))
}

fn value(env: &Env, session: &Session) -> String {
    let payload = format!("{}.{}.{}.{}", session.key_id, session.scope.as_str(), session.expires, session.print);
    let signature = files::hex(hmac::sign(&signing_key(env), payload.as_bytes()).as_ref());
    format!("{payload}.{signature}")
}

fn cookie(env: &Env, value: &str, max_age_s: i64) -> String {
    let secure = if env.public_url().starts_with("https://") { "; Secure" } else { "" };
    format!("{COOKIE}={value}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Strict{secure}")
}

fn signing_key(env: &Env) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, env.secrets().cookie.expose_secret().as_bytes())
}

fn print(hash: &[u8]) -> String {
    files::hex(&ring::digest::digest(&ring::digest::SHA256, hash).as_ref()[..8])
}
