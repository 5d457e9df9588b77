//! `backup restore`: puts files of an archive back. Everything is checked before the first file appears; what is damaged is refused, or
//! with `--salvage` left out and named. `--ready` lays the files out so that a daemon starts from the folder.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::Instant,
};

use chrono::{DateTime, Utc};
use echopilot_actors::{
    archive::{self, Conflict, Entry, Links, RestoreOptions, Restored, Type, VerifyOptions},
    config::Config,
    domain::archive::DATABASE_FILE,
    error::{Context as _, Error, Result},
    files,
};
use serde_json::json;

use super::{
    super::{
        Invocation,
        exit::Outcome,
        output::{Colour, coloured, length, size},
    },
    Meter,
    fetch::locate,
    find::{Wanted, moment},
    identity,
    look::{line, selected},
    watched,
};

#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own on the command line")]
pub(crate) struct Arguments {
    /// The day (YYYY-MM-DD), `latest`, or the archive's path; with --at every name is a path in the archive.
    #[arg(required_unless_present = "at")]
    archive: Option<String>,
    /// Only these, with everything below them; all without any.
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Where to put the files.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// The newest archive that was made at or before this time (2026-03-01T08:00:00Z) or on or before this day (2026-03-01).
    #[arg(long, value_name = "TIME", value_parser = moment)]
    at: Option<DateTime<Utc>>,
    /// Verify the archive and list what would be written, but write nothing.
    #[arg(long)]
    dry_run: bool,
    /// What is done about files that are in the way; without it the folder must be empty or absent.
    #[arg(long, value_enum)]
    conflict: Option<InTheWay>,
    /// What is done about symbolic links that point out of the archive.
    #[arg(long, value_enum, default_value_t = Escaping::Refuse)]
    links: Escaping,
    /// Restore what is whole of a damaged archive, and name what is not.
    #[arg(long)]
    salvage: bool,
    /// Give the files back to their owners; needs the right to do so.
    #[arg(long)]
    owners: bool,
    /// Restore the bits too that run a program as its owner.
    #[arg(long)]
    setuid: bool,
    /// The age identity that opens the archive, if it is encrypted; else backup.identity_file.
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Take the archive from the second target.
    #[arg(long)]
    from_replica: bool,
    /// Lay the files out so that `cd DIR && echopilot run` starts from them.
    #[arg(long, conflicts_with_all = ["conflict", "paths", "salvage"])]
    ready: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum InTheWay {
    /// The folder must be empty or absent.
    Refuse,
    /// What is there stays.
    Skip,
    /// What is there is replaced.
    Overwrite,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Escaping {
    /// Nothing is restored.
    Refuse,
    /// They are left out and named.
    Skip,
    /// They are made as they were.
    Allow,
}

/// The archive, what is wanted of it, and how.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own on the command line")]
struct Plan {
    archive: PathBuf,
    identity: PathBuf,
    backups: PathBuf,
    to: PathBuf,
    only: Vec<PathBuf>,
    conflict: Conflict,
    links: Links,
    salvage: bool,
    owners: bool,
    setuid: bool,
    ready: bool,
}

impl Arguments {
    /// Which archive is meant; with a time the first word is a path in it.
    fn wanted(&mut self) -> Wanted {
        match (self.at, self.archive.take()) {
            (Some(time), first) => {
                self.paths.splice(0..0, first.map(PathBuf::from));
                Wanted::At(time)
            }
            (None, name) => Wanted::Named(name.unwrap_or_default()),
        }
    }

    fn plan(self, config: &Config, archive: PathBuf) -> Result<Plan> {
        if self.ready && !self.paths.is_empty() {
            return Err(Error::invalid("missing_input", "--ready restores all of the archive: leave the paths away"));
        }
        Ok(Plan {
            archive,
            identity: identity(config, self.identity),
            backups: config.paths.backups.clone(),
            to: self.to,
            only: self.paths,
            conflict: match self.conflict {
                None | Some(InTheWay::Refuse) => Conflict::Refuse,
                Some(InTheWay::Skip) => Conflict::Skip,
                Some(InTheWay::Overwrite) => Conflict::Overwrite,
            },
            links: match self.links {
                Escaping::Refuse => Links::Refuse,
                Escaping::Skip => Links::Skip,
                Escaping::Allow => Links::Allow,
            },
            salvage: self.salvage,
            owners: self.owners,
            setuid: self.setuid,
            ready: self.ready,
        })
    }
}

pub(super) async fn run(invocation: &Invocation, mut arguments: Arguments) -> Result<Outcome> {
    let config = invocation.config()?;
    let dry_run = arguments.dry_run;
    let beside = arguments.to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
    let located = locate(invocation, arguments.wanted(), arguments.from_replica, &beside).await?;
    let plan = arguments.plan(&config, located.path.clone())?;
    let (archive, to, ready) = (plan.archive.clone(), plan.to.clone(), plan.ready);
    if dry_run {
        return preview(invocation, plan).await;
    }
    let began = Instant::now();
    let restored = watched("restoring", move |meter| plan.restore(meter)).await?;
    let took = began.elapsed();
    let whole = restored.damaged.is_empty() && restored.damage.is_empty();
    let mut answer = serde_json::to_value(&restored)?;
    for (name, value) in [
        ("ok", json!(whole)),
        ("dry_run", json!(false)),
        ("archive", json!(archive)),
        ("to", json!(to)),
        ("ready", json!(ready)),
        ("took_ms", json!(u64::try_from(took.as_millis()).unwrap_or(u64::MAX))),
    ] {
        answer[name] = value;
    }
    invocation.print(&answer, || {
        let mut lines = notes(&restored);
        let what = format!("{} files, {}", restored.files, size(&restored.bytes.into()));
        lines.push(format!("{what} restored from {} to {} in {}", archive.display(), to.display(), length(took.as_secs_f64())));
        if ready {
            lines.extend(next_steps(&to));
        }
        lines.join("\n")
    });
    Ok(Outcome::of(whole))
}

fn notes(restored: &Restored) -> Vec<String> {
    let mut lines: Vec<String> =
        restored.damaged.iter().map(|n| coloured(Colour::Red, &format!("damaged  {}: {}", n.path, n.what))).collect();
    lines.extend(restored.damage.iter().map(|what| coloured(Colour::Red, &format!("damaged  {what}"))));
    lines.extend(restored.left_out.iter().map(|n| coloured(Colour::Yellow, &format!("left out {}: {}", n.path, n.what))));
    lines.extend(restored.kept.iter().map(|path| format!("kept     {path}: something was there")));
    lines
}

fn next_steps(to: &Path) -> Vec<String> {
    let mut lines = vec![format!("cd {} && echopilot check && echopilot run", to.display())];
    lines.push("The secrets are not in the archive: put them into data/, or new ones are made (docs/restore.md).".into());
    let configuration = fs::read_to_string(to.join("configs/echopilot.toml")).unwrap_or_default();
    if configuration.lines().any(|line| line.trim() == "[paths]") {
        lines.push(coloured(Colour::Yellow, "configs/echopilot.toml sets [paths]: the daemon would use those folders and not these."));
    }
    lines
}

impl Plan {
    fn options<'a>(&self, meter: &'a Meter) -> RestoreOptions<'a> {
        RestoreOptions {
            only: self.only.clone(),
            conflict: self.conflict,
            links: self.links,
            salvage: self.salvage,
            owners: self.owners,
            setuid: self.setuid,
            stop: &meter.stop,
            done: &meter.done,
            ..RestoreOptions::default()
        }
    }

    /// Refuses an archive that is not the one that was made, where that can be known.
    fn check_standing(&self) -> Result<()> {
        if self.salvage { Ok(()) } else { archive::standing(&self.archive, &self.backups).map(drop) }
    }

    fn restore(&self, meter: &Meter) -> Result<Restored> {
        self.check_standing()?;
        let total = archive::read_manifest(&self.archive).ok().flatten().map_or(0, |m| m.content_bytes);
        meter.total.store(total, Ordering::Relaxed);
        if self.ready {
            return self.restore_ready(meter);
        }
        self.restore_to(&self.to, meter)
    }

    fn restore_to(&self, target: &Path, meter: &Meter) -> Result<Restored> {
        let restored = match archive::open(&self.archive, &self.identity) {
            // Without its end an archive looks like any other tar.gz, which is good for nothing once it is damaged.
            Ok(opened) if opened.has_contents() => return opened.restore(target, &self.options(meter)),
            Ok(opened) => opened.restore(target, &self.options(meter)),
            Err(error) => Err(error),
        };
        match restored {
            Err(error) if self.salvage && error.reason == "archive" => {
                archive::rescue(&self.archive, target, &self.options(meter)).map_err(|_| error)
            }
            restored => restored,
        }
    }

    /// Restores beside the target, lays the files out there, and only then gives the folder its name.
    fn restore_ready(&self, meter: &Meter) -> Result<Restored> {
        if fs::read_dir(&self.to).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Error::conflict("target_not_empty", format!("{} is not empty: --ready makes a new folder", self.to.display())));
        }
        let parent = self.to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).context(format!("cannot create {}", parent.display()))?;
        let scratch =
            tempfile::Builder::new().prefix(".restore-").suffix(".tmp").tempdir_in(parent).context("cannot create a scratch folder")?;
        let root = scratch.path().join("all");
        let restored = self.restore_to(&root, meter)?;
        lay_out(&root)?;
        let _ = fs::remove_dir(&self.to); // empty or absent, as seen above
        fs::rename(&root, &self.to).context(format!("cannot put the files into {}", self.to.display()))?;
        files::sync_folder(parent)?;
        Ok(restored)
    }
}

/// The database where a daemon looks for it, for its user alone, and every folder there.
fn lay_out(root: &Path) -> Result<()> {
    let (from, data) = (root.join(DATABASE_FILE), root.join("data"));
    if !from.is_file() {
        return Err(Error::invalid(
            "archive_refused",
            "there is no database in the archive (backup.include): a daemon cannot start from it",
        ));
    }
    fs::create_dir_all(&data).context("cannot create the data directory")?;
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).context("cannot close the data directory to others")?;
    let database = data.join("echopilot.db");
    fs::rename(&from, &database).context("cannot move the database")?;
    fs::set_permissions(&database, fs::Permissions::from_mode(0o600)).context("cannot close the database to others")?;
    // What belongs to another database would be replayed into this one.
    for name in ["echopilot.db-wal", "echopilot.db-shm"] {
        match fs::remove_file(data.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).context(format!("cannot remove {name}")),
            _ => {}
        }
    }
    let _ = fs::remove_dir(root.join("database")); // it stays if something else was in it
    for name in ["logs", "configs", "backups"] {
        fs::create_dir_all(root.join(name)).context(format!("cannot create {name}"))?;
    }
    files::sync_folder(&data)
}

/// What would be written, after the archive was checked.
async fn preview(invocation: &Invocation, plan: Plan) -> Result<Outcome> {
    let (archive, to) = (plan.archive.clone(), plan.to.clone());
    let (entries, problem, in_the_way) = watched("verifying", move |meter| {
        plan.check_standing()?;
        let opened = archive::open(&plan.archive, &plan.identity)?;
        let report = opened.look_through(&VerifyOptions { stop: &meter.stop, done: &meter.done, ..VerifyOptions::default() })?;
        let problem = (!report.is_whole()).then(|| report.sentence());
        if let Some(problem) = problem.as_ref().filter(|_| !plan.salvage) {
            return Err(Error::invalid("archive", format!("{}: {problem}", plan.archive.display())));
        }
        let entries = selected(&opened, &plan.only)?;
        if plan.links == Links::Refuse
            && let Some(why) = entries.iter().find_map(archive::points_outside)
        {
            return Err(Error::invalid("archive_refused", format!("{}: {why} (--links)", plan.archive.display())));
        }
        let there = entries.iter().filter(|e| e.kind != Type::Dir && plan.to.join(&e.path).symlink_metadata().is_ok()).count();
        if plan.conflict == Conflict::Refuse && fs::read_dir(&plan.to).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Error::conflict("target_not_empty", format!("{} is not empty (--conflict)", plan.to.display())));
        }
        Ok((entries, problem, there))
    })
    .await?;
    let files = entries.iter().filter(|entry| entry.kind == Type::File).count();
    let bytes: u64 = entries.iter().map(|entry| entry.size).sum();
    let answer = json!({
        "ok": problem.is_none(), "dry_run": true, "archive": archive, "to": to, "files": files, "bytes": bytes, "in_the_way": in_the_way,
        "problem": problem, "entries": entries,
    });
    invocation.print(&answer, || {
        let mut lines: Vec<String> = entries.iter().map(|entry: &Entry| line(entry)).collect();
        lines.push(format!("{files} files, {} would be written to {}", size(&bytes.into()), to.display()));
        if in_the_way > 0 {
            lines.push(format!("{in_the_way} of these names are there already"));
        }
        lines.extend(problem.iter().map(|problem| coloured(Colour::Red, problem)));
        lines.join("\n")
    });
    Ok(Outcome::of(problem.is_none()))
}
