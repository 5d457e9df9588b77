//! `echopilot backup`: make, list, look into, check, compare, restore and remove archives. What needs the daemon's state goes through
//! the door (`make.rs`); looking and restoring work on the files alone, because they are needed most when nothing else works.

mod fetch;
mod find;
mod look;
mod make;
mod restore;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use echopilot_actors::{config::Config, env::blocking, error::Result};

use super::{Invocation, exit::Outcome, output::Progress};

#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub(crate) enum Command {
    /// Make today's archive now and prove that it restores.
    Run {
        /// Say what would be archived, on which archive it builds and whether there is room, but do nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// List the archives, newest first, also those in the folder that the database does not know.
    List {
        /// The archives at the second target instead.
        #[arg(long)]
        replica: bool,
    },
    /// Check an archive against its checksums, its manifest and the signature, without writing anything.
    Verify {
        #[command(flatten)]
        one: One,
        /// Read only so much of it, as a share (5%); names and structure are checked all the same.
        #[arg(long, value_name = "SHARE", value_parser = share)]
        sample: Option<u32>,
        /// Another number, another sample.
        #[arg(long, default_value_t = 0, requires = "sample")]
        seed: u64,
    },
    /// Restore an archive, or some paths of it, into a folder.
    Restore(restore::Arguments),
    /// Write the content of one file of an archive to standard output.
    Cat {
        #[command(flatten)]
        one: One,
        /// The file's name in the archive, e.g. logs/payout_recon.json.
        path: String,
    },
    /// List what is in an archive.
    Files {
        #[command(flatten)]
        one: One,
        /// Only this, with everything below it.
        path: Option<String>,
    },
    /// Say what is different from one archive to another.
    Diff {
        /// The earlier archive: a day, `latest`, or a path.
        before: String,
        /// The later one.
        after: String,
        /// The age identity that opens them, if they are encrypted.
        #[arg(long, value_name = "FILE")]
        identity: Option<PathBuf>,
    },
    /// Remove the archives that no retention rule keeps, each with its reason.
    Prune {
        /// Only say what would go and why, and what stays and why.
        #[arg(long)]
        dry_run: bool,
    },
}

/// An archive and what opens it.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct One {
    /// The day (YYYY-MM-DD), `latest`, or the archive's path.
    archive: String,
    /// The age identity that opens it, if it is encrypted; else backup.identity_file.
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Take it from the second target.
    #[arg(long)]
    from_replica: bool,
}

impl One {
    /// The archive's file, and what opens it.
    async fn locate(&self, invocation: &Invocation) -> Result<(fetch::Located, PathBuf)> {
        let config = invocation.config()?;
        let wanted = find::Wanted::Named(self.archive.clone());
        let located = fetch::locate(invocation, wanted, self.from_replica, &config.paths.backups).await?;
        Ok((located, identity(&config, self.identity.clone())))
    }
}

pub(crate) async fn run(invocation: &Invocation, command: Command) -> Result<Outcome> {
    match command {
        Command::Run { dry_run: false } => make::run(invocation).await,
        Command::Run { dry_run: true } => make::preview(invocation).await,
        Command::List { replica: false } => make::list(invocation).await,
        Command::List { replica: true } => fetch::list(invocation).await,
        Command::Verify { one, sample, seed } => look::verify(invocation, one, sample, seed).await,
        Command::Restore(arguments) => restore::run(invocation, arguments).await,
        Command::Cat { one, path } => look::cat(invocation, one, path).await,
        Command::Files { one, path } => look::files(invocation, one, path).await,
        Command::Diff { before, after, identity } => look::diff(invocation, &before, &after, identity).await,
        Command::Prune { dry_run } => make::prune(invocation, dry_run).await,
    }
}

/// Parts of a million of "5%", "0.5%" or "5".
fn share(text: &str) -> std::result::Result<u32, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    let percent = number.parse::<f64>().ok().filter(|percent| *percent > 0.0 && *percent <= 100.0);
    let percent = percent.ok_or("a share is a number above 0 and up to 100, e.g. 5%")?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a percentage in range")]
    Ok((percent * 10_000.0).ceil() as u32)
}

/// The file with the identity that opens archives: the one that was named, or the configured one; empty for none.
fn identity(config: &Config, named: Option<PathBuf>) -> PathBuf {
    named.unwrap_or_else(|| config.backup.identity_file.clone())
}

/// What a working thread counts, and how it is told to stop.
#[derive(Debug, Default)]
struct Meter {
    done: AtomicU64,
    /// 0: not known.
    total: AtomicU64,
    stop: AtomicBool,
}

/// Runs `work` on a thread, draws how far it is, and asks it to stop on Ctrl-C, so that it can clean up behind itself.
async fn watched<T: Send + 'static>(what: &'static str, work: impl FnOnce(&Meter) -> Result<T> + Send + 'static) -> Result<T> {
    let meter = Arc::new(Meter::default());
    let progress = Progress::new(what);
    let mut work = {
        let meter = meter.clone();
        std::pin::pin!(blocking(move || work(&meter)))
    };
    let mut look = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            ended = &mut work => return ended,
            _ = look.tick() => progress.bytes(meter.done.load(Ordering::Relaxed), meter.total.load(Ordering::Relaxed)),
            _ = tokio::signal::ctrl_c() => meter.stop.store(true, Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_read_as_parts_of_a_million() {
        assert_eq!((share("5%"), share("0.5"), share("100%")), (Ok(50_000), Ok(5_000), Ok(1_000_000)));
        for wrong in ["0%", "-1%", "101%", "much", ""] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }
}
