//! What a restore does with what is there already, with a part of an archive, and with a target that somebody prepared.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use echopilot_archive::{
    Archive, Error, ReadAt,
    entry::Type,
    restore::{Conflict, Options, restore, selected},
};

use crate::{
    hostile::{file, forge, other},
    memory::{Bytes, faithful, open, restore_bytes, scratch, write},
    tree::{Fill, content, difference, look},
};

fn archive() -> Vec<u8> {
    forge(vec![
        other("logs", Type::Dir, ""),
        file("logs/a"),
        file("logs/b"),
        other("logs/deep", Type::Dir, ""),
        file("logs/deep/c"),
        other("logs/hard", Type::Link, "logs/a"),
        other("logs/soft", Type::Symlink, "a"),
    ])
    .finish()
}

fn with(conflict: Conflict) -> Options<'static> {
    Options { conflict, ..Options::default() }
}

#[test]
fn a_target_that_is_not_empty_is_in_the_way_and_an_empty_one_is_not() {
    let folder = scratch();
    let target = folder.path().join("t");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("mine"), "mine").unwrap();
    let error = restore_bytes(archive(), &target, &with(Conflict::Refuse)).unwrap_err();
    assert!(matches!(&error, Error::InTheWay(text) if text.contains("is not empty")), "{error}");
    assert_eq!(fs::read(target.join("mine")).unwrap(), b"mine");
    fs::remove_file(target.join("mine")).unwrap();
    restore_bytes(archive(), &target, &with(Conflict::Refuse)).unwrap();
    assert_eq!(fs::read(target.join("logs/hard")).unwrap(), b"content of logs/a");
}

#[test]
fn a_target_that_is_a_file_or_a_link_is_in_the_way_and_leaves_no_litter() {
    let folder = scratch();
    let target = folder.path().join("t");
    let elsewhere = folder.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(&target, "mine").unwrap();
    let error = restore_bytes(archive(), &target, &with(Conflict::Refuse)).unwrap_err();
    assert!(matches!(&error, Error::InTheWay(text) if text.contains("is no folder")), "{error}");
    fs::remove_file(&target).unwrap();
    symlink(&elsewhere, &target).unwrap();
    restore_bytes(archive(), &target, &with(Conflict::Refuse)).unwrap_err();
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn what_is_there_is_kept_or_replaced_as_asked() {
    for conflict in [Conflict::Skip, Conflict::Overwrite] {
        let folder = scratch();
        let target = folder.path().join("t");
        fs::create_dir_all(target.join("logs")).unwrap();
        fs::write(target.join("logs/b"), "mine").unwrap();
        fs::write(target.join("logs/soft"), "mine").unwrap();
        fs::write(target.join("logs/mine"), "mine").unwrap();
        let restored = restore_bytes(archive(), &target, &with(conflict)).unwrap();
        let skips = conflict == Conflict::Skip;
        let kept: &[&str] = if skips { &["logs/b", "logs/soft"] } else { &[] };
        assert_eq!(restored.kept, kept);
        assert_eq!(fs::read(target.join("logs/b")).unwrap(), if skips { &b"mine"[..] } else { b"content of logs/b" });
        assert_eq!(target.join("logs/soft").is_symlink(), !skips);
        assert_eq!(fs::read(target.join("logs/mine")).unwrap(), b"mine");
        assert_eq!(fs::read(target.join("logs/deep/c")).unwrap(), b"content of logs/deep/c");
        let (a, hard) = (fs::metadata(target.join("logs/a")).unwrap(), fs::metadata(target.join("logs/hard")).unwrap());
        assert_eq!(a.ino(), hard.ino());
        let names: Vec<_> = fs::read_dir(target.join("logs")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 6, "{names:?}");
    }
}

#[test]
fn an_overwriting_restore_never_writes_into_what_is_there() {
    // A file that is replaced may have another name, which keeps the old content.
    let folder = scratch();
    let target = folder.path().join("t");
    fs::create_dir_all(target.join("logs")).unwrap();
    fs::write(folder.path().join("precious"), "mine").unwrap();
    fs::hard_link(folder.path().join("precious"), target.join("logs/a")).unwrap();
    symlink(folder.path().join("precious"), target.join("logs/b")).unwrap();
    restore_bytes(archive(), &target, &with(Conflict::Overwrite)).unwrap();
    assert_eq!(fs::read(folder.path().join("precious")).unwrap(), b"mine");
    assert_eq!(fs::read(target.join("logs/a")).unwrap(), b"content of logs/a");
    assert!(!target.join("logs/b").is_symlink());
}

#[test]
fn links_that_somebody_planted_on_the_way_are_not_followed() {
    for planted in ["logs", "logs/deep"] {
        for conflict in [Conflict::Skip, Conflict::Overwrite] {
            let folder = scratch();
            let (target, outside) = (folder.path().join("t"), folder.path().join("outside"));
            fs::create_dir(&outside).unwrap();
            fs::create_dir_all(target.join(planted).parent().unwrap()).unwrap();
            symlink(&outside, target.join(planted)).unwrap();
            let error = restore_bytes(archive(), &target, &with(conflict)).unwrap_err();
            assert!(matches!(error, Error::InTheWay(_) | Error::Io { .. }), "{error}");
            // A link in a folder's place is no folder either when only something below it is wanted.
            let only = Options { only: vec![PathBuf::from("logs/deep/c")], ..with(conflict) };
            restore_bytes(archive(), &target, &only).unwrap_err();
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{planted} {conflict:?}");
        }
    }
}

#[test]
fn a_part_is_restored_with_the_folders_it_needs() {
    let folder = scratch();
    let cases: [(&[&str], &[&str]); 5] = [
        (&["logs/deep"], &["logs/deep/c"]),
        (&["logs/b", "logs/deep/c"], &["logs/b", "logs/deep/c"]),
        (&["logs/hard"], &["logs/hard"]),
        (&["logs/hard", "logs/a"], &["logs/a", "logs/hard"]),
        (&["logs/soft"], &["logs/soft"]),
    ];
    for (n, (only, wanted)) in cases.into_iter().enumerate() {
        let target = folder.path().join(n.to_string());
        let only: Vec<PathBuf> = only.iter().map(PathBuf::from).collect();
        let entries = selected(&Archive::open(Bytes(archive())).unwrap(), &only).unwrap();
        assert!(entries.iter().all(|e| only.iter().any(|path| e.is_below(path))));
        restore_bytes(archive(), &target, &Options { only, ..Options::default() }).unwrap();
        let got: Vec<String> =
            look(&target).into_iter().filter(|(_, seen)| seen.kind != "folder").map(|(name, _)| String::from_utf8(name).unwrap()).collect();
        assert_eq!(got, wanted);
        for name in wanted.iter().filter(|name| name.ends_with("hard")) {
            assert_eq!(fs::read(target.join(name)).unwrap(), b"content of logs/a");
        }
    }
    let nothing = Options { only: vec![PathBuf::from("log")], ..Options::default() };
    let error = restore_bytes(archive(), &folder.path().join("none"), &nothing).unwrap_err();
    assert!(matches!(&error, Error::NotFound(text) if text.contains("log")), "{error}");
    assert!(!folder.path().join("none").exists());
}

#[test]
fn links_to_a_file_that_is_not_wanted_share_its_content_among_them() {
    let folder = scratch();
    let bytes = forge(vec![
        other("x", Type::Dir, ""),
        file("x/first"),
        other("y", Type::Dir, ""),
        other("y/two", Type::Link, "x/first"),
        other("y/three", Type::Link, "x/first"),
    ])
    .finish();
    let target = folder.path().join("t");
    let restored = restore_bytes(bytes, &target, &Options { only: vec![PathBuf::from("y")], ..Options::default() }).unwrap();
    assert!(restored.left_out.is_empty(), "{restored:?}");
    let ino = |name: &str| fs::metadata(target.join(name)).unwrap().ino();
    assert_eq!(ino("y/two"), ino("y/three"));
    assert_eq!(fs::read(target.join("y/two")).unwrap(), b"content of x/first");
    assert!(!target.join("x").exists());
}

#[test]
fn bits_that_run_a_program_as_its_owner_come_only_when_asked() {
    let folder = scratch();
    let mut parts = vec![other("d", Type::Dir, ""), file("d/a")];
    parts[0].0.mode = 0o2775;
    parts[1].0.mode = 0o6755;
    let bytes = forge(parts).finish();
    for (setuid, modes) in [(false, (0o775, 0o755)), (true, (0o2775, 0o6755))] {
        let target = folder.path().join(setuid.to_string());
        restore_bytes(bytes.clone(), &target, &Options { setuid, ..Options::default() }).unwrap();
        let mode = |name: &str| fs::metadata(target.join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("d"), mode("d/a")), modes);
    }
}

#[test]
fn an_archived_file_with_the_name_of_a_temporary_one_is_restored_too() {
    // Left by a restore that was killed, and archived since.
    let folder = scratch();
    let digest = blake3::hash(b"content of z").to_hex().to_string();
    let names = [format!(".{}.restore.tmp", &digest[..16]), format!(".{}.0.restore.tmp", &digest[..16])];
    let bytes = forge(vec![file(&names[0]), file(&names[1]), file("z")]).finish();
    restore_bytes(bytes, &folder.path().join("t"), &Options::default()).unwrap();
    for name in names.iter().map(String::as_str).chain(["z"]) {
        assert_eq!(fs::read(folder.path().join("t").join(name)).unwrap(), format!("content of {name}").as_bytes());
    }
}

/// Raises the flag after so many reads.
struct StopsAfter<'a> {
    bytes: Bytes,
    left: AtomicU64,
    stop: &'a AtomicBool,
}

impl ReadAt for StopsAfter<'_> {
    fn size(&self) -> std::io::Result<u64> {
        self.bytes.size()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.stop.store(true, Ordering::Relaxed);
        }
        self.bytes.read_exact_at(buffer, offset)
    }
}

#[test]
fn a_restore_that_is_stopped_anywhere_leaves_nothing_under_the_target() {
    let folder = scratch();
    let bytes = forge((0..30).map(|n| file(&format!("f{n}"))).collect()).finish();
    let mut stopped = 0;
    for left in 1.. {
        let stop = AtomicBool::new(false);
        let source = StopsAfter { bytes: Bytes(bytes.clone()), left: AtomicU64::new(left), stop: &stop };
        let target = folder.path().join("t");
        let options = Options { stop: &stop, threads: 1, ..Options::default() };
        match Archive::open(source).and_then(|archive| restore(&archive, &target, &options)) {
            Err(Error::Stopped) => stopped += 1,
            Err(error) => panic!("{error}"),
            Ok(_) if stop.load(Ordering::Relaxed) => {}
            Ok(_) => break,
        }
        if target.exists() {
            assert_eq!(fs::read_dir(&target).unwrap().count(), 30, "a target that is there is whole");
            fs::remove_dir_all(&target).unwrap();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
    assert!(stopped > 20, "{stopped}");
}

#[test]
fn one_file_is_taken_out_by_reading_few_bytes() {
    struct Counts(fs::File, AtomicU64);
    impl ReadAt for Counts {
        fn size(&self) -> std::io::Result<u64> {
            self.0.size()
        }

        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
            self.1.fetch_add(buffer.len() as u64, Ordering::Relaxed);
            self.0.read_exact_at(buffer, offset)
        }
    }
    let folder = scratch();
    let source = folder.path().join("source");
    fs::create_dir(&source).unwrap();
    let big = content(Fill::Noise, 5, 7_000_000);
    fs::write(source.join("big"), &big).unwrap();
    fs::write(source.join("small"), "here").unwrap();
    fs::hard_link(source.join("small"), source.join("zz")).unwrap();
    symlink("small", source.join("link")).unwrap();
    let path = folder.path().join("archive");
    let written = write(&path, &source, None, 2);
    let archive = Archive::open(Counts(fs::File::open(&path).unwrap(), AtomicU64::new(0))).unwrap();
    for (name, wanted) in [("data/small", &b"here"[..]), ("data/zz", b"here"), ("data/big", &big)] {
        archive.source().1.store(0, Ordering::Relaxed);
        let mut out = Vec::new();
        archive.cat(name, &mut out).unwrap();
        assert!(out == wanted);
        let read = archive.source().1.load(Ordering::Relaxed);
        assert!(name == "data/big" || read < written.size_bytes / 100, "{name}: {read}");
    }
    for (name, why) in [("data/link", "is no file"), ("data", "is no file"), ("data/none", "there is no data/none")] {
        let error = archive.cat(name, &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn a_restored_file_with_holes_takes_no_disk_for_them() {
    let folder = scratch();
    let source = folder.path().join("source");
    fs::create_dir(&source).unwrap();
    let sparse = fs::File::create(source.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    drop(sparse);
    let path = folder.path().join("archive");
    write(&path, &source, None, 2);
    let target = folder.path().join("t");
    restore(&open(&path), &target, &faithful()).unwrap();
    assert_eq!(difference(&look(&source), &look(&target.join("data"))), None);
    assert!(fs::metadata(target.join("data/sparse")).unwrap().blocks() < 2048);
    assert!(fs::metadata(Path::new(&path)).unwrap().len() < 100_000);
}
