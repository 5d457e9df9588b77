//! Archives that are not whole or not ours: a plain tar.gz is read as far as it is files and folders and refused as a whole if it is
//! not; of one whose table of contents is gone everything comes out that is whole.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64},
};

use echopilot_archive::{
    Archive, Error,
    pattern::Patterns,
    restore::Options,
    salvage::salvage,
    scan::Root,
    stream::Plain,
    verify,
    write::{self, write},
};
use flate2::{Compression, write::GzEncoder};
use tar::{Builder, EntryType, Header};

fn plain(path: &Path, fill: impl FnOnce(&mut Builder<GzEncoder<File>>)) -> Plain {
    let mut builder = Builder::new(GzEncoder::new(File::create(path).unwrap(), Compression::fast()));
    fill(&mut builder);
    builder.into_inner().unwrap().finish().unwrap();
    Plain::new(File::open(path).unwrap()).unwrap()
}

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o640);
    header.set_mtime(1_700_000_000);
    header
}

fn everything() -> verify::Options<'static> {
    verify::Options::default()
}

#[test]
fn a_plain_archive_is_verified_read_and_restored() {
    let folder = tempfile::tempdir().unwrap();
    let archive = plain(&folder.path().join("a.tar.gz"), |b| {
        b.append_data(&mut header(EntryType::Directory, 0), "logs/", std::io::empty()).unwrap();
        b.append_data(&mut header(EntryType::Regular, 5), "logs/a", &b"hello"[..]).unwrap();
    });
    let (entries, report) = archive.verify(&everything()).unwrap();
    assert_eq!(entries.iter().map(|e| e.path.as_str()).collect::<Vec<_>>(), ["logs", "logs/a"]);
    assert_eq!((report.sums.files, report.sums.bytes, report.is_whole()), (1, 5, true));
    let target = folder.path().join("out");
    let restored = archive.restore(&target, &Options::default()).unwrap();
    assert_eq!((restored.files, fs::read(target.join("logs/a")).unwrap()), (1, b"hello".to_vec()));
    let mut out = Vec::new();
    archive.cat("logs/a", &mut out).unwrap();
    assert_eq!(out, b"hello");
    assert!(matches!(archive.cat("logs/b", &mut out), Err(Error::NotFound(_))));
}

#[test]
fn damage_at_any_place_of_a_plain_archive_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar.gz");
    let content = vec![7; 300_000];
    plain(&path, |b| b.append_data(&mut header(EntryType::Regular, 300_000), "a", &content[..]).unwrap());
    let (good, target) = (fs::read(&path).unwrap(), folder.path().join("out"));
    for cut in [0, 1, 10, good.len() / 2, good.len() - 9, good.len() - 1] {
        fs::write(&path, &good[..cut]).unwrap();
        let result = Plain::new(File::open(&path).unwrap()).unwrap().restore(&target, &Options::default());
        assert!(matches!(result, Err(Error::Damaged(_))), "cut at {cut}: {result:?}");
        assert!(!target.exists());
    }
    for place in [12, good.len() / 3, good.len() - 6] {
        let mut bad = good.clone();
        bad[place] ^= 0x10;
        fs::write(&path, &bad).unwrap();
        assert!(Plain::new(File::open(&path).unwrap()).unwrap().restore(&target, &Options::default()).is_err(), "flip at {place}");
        assert!(!target.exists());
    }
}

#[test]
fn what_would_leave_the_folder_or_is_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("evil.tar.gz");
    let target = folder.path().join("out");
    for name in ["../evil", "logs/../../evil", "/etc/evil"] {
        let archive = plain(&path, |b| {
            let mut header = header(EntryType::Regular, 1);
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            b.append(&header, &b"x"[..]).unwrap();
        });
        let error = archive.restore(&target, &Options::default()).unwrap_err();
        assert!(matches!(error, Error::Refused(_)), "{name}: {error}");
        assert!(!target.exists() && !folder.path().join("evil").exists());
    }
    let archive = plain(&path, |b| b.append_link(&mut header(EntryType::Symlink, 0), "logs/l", "/etc/passwd").unwrap());
    assert!(archive.verify(&everything()).unwrap_err().to_string().contains("neither a file nor a folder"));
    let archive = plain(&path, |b| {
        for _ in 0..2 {
            b.append_data(&mut header(EntryType::Regular, 0), "logs/a", std::io::empty()).unwrap();
        }
    });
    assert!(archive.verify(&everything()).unwrap_err().to_string().contains("logs/a"));
}

/// A tree of small and large files, archived.
fn ours(folder: &Path) -> (PathBuf, PathBuf) {
    let tree = folder.join("tree");
    fs::create_dir_all(tree.join("small")).unwrap();
    let mut seed = 1u64;
    let mut noise = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u8::try_from(seed >> 56).unwrap()
    };
    for n in 0..60 {
        fs::write(tree.join(format!("small/{n}")), (0..9000).map(|_| noise()).collect::<Vec<_>>()).unwrap();
    }
    for n in 0..3 {
        let mut file = File::create(tree.join(format!("large{n}"))).unwrap();
        file.write_all(&(0..2_500_000).map(|_| noise()).collect::<Vec<_>>()).unwrap();
    }
    let archive = folder.join("a.tar.gz");
    let (stop, read) = (AtomicBool::new(false), AtomicU64::new(0));
    let root = Root { name: "tree".into(), path: tree.clone(), required: true };
    let exclude = Patterns::default();
    write(&archive, &[root], write::Options { exclude, never: &[], previous: None, threads: 2, stop: &stop, read: &read, mode: 0o600 })
        .unwrap();
    (tree, archive)
}

#[test]
fn without_its_table_of_contents_everything_whole_still_comes_out() {
    let folder = tempfile::tempdir().unwrap();
    let (tree, archive) = ours(folder.path());
    let bytes = fs::read(&archive).unwrap();
    let footer = Archive::open(File::open(&archive).unwrap()).unwrap().footer().clone();
    let toc = usize::try_from(footer.toc_offset).unwrap();

    // Cut off before the table: every file is there.
    fs::write(&archive, &bytes[..toc]).unwrap();
    assert!(matches!(Archive::open(File::open(&archive).unwrap()), Err(Error::Damaged(_))));
    let target = folder.path().join("all");
    let restored = salvage(&File::open(&archive).unwrap(), &target, &Options::default()).unwrap();
    assert_eq!((restored.files, restored.damaged.len(), restored.damage.len()), (63, 0, 0));
    for name in ["small/0", "small/59", "large0", "large2"] {
        assert!(fs::read(tree.join(name)).unwrap() == fs::read(target.join("tree").join(name)).unwrap(), "{name}");
    }

    // Cut off in the last file and damaged in the middle of another: these two are named, the others are there.
    let mut bad = bytes[..toc - 1_000_000].to_vec();
    let middle = bad.len() - 3_000_000;
    bad[middle] ^= 1;
    fs::write(&archive, &bad).unwrap();
    let target = folder.path().join("some");
    let restored = salvage(&File::open(&archive).unwrap(), &target, &Options::default()).unwrap();
    let mut damaged: Vec<_> = restored.damaged.iter().map(|note| note.path.as_str()).collect();
    damaged.sort_unstable();
    assert_eq!((restored.files, damaged), (61, vec!["tree/large1", "tree/large2"]));
    assert!(!restored.damage.is_empty() && !target.join("tree/large1").exists() && !target.join("tree/large2").exists());
    assert!(fs::read(tree.join("large0")).unwrap() == fs::read(target.join("tree/large0")).unwrap());

    fs::write(&archive, vec![0; 100_000]).unwrap();
    let nothing = salvage(&File::open(&archive).unwrap(), &folder.path().join("none"), &Options::default());
    assert!(matches!(nothing, Err(Error::Damaged(_))) && !folder.path().join("none").exists());
}
