//! Which settings changed since the last start, for the messages that say what changed before an alert began. Called when the book is
//! read. Of each setting only a digest is kept: an address may be a secret of sorts.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{env::Env, error::Result, files};

/// What was seen last, in `meta`.
const SEEN: &str = "settings_seen";
/// Bytes of a digest that are kept: it tells changes, and withstands nobody.
const DIGEST: usize = 8;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Seen {
    /// By path.
    digests: BTreeMap<String, String>,
    /// The last change.
    at: Option<DateTime<Utc>>,
    changed: Vec<String>,
}

/// Compares with what was seen last, and remembers it with an entry in the journal if anything is new.
pub(super) async fn note(env: &Env) -> Result<()> {
    let digest = |text: String| files::hex(&digest(&SHA256, text.as_bytes()).as_ref()[..DIGEST]);
    let digests: BTreeMap<String, String> = env.config().flat().into_iter().map(|(path, text)| (path, digest(text))).collect();
    let seen = read(env).await?;
    let is_first = seen.digests.is_empty();
    if seen.digests == digests {
        return Ok(());
    }
    let paths = seen.digests.keys().chain(digests.keys().filter(|path| !seen.digests.contains_key(*path)));
    let changed: Vec<String> = paths.filter(|path| seen.digests.get(*path) != digests.get(*path)).cloned().collect();
    let (at, changed) = if is_first { (None, Vec::new()) } else { (Some(env.now()), changed) };
    if !is_first {
        env.store().journal(env.fact("settings.changed", "settings", json!({ "changed": changed }))).await?;
    }
    env.store().set_meta(SEEN, &serde_json::to_string(&Seen { digests, at, changed })?).await
}

/// When settings changed last, and which.
pub(super) async fn last_change(env: &Env) -> Result<Option<(DateTime<Utc>, Vec<String>)>> {
    let seen = read(env).await?;
    Ok(seen.at.map(|at| (at, seen.changed)))
}

async fn read(env: &Env) -> Result<Seen> {
    Ok(env.store().meta(SEEN).await?.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}
