//! The ninth child, present only when no provider is configured: keeps the built-in provider serving on its own loopback port.
//! The sandbox's state is in its own file and the listener outlives this actor, so a restart loses no call.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::{net::TcpListener, task::AbortHandle};

use crate::{
    actor::{self, Probe, Probed, Reply},
    env::Env,
};

pub const NOUN: &str = "sandbox";

pub enum Message {
    Probe(Probe, Reply<()>),
}

impl Probed for Message {
    fn probe(probe: Probe, reply: Reply<()>) -> Self {
        Self::Probe(probe, reply)
    }
}

#[derive(Clone, Debug)]
pub struct SandboxServer {
    listener: Arc<TcpListener>,
}

impl SandboxServer {
    pub fn new(listener: Arc<TcpListener>) -> Self {
        Self { listener }
    }
}

/// Serving ends with the state.
pub struct State(AbortHandle);

impl Drop for State {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Actor for SandboxServer {
    type Msg = Message;
    type State = State;
    type Arguments = Env;

    async fn pre_start(&self, myself: ActorRef<Message>, env: Env) -> Result<State, ActorProcessingErr> {
        let sandbox = env.sandbox().ok_or("no sandbox is configured")?.clone();
        let listener = self.listener.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = sandbox.serve(listener, std::future::pending()).await {
                tracing::error!(actor = NOUN, %error, "the sandbox stopped serving");
                myself.kill(); // the supervisor sees it and starts another
            }
        });
        Ok(State(task.abort_handle()))
    }

    async fn handle(&self, _: ActorRef<Message>, message: Message, _: &mut State) -> Result<(), ActorProcessingErr> {
        let Message::Probe(probe, reply) = message;
        actor::answer(probe, reply).await;
        Ok(())
    }
}
