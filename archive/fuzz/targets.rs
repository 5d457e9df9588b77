//! What is tried with arbitrary bytes: by cargo-fuzz for as long as one likes, and by tests/it/fuzz_smoke.rs for a bounded number of
//! times. A target may refuse, but neither panic nor take memory nor write anything outside its folder.

use std::io::{self, Read as _, Write as _};

use echopilot_archive::{
    Archive, ReadAt,
    entry::Entry,
    limits::Limits,
    member::{Footer, Packer, sizes, toc_piece},
    pattern::Patterns,
    restore::{self, Links},
    toc::Row,
    verify,
};

pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl ReadAt for Bytes<'_> {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let part = usize::try_from(offset).ok().and_then(|from| self.0.get(from..from.checked_add(buffer.len())?));
        buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Small limits, so that what is allowed stays quick.
fn limits() -> Limits {
    Limits { max_entries: 2_000, max_total_bytes: 1 << 20, ..Limits::default() }
}

/// Takes these bytes for an archive and does everything with it.
pub(crate) fn reader(data: &[u8]) {
    let Ok(archive) = Archive::open(Bytes(data)) else { return };
    let _ = archive.sums(&limits());
    let _ = archive.verify(&verify::Options { threads: 1, limits: limits(), ..verify::Options::default() });
    let names: Vec<String> = archive.entries().take(50).map_while(Result::ok).map(|entry| entry.path).collect();
    for name in &names {
        let _ = archive.cat(name, &mut io::sink());
    }
    for salvage in [false, true] {
        let Ok(folder) = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()) else { return };
        let options = restore::Options { threads: 1, salvage, limits: limits(), links: Links::Skip, ..restore::Options::default() };
        let _ = restore::restore(&archive, &folder.path().join("target"), &options);
        let beside = std::fs::read_dir(folder.path()).map_or(0, |all| all.flatten().filter(|e| e.file_name() != "target").count());
        assert_eq!(beside, 0, "something stands beside the target");
    }
}

/// Takes these bytes for the text of a table of contents, and puts it behind true members, with a footer that fits: what is behind the
/// digests is reached.
pub(crate) fn contents(data: &[u8]) {
    let (mut bytes, mut member) = (Vec::new(), Vec::new());
    for content in [&[7u8; 1536][..], &[0; 1024]] {
        Packer::default().pack(content, &mut member);
        bytes.extend_from_slice(&member);
    }
    reader(&with_contents(bytes, data));
}

/// An archive of these members with that text as its table of contents.
pub(crate) fn with_contents(mut bytes: Vec<u8>, text: &[u8]) -> Vec<u8> {
    let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    deflate.write_all(text).expect("memory takes it");
    let packed = deflate.finish().expect("memory takes it");
    let toc_offset = bytes.len() as u64;
    packed.chunks(8000).for_each(|piece| toc_piece(piece, &mut bytes));
    let mut toc_sha256 = [0; 32];
    toc_sha256.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, &packed).as_ref());
    let footer = Footer { toc_offset, toc_compressed: packed.len() as u64, toc_bytes: text.len() as u64, toc_sha256 };
    bytes.extend(footer.encode());
    bytes
}

/// The members of an archive and the text of its table of contents, for those who change the text.
pub(crate) fn taken_apart(archive: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let opened = Archive::open(Bytes(archive)).ok()?;
    let footer = opened.footer();
    let (mut packed, mut at) = (Vec::new(), usize::try_from(footer.toc_offset).ok()?);
    let members = archive[..at].to_vec();
    while (packed.len() as u64) < footer.toc_compressed {
        let length = usize::from(u16::from_le_bytes([archive[at + 14], archive[at + 15]]));
        packed.extend_from_slice(&archive[at + 16..at + 16 + length]);
        at += length + 26;
    }
    let mut text = Vec::new();
    flate2::read::DeflateDecoder::new(&packed[..]).read_to_end(&mut text).ok()?;
    Some((members, text))
}

/// Takes these bytes for a row of the table of contents: an entry that is accepted has a header that says the same to the tar crate.
pub(crate) fn header(data: &[u8]) {
    let _ = sizes(data);
    let _ = Footer::decode(data);
    let Ok(entry) = serde_json::from_slice::<Entry>(data) else { return };
    let accepted = entry.check().is_ok();
    let header = entry.header();
    assert_eq!(header.len() % 512, 0);
    if !accepted {
        return;
    }
    let mut archive = tar::Archive::new(&header[..]);
    let mut entries = archive.entries().expect("a tar is read");
    let read = entries.next().expect("there is an entry").expect("its header is one");
    let path = read.path_bytes();
    assert_eq!(path.strip_suffix(b"/").unwrap_or(&path), entry.name());
    assert_eq!(read.size(), entry.size);
}

/// Takes the first line for a pattern and the rest for a name.
pub(crate) fn pattern(data: &[u8]) {
    let (pattern, name) = data.split_at(data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len() / 2));
    let Ok(patterns) = Patterns::new([String::from_utf8_lossy(pattern)]) else { return };
    let _ = patterns.matches(&name[..name.len().min(4096)]);
}

/// How many rows there are; for the seeds of a fuzzer.
pub(crate) fn rows(archive: &[u8]) -> usize {
    Archive::open(Bytes(archive)).map_or(0, |opened| opened.rows().filter(|row| matches!(row, Ok(Row::Entry(_) | Row::Member(_)))).count())
}
