//! An archive in memory, and the shortest ways to write, check and restore one.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64},
};

use echopilot_archive::{
    Archive, ReadAt, Result,
    pattern::Patterns,
    previous::Previous,
    restore::{self, Links, Restored},
    scan::Root,
    verify,
    write::{self, Written},
};

/// Bytes that are read as an archive.
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl ReadAt for Bytes {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let part = usize::try_from(offset).ok().and_then(|from| self.0.get(from..from.checked_add(buffer.len())?));
        buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A folder that goes away; in memory where the machine has room for that.
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub(crate) fn root(path: &Path) -> Vec<Root> {
    vec![Root { name: PathBuf::from("data"), path: path.to_owned(), required: true }]
}

pub(crate) fn write_with(target: &Path, source: &Path, previous: Option<Previous>, threads: usize) -> Result<Written> {
    let (stop, read) = (AtomicBool::new(false), AtomicU64::new(0));
    let options = write::Options { exclude: Patterns::default(), never: &[], previous, threads, stop: &stop, read: &read, mode: 0o600 };
    write::write(target, &root(source), options)
}

/// Writes and expects that everything was fine.
pub(crate) fn write(target: &Path, source: &Path, previous: Option<&Path>, threads: usize) -> Written {
    let previous = previous.map(|path| Previous { path: path.to_owned(), toc_sha256: None });
    let written = write_with(target, source, previous, threads).unwrap();
    assert!(written.problems.is_empty(), "{:?}", written.problems);
    assert_eq!(written.previous_refused, None);
    assert!(written.damaged_before.is_empty(), "{:?}", written.damaged_before);
    written
}

pub(crate) fn open(path: &Path) -> Archive<fs::File> {
    Archive::open(fs::File::open(path).unwrap()).unwrap()
}

/// What is wrong with these bytes, if anything is.
pub(crate) fn wrong(bytes: &[u8]) -> Option<String> {
    let archive = match Archive::open(Bytes(bytes.to_vec())) {
        Ok(archive) => archive,
        Err(error) => return Some(error.to_string()),
    };
    match archive.verify(&verify::Options { threads: 1, ..verify::Options::default() }) {
        Ok(report) if report.is_whole() => None,
        Ok(report) => Some(report.sentence()),
        Err(error) => Some(error.to_string()),
    }
}

/// As they were: every link, every bit, owners too if we may give files away.
pub(crate) fn faithful() -> restore::Options<'static> {
    let owners = rustix::process::geteuid().is_root();
    restore::Options { links: Links::Allow, owners, setuid: true, threads: 2, ..restore::Options::default() }
}

pub(crate) fn restore_bytes(bytes: Vec<u8>, target: &Path, options: &restore::Options<'_>) -> Result<Restored> {
    restore::restore(&Archive::open(Bytes(bytes))?, target, options)
}
