//! Kills at any point and full disks: what was there before stays what it was, and what is half never passes for an archive. `write`
//! writes to the path it is given; that it gets its final name only when it is whole is the caller's part, done here as it does it.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use echopilot_archive::{Archive, verify};

use crate::{
    child::create,
    memory::{faithful, open, scratch, write, write_with},
    tree::{Fill, content, difference, look},
};

fn is_whole(path: &Path) -> bool {
    let verified = fs::File::open(path).ok().and_then(|file| Archive::open(file).ok()?.verify(&verify::Options::default()).ok());
    verified.is_some_and(|report| report.is_whole())
}

fn source(folder: &Path) -> PathBuf {
    let source = folder.join("source");
    fs::create_dir(&source).unwrap();
    for n in 0..40 {
        fs::write(source.join(format!("small-{n}")), content(Fill::Noise, n, 9_000)).unwrap();
    }
    fs::write(source.join("large"), content(Fill::Noise, 7, 5 << 20)).unwrap();
    source
}

#[test]
fn two_hundred_kills_leave_the_archive_before_as_it_was_and_nothing_half_that_passes_for_whole() {
    let folder = scratch();
    let source = source(folder.path());
    let (before, new, last) = (folder.path().join("before"), folder.path().join("new.tmp"), folder.path().join("final"));
    write(&before, &source, None, 2);
    let kept = fs::read(&before).unwrap();
    fs::File::options()
        .append(true)
        .open(source.join("large"))
        .and_then(|mut f| std::io::Write::write_all(&mut f, &vec![1; 700_000]))
        .unwrap();
    let started = Instant::now();
    assert!(create(None, &new, &source, Some(&before)).status().unwrap().success());
    let usual = started.elapsed();
    let whole = fs::read(&new).unwrap();
    fs::remove_file(&new).unwrap();
    let (mut killed, mut begun) = (0, 0);
    for n in 0..200u32 {
        let mut child = create(None, &new, &source, Some(&before)).stderr(Stdio::null()).spawn().unwrap();
        // From its beginning to its end in even steps; some of each half millisecond in which it writes.
        let at = Instant::now() + usual * (n % 100) / 100 + Duration::from_micros(u64::from(n) * 3);
        while Instant::now() < at {
            std::hint::spin_loop();
        }
        let ended = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        child.wait().unwrap();
        killed += u32::from(!ended);
        begun += u32::from(!ended && fs::metadata(&new).is_ok_and(|meta| meta.len() > 0));
        // The caller's part: only what is whole gets the final name; what is not is swept.
        if is_whole(&new) {
            assert!(fs::read(&new).unwrap() == whole, "kill {n}: whole, but another archive");
            fs::rename(&new, &last).unwrap();
        } else {
            let _ = fs::remove_file(&new); // it may not have been made
        }
        assert!(!last.exists() || fs::read(&last).unwrap() == whole);
        assert!(fs::read(&before).unwrap() == kept, "kill {n}: the archive before was touched");
        let _ = fs::remove_file(&last); // it may not have been made
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "kill {n}: litter: {names:?}");
    }
    assert!(killed > 100, "only {killed} were killed before they ended");
    assert!(begun > 5, "only {begun} were killed while they wrote");
}

/// Something mounted for a test; unmounted and, if it has one, its loop device freed when dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status(); // a loop device that mount made goes with it
    }
}

/// Runs a command that needs root. If it fails the test fails, unless ECHOPILOT_TEST_NO_MOUNT says that this machine cannot do it:
/// a check that silently does not run is no check.
fn as_root(words: &[&str]) -> bool {
    let output = Command::new(words[0]).args(&words[1..]).output();
    let why = match output {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    assert!(
        std::env::var_os("ECHOPILOT_TEST_NO_MOUNT").is_some(),
        "{words:?} failed: {why}\nThis test needs root, loop devices and xfsprogs. Set ECHOPILOT_TEST_NO_MOUNT=1 to do without it."
    );
    eprintln!("NOT TESTED, because ECHOPILOT_TEST_NO_MOUNT is set: {words:?} failed: {why}");
    false
}

fn mount(words: &[&str], at: &Path) -> Option<Mounted> {
    fs::create_dir(at).unwrap();
    let all = [&["mount"], words, &[at.to_str().unwrap()]].concat();
    as_root(&all).then(|| Mounted(at.to_owned()))
}

#[test]
fn a_disk_that_is_full_is_an_error_that_says_so_and_the_archive_before_stays() {
    let folder = scratch();
    let source = source(folder.path());
    let disk = folder.path().join("disk");
    let Some(_mounted) = mount(&["-t", "tmpfs", "-o", "size=9m", "tmpfs"], &disk) else { return };
    let before = disk.join("before");
    write(&before, &source, None, 2);
    let kept = fs::read(&before).unwrap();
    fs::write(source.join("more"), content(Fill::Noise, 99, 6 << 20)).unwrap();
    let previous = || Some(echopilot_archive::previous::Previous { path: before.clone(), toc_sha256: None });
    let error = write_with(&disk.join("new"), &source, previous(), 2).unwrap_err();
    assert!(error.to_string().contains("cannot write") && error.to_string().contains("No space left"), "{error}");
    assert!(!is_whole(&disk.join("new")));
    assert!(fs::read(&before).unwrap() == kept && is_whole(&before));
    // A restore on a full disk leaves nothing either.
    fs::remove_file(disk.join("new")).unwrap();
    let error = echopilot_archive::restore::restore(&open(&before), &disk.join("restored"), &faithful()).unwrap_err();
    assert!(error.to_string().contains("No space left"), "{error}");
    let names: Vec<_> = fs::read_dir(&disk).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["before"]);
}

#[test]
fn a_disk_that_cannot_be_read_any_more_is_a_problem_by_name() {
    // A file system whose last part is gone: reading there is an input/output error.
    let folder = scratch();
    let (image, disk) = (folder.path().join("image"), folder.path().join("disk"));
    fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    if !as_root(&["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", image.to_str().unwrap()]) {
        return;
    }
    let Some(mounted) = mount(&["-o", "loop", image.to_str().unwrap()], &disk) else { return };
    fs::write(disk.join("fine"), "fine").unwrap();
    let wanted = content(Fill::Noise, 3, 44 << 20);
    fs::write(disk.join("large"), &wanted).unwrap();
    drop(mounted);
    fs::remove_dir(&disk).unwrap();
    fs::File::options().write(true).open(&image).unwrap().set_len(36 << 20).unwrap();
    fs::create_dir(folder.path().join("unused")).unwrap();
    // The loop device keeps the size it had: it was set when the image was whole.
    fs::File::options().write(true).open(&image).unwrap().set_len(64 << 20).unwrap();
    let Some(_mounted) = mount(&["-o", "loop,ro", image.to_str().unwrap()], &disk) else { return };
    fs::File::options().write(true).open(&image).unwrap().set_len(36 << 20).unwrap();
    let mut all = Vec::new();
    let unreadable = fs::File::open(disk.join("large")).unwrap().read_to_end(&mut all).is_err();
    assert!(unreadable, "this kernel reads zeros beyond the end of an image");
    let target = folder.path().join("archive");
    let written = write_with(&target, &disk, None, 2).unwrap();
    let notes: Vec<String> = written.problems.iter().map(|note| format!("{}: {}", note.path, note.what)).collect();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].starts_with("data/large: cannot be read from byte ") && notes[0].ends_with("zeros stand there"), "{notes:?}");
    assert!(is_whole(&target));
    let mut out = Vec::new();
    open(&target).cat("data/large", &mut out).unwrap();
    assert!(out.len() == wanted.len() && out[..20 << 20] == wanted[..20 << 20]);
}

#[test]
fn where_the_file_system_shares_blocks_the_next_archive_takes_little_of_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (image, disk) = (folder.path().join("image"), folder.path().join("disk"));
    fs::File::create(&image).unwrap().set_len(1 << 30).unwrap();
    if !as_root(&["mkfs.xfs", "-q", "-m", "reflink=1", image.to_str().unwrap()]) {
        return;
    }
    let Some(_mounted) = mount(&["-o", "loop", image.to_str().unwrap()], &disk) else { return };
    let source = folder.path().join("source");
    fs::create_dir(&source).unwrap();
    for n in 0..4u64 {
        fs::write(source.join(format!("log-{n}")), content(Fill::Noise, n + 1, (8 << 20) + 12_345)).unwrap();
    }
    for n in 0..300 {
        fs::write(source.join(format!("small-{n}")), content(Fill::Noise, n, 3_000)).unwrap();
    }
    let used = || {
        assert!(Command::new("sync").arg("-f").arg(&disk).status().unwrap().success());
        let stat = rustix::fs::statvfs(&disk).unwrap();
        (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    };
    write(&disk.join("1"), &source, None, 2);
    write(&folder.path().join("1"), &source, None, 2);
    for n in 0..4 {
        let mut log = fs::File::options().append(true).open(source.join(format!("log-{n}"))).unwrap();
        std::io::Write::write_all(&mut log, &content(Fill::Noise, 77 + n, 85_000)).unwrap();
    }
    let before = used();
    let shared = write(&disk.join("2"), &source, Some(&disk.join("1")), 2);
    let grew = used() - before;
    let plain = write(&folder.path().join("2"), &source, Some(&folder.path().join("1")), 2);
    assert!(fs::read(disk.join("2")).unwrap() == fs::read(folder.path().join("2")).unwrap(), "the bytes do not depend on the file system");
    assert_eq!((shared.sha256, shared.reused_bytes), (plain.sha256, plain.reused_bytes));
    assert!(shared.shared_bytes * 10 > shared.reused_bytes * 9, "{} of {} are shared", shared.shared_bytes, shared.reused_bytes);
    assert!(grew * 100 < shared.size_bytes * 15, "an archive of {} bytes took {grew} of the disk", shared.size_bytes);
    let archive = open(&disk.join("2"));
    assert!(archive.verify(&verify::Options::default()).unwrap().is_whole());
    echopilot_archive::restore::restore(&archive, &folder.path().join("restored"), &faithful()).unwrap();
    assert_eq!(difference(&look(&source), &look(&folder.path().join("restored/data"))), None);
}
