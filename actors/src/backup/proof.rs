//! The proof that an archive restores: it is restored, every file is read again and compared with the archive, a sample with the live
//! source, the database is opened and checked, the journal walked, the newest reconciliation and the verdict on the service level are
//! made again from what was restored and must come out the same. Each check has its evidence; the first that fails is the error.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Instant,
};

use chrono::{DateTime, TimeDelta, Timelike as _, Utc};
use echopilot_archive::{compare::digest_of_beginning, write::Written};
use serde_json::{Value as Json, json};

use super::progress::Busy;
use crate::{
    archive::{self, Entry, Links, Opened, RestoreOptions, Root, Type},
    domain::archive::DATABASE_FILE,
    env::{Env, blocking, rfc3339},
    error::{Error, Result},
    files, recon, slo,
    store::Store,
};

/// What is judged again lies this long in the past: by then every minute is written down.
const SETTLED: TimeDelta = TimeDelta::minutes(5);

#[derive(Clone, Debug)]
pub(super) struct Proof {
    pub(super) at: DateTime<Utc>,
    /// `[{"check","ok","evidence"}]`
    pub(super) checks: Vec<Json>,
    /// Time to restore: from the first byte read to the last file in place and synced, milliseconds.
    pub(super) restore_ms: i64,
    pub(super) error: Option<String>,
}

impl Proof {
    pub(super) fn passed(&self) -> bool {
        self.error.is_none()
    }

    pub(super) fn state(&self) -> &'static str {
        if self.passed() { "passed" } else { "failed" }
    }

    /// `{"state":"passed|failed","at","error","restore_ms"}`.
    pub(super) fn summary(&self) -> Json {
        json!({"state": self.state(), "at": rfc3339(self.at), "error": self.error, "restore_ms": self.restore_ms})
    }

    fn note(&mut self, check: &str, result: Result<Json>) -> bool {
        let (ok, evidence) = match result {
            Ok(evidence) => (true, evidence),
            Err(error) => {
                self.error.get_or_insert_with(|| format!("{check}: {}", error.message));
                (false, json!({"error": error.message}))
            }
        };
        self.checks.push(json!({"check": check, "ok": ok, "evidence": evidence}));
        ok
    }
}

impl Proof {
    /// One more check, where this machine may have the identity: the encrypted archive opens, and every member of it is whole.
    pub(super) async fn decrypts(&mut self, encrypted: &Path, identity: &Path, written: &Written) {
        let (path, identity, toc) = (encrypted.to_owned(), identity.to_owned(), written.toc_sha256.clone());
        let result = blocking(move || {
            let opened = archive::open(&path, &identity)?;
            if opened.toc_sha256() != toc {
                return Err(Error::invalid("archive", "decrypted, it is another archive"));
            }
            let report = opened.verify(&archive::VerifyOptions::default())?;
            Ok(json!({"files": report.sums.files, "members": report.members_read}))
        })
        .await;
        self.note("decrypts", result);
    }
}

/// Proves the archive at `path`; what is restored lies below `scratch` and goes with it.
#[expect(clippy::too_many_arguments, reason = "what is proven, against what, and where")]
pub(super) async fn prove(
    env: &Env,
    run_id: &str,
    path: &Path,
    written: &Written,
    roots: &[Root],
    scratch: &Path,
    busy: &Busy,
    now: DateTime<Utc>,
) -> Proof {
    let mut proof = Proof { at: now, checks: Vec::new(), restore_ms: 0, error: None };
    let restored = scratch.join("restored");
    let begun = Instant::now();
    let meter = busy.phase("restoring", written.content_bytes);
    let result = blocking({
        let (path, restored, written) = (path.to_owned(), restored.clone(), written.clone());
        move || {
            let opened = whole(&path, &written)?;
            let options = RestoreOptions { links: Links::Allow, stop: meter.stop(), done: meter.done(), ..RestoreOptions::default() };
            let done = opened.restore(&restored, &options)?;
            Ok(json!({"files": done.files, "bytes": done.bytes}))
        }
    })
    .await;
    proof.restore_ms = i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX);
    if !proof.note("restore", result) {
        return proof;
    }
    let _ = busy.phase("comparing", written.content_bytes);
    let compared = blocking({
        let (path, restored) = (path.to_owned(), restored.clone());
        move || compared(&archive::open(&path, Path::new(""))?, &restored)
    })
    .await;
    proof.note("files", compared);
    let sampled = blocking({
        let (path, restored, roots, run_id) = (path.to_owned(), restored.clone(), roots.to_vec(), run_id.to_owned());
        let wanted = env.config().backup.proof_sample;
        move || live_sample(&archive::open(&path, Path::new(""))?, &restored, &roots, wanted, &run_id, now)
    })
    .await;
    proof.note("live_sample", sampled);
    let _ = busy.phase("checking the database", 0);
    let database = restored.join(DATABASE_FILE);
    if database.exists() {
        check_database(env, &mut proof, &database, now).await;
    }
    proof
}

/// The archive, which must be the very bytes that were written.
fn whole(path: &Path, written: &Written) -> Result<Opened> {
    if archive::file_sha256(path)? != written.sha256 {
        return Err(Error::invalid("archive", "read back, it is not what was written"));
    }
    let opened = archive::open(path, Path::new(""))?;
    if opened.toc_sha256() == written.toc_sha256 {
        Ok(opened)
    } else {
        Err(Error::invalid("archive", "its table of contents is not the one that was written"))
    }
}

fn compared(opened: &Opened, restored: &Path) -> Result<Json> {
    let notes = opened.compare(restored)?;
    match notes.first() {
        None => Ok(json!({"different": 0})),
        Some(first) => Err(Error::invalid("proof", format!("{} restored files are different, {} {}", notes.len(), first.path, first.what))),
    }
}

/// Compares some files with where they came from. Files move meanwhile: one that was written to since may only have grown, or have been
/// replaced; one that nobody touched must be the same.
fn live_sample(opened: &Opened, restored: &Path, roots: &[Root], wanted: usize, run_id: &str, began: DateTime<Utc>) -> Result<Json> {
    let mut sample: Vec<(u64, Entry)> = Vec::new();
    opened.each_entry(&mut |entry| {
        if entry.kind == Type::File && entry.path != DATABASE_FILE {
            // The files whose digest with this run's id is smallest: another run, other files.
            let digest = ring::digest::digest(&ring::digest::SHA256, format!("{run_id}\0{}", entry.path).as_bytes());
            sample.push((u64::from_be_bytes(*digest.as_ref().first_chunk().expect("a digest has 32 bytes")), entry));
            if sample.len() > 2 * wanted.max(1) {
                sample.sort_by_key(|(place, _)| *place);
                sample.truncate(wanted);
            }
        }
        Ok(())
    })?;
    sample.sort_by_key(|(place, _)| *place);
    sample.truncate(wanted);
    let (mut same, mut grown, mut moved) = (0, 0, 0);
    for (_, entry) in &sample {
        match compare_live(entry, restored, roots, began)? {
            Live::Same => same += 1,
            Live::Grown => grown += 1,
            Live::Moved => moved += 1,
        }
    }
    Ok(json!({"files": sample.len(), "same": same, "grown": grown, "moved_or_replaced": moved}))
}

enum Live {
    Same,
    /// What was archived is its beginning.
    Grown,
    /// Gone, or another file now.
    Moved,
}

fn compare_live(entry: &Entry, restored: &Path, roots: &[Root], began: DateTime<Utc>) -> Result<Live> {
    let name = PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(entry.name()));
    let root = roots.iter().filter(|root| name.starts_with(&root.name)).max_by_key(|root| root.name.as_os_str().len());
    let Some(below) = root.and_then(|root| Some(root.path.join(name.strip_prefix(&root.name).ok()?))) else { return Ok(Live::Moved) };
    let live = if below.as_os_str().as_encoded_bytes().ends_with(b"/") {
        PathBuf::from(below.to_string_lossy().trim_end_matches('/'))
    } else {
        below
    };
    let Ok(stat) = fs::symlink_metadata(&live) else { return Ok(Live::Moved) };
    let Ok(digest) = digest_of_beginning(&live, entry.size) else { return Ok(Live::Moved) };
    if digest == entry.blake3 && stat.len() >= entry.size {
        return Ok(if stat.len() == entry.size { Live::Same } else { Live::Grown });
    }
    let untouched = (stat.mtime(), stat.mtime_nsec()) == (entry.mtime, entry.ns.into()) && stat.len() == entry.size;
    if untouched && stat.mtime() < began.timestamp() {
        let what = format!("{} is not what lies at {}, which nobody has written to since", restored.join(&name).display(), live.display());
        return Err(Error::invalid("proof", what));
    }
    Ok(Live::Moved)
}

/// Opens the restored database and asks it what the live one is asked.
async fn check_database(env: &Env, proof: &mut Proof, database: &Path, now: DateTime<Utc>) {
    let path = database.to_owned();
    let whole = blocking(move || crate::store::database_file::check_integrity(&path).map(|()| json!({"integrity_check": "ok"}))).await;
    if !proof.note("database", whole) {
        return;
    }
    let path = database.to_owned();
    let store = match blocking(move || Store::open(&path, "proof")).await {
        Ok(store) => store,
        Err(error) => {
            proof.note("journal", Err(error.context("the restored database does not open")));
            return;
        }
    };
    let journal = journal(&store).await;
    proof.note("journal", journal);
    let reconciliation = reconciliation(env.store(), &store, now).await;
    proof.note("reconciliation", reconciliation);
    let level = level(env, &store, now).await;
    proof.note("service_level", level);
    if let Err(error) = store.close().await {
        proof.note("database_closes", Err(error));
    }
}

async fn journal(store: &Store) -> Result<Json> {
    let report = store.verify_journal().await?;
    match report.breaks.first() {
        None => Ok(json!({"entries": report.entries, "chains": report.chains.len()})),
        Some(broken) => Err(Error::invalid("journal", format!("the restored journal is broken: {}", broken.explanation))),
    }
}

/// Makes the newest reconciliation of yesterday or before again, from the inputs that were restored: the report must be the one that was
/// kept then, in the restored database and in the live one.
async fn reconciliation(live: &Store, restored: &Store, now: DateTime<Utc>) -> Result<Json> {
    let today = now.with_hour(0).and_then(|t| t.with_minute(0)).and_then(|t| t.with_second(0)).unwrap_or(now);
    let Some(kept) = restored.recon_before("payouts", today).await? else {
        return Ok(json!({"status": "no_data", "reason": "nothing was reconciled yet"}));
    };
    let inputs = kept.inputs.clone();
    let mut again = blocking(move || Ok(serde_json::to_value(recon::recompute(&inputs)?)?)).await?;
    for name in ["ts", "run_id", "generated_at"] {
        again[name] = kept.report[name].clone(); // when it was made, and by which run: not what it found
    }
    let (then, now) = (digest(&kept.report), digest(&again));
    if then != now {
        return Err(Error::invalid("proof", format!("the reconciliation {} comes out differently from the restored data", kept.run_id)));
    }
    match live.recon_report(&kept.run_id).await? {
        Some(report) if digest(&report) != then => {
            Err(Error::invalid("proof", format!("the reconciliation {} is another one in the live database", kept.run_id)))
        }
        live => Ok(json!({"run_id": kept.run_id, "report_sha256": then, "live": live.is_some()})),
    }
}

/// SHA-256 of a report as it is written, hex.
fn digest(report: &Json) -> String {
    files::hex(ring::digest::digest(&ring::digest::SHA256, report.to_string().as_bytes()).as_ref())
}

/// Judges the service level as of a few minutes ago from both databases.
async fn level(env: &Env, restored: &Store, now: DateTime<Utc>) -> Result<Json> {
    let at = now - SETTLED;
    let (there, here) = (slo::judged_from(restored, env.config(), at).await?, slo::judged_from(env.store(), env.config(), at).await?);
    if digest(&there) != digest(&here) {
        let what = format!(
            "the service level as of {} is {} from the restored data and {} from the live ones",
            rfc3339(at),
            there["status"],
            here["status"]
        );
        return Err(Error::invalid("proof", what));
    }
    Ok(json!({"as_of": rfc3339(at), "status": there["status"], "verdict_sha256": digest(&there)}))
}
