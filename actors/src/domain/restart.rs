//! What becomes of a child of the supervisor that has ended: another start at once or after a wait, a time aside (quarantine), the
//! end of the child or the end of the process. Called by the supervisor for every end and every release; the time in
//! milliseconds (monotonic) and the jitter come from it.

use super::backoff::{Backoff, Budget, RestartWindow};

/// No cool-down is longer than this, however often a child was put aside in a row; one that is configured longer stays as it is.
const LONGEST_COOL_DOWN_MS: u64 = 3_600_000;

/// When a child that ended is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// Always.
    #[default]
    Permanent,
    /// Only after a failure; having finished its work it stays down.
    Transient,
    /// Never.
    Temporary,
}

/// How an incarnation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A panic, an error, a kill, a start that did not succeed.
    Failed,
    /// It stopped by itself.
    Finished,
}

impl End {
    /// An actor that was stopped for this reason. `killed` and `actor_task_cancelled` are the actor library's words for an end
    /// that the actor did not choose.
    pub fn of_stop(reason: &str) -> Self {
        if matches!(reason, "killed" | "actor_task_cancelled") { Self::Failed } else { Self::Finished }
    }
}

/// The rules for one child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub restart: Restart,
    /// Without it the process is of no use.
    pub critical: bool,
    pub budget: Budget,
    pub backoff: Backoff,
    /// The first time aside, in milliseconds; each further one in a row is twice as long, an hour at most.
    pub cool_down_ms: u64,
}

/// What is done next, with the reason where it is not a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Restart {
        delay_ms: u64,
    },
    /// Put aside, and tried again after the cool-down.
    Quarantine {
        cool_down_ms: u64,
        why: String,
    },
    /// Stays down, having finished its work.
    Finished,
    /// Stays down after a failure, because it is temporary.
    Failed,
    /// A critical child that will not run again.
    Fatal {
        why: String,
    },
}

/// What is remembered of a child's ends.
#[derive(Clone, Debug)]
pub struct History {
    policy: Policy,
    window: RestartWindow,
    /// Failures in a row, each within the budget's window of the one before: the exponent of the backoff.
    streak: u32,
    failed_ms: Option<u64>,
    up_since_ms: Option<u64>,
    /// Quarantines in a row; being up for a whole cool-down ends the row.
    quarantines: u32,
    /// It was released by the repairs of `self_heal` in this row.
    healed: bool,
}

impl History {
    pub fn new(policy: Policy) -> Self {
        let window = RestartWindow::new(policy.budget);
        Self { policy, window, streak: 0, failed_ms: None, up_since_ms: None, quarantines: 0, healed: false }
    }

    /// The child runs from now on.
    pub fn started(&mut self, now_ms: u64) {
        self.up_since_ms = Some(now_ms);
    }

    /// The child ended, or a start of it failed. `unit` in 0..1 is the backoff's jitter.
    pub fn ended(&mut self, end: End, now_ms: u64, unit: f64) -> Next {
        let up_ms = self.up_since_ms.take().map_or(0, |since| now_ms.saturating_sub(since));
        if self.quarantines > 0 && up_ms >= self.cool_down_ms() {
            (self.quarantines, self.healed) = (0, false);
        }
        let stays_down = match (self.policy.restart, end) {
            (Restart::Permanent, _) | (Restart::Transient, End::Failed) => None,
            (Restart::Transient | Restart::Temporary, End::Finished) => Some(Next::Finished),
            (Restart::Temporary, End::Failed) => Some(Next::Failed),
        };
        match stays_down {
            Some(_) if self.policy.critical => return Next::Fatal { why: "ended and is not to be restarted".to_owned() },
            Some(next) => return next,
            None => {}
        }
        let window_ms = self.policy.budget.window_s.saturating_mul(1000);
        self.streak = match self.failed_ms {
            Some(last) if now_ms.saturating_sub(last) < window_ms => self.streak.saturating_add(1),
            _ => 0,
        };
        self.failed_ms = Some(now_ms);
        if self.window.record(now_ms) {
            let delay_ms = if self.streak == 0 { 0 } else { self.policy.backoff.delay_ms(self.streak, unit) };
            return Next::Restart { delay_ms };
        }
        let Budget { max, window_s } = self.policy.budget;
        let why = format!("failed too often: more than {max} restarts within {window_s} s");
        if self.policy.critical {
            return Next::Fatal { why };
        }
        self.window.clear();
        self.quarantines = self.quarantines.saturating_add(1);
        Next::Quarantine { cool_down_ms: self.cool_down_ms(), why }
    }

    /// The quarantine is over before its time. `self_heal` may do that once in a row of quarantines, a person as often as he likes:
    /// `false` if it was done before.
    pub fn release(&mut self, by_self_heal: bool) -> bool {
        let allowed = !(by_self_heal && self.healed);
        self.healed |= by_self_heal;
        allowed
    }

    fn cool_down_ms(&self) -> u64 {
        let base_ms = self.policy.cool_down_ms;
        Backoff::new(base_ms, 2, base_ms.max(LONGEST_COOL_DOWN_MS)).full_ms(self.quarantines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(restart: Restart, critical: bool, max: u32) -> Policy {
        let budget = Budget { max, window_s: 60 };
        Policy { restart, critical, budget, backoff: Backoff::new(50, 2, 5_000), cool_down_ms: 300_000 }
    }

    #[test]
    fn who_is_started_again_depends_on_the_kind_and_the_end() {
        let again = Next::Restart { delay_ms: 0 };
        for (restart, end, next) in [
            (Restart::Permanent, End::Failed, &again),
            (Restart::Permanent, End::Finished, &again),
            (Restart::Transient, End::Failed, &again),
            (Restart::Transient, End::Finished, &Next::Finished),
            (Restart::Temporary, End::Failed, &Next::Failed),
            (Restart::Temporary, End::Finished, &Next::Finished),
        ] {
            assert_eq!(History::new(policy(restart, false, 3)).ended(end, 0, 1.0), *next, "{restart:?} {end:?}");
        }
        let fatal = History::new(policy(Restart::Temporary, true, 3)).ended(End::Failed, 0, 1.0);
        assert!(matches!(fatal, Next::Fatal { .. }), "a critical child that stays down: {fatal:?}");
    }

    #[test]
    fn a_kill_is_a_failure_and_a_stop_is_not() {
        for (reason, end) in [
            ("killed", End::Failed),
            ("actor_task_cancelled", End::Failed),
            ("stopped", End::Finished),
            ("Drained", End::Finished),
            ("done", End::Finished),
        ] {
            assert_eq!(End::of_stop(reason), end, "{reason}");
        }
    }

    #[test]
    fn the_first_restart_is_immediate_the_next_wait_doubles_and_one_too_many_puts_aside() {
        let mut history = History::new(policy(Restart::Permanent, false, 4));
        let next: Vec<_> = (0..5).map(|n| history.ended(End::Failed, n * 1000, 1.0)).collect();
        let waits = [0, 50, 100, 200].map(|delay_ms| Next::Restart { delay_ms });
        assert_eq!(next[..4], waits);
        let Next::Quarantine { cool_down_ms, why } = &next[4] else { panic!("{:?}", next[4]) };
        assert_eq!((*cool_down_ms, why.as_str()), (300_000, "failed too often: more than 4 restarts within 60 s"));
        let mut critical = History::new(policy(Restart::Permanent, true, 0));
        assert!(matches!(critical.ended(End::Failed, 0, 1.0), Next::Fatal { .. }));
        let mut calm = History::new(policy(Restart::Permanent, false, 1));
        for n in 0..10 {
            assert_eq!(calm.ended(End::Failed, n * 60_000, 1.0), Next::Restart { delay_ms: 0 }, "one a minute is no streak");
        }
    }

    #[test]
    fn the_cool_down_doubles_in_a_row_up_to_an_hour_and_health_ends_the_row() {
        let mut history = History::new(policy(Restart::Permanent, false, 0));
        let mut cool_down = |up_ms: u64, now_ms: &mut u64| {
            history.started(*now_ms);
            *now_ms += up_ms;
            match history.ended(End::Failed, *now_ms, 1.0) {
                Next::Quarantine { cool_down_ms, .. } => cool_down_ms / 1000,
                other => panic!("{other:?}"),
            }
        };
        let now = &mut 0;
        let row: Vec<_> = (0..6).map(|_| cool_down(1000, now)).collect();
        assert_eq!(row, [300, 600, 1200, 2400, 3600, 3600]);
        assert_eq!(cool_down(3_599_000, now), 3600, "not yet a whole cool-down");
        assert_eq!(cool_down(3_600_000, now), 300, "healthy for a cool-down: a new row");
    }

    #[test]
    fn self_heal_releases_once_in_a_row_and_a_person_always() {
        let mut history = History::new(policy(Restart::Permanent, false, 0));
        let quarantined = |next| matches!(next, Next::Quarantine { .. });
        assert!(quarantined(history.ended(End::Failed, 0, 1.0)));
        assert!(history.release(true));
        history.started(1000);
        assert!(quarantined(history.ended(End::Failed, 2000, 1.0)));
        assert!(!history.release(true) && history.release(false) && history.release(false));
        history.started(3000);
        assert!(quarantined(history.ended(End::Failed, 603_000, 1.0)), "after being up for the cool-down of 600 s");
        assert!(history.release(true), "a new row");
    }
}
