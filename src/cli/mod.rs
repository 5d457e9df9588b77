//! The command line: what there is, and which file does it. `main` loads nothing and prints nothing itself except the one
//! sentence of an error.

mod actor;
mod alerts;
mod backup;
mod channels;
mod check;
mod door;
mod exceptions;
mod exit;
mod guard;
mod incidents;
mod journal;
mod keys;
mod ledger;
mod maintenance;
mod output;
mod portal_link;
mod pushes;
mod reconcile;
mod replay;
mod run;
mod sandbox;
mod slo;
mod status;
mod systemd;
mod task;
mod webhooks;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use echopilot_actors::{
    config::{Config, Environment},
    error::{Error, Result},
    tasks,
};

use exit::Outcome;

/// Runs the operations of a business that takes card payments.
#[derive(Clone, Debug, PartialEq, Parser)]
#[command(name = "echopilot", version, max_term_width = 110)]
struct Line {
    /// Settings to lay over configs/echopilot.toml.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, PartialEq, Subcommand)]
enum Command {
    /// Run the daemon in the foreground until SIGTERM or Ctrl-C.
    Run(run::Arguments),
    /// Check configuration, permissions, database, secrets and the provider: what would fail, before it does.
    Check,
    /// List the daemon's parts, release one that was put aside, break one on purpose.
    #[command(subcommand)]
    Actor(actor::Command),
    /// What is wrong, what happened, who looks after it; acknowledge, snooze, silence, replay rules on recorded history.
    #[command(subcommand)]
    Alerts(alerts::Command),
    /// List, run, pause, cancel and make up for the scheduled tasks; see what ran and how well the schedule is kept.
    #[command(subcommand)]
    Task(task::Command),
    /// What the reconciliations found, and what is decided about it.
    #[command(subcommand)]
    Exceptions(exceptions::Command),
    /// What went wrong, one for each cause: list, show, acknowledge, close.
    #[command(subcommand)]
    Incidents(incidents::Command),
    /// Times that do not count in the service levels and keep alerts quiet.
    #[command(subcommand)]
    Maintenance(maintenance::Command),
    /// The service levels, and trial payments from end to end.
    #[command(subcommand)]
    Slo(slo::Command),
    /// Make, list, verify and restore archives.
    #[command(subcommand)]
    Backup(backup::Command),
    /// Reconcile payouts with the ledger: now with the provider, or from files; the exit code is 1 if there are exceptions.
    Reconcile(reconcile::Arguments),
    /// Show the parts and tasks of the running daemon; the exit code is 1 if something is down.
    Status,
    /// Prove that the journal was not tampered with.
    #[command(subcommand)]
    Journal(journal::Command),
    /// Make, list and revoke API keys.
    #[command(subcommand)]
    Keys(keys::Command),
    /// Drive the built-in sandbox of the running daemon: faults, clock, disputes, deliveries, a fresh start.
    #[command(subcommand)]
    Sandbox(sandbox::Command),
    /// List what the provider delivered, process it again, find what never came.
    #[command(subcommand)]
    Webhooks(webhooks::Command),
    /// List the ledger's rows and balances, append corrections.
    #[command(subcommand)]
    Ledger(ledger::Command),
    /// Ways of telling a person: which are on, whether one works, what was sent.
    #[command(subcommand)]
    Channels(channels::Command),
    /// Jobs of your own that report here.
    #[command(subcommand)]
    Pushes(pushes::Command),
    /// Make a signed link to a customer's page.
    PortalLink(portal_link::Arguments),
}

/// What every command starts from.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    pub(crate) config_file: Option<PathBuf>,
    pub(crate) environment: Environment,
    /// Print JSON instead of text.
    pub(crate) json: bool,
}

impl Invocation {
    /// The settings in force. Errors name the key and where it was set.
    pub(crate) fn config(&self) -> Result<Config> {
        let config = Config::load(self.config_file.as_deref(), &self.environment)?;
        tasks::configured(&config)?; // what a section about a task says is known only where the tasks are
        Ok(config)
    }
}

/// Reads this process's arguments and does what they ask.
pub(crate) fn main() -> ExitCode {
    let line = Line::parse();
    let _ = rustls::crypto::ring::default_provider().install_default(); // nothing else installs one this early
    let environment = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect();
    let invocation = Invocation { config_file: line.config, environment, json: line.json };
    let runtime = runtime();
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

/// At least two workers, also on one core: when a handler blocks one, the supervisor needs the other.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        builder.worker_threads(std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2)));
    }
    builder.enable_all().build()
}

async fn dispatch(invocation: &Invocation, command: Command) -> Result<Outcome> {
    match command {
        Command::Run(arguments) => run::run(invocation, arguments).await,
        Command::Check => check::run(invocation).await,
        Command::Actor(command) => actor::run(invocation, command).await,
        Command::Alerts(command) => alerts::run(invocation, command).await,
        Command::Task(command) => task::run(invocation, command).await,
        Command::Exceptions(command) => exceptions::run(invocation, command).await,
        Command::Incidents(command) => incidents::run(invocation, command).await,
        Command::Maintenance(command) => maintenance::run(invocation, command).await,
        Command::Slo(command) => slo::run(invocation, command).await,
        Command::Backup(command) => backup::run(invocation, command).await,
        Command::Reconcile(arguments) => reconcile::run(invocation, arguments).await,
        Command::Status => status::run(invocation).await,
        Command::Journal(command) => journal::run(invocation, &command).await,
        Command::Keys(command) => keys::run(invocation, command).await,
        Command::Sandbox(command) => sandbox::run(invocation, command).await,
        Command::Webhooks(command) => webhooks::run(invocation, command).await,
        Command::Ledger(command) => ledger::run(invocation, command).await,
        Command::Channels(command) => channels::run(invocation, command).await,
        Command::Pushes(command) => pushes::run(invocation, command).await,
        Command::PortalLink(arguments) => portal_link::run(invocation, &arguments).await,
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

    #[test]
    fn the_commands_that_runbooks_name_exist() {
        use clap::CommandFactory as _;
        let rules = echopilot_actors::config::DEFAULT_RULES;
        let named: Vec<&str> = rules.split('`').skip(1).step_by(2).filter(|text| text.starts_with("echopilot ")).collect();
        assert!(named.len() > 10, "{named:?}");
        for text in named {
            let mut command = Line::command();
            for word in text.split(' ').skip(1) {
                if !command.has_subcommands() {
                    break;
                }
                command = command.find_subcommand(word).unwrap_or_else(|| panic!("there is no `{text}`")).clone();
            }
        }
    }

    #[test]
    fn arguments_are_read_as_the_specification_writes_them() {
        let parse = |text: &str| Line::try_parse_from(text.split(' '));
        let run = parse("echopilot run --demo --ready-file /tmp/r --config c.toml").unwrap();
        assert_eq!(run.config, Some("c.toml".into()));
        assert_eq!(
            run.command,
            Command::Run(run::Arguments { demo: true, demo_seed: 1869, demo_days: 365, ready_file: Some("/tmp/r".into()) })
        );
        for fine in [
            "restore 2026-01-31 --to out --dry-run --json",
            "restore latest --to out logs configs/echopilot.toml --conflict overwrite --links skip --owners --setuid",
            "restore --at 2026-01-31T12:00:00Z --to out --ready --identity key.txt",
            "restore x.tar.gz --to out --salvage",
            "run --dry-run",
            "verify latest --sample 5% --seed 3",
            "cat latest logs/a",
            "files latest",
            "files latest logs",
            "diff 2026-01-30 2026-01-31 --json",
            "prune --dry-run",
        ] {
            assert!(parse(&format!("echopilot backup {fine}")).is_ok(), "{fine}");
        }
        for wrong in [
            "restore latest",
            "restore --to out",
            "restore latest --to out --ready --conflict skip",
            "restore latest --to out --at soon",
            "verify latest --sample 0%",
            "verify latest --seed 3",
            "verify",
            "cat latest",
            "diff latest",
        ] {
            assert_eq!(parse(&format!("echopilot backup {wrong}")).expect_err("refused").exit_code(), 2, "{wrong}");
        }
        for fine in ["task run payout_recon", "task list", "task next heartbeat -n 3", "backup run", "backup verify 2026-01-31", "status"] {
            assert!(parse(&format!("echopilot {fine}")).is_ok(), "{fine}");
        }
        for fine in [
            "reconcile",
            "reconcile --payouts p --balance-transactions - --ledger l.gz --now 5 --out o",
            "reconcile --csv a --csv b --ledger l --now 5",
        ] {
            assert!(parse(&format!("echopilot {fine}")).is_ok(), "{fine}");
        }
        for wrong in ["reconcile --payouts p", "reconcile --ledger l", "reconcile --now 5", "reconcile --ledger l --now soon"] {
            assert_eq!(parse(&format!("echopilot {wrong}")).expect_err("refused").exit_code(), 2, "{wrong}");
        }
        for fine in ["actor list", "actor release slo", "actor drill slo", "actor drill slo --kind hang"] {
            assert!(parse(&format!("echopilot {fine}")).is_ok(), "{fine}");
        }
        for fine in
            ["channels list", "channels test email", "channels sent --state dead -n 5", "channels retry x", "pushes list", "pushes show x"]
        {
            assert!(parse(&format!("echopilot {fine}")).is_ok(), "{fine}");
        }
        for fine in ["check", "journal verify", "portal-link a@example.com", "keys create ci --scope read", "keys list", "keys revoke k"] {
            assert!(parse(&format!("echopilot {fine}")).is_ok(), "{fine}");
        }
        for fine in ["incidents list --state all", "incidents show inc_1", "incidents ack inc_1", "incidents close inc_1 --reason over"] {
            assert!(parse(&format!("echopilot {fine}")).is_ok(), "{fine}");
        }
        for fine in
            ["exceptions list", "exceptions list --status resolved --scope finance", "exceptions resolve exc_1 --reason paid", "slo trial"]
        {
            assert!(parse(&format!("echopilot {fine}")).is_ok(), "{fine}");
        }
        for fine in [
            "slo report",
            "slo objective webhooks",
            "slo export --out o.yaml",
            "slo import f.yaml --dry-run",
            "slo judge --minutes m.ndjson --objective api",
            "slo judge --minutes m.ndjson --target 0.999 --from 2026-01-01T00:00:00Z --every 5",
            "maintenance list",
            "maintenance start --minutes 30 --reason move --service webhooks --system api",
            "maintenance end mnt_1",
        ] {
            assert!(parse(&format!("echopilot {fine}")).is_ok(), "{fine}");
        }
        for fine in
            ["chaos", "chaos drop_webhook=0.2 slow_ms=5", "clock", "clock advance 2d", "dispute ch_1", "reset", "events", "events evt_1"]
        {
            assert!(parse(&format!("echopilot sandbox {fine}")).is_ok(), "{fine}");
        }
        for wrong in
            ["sandbox", "sandbox chaos drop_webhook", "sandbox chaos slow_ms=much", "sandbox clock advance soon", "sandbox dispute"]
        {
            assert_eq!(parse(&format!("echopilot {wrong}")).expect_err("refused").exit_code(), 2, "{wrong}");
        }
        for fine in [
            "task show heartbeat",
            "task pause heartbeat --reason x --until 2h",
            "task resume heartbeat",
            "task cancel run_1",
            "task level",
        ] {
            assert!(parse(&format!("echopilot {fine}")).is_ok(), "{fine}");
        }
        for fine in [
            "webhooks list --status failed --type charge.succeeded",
            "webhooks show evt_1",
            "webhooks replay evt_1 evt_2 --dry-run",
            "webhooks replay --since 2026-03-01T00:00:00Z",
            "webhooks gaps --dry-run",
            "ledger list --kind refund",
            "ledger balances --as-of 2026-03-01T00:00:00Z",
            "ledger correct le_1 --amount -5 --reason typo --dry-run",
        ] {
            assert!(parse(&format!("echopilot {fine}")).is_ok(), "{fine}");
        }
        assert!(parse("echopilot task backfill heartbeat --from 2026-03-01 --to 2026-03-02T00:00:00Z --redo-failed --dry-run").is_ok());
        for wrong in
            ["task pause", "task pause heartbeat --until soon", "task backfill heartbeat --from 2026-03-01", "task level --hours 0"]
        {
            assert_eq!(parse(&format!("echopilot {wrong}")).expect_err("refused").exit_code(), 2, "{wrong}");
        }
        for wrong in [
            "",
            "nonsense",
            "backup restore 2026-01-31",
            "keys create ci",
            "keys create ci --scope root",
            "task run",
            "actor drill slo --kind melt",
        ] {
            assert_eq!(parse(&format!("echopilot {wrong}")).expect_err("refused").exit_code(), 2, "{wrong}");
        }
    }
}
