//! Where what we ask the provider to change is written down before it is asked, so that an idempotency key outlives the process that
//! made it. The client calls it around every POST; the daemon hands in one that writes to its store. It never sees a body, only its
//! digest.

use std::{future::Future, pin::Pin};

use crate::error::Result;

pub type Pending<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered<'a> {
    /// Of HTTP.
    pub status: u16,
    pub request_id: Option<&'a str>,
    /// Of the object that the answer is.
    pub object_id: Option<&'a str>,
}

/// A durable record of calls by their idempotency key.
pub trait Outbox: Send + Sync {
    /// Durable when this answers; only then the request is sent. `request` is a digest of its parameters. Errors: `conflict` with reason
    /// `idempotency_error` if the key was used for another path or other parameters: nothing is sent then.
    fn sent<'a>(&'a self, key: &'a str, path: &'a str, request: &'a str) -> Pending<'a>;
    /// The provider has answered, well or badly. A call of which this is never told is one whose outcome nobody knows.
    fn answered<'a>(&'a self, key: &'a str, answered: Answered<'a>) -> Pending<'a>;
}
