//! Reads a file of JSON lines in pieces, parses them on every core and puts the rows into the reconciliation. Memory holds the rows and
//! a few pieces, never a file. Every line that is wrong is told with its number; the file is read to its end all the same.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use echopilot_actors::domain::reconcile::{LedgerView, Payout, RowDigest, Sides, TransactionView, ledger_line, transaction_line};
use serde_json::{Value as Json, json};

use super::super::output::Progress;

/// So much is read and parsed at a time.
const PIECE: usize = 1 << 20;
/// A longer line is not a row.
const LONGEST_LINE: usize = 16 << 20;
/// So many problems of a file are told.
const TOLD: usize = 20;

/// What a file has in its lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Payouts,
    Transactions,
    Ledger,
}

/// A row of a file and the digest of what it says.
enum Row<'a> {
    Payout(Payout),
    Transaction(TransactionView<'a>, RowDigest),
    Ledger(LedgerView<'a>, RowDigest),
}

/// What is wrong with the input.
#[derive(Debug, Default)]
pub(super) struct Problems {
    /// (file, line, what), a few of each file; line 0 is the file as a whole.
    told: Vec<(String, u64, String)>,
    more: Vec<String>,
}

impl Problems {
    pub(super) fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// Adds those of one file.
    pub(super) fn add(&mut self, file: &str, mut found: Vec<(u64, String)>) {
        found.sort_unstable();
        if found.len() > TOLD {
            self.more.push(format!("{file}: {} more lines are wrong", found.len() - TOLD));
        }
        self.told.extend(found.into_iter().take(TOLD).map(|(line, what)| (file.to_owned(), line, what)));
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let place = |file: &str, line: u64| if line == 0 { file.to_owned() } else { format!("{file}, line {line}") };
        let mut lines: Vec<String> = self.told.iter().map(|(file, line, what)| format!("{}: {what}", place(file, *line))).collect();
        lines.extend(self.more.iter().cloned());
        lines
    }

    pub(super) fn to_json(&self) -> Json {
        self.told.iter().map(|(file, line, what)| json!({"file": file, "line": (*line > 0).then_some(line), "message": what})).collect()
    }
}

/// The name of a file as it is told.
pub(super) fn name(path: &Path) -> String {
    if path.as_os_str() == "-" { "standard input".to_owned() } else { path.display().to_string() }
}

/// A reader that counts what passes.
struct Counted<R> {
    inner: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Opens a file or standard input, unpacking what is packed; answers the bytes read so far and how many there are (0: nobody knows).
pub(super) fn open(path: &Path) -> io::Result<(Box<dyn Read + Send>, Arc<AtomicU64>, u64)> {
    let bytes = Arc::new(AtomicU64::new(0));
    if path.as_os_str() == "-" {
        return Ok((Box::new(Counted { inner: io::stdin(), bytes: bytes.clone() }), bytes, 0));
    }
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "this is a directory"));
    }
    let (total, counted) = (metadata.len(), Counted { inner: file, bytes: bytes.clone() });
    let packed = path.extension().is_some_and(|extension| extension == "gz");
    let reader: Box<dyn Read + Send> = if packed { Box::new(flate2::read::MultiGzDecoder::new(counted)) } else { Box::new(counted) };
    Ok((reader, bytes, total))
}

/// Whole lines of a file, a piece at a time.
struct Pieces {
    reader: Box<dyn Read + Send>,
    /// The beginning of a line whose end is not read yet.
    rest: Vec<u8>,
    /// The number of the next line.
    line: u64,
    ended: bool,
}

impl Pieces {
    /// Fills `piece` with whole lines; answers the number of the first, none at the end.
    fn next(&mut self, piece: &mut Vec<u8>) -> Result<Option<u64>, (u64, String)> {
        piece.clear();
        piece.append(&mut self.rest);
        while !self.ended {
            let goal = PIECE.max(piece.len() + PIECE / 4);
            let wanted = (goal - piece.len()) as u64;
            let count = self.reader.by_ref().take(wanted).read_to_end(piece);
            match count {
                Ok(count) => self.ended = (count as u64) < wanted,
                Err(error) => {
                    self.ended = true;
                    return Err((self.line + lines_in(piece), format!("cannot be read: {error}")));
                }
            }
            if let Some(end) = piece.iter().rposition(|byte| *byte == b'\n') {
                self.rest.extend_from_slice(&piece[end + 1..]);
                piece.truncate(end + 1);
                break;
            }
            if piece.len() > LONGEST_LINE {
                self.ended = true;
                return Err((self.line, format!("the line is longer than {} MiB", LONGEST_LINE >> 20)));
            }
        }
        if piece.is_empty() && !self.rest.is_empty() {
            piece.append(&mut self.rest);
        }
        let first = self.line;
        self.line += lines_in(piece);
        Ok((!piece.is_empty()).then_some(first))
    }
}

fn lines_in(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads a file into `sides`, on every core.
pub(super) fn read(path: &Path, input: Input, sides: Sides, problems: &mut Problems, quiet: bool) -> Sides {
    let file = name(path);
    let (reader, done, total) = match open(path) {
        Ok(opened) => opened,
        Err(error) => {
            problems.add(&file, vec![(0, format!("cannot be read: {error}"))]);
            return sides;
        }
    };
    let progress = Progress::new(match input {
        Input::Payouts => "payouts",
        Input::Transactions => "balance transactions",
        Input::Ledger => "ledger",
    });
    let shown = !quiet && total > 0;
    let pieces = Mutex::new(Pieces { reader, rest: Vec::new(), line: 1, ended: false });
    let (sides, found) = (Mutex::new(sides), Mutex::new(Vec::new()));
    let work = || {
        let mut piece = Vec::new();
        loop {
            let next = locked(&pieces).next(&mut piece);
            let first = match next {
                Ok(Some(first)) => first,
                Ok(None) => return,
                Err(problem) => return locked(&found).push(problem),
            };
            parse(&piece, first, input, &sides, &found);
            if shown {
                progress.at(done.load(Ordering::Relaxed) >> 20, total >> 20);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(8);
    std::thread::scope(|scope| {
        (1..threads).for_each(|_| _ = scope.spawn(work));
        work();
    });
    problems.add(&file, found.into_inner().unwrap_or_else(PoisonError::into_inner));
    sides.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Parses whole lines on its own and then puts them in under the lock.
fn parse(piece: &[u8], first: u64, input: Input, sides: &Mutex<Sides>, found: &Mutex<Vec<(u64, String)>>) {
    let mut rows = Vec::with_capacity(PIECE / 128);
    for (number, line) in (first..).zip(piece.split(|byte| *byte == b'\n')) {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match row(line, input) {
            Ok(row) => rows.push(row),
            Err(what) => locked(found).push((number, what)),
        }
    }
    let mut sides = locked(sides);
    for row in rows {
        match row {
            Row::Payout(payout) => sides.payout(payout),
            Row::Transaction(view, digest) => sides.transaction(&view, digest),
            Row::Ledger(view, digest) => sides.line(&view, digest),
        }
    }
}

fn row(line: &[u8], input: Input) -> Result<Row<'_>, String> {
    Ok(match input {
        Input::Payouts => {
            let value: Json = serde_json::from_slice(line).map_err(|e| format!("this is not JSON: {e}"))?;
            if !value.is_object() {
                return Err("this is not a JSON object".to_owned());
            }
            Row::Payout(Payout::from_json(&value)?)
        }
        Input::Transactions => {
            let view = transaction_line(line)?;
            let digest = view.digest();
            Row::Transaction(view, digest)
        }
        Input::Ledger => {
            let view = ledger_line(line)?;
            let digest = view.digest();
            Row::Ledger(view, digest)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_whole_lines_with_their_numbers_whatever_the_reader_gives() {
        let text: String = (0..40_000).map(|n| format!("{n}{}\n", "x".repeat(n % 90))).collect::<String>() + "the last has no end";
        let mut pieces = Pieces { reader: Box::new(io::Cursor::new(text.clone().into_bytes())), rest: Vec::new(), line: 1, ended: false };
        let (mut piece, mut all, mut count) = (Vec::new(), Vec::new(), 0);
        while let Some(first) = pieces.next(&mut piece).unwrap() {
            let number = piece.split(|b| !b.is_ascii_digit()).next().map(|digits| String::from_utf8_lossy(digits).into_owned()).unwrap();
            assert!(number.is_empty() || number == (first - 1).to_string(), "{number} at line {first}");
            all.extend_from_slice(&piece);
            count += 1;
        }
        assert!(count > 1 && all == text.as_bytes(), "{count} pieces");
    }

    #[test]
    fn a_line_without_an_end_is_refused_before_it_fills_the_memory() {
        let endless = io::repeat(b'x').take(1 << 30);
        let mut pieces = Pieces { reader: Box::new(endless), rest: Vec::new(), line: 1, ended: false };
        let (line, what) = pieces.next(&mut Vec::new()).unwrap_err();
        assert_eq!((line, what.as_str()), (1, "the line is longer than 16 MiB"));
    }
}
