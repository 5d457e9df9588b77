//! Where the timer's decisions become rows and runs: rounds are written into the occurrence ledger, claimed slots are started, and the
//! requests of people are carried out. Everything here runs in tasks of its own, never in the actor's mailbox.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use serde_json::json;
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

use super::{NOUN, lease::Watch};
use crate::{
    actor::{self, Reply},
    alert,
    domain::{
        alert_rule::{Check, Severity},
        schedule::{Decision, Fate, Overlap, Round},
    },
    env::{Env, rfc3339},
    error::{Error, Result},
    execution::{self, Cancel, Ended},
    store::{Claim, NewRun, Pause, Place, RunEnd, RunRow},
    task::{Run, TaskSpec},
};

/// Who pauses a task that keeps failing.
pub(super) const SCHEDULE: &str = "schedule";
/// Slots in one backfill at most.
const MAX_BACKFILL: usize = 1000;
const PRUNE_EVERY: Duration = Duration::from_mins(10);
/// How long cancelled runs may take to write their end at a stop.
const LAST_WORDS: Duration = Duration::from_millis(1500);

/// A run that is going on in this process.
#[derive(Debug)]
struct Going {
    task: &'static str,
    cancel: watch::Sender<Option<String>>,
}

/// New marks, each with its task's place in the table.
pub type Marks = Vec<(usize, DateTime<Utc>)>;

/// What goes on in this process. It is no state of the actor's: runs are tasks of their own and outlive it.
#[derive(Debug)]
pub struct Floor {
    going: Mutex<HashMap<String, Going>>,
    /// Tasks with runs that wait for their place: their next one begins when a run ends.
    waiting: Mutex<HashSet<&'static str>>,
    /// Works that were told to end and did not let go of their thread.
    stuck: Mutex<HashMap<&'static str, usize>>,
    threads: Arc<Semaphore>,
    closed: AtomicBool,
    /// Held while a waiting row is given to us and not in the list yet, so that a start-up does not take it for an orphan.
    pub(super) handing: tokio::sync::Mutex<()>,
    /// Other processes' leases.
    pub(super) watch: Watch,
    pruned: Mutex<Option<Instant>>,
}

impl Floor {
    pub(super) fn new(max_running: usize) -> Self {
        Self {
            going: Mutex::default(),
            waiting: Mutex::default(),
            stuck: Mutex::default(),
            threads: Arc::new(Semaphore::new(max_running.max(1))),
            closed: AtomicBool::new(false),
            handing: tokio::sync::Mutex::default(),
            watch: Watch::default(),
            pruned: Mutex::default(),
        }
    }

    pub(super) fn open(&self) {
        self.closed.store(false, Ordering::SeqCst);
    }

    /// The tasks that run in this process, each with one of its runs.
    pub(super) fn running(&self) -> HashMap<&'static str, String> {
        lock(&self.going).iter().map(|(run_id, going)| (going.task, run_id.clone())).collect()
    }

    pub(super) fn has(&self, run_id: &str) -> bool {
        lock(&self.going).contains_key(run_id)
    }

    /// Tells a run of this process to end; false if it is not here.
    pub(super) fn tell(&self, run_id: &str, why: &str) -> bool {
        lock(&self.going).get(run_id).is_some_and(|going| going.cancel.send(Some(why.to_owned())).is_ok())
    }

    pub(super) fn run_ids(&self) -> Vec<String> {
        lock(&self.going).keys().cloned().collect()
    }

    /// Whether history is to be pruned again; counts as done.
    pub(super) fn prune_due(&self) -> bool {
        let mut pruned = lock(&self.pruned);
        let due = pruned.is_none_or(|at| at.elapsed() >= PRUNE_EVERY);
        if due {
            *pruned = Some(Instant::now());
        }
        due
    }

    fn is_stuck(&self, task: &str) -> bool {
        lock(&self.stuck).contains_key(task)
    }

    /// Before its row is claimed: a row under our lease that is not in the list would look like an orphan.
    fn enter(&self, run_id: &str, task: &'static str) -> Cancel {
        let (cancel, told) = watch::channel(None);
        lock(&self.going).insert(run_id.to_owned(), Going { task, cancel });
        told
    }

    fn leave(&self, run_id: &str) {
        lock(&self.going).remove(run_id);
    }

    pub(super) fn wait(&self, task: &'static str) {
        lock(&self.waiting).insert(task);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request to run slots of the past.
#[derive(Clone, Debug)]
pub struct Backfill {
    pub task: String,
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    /// Also those that ran and failed, timed out or were cancelled.
    pub redo_failed: bool,
    pub dry_run: bool,
    pub asked_by: String,
}

/// What a backfill does, or would do.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Backfilled {
    /// Slots in the range.
    pub slots: usize,
    /// Of them, those that will run now.
    pub queued: usize,
    /// Of them, those that stay as they are: they ran, or wait already.
    pub kept: usize,
    pub dry_run: bool,
}

/// What every piece of work of the timer needs.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    pub(super) env: Env,
    pub(super) table: Arc<Vec<TaskSpec>>,
    pub(super) floor: Arc<Floor>,
}

impl Desk {
    /// Does something outside the mailbox and answers when it is done.
    pub(super) fn apart<T: Send + 'static, F: Future<Output = Result<T>> + Send + 'static>(
        &self,
        reply: Reply<T>,
        work: impl FnOnce(Self) -> F,
    ) {
        let work = work(self.clone());
        tokio::spawn(async move { actor::respond(reply, work.await) });
    }

    /// Errors: `not_found`.
    pub(super) fn spec(&self, task: &str) -> Result<&TaskSpec> {
        self.table.iter().find(|s| s.name == task).ok_or_else(|| Error::not_found(format!("there is no task called {task}")))
    }

    /// Errors: `not_found`, `conflict` with reason `planned`.
    fn built(&self, task: &str) -> Result<&TaskSpec> {
        let spec = self.spec(task)?;
        if spec.work.is_some() { Ok(spec) } else { Err(Error::conflict("planned", format!("{task} is planned and cannot run yet"))) }
    }

    pub(super) fn renew_every(&self) -> Duration {
        Duration::from_secs(self.env.config().timer.lease_s) / 3
    }

    /// Writes rounds into the ledger and starts what they say. Answers the new marks, and the first error if not all could be written: those
    /// come again. A crash or an error in between is harmless: the unique (task, slot) makes the repetition find its own rows.
    pub(super) async fn follow(&self, rounds: Vec<Round>) -> (Marks, Result<()>) {
        let mut result = Ok(());
        let mut marks = Vec::with_capacity(rounds.len());
        // Each to its end, whatever becomes of the others: a claim that is dropped half-way would be a run that nobody carries out.
        for done in join_all(rounds.into_iter().map(|round| self.follow_one(round))).await {
            match done {
                Ok(mark) => marks.push(mark),
                Err(error) => result = result.and(Err(error)),
            }
        }
        (marks, result)
    }

    async fn follow_one(&self, round: Round) -> Result<(usize, DateTime<Utc>)> {
        let spec = &self.table[round.index];
        let starts: Vec<&Decision> = round.decisions.iter().filter(|d| d.fate == Fate::Run).collect();
        // Several at once are a backlog that is made up for: one after the other, unless the task's runs may overlap.
        let place = if starts.len() > 1 && spec.policy.overlap != Overlap::Allow { Place::InLine } else { Place::Now(spec.policy.overlap) };
        let stuck = self.floor.is_stuck(spec.name) && spec.policy.overlap != Overlap::Allow;
        if let ([only], false) = (round.decisions.as_slice(), stuck)
            && only.fate == Fate::Run
        {
            self.claim_and_start(spec, only.slot, only.cause, None, place, Some(round.through)).await?;
            return Ok((round.index, round.through));
        }
        let mut closed = Vec::new();
        for decision in &round.decisions {
            match decision.fate {
                Fate::Run if stuck => closed.push(self.new_run(spec, decision.slot, decision.cause, "skipped", Some("overlap"))),
                Fate::Run => {}
                Fate::Skip(reason) => closed.push(self.new_run(spec, decision.slot, decision.cause, "skipped", Some(reason))),
                Fate::Miss => closed.push(self.new_run(spec, decision.slot, decision.cause, "missed", None)),
            }
        }
        if !stuck {
            for claim in join_all(starts.iter().map(|d| self.claim_and_start(spec, d.slot, d.cause, None, place, None))).await {
                claim?;
            }
        }
        if place == Place::InLine {
            self.begin_waiting(spec).await?;
        }
        let missed = closed.iter().filter(|r| r.state == "missed").count();
        self.env.store().close_slots(spec.name, &closed, round.through).await?;
        if missed > 0 {
            tracing::warn!(task = spec.name, missed, through = rfc3339(round.through), "slots were missed");
        }
        Ok((round.index, round.through))
    }

    /// Claims a slot and starts its run if the ledger says so; with `through`, the task's mark moves with it. Answers what became of it,
    /// and the run's id.
    async fn claim_and_start(
        &self,
        spec: &TaskSpec,
        slot: DateTime<Utc>,
        cause: &'static str,
        asked_by: Option<String>,
        place: Place,
        through: Option<DateTime<Utc>>,
    ) -> Result<(Claim, String)> {
        let waits = spec.after.is_some() && cause != "manual";
        let (state, reason) = if waits { ("pending", Some("dependency")) } else { ("running", None) };
        let mut row = self.new_run(spec, slot, cause, state, reason);
        row.asked_by.clone_from(&asked_by);
        row.lag_ms = Some((row.at - slot - spec.policy.jitter).num_milliseconds().max(0));
        let cancel = self.floor.enter(&row.run_id, spec.name);
        let claim = if self.floor.closed.load(Ordering::SeqCst) {
            Err(Error::unavailable("stopping", "the daemon is stopping"))
        } else {
            let data = json!({"task": spec.name, "slot": rfc3339(slot), "cause": cause, "asked_by": asked_by});
            let fact = self.env.fact("run.claimed", &row.run_id, data);
            match through {
                Some(through) => self.env.store().claim_through(&row, place, through, fact).await,
                None => self.env.store().claim_run(&row, place, fact).await,
            }
        };
        match claim {
            Ok(Claim::Begun) => self.start(spec, self.run(&row.run_id, slot, cause, asked_by, 1), waits, cancel),
            Ok(Claim::Queued) => {
                self.floor.leave(&row.run_id);
                self.floor.wait(spec.name);
                if place == Place::Now(Overlap::CancelOther) {
                    self.cancel_running(spec, &format!("the slot of {} replaces it", rfc3339(slot))).await?;
                }
            }
            Ok(_) | Err(_) => self.floor.leave(&row.run_id),
        }
        claim.map(|claim| (claim, row.run_id))
    }

    fn run(&self, run_id: &str, slot: DateTime<Utc>, cause: &'static str, asked_by: Option<String>, attempt: u32) -> Run {
        Run { env: self.env.clone(), run_id: run_id.to_owned(), slot, cause, asked_by, attempt }
    }

    /// Starts a run whose row is ours.
    fn start(&self, spec: &TaskSpec, run: Run, waits: bool, cancel: Cancel) {
        let (desk, spec) = (self.clone(), spec.clone());
        tokio::spawn(async move {
            let run_id = run.run_id.clone();
            let cause = run.cause;
            let ended = execution::carry_out(&spec, run, waits, cancel, desk.floor.threads.clone()).await;
            desk.floor.leave(&run_id);
            desk.after(&spec, cause, ended).await;
        });
    }

    /// What follows from a run's end: its thread is watched if it is stuck, the next run begins, a task that keeps failing is paused.
    async fn after(&self, spec: &TaskSpec, cause: &'static str, Ended { end, stuck }: Ended) {
        if let Some(thread) = stuck {
            *lock(&self.floor.stuck).entry(spec.name).or_default() += 1;
            let (floor, task) = (self.floor.clone(), spec.name);
            tokio::spawn(async move {
                let _ = thread.await; // however it ends, the thread is free again
                let mut stuck = lock(&floor.stuck);
                if let Some(count) = stuck.get_mut(task) {
                    *count -= 1;
                    if *count == 0 {
                        stuck.remove(task);
                    }
                }
                tracing::warn!(task, "a run that was told to end has let go of its thread");
            });
        }
        let more = lock(&self.floor.waiting).remove(spec.name);
        if more && let Err(error) = self.begin_waiting(spec).await {
            self.floor.wait(spec.name); // the next renewal of the lease finds it as well
            tracing::warn!(task = spec.name, %error, "a waiting run could not be begun; trying again");
        }
        if cause != "manual"
            && spec.policy.pause_after > 0
            && matches!(end.state, "failed" | "timed_out")
            && let Err(error) = self.pause_if_it_keeps_failing(spec, &end).await
        {
            tracing::error!(task = spec.name, %error, "whether the task keeps failing could not be looked at");
        }
    }

    async fn pause_if_it_keeps_failing(&self, spec: &TaskSpec, end: &RunEnd) -> Result<()> {
        let (store, limit) = (self.env.store(), spec.policy.pause_after);
        let states = store.latest_ends(spec.name, limit).await?;
        if states.len() < limit as usize || states.iter().any(|s| s == "succeeded") {
            return Ok(());
        }
        let error = end.error.as_deref().and_then(|e| e.lines().next()).unwrap_or("no error");
        let why = format!("{limit} scheduled runs in a row failed; the last: {error}");
        super::pause(&self.env, spec.name, SCHEDULE, &why, None).await?;
        tracing::error!(task = spec.name, why, "paused");
        alert::evaluate(&self.env, vec![pause_check(&self.env).await?]).await.map(drop)
    }

    /// Begins the run that has waited longest, if the task's place is free; more may follow when it ends.
    pub(super) async fn begin_waiting(&self, spec: &TaskSpec) -> Result<()> {
        self.floor.wait(spec.name);
        if self.floor.closed.load(Ordering::SeqCst) || self.floor.is_stuck(spec.name) {
            return Ok(());
        }
        let handing = self.floor.handing.lock().await;
        let begun = self.env.store().begin_waiting(spec.name, self.env.incarnation(), self.env.now()).await?;
        if let Some(row) = begun {
            let cancel = self.floor.enter(&row.run_id, spec.name);
            let run =
                self.run(&row.run_id, row.slot, cause_of(&row), row.asked_by.clone(), u32::try_from(row.attempts).unwrap_or(1).max(1));
            let waits = spec.after.is_some() && run.cause != "manual" && run.attempt == 1;
            self.start(spec, run, waits, cancel);
        }
        drop(handing);
        Ok(())
    }

    pub(super) async fn run_by_hand(&self, task: &str, asked_by: String) -> Result<String> {
        let spec = self.built(task)?;
        if self.floor.is_stuck(spec.name) {
            return Err(Error::conflict(
                "already_running",
                format!("an earlier run of {task} was told to end and still blocks its thread"),
            ));
        }
        let place = Place::Now(spec.policy.overlap);
        let (claim, run_id) = self.claim_and_start(spec, self.env.now(), "manual", Some(asked_by), place, None).await?;
        if claim == Claim::Begun {
            return Ok(run_id);
        }
        let error = Error::conflict("already_running", format!("{task} is running"));
        Err(match self.env.store().run_in_place(task).await? {
            Some(other) => error.with("run_id", other.run_id),
            None => error,
        })
    }

    async fn cancel_running(&self, spec: &TaskSpec, why: &str) -> Result<()> {
        for run_id in self.env.store().cancel_running(spec.name, why).await? {
            self.floor.tell(&run_id, why); // one of another node is told by that node
        }
        Ok(())
    }

    pub(super) async fn cancel(&self, run_id: &str, asked_by: &str) -> Result<String> {
        let fact = self.env.fact("run.cancel_asked", run_id, json!({"asked_by": asked_by}));
        match self.env.store().cancel(run_id, asked_by, self.env.now(), fact).await?.as_deref() {
            Some("cancelled") => {
                self.floor.tell(run_id, &format!("cancelled by {asked_by}"));
                Ok("cancelled".into())
            }
            Some(_) => {
                self.floor.tell(run_id, &format!("cancelled by {asked_by}"));
                Ok("cancelling".into())
            }
            None => match self.env.store().run(run_id).await? {
                Some(run) => Err(Error::conflict("ended", format!("the run has ended: {}", run.state))),
                None => Err(Error::not_found("there is no such run")),
            },
        }
    }

    pub(super) async fn pause(&self, pause: Pause) -> Result<()> {
        self.built(&pause.task)?;
        if pause.until.is_some_and(|until| until <= pause.at) {
            return Err(Error::invalid("until", "until has passed already"));
        }
        let data = json!({"by": pause.by, "why": pause.why, "until": pause.until.map(rfc3339)});
        self.env.store().pause_task(&pause, self.env.fact("task.paused", &pause.task, data)).await
    }

    pub(super) async fn resume(&self, task: &str, asked_by: &str) -> Result<()> {
        self.built(task)?;
        let fact = self.env.fact("task.resumed", task, json!({"by": asked_by}));
        if !self.env.store().resume_task(task, fact).await? {
            return Err(Error::conflict("not_paused", format!("{task} is not paused")));
        }
        // The alert of a task that kept failing ends with its pause; if it cannot be said now, production_alerts says it.
        if let Err(error) = alert::evaluate(&self.env, vec![pause_check(&self.env).await?]).await {
            tracing::warn!(task, %error, "the alert about paused tasks could not be updated");
        }
        Ok(())
    }

    pub(super) async fn backfill(&self, ask: Backfill) -> Result<Backfilled> {
        let spec = self.built(&ask.task)?;
        let now = self.env.now();
        if ask.to > now || ask.from > ask.to {
            return Err(Error::invalid("range", "a backfill is of the past: from <= to <= now"));
        }
        let slots = spec.schedule.slots(ask.from - chrono::TimeDelta::microseconds(1), ask.to, MAX_BACKFILL + 1);
        if slots.len() > MAX_BACKFILL {
            return Err(Error::invalid("range", format!("the range has more than {MAX_BACKFILL} slots: ask for a shorter one")));
        }
        let states: HashMap<_, _> = self.env.store().slot_states(spec.name, ask.from, ask.to).await?.into_iter().collect();
        let runs_again = |slot: &DateTime<Utc>| match states.get(slot).map(String::as_str) {
            None | Some("missed" | "skipped") => true,
            Some("failed" | "timed_out" | "cancelled") => ask.redo_failed,
            Some(_) => false,
        };
        let wanted: Vec<NewRun> = slots
            .iter()
            .filter(|slot| runs_again(slot))
            .map(|slot| NewRun { asked_by: Some(ask.asked_by.clone()), ..self.new_run(spec, *slot, "backfill", "pending", None) })
            .collect();
        let mut queued = wanted.len();
        if !ask.dry_run && !wanted.is_empty() {
            let data = json!({"from": rfc3339(ask.from), "to": rfc3339(ask.to), "slots": wanted.len(), "asked_by": ask.asked_by});
            let fact = self.env.fact("task.backfill", spec.name, data);
            queued = usize::try_from(self.env.store().backfill(&wanted, ask.redo_failed, fact).await?).unwrap_or(queued);
            self.begin_waiting(spec).await?;
        }
        Ok(Backfilled { slots: slots.len(), queued, kept: slots.len() - queued, dry_run: ask.dry_run })
    }

    pub(super) fn new_run(
        &self,
        spec: &TaskSpec,
        slot: DateTime<Utc>,
        cause: &'static str,
        state: &'static str,
        reason: Option<&'static str>,
    ) -> NewRun {
        NewRun {
            run_id: format!("run_{}", uuid::Uuid::now_v7().simple()),
            task: spec.name.to_owned(),
            slot,
            cause,
            state,
            reason,
            asked_by: None,
            incarnation: self.env.incarnation().to_owned(),
            at: self.env.now(),
            lag_ms: None,
        }
    }

    /// Lets running runs end, then tells the rest to, and gives the lease back.
    pub(super) async fn drain(&self) {
        self.floor.closed.store(true, Ordering::SeqCst);
        let grace = Duration::from_secs(self.env.config().timer.stop_grace_s);
        if !self.empty_within(grace).await {
            for run_id in self.floor.run_ids() {
                self.floor.tell(&run_id, "the daemon stopped before the run had ended");
            }
            if !self.empty_within(LAST_WORDS).await {
                tracing::error!(actor = NOUN, runs = ?self.floor.run_ids(), "runs did not end at the stop; the next start ends them");
            }
        }
        if let Err(error) = self.env.store().leave(self.env.incarnation()).await {
            tracing::warn!(actor = NOUN, %error, "the lease could not be given back; the next start does not wait for it");
        }
    }

    async fn empty_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            if lock(&self.floor.going).is_empty() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A row's cause as the program spells it.
fn cause_of(row: &RunRow) -> &'static str {
    ["schedule", "catch_up", "manual", "backfill"].into_iter().find(|cause| *cause == row.cause).unwrap_or("schedule")
}

/// Bad while a task is paused because it kept failing.
pub(super) async fn pause_check(env: &Env) -> Result<Check> {
    let paused: Vec<Pause> = env.store().pauses(env.now()).await?.into_iter().filter(|p| p.by == SCHEDULE).collect();
    let reason = match paused.as_slice() {
        [] => "no task is paused because it kept failing".to_owned(),
        all => all.iter().map(|p| format!("{} is paused: {}", p.task, p.why)).collect::<Vec<_>>().join("; "),
    };
    Ok(Check {
        name: "tasks_paused".into(),
        system: "jobs",
        ok: Some(paused.is_empty()),
        severity: Severity::Critical,
        value: Some(paused.len().to_string()),
        threshold: "0 tasks".into(),
        reason,
    })
}
