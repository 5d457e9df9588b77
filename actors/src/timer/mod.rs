//! The timer owns the agenda: which slots are due, and when to look again. It never works itself and never waits for the store: rounds
//! (`desk.rs`), leases (`lease.rs`) and runs are tasks of their own that report back. When it dies, runs go on; its replacement takes up
//! marks, pauses and open runs from the store.

mod desk;
mod floor;
mod lease;
mod level;
mod requests;
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
mod view;

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::AbortHandle;

use self::{desk::Desk, lease::TakenUp};
pub use self::{
    desk::Marks,
    floor::Floor,
    lease::LookedAfter,
    level::{LATE_MS, Level, TaskLevel},
    requests::{Backfill, Backfilled},
    view::{PauseInfo, PolicyInfo, TaskInfo, overview, run_view, whole_run},
};
use crate::{
    actor::{self, Probe, Probed, Reply},
    domain::{alert_rule::Check, schedule::Agenda},
    env::{Env, rfc3339},
    error::{Error, Result},
    execution::Workshop,
    store::Pause,
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
    TakenUp {
        found: Result<TakenUp>,
        version: u64,
    },
    /// A round is in the ledger: the new marks of its tasks, and what could not be written.
    Settled(Marks, Result<()>),
    /// The lease was renewed and others were looked after; the pauses as they were at `version`.
    Renewed {
        pauses: Result<Vec<Pause>>,
        version: u64,
    },
    /// A pause, or its end, is in the store.
    Paused {
        task: String,
        pause: Option<Pause>,
    },
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
    requests::pause_check(env).await
}

/// How long the timer may take to stop: the runs' grace, their last words, and a margin for writing them.
pub fn stop_timeout(env: &Env) -> Duration {
    Duration::from_secs(env.config().timer.stop_grace_s) + desk::LAST_WORDS + Duration::from_secs(2)
}

/// A panic in what the timer waits for must come back as an error, or it would wait for ever.
async fn caught<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    AssertUnwindSafe(work)
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(Error::internal("the timer's work panicked; the panic is in the log")))
}

fn paused_until(pause: &Pause) -> DateTime<Utc> {
    pause.until.unwrap_or(DateTime::<Utc>::MAX_UTC)
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
    pub fn new(table: Vec<TaskSpec>, workshop: Workshop) -> Self {
        Self { table: Arc::new(table), floor: Arc::new(Floor::new(workshop)) }
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
    /// Grows with every pause and resume: what was read before is old.
    pauses_version: u64,
    phase: Phase,
    renewing: bool,
    renewed: Option<Instant>,
    /// Tells us to look again.
    alarm: Option<AbortHandle>,
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
            pauses_version: 0,
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
            Message::TakenUp { found, version } => state.taken_up(&myself, found, version),
            Message::Settled(marks, result) => state.settled(&myself, marks, result),
            Message::Renewed { pauses, version } => state.renewed(pauses, version),
            Message::Paused { task, pause } => state.set_pause(&task, pause),
            Message::List(reply) => actor::respond(reply, Ok(state.infos())),
            Message::Next { task, count, reply } => actor::respond(reply, state.next_slots(&task, count)),
            Message::RunNow { task, asked_by, reply } => state.desk.apart(reply, async move |desk| desk.run_by_hand(&task, asked_by).await),
            Message::Pause { pause, reply } => state.pause(&myself, pause, reply),
            Message::Resume { task, asked_by, reply } => state.resume(&myself, task, asked_by, reply),
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
            let version = self.pauses_version;
            tokio::spawn(async move {
                let found = caught(lease::take_up(&desk)).await;
                myself.cast(Message::TakenUp { found, version })
            });
            return;
        }
        let now = self.desk.env.now();
        let rounds = if self.is_scheduling() { self.agenda.due(now, ROUND) } else { Vec::new() };
        if rounds.is_empty() {
            return self.sleep(myself);
        }
        self.phase = Phase::Looking;
        let (desk, myself) = (self.desk.clone(), myself.clone());
        tokio::spawn(async move {
            let (marks, result) = match caught(async { Ok(desk.follow(rounds).await) }).await {
                Ok(followed) => followed,
                Err(error) => (Marks::new(), Err(error)),
            };
            myself.cast(Message::Settled(marks, result))
        });
    }

    fn is_scheduling(&self) -> bool {
        self.desk.env.config().timer.enabled
    }

    fn taken_up(&mut self, myself: &ActorRef<Message>, found: Result<TakenUp>, version: u64) {
        self.phase = Phase::New;
        match found {
            Ok(found) => {
                for (index, mark) in found.marks {
                    self.agenda.set_mark(index, mark);
                }
                if version == self.pauses_version {
                    self.set_pauses(found.pauses);
                }
                (self.phase, self.complained) = (Phase::Idle, false);
                self.look(myself);
            }
            Err(error) => self.complain(myself, &error),
        }
    }

    fn settled(&mut self, myself: &ActorRef<Message>, marks: Marks, result: Result<()>) {
        self.phase = Phase::Idle;
        for (index, mark) in marks {
            self.agenda.set_mark(index, mark);
        }
        match result {
            Ok(()) => {
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
        let next = self.agenda.next_at().filter(|_| self.is_scheduling());
        self.wake_in(myself, wait(next, self.desk.env.now(), LOOK_AT_LEAST.min(self.desk.renew_every())));
    }

    fn wake_in(&mut self, myself: &ActorRef<Message>, wait: Duration) {
        if let Some(before) = self.alarm.replace(myself.send_after(wait, || Message::Look).abort_handle()) {
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
        let version = self.pauses_version;
        tokio::spawn(async move {
            let pauses = caught(lease::renew(&desk)).await;
            myself.cast(Message::Renewed { pauses, version })
        });
    }

    fn renewed(&mut self, pauses: Result<Vec<Pause>>, version: u64) {
        self.renewing = false;
        match pauses {
            // What was read before a pause or a resume that came meanwhile is old.
            Ok(pauses) if version == self.pauses_version => self.set_pauses(pauses),
            Ok(_) => {}
            Err(error) => tracing::warn!(actor = NOUN, %error, "the lease could not be renewed; trying again"),
        }
    }

    fn set_pauses(&mut self, pauses: Vec<Pause>) {
        self.pauses = pauses.into_iter().map(|p| (p.task.clone(), p)).collect();
        for (index, spec) in self.desk.table.iter().enumerate() {
            self.agenda.set_paused(index, self.pauses.get(spec.name).map(paused_until));
        }
    }

    fn set_pause(&mut self, task: &str, pause: Option<Pause>) {
        self.pauses_version += 1;
        if let Some(index) = self.desk.table.iter().position(|s| s.name == task) {
            self.agenda.set_paused(index, pause.as_ref().map(paused_until));
        }
        match pause {
            Some(pause) => drop(self.pauses.insert(task.to_owned(), pause)),
            None => drop(self.pauses.remove(task)),
        }
    }

    /// Only once it is in the store: until then every claim asks there.
    fn pause(&mut self, myself: &ActorRef<Message>, pause: Pause, reply: Reply<()>) {
        let myself = myself.clone();
        self.desk.apart(reply, async move |desk| {
            desk.pause(pause.clone()).await?;
            let _ = myself.cast(Message::Paused { task: pause.task.clone(), pause: Some(pause) }); // its replacement reads the store
            Ok(())
        });
    }

    fn resume(&mut self, myself: &ActorRef<Message>, task: String, asked_by: String, reply: Reply<()>) {
        let myself = myself.clone();
        self.desk.apart(reply, async move |desk| {
            let done = desk.resume(&task, &asked_by).await;
            let _ = myself.cast(Message::Paused { task, pause: None }); // its replacement reads the store
            done
        });
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
        let mut running = self.desk.floor.running();
        let mut info = |spec: &TaskSpec| {
            let run_id = running.remove(spec.name);
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
                policy: view::policy_info(spec),
            }
        };
        self.desk.table.iter().map(&mut info).collect()
    }

    #[cfg(test)]
    fn tell_if_quiet(&mut self) {
        if self.phase == Phase::Idle {
            self.waiting.drain(..).for_each(|reply| actor::respond(reply, Ok(())));
        }
    }
}

/// How long to sleep. What came due since the last look is looked at at once: it must not wait for the longest sleep.
fn wait(next: Option<DateTime<Utc>>, now: DateTime<Utc>, at_most: Duration) -> Duration {
    let wait = next.map_or(at_most, |at| (at - now).to_std().unwrap_or_default());
    wait.clamp(Duration::from_millis(1), at_most)
}
