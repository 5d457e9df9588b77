//! What every actor shares: its name, how it is called with a deadline and a place in its mailbox, how it is probed and counted, and
//! the specification by which the supervisor starts it. Actor files build their client functions on `call`, `cast` and `wake`;
//! `daemon.rs` passes the list of specs to the supervisor.

use std::{
    future::Future,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    pin::Pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, RactorErr, RpcReplyPort, SpawnErr, SupervisionEvent, concurrency::oneshot};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::{
    domain::{backoff::Budget, restart::Restart},
    env::{Drill, Env},
    error::{Error, Result},
    mailbox::Mailbox,
};

pub type Reply<T> = RpcReplyPort<Result<T>>;
pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
pub type Started = std::result::Result<(ActorCell, JoinHandle<()>), SpawnErr>;

/// Starts an incarnation, linked to the supervisor.
pub type Start = dyn Fn(Env, ActorCell) -> Boxed<Started> + Send + Sync;
/// Probes the present incarnation within a time.
pub type Ask = dyn Fn(Env, Probe, Entry, Duration) -> Boxed<Result<()>> + Send + Sync;

/// How often a call looks again for an actor that is just being restarted.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How long it looks, at most: a restart takes microseconds, a backoff is not worth a caller's wait.
const LOOK_FOR: Duration = Duration::from_millis(100);
/// How long a drill blocks its thread: for ever, as far as a daemon is concerned; the tests of this package share their process.
const SPIN: Duration = if cfg!(test) { Duration::from_secs(2) } else { Duration::from_hours(1) };

/// A question that every actor answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Answer, to show that the mailbox moves.
    Ping,
    /// Break on purpose: rehearsals and tests, only with `supervisor.drills`.
    Drill(Drill),
}

/// The message by which an actor takes a probe.
pub trait Probed: ractor::Message {
    fn probe(probe: Probe, reply: Reply<()>) -> Self;
}

/// What an actor's `handle` does with a probe.
pub async fn answer(probe: Probe, reply: Reply<()>) {
    match probe {
        Probe::Ping => respond(reply, Ok(())),
        Probe::Drill(Drill::Panic) => panic!("drill: this part was asked to crash"),
        Probe::Drill(Drill::Hang) => std::future::pending().await,
        Probe::Drill(Drill::Spin) => std::thread::sleep(SPIN), // exactly what no handler may do
    }
}

/// Answers a caller who may have given up waiting, which is no error of ours.
pub fn respond<T: Send + 'static>(reply: Reply<T>, result: Result<T>) {
    let _ = reply.send(result);
}

/// Whether a message needs a free place in the mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// At most `supervisor.max_mailbox` wait; one more is refused.
    Limited,
    /// The supervisor's own: a full mailbox must not keep it from seeing a hang.
    Always,
}

/// How the supervisor starts, watches and stops one child.
#[derive(Clone)]
pub struct ChildSpec {
    /// The actor's noun, e.g. `timer`.
    pub noun: &'static str,
    /// Whether the daemon is not ready without it.
    pub critical: bool,
    pub restart: Restart,
    /// `None`: as configured, like the limits below.
    pub budget: Option<Budget>,
    /// How long it may take to stop before it is killed.
    pub stop_timeout: Option<Duration>,
    /// How long it may leave a ping without an answer, and take to start.
    pub ping_limit: Option<Duration>,
    pub start: Arc<Start>,
    pub probe: Arc<Ask>,
}

impl ChildSpec {
    #[must_use]
    pub fn restart(self, restart: Restart) -> Self {
        Self { restart, ..self }
    }

    /// At most `max` restarts within `window_s` seconds.
    #[must_use]
    pub fn budget(self, max: u32, window_s: u64) -> Self {
        Self { budget: Some(Budget { max, window_s }), ..self }
    }

    #[must_use]
    pub fn stop_timeout(self, limit: Duration) -> Self {
        Self { stop_timeout: Some(limit), ..self }
    }

    #[must_use]
    pub fn ping_limit(self, limit: Duration) -> Self {
        Self { ping_limit: Some(limit), ..self }
    }
}

/// The specification of an actor that needs nothing but the environment: permanent, with the configured limits.
pub fn spec<A>(noun: &'static str, critical: bool, make: impl Fn() -> A + Send + Sync + 'static) -> ChildSpec
where
    A: Actor<Arguments = Env>,
    A::Msg: Probed,
{
    let make = Arc::new(make);
    ChildSpec {
        noun,
        critical,
        restart: Restart::Permanent,
        budget: None,
        stop_timeout: None,
        ping_limit: None,
        start: Arc::new(move |env, supervisor| {
            let actor = Metered { actor: make(), noun, mailbox: OnceLock::new() };
            Box::pin(async move {
                let (actor, join) = Actor::spawn_linked(Some(name(&env, noun)), actor, env, supervisor).await?;
                Ok((actor.get_cell(), join))
            })
        }),
        probe: Arc::new(move |env, probe, entry, timeout| {
            Box::pin(async move { ask(&env, noun, entry, timeout, move |reply| A::Msg::probe(probe, reply)).await })
        }),
    }
}

/// An actor whose messages are counted; to everybody else it is the actor itself.
struct Metered<A> {
    actor: A,
    noun: &'static str,
    /// Of this incarnation.
    mailbox: OnceLock<Arc<Mailbox>>,
}

impl<A: Actor<Arguments = Env>> Actor for Metered<A> {
    type Msg = A::Msg;
    type State = A::State;
    type Arguments = Env;

    async fn pre_start(&self, myself: ActorRef<A::Msg>, env: Env) -> Result<A::State, ActorProcessingErr> {
        let mailbox = self.mailbox.get_or_init(|| Arc::new(Mailbox::new(myself.get_id().pid())));
        env.mailboxes().open(self.noun, mailbox.clone());
        self.actor.pre_start(myself, env).await
    }

    async fn post_start(&self, myself: ActorRef<A::Msg>, state: &mut A::State) -> Result<(), ActorProcessingErr> {
        self.actor.post_start(myself, state).await
    }

    async fn post_stop(&self, myself: ActorRef<A::Msg>, state: &mut A::State) -> Result<(), ActorProcessingErr> {
        self.actor.post_stop(myself, state).await
    }

    async fn handle(&self, myself: ActorRef<A::Msg>, message: A::Msg, state: &mut A::State) -> Result<(), ActorProcessingErr> {
        let _at_work = self.mailbox.get().map(|mailbox| mailbox.take(kind(&message)));
        self.actor.handle(myself, message, state).await
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<A::Msg>,
        event: SupervisionEvent,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        self.actor.handle_supervisor_evt(myself, event, state).await
    }
}

/// A number for the variant of a message.
fn kind<M>(message: &M) -> u64 {
    let mut hasher = DefaultHasher::new();
    std::mem::discriminant(message).hash(&mut hasher);
    hasher.finish()
}

/// The registry is process-wide, so every instance has its own prefix.
pub fn name(env: &Env, noun: &str) -> String {
    format!("{}/{noun}", env.instance())
}

/// The actor as it is now, and its counts if they are of the same incarnation.
fn find<M: ractor::Message>(env: &Env, noun: &str) -> Option<(ActorRef<M>, Option<Arc<Mailbox>>)> {
    let actor = ActorRef::<M>::where_is(name(env, noun))?;
    let mailbox = env.mailboxes().of(noun).filter(|mailbox| mailbox.owner == actor.get_id().pid());
    Some((actor, mailbox))
}

/// Sends what has its place; `false` if the actor has just died.
fn send<M: ractor::Message>(actor: &ActorRef<M>, mailbox: Option<&Arc<Mailbox>>, message: M) -> bool {
    let kind = kind(&message);
    let sent = actor.cast(message).is_ok();
    if let (false, Some(mailbox)) = (sent, mailbox) {
        mailbox.leave(kind);
    }
    sent
}

/// Sends a message and does not wait. An actor that is not there is not told, nor is one whose mailbox is full: whatever matters
/// is a durable row, and the actor's next periodic look will find it.
pub fn cast<M: ractor::Message>(env: &Env, noun: &str, message: M) {
    let Some((actor, mailbox)) = find(env, noun) else { return };
    let limit = env.config().supervisor.max_mailbox;
    if mailbox.as_ref().is_none_or(|mailbox| mailbox.enter(kind(&message), limit)) {
        send(&actor, mailbox.as_ref(), message);
    }
}

/// Tells an actor to look for work. One such message that waits is enough for all: it is handled after this moment, so it finds
/// what was written before it.
pub fn wake<M: ractor::Message>(env: &Env, noun: &str, message: M) {
    let Some((actor, mailbox)) = find(env, noun) else { return };
    if mailbox.as_ref().is_none_or(|mailbox| mailbox.enter_alone(kind(&message))) {
        send(&actor, mailbox.as_ref(), message);
    }
}

/// Asks an actor and waits for its answer until `timeout`. The actor is looked up per call, because an old reference is dead
/// after a restart. Errors: `unavailable` if it is not there, restarts meanwhile, has too many waiting (`overloaded`), or does not
/// answer in time.
pub async fn call<M, T>(env: &Env, noun: &str, timeout: Duration, make: impl Fn(Reply<T>) -> M) -> Result<T>
where
    M: ractor::Message,
    T: Send + 'static,
{
    ask(env, noun, Entry::Limited, timeout, make).await
}

async fn ask<M, T>(env: &Env, noun: &str, entry: Entry, limit: Duration, make: impl Fn(Reply<T>) -> M) -> Result<T>
where
    M: ractor::Message,
    T: Send + 'static,
{
    let places = if entry == Entry::Always { usize::MAX } else { env.config().supervisor.max_mailbox };
    let start = Instant::now();
    let answer = loop {
        if let Some((actor, mailbox)) = find(env, noun) {
            let (sender, answer) = oneshot();
            let message = make((sender, limit).into());
            if mailbox.as_ref().is_some_and(|mailbox| !mailbox.enter(kind(&message), places)) {
                return Err(Error::unavailable("overloaded", format!("{places} messages wait for {noun} already")));
            }
            if send(&actor, mailbox.as_ref(), message) {
                break answer;
            }
        }
        // Not accepted: safe to look again for the replacement.
        if start.elapsed() >= LOOK_FOR.min(limit) {
            return Err(Error::unavailable("restarting", format!("{noun} is not running just now")));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    };
    match timeout(limit.saturating_sub(start.elapsed()), answer).await {
        Ok(Ok(result)) => result,
        // It was accepted and nobody knows whether it ran: only the caller can decide to try again.
        Ok(Err(_)) => Err(Error::unavailable("restarting", format!("{noun} restarted while it was being asked"))),
        Err(_) => Err(Error::unavailable("timeout", format!("{noun} did not answer within {} ms", limit.as_millis()))),
    }
}

/// A reason to say why a child could not be started.
pub fn start_failure(error: &SpawnErr) -> String {
    match error {
        SpawnErr::StartupFailed(cause) => cause.to_string(),
        other => RactorErr::<()>::Spawn(SpawnErr::StartupFailed(other.to_string().into())).to_string(),
    }
}
