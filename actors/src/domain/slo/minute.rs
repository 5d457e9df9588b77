//! One UTC minute of requests: exact counters and the latencies. The slo actor records into the minute of "now" and stores the minutes;
//! a minute without a row is unobserved (the daemon was down), a row with no requests is observed and empty.

use super::Histogram;

/// The requests of one minute. Failed ones are counted in `bad` only: a fast error must not improve the latency.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Minute {
    /// Minutes since the Unix epoch.
    pub minute: i64,
    /// All requests.
    pub total: u64,
    /// Those that failed (status 500 and above).
    pub bad: u64,
    /// Those that succeeded, but later than the threshold.
    pub slow: u64,
    /// Latencies of those that succeeded.
    pub latency: Histogram,
}

/// The counters of one minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub minute: i64,
    pub total: u64,
    pub bad: u64,
    pub slow: u64,
}

impl Counts {
    pub fn succeeded(&self) -> u64 {
        self.total.saturating_sub(self.bad)
    }
}

impl From<&Minute> for Counts {
    fn from(minute: &Minute) -> Self {
        minute.counts()
    }
}

impl Minute {
    pub fn new(minute: i64) -> Self {
        Self { minute, ..Self::default() }
    }

    /// The minute that a time belongs to.
    pub fn of(time: chrono::DateTime<chrono::Utc>) -> i64 {
        time.timestamp().div_euclid(60)
    }

    /// Counts one request. It is slow if it took more than `threshold_ms` milliseconds.
    pub fn record(&mut self, latency_us: u64, failed: bool, threshold_ms: u64) {
        self.record_many(latency_us, failed, threshold_ms, 1);
    }

    /// Counts `n` alike.
    pub fn record_many(&mut self, latency_us: u64, failed: bool, threshold_ms: u64, n: u64) {
        self.total = self.total.saturating_add(n);
        if failed {
            self.bad = self.bad.saturating_add(n);
            return;
        }
        if latency_us > threshold_ms.saturating_mul(1000) {
            self.slow = self.slow.saturating_add(n);
        }
        self.latency.record_many(latency_us, n);
    }

    /// Without the latencies.
    pub fn counts(&self) -> Counts {
        Counts { minute: self.minute, total: self.total, bad: self.bad, slow: self.slow }
    }

    /// Adds the requests of another row, e.g. of another node or of the same minute before a restart. The minute stays this one's.
    pub fn merge(&mut self, other: &Self) {
        self.total = self.total.saturating_add(other.total);
        self.bad = self.bad.saturating_add(other.bad);
        self.slow = self.slow.saturating_add(other.slow);
        self.latency.merge(&other.latency);
    }

    /// Requests that succeeded: what the latency objective is about.
    pub fn succeeded(&self) -> u64 {
        self.total.saturating_sub(self.bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_failure_does_not_improve_the_latency() {
        let mut minute = Minute::new(7);
        minute.record(1_200_000, false, 1200);
        minute.record(1_200_001, false, 1200);
        minute.record(5, true, 1200);
        assert_eq!((minute.total, minute.bad, minute.slow, minute.succeeded(), minute.latency.count()), (3, 1, 1, 2, 2));
    }

    #[test]
    fn merging_adds_every_counter_and_keeps_the_minute() {
        let mut a = Minute::new(7);
        a.record(10, false, 1);
        let mut b = Minute::new(8);
        b.record(5_000, false, 1);
        b.record(5_000, true, 1);
        a.merge(&b);
        assert_eq!((a.minute, a.total, a.bad, a.slow, a.latency.count()), (7, 3, 1, 1, 2));
    }
}
