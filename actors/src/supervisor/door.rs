//! The door to the supervisor: starting it, asking it, stopping it. Used by `daemon.rs`, and by everybody else as `env::Tree`. It
//! decides nothing; the state machine is in `supervisor.rs`.

use std::{sync::Arc, time::Duration};

use ractor::{Actor, ActorRef};
use tokio::sync::watch;

use super::{Arguments, KILLED, Message, Root, no_such_part, stop_timeout};
use crate::{
    actor::{self, ChildSpec, Entry, Probe, Reply},
    domain::alert_rule::Part,
    env::{ChildStatus, Drill, Env, Pending, Tree},
    error::{Error, Result},
};

const ASK: Duration = Duration::from_secs(2);
/// How long a drill that nobody answers is waited for: it is in the mailbox, which is enough.
const DRILLED: Duration = Duration::from_millis(200);

/// What the process is told: nothing, or that it cannot go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// A child without which it cannot go on, or that cannot be got rid of, with its last failure.
    pub fatal: Option<String>,
}

/// The door to a running supervisor.
#[derive(Clone)]
pub struct Supervisor {
    env: Env,
    specs: Arc<Vec<ChildSpec>>,
    pub(super) cell: ActorRef<Message>,
    pub(super) outcome: watch::Receiver<Outcome>,
    parts: watch::Receiver<Vec<Part>>,
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor").finish_non_exhaustive()
    }
}

impl Supervisor {
    /// Starts the children and answers when each is running, or with the failure of the first that would not start.
    pub async fn start(env: Env, specs: Vec<ChildSpec>) -> Result<Self> {
        let (outcome_sender, outcome) = watch::channel(Outcome::default());
        let (parts_sender, parts) = watch::channel(Vec::new());
        let specs = Arc::new(specs);
        let arguments = Arguments { env: env.clone(), specs: specs.clone(), outcome: outcome_sender, parts: parts_sender };
        let (cell, _) =
            Actor::spawn(Some(actor::name(&env, "supervisor")), Root, arguments).await.map_err(|e| Error::internal(e.to_string()))?;
        let supervisor = Self { env: env.clone(), specs, cell, outcome, parts };
        env.set_tree(Arc::new(supervisor.clone()));
        let _ = supervisor.cell.cast(Message::Start); // it was just spawned
        loop {
            let children = supervisor.status().await?;
            if children.iter().all(|c| matches!(c.state, "running" | "finished")) {
                return Ok(supervisor);
            }
            if let Some(failed) = children.iter().find(|c| c.restarts > 0 && c.state != "running") {
                let why = failed.last_failure.clone().unwrap_or_default();
                supervisor.stop().await;
                return Err(Error::internal(format!("{} did not start: {why}", failed.name)));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Ends when the process cannot go on: a critical child could not be kept running, or a child could not be killed.
    pub async fn fatal(&self) -> String {
        let mut outcome = self.outcome.clone();
        match outcome.wait_for(|o| o.fatal.is_some()).await {
            Ok(outcome) => outcome.fatal.clone().unwrap_or_default(),
            Err(_) => "the supervisor is gone".to_owned(),
        }
    }

    /// Which parts are down and why, as it changes: for the alerts.
    pub fn parts(&self) -> watch::Receiver<Vec<Part>> {
        self.parts.clone()
    }

    /// How long a stop can take, at most.
    pub fn stop_limit(&self) -> Duration {
        self.specs.iter().map(|spec| stop_timeout(&self.env, spec) + KILLED).sum::<Duration>() + ASK
    }

    /// Stops the children in reverse order, each with its time limit, then itself.
    pub async fn stop(&self) {
        if let Err(error) = self.ask(self.stop_limit(), Message::Stop).await {
            tracing::error!(actor = "supervisor", %error, "the children did not all stop in time");
        }
        let _ = self.cell.stop_and_wait(None, Some(ASK)).await; // already gone is fine
    }

    async fn ask<T: Send + 'static>(&self, timeout: Duration, make: impl Fn(Reply<T>) -> Message) -> Result<T> {
        actor::call(&self.env, "supervisor", timeout, make).await
    }

    fn spec(&self, child: &str) -> Result<&ChildSpec> {
        self.specs.iter().find(|s| s.noun == child).ok_or_else(|| no_such_part(child))
    }
}

impl Tree for Supervisor {
    fn status(&self) -> Pending<'_, Vec<ChildStatus>> {
        Box::pin(self.ask(ASK, Message::Status))
    }

    fn probe_critical(&self) -> Pending<'_, ()> {
        Box::pin(async move {
            for spec in self.specs.iter().filter(|s| s.critical) {
                let answered = (spec.probe)(self.env.clone(), Probe::Ping, Entry::Limited, Duration::from_secs(1)).await;
                answered.map_err(|e| e.context(spec.noun))?;
            }
            Ok(())
        })
    }

    fn rehearse(&self, child: String, drill: Drill) -> Pending<'_, ()> {
        Box::pin(async move {
            if !self.env.config().supervisor.drills {
                return Err(Error::forbidden("drills_off", "drills are off: set supervisor.drills to rehearse a crash"));
            }
            let spec = self.spec(&child)?;
            let state = self.status().await?.into_iter().find(|c| c.name == child).map_or("starting", |c| c.state);
            if state != "running" {
                return Err(Error::conflict("not_running", format!("{child} is {state}: only a part that runs can be broken")));
            }
            let patience = if drill == Drill::Panic { ASK } else { DRILLED };
            match (spec.probe)(self.env.clone(), Probe::Drill(drill), Entry::Always, patience).await {
                Err(error) if error.reason == "restarting" => Ok(()),
                Err(error) if error.reason == "timeout" && drill != Drill::Panic => Ok(()),
                Err(error) => Err(error),
                Ok(()) => Err(Error::internal("the part survived its drill")),
            }
        })
    }

    fn release(&self, child: String, by: String) -> Pending<'_, ()> {
        Box::pin(self.ask(ASK, move |reply| Message::Release { child: child.clone(), by: by.clone(), reply }))
    }
}
