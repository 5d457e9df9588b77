//! Backups when something goes wrong: too little room, a disk that fills up, a kill in the middle, damage in an archive, a proof that fails.
//! The archives that were there are there, nothing is left behind, and somebody is told.

use std::path::{Path, PathBuf};

use integration_tests::{LONG, SHORT, SmallDisk, json_file, names, until};
use serde_json::{Value as Json, json};

use crate::{
    backup::{archives, back_up, date, firing, litter, noise, past, path, text, with_shop},
    ingest::charge_event,
    setup,
};

/// Changes one bit of the archive where that noise stands: it does not compress, so that its own bytes are there.
fn flip(archive: &mut [u8], noise: &[u8]) {
    let needle = &noise[noise.len() / 2..noise.len() / 2 + 64];
    let place = archive.windows(needle.len()).position(|w| w == needle).expect("the noise lies in the archive as it is");
    archive[place] ^= 1;
}

#[test]
fn what_cannot_be_archived_makes_the_backup_partial_and_is_named() {
    let missing = setup();
    let path = missing.root().join("gone");
    let setup = missing.env("ECHOPILOT__BACKUP__INCLUDE", format!("logs,database,shop={}", path.display()));
    let check = setup.cli(&["check", "--json"]).json(1);
    let found = check["checks"].as_array().expect("checks").iter().find(|c| c["name"] == "backup.include").expect("the include").clone();
    assert_eq!(found["state"], "fail", "{found}");
    let preview = setup.cli(&["backup", "run", "--dry-run", "--json"]).json(1);
    assert!(preview["missing"][0].as_str().is_some_and(|m| m.contains("gone")), "{preview}");
    let daemon = setup.start();
    let run = daemon.run_task("daily_backup");
    let record = &run["result"];
    assert_eq!((&run["state"], &record["ok"], &record["state"]), (&json!("succeeded"), &json!(false), &json!("partial")), "{run}");
    assert_eq!(record["partial"][0]["path"], "shop", "{record}");
    let alert = firing(&daemon, "backup_complete").expect("the alert");
    assert!(alert["reason"].as_str().is_some_and(|r| r.contains("shop")), "{alert}");
    let row = daemon.get("/api/backups").ok()["backups"][0].clone();
    assert_eq!((&row["state"], &row["problems"][0]["path"]), (&json!("partial"), &json!("shop")), "{row}");
    assert!(daemon.cli(&["backup", "list"]).expect(0).contains("partial"));
    assert!(daemon.request("GET", "/metrics", &[], b"").text().contains("\nechopilot_backup_last_partial 1\n"));
    std::fs::create_dir(&path).expect("the folder");
    until("the alert to resolve", SHORT, || {
        back_up(&daemon);
        firing(&daemon, "backup_complete").is_none().then_some(())
    });
}

#[test]
fn too_little_room_is_found_before_anything_is_written() {
    let setup = setup().env("ECHOPILOT__BACKUP__RESERVE_MB", "1000000000").env("ECHOPILOT__TASKS__DAILY_BACKUP__RETRIES", "0");
    let check = setup.cli(&["check", "--json"]).json(1);
    assert!(
        check["checks"].as_array().expect("checks").iter().any(|c| c["name"] == "room for a backup" && c["state"] == "fail"),
        "{check}"
    );
    let preview = setup.cli(&["backup", "run", "--dry-run", "--json"]).json(1);
    assert_eq!(preview["enough_room"], false, "{preview}");
    let daemon = setup.start();
    let run = daemon.run_task("daily_backup");
    assert_eq!(run["state"], "failed", "{run}");
    assert!(run["error"].as_str().is_some_and(|e| e.contains("MB") && e.contains("reserve_mb")), "{run}");
    let failed = daemon.post("/api/backup/run", &Json::Null).problem(503, "unavailable");
    assert!(failed["detail"].as_str().is_some_and(|d| d.contains("reserve_mb")), "{failed}");
    let alert = firing(&daemon, "backup_complete").expect("the alert");
    assert!(alert["reason"].as_str().is_some_and(|r| r.contains("no archive was made")), "{alert}");
    assert!(archives(daemon.setup()).is_empty() && litter(daemon.setup()).is_empty(), "nothing is written");
}

#[test]
fn a_disk_that_fills_up_in_the_middle_leaves_the_earlier_archives_as_they_were() {
    let setup = setup()
        .env("ECHOPILOT__BACKUP__RESERVE_MB", "0")
        .env("ECHOPILOT__BACKUP__THREADS", "1")
        .env("ECHOPILOT__TASKS__DAILY_BACKUP__RETRIES", "0");
    let Some(disk) = SmallDisk::mount(&setup.backups(""), 64) else { return };
    let shop = setup.root().join("shop");
    std::fs::create_dir(&shop).expect("a folder");
    let setup = setup.env("ECHOPILOT__BACKUP__INCLUDE", format!("database,shop={}", shop.display()));
    let daemon = setup.start();
    past(&daemon, 1);
    let before = archives(daemon.setup());
    std::fs::write(shop.join("noise.bin"), noise(1, 24 << 20)).expect("a file");
    let headers = [("x-dash-key", daemon.key.as_str()), ("prefer", "respond-async")];
    let run = daemon.request("POST", "/api/backup/run", &headers, b"").expect(202);
    // There was room when it began; somebody else takes it while the archive is written.
    let is_new = |path: &PathBuf| path.ends_with("archive.tar.gz") && path.metadata().is_ok_and(|m| m.len() > 0);
    until("the archive to be begun", SHORT, || names(&daemon.setup().backups("daily")).iter().any(is_new).then_some(()));
    let filler = disk.fill();
    let run = daemon.wait_for_run(run["run_id"].as_str().expect("an id"));
    assert_eq!(run["state"], "failed", "{run}");
    assert!(run["error"].as_str().is_some_and(|e| e.contains("No space left")), "it says why: {run}");
    assert!(firing(&daemon, "backup_complete").is_some(), "and the alert fires");
    assert_eq!(archives(daemon.setup()), before, "the earlier archives are as they were");
    until("no litter", SHORT, || litter(daemon.setup()).is_empty().then_some(()));
    std::fs::remove_file(shop.join("noise.bin")).expect("less to archive");
    drop(filler);
    assert_eq!(back_up(&daemon)["ok"], true, "with room again it works");
    drop(daemon.stop());
    drop(disk);
}

#[test]
fn a_kill_at_any_moment_leaves_whole_archives_and_no_litter() {
    let mut setup = setup().env("ECHOPILOT__TASKS__DAILY_BACKUP__RETRIES", "0");
    let big = setup.root().join("big");
    std::fs::create_dir(&big).expect("a folder");
    for n in 0..6_u8 {
        std::fs::write(big.join(format!("{n}.bin")), noise(n, 1 << 20)).expect("a file");
    }
    setup = setup.env("ECHOPILOT__BACKUP__INCLUDE", format!("logs,database,big={}", big.display())).env("ECHOPILOT__BACKUP__THREADS", "1");
    let daemon = setup.start();
    past(&daemon, 1);
    let yesterdays = archives(daemon.setup());
    assert_eq!(yesterdays.len(), 2);
    let began = std::time::Instant::now();
    back_up(&daemon);
    let usual = began.elapsed();
    let mut setup = daemon.stop();
    for round in 0..10_u32 {
        std::fs::write(big.join("changing.bin"), noise(u8::try_from(100 + round).expect("small"), 1 << 20)).expect("a file");
        let before = archives(&setup);
        let daemon = setup.start();
        let headers = [("x-dash-key", daemon.key.as_str()), ("prefer", "respond-async")];
        let asked = daemon.request("POST", "/api/backup/run", &headers, b"");
        assert!(matches!(asked.status, 202 | 409), "it begins, or the one that was killed goes on: {}", asked.text());
        // Spread over the time a backup usually takes.
        let moment = usual * (round * 2 + 1) / 20;
        let began = std::time::Instant::now();
        until("the moment", LONG, || (began.elapsed() >= moment).then_some(()));
        setup = daemon.kill9();
        let after = archives(&setup);
        for (name, bytes) in &yesterdays {
            assert_eq!(after.get(name), Some(bytes), "round {round}: {name} is untouched");
        }
        // Today's is either the one of before or a new whole one.
        let verified = setup.cli(&["backup", "verify", "latest", "--json"]).json(0);
        assert_eq!(verified["ok"], true, "round {round}: {verified}");
        assert!(
            after.keys().all(|name| before.contains_key(name) || Path::new(name).extension().is_some_and(|e| e == "new")),
            "round {round}: no half file under a final name"
        );
    }
    let daemon = setup.start();
    // What the killed ones left is taken over or ended; then one more.
    until("every run to be accounted for", LONG, || {
        let open = daemon.setup().count("SELECT COUNT(*) FROM task_run WHERE task = 'daily_backup' AND state IN ('pending', 'running')");
        (open == 0).then_some(())
    });
    let record = back_up(&daemon);
    assert_eq!((&record["ok"], &record["proof"]["state"]), (&json!(true), &json!("passed")), "{record}");
    assert!(litter(daemon.setup()).is_empty(), "{:?}", litter(daemon.setup()));
    assert_eq!(archives(daemon.setup()).len(), 4, "two archives with their manifests");
}

#[test]
fn damage_in_the_archive_before_is_told_and_never_passed_on() {
    let (setup, shop) = with_shop(setup());
    std::fs::write(shop.join("large.bin"), noise(5, 2 << 20)).expect("a file");
    let daemon = setup.start();
    let yesterday = past(&daemon, 1).remove(0);
    let setup = daemon.stop();
    let archive = setup.backups(&format!("daily/backup_{yesterday}.tar.gz"));
    let mut bytes = std::fs::read(&archive).expect("the archive");
    flip(&mut bytes, &noise(5, 2 << 20));
    std::fs::write(&archive, bytes).expect("the damage");
    let daemon = setup.start();
    let record = back_up(&daemon);
    assert_eq!((&record["ok"], &record["proof"]["state"]), (&json!(true), &json!("passed")), "what was damaged is made anew: {record}");
    let alert = firing(&daemon, "backup_before").expect("the alert");
    assert!(alert["reason"].as_str().is_some_and(|r| r.contains("damaged")), "{alert}");
    daemon.cli(&["backup", "verify", "latest"]).expect(0);
    let found = daemon.post(&format!("/api/backups/{yesterday}/verify"), &Json::Null).expect(200);
    assert_eq!((&found["ok"], &found["manifest"]), (&json!(false), &json!("differs")), "{found}");
    assert!(found["problem"].as_str().is_some_and(|p| !p.is_empty()), "{found}");
}

#[test]
fn a_changed_bit_is_found_refused_and_what_is_whole_is_got_out() {
    let (setup, shop) = with_shop(setup());
    let daemon = setup.start();
    std::fs::write(shop.join("large.bin"), noise(9, 3 << 20)).expect("a file");
    let record = back_up(&daemon);
    let setup = daemon.stop();
    let archive = path(&setup, &record);
    let mut bytes = std::fs::read(&archive).expect("the archive");
    flip(&mut bytes, &noise(9, 3 << 20));
    std::fs::write(&archive, &bytes).expect("the damage");
    let found = setup.cli(&["backup", "verify", "latest", "--json"]).json(65);
    assert_eq!(found["ok"], false);
    assert!(found["damaged"].to_string().contains("shop/large.bin"), "{found}");
    assert!(setup.cli(&["backup", "verify", "latest"]).expect(65).contains("shop/large.bin"));
    let out = setup.root().join("out");
    setup.cli(&["backup", "restore", "latest", "--to", &text(&out)]).expect(65);
    assert!(!out.exists(), "nothing is restored");
    setup.cli(&["backup", "restore", "latest", "--to", &text(&out), "--dry-run"]).expect(65);
    let saved = setup.cli(&["backup", "restore", "latest", "--to", &text(&out), "--salvage", "--json"]).json(1);
    assert_eq!(saved["ok"], false);
    assert!(saved["damaged"].to_string().contains("shop/large.bin"), "the damaged file is named: {saved}");
    assert!(out.join("database/echopilot.db").exists() && out.join("shop/pictures/one.txt").exists(), "what is whole is there");
    assert!(!out.join("shop/large.bin").exists(), "what is not whole is not");
    // Without its end nothing says what is in it: what can be read is got out all the same.
    std::fs::write(&archive, &bytes[..bytes.len() - 400]).expect("cut off");
    let rescued = setup.root().join("rescued");
    setup.cli(&["backup", "restore", "latest", "--to", &text(&rescued)]).expect(65);
    let saved = setup.cli(&["backup", "restore", "latest", "--to", &text(&rescued), "--salvage", "--json"]);
    assert!(matches!(saved.code, Some(0 | 1)), "{saved:?}");
    assert!(rescued.join("shop/pictures/one.txt").exists(), "{saved:?}");
}

#[test]
fn an_archive_of_the_day_is_replaced_only_by_one_that_was_proven() {
    let setup = setup().env("ECHOPILOT__TASKS__DAILY_BACKUP__RETRIES", "0");
    let daemon = setup.start();
    daemon.deliver(&charge_event("evt_proof", "ch_proof", 100)).ok();
    daemon.settle();
    let first = back_up(&daemon);
    let setup = daemon.stop();
    let before = archives(&setup);
    let database = rusqlite::Connection::open(setup.data("echopilot.db")).expect("it opens");
    database.execute("UPDATE journal SET subject = 'somebody' WHERE seq = 2", []).expect("the journal is tampered with");
    database.close().expect("closed");
    let daemon = setup.start();
    let run = daemon.run_task("daily_backup");
    assert_eq!(run["state"], "failed", "{run}");
    assert!(run["error"].as_str().is_some_and(|e| e.contains("journal") && e.contains(&date(&first))), "{run}");
    let alert = firing(&daemon, "backup_proof").expect("the alert");
    assert!(alert["reason"].as_str().is_some_and(|r| r.contains("journal")), "{alert}");
    assert_eq!(archives(daemon.setup()), before, "the proven archive stays");
    let row = daemon.get("/api/backups").ok()["backups"][0].clone();
    assert_eq!((&row["sha256"], &row["proof"]["state"]), (&first["sha256"], &json!("passed")), "{row}");
    let manifest = json_file(&PathBuf::from(text(&path(daemon.setup(), &first)) + ".manifest.json"));
    assert_eq!(manifest["archive_sha256"], first["sha256"]);
}
