//! What goes on in this process: the runs, those that wait for their place, works that do not let go of their thread. It is no state of the
//! timer's: runs are tasks of their own and outlive it, so its replacement finds them here.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, task::JoinHandle, time::Instant};

use super::lease::Watch;
use crate::execution::{Cancel, Workshop};

const PRUNE_EVERY: Duration = Duration::from_mins(10);

/// A run that is going on in this process.
#[derive(Debug)]
struct Going {
    task: &'static str,
    cancel: watch::Sender<Option<String>>,
}

/// What goes on in this process.
#[derive(Debug)]
pub struct Floor {
    going: Mutex<HashMap<String, Going>>,
    /// Tasks with runs that wait for their place: their next one begins when a run ends.
    waiting: Mutex<HashSet<&'static str>>,
    /// Works that were told to end and did not let go of their thread.
    stuck: Mutex<HashMap<&'static str, usize>>,
    pub(super) workshop: Workshop,
    closed: AtomicBool,
    /// This process has held a lease.
    leased: AtomicBool,
    /// Held while a waiting row is given to us and not in the list yet, so that a start-up does not take it for an orphan.
    pub(super) handing: tokio::sync::Mutex<()>,
    /// Other processes' leases.
    pub(super) watch: Watch,
    pruned: Mutex<Option<Instant>>,
}

impl Floor {
    pub(super) fn new(workshop: Workshop) -> Self {
        Self {
            going: Mutex::default(),
            waiting: Mutex::default(),
            stuck: Mutex::default(),
            workshop,
            closed: AtomicBool::new(false),
            leased: AtomicBool::new(false),
            handing: tokio::sync::Mutex::default(),
            watch: Watch::default(),
            pruned: Mutex::default(),
        }
    }

    pub(super) fn open(&self) {
        self.closed.store(false, Ordering::SeqCst);
    }

    pub(super) fn note_lease(&self) {
        self.leased.store(true, Ordering::SeqCst);
    }

    /// Whether a missing lease was taken away; before the first one it is just not there yet.
    pub(super) fn had_lease(&self) -> bool {
        self.leased.load(Ordering::SeqCst)
    }

    /// The tasks that run in this process, each with one of its runs.
    pub(super) fn running(&self) -> HashMap<&'static str, String> {
        lock(&self.going).iter().map(|(run_id, going)| (going.task, run_id.clone())).collect()
    }

    pub(super) fn has(&self, run_id: &str) -> bool {
        lock(&self.going).contains_key(run_id)
    }

    /// Tells a run of this process to end; false if it is not here.
    pub(super) fn tell(&self, run_id: &str, why: &str) -> bool {
        lock(&self.going).get(run_id).is_some_and(|going| going.cancel.send(Some(why.to_owned())).is_ok())
    }

    pub(super) fn run_ids(&self) -> Vec<String> {
        lock(&self.going).keys().cloned().collect()
    }

    /// Whether history is to be pruned again; counts as done.
    pub(super) fn prune_due(&self) -> bool {
        let mut pruned = lock(&self.pruned);
        let due = pruned.is_none_or(|at| at.elapsed() >= PRUNE_EVERY);
        if due {
            *pruned = Some(Instant::now());
        }
        due
    }

    pub(super) fn is_stuck(&self, task: &str) -> bool {
        lock(&self.stuck).contains_key(task)
    }

    /// Before its row is claimed: a row under our lease that is not in the list would look like an orphan.
    pub(super) fn enter(&self, run_id: &str, task: &'static str) -> Cancel {
        let (cancel, told) = watch::channel(None);
        lock(&self.going).insert(run_id.to_owned(), Going { task, cancel });
        told
    }

    pub(super) fn leave(&self, run_id: &str) {
        lock(&self.going).remove(run_id);
    }

    /// Whether no run begins any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// No run begins any more: the daemon stops.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.going).is_empty()
    }

    /// Watches a thread that a work did not let go of; its task does not begin again beside it.
    pub(super) fn hold(self: &Arc<Self>, task: &'static str, thread: JoinHandle<()>) {
        *lock(&self.stuck).entry(task).or_default() += 1;
        let floor = self.clone();
        tokio::spawn(async move {
            let _ = thread.await; // however it ends, the thread is free again
            let mut stuck = lock(&floor.stuck);
            if let Some(count) = stuck.get_mut(task) {
                *count -= 1;
                if *count == 0 {
                    stuck.remove(task);
                }
            }
            tracing::warn!(task, "a run that was told to end has let go of its thread");
        });
    }

    /// Whether runs of the task wait; forgets it.
    pub(super) fn take_waiting(&self, task: &str) -> bool {
        lock(&self.waiting).remove(task)
    }

    pub(super) fn wait(&self, task: &'static str) {
        lock(&self.waiting).insert(task);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
