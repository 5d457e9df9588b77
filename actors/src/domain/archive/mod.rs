//! The rules of a backup archive: its name, its manifest, which member names and links are safe, how much may come out of it. Used by the
//! backup actor when it writes and by verify and restore before a single byte is written. Pure: decides by names and numbers only.

mod member;

use chrono::{DateTime, NaiveDate, Utc};

pub use member::{Kind, Members, path_to_text, safe_link, safe_member_path, text_to_path};

/// The manifest format that this version writes and the newest it reads.
pub const SCHEMA: u32 = 1;
/// What deflate can expand to at most: more is a forged header or a bomb.
pub const DEFLATE_MAX_RATIO: u64 = 1032;

/// What is in an archive: the JSON file beside it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: u32,
    /// RFC 3339, UTC.
    pub created: DateTime<Utc>,
    /// Digest of the archive file it describes, 64 hex digits; empty before there is one.
    #[serde(default)]
    pub archive_sha256: String,
    /// By path.
    pub entries: Vec<Entry>,
}

/// One file of an archive.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Entry {
    /// The logical name, `logs/slo_status.json`; bytes that are not plain text are escaped, see [`path_to_text`].
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Permission bits, 0o7777 at most.
    pub mode: u32,
    /// Seconds since the Unix epoch.
    pub mtime: i64,
    /// 64 hex digits, lower case.
    pub sha256: String,
}

impl Manifest {
    /// An empty manifest of the present schema.
    pub fn new(created: DateTime<Utc>) -> Self {
        Self { schema: SCHEMA, created, archive_sha256: String::new(), entries: Vec::new() }
    }

    /// Bytes of all files together.
    pub fn total_bytes(&self) -> u64 {
        self.entries.iter().fold(0, |sum, entry| sum.saturating_add(entry.size))
    }

    /// Refuses a manifest that cannot be trusted as a description of an archive: a newer schema, an unsafe or repeated path, a digest
    /// that is none. The error names the entry.
    pub fn check(&self) -> Result<(), String> {
        if self.schema == 0 || self.schema > SCHEMA {
            return Err(format!("manifest schema {} is not known, this version reads up to {SCHEMA}", self.schema));
        }
        let mut members = Members::default();
        for entry in &self.entries {
            let path = safe_member_path(&text_to_path(&entry.path))?;
            members.add(&path, Kind::File)?;
            let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
            if entry.sha256.len() != 64 || !entry.sha256.bytes().all(hex) {
                return Err(format!("{}: the digest is not 64 hex digits", entry.path));
            }
            if entry.mode > 0o7777 {
                return Err(format!("{}: mode {:o} is not a permission", entry.path, entry.mode));
            }
        }
        Ok(())
    }
}

/// How much an archive may contain before it is taken for an attack on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Limits {
    pub max_entries: u64,
    /// Bytes of all files together.
    pub max_total_bytes: u64,
    /// Bytes out for one byte in.
    pub max_ratio: u64,
}

impl Default for Limits {
    /// A million entries, 64 GiB, the ratio of deflate.
    fn default() -> Self {
        Self { max_entries: 1_000_000, max_total_bytes: 64 << 30, max_ratio: DEFLATE_MAX_RATIO }
    }
}

impl Limits {
    /// Checks what was read so far: `compressed` bytes in, `uncompressed` bytes out, `entries` members. To be called while reading, not
    /// only at the end, with the compressed bytes consumed so far; the sentence of the error has the numbers.
    pub fn check(&self, compressed: u64, uncompressed: u64, entries: u64) -> Result<(), String> {
        if entries > self.max_entries {
            return Err(format!("{entries} entries are more than the {} allowed", self.max_entries));
        }
        if uncompressed > self.max_total_bytes {
            return Err(format!("{uncompressed} bytes are more than the {} allowed", self.max_total_bytes));
        }
        if u128::from(uncompressed) > u128::from(compressed) * u128::from(self.max_ratio) {
            return Err(format!("{uncompressed} bytes out of {compressed} are more than {} to 1", self.max_ratio));
        }
        Ok(())
    }
}

/// `backup_2025-10-20.tar.gz`.
pub fn archive_name(date: NaiveDate) -> String {
    format!("backup_{date}.tar.gz")
}

/// The date in an archive's file name; `None` for any other file, temporary ones included.
pub fn date_of_archive(name: &str) -> Option<NaiveDate> {
    let text = name.strip_prefix("backup_")?.strip_suffix(".tar.gz")?;
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    // The parser also takes `2025-1-2`; two names for one day would be two archives of it.
    (archive_name(date) == name).then_some(date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_at_the_edge() {
        let limits = Limits { max_entries: 10, max_total_bytes: 1_000_000, max_ratio: DEFLATE_MAX_RATIO };
        let cases = [
            ((0, 0, 0), true),
            ((1000, 1_000_000, 10), true),
            ((1000, 1_000_001, 10), false),
            ((1000, 1_000, 11), false),
            ((100, 103_200, 1), true),
            ((100, 103_201, 1), false),
            ((u64::MAX, 5, 1), true),
        ];
        for ((compressed, uncompressed, entries), fine) in cases {
            assert_eq!(limits.check(compressed, uncompressed, entries).is_ok(), fine, "{compressed} {uncompressed} {entries}");
        }
    }

    #[test]
    fn archive_names_carry_their_date() {
        let date = NaiveDate::from_ymd_opt(2025, 10, 20).unwrap();
        assert_eq!(archive_name(date), "backup_2025-10-20.tar.gz");
        assert_eq!(date_of_archive("backup_2025-10-20.tar.gz"), Some(date));
        let others = ["backup_2025-10-20.tar.gz.tmp", "backup_2025-1-2.tar.gz", "backup_2025-02-30.tar.gz", "backup_.tar.gz", "x"];
        assert!(others.iter().all(|name| date_of_archive(name).is_none()));
    }

    #[test]
    fn a_manifest_is_checked_before_it_is_believed() {
        let entry = |path: &str| Entry { path: path.into(), size: 5, mode: 0o600, mtime: 0, sha256: "ab".repeat(32) };
        let manifest = |entries| Manifest { entries, ..Manifest::new(DateTime::UNIX_EPOCH) };
        let good = manifest(vec![entry("logs/a"), entry("logs/%FF")]);
        assert_eq!((good.check(), good.total_bytes()), (Ok(()), 10));
        let text = serde_json::to_string(&good).unwrap();
        assert!(
            text.starts_with(r#"{"schema":1,"created":"1970-01-01T00:00:00Z","archive_sha256":"","entries":[{"path":"logs/a","size":5,"#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), good);
        let bad = [
            Manifest { schema: 2, ..good.clone() },
            manifest(vec![entry("../a")]),
            manifest(vec![entry("%2E%2E/a")]),
            manifest(vec![entry("a"), entry("./a")]),
            manifest(vec![Entry { sha256: "AB".repeat(32), ..entry("a") }]),
            manifest(vec![Entry { mode: 0o100_644, ..entry("a") }]),
        ];
        assert!(bad.iter().all(|manifest| manifest.check().is_err()));
    }
}
