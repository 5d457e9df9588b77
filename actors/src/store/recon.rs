//! Reconciliation runs with their inputs, and the exceptions with when they were first and last seen.

use chrono::{DateTime, Utc};
use serde_json::Value as Json;

use super::{
    Store,
    engine::{Batch, Fact},
};
use crate::error::Result;

#[derive(Clone, Debug)]
pub struct ExceptionRow {
    pub id: String,
    pub kind: String,
    pub severity: String,
    /// `open`, `acknowledged`, `resolved` or `auto_resolved`.
    pub status: String,
    pub first_seen: DateTime<Utc>,
    pub last_seen: DateTime<Utc>,
    pub occurrences: i64,
    pub body: Json,
}

/// A finished reconciliation to be written down.
#[derive(Debug)]
pub struct NewRecon<'a> {
    pub run_id: &'a str,
    pub recon_id: &'a str,
    pub at: DateTime<Utc>,
    pub complete: bool,
    pub ok: bool,
    /// Both sides' inputs, compressed.
    pub inputs: Vec<u8>,
    pub report: &'a Json,
    /// (id, kind, severity, whole record).
    pub exceptions: Vec<(String, String, String, Json)>,
}

const UPSERT: &str = "INSERT INTO recon_exception (id, kind, severity, status, first_seen, last_seen, occurrences, run_id, body)
    VALUES (?1, ?2, ?3, 'open', ?4, ?4, 1, ?5, ?6)
    ON CONFLICT (id) DO UPDATE SET last_seen = excluded.last_seen, occurrences = recon_exception.occurrences + 1, severity = excluded.severity,
    run_id = excluded.run_id, body = excluded.body,
    status = CASE WHEN recon_exception.status IN ('auto_resolved', 'resolved') THEN 'open' ELSE recon_exception.status END";
/// What this run did not find any more is resolved by itself; an incomplete run resolves nothing.
const AUTO_RESOLVE: &str = "UPDATE recon_exception SET status = 'auto_resolved', last_seen = ?1 WHERE status IN ('open', 'acknowledged') AND run_id <> ?2 AND ?3 = 1";

impl Store {
    /// Keeps the run, opens and closes exceptions and journals the result, in one commit. Answers (new, auto-resolved).
    pub async fn record_recon(&self, recon: NewRecon<'_>, fact: Fact) -> Result<(u64, u64)> {
        let before = self.exceptions("open", i64::MAX).await?.len() + self.exceptions("acknowledged", i64::MAX).await?.len();
        let mut batch = Batch::new().guard(
            "INSERT INTO recon_run (run_id, recon_id, kind, at, complete, ok, inputs, report) VALUES (?1, ?2, 'payouts', ?3, ?4, ?5, ?6, ?7) ON CONFLICT (run_id) DO NOTHING",
            vec![
                recon.run_id.into(),
                recon.recon_id.into(),
                recon.at.into(),
                recon.complete.into(),
                recon.ok.into(),
                recon.inputs.into(),
                recon.report.into(),
            ],
        );
        let count = recon.exceptions.len();
        for (id, kind, severity, body) in &recon.exceptions {
            batch = batch.sql(UPSERT, vec![id.into(), kind.into(), severity.into(), recon.at.into(), recon.run_id.into(), body.into()]);
        }
        batch = batch.sql(AUTO_RESOLVE, vec![recon.at.into(), recon.run_id.into(), recon.complete.into()]).journal(fact);
        let resolved = self.engine.write(batch).await?.affected(count + 1);
        let after = self.exceptions("open", i64::MAX).await?.len() + self.exceptions("acknowledged", i64::MAX).await?.len();
        let new = (after as u64 + resolved).saturating_sub(before as u64);
        Ok((new, resolved))
    }

    /// Exceptions with `status` (empty: any), newest first.
    pub async fn exceptions(&self, status: &str, limit: i64) -> Result<Vec<ExceptionRow>> {
        let sql = "SELECT id, kind, severity, status, first_seen, last_seen, occurrences, body FROM recon_exception
            WHERE (?1 = '' OR status = ?1) ORDER BY first_seen DESC, id LIMIT ?2";
        let rows = self.engine.read(sql, vec![status.into(), limit.into()]).await?;
        rows.iter()
            .map(|r| {
                Ok(ExceptionRow {
                    id: r.text(0)?.to_owned(),
                    kind: r.text(1)?.to_owned(),
                    severity: r.text(2)?.to_owned(),
                    status: r.text(3)?.to_owned(),
                    first_seen: r.time(4)?,
                    last_seen: r.time(5)?,
                    occurrences: r.int(6)?,
                    body: r.json(7)?,
                })
            })
            .collect()
    }

    /// The newest reconciliation's report.
    pub async fn latest_recon(&self) -> Result<Option<Json>> {
        let rows = self.engine.read("SELECT report FROM recon_run ORDER BY n DESC LIMIT 1", vec![]).await?;
        rows.first().map(|r| r.json(0)).transpose()
    }
}
