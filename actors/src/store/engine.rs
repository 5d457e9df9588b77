//! What a database engine must be able to do: run a batch of statements as one transaction, durably, and answer a read.
//! Queries are written once, in the dialect that SQLite and PostgreSQL share (`?1`, `ON CONFLICT`, `RETURNING`, integers and
//! text only), so that an engine is a translation of a few lines and not a second copy of the queries. The sandbox uses an
//! engine of its own on a file of its own.

use std::{future::Future, pin::Pin, sync::Arc};

use serde_json::Value as Json;

use crate::error::{Error, Result};

/// A value as the two databases share it. Booleans are 0 and 1, times are microseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Int(i64),
    Text(Arc<str>),
    Blob(Arc<[u8]>),
}

macro_rules! value_from {
    ($($t:ty => |$v:ident| $e:expr),* $(,)?) => {$(
        impl From<$t> for Value { fn from($v: $t) -> Self { $e } }
    )*};
}
value_from! {
    i64 => |v| Self::Int(v),
    i32 => |v| Self::Int(v.into()),
    u32 => |v| Self::Int(v.into()),
    bool => |v| Self::Int(v.into()),
    &str => |v| Self::Text(v.into()),
    String => |v| Self::Text(v.into()),
    &String => |v| Self::Text(v.as_str().into()),
    Arc<str> => |v| Self::Text(v),
    &[u8] => |v| Self::Blob(v.into()),
    Vec<u8> => |v| Self::Blob(v.into()),
    &Json => |v| Self::Text(v.to_string().into()),
    chrono::DateTime<chrono::Utc> => |v| Self::Int(v.timestamp_micros()),
}
impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(v: Option<T>) -> Self {
        v.map_or(Self::Null, Into::into)
    }
}

/// One row of an answer, read by column position.
#[derive(Clone, Debug, PartialEq)]
pub struct Row(pub Vec<Value>);

impl Row {
    pub fn int(&self, i: usize) -> Result<i64> {
        match self.0.get(i) {
            Some(Value::Int(v)) => Ok(*v),
            other => Err(Error::internal(format!("column {i} is {other:?}, expected an integer"))),
        }
    }

    pub fn text(&self, i: usize) -> Result<&str> {
        match self.0.get(i) {
            Some(Value::Text(v)) => Ok(v),
            other => Err(Error::internal(format!("column {i} is {other:?}, expected text"))),
        }
    }

    pub fn blob(&self, i: usize) -> Result<&[u8]> {
        match self.0.get(i) {
            Some(Value::Blob(v)) => Ok(v),
            other => Err(Error::internal(format!("column {i} is {other:?}, expected bytes"))),
        }
    }

    pub fn opt_int(&self, i: usize) -> Result<Option<i64>> {
        if self.is_null(i) { Ok(None) } else { self.int(i).map(Some) }
    }

    pub fn opt_text(&self, i: usize) -> Result<Option<String>> {
        if self.is_null(i) { Ok(None) } else { self.text(i).map(|t| Some(t.to_owned())) }
    }

    /// A text column that holds JSON.
    pub fn json(&self, i: usize) -> Result<Json> {
        Ok(serde_json::from_str(self.text(i)?)?)
    }

    pub fn time(&self, i: usize) -> Result<chrono::DateTime<chrono::Utc>> {
        chrono::DateTime::from_timestamp_micros(self.int(i)?).ok_or_else(|| Error::internal(format!("column {i} is not a time")))
    }

    pub fn opt_time(&self, i: usize) -> Result<Option<chrono::DateTime<chrono::Utc>>> {
        if self.is_null(i) { Ok(None) } else { self.time(i).map(Some) }
    }

    fn is_null(&self, i: usize) -> bool {
        matches!(self.0.get(i), Some(Value::Null))
    }
}

/// A fact for the journal; the engine gives it its place in this writer's chain inside the same transaction.
#[derive(Clone, Debug)]
pub struct Fact {
    pub at: chrono::DateTime<chrono::Utc>,
    /// What happened, e.g. `webhook.received`.
    pub kind: &'static str,
    /// To whom: an event id, a run id, ...
    pub subject: String,
    pub data: Json,
}

#[derive(Clone, Debug)]
pub enum Step {
    Sql {
        sql: &'static str,
        params: Vec<Value>,
        /// When this statement changes or returns no row, the rest of the batch is not run (and the batch still commits).
        /// It is how a unique constraint decides, in one round trip, whether the rest happens.
        guard: bool,
    },
    Journal(Fact),
}

/// Statements that commit together or not at all.
#[derive(Clone, Debug, Default)]
pub struct Batch(pub Vec<Step>);

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn sql(mut self, sql: &'static str, params: Vec<Value>) -> Self {
        self.0.push(Step::Sql { sql, params, guard: false });
        self
    }

    /// A statement that must touch a row for the following ones to run.
    #[must_use]
    pub fn guard(mut self, sql: &'static str, params: Vec<Value>) -> Self {
        self.0.push(Step::Sql { sql, params, guard: true });
        self
    }

    #[must_use]
    pub fn journal(mut self, fact: Fact) -> Self {
        self.0.push(Step::Journal(fact));
        self
    }
}

/// What one step did. Steps after a guard that held back have no outcome.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    pub affected: u64,
    pub rows: Vec<Row>,
}

/// What a batch did: one outcome per step that ran.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcomes(pub Vec<Outcome>);

impl Outcomes {
    /// Rows changed by step `i`; 0 when a guard kept it from running.
    pub fn affected(&self, i: usize) -> u64 {
        self.0.get(i).map_or(0, |o| o.affected)
    }

    pub fn rows(&self, i: usize) -> &[Row] {
        self.0.get(i).map_or(&[], |o| &o.rows)
    }
}

pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// A database. `write` answers only after the commit is durable.
pub trait Engine: Send + Sync + 'static {
    fn write(&self, batch: Batch) -> Pending<'_, Outcomes>;
    fn read(&self, sql: &'static str, params: Vec<Value>) -> Pending<'_, Vec<Row>>;
    /// A consistent copy of the whole database into a new file (embedded engine), for the backup.
    fn copy_to(&self, path: std::path::PathBuf) -> Pending<'_, ()>;
    /// Whether what is written still goes where it was opened.
    fn check(&self) -> Result<()>;
    /// Whether the last group of writes failed as a whole.
    fn is_failing(&self) -> bool;
    /// Batches waiting to be written: the queue depth that admission control and the dashboard look at.
    fn depth(&self) -> usize;
    /// Waits until everything accepted is written, then lets go of the file. Later writes are `unavailable`.
    fn close(&self) -> Pending<'_, ()>;
}
