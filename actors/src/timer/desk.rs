//! Where the timer's decisions become rows and runs: rounds are written into the occurrence ledger, claimed slots are started, and the
//! requests of people are carried out. Everything here runs in tasks of its own, never in the actor's mailbox.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use serde_json::json;
use tokio::time::Instant;

use super::{NOUN, floor::Floor, lease, requests::pause_check};
use crate::{
    actor::{self, Reply},
    alert,
    domain::{
        schedule::{Decision, Fate, Overlap, Round},
        slo::Minute,
    },
    env::{Env, rfc3339},
    error::{Error, Result},
    execution::{self, Cancel, Ended},
    store::{Claim, NewRun, Place, RunEnd, RunRow, engine::Fact},
    task::{Run, TaskSpec},
};

/// Who pauses a task that keeps failing.
pub(super) const SCHEDULE: &str = "schedule";
/// How long cancelled runs may take to write their end at a stop.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(1500);

/// New marks, each with its task's place in the table.
pub type Marks = Vec<(usize, DateTime<Utc>)>;

/// What every piece of work of the timer needs.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    pub(super) env: Env,
    pub(super) table: Arc<Vec<TaskSpec>>,
    pub(super) floor: Arc<Floor>,
}

impl Desk {
    /// Does something outside the mailbox and answers when it is done.
    pub(super) fn apart<T: Send + 'static, F: Future<Output = Result<T>> + Send + 'static>(
        &self,
        reply: Reply<T>,
        work: impl FnOnce(Self) -> F,
    ) {
        let work = work(self.clone());
        tokio::spawn(async move { actor::respond(reply, work.await) });
    }

    /// Errors: `not_found`.
    pub(super) fn spec(&self, task: &str) -> Result<&TaskSpec> {
        self.table.iter().find(|s| s.name == task).ok_or_else(|| Error::not_found(format!("there is no task called {task}")))
    }

    /// Errors: `not_found`, `conflict` with reason `planned`.
    pub(super) fn built(&self, task: &str) -> Result<&TaskSpec> {
        let spec = self.spec(task)?;
        if spec.work.is_some() { Ok(spec) } else { Err(Error::conflict("planned", format!("{task} is planned and cannot run yet"))) }
    }

    /// Renews our lease, or takes it (`first`); false if it had been taken away.
    pub(super) async fn hold_lease(&self, first: bool) -> Result<bool> {
        let limit_s = i64::try_from(self.env.config().timer.lease_s).unwrap_or(i64::MAX);
        self.env.store().renew_lease(self.env.incarnation(), self.env.node(), limit_s, self.env.now(), first).await
    }

    pub(super) fn renew_every(&self) -> Duration {
        Duration::from_secs(self.env.config().timer.lease_s) / 3
    }

    /// Writes rounds into the ledger and starts what they say. Answers the new marks, and the first error if not all could be written: those
    /// come again. A crash or an error in between is harmless: the unique (task, slot) makes the repetition find its own rows.
    pub(super) async fn follow(&self, rounds: Vec<Round>) -> (Marks, Result<()>) {
        let mut result = Ok(());
        let mut marks = Vec::with_capacity(rounds.len());
        // Each to its end, whatever becomes of the others: a claim that is dropped half-way would be a run that nobody carries out.
        for done in join_all(rounds.into_iter().map(|round| self.follow_one(round))).await {
            match done {
                Ok(mark) => marks.push(mark),
                Err(error) => result = result.and(Err(error)),
            }
        }
        (marks, result)
    }

    async fn follow_one(&self, round: Round) -> Result<(usize, DateTime<Utc>)> {
        let spec = &self.table[round.index];
        let starts: Vec<&Decision> = round.decisions.iter().filter(|d| d.fate == Fate::Run).collect();
        // Several at once are a backlog that is made up for: one after the other, unless the task's runs may overlap.
        let place = if starts.len() > 1 && spec.policy.overlap != Overlap::Allow { Place::InLine } else { Place::Now(spec.policy.overlap) };
        let stuck = self.floor.is_stuck(spec.name) && spec.policy.overlap != Overlap::Allow;
        if let ([only], false) = (round.decisions.as_slice(), stuck)
            && only.fate == Fate::Run
        {
            self.claim_and_start(spec, only.slot, only.cause, None, place, Some(round.through)).await?;
            return Ok((round.index, round.through));
        }
        let mut closed = Vec::new();
        for decision in &round.decisions {
            match decision.fate {
                Fate::Run if stuck => closed.push(self.new_run(spec, decision.slot, decision.cause, "skipped", Some("overlap"))),
                Fate::Run => {}
                Fate::Skip(reason) => closed.push(self.new_run(spec, decision.slot, decision.cause, "skipped", Some(reason))),
                Fate::Miss => closed.push(self.new_run(spec, decision.slot, decision.cause, "missed", None)),
            }
        }
        if !stuck {
            for claim in join_all(starts.iter().map(|d| self.claim_and_start(spec, d.slot, d.cause, None, place, None))).await {
                claim?;
            }
        }
        if place == Place::InLine {
            self.begin_waiting(spec).await?;
        }
        let missed = closed.iter().filter(|r| r.state == "missed").count();
        self.env.store().close_slots(spec.name, &closed, round.through).await?;
        if missed > 0 {
            self.env.meter().record_many("tasks", Minute::of(self.env.now()), 0, true, missed as u64);
            tracing::warn!(task = spec.name, missed, through = rfc3339(round.through), "slots were missed");
        }
        Ok((round.index, round.through))
    }

    /// Claims a slot and starts its run if the ledger says so; with `through`, the task's mark moves with it. Answers what became of it,
    /// and the run's id.
    pub(super) async fn claim_and_start(
        &self,
        spec: &TaskSpec,
        slot: DateTime<Utc>,
        cause: &'static str,
        asked_by: Option<String>,
        place: Place,
        through: Option<DateTime<Utc>>,
    ) -> Result<(Claim, String)> {
        let waits = spec.after.is_some() && cause != "manual";
        let (state, reason) = if waits { ("pending", Some("dependency")) } else { ("running", None) };
        let mut row = self.new_run(spec, slot, cause, state, reason);
        row.asked_by.clone_from(&asked_by);
        row.lag_ms = Some((row.at - slot - spec.policy.jitter).num_milliseconds().max(0));
        let cancel = self.floor.enter(&row.run_id, spec.name);
        let claim = if self.floor.is_closed() {
            Err(Error::unavailable("stopping", "the daemon is stopping"))
        } else {
            let data = json!({"task": spec.name, "slot": rfc3339(slot), "cause": cause, "asked_by": asked_by});
            let fact = self.env.fact("run.claimed", &row.run_id, data);
            match self.claim(&row, place, through, fact.clone()).await {
                // Nothing begins without a lease: another node would take it for a dead process's.
                Ok(Claim::NoLease) => match lease::regain(self).await {
                    Ok(()) => self.claim(&row, place, through, fact).await,
                    Err(error) => Err(error),
                },
                claim => claim,
            }
        };
        match claim {
            Ok(Claim::Begun) => {
                if matches!(cause, "schedule" | "catch_up") {
                    let late_us = row.lag_ms.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0).saturating_mul(1000);
                    self.env.meter().record("tasks", row.at, late_us, false);
                }
                self.start(spec, self.run(&row.run_id, slot, cause, asked_by, 1), waits, cancel);
            }
            Ok(Claim::Queued) => {
                self.floor.leave(&row.run_id);
                self.floor.wait(spec.name);
                if place == Place::Now(Overlap::CancelOther) {
                    self.cancel_running(spec, &format!("the slot of {} replaces it", rfc3339(slot))).await?;
                }
            }
            Ok(_) | Err(_) => self.floor.leave(&row.run_id),
        }
        if matches!(claim, Ok(Claim::NoLease)) {
            return Err(Error::unavailable("no_lease", "the lease of this process was taken away again"));
        }
        claim.map(|claim| (claim, row.run_id))
    }

    async fn claim(&self, row: &NewRun, place: Place, through: Option<DateTime<Utc>>, fact: Fact) -> Result<Claim> {
        match through {
            Some(through) => self.env.store().claim_through(row, place, through, fact).await,
            None => self.env.store().claim_run(row, place, fact).await,
        }
    }

    fn run(&self, run_id: &str, slot: DateTime<Utc>, cause: &'static str, asked_by: Option<String>, attempt: u32) -> Run {
        Run { env: self.env.clone(), run_id: run_id.to_owned(), slot, cause, asked_by, attempt }
    }

    /// Starts a run whose row is ours.
    fn start(&self, spec: &TaskSpec, run: Run, waits: bool, cancel: Cancel) {
        let (desk, spec) = (self.clone(), spec.clone());
        tokio::spawn(async move {
            let run_id = run.run_id.clone();
            let cause = run.cause;
            let ended = execution::carry_out(&spec, run, waits, cancel, desk.floor.workshop.clone()).await;
            desk.floor.leave(&run_id);
            desk.after(&spec, cause, ended).await;
        });
    }

    /// What follows from a run's end: its thread is watched if it is stuck, the next run begins, a task that keeps failing is paused.
    async fn after(&self, spec: &TaskSpec, cause: &'static str, Ended { end, stuck }: Ended) {
        if let Some(thread) = stuck {
            self.floor.hold(spec.name, thread);
        }
        let more = self.floor.take_waiting(spec.name);
        if more && let Err(error) = self.begin_waiting(spec).await {
            self.floor.wait(spec.name); // the next renewal of the lease finds it as well
            tracing::warn!(task = spec.name, %error, "a waiting run could not be begun; trying again");
        }
        if cause != "manual"
            && spec.policy.pause_after > 0
            && matches!(end.state, "failed" | "timed_out")
            && let Err(error) = self.pause_if_it_keeps_failing(spec, &end).await
        {
            tracing::error!(task = spec.name, %error, "whether the task keeps failing could not be looked at");
        }
    }

    async fn pause_if_it_keeps_failing(&self, spec: &TaskSpec, end: &RunEnd) -> Result<()> {
        let (store, limit) = (self.env.store(), spec.policy.pause_after);
        let states = store.latest_ends(spec.name, limit).await?;
        if states.len() < limit as usize || states.iter().any(|s| s == "succeeded") {
            return Ok(());
        }
        let error = end.error.as_deref().and_then(|e| e.lines().next()).unwrap_or("no error");
        let why = format!("{limit} scheduled runs in a row failed; the last: {error}");
        super::pause(&self.env, spec.name, SCHEDULE, &why, None).await?;
        tracing::error!(task = spec.name, why, "paused");
        alert::evaluate(&self.env, vec![pause_check(&self.env).await?]).await.map(drop)
    }

    /// Begins the run that has waited longest, if the task's place is free; more may follow when it ends.
    pub(super) async fn begin_waiting(&self, spec: &TaskSpec) -> Result<()> {
        self.floor.wait(spec.name);
        let handing = self.floor.handing.lock().await;
        if self.floor.is_closed() || self.floor.is_stuck(spec.name) {
            return Ok(());
        }
        let now = self.env.now();
        let blackout = spec.policy.blacked_out(now, now).is_some();
        let begun = self.env.store().begin_waiting(spec.name, self.env.incarnation(), now, blackout).await?;
        if let Some(row) = begun {
            let cancel = self.floor.enter(&row.run_id, spec.name);
            let run =
                self.run(&row.run_id, row.slot, cause_of(&row), row.asked_by.clone(), u32::try_from(row.attempts).unwrap_or(1).max(1));
            let waits = spec.after.is_some() && run.cause != "manual" && run.attempt == 1;
            self.start(spec, run, waits, cancel);
        }
        drop(handing);
        Ok(())
    }

    async fn cancel_running(&self, spec: &TaskSpec, why: &str) -> Result<()> {
        for run_id in self.env.store().cancel_running(spec.name, why).await? {
            self.floor.tell(&run_id, why); // one of another node is told by that node
        }
        Ok(())
    }

    pub(super) fn new_run(
        &self,
        spec: &TaskSpec,
        slot: DateTime<Utc>,
        cause: &'static str,
        state: &'static str,
        reason: Option<&'static str>,
    ) -> NewRun {
        NewRun {
            run_id: format!("run_{}", uuid::Uuid::now_v7().simple()),
            task: spec.name.to_owned(),
            slot,
            cause,
            state,
            reason,
            asked_by: None,
            incarnation: self.env.incarnation().to_owned(),
            at: self.env.now(),
            lag_ms: None,
        }
    }

    /// Lets running runs end, then tells the rest to, and gives the lease back.
    pub(super) async fn drain(&self) {
        self.floor.close();
        drop(self.floor.handing.lock().await); // a run that is just being given to us is in the list after this
        let grace = Duration::from_secs(self.env.config().timer.stop_grace_s);
        if !self.empty_within(grace).await {
            for run_id in self.floor.run_ids() {
                self.floor.tell(&run_id, "the daemon stopped before the run had ended");
            }
            if !self.empty_within(LAST_WORDS).await {
                tracing::error!(actor = NOUN, runs = ?self.floor.run_ids(), "runs did not end at the stop; the next start ends them");
            }
        }
        if let Err(error) = self.env.store().leave(self.env.incarnation()).await {
            tracing::warn!(actor = NOUN, %error, "the lease could not be given back; the next start does not wait for it");
        }
    }

    async fn empty_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            if self.floor.is_empty() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A row's cause as the program spells it.
fn cause_of(row: &RunRow) -> &'static str {
    ["schedule", "catch_up", "manual", "backfill"].into_iter().find(|cause| *cause == row.cause).unwrap_or("schedule")
}
