//! An archive as it is read: the footer first, from there the table of contents, from there any member. The source is anything that
//! can be read at a place, so that one file of an archive far away costs a few ranges.

use std::{
    fs::File,
    io::{self, Read as _, Write},
};

use ring::digest::{Context as Digest, SHA256};

use crate::{
    entry::{Entry, Type},
    error::{Doing as _, Error, Result},
    limits::{DEFLATE_MAX_RATIO, Limits},
    member::{self, FOOTER_SIZE, Footer, MAX_CONTENT, MAX_MEMBER, Unpacker, toc_size},
    name::Members,
    toc::{Member, Pieces, Row, Rows, Sums, is_another_entry},
};

/// Something that can be read at a place.
pub trait ReadAt: Send + Sync {
    /// Bytes in all.
    fn size(&self) -> io::Result<u64>;
    /// Fills the buffer from `offset` on; an error of kind `UnexpectedEof` if there is not enough.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buffer, offset)
    }
}

/// So many folders may have no entry of their own: those above the roots of the archive.
const IMPLIED_FOLDERS: u64 = 10_000;

/// An archive with a table of contents.
pub struct Archive<S: ReadAt> {
    source: S,
    size: u64,
    footer: Footer,
}

/// Whether these are the last bytes of an archive with a table of contents. One without is read from its beginning ([`crate::stream`]).
pub fn has_contents(source: &impl ReadAt) -> Result<bool> {
    Ok(footer(source)?.is_some())
}

fn footer(source: &impl ReadAt) -> Result<Option<(u64, Footer)>> {
    let size = source.size().doing("cannot look at the archive")?;
    let Some(at) = size.checked_sub(FOOTER_SIZE as u64) else { return Ok(None) };
    let mut last = [0; FOOTER_SIZE];
    source.read_exact_at(&mut last, at).doing("cannot read the archive's end")?;
    Ok(Footer::decode(&last)?.map(|footer| (size, footer)))
}

impl<S: ReadAt> Archive<S> {
    /// Reads the footer and checks that the table of contents is the one it names. Errors: `Damaged`, `Refused` for a newer format.
    pub fn open(source: S) -> Result<Self> {
        let Some((size, footer)) = footer(&source)? else {
            return Err(Error::damaged("it has no table of contents at its end: cut off, or not made by this program"));
        };
        let end = size - FOOTER_SIZE as u64;
        if footer.toc_offset.checked_add(toc_size(footer.toc_compressed)) != Some(end) {
            return Err(Error::damaged("the table of contents is not where the footer says"));
        }
        let (mut digest, mut pieces, mut buffer) = (Digest::new(&SHA256), Pieces::new(&source, &footer), vec![0; member::TOC_PIECE]);
        loop {
            match pieces.read(&mut buffer).map_err(|e| Error::damaged(e.to_string()))? {
                0 => break,
                n => digest.update(&buffer[..n]),
            }
        }
        if digest.finish().as_ref() != footer.toc_sha256 {
            return Err(Error::damaged("the table of contents is not the one that was written"));
        }
        Ok(Self { source, size, footer })
    }

    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    pub fn source(&self) -> &S {
        &self.source
    }

    pub fn into_source(self) -> S {
        self.source
    }

    /// Bytes of the archive.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The table of contents, row by row.
    pub fn rows(&self) -> Rows<'_> {
        Rows::new(&self.source, &self.footer)
    }

    /// Its entries, in the order of the tar; each is checked for itself, not yet against the others ([`Archive::sums`]).
    pub fn entries(&self) -> impl Iterator<Item = Result<Entry>> + '_ {
        self.rows().filter_map(|row| match row {
            Ok(Row::Entry(entry)) => Some(entry.check().map(|_| entry).map_err(Error::Refused)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        })
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = Result<Member>> + '_ {
        self.rows().filter_map(|row| match row {
            Ok(Row::Member(member)) => Some(Ok(member)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        })
    }

    /// Reads the whole table and checks what it says against itself: names that are safe and do not stand in each other's way, members
    /// that fill the archive, sums that agree, nothing beyond the limits. Reads no content. Errors: `Damaged`, `Refused`.
    pub fn sums(&self, limits: &Limits) -> Result<Sums> {
        let (mut sums, mut names, mut at, mut last) = (Sums::default(), Members::default(), 0, None);
        let mut content = 0u64;
        for row in self.rows() {
            match row? {
                Row::Member(m) => {
                    if m.offset < at {
                        return Err(Error::damaged("the table of contents: members overlap"));
                    }
                    let most = u64::from(m.size) * DEFLATE_MAX_RATIO;
                    if m.content > MAX_CONTENT || m.size > MAX_MEMBER || (m.size as usize) < member::HEAD || u64::from(m.content) > most {
                        return Err(Error::damaged(format!(
                            "the table of contents: no member has the sizes of the one at byte {}",
                            m.offset
                        )));
                    }
                    at = m.offset.saturating_add(m.size.into());
                    sums.members += 1;
                    sums.tar += u64::from(m.content);
                }
                Row::Entry(entry) => {
                    let path = entry.check().map_err(Error::Refused)?;
                    let kind = if entry.kind == Type::Dir { crate::name::Kind::Directory } else { crate::name::Kind::File };
                    names.add(&path, kind).map_err(Error::Refused)?;
                    // Content begins behind its header, which begins behind the content before.
                    let expected = content.saturating_add(entry.header().len() as u64);
                    if entry.data != expected {
                        return Err(Error::damaged(format!("the table of contents: {} does not stand where it says", entry.path)));
                    }
                    content = entry.data.saturating_add(entry.size).saturating_add(entry.padding() as u64);
                    sums.entries += 1;
                    sums.files += u64::from(entry.kind == Type::File);
                    sums.bytes = sums.bytes.saturating_add(entry.size);
                    limits.check(self.size, sums.bytes, sums.entries).map_err(Error::Refused)?;
                    if content / DEFLATE_MAX_RATIO > self.size {
                        return Err(Error::damaged("the table of contents: so large a tar does not come out of so small an archive"));
                    }
                    // Folders that only names speak of cost memory too.
                    if names.known() > 2 * sums.entries + IMPLIED_FOLDERS {
                        return Err(Error::Refused("the table of contents: too many folders have no entry of their own".into()));
                    }
                }
                Row::End(end) => last = Some(end),
                Row::Skipped => {}
            }
        }
        let whole =
            last == Some(sums) && sums.tar == content.saturating_add(2 * crate::entry::BLOCK as u64) && at <= self.footer.toc_offset;
        if whole { Ok(sums) } else { Err(Error::damaged("the table of contents: its sums do not agree with its rows")) }
    }

    /// The entry of that name. Errors: `NotFound`.
    pub fn entry(&self, path: &str) -> Result<Entry> {
        let wanted = path.trim_start_matches("./").trim_end_matches('/');
        let another = is_another_entry(wanted);
        let skip = |line: &[u8]| line.starts_with(b"{\"m\":") || another(line);
        for row in self.rows().only(&skip) {
            if let Row::Entry(entry) = row? {
                return entry.check().map(|_| entry).map_err(Error::Refused);
            }
        }
        Err(Error::NotFound(format!("there is no {path} in the archive")))
    }

    /// Writes one file's content to `out`, reading only the members it stands in; what is written was checked. A link to a file is
    /// that file. Errors: `NotFound`, `Refused` for what is no file, `Damaged`.
    pub fn cat(&self, path: &str, out: &mut dyn Write) -> Result<Entry> {
        let mut entry = self.entry(path)?;
        if entry.kind == Type::Link {
            entry = self.entry(&entry.link)?;
        }
        if entry.kind != Type::File {
            return Err(Error::Refused(format!("{path} is no file")));
        }
        let (start, end) = (entry.data, entry.data.saturating_add(entry.size));
        let (mut at, mut unpacker, mut bytes, mut content) = (0u64, Unpacker::default(), Vec::new(), Vec::new());
        let mut digest = blake3::Hasher::new();
        for row in self.rows().only(&|line| line.starts_with(b"{\"e\":")) {
            let Row::Member(m) = row? else { continue };
            let (from, to) = (at, at.saturating_add(m.content.into()));
            at = to;
            if from >= end {
                break;
            }
            if to <= start {
                continue;
            }
            self.unpack(&m, &mut unpacker, &mut bytes, &mut content).map_err(|e| e.about(&entry.path))?;
            let place = |wanted: u64| usize::try_from(wanted.clamp(from, to) - from).expect("a member is small");
            let part = &content[place(start)..place(end)];
            digest.update(part);
            out.write_all(part).doing("cannot write the file's content")?;
        }
        if digest.finalize().to_hex().as_str() == entry.blake3 {
            Ok(entry)
        } else {
            Err(Error::damaged(format!("{}: the content is not the one that was archived", entry.path)))
        }
    }

    /// A member's content, checked against everything the table says of it.
    pub(crate) fn unpack(&self, m: &Member, unpacker: &mut Unpacker, bytes: &mut Vec<u8>, content: &mut Vec<u8>) -> Result<()> {
        let at = |what: &str| Error::damaged(format!("the member at byte {}: {what}", m.offset));
        if m.content > MAX_CONTENT || m.size > MAX_MEMBER || m.offset.saturating_add(m.size.into()) > self.footer.toc_offset {
            return Err(at("it cannot be where the table of contents says"));
        }
        bytes.resize(m.size as usize, 0);
        self.source.read_exact_at(bytes, m.offset).doing("cannot read the archive")?;
        if *blake3::hash(bytes).as_bytes() != m.sum {
            return Err(at("its bytes are not those that were written"));
        }
        unpacker.unpack(bytes, content).map_err(|e| at(&e.to_string()))?;
        if content.len() == m.content as usize && *blake3::hash(content).as_bytes() == m.key {
            Ok(())
        } else {
            Err(at("its content is not the one that was written"))
        }
    }
}
