//! What is told of the archives: those that are recorded, those that lie in the folder and nobody knows, the last proof, what a backup
//! would do, how far one is. Called by the gateway and the command line; changes nothing.

use std::{collections::BTreeSet, os::unix::fs::PermissionsExt as _, path::Path};

use serde_json::{Value as Json, json};

use super::{
    keep, make, progress,
    room::{database_bytes, room},
};
use crate::{
    archive,
    config::Config,
    domain::archive::{Include, archive_name, date_of_archive, encrypted_name},
    env::{Env, blocking, rfc3339},
    error::{Context as _, Result},
    store::{BackupRow, ProofRow},
};

/// Every archive that is recorded, newest first; with `reasons` also what the retention rules say of it.
async fn recorded(env: &Env, reasons: bool) -> Result<Vec<Json>> {
    let rows = env.store().backups(i64::MAX).await?;
    let folder = env.backup_path("daily");
    let names: Vec<String> = rows.iter().map(|row| file_name(row).to_owned()).collect();
    let present = blocking(move || Ok(names.iter().map(|name| folder.join(name).is_file()).collect::<Vec<_>>())).await?;
    let mut views: Vec<Json> = rows.iter().zip(present).map(|(row, present)| view(row, present)).collect();
    if reasons {
        for (row, decision) in keep::decisions(env, env.now()).await? {
            if let Some(view) = views.iter_mut().find(|view| view["date"] == row.date.as_str()) {
                view["retention"] = json!({"keep": decision.keep, "reasons": decision.reasons});
            }
        }
    }
    Ok(views)
}

/// The file's name in `backups/daily/`.
pub fn file_name(row: &BackupRow) -> &str {
    row.archive.rsplit('/').next().unwrap_or_default()
}

fn view(b: &BackupRow, present: bool) -> Json {
    // Of the clear archive; encrypted it is a little larger.
    let ratio = (b.size_bytes > 0).then(|| (b.reused_bytes as f64 / b.size_bytes as f64).min(1.0));
    json!({
        "date": b.date, "archive": b.archive, "size_bytes": b.size_bytes, "files": b.files, "sha256": b.sha256, "made_at": rfc3339(b.made_at),
        "run_id": b.run_id, "state": b.state, "took_ms": b.took_ms, "content_bytes": b.content_bytes, "reused_bytes": b.reused_bytes,
        "reused_ratio": ratio.map(|ratio| (ratio * 10_000.0).round() / 10_000.0), "shared_bytes": b.shared_bytes, "encrypted": b.encrypted,
        "full": b.full, "problems": b.problems, "present": present, "proof": b.proof,
    })
}

/// Archives in the folder that no row knows: of another machine, or from before the database was lost. What is said of one is in its
/// manifest.
async fn unrecorded(env: &Env) -> Result<Vec<Json>> {
    let known: BTreeSet<String> = env.store().backups(i64::MAX).await?.iter().map(|row| file_name(row).to_owned()).collect();
    let folder = env.backup_path("daily");
    blocking(move || {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(date) = date_of_archive(&name).filter(|_| !known.contains(&name)) else { continue };
            let bytes = entry.metadata().context(format!("cannot look at {name}"))?.len();
            let (manifest, problem) = match archive::read_manifest(&folder.join(&name)) {
                Ok(manifest) => (manifest, None),
                Err(error) => (None, Some(error.message)),
            };
            found.push(json!({
                "date": date.to_string(), "archive": format!("backups/daily/{name}"), "size_bytes": bytes, "problem": problem,
                "encrypted": name != archive_name(date), "made_at": manifest.map(|m| rfc3339(m.created)),
            }));
        }
        found.sort_by_key(|one| std::cmp::Reverse(one["date"].as_str().map(str::to_owned)));
        Ok(found)
    })
    .await
}

/// `{"at","age_s","restore_ms","date"}` of the newest proof that passed; null before the first.
pub async fn last_proof(env: &Env) -> Result<Json> {
    let now = env.now();
    Ok(env.store().last_passed_proof().await?.map_or(Json::Null, |proof| {
        json!({"at": rfc3339(proof.at), "age_s": (now - proof.at).num_seconds().max(0), "restore_ms": proof.restore_ms, "date": proof.date})
    }))
}

/// The answer to `GET /api/backups` but for its paging: archives, those that nobody knows, the last proof and how old it may be.
pub async fn listing(env: &Env, reasons: bool) -> Result<(Vec<Json>, Json)> {
    let archives = recorded(env, reasons).await?;
    let rest = json!({
        "unrecorded": unrecorded(env).await?, "last_proof": last_proof(env).await?,
        "proof_max_age_s": env.config().backup.proof_max_age_h * 3600,
    });
    Ok((archives, rest))
}

pub fn proof_view(proof: &ProofRow) -> Json {
    json!({
        "date": proof.date, "run_id": proof.run_id, "sha256": proof.sha256, "at": rfc3339(proof.at), "state": proof.state,
        "restore_ms": proof.restore_ms, "checks": proof.checks, "error": proof.error,
    })
}

/// What a backup would do now: what it reads, which archive it builds on, whether there is room. Writes nothing.
pub async fn preview(env: &Env) -> Result<Json> {
    let (config, now) = (env.config().clone(), env.now());
    let includes = make::includes(&config)?;
    let exclude = make::excluded(&config)?;
    let (_, builds_on) = make::previous(env, now).await?;
    let last = make::last_size(env).await?;
    let folder = env.backup_path("daily");
    blocking(move || {
        let encrypted = !config.backup.recipients.is_empty();
        let (date, database) = (now.date_naive(), config.database_path());
        let roots = make::roots(&config, &includes, &database);
        let (mut all, mut files, mut bytes, mut missing) = (Vec::new(), 0, 0, Vec::new());
        for root in &roots {
            let (n, mut size) = echopilot_archive::scan::measure(std::slice::from_ref(root), &exclude);
            if root.path == database {
                size = database_bytes(&config);
            }
            (files, bytes) = (files + n, bytes + size);
            let present = root.path.exists();
            if !present && root.required {
                missing.push(format!("{} is not there", root.path.display()));
            }
            all.push(json!({"name": root.name, "path": root.path, "files": n, "bytes": size, "present": present}));
        }
        let with_database = includes.iter().any(|include| matches!(include, Include::Own(crate::domain::archive::DATABASE)));
        let copied = if with_database { 0 } else { database_bytes(&config) };
        let room = room(&config, bytes + copied, last, &folder)?;
        let name = if encrypted { encrypted_name(date) } else { archive_name(date) };
        let replaces = [archive_name(date), encrypted_name(date)].iter().any(|name| folder.join(name).exists());
        Ok(json!({
            "ok": missing.is_empty() && room.is_enough(), "dry_run": true, "archive": format!("backups/daily/{name}"), "encrypted": encrypted,
            "replaces": replaces, "builds_on": builds_on, "roots": all, "files": files, "bytes": bytes, "missing": missing,
            "needed_bytes": room.needed, "free_bytes": room.free, "enough_room": room.is_enough(),
        }))
    })
    .await
}

/// Something that a backup needs, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// The setting or the thing.
    pub what: &'static str,
    /// What was found, or what is wrong and what to do.
    pub found: Result<String, String>,
}

/// What would fail in the next backup, before it does; looks at files and changes nothing. `last` bytes is what the last archive took.
pub fn outlook(config: &Config, last: Option<u64>) -> Vec<Outlook> {
    let mut all = Vec::new();
    let mut say = |what: &'static str, found: Result<String, String>| all.push(Outlook { what, found });
    let recipients = &config.backup.recipients;
    match archive::Recipients::parse(recipients) {
        Err(error) => say("backup.recipients", Err(error.message)),
        Ok(_) if recipients.is_empty() => say("backup.recipients", Ok("none: archives are not encrypted".into())),
        Ok(_) => say("backup.recipients", Ok(format!("archives are encrypted to {}", recipients.len()))),
    }
    let identity = &config.backup.identity_file;
    if !identity.as_os_str().is_empty() {
        say("backup.identity_file", identity_file(identity));
    }
    let roots = match make::includes(config) {
        Err(error) => {
            say("backup.include", Err(error.message));
            Vec::new()
        }
        Ok(includes) => {
            for include in &includes {
                if let Include::Other(name, path) = include {
                    let there = std::fs::symlink_metadata(path).map(|_| format!("{name} is {path}"));
                    say("backup.include", there.map_err(|e| format!("{name}: {path} cannot be read ({e}): every backup would be partial")));
                }
            }
            make::roots(config, &includes, &config.database_path())
        }
    };
    match make::excluded(config) {
        Err(error) => say("backup.exclude", Err(error.message)),
        Ok(exclude) => {
            let (_, bytes) = echopilot_archive::scan::measure(&roots, &exclude);
            let mb = |bytes: u64| bytes.div_ceil(1 << 20);
            say(
                "room for a backup",
                match room(config, bytes, last, &config.paths.backups.join("daily")) {
                    Err(error) => Err(error.message),
                    Ok(room) if room.is_enough() => Ok(format!("it needs up to {} MB, there are {} MB", mb(room.needed), mb(room.free))),
                    Ok(room) => Err(format!(
                        "it needs up to {} MB (backup.reserve_mb included), there are {} MB: free some on the disk of {}",
                        mb(room.needed),
                        mb(room.free),
                        config.paths.backups.display()
                    )),
                },
            );
        }
    }
    all
}

/// It holds identities, and nobody else can read them.
fn identity_file(path: &Path) -> Result<String, String> {
    let identities = archive::read_identities(path).map_err(|error| error.message)?;
    let mode = std::fs::metadata(path).map_or(0, |m| m.permissions().mode() & 0o777);
    if mode & 0o077 != 0 {
        return Err(format!("{0} can be read by others (mode {mode:o}): chmod 600 {0}", path.display()));
    }
    Ok(format!("{} holds {}", path.display(), identities.len()))
}

/// Adds `progress` to the view of a backup that is running: `{"phase","done_bytes","total_bytes"}`.
pub async fn add_progress(env: &Env, run: &mut Json) {
    if run["task"] != "daily_backup" || run["state"] != "running" {
        return;
    }
    // A part that cannot be asked just now is no reason not to say that the run goes on.
    let Ok(Some(mut now)) = progress(env).await else { return };
    if now["run_id"] == run["run_id"]
        && let Some(object) = now.as_object_mut()
    {
        object.remove("run_id");
        run["progress"] = now;
    }
}
