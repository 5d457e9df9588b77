//! Goes through a whole archive: members are read and unpacked on all cores, their contents come in order, and every byte of the tar is
//! compared with what the entries say must stand there. What is damaged is reported by name and the walk goes on, so that one bad
//! member costs the files in it and no other.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{
    buffers::Buffers,
    entry::{BLOCK, Entry, Type},
    error::{Doing as _, Error, Result},
    member::{Unpacker, gap_of},
    order::{Jobs, in_order, threads},
    read::{Archive, ReadAt},
    toc::Member,
};

/// What is done with the entries.
pub(crate) trait Sink {
    /// A new entry; its header was as it must be, or `damaged`.
    fn begin(&mut self, entry: &Entry, damaged: bool) -> Result<()>;
    /// The next bytes of its content.
    fn data(&mut self, bytes: &[u8]) -> Result<()>;
    /// As many bytes that are not known: they were not read, or (`damaged`) could not be.
    fn gap(&mut self, bytes: u64, damaged: bool) -> Result<()>;
    fn end(&mut self) -> Result<()>;
}

/// How a walk goes.
pub(crate) struct Walk<'a> {
    pub(crate) threads: usize,
    /// Whether the member with that number is read.
    pub(crate) wanted: &'a (dyn Fn(u64, &Member) -> bool + Sync),
    /// Bytes of tar gone through.
    pub(crate) done: &'a AtomicU64,
    /// Raised when it is to stop.
    pub(crate) stop: &'a std::sync::atomic::AtomicBool,
}

enum Piece {
    /// A member's content.
    Content(Vec<u8>),
    /// A member that was not wanted.
    Unread(u64),
    /// A member that is damaged, and how.
    Damaged(u64, String),
    /// Between members something is damaged that belongs to no file.
    Gap(String),
}

impl Walk<'_> {
    /// Answers what is damaged, one sentence each. Errors are those of the table of contents, the sink and the file system.
    pub(crate) fn run<S: ReadAt>(&self, archive: &Archive<S>, sink: &mut dyn Sink) -> Result<Vec<String>> {
        let mut tar =
            Tar { entries: Box::new(archive.entries()), step: Step::Next, current: None, header: Vec::new(), header_damaged: false };
        let mut damage = Vec::new();
        let make = |jobs: &Jobs<Member, Piece>| {
            let mut at = 0;
            for (number, m) in archive.members().enumerate() {
                if self.stop.load(Ordering::Relaxed) {
                    return Err(Error::Stopped);
                }
                let m = m?;
                if let Some(what) = gap_damage(archive, at, m.offset)? {
                    jobs.done(Piece::Gap(what))?;
                }
                at = m.offset.saturating_add(m.size.into());
                if (self.wanted)(number as u64, &m) { jobs.push(m)? } else { jobs.done(Piece::Unread(m.content.into()))? }
            }
            if let Some(what) = gap_damage(archive, at, archive.footer().toc_offset)? {
                jobs.done(Piece::Gap(what))?;
            }
            Ok(())
        };
        let contents = Buffers::default();
        let work = |(unpacker, bytes): &mut (Unpacker, Vec<u8>), m: Member| {
            let mut content = contents.any();
            match archive.unpack(&m, unpacker, bytes, &mut content) {
                Ok(()) => Piece::Content(content),
                Err(error) => Piece::Damaged(m.content.into(), error.to_string()),
            }
        };
        let take = |piece| {
            let bytes = match piece {
                Piece::Content(content) => {
                    tar.content(&content, sink)?;
                    let bytes = content.len() as u64;
                    contents.put(content);
                    bytes
                }
                Piece::Unread(bytes) => tar.gap(bytes, false, sink).map(|()| bytes)?,
                Piece::Damaged(bytes, what) => {
                    damage.push(what);
                    tar.gap(bytes, true, sink).map(|()| bytes)?
                }
                Piece::Gap(what) => {
                    damage.push(what);
                    0
                }
            };
            self.done.fetch_add(bytes, Ordering::Relaxed);
            Ok(())
        };
        in_order(threads(self.threads), make, Default::default, work, take)?;
        tar.finish(sink)?;
        Ok(damage)
    }
}

/// Between two members there is nothing, or one empty member of exactly that size.
fn gap_damage<S: ReadAt>(archive: &Archive<S>, from: u64, to: u64) -> Result<Option<String>> {
    if from == to {
        return Ok(None);
    }
    let expected = to.checked_sub(from).and_then(|size| gap_of(usize::try_from(size).ok()?));
    let Some(expected) = expected else { return Ok(Some(format!("bytes {from} to {to} belong to no member"))) };
    let mut found = vec![0; expected.len()];
    archive.source().read_exact_at(&mut found, from).doing("cannot read the archive")?;
    Ok((found != expected).then(|| format!("the padding at byte {from} is damaged")))
}

/// Where in the tar we are.
enum Step {
    /// At an entry's beginning, or after the last one.
    Next,
    /// So many bytes of the header have been seen.
    Header(usize),
    /// So many bytes of content, and of padding after it, are left.
    Content(u64),
    Padding(usize),
    /// After the last entry two blocks of zeros; so many bytes are left.
    End(usize),
}

struct Tar<'a> {
    entries: Box<dyn Iterator<Item = Result<Entry>> + 'a>,
    step: Step,
    current: Option<Entry>,
    header: Vec<u8>,
    header_damaged: bool,
}

impl Tar<'_> {
    /// Goes on to the state in which bytes can be taken.
    fn settle(&mut self, sink: &mut dyn Sink) -> Result<()> {
        loop {
            match self.step {
                Step::Next => match self.entries.next().transpose()? {
                    Some(entry) => {
                        self.header = entry.header();
                        (self.current, self.header_damaged, self.step) = (Some(entry), false, Step::Header(0));
                    }
                    None => self.step = Step::End(2 * BLOCK),
                },
                Step::Header(seen) if seen == self.header.len() => {
                    let entry = self.current.as_ref().expect("an entry has a header");
                    sink.begin(entry, self.header_damaged)?;
                    self.step = Step::Content(if entry.kind == Type::File { entry.size } else { 0 });
                }
                Step::Content(0) => self.step = Step::Padding(self.current.as_ref().map_or(0, Entry::padding)),
                Step::Padding(0) => {
                    sink.end()?;
                    self.step = Step::Next;
                }
                _ => return Ok(()),
            }
        }
    }

    fn content(&mut self, mut bytes: &[u8], sink: &mut dyn Sink) -> Result<()> {
        while !bytes.is_empty() {
            self.settle(sink)?;
            let n = self.room(bytes.len() as u64);
            let (now, rest) = bytes.split_at(n);
            match &mut self.step {
                Step::Header(seen) => {
                    if self.header[*seen..*seen + n] != *now {
                        let name = self.current.as_ref().map_or("", |e| e.path.as_str());
                        return Err(Error::damaged(format!("{name}: its header is not the one that the table of contents asks for")));
                    }
                    *seen += n;
                }
                Step::Content(left) => {
                    sink.data(now)?;
                    *left -= n as u64;
                }
                Step::Padding(left) | Step::End(left) => {
                    if n == 0 || now.iter().any(|byte| *byte != 0) {
                        return Err(Error::damaged("there is something where the tar must have zeros"));
                    }
                    *left -= n;
                }
                Step::Next => return Err(Error::damaged("the tar goes on after its end")),
            }
            bytes = rest;
        }
        Ok(())
    }

    /// How many of so many bytes the present step takes.
    fn room(&self, bytes: u64) -> usize {
        let room = match self.step {
            Step::Header(seen) => (self.header.len() - seen) as u64,
            Step::Content(left) => left,
            Step::Padding(left) | Step::End(left) => left as u64,
            Step::Next => 0,
        };
        usize::try_from(room.min(bytes)).expect("pieces are small")
    }

    /// Bytes that are not known.
    fn gap(&mut self, mut bytes: u64, damaged: bool, sink: &mut dyn Sink) -> Result<()> {
        while bytes > 0 {
            self.settle(sink)?;
            let n = self.room(bytes);
            match &mut self.step {
                Step::Header(seen) => {
                    *seen += n;
                    self.header_damaged |= damaged;
                }
                Step::Content(left) => {
                    sink.gap(n as u64, damaged)?;
                    *left -= n as u64;
                }
                Step::Padding(left) | Step::End(left) if n > 0 => *left -= n,
                _ => return Err(Error::damaged("the tar goes on after its end")),
            }
            bytes -= n as u64;
        }
        Ok(())
    }

    fn finish(&mut self, sink: &mut dyn Sink) -> Result<()> {
        self.settle(sink)?;
        if matches!(self.step, Step::End(0)) { Ok(()) } else { Err(Error::damaged("the tar ends too early")) }
    }
}
