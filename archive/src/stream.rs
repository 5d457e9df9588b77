//! A `tar.gz` without a table of contents: made by another tool, or by this program before it wrote one. Read from its beginning with
//! the libraries everybody uses. Files and folders only: what else such an archive may hold is refused, not guessed.

use std::{
    fs::File,
    io::{BufReader, Read, Seek as _, SeekFrom},
    os::unix::ffi::OsStrExt as _,
    path::Path,
    sync::atomic::Ordering,
};

use flate2::read::MultiGzDecoder;

use crate::{
    entry::{Entry, Type},
    error::{Doing as _, Error, Result},
    name::{Kind, Members, path_to_text, safe_member_path},
    restore::{self, Restored},
    verify::{self, Report, Summary},
    walk::Sink,
};

const BUFFER: usize = 1 << 16;

/// Such an archive.
pub struct Plain {
    file: File,
    size: u64,
}

impl Plain {
    pub fn new(file: File) -> Result<Self> {
        let size = file.metadata().doing("cannot look at the archive")?.len();
        Ok(Self { file, size })
    }

    /// Reads all of it and checks what can be checked: gzip's checksums, names, duplicates, limits. Answers the entries with the
    /// digests of their content. Errors: `Damaged`, `Refused`.
    pub fn verify(&self, options: &verify::Options<'_>) -> Result<(Vec<Entry>, Report)> {
        let mut entries = Vec::new();
        self.walk(options, &mut Digests { entries: &mut entries, current: None, digest: blake3::Hasher::new() })?;
        let files = entries.iter().filter(|e| e.kind == Type::File).count() as u64;
        let sums = Summary { entries: entries.len() as u64, files, bytes: entries.iter().map(|e| e.size).sum(), members: 1 };
        Ok((entries, Report { sums, members_read: 1, ..Report::default() }))
    }

    /// As [`restore::restore`]; everything is verified first.
    pub fn restore(&self, target: &Path, options: &restore::Options<'_>) -> Result<Restored> {
        let reading = verify::Options { limits: options.limits, stop: options.stop, done: options.done, ..verify::Options::default() };
        let (entries, _) = self.verify(&reading)?;
        let all = || -> restore::Entries<'_> { Box::new(entries.iter().cloned().map(Ok)) };
        restore::restore_from(target, options, &all, &mut |sink| self.walk(&reading, sink).map(|()| Vec::new()))
    }

    /// Writes one file's content to `out`. Errors: `NotFound`, `Damaged`; then part of it may have been written.
    pub fn cat(&self, path: &str, out: &mut dyn std::io::Write) -> Result<Entry> {
        let mut found = Cat { wanted: path, out, entry: None, writes: false };
        self.walk(&verify::Options::default(), &mut found)?;
        found.entry.ok_or_else(|| Error::NotFound(format!("there is no {path} in the archive")))
    }

    fn walk(&self, options: &verify::Options<'_>, sink: &mut dyn Sink) -> Result<()> {
        let mut file = self.file.try_clone().doing("cannot read the archive")?;
        file.seek(SeekFrom::Start(0)).doing("cannot read the archive")?;
        let mut archive = tar::Archive::new(MultiGzDecoder::new(BufReader::with_capacity(BUFFER, file)));
        let (mut members, mut bytes, mut count) = (Members::default(), 0u64, 0);
        for entry in archive.entries().map_err(|e| Error::damaged(e.to_string()))? {
            if options.stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            let mut entry = entry.map_err(|e| Error::damaged(format!("damaged or cut off: {e}")))?;
            let found = describe(&entry)?;
            let path = safe_member_path(&found.name()).map_err(Error::Refused)?;
            members.add(&path, if found.kind == Type::Dir { Kind::Directory } else { Kind::File }).map_err(Error::Refused)?;
            (bytes, count) = (bytes.saturating_add(found.size), count + 1);
            options.limits.check(self.size, bytes, count).map_err(Error::Refused)?;
            hand_over(&found, &mut entry, sink).map_err(|e| e.about(&found.path))?;
            options.done.fetch_add(found.size, Ordering::Relaxed);
        }
        // The end of the tar is not the end of the gzip: its checksum comes last.
        let rest = std::io::copy(&mut archive.into_inner(), &mut std::io::sink());
        rest.map(drop).map_err(|e| Error::damaged(format!("damaged or cut off: {e}")))
    }
}

/// The tar entry as ours. Errors: `Refused` for what is neither a file nor a folder.
pub(crate) fn describe<R: Read>(entry: &tar::Entry<'_, R>) -> Result<Entry> {
    let raw = entry.path_bytes().into_owned();
    let header = entry.header();
    let path = safe_member_path(&raw).map_err(Error::Refused)?;
    let text = path_to_text(path.as_os_str().as_bytes());
    let kind = match header.entry_type() {
        kind if kind.is_dir() => Type::Dir,
        kind if kind.is_file() => Type::File,
        _ => return Err(Error::Refused(format!("{text} is neither a file nor a folder"))),
    };
    let id = |id: std::io::Result<u64>| id.ok().and_then(|id| u32::try_from(id).ok()).unwrap_or(0);
    Ok(Entry {
        path: text,
        kind,
        size: if kind == Type::File { entry.size() } else { 0 },
        mode: header.mode().unwrap_or(0o600) & 0o7777,
        uid: id(header.uid()),
        gid: id(header.gid()),
        mtime: header.mtime().ok().and_then(|t| i64::try_from(t).ok()).unwrap_or(0),
        ns: 0,
        link: String::new(),
        data: 0,
        blake3: String::new(),
    })
}

/// Gives an entry with its content to the sink.
pub(crate) fn hand_over(found: &Entry, content: &mut dyn Read, sink: &mut dyn Sink) -> Result<()> {
    sink.begin(found, false)?;
    let mut buffer = vec![0; BUFFER];
    let mut left = found.size;
    while left > 0 {
        let n = content.read(&mut buffer).map_err(|e| Error::damaged(format!("damaged or cut off: {e}")))?;
        if n == 0 {
            return Err(Error::damaged("cut off"));
        }
        sink.data(&buffer[..n])?;
        left = left.saturating_sub(n as u64);
    }
    sink.end()
}

/// Collects the entries with their digests.
struct Digests<'a> {
    entries: &'a mut Vec<Entry>,
    current: Option<Entry>,
    digest: blake3::Hasher,
}

impl Sink for Digests<'_> {
    fn begin(&mut self, entry: &Entry, _: bool) -> Result<()> {
        self.digest.reset();
        self.current = Some(entry.clone());
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.digest.update(bytes);
        Ok(())
    }

    fn gap(&mut self, _: u64, _: bool) -> Result<()> {
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        if let Some(mut entry) = self.current.take() {
            if entry.kind == Type::File {
                entry.blake3 = self.digest.finalize().to_hex().to_string();
            }
            self.entries.push(entry);
        }
        Ok(())
    }
}

/// Writes the content of one of them.
struct Cat<'a> {
    wanted: &'a str,
    out: &'a mut dyn std::io::Write,
    entry: Option<Entry>,
    writes: bool,
}

impl Sink for Cat<'_> {
    fn begin(&mut self, entry: &Entry, _: bool) -> Result<()> {
        self.writes = entry.path == self.wanted && entry.kind == Type::File;
        if self.writes {
            self.entry = Some(entry.clone());
        }
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        if self.writes { self.out.write_all(bytes).doing("cannot write the file's content") } else { Ok(()) }
    }

    fn gap(&mut self, _: u64, _: bool) -> Result<()> {
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}
