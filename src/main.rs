//! The program `echopilot`. All of it is in the library, so that the test crate runs the very same.

use std::process::ExitCode;

fn main() -> ExitCode {
    echopilot::main()
}
