//! Insight owns the figures that are shown: the overview of the dashboard, computed at most once a second however many pages
//! look, and the latest report of every task. It reads, and never changes anything; when it dies, only a cached answer is lost.

use std::time::Duration;

use chrono::TimeDelta;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde_json::{Value as Json, json};

use crate::{
    actor::{self, Probe, Probed, Reply},
    env::{Env, rfc3339},
    error::Result,
    store::{EventFilter, ExceptionFilter, Store},
};

pub const NOUN: &str = "insight";
const FRESH: Duration = Duration::from_secs(1);

pub enum Message {
    Overview(Reply<Json>),
    Probe(Probe, Reply<()>),
}

impl Probed for Message {
    fn probe(probe: Probe, reply: Reply<()>) -> Self {
        Self::Probe(probe, reply)
    }
}

/// The dashboard's figures: `money` per currency for the last 30 days of the provider's clock, `webhooks` by status for the last
/// day, `reconciliation` (latest summary), `backups` (newest archives), `last_payment` (`null` or its id, amount and currency).
pub async fn overview(env: &Env) -> Result<Json> {
    actor::call(env, NOUN, Duration::from_millis(env.config().server.actor_timeout_ms), Message::Overview).await
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Insight;

pub struct State {
    env: Env,
    last: Option<(tokio::time::Instant, Json)>,
}

impl Actor for Insight {
    type Msg = Message;
    type State = State;
    type Arguments = Env;

    async fn pre_start(&self, _: ActorRef<Message>, env: Env) -> Result<State, ActorProcessingErr> {
        Ok(State { env, last: None })
    }

    async fn handle(&self, _: ActorRef<Message>, message: Message, state: &mut State) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Overview(reply) => actor::respond(reply, state.overview().await),
            Message::Probe(probe, reply) => actor::answer(probe, reply).await,
        }
        Ok(())
    }
}

impl State {
    async fn overview(&mut self) -> Result<Json> {
        if let Some((at, overview)) = &self.last
            && at.elapsed() < FRESH
        {
            return Ok(overview.clone());
        }
        let overview = compute(&self.env).await?;
        self.last = Some((tokio::time::Instant::now(), overview.clone()));
        Ok(overview)
    }
}

async fn compute(env: &Env) -> Result<Json> {
    let (store, now) = (env.store(), env.now());
    let livemode = env.config().provider.mode.is_live();
    // The ledger's times are the provider's; its newest line is as near to that clock as we get without asking.
    let since = now - TimeDelta::days(30);
    let money = store.ledger_totals(livemode, since.timestamp()).await?;
    let webhooks = store.event_counts(now - TimeDelta::days(1)).await?;
    let (open, oldest) = store.open_event_count().await?;
    let latest = store.latest_recon("payouts").await?;
    let exceptions = store.exceptions(&ExceptionFilter { status: "open".into(), ..ExceptionFilter::default() }).await?.len();
    let backups = store.backups(7).await?;
    let last_payment = last_payment(store).await?;
    Ok(json!({
        "ok": true,
        "ts": rfc3339(now),
        "mode": env.config().provider.mode.as_str(),
        "money": {"since": rfc3339(since), "totals": money},
        "webhooks": {
            "last_day": webhooks.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
            "unprocessed": open,
            "oldest_unprocessed_at": oldest.map(rfc3339),
        },
        "reconciliation": latest.map(|r| json!({"ts": r["ts"], "ok": r["ok"], "complete": r["complete"], "summary": r["summary"], "totals": r["totals"], "open_exceptions": exceptions})),
        "last_payment": last_payment,
        "backups": backups.iter().map(|b| json!({"date": b.date, "archive": b.archive, "size_bytes": b.size_bytes, "made_at": rfc3339(b.made_at), "proof": b.proof})).collect::<Vec<_>>(),
    }))
}

/// The payment that the newest `charge.succeeded` told of; the webhooks' list has its id but not its amount.
async fn last_payment(store: &Store) -> Result<Option<Json>> {
    let newest = EventFilter { event_type: "charge.succeeded".into(), limit: 1, ..EventFilter::default() };
    let Some(id) = store.events(&newest).await?.into_iter().next().and_then(|event| event.object_id) else { return Ok(None) };
    let charge = store.object("charge", &id).await?;
    Ok(charge.map(|c| json!({"payment_id": c.id, "amount_minor": c.body["amount"], "currency": c.body["currency"], "created": c.created})))
}
