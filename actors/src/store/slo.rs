//! Minutes of the service level: exact counters and a mergeable histogram per service.

use super::{Store, engine::Batch};
use crate::{
    domain::slo::{Histogram, Minute},
    error::Result,
};

const UPSERT: &str = "INSERT INTO slo_minute (service, minute, total, bad, slow, latency) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
    ON CONFLICT (service, minute) DO UPDATE SET total = excluded.total, bad = excluded.bad, slow = excluded.slow, latency = excluded.latency";

impl Store {
    /// Replaces these minutes of each service (the slo actor holds their sums), in one commit.
    pub async fn put_minutes(&self, minutes: &[(&'static str, Minute)]) -> Result<()> {
        let mut batch = Batch::new();
        for (service, m) in minutes {
            let params = vec![(*service).into(), m.minute.into(), count(m.total), count(m.bad), count(m.slow), m.latency.encode().into()];
            batch = batch.sql(UPSERT, params);
        }
        self.engine.write(batch).await.map(|_| ())
    }

    /// Minutes from `from` on, oldest first.
    pub async fn minutes(&self, service: &str, from: i64) -> Result<Vec<Minute>> {
        let sql = "SELECT minute, total, bad, slow, latency FROM slo_minute WHERE service = ?1 AND minute >= ?2 ORDER BY minute";
        let rows = self.engine.read(sql, vec![service.into(), from.into()]).await?;
        rows.iter()
            .map(|r| {
                let latency = Histogram::decode(r.blob(4)?).map_err(crate::error::Error::internal)?;
                let number = |i| r.int(i).map(|v| u64::try_from(v).unwrap_or_default());
                Ok(Minute { minute: r.int(0)?, total: number(1)?, bad: number(2)?, slow: number(3)?, latency })
            })
            .collect()
    }

    /// Forgets minutes before `before`.
    pub async fn prune_minutes(&self, before: i64) -> Result<()> {
        self.engine.write(Batch::new().sql("DELETE FROM slo_minute WHERE minute < ?1", vec![before.into()])).await.map(|_| ())
    }
}

fn count(n: u64) -> super::engine::Value {
    i64::try_from(n).unwrap_or(i64::MAX).into()
}
