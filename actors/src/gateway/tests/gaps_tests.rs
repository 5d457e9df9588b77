//! The gap finder over real HTTP against the sandbox: what was never delivered, what failed here, what changed without an event; and
//! replaying what is stored.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value as Json, json};

use super::{Running, read};
use crate::{
    alert,
    operations::resume_refunds,
    store::{GapRow, NewEvent, RefundIntent},
};

impl Running {
    async fn control(&self, method: Method, path: &str, body: &Json) -> Json {
        let url = format!("http://{}/_control/{path}", self.daemon.env.sandbox_address().unwrap());
        let (status, answer) = read(self.http.request(method, url).body(body.to_string()).send().await.unwrap()).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    async fn chaos(&self, switches: &Json) {
        self.control(Method::PUT, "chaos", switches).await;
    }

    async fn advance(&self, seconds: i64) {
        self.control(Method::POST, "clock", &json!({"advance_seconds": seconds})).await;
    }

    /// A charge made at the provider by somebody else.
    async fn charge(&self, amount: i64, key: &str) -> String {
        let params = [("amount", amount.to_string()), ("currency", "usd".into()), ("source", "tok_visa".into())];
        let charge = self.daemon.env.provider().post("/v1/charges", &params, key).await.unwrap();
        charge.body["id"].as_str().unwrap().to_owned()
    }

    async fn scan(&self, dry_run: bool) -> Json {
        let (status, answer) = self.post("/api/payments/gaps/scan", &json!({"dry_run": dry_run})).await;
        assert_eq!((status, &answer["state"]), (200, &json!("done")), "{answer}");
        answer["last"].clone()
    }

    /// (kind, source, origin) of every row of the ledger, oldest first.
    async fn ledger(&self) -> Vec<[String; 3]> {
        let (_, answer) = self.get("/api/ledger?limit=100").await;
        let rows = answer["entries"].as_array().unwrap().iter().rev();
        rows.map(|e| ["kind", "source", "origin"].map(|m| e[m].as_str().unwrap().to_owned())).collect()
    }

    async fn until_processed(&self, event_type: &str, n: usize) {
        for _ in 0..1000 {
            let (_, list) = self.get(&format!("/api/payments/webhooks?limit=100&status=processed&type={event_type}")).await;
            if list["count"].as_u64() >= Some(n as u64) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{n} {event_type} were never processed");
    }
}

#[tokio::test]
async fn an_event_that_was_never_delivered_is_found_after_the_grace_and_filled_once() {
    let it = Running::start(&[]).await;
    it.chaos(&json!({"drop_webhook": 1.0})).await;
    let lost = it.charge(5000, "lost").await;
    it.chaos(&json!({"drop_webhook": 0.0})).await;
    let arrived = it.charge(6000, "arrived").await;
    it.until_processed("charge.succeeded", 1).await;
    let young = it.scan(false).await;
    assert_eq!(young["never_delivered"], 0, "it may still be on its way: {young}");
    it.advance(1000).await;

    let dry = it.scan(true).await;
    assert_eq!((&dry["never_delivered"], &dry["gaps"][0]["object_id"]), (&json!(1), &json!(lost)), "{dry}");
    assert_eq!(it.ledger().await, [["charge".to_owned(), arrived.clone(), "webhook".to_owned()]], "a dry run changes nothing");
    assert_eq!(it.get("/api/payments/gaps").await.1["count"], 0);

    let look = it.scan(false).await;
    assert_eq!((&look["never_delivered"], &look["not_filled"]), (&json!(1), &json!(0)), "{look}");
    assert_eq!(it.ledger().await[1], ["charge".to_owned(), lost.clone(), "backfill".to_owned()]);
    let (_, gaps) = it.get("/api/payments/gaps").await;
    let gap = &gaps["gaps"][0];
    assert_eq!((&gap["state"], &gap["class"], &gap["object_id"]), (&json!("filled"), &json!("never_delivered"), &json!(lost)), "{gaps}");
    assert_eq!(gaps["counts"]["never_delivered"]["filled"], 1);
    assert!(gaps["next_at"].is_string() && gaps["last"]["full"] == true, "{gaps}");
    let again = it.scan(false).await;
    assert_eq!((&again["never_delivered"], it.ledger().await.len()), (&json!(0), 2), "{again}");
    assert!(alert::list(&it.daemon.env).await.unwrap().is_empty(), "what could be filled is no alert");

    // The delivery that comes after all is a duplicate.
    let (_, list) = it.get(&format!("/api/payments/webhooks?object_id={lost}")).await;
    let event_id = list["webhooks"][0]["event_id"].as_str().unwrap().to_owned();
    let event = it.daemon.env.provider().get(&format!("/v1/events/{event_id}"), &[]).await.unwrap().body;
    let new = NewEvent {
        event_id: event_id.clone(),
        event_type: "charge.succeeded".into(),
        object_id: Some(lost),
        object_state: None,
        created: 1,
        livemode: false,
        received_at: it.daemon.env.now(),
        origin: "webhook",
        body: event.to_string(),
    };
    assert!(!it.daemon.env.store().insert_event(new, it.daemon.env.fact("test", event_id, json!({}))).await.unwrap());
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn the_finder_looks_by_itself_and_answers_while_it_does() {
    let it = Running::start(&[("RECON__GAP_EVERY_S", "1")]).await;
    it.chaos(&json!({"drop_webhook": 1.0})).await;
    it.charge(5000, "lost").await;
    it.advance(1000).await;
    it.until_processed("charge.succeeded", 1).await;
    // The first look goes back as far as the provider keeps events, the following begin where the last one ended.
    let mut last = Json::Null;
    for _ in 0..1000 {
        last = it.get("/api/payments/gaps").await.1["last"].take();
        if last["full"] == false {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let span = last["until"].as_i64().unwrap() - last["from"].as_i64().unwrap();
    assert!(last["full"] == false && span < 2 * 3600, "{last}");
    it.chaos(&json!({"slow_ms": 1500})).await;
    let env = it.daemon.env.clone();
    let scan = tokio::spawn(async move { crate::ingest::scan(&env, true, Duration::from_secs(30)).await });
    let mut seen = false;
    while !scan.is_finished() {
        let start = tokio::time::Instant::now();
        let (status, state) = it.get("/api/payments/gaps").await;
        assert_eq!(status, 200, "{state}");
        assert!(start.elapsed() < Duration::from_millis(1200), "the mailbox answers while a look is going on: {:?}", start.elapsed());
        seen |= state["state"] == "scanning";
    }
    assert!(seen && scan.await.unwrap().is_ok());
    it.chaos(&json!({"slow_ms": 0})).await;
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn an_event_that_failed_here_gets_its_attempts_back_and_is_an_alert_if_it_fails_again() {
    let it = Running::start(&[]).await;
    let env = it.daemon.env.clone();
    it.chaos(&json!({"drop_webhook": 1.0})).await;
    let charge = it.charge(5000, "bad").await;
    let event = env.provider().list_all("/v1/events", &[]).await.unwrap().remove(0);
    let id = event["id"].as_str().unwrap().to_owned();
    let mut broken = event.clone();
    broken["data"]["object"]["currency"] = Json::Null;
    let new = NewEvent {
        event_id: id.clone(),
        event_type: "charge.succeeded".into(),
        object_id: Some(charge),
        object_state: None,
        created: event["created"].as_i64().unwrap(),
        livemode: false,
        received_at: env.now(),
        origin: "webhook",
        body: broken.to_string(),
    };
    assert!(env.store().insert_event(new, env.fact("test", &id, json!({}))).await.unwrap());
    crate::ingest::wake(&env);
    it.advance(1000).await;
    for _ in 0..1000 {
        if it.get("/api/payments/webhooks?status=failed").await.1["count"] == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut attempts = Vec::new();
    for _ in 0..5 {
        let look = it.scan(false).await;
        assert_eq!((&look["failed_here"], &look["not_filled"]), (&json!(1), &json!(1)), "{look}");
        attempts.push(it.get("/api/payments/gaps?state=failed").await.1["gaps"][0]["attempts"].as_i64().unwrap());
    }
    assert_eq!(attempts, [1, 2, 3, 3, 3], "not for ever");
    // A person may let it be tried again at any time, with all its attempts.
    let (_, replayed) = it.post("/api/payments/webhooks/replay", &json!({"status": "failed"})).await;
    assert_eq!((&replayed["replayed"], &replayed["events"][0]["event_id"]), (&json!(1), &json!(id)), "{replayed}");
    let mut failed = Json::Null;
    for _ in 0..1000 {
        failed = it.get(&format!("/api/payments/webhooks/{id}")).await.1["webhook"].take();
        if failed["status"] == "failed" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((&failed["status"], &failed["attempts"]), (&json!("failed"), &json!(1)), "{failed}");
    let alerts = alert::list(&env).await.unwrap();
    assert_eq!(alerts.iter().map(|a| a.name.as_str()).collect::<Vec<_>>(), ["webhook_gaps"]);
    let (_, gap) = it.get("/api/payments/gaps?state=failed").await;
    assert!(gap["gaps"][0]["error"].as_str().unwrap().contains("currency"), "{gap}");
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn an_object_that_changed_without_an_event_is_noticed_and_taken_over() {
    let it = Running::start(&[]).await;
    let (_, made) = it.post("/api/payments/create-invoice", &json!({"amount_minor": 900, "email": "a@b.c"})).await;
    let invoice = made["invoice_id"].as_str().unwrap().to_owned();
    it.until_processed("invoice.finalized", 1).await;
    it.chaos(&json!({"drop_webhook": 1.0})).await;
    it.daemon.env.provider().post(&format!("/v1/invoices/{invoice}/void"), &[], "void").await.unwrap();
    let status = || async { it.daemon.env.store().object("invoice", &invoice).await.unwrap().unwrap().status };
    assert_eq!(status().await, "open");
    // The provider keeps its events for 30 days: after that nothing tells of it.
    it.advance(33 * 86_400).await;
    let dry = it.scan(true).await;
    assert_eq!((&dry["changed_outside"], status().await.as_str()), (&json!(1), "open"), "{dry}");
    let look = it.scan(false).await;
    assert_eq!((&look["changed_outside"], &look["not_filled"], status().await.as_str()), (&json!(1), &json!(0), "void"), "{look}");
    assert_eq!(look["gaps"][0]["detail"], json!({"ours": "open", "theirs": "void"}), "{look}");
    assert_eq!(it.scan(false).await["changed_outside"], 0, "it is said once");
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn replaying_what_was_processed_changes_nothing_and_says_who_asked() {
    let it = Running::start(&[]).await;
    it.charge(5000, "a").await;
    it.charge(6000, "b").await;
    it.until_processed("charge.succeeded", 2).await;
    let before = it.get("/api/ledger").await.1;
    let (_, list) = it.get("/api/payments/webhooks?type=charge.succeeded").await;
    let id = list["webhooks"][0]["event_id"].as_str().unwrap().to_owned();

    let (_, dry) = it.post("/api/payments/webhooks/replay", &json!({"type": "charge.succeeded", "dry_run": true})).await;
    assert_eq!((&dry["matched"], &dry["replayed"]), (&json!(2), &json!(0)), "{dry}");
    let (status, one) = it.post(&format!("/api/payments/webhooks/{id}/replay"), &json!({})).await;
    assert_eq!((status, &one["replayed"]), (200, &json!(1)), "{one}");
    let (_, all) = it.post("/api/payments/webhooks/replay", &json!({"status": "processed", "since": 0, "type": "charge.succeeded"})).await;
    assert!(all["matched"].as_u64() >= Some(1), "{all}");
    it.until_processed("charge.succeeded", 2).await;
    assert_eq!(it.get("/api/ledger").await.1, before, "nothing is booked twice, nothing is changed");
    let (_, shown) = it.get(&format!("/api/payments/webhooks/{id}")).await;
    assert_eq!((&shown["webhook"]["status"], &shown["webhook"]["body"]["id"]), (&json!("processed"), &json!(id)), "{shown}");

    for (path, body, status) in [
        ("/api/payments/webhooks/evt_none/replay", json!({}), 404),
        ("/api/payments/webhooks/replay", json!({}), 422),
        ("/api/payments/webhooks/replay", json!({"status": "lost"}), 422),
        ("/api/payments/webhooks/replay", json!({"type": "x", "limit": 0}), 422),
        ("/api/payments/webhooks/replay", json!({"type": "x", "dry_run": "yes"}), 422),
    ] {
        assert_eq!(it.post(path, &body).await.0, status, "{path} {body}");
    }
    let journal = it.get("/api/journal/verify").await.1;
    assert_eq!(journal["ok"], true);
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn two_events_for_one_fact_add_nothing_twice_and_the_list_can_leave_the_second_out() {
    let it = Running::start(&[]).await;
    let charge = it.charge(5000, "a").await;
    it.until_processed("charge.succeeded", 1).await;
    let env = it.daemon.env.clone();
    let (_, list) = it.get(&format!("/api/payments/webhooks?object_id={charge}&type=charge.succeeded")).await;
    let first = list["webhooks"][0]["event_id"].as_str().unwrap().to_owned();
    let mut again = env.provider().get(&format!("/v1/events/{first}"), &[]).await.unwrap().body;
    again["id"] = json!("evt_again");
    let body = again.to_string();
    let header = crate::domain::signature::header(&env.secrets().webhook_texts(), env.now().timestamp(), body.as_bytes());
    let delivered = it.http.post(it.url("/api/payments/webhook")).header("stripe-signature", header).body(body).send().await.unwrap();
    assert_eq!(delivered.status(), 200);
    it.until_processed("charge.succeeded", 2).await;
    assert_eq!(it.ledger().await.len(), 1);
    let (_, both) = it.get(&format!("/api/payments/webhooks?object_id={charge}&type=charge.succeeded")).await;
    assert_eq!((&both["count"], &both["webhooks"][0]["same_fact_as"]), (&json!(2), &json!(first)), "{both}");
    let (_, distinct) = it.get(&format!("/api/payments/webhooks?object_id={charge}&type=charge.succeeded&distinct=1")).await;
    assert_eq!((&distinct["count"], &distinct["webhooks"][0]["event_id"]), (&json!(1), &json!(first)), "{distinct}");
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn a_refund_that_is_gone_at_the_provider_stops_neither_the_look_nor_the_refunds_after_it() {
    let it = Running::start(&[]).await;
    let env = it.daemon.env.clone();
    let charge = it.charge(5000, "stays").await;
    let mut intents = Vec::new();
    for (charge, minutes) in [("ch_gone", 4), ("ch_gone_too", 3), (charge.as_str(), 2)] {
        let intent = RefundIntent {
            id: format!("ep-refund-{charge}-0-5000"),
            caller_key: None,
            charge: charge.into(),
            payment_intent: None,
            amount: 5000,
            currency: "usd".into(),
            reason: None,
            state: "intended".into(),
            refund_id: None,
            answer: None,
            created_at: chrono::DateTime::UNIX_EPOCH,
        };
        let at = env.now() - chrono::TimeDelta::minutes(minutes);
        assert!(env.store().insert_refund_intent(&intent, at, env.fact("refund.intent", &intent.id, json!({}))).await.unwrap());
        intents.push(intent.id);
    }
    let mut pending = env.provider().get("/v1/balance", &[]).await.unwrap();
    pending.body = json!({
        "id": "re_gone", "object": "refund", "status": "pending", "amount": 5000, "currency": "usd", "created": 10, "charge": "ch_gone",
        "metadata": {"echopilot_intent": intents[0]},
    });
    crate::operations::book_answer(&env, &pending).await.unwrap();

    assert_eq!(it.scan(false).await["not_filled"], 0);
    assert_eq!(resume_refunds::resume_open_intents(&env).await.unwrap(), 1, "the one whose charge is there");
    let mut states = Vec::new();
    for id in &intents {
        states.push(env.store().refund_intent(id).await.unwrap().unwrap().state);
    }
    assert_eq!(states, ["pending", "failed", "succeeded"]);
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn a_change_that_could_not_be_taken_over_is_over_once_the_object_has_gone_on() {
    let it = Running::start(&[]).await;
    let env = it.daemon.env.clone();
    let (_, made) = it.post("/api/payments/create-invoice", &json!({"amount_minor": 900, "email": "a@b.c"})).await;
    let invoice = made["invoice_id"].as_str().unwrap().to_owned();
    it.until_processed("invoice.finalized", 1).await;
    let gap = GapRow {
        id: format!("invoice/{invoice}/new_word"),
        class: "changed_outside".into(),
        event_type: "invoice".into(),
        object_id: Some(invoice.clone()),
        created: 1,
        state: "failed".into(),
        attempts: 1,
        error: Some("new_word cannot follow open".into()),
        detail: Some(json!({"ours": "open", "theirs": "new_word"})),
        found_at: env.now(),
        ended_at: Some(env.now()),
    };
    assert!(env.store().insert_gap(&gap, env.fact("gap.found", &gap.id, json!({}))).await.unwrap());
    assert_eq!(it.scan(false).await["not_filled"], 1);
    assert_eq!(alert::list(&env).await.unwrap().len(), 1);
    env.provider().void_invoice(&invoice, "void").await.unwrap();
    it.until_processed("invoice.voided", 1).await;
    assert_eq!(it.scan(false).await["not_filled"], 0);
    for _ in 0..2 {
        it.scan(false).await; // as often as an alert is to be seen well before it is over
    }
    assert!(alert::list(&env).await.unwrap().is_empty());
    it.daemon.stop().await.unwrap();
}

#[tokio::test]
async fn a_finder_that_can_not_look_for_an_hour_is_an_alert_until_it_can() {
    let it = Running::start(&[("RECON__GAP_EVERY_S", "1")]).await;
    let env = it.daemon.env.clone();
    let firing = || async {
        let alerts = alert::list(&env).await.unwrap();
        alerts.iter().any(|a| a.name == "webhook_gap_finder" && a.reason.contains("could not be compared"))
    };
    it.chaos(&json!({"fail_page": 1_000_000})).await;
    for wanted in [true, false] {
        let mut holds = false;
        for _ in 0..1500 {
            holds = firing().await == wanted;
            if holds {
                break;
            }
            if wanted {
                it.clock.set(env.now() + chrono::TimeDelta::minutes(1)); // on and on: a look that was under way may still be a good one
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(holds, "firing: {wanted}");
        it.chaos(&json!({"fail_page": 0})).await;
    }
    it.daemon.stop().await.unwrap();
}
