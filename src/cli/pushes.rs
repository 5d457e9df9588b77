//! `echopilot pushes`: how the jobs stand that report to us, and where each is to report. A running daemon is asked; without one the
//! store is.

use echopilot_actors::{error::Result, operations::pushes};
use serde_json::{Value as Json, json};

use super::{
    Invocation,
    door::Door,
    exit::Outcome,
    output::{state, table, text},
    task::members,
};
use crate::client::segment;

#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub(crate) enum Command {
    /// Every job with its state and its ping URL; the exit code is 1 if one is down.
    List,
    /// One job with its last reports; the exit code is 1 if it is down.
    Show { name: String },
}

pub(crate) async fn run(invocation: &Invocation, command: Command) -> Result<Outcome> {
    let door = Door::open(invocation).await?;
    let result = answer(&door, &command).await;
    let answer = door.close(result).await?;
    invocation.print(&answer, || match &command {
        Command::List => list(&answer),
        Command::Show { .. } => one(&answer["push"]),
    });
    let down = answer["push"]["state"] == "down" || members(&answer, "pushes").any(|p| p["state"] == "down");
    Ok(Outcome::of(!down))
}

async fn answer(door: &Door, command: &Command) -> Result<Json> {
    match (door, command) {
        (Door::Daemon(client), Command::List) => client.get("/api/pushes").await,
        (Door::Daemon(client), Command::Show { name }) => client.get(&format!("/api/pushes/{}", segment(name))).await,
        (Door::Here(daemon), Command::List) => {
            let all = pushes::list(&daemon.env, true).await?;
            Ok(json!({"ok": true, "count": all.len(), "pushes": all}))
        }
        (Door::Here(daemon), Command::Show { name }) => {
            Ok(json!({"ok": true, "push": pushes::one(&daemon.env, name, true, i64::MAX, 20).await?}))
        }
    }
}

fn list(answer: &Json) -> String {
    let row = |p: &Json| vec![state(&text(p, "state")), text(p, "name"), text(p, "plan"), text(p, "reason"), text(p, "ping_url")];
    let rows: Vec<_> = members(answer, "pushes").map(row).collect();
    if rows.is_empty() {
        "There is none: a section [pushes.NAME] in the configuration makes one.".to_owned()
    } else {
        table(&["", "name", "plan", "reason", "ping URL"], &rows)
    }
}

fn one(p: &Json) -> String {
    let mut lines = vec![format!("{} is {}: {}", text(p, "name"), text(p, "state"), text(p, "reason"))];
    for name in ["plan", "due_at", "last_start_at", "last_end_at", "exit_status", "duration_ms", "ping_url"] {
        if !p[name].is_null() {
            lines.push(format!("{name:<24}{}", text(p, name)));
        }
    }
    for ping in members(p, "pings") {
        lines.push(format!("{}  {:<8} {}", text(ping, "at"), text(ping, "kind"), text(ping, "body").lines().next().unwrap_or_default()));
    }
    lines.join("\n")
}
