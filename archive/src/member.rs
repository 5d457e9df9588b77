//! The gzip members (RFC 1952) that an archive is made of. Each is a whole gzip file in itself, with its kind in an extra field: `EM`
//! content, `EP` padding, `ET` a piece of the table of contents, `EF` the footer. Only content members decompress to anything, so every
//! reader of gzip sees one plain tar. Every byte of a member follows from what it carries: a reader compares instead of guessing.

use libdeflater::{CompressionLvl, Compressor, Decompressor, crc32};

use crate::error::{Error, Result};

/// The compressor's level. What is kept of an older archive must have been made the same way ([`DEFLATE`]).
const LEVEL: i32 = 6;
/// Names the bytes that the compressor makes; a change of it makes the next archive a full one.
pub const DEFLATE: &str = "libdeflate-1.26/6";
/// Before the compressed data of a content member.
pub const HEAD: usize = 24;
const TAIL: usize = 8;
/// Of one piece of the table of contents: some readers refuse extra fields above 16 KiB.
pub const TOC_PIECE: usize = 8000;
/// Around the payload of an empty member: head, extra field's length and head, one empty block, checksum and size.
const EMPTY: usize = 10 + 2 + 4 + 2 + TAIL;
pub const FOOTER_SIZE: usize = EMPTY + FOOTER_PAYLOAD;
const FOOTER_PAYLOAD: usize = 72;
/// Bytes of the uncompressed content of one member, at most; more in a table of contents is a forged figure.
pub const MAX_CONTENT: u32 = 4 << 20;
/// Bytes of a member, at most: content that does not compress grows by less than that.
pub const MAX_MEMBER: u32 = MAX_CONTENT + (64 << 10);

/// Flags: an extra field; no time, no flags of the compressor, no operating system.
const START: [u8; 10] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255];

/// Compresses contents into members.
pub struct Packer(Compressor);

impl Default for Packer {
    fn default() -> Self {
        Self(Compressor::new(CompressionLvl::new(LEVEL).expect("the level is one of libdeflate's")))
    }
}

impl Packer {
    /// The member of `content`, in `out`.
    pub fn pack(&mut self, content: &[u8], out: &mut Vec<u8>) {
        let bound = self.0.deflate_compress_bound(content.len());
        out.resize(HEAD + bound + TAIL, 0); // only what is new is filled
        let length = self.0.deflate_compress(content, &mut out[HEAD..HEAD + bound]).expect("the bound is large enough");
        out.truncate(HEAD + length);
        let (size, ulen) = (small(HEAD + length + TAIL), small(content.len()));
        out[..HEAD].copy_from_slice(&head(size, ulen));
        out.extend(crc32(content).to_le_bytes());
        out.extend(ulen.to_le_bytes());
    }
}

fn small(n: usize) -> u32 {
    u32::try_from(n).expect("a member is far below 4 GiB")
}

fn head(size: u32, ulen: u32) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..10].copy_from_slice(&START);
    head[10..12].copy_from_slice(&12u16.to_le_bytes());
    head[12..14].copy_from_slice(b"EM");
    head[14..16].copy_from_slice(&8u16.to_le_bytes());
    head[16..20].copy_from_slice(&size.to_le_bytes());
    head[20..24].copy_from_slice(&ulen.to_le_bytes());
    head
}

/// The size of the content member that starts here and of its content, if one does.
pub fn sizes(bytes: &[u8]) -> Option<(u32, u32)> {
    let at = |i: usize| Some(u32::from_le_bytes(*bytes.get(i..i + 4)?.first_chunk()?));
    let (size, ulen) = (at(16)?, at(20)?);
    (bytes.get(..HEAD)? == head(size, ulen) && size as usize >= HEAD + TAIL && ulen <= MAX_CONTENT).then_some((size, ulen))
}

/// Takes contents out of members.
pub struct Unpacker(Decompressor);

impl Default for Unpacker {
    fn default() -> Self {
        Self(Decompressor::new())
    }
}

impl Unpacker {
    /// The content of a whole member, in `out`. Errors: `Damaged`.
    pub fn unpack(&mut self, member: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let Some((size, ulen)) = sizes(member).filter(|(size, _)| *size as usize == member.len()) else {
            return Err(Error::damaged("the head of a member is not what it must be"));
        };
        let (body, tail) = member.split_at(size as usize - TAIL);
        out.resize(ulen as usize, 0);
        match self.0.deflate_decompress(&body[HEAD..], out) {
            Ok(n) if n == out.len() => {}
            Ok(_) | Err(_) => return Err(Error::damaged("its data do not decompress")),
        }
        if tail[..4] != crc32(out).to_le_bytes() || tail[4..] != ulen.to_le_bytes() {
            return Err(Error::damaged("its checksum is wrong"));
        }
        Ok(())
    }
}

/// An empty member that carries `payload` in its extra field.
fn empty(kind: [u8; 2], payload: &[u8], out: &mut Vec<u8>) {
    let length = u16::try_from(payload.len()).expect("payloads are far below 64 KiB");
    out.extend(START);
    out.extend((length + 4).to_le_bytes());
    out.extend(kind);
    out.extend(length.to_le_bytes());
    out.extend(payload);
    out.extend([3, 0]); // one empty block
    out.extend([0; TAIL]);
}

/// What stands between two content members so that the next begins at a multiple of `block`: nothing, or one empty member.
pub fn padding(from: u64, block: u64) -> Vec<u8> {
    let mut gap = usize::try_from(from.next_multiple_of(block) - from).expect("a block is small");
    if gap > 0 && gap < EMPTY {
        gap += usize::try_from(block).expect("a block is small");
    }
    gap_of(gap).unwrap_or_default()
}

/// The one member that fills a gap of that size; `None` if no gap can have it.
pub fn gap_of(size: usize) -> Option<Vec<u8>> {
    let zeros = size.checked_sub(EMPTY).filter(|zeros| *zeros <= TOC_PIECE)?;
    let mut out = Vec::with_capacity(size);
    empty(*b"EP", &vec![0; zeros], &mut out);
    Some(out)
}

/// Bytes that a compressed table of contents of that size takes in the archive.
pub fn toc_size(compressed: u64) -> u64 {
    compressed.saturating_add(compressed.div_ceil(TOC_PIECE as u64).saturating_mul(EMPTY as u64))
}

/// One piece of the table of contents.
pub fn toc_piece(piece: &[u8], out: &mut Vec<u8>) {
    empty(*b"ET", piece, out);
}

/// The payload of a piece of the table of contents, which is compared with what it must look like. Errors: `Damaged`.
pub fn toc_payload(member: &[u8]) -> Result<&[u8]> {
    let payload = member.get(16..member.len().saturating_sub(2 + TAIL)).unwrap_or_default();
    let mut expected = Vec::with_capacity(member.len());
    if payload.len() <= TOC_PIECE {
        toc_piece(payload, &mut expected);
    }
    if expected == member { Ok(payload) } else { Err(Error::damaged("a piece of the table of contents is damaged")) }
}

/// Bytes of the member around a piece of that length.
pub fn toc_piece_size(payload: usize) -> usize {
    EMPTY + payload
}

/// The last member: where the table of contents is and what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Where its first piece begins.
    pub toc_offset: u64,
    /// Bytes compressed and not.
    pub toc_compressed: u64,
    pub toc_bytes: u64,
    /// SHA-256 of the compressed table.
    pub toc_sha256: [u8; 32],
}

/// The format that this version writes and reads.
pub const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"EPARCH01";

impl Footer {
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(FOOTER_PAYLOAD);
        payload.extend(MAGIC);
        payload.extend(VERSION.to_le_bytes());
        payload.extend(self.toc_offset.to_le_bytes());
        payload.extend(self.toc_compressed.to_le_bytes());
        payload.extend(self.toc_bytes.to_le_bytes());
        payload.extend(self.toc_sha256);
        payload.extend(crc32(&payload).to_le_bytes());
        let mut out = Vec::with_capacity(FOOTER_SIZE);
        empty(*b"EF", &payload, &mut out);
        out
    }

    /// `None` if these bytes are not a footer at all. Errors: `Damaged` for one that is not as it was written, `Refused` for one of a
    /// version that is not known.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>> {
        let Some(payload) = bytes.get(16..16 + FOOTER_PAYLOAD) else { return Ok(None) };
        if payload[..8] != MAGIC {
            return Ok(None);
        }
        let version = u32::from_le_bytes(*payload[8..].first_chunk().expect("the payload is long enough"));
        if version != VERSION {
            return Err(Error::Refused(format!("the archive's format is version {version}, this program reads {VERSION}")));
        }
        let number = |at: usize| u64::from_le_bytes(*payload[at..].first_chunk().expect("the payload is long enough"));
        let footer = Self {
            toc_offset: number(12),
            toc_compressed: number(20),
            toc_bytes: number(28),
            toc_sha256: *payload[36..].first_chunk().expect("the payload is long enough"),
        };
        if footer.encode() == bytes { Ok(Some(footer)) } else { Err(Error::damaged("the footer is damaged")) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn every_member_is_a_gzip_file_of_its_own() {
        let (mut all, mut content) = (Vec::new(), Vec::new());
        let mut member = Vec::new();
        for text in [&b"hello "[..], b"", &vec![0; 100_000], b"world"] {
            Packer::default().pack(text, &mut member);
            assert_eq!(sizes(&member), Some((small(member.len()), small(text.len()))));
            Unpacker::default().unpack(&member, &mut content).unwrap();
            assert_eq!(content, text);
            all.extend_from_slice(&member);
            all.extend(padding(all.len() as u64, 4096));
            assert_eq!(all.len() % 4096, 0);
        }
        toc_piece(&[7; TOC_PIECE], &mut all);
        let footer = Footer { toc_offset: 1, toc_compressed: 2, toc_bytes: 3, toc_sha256: [9; 32] };
        all.extend(footer.encode());
        assert_eq!(Footer::decode(&all[all.len() - FOOTER_SIZE..]).unwrap(), Some(footer));
        let mut out = Vec::new();
        flate2::read::MultiGzDecoder::new(&all[..]).read_to_end(&mut out).unwrap();
        assert_eq!(out.len(), 11 + 100_000);
    }

    #[test]
    fn a_changed_bit_anywhere_in_a_member_is_seen() {
        let mut member = Vec::new();
        Packer::default().pack(&b"some text some text some text".repeat(10), &mut member);
        let mut content = Vec::new();
        Unpacker::default().unpack(&member, &mut content).unwrap();
        let whole = content.clone();
        for bit in 0..member.len() * 8 {
            let mut bad = member.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // The unused bits of the last byte of a deflate stream mean nothing; the digest in the table of contents covers them.
            assert!(Unpacker::default().unpack(&bad, &mut content).is_err() || content == whole, "bit {bit}");
        }
        let footer = Footer { toc_offset: 1, toc_compressed: 2, toc_bytes: 3, toc_sha256: [9; 32] }.encode();
        for bit in 0..footer.len() * 8 {
            let mut bad = footer.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(Footer::decode(&bad), Ok(Some(_))), "bit {bit}");
        }
    }
}
