//! What every actor shares: its name, how it is called with a deadline, how it is probed, and the specification by which the
//! supervisor starts it. Actor files build their client functions on `call`; `lib.rs` passes the list of specs to the supervisor.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use ractor::{Actor, ActorCell, ActorRef, MessagingErr, RactorErr, RpcReplyPort, SpawnErr, rpc::CallResult};
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    env::Env,
    error::{Error, Result},
};

pub type Reply<T> = RpcReplyPort<Result<T>>;
pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
pub type Started = std::result::Result<(ActorCell, JoinHandle<()>), SpawnErr>;

/// How often a call looks again for an actor that is just being restarted.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How long it looks, at most: a restart takes microseconds, a backoff is not worth a caller's wait.
const LOOK_FOR: Duration = Duration::from_millis(100);

/// A question that every actor answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Answer, to show that the mailbox moves.
    Ping,
    /// Crash on purpose: rehearsals and tests, only with `supervisor.drills`.
    Panic,
}

/// The message by which an actor takes a probe.
pub trait Probed: ractor::Message {
    fn probe(probe: Probe, reply: Reply<()>) -> Self;
}

/// What an actor's `handle` does with a probe.
pub fn answer(probe: Probe, reply: Reply<()>) {
    match probe {
        Probe::Ping => respond(reply, Ok(())),
        Probe::Panic => panic!("drill: this part was asked to crash"),
    }
}

/// Answers a caller who may have given up waiting, which is no error of ours.
pub fn respond<T: Send + 'static>(reply: Reply<T>, result: Result<T>) {
    let _ = reply.send(result);
}

/// How the supervisor starts, watches and stops one child.
#[derive(Clone)]
pub struct ChildSpec {
    /// The actor's noun, e.g. `timer`.
    pub noun: &'static str,
    /// Whether the daemon is not ready without it.
    pub critical: bool,
    pub start: Arc<dyn Fn(Env, ActorCell) -> Boxed<Started> + Send + Sync>,
    pub probe: Arc<dyn Fn(Env, Probe, Duration) -> Boxed<Result<()>> + Send + Sync>,
}

/// The specification of an actor that needs nothing but the environment.
pub fn spec<A>(noun: &'static str, critical: bool, make: impl Fn() -> A + Send + Sync + 'static) -> ChildSpec
where
    A: Actor<Arguments = Env>,
    A::Msg: Probed,
{
    let make = Arc::new(make);
    ChildSpec {
        noun,
        critical,
        start: Arc::new(move |env, supervisor| {
            let make = make.clone();
            Box::pin(async move {
                let (actor, join) = Actor::spawn_linked(Some(name(&env, noun)), make(), env, supervisor).await?;
                Ok((actor.get_cell(), join))
            })
        }),
        probe: Arc::new(move |env, probe, timeout| {
            Box::pin(async move { call(&env, noun, timeout, move |reply| A::Msg::probe(probe, reply)).await })
        }),
    }
}

/// The registry is process-wide, so every instance has its own prefix.
pub fn name(env: &Env, noun: &str) -> String {
    format!("{}/{noun}", env.instance())
}

/// Sends a message and does not wait. An actor that is not there is not told; the caller's next periodic look will tell it.
pub fn cast<M: ractor::Message>(env: &Env, noun: &str, message: M) {
    if let Some(actor) = ActorRef::<M>::where_is(name(env, noun)) {
        let _ = actor.cast(message); // it may just have died; whatever matters is a durable row
    }
}

/// Asks an actor and waits for its answer until `timeout`. The actor is looked up per call, because an old reference is dead
/// after a restart. Errors: `unavailable` if it is not there, restarts meanwhile, or does not answer in time.
pub async fn call<M, T>(env: &Env, noun: &str, timeout: Duration, make: impl Fn(Reply<T>) -> M) -> Result<T>
where
    M: ractor::Message,
    T: Send + 'static,
{
    let start = Instant::now();
    loop {
        let sent = match ActorRef::<M>::where_is(name(env, noun)) {
            Some(actor) => actor.call(&make, Some(timeout.saturating_sub(start.elapsed()))).await,
            None => Err(MessagingErr::ChannelClosed),
        };
        match sent {
            Ok(CallResult::Success(result)) => return result,
            Ok(CallResult::Timeout) => {
                return Err(Error::unavailable("timeout", format!("{noun} did not answer within {} ms", timeout.as_millis())));
            }
            // It was accepted and nobody knows whether it ran: only the caller can decide to try again.
            Ok(CallResult::SenderError) => {
                return Err(Error::unavailable("restarting", format!("{noun} restarted while it was being asked")));
            }
            // Not accepted: safe to look again for the replacement.
            Err(_) if start.elapsed() < LOOK_FOR.min(timeout) => tokio::time::sleep(LOOK_AGAIN).await,
            Err(_) => return Err(Error::unavailable("restarting", format!("{noun} is not running just now"))),
        }
    }
}

/// A reason to say why a child could not be started.
pub fn start_failure(error: &SpawnErr) -> String {
    match error {
        SpawnErr::StartupFailed(cause) => cause.to_string(),
        other => RactorErr::<()>::Spawn(SpawnErr::StartupFailed(other.to_string().into())).to_string(),
    }
}
