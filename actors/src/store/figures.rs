//! What the alert rules are judged on, read from the other areas' tables, and the observations that are kept of it.

use std::io::{Read as _, Write as _};

use chrono::{DateTime, Utc};

use super::{Store, engine::Batch};
use crate::{
    domain::alert_rule::Sample,
    error::{Error, Result},
};

/// The revenue of a time in one currency: minor units, and from how many payments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revenue {
    pub currency: String,
    pub amount_minor: i64,
    pub payments: i64,
}

impl Store {
    /// Webhook events whose processing failed since then, each once however often it did.
    pub async fn webhook_failures(&self, since: DateTime<Utc>) -> Result<i64> {
        let rows = self.engine.read("SELECT COUNT(*) FROM webhook_event WHERE failed_at >= ?1", vec![since.into()]).await?;
        rows.first().map_or(Ok(0), |row| row.int(0))
    }

    /// The newest time of the provider that any event carries, Unix seconds: as near to its clock as we get without asking.
    pub async fn newest_event_created(&self) -> Result<Option<i64>> {
        let rows = self.engine.read("SELECT MAX(created) FROM webhook_event", vec![]).await?;
        rows.first().map_or(Ok(None), |row| row.opt_int(0))
    }

    /// Payments that came about in a time of the provider (Unix seconds, the end not included): (succeeded, failed).
    pub async fn payments_between(&self, livemode: bool, from: i64, until: i64) -> Result<(i64, i64)> {
        let sql = "SELECT COALESCE(SUM(CASE WHEN event_type = 'charge.succeeded' THEN 1 ELSE 0 END), 0),
            COALESCE(SUM(CASE WHEN event_type = 'charge.failed' THEN 1 ELSE 0 END), 0)
            FROM webhook_event WHERE created >= ?1 AND created < ?2 AND livemode = ?3 AND event_type IN ('charge.succeeded', 'charge.failed')";
        let rows = self.engine.read(sql, vec![from.into(), until.into(), livemode.into()]).await?;
        rows.first().map_or(Ok((0, 0)), |row| Ok((row.int(0)?, row.int(1)?)))
    }

    /// What was charged in a time of the provider, by currency.
    pub async fn revenue_between(&self, livemode: bool, from: i64, until: i64) -> Result<Vec<Revenue>> {
        let sql = "SELECT currency, CAST(SUM(amount) AS BIGINT), COUNT(*) FROM ledger
            WHERE kind = 'charge' AND livemode = ?1 AND at >= ?2 AND at < ?3 AND corrects IS NULL GROUP BY currency ORDER BY currency";
        let rows = self.engine.read(sql, vec![livemode.into(), from.into(), until.into()]).await?;
        rows.iter().map(|r| Ok(Revenue { currency: r.text(0)?.to_owned(), amount_minor: r.int(1)?, payments: r.int(2)? })).collect()
    }

    /// Keeps what was measured at a moment, and forgets what was measured before `keep_from`.
    pub async fn put_observation(&self, at: DateTime<Utc>, samples: &[Sample], keep_from: DateTime<Utc>) -> Result<()> {
        let sql = "INSERT INTO observation (at, samples) VALUES (?1, ?2) ON CONFLICT (at) DO UPDATE SET samples = excluded.samples";
        let forget = "DELETE FROM observation WHERE at < ?1";
        let batch = Batch::new().sql(sql, vec![at.into(), packed(samples)?.into()]).sql(forget, vec![keep_from.into()]);
        self.engine.write(batch).await.map(drop)
    }

    /// What was measured from `from` on and before `until`, oldest first, `limit` at most.
    pub async fn observations(&self, from: DateTime<Utc>, until: DateTime<Utc>, limit: i64) -> Result<Vec<(DateTime<Utc>, Vec<Sample>)>> {
        let sql = "SELECT at, samples FROM observation WHERE at >= ?1 AND at < ?2 ORDER BY at LIMIT ?3";
        let rows = self.engine.read(sql, vec![from.into(), until.into(), limit.into()]).await?;
        rows.iter().map(|row| Ok((row.time(0)?, unpacked(row.blob(1)?)?))).collect()
    }

    /// When something was measured last.
    pub async fn newest_observation(&self) -> Result<Option<DateTime<Utc>>> {
        let rows = self.engine.read("SELECT MAX(at) FROM observation", vec![]).await?;
        rows.first().map_or(Ok(None), |row| row.opt_time(0))
    }
}

fn packed(samples: &[Sample]) -> Result<Vec<u8>> {
    let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    deflate.write_all(&serde_json::to_vec(samples)?)?;
    Ok(deflate.finish()?)
}

fn unpacked(bytes: &[u8]) -> Result<Vec<Sample>> {
    let mut text = Vec::new();
    let damaged = |error: std::io::Error| Error::internal(format!("an observation cannot be read: {error}"));
    flate2::read::DeflateDecoder::new(bytes).read_to_end(&mut text).map_err(damaged)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn observations_come_back_as_they_were_and_old_ones_go() {
        let fixture = testing::fixture("2026-03-01T12:00:00Z");
        let (store, now) = (fixture.env.store(), fixture.env.now());
        let samples =
            |n: f64| vec![Sample::new("cpu_percent", Some(n)), Sample::new("disk_percent", None).label("mount", "/").words("gone")];
        let minutes = chrono::TimeDelta::minutes;
        for n in 0..4 {
            store.put_observation(now + minutes(5 * n), &samples(10.0), now + minutes(5)).await.unwrap();
        }
        store.put_observation(now + minutes(15), &samples(99.5), now).await.unwrap();
        let kept = store.observations(now, now + minutes(60), 100).await.unwrap();
        assert_eq!(kept.iter().map(|(at, _)| (*at - now).num_minutes()).collect::<Vec<_>>(), [5, 10, 15]);
        assert_eq!(kept[2].1, samples(99.5), "made again, it is the newer one");
        assert_eq!(store.newest_observation().await.unwrap(), Some(now + minutes(15)));
        assert_eq!(store.observations(now, now + minutes(15), 1).await.unwrap().len(), 1);
    }
}
