//! Minutes of the service levels: exact counters and a mergeable histogram per service, folded into hours after three days. Only the slo
//! actor writes them. The latest result of each probe is here too.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};
use serde_json::Value as Json;

use super::{
    Store,
    engine::{Batch, Row, Value},
};
use crate::{
    domain::slo::{Counts, Histogram, Minute, Track, hour_of, pack},
    error::{Error, Result},
};

const UPSERT: &str = "INSERT INTO slo_minute (service, minute, total, bad, slow, latency) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
    ON CONFLICT (service, minute) DO UPDATE SET total = excluded.total, bad = excluded.bad, slow = excluded.slow, latency = excluded.latency";
const FOLD: &str = "INSERT INTO slo_hour (service, hour, counters, latency) VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (service, hour) DO UPDATE SET counters = excluded.counters, latency = excluded.latency";

/// The latest result of a probe.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeRow {
    pub name: String,
    /// `up`, `down` or `unknown`.
    pub state: String,
    pub at: DateTime<Utc>,
    pub changed_at: DateTime<Utc>,
    pub body: Json,
}

impl Store {
    /// Replaces these minutes of each service (the slo actor holds their sums), in one commit.
    pub async fn put_minutes(&self, minutes: &[(Arc<str>, Minute)]) -> Result<()> {
        let mut batch = Batch::new();
        for (service, m) in minutes {
            let params =
                vec![service.clone().into(), m.minute.into(), count(m.total), count(m.bad), count(m.slow), m.latency.encode().into()];
            batch = batch.sql(UPSERT, params);
        }
        self.engine.write(batch).await.map(|_| ())
    }

    /// The row of one minute: what is not folded of it.
    pub async fn minute(&self, service: &str, minute: i64) -> Result<Option<Minute>> {
        let sql = "SELECT minute, total, bad, slow, latency FROM slo_minute WHERE service = ?1 AND minute = ?2";
        self.engine.read(sql, vec![service.into(), minute.into()]).await?.first().map(minute_row).transpose()
    }

    /// Services of which there are minutes.
    pub async fn services(&self) -> Result<Vec<String>> {
        let sql = "SELECT service FROM slo_minute UNION SELECT service FROM slo_hour ORDER BY 1";
        self.engine.read(sql, vec![]).await?.iter().map(|row| row.text(0).map(str::to_owned)).collect()
    }

    /// Everything of a service since the hour of minute `from`; latencies since minute `latency_from` only.
    pub async fn track(&self, service: &str, from: i64, latency_from: i64) -> Result<Track> {
        let mut track = Track::new();
        let sql = "SELECT hour, counters FROM slo_hour WHERE service = ?1 AND hour >= ?2";
        for row in self.engine.read(sql, vec![service.into(), hour_of(from).into()]).await? {
            track.put_hour(row.int(0)?, row.blob(1)?).map_err(Error::internal)?;
        }
        let from = hour_of(from).saturating_mul(60);
        let sql = "SELECT minute, total, bad, slow FROM slo_minute WHERE service = ?1 AND minute >= ?2 AND minute < ?3";
        for row in self.engine.read(sql, vec![service.into(), from.into(), latency_from.into()]).await? {
            let Counts { minute, total, bad, slow } = counts_row(&row)?;
            track.add(&Minute { minute, total, bad, slow, latency: Histogram::new() });
        }
        let sql = "SELECT minute, total, bad, slow, latency FROM slo_minute WHERE service = ?1 AND minute >= ?2";
        for row in self.engine.read(sql, vec![service.into(), from.max(latency_from).into()]).await? {
            track.add(&minute_row(&row)?);
        }
        Ok(track)
    }

    /// Latencies of a service in the minutes [from, to): (first minute, minutes, histogram) of each minute, or hour where it is folded.
    pub async fn latencies(&self, service: &str, from: i64, to: i64) -> Result<Vec<(i64, i64, Histogram)>> {
        let sql = "SELECT hour * 60, 60, latency FROM slo_hour WHERE service = ?1 AND hour * 60 >= ?2 AND hour * 60 < ?3
            UNION ALL SELECT minute, 1, latency FROM slo_minute WHERE service = ?1 AND minute >= ?2 AND minute < ?3 ORDER BY 1";
        let rows = self.engine.read(sql, vec![service.into(), from.into(), to.into()]).await?;
        rows.iter().map(|r| Ok((r.int(0)?, r.int(1)?, Histogram::decode(r.blob(2)?).map_err(Error::internal)?))).collect()
    }

    /// Moves the minutes of hours that ended before minute `before` into their hours; answers how many. Each hour is one commit: a crash
    /// in between counts nothing twice.
    pub async fn fold_minutes(&self, before: i64) -> Result<usize> {
        let before = hour_of(before).saturating_mul(60);
        let sql = "SELECT DISTINCT service FROM slo_minute WHERE minute < ?1";
        let services = self.engine.read(sql, vec![before.into()]).await?;
        let mut folded = 0;
        for service in &services {
            let service = service.text(0)?;
            let sql = "SELECT minute, total, bad, slow, latency FROM slo_minute WHERE service = ?1 AND minute < ?2 ORDER BY minute";
            let mut hours: BTreeMap<i64, Vec<Minute>> = BTreeMap::new();
            for row in self.engine.read(sql, vec![service.into(), before.into()]).await? {
                let minute = minute_row(&row)?;
                hours.entry(hour_of(minute.minute)).or_default().push(minute);
            }
            for (hour, minutes) in hours {
                folded += minutes.len();
                self.fold_hour(service, hour, &minutes).await?;
            }
        }
        Ok(folded)
    }

    async fn fold_hour(&self, service: &str, hour: i64, minutes: &[Minute]) -> Result<()> {
        let sql = "SELECT counters, latency FROM slo_hour WHERE service = ?1 AND hour = ?2";
        let known = self.engine.read(sql, vec![service.into(), hour.into()]).await?;
        let (mut track, mut latency) = (Track::new(), Histogram::new());
        if let Some(row) = known.first() {
            track.put_hour(hour, row.blob(0)?).map_err(Error::internal)?;
            latency = Histogram::decode(row.blob(1)?).map_err(Error::internal)?;
        }
        for minute in minutes {
            track.add(minute);
            latency.merge(&minute.latency);
        }
        let (from, to) = (hour * 60, hour * 60 + 60);
        let counts: Vec<Counts> = track.counts(from, to).collect();
        let batch = Batch::new().sql(FOLD, vec![service.into(), hour.into(), pack(&counts).into(), latency.encode().into()]).sql(
            "DELETE FROM slo_minute WHERE service = ?1 AND minute >= ?2 AND minute < ?3",
            vec![service.into(), from.into(), to.into()],
        );
        self.engine.write(batch).await.map(|_| ())
    }

    /// Forgets minutes before `before`.
    pub async fn prune_minutes(&self, before: i64) -> Result<()> {
        let batch = Batch::new()
            .sql("DELETE FROM slo_minute WHERE minute < ?1", vec![before.into()])
            .sql("DELETE FROM slo_hour WHERE hour < ?1", vec![hour_of(before).into()]);
        self.engine.write(batch).await.map(|_| ())
    }

    /// Keeps a probe's result; `changed_at` moves when the state is another one.
    pub async fn put_probe(&self, name: &str, state: &str, at: DateTime<Utc>, body: &Json) -> Result<()> {
        let sql = "INSERT INTO probe (name, state, at, changed_at, body) VALUES (?1, ?2, ?3, ?3, ?4)
            ON CONFLICT (name) DO UPDATE SET changed_at = CASE WHEN probe.state = excluded.state THEN probe.changed_at ELSE excluded.at END,
            state = excluded.state, at = excluded.at, body = excluded.body";
        self.engine.write(Batch::new().sql(sql, vec![name.into(), state.into(), at.into(), body.into()])).await.map(|_| ())
    }

    pub async fn probes(&self) -> Result<Vec<ProbeRow>> {
        let rows = self.engine.read("SELECT name, state, at, changed_at, body FROM probe ORDER BY name", vec![]).await?;
        rows.iter()
            .map(|r| {
                Ok(ProbeRow {
                    name: r.text(0)?.to_owned(),
                    state: r.text(1)?.to_owned(),
                    at: r.time(2)?,
                    changed_at: r.time(3)?,
                    body: r.json(4)?,
                })
            })
            .collect()
    }
}

fn counts_row(row: &Row) -> Result<Counts> {
    let number = |i| row.int(i).map(|v| u64::try_from(v).unwrap_or_default());
    Ok(Counts { minute: row.int(0)?, total: number(1)?, bad: number(2)?, slow: number(3)? })
}

fn minute_row(row: &Row) -> Result<Minute> {
    let Counts { minute, total, bad, slow } = counts_row(row)?;
    Ok(Minute { minute, total, bad, slow, latency: Histogram::decode(row.blob(4)?).map_err(Error::internal)? })
}

fn count(n: u64) -> Value {
    i64::try_from(n).unwrap_or(i64::MAX).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn folded_minutes_are_those_that_were_recorded_and_late_ones_are_added() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("echopilot.db"), "test").unwrap();
        let service: Arc<str> = "push:shop".into();
        let minute = |at: i64, n: u64, us: u64| {
            let mut minute = Minute::new(at);
            minute.record_many(us, false, 1, n);
            minute.record_many(us, true, 1, 1);
            minute
        };
        let rows: Vec<_> = (0..180).map(|at| (service.clone(), minute(at, 3, 2000))).collect();
        store.put_minutes(&rows).await.unwrap();
        let before: Vec<Counts> = store.track("push:shop", 0, 0).await.unwrap().counts(0, 1000).collect();
        assert_eq!(store.fold_minutes(130).await.unwrap(), 120);
        assert_eq!(store.track("push:shop", 0, 0).await.unwrap().counts(0, 1000).collect::<Vec<_>>(), before);
        // One more comes late, for an hour that is folded, and is folded in turn.
        store.put_minutes(&[(service.clone(), minute(61, 5, 900_000))]).await.unwrap();
        for _ in 0..2 {
            let track = store.track("push:shop", 0, 150).await.unwrap();
            let late = track.minute(61).unwrap();
            assert_eq!((late.total, late.bad, late.slow), (10, 2, 8));
            let latencies = store.latencies("push:shop", 0, 180).await.unwrap();
            assert_eq!(latencies.iter().map(|(.., h)| h.count()).sum::<u64>(), 545);
            assert_eq!(latencies[0].1, 60);
            store.fold_minutes(130).await.unwrap();
        }
        assert_eq!(store.services().await.unwrap(), ["push:shop"]);
        store.prune_minutes(120).await.unwrap();
        assert_eq!(store.track("push:shop", 0, 0).await.unwrap().counts(0, 1000).count(), 60);
    }

    #[tokio::test]
    async fn a_probe_remembers_since_when_it_is_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("echopilot.db"), "test").unwrap();
        let at = |s| DateTime::from_timestamp(s, 0).unwrap();
        for (state, when) in [("up", 10), ("up", 20), ("down", 30), ("down", 40)] {
            store.put_probe("shop", state, at(when), &serde_json::json!({"reason": state})).await.unwrap();
        }
        let rows = store.probes().await.unwrap();
        assert_eq!((rows[0].state.as_str(), rows[0].at, rows[0].changed_at), ("down", at(40), at(30)));
    }
}
