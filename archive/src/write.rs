//! Writes an archive: one thread reads the sources, several compress, the caller's writes. Content is always read and hashed, never
//! believed by its time. A member whose content stands in the archive before is copied from there, after its bytes were compared with
//! the digest that archive's table of contents has of them; one that does not agree is compressed anew and reported.

use std::{
    fs::File,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
};

use crate::{
    buffers::Buffers,
    entry::{Entry, Type},
    error::{Doing as _, Error, Result},
    gather::Reader,
    hex,
    layout::{ALIGN, CHUNK},
    member::{Packer, padding as aligning},
    name::safe_member_path,
    order::{in_order, threads},
    output::Output,
    pattern::Patterns,
    previous::{Known, Previous},
    scan::{Note, Root},
    toc::{Member, Sums, Writer as Toc},
};

/// How an archive is written.
pub struct Options<'a> {
    pub exclude: Patterns,
    /// Files and folders that are not archived wherever they turn up, and why: the archives themselves, for one.
    pub never: &'a [(PathBuf, &'static str)],
    /// The archive before, whose members are taken over.
    pub previous: Option<Previous>,
    /// That compress; 0: one for each core and one more.
    pub threads: usize,
    /// Raised when it is to stop.
    pub stop: &'a AtomicBool,
    /// Bytes of content read so far.
    pub read: &'a AtomicU64,
    /// Permission bits of the archive.
    pub mode: u32,
}

/// What was written.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Written {
    /// Of the archive's file.
    pub size_bytes: u64,
    pub sha256: String,
    pub toc_sha256: String,
    pub entries: u64,
    pub files: u64,
    /// Bytes of all files together.
    pub content_bytes: u64,
    /// Bytes of the archive that were copied from the one before, and of these, bytes that share their blocks with it.
    pub reused_bytes: u64,
    pub shared_bytes: u64,
    /// Members copied and made.
    pub reused_members: u64,
    pub new_members: u64,
    /// What is not in the archive as it was on the disk: it is not whole.
    pub problems: Vec<Note>,
    /// What nobody would expect in an archive: sockets, files that vanished.
    pub skipped: Vec<Note>,
    /// Members of the archive before that are damaged there, by their place; they were made anew.
    pub damaged_before: Vec<String>,
    /// Why the archive before was not used, if one was named.
    pub previous_refused: Option<String>,
}

/// Times of files may be this coarse.
const RECENT_S: i64 = 2;
/// Lists stay readable and small; beyond this many, one line says how many more there are.
const MAX_NOTES: usize = 1000;

/// What goes through the pipeline: content for a member, or something that keeps its place between members.
pub(crate) enum Job {
    /// The content is shared with whoever takes the digest of the whole file.
    Pack { content: Arc<Vec<u8>> },
}

pub(crate) enum Step {
    Member { content: u32, key: [u8; 32], packed: Packed },
    Entries(Vec<Entry>),
    Align,
    Problem(Note),
    Skipped(Note),
}

pub(crate) struct Packed {
    bytes: Vec<u8>,
    sum: [u8; 32],
    /// Where it stands in the archive before.
    copied_from: Option<u64>,
    damaged: Option<u64>,
}

/// Writes the archive of `roots` to `target`, which must not exist, and syncs it. The caller gives it its final name. Two archives of
/// the same content and metadata are the same bytes, whatever `threads` and `previous` are.
/// Errors: `Io` naming what failed, `Refused` for roots whose names cannot be in one archive, `Stopped`. What could not be read is no error but a note in `problems`.
pub fn write(target: &Path, roots: &[Root], options: Options<'_>) -> Result<Written> {
    check_names(roots)?;
    let create = || File::options().read(true).write(true).create_new(true).mode(options.mode).open(target);
    let file = create().doing(format!("cannot create {}", target.display()))?;
    let own = file.metadata().doing("cannot look at the new archive")?;
    let folder = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let spool = tempfile::tempfile_in(folder).doing("cannot create a spool for the table of contents")?;

    let mut written = Written::default();
    let (previous, refused) = match options.previous.map(Previous::open).transpose() {
        Ok(previous) => (previous, None),
        Err(why) => (None, Some(why.to_string())),
    };
    written.previous_refused = refused;
    let mut out = Output::new(file, target, previous.as_ref());
    let mut toc = Toc::new(spool)?;
    let mut sums = Sums::default();
    let pool = Buffers::default();
    let mut never = vec![(own.dev(), own.ino(), "the archive itself")];
    for (path, why) in options.never {
        if let Ok(there) = std::fs::metadata(path) {
            never.push((there.dev(), there.ino(), *why));
        }
    }
    let recent = own.mtime() - RECENT_S;
    let reader = Reader { recent, exclude: &options.exclude, never: &never, stop: options.stop, read: options.read, pool: &pool };

    // Contents and members are of different sizes: a pool each.
    let members = Buffers::default();
    let work = |worker: &mut Worker, Job::Pack { content }: Job| {
        let step = worker.pack(&content, previous.as_ref(), members.any());
        pool.put_last(content);
        step
    };
    let take = |step: Step| {
        match step {
            Step::Entries(entries) => {
                for entry in entries {
                    sums.entries += 1;
                    sums.files += u64::from(entry.kind == Type::File);
                    sums.bytes += entry.size;
                    toc.entry(entry)?;
                }
            }
            Step::Align => out.write(&aligning(out.position(), ALIGN))?,
            Step::Problem(note) => push(&mut written.problems, note),
            Step::Skipped(note) => push(&mut written.skipped, note),
            Step::Member { content, key, packed } => {
                let size = u32::try_from(packed.bytes.len()).expect("a member is far below 4 GiB");
                toc.member(&Member { offset: out.position(), size, content, key, sum: packed.sum })?;
                sums.members += 1;
                sums.tar += u64::from(content);
                if let Some(offset) = packed.damaged {
                    push_text(&mut written.damaged_before, format!("the member at byte {offset}"));
                }
                if let Some(offset) = packed.copied_from {
                    written.reused_members += 1;
                    written.reused_bytes += u64::from(size);
                    out.copy(offset, &packed.bytes)?;
                } else {
                    written.new_members += 1;
                    out.write(&packed.bytes)?;
                }
                members.put(packed.bytes);
            }
        }
        Ok(())
    };
    in_order(threads(options.threads), |jobs| reader.read(roots, jobs), Worker::default, work, take)?;

    let toc_offset = out.position();
    let toc_sha256 = toc.finish(sums, toc_offset, &mut |bytes| out.write(bytes))?;
    let done = out.finish()?;
    written.size_bytes = done.bytes;
    written.sha256 = hex::encode(&done.sha256);
    written.toc_sha256 = hex::encode(&toc_sha256);
    written.shared_bytes = done.shared_bytes;
    (written.entries, written.files, written.content_bytes) = (sums.entries, sums.files, sums.bytes);
    Ok(written)
}

fn check_names(roots: &[Root]) -> Result<()> {
    for (n, root) in roots.iter().enumerate() {
        let refuse = |what: &str| Err(Error::Refused(format!("the root {}: {what}", root.name.display())));
        match safe_member_path(root.name.as_os_str().as_bytes()) {
            Err(why) => return refuse(&why),
            Ok(path) if path.as_os_str() != root.name.as_os_str() => return refuse("its name is not written in the canonical way"),
            Ok(_) if roots[..n].iter().any(|other| other.name == root.name) => return refuse("another one has the same name"),
            Ok(_) => {}
        }
    }
    Ok(())
}

fn push(notes: &mut Vec<Note>, note: Note) {
    match notes.len() {
        n if n < MAX_NOTES => notes.push(note),
        n if n == MAX_NOTES => notes.push(Note { path: "...".into(), what: "and more".into() }),
        _ => {}
    }
}

fn push_text(lines: &mut Vec<String>, line: String) {
    if lines.len() < MAX_NOTES {
        lines.push(line);
    }
}

/// Makes members. It remembers the last one that came out tiny: the holes of a sparse file are thousands of the same.
#[derive(Default)]
struct Worker {
    packer: Packer,
    tiny: Option<([u8; 32], Vec<u8>)>,
}

/// What a chunk of zeros comes to, and a little more.
const TINY: usize = 4096;

impl Worker {
    /// The member of this content: from the archive before, or made now.
    fn pack(&mut self, content: &[u8], previous: Option<&Known>, mut bytes: Vec<u8>) -> Step {
        let key = *blake3::hash(content).as_bytes();
        let (mut copied, mut damaged): (Option<crate::previous::Found>, _) = (None, None);
        if let Some((known, found)) = previous.and_then(|known| Some((known, known.find(&key)?))) {
            match known.member(&found, &mut bytes) {
                Ok(()) => copied = Some(found),
                Err(_) => damaged = Some(found.offset),
            }
        }
        if copied.is_none() {
            match &self.tiny {
                Some((of, member)) if *of == key => bytes.clone_from(member),
                _ => {
                    self.packer.pack(content, &mut bytes);
                    if bytes.len() < TINY && content.len() == CHUNK {
                        self.tiny = Some((key, bytes.clone()));
                    }
                }
            }
        }
        let sum = copied.map_or_else(|| *blake3::hash(&bytes).as_bytes(), |found| found.sum);
        let copied_from = copied.map(|found| found.offset);
        let content = u32::try_from(content.len()).expect("a member's content is far below 4 GiB");
        Step::Member { content, key, packed: Packed { bytes, sum, copied_from, damaged } }
    }
}
