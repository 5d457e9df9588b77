//! The database file of the embedded engine: opening and migrating it, its mode, whether it is whole, and whether it is still the
//! one that was opened. Used by `sqlite.rs`, the proof of restore and `check`.

use std::{
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};

use super::sqlite::{query, sql_error};
use crate::error::{Error, Result};

/// How long another program that holds the database is waited for.
pub(super) const BUSY: Duration = Duration::from_secs(5);

/// The file that was opened. Once another one, or none, lies at its path, nobody would ever find what is written: the writer refuses.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) path: PathBuf,
    device_and_inode: (u64, u64),
}

impl Identity {
    pub(super) fn of(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path)?;
        Ok(Self { path: path.to_owned(), device_and_inode: (metadata.dev(), metadata.ino()) })
    }

    pub(super) fn check(&self) -> Result<()> {
        match std::fs::metadata(&self.path) {
            Ok(now) if (now.dev(), now.ino()) == self.device_and_inode => Ok(()),
            _ => Err(Error::unavailable("database_replaced", format!("{} is gone or is another file now", self.path.display()))),
        }
    }
}

pub(super) fn open_writer(path: &Path, migrations: &[&str]) -> Result<Connection> {
    restrict(path)?;
    let connection = Connection::open(path).map_err(sql_error)?;
    connection.busy_timeout(BUSY).map_err(sql_error)?;
    connection
        .execute_batch(
            "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
             PRAGMA wal_autocheckpoint = 2000; PRAGMA journal_size_limit = 16777216; PRAGMA cache_size = -65536;",
        )
        .map_err(sql_error)?;
    connection.set_prepared_statement_cache_capacity(128);
    let version: usize =
        connection.query_row("PRAGMA user_version", [], |r| r.get::<_, i64>(0)).map_err(sql_error)?.try_into().unwrap_or(usize::MAX);
    if version > migrations.len() {
        return Err(Error::invalid("schema_too_new", format!("its schema is version {version}, this program knows {}", migrations.len())));
    }
    for (index, sql) in migrations.iter().enumerate().skip(version) {
        connection
            .execute_batch(&format!("BEGIN IMMEDIATE; {sql}; PRAGMA user_version = {}; COMMIT;", index + 1))
            .map_err(|e| sql_error(e).context(format!("migration {}", index + 1)))?;
    }
    keep_ledger_append_only(&connection)?;
    Ok(connection)
}

/// What SQLite can refuse by itself, in its own dialect: a row of the ledger is never changed and never removed.
fn keep_ledger_append_only(connection: &Connection) -> Result<()> {
    let has_ledger = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = 'ledger'";
    if connection.query_row(has_ledger, [], |r| r.get::<_, i64>(0)).map_err(sql_error)? == 0 {
        return Ok(());
    }
    let triggers = "CREATE TRIGGER IF NOT EXISTS ledger_is_not_changed BEFORE UPDATE ON ledger
          BEGIN SELECT RAISE(ABORT, 'a row of the ledger is never changed: append a correction'); END;
        CREATE TRIGGER IF NOT EXISTS ledger_is_not_shortened BEFORE DELETE ON ledger
          BEGIN SELECT RAISE(ABORT, 'a row of the ledger is never removed: append a correction'); END;";
    connection.execute_batch(triggers).map_err(sql_error)
}

/// The database holds customers' addresses: nobody but its owner reads it. Its companion files get the mode it has when it is opened.
fn restrict(path: &Path) -> Result<()> {
    let file = std::fs::File::options().create(true).append(true).mode(0o600).open(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    Ok(())
}

pub(super) fn open_reader(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(path, flags).map_err(sql_error)?;
    connection.busy_timeout(BUSY).map_err(sql_error)?;
    connection.set_prepared_statement_cache_capacity(128);
    Ok(connection)
}

/// Asks SQLite whether a database file that nobody writes is whole.
pub fn check_integrity(path: &Path) -> Result<()> {
    let connection = open_reader(path)?;
    let rows = query(&connection, "PRAGMA integrity_check", &[])?;
    match rows.first().map(|r| r.text(0)).transpose()? {
        Some("ok") => Ok(()),
        other => Err(Error::invalid("database_damaged", format!("{}: {}", path.display(), other.unwrap_or("no answer")))),
    }
}
/// The number of migrations a database file has seen; the file is only read.
pub fn schema_version(path: &Path) -> Result<i64> {
    query(&open_reader(path)?, "PRAGMA user_version", &[])?.first().map_or(Ok(0), |row| row.int(0))
}
