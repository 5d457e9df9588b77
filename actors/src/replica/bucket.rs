//! An S3-compatible bucket as the second target. Large files go in parts whose names are kept, so that an upload that was cut off goes on
//! after its last whole part. What failed in a way that may pass is tried again, later and later and not all at once. Keys never appear in
//! an error.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use object_store::{
    BackoffConfig, ClientOptions, Error as StoreError, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, Checksum},
    multipart::{MultipartStore as _, PartId},
    path::Path,
};
use secrecy::ExposeSecret as _;

use super::{Object, Source, Upload, Watch, exists};
use crate::{
    config::{BucketKeys, Replica},
    domain::backoff::Backoff,
    env::blocking,
    error::{Code, Error, Result},
    files,
};

/// S3 takes no more parts.
const MAX_PARTS: u64 = 10_000;
const BACKOFF: Backoff = Backoff::new(200, 2, 20_000);

#[derive(Clone, Debug)]
pub(super) struct Bucket {
    store: AmazonS3,
    prefix: String,
    part_bytes: u64,
    retries: u32,
}

impl Bucket {
    pub(super) fn open(settings: &Replica, keys: &BucketKeys, bucket: &str, prefix: String) -> Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default(); // the daemon did; a restore without one has not
        let timeout = Duration::from_secs(settings.timeout_s);
        let client = ClientOptions::new()
            .with_timeout(timeout)
            .with_connect_timeout(timeout.min(Duration::from_secs(20)))
            .with_allow_http(settings.endpoint.starts_with("http://"));
        // Every failure is tried again here and nowhere below, so that it is counted once.
        let retry = RetryConfig { max_retries: 0, retry_timeout: timeout, backoff: BackoffConfig::default() };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(&settings.region)
            .with_access_key_id(&keys.id)
            .with_secret_access_key(keys.secret.expose_secret())
            .with_client_options(client)
            .with_retry(retry)
            .with_disable_bulk_delete(true)
            .with_checksum_algorithm(Checksum::SHA256);
        if let Some(token) = &keys.token {
            builder = builder.with_token(token.expose_secret());
        }
        // A bucket whose name has a dot is no host name that a certificate covers; services of others have paths.
        builder = builder.with_virtual_hosted_style_request(settings.endpoint.is_empty() && !bucket.contains('.'));
        if !settings.endpoint.is_empty() {
            builder = builder.with_endpoint(settings.endpoint.trim_end_matches('/'));
        }
        let store =
            builder.build().map_err(|e| Error::invalid("configuration", format!("the bucket of replica.url cannot be used: {e}")))?;
        let retries = u32::try_from(settings.retries).unwrap_or(u32::MAX);
        Ok(Self { store, prefix, part_bytes: settings.part_mb as u64 * (1 << 20), retries })
    }

    fn path(&self, name: &str) -> Result<Path> {
        let whole = if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) };
        Path::parse(&whole).map_err(|e| Error::invalid("replica", format!("{name} is not a name at the second target: {e}")))
    }

    /// Tries until it works, or fails in a way that will not pass, or has been tried often enough.
    async fn trying<T, F: Future<Output = Result<T, StoreError>>>(&self, mut ask: impl FnMut() -> F) -> Result<T> {
        let mut failures = 0;
        loop {
            let error = match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) => translated(error),
            };
            failures += 1;
            if !error.is_retryable() || failures > self.retries {
                return Err(error);
            }
            tracing::info!(failures, error = error.message, "the second target is asked again");
            tokio::time::sleep(Duration::from_millis(BACKOFF.delay_ms(failures, files::random_unit()))).await;
        }
    }

    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        // The store lists whole folders; a folder of ours is asked for as such, and the rest is told by its name.
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        let below = [self.prefix.as_str(), folder].into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join("/");
        let below = Path::from(below);
        let found: Vec<_> = self.trying(|| self.store.list(Some(&below)).try_collect()).await?;
        let ours = |location: &str| location.strip_prefix(&self.prefix).map(|rest| rest.trim_start_matches('/').to_owned());
        Ok(found
            .into_iter()
            .filter_map(|meta| Some(Object { name: ours(meta.location.as_ref())?, size: meta.size, modified: meta.last_modified }))
            .filter(|object| object.name.starts_with(prefix))
            .collect())
    }

    pub(super) async fn put(&self, name: &str, source: &Source, replace: bool, resume: Option<Upload>, watch: &dyn Watch) -> Result<u64> {
        let path = self.path(name)?;
        if !replace && self.size_at(&path).await?.is_some() {
            return Err(exists(name));
        }
        if source.size > self.part_bytes {
            return self.put_in_parts(name, &path, source, replace, resume, watch).await;
        }
        let payload = payload(source, 0, source.size).await?;
        let mode = if replace { PutMode::Overwrite } else { PutMode::Create };
        self.trying(|| self.store.put_opts(&path, payload.clone(), PutOptions::from(mode.clone()))).await?;
        watch.progress(source.size, source.size);
        Ok(source.size)
    }

    async fn put_in_parts(
        &self,
        name: &str,
        path: &Path,
        source: &Source,
        replace: bool,
        resume: Option<Upload>,
        watch: &dyn Watch,
    ) -> Result<u64> {
        let part_bytes = self.part_bytes.max(source.size.div_ceil(MAX_PARTS));
        let mut upload = match resume.filter(|u| u.part_bytes == part_bytes) {
            Some(upload) => upload,
            None => self.begin(path, part_bytes, watch).await?,
        };
        let (mut sent, mut begun_again) = (0, false);
        loop {
            let n = upload.parts.len();
            let at = n as u64 * part_bytes;
            watch.progress(at.min(source.size), source.size);
            let step = if at < source.size {
                let payload = payload(source, at, part_bytes).await?;
                let len = payload.content_length() as u64;
                let part = self.trying(|| self.store.put_part(path, &upload.id, n, payload.clone())).await;
                part.map(|part| {
                    sent += len;
                    Some(part.content_id)
                })
            } else {
                if !replace && self.size_at(path).await?.is_some() {
                    return Err(exists(name));
                }
                let parts = || upload.parts.iter().map(|id| PartId { content_id: id.clone() }).collect();
                self.trying(|| self.store.complete_multipart(path, &upload.id, parts())).await.map(|_| None)
            };
            match step {
                Ok(Some(part)) => {
                    upload.parts.push(part);
                    watch.keep(&upload).await?;
                }
                Ok(None) => return Ok(sent),
                // The answer to the last step was lost, and the bucket has forgotten the upload because it is whole.
                Err(error) if error.code == Code::NotFound && at >= source.size && self.size_at(path).await? == Some(source.size) => {
                    return Ok(sent);
                }
                // The bucket's own rules ended it: from the beginning, once.
                Err(error) if error.code == Code::NotFound && !begun_again => {
                    begun_again = true;
                    upload = self.begin(path, part_bytes, watch).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn begin(&self, path: &Path, part_bytes: u64, watch: &dyn Watch) -> Result<Upload> {
        let id = self.trying(|| self.store.create_multipart(path)).await?;
        let upload = Upload { id, part_bytes, parts: Vec::new() };
        watch.keep(&upload).await?;
        Ok(upload)
    }

    pub(super) async fn size(&self, name: &str) -> Result<Option<u64>> {
        self.size_at(&self.path(name)?).await
    }

    async fn size_at(&self, path: &Path) -> Result<Option<u64>> {
        match self.trying(|| self.store.head(path)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(error) if error.code == Code::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn read_range(&self, name: &str, offset: u64, len: u64) -> Result<Bytes> {
        let path = self.path(name)?;
        self.trying(|| self.store.get_range(&path, offset..offset + len)).await
    }

    pub(super) async fn delete(&self, name: &str) -> Result<()> {
        let path = self.path(name)?;
        match self.trying(|| self.store.delete(&path)).await {
            Err(error) if error.code != Code::NotFound => Err(error.context(format!("cannot remove {name}"))),
            _ => Ok(()),
        }
    }

    pub(super) async fn abandon(&self, name: &str, upload: &Upload) -> Result<()> {
        let path = self.path(name)?;
        match self.trying(|| self.store.abort_multipart(&path, &upload.id)).await {
            Err(error) if error.code != Code::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

async fn payload(source: &Source, at: u64, len: u64) -> Result<PutPayload> {
    let source = source.clone();
    Ok(PutPayload::from(blocking(move || source.read(at, len)).await?))
}

/// Ours for theirs. Only what the bucket refused for good is not worth trying again.
fn translated(error: StoreError) -> Error {
    let text = error.to_string();
    // Not every call tells a refusal from an outage by its kind; the status is in the text of all.
    let says = |statuses: &[&str]| statuses.iter().any(|status| text.contains(&format!("non-2xx status code: {status}")));
    let code = match &error {
        StoreError::NotFound { .. } => Code::NotFound,
        StoreError::AlreadyExists { .. } | StoreError::Precondition { .. } => return Error::conflict("exists", text),
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => Code::Forbidden,
        StoreError::NotSupported { .. } | StoreError::NotImplemented { .. } | StoreError::InvalidPath { .. } => Code::Invalid,
        _ if says(&["404"]) => Code::NotFound,
        _ if says(&["401", "403"]) => Code::Forbidden,
        _ if says(&["400", "405", "411", "416"]) => Code::Invalid,
        _ => Code::Unavailable,
    };
    Error::new(code, "replica", text)
}
