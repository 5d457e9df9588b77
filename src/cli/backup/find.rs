//! Which archive is meant: a day, `latest`, a path, or a time. Looks at the folder and the manifests only, so that it works without a
//! daemon and without a database. An archive that lies elsewhere is brought here first: this is the one place that says where to look.

use std::path::{Path, PathBuf};

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Timelike as _, Utc};
use echopilot_actors::{
    archive,
    config::Config,
    domain::archive::{archive_name, date_of_archive, encrypted_name},
    env::rfc3339,
    error::{Code, Error, Result},
};

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A day, `latest`, or a path.
    Named(String),
    /// The newest that was made at or before that time.
    At(DateTime<Utc>),
}

/// The archive's file. Errors: `not_found` with reason `file_not_found`.
pub(super) fn find(config: &Config, wanted: &Wanted) -> Result<PathBuf> {
    let folder = config.paths.backups.join("daily");
    match wanted {
        Wanted::Named(name) if name == "latest" => {
            newest(&folder, None).ok_or_else(|| missing(format!("there is no archive in {}", folder.display())))
        }
        Wanted::Named(name) => match name.parse::<NaiveDate>() {
            Ok(date) => {
                let names = [archive_name(date), encrypted_name(date)];
                let there = names.iter().map(|name| folder.join(name)).find(|path| path.is_file());
                there.ok_or_else(|| missing(format!("there is no archive {}", folder.join(&names[0]).display())))
            }
            Err(_) if Path::new(name).is_file() => Ok(name.into()),
            Err(_) => Err(missing(format!("there is no archive {name}"))),
        },
        Wanted::At(time) => {
            let none = || missing(format!("no archive in {} was made at or before {}", folder.display(), rfc3339(*time)));
            newest(&folder, Some(*time)).ok_or_else(none)
        }
    }
}

fn missing(what: String) -> Error {
    let help = "`echopilot backup list` shows them; name a day as YYYY-MM-DD, `latest`, or a path";
    Error::new(Code::NotFound, "file_not_found", format!("{what}: {help}"))
}

/// The newest archive of the folder, made at or before `limit`.
fn newest(folder: &Path, limit: Option<DateTime<Utc>>) -> Option<PathBuf> {
    let mut found: Vec<(DateTime<Utc>, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Some(date) = date_of_archive(&entry.file_name().to_string_lossy()) else { continue };
        let made = made_at(&entry.path(), date);
        if limit.is_none_or(|limit| made <= limit) {
            found.push((made, entry.path()));
        }
    }
    found.into_iter().max().map(|(_, path)| path)
}

/// When an archive was made, as its manifest says; one without a manifest is taken to be of the end of its day.
fn made_at(path: &Path, date: NaiveDate) -> DateTime<Utc> {
    match archive::read_manifest(path) {
        // Times are shown in whole seconds; the time that a list shows of an archive must find it.
        Ok(Some(manifest)) => manifest.created.with_nanosecond(0).unwrap_or(manifest.created),
        // One that cannot be read says nothing; that it is wrong is said by whoever opens the archive.
        Ok(None) | Err(_) => date.and_time(NaiveTime::MIN).and_utc() + TimeDelta::days(1) - TimeDelta::seconds(1),
    }
}

/// A time in RFC 3339, or a day, which means its last moment.
pub(super) fn moment(text: &str) -> std::result::Result<DateTime<Utc>, String> {
    let day =
        || text.parse::<NaiveDate>().map(|day| day.and_time(NaiveTime::MIN).and_utc() + TimeDelta::days(1) - TimeDelta::nanoseconds(1));
    text.parse().or_else(|_| day()).map_err(|_| "neither a time like 2026-03-01T08:00:00Z nor a day like 2026-03-01".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        moment(text).expect("a time")
    }

    #[test]
    fn a_time_finds_the_newest_archive_that_was_there_then() {
        let folder = tempfile::tempdir().expect("a folder");
        for (day, made) in
            [("2026-03-01", Some("2026-03-02T00:30:00.123456Z")), ("2026-03-02", Some("2026-03-03T09:00:00Z")), ("2026-02-01", None)]
        {
            let path = folder.path().join(archive_name(day.parse().expect("a day")));
            std::fs::write(&path, "x").expect("an archive");
            if let Some(made) = made {
                let digest = "ab".repeat(32);
                let manifest = serde_json::json!({"schema": 1, "created": made, "archive_sha256": digest});
                std::fs::write(archive::manifest_path(&path), manifest.to_string()).expect("a manifest");
            }
        }
        std::fs::write(folder.path().join("backup_2026-03-09.tar.gz.tmp"), "x").expect("litter");
        let day = |limit: Option<&str>| {
            let found = newest(folder.path(), limit.map(at));
            found.and_then(|path| date_of_archive(&path.file_name()?.to_string_lossy())).map(|day| day.to_string())
        };
        assert_eq!(day(None).as_deref(), Some("2026-03-02"));
        assert_eq!(day(Some("2026-03-03T09:00:00Z")).as_deref(), Some("2026-03-02"));
        assert_eq!(day(Some("2026-03-02T00:30:00Z")).as_deref(), Some("2026-03-01"));
        assert_eq!(day(Some("2026-03-03T08:59:59Z")).as_deref(), Some("2026-03-01"));
        assert_eq!(day(Some("2026-03-02")).as_deref(), Some("2026-03-01"), "a day means its last moment");
        assert_eq!(day(Some("2026-02-01")).as_deref(), Some("2026-02-01"), "one without a manifest is of its day");
        assert_eq!(day(Some("2026-01-31")), None);
    }
}
