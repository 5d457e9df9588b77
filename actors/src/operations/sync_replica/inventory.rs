//! What is here and is to be there: archives with their manifests, archives of payouts, audits, checkpoints and public keys, each with its
//! digest. An archive's digest is what its manifest says, so that hundreds of megabytes are not read every two hours for nothing; the
//! file itself is read before it is sent.

use std::{
    fs,
    path::{Path, PathBuf},
};

use chrono::{DateTime, NaiveDate, Utc};

use super::CHECKPOINTS;
use crate::{
    archive::file_sha256,
    domain::replica::{AUDIT, DAILY, JOURNAL, KEYS, PAYOUTS, checkpoint_time, day_of, digest_in_manifest, payouts_day_of},
    env::{Env, blocking},
    error::{Context as _, Result},
    signing::{PUBLIC_FILE, PublicKey},
};

/// A local file.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// At the target.
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) size: u64,
    /// `None`: an archive without a manifest, which is read when it is sent.
    pub(super) sha256: Option<String>,
    pub(super) made_at: DateTime<Utc>,
    /// The day, if it is an archive.
    pub(super) day: Option<NaiveDate>,
}

impl Item {
    pub(super) fn is_archive(&self) -> bool {
        self.day.is_some()
    }
}

/// In the order in which they are brought: the small evidence first, then archive by archive from the oldest, each before its manifest.
pub(super) async fn local(env: &Env) -> Result<Vec<Item>> {
    let backups = env.config().paths.backups.clone();
    blocking(move || {
        let mut items = keys(&backups)?;
        items.extend(folder(&backups.join(CHECKPOINTS), JOURNAL, &|name| checkpoint_time(name).is_some())?);
        items.extend(folder(&backups.join("payouts"), PAYOUTS, &|name| payouts_day_of(&format!("{PAYOUTS}{name}")).is_some())?);
        items.extend(folder(&backups.join("audit"), AUDIT, &|name| {
            name.strip_prefix("audit_").is_some_and(|rest| rest.strip_suffix(".json").is_some())
        })?);
        items.extend(folder(&backups.join("daily"), DAILY, &|name| {
            let archive = name.strip_suffix(".manifest.json").unwrap_or(name);
            day_of(&format!("{DAILY}{archive}")).is_some()
        })?);
        Ok(items)
    })
    .await
}

/// The files of a folder whose names `ours` knows, by name. A file that vanishes meanwhile was removed or is being replaced: the next
/// sync finds it.
fn folder(folder: &Path, prefix: &str, ours: &dyn Fn(&str) -> bool) -> Result<Vec<Item>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(format!("cannot list {}", folder.display()))?,
    };
    let mut names: Vec<String> = Vec::new();
    for entry in entries {
        let name = entry.context(format!("cannot list {}", folder.display()))?.file_name().to_string_lossy().into_owned();
        if ours(&name) {
            names.push(name);
        }
    }
    names.sort();
    let mut items = Vec::new();
    for name in names {
        match item(folder.join(&name), format!("{prefix}{name}")) {
            Err(error) if error.reason == "file_not_found" => {}
            item => items.extend(item?),
        }
    }
    Ok(items)
}

fn item(path: PathBuf, name: String) -> Result<Option<Item>> {
    let metadata = fs::symlink_metadata(&path)?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let day = day_of(&name);
    let sha256 = if day.is_some() { named_by_manifests(&path)?.into_iter().next() } else { Some(file_sha256(&path)?) };
    Ok(Some(Item { name, size: metadata.len(), sha256, made_at: metadata.modified()?.into(), day, path }))
}

/// The digests that the manifest beside an archive names, and the one that waits to take its place. One that cannot be read as such is no
/// reason not to bring the archive.
pub(super) fn named_by_manifests(archive: &Path) -> Result<Vec<String>> {
    let mut named = Vec::new();
    for ending in [".manifest.json", ".manifest.json.new"] {
        let mut path = archive.as_os_str().to_owned();
        path.push(ending);
        match fs::read(PathBuf::from(path)) {
            Ok(bytes) => named.extend(digest_in_manifest(&bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(named)
}

/// Public keys go by their ids: what one signed can be verified there, and none ever replaces another.
fn keys(backups: &Path) -> Result<Vec<Item>> {
    let all = folder(backups, KEYS, &|name| {
        name == PUBLIC_FILE || name.strip_prefix("signing_key.").is_some_and(|rest| rest.strip_suffix(".pub").is_some())
    })?;
    let mut keys = Vec::new();
    for item in all {
        let key = PublicKey::from_pem(&fs::read_to_string(&item.path)?).map_err(|e| e.context(item.path.display()))?;
        keys.push(Item { name: format!("{KEYS}{}.pub", key.id()), ..item });
    }
    Ok(keys)
}
