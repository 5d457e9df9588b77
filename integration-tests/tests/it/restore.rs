//! `backup restore`: a whole archive serves again; one that is damaged, cut off or points outside its folder is refused and leaves
//! nothing behind.

use std::path::{Path, PathBuf};

use integration_tests::{LONG, Output, Setup, names, tree, until};
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

#[test]
fn some_paths_are_restored_beside_what_is_there_as_it_is_asked() {
    let setup = setup();
    let shop = setup.root().join("shop");
    std::fs::create_dir(&shop).expect("a folder");
    std::fs::write(shop.join("kept.txt"), "archived\n").expect("a file");
    std::os::unix::fs::symlink("/etc/passwd", shop.join("outside")).expect("a link");
    let setup = setup.env("ECHOPILOT__BACKUP__INCLUDE", format!("logs,database,shop={}", shop.display()));
    setup.cli(&["backup", "run"]).expect(0);
    let out = setup.root().join("out");
    let to = out.to_string_lossy().into_owned();
    let restore = |more: &[&str]| setup.cli(&[&["backup", "restore", "latest", "--to", &to], more].concat());

    // The link points out of the archive: it is refused, left out, or made as it was.
    let refused = restore(&[]);
    assert!(refused.code == Some(65) && refused.stderr.contains("shop/outside") && !out.exists(), "{refused:?}");
    restore(&["--dry-run"]).expect(65);
    let skipped = restore(&["--links", "skip", "--json"]).json(0);
    assert!(skipped["left_out"].to_string().contains("shop/outside") && !out.join("shop/outside").exists(), "{skipped}");
    assert!(restore(&["--links", "skip"]).code == Some(73), "the folder is not empty any more");
    std::fs::remove_dir_all(&out).expect("it goes");
    let dry = restore(&["--links", "allow", "--dry-run", "--json"]).json(0);
    assert!(dry["files"].as_u64().is_some_and(|n| n >= 2) && !out.exists(), "a dry run writes nothing: {dry}");
    restore(&["--links", "allow"]).expect(0);
    assert_eq!(std::fs::read_link(out.join("shop/outside")).ok().as_deref(), Some(Path::new("/etc/passwd")));

    // One path; what is there stays or is replaced.
    std::fs::remove_dir_all(&out).expect("it goes");
    let one = restore(&["shop/kept.txt", "--json"]).json(0);
    assert_eq!((one["files"].as_u64(), tree(&out).len()), (Some(1), 1), "{one}");
    std::fs::write(out.join("shop/kept.txt"), "mine\n").expect("a change");
    restore(&["shop/kept.txt"]).expect(73);
    let kept = restore(&["shop/kept.txt", "--conflict", "skip", "--json"]).json(0);
    assert_eq!(kept["kept"], json!(["shop/kept.txt"]), "{kept}");
    assert_eq!(std::fs::read_to_string(out.join("shop/kept.txt")).ok().as_deref(), Some("mine\n"));
    let there = restore(&["shop/kept.txt", "--conflict", "overwrite", "--dry-run", "--json"]).json(0);
    assert_eq!(there["in_the_way"], 1, "{there}");
    restore(&["shop/kept.txt", "--conflict", "overwrite"]).expect(0);
    assert_eq!(std::fs::read_to_string(out.join("shop/kept.txt")).ok().as_deref(), Some("archived\n"));
    restore(&["nothing/here", "--conflict", "skip"]).expect(66);
}

#[test]
fn a_plain_archive_of_before_is_listed_verified_and_restored() {
    let setup = setup().start().stop();
    let folder = setup.root().join("old");
    std::fs::create_dir_all(folder.join("logs")).expect("a folder");
    std::fs::write(folder.join("logs/a.json"), "{}\n").expect("a file");
    std::fs::create_dir_all(setup.backups("daily")).expect("the folder of archives");
    let archive = setup.backups("daily/backup_2024-02-03.tar.gz");
    let mut tar = integration_tests::command("tar");
    tar.arg("czf").arg(&archive).arg("-C").arg(&folder).arg("logs");
    integration_tests::run_to_end(tar, integration_tests::SHORT).expect(0);
    let digest = integration_tests::sha256(&std::fs::read(&archive).expect("the archive"));
    let manifest =
        json!({"schema": 1, "created": "2024-02-03T00:30:00Z", "archive_sha256": digest, "entries": [{"path": "logs/a.json", "size": 3}]});
    std::fs::write(setup.backups("daily/backup_2024-02-03.tar.gz.manifest.json"), manifest.to_string()).expect("a manifest");
    let verified = setup.cli(&["backup", "verify", "2024-02-03", "--json"]).json(0);
    assert_eq!((&verified["ok"], &verified["manifest"], &verified["files"]), (&json!(true), &json!("unsigned"), &json!(1)), "{verified}");
    assert!(setup.cli(&["backup", "files", "2024-02-03"]).expect(0).contains("logs/a.json"));
    assert_eq!(setup.cli(&["backup", "cat", "2024-02-03", "logs/a.json"]).expect(0), "{}\n");
    let target = setup.root().join("restored");
    restore(&setup, Path::new("2024-02-03"), &target).expect(0);
    assert_eq!(std::fs::read_to_string(target.join("logs/a.json")).ok().as_deref(), Some("{}\n"));
    setup.cli(&["backup", "diff", "2024-02-03", "2024-02-03"]).expect(65);
    let daemon = setup.start();
    assert_eq!(daemon.get("/api/backups/2024-02-03/file?path=logs/a.json").text(), "{}\n");
}

/// What docs/restore.md tells an operator to do on a new machine.
#[test]
fn the_drill_a_daemon_starts_from_a_restored_folder() {
    let daemon = setup().start();
    for n in 0..3 {
        daemon.deliver(&charge_event(&format!("evt_drill_{n}"), &format!("ch_drill_{n}"), 100)).ok();
    }
    daemon.settle();
    daemon.task_result("payout_recon");
    daemon.task_result("payment_recon_nightly");
    let record = daemon.task_result("daily_backup");
    assert_eq!(record["ok"], true, "{record}");
    let ledger = daemon.setup().count("SELECT COUNT(*) FROM ledger");
    let recon = std::fs::read(daemon.setup().logs("payout_recon.json")).expect("the reconciliation");
    let setup = daemon.stop();
    // A new machine has the archives and nothing else.
    let fresh = self::setup();
    let target = fresh.root().join("server");
    let archive = setup.root().join(record["archive"].as_str().expect("a path"));
    let (from, to) = (archive.to_string_lossy().into_owned(), target.to_string_lossy().into_owned());
    let restored = fresh.cli(&["backup", "restore", &from, "--to", &to, "--ready", "--json"]).json(0);
    assert_eq!((&restored["ok"], &restored["ready"]), (&json!(true), &json!(true)), "{restored}");
    let database = target.join("data/echopilot.db");
    assert_eq!(integration_tests::modes(&database), 0o600);
    assert_eq!(integration_tests::modes(&target.join("data")), 0o700);
    assert!(!target.join("database").exists() && !target.join("data/echopilot.db-wal").exists());
    assert_eq!(std::fs::read(target.join("logs/payout_recon.json")).ok().as_deref(), Some(&recon[..]));
    assert!(target.join("backups/payouts").is_dir() && target.join("configs").is_dir());
    // Twice is refused: what runs there now is not overwritten.
    fresh.cli(&["backup", "restore", &from, "--to", &to, "--ready"]).expect(73);

    let mut moved = fresh.env("ECHOPILOT__TASKS__DAILY_BACKUP__RETRIES", "0").env("ECHOPILOT__TIMER__LEASE_S", "5");
    for name in ["DATA", "LOGS", "BACKUPS", "CONFIGS"] {
        let folder = target.join(name.to_lowercase()).to_string_lossy().into_owned();
        moved = moved.env(&format!("ECHOPILOT__PATHS__{name}"), folder);
    }
    moved.cli(&["check"]).expect(0);
    moved.cli(&["journal", "verify"]).expect(0);
    let daemon = moved.start();
    for n in 0..3 {
        let event = daemon.webhook(&format!("evt_drill_{n}")).unwrap_or_else(|| panic!("event {n} is there"));
        assert_eq!(event["status"], "processed", "{event}");
    }
    let count = rusqlite::Connection::open(&database).and_then(|c| c.query_row("SELECT COUNT(*) FROM ledger", [], |r| r.get::<_, i64>(0)));
    assert_eq!(count.ok(), Some(ledger));
    // In the restored database the backup that holds it has not ended; it gets its end when the lease of the old machine is over.
    let open = "SELECT COUNT(*) FROM task_run WHERE task = 'daily_backup' AND state IN ('pending', 'running')";
    until("the run of before to have its end", LONG, || {
        let count = rusqlite::Connection::open(&database).and_then(|c| c.query_row(open, [], |r| r.get::<_, i64>(0)));
        (count.ok() == Some(0)).then_some(())
    });
    let first = daemon.task_result("daily_backup");
    assert_eq!((&first["ok"], &first["proof"]["state"]), (&json!(true), &json!("passed")), "{first}");
    let second = daemon.task_result("daily_backup");
    assert!(second["reused_bytes"].as_u64().is_some_and(|n| n > 0), "{second}");
}
