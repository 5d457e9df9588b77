//! Whether the disk takes a backup, looked at before it begins. Called by `make.rs`, and by whoever is told what a backup would do.

use std::path::{Path, PathBuf};

use echopilot_archive::{pattern::Patterns, scan};

use crate::{
    archive::Root,
    config::Config,
    error::{Context as _, Error, Result},
};

/// What a backup takes on the disk, at most, and what is there.
pub(super) struct Room {
    pub(super) needed: u64,
    pub(super) free: u64,
}

impl Room {
    pub(super) fn is_enough(&self) -> bool {
        self.free >= self.needed
    }
}

/// Bytes that a copy of the database has at most: what is in its log may come on top.
pub(super) fn database_bytes(config: &Config) -> u64 {
    let path = config.database_path();
    let log = PathBuf::from(format!("{}-wal", path.display()));
    [path, log].iter().filter_map(|file| std::fs::metadata(file).ok()).map(|m| m.len()).sum()
}

/// The room for `content` bytes: the copy of the database, the archive and what is restored to prove it. `folder` may not be there yet.
pub(super) fn room(config: &Config, content: u64, last: Option<u64>, folder: &Path) -> Result<Room> {
    let database = database_bytes(config);
    let archive = last.map_or(content / 2, |last| last + last / 4) * if config.backup.recipients.is_empty() { 1 } else { 2 };
    let needed = database + archive + content + (config.backup.reserve_mb << 20);
    let there = folder.ancestors().find(|f| f.exists()).unwrap_or(Path::new("."));
    let stat = rustix::fs::statvfs(there).map_err(std::io::Error::from).context("cannot look at the disk")?;
    Ok(Room { needed, free: stat.f_bavail.saturating_mul(stat.f_frsize) })
}

/// Whether the disk takes the backup; answers the bytes to be read. Errors: `unavailable` with reason `disk_low`, with both figures.
pub(super) fn enough_room(config: &Config, roots: &[Root], exclude: &Patterns, last: Option<u64>, scratch: &Path) -> Result<u64> {
    let (_, bytes) = scan::measure(roots, exclude);
    let content = bytes + database_bytes(config);
    let room = room(config, content, last, scratch)?;
    if room.is_enough() {
        return Ok(content);
    }
    let mb = |bytes: u64| bytes.div_ceil(1 << 20);
    let what = format!(
        "a backup needs up to {} MB on the disk of {} (an archive, its restored copy, and backup.reserve_mb), there are {} MB",
        mb(room.needed),
        config.paths.backups.display(),
        mb(room.free)
    );
    Err(Error::unavailable("disk_low", what).with("needed_bytes", room.needed).with("free_bytes", room.free))
}
