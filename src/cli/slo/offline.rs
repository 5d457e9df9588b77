//! What needs no daemon: the objectives as OpenSLO documents and back, and the verdict on minutes that were recorded in a file, the same
//! that the daemon would give.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use echopilot_actors::{
    domain::slo::{
        Counts, Latency, Level, Standing, Window,
        openslo::{self, Imported},
        stand,
    },
    error::{Context as _, Error, Result},
    files,
};
use serde_json::{Value as Json, json};

use super::super::{
    Invocation,
    exit::Outcome,
    output::{say, say_json},
};

#[derive(Clone, Debug, PartialEq, clap::Args)]
pub(crate) struct Judge {
    /// The minutes, one JSON object in each line.
    #[arg(long, value_name = "FILE")]
    minutes: PathBuf,
    /// An objective of the configuration; the options below change it.
    #[arg(long)]
    objective: Option<String>,
    /// Share of events that must be good, e.g. 0.999.
    #[arg(long)]
    target: Option<f64>,
    /// A slower good event is slow; only whether this is looked at: the file counts what is slow.
    #[arg(long)]
    latency_ms: Option<u64>,
    /// Share of good events that must be fast.
    #[arg(long)]
    latency_share: Option<f64>,
    /// 30d, week, month, quarter.
    #[arg(long)]
    window: Option<String>,
    #[arg(long)]
    min_events: Option<u64>,
    /// Judge at the start of this minute (RFC 3339); else after the last one in the file. Given several times it is one JSON object for each.
    #[arg(long)]
    at: Vec<DateTime<Utc>>,
    /// Judge from then on, each so many minutes, up to `--at`: one JSON object for each.
    #[arg(long, requires = "every")]
    from: Option<DateTime<Utc>>,
    #[arg(long, value_name = "MINUTES", value_parser = clap::value_parser!(i64).range(1..))]
    every: Option<i64>,
}

pub(super) fn export(invocation: &Invocation, out: Option<&Path>) -> Result<Outcome> {
    let text = openslo::export(&invocation.config()?.levels()).map_err(Error::internal)?;
    match out {
        None => say(text),
        Some(path) => files::replace(path, text.as_bytes(), files::MODE_REPORT).context(format!("cannot write {}", path.display()))?,
    }
    Ok(Outcome::of(true))
}

pub(super) fn import(invocation: &Invocation, file: &Path, dry_run: bool, out: Option<&Path>) -> Result<Outcome> {
    let text = std::fs::read_to_string(file).context(format!("cannot read {}", file.display()))?;
    let told = |errors: Vec<String>| {
        Error::invalid("openslo", errors.iter().map(|e| format!("{}: {e}", file.display())).collect::<Vec<_>>().join("\n"))
    };
    let Imported { levels, notes } = openslo::import(&text).map_err(told)?;
    for note in &notes {
        eprintln!("{}: {note}", file.display());
    }
    let sections = openslo::to_toml(&levels);
    let names: Vec<&str> = levels.iter().map(|level| level.name.as_str()).collect();
    if dry_run || invocation.json {
        let answer = json!({"ok": true, "dry_run": dry_run, "objectives": names, "left_out": notes, "sections": sections});
        invocation.print(&answer, || format!("{} objectives: {}; {} things would be left out", names.len(), names.join(", "), notes.len()));
        return Ok(Outcome::of(true));
    }
    match out {
        None => say(sections),
        Some(path) if path.exists() => {
            return Err(Error::conflict("file_exists", format!("{} exists: name a new file, and copy what you want", path.display())));
        }
        Some(path) => files::replace(path, sections.as_bytes(), files::MODE_REPORT).context(format!("cannot write {}", path.display()))?,
    }
    Ok(Outcome::of(true))
}

pub(super) fn judge(invocation: &Invocation, arguments: &Judge) -> Result<Outcome> {
    let level = level(invocation, arguments)?;
    let minutes = read(&arguments.minutes)?;
    let first = minutes.iter().map(|m| m.minute).min().unwrap_or(0);
    let minute = |at: DateTime<Utc>| at.timestamp().div_euclid(60);
    let last = arguments.at.last().copied();
    let end = last.map_or_else(|| minutes.iter().map(|m| m.minute + 1).max().unwrap_or(0), minute);
    let at = |now: i64| stand(&level, minutes.iter().copied().filter(|m| m.minute < now), &[], first, now);
    if let (Some(from), Some(every)) = (arguments.from, arguments.every) {
        let every = usize::try_from(every).unwrap_or(1);
        for now in (minute(from)..=end).step_by(every) {
            say(brief(&at(now), now).to_string());
        }
        return Ok(Outcome::of(true));
    }
    if arguments.at.len() > 1 {
        arguments.at.iter().map(|now| minute(*now)).for_each(|now| say(brief(&at(now), now).to_string()));
        return Ok(Outcome::of(true));
    }
    let standing = at(end);
    let mut body = standing.to_json();
    body["at"] = time(end);
    if invocation.json {
        say_json(&body);
    } else {
        say(format!("{}: {}", standing.verdict.status.as_str(), standing.verdict.clause));
    }
    Ok(Outcome::of(standing.verdict.status.as_str() != "FAIL"))
}

/// What Prometheus would compute, and what we make of it.
fn brief(standing: &Standing, now: i64) -> Json {
    let burning = |severity: &str| standing.report.objectives.iter().any(|o| o.tiers.iter().any(|t| t.severity == severity && t.burning));
    json!({
        "minute": now, "at": time(now), "status": standing.verdict.status, "rule": standing.verdict.rule, "clause": standing.verdict.clause,
        "n": standing.verdict.n, "bad": standing.verdict.bad, "interval": standing.verdict.error_rate_interval,
        "burning": {"page": burning("page"), "ticket": burning("ticket")},
        "firing": {"page": standing.report.page, "ticket": standing.report.ticket},
        "burn": standing.report.objectives.iter().map(|o| (o.name.to_owned(), json!(o.burn))).collect::<serde_json::Map<_, _>>(),
    })
}

fn time(minute: i64) -> Json {
    DateTime::from_timestamp(minute.saturating_mul(60), 0).map(echopilot_actors::env::rfc3339).into()
}

fn level(invocation: &Invocation, arguments: &Judge) -> Result<Level> {
    let levels = invocation.config()?.levels();
    let mut level = match &arguments.objective {
        Some(name) => levels
            .into_iter()
            .find(|level| level.name == *name)
            .ok_or_else(|| Error::not_found(format!("there is no objective named {name}")))?,
        None => Level {
            name: "file".to_owned(),
            service: "file".to_owned(),
            success_ppm: Some(990_000),
            latency: None,
            window: Window::Rolling { days: 30 },
            min_events: 20,
            slices: None,
            no_data: true,
        },
    };
    if let Some(target) = arguments.target {
        level.success_ppm = Some(ppm("target", target)?);
    }
    if let Some(ms) = arguments.latency_ms {
        let share_ppm = ppm("latency-share", arguments.latency_share.unwrap_or(0.95))?;
        level.latency = Some(Latency { ms, share_ppm });
    }
    if let Some(window) = &arguments.window {
        level.window = Window::parse(window, chrono_tz::UTC).map_err(|what| Error::field("window", format!("--window: {what}")))?;
    }
    level.min_events = arguments.min_events.unwrap_or(level.min_events);
    match level.problems().first() {
        None => Ok(level),
        Some((key, what)) => Err(Error::field(*key, format!("{key} {what}"))),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and a million")]
fn ppm(name: &'static str, share: f64) -> Result<u64> {
    if (0.0..=1.0).contains(&share) {
        Ok((share * 1e6).round() as u64)
    } else {
        Err(Error::field(name, format!("--{name} must be between 0 and 1")))
    }
}

/// Errors name the line.
fn read(path: &Path) -> Result<Vec<Counts>> {
    let text = std::fs::read_to_string(path).context(format!("cannot read {}", path.display()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let wrong = |what: &str| Error::invalid("minutes", format!("{}:{}: {what}", path.display(), index + 1));
            let row: Json = serde_json::from_str(line).map_err(|error| wrong(&error.to_string()))?;
            let at = row["at"].as_str().and_then(|at| at.parse::<DateTime<Utc>>().ok()).map(|at| at.timestamp().div_euclid(60));
            let minute =
                row["minute"].as_i64().or(at).ok_or_else(|| wrong("\"minute\" (since the epoch) or \"at\" (RFC 3339) is missing"))?;
            let number = |member: &str| match &row[member] {
                Json::Null => Ok(0),
                value => value.as_u64().ok_or_else(|| wrong(&format!("\"{member}\" must be a whole number"))),
            };
            let counts = Counts { minute, total: number("total")?, bad: number("bad")?, slow: number("slow")? };
            let fits = counts.bad <= counts.total && counts.slow <= counts.total - counts.bad;
            if fits { Ok(counts) } else { Err(wrong("more are bad and slow than there are events")) }
        })
        .collect()
}
