//! `echopilot actor`: the parts of the running daemon, releasing one that was put aside, breaking one on purpose.

use echopilot_actors::error::{Error, Result};
use serde_json::{Value as Json, json};

use super::{
    Invocation, door,
    exit::Outcome,
    output::{Colour, coloured, state, table, text},
    task::members,
};
use crate::client::{Client, segment};

#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub(crate) enum Command {
    /// List the parts: state, restarts, what waits for them, how long they have been at it.
    List,
    /// Start a part that was put aside, before its cool-down ends.
    Release {
        /// The part's name, as in `actor list`.
        name: String,
    },
    /// Break a part on purpose, to see it come back (only with supervisor.drills).
    Drill {
        /// The part's name, as in `actor list`.
        name: String,
        /// How: its handler panics, waits for ever, or blocks its thread for ever (which ends the process).
        #[arg(long, default_value = "panic", value_parser = ["panic", "hang", "spin"])]
        kind: String,
    },
}

pub(crate) async fn run(invocation: &Invocation, command: Command) -> Result<Outcome> {
    let config = invocation.config()?;
    let client = door::running(&config, &invocation.environment)?.ok_or_else(|| {
        let data = config.paths.data.display();
        Error::unavailable("not_running", format!("no daemon runs on {data}, so there are no parts: start one with `echopilot run`"))
    })?;
    match command {
        Command::List => {
            let answer = client.get("/api/supervisor/status").await?;
            invocation.print(&answer, || tree(&answer));
        }
        Command::Release { name } => {
            let answer = post(&client, &name, "release", None).await?;
            invocation.print(&answer, || format!("{name} is released and starts now"));
        }
        Command::Drill { name, kind } => {
            let answer = post(&client, &name, "drill", Some(&json!({ "kind": kind }))).await?;
            invocation.print(&answer, || format!("{name} was broken on purpose ({kind}); `echopilot status` shows what becomes of it"));
        }
    }
    Ok(Outcome::Fine)
}

async fn post(client: &Client, name: &str, what: &str, body: Option<&Json>) -> Result<Json> {
    client.post(&format!("/api/supervisor/{}/{what}", segment(name)), body).await
}

/// The tree as a table, and below it why parts are down; also part of `status`.
pub(crate) fn tree(answer: &Json) -> String {
    let rows: Vec<Vec<String>> = members(answer, "tree").map(row).collect();
    let heading = ["PART", "STATE", "GEN", "RESTARTS", "UP (S)", "WAITING", "BUSY (MS)", "LONGEST (MS)", "LAST FAILURE"];
    let mut lines = vec![table(&heading, &rows)];
    for child in members(answer, "tree").filter(|c| !c["down"].is_null()) {
        let until = child["quarantined_until"].as_str().map(|until| format!("; tried again at {until}")).unwrap_or_default();
        lines.push(coloured(Colour::Red, &format!("{}: {}{until}", text(child, "name"), text(child, "down"))));
    }
    lines.join("\n")
}

fn row(child: &Json) -> Vec<String> {
    let critical = if child["critical"] == true { " *" } else { "" };
    vec![
        format!("{}{critical}", text(child, "name")),
        state(&text(child, "state")),
        text(child, "generation"),
        text(child, "restarts"),
        text(child, "uptime_s"),
        text(child, "mailbox_depth"),
        text(child, "in_handler_ms"),
        text(child, "handler_longest_ms"),
        text(child, "last_failure").lines().next().unwrap_or_default().chars().take(80).collect(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_is_down_says_why_below_the_table() {
        let answer = json!({"tree": [
            {"name": "ingest", "critical": true, "state": "running", "generation": 2, "restarts": 1, "uptime_s": 5, "mailbox_depth": 3,
             "in_handler_ms": null, "handler_longest_ms": 40, "last_failure": "drill\nat line 3", "down": null, "quarantined_until": null},
            {"name": "recon", "critical": false, "state": "quarantined", "generation": 6, "restarts": 6, "uptime_s": null, "mailbox_depth": 0,
             "in_handler_ms": null, "handler_longest_ms": 0, "last_failure": "boom", "down": "put aside, failed too often",
             "quarantined_until": "2026-01-01T00:05:00Z"}]});
        let shown = tree(&answer);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 4, "{shown}");
        assert!(lines[1].starts_with("ingest *  running") && lines[1].ends_with("drill"), "{shown}");
        assert_eq!(lines[3], "recon: put aside, failed too often; tried again at 2026-01-01T00:05:00Z");
    }
}
