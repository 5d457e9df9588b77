//! `echopilot slo`: the verdict on the service level, and trial payments from end to end. Both need a running daemon: it has the figures.

use echopilot_actors::error::{Error, Result};
use serde_json::Value as Json;

use super::{
    Invocation, door,
    exit::Outcome,
    output::{state, table, text},
    task::members,
};

#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub(crate) enum Command {
    /// PASS, FAIL or NO_DATA, and why; the exit code is 1 on FAIL.
    Status,
    /// List the latest trial payments.
    Trials,
    /// Make a trial payment now; the exit code is 1 if it fails.
    Trial,
}

pub(crate) async fn run(invocation: &Invocation, command: Command) -> Result<Outcome> {
    let config = invocation.config()?;
    let Some(client) = door::running(&config, &invocation.environment)? else {
        let message = format!("no daemon runs on {}: start one with `echopilot run`", config.paths.data.display());
        return Err(Error::unavailable("not_running", message));
    };
    let answer = match command {
        Command::Status => client.get("/api/slo/status").await?,
        Command::Trials => client.get("/api/slo/canary").await?,
        Command::Trial => client.post("/api/slo/canary/run", None).await?,
    };
    invocation.print(&answer, || match command {
        Command::Status => format!("{}: {}", text(&answer, "status"), text(&answer["details"], "clause")),
        Command::Trials => trials(&answer),
        Command::Trial => told(&answer["trial"]),
    });
    Ok(Outcome::of(answer["ok"] == true && answer["breach"] != true))
}

fn trials(answer: &Json) -> String {
    let rows: Vec<_> = members(answer, "trials")
        .map(|t| {
            vec![
                state(&text(t, "state")),
                text(t, "started_at"),
                took(t, "paid_ms"),
                took(t, "refunded_ms"),
                text(t, "step"),
                text(t, "error"),
            ]
        })
        .collect();
    if rows.is_empty() {
        "None has been made.".to_owned()
    } else {
        table(&["state", "started", "paid", "refunded", "step", "error"], &rows)
    }
}

fn told(trial: &Json) -> String {
    match trial["error"].as_str() {
        None => {
            format!("passed: paid in {}, refunded in {}, both webhooks took effect", took(trial, "paid_ms"), took(trial, "refunded_ms"))
        }
        Some(error) => format!("failed at the step {}: {error}", text(trial, "step")),
    }
}

fn took(trial: &Json, member: &str) -> String {
    trial[member].as_i64().map_or_else(String::new, |ms| format!("{ms} ms"))
}
