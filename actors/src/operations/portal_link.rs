//! Links by which a customer reads their own invoices. Called by the gateway and the command line (`mint`) and by the portal page
//! (`verify`). The host comes from the configuration. A refusal is one and the same for whatever was wrong; the log knows why.

use chrono::{TimeDelta, Utc};
use ring::digest;
use secrecy::ExposeSecret as _;
use serde_json::{Value as Json, json};

use crate::{
    domain::portal::{self, Grant},
    env::{Env, rfc3339},
    error::{Error, Result},
    files,
};

/// Makes a link: `{"ok","email","signed_url","expires","expires_iso"}`, seed phase 70. Errors: `invalid` naming `email`.
pub async fn mint(env: &Env, email: &str, asked_by: &str) -> Result<Json> {
    let email = portal::canonical_email(email).map_err(|why| Error::field("email", why))?;
    let expires_at = env.now() + TimeDelta::seconds(env.config().portal.ttl_s);
    let expires = expires_at.timestamp();
    let url = portal::link(&env.public_url(), env.secrets().portal.expose_secret(), &email, expires);
    let data = json!({"expires": expires, "asked_by": asked_by});
    env.store().journal(env.fact("portal.minted", subject(&email), data)).await?;
    let whole = chrono::DateTime::<Utc>::from_timestamp(expires, 0).unwrap_or(expires_at);
    Ok(json!({"ok": true, "email": email, "signed_url": url, "expires": expires, "expires_iso": rfc3339(whole)}))
}

/// Checks the raw query string of a link and journals the view. Errors: `forbidden` with reason `link` for everything that does
/// not verify, always with the same words.
pub async fn verify(env: &Env, raw_query: &str) -> Result<Grant> {
    let secret = env.secrets().portal.expose_secret();
    let grant = portal::verify(raw_query, &[secret], env.now().timestamp()).map_err(|refusal| {
        tracing::info!(target: "gateway", refusal = refusal.as_str(), "a portal link was refused");
        Error::forbidden("link", "this link is not valid or has expired; ask for a new one")
    })?;
    env.store().journal(env.fact("portal.view", subject(&grant.email), json!({"expires": grant.expires}))).await?;
    Ok(grant)
}

/// Proof for whoever knows the address, and no address for whoever reads the journal.
fn subject(email: &str) -> String {
    format!("sha256:{}", files::hex(digest::digest(&digest::SHA256, email.as_bytes()).as_ref()))
}
