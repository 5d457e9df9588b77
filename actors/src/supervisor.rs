//! The supervisor: starts the children in order, restarts the one that fails (one for one) with a budget and backoff, puts a
//! child that fails too often aside (quarantine) and stops all in reverse order. It does no I/O and awaits nothing slow: starts
//! run in tasks of their own and report back. If it dies itself, its children die with it and the process ends.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    actor::{self, ChildSpec, Probe, Reply, Started},
    domain::backoff::{Backoff, Budget, RestartWindow},
    env::{ChildStatus, Env, Pending, Tree, rfc3339},
    error::{Error, Result},
};

/// How long the end of the old incarnation is awaited before its replacement starts.
const OLD_TASK: Duration = Duration::from_secs(5);
const ASK: Duration = Duration::from_secs(2);

enum Message {
    /// Start every child, in order.
    Start,
    /// A start finished.
    Started {
        index: usize,
        generation: u64,
        result: Started,
    },
    /// A backoff or cool-down is over.
    Restart {
        index: usize,
        generation: u64,
    },
    /// The replacement answered its first probe.
    Recovered {
        index: usize,
        generation: u64,
    },
    Status(Reply<Vec<ChildStatus>>),
    /// Stop every child, in reverse order.
    Stop(Reply<()>),
}

/// What the process is told: nothing, or that it cannot go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// A critical child that could not be kept running, with its last failure.
    pub fatal: Option<String>,
}

/// The door to a running supervisor.
#[derive(Clone)]
pub struct Supervisor {
    env: Env,
    specs: Arc<Vec<ChildSpec>>,
    cell: ActorRef<Message>,
    outcome: watch::Receiver<Outcome>,
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor").finish_non_exhaustive()
    }
}

impl Supervisor {
    /// Starts the children and answers when each is running, or with the failure of the first that would not start.
    pub async fn start(env: Env, specs: Vec<ChildSpec>) -> Result<Self> {
        let (sender, outcome) = watch::channel(Outcome::default());
        let specs = Arc::new(specs);
        let arguments = Arguments { env: env.clone(), specs: specs.clone(), outcome: sender };
        let (cell, _) =
            Actor::spawn(Some(actor::name(&env, "supervisor")), Root, arguments).await.map_err(|e| Error::internal(e.to_string()))?;
        let supervisor = Self { env: env.clone(), specs, cell, outcome };
        env.set_tree(Arc::new(supervisor.clone()));
        let _ = supervisor.cell.cast(Message::Start); // it was just spawned
        loop {
            let children = supervisor.status().await?;
            if children.iter().all(|c| c.state == "running") {
                return Ok(supervisor);
            }
            if let Some(failed) = children.iter().find(|c| c.state == "quarantined" || c.restarts > 0 && c.state != "running") {
                let why = failed.last_failure.clone().unwrap_or_default();
                supervisor.stop().await;
                return Err(Error::internal(format!("{} did not start: {why}", failed.name)));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Ends when a critical child could not be kept running.
    pub async fn fatal(&self) -> String {
        let mut outcome = self.outcome.clone();
        match outcome.wait_for(|o| o.fatal.is_some()).await {
            Ok(outcome) => outcome.fatal.clone().unwrap_or_default(),
            Err(_) => "the supervisor is gone".to_owned(),
        }
    }

    /// Stops the children in reverse order, each with its time limit, then itself.
    pub async fn stop(&self) {
        let limit =
            Duration::from_millis(self.env.config().supervisor.stop_timeout_ms) * u32::try_from(self.specs.len()).unwrap_or(1) + ASK;
        if let Err(error) = self.ask(limit, Message::Stop).await {
            tracing::error!(actor = "supervisor", %error, "the children did not all stop in time");
        }
        let _ = self.cell.stop_and_wait(None, Some(ASK)).await; // already gone is fine
    }

    async fn ask<T: Send + 'static>(&self, timeout: Duration, make: impl Fn(Reply<T>) -> Message) -> Result<T> {
        actor::call(&self.env, "supervisor", timeout, make).await
    }
}

impl Tree for Supervisor {
    fn status(&self) -> Pending<'_, Vec<ChildStatus>> {
        Box::pin(self.ask(ASK, Message::Status))
    }

    fn probe_critical(&self) -> Pending<'_, ()> {
        Box::pin(async move {
            for spec in self.specs.iter().filter(|s| s.critical) {
                (spec.probe)(self.env.clone(), Probe::Ping, Duration::from_secs(1)).await.map_err(|e| e.context(spec.noun))?;
            }
            Ok(())
        })
    }

    fn drill(&self, child: String) -> Pending<'_, ()> {
        Box::pin(async move {
            if !self.env.config().supervisor.drills {
                return Err(Error::forbidden("drills_off", "drills are off: set supervisor.drills to rehearse a crash"));
            }
            let spec =
                self.specs.iter().find(|s| s.noun == child).ok_or_else(|| Error::not_found(format!("there is no part called {child}")))?;
            match (spec.probe)(self.env.clone(), Probe::Panic, ASK).await {
                Err(error) if error.reason == "restarting" => Ok(()),
                Err(error) => Err(error),
                Ok(()) => Err(Error::internal("the part survived its drill")),
            }
        })
    }
}

struct Root;

struct Arguments {
    env: Env,
    specs: Arc<Vec<ChildSpec>>,
    outcome: watch::Sender<Outcome>,
}

struct Child {
    spec: ChildSpec,
    cell: Option<ActorCell>,
    join: Option<JoinHandle<()>>,
    generation: u64,
    state: &'static str,
    restarts: u64,
    /// Failures in a row, for the backoff; a minute without one forgives.
    streak: u32,
    window: RestartWindow,
    failed: Option<(Instant, String, String)>,
    started_at: Option<chrono::DateTime<chrono::Utc>>,
    last_recovery_us: Option<u64>,
}

struct State {
    env: Env,
    children: Vec<Child>,
    outcome: watch::Sender<Outcome>,
    stopping: bool,
}

impl Actor for Root {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, _: ActorRef<Message>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let limits = &arguments.env.config().supervisor;
        let budget = Budget { max: limits.max_restarts, window_s: limits.window_s };
        let child = |spec: &ChildSpec| Child {
            spec: spec.clone(),
            cell: None,
            join: None,
            generation: 0,
            state: "starting",
            restarts: 0,
            streak: 0,
            window: RestartWindow::new(budget),
            failed: None,
            started_at: None,
            last_recovery_us: None,
        };
        let children = arguments.specs.iter().map(child).collect();
        Ok(State { env: arguments.env, children, outcome: arguments.outcome, stopping: false })
    }

    async fn handle(&self, myself: ActorRef<Message>, message: Message, state: &mut State) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Start => start_all(&myself, state),
            Message::Started { index, generation, result } => started(&myself, state, index, generation, result),
            Message::Restart { index, generation } => restart(&myself, state, index, generation),
            Message::Recovered { index, generation } => recovered(state, index, generation),
            Message::Status(reply) => actor::respond(reply, Ok(state.status())),
            Message::Stop(reply) => stop_all(state, reply),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (id, cause) = match &event {
            SupervisionEvent::ActorFailed(cell, error) => (cell.get_id(), error.to_string()),
            SupervisionEvent::ActorTerminated(cell, _, reason) => (cell.get_id(), reason.clone().unwrap_or_else(|| "stopped".to_owned())),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => return Ok(()),
        };
        drop(event); // it may hold the old state: sockets and files must be closed before the replacement opens them
        failed(&myself, state, id, cause);
        Ok(())
    }
}

impl State {
    fn status(&self) -> Vec<ChildStatus> {
        let now = self.env.now();
        self.children
            .iter()
            .map(|c| ChildStatus {
                name: c.spec.noun,
                state: c.state,
                critical: c.spec.critical,
                generation: c.generation,
                restarts: c.restarts,
                last_failure: c.failed.as_ref().map(|(_, cause, _)| cause.clone()),
                last_failure_at: c.failed.as_ref().map(|(_, _, at)| at.clone()),
                started_at: c.started_at.map(rfc3339),
                uptime_s: c.started_at.filter(|_| c.state == "running").map(|at| (now - at).num_seconds()),
                last_recovery_us: c.last_recovery_us,
            })
            .collect()
    }

    /// One log line and one journal entry, written by a task of its own.
    fn note(&self, kind: &'static str, child: &str, data: serde_json::Value) {
        let (store, fact) = (self.env.store().clone(), self.env.fact(kind, child, data));
        tokio::spawn(async move {
            if let Err(error) = store.journal(fact).await {
                tracing::warn!(actor = "supervisor", %error, "a fact about a child could not be journalled");
            }
        });
    }
}

fn start_all(myself: &ActorRef<Message>, state: &mut State) {
    let (env, supervisor, myself) = (state.env.clone(), myself.get_cell(), myself.clone());
    let mut plan = Vec::new();
    for (index, child) in state.children.iter_mut().enumerate() {
        child.generation += 1;
        plan.push((index, child.generation, child.spec.start.clone()));
    }
    tokio::spawn(async move {
        for (index, generation, start) in plan {
            let result = start(env.clone(), supervisor.clone()).await;
            let go_on = result.is_ok();
            let _ = myself.cast(Message::Started { index, generation, result }); // a stopped supervisor needs no report
            if !go_on {
                break;
            }
        }
    });
}

fn started(myself: &ActorRef<Message>, state: &mut State, index: usize, generation: u64, result: Started) {
    let now = state.env.now();
    let stopping = state.stopping;
    let child = &mut state.children[index];
    match result {
        Ok((cell, _)) if generation != child.generation || stopping => cell.stop(None),
        Ok((cell, join)) => {
            let again = child.started_at.is_some();
            (child.cell, child.join, child.state, child.started_at) = (Some(cell), Some(join), "running", Some(now));
            let noun = child.spec.noun;
            tracing::info!(actor = noun, generation, "{}", if again { "restarted" } else { "started" });
            if again {
                first_answer(myself, &state.env, child, index);
                state.note("actor.restarted", noun, serde_json::json!({ "generation": generation }));
            } else {
                state.note("actor.started", noun, serde_json::json!({ "generation": generation }));
            }
        }
        Err(error) if generation == child.generation && !stopping => {
            let cause = format!("start: {}", actor::start_failure(&error));
            fail(myself, state, index, cause);
        }
        Err(_) => {}
    }
}

/// Asks the replacement for its first answer, outside the supervisor's mailbox, to measure the recovery.
fn first_answer(myself: &ActorRef<Message>, env: &Env, child: &Child, index: usize) {
    let (probe, env, myself, generation) = (child.spec.probe.clone(), env.clone(), myself.clone(), child.generation);
    tokio::spawn(async move {
        if probe(env, Probe::Ping, ASK).await.is_ok() {
            let _ = myself.cast(Message::Recovered { index, generation }); // a stopped supervisor needs no report
        }
    });
}

fn recovered(state: &mut State, index: usize, generation: u64) {
    let child = &mut state.children[index];
    if let (true, Some((at, _, _))) = (child.generation == generation, &child.failed) {
        child.last_recovery_us = Some(u64::try_from(at.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
}

/// An event of a child that is not the current incarnation is old news.
fn failed(myself: &ActorRef<Message>, state: &mut State, id: ActorId, cause: String) {
    let current = |c: &Child| c.cell.as_ref().is_some_and(|cell| cell.get_id() == id);
    let Some(index) = state.children.iter().position(current) else { return };
    if !state.stopping {
        fail(myself, state, index, cause);
    }
}

fn fail(myself: &ActorRef<Message>, state: &mut State, index: usize, cause: String) {
    let at = rfc3339(state.env.now());
    let uptime_ms = u64::try_from(state.env.uptime().as_millis()).unwrap_or(u64::MAX);
    let limits = state.env.config().supervisor.clone();
    let child = &mut state.children[index];
    child.streak = match &child.failed {
        Some((last, _, _)) if last.elapsed() < Duration::from_secs(limits.window_s) => child.streak + 1,
        _ => 0,
    };
    child.failed = Some((Instant::now(), cause.clone(), at));
    child.cell = None;
    child.restarts += 1;
    let (noun, critical, generation) = (child.spec.noun, child.spec.critical, child.generation);
    if child.window.record(uptime_ms) {
        child.state = "restarting";
        let backoff = Backoff { base_ms: limits.backoff_base_ms, factor: 2, cap_ms: limits.backoff_cap_ms };
        let delay_ms = if child.streak == 0 { 0 } else { backoff.delay_ms(child.streak, crate::files::random_unit()) };
        tracing::warn!(actor = noun, generation, cause, delay_ms, "failed; restarting");
        state.note("actor.failed", noun, serde_json::json!({ "generation": generation, "cause": cause, "restart_in_ms": delay_ms }));
        later(myself, delay_ms, index, generation);
    } else if critical {
        child.state = "quarantined";
        tracing::error!(actor = noun, generation, cause, "failed too often and is critical; the process ends");
        state.note("actor.fatal", noun, serde_json::json!({ "generation": generation, "cause": cause }));
        let _ = state.outcome.send(Outcome { fatal: Some(format!("{noun} failed too often: {cause}")) }); // nobody listening: already stopping
    } else {
        child.state = "quarantined";
        child.window.clear();
        tracing::error!(actor = noun, generation, cause, cool_down_s = limits.cool_down_s, "failed too often; put aside");
        state.note(
            "actor.quarantined",
            noun,
            serde_json::json!({ "generation": generation, "cause": cause, "cool_down_s": limits.cool_down_s }),
        );
        later(myself, limits.cool_down_s * 1000, index, generation);
    }
}

fn later(myself: &ActorRef<Message>, delay_ms: u64, index: usize, generation: u64) {
    let message = Message::Restart { index, generation };
    if delay_ms == 0 {
        let _ = myself.cast(message); // a stopped supervisor restarts nobody
    } else {
        let myself = myself.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            let _ = myself.cast(message);
        });
    }
}

fn restart(myself: &ActorRef<Message>, state: &mut State, index: usize, generation: u64) {
    let child = &mut state.children[index];
    if state.stopping || child.generation != generation || child.cell.is_some() {
        return;
    }
    child.generation += 1;
    child.state = "restarting";
    let (env, supervisor, myself) = (state.env.clone(), myself.get_cell(), myself.clone());
    let (generation, start, old) = (child.generation, child.spec.start.clone(), child.join.take());
    tokio::spawn(async move {
        if let Some(old) = old {
            let _ = tokio::time::timeout(OLD_TASK, old).await; // its state is dropped with it; a stuck one is left behind
        }
        let result = start(env, supervisor).await;
        let _ = myself.cast(Message::Started { index, generation, result });
    });
}

/// Producers were started last and are stopped first; the store is closed by the caller after all of them.
fn stop_all(state: &mut State, reply: Reply<()>) {
    state.stopping = true;
    let limit = Duration::from_millis(state.env.config().supervisor.stop_timeout_ms);
    let mut cells = Vec::new();
    for child in state.children.iter_mut().rev() {
        child.state = "stopped";
        if let Some(cell) = child.cell.take() {
            cells.push((child.spec.noun, cell));
        }
    }
    let env = state.env.clone();
    tokio::spawn(async move {
        for (noun, cell) in cells {
            if let Ok(()) = cell.stop_and_wait(Some("stop".to_owned()), Some(limit)).await {
                tracing::info!(actor = noun, "stopped");
            } else {
                tracing::error!(actor = noun, limit_ms = limit.as_millis(), "did not stop in time; killed");
                let _ = cell.kill_and_wait(Some(Duration::from_millis(500))).await;
            }
            let fact = env.fact("actor.stopped", noun, serde_json::json!({}));
            if let Err(error) = env.store().journal(fact).await {
                tracing::warn!(actor = "supervisor", %error, "a stop could not be journalled");
            }
        }
        actor::respond(reply, Ok(()));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        actor::Probed,
        testing::{self, until},
    };

    /// Counts its lives; `fail_starts` of them fail before they begin.
    #[derive(Clone, Default)]
    struct Cat {
        fail_starts: Arc<std::sync::atomic::AtomicU32>,
        stops: Arc<std::sync::Mutex<Vec<&'static str>>>,
        noun: &'static str,
    }

    struct Ask(Probe, Reply<()>);

    impl Probed for Ask {
        fn probe(probe: Probe, reply: Reply<()>) -> Self {
            Self(probe, reply)
        }
    }

    impl Actor for Cat {
        type Msg = Ask;
        type State = ();
        type Arguments = Env;

        async fn pre_start(&self, _: ActorRef<Ask>, _: Env) -> Result<(), ActorProcessingErr> {
            use std::sync::atomic::Ordering::SeqCst;
            if self.fail_starts.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok() { Err("not yet".into()) } else { Ok(()) }
        }

        async fn handle(&self, _: ActorRef<Ask>, Ask(probe, reply): Ask, (): &mut ()) -> Result<(), ActorProcessingErr> {
            actor::answer(probe, reply);
            Ok(())
        }

        async fn post_stop(&self, _: ActorRef<Ask>, (): &mut ()) -> Result<(), ActorProcessingErr> {
            self.stops.lock().unwrap().push(self.noun);
            Ok(())
        }
    }

    async fn child(supervisor: &Supervisor, noun: &str) -> ChildStatus {
        supervisor.status().await.unwrap().into_iter().find(|c| c.name == noun).unwrap()
    }

    #[tokio::test]
    async fn a_crashed_child_comes_back_alone_and_says_why() {
        let fixture = testing::fixture("2026-03-01T00:00:00Z");
        let specs = vec![
            actor::spec("a", false, || Cat { noun: "a", ..Cat::default() }),
            actor::spec("b", true, || Cat { noun: "b", ..Cat::default() }),
        ];
        let supervisor = Supervisor::start(fixture.env.clone(), specs).await.unwrap();
        supervisor.drill("a".into()).await.unwrap();
        until("a runs again", || async { child(&supervisor, "a").await.last_recovery_us.is_some() }).await;
        let a = child(&supervisor, "a").await;
        assert_eq!((a.state, a.restarts, a.generation), ("running", 1, 2));
        assert!(a.last_failure.unwrap().contains("drill"), "the cause is kept");
        let b = child(&supervisor, "b").await;
        assert_eq!((b.state, b.restarts, b.generation), ("running", 0, 1));
        supervisor.probe_critical().await.unwrap();
        supervisor.stop().await;
    }

    #[tokio::test]
    async fn children_stop_in_reverse_order_and_their_ends_are_run() {
        let fixture = testing::fixture("2026-03-01T00:00:00Z");
        let stops = Arc::new(std::sync::Mutex::new(Vec::new()));
        let spec = |noun| {
            let stops = stops.clone();
            actor::spec(noun, false, move || Cat { noun, stops: stops.clone(), ..Cat::default() })
        };
        let supervisor = Supervisor::start(fixture.env.clone(), vec![spec("one"), spec("two"), spec("three")]).await.unwrap();
        supervisor.stop().await;
        assert_eq!(*stops.lock().unwrap(), ["three", "two", "one"]);
    }

    #[tokio::test]
    async fn a_child_over_its_budget_is_put_aside_and_the_others_live_on() {
        let folder = tempfile::tempdir().unwrap();
        let fixture = testing::reopen(folder, "2026-03-01T00:00:00Z", |config| {
            config.supervisor.max_restarts = 2;
            config.supervisor.backoff_base_ms = 1;
        });
        let specs = vec![actor::spec("bad", false, Cat::default), actor::spec("good", false, Cat::default)];
        let supervisor = Supervisor::start(fixture.env.clone(), specs).await.unwrap();
        for n in 1..=3 {
            until("it runs", || async { child(&supervisor, "bad").await.state == "running" }).await;
            supervisor.drill("bad".into()).await.unwrap();
            until("it failed", || async { child(&supervisor, "bad").await.restarts == n }).await;
        }
        assert_eq!(child(&supervisor, "bad").await.state, "quarantined");
        assert_eq!(child(&supervisor, "good").await.state, "running");
        supervisor.stop().await;
    }

    #[tokio::test]
    async fn a_critical_child_over_its_budget_ends_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let fixture = testing::reopen(folder, "2026-03-01T00:00:00Z", |config| config.supervisor.max_restarts = 0);
        let supervisor = Supervisor::start(fixture.env.clone(), vec![actor::spec("heart", true, Cat::default)]).await.unwrap();
        supervisor.drill("heart".into()).await.unwrap();
        assert!(supervisor.fatal().await.contains("heart failed too often"));
        supervisor.stop().await;
    }

    #[tokio::test]
    async fn a_restart_that_fails_to_start_counts_and_is_tried_again() {
        let fixture = testing::fixture("2026-03-01T00:00:00Z");
        let cat = Cat::default();
        let fail = cat.fail_starts.clone();
        let supervisor = Supervisor::start(fixture.env.clone(), vec![actor::spec("cat", false, move || cat.clone())]).await.unwrap();
        fail.store(2, std::sync::atomic::Ordering::SeqCst);
        supervisor.drill("cat".into()).await.unwrap();
        until("it runs again", || async {
            child(&supervisor, "cat").await.state == "running" && child(&supervisor, "cat").await.restarts == 3
        })
        .await;
        supervisor.stop().await;
    }
}
