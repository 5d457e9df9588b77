//! The embedded engine: one writer thread owns the only write connection and commits whatever has queued up as one
//! transaction (group commit), each batch in a savepoint of its own so that a bad one fails alone; readers are a small pool of
//! read-only connections. WAL with `synchronous=FULL`: what was answered survives a power cut. Used by `Store` and, on a
//! file of its own, by the sandbox. The thread is owned here and not by an actor, so a crashing actor loses nothing.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rusqlite::{Connection, params_from_iter, types::ValueRef};
use tokio::sync::{mpsc, oneshot};

use super::{
    chain::Chain,
    database_file::{BUSY, Identity, open_reader, open_writer},
    engine::{Batch, Engine, Outcome, Outcomes, Pending, Row, Step, Value},
};
use crate::{
    error::{Code, Error, Result},
    files,
};

/// Batches that may wait for the writer; one more is refused with `unavailable`.
const QUEUE: usize = 4096;
/// Batches committed together at most.
const GROUP: usize = 512;
const READERS: usize = 4;
/// While the database takes no writes because somebody else holds it, the next group waits only so long: everybody waits for it.
const IMPATIENT: Duration = Duration::from_millis(100);
/// A group that is written for longer than this hangs.
const HANGS: Duration = Duration::from_secs(10);

struct Job {
    batch: Batch,
    reply: oneshot::Sender<Result<Outcomes>>,
}

pub struct Sqlite {
    health: Arc<Health>,
    sender: Mutex<Option<mpsc::Sender<Job>>>,
    readers: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<tokio::sync::Semaphore>,
    waiting: Arc<AtomicUsize>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl std::fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sqlite").field("path", &self.health.file.path).finish_non_exhaustive()
    }
}

impl Sqlite {
    /// Opens or creates the database, brings it to the newest migration and starts the writer. `writer` names this node's
    /// journal chain; `None` is a database without a journal (the sandbox). Errors: `invalid` with reason `not_a_database` if the
    /// file is something else, `schema_too_new` if a newer program made it.
    pub fn open(path: &Path, migrations: &'static [&'static str], writer: Option<&str>) -> Result<Self> {
        let connection = open_writer(path, migrations).map_err(|e| e.context(format!("cannot open the database {}", path.display())))?;
        let chain = writer.map(|w| Chain::load(&connection, w)).transpose()?;
        let health = Arc::new(Health { file: Identity::of(path)?, failing: AtomicBool::new(false), writing: Mutex::new(None) });
        let (sender, receiver) = mpsc::channel(QUEUE);
        let waiting = Arc::new(AtomicUsize::new(0));
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn({
                let (waiting, health) = (waiting.clone(), health.clone());
                move || run_writer(connection, chain, receiver, &waiting, &health)
            })
            .map_err(Error::from)?;
        let readers = (0..READERS).map(|_| open_reader(path)).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            health,
            sender: Mutex::new(Some(sender)),
            readers: Arc::new(Mutex::new(readers)),
            permits: Arc::new(tokio::sync::Semaphore::new(READERS)),
            waiting,
            thread: Mutex::new(Some(thread)),
        })
    }
}

impl Sqlite {
    /// A short read on the caller's own thread, which saves the way to another; elsewhere if all connections are in use. For the
    /// sandbox, whose reads are many, small and of a file that is in memory anyway.
    pub async fn read_here(&self, sql: &'static str, params: Vec<Value>) -> Result<Vec<Row>> {
        let Ok(permit) = self.permits.clone().try_acquire_owned() else { return self.read(sql, params).await };
        let connection = lock(&self.readers).pop().ok_or_else(closed)?;
        let rows = query(&connection, sql, &params);
        lock(&self.readers).push(connection);
        drop(permit);
        rows
    }
}

impl Engine for Sqlite {
    fn write(&self, batch: Batch) -> Pending<'_, Outcomes> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let sender = lock(&self.sender).clone();
            let Some(sender) = sender else { return Err(closed()) };
            self.waiting.fetch_add(1, Ordering::Relaxed);
            sender.try_send(Job { batch, reply }).map_err(|error| {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                match error {
                    mpsc::error::TrySendError::Full(_) => Error::unavailable("store_busy", "too many writes are waiting"),
                    mpsc::error::TrySendError::Closed(_) => closed(),
                }
            })?;
            answer.await.map_err(|_| closed())?
        })
    }

    fn read(&self, sql: &'static str, params: Vec<Value>) -> Pending<'_, Vec<Row>> {
        let readers = self.readers.clone();
        Box::pin(async move {
            let permit = self.permits.clone().acquire_owned().await.map_err(|_| closed())?;
            tokio::task::spawn_blocking(move || {
                let connection = lock(&readers).pop().ok_or_else(closed)?;
                let rows = query(&connection, sql, &params);
                lock(&readers).push(connection);
                drop(permit);
                rows
            })
            .await
            .map_err(Error::internal)?
        })
    }

    fn copy_to(&self, target: PathBuf) -> Pending<'_, ()> {
        let (readers, health) = (self.readers.clone(), self.health.clone());
        Box::pin(async move {
            let permit = self.permits.clone().acquire_owned().await.map_err(|_| closed())?;
            tokio::task::spawn_blocking(move || {
                health.file.check()?;
                // Over a connection that is open already: it reads the very database that is written, whatever lies at the path.
                let from = lock(&readers).pop().ok_or_else(closed)?;
                let copied = copy(&from, &target);
                lock(&readers).push(from);
                drop(permit);
                copied
            })
            .await
            .map_err(Error::internal)?
        })
    }

    fn check(&self) -> Result<()> {
        self.health.file.check()?;
        match lock(&self.health.writing).map(|since| since.elapsed()).filter(|long| *long > HANGS) {
            Some(long) => Err(Error::unavailable("store_unavailable", format!("database: a write hangs for {} s", long.as_secs()))),
            None => Ok(()),
        }
    }

    fn is_failing(&self) -> bool {
        self.health.failing.load(Ordering::Relaxed)
    }

    fn depth(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn close(&self) -> Pending<'_, ()> {
        Box::pin(async move {
            // Readers first: the last connection to go is the writer's, which then folds the log into the database file.
            if let Ok(all) = self.permits.acquire_many(u32::try_from(READERS).unwrap_or(1)).await {
                all.forget();
                self.permits.close();
            }
            lock(&self.readers).clear();
            drop(lock(&self.sender).take());
            let thread = lock(&self.thread).take();
            if let Some(thread) = thread {
                tokio::task::spawn_blocking(move || thread.join())
                    .await
                    .map_err(Error::internal)?
                    .map_err(|_| Error::internal("the writer thread panicked"))?;
            }
            Ok(())
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn closed() -> Error {
    Error::unavailable("store_closed", "the store is closed")
}

fn copy(from: &Connection, target: &Path) -> Result<()> {
    let mut to = Connection::open(target).map_err(sql_error)?;
    // In one step: one read transaction, however much is written meanwhile. Page by page, so that what did not change lies where it lay
    // in the last copy, and the next archive takes it over; a copy that packs the tables anew moves nearly everything.
    let step = rusqlite::backup::Backup::new(from, &mut to).and_then(|backup| backup.step(-1)).map_err(sql_error)?;
    if step != rusqlite::backup::StepResult::Done {
        return Err(Error::unavailable("store_unavailable", "the database could not be copied: it was locked"));
    }
    // It carries its own content and needs no -wal file beside it.
    to.pragma_update(None, "journal_mode", "DELETE").map_err(sql_error)?;
    to.close().map_err(|(_, e)| sql_error(e))?;
    std::fs::set_permissions(target, std::os::unix::fs::PermissionsExt::from_mode(files::MODE_PRIVATE))?;
    Ok(())
}

/// How the writer does, for whoever asks.
struct Health {
    file: Identity,
    /// Whether the last group could not be written.
    failing: AtomicBool,
    /// When the group that is being written was begun.
    writing: Mutex<Option<Instant>>,
}

fn run_writer(
    mut connection: Connection,
    mut chain: Option<Chain>,
    mut receiver: mpsc::Receiver<Job>,
    waiting: &AtomicUsize,
    health: &Health,
) {
    let mut jobs = Vec::with_capacity(GROUP);
    while receiver.blocking_recv_many(&mut jobs, GROUP) > 0 {
        waiting.fetch_sub(jobs.len(), Ordering::Relaxed);
        *lock(&health.writing) = Some(Instant::now());
        let before = chain.clone();
        let (batches, replies): (Vec<_>, Vec<_>) = jobs.drain(..).map(|j| (j.batch, j.reply)).unzip();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            commit_group(&mut connection, chain.as_mut(), &batches, &health.file)
        }))
        .unwrap_or_else(|_| Err(Error::internal("the store's writer panicked; the group was rolled back")));
        match result {
            Ok(outcomes) => {
                if health.failing.swap(false, Ordering::Relaxed) {
                    tracing::warn!(target: "store", "the database takes writes again");
                    let _ = connection.busy_timeout(BUSY); // only sets a number
                }
                for (reply, outcome) in replies.into_iter().zip(outcomes) {
                    let _ = reply.send(outcome); // the caller may have given up; the row stays
                }
            }
            Err(error) => {
                chain = before;
                if !connection.is_autocommit() {
                    let _ = connection.execute_batch("ROLLBACK");
                }
                // Said once, not once a group: the disk may be full, and the log lies on it.
                if !health.failing.swap(true, Ordering::Relaxed) {
                    tracing::error!(target: "store", error = %error, "the database takes no writes; nothing is acknowledged until it does");
                    let _ = connection.busy_timeout(IMPATIENT);
                }
                let _ = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)"); // gives back what space it can
                for reply in replies {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
        *lock(&health.writing) = None;
    }
    let _ = connection.close();
}

/// Runs every batch in a savepoint and commits them together. The outer error means that nothing was written.
fn commit_group(
    connection: &mut Connection,
    mut chain: Option<&mut Chain>,
    batches: &[Batch],
    file: &Identity,
) -> Result<Vec<Result<Outcomes>>> {
    connection.execute_batch("BEGIN IMMEDIATE").map_err(sql_error)?;
    let mut outcomes = Vec::with_capacity(batches.len());
    for batch in batches {
        connection.prepare_cached("SAVEPOINT batch").and_then(|mut s| s.execute([])).map_err(sql_error)?;
        let before = chain.as_deref().cloned();
        let outcome = run_batch(connection, chain.as_deref_mut(), batch);
        let end = if outcome.is_ok() { "RELEASE batch" } else { "ROLLBACK TO batch" };
        connection.prepare_cached(end).and_then(|mut s| s.execute([])).map_err(sql_error)?;
        if outcome.is_err() {
            connection.prepare_cached("RELEASE batch").and_then(|mut s| s.execute([])).map_err(sql_error)?;
            if let (Some(chain), Some(before)) = (chain.as_deref_mut(), before) {
                *chain = before;
            }
        }
        outcomes.push(outcome);
    }
    if let Some(chain) = chain {
        chain.write_head(connection)?;
    }
    file.check()?;
    connection.execute_batch("COMMIT").map_err(sql_error)?;
    Ok(outcomes)
}

fn run_batch(connection: &Connection, mut chain: Option<&mut Chain>, batch: &Batch) -> Result<Outcomes> {
    let mut outcomes = Vec::with_capacity(batch.0.len());
    for step in &batch.0 {
        match step {
            Step::Sql { sql, params, guard } => {
                let outcome = execute(connection, sql, params)?;
                let held_back = *guard && outcome.affected == 0 && outcome.rows.is_empty();
                outcomes.push(outcome);
                if held_back {
                    break;
                }
            }
            Step::Journal(fact) => {
                let chain = chain.as_deref_mut().ok_or_else(|| Error::internal("this database has no journal"))?;
                chain.append(connection, fact)?;
                outcomes.push(Outcome { affected: 1, rows: Vec::new() });
            }
        }
    }
    Ok(Outcomes(outcomes))
}

pub(super) fn execute(connection: &Connection, sql: &str, params: &[Value]) -> Result<Outcome> {
    let mut statement = connection.prepare_cached(sql).map_err(sql_error)?;
    if statement.column_count() > 0 {
        let rows = collect(&mut statement, params)?;
        Ok(Outcome { affected: rows.len() as u64, rows })
    } else {
        let affected = statement.execute(params_from_iter(params.iter().map(to_sql))).map_err(sql_error)? as u64;
        Ok(Outcome { affected, rows: Vec::new() })
    }
}

pub(super) fn query(connection: &Connection, sql: &str, params: &[Value]) -> Result<Vec<Row>> {
    collect(&mut *connection.prepare_cached(sql).map_err(sql_error)?, params)
}

fn collect(statement: &mut rusqlite::Statement<'_>, params: &[Value]) -> Result<Vec<Row>> {
    let columns = statement.column_count();
    let mut rows = statement.query(params_from_iter(params.iter().map(to_sql))).map_err(sql_error)?;
    let mut result = Vec::new();
    while let Some(row) = rows.next().map_err(sql_error)? {
        let values = (0..columns).map(|i| from_sql(row.get_ref(i).map_err(sql_error)?)).collect::<Result<_>>()?;
        result.push(Row(values));
    }
    Ok(result)
}

fn to_sql(value: &Value) -> rusqlite::types::ToSqlOutput<'_> {
    rusqlite::types::ToSqlOutput::Borrowed(match value {
        Value::Null => ValueRef::Null,
        Value::Int(v) => ValueRef::Integer(*v),
        Value::Text(v) => ValueRef::Text(v.as_bytes()),
        Value::Blob(v) => ValueRef::Blob(v),
    })
}

fn from_sql(value: ValueRef<'_>) -> Result<Value> {
    Ok(match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(v) => Value::Int(v),
        ValueRef::Text(v) => Value::Text(std::str::from_utf8(v).map_err(Error::internal)?.into()),
        ValueRef::Blob(v) => Value::Blob(v.into()),
        ValueRef::Real(v) => return Err(Error::internal(format!("a query returned the float {v}; only integers are stored"))),
    })
}

/// A database that is full, locked or gone is `unavailable`: the caller may try again. The rest is ours to mend.
pub(super) fn sql_error(error: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode as E;
    match error.sqlite_error_code() {
        Some(E::NotADatabase) => Error::new(Code::Invalid, "not_a_database", "the file is not an SQLite database"),
        Some(
            E::DatabaseBusy | E::DatabaseLocked | E::DiskFull | E::CannotOpen | E::ReadOnly | E::SystemIoFailure | E::PermissionDenied,
        ) => Error::unavailable("store_unavailable", format!("database: {error}")),
        Some(E::ConstraintViolation) => Error::conflict("constraint", format!("database: {error}")),
        _ => Error::internal(format!("database: {error}")),
    }
}
