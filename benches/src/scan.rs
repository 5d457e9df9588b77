//! The scanner's reading and looking for patterns beside ripgrep on the same generated file with the same patterns, in turns. Called by
//! `main.rs`. Both count the same lines, or this panics.

use std::{
    collections::BTreeMap,
    io::{BufWriter, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use echopilot_actors::{
    domain::log_line::{self, Patterns},
    logscan,
};

const PATTERNS: [&str; 5] = [
    "(?i)no space left on device|disk quota exceeded",
    "(?i)out of memory|cannot allocate memory",
    "(?i)database disk image is malformed|disk i/o error",
    "panicked at ",
    "(?i)too many open files",
];
const BYTES: usize = 200_000_000;
const ROUNDS: usize = 3;

pub(crate) fn figures(quick: bool) {
    let bytes = if quick { BYTES / 5 } else { BYTES };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("big.ndjson");
    let planted = write(&path, bytes);
    let megabytes = bytes as f64 / 1e6;
    let patterns = Patterns::new(&PATTERNS.map(|regex| format!("warning {regex}"))).expect("the patterns are fine");
    println!("scanning a log of {megabytes:.0} MB for {} patterns ({planted} lines have one):", PATTERNS.len());
    if Command::new("rg").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("  ripgrep: NOT RUN, there is no rg on the path");
    }
    let (mut ours, mut whole, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        if let Some((seconds, found)) = ripgrep(&path) {
            assert_eq!(found, planted, "ripgrep");
            theirs.push(megabytes / seconds);
        }
        let (seconds, found) = scanned(folder.path(), &patterns, false);
        assert_eq!(found, planted, "ours");
        ours.push(megabytes / seconds);
        whole.push(megabytes / scanned(folder.path(), &patterns, true).0);
    }
    let (ours, whole) = (crate::median(ours), crate::median(whole));
    println!("  reading lines, looking for patterns {ours:>9.0} MB/s");
    println!("  with every line read as JSON        {whole:>9.0} MB/s");
    if !theirs.is_empty() {
        let theirs = crate::median(theirs);
        println!("  ripgrep, one thread                 {theirs:>9.0} MB/s   ratio {:.2}", ours / theirs);
    }
}

fn scanned(folder: &Path, patterns: &Patterns, read: bool) -> (f64, usize) {
    let (start, mut found) = (Instant::now(), 0);
    let scan = logscan::scan(folder, &|_| true, &BTreeMap::new(), u64::MAX, &mut |_, block| {
        patterns.find(block, &mut |_, _| found += 1);
        if read {
            for line in block.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                std::hint::black_box(log_line::read(line, true));
            }
        }
    });
    assert_eq!(scan.expect("the file can be read").lag_bytes, 0);
    (start.elapsed().as_secs_f64(), found)
}

fn ripgrep(path: &Path) -> Option<(f64, usize)> {
    let mut command = Command::new("rg");
    command.args(["--no-config", "--threads", "1", "--count", "--color", "never"]);
    for pattern in PATTERNS {
        command.args(["-e", pattern]);
    }
    let start = Instant::now();
    let output = command.arg(path).output().ok()?;
    let seconds = start.elapsed().as_secs_f64();
    Some((seconds, String::from_utf8_lossy(&output.stdout).trim().parse().ok()?))
}

/// Lines as the daemon writes them; one in ten thousand has a pattern. Answers how many.
fn write(path: &Path, bytes: usize) -> usize {
    let mut file = BufWriter::with_capacity(1 << 20, std::fs::File::create(path).expect("a file can be made"));
    let (mut written, mut n, mut planted) = (0, 0_usize, 0);
    while written < bytes {
        let what = if n % 10_000 == 77 {
            planted += 1;
            ["No space left on device", "Out of memory", "thread panicked at src/x.rs", "too many open files"][planted % 4]
        } else {
            ["a run began", "a webhook was applied", "nothing left to do on this device", "memory is fine"][n % 4]
        };
        let line = format!(
            "{{\"timestamp\":\"2026-03-01T10:{:02}:{:02}.{:06}Z\",\"level\":\"INFO\",\"message\":\"{what}\",\"task\":\"heartbeat\",\"run_id\":\"run_{n:032x}\",\"took_ms\":{}}}\n",
            n / 60 % 60,
            n % 60,
            n % 1_000_000,
            n % 977
        );
        file.write_all(line.as_bytes()).expect("the disk has room");
        written += line.len();
        n += 1;
    }
    file.flush().expect("the disk has room");
    planted
}
