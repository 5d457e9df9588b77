//! The journal's checkpoint: a journal that was cut short here is told by what lies at the second target, and anybody can verify that.

use std::path::Path;

use integration_tests::{Bucket, Setup};
use serde_json::{Value as Json, json};

use crate::{
    ingest::charge_event,
    replica::{back_up, change, check, sync, with},
    setup,
};

/// Cuts off the end of a journal so that what is left is intact in itself, as somebody would who knows how.
fn truncate_journal(setup: &Setup, entries: i64) {
    change(
        setup,
        &format!(
            "DELETE FROM journal WHERE seq > (SELECT seq - {entries} FROM journal_head WHERE journal_head.writer = journal.writer);
             UPDATE journal_head SET seq = seq - {entries}, hash = (SELECT hash FROM journal WHERE journal.writer = journal_head.writer ORDER BY seq DESC LIMIT 1);"
        ),
    );
}

#[test]
fn a_journal_that_was_cut_off_here_is_told_by_its_checkpoint_there() {
    let bucket = Bucket::start();
    let daemon = with(&bucket).start();
    daemon.deliver(&charge_event("evt_journal", "ch_journal", 100)).ok();
    daemon.settle();
    assert_eq!(sync(&daemon)["ok"], true);
    let good = daemon.task_result("weekly_audit");
    assert_eq!(check(&good, "journal_checkpoint")["ok"], true, "{good}");
    assert_eq!(check(&good, "journal_checkpoint")["evidence"]["compared_there"], 1);
    let setup = daemon.stop();
    let audited = setup.count("SELECT seq FROM journal_head");
    // Everything that remembers the end of the journal here goes: the entries, the checkpoint, the audit.
    truncate_journal(&setup, audited - 1);
    for folder in ["journal", "audit"] {
        std::fs::remove_dir_all(setup.backups(folder)).expect("removed");
    }
    let daemon = setup.start();
    let audit = daemon.task_result("weekly_audit");
    assert_eq!(
        (&check(&audit, "journal_chain")["ok"], &check(&audit, "journal_matches_earlier_audit")["ok"]),
        (&json!(true), &json!(true)),
        "{audit}"
    );
    let told = check(&audit, "journal_checkpoint");
    assert_eq!(told["ok"], false, "{told}");
    assert!(told["evidence"]["bad"][0]["error"].as_str().is_some_and(|e| e.contains("cut off or rewritten")), "{told}");
    assert_eq!(audit["ok"], false);
    // A checkpoint that somebody wrote in its place does not pass: it is not signed by us.
    let name = bucket.names().into_iter().find(|n| n.starts_with("journal/")).expect("a checkpoint");
    let mut forged: Json = serde_json::from_slice(&bucket.object(&name)).expect("JSON");
    forged["chains"] = json!([]);
    bucket.put(&name, forged.to_string().as_bytes());
    let audit = daemon.task_result("weekly_audit");
    assert!(
        check(&audit, "journal_checkpoint")["evidence"]["bad"][0]["error"].as_str().is_some_and(|e| e.contains("was changed")),
        "{audit}"
    );
}

#[test]
fn a_sync_notices_a_shortened_journal_itself_and_makes_no_checkpoint_of_it() {
    let second = tempfile::tempdir().expect("a directory");
    let daemon = setup().env("ECHOPILOT__REPLICA__URL", second.path().to_string_lossy()).start();
    back_up(&daemon);
    let record = sync(&daemon);
    assert_eq!((&record["ok"], &record["lag_s"]), (&json!(true), &json!(0)), "{record}");
    let setup = daemon.stop();
    let entries = setup.count("SELECT seq FROM journal_head");
    truncate_journal(&setup, entries - 1);
    let daemon = setup.start();
    let record = sync(&daemon);
    assert_eq!((&record["ok"], &record["checkpoint"]), (&json!(false), &Json::Null), "{record}");
    assert!(record["problems"][0]["error"].as_str().is_some_and(|e| e.contains("not in the journal any more")), "{record}");
}

#[test]
fn anybody_can_verify_a_checkpoint_with_the_public_key() {
    let second = tempfile::tempdir().expect("a directory");
    let daemon = setup().env("ECHOPILOT__REPLICA__URL", second.path().to_string_lossy()).start();
    let record = sync(&daemon);
    let name = record["checkpoint"].as_str().expect("a name");
    let mut checkpoint: serde_json::Map<String, Json> =
        serde_json::from_slice(&std::fs::read(second.path().join(name)).expect("it is there")).expect("JSON");
    let signature = checkpoint.shift_remove("signature").expect("it is signed");
    let keys = integration_tests::names(&second.path().join("signing_keys"));
    verify_with_openssl(second.path(), &keys[0], Json::Object(checkpoint).to_string().as_bytes(), signature["hex"].as_str().expect("hex"));
}

fn verify_with_openssl(folder: &Path, key: &Path, message: &[u8], signature: &str) {
    let bytes: Vec<u8> = (0..signature.len()).step_by(2).map(|i| u8::from_str_radix(&signature[i..i + 2], 16).expect("hex")).collect();
    let (text, sig) = (folder.join("message"), folder.join("message.sig"));
    std::fs::write(&text, message).expect("a file");
    std::fs::write(&sig, bytes).expect("a file");
    let mut command = integration_tests::command("openssl");
    command.args(["pkeyutl", "-verify", "-pubin", "-rawin", "-inkey"]).arg(key).arg("-sigfile").arg(&sig).arg("-in").arg(&text);
    integration_tests::run_to_end(command, integration_tests::SHORT).expect(0);
}
