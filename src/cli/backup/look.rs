//! What is in an archive and whether it is whole, from the files alone.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use chrono::DateTime;
use echopilot_actors::{
    archive::{self, Entry, Opened, Report, Standing, Type, VerifyOptions},
    env::{blocking, rfc3339},
    error::{Code, Error, Result},
};
use serde_json::{Value as Json, json};

use super::{
    super::{
        Invocation,
        exit::{DATA, Outcome},
        output::{Colour, coloured, size, state},
        task::members,
    },
    One,
    fetch::Located,
    find::{Wanted, find},
    identity, watched,
};

/// Opens what was named; a file that was fetched stays as long as the first does.
async fn opened(invocation: &Invocation, one: One) -> Result<(Located, Opened)> {
    let (located, identity) = one.locate(invocation).await?;
    let path = located.path.clone();
    Ok((located, blocking(move || archive::open(&path, &identity)).await?))
}

pub(super) async fn verify(invocation: &Invocation, one: One, sample: Option<u32>, seed: u64) -> Result<Outcome> {
    let config = invocation.config()?;
    let (located, identity) = one.locate(invocation).await?;
    let path = located.path.clone();
    let (path, standing, looked) = watched("verifying", move |meter| {
        let total = archive::read_manifest(&path).ok().flatten().map_or(0, |m| m.content_bytes);
        meter.total.store(total, Ordering::Relaxed);
        let standing = archive::standing(&path, &config.paths.backups);
        let options = VerifyOptions {
            sample_ppm: sample.unwrap_or(1_000_000),
            seed,
            stop: &meter.stop,
            done: &meter.done,
            ..VerifyOptions::default()
        };
        let looked = archive::open(&path, &identity).and_then(|opened| opened.look_through(&options));
        Ok((path, standing, looked))
    })
    .await?;
    let (report, problem) = match looked {
        Ok(report) => {
            let problem = (!report.is_whole()).then(|| report.sentence());
            (report, problem)
        }
        // What is damaged beyond reading is found like any other damage; everything else is an error of its own.
        Err(error) if error.reason == "archive" => (Report::default(), Some(error.message)),
        Err(error) => return Err(error),
    };
    let (manifest, note) = manifest(&standing);
    let problem = problem.or_else(|| standing.err().map(|error| error.message));
    let ok = problem.is_none();
    let mut answer = serde_json::to_value(&report)?;
    answer["ok"] = ok.into();
    answer["archive"] = path.to_string_lossy().into();
    answer["manifest"] = manifest.into();
    answer["manifest_note"] = note.clone().into();
    answer["sample_ppm"] = sample.unwrap_or(1_000_000).into();
    answer["problem"] = problem.clone().into();
    invocation.print(&answer, || verified(&path, &report, problem.as_deref(), sample, manifest, note.as_deref()));
    Ok(if ok { Outcome::Fine } else { Outcome::Error(DATA) })
}

/// `signed`, `unsigned`, `none`, or `differs` from the archive; and what to say about it.
fn manifest(standing: &Result<Standing>) -> (&'static str, Option<String>) {
    match standing {
        Ok(Standing::Signed) => ("signed", None),
        Ok(Standing::Unsigned(why)) => ("unsigned", Some(why.clone())),
        Ok(Standing::Alone) => ("none", Some("there is no manifest beside it".into())),
        Err(error) => ("differs", Some(error.message.clone())),
    }
}

fn verified(path: &Path, report: &Report, problem: Option<&str>, sample: Option<u32>, manifest: &str, note: Option<&str>) -> String {
    if let Some(problem) = problem {
        let mut lines = vec![format!("{}: {}", path.display(), state("damaged")), format!("  {problem}")];
        lines.extend(report.damaged.iter().map(|note| format!("  {}: {}", note.path, note.what)));
        lines.push("  `echopilot backup restore --salvage` gets out what is whole".into());
        return lines.join("\n");
    }
    let read = match sample {
        Some(_) => format!(" ({} of {} parts read)", report.members_read, report.sums.members),
        None => String::new(),
    };
    let how = match (manifest, note) {
        ("signed", _) => "it is what its signed manifest says".to_owned(),
        (_, Some(note)) => format!("whole by its own checksums; {note}"),
        _ => "whole by its own checksums".to_owned(),
    };
    let what = format!("{} files, {}", report.sums.files, size(&report.sums.bytes.into()));
    format!("{}: {}, {what}{read}; {how}", path.display(), state("ok"))
}

pub(super) async fn cat(invocation: &Invocation, one: One, path: String) -> Result<Outcome> {
    let (_located, opened) = opened(invocation, one).await?;
    blocking(move || {
        let mut out = Out { out: io::stdout().lock(), gone: false };
        match opened.cat(&path, &mut out).and_then(|_| Ok(out.flush()?)) {
            Err(_) if out.gone => Ok(Outcome::Fine), // `| head` has what it wanted
            result => result.map(|()| Outcome::Fine),
        }
    })
    .await
}

/// Standard output, and whether its reader went away.
struct Out<'a> {
    out: io::StdoutLock<'a>,
    gone: bool,
}

impl Out<'_> {
    fn note<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        self.gone |= result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        result
    }
}

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes);
        self.note(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.out.flush();
        self.note(flushed)
    }
}

pub(super) async fn files(invocation: &Invocation, one: One, path: Option<String>) -> Result<Outcome> {
    let (_located, opened) = opened(invocation, one).await?;
    let (archive, entries) = blocking(move || {
        let only: Vec<PathBuf> = path.iter().map(PathBuf::from).collect();
        Ok((opened.path().to_owned(), selected(&opened, &only)?))
    })
    .await?;
    let bytes: u64 = entries.iter().map(|entry| entry.size).sum();
    let answer = json!({"ok": true, "archive": archive, "count": entries.len(), "bytes": bytes, "entries": entries});
    invocation.print(&answer, || {
        let mut lines: Vec<String> = entries.iter().map(line).collect();
        let files = entries.iter().filter(|entry| entry.kind == Type::File).count();
        lines.push(format!("{files} files, {}", size(&bytes.into())));
        lines.join("\n")
    });
    Ok(Outcome::Fine)
}

/// The entries that are wanted. Errors: `not_found` naming the first path that nothing is below of.
pub(super) fn selected(opened: &Opened, only: &[PathBuf]) -> Result<Vec<Entry>> {
    let (mut entries, mut found) = (Vec::new(), vec![false; only.len()]);
    opened.each_entry(&mut |entry| {
        let mut wanted = only.is_empty();
        for (found, path) in found.iter_mut().zip(only) {
            let below = entry.is_below(path);
            *found |= below;
            wanted |= below;
        }
        if wanted {
            entries.push(entry);
        }
        Ok(())
    })?;
    match found.iter().zip(only).find(|(found, _)| !**found) {
        Some((_, path)) => {
            Err(Error::new(Code::NotFound, "not_in_archive", format!("there is no {} in {}", path.display(), opened.path().display())))
        }
        None => Ok(entries),
    }
}

/// As `ls -l` has it.
pub(super) fn line(entry: &Entry) -> String {
    let kind = match entry.kind {
        Type::Dir => 'd',
        Type::Symlink => 'l',
        Type::File | Type::Link => '-',
    };
    let bits: String = (0..9).rev().zip("rwxrwxrwx".chars()).map(|(bit, c)| if entry.mode >> bit & 1 == 1 { c } else { '-' }).collect();
    let time = DateTime::from_timestamp(entry.mtime, 0).map(rfc3339).unwrap_or_default();
    let link = if entry.link.is_empty() { String::new() } else { format!(" -> {}", entry.link) };
    format!("{kind}{bits} {:>12} {time} {}{link}", entry.size, entry.path)
}

pub(super) async fn diff(invocation: &Invocation, before: &str, after: &str, named: Option<PathBuf>) -> Result<Outcome> {
    let config = invocation.config()?;
    let wanted = [before, after].map(|name| Wanted::Named(name.to_owned()));
    let answer = blocking(move || {
        let identity = identity(&config, named);
        let [before, after] = [find(&config, &wanted[0])?, find(&config, &wanted[1])?];
        let differences = archive::diff(&archive::open(&before, &identity)?, &archive::open(&after, &identity)?)?;
        Ok(json!({
            "ok": true, "before": before, "after": after, "summary": archive::summary(&differences), "differences": differences,
        }))
    })
    .await?;
    invocation.print(&answer, || differences(&answer));
    Ok(Outcome::Fine)
}

fn differences(answer: &Json) -> String {
    let path = |d: &Json| d["path"].as_str().unwrap_or_default().to_owned();
    let mut lines: Vec<String> = members(answer, "differences")
        .map(|d| match d["change"].as_str() {
            Some("added") => coloured(Colour::Green, &format!("+ {}  {}", path(d), size(&d["after"]))),
            Some("removed") => coloured(Colour::Red, &format!("- {}  {}", path(d), size(&d["before"]))),
            Some("changed") => coloured(Colour::Yellow, &format!("~ {}  {} -> {}", path(d), size(&d["before"]), size(&d["after"]))),
            _ => coloured(Colour::Dim, &format!("m {}", path(d))),
        })
        .collect();
    let s = &answer["summary"];
    lines.push(format!("{} added, {} removed, {} changed, {} with other metadata", s["added"], s["removed"], s["changed"], s["metadata"]));
    lines.join("\n")
}
