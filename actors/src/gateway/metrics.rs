//! `/metrics` in Prometheus' text format: the schedule, the parts, the store. Like the probes it needs no key and says nothing about
//! customers, payments or secrets. Counters are counted from this process's rows of the occurrence ledger, each row once, so that a
//! crash of an actor loses none. It never fails because a part does: that part's figures are left out and its source is 0.

mod alerts;
mod archives;
mod levels;

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use prometheus::{
    Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};
use tokio::sync::Mutex;
use warp::{filters::BoxedFilter, http::Method, reply::Response};

use super::{
    Shell, respond,
    route::{Request, any_of, open},
};
use crate::{
    env::Env,
    error::{Error, Result},
    store::SlotOutcome,
    timer::{self, TaskInfo},
};

/// Scrapes within this time of each other get the same answer: the endpoint needs no key, and must not be a way to keep us busy.
const FRESH: Duration = Duration::from_secs(1);
/// How long one source may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Rows read at a time.
const PAGE: i64 = 5000;
/// The bounds of the lateness histogram in seconds: those of the service level; the last is its limit.
const LATENESS: [f64; 4] = [0.01, 0.05, 0.1, 1.0];
const OUTCOMES: [&str; 4] = ["on_time", "late", "missed", "skipped"];
const REASONS: [&str; 6] = ["overlap", "paused", "catch_up", "maintenance", "blackout", "dependency"];
const ENDS: [&str; 4] = ["succeeded", "failed", "timed_out", "cancelled"];
const OPEN: [&str; 2] = ["pending", "running"];
/// States of a child; one that is not listed is shown all the same.
const CHILD_STATES: [&str; 8] = ["starting", "running", "hung", "restarting", "quarantined", "finished", "failed", "stopped"];
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // The daemon's figures for Prometheus.
        open(shell, Method::GET, "/metrics", scrape),
    ])
}

async fn scrape(shell: Shell, _: Request) -> Result<Response> {
    let mut last = shell.metrics.last.lock().await;
    if let Some((_, text)) = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
        return Ok(respond::text(TEXT, text.clone()));
    }
    let text = Bytes::from(shell.metrics.write(&shell.env).await?);
    *last = Some((Instant::now(), text.clone()));
    Ok(respond::text(TEXT, text))
}

/// What is kept between scrapes.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    counts: Mutex<Option<Counts>>,
    last: Mutex<Option<(Instant, Bytes)>>,
}

impl Metrics {
    async fn write(&self, env: &Env) -> Result<String> {
        let began = Instant::now();
        let board = Board::default();
        let up = board.gauges("echopilot_scrape_source_up", "1 if this source of figures answered, else 0.", &["source"])?;
        let told = |source: &str, result: Result<()>| {
            if let Err(error) = &result {
                tracing::debug!(target: "gateway", source, %error, "a source of metrics did not answer");
            }
            up.with_label_values(&[source]).set(i64::from(result.is_ok()));
        };
        about(&board, env)?;
        told("supervisor", in_time(parts(&board, env)).await);
        let tasks = in_time(timer::list(env)).await;
        told("timer", tasks.as_deref().map_err(Clone::clone).and_then(|t| schedule(&board, t)));
        told("level", in_time(level(&board, env)).await);
        told("backup", in_time(archives::archives(&board, env)).await);
        told("alert", in_time(alerts::alerts(&board, env)).await);
        told("objectives", in_time(levels::levels(&board, env)).await);
        let mut counts = self.counts.lock().await;
        if counts.is_none() {
            *counts = Some(Counts::new()?);
        }
        if let Some(counts) = counts.as_mut() {
            if let Ok(tasks) = &tasks {
                counts.begin_at_zero(tasks);
            }
            told("ledger", in_time(counts.read(env)).await);
            counts.show(&board)?;
        }
        let took = board.gauge("echopilot_scrape_duration_seconds", "How long it took to gather these figures.")?;
        took.set(began.elapsed().as_secs_f64());
        let mut families = counts.as_ref().map(|c| c.board.0.gather()).unwrap_or_default();
        families.extend(board.0.gather());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        TextEncoder::new().encode_to_string(&families).map_err(Error::internal)
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(Error::unavailable("timeout", "it did not answer in time")))
}

/// A registry of our own: the crate's global one would mix daemons that live in one process.
#[derive(Debug, Default)]
struct Board(Registry);

impl Board {
    fn put<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> Result<C> {
        let collector = made.map_err(Error::internal)?;
        self.0.register(Box::new(collector.clone())).map_err(Error::internal)?;
        Ok(collector)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<Gauge> {
        self.put(Gauge::new(name, help))
    }

    fn integer(&self, name: &str, help: &str) -> Result<IntGauge> {
        self.put(IntGauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec> {
        self.put(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn fractions(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec> {
        self.put(GaugeVec::new(Opts::new(name, help), labels))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec> {
        self.put(IntCounterVec::new(Opts::new(name, help), labels))
    }
}

fn about(board: &Board, env: &Env) -> Result<()> {
    let build = board.gauges("echopilot_build_info", "Always 1; the version is a label.", &["version"])?;
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    board.gauge("echopilot_uptime_seconds", "Time since this process began to serve.")?.set(env.uptime().as_secs_f64());
    let depth = board.integer("echopilot_store_queue_depth", "Batches that wait to be written to the database.")?;
    depth.set(whole(env.store().depth()));
    Ok(())
}

async fn parts(board: &Board, env: &Env) -> Result<()> {
    let children = env.tree()?.status().await?;
    let label = ["child"];
    let states =
        board.gauges("echopilot_child_state", "1 for the state a supervised part is in, 0 for the others.", &["child", "state"])?;
    let restarts =
        board.counters("echopilot_child_restarts_total", "Times a supervised part was started again since the process began.", &label)?;
    let generation =
        board.gauges("echopilot_child_generation", "Which start of a supervised part this is; grows with every one.", &label)?;
    let depth = board.gauges("echopilot_child_mailbox_depth", "Messages that wait for a supervised part.", &label)?;
    let handled = board.counters("echopilot_child_messages_handled_total", "Messages a part handled since its latest start.", &label)?;
    let now =
        board.fractions("echopilot_child_handler_seconds", "How long the message being handled has been so; 0 between two.", &label)?;
    let longest =
        board.fractions("echopilot_child_handler_longest_seconds", "The longest that one message took since the part's start.", &label)?;
    for child in &children {
        for state in CHILD_STATES.iter().filter(|s| **s != child.state) {
            states.with_label_values(&[child.name, state]).set(0);
        }
        states.with_label_values(&[child.name, child.state]).set(1);
        restarts.with_label_values(&[child.name]).inc_by(child.restarts);
        generation.with_label_values(&[child.name]).set(i64::try_from(child.generation).unwrap_or(i64::MAX));
        depth.with_label_values(&[child.name]).set(whole(child.mailbox_depth));
        handled.with_label_values(&[child.name]).inc_by(child.handled);
        now.with_label_values(&[child.name]).set(seconds(child.in_handler_ms.unwrap_or_default()));
        longest.with_label_values(&[child.name]).set(seconds(child.handler_longest_ms));
    }
    Ok(())
}

fn schedule(board: &Board, tasks: &[TaskInfo]) -> Result<()> {
    let paused = board.gauges("echopilot_task_paused", "1 if the task is paused.", &["task"])?;
    for task in built(tasks) {
        paused.with_label_values(&[task.name]).set(task.paused.is_some().into());
    }
    Ok(())
}

/// Tasks that are planned have no slots and no figures.
fn built(tasks: &[TaskInfo]) -> impl Iterator<Item = &TaskInfo> {
    tasks.iter().filter(|t| t.state != "planned")
}

async fn level(board: &Board, env: &Env) -> Result<()> {
    let level = timer::level(env, env.now() - TimeDelta::hours(24)).await?;
    let help = "The share of slots that are to start within one second.";
    board.gauge("echopilot_schedule_objective_ratio", help)?.set(level.objective);
    let help = "Share of the slots of the last 24 hours that started within one second; absent without any.";
    if let Some(ratio) = level.total.on_time_ratio {
        board.gauge("echopilot_schedule_on_time_ratio", help)?.set(ratio);
    }
    Ok(())
}

/// Counted since the process began.
#[derive(Debug)]
struct Counts {
    board: Board,
    slots: IntCounterVec,
    skipped: IntCounterVec,
    runs: IntCounterVec,
    lateness: HistogramVec,
    /// Every row up to this one is counted.
    through: i64,
    /// Rows after it that are counted: before them is one that has not ended.
    counted: BTreeSet<i64>,
    /// Runs without an end, by task and state.
    open: HashMap<(String, String), i64>,
    /// By task: when the newest success ended, and how long the newest run took.
    last_success: HashMap<String, DateTime<Utc>>,
    last_duration: HashMap<String, TimeDelta>,
    tasks: BTreeSet<&'static str>,
    /// Those whose last success before the process began was read.
    with_past: BTreeSet<&'static str>,
}

impl Counts {
    fn new() -> Result<Self> {
        let board = Board::default();
        let help = "Slots that came due since the process began, by what became of them; late is more than one second, or made up for.";
        let slots = board.counters("echopilot_task_slots_total", help, &["task", "outcome"])?;
        let help = "Slots that were skipped since the process began, by reason.";
        let skipped = board.counters("echopilot_task_slots_skipped_total", help, &["task", "reason"])?;
        let help = "Runs that ended since the process began, those by hand included.";
        let runs = board.counters("echopilot_task_runs_total", help, &["task", "state"])?;
        let help = "How late after its slot a scheduled run that has ended had begun.";
        let lateness = HistogramOpts::new("echopilot_task_start_lateness_seconds", help).buckets(LATENESS.to_vec());
        let lateness = board.put(HistogramVec::new(lateness, &["task"]))?;
        Ok(Self {
            board,
            slots,
            skipped,
            runs,
            lateness,
            through: 0,
            counted: BTreeSet::new(),
            open: HashMap::new(),
            last_success: HashMap::new(),
            last_duration: HashMap::new(),
            tasks: BTreeSet::new(),
            with_past: BTreeSet::new(),
        })
    }

    /// A counter that appears with its first event hides that event from `increase()`.
    fn begin_at_zero(&mut self, tasks: &[TaskInfo]) {
        for task in built(tasks).filter(|t| self.tasks.insert(t.name)) {
            for (counters, values) in [(&self.slots, &OUTCOMES[..]), (&self.skipped, &REASONS[..]), (&self.runs, &ENDS[..])] {
                for value in values {
                    drop(counters.with_label_values(&[task.name, value]));
                }
            }
            drop(self.lateness.with_label_values(&[task.name]));
        }
    }

    /// Counts what has ended since the last time. Dropped half-way it goes on where it was.
    async fn read(&mut self, env: &Env) -> Result<()> {
        for task in self.tasks.difference(&self.with_past).copied().collect::<Vec<_>>() {
            if let Some((began, ended)) = env.store().last_success(task).await? {
                self.note(task, began, ended, true);
            }
            self.with_past.insert(task);
        }
        let newest = env.store().newest_row().await?; // rows of others count for nothing, and are not looked at twice
        let (mut after, mut open, mut frontier) = (self.through, HashMap::new(), None);
        loop {
            let rows = env.store().outcomes(env.incarnation(), after, PAGE).await?;
            for row in &rows {
                if OPEN.contains(&row.state.as_str()) {
                    *open.entry((row.task.clone(), row.state.clone())).or_default() += 1;
                    frontier.get_or_insert(row.n - 1);
                } else if self.counted.insert(row.n) {
                    self.count(row);
                }
            }
            after = rows.last().map_or(after, |r| r.n);
            if i64::try_from(rows.len()).unwrap_or(PAGE) < PAGE {
                break;
            }
        }
        self.through = frontier.unwrap_or(after.max(newest));
        self.counted = self.counted.split_off(&(self.through + 1));
        self.open = open;
        Ok(())
    }

    fn count(&mut self, row: &SlotOutcome) {
        let task = row.task.as_str();
        if ENDS.contains(&row.state.as_str()) {
            self.runs.with_label_values(&[task, &row.state]).inc();
            self.note(task, row.started_at, row.ended_at, row.state == "succeeded");
        }
        if row.cause == "manual" {
            return;
        }
        let began = row.started_at.and(row.lag_ms);
        if let Some(lag_ms) = began {
            self.lateness.with_label_values(&[task]).observe(lag_ms as f64 / 1e3);
        }
        // The same judgement as `timer/level.rs`.
        let outcome = match row.state.as_str() {
            "missed" => "missed",
            "skipped" => {
                self.skipped.with_label_values(&[task, row.reason.as_deref().unwrap_or("unknown")]).inc();
                "skipped"
            }
            _ if row.cause == "schedule" && began.is_some_and(|lag_ms| lag_ms <= timer::LATE_MS) => "on_time",
            _ => "late",
        };
        self.slots.with_label_values(&[task, outcome]).inc();
    }

    fn note(&mut self, task: &str, began: Option<DateTime<Utc>>, ended: Option<DateTime<Utc>>, succeeded: bool) {
        let Some(ended) = ended else { return };
        if let Some(began) = began {
            self.last_duration.insert(task.to_owned(), ended - began);
        }
        if succeeded {
            let newest = self.last_success.entry(task.to_owned()).or_insert(ended);
            *newest = ended.max(*newest);
        }
    }

    fn show(&self, board: &Board) -> Result<()> {
        let open =
            board.gauges("echopilot_task_runs_open", "Runs of this process that wait (pending) or work (running).", &["task", "state"])?;
        let success = "When the task's newest successful run ended, Unix time.";
        let success = board.fractions("echopilot_task_last_success_timestamp_seconds", success, &["task"])?;
        let took = board.fractions("echopilot_task_last_duration_seconds", "How long the task's newest run that ended took.", &["task"])?;
        for task in &self.tasks {
            for state in OPEN {
                let runs = self.open.get(&((*task).to_owned(), state.to_owned()));
                open.with_label_values(&[*task, state]).set(runs.copied().unwrap_or_default());
            }
        }
        for (task, at) in &self.last_success {
            success.with_label_values(&[task]).set(at.timestamp_micros() as f64 / 1e6);
        }
        for (task, length) in &self.last_duration {
            took.with_label_values(&[task]).set(length.as_seconds_f64());
        }
        Ok(())
    }
}

fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

fn whole(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
