//! A backup from the outside of its actor: what it leaves, what it takes over, what it proves, and what it does when something is wrong.

use std::{fs, path::PathBuf};

use serde_json::{Value as Json, json};

use super::{Backup, keep, make, progress::Progress, run};
use crate::{
    actor,
    alert::{self, Alerts},
    archive::{self, Standing, VerifyOptions},
    config::Config,
    domain::slo::Minute,
    error::Result,
    slo,
    store::NewRecon,
    supervisor::Supervisor,
    task::{Record, Run},
    testing::{self, Fixture},
};

const NOW: &str = "2026-03-02T00:30:00Z";

struct It {
    fixture: Fixture,
    _supervisor: Supervisor,
    runs: usize,
}

impl It {
    async fn new(change: impl FnOnce(&mut Config)) -> Self {
        Self::below(tempfile::tempdir().unwrap(), change).await
    }

    async fn below(folder: tempfile::TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let fixture = testing::reopen(folder, NOW, change);
        let specs = vec![actor::spec(alert::NOUN, false, || Alerts), actor::spec(super::NOUN, false, || Backup)];
        let supervisor = Supervisor::start(fixture.env.clone(), specs).await.unwrap();
        let it = Self { fixture, _supervisor: supervisor, runs: 0 };
        fs::write(it.path("logs/a.ndjson"), "{\"n\":1}\n".repeat(100_000)).unwrap();
        fs::write(it.path("configs/shop.toml"), "x = 1\n").unwrap();
        fs::create_dir_all(it.path("backups/payouts")).unwrap();
        fs::write(it.path("backups/payouts/payout_recon_2026-03-01.json"), "{}").unwrap();
        it
    }

    fn path(&self, name: &str) -> PathBuf {
        self.fixture.folder.path().join(name)
    }

    async fn backup(&mut self) -> Result<Record> {
        self.runs += 1;
        let (env, slot) = (self.fixture.env.clone(), self.fixture.env.now());
        let run_id = format!("run_{}", self.runs);
        run(&Run { env, run_id, slot, cause: "manual", asked_by: None, attempt: 1 }).await
    }

    fn tomorrow(&self) {
        self.fixture.clock.set(self.fixture.env.now() + chrono::TimeDelta::days(1));
    }

    async fn alerts(&self) -> Vec<String> {
        alert::list(&self.fixture.env).await.unwrap().into_iter().map(|a| a.name).collect()
    }

    fn litter(&self) -> Vec<String> {
        let names = fs::read_dir(self.path("backups/daily")).unwrap().flatten().map(|e| e.file_name().to_string_lossy().into_owned());
        let ours = |name: &String| name.starts_with("backup_") && !name.contains(".new") || name == ".lock";
        names.filter(|name| !ours(name)).collect()
    }
}

fn check<'a>(record: &'a Record, name: &str) -> &'a Json {
    record["checks"].as_array().unwrap().iter().find(|c| c["check"] == name).unwrap_or_else(|| panic!("no check {name}"))
}

#[tokio::test]
async fn the_second_backup_takes_over_what_did_not_change_and_both_are_proven() {
    let mut it = It::new(|_| {}).await;
    let env = it.fixture.env.clone();
    let mut minute = Minute::new(Minute::of(env.now()) - 30);
    (0..50).for_each(|_| minute.record(1000, false, 1200));
    env.store().put_minutes(&[(slo::API.into(), minute)]).await.unwrap();
    let first = it.backup().await.unwrap();
    assert_eq!(
        (&first["ok"], &first["state"], &first["full"], &first["reused_bytes"]),
        (&json!(true), &json!("ok"), &json!(true), &json!(0))
    );
    for name in ["restore", "files", "live_sample", "database", "journal", "reconciliation", "service_level"] {
        assert_eq!(check(&first, name)["ok"], true, "{name}: {}", check(&first, name));
    }
    assert_eq!(check(&first, "service_level")["evidence"]["status"], "PASS");
    assert_eq!(check(&first, "live_sample")["evidence"]["same"], 3);
    let archive = it.path(first["archive"].as_str().unwrap());
    assert_eq!(archive::standing(&archive, &env.config().paths.backups).unwrap(), Standing::Signed);
    it.tomorrow();
    let second = it.backup().await.unwrap();
    assert_eq!((&second["ok"], &second["full"]), (&json!(true), &json!(false)));
    let share = second["reused_bytes"].as_f64().unwrap() / second["size_bytes"].as_f64().unwrap();
    assert!(share > 0.1, "{share}");
    // The one before is not needed.
    fs::remove_file(&archive).unwrap();
    let opened = archive::open(&it.path(second["archive"].as_str().unwrap()), &PathBuf::new()).unwrap();
    opened.verify(&VerifyOptions::default()).unwrap();
    assert_eq!((it.litter(), it.alerts().await), (Vec::<String>::new(), Vec::<String>::new()));
    assert_eq!(env.store().proofs(9).await.unwrap().len(), 2);
}

#[tokio::test]
async fn what_cannot_be_archived_makes_the_backup_partial_and_an_alert() {
    let mut it = It::new(|config| config.backup.include.push("shop=/nonexistent/shop".into())).await;
    let record = it.backup().await.unwrap();
    assert_eq!((&record["ok"], &record["state"], &record["proof"]["state"]), (&json!(false), &json!("partial"), &json!("passed")));
    assert_eq!(record["partial"][0]["path"], "shop");
    assert_eq!(it.alerts().await, ["backup_complete"]);
}

#[tokio::test]
async fn without_room_nothing_is_begun() {
    let mut it = It::new(|config| config.backup.reserve_mb = 1 << 40).await;
    let error = it.backup().await.unwrap_err();
    assert_eq!((error.reason.as_ref(), it.litter()), ("disk_low", Vec::new()));
    assert!(error.message.contains("MB") && error.extra["needed_bytes"].as_u64() > error.extra["free_bytes"].as_u64(), "{error:?}");
    assert_eq!(it.alerts().await, ["backup_complete"]);
}

#[tokio::test]
async fn damage_in_the_archive_before_is_not_carried_on() {
    let mut it = It::new(|_| {}).await;
    let first = it.backup().await.unwrap();
    let path = it.path(first["archive"].as_str().unwrap());
    let mut bytes = fs::read(&path).unwrap();
    bytes[40] ^= 1; // in the first member
    fs::write(&path, bytes).unwrap();
    it.tomorrow();
    let second = it.backup().await.unwrap();
    assert_eq!((&second["ok"], second["damaged_before"].as_array().map(Vec::len)), (&json!(true), Some(1)));
    assert_eq!(it.alerts().await, ["backup_before"]);
    archive::open(&it.path(second["archive"].as_str().unwrap()), &PathBuf::new()).unwrap().verify(&VerifyOptions::default()).unwrap();
    it.tomorrow();
    assert!(!it.backup().await.unwrap().contains_key("damaged_before"), "the next one builds on an undamaged one");
}

#[tokio::test]
async fn secrets_and_archives_never_get_into_an_archive() {
    // A folder of the operator's that leads to everything the daemon has.
    let folder = tempfile::tempdir().unwrap();
    let all = folder.path().to_string_lossy().into_owned();
    let mut it = It::below(folder, move |config| config.backup.include.push(format!("all={all}"))).await;
    it.backup().await.unwrap();
    it.tomorrow();
    let record = it.backup().await.unwrap();
    let opened = archive::open(&it.path(record["archive"].as_str().unwrap()), &PathBuf::new()).unwrap();
    let names: Vec<String> = opened.entries().unwrap().into_iter().map(|e| e.path).collect();
    assert!(names.iter().any(|n| n == "all/logs/a.ndjson"), "{names:?}");
    assert!(!names.iter().any(|n| n.starts_with("all/data") || n.starts_with("all/backups/daily")), "{names:?}");
    assert_eq!(record["skipped"].as_array().map(Vec::len), Some(2), "{}", record["skipped"]);
}

#[tokio::test]
async fn a_backup_that_is_made_says_how_far_it_is_and_stops_when_it_is_dropped() {
    let progress = Progress::default();
    let busy = progress.begin("run_x");
    let meter = busy.phase("archiving", 100);
    meter.done().fetch_add(40, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(progress.view(), Some(json!({"run_id": "run_x", "phase": "archiving", "done_bytes": 40, "total_bytes": 100})));
    drop(busy);
    assert!(progress.view().is_none() && meter.stop().load(std::sync::atomic::Ordering::Relaxed));
}

#[tokio::test]
async fn old_archives_go_with_their_reason_and_never_the_last_proven_one() {
    let mut it = It::new(|config| {
        let r = &mut config.retention;
        (r.keep_last, r.keep_within_days, r.keep_daily, r.keep_weekly, r.keep_monthly, r.keep_yearly) = (2, 0, 0, 0, 0, 0);
        r.payouts_keep_days = 2;
    })
    .await;
    let mut removed = Vec::new();
    for _ in 0..4 {
        removed.push(it.backup().await.unwrap()["removed"].clone());
        it.tomorrow();
    }
    assert_eq!(removed[..2], [json!([]), json!([])]);
    assert_eq!(removed[2], json!(["backups/daily/backup_2026-03-02.tar.gz", "backups/payouts/payout_recon_2026-03-01.json"]));
    assert_eq!(removed[3], json!(["backups/daily/backup_2026-03-03.tar.gz"]));
    assert!(!it.path("backups/daily/backup_2026-03-02.tar.gz").exists() && it.path("backups/daily/backup_2026-03-05.tar.gz").exists());
    assert!(!it.path("backups/daily/backup_2026-03-02.tar.gz.manifest.json").exists());
    let left = keep::decisions(&it.fixture.env, it.fixture.env.now()).await.unwrap();
    assert_eq!(left.len(), 2);
    assert!(left.iter().all(|(_, decision)| decision.keep && !decision.reasons.is_empty()));
}

#[tokio::test]
async fn an_archive_that_fails_its_proof_takes_no_others_place_and_the_proof_is_kept() {
    use std::io::Write as _;
    let mut it = It::new(|_| {}).await;
    let first = it.backup().await.unwrap();
    let path = it.path(first["archive"].as_str().unwrap());
    let before = fs::read(&path).unwrap();
    // A reconciliation that cannot have come out of what is kept with it.
    let mut inputs = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    inputs.write_all(b"{}").unwrap();
    let env = it.fixture.env.clone();
    let (inputs, report) = (inputs.finish().unwrap(), json!({"summary": "invented"}));
    let recon = NewRecon {
        run_id: "run_recon",
        recon_id: "prun_1",
        scope: "payouts",
        at: env.now() - chrono::TimeDelta::days(1),
        complete: true,
        ok: true,
        inputs,
        report: &report,
        findings: Vec::new(),
        gone: Vec::new(),
    };
    env.store().record_recon(recon, env.fact("recon.done", "run_recon", json!({}))).await.unwrap();
    let error = it.backup().await.unwrap_err();
    assert!(error.reason == "proof_failed" && error.message.contains("reconciliation"), "{error:?}");
    assert!(fs::read(&path).unwrap() == before && it.litter().is_empty());
    let proofs = env.store().proofs(9).await.unwrap();
    assert_eq!(proofs.iter().map(|p| p.state.as_str()).collect::<Vec<_>>(), ["failed", "passed"]);
    assert!(proofs[0].error.as_deref().is_some_and(|e| e.contains("run_recon")));
    assert_eq!(env.store().backups(9).await.unwrap()[0].proof["state"], "passed", "the archive that is there is as proven as it was");
    assert_eq!(it.alerts().await, ["backup_proof"]);
}

#[test]
fn what_is_included_is_found_by_its_name() {
    let mut config = Config::load(None, &crate::config::Environment::default()).unwrap();
    config.backup.include = vec!["logs".into(), "shop=/srv/shop".into()];
    assert_eq!(make::includes(&config).unwrap().len(), 2);
    config.backup.include.push("lgos".into());
    assert!(make::includes(&config).unwrap_err().message.contains("lgos"));
}
