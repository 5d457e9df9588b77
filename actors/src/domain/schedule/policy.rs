//! How a task wants to be run: what becomes of a late slot, of a slot while another run goes on, of a failure and of a run whose
//! process died. The timer and the execution ask; the decisions carry no state and read no clock.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Blackout, CatchUp};
use crate::domain::backoff::Backoff;

/// What becomes of a due slot while a run of the same task is going on (Temporal's overlap policies, without its two unbounded ones).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It is skipped with reason `overlap`.
    #[default]
    Skip,
    /// One waits for the end of the run; a further one is skipped with reason `overlap`.
    QueueOne,
    /// The run is cancelled and the slot begins when it has ended.
    CancelOther,
    /// Both run.
    Allow,
}

impl Overlap {
    /// As the configuration and the ledger spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::QueueOne => "queue_one",
            Self::CancelOther => "cancel_other",
            Self::Allow => "allow",
        }
    }
}

/// The policies of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub catch_up: CatchUp,
    pub overlap: Overlap,
    /// Every start is later than its slot by this much: stable per task, so that tasks of one schedule do not start together.
    pub jitter: TimeDelta,
    /// No slot starts in these times; it is skipped with reason `blackout`.
    pub blackout: Vec<Blackout>,
    /// Per attempt.
    pub timeout: Duration,
    /// For all attempts and the waits between them; zero: room for every attempt the retries allow.
    pub total_timeout: Duration,
    /// Further attempts after a retryable error, or after the process died.
    pub retries: u32,
    pub backoff: Backoff,
    /// The task is paused after this many scheduled runs in a row failed; 0: never.
    pub pause_after: u32,
}

/// What becomes of a run whose process is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orphan {
    /// It is taken over and begins (again).
    TakeOver,
    /// It had begun and may not begin again.
    Fail,
    /// It had not begun, and it is too late for it now.
    Miss,
}

impl Policy {
    pub fn new(catch_up: CatchUp) -> Self {
        Self {
            catch_up,
            overlap: Overlap::Skip,
            jitter: TimeDelta::zero(),
            blackout: Vec::new(),
            timeout: Duration::from_mins(5),
            total_timeout: Duration::ZERO,
            retries: 0,
            backoff: Backoff::new(1000, 4, 60_000),
            pause_after: 0,
        }
    }

    /// The limit for all attempts together: what is configured, or room for each attempt and for the longest wait before it.
    pub fn total(&self) -> Duration {
        if self.total_timeout.is_zero() {
            (self.timeout + Duration::from_millis(self.backoff.cap_ms)) * self.retries + self.timeout
        } else {
            self.total_timeout
        }
    }

    /// How long the attempt that comes now may take, after `spent` on this run.
    pub fn attempt_timeout(&self, spent: Duration) -> Duration {
        self.timeout.min(self.total().saturating_sub(spent))
    }

    /// The wait before the next attempt, or `None` if the failure of `attempt` (from 1) is final: the error is not retryable, the
    /// retries are used up, or the next attempt would begin after the total limit. `unit` in 0..1 is the jitter.
    pub fn wait_before_next(&self, attempt: u32, is_retryable: bool, spent: Duration, unit: f64) -> Option<Duration> {
        let wait = Duration::from_millis(self.backoff.delay_ms(attempt, unit));
        (is_retryable && attempt <= self.retries && spent + wait < self.total()).then_some(wait)
    }

    /// What becomes of a run whose process died: `attempts` had begun (0: it was waiting). A run that had not begun is late like any
    /// other slot; one that had begins again as often as the retries allow.
    pub fn orphan(&self, attempts: u32, is_scheduled: bool, slot: DateTime<Utc>, now: DateTime<Utc>, on_time_s: i64) -> Orphan {
        let late = now - slot - self.jitter > TimeDelta::seconds(on_time_s);
        match attempts {
            0 if is_scheduled && late && self.catch_up == CatchUp::Skip => Orphan::Miss,
            0 => Orphan::TakeOver,
            begun if begun <= self.retries => Orphan::TakeOver,
            _ => Orphan::Fail,
        }
    }

    /// The window that forbids a start for this slot at `now`, if one does.
    pub fn blacked_out(&self, slot: DateTime<Utc>, now: DateTime<Utc>) -> Option<&Blackout> {
        self.blackout.iter().find(|window| window.contains(slot) || window.contains(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn a_failure_is_tried_again_while_retries_time_and_the_error_allow_it() {
        let policy = Policy { retries: 2, backoff: Backoff::new(1000, 2, 60_000), ..Policy::new(CatchUp::Skip) };
        let wait = |attempt, retryable, spent_s| policy.wait_before_next(attempt, retryable, Duration::from_secs(spent_s), 1.0);
        assert_eq!(wait(1, true, 1), Some(Duration::from_secs(1)));
        assert_eq!(wait(2, true, 1), Some(Duration::from_secs(2)));
        assert_eq!(wait(3, true, 1), None, "two retries");
        assert_eq!(wait(1, false, 1), None, "not retryable");
        let short = Policy { total_timeout: Duration::from_secs(10), ..policy };
        assert_eq!(short.wait_before_next(2, true, Duration::from_secs(8), 1.0), None, "no time left");
        assert_eq!(short.attempt_timeout(Duration::from_secs(4)), Duration::from_secs(6));
        assert_eq!(short.attempt_timeout(Duration::from_secs(11)), Duration::ZERO);
    }

    #[test]
    fn without_a_total_limit_every_attempt_has_its_room() {
        let policy = Policy { retries: 2, timeout: Duration::from_secs(10), ..Policy::new(CatchUp::Once) };
        assert_eq!(policy.total(), Duration::from_secs(10 + 2 * 70));
    }

    #[test]
    fn an_orphan_that_had_begun_counts_its_attempts_and_one_that_had_not_its_lateness() {
        let skip = Policy { retries: 1, ..Policy::new(CatchUp::Skip) };
        let once = Policy::new(CatchUp::Once);
        assert_eq!(skip.orphan(0, true, at(100), at(105), 10), Orphan::TakeOver);
        assert_eq!(skip.orphan(0, true, at(100), at(500), 10), Orphan::Miss);
        assert_eq!(skip.orphan(0, false, at(100), at(500), 10), Orphan::TakeOver, "somebody asked for it");
        assert_eq!(once.orphan(0, true, at(100), at(500), 10), Orphan::TakeOver);
        assert_eq!(
            (skip.orphan(1, true, at(100), at(101), 10), skip.orphan(2, true, at(100), at(101), 10)),
            (Orphan::TakeOver, Orphan::Fail)
        );
        assert_eq!(once.orphan(1, true, at(100), at(101), 10), Orphan::Fail);
    }
}
