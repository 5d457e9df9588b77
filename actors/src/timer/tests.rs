//! The timer as its neighbours see it: rows in the ledger, answers, runs that end.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value as Json, json};

use super::*;
use crate::{
    actor::Boxed,
    alert,
    domain::{
        backoff::Backoff,
        schedule::{CatchUp, Overlap, Schedule},
    },
    store::{Claim, NewRun, Place},
    supervisor::Supervisor,
    task::{After, Record, Run, Work},
    testing::{self, Fixture, until},
};

fn task(name: &'static str, work: Work) -> TaskSpec {
    TaskSpec::new(name, "timer", Schedule::every(60), "A task for a test.").runs(work)
}

async fn start(fixture: &Fixture, table: Vec<TaskSpec>) -> Supervisor {
    let timer = Timer::new(table, Workshop::new(8).unwrap());
    let supervisor = Supervisor::start(fixture.env.clone(), vec![actor::spec(NOUN, true, move || timer.clone())]).await.unwrap();
    quiet(fixture).await; // the first look sets the marks
    supervisor
}

/// A row in the ledger under this fixture's lease, as a process that dies leaves it.
async fn claim(fixture: &Fixture, run_id: &str, task: &str, slot: &str, state: &'static str) -> Claim {
    fixture.env.store().renew_lease(fixture.env.incarnation(), fixture.env.node(), 3, fixture.env.now(), true).await.unwrap();
    let row = NewRun {
        run_id: run_id.into(),
        task: task.into(),
        slot: slot.parse().unwrap(),
        cause: "schedule",
        state,
        reason: None,
        asked_by: None,
        incarnation: fixture.env.incarnation().into(),
        at: fixture.env.now(),
        lag_ms: None,
    };
    let fact = fixture.env.fact("test", run_id, json!({}));
    fixture.env.store().claim_run(&row, Place::Now(Overlap::Skip), fact).await.unwrap()
}

/// What became of every slot: (slot, cause, state, reason), oldest first.
async fn slots(fixture: &Fixture, task: &str) -> Vec<(String, String, String, Option<String>)> {
    let mut rows = fixture.env.store().runs(task, None, 0, 100).await.unwrap();
    rows.sort_by_key(|r| r.slot);
    rows.into_iter().map(|r| (rfc3339(r.slot)[11..16].to_owned(), r.cause, r.state, r.reason)).collect()
}

/// Sets the clock and makes the timer look at it.
async fn look_at(fixture: &Fixture, now: &str) {
    fixture.clock.set(now.parse().unwrap());
    actor::cast(&fixture.env, NOUN, Message::Look);
    quiet(fixture).await;
}

/// Waits until everything that is due has been looked at.
async fn quiet(fixture: &Fixture) {
    actor::call(&fixture.env, NOUN, Duration::from_secs(10), Message::Quiet).await.unwrap();
}

async fn all_ended(fixture: &Fixture, task: &'static str, n: usize) {
    until("every run has ended", || async {
        let rows = slots(fixture, task).await;
        rows.len() == n && rows.iter().all(|(_, _, state, _)| !matches!(state.as_str(), "pending" | "running"))
    })
    .await;
}

fn row(slot: &str, cause: &str, state: &str, reason: Option<&str>) -> (String, String, String, Option<String>) {
    (slot.into(), cause.into(), state.into(), reason.map(str::to_owned))
}

fn fine(_: Run) -> Boxed<Result<Record>> {
    Box::pin(async { Ok(Record::new()) })
}

fn panics(_: Run) -> Boxed<Result<Record>> {
    Box::pin(async { panic!("the ledger is upside down") })
}

fn never_ends(_: Run) -> Boxed<Result<Record>> {
    Box::pin(std::future::pending())
}

#[test]
fn what_came_due_between_the_look_and_the_sleep_is_not_slept_over() {
    let now: DateTime<Utc> = "2026-03-01T10:00:00Z".parse().unwrap();
    let (most, ms) = (Duration::from_secs(10), chrono::TimeDelta::milliseconds);
    assert_eq!(wait(Some(now - ms(1)), now, most), Duration::from_millis(1));
    assert_eq!(wait(Some(now + ms(250)), now, most), Duration::from_millis(250));
    assert_eq!(wait(Some(now + ms(60_000)), now, most), most);
    assert_eq!(wait(None, now, most), most);
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
    look_at(&fixture, "2026-03-01T10:01:00Z").await;
    look_at(&fixture, "2026-03-01T10:05:02Z").await;
    assert_eq!(slots(&fixture, "fine").await, expected);
    supervisor.stop().await;
}

#[tokio::test]
async fn a_backlog_of_a_once_task_becomes_one_run() {
    let once = || {
        let mut spec = task("fine", fine);
        spec.policy.catch_up = CatchUp::Once;
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
    let run = &fixture.env.store().runs("panics", None, 0, 1).await.unwrap()[0];
    assert_eq!(run.state, "failed");
    let error = run.error.clone().unwrap();
    assert!(error.contains("the ledger is upside down") && error.contains("timer/tests.rs"), "{error}");
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
    claim(&fixture, "run_dead", "slow", "2026-03-01T10:00:00Z", "running").await;
    let fixture = testing::reopen(fixture.folder, "2026-03-01T10:00:40Z", |_| {});
    let supervisor = start(&fixture, vec![spec]).await;
    all_ended(&fixture, "slow", 1).await;
    let run = &fixture.env.store().runs("slow", None, 0, 1).await.unwrap()[0];
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

/// Waits until `release` was called with the same name.
fn held(run: Run) -> Boxed<Result<Record>> {
    Box::pin(async move {
        let gate = run.env.data_path("release");
        while !gate.exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(Record::new())
    })
}

fn release(fixture: &Fixture) {
    std::fs::write(fixture.env.data_path("release"), b"").unwrap();
}

fn overlapping(overlap: Overlap) -> Vec<TaskSpec> {
    vec![task("held", held).overlap(overlap)]
}

#[tokio::test]
async fn under_queue_one_one_slot_waits_and_a_further_one_is_skipped() {
    let fixture = testing::fixture("2026-03-01T10:00:30Z");
    let supervisor = start(&fixture, overlapping(Overlap::QueueOne)).await;
    for minute in 1..=3 {
        look_at(&fixture, &format!("2026-03-01T10:0{minute}:00Z")).await;
    }
    let queued = row("10:02", "schedule", "pending", Some("queued"));
    let skipped = row("10:03", "schedule", "skipped", Some("overlap"));
    assert_eq!(slots(&fixture, "held").await, [row("10:01", "schedule", "running", None), queued, skipped.clone()]);
    release(&fixture);
    until("both have run", || async { slots(&fixture, "held").await.iter().filter(|r| r.2 == "succeeded").count() == 2 }).await;
    let done = |slot| row(slot, "schedule", "succeeded", None);
    assert_eq!(slots(&fixture, "held").await, [done("10:01"), done("10:02"), skipped]);
    supervisor.stop().await;
}

#[tokio::test]
async fn under_cancel_other_the_newer_slot_replaces_the_run() {
    let fixture = testing::fixture("2026-03-01T10:00:30Z");
    let supervisor = start(&fixture, overlapping(Overlap::CancelOther)).await;
    look_at(&fixture, "2026-03-01T10:01:00Z").await;
    look_at(&fixture, "2026-03-01T10:02:00Z").await;
    until("the newer one runs", || async { slots(&fixture, "held").await[1].2 == "running" }).await;
    let runs = fixture.env.store().runs("held", None, 0, 2).await.unwrap();
    assert_eq!(runs[1].state, "cancelled");
    assert!(runs[1].error.as_deref().unwrap().contains("the slot of 2026-03-01T10:02:00Z replaces it"), "{:?}", runs[1].error);
    release(&fixture);
    all_ended(&fixture, "held", 2).await;
    supervisor.stop().await;
}

#[tokio::test]
async fn under_allow_runs_overlap() {
    let fixture = testing::fixture("2026-03-01T10:00:30Z");
    let supervisor = start(&fixture, overlapping(Overlap::Allow)).await;
    look_at(&fixture, "2026-03-01T10:01:00Z").await;
    look_at(&fixture, "2026-03-01T10:02:00Z").await;
    assert!(slots(&fixture, "held").await.iter().all(|r| r.2 == "running"));
    release(&fixture);
    all_ended(&fixture, "held", 2).await;
    supervisor.stop().await;
}

#[tokio::test]
async fn a_backlog_of_an_all_task_runs_one_after_the_other_oldest_first() {
    let all = || vec![task("fine", fine).catch_up(CatchUp::All { max_age_s: 3600, max_count: 3 })];
    let fixture = testing::fixture("2026-03-01T10:00:30Z");
    start(&fixture, all()).await.stop().await;
    let fixture = testing::reopen(fixture.folder, "2026-03-01T10:05:30Z", |_| {});
    let supervisor = start(&fixture, all()).await;
    all_ended(&fixture, "fine", 5).await;
    let made_up = |slot| row(slot, "catch_up", "succeeded", None);
    let missed = |slot| row(slot, "schedule", "missed", None);
    let expected = [missed("10:01"), missed("10:02"), made_up("10:03"), made_up("10:04"), made_up("10:05")];
    assert_eq!(slots(&fixture, "fine").await, expected);
    supervisor.stop().await;
}

#[tokio::test]
async fn a_paused_task_skips_its_slots_and_a_resume_does_not_catch_up() {
    let fixture = testing::fixture("2026-03-01T10:00:30Z");
    let supervisor = start(&fixture, vec![task("fine", fine)]).await;
    pause(&fixture.env, "fine", "ada", "stock-taking", None).await.unwrap();
    look_at(&fixture, "2026-03-01T10:02:00Z").await;
    let info = &list(&fixture.env).await.unwrap()[0];
    let paused = info.paused.as_ref().unwrap();
    assert_eq!((info.state, paused.by.as_str(), paused.why.as_str()), ("paused", "ada", "stock-taking"));
    // By hand it still runs: somebody wants it.
    let run_id = run_now(&fixture.env, "fine", "ada").await.unwrap();
    until("the run by hand", || async { fixture.env.store().run(&run_id).await.unwrap().unwrap().state == "succeeded" }).await;
    resume(&fixture.env, "fine", "ada").await.unwrap();
    assert_eq!(resume(&fixture.env, "fine", "ada").await.unwrap_err().reason, "not_paused");
    look_at(&fixture, "2026-03-01T10:03:00Z").await;
    until("it runs again", || async { slots(&fixture, "fine").await.iter().any(|r| r.0 == "10:03" && r.2 == "succeeded") }).await;
    let skipped: Vec<_> = slots(&fixture, "fine").await.into_iter().filter(|r| r.2 == "skipped").collect();
    assert_eq!(skipped, [row("10:01", "schedule", "skipped", Some("paused")), row("10:02", "schedule", "skipped", Some("paused"))]);
    // A pause that ends by itself; one whose end has passed is refused.
    let until_at = "2026-03-01T10:04:30Z".parse().unwrap();
    pause(&fixture.env, "fine", "ada", "lunch", Some(until_at)).await.unwrap();
    look_at(&fixture, "2026-03-01T10:04:00Z").await;
    assert_eq!(
        pause(&fixture.env, "fine", "ada", "lunch", Some("2026-03-01T10:00:00Z".parse().unwrap())).await.unwrap_err().field.as_deref(),
        Some("until")
    );
    assert!(slots(&fixture, "fine").await.contains(&row("10:04", "schedule", "skipped", Some("paused"))));
    supervisor.stop().await;
}

fn fails(_: Run) -> Boxed<Result<Record>> {
    Box::pin(async { Err(Error::invalid("nonsense", "the numbers make no sense")) })
}

#[tokio::test]
async fn a_task_that_keeps_failing_is_paused_with_an_alert_until_somebody_resumes_it() {
    let fixture = testing::fixture("2026-03-01T10:00:30Z");
    let mut spec = task("fails", fails);
    spec.policy.pause_after = 2;
    let timer = Timer::new(vec![spec], Workshop::new(8).unwrap());
    let specs = vec![actor::spec(alert::NOUN, false, || alert::Alerts), actor::spec(NOUN, true, move || timer.clone())];
    let supervisor = Supervisor::start(fixture.env.clone(), specs).await.unwrap();
    quiet(&fixture).await;
    look_at(&fixture, "2026-03-01T10:01:00Z").await;
    all_ended(&fixture, "fails", 1).await;
    assert_eq!(alert::list(&fixture.env).await.unwrap().len(), 0, "one failure is not many");
    look_at(&fixture, "2026-03-01T10:02:00Z").await;
    until("an alert", || async { !alert::list(&fixture.env).await.unwrap().is_empty() }).await;
    let alert = &alert::list(&fixture.env).await.unwrap()[0];
    assert!(
        alert.reason.contains("fails is paused: 2 scheduled runs in a row failed") && alert.reason.contains("make no sense"),
        "{}",
        alert.reason
    );
    look_at(&fixture, "2026-03-01T10:03:00Z").await;
    assert!(slots(&fixture, "fails").await.contains(&row("10:03", "schedule", "skipped", Some("paused"))));
    resume(&fixture.env, "fails", "ada").await.unwrap();
    assert_eq!(pause_check(&fixture.env).await.unwrap().ok, Some(true));
    supervisor.stop().await;
}

static TRIES: AtomicU32 = AtomicU32::new(0);

fn works_the_third_time(run: Run) -> Boxed<Result<Record>> {
    Box::pin(async move {
        match TRIES.fetch_add(1, Ordering::SeqCst) {
            0 => Err(Error::unavailable("provider", "the provider is not there")),
            1 => Err(Error::unavailable("provider", "the provider is still not there")),
            _ => Ok(Record::from_iter([("attempt".to_owned(), json!(run.attempt))])),
        }
    })
}

#[tokio::test]
async fn every_failed_attempt_is_kept_with_its_error() {
    let fixture = testing::fixture("2026-03-01T10:00:30Z");
    let mut spec = task("patient", works_the_third_time).retries(2);
    spec.policy.backoff = Backoff::new(1, 2, 10);
    let supervisor = start(&fixture, vec![spec, task("fails", fails).retries(5)]).await;
    look_at(&fixture, "2026-03-01T10:01:00Z").await;
    all_ended(&fixture, "patient", 1).await;
    let run = fixture.env.store().runs("patient", None, 0, 1).await.unwrap().remove(0);
    let whole = whole_run(&fixture.env, &run.run_id).await.unwrap();
    assert_eq!((run.state.as_str(), run.attempts, &whole["result"]["attempt"]), ("succeeded", 3, &json!(3)));
    let errors: Vec<_> = whole["failed_attempts"].as_array().unwrap().iter().map(|a| a["error"].as_str().unwrap().to_owned()).collect();
    assert_eq!(errors, ["the provider is not there", "the provider is still not there"]);
    // An error that will not pass is not tried again, whatever the retries.
    all_ended(&fixture, "fails", 1).await;
    let run = fixture.env.store().runs("fails", None, 0, 1).await.unwrap().remove(0);
    assert_eq!((run.state.as_str(), run.attempts), ("failed", 1));
    supervisor.stop().await;
}

#[tokio::test]
async fn a_run_can_be_cancelled_while_it_goes_on_and_leaves_nothing() {
    let fixture = testing::fixture("2026-03-01T10:00:30Z");
    let supervisor = start(&fixture, vec![task("slow", never_ends).leaves(Some("slow.json"), None)]).await;
    let run_id = run_now(&fixture.env, "slow", "ada").await.unwrap();
    assert_eq!(cancel(&fixture.env, &run_id, "ada").await.unwrap(), "cancelling");
    all_ended(&fixture, "slow", 1).await;
    let run = fixture.env.store().run(&run_id).await.unwrap().unwrap();
    assert_eq!((run.state.as_str(), run.error.as_deref()), ("cancelled", Some("cancelled by ada")));
    assert_eq!(cancel(&fixture.env, &run_id, "ada").await.unwrap_err().reason, "ended");
    assert_eq!(cancel(&fixture.env, "run_nobody", "ada").await.unwrap_err().reason, "not_found");
    assert!(!fixture.env.log_path("slow.json").exists());
    supervisor.stop().await;
}

#[tokio::test]
async fn a_total_limit_ends_a_run_whatever_its_attempts() {
    let fixture = testing::fixture("2026-03-01T10:00:30Z");
    let mut spec = task("slow", never_ends).retries(50);
    spec.policy.timeout = Duration::from_millis(30);
    spec.policy.total_timeout = Duration::from_millis(200);
    spec.policy.backoff = Backoff::new(1, 1, 1);
    let supervisor = start(&fixture, vec![spec]).await;
    run_now(&fixture.env, "slow", "ada").await.unwrap();
    all_ended(&fixture, "slow", 1).await;
    let run = &fixture.env.store().runs("slow", None, 0, 1).await.unwrap()[0];
    assert_eq!(run.state, "timed_out");
    assert!((2..40).contains(&run.attempts), "{}", run.attempts);
    supervisor.stop().await;
}

/// Burns its thread without ever awaiting, for a second and a half.
fn burns(_: Run) -> Boxed<Result<Record>> {
    Box::pin(async {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(1500) {
            std::hint::spin_loop();
        }
        Ok(Record::new())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_burns_its_thread_delays_nobody_and_is_not_started_beside_itself() {
    let fixture = testing::fixture("2026-03-01T10:00:30Z");
    let mut burner = task("burns", burns);
    burner.policy.timeout = Duration::from_millis(50);
    let mut table = vec![burner, task("fine", fine)];
    table.extend((0..3).map(|n| task(["b1", "b2", "b3"][n], burns)));
    let supervisor = start(&fixture, table).await;
    let start_at = Instant::now();
    look_at(&fixture, "2026-03-01T10:01:00Z").await;
    all_ended(&fixture, "fine", 1).await;
    list(&fixture.env).await.unwrap();
    assert!(start_at.elapsed() < Duration::from_secs(1), "four burning threads held up the others: {:?}", start_at.elapsed());
    // Told to end after its limit, it does not let go: the run has its end, and the next slot does not run beside the thread.
    until("the burner timed out", || async { slots(&fixture, "burns").await[0].2 == "timed_out" }).await;
    look_at(&fixture, "2026-03-01T10:02:00Z").await;
    assert_eq!(slots(&fixture, "burns").await[1], row("10:02", "schedule", "skipped", Some("overlap")));
    until("the thread is free", || async { run_now(&fixture.env, "burns", "ada").await.is_ok() }).await;
    supervisor.stop().await;
}

#[tokio::test]
async fn a_backfill_runs_what_did_not_run_and_nothing_twice() {
    let fixture = testing::fixture("2026-03-01T10:00:30Z");
    start(&fixture, vec![task("fine", fine)]).await.stop().await;
    let fixture = testing::reopen(fixture.folder, "2026-03-01T10:05:01Z", |_| {});
    let supervisor = start(&fixture, vec![task("fine", fine)]).await;
    all_ended(&fixture, "fine", 5).await;
    let at = |text: &str| text.parse().unwrap();
    let ask = Backfill {
        task: "fine".into(),
        from: at("2026-03-01T10:00:00Z"),
        to: at("2026-03-01T10:05:00Z"),
        redo_failed: false,
        dry_run: true,
        asked_by: "ada".into(),
    };
    let plan = backfill(&fixture.env, ask.clone()).await.unwrap();
    assert_eq!((plan.slots, plan.queued, plan.kept), (6, 5, 1), "10:00 had no row, 10:01 to 10:04 were missed, 10:05 ran");
    assert_eq!(slots(&fixture, "fine").await.len(), 5, "a dry run writes nothing");
    backfill(&fixture.env, Backfill { dry_run: false, ..ask.clone() }).await.unwrap();
    all_ended(&fixture, "fine", 6).await;
    until("all have run", || async { slots(&fixture, "fine").await.iter().all(|r| r.2 == "succeeded") }).await;
    let again = backfill(&fixture.env, Backfill { dry_run: false, ..ask.clone() }).await.unwrap();
    assert_eq!((again.queued, again.kept), (0, 6));
    let causes: Vec<_> = slots(&fixture, "fine").await.into_iter().map(|r| r.1).collect();
    assert_eq!(causes, ["backfill", "backfill", "backfill", "backfill", "backfill", "schedule"]);
    for (from, to) in [
        ("2026-03-01T10:00:00Z", "2027-03-01T10:00:00Z"),
        ("2026-03-01T10:04:00Z", "2026-03-01T10:00:00Z"),
        ("2020-03-01T10:04:00Z", "2026-03-01T10:00:00Z"),
    ] {
        let error = backfill(&fixture.env, Backfill { from: at(from), to: at(to), ..ask.clone() }).await.unwrap_err();
        assert!(matches!(error.field.as_deref(), Some("from" | "to")), "{from} to {to}: {error:?}");
    }
    supervisor.stop().await;
}

/// A second daemon on the same database, with a data directory of its own.
fn beside(fixture: &Fixture, now: &str) -> Fixture {
    let url = format!("sqlite:{}", fixture.env.config().database_path().display());
    testing::reopen_as(tempfile::tempdir().unwrap(), now, "other", |config| {
        config.database.url = url;
        config.timer.lease_s = 3;
    })
}

#[tokio::test]
async fn two_daemons_on_one_database_run_every_slot_once() {
    let one = testing::fixture("2026-03-01T10:00:30Z");
    let two = beside(&one, "2026-03-01T10:00:30Z");
    let first = start(&one, vec![task("fine", fine), task("held", held)]).await;
    let second = start(&two, vec![task("fine", fine), task("held", held)]).await;
    for minute in 1..=5 {
        let now = format!("2026-03-01T10:0{minute}:00Z");
        one.clock.set(now.parse().unwrap());
        two.clock.set(now.parse().unwrap());
        actor::cast(&one.env, NOUN, Message::Look);
        actor::cast(&two.env, NOUN, Message::Look);
        quiet(&one).await;
        quiet(&two).await;
        all_ended(&one, "fine", minute).await;
    }
    let all = slots(&one, "fine").await;
    assert_eq!(all.len(), 5);
    assert!(all.iter().all(|r| r.2 == "succeeded"), "{all:?}");
    // A run of the one is in the way of the other's slots too.
    let held: Vec<_> = slots(&one, "held").await.into_iter().map(|r| (r.2, r.3)).collect();
    let overlap = ("skipped".to_owned(), Some("overlap".to_owned()));
    assert_eq!(held, [vec![("running".to_owned(), None)], vec![overlap; 4]].concat());
    // And a cancel asked of the other reaches it.
    release(&one);
    release(&two);
    all_ended(&one, "held", 5).await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn the_run_of_another_node_is_taken_over_only_when_its_lease_stood_still() {
    let one = testing::fixture("2026-03-01T10:00:30Z");
    let two = beside(&one, "2026-03-01T10:00:40Z");
    let spec = || vec![task("fine", fine).retries(1)];
    // Node one holds a run and a lease that it does not renew.
    one.env.store().renew_lease(one.env.incarnation(), one.env.node(), 3, one.env.now(), true).await.unwrap();
    assert_eq!(claim(&one, "run_of_one", "fine", "2026-03-01T10:00:00Z", "running").await, Claim::Begun);
    let second = start(&two, spec()).await;
    quiet(&two).await;
    assert_eq!(slots(&one, "fine").await, [row("10:00", "schedule", "running", None)], "it may still live");
    // A wall clock that jumps takes nothing away.
    look_at(&two, "2026-03-01T10:00:59Z").await;
    assert_eq!(slots(&one, "fine").await[0].2, "running");
    until("the lease has stood still for three seconds", || async {
        actor::cast(&two.env, NOUN, Message::Look);
        slots(&one, "fine").await[0].2 == "succeeded"
    })
    .await;
    let run = one.env.store().run("run_of_one").await.unwrap().unwrap();
    assert_eq!((run.attempts, run.incarnation.as_str()), (2, two.env.incarnation()));
    let attempts = one.env.store().attempts("run_of_one").await.unwrap();
    assert_eq!((attempts.len(), attempts[0].error.as_str()), (1, "the process ended while it ran"));
    // The node that was thought dead cannot write over it.
    let late = crate::store::RunEnd {
        state: "failed",
        reason: None,
        attempts: 1,
        began: None,
        ended_at: one.env.now(),
        error: None,
        result: None,
        last_attempt: None,
    };
    assert!(!one.env.store().end_run("run_of_one", one.env.incarnation(), &late, one.env.fact("x", "x", json!({}))).await.unwrap());
    second.stop().await;
}

#[tokio::test]
async fn a_clock_that_jumped_ahead_and_was_set_back_costs_no_slot() {
    let fixture = testing::fixture("2026-03-01T10:00:30Z");
    let supervisor = start(&fixture, vec![task("fine", fine)]).await;
    look_at(&fixture, "2026-03-01T11:00:00Z").await; // an hour ahead: 10:01 to 10:59 are written off, 11:00 runs
    all_ended(&fixture, "fine", 60).await;
    for minute in 1..=3 {
        look_at(&fixture, &format!("2026-03-01T10:0{minute}:00Z")).await;
        all_ended(&fixture, "fine", 60).await;
    }
    let all = slots(&fixture, "fine").await;
    let ran: Vec<_> = all.iter().filter(|r| r.2 == "succeeded").map(|r| r.0.as_str()).collect();
    assert_eq!(ran, ["10:01", "10:02", "10:03", "11:00"], "what was written off ran when its time really came");
    assert_eq!(all.len(), 60);
    supervisor.stop().await;
}

fn leaves_much(_: Run) -> Boxed<Result<Record>> {
    Box::pin(async { Ok(Record::from_iter([("much".to_owned(), json!("x".repeat(5000)))])) })
}

#[tokio::test]
async fn a_result_that_is_too_large_is_in_its_file_only_and_old_history_is_forgotten() {
    let fixture = testing::reopen(tempfile::tempdir().unwrap(), "2026-03-01T10:00:30Z", |config| config.timer.max_result_bytes = 1024);
    let supervisor = start(&fixture, vec![task("much", leaves_much).leaves(Some("much.json"), None)]).await;
    for minute in 1..=3 {
        look_at(&fixture, &format!("2026-03-01T10:0{minute}:00Z")).await;
        all_ended(&fixture, "much", minute).await;
    }
    let run = fixture.env.store().runs("much", None, 0, 1).await.unwrap().remove(0);
    let result: Json = serde_json::from_str(run.result.as_deref().unwrap()).unwrap();
    assert_eq!((&result["truncated"], &result["file"], &result["ok"]), (&json!(true), &json!("much.json"), &json!(true)));
    assert!(std::fs::read_to_string(fixture.env.log_path("much.json")).unwrap().len() > 5000);
    let (old, recent): (DateTime<Utc>, DateTime<Utc>) = ("2026-03-01T10:01:30Z".parse().unwrap(), "2026-03-01T10:02:30Z".parse().unwrap());
    assert_eq!(fixture.env.store().prune_runs(old, recent, 100).await.unwrap(), 1);
    let left = fixture.env.store().runs("much", None, 0, 9).await.unwrap();
    assert_eq!(left.iter().map(|r| r.result.is_some()).collect::<Vec<_>>(), [true, false]);
    supervisor.stop().await;
}

#[tokio::test]
async fn the_schedule_measures_its_own_service_level() {
    let fixture = testing::fixture("2026-03-01T10:00:30Z");
    let supervisor = start(&fixture, vec![task("fine", fine)]).await;
    look_at(&fixture, "2026-03-01T10:01:00Z").await;
    all_ended(&fixture, "fine", 1).await;
    look_at(&fixture, "2026-03-01T10:04:00Z").await;
    all_ended(&fixture, "fine", 4).await;
    let level = level(&fixture.env, "2026-03-01T10:00:00Z".parse().unwrap()).await.unwrap();
    let fine = &level.tasks["fine"];
    assert_eq!((fine.due, fine.on_time, fine.missed, level.status), (4, 2, 2, "FAIL"));
    assert_eq!(fine.lateness.within_10_ms, 2);
    supervisor.stop().await;
}

/// The niceness of the thread it works on (proc_pid_stat(5), field 19).
fn how_nice(_: Run) -> Boxed<Result<Record>> {
    Box::pin(async {
        let stat = std::fs::read_to_string("/proc/thread-self/stat")?;
        let nice: i64 = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(16)?.parse().ok()).unwrap_or(-1);
        let blocking = tokio::task::spawn_blocking(|| std::thread::current().name().map(str::to_owned)).await.ok().flatten();
        Ok(Record::from_iter([("nice".to_owned(), json!(nice)), ("thread".to_owned(), json!(blocking))]))
    })
}

#[tokio::test]
async fn runs_work_on_threads_of_lower_priority_and_leave_the_others_alone() {
    let fixture = testing::fixture("2026-03-01T10:00:30Z");
    let supervisor = start(&fixture, vec![task("nice", how_nice)]).await;
    let run_id = run_now(&fixture.env, "nice", "ada").await.unwrap();
    all_ended(&fixture, "nice", 1).await;
    let result = &whole_run(&fixture.env, &run_id).await.unwrap()["result"];
    assert_eq!((&result["nice"], &result["thread"]), (&json!(10), &json!("run")), "also what it does on further threads: {result}");
    let ours = crate::env::blocking(|| Ok(std::fs::read_to_string("/proc/thread-self/stat")?)).await.unwrap();
    assert_eq!(ours.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(16)), Some("0"), "a thread of the daemon's own");
    supervisor.stop().await;
}

#[tokio::test]
async fn a_pause_until_a_slot_lets_that_slot_run() {
    let fixture = testing::fixture("2026-03-01T10:00:30Z");
    let supervisor = start(&fixture, vec![task("fine", fine)]).await;
    pause(&fixture.env, "fine", "me", "x", Some("2026-03-01T10:01:00Z".parse().unwrap())).await.unwrap();
    look_at(&fixture, "2026-03-01T10:01:01Z").await;
    all_ended(&fixture, "fine", 1).await;
    let got = slots(&fixture, "fine").await;
    supervisor.stop().await;
    assert_eq!(got, [row("10:01", "schedule", "succeeded", None)]);
}

#[tokio::test]
async fn a_run_of_ours_that_nobody_carries_out_gives_its_place_back() {
    let fixture = testing::reopen(tempfile::tempdir().unwrap(), "2026-03-01T10:00:30Z", |c| c.timer.lease_s = 3);
    let supervisor = start(&fixture, vec![task("fine", fine)]).await;
    // As after a minute in which the store took no end.
    assert_eq!(claim(&fixture, "run_lost", "fine", "2026-03-01T10:00:00Z", "running").await, Claim::Begun);
    assert_eq!(run_now(&fixture.env, "fine", "ada").await.unwrap_err().reason, "already_running");
    until("the next renewal sees it", || async { fixture.env.store().run("run_lost").await.unwrap().unwrap().state == "failed" }).await;
    run_now(&fixture.env, "fine", "ada").await.unwrap();
    supervisor.stop().await;
}

fn two_seconds(_: Run) -> Boxed<Result<Record>> {
    Box::pin(async {
        tokio::time::sleep(Duration::from_millis(2500)).await;
        Ok(Record::new())
    })
}

static COUNT: AtomicU32 = AtomicU32::new(0);
fn counted(_: Run) -> Boxed<Result<Record>> {
    Box::pin(async {
        COUNT.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(Record::new())
    })
}
fn half(_: Run) -> Boxed<Result<Record>> {
    Box::pin(async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(Record::new())
    })
}

static TWICE: AtomicU32 = AtomicU32::new(0);
fn long(_: Run) -> Boxed<Result<Record>> {
    Box::pin(async {
        TWICE.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(6)).await;
        Ok(Record::new())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_wakes_up_and_one_that_took_its_lease_do_not_both_run_a_slot() {
    let mut a = testing::reopen_as(tempfile::tempdir().unwrap(), "2026-03-01T10:00:30Z", "node_a", |_| {});
    let folder = std::mem::replace(&mut a.folder, tempfile::tempdir().unwrap());
    let b = testing::reopen_as(folder, "2026-03-01T10:00:30Z", "node_b", |c| c.timer.lease_s = 3);
    let table = || {
        let mut t = task("long", long);
        t.policy.retries = 1;
        vec![t]
    };
    let (sa, sb) = (start(&a, table()).await, start(&b, table()).await);
    tokio::time::sleep(Duration::from_millis(200)).await;
    // What B does after A has slept for a lease.
    for n in b.env.store().nodes().await.unwrap().into_iter().filter(|n| n.node == "node_a") {
        b.env.store().end_lease(&n.incarnation, n.lease).await.unwrap();
    }
    look_at(&a, "2026-03-01T10:01:00Z").await; // A wakes up
    tokio::time::sleep(Duration::from_secs(5)).await;
    let twice = TWICE.load(Ordering::SeqCst);
    sa.stop().await;
    sb.stop().await;
    assert_eq!(twice, 1);
}

async fn dependent(change: impl FnOnce(&mut TaskSpec)) -> Vec<(String, Option<String>, Option<String>)> {
    let fixture = testing::fixture("2026-03-01T10:00:30Z");
    let mut b = task("b", half).after(After { task: "a", within: chrono::TimeDelta::hours(24), wait: Duration::from_secs(20) });
    b.policy.timeout = Duration::from_secs(2);
    change(&mut b);
    let supervisor = start(&fixture, vec![task("a", two_seconds), b]).await;
    look_at(&fixture, "2026-03-01T10:01:00Z").await;
    all_ended(&fixture, "b", 1).await;
    let rows = fixture.env.store().runs("b", None, 0, 9).await.unwrap();
    supervisor.stop().await;
    rows.into_iter().map(|r| (r.state, r.reason, r.error)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_another_task_costs_no_time_of_its_own() {
    assert_eq!(dependent(|_| {}).await, [("succeeded".to_owned(), None, None)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_may_overlap_may_also_wait_for_another() {
    let got = dependent(|b| {
        b.work = Some(counted);
        (b.policy.overlap, b.policy.timeout) = (Overlap::Allow, Duration::from_mins(1));
    })
    .await;
    assert_eq!((got, COUNT.load(Ordering::SeqCst)), (vec![("succeeded".to_owned(), None, None)], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_lease_nothing_is_claimed() {
    let fixture = testing::fixture("2026-03-01T10:00:30Z");
    let supervisor = start(&fixture, vec![task("fine", never_ends)]).await;
    // The machine sleeps; another node sees the lease stand still and ends it. Then it wakes up (the monotonic clock slept too).
    tokio::time::sleep(Duration::from_millis(200)).await;
    for node in fixture.env.store().nodes().await.unwrap() {
        assert!(fixture.env.store().end_lease(&node.incarnation, node.lease).await.unwrap());
    }
    look_at(&fixture, "2026-03-01T10:01:00Z").await;
    let rows = fixture.env.store().runs("fine", None, 0, 9).await.unwrap();
    let nodes = fixture.env.store().nodes().await.unwrap();
    for r in &rows {
        let _ = cancel(&fixture.env, &r.run_id, "me").await;
    }
    supervisor.stop().await;
    assert!(rows.iter().all(|r| r.state != "running") || !nodes.is_empty(), "{rows:?} {nodes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_only_looks_begins_and_ends_nobodys_run() {
    let fixture = testing::fixture("2026-03-01T00:30:00Z");
    claim(&fixture, "run_backup", "backup", "2026-03-01T00:30:00Z", "running").await;
    fixture.env.store().close().await.unwrap(); // killed
    let table = || {
        let mut t = task("backup", never_ends);
        t.policy.retries = 2;
        t.policy.catch_up = CatchUp::Once;
        vec![t]
    };
    // `echopilot task list` while no daemon runs: Mode::Offline is timer.enabled = false.
    let fixture = testing::reopen(fixture.folder, "2026-03-01T00:31:00Z", |c| c.timer.enabled = false);
    let supervisor = start(&fixture, table()).await;
    supervisor.stop().await;
    let row = fixture.env.store().run("run_backup").await.unwrap().unwrap();
    assert_ne!((row.state.as_str(), row.error.as_deref()), ("cancelled", Some("the daemon stopped before the run had ended")));
}

#[tokio::test(flavor = "multi_thread")]
async fn history_kept_for_ever_does_not_end_the_lease() {
    let fixture = testing::reopen(tempfile::tempdir().unwrap(), "2026-03-01T00:30:00Z", |c| {
        (c.timer.history_days, c.timer.lease_s) = (99_999_999, 3);
    });
    let supervisor = start(&fixture, vec![task("fine", fine)]).await;
    tokio::time::sleep(Duration::from_millis(1300)).await;
    let before = fixture.env.store().nodes().await.unwrap()[0].lease;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let after = fixture.env.store().nodes().await.unwrap()[0].lease;
    supervisor.stop().await;
    assert!(after > before, "{before} {after}");
}

#[tokio::test]
async fn a_pause_that_was_refused_pauses_nothing() {
    let fixture = testing::fixture("2026-03-01T10:00:55Z");
    let supervisor = start(&fixture, vec![task("fine", fine)]).await;
    let refused = pause(&fixture.env, "fine", "me", "x", Some("2026-03-01T09:00:00Z".parse().unwrap())).await;
    assert!(refused.is_err());
    look_at(&fixture, "2026-03-01T10:01:00Z").await;
    all_ended(&fixture, "fine", 1).await;
    let got = slots(&fixture, "fine").await;
    supervisor.stop().await;
    assert_eq!(got, [row("10:01", "schedule", "succeeded", None)]);
}

#[tokio::test]
async fn a_task_waits_for_the_one_before_it_only_so_long_and_then_says_why_it_did_not_run() {
    let fixture = testing::fixture("2026-03-01T10:00:30Z");
    let after = After { task: "first", within: chrono::TimeDelta::hours(1), wait: Duration::from_millis(50) };
    let supervisor = start(&fixture, vec![task("first", never_ends), task("second", fine).after(after)]).await;
    look_at(&fixture, "2026-03-01T10:01:00Z").await;
    all_ended(&fixture, "second", 1).await;
    assert_eq!(slots(&fixture, "second").await, [row("10:01", "schedule", "skipped", Some("dependency"))]);
    let run = &fixture.env.store().runs("second", None, 0, 1).await.unwrap()[0];
    assert!(run.error.as_deref().is_some_and(|e| e.contains("first had not ended after")), "{:?}", run.error);
    supervisor.stop().await;
}
