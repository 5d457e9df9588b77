//! The supervisor: starts the children in order, pings them, kills the one that hangs, restarts the one that fails (one for one) by
//! the rules of `domain/restart.rs`, puts a child that fails too often aside (quarantine) and stops all in reverse order. It does
//! no I/O and awaits nothing slow: starts and pings run in tasks of their own and report back with the generation they belong to.
//! If it dies itself, its children die with it and the process ends.

mod door;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use serde_json::{Value as Json, json};
use tokio::{sync::watch, task::JoinHandle};

pub use self::door::{Outcome, Supervisor};
use crate::{
    actor::{self, ChildSpec, Entry, Probe, Reply, Started},
    domain::{
        alert_rule::Part,
        backoff::{Backoff, Budget},
        restart::{End, History, Next, Policy},
    },
    env::{ChildStatus, Env, SELF_HEAL, rfc3339},
    error::{Error, Result},
    mailbox::Figures,
};

/// How long the end of the old incarnation is awaited before its replacement starts.
/// So many ends without a child are remembered.
const EARLY: usize = 64;
const OLD_TASK: Duration = Duration::from_secs(5);
/// How long a replacement is given for its first answer.
const FIRST: Duration = Duration::from_secs(2);
/// How long a child that was killed at the stop may take to be gone.
const KILLED: Duration = Duration::from_millis(500);

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
    /// Ping every child.
    Look,
    /// A ping came back.
    Answered {
        index: usize,
        generation: u64,
    },
    /// A ping did not come back.
    Silent {
        index: usize,
        generation: u64,
    },
    /// The time that a killed child has to be gone is over.
    StillThere {
        index: usize,
        generation: u64,
    },
    /// The time that a start has to come to an end, whatever it is, is over.
    StillStarting {
        index: usize,
        generation: u64,
    },
    Release {
        child: String,
        by: String,
        reply: Reply<()>,
    },
    Status(Reply<Vec<ChildStatus>>),
    /// Stop every child, in reverse order.
    Stop(Reply<()>),
}

fn no_such_part(child: &str) -> Error {
    Error::not_found(format!("there is no part called {child}"))
}

fn stop_timeout(env: &Env, spec: &ChildSpec) -> Duration {
    spec.stop_timeout.unwrap_or(Duration::from_millis(env.config().supervisor.stop_timeout_ms))
}

fn ping_limit(env: &Env, spec: &ChildSpec) -> Duration {
    spec.ping_limit.unwrap_or(Duration::from_millis(env.config().supervisor.ping_limit_ms))
}

struct Root;

struct Arguments {
    env: Env,
    specs: Arc<Vec<ChildSpec>>,
    outcome: watch::Sender<Outcome>,
    parts: watch::Sender<Vec<Part>>,
}

struct Failure {
    at: Instant,
    cause: String,
    at_text: String,
}

struct Child {
    spec: ChildSpec,
    cell: Option<ActorCell>,
    join: Option<JoinHandle<()>>,
    generation: u64,
    state: &'static str,
    restarts: u64,
    history: History,
    failure: Option<Failure>,
    started_at: Option<DateTime<Utc>>,
    last_recovery_us: Option<u64>,
    /// An incarnation is being started.
    starting: bool,
    /// A ping has been on its way since then.
    pinged: Option<Instant>,
    /// Why it was killed: the cause of the end that follows.
    killed_for: Option<String>,
    /// Why it is put aside, and until when.
    quarantine: Option<(String, DateTime<Utc>)>,
}

struct State {
    env: Env,
    children: Vec<Child>,
    outcome: watch::Sender<Outcome>,
    parts: watch::Sender<Vec<Part>>,
    stopping: bool,
    /// Ends of actors that are nobody's yet: one may die before its start was reported, and supervision events overtake messages.
    early: Vec<(ActorId, End, String)>,
}

impl Actor for Root {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, _: ActorRef<Message>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let limits = &arguments.env.config().supervisor;
        let child = |spec: &ChildSpec| Child {
            spec: spec.clone(),
            cell: None,
            join: None,
            generation: 0,
            state: "starting",
            restarts: 0,
            history: History::new(Policy {
                restart: spec.restart,
                critical: spec.critical,
                budget: spec.budget.unwrap_or(Budget { max: limits.max_restarts, window_s: limits.window_s }),
                backoff: Backoff::new(limits.backoff_base_ms, 2, limits.backoff_cap_ms),
                cool_down_ms: limits.cool_down_s.saturating_mul(1000),
            }),
            failure: None,
            started_at: None,
            last_recovery_us: None,
            starting: false,
            pinged: None,
            killed_for: None,
            quarantine: None,
        };
        let children = arguments.specs.iter().map(child).collect();
        Ok(State { env: arguments.env, children, outcome: arguments.outcome, parts: arguments.parts, stopping: false, early: Vec::new() })
    }

    async fn handle(&self, myself: ActorRef<Message>, message: Message, state: &mut State) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Start => start_all(&myself, state),
            Message::Started { index, generation, result } => started(&myself, state, index, generation, result),
            Message::Restart { index, generation } => restart(&myself, state, index, generation),
            Message::Recovered { index, generation } => recovered(state, index, generation),
            Message::Look => look(&myself, state),
            Message::Answered { index, generation } => answered(state, index, generation),
            Message::Silent { index, generation } => silent(&myself, state, index, generation),
            Message::StillThere { index, generation } => still_there(state, index, generation),
            Message::StillStarting { index, generation } => still_starting(state, index, generation),
            Message::Release { child, by, reply } => actor::respond(reply, release(&myself, state, &child, &by)),
            Message::Status(reply) => actor::respond(reply, Ok(state.status())),
            Message::Stop(reply) => stop_all(state, reply),
        }
        state.publish();
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (id, end, cause) = match &event {
            SupervisionEvent::ActorFailed(cell, error) => (cell.get_id(), End::Failed, error.to_string()),
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                let reason = reason.as_deref().unwrap_or("stopped");
                (cell.get_id(), End::of_stop(reason), reason.to_owned())
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => return Ok(()),
        };
        drop(event); // it may hold the old state: sockets and files must be closed before the replacement opens them
        ended(&myself, state, id, end, cause);
        state.publish();
        Ok(())
    }
}

impl State {
    fn status(&self) -> Vec<ChildStatus> {
        self.children.iter().map(|child| child.status(&self.env)).collect()
    }

    /// Tells who listens, if another part is down now or for another reason.
    fn publish(&self) {
        let parts = || self.children.iter().map(|c| Part { name: c.spec.noun, down: c.down() });
        self.parts.send_if_modified(|known| {
            let changed = !parts().eq(known.iter().cloned());
            if changed {
                *known = parts().collect();
            }
            changed
        });
    }

    /// The child, if it is still that incarnation: whatever else comes from a task is old news.
    fn current(&mut self, index: usize, generation: u64) -> Option<&mut Child> {
        if self.stopping { None } else { self.children.get_mut(index).filter(|child| child.generation == generation) }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.env.uptime().as_millis()).unwrap_or(u64::MAX)
    }

    /// One journal entry, written by a task of its own.
    fn note(&self, kind: &'static str, child: &str, data: Json) {
        let (store, fact) = (self.env.store().clone(), self.env.fact(kind, child, data));
        tokio::spawn(async move {
            if let Err(error) = store.journal(fact).await {
                tracing::warn!(actor = "supervisor", %error, "a fact about a child could not be journalled");
            }
        });
    }

    fn give_up(&self, noun: &str, generation: u64, why: &str, cause: &str) {
        tracing::error!(actor = noun, generation, cause, "{why}; the process ends");
        self.note("actor.fatal", noun, json!({ "generation": generation, "cause": cause, "why": why }));
        let _ = self.outcome.send(Outcome { fatal: Some(format!("{noun} {why}: {cause}")) }); // nobody listening: already stopping
    }
}

impl Child {
    fn status(&self, env: &Env) -> ChildStatus {
        let alive = matches!(self.state, "running" | "hung");
        let mailbox = env.mailboxes().of(self.spec.noun).filter(|_| alive);
        let figures = mailbox.map_or_else(Figures::default, |mailbox| mailbox.figures());
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        ChildStatus {
            name: self.spec.noun,
            state: self.state,
            critical: self.spec.critical,
            restart: self.spec.restart,
            generation: self.generation,
            restarts: self.restarts,
            last_failure: self.failure.as_ref().map(|f| f.cause.clone()),
            last_failure_at: self.failure.as_ref().map(|f| f.at_text.clone()),
            started_at: self.started_at.map(rfc3339),
            uptime_s: self.started_at.filter(|_| alive).map(|at| (env.now() - at).num_seconds()),
            last_recovery_us: self.last_recovery_us,
            down: self.down(),
            quarantined_until: self.quarantine.as_ref().map(|(_, until)| rfc3339(*until)),
            mailbox_depth: figures.depth,
            handled: figures.handled,
            in_handler_ms: figures.in_handler.map(ms),
            handler_longest_ms: ms(figures.longest),
            handler_total_ms: ms(figures.total),
        }
    }

    /// Why it is down for longer than a restart takes, if it is.
    fn down(&self) -> Option<String> {
        let last = self.failure.as_ref().and_then(|f| f.cause.lines().next()).unwrap_or("no reason was given");
        match (self.state, &self.quarantine) {
            ("quarantined", Some((why, _))) => Some(format!("put aside, {why}; last: {last}")),
            ("failed", _) => Some(format!("failed and is not restarted: {last}")),
            _ => None,
        }
    }
}

fn start_all(myself: &ActorRef<Message>, state: &mut State) {
    let (env, supervisor, task) = (state.env.clone(), myself.get_cell(), myself.clone());
    let mut plan = Vec::new();
    for (index, child) in state.children.iter_mut().enumerate() {
        child.generation += 1;
        plan.push((index, child.generation, child.spec.clone()));
    }
    tokio::spawn(async move {
        for (index, generation, spec) in plan {
            let result = start(&spec, &env, &supervisor).await;
            let go_on = result.is_ok();
            let _ = task.cast(Message::Started { index, generation, result }); // a stopped supervisor needs no report
            if !go_on {
                break;
            }
        }
    });
    later(myself, state.env.config().supervisor.ping_every_ms, Message::Look);
}

/// A start that does not come to an end is one that failed.
async fn start(spec: &ChildSpec, env: &Env, supervisor: &ActorCell) -> Started {
    let limit = ping_limit(env, spec);
    match tokio::time::timeout(limit, (spec.start)(env.clone(), supervisor.clone())).await {
        Ok(started) => started,
        Err(_) => Err(SpawnErr::StartupFailed(format!("not ready after {} ms", limit.as_millis()).into())),
    }
}

fn started(myself: &ActorRef<Message>, state: &mut State, index: usize, generation: u64, result: Started) {
    let (now, now_ms) = (state.env.now(), state.now_ms());
    let Some(child) = state.current(index, generation) else {
        if let Ok((cell, _)) = result {
            cell.stop(None); // nobody waits for it any more
        }
        return;
    };
    child.starting = false;
    match result {
        Ok((cell, join)) => {
            let (again, born) = (child.started_at.is_some(), cell.get_id());
            (child.cell, child.join, child.state, child.started_at) = (Some(cell), Some(join), "running", Some(now));
            child.pinged = None;
            child.history.started(now_ms);
            let noun = child.spec.noun;
            tracing::info!(actor = noun, generation, "{}", if again { "restarted" } else { "started" });
            if again {
                first_answer(myself, &state.env, &state.children[index], index);
            }
            state.note(if again { "actor.restarted" } else { "actor.started" }, noun, json!({ "generation": generation }));
            if let Some(at) = state.early.iter().position(|(id, ..)| *id == born) {
                let (_, end, cause) = state.early.remove(at);
                fail(myself, state, index, end, cause);
            }
        }
        Err(error) => fail(myself, state, index, End::Failed, format!("start: {}", actor::start_failure(&error))),
    }
}

/// Asks the replacement for its first answer, outside the supervisor's mailbox, to measure the recovery.
fn first_answer(myself: &ActorRef<Message>, env: &Env, child: &Child, index: usize) {
    let (probe, env, myself, generation) = (child.spec.probe.clone(), env.clone(), myself.clone(), child.generation);
    tokio::spawn(async move {
        if probe(env, Probe::Ping, Entry::Always, FIRST).await.is_ok() {
            let _ = myself.cast(Message::Recovered { index, generation }); // a stopped supervisor needs no report
        }
    });
}

fn recovered(state: &mut State, index: usize, generation: u64) {
    if let Some(child) = state.current(index, generation)
        && let Some(failure) = &child.failure
    {
        child.last_recovery_us = Some(u64::try_from(failure.at.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
}

/// Pings every child that runs and owes no answer. The wait is a task's, so that a slow child delays no other; but a handler that
/// answers and then blocks its thread may hold that very task, so one that is overdue is seen here as well.
fn look(myself: &ActorRef<Message>, state: &mut State) {
    if state.stopping {
        return;
    }
    let every = Duration::from_millis(state.env.config().supervisor.ping_every_ms);
    let mut overdue = Vec::new();
    for (index, child) in state.children.iter_mut().enumerate().filter(|(_, child)| child.state == "running") {
        if let Some(since) = child.pinged {
            if since.elapsed() > ping_limit(&state.env, &child.spec) + every {
                overdue.push((index, child.generation));
            }
            continue;
        }
        child.pinged = Some(Instant::now());
        let (probe, generation, limit) = (child.spec.probe.clone(), child.generation, ping_limit(&state.env, &child.spec));
        let (env, myself) = (state.env.clone(), myself.clone());
        tokio::spawn(async move {
            let result = probe(env, Probe::Ping, Entry::Always, limit).await;
            // One that died or restarts meanwhile is not silent: its end was reported.
            let silent = result.is_err_and(|error| error.reason == "timeout");
            let message = if silent { Message::Silent { index, generation } } else { Message::Answered { index, generation } };
            let _ = myself.cast(message); // a stopped supervisor needs no report
        });
    }
    for (index, generation) in overdue {
        silent(myself, state, index, generation);
    }
    later(myself, state.env.config().supervisor.ping_every_ms, Message::Look);
}

fn answered(state: &mut State, index: usize, generation: u64) {
    if let Some(child) = state.current(index, generation) {
        child.pinged = None;
    }
}

/// It hangs: killed, it ends where its handler waits, and what follows is an end like any other. A handler that never waits
/// cannot be ended, so that is looked at once more.
fn silent(myself: &ActorRef<Message>, state: &mut State, index: usize, generation: u64) {
    let kill_limit_ms = state.env.config().supervisor.kill_limit_ms;
    let env = state.env.clone();
    let Some(child) = state.current(index, generation).filter(|child| child.state == "running") else { return };
    let Some(cell) = child.cell.clone() else { return };
    let (noun, limit_ms) = (child.spec.noun, ping_limit(&env, &child.spec).as_millis());
    let cause = format!("hung: no answer for {limit_ms} ms");
    child.state = "hung";
    child.killed_for = Some(cause.clone());
    tracing::error!(actor = noun, generation, cause, "killed");
    state.note("actor.hung", noun, json!({ "generation": generation, "cause": cause }));
    cell.kill();
    later(myself, kill_limit_ms, Message::StillThere { index, generation });
}

fn still_there(state: &mut State, index: usize, generation: u64) {
    let kill_limit_ms = state.env.config().supervisor.kill_limit_ms;
    let Some(child) = state.current(index, generation).filter(|child| child.state == "hung") else { return };
    let (noun, cause) = (child.spec.noun, child.killed_for.clone().unwrap_or_default());
    let why = format!("cannot be killed: its handler never waits, {kill_limit_ms} ms after the kill it was still there");
    state.give_up(noun, generation, &why, &cause);
}

/// A start that only waits was given up in time; one that still goes on blocks its thread.
fn still_starting(state: &mut State, index: usize, generation: u64) {
    let Some(child) = state.current(index, generation).filter(|child| child.starting) else { return };
    let (noun, cause) = (child.spec.noun, child.failure.as_ref().map(|f| f.cause.clone()).unwrap_or_default());
    state.give_up(noun, generation, "cannot be started: its start never waits and does not end", &cause);
}

/// An event of a child that is not the current incarnation is old news.
fn ended(myself: &ActorRef<Message>, state: &mut State, id: ActorId, end: End, cause: String) {
    let current = |c: &Child| c.cell.as_ref().is_some_and(|cell| cell.get_id() == id);
    let Some(index) = state.children.iter().position(current) else {
        state.early.push((id, end, cause));
        if state.early.len() > EARLY {
            state.early.remove(0); // of an incarnation that nobody waited for any more
        }
        return;
    };
    if !state.stopping {
        let cause = state.children[index].killed_for.take().unwrap_or(cause);
        fail(myself, state, index, end, cause);
    }
}

fn fail(myself: &ActorRef<Message>, state: &mut State, index: usize, end: End, cause: String) {
    let (now, now_ms) = (state.env.now(), state.now_ms());
    let child = &mut state.children[index];
    child.cell = None;
    let (noun, generation) = (child.spec.noun, child.generation);
    let next = child.history.ended(end, now_ms, crate::files::random_unit());
    if next == Next::Finished {
        child.state = "finished";
        tracing::info!(actor = noun, generation, cause, "finished");
        state.note("actor.finished", noun, json!({ "generation": generation, "cause": cause }));
        return;
    }
    child.failure = Some(Failure { at: Instant::now(), cause: cause.clone(), at_text: rfc3339(now) });
    child.restarts += 1;
    match next {
        Next::Restart { delay_ms } => {
            child.state = "restarting";
            tracing::warn!(actor = noun, generation, cause, delay_ms, "failed; restarting");
            state.note("actor.failed", noun, json!({ "generation": generation, "cause": cause, "restart_in_ms": delay_ms }));
            later(myself, delay_ms, Message::Restart { index, generation });
        }
        Next::Quarantine { cool_down_ms, why } => {
            child.state = "quarantined";
            let wait = TimeDelta::try_milliseconds(i64::try_from(cool_down_ms).unwrap_or(i64::MAX)).unwrap_or(TimeDelta::MAX);
            child.quarantine = Some((why.clone(), now.checked_add_signed(wait).unwrap_or(DateTime::<Utc>::MAX_UTC)));
            let cool_down_s = cool_down_ms / 1000;
            tracing::error!(actor = noun, generation, cause, cool_down_s, "{why}; put aside");
            let data = json!({ "generation": generation, "cause": cause, "why": why, "cool_down_s": cool_down_s });
            state.note("actor.quarantined", noun, data);
            later(myself, cool_down_ms, Message::Restart { index, generation });
        }
        Next::Failed | Next::Finished => {
            child.state = "failed";
            tracing::error!(actor = noun, generation, cause, "failed; it is temporary and stays down");
            state.note("actor.failed", noun, json!({ "generation": generation, "cause": cause }));
        }
        Next::Fatal { why } => {
            child.state = "failed";
            state.give_up(noun, generation, &why, &cause);
        }
    }
}

fn later(myself: &ActorRef<Message>, delay_ms: u64, message: Message) {
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

/// Starts the next incarnation; one that was released before its cool-down ended is a later generation and is left alone.
fn restart(myself: &ActorRef<Message>, state: &mut State, index: usize, generation: u64) {
    let env = state.env.clone();
    let waiting = |child: &&mut Child| matches!(child.state, "restarting" | "quarantined");
    let Some(child) = state.current(index, generation).filter(waiting) else { return };
    child.generation += 1;
    (child.state, child.quarantine, child.starting) = ("restarting", None, true);
    let (supervisor, myself) = (myself.get_cell(), myself.clone());
    let (generation, spec, old) = (child.generation, child.spec.clone(), child.join.take());
    tokio::spawn(async move {
        if let Some(old) = old {
            let _ = tokio::time::timeout(OLD_TASK, old).await; // its state is dropped with it; a stuck one is left behind
        }
        let limit = ping_limit(&env, &spec) + Duration::from_millis(env.config().supervisor.kill_limit_ms);
        later(&myself, u64::try_from(limit.as_millis()).unwrap_or(u64::MAX), Message::StillStarting { index, generation });
        tokio::task::yield_now().await; // what was just spawned is this thread's next task, and a start that blocks would keep it
        let result = start(&spec, &env, &supervisor).await;
        let _ = myself.cast(Message::Started { index, generation, result });
    });
}

fn release(myself: &ActorRef<Message>, state: &mut State, name: &str, by: &str) -> Result<()> {
    let index = state.children.iter().position(|c| c.spec.noun == name).ok_or_else(|| no_such_part(name))?;
    let child = &mut state.children[index];
    if child.state != "quarantined" {
        return Err(Error::conflict("not_quarantined", format!("{name} is {}: only a part that was put aside is released", child.state)));
    }
    if !child.history.release(by == SELF_HEAL) {
        let message = format!("{name} was released before and failed again: a person has to look, or its cool-down has to end");
        return Err(Error::conflict("released_before", message));
    }
    let (noun, generation) = (child.spec.noun, child.generation);
    tracing::warn!(actor = noun, generation, by, "released");
    state.note("actor.released", noun, json!({ "generation": generation, "by": by }));
    restart(myself, state, index, generation);
    Ok(())
}

/// Producers were started last and are stopped first; the store is closed by the caller after all of them.
fn stop_all(state: &mut State, reply: Reply<()>) {
    state.stopping = true;
    let mut cells = Vec::new();
    for child in state.children.iter_mut().rev() {
        if let Some(cell) = child.cell.take() {
            // One that was killed and is still there will not listen either.
            let limit = if child.state == "hung" { Duration::ZERO } else { stop_timeout(&state.env, &child.spec) };
            cells.push((child.spec.noun, cell, limit));
        }
        child.state = "stopped";
    }
    let env = state.env.clone();
    tokio::spawn(async move {
        for (noun, cell, limit) in cells {
            if let Ok(()) = cell.stop_and_wait(Some("stop".to_owned()), Some(limit)).await {
                tracing::info!(actor = noun, "stopped");
            } else {
                tracing::error!(actor = noun, limit_ms = limit.as_millis(), "did not stop in time; killed");
                let _ = cell.kill_and_wait(Some(KILLED)).await;
            }
            let fact = env.fact("actor.stopped", noun, json!({}));
            if let Err(error) = env.store().journal(fact).await {
                tracing::warn!(actor = "supervisor", %error, "a stop could not be journalled");
            }
        }
        actor::respond(reply, Ok(()));
    });
}

#[cfg(test)]
mod tests;
