//! What is known of each archive, outside the archive.

use chrono::{DateTime, Utc};
use serde_json::Value as Json;

use super::{
    Store,
    engine::{Batch, Fact},
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
    pub sha256: String,
    pub made_at: DateTime<Utc>,
    /// `{"state":"passed|failed|pending","at","error"}`.
    pub proof: Json,
}

impl Store {
    pub async fn put_backup(&self, backup: &BackupRow, fact: Fact) -> Result<()> {
        let sql =
            "INSERT INTO backup (date, run_id, archive, size_bytes, files, sha256, made_at, proof) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
            ON CONFLICT (date) DO UPDATE SET run_id = excluded.run_id, archive = excluded.archive, size_bytes = excluded.size_bytes,
            files = excluded.files, sha256 = excluded.sha256, made_at = excluded.made_at, proof = excluded.proof";
        let params = vec![
            backup.date.as_str().into(),
            backup.run_id.as_str().into(),
            backup.archive.as_str().into(),
            backup.size_bytes.into(),
            backup.files.into(),
            backup.sha256.as_str().into(),
            backup.made_at.into(),
            (&backup.proof).into(),
        ];
        self.engine.write(Batch::new().sql(sql, params).journal(fact)).await.map(|_| ())
    }

    /// Newest first.
    pub async fn backups(&self, limit: i64) -> Result<Vec<BackupRow>> {
        let sql = "SELECT date, run_id, archive, size_bytes, files, sha256, made_at, proof FROM backup ORDER BY date DESC LIMIT ?1";
        let rows = self.engine.read(sql, vec![limit.into()]).await?;
        rows.iter()
            .map(|r| {
                Ok(BackupRow {
                    date: r.text(0)?.to_owned(),
                    run_id: r.text(1)?.to_owned(),
                    archive: r.text(2)?.to_owned(),
                    size_bytes: r.int(3)?,
                    files: r.int(4)?,
                    sha256: r.text(5)?.to_owned(),
                    made_at: r.time(6)?,
                    proof: r.json(7)?,
                })
            })
            .collect()
    }
}
