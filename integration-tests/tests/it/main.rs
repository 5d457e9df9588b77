//! One test binary, a file per theme. Every test starts the real program and looks at it from outside.

mod alerts;
mod audit;
mod backup;
mod backup_faults;
mod browser;
mod canary;
mod channels;
mod chaos;
mod checkpoint;
mod cli;
mod conformance;
mod contract;
mod cron;
mod delivery;
mod demo;
mod encryption;
mod fault_stories;
mod faults;
mod finance;
mod incidents;
mod ingest;
mod interop;
mod levels;
mod mail;
mod metrics;
mod money;
mod oracle;
mod outside_clients;
mod power;
mod reconcile;
mod refunds;
mod replica;
mod replica_targets;
mod restore;
mod retention;
mod rules;
mod sandbox_cli;
mod schedule;
mod sdk;
mod self_heal;
mod signatures;
mod story;
mod supervision;
mod systemd;
mod tasks;
mod templates;
mod third_party;
mod watching;

use integration_tests::Setup;

/// Directories of its own for the program under test.
fn setup() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_echopilot-under-test"))
}
