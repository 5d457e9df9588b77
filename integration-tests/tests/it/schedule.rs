//! The schedule of a running daemon: slots are due by the epoch, each has one row, a restart neither loses nor doubles one.

use std::{collections::BTreeSet, time::Duration};

use integration_tests::{LONG, json_file, until};

use crate::setup;

#[test]
fn every_due_slot_has_one_row_and_planned_tasks_have_none() {
    let daemon = setup().schedule().start();
    let sql = "SELECT COUNT(*) FROM task_run WHERE task = 'heartbeat' AND cause <> 'manual' AND state = 'succeeded'";
    // A minute passes by the epoch at most 60 s after any start.
    until("the first minute to be recorded", Duration::from_secs(80), || (daemon.setup().count(sql) >= 1).then_some(()));
    let beat = json_file(&daemon.setup().logs("heartbeat.json"));
    assert_eq!(beat["ok"], true, "{beat}");
    let slots = daemon.setup().column("SELECT task || ' ' || slot FROM task_run WHERE cause <> 'manual'");
    assert_eq!(slots.len(), slots.iter().collect::<BTreeSet<_>>().len(), "(task, slot) is unique");
    let odd = "SELECT COUNT(*) FROM task_run WHERE task = 'heartbeat' AND cause = 'schedule' AND slot % 60000000 <> 0";
    assert_eq!(daemon.setup().count(odd), 0, "anchored to the epoch, not to the start");
    let planned = "SELECT COUNT(*) FROM task_run WHERE task IN ('ceo_brief', 'churn_ai', 'support_inbox', 'pricing_ai')";
    assert_eq!(daemon.setup().count(planned), 0, "no stub runs");
    let before: BTreeSet<_> = daemon.setup().column("SELECT run_id FROM task_run WHERE cause <> 'manual'").into_iter().collect();
    let daemon = daemon.kill9().start();
    until("the next minute after the crash", Duration::from_secs(80), || (daemon.setup().count(sql) >= 2).then_some(()));
    let after: BTreeSet<_> = daemon.setup().column("SELECT run_id FROM task_run WHERE cause <> 'manual'").into_iter().collect();
    assert!(before.is_subset(&after), "history survives");
    let minutes = "SELECT (MAX(slot) - MIN(slot)) / 60000000 + 1 - COUNT(*) FROM task_run WHERE task = 'heartbeat' AND cause <> 'manual'";
    assert_eq!(daemon.setup().count(minutes), 0, "no minute between the first and the last is without its row");
}

/// What became of the heartbeat's slots: slots without a row between the first and the last, rows by state, and how many processes served.
fn seconds(setup: &integration_tests::Setup) -> (i64, Vec<String>, i64) {
    let rows = "FROM task_run WHERE task = 'heartbeat' AND cause <> 'manual'";
    let gaps = setup.count(&format!("SELECT (MAX(slot) - MIN(slot)) / 1000000 + 1 - COUNT(*) {rows}"));
    let states = setup.column(&format!("SELECT state || ' ' || COUNT(*) {rows} GROUP BY state"));
    let processes = setup.count(&format!("SELECT COUNT(DISTINCT incarnation) {rows} AND state = 'succeeded'"));
    (gaps, states, processes)
}

#[test]
fn two_daemons_on_one_database_share_the_schedule_and_one_goes_on_when_the_other_is_killed() {
    let busy = |setup: integration_tests::Setup| {
        setup.schedule().env("ECHOPILOT__TASKS__HEARTBEAT__SCHEDULE", "every 1 s").env("ECHOPILOT__TIMER__LEASE_S", "3")
    };
    let one = busy(setup()).start();
    let url = format!("sqlite:{}", one.setup().data("echopilot.db").display());
    let two = busy(setup()).env("ECHOPILOT__DATABASE__URL", url).start();
    let served = "SELECT COUNT(*) FROM task_run WHERE task = 'heartbeat' AND state = 'succeeded'";
    until("both to serve", LONG, || (one.setup().count(served) >= 8 && seconds(one.setup()).2 == 2).then_some(()));
    let (gaps, states, _) = seconds(one.setup());
    assert_eq!(gaps, 0, "a row for every second, by either: {states:?}");
    // A run of the one that nothing ends: the other gives it its end when the lease has stood still.
    let dead = one.kill9();
    let connection = rusqlite::Connection::open(dead.data("echopilot.db")).expect("the database");
    connection.busy_timeout(Duration::from_secs(10)).expect("a busy timeout");
    let left = "INSERT INTO task_run (run_id, task, slot, cause, state, incarnation, attempts, holds, started_at)
        SELECT 'run_left', 'slo_monitor', 0, 'schedule', 'running', incarnation, 3, 1, 0 FROM node WHERE node <> ?1";
    let node_of_two = std::fs::read_to_string(two.setup().data("node")).expect("its name");
    let inserted = connection.execute(left, [&node_of_two.trim()[..21]]).expect("a run of the dead");
    assert_eq!(inserted, 1, "the lease of the dead one is still there");
    let before = dead.count(served);
    until("the other to go on", LONG, || (dead.count(served) >= before + 5).then_some(()));
    until("the run of the dead to have its end", LONG, || {
        (dead.column("SELECT state || ': ' || COALESCE(error, '') FROM task_run WHERE run_id = 'run_left'")
            == ["failed: the process ended while it ran"])
        .then_some(())
    });
    let (gaps, states, _) = seconds(&dead);
    assert_eq!(gaps, 0, "{states:?}");
    assert!(!states.iter().any(|s| s.starts_with("missed")), "somebody was there all the time: {states:?}");
    two.stop();
}
