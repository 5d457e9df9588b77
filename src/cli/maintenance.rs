//! `echopilot maintenance`: times that do not count and keep alerts quiet; and corrections of times that were. Asks the running daemon.

use echopilot_actors::error::{Error, Result};
use serde_json::{Value as Json, json};

use super::{
    Invocation, door,
    exit::Outcome,
    output::{table, text},
    task::members,
};
use crate::client::segment;

#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub(crate) enum Command {
    /// List maintenance and corrections, newest first.
    List,
    /// Begin maintenance now, or plan it.
    Start {
        /// How many minutes it takes.
        #[arg(long)]
        minutes: i64,
        /// Why: it stays visible in every report.
        #[arg(long)]
        reason: String,
        /// Whose events do not count, e.g. webhooks or push:shop; all, if it is not said.
        #[arg(long, default_value = "")]
        service: String,
        /// Whose alerts are kept quiet, e.g. api; may be given several times. All, if it is not said.
        #[arg(long = "system", value_name = "SYSTEM")]
        systems: Vec<String>,
        /// When it begins (RFC 3339); now, if it is not said.
        #[arg(long)]
        at: Option<chrono::DateTime<chrono::Utc>>,
    },
    /// Leave a past time out, e.g. an outage of somebody else.
    Correct {
        #[arg(long)]
        from: chrono::DateTime<chrono::Utc>,
        #[arg(long)]
        to: chrono::DateTime<chrono::Utc>,
        #[arg(long)]
        reason: String,
        #[arg(long, default_value = "")]
        service: String,
    },
    /// End maintenance now, or withdraw a correction.
    End { id: String },
}

pub(crate) async fn run(invocation: &Invocation, command: Command) -> Result<Outcome> {
    let config = invocation.config()?;
    let Some(client) = door::running(&config, &invocation.environment)? else {
        let message = format!("no daemon runs on {}: start one with `echopilot run`", config.paths.data.display());
        return Err(Error::unavailable("not_running", message));
    };
    let answer = match &command {
        Command::List => {
            let mut answer = client.get("/api/maintenance?limit=100").await?;
            answer["corrections"] = client.get("/api/slo/corrections?limit=100").await?["corrections"].take();
            answer
        }
        Command::Start { minutes, reason, service, systems, at } => {
            let mut body = json!({"minutes": minutes, "reason": reason, "service": service, "systems": systems});
            if let Some(at) = at {
                body["starts_at"] = at.to_rfc3339().into();
            }
            client.post("/api/maintenance", Some(&body)).await?
        }
        Command::Correct { from, to, reason, service } => {
            let body = json!({"starts_at": from, "ends_at": to, "reason": reason, "service": service});
            client.post("/api/slo/corrections", Some(&body)).await?
        }
        Command::End { id } => client.post(&format!("/api/maintenance/{}/end", segment(id)), None).await?,
    };
    invocation.print(&answer, || match &command {
        Command::List => list(&answer),
        _ => one(&answer["maintenance"]),
    });
    Ok(Outcome::of(answer["ok"] == true))
}

fn list(answer: &Json) -> String {
    let both = members(answer, "maintenance").chain(members(answer, "corrections"));
    let rows: Vec<_> = both
        .map(|m| ["id", "kind", "state", "service", "starts_at", "ends_at", "author", "reason"].map(|name| text(m, name)).to_vec())
        .collect();
    if rows.is_empty() {
        "None.".to_owned()
    } else {
        table(&["id", "kind", "state", "service", "from", "until", "author", "reason"], &rows)
    }
}

fn one(m: &Json) -> String {
    format!(
        "{}: {} {}, {} to {}: {}",
        text(m, "id"),
        text(m, "kind"),
        text(m, "state"),
        text(m, "starts_at"),
        text(m, "ends_at"),
        text(m, "reason")
    )
}
