//! Walks the folders that are to be archived, in an order that follows from the names alone. Nothing is followed: every file is opened
//! below its root with symbolic links refused (`openat2`), so that what is swapped while we look leads nowhere else.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, openat2, readlinkat, statat};

use crate::{
    entry::{Entry, Type},
    name::{path_to_text, safe_member_path},
    pattern::Patterns,
};

/// What is to be archived: a folder with everything below it, or a single file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Its name in the archive.
    pub name: PathBuf,
    /// Where it lies.
    pub path: PathBuf,
    /// Whether it is a problem if it is not there.
    pub required: bool,
}

/// Something that is not in the archive as it was on the disk, and why.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Note {
    pub path: String,
    pub what: String,
}

impl Note {
    pub fn new(name: &Path, what: impl Into<String>) -> Self {
        Self { path: path_to_text(name.as_os_str().as_bytes()), what: what.into() }
    }
}

/// What the walk came across.
pub(crate) enum Found {
    /// A folder or a symbolic link: needs no reading.
    Plain(Entry),
    /// Another name of a file that was found before; it has to be read after all if that one could not be.
    Link(Entry, Source),
    File(Source),
    /// Not archived although it should be.
    Problem(Note),
    /// Not archived, and nobody would expect it.
    Skipped(Note),
}

/// A regular file below a root.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) name: PathBuf,
    /// Of the root it is below, and the way from there; empty if the root is the file.
    pub(crate) root: PathBuf,
    pub(crate) below: PathBuf,
    pub(crate) size: u64,
    /// Device and inode of a file with several names: what links to it must not get what has taken its place since.
    pub(crate) id: Option<(u64, u64)>,
    /// The folder it was found in, for who reads it at once; whoever keeps the source gives this up, because open files are few.
    pub(crate) folder: Option<Arc<OwnedFd>>,
}

impl Source {
    pub(crate) fn open(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        if self.below.as_os_str().is_empty() {
            // Like a folder it may be a symbolic link: the operator put it there.
            return Ok(rustix::fs::openat(CWD, &self.root, flags.difference(OFlags::NOFOLLOW), Mode::empty())?.into());
        }
        if let (Some(folder), Some(name)) = (&self.folder, self.below.file_name()) {
            return Ok(rustix::fs::openat(folder, name, flags, Mode::empty())?.into());
        }
        let root = open_root(&self.root)?;
        Ok(openat2(root, &self.below, flags, Mode::empty(), BENEATH)?.into())
    }
}

pub(crate) const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

/// A root may be a symbolic link itself: the operator put it there.
fn open_root(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// An entry with the metadata of `stat`, without size, content and link.
pub(crate) fn entry(name: &Path, kind: Type, stat: &Stat) -> Entry {
    Entry {
        path: path_to_text(name.as_os_str().as_bytes()),
        kind,
        size: 0,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: stat.st_mtime,
        ns: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        link: String::new(),
        data: 0,
        blake3: String::new(),
    }
}

/// Device and inode of what must never be archived, and why.
pub(crate) type Never = (u64, u64, &'static str);

/// Files below the roots and their bytes, as they are now; what cannot be looked at is not counted.
pub fn measure(roots: &[Root], exclude: &Patterns) -> (u64, u64) {
    let (mut files, mut bytes) = (0, 0);
    let mut found = |found: Found| {
        if let Found::File(source) = found {
            files += 1;
            bytes += source.size;
        }
        Ok::<(), std::convert::Infallible>(())
    };
    let mut scan = Scan::new(exclude, &[], roots, &mut found);
    for root in roots {
        let Ok(()) = scan.root(root);
    }
    (files, bytes)
}

/// Walks roots and hands each find to `found`, until that fails.
pub(crate) struct Scan<'a, E> {
    pub(crate) exclude: &'a Patterns,
    pub(crate) never: &'a [Never],
    /// Names of all roots: one may lie within another.
    pub(crate) roots: Vec<&'a Path>,
    pub(crate) found: &'a mut dyn FnMut(Found) -> Result<(), E>,
    /// Files with several names, by device and inode: the first name, which of them is archived.
    links: HashMap<(u64, u64), PathBuf>,
    /// The folder that was looked into last, below which root and where.
    folder: Option<(PathBuf, PathBuf, Arc<OwnedFd>)>,
}

impl<'a, E> Scan<'a, E> {
    pub(crate) fn new(
        exclude: &'a Patterns,
        never: &'a [Never],
        roots: &'a [Root],
        found: &'a mut dyn FnMut(Found) -> Result<(), E>,
    ) -> Self {
        let roots = roots.iter().map(|root| root.name.as_path()).collect();
        Self { exclude, never, roots, found, links: HashMap::new(), folder: None }
    }

    pub(crate) fn root(&mut self, root: &Root) -> Result<(), E> {
        let stat = match statat(CWD, &root.path, AtFlags::empty()) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT) if !root.required => return Ok(()),
            Err(error) => return self.problem(&root.name, io::Error::from(error).to_string()),
        };
        match file_type(&stat) {
            FileType::Directory => self.folder(root, Path::new(""), &stat),
            FileType::RegularFile => self.file(root, Path::new(""), root.name.clone(), &stat),
            _ => self.problem(&root.name, "it is neither a file nor a folder"),
        }
    }

    fn is_never(&self, stat: &Stat) -> Option<&'static str> {
        self.never.iter().find(|(dev, ino, _)| (*dev, *ino) == (stat.st_dev, stat.st_ino)).map(|(_, _, why)| *why)
    }

    /// The folder at `below`; the same one is opened once.
    fn open_folder(&mut self, root: &Root, below: &Path) -> io::Result<Arc<OwnedFd>> {
        if let Some((path, at, fd)) = &self.folder
            && *path == root.path
            && at == below
        {
            return Ok(Arc::clone(fd));
        }
        let fd = Arc::new(open_below(&open_root(&root.path)?, below)?);
        self.folder = Some((root.path.clone(), below.to_owned(), Arc::clone(&fd)));
        Ok(fd)
    }

    fn problem(&mut self, name: &Path, what: impl Into<String>) -> Result<(), E> {
        (self.found)(Found::Problem(Note::new(name, what)))
    }

    /// The folder's own entry, then everything in it by name.
    fn folder(&mut self, root: &Root, below: &Path, stat: &Stat) -> Result<(), E> {
        // A stack of its own instead of recursion: a tree may be deeper than a thread's stack.
        let mut open: Vec<(PathBuf, std::vec::IntoIter<OsString>)> = Vec::new();
        let names = self.enter(root, below, stat)?;
        open.push((below.to_owned(), names));
        while let Some((folder, names)) = open.last_mut() {
            let Some(name) = names.next() else {
                open.pop();
                continue;
            };
            let folder = folder.clone();
            let below = folder.join(&name);
            let full = named(root, &below);
            if self.exclude.matches(full.as_os_str().as_bytes()) {
                continue;
            }
            if let Err(why) = safe_member_path(full.as_os_str().as_bytes()) {
                self.problem(&full, why)?;
                continue;
            }
            let looked = self.open_folder(root, &folder).and_then(|fd| look(&fd, &name));
            let stat = match looked {
                Ok(stat) => stat,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    (self.found)(Found::Skipped(Note::new(&full, "vanished before it was read")))?;
                    continue;
                }
                Err(error) => {
                    self.problem(&full, error.to_string())?;
                    continue;
                }
            };
            let kind = file_type(&stat);
            match self.roots.iter().find(|other| other.starts_with(&full)) {
                // The same name twice would be no archive.
                Some(other) if *other == full => {
                    (self.found)(Found::Skipped(Note::new(&full, "another root of the archive has this name")))?;
                    continue;
                }
                Some(_) if kind != FileType::Directory => {
                    self.problem(&full, "another root of the archive needs a folder of this name")?;
                    continue;
                }
                _ => {}
            }
            match kind {
                FileType::Directory if self.is_never(&stat).is_some() => {
                    let why = self.is_never(&stat).unwrap_or_default();
                    (self.found)(Found::Skipped(Note::new(&full, why)))?;
                }
                FileType::Directory => {
                    let names = self.enter(root, &below, &stat)?;
                    open.push((below, names));
                }
                FileType::RegularFile => self.file(root, &below, full, &stat)?,
                FileType::Symlink => self.symlink(root, &below, &full, &stat)?,
                FileType::Socket => (self.found)(Found::Skipped(Note::new(&full, "a socket")))?,
                FileType::Fifo => (self.found)(Found::Skipped(Note::new(&full, "a pipe")))?,
                _ => (self.found)(Found::Skipped(Note::new(&full, "a device")))?,
            }
        }
        Ok(())
    }

    /// Reports the folder and answers the names in it, sorted.
    fn enter(&mut self, root: &Root, below: &Path, stat: &Stat) -> Result<std::vec::IntoIter<OsString>, E> {
        let full = named(root, below);
        let mut names = Vec::new();
        match list(root, below) {
            Ok(all) => names = all,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !below.as_os_str().is_empty() => {
                (self.found)(Found::Skipped(Note::new(&full, "vanished before it was read")))?;
                return Ok(names.into_iter());
            }
            Err(error) => self.problem(&full, format!("cannot list the folder: {error}"))?,
        }
        names.sort_unstable();
        (self.found)(Found::Plain(entry(&full, Type::Dir, stat)))?;
        Ok(names.into_iter())
    }

    fn file(&mut self, root: &Root, below: &Path, full: PathBuf, stat: &Stat) -> Result<(), E> {
        if let Some(why) = self.is_never(stat) {
            return (self.found)(Found::Skipped(Note::new(&full, why)));
        }
        let id = (stat.st_nlink > 1).then_some((stat.st_dev, stat.st_ino));
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let folder = self.folder.as_ref().filter(|(path, at, _)| *path == root.path && Some(at.as_path()) == below.parent());
        let folder = folder.map(|(_, _, fd)| Arc::clone(fd));
        let source = Source { name: full.clone(), root: root.path.clone(), below: below.to_owned(), size, id, folder };
        if let Some(id) = id {
            if let Some(first) = self.links.get(&id) {
                let link = path_to_text(first.as_os_str().as_bytes());
                return (self.found)(Found::Link(Entry { link, ..entry(&full, Type::Link, stat) }, source));
            }
            self.links.insert(id, full);
        }
        (self.found)(Found::File(source))
    }

    fn symlink(&mut self, root: &Root, below: &Path, full: &Path, stat: &Stat) -> Result<(), E> {
        let folder = self.open_folder(root, below.parent().unwrap_or(Path::new("")));
        let target = folder.and_then(|fd| Ok(readlinkat(&*fd, below.file_name().unwrap_or_default(), Vec::new())?));
        match target {
            Ok(target) => {
                let link = path_to_text(target.to_bytes());
                (self.found)(Found::Plain(Entry { link, ..entry(full, Type::Symlink, stat) }))
            }
            Err(error) => self.problem(full, error.to_string()),
        }
    }
}

fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn named(root: &Root, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { root.name.clone() } else { root.name.join(below) }
}

fn open_below(root: &OwnedFd, below: &Path) -> io::Result<OwnedFd> {
    let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    Ok(openat2(root, below, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), BENEATH)?)
}

/// The metadata of the entry itself, without following it.
fn look(folder: &OwnedFd, name: &OsStr) -> io::Result<Stat> {
    Ok(statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn list(root: &Root, below: &Path) -> io::Result<Vec<OsString>> {
    let fd = open_root(&root.path)?;
    let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    let folder = openat2(fd, below, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), BENEATH)?;
    let mut names = Vec::new();
    for item in rustix::fs::Dir::new(folder)? {
        let item = item?;
        let name = item.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}
