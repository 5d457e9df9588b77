//! The gateway's part of the main job over real HTTP, with the sandbox as provider: an invoice is made, paid, seen, refunded; a
//! backup is made; what was done is in the journal.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value as Json, json};

use super::{Running, read};
use crate::operations::{refund_last, resume_refunds};

async fn invoice(it: &Running, body: &Json) -> Json {
    let (status, invoice) = it.post("/api/payments/create-invoice", body).await;
    assert_eq!(status, 200, "{invoice}");
    invoice
}

/// Pays an open invoice at the provider and waits until its webhooks are processed.
async fn pay(it: &Running, invoice: &Json) {
    let provider = it.daemon.env.provider();
    let customer = invoice["customer"].as_str().unwrap();
    provider.attach_payment_method(customer, "pm_card_visa", &format!("pm-{}", invoice["invoice_id"])).await.unwrap();
    let id = invoice["invoice_id"].as_str().unwrap();
    provider.pay_invoice(id, &[], &format!("pay-{id}")).await.unwrap();
    until(it, |list| list["webhooks"].as_array().unwrap().iter().any(|w| w["event_type"] == "invoice.paid" && w["object_id"] == *id)).await;
}

async fn until(it: &Running, holds: impl Fn(&Json) -> bool) {
    for _ in 0..500 {
        let (_, list) = it.get("/api/payments/webhooks?limit=100&status=processed").await;
        if holds(&list) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the webhooks did not come");
}

#[tokio::test]
async fn an_invoice_is_made_paid_seen_and_refunded_once() {
    let it = Running::start(&[]).await;
    let asked = json!({"amount": 12.30, "email": "Ann+x@Example.com", "description": "Hosting"});
    let made = invoice(&it, &asked).await;
    for (name, value) in [
        ("status", json!("open")),
        ("amount_minor", json!(1230)),
        ("currency", json!("usd")),
        ("livemode", json!(false)),
        ("ok", json!(true)),
    ] {
        assert_eq!(made[name], value, "{name}");
    }
    assert!(made["hosted_invoice_url"].is_string() && made["number"].is_string());
    pay(&it, &made).await;

    let (_, list) = it.get("/api/customer/invoices/ann%2Bx@example.com").await;
    let first = &list["invoices"][0];
    for (name, value) in [
        ("amount", json!("12.30")),
        ("status", json!("paid")),
        ("amount_paid_minor", json!(1230)),
        ("refunded_minor", json!(0)),
        ("description", json!("Hosting")),
    ] {
        assert_eq!(first[name], value, "{name}: {list}");
    }
    let (_, nobody) = it.get("/api/customer/invoices/nobody@example.com").await;
    assert_eq!(nobody, json!({"ok": true, "email": "nobody@example.com", "invoices": []}));
    let (status, bad) = it.get("/api/customer/invoices/nobody").await;
    assert_eq!((status, &bad["field"]), (422, &json!("email")));

    let (status, changed) = it.post("/api/payments/refund-last", &json!({"expected_payment_id": "ch_other"})).await;
    assert_eq!((status, &changed["reason"]), (409, &json!("payment_changed")));
    let payment = changed["payment_id"].as_str().unwrap().to_owned();
    let refunded = it.request(Method::POST, "/api/payments/refund-last").send().await.unwrap();
    let (status, refunded) = read(refunded).await;
    assert_eq!(status, 200, "{refunded}");
    for (name, value) in [
        ("payment_id", json!(payment)),
        ("amount_minor", json!(1230)),
        ("currency", json!("usd")),
        ("status", json!("succeeded")),
        ("replayed", json!(false)),
    ] {
        assert_eq!(refunded[name], value, "{name}");
    }
    let (status, again) = it.post("/api/payments/refund-last", &json!({})).await;
    assert_eq!((status, &again["reason"]), (409, &json!("nothing_to_refund")));
    until(&it, |list| list["webhooks"].as_array().unwrap().iter().any(|w| w["event_type"] == "charge.refunded")).await;
    let (_, list) = it.get("/api/customer/invoices/ann+x@example.com").await;
    assert_eq!(list["invoices"][0]["refunded_minor"], 1230, "{list}");
    let log = std::fs::read_to_string(it.daemon.env.log_path("refunds.log")).unwrap();
    let line: Json = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!((&line["refund_id"], &line["ok"], log.lines().count()), (&refunded["refund_id"], &json!(true), 1));
    let (_, journal) = it.get("/api/journal/verify").await;
    assert_eq!(journal["ok"], true);
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn an_idempotency_key_answers_again_and_refuses_another_request() {
    let it = Running::start(&[]).await;
    let keyed = |path: &str, key: &str, body: &Json| {
        let request =
            it.request(Method::POST, path).header("idempotency-key", key).header("content-type", "application/json").body(body.to_string());
        async move { read(request.send().await.unwrap()).await }
    };
    let (create, refund) = ("/api/payments/create-invoice", "/api/payments/refund-last");
    let asked = json!({"amount_minor": 1000, "email": "a@b.c"});
    let (_, made) = keyed(create, "k1", &asked).await;
    let (_, again) = keyed(create, "k1", &asked).await;
    assert_eq!((&made["invoice_id"], &again["replayed"]), (&again["invoice_id"], &json!(true)));
    let (status, other) = keyed(create, "k1", &json!({"amount_minor": 1001, "email": "a@b.c"})).await;
    assert_eq!((status, &other["reason"]), (409, &json!("idempotency_key_reused")));
    pay(&it, &made).await;

    let partial = json!({"amount_minor": 300, "reason": "requested_by_customer"});
    assert_eq!(it.post(refund, &partial).await.1["field"], "Idempotency-Key");
    let (status, first) = keyed(refund, "r1", &partial).await;
    assert_eq!((status, &first["amount_minor"]), (200, &json!(300)), "{first}");
    let (_, second) = keyed(refund, "r1", &partial).await;
    assert_eq!((&second["refund_id"], &second["replayed"]), (&first["refund_id"], &json!(true)));
    assert_eq!(keyed(refund, "r1", &json!({"amount_minor": 400})).await.1["reason"], "idempotency_key_reused");
    assert_eq!(keyed(refund, "r2", &json!({"amount_minor": 701})).await.1["field"], "amount_minor");
    let (_, rest) = keyed(refund, "r3", &json!({})).await;
    assert_eq!(rest["amount_minor"], 700);
    assert_eq!(keyed(refund, "", &json!({})).await.1["field"], "Idempotency-Key");
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn a_double_click_refunds_once() {
    let it = Running::start(&[]).await;
    for amount in [1000, 2000] {
        let made = invoice(&it, &json!({"amount_minor": amount, "email": "a@b.c"})).await;
        pay(&it, &made).await;
    }
    let body = json!({});
    let (one, two) = tokio::join!(it.post("/api/payments/refund-last", &body), it.post("/api/payments/refund-last", &body));
    for (status, answer) in [&one, &two] {
        let fine = *status == 200 && answer["amount_minor"] == 2000;
        assert!(fine || (*status == 409), "{status} {answer}");
    }
    assert!(one.0 == 200 || two.0 == 200);
    let refunds = it.daemon.env.provider().list_all("/v1/refunds", &[]).await.unwrap();
    assert_eq!(refunds.len(), 1);
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn an_interrupted_refund_is_finished_once() {
    let it = Running::start(&[]).await;
    let made = invoice(&it, &json!({"amount_minor": 1000, "email": "a@b.c"})).await;
    pay(&it, &made).await;
    let env = &it.daemon.env;
    let charge = env.provider().charges(1).await.unwrap().remove(0);
    let text = |name: &str| charge[name].as_str().unwrap().to_owned();
    let intent = crate::store::RefundIntent {
        id: format!("ep-refund-{}-0-1000", text("id")),
        caller_key: None,
        charge: text("id"),
        payment_intent: Some(text("payment_intent")),
        amount: 1000,
        currency: text("currency"),
        reason: None,
        state: "intended".into(),
        refund_id: None,
        answer: None,
        created_at: chrono::DateTime::UNIX_EPOCH,
    };
    let before = env.now() - chrono::TimeDelta::minutes(2); // by the process before
    assert!(env.store().insert_refund_intent(&intent, before, env.fact("refund.intent", &intent.id, json!({}))).await.unwrap());
    // The provider did it, and the answer was lost with the process.
    env.provider().create_refund(&intent.charge, Some(1000), None, &intent.id).await.unwrap();
    assert_eq!(resume_refunds::resume_open_intents(env).await.unwrap(), 1);
    assert_eq!(resume_refunds::resume_open_intents(env).await.unwrap(), 0);
    let ended = env.store().refund_intent(&intent.id).await.unwrap().unwrap();
    assert_eq!((ended.state.as_str(), &ended.answer.unwrap()["replayed"]), ("succeeded", &json!(true)));
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn a_refund_whose_answer_was_a_failure_after_it_was_made_is_found_and_not_made_again() {
    let it = Running::start(&[]).await;
    let made = invoice(&it, &json!({"amount_minor": 1000, "email": "a@b.c"})).await;
    pay(&it, &made).await;
    let env = &it.daemon.env;
    let control = format!("http://{}/_control/chaos", env.sandbox_address().unwrap());
    it.http.put(control).body(json!({"error_after_commit": 1}).to_string()).send().await.unwrap();
    let asked = refund_last::Asked { asked_by: "test".into(), ..refund_last::Asked::default() };
    // The provider keeps its 500 under the key and repeats it, but the refund is there: it is read, not asked for again.
    let answer = refund_last::refund_last(env, &asked).await.unwrap();
    assert_eq!((&answer["amount_minor"], &answer["status"]), (&json!(1000), &json!("succeeded")));
    assert_eq!(refund_last::refund_last(env, &asked).await.unwrap_err().reason, "nothing_to_refund");
    let refunds = env.provider().refunds_of_charge(answer["payment_id"].as_str().unwrap()).await.unwrap();
    assert_eq!(refunds.len(), 1);
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn refunds_asked_for_at_once_are_made_once_each_or_refused() {
    let it = Running::start(&[]).await;
    let made = invoice(&it, &json!({"amount_minor": 1000, "email": "a@b.c"})).await;
    pay(&it, &made).await;
    let env = &it.daemon.env;
    let asked = |key: &str| refund_last::Asked {
        amount_minor: Some(100),
        idempotency_key: Some(key.into()),
        asked_by: "test".into(),
        ..refund_last::Asked::default()
    };
    let (one, two) = (asked("c1"), asked("c2"));
    let answers = futures_util::future::join(refund_last::refund_last(env, &one), refund_last::refund_last(env, &two)).await;
    let good = [&answers.0, &answers.1].into_iter().filter(|a| a.is_ok()).count();
    let charge = env.provider().charges(1).await.unwrap().remove(0);
    assert_eq!(charge["amount_refunded"], json!(100 * good), "{answers:?}");
    for bad in [answers.0, answers.1].into_iter().filter_map(Result::err) {
        assert_eq!(bad.reason, "refund_running");
    }
    // The log has a line per refund, however often it was asked for.
    let lines = std::fs::read_to_string(env.log_path("refunds.log")).unwrap();
    assert_eq!(lines.lines().filter(|l| l.contains("\"ok\":true")).count(), good, "{lines}");
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn a_provider_that_does_not_answer_is_told_and_its_data_shown_stale() {
    let it = Running::start(&[]).await;
    let made = invoice(&it, &json!({"amount_minor": 1000, "email": "a@b.c"})).await;
    pay(&it, &made).await;
    let control = format!("http://{}/_control/chaos", it.daemon.env.sandbox_address().unwrap());
    it.http.put(control).body(json!({"slow_ms": 20_000}).to_string()).send().await.unwrap();
    let (status, list) = it.get("/api/customer/invoices/a@b.c").await;
    assert_eq!((status, &list["stale"], &list["invoices"][0]["status"]), (200, &json!(true), &json!("paid")), "{list}");
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn a_link_is_minted_for_the_canonical_address_and_its_view_is_journalled() {
    let it = Running::start(&[]).await;
    let (status, link) = it.get("/api/customer/signed-url/User%2Btag@Example.com").await;
    assert_eq!((status, &link["email"]), (200, &json!("user+tag@example.com")));
    let url = link["signed_url"].as_str().unwrap();
    assert!(url.starts_with(&it.url("/portal?email=user%2Btag%40example.com&expires=")), "{url}");
    let query = url.split_once('?').unwrap().1;
    let env = &it.daemon.env;
    let grant = crate::operations::portal_link::verify(env, query).await.unwrap();
    assert_eq!((grant.email.as_str(), json!(grant.expires)), ("user+tag@example.com", link["expires"].clone()));
    let refused = crate::operations::portal_link::verify(env, &query.replace("user", "loser")).await.unwrap_err();
    assert_eq!(refused.reason, "link");
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn a_backup_is_made_on_request_and_listed() {
    let it = Running::start(&[]).await;
    let (status, made) = it.post("/api/backup/run", &json!({})).await;
    assert_eq!((status, &made["ok"], &made["proof"]["state"]), (200, &json!(true), &json!("passed")), "{made}");
    assert!(made["archive"].as_str().unwrap().starts_with("backups/daily/backup_") && made["size_mb"].is_number());
    let asynchronous = it.request(Method::POST, "/api/backup/run").header("prefer", "respond-async").send().await.unwrap();
    let (status, accepted) = read(asynchronous).await;
    assert_eq!((status, &accepted["state"]), (202, &json!("running")));
    let (status, running) = it.post("/api/backup/run", &json!({})).await;
    assert_eq!((status, &running["reason"], &running["run_id"]), (409, &json!("backup_running"), &accepted["run_id"]));
    let mut run = Json::Null;
    for _ in 0..500 {
        run = it.get(accepted["status_url"].as_str().unwrap()).await.1;
        if run["state"] != "running" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!((&run["state"], &run["result"]["ok"]), (&json!("succeeded"), &json!(true)), "{run}");
    let (_, list) = it.get("/api/backups").await;
    assert_eq!((&list["count"], &list["backups"][0]["archive"]), (&json!(1), &made["archive"]));
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn every_list_and_figure_answers_on_an_empty_database() {
    let it = Running::start(&[]).await;
    for path in [
        "/api/slo/status",
        "/api/overview",
        "/api/backups",
        "/api/tasks",
        "/api/tasks/daily_backup",
        "/api/tasks/daily_backup/runs",
        "/api/tasks/daily_backup/next?n=3",
        "/api/recon/exceptions",
        "/api/alerts",
        "/api/supervisor/status",
        "/api/journal/verify",
        "/api/keys",
        "/healthz",
        "/readyz",
    ] {
        let (status, body) = it.get(path).await;
        assert_eq!((status, &body["ok"]), (200, &json!(true)), "{path}: {body}");
    }
    assert_eq!(it.get("/api/tasks").await.1["count"], 23);
    let (status, planned) = it.post("/api/tasks/ceo_brief/run", &json!({})).await;
    assert_eq!((status, &planned["reason"]), (409, &json!("planned")));
    let (_, report) = it.get("/api/reports/ceo_brief/latest").await;
    assert_eq!(report["error"], "not_found");
    it.daemon.stop().await.unwrap();
}
