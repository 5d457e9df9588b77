//! Figures as ratios: the daemon against the bare framework in the same run, on the same cores, in turns. Called by
//! `benches/run` with the path of the daemon's program. Every load is bounded in count; nothing here passes or fails.

mod backup;
mod daemon;
mod demo;
mod flood;
mod lateness;
mod levels;
mod load;
mod nab;
mod peer;
mod process;
mod reconcile;
mod rules;
mod scan;
mod schedule;

use std::time::Instant;

use crate::{daemon::Daemon, load::Load};

/// Turns of A B A B; the median of each is quoted.
const ROUNDS: usize = 5;
const WEBHOOKS: usize = 4_000;
const READS: usize = 20_000;
const CONNECTIONS: usize = 32;
const CRASHES: usize = 30;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let quick = arguments.iter().any(|a| a == "--quick");
    let what = arguments.first().expect("usage: figures PATH-OF-ECHOPILOT [--quick]");
    if what == "schedule" {
        let parts: Vec<String> = arguments.into_iter().skip(1).filter(|a| a != "--quick").collect();
        return schedule::figures(quick, &parts).await;
    }
    let wanted = |part: &str| arguments.len() == 1 + usize::from(quick) || arguments.iter().any(|a| a == part);
    if wanted("daemon") {
        daemon(what).await;
    }
    if wanted("tasks") {
        flood::real_tasks(what, quick).await;
    }
    if wanted("flood") {
        flood::flood(what, quick).await;
    }
    if wanted("demo") {
        demo::figures(what).await;
    }
    if wanted("reconcile") {
        let what = what.clone();
        tokio::task::spawn_blocking(move || reconcile::figures(&what, quick)).await.expect("the reconciliation's figures");
    }
    if wanted("backup") {
        tokio::task::spawn_blocking(move || backup::figures(quick)).await.expect("the figures of backups");
    }
    if wanted("levels") {
        tokio::task::spawn_blocking(levels::figures).await.expect("the figures of levels");
    }
    if wanted("rules") {
        tokio::task::spawn_blocking(move || rules::figures(quick)).await.expect("the figures of rules");
    }
    if wanted("scan") {
        tokio::task::spawn_blocking(move || scan::figures(quick)).await.expect("the figures of the log scan");
    }
    if wanted("nab") {
        tokio::task::spawn_blocking(nab::figures).await.expect("the figures of anomaly detection");
    }
    if !wanted("schedule") {
        return;
    }
    // In a process of its own, so that its memory and its CPU are the timer's.
    let mut timer = tokio::process::Command::new(std::env::current_exe().expect("this program has a path"));
    timer.arg("schedule").args(quick.then_some("--quick")).kill_on_drop(true);
    assert!(timer.status().await.expect("this program starts").success(), "the timer's figures failed");
}

async fn daemon(program: &str) {
    let (daemon, ready_ms) = starts(program).await;
    println!("exec to ready                         {ready_ms:>9.1} ms   (median of {ROUNDS} starts, empty directories)");
    tokio::time::sleep(std::time::Duration::from_secs(2)).await; // let the start-up settle: this is a figure of idleness
    println!("idle memory (resident)                {:>9.1} MiB", daemon.resident_mib());
    let cpu = daemon.cpu_seconds();
    let since = Instant::now();
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    println!(
        "idle CPU                              {:>9.2} %    of one core",
        100.0 * (daemon.cpu_seconds() - cpu) / since.elapsed().as_secs_f64()
    );

    let bare = peer::start().await;
    ingest(&daemon, bare).await;
    reads(&daemon, bare).await;
    recoveries(&daemon).await;
    println!("memory after the load (resident)      {:>9.1} MiB", daemon.resident_mib());
    daemon.stop().await;
}

async fn starts(program: &str) -> (Daemon, f64) {
    let mut times = Vec::new();
    let mut last: Option<Daemon> = None;
    for _ in 0..ROUNDS {
        if let Some(daemon) = last.take() {
            daemon.stop().await;
        }
        let start = Instant::now();
        let daemon = Daemon::start(program).await;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        last = Some(daemon);
    }
    (last.expect("at least one round"), median(times))
}

async fn ingest(daemon: &Daemon, bare: std::net::SocketAddr) {
    let (mut ours, mut theirs, mut p99) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let requests = daemon.signed_webhooks(round, WEBHOOKS);
        theirs.push(Load::run(bare, CONNECTIONS, &requests).await.per_second);
        let load = Load::run(daemon.address, CONNECTIONS, &requests).await;
        assert_eq!(load.refused, 0, "a webhook was refused");
        ours.push(load.per_second);
        p99.push(load.p99_ms);
    }
    print_pair("webhook ingest, durable before 200", "bare framework, 200 to the same body", ours, theirs);
    println!("  p99 of an acknowledgement           {:>9.2} ms   ({CONNECTIONS} connections, {WEBHOOKS} a round)", median(p99));
}

async fn reads(daemon: &Daemon, bare: std::net::SocketAddr) {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        theirs.push(Load::run(bare, CONNECTIONS, &vec![peer::get("/static"); READS]).await.per_second);
        let load = Load::run(daemon.address, CONNECTIONS, &vec![daemon.get("/api/slo/status"); READS]).await;
        assert_eq!(load.refused, 0, "a read was refused");
        ours.push(load.per_second);
    }
    print_pair("GET /api/slo/status through the actor", "bare framework, static JSON", ours, theirs);
}

async fn recoveries(daemon: &Daemon) {
    let mut times = Vec::new();
    for _ in 0..CRASHES {
        times.push(daemon.crash_and_recover("slo").await);
    }
    println!("panic to the replacement's answer     {:>9.0} us   (median of {CRASHES}, as the supervisor measured it)", median(times));
}

fn print_pair(ours_name: &str, theirs_name: &str, ours: Vec<f64>, theirs: Vec<f64>) {
    let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(a, b)| a / b).collect();
    let (low, high) = ratios.iter().fold((f64::MAX, 0.0_f64), |(low, high), r| (low.min(*r), high.max(*r)));
    let (ours, theirs) = (median(ours), median(theirs));
    println!("{ours_name:<38}{ours:>9.0} /s");
    println!("  {theirs_name:<36}{theirs:>9.0} /s   ratio {:.3} ({low:.3} to {high:.3})", median(ratios));
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
