//! `echopilot backup`: make, list, verify and restore archives. Verifying and restoring work on the files alone, because they are
//! needed most when nothing else works. An archive that is damaged is refused before anything is written.

use std::path::{Path, PathBuf};

use echopilot_actors::{
    archive::{self, Contents},
    config::Config,
    domain::archive::archive_name,
    env::blocking,
    error::{Error, Result},
};
use serde_json::json;

use super::{
    Invocation,
    door::Door,
    exit::Outcome,
    output::{Progress, state, table, text},
    task::{members, told},
};

#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub(crate) enum Command {
    /// Make today's archive now and prove that it restores.
    Run,
    /// List the archives, newest first.
    List,
    /// Check an archive against its checksums and its manifest without writing anything.
    Verify {
        /// The day (YYYY-MM-DD) or the archive's path.
        archive: String,
    },
    /// Restore an archive into a new or empty folder.
    Restore {
        /// The day (YYYY-MM-DD) or the archive's path.
        archive: String,
        /// Where to put the files; the folder must be empty or absent.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// Verify the archive and list what would be written, but write nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

pub(crate) async fn run(invocation: &Invocation, command: Command) -> Result<Outcome> {
    match command {
        Command::Run => {
            let door = Door::open(invocation).await?;
            let result = door.run_task("daily_backup").await;
            let run = door.close(result).await?;
            invocation.print(&run, || told(&run));
            Ok(Outcome::of(run["state"] == "succeeded" && run["result"]["ok"] == true))
        }
        Command::List => {
            let door = Door::open(invocation).await?;
            let result = door.backups().await;
            let answer = door.close(result).await?;
            invocation.print(&answer, || list(&answer));
            Ok(Outcome::Fine)
        }
        Command::Verify { archive } => verify(invocation, &archive).await,
        Command::Restore { archive, to, dry_run } => restore(invocation, &archive, to, dry_run).await,
    }
}

fn list(answer: &serde_json::Value) -> String {
    let rows: Vec<Vec<String>> = members(answer, "backups")
        .map(|b| {
            vec![
                text(b, "date"),
                text(b, "archive"),
                text(b, "size_bytes"),
                text(b, "files"),
                state(&text(&b["proof"], "state")),
                text(b, "made_at"),
            ]
        })
        .collect();
    if rows.is_empty() { "no archives yet".to_owned() } else { table(&["DATE", "ARCHIVE", "BYTES", "FILES", "PROOF", "MADE"], &rows) }
}

async fn verify(invocation: &Invocation, archive: &str) -> Result<Outcome> {
    let path = find(&invocation.config()?, archive)?;
    let (path, contents, by_manifest) = checked(path).await?;
    let answer = json!({"ok": true, "archive": path, "files": contents.entries.len(), "bytes": contents.bytes, "manifest": by_manifest});
    invocation.print(&answer, || {
        let how =
            if by_manifest { "everything is as its manifest says" } else { "whole by its own checksums; there is no manifest beside it" };
        format!("{}: {}, {} files, {} bytes; {how}", path.display(), state("ok"), contents.entries.len(), contents.bytes)
    });
    Ok(Outcome::Fine)
}

async fn restore(invocation: &Invocation, archive: &str, to: PathBuf, dry_run: bool) -> Result<Outcome> {
    let path = find(&invocation.config()?, archive)?;
    if dry_run {
        let (path, contents, _) = checked(path).await?;
        let answer = json!({"ok": true, "dry_run": true, "archive": path, "to": to, "bytes": contents.bytes, "files": contents.entries});
        invocation.print(&answer, || {
            let mut lines: Vec<String> =
                contents.entries.iter().map(|e| format!("{:>12}  {}", e.size, to.join(&e.path).display())).collect();
            lines.push(format!("{} files, {} bytes would be written to {}", contents.entries.len(), contents.bytes, to.display()));
            lines.join("\n")
        });
        return Ok(Outcome::Fine);
    }
    let target = to.clone();
    let (contents, path) = blocking(move || {
        let manifest = archive::read_manifest(&path)?;
        let total = manifest.as_ref().map_or(0, |m| 2 * m.entries.len() as u64);
        let mut count = Counter::new("restoring", total);
        Ok((archive::restore_watched(&path, manifest.as_ref(), &target, &mut || count.one_more())?, path))
    })
    .await?;
    let answer = json!({"ok": true, "dry_run": false, "archive": path, "to": to, "bytes": contents.bytes, "files": contents.entries});
    invocation.print(&answer, || format!("{} files, {} bytes restored to {}", contents.entries.len(), contents.bytes, to.display()));
    Ok(Outcome::Fine)
}

/// The archive's contents, all of it checked; whether there was a manifest to check it against.
async fn checked(path: PathBuf) -> Result<(PathBuf, Contents, bool)> {
    blocking(move || {
        let manifest = archive::read_manifest(&path)?;
        let mut count = Counter::new("verifying", manifest.as_ref().map_or(0, |m| m.entries.len() as u64));
        let contents = archive::verify_watched(&path, manifest.as_ref(), &mut || count.one_more())?;
        Ok((path, contents, manifest.is_some()))
    })
    .await
}

struct Counter {
    progress: Progress,
    done: u64,
    total: u64,
}

impl Counter {
    fn new(what: &'static str, total: u64) -> Self {
        Self { progress: Progress::new(what), done: 0, total }
    }

    fn one_more(&mut self) {
        self.done += 1;
        self.progress.at(self.done, self.total);
    }
}

/// A day means that day's archive; everything else is a path.
fn find(config: &Config, archive: &str) -> Result<PathBuf> {
    let path = match archive.parse::<chrono::NaiveDate>() {
        Ok(date) => config.paths.backups.join("daily").join(archive_name(date)),
        Err(_) => Path::new(archive).to_owned(),
    };
    if path.is_file() {
        return Ok(path);
    }
    Err(Error::new(
        echopilot_actors::error::Code::NotFound,
        "file_not_found",
        format!("there is no archive {}: `echopilot backup list` shows them; give a day as YYYY-MM-DD or a path", path.display()),
    ))
}
