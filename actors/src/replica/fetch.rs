//! Fetching an archive straight from the second target, to restore it. Needs the configuration and the keys and nothing else: no daemon, no
//! database, not the machine that made it. What arrives has been compared with its manifest.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use chrono::{DateTime, NaiveDate, Utc};
use ring::digest::{Context as Digest, SHA256};

use super::{Object, Target};
use crate::{
    config::{BucketKeys, Config},
    domain::replica::{DAILY, day_of, digest_in_manifest, manifest_name, plain_name},
    error::{Context as _, Error, Result},
    files,
};

/// An archive at the second target.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Stored {
    pub date: NaiveDate,
    /// Its name there.
    pub name: String,
    pub size_bytes: u64,
    pub stored_at: DateTime<Utc>,
}

/// An archive that was fetched.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Fetched {
    /// Under the name it had when it was made.
    pub archive: PathBuf,
    /// Beside it, where `archive::read_manifest` looks.
    pub manifest: PathBuf,
    pub bytes: u64,
    pub sha256: String,
}

/// The archives at the second target, newest first; of several of one day (append-only) the last one stored first. Errors: `invalid` with
/// reason `not_configured` if there is no second target.
pub async fn stored(config: &Config, keys: Option<&BucketKeys>) -> Result<Vec<Stored>> {
    let (_, objects) = listing(config, keys).await?;
    Ok(archives(&objects))
}

/// Fetches the archive of `date` with its manifest into the folder `to`, which is made if it is not there; `progress` is told bytes done
/// and bytes in all. A transfer that was cut off goes on where it ended. Errors: `not_found` without an archive of that day, `invalid`
/// with reason `archive` if what arrived is not what its manifest says: nothing has its final name then.
pub async fn fetch(
    config: &Config,
    keys: Option<&BucketKeys>,
    date: NaiveDate,
    to: &Path,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Fetched> {
    let (target, objects) = listing(config, keys).await?;
    let mut of_the_day = archives(&objects).into_iter().filter(|a| a.date == date).peekable();
    if of_the_day.peek().is_none() {
        return Err(Error::not_found(format!("there is no archive of {date} at {}", target.url())));
    }
    fs::create_dir_all(to).context(format!("cannot create {}", to.display()))?;
    let mut last = Error::not_found(format!("no archive of {date} at {} has a manifest", target.url()));
    for candidate in of_the_day {
        match fetch_one(&target, &objects, &candidate, to, progress).await {
            Err(error) if error.reason == "archive" || error.reason == "not_found" => last = error, // an older content of that day may be whole
            other => return other,
        }
    }
    Err(last)
}

async fn listing(config: &Config, keys: Option<&BucketKeys>) -> Result<(Target, Vec<Object>)> {
    let target =
        Target::open(config, keys)?.ok_or_else(|| Error::invalid("not_configured", "there is no second target: replica.url is empty"))?;
    let objects = target.list(DAILY).await?;
    Ok((target, objects))
}

fn archives(objects: &[Object]) -> Vec<Stored> {
    let mut found: Vec<Stored> = objects
        .iter()
        .filter_map(|o| Some(Stored { date: day_of(&o.name)?, name: o.name.clone(), size_bytes: o.size, stored_at: o.modified }))
        .collect();
    found.sort_by(|a, b| (b.date, b.stored_at, &b.name).cmp(&(a.date, a.stored_at, &a.name)));
    found
}

async fn fetch_one(
    target: &Target,
    objects: &[Object],
    stored: &Stored,
    to: &Path,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Fetched> {
    let file_name = plain_name(&stored.name).rsplit('/').next().unwrap_or_default().to_owned();
    let archive = to.join(&file_name);
    let part = to.join(format!(".{}.part", stored.name.rsplit('/').next().unwrap_or_default()));
    let sha256 = download(target, stored, &part, progress).await?;
    // The manifest that names these bytes is theirs; there is one for each content of the day.
    let manifest_name = manifest_name(&stored.name);
    for object in objects.iter().filter(|o| plain_name(&o.name) == manifest_name) {
        let bytes = target.read(&object.name, object.size).await?;
        if digest_in_manifest(&bytes).as_ref() == Some(&sha256) {
            let path = to.join(format!("{file_name}.manifest.json"));
            files::replace(&path, &bytes, files::MODE_PRIVATE)?;
            fs::rename(&part, &archive).context(format!("cannot create {}", archive.display()))?;
            files::sync_folder(to)?;
            return Ok(Fetched { archive, manifest: path, bytes: stored.size_bytes, sha256 });
        }
    }
    fs::remove_file(&part)?; // it would only be resumed to the same end
    Err(Error::invalid(
        "archive",
        format!("{} is not what any manifest beside it says: it is damaged, or just being replaced", stored.name),
    ))
}

/// Fills `part` up to the object's size and answers the digest of all of it.
async fn download(target: &Target, stored: &Stored, part: &Path, progress: &mut (dyn FnMut(u64, u64) + Send)) -> Result<String> {
    let doing = || format!("cannot write {}", part.display());
    let mut file = File::options().create(true).append(true).read(true).mode(files::MODE_PRIVATE).open(part).context(doing())?;
    let mut digest = Digest::new(&SHA256);
    let mut at = file.metadata()?.len();
    if at > stored.size_bytes {
        file.set_len(0).context(doing())?;
        at = 0;
    }
    let mut begun = (&file).take(at);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = begun.read(&mut buffer).context(doing())?;
        if n == 0 {
            break;
        }
        digest.update(&buffer[..n]);
    }
    progress(at, stored.size_bytes);
    target
        .pieces(&stored.name, at, stored.size_bytes, &mut |piece| {
            file.write_all(&piece).context(doing())?;
            digest.update(&piece);
            at += piece.len() as u64;
            progress(at, stored.size_bytes);
            Ok(())
        })
        .await?;
    file.sync_all().context(doing())?;
    Ok(files::hex(digest.finish().as_ref()))
}
