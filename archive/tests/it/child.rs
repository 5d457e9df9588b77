//! The test program as a program of its own, for what has to be killed, runs as another user or has its memory measured: it starts
//! itself with one test named, which finds in the environment what it is to do.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use echopilot_archive::previous::Previous;

use crate::{
    memory::{open, scratch, write_with},
    tree::{Fill, content},
};

const NAME: &str = "child::a_child_writes_what_it_is_told_to";
const JOB: &str = "ECHOPILOT_ARCHIVE_CHILD";

/// A command that writes an archive of `source`; its notes come on standard error, one a line after `note: `. `program` is a copy of
/// this program if not everybody may read it where it lies.
pub(crate) fn create(program: Option<&Path>, target: &Path, source: &Path, previous: Option<&Path>) -> Command {
    let own = std::env::current_exe().unwrap();
    let mut command = Command::new(program.unwrap_or(&own));
    let job: Vec<&str> = [Some(target), Some(source), previous].into_iter().flatten().map(|path| path.to_str().unwrap()).collect();
    command.args(["--exact", NAME, "--nocapture", "--test-threads=1"]).env(JOB, job.join("\n"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

#[test]
fn a_child_writes_what_it_is_told_to() {
    if let Ok(job) = std::env::var(JOB) {
        let paths: Vec<PathBuf> = job.lines().map(PathBuf::from).collect();
        let previous = paths.get(2).map(|path| Previous { path: path.clone(), toc_sha256: None });
        match write_with(&paths[0], &paths[1], previous, 2) {
            Ok(written) => {
                for note in written.problems.iter().chain(&written.skipped) {
                    eprintln!("note: {}: {}", note.path, note.what);
                }
            }
            Err(error) => {
                eprintln!("note: {error}");
                std::process::exit(3);
            }
        }
        return;
    }
    let folder = scratch();
    let (source, target) = (folder.path().join("source"), folder.path().join("archive"));
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("a"), content(Fill::Lines, 1, 1000)).unwrap();
    let output = create(None, &target, &source, None).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(open(&target).entries().count(), 2);
    // And one that fails says so.
    let output = create(None, &target, &source, None).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("note: cannot create"));
}
