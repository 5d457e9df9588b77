//! What every database engine under the store must do, written against the store's own queries: another engine joins by adding a
//! `Maker` to `ENGINES`. Each check gets a database of its own, which it may open again under another or the same writer's name.

use std::{future::Future, path::Path};

use chrono::{DateTime, TimeDelta, Utc};
use echopilot_actors::{
    domain::{ledger::Applied, schedule::Overlap},
    error::Result,
    store::{Claim, EventFilter, KeyRow, NewEvent, NewRun, Place, RunEnd, Store, engine::Fact},
};
use serde_json::json;

/// Opens the database that belongs to a folder, as the writer of that name.
type Maker = fn(&Path, &str) -> Result<Store>;

/// Every engine, by name.
const ENGINES: &[(&str, Maker)] = &[("sqlite", |folder, writer| Store::open(&folder.join("conformance.db"), writer))];

/// Runs a check once per engine.
fn for_every_engine<F: Future<Output = ()>>(check: impl Fn(Box<dyn Fn(&str) -> Store>) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    for (name, maker) in ENGINES {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, maker, name) = (folder.path().to_owned(), *maker, *name);
        let open = Box::new(move |writer: &str| maker(&path, writer).unwrap_or_else(|e| panic!("{name}: {e}")));
        runtime.block_on(check(open));
    }
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000 + seconds, 0).expect("a time")
}

fn fact(subject: &str) -> Fact {
    Fact { at: at(0), kind: "test.fact", subject: subject.to_owned(), data: json!({"of": subject}) }
}

fn event(id: &str) -> NewEvent {
    NewEvent {
        event_id: id.to_owned(),
        event_type: "charge.succeeded".to_owned(),
        object_id: Some(format!("ch_{id}")),
        object_state: None,
        created: 1_790_000_000,
        livemode: false,
        received_at: at(0),
        origin: "webhook",
        body: format!("{{\"id\":\"{id}\"}}"),
    }
}

fn key(name: &str, hash: u8) -> KeyRow {
    KeyRow {
        id: format!("key_{name}"),
        name: name.to_owned(),
        scope: "read".to_owned(),
        hash: vec![hash; 32],
        created_at: at(0),
        expires_at: None,
        revoked_at: None,
    }
}

fn run(run_id: &str, slot: DateTime<Utc>, cause: &'static str) -> NewRun {
    NewRun {
        run_id: run_id.to_owned(),
        task: "heartbeat".to_owned(),
        slot,
        cause,
        state: "running",
        reason: None,
        asked_by: None,
        incarnation: "inc_1".to_owned(),
        at: slot,
        lag_ms: Some(0),
    }
}

/// The journal holds this many entries and every chain is whole.
async fn journal_has(store: &Store, entries: i64) {
    let report = store.verify_journal().await.expect("a report");
    assert!(report.ok, "{:?}", report.breaks);
    assert_eq!(report.entries, entries);
}

#[test]
fn an_event_is_inserted_once_and_a_duplicate_is_counted() {
    for_every_engine(|open| async move {
        let store = open("a");
        assert!(store.insert_event(event("evt_1"), fact("evt_1")).await.expect("stored"));
        for _ in 0..2 {
            assert!(!store.insert_event(event("evt_1"), fact("evt_1")).await.expect("a duplicate"));
        }
        let rows = store.events(&EventFilter { limit: 10, ..EventFilter::default() }).await.expect("rows");
        assert_eq!(rows.iter().map(|r| (r.event_id.as_str(), r.duplicates)).collect::<Vec<_>>(), [("evt_1", 2)]);
        journal_has(&store, 1).await; // the guard kept the fact of a duplicate out
        store.close().await.expect("closed");
    });
}

#[test]
fn of_many_who_insert_the_same_event_at_once_one_is_first() {
    for_every_engine(|open| async move {
        let store = open("a");
        let tries: Vec<_> = (0..64)
            .map(|n| {
                let store = store.clone();
                tokio::spawn(async move { store.insert_event(event(&format!("evt_{}", n % 8)), fact("x")).await })
            })
            .collect();
        let mut first = 0;
        for task in tries {
            first += i32::from(task.await.expect("no panic").expect("an answer"));
        }
        assert_eq!(first, 8);
        let rows = store.events(&EventFilter { limit: 100, ..EventFilter::default() }).await.expect("rows");
        assert_eq!((rows.len(), rows.iter().map(|r| r.duplicates).sum::<i64>()), (8, 56));
        journal_has(&store, 8).await;
        store.close().await.expect("closed");
    });
}

#[test]
fn a_bad_batch_among_good_ones_fails_alone() {
    for_every_engine(|open| async move {
        let store = open("a");
        store.insert_key(&key("taken", 0), fact("taken")).await.expect("the first of its hash");
        let tasks: Vec<_> = (0..60_u8)
            .map(|n| {
                let store = store.clone();
                // Every third one breaks the uniqueness of the hash.
                let hash = if n % 3 == 0 { 0 } else { n };
                tokio::spawn(async move { (n, store.insert_key(&key(&format!("k{n}"), hash), fact("k")).await) })
            })
            .collect();
        for task in tasks {
            let (n, result) = task.await.expect("no panic");
            assert_eq!(result.is_ok(), n % 3 != 0, "{n}: {result:?}");
        }
        assert_eq!(store.keys().await.expect("keys").len(), 41);
        journal_has(&store, 41).await; // a failed batch leaves neither its row nor its fact
        store.close().await.expect("closed");
    });
}

#[test]
fn a_slot_is_claimed_by_one_and_a_task_has_one_place() {
    for_every_engine(|open| async move {
        let store = open("a");
        let place = Place::Now(Overlap::Skip);
        let early = store.claim_run(&run("run_early", at(60), "schedule"), place, fact("run")).await.expect("an answer");
        assert_eq!(early, Claim::NoLease, "nothing is claimed without a lease");
        assert!(store.renew_lease("inc_1", "node_1", 3, at(0), true).await.expect("a lease"));
        let claims: Vec<_> = (0..20)
            .map(|n| {
                let store = store.clone();
                tokio::spawn(async move { store.claim_run(&run(&format!("run_{n}"), at(60), "schedule"), place, fact("run")).await })
            })
            .collect();
        let mut begun = Vec::new();
        for (n, claim) in claims.into_iter().enumerate() {
            match claim.await.expect("no panic").expect("an answer") {
                Claim::Begun => begun.push(format!("run_{n}")),
                claim => assert_eq!(claim, Claim::Taken),
            }
        }
        assert_eq!(begun.len(), 1);
        let claim = async |run_id: &str, seconds, cause| {
            store.claim_run(&run(run_id, at(seconds), cause), place, fact("run")).await.expect("an answer")
        };
        assert_eq!(claim("run_late", 60, "catch_up").await, Claim::Taken);
        assert_eq!(claim("run_next", 120, "schedule").await, Claim::Overlap);
        assert_eq!(claim("run_by_hand", 60, "manual").await, Claim::Taken, "the task's place is taken");
        let end = RunEnd { state: "succeeded", ..end() };
        assert!(store.end_run(&begun[0], "inc_1", &end, fact("run")).await.expect("an answer"));
        assert_eq!(claim("run_by_hand", 60, "manual").await, Claim::Begun, "manual runs do not compete for a slot");
        journal_has(&store, 4).await; // claimed, overlap, ended, by hand
        store.close().await.expect("closed");
    });
}

fn end() -> RunEnd {
    RunEnd { state: "failed", reason: None, attempts: 1, began: None, ended_at: at(61), error: None, result: None, last_attempt: None }
}

#[test]
fn a_run_ends_once_and_an_event_is_applied_once() {
    for_every_engine(|open| async move {
        let store = open("a");
        store.renew_lease("inc_1", "node_1", 3, at(0), true).await.expect("a lease");
        store.claim_run(&run("run_1", at(60), "schedule"), Place::Now(Overlap::Skip), fact("run_1")).await.expect("claimed");
        let of_another = store.end_run("run_1", "inc_2", &end(), fact("run_1")).await.expect("an answer");
        assert!(!of_another, "it is not held under that lease");
        assert!(store.end_run("run_1", "inc_1", &RunEnd { state: "succeeded", ..end() }, fact("run_1")).await.expect("an answer"));
        assert!(!store.end_run("run_1", "inc_1", &end(), fact("run_1")).await.expect("an answer"), "a late end changes nothing");
        journal_has(&store, 2).await;

        store.insert_event(event("evt_1"), fact("evt_1")).await.expect("stored");
        let open_events = store.open_events(at(1), 10).await.expect("rows");
        assert_eq!(open_events.len(), 1);
        for _ in 0..2 {
            store.apply_event(&open_events[0], 1_790_000_000, &Applied::default(), "stripe", at(2)).await.expect("applied");
        }
        let rows = store.events(&EventFilter { limit: 10, ..EventFilter::default() }).await.expect("rows");
        assert_eq!((rows[0].status.as_str(), rows[0].attempts), ("processed", 1), "the guard held the second one back");
        assert!(store.open_events(at(1), 10).await.expect("rows").is_empty());
        store.close().await.expect("closed");
    });
}

#[test]
fn a_failed_event_comes_back_when_its_time_has_come_and_not_before() {
    for_every_engine(|open| async move {
        let store = open("a");
        store.insert_event(event("evt_1"), fact("evt_1")).await.expect("stored");
        let n = store.open_events(at(0), 10).await.expect("rows")[0].n;
        store.fail_event(n, "not now", Some(at(100)), fact("evt_1")).await.expect("noted");
        assert!(store.open_events(at(99), 10).await.expect("rows").is_empty());
        assert_eq!(store.open_events(at(100), 10).await.expect("rows").len(), 1);
        store.fail_event(n, "never", None, fact("evt_1")).await.expect("noted");
        assert!(store.open_events(at(1000), 10).await.expect("rows").is_empty());
        store.close().await.expect("closed");
    });
}

#[test]
fn the_journals_chain_goes_on_after_reopening_and_each_writer_has_its_own() {
    for_every_engine(|open| async move {
        for (n, writer) in ["a", "a", "b", "a"].into_iter().enumerate() {
            let store = open(writer);
            for m in 0..5 {
                store.journal(fact(&format!("{n}.{m}"))).await.expect("written");
            }
            store.close().await.expect("closed");
            assert!(store.journal(fact("late")).await.is_err(), "a closed store takes nothing");
        }
        let store = open("c");
        let report = store.verify_journal().await.expect("a report");
        let chains: Vec<_> = report.chains.iter().map(|c| (c.writer.as_str(), c.entries)).collect();
        assert_eq!((report.ok, chains), (true, vec![("a", 15), ("b", 5)]), "{:?}", report.breaks);
        store.close().await.expect("closed");
    });
}

#[test]
fn closing_waits_for_what_was_accepted() {
    for_every_engine(|open| async move {
        let store = open("a");
        let writes: Vec<_> = (0..200)
            .map(|n| {
                let store = store.clone();
                tokio::spawn(async move { store.insert_event(event(&format!("evt_{n}")), fact("e")).await.is_ok() })
            })
            .collect();
        tokio::task::yield_now().await;
        store.close().await.expect("closed");
        let mut acknowledged = 0;
        for write in writes {
            acknowledged += i64::from(write.await.expect("no panic"));
        }
        let again = open("a");
        let (stored, _) = again.open_event_count().await.expect("a count");
        assert_eq!(stored, acknowledged, "what was answered is there, what was refused is not");
        journal_has(&again, acknowledged).await;
        again.close().await.expect("closed");
    });
}

#[test]
fn pages_of_a_list_neither_skip_nor_repeat() {
    for_every_engine(|open| async move {
        let store = open("a");
        for n in 0..23 {
            let received_at = at(0) + TimeDelta::seconds(n);
            store.insert_event(NewEvent { received_at, ..event(&format!("evt_{n:02}")) }, fact("e")).await.expect("stored");
        }
        let (mut seen, mut before) = (Vec::new(), 0);
        loop {
            let page = store.events(&EventFilter { before, limit: 5, ..EventFilter::default() }).await.expect("rows");
            let Some(last) = page.last() else { break };
            before = last.n;
            seen.extend(page.into_iter().map(|row| row.event_id));
        }
        assert_eq!(seen, (0..23).rev().map(|n| format!("evt_{n:02}")).collect::<Vec<_>>());
        store.close().await.expect("closed");
    });
}
