//! Waiting on a condition with a deadline. Tests never wait for a length of time and hope.

use std::time::{Duration, Instant};

/// For what takes milliseconds on an idle machine.
pub const SHORT: Duration = Duration::from_secs(20);
/// For what takes seconds on an idle machine.
pub const LONG: Duration = Duration::from_secs(90);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// The first `Some` of `condition`; fails the test with `what` when the deadline has passed.
pub fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(start.elapsed() < limit, "waited {} s in vain: {what}", limit.as_secs());
        std::thread::sleep(LOOK); // between two looks at a condition
    }
}
