//! The map of the daemon, one sentence per module.

/// How actors are named, called, probed and specified.
pub mod actor;
/// Settings and secrets.
pub mod config;
/// Pure decisions.
pub mod domain;
/// Everything a task or handler may touch.
pub mod env;
/// The one error type.
pub mod error;
/// Atomic files, histories, secrets on disk.
pub mod files;
/// [actor] alert
pub mod alert;
/// [actor] insight
pub mod insight;
/// [actor] recon
pub mod recon;
/// [actor] sandbox
pub mod sandbox;
/// [actor] slo
pub mod slo;
/// [actor] webhook events in order.
pub mod ingest;
/// Payment companies, and the built-in sandbox.
pub mod providers;
/// Every query by name.
pub mod store;
/// [actor] starts, restarts and stops the others.
pub mod supervisor;
/// What a task is and how a run of it goes.
pub mod task;
/// [actor] what is due and what is running.
pub mod timer;
