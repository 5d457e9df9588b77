//! The second target from outside: a first sync, one that is killed, one that meets a liar, append-only, retention there, and restoring
//! straight from the bucket.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use echopilot_actors::{
    config::{BucketKeys, Config},
    replica::{self, Fetched},
};
use integration_tests::{Bucket, SECRET, Setup, TestDaemon, files_hold, json_file, sha256};
use serde_json::{Value as Json, json};

use crate::{ingest::charge_event, setup};

/// A daemon's directories with the bucket as its second target.
pub(crate) fn with(bucket: &Bucket) -> Setup {
    bucket.settings().into_iter().fold(setup(), |setup, (name, value)| setup.env(name, value))
}

/// Bytes that do not compress, so that the archive has about their size.
fn incompressible(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| next()).collect();
    bytes.truncate(len);
    bytes
}

/// Makes today's archive; answers its logical path.
#[track_caller]
pub(crate) fn back_up(daemon: &TestDaemon) -> String {
    let answer = daemon.post("/api/backup/run", &Json::Null);
    let result = match answer.status {
        202 => daemon.wait_for_run(answer.json()["run_id"].as_str().expect("a run"))["result"].clone(), // a busy machine
        _ => answer.ok(),
    };
    result["archive"].as_str().unwrap_or_else(|| panic!("no archive: {result}")).to_owned()
}

/// Runs the sync and answers its record.
#[track_caller]
pub(crate) fn sync(daemon: &TestDaemon) -> Json {
    daemon.task_result("replica_sync")
}

#[track_caller]
pub(crate) fn check<'a>(audit: &'a Json, name: &str) -> &'a Json {
    audit["checks"]
        .as_array()
        .and_then(|all| all.iter().find(|c| c["check"] == name))
        .unwrap_or_else(|| panic!("no check {name} in {audit}"))
}

fn there(archive: &str) -> String {
    archive.trim_start_matches("backups/").to_owned()
}

/// Changes the database of a daemon that was stopped.
#[track_caller]
pub(crate) fn change(setup: &Setup, sql: &str) {
    let connection = rusqlite::Connection::open(setup.data("echopilot.db")).expect("the database opens");
    connection.execute_batch(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
}

#[test]
fn without_a_second_target_there_is_nothing_to_do_and_nothing_wrong() {
    let daemon = setup().start();
    back_up(&daemon);
    let record = sync(&daemon);
    assert_eq!((&record["ok"], &record["status"], &record["lag_s"]), (&json!(true), &json!("not_configured"), &json!(0)));
    assert_eq!(json_file(&daemon.setup().logs("replica_sync.json"))["status"], "not_configured");
}

#[test]
fn a_first_sync_brings_everything_and_a_second_one_nothing_but_a_checkpoint() {
    let bucket = Bucket::start();
    let daemon = with(&bucket).start();
    daemon.deliver(&charge_event("evt_replica", "ch_replica", 100)).ok();
    daemon.settle();
    let archive = there(&back_up(&daemon));
    daemon.task_result("weekly_audit");
    std::fs::create_dir_all(daemon.setup().backups("payouts")).expect("a folder");
    std::fs::write(daemon.setup().backups("payouts/payout_recon_2026-03-01.json"), "{}\n").expect("a file");
    bucket.faults(&json!([
        {"method": "PUT", "fault": "status", "status": 503, "code": "SlowDown", "times": 2},
        {"method": "PUT", "path": "daily", "fault": "lost_answer", "times": 1},
        {"method": "GET", "path": "daily", "fault": "cut_answer", "times": 1}
    ]));
    let record = sync(&daemon);
    assert_eq!((&record["ok"], &record["status"], &record["lag_s"]), (&json!(true), &json!("ok"), &json!(0)), "{record}");
    let names = bucket.names();
    for wanted in [archive.as_str(), &format!("{archive}.manifest.json"), "payouts/payout_recon_2026-03-01.json"] {
        assert!(names.iter().any(|n| n == wanted), "{wanted} in {names:?}");
        assert_eq!(bucket.object(wanted), std::fs::read(daemon.setup().backups(wanted)).expect("the local file"), "{wanted}");
    }
    for prefix in ["journal/checkpoint_", "audit/audit_", "signing_keys/"] {
        assert!(names.iter().any(|n| n.starts_with(prefix)), "{prefix} in {names:?}");
    }
    assert_eq!(record["moved"]["files"], names.len());
    assert_eq!(record["objects"], names.len());
    // The manifest comes after its archive: it never describes what is not there.
    let puts: Vec<_> = bucket.requests("PUT", "daily", "").iter().filter(|e| e["status"] == 200).map(|e| e["path"].clone()).collect();
    assert!(
        puts[0].as_str().is_some_and(|p| !p.contains("manifest")) && puts[1].as_str().is_some_and(|p| p.contains("manifest")),
        "{puts:?}"
    );
    let before = bucket.requests("PUT", "", "").len();
    let again = sync(&daemon);
    assert_eq!((&again["ok"], &again["moved"]["files"]), (&json!(true), &json!(1)), "{again}");
    assert!(again["verified"][0].as_str().is_some_and(|n| n.starts_with("journal/checkpoint_")), "{again}");
    assert_eq!(bucket.requests("PUT", "", "").len(), before + 1);
    assert!(again["last_success_at"].is_string());
}

#[test]
fn the_buckets_secret_is_in_no_file_and_a_file_that_has_it_is_refused() {
    let bucket = Bucket::start();
    let daemon = with(&bucket).start();
    back_up(&daemon);
    bucket.faults(&json!([{"fault": "status", "status": 403, "code": "AccessDenied"}]));
    let refused = sync(&daemon);
    assert_eq!((&refused["ok"], &refused["status"]), (&json!(false), &json!("failed")));
    assert!(refused["lag_s"].as_i64().is_some_and(|s| s >= 0) && refused["problems"][0]["error"].is_string(), "{refused}");
    let alerts = daemon.get("/api/alerts").ok();
    assert!(alerts.to_string().contains("replica_sync"), "{alerts}");
    bucket.faults(&json!([]));
    assert_eq!(sync(&daemon)["ok"], true);
    let setup = daemon.stop();
    assert_eq!(files_hold(setup.root(), SECRET), Vec::<String>::new());
    std::fs::write(setup.configs("echopilot.toml"), "[replica]\nsecret_access_key = \"x\"\n").expect("a file");
    assert!(setup.start_refused().stderr.contains("AWS_SECRET_ACCESS_KEY"));
    std::fs::remove_file(setup.configs("echopilot.toml")).expect("removed");
    let setup = setup.without("AWS_SECRET_ACCESS_KEY");
    assert!(setup.start_refused().stderr.contains("AWS_SECRET_ACCESS_KEY"));
}

#[test]
fn a_sync_that_was_killed_in_the_middle_of_an_upload_goes_on_after_the_last_whole_part() {
    let bucket = Bucket::start();
    let daemon = with(&bucket).start();
    std::fs::write(daemon.setup().logs("large.bin"), incompressible(18_000_000)).expect("a file");
    let archive = there(&back_up(&daemon));
    bucket.faults(&json!([{"method": "PUT", "path": "daily", "query": "partNumber=3", "fault": "stall"}]));
    daemon.post("/api/tasks/replica_sync/run", &Json::Null);
    bucket.wait_for("the third part to be under way", |e| e["fault"] == "stall");
    let setup = daemon.kill9();
    bucket.faults(&json!([]));
    let row = "SELECT state || ' ' || json_array_length(upload, '$.parts') FROM replica_object WHERE name LIKE 'daily/%.gz'";
    assert_eq!(setup.column(row), ["uploading 2"]);
    let daemon = setup.start();
    let record = sync(&daemon);
    assert_eq!((&record["ok"], &record["lag_s"]), (&json!(true), &json!(0)), "{record}");
    for part in 1..=2 {
        assert_eq!(bucket.requests("PUT", &archive, &format!("partNumber={part}&")).len(), 1, "part {part} is sent once");
    }
    assert_eq!(bucket.requests("POST", &archive, "uploads").len(), 1, "it is one upload");
    assert_eq!(bucket.object(&archive), std::fs::read(daemon.setup().backups(&archive)).expect("the local file"));
}

#[test]
fn an_object_that_comes_back_as_something_else_is_never_called_verified() {
    let bucket = Bucket::start();
    let daemon = with(&bucket).start();
    let archive = there(&back_up(&daemon));
    bucket.faults(&json!([{"method": "GET", "path": archive, "fault": "flip"}]));
    let record = sync(&daemon);
    assert_eq!(record["ok"], false);
    assert_eq!(record["problems"].as_array().map(Vec::len), Some(2), "the archive and its manifest, both of that name: {record}");
    let state = format!("SELECT state FROM replica_object WHERE name = '{archive}'");
    assert_eq!(daemon.setup().column(&state), ["failed"]);
    assert!(record["verified"].as_array().is_some_and(|all| all.iter().all(|n| n != archive.as_str())), "{record}");
    // Told the truth again, it sends it once more and is content.
    bucket.faults(&json!([]));
    let record = sync(&daemon);
    assert_eq!((&record["ok"], &record["lag_s"]), (&json!(true), &json!(0)), "{record}");
    assert_eq!(daemon.setup().column(&state), ["verified"]);
    let sent = bucket.requests("PUT", &archive, "").into_iter().filter(|e| e["path"].as_str().is_some_and(|p| p.ends_with(&archive)));
    assert_eq!(sent.count(), 2);
}

#[test]
fn a_damaged_local_archive_takes_no_whole_ones_place() {
    let bucket = Bucket::start();
    let daemon = with(&bucket).start();
    let archive = there(&back_up(&daemon));
    assert_eq!(sync(&daemon)["ok"], true);
    let good = bucket.object(&archive);
    // The object is lost there, and the file is damaged here.
    let setup = daemon.stop();
    change(&setup, "UPDATE replica_object SET state = 'failed' WHERE name LIKE 'daily/%.gz'");
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    std::fs::write(setup.backups(&archive), bad).expect("the damage");
    let daemon = setup.start();
    let record = sync(&daemon);
    assert_eq!(record["ok"], false, "{record}");
    assert!(record["problems"].to_string().contains("damaged"), "{record}");
    assert_eq!(bucket.object(&archive), good);
}

#[test]
fn an_append_only_target_sees_nothing_removed_and_nothing_replaced() {
    let bucket = Bucket::start();
    let policy = [
        ("KEEP_LAST", "1"),
        ("KEEP_WITHIN_DAYS", "0"),
        ("KEEP_DAILY", "0"),
        ("KEEP_WEEKLY", "0"),
        ("KEEP_MONTHLY", "0"),
        ("KEEP_YEARLY", "0"),
    ];
    let setup = policy.into_iter().fold(with(&bucket), |s, (name, value)| s.env(&format!("ECHOPILOT__RETENTION__{name}"), value));
    let daemon = setup.env("ECHOPILOT__REPLICA__APPEND_ONLY", "true").start();
    let archive = there(&back_up(&daemon));
    assert_eq!(sync(&daemon)["ok"], true);
    let first = bucket.object(&archive);
    // The archive of the same day again, with other content.
    std::fs::write(daemon.setup().logs("more.bin"), incompressible(6_000_000)).expect("a file");
    assert_eq!(there(&back_up(&daemon)), archive);
    let record = sync(&daemon);
    assert_eq!((&record["ok"], &record["lag_s"]), (&json!(true), &json!(0)), "{record}");
    assert_eq!(bucket.object(&archive), first, "the first one stays as it was");
    let second = std::fs::read(daemon.setup().backups(&archive)).expect("the local file");
    let version = format!("{archive}.v-{}", &sha256(&second)[..12]);
    assert_eq!(bucket.object(&version), second);
    // A third sync finds everything as it is.
    assert_eq!(sync(&daemon)["moved"]["files"], 1);
    assert_eq!(bucket.requests("DELETE", "", "").len(), 0);
    let mut created: BTreeMap<String, usize> = BTreeMap::new();
    for entry in bucket.log().iter().filter(|e| e["status"] == 200) {
        let (path, query) = (entry["path"].as_str().unwrap_or_default(), entry["query"].as_str().unwrap_or_default());
        let whole = entry["method"] == "PUT" && !query.contains("partNumber") || entry["method"] == "POST" && query.contains("uploadId");
        *created.entry(path.to_owned()).or_default() += usize::from(whole);
    }
    assert!(created.values().all(|n| *n <= 1), "{created:?}");
    // What is fetched is the last content of the day.
    let fetched = fetch(daemon.setup(), &bucket, &archive).expect("it is there");
    assert_eq!(std::fs::read(&fetched.archive).expect("the file"), second);
}

/// The day of an archive by its name.
fn day(archive: &str) -> NaiveDate {
    archive.trim_start_matches("daily/backup_").get(..10).and_then(|d| d.parse().ok()).expect("a day")
}

/// Fetches an archive as somebody does who has the configuration and the keys and nothing else.
fn fetch(setup: &Setup, bucket: &Bucket, archive: &str) -> echopilot_actors::error::Result<Fetched> {
    let to = setup.root().join("fetched");
    let mut environment: BTreeMap<String, String> = bucket.settings().into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    environment.insert("ECHOPILOT__PATHS__CONFIGS".into(), "no-such-folder".into());
    let config = Config::load(None, &environment)?;
    let keys = BucketKeys::load(&config, &environment)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let stored = replica::stored(&config, keys.as_ref()).await?;
        assert!(stored.iter().any(|s| s.date == day(archive)), "{stored:?}");
        let mut last = (0, 1);
        let fetched = replica::fetch(&config, keys.as_ref(), day(archive), &to, &mut |done, total| last = (done, total)).await?;
        assert_eq!(last.0, last.1, "progress ends at the end");
        Ok(fetched)
    })
}

#[test]
fn an_archive_is_fetched_straight_from_the_bucket_byte_for_byte_and_restores() {
    let bucket = Bucket::start();
    let daemon = with(&bucket).start();
    daemon.deliver(&charge_event("evt_fetch", "ch_fetch", 100)).ok();
    daemon.settle();
    std::fs::write(daemon.setup().logs("large.bin"), incompressible(9_000_000)).expect("a file");
    let archive = there(&back_up(&daemon));
    assert_eq!(sync(&daemon)["ok"], true);
    let setup = daemon.stop();
    let fetched_by = |what: &str| fetch(&setup, &bucket, &archive).map_err(|e| format!("{what}: {e}"));
    bucket.faults(&json!([{"method": "GET", "path": archive, "fault": "flip"}]));
    assert!(fetched_by("a changed bit").expect_err("refused").contains("manifest"));
    assert!(!setup.root().join("fetched").join(archive.trim_start_matches("daily/")).exists());
    bucket.faults(&json!([{"method": "GET", "path": archive, "fault": "cut_answer", "times": 3}]));
    let fetched = fetched_by("cut connections").expect("it goes on");
    assert_eq!(std::fs::read(&fetched.archive).expect("the file"), std::fs::read(setup.backups(&archive)).expect("the local file"));
    let target = setup.root().join("restored");
    setup.cli(&["backup", "restore", &fetched.archive.to_string_lossy(), "--to", &target.to_string_lossy()]).expect(0);
    assert!(target.join("database/echopilot.db").exists());
    // With one command, although nothing is here any more.
    std::fs::remove_dir_all(setup.backups("daily")).expect("the archives are lost");
    let listed: Json = serde_json::from_str(setup.cli(&["--json", "backup", "list", "--replica"]).expect(0)).expect("JSON");
    assert_eq!((&listed["count"], &listed["archives"][0]["name"]), (&json!(1), &json!(archive)));
    setup.cli(&["backup", "verify", "latest", "--from-replica"]).expect(0);
    let target = setup.root().join("straight");
    setup.cli(&["backup", "restore", "latest", "--from-replica", "--ready", "--to", &target.to_string_lossy()]).expect(0);
    assert!(target.join("data/echopilot.db").exists());
    assert!(std::fs::read(target.join("logs/large.bin")).expect("the file") == incompressible(9_000_000));
    let left = integration_tests::names(setup.root());
    assert!(!left.iter().any(|path| path.to_string_lossy().contains(".restore-")), "{left:?}");
    let none = setup.cli(&["backup", "restore", "2020-01-01", "--from-replica", "--to", &target.join("x").to_string_lossy()]);
    assert!(none.code != Some(0) && none.stderr.contains("2020-01-01"), "{}", none.stderr);
}

/// Archives of the days before today's with the same content, as if they had been made and proven.
fn earlier(setup: &Setup, archive: &str, days: i64) -> Vec<String> {
    let path = |name: &str| setup.backups(name);
    let mut made = Vec::new();
    for n in 1..=days {
        let date = day(archive) - chrono::TimeDelta::days(n);
        let name = format!("daily/backup_{date}.tar.gz");
        for ending in ["", ".manifest.json"] {
            std::fs::copy(path(&format!("{archive}{ending}")), path(&format!("{name}{ending}"))).expect("a copy");
        }
        let micros = n * 86_400_000_000;
        let columns = "size_bytes, files, sha256, proof, state, took_ms, content_bytes, reused_bytes, shared_bytes, toc_sha256, encrypted, is_full, problems";
        change(
            setup,
            &format!(
                "INSERT INTO backup (date, run_id, archive, made_at, {columns})
                 SELECT '{date}', run_id || '_{n}', 'backups/{name}', made_at - {micros}, {columns} FROM backup WHERE date = '{}'",
                day(archive)
            ),
        );
        made.push(name);
    }
    made
}

#[test]
fn retention_there_follows_the_policy_and_spares_what_is_still_here() {
    let bucket = Bucket::start();
    let policy = [
        ("KEEP_LAST", "2"),
        ("KEEP_WITHIN_DAYS", "0"),
        ("KEEP_DAILY", "0"),
        ("KEEP_WEEKLY", "0"),
        ("KEEP_MONTHLY", "0"),
        ("KEEP_YEARLY", "0"),
    ];
    let setup = policy.into_iter().fold(with(&bucket), |s, (name, value)| s.env(&format!("ECHOPILOT__RETENTION__{name}"), value));
    let daemon = setup.start();
    let archive = there(&back_up(&daemon));
    let setup = daemon.stop();
    let older = earlier(&setup, &archive, 5);
    let daemon = setup.start();
    let record = sync(&daemon);
    assert_eq!((&record["ok"], record["removed"].as_array().map(Vec::len)), (&json!(true), Some(0)), "{record}");
    let setup = daemon.stop();
    // Retention here removes the three oldest; one more vanished without a trace and is nobody's decision.
    for name in &older[2..] {
        std::fs::remove_file(setup.backups(name)).expect("removed");
        std::fs::remove_file(setup.backups(&format!("{name}.manifest.json"))).expect("removed");
        change(&setup, &format!("UPDATE backup SET gone_at = made_at, gone_why = 'retention' WHERE archive = 'backups/{name}'"));
    }
    let daemon = setup.start();
    let record = sync(&daemon);
    let mut removed: Vec<_> = record["removed"].as_array().into_iter().flatten().filter_map(|r| r["name"].as_str()).collect();
    removed.sort_unstable();
    let mut expected: Vec<String> = older[2..].iter().flat_map(|n| [n.clone(), format!("{n}.manifest.json")]).collect();
    expected.sort();
    assert_eq!(removed, expected, "{record}");
    let left: Vec<_> = bucket.names().into_iter().filter(|n| n.starts_with("daily/") && !n.contains("manifest")).collect();
    let mut kept = vec![older[1].clone(), older[0].clone(), archive.clone()];
    kept.sort();
    assert_eq!(left, kept);
    // The days that retention removed are no gaps, and an older archive restores.
    let audit = daemon.task_result("weekly_audit");
    for name in ["no_day_without_archive", "archives_intact", "sampled_restore", "second_target", "journal_checkpoint", "configuration"] {
        assert_eq!(check(&audit, name)["ok"], true, "{}", check(&audit, name));
    }
    assert!(check(&audit, "sampled_restore")["evidence"]["compared"].as_i64().is_some_and(|n| n > 0), "{audit}");
}
