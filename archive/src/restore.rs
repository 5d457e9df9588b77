//! Puts an archive's files back. Everything is written below the target and nowhere else: each step of a path is opened with symbolic
//! links refused, whatever lies there already. A file appears under its name when all of it is written and was checked.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Seek as _, SeekFrom, Write as _},
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64},
};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid, openat2};

use crate::{
    entry::{Entry, Type},
    error::{Doing as _, Error, Result},
    limits::Limits,
    name::{digest, safe_link, safe_member_path, text_to_path},
    read::{Archive, ReadAt},
    scan::{BENEATH, Note},
    verify,
    walk::{Sink, Walk},
};

/// What is done about a file that is in the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conflict {
    /// The target must be empty or absent; it appears as a whole or not at all.
    #[default]
    Refuse,
    /// What is there stays.
    Skip,
    /// What is there is replaced, file by file.
    Overwrite,
}

/// What is done about symbolic links that point out of the archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Links {
    /// Nothing is restored; the error names the link.
    #[default]
    Refuse,
    /// They are left out and named.
    Skip,
    /// They are made as they were.
    Allow,
}

/// How an archive is restored.
pub struct Options<'a> {
    /// Only these, with everything below them; empty: everything.
    pub only: Vec<PathBuf>,
    pub conflict: Conflict,
    pub links: Links,
    /// Files that are damaged are left out and named, instead of restoring nothing.
    pub salvage: bool,
    /// Owners too; needs the right to give files away.
    pub owners: bool,
    /// The bits that run a program as its owner.
    pub setuid: bool,
    pub threads: usize,
    pub limits: Limits,
    pub stop: &'a AtomicBool,
    /// Bytes of the tar gone through.
    pub done: &'a AtomicU64,
}

impl Default for Options<'_> {
    fn default() -> Self {
        let verify = verify::Options::default();
        Self {
            only: Vec::new(),
            conflict: Conflict::Refuse,
            links: Links::Refuse,
            salvage: false,
            owners: false,
            setuid: false,
            threads: 0,
            limits: verify.limits,
            stop: verify.stop,
            done: verify.done,
        }
    }
}

/// What was restored.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Restored {
    pub files: u64,
    pub bytes: u64,
    /// Folders and links.
    pub others: u64,
    /// Left as they were, because something was there.
    pub kept: Vec<String>,
    /// Not restored, and why.
    pub left_out: Vec<Note>,
    /// Damaged in the archive, and left out.
    pub damaged: Vec<Note>,
    /// Damage as it lies in the archive.
    pub damage: Vec<String>,
}

/// What a restore would do, without doing it: the entries that are wanted.
pub fn selected<S: ReadAt>(archive: &Archive<S>, only: &[PathBuf]) -> Result<Vec<Entry>> {
    let all = archive.entries().filter(|e| e.as_ref().map_or(true, |e| is_wanted(e, only)));
    let found: Vec<Entry> = all.collect::<Result<_>>()?;
    match only.first() {
        Some(first) if found.is_empty() => Err(Error::NotFound(format!("there is no {} in the archive", first.display()))),
        _ => Ok(found),
    }
}

fn is_wanted(entry: &Entry, only: &[PathBuf]) -> bool {
    only.is_empty() || only.iter().any(|path| entry.is_below(path))
}

/// Restores into `target`. With [`Conflict::Refuse`] the target appears as a whole, under another name until then; else the archive is
/// verified before the first file is touched. Errors: `InTheWay`, `Damaged`, `Refused`, `NotFound` if nothing is wanted, `Stopped`.
pub fn restore<S: ReadAt>(archive: &Archive<S>, target: &Path, options: &Options<'_>) -> Result<Restored> {
    archive.sums(&options.limits)?;
    let plan = plan(archive, options)?;
    if options.conflict == Conflict::Refuse {
        return anew(archive, target, options, plan);
    }
    if !options.salvage {
        let report = archive.verify(&verify::Options {
            threads: options.threads,
            limits: options.limits,
            stop: options.stop,
            ..verify::Options::default()
        })?;
        if !report.is_whole() {
            return Err(Error::damaged(report.sentence()));
        }
    }
    fs::create_dir_all(target).doing(format!("cannot create {}", target.display()))?;
    write_below(archive, target, options, plan)
}

/// Into a folder of another name beside the target, which gets the target's name at the end.
fn anew<S: ReadAt>(archive: &Archive<S>, target: &Path, options: &Options<'_>, plan: Plan) -> Result<Restored> {
    let in_the_way = |what: &str| {
        let target = target.display();
        Err(Error::InTheWay(format!("{target} {what}: restore into a new folder, or say what is to happen with what is there")))
    };
    match fs::symlink_metadata(target) {
        Ok(there) if !there.is_dir() => return in_the_way("is no folder"),
        Ok(_) if fs::read_dir(target).doing(format!("cannot list {}", target.display()))?.next().is_some() => {
            return in_the_way("is not empty");
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).doing(format!("cannot look at {}", target.display())),
    }
    let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).doing(format!("cannot create {}", parent.display()))?;
    let scratch = tempfile::Builder::new().prefix(".restore-").suffix(".tmp").tempdir_in(parent).doing("cannot create a scratch folder")?;
    let restored = write_below(archive, scratch.path(), options, plan)?;
    let _ = fs::remove_dir(target); // empty or absent, as seen above
    fs::rename(scratch.path(), target).doing(format!("cannot put the files into {}", target.display()))?;
    let _ = scratch.keep(); // it has another name now
    File::open(parent).and_then(|folder| folder.sync_all()).doing(format!("cannot sync {}", parent.display()))?;
    Ok(restored)
}

/// What is known before the first byte is written.
struct Plan {
    left_out: Vec<Note>,
    /// Files that are wanted under another name than their own: a link is wanted, what it links to is not.
    instead: HashMap<String, String>,
}

fn plan<S: ReadAt>(archive: &Archive<S>, options: &Options<'_>) -> Result<Plan> {
    let mut plan = Plan { left_out: Vec::new(), instead: HashMap::new() };
    let mut any = false;
    for entry in archive.entries() {
        let entry = entry?;
        if !is_wanted(&entry, &options.only) {
            continue;
        }
        any = true;
        match entry.kind {
            Type::Symlink if options.links != Links::Allow => {
                let path = entry.check().map_err(Error::Refused)?;
                match safe_link(&path, &text_to_path(&entry.link)) {
                    Ok(()) => {}
                    Err(why) if options.links == Links::Skip => plan.left_out.push(Note { path: entry.path, what: why }),
                    Err(why) => return Err(Error::Refused(format!("{why}; say that such links are to be left out or made"))),
                }
            }
            Type::Link => {
                let target = safe_member_path(&text_to_path(&entry.link)).map_err(Error::Refused)?;
                if !options.only.is_empty() && !options.only.iter().any(|path| target.starts_with(path)) {
                    plan.instead.entry(entry.link).or_insert(entry.path);
                }
            }
            _ => {}
        }
    }
    if !any && !options.only.is_empty() {
        return Err(Error::NotFound(format!("there is no {} in the archive", options.only[0].display())));
    }
    Ok(plan)
}

fn write_below<S: ReadAt>(archive: &Archive<S>, root: &Path, options: &Options<'_>, plan: Plan) -> Result<Restored> {
    let open = || rustix::fs::openat(CWD, root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let root_fd: OwnedFd = open().doing(format!("cannot open {}", root.display()))?;
    let mut writer = Writer {
        root: root_fd,
        options,
        left_out: plan.left_out.iter().map(|note| note.path.clone()).collect(),
        instead: plan.instead,
        restored: Restored { left_out: plan.left_out, ..Restored::default() },
        folders: Vec::new(),
        made: std::collections::HashSet::new(),
        current: None,
    };
    let walk = Walk { threads: options.threads, wanted: &|_, _| true, done: options.done, stop: options.stop };
    let damage = walk.run(archive, &mut writer)?;
    let whole = damage.is_empty() && writer.restored.damaged.is_empty();
    if !whole && !options.salvage {
        let files = writer.restored.damaged.iter().map(|note| format!("{}: {}", note.path, note.what));
        return Err(Error::damaged(files.chain(damage).take(10).collect::<Vec<_>>().join("; ")));
    }
    writer.restored.damage = damage;
    writer.finish_folders()?;
    rustix::fs::syncfs(&writer.root).doing("cannot sync the restored files")?;
    Ok(writer.restored)
}

struct Writer<'a> {
    root: OwnedFd,
    options: &'a Options<'a>,
    left_out: std::collections::HashSet<String>,
    instead: HashMap<String, String>,
    restored: Restored,
    /// Their modes and times come last: writing into a folder changes its time, and a folder may not be writable.
    folders: Vec<(PathBuf, Entry)>,
    /// Names that exist now because we made them, as digests: a million of them are some 20 MB.
    made: std::collections::HashSet<[u8; 16]>,
    current: Option<Current>,
}

/// A file that is being written.
struct Current {
    entry: Entry,
    path: PathBuf,
    temporary: PathBuf,
    file: Option<File>,
    digest: blake3::Hasher,
    /// Zeros at the end that are not written yet: a hole.
    hole: u64,
    damaged: bool,
}

impl Writer<'_> {
    /// The folder that `path` lies in, made if it is not there; symbolic links on the way are refused.
    fn parent(&mut self, path: &Path) -> Result<OwnedFd> {
        let parent = path.parent().unwrap_or(Path::new(""));
        if parent.as_os_str().is_empty() {
            return self.root.try_clone().doing("cannot open the target");
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |root: &OwnedFd| openat2(root, parent, flags, Mode::empty(), BENEATH);
        match open(&self.root) {
            Err(rustix::io::Errno::NOENT) => {}
            opened => return opened.map_err(io::Error::from).doing(format!("cannot open the folder of {}", path.display())),
        }
        let above = self.parent(parent)?;
        let name = parent.file_name().unwrap_or_default();
        match rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o750)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(io::Error::from(error)).doing(format!("cannot create the folder {}", parent.display())),
        }
        open(&self.root).map_err(io::Error::from).doing(format!("cannot open the folder of {}", path.display()))
    }

    /// Whether something of ours may be put there. What is in the way is kept, or goes.
    fn make_room(&mut self, folder: &OwnedFd, path: &Path) -> Result<bool> {
        let name = path.file_name().unwrap_or_default();
        let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT) => return Ok(true),
            Err(error) => return Err(io::Error::from(error)).doing(format!("cannot look at {}", path.display())),
        };
        match self.options.conflict {
            Conflict::Refuse => Err(Error::InTheWay(format!("{} is in the way", path.display()))),
            Conflict::Skip => {
                self.restored.kept.push(path.display().to_string());
                Ok(false)
            }
            Conflict::Overwrite if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory => {
                Err(Error::InTheWay(format!("{} is a folder there and none in the archive", path.display())))
            }
            Conflict::Overwrite => Ok(true),
        }
    }

    fn begin_file(&mut self, entry: &Entry, path: PathBuf) -> Result<()> {
        let folder = self.parent(&path)?;
        if !self.make_room(&folder, &path)? {
            return Ok(());
        }
        let doing = || format!("cannot create {}", path.display());
        // Another name until it is whole; the content's digest makes it one that only an archive with such a name in it has too.
        let names = (0..).map(|n: u32| PathBuf::from(format!(".{}.{n}.restore.tmp", &entry.blake3[..16])));
        let mut free = names.filter(|name| !self.made.contains(&digest(&path.with_file_name(name))));
        let temporary = free.next().expect("there are more names than files");
        let _ = rustix::fs::unlinkat(&folder, &temporary, AtFlags::empty()); // of a restore that was killed
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::openat(&folder, &temporary, flags, Mode::from_raw_mode(0o600)).map_err(io::Error::from).doing(doing())?;
        let temporary = path.with_file_name(temporary);
        self.current = Some(Current {
            entry: entry.clone(),
            path,
            temporary,
            file: Some(fd.into()),
            digest: blake3::Hasher::new(),
            hole: 0,
            damaged: false,
        });
        Ok(())
    }

    fn end_file(&mut self, current: Current) -> Result<()> {
        let Current { entry, path, temporary, file, digest: content, hole, mut damaged } = current;
        let folder = self.parent(&path)?;
        let doing = || format!("cannot write {}", path.display());
        let mut file = file.expect("a file is open until it ends");
        if hole > 0 {
            file.set_len(entry.size).doing(doing())?;
        }
        damaged |= content.finalize().to_hex().as_str() != entry.blake3;
        if damaged {
            rustix::fs::unlinkat(&folder, temporary.file_name().unwrap_or_default(), AtFlags::empty())
                .map_err(io::Error::from)
                .doing(doing())?;
            self.restored.damaged.push(Note { path: entry.path, what: "damaged in the archive".into() });
            return Ok(());
        }
        self.metadata(&file, &entry).doing(doing())?;
        file.flush().doing(doing())?;
        if self.options.conflict != Conflict::Refuse {
            file.sync_all().doing(doing())?; // its old content goes with the rename
        }
        let (from, to) = (temporary.file_name().unwrap_or_default(), path.file_name().unwrap_or_default());
        rustix::fs::renameat(&folder, from, &folder, to).map_err(io::Error::from).doing(doing())?;
        self.made.insert(digest(&path));
        self.restored.files += 1;
        self.restored.bytes += entry.size;
        Ok(())
    }

    fn mode(&self, entry: &Entry) -> Mode {
        Mode::from_raw_mode(if self.options.setuid { entry.mode } else { entry.mode & 0o1777 })
    }

    fn metadata(&self, file: &File, entry: &Entry) -> io::Result<()> {
        if self.options.owners {
            rustix::fs::fchown(file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
        }
        rustix::fs::fchmod(file, self.mode(entry))?;
        rustix::fs::futimens(file, &times(entry))?;
        Ok(())
    }

    fn folder(&mut self, entry: &Entry, path: PathBuf) -> Result<()> {
        let above = self.parent(&path)?;
        let name = path.file_name().unwrap_or_default();
        match rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o700)) {
            Ok(()) => self.restored.others += 1,
            Err(rustix::io::Errno::EXIST) => {
                let stat = rustix::fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from);
                let stat = stat.doing(format!("cannot look at {}", path.display()))?;
                if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Directory {
                    return Err(Error::InTheWay(format!("{} is a folder in the archive and none there", path.display())));
                }
                if self.options.conflict == Conflict::Skip {
                    return Ok(());
                }
            }
            Err(error) => return Err(io::Error::from(error)).doing(format!("cannot create the folder {}", path.display())),
        }
        self.folders.push((path, entry.clone()));
        Ok(())
    }

    fn symlink(&mut self, entry: &Entry, path: PathBuf) -> Result<()> {
        let folder = self.parent(&path)?;
        if !self.make_room(&folder, &path)? {
            return Ok(());
        }
        let doing = || format!("cannot create the link {}", path.display());
        let name = path.file_name().unwrap_or_default();
        if self.options.conflict == Conflict::Overwrite {
            let _ = rustix::fs::unlinkat(&folder, name, AtFlags::empty()); // it may not be there
        }
        let target = text_to_path(&entry.link);
        rustix::fs::symlinkat(std::ffi::OsStr::from_bytes(&target), &folder, name).map_err(io::Error::from).doing(doing())?;
        if self.options.owners {
            let (uid, gid) = (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
            rustix::fs::chownat(&folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from).doing(doing())?;
        }
        rustix::fs::utimensat(&folder, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from).doing(doing())?;
        self.made.insert(digest(&path));
        self.restored.others += 1;
        Ok(())
    }

    fn link(&mut self, entry: &Entry, path: PathBuf) -> Result<()> {
        // The first wanted name got the content; further ones link to it.
        let first = self.instead.get(&entry.link).unwrap_or(&entry.link).clone();
        if first == entry.path {
            return Ok(());
        }
        let target = safe_member_path(&text_to_path(&first)).map_err(Error::Refused)?;
        let folder = self.parent(&path)?;
        if !self.made.contains(&digest(&target)) {
            let what = format!("{first}, which it is another name of, was not restored");
            self.restored.left_out.push(Note { path: entry.path.clone(), what });
            return Ok(());
        }
        if !self.make_room(&folder, &path)? {
            return Ok(());
        }
        let name = path.file_name().unwrap_or_default();
        if self.options.conflict == Conflict::Overwrite {
            let _ = rustix::fs::unlinkat(&folder, name, AtFlags::empty()); // it may not be there
        }
        let target_folder = self.parent(&target)?;
        rustix::fs::linkat(&target_folder, target.file_name().unwrap_or_default(), &folder, name, AtFlags::empty())
            .map_err(io::Error::from)
            .doing(format!("cannot create the link {}", path.display()))?;
        self.made.insert(digest(&path));
        self.restored.others += 1;
        Ok(())
    }

    fn finish_folders(&mut self) -> Result<()> {
        for (path, entry) in std::mem::take(&mut self.folders).into_iter().rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd = openat2(&self.root, &path, flags, Mode::empty(), BENEATH).map_err(io::Error::from);
            let folder: File = fd.doing(format!("cannot open the folder {}", path.display()))?.into();
            self.metadata(&folder, &entry).doing(format!("cannot finish the folder {}", path.display()))?;
        }
        Ok(())
    }
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime, tv_nsec: entry.ns.into() };
    Timestamps { last_access: time, last_modification: time }
}

impl Sink for Writer<'_> {
    // A header that is lost costs nothing: the table of contents has all that it said, and the content has a digest of its own.
    fn begin(&mut self, entry: &Entry, _: bool) -> Result<()> {
        let name = self.instead.get(&entry.path).filter(|_| entry.kind == Type::File);
        let path = match name {
            Some(other) if !is_wanted(entry, &self.options.only) => safe_member_path(&text_to_path(other)).map_err(Error::Refused)?,
            _ if !is_wanted(entry, &self.options.only) || self.left_out.contains(&entry.path) => return Ok(()),
            _ => entry.check().map_err(Error::Refused)?,
        };
        match entry.kind {
            Type::File => self.begin_file(entry, path),
            Type::Dir => self.folder(entry, path),
            Type::Symlink => self.symlink(entry, path),
            Type::Link => self.link(entry, path),
        }
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        current.digest.update(bytes);
        let file = current.file.as_mut().expect("a file is open until it ends");
        let doing = || format!("cannot write {}", current.path.display());
        if bytes.len() >= 64 << 10 && bytes.iter().all(|byte| *byte == 0) {
            file.seek(SeekFrom::Current(i64::try_from(bytes.len()).expect("a member is small"))).doing(doing())?;
            current.hole += bytes.len() as u64;
            return Ok(());
        }
        file.write_all(bytes).doing(doing())
    }

    fn gap(&mut self, _: u64, _: bool) -> Result<()> {
        if let Some(current) = &mut self.current {
            current.damaged = true;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        match self.current.take() {
            Some(current) => self.end_file(current),
            None => Ok(()),
        }
    }
}
