//! The format as a command of its own, for the benches and for trying other readers: create, list, cat, verify, extract.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicBool, AtomicU64},
};

use echopilot_archive::{
    Archive, Error, Result,
    pattern::Patterns,
    previous::Previous,
    restore::{self, restore},
    scan::Root,
    verify,
    write::{Options, write},
};

const USAGE: &str = "usage: archive create OUT [--prev OLD] [--threads N] DIR...
       archive list ARCHIVE
       archive cat ARCHIVE NAME
       archive verify ARCHIVE [--threads N]
       archive extract ARCHIVE DIR [--threads N]";

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut option = |name: &str| {
        let at = arguments.iter().position(|a| a == name)?;
        arguments.remove(at);
        (at < arguments.len()).then(|| arguments.remove(at))
    };
    let previous = option("--prev").map(|path| Previous { path: path.into(), toc_sha256: None });
    let threads = option("--threads").and_then(|n| n.parse().ok()).unwrap_or(0);
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["create", out, ref roots @ ..] if !roots.is_empty() => create(Path::new(out), roots, previous, threads),
        ["list", archive] => list(archive),
        ["cat", archive, name] => open(archive).and_then(|a| a.cat(name, &mut std::io::stdout().lock()).map(drop)),
        ["verify", archive] => check(archive, threads),
        ["extract", archive, target] => open(archive).and_then(|a| {
            let options = restore::Options { threads, links: restore::Links::Allow, owners: true, ..restore::Options::default() };
            let restored = restore(&a, Path::new(target), &options)?;
            eprintln!("{} files, {} bytes", restored.files, restored.bytes);
            Ok(())
        }),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn open(path: &str) -> Result<Archive<std::fs::File>> {
    let file = std::fs::File::open(path).map_err(|source| Error::Io { doing: format!("cannot open {path}"), source })?;
    Archive::open(file)
}

fn create(out: &Path, roots: &[&str], previous: Option<Previous>, threads: usize) -> Result<()> {
    let name = |path: &str| PathBuf::from(Path::new(path).file_name().unwrap_or(std::ffi::OsStr::new("root")));
    let roots: Vec<Root> = roots.iter().map(|path| Root { name: name(path), path: path.into(), required: true }).collect();
    let (stop, read) = (AtomicBool::new(false), AtomicU64::new(0));
    let exclude = Patterns::default();
    let written = write(out, &roots, Options { exclude, never: &[], previous, threads, stop: &stop, read: &read, mode: 0o600 })?;
    eprintln!(
        "{} entries, {} bytes in {}; {} members copied ({} bytes, {} shared), {} made",
        written.entries,
        written.content_bytes,
        written.size_bytes,
        written.reused_members,
        written.reused_bytes,
        written.shared_bytes,
        written.new_members
    );
    for note in written.problems.iter().chain(&written.skipped) {
        eprintln!("{}: {}", note.path, note.what);
    }
    for line in written.previous_refused.iter().chain(&written.damaged_before) {
        eprintln!("the archive before: {line}");
    }
    Ok(())
}

fn list(archive: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for entry in open(archive)?.entries() {
        let entry = entry?;
        if writeln!(out, "{:>12} {:04o} {}", entry.size, entry.mode, entry.path).is_err() {
            break; // nobody reads on
        }
    }
    Ok(())
}

fn check(archive: &str, threads: usize) -> Result<()> {
    let report = open(archive)?.verify(&verify::Options { threads, ..verify::Options::default() })?;
    if !report.is_whole() {
        return Err(Error::Damaged(report.sentence()));
    }
    eprintln!("{} files, {} bytes, {} members: whole", report.sums.files, report.sums.bytes, report.sums.members);
    Ok(())
}
