//! What is written down beside an archive, and what archives are called. Pure: names and figures only; the format itself is in the
//! package `archive/`.

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};

/// The manifest that this version writes and the newest it reads.
pub const SCHEMA: u32 = 2;

/// The JSON file beside an archive. It is signed as a whole (`signing.rs`); through the digest of the table of contents it vouches for
/// every file, although it lists none. Manifests of schema 1 had neither; of them only the digest of the archive is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: u32,
    /// RFC 3339, UTC.
    pub created: DateTime<Utc>,
    /// Of the file as it lies there, encrypted or not: 64 hex digits.
    pub archive_sha256: String,
    #[serde(default)]
    pub size_bytes: u64,
    /// Of the table of contents: 64 hex digits.
    #[serde(default)]
    pub toc_sha256: String,
    /// Entries, and files among them.
    #[serde(default)]
    pub entry_count: u64,
    #[serde(default)]
    pub files: u64,
    /// Bytes of all files together.
    #[serde(default)]
    pub content_bytes: u64,
    /// Bytes taken over from the archive before, and its name; null for one that was made from nothing.
    #[serde(default)]
    pub reused_bytes: u64,
    #[serde(default)]
    pub previous: Option<String>,
    /// `ok` or `partial`.
    #[serde(default)]
    pub state: String,
    /// What is not in it as it was on the disk: `[{"path","what"}]`.
    #[serde(default)]
    pub problems: serde_json::Value,
    /// Whom it is encrypted to; empty: it is not.
    #[serde(default)]
    pub recipients: Vec<String>,
}

impl Manifest {
    /// Refuses a manifest that cannot be believed as a description of an archive.
    pub fn check(&self) -> Result<(), String> {
        if self.schema == 0 || self.schema > SCHEMA {
            return Err(format!("manifest schema {} is not known, this version reads up to {SCHEMA}", self.schema));
        }
        let is_digest = |text: &str| text.len() == 64 && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
        if !is_digest(&self.archive_sha256) || self.schema > 1 && !is_digest(&self.toc_sha256) {
            return Err("a digest is not 64 hex digits".to_owned());
        }
        Ok(())
    }
}

/// `backup_2025-10-20.tar.gz`.
pub fn archive_name(date: NaiveDate) -> String {
    format!("backup_{date}.tar.gz")
}

/// The name of the same archive when it is encrypted.
pub fn encrypted_name(date: NaiveDate) -> String {
    format!("backup_{date}.tar.gz.age")
}

/// The date in an archive's file name, encrypted or not; `None` for any other file, temporary ones included.
pub fn date_of_archive(name: &str) -> Option<NaiveDate> {
    let text = name.strip_suffix(".age").unwrap_or(name).strip_prefix("backup_")?.strip_suffix(".tar.gz")?;
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    // The parser also takes `2025-1-2`; two names for one day would be two archives of it.
    (date.to_string() == text).then_some(date)
}

/// What of the daemon's own is archived, by its name in the archive.
pub const LOGS: &str = "logs";
pub const CONFIGS: &str = "configs";
pub const PAYOUTS: &str = "backups/payouts";
pub const DATABASE: &str = "database";
/// The name of the database's copy in every archive.
pub const DATABASE_FILE: &str = "database/echopilot.db";
const OWN: [&str; 4] = [LOGS, CONFIGS, PAYOUTS, DATABASE];

/// One item of `backup.include`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Include {
    /// One of the daemon's own.
    Own(&'static str),
    /// A folder or file of the operator's: its name in the archive and where it lies.
    Other(String, String),
}

impl Include {
    /// Errors say what an item must look like.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(own) = OWN.into_iter().find(|own| *own == text) {
            return Ok(Self::Own(own));
        }
        let Some((name, path)) = text.split_once('=').filter(|(name, path)| !name.is_empty() && !path.is_empty()) else {
            return Err(format!("backup.include: \"{text}\" is neither one of {} nor NAME=PATH", OWN.join(", ")));
        };
        let plain = name.split('/').all(|part| !part.is_empty() && part != "." && part != "..") && !name.contains(char::is_control);
        let first = name.split('/').next().unwrap_or(name);
        if !plain || ["logs", "configs", "backups", "database"].contains(&first) {
            return Err(format!("backup.include: \"{name}\" cannot be a name in the archive: it leaves it, or is the daemon's own"));
        }
        Ok(Self::Other(name.to_owned(), path.to_owned()))
    }
}

/// Whether a figure is far from what it was: below half or above twice the median of the last seven. Too few say nothing.
pub fn is_unusual(figure: i64, earlier: &[i64]) -> bool {
    let mut last: Vec<i64> = earlier.iter().copied().take(7).collect();
    if last.len() < 3 {
        return false;
    }
    last.sort_unstable();
    let median = last[last.len() / 2];
    figure < median / 2 || figure > median.saturating_mul(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_names_carry_their_date() {
        let date = NaiveDate::from_ymd_opt(2025, 10, 20).unwrap();
        assert_eq!(archive_name(date), "backup_2025-10-20.tar.gz");
        assert_eq!(date_of_archive("backup_2025-10-20.tar.gz"), Some(date));
        assert_eq!(date_of_archive(&encrypted_name(date)), Some(date));
        let others = ["backup_2025-10-20.tar.gz.tmp", "backup_2025-1-2.tar.gz", "backup_2025-02-30.tar.gz", "backup_.tar.gz", "x"];
        assert!(others.iter().all(|name| date_of_archive(name).is_none()));
    }

    #[test]
    fn a_manifest_is_checked_before_it_is_believed() {
        let digest = "ab".repeat(32);
        let good = Manifest { schema: 2, archive_sha256: digest.clone(), toc_sha256: digest.clone(), ..Manifest::default() };
        assert_eq!(good.check(), Ok(()));
        let old = r#"{"schema":1,"created":"1970-01-01T00:00:00Z","archive_sha256":"DIGEST","entries":[{"path":"logs/a","size":5}]}"#;
        let old: Manifest = serde_json::from_str(&old.replace("DIGEST", &digest)).unwrap();
        assert_eq!(old.check(), Ok(()));
        let bad = [
            Manifest { schema: 3, ..good.clone() },
            Manifest { schema: 0, ..good.clone() },
            Manifest { archive_sha256: "AB".repeat(32), ..good.clone() },
            Manifest { toc_sha256: String::new(), ..good.clone() },
        ];
        assert!(bad.iter().all(|manifest| manifest.check().is_err()));
    }

    #[test]
    fn what_is_included_has_a_name_of_its_own() {
        assert_eq!(Include::parse("logs"), Ok(Include::Own(LOGS)));
        assert_eq!(Include::parse("shop/files=/srv/a=b"), Ok(Include::Other("shop/files".into(), "/srv/a=b".into())));
        for bad in ["", "lgos", "=x", "x=", "../x=/y", "logs/x=/y", "backups=/y", "a//b=/y"] {
            assert!(Include::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_size_is_unusual_beside_enough_others() {
        assert!(!is_unusual(1, &[100, 100]));
        assert!(is_unusual(49, &[100, 100, 100]) && is_unusual(201, &[90, 100, 110]));
        assert!(!is_unusual(50, &[100, 100, 100]) && !is_unusual(200, &[100, 100, 100]));
        assert!(!is_unusual(100, &[100, 100, 100, 100, 100, 100, 100, 1, 1, 1, 1, 1, 1, 1, 1, 1]));
    }
}
