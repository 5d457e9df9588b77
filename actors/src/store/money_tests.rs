//! What the store promises about money: the ledger only grows, an older program's objects get their levels, calls are written before they
//! are made, and a refund of ours follows its own events in any order.

use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value as Json, json};

use super::{
    MIGRATIONS, Origin, RefundEnd, RefundIntent, Store,
    booking::{INTENT as FOLLOW, OPEN},
    engine::Fact,
};
use crate::domain::ledger::{self, STATES, level};

fn now() -> DateTime<Utc> {
    "2026-03-01T10:00:00Z".parse().unwrap()
}

fn fact(kind: &'static str) -> Fact {
    Fact { at: now(), kind, subject: "test".into(), data: json!({}) }
}

fn origin(at: i64) -> Origin<'static> {
    Origin { provider: "stripe", livemode: false, event_id: None, origin: "api", at, now: now() }
}

fn open() -> (Store, tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("echopilot.db");
    (Store::open(&path, "test").unwrap(), folder, path)
}

fn charge() -> Json {
    json!({"id": "ch_1", "object": "charge", "status": "succeeded", "captured": true, "amount": 1000, "amount_captured": 1000,
           "currency": "usd", "created": 5})
}

#[tokio::test]
async fn a_row_of_the_ledger_is_never_changed_and_never_removed() {
    let (store, _folder, path) = open();
    store.book(&ledger::from_answer(&charge(), 6).unwrap().unwrap(), &origin(6)).await.unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    for sql in ["UPDATE ledger SET amount = 1", "DELETE FROM ledger"] {
        assert!(other.execute(sql, []).unwrap_err().to_string().contains("append a correction"), "{sql}");
    }
    assert_eq!(store.ledger_lines(false, 0, 10).await.unwrap()[0].amount, 1000);
    store.close().await.unwrap();
}

#[test]
fn no_statement_of_the_product_changes_or_removes_a_row_of_the_ledger() {
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations")];
    let mut looked = 0;
    while let Some(folder) = open.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                open.push(path);
                continue;
            }
            looked += 1;
            let text = std::fs::read_to_string(&path).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
            for verb in ["update", "delete from", "replace into", "drop table"] {
                for end in [" ", "\"", ";", "'"] {
                    let statement = format!("{verb} ledger{end}");
                    let here = path.ends_with("money_tests.rs") || !text.contains(&statement);
                    assert!(here, "{} has {statement:?}", path.display());
                }
            }
        }
    }
    assert!(looked > 100, "the sources were found");
}

#[tokio::test]
async fn the_objects_of_an_older_program_get_their_levels() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("echopilot.db");
    let old = rusqlite::Connection::open(&path).unwrap();
    for sql in &MIGRATIONS[..3] {
        old.execute_batch(sql).unwrap();
    }
    old.execute_batch("PRAGMA user_version = 3").unwrap();
    let words = || STATES.iter().flat_map(|(kind, levels)| levels.iter().flat_map(|l| l.iter()).map(move |word| (*kind, *word)));
    for (kind, word) in words() {
        let sql = "INSERT INTO provider_object (kind, id, livemode, status, rank, event_created, amount, currency, created, body)
            VALUES (?1, ?2, 0, ?2, 1, 1, 1, 'usd', 1, '{}')";
        old.execute(sql, [kind, word]).unwrap();
    }
    drop(old);
    Store::open(&path, "test").unwrap().close().await.unwrap();
    let new = rusqlite::Connection::open(&path).unwrap();
    for (kind, word) in words() {
        let sql = "SELECT level FROM provider_object WHERE kind = ?1 AND status = ?2";
        let found: i64 = new.query_row(sql, [kind, word], |row| row.get(0)).unwrap();
        assert_eq!(found, level(kind, word), "{kind} {word}");
    }
}

#[tokio::test]
async fn a_call_is_written_down_before_it_is_made_and_its_key_is_for_that_call_alone() {
    let (store, folder, _) = open();
    store.call_sent("k1", "/v1/refunds", "aa", now()).await.unwrap();
    store.call_sent("k2", "/v1/refunds", "bb", now()).await.unwrap();
    store.call_answered("k2", 200, Some("req_1"), Some("re_2"), now()).await.unwrap();
    store.close().await.unwrap();
    let store = Store::open(&folder.path().join("echopilot.db"), "test").unwrap(); // after a crash
    for (path, request) in [("/v1/refunds", "cc"), ("/v1/invoices", "aa")] {
        assert_eq!(store.call_sent("k1", path, request, now()).await.unwrap_err().reason, "idempotency_error");
    }
    let later = now() + TimeDelta::seconds(1);
    store.call_sent("k1", "/v1/refunds", "aa", now()).await.unwrap();
    let open = store.unanswered_calls(later, 10).await.unwrap();
    assert_eq!(open.iter().map(|c| (c.key.as_str(), c.attempts)).collect::<Vec<_>>(), [("k1", 2)]);
    // A good answer stays one, whatever a repetition is told.
    store.call_sent("k2", "/v1/refunds", "bb", now()).await.unwrap();
    store.call_answered("k2", 500, None, None, now()).await.unwrap();
    store.call_answered("k1", 400, None, None, now()).await.unwrap();
    assert!(store.unanswered_calls(later, 10).await.unwrap().is_empty());
    assert_eq!(store.prune_calls(now()).await.unwrap(), 0);
    assert_eq!(store.prune_calls(later).await.unwrap(), 2);
    store.close().await.unwrap();
}

const INTENT: &str = "ep-refund-ch_1-0-1000";

fn refund(status: &str) -> Json {
    json!({"id": "re_1", "object": "refund", "status": status, "amount": 1000, "currency": "usd", "created": 10, "charge": "ch_1",
           "balance_transaction": "txn_1", "metadata": {"echopilot_intent": INTENT}})
}

/// What can happen to a refund, as (the provider's time, what is done with it).
async fn happen(store: &Store, what: &str) {
    let book = |kind: &'static str, status: &'static str, at: i64| async move {
        let event = json!({"type": kind, "created": at, "data": {"object": refund(status)}});
        store.book(&ledger::apply(&event).unwrap().unwrap(), &origin(at)).await.unwrap();
    };
    match what {
        "answer" => {
            let (answer, applied) = (json!({"ok": true}), ledger::from_answer(&refund("succeeded"), 11).unwrap().unwrap());
            let end = RefundEnd { id: INTENT, refund_id: "re_1", answer: &answer, applied: &applied };
            store.end_refund_intent(&end, &origin(11), fact("refund.result")).await.unwrap();
        }
        "created" => book("refund.created", "pending", 10).await,
        "updated" => book("refund.updated", "succeeded", 11).await,
        _ => book("refund.failed", "failed", 20).await,
    }
}

async fn with_intent() -> (Store, tempfile::TempDir) {
    let (store, folder, _) = open();
    let intent = RefundIntent {
        id: INTENT.into(),
        caller_key: None,
        charge: "ch_1".into(),
        payment_intent: None,
        amount: 1000,
        currency: "usd".into(),
        reason: None,
        state: "intended".into(),
        refund_id: None,
        answer: None,
        created_at: now(),
    };
    assert!(store.insert_refund_intent(&intent, now(), fact("refund.intent")).await.unwrap());
    (store, folder)
}

#[tokio::test]
async fn a_refund_follows_its_events_to_the_same_end_in_every_order() {
    let all = ["answer", "created", "updated", "failed"];
    for skip in 0..24_usize {
        let (store, _folder) = with_intent().await;
        let mut rest = all.to_vec();
        let mut n = skip;
        for left in (1..=4).rev() {
            happen(&store, rest.remove(n % left)).await;
            n /= left;
        }
        let intent = store.refund_intent(INTENT).await.unwrap().unwrap();
        assert_eq!((intent.state.as_str(), intent.refund_id.as_deref()), ("failed", Some("re_1")), "order {skip}");
        assert!(intent.answer.is_some(), "what was answered is kept, order {skip}");
        let lines = store.ledger_lines(false, 0, 100).await.unwrap();
        let mut rows: Vec<_> = lines.iter().map(|l| (l.kind.as_str(), l.amount)).collect();
        rows.sort_unstable();
        assert_eq!(rows, [("refund", -1000), ("refund_failure", 1000)], "order {skip}");
        assert_eq!(store.failed_refund_intents(INTENT).await.unwrap(), 1, "so the next is another refund");
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_refund_whose_answer_was_lost_is_known_by_its_webhook() {
    let (store, _folder) = with_intent().await;
    store.call_sent(INTENT, "/v1/refunds", "aa", now()).await.unwrap();
    happen(&store, "created").await;
    assert!(store.unanswered_calls(now() + TimeDelta::days(1), 10).await.unwrap().is_empty(), "the call was heard");
    assert_eq!(store.refund_intent(INTENT).await.unwrap().unwrap().state, "pending");
    assert!(store.has_refund("re_1").await.unwrap());
    happen(&store, "updated").await;
    assert_eq!(store.refund_intent(INTENT).await.unwrap().unwrap().state, "succeeded");
    let refused = store.refuse_refund_intent(INTENT, &json!({"ok": false}), now(), fact("refund.result")).await.unwrap();
    assert!(!refused, "a refusal that comes late does not undo it");
    store.close().await.unwrap();
}

#[tokio::test]
async fn calls_that_were_never_answered_are_forgotten_too_when_their_keys_are() {
    let (store, _folder, _) = open();
    store.call_sent("lost", "/v1/invoices", "aa", now()).await.unwrap();
    assert_eq!(store.prune_calls(now()).await.unwrap(), 0);
    assert_eq!(store.prune_calls(now() + TimeDelta::seconds(1)).await.unwrap(), 1);
    store.close().await.unwrap();
}

#[test]
fn what_every_look_and_every_refund_asks_for_is_found_by_an_index_and_not_by_a_walk() {
    let db = rusqlite::Connection::open_in_memory().unwrap();
    for sql in MIGRATIONS {
        db.execute_batch(sql).unwrap();
    }
    let plan = |sql: &str| {
        let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let nothing = vec![rusqlite::types::Null; statement.parameter_count()];
        let rows = statement.query_map(rusqlite::params_from_iter(nothing), |row| row.get::<_, String>(3)).unwrap();
        rows.map(Result::unwrap).collect::<Vec<_>>().join("\n")
    };
    assert!(plan(OPEN).contains("USING INDEX provider_object_open"), "{}", plan(OPEN));
    assert!(!plan(FOLLOW).contains("SCAN"), "{}", plan(FOLLOW));
}
