//! How one run of a task goes: the task it depends on, attempts with a limit each and one for all, cancelling, panics kept as
//! failures, output files, and the end for the occurrence ledger. The work runs on a thread of its own, so that one that burns CPU or
//! blocks holds up no other run, no actor and no answer. The timer calls it for every run it has claimed.

use std::{
    backtrace::Backtrace,
    cell::RefCell,
    panic::AssertUnwindSafe,
    sync::{Arc, Once, OnceLock},
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use serde_json::{Map, Value as Json, json};
use tokio::{
    sync::{Semaphore, oneshot, watch},
    task::JoinHandle,
    time::Instant,
};

use crate::{
    env::rfc3339,
    error::{Error, Result},
    files, ping,
    store::{Attempt, RunEnd},
    task::{Record, Run, TaskSpec},
};

/// How long the end of a run is offered to a store that does not take it, before the next start-up resolves it as an orphan.
const END_TRIES: u32 = 60;
/// How long a run that is told to end may take to let go of its thread.
const LET_GO: Duration = Duration::from_secs(1);
/// Added to the priority value of the threads that runs work on (nice(2)): enough to be served after requests, not to starve beside another program.
const NICENESS: i32 = 10;
/// Of an error's text this much is kept in the ledger, in bytes; the log has all of it.
const MAX_ERROR: usize = 16 * 1024;

/// Tells a run to end: the text says by whom and why.
pub type Cancel = watch::Receiver<Option<String>>;

/// Where runs work: a runtime of its own, whose threads have a lower priority than those that answer requests and keep the schedule.
/// However many runs burn their CPU, the machine serves the others first.
#[derive(Clone, Debug)]
pub struct Workshop {
    /// How many runs work at the same time.
    places: Arc<Semaphore>,
    runtime: Arc<Threads>,
}

#[derive(Debug)]
struct Threads(Option<tokio::runtime::Runtime>);

impl Workshop {
    pub fn new(places: usize) -> std::io::Result<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).thread_name("run").enable_all().on_thread_start(|| {
            static TOLD: Once = Once::new();
            if let Err(error) = rustix::process::nice(NICENESS) {
                TOLD.call_once(|| tracing::warn!(%error, "tasks run with the priority of requests: the system does not let it be lowered"));
            }
        });
        Ok(Self { places: Arc::new(Semaphore::new(places.max(1))), runtime: Arc::new(Threads(Some(builder.build()?))) })
    }

    fn handle(&self) -> &tokio::runtime::Handle {
        self.runtime.0.as_ref().expect("it is taken out only when it is dropped").handle()
    }
}

impl Drop for Threads {
    /// A thread that a work does not let go of must not hold up the end of the process.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    pub end: RunEnd,
    /// The thread of a work that did not let go of it when it was told to end; it ends with the work.
    pub stuck: Option<JoinHandle<()>>,
}

/// Carries a claimed run to its end and writes that end. Never fails: what goes wrong is the end's `error`. With `waits`, the row is
/// `pending` until the task it depends on has ended.
pub async fn carry_out(spec: &TaskSpec, run: Run, waits: bool, cancel: Cancel, workshop: Workshop) -> Ended {
    keep_panics();
    let mut course = Course { spec, run, cancel, workshop, began: Arc::default(), started: Instant::now(), stuck: None };
    let end = match course.dependency(waits).await {
        Ok(()) => {
            course.ping(ping::Signal::Start, String::new());
            course.started = Instant::now(); // waiting for another task is not its own time
            course.attempts().await
        }
        Err(Early::Cancelled(by)) => course.end("cancelled", 0, Some(by)),
        Err(Early::Dependency(error)) => RunEnd { reason: Some("dependency"), ..course.end("skipped", 0, Some(error.message)) },
    };
    course.finish(&end).await;
    Ended { end, stuck: course.stuck }
}

/// Why a run ended before its work began.
enum Early {
    Cancelled(String),
    Dependency(Error),
}

enum Outcome {
    Done(Record),
    Failed(Error),
    TimedOut(Duration),
    Cancelled(String),
}

struct Course<'a> {
    spec: &'a TaskSpec,
    run: Run,
    cancel: Cancel,
    workshop: Workshop,
    /// When the work first began, and how late that was in milliseconds.
    began: Arc<OnceLock<(DateTime<Utc>, i64)>>,
    started: Instant,
    stuck: Option<JoinHandle<()>>,
}

impl Course<'_> {
    async fn dependency(&mut self, waits: bool) -> Result<(), Early> {
        let Some(after) = self.spec.after.filter(|_| waits) else { return Ok(()) };
        let deadline = Instant::now() + after.wait;
        let (store, slot) = (self.run.env.store().clone(), self.run.slot);
        loop {
            match store.run_between(after.task, slot - after.within, slot).await {
                Ok(Some(other)) if matches!(other.state.as_str(), "pending" | "running") => {}
                Ok(_) => break,
                Err(error) if error.is_retryable() => {}
                Err(error) => return Err(Early::Dependency(error)),
            }
            if Instant::now() >= deadline {
                let message = format!("{} had not ended after {} s", after.task, after.wait.as_secs());
                return Err(Early::Dependency(Error::unavailable("dependency", message)));
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                by = told_to_end(&mut self.cancel) => return Err(Early::Cancelled(by)),
            }
        }
        match store.start_pending(&self.run.run_id, self.run.env.incarnation(), self.run.env.now()).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Early::Cancelled("ended before it began".into())),
            Err(error) => Err(Early::Dependency(error)),
        }
    }

    async fn attempts(&mut self) -> RunEnd {
        loop {
            let (at, attempt) = (self.run.env.now(), self.run.attempt);
            let limit = self.spec.policy.attempt_timeout(self.started.elapsed());
            let (state, error) = match self.one_attempt(limit).await {
                Outcome::Done(record) => {
                    let result = stamped(&self.run, record);
                    match leave(self.spec, &self.run, &result).await {
                        Ok(()) => return RunEnd { result: Some(self.capped(result)), ..self.end("succeeded", attempt, None) },
                        Err(error) => ("failed", error),
                    }
                }
                Outcome::Failed(error) => ("failed", error),
                Outcome::TimedOut(limit) => {
                    ("timed_out", Error::unavailable("timeout", format!("no answer within {} s", limit.as_secs_f64())))
                }
                Outcome::Cancelled(by) => ("cancelled", Error::conflict("cancelled", by)),
            };
            let failed = Attempt {
                attempt,
                state,
                error: capped_text(&error.message),
                is_retryable: error.is_retryable(),
                started_at: at,
                ended_at: self.run.env.now(),
            };
            let unit = files::random_unit();
            // A thread that is not let go of still does the work: another attempt would do it a second time beside it.
            let wait = self.spec.policy.wait_before_next(attempt, error.is_retryable(), self.started.elapsed(), unit);
            let Some(wait) = wait.filter(|_| self.stuck.is_none()) else { return self.ended_badly(failed, error).await };
            tracing::warn!(task = self.spec.name, run_id = self.run.run_id, attempt, %error, wait_ms = wait.as_millis(), "an attempt failed; trying again");
            match self.run.env.store().failed_attempt(&self.run.run_id, self.run.env.incarnation(), &failed).await {
                Ok(true) => {}
                Ok(false) => return self.end("cancelled", attempt, Some("the run was given its end by another process".into())),
                Err(error) => {
                    tracing::warn!(task = self.spec.name, run_id = self.run.run_id, %error, "a failed attempt could not be written down");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                by = told_to_end(&mut self.cancel) => return self.end("cancelled", attempt, Some(by)),
            }
            self.run.attempt += 1;
        }
    }

    /// A failed run is in the history too; the latest good report stays.
    async fn ended_badly(&self, failed: Attempt, error: Error) -> RunEnd {
        if let Some(history) = self.spec.history {
            let env = &self.run.env;
            let line =
                json!({"ok": false, "ts": rfc3339(env.now()), "run_id": self.run.run_id, "error": error.message, "reason": error.reason});
            if let Err(error) = env.append(env.log_path(history), line).await {
                tracing::error!(task = self.spec.name, %error, "the failure could not be written to the history");
            }
        }
        let end = self.end(failed.state, failed.attempt, Some(failed.error.clone()));
        RunEnd { last_attempt: Some(failed), ..end }
    }

    /// The work on a thread of its own: it is told to end by dropping its future where it awaits; a work that never awaits keeps the thread.
    async fn one_attempt(&mut self, limit: Duration) -> Outcome {
        let Some(work) = self.spec.work else {
            return Outcome::Failed(Error::conflict("planned", format!("{} is planned and cannot run yet", self.spec.name)));
        };
        let permit = tokio::select! {
            permit = self.workshop.places.clone().acquire_owned() => permit,
            by = told_to_end(&mut self.cancel) => return Outcome::Cancelled(by),
        };
        let (tell, told) = oneshot::channel::<()>();
        let (runtime, run, began) = (self.workshop.handle().clone(), self.run.clone(), self.began.clone());
        let due = run.slot + self.spec.policy.jitter;
        let mut thread = self.workshop.handle().spawn_blocking(move || {
            let _permit = permit; // a thread that is not let go of keeps its permit
            began.get_or_init(|| (run.env.now(), (run.env.now() - due).num_milliseconds().max(0)));
            runtime.block_on(async move {
                let caught = AssertUnwindSafe(async move { work(run).await }).catch_unwind();
                tokio::select! {
                    biased;
                    result = caught => Some(result.unwrap_or_else(|_| Err(kept_panic()))),
                    _ = told => None,
                }
            })
        });
        let early = tokio::select! {
            biased;
            ended = &mut thread => return outcome(ended.ok().flatten()),
            by = told_to_end(&mut self.cancel) => Outcome::Cancelled(by),
            () = tokio::time::sleep(limit) => Outcome::TimedOut(limit),
        };
        let _ = tell.send(()); // it may have ended this very moment
        match tokio::time::timeout(LET_GO, &mut thread).await {
            // It ended just then: what it did counts.
            Ok(Ok(Some(result))) => outcome(Some(result)),
            Ok(_) => early,
            Err(_) => {
                tracing::error!(
                    task = self.spec.name,
                    run_id = self.run.run_id,
                    "the run was told to end and does not let go of its thread"
                );
                self.stuck = Some(tokio::spawn(async move { drop(thread.await) }));
                early
            }
        }
    }

    fn end(&self, state: &'static str, attempts: u32, error: Option<String>) -> RunEnd {
        let (began, ended_at) = (self.began.get().copied(), self.run.env.now());
        RunEnd { state, reason: None, attempts, began, ended_at, error, result: None, last_attempt: None }
    }

    /// The result for the ledger; the file has all of it.
    fn capped(&self, result: Json) -> Json {
        let (bytes, max) = (result.to_string().len(), self.run.env.config().timer.max_result_bytes);
        if bytes <= max {
            return result;
        }
        json!({"ok": result["ok"], "ts": result["ts"], "run_id": result["run_id"], "truncated": true, "bytes": bytes, "file": self.spec.latest.or(self.spec.history)})
    }

    /// Tells the task's own dead man's switch, if it has one; nobody waits for that.
    fn ping(&self, signal: ping::Signal, body: String) {
        if let Some(url) = &self.spec.ping_url {
            drop(ping::tell(&self.run.env, url, signal, Some(&self.run.run_id), body));
        }
    }

    async fn finish(&self, end: &RunEnd) {
        let (task, run_id, cause) = (self.spec.name, &self.run.run_id, self.run.cause);
        match end.state {
            "succeeded" => self.ping(ping::Signal::Success, String::new()),
            "skipped" => {}
            state => self.ping(ping::Signal::Fail, format!("{state}: {}", end.error.as_deref().unwrap_or_default())),
        }
        match &end.error {
            None => tracing::info!(task, run_id, cause, state = end.state, attempts = end.attempts, "run ended"),
            Some(error) => tracing::error!(task, run_id, cause, state = end.state, attempts = end.attempts, error, "run ended"),
        }
        let env = &self.run.env;
        for attempt in 1..=END_TRIES {
            let data = json!({"task": task, "slot": rfc3339(self.run.slot), "cause": cause, "state": end.state, "error": end.error});
            match env.store().end_run(run_id, env.incarnation(), end, env.fact("run.ended", run_id, data)).await {
                Ok(true) => return,
                Ok(false) => {
                    return tracing::warn!(
                        task,
                        run_id,
                        state = end.state,
                        "the run was given its end meanwhile: it was cancelled, or another process took it over"
                    );
                }
                Err(error) if attempt == 1 => tracing::error!(task, run_id, %error, "the end of a run could not be stored; trying on"),
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Ends when the run is told to; if nobody can tell it any more, never.
async fn told_to_end(cancel: &mut Cancel) -> String {
    let told = cancel.wait_for(Option::is_some).await.ok().and_then(|by| by.clone());
    match told {
        Some(by) => by,
        None => std::future::pending().await,
    }
}

fn outcome(result: Option<Result<Record>>) -> Outcome {
    match result {
        Some(Ok(record)) => Outcome::Done(record),
        Some(Err(error)) => Outcome::Failed(error),
        None => Outcome::Failed(Error::internal("the run's thread ended without a result")),
    }
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

fn capped_text(text: &str) -> String {
    if text.len() <= MAX_ERROR {
        return text.to_owned();
    }
    let cut = (0..=MAX_ERROR).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    format!("{}\n({} bytes in all)", &text[..cut], text.len())
}

thread_local! {
    static LAST_PANIC: RefCell<Option<(String, Backtrace)>> = const { RefCell::new(None) };
}

fn kept_panic() -> Error {
    let kept = LAST_PANIC.with_borrow_mut(Option::take);
    Error::internal(kept.map_or_else(|| "panicked".to_owned(), |(text, trace)| format!("{text}\n{trace}")))
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
