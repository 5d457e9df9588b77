//! What a power cut would leave: the kernel's own record of the system calls shows that the write-ahead log is synced to disk
//! before a webhook is answered with 200. Killing a process cannot show this, because the kernel keeps what was written.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use integration_tests::{SHORT, TestDaemon, command, until};

use crate::{ingest::charge_event, setup};

/// Traces the daemon's writes and syncs while `work` runs; answers the trace's lines in the order of their ends.
fn traced(daemon: &TestDaemon, work: impl FnOnce()) -> Vec<String> {
    let file = daemon.root().join("trace");
    let mut strace = command("strace");
    strace
        .args(["-f", "-y", "-s", "200", "-e", "trace=write,writev,pwrite64,pwritev,sendto,sendmsg,fsync,fdatasync", "-o"])
        .arg(&file)
        .args(["-p", &daemon.pid().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = strace.spawn().expect("strace starts; integration-tests/run installs it");
    let mut said = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut line = String::new();
    said.read_line(&mut line).expect("strace says that it is attached");
    assert!(line.contains("attached"), "strace cannot trace the daemon here: {line}");
    work();
    let mut stop = command("kill");
    stop.args(["-s", "INT", &child.id().to_string()]);
    integration_tests::run_to_end(stop, SHORT).expect(0);
    until("strace to end", SHORT, || child.try_wait().ok().flatten());
    std::fs::read_to_string(&file).expect("the trace").lines().map(str::to_owned).collect()
}

#[test]
fn the_log_is_synced_to_disk_before_a_webhook_is_answered() {
    let daemon = setup().start();
    daemon.deliver(&charge_event("evt_warm", "ch_warm", 100)).ok();
    daemon.settle();
    let trace = traced(&daemon, || {
        daemon.deliver(&charge_event("evt_power_marker", "ch_power_marker", 100)).ok();
    });
    let show = || trace.join("\n");
    // The answer's bytes leave the process here: everything before this line happened before.
    let answered = trace
        .iter()
        .position(|line| line.contains("HTTP/1.1 200") && !line.contains("unfinished"))
        .or_else(|| trace.iter().position(|line| line.contains("HTTP/1.1 200")))
        .unwrap_or_else(|| panic!("no 200 in the trace:\n{}", show()));
    let wal = |line: &&String| line.contains("echopilot.db-wal");
    let written = trace[..answered].iter().position(|line| line.contains("pwrite64(") && wal(&line));
    let written = written.unwrap_or_else(|| panic!("the log was not written before the answer:\n{}", show()));
    let synced = trace[written..answered].iter().any(|line| {
        let ended = !line.contains("unfinished") || {
            // A sync that another thread's call interrupted in the trace must have resumed before the answer.
            let thread = line.split(' ').next().unwrap_or_default();
            trace[written..answered].iter().any(|other| other.starts_with(thread) && other.contains("sync resumed"))
        };
        (line.contains("fdatasync(") || line.contains("fsync(")) && wal(&line) && ended
    });
    assert!(synced, "the log was not synced between its write and the answer:\n{}", show());
}
