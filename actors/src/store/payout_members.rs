//! The rows of payouts that will not change any more, so that the provider is asked for them once. Derived from the provider and of use to
//! nobody else: losing them costs a fetch.

use chrono::{DateTime, TimeDelta, Utc};

use super::{Store, engine::Batch};
use crate::error::Result;

/// Of payouts that no reconciliation looks at any more.
const KEPT_DAYS: i64 = 180;

impl Store {
    /// The packed members of a payout, if they were kept when the payout was in this very state.
    pub async fn payout_members(&self, payout: &str, state: &str) -> Result<Option<Vec<u8>>> {
        let sql = "SELECT members FROM payout_members WHERE payout = ?1 AND state = ?2";
        let rows = self.engine.read(sql, vec![payout.into(), state.into()]).await?;
        rows.first().map(|row| Ok(row.blob(0)?.to_vec())).transpose()
    }

    /// Keeps a payout's packed members in place of any it had, and forgets what is too old to be asked for.
    pub async fn keep_payout_members(&self, payout: &str, state: &str, at: DateTime<Utc>, members: Vec<u8>) -> Result<()> {
        let sql = "INSERT INTO payout_members (payout, state, fetched_at, members) VALUES (?1, ?2, ?3, ?4)
            ON CONFLICT (payout) DO UPDATE SET state = excluded.state, fetched_at = excluded.fetched_at, members = excluded.members";
        let old = at - TimeDelta::days(KEPT_DAYS);
        let batch = Batch::new()
            .sql(sql, vec![payout.into(), state.into(), at.into(), members.into()])
            .sql("DELETE FROM payout_members WHERE fetched_at < ?1", vec![old.into()]);
        self.engine.write(batch).await.map(|_| ())
    }
}
