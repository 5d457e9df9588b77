//! Ingest owns the order in which stored webhook events are processed. `receive` verifies and stores in the caller's task, so
//! nothing is acknowledged before it is durable and nothing that is acknowledged lives in a mailbox; the actor is only woken.
//! When it dies, its replacement finds every unprocessed row in the store. It owns the gap finder too (`gaps.rs`), which works in a task
//! of its own.

pub mod gaps;
mod outside;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use ring::digest;
use serde_json::{Value as Json, json};

use self::gaps::Finder;
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
    /// Look for gaps now.
    Scan {
        dry_run: bool,
        reply: Reply<Json>,
    },
    /// Whether the gap finder is at work.
    IsScanning(Reply<bool>),
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

/// Compares what was received with the provider's own list and fills what is missing; with `dry_run` it only says what is. The answer is
/// that of `GET /api/payments/gaps`, `last`. Errors: `unavailable` with reason `timeout` if it takes longer than `limit`: it goes on.
pub async fn scan(env: &Env, dry_run: bool, limit: Duration) -> Result<Json> {
    actor::call(env, NOUN, limit, |reply| Message::Scan { dry_run, reply }).await
}

/// Where the gap finder stands: `{"state","last","next_at","counts"}`; `state` is `scanning`, `idle` or `never`.
pub async fn gap_state(env: &Env) -> Result<Json> {
    let timeout = Duration::from_millis(env.config().server.actor_timeout_ms);
    let scanning = actor::call(env, NOUN, timeout, Message::IsScanning).await?;
    gaps::state(env, scanning).await
}

/// The members that every event must have.
fn parse(text: &str) -> Result<NewEvent> {
    let event: Json = serde_json::from_str(text).map_err(|e| Error::invalid("body", format!("the body is not JSON: {e}")))?;
    read(&event)
}

fn read(event: &Json) -> Result<NewEvent> {
    let word = |name: &str| {
        event[name].as_str().filter(|t| !t.is_empty()).ok_or_else(|| Error::invalid("body", format!("the event has no {name}")))
    };
    Ok(NewEvent {
        event_id: word("id")?.to_owned(),
        event_type: word("type")?.to_owned(),
        object_id: event["data"]["object"]["id"].as_str().map(str::to_owned),
        object_state: event["data"]["object"]["status"].as_str().map(str::to_owned),
        created: event["created"].as_i64().unwrap_or_default(),
        livemode: event["livemode"].as_bool().unwrap_or_default(),
        received_at: chrono::DateTime::UNIX_EPOCH,
        origin: "webhook",
        body: String::new(),
    })
}

/// The actor; `finds_gaps` if it is to look by itself, which a command without a daemon does not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ingest {
    pub finds_gaps: bool,
}

pub struct State {
    env: Env,
    complained: bool,
    /// Ends with the state.
    finder: Finder,
}

impl Actor for Ingest {
    type Msg = Message;
    type State = State;
    type Arguments = Env;

    async fn pre_start(&self, myself: ActorRef<Message>, env: Env) -> Result<State, ActorProcessingErr> {
        myself.cast(Message::Look)?;
        let finder = Finder::start(&env, self.finds_gaps);
        Ok(State { env, complained: false, finder })
    }

    async fn handle(&self, myself: ActorRef<Message>, message: Message, state: &mut State) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Wake => state.work().await,
            Message::Look => {
                state.finder.check()?;
                state.work().await;
                myself.send_after(LOOK, || Message::Look);
            }
            Message::Scan { dry_run, reply } => state.finder.scan(dry_run, reply),
            Message::IsScanning(reply) => actor::respond(reply, Ok(state.finder.is_scanning())),
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
        let counts = event.origin == "webhook" && !event.is_replay;
        if result.is_ok() && counts {
            let took = env.now() - event.received_at;
            env.meter().record("webhooks", env.now(), took.num_microseconds().and_then(|us| u64::try_from(us).ok()).unwrap_or(0), false);
        }
        if let Err(problem) = result {
            if problem.is_retryable() {
                return Err(problem); // the store, not the event: all of them wait
            }
            let retry_at = retry_at(env, &event, &problem);
            tracing::error!(actor = NOUN, event_id = event.event_id, error = %problem, retry = retry_at.is_some(), "an event could not be processed");
            let fact = env.fact("webhook.failed", &event.event_id, json!({"error": problem.message, "retry": retry_at.is_some()}));
            if retry_at.is_none() && counts {
                env.meter().record("webhooks", env.now(), 0, true);
            }
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
