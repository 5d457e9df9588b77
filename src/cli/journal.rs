//! `echopilot journal verify`: walks the hash chains and names what was changed, removed or reordered, and where.

use echopilot_actors::{
    daemon,
    error::{Code, Error, Result},
    store::Store,
};
use serde_json::Value as Json;

use super::{
    Invocation, door,
    exit::Outcome,
    output::{state, text},
    task::members,
};

#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub(crate) enum Command {
    /// Verify every chain; the exit code is 1 if an entry was changed, removed or reordered.
    Verify,
}

pub(crate) async fn run(invocation: &Invocation, command: &Command) -> Result<Outcome> {
    let Command::Verify = command;
    let config = invocation.config()?;
    let report = match door::running(&config, &invocation.environment)? {
        Some(client) => client.get("/api/journal/verify").await?,
        None => here(&config).await?,
    };
    invocation.print(&report, || told(&report));
    Ok(Outcome::of(report["ok"] == true))
}

/// Reads the database itself: a broken journal must not be written to before it is looked at.
async fn here(config: &echopilot_actors::config::Config) -> Result<Json> {
    let path = config.database_path();
    if !path.exists() {
        let message = format!("there is no database {}: nothing has been journalled yet", path.display());
        return Err(Error::new(Code::NotFound, "file_not_found", message));
    }
    let _lock = daemon::take_lock(&config.paths.data)?;
    let store = Store::open(&path, "verify")?;
    let report = store.verify_journal().await;
    store.close().await?;
    Ok(serde_json::to_value(report?)?)
}

fn told(report: &Json) -> String {
    let mut lines: Vec<String> = members(report, "breaks")
        .map(|b| format!("{} chain {} at {}: {}", state("failed"), text(b, "writer"), text(b, "seq"), text(b, "explanation")))
        .collect();
    let chains = members(report, "chains").count();
    let verdict = if report["ok"] == true { "every chain is whole" } else { "the journal is broken" };
    lines.push(format!("{} entries in {chains} {}: {verdict}", text(report, "entries"), if chains == 1 { "chain" } else { "chains" }));
    lines.join("\n")
}
