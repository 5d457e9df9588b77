//! Reads what is to be archived: walks the folders, cuts the tar into the contents of members and hands them on in order. Content is
//! always read, never believed by its time; what could not be read as it was is noted.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, Read as _},
    os::unix::{ffi::OsStrExt as _, fs::FileExt as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
};

use rustix::fs::SeekFrom;

use crate::{
    buffers::Buffers,
    digests::{Part, WAITING, take_digests},
    entry::{BLOCK, Entry, Type, padding},
    error::{Error, Result},
    layout::{self, CHUNK, LARGE},
    name::path_to_text,
    order::Jobs,
    pattern::Patterns,
    scan::{Found, Never, Note, Root, Scan, Source, entry},
    write::{Job, Step},
};

pub(crate) type Line<'a> = Jobs<Job, Step>;

/// The thread that walks and reads.
pub(crate) struct Reader<'a> {
    /// Files changed since then may be changing now.
    pub(crate) recent: i64,
    pub(crate) exclude: &'a Patterns,
    pub(crate) never: &'a [Never],
    pub(crate) stop: &'a AtomicBool,
    pub(crate) read: &'a AtomicU64,
    pub(crate) pool: &'a Buffers,
}

/// The tar as it grows, before it is cut into members.
struct Tar<'a> {
    jobs: &'a Line<'a>,
    /// Takes the digests of large files beside the reading.
    digests: &'a SyncSender<Part>,
    pool: &'a Buffers,
    /// Bytes of the tar so far, with the group.
    position: u64,
    group: Vec<u8>,
    /// Of the group; a message for each would cost more than reading a small file.
    entries: Vec<Entry>,
}

impl Tar<'_> {
    fn push(&mut self, bytes: &[u8]) {
        self.group.extend_from_slice(bytes);
        self.position += bytes.len() as u64;
    }

    fn cut(&mut self) -> Result<()> {
        if !self.entries.is_empty() {
            self.jobs.done(Step::Entries(std::mem::take(&mut self.entries)))?;
        }
        if self.group.is_empty() {
            return Ok(());
        }
        let content = std::mem::replace(&mut self.group, self.pool.empty());
        self.jobs.push(Job::Pack { content: Arc::new(content) })
    }

    /// An entry with all of its content, in the present group.
    fn small(&mut self, mut entry: Entry, content: &[u8]) -> Result<()> {
        let header = entry.header();
        self.push(&header);
        entry.data = self.position;
        self.push(content);
        self.push(&[0; BLOCK][..padding(content.len() as u64)]);
        let name = entry.name();
        self.entries.push(entry);
        if layout::group_ends(self.group.len(), &name) { self.cut() } else { Ok(()) }
    }
}

impl Reader<'_> {
    pub(crate) fn read(&self, roots: &[Root], jobs: &Line<'_>) -> Result<()> {
        let (digests, parts) = sync_channel(WAITING);
        std::thread::scope(move |scope| {
            scope.spawn(move || take_digests(&parts, self.pool));
            self.read_all(roots, jobs, &digests)
        })
    }

    fn read_all(&self, roots: &[Root], jobs: &Line<'_>, digests: &SyncSender<Part>) -> Result<()> {
        let mut tar = Tar { jobs, digests, pool: self.pool, position: 0, group: Vec::new(), entries: Vec::new() };
        // Large files come after the small ones, so that the groups of these stay together.
        let (mut large, mut late_links): (Vec<Source>, Vec<(Entry, Source)>) = (Vec::new(), Vec::new());
        let mut waiting: HashSet<String> = HashSet::new();
        let mut firsts = Firsts::default();
        {
            let mut found = |found: Found| {
                if self.stop.load(Ordering::Relaxed) {
                    return Err(Error::Stopped);
                }
                match found {
                    Found::Problem(note) => jobs.done(Step::Problem(note)),
                    Found::Skipped(note) => jobs.done(Step::Skipped(note)),
                    Found::Plain(entry) => tar.small(entry, b""),
                    Found::Link(entry, source) if waiting.contains(&entry.link) => {
                        late_links.push((entry, Source { folder: None, ..source }));
                        Ok(())
                    }
                    Found::Link(entry, source) => self.link(entry, &source, &mut firsts, &mut tar),
                    Found::File(source) => {
                        let done = if source.size >= LARGE { Outcome::Large } else { self.small_file(&source, &mut tar)? };
                        if done == Outcome::Large {
                            waiting.insert(path_to_text(source.name.as_os_str().as_bytes()));
                            large.push(Source { folder: None, ..source });
                        } else {
                            firsts.note(&source, done);
                        }
                        Ok(())
                    }
                }
            };
            let mut scan = Scan::new(self.exclude, self.never, roots, &mut found);
            roots.iter().try_for_each(|root| scan.root(root))?;
        }
        tar.cut()?;
        for source in large {
            let done = self.large_file(&source, &mut tar)?;
            firsts.note(&source, done);
        }
        for (entry, source) in late_links {
            self.link(entry, &source, &mut firsts, &mut tar)?;
        }
        tar.cut()?;
        tar.push(&[0; 2 * BLOCK]);
        tar.cut()
    }

    /// Another name of a file that was archived; if that one was not, the file itself.
    fn link(&self, mut entry: Entry, source: &Source, firsts: &mut Firsts, tar: &mut Tar<'_>) -> Result<()> {
        let asked = entry.link.clone();
        if let Some(first) = firsts.of(&asked) {
            entry.link = first;
            return tar.small(entry, b"");
        }
        let mut done = if source.size >= LARGE { Outcome::Large } else { self.small_file(source, tar)? };
        if done == Outcome::Large {
            tar.cut()?;
            done = self.large_file(source, tar)?;
        }
        if done == Outcome::Archived {
            firsts.0.insert(asked, Some(entry.path));
        }
        Ok(())
    }

    /// Reads the file whole, again if it changed meanwhile.
    fn small_file(&self, source: &Source, tar: &mut Tar<'_>) -> Result<Outcome> {
        let mut content = self.pool.empty();
        let mut outcome = Outcome::Lost;
        for attempt in 0.. {
            content.clear();
            let looked = source.open().and_then(|file| {
                let before = rustix::fs::fstat(&file)?;
                let size = regular(&before)?;
                if size >= LARGE {
                    return Ok(None);
                }
                (&file).take(size).read_to_end(&mut content)?;
                let after = rustix::fs::fstat(&file)?;
                let same = || {
                    let mut again = self.pool.of(content.len());
                    let same = fill(&file, &mut again, 0).is_ok_and(|n| again[..n] == content[..]);
                    self.pool.put(again);
                    same
                };
                let mut what = changed(&before, &after, content.len() as u64, size, same);
                // Two changes within a tick of the clock have the same time.
                if what.is_none() && before.st_mtime >= self.recent && !same() {
                    what = Some("changed while it was read".to_owned());
                }
                Ok(Some((before, what)))
            });
            let (before, what) = match looked {
                Ok(Some(looked)) => looked,
                Ok(None) => {
                    self.pool.put(content);
                    return Ok(Outcome::Large);
                }
                Err(error) => {
                    tar.jobs.done(unread(source, &error))?;
                    break;
                }
            };
            let size = regular(&before).unwrap_or(0);
            if what.is_some() && attempt < 2 {
                continue;
            }
            if let Some(what) = what {
                tar.jobs.done(Step::Problem(Note::new(&source.name, what)))?;
            }
            content.resize(usize::try_from(size).expect("a small file"), 0);
            self.read.fetch_add(size, Ordering::Relaxed);
            let entry = Entry { size, blake3: blake3::hash(&content).to_hex().to_string(), ..entry(&source.name, Type::File, &before) };
            tar.small(entry, &content)?;
            outcome = archived(source, &before);
            break;
        }
        self.pool.put(content);
        Ok(outcome)
    }

    fn large_file(&self, source: &Source, tar: &mut Tar<'_>) -> Result<Outcome> {
        let opened = source.open().and_then(|file| {
            let stat = rustix::fs::fstat(&file)?;
            Ok((regular(&stat)?, stat, file))
        });
        let (size, before, file) = match opened {
            Ok(opened) => opened,
            Err(error) => return tar.jobs.done(unread(source, &error)).map(|()| Outcome::Lost),
        };
        let mut entry = Entry { size, ..entry(&source.name, Type::File, &before) };
        tar.push(&entry.header());
        tar.cut()?;
        entry.data = tar.position;
        let (mut at, mut number, mut read_all) = (0, 0, None);
        let mut beginning = [0; 16];
        let known = file.read_at(&mut beginning, 0).unwrap_or(0);
        let chunk = layout::chunk_of(&beginning[..known]);
        while at < size {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            let length = usize::try_from(size - at).unwrap_or(usize::MAX).min(chunk);
            let mut content = self.pool.of(length);
            let short = read_chunk(&file, &mut content, at);
            read_all = read_all.or(short);
            at += length as u64;
            self.read.fetch_add(length as u64, Ordering::Relaxed);
            if at == size {
                content.resize(length + padding(size), 0);
            }
            if layout::aligned(number, size, chunk) {
                tar.jobs.done(Step::Align)?;
            }
            tar.position += content.len() as u64;
            number += 1;
            let content = Arc::new(content);
            tar.digests.send(Part::Chunk(Arc::clone(&content), length)).map_err(|_| Error::Stopped)?;
            tar.jobs.push(Job::Pack { content })?;
        }
        let (answer, digest) = sync_channel(1);
        tar.digests.send(Part::End(answer)).map_err(|_| Error::Stopped)?;
        let digest = digest.recv().map_err(|_| Error::Stopped)?;
        let problem = match read_all {
            Some((at, Some(error))) => Some(format!("cannot be read from byte {at} on: {error}; zeros stand there")),
            Some((at, None)) => Some(format!("shrank to {at} bytes while it was read; zeros stand after that")),
            None => match rustix::fs::fstat(&file) {
                Ok(after) => changed(&before, &after, size, size, || self.begins_with(&file, size, digest)),
                Err(error) => Some(format!("cannot be looked at after it was read: {}", io::Error::from(error))),
            },
        };
        if let Some(what) = problem {
            tar.jobs.done(Step::Problem(Note::new(&source.name, what)))?;
        }
        entry.blake3 = digest.to_hex().to_string();
        tar.jobs.done(Step::Entries(vec![entry]))?;
        Ok(archived(source, &before))
    }

    /// Whether the file still begins with as many bytes of that digest.
    fn begins_with(&self, file: &File, size: u64, digest: blake3::Hash) -> bool {
        let (mut hasher, mut at) = (blake3::Hasher::new(), 0);
        let mut buffer = self.pool.of(CHUNK);
        while at < size && !self.stop.load(Ordering::Relaxed) {
            let length = usize::try_from(size - at).unwrap_or(usize::MAX).min(CHUNK);
            match fill(file, &mut buffer[..length], at) {
                Ok(n) if n == length => hasher.update(&buffer[..n]),
                Ok(_) | Err(_) => break,
            };
            at += length as u64;
        }
        self.pool.put(buffer);
        at == size && hasher.finalize() == digest
    }
}

/// What became of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Archived,
    /// Not archived, or something else was that has taken its place.
    Lost,
    /// Not yet: it has become large.
    Large,
}

/// First names whose file is not in the archive under that name, and the other name that it is under, if it is.
#[derive(Default)]
struct Firsts(HashMap<String, Option<String>>);

impl Firsts {
    fn note(&mut self, source: &Source, outcome: Outcome) {
        if outcome == Outcome::Lost && source.id.is_some() {
            self.0.insert(path_to_text(source.name.as_os_str().as_bytes()), None);
        }
    }

    /// The name to link to instead of `name`; `None` if the file is not in the archive.
    fn of(&self, name: &str) -> Option<String> {
        match self.0.get(name) {
            None => Some(name.to_owned()),
            Some(other) => other.clone(),
        }
    }
}

fn archived(source: &Source, stat: &rustix::fs::Stat) -> Outcome {
    if source.id.is_none_or(|id| id == (stat.st_dev, stat.st_ino)) { Outcome::Archived } else { Outcome::Lost }
}

fn regular(stat: &rustix::fs::Stat) -> io::Result<u64> {
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    if kind == rustix::fs::FileType::RegularFile {
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    } else {
        Err(io::Error::other("it is no regular file any more"))
    }
}

fn unread(source: &Source, error: &io::Error) -> Step {
    match error.kind() {
        io::ErrorKind::NotFound => Step::Skipped(Note::new(&source.name, "vanished before it was read")),
        _ => Step::Problem(Note::new(&source.name, format!("cannot be read: {error}"))),
    }
}

/// What happened to the file while it was read, if it matters. Growing does not, if what was read still stands there (`same`): a file
/// that is written anew may grow too.
fn changed(before: &rustix::fs::Stat, after: &rustix::fs::Stat, read: u64, size: u64, same: impl FnOnce() -> bool) -> Option<String> {
    let time = |stat: &rustix::fs::Stat| (stat.st_mtime, stat.st_mtime_nsec);
    if read < size || after.st_size < before.st_size {
        return Some(format!("shrank to {} bytes while it was read; zeros stand after that", read.min(after.st_size.unsigned_abs())));
    }
    let unchanged = time(before) == time(after) || before.st_size < after.st_size && same();
    (!unchanged).then(|| "changed while it was read".to_owned())
}

/// Reads a chunk; answers from where on its bytes are not there and are zeros instead, and the error if one is why.
fn read_chunk(file: &File, content: &mut [u8], at: u64) -> Option<(u64, Option<io::Error>)> {
    if is_hole(file, at, content.len()) {
        content.fill(0);
        return None;
    }
    match fill(file, content, at) {
        Ok(n) if n == content.len() => None,
        Ok(n) => {
            content[n..].fill(0);
            Some((at + n as u64, None))
        }
        Err(error) => {
            content.fill(0);
            Some((at, Some(error)))
        }
    }
}

/// Whether the whole chunk is a hole of a sparse file: then it is zeros and needs no reading.
fn is_hole(file: &File, at: u64, length: usize) -> bool {
    if length < CHUNK {
        return false;
    }
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(next) => next >= at + length as u64,
        Err(error) => error == rustix::io::Errno::NXIO, // no data after it
    }
}

/// Reads as much as there is; fewer bytes than the buffer has mean the end of the file.
fn fill(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], at + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
