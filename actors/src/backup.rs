//! Backup owns the lock on the archives: one backup at a time. The work runs in a task of its own; when this actor dies the work
//! ends with it, the archive under its final name is still the old one, and the litter is swept by the next run. Every archive is
//! proven: restored into a scratch folder, compared with its manifest, its database opened and its journal walked.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde_json::{Value as Json, json};

use crate::{
    actor::{self, Probe, Probed, Reply},
    alert,
    archive::{self, Problem, Source},
    domain::{
        alert_rule::{Check, Severity},
        archive::{Manifest, archive_name},
    },
    env::{Env, blocking, rfc3339},
    error::{Context as _, Error, Result},
    store::{BackupRow, Store},
    task::{OneRun, Record, Run},
};

pub const NOUN: &str = "backup";
/// A backup ends within this, or it is given up.
pub const LIMIT: Duration = Duration::from_hours(1);
/// The database's name in every archive.
const DATABASE: &str = "database/echopilot.db";

pub enum Message {
    Run { run: Run, reply: Reply<Record> },
    Probe(Probe, Reply<()>),
}

impl Probed for Message {
    fn probe(probe: Probe, reply: Reply<()>) -> Self {
        Self::Probe(probe, reply)
    }
}

/// Makes and proves the archive of the run's day; the record is seed phase 70's. Errors: `conflict` with reason `backup_running`
/// and the `run_id` in the way, `unavailable` if the disk does not take it.
pub async fn run(run: &Run) -> Result<Record> {
    actor::call(&run.env, NOUN, LIMIT, |reply| Message::Run { run: run.clone(), reply }).await
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Backup;

impl Actor for Backup {
    type Msg = Message;
    type State = OneRun;
    type Arguments = Env;

    async fn pre_start(&self, _: ActorRef<Message>, _: Env) -> Result<OneRun, ActorProcessingErr> {
        Ok(OneRun::default())
    }

    async fn handle(&self, _: ActorRef<Message>, message: Message, state: &mut OneRun) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Run { run, reply } => {
                let busy = Error::conflict("backup_running", "a backup is running");
                state.start(&run.clone(), reply, busy, async move { back_up(&run).await });
            }
            Message::Probe(probe, reply) => actor::answer(probe, reply).await,
        }
        Ok(())
    }
}

async fn back_up(run: &Run) -> Result<Record> {
    let env = &run.env;
    let folder = env.backup_path("daily");
    std::fs::create_dir_all(&folder).context(format!("cannot create {}", folder.display()))?;
    let lock = File::create(folder.join(".lock")).context("cannot open the backup lock")?;
    lock.try_lock().map_err(|_| Error::conflict("backup_running", "another process is making a backup"))?;
    sweep(&folder)?;
    let scratch = tempfile::Builder::new().prefix(".work-").tempdir_in(&folder).context("cannot create a scratch folder")?;
    let copy = scratch.path().join("echopilot.db");
    env.store().copy_to(copy.clone()).await.map_err(|e| e.context("cannot copy the database"))?;

    let (config, now) = (env.config().clone(), env.now());
    let new = scratch.path().join("archive.tar.gz");
    let (manifest, problems) = blocking({
        let new = new.clone();
        move || {
            let mut problems = Vec::new();
            let sources = sources(&config, copy, &mut problems);
            let manifest = archive::write(&new, &sources, now, &mut problems)?;
            Ok((manifest, problems))
        }
    })
    .await?;
    let proof = prove(&new, &manifest, scratch.path(), now).await;
    let made = blocking({
        let (target, passed) = (folder.join(archive_name(run.slot.date_naive())), proof["state"] == "passed");
        move || publish(&new, &target, manifest, passed)
    })
    .await;
    drop(scratch);
    drop(lock);
    match made {
        Ok(made) => record(run, now, made, problems, proof).await,
        Err(error) => {
            alert::evaluate(env, vec![proof_check(false, &problems, &proof)]).await?;
            Err(proof["error"].as_str().map_or(error.clone(), |why| error.context(format!("the proof of restore failed ({why})"))))
        }
    }
}

/// Everything a backup holds: logs, configuration, payout archives and the copy of the database.
fn sources(config: &crate::config::Config, database: PathBuf, problems: &mut Vec<Problem>) -> Vec<Source> {
    let none = |_: &Path| false;
    let mut all = archive::collect("logs", &config.paths.logs, &none, problems);
    all.extend(archive::collect("configs", &config.paths.configs, &none, problems));
    all.extend(archive::collect("backups/payouts", &config.paths.backups.join("payouts"), &none, problems));
    all.push(Source { name: DATABASE.into(), file: database });
    all.sort();
    all
}

/// Removes what a killed backup left behind; the lock says that none is running.
fn sweep(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(".work-") || name.starts_with(".restore-") {
            match std::fs::remove_dir_all(entry.path()) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()), // self_heal may be sweeping as well
                _ => {}
            }
        }
    }
    Ok(())
}

/// The proof of restore: `{"state":"passed|failed","at","error","restore_ms"}`.
async fn prove(archive: &Path, manifest: &Manifest, scratch: &Path, now: DateTime<Utc>) -> Json {
    let start = Instant::now();
    let result = restore_and_check(archive, manifest, scratch).await;
    let restore_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    match result {
        Ok(()) => json!({"state": "passed", "at": rfc3339(now), "error": null, "restore_ms": restore_ms}),
        Err(error) => json!({"state": "failed", "at": rfc3339(now), "error": error.message, "restore_ms": restore_ms}),
    }
}

async fn restore_and_check(archive: &Path, manifest: &Manifest, scratch: &Path) -> Result<()> {
    let (archive, manifest, restored) = (archive.to_owned(), manifest.clone(), scratch.join("restored"));
    blocking({
        let restored = restored.clone();
        move || archive::restore(&archive, Some(&manifest), &restored)
    })
    .await?;
    let database = restored.join(DATABASE);
    let store = blocking(move || {
        crate::store::database_file::check_integrity(&database)?;
        Store::open(&database, "proof")
    })
    .await?;
    let journal = store.verify_journal().await;
    store.close().await?;
    match journal?.breaks.first() {
        None => Ok(()),
        Some(broken) => Err(Error::invalid("journal", format!("the restored journal is broken: {}", broken.explanation))),
    }
}

struct Made {
    archive: String,
    date: String,
    size_bytes: u64,
    files: usize,
    sha256: String,
}

/// Puts the archive under its final name. One that failed its proof never replaces an older one.
fn publish(new: &Path, target: &Path, mut manifest: Manifest, proven: bool) -> Result<Made> {
    let size_bytes = std::fs::metadata(new)?.len();
    let name = target.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
    if !proven && target.exists() {
        return Err(Error::unavailable("proof_failed", format!("backups/daily/{name} stays as it was")));
    }
    archive::publish(new, target, &mut manifest)?;
    let date = crate::domain::archive::date_of_archive(&name).map(|d| d.to_string()).unwrap_or_default();
    Ok(Made { archive: format!("backups/daily/{name}"), date, size_bytes, files: manifest.entries.len(), sha256: manifest.archive_sha256 })
}

async fn record(run: &Run, now: DateTime<Utc>, made: Made, problems: Vec<Problem>, proof: Json) -> Result<Record> {
    let env = &run.env;
    let passed = proof["state"] == "passed";
    let row = BackupRow {
        date: made.date,
        run_id: run.run_id.clone(),
        archive: made.archive.clone(),
        size_bytes: i64::try_from(made.size_bytes).unwrap_or(i64::MAX),
        files: i64::try_from(made.files).unwrap_or(i64::MAX),
        sha256: made.sha256.clone(),
        made_at: now,
        proof: proof.clone(),
        state: if problems.is_empty() { "ok" } else { "partial" }.into(),
        took_ms: 0,
        content_bytes: 0,
        reused_bytes: 0,
        shared_bytes: 0,
        toc_sha256: String::new(),
        encrypted: false,
        full: true,
        problems: json!(problems),
        gone_at: None,
        gone_why: None,
    };
    let data = json!({"archive": made.archive, "sha256": made.sha256, "size_bytes": made.size_bytes, "proof": proof});
    env.store().put_backup(&row, None, env.fact("backup.done", &run.run_id, data)).await?;
    let ok = passed && problems.is_empty();
    alert::evaluate(env, vec![proof_check(ok, &problems, &proof)]).await?;
    let mut record = Record::new();
    record.insert("ok".into(), ok.into());
    record.insert("ts".into(), rfc3339(now).into());
    record.insert("archive".into(), made.archive.into());
    record.insert("size_bytes".into(), made.size_bytes.into());
    record.insert("size_mb".into(), json!((made.size_bytes as f64 / 1_048_576.0 * 100.0).round() / 100.0));
    record.insert("files".into(), made.files.into());
    record.insert("reused_bytes".into(), 0.into());
    record.insert("sha256".into(), made.sha256.into());
    record.insert("proof".into(), proof);
    if !problems.is_empty() {
        record.insert("partial".into(), json!(problems));
    }
    Ok(record)
}

fn proof_check(ok: bool, problems: &[Problem], proof: &Json) -> Check {
    Check {
        name: "backup_proof".into(),
        system: "backup",
        ok: Some(ok),
        severity: Severity::Critical,
        value: Some(proof["state"].as_str().unwrap_or("pending").to_owned()),
        threshold: "a complete archive that restores".into(),
        reason: match (problems.first(), proof["error"].as_str()) {
            (_, Some(error)) => format!("the last backup failed its proof: {error}"),
            (Some(problem), None) => format!("{} could not be archived whole: {}", problem.path, problem.what),
            (None, None) => "the last backup is complete and restores".to_owned(),
        },
    }
}
