//! The last resort: a thread of its own, outside the async runtime, that sees whether the runtime still runs. A handler that blocks its
//! thread takes a worker out of it; the worker may be the one that waits for timers and sockets, so the guard's tasks also make
//! another one take that over, and the supervisor can do its work. With every worker blocked nobody is left to do so: then the
//! process ends here, with the code of a critical part that cannot be restarted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::runtime::Handle;

use super::exit::Outcome;

/// Guards until it is dropped.
#[derive(Debug)]
pub(crate) struct Guard(Arc<AtomicBool>);

impl Guard {
    /// `limit` is how long the runtime may stand still. Time in which the guard did not run either (a stopped process, a machine
    /// that slept) does not count.
    pub(crate) fn start(runtime: Handle, limit: Duration) -> std::io::Result<Self> {
        let step = (limit / 20).clamp(Duration::from_millis(20), Duration::from_secs(1));
        let (off, moved) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let guard = Self(off.clone());
        std::thread::Builder::new().name("guard".to_owned()).spawn(move || {
            let mut still = Duration::ZERO;
            while !off.load(Ordering::Relaxed) {
                let mark = moved.clone();
                runtime.spawn(async move { mark.store(true, Ordering::Relaxed) });
                std::thread::sleep(step);
                still = if moved.swap(false, Ordering::Relaxed) { Duration::ZERO } else { still + step };
                if still >= limit && !off.load(Ordering::Relaxed) {
                    let still_ms = still.as_millis();
                    tracing::error!(still_ms, "nothing runs any more: every thread is blocked by a handler; the process ends");
                    eprintln!("echopilot: nothing ran for {still_ms} ms: every thread is blocked; ending");
                    std::process::exit(Outcome::Fatal.exit_code().into());
                }
            }
        })?;
        Ok(guard)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
