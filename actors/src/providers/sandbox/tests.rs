//! The sandbox from the outside: over HTTP with our own client, and across restarts.

use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use serde_json::{Value as Json, json};
use tokio::task::JoinHandle;

use super::*;
use crate::providers::stripe::Client;

pub(super) const START: i64 = 1_790_000_000;

/// A serving sandbox on a file of its own, whose real clock the test holds.
pub(super) struct Served {
    pub(super) sandbox: Sandbox,
    pub(super) client: Client,
    base: String,
    real: Arc<AtomicI64>,
    task: JoinHandle<()>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

pub(super) async fn serve(folder: &tempfile::TempDir) -> Served {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let real = Arc::new(AtomicI64::new(START));
    let clock = real.clone();
    let clock = Arc::new(move || DateTime::from_timestamp(clock.load(Ordering::SeqCst), 0).unwrap());
    let sandbox = Sandbox::open(Settings::new(folder.path().join("sandbox.db")), clock).await.unwrap();
    let listener = Arc::new(tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap());
    let base = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = sandbox.clone();
    let task = tokio::spawn(async move {
        server.serve(listener, async { drop(stopped.await) }).await.unwrap();
    });
    let client = Client::new(&base, "sk_test_1", Client::http_client().unwrap());
    Served { sandbox, client, base, real, task, stop: Some(stop) }
}

impl Served {
    pub(super) async fn stop(mut self) {
        drop(self.stop.take());
        self.task.await.unwrap();
        self.sandbox.close().await.unwrap();
    }

    async fn control(&self, method: reqwest::Method, path: &str, body: Json) -> Json {
        let url = format!("{}/_control/{path}", self.base);
        let answer = self.sandbox.inner.client().request(method, url).json(&body).send().await.unwrap();
        answer.json().await.unwrap()
    }

    async fn chaos(&self, body: Json) {
        self.control(reqwest::Method::PUT, "chaos", body).await;
    }

    async fn charge(&self, amount: i64, key: &str) -> Json {
        let params = [("amount", amount.to_string()), ("currency", "usd".into()), ("source", "tok_visa".into())];
        self.client.post("/v1/charges", &params, key).await.unwrap().body
    }

    pub(super) async fn advance(&self, days: i64) -> i64 {
        self.sandbox.advance(days * clock::DAY).await.unwrap().0
    }

    async fn payouts(&self) -> Vec<Json> {
        self.client.payouts(0, i64::MAX).await.unwrap()
    }
}

/// A webhook endpoint that answers with the given status and keeps what it got.
async fn receiver(status: Arc<AtomicI64>) -> (String, Arc<Mutex<Vec<Json>>>, JoinHandle<()>) {
    let got = Arc::new(Mutex::new(Vec::new()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let keep = got.clone();
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (keep, status) = (keep.clone(), status.clone());
            let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let (keep, status) = (keep.clone(), status.clone());
                async move {
                    let header = request.headers()["stripe-signature"].to_str().unwrap().to_owned();
                    let body = http_body_util::BodyExt::collect(request.into_body()).await.unwrap().to_bytes();
                    let code = status.load(Ordering::SeqCst);
                    if code == 200 {
                        crate::domain::signature::verify(&header, &body, &["whsec_1"], START, 300).unwrap();
                        keep.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
                    }
                    let answer = hyper::Response::builder().status(u16::try_from(code).unwrap());
                    Ok::<_, std::convert::Infallible>(answer.body(http_body_util::Full::<Bytes>::default()).unwrap())
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(hyper_util::rt::TokioIo::new(stream), service));
        }
    });
    (url, got, task)
}

fn types(got: &Mutex<Vec<Json>>) -> Vec<String> {
    got.lock().unwrap().iter().map(|e| e["type"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn an_invoice_is_paid_settled_and_paid_out_to_the_cent() {
    let folder = tempfile::tempdir().unwrap();
    let s = serve(&folder).await;
    let c = &s.client;
    let customer = c.create_customer("a@example.com", "c1").await.unwrap();
    let customer = customer["id"].as_str().unwrap();
    c.attach_payment_method(customer, "pm_card_visa", "c2").await.unwrap();
    let invoice = c.create_invoice(customer, "usd", "Work", "c3").await.unwrap();
    let invoice = invoice["id"].as_str().unwrap();
    c.create_invoice_item(invoice, customer, 9900, "usd", "Work", "c4").await.unwrap();
    let open = c.finalize_invoice(invoice, "c5").await.unwrap();
    assert_eq!((&open["status"], &open["amount_due"]), (&json!("open"), &json!(9900)));
    assert_eq!(c.pay_invoice(invoice, &[], "c6").await.unwrap()["status"], "paid");
    assert_eq!(c.invoice_payments(invoice).await.unwrap()[0]["amount_paid"], 9900);
    let charge = c.charges(1).await.unwrap().remove(0);
    let refund = c.create_refund(charge["id"].as_str().unwrap(), Some(1000), None, "c7").await.unwrap();
    assert!(!refund.replayed);
    assert!(c.create_refund(charge["id"].as_str().unwrap(), Some(1000), None, "c7").await.unwrap().replayed);
    s.advance(4).await;
    let payouts = s.payouts().await;
    assert_eq!(payouts.len(), 1);
    assert_eq!((&payouts[0]["status"], &payouts[0]["amount"]), (&json!("paid"), &json!(9900 - 317 - 1000)));
    let members = c.balance_transactions_of_payout(payouts[0]["id"].as_str().unwrap()).await.unwrap();
    assert_eq!(members.len(), 3);
    assert_eq!(members.iter().map(|m| m["net"].as_i64().unwrap()).sum::<i64>(), 0);
    s.stop().await;
}

#[tokio::test]
async fn a_restart_continues_with_the_same_objects_clock_keys_and_deliveries() {
    let folder = tempfile::tempdir().unwrap();
    let status = Arc::new(AtomicI64::new(503));
    let (url, got, task) = receiver(status.clone()).await;
    let s = serve(&folder).await;
    s.sandbox.set_daemon_endpoint("http://127.0.0.1:1/", "whsec_1").await.unwrap();
    s.charge(5000, "k").await;
    let now = s.advance(1).await;
    s.chaos(json!({"payout_fail": 1})).await;
    s.stop().await;

    let s = serve(&folder).await;
    assert_eq!(s.sandbox.now().await, now);
    assert_eq!(s.control(reqwest::Method::GET, "chaos", json!({})).await["payout_fail"], 1);
    let answer = s.client.get("/v1/charges", &[]).await.unwrap();
    assert_eq!(answer.body["data"].as_array().unwrap().len(), 1);
    assert_eq!(answer.provider_now.timestamp(), now);
    // All tries were used up while nobody answered; a new event finds the new address.
    status.store(200, Ordering::SeqCst);
    s.sandbox.set_daemon_endpoint(&url, "whsec_1").await.unwrap();
    s.charge(6000, "k2").await;
    s.advance(0).await;
    assert_eq!(types(&got), ["charge.succeeded"]);
    // A delivery that failed once is tried again by the virtual clock, also after a restart.
    status.store(500, Ordering::SeqCst);
    s.charge(7000, "k3").await;
    s.advance(0).await;
    s.stop().await;
    status.store(200, Ordering::SeqCst);
    let s = serve(&folder).await;
    s.real.fetch_add(11, Ordering::SeqCst);
    s.advance(0).await;
    assert_eq!(types(&got), ["charge.succeeded", "charge.succeeded"]);
    task.abort();
    s.stop().await;
}

#[tokio::test]
async fn faults_do_what_their_names_say() {
    let folder = tempfile::tempdir().unwrap();
    let s = serve(&folder).await;
    s.chaos(json!({"skew_amount": 1, "payout_residual": 1})).await;
    s.charge(10_000, "a").await;
    s.chaos(json!({"skew_currency": 1})).await;
    s.charge(20_000, "b").await;
    s.chaos(json!({"ghost_balance_transaction": 1})).await;
    let last = s.charge(30_000, "c").await;
    let movements = s.client.balance_transactions(0, i64::MAX).await.unwrap();
    let figures: Vec<_> = movements.iter().map(|m| (m["amount"].as_i64().unwrap(), m["currency"].as_str().unwrap())).collect();
    assert_eq!(figures, [(30_000, "usd"), (30_000, "usd"), (20_000, "eur"), (9_999, "usd")]);
    assert_eq!(movements.iter().filter(|m| m["source"]["id"] == last["id"]).count(), 1);
    s.chaos(json!({"payout_fail": 1})).await;
    s.advance(3).await;
    let payouts = s.payouts().await;
    let failed: Vec<_> = payouts.iter().filter(|p| p["status"] == "failed").collect();
    assert_eq!((payouts.len(), failed.len()), (2, 1));
    let mut residuals = Vec::new();
    for payout in &payouts {
        let members = s.client.balance_transactions_of_payout(payout["id"].as_str().unwrap()).await.unwrap();
        let own = &payout["balance_transaction"];
        let sum: i64 = members.iter().filter(|m| m["id"] != *own).map(|m| m["net"].as_i64().unwrap()).sum();
        residuals.push(payout["amount"].as_i64().unwrap() - sum);
    }
    residuals.sort_unstable();
    assert_eq!(residuals, [-1, 0]);
    // The returned money is a member of a later payout.
    s.advance(3).await;
    let back = failed[0]["failure_balance_transaction"].as_str().unwrap();
    let again = s.payouts().await.into_iter().find(|p| p["amount"] == failed[0]["amount"] && p["id"] != failed[0]["id"]).unwrap();
    let members = s.client.balance_transactions_of_payout(again["id"].as_str().unwrap()).await.unwrap();
    assert!(members.iter().any(|m| m["id"] == back));
    s.stop().await;
}

#[tokio::test]
async fn our_client_rides_out_what_may_be_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let s = serve(&folder).await;
    s.chaos(json!({"status_429": 1})).await;
    s.client.balance().await.unwrap();
    s.chaos(json!({"status_429": 1})).await;
    let params = [("email", "a@example.com".to_owned())];
    assert_eq!(s.client.post("/v1/customers", &params, "k").await.unwrap_err().code, crate::error::Code::Limited);
    // A stored 500 is replayed: the caller learns nothing, and the work was done once.
    s.chaos(json!({"error_after_commit": 1})).await;
    assert_eq!(s.client.post("/v1/customers", &params, "k").await.unwrap_err().code, crate::error::Code::Unavailable);
    assert_eq!(s.client.customers_by_email("a@example.com").await.unwrap().len(), 1);
    for i in 0..205 {
        s.client.create_customer("many@example.com", &format!("m{i}")).await.unwrap();
    }
    assert_eq!(s.client.customers_by_email("many@example.com").await.unwrap().len(), 205);
    s.stop().await;
}

#[tokio::test]
async fn the_past_can_be_chosen_only_while_nothing_happened_and_a_reset_forgets_all_but_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let s = serve(&folder).await;
    s.sandbox.set_daemon_endpoint("http://127.0.0.1:1/", "whsec_1").await.unwrap();
    assert!(s.sandbox.start_in_past(30 * clock::DAY).await.unwrap());
    assert_eq!(s.sandbox.now().await, START - 30 * clock::DAY);
    s.charge(5000, "a").await;
    assert!(!s.sandbox.start_in_past(clock::DAY).await.unwrap());
    s.stop().await;
    let s = serve(&folder).await;
    assert_eq!(s.sandbox.now().await, START - 30 * clock::DAY, "a restart stays in the past");
    assert_eq!(s.advance(30).await, START);
    assert_eq!(s.payouts().await.len(), 1);
    s.sandbox.reset().await.unwrap();
    assert_eq!(s.sandbox.now().await, START);
    assert_eq!(s.client.list_all("/v1/events", &[]).await.unwrap(), Vec::<Json>::new());
    assert_eq!(s.client.list_all("/v1/webhook_endpoints", &[]).await.unwrap().len(), 1);
    s.stop().await;
}

#[tokio::test]
async fn a_page_that_fails_is_never_the_end_of_a_list_and_a_slow_one_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let s = serve(&folder).await;
    for i in 0..120 {
        s.client.create_customer("page@example.com", &format!("p{i}")).await.unwrap();
    }
    s.chaos(json!({"fail_page": 1})).await;
    assert_eq!(s.client.customers_by_email("page@example.com").await.unwrap().len(), 120, "one failure is ridden out");
    s.chaos(json!({"fail_page": 50})).await;
    assert_eq!(s.client.customers_by_email("page@example.com").await.unwrap_err().code, crate::error::Code::Unavailable);
    s.chaos(json!({"fail_page": 0, "slow_page": 1})).await;
    let start = std::time::Instant::now();
    assert_eq!(s.client.customers_by_email("page@example.com").await.unwrap().len(), 120);
    assert!(start.elapsed().as_millis() >= u128::try_from(control::SLOW_PAGE_MS).unwrap());
    assert_eq!(s.control(reqwest::Method::GET, "chaos", json!({})).await["slow_page"], 0);
    s.stop().await;
}

#[tokio::test]
async fn a_misspelt_switch_is_refused_with_what_was_meant_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let s = serve(&folder).await;
    let before = s.control(reqwest::Method::GET, "chaos", json!({})).await;
    let refused = s.control(reqwest::Method::PUT, "chaos", json!({"drop_webhok": 0.5, "slow_ms": 1})).await;
    let message = refused["error"]["message"].as_str().unwrap();
    assert_eq!(message, "there is no switch 'drop_webhok', did you mean drop_webhook?");
    let refused = s.control(reqwest::Method::PUT, "chaos", json!({"weather": 1})).await;
    assert!(refused["error"]["message"].as_str().unwrap().contains("there are drop_webhook, "), "{refused}");
    assert_eq!(s.control(reqwest::Method::GET, "chaos", json!({})).await, before);
    s.stop().await;
}

#[tokio::test]
async fn counted_faults_hit_as_many_as_they_were_told_and_delays_end() {
    let folder = tempfile::tempdir().unwrap();
    let s = serve(&folder).await;
    s.chaos(json!({"slow_ms": 150})).await;
    let start = std::time::Instant::now();
    s.client.balance().await.unwrap();
    assert!(start.elapsed().as_millis() >= 150);
    s.chaos(json!({"slow_ms": 0, "error_after_commit": 2, "status_429": 2})).await;
    s.client.balance().await.unwrap();
    let left = s.control(reqwest::Method::GET, "chaos", json!({})).await;
    assert_eq!((&left["status_429"], &left["error_after_commit"]), (&json!(0), &json!(2)), "reads rode out both; no write was made");
    let params = [("email", "twice@example.com".to_owned())];
    for key in ["e1", "e2"] {
        assert_eq!(s.client.post("/v1/customers", &params, key).await.unwrap_err().code, crate::error::Code::Unavailable);
    }
    s.client.post("/v1/customers", &params, "e3").await.unwrap();
    assert_eq!(s.client.customers_by_email("twice@example.com").await.unwrap().len(), 3, "each did its work");
    s.stop().await;
}

#[tokio::test]
async fn every_try_of_a_delivery_is_remembered_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let status = Arc::new(AtomicI64::new(503));
    let (url, _, task) = receiver(status.clone()).await;
    let s = serve(&folder).await;
    s.sandbox.set_daemon_endpoint(&url, "whsec_1").await.unwrap();
    s.charge(5000, "k").await;
    s.advance(0).await;
    s.stop().await;
    let s = serve(&folder).await;
    status.store(200, Ordering::SeqCst);
    s.real.fetch_add(10, Ordering::SeqCst);
    s.advance(0).await;
    let listed = s.control(reqwest::Method::GET, "events", json!({})).await;
    let event = listed["events"][0]["id"].as_str().unwrap().to_owned();
    let history = s.control(reqwest::Method::GET, &format!("events/{event}"), json!({})).await;
    let delivery = &history["deliveries"][0];
    let tries: Vec<_> = delivery["attempts"].as_array().unwrap().iter().map(|a| (a["at"].as_i64(), a["code"].as_i64())).collect();
    assert_eq!(tries, [(Some(START), Some(503)), (Some(START + 10), Some(200))]);
    assert_eq!((&delivery["state"], &history["pending_webhooks"]), (&json!("delivered"), &json!(0)));
    task.abort();
    s.stop().await;
}
