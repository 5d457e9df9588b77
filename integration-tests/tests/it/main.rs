//! One test binary, a file per theme. Every test starts the real program and looks at it from outside.

mod browser;
mod chaos;
mod cli;
mod conformance;
mod contract;
mod cron;
mod demo;
mod faults;
mod ingest;
mod metrics;
mod money;
mod power;
mod refunds;
mod restore;
mod schedule;
mod sdk;
mod self_heal;
mod story;
mod supervision;
mod systemd;
mod tasks;

use integration_tests::Setup;

/// Directories of its own for the program under test.
fn setup() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_echopilot-under-test"))
}
