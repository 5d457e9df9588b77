//! Counts events per service and minute in memory until the slo actor writes them down. It outlives that actor, so a crash of it loses no
//! count. Everything that does something for others records here: the gateway, ingest, the provider's client, the timer, the probes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, Utc};

use crate::domain::slo::Minute;

/// Minutes by service.
pub type Counted = BTreeMap<Arc<str>, BTreeMap<i64, Minute>>;

#[derive(Debug, Default)]
pub struct Meter {
    /// What is slow, in milliseconds, by service; a service without a threshold is never slow.
    thresholds: BTreeMap<String, u64>,
    minutes: Mutex<Counted>,
    /// How many of the last events failed, by service, since this program was started.
    failed_in_a_row: Mutex<BTreeMap<String, u64>>,
}

impl Meter {
    pub fn new(thresholds: BTreeMap<String, u64>) -> Self {
        Self { thresholds, ..Self::default() }
    }

    /// Counts one event.
    pub fn record(&self, service: &str, at: DateTime<Utc>, latency_us: u64, failed: bool) {
        self.record_many(service, Minute::of(at), latency_us, failed, 1);
        let mut streaks = self.failed_in_a_row.lock().unwrap_or_else(PoisonError::into_inner);
        match streaks.get_mut(service) {
            Some(streak) => *streak = if failed { streak.saturating_add(1) } else { 0 },
            None => drop(streaks.insert(service.to_owned(), u64::from(failed))),
        }
    }

    /// How many of the last events of a service failed; `None` if there was none since this program was started.
    pub fn failed_in_a_row(&self, service: &str) -> Option<u64> {
        self.failed_in_a_row.lock().unwrap_or_else(PoisonError::into_inner).get(service).copied()
    }

    /// Counts `n` alike in a minute.
    pub fn record_many(&self, service: &str, minute: i64, latency_us: u64, failed: bool, n: u64) {
        let threshold_ms = self.thresholds.get(service).copied().unwrap_or(u64::MAX);
        let mut all = self.minutes.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains_key(service) {
            all.insert(service.into(), BTreeMap::new());
        }
        if let Some(minutes) = all.get_mut(service) {
            minutes.entry(minute).or_insert_with(|| Minute::new(minute)).record_many(latency_us, failed, threshold_ms, n);
        }
    }

    /// Takes everything counted so far.
    pub fn take(&self) -> Counted {
        std::mem::take(&mut self.minutes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts back what could not be written.
    pub fn put_back(&self, taken: Counted) {
        let mut all = self.minutes.lock().unwrap_or_else(PoisonError::into_inner);
        for (service, minutes) in taken {
            let known = all.entry(service).or_default();
            for (minute, counted) in minutes {
                known.entry(minute).or_insert_with(|| Minute::new(minute)).merge(&counted);
            }
        }
    }

    /// What is counted but not yet written.
    pub fn snapshot(&self) -> Counted {
        self.minutes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same of one service.
    pub fn peek(&self, service: &str) -> Vec<Minute> {
        let all = self.minutes.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(service).map(|minutes| minutes.values().cloned().collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_is_what_the_services_objective_says_and_what_was_taken_can_be_put_back() {
        let meter = Meter::new(BTreeMap::from([("api".to_owned(), 10)]));
        let at = DateTime::from_timestamp(600, 0).unwrap();
        meter.record("api", at, 10_001, false);
        meter.record("push:shop", at, 10_001, false);
        meter.record_many("push:shop", 3, 0, true, 7);
        let taken = meter.take();
        assert_eq!((meter.failed_in_a_row("push:shop"), meter.failed_in_a_row("nobody")), (Some(0), None));
        for (failed, streak) in [(true, 1), (true, 2), (false, 0), (true, 1)] {
            meter.record("provider", at, 0, failed);
            assert_eq!(meter.failed_in_a_row("provider"), Some(streak));
        }
        assert_eq!((taken["api"][&10].slow, taken["push:shop"][&10].slow, taken["push:shop"][&3].bad), (1, 0, 7));
        assert!(meter.peek("api").is_empty());
        meter.record("api", at, 1, false);
        meter.put_back(taken);
        assert_eq!(meter.peek("api")[0].total, 2);
    }
}
