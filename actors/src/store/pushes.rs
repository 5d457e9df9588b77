//! Jobs of the user's own that report to us: what each reported so far, and the last reports with their text.

use chrono::{DateTime, Utc};

use super::{
    Store,
    engine::{Batch, Row},
};
use crate::{domain::push::Reports, error::Result};

/// Reports kept of each job.
const KEPT: i64 = 1000;

/// A job with what it reported so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushRow {
    pub name: String,
    /// Counts the reports.
    pub n: i64,
    pub changed: DateTime<Utc>,
    pub reports: Reports,
}

/// One report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushPing {
    pub n: i64,
    pub at: DateTime<Utc>,
    /// `start`, `success`, `fail` or `log`.
    pub kind: String,
    pub run: Option<String>,
    pub exit_status: Option<u8>,
    pub duration_ms: Option<i64>,
    pub body: Option<String>,
}

impl Store {
    pub async fn push_checks(&self) -> Result<Vec<PushRow>> {
        self.engine.read("SELECT name, n, changed, reports FROM push_check ORDER BY name", vec![]).await?.iter().map(check).collect()
    }

    pub async fn push_check(&self, name: &str) -> Result<Option<PushRow>> {
        let sql = "SELECT name, n, changed, reports FROM push_check WHERE name = ?1";
        self.engine.read(sql, vec![name.into()]).await?.first().map(check).transpose()
    }

    /// Remembers when a job's setting was seen first; nothing changes if it is known.
    pub async fn see_push(&self, name: &str, now: DateTime<Utc>) -> Result<()> {
        let sql = "INSERT INTO push_check (name, n, changed, reports) VALUES (?1, 0, ?2, ?3) ON CONFLICT (name) DO NOTHING";
        let reports = serde_json::to_value(Reports::new(now))?;
        self.engine.write(Batch::new().sql(sql, vec![name.into(), now.into(), (&reports).into()])).await.map(|_| ())
    }

    /// Writes a report down with what it makes of the job; false if another came in between: look again.
    pub async fn push_reported(&self, before: &PushRow, after: &Reports, ping: &PushPing) -> Result<bool> {
        let update = "UPDATE push_check SET n = n + 1, changed = ?3, reports = ?4 WHERE name = ?1 AND n = ?2";
        let row = "INSERT INTO push_ping (name, at, kind, run, exit_status, duration_ms, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let old =
            "DELETE FROM push_ping WHERE name = ?1 AND n <= (SELECT n FROM push_ping WHERE name = ?1 ORDER BY n DESC LIMIT 1 OFFSET ?2)";
        let reports = serde_json::to_value(after)?;
        let name = before.name.as_str();
        let values = vec![
            name.into(),
            ping.at.into(),
            ping.kind.as_str().into(),
            ping.run.clone().into(),
            ping.exit_status.map(i64::from).into(),
            ping.duration_ms.into(),
            ping.body.clone().into(),
        ];
        let batch = Batch::new()
            .guard(update, vec![name.into(), before.n.into(), ping.at.into(), (&reports).into()])
            .sql(row, values)
            .sql(old, vec![name.into(), KEPT.into()]);
        Ok(self.engine.write(batch).await?.affected(0) == 1)
    }

    /// How many reports a job made since then.
    pub async fn pushes_since(&self, name: &str, since: DateTime<Utc>) -> Result<i64> {
        let sql = "SELECT COUNT(*) FROM push_ping WHERE name = ?1 AND at > ?2";
        self.engine.read(sql, vec![name.into(), since.into()]).await?.first().map_or(Ok(0), |r| r.int(0))
    }

    /// The last reports of a job, newest first, before the `before`th.
    pub async fn push_pings(&self, name: &str, before: i64, limit: i64) -> Result<Vec<PushPing>> {
        let sql =
            "SELECT n, at, kind, run, exit_status, duration_ms, body FROM push_ping WHERE name = ?1 AND n < ?2 ORDER BY n DESC LIMIT ?3";
        self.engine.read(sql, vec![name.into(), before.into(), limit.into()]).await?.iter().map(ping).collect()
    }

    /// Forgets a job that is not configured any more, and what it reported.
    pub async fn forget_push(&self, name: &str) -> Result<()> {
        let batch = Batch::new()
            .sql("DELETE FROM push_ping WHERE name = ?1", vec![name.into()])
            .sql("DELETE FROM push_check WHERE name = ?1", vec![name.into()]);
        self.engine.write(batch).await.map(|_| ())
    }
}

fn check(r: &Row) -> Result<PushRow> {
    Ok(PushRow { name: r.text(0)?.to_owned(), n: r.int(1)?, changed: r.time(2)?, reports: serde_json::from_str(r.text(3)?)? })
}

fn ping(r: &Row) -> Result<PushPing> {
    Ok(PushPing {
        n: r.int(0)?,
        at: r.time(1)?,
        kind: r.text(2)?.to_owned(),
        run: r.opt_text(3)?,
        exit_status: r.opt_int(4)?.and_then(|s| u8::try_from(s).ok()),
        duration_ms: r.opt_int(5)?,
        body: r.opt_text(6)?,
    })
}
