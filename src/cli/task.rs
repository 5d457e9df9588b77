//! `echopilot task`: what is scheduled, running one now, what ran and what comes next.

use chrono::{DateTime, Utc};
use echopilot_actors::{
    domain::schedule::Schedule,
    env::{Clock, rfc3339},
    error::{Error, Result},
    tasks,
};
use serde_json::{Value as Json, json};

use super::{
    Invocation,
    door::{Door, known},
    exit::Outcome,
    output::{Colour, coloured, say, say_json, state, table, text},
};

#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub(crate) enum Command {
    /// List every task with its schedule, its last run and its next.
    List,
    /// Run a task now and wait for its end; the exit code is 1 if it failed.
    Run {
        /// The task's name, as in `task list`.
        name: String,
    },
    /// Show a task's runs, newest first.
    History {
        /// The task's name, as in `task list`.
        name: String,
        /// How many runs.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
        limit: u32,
    },
    /// Show when a task, or a schedule that is only being tried out, is due next (UTC; with a zone also its local time).
    Next {
        /// The task's name, as in `task list`.
        #[arg(required_unless_present = "cron", conflicts_with = "cron")]
        name: Option<String>,
        /// Instead of a task: a cron expression, or any schedule as in docs/schedules.md.
        #[arg(long, value_name = "SCHEDULE")]
        cron: Option<String>,
        /// Whose clock the expression is read on, such as Europe/Berlin; UTC without it.
        #[arg(long, conflicts_with = "name")]
        zone: Option<String>,
        /// Later than this instant (RFC 3339) instead of now.
        #[arg(long, value_name = "INSTANT")]
        after: Option<DateTime<Utc>>,
        /// How many times.
        #[arg(short, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
        n: u16,
    },
}

pub(crate) async fn run(invocation: &Invocation, command: Command) -> Result<Outcome> {
    if let Command::Next { name, cron, zone, after, n } = &command {
        let after = after.unwrap_or_else(|| Clock::default().now());
        match (name, cron) {
            (Some(name), _) => next(invocation, "task", name, &scheduled(invocation, name)?, after, *n),
            (None, cron) => {
                let schedule = Schedule::parse(cron.as_deref().unwrap_or_default(), zone.as_deref());
                let schedule = schedule.map_err(|why| Error::invalid("schedule", why))?;
                next(invocation, "schedule", &schedule.describe(), &schedule, after, *n);
            }
        }
        return Ok(Outcome::Fine);
    }
    if let Command::Run { name } | Command::History { name, .. } = &command {
        known(name)?;
    }
    let door = Door::open(invocation).await?;
    let result = through(&door, invocation, command).await;
    door.close(result).await
}

async fn through(door: &Door, invocation: &Invocation, command: Command) -> Result<Outcome> {
    match command {
        Command::List => {
            let answer = door.tasks().await?;
            invocation.print(&answer, || list(&answer));
            Ok(Outcome::Fine)
        }
        Command::Run { name } => {
            let run = door.run_task(&name).await?;
            invocation.print(&run, || told(&run));
            Ok(Outcome::of(run["state"] == "succeeded"))
        }
        Command::History { name, limit } => {
            let answer = door.runs(&name, limit).await?;
            invocation.print(&answer, || history(&answer));
            Ok(Outcome::Fine)
        }
        Command::Next { .. } => Ok(Outcome::Fine),
    }
}

/// The schedule is in the program and its configuration: nobody needs to be asked.
fn scheduled(invocation: &Invocation, name: &str) -> Result<Schedule> {
    known(name)?;
    let spec = tasks::configured(&invocation.config()?)?.into_iter().find(|t| t.name == name && t.work.is_some());
    spec.map(|t| t.schedule).ok_or_else(|| Error::conflict("planned", format!("{name} is planned and is not scheduled yet")))
}

/// The next `n` slots of what is called `name`.
fn next(invocation: &Invocation, what: &str, name: &str, schedule: &Schedule, after: DateTime<Utc>, n: u16) {
    let due = schedule.slots(after, DateTime::<Utc>::MAX_UTC, n.into());
    let local: Vec<String> = due.iter().filter_map(|slot| schedule.local(*slot)).collect();
    let slots: Vec<String> = due.into_iter().map(rfc3339).collect();
    let mut answer = json!({"ok": true, what: name, "count": slots.len(), "slots": slots});
    let mut lines = slots.clone();
    if !local.is_empty() {
        lines.iter_mut().zip(&local).for_each(|(line, local)| *line = format!("{line}  {local}"));
        answer["local"] = local.into();
    }
    invocation.print(&answer, || lines.join("\n"));
}

/// The tasks as a table; also part of `status`.
pub(crate) fn list(answer: &Json) -> String {
    let rows: Vec<Vec<String>> = members(answer, "tasks")
        .map(|t| {
            let last = &t["last_run"];
            let last_state = last["state"].as_str().map_or_else(|| "-".to_owned(), state);
            vec![text(t, "name"), text(t, "schedule"), state(&text(t, "state")), last_state, text(last, "ended_at"), text(t, "next")]
        })
        .collect();
    table(&["TASK", "SCHEDULE", "STATE", "LAST RUN", "ENDED", "NEXT"], &rows)
}

fn history(answer: &Json) -> String {
    let rows: Vec<Vec<String>> = members(answer, "runs")
        .map(|r| {
            let why = if r["error"].is_null() { text(r, "reason") } else { text(r, "error") };
            vec![text(r, "slot"), state(&text(r, "state")), text(r, "trigger"), text(r, "attempts"), text(r, "ended_at"), why]
        })
        .collect();
    if rows.is_empty() { "no runs yet".to_owned() } else { table(&["SLOT", "STATE", "TRIGGER", "ATTEMPTS", "ENDED", "WHY"], &rows) }
}

/// The end of a run: its state, and the plain members of what it left.
pub(crate) fn told(run: &Json) -> String {
    let mut lines = vec![format!("{} {}", text(run, "task"), state(&text(run, "state")))];
    if !run["error"].is_null() {
        lines.push(format!("  {}", text(run, "error")));
    }
    if run["result"]["ok"] == false {
        lines.push(coloured(Colour::Yellow, "  It ran well, and what it found is not in order."));
    }
    for (name, value) in run["result"].as_object().into_iter().flatten().filter(|(name, _)| !matches!(name.as_str(), "ok" | "run_id")) {
        match value {
            Json::Array(items) => lines.push(format!("  {name}: {} items", items.len())),
            Json::Object(inner) => {
                let plain = inner.iter().filter(|(_, v)| !v.is_object() && !v.is_array());
                let plain: Vec<String> = plain.map(|(key, _)| format!("{key} {}", text(value, key))).collect();
                lines.push(format!("  {name}: {}", plain.join(", ")));
            }
            _ => lines.push(format!("  {name}: {}", text(&run["result"], name))),
        }
    }
    lines.join("\n")
}

/// The objects of a list in an answer.
pub(crate) fn members<'a>(answer: &'a Json, list: &str) -> impl Iterator<Item = &'a Json> {
    answer[list].as_array().into_iter().flatten()
}

impl Invocation {
    /// The answer as JSON, or as the text for a person.
    pub(crate) fn print(&self, answer: &Json, text: impl FnOnce() -> String) {
        if self.json { say_json(answer) } else { say(text()) }
    }
}
