//! The limit that we set ourselves for reading in the background: so many requests a second, so many at the same time. Used by the
//! client's `background()` view for reconciliation and catching up; what a person waits for never stands in this queue.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// A token bucket of one second, and a number of places.
#[derive(Debug)]
pub(super) struct Pace {
    /// Between two requests, in the long run.
    interval: Duration,
    /// How far a caller may be ahead of the interval: a burst of one second.
    burst: Duration,
    /// When the next request may begin, if no burst is left.
    next: Mutex<Instant>,
    places: Arc<Semaphore>,
}

impl Pace {
    /// Both at least one.
    pub(super) fn new(max_per_s: u32, max_in_flight: usize) -> Self {
        let interval = Duration::from_secs(1) / max_per_s.max(1);
        Self {
            interval,
            burst: Duration::from_secs(1).saturating_sub(interval),
            next: Mutex::new(Instant::now()),
            places: Arc::new(Semaphore::new(max_in_flight.max(1))),
        }
    }

    /// Waits for a place and for a token; the place is given back when what is answered is dropped.
    pub(super) async fn enter(&self) -> Option<OwnedSemaphorePermit> {
        let place = self.places.clone().acquire_owned().await.ok(); // never closed
        let at = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            // Unused time is saved up for one second and no longer.
            let at = (*next).max(now.checked_sub(self.burst).unwrap_or(now));
            *next = at + self.interval;
            at
        };
        tokio::time::sleep_until(at).await;
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn more_than_so_many_a_second_wait() {
        let pace = Pace::new(8, 100);
        tokio::time::sleep(Duration::from_secs(60)).await; // what is saved up is one second's worth
        let start = Instant::now();
        for _ in 0..8 {
            pace.enter().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO, "a burst of one second");
        for _ in 0..40 {
            pace.enter().await;
        }
        let took = start.elapsed();
        assert!((Duration::from_millis(4900)..=Duration::from_millis(5100)).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_so_many_are_under_way() {
        let pace = Pace::new(1000, 2);
        let held = (pace.enter().await, pace.enter().await);
        assert!(tokio::time::timeout(Duration::from_secs(5), pace.enter()).await.is_err());
        drop(held);
        assert!(tokio::time::timeout(Duration::from_secs(5), pace.enter()).await.is_ok());
    }
}
