//! Makes the archive of a day: a copy of the database, the members of the archive before where nothing changed, the proof that it
//! restores, and only then its name. Killed anywhere, the archives that were there are there, and what is left over has a name that the
//! next run sweeps.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use chrono::{DateTime, TimeDelta, Utc};
use echopilot_archive::{
    pattern::Patterns,
    previous::Previous,
    write::{self, Written},
};
use serde_json::json;

use super::{
    checks, keep,
    listing::file_name,
    lock,
    progress::{Busy, Progress},
    proof::{self, Proof},
    room::enough_room,
};
use crate::{
    alert,
    archive::{self, Recipients, Root},
    config::Config,
    domain::archive::{
        CONFIGS, DATABASE, DATABASE_FILE, Include, LOGS, Manifest, PAYOUTS, SCHEMA, archive_name, encrypted_name, is_unusual,
    },
    env::{Env, blocking, rfc3339},
    error::{Context as _, Error, Result},
    files,
    signing::Signer,
    store::{BackupRow, ProofRow},
    task::{Record, Run},
};

/// The archive that the next one takes members from when those that stay are encrypted. In the data directory: it is as readable as
/// what it was made of.
pub(super) const BASE: &str = "backup_base.tar.gz";
/// When an archive was last made without reusing anything.
const LAST_FULL: &str = "backup.last_full";
/// Temporary files of the daemon's own folders; half written, and gone in an instant.
const NEVER_WHOLE: [&str; 2] = ["logs/**/*.tmp", "configs/**/*.tmp"];

/// The reason of a run whose archive did not restore and took no other's place.
const PROOF_FAILED: &str = "proof_failed";

pub(super) async fn back_up(run: &Run, progress: &Progress) -> Result<Record> {
    let (env, began, now) = (&run.env, Instant::now(), run.env.now());
    let busy = progress.begin(&run.run_id);
    let folder = env.backup_path("daily");
    let lock = {
        let (folder, what) = (folder.clone(), format!("backup {}", run.run_id));
        blocking(move || {
            let lock = lock(&folder, &what)?;
            sweep(&folder)?;
            Ok(lock)
        })
        .await?
    };
    let scratch = tempfile::Builder::new().prefix(".work-").tempdir_in(&folder).context("cannot create a scratch folder")?;
    let made = make(run, &busy, scratch.path(), now).await;
    let took_ms = i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX);
    let result = match made {
        Ok(made) => finish(run, now, took_ms, made).await,
        Err(error) => Err(error),
    };
    if let Err(error) = &result
        && error.reason != PROOF_FAILED
    {
        alert::evaluate(env, vec![checks::made(&Err(error.clone()))]).await?;
    }
    drop(scratch);
    drop(lock);
    result
}

/// Gives the archive its name and writes everything down; of one that is not to have it, the proof that failed.
async fn finish(run: &Run, now: DateTime<Utc>, took_ms: i64, made: Made) -> Result<Record> {
    let (env, date) = (&run.env, run.slot.date_naive());
    let Made { written, proof, publishable } = made;
    if let Some(publishable) = publishable {
        let published = publish(env, publishable, &written, now).await?;
        return record(run, now, took_ms, written, proof, published).await;
    }
    let row = proof_row(run, &proof, &written.sha256);
    let data = json!({"sha256": written.sha256, "proof": proof.summary()});
    env.store().put_proof(&row, &proof.summary(), env.fact("backup.proof_failed", &run.run_id, data)).await?;
    alert::evaluate(env, vec![checks::proof(&proof)]).await?;
    let why = proof.error.unwrap_or_default();
    let what = format!("the archive of {date} stays as it was: the new one failed its proof of restore ({why})");
    Err(Error::unavailable(PROOF_FAILED, what))
}

fn proof_row(run: &Run, proof: &Proof, sha256: &str) -> ProofRow {
    ProofRow {
        date: run.slot.date_naive().to_string(),
        run_id: run.run_id.clone(),
        sha256: sha256.to_owned(),
        at: proof.at,
        state: proof.state().into(),
        restore_ms: proof.restore_ms,
        checks: json!(proof.checks),
        error: proof.error.clone(),
    }
}

struct Made {
    written: Written,
    proof: Proof,
    /// `None`: it failed its proof, and there is an archive of that day already.
    publishable: Option<Publishable>,
}

/// A finished archive under a temporary name.
struct Publishable {
    new: PathBuf,
    target: PathBuf,
    sha256: String,
    size_bytes: u64,
    recipients: Vec<String>,
    /// The archive before, if members were taken over from it.
    previous: Option<String>,
    /// Where the clear archive waits for the next one.
    base: Option<(PathBuf, PathBuf)>,
}

async fn make(run: &Run, busy: &Busy, scratch: &Path, now: DateTime<Utc>) -> Result<Made> {
    let env = &run.env;
    let config = env.config().clone();
    let recipients = Recipients::parse(&config.backup.recipients)?;
    let copy = scratch.join("echopilot.db");
    let includes = includes(&config)?;
    let roots = roots(&config, &includes, &copy);
    let (previous, name) = previous(env, now).await?;
    let exclude = excluded(&config)?;
    let total = {
        let (roots, exclude, config, last, file) =
            (roots.clone(), exclude.clone(), config.clone(), last_size(env).await?, scratch.to_owned());
        blocking(move || enough_room(&config, &roots, &exclude, last, &file)).await?
    };
    if includes.contains(&Include::Own(DATABASE)) {
        env.store().copy_to(copy.clone()).await.map_err(|e| e.context("cannot copy the database"))?;
    }
    let (new, meter) = (scratch.join("archive.tar.gz"), busy.phase("archiving", total));
    let written = blocking({
        let (new, roots, never) = (new.clone(), roots.clone(), never(&config));
        let threads = config.backup.threads;
        move || {
            let mode = files::MODE_PRIVATE;
            let options = write::Options { exclude, never: &never, previous, threads, stop: meter.stop(), read: meter.done(), mode };
            Ok(write::write(&new, &roots, options)?)
        }
    })
    .await?;
    let mut proof = proof::prove(env, &run.run_id, &new, &written, &roots, scratch, busy, now).await;
    let date = run.slot.date_naive();
    let (clear, folder) = (archive_name(date), env.backup_path("daily"));
    let there = [clear.clone(), encrypted_name(date)].iter().any(|name| folder.join(name).exists());
    let publishable = if config.backup.recipients.is_empty() {
        let (sha256, size_bytes) = (written.sha256.clone(), written.size_bytes);
        Publishable { new, target: folder.join(clear), sha256, size_bytes, recipients: Vec::new(), previous: name, base: None }
    } else {
        let _ = busy.phase("encrypting", 0);
        let (from, encrypted) = (new.clone(), scratch.join("archive.age"));
        let to = encrypted.clone();
        let (size_bytes, sha256) = blocking(move || archive::encrypt(&from, &to, &recipients)).await?;
        if !config.backup.identity_file.as_os_str().is_empty() {
            proof.decrypts(&encrypted, &config.backup.identity_file, &written).await;
        }
        let base = Some((new, env.data_path(BASE)));
        let (target, recipients) = (folder.join(encrypted_name(date)), config.backup.recipients.clone());
        Publishable { new: encrypted, target, sha256, size_bytes, recipients, previous: name, base }
    };
    let publishable = (proof.passed() || !there).then_some(publishable);
    Ok(Made { written, proof, publishable })
}

/// What the configuration asks for. Errors name the item.
pub(super) fn includes(config: &Config) -> Result<Vec<Include>> {
    let parse = |text: &String| Include::parse(text).map_err(|e| Error::invalid("configuration", e));
    config.backup.include.iter().map(parse).collect()
}

/// Where everything lies that is archived, and what it is called there.
pub(super) fn roots(config: &Config, includes: &[Include], copy: &Path) -> Vec<Root> {
    let root = |name: &str, path: PathBuf, required| Root { name: name.into(), path, required };
    let all = includes.iter().map(|include| match include {
        Include::Own(LOGS) => root(LOGS, config.paths.logs.clone(), true),
        Include::Own(CONFIGS) => root(CONFIGS, config.paths.configs.clone(), false), // the defaults are compiled in
        Include::Own(PAYOUTS) => root(PAYOUTS, config.paths.backups.join("payouts"), false), // none were archived yet
        Include::Own(_) => root(DATABASE_FILE, copy.to_owned(), true),
        Include::Other(name, path) => root(name, path.into(), true),
    });
    let mut all: Vec<Root> = all.collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all.dedup();
    all
}

pub(super) fn excluded(config: &Config) -> Result<Patterns> {
    let all = config.backup.exclude.iter().map(String::as_str).chain(NEVER_WHOLE);
    Patterns::new(all).map_err(|e| Error::invalid("configuration", format!("backup.exclude: {e}")))
}

/// What is not archived wherever a folder of the operator's leads to it.
fn never(config: &Config) -> Vec<(PathBuf, &'static str)> {
    vec![
        (config.paths.backups.join("daily"), "the archives themselves"),
        (config.paths.data.clone(), "the data directory: the database is archived as a copy, secrets are not"),
    ]
}

/// The archive whose members are taken over, with the digest that was written down of it, and its name; none if the next full one is
/// due.
pub(super) async fn previous(env: &Env, now: DateTime<Utc>) -> Result<(Option<Previous>, Option<String>)> {
    let mut rows = env.store().backups(400).await?;
    let oldest = now - TimeDelta::days(env.config().backup.full_every_days);
    // The last full one may have been replaced on its day, or removed by retention since.
    let noted = env.store().meta(LAST_FULL).await?.and_then(|at| at.parse::<DateTime<Utc>>().ok());
    if noted.is_none_or(|at| at <= oldest) && !rows.iter().any(|row| row.full && row.made_at > oldest) {
        return Ok((None, None));
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.made_at));
    for row in rows.iter().filter(|row| !row.toc_sha256.is_empty()) {
        let file = file_name(row);
        let path = if row.encrypted { env.data_path(BASE) } else { env.backup_path("daily").join(file) };
        if path.exists() {
            return Ok((Some(Previous { path, toc_sha256: Some(row.toc_sha256.clone()) }), Some(file.to_owned())));
        }
    }
    Ok((None, None))
}

pub(super) async fn last_size(env: &Env) -> Result<Option<u64>> {
    Ok(env.store().backups(1).await?.first().map(|row| row.size_bytes.unsigned_abs()))
}

/// Removes what a killed backup or restore left behind; the lock says that none is running.
fn sweep(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let removed = if name.starts_with(".work-") || name.starts_with(".restore-") {
            std::fs::remove_dir_all(entry.path())
        } else if name.starts_with('.') && entry.path().extension().is_some_and(|extension| extension == "tmp") {
            std::fs::remove_file(entry.path()) // a manifest that was being written
        } else {
            Ok(())
        };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()), // self_heal may be sweeping as well
            _ => {}
        }
    }
    Ok(())
}

/// Gives the archive its name, and takes away the other form of the same day: encryption was switched on or off.
async fn publish(env: &Env, publishable: Publishable, written: &Written, now: DateTime<Utc>) -> Result<Publishable> {
    let manifest = Manifest {
        schema: SCHEMA,
        created: now,
        archive_sha256: publishable.sha256.clone(),
        size_bytes: publishable.size_bytes,
        toc_sha256: written.toc_sha256.clone(),
        entry_count: written.entries,
        files: written.files,
        content_bytes: written.content_bytes,
        reused_bytes: written.reused_bytes,
        previous: publishable.previous.clone().filter(|_| written.reused_bytes > 0),
        state: checks::state(written).to_owned(),
        problems: json!(written.problems),
        recipients: publishable.recipients.clone(),
    };
    let (data, backups) = (env.config().paths.data.clone(), env.config().paths.backups.clone());
    blocking(move || {
        let signer = Signer::open(&data, &backups)?;
        archive::publish(&publishable.new, &publishable.target, &manifest, &signer)?;
        let name = publishable.target.to_string_lossy().into_owned();
        let other = name.strip_suffix(".age").map_or_else(|| format!("{name}.age"), str::to_owned);
        if Path::new(&other).exists() {
            archive::remove(Path::new(&other))?;
        }
        if let Some((from, to)) = &publishable.base {
            // Across file systems a rename is none.
            if std::fs::rename(from, to).is_err() {
                std::fs::copy(from, to).context(format!("cannot keep {}", to.display()))?;
            }
        } else {
            let _ = std::fs::remove_file(data.join(BASE)); // of a time when archives were encrypted
        }
        Ok(publishable)
    })
    .await
}

async fn record(run: &Run, now: DateTime<Utc>, took_ms: i64, written: Written, proof: Proof, published: Publishable) -> Result<Record> {
    let env = &run.env;
    let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let earlier = env.store().backups(8).await?;
    let date = run.slot.date_naive().to_string();
    let file = published.target.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let row = BackupRow {
        date: date.clone(),
        run_id: run.run_id.clone(),
        archive: format!("backups/daily/{file}"),
        size_bytes: count(published.size_bytes),
        files: count(written.files),
        sha256: published.sha256.clone(),
        made_at: now,
        proof: proof.summary(),
        state: checks::state(&written).into(),
        took_ms,
        content_bytes: count(written.content_bytes),
        reused_bytes: count(written.reused_bytes),
        shared_bytes: count(written.shared_bytes),
        toc_sha256: written.toc_sha256.clone(),
        encrypted: !published.recipients.is_empty(),
        full: written.reused_members == 0,
        problems: json!(written.problems),
        gone_at: None,
        gone_why: None,
    };
    let proven = proof_row(run, &proof, &published.sha256);
    let data = json!({
        "archive": row.archive, "sha256": row.sha256, "toc_sha256": row.toc_sha256, "size_bytes": row.size_bytes, "state": row.state,
        "proof": row.proof, "damaged_before": written.damaged_before, "previous_refused": written.previous_refused,
    });
    env.store().put_backup(&row, Some(&proven), env.fact("backup.done", &run.run_id, data)).await?;
    if row.full {
        env.store().set_meta(LAST_FULL, &rfc3339(now)).await?;
    }
    let sizes: Vec<i64> = earlier.iter().filter(|b| b.date != date).map(|b| b.content_bytes).filter(|bytes| *bytes > 0).collect();
    let unusual = is_unusual(row.content_bytes, &sizes);
    let kept = if proof.passed() { keep::after_backup(env, now).await } else { Ok(Vec::new()) };
    let whole = written.problems.is_empty();
    let mut all =
        vec![checks::proof(&proof), checks::made(&Ok(&written)), checks::before(&written), checks::size(unusual, row.content_bytes)];
    if let Err(error) = &kept {
        tracing::error!(actor = super::NOUN, %error, "old archives could not be removed");
        all.push(checks::retention(Some(&error.message)));
    } else {
        all.push(checks::retention(None));
    }
    alert::evaluate(env, all).await?;
    let mut record = Record::new();
    record.insert("ok".into(), (proof.passed() && whole).into());
    record.insert("ts".into(), rfc3339(now).into());
    record.insert("archive".into(), row.archive.into());
    record.insert("size_bytes".into(), row.size_bytes.into());
    record.insert("size_mb".into(), json!((row.size_bytes as f64 / 1_048_576.0 * 100.0).round() / 100.0));
    record.insert("files".into(), row.files.into());
    record.insert("content_bytes".into(), row.content_bytes.into());
    record.insert("reused_bytes".into(), row.reused_bytes.into());
    record.insert("shared_bytes".into(), row.shared_bytes.into());
    record.insert("full".into(), row.full.into());
    record.insert("state".into(), row.state.into());
    record.insert("took_ms".into(), took_ms.into());
    record.insert("sha256".into(), row.sha256.into());
    record.insert("toc_sha256".into(), row.toc_sha256.into());
    record.insert("encrypted".into(), row.encrypted.into());
    record.insert("proof".into(), row.proof);
    record.insert("checks".into(), json!(proof.checks));
    let lists =
        [("partial", json!(written.problems)), ("skipped", json!(written.skipped)), ("damaged_before", json!(written.damaged_before))];
    for (name, list) in lists {
        if list.as_array().is_some_and(|list| !list.is_empty()) {
            record.insert(name.into(), list);
        }
    }
    if let Some(why) = written.previous_refused {
        record.insert("previous_refused".into(), why.into());
    }
    record.insert("removed".into(), kept.map(|removed| json!(removed)).unwrap_or_default());
    Ok(record)
}
