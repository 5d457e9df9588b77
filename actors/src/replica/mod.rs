//! The second target: a directory (another disk, a mounted share) or an S3-compatible bucket, behind one type. Used by the sync, the audit
//! and whoever restores straight from there. It knows names, bytes and digests and nothing of what they mean. Where it is append-only,
//! this is the door at which removing and replacing are refused, whoever asks.

mod bucket;
mod fetch;
mod folder;

use std::{fs::File, os::unix::fs::FileExt as _, path::Path, sync::Arc};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use ring::digest::{Context as Digest, SHA256};

pub use fetch::{Fetched, Stored, fetch, stored};

use self::{bucket::Bucket, folder::Folder};
use crate::{
    config::{BucketKeys, Config},
    domain::replica::Place,
    env::{Pending, blocking},
    error::{Context as _, Error, Result},
    files,
};

/// Bytes that are read or compared at a time.
const PIECE: u64 = 4 << 20;

/// What lies at the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Below the target, `daily/backup_2026-03-01.tar.gz`.
    pub name: String,
    pub size: u64,
    pub modified: DateTime<Utc>,
}

/// An upload that is under way at a bucket: enough to go on with it in another process.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Upload {
    pub id: String,
    pub part_bytes: u64,
    /// What the bucket called the parts that it has, in their order.
    pub parts: Vec<String>,
}

/// A local file that is sent: opened once, so that what is sent is one content even if the name gets another meanwhile.
#[derive(Clone, Debug)]
pub struct Source {
    file: Arc<File>,
    pub size: u64,
    /// 64 hex digits.
    pub sha256: String,
}

impl Source {
    /// Opens the file and takes its digest, reading all of it.
    pub async fn open(path: &Path) -> Result<Self> {
        let path = path.to_owned();
        blocking(move || Self::read_whole(&path)).await
    }

    fn read_whole(path: &Path) -> Result<Self> {
        let file = File::open(path).context(format!("cannot open {}", path.display()))?;
        let size = file.metadata()?.len();
        let source = Self { file: Arc::new(file), size, sha256: String::new() };
        let mut digest = Digest::new(&SHA256);
        let mut at = 0;
        while at < size {
            let piece = source.read(at, PIECE).context(format!("cannot read {}", path.display()))?;
            digest.update(&piece);
            at += piece.len() as u64;
        }
        Ok(Self { sha256: files::hex(digest.finish().as_ref()), ..source })
    }

    fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let len = len.min(self.size.saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| Error::internal("a piece larger than memory"))?];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

/// Told how an upload goes.
pub trait Watch: Send + Sync {
    /// Bytes that are at the target for good, of all.
    fn progress(&self, done: u64, total: u64);
    /// Writes down how far an upload came, before the next part is sent.
    fn keep<'a>(&'a self, upload: &'a Upload) -> Pending<'a, ()>;
}

/// The second target. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Target {
    url: String,
    append_only: bool,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Folder(Folder),
    Bucket(Box<Bucket>),
}

impl Target {
    /// The target of the configuration; `None` if none is set. Nothing is asked of it yet. Errors: `invalid` if it lies within what is
    /// copied to it, or its keys are missing.
    pub fn open(config: &Config, keys: Option<&BucketKeys>) -> Result<Option<Self>> {
        let settings = &config.replica;
        let place = Place::parse(&settings.url, &settings.endpoint).map_err(|e| Error::invalid("configuration", e))?;
        let kind = match place {
            None => return Ok(None),
            Some(Place::Folder(path)) => Kind::Folder(Folder::open(path, &config.paths.backups, settings.part_mb as u64 * (1 << 20))?),
            Some(Place::Bucket { bucket, prefix }) => {
                let keys = keys.ok_or_else(|| Error::invalid("configuration", "replica.url is a bucket, and there are no keys for it"))?;
                Kind::Bucket(Box::new(Bucket::open(settings, keys, &bucket, prefix)?))
            }
        };
        Ok(Some(Self { url: settings.url.clone(), append_only: settings.append_only, kind }))
    }

    /// `replica.url`.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn is_append_only(&self) -> bool {
        self.append_only
    }

    /// Everything whose name begins with `prefix`, by name. What is still being uploaded is not there. Errors: `unavailable` if the target
    /// does not answer or is not there, never an empty list.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        let mut objects = match &self.kind {
            Kind::Folder(folder) => folder.list(prefix).await?,
            Kind::Bucket(bucket) => bucket.list(prefix).await?,
        };
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(objects)
    }

    /// Sends a file and answers how many bytes went. `resume` is what an earlier, cut off upload of the same content kept. Nothing is at
    /// `name` before all of it is there. Errors: `conflict` with reason `exists` if nothing may be replaced and something is there.
    pub async fn put(&self, name: &str, source: &Source, resume: Option<Upload>, watch: &dyn Watch) -> Result<u64> {
        let replace = !self.append_only;
        let sent = match &self.kind {
            Kind::Folder(folder) => folder.put(name, source, replace, watch).await,
            Kind::Bucket(bucket) => bucket.put(name, source, replace, resume, watch).await,
        };
        sent.map_err(|e| e.context(format!("cannot send {name}")))
    }

    /// `len` bytes from `offset`; fewer at the end.
    pub async fn read_range(&self, name: &str, offset: u64, len: u64) -> Result<Bytes> {
        let bytes = match &self.kind {
            Kind::Folder(folder) => folder.read_range(name, offset, len).await,
            Kind::Bucket(bucket) => bucket.read_range(name, offset, len).await,
        };
        bytes.map_err(|e| e.context(format!("cannot read {name} at the second target")))
    }

    /// How many bytes an object has; `None` if there is none of that name.
    pub async fn size(&self, name: &str) -> Result<Option<u64>> {
        match &self.kind {
            Kind::Folder(folder) => folder.size(name).await,
            Kind::Bucket(bucket) => bucket.size(name).await,
        }
    }

    /// Reads an object of `size` bytes back and answers its SHA-256, in hex. Errors: `unavailable` with reason `not_the_same` if it has
    /// another size.
    pub async fn digest(&self, name: &str, size: u64) -> Result<String> {
        let there = self.size(name).await?;
        if there != Some(size) {
            let there = there.map_or("is not there".to_owned(), |n| format!("has {n} bytes there"));
            return Err(Error::unavailable("not_the_same", format!("{name} {there} and should have {size}")));
        }
        let mut digest = Digest::new(&SHA256);
        self.pieces(name, 0, size, &mut |piece| {
            digest.update(&piece);
            Ok(())
        })
        .await?;
        Ok(files::hex(digest.finish().as_ref()))
    }

    /// All of a small object.
    pub async fn read(&self, name: &str, size: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.pieces(name, 0, size, &mut |piece| {
            bytes.extend_from_slice(&piece);
            Ok(())
        })
        .await?;
        Ok(bytes)
    }

    /// Hands on an object from `offset` to its end, piece by piece. One that ends before its size is an error.
    async fn pieces(&self, name: &str, offset: u64, size: u64, take: &mut (dyn FnMut(Bytes) -> Result<()> + Send)) -> Result<()> {
        let mut at = offset;
        while at < size {
            let piece = self.read_range(name, at, PIECE.min(size - at)).await?;
            if piece.is_empty() {
                return Err(Error::unavailable("replica", format!("{name} ends after {at} of {size} bytes")));
            }
            at += piece.len() as u64;
            take(piece)?;
        }
        Ok(())
    }

    /// Removes an object. Errors: `forbidden` with reason `append_only`.
    pub async fn delete(&self, name: &str) -> Result<()> {
        if self.append_only {
            return Err(Error::forbidden("append_only", format!("{name} stays: the second target is append-only")));
        }
        match &self.kind {
            Kind::Folder(folder) => folder.delete(name).await,
            Kind::Bucket(bucket) => bucket.delete(name).await,
        }
    }

    /// Gives up an upload that was cut off and will not go on. Where nothing may be removed it is left to the bucket's own rules.
    pub async fn abandon(&self, name: &str, upload: &Upload) -> Result<()> {
        match &self.kind {
            Kind::Bucket(bucket) if !self.append_only => bucket.abandon(name, upload).await,
            _ => Ok(()),
        }
    }
}

/// The error of something that is there already.
fn exists(name: &str) -> Error {
    Error::conflict("exists", format!("{name} is there already, and nothing may be replaced"))
}
