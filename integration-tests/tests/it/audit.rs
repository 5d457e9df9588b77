//! The weekly audit: what is wrong is found by the check that is there for it, with evidence; what is right passes every check.

use integration_tests::{Setup, TestDaemon, json_file};
use serde_json::{Value as Json, json};

use crate::{replica::back_up, setup};

/// A daemon with a directory as its second target, backed up and synced.
fn synced(second: &std::path::Path) -> (TestDaemon, String) {
    let daemon = setup().env("ECHOPILOT__REPLICA__URL", second.to_string_lossy()).start();
    let archive = back_up(&daemon);
    assert_eq!(daemon.task_result("replica_sync")["ok"], true);
    (daemon, archive)
}

#[track_caller]
fn failed(daemon: &TestDaemon) -> Vec<(String, Json)> {
    let audit = daemon.task_result("weekly_audit");
    let checks = audit["checks"].as_array().unwrap_or_else(|| panic!("no checks in {audit}"));
    let failed: Vec<_> = checks.iter().filter(|c| c["ok"] != true).collect();
    assert_eq!(audit["ok"], failed.is_empty());
    failed.into_iter().map(|c| (c["check"].as_str().unwrap_or_default().to_owned(), c["evidence"].clone())).collect()
}

#[track_caller]
fn only(daemon: &TestDaemon, check: &str, evidence: &str) {
    let failed = failed(daemon);
    assert_eq!(failed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), [check], "{failed:?}");
    assert!(failed[0].1.to_string().contains(evidence), "{evidence} in {failed:?}");
}

fn change(setup: &Setup, sql: &str) {
    let connection = rusqlite::Connection::open(setup.data("echopilot.db")).expect("the database opens");
    connection.busy_timeout(std::time::Duration::from_secs(10)).expect("a busy timeout");
    connection.execute_batch(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
}

#[test]
fn all_is_well_on_a_first_day_and_after_a_backup_with_its_copy() {
    let daemon = setup().start();
    assert_eq!(failed(&daemon), []);
    drop(daemon);
    let second = tempfile::tempdir().expect("a directory");
    let (daemon, archive) = synced(second.path());
    assert_eq!(failed(&daemon), []);
    let audit = daemon.task_result("weekly_audit");
    let file = json_file(&daemon.root().join(audit["file"].as_str().expect("a file")));
    let check = |name: &str| {
        file["checks"].as_array().and_then(|all| all.iter().find(|c| c["check"] == name)).unwrap_or(&Json::Null)["evidence"].clone()
    };
    let name = archive.trim_start_matches("backups/daily/");
    assert_eq!((&check("sampled_restore")["archive"], &check("sampled_restore")["database"]), (&json!(name), &json!("intact")));
    assert_eq!(check("proof_age")["age_h"], 0);
    assert!(check("second_target")["objects"].as_i64().is_some_and(|n| n >= 4));
    assert_eq!(check("configuration")["mode"], "sandbox");
}

#[test]
fn damage_is_found_where_it_is() {
    let second = tempfile::tempdir().expect("a directory");
    let (daemon, archive) = synced(second.path());
    let there = second.path().join(archive.trim_start_matches("backups/"));
    let here = daemon.root().join(&archive);
    let whole = std::fs::read(&here).expect("the archive");
    // At the second target: cut short, and gone.
    std::fs::write(&there, &whole[..whole.len() - 1]).expect("the damage");
    only(&daemon, "second_target", "were verified");
    std::fs::remove_file(&there).expect("removed");
    only(&daemon, "second_target", "is gone");
    std::fs::write(&there, &whole).expect("put back");
    assert_eq!(failed(&daemon), []);
    // Here: one bit. It is found by its digest, and it does not restore.
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    std::fs::write(&here, &damaged).expect("the damage");
    let names: Vec<String> = failed(&daemon).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["archives_intact", "sampled_restore"]);
    std::fs::write(&here, &whole).expect("put back");
}

#[test]
fn one_bit_there_is_found_within_four_weeks_and_each_archive_here_is_read_whole_in_that_time() {
    let second = tempfile::tempdir().expect("a directory");
    let (daemon, archive) = synced(second.path());
    let there = second.path().join(archive.trim_start_matches("backups/"));
    let mut damaged = std::fs::read(&there).expect("the copy");
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(&there, damaged).expect("the damage");
    let now = chrono::DateTime::from_timestamp(integration_tests::now_unix(), 0).expect("a time");
    let range = json!({"from": now - chrono::TimeDelta::days(28) + chrono::TimeDelta::seconds(1), "to": now});
    assert_eq!(daemon.post("/api/tasks/weekly_audit/backfill", &range).ok()["queued"], 4);
    let audits = integration_tests::until("four audits", integration_tests::LONG, || {
        let files: Vec<_> = integration_tests::names(&daemon.setup().backups("audit"))
            .into_iter()
            .filter(|p| p.extension().is_some_and(|e| e == "json"))
            .collect();
        (files.len() == 4).then_some(files)
    });
    let audits: Vec<Json> = audits.iter().map(|path| json_file(path)).collect();
    let of = |name: &str| -> Vec<Json> {
        audits.iter().filter_map(|a| a["checks"].as_array().and_then(|all| all.iter().find(|c| c["check"] == name)).cloned()).collect()
    };
    let found: Vec<_> = of("second_target").into_iter().filter(|c| c["ok"] == false).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0]["evidence"].to_string().contains("not the one that was verified"), "{found:?}");
    let read = of("archives_intact").iter().filter(|c| c["evidence"]["read_whole"].as_array().is_some_and(|all| !all.is_empty())).count();
    assert_eq!(read, 1, "in one week of four");
}

#[test]
fn what_is_missing_old_or_wrong_in_the_configuration_is_named() {
    let second = tempfile::tempdir().expect("a directory");
    let (daemon, archive) = synced(second.path());
    let configs = daemon.setup().configs("echopilot.toml");
    std::fs::write(&configs, "[slo]\np95 = 3\n").expect("a file");
    only(&daemon, "configuration", "slo.p95_ms");
    std::fs::write(&configs, "[replica]\nsecret_access_key = \"x\"\n").expect("a file");
    only(&daemon, "configuration", "AWS_SECRET_ACCESS_KEY");
    std::fs::write(&configs, "").expect("a file");
    std::fs::set_permissions(&configs, std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("its mode");
    only(&daemon, "configuration", "0666");
    std::fs::remove_file(&configs).expect("removed");
    change(
        daemon.setup(),
        "UPDATE backup SET proof = json_set(proof, '$.at', '2026-01-01T00:00:00Z'); UPDATE backup_proof SET at = 1767225600000000",
    );
    only(&daemon, "proof_age", "2026-01-01");
    // An archive that is gone and that retention did not remove.
    for path in [archive.clone(), format!("{archive}.manifest.json")] {
        std::fs::remove_file(daemon.root().join(path)).expect("removed");
    }
    let found = failed(&daemon);
    assert_eq!(found[0].0, "archives_intact");
    assert!(found[0].1.to_string().contains("retention did not remove it"), "{found:?}");
}
