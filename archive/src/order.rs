//! Work on all cores whose results come in order: one thread makes the jobs, some do them, the caller takes the results. What waits
//! is bounded, so memory does not grow with the work.

use std::{
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread,
};

use crate::error::{Error, Result};

/// Hands on jobs in the order in which their results are wanted.
pub(crate) struct Jobs<J, R> {
    todo: Sender<(J, SyncSender<R>)>,
    order: SyncSender<(Kind, Receiver<R>)>,
    /// One for each job that may be under way.
    places: Receiver<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Job,
    Done,
}

/// Results that needed no work and wait for their turn; they are small.
const WAITING: usize = 4096;

impl<J, R> Jobs<J, R> {
    /// A job for the workers. `Stopped` if nobody takes results any more.
    pub(crate) fn push(&self, job: J) -> Result<()> {
        self.places.recv().map_err(|_| Error::Stopped)?;
        let (give, take) = sync_channel(1);
        self.order.send((Kind::Job, take)).map_err(|_| Error::Stopped)?;
        self.todo.send((job, give)).map_err(|_| Error::Stopped)
    }

    /// A result that needs no work.
    pub(crate) fn done(&self, result: R) -> Result<()> {
        let (give, take) = sync_channel(1);
        let _ = give.send(result); // there is room for one
        self.order.send((Kind::Done, take)).map_err(|_| Error::Stopped)
    }
}

/// Runs `make`, `threads` workers with a state of their own each, and `take` on the calling thread. The first error of `take` counts,
/// then that of `make`.
pub(crate) fn in_order<J: Send, R: Send, S>(
    threads: usize,
    make: impl FnOnce(&Jobs<J, R>) -> Result<()> + Send,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, J) -> R + Sync,
    mut take: impl FnMut(R) -> Result<()>,
) -> Result<()> {
    let (todo, jobs) = channel::<(J, SyncSender<R>)>();
    let (order, results) = sync_channel::<(Kind, Receiver<R>)>(WAITING);
    let (free, places) = channel();
    for _ in 0..2 * threads + 2 {
        let _ = free.send(()); // the other end is there
    }
    let jobs = Mutex::new(jobs);
    thread::scope(|scope| {
        let maker = scope.spawn(move || make(&Jobs { todo, order, places }));
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let mut state = state();
                loop {
                    let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((job, give)) = job else { return };
                    let _ = give.send(work(&mut state, job)); // nobody waits for it after an error
                }
            });
        }
        let mut taken = Ok(());
        for (kind, result) in results {
            taken = match result.recv() {
                Ok(result) => take(result),
                Err(_) => Err(Error::Stopped), // the worker panicked: the scope passes it on
            };
            if taken.is_err() {
                break;
            }
            if kind == Kind::Job {
                let _ = free.send(()); // the maker may have ended
            }
        }
        // Both are gone then: the maker's next job fails and the workers run dry.
        drop(free);
        let made = maker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        taken.and(made)
    })
}

/// How many threads `wanted` means: 0 is one for each core, and one for while another waits for its reads.
pub(crate) fn threads(wanted: usize) -> usize {
    if wanted > 0 { wanted } else { thread::available_parallelism().map_or(2, usize::from) + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        for threads in [1, 2, 7] {
            let mut got = Vec::new();
            let make = |jobs: &Jobs<u64, u64>| {
                for n in 0..500 {
                    if n % 3 == 0 { jobs.done(n)? } else { jobs.push(n)? }
                }
                Ok(())
            };
            in_order(
                threads,
                make,
                || (),
                |(), n| n,
                |n| {
                    got.push(n);
                    Ok(())
                },
            )
            .unwrap();
            assert_eq!(got, (0..500).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_error_of_the_taker_ends_it_all() {
        let make = |jobs: &Jobs<u64, u64>| (0..).try_for_each(|n| jobs.push(n));
        let result = in_order(2, make, || (), |(), n| n, |n| if n == 100 { Err(Error::damaged("enough")) } else { Ok(()) });
        assert_eq!(result.unwrap_err().to_string(), "enough");
    }
}
