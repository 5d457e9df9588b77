//! The manifest beside an archive, and how both get their names. Two files cannot be renamed as one: the new manifest waits beside the
//! old one meanwhile, and whoever reads takes the one that names the archive that is there, whenever this is cut off.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value as Json;

use super::file_sha256;
use crate::{
    domain::archive::Manifest,
    error::{Context as _, Error, Result},
    files,
    signing::{self, Signer},
};

/// What is known of an archive by its manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The file is the one that was made, and the manifest is signed by a key whose public half is there.
    Signed,
    /// The file is the one that its manifest names; nobody vouches for the manifest: why.
    Unsigned(String),
    /// There is no manifest.
    Alone,
}

/// Where an archive's manifest lies: beside it.
pub fn manifest_path(archive: &Path) -> PathBuf {
    let mut name = archive.as_os_str().to_owned();
    name.push(".manifest.json");
    PathBuf::from(name)
}

/// Where the manifest of an archive that is being published waits until the archive has its name.
fn next_manifest_path(archive: &Path) -> PathBuf {
    let mut name = manifest_path(archive).into_os_string();
    name.push(".new");
    PathBuf::from(name)
}

/// Gives a finished archive its final name, with its signed manifest.
pub fn publish(new: &Path, target: &Path, manifest: &Manifest, signer: &Signer) -> Result<()> {
    let folder = target.parent().unwrap_or(target);
    settle(target)?;
    let Json::Object(mut object) = serde_json::to_value(manifest)? else { return Err(Error::internal("a manifest is an object")) };
    signer.sign_object(&mut object);
    files::replace_json(&next_manifest_path(target), &Json::Object(object))?;
    fs::rename(new, target).context(format!("cannot publish {}", target.display()))?;
    files::sync_folder(folder)?;
    fs::rename(next_manifest_path(target), manifest_path(target)).context("cannot publish the manifest")?;
    files::sync_folder(folder)
}

/// Ends a publication that was cut off: the waiting manifest becomes the manifest if the archive is its, else it goes.
fn settle(target: &Path) -> Result<()> {
    let next = next_manifest_path(target);
    match parse(&next)? {
        Some((manifest, _)) if target.exists() && file_sha256(target)? == manifest.archive_sha256 => {
            fs::rename(&next, manifest_path(target)).context("cannot publish the manifest")
        }
        Some(_) => Ok(fs::remove_file(&next)?),
        None => Ok(()),
    }
}

/// Removes an archive and then its manifest: cut off in between, what is left is a manifest of nothing.
pub fn remove(archive: &Path) -> Result<()> {
    fs::remove_file(archive).context(format!("cannot remove {}", archive.display()))?;
    for path in [manifest_path(archive), next_manifest_path(archive)] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).context(format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    files::sync_folder(archive.parent().unwrap_or(archive))
}

/// The manifest of an archive, if there is one. One that does not parse is an error, not an absence.
pub fn read_manifest(archive: &Path) -> Result<Option<Manifest>> {
    Ok(read(archive)?.map(|(manifest, _)| manifest))
}

fn read(archive: &Path) -> Result<Option<(Manifest, Json)>> {
    match parse(&next_manifest_path(archive))? {
        Some(waiting) if file_sha256(archive)? == waiting.0.archive_sha256 => Ok(Some(waiting)),
        _ => parse(&manifest_path(archive)),
    }
}

/// Compares an archive with its manifest, and the manifest with the keys below `backups`. Errors: `invalid` with reason `archive` if the
/// file is not the one that the manifest names, or the signature does not match.
pub fn standing(archive: &Path, backups: &Path) -> Result<Standing> {
    let Some((manifest, text)) = read(archive)? else { return Ok(Standing::Alone) };
    if file_sha256(archive)? != manifest.archive_sha256 {
        let what = "it is not the file that its manifest names: damaged, or exchanged";
        return Err(Error::invalid("archive", format!("{}: {what}", archive.display())));
    }
    let object = text.as_object().ok_or_else(|| Error::internal("a manifest is an object"))?;
    let Some(key_id) = object.get(signing::MEMBER).and_then(|s| s["key_id"].as_str()) else {
        return Ok(Standing::Unsigned("its manifest is not signed".into()));
    };
    let Some(key) = signing::known_key(backups, key_id)? else {
        return Ok(Standing::Unsigned(format!("its manifest is signed by key {key_id}, whose public half is not here")));
    };
    let about = |e: Error| Error::invalid("archive", format!("{}: its manifest was changed: {}", archive.display(), e.message));
    signing::verify_object(&key, object).map_err(about)?;
    Ok(Standing::Signed)
}

fn parse(path: &Path) -> Result<Option<(Manifest, Json)>> {
    match fs::read(path) {
        Ok(bytes) => {
            let bad = |e: String| Error::invalid("archive", format!("{} is not a manifest: {e}", path.display()));
            let text: Json = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
            let manifest: Manifest = serde_json::from_value(text.clone()).map_err(|e| bad(e.to_string()))?;
            manifest.check().map_err(bad)?;
            Ok(Some((manifest, text)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::from(error).context(format!("cannot read {}", path.display()))),
    }
}
