//! The table of contents: lines of JSON, compressed as one raw deflate stream (RFC 1951), in the order of the archive. The first line
//! names the format, `m` lines are the members, `e` lines the entries, the last line has the sums. It is written to a spool as the
//! archive grows and read as a stream, so that its size costs no memory.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read, Seek as _, SeekFrom, Write},
};

use flate2::{Compression, bufread::DeflateDecoder, write::DeflateEncoder};
use ring::digest::{Context as Digest, SHA256};
use serde::{Deserialize, Serialize};

use crate::{
    entry::Entry,
    error::{Doing as _, Error, Result},
    hex,
    member::{self, Footer, TOC_PIECE},
    read::ReadAt,
};

/// A line is a path and a link, each escaped, and a few numbers.
const MAX_LINE: u64 = 64 << 10;

/// One content member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it begins in the archive, and its bytes there.
    pub offset: u64,
    pub size: u32,
    /// Bytes of its content.
    pub content: u32,
    /// BLAKE3 of the content: what the next archive finds it by.
    pub key: [u8; 32],
    /// BLAKE3 of the member as it lies in the archive.
    pub sum: [u8; 32],
}

/// The last line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sums {
    pub entries: u64,
    pub files: u64,
    /// Bytes of all files together.
    pub bytes: u64,
    pub members: u64,
    /// Bytes of the tar.
    pub tar: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Format {
    #[serde(rename = "format")]
    name: String,
    version: u32,
    deflate: String,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line<'a> {
    /// Offset, size, size of the content, key, sum.
    M(u64, u32, u32, Cow<'a, str>, Cow<'a, str>),
    E(Entry),
    End(Sums),
}

/// A row, in the order in which it was written.
#[derive(Debug)]
pub enum Row {
    Member(Member),
    Entry(Entry),
    End(Sums),
    /// A row that is not wanted and was not looked at.
    Skipped,
}

const FORMAT: &str = "echopilot-archive";

/// Writes the table to a spool.
pub struct Writer {
    encoder: DeflateEncoder<BufWriter<File>>,
    bytes: u64,
}

impl Writer {
    /// `spool` is an empty temporary file.
    pub fn new(spool: File) -> Result<Self> {
        let mut writer = Self { encoder: DeflateEncoder::new(BufWriter::new(spool), Compression::new(6)), bytes: 0 };
        writer.line(&Format { name: FORMAT.into(), version: member::VERSION, deflate: member::DEFLATE.into() })?;
        Ok(writer)
    }

    fn line(&mut self, value: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_vec(value).map_err(io::Error::from).doing("cannot write the table of contents")?;
        text.push(b'\n');
        self.bytes += text.len() as u64;
        self.encoder.write_all(&text).doing("cannot write the table of contents")
    }

    pub fn member(&mut self, m: &Member) -> Result<()> {
        self.line(&Line::M(m.offset, m.size, m.content, hex::encode(&m.key).into(), hex::encode(&m.sum).into()))
    }

    pub fn entry(&mut self, entry: Entry) -> Result<()> {
        self.line(&Line::E(entry))
    }

    /// Appends the table and the footer to `out`, an archive that has `toc_offset` bytes. Answers the table's SHA-256.
    pub fn finish(mut self, sums: Sums, toc_offset: u64, out: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<[u8; 32]> {
        self.line(&Line::End(sums))?;
        let doing = "cannot write the table of contents";
        let spool = self.encoder.finish().doing(doing)?;
        let mut spool = spool.into_inner().map_err(io::IntoInnerError::into_error).doing(doing)?;
        spool.seek(SeekFrom::Start(0)).doing(doing)?;
        let (mut digest, mut compressed) = (Digest::new(&SHA256), 0);
        let (mut piece, mut member) = (Vec::with_capacity(TOC_PIECE), Vec::new());
        loop {
            piece.clear();
            let n = (&mut spool).take(TOC_PIECE as u64).read_to_end(&mut piece).doing(doing)?;
            if n == 0 {
                break;
            }
            digest.update(&piece);
            compressed += n as u64;
            member.clear();
            member::toc_piece(&piece, &mut member);
            out(&member)?;
        }
        let toc_sha256 = *digest.finish().as_ref().first_chunk().expect("SHA-256 is 32 bytes");
        out(&Footer { toc_offset, toc_compressed: compressed, toc_bytes: self.bytes, toc_sha256 }.encode())?;
        Ok(toc_sha256)
    }
}

/// The compressed table, out of the members that carry it.
pub(crate) struct Pieces<'a> {
    source: &'a dyn ReadAt,
    at: u64,
    left: u64,
    piece: Vec<u8>,
    read: usize,
}

impl<'a> Pieces<'a> {
    pub(crate) fn new(source: &'a dyn ReadAt, footer: &Footer) -> Self {
        Self { source, at: footer.toc_offset, left: footer.toc_compressed, piece: Vec::new(), read: 0 }
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read == self.piece.len() && self.left > 0 {
            let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(TOC_PIECE);
            let mut member = vec![0; member::toc_piece_size(length)];
            self.source.read_exact_at(&mut member, self.at)?;
            self.piece = member::toc_payload(&member).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?.to_vec();
            self.read = 0;
            self.at += member.len() as u64;
            self.left -= length as u64;
        }
        let n = buffer.len().min(self.piece.len() - self.read);
        buffer[..n].copy_from_slice(&self.piece[self.read..self.read + n]);
        self.read += n;
        Ok(n)
    }
}

/// Reads the table row by row. It ends after the last line; a table without one is damaged.
pub struct Rows<'a> {
    lines: io::Take<BufReader<DeflateDecoder<BufReader<Pieces<'a>>>>>,
    left: u64,
    state: State,
    /// Says of a line that its row is not wanted.
    skip: Option<Skip<'a>>,
}

type Skip<'a> = &'a dyn Fn(&[u8]) -> bool;

#[derive(PartialEq, Eq)]
enum State {
    Start,
    Rows,
    Ended,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(source: &'a dyn ReadAt, footer: &Footer) -> Self {
        let inflate = DeflateDecoder::new(BufReader::with_capacity(TOC_PIECE, Pieces::new(source, footer)));
        Self { lines: BufReader::new(inflate).take(0), left: footer.toc_bytes, state: State::Start, skip: None }
    }

    /// Only members, and the entry of that name.
    pub(crate) fn only(mut self, skip: &'a dyn Fn(&[u8]) -> bool) -> Self {
        self.skip = Some(skip);
        self
    }

    fn line(&mut self) -> Result<Vec<u8>> {
        let mut line = Vec::new();
        self.lines.set_limit(MAX_LINE.min(self.left));
        self.lines.read_until(b'\n', &mut line).map_err(|e| Error::damaged(format!("the table of contents: {e}")))?;
        self.left -= line.len() as u64;
        if line.last() == Some(&b'\n') { Ok(line) } else { Err(Error::damaged("the table of contents is cut off")) }
    }

    fn row(&mut self) -> Result<Row> {
        if self.state == State::Start {
            let format: Format = serde_json::from_slice(&self.line()?).map_err(bad_line)?;
            if format.name != FORMAT || format.version != member::VERSION {
                return Err(Error::damaged("the table of contents is of no format that is known"));
            }
            self.state = State::Rows;
        }
        let line = self.line()?;
        if self.skip.is_some_and(|skip| skip(&line)) {
            return Ok(Row::Skipped);
        }
        Ok(match serde_json::from_slice(&line).map_err(bad_line)? {
            Line::M(offset, size, content, key, sum) => {
                let digest = |text: &str| hex::decode(text).ok_or_else(|| Error::damaged("the table of contents: a digest is none"));
                Row::Member(Member { offset, size, content, key: digest(&key)?, sum: digest(&sum)? })
            }
            Line::E(entry) => Row::Entry(entry),
            Line::End(sums) => {
                self.state = State::Ended;
                if self.left > 0 {
                    return Err(Error::damaged("the table of contents goes on after its end"));
                }
                Row::End(sums)
            }
        })
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.state == State::Ended {
            return None;
        }
        let row = self.row();
        if row.is_err() {
            self.state = State::Ended;
        }
        Some(row)
    }
}

fn bad_line(error: serde_json::Error) -> Error {
    Error::damaged(format!("the table of contents: {error}"))
}

/// Says of a line whether it is an entry of another name than `path`. The writer's way of writing is the only one.
pub(crate) fn is_another_entry(path: &str) -> impl Fn(&[u8]) -> bool {
    let name = serde_json::to_string(path).expect("text can be written");
    let wanted = format!("{{\"e\":{{\"path\":{name},");
    move |line: &[u8]| line.starts_with(b"{\"e\":") && !line.starts_with(wanted.as_bytes())
}

/// How the archive's members were compressed, as its table says.
pub(crate) fn deflate_of(source: &dyn ReadAt, footer: &Footer) -> Result<String> {
    let line = Rows::new(source, footer).line()?;
    let format: Format = serde_json::from_slice(&line).map_err(bad_line)?;
    Ok(format.deflate)
}
