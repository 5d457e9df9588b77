//! What is in an archive: its names a page or a folder at a time, one file of it as a download, what is different in another. Reading
//! goes on in threads of its own, a few at a time, and ends when the client is gone. A name that leaves the archive is refused before
//! anything is opened.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, NaiveDate};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value as Json, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use warp::{
    Reply as _,
    filters::BoxedFilter,
    http::{Method, header},
    reply::Response,
};

use super::{
    Shell,
    auth::Scope,
    respond,
    route::{Call, any_of, api},
};
use crate::{
    archive::{self, Entry, Opened, Type},
    backup,
    domain::archive::{archive_name, encrypted_name},
    env::{Env, blocking, rfc3339},
    error::{Code, Error, Result},
};
use echopilot_archive::name::{path_to_text, safe_member_path, text_to_path};

/// So many archives are read at the same time; who asks for more is asked to come again.
const READERS: usize = 4;
/// A client that takes nothing for so long is given up.
const STALLED: Duration = Duration::from_mins(1);
/// Sent at a time, and how many of these wait for the client.
const PIECE: usize = 64 << 10;
const PIECES: usize = 4;
/// What may stand as it is in a file's name (RFC 8187).
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// How many read archives now.
#[derive(Debug)]
pub(super) struct Desk {
    readers: Arc<Semaphore>,
    pub(super) verifying: Arc<Semaphore>,
}

impl Default for Desk {
    fn default() -> Self {
        Self { readers: Arc::new(Semaphore::new(READERS)), verifying: Arc::new(Semaphore::new(1)) }
    }
}

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // The names in an archive, by name; `level=true` folds folders.
        api(shell, Method::GET, "/api/backups/{date}/files", Scope::Read, files),
        // One file of an archive; it may hold what customers wrote.
        api(shell, Method::GET, "/api/backups/{date}/file", Scope::Admin, file),
        // What is different from another archive.
        api(shell, Method::GET, "/api/backups/{date}/diff", Scope::Read, diff),
    ])
}

/// The archive of a day.
pub(super) struct Chosen {
    /// Logical path.
    pub(super) archive: String,
    pub(super) path: PathBuf,
    identity: PathBuf,
}

impl Chosen {
    /// The archive that is recorded for that day, or else one that lies in the folder. Errors: `field` for what is no day, `not_found`.
    pub(super) async fn of(env: &Env, date: &str) -> Result<Self> {
        Self::named(env, "date", date).await
    }

    async fn named(env: &Env, field: &'static str, text: &str) -> Result<Self> {
        let day = text.parse::<NaiveDate>().ok().filter(|day| day.to_string() == text);
        let day = day.ok_or_else(|| Error::field(field, format!("{field} must be a day as YYYY-MM-DD")))?;
        let rows = env.store().backups(i64::MAX).await?;
        let recorded = rows.iter().find(|row| row.date == text).map(|row| backup::file_name(row).to_owned());
        let names = recorded.into_iter().chain([archive_name(day), encrypted_name(day)]);
        let folder = env.backup_path("daily");
        let found = names.map(|name| (folder.join(&name), name)).find(|(path, _)| path.is_file());
        let (path, name) = found.ok_or_else(|| Error::not_found(format!("there is no archive of {text}")))?;
        Ok(Self { archive: format!("backups/daily/{name}"), path, identity: env.config().backup.identity_file.clone() })
    }

    pub(super) fn open(&self) -> Result<Opened> {
        archive::open(&self.path, &self.identity)
    }
}

/// Damaged, or encrypted without the identity that opens it: the request is right, the archive is not as it would have to be.
pub(super) fn state_of_the_archive(error: Error) -> Error {
    match error.reason.as_ref() {
        "encrypted" | "archive" | "archive_refused" => Error { code: Code::Conflict, ..error },
        _ => error,
    }
}

/// A flag that is raised when the first half goes: whoever waited is gone.
pub(super) struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(super) fn stop() -> (Stop, Arc<AtomicBool>) {
    let flag = Arc::new(AtomicBool::new(false));
    (Stop(flag.clone()), flag)
}

fn reader(call: &Call) -> Result<OwnedSemaphorePermit> {
    let full = || Error::limited("other archives are being read: try again in a moment", 2);
    call.shell.desk.readers.clone().try_acquire_owned().map_err(|_| full())
}

/// A name in an archive as it must be written. Errors name the field.
fn member(field: &'static str, text: &str) -> Result<String> {
    let path = safe_member_path(&text_to_path(text)).map_err(|why| Error::field(field, format!("{field}: {why}")))?;
    Ok(path_to_text(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())))
}

/// `?prefix=FOLDER&limit=&after=NAME&level=true`. Without `level` everything below the folder, with it only what is in it: folders then
/// have the files and bytes below them.
async fn files(call: Call) -> Result<Response> {
    let request = &call.request;
    let limit = usize::try_from(request.number("limit", 100, 1..=1000)?).unwrap_or(100);
    let prefix = request.query("prefix")?.map(|text| member("prefix", &text)).transpose()?.unwrap_or_default();
    let after = request.query("after")?.map(|text| member("after", &text)).transpose()?;
    let level = request.flag("level")?;
    let place = reader(&call)?;
    let chosen = Chosen::of(call.env(), request.param(0)?).await?;
    let archive = chosen.archive.clone();
    let (stop, on) = stop();
    let folder = prefix.clone();
    let shown = blocking(move || {
        let _place = place;
        let mut shelf = Shelf { folder, after, limit, level, items: BTreeMap::new(), found: false };
        chosen.open()?.each_entry(&mut |entry| {
            if on.load(Ordering::Relaxed) {
                return Err(Error::unavailable("stopped", "nobody waits for this any more"));
            }
            shelf.add(&entry);
            Ok(())
        })?;
        Ok(shelf)
    })
    .await
    .map_err(state_of_the_archive)?;
    drop(stop);
    if !shown.found && !prefix.is_empty() {
        return Err(Error::new(Code::NotFound, "not_in_archive", format!("there is no {prefix} in the archive")));
    }
    let more = shown.items.len() > limit;
    let entries: Vec<Json> = shown.items.into_iter().take(limit).map(|(path, item)| item.view(&path)).collect();
    let next = entries.last().filter(|_| more).map(|last| last["path"].clone());
    Ok(respond::json(&json!({"ok": true, "archive": archive, "prefix": prefix, "count": entries.len(), "entries": entries, "next": next})))
}

/// The next page of names; never holds more than one.
struct Shelf {
    folder: String,
    after: Option<String>,
    limit: usize,
    level: bool,
    items: BTreeMap<String, Item>,
    found: bool,
}

#[derive(Default)]
struct Item {
    entry: Option<Entry>,
    /// Below a folder.
    files: u64,
    bytes: u64,
}

impl Shelf {
    fn add(&mut self, entry: &Entry) {
        let below = if self.folder.is_empty() {
            entry.path.as_str()
        } else {
            match entry.path.strip_prefix(&self.folder) {
                Some("") => {
                    self.found = true;
                    return;
                }
                Some(rest) if rest.starts_with('/') => &rest[1..],
                _ => return,
            }
        };
        self.found = true;
        let start = entry.path.len() - below.len();
        let end = if self.level { below.find('/').map_or(entry.path.len(), |at| start + at) } else { entry.path.len() };
        let path = &entry.path[..end];
        if self.after.as_deref().is_some_and(|after| path <= after) {
            return;
        }
        // What sorts behind a full page can never be on it: a page only ever gets names before.
        if self.items.len() > self.limit && self.items.last_key_value().is_some_and(|(last, _)| path > last.as_str()) {
            return;
        }
        let item = self.items.entry(path.to_owned()).or_default();
        if path.len() == entry.path.len() {
            item.entry = Some(entry.clone());
        }
        if self.level && entry.kind == Type::File {
            item.files += 1;
            item.bytes += entry.size;
        }
        if self.items.len() > self.limit + 1 {
            self.items.pop_last();
        }
    }
}

impl Item {
    fn view(&self, path: &str) -> Json {
        let name = path.rsplit('/').next().unwrap_or(path);
        let kind = self.entry.as_ref().map_or(Type::Dir, |entry| entry.kind);
        let mut view = json!({"path": path, "name": name, "type": kind});
        if let Some(entry) = &self.entry {
            view["size"] = entry.size.into();
            view["mode"] = format!("{:04o}", entry.mode).into();
            view["mtime"] = DateTime::from_timestamp(entry.mtime, entry.ns).map(rfc3339).into();
            if !entry.link.is_empty() {
                view["link"] = entry.link.as_str().into();
            }
        }
        if kind == Type::Dir && (self.files > 0 || self.bytes > 0) {
            view["files"] = self.files.into();
            view["size"] = self.bytes.into();
        }
        view
    }
}

/// `?path=NAME`: the file's content, exactly as it was archived.
async fn file(call: Call) -> Result<Response> {
    let request = &call.request;
    let path = request.query("path")?.ok_or_else(|| Error::field("path", "path is missing: the file's name in the archive"))?;
    let path = member("path", &path)?;
    let place = reader(&call)?;
    let env = call.env();
    let chosen = Chosen::of(env, request.param(0)?).await?;
    let archive = chosen.archive.clone();
    let wanted = path.clone();
    let (opened, entry) = blocking(move || {
        let opened = chosen.open()?;
        let mut entry = opened.entry(&wanted)?;
        if entry.kind == Type::Link {
            entry = opened.entry(&entry.link)?;
        }
        Ok((opened, entry))
    })
    .await
    .map_err(state_of_the_archive)?;
    if entry.kind != Type::File {
        return Err(Error::field("path", format!("{path} is no file")));
    }
    let name = path.rsplit('/').next().unwrap_or(&path);
    let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
    let disposition = format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{}", utf8_percent_encode(name, NAME));
    let fact = env.fact("backup.file_taken", &archive, json!({"path": path, "size_bytes": entry.size, "by": call.caller.key_id}));
    env.store().journal(fact).await?;
    let mut response = if request.method == Method::HEAD {
        Response::new(Bytes::new().into())
    } else {
        let (sender, mut receiver) = mpsc::channel(PIECES);
        tokio::task::spawn_blocking(move || send(&opened, &entry.path, sender, place));
        warp::reply::stream(futures_util::stream::poll_fn(move |context| receiver.poll_recv(context))).into_response()
    };
    for (header, value) in [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CONTENT_LENGTH, entry.size.to_string().as_str()),
        (header::CONTENT_DISPOSITION, disposition.as_str()),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "sandbox"),
    ] {
        respond::set(&mut response, header, value);
    }
    Ok(response)
}

type Piece = io::Result<Bytes>;

/// Writes the file's content into the answer. The last piece is held back until all of it was checked: a client never has all the bytes
/// of a file that is not the one that was archived.
fn send(opened: &Opened, path: &str, sender: mpsc::Sender<Piece>, place: OwnedSemaphorePermit) {
    let mut out = Pieces { sender, piece: Vec::with_capacity(PIECE), runtime: tokio::runtime::Handle::current() };
    match opened.cat(path, &mut out) {
        Ok(_) => {
            let last = std::mem::take(&mut out.piece);
            let _ = out.send(Ok(last.into())); // the client may be gone
        }
        Err(error) => {
            tracing::warn!(target: "gateway", %error, "a file of an archive could not be sent whole");
            let _ = out.send(Err(io::Error::other(error.message))); // it sees the connection end early
        }
    }
    drop(place);
}

struct Pieces {
    sender: mpsc::Sender<Piece>,
    piece: Vec<u8>,
    runtime: tokio::runtime::Handle,
}

impl Pieces {
    fn send(&self, piece: Piece) -> io::Result<()> {
        let sent = self.runtime.block_on(tokio::time::timeout(STALLED, self.sender.send(piece)));
        if matches!(sent, Ok(Ok(()))) { Ok(()) } else { Err(io::Error::new(io::ErrorKind::BrokenPipe, "the client is gone")) }
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.len() >= PIECE {
            let full = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
            self.send(Ok(full.into()))?;
        }
        let n = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `?with=DAY&limit=&after=NAME`: what is different from the archive of that day to this one.
async fn diff(call: Call) -> Result<Response> {
    let request = &call.request;
    let limit = usize::try_from(request.number("limit", 100, 1..=1000)?).unwrap_or(100);
    let after = request.query("after")?.map(|text| member("after", &text)).transpose()?;
    let with = request.query("with")?.ok_or_else(|| Error::field("with", "with is missing: the day of the archive to compare with"))?;
    let place = reader(&call)?;
    let after_archive = Chosen::of(call.env(), request.param(0)?).await?;
    let before_archive = Chosen::named(call.env(), "with", &with).await?;
    let names = (before_archive.archive.clone(), after_archive.archive.clone());
    let differences = blocking(move || {
        let _place = place;
        archive::diff(&before_archive.open()?, &after_archive.open()?)
    })
    .await
    .map_err(state_of_the_archive)?;
    let summary = archive::summary(&differences);
    let rest = differences.iter().filter(|d| after.as_deref().is_none_or(|after| d.path.as_str() > after));
    let shown: Vec<_> = rest.clone().take(limit).collect();
    let next = shown.last().filter(|_| rest.count() > limit).map(|last| last.path.clone());
    Ok(respond::json(&json!({
        "ok": true, "before": names.0, "after": names.1, "summary": summary, "count": shown.len(), "differences": shown, "next": next,
    })))
}
