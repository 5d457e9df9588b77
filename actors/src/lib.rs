//! The map of the daemon, one sentence per module. Arrows point down: gateway and tasks use the actors' client functions, the
//! actors use store and providers, all of them use the pure `domain`. ARCHITECTURE.md says who may use whom and why.

/// [basic] How actors are named, called, probed and specified.
pub mod actor;
/// [actor] The state of every alert.
pub mod alert;
/// [basic] Reading and writing archives.
pub mod archive;
/// [actor] The backup lock, archives and their proofs.
pub mod backup;
/// [family] Ways of telling a person, one per file.
pub mod channels;
/// [basic] Settings and secrets.
pub mod config;
/// [basic] Puts all the parts together.
pub mod daemon;
/// [family, pure] Decisions with their reasons.
pub mod domain;
/// [basic] Everything a task or handler may touch.
pub mod env;
/// [basic] The one error type.
pub mod error;
/// [basic] How one run of a task goes.
pub mod execution;
/// [basic] Atomic files, histories, secrets on disk.
pub mod files;
/// [actor + family] HTTP: listener, limits, sessions, one file per area of endpoints.
pub mod gateway;
/// [actor] Webhook events, in order, applied once.
pub mod ingest;
/// [actor] The figures of the dashboard.
pub mod insight;
/// [basic] Structured log lines.
pub mod logging;
/// [basic] Reads log files on from where it stopped.
pub mod logscan;
/// [basic] What waits for each actor, and how long it works.
pub mod mailbox;
/// [basic] CPU, memory, disk and open files.
pub mod measure;
/// [basic] Counts events per service and minute.
pub mod meter;
/// [family] What an operator can do, one operation per file.
pub mod operations;
/// [basic] Pings to a dead man's switch outside.
pub mod ping;
/// [family] What asks things outside whether they are well.
pub mod probe;
/// [family] Payment companies, and the built-in sandbox.
pub mod providers;
/// [actor] Reconciliation runs and open exceptions.
pub mod recon;
/// [family] The second target of the backups: a directory or a bucket.
pub mod replica;
/// [actor] Keeps the sandbox serving.
pub mod sandbox;
/// [basic] What the daemon signs, so that others can tell that it did.
pub mod signing;
/// [actor] The minutes of the service level.
pub mod slo;
/// [family] Every query by name; the only SQL.
pub mod store;
/// [actor] Starts, restarts and stops the others.
pub mod supervisor;
/// [basic] What a task is.
pub mod task;
/// [family] One scheduled task per file.
pub mod tasks;
#[cfg(test)]
mod testing;
/// [actor + its parts] What is due and what is running.
pub mod timer;
