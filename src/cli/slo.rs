//! `echopilot slo`: the verdict on the service levels, trial payments, OpenSLO documents, and judging recorded minutes from a file. What
//! the daemon measures needs a running one; documents and files need none.

mod offline;

use std::path::PathBuf;

use echopilot_actors::error::{Error, Result};
use serde_json::Value as Json;

use super::{
    Invocation, door,
    exit::Outcome,
    output::{Colour, coloured, state, table, text},
    task::members,
};
use crate::client::segment;

#[derive(Clone, Debug, PartialEq, clap::Subcommand)]
pub(crate) enum Command {
    /// PASS, FAIL or NO_DATA, and why; the exit code is 1 on FAIL.
    Status,
    /// Every objective: verdict, budget, burn and the clause that decided; the exit code is 1 if one fails.
    Report,
    /// One objective, with the payments in its bad minutes.
    Objective { name: String },
    /// Write the objectives as OpenSLO v1 documents.
    Export {
        /// Instead of standard output.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Read OpenSLO v1 documents and print the sections of the configuration that they are.
    Import {
        file: PathBuf,
        /// Only say what would come of it.
        #[arg(long)]
        dry_run: bool,
        /// A new file for the sections, instead of standard output.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Judge recorded minutes from a file, one JSON object in each line: {"minute" or "at","total","bad","slow"}.
    Judge(offline::Judge),
    /// List what is asked from outside.
    Probes,
    /// List the latest trial payments.
    Trials,
    /// Make a trial payment now; the exit code is 1 if it fails.
    Trial,
}

pub(crate) async fn run(invocation: &Invocation, command: Command) -> Result<Outcome> {
    match &command {
        Command::Export { out } => return offline::export(invocation, out.as_deref()),
        Command::Import { file, dry_run, out } => return offline::import(invocation, file, *dry_run, out.as_deref()),
        Command::Judge(judge) => return offline::judge(invocation, judge),
        _ => {}
    }
    let config = invocation.config()?;
    let Some(client) = door::running(&config, &invocation.environment)? else {
        let message = format!("no daemon runs on {}: start one with `echopilot run`", config.paths.data.display());
        return Err(Error::unavailable("not_running", message));
    };
    let answer = match &command {
        Command::Report => client.get("/api/slo/report").await?,
        Command::Objective { name } => client.get(&format!("/api/slo/objectives/{}", segment(name))).await?,
        Command::Probes => client.get("/api/slo/probes").await?,
        Command::Trials => client.get("/api/slo/canary").await?,
        Command::Trial => client.post("/api/slo/canary/run", None).await?,
        _ => client.get("/api/slo/status").await?,
    };
    invocation.print(&answer, || match &command {
        Command::Report => report(&answer),
        Command::Objective { .. } => objective(&answer),
        Command::Probes => probes(&answer),
        Command::Trials => trials(&answer),
        Command::Trial => told(&answer["trial"]),
        _ => format!("{}: {}", text(&answer, "status"), text(&answer["details"], "clause")),
    });
    let fails =
        answer["breach"] == true || answer["counts"]["FAIL"].as_u64().is_some_and(|n| n > 0) || answer["verdict"]["status"] == "FAIL";
    Ok(Outcome::of(answer["ok"] == true && !fails))
}

fn verdict(status: &str) -> String {
    let colour = match status {
        "PASS" => Colour::Green,
        "FAIL" => Colour::Red,
        _ => Colour::Yellow,
    };
    coloured(colour, status)
}

fn percent(ratio: &Json) -> String {
    ratio.as_f64().map_or_else(String::new, |ratio| format!("{:.1} %", ratio * 100.0))
}

/// The indicator whose budget is used most.
fn tightest(objective: &Json) -> Option<&Json> {
    let used = |o: &Json| o["budget"]["used_ratio"].as_f64().unwrap_or(0.0);
    members(objective, "objectives").max_by(|a, b| used(a).total_cmp(&used(b)))
}

fn report(answer: &Json) -> String {
    let row = |o: &Json| {
        let tight = tightest(o);
        vec![
            text(o, "name"),
            verdict(&text(o, "status")),
            text(o, "window"),
            text(&o["verdict"], "n"),
            tight.map_or_else(String::new, |t| percent(&t["budget"]["used_ratio"])),
            tight.map_or_else(String::new, |t| text(&t["burn"], "1h")),
            text(&o["verdict"], "clause"),
        ]
    };
    let rows: Vec<_> = members(answer, "objectives").map(row).collect();
    let mut out = table(&["objective", "status", "window", "events", "budget used", "burn 1h", "why"], &rows);
    for warning in members(answer, "warnings").filter_map(Json::as_str) {
        out = format!("{out}\nwarning: {warning}");
    }
    out
}

fn objective(o: &Json) -> String {
    let v = &o["verdict"];
    let mut lines = vec![format!("{}: {} ({})", text(o, "name"), verdict(&text(o, "status")), text(v, "rule")), text(v, "clause")];
    lines.push(format!("{} events, {} bad, {} slow in {}", text(v, "n"), text(v, "bad"), text(v, "slow"), text(o, "window")));
    for i in members(o, "objectives") {
        let b = &i["budget"];
        let ends = b["exhausts_at"].as_str().map(|at| format!(", used up at {at}")).unwrap_or_default();
        lines.push(format!(
            "{}: budget {} of {} used ({}){ends}; burn 1h {} 6h {} 3d {}",
            text(i, "name"),
            text(b, "used"),
            text(b, "total"),
            percent(&b["used_ratio"]),
            text(&i["burn"], "1h"),
            text(&i["burn"], "6h"),
            text(&i["burn"], "3d")
        ));
    }
    lines.push(text(&o["absence"], "clause"));
    for e in members(o, "excluded") {
        lines.push(format!("left out: {} to {}: {} ({})", text(e, "from"), text(e, "until"), text(e, "reason"), text(e, "author")));
    }
    let risk = &o["at_risk"];
    let sums: Vec<_> = members(risk, "amounts").map(|a| text(a, "amount")).collect();
    lines.push(format!(
        "in {} bad minutes: {} payments of {} customers, {} failed{}{}",
        text(risk, "bad_minutes"),
        text(risk, "payments"),
        text(risk, "customers"),
        text(risk, "failed"),
        if sums.is_empty() { "" } else { "; " },
        sums.join(", ")
    ));
    lines.join("\n")
}

fn probes(answer: &Json) -> String {
    let row = |p: &Json| {
        let word = match p["state"].as_str() {
            Some("up") => "ok",
            Some("down") => "failed",
            other => other.unwrap_or_default(),
        };
        vec![text(p, "name"), state(word), text(p, "since"), text(p, "took_ms"), text(p, "target"), text(p, "reason")]
    };
    let rows: Vec<_> = members(answer, "probes").map(row).collect();
    if rows.is_empty() {
        "No probe is configured: [probes.NAME].".to_owned()
    } else {
        table(&["probe", "state", "since", "ms", "target", "why"], &rows)
    }
}

fn trials(answer: &Json) -> String {
    let rows: Vec<_> = members(answer, "trials")
        .map(|t| {
            vec![
                state(&text(t, "state")),
                text(t, "started_at"),
                took(t, "paid_ms"),
                took(t, "refunded_ms"),
                text(t, "step"),
                text(t, "error"),
            ]
        })
        .collect();
    if rows.is_empty() {
        "None has been made.".to_owned()
    } else {
        table(&["state", "started", "paid", "refunded", "step", "error"], &rows)
    }
}

fn told(trial: &Json) -> String {
    match trial["error"].as_str() {
        None => {
            format!("passed: paid in {}, refunded in {}, both webhooks took effect", took(trial, "paid_ms"), took(trial, "refunded_ms"))
        }
        Some(error) => format!("failed at the step {}: {error}", text(trial, "step")),
    }
}

fn took(trial: &Json, member: &str) -> String {
    trial[member].as_i64().map_or_else(String::new, |ms| format!("{ms} ms"))
}
