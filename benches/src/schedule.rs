//! The library's timer alone in a process of its own (`figures schedule`), with tasks made for measuring and a store on disk with
//! `synchronous=FULL`: lateness with 23 tasks due at the same instant, 10,000 tasks with 1,000 starts a second, 10,000 idle ones, and what
//! runs that burn their CPU do to the others. The peer is the store alone, writing the very same rows in groups of the same size.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use echopilot_actors::{
    actor::{self, Boxed},
    config::{Config, Environment, Secrets},
    domain::schedule::{Overlap, Schedule},
    env::{Clock, Env, Parts},
    error::Result,
    execution::Workshop,
    providers::stripe::Client,
    store::{NewRun, Place, RunEnd, Store},
    supervisor::Supervisor,
    task::{Record, Run, TaskSpec, Work},
    timer::{self, Timer},
};
use futures_util::future::join_all;
use tempfile::TempDir;

use crate::{lateness::Lateness, load::Load, peer, process};

/// As many as the daemon has.
const TASKS: usize = 23;
const MANY: usize = 10_000;
const WAVE: usize = 1000;
/// Each of the many is due once in so many seconds, in as many groups.
const TURN_S: i64 = 10;

/// How long each part lasts, in seconds.
#[derive(Clone, Copy)]
struct Length {
    few: u64,
    many: u64,
    idle: u64,
    burn: u64,
}

/// Prints the parts that are named, or all of them.
pub(crate) async fn figures(quick: bool, parts: &[String]) {
    let _ = rustls::crypto::ring::default_provider().install_default(); // once per process
    let length = if quick { Length { few: 15, many: 10, idle: 5, burn: 10 } } else { Length { few: 30, many: 30, idle: 20, burn: 20 } };
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|p| p == part);
    println!("the library's timer in a process of its own, ledger on disk, every commit synced:");
    if wanted("few") {
        few(length, one_commit_ms().await).await;
    }
    if wanted("history") {
        history().await;
    }
    if wanted("many") {
        let alone = store_alone().await;
        many(length, alone, true).await;
        many(length, alone, false).await;
    }
    if wanted("idle") {
        idle(length).await;
    }
    if wanted("burn") {
        for burning in [0, 1, 4] {
            burn(length, burning).await;
        }
    }
}

struct Bench {
    env: Env,
    supervisor: Supervisor,
    _folder: TempDir,
}

impl Bench {
    fn env() -> (Env, TempDir) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let environment: Environment = ["DATA", "LOGS", "BACKUPS", "CONFIGS"]
            .map(|name| (format!("ECHOPILOT__PATHS__{name}"), path(&name.to_lowercase())))
            .into_iter()
            .chain([("ECHOPILOT__TIMER__STOP_GRACE_S".to_owned(), "2".to_owned())])
            .collect();
        let config = Config::load(None, &environment).expect("the defaults are valid");
        std::fs::create_dir_all(folder.path().join("data")).expect("a folder can be made");
        let http = Client::loopback_http_client().expect("a client can be built");
        let env = Env::new(Parts {
            secrets: Secrets::load(&config, &environment).expect("secrets can be made"),
            store: Store::open(&config.database_path(), "bench").expect("a store can be opened"),
            provider: Client::new("http://127.0.0.1:9", "sk_test_x", http.clone()),
            http,
            clock: Clock::default(),
            config,
            sandbox: None,
            instance: format!("bench{}", folder.path().display()),
            incarnation: "inc_bench".into(),
            node: "bench".into(),
            server_address: ([127, 0, 0, 1], 1).into(),
            sandbox_address: None,
        });
        (env, folder)
    }

    async fn start(table: Vec<TaskSpec>) -> Self {
        let (env, folder) = Self::env();
        let timer = Timer::new(table, Workshop::new(env.config().timer.max_running).expect("threads"));
        let children = vec![actor::spec(timer::NOUN, true, move || timer.clone())];
        let supervisor = Supervisor::start(env.clone(), children).await.expect("the timer starts");
        Self { env, supervisor, _folder: folder }
    }

    /// Waits until the marks of all tasks are in the ledger.
    async fn taken_up(&self, tasks: usize) {
        while self.env.store().task_marks().await.expect("the ledger can be read").len() < tasks {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn stop(self) {
        self.supervisor.stop().await;
        self.env.store().close().await.expect("the store closes");
    }
}

fn task(name: String, schedule: Schedule, work: Work) -> TaskSpec {
    TaskSpec::new(name.leak(), "timer", schedule, "A task for a measurement.").runs(work)
}

fn names(table: &[TaskSpec]) -> Vec<&'static str> {
    table.iter().map(|t| t.name).collect()
}

/// Asks the store once and leaves a small record: little work, as most of the real tasks do.
fn asks(run: Run) -> Boxed<Result<Record>> {
    Box::pin(async move {
        run.env.store().meta("no such key").await?;
        Ok(Record::new())
    })
}

fn nothing(_: Run) -> Boxed<Result<Record>> {
    Box::pin(async { Ok(Record::new()) })
}

static BURN: AtomicBool = AtomicBool::new(false);

/// Never awaits and never sleeps, until the measurement is over (a minute at most).
fn burns(_: Run) -> Boxed<Result<Record>> {
    Box::pin(async {
        let start = Instant::now();
        while BURN.load(Ordering::Relaxed) && start.elapsed() < Duration::from_mins(1) {
            std::hint::spin_loop();
        }
        Ok(Record::new())
    })
}

fn every_second() -> Vec<TaskSpec> {
    (0..TASKS).map(|n| task(format!("task_{n}"), Schedule::every(1), asks)).collect()
}

async fn one_commit_ms() -> f64 {
    let (env, _folder) = Bench::env();
    let mut times = Vec::new();
    for n in 0..200 {
        let start = Instant::now();
        env.store().set_meta("n", &n.to_string()).await.expect("the store writes");
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    env.store().close().await.expect("the store closes");
    times.sort_by(f64::total_cmp);
    println!("one durable commit on its own         {:>9.2} ms   (p99 {:.2} ms)", times[100], times[198]);
    times[100]
}

async fn few(length: Length, commit_ms: f64) {
    let bench = Bench::start(every_second()).await;
    bench.taken_up(TASKS).await;
    let from = bench.env.now();
    tokio::time::sleep(Duration::from_secs(length.few)).await;
    let late = Lateness::read(bench.env.store(), &names(&every_second()), from).await;
    bench.stop().await;
    println!("start lateness, 23 tasks each second  {:>9} ms   at p99; {}", late.percentile(0.99), late.summary());
    println!("{}", late.histogram());
    println!(
        "  p99 in durable commits              {:>9.1}      (23 starts are due at the same instant)",
        late.percentile(0.99) as f64 / commit_ms
    );
}

/// Starts a second that the store alone can write: the claim, the mark and the end of each, a thousand at a time.
async fn store_alone() -> f64 {
    const WAVES: usize = 8;
    let (env, _folder) = Bench::env();
    let start = Instant::now();
    for wave in 0..WAVES {
        let rows: Vec<NewRun> = (0..WAVE).map(|n| new_run(&env, &format!("task_{n}"), wave * WAVE + n, wave)).collect();
        write_wave(&env, &rows).await;
    }
    let alone = (WAVES * WAVE) as f64 / start.elapsed().as_secs_f64();
    env.store().close().await.expect("the store closes");
    println!("starts the store alone can write      {alone:>9.0} /s   (claim, mark and end of each, {WAVE} at a time)");
    alone
}

/// What one claim and its end cost while the task has no history and when it has a long one: it must be the same.
async fn history() {
    let (env, _folder) = Bench::env();
    let mut costs = Vec::new();
    for (wave, waves) in [(0, 0), (100, 20)] {
        for n in 0..waves {
            let rows: Vec<NewRun> = (0..WAVE).map(|i| new_run(&env, "old", 1_000_000 + n * WAVE + i, 1_000_000 + n * WAVE + i)).collect();
            write_wave(&env, &rows).await;
        }
        let mut times = Vec::new();
        for n in wave..wave + 100 {
            let row = new_run(&env, "old", n, n);
            let start = Instant::now();
            write_wave(&env, &[row]).await;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        costs.push(times[50]);
    }
    env.store().close().await.expect("the store closes");
    println!(
        "claim and end, 20,000 runs of history {:>9.2} ms   (without history {:.2} ms, ratio {:.2})",
        costs[1],
        costs[0],
        costs[1] / costs[0]
    );
}

fn new_run(env: &Env, task: &str, id: usize, slot_s: usize) -> NewRun {
    let slot = DateTime::<Utc>::UNIX_EPOCH + TimeDelta::seconds(i64::try_from(slot_s).expect("small"));
    NewRun {
        run_id: format!("run_{id:032x}"),
        task: task.to_owned(),
        slot,
        cause: "schedule",
        state: "running",
        reason: None,
        asked_by: None,
        incarnation: env.incarnation().to_owned(),
        at: env.now(),
        lag_ms: Some(0),
    }
}

/// The rows of a wave of starts, each kind as one group, as the timer writes them.
async fn write_wave(env: &Env, rows: &[NewRun]) {
    let fact = |kind, run: &NewRun| {
        env.fact(
            kind,
            &run.run_id,
            serde_json::json!({"task": run.task, "slot": "2026-01-01T00:00:00Z", "cause": "schedule", "asked_by": null}),
        )
    };
    let place = Place::Now(Overlap::Allow);
    let claims = join_all(rows.iter().map(|run| env.store().claim_run(run, place, fact("run.claimed", run)))).await;
    let marks = join_all(rows.iter().map(|run| env.store().close_slots(&run.task, &[], run.slot))).await;
    let end = RunEnd {
        state: "succeeded",
        reason: None,
        attempts: 1,
        began: Some((env.now(), 0)),
        ended_at: env.now(),
        error: None,
        result: Some(serde_json::json!({"ok": true, "ts": "2026-01-01T00:00:00Z", "run_id": "run_0"})),
        last_attempt: None,
    };
    let ends = join_all(rows.iter().map(|run| env.store().end_run(&run.run_id, env.incarnation(), &end, fact("run.ended", run)))).await;
    assert!(claims.iter().all(std::result::Result::is_ok) && marks.iter().all(std::result::Result::is_ok));
    assert!(ends.iter().all(|end| matches!(end, Ok(true))), "a run was not written");
}

/// 10,000 tasks, a thousand starts a second: spread over the second as the tasks' jitter spreads them, or all thousand in one instant.
async fn many(length: Length, alone: f64, spread: bool) {
    let table: Vec<TaskSpec> = (0..MANY)
        .map(|n| {
            let mut spec = task(format!("task_{n}"), Schedule::every(TURN_S), nothing);
            let turn = i64::try_from(n).expect("small") * TURN_S * 1000 / i64::try_from(MANY).expect("small");
            spec.policy.jitter = TimeDelta::milliseconds(if spread { turn } else { turn / 1000 * 1000 });
            spec
        })
        .collect();
    let names = names(&table);
    let start = Instant::now();
    let bench = Bench::start(table).await;
    bench.taken_up(MANY).await;
    let taken_up = start.elapsed().as_secs_f64();
    // The first slot of all of them: from here on a thousand are due each second.
    let first = Schedule::every(TURN_S).next_after(bench.env.now());
    tokio::time::sleep((first - bench.env.now()).to_std().unwrap_or_default()).await;
    let (since, cpu) = (Instant::now(), process::cpu_seconds("self"));
    let mut answers = Vec::new();
    while since.elapsed().as_secs() < length.many {
        let asked = Instant::now();
        timer::next(&bench.env, names[0], 1).await.expect("the timer answers");
        answers.push(asked.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let seconds = since.elapsed().as_secs_f64();
    let cpu = process::cpu_seconds("self") - cpu;
    let memory = process::resident_mib("self");
    let asked = Instant::now();
    assert_eq!(timer::list(&bench.env).await.expect("the timer answers").len(), MANY);
    let list_ms = asked.elapsed().as_secs_f64() * 1e3;
    let whole = since.elapsed().as_secs_f64();
    bench.supervisor.stop().await;
    let late = Lateness::read(bench.env.store(), &names, first).await;
    bench.env.store().close().await.expect("the store closes");
    let how = if spread { "spread" } else { "1,000 at the same instant" };
    // All thousand of an instant are due at its beginning.
    let due = if spread { whole * 1000.0 } else { whole.ceil() * 1000.0 };
    let per_second = 1000.0 * late.started() as f64 / due;
    answers.sort_by(f64::total_cmp);
    println!(
        "starts carried, 10,000 tasks          {per_second:>9.0} /s   ({how}; {} of {due:.0} due, ratio {:.3} of what the store alone can write)",
        late.started(),
        per_second / alone
    );
    println!("  lateness                            {:>9} ms   at p99; {}", late.percentile(0.99), late.summary());
    println!("{}", late.histogram());
    println!(
        "  CPU                                 {:>9.1} %    of one core, {:.0} us a start; resident {memory:.0} MiB",
        100.0 * cpu / seconds,
        1e6 * cpu / (per_second * seconds)
    );
    println!(
        "  the timer answers meanwhile         {:>9.2} ms   at p99 (p50 {:.2} ms); a list of all 10,000 {list_ms:.0} ms; start-up {taken_up:.1} s",
        answers[answers.len() * 99 / 100],
        answers[answers.len() / 2]
    );
}

async fn idle(length: Length) {
    let cron = |n: usize| Schedule::cron(&format!("{} {} 29 2 *", n % 60, n / 60 % 24)).expect("a valid expression");
    let table: Vec<TaskSpec> = (0..MANY).map(|n| task(format!("task_{n}"), cron(n), nothing)).collect();
    let start = Instant::now();
    let bench = Bench::start(table).await;
    bench.taken_up(MANY).await;
    let taken_up = start.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (since, cpu) = (Instant::now(), process::cpu_seconds("self"));
    tokio::time::sleep(Duration::from_secs(length.idle)).await;
    let share = 100.0 * (process::cpu_seconds("self") - cpu) / since.elapsed().as_secs_f64();
    println!("CPU of 10,000 idle tasks              {share:>9.2} %    of one core (cron expressions; start-up {taken_up:.1} s)");
    bench.stop().await;
}

/// What runs that never await do to 23 others and to answers. The answers are a stand-in for the daemon's, whose own tasks do not burn:
/// the actor's mailbox, and the bare framework on the same two async threads as the timer.
async fn burn(length: Length, burning: usize) {
    let mut table = every_second();
    table.extend((0..burning).map(|n| task(format!("burner_{n}"), Schedule::cron("0 0 29 2 *").expect("valid"), burns)));
    BURN.store(true, Ordering::Relaxed);
    let bench = Bench::start(table).await;
    bench.taken_up(TASKS + burning).await;
    for n in 0..burning {
        timer::run_now(&bench.env, &format!("burner_{n}"), "bench").await.expect("a burner starts");
    }
    let address = peer::start_here().await;
    let from = bench.env.now();
    let end = Instant::now() + Duration::from_secs(length.burn);
    let (mailbox, http) = tokio::join!(actor_answers(&bench.env, end), http_answers(address, end));
    let late = Lateness::read(bench.env.store(), &names(&every_second()), from).await;
    BURN.store(false, Ordering::Relaxed);
    bench.stop().await;
    println!("{burning} runs burn their CPU: lateness      {:>9} ms   at p99 of 23 others ({})", late.percentile(0.99), late.summary());
    println!("  an actor answers                    {:>9.2} ms   at p99 (p50 {:.2} ms)", mailbox.1, mailbox.0);
    println!("  an HTTP answer of the same runtime  {:>9.2} ms   at p99 (p50 {:.2} ms)", http.1, http.0);
}

async fn actor_answers(env: &Env, end: Instant) -> (f64, f64) {
    let mut times = Vec::new();
    while Instant::now() < end {
        let asked = Instant::now();
        timer::next(env, "task_0", 1).await.expect("the timer answers");
        times.push(asked.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

async fn http_answers(address: SocketAddr, end: Instant) -> (f64, f64) {
    let mut times = Vec::new();
    while Instant::now() < end {
        times.extend(Load::times(address, 1, &vec![peer::get("/static"); 20]).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() * 99 / 100])
}
