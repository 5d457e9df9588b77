//! Writes entries below a folder and nowhere else: each step of a path is opened with symbolic links refused, whatever lies there. A
//! file has another name until all of it is written and was checked.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, Seek as _, SeekFrom, Write as _},
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid, openat2};

use crate::{
    entry::{Entry, Type},
    error::{Doing as _, Error, Result},
    name::{digest, safe_member_path, text_to_path},
    restore::{Conflict, Options, Restored, is_wanted},
    scan::{BENEATH, Note},
    walk::Sink,
};

/// Writes entries below a folder.
pub(crate) struct Writer<'a> {
    root: OwnedFd,
    options: &'a Options<'a>,
    left_out: HashSet<String>,
    /// Files that are wanted under another name than their own.
    pub(crate) instead: HashMap<String, String>,
    pub(crate) restored: Restored,
    /// Their modes and times come last: writing into a folder changes its time, and a folder may not be writable.
    folders: Vec<(PathBuf, Entry)>,
    /// Names that exist now because we made them, as digests: a million of them are some 20 MB.
    made: HashSet<[u8; 16]>,
    current: Option<Current>,
}

/// A file that is being written.
struct Current {
    entry: Entry,
    path: PathBuf,
    temporary: PathBuf,
    file: Option<File>,
    digest: blake3::Hasher,
    /// Zeros that were passed over: a hole.
    hole: u64,
    /// Why it cannot be restored.
    damaged: Option<String>,
}

impl<'a> Writer<'a> {
    pub(crate) fn below(root: &Path, options: &'a Options<'a>) -> Result<Self> {
        let open = || rustix::fs::openat(CWD, root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        Ok(Self {
            root: open().doing(format!("cannot open {}", root.display()))?,
            options,
            left_out: HashSet::new(),
            instead: HashMap::new(),
            restored: Restored::default(),
            folders: Vec::new(),
            made: HashSet::new(),
            current: None,
        })
    }

    /// Gives the folders their modes and times and syncs everything.
    pub(crate) fn finish(mut self, damage: Vec<String>) -> Result<Restored> {
        self.restored.damage = damage;
        self.finish_folders()?;
        rustix::fs::syncfs(&self.root).doing("cannot sync the restored files")?;
        Ok(self.restored)
    }

    pub(crate) fn leave_these_out(&mut self, notes: &[Note]) {
        self.left_out = notes.iter().map(|note| note.path.clone()).collect();
        self.restored.left_out = notes.to_vec();
    }

    pub(crate) fn leave_out(&mut self, note: Note) {
        self.restored.left_out.push(note);
    }

    /// The rest of the present file cannot be had.
    pub(crate) fn give_up(&mut self, what: &str) -> Result<()> {
        let Some(mut current) = self.current.take() else { return Ok(()) };
        current.damaged = Some(what.to_owned());
        self.end_file(current)
    }

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
        // Another name until it is whole, that nothing has; an archive may have been made of a folder with such a name in it.
        let own = crate::hex::encode(&digest(&path));
        let names = (0..).map(|n: u32| PathBuf::from(format!(".{own}.{n}.restore.tmp")));
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
            damaged: None,
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
        if !entry.blake3.is_empty() && damaged.is_none() && content.finalize().to_hex().as_str() != entry.blake3 {
            damaged = Some("its content is not the one that was archived".into());
        }
        if let Some(what) = damaged {
            let removed = rustix::fs::unlinkat(&folder, temporary.file_name().unwrap_or_default(), AtFlags::empty());
            removed.map_err(io::Error::from).doing(doing())?;
            self.restored.damaged.push(Note { path: entry.path, what });
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
            _ => safe_member_path(&entry.name()).map_err(Error::Refused)?,
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
            current.damaged.get_or_insert_with(|| "a member it stands in is damaged".to_owned());
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
