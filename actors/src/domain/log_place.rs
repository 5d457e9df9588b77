//! How far a log file was read, and by what it is known again: device and inode, the first bytes, and those before the place. Called by
//! `logscan`, which reads the files. It decides whether a file is still the one that was read; it never opens one.

use ring::digest;
use serde::{Deserialize, Serialize};

/// Bytes at the beginning, and before the place, that a file is known by.
pub const HEAD: u64 = 256;
pub const TAIL: u64 = 64;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub device: u64,
    pub inode: u64,
    /// Everything before is read.
    pub offset: u64,
    /// Digest of the first `head_bytes`.
    pub head_bytes: u64,
    pub head: String,
    /// Digest of the bytes before `offset`, at most 64.
    pub tail: String,
    /// In the middle of a line that is too long: what comes up to its end is passed over.
    #[serde(default)]
    pub skipping: bool,
}

/// A file as it is now, looked at with a place in mind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    pub device: u64,
    pub inode: u64,
    pub bytes: u64,
    /// Of the place's `head_bytes` and before its `offset`; `None` where the file is shorter.
    pub head: Option<String>,
    pub tail: Option<String>,
}

/// What became of the file under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Became {
    /// It is the one that was read; it may have grown.
    Same,
    /// The same file, shorter than what was read of it.
    Truncated,
    /// The same file with another content.
    Rewritten,
    /// Another file has its name now.
    Replaced,
}

/// What became of what was read as `place`, now that the file looks so.
pub fn became(place: &Place, look: &Look) -> Became {
    let is_it = (place.device, place.inode) == (look.device, look.inode);
    if place.offset == 0 {
        return if is_it { Became::Same } else { Became::Replaced };
    }
    // What it holds decides, not what it is called or where it lies: a copy with the same content goes on where the first was.
    if look.head.as_ref() == Some(&place.head) && look.tail.as_ref() == Some(&place.tail) {
        Became::Same
    } else if !is_it {
        Became::Replaced
    } else if look.bytes < place.offset {
        Became::Truncated
    } else {
        Became::Rewritten
    }
}

/// 16 hex digits.
pub fn digest_of(bytes: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest.as_ref()[..8].iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_decides_before_the_inode_does() {
        let place = Place { device: 1, inode: 7, offset: 100, head_bytes: 100, head: "h".into(), tail: "t".into(), skipping: false };
        let look =
            |inode, bytes, head: &str, tail: &str| Look { device: 1, inode, bytes, head: Some(head.into()), tail: Some(tail.into()) };
        for (look, expected) in [
            (look(7, 100, "h", "t"), Became::Same),
            (look(7, 900, "h", "t"), Became::Same),
            (look(8, 900, "h", "t"), Became::Same),
            (Look { tail: None, ..look(7, 50, "h", "t") }, Became::Truncated),
            (look(7, 900, "x", "t"), Became::Rewritten),
            (look(7, 900, "h", "x"), Became::Rewritten),
            (look(8, 900, "x", "x"), Became::Replaced),
        ] {
            assert_eq!(became(&place, &look), expected, "{look:?}");
        }
        let unread = Place { offset: 0, ..place };
        assert_eq!(became(&unread, &look(7, 10, "x", "x")), Became::Same);
        assert_eq!(became(&unread, &look(8, 10, "x", "x")), Became::Replaced);
    }
}
