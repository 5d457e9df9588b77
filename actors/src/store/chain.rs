//! The end of this writer's journal chain, kept in memory so that appending needs no read. Used by the embedded engine inside its
//! transactions; a group that is rolled back puts the copy from before it back.

use rusqlite::Connection;

use super::{
    engine::Fact,
    sqlite::{execute, query},
};
use crate::{domain::journal, error::Result};

/// The end of this writer's journal chain, kept in memory so that appending needs no read.
#[derive(Clone)]
pub(super) struct Chain {
    writer: String,
    seq: i64,
    hash: Vec<u8>,
    /// The sequence number that the head row carries.
    head: i64,
}

impl Chain {
    pub(super) fn load(connection: &Connection, writer: &str) -> Result<Self> {
        let rows = query(connection, "SELECT seq, hash FROM journal_head WHERE writer = ?1", &[writer.into()])?;
        let (seq, hash) = match rows.first() {
            Some(row) => (row.int(0)?, row.blob(1)?.to_vec()),
            None => (0, journal::GENESIS.to_vec()),
        };
        Ok(Self { writer: writer.to_owned(), seq, hash, head: seq })
    }

    pub(super) fn append(&mut self, connection: &Connection, fact: &Fact) -> Result<()> {
        let (seq, at, data) = (self.seq + 1, fact.at.timestamp_micros(), fact.data.to_string());
        let hash = journal::hash(&self.hash, &self.writer, seq, at, fact.kind, &fact.subject, &data).to_vec();
        execute(
            connection,
            "INSERT INTO journal (writer, seq, at, kind, subject, data, prev, hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            &[
                self.writer.as_str().into(),
                seq.into(),
                at.into(),
                fact.kind.into(),
                fact.subject.as_str().into(),
                data.into(),
                self.hash.as_slice().into(),
                hash.as_slice().into(),
            ],
        )?;
        (self.seq, self.hash) = (seq, hash);
        Ok(())
    }

    /// Once per group, not per entry: the head only has to be right at the commit.
    pub(super) fn write_head(&mut self, connection: &Connection) -> Result<()> {
        if self.seq > self.head {
            execute(
                connection,
                "INSERT INTO journal_head (writer, seq, hash) VALUES (?1, ?2, ?3) ON CONFLICT (writer) DO UPDATE SET seq = excluded.seq, hash = excluded.hash",
                &[self.writer.as_str().into(), self.seq.into(), self.hash.as_slice().into()],
            )?;
            self.head = self.seq;
        }
        Ok(())
    }
}
