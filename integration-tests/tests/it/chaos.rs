//! The real program under load from an outside process while its parts are made to panic, one after the other, and the whole is killed
//! again and again: nothing acknowledged is lost or doubled, the other parts go on answering, and every slot is accounted for.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use integration_tests::{TestDaemon, WEBHOOK_SECRET, json_file, peer, python, until};
use serde_json::{Value as Json, json};

use crate::setup;

/// A figure for the log of the run: unlike `println!`, seen also when the test passes.
macro_rules! told {
    ($($text:tt)*) => { let _ = writeln!(std::io::stderr(), $($text)*); };
}

const PANICS: usize = 200;
const KILLS: u64 = 50;
/// Tasks that are due every second, so that there are slots to account for.
const BUSY: [&str; 4] = ["heartbeat", "slo_guard", "slo_monitor", "observability_snapshot"];

/// The load, in a process of its own.
struct Load {
    child: Child,
    control: PathBuf,
}

impl Load {
    fn start(daemon: &TestDaemon, control: &Path) -> Self {
        std::fs::create_dir(control).expect("a folder");
        point(daemon, control);
        let mut command = python();
        command.arg(peer("load.py")).arg(control).arg(WEBHOOK_SECRET);
        let child = command.stdin(Stdio::null()).spawn().expect("the load starts");
        Self { child, control: control.to_owned() }
    }

    fn phase(&self, name: &str) {
        std::fs::write(self.control.join("phase"), name).expect("the phase is told");
    }

    /// Event id to charge, as acknowledged so far.
    fn acknowledged(&self) -> BTreeMap<String, String> {
        let text = std::fs::read_to_string(self.control.join("acknowledged")).unwrap_or_default();
        text.lines().filter_map(|l| l.split_once(' ')).map(|(id, charge)| (id.to_owned(), charge.to_owned())).collect()
    }

    /// Ends it and answers what it counted.
    fn stop(&mut self) -> Json {
        std::fs::write(self.control.join("stop"), "").expect("the end is told");
        let status = until("the load to end", Duration::from_secs(30), || self.child.try_wait().ok().flatten());
        assert!(status.success(), "the load met what it must not meet: {status}");
        json_file(&self.control.join("summary.json"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill(); // ours, and already gone when all went well
        let _ = self.child.wait();
    }
}

/// Tells the load where the daemon is; the file appears whole.
fn point(daemon: &TestDaemon, control: &Path) {
    let whole = json!({"address": daemon.address(), "sandbox": daemon.sandbox(), "key": daemon.key}).to_string();
    let (file, new) = (control.join("address"), control.join("address.new"));
    std::fs::write(&new, whole).and_then(|()| std::fs::rename(&new, &file)).expect("the address is told");
}

/// Crashes a part `PANICS` times, each after it came back; answers the times from panic to the replacement's first answer, in microseconds.
fn crash_again_and_again(daemon: &TestDaemon, part: &str) -> Vec<u64> {
    let mut times = Vec::with_capacity(PANICS);
    let before = daemon.part(part)["restarts"].as_u64().expect("a number");
    for n in 1..=PANICS as u64 {
        let path = format!("/api/supervisor/{part}/drill");
        until("the drill to be taken", Duration::from_secs(20), || (daemon.post(&path, &Json::Null).status == 200).then_some(()));
        let back = until("the part to be back", Duration::from_secs(20), || {
            let status = daemon.part(part);
            let back = status["state"] == "running" && status["restarts"].as_u64() >= Some(before + n);
            back.then(|| status["last_recovery_us"].as_u64()).flatten()
        });
        times.push(back);
    }
    times
}

fn percentile(sorted: &[u64], share: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index below the length")]
    let index = ((sorted.len() as f64 - 1.0) * share).round() as usize;
    sorted[index]
}

/// Of the reads that went to other parts than the one that was crashed, how many were answered, and the share.
fn other_reads(summary: &Json, crashed: &[String]) -> (u64, u64) {
    let (mut answered, mut not) = (0, 0);
    for part in crashed {
        for (other, counts) in summary["reads"][part].as_object().into_iter().flatten().filter(|(other, _)| *other != part) {
            // The overview asks several actors and is no part of its own.
            if other != "insight" {
                answered += counts[0].as_u64().unwrap_or(0);
                not += counts[1].as_u64().unwrap_or(0);
            }
        }
    }
    (answered, not)
}

#[test]
fn under_load_panics_of_every_part_and_kills_of_the_whole_lose_double_and_hide_nothing() {
    let mut setup = setup().drills().schedule();
    for (name, value) in [("MAX_RESTARTS", "1000000"), ("BACKOFF_BASE_MS", "0"), ("BACKOFF_CAP_MS", "0")] {
        setup = setup.env(&format!("ECHOPILOT__SUPERVISOR__{name}"), value);
    }
    for task in BUSY {
        setup = setup.env(&format!("ECHOPILOT__TASKS__{}__SCHEDULE", task.to_uppercase()), "every 1 s");
    }
    let mut daemon = setup.env("ECHOPILOT__LOG__LEVEL", "warn").start();
    let mut load = Load::start(&daemon, &daemon.root().join("load"));
    until("the load to be on", Duration::from_secs(20), || (load.acknowledged().len() > 50).then_some(()));

    let tree = daemon.get("/api/supervisor/status").ok();
    let parts: Vec<String> =
        tree["tree"].as_array().expect("a tree").iter().map(|c| c["name"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(parts.len(), 9, "{parts:?}");
    let mut times = Vec::new();
    for part in &parts {
        load.phase(part);
        times.extend(crash_again_and_again(&daemon, part));
    }
    load.phase("between");
    times.sort_unstable();
    told!(
        "{} panics: back after p50 {} us, p99 {} us, at most {} us",
        times.len(),
        percentile(&times, 0.5),
        percentile(&times, 0.99),
        times.last().copied().unwrap_or_default()
    );

    load.phase("kills");
    let mut random = 0x2545_F491_4F6C_DD1D_u64;
    for _ in 0..KILLS {
        // Xorshift (Marsaglia 2003): moments that are not chosen.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        std::thread::sleep(Duration::from_millis(random % 300)); // at any moment of what goes on, the start-up included
        let setup = daemon.kill9();
        daemon = setup.start();
        point(&daemon, &load.control);
    }
    let alive = Instant::now();
    let before = load.acknowledged().len();
    until("the load to be taken again", Duration::from_secs(20), || (load.acknowledged().len() > before + 50).then_some(()));
    told!("after {KILLS} kills 50 events were acknowledged within {} ms", alive.elapsed().as_millis());
    let summary = load.stop();
    let (answered, not) = other_reads(&summary, &parts);
    let share = answered as f64 / (answered + not).max(1) as f64;
    told!(
        "reads from other parts than the one that was crashed: {answered} answered, {not} not: {:.3} %; deliveries {}",
        100.0 * share,
        summary["writes"]
    );
    assert!(answered > 500, "there was load: {summary}");
    assert!(share > 0.995, "a crash of one part is not felt by the others: {summary}");

    nothing_is_lost_or_doubled(&daemon, &load.acknowledged());
    every_slot_is_explained(&daemon);
    daemon.cli(&["journal", "verify"]).expect(0);
    daemon.stop().cli(&["journal", "verify"]).expect(0);
}

fn nothing_is_lost_or_doubled(daemon: &TestDaemon, acknowledged: &BTreeMap<String, String>) {
    daemon.settle();
    assert!(acknowledged.len() > 1000, "{} were acknowledged", acknowledged.len());
    let stored = daemon.setup().column("SELECT event_id FROM webhook_event WHERE event_type = 'charge.succeeded' AND event_id LIKE 'evt\\___\\_%' ESCAPE '\\' OR event_id LIKE 'evt\\__\\_%' ESCAPE '\\'");
    let unique: BTreeSet<_> = stored.iter().collect();
    assert_eq!(stored.len(), unique.len(), "no event is stored twice");
    let lost: Vec<_> = acknowledged.keys().filter(|id| !unique.contains(id)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let failed = daemon.setup().count("SELECT COUNT(*) FROM webhook_event WHERE status NOT IN ('processed', 'ignored')");
    assert_eq!(failed, 0, "every event was processed");
    let booked = daemon.setup().column("SELECT source FROM ledger WHERE kind = 'charge' OR source LIKE 'ch%'");
    let once: BTreeSet<_> = booked.iter().collect();
    assert_eq!(booked.len(), once.len(), "no charge is booked twice");
    let missing: Vec<_> = acknowledged.values().filter(|charge| !once.contains(charge)).collect();
    assert!(missing.is_empty(), "acknowledged and not booked: {missing:?}");
}

/// Every slot from the first to the mark has one row, in a final state that says why.
fn every_slot_is_explained(daemon: &TestDaemon) {
    // The newest ones may still be running.
    until("every run to have ended", Duration::from_secs(30), || {
        (daemon.setup().count(
            "SELECT COUNT(*) FROM task_run WHERE state IN ('pending', 'running') AND slot < (SELECT MAX(slot) FROM task_run) - 3000000",
        ) == 0)
            .then_some(())
    });
    for task in BUSY {
        let one = |what: &str| {
            daemon.setup().count(&format!("SELECT {what} FROM task_run WHERE task = '{task}' AND cause <> 'manual' AND slot <= (SELECT through FROM task_mark WHERE task = '{task}')"))
        };
        let (rows, slots, seconds) = (one("COUNT(*)"), one("COUNT(DISTINCT slot)"), one("(MAX(slot) - MIN(slot)) / 1000000 + 1"));
        assert_eq!((rows, slots), (seconds, seconds), "{task}: a row for each of {seconds} seconds");
        assert!(seconds > 20, "{task}: the schedule went on: {seconds} s");
    }
    let unexplained = "SELECT task || ' ' || slot || ' ' || state FROM task_run WHERE (state = 'skipped' AND reason IS NULL)
        OR (state IN ('failed', 'timed_out', 'cancelled') AND error IS NULL)
        OR state NOT IN ('pending', 'running', 'succeeded', 'failed', 'timed_out', 'cancelled', 'skipped', 'missed')";
    let unexplained = daemon.setup().column(unexplained);
    assert!(unexplained.is_empty(), "{unexplained:?}");
    let states =
        daemon.setup().column("SELECT state || COALESCE(' ' || reason, '') || ' ' || COUNT(*) FROM task_run GROUP BY state, reason");
    told!("slots: {}", states.join(", "));
}
