//! Sources that change while they are read. What is in the archive then is either what was there at some moment, or it is named as a
//! problem; the archive itself is always one.

use std::{
    fs,
    io::{Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use echopilot_archive::{
    Error,
    layout::CHUNK,
    pattern::Patterns,
    restore::restore,
    scan::Root,
    verify,
    write::{self, Options, Written},
};

use crate::{
    child::create,
    memory::{faithful, open, root, scratch},
    tree::{Fill, content, look},
};

/// Writes an archive and does `change` when the first file is being read: it is large, and no more than a few of its chunks are read
/// ahead of what one thread compresses, so there is time.
fn write_while(folder: &Path, change: impl FnOnce(&Path) + Send) -> Written {
    let source = folder.join("source");
    let (stop, read) = (AtomicBool::new(false), AtomicU64::new(0));
    let target = folder.join("archive");
    let written = std::thread::scope(|scope| {
        scope.spawn(|| {
            while read.load(Ordering::Relaxed) < CHUNK as u64 {
                std::hint::spin_loop();
            }
            change(&source);
        });
        let options =
            Options { exclude: Patterns::default(), never: &[], previous: None, threads: 1, stop: &stop, read: &read, mode: 0o600 };
        write::write(&target, &root(&source), options).unwrap()
    });
    let archive = open(&target);
    let report = archive.verify(&verify::Options::default()).unwrap();
    assert!(report.is_whole(), "{}", report.sentence());
    restore(&archive, &folder.join("restored"), &faithful()).unwrap();
    written
}

fn source(folder: &Path) -> PathBuf {
    let source = folder.join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("a-first"), content(Fill::Noise, 1, 24 * CHUNK)).unwrap();
    fs::write(source.join("b-second"), content(Fill::Lines, 2, 2 * CHUNK)).unwrap();
    source
}

fn notes(notes: &[echopilot_archive::scan::Note]) -> Vec<String> {
    notes.iter().map(|note| format!("{}: {}", note.path, note.what)).collect()
}

#[test]
fn a_file_that_grows_is_archived_as_it_was_when_it_was_opened() {
    let folder = scratch();
    let before = fs::read(source(folder.path()).join("a-first")).unwrap();
    let written = write_while(folder.path(), |source| {
        fs::File::options().append(true).open(source.join("a-first")).unwrap().write_all(&vec![7; 100_000]).unwrap();
    });
    assert!(written.problems.is_empty(), "{:?}", notes(&written.problems));
    assert!(fs::read(folder.path().join("restored/data/a-first")).unwrap() == before);
}

#[test]
fn a_file_that_is_written_anew_and_grows_is_a_problem() {
    let folder = scratch();
    source(folder.path());
    let written = write_while(folder.path(), |source| {
        let mut file = fs::File::options().write(true).open(source.join("a-first")).unwrap();
        file.write_all(&vec![7; 25 * CHUNK]).unwrap();
    });
    assert_eq!(notes(&written.problems), ["data/a-first: changed while it was read"]);
}

#[test]
fn a_file_that_shrinks_is_a_problem_and_keeps_its_size() {
    let folder = scratch();
    source(folder.path());
    let written = write_while(folder.path(), |source| {
        fs::File::options().write(true).open(source.join("a-first")).unwrap().set_len(20 * CHUNK as u64 + 5).unwrap();
    });
    let problems = notes(&written.problems);
    assert_eq!(problems, [format!("data/a-first: shrank to {} bytes while it was read; zeros stand after that", 20 * CHUNK + 5)]);
    let restored = fs::read(folder.path().join("restored/data/a-first")).unwrap();
    assert_eq!(restored.len(), 24 * CHUNK);
    assert!(restored[20 * CHUNK + 5..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_file_that_is_changed_in_place_is_a_problem() {
    let folder = scratch();
    source(folder.path());
    let written = write_while(folder.path(), |source| {
        let mut file = fs::File::options().write(true).open(source.join("a-first")).unwrap();
        file.seek(SeekFrom::Start(1000)).unwrap();
        file.write_all(b"changed").unwrap();
    });
    assert_eq!(notes(&written.problems), ["data/a-first: changed while it was read"]);
}

#[test]
fn a_file_that_vanishes_is_skipped_and_named_and_one_that_becomes_something_else_is_a_problem() {
    type Change = fn(&Path);
    let cases: [(Change, &[&str], &[&str]); 4] = [
        (|path| fs::remove_file(path).unwrap(), &[], &["data/b-second: vanished before it was read"]),
        (
            |path| {
                fs::remove_file(path).unwrap();
                symlink("/etc/passwd", path).unwrap();
            },
            &["data/b-second: cannot be read: Too many levels of symbolic links (os error 40)"],
            &[],
        ),
        (
            |path| {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
            },
            &["data/b-second: cannot be read: it is no regular file any more"],
            &[],
        ),
        (
            |path| {
                fs::remove_file(path).unwrap();
                assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
            },
            &["data/b-second: cannot be read: it is no regular file any more"],
            &[],
        ),
    ];
    for (change, problems, skipped) in cases {
        let folder = scratch();
        source(folder.path());
        let written = write_while(folder.path(), |source| change(&source.join("b-second")));
        assert_eq!((notes(&written.problems), notes(&written.skipped)), (to_strings(problems), to_strings(skipped)));
        assert!(!folder.path().join("restored/data/b-second").exists());
        assert!(folder.path().join("restored/data/a-first").exists());
    }
}

fn to_strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

#[test]
fn another_name_of_a_file_that_vanished_is_archived_as_the_file() {
    for size in [2 * CHUNK, 300_000] {
        let folder = scratch();
        let source = source(folder.path());
        fs::write(source.join("b-second"), content(Fill::Lines, 4, size)).unwrap();
        fs::hard_link(source.join("b-second"), source.join("c-third")).unwrap();
        fs::hard_link(source.join("b-second"), source.join("d-fourth")).unwrap();
        let written = write_while(folder.path(), |source| fs::remove_file(source.join("b-second")).unwrap());
        assert_eq!(notes(&written.skipped), ["data/b-second: vanished before it was read"]);
        let restored = look(&folder.path().join("restored/data"));
        assert_eq!(restored.keys().collect::<Vec<_>>(), [&b""[..], b"a-first", b"c-third", b"d-fourth"]);
        assert_eq!(restored[&b"d-fourth"[..]].first, b"c-third");
        assert!(fs::read(folder.path().join("restored/data/c-third")).unwrap() == content(Fill::Lines, 4, size));
    }
}

#[test]
fn another_name_of_a_file_that_was_replaced_keeps_the_old_content() {
    // What editors and our own daemon do: write beside it and rename.
    let folder = scratch();
    let source = source(folder.path());
    fs::hard_link(source.join("b-second"), source.join("c-third")).unwrap();
    write_while(folder.path(), |source| {
        fs::write(source.join("new"), b"new").unwrap();
        fs::rename(source.join("new"), source.join("b-second")).unwrap();
    });
    let read = |name: &str| fs::read(folder.path().join("restored/data").join(name)).unwrap();
    assert_eq!(read("b-second"), b"new");
    assert!(read("c-third") == content(Fill::Lines, 2, 2 * CHUNK));
}

/// Raises a flag when it goes, so that no thread outlives a test that fails.
struct Raises<'a>(&'a AtomicBool);

impl Drop for Raises<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn small_files_that_are_rewritten_all_the_time_are_as_they_were_at_one_moment_or_named() {
    // A thread writes the file anew block by block, each time with the next number. At any moment it is some blocks of one number
    // and then blocks of the number before.
    const BLOCKS: usize = 50;
    let folder = scratch();
    let source = folder.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("f"), vec![0; BLOCKS * 4096]).unwrap();
    let stop = AtomicBool::new(false);
    let (mut changed, mut whole) = (0, 0);
    std::thread::scope(|scope| {
        let _stops = Raises(&stop);
        scope.spawn(|| {
            let mut file = fs::File::options().write(true).open(source.join("f")).unwrap();
            for n in 1u32.. {
                file.seek(SeekFrom::Start(0)).unwrap();
                for _ in 0..BLOCKS {
                    file.write_all(&n.to_le_bytes().repeat(1024)).unwrap();
                }
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                std::thread::yield_now();
            }
        });
        for n in 0..100 {
            let target = folder.path().join(format!("archive-{n}"));
            let (stop, read) = (AtomicBool::new(false), AtomicU64::new(0));
            let options =
                Options { exclude: Patterns::default(), never: &[], previous: None, threads: 1, stop: &stop, read: &read, mode: 0o600 };
            let written = write::write(&target, &root(&source), options).unwrap();
            let mut out = Vec::new();
            open(&target).cat("data/f", &mut out).unwrap();
            if !written.problems.is_empty() {
                assert_eq!(notes(&written.problems), ["data/f: changed while it was read"]);
                changed += 1;
                continue;
            }
            let numbers: Vec<u32> = out.chunks(4096).map(|block| u32::from_le_bytes(block[..4].try_into().unwrap())).collect();
            let boundary = numbers.iter().position(|number| *number != numbers[0]).unwrap_or(BLOCKS);
            let one_moment = numbers[boundary..].iter().all(|number| number + 1 == numbers[0]);
            assert!(one_moment, "what was never there passes for whole: {numbers:?}");
            whole += 1;
        }
    });
    assert_eq!(changed + whole, 100);
}

#[test]
fn a_request_to_stop_is_heard_and_named() {
    let folder = scratch();
    let source = source(folder.path());
    let (stop, read) = (AtomicBool::new(false), AtomicU64::new(0));
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            while read.load(Ordering::Relaxed) < CHUNK as u64 {
                std::hint::spin_loop();
            }
            stop.store(true, Ordering::Relaxed);
        });
        let options =
            Options { exclude: Patterns::default(), never: &[], previous: None, threads: 1, stop: &stop, read: &read, mode: 0o600 };
        write::write(&folder.path().join("archive"), &root(&source), options)
    });
    assert!(matches!(result, Err(Error::Stopped)), "{result:?}");
    assert!(read.load(Ordering::Relaxed) < 24 * CHUNK as u64);
}

#[test]
fn roots_within_each_other_make_one_archive_and_names_that_cannot_be_are_refused() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    for name in ["outer/sub/old", "outer/other", "inner/new"] {
        fs::create_dir_all(at(name).parent().unwrap()).unwrap();
        fs::write(at(name), name).unwrap();
    }
    fs::write(at("snapshot"), "db").unwrap();
    symlink(at("snapshot"), at("linked")).unwrap();
    let root = |name: &str, path: &str| Root { name: name.into(), path: at(path), required: true };
    let write = |target: &str, roots: &[Root]| {
        let (stop, read) = (AtomicBool::new(false), AtomicU64::new(0));
        let options =
            Options { exclude: Patterns::default(), never: &[], previous: None, threads: 1, stop: &stop, read: &read, mode: 0o600 };
        write::write(&at(target), roots, options)
    };
    let roots = [root("d", "outer"), root("d/sub", "inner"), root("d/db", "snapshot"), root("e/db", "linked"), root("gone", "gone")];
    let written = write("archive", &roots).unwrap();
    assert_eq!(notes(&written.problems), ["gone: No such file or directory (os error 2)"]);
    assert_eq!(notes(&written.skipped), ["d/sub: another root of the archive has this name"]);
    restore(&open(&at("archive")), &at("restored"), &faithful()).unwrap();
    let names: Vec<_> = look(&at("restored")).into_iter().filter(|(_, seen)| seen.kind == "file").map(|(name, _)| name).collect();
    assert_eq!(names, [&b"d/db"[..], b"d/other", b"d/sub/new", b"e/db"]);
    let bad = [
        (vec![root("a", "outer"), root("a", "inner")], "the same name"),
        (vec![root("../a", "outer")], "leads out"),
        (vec![root("/a", "outer")], "absolute"),
        (vec![root("", "outer")], "empty"),
        (vec![root("a/./b", "outer")], "canonical"),
    ];
    for (roots, why) in bad {
        let error = write("bad", &roots).unwrap_err();
        assert!(matches!(&error, Error::Refused(text) if text.contains(why)), "{error}");
        assert!(!at("bad").exists());
    }
}

#[test]
fn what_may_not_be_read_is_a_problem_by_name() {
    // Nothing stops root, so somebody else reads: the user nobody if we are root, we ourselves if not.
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["source/closed/in", "source/open/in", "source/large", "source/small"] {
        fs::create_dir_all(at(name).parent().unwrap()).unwrap();
        fs::write(at(name), if name.ends_with("large") { vec![1; 300_000] } else { b"x".to_vec() }).unwrap();
    }
    fs::hard_link(at("source/small"), at("source/small-2")).unwrap();
    fs::create_dir(at("out")).unwrap();
    let mode = |name: &str, mode: u32| fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    for (name, bits) in [("source", 0o755), ("source/open", 0o755), ("source/open/in", 0o644), ("out", 0o777), (".", 0o755)] {
        mode(name, bits);
    }
    for name in ["source/closed", "source/large", "source/small"] {
        mode(name, 0);
    }
    let program = {
        let copy = at("program");
        fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        copy
    };
    let mut command = create(Some(&program), &at("out/archive"), &at("source"), None);
    if fs::metadata(folder.path()).unwrap().uid() == 0 {
        std::os::unix::process::CommandExt::uid(&mut command, 65_534);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    for name in ["closed: cannot list the folder", "large: cannot be read", "small: cannot be read", "small-2: cannot be read"] {
        assert!(text.contains(&format!("note: data/{name}: Permission denied")), "{name}: {text}");
    }
    assert_eq!(text.matches("note: ").count(), 4, "{text}");
    assert!(open(&at("out/archive")).verify(&verify::Options::default()).unwrap().is_whole());
    mode("source/closed", 0o700);
}
