//! Trees that are made up, changed and looked at. What a tree is made of is a list of operations, so that proptest can leave some
//! of them out and find the smallest tree that still fails.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::{Seek as _, SeekFrom, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
};

use echopilot_archive::layout::{CHUNK, LARGE};
use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

/// What can be seen of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: &'static str,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, i64),
    /// Of a file: its size and digest. Of a link: its target.
    pub(crate) content: String,
    /// The first of the names that are the same file.
    pub(crate) first: Vec<u8>,
}

pub(crate) type Tree = BTreeMap<Vec<u8>, Seen>;

/// Everything below `root`, the folder itself as the empty name.
pub(crate) fn look(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut first: BTreeMap<(u64, u64), Vec<u8>> = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        let (kind, content) = if meta.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            ("folder", String::new())
        } else if meta.is_symlink() {
            ("symlink", fs::read_link(&path).unwrap().as_os_str().as_bytes().escape_ascii().to_string())
        } else if meta.is_file() {
            ("file", format!("{} {}", meta.len(), blake3::hash(&fs::read(&path).unwrap()).to_hex()))
        } else {
            ("other", String::new())
        };
        if kind == "file" {
            let first = first.entry((meta.dev(), meta.ino())).or_insert_with(|| name.clone());
            *first = first.clone().min(name.clone());
        }
        let seen = Seen {
            kind,
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            content,
            first: Vec::new(),
        };
        tree.insert(name, seen);
    }
    for (name, seen) in tree.iter_mut().filter(|(_, seen)| seen.kind == "file") {
        let meta = fs::symlink_metadata(root.join(OsStr::from_bytes(name))).unwrap();
        seen.first.clone_from(&first[&(meta.dev(), meta.ino())]);
    }
    tree
}

/// The first difference in words; trees are too large to be printed.
pub(crate) fn difference(wanted: &Tree, got: &Tree) -> Option<String> {
    let names: std::collections::BTreeSet<_> = wanted.keys().chain(got.keys()).collect();
    let name = names.into_iter().find(|name| wanted.get(*name) != got.get(*name))?;
    Some(format!("{}: wanted {:?}, got {:?}", name.escape_ascii(), wanted.get(name), got.get(name)))
}

/// How a name is made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Name {
    Plain(u8),
    NoText(u8),
    Newline(u8),
    Percent(u8),
    Quoted(u8),
    /// So many bytes.
    Long(u8, usize),
}

impl Name {
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Plain(n) => format!("file-{n}.log").into_bytes(),
            Self::NoText(n) => vec![b'n', 0xff, 0xfe, n | 0x80, b'x'],
            Self::Newline(n) => format!("line\nbreak\t{n}").into_bytes(),
            Self::Percent(n) => format!("%{n}%41%").into_bytes(),
            Self::Quoted(n) => format!("\"\\{n}' é\u{2028}").into_bytes(),
            Self::Long(n, length) => {
                let mut name = format!("{n}-").into_bytes();
                name.resize(length, b'l');
                name
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fill {
    Lines,
    Zeros,
    Noise,
    Database,
    /// Nothing is written but a few bytes at the end.
    Hole,
}

pub(crate) fn content(fill: Fill, seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut out = Vec::with_capacity(size + 64);
    if matches!(fill, Fill::Database) {
        out.extend(b"SQLite format 3\0");
    }
    while out.len() < size {
        match fill {
            Fill::Zeros | Fill::Hole => out.resize(size, 0),
            Fill::Noise => out.extend(next().to_le_bytes()),
            Fill::Lines | Fill::Database => out.extend(format!("{{\"id\":{},\"state\":\"paid\"}}\n", next() % 100_000).bytes()),
        }
    }
    out.truncate(size);
    out
}

/// One step of making or changing a tree. Numbers choose among what is there.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    File { into: usize, name: Name, fill: Fill, size: usize, seed: u64 },
    Folder { into: usize, name: Name },
    Deep { into: usize, levels: usize },
    Symlink { into: usize, name: Name, target: Vec<u8> },
    Link { into: usize, name: Name, of: usize },
    Append { of: usize, size: usize, seed: u64 },
    Insert { of: usize, at: usize, seed: u64 },
    Cut { of: usize, at: usize, size: usize },
    Delete { of: usize },
    Rename { of: usize, into: usize, name: Name },
    Touch { of: usize, seconds: i64, ns: i64 },
    Mode { of: usize, mode: u32 },
    Owner { of: usize, uid: u32 },
    Replace { of: usize, fill: Fill, size: usize, seed: u64 },
}

fn any_of(root: &Path, kind: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        if kind == "any" && path != root || kind == "folder" && meta.is_dir() || kind == "file" && meta.is_file() {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Applies a step; one that finds nothing to act on, or a name that is taken, does nothing.
pub(crate) fn apply(root: &Path, op: &Op) {
    let pick = |kind: &str, n: usize| {
        let all = any_of(root, kind);
        (!all.is_empty()).then(|| all[n % all.len()].clone())
    };
    let place = |into: usize, name: Name| {
        let path = pick("folder", into).unwrap().join(OsStr::from_bytes(&name.bytes()));
        // Room for the names of folders in which it is restored.
        (path.as_os_str().len() < 3900 && fs::symlink_metadata(&path).is_err()).then_some(path)
    };
    match op {
        Op::File { into, name, fill, size, seed } => {
            if let Some(path) = place(*into, *name) {
                put(&path, *fill, *size, *seed);
            }
        }
        Op::Folder { into, name } => {
            if let Some(path) = place(*into, *name) {
                fs::create_dir(path).unwrap();
            }
        }
        Op::Deep { into, levels } => {
            let mut path = pick("folder", *into).unwrap();
            for level in 0..*levels {
                path.push(format!("{level}-{}", "d".repeat(240)));
                if path.as_os_str().len() > 3600 {
                    break;
                }
                let _ = fs::create_dir(&path); // it may be there
            }
        }
        Op::Symlink { into, name, target } => {
            if let Some(path) = place(*into, *name) {
                symlink(OsStr::from_bytes(target), path).unwrap();
            }
        }
        Op::Link { into, name, of } => {
            if let (Some(path), Some(of)) = (place(*into, *name), pick("file", *of)) {
                fs::hard_link(of, path).unwrap();
            }
        }
        Op::Append { of, size, seed } => {
            if let Some(path) = pick("file", *of) {
                fs::File::options().append(true).open(path).unwrap().write_all(&content(Fill::Lines, *seed, *size)).unwrap();
            }
        }
        Op::Insert { of, at, seed } => {
            if let Some(path) = pick("file", *of) {
                let mut all = fs::read(&path).unwrap();
                let at = at % (all.len() + 1);
                all.splice(at..at, content(Fill::Lines, *seed, 777));
                fs::write(path, all).unwrap();
            }
        }
        Op::Cut { of, at, size } => {
            if let Some(path) = pick("file", *of) {
                let mut all = fs::read(&path).unwrap();
                let at = at % (all.len() + 1);
                all.drain(at..(at + size).min(all.len()));
                fs::write(path, all).unwrap();
            }
        }
        Op::Delete { of } => {
            if let Some(path) = pick("any", *of) {
                if fs::symlink_metadata(&path).unwrap().is_dir() {
                    fs::remove_dir_all(path).unwrap();
                } else {
                    fs::remove_file(path).unwrap();
                }
            }
        }
        Op::Rename { of, into, name } => {
            if let (Some(from), Some(to)) = (pick("any", *of), place(*into, *name))
                && !to.starts_with(&from)
                && from.as_os_str().len() + to.as_os_str().len() < 3800
            {
                fs::rename(from, to).unwrap();
            }
        }
        Op::Touch { of, seconds, ns } => {
            if let Some(path) = pick("any", *of) {
                let time = Timespec { tv_sec: *seconds, tv_nsec: *ns };
                let times = Timestamps { last_access: time, last_modification: time };
                rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
            }
        }
        Op::Mode { of, mode } => {
            if let Some(path) = pick("any", *of)
                && !path.is_symlink()
            {
                // A folder that cannot be entered is a matter of its own.
                let mode = if path.is_dir() { mode | 0o700 } else { mode | 0o400 };
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            }
        }
        Op::Owner { of, uid } => {
            if let Some(path) = pick("any", *of)
                && rustix::process::geteuid().is_root()
            {
                std::os::unix::fs::lchown(path, Some(*uid), Some(uid / 2)).unwrap();
            }
        }
        Op::Replace { of, fill, size, seed } => {
            if let Some(path) = pick("file", *of) {
                fs::remove_file(&path).unwrap();
                put(&path, *fill, *size, *seed);
            }
        }
    }
}

fn put(path: &Path, fill: Fill, size: usize, seed: u64) {
    let mut file = fs::File::create_new(path).unwrap();
    if matches!(fill, Fill::Hole) {
        file.seek(SeekFrom::Start(size as u64)).unwrap();
        file.write_all(b"end").unwrap();
    } else {
        file.write_all(&content(fill, seed, size)).unwrap();
    }
}

fn any_name() -> impl Strategy<Value = Name> {
    prop_oneof![
        6 => any::<u8>().prop_map(Name::Plain),
        1 => any::<u8>().prop_map(Name::NoText),
        1 => any::<u8>().prop_map(Name::Newline),
        1 => any::<u8>().prop_map(Name::Percent),
        1 => any::<u8>().prop_map(Name::Quoted),
        1 => (any::<u8>(), prop::sample::select(vec![99, 100, 101, 255])).prop_map(|(n, length)| Name::Long(n, length)),
    ]
}

fn any_fill() -> impl Strategy<Value = Fill> {
    prop::sample::select(vec![Fill::Lines, Fill::Lines, Fill::Zeros, Fill::Noise, Fill::Database, Fill::Hole])
}

fn any_size() -> impl Strategy<Value = usize> {
    let large = usize::try_from(LARGE).unwrap();
    prop_oneof![
        8 => prop::sample::select(vec![0, 1, 100, 511, 512, 513, 5000, 70_000]),
        3 => prop::sample::select(vec![large - 1, large, large + 1]),
        2 => prop::sample::select(vec![CHUNK - 1, CHUNK, CHUNK + 1]),
        1 => Just(3 * CHUNK + 17),
        1 => Just(5 * CHUNK),
    ]
}

fn any_target() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec![
        b"file-1.log".to_vec(),
        b"../../../etc/passwd".to_vec(),
        b"/dev/null".to_vec(),
        b"\xff\n%".to_vec(),
        vec![b't'; 101],
        b"t/".repeat(1500),
    ])
}

/// A step that adds something.
pub(crate) fn any_making() -> impl Strategy<Value = Op> {
    let n = || any::<u8>().prop_map(usize::from);
    prop_oneof![
        8 => (n(), any_name(), any_fill(), any_size(), any::<u64>())
            .prop_map(|(into, name, fill, size, seed)| Op::File { into, name, fill, size, seed }),
        3 => (n(), any_name()).prop_map(|(into, name)| Op::Folder { into, name }),
        1 => (n(), 1..16usize).prop_map(|(into, levels)| Op::Deep { into, levels }),
        2 => (n(), any_name(), any_target()).prop_map(|(into, name, target)| Op::Symlink { into, name, target }),
        2 => (n(), any_name(), n()).prop_map(|(into, name, of)| Op::Link { into, name, of }),
    ]
}

/// Any step.
pub(crate) fn any_edit() -> impl Strategy<Value = Op> {
    let n = || any::<u8>().prop_map(usize::from);
    let time = prop::sample::select(vec![-2_000_000_000i64, -1, 0, 1_700_000_000, 8_589_934_591, 8_589_934_592, 15_000_000_000]);
    prop_oneof![
        3 => any_making(),
        3 => (n(), prop::sample::select(vec![1usize, 511, 9000, 300_000]), any::<u64>())
            .prop_map(|(of, size, seed)| Op::Append { of, size, seed }),
        1 => (n(), any::<usize>(), any::<u64>()).prop_map(|(of, at, seed)| Op::Insert { of, at, seed }),
        1 => (n(), any::<usize>(), 1..100_000usize).prop_map(|(of, at, size)| Op::Cut { of, at, size }),
        1 => n().prop_map(|of| Op::Delete { of }),
        2 => (n(), n(), any_name()).prop_map(|(of, into, name)| Op::Rename { of, into, name }),
        2 => (n(), time, prop::sample::select(vec![0i64, 1, 500_000_000, 999_999_999]))
            .prop_map(|(of, seconds, ns)| Op::Touch { of, seconds, ns }),
        1 => (n(), 0..0o10_000u32).prop_map(|(of, mode)| Op::Mode { of, mode }),
        1 => (n(), prop::sample::select(vec![1u32, 65_534, 3_000_000, 4_000_000_000])).prop_map(|(of, uid)| Op::Owner { of, uid }),
        1 => (n(), any_fill(), any_size(), any::<u64>()).prop_map(|(of, fill, size, seed)| Op::Replace { of, fill, size, seed }),
    ]
}
