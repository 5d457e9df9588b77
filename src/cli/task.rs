//! `echopilot task`: what is scheduled, running one now, what ran and what comes next; pausing, cancelling, making up for the past, and
//! how well the schedule is kept.

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
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
    /// Show a task with its policies and its latest runs, every failed attempt with its error.
    Show {
        /// The task's name, as in `task list`.
        name: String,
        /// How many runs.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=20))]
        limit: u32,
    },
    /// Skip a task's slots until it is resumed; what runs goes on, and what was skipped is not made up for.
    Pause {
        /// The task's name, as in `task list`.
        name: String,
        /// Why, for whoever finds it paused.
        #[arg(long)]
        reason: Option<String>,
        /// Resume by itself then: a time (2026-03-01T08:00:00Z), a day (2026-03-01, its first moment in UTC), or a length from now
        /// (90m, 2h, 3d).
        #[arg(long, value_parser = future)]
        until: Option<DateTime<Utc>>,
    },
    /// End a pause.
    Resume {
        /// The task's name, as in `task list`.
        name: String,
    },
    /// Cancel a run that waits or is going on.
    Cancel {
        /// The run's id, as in `task history --json`, `task show` or the dashboard.
        run_id: String,
    },
    /// Run the slots of a range of the past that did not run, one after the other.
    Backfill {
        /// The task's name, as in `task list`.
        name: String,
        /// The first moment: a time (2026-03-01T08:00:00Z) or a day (2026-03-01, its first moment in UTC).
        #[arg(long, value_parser = moment)]
        from: DateTime<Utc>,
        /// The last moment, in the same spelling.
        #[arg(long, value_parser = moment)]
        to: DateTime<Utc>,
        /// Also those that ran and failed, timed out or were cancelled.
        #[arg(long)]
        redo_failed: bool,
        /// Only say what would run.
        #[arg(long)]
        dry_run: bool,
    },
    /// Show how well the schedule is kept: slots due, on time, late, missed, skipped; the exit code is 1 below the objective.
    Level {
        /// The last so many hours.
        #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u16).range(1..=2160))]
        hours: u16,
    },
}

impl Command {
    /// The task it is about.
    fn name(&self) -> Option<&str> {
        match self {
            Self::Run { name }
            | Self::History { name, .. }
            | Self::Show { name, .. }
            | Self::Pause { name, .. }
            | Self::Resume { name }
            | Self::Backfill { name, .. } => Some(name),
            Self::List | Self::Next { .. } | Self::Cancel { .. } | Self::Level { .. } => None,
        }
    }
}

/// A time in RFC 3339, or a day.
fn moment(text: &str) -> std::result::Result<DateTime<Utc>, String> {
    let day = || text.parse::<NaiveDate>().map(|day| day.and_time(NaiveTime::MIN).and_utc());
    text.parse().or_else(|_| day()).map_err(|_| "neither a time like 2026-03-01T08:00:00Z nor a day like 2026-03-01".to_owned())
}

/// 90m, 2h or 3d.
fn length(text: &str) -> Option<TimeDelta> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number = number.parse::<u32>().ok().map(i64::from)?;
    match unit {
        "m" => TimeDelta::try_minutes(number),
        "h" => TimeDelta::try_hours(number),
        "d" => TimeDelta::try_days(number),
        _ => None,
    }
}

/// A moment, or a length before now.
pub(super) fn past(text: &str) -> std::result::Result<DateTime<Utc>, String> {
    let before_now = || length(text).and_then(|length| Clock::default().now().checked_sub_signed(length));
    moment(text).or_else(|why| before_now().ok_or_else(|| format!("{why}, nor a length like 90m, 2h or 3d")))
}

/// A moment, or a length from now.
pub(super) fn future(text: &str) -> std::result::Result<DateTime<Utc>, String> {
    let from_now = || length(text).and_then(|length| Clock::default().now().checked_add_signed(length));
    moment(text).or_else(|why| from_now().ok_or_else(|| format!("{why}, nor a length like 90m, 2h or 3d")))
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
    if let Some(name) = command.name() {
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
        Command::Show { name, limit } => {
            let answer = show(door, &name, limit).await?;
            invocation.print(&answer, || shown(&answer));
            Ok(Outcome::Fine)
        }
        Command::Pause { name, reason, until } => {
            let answer = door.pause(&name, reason.as_deref(), until).await?;
            invocation.print(&answer, || format!("{name} is paused{}.", pause_in_words(&answer["paused"])));
            Ok(Outcome::Fine)
        }
        Command::Resume { name } => {
            let answer = door.resume(&name).await?;
            invocation.print(&answer, || format!("{name} is scheduled again; what was skipped is not made up for (`task backfill`)."));
            Ok(Outcome::Fine)
        }
        Command::Cancel { run_id } => {
            let answer = door.cancel(&run_id).await?;
            invocation.print(&answer, || match answer["state"].as_str() {
                Some("cancelled") => format!("{run_id} was cancelled before it began."),
                _ => format!("{run_id} was told to end."),
            });
            Ok(Outcome::Fine)
        }
        Command::Backfill { name, from, to, redo_failed, dry_run } => {
            let answer = door.backfill(&name, from, to, redo_failed, dry_run).await?;
            invocation.print(&answer, || backfilled(door, &answer));
            Ok(Outcome::Fine)
        }
        Command::Level { hours } => {
            let answer = door.level(hours).await?;
            invocation.print(&answer, || level(&answer, hours));
            Ok(Outcome::of(answer["status"] != "FAIL"))
        }
    }
}

/// The task, and its latest runs whole.
async fn show(door: &Door, name: &str, limit: u32) -> Result<Json> {
    let task = door.task(name).await?;
    let mut runs = Vec::new();
    for run in members(&door.runs(name, limit).await?, "runs") {
        runs.push(door.run(&text(run, "run_id")).await?);
    }
    Ok(json!({"ok": true, "task": task, "count": runs.len(), "runs": runs}))
}

fn shown(answer: &Json) -> String {
    let (task, policy) = (&answer["task"], &answer["task"]["policy"]);
    let mut lines = vec![format!("{} {}", text(task, "name"), state(&text(task, "state"))), format!("  {}", text(task, "doc"))];
    if !task["paused"].is_null() {
        lines.push(coloured(Colour::Yellow, &format!("  paused{}", pause_in_words(&task["paused"]))));
    }
    lines.push(format!("  schedule: {}; next: {}", text(task, "schedule"), text(task, "next")));
    lines.push(format!(
        "  catch-up: {}; overlap: {}; timeout: {} s; retries: {}; after: {}",
        text(policy, "catch_up"),
        text(policy, "overlap"),
        text(policy, "timeout_s"),
        text(policy, "retries"),
        text(policy, "after")
    ));
    lines.push(String::new());
    lines.push(history(answer));
    for run in members(answer, "runs") {
        for attempt in members(run, "failed_attempts") {
            lines.push(format!(
                "{} attempt {} {} at {}: {}",
                text(run, "run_id"),
                text(attempt, "attempt"),
                state(&text(attempt, "state")),
                text(attempt, "ended_at"),
                text(attempt, "error")
            ));
        }
    }
    lines.join("\n")
}

fn pause_in_words(pause: &Json) -> String {
    let until = pause["until"].as_str().map(|at| format!(" until {at}")).unwrap_or_default();
    format!("{until} by {}: {}", text(pause, "by"), text(pause, "why"))
}

fn backfilled(door: &Door, answer: &Json) -> String {
    let (slots, queued, kept) = (text(answer, "slots"), text(answer, "queued"), text(answer, "kept"));
    let verb = match door {
        _ if answer["dry_run"] == true => "would run",
        Door::Daemon(_) => "will run",
        Door::Here(_) => "ran",
    };
    format!("{slots} slots in the range: {queued} {verb}, {kept} stay as they are.")
}

fn level(answer: &Json, hours: u16) -> String {
    let row = |name: &str, level: &Json| {
        let skipped: Vec<String> = level["skipped"].as_object().into_iter().flatten().map(|(why, n)| format!("{n} {why}")).collect();
        let skipped = if skipped.is_empty() { "0".to_owned() } else { skipped.join(", ") };
        let ratio = percent(&level["on_time_ratio"]);
        let mut cells = vec![name.to_owned(), ratio];
        cells.extend(["due", "on_time", "late", "missed", "failed"].map(|member| text(level, member)));
        cells.push(skipped);
        cells
    };
    let tasks = answer["tasks"].as_object().into_iter().flatten();
    let mut rows: Vec<Vec<String>> = tasks.map(|(name, level)| row(name, level)).collect();
    rows.push(row("all", &answer["total"]));
    let heading = ["TASK", "ON TIME", "DUE", "IN TIME", "LATE", "MISSED", "FAILED", "SKIPPED"];
    let objective = percent(&answer["objective"]);
    format!("{}\n\n{} of {objective} in {hours} h", table(&heading, &rows), state(&text(answer, "status")))
}

/// Never rounded up: 99.999 % is not everything.
fn percent(ratio: &Json) -> String {
    ratio.as_f64().map_or_else(|| "-".to_owned(), |ratio| format!("{:.2} %", (ratio * 10_000.0).floor() / 100.0))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_spelling_that_the_help_names() {
        let at = |text: &str| moment(text).map(rfc3339);
        assert_eq!(at("2026-03-01"), Ok("2026-03-01T00:00:00Z".into()));
        assert_eq!(at("2026-03-01T08:00:00+01:00"), Ok("2026-03-01T07:00:00Z".into()));
        for wrong in ["", "yesterday", "2026-13-01", "2h"] {
            assert!(at(wrong).is_err_and(|why| why.contains("2026-03-01")), "{wrong}");
        }
        let hours = (future("2h").unwrap() - Clock::default().now()).num_minutes();
        assert!((119..=120).contains(&hours), "{hours}");
        for wrong in ["", "h", "2 h", "-2h", "2w", "4294967295d", "2\u{fc}"] {
            assert!(future(wrong).is_err_and(|why| why.contains("90m")), "{wrong}");
        }
    }

    #[test]
    fn a_ratio_is_never_rounded_up() {
        assert_eq!(
            (percent(&json!(0.999_99)), percent(&json!(1.0)), percent(&Json::Null)),
            ("99.99 %".into(), "100.00 %".into(), "-".into())
        );
    }
}
