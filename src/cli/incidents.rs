//! `echopilot incidents`: what went wrong, one for each cause, with its timeline and the payments in its time. A running daemon is asked;
//! without one the store is.

use echopilot_actors::{domain::money, error::Result, operations::incidents};
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
    /// List them; the exit code is 1 if one is open.
    List {
        /// open, closed or all.
        #[arg(long, default_value = "open")]
        state: String,
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show one with its timeline.
    Show { id: String },
    /// Somebody looks into it.
    Ack { id: String },
    /// It is over; it opens again if it is not.
    Close {
        id: String,
        #[arg(long)]
        reason: String,
    },
}

pub(crate) async fn run(invocation: &Invocation, command: Command) -> Result<Outcome> {
    let door = Door::open(invocation).await?;
    let result = answer(&door, &command).await;
    let answer = door.close(result).await?;
    invocation.print(&answer, || match &command {
        Command::List { .. } => list(&answer),
        _ => one(&answer["incident"]),
    });
    Ok(Outcome::of(!members(&answer, "incidents").any(|i| i["state"] == "open")))
}

async fn answer(door: &Door, command: &Command) -> Result<Json> {
    let path = |id: &str| format!("/api/incidents/{}", segment(id));
    match command {
        Command::List { state, limit } => {
            let state = if state == "all" { "" } else { state };
            match door {
                Door::Daemon(client) => client.all(&format!("/api/incidents?state={}", segment(state)), "incidents", *limit).await,
                Door::Here(daemon) => {
                    let (found, _) = incidents::list(&daemon.env, state, "", *limit).await?;
                    Ok(json!({"ok": true, "count": found.len(), "incidents": found}))
                }
            }
        }
        Command::Show { id } => match door {
            Door::Daemon(client) => client.get(&path(id)).await,
            Door::Here(daemon) => Ok(json!({"ok": true, "incident": incidents::one(&daemon.env, id).await?})),
        },
        Command::Ack { id } => match door {
            Door::Daemon(client) => client.post(&format!("{}/ack", path(id)), None).await,
            Door::Here(daemon) => Ok(json!({"ok": true, "incident": incidents::acknowledge(&daemon.env, id, ASKED_BY).await?})),
        },
        Command::Close { id, reason } => match door {
            Door::Daemon(client) => client.post(&format!("{}/close", path(id)), Some(&json!({"reason": reason}))).await,
            Door::Here(daemon) => Ok(json!({"ok": true, "incident": incidents::close(&daemon.env, id, ASKED_BY, reason).await?})),
        },
    }
}

fn list(answer: &Json) -> String {
    let rows: Vec<_> = members(answer, "incidents")
        .map(|i| {
            let who = i["acknowledged_by"].as_str().unwrap_or_default().to_owned();
            vec![
                state(&text(i, "severity")),
                text(i, "id"),
                text(i, "state"),
                text(i, "title"),
                text(i, "count"),
                at_risk(i),
                text(i, "opened_at"),
                who,
            ]
        })
        .collect();
    if rows.is_empty() {
        return "There is none.".to_owned();
    }
    table(&["", "id", "state", "title", "seen", "at risk", "opened", "looked into by"], &rows)
}

fn at_risk(incident: &Json) -> String {
    let amounts = members(incident, "money").filter(|m| m["at_risk_payments"] != 0);
    amounts.map(|m| money::display(m["at_risk_minor"].as_i64().unwrap_or_default(), &text(m, "currency"))).collect::<Vec<_>>().join(", ")
}

fn one(i: &Json) -> String {
    let mut lines = vec![format!("{} {} ({}), {}", text(i, "id"), text(i, "title"), text(i, "severity"), text(i, "state"))];
    for name in ["key", "opened_at", "last_seen", "closed_at", "close_reason", "closed_by", "acknowledged_by", "count", "reopened"] {
        if !i[name].is_null() {
            lines.push(format!("{name:<18}{}", text(i, name)));
        }
    }
    for m in members(i, "money") {
        let amount = |name: &str| money::display(m[name].as_i64().unwrap_or_default(), &text(m, "currency"));
        lines.push(format!(
            "payments          {} of {} not through ({} customers), {} of {} through",
            m["at_risk_payments"],
            amount("at_risk_minor"),
            m["customers"],
            m["paid_payments"],
            amount("paid_minor")
        ));
    }
    for signal in members(i, "signals") {
        let effect = if signal["is_effect"] == true { "effect" } else { "signal" };
        lines.push(format!(
            "{effect:<18}{} ({}, {} times): {}",
            text(signal, "title"),
            text(signal, "source"),
            signal["count"],
            text(signal, "text")
        ));
    }
    lines.extend(i["samples"].as_array().into_iter().flatten().map(|s| format!("sample            {}", s.as_str().unwrap_or_default())));
    lines.extend(members(i, "timeline").map(|e| format!("{}  {:<14}{}", text(e, "at"), text(e, "kind"), text(e, "text"))));
    lines.join("\n")
}
