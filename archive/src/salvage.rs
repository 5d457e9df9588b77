//! What can still be got out of an archive whose table of contents is damaged or cut off: members name their own size, so they are
//! found one after the other, and after damage by looking for the next one. Each stretch of whole members that begins with a tar header
//! is read as a tar of its own; a file that runs into damage is named and left out.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::atomic::Ordering,
};

use crate::{
    entry::BLOCK,
    error::{Doing as _, Error, Result},
    member::{HEAD, Unpacker, sizes},
    name::{Kind, Members, safe_member_path},
    read::ReadAt as _,
    restore::{Options, Restored},
    scan::Note,
    stream::{describe, hand_over},
    writer::Writer,
};

/// Looked through at a time for the next member.
const WINDOW: usize = 1 << 20;

/// Restores what can be read into `target`, which must be empty or absent. Links are not restored: without the table they cannot be
/// told from what a hostile archive would put there. Errors: `InTheWay`, `Damaged` if there is not one whole member.
pub fn salvage(file: &File, target: &Path, options: &Options<'_>) -> Result<Restored> {
    let mut stretch = Stretch::of(file)?;
    crate::restore::into_new(target, &mut |root| {
        let mut writer = Writer::below(root, options)?;
        let (mut names, mut any) = (Members::default(), false);
        while stretch.begin()? {
            any = true;
            if options.stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            read_stretch(&mut stretch, &mut names, &mut writer)?;
        }
        if !any {
            return Err(Error::damaged("there is nothing in it that can be read"));
        }
        let lost = std::mem::take(&mut stretch.lost);
        writer.finish(lost)
    })
}

fn read_stretch(stretch: &mut Stretch<'_>, names: &mut Members, writer: &mut Writer<'_>) -> Result<()> {
    let mut archive = tar::Archive::new(stretch);
    let Ok(entries) = archive.entries() else { return Ok(()) };
    for entry in entries {
        let Ok(mut entry) = entry else { return Ok(()) }; // the stretch ends within a header
        let found = match describe(&entry) {
            Ok(found) => found,
            Err(error) => {
                writer.leave_out(Note { path: String::from_utf8_lossy(&entry.path_bytes()).into_owned(), what: error.to_string() });
                continue;
            }
        };
        let path = safe_member_path(&found.name()).map_err(Error::Refused)?;
        let kind = if found.kind == crate::entry::Type::Dir { Kind::Directory } else { Kind::File };
        if let Err(what) = names.add(&path, kind) {
            writer.leave_out(Note { path: found.path, what });
            continue;
        }
        match hand_over(&found, &mut entry, writer) {
            Err(Error::Damaged(_)) => return writer.give_up("it runs into damage"),
            other => other?,
        }
    }
    Ok(())
}

/// The content of whole members, one after the other, until something is damaged.
struct Stretch<'a> {
    file: &'a File,
    size: u64,
    /// Where the next member is looked for.
    at: u64,
    unpacker: Unpacker,
    content: Vec<u8>,
    read: usize,
    /// Damaged places.
    lost: Vec<String>,
}

impl<'a> Stretch<'a> {
    fn of(file: &'a File) -> Result<Self> {
        let size = file.size().doing("cannot look at the archive")?;
        Ok(Self { file, size, at: 0, unpacker: Unpacker::default(), content: Vec::new(), read: 0, lost: Vec::new() })
    }

    /// Goes to the next member that begins with a tar header; false if there is none.
    fn begin(&mut self) -> Result<bool> {
        while let Some(skipped) = self.find()? {
            if skipped > 0 {
                self.lost.push(format!("{skipped} bytes before byte {} cannot be read", self.at));
            }
            if self.unpack()? {
                if is_header(&self.content) {
                    self.read = 0;
                    return Ok(true);
                }
            } else {
                self.lost.push(format!("the member at byte {} is damaged", self.at));
                self.at += 1;
            }
        }
        Ok(false)
    }

    /// Looks for the head of a member from `at` on; answers how many bytes were passed over.
    fn find(&mut self) -> Result<Option<u64>> {
        let from = self.at;
        let mut window = vec![0; WINDOW + HEAD];
        while self.at < self.size {
            let n = usize::try_from(self.size - self.at).unwrap_or(usize::MAX).min(window.len());
            self.file.read_exact_at(&mut window[..n], self.at).doing("cannot read the archive")?;
            let place = window[..n].windows(HEAD.min(n)).position(|bytes| sizes(bytes).is_some());
            match place {
                Some(place) => {
                    self.at += place as u64;
                    let passed = self.at - from;
                    return Ok(Some(if self.is_filling(from, passed)? { 0 } else { passed }));
                }
                None => self.at += n.saturating_sub(HEAD - 1).max(1) as u64,
            }
        }
        Ok(None)
    }

    /// Whether that is the padding between two members.
    fn is_filling(&self, from: u64, bytes: u64) -> Result<bool> {
        let Some(expected) = usize::try_from(bytes).ok().and_then(crate::member::gap_of) else { return Ok(bytes == 0) };
        let mut found = vec![0; expected.len()];
        self.file.read_exact_at(&mut found, from).doing("cannot read the archive")?;
        Ok(found == expected)
    }

    /// Unpacks the member at `at` and goes behind it; false if it is damaged.
    fn unpack(&mut self) -> Result<bool> {
        let mut head = [0; HEAD];
        if self.size - self.at < HEAD as u64 {
            return Ok(false);
        }
        self.file.read_exact_at(&mut head, self.at).doing("cannot read the archive")?;
        let Some((size, _)) = sizes(&head).filter(|(size, _)| u64::from(*size) <= self.size - self.at) else { return Ok(false) };
        let mut member = vec![0; size as usize];
        self.file.read_exact_at(&mut member, self.at).doing("cannot read the archive")?;
        if self.unpacker.unpack(&member, &mut self.content).is_err() {
            return Ok(false);
        }
        self.at += u64::from(size);
        Ok(true)
    }
}

impl Read for Stretch<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.content.len() {
            let before = self.at;
            let found = self.find().map_err(io::Error::other)?;
            // Nothing may be missing within a stretch.
            if found != Some(0) || !self.unpack().map_err(io::Error::other)? {
                self.at = before;
                self.content.clear();
                self.read = 0;
                return Ok(0);
            }
            self.read = 0;
        }
        let n = buffer.len().min(self.content.len() - self.read);
        buffer[..n].copy_from_slice(&self.content[self.read..self.read + n]);
        self.read += n;
        Ok(n)
    }
}

/// Whether a tar header stands here, by its checksum.
fn is_header(content: &[u8]) -> bool {
    let Some(block) = content.get(..BLOCK) else { return false };
    let sum = |block: &[u8]| block.iter().enumerate().map(|(n, b)| if (148..156).contains(&n) { 32 } else { u32::from(*b) }).sum::<u32>();
    let written = std::str::from_utf8(&block[148..154]).ok().and_then(|text| u32::from_str_radix(text.trim_matches('\0'), 8).ok());
    block[257..262] == *b"ustar" && written == Some(sum(block))
}
