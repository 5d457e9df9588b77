//! Decisions as pure functions: they take `now` and plain values and return the decision with its reason. No clock, no files,
//! no async, no SQL, no HTTP in here; `tests/tidy.rs` sees to it.

pub mod alert_rule;
pub mod anomaly;
pub mod archive;
pub mod backoff;
pub mod finance;
pub mod incident;
pub mod journal;
pub mod ledger;
pub mod log_line;
pub mod log_place;
pub mod log_template;
pub mod maintenance;
pub mod money;
pub mod notify;
pub mod payout_watch;
pub mod portal;
pub mod probe;
pub mod push;
pub mod reconcile;
pub mod replica;
pub mod restart;
pub mod retention;
pub mod schedule;
pub mod signature;
pub mod slo;
pub mod spelling;
mod words;
