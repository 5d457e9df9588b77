//! What a scheduled task is, and how one run of it goes: dependency, attempts with a timeout, panics kept as failures, output
//! files, the end written to the occurrence ledger. The timer decides *when*; the files in `tasks/` say *what*.

use std::{backtrace::Backtrace, cell::RefCell, panic::AssertUnwindSafe, sync::Once, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::FutureExt as _;
use serde_json::{Map, Value as Json, json};
use tokio::task::JoinSet;

use crate::{
    actor::{Boxed, Reply, respond},
    domain::{
        backoff::Backoff,
        schedule::{CatchUp, Schedule},
    },
    env::{Env, rfc3339},
    error::{Error, Result},
    store::RunEnd,
};

/// How long the end of a run is offered to a store that does not take it, before the next start-up resolves it as an orphan.
const END_TRIES: u32 = 60;
const RETRY: Backoff = Backoff::new(1000, 4, 60_000);

/// One run of a task: what it may touch and which occurrence it is.
#[derive(Clone, Debug)]
pub struct Run {
    pub env: Env,
    pub run_id: String,
    /// The due time, or the time of asking for a manual run. Dated files take their date from it.
    pub slot: DateTime<Utc>,
    /// `schedule`, `catch_up` or `manual`.
    pub cause: &'static str,
    pub asked_by: Option<String>,
}

/// The one long run that an actor carries out at a time, in a task of its own so that the mailbox goes on; it ends with the actor.
#[derive(Debug, Default)]
pub struct OneRun {
    work: JoinSet<()>,
    run_id: String,
}

impl OneRun {
    /// Starts the work and answers with its result; while another is going on, with `busy` and that one's `run_id`.
    pub fn start(&mut self, run: &Run, reply: Reply<Record>, busy: Error, work: impl Future<Output = Result<Record>> + Send + 'static) {
        while self.work.try_join_next().is_some() {}
        if self.work.is_empty() {
            self.run_id.clone_from(&run.run_id);
            self.work.spawn(async move { respond(reply, work.await) });
        } else {
            respond(reply, Err(busy.with("run_id", self.run_id.clone())));
        }
    }
}

/// What a run leaves behind: the members of its record (`ok`, `ts` and `run_id` are put in front). `ok` is true unless the record
/// says otherwise: a reconciliation that found a difference ran well and is not `ok`.
pub type Record = Map<String, Json>;
pub type Work = fn(Run) -> Boxed<Result<Record>>;

/// A task that must have finished first.
#[derive(Clone, Copy, Debug)]
pub struct After {
    pub task: &'static str,
    /// The occurrence meant is the last one in this time before our slot.
    pub within: TimeDelta,
    /// How long to wait for it before this run is `skipped` with reason `dependency`.
    pub wait: Duration,
}

/// One row of the task table. Everything that lists tasks is derived from it.
#[derive(Clone, Debug)]
pub struct TaskSpec {
    pub name: &'static str,
    /// The actor that owns the state the task works on.
    pub owner: &'static str,
    /// One sentence.
    pub doc: &'static str,
    pub schedule: Schedule,
    pub catch_up: CatchUp,
    /// Per attempt.
    pub timeout: Duration,
    /// Further attempts after a retryable error.
    pub retries: u32,
    pub after: Option<After>,
    /// File under `logs/` that holds the latest record, and the one that holds all.
    pub latest: Option<&'static str>,
    pub history: Option<&'static str>,
    /// `None`: planned; it has no slots and cannot be run.
    pub work: Option<Work>,
}

impl TaskSpec {
    pub fn new(name: &'static str, owner: &'static str, schedule: Schedule, doc: &'static str) -> Self {
        let catch_up = schedule.default_catch_up();
        Self {
            name,
            owner,
            doc,
            schedule,
            catch_up,
            timeout: Duration::from_mins(5),
            retries: 0,
            after: None,
            latest: None,
            history: None,
            work: None,
        }
    }

    #[must_use]
    pub fn runs(mut self, work: Work) -> Self {
        self.work = Some(work);
        self
    }

    #[must_use]
    pub fn leaves(mut self, latest: Option<&'static str>, history: Option<&'static str>) -> Self {
        (self.latest, self.history) = (latest, history);
        self
    }

    #[must_use]
    pub fn timeout_s(mut self, seconds: u64) -> Self {
        self.timeout = Duration::from_secs(seconds);
        self
    }

    #[must_use]
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    #[must_use]
    pub fn after(mut self, after: After) -> Self {
        self.after = Some(after);
        self
    }
}

/// Carries a claimed run to its end and writes that end. Never fails: what goes wrong is the end's `error`.
pub async fn carry_out(spec: &TaskSpec, run: Run) {
    let end = match waited_for(spec, &run).await {
        Ok(()) => attempts(spec, &run).await,
        Err(error) => RunEnd {
            state: "skipped",
            reason: Some("dependency"),
            attempts: 0,
            ended_at: run.env.now(),
            error: Some(error.message),
            result: None,
        },
    };
    finish(spec, &run, end).await;
}

async fn waited_for(spec: &TaskSpec, run: &Run) -> Result<()> {
    let Some(after) = spec.after.filter(|_| run.cause != "manual") else { return Ok(()) };
    let deadline = tokio::time::Instant::now() + after.wait;
    loop {
        let found = run.env.store().run_between(after.task, run.slot - after.within, run.slot).await;
        match found {
            Ok(Some(other)) if matches!(other.state.as_str(), "pending" | "running") => {}
            Ok(_) => break,
            Err(error) if error.is_retryable() => {}
            Err(error) => return Err(error),
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(Error::unavailable("dependency", format!("{} had not ended after {} s", after.task, after.wait.as_secs())));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    run.env.store().start_pending(&run.run_id, run.env.now()).await
}

async fn attempts(spec: &TaskSpec, run: &Run) -> RunEnd {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let outcome = one_attempt(spec, run).await;
        let (state, error) = match outcome {
            Ok(record) => {
                let result = stamped(run, record);
                match leave(spec, run, &result).await {
                    Ok(()) => return ended(run, "succeeded", attempt, None, Some(result)),
                    Err(error) => ("failed", error),
                }
            }
            Err(End::TimedOut) => ("timed_out", Error::unavailable("timeout", format!("no answer within {} s", spec.timeout.as_secs()))),
            Err(End::Failed(error)) => ("failed", error),
        };
        if attempt > spec.retries || !error.is_retryable() {
            leave_failure(spec, run, &error).await;
            return ended(run, state, attempt, Some(error.message), None);
        }
        tracing::warn!(task = spec.name, run_id = run.run_id, attempt, %error, "an attempt failed; trying again");
        tokio::time::sleep(Duration::from_millis(RETRY.delay_ms(attempt, crate::files::random_unit()))).await;
    }
}

enum End {
    Failed(Error),
    TimedOut,
}

async fn one_attempt(spec: &TaskSpec, run: &Run) -> std::result::Result<Record, End> {
    let work = spec.work.ok_or_else(|| End::Failed(Error::conflict("planned", format!("{} is planned and cannot run yet", spec.name))))?;
    keep_panics();
    let caught = AssertUnwindSafe(async move { work(run.clone()).await }).catch_unwind();
    match tokio::time::timeout(spec.timeout, caught).await {
        Ok(Ok(result)) => result.map_err(End::Failed),
        Ok(Err(_)) => {
            let kept = LAST_PANIC.with_borrow_mut(Option::take);
            Err(End::Failed(Error::internal(kept.map_or_else(|| "panicked".to_owned(), |(text, trace)| format!("{text}\n{trace}")))))
        }
        Err(_) => Err(End::TimedOut),
    }
}

fn ended(run: &Run, state: &'static str, attempts: u32, error: Option<String>, result: Option<Json>) -> RunEnd {
    RunEnd { state, reason: None, attempts, ended_at: run.env.now(), error, result }
}

/// Puts `ok`, `ts` and `run_id` in front of a record.
fn stamped(run: &Run, mut record: Record) -> Json {
    let mut whole = Map::new();
    whole.insert("ok".into(), record.shift_remove("ok").unwrap_or(Json::Bool(true)));
    whole.insert("ts".into(), record.shift_remove("ts").unwrap_or_else(|| rfc3339(run.env.now()).into()));
    whole.insert("run_id".into(), run.run_id.clone().into());
    whole.append(&mut record);
    Json::Object(whole)
}

async fn leave(spec: &TaskSpec, run: &Run, result: &Json) -> Result<()> {
    if let Some(latest) = spec.latest {
        run.env.write_report(run.env.log_path(latest), result.clone()).await?;
    }
    if let Some(history) = spec.history {
        run.env.append(run.env.log_path(history), result.clone()).await?;
    }
    Ok(())
}

/// A failed run is in the history too; the latest good report stays.
async fn leave_failure(spec: &TaskSpec, run: &Run, error: &Error) {
    let Some(history) = spec.history else { return };
    let line = json!({"ok": false, "ts": rfc3339(run.env.now()), "run_id": run.run_id, "error": error.message, "reason": error.reason});
    if let Err(error) = run.env.append(run.env.log_path(history), line).await {
        tracing::error!(task = spec.name, %error, "the failure could not be written to the history");
    }
}

async fn finish(spec: &TaskSpec, run: &Run, end: RunEnd) {
    match &end.error {
        None => tracing::info!(
            task = spec.name,
            run_id = run.run_id,
            cause = run.cause,
            state = end.state,
            attempts = end.attempts,
            "run ended"
        ),
        Some(error) => tracing::error!(
            task = spec.name,
            run_id = run.run_id,
            cause = run.cause,
            state = end.state,
            attempts = end.attempts,
            error,
            "run ended"
        ),
    }
    for attempt in 1..=END_TRIES {
        let data = json!({"task": spec.name, "slot": rfc3339(run.slot), "cause": run.cause, "state": end.state, "error": end.error});
        match run.env.store().end_run(&run.run_id, &end, run.env.fact("run.ended", &run.run_id, data)).await {
            Ok(_) => return,
            Err(error) if attempt == 1 => {
                tracing::error!(task = spec.name, run_id = run.run_id, %error, "the end of a run could not be stored; trying on");
            }
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

thread_local! {
    static LAST_PANIC: RefCell<Option<(String, Backtrace)>> = const { RefCell::new(None) };
}

/// Keeps the text, place and backtrace of a panic for whoever catches it on this thread, and logs it as one line.
pub fn keep_panics() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !tracing::dispatcher::has_been_set() {
                before(info); // nobody would see the log line
            }
            let message = info.payload_as_str().unwrap_or("panic without a message");
            let place = info.location().map_or_else(String::new, ToString::to_string);
            tracing::error!(place, "panicked: {message}");
            // Captured now, turned into names only if somebody wants it: that takes a millisecond, and an actor's restart waits for it.
            LAST_PANIC.set(Some((format!("panicked: {message} at {place}"), Backtrace::force_capture())));
        }));
    });
}
