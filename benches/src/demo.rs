//! The demo year as its user waits for it: the program's first command in empty directories, from its start to serving. Every event of the
//! year goes over HTTP as a signed webhook and is durable and booked before the program is ready.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use crate::process;

/// How long its orderly end may take.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) async fn figures(program: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // It begins in a folder of its own, from where a relative path leads nowhere.
    let program = std::fs::canonicalize(program).expect("the program is there");
    let begun = Instant::now();
    let mut child = Command::new(program)
        .args(["run", "--demo"])
        .current_dir(folder.path())
        .env("ECHOPILOT__SERVER__LISTEN", "127.0.0.1:0")
        .env("ECHOPILOT__SANDBOX__LISTEN", "127.0.0.1:0")
        .env("ECHOPILOT__LOG__LEVEL", "error")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("it was asked for")).lines();
    let line = loop {
        let line = lines.next_line().await.expect("its output can be read").expect("it serves before it ends");
        if let Some(told) = line.trim().strip_prefix("demo ") {
            break told.trim().to_owned();
        }
    };
    let ready_s = begun.elapsed().as_secs_f64();
    let cpu_s = process::cpu_seconds(&child.id().expect("it runs").to_string());
    // "... up to now: 17686 events in 16.3 s; 6 differences planted, 6 of them found"
    let (events, rest) = line.split_once(": ").and_then(|(_, rest)| rest.split_once(" events in ")).expect("the story's figures");
    let (seconds, found) = rest.split_once(" s; ").expect("the story's time");
    let (events, seconds): (f64, f64) = (events.parse().expect("a count"), seconds.parse().expect("a time"));
    println!("demo year, events made and booked     {:>9.0} /s   ({events} events in {seconds:.1} s; {found})", events / seconds);
    println!("demo year, command to serving         {ready_s:>9.1} s    ({cpu_s:.1} s of CPU)");
    let pid = child.id().expect("it runs").to_string();
    let _ = Command::new("kill").args(["-TERM", &pid]).status().await; // kill_on_drop is behind it
    let _ = tokio::time::timeout(LIMIT, child.wait()).await;
}
