//! `echopilot alerts replay`: when rules would have fired on what was recorded. Asks a running daemon, or reads the database itself.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use echopilot_actors::{
    env::rfc3339,
    error::{Context as _, Result},
    operations::replay_alerts,
};
use serde_json::{Value as Json, json};

use super::{
    Invocation,
    door::Door,
    exit::Outcome,
    output::{table, text},
    task::{members, past},
};

#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Arguments {
    /// Rules to try, laid over the built-in ones like configs/alerts.toml; without it the rules in force.
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// From when: a time like 2026-03-01T00:00:00Z, or how long ago (90m, 12h, 30d).
    #[arg(long, value_name = "WHEN", default_value = "30d", value_parser = past)]
    since: DateTime<Utc>,
    /// Until when; without it until now.
    #[arg(long, value_name = "WHEN", value_parser = past)]
    until: Option<DateTime<Utc>>,
}

pub(crate) async fn run(invocation: &Invocation, arguments: Arguments) -> Result<Outcome> {
    let rules = match &arguments.rules {
        Some(file) => Some(std::fs::read_to_string(file).context(format!("cannot read {}", file.display()))?),
        None => None,
    };
    let door = Door::open(invocation).await?;
    let result = match &door {
        Door::Daemon(client) => {
            let body = json!({"rules": rules, "since": rfc3339(arguments.since), "until": arguments.until.map(rfc3339)});
            client.post("/api/rules/replay", Some(&body)).await
        }
        Door::Here(daemon) => {
            let until = arguments.until.unwrap_or_else(|| daemon.env.now());
            replay_alerts::run(&daemon.env, rules.as_deref(), arguments.since, until).await
        }
    };
    let answer = door.close(result).await?;
    invocation.print(&answer, || told(&answer));
    Ok(Outcome::of(true))
}

fn told(answer: &Json) -> String {
    let rows: Vec<_> = members(answer, "episodes")
        .map(|e| {
            let labels: Vec<String> = e["labels"]
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(name, _)| !["alertname", "system"].contains(&name.as_str()))
                .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
                .collect();
            let name = format!("{} {}", text(e, "name"), labels.join(" "));
            let until = e["resolved_at"].as_str().unwrap_or("still firing").to_owned();
            vec![text(e, "fired_at"), until, text(e, "severity"), name.trim().to_owned(), text(e, "value"), text(e, "reason")]
        })
        .collect();
    let not_judged: Vec<&str> = members(answer, "not_replayed").filter_map(Json::as_str).collect();
    let observed = format!(
        "{} observations from {} to {}: {} times an alert would have fired\nNot judged again, because parts of the daemon raise them: {}",
        text(answer, "observations"),
        text(answer, "since"),
        text(answer, "until"),
        rows.len(),
        not_judged.join(", "),
    );
    if rows.is_empty() {
        observed
    } else {
        format!("{}\n{observed}", table(&["fired", "resolved", "severity", "rule", "value", "reason"], &rows))
    }
}
