//! The command line: what there is, and which file does it. `main` loads nothing and prints nothing itself except the one
//! sentence of an error.

mod exit;
mod output;
mod run;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use echopilot_actors::{
    config::{Config, Environment},
    error::{Error, Result},
};

use exit::Outcome;

/// Runs the operations of a business that takes card payments.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "echopilot", version, max_term_width = 110)]
struct Line {
    /// Settings to lay over configs/echopilot.toml.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
enum Command {
    /// Run the daemon in the foreground until SIGTERM or Ctrl-C.
    Run(run::Arguments),
}

/// What every command starts from.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    pub(crate) config_file: Option<PathBuf>,
    pub(crate) environment: Environment,
}

impl Invocation {
    /// The settings in force. Errors name the key and where it was set.
    pub(crate) fn config(&self) -> Result<Config> {
        Config::load(self.config_file.as_deref(), &self.environment)
    }
}

/// Reads this process's arguments and does what they ask.
pub(crate) fn main() -> ExitCode {
    let line = Line::parse();
    let _ = rustls::crypto::ring::default_provider().install_default(); // nothing else installs one this early
    let environment = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect();
    let invocation = Invocation { config_file: line.config, environment };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(dispatch(&invocation, line.command));
            runtime.shutdown_timeout(std::time::Duration::from_secs(1));
            result
        }
        Err(error) => Err(Error::from(error)),
    };
    match result {
        Ok(outcome) => ExitCode::from(outcome.exit_code()),
        Err(error) => {
            eprintln!("echopilot: {error}");
            ExitCode::from(exit::code_of(&error))
        }
    }
}

async fn dispatch(invocation: &Invocation, command: Command) -> Result<Outcome> {
    match command {
        Command::Run(arguments) => run::run(invocation, arguments).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Line::command().debug_assert();
    }
}
