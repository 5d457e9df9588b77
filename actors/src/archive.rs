//! Archives as they lie in a folder: whatever kind one is (ours with a table of contents, plain `tar.gz`, encrypted), it is opened,
//! checked, listed and restored the same way. Called by the backup actor, the gateway and the command line, always off the async
//! threads. The format itself is the package `echopilot_archive`.

mod encryption;
mod manifest;

use std::{
    fs::File,
    io::{Read as _, Write},
    path::{Path, PathBuf},
    sync::Mutex,
};

use ring::digest::{Context as Digest, SHA256};

pub use echopilot_archive::{
    diff::Difference,
    entry::{Entry, Type},
    restore::{Conflict, Links, Options as RestoreOptions, Restored},
    scan::{Note, Root},
    verify::{Options as VerifyOptions, Report},
};

pub use self::{
    encryption::{Recipients, encrypt, read_identities},
    manifest::{Standing, manifest_path, publish, read_manifest, remove, standing},
};
use crate::{
    error::{Code, Context as _, Error, Result},
    files,
};
use echopilot_archive::{
    Archive, ReadAt,
    name::{safe_link, text_to_path},
    read::has_contents,
    salvage::salvage,
    stream::Plain,
};

const BUFFER: usize = 1 << 18;

impl From<echopilot_archive::Error> for Error {
    fn from(error: echopilot_archive::Error) -> Self {
        use echopilot_archive::Error as E;
        match error {
            E::Io { doing, source } => Self::from(source).context(doing),
            E::Damaged(text) => Self::invalid("archive", text),
            E::Refused(text) => Self::invalid("archive_refused", text),
            E::InTheWay(text) => Self::conflict("target_not_empty", text),
            E::NotFound(text) => Self::new(Code::NotFound, "not_in_archive", text),
            E::Stopped => Self::unavailable("stopped", "it was stopped before its end"),
        }
    }
}

/// The bytes of an archive: a file, or one that is decrypted as it is read.
enum Bytes {
    Clear(File),
    Encrypted(Mutex<encryption::Clear>, u64),
}

impl ReadAt for Bytes {
    fn size(&self) -> std::io::Result<u64> {
        match self {
            Self::Clear(file) => ReadAt::size(file),
            Self::Encrypted(_, size) => Ok(*size),
        }
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        match self {
            Self::Clear(file) => ReadAt::read_exact_at(file, buffer, offset),
            Self::Encrypted(clear, _) => encryption::read_exact_at(clear, buffer, offset),
        }
    }
}

enum Kind {
    Contents(Box<Archive<Bytes>>),
    Plain(Plain),
}

/// An archive that was opened.
pub struct Opened {
    path: PathBuf,
    kind: Kind,
}

/// Opens an archive. One that is encrypted needs the identity in `identity_file`. Errors: `not_found`, `invalid` with reason `archive`
/// or, without the right identity, `encrypted`.
pub fn open(path: &Path, identity_file: &Path) -> Result<Opened> {
    let mut file = File::open(path).context(format!("cannot open {}", path.display()))?;
    let about = |e: echopilot_archive::Error| Error::from(e.about(path.display()));
    if encryption::is_encrypted(&mut file)? {
        let (clear, size) = encryption::open(file, path, identity_file)?;
        let archive = Archive::open(Bytes::Encrypted(Mutex::new(clear), size)).map_err(about)?;
        return Ok(Opened { path: path.to_owned(), kind: Kind::Contents(Box::new(archive)) });
    }
    let kind = if has_contents(&file).map_err(about)? {
        Kind::Contents(Box::new(Archive::open(Bytes::Clear(file)).map_err(about)?))
    } else {
        Kind::Plain(Plain::new(file).map_err(about)?)
    };
    Ok(Opened { path: path.to_owned(), kind })
}

impl Opened {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it has a table of contents; without, every answer is read from its beginning.
    pub fn has_contents(&self) -> bool {
        matches!(self.kind, Kind::Contents(_))
    }

    /// Of the table of contents, hex; empty without one.
    pub fn toc_sha256(&self) -> String {
        match &self.kind {
            Kind::Contents(archive) => files::hex(&archive.footer().toc_sha256),
            Kind::Plain(_) => String::new(),
        }
    }

    /// Checks it without writing anything; the report names what is damaged. Errors: `invalid` if nothing can be read.
    pub fn look_through(&self, options: &VerifyOptions<'_>) -> Result<Report> {
        let report = match &self.kind {
            Kind::Contents(archive) => archive.verify(options),
            Kind::Plain(plain) => plain.verify(options).map(|(_, report)| report),
        };
        report.map_err(|e| self.about(e))
    }

    /// The same for a caller that needs it whole. Errors: `invalid` naming what is damaged.
    pub fn verify(&self, options: &VerifyOptions<'_>) -> Result<Report> {
        let report = self.look_through(options)?;
        if report.is_whole() {
            Ok(report)
        } else {
            Err(Error::invalid("archive", format!("{}: {}", self.path.display(), report.sentence())))
        }
    }

    /// Every entry, in the order of the archive.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        match &self.kind {
            Kind::Contents(archive) => archive.entries().collect::<Result<_, _>>().map_err(|e| self.about(e)),
            Kind::Plain(plain) => plain.verify(&VerifyOptions::default()).map(|(entries, _)| entries).map_err(|e| self.about(e)),
        }
    }

    /// Calls `each` with every entry; needs no memory for those of an archive with a table of contents.
    pub fn each_entry(&self, each: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        match &self.kind {
            Kind::Contents(archive) => archive.entries().try_for_each(|entry| each(entry.map_err(|e| self.about(e))?)),
            Kind::Plain(_) => self.entries()?.into_iter().try_for_each(each),
        }
    }

    /// One entry by its name. Errors: `not_found`.
    pub fn entry(&self, name: &str) -> Result<Entry> {
        match &self.kind {
            Kind::Contents(archive) => archive.entry(name).map_err(|e| self.about(e)),
            Kind::Plain(_) => {
                let found = self.entries()?.into_iter().find(|entry| entry.path == name);
                found.ok_or_else(|| Error::new(Code::NotFound, "not_in_archive", format!("there is no {name} in the archive")))
            }
        }
    }

    /// Writes the content of one file to `out`.
    pub fn cat(&self, name: &str, out: &mut dyn Write) -> Result<Entry> {
        match &self.kind {
            Kind::Contents(archive) => archive.cat(name, out),
            Kind::Plain(plain) => plain.cat(name, out),
        }
        .map_err(|e| self.about(e))
    }

    /// Restores into `target`.
    pub fn restore(&self, target: &Path, options: &RestoreOptions<'_>) -> Result<Restored> {
        match &self.kind {
            Kind::Contents(archive) => echopilot_archive::restore::restore(archive, target, options),
            Kind::Plain(plain) => plain.restore(target, options),
        }
        .map_err(|e| self.about(e))
    }

    /// What is not below `root` as the archive has it; nothing is left out on either side.
    pub fn compare(&self, root: &Path) -> Result<Vec<Note>> {
        let entries = self.entries()?;
        echopilot_archive::compare::compare(entries, root).map_err(|e| self.about(e))
    }

    fn about(&self, error: echopilot_archive::Error) -> Error {
        error.about(self.path.display()).into()
    }
}

/// What is different from one archive to a later one. Errors: `invalid` if one of them has no table of contents.
pub fn diff(before: &Opened, after: &Opened) -> Result<Vec<Difference>> {
    match (&before.kind, &after.kind) {
        (Kind::Contents(a), Kind::Contents(b)) => Ok(echopilot_archive::diff::diff(a, b)?),
        _ => Err(Error::invalid("archive", "only archives with a table of contents can be compared: one of these is a plain tar.gz")),
    }
}

/// Why a symbolic link is one that a restore refuses unless it is told otherwise; `None` for everything else.
pub fn points_outside(entry: &Entry) -> Option<String> {
    if entry.kind != Type::Symlink {
        return None;
    }
    match entry.check() {
        Ok(path) => safe_link(&path, &text_to_path(&entry.link)).err(),
        Err(why) => Some(why),
    }
}

/// How many names are added, removed, changed and changed in their metadata alone, and the bytes of the content on both sides of them.
pub fn summary(differences: &[Difference]) -> serde_json::Value {
    let count = |change: &str| differences.iter().filter(|d| d.change == change).count();
    let bytes = |side: fn(&Difference) -> Option<u64>| differences.iter().filter_map(side).sum::<u64>();
    serde_json::json!({
        "added": count("added"), "removed": count("removed"), "changed": count("changed"), "metadata": count("metadata"),
        "bytes_before": bytes(|d| d.before), "bytes_after": bytes(|d| d.after),
    })
}

/// What can still be got out of an archive that cannot be opened, because its table of contents is damaged or cut off.
pub fn rescue(path: &Path, target: &Path, options: &RestoreOptions<'_>) -> Result<Restored> {
    let file = File::open(path).context(format!("cannot open {}", path.display()))?;
    salvage(&file, target, options).map_err(|e| e.about(path.display()).into())
}

/// SHA-256 of a whole file, in hex.
pub fn file_sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).context(format!("cannot open {}", path.display()))?;
    let (mut digest, mut buffer) = (Digest::new(&SHA256), vec![0; BUFFER]);
    loop {
        match file.read(&mut buffer).context(format!("cannot read {}", path.display()))? {
            0 => return Ok(files::hex(digest.finish().as_ref())),
            n => digest.update(&buffer[..n]),
        }
    }
}
