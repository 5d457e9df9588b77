//! The very same program as the product's, built in this package so that the tests know its path.

use std::process::ExitCode;

fn main() -> ExitCode {
    echopilot::main()
}
