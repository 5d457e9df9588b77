//! The model of the ledger against the ledger: the same random steps on both must have the same outcomes and leave the same rows.

use serde_json::json;

use super::{
    model::{Ledger, Slot},
    random::Random,
};
use crate::{
    domain::schedule::Overlap,
    store::{NewRun, Pause, Place, RunEnd, RunRow, Store},
};

const TASK: &str = "t";
const STATES: [&str; 4] = ["succeeded", "failed", "timed_out", "cancelled"];

fn at(slot: Slot) -> chrono::DateTime<chrono::Utc> {
    chrono::DateTime::from_timestamp_micros(slot).unwrap()
}

fn fact() -> crate::store::engine::Fact {
    crate::store::engine::Fact { at: at(0), kind: "test", subject: "x".into(), data: json!({}) }
}

fn new_run(random: &mut Random, slot: Slot, incarnation: u32, state: &'static str, reason: Option<&'static str>) -> NewRun {
    NewRun {
        run_id: format!("run_{:x}", random.next()),
        task: TASK.into(),
        slot: at(slot),
        cause: "schedule",
        state,
        reason,
        asked_by: None,
        incarnation: incarnation.to_string(),
        at: at(slot),
        lag_ms: None,
    }
}

async fn row_at(store: &Store, slot: Slot) -> Option<RunRow> {
    store.runs(TASK, None, 0, 100).await.unwrap().into_iter().find(|r| r.slot == at(slot))
}

async fn step(store: &Store, model: &mut Ledger, random: &mut Random) -> String {
    let (slot, incarnation) = ((1 + random.below(6)) as Slot, 1 + random.below(3) as u32);
    match random.below(10) {
        0..=3 => {
            let overlaps = [Overlap::Skip, Overlap::QueueOne, Overlap::CancelOther, Overlap::Allow];
            let place = overlaps.get(random.below(5) as usize).map_or(Place::InLine, |o| Place::Now(*o));
            let run = new_run(random, slot, incarnation, "running", None);
            let claim = store.claim_run(&run, place, fact()).await.unwrap();
            assert_eq!(claim, model.claim(0, slot, "schedule", place, incarnation), "claim {slot} {place:?}");
            format!("claim {slot} {place:?} by {incarnation}: {claim:?}")
        }
        4 => {
            let rows = [(slot, "missed", None), (slot + 1, "skipped", Some("catch_up"))];
            let new: Vec<NewRun> = rows.iter().map(|(slot, state, reason)| new_run(random, *slot, incarnation, state, *reason)).collect();
            store.close_slots(TASK, &new, at(slot + 1)).await.unwrap();
            model.close(0, &rows, incarnation, slot + 1);
            format!("close {slot} and the next")
        }
        5 => {
            let state = STATES[random.below(4) as usize];
            let end =
                RunEnd { state, reason: None, attempts: 1, began: None, ended_at: at(slot), error: None, result: None, last_attempt: None };
            let run_id = row_at(store, slot).await.map_or_else(|| "nobody".into(), |r| r.run_id);
            // The number of attempts is the caller's; the model leaves it.
            let ended = store.end_run(&run_id, &incarnation.to_string(), &end, fact()).await.unwrap();
            assert_eq!(ended, model.end(0, slot, incarnation, state), "end {slot} by {incarnation}");
            format!("end {slot} by {incarnation}: {ended}")
        }
        6 => {
            let begun = store.begin_waiting(TASK, &incarnation.to_string(), at(slot), false).await.unwrap();
            let begun = begun.map(|r| (r.slot.timestamp_micros(), r.attempts as u32));
            assert_eq!(begun, model.begin_waiting(0, incarnation), "begin_waiting by {incarnation}");
            format!("begin_waiting by {incarnation}: {begun:?}")
        }
        7 => {
            let Some(row) = row_at(store, slot).await else { return "nothing".into() };
            let from: u32 = row.incarnation.parse().unwrap();
            let taken = store.take_over(&row, &incarnation.to_string(), None, fact()).await.unwrap();
            assert_eq!(taken, model.take_over(0, slot, from, incarnation), "take over {slot}");
            format!("take over {slot} from {from} to {incarnation}: {taken}")
        }
        8 => {
            let (name, lease) = (incarnation.to_string(), model.leases.get(&incarnation).map(|(_, lease)| *lease));
            if let Some(lease) = lease {
                assert!(store.end_lease(&name, lease).await.unwrap());
                model.leases.remove(&incarnation);
            } else {
                assert!(store.renew_lease(&name, "node", 3, at(slot), true).await.unwrap());
                model.leases.insert(incarnation, (0, 1));
            }
            format!("lease of {incarnation}: {lease:?}")
        }
        _ => {
            model.tasks[0].paused = !model.tasks[0].paused;
            if model.tasks[0].paused {
                let pause = Pause { task: TASK.into(), at: at(0), by: "x".into(), why: "x".into(), until: None };
                store.pause_task(&pause, fact()).await.unwrap();
            } else {
                assert!(store.resume_task(TASK, fact()).await.unwrap());
            }
            format!("paused: {}", model.tasks[0].paused)
        }
    }
}

#[tokio::test]
async fn the_model_of_the_ledger_does_what_the_ledger_does() {
    let folder = tempfile::tempdir().unwrap();
    for seed in 0..60 {
        let store = Store::open(&folder.path().join(format!("{seed}.db")), "test").unwrap();
        let (mut model, mut random, mut steps) = (Ledger::new(1), Random::new(seed), Vec::new());
        for incarnation in 1..=3 {
            store.renew_lease(&incarnation.to_string(), "node", 3, at(0), true).await.unwrap();
            model.leases.insert(incarnation, (0, 1));
        }
        for _ in 0..40 {
            steps.push(step(&store, &mut model, &mut random).await);
            let real = store.runs(TASK, None, 0, 100).await.unwrap();
            let task = &model.tasks[0];
            assert_eq!(real.len(), task.rows.len(), "seed {seed}: {steps:#?}");
            for row in real {
                let modelled = &task.rows[&row.slot.timestamp_micros()];
                let same = (modelled.state, modelled.reason) == (row.state.as_str(), row.reason.as_deref());
                assert!(same && modelled.incarnation.to_string() == row.incarnation, "seed {seed}: {steps:#?}\n{row:?}\n{modelled:?}");
            }
            let mark = store.task_marks().await.unwrap().first().map(|(_, mark)| mark.timestamp_micros());
            assert_eq!(mark, task.mark, "seed {seed}: {steps:#?}");
        }
        store.close().await.unwrap();
    }
}
