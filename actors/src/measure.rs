//! What the machine and this process use right now: CPU, memory, disk, open files. Called by the tasks that watch resources.
//! Reads the system's own figures and changes nothing.

use std::{path::Path, time::Duration};

use serde::Serialize;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, RefreshKind, System};

use crate::{
    config::ProviderMode,
    env::{Env, blocking},
    error::{Error, Result},
};

/// How long CPU use is averaged over.
const SAMPLE: Duration = Duration::from_millis(300);

/// Percentages are of the whole machine; `None` where the system gives no figure.
#[derive(Clone, Debug, Serialize)]
pub struct Usage {
    pub cpu_percent: Option<f64>,
    pub memory_percent: Option<f64>,
    pub memory_total_bytes: u64,
    /// Of the file system that holds the data directory.
    pub disk_percent: Option<f64>,
    pub disk_free_bytes: Option<u64>,
    #[serde(skip)]
    pub inodes_percent: Option<f64>,
    pub process_memory_bytes: Option<u64>,
    pub process_cpu_percent: Option<f64>,
    pub open_files: Option<u64>,
    pub open_files_limit: Option<u64>,
}

impl Usage {
    /// Of the files that this process may have open.
    pub fn open_files_percent(&self) -> Option<f64> {
        let (open, limit) = self.open_files.zip(self.open_files_limit).filter(|(_, limit)| *limit > 0)?;
        Some(100.0 * open as f64 / limit as f64)
    }
}

/// By how many seconds our clock is ahead of the provider's; `None` if it does not answer, and with the sandbox, whose clock is virtual.
pub async fn clock_skew_s(env: &Env) -> Option<i64> {
    if env.config().provider.mode == ProviderMode::Sandbox {
        return None;
    }
    let there = env.provider().now().await.ok()?;
    Some((env.now() - there).num_seconds())
}

/// Measures for about a third of a second, off the async threads.
pub async fn usage(env: &Env) -> Result<Usage> {
    let data = env.config().paths.data.clone();
    blocking(move || measure(&data)).await
}

fn measure(data: &Path) -> Result<Usage> {
    let what = RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing().with_usage()).with_memory(MemoryRefreshKind::nothing().with_ram());
    let mut system = System::new_with_specifics(what).map_err(|e| Error::internal(format!("system figures: {e:?}")))?;
    let me = Pid::from_u32(std::process::id());
    let refresh = |system: &mut System| {
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[me]), false, ProcessRefreshKind::nothing().with_cpu().with_memory());
    };
    refresh(&mut system);
    std::thread::sleep(SAMPLE);
    system.refresh_cpu_usage();
    refresh(&mut system);
    let process = system.process(me);
    let disk = room(data);
    let total = system.total_memory();
    Ok(Usage {
        cpu_percent: Some(f64::from(system.global_cpu_usage())),
        memory_percent: (total > 0).then(|| 100.0 * (total - system.available_memory().min(total)) as f64 / total as f64),
        memory_total_bytes: total,
        disk_percent: disk.percent,
        disk_free_bytes: disk.free_bytes,
        inodes_percent: disk.inodes_percent,
        process_memory_bytes: process.map(sysinfo::Process::memory),
        process_cpu_percent: process.map(|p| f64::from(p.cpu_usage())),
        open_files: std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64),
        open_files_limit: open_files_limit(),
    })
}

/// How full a file system is (statvfs(3)): what only the administrator may still use counts as used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Room {
    pub percent: Option<f64>,
    pub free_bytes: Option<u64>,
    /// Of its files; `None` where it has no such limit.
    pub inodes_percent: Option<f64>,
}

/// Of the file system that holds `path`; nothing where it gives no figures.
pub fn room(path: &Path) -> Room {
    let Ok(stat) = rustix::fs::statvfs(path) else { return Room::default() };
    let used = |all: u64, free: u64| (all > 0).then(|| 100.0 * (all - free.min(all)) as f64 / all as f64);
    Room {
        percent: used(stat.f_blocks, stat.f_bavail),
        free_bytes: (stat.f_blocks > 0).then(|| stat.f_bavail.saturating_mul(stat.f_frsize)),
        inodes_percent: used(stat.f_files, stat.f_ffree),
    }
}

/// The soft limit of this process, where the kernel tells it (proc_pid_limits(5)).
fn open_files_limit() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find(|l| l.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}
