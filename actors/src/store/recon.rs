//! Reconciliation runs with their inputs, and the exceptions: when they were first and last seen, and what a person decided about them.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value as Json;

use super::{
    Store,
    engine::{Batch, Fact, Row},
};
use crate::error::Result;

/// Runs older than this are forgotten with both their sides; the archives stay.
const KEPT_DAYS: i64 = 180;

#[derive(Clone, Debug)]
pub struct ExceptionRow {
    pub id: String,
    /// `payouts` or `finance`.
    pub scope: String,
    pub kind: String,
    pub severity: String,
    /// `open`, `acknowledged`, `resolved` or `auto_resolved`.
    pub status: String,
    pub first_seen: DateTime<Utc>,
    pub last_seen: DateTime<Utc>,
    pub occurrences: i64,
    pub currency: String,
    /// Money at risk, minor units of `currency`.
    pub risk: i64,
    pub decided_at: Option<DateTime<Utc>>,
    pub decided_by: Option<String>,
    /// Why it was acknowledged or resolved.
    pub decision: Option<String>,
    pub body: Json,
}

/// One exception of a run.
#[derive(Clone, Debug)]
pub struct Finding {
    pub id: String,
    pub kind: &'static str,
    pub severity: &'static str,
    pub currency: String,
    /// Money at risk, minor units of `currency`.
    pub risk: i64,
    /// What both sides said: a person's decision holds as long as this does.
    pub sides: String,
    pub body: Json,
}

/// A finished reconciliation to be written down.
#[derive(Debug)]
pub struct NewRecon<'a> {
    /// `payouts` or `finance`.
    pub scope: &'static str,
    pub run_id: &'a str,
    pub recon_id: &'a str,
    pub at: DateTime<Utc>,
    pub complete: bool,
    pub ok: bool,
    /// Both sides' inputs, compressed.
    pub inputs: Vec<u8>,
    pub report: &'a Json,
    pub findings: Vec<Finding>,
    /// Ids of exceptions that this run would have found and did not.
    pub gone: Vec<String>,
}

/// Which exceptions to list; empty text means any.
#[derive(Clone, Debug, Default)]
pub struct ExceptionFilter {
    pub scope: String,
    pub status: String,
    pub kind: String,
    /// Of one payout.
    pub payout: String,
}

/// What is known of a day's archive.
#[derive(Clone, Debug)]
pub struct ArchiveRow {
    /// `YYYY-MM-DD`.
    pub date: String,
    /// `provisional` or `final`.
    pub state: String,
    pub sha256: String,
    /// Of the version it replaced.
    pub previous_sha256: Option<String>,
    pub made_at: DateTime<Utc>,
    pub run_id: String,
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, scope, kind, severity, status, first_seen, last_seen, occurrences, currency, risk, decided_at, decided_by, decision, body FROM recon_exception ",
            $rest
        )
    };
}

/// What was decided by a person is open again when either side says something else; what resolved by itself, when it is back. Either way
/// nothing is decided about it any more.
const UPSERT: &str =
    "INSERT INTO recon_exception (id, scope, kind, severity, status, first_seen, last_seen, occurrences, run_id, currency, risk, sides, body)
    VALUES (?1, ?2, ?3, ?4, 'open', ?5, ?5, 1, ?6, ?7, ?8, ?9, ?10)
    ON CONFLICT (id) DO UPDATE SET last_seen = excluded.last_seen, occurrences = recon_exception.occurrences + 1, severity = excluded.severity,
    run_id = excluded.run_id, body = excluded.body, currency = excluded.currency, risk = excluded.risk, sides = excluded.sides";
const AGAIN: &str = "UPDATE recon_exception SET status = 'open', decided_at = NULL, decided_by = NULL, decision = NULL
    WHERE id = ?1 AND status <> 'open' AND (status = 'auto_resolved' OR sides <> ?2)";
const GONE: &str = "UPDATE recon_exception SET status = 'auto_resolved', decided_at = ?2, decided_by = ?3, decision = 'not found any more'
    WHERE id = ?1 AND status IN ('open', 'acknowledged')";

/// A run with what it was made from.
#[derive(Clone, Debug)]
pub struct KeptRecon {
    pub run_id: String,
    pub report: Json,
    /// Both sides' inputs, compressed.
    pub inputs: Vec<u8>,
}

impl Store {
    /// Keeps the run, opens and closes exceptions and journals the result, in one commit. Answers (new or open again, auto-resolved).
    pub async fn record_recon(&self, recon: NewRecon<'_>, fact: Fact) -> Result<(usize, usize)> {
        let before: std::collections::HashSet<String> = self.open_exceptions(recon.scope).await?.into_iter().map(|e| e.id).collect();
        let mut batch = Batch::new().guard(
            "INSERT INTO recon_run (run_id, recon_id, kind, at, complete, ok, inputs, report) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (run_id) DO NOTHING",
            vec![
                recon.run_id.into(),
                recon.recon_id.into(),
                recon.scope.into(),
                recon.at.into(),
                recon.complete.into(),
                recon.ok.into(),
                recon.inputs.into(),
                recon.report.into(),
            ],
        );
        for finding in &recon.findings {
            let params = vec![
                finding.id.as_str().into(),
                recon.scope.into(),
                finding.kind.into(),
                finding.severity.into(),
                recon.at.into(),
                recon.run_id.into(),
                finding.currency.as_str().into(),
                finding.risk.into(),
                finding.sides.as_str().into(),
                (&finding.body).into(),
            ];
            let again = vec![finding.id.as_str().into(), finding.sides.as_str().into()];
            batch = batch.sql(AGAIN, again).sql(UPSERT, params);
        }
        for id in &recon.gone {
            batch = batch.sql(GONE, vec![id.as_str().into(), recon.at.into(), recon.run_id.into()]);
        }
        let old = vec![recon.scope.into(), (recon.at - TimeDelta::days(KEPT_DAYS)).into()];
        batch = batch.sql("DELETE FROM recon_run WHERE kind = ?1 AND at < ?2", old);
        self.engine.write(batch.journal(fact)).await?;
        let after = self.open_exceptions(recon.scope).await?;
        Ok((after.iter().filter(|e| !before.contains(&e.id)).count(), recon.gone.len()))
    }

    /// Exceptions of a scope that are open or acknowledged.
    pub async fn open_exceptions(&self, scope: &str) -> Result<Vec<ExceptionRow>> {
        let sql = select!("WHERE scope = ?1 AND status IN ('open', 'acknowledged') ORDER BY first_seen, id");
        self.engine.read(sql, vec![scope.into()]).await?.iter().map(exception_row).collect()
    }

    /// Exceptions, the worst first, of these the newest.
    pub async fn exceptions(&self, filter: &ExceptionFilter) -> Result<Vec<ExceptionRow>> {
        let sql = select!(
            "WHERE (?1 = '' OR scope = ?1) AND (?2 = '' OR status = ?2) AND (?3 = '' OR kind = ?3) AND (?4 = '' OR body ->> 'payout_id' = ?4)
             ORDER BY CASE severity WHEN 'high' THEN 0 WHEN 'medium' THEN 1 ELSE 2 END, first_seen DESC, id"
        );
        let params = [&filter.scope, &filter.status, &filter.kind, &filter.payout].map(|text| text.as_str().into()).into();
        self.engine.read(sql, params).await?.iter().map(exception_row).collect()
    }

    pub async fn exception(&self, id: &str) -> Result<Option<ExceptionRow>> {
        self.engine.read(select!("WHERE id = ?1"), vec![id.into()]).await?.first().map(exception_row).transpose()
    }

    /// A person's decision; false if the exception was not in one of the states `from` (at most three) any more.
    pub async fn decide_exception(&self, id: &str, from: &[&str], to: &str, by: &str, why: &str, fact: Fact) -> Result<bool> {
        let sql = "UPDATE recon_exception SET status = ?2, decided_at = ?3, decided_by = ?4, decision = ?5
            WHERE id = ?1 AND status IN (?6, ?7, ?8)";
        let state = |n: usize| from.get(n).copied().unwrap_or_default().into();
        let params = vec![id.into(), to.into(), fact.at.into(), by.into(), why.into(), state(0), state(1), state(2)];
        Ok(self.engine.write(Batch::new().guard(sql, params).journal(fact)).await?.affected(0) == 1)
    }

    /// The newest report of a scope.
    pub async fn latest_recon(&self, scope: &str) -> Result<Option<Json>> {
        let rows = self.engine.read("SELECT report FROM recon_run WHERE kind = ?1 ORDER BY n DESC LIMIT 1", vec![scope.into()]).await?;
        rows.first().map(|r| r.json(0)).transpose()
    }

    /// The newest report of a scope with both sides' compressed inputs.
    pub async fn latest_recon_inputs(&self, scope: &str) -> Result<Option<(Json, Vec<u8>)>> {
        let sql = "SELECT report, inputs FROM recon_run WHERE kind = ?1 ORDER BY n DESC LIMIT 1";
        let rows = self.engine.read(sql, vec![scope.into()]).await?;
        rows.first().map(|r| Ok((r.json(0)?, r.blob(1)?.to_vec()))).transpose()
    }

    /// The newest complete run of a scope from before that time; if there is none, the newest at all.
    pub async fn recon_before(&self, scope: &str, at: DateTime<Utc>) -> Result<Option<KeptRecon>> {
        let sql = "SELECT run_id, report, inputs FROM recon_run WHERE kind = ?1 AND complete = 1
            ORDER BY CASE WHEN at < ?2 THEN 0 ELSE 1 END, n DESC LIMIT 1";
        let rows = self.engine.read(sql, vec![scope.into(), at.into()]).await?;
        let kept = |r: &Row| Ok(KeptRecon { run_id: r.text(0)?.to_owned(), report: r.json(1)?, inputs: r.blob(2)?.to_vec() });
        rows.first().map(kept).transpose()
    }

    /// The report of one run.
    pub async fn recon_report(&self, run_id: &str) -> Result<Option<Json>> {
        let rows = self.engine.read("SELECT report FROM recon_run WHERE run_id = ?1", vec![run_id.into()]).await?;
        rows.first().map(|r| r.json(0)).transpose()
    }

    pub async fn put_archive(&self, row: &ArchiveRow, fact: Fact) -> Result<()> {
        let sql = "INSERT INTO recon_archive (date, state, sha256, previous_sha256, made_at, run_id) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
            ON CONFLICT (date) DO UPDATE SET state = excluded.state, sha256 = excluded.sha256, previous_sha256 = excluded.previous_sha256,
            made_at = excluded.made_at, run_id = excluded.run_id";
        let params = vec![
            row.date.as_str().into(),
            row.state.as_str().into(),
            row.sha256.as_str().into(),
            row.previous_sha256.clone().into(),
            row.made_at.into(),
            row.run_id.as_str().into(),
        ];
        self.engine.write(Batch::new().sql(sql, params).journal(fact)).await.map(|_| ())
    }

    pub async fn archive(&self, date: &str) -> Result<Option<ArchiveRow>> {
        let sql = "SELECT date, state, sha256, previous_sha256, made_at, run_id FROM recon_archive WHERE date = ?1";
        self.engine.read(sql, vec![date.into()]).await?.first().map(archive_row).transpose()
    }

    /// Archives that were made at night only, oldest first, of days from `from` on.
    pub async fn provisional_archives(&self, from: &str) -> Result<Vec<ArchiveRow>> {
        let sql = "SELECT date, state, sha256, previous_sha256, made_at, run_id FROM recon_archive
            WHERE state = 'provisional' AND date >= ?1 ORDER BY date";
        self.engine.read(sql, vec![from.into()]).await?.iter().map(archive_row).collect()
    }
}

fn archive_row(row: &Row) -> Result<ArchiveRow> {
    Ok(ArchiveRow {
        date: row.text(0)?.to_owned(),
        state: row.text(1)?.to_owned(),
        sha256: row.text(2)?.to_owned(),
        previous_sha256: row.opt_text(3)?,
        made_at: row.time(4)?,
        run_id: row.text(5)?.to_owned(),
    })
}

fn exception_row(row: &Row) -> Result<ExceptionRow> {
    Ok(ExceptionRow {
        id: row.text(0)?.to_owned(),
        scope: row.text(1)?.to_owned(),
        kind: row.text(2)?.to_owned(),
        severity: row.text(3)?.to_owned(),
        status: row.text(4)?.to_owned(),
        first_seen: row.time(5)?,
        last_seen: row.time(6)?,
        occurrences: row.int(7)?,
        currency: row.text(8)?.to_owned(),
        risk: row.int(9)?,
        decided_at: row.opt_time(10)?,
        decided_by: row.opt_text(11)?,
        decision: row.opt_text(12)?,
        body: row.json(13)?,
    })
}
