//! The schedule of a running daemon: slots are due by the epoch, each has one row, a restart neither loses nor doubles one.

use std::{collections::BTreeSet, time::Duration};

use integration_tests::{json_file, until};

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
    let planned = "SELECT COUNT(*) FROM task_run WHERE task IN ('ceo_brief', 'churn_ai', 'support_inbox', 'incident_scanner')";
    assert_eq!(daemon.setup().count(planned), 0, "no stub runs");
    let before: BTreeSet<_> = daemon.setup().column("SELECT run_id FROM task_run WHERE cause <> 'manual'").into_iter().collect();
    let daemon = daemon.kill9().start();
    until("the next minute after the crash", Duration::from_secs(80), || (daemon.setup().count(sql) >= 2).then_some(()));
    let after: BTreeSet<_> = daemon.setup().column("SELECT run_id FROM task_run WHERE cause <> 'manual'").into_iter().collect();
    assert!(before.is_subset(&after), "history survives");
    let minutes = "SELECT (MAX(slot) - MIN(slot)) / 60000000 + 1 - COUNT(*) FROM task_run WHERE task = 'heartbeat' AND cause <> 'manual'";
    assert_eq!(daemon.setup().count(minutes), 0, "no minute between the first and the last is without its row");
}
