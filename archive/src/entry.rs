//! An entry of the archive and the tar header that stands for it (POSIX ustar with the two extensions that every reader knows: GNU `L`
//! and `K` records for long names, a pax record for the nanoseconds of the time). The header follows from the entry alone, so that a
//! reader makes it again from the table of contents and compares.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::name::{path_to_text, safe_member_path, text_to_path};

/// Tar's unit.
pub const BLOCK: usize = 512;
const NAME: usize = 100;
/// What an octal field of eleven digits holds at most.
const OCTAL_11: u64 = 0o777_7777_7777;
const OCTAL_7: u64 = 0o777_7777;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Type {
    File,
    Dir,
    Symlink,
    /// Another name of a file that stands before it.
    Link,
}

/// One entry: a row of the table of contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The name in the archive, as text; bytes that are not plain text are escaped, see [`path_to_text`].
    pub path: String,
    #[serde(rename = "type")]
    pub kind: Type,
    /// Bytes of content; 0 for what is no file.
    pub size: u64,
    /// Permission bits, 0o7777 at most.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since the Unix epoch, and nanoseconds after that.
    pub mtime: i64,
    pub ns: u32,
    /// What a link points to: text of a symbolic link, entry name of the other.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub link: String,
    /// Where the content begins in the tar.
    pub data: u64,
    /// BLAKE3 of the content, 64 hex digits; empty for what is no file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub blake3: String,
}

impl Entry {
    /// The name as bytes.
    pub fn name(&self) -> Vec<u8> {
        text_to_path(&self.path)
    }

    /// Bytes after the content up to the next block.
    pub fn padding(&self) -> usize {
        padding(self.size)
    }

    /// Why this cannot be an entry: a name that leaves the folder or is not written the canonical way, a figure out of range.
    pub fn check(&self) -> Result<std::path::PathBuf, String> {
        let raw = self.name();
        let path = safe_member_path(&raw)?;
        if path_to_text(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())) != self.path {
            return Err(format!("member \"{}\": its name is not written in the canonical way", self.path));
        }
        let refuse = |why: &str| Err(format!("member \"{}\": {why}", self.path));
        if self.mode > 0o7777 || self.ns >= 1_000_000_000 || i64::try_from(self.size).is_err() {
            return refuse("its size, mode or time is out of range");
        }
        let is_file = self.kind == Type::File;
        if !is_file && (self.size > 0 || !self.blake3.is_empty()) || is_file && self.blake3.len() != 64 {
            return refuse("its size or digest does not belong to its kind");
        }
        match self.kind {
            Type::File | Type::Dir if !self.link.is_empty() => refuse("only a link points somewhere"),
            Type::Link => {
                let target = safe_member_path(&text_to_path(&self.link))?;
                if target == path { refuse("it is a link to itself") } else { Ok(path) }
            }
            _ => Ok(path),
        }
    }

    /// Everything that stands in the tar before the content, a multiple of [`BLOCK`].
    pub fn header(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BLOCK);
        if self.ns > 0 {
            record(b'x', b"././@PaxHeader", &pax_mtime(self.mtime, self.ns), &mut out);
        }
        let (mut name, link) = (self.name(), text_to_path(&self.link));
        if self.kind == Type::Dir {
            name.push(b'/');
        }
        if link.len() > NAME {
            record(b'K', b"././@LongLink", &[&link[..], &[0]].concat(), &mut out);
        }
        if name.len() > NAME {
            record(b'L', b"././@LongLink", &[&name[..], &[0]].concat(), &mut out);
        }
        let flag = match self.kind {
            Type::File => b'0',
            Type::Link => b'1',
            Type::Symlink => b'2',
            Type::Dir => b'5',
        };
        block(flag, &name, &link, [self.mode.into(), self.uid.into(), self.gid.into()], self.size, self.mtime, &mut out);
        out
    }

    pub fn is_below(&self, path: &Path) -> bool {
        use std::os::unix::ffi::OsStrExt as _;
        Path::new(std::ffi::OsStr::from_bytes(&self.name())).starts_with(path)
    }
}

/// Zeros after content of that size.
pub fn padding(size: u64) -> usize {
    let over = usize::try_from(size % BLOCK as u64).expect("less than a block");
    (BLOCK - over) % BLOCK
}

/// A block whose content says something about the next one.
fn record(flag: u8, name: &[u8], content: &[u8], out: &mut Vec<u8>) {
    block(flag, name, b"", [0o644, 0, 0], content.len() as u64, 0, out);
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}

fn block(flag: u8, name: &[u8], link: &[u8], [mode, uid, gid]: [u64; 3], size: u64, mtime: i64, out: &mut Vec<u8>) {
    let mut b = [0u8; BLOCK];
    let short = |text: &[u8]| text.len().min(NAME);
    b[..short(name)].copy_from_slice(&name[..short(name)]);
    number(&mut b[100..108], mode.into(), OCTAL_7);
    number(&mut b[108..116], uid.into(), OCTAL_7);
    number(&mut b[116..124], gid.into(), OCTAL_7);
    number(&mut b[124..136], size.into(), OCTAL_11);
    number(&mut b[136..148], mtime.into(), OCTAL_11);
    b[148..156].fill(b' ');
    b[156] = flag;
    b[157..157 + short(link)].copy_from_slice(&link[..short(link)]);
    b[257..265].copy_from_slice(b"ustar\x0000");
    number(&mut b[329..337], 0, OCTAL_7);
    number(&mut b[337..345], 0, OCTAL_7);
    let sum: u32 = b.iter().map(|byte| u32::from(*byte)).sum();
    b[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(&b);
}

/// Octal digits with a zero byte behind them; what does not fit, or is negative, in base 256 as GNU tar writes it.
fn number(field: &mut [u8], value: i128, max_octal: u64) {
    let digits = field.len() - 1;
    if (0..=i128::from(max_octal)).contains(&value) {
        field[..digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
    } else {
        let bytes = value.to_be_bytes();
        field.copy_from_slice(&bytes[bytes.len() - field.len()..]);
        field[0] |= 0x80;
    }
}

/// `26 mtime=1700000000.123456789\n`; the first number counts itself.
fn pax_mtime(seconds: i64, ns: u32) -> Vec<u8> {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(ns);
    let (sign, whole) = if total < 0 { ("-", -total) } else { ("", total) };
    let rest = format!(" mtime={sign}{}.{:09}\n", whole / 1_000_000_000, whole % 1_000_000_000);
    let mut length = rest.len() + 2;
    if length.to_string().len() != 2 {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: Type) -> Entry {
        let blake3 = if kind == Type::File { "ab".repeat(32) } else { String::new() };
        Entry {
            path: path.into(),
            kind,
            size: 0,
            mode: 0o640,
            uid: 1000,
            gid: 1000,
            mtime: 1_700_000_000,
            ns: 0,
            link: String::new(),
            data: 0,
            blake3,
        }
    }

    #[test]
    fn the_tar_crate_reads_back_what_the_header_says() {
        let long = format!("logs/{}/x", "a".repeat(200));
        let cases = [
            Entry { size: 5, ..entry("logs/a", Type::File) },
            Entry { size: 9 << 30, ns: 123_456_789, ..entry("logs/big", Type::File) },
            Entry { uid: 4_000_000_000, gid: 3_000_000, mtime: -5, ..entry("old", Type::Dir) },
            Entry { ns: 1, ..entry(&long, Type::File) },
            Entry { link: format!("{}/y", "b".repeat(150)), ..entry(&long, Type::Symlink) },
            Entry { link: "logs/a".into(), ..entry("logs/b", Type::Link) },
            entry("logs/%FF%0A", Type::File),
        ];
        for e in cases {
            let header = e.header();
            assert_eq!(header.len() % BLOCK, 0);
            let mut archive = tar::Archive::new(&header[..]);
            let read = archive.entries().unwrap().next().unwrap().unwrap();
            let path = read.path_bytes().into_owned();
            assert_eq!(path.strip_suffix(b"/").unwrap_or(&path), e.name());
            assert_eq!(read.size(), e.size);
            assert_eq!(read.link_name_bytes().map(|l| path_to_text(&l)).unwrap_or_default(), e.link);
            let h = read.header();
            assert_eq!((h.mode().unwrap(), h.uid().unwrap(), h.gid().unwrap()), (e.mode, e.uid.into(), e.gid.into()));
            if e.mtime >= 0 {
                assert_eq!(h.mtime().unwrap(), e.mtime.unsigned_abs());
            }
            assert!(e.check().is_ok(), "{e:?}");
        }
    }

    #[test]
    fn times_before_the_epoch_are_one_number() {
        assert_eq!(pax_mtime(-1, 500_000_000), b"22 mtime=-0.500000000\n");
        assert_eq!(pax_mtime(1_700_000_000, 1), b"30 mtime=1700000000.000000001\n");
        for (s, ns) in [(0, 1), (-1, 1), (i64::MIN, 5), (i64::MAX, 999_999_999), (99_999_999, 9)] {
            let text = pax_mtime(s, ns);
            let claimed: usize = std::str::from_utf8(&text).unwrap().split(' ').next().unwrap().parse().unwrap();
            assert_eq!(claimed, text.len());
        }
    }

    #[test]
    fn entries_that_cannot_be_are_refused() {
        let bad = [
            entry("../x", Type::File),
            entry("a//b", Type::File),
            entry("%41", Type::File),
            Entry { size: 1, ..entry("d", Type::Dir) },
            Entry { mode: 0o10_000, ..entry("a", Type::File) },
            Entry { blake3: String::new(), ..entry("a", Type::File) },
            Entry { link: "../../etc/passwd".into(), ..entry("a", Type::Link) },
            Entry { link: "a".into(), ..entry("a", Type::Link) },
            Entry { link: "b".into(), ..entry("a", Type::File) },
        ];
        assert!(bad.iter().all(|e| e.check().is_err()));
    }
}
