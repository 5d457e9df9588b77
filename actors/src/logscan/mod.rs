//! Reads log files on from where it stopped: only whole lines, only new bytes, through rotation by renaming, by copying and truncating, and
//! through rewriting. Called by the incident scanner and measured by `benches`. It never changes a file, and never reads more than it may.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use crate::{
    domain::log_place::{Became, HEAD, Look, Place, TAIL, became, digest_of},
    error::{Context as _, Result},
};

/// Longer lines are cut for whoever looks at them.
pub const LONGEST_LINE: usize = 64 * 1024;
/// Read at a time. A line that does not end within it is too long: the first 64 KiB are looked at, the rest is passed over.
const CHUNK: usize = 256 * 1024;
/// Numbered files of a rotation that are looked for.
const ROTATED: u32 = 20;

/// What one look at the files came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Where each file stands now; those that are gone are not in it.
    pub places: BTreeMap<String, Place>,
    pub bytes: u64,
    /// Not read yet: what is over the limit, and last lines without an end.
    pub lag_bytes: u64,
    pub long_lines: u64,
    /// Files that were not the ones of the last time, with what became of them.
    pub changes: Vec<(String, Became)>,
    /// Files whose rest could not be found any more.
    pub lost: Vec<String>,
    /// Files that could not be read, with the error.
    pub unreadable: Vec<(String, String)>,
}

/// Reads what is new in the files of `folder` whose names are `wanted`, at most about `max_bytes` in all, fairly shared. `lines` gets the
/// file's name and blocks of whole lines, each with its end (a line that was cut for its length has none).
pub fn scan(
    folder: &Path,
    wanted: &dyn Fn(&str) -> bool,
    known: &BTreeMap<String, Place>,
    max_bytes: u64,
    lines: &mut dyn FnMut(&str, &[u8]),
) -> Result<Scan> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).context(format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        if let Some(name) = entry.file_name().to_str().filter(|name| wanted(name))
            && entry.file_type()?.is_file()
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    let mut scan = Scan::default();
    let mut left = max_bytes;
    for (n, name) in names.iter().enumerate() {
        // What one file does not use is there for those after it.
        let share = left / (names.len() - n) as u64;
        let before = scan.bytes;
        let mut one = OneFile { folder, name, budget: share.max(CHUNK as u64), scan: &mut scan };
        let place = one.read(known.get(name), lines);
        match place {
            Ok(place) => drop(scan.places.insert(name.clone(), place)),
            Err(error) => {
                scan.unreadable.push((name.clone(), error.to_string()));
                // It may be readable again: what was read of it stays read.
                scan.places.extend(known.get(name).map(|place| (name.clone(), place.clone())));
            }
        }
        left = left.saturating_sub(scan.bytes - before);
    }
    Ok(scan)
}

struct OneFile<'a> {
    folder: &'a Path,
    name: &'a str,
    budget: u64,
    scan: &'a mut Scan,
}

impl OneFile<'_> {
    fn read(&mut self, known: Option<&Place>, lines: &mut dyn FnMut(&str, &[u8])) -> Result<Place> {
        let current = self.folder.join(self.name);
        let Some(known) = known else { return self.anew(&current, lines) };
        let mut file = open(&current)?;
        let what = became(known, &look(&mut file, known)?);
        if what == Became::Same {
            return self.on(&mut file, known, true, lines);
        }
        self.scan.changes.push((self.name.to_owned(), what));
        // The rest of the one that was read lies beside it, if it was rotated; newer ones lie between.
        let Some(nth) = self.rotated(known) else {
            if known.offset > 0 {
                self.scan.lost.push(self.name.to_owned());
            }
            return self.anew(&current, lines);
        };
        let mut place = known.clone();
        for nth in (1..=nth).rev() {
            let mut file = open(&self.numbered(nth))?;
            if became(&place, &look(&mut file, &place)?) != Became::Same {
                place = start_of(&file)?;
            }
            let end = file.metadata()?.len();
            place = self.on(&mut file, &place, false, lines)?;
            if place.offset < end && self.budget == 0 {
                self.scan.lag_bytes += end - place.offset + fs::metadata(&current)?.len();
                return Ok(place);
            }
        }
        self.anew(&current, lines)
    }

    fn anew(&mut self, path: &Path, lines: &mut dyn FnMut(&str, &[u8])) -> Result<Place> {
        let mut file = open(path)?;
        let place = start_of(&file)?;
        self.on(&mut file, &place, true, lines)
    }

    /// Which numbered file holds what was read as `place`; the oldest has the highest number.
    fn rotated(&self, place: &Place) -> Option<u32> {
        (1..=ROTATED).find(|nth| {
            let file = File::open(self.numbered(*nth));
            file.is_ok_and(|mut file| look(&mut file, place).is_ok_and(|look| became(place, &look) == Became::Same))
        })
    }

    fn numbered(&self, nth: u32) -> PathBuf {
        self.folder.join(format!("{}.{nth}", self.name))
    }

    /// Reads on within one file. `grows`: a last line without an end may still get one; else it is a line.
    fn on(&mut self, file: &mut File, from: &Place, grows: bool, lines: &mut dyn FnMut(&str, &[u8])) -> Result<Place> {
        let (mut offset, mut skipping) = (from.offset, from.skipping);
        let end = file.metadata()?.len();
        if offset < end && self.budget > 0 {
            file.seek(SeekFrom::Start(offset))?;
            let mut buffer = vec![0; CHUNK];
            let mut filled = 0;
            while self.budget > 0 {
                let room = usize::try_from(self.budget).unwrap_or(usize::MAX).min(CHUNK - filled);
                let n = file.read(&mut buffer[filled..filled + room])?;
                if n == 0 {
                    if !grows && filled > 0 {
                        lines(self.name, &buffer[..filled]);
                        offset += filled as u64;
                    }
                    break;
                }
                (filled, self.budget, self.scan.bytes) = (filled + n, self.budget - n as u64, self.scan.bytes + n as u64);
                let mut start = 0;
                if skipping {
                    match buffer[..filled].iter().position(|byte| *byte == b'\n') {
                        Some(end) => (start, skipping) = (end + 1, false),
                        None => start = filled,
                    }
                }
                if let Some(last) = buffer[start..filled].iter().rposition(|byte| *byte == b'\n') {
                    lines(self.name, &buffer[start..=start + last]);
                    start += last + 1;
                } else if start == 0 && filled == CHUNK {
                    lines(self.name, &buffer[..LONGEST_LINE]);
                    self.scan.long_lines += 1;
                    (start, skipping) = (filled, true);
                }
                buffer.copy_within(start..filled, 0);
                offset += start as u64;
                filled -= start;
            }
        }
        if grows {
            self.scan.lag_bytes += end.saturating_sub(offset);
        }
        mark(file, offset, skipping)
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).context(format!("cannot open {}", path.display()))
}

fn start_of(file: &File) -> Result<Place> {
    let meta = file.metadata()?;
    Ok(Place { device: meta.dev(), inode: meta.ino(), ..Place::default() })
}

/// The place at `offset`, with what it will be known by.
fn mark(file: &File, offset: u64, skipping: bool) -> Result<Place> {
    let head_bytes = offset.min(HEAD);
    let part = |from: u64, bytes: u64| Ok::<_, crate::error::Error>(part(file, from, bytes)?.unwrap_or_default());
    let (head, tail) = (part(0, head_bytes)?, part(offset - offset.min(TAIL), offset.min(TAIL))?);
    Ok(Place { offset, head_bytes, head, tail, skipping, ..start_of(file)? })
}

fn look(file: &mut File, place: &Place) -> Result<Look> {
    let meta = file.metadata()?;
    let tail_bytes = place.offset.min(TAIL);
    Ok(Look {
        device: meta.dev(),
        inode: meta.ino(),
        bytes: meta.len(),
        head: part(file, 0, place.head_bytes)?,
        tail: part(file, place.offset - tail_bytes, tail_bytes)?,
    })
}

/// The digest of a part of a file; `None` if it is not that long.
fn part(file: &File, from: u64, bytes: u64) -> Result<Option<String>> {
    let mut buffer = vec![0; usize::try_from(bytes).unwrap_or_default()];
    match file.read_exact_at(&mut buffer, from) {
        Ok(()) => Ok(Some(digest_of(&buffer))),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
