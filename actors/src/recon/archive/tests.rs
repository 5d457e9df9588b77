//! The archive of a day in its two versions, against a provider that the test holds in its hands: when it is made final, what is kept of the
//! one made at night, and what happens if the provider does not answer.

use serde_json::json;

use super::*;
use crate::recon::payouts::tests::World;

const DAY: &str = "2026-09-20";

fn date() -> NaiveDate {
    DAY.parse().unwrap()
}

/// A day with a payout, archived at night as `bytes`.
async fn archived(bytes: &[u8]) -> World {
    let world = World::new().await;
    world.payout("po_1", 5).await;
    let record = keep(&world.fixture.env, date(), bytes.to_vec(), &json!({"ts": "then"}), Stage::Provisional, "run_night").await.unwrap();
    assert_eq!((&record["state"], &record["sha256"]), (&json!("provisional"), &json!(sha256(bytes))));
    world
}

fn at(world: &World, time: &str) {
    world.fixture.clock.set(time.parse().unwrap());
}

fn file(world: &World) -> Vec<u8> {
    std::fs::read(world.fixture.env.backup_path("payouts").join(format!("payout_recon_{DAY}.json"))).unwrap()
}

fn files(world: &World) -> usize {
    std::fs::read_dir(world.fixture.env.backup_path("payouts")).unwrap().count()
}

async fn row(world: &World) -> ArchiveRow {
    world.fixture.env.store().archive(DAY).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_day_is_made_final_at_noon_of_the_next_and_what_was_made_at_night_is_kept() {
    let world = archived(b"night").await;
    at(&world, "2026-09-21T11:59:59Z");
    assert_eq!(try_finish(&world.fixture.env).await.unwrap(), None);
    assert_eq!((row(&world).await.state.as_str(), file(&world).as_slice(), world.asked("")), ("provisional", b"night".as_slice(), 0));

    at(&world, "2026-09-21T14:13:20Z"); // the provider's clock, too
    assert_eq!(try_finish(&world.fixture.env).await.unwrap(), None);
    let (row, bytes) = (row(&world).await, file(&world));
    let report: Json = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((&report["window"]["to"], &report["run_id"]), (&json!("2026-09-20T23:59:59Z"), &json!("final_2026-09-20")));
    assert_eq!((&report["complete"], &report["payouts"][0]["id"]), (&json!(true), &json!("po_1")));
    assert_eq!((row.state.as_str(), &row.sha256, row.previous_sha256), ("final", &sha256(&bytes), Some(sha256(b"night"))));
    let kept = format!("payout_recon_{DAY}.json.{}", &sha256(b"night")[..12]);
    assert_eq!(std::fs::read(world.fixture.env.backup_path("payouts").join(&kept)).unwrap(), b"night");
    let log = std::fs::read_to_string(world.fixture.env.log_path("payment_recon_nightly.log")).unwrap();
    let line: Json = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!((&line["sha256"], &line["replaced_sha256"]), (&json!(row.sha256), &json!(sha256(b"night"))));
    assert_eq!(line["replaced_kept_as"], json!(format!("backups/payouts/{kept}")));
}

#[tokio::test]
async fn what_is_final_stays_as_it_is() {
    let world = archived(b"night").await;
    try_finish(&world.fixture.env).await.unwrap();
    let (bytes, count) = (file(&world), files(&world));
    // The next look, a day later; then the task of that night once more.
    at(&world, "2026-09-22T14:13:20Z");
    world.asked("");
    try_finish(&world.fixture.env).await.unwrap();
    assert_eq!(world.asked(""), 0, "nothing is due");
    let again = keep(&world.fixture.env, date(), b"later".to_vec(), &json!({}), Stage::Provisional, "run_again").await.unwrap();
    assert_eq!((&again["state"], &again["unchanged"], &again["sha256"]), (&json!("final"), &json!(true), &json!(sha256(&bytes))));
    assert_eq!((file(&world), files(&world), row(&world).await.state.as_str()), (bytes, count, "final"));
}

#[tokio::test]
async fn the_same_bytes_change_nothing_and_others_keep_every_version() {
    let world = archived(b"one").await;
    let env = &world.fixture.env;
    let same = keep(env, date(), b"one".to_vec(), &json!({}), Stage::Provisional, "run_2").await.unwrap();
    assert_eq!((&same["unchanged"], files(&world)), (&json!(true), 1));
    for bytes in [b"two", b"six"] {
        let other = keep(env, date(), bytes.to_vec(), &json!({}), Stage::Provisional, "run_3").await.unwrap();
        assert!(other["replaced_sha256"].is_string() && other.get("unchanged").is_none(), "{other:?}");
    }
    assert_eq!((file(&world).as_slice(), files(&world)), (b"six".as_slice(), 3));
    assert_eq!(row(&world).await.previous_sha256, Some(sha256(b"two")));
}

#[tokio::test]
async fn a_provider_that_does_not_answer_is_asked_again_and_only_told_after_a_day() {
    let world = archived(b"night").await;
    let env = &world.fixture.env;
    world.refuse(&["payout=po_1"]);
    assert_eq!(try_finish(env).await.unwrap(), None);
    assert_eq!((row(&world).await.state.as_str(), file(&world).as_slice()), ("provisional", b"night".as_slice()));
    at(&world, "2026-09-22T12:00:01Z");
    let problem = try_finish(env).await.unwrap().unwrap();
    assert!(problem.contains(DAY) && problem.contains("po_1"), "{problem}");
    world.refuse(&[]);
    assert_eq!(try_finish(env).await.unwrap(), None);
    assert_eq!(row(&world).await.state, "final");
}

#[tokio::test]
async fn a_day_that_cannot_be_made_final_does_not_keep_the_others() {
    let world = archived(b"night").await;
    let env = &world.fixture.env;
    let broken = ArchiveRow { date: "2026-09-19".into(), ..row(&world).await };
    env.store().put_archive(&broken, env.fact("test", "broken", json!({}))).await.unwrap();
    std::fs::create_dir_all(env.backup_path("payouts").join("payout_recon_2026-09-19.json")).unwrap();
    let problem = try_finish(env).await.unwrap().unwrap();
    assert!(problem.contains("2026-09-19"), "{problem}");
    assert_eq!(row(&world).await.state, "final");
}
