//! How long to wait before trying again, and how often is too often. Used for the retries of tasks, of notifications and for the
//! restarts of actors. Pure: the jitter and the time come from the caller.

use std::collections::VecDeque;

/// Exponential backoff: `base_ms`, times `factor` for each further failure, never above `cap_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Backoff {
    pub base_ms: u64,
    pub factor: u32,
    pub cap_ms: u64,
}

impl Backoff {
    pub const fn new(base_ms: u64, factor: u32, cap_ms: u64) -> Self {
        Self { base_ms, factor, cap_ms }
    }

    /// The wait after the `attempt`-th failure in a row (1 = the first; 0 counts as 1) without jitter, in milliseconds.
    pub fn full_ms(&self, attempt: u32) -> u64 {
        u64::from(self.factor.max(1)).saturating_pow(attempt.max(1) - 1).saturating_mul(self.base_ms).min(self.cap_ms)
    }

    /// The wait in milliseconds, with `unit` in 0..1 drawn by the caller: between half of [`full_ms`](Self::full_ms) and all of it, so that
    /// many that failed together do not come back together, and none comes back at once. A `unit` outside 0..1 is brought inside.
    pub fn delay_ms(&self, attempt: u32, unit: f64) -> u64 {
        let full = self.full_ms(attempt);
        let unit = if unit.is_finite() { unit.clamp(0.0, 1.0) } else { 1.0 };
        // A millionth is fine enough, and integers keep the result inside the bounds for any `full`.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..=1_000_000")]
        let millionths = (unit * 1e6) as u128;
        let half = full / 2;
        let spread = u128::from(full - half) * millionths / 1_000_000;
        half + u64::try_from(spread).expect("at most half of a u64")
    }
}

/// At most `max` restarts within `window_s` seconds; one more is too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Budget {
    pub max: u32,
    pub window_s: u64,
}

/// The restarts of the recent past. Memory is bounded by the budget.
#[derive(Clone, Debug)]
pub struct RestartWindow {
    budget: Budget,
    times_ms: VecDeque<u64>,
}

impl RestartWindow {
    pub fn new(budget: Budget) -> Self {
        Self { budget, times_ms: VecDeque::new() }
    }

    /// Counts a restart at `now_ms` (any clock in milliseconds, best a monotonic one) and says whether the budget still holds.
    pub fn record(&mut self, now_ms: u64) -> bool {
        self.forget_old(now_ms);
        self.times_ms.push_back(now_ms);
        let within = self.times_ms.len() <= self.budget.max as usize;
        if !within {
            self.times_ms.pop_front();
        }
        within
    }

    /// Restarts within the window that ends at `now_ms`, at most the budget's `max`.
    pub fn recent(&mut self, now_ms: u64) -> usize {
        self.forget_old(now_ms);
        self.times_ms.len()
    }

    /// Forgets all restarts: the actor was released from quarantine.
    pub fn clear(&mut self) {
        self.times_ms.clear();
    }

    fn forget_old(&mut self, now_ms: u64) {
        // After a clock that stepped back, a time in the future would stay for ever: it counts as now.
        self.times_ms.iter_mut().for_each(|time| *time = (*time).min(now_ms));
        let window_ms = self.budget.window_s.saturating_mul(1000);
        while self.times_ms.front().is_some_and(|time| now_ms - time >= window_ms) {
            self.times_ms.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_wait_doubles_up_to_the_cap() {
        let backoff = Backoff::new(100, 2, 5_000);
        let cases = [(0, 100), (1, 100), (2, 200), (3, 400), (6, 3_200), (7, 5_000), (64, 5_000), (u32::MAX, 5_000)];
        for (attempt, expected) in cases {
            assert_eq!(backoff.full_ms(attempt), expected, "attempt {attempt}");
            assert_eq!(backoff.delay_ms(attempt, 1.0), expected, "attempt {attempt}");
            assert_eq!(backoff.delay_ms(attempt, 0.0), expected / 2, "attempt {attempt}");
        }
        assert_eq!(backoff.delay_ms(1, 0.5), 75);
        assert_eq!(Backoff::new(100, 0, 5_000).full_ms(9), 100);
    }

    #[test]
    fn the_budget_is_a_sliding_window() {
        let mut window = RestartWindow::new(Budget { max: 3, window_s: 10 });
        let cases = [(0, true), (1_000, true), (2_000, true), (3_000, false), (9_999, false), (12_999, true), (30_000, true)];
        for (now, within) in cases {
            assert_eq!(window.record(now), within, "at {now} ms");
        }
        assert_eq!((window.recent(30_000), window.recent(40_000)), (1, 0));
        assert!(!RestartWindow::new(Budget { max: 0, window_s: 10 }).record(5), "no budget, no restart");
    }

    #[test]
    fn a_clock_that_stepped_back_does_not_keep_restarts_for_ever() {
        let mut window = RestartWindow::new(Budget { max: 1, window_s: 10 });
        assert!(window.record(1_000_000));
        assert!(!window.record(5_000));
        assert!(window.record(15_000));
    }

    proptest! {
        #[test]
        fn a_delay_is_between_half_and_all_of_the_wait(base in 0u64..u64::MAX, factor in 0u32..20, cap in 0u64..u64::MAX, attempt: u32, unit in -1.0f64..2.0) {
            let backoff = Backoff::new(base, factor, cap);
            let (delay, full) = (backoff.delay_ms(attempt, unit), backoff.full_ms(attempt));
            prop_assert!(delay >= full / 2 && delay <= full && full <= cap);
        }
    }
}
