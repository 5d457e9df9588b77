//! Every query by name, and the only SQL of the product (the sandbox keeps its own file). A file per area; each method is one
//! read or one batch that commits as a whole. The engine beneath is SQLite by default; the queries keep to what PostgreSQL
//! understands too. A fact for the journal is written in the same batch as the row it proves.

pub mod database_file;
pub mod engine;
pub mod sqlite;

mod alerts;
mod backups;
mod booking;
mod calls;
mod canary;
mod chain;
mod events;
mod figures;
mod finance;
mod gaps;
mod incidents;
mod interventions;
mod keys;
mod ledger;
mod maintenance;
#[cfg(test)]
mod money_tests;
mod outbox;
mod payout_members;
mod pushes;
mod recon;
mod refunds;
mod replica;
mod runs;
mod schedule;
mod sentinel;
mod slo;

use std::{collections::BTreeMap, path::Path, path::PathBuf, sync::Arc};

pub use alerts::{AlertCommit, AlertEvent, AlertEventFilter};
pub use backups::{BackupRow, ProofRow};
pub use booking::{OpenObjectRow, Origin};
pub use calls::OpenCall;
pub use canary::CanaryRow;
pub use events::{EventFilter, EventRow, NewEvent, OpenEvent};
pub use figures::Revenue;
pub use gaps::GapRow;
pub use incidents::{IncidentFilter, LogState};
pub use keys::KeyRow;
pub use ledger::{CurrencyTotals, LedgerFilter, LedgerRow, NewCorrection, ObjectRow, PaymentInTime};
pub use outbox::{ChannelRow, Delivered, DeliveryAttempt, NewNotification, NotificationFilter, NotificationRow};
pub use pushes::{PushPing, PushRow};
pub use recon::{ArchiveRow, ExceptionFilter, ExceptionRow, Finding, KeptRecon, NewRecon};
pub use refunds::{IdempotentAnswer, RefundEnd, RefundIntent};
pub use replica::{KnownBackup, ReplicaRow};
pub use runs::{Attempt, Claim, NewRun, Place, RunEnd, RunRow};
pub use schedule::{AttemptRow, NodeRow, Pause, SlotCount, SlotOutcome};
pub use sentinel::NewSample;
pub use slo::ProbeRow;

use self::engine::{Batch, Engine, Fact};
use crate::{
    domain::journal::{Break, Entry, Verifier},
    error::{Error, Result},
};

/// The numbered migrations, oldest first.
pub const MIGRATIONS: &[&str] = &[
    include_str!("../../migrations/0001_first.sql"),
    include_str!("../../migrations/0002_schedule.sql"),
    include_str!("../../migrations/0003_open_runs.sql"),
    include_str!("../../migrations/0004_money.sql"),
    include_str!("../../migrations/0005_backups.sql"),
    include_str!("../../migrations/0006_levels.sql"),
    include_str!("../../migrations/0007_alerts.sql"),
    include_str!("../../migrations/0008_outbox.sql"),
    include_str!("../../migrations/0009_incidents.sql"),
];
/// Entries of the journal read at a time while verifying.
const JOURNAL_PAGE: i64 = 2000;

#[derive(Clone)]
pub struct Store {
    engine: Arc<dyn Engine>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

/// What a verification of the journal found.
#[derive(Clone, Debug, serde::Serialize)]
pub struct JournalReport {
    pub ok: bool,
    pub entries: i64,
    /// Per writer: number of entries and the hash of the last one, in hex.
    pub chains: Vec<Chain>,
    pub breaks: Vec<Break>,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Chain {
    pub writer: String,
    pub entries: i64,
    pub root: String,
}

impl Store {
    /// Opens the embedded database; `writer` names this node's journal chain.
    pub fn open(path: &Path, writer: &str) -> Result<Self> {
        Ok(Self { engine: Arc::new(sqlite::Sqlite::open(path, MIGRATIONS, Some(writer))?) })
    }

    pub async fn close(&self) -> Result<()> {
        self.engine.close().await
    }

    pub fn depth(&self) -> usize {
        self.engine.depth()
    }

    pub async fn copy_to(&self, path: PathBuf) -> Result<()> {
        self.engine.copy_to(path).await
    }

    /// Whether the store answers, and takes writes: after a failed one it is asked for another, so that a full disk shows and goes by.
    pub async fn ping(&self) -> Result<()> {
        self.engine.check()?;
        self.engine.read("SELECT 1", vec![]).await?;
        if self.engine.is_failing() { self.set_meta("ping", "1").await } else { Ok(()) }
    }

    pub async fn journal(&self, fact: Fact) -> Result<()> {
        self.engine.write(Batch::new().journal(fact)).await.map(|_| ())
    }

    /// Walks every chain and compares each with its recorded head. Memory does not grow with the journal.
    pub async fn verify_journal(&self) -> Result<JournalReport> {
        Ok(self.verify_journal_after(&BTreeMap::new()).await?.0)
    }

    /// The same for what came after the entries that `seen` names by writer, with their hashes in hex: a look costs what was written since
    /// the last one. Answers also what to name the next time.
    pub async fn verify_journal_after(
        &self,
        seen: &BTreeMap<String, (i64, String)>,
    ) -> Result<(JournalReport, BTreeMap<String, (i64, String)>)> {
        let writers =
            self.engine.read("SELECT writer FROM journal_head UNION SELECT DISTINCT writer FROM journal ORDER BY 1", vec![]).await?;
        let mut report = JournalReport { ok: true, entries: 0, chains: Vec::new(), breaks: Vec::new() };
        let mut marks = BTreeMap::new();
        for row in writers {
            let writer = row.text(0)?;
            // The head first: entries appended while we walk lie beyond it and do not look like a removed tail.
            let head = self.engine.read("SELECT seq, hash FROM journal_head WHERE writer = ?1", vec![writer.into()]).await?;
            let head = head.first().map(|h| Ok::<_, Error>((h.int(0)?, h.blob(1)?.to_vec()))).transpose()?;
            let mut verifier = match seen.get(writer).and_then(|(seq, hash)| Some((*seq, crate::files::from_hex(hash)?))) {
                Some((seq, hash)) => Verifier::after(writer, seq, hash),
                None => Verifier::new(writer),
            };
            let (mut after, limit) = (verifier.entries(), head.as_ref().map_or(i64::MAX, |(seq, _)| *seq));
            loop {
                let page = self.journal_page(writer, after, limit).await?;
                let Some(last) = page.last() else { break };
                after = last.seq;
                for entry in &page {
                    verifier.push(entry);
                }
            }
            match head {
                Some((seq, hash)) => verifier.finish(seq, &hash),
                None => verifier.finish(0, &crate::domain::journal::GENESIS),
            }
            report.entries += verifier.entries();
            report.chains.push(Chain { writer: writer.to_owned(), entries: verifier.entries(), root: crate::files::hex(verifier.root()) });
            marks.insert(writer.to_owned(), (verifier.entries(), crate::files::hex(verifier.root())));
            report.breaks.extend(verifier.breaks);
        }
        for (writer, (seq, _)) in seen.iter().filter(|(writer, _)| !marks.contains_key(*writer)) {
            let explanation = format!("the whole chain of {writer}, {seq} entries, is gone");
            report.breaks.push(Break { writer: writer.clone(), seq: 1, kind: "removed", explanation });
        }
        report.ok = report.breaks.is_empty();
        Ok((report, marks))
    }

    async fn journal_page(&self, writer: &str, after: i64, through: i64) -> Result<Vec<Entry>> {
        let rows = self
            .engine
            .read(
                "SELECT seq, at, kind, subject, data, prev, hash FROM journal WHERE writer = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq LIMIT ?4",
                vec![writer.into(), after.into(), through.into(), JOURNAL_PAGE.into()],
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(Entry {
                    writer: writer.to_owned(),
                    seq: row.int(0)?,
                    at: row.int(1)?,
                    kind: row.text(2)?.to_owned(),
                    subject: row.text(3)?.to_owned(),
                    data: row.text(4)?.to_owned(),
                    prev: row.blob(5)?.to_vec(),
                    hash: row.blob(6)?.to_vec(),
                })
            })
            .collect()
    }

    /// The entry `seq` of `writer`, to compare with a root that was written down earlier.
    pub async fn journal_hash(&self, writer: &str, seq: i64) -> Result<Option<String>> {
        let rows = self.engine.read("SELECT hash FROM journal WHERE writer = ?1 AND seq = ?2", vec![writer.into(), seq.into()]).await?;
        rows.first().map(|row| Ok(crate::files::hex(row.blob(0)?))).transpose()
    }

    pub async fn meta(&self, key: &str) -> Result<Option<String>> {
        let rows = self.engine.read("SELECT value FROM meta WHERE key = ?1", vec![key.into()]).await?;
        rows.first().map(|row| row.text(0).map(str::to_owned)).transpose()
    }

    pub async fn set_meta(&self, key: &str, value: &str) -> Result<()> {
        let sql = "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        self.engine.write(Batch::new().sql(sql, vec![key.into(), value.into()])).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_database_of_the_first_version_is_brought_up_to_date_and_keeps_its_rows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("echopilot.db");
        let old = rusqlite::Connection::open(&path).unwrap();
        old.execute_batch(MIGRATIONS[0]).unwrap();
        old.execute_batch(
            "INSERT INTO task_run (run_id, task, slot, cause, state, incarnation, attempts) VALUES
               ('run_1', 'heartbeat', 1000000, 'schedule', 'succeeded', 'inc_old', 1), ('run_2', 'heartbeat', 2000000, 'schedule', 'running', 'inc_old', 0);
             INSERT INTO task_mark (task, through) VALUES ('heartbeat', 2000000); PRAGMA user_version = 1;",
        )
        .unwrap();
        drop(old);
        let store = Store::open(&path, "test").unwrap();
        let runs = store.runs("heartbeat", None, 0, 10).await.unwrap();
        assert_eq!(runs.iter().map(|r| r.run_id.as_str()).collect::<Vec<_>>(), ["run_2", "run_1"]);
        // What the old program left running holds no lease: the next start gives it its end.
        assert_eq!(store.open_runs().await.unwrap().iter().map(|r| r.run_id.as_str()).collect::<Vec<_>>(), ["run_2"]);
        assert!(store.nodes().await.unwrap().is_empty());
        store.close().await.unwrap();
        assert_eq!(database_file::schema_version(&path).unwrap(), i64::try_from(MIGRATIONS.len()).unwrap());
    }

    #[tokio::test]
    async fn once_the_file_is_gone_or_another_one_nothing_is_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("echopilot.db");
        let store = Store::open(&path, "test").unwrap();
        store.set_meta("before", "1").await.unwrap();
        store.ping().await.unwrap();
        let away = folder.path().join("away.db");
        std::fs::rename(&path, &away).unwrap();
        assert_eq!(store.set_meta("lost", "1").await.unwrap_err().reason, "database_replaced");
        assert_eq!(store.ping().await.unwrap_err().reason, "database_replaced");
        std::fs::copy(&away, &path).unwrap();
        assert_eq!(store.set_meta("lost", "1").await.unwrap_err().reason, "database_replaced");
        assert_eq!(store.copy_to(folder.path().join("copy.db")).await.unwrap_err().reason, "database_replaced");
        // Put back, it goes on, and what was refused is not there.
        std::fs::rename(&away, &path).unwrap();
        store.ping().await.unwrap();
        store.set_meta("after", "1").await.unwrap();
        assert_eq!((store.meta("lost").await.unwrap(), store.meta("after").await.unwrap()), (None, Some("1".into())));
        store.close().await.unwrap();
    }
}
