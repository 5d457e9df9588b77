//! Reading and writing archives: a gzip-compressed tar that any machine can open, with its manifest (names, sizes, SHA-256) beside
//! it. Called by the backup actor and the command line, always off the async threads. An archive is never trusted: what would
//! leave its folder, appears twice, is cut off or does not match its manifest is refused before anything is written.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{BufReader, BufWriter, Read, Write},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};
use ring::digest::{Context as Digest, SHA256};
use tar::{Archive, Builder, EntryType, Header};

use crate::{
    domain::archive::{Entry, Kind, Limits, Manifest, Members, path_to_text, safe_member_path},
    error::{Context as _, Error, Result},
    files,
};

const BUFFER: usize = 1 << 16;

/// A file to be archived: its name in the archive and where it lies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    pub name: PathBuf,
    pub file: PathBuf,
}

/// A source that could not be archived as it was; the backup is then `partial`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    pub path: String,
    pub what: String,
}

/// Every regular file below `folder`, named below `prefix`, sorted. What is neither file nor folder is passed over, and so are
/// temporary files and what `skip` names.
pub fn collect(prefix: &str, folder: &Path, skip: &dyn Fn(&Path) -> bool, problems: &mut Vec<Problem>) -> Vec<Source> {
    let mut found = Vec::new();
    let mut open = vec![(PathBuf::from(prefix), folder.to_owned())];
    while let Some((name, folder)) = open.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                problems.push(Problem { path: path_to_text(name.as_os_str().as_bytes()), what: error.to_string() });
                continue;
            }
        };
        for entry in entries.flatten() {
            let (name, file) = (name.join(entry.file_name()), entry.path());
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && !skip(&file) => open.push((name, file)),
                Ok(kind) if kind.is_file() && !skip(&file) && file.extension().is_none_or(|e| e != "tmp") => {
                    found.push(Source { name, file });
                }
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// Writes the archive to `target` (a temporary name; the caller renames it) and syncs it.
pub fn write(target: &Path, sources: &[Source], now: DateTime<Utc>, problems: &mut Vec<Problem>) -> Result<Manifest> {
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(files::MODE_PRIVATE)
        .open(target)
        .context(format!("cannot create {}", target.display()))?;
    let gzip = GzEncoder::new(BufWriter::with_capacity(BUFFER, file), Compression::new(6));
    let mut builder = Builder::new(gzip);
    let mut manifest = Manifest::new(now);
    for source in sources {
        match append(&mut builder, source, problems) {
            Ok(entry) => manifest.entries.push(entry),
            Err(Failure::Source(error)) => {
                problems.push(Problem { path: path_to_text(source.name.as_os_str().as_bytes()), what: error.to_string() });
            }
            Err(Failure::Archive(error)) => return Err(Error::from(error).context(format!("cannot write {}", target.display()))),
        }
    }
    let writer = builder.into_inner().and_then(GzEncoder::finish).context("cannot finish the archive")?;
    let file = writer.into_inner().map_err(|e| Error::from(e.into_error())).context("cannot finish the archive")?;
    file.sync_all().context("cannot sync the archive")?;
    Ok(manifest)
}

enum Failure {
    /// This file only.
    Source(std::io::Error),
    /// The archive cannot go on: its disk is full, or it already holds half of this file.
    Archive(std::io::Error),
}

fn append(builder: &mut Builder<impl Write>, source: &Source, problems: &mut Vec<Problem>) -> std::result::Result<Entry, Failure> {
    let file = File::open(&source.file).map_err(Failure::Source)?;
    let metadata = file.metadata().map_err(Failure::Source)?;
    let size = metadata.len();
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_size(size);
    header.set_mode(metadata.mode() & 0o7777);
    header.set_mtime(metadata.mtime().unsigned_abs());
    header.set_uid(metadata.uid().into());
    header.set_gid(metadata.gid().into());
    let mut reader = Exactly { inner: file, left: size, short: false, digest: Digest::new(&SHA256) };
    builder.append_data(&mut header, &source.name, &mut reader).map_err(Failure::Archive)?;
    let path = path_to_text(source.name.as_os_str().as_bytes());
    if reader.short {
        problems.push(Problem { path: path.clone(), what: "shrank while it was read; the end is zeros".into() });
    }
    Ok(Entry { path, size, mode: metadata.mode() & 0o7777, mtime: metadata.mtime(), sha256: files::hex(reader.digest.finish().as_ref()) })
}

/// Gives exactly the size that the header promised: a file that grows is cut, one that shrinks or fails is filled up and flagged.
struct Exactly {
    inner: File,
    left: u64,
    short: bool,
    digest: Digest,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        let mut got = if self.short { 0 } else { self.inner.read(&mut buffer[..want]).unwrap_or(0) };
        if got == 0 {
            self.short = true;
            buffer[..want].fill(0);
            got = want;
        }
        self.digest.update(&buffer[..got]);
        self.left -= got as u64;
        Ok(got)
    }
}

/// What an archive holds, or what was restored from it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Contents {
    pub entries: Vec<Entry>,
    pub bytes: u64,
}

/// Reads the whole archive and checks everything that can be checked without writing: gzip checksums, names, duplicates, limits,
/// and the manifest if there is one. Errors: `invalid` with reason `archive`, saying which member and why.
pub fn verify(path: &Path, manifest: Option<&Manifest>) -> Result<Contents> {
    verify_watched(path, manifest, &mut || {})
}

/// `verify`, calling `seen` after each file.
pub fn verify_watched(path: &Path, manifest: Option<&Manifest>, seen: &mut dyn FnMut()) -> Result<Contents> {
    walk(path, manifest, &mut |_, reader| {
        seen();
        digest_of(reader, &mut std::io::sink())
    })
}

/// Restores the archive into `target`, which must not exist or be empty. Everything is verified first; files appear under
/// `target` only when all of them are written.
pub fn restore(path: &Path, manifest: Option<&Manifest>, target: &Path) -> Result<Contents> {
    restore_watched(path, manifest, target, &mut || {})
}

/// `restore`, calling `seen` twice for each file: when it is verified and when it is written.
pub fn restore_watched(path: &Path, manifest: Option<&Manifest>, target: &Path, seen: &mut dyn FnMut()) -> Result<Contents> {
    if fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::conflict("target_not_empty", format!("{} is not empty: restore into a new folder", target.display())));
    }
    verify_watched(path, manifest, seen)?;
    let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(parent).context(format!("cannot create {}", parent.display()))?;
    let scratch =
        tempfile::Builder::new().prefix(".restore-").suffix(".tmp").tempdir_in(parent).context("cannot create a scratch folder")?;
    let contents = walk(path, manifest, &mut |member, reader| {
        seen();
        extract(scratch.path(), member, reader)
    })?;
    let _ = fs::remove_dir(target); // empty or absent, as seen above
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o700))?;
    fs::rename(scratch.keep(), target).context(format!("cannot put the files into {}", target.display()))?;
    files::sync_folder(parent)?;
    Ok(contents)
}

/// One member's content is handed to `take`, which answers its digest.
type Take<'a> = dyn FnMut(&Member, &mut dyn Read) -> Result<String> + 'a;

struct Member {
    path: PathBuf,
    mode: u32,
    mtime: i64,
}

fn walk(path: &Path, manifest: Option<&Manifest>, take: &mut Take<'_>) -> Result<Contents> {
    let refuse = |what: String| Error::invalid("archive", format!("{}: {what}", path.display()));
    let file = File::open(path).context(format!("cannot open {}", path.display()))?;
    let compressed = file.metadata()?.len();
    let expected: Option<HashMap<&str, &Entry>> = manifest.map(|m| m.entries.iter().map(|e| (e.path.as_str(), e)).collect());
    let (limits, mut members) = (Limits::default(), Members::default());
    let mut contents = Contents { entries: Vec::new(), bytes: 0 };
    let mut archive = Archive::new(MultiGzDecoder::new(BufReader::with_capacity(BUFFER, file)));
    for entry in archive.entries().map_err(|e| refuse(e.to_string()))? {
        let mut entry = entry.map_err(|e| refuse(format!("damaged or cut off: {e}")))?;
        let raw = entry.path_bytes().into_owned();
        let kind = entry.header().entry_type();
        let member_path = safe_member_path(&raw).map_err(&refuse)?;
        let name = path_to_text(member_path.as_os_str().as_bytes());
        if kind.is_dir() {
            members.add(&member_path, Kind::Directory).map_err(&refuse)?;
            continue;
        }
        if !kind.is_file() {
            return Err(refuse(format!("{name} is neither a file nor a folder")));
        }
        members.add(&member_path, Kind::File).map_err(&refuse)?;
        let size = entry.size();
        contents.bytes += size;
        limits.check(compressed, contents.bytes, contents.entries.len() as u64 + 1).map_err(&refuse)?;
        let mode = entry.header().mode().unwrap_or(0o600) & 0o777;
        let mtime = i64::try_from(entry.header().mtime().unwrap_or(0)).unwrap_or(0);
        let member = Member { path: member_path, mode, mtime };
        let sha256 = take(&member, &mut entry)
            .map_err(|e| if e.code == crate::error::Code::Internal { refuse(format!("{name}: {e}")) } else { e })?;
        if let Some(expected) = &expected {
            match expected.get(name.as_str()) {
                Some(e) if e.sha256 == sha256 && e.size == size => {}
                Some(_) => return Err(refuse(format!("{name} is not what the manifest says"))),
                None => return Err(refuse(format!("{name} is not in the manifest"))),
            }
        }
        contents.entries.push(Entry { path: name, size, mode, mtime, sha256 });
    }
    // The end of the tar is not the end of the gzip: its checksum comes last.
    std::io::copy(&mut archive.into_inner(), &mut std::io::sink()).map_err(|e| refuse(format!("damaged or cut off: {e}")))?;
    if let Some(expected) = expected.filter(|e| e.len() != contents.entries.len()) {
        return Err(refuse(format!("it holds {} files, the manifest lists {}", contents.entries.len(), expected.len())));
    }
    Ok(contents)
}

fn extract(root: &Path, member: &Member, reader: &mut dyn Read) -> Result<String> {
    let path = root.join(&member.path);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = File::options().write(true).create_new(true).mode(member.mode).open(&path)?;
    let mut writer = BufWriter::with_capacity(BUFFER, file);
    let sha256 = digest_of(reader, &mut writer)?;
    let file = writer.into_inner().map_err(|e| Error::from(e.into_error()))?;
    if let Ok(seconds) = u64::try_from(member.mtime) {
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds))?;
    }
    file.sync_all()?;
    Ok(sha256)
}

fn digest_of(reader: &mut dyn Read, writer: &mut dyn Write) -> Result<String> {
    let mut digest = Digest::new(&SHA256);
    let mut buffer = vec![0; BUFFER];
    loop {
        let n = reader.read(&mut buffer)?;
        if n == 0 {
            return Ok(files::hex(digest.finish().as_ref()));
        }
        digest.update(&buffer[..n]);
        writer.write_all(&buffer[..n])?;
    }
}

/// SHA-256 of a whole file, in hex.
pub fn file_sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).context(format!("cannot open {}", path.display()))?;
    digest_of(&mut file, &mut std::io::sink())
}

/// Where an archive's manifest lies: beside it.
pub fn manifest_path(archive: &Path) -> PathBuf {
    let mut name = archive.as_os_str().to_owned();
    name.push(".manifest.json");
    PathBuf::from(name)
}

/// Where the manifest of an archive that is being published waits until the archive has its name.
fn next_manifest_path(archive: &Path) -> PathBuf {
    let mut name = manifest_path(archive).into_os_string();
    name.push(".new");
    PathBuf::from(name)
}

/// Gives a finished archive its final name, with its manifest. Two files cannot be renamed as one; but the new manifest waits beside
/// the old one meanwhile, and `read_manifest` takes the one that names the archive that is there, whenever this is cut off.
pub fn publish(new: &Path, target: &Path, manifest: &mut Manifest) -> Result<()> {
    let folder = target.parent().unwrap_or(target);
    settle(target)?;
    manifest.archive_sha256 = file_sha256(new)?;
    files::replace_json(&next_manifest_path(target), &serde_json::to_value(&*manifest)?)?;
    fs::rename(new, target).context(format!("cannot publish {}", target.display()))?;
    files::sync_folder(folder)?;
    fs::rename(next_manifest_path(target), manifest_path(target)).context("cannot publish the manifest")?;
    files::sync_folder(folder)
}

/// Ends a publication that was cut off: the waiting manifest becomes the manifest if the archive is its, else it goes.
fn settle(target: &Path) -> Result<()> {
    let next = next_manifest_path(target);
    match parse_manifest(&next)? {
        Some(manifest) if target.exists() && file_sha256(target)? == manifest.archive_sha256 => {
            fs::rename(&next, manifest_path(target)).context("cannot publish the manifest")
        }
        Some(_) => Ok(fs::remove_file(&next)?),
        None => Ok(()),
    }
}

/// The manifest of an archive, if there is one. One that does not parse is an error, not an absence.
pub fn read_manifest(archive: &Path) -> Result<Option<Manifest>> {
    let waiting = parse_manifest(&next_manifest_path(archive))?;
    match waiting {
        Some(manifest) if file_sha256(archive)? == manifest.archive_sha256 => Ok(Some(manifest)),
        _ => parse_manifest(&manifest_path(archive)),
    }
}

fn parse_manifest(path: &Path) -> Result<Option<Manifest>> {
    match fs::read(path) {
        Ok(bytes) => {
            let manifest: Manifest = serde_json::from_slice(&bytes)
                .map_err(|e| Error::invalid("archive", format!("{} is not a manifest: {e}", path.display())))?;
            manifest.check().map_err(|e| Error::invalid("archive", format!("{}: {e}", path.display())))?;
            Ok(Some(manifest))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::from(error).context(format!("cannot read {}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(folder: &Path) -> (PathBuf, Manifest) {
        let logs = folder.join("logs");
        fs::create_dir_all(logs.join("deep")).unwrap();
        fs::write(logs.join("a.ndjson"), b"{\"n\":1}\n").unwrap();
        fs::write(logs.join("deep/b.bin"), vec![7; 300_000]).unwrap();
        fs::write(logs.join("x.tmp"), b"no").unwrap();
        let mut problems = Vec::new();
        let sources = collect("logs", &logs, &|_| false, &mut problems);
        let target = folder.join("backup.tar.gz");
        let manifest = write(&target, &sources, DateTime::UNIX_EPOCH, &mut problems).unwrap();
        assert_eq!(problems, []);
        (target, manifest)
    }

    #[test]
    fn an_archive_restores_to_the_very_same_files() {
        let folder = tempfile::tempdir().unwrap();
        let (archive, manifest) = sample(folder.path());
        assert_eq!(manifest.entries.iter().map(|e| e.path.as_str()).collect::<Vec<_>>(), ["logs/a.ndjson", "logs/deep/b.bin"]);
        let target = folder.path().join("restored");
        restore(&archive, Some(&manifest), &target).unwrap();
        assert_eq!(fs::read(target.join("logs/a.ndjson")).unwrap(), b"{\"n\":1}\n");
        assert_eq!(fs::read(target.join("logs/deep/b.bin")).unwrap(), vec![7; 300_000]);
        assert_eq!(restore(&archive, None, &target).expect_err("not empty").reason, "target_not_empty");
    }

    #[test]
    fn a_publication_cut_off_at_any_step_leaves_an_archive_with_its_manifest() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("backup_2026-03-01.tar.gz");
        let (new, mut manifest) = sample(folder.path());
        publish(&new, &target, &mut manifest).unwrap();
        let fine = || verify(&target, read_manifest(&target).unwrap().as_ref()).map(|c| c.entries.len());
        assert_eq!(fine().unwrap(), 2);

        // The next one, with one file more, cut off before and after the archive got its name.
        fs::write(folder.path().join("logs/c.json"), b"{}").unwrap();
        let (new, mut manifest) = sample(folder.path());
        manifest.archive_sha256 = file_sha256(&new).unwrap();
        files::replace_json(&next_manifest_path(&target), &serde_json::to_value(&manifest).unwrap()).unwrap();
        assert_eq!(fine().unwrap(), 2, "the old archive with the old manifest");
        let copy = folder.path().join("copy");
        fs::copy(&new, &copy).unwrap();
        fs::rename(&copy, &target).unwrap();
        assert_eq!(fine().unwrap(), 3, "the new archive with the new manifest");
        publish(&new, &target, &mut manifest).unwrap();
        assert_eq!(fine().unwrap(), 3);
        assert!(!next_manifest_path(&target).exists());
    }

    #[test]
    fn damage_at_any_place_is_refused_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (archive, manifest) = sample(folder.path());
        let good = fs::read(&archive).unwrap();
        let target = folder.path().join("restored");
        for cut in [0, 1, 10, good.len() / 2, good.len() - 9, good.len() - 1] {
            fs::write(&archive, &good[..cut]).unwrap();
            assert_eq!(restore(&archive, None, &target).expect_err("cut off").reason, "archive", "cut at {cut}");
            assert!(!target.exists());
        }
        for place in [12, good.len() / 3, good.len() - 6] {
            let mut bad = good.clone();
            bad[place] ^= 0x10;
            fs::write(&archive, &bad).unwrap();
            assert!(restore(&archive, Some(&manifest), &target).is_err(), "flip at {place}");
            assert!(!target.exists());
        }
    }

    #[test]
    fn a_member_that_would_leave_the_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["../evil", "logs/../../evil", "/etc/evil"] {
            let path = folder.path().join("evil.tar.gz");
            let mut builder = Builder::new(GzEncoder::new(File::create(&path).unwrap(), Compression::fast()));
            let mut header = Header::new_gnu();
            header.set_size(1);
            header.set_mode(0o644);
            header.set_entry_type(EntryType::Regular);
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, &b"x"[..]).unwrap();
            builder.into_inner().unwrap().finish().unwrap();
            let error = restore(&path, None, &folder.path().join("out")).expect_err(name);
            assert_eq!(error.reason, "archive", "{error}");
            assert!(!folder.path().join("evil").exists());
        }
    }

    #[test]
    fn links_and_duplicates_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("evil.tar.gz");
        let build = |fill: &dyn Fn(&mut Builder<GzEncoder<File>>)| {
            let mut builder = Builder::new(GzEncoder::new(File::create(&path).unwrap(), Compression::fast()));
            fill(&mut builder);
            builder.into_inner().unwrap().finish().unwrap();
            verify(&path, None).expect_err("must be refused").message
        };
        let header = |kind: EntryType| {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(0);
            header.set_mode(0o644);
            header
        };
        assert!(build(&|b| b.append_link(&mut header(EntryType::Symlink), "logs/l", "/etc/passwd").unwrap()).contains("neither"));
        let twice = build(&|b| {
            for _ in 0..2 {
                b.append_data(&mut header(EntryType::Regular), "logs/a", std::io::empty()).unwrap();
            }
        });
        assert!(twice.contains("logs/a"), "{twice}");
    }
}
