//! The digests of large files, taken by a thread of its own: reading does not wait for them.

use std::sync::{
    Arc,
    mpsc::{Receiver, SyncSender},
};

use crate::buffers::Buffers;

/// Of a large file, in order.
pub(crate) enum Part {
    /// As many bytes of this content.
    Chunk(Arc<Vec<u8>>, usize),
    /// There is no more: asks for the digest.
    End(SyncSender<blake3::Hash>),
}

/// So many chunks may wait for it.
pub(crate) const WAITING: usize = 4;

pub(crate) fn take_digests(parts: &Receiver<Part>, pool: &Buffers) {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        match part {
            Part::Chunk(content, length) => {
                hasher.update(&content[..length]);
                pool.put_last(content);
            }
            Part::End(answer) => {
                let _ = answer.send(hasher.finalize()); // the reader may have given up
                hasher.reset();
            }
        }
    }
}
