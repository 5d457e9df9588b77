//! An archive where it lies: in the folder, or brought here from the second target first (`--from-replica`), for as long as the command
//! needs it. The second target is asked without a daemon and without a database: this may be a machine that has neither any more.

use std::path::{Path, PathBuf};

use chrono::NaiveDate;
use echopilot_actors::{
    archive,
    config::{BucketKeys, Config},
    env::{blocking, rfc3339},
    error::{Code, Context as _, Error, Result},
    replica::{self, Stored},
};
use serde_json::json;
use tempfile::TempDir;

use super::find::{Wanted, find};
use crate::cli::{
    Invocation,
    exit::Outcome,
    output::{Progress, size, table},
};

/// An archive's file; one that was fetched goes with this.
pub(super) struct Located {
    pub(super) path: PathBuf,
    _fetched: Option<TempDir>,
}

/// Finds the archive, or fetches it into a folder of its own below `beside`. Errors: `not_found`; `invalid` with reason `not_configured`
/// without a second target.
pub(super) async fn locate(invocation: &Invocation, wanted: Wanted, from_replica: bool, beside: &Path) -> Result<Located> {
    let config = invocation.config()?;
    if !from_replica {
        let path = blocking(move || find(&config, &wanted)).await?;
        return Ok(Located { path, _fetched: None });
    }
    let keys = BucketKeys::load(&config, &invocation.environment)?;
    std::fs::create_dir_all(beside).context(format!("cannot create {}", beside.display()))?;
    let scratch = tempfile::Builder::new().prefix(".restore-fetched-").tempdir_in(beside).context("cannot create a scratch folder")?;
    let there = replica::stored(&config, keys.as_ref()).await?;
    for date in candidates(&there, &wanted)? {
        let progress = Progress::new("fetching");
        let fetched = replica::fetch(&config, keys.as_ref(), date, scratch.path(), &mut |done, total| progress.bytes(done, total)).await?;
        let made = archive::read_manifest(&fetched.archive)?.map(|manifest| manifest.created);
        match (&wanted, made) {
            (Wanted::At(time), Some(made)) if made > *time => {} // made later on that day
            _ => return Ok(Located { path: fetched.archive, _fetched: Some(scratch) }),
        }
    }
    Err(missing(&config, &wanted))
}

/// The days whose archives may be the one that is wanted, the likeliest first.
fn candidates(there: &[Stored], wanted: &Wanted) -> Result<Vec<NaiveDate>> {
    let mut days: Vec<NaiveDate> = there.iter().map(|stored| stored.date).collect();
    days.dedup();
    match wanted {
        Wanted::Named(name) if name == "latest" => days.truncate(1),
        Wanted::Named(name) => {
            let what = || {
                Error::invalid("missing_input", format!("at the second target an archive is named by its day or `latest`, not \"{name}\""))
            };
            let day: NaiveDate = name.parse().map_err(|_| what())?;
            days.retain(|date| *date == day);
        }
        Wanted::At(time) => days.retain(|date| *date <= time.date_naive()),
    }
    Ok(days)
}

fn missing(config: &Config, wanted: &Wanted) -> Error {
    let which = match wanted {
        Wanted::Named(name) if name == "latest" => "archive".to_owned(),
        Wanted::Named(name) => format!("archive of {name}"),
        Wanted::At(time) => format!("archive from {} or before", rfc3339(*time)),
    };
    let what = format!("there is no {which} at {}: `echopilot backup list --replica` shows them", config.replica.url);
    Error::new(Code::NotFound, "file_not_found", what)
}

/// Lists what lies at the second target.
pub(super) async fn list(invocation: &Invocation) -> Result<Outcome> {
    let config = invocation.config()?;
    let keys = BucketKeys::load(&config, &invocation.environment)?;
    let there = replica::stored(&config, keys.as_ref()).await?;
    let answer = json!({"ok": true, "target": config.replica.url, "count": there.len(), "archives": there});
    invocation.print(&answer, || {
        let row = |s: &Stored| vec![s.date.to_string(), s.name.clone(), size(&s.size_bytes.into()), rfc3339(s.stored_at)];
        let rows: Vec<Vec<String>> = there.iter().map(row).collect();
        if rows.is_empty() { format!("no archives at {}", config.replica.url) } else { table(&["DATE", "NAME", "SIZE", "STORED"], &rows) }
    });
    Ok(Outcome::Fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_days_that_may_be_meant_are_tried_from_the_likeliest_on() {
        let day = |text: &str| text.parse::<NaiveDate>().expect("a day");
        let stored = |date: &str| Stored {
            date: day(date),
            name: format!("daily/backup_{date}.tar.gz"),
            size_bytes: 1,
            stored_at: chrono::DateTime::UNIX_EPOCH,
        };
        let there = [stored("2026-03-03"), stored("2026-03-02"), stored("2026-03-02"), stored("2026-03-01")];
        let of = |wanted: &Wanted| candidates(&there, wanted).map(|days| days.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(of(&Wanted::Named("latest".into())).expect("days"), ["2026-03-03"]);
        assert_eq!(of(&Wanted::Named("2026-03-02".into())).expect("days"), ["2026-03-02"]);
        assert_eq!(of(&Wanted::At("2026-03-02T00:10:00Z".parse().expect("a time"))).expect("days"), ["2026-03-02", "2026-03-01"]);
        assert!(of(&Wanted::Named("a/path.tar.gz".into())).is_err());
    }
}
