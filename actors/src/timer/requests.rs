//! What people ask of the timer: a run now, a cancel, a pause, slots of the past. Each is carried out in a task of its own (`Desk::apart`).

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::json;

use super::desk::{Desk, SCHEDULE};
use crate::{
    alert,
    domain::alert_rule::{Check, Severity},
    env::{Env, rfc3339},
    error::{Error, Result},
    store::{Claim, NewRun, Pause, Place},
};

/// Slots in one backfill at most.
const MAX_BACKFILL: usize = 1000;

/// A request to run slots of the past.
#[derive(Clone, Debug)]
pub struct Backfill {
    pub task: String,
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    /// Also those that ran and failed, timed out or were cancelled.
    pub redo_failed: bool,
    pub dry_run: bool,
    pub asked_by: String,
}

/// What a backfill does, or would do.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Backfilled {
    /// Slots in the range.
    pub slots: usize,
    /// Of them, those that will run now.
    pub queued: usize,
    /// Of them, those that stay as they are: they ran, or wait already.
    pub kept: usize,
    pub dry_run: bool,
}

impl Desk {
    pub(super) async fn run_by_hand(&self, task: &str, asked_by: String) -> Result<String> {
        let spec = self.built(task)?;
        if self.floor.is_stuck(spec.name) {
            return Err(Error::conflict(
                "already_running",
                format!("an earlier run of {task} was told to end and still blocks its thread"),
            ));
        }
        let place = Place::Now(spec.policy.overlap);
        let (claim, run_id) = self.claim_and_start(spec, self.env.now(), "manual", Some(asked_by), place, None).await?;
        if claim == Claim::Begun {
            return Ok(run_id);
        }
        let error = Error::conflict("already_running", format!("{task} is running"));
        Err(match self.env.store().run_in_place(task).await? {
            Some(other) => error.with("run_id", other.run_id),
            None => error,
        })
    }

    pub(super) async fn cancel(&self, run_id: &str, asked_by: &str) -> Result<String> {
        let fact = self.env.fact("run.cancel_asked", run_id, json!({"asked_by": asked_by}));
        match self.env.store().cancel(run_id, asked_by, self.env.now(), fact).await?.as_deref() {
            Some("cancelled") => {
                self.floor.tell(run_id, &format!("cancelled by {asked_by}"));
                Ok("cancelled".into())
            }
            Some(_) => {
                self.floor.tell(run_id, &format!("cancelled by {asked_by}"));
                Ok("cancelling".into())
            }
            None => match self.env.store().run(run_id).await? {
                Some(run) => Err(Error::conflict("ended", format!("the run has ended: {}", run.state))),
                None => Err(Error::not_found("there is no such run")),
            },
        }
    }

    pub(super) async fn pause(&self, pause: Pause) -> Result<()> {
        self.built(&pause.task)?;
        if pause.until.is_some_and(|until| until <= pause.at) {
            return Err(Error::field("until", "until has passed already"));
        }
        let data = json!({"by": pause.by, "why": pause.why, "until": pause.until.map(rfc3339)});
        self.env.store().pause_task(&pause, self.env.fact("task.paused", &pause.task, data)).await
    }

    pub(super) async fn resume(&self, task: &str, asked_by: &str) -> Result<()> {
        self.built(task)?;
        let fact = self.env.fact("task.resumed", task, json!({"by": asked_by}));
        if !self.env.store().resume_task(task, fact).await? {
            return Err(Error::conflict("not_paused", format!("{task} is not paused")));
        }
        // The alert of a task that kept failing ends with its pause; if it cannot be said now, production_alerts says it.
        if let Err(error) = alert::evaluate(&self.env, vec![pause_check(&self.env).await?]).await {
            tracing::warn!(task, %error, "the alert about paused tasks could not be updated");
        }
        Ok(())
    }

    pub(super) async fn backfill(&self, ask: Backfill) -> Result<Backfilled> {
        let spec = self.built(&ask.task)?;
        let now = self.env.now();
        if ask.to > now || ask.from > ask.to {
            return Err(Error::field("to", "a backfill is of the past: from <= to <= now"));
        }
        let slots = spec.schedule.slots(
            ask.from.checked_sub_signed(chrono::TimeDelta::microseconds(1)).unwrap_or(ask.from),
            ask.to,
            MAX_BACKFILL + 1,
        );
        if slots.len() > MAX_BACKFILL {
            return Err(Error::field("from", format!("the range has more than {MAX_BACKFILL} slots: ask for a shorter one")));
        }
        let states: HashMap<_, _> = self.env.store().slot_states(spec.name, ask.from, ask.to).await?.into_iter().collect();
        let runs_again = |slot: &DateTime<Utc>| match states.get(slot).map(String::as_str) {
            None | Some("missed" | "skipped") => true,
            Some("failed" | "timed_out" | "cancelled") => ask.redo_failed,
            Some(_) => false,
        };
        let wanted: Vec<NewRun> = slots
            .iter()
            .filter(|slot| runs_again(slot))
            .map(|slot| NewRun { asked_by: Some(ask.asked_by.clone()), ..self.new_run(spec, *slot, "backfill", "pending", None) })
            .collect();
        let mut queued = wanted.len();
        if !ask.dry_run && !wanted.is_empty() {
            let data = json!({"from": rfc3339(ask.from), "to": rfc3339(ask.to), "slots": wanted.len(), "asked_by": ask.asked_by});
            let fact = self.env.fact("task.backfill", spec.name, data);
            queued = usize::try_from(self.env.store().backfill(&wanted, ask.redo_failed, fact).await?).unwrap_or(queued);
            self.begin_waiting(spec).await?;
        }
        Ok(Backfilled { slots: slots.len(), queued, kept: slots.len() - queued, dry_run: ask.dry_run })
    }
}

/// Bad while a task is paused because it kept failing.
pub(super) async fn pause_check(env: &Env) -> Result<Check> {
    let paused: Vec<Pause> = env.store().pauses(env.now()).await?.into_iter().filter(|p| p.by == SCHEDULE).collect();
    let reason = match paused.as_slice() {
        [] => "no task is paused because it kept failing".to_owned(),
        all => all.iter().map(|p| format!("{} is paused: {}", p.task, p.why)).collect::<Vec<_>>().join("; "),
    };
    Ok(Check {
        name: "tasks_paused".into(),
        system: "jobs",
        ok: Some(paused.is_empty()),
        severity: Severity::Critical,
        value: Some(paused.len().to_string()),
        threshold: "0 tasks".into(),
        reason,
        ..Check::default()
    })
}
