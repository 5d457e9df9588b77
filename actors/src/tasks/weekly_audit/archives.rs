//! The archives: each is what was recorded of it, a quarter is read whole so that all are within a month, one is restored, no day is
//! missing but those that retention removed, and the last proof is not old.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Datelike as _, NaiveDate, TimeDelta, Utc};
use serde_json::{Value as Json, json};

use super::{
    check,
    reading::{self, Reading},
};
use crate::{
    archive::file_sha256,
    config::Config,
    domain::{
        archive::DATABASE_FILE,
        replica::{DAILY, day_of},
    },
    env::{Env, blocking, rfc3339},
    error::{Error, Result},
    store::{KnownBackup, database_file::check_integrity},
};

/// So many files of the restored archive are compared with its manifest once more.
const SAMPLE: usize = 50;

/// Whether an archive is read whole in the week of `day`: each is in one week of every four.
pub(super) fn is_due(archive: NaiveDate, day: NaiveDate) -> bool {
    let week = day.num_days_from_ce() / 7; // weeks without the jump at the end of a year
    (archive.num_days_from_ce() + week) % 4 == 0
}

/// The archives in the folder, oldest first.
fn on_disk(folder: &Path) -> Result<Vec<(NaiveDate, PathBuf)>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = format!("{DAILY}{}", path.file_name().unwrap_or_default().to_string_lossy());
        found.extend(day_of(&name).map(|day| (day, path)));
    }
    found.sort();
    Ok(found)
}

pub(super) async fn intact(env: &Env, day: NaiveDate) -> Result<Json> {
    let mut known = env.store().known_backups().await?;
    loop {
        let (folder, recorded, config) = (env.backup_path("daily"), known.clone(), env.config().clone());
        let look = blocking(move || look_at_all(&folder, &recorded, day, &reading(&config))).await?;
        let now = env.store().known_backups().await?;
        let state = |all: &[KnownBackup]| all.iter().map(|k| (k.date.clone(), k.sha256.clone(), k.gone_at)).collect::<Vec<_>>();
        // A backup and its retention run at the same hour: what they changed meanwhile is looked at as it is now.
        if look["ok"] == true || state(&known) == state(&now) {
            return Ok(look);
        }
        known = now;
    }
}

fn reading(config: &Config) -> Reading<'_> {
    Reading { backups: &config.paths.backups, identity_file: &config.backup.identity_file }
}

fn look_at_all(folder: &Path, known: &[KnownBackup], day: NaiveDate, reading: &Reading<'_>) -> Result<Json> {
    let archives = on_disk(folder)?;
    let (mut bad, mut whole, mut closed) = (Vec::new(), Vec::new(), Vec::new());
    for (date, path) in &archives {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let recorded = known.iter().find(|k| k.gone_at.is_none() && k.date == date.to_string());
        let mut result = recorded.map_or(Ok(()), |k| as_recorded(path, k));
        // One of which nothing is recorded is told by its manifest alone, and so it is always read.
        if result.is_ok() && (is_due(*date, day) || recorded.is_none()) {
            result = reading.read_whole(path, None).map(drop);
            if recorded.is_some() && result.as_ref().is_err_and(|e| reading::is_closed(e, reading.identity_file)) {
                closed.push(name.clone());
                result = Ok(());
            } else {
                whole.push(name.clone());
            }
        }
        bad.extend(result.err().map(|error| json!({"archive": name, "error": error.message})));
    }
    let there = |k: &KnownBackup| archives.iter().any(|(date, _)| date.to_string() == k.date);
    for lost in known.iter().filter(|k| k.gone_at.is_none() && !there(k)) {
        bad.push(json!({"archive": lost.archive, "error": "it was made and is not there, and retention did not remove it"}));
    }
    let evidence = json!({"verified": archives.len(), "read_whole": whole, "by_digest": archives.len() - whole.len(), "encrypted": closed, "bad": bad});
    Ok(check("archives_intact", bad.is_empty(), evidence))
}

fn as_recorded(path: &Path, known: &KnownBackup) -> Result<()> {
    let size = std::fs::metadata(path)?.len();
    if i64::try_from(size).ok() != Some(known.size_bytes) {
        return Err(Error::invalid("archive", format!("it has {size} bytes, {} are recorded", known.size_bytes)));
    }
    if file_sha256(path)? != known.sha256 {
        return Err(Error::invalid("archive", "its SHA-256 is not the recorded one"));
    }
    Ok(())
}

pub(super) async fn no_gaps(env: &Env) -> Result<Json> {
    let folder = env.backup_path("daily");
    let known = env.store().known_backups().await?;
    let today = env.now().date_naive();
    blocking(move || {
        let dates: BTreeSet<NaiveDate> = on_disk(&folder)?.into_iter().map(|(day, _)| day).collect();
        let removed: BTreeSet<NaiveDate> = known.iter().filter(|k| k.gone_at.is_some()).filter_map(|k| k.date.parse().ok()).collect();
        let gaps = gaps(&dates, &removed, today);
        let evidence = json!({"first": dates.first(), "last": dates.last(), "removed_by_retention": removed.len(), "missing": gaps});
        Ok(check("no_day_without_archive", gaps.is_empty(), evidence))
    })
    .await
}

/// Days between the first archive and yesterday that have none and had none that retention removed.
pub(super) fn gaps(dates: &BTreeSet<NaiveDate>, removed: &BTreeSet<NaiveDate>, today: NaiveDate) -> Vec<NaiveDate> {
    let Some(first) = dates.first() else { return Vec::new() };
    first.iter_days().take_while(|day| *day < today).filter(|day| !dates.contains(day) && !removed.contains(day)).collect()
}

/// Restores an archive that is not the newest, another one each week, and looks at the database and at files of it.
pub(super) async fn sampled_restore(env: &Env, day: NaiveDate) -> Result<Json> {
    let (folder, audits, config) = (env.backup_path("daily"), env.backup_path("audit"), env.config().clone());
    blocking(move || {
        loop {
            let archives = on_disk(&folder)?;
            let Some((date, path)) = chosen(&archives, day) else {
                return Ok(check("sampled_restore", true, json!({"archive": null, "status": "there is no archive yet"})));
            };
            match restored(path, &audits, day, &reading(&config)) {
                Err(error) if reading::is_closed(&error, &config.backup.identity_file) => {
                    let name = path.file_name().map(|n| n.to_string_lossy());
                    let status = "encrypted, and this machine has no identity for it (backup.identity_file): its digest was compared";
                    return Ok(check("sampled_restore", true, json!({"archive": name, "status": status})));
                }
                Err(_) if !path.exists() => {} // retention removed it meanwhile: another one
                result => return result.map_err(|e| e.context(format!("the archive of {date} does not restore"))),
            }
        }
    })
    .await
}

fn restored(path: &Path, audits: &Path, day: NaiveDate, reading: &Reading<'_>) -> Result<Json> {
    let scratch = reading::scratch(audits)?;
    let root = scratch.path().join("restored");
    let files = reading.read_whole(path, Some(&root))?;
    check_integrity(&root.join(DATABASE_FILE)).map_err(|e| e.context("its database"))?;
    let step = files.len().div_ceil(SAMPLE).max(1);
    let (mut compared, mut bad) = (0, Vec::new());
    for file in files.iter().skip(usize::try_from(day.num_days_from_ce()).unwrap_or(0) % step).step_by(step) {
        compared += 1;
        if !reading::is_in(file, &root)? {
            bad.push(file.path.clone());
        }
    }
    scratch.close()?;
    let name = path.file_name().map(|n| n.to_string_lossy());
    let evidence = json!({"archive": name, "files": files.len(), "compared": compared, "database": "intact", "bad": bad});
    Ok(check("sampled_restore", bad.is_empty(), evidence))
}

/// Of the archives before the newest, the one whose turn it is on that day; the newest if it is the only one.
fn chosen(archives: &[(NaiveDate, PathBuf)], day: NaiveDate) -> Option<&(NaiveDate, PathBuf)> {
    let older = archives.len().saturating_sub(1).max(1);
    let week = usize::try_from(day.num_days_from_ce() / 7).unwrap_or(0);
    // A step that has no divisor in common with most counts, so that neighbours are not restored one after the other.
    archives.get(week.wrapping_mul(7919) % older)
}

pub(super) async fn proof_age(env: &Env) -> Result<Json> {
    let (now, max_h) = (env.now(), env.config().backup.proof_max_age_h);
    let known = env.store().known_backups().await?;
    let of_archives = known.iter().filter(|k| k.proof == "passed").filter_map(|k| k.proof_at.as_deref()?.parse().ok());
    let proven = env.store().last_passed_proof().await?.map(|p| p.at);
    let last: Option<DateTime<Utc>> = of_archives.chain(proven).max();
    // Before the first backup there is nothing to prove.
    let ok = last.map_or(known.is_empty(), |at| now - at <= TimeDelta::hours(max_h));
    let age_h = last.map(|at| (now - at).num_hours());
    Ok(check("proof_age", ok, json!({"last_passed_at": last.map(rfc3339), "age_h": age_h, "max_h": max_h})))
}
