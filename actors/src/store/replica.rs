//! What is at the second target and how far an upload came, the heads of the journal's chains that a checkpoint records, and what
//! is known of every archive there ever was.

use chrono::{DateTime, Utc};
use serde_json::Value as Json;

use super::{
    Chain, Store,
    engine::{Batch, Fact, Row},
};
use crate::error::Result;

/// One object at the second target.
#[derive(Clone, Debug)]
pub struct ReplicaRow {
    /// `replica.url`.
    pub target: String,
    pub name: String,
    /// Of the local file, 64 hex digits.
    pub sha256: String,
    pub size_bytes: i64,
    /// `uploading`, `verified` (read back and compared), `failed` or `removed`.
    pub state: String,
    /// How far an upload came, for the next to go on.
    pub upload: Option<Json>,
    pub attempts: i64,
    pub started_at: DateTime<Utc>,
    pub verified_at: Option<DateTime<Utc>>,
    pub error: Option<String>,
}

/// An archive that is, or was, in the local folder.
#[derive(Clone, Debug)]
pub struct KnownBackup {
    /// `YYYY-MM-DD`.
    pub date: String,
    /// Logical path.
    pub archive: String,
    pub size_bytes: i64,
    pub sha256: String,
    pub made_at: DateTime<Utc>,
    /// Of its last proof: `passed`, `failed` or `pending`.
    pub proof: String,
    /// When that proof was made, RFC 3339.
    pub proof_at: Option<String>,
    /// Something could not be archived whole.
    pub partial: bool,
    /// When retention removed the file.
    pub gone_at: Option<DateTime<Utc>>,
}

impl Store {
    /// Writes down the state of an object.
    pub async fn put_replica(&self, row: &ReplicaRow, fact: Option<Fact>) -> Result<()> {
        let sql = "INSERT INTO replica_object (target, name, sha256, size_bytes, state, upload, attempts, started_at, verified_at, error)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
            ON CONFLICT (target, name) DO UPDATE SET sha256 = excluded.sha256, size_bytes = excluded.size_bytes, state = excluded.state,
            upload = excluded.upload, attempts = excluded.attempts, started_at = excluded.started_at, verified_at = excluded.verified_at,
            error = excluded.error";
        let params = vec![
            row.target.as_str().into(),
            row.name.as_str().into(),
            row.sha256.as_str().into(),
            row.size_bytes.into(),
            row.state.as_str().into(),
            row.upload.as_ref().into(),
            row.attempts.into(),
            row.started_at.into(),
            row.verified_at.into(),
            row.error.clone().into(),
        ];
        let batch = Batch::new().sql(sql, params);
        self.engine.write(fact.into_iter().fold(batch, Batch::journal)).await.map(|_| ())
    }

    /// Every object of a target that was ever there, by name.
    pub async fn replica_objects(&self, target: &str) -> Result<Vec<ReplicaRow>> {
        let sql = "SELECT target, name, sha256, size_bytes, state, upload, attempts, started_at, verified_at, error
            FROM replica_object WHERE target = ?1 ORDER BY name";
        self.engine.read(sql, vec![target.into()]).await?.iter().map(replica_row).collect()
    }

    /// One of them.
    pub async fn replica_object(&self, target: &str, name: &str) -> Result<Option<ReplicaRow>> {
        let sql = "SELECT target, name, sha256, size_bytes, state, upload, attempts, started_at, verified_at, error
            FROM replica_object WHERE target = ?1 AND name = ?2";
        self.engine.read(sql, vec![target.into(), name.into()]).await?.first().map(replica_row).transpose()
    }

    /// The end of every chain of the journal, as its head row has it: what a checkpoint records. Nothing is verified here.
    pub async fn journal_heads(&self) -> Result<Vec<Chain>> {
        let rows = self.engine.read("SELECT writer, seq, hash FROM journal_head ORDER BY writer", vec![]).await?;
        rows.iter().map(|r| Ok(Chain { writer: r.text(0)?.to_owned(), entries: r.int(1)?, root: crate::files::hex(r.blob(2)?) })).collect()
    }

    /// Every archive that was ever made, by date, those that retention removed among them.
    pub async fn known_backups(&self) -> Result<Vec<KnownBackup>> {
        let sql = "SELECT date, archive, size_bytes, sha256, made_at, proof, state, gone_at FROM backup ORDER BY date";
        self.engine.read(sql, vec![]).await?.iter().map(known_backup).collect()
    }
}

fn replica_row(r: &Row) -> Result<ReplicaRow> {
    let upload = r.opt_text(5)?.map(|text| serde_json::from_str(&text)).transpose()?;
    Ok(ReplicaRow {
        target: r.text(0)?.to_owned(),
        name: r.text(1)?.to_owned(),
        sha256: r.text(2)?.to_owned(),
        size_bytes: r.int(3)?,
        state: r.text(4)?.to_owned(),
        upload,
        attempts: r.int(6)?,
        started_at: r.time(7)?,
        verified_at: r.opt_time(8)?,
        error: r.opt_text(9)?,
    })
}

fn known_backup(r: &Row) -> Result<KnownBackup> {
    let proof = r.json(5)?;
    Ok(KnownBackup {
        date: r.text(0)?.to_owned(),
        archive: r.text(1)?.to_owned(),
        size_bytes: r.int(2)?,
        sha256: r.text(3)?.to_owned(),
        made_at: r.time(4)?,
        proof: proof["state"].as_str().unwrap_or("pending").to_owned(),
        proof_at: proof["at"].as_str().map(str::to_owned),
        partial: r.text(6)? == "partial",
        gone_at: r.opt_time(7)?,
    })
}
