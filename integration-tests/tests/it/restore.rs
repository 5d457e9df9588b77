//! `backup restore`: a whole archive serves again; one that is damaged, cut off or points outside its folder is refused and leaves
//! nothing behind.

use std::path::{Path, PathBuf};

use integration_tests::{Output, Setup, names, tree};
use serde_json::{Value as Json, json};

use crate::{ingest::charge_event, setup};

/// The archive of a daemon that has been stopped.
fn archived() -> (Setup, PathBuf) {
    let daemon = setup().start();
    daemon.deliver(&charge_event("evt_backup", "ch_backup", 100)).ok();
    daemon.settle();
    let record = daemon.post("/api/backup/run", &Json::Null).ok();
    let archive = daemon.root().join(record["archive"].as_str().expect("a path"));
    (daemon.stop(), archive)
}

fn restore(setup: &Setup, archive: &Path, target: &Path) -> Output {
    setup.cli(&["backup", "restore", &archive.to_string_lossy(), "--to", &target.to_string_lossy()])
}

#[track_caller]
fn restore_refused(setup: &Setup, archive: &Path, why: &str) {
    let target = setup.root().join("restored");
    let output = restore(setup, archive, &target);
    // 2 would be a wrong command line and show nothing.
    assert!(output.code.is_some_and(|code| code == 1 || code >= 64), "{why}: {:?} {} {}", output.code, output.stdout, output.stderr);
    assert!(!output.stderr.is_empty() && !output.stderr.contains("panicked"), "{why}: {}", output.stderr);
    let left = names(&target);
    assert!(left.is_empty(), "{why} leaves nothing under the target: {left:?}");
    assert!(!setup.root().join("evil").exists() && !Path::new("/tmp/echopilot-evil").exists(), "{why} wrote outside");
}

#[test]
fn a_whole_archive_is_restored_and_serves_again() {
    let (setup, archive) = archived();
    let target = setup.root().join("restored");
    restore(&setup, &archive, &target).expect(0);
    assert!(target.join("logs/echopilot.ndjson").exists() && target.join("database/echopilot.db").exists());
    // The restored database under a fresh daemon has the event.
    let fresh = self::setup();
    std::fs::create_dir_all(fresh.data("")).expect("the data directory");
    std::fs::copy(target.join("database/echopilot.db"), fresh.data("echopilot.db")).expect("a copy");
    let daemon = fresh.start();
    assert_eq!(daemon.webhook("evt_backup").map(|w| w["status"].clone()), Some(json!("processed")));
}

#[test]
fn a_corrupt_or_truncated_archive_is_refused() {
    let (setup, archive) = archived();
    let whole = std::fs::read(&archive).expect("the archive");
    let copy = setup.root().join("copy.tar.gz");
    for share in [0, 1, 10, 50, 90, 99] {
        std::fs::write(&copy, &whole[..whole.len() * share / 100]).expect("a truncated copy");
        restore_refused(&setup, &copy, &format!("{share} % of an archive"));
    }
    std::fs::write(&copy, &whole[..whole.len() - 1]).expect("a truncated copy");
    restore_refused(&setup, &copy, "an archive without its last byte");
    let target = setup.root().join("whole");
    restore(&setup, &archive, &target).expect(0);
    let contents = tree(&target);
    for share in [0, 5, 20, 30, 45, 60, 75] {
        let mut damaged = whole.clone();
        damaged[whole.len() * share / 100] ^= 0x40;
        std::fs::write(&copy, damaged).expect("a damaged copy");
        restore_refused(&setup, &copy, &format!("a bit changed at {share} %"));
    }
    // At the very end of a compressed stream there are bits that mean nothing: there the contents must be the right ones, or nothing.
    for from_the_end in 1..=20 {
        let mut damaged = whole.clone();
        damaged[whole.len() - from_the_end] ^= 0x40;
        std::fs::write(&copy, damaged).expect("a damaged copy");
        let target = setup.root().join(format!("end-{from_the_end}"));
        let output = restore(&setup, &copy, &target);
        let found = tree(&target);
        assert!(output.code == Some(0) && found == contents || output.code != Some(0) && found.is_empty(), "{from_the_end}: {output:?}");
    }
    // The archive itself, damaged in place beside its manifest.
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(&archive, damaged).expect("the damage");
    restore_refused(&setup, &archive, "the recorded archive with a changed bit");
}

/// An archive that a hostile tool might make: `name` and kind of its one entry are written into the header as they are.
fn hostile(path: &Path, name: &str, kind: tar::EntryType, link: Option<&str>) {
    let file = std::fs::File::create(path).expect("a file");
    let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(file, flate2::Compression::fast()));
    let content: &[u8] = if link.is_some() { b"" } else { b"evil\n" };
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_entry_type(kind);
    {
        let bytes = header.as_mut_bytes();
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        if let Some(link) = link {
            bytes[157..157 + link.len()].copy_from_slice(link.as_bytes());
        }
    }
    header.set_cksum();
    builder.append(&header, content).expect("an entry");
    builder.into_inner().and_then(flate2::write::GzEncoder::finish).expect("an archive");
}

#[test]
fn an_archive_that_points_outside_is_refused() {
    let setup = setup().start().stop();
    let archive = setup.root().join("hostile.tar.gz");
    for name in ["../evil", "logs/../../evil", "/tmp/echopilot-evil", "logs/./../../evil", "logs/../evil"] {
        hostile(&archive, name, tar::EntryType::Regular, None);
        restore_refused(&setup, &archive, name);
    }
    for (kind, link) in [
        (tar::EntryType::Symlink, "/etc/passwd"),
        (tar::EntryType::Symlink, "../../evil"),
        (tar::EntryType::Link, "/etc/passwd"),
        (tar::EntryType::Fifo, ""),
        (tar::EntryType::Char, ""),
    ] {
        hostile(&archive, "logs/link", kind, Some(link));
        restore_refused(&setup, &archive, &format!("{kind:?} to {link}"));
    }
}
