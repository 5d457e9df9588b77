//! What is known of each archive, outside the archive, and every proof that it restores.

use chrono::{DateTime, Utc};
use serde_json::Value as Json;

use super::{
    Store,
    engine::{Batch, Fact, Row},
};
use crate::error::Result;

#[derive(Clone, Debug)]
pub struct BackupRow {
    /// `YYYY-MM-DD`.
    pub date: String,
    pub run_id: String,
    /// Logical path, e.g. `backups/daily/backup_2025-10-20.tar.gz`.
    pub archive: String,
    pub size_bytes: i64,
    pub files: i64,
    /// Of the archive's file, 64 hex digits.
    pub sha256: String,
    pub made_at: DateTime<Utc>,
    /// The latest proof of this archive: `{"state":"passed|failed|pending","at","error","restore_ms"}`.
    pub proof: Json,
    /// `ok`, or `partial`: something could not be archived whole.
    pub state: String,
    pub took_ms: i64,
    /// Bytes of the archived files together.
    pub content_bytes: i64,
    /// Bytes of the archive that were taken over from the one before.
    pub reused_bytes: i64,
    /// Of these, bytes that share their disk blocks with it.
    pub shared_bytes: i64,
    /// Of the table of contents; what the next archive believes it by.
    pub toc_sha256: String,
    pub encrypted: bool,
    /// Made without reusing anything.
    pub full: bool,
    /// `[{"path","what"}]`
    pub problems: Json,
    /// When retention removed the file, and why.
    pub gone_at: Option<DateTime<Utc>>,
    pub gone_why: Option<String>,
}

/// One proof of restore.
#[derive(Clone, Debug)]
pub struct ProofRow {
    /// Whose: `YYYY-MM-DD`.
    pub date: String,
    pub run_id: String,
    /// Of the archive that was proven.
    pub sha256: String,
    pub at: DateTime<Utc>,
    /// `passed` or `failed`.
    pub state: String,
    /// From the first byte read to the last check passed, milliseconds.
    pub restore_ms: i64,
    /// `[{"check","ok","evidence"}]`
    pub checks: Json,
    pub error: Option<String>,
}

impl Store {
    /// Puts the archive of a day in the place of an earlier one of that day. `proof` is written with it if there is one.
    pub async fn put_backup(&self, backup: &BackupRow, proof: Option<&ProofRow>, fact: Fact) -> Result<()> {
        let sql = "INSERT INTO backup (date, run_id, archive, size_bytes, files, sha256, made_at, proof, state, took_ms, content_bytes,
              reused_bytes, shared_bytes, toc_sha256, encrypted, is_full, problems, gone_at, gone_why)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, NULL, NULL)
            ON CONFLICT (date) DO UPDATE SET run_id = excluded.run_id, archive = excluded.archive, size_bytes = excluded.size_bytes,
            files = excluded.files, sha256 = excluded.sha256, made_at = excluded.made_at, proof = excluded.proof, state = excluded.state,
            took_ms = excluded.took_ms, content_bytes = excluded.content_bytes, reused_bytes = excluded.reused_bytes,
            shared_bytes = excluded.shared_bytes, toc_sha256 = excluded.toc_sha256, encrypted = excluded.encrypted, is_full = excluded.is_full,
            problems = excluded.problems, gone_at = NULL, gone_why = NULL";
        let params = vec![
            backup.date.as_str().into(),
            backup.run_id.as_str().into(),
            backup.archive.as_str().into(),
            backup.size_bytes.into(),
            backup.files.into(),
            backup.sha256.as_str().into(),
            backup.made_at.into(),
            (&backup.proof).into(),
            backup.state.as_str().into(),
            backup.took_ms.into(),
            backup.content_bytes.into(),
            backup.reused_bytes.into(),
            backup.shared_bytes.into(),
            backup.toc_sha256.as_str().into(),
            backup.encrypted.into(),
            backup.full.into(),
            (&backup.problems).into(),
        ];
        let mut batch = Batch::new().sql(sql, params);
        if let Some(proof) = proof {
            batch = with_proof(batch, proof);
        }
        self.engine.write(batch.journal(fact)).await.map(|_| ())
    }

    /// A later proof of an archive that is there already; `proof` is its new summary.
    pub async fn put_proof(&self, row: &ProofRow, proof: &Json, fact: Fact) -> Result<()> {
        let sql = "UPDATE backup SET proof = ?3 WHERE date = ?1 AND sha256 = ?2";
        let batch = Batch::new().sql(sql, vec![row.date.as_str().into(), row.sha256.as_str().into(), proof.into()]);
        self.engine.write(with_proof(batch, row).journal(fact)).await.map(|_| ())
    }

    /// Retention removed the file.
    pub async fn backup_gone(&self, date: &str, at: DateTime<Utc>, why: &str, fact: Fact) -> Result<()> {
        let sql = "UPDATE backup SET gone_at = ?2, gone_why = ?3 WHERE date = ?1 AND gone_at IS NULL";
        self.engine.write(Batch::new().sql(sql, vec![date.into(), at.into(), why.into()]).journal(fact)).await.map(|_| ())
    }

    /// Archives whose file is there, newest first.
    pub async fn backups(&self, limit: i64) -> Result<Vec<BackupRow>> {
        let sql = "SELECT date, run_id, archive, size_bytes, files, sha256, made_at, proof, state, took_ms, content_bytes, reused_bytes, shared_bytes,
            toc_sha256, encrypted, is_full, problems, gone_at, gone_why
            FROM backup WHERE gone_at IS NULL ORDER BY date DESC LIMIT ?1";
        let rows = self.engine.read(sql, vec![limit.into()]).await?;
        rows.iter().map(backup).collect()
    }

    /// The newest proofs that passed or failed, newest first.
    pub async fn proofs(&self, limit: i64) -> Result<Vec<ProofRow>> {
        let sql = "SELECT date, run_id, sha256, at, state, restore_ms, checks, error FROM backup_proof ORDER BY n DESC LIMIT ?1";
        self.engine.read(sql, vec![limit.into()]).await?.iter().map(proof).collect()
    }

    /// The newest proof that passed, however long ago.
    pub async fn last_passed_proof(&self) -> Result<Option<ProofRow>> {
        let sql = "SELECT date, run_id, sha256, at, state, restore_ms, checks, error FROM backup_proof WHERE state = 'passed' ORDER BY n DESC LIMIT 1";
        self.engine.read(sql, vec![]).await?.first().map(proof).transpose()
    }
}

fn with_proof(batch: Batch, proof: &ProofRow) -> Batch {
    let sql =
        "INSERT INTO backup_proof (date, run_id, sha256, at, state, restore_ms, checks, error) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let params = vec![
        proof.date.as_str().into(),
        proof.run_id.as_str().into(),
        proof.sha256.as_str().into(),
        proof.at.into(),
        proof.state.as_str().into(),
        proof.restore_ms.into(),
        (&proof.checks).into(),
        proof.error.clone().into(),
    ];
    batch.sql(sql, params)
}

fn backup(r: &Row) -> Result<BackupRow> {
    Ok(BackupRow {
        date: r.text(0)?.to_owned(),
        run_id: r.text(1)?.to_owned(),
        archive: r.text(2)?.to_owned(),
        size_bytes: r.int(3)?,
        files: r.int(4)?,
        sha256: r.text(5)?.to_owned(),
        made_at: r.time(6)?,
        proof: r.json(7)?,
        state: r.text(8)?.to_owned(),
        took_ms: r.int(9)?,
        content_bytes: r.int(10)?,
        reused_bytes: r.int(11)?,
        shared_bytes: r.int(12)?,
        toc_sha256: r.text(13)?.to_owned(),
        encrypted: r.int(14)? != 0,
        full: r.int(15)? != 0,
        problems: r.json(16)?,
        gone_at: r.opt_time(17)?,
        gone_why: r.opt_text(18)?,
    })
}

fn proof(r: &Row) -> Result<ProofRow> {
    Ok(ProofRow {
        date: r.text(0)?.to_owned(),
        run_id: r.text(1)?.to_owned(),
        sha256: r.text(2)?.to_owned(),
        at: r.time(3)?,
        state: r.text(4)?.to_owned(),
        restore_ms: r.int(5)?,
        checks: r.json(6)?,
        error: r.opt_text(7)?,
    })
}
