//! The one place where the audit reads archives: whole, and restored into a folder. Blocks.

use std::path::Path;

use crate::{archive, error::Result, files, replica::file_sha256};

/// Reads an archive to its end and compares it with its manifest; with `to`, restores it there as well. Answers its files.
pub(super) fn read_whole(archive: &Path, to: Option<&Path>) -> Result<Vec<File>> {
    let manifest = archive::read_manifest(archive)?;
    let contents = match to {
        Some(to) => archive::restore(archive, manifest.as_ref(), to)?,
        None => archive::verify(archive, manifest.as_ref())?,
    };
    let entries = manifest.map_or(contents.entries, |m| m.entries);
    Ok(entries.into_iter().map(|e| File { path: e.path, size: e.size, sha256: e.sha256 }).collect())
}

/// A file as the manifest has it.
pub(super) struct File {
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) sha256: String,
}

impl File {
    /// Whether the file below `root` is this one.
    pub(super) fn is_in(&self, root: &Path) -> Result<bool> {
        use std::os::unix::ffi::OsStringExt as _;
        let path = root.join(std::ffi::OsString::from_vec(crate::domain::archive::text_to_path(&self.path)));
        Ok(std::fs::metadata(&path)?.len() == self.size && file_sha256(&path)? == self.sha256)
    }
}

/// A scratch folder below the folder of the audits: a backup that begins meanwhile sweeps its own, and what a kill leaves here goes with
/// the next audit or with self_heal.
pub(super) fn scratch(folder: &Path) -> Result<tempfile::TempDir> {
    std::fs::create_dir_all(folder)?;
    for entry in std::fs::read_dir(folder)?.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(".restore-")) {
        match std::fs::remove_dir_all(entry.path()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    let scratch = tempfile::Builder::new().prefix(".restore-").permissions(private).tempdir_in(folder)?;
    files::sync_folder(folder)?;
    Ok(scratch)
}
