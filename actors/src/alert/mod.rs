//! Alert owns the state of every alert and of what people were told about it: it takes checks, decides what fires and what resolves,
//! and writes that down with its journal entry and the messages before anybody is told. When it dies, its replacement reads the state
//! back, so a restart neither forgets nor repeats an alert.

mod book;
mod delivery;
mod explain;
/// What the rules are judged on.
pub mod figures;
mod pushes;
mod requests;
mod settings;
#[cfg(test)]
mod tests;
mod view;
mod watch;

use std::{sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde_json::Value as Json;
use tokio::{sync::Notify, task::JoinSet};

use self::book::Book;
pub use self::{
    requests::{NewSilence, Response, end_silence, get, history, overview, respond, silence, silences},
    view::view,
};
use crate::{
    actor::{self, Probe, Probed, Reply},
    domain::{
        alert_rule::{Alert, Check, State as AlertState},
        notify::Silence,
    },
    env::Env,
    error::Result,
};

pub const NOUN: &str = "alert";
/// How often it is looked whether somebody is to be told something.
const TICK: Duration = Duration::from_secs(5);

pub enum Message {
    Evaluate {
        checks: Vec<Check>,
        reply: Reply<Evaluated>,
    },
    List(Reply<Vec<Alert>>),
    /// Every alert that is remembered, as the API shows it.
    Overview(Reply<Vec<Json>>),
    Respond {
        id: String,
        response: Response,
        by: String,
        reply: Reply<Json>,
    },
    Silences(Reply<Vec<Silence>>),
    Silence {
        new: Box<NewSilence>,
        reply: Reply<Silence>,
    },
    EndSilence {
        id: String,
        by: String,
        reply: Reply<Silence>,
    },
    /// Time went by.
    Tick,
    /// A message that could not be written down went out all the same, or did not.
    SentUnwritten {
        id: String,
        sent: bool,
    },
    Probe(Probe, Reply<()>),
}

impl Probed for Message {
    fn probe(probe: Probe, reply: Reply<()>) -> Self {
        Self::Probe(probe, reply)
    }
}

/// What one evaluation found: `logs/production_alerts.json`.
#[derive(Clone, Debug, Default)]
pub struct Evaluated {
    /// Firing, after these checks; of every rule, not only of these.
    pub active: Vec<Alert>,
    /// Resolved by these checks.
    pub resolved: Vec<Alert>,
    pub checked: usize,
}

/// Puts checks to the state machine. What fires or resolves is durable when this answers.
pub async fn evaluate(env: &Env, checks: Vec<Check>) -> Result<Evaluated> {
    actor::call(env, NOUN, timeout(env), |reply| Message::Evaluate { checks: checks.clone(), reply }).await
}

/// Alerts that are pending or firing.
pub async fn list(env: &Env) -> Result<Vec<Alert>> {
    actor::call(env, NOUN, timeout(env), Message::List).await
}

fn timeout(env: &Env) -> Duration {
    Duration::from_millis(env.config().server.actor_timeout_ms)
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Alerts;

pub struct State {
    env: Env,
    /// `None` until the store has been read.
    book: Option<Book>,
    wake: Arc<Notify>,
    /// Ticks, the watch, the delivery, and messages that go out unwritten; they end with the actor.
    work: JoinSet<()>,
}

impl Actor for Alerts {
    type Msg = Message;
    type State = State;
    type Arguments = Env;

    async fn pre_start(&self, _: ActorRef<Message>, env: Env) -> Result<State, ActorProcessingErr> {
        let (wake, mut work) = (Arc::new(Notify::new()), JoinSet::new());
        if env.config().timer.enabled {
            work.spawn(watch::run(env.clone()));
            work.spawn(tick(env.clone()));
            work.spawn(delivery::run(env.clone(), wake.clone()));
        }
        Ok(State { env, book: None, wake, work })
    }

    async fn handle(&self, _: ActorRef<Message>, message: Message, state: &mut State) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Evaluate { checks, reply } => actor::respond(reply, state.evaluate(&checks).await),
            Message::List(reply) => actor::respond(reply, state.list().await),
            Message::Overview(reply) => actor::respond(reply, state.overview().await),
            Message::Respond { id, response, by, reply } => actor::respond(reply, state.respond(&id, response, &by).await),
            Message::Silences(reply) => actor::respond(reply, state.book().await.map(|book| book.silences.clone())),
            Message::Silence { new, reply } => actor::respond(reply, state.silence(*new).await),
            Message::EndSilence { id, by, reply } => actor::respond(reply, state.end_silence(&id, &by).await),
            Message::Tick => state.tick().await,
            Message::SentUnwritten { id, sent } => state.sent_unwritten(id, sent),
            Message::Probe(probe, reply) => actor::answer(probe, reply).await,
        }
        Ok(())
    }
}

async fn tick(env: Env) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        actor::wake(&env, NOUN, Message::Tick);
    }
}

impl State {
    async fn book(&mut self) -> Result<&mut Book> {
        if self.book.is_none() {
            self.book = Some(Book::load(&self.env).await?);
        }
        Ok(self.book.as_mut().expect("it was just read"))
    }

    async fn list(&mut self) -> Result<Vec<Alert>> {
        Ok(self.book().await?.alerts.values().filter(|a| a.state != AlertState::Resolved).cloned().collect())
    }

    async fn overview(&mut self) -> Result<Vec<Json>> {
        Ok(self.book().await?.overview())
    }

    async fn evaluate(&mut self, checks: &[Check]) -> Result<Evaluated> {
        let book = self.book().await?;
        let resolved = book.judge(checks);
        let active = book.alerts.values().filter(|a| a.state == AlertState::Firing).cloned().collect();
        self.write().await?;
        Ok(Evaluated { active, resolved, checked: checks.len() })
    }

    /// Decides who is told what now, and writes that down with all that changed before.
    async fn write(&mut self) -> Result<()> {
        let wake = self.wake.clone();
        let book = self.book().await?;
        book.look().await;
        if book.write().await? {
            wake.notify_one();
        }
        Ok(())
    }

    async fn tick(&mut self) {
        let was_unwritten = self.book.as_ref().is_some_and(Book::has_waiting);
        let result = self.write().await;
        let Some(book) = self.book.as_mut() else { return };
        if let Err(error) = &result {
            tracing::debug!(actor = NOUN, %error, "what changed about alerts cannot be written yet");
            // Somebody must hear of a database that takes nothing: what waited for a tick already goes out without it.
            if was_unwritten {
                for message in book.take_unsent() {
                    self.work.spawn(book::send_unwritten(self.env.clone(), message));
                }
            }
        }
        while self.work.try_join_next().is_some() {}
        book.tidy().await;
    }

    fn sent_unwritten(&mut self, id: String, sent: bool) {
        let now = self.env.now();
        if let Some(book) = self.book.as_mut() {
            book.sent_unwritten(id, sent, now);
        }
    }
}
