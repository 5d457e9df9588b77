//! Compares a folder with what an archive has: the proof that a restore put everything back. Every file is read again.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use crate::{
    entry::{Entry, Type},
    error::{Doing as _, Error, Result},
    name::{path_to_text, safe_member_path, text_to_path},
    scan::Note,
};

const BUFFER: usize = 1 << 20;

/// What is different below `root` from the entries, by name. Owners are not compared: restoring them needs a right of its own.
pub fn compare(entries: impl Iterator<Item = Result<Entry>>, root: &Path) -> Result<Vec<Note>> {
    let (mut notes, mut buffer) = (Vec::new(), vec![0; BUFFER]);
    // Digests of names: a million of them are some 20 MB.
    let mut expected = std::collections::HashSet::new();
    for entry in entries {
        let entry = entry?;
        let path = safe_member_path(&entry.name()).map_err(Error::Refused)?;
        for parent in path.ancestors().filter(|p| !p.as_os_str().is_empty()) {
            if !expected.insert(crate::name::digest(parent)) {
                break;
            }
        }
        if let Some(what) = difference(&entry, &root.join(&path), root, &mut buffer)? {
            notes.push(Note { path: entry.path.clone(), what });
        }
    }
    let mut open = vec![PathBuf::new()];
    while let Some(folder) = open.pop() {
        for item in fs::read_dir(root.join(&folder)).doing(format!("cannot list {}", folder.display()))? {
            let item = item.doing(format!("cannot list {}", folder.display()))?;
            let path = folder.join(item.file_name());
            if !expected.contains(&crate::name::digest(&path)) {
                notes.push(Note::new(&path, "is there and not in the archive"));
            } else if item.file_type().is_ok_and(|t| t.is_dir()) {
                open.push(path);
            }
        }
    }
    Ok(notes)
}

fn difference(entry: &Entry, path: &Path, root: &Path, buffer: &mut [u8]) -> Result<Option<String>> {
    let stat = match fs::symlink_metadata(path) {
        Ok(stat) => stat,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some("is not there".into())),
        Err(error) => return Err(error).doing(format!("cannot look at {}", path.display())),
    };
    let kind = match entry.kind {
        Type::Dir => stat.is_dir(),
        Type::Symlink => stat.is_symlink(),
        Type::File | Type::Link => stat.is_file(),
    };
    if !kind {
        return Ok(Some("is of another kind".into()));
    }
    match entry.kind {
        Type::Symlink => {
            let target = fs::read_link(path).doing(format!("cannot read the link {}", path.display()))?;
            return Ok((path_to_text(target.as_os_str().as_bytes()) != entry.link).then(|| "points somewhere else".into()));
        }
        Type::Link => {
            let first = root.join(safe_member_path(&text_to_path(&entry.link)).map_err(Error::Refused)?);
            let same = fs::symlink_metadata(first).is_ok_and(|first| (first.dev(), first.ino()) == (stat.dev(), stat.ino()));
            return Ok((!same).then(|| format!("is not another name of {}", entry.link)));
        }
        _ => {}
    }
    if (stat.mtime(), stat.mtime_nsec()) != (entry.mtime, entry.ns.into()) {
        return Ok(Some("has another time".into()));
    }
    if stat.mode() & 0o1777 != entry.mode & 0o1777 {
        return Ok(Some(format!("has mode {:o}, not {:o}", stat.mode() & 0o1777, entry.mode & 0o1777)));
    }
    if entry.kind == Type::File {
        if stat.len() != entry.size {
            return Ok(Some(format!("has {} bytes, not {}", stat.len(), entry.size)));
        }
        if digest(path, buffer)? != entry.blake3 {
            return Ok(Some("has another content".into()));
        }
    }
    Ok(None)
}

/// BLAKE3 of a file, hex.
fn digest(path: &Path, buffer: &mut [u8]) -> Result<String> {
    let doing = || format!("cannot read {}", path.display());
    let (mut file, mut hasher) = (File::open(path).doing(doing())?, blake3::Hasher::new());
    loop {
        match file.read(buffer).doing(doing())? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            n => hasher.update(&buffer[..n]),
        };
    }
}

/// BLAKE3 of the first `bytes` of a file, hex; of all of it if it is shorter.
pub fn digest_of_beginning(path: &Path, bytes: u64) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?.take(bytes))?;
    Ok(hasher.finalize().to_hex().to_string())
}
