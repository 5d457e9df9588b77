//! The ledger over real HTTP: rows, balances per currency, corrections that are rows of their own, and what no statement may do.

use reqwest::Method;
use serde_json::{Value as Json, json};

use super::{Running, read};
use crate::{
    domain::ledger::{Applied, Entry, Kind},
    store::Origin,
};

async fn book(it: &Running, rows: &[(Kind, &str, i64, &str, i64)]) {
    let env = &it.daemon.env;
    let entry = |(kind, source, amount, currency, at): &(Kind, &str, i64, &str, i64)| Entry {
        kind: *kind,
        source: (*source).into(),
        seq: 0,
        amount: *amount,
        currency: (*currency).into(),
        at: *at,
        customer: Some("cus_1".into()),
        invoice: None,
        payment_intent: None,
    };
    let applied = Applied { entries: rows.iter().map(entry).collect(), objects: Vec::new() };
    let origin = Origin { provider: "stripe", livemode: false, event_id: None, origin: "api", at: 1, now: env.now() };
    env.store().book(&applied, &origin).await.unwrap();
}

async fn correct(it: &Running, key: &str, body: &Json) -> (u16, Json) {
    let request = it.request(Method::POST, "/api/ledger/corrections").header("content-type", "application/json");
    let request = if key.is_empty() { request } else { request.header("idempotency-key", key) };
    read(request.body(body.to_string()).send().await.unwrap()).await
}

#[tokio::test]
async fn a_correction_is_a_row_of_its_own_counted_once_and_reconciled_with_what_it_corrects() {
    let it = Running::start(&[]).await;
    let store = it.daemon.env.store();
    book(&it, &[(Kind::Charge, "ch_1", 1000, "usd", 50), (Kind::Charge, "ch_2", 700, "eur", 60)]).await;
    let (_, list) = it.get("/api/ledger?source=ch_1").await;
    let original = list["entries"][0].clone();
    let id = original["id"].as_str().unwrap();
    let body = json!({"corrects": id, "amount_minor": -30, "reason": "the fee was booked twice"});

    let dry = correct(&it, "k1", &json!({"corrects": id, "amount_minor": -30, "reason": "x", "dry_run": true})).await.1;
    assert_eq!((&dry["before_minor"], &dry["after_minor"], &dry["entry"]), (&json!(1000), &json!(970), &Json::Null), "{dry}");
    assert_eq!(store.ledger_count().await.unwrap(), 2);

    let (status, made) = correct(&it, "k1", &body).await;
    assert_eq!((status, &made["after_minor"], &made["replayed"]), (200, &json!(970), &json!(false)), "{made}");
    for (member, value) in [
        ("corrects", json!(id)),
        ("origin", json!("manual")),
        ("note", body["reason"].clone()),
        ("amount_minor", json!(-30)),
        ("at", json!(50)),
    ] {
        assert_eq!(made["entry"][member], value, "{member}: {made}");
    }
    let (_, again) = correct(&it, "k1", &body).await;
    assert_eq!((&again["entry"]["id"], &again["replayed"], &again["after_minor"]), (&made["entry"]["id"], &json!(true), &json!(970)));
    assert_eq!(store.ledger_count().await.unwrap(), 3, "a repetition adds nothing");
    assert_eq!(correct(&it, "k1", &json!({"corrects": id, "amount_minor": 1, "reason": "y"})).await.1["reason"], "idempotency_key_reused");
    let (_, second) = correct(&it, "k2", &json!({"corrects": id, "amount_minor": 5, "reason": "half of it was right"})).await;
    assert_eq!((&second["before_minor"], &second["after_minor"]), (&json!(970), &json!(975)), "{second}");

    let lines = store.ledger_lines(false, 0, 100).await.unwrap();
    assert_eq!(lines.iter().map(|l| (l.source.as_str(), l.amount)).collect::<Vec<_>>(), [("ch_1", 975), ("ch_2", 700)]);
    assert_eq!(it.get("/api/ledger?source=ch_1").await.1["entries"][2], original, "the row itself stays as it was");

    let correction = made["entry"]["id"].as_str().unwrap();
    for (key, body, status) in [
        ("", json!({"corrects": id, "amount_minor": 1, "reason": "x"}), 422),
        ("k3", json!({"corrects": correction, "amount_minor": 1, "reason": "x"}), 422),
        ("k3", json!({"corrects": "le_none", "amount_minor": 1, "reason": "x"}), 404),
        ("k3", json!({"corrects": id, "amount_minor": 0, "reason": "x"}), 422),
        ("k3", json!({"corrects": id, "amount_minor": i64::MAX - 10_000, "reason": "every later sum would overflow"}), 422),
        ("k3", json!({"corrects": id, "amount_minor": 1.5, "reason": "x"}), 422),
        ("k3", json!({"corrects": id, "amount_minor": 1, "reason": " "}), 422),
    ] {
        assert_eq!(correct(&it, key, &body).await.0, status, "{key} {body}");
    }
    let facts = it.get("/api/journal/verify").await.1;
    assert_eq!(facts["ok"], true);
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn corrections_made_at_once_are_all_counted() {
    let it = Running::start(&[]).await;
    book(&it, &[(Kind::Charge, "ch_1", 1000, "usd", 50)]).await;
    let id = it.get("/api/ledger").await.1["entries"][0]["id"].as_str().unwrap().to_owned();
    let body = json!({"corrects": id, "amount_minor": 1, "reason": "one more"});
    let answers = futures_util::future::join_all((0..20).map(|n| {
        let (it, body) = (&it, &body);
        async move { correct(it, &format!("k{}", n % 10), body).await }
    }))
    .await;
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
    assert_eq!(it.daemon.env.store().ledger_lines(false, 0, 100).await.unwrap()[0].amount, 1010);
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn balances_are_per_currency_and_kind_as_of_a_time_and_rows_have_filters_and_a_cursor() {
    let it = Running::start(&[]).await;
    book(
        &it,
        &[
            (Kind::Charge, "ch_1", 1000, "usd", 50),
            (Kind::Refund, "re_1", -400, "usd", 60),
            (Kind::Charge, "ch_2", 5000, "jpy", 70),
            (Kind::Charge, "ch_3", 200, "usd", 80),
        ],
    )
    .await;
    let (_, all) = it.get("/api/ledger/balances").await;
    assert_eq!(
        all["balances"],
        json!([
            {"currency": "jpy", "total_minor": 5000, "count": 1, "kinds": {"charge": {"amount_minor": 5000, "count": 1}}},
            {"currency": "usd", "total_minor": 800, "count": 3,
             "kinds": {"charge": {"amount_minor": 1200, "count": 2}, "refund": {"amount_minor": -400, "count": 1}}},
        ])
    );
    let (_, then) = it.get("/api/ledger/balances?as_of=60").await;
    assert_eq!((then["balances"][0]["total_minor"].as_i64(), then["count"].as_i64()), (Some(600), Some(1)), "{then}");
    for (query, sources) in [
        ("kind=charge", vec!["ch_3", "ch_2", "ch_1"]),
        ("source=re_1", vec!["re_1"]),
        ("customer=cus_2", vec![]),
        ("since=70", vec!["ch_3", "ch_2"]),
        ("limit=2", vec!["ch_3", "ch_2"]),
    ] {
        let (_, list) = it.get(&format!("/api/ledger?{query}")).await;
        let found: Vec<_> = list["entries"].as_array().unwrap().iter().map(|e| e["source"].as_str().unwrap()).collect();
        assert_eq!(found, sources, "{query}");
    }
    let next = it.get("/api/ledger?limit=2").await.1["next"].as_str().unwrap().to_owned();
    let (_, rest) = it.get(&format!("/api/ledger?limit=2&after={next}")).await;
    assert_eq!((rest["entries"][1]["source"].as_str(), &rest["next"]), (Some("ch_1"), &Json::Null));
    assert_eq!(it.get("/api/ledger?kind=tip").await.0, 422);
    it.daemon.stop().await.unwrap();
}
