//! API keys: make, list, revoke. Called by the gateway and by the command line. A key is shown once, at its making; only its
//! SHA-256 is kept. Every making and revoking is in the journal.

use chrono::{DateTime, Utc};
use ring::digest;
use serde_json::{Value as Json, json};

use crate::{
    env::{Env, rfc3339},
    error::{Error, Result},
    files,
    store::KeyRow,
};

/// What a key may do. `Operate` and `Refund` include reading and not each other; `Admin` is everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Read,
    Operate,
    Refund,
    Admin,
}

impl Scope {
    pub const ALL: [Self; 4] = [Self::Read, Self::Operate, Self::Refund, Self::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Refund => "refund",
            Self::Admin => "admin",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }

    /// Whether a key of this scope may do what needs `needed`.
    pub fn allows(self, needed: Self) -> bool {
        self == Self::Admin || self == needed || needed == Self::Read
    }
}

/// SHA-256 of a key: what is stored and compared.
pub fn digest_of(key: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, key.as_bytes()).as_ref());
    bytes
}

/// Makes a key. The answer's `key` is shown this once: `{"ok","id","name","scope","key","created_at","expires_at"}`.
/// Errors: `invalid` naming the field.
pub async fn create(env: &Env, name: &str, scope: &str, expires_at: Option<DateTime<Utc>>, asked_by: &str) -> Result<Json> {
    let scope = Scope::parse(scope).ok_or_else(|| Error::field("scope", "scope is one of read, operate, refund, admin"))?;
    if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
        return Err(Error::field("name", "a name has 1 to 64 printable characters"));
    }
    let now = env.now();
    if expires_at.is_some_and(|at| at <= now) {
        return Err(Error::field("expires_at", "expires_at is in the past"));
    }
    let key = format!("ep_{}", files::random_hex(32));
    let row = KeyRow {
        id: format!("key_{}", uuid::Uuid::now_v7().simple()),
        name: name.to_owned(),
        scope: scope.as_str().to_owned(),
        hash: digest_of(&key).to_vec(),
        created_at: now,
        expires_at,
        revoked_at: None,
    };
    let data = json!({"name": name, "scope": scope.as_str(), "expires_at": expires_at.map(rfc3339), "asked_by": asked_by});
    env.store().insert_key(&row, env.fact("key.created", &row.id, data)).await?;
    Ok(json!({
        "ok": true, "id": row.id, "name": name, "scope": scope.as_str(), "key": key, "created_at": rfc3339(now),
        "expires_at": expires_at.map(rfc3339),
    }))
}

/// Every key, oldest first, without the key itself.
pub async fn list(env: &Env) -> Result<Vec<Json>> {
    Ok(env.store().keys().await?.iter().map(view).collect())
}

/// Ends a key at once. Errors: `not_found` if there is no such key or it was revoked before.
pub async fn revoke(env: &Env, id: &str, asked_by: &str) -> Result<Json> {
    let now = env.now();
    let fact = env.fact("key.revoked", id, json!({ "asked_by": asked_by }));
    if env.store().revoke_key(id, now, fact).await? {
        Ok(json!({"ok": true, "id": id, "revoked_at": rfc3339(now)}))
    } else {
        Err(Error::not_found("there is no such key, or it was revoked before"))
    }
}

fn view(key: &KeyRow) -> Json {
    json!({
        "id": key.id, "name": key.name, "scope": key.scope, "created_at": rfc3339(key.created_at),
        "expires_at": key.expires_at.map(rfc3339), "revoked_at": key.revoked_at.map(rfc3339),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_allows_what_it_says_and_reading() {
        for (has, needs, allowed) in [
            (Scope::Read, Scope::Read, true),
            (Scope::Read, Scope::Operate, false),
            (Scope::Operate, Scope::Read, true),
            (Scope::Operate, Scope::Refund, false),
            (Scope::Refund, Scope::Refund, true),
            (Scope::Refund, Scope::Operate, false),
            (Scope::Refund, Scope::Admin, false),
            (Scope::Admin, Scope::Refund, true),
        ] {
            assert_eq!(has.allows(needs), allowed, "{has:?} {needs:?}");
        }
        assert!(Scope::ALL.iter().all(|s| Scope::parse(s.as_str()) == Some(*s)));
    }
}
