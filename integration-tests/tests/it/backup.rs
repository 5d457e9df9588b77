//! Archives from outside: what the command line and the HTTP interface say of them. What happens when something fails is in
//! `backup_faults.rs`, encryption in `encryption.rs`, the drill in `restore.rs`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use integration_tests::{LONG, SHORT, Setup, TestDaemon, names, sha256, tree, until};
use serde_json::{Value as Json, json};

use crate::{
    contract::{key, typed},
    setup,
};

/// The result of a backup that must succeed.
#[track_caller]
pub(crate) fn back_up(daemon: &TestDaemon) -> Json {
    daemon.task_result("daily_backup")
}

pub(crate) fn path(setup: &Setup, record: &Json) -> PathBuf {
    setup.root().join(record["archive"].as_str().unwrap_or_else(|| panic!("an archive in {record}")))
}

pub(crate) fn date(record: &Json) -> String {
    let name = record["archive"].as_str().and_then(|a| a.rsplit('/').next()).unwrap_or_default();
    name.trim_start_matches("backup_").chars().take(10).collect()
}

pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Makes the archives of the last `days` days, oldest first, by making up for their slots.
pub(crate) fn past(daemon: &TestDaemon, days: i64) -> Vec<String> {
    let day = |ago: i64| {
        let at = integration_tests::now_unix() - ago * 86_400;
        chrono::DateTime::from_timestamp(at, 0).expect("a time").date_naive().to_string()
    };
    let body = json!({"from": format!("{}T00:00:00Z", day(days)), "to": format!("{}T23:59:59Z", day(1))});
    let queued = daemon.post("/api/tasks/daily_backup/backfill", &body).ok();
    assert_eq!(queued["queued"], days, "{queued}");
    until("the archives of the past", LONG, || {
        let runs = daemon.get("/api/tasks/daily_backup/runs?limit=100").ok();
        let runs = runs["runs"].as_array().expect("a list").clone();
        assert!(!runs.iter().any(|r| r["state"] == "failed"), "{runs:?}");
        (runs.iter().filter(|r| r["state"] == "succeeded" && r["trigger"] == "backfill").count() == usize::try_from(days).ok()?)
            .then_some(())
    });
    (1..=days).rev().map(day).collect()
}

pub(crate) fn firing(daemon: &TestDaemon, name: &str) -> Option<Json> {
    let alerts = daemon.get("/api/alerts?limit=100").ok();
    alerts["alerts"].as_array()?.iter().find(|a| a["name"] == name && a["state"] == "firing").cloned()
}

/// Files that no backup may leave behind.
pub(crate) fn litter(setup: &Setup) -> Vec<PathBuf> {
    let is_litter = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with(".work-") || name.starts_with(".restore-") || path.extension().is_some_and(|e| e == "tmp" || e == "new")
    };
    names(&setup.backups("")).into_iter().chain(names(&setup.data(""))).filter(is_litter).collect()
}

/// Every archive and manifest with its bytes.
pub(crate) fn archives(setup: &Setup) -> BTreeMap<String, Vec<u8>> {
    let mut all = tree(&setup.backups("daily"));
    all.retain(|name, _| name.starts_with("backup_"));
    all
}

/// A set-up that also archives a folder of files; answers the folder.
pub(crate) fn with_shop(setup: Setup) -> (Setup, PathBuf) {
    let shop = setup.root().join("shop");
    std::fs::create_dir_all(shop.join("pictures")).expect("a folder");
    std::fs::write(shop.join("a b\u{e9}.bin"), (0..=255).cycle().take(70_000).collect::<Vec<u8>>()).expect("a file");
    std::fs::write(shop.join("pictures/one.txt"), "one\n").expect("a file");
    let include = format!("logs,configs,backups/payouts,database,shop={}", shop.display());
    (setup.env("ECHOPILOT__BACKUP__INCLUDE", include), shop)
}

#[test]
fn the_command_line_looks_into_archives_without_a_daemon() {
    let (setup, shop) = with_shop(setup());
    let preview = setup.cli(&["backup", "run", "--dry-run", "--json"]).json(0);
    assert_eq!(
        (&preview["ok"], &preview["dry_run"], &preview["builds_on"], &preview["enough_room"]),
        (&json!(true), &json!(true), &Json::Null, &json!(true))
    );
    let root = preview["roots"].as_array().expect("roots").iter().find(|r| r["name"] == "shop").expect("the shop").clone();
    assert_eq!((&root["files"], &root["bytes"]), (&json!(2), &json!(70_004)), "{preview}");
    assert!(archives(&setup).is_empty(), "a dry run writes nothing");
    setup.cli(&["backup", "run", "--dry-run"]).expect(0);

    setup.cli(&["backup", "run"]).expect(0);
    let listed = setup.cli(&["backup", "list", "--json"]).json(0);
    let row = &listed["backups"][0];
    assert_eq!(
        (&row["state"], &row["encrypted"], &row["full"], &row["present"]),
        (&json!("ok"), &json!(false), &json!(true), &json!(true)),
        "{row}"
    );
    assert!(row["proof"]["restore_ms"].is_u64() && row["took_ms"].is_u64() && row["reused_ratio"] == 0.0, "{row}");
    assert_eq!(listed["last_proof"]["date"], row["date"], "{listed}");
    assert!(setup.cli(&["backup", "list"]).expect(0).contains("RESTORES IN"));

    let verified = setup.cli(&["backup", "verify", "latest", "--json"]).json(0);
    assert_eq!((&verified["ok"], &verified["manifest"], &verified["problem"]), (&json!(true), &json!("signed"), &Json::Null), "{verified}");
    let sample = setup.cli(&["backup", "verify", "latest", "--sample", "20%", "--seed", "7", "--json"]).json(0);
    assert_eq!(sample["ok"], true);
    let again = setup.cli(&["backup", "verify", "latest", "--sample", "20%", "--seed", "7", "--json"]).json(0);
    assert_eq!(sample["members_read"], again["members_read"], "the same seed, the same sample");

    let all = setup.cli(&["backup", "files", "latest", "--json"]).json(0);
    let has = |answer: &Json, name: &str| answer["entries"].as_array().expect("entries").iter().any(|e| e["path"] == name);
    assert!(has(&all, "database/echopilot.db") && has(&all, "shop/pictures/one.txt"), "{all}");
    let some = setup.cli(&["backup", "files", "latest", "shop", "--json"]).json(0);
    assert!(has(&some, "shop/a b\u{e9}.bin") && !has(&some, "database/echopilot.db"), "{some}");
    setup.cli(&["backup", "files", "latest", "nothing"]).expect(66);

    let mut cat = setup.program(&["backup", "cat", "latest", "shop/a b\u{e9}.bin"]);
    let cat = cat.output().expect("it runs");
    assert!(cat.status.success() && cat.stdout == std::fs::read(shop.join("a b\u{e9}.bin")).expect("the file"), "every byte as it was");
    setup.cli(&["backup", "cat", "latest", "shop"]).expect(65);
    setup.cli(&["backup", "cat", "latest", "shop/none"]).expect(66);
    setup.cli(&["backup", "cat", "latest", "../shop/none"]).expect(66);
    setup.cli(&["backup", "verify", "2001-01-01"]).expect(66);
    setup.cli(&["backup", "verify", "no/such.tar.gz"]).expect(66);

    // Elsewhere, without a manifest; beside it, without the key; and with another's manifest.
    let archive = path(&setup, row);
    let copy = setup.root().join("copy.tar.gz");
    std::fs::copy(&archive, &copy).expect("a copy");
    let alone = setup.cli(&["backup", "verify", &text(&copy), "--json"]).json(0);
    assert_eq!(alone["manifest"], "none", "{alone}");
    let public = setup.backups("signing_key.pub");
    std::fs::rename(&public, setup.root().join("aside.pub")).expect("the key's public half");
    let unsigned = setup.cli(&["backup", "verify", "latest", "--json"]).json(0);
    assert_eq!((&unsigned["ok"], &unsigned["manifest"]), (&json!(true), &json!("unsigned")), "{unsigned}");
    std::fs::rename(setup.root().join("aside.pub"), public).expect("it is back");
    let manifest = text(&archive) + ".manifest.json";
    let forged = std::fs::read_to_string(&manifest)
        .expect("a manifest")
        .replace("\"state\":\"ok\"", "\"state\":\"partial\"")
        .replace("\"state\": \"ok\"", "\"state\": \"partial\"");
    std::fs::write(&manifest, forged).expect("a forged manifest");
    let changed = setup.cli(&["backup", "verify", "latest", "--json"]).json(65);
    assert_eq!((&changed["ok"], &changed["manifest"]), (&json!(false), &json!("differs")), "{changed}");
}

#[test]
fn two_days_are_compared_and_an_archive_that_nobody_knows_is_listed() {
    let (setup, shop) = with_shop(setup());
    let daemon = setup.start();
    let yesterday = past(&daemon, 1).remove(0);
    let second = integration_tests::now_unix();
    until("a later second", SHORT, || (integration_tests::now_unix() > second).then_some(()));
    std::fs::write(shop.join("new.txt"), "new\n").expect("a file");
    std::fs::write(shop.join("pictures/one.txt"), "two\n").expect("a file");
    let record = back_up(&daemon);
    let today = date(&record);
    assert!(record["reused_bytes"].as_u64().is_some_and(|n| n > 0), "{record}");
    let found = daemon.get(&format!("/api/backups/{today}/diff?with={yesterday}&limit=1000")).ok();
    let change = |answer: &Json, name: &str| {
        let all = answer["differences"].as_array().expect("a list");
        all.iter().find(|d| d["path"] == name).map(|d| d["change"].clone()).unwrap_or_default()
    };
    assert_eq!((change(&found, "shop/new.txt"), change(&found, "shop/pictures/one.txt")), (json!("added"), json!("changed")), "{found}");
    assert!(found["summary"]["added"].as_u64().is_some_and(|n| n >= 1), "{found}");
    let page = daemon.get(&format!("/api/backups/{today}/diff?with={yesterday}&limit=1")).ok();
    assert!(page["next"].is_string() && page["count"] == 1, "{page}");
    let by_command = daemon.cli(&["backup", "diff", &yesterday, &today, "--json"]).json(0);
    assert_eq!(by_command["summary"], found["summary"]);
    assert!(daemon.cli(&["backup", "diff", &yesterday, "latest"]).expect(0).contains("+ shop/new.txt"));

    // A time finds what was there then; the day before yesterday there was nothing.
    let target = daemon.root().join("then");
    let made_at = daemon.get("/api/backups").ok()["backups"][1]["made_at"].as_str().expect("a time").to_owned();
    let out = text(&target);
    let then = daemon.cli(&["backup", "restore", "--at", &made_at, "--to", &out, "--dry-run", "--json"]).json(0);
    assert!(then["archive"].as_str().is_some_and(|a| a.contains(&yesterday)), "{then}");
    daemon.cli(&["backup", "restore", "--at", "2001-01-01", "--to", &out]).expect(66);

    // The database is lost, the archives are not.
    let setup = daemon.stop();
    for name in ["echopilot.db", "echopilot.db-wal", "echopilot.db-shm"] {
        let _ = std::fs::remove_file(setup.data(name)); // not all are there
    }
    let listed = setup.cli(&["backup", "list", "--json"]).json(0);
    let strangers: Vec<_> = listed["unrecorded"].as_array().expect("a list").iter().map(|b| b["date"].clone()).collect();
    assert_eq!((strangers, &listed["last_proof"]), (vec![json!(today), json!(yesterday)], &Json::Null), "{listed}");
    assert!(setup.cli(&["backup", "list"]).expect(0).contains("unrecorded"));
    let seen = setup.start().get("/api/backups").ok();
    assert_eq!(seen["unrecorded"].as_array().map(Vec::len), Some(2), "{seen}");
}

#[test]
fn the_http_interface_lists_browses_and_hands_out_files() {
    let (setup, shop) = with_shop(setup());
    let daemon = setup.start();
    assert_eq!(daemon.get("/api/backups").ok()["last_proof"], Json::Null);
    let preview = daemon.post("/api/backup/run", &json!({"dry_run": true})).ok();
    assert_eq!((&preview["dry_run"], preview["files"].as_u64().is_some_and(|n| n > 2)), (&json!(true), true), "{preview}");
    let record = back_up(&daemon);
    let day = date(&record);
    let list = daemon.get("/api/backups?reasons=true").ok();
    let row = &list["backups"][0];
    typed(&list, &[("count", "i"), ("total", "i"), ("unrecorded", "a"), ("proof_max_age_s", "i"), ("next", "s0")]);
    let figures = ["size_bytes", "content_bytes", "reused_bytes", "shared_bytes", "took_ms"].map(|figure| (figure, "i"));
    typed(row, &figures);
    typed(row, &[("encrypted", "b"), ("full", "b"), ("present", "b"), ("problems", "a"), ("reused_ratio", "n0"), ("made_at", "s")]);
    let paths = ["files", "file", "diff", "verify"].map(|what| format!("/api/backups/{day}/{what}"));
    for (method, path) in
        [("GET", "/api/backups/proofs"), ("POST", "/api/backups/prune"), ("GET", &paths[0]), ("GET", &paths[1]), ("GET", &paths[2])]
            .into_iter()
            .chain([("POST", paths[3].as_str())])
    {
        daemon.request(method, path, &[], b"").problem(401, "unauthorized");
    }
    for member in [
        "state",
        "took_ms",
        "content_bytes",
        "reused_bytes",
        "reused_ratio",
        "shared_bytes",
        "encrypted",
        "full",
        "problems",
        "proof",
        "retention",
    ] {
        assert!(!row[member].is_null(), "{member}: {row}");
    }
    assert_eq!(row["retention"]["keep"], true, "{row}");
    let proof = &list["last_proof"];
    assert!(proof["age_s"].as_i64().is_some_and(|age| (0..60).contains(&age)) && proof["restore_ms"].is_u64(), "{proof}");
    assert_eq!((&proof["date"], &proof["at"]), (&json!(day), &row["proof"]["at"]), "{proof}");
    assert_eq!(daemon.get("/api/backups").ok()["backups"][0]["retention"], Json::Null, "only on request");
    let proofs = daemon.get("/api/backups/proofs").ok();
    let checks = proofs["proofs"][0]["checks"].as_array().expect("checks");
    assert!(checks.iter().any(|c| c["check"] == "restore" && c["ok"] == true), "{proofs}");

    // A level at a time, a page at a time, and all of it.
    let files = |query: &str| daemon.get(&format!("/api/backups/{day}/files?{query}"));
    let top = files("level=true").ok();
    let names = |answer: &Json| {
        answer["entries"].as_array().expect("entries").iter().map(|e| e["name"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert!(names(&top).contains(&"shop".to_owned()) && names(&top).contains(&"database".to_owned()), "{top}");
    let folder = top["entries"].as_array().expect("entries").iter().find(|e| e["name"] == "shop").expect("the shop");
    assert_eq!((&folder["type"], &folder["files"], &folder["size"]), (&json!("dir"), &json!(2), &json!(70_004)), "{folder}");
    assert_eq!(names(&files("level=true&prefix=shop").ok()), ["a b\u{e9}.bin", "pictures"]);
    let whole = names(&files("limit=1000").ok());
    let (mut paged, mut after) = (Vec::new(), String::new());
    loop {
        let page = files(&format!("limit=3{after}")).ok();
        paged.extend(names(&page));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={}", next.replace(' ', "%20").replace('\u{e9}', "%C3%A9"));
    }
    assert_eq!(paged, whole, "pages are the list");

    // One file, byte by byte, as an attachment.
    let name = "shop/a%20b%C3%A9.bin";
    let taken = daemon.get(&format!("/api/backups/{day}/file?path={name}"));
    let expected = std::fs::read(shop.join("a b\u{e9}.bin")).expect("the file");
    assert_eq!((taken.status, sha256(&taken.body)), (200, sha256(&expected)));
    assert_eq!(taken.header("content-length"), Some("70000"));
    assert_eq!(taken.header("content-type"), Some("application/octet-stream"));
    assert_eq!(taken.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(taken.header("content-disposition"), Some("attachment; filename=\"a_b_.bin\"; filename*=UTF-8''a%20b%C3%A9.bin"));
    let head = daemon.request("HEAD", &format!("/api/backups/{day}/file?path={name}"), &[("x-dash-key", &daemon.key)], b"");
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("70000"), 0));
    let database = daemon.get(&format!("/api/backups/{day}/file?path=database/echopilot.db"));
    assert!(database.body.starts_with(b"SQLite format 3"));

    // What is refused, and by which name.
    for (query, field) in [
        ("", "path"),
        ("path=..%2F..%2Fetc%2Fpasswd", "path"),
        ("path=%2Fetc%2Fpasswd", "path"),
        ("path=logs%2F..%2F..%2Fx", "path"),
        ("path=shop", "path"),
        ("path=x&path=y", "path"),
    ] {
        assert_eq!(daemon.get(&format!("/api/backups/{day}/file?{query}")).problem(422, "invalid")["field"], field, "{query}");
    }
    daemon.get(&format!("/api/backups/{day}/file?path=shop/none")).problem(404, "not_found");
    for (query, field) in
        [("prefix=..", "prefix"), ("prefix=%2F", "prefix"), ("after=..%2Fx", "after"), ("limit=0", "limit"), ("level=yes", "level")]
    {
        assert_eq!(files(query).problem(422, "invalid")["field"], field, "{query}");
    }
    files("prefix=nothing").problem(404, "not_found");
    for bad in ["..", "..%2F..%2Fdata", "2026-1-2", "backup_2026-01-01", "%00"] {
        for (method, what) in [("GET", "files"), ("GET", "file?path=a"), ("POST", "verify"), ("GET", "diff?with=2026-01-01")] {
            let url = format!("/api/backups/{bad}/{what}");
            let answer = if method == "GET" { daemon.get(&url) } else { daemon.post(&url, &Json::Null) };
            assert!(matches!(answer.status, 404 | 422), "{url}: {} {}", answer.status, answer.text());
            assert!(answer.status == 404 || answer.json()["field"] == "date", "{url}: {}", answer.text());
        }
    }
    daemon.get("/api/backups/2001-01-01/files").problem(404, "not_found");
    assert_eq!(daemon.get(&format!("/api/backups/{day}/diff")).problem(422, "invalid")["field"], "with");
    assert_eq!(daemon.get(&format!("/api/backups/{day}/diff?with=..")).problem(422, "invalid")["field"], "with");
    assert_eq!(daemon.get("/api/backups?reasons=maybe").problem(422, "invalid")["field"], "reasons");

    let verified = daemon.post(&format!("/api/backups/{day}/verify"), &json!({"sample_percent": 50, "seed": 3})).ok();
    assert_eq!((&verified["manifest"], &verified["problem"]), (&json!("signed"), &Json::Null), "{verified}");
    for (body, field) in [(json!({"sample_percent": 0}), "sample_percent"), (json!({"seed": -1}), "seed"), (json!({"sample": 5}), "sample")]
    {
        assert_eq!(daemon.post(&format!("/api/backups/{day}/verify"), &body).problem(422, "invalid")["field"], field);
    }
    assert_eq!(daemon.post("/api/backups/prune", &json!({"dry": true})).problem(422, "invalid")["field"], "dry");
    assert_eq!(daemon.post("/api/backup/run", &json!({"dry_run": 1})).problem(422, "invalid")["field"], "dry_run");

    // Who may what.
    let (_, read) = key(&daemon, "read");
    let (_, operate) = key(&daemon, "operate");
    let call = |key: &str, method: &str, path: &str| daemon.send(method, path, key, &Json::Null);
    call(&read, "GET", &format!("/api/backups/{day}/files")).ok();
    call(&read, "GET", "/api/backups/proofs").ok();
    call(&read, "POST", "/api/backups/prune").problem(403, "forbidden");
    call(&read, "POST", &format!("/api/backups/{day}/verify")).problem(403, "forbidden");
    call(&operate, "POST", &format!("/api/backups/{day}/verify")).ok();
    for key in [&read, &operate] {
        call(key, "GET", &format!("/api/backups/{day}/file?path=shop/pictures/one.txt")).problem(403, "forbidden");
    }
}

#[test]
fn old_archives_go_with_their_reasons_and_only_when_it_is_meant() {
    let setup = setup().env("ECHOPILOT__RETENTION__KEEP_LAST", "9").env("ECHOPILOT__RETENTION__KEEP_WITHIN_DAYS", "0");
    let daemon = setup.start();
    let days = past(&daemon, 3);
    let setup = daemon.stop();
    assert_eq!(archives(&setup).len(), 6, "three archives with their manifests");
    // From now on only the last one is wanted.
    let mut setup = setup.env("ECHOPILOT__RETENTION__KEEP_LAST", "1");
    for rule in ["DAILY", "WEEKLY", "MONTHLY", "YEARLY"] {
        setup = setup.env(&format!("ECHOPILOT__RETENTION__KEEP_{rule}"), "0");
    }
    let dry = setup.cli(&["backup", "prune", "--dry-run", "--json"]).json(0);
    assert_eq!((&dry["removed"], &dry["dry_run"]), (&json!(2), &json!(true)), "{dry}");
    assert!(dry["archives"].as_array().expect("a list").iter().all(|a| a["reasons"].as_array().is_some_and(|r| !r.is_empty())), "{dry}");
    assert_eq!(archives(&setup).len(), 6, "nothing went");
    let daemon = setup.start();
    let dry = daemon.post("/api/backups/prune", &json!({"dry_run": true})).ok();
    assert_eq!(dry["removed"], 2);
    let said = daemon.cli(&["backup", "prune"]).expect(0).to_owned();
    assert!(said.contains(&days[0]) && said.contains("removed") && said.contains("stays"), "{said}");
    assert_eq!(archives(daemon.setup()).len(), 2, "the newest stays");
    let left = daemon.get("/api/backups").ok();
    assert_eq!((&left["count"], &left["backups"][0]["date"]), (&json!(1), &json!(days[2])), "{left}");
}

#[test]
fn a_backup_says_how_far_it_is_and_a_second_one_is_refused() {
    let setup = setup();
    let big = setup.root().join("big");
    std::fs::create_dir(&big).expect("a folder");
    for n in 0..24_u8 {
        std::fs::write(big.join(format!("{n}.bin")), noise(n, 1 << 20)).expect("a file");
    }
    let setup = setup.env("ECHOPILOT__BACKUP__INCLUDE", format!("database,big={}", big.display())).env("ECHOPILOT__BACKUP__THREADS", "1");
    let daemon = setup.start();
    let headers = [("x-dash-key", daemon.key.as_str()), ("prefer", "respond-async")];
    let accepted = daemon.request("POST", "/api/backup/run", &headers, b"").expect(202);
    let url = accepted["status_url"].as_str().expect("an address").to_owned();
    let seen = until("the backup to say how far it is", SHORT, || {
        let run = daemon.get(&url).ok();
        assert_eq!(run["state"], "running", "it was quicker than it was looked at: {run}");
        let progress = run["progress"].clone();
        progress["total_bytes"].as_u64().is_some_and(|n| n > 24 << 20).then_some(progress)
    });
    assert!(seen["phase"].is_string() && seen["done_bytes"].as_u64() <= seen["total_bytes"].as_u64(), "{seen}");
    let refused = daemon.post("/api/backup/run", &Json::Null).problem(409, "conflict");
    assert_eq!((&refused["reason"], &refused["run_id"]), (&json!("backup_running"), &accepted["run_id"]), "{refused}");
    daemon.post("/api/backups/prune", &Json::Null).problem(409, "conflict");
    daemon.cli(&["backup", "run"]).expect(75);
    let ended = daemon.wait_for_run(accepted["run_id"].as_str().expect("an id"));
    assert_eq!((&ended["state"], &ended["progress"]), (&json!("succeeded"), &Json::Null), "{ended}");
}

/// Bytes that do not compress.
pub(crate) fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64 ^ u64::from(seed) << 32 | 1;
    let next = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    next.flatten().take(length).collect()
}
