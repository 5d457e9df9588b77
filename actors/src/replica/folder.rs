//! A directory as the second target. A file is written beside its name, synced, and then given its name; a copy that was cut off goes on
//! where it ended. The directory itself is never made: one that is not there is a disk that is not mounted.

use std::{
    fs::{self, File},
    io::{Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Component, Path, PathBuf},
};

use bytes::Bytes;
use rustix::fs::{Advice, CWD, RenameFlags};

use super::{Object, Source, Watch, exists};
use crate::{
    env::blocking,
    error::{Context as _, Error, Result},
    files,
};

/// Of files that are not there whole yet.
const PART: &str = ".part";

#[derive(Clone, Debug)]
pub(super) struct Folder {
    root: PathBuf,
    /// Bytes after which an upload tells how far it is.
    step: u64,
}

impl Folder {
    pub(super) fn open(root: PathBuf, backups: &Path, step: u64) -> Result<Self> {
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if real(&root).starts_with(real(backups)) {
            let what = format!("replica.url {} lies within the folder of the backups: a second target is somewhere else", root.display());
            return Err(Error::invalid("configuration", what));
        }
        Ok(Self { root, step })
    }

    /// Names come from a listing or from our own table; one that leaves the directory is neither.
    fn path(&self, name: &str) -> Result<PathBuf> {
        let fine = Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
        if fine { Ok(self.root.join(name)) } else { Err(Error::invalid("replica", format!("{name} is not a name at the second target"))) }
    }

    fn there(&self) -> Result<()> {
        if self.root.is_dir() {
            return Ok(());
        }
        Err(Error::unavailable("replica", format!("the second target {} is not there: is it mounted?", self.root.display())))
    }

    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        let (folder, prefix) = (self.clone(), prefix.to_owned());
        blocking(move || {
            folder.there()?;
            let (mut found, mut open) = (Vec::new(), vec![folder.root.clone()]);
            while let Some(path) = open.pop() {
                for entry in fs::read_dir(&path).context(format!("cannot list {}", path.display()))? {
                    let entry = entry.context(format!("cannot list {}", path.display()))?;
                    let (kind, path) = (entry.file_type()?, entry.path());
                    let Some(name) = path.strip_prefix(&folder.root).ok().and_then(Path::to_str) else { continue }; // not one of ours
                    // The root of a disk has a folder that nobody may read.
                    let hidden = entry.file_name().to_string_lossy().starts_with('.') || entry.file_name() == "lost+found";
                    if kind.is_dir() && !hidden && (prefix.starts_with(name) || name.starts_with(&prefix)) {
                        open.push(path);
                    } else if kind.is_file() && !hidden && name.starts_with(&prefix) {
                        let metadata = entry.metadata()?;
                        found.push(Object { name: name.to_owned(), size: metadata.len(), modified: metadata.modified()?.into() });
                    }
                }
            }
            Ok(found)
        })
        .await
    }

    pub(super) async fn put(&self, name: &str, source: &Source, replace: bool, watch: &dyn Watch) -> Result<u64> {
        self.there()?;
        let path = self.path(name)?;
        if !replace && path.exists() {
            return Err(exists(name));
        }
        let part = part_path(&path, &source.sha256);
        let from = blocking({
            let (part, size) = (part.clone(), source.size);
            move || begin(&part, size)
        })
        .await?;
        let mut at = from;
        watch.progress(at, source.size);
        while at < source.size {
            let (part, source_of, len) = (part.clone(), source.clone(), self.step);
            at = blocking(move || append(&part, &source_of, at, len)).await?;
            watch.progress(at, source.size);
        }
        let (name, sent) = (name.to_owned(), source.size - from);
        blocking(move || publish(&part, &path, replace, &name)).await?;
        Ok(sent)
    }

    pub(super) async fn size(&self, name: &str) -> Result<Option<u64>> {
        let path = self.path(name)?;
        blocking(move || match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        })
        .await
    }

    pub(super) async fn read_range(&self, name: &str, offset: u64, len: u64) -> Result<Bytes> {
        let path = self.path(name)?;
        blocking(move || {
            let file = File::open(&path)?;
            let len = len.min(file.metadata()?.len().saturating_sub(offset));
            let mut bytes = vec![0; usize::try_from(len).map_err(|_| Error::internal("a piece larger than memory"))?];
            file.read_exact_at(&mut bytes, offset)?;
            Ok(bytes.into())
        })
        .await
    }

    pub(super) async fn delete(&self, name: &str) -> Result<()> {
        let path = self.path(name)?;
        blocking(move || match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::from(error).context(format!("cannot remove {}", path.display())))
            }
            _ => files::sync_folder(path.parent().unwrap_or(&path)),
        })
        .await
    }
}

/// Where a file waits until it is whole; the digest tells a resumed copy from one of another content.
fn part_path(path: &Path, sha256: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}{PART}", sha256.get(..16).unwrap_or(sha256)))
}

/// Opens or makes the waiting file and answers how much of it is there.
fn begin(part: &Path, size: u64) -> Result<u64> {
    if let Some(folder) = part.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).context(format!("cannot create {}", folder.display()))?;
    }
    let file = File::options()
        .create(true)
        .append(true)
        .mode(files::MODE_PRIVATE)
        .open(part)
        .context(format!("cannot create {}", part.display()))?;
    let there = file.metadata()?.len();
    if there > size {
        file.set_len(0)?;
        return Ok(0);
    }
    Ok(there)
}

/// Adds up to `len` bytes and syncs, so that what counts as there survives a power cut.
fn append(part: &Path, source: &Source, at: u64, len: u64) -> Result<u64> {
    let doing = || format!("cannot write {}", part.display());
    let bytes = source.read(at, len)?;
    let mut file = File::options().write(true).open(part).context(doing())?;
    file.seek(SeekFrom::Start(at)).context(doing())?;
    file.write_all(&bytes).context(doing())?;
    file.sync_data().context(doing())?;
    Ok(at + bytes.len() as u64)
}

fn publish(part: &Path, path: &Path, replace: bool, name: &str) -> Result<()> {
    let file = File::open(part)?;
    file.sync_all()?;
    // What is read back to be compared comes from the disk, not from memory; a system that cannot is told nothing.
    let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
    if replace {
        fs::rename(part, path).context(format!("cannot publish {}", path.display()))?;
    } else {
        match rustix::fs::renameat_with(CWD, part, CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => return Err(exists(name)),
            // A file system without it: the same, but not in one step.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if !path.exists() => fs::rename(part, path)?,
            Err(error) => return Err(Error::from(std::io::Error::from(error)).context(format!("cannot publish {}", path.display()))),
        }
    }
    let folder = path.parent().unwrap_or(path);
    sweep(folder, path)?;
    files::sync_folder(folder)
}

/// Removes what copies of other contents left under way to the same name.
fn sweep(folder: &Path, path: &Path) -> Result<()> {
    let begins = format!(".{}.", path.file_name().unwrap_or_default().to_string_lossy());
    for entry in fs::read_dir(folder)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let digest = name.strip_prefix(&begins).and_then(|rest| rest.strip_suffix(PART));
        if digest.is_some_and(|d| d.len() == 16 && d.bytes().all(|b| b.is_ascii_hexdigit())) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{env::Pending, replica::Upload};

    struct Deaf;

    impl Watch for Deaf {
        fn progress(&self, _: u64, _: u64) {}

        fn keep<'a>(&'a self, _: &'a Upload) -> Pending<'a, ()> {
            Box::pin(async { Ok(()) })
        }
    }

    async fn source(folder: &Path, content: &[u8]) -> Source {
        let path = folder.join("source");
        fs::write(&path, content).unwrap();
        Source::open(&path).await.unwrap()
    }

    #[tokio::test]
    async fn a_copy_that_was_cut_off_goes_on_where_it_ended_and_another_content_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("second");
        let target = Folder::open(root.clone(), &folder.path().join("backups"), 10).unwrap();
        assert_eq!(target.list("").await.unwrap_err().reason, "replica", "a disk that is not mounted is not an empty one");
        fs::create_dir(&root).unwrap();
        let content: Vec<u8> = (0..100).collect();
        let file = source(folder.path(), &content).await;
        let part = part_path(&root.join("daily/a"), &file.sha256);
        begin(&part, file.size).unwrap();
        fs::write(&part, &content[..40]).unwrap();
        fs::write(part_path(&root.join("daily/a"), &"cd".repeat(32)), b"another content").unwrap();
        assert_eq!(target.list("").await.unwrap(), []);
        assert_eq!(target.put("daily/a", &file, true, &Deaf).await.unwrap(), 60);
        assert_eq!(fs::read(root.join("daily/a")).unwrap(), content);
        assert_eq!(fs::read_dir(root.join("daily")).unwrap().count(), 1, "nothing half is left");
        assert_eq!(target.put("daily/a", &file, false, &Deaf).await.unwrap_err().reason, "exists");
        assert_eq!(target.put("../a", &file, true, &Deaf).await.unwrap_err().reason, "replica");
    }

    #[test]
    fn a_target_within_the_backups_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let backups = folder.path().join("backups");
        fs::create_dir_all(backups.join("second")).unwrap();
        assert!(Folder::open(backups.join("second"), &backups, 1).unwrap_err().message.contains("somewhere else"));
    }
}
