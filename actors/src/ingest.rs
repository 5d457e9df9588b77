//! Ingest owns the order in which stored webhook events are processed. `receive` verifies and stores in the caller's task, so
//! nothing is acknowledged before it is durable and nothing that is acknowledged lives in a mailbox; the actor is only woken.
//! When it dies, its replacement finds every unprocessed row in the store.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use ring::digest;
use serde_json::{Value as Json, json};

use crate::{
    actor::{self, Probe, Probed, Reply},
    domain::{backoff::Backoff, ledger, signature},
    env::Env,
    error::{Code, Error, Result},
    files,
    providers::STRIPE,
    store::{NewEvent, OpenEvent},
};

pub const NOUN: &str = "ingest";
/// How far a signature's time may be from ours, in seconds, both ways.
pub const TOLERANCE_S: i64 = 300;
const BATCH: i64 = 100;
/// Processing attempts before an event is `failed` for good and waits for a replay.
const MAX_ATTEMPTS: i64 = 8;
const RETRY: Backoff = Backoff::new(500, 3, 600_000);
/// Rows are looked for this often even if nobody wakes us.
const LOOK: Duration = Duration::from_secs(5);

pub enum Message {
    /// There may be new rows. One that waits is enough for all.
    Wake,
    Look,
    Probe(Probe, Reply<()>),
}

impl Probed for Message {
    fn probe(probe: Probe, reply: Reply<()>) -> Self {
        Self::Probe(probe, reply)
    }
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub duplicate: bool,
}

/// Verifies a delivery, stores it durably once, and wakes the actor. Errors: `invalid` (signature or body; nothing is stored),
/// `unavailable` (it could not be stored: the provider will deliver it again).
pub async fn receive(env: &Env, signature_header: Option<&str>, body: Bytes) -> Result<Received> {
    let now = env.now();
    signature::verify(signature_header.unwrap_or_default(), &body, &env.secrets().webhook_texts(), now.timestamp(), TOLERANCE_S)
        .map_err(|failure| Error::invalid("signature", format!("the webhook's signature was refused: {failure}")))?;
    let digest = files::hex(digest::digest(&digest::SHA256, &body).as_ref());
    let text = String::from_utf8(body.into()).map_err(|_| Error::invalid("body", "the body is not UTF-8"))?;
    let event = parse(&text)?;
    if event.livemode != env.config().provider.mode.is_live() {
        return Err(Error::invalid("livemode", "the event's livemode does not agree with the provider mode"));
    }
    let fact = env.fact("webhook.received", &event.event_id, json!({"type": event.event_type, "sha256": digest}));
    let event = NewEvent { received_at: now, origin: "webhook", body: text, ..event };
    let is_new = env.store().insert_event(event, fact).await?;
    if is_new {
        wake(env);
    }
    Ok(Received { duplicate: !is_new })
}

/// Tells the actor that there may be rows to process.
pub fn wake(env: &Env) {
    actor::wake(env, NOUN, Message::Wake);
}

/// The members that every event must have.
fn parse(text: &str) -> Result<NewEvent> {
    let event: Json = serde_json::from_str(text).map_err(|e| Error::invalid("body", format!("the body is not JSON: {e}")))?;
    let word = |name: &str| {
        event[name].as_str().filter(|t| !t.is_empty()).ok_or_else(|| Error::invalid("body", format!("the event has no {name}")))
    };
    Ok(NewEvent {
        event_id: word("id")?.to_owned(),
        event_type: word("type")?.to_owned(),
        object_id: event["data"]["object"]["id"].as_str().map(str::to_owned),
        created: event["created"].as_i64().unwrap_or_default(),
        livemode: event["livemode"].as_bool().unwrap_or_default(),
        received_at: chrono::DateTime::UNIX_EPOCH,
        origin: "webhook",
        body: String::new(),
    })
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Ingest;

pub struct State {
    env: Env,
    complained: bool,
}

impl Actor for Ingest {
    type Msg = Message;
    type State = State;
    type Arguments = Env;

    async fn pre_start(&self, myself: ActorRef<Message>, env: Env) -> Result<State, ActorProcessingErr> {
        myself.cast(Message::Look)?;
        Ok(State { env, complained: false })
    }

    async fn handle(&self, myself: ActorRef<Message>, message: Message, state: &mut State) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Wake => state.work().await,
            Message::Look => {
                state.work().await;
                myself.send_after(LOOK, || Message::Look);
            }
            Message::Probe(probe, reply) => actor::answer(probe, reply).await,
        }
        Ok(())
    }
}

impl State {
    async fn work(&mut self) {
        match process_batch(&self.env).await {
            Ok(done) => {
                self.complained = false;
                if done >= BATCH {
                    wake(&self.env); // there may be more; other messages come first
                }
            }
            Err(error) if !self.complained => {
                self.complained = true;
                tracing::error!(actor = NOUN, %error, "events cannot be processed; they wait in the store");
            }
            Err(_) => {}
        }
    }
}

/// Processes up to a batch of waiting events; answers how many there were. They are handed to the store in the order of their
/// arrival and committed together.
async fn process_batch(env: &Env) -> Result<i64> {
    let open = env.store().open_events(env.now(), BATCH).await?;
    let results = join_all(open.iter().map(|event| process(env, event))).await;
    let count = i64::try_from(open.len()).unwrap_or(BATCH);
    for (event, result) in open.into_iter().zip(results) {
        if let Err(problem) = result {
            if problem.is_retryable() {
                return Err(problem); // the store, not the event: all of them wait
            }
            let retry_at = retry_at(env, &event, &problem);
            tracing::error!(actor = NOUN, event_id = event.event_id, error = %problem, retry = retry_at.is_some(), "an event could not be processed");
            let fact = env.fact("webhook.failed", &event.event_id, json!({"error": problem.message, "retry": retry_at.is_some()}));
            env.store().fail_event(event.n, &problem.message, retry_at, fact).await?;
        }
    }
    Ok(count)
}

/// An event that is malformed stays so; anything else is tried again for a while.
fn retry_at(env: &Env, event: &OpenEvent, problem: &Error) -> Option<DateTime<Utc>> {
    if problem.code == Code::Invalid || event.attempts + 1 >= MAX_ATTEMPTS {
        return None;
    }
    let wait_ms = RETRY.full_ms(u32::try_from(event.attempts).unwrap_or(0) + 1);
    Some(env.now() + TimeDelta::milliseconds(i64::try_from(wait_ms).unwrap_or(i64::MAX)))
}

async fn process(env: &Env, event: &OpenEvent) -> Result<()> {
    let body: Json = serde_json::from_str(&event.body)?;
    match ledger::apply(&body).map_err(|e| Error::invalid("event", e))? {
        None => env.store().ignore_event(event.n, env.now()).await,
        Some(applied) => {
            let created = body["created"].as_i64().unwrap_or_default();
            env.store().apply_event(event, created, &applied, STRIPE, env.now()).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        store::EventFilter,
        supervisor::Supervisor,
        testing::{self, Fixture, until},
    };

    /// A delivery signed at the fixture's time.
    async fn deliver(fixture: &Fixture, body: &str) -> Result<Received> {
        let header = signature::header(&fixture.env.secrets().webhook_texts(), fixture.env.now().timestamp(), body.as_bytes());
        receive(&fixture.env, Some(&header), Bytes::copy_from_slice(body.as_bytes())).await
    }

    fn invoice(event: &str, created: i64, status: &str) -> String {
        json!({"id": event, "object": "event", "type": "invoice.updated", "created": created, "livemode": false, "data": {"object": {
            "id": "in_1", "object": "invoice", "status": status, "created": 1, "currency": "usd", "total": 500, "amount_due": 500,
            "amount_paid": 0, "customer": "cus_1", "customer_email": "A@Example.com"}}})
        .to_string()
    }

    fn charge(event: &str, id: &str) -> String {
        json!({"id": event, "object": "event", "type": "charge.succeeded", "created": 5, "livemode": false, "data": {"object": {
            "id": id, "object": "charge", "amount": 1200, "amount_captured": 1200, "amount_refunded": 0, "currency": "usd", "created": 5,
            "captured": true, "paid": true, "refunded": false, "status": "succeeded", "customer": "cus_1"}}})
        .to_string()
    }

    async fn statuses(fixture: &Fixture) -> Vec<(String, String, i64)> {
        let filter = EventFilter { limit: 100, ..EventFilter::default() };
        let mut rows = fixture.env.store().events(&filter).await.unwrap();
        rows.reverse();
        rows.into_iter().map(|r| (r.event_id, r.status, r.duplicates)).collect()
    }

    async fn settled(fixture: &Fixture, n: usize) {
        until("every event is processed", || async {
            let rows = statuses(fixture).await;
            rows.len() == n && rows.iter().all(|(_, status, _)| status != "received")
        })
        .await;
    }

    async fn start(fixture: &Fixture) -> Supervisor {
        Supervisor::start(fixture.env.clone(), vec![actor::spec(NOUN, true, || Ingest)]).await.unwrap()
    }

    #[tokio::test]
    async fn a_replayed_webhook_is_applied_once() {
        let fixture = testing::fixture("2026-03-01T10:00:00Z");
        let supervisor = start(&fixture).await;
        for n in 0..5 {
            assert_eq!(deliver(&fixture, &charge("evt_1", "ch_1")).await.unwrap(), Received { duplicate: n > 0 });
        }
        // The same fact under another event id is stored and books nothing twice.
        deliver(&fixture, &charge("evt_2", "ch_1")).await.unwrap();
        settled(&fixture, 2).await;
        assert_eq!(statuses(&fixture).await[0], ("evt_1".into(), "processed".into(), 4));
        assert_eq!(fixture.env.store().ledger_count().await.unwrap(), 1);
        supervisor.stop().await;
    }

    #[tokio::test]
    async fn a_late_event_never_takes_a_state_back() {
        let fixture = testing::fixture("2026-03-01T10:00:00Z");
        let supervisor = start(&fixture).await;
        deliver(&fixture, &invoice("evt_paid", 20, "paid")).await.unwrap();
        deliver(&fixture, &invoice("evt_open", 10, "open")).await.unwrap();
        settled(&fixture, 2).await;
        let row = fixture.env.store().object("invoice", "in_1").await.unwrap().unwrap();
        assert_eq!(row.status, "paid");
        supervisor.stop().await;
    }

    #[tokio::test]
    async fn what_was_stored_before_a_crash_is_processed_after_it() {
        let fixture = testing::fixture("2026-03-01T10:00:00Z");
        deliver(&fixture, &charge("evt_1", "ch_1")).await.unwrap(); // nobody is there to be woken
        fixture.env.store().close().await.unwrap();
        let fixture = testing::reopen(fixture.folder, "2026-03-01T11:00:00Z", |_| {});
        let supervisor = start(&fixture).await;
        settled(&fixture, 1).await;
        assert_eq!(fixture.env.store().ledger_count().await.unwrap(), 1);
        supervisor.stop().await;
    }

    #[tokio::test]
    async fn unknown_types_are_ignored_and_malformed_events_failed_and_both_are_kept() {
        let fixture = testing::fixture("2026-03-01T10:00:00Z");
        let supervisor = start(&fixture).await;
        deliver(&fixture, r#"{"id":"evt_u","type":"radar.early_fraud_warning.created","created":1,"data":{"object":{"id":"x"}}}"#)
            .await
            .unwrap();
        deliver(&fixture, r#"{"id":"evt_m","type":"charge.succeeded","created":1,"data":{"object":{"id":"ch_1"}}}"#).await.unwrap();
        settled(&fixture, 2).await;
        let rows = statuses(&fixture).await;
        assert_eq!((rows[0].1.as_str(), rows[1].1.as_str()), ("ignored", "failed"));
        supervisor.stop().await;
    }

    #[tokio::test]
    async fn what_is_refused_is_not_stored() {
        let fixture = testing::fixture("2026-03-01T10:00:00Z");
        let live = r#"{"id":"evt_l","type":"x","created":1,"livemode":true,"data":{"object":{}}}"#;
        assert_eq!(deliver(&fixture, live).await.unwrap_err().reason, "livemode");
        for body in ["", "[]", "{", "null", r#"{"type":"x"}"#, r#"{"id":"","type":"x"}"#] {
            assert_eq!(deliver(&fixture, body).await.unwrap_err().reason, "body", "{body:?}");
        }
        assert_eq!(receive(&fixture.env, None, Bytes::from_static(b"{}")).await.unwrap_err().reason, "signature");
        assert_eq!(statuses(&fixture).await, []);
    }
}
