//! The archive before, as far as its members can be taken over. It is believed only if its table of contents is the one that was
//! written down elsewhere, and a member only if its bytes are those that the table names.

use std::{collections::HashMap, fs::File, path::PathBuf};

use crate::{
    error::{Doing as _, Error, Result},
    hex,
    member::{self, MAX_MEMBER, sizes},
    read::{Archive, ReadAt as _},
    toc::{Member, Row, deflate_of},
};

/// An earlier archive.
#[derive(Clone, Debug)]
pub struct Previous {
    pub path: PathBuf,
    /// SHA-256 of its table of contents as it was written down when it was made; without one it is believed as it is.
    pub toc_sha256: Option<String>,
}

/// Its members, by what they contain.
pub(crate) struct Known {
    pub(crate) file: File,
    members: HashMap<[u8; 32], Found>,
}

#[derive(Clone, Copy)]
pub(crate) struct Found {
    pub(crate) offset: u64,
    size: u32,
    pub(crate) sum: [u8; 32],
}

impl Previous {
    /// Errors say why it is of no use: not there, damaged, made by another compressor, or not the one that was written down.
    pub(crate) fn open(self) -> Result<Known> {
        let name = self.path.display();
        let file = File::open(&self.path).doing(format!("cannot open {name}"))?;
        let archive = Archive::open(file)?;
        if self.toc_sha256.is_some_and(|recorded| recorded != hex::encode(&archive.footer().toc_sha256)) {
            return Err(Error::damaged(format!("{name} is not the archive that was made: its table of contents is another one")));
        }
        let deflate = deflate_of(archive.source(), archive.footer())?;
        if deflate != member::DEFLATE {
            return Err(Error::Refused(format!("{name} was compressed by {deflate}, not by {}", member::DEFLATE)));
        }
        let mut members = HashMap::new();
        for row in archive.rows() {
            if let Row::Member(Member { offset, size, key, sum, .. }) = row? {
                members.entry(key).or_insert(Found { offset, size, sum });
            }
        }
        Ok(Known { file: archive.into_source(), members })
    }
}

impl Known {
    pub(crate) fn find(&self, key: &[u8; 32]) -> Option<Found> {
        self.members.get(key).copied()
    }

    /// The member's bytes, in `out`. Errors: `Damaged` if they are not what they were.
    pub(crate) fn member(&self, found: &Found, out: &mut Vec<u8>) -> Result<()> {
        let damaged = || Error::damaged("a member of the archive before is damaged");
        if found.size > MAX_MEMBER {
            return Err(damaged());
        }
        out.resize(found.size as usize, 0);
        self.file.read_exact_at(out, found.offset).doing("cannot read the archive before")?;
        if *blake3::hash(out).as_bytes() == found.sum && sizes(out).is_some_and(|(size, _)| size == found.size) {
            Ok(())
        } else {
            Err(damaged())
        }
    }
}
