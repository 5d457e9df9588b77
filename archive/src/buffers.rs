//! Buffers that were used before: a fresh one costs as much as filling it, because the kernel hands out zeroed pages.

use std::sync::{Arc, Mutex, PoisonError};

/// Kept for the next user; what is above this goes back to the system.
const KEPT: usize = 64;

#[derive(Default)]
pub(crate) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    /// An empty buffer.
    pub(crate) fn empty(&self) -> Vec<u8> {
        let mut buffer = self.take();
        buffer.clear();
        buffer
    }

    /// A buffer of that length with anything in it.
    pub(crate) fn of(&self, length: usize) -> Vec<u8> {
        let mut buffer = self.take();
        buffer.resize(length, 0); // only what is new is filled
        buffer
    }

    /// A buffer with anything in it, for somebody who sets its length.
    pub(crate) fn any(&self) -> Vec<u8> {
        self.take()
    }

    fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// One that others have too: the last of them puts it back.
    pub(crate) fn put_last(&self, buffer: Arc<Vec<u8>>) {
        if let Some(buffer) = Arc::into_inner(buffer) {
            self.put(buffer);
        }
    }

    pub(crate) fn put(&self, buffer: Vec<u8>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(buffer);
        }
    }
}
