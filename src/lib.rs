//! The program as a function: `main.rs` and the test crate's binary both call it. `cli` has one file per subcommand, `client`
//! talks to a running daemon.

use std::process::ExitCode;

mod cli;
mod client;

/// Runs the command line of this process and answers its exit code.
pub fn main() -> ExitCode {
    cli::main()
}
