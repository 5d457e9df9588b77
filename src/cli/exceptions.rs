//! `echopilot exceptions`: what the reconciliations found, and what is decided about it. A running daemon is asked; without one the store is.

use echopilot_actors::{
    domain::money,
    error::Result,
    operations::exceptions::{self, Decision},
    store::ExceptionFilter,
};
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
        /// open, acknowledged, resolved, auto_resolved or all.
        #[arg(long, default_value = "open")]
        status: String,
        /// payouts or finance.
        #[arg(long, default_value = "")]
        scope: String,
        /// Such as amount_mismatch.
        #[arg(long, default_value = "")]
        kind: String,
    },
    /// Show one with its evidence.
    Show { id: String },
    /// Somebody is looking into it: quiet until either side says something else.
    Acknowledge {
        id: String,
        #[arg(long)]
        reason: String,
    },
    /// It is settled as it is: quiet until either side says something else.
    Resolve {
        id: String,
        #[arg(long)]
        reason: String,
    },
    /// It was decided too early.
    Reopen {
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
        _ => one(&answer["exception"]),
    });
    Ok(Outcome::of(!members(&answer, "exceptions").any(|e| e["status"] == "open")))
}

async fn answer(door: &Door, command: &Command) -> Result<Json> {
    match command {
        Command::List { status, scope, kind } => {
            let status = if status == "all" { "" } else { status };
            let filter = ExceptionFilter { scope: scope.clone(), status: status.to_owned(), kind: kind.clone(), payout: String::new() };
            match door {
                Door::Here(daemon) => {
                    let all = exceptions::list(&daemon.env, &filter).await?;
                    Ok(json!({"ok": true, "count": all.len(), "exceptions": all}))
                }
                Door::Daemon(client) => {
                    let given =
                        [("status", status), ("scope", scope.as_str()), ("kind", kind)].into_iter().filter(|(_, value)| !value.is_empty());
                    let query: Vec<_> = given.map(|(name, value)| format!("{name}={}", segment(value))).collect();
                    client.all(&format!("/api/recon/exceptions?{}", query.join("&")), "exceptions", usize::MAX).await
                }
            }
        }
        Command::Show { id } => match door {
            Door::Daemon(client) => client.get(&format!("/api/recon/exceptions/{}", segment(id))).await,
            Door::Here(daemon) => Ok(json!({"ok": true, "exception": exceptions::one(&daemon.env, id).await?})),
        },
        Command::Acknowledge { id, reason } => decide(door, id, Decision::Acknowledge, "acknowledge", reason).await,
        Command::Resolve { id, reason } => decide(door, id, Decision::Resolve, "resolve", reason).await,
        Command::Reopen { id, reason } => decide(door, id, Decision::Reopen, "reopen", reason).await,
    }
}

async fn decide(door: &Door, id: &str, decision: Decision, verb: &str, reason: &str) -> Result<Json> {
    match door {
        Door::Daemon(client) => {
            client.post(&format!("/api/recon/exceptions/{}/{verb}", segment(id)), Some(&json!({"reason": reason}))).await
        }
        Door::Here(daemon) => Ok(json!({"ok": true, "exception": exceptions::decide(&daemon.env, id, decision, reason, ASKED_BY).await?})),
    }
}

fn list(answer: &Json) -> String {
    let rows: Vec<_> = members(answer, "exceptions")
        .map(|e| {
            let risk = e["at_risk_minor"].as_i64().map_or_else(String::new, |minor| money::display(minor, &text(e, "currency")));
            vec![state(&text(e, "severity")), text(e, "id"), text(e, "kind"), risk, text(e, "status"), text(e, "explanation")]
        })
        .collect();
    if rows.is_empty() { "There is none.".to_owned() } else { table(&["", "id", "kind", "at risk", "state", "explanation"], &rows) }
}

fn one(e: &Json) -> String {
    let mut lines =
        vec![format!("{} {} ({}), {}", text(e, "id"), text(e, "kind"), text(e, "severity"), text(e, "status")), text(e, "explanation")];
    for name in ["payout_id", "balance_transaction_id", "source_id", "invoice_id", "first_seen", "last_seen", "occurrences"] {
        if !e[name].is_null() {
            lines.push(format!("{name:<24}{}", text(e, name)));
        }
    }
    for item in members(e, "evidence") {
        lines.push(format!("{:<24}ledger {}, provider {}", text(item, "field"), item["ledger"], item["provider"]));
    }
    lines.extend(
        members(e, "suspects").map(|s| format!("{:<24}{} ({})", "might explain it", s["balance_transaction_ids"], text(s, "reason"))),
    );
    lines.push(text(e, "suggested_action"));
    if !e["decided_by"].is_null() {
        lines.push(format!("decided by {} at {}: {}", text(e, "decided_by"), text(e, "decided_at"), text(e, "decision")));
    }
    lines.join("\n")
}
