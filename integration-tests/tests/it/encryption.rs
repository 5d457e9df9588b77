//! Archives that are encrypted: Debian's `age` opens them with the key and nobody without it, the key is nowhere, and what did not
//! change is still taken over.

use std::path::{Path, PathBuf};

use integration_tests::{SHORT, Setup, TestDaemon, command, names, run_to_end, tree};
use serde_json::{Value as Json, json};

use crate::{backup::back_up, ingest::charge_event, setup};

/// A key pair as `age-keygen` makes it: the file with the secret half, that half, and the recipient.
struct Key {
    file: PathBuf,
    secret: String,
    recipient: String,
}

fn age_key(folder: &Path, name: &str) -> Key {
    let file = folder.join(name);
    let mut keygen = command("age-keygen");
    keygen.arg("-o").arg(&file);
    run_to_end(keygen, SHORT).expect(0);
    let text = std::fs::read_to_string(&file).expect("a key");
    let secret = text.lines().find(|line| line.starts_with("AGE-SECRET-KEY-")).expect("a secret half").to_owned();
    let recipient = text.lines().find_map(|line| line.strip_prefix("# public key: ")).expect("a public half").to_owned();
    Key { file, secret, recipient }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn archives(setup: &Setup) -> Vec<String> {
    let all = names(&setup.backups("daily"));
    let of = |path: &PathBuf| Some(path.file_name()?.to_str()?.to_owned()).filter(|name| name.starts_with("backup_"));
    all.iter().filter_map(of).collect()
}

fn only_archive(daemon: &TestDaemon, record: &Json) -> PathBuf {
    let path = daemon.root().join(record["archive"].as_str().expect("a path"));
    let name = path.file_name().expect("a name").to_string_lossy().into_owned();
    assert_eq!(archives(daemon.setup()), [name.clone(), format!("{name}.manifest.json")], "one archive of the day");
    path
}

#[test]
fn an_encrypted_archive_opens_with_its_key_and_takes_over_what_did_not_change() {
    let keys = tempfile::tempdir().expect("a folder for keys");
    let (key, other) = (age_key(keys.path(), "key.txt"), age_key(keys.path(), "other.txt"));
    let setup = setup().env("ECHOPILOT__BACKUP__RECIPIENTS", format!("{},{}", key.recipient, other.recipient));
    let check = setup.cli(&["check", "--json"]).json(0);
    assert!(check.to_string().contains("encrypted to 2"), "{check}");
    let daemon = setup.start();
    daemon.deliver(&charge_event("evt_encrypted", "ch_encrypted", 100)).ok();
    daemon.settle();
    let first = back_up(&daemon);
    let second = back_up(&daemon);
    assert_eq!(
        (&second["encrypted"], &second["ok"], &second["proof"]["state"]),
        (&json!(true), &json!(true), &json!("passed")),
        "{second}"
    );
    assert!(first["reused_bytes"] == 0 && second["reused_bytes"].as_u64().is_some_and(|n| n > 0), "{second}");
    let archive = only_archive(&daemon, &second);
    assert!(text(&archive).ends_with(".tar.gz.age"), "{second}");
    let day = daemon.get("/api/backups").ok()["backups"][0]["date"].as_str().expect("a day").to_owned();

    // The daemon has no key: it says so, and does not show what is in it.
    for path in ["files", "file?path=database/echopilot.db"] {
        let refused = daemon.get(&format!("/api/backups/{day}/{path}")).problem(409, "conflict");
        assert_eq!(refused["reason"], "encrypted", "{refused}");
        assert!(refused["detail"].as_str().is_some_and(|d| d.contains("identity")), "{refused}");
    }
    daemon.post(&format!("/api/backups/{day}/verify"), &Json::Null).problem(409, "conflict");
    let setup = daemon.stop();

    // The key is nowhere, and neither is anything readable in the archive.
    for root in [setup.backups(""), setup.logs(""), setup.data("")] {
        for (name, bytes) in tree(&root) {
            for secret in [&key.secret, &other.secret] {
                assert!(!bytes.windows(secret.len()).any(|w| w == secret.as_bytes()), "{name} holds the secret key");
            }
        }
    }
    let bytes = std::fs::read(&archive).expect("the archive");
    assert!(bytes.starts_with(b"age-encryption.org/v1\n"));

    // Debian's age and tar open it.
    let (clear, extracted) = (setup.root().join("clear.tar.gz"), setup.root().join("extracted"));
    let mut age = command("age");
    age.args(["-d", "-i"]).arg(&other.file).arg("-o").arg(&clear).arg(&archive);
    run_to_end(age, SHORT).expect(0);
    std::fs::create_dir(&extracted).expect("a folder");
    let mut tar = command("tar");
    tar.arg("xzf").arg(&clear).arg("-C").arg(&extracted);
    run_to_end(tar, SHORT).expect(0);
    assert!(extracted.join("database/echopilot.db").exists() && extracted.join("logs/echopilot.ndjson").exists());

    // So do we, with the key; without it we say what is missing.
    let out = setup.root().join("out");
    let refused = setup.cli(&["backup", "restore", "latest", "--to", &text(&out)]);
    assert!(refused.code == Some(77) && refused.stderr.contains("--identity"), "{refused:?}");
    let stranger = age_key(keys.path(), "stranger.txt");
    let refused = setup.cli(&["backup", "restore", "latest", "--to", &text(&out), "--identity", &text(&stranger.file)]);
    assert!(refused.code == Some(77) && refused.stderr.contains("does not open it") && !out.exists(), "{refused:?}");
    let no_key = setup.cli(&["backup", "verify", "latest"]);
    assert_eq!(no_key.code, Some(77), "{no_key:?}");
    setup.cli(&["backup", "restore", "latest", "--to", &text(&out), "--identity", &text(&key.file)]).expect(0);
    assert_eq!(tree(&out), tree(&extracted), "what age and tar put there is what we put there");
    let verified = setup.cli(&["backup", "verify", &day, "--identity", &text(&key.file), "--json"]).json(0);
    assert_eq!(verified["manifest"], "signed", "{verified}");

    // With the identity in the configuration nothing has to be named.
    let setup = setup.env("ECHOPILOT__BACKUP__IDENTITY_FILE", text(&key.file));
    setup.cli(&["check"]).expect(0);
    setup.cli(&["backup", "verify", "latest"]).expect(0);
    let daemon = setup.start();
    assert!(daemon.get(&format!("/api/backups/{day}/file?path=database/echopilot.db")).body.starts_with(b"SQLite format 3"));
    assert!(daemon.get(&format!("/api/backups/{day}/files?level=true")).ok()["count"].as_u64().is_some_and(|n| n >= 2));
}

#[test]
fn switching_encryption_leaves_one_archive_a_day() {
    let keys = tempfile::tempdir().expect("a folder for keys");
    let key = age_key(keys.path(), "key.txt");
    let daemon = setup().start();
    let plain = back_up(&daemon);
    assert!(text(&only_archive(&daemon, &plain)).ends_with(".tar.gz"));
    let daemon = daemon.stop().env("ECHOPILOT__BACKUP__RECIPIENTS", key.recipient).start();
    let encrypted = back_up(&daemon);
    assert!(text(&only_archive(&daemon, &encrypted)).ends_with(".tar.gz.age"));
    assert_eq!(daemon.get("/api/backups").ok()["count"], 1);
    let daemon = daemon.stop().without("ECHOPILOT__BACKUP__RECIPIENTS").start();
    let again = back_up(&daemon);
    assert!(text(&only_archive(&daemon, &again)).ends_with(".tar.gz"));
    assert_eq!((&again["ok"], &daemon.get("/api/backups").ok()["count"]), (&json!(true), &json!(1)), "{again}");
    daemon.cli(&["backup", "verify", "latest"]).expect(0);
    assert!(!daemon.setup().data("backup_base.tar.gz").exists(), "no copy in the clear is kept for nothing");
}

#[test]
fn what_is_wrong_with_recipients_and_identities_is_said_before_it_matters() {
    let setup = setup().env("ECHOPILOT__BACKUP__RECIPIENTS", "age1nonsense");
    let check = setup.cli(&["check", "--json"]);
    assert!(check.code.is_some_and(|code| code != 0) && check.stdout.contains("age1nonsense"), "{check:?}");
    let keys = tempfile::tempdir().expect("a folder for keys");
    let key = age_key(keys.path(), "key.txt");
    let setup = setup.env("ECHOPILOT__BACKUP__RECIPIENTS", key.recipient).env("ECHOPILOT__BACKUP__IDENTITY_FILE", "/nonexistent/key.txt");
    let check = setup.cli(&["check", "--json"]);
    assert!(check.code == Some(1) && check.stdout.contains("/nonexistent/key.txt"), "{check:?}");
    std::fs::write(keys.path().join("empty.txt"), "nothing\n").expect("a file");
    let setup = setup.env("ECHOPILOT__BACKUP__IDENTITY_FILE", text(&keys.path().join("empty.txt")));
    let check = setup.cli(&["check", "--json"]);
    assert!(check.code == Some(1) && check.stdout.contains("holds no identity"), "{check:?}");
}
