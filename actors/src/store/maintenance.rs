//! Maintenance and corrections: entered and ended, never removed. Asked by the alert engine (who is to be left in peace now) and by the
//! service levels (which minutes do not count).

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    Store,
    engine::{Batch, Fact, Row},
};
use crate::{domain::maintenance::Maintenance, error::Result};

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, kind, service, systems, starts_at, ends_at, reason, author, created_at, ended_at, ended_by FROM maintenance ",
            $rest
        )
    };
}

impl Store {
    pub async fn put_maintenance(&self, new: &Maintenance, fact: Fact) -> Result<()> {
        let sql = "INSERT INTO maintenance (id, kind, service, systems, starts_at, ends_at, reason, author, created_at)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
        let params = vec![
            new.id.as_str().into(),
            new.kind.as_str().into(),
            new.service.as_str().into(),
            serde_json::to_string(&new.systems)?.into(),
            new.starts_at.into(),
            new.ends_at.into(),
            new.reason.as_str().into(),
            new.author.as_str().into(),
            new.created_at.into(),
        ];
        self.engine.write(Batch::new().sql(sql, params).journal(fact)).await.map(|_| ())
    }

    /// Ends one early, or withdraws a correction. False if it is not there or has ended.
    pub async fn end_maintenance(&self, id: &str, by: &str, now: DateTime<Utc>, fact: Fact) -> Result<bool> {
        let sql = "UPDATE maintenance SET ended_at = ?2, ended_by = ?3
            WHERE id = ?1 AND ended_at IS NULL AND (kind = 'correction' OR ends_at > ?2)";
        Ok(self.engine.write(Batch::new().guard(sql, vec![id.into(), now.into(), by.into()]).journal(fact)).await?.affected(0) == 1)
    }

    pub async fn maintenance(&self, id: &str) -> Result<Option<Maintenance>> {
        self.engine.read(select!("WHERE id = ?1"), vec![id.into()]).await?.first().map(row).transpose()
    }

    /// Of one kind, or of both (`kind` is empty), newest first: those that end or ended after `since`.
    pub async fn maintenances(&self, kind: &str, since: DateTime<Utc>, limit: i64) -> Result<Vec<Maintenance>> {
        let sql = select!("WHERE (?1 = '' OR kind = ?1) AND ends_at > ?2 ORDER BY starts_at DESC, id DESC LIMIT ?3");
        self.engine.read(sql, vec![kind.into(), since.into(), limit.into()]).await?.iter().map(row).collect()
    }

    /// Maintenance that is under way: whose alerts are to be kept quiet.
    pub async fn maintenance_at(&self, now: DateTime<Utc>) -> Result<Vec<Maintenance>> {
        let sql = select!("WHERE kind = 'maintenance' AND starts_at <= ?1 AND ends_at > ?1 AND ended_at IS NULL ORDER BY starts_at");
        self.engine.read(sql, vec![now.into()]).await?.iter().map(row).collect()
    }

    /// What does not count, of all services, as far as it is not older than `days`.
    pub async fn excluded_since(&self, now: DateTime<Utc>, days: i64) -> Result<Vec<Maintenance>> {
        let from = now - TimeDelta::try_days(days).unwrap_or(TimeDelta::zero());
        let sql = select!("WHERE ends_at > ?1 AND starts_at <= ?2 ORDER BY starts_at");
        self.engine.read(sql, vec![from.into(), now.into()]).await?.iter().map(row).collect()
    }
}

fn row(r: &Row) -> Result<Maintenance> {
    Ok(Maintenance {
        id: r.text(0)?.to_owned(),
        kind: r.text(1)?.to_owned(),
        service: r.text(2)?.to_owned(),
        systems: serde_json::from_value(r.json(3)?)?,
        starts_at: r.time(4)?,
        ends_at: r.time(5)?,
        reason: r.text(6)?.to_owned(),
        author: r.text(7)?.to_owned(),
        created_at: r.time(8)?,
        ended_at: r.opt_time(9)?,
        ended_by: r.opt_text(10)?,
    })
}
