//! The timer owns the occurrence ledger: which slots are due, which runs are going on. It never works itself: runs are tasks of
//! their own that outlive it, so its death delays nothing but the next look at the clock; its replacement takes up the marks
//! and the running runs from the store and the shared list.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde_json::json;
use tokio::task::AbortHandle;

use crate::{
    actor::{self, Probe, Probed, Reply},
    domain::schedule::{Plan, plan},
    env::{Env, rfc3339},
    error::{Error, Result},
    store::{NewRun, RunEnd},
    task::{Run, TaskSpec, carry_out},
};

pub const NOUN: &str = "timer";
/// A slot looked at within this time of being due is on time; later ones fall under the catch-up policy.
const ON_TIME_S: i64 = 10;
/// The wall clock is read again at least this often, because it may be set or the machine may sleep.
const LOOK_AT_LEAST: Duration = Duration::from_secs(30);

pub enum Message {
    Look,
    Ended { run_id: String },
    RunNow { task: String, asked_by: String, reply: Reply<String> },
    List(Reply<Vec<TaskInfo>>),
    Next { task: String, count: usize, reply: Reply<Vec<String>> },
    Probe(Probe, Reply<()>),
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
    /// `scheduled`, `running` or `planned`.
    pub state: &'static str,
    pub next: Option<String>,
    /// The run going on, if one is.
    pub run_id: Option<String>,
    /// The file under `logs/` that holds the latest record.
    pub report: Option<&'static str>,
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

fn timeout(env: &Env) -> Duration {
    Duration::from_millis(env.config().server.actor_timeout_ms)
}

/// Runs going on: run id to task and the means to abort it. Shared with the replacement after a crash.
type Running = Arc<Mutex<HashMap<String, (&'static str, AbortHandle)>>>;

#[derive(Clone, Debug)]
pub struct Timer {
    table: Arc<Vec<TaskSpec>>,
    running: Running,
}

impl Timer {
    pub fn new(table: Vec<TaskSpec>) -> Self {
        Self { table: Arc::new(table), running: Running::default() }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<String, (&'static str, AbortHandle)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run_of(&self, task: &str) -> Option<String> {
        self.running().iter().find(|(_, (name, _))| *name == task).map(|(run_id, _)| run_id.clone())
    }
}

pub struct State {
    env: Env,
    /// Per task the last slot accounted for; `None` until the store has been read.
    marks: Option<HashMap<String, DateTime<Utc>>>,
    /// The store failed at the last look: it is said once, not at every look.
    complained: bool,
}

impl Actor for Timer {
    type Msg = Message;
    type State = State;
    type Arguments = Env;

    async fn pre_start(&self, myself: ActorRef<Message>, env: Env) -> Result<State, ActorProcessingErr> {
        myself.cast(Message::Look)?;
        Ok(State { env, marks: None, complained: false })
    }

    async fn post_stop(&self, _: ActorRef<Message>, state: &mut State) -> Result<(), ActorProcessingErr> {
        self.drain(&state.env).await;
        Ok(())
    }

    async fn handle(&self, myself: ActorRef<Message>, message: Message, state: &mut State) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Look => self.look(&myself, state).await,
            Message::Ended { run_id } => drop(self.running().remove(&run_id)),
            Message::RunNow { task, asked_by, reply } => actor::respond(reply, self.run_by_hand(state, &task, asked_by).await),
            Message::List(reply) => actor::respond(reply, Ok(self.infos(state))),
            Message::Next { task, count, reply } => actor::respond(reply, self.next_slots(state, &task, count)),
            Message::Probe(probe, reply) => actor::answer(probe, reply).await,
        }
        Ok(())
    }
}

impl Timer {
    /// Starts what is due and sleeps until the next slot.
    async fn look(&self, myself: &ActorRef<Message>, state: &mut State) {
        match self.start_due(state).await {
            Ok(()) => state.complained = false,
            Err(error) if !state.complained => {
                state.complained = true;
                tracing::error!(actor = NOUN, %error, "the schedule cannot go on; looking again every second");
            }
            Err(_) => {}
        }
        let wait = if state.complained { Duration::from_secs(1) } else { self.until_next(state) };
        myself.send_after(wait, || Message::Look);
    }

    async fn start_due(&self, state: &mut State) -> Result<()> {
        if !state.env.config().timer.enabled {
            return self.take_up(&state.env).await.map(drop);
        }
        let mut marks = match state.marks.take() {
            Some(marks) => marks,
            None => self.take_up(&state.env).await?,
        };
        let result = self.each_due(&state.env, &mut marks).await;
        state.marks = Some(marks);
        result
    }

    async fn each_due(&self, env: &Env, marks: &mut HashMap<String, DateTime<Utc>>) -> Result<()> {
        for spec in self.table.iter().filter(|s| s.work.is_some()) {
            let now = env.now();
            let Some(mark) = marks.get(spec.name).copied() else {
                // Never seen before: its slots begin now.
                env.store().close_slots(spec.name, &[], now).await?;
                marks.insert(spec.name.to_owned(), now);
                continue;
            };
            let plan = plan(&spec.schedule, spec.catch_up, mark, now, ON_TIME_S);
            if !plan.is_empty() {
                self.follow(env, spec, &plan).await?;
                marks.insert(spec.name.to_owned(), plan.through);
            }
        }
        Ok(())
    }

    /// Claims and starts the slots that run, writes rows for the others, moves the mark. A crash in between is harmless: the
    /// unique (task, slot) makes the repetition find its own rows.
    async fn follow(&self, env: &Env, spec: &TaskSpec, plan: &Plan) -> Result<()> {
        let mut rows = Vec::new();
        for slot in &plan.run {
            let busy = self.run_of(spec.name).is_some();
            let cause = plan.trigger(*slot);
            if busy {
                rows.push(new_run(env, spec, *slot, cause, "skipped", Some("overlap")));
            } else {
                self.claim_and_start(env, spec, *slot, cause, None).await?;
            }
        }
        rows.extend(plan.skipped.iter().map(|(slot, reason)| new_run(env, spec, *slot, "schedule", "skipped", Some(reason))));
        rows.extend(plan.missed.iter().map(|slot| new_run(env, spec, *slot, "schedule", "missed", None)));
        env.store().close_slots(spec.name, &rows, plan.through).await?;
        if !plan.missed.is_empty() {
            tracing::warn!(task = spec.name, missed = plan.missed.len(), through = rfc3339(plan.through), "slots were missed");
        }
        Ok(())
    }

    /// `None` if the slot has its row already.
    async fn claim_and_start(
        &self,
        env: &Env,
        spec: &TaskSpec,
        slot: DateTime<Utc>,
        cause: &'static str,
        asked_by: Option<String>,
    ) -> Result<Option<String>> {
        let state = if spec.after.is_some() && cause != "manual" { "pending" } else { "running" };
        let mut row = new_run(env, spec, slot, cause, state, None);
        row.asked_by.clone_from(&asked_by);
        row.started_at = (state == "running").then(|| env.now());
        row.lag_ms = Some((env.now() - slot).num_milliseconds().max(0));
        let data = json!({"task": spec.name, "slot": rfc3339(slot), "cause": cause, "asked_by": asked_by});
        if !env.store().claim_run(&row, env.fact("run.started", &row.run_id, data)).await? {
            return Ok(None);
        }
        let run = Run { env: env.clone(), run_id: row.run_id.clone(), slot, cause, asked_by };
        let (spec, ended, env) = (spec.clone(), row.run_id.clone(), env.clone());
        let (name, running) = (spec.name, self.running.clone());
        let (registered, wait) = tokio::sync::oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let _ = wait.await; // not before it is in the list, or its removal could come first
            carry_out(&spec, run).await;
            running.lock().unwrap_or_else(PoisonError::into_inner).remove(&ended);
            actor::cast(&env, NOUN, Message::Ended { run_id: ended });
        });
        self.running().insert(row.run_id.clone(), (name, task.abort_handle()));
        let _ = registered.send(()); // the task waits for it
        Ok(Some(row.run_id))
    }

    async fn run_by_hand(&self, state: &State, task: &str, asked_by: String) -> Result<String> {
        let spec = self.table.iter().find(|s| s.name == task).ok_or_else(|| Error::not_found(format!("there is no task called {task}")))?;
        if spec.work.is_none() {
            return Err(Error::conflict("planned", format!("{task} is planned and cannot run yet")));
        }
        if let Some(run_id) = self.run_of(spec.name) {
            return Err(Error::conflict("already_running", format!("{task} is running")).with("run_id", run_id));
        }
        let run_id = self.claim_and_start(&state.env, spec, state.env.now(), "manual", Some(asked_by)).await?;
        run_id.ok_or_else(|| Error::conflict("already_running", format!("{task} was started this very moment")))
    }

    /// Reads the marks and gives an end to every run that nobody is carrying out any more.
    async fn take_up(&self, env: &Env) -> Result<HashMap<String, DateTime<Utc>>> {
        let store = env.store();
        let mut orphans = store.orphaned_runs(env.incarnation()).await?;
        let here = store.open_runs(env.incarnation()).await?;
        orphans.extend(here.into_iter().filter(|(run_id, _)| !self.running().contains_key(run_id)));
        for (run_id, task) in orphans {
            let error = "the process ended while it ran";
            let end = RunEnd { state: "failed", reason: None, attempts: 1, ended_at: env.now(), error: Some(error.into()), result: None };
            store.end_run(&run_id, &end, env.fact("run.orphaned", &run_id, json!({"task": task, "error": error}))).await?;
            tracing::warn!(actor = NOUN, task, run_id, "an orphaned run was ended");
        }
        Ok(store.task_marks().await?.into_iter().collect())
    }

    fn until_next(&self, state: &State) -> Duration {
        let (Some(marks), now) = (&state.marks, state.env.now()) else { return LOOK_AT_LEAST };
        let next = self.table.iter().filter(|s| s.work.is_some()).filter_map(|s| Some(s.schedule.next_after(*marks.get(s.name)?))).min();
        let wait = next.and_then(|at| (at - now).to_std().ok()).unwrap_or_default();
        wait.clamp(Duration::from_millis(1), LOOK_AT_LEAST)
    }

    fn next_slots(&self, state: &State, task: &str, count: usize) -> Result<Vec<String>> {
        let spec = self.table.iter().find(|s| s.name == task).ok_or_else(|| Error::not_found(format!("there is no task called {task}")))?;
        if spec.work.is_none() || !state.env.config().timer.enabled {
            return Ok(Vec::new());
        }
        let slots = std::iter::successors(Some(spec.schedule.next_after(state.env.now())), |slot| Some(spec.schedule.next_after(*slot)));
        Ok(slots.take(count).map(rfc3339).collect())
    }

    fn infos(&self, state: &State) -> Vec<TaskInfo> {
        let now = state.env.now();
        let info = |spec: &TaskSpec| {
            let run_id = self.run_of(spec.name);
            let planned = spec.work.is_none();
            TaskInfo {
                name: spec.name,
                owner: spec.owner,
                doc: spec.doc,
                schedule: spec.schedule.describe(),
                state: if planned {
                    "planned"
                } else if run_id.is_some() {
                    "running"
                } else {
                    "scheduled"
                },
                next: (!planned && state.env.config().timer.enabled).then(|| rfc3339(spec.schedule.next_after(now))),
                run_id,
                report: spec.latest,
            }
        };
        self.table.iter().map(info).collect()
    }

    /// Lets running runs end, then aborts the rest and says so.
    async fn drain(&self, env: &Env) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(env.config().timer.stop_grace_s);
        while !self.running().is_empty() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let left: Vec<_> = self.running().drain().collect();
        for (run_id, (task, handle)) in left {
            handle.abort();
            let error = "the daemon stopped before the run had ended";
            let end =
                RunEnd { state: "cancelled", reason: None, attempts: 1, ended_at: env.now(), error: Some(error.into()), result: None };
            if let Err(error) =
                env.store().end_run(&run_id, &end, env.fact("run.ended", &run_id, json!({"task": task, "state": "cancelled"}))).await
            {
                tracing::error!(actor = NOUN, task, run_id, %error, "a cancelled run could not be recorded; the next start will");
            }
        }
    }
}

fn new_run(
    env: &Env,
    spec: &TaskSpec,
    slot: DateTime<Utc>,
    cause: &'static str,
    state: &'static str,
    reason: Option<&'static str>,
) -> NewRun {
    NewRun {
        run_id: format!("run_{}", uuid::Uuid::now_v7().simple()),
        task: spec.name,
        slot,
        cause,
        state,
        reason,
        asked_by: None,
        incarnation: env.incarnation().to_owned(),
        started_at: None,
        lag_ms: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::schedule::{CatchUp, Schedule},
        supervisor::Supervisor,
        task::{Record, Work},
        testing::{self, Fixture, until},
    };

    fn task(name: &'static str, work: Work) -> TaskSpec {
        TaskSpec::new(name, "timer", Schedule::every(60), "A task for a test.").runs(work)
    }

    async fn start(fixture: &Fixture, table: Vec<TaskSpec>) -> Supervisor {
        let timer = Timer::new(table);
        let supervisor = Supervisor::start(fixture.env.clone(), vec![actor::spec(NOUN, true, move || timer.clone())]).await.unwrap();
        list(&fixture.env).await.unwrap(); // answered after the first look, which sets the marks
        supervisor
    }

    /// What became of every slot: (slot, cause, state, reason), oldest first.
    async fn slots(fixture: &Fixture, task: &str) -> Vec<(String, String, String, Option<String>)> {
        let mut rows = fixture.env.store().runs(task, 0, 100).await.unwrap();
        rows.sort_by_key(|r| r.slot);
        rows.into_iter().map(|r| (rfc3339(r.slot)[11..16].to_owned(), r.cause, r.state, r.reason)).collect()
    }

    /// Sets the clock and makes the timer look at it.
    async fn look_at(fixture: &Fixture, now: &str) {
        fixture.clock.set(now.parse().unwrap());
        actor::cast(&fixture.env, NOUN, Message::Look);
        list(&fixture.env).await.unwrap(); // answered after the look
    }

    async fn all_ended(fixture: &Fixture, task: &'static str, n: usize) {
        until("every run has ended", || async {
            let rows = slots(fixture, task).await;
            rows.len() == n && rows.iter().all(|(_, _, state, _)| state != "running")
        })
        .await;
    }

    fn row(slot: &str, cause: &str, state: &str, reason: Option<&str>) -> (String, String, String, Option<String>) {
        (slot.into(), cause.into(), state.into(), reason.map(str::to_owned))
    }

    fn fine(_: Run) -> actor::Boxed<Result<Record>> {
        Box::pin(async { Ok(Record::new()) })
    }

    fn panics(_: Run) -> actor::Boxed<Result<Record>> {
        Box::pin(async { panic!("the ledger is upside down") })
    }

    fn never_ends(_: Run) -> actor::Boxed<Result<Record>> {
        Box::pin(std::future::pending())
    }

    #[tokio::test]
    async fn every_slot_ends_in_one_state_across_a_time_without_a_daemon() {
        let fixture = testing::fixture("2026-03-01T10:00:30Z");
        let supervisor = start(&fixture, vec![task("fine", fine)]).await;
        look_at(&fixture, "2026-03-01T10:01:00Z").await;
        all_ended(&fixture, "fine", 1).await;
        look_at(&fixture, "2026-03-01T10:01:00Z").await; // the same instant again: nothing new
        supervisor.stop().await;
        fixture.env.store().close().await.unwrap();

        // Three slots pass unserved; the fourth is on time.
        let fixture = testing::reopen(fixture.folder, "2026-03-01T10:05:01Z", |_| {});
        let supervisor = start(&fixture, vec![task("fine", fine)]).await;
        all_ended(&fixture, "fine", 5).await;
        let expected = [
            row("10:01", "schedule", "succeeded", None),
            row("10:02", "schedule", "missed", None),
            row("10:03", "schedule", "missed", None),
            row("10:04", "schedule", "missed", None),
            row("10:05", "schedule", "succeeded", None),
        ];
        assert_eq!(slots(&fixture, "fine").await, expected);
        // A clock that steps back starts nothing twice.
        look_at(&fixture, "2026-03-01T10:02:00Z").await;
        look_at(&fixture, "2026-03-01T10:05:02Z").await;
        assert_eq!(slots(&fixture, "fine").await, expected);
        supervisor.stop().await;
    }

    #[tokio::test]
    async fn a_backlog_of_a_once_task_becomes_one_run() {
        let once = || {
            let mut spec = task("fine", fine);
            spec.catch_up = CatchUp::Once;
            spec
        };
        let fixture = testing::fixture("2026-03-01T10:00:30Z");
        start(&fixture, vec![once()]).await.stop().await;
        let fixture = testing::reopen(fixture.folder, "2026-03-01T10:03:40Z", |_| {});
        let supervisor = start(&fixture, vec![once()]).await;
        all_ended(&fixture, "fine", 3).await;
        let expected = [
            row("10:01", "schedule", "skipped", Some("catch_up")),
            row("10:02", "schedule", "skipped", Some("catch_up")),
            row("10:03", "catch_up", "succeeded", None),
        ];
        assert_eq!(slots(&fixture, "fine").await, expected);
        supervisor.stop().await;
    }

    #[tokio::test]
    async fn a_panic_is_a_failed_run_with_its_message_and_touches_no_other_task() {
        let fixture = testing::fixture("2026-03-01T10:00:30Z");
        let supervisor = start(&fixture, vec![task("panics", panics), task("fine", fine)]).await;
        look_at(&fixture, "2026-03-01T10:01:00Z").await;
        all_ended(&fixture, "panics", 1).await;
        all_ended(&fixture, "fine", 1).await;
        let run = &fixture.env.store().runs("panics", 0, 1).await.unwrap()[0];
        assert_eq!(run.state, "failed");
        let error = run.error.clone().unwrap();
        assert!(error.contains("the ledger is upside down") && error.contains("timer.rs"), "{error}");
        assert_eq!(slots(&fixture, "fine").await, [row("10:01", "schedule", "succeeded", None)]);
        supervisor.stop().await;
    }

    #[tokio::test]
    async fn a_running_task_is_not_started_again_and_a_stop_cancels_it() {
        let fixture = testing::fixture("2026-03-01T10:00:30Z");
        let supervisor = start(&fixture, vec![task("slow", never_ends)]).await;
        look_at(&fixture, "2026-03-01T10:01:00Z").await;
        look_at(&fixture, "2026-03-01T10:02:00Z").await;
        let error = run_now(&fixture.env, "slow", "test").await.unwrap_err();
        assert_eq!(error.reason, "already_running");
        assert!(error.extra["run_id"].as_str().unwrap().starts_with("run_"));
        // A crash of the timer leaves the run alone: its replacement knows it.
        let before = fixture.env.tree().unwrap().status().await.unwrap()[0].generation;
        fixture.env.tree().unwrap().drill(NOUN.into()).await.unwrap();
        until("the timer is back", || async { fixture.env.tree().unwrap().status().await.unwrap()[0].generation > before }).await;
        look_at(&fixture, "2026-03-01T10:02:30Z").await;
        let running = row("10:01", "schedule", "running", None);
        let skipped = row("10:02", "schedule", "skipped", Some("overlap"));
        assert_eq!(slots(&fixture, "slow").await, [running, skipped.clone()]);
        supervisor.stop().await;
        assert_eq!(slots(&fixture, "slow").await, [row("10:01", "schedule", "cancelled", None), skipped]);
    }

    #[tokio::test]
    async fn a_run_that_a_dead_process_left_is_ended_at_the_next_start() {
        let fixture = testing::fixture("2026-03-01T10:00:30Z");
        let spec = task("slow", never_ends);
        let row_of_the_dead = new_run(&fixture.env, &spec, fixture.env.now(), "schedule", "running", None);
        let fact = fixture.env.fact("run.started", "x", json!({}));
        assert!(fixture.env.store().claim_run(&row_of_the_dead, fact.clone()).await.unwrap());
        assert!(
            !fixture.env.store().claim_run(&NewRun { run_id: "run_other".into(), ..row_of_the_dead }, fact).await.unwrap(),
            "a slot is claimed once"
        );
        let fixture = testing::reopen(fixture.folder, "2026-03-01T10:00:40Z", |_| {});
        let supervisor = start(&fixture, vec![spec]).await;
        all_ended(&fixture, "slow", 1).await;
        let run = &fixture.env.store().runs("slow", 0, 1).await.unwrap()[0];
        assert_eq!((run.state.as_str(), run.error.as_deref()), ("failed", Some("the process ended while it ran")));
        supervisor.stop().await;
    }

    #[tokio::test]
    async fn a_planned_task_has_no_slots_and_cannot_be_run() {
        let fixture = testing::fixture("2026-03-01T10:00:30Z");
        let planned = TaskSpec::new("planned", "insight", Schedule::every(60), "Not there yet.");
        let supervisor = start(&fixture, vec![planned]).await;
        look_at(&fixture, "2026-03-01T10:10:00Z").await;
        assert_eq!(slots(&fixture, "planned").await, []);
        assert_eq!(run_now(&fixture.env, "planned", "test").await.unwrap_err().reason, "planned");
        assert_eq!(list(&fixture.env).await.unwrap()[0].state, "planned");
        supervisor.stop().await;
    }
}
