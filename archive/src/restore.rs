//! Puts an archive's files back. Everything is written below the target and nowhere else: each step of a path is opened with symbolic
//! links refused, whatever lies there already. A file appears under its name when all of it is written and was checked.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64},
};

use crate::{
    entry::{Entry, Type},
    error::{Doing as _, Error, Result},
    limits::Limits,
    name::{safe_link, safe_member_path, text_to_path},
    read::{Archive, ReadAt},
    scan::Note,
    verify,
    walk::{Sink, Walk},
    writer::Writer,
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

pub(crate) fn is_wanted(entry: &Entry, only: &[PathBuf]) -> bool {
    only.is_empty() || only.iter().any(|path| entry.is_below(path))
}

/// Entries of an archive, from the first.
pub(crate) type Entries<'a> = Box<dyn Iterator<Item = Result<Entry>> + 'a>;

/// Restores into `target`. With [`Conflict::Refuse`] the target appears as a whole, under another name until then; else the archive is
/// verified before the first file is touched. Errors: `InTheWay`, `Damaged`, `Refused`, `NotFound` if nothing is wanted, `Stopped`.
pub fn restore<S: ReadAt>(archive: &Archive<S>, target: &Path, options: &Options<'_>) -> Result<Restored> {
    archive.sums(&options.limits)?;
    if options.conflict != Conflict::Refuse && !options.salvage {
        let (threads, limits, stop) = (options.threads, options.limits, options.stop);
        let report = archive.verify(&verify::Options { threads, limits, stop, ..verify::Options::default() })?;
        if !report.is_whole() {
            return Err(Error::damaged(report.sentence()));
        }
    }
    let walk = Walk { threads: options.threads, wanted: &|_, _| true, done: options.done, stop: options.stop };
    restore_from(target, options, &|| Box::new(archive.entries()), &mut |sink| walk.run(archive, sink))
}

/// The same from anything that can tell its entries and go through their content; `run` answers what is damaged.
pub(crate) fn restore_from<'e>(
    target: &Path,
    options: &Options<'_>,
    entries: &dyn Fn() -> Entries<'e>,
    run: &mut dyn FnMut(&mut dyn Sink) -> Result<Vec<String>>,
) -> Result<Restored> {
    let plan = plan(entries(), options)?;
    let mut write = |root: &Path| {
        let mut writer = Writer::below(root, options)?;
        writer.leave_these_out(&plan.left_out);
        writer.instead.clone_from(&plan.instead);
        let damage = run(&mut writer)?;
        let whole = damage.is_empty() && writer.restored.damaged.is_empty();
        if !options.salvage && !whole {
            let files = writer.restored.damaged.iter().map(|note| format!("{}: {}", note.path, note.what));
            return Err(Error::damaged(files.chain(damage).take(10).collect::<Vec<_>>().join("; ")));
        }
        writer.finish(damage)
    };
    if options.conflict == Conflict::Refuse {
        return into_new(target, &mut write);
    }
    fs::create_dir_all(target).doing(format!("cannot create {}", target.display()))?;
    write(target)
}

/// Writes into a folder of another name beside the target, which gets the target's name at the end.
pub(crate) fn into_new(target: &Path, write: &mut dyn FnMut(&Path) -> Result<Restored>) -> Result<Restored> {
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
    let restored = write(scratch.path())?;
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

fn plan(entries: Entries<'_>, options: &Options<'_>) -> Result<Plan> {
    let mut plan = Plan { left_out: Vec::new(), instead: HashMap::new() };
    let mut any = false;
    for entry in entries {
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
