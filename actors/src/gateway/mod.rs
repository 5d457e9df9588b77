//! Gateway owns the accepting of HTTP connections. The socket is bound before it and outlives it, and connections are tasks of their
//! own: when it dies, connections are served on, new ones wait in the kernel's queue, and its replacement accepts them. What it
//! serves is in the area files, one `routes` each; `respond.rs` is the one table from errors to HTTP.

mod alerts;
mod auth;
mod backup;
mod channels;
mod contents;
mod customers;
mod health;
mod incidents;
mod insight;
mod journal;
mod keys;
mod ledger;
mod listener;
mod metrics;
/// Pages for people: the dashboard and the customer's page.
pub mod pages;
mod payments;
mod pushes;
mod recon;
mod reports;
/// Answers and errors as HTTP; the pages use it too.
pub mod respond;
mod route;
mod rules;
/// The browser's session; the pages ask who is signed in.
pub mod session;
mod slo;
mod supervisor;
mod tasks;
#[cfg(test)]
mod tests;

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::{net::TcpListener, task::AbortHandle};
use warp::{filters::BoxedFilter, reply::Response};

use self::{auth::Gate, contents::Desk, listener::Door, metrics::Metrics, payments::Rejected, route::any_of};
use crate::{
    actor::{self, Probe, Probed, Reply},
    env::Env,
    operations::resume_refunds,
};

pub const NOUN: &str = "gateway";
/// How long requests may go on after the stop was asked for; less than the supervisor's own limit.
const STOP: Duration = Duration::from_secs(5);
/// How often refunds without an outcome are looked for, and how soon again while the provider does not answer.
const RESUME_AGAIN: Duration = Duration::from_mins(5);
const RESUME_WAIT: Duration = Duration::from_secs(30);

pub enum Message {
    Probe(Probe, Reply<()>),
}

impl Probed for Message {
    fn probe(probe: Probe, reply: Reply<()>) -> Self {
        Self::Probe(probe, reply)
    }
}

/// What every handler may touch.
#[derive(Clone, Debug)]
struct Shell {
    env: Env,
    /// Keys and the throttle.
    gate: Arc<Gate>,
    /// Webhook deliveries that were refused.
    rejected: Arc<Rejected>,
    /// What was counted for `/metrics`.
    metrics: Arc<Metrics>,
    /// Who reads archives.
    desk: Arc<Desk>,
}

/// The actor; clones share the socket and what must survive a restart.
#[derive(Clone, Debug)]
pub struct Gateway {
    door: Arc<Door>,
    shell: Shell,
    resumed: Arc<AtomicBool>,
}

impl Gateway {
    /// Takes the bound socket; nothing is accepted before the actor runs.
    pub fn new(env: &Env, listener: TcpListener) -> Self {
        let shell =
            Shell { env: env.clone(), gate: Arc::default(), rejected: Arc::default(), metrics: Arc::default(), desk: Arc::default() };
        Self { door: Arc::new(Door::new(listener, shell.clone())), shell, resumed: Arc::default() }
    }
}

/// Accepting ends with the state.
pub struct State(AbortHandle);

impl Drop for State {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Actor for Gateway {
    type Msg = Message;
    type State = State;
    type Arguments = Env;

    async fn pre_start(&self, myself: ActorRef<Message>, env: Env) -> Result<State, ActorProcessingErr> {
        self.door.reopen();
        let (door, routes) = (self.door.clone(), routes(&self.shell));
        let task = tokio::spawn(async move {
            if AssertUnwindSafe(listener::accept(door, routes)).catch_unwind().await.is_err() {
                myself.kill(); // the supervisor sees it and starts another
            }
        });
        // Once per process: requests of this process carry their own refunds to the end.
        if !self.resumed.swap(true, Ordering::SeqCst) {
            tokio::spawn(async move { resume_refunds(&env).await });
        }
        Ok(State(task.abort_handle()))
    }

    async fn post_stop(&self, _: ActorRef<Message>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.0.abort();
        self.door.close(STOP).await;
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Message>, message: Message, _: &mut State) -> Result<(), ActorProcessingErr> {
        let Message::Probe(probe, reply) = message;
        actor::answer(probe, reply).await;
        Ok(())
    }
}

/// Looks for refunds without an outcome at the start, and every while after that: an answer can be lost at any time.
async fn resume_refunds(env: &Env) {
    if let Err(error) = resume_refunds::report_unanswered(env).await {
        tracing::error!(actor = NOUN, %error, "it is not known which calls of before were never answered");
    }
    loop {
        let wait = match resume_refunds::resume_open_intents(env).await {
            Ok(_) => RESUME_AGAIN,
            Err(error) if error.is_retryable() => RESUME_WAIT,
            Err(error) => {
                tracing::error!(actor = NOUN, %error, "interrupted refunds could not be finished");
                RESUME_AGAIN
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// Every endpoint; the busiest areas first, because they are tried in order.
fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        slo::routes(shell),
        payments::routes(shell),
        ledger::routes(shell),
        health::routes(shell),
        metrics::routes(shell),
        insight::routes(shell),
        backup::routes(shell),
        customers::routes(shell),
        tasks::routes(shell),
        recon::routes(shell),
        rules::routes(shell),
        alerts::routes(shell),
        incidents::routes(shell),
        channels::routes(shell),
        pushes::routes(shell),
        reports::routes(shell),
        supervisor::routes(shell),
        journal::routes(shell),
        keys::routes(shell),
        session::routes(shell),
        #[cfg(test)]
        tests::routes(shell),
        pages::act::routes(shell),
        pages::routes(shell.env.clone()),
    ])
}
