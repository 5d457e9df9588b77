//! Who lives: this process renews its lease, and runs of processes that are gone are given their end or taken over. A process of our own
//! node is gone for certain (the data directory's lock is ours), one of another node when its lease has stood still for too long by
//! our own monotonic clock: a wall clock that jumps takes nobody's runs away.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde_json::json;
use tokio::time::Instant;

use super::{NOUN, ON_TIME_S, desk::Desk};
use crate::{
    domain::schedule::Orphan,
    env::rfc3339,
    error::{Error, Result},
    store::{Attempt, NodeRow, Pause, RunEnd, RunRow},
    task::TaskSpec,
};

const CUT_OFF: &str = "the process ended while it ran";
/// Of a run of a process that lives: the store took no end for too long.
const UNWRITTEN: &str = "its end could not be written down, so what became of it is not known";

/// What a start-up finds in the store.
#[derive(Debug)]
pub struct TakenUp {
    /// The tasks' marks, by their place in the table.
    pub(super) marks: Vec<(usize, DateTime<Utc>)>,
    pub(super) pauses: Vec<Pause>,
}

/// What was looked after because its process is gone.
#[derive(Clone, Debug, Default)]
pub struct LookedAfter {
    /// Incarnations whose lease was ended.
    pub leases: Vec<String>,
    /// Runs that were given their end or taken over.
    pub runs: Vec<RunRow>,
}

/// When each lease of another process was last seen to grow. A memory of this process only.
#[derive(Debug, Default)]
pub(super) struct Watch(Mutex<HashMap<String, (i64, Instant)>>);

impl Watch {
    /// The processes among `nodes` whose lease has not grown for their limit.
    fn stale(&self, nodes: &[NodeRow]) -> Vec<NodeRow> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|incarnation, _| nodes.iter().any(|n| n.incarnation == *incarnation));
        let mut stale = Vec::new();
        for node in nodes {
            let last = seen.entry(node.incarnation.clone()).or_insert((node.lease, Instant::now()));
            if last.0 != node.lease {
                *last = (node.lease, Instant::now());
            } else if last.1.elapsed() >= Duration::from_secs(node.limit_s.unsigned_abs()) {
                stale.push(node.clone());
            }
        }
        stale
    }
}

/// Takes our lease, gives the runs of dead processes their end and reads marks and pauses. A task without a mark begins now.
pub(super) async fn take_up(desk: &Desk) -> Result<TakenUp> {
    let (store, now) = (desk.env.store(), desk.env.now());
    desk.hold_lease(true).await?;
    desk.floor.note_lease();
    look_after_others(desk).await?;
    if !desk.env.config().timer.enabled {
        // A command that is there for a moment: what waits begins in the next daemon, this one would only cut it off.
        return Ok(TakenUp { marks: Vec::new(), pauses: store.pauses(now).await? });
    }
    begin_all_waiting(desk).await?;
    let known: HashMap<String, DateTime<Utc>> = store.task_marks().await?.into_iter().collect();
    let built = || desk.table.iter().enumerate().filter(|(_, s)| s.work.is_some());
    let new: Vec<&str> = built().map(|(_, s)| s.name).filter(|name| !known.contains_key(*name)).collect();
    if !new.is_empty() {
        store.begin_marks(&new, now).await?;
    }
    let mark = |spec: &TaskSpec| known.get(spec.name).map_or(now, |mark| usable(*mark, now - spec.policy.jitter));
    let marks = built().map(|(index, spec)| (index, mark(spec))).collect();
    Ok(TakenUp { marks, pauses: store.pauses(now).await? })
}

/// The mark to begin from: one that lies ahead of the clock was set by a clock that stood wrong, and is not waited for. Slots that come
/// up again have their rows; only those that were written off begin. `now` is the task's own: earlier by its jitter.
pub(super) fn usable(mark: DateTime<Utc>, now: DateTime<Utc>) -> DateTime<Utc> {
    let on_time = now - chrono::TimeDelta::seconds(ON_TIME_S);
    if mark > now { on_time } else { mark }
}

/// Renews our lease, looks after the runs of processes that died, begins what waits and tells runs to end that somebody wants
/// cancelled. Answers the pauses that hold.
pub(super) async fn renew(desk: &Desk) -> Result<Vec<Pause>> {
    let (store, now, incarnation) = (desk.env.store(), desk.env.now(), desk.env.incarnation());
    if !desk.hold_lease(false).await? {
        regain(desk).await?;
    }
    look_after_others(desk).await?;
    for (run_id, by) in store.cancel_requests(incarnation).await? {
        desk.floor.tell(&run_id, &format!("cancelled by {by}"));
    }
    if desk.env.config().timer.enabled {
        begin_all_waiting(desk).await?;
    }
    prune(desk).await?;
    store.pauses(now).await
}

/// Takes our lease anew: this process stood still for so long that another node thought it dead. The runs that were given their end or
/// taken over meanwhile are told to end; the others go on.
pub(super) async fn regain(desk: &Desk) -> Result<()> {
    let (store, incarnation) = (desk.env.store(), desk.env.incarnation());
    let first = !desk.floor.had_lease();
    for run_id in desk.floor.run_ids() {
        let row = store.run(&run_id).await?;
        // A run without a row has not been claimed yet.
        if row.is_some_and(|row| row.incarnation != incarnation || !matches!(row.state.as_str(), "pending" | "running")) {
            desk.floor.tell(&run_id, "another node took the run over while this process stood still");
        }
    }
    if !first {
        tracing::error!(actor = NOUN, "the lease was taken away while this process stood still; it is taken anew");
    }
    desk.hold_lease(true).await.map(drop)
}

/// Looks at once, as a start-up does: also at runs under our own lease that nobody carries out, whose end could not be written.
pub(super) async fn look_after(desk: &Desk) -> Result<LookedAfter> {
    if !desk.hold_lease(false).await? {
        // Without a lease our own runs look like those of a process that is gone; the next renewal sets that right.
        return Err(Error::unavailable("no_lease", "this process holds no lease at the moment"));
    }
    let looked_after = look_after_others(desk).await?;
    begin_all_waiting(desk).await?;
    Ok(looked_after)
}

async fn begin_all_waiting(desk: &Desk) -> Result<()> {
    for task in desk.env.store().tasks_waiting().await? {
        if let Some(spec) = desk.table.iter().find(|s| s.name == task && s.work.is_some()) {
            desk.begin_waiting(spec).await?;
        }
    }
    Ok(())
}

/// Ends or takes over the runs of processes that are gone, and those under our own lease that nobody carries out.
async fn look_after_others(desk: &Desk) -> Result<LookedAfter> {
    let (store, me) = (desk.env.store(), desk.env.incarnation());
    let nodes = store.nodes().await?;
    let (mut gone, others): (Vec<_>, Vec<_>) = nodes.into_iter().filter(|n| n.incarnation != me).partition(|n| n.node == desk.env.node());
    let mut looked_after = LookedAfter::default();
    gone.extend(desk.floor.watch.stale(&others));
    for node in &gone {
        if !store.end_lease(&node.incarnation, node.lease).await? {
            continue; // it lives after all, or another node is looking after it
        }
        tracing::warn!(actor = NOUN, incarnation = node.incarnation, node = node.node, "a process that held runs is gone");
        looked_after.leases.push(node.incarnation.clone());
    }
    let handing = desk.floor.handing.lock().await;
    // The runs first: whoever holds one of them took its lease before, also a process that has only just begun.
    let open = store.open_runs().await?;
    let living: Vec<String> = store.nodes().await?.into_iter().map(|n| n.incarnation).collect();
    let mut orphans = Vec::new();
    for run in open {
        let waits_for_its_turn = run.state == "pending" && run.reason.as_deref() != Some("dependency");
        let nobody_has_it = run.incarnation == me && !waits_for_its_turn && !desk.floor.has(&run.run_id);
        if nobody_has_it || !living.contains(&run.incarnation) {
            orphans.push(run);
        }
    }
    drop(handing);
    for run in orphans {
        if resolve(desk, &run).await? {
            looked_after.runs.push(run);
        }
    }
    Ok(looked_after)
}

/// Gives a run whose process is gone what its task's policy says; false if it has its end already.
async fn resolve(desk: &Desk, run: &RunRow) -> Result<bool> {
    let (env, now) = (&desk.env, desk.env.now());
    let running = run.state == "running";
    // One that waits may have begun before: it was taken over once already.
    let begun = u32::try_from(run.attempts).unwrap_or(1).max(u32::from(running));
    let scheduled = matches!(run.cause.as_str(), "schedule" | "catch_up");
    let spec = desk.table.iter().find(|s| s.name == run.task && s.work.is_some());
    let cancelled = running && desk.env.store().is_cancel_asked(&run.run_id).await?;
    let fate = match spec {
        Some(spec) if !cancelled => spec.policy.orphan(begun, scheduled, run.slot, now, ON_TIME_S),
        _ => Orphan::Fail, // a task that is not in the table any more, or a run that was to end anyway
    };
    let why = if run.incarnation == env.incarnation() { UNWRITTEN } else { CUT_OFF };
    let cut_off = running.then(|| Attempt {
        attempt: begun,
        state: "failed",
        error: why.into(),
        is_retryable: true,
        started_at: run.started_at.unwrap_or(now),
        ended_at: now,
    });
    let fact = |kind, state: &str| {
        env.fact(kind, &run.run_id, json!({"task": run.task, "slot": rfc3339(run.slot), "of": run.incarnation, "state": state}))
    };
    let done = match fate {
        Orphan::TakeOver => {
            let done = env.store().take_over(run, env.incarnation(), cut_off.as_ref(), fact("run.taken_over", "pending")).await?;
            if let (true, Some(spec)) = (done, spec) {
                desk.floor.wait(spec.name);
            }
            done
        }
        Orphan::Fail | Orphan::Miss => {
            let state = match fate {
                _ if cancelled => "cancelled",
                Orphan::Miss => "missed",
                _ => "failed",
            };
            let error = if begun == 0 { "the process ended before it began" } else { why };
            let end = RunEnd {
                state,
                reason: None,
                attempts: begun,
                began: None,
                ended_at: now,
                error: Some(error.into()),
                result: None,
                last_attempt: cut_off,
            };
            env.store().end_run(&run.run_id, &run.incarnation, &end, fact("run.orphaned", state)).await?
        }
    };
    if done {
        tracing::warn!(
            actor = NOUN,
            task = run.task,
            run_id = run.run_id,
            of = run.incarnation,
            ?fate,
            "a run without a process was looked after"
        );
    }
    Ok(done)
}

/// Forgets history that is old enough, a little at a time.
async fn prune(desk: &Desk) -> Result<()> {
    let (limits, now) = (&desk.env.config().timer, desk.env.now());
    if !desk.floor.prune_due() {
        return Ok(());
    }
    let days = |n: i64| chrono::TimeDelta::try_days(n).and_then(|span| now.checked_sub_signed(span)).unwrap_or(DateTime::<Utc>::MIN_UTC);
    let gone = desk.env.store().prune_runs(days(limits.history_days), days(limits.result_days), 5000).await?;
    if gone > 0 {
        tracing::info!(actor = NOUN, rows = gone, history_days = limits.history_days, "old runs were forgotten");
    }
    Ok(())
}
