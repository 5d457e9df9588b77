//! API keys: only their SHA-256 is kept.

use chrono::{DateTime, Utc};

use super::{
    Store,
    engine::{Batch, Fact},
};
use crate::error::Result;

#[derive(Clone, Debug)]
pub struct KeyRow {
    pub id: String,
    pub name: String,
    /// `read`, `operate`, `refund` or `admin`.
    pub scope: String,
    pub hash: Vec<u8>,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
}

impl Store {
    pub async fn insert_key(&self, key: &KeyRow, fact: Fact) -> Result<()> {
        let sql = "INSERT INTO api_key (id, name, scope, hash, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let params = vec![
            key.id.as_str().into(),
            key.name.as_str().into(),
            key.scope.as_str().into(),
            key.hash.as_slice().into(),
            key.created_at.into(),
            key.expires_at.into(),
        ];
        self.engine.write(Batch::new().sql(sql, params).journal(fact)).await.map(|_| ())
    }

    pub async fn keys(&self) -> Result<Vec<KeyRow>> {
        let sql = "SELECT id, name, scope, hash, created_at, expires_at, revoked_at FROM api_key ORDER BY created_at, id";
        let rows = self.engine.read(sql, vec![]).await?;
        rows.iter()
            .map(|r| {
                Ok(KeyRow {
                    id: r.text(0)?.to_owned(),
                    name: r.text(1)?.to_owned(),
                    scope: r.text(2)?.to_owned(),
                    hash: r.blob(3)?.to_vec(),
                    created_at: r.time(4)?,
                    expires_at: r.opt_time(5)?,
                    revoked_at: r.opt_time(6)?,
                })
            })
            .collect()
    }

    /// False if there is no such key or it was revoked before.
    pub async fn revoke_key(&self, id: &str, at: DateTime<Utc>, fact: Fact) -> Result<bool> {
        let sql = "UPDATE api_key SET revoked_at = ?2 WHERE id = ?1 AND revoked_at IS NULL";
        Ok(self.engine.write(Batch::new().guard(sql, vec![id.into(), at.into()]).journal(fact)).await?.affected(0) == 1)
    }
}
