//! `echopilot channels`: which ways of telling a person are on, whether one works, and what was sent. A running daemon is asked; without
//! one the same work is done here.

use echopilot_actors::{error::Result, operations::notifications, store::NotificationFilter};
use serde_json::{Value as Json, json};

use super::{
    Invocation,
    door::{ASKED_BY, Door},
    exit::Outcome,
    output::{state, table, text},
    task::members,
};
use crate::client::segment;

#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub(crate) enum Command {
    /// Every channel: on or off, what is missing, the last error; the exit code is 1 if messages of one were given up.
    List,
    /// Send a test message now; the exit code is 1 if it was not taken.
    Test { channel: String },
    /// What was sent or waits, newest first.
    Sent {
        /// queued, sent, dead or dropped.
        #[arg(long, default_value = "")]
        state: String,
        #[arg(long, default_value = "")]
        channel: String,
        /// An alert's id (al_...).
        #[arg(long, default_value = "")]
        alert: String,
        #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u8).range(1..=100))]
        limit: u8,
    },
    /// Send again what was given up.
    Retry { id: String },
}

pub(crate) async fn run(invocation: &Invocation, command: Command) -> Result<Outcome> {
    let door = Door::open(invocation).await?;
    let result = answer(&door, &command).await;
    let answer = door.close(result).await?;
    invocation.print(&answer, || match &command {
        Command::List => list(&answer),
        Command::Test { channel } => tested(channel, &answer),
        Command::Sent { .. } => sent(&answer),
        Command::Retry { id } => format!("{id} is queued again"),
    });
    let fine = match command {
        Command::List => !members(&answer, "channels").any(|c| c["on"] == true && c["dead"].as_i64() > Some(0)),
        _ => answer["ok"] == true,
    };
    Ok(Outcome::of(fine))
}

async fn answer(door: &Door, command: &Command) -> Result<Json> {
    match (door, command) {
        (Door::Daemon(client), Command::List) => client.get("/api/channels").await,
        (Door::Here(daemon), Command::List) => {
            let all = notifications::channels(&daemon.env).await?;
            Ok(json!({"ok": true, "count": all.len(), "channels": all}))
        }
        (Door::Daemon(client), Command::Test { channel }) => client.post(&format!("/api/channels/{}/test", segment(channel)), None).await,
        (Door::Here(daemon), Command::Test { channel }) => notifications::test(&daemon.env, channel, ASKED_BY).await,
        (Door::Daemon(client), Command::Sent { state, channel, alert, limit }) => {
            let mut path = format!("/api/notifications?limit={limit}");
            for (name, value) in [("state", state), ("channel", channel), ("alert", alert)] {
                if !value.is_empty() {
                    path = format!("{path}&{name}={}", segment(value));
                }
            }
            client.get(&path).await
        }
        (Door::Here(daemon), Command::Sent { state, channel, alert, limit }) => {
            let filter = NotificationFilter { state: state.clone(), channel: channel.clone(), alert: alert.clone(), after: String::new() };
            let (all, next) = notifications::list(&daemon.env, &filter, usize::from(*limit)).await?;
            Ok(json!({"ok": true, "count": all.len(), "notifications": all, "next": next}))
        }
        (Door::Daemon(client), Command::Retry { id }) => client.post(&format!("/api/notifications/{}/retry", segment(id)), None).await,
        (Door::Here(daemon), Command::Retry { id }) => {
            Ok(json!({"ok": true, "notification": notifications::retry(&daemon.env, id, ASKED_BY).await?}))
        }
    }
}

fn list(answer: &Json) -> String {
    let rows: Vec<_> = members(answer, "channels")
        .map(|c| {
            let missing: Vec<_> = members(c, "missing").filter_map(Json::as_str).collect();
            let on = if missing.is_empty() { state("on") } else { format!("off: {}", missing.join(", ")) };
            vec![text(c, "name"), on, text(c, "queued"), text(c, "dead"), text(c, "last_success_at"), text(c, "last_error")]
        })
        .collect();
    table(&["channel", "", "queued", "given up", "last success", "last error"], &rows)
}

fn tested(channel: &str, answer: &Json) -> String {
    if answer["ok"] == true {
        format!("{channel} took it within {} ms", text(answer, "took_ms"))
    } else {
        format!("{channel} did not take it: {}", text(answer, "error"))
    }
}

fn sent(answer: &Json) -> String {
    let row = |n: &Json| {
        let attempts = members(n, "attempts").count().to_string();
        vec![state(&text(n, "state")), text(n, "id"), text(n, "created_at"), attempts, text(n, "title"), text(n, "error")]
    };
    let rows: Vec<_> = members(answer, "notifications").map(row).collect();
    if rows.is_empty() { "There is none.".to_owned() } else { table(&["", "id", "made", "attempts", "title", "error"], &rows) }
}
