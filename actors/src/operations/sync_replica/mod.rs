//! Brings what is new or changed to the second target and takes away there what retention no longer wants. Every object is read back and
//! compared before it counts as there; an upload that was cut off goes on; one file that cannot be brought does not keep the others.
//! A backup never waits for this: no lock of its is held, and an archive that is replaced meanwhile is told by its digest.

mod bring;
mod checkpoint;
mod inventory;
mod tidy;

use std::{fs::File, os::unix::fs::OpenOptionsExt as _};

use chrono::{DateTime, Utc};
use serde_json::{Value as Json, json};

pub use checkpoint::{Checkpoint, FOLDER as CHECKPOINTS, lost, read_checkpoint};

use crate::{
    env::{Env, rfc3339},
    error::{Context as _, Error, Result},
    files,
    replica::Target,
};

/// Where the last sync that brought everything is written down.
const LAST_SUCCESS: &str = "replica.last_success_at";

/// What a sync did: `logs/replica_sync.json`.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Synced {
    pub ok: bool,
    /// `ok`, `failed` or `not_configured`.
    pub status: &'static str,
    pub target: Option<String>,
    pub append_only: bool,
    pub moved: Moved,
    /// Names that are there and were compared by this sync.
    pub verified: Vec<String>,
    pub removed: Vec<Removed>,
    pub problems: Vec<Problem>,
    /// Objects at the target, as last listed, and their bytes.
    pub objects: usize,
    pub bytes: u64,
    /// The age of the oldest local archive that is not verified there; 0 if there is none.
    pub lag_s: i64,
    pub last_success_at: Option<String>,
    /// The name of the journal's checkpoint that this sync made.
    pub checkpoint: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Moved {
    pub files: usize,
    /// Of these files.
    pub bytes: u64,
    /// That were sent; fewer where an upload went on.
    pub sent_bytes: u64,
}

#[derive(Clone, Debug, serde::Serialize)]
pub struct Removed {
    pub name: String,
    pub why: String,
}

/// What could not be done, and why.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Problem {
    pub name: String,
    pub error: String,
}

/// One sync, from the list to the report. What goes wrong at the target is in the report and not an error. Errors: `conflict` with reason
/// `replica_running` while another one runs, `unavailable` if our own files or rows cannot be read.
pub async fn sync_replica(env: &Env, run_id: &str) -> Result<Synced> {
    let mut report = Synced { ok: true, status: "not_configured", ..Synced::default() };
    let Some(target) = Target::open(env.config(), env.secrets().bucket.as_ref())? else { return Ok(report) };
    let lock = File::options().create(true).truncate(false).write(true).mode(files::MODE_PRIVATE).open(env.data_path("replica.lock"));
    let lock = lock.context("cannot open the lock of the second target")?;
    lock.try_lock().map_err(|_| Error::conflict("replica_running", "another sync with the second target is running"))?;
    report.target = Some(target.url().to_owned());
    report.append_only = target.is_append_only();
    checkpoint::make(env, &mut report).await?;
    let local = inventory::local(env).await?;
    let result = bring::everything(env, &target, &local, &mut report).await;
    let result = match result {
        // Only when all that is here was looked at is it known what may go there.
        Ok(()) => tidy::target(env, &target, &local, &mut report).await,
        failed => failed,
    };
    if let Err(error) = result {
        report.problems.push(Problem { name: target.url().to_owned(), error: error.message });
    }
    report.lag_s = lag_s(env, &target, &local).await?;
    report.ok = report.problems.is_empty();
    report.status = if report.ok { "ok" } else { "failed" };
    let key = format!("{LAST_SUCCESS}:{}", target.url());
    if report.ok {
        env.store().set_meta(&key, &rfc3339(env.now())).await?;
    }
    report.last_success_at = env.store().meta(&key).await?;
    if report.moved.files > 0 || !report.removed.is_empty() || !report.ok {
        env.store().journal(env.fact("replica.synced", run_id, fact(&report))).await?;
    }
    drop(lock);
    Ok(report)
}

fn fact(report: &Synced) -> Json {
    json!({
        "target": report.target, "ok": report.ok, "moved": report.moved, "verified": report.verified.len(),
        "removed": report.removed, "problems": report.problems,
    })
}

async fn lag_s(env: &Env, target: &Target, local: &[inventory::Item]) -> Result<i64> {
    let rows = env.store().replica_objects(target.url()).await?;
    let verified = |item: &inventory::Item| {
        let mut of_it = rows.iter().filter(|r| crate::domain::replica::plain_name(&r.name) == item.name);
        of_it.any(|r| r.state == "verified" && Some(&r.sha256) == item.sha256.as_ref())
    };
    let oldest: Option<DateTime<Utc>> = local.iter().filter(|i| i.is_archive() && !verified(i)).map(|i| i.made_at).min();
    Ok(oldest.map_or(0, |at| (env.now() - at).num_seconds().max(0)))
}
