//! Checks an archive without writing anything: the table of contents against itself, every member against its digests, every byte of
//! the tar against the table. The digests of the members cover every byte; a file's own digest is compared where the file is put
//! together (`cat`, `restore`). A sample reads a part of the members; everything else is checked all the same.

use std::sync::atomic::{AtomicBool, AtomicU64};

use crate::{
    entry::Entry,
    error::Result,
    limits::Limits,
    member::{FOOTER_SIZE, toc_size},
    read::{Archive, ReadAt},
    scan::Note,
    toc::{Member, Sums},
    walk::{Sink, Walk},
};

/// How much is read, and how the caller follows it.
pub struct Options<'a> {
    /// Parts of a million of the members that are read; a million: all.
    pub sample_ppm: u32,
    /// Which of them: another number, another sample.
    pub seed: u64,
    pub threads: usize,
    pub limits: Limits,
    pub stop: &'a AtomicBool,
    /// Bytes of the tar gone through.
    pub done: &'a AtomicU64,
}

/// What was found.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Report {
    #[serde(flatten)]
    pub sums: Summary,
    /// Members that were read.
    pub members_read: u64,
    /// Files that are not what was archived, and why.
    pub damaged: Vec<Note>,
    /// Damage as it lies in the archive.
    pub damage: Vec<String>,
}

/// The sums of the table of contents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    pub entries: u64,
    pub files: u64,
    pub bytes: u64,
    pub members: u64,
}

impl From<Sums> for Summary {
    fn from(s: Sums) -> Self {
        Self { entries: s.entries, files: s.files, bytes: s.bytes, members: s.members }
    }
}

impl Report {
    pub fn is_whole(&self) -> bool {
        self.damaged.is_empty() && self.damage.is_empty()
    }

    /// All damage in one sentence.
    pub fn sentence(&self) -> String {
        let files = self.damaged.iter().take(5).map(|d| format!("{}: {}", d.path, d.what));
        let more = self.damaged.len().saturating_sub(5);
        let mut all: Vec<String> = files.chain(self.damage.iter().take(5).cloned()).collect();
        if more > 0 {
            all.push(format!("and {more} more files"));
        }
        all.join("; ")
    }
}

impl Default for Options<'_> {
    fn default() -> Self {
        static NEVER: AtomicBool = AtomicBool::new(false);
        static NOBODY: AtomicU64 = AtomicU64::new(0);
        Self { sample_ppm: 1_000_000, seed: 0, threads: 0, limits: Limits::default(), stop: &NEVER, done: &NOBODY }
    }
}

impl<S: ReadAt> Archive<S> {
    /// Checks the archive. Errors: `Damaged` and `Refused` for a table of contents that cannot be right, `Io`; damaged members are no
    /// error but named in the report.
    pub fn verify(&self, options: &Options<'_>) -> Result<Report> {
        let sums = self.sums(&options.limits)?;
        let end = self.footer().toc_offset + toc_size(self.footer().toc_compressed) + FOOTER_SIZE as u64;
        debug_assert_eq!(end, self.size(), "checked when it was opened");
        let wanted = |number: u64, m: &Member| in_sample(number, m, options);
        let mut checker = Checker { report: Report { sums: sums.into(), ..Report::default() }, ..Checker::default() };
        let walk = Walk { threads: options.threads, wanted: &wanted, done: options.done, stop: options.stop };
        checker.report.damage = walk.run(self, &mut checker)?;
        let mut read = 0;
        for (number, m) in self.members().enumerate() {
            read += u64::from(wanted(number as u64, &m?));
        }
        checker.report.members_read = read;
        Ok(checker.report)
    }
}

fn in_sample(number: u64, m: &Member, options: &Options<'_>) -> bool {
    if options.sample_ppm >= 1_000_000 {
        return true;
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&options.seed.to_le_bytes()).update(&number.to_le_bytes()).update(&m.sum);
    let hash = u32::from_le_bytes(*hasher.finalize().as_bytes().first_chunk().expect("a digest has 32 bytes"));
    u64::from(hash) * 1_000_000 < u64::from(options.sample_ppm) << 32
}

#[derive(Default)]
struct Checker {
    report: Report,
    path: String,
    damaged: bool,
}

impl Sink for Checker {
    fn begin(&mut self, entry: &Entry, damaged: bool) -> Result<()> {
        self.path.clone_from(&entry.path);
        self.damaged = damaged;
        Ok(())
    }

    fn data(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn gap(&mut self, _: u64, damaged: bool) -> Result<()> {
        self.damaged |= damaged;
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        if self.damaged {
            self.report.damaged.push(Note { path: std::mem::take(&mut self.path), what: "a member it stands in is damaged".into() });
        }
        Ok(())
    }
}
