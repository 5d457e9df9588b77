//! The timer owns the agenda: which slots are due, and when to look again. It never works itself and never waits for the store: rounds
//! (`desk.rs`), leases (`lease.rs`) and runs are tasks of their own that report back. When it dies, runs go on; its replacement takes up
//! marks, pauses and open runs from the store.

mod desk;
mod lease;
mod level;
#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "small numbers, drawn below a bound"
)]
mod simulation;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde_json::{Value as Json, json};
use tokio::task::JoinHandle;

use self::{desk::Desk, lease::TakenUp};
pub use self::{
    desk::{Backfill, Backfilled, Floor},
    lease::LookedAfter,
    level::{Level, TaskLevel},
};
use crate::{
    actor::{self, Probe, Probed, Reply},
    domain::{alert_rule::Check, schedule::Agenda},
    env::{Env, rfc3339},
    error::{Error, Result},
    store::{Pause, RunRow},
    task::TaskSpec,
};

pub const NOUN: &str = "timer";
/// A slot looked at within this time of being due is on time; later ones fall under the catch-up policy.
const ON_TIME_S: i64 = 10;
/// The wall clock is read again at least this often, because it may be set or the machine may sleep: well within `ON_TIME_S`, so that a
/// slot that comes up after a jump is still on time when it is noticed.
const LOOK_AT_LEAST: Duration = Duration::from_secs(5);
/// How soon it is tried again after the store failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Every open run is looked at, and a database may be slow.
const LOOK_AFTER: Duration = Duration::from_secs(30);
/// Tasks served in one round at most; the rest of a rush comes in the next.
const ROUND: usize = 1000;

pub enum Message {
    /// Look at the clock.
    Look,
    /// What the store knows was read: marks, pauses.
    TakenUp(Result<TakenUp>),
    /// A round is in the ledger: the new marks of its tasks.
    Settled(Result<Vec<(usize, DateTime<Utc>)>>),
    /// The lease was renewed and others were looked after.
    Renewed(Result<Vec<Pause>>),
    List(Reply<Vec<TaskInfo>>),
    Next {
        task: String,
        count: usize,
        reply: Reply<Vec<String>>,
    },
    RunNow {
        task: String,
        asked_by: String,
        reply: Reply<String>,
    },
    Pause {
        pause: Pause,
        reply: Reply<()>,
    },
    Resume {
        task: String,
        asked_by: String,
        reply: Reply<()>,
    },
    Cancel {
        run_id: String,
        asked_by: String,
        reply: Reply<String>,
    },
    Backfill {
        backfill: Backfill,
        reply: Reply<Backfilled>,
    },
    LookAfter(Reply<LookedAfter>),
    Level {
        since: DateTime<Utc>,
        reply: Reply<Level>,
    },
    Probe(Probe, Reply<()>),
    /// Answered when nothing is being looked at.
    #[cfg(test)]
    Quiet(Reply<()>),
}

impl Probed for Message {
    fn probe(probe: Probe, reply: Reply<()>) -> Self {
        Self::Probe(probe, reply)
    }
}

/// A task as the lists show it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct TaskInfo {
    pub name: &'static str,
    pub owner: &'static str,
    pub doc: &'static str,
    pub schedule: String,
    /// `scheduled`, `running`, `paused` or `planned`.
    pub state: &'static str,
    pub next: Option<String>,
    /// The run going on, if one is.
    pub run_id: Option<String>,
    /// The file under `logs/` that holds the latest record.
    pub report: Option<&'static str>,
    pub paused: Option<PauseInfo>,
    pub policy: PolicyInfo,
}

/// Why a task is paused.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PauseInfo {
    pub at: String,
    pub by: String,
    pub why: String,
    pub until: Option<String>,
}

/// A task's policies, with the unit in the name.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PolicyInfo {
    pub catch_up: crate::domain::schedule::CatchUp,
    pub overlap: &'static str,
    pub jitter_ms: i64,
    pub blackout: Vec<String>,
    pub timeout_s: u64,
    pub total_timeout_s: u64,
    pub retries: u32,
    /// Failures in a row after which it is paused; 0: never.
    pub pause_after: u32,
    /// The task that must have ended first.
    pub after: Option<&'static str>,
}

/// Starts a run by hand. Answers its run id once it is durable. Errors: `not_found`, `conflict` with reason `planned` or
/// `already_running` (with the `run_id` that is in the way).
pub async fn run_now(env: &Env, task: &str, asked_by: &str) -> Result<String> {
    actor::call(env, NOUN, timeout(env), |reply| Message::RunNow { task: task.to_owned(), asked_by: asked_by.to_owned(), reply }).await
}

pub async fn list(env: &Env) -> Result<Vec<TaskInfo>> {
    actor::call(env, NOUN, timeout(env), Message::List).await
}

/// The next due times of a task, RFC 3339; none while it is planned or nothing is scheduled. Errors: `not_found`.
pub async fn next(env: &Env, task: &str, count: usize) -> Result<Vec<String>> {
    actor::call(env, NOUN, timeout(env), |reply| Message::Next { task: task.to_owned(), count, reply }).await
}

/// Its slots are skipped with reason `paused` until it is resumed or `until` has come; what runs goes on, and what was skipped is not
/// made up for. Errors: `not_found`, `conflict` with reason `planned`, `invalid` if `until` has passed.
pub async fn pause(env: &Env, task: &str, asked_by: &str, why: &str, until: Option<DateTime<Utc>>) -> Result<()> {
    let pause = Pause { task: task.to_owned(), at: env.now(), by: asked_by.to_owned(), why: why.to_owned(), until };
    actor::call(env, NOUN, timeout(env), |reply| Message::Pause { pause: pause.clone(), reply }).await
}

/// Errors: `not_found`, `conflict` with reason `not_paused`.
pub async fn resume(env: &Env, task: &str, asked_by: &str) -> Result<()> {
    actor::call(env, NOUN, timeout(env), |reply| Message::Resume { task: task.to_owned(), asked_by: asked_by.to_owned(), reply }).await
}

/// Cancels a run that waits, or tells one that is going on to end, on whichever node. Answers `cancelled`, or `cancelling` while it
/// goes on. Errors: `not_found`, `conflict` with reason `ended`.
pub async fn cancel(env: &Env, run_id: &str, asked_by: &str) -> Result<String> {
    actor::call(env, NOUN, timeout(env), |reply| Message::Cancel { run_id: run_id.to_owned(), asked_by: asked_by.to_owned(), reply }).await
}

/// Queues the slots of a range of the past that did not run, to be run one after the other. Errors: `not_found`, `conflict` (`planned`),
/// `invalid` (`range`: empty, in the future, or more slots than one request may ask for).
pub async fn backfill(env: &Env, backfill: Backfill) -> Result<Backfilled> {
    actor::call(env, NOUN, timeout(env), |reply| Message::Backfill { backfill: backfill.clone(), reply }).await
}

/// Looks at once for leases and runs whose process is gone, which else happens every third of a lease, and for runs of this process
/// whose end could not be written. Answers what it ended or took over.
pub async fn look_after(env: &Env) -> Result<LookedAfter> {
    actor::call(env, NOUN, LOOK_AFTER, Message::LookAfter).await
}

/// The schedule's own service level since `since`.
pub async fn level(env: &Env, since: DateTime<Utc>) -> Result<Level> {
    actor::call(env, NOUN, timeout(env), |reply| Message::Level { since, reply }).await
}

/// Whether a task was paused because it kept failing: for the alert actor.
pub async fn pause_check(env: &Env) -> Result<Check> {
    desk::pause_check(env).await
}

/// A run as the API, the command line and reports show it; `result` apart, because it may be large.
pub fn run_view(run: &RunRow) -> Json {
    json!({
        "run_id": run.run_id, "task": run.task, "slot": rfc3339(run.slot), "state": run.state, "reason": run.reason, "trigger": run.cause,
        "asked_by": run.asked_by, "attempts": run.attempts, "started_at": run.started_at.map(rfc3339), "ended_at": run.ended_at.map(rfc3339),
        "duration_ms": run.started_at.zip(run.ended_at).map(|(from, to)| (to - from).num_milliseconds()), "lag_ms": run.lag_ms,
        // A panic's backtrace is for the log.
        "error": run.error.as_deref().and_then(|e| e.lines().next()),
    })
}

/// A run with every attempt that failed and with its result.
pub async fn whole_run(env: &Env, run_id: &str) -> Result<Json> {
    let run = env.store().run(run_id).await?.ok_or_else(|| Error::not_found("there is no such run"))?;
    let attempts = env.store().attempts(run_id).await?;
    let mut view = run_view(&run);
    view["ok"] = true.into();
    view["failed_attempts"] = attempts
        .iter()
        .map(|a| {
            json!({
                "attempt": a.attempt, "state": a.state, "error": a.error.lines().next(), "retryable": a.is_retryable,
                "started_at": rfc3339(a.started_at), "ended_at": rfc3339(a.ended_at),
            })
        })
        .collect();
    view["result"] = run.result.as_deref().map(serde_json::from_str).transpose()?.unwrap_or(Json::Null);
    Ok(view)
}

/// Every task with its last run.
pub async fn overview(env: &Env) -> Result<Json> {
    let last = env.store().latest_runs().await?;
    let view = |task: &TaskInfo| -> Result<Json> {
        let mut view = serde_json::to_value(task)?;
        view["last_run"] = last.iter().find(|r| r.task == task.name).map_or(Json::Null, run_view);
        Ok(view)
    };
    let tasks = list(env).await?.iter().map(view).collect::<Result<Vec<Json>>>()?;
    Ok(json!({"ok": true, "count": tasks.len(), "tasks": tasks, "next": null}))
}

fn timeout(env: &Env) -> Duration {
    Duration::from_millis(env.config().server.actor_timeout_ms)
}

/// The actor. Its clones share the table and the runs of this process, which are tasks of their own and outlive it.
#[derive(Clone, Debug)]
pub struct Timer {
    table: Arc<Vec<TaskSpec>>,
    floor: Arc<Floor>,
}

impl Timer {
    /// `max_running`: how many runs may work at the same time.
    pub fn new(table: Vec<TaskSpec>, max_running: usize) -> Self {
        Self { table: Arc::new(table), floor: Arc::new(Floor::new(max_running)) }
    }
}

/// What is on its way: one round, or the first reading of the store, at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The store has not been read.
    New,
    Reading,
    Idle,
    Looking,
}

pub struct State {
    desk: Desk,
    agenda: Agenda,
    pauses: HashMap<String, Pause>,
    phase: Phase,
    renewing: bool,
    renewed: Option<Instant>,
    /// Tells us to look again.
    alarm: Option<JoinHandle<()>>,
    /// The store failed at the last look: it is said once, not at every look.
    complained: bool,
    #[cfg(test)]
    waiting: Vec<Reply<()>>,
}

impl Drop for State {
    fn drop(&mut self) {
        if let Some(alarm) = self.alarm.take() {
            alarm.abort();
        }
    }
}

impl Actor for Timer {
    type Msg = Message;
    type State = State;
    type Arguments = Env;

    async fn pre_start(&self, myself: ActorRef<Message>, env: Env) -> Result<State, ActorProcessingErr> {
        self.floor.open();
        let agenda = Agenda::new(self.table.iter().map(|s| (s.schedule.clone(), s.policy.clone())), ON_TIME_S);
        myself.cast(Message::Look)?;
        Ok(State {
            desk: Desk { env, table: self.table.clone(), floor: self.floor.clone() },
            agenda,
            pauses: HashMap::new(),
            phase: Phase::New,
            renewing: false,
            renewed: None,
            alarm: None,
            complained: false,
            #[cfg(test)]
            waiting: Vec::new(),
        })
    }

    async fn post_stop(&self, _: ActorRef<Message>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.desk.drain().await;
        Ok(())
    }

    async fn handle(&self, myself: ActorRef<Message>, message: Message, state: &mut State) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Look => state.look(&myself),
            Message::TakenUp(result) => state.taken_up(&myself, result),
            Message::Settled(result) => state.settled(&myself, result),
            Message::Renewed(result) => state.renewed(result),
            Message::List(reply) => actor::respond(reply, Ok(state.infos())),
            Message::Next { task, count, reply } => actor::respond(reply, state.next_slots(&task, count)),
            Message::RunNow { task, asked_by, reply } => state.desk.apart(reply, async move |desk| desk.run_by_hand(&task, asked_by).await),
            Message::Pause { pause, reply } => state.pause(pause, reply),
            Message::Resume { task, asked_by, reply } => state.resume(task, asked_by, reply),
            Message::Cancel { run_id, asked_by, reply } => state.desk.apart(reply, async move |desk| desk.cancel(&run_id, &asked_by).await),
            Message::Backfill { backfill, reply } => state.desk.apart(reply, async move |desk| desk.backfill(backfill).await),
            Message::LookAfter(reply) => state.desk.apart(reply, async move |desk| lease::look_after(&desk).await),
            Message::Level { since, reply } => state.desk.apart(reply, async move |desk| level::measure(&desk, since).await),
            Message::Probe(probe, reply) => actor::answer(probe, reply).await,
            #[cfg(test)]
            Message::Quiet(reply) => state.waiting.push(reply),
        }
        #[cfg(test)]
        state.tell_if_quiet();
        Ok(())
    }
}

impl State {
    /// Begins a round if something is due, else sleeps until the next slot.
    fn look(&mut self, myself: &ActorRef<Message>) {
        if matches!(self.phase, Phase::Reading | Phase::Looking) {
            return; // what is due now is found when that one reports
        }
        self.renew(myself);
        if self.phase == Phase::New {
            self.phase = Phase::Reading;
            let (desk, myself) = (self.desk.clone(), myself.clone());
            tokio::spawn(async move { myself.cast(Message::TakenUp(lease::take_up(&desk).await)) });
            return;
        }
        let now = self.desk.env.now();
        let rounds = if self.is_scheduling() { self.agenda.due(now, ROUND) } else { Vec::new() };
        if rounds.is_empty() {
            return self.sleep(myself);
        }
        self.phase = Phase::Looking;
        let (desk, myself) = (self.desk.clone(), myself.clone());
        tokio::spawn(async move { myself.cast(Message::Settled(desk.follow(rounds).await)) });
    }

    fn is_scheduling(&self) -> bool {
        self.desk.env.config().timer.enabled
    }

    fn taken_up(&mut self, myself: &ActorRef<Message>, result: Result<TakenUp>) {
        self.phase = Phase::New;
        match result {
            Ok(found) => {
                for (index, mark) in found.marks {
                    self.agenda.set_mark(index, mark);
                }
                self.set_pauses(found.pauses);
                (self.phase, self.complained) = (Phase::Idle, false);
                self.look(myself);
            }
            Err(error) => self.complain(myself, &error),
        }
    }

    fn settled(&mut self, myself: &ActorRef<Message>, result: Result<Vec<(usize, DateTime<Utc>)>>) {
        self.phase = Phase::Idle;
        match result {
            Ok(marks) => {
                for (index, mark) in marks {
                    self.agenda.set_mark(index, mark);
                }
                self.complained = false;
                self.look(myself);
            }
            Err(error) => self.complain(myself, &error),
        }
    }

    fn complain(&mut self, myself: &ActorRef<Message>, error: &Error) {
        if !std::mem::replace(&mut self.complained, true) {
            tracing::error!(actor = NOUN, %error, "the schedule cannot go on; looking again every second");
        }
        self.wake_in(myself, AFTER_FAILURE);
    }

    fn sleep(&mut self, myself: &ActorRef<Message>) {
        let until = self.agenda.next_at().filter(|_| self.is_scheduling()).and_then(|at| (at - self.desk.env.now()).to_std().ok());
        let renewal = self.desk.renew_every();
        self.wake_in(myself, until.unwrap_or(LOOK_AT_LEAST).clamp(Duration::from_millis(1), LOOK_AT_LEAST.min(renewal)));
    }

    fn wake_in(&mut self, myself: &ActorRef<Message>, wait: Duration) {
        let alarm = myself.send_after(wait, || Message::Look);
        let alarm = tokio::spawn(async move { drop(alarm.await) });
        if let Some(before) = self.alarm.replace(alarm) {
            before.abort();
        }
    }

    /// Renews the lease and looks after other processes' runs, every third of a lease.
    fn renew(&mut self, myself: &ActorRef<Message>) {
        let due = self.renewed.is_none_or(|at| at.elapsed() >= self.desk.renew_every());
        if self.phase == Phase::New || self.renewing || !due {
            return;
        }
        (self.renewing, self.renewed) = (true, Some(Instant::now()));
        let (desk, myself) = (self.desk.clone(), myself.clone());
        tokio::spawn(async move { myself.cast(Message::Renewed(lease::renew(&desk).await)) });
    }

    fn renewed(&mut self, result: Result<Vec<Pause>>) {
        self.renewing = false;
        match result {
            Ok(pauses) => self.set_pauses(pauses),
            Err(error) => tracing::warn!(actor = NOUN, %error, "the lease could not be renewed; trying again"),
        }
    }

    fn set_pauses(&mut self, pauses: Vec<Pause>) {
        self.pauses = pauses.into_iter().map(|p| (p.task.clone(), p)).collect();
        for (index, spec) in self.desk.table.iter().enumerate() {
            self.agenda.set_paused(index, self.pauses.contains_key(spec.name));
        }
    }

    fn set_pause(&mut self, task: &str, pause: Option<Pause>) {
        if let Some(index) = self.desk.table.iter().position(|s| s.name == task) {
            self.agenda.set_paused(index, pause.is_some());
        }
        match pause {
            Some(pause) => drop(self.pauses.insert(task.to_owned(), pause)),
            None => drop(self.pauses.remove(task)),
        }
    }

    /// The store has the last word on what is paused; here it only shows, and keeps slots from being tried.
    fn pause(&mut self, pause: Pause, reply: Reply<()>) {
        self.set_pause(&pause.task.clone(), Some(pause.clone()));
        self.desk.apart(reply, async move |desk| desk.pause(pause).await);
    }

    fn resume(&mut self, task: String, asked_by: String, reply: Reply<()>) {
        self.set_pause(&task, None);
        self.desk.apart(reply, async move |desk| desk.resume(&task, &asked_by).await);
    }

    fn next_slots(&self, task: &str, count: usize) -> Result<Vec<String>> {
        let spec = self.desk.spec(task)?;
        if spec.work.is_none() || !self.is_scheduling() {
            return Ok(Vec::new());
        }
        let slots =
            std::iter::successors(Some(spec.schedule.next_after(self.desk.env.now())), |slot| Some(spec.schedule.next_after(*slot)));
        Ok(slots.take(count).map(rfc3339).collect())
    }

    fn infos(&self) -> Vec<TaskInfo> {
        let now = self.desk.env.now();
        let info = |spec: &TaskSpec| {
            let run_id = self.desk.floor.run_of(spec.name);
            let planned = spec.work.is_none();
            let paused = self.pauses.get(spec.name).filter(|p| p.until.is_none_or(|until| until > now));
            let state = match (planned, &run_id, paused) {
                (true, _, _) => "planned",
                (_, Some(_), _) => "running",
                (_, _, Some(_)) => "paused",
                _ => "scheduled",
            };
            TaskInfo {
                name: spec.name,
                owner: spec.owner,
                doc: spec.doc,
                schedule: spec.schedule.describe(),
                state,
                next: (!planned && self.is_scheduling()).then(|| rfc3339(spec.schedule.next_after(now))),
                run_id,
                report: spec.latest,
                paused: paused.map(|p| PauseInfo { at: rfc3339(p.at), by: p.by.clone(), why: p.why.clone(), until: p.until.map(rfc3339) }),
                policy: policy_info(spec),
            }
        };
        self.desk.table.iter().map(info).collect()
    }

    #[cfg(test)]
    fn tell_if_quiet(&mut self) {
        if self.phase == Phase::Idle {
            self.waiting.drain(..).for_each(|reply| actor::respond(reply, Ok(())));
        }
    }
}

fn policy_info(spec: &TaskSpec) -> PolicyInfo {
    let policy = &spec.policy;
    PolicyInfo {
        catch_up: policy.catch_up,
        overlap: policy.overlap.as_str(),
        jitter_ms: policy.jitter.num_milliseconds(),
        blackout: policy.blackout.iter().map(|b| b.as_str().to_owned()).collect(),
        timeout_s: policy.timeout.as_secs(),
        total_timeout_s: policy.total().as_secs(),
        retries: policy.retries,
        pause_after: policy.pause_after,
        after: spec.after.map(|a| a.task),
    }
}
