//! How far a backup is: what it is at, bytes gone through, bytes there are. Shared between the task that works and the actor that is asked.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use serde_json::{Value as Json, json};

#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The run and what it is at; `None` between two.
    now: Mutex<Option<(String, &'static str)>>,
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// A run began. It has ended when the guard goes, however that comes about.
    pub(super) fn begin(&self, run_id: &str) -> Busy {
        *self.0.now.lock().unwrap_or_else(PoisonError::into_inner) = Some((run_id.to_owned(), "beginning"));
        self.bytes(0);
        Busy { progress: self.clone(), stop: Arc::default() }
    }

    fn bytes(&self, total: u64) {
        self.0.done.store(0, Ordering::Relaxed);
        self.0.total.store(total, Ordering::Relaxed);
    }

    pub(super) fn view(&self) -> Option<Json> {
        let now = self.0.now.lock().unwrap_or_else(PoisonError::into_inner);
        let (run_id, phase) = now.as_ref()?;
        let (done, total) = (self.0.done.load(Ordering::Relaxed), self.0.total.load(Ordering::Relaxed));
        Some(json!({"run_id": run_id, "phase": phase, "done_bytes": done.min(total), "total_bytes": total}))
    }
}

/// A run that goes on. When it goes, also because its task was aborted, the threads that work for it are told to stop.
pub(super) struct Busy {
    progress: Progress,
    stop: Arc<AtomicBool>,
}

impl Busy {
    /// What is done now, and of how many bytes.
    pub(super) fn phase(&self, phase: &'static str, total: u64) -> Meter {
        if let Some(now) = &mut *self.progress.0.now.lock().unwrap_or_else(PoisonError::into_inner) {
            now.1 = phase;
        }
        self.progress.bytes(total);
        Meter { progress: self.progress.clone(), stop: self.stop.clone() }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        *self.progress.0.now.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// What a working thread counts in, and whether it is to stop.
#[derive(Clone)]
pub(super) struct Meter {
    progress: Progress,
    stop: Arc<AtomicBool>,
}

impl Meter {
    pub(super) fn done(&self) -> &AtomicU64 {
        &self.progress.0.done
    }

    pub(super) fn stop(&self) -> &AtomicBool {
        &self.stop
    }
}
