//! The archive's file while it is written. What is copied from the archive before shares its disk blocks with it where the file system
//! can do that (reflink), which needs the same place within a block on both sides; everything else is written.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::mpsc::{SyncSender, sync_channel},
    thread::JoinHandle,
};

use ring::digest::{Context as Digest, SHA256};

use crate::{
    error::{Doing as _, Result},
    layout::ALIGN,
    previous::Known,
};

const BUFFER: usize = 1 << 20;
/// So many bytes are written before they are synced for the first time.
const EARLY: u64 = 16 << 20;

pub(crate) struct Output<'a> {
    file: File,
    early: EarlySync,
    /// Bytes that were written since the last word to it.
    unsynced: u64,
    path: PathBuf,
    digest: Digest,
    /// Bytes so far, with those that wait.
    position: u64,
    /// Bytes that wait to be written before `position`.
    buffer: Vec<u8>,
    /// What is copied, if blocks can be shared.
    sharing: Option<&'a Known>,
    /// Bytes that wait to be copied before `position`, and where they stand in the archive before.
    run: Option<Run>,
    shared_bytes: u64,
}

#[derive(Clone, Copy)]
struct Run {
    from: u64,
    to: u64,
    bytes: u64,
}

pub(crate) struct Finished {
    pub(crate) bytes: u64,
    pub(crate) sha256: [u8; 32],
    pub(crate) shared_bytes: u64,
}

impl<'a> Output<'a> {
    pub(crate) fn new(file: File, path: &Path, previous: Option<&'a Known>) -> Self {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let sharing = match previous {
            Some(known) if shares_blocks(folder, &file, &known.file) => Some(known),
            _ => None,
        };
        Self {
            early: EarlySync::new(&file),
            unsynced: 0,
            file,
            path: path.to_owned(),
            digest: Digest::new(&SHA256),
            position: 0,
            buffer: Vec::with_capacity(BUFFER),
            sharing,
            run: None,
            shared_bytes: 0,
        }
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.end_run()?;
        self.digest.update(bytes);
        self.put(bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        self.position += bytes.len() as u64;
        if bytes.len() >= BUFFER {
            let at = self.position - bytes.len() as u64;
            self.file.write_all_at(bytes, at).doing(self.doing())?;
            self.unsynced += bytes.len() as u64;
            return Ok(());
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn doing(&self) -> String {
        format!("cannot write {}", self.path.display())
    }

    fn flush(&mut self) -> Result<()> {
        self.file.write_all_at(&self.buffer, self.position - self.buffer.len() as u64).doing(self.doing())?;
        self.unsynced += self.buffer.len() as u64;
        self.buffer.clear();
        if self.unsynced >= EARLY {
            self.unsynced = 0;
            self.early.wake();
        }
        Ok(())
    }

    /// Bytes that stand at `from` in the archive before.
    pub(crate) fn copy(&mut self, from: u64, bytes: &[u8]) -> Result<()> {
        if self.sharing.is_none() || from % ALIGN != self.position % ALIGN {
            return self.write(bytes);
        }
        self.digest.update(bytes);
        let length = bytes.len() as u64;
        match &mut self.run {
            Some(run) if run.from + run.bytes == from => run.bytes += length,
            _ => {
                self.end_run()?;
                self.flush()?;
                self.run = Some(Run { from, to: self.position, bytes: length });
            }
        }
        self.position += length;
        Ok(())
    }

    /// Copies what waits: whole blocks are shared, the ends are written.
    fn end_run(&mut self) -> Result<()> {
        let (Some(run), Some(known)) = (self.run.take(), self.sharing) else { return Ok(()) };
        let (from, to) = (&known.file, &self.file);
        let first = (run.to.next_multiple_of(ALIGN) - run.to).min(run.bytes);
        let whole = (run.bytes - first) / ALIGN * ALIGN;
        plain(from, run.from, to, run.to, first).doing(self.doing())?;
        let shared = share(from, run.from + first, to, run.to + first, whole).doing(self.doing())?;
        let rest = first + shared;
        plain(from, run.from + rest, to, run.to + rest, run.bytes - rest).doing(self.doing())?;
        self.shared_bytes += shared;
        Ok(())
    }

    /// Writes what waits and syncs the file.
    pub(crate) fn finish(mut self) -> Result<Finished> {
        self.end_run()?;
        self.flush()?;
        self.early.end().and_then(|()| self.file.sync_all()).doing(format!("cannot sync {}", self.path.display()))?;
        let sha256 = *self.digest.finish().as_ref().first_chunk().expect("SHA-256 is 32 bytes");
        Ok(Finished { bytes: self.position, sha256, shared_bytes: self.shared_bytes })
    }
}

/// Syncs what was written while the rest is still being made, so that the end does not wait for all of it. The kernel reports a failed
/// write to one sync of a file only, so what fails here would not fail again in the sync at the end: it is kept for that.
struct EarlySync {
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl EarlySync {
    fn new(file: &File) -> Self {
        let (wake, woken) = sync_channel(1);
        let thread = file.try_clone().ok().map(|file| {
            std::thread::spawn(move || {
                while woken.recv().is_ok() {
                    file.sync_data()?;
                }
                Ok(())
            })
        });
        Self { wake: Some(wake), thread }
    }

    fn wake(&self) {
        if let Some(wake) = &self.wake {
            let _ = wake.try_send(()); // it is at it already, or has failed
        }
    }

    /// Waits for it. The error of a sync that failed.
    fn end(&mut self) -> io::Result<()> {
        self.wake = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(synced)) => synced,
            Some(Err(_)) => Err(io::Error::other("the thread that syncs failed")),
            None => Ok(()),
        }
    }
}

impl Drop for EarlySync {
    fn drop(&mut self) {
        let _ = self.end(); // the archive is given up then
    }
}

/// Whether the file system shares blocks between two files: tried out, because no flag says so.
fn shares_blocks(folder: &Path, new: &File, before: &File) -> bool {
    let device = |file: &File| file.metadata().map(|m| m.dev()).ok();
    let tried = || -> io::Result<()> {
        let (one, two) = (tempfile::tempfile_in(folder)?, tempfile::tempfile_in(folder)?);
        one.write_all_at(&[1; 4096], 0)?;
        Ok(rustix::fs::ioctl_ficlone(&two, &one)?)
    };
    device(new).is_some_and(|new| device(before) == Some(new)) && tried().is_ok()
}

/// Shares whole blocks; answers how many bytes. The kernel clones ranges that begin and end with blocks where it can.
fn share(from: &File, mut from_at: u64, to: &File, mut to_at: u64, bytes: u64) -> io::Result<u64> {
    let mut left = bytes;
    while left > 0 {
        let step = usize::try_from(left).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut from_at), to, Some(&mut to_at), step) {
            Ok(n) if n > 0 => left -= n as u64,
            Err(rustix::io::Errno::INTR) => {}
            // It cannot after all: the rest is written.
            Ok(_) | Err(rustix::io::Errno::XDEV | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                break;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bytes - left)
}

fn plain(from: &File, from_at: u64, to: &File, to_at: u64, bytes: u64) -> io::Result<()> {
    let mut buffer = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX).min(BUFFER)];
    let mut done = 0;
    while done < bytes {
        let n = usize::try_from(bytes - done).unwrap_or(usize::MAX).min(buffer.len());
        from.read_exact_at(&mut buffer[..n], from_at + done)?;
        to.write_all_at(&buffer[..n], to_at + done)?;
        done += n as u64;
    }
    Ok(())
}
