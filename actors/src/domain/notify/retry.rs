//! When a message that did not arrive is tried again, and when it is given up. Called by the delivery. Pure: the jitter comes from the
//! caller.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::domain::backoff::Backoff;

/// One second, doubling to five minutes.
const WAIT: Backoff = Backoff::new(1000, 2, 300_000);
/// While the other side answers nobody, one attempt a minute is enough to see that it is back.
const HOLD: Backoff = Backoff::new(1000, 2, 60_000);
/// Given up after this, but not before so many attempts: a machine that was off, or whose clock jumped, has not tried yet.
const GIVE_UP: TimeDelta = TimeDelta::hours(24);
const ATTEMPTS: u32 = 10;

/// How long after the `attempt`-th failure of a message that waits since `created_at` it is tried again; `None`: it is given up.
pub fn again(attempt: u32, created_at: DateTime<Utc>, now: DateTime<Utc>, retry_after: Option<Duration>, unit: f64) -> Option<Duration> {
    let wait = Duration::from_millis(WAIT.delay_ms(attempt, unit)).max(retry_after.unwrap_or_default());
    (attempt < ATTEMPTS || now - created_at < GIVE_UP).then_some(wait)
}

/// How long a whole channel waits after its `failures`-th failure in a row.
pub fn hold(failures: u32, retry_after: Option<Duration>, unit: f64) -> Duration {
    Duration::from_millis(HOLD.delay_ms(failures, unit)).max(retry_after.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_honours_the_other_side_and_ends_after_a_day_of_trying() {
        let start: DateTime<Utc> = "2026-03-01T00:00:00Z".parse().unwrap();
        let at = |hours: i64| start + TimeDelta::hours(hours);
        let seconds =
            |attempt, hours, after: Option<u64>| again(attempt, start, at(hours), after.map(Duration::from_secs), 1.0).map(|d| d.as_secs());
        for (attempt, hours, after, expected) in [
            (1, 0, None, Some(1)),
            (4, 0, None, Some(8)),
            (9, 0, None, Some(256)),
            (12, 5, None, Some(300)),
            (1, 0, Some(30), Some(30)),
            (12, 0, Some(30), Some(300)),
            (300, 23, None, Some(300)),
            (300, 24, None, None),
            // The machine was off for two days: it has hardly tried.
            (1, 48, None, Some(1)),
            (9, 48, None, Some(256)),
            (10, 48, None, None),
        ] {
            assert_eq!(seconds(attempt, hours, after), expected, "attempt {attempt} after {hours} h");
        }
        assert_eq!(again(1, start, start, None, 0.0), Some(Duration::from_millis(500)), "jitter brings it forward by half at most");
        assert_eq!((hold(1, None, 1.0), hold(20, None, 1.0)), (Duration::from_secs(1), Duration::from_mins(1)));
    }
}
