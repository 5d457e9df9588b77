//! The second target: where it is, what things are called there, and what is to be done for each local file. Used by the
//! configuration, by the sync and by whoever restores from there. Pure: decides by names, sizes and digests.

use std::{collections::BTreeMap, path::PathBuf};

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};

use super::archive::date_of_archive;

/// Below the target: archives with their manifests, archives of payouts, audits, checkpoints of the journal, public keys.
pub const DAILY: &str = "daily/";
pub const PAYOUTS: &str = "payouts/";
pub const AUDIT: &str = "audit/";
pub const JOURNAL: &str = "journal/";
pub const KEYS: &str = "signing_keys/";
/// What a manifest's name adds to its archive's.
const MANIFEST: &str = ".manifest.json";
/// Stands before the digest in the name of another content of the same name.
const VERSION: &str = ".v-";
/// So many contents of one name are enough.
const MAX_VERSIONS: usize = 20;

/// Where the second target is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Folder(PathBuf),
    Bucket {
        bucket: String,
        /// Without a slash at either end; may be empty.
        prefix: String,
    },
}

impl Place {
    /// Reads `replica.url` and checks `replica.endpoint`; `None` if there is no second target. The error is a sentence.
    pub fn parse(url: &str, endpoint: &str) -> Result<Option<Self>, String> {
        if endpoint.strip_prefix("http://").is_some_and(|rest| !is_loopback(rest)) {
            return Err("replica.endpoint must be https:// unless it is on this machine (127.0.0.1)".into());
        }
        let Some(rest) = url.strip_prefix("s3://") else {
            return match url {
                "" => Ok(None),
                _ if url.contains("://") => Err(format!("replica.url must be a directory or s3://BUCKET/PREFIX, not {url}")),
                _ => Ok(Some(Self::Folder(url.into()))),
            };
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let fine = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if bucket.len() < 3
            || !bucket.chars().all(fine)
            || !prefix.split('/').all(|part| part.chars().all(fine) && part != "." && part != "..")
        {
            return Err(format!("replica.url must be s3://BUCKET/PREFIX of letters, digits, '-', '.' and '_', not {url}"));
        }
        let prefix = prefix.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
        Ok(Some(Self::Bucket { bucket: bucket.into(), prefix }))
    }
}

fn is_loopback(authority: &str) -> bool {
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    // A name before an @ is not the host.
    !authority.contains('@') && (host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()))
}

/// A local file that is to be at the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Its name at the target, `daily/backup_2026-03-01.tar.gz`.
    pub name: String,
    pub size: u64,
    /// 64 hex digits.
    pub sha256: String,
}

/// What was written down of an object of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub sha256: String,
    /// `uploading`, `verified`, `failed` or `removed`.
    pub state: String,
}

/// What is to be done for a local file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is there and was verified, under this name.
    Done(String),
    /// Something of its size is there: it is read and compared before anything is sent.
    Check(String),
    Put(String),
    /// There is no free name for it any more.
    Stuck,
}

/// Decides by what was recorded and by what lies there (name and size). Where nothing may be replaced (`append_only`), another content
/// of the same name gets a name of its own.
pub fn step(local: &Local, recorded: &BTreeMap<String, Recorded>, there: &BTreeMap<String, u64>, append_only: bool) -> Step {
    for n in 0..MAX_VERSIONS {
        let name = version_name(&local.name, &local.sha256, n);
        let known = recorded.get(&name).filter(|r| r.sha256 == local.sha256).map_or("", |r| r.state.as_str());
        match there.get(&name) {
            None => return Step::Put(name),
            Some(size) if *size == local.size && known == "verified" => return Step::Done(name),
            // One that was found to be something else is not read again and again.
            Some(size) if *size == local.size && known != "failed" => return Step::Check(name),
            Some(_) if !append_only => return Step::Put(name),
            Some(_) => {}
        }
    }
    Step::Stuck
}

/// The name of the `n`-th content: the plain name first, then with the digest, then with a number.
fn version_name(name: &str, sha256: &str, n: usize) -> String {
    let digest = sha256.get(..12).unwrap_or(sha256);
    match n {
        0 => name.to_owned(),
        1 => format!("{name}{VERSION}{digest}"),
        _ => format!("{name}{VERSION}{digest}-{n}"),
    }
}

/// A name at the target without what tells contents of the same name apart: the local file's.
pub fn plain_name(name: &str) -> &str {
    match name.rfind(VERSION) {
        Some(at) if name[at + VERSION.len()..].bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') => &name[..at],
        _ => name,
    }
}

/// The day of an archive at the target; `None` for manifests and everything else.
pub fn day_of(name: &str) -> Option<NaiveDate> {
    let file = plain_name(name).strip_prefix(DAILY)?;
    date_of_archive(file.strip_suffix(".age").unwrap_or(file))
}

/// What an archive's manifest is called.
pub fn manifest_name(archive: &str) -> String {
    format!("{}{MANIFEST}", plain_name(archive))
}

/// The digest of the archive that a manifest describes; `None` if it is no manifest or names none.
pub fn digest_in_manifest(bytes: &[u8]) -> Option<String> {
    let manifest: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    manifest["archive_sha256"].as_str().filter(|s| s.len() == 64).map(str::to_owned)
}

/// The day of an archive of payouts at the target.
pub fn payouts_day_of(name: &str) -> Option<NaiveDate> {
    plain_name(name).strip_prefix(PAYOUTS)?.strip_prefix("payout_recon_")?.strip_suffix(".json")?.parse().ok()
}

/// `checkpoint_20260301T020000Z.json`.
pub fn checkpoint_file(at: DateTime<Utc>) -> String {
    format!("checkpoint_{}.json", at.format("%Y%m%dT%H%M%SZ"))
}

/// When a checkpoint was made, by its file's name.
pub fn checkpoint_time(file: &str) -> Option<DateTime<Utc>> {
    let text = plain_name(file).strip_prefix("checkpoint_")?.strip_suffix(".json")?;
    NaiveDateTime::parse_from_str(text, "%Y%m%dT%H%M%SZ").ok().map(|at| at.and_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_folder_or_a_bucket_and_nothing_else() {
        let bucket = |bucket: &str, prefix: &str| Ok(Some(Place::Bucket { bucket: bucket.into(), prefix: prefix.into() }));
        let cases = [
            ("", "", Ok(None)),
            ("/mnt/second", "", Ok(Some(Place::Folder("/mnt/second".into())))),
            ("s3://backups", "", bucket("backups", "")),
            ("s3://backups/a//b/", "https://s3.example.net", bucket("backups", "a/b")),
            ("s3://backups/a", "http://127.0.0.1:5000", bucket("backups", "a")),
            ("s3://backups/a", "http://[::1]:5000/", bucket("backups", "a")),
        ];
        for (url, endpoint, expected) in cases {
            assert_eq!(Place::parse(url, endpoint), expected, "{url} {endpoint}");
        }
        let refused = ["s3://", "s3://a b c/x", "s3://backups/../x", "https://backups.example.net", "ftp://x", "file:///x"];
        assert!(refused.iter().all(|url| Place::parse(url, "").is_err()));
        for endpoint in ["http://s3.example.net", "http://127.0.0.1@evil.example", "http://127.0.0.1.evil.example:80", "http://10.0.0.1"] {
            assert!(Place::parse("s3://backups", endpoint).is_err(), "{endpoint}");
        }
    }

    fn local() -> Local {
        Local { name: "daily/backup_2026-03-01.tar.gz".into(), size: 10, sha256: "ab".repeat(32) }
    }

    fn recorded(name: &str, sha256: &str, state: &str) -> BTreeMap<String, Recorded> {
        [(name.to_owned(), Recorded { sha256: sha256.into(), state: state.into() })].into()
    }

    #[test]
    fn a_file_is_sent_checked_or_left_alone() {
        let (file, mine, other) = (local(), "ab".repeat(32), "cd".repeat(32));
        let name = file.name.clone();
        let there = |size: u64| BTreeMap::from([(name.clone(), size)]);
        let cases = [
            (BTreeMap::new(), BTreeMap::new(), Step::Put(name.clone())),
            (recorded(&name, &mine, "verified"), there(10), Step::Done(name.clone())),
            (recorded(&name, &mine, "verified"), BTreeMap::new(), Step::Put(name.clone())),
            (recorded(&name, &mine, "verified"), there(9), Step::Put(name.clone())),
            (recorded(&name, &mine, "uploading"), there(10), Step::Check(name.clone())),
            (BTreeMap::new(), there(10), Step::Check(name.clone())),
            (recorded(&name, &mine, "failed"), there(10), Step::Put(name.clone())),
            (recorded(&name, &other, "verified"), there(9), Step::Put(name.clone())),
        ];
        for (recorded, there, expected) in cases {
            assert_eq!(step(&file, &recorded, &there, false), expected, "{recorded:?} {there:?}");
        }
    }

    #[test]
    fn where_nothing_is_replaced_another_content_gets_another_name() {
        let (file, mine) = (local(), "ab".repeat(32));
        let second = format!("{}.v-abababababab", file.name);
        let mut there = BTreeMap::from([(file.name.clone(), 9)]);
        assert_eq!(step(&file, &BTreeMap::new(), &there, true), Step::Put(second.clone()));
        there.insert(second.clone(), 10);
        assert_eq!(step(&file, &recorded(&second, &mine, "verified"), &there, true), Step::Done(second.clone()));
        assert_eq!(step(&file, &recorded(&second, &mine, "failed"), &there, true), Step::Put(format!("{second}-2")));
        assert_eq!((plain_name(&second), plain_name(&format!("{second}-2"))), (file.name.as_str(), file.name.as_str()));
        assert_eq!(day_of(&second), "2026-03-01".parse().ok());
        there.extend((0..MAX_VERSIONS).map(|n| (version_name(&file.name, &mine, n), 9)));
        assert_eq!(step(&file, &BTreeMap::new(), &there, true), Step::Stuck);
    }

    #[test]
    fn names_carry_their_day_or_time() {
        assert_eq!(day_of("daily/backup_2026-03-01.tar.gz.age"), "2026-03-01".parse().ok());
        assert_eq!(day_of("daily/backup_2026-03-01.tar.gz.manifest.json"), None);
        assert_eq!(manifest_name("daily/backup_2026-03-01.tar.gz.v-00ff"), "daily/backup_2026-03-01.tar.gz.manifest.json");
        assert_eq!(digest_in_manifest(format!("{{\"archive_sha256\":\"{}\"}}", "ab".repeat(32)).as_bytes()), Some("ab".repeat(32)));
        assert!([&b"{"[..], b"[]", b"{\"archive_sha256\":\"\"}"].iter().all(|bytes| digest_in_manifest(bytes).is_none()));
        assert_eq!(payouts_day_of("payouts/payout_recon_2026-03-01.json"), "2026-03-01".parse().ok());
        assert_eq!(payouts_day_of("payouts/other.json"), None);
        let at = "2026-03-01T02:00:00Z".parse().unwrap();
        assert_eq!(checkpoint_file(at), "checkpoint_20260301T020000Z.json");
        assert_eq!(checkpoint_time(&checkpoint_file(at)), Some(at));
        assert_eq!(checkpoint_time("checkpoint_.json"), None);
    }
}
