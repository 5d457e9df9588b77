//! What we asked the provider to change, by idempotency key: written before it was asked, noted when it was answered, so that a crash
//! leaves a row that says what may have happened. The daemon hands this to the client; old rows are pruned.

use chrono::{DateTime, Utc};

use super::{
    Store,
    engine::{Batch, Row},
};
use crate::error::{Error, Result};

/// A call whose outcome nobody knows.
#[derive(Clone, Debug)]
pub struct OpenCall {
    pub key: String,
    pub path: String,
    pub attempts: i64,
    pub sent_at: DateTime<Utc>,
}

impl Store {
    /// Writes a call down before it is sent; a repetition counts. Errors: `conflict` with reason `idempotency_error` if the key was used for
    /// another path or another request (both are digests or paths, never bodies).
    pub async fn call_sent(&self, key: &str, path: &str, request: &str, now: DateTime<Utc>) -> Result<()> {
        let sql = "INSERT INTO provider_call (key, path, request, state, attempts, sent_at) VALUES (?1, ?2, ?3, 'sent', 1, ?4)
            ON CONFLICT (key) DO UPDATE SET attempts = provider_call.attempts + 1, sent_at = excluded.sent_at,
            state = CASE WHEN provider_call.status < 300 THEN provider_call.state ELSE 'sent' END
            WHERE provider_call.path = excluded.path AND provider_call.request = excluded.request";
        let params = vec![key.into(), path.into(), request.into(), now.into()];
        if self.engine.write(Batch::new().sql(sql, params)).await?.affected(0) == 1 {
            Ok(())
        } else {
            let say = format!("the idempotency key {key} was used for another request: nothing was sent");
            Err(Error::conflict("idempotency_error", say))
        }
    }

    /// Notes an answer; a good one is never replaced by a bad one.
    pub async fn call_answered(
        &self,
        key: &str,
        status: u16,
        request_id: Option<&str>,
        object_id: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let sql = "UPDATE provider_call SET state = 'answered', status = ?2, request_id = ?3, object_id = ?4, answered_at = ?5
            WHERE key = ?1 AND (status IS NULL OR status >= 300 OR ?2 < 300)";
        let params = vec![key.into(), i64::from(status).into(), request_id.into(), object_id.into(), now.into()];
        self.engine.write(Batch::new().sql(sql, params)).await.map(|_| ())
    }

    /// Calls sent before `before` that were never answered, oldest first.
    pub async fn unanswered_calls(&self, before: DateTime<Utc>, limit: i64) -> Result<Vec<OpenCall>> {
        let sql = "SELECT key, path, attempts, sent_at FROM provider_call WHERE state = 'sent' AND sent_at < ?1 ORDER BY sent_at LIMIT ?2";
        let row = |r: &Row| Ok(OpenCall { key: r.text(0)?.into(), path: r.text(1)?.into(), attempts: r.int(2)?, sent_at: r.time(3)? });
        self.engine.read(sql, vec![before.into(), limit.into()]).await?.iter().map(row).collect()
    }

    /// Forgets calls that were answered, or sent and never answered, before `before`; the provider has forgotten their keys long since.
    /// Answers how many.
    pub async fn prune_calls(&self, before: DateTime<Utc>) -> Result<u64> {
        let sql = "DELETE FROM provider_call WHERE sent_at < ?1 AND (state = 'sent' OR answered_at < ?1)";
        Ok(self.engine.write(Batch::new().sql(sql, vec![before.into()])).await?.affected(0))
    }
}
