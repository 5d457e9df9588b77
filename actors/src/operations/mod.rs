//! What an operator can do, one operation per file: called by the gateway and the command line alike. An operation has no state of its
//! own; what must not be lost is in the store before anybody outside is asked.

/// A few weeks of a small business in the sandbox.
pub mod demo;
