//! What a scheduled task is: one row of the task table with its schedule, its policies and its work, what a run of it may touch and what
//! it leaves behind. The timer decides *when*; `execution.rs` carries a run out; the files in `tasks/` say *what*.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value as Json};
use tokio::task::JoinSet;

use crate::{
    actor::{Boxed, Reply, respond},
    domain::schedule::{CatchUp, Overlap, Policy, Schedule},
    env::Env,
    error::{Error, Result},
};

/// One run of a task: what it may touch and which occurrence it is.
#[derive(Clone, Debug)]
pub struct Run {
    pub env: Env,
    pub run_id: String,
    /// The due time, or the time of asking for a manual run. Dated files take their date from it.
    pub slot: DateTime<Utc>,
    /// `schedule`, `catch_up`, `manual` or `backfill`.
    pub cause: &'static str,
    pub asked_by: Option<String>,
    /// Which attempt this is, from 1.
    pub attempt: u32,
}

/// The one long run that an actor carries out at a time, in a task of its own so that the mailbox goes on; it ends with the actor.
#[derive(Debug, Default)]
pub struct OneRun {
    work: JoinSet<()>,
    run_id: String,
}

impl OneRun {
    /// Starts the work and answers with its result; while another is going on, with `busy` and that one's `run_id`.
    pub fn start(&mut self, run: &Run, reply: Reply<Record>, busy: Error, work: impl Future<Output = Result<Record>> + Send + 'static) {
        while self.work.try_join_next().is_some() {}
        if self.work.is_empty() {
            self.run_id.clone_from(&run.run_id);
            self.work.spawn(async move { respond(reply, work.await) });
        } else {
            respond(reply, Err(busy.with("run_id", self.run_id.clone())));
        }
    }
}

/// What a run leaves behind: the members of its record (`ok`, `ts` and `run_id` are put in front). `ok` is true unless the record
/// says otherwise: a reconciliation that found a difference ran well and is not `ok`.
pub type Record = Map<String, Json>;
pub type Work = fn(Run) -> Boxed<Result<Record>>;

/// A task that must have finished first.
#[derive(Clone, Copy, Debug)]
pub struct After {
    pub task: &'static str,
    /// The occurrence meant is the last one in this time before our slot.
    pub within: TimeDelta,
    /// How long to wait for it before this run is `skipped` with reason `dependency`.
    pub wait: Duration,
}

/// One row of the task table. Everything that lists tasks is derived from it.
#[derive(Clone, Debug)]
pub struct TaskSpec {
    pub name: &'static str,
    /// The actor that owns the state the task works on.
    pub owner: &'static str,
    /// One sentence.
    pub doc: &'static str,
    pub schedule: Schedule,
    pub policy: Policy,
    pub after: Option<After>,
    /// File under `logs/` that holds the latest record, and the one that holds all.
    pub latest: Option<&'static str>,
    pub history: Option<&'static str>,
    /// Is told of every start and end (`ping.rs`).
    pub ping_url: Option<String>,
    /// `None`: planned; it has no slots and cannot be run.
    pub work: Option<Work>,
}

impl TaskSpec {
    pub fn new(name: &'static str, owner: &'static str, schedule: Schedule, doc: &'static str) -> Self {
        let policy = Policy::new(schedule.default_catch_up());
        Self { name, owner, doc, schedule, policy, after: None, latest: None, history: None, ping_url: None, work: None }
    }

    #[must_use]
    pub fn runs(mut self, work: Work) -> Self {
        self.work = Some(work);
        self
    }

    #[must_use]
    pub fn leaves(mut self, latest: Option<&'static str>, history: Option<&'static str>) -> Self {
        (self.latest, self.history) = (latest, history);
        self
    }

    #[must_use]
    pub fn timeout_s(mut self, seconds: u64) -> Self {
        self.policy.timeout = Duration::from_secs(seconds);
        self
    }

    #[must_use]
    pub fn retries(mut self, retries: u32) -> Self {
        self.policy.retries = retries;
        self
    }

    #[must_use]
    pub fn catch_up(mut self, catch_up: CatchUp) -> Self {
        self.policy.catch_up = catch_up;
        self
    }

    #[must_use]
    pub fn overlap(mut self, overlap: Overlap) -> Self {
        self.policy.overlap = overlap;
        self
    }

    #[must_use]
    pub fn after(mut self, after: After) -> Self {
        self.after = Some(after);
        self
    }
}
