//! The service levels over HTTP: pushed events, the report, one objective with its money, maintenance and corrections, and what is refused
//! with its field.

use chrono::{TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value as Json, json};

use super::{KEY, Running};
use crate::{domain::slo::Minute, env::rfc3339, slo};

const PUSHED: [(&str, &str); 3] =
    [("OBJECTIVES__SHOP__SERVICE", "push:shop"), ("OBJECTIVES__SHOP__TARGET", "0.99"), ("OBJECTIVES__SHOP__LATENCY_MS", "400")];

async fn shop(it: &Running) -> Json {
    let (status, body) = it.get("/api/slo/objectives/shop").await;
    assert_eq!(status, 200, "{body}");
    body
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the daemon under test runs on the real clock")]
async fn pushed_events_are_counted_judged_and_refused_with_their_field() {
    let it = Running::start(&PUSHED).await;
    let ago = |minutes: i64| rfc3339(Utc::now() - TimeDelta::minutes(minutes));
    let push = |body: Json| {
        let it = &it;
        async move { it.post("/api/slo/events", &body).await }
    };
    assert_eq!(push(json!({"service": "shop", "ok": true, "latency_ms": 120.5, "count": 900, "at": ago(3)})).await.0, 200);
    let list = json!({"events": [{"service": "push:shop", "ok": true, "latency_ms": 401, "count": 50, "at": ago(3)}, {"service": "shop", "ok": false, "count": 50, "at": ago(60 * 24 * 30 - 5)}]});
    assert_eq!(push(list).await.1["counted"], 100);
    let seen = shop(&it).await;
    assert_eq!(
        (&seen["verdict"]["n"], &seen["verdict"]["bad"], &seen["verdict"]["slow"]),
        (&json!(1000), &json!(50), &json!(50)),
        "{seen}"
    );
    assert_eq!((&seen["status"], &seen["verdict"]["rule"]), (&json!("FAIL"), &json!("success_rate")));
    assert!(seen["verdict"]["error_rate_interval"].is_array(), "{seen}");
    for (body, field) in [
        (json!({"service": "nobody", "ok": true}), "service"),
        (json!({"service": "api", "ok": true}), "service"),
        (json!({"service": "shop"}), "ok"),
        (json!({"service": "shop", "ok": "yes"}), "ok"),
        (json!({"service": "shop", "ok": true, "latency_ms": -1}), "latency_ms"),
        (json!({"service": "shop", "ok": true, "count": 0}), "count"),
        (json!({"service": "shop", "ok": true, "at": ago(-6)}), "at"),
        (json!({"service": "shop", "ok": true, "at": ago(60 * 24 * 36)}), "at"),
        (json!({"service": "shop", "ok": true, "at": "soon"}), "at"),
        (json!({"events": []}), "events"),
    ] {
        let (status, answer) = push(body.clone()).await;
        assert_eq!((status, &answer["field"]), (422, &json!(field)), "{body}: {answer}");
    }
    // Reading is not enough to push.
    let (_, made) = it.post("/api/keys", &json!({"name": "r", "scope": "read"})).await;
    let key = made["key"].as_str().unwrap_or(KEY).to_owned();
    let request = it.http.request(Method::POST, it.url("/api/slo/events")).header("x-dash-key", key).body("{}");
    assert_eq!(request.send().await.unwrap().status().as_u16(), 403);
    // What was pushed survives: it is in the store within a flush.
    let env = &it.daemon.env;
    crate::testing::until("it is written", || async {
        env.store().track("push:shop", 0, 0).await.is_ok_and(|t| t.counts(0, i64::MAX / 2).map(|c| c.total).sum::<u64>() == 1000)
    })
    .await;
    assert_eq!(shop(&it).await["latency"]["n"], 950);
    let (_, report) = it.get("/api/slo/report").await;
    assert_eq!((&report["count"], &report["counts"]["FAIL"], &report["breach"]), (&json!(6), &json!(1), &json!(true)), "{report}");
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the daemon under test runs on the real clock")]
async fn a_correction_leaves_an_outage_out_and_stays_visible_until_it_is_withdrawn() {
    let it = Running::start(&PUSHED).await;
    let now = Utc::now();
    let at = |minutes: i64| rfc3339(now - TimeDelta::minutes(minutes));
    let outage = json!({"events": [{"service": "shop", "ok": false, "count": 100, "at": at(120)}, {"service": "shop", "ok": true, "count": 900, "at": at(10)}]});
    assert_eq!(it.post("/api/slo/events", &outage).await.0, 200);
    assert_eq!(shop(&it).await["status"], "FAIL");
    let correction = json!({"service": "push:shop", "starts_at": at(130), "ends_at": at(110), "reason": "the host moved"});
    let (status, made) = it.post("/api/slo/corrections", &correction).await;
    assert_eq!(status, 200, "{made}");
    let seen = shop(&it).await;
    assert_eq!(
        (&seen["status"], &seen["excluded_bad"], &seen["excluded"][0]["reason"]),
        (&json!("PASS"), &json!(100), &json!("the host moved")),
        "{seen}"
    );
    let (_, again) = it.post("/api/slo/corrections", &correction).await;
    assert_eq!(again["field"], "starts_at", "{again}");
    for (path, body, field) in [
        ("/api/slo/corrections", json!({"starts_at": at(5), "ends_at": at(-5), "reason": "x"}), "ends_at"),
        ("/api/slo/corrections", json!({"starts_at": at(5), "ends_at": at(9), "reason": "x"}), "ends_at"),
        ("/api/slo/corrections", json!({"starts_at": at(90), "ends_at": at(80)}), "reason"),
        ("/api/slo/corrections", json!({"service": "nobody", "starts_at": at(90), "ends_at": at(80), "reason": "x"}), "service"),
        ("/api/maintenance", json!({"minutes": 60 * 24 * 8, "reason": "x"}), "ends_at"),
        ("/api/maintenance", json!({"minutes": 5, "ends_at": at(-9), "reason": "x"}), "minutes"),
        ("/api/maintenance", json!({"starts_at": "now", "minutes": 5, "reason": "x"}), "starts_at"),
    ] {
        let (status, answer) = it.post(path, &body).await;
        assert_eq!((status, &answer["field"]), (422, &json!(field)), "{path} {body}: {answer}");
    }
    let id = made["maintenance"]["id"].as_str().unwrap().to_owned();
    assert_eq!(it.post(&format!("/api/maintenance/{id}/end"), &json!({})).await.1["maintenance"]["state"], "withdrawn");
    assert_eq!(shop(&it).await["status"], "FAIL");
    assert_eq!(it.post(&format!("/api/maintenance/{id}/end"), &json!({})).await.0, 409);
    // Maintenance: active at once, known to the alerts, ended by hand.
    let (_, made) = it.post("/api/maintenance", &json!({"minutes": 30, "reason": "new disk", "systems": ["api"]})).await;
    let env = &it.daemon.env;
    let active = env.store().maintenance_at(env.now()).await.unwrap();
    assert!(active.len() == 1 && active[0].quiets("api", env.now()) && !active[0].quiets("jobs", env.now()), "{active:?}");
    let id = made["maintenance"]["id"].as_str().unwrap();
    it.post(&format!("/api/maintenance/{id}/end"), &json!({})).await;
    assert!(env.store().maintenance_at(env.now()).await.unwrap().is_empty());
    assert_eq!(it.get("/api/maintenance").await.1["maintenance"][0]["state"], "over");
    assert_eq!(it.get("/api/slo/objectives/nothing").await.0, 404);
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn payments_in_bad_minutes_are_named_with_their_amounts() {
    let it = Running::start(&PUSHED).await;
    let env = &it.daemon.env;
    let now = Minute::of(env.now());
    let trial = crate::operations::canary::run(env).await.unwrap();
    assert_eq!(trial["state"], "passed", "{trial}");
    // Our own trial payments are nobody's money.
    assert_eq!(slo::at_risk(env, &[(now - 5, now + 5)]).await.unwrap()["payments"], 0);
    for (id, amount, status, customer) in
        [("ch_1", 4200, "succeeded", "cus_a"), ("ch_2", 1000, "failed", "cus_b"), ("ch_3", 700, "succeeded", "cus_a")]
    {
        let at = if id == "ch_3" { (now - 100) * 60 } else { now * 60 };
        let event = json!({"id": format!("evt_{id}"), "type": format!("charge.{status}"), "created": at, "livemode": false, "data": {"object": {
            "id": id, "object": "charge", "amount": amount, "amount_captured": amount, "amount_refunded": 0, "captured": status == "succeeded", "paid": status == "succeeded",
            "currency": "eur", "status": status, "customer": customer, "created": at, "livemode": false, "balance_transaction": null, "payment_intent": null, "invoice": null}}});
        let (code, answer) = deliver(&it, &event).await;
        assert_eq!(code, 200, "{answer}");
    }
    crate::testing::until("they are processed", || async { env.store().open_event_count().await.is_ok_and(|(n, _)| n == 0) }).await;
    let risk = slo::at_risk(env, &[(now - 5, now + 5)]).await.unwrap();
    assert_eq!((&risk["payments"], &risk["failed"], &risk["customers"]), (&json!(2), &json!(1), &json!(2)), "{risk}");
    assert_eq!(
        (&risk["amounts"][0]["currency"], &risk["amounts"][0]["amount_minor"], &risk["amounts"][0]["failed_minor"]),
        (&json!("eur"), &json!(5200), &json!(1000)),
        "{risk}"
    );
    assert_eq!((&risk["list"][0]["id"], &risk["list"][0]["failed"]), (&json!("ch_2"), &json!(true)));
    it.daemon.stop().await.unwrap();
}

async fn deliver(it: &Running, event: &Json) -> (u16, Json) {
    let (body, t) = (event.to_string(), it.daemon.env.now().timestamp());
    let signature = crate::domain::signature::sign(super::SECRET, t, body.as_bytes());
    let request =
        it.http.request(Method::POST, it.url("/api/payments/webhook")).header("stripe-signature", format!("t={t},v1={signature}"));
    super::read(request.body(body).send().await.unwrap()).await
}

#[tokio::test]
async fn every_source_is_counted() {
    let it = Running::start(&[]).await;
    let env = &it.daemon.env;
    let trial = crate::operations::canary::run(env).await.unwrap();
    assert_eq!(trial["state"], "passed", "{trial}");
    it.get("/api/slo/status").await;
    let (_, report) = it.get("/api/slo/report").await;
    let services: Vec<_> = report["objectives"].as_array().unwrap().iter().map(|o| o["service"].as_str().unwrap_or_default()).collect();
    assert_eq!(services, ["api", "canary", "provider", "tasks", "webhooks"]);
    for service in ["api", "canary", "provider", "webhooks"] {
        let counted = env.meter().peek(service).iter().map(|m| m.total).sum::<u64>()
            + env.store().track(service, 0, 0).await.unwrap().counts(0, i64::MAX / 2).map(|c| c.total).sum::<u64>();
        assert!(counted > 0, "{service}");
    }
    it.daemon.stop().await.unwrap();
}
