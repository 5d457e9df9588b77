//! The one place where the audit reads archives: whole, and restored into a folder. Blocks.

use std::path::Path;

use echopilot_archive::compare::digest_of_beginning;

use crate::{
    archive::{self, Entry, Links, RestoreOptions, Type, VerifyOptions},
    error::{Error, Result},
    files,
};

/// What reading an archive takes: where the public keys of manifests lie, and the identity that opens encrypted ones.
pub(super) struct Reading<'a> {
    pub(super) backups: &'a Path,
    pub(super) identity_file: &'a Path,
}

impl Reading<'_> {
    /// Reads an archive to its end and compares it with its manifest; with `to`, restores it there as well. Answers its files.
    pub(super) fn read_whole(&self, path: &Path, to: Option<&Path>) -> Result<Vec<Entry>> {
        archive::standing(path, self.backups)?;
        let opened = archive::open(path, self.identity_file)?;
        opened.verify(&VerifyOptions::default())?;
        if let Some(to) = to {
            opened.restore(to, &RestoreOptions { links: Links::Allow, ..RestoreOptions::default() })?;
        }
        Ok(opened.entries()?.into_iter().filter(|entry| entry.kind == Type::File).collect())
    }
}

/// Whether an archive cannot be read here because this machine has no identity for it; its digest tells that it is the one that was made.
pub(super) fn is_closed(error: &Error, identity_file: &Path) -> bool {
    error.reason == "encrypted" && identity_file.as_os_str().is_empty()
}

/// Whether the file below `root` is the one that was archived.
pub(super) fn is_in(entry: &Entry, root: &Path) -> Result<bool> {
    use std::os::unix::ffi::OsStringExt as _;
    let path = root.join(std::ffi::OsString::from_vec(entry.name()));
    Ok(std::fs::metadata(&path)?.len() == entry.size && digest_of_beginning(&path, u64::MAX)? == entry.blake3)
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
