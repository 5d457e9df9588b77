//! Runs against a provider that the test holds in its hands: what it has, what it refuses, and what it was asked.

use std::sync::{Arc, Mutex};

use chrono::DateTime;
use serde_json::{Value as Json, json};
use warp::Filter as _;

use super::*;
use crate::{
    domain::ledger::{Applied, Entry, Object},
    operations::exceptions,
    store::NewEvent,
    testing::{self, Fixture},
};

const DAY: i64 = 86_400;
const NOW: i64 = 1_790_000_000;

#[derive(Default)]
struct Books {
    payouts: Vec<Json>,
    transactions: Vec<Json>,
    /// A request whose path and query contain this is refused.
    refused: Vec<String>,
    asked: Vec<String>,
}

pub(in crate::recon) struct World {
    pub(in crate::recon) fixture: Fixture,
    books: Arc<Mutex<Books>>,
    runs: u32,
    /// What the last run told the alerts.
    check: Option<Check>,
}

fn answer(books: &Mutex<Books>, path: &str, query: &str) -> (u16, Json) {
    let mut books = books.lock().unwrap();
    let asked = format!("{path}?{query}");
    books.asked.push(asked.clone());
    if books.refused.iter().any(|part| asked.contains(part.as_str())) {
        return (400, json!({"error": {"type": "invalid_request_error", "message": "refused by the test"}}));
    }
    let parameters: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let parameter = |name: &str| parameters.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
    let created = |o: &Json| {
        let at = o["created"].as_i64().unwrap();
        parameter("created[gte]").is_none_or(|from| at >= from.parse::<i64>().unwrap())
            && parameter("created[lte]").is_none_or(|to| at <= to.parse::<i64>().unwrap())
    };
    let is = |o: &Json, field: &str, name: &str| parameter(name).is_none_or(|wanted| o[field] == wanted.as_str());
    let list = |data: Vec<Json>| (200, json!({"object": "list", "has_more": false, "data": data}));
    match path {
        "/v1/balance" => (200, json!({"available": [], "pending": []})),
        "/v1/payouts" => list(books.payouts.iter().filter(|p| created(p) && is(p, "status", "status")).cloned().collect()),
        "/v1/balance_transactions" => list(
            books.transactions.iter().filter(|t| created(t) && is(t, "_payout", "payout") && is(t, "source", "source")).cloned().collect(),
        ),
        _ => match books.payouts.iter().find(|p| path.ends_with(p["id"].as_str().unwrap())) {
            Some(payout) => (200, payout.clone()),
            None => (404, json!({"error": {"code": "resource_missing", "message": "no such payout"}})),
        },
    }
}

impl World {
    pub(in crate::recon) async fn new() -> Self {
        let books = Arc::new(Mutex::new(Books::default()));
        let shared = books.clone();
        let date = DateTime::from_timestamp(NOW, 0).unwrap().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let routes = warp::path::full().and(warp::query::raw().or(warp::any().map(String::new)).unify()).map(
            move |path: warp::path::FullPath, query: String| {
                let (status, body) = answer(&shared, path.as_str(), &query);
                warp::http::Response::builder().status(status).header("date", &date).body(body.to_string()).unwrap()
            },
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let service = hyper_util::service::TowerToHyperService::new(warp::service(routes.clone()));
                let connection = hyper::server::conn::http1::Builder::new().serve_connection(hyper_util::rt::TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        let fixture = testing::reopen_asking(&base, tempfile::tempdir().unwrap(), "2026-09-21T14:13:20Z", "test", |_| {});
        Self { fixture, books, runs: 0, check: None }
    }

    /// A paid payout of so many days ago with two charges, on both sides.
    pub(in crate::recon) async fn payout(&self, id: &str, days: i64) {
        let at = NOW - days * DAY;
        for n in 0..2 {
            let charge = format!("ch_{id}_{n}");
            self.transaction(&format!("txn_{charge}"), "charge", &charge, 1000, at, Some(id));
            self.ledger(Kind::Charge, &charge, 1000, at, Json::Null).await;
        }
        self.transaction(&format!("txn_{id}"), "payout", id, -2000, at, Some(id));
        self.ledger(Kind::Payout, id, -2000, at, Json::Null).await;
        self.books.lock().unwrap().payouts.push(json!({"id": id, "amount": 2000, "currency": "usd", "status": "paid", "created": at,
            "arrival_date": at + DAY, "automatic": true, "reconciliation_status": "completed", "balance_transaction": format!("txn_{id}")}));
    }

    fn transaction(&self, id: &str, category: &str, source: &str, amount: i64, at: i64, payout: Option<&str>) {
        self.books.lock().unwrap().transactions.push(json!({"id": id, "amount": amount, "fee": 0, "net": amount, "currency": "usd", "created": at,
            "type": category, "reporting_category": category, "source": source, "_payout": payout, "exchange_rate": null, "description": "left out"}));
    }

    /// Books a row as an event would, with the charge as the provider showed it.
    async fn ledger(&self, kind: Kind, source: &str, amount: i64, at: i64, body: Json) {
        let (env, id) = (&self.fixture.env, format!("evt_{}_{source}", kind.as_str()));
        let event = NewEvent {
            event_id: id.clone(),
            event_type: "charge.succeeded".into(),
            object_id: None,
            object_state: None,
            created: at,
            livemode: false,
            received_at: env.now(),
            origin: "webhook",
            body: "{}".into(),
        };
        assert!(env.store().insert_event(event, env.fact("test", &id, json!({}))).await.unwrap());
        let open = env.store().open_events(env.now(), 1).await.unwrap().remove(0);
        let entry = Entry {
            kind,
            source: source.into(),
            seq: 0,
            amount,
            currency: "usd".into(),
            at,
            customer: None,
            invoice: None,
            payment_intent: None,
        };
        let object = Object {
            kind: "charge",
            id: source.into(),
            status: "succeeded".into(),
            level: 2,
            rank: 1,
            customer: None,
            email: None,
            amount,
            currency: "usd".into(),
            parent: None,
            created: at,
            body,
        };
        let applied = Applied { entries: vec![entry], objects: vec![object] };
        env.store().apply_event(&open, at, &applied, "stripe", env.now()).await.unwrap();
    }

    async fn run(&mut self) -> Report {
        self.runs += 1;
        let env = self.fixture.env.clone();
        let run = Run { slot: env.now(), env, run_id: format!("run_{}", self.runs), cause: "manual", asked_by: None, attempt: 1 };
        let (mut report, json, open) = reconciled(&run).await.unwrap();
        let (kept, packed) = self.fixture.env.store().latest_recon_inputs("payouts").await.unwrap().unwrap();
        assert_eq!(kept, json, "the report is kept with the run");
        self.check = Some(check(&report, &open));
        (report.ts, report.run_id, report.generated_at) = (None, None, None);
        assert_eq!(recompute(&packed).unwrap(), report, "the kept inputs make the same report");
        report
    }

    pub(in crate::recon) fn change(&self, payout: &str, field: &str, value: Json) {
        let mut books = self.books.lock().unwrap();
        books.payouts.iter_mut().find(|p| p["id"] == payout).unwrap()[field] = value;
    }

    pub(in crate::recon) fn refuse(&self, parts: &[&str]) {
        self.books.lock().unwrap().refused = parts.iter().map(|part| (*part).to_owned()).collect();
    }

    /// How often something was asked for since the last time.
    pub(in crate::recon) fn asked(&self, part: &str) -> usize {
        let mut books = self.books.lock().unwrap();
        let count = books.asked.iter().filter(|asked| asked.contains(part)).count();
        books.asked.clear();
        count
    }

    async fn open(&self) -> Vec<String> {
        let open = self.fixture.env.store().open_exceptions("payouts").await.unwrap();
        open.into_iter().map(|e| e.kind).collect()
    }
}

fn kinds(report: &Report) -> Vec<&'static str> {
    report.exceptions.iter().map(|e| e.kind.as_str()).collect()
}

#[tokio::test]
async fn members_of_payouts_that_are_final_are_fetched_once() {
    let mut world = World::new().await;
    world.payout("po_old", 20).await;
    world.payout("po_new", 5).await;
    assert!(world.run().await.ok);
    assert_eq!(world.asked("payout=po_"), 2);
    let again = world.run().await;
    assert_eq!((again.ok, again.summary.matched, world.asked("payout=po_")), (true, 2, 1), "the new one may still fail");
    world.change("po_old", "status", json!("failed"));
    world.change("po_old", "failure_balance_transaction", json!("txn_back"));
    world.run().await;
    assert_eq!(world.asked("payout=po_old"), 1, "it is not what it was");
}

#[tokio::test]
async fn what_cannot_be_read_keeps_its_numbers_and_resolves_nothing() {
    let mut world = World::new().await;
    world.payout("po_1", 5).await;
    world.payout("po_2", 4).await;
    world.change("po_1", "amount", json!(2007));
    world.ledger(Kind::Charge, "ch_gone", 500, NOW - 20 * DAY, Json::Null).await;
    let whole = world.run().await;
    assert_eq!(kinds(&whole), ["unbalanced_payout", "missing_provider", "amount_mismatch"]);
    // The one with the fault cannot be read, and it is not there any more either.
    world.refuse(&["payout=po_1"]);
    let part = world.run().await;
    assert!(!part.complete && part.errors.len() == 1 && part.errors[0].contains("payout po_1"), "{:?}", part.errors);
    assert_eq!(
        part.payouts,
        whole
            .payouts
            .iter()
            .map(|p| crate::domain::reconcile::PayoutRow { exceptions: part_ids(&part, &p.id), ..p.clone() })
            .collect::<Vec<_>>()
    );
    assert_eq!((kinds(&part), part.totals.clone()), (vec!["unbalanced_payout", "amount_mismatch"], whole.totals.clone()));
    assert_eq!(world.open().await.len(), 3, "nothing is resolved by a run that did not see everything");
    world.refuse(&["balance_transactions?created"]);
    let part = world.run().await;
    assert!(part.errors[0].contains("list of balance transactions"), "{:?}", part.errors);
    world.refuse(&["payouts?created"]);
    let part = world.run().await;
    assert!(part.errors[0].contains("list of payouts") && part.payouts.len() == 2, "{:?}", part.errors);
    // All is well again.
    world.refuse(&[]);
    world.change("po_1", "amount", json!(2000));
    world.transaction("txn_late", "charge", "ch_gone", 500, NOW - 20 * DAY, None);
    assert!(world.run().await.ok);
    assert_eq!(world.open().await, Vec::<String>::new());
}

fn part_ids(report: &Report, payout: &str) -> Vec<String> {
    report.exceptions.iter().filter(|e| e.payout_id.as_deref() == Some(payout)).map(|e| e.id.clone()).collect()
}

#[tokio::test]
async fn a_payout_never_read_is_not_judged_and_nothing_is_missing() {
    let mut world = World::new().await;
    world.payout("po_1", 20).await;
    world.refuse(&["payout=po_1", "balance_transactions?created"]);
    let report = world.run().await;
    assert_eq!((kinds(&report), report.payouts[0].residual, report.summary.payouts["pending"]), (vec![], None, 1));
}

#[tokio::test]
async fn older_payouts_are_looked_at_until_they_are_done_with() {
    let mut world = World::new().await;
    world.payout("po_stuck", 50).await;
    world.payout("po_wrong", 60).await;
    world.payout("po_fine", 70).await;
    world.change("po_stuck", "status", json!("in_transit"));
    let report = world.run().await;
    assert_eq!(kinds(&report), ["overdue_payout"]);
    assert_eq!(
        report.payouts.iter().map(|p| p.id.as_str()).collect::<Vec<_>>(),
        ["po_stuck"],
        "the others are outside the window and final"
    );
    // It arrives in the end: outside every list, and yet its exception is over.
    world.change("po_stuck", "status", json!("paid"));
    assert!(world.run().await.ok);
    assert_eq!(world.open().await, Vec::<String>::new());
}

#[tokio::test]
async fn an_exception_stays_open_when_its_row_is_older_than_what_is_looked_at() {
    let mut world = World::new().await;
    world.payout("po_1", 5).await;
    world.ledger(Kind::Charge, "ch_gone", 500, NOW - 34 * DAY, Json::Null).await;
    assert_eq!(kinds(&world.run().await), ["missing_provider"]);
    let run = |age: i64| json!({"ledger_ids": [format!("le_{age}")], "payout_id": null, "balance_transaction_id": null});
    let input = Input { window_from: NOW - 35 * DAY, ..Input::default() };
    let lines =
        [34, 36].map(|age| crate::domain::reconcile::LedgerLine { id: format!("le_{age}"), at: NOW - age * DAY, ..Default::default() });
    let report = reconcile(&input);
    let scope = Scope::new(&Input { ledger: lines.into(), ..input }, &report, &Inputs::default());
    assert!(scope.has(&run(34)) && !scope.has(&run(36)));
    assert!(!scope.has(&json!({"balance_transaction_id": "txn_unknown"})) && !scope.has(&json!({"payout_id": "po_unknown"})));
}

#[tokio::test]
async fn the_provider_is_asked_once_before_a_row_is_called_missing() {
    let mut world = World::new().await;
    world.payout("po_1", 5).await;
    world.ledger(Kind::Charge, "ch_gone", 500, NOW - 20 * DAY, Json::Null).await;
    world.ledger(Kind::Charge, "ch_debit", 500, NOW - 20 * DAY, json!({"payment_method_details": {"type": "sepa_debit"}})).await;
    // Booked long before the ledger heard of it.
    world.ledger(Kind::Charge, "ch_early", 700, NOW - 20 * DAY, Json::Null).await;
    world.transaction("txn_early", "charge", "ch_early", 700, NOW - 36 * DAY, None);
    world.refuse(&["source=ch_gone"]);
    let part = world.run().await;
    assert!(kinds(&part).is_empty() && part.errors[0].contains("ch_gone"), "{:?} {:?}", part.exceptions, part.errors);
    world.refuse(&[]);
    world.asked("");
    let report = world.run().await;
    assert_eq!((kinds(&report), report.exceptions[0].source_id.as_deref()), (vec!["missing_provider"], Some("ch_gone")));
    assert_eq!(report.summary.transactions["pending_provider"], 1, "a bank debit has longer");
    assert_eq!(world.asked("source=ch_gone"), 1);
    world.run().await;
    let books = world.books.lock().unwrap();
    assert_eq!(books.asked.iter().filter(|a| a.contains("source=ch_gone") || a.contains("source=ch_debit")).count(), 0, "once is enough");
}

#[tokio::test]
async fn what_somebody_has_decided_about_is_quiet_and_what_an_incomplete_run_finds_is_not() {
    let mut world = World::new().await;
    world.payout("po_1", 5).await;
    world.payout("po_2", 4).await;
    world.change("po_1", "amount", json!(2007));
    let told = |world: &World| world.check.as_ref().unwrap().ok;
    world.run().await;
    assert_eq!(told(&world), Some(false));
    let env = world.fixture.env.clone();
    for (n, decision) in [exceptions::Decision::Acknowledge, exceptions::Decision::Resolve].into_iter().enumerate() {
        for e in env.store().open_exceptions("payouts").await.unwrap() {
            exceptions::decide(&env, &e.id, decision, "the provider was asked", "ana").await.unwrap();
        }
        let report = world.run().await;
        assert_eq!((report.ok, told(&world)), (false, Some(true)), "decision {n}");
    }
    world.refuse(&["payout=po_2"]);
    world.run().await;
    assert_eq!(told(&world), None, "what was not read may hold anything");
    world.change("po_1", "amount", json!(2009));
    world.run().await;
    assert_eq!(told(&world), Some(false), "it is another difference now, and it is there whatever else was not read");
}

#[tokio::test]
async fn a_payout_may_hold_what_waited_for_months() {
    let mut world = World::new().await;
    world.payout("po_1", 5).await;
    world.change("po_1", "amount", json!(2500));
    world.transaction("txn_waited", "charge", "ch_waited", 500, NOW - 100 * DAY, Some("po_1"));
    world.ledger(Kind::Charge, "ch_waited", 500, NOW - 100 * DAY, Json::Null).await;
    world.books.lock().unwrap().transactions.retain(|t| t["id"] != "txn_po_1");
    world.transaction("txn_po_1", "payout", "po_1", -2500, NOW - 5 * DAY, Some("po_1"));
    let report = world.run().await;
    assert_eq!((kinds(&report), report.summary.missing_in_ledger), (vec!["amount_mismatch"], 0), "only our row of the payout is off");
}

#[tokio::test]
async fn the_same_data_looked_at_again_are_the_same_reconciliation() {
    let mut world = World::new().await;
    world.payout("po_1", 5).await;
    world.run().await;
    let (env, run) = (world.fixture.env.clone(), |report: &Report| (report.recon_id.clone(), report.input_digest.clone()));
    let (previous, open) = before(&env).await.unwrap();
    let at = |seconds: i64| DateTime::from_timestamp(NOW + seconds, 0).unwrap();
    let (_, _, now) = judged(&env, at(0), &previous, &open).await.unwrap();
    let (_, _, later) = judged(&env, at(7), &previous, &open).await.unwrap();
    assert_eq!(run(&now), run(&later));
    assert_ne!(now.window, later.window, "the moment is in the window");
    world.transaction("txn_new", "charge", "ch_new", 5, NOW, None);
    let (_, _, other) = judged(&env, at(7), &previous, &open).await.unwrap();
    assert_ne!(run(&other), run(&later));
}

#[tokio::test]
async fn what_another_account_had_is_not_fallen_back_on() {
    let mut world = World::new().await;
    world.payout("po_1", 5).await;
    world.run().await;
    let env = world.fixture.env.clone();
    let (mut inputs, _) = before(&env).await.unwrap();
    assert_eq!(inputs.payouts.len(), 1);
    inputs.provider.name = "live".to_owned();
    let recon = crate::store::NewRecon {
        scope: "payouts",
        run_id: "run_of_live",
        recon_id: "prun_1",
        at: env.now(),
        complete: true,
        ok: true,
        inputs: pack(&inputs).unwrap(),
        report: &json!({}),
        findings: Vec::new(),
        gone: Vec::new(),
    };
    env.store().record_recon(recon, env.fact("test", "run_of_live", json!({}))).await.unwrap();
    assert_eq!(before(&env).await.unwrap().0, Inputs::default());
}
