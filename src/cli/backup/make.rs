//! What goes through the door: making an archive, listing them, removing old ones.

use echopilot_actors::error::Result;
use serde_json::Value as Json;

use super::super::{
    Invocation,
    door::Door,
    exit::Outcome,
    output::{Colour, Progress, coloured, length, size, state, table, text},
    task::{members, told},
};

pub(super) async fn run(invocation: &Invocation) -> Result<Outcome> {
    let door = Door::open(invocation).await?;
    let progress = Progress::new("backup");
    let mut tell = |run: &Json| {
        let now = &run["progress"];
        if let (Some(done), Some(total)) = (now["done_bytes"].as_u64(), now["total_bytes"].as_u64()) {
            progress.phase(&text(now, "phase"), done, total);
        }
    };
    let result = door.run_task_telling("daily_backup", &mut tell).await;
    drop(progress);
    let run = door.close(result).await?;
    invocation.print(&run, || told(&run));
    Ok(Outcome::of(run["state"] == "succeeded" && run["result"]["ok"] == true))
}

pub(super) async fn preview(invocation: &Invocation) -> Result<Outcome> {
    let door = Door::open(invocation).await?;
    let result = door.preview_backup().await;
    let answer = door.close(result).await?;
    invocation.print(&answer, || previewed(&answer));
    Ok(Outcome::of(answer["ok"] == true))
}

fn previewed(answer: &Json) -> String {
    let rows: Vec<Vec<String>> = members(answer, "roots")
        .map(|r| {
            let there = if r["present"] == true { String::new() } else { coloured(Colour::Yellow, "not there") };
            vec![text(r, "name"), text(r, "files"), size(&r["bytes"]), text(r, "path"), there]
        })
        .collect();
    let mut lines = vec![table(&["NAME", "FILES", "SIZE", "FROM", ""], &rows), String::new()];
    let verb = if answer["replaces"] == true { "would be replaced" } else { "would be made" };
    let encrypted = if answer["encrypted"] == true { ", encrypted" } else { "" };
    let what = format!("{} files, {}", text(answer, "files"), size(&answer["bytes"]));
    lines.push(format!("{} {verb}{encrypted}: {what}", text(answer, "archive")));
    lines.push(match answer["builds_on"].as_str() {
        Some(before) => format!("it takes over what did not change from {before}"),
        None => "it is made without reusing anything".to_owned(),
    });
    let room = format!("it needs up to {} on the disk, there are {}", size(&answer["needed_bytes"]), size(&answer["free_bytes"]));
    lines.push(if answer["enough_room"] == true { room } else { coloured(Colour::Red, &format!("{room}: it would not begin")) });
    lines.extend(members(answer, "missing").filter_map(Json::as_str).map(|missing| coloured(Colour::Red, missing)));
    lines.join("\n")
}

pub(super) async fn list(invocation: &Invocation) -> Result<Outcome> {
    let door = Door::open(invocation).await?;
    let result = door.backups().await;
    let answer = door.close(result).await?;
    invocation.print(&answer, || listed(&answer));
    Ok(Outcome::Fine)
}

fn listed(answer: &Json) -> String {
    let percent = |ratio: &Json| ratio.as_f64().map_or_else(|| "-".to_owned(), |ratio| format!("{:.0} %", (ratio * 100.0).floor()));
    let seconds = |ms: &Json| ms.as_i64().filter(|ms| *ms > 0).map_or_else(|| "-".to_owned(), |ms| length(ms as f64 / 1e3));
    let mut rows: Vec<Vec<String>> = members(answer, "backups")
        .map(|b| {
            let word = if b["present"] == false { "missing".to_owned() } else { text(b, "state") };
            vec![
                text(b, "date"),
                state(&word),
                size(&b["size_bytes"]),
                size(&b["content_bytes"]),
                percent(&b["reused_ratio"]),
                state(&text(&b["proof"], "state")),
                text(&b["proof"], "at"),
                seconds(&b["proof"]["restore_ms"]),
                seconds(&b["took_ms"]),
                if b["encrypted"] == true { "yes" } else { "no" }.to_owned(),
            ]
        })
        .collect();
    rows.extend(members(answer, "unrecorded").map(|b| {
        let encrypted = if b["encrypted"] == true { "yes" } else { "no" };
        let dash = || "-".to_owned();
        vec![text(b, "date"), state("unrecorded"), size(&b["size_bytes"]), dash(), dash(), dash(), dash(), dash(), dash(), encrypted.into()]
    }));
    if rows.is_empty() {
        return "no archives yet".to_owned();
    }
    let heading = ["DATE", "STATE", "SIZE", "CONTENT", "REUSED", "PROOF", "PROVEN AT", "RESTORES IN", "TOOK", "ENCRYPTED"];
    let mut lines = vec![table(&heading, &rows), String::new()];
    for b in members(answer, "backups").filter(|b| b["state"] == "partial") {
        lines.extend(members(b, "problems").map(|p| format!("{} {}: {}", text(b, "date"), text(p, "path"), text(p, "what"))));
    }
    let proof = &answer["last_proof"];
    lines.push(match proof["age_s"].as_f64() {
        Some(age) => format!("last proof: of {}, {} ago, restored in {}", text(proof, "date"), length(age), seconds(&proof["restore_ms"])),
        None => coloured(Colour::Yellow, "no archive was proven to restore yet"),
    });
    if members(answer, "unrecorded").next().is_some() {
        lines.push("unrecorded: the database does not know these; `backup verify` and `backup restore` take them all the same".into());
    }
    lines.join("\n")
}

pub(super) async fn prune(invocation: &Invocation, dry_run: bool) -> Result<Outcome> {
    let door = Door::open(invocation).await?;
    let result = door.prune(dry_run).await;
    let answer = door.close(result).await?;
    invocation.print(&answer, || pruned(&answer, dry_run));
    Ok(Outcome::Fine)
}

fn pruned(answer: &Json, dry_run: bool) -> String {
    let going = if dry_run { "would go" } else { "removed" };
    let rows: Vec<Vec<String>> = members(answer, "archives")
        .map(|a| {
            let (word, colour) = if a["keep"] == true { ("stays", Colour::Green) } else { (going, Colour::Yellow) };
            let why: Vec<&str> = members(a, "reasons").filter_map(Json::as_str).collect();
            vec![text(a, "date"), coloured(colour, word), text(a, "state"), size(&a["size_bytes"]), why.join("; ")]
        })
        .collect();
    if rows.is_empty() { "no archives yet".to_owned() } else { table(&["DATE", "", "STATE", "SIZE", "WHY"], &rows) }
}
