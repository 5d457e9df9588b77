//! The real program with its real tasks: how late they start when all are due each second, and what more requests than it takes do to
//! its memory and its answers. Every load ends by itself.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use echopilot_actors::store::Store;

use crate::{
    daemon::Daemon,
    lateness::Lateness,
    load::{self, Answer},
};

/// Those of the real tasks that end within a second.
const QUICK: [&str; 7] =
    ["heartbeat", "production_alerts", "ops_sentinel", "observability_snapshot", "slo_guard", "slo_monitor", "payout_recon"];
/// More than `server.max_in_flight` (256), fewer than `server.max_connections` (512).
const CONNECTIONS: usize = 400;

/// All quick tasks each second, in the program as it is.
pub(crate) async fn real_tasks(program: &str, quick: bool) {
    let seconds = if quick { 15 } else { 30 };
    let setting = |task: &&str| (format!("ECHOPILOT__TASKS__{}__SCHEDULE", task.to_uppercase()), "every 1 s".to_owned());
    let daemon = Daemon::start_with(program, &QUICK.iter().map(setting).collect::<Vec<_>>()).await;
    let (since, cpu) = (Instant::now(), daemon.cpu_seconds());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let cpu = 100.0 * (daemon.cpu_seconds() - cpu) / since.elapsed().as_secs_f64();
    let folder = daemon.stop().await;
    let store = Store::open(&folder.path().join("data").join("echopilot.db"), "bench").expect("the ledger can be opened");
    let late = Lateness::read(&store, &QUICK, chrono::DateTime::UNIX_EPOCH).await;
    store.close().await.expect("the store closes");
    println!("start lateness, real tasks            {:>9} ms   at p99; {}", late.percentile(0.99), late.summary());
    println!("{}", late.histogram());
    println!("  CPU meanwhile                       {cpu:>9.1} %    of one core ({} tasks each second)", QUICK.len());
}

/// Signed webhooks and reads over more connections than may be in flight, each the next request at once after an answer.
pub(crate) async fn flood(program: &str, quick: bool) {
    let seconds = if quick { 10 } else { 20 };
    let daemon = Arc::new(Daemon::start(program).await);
    tokio::time::sleep(Duration::from_secs(2)).await; // its start-up is over
    let before = daemon.resident_mib();
    let (start, cpu) = (Instant::now(), daemon.cpu_seconds());
    let end = start + Duration::from_secs(seconds);
    let workers: Vec<_> = (0..CONNECTIONS)
        .map(|n| {
            let daemon = daemon.clone();
            tokio::spawn(async move {
                let request =
                    |i: usize| if (n + i).is_multiple_of(4) { daemon.get("/api/slo/status") } else { daemon.signed_webhook(n, i) };
                load::ask_until(daemon.address, end, request).await
            })
        })
        .collect();
    let mut resident = Vec::new();
    while Instant::now() < end {
        resident.push(daemon.resident_mib());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let cpu = 100.0 * (daemon.cpu_seconds() - cpu) / start.elapsed().as_secs_f64();
    let (mut answers, mut times) = (BTreeMap::<Answer, usize>::new(), Vec::new());
    for worker in workers {
        let (more, took) = worker.await.expect("a worker ends");
        for (answer, n) in more {
            *answers.entry(answer).or_default() += n;
        }
        times.extend(took);
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = daemon.resident_mib();
    let peak = |part: &[f64]| part.iter().copied().fold(0.0, f64::max);
    let (first, second) = resident.split_at(resident.len() / 2);
    let all: usize = answers.values().sum();
    let count = |wanted: &dyn Fn(&Answer) -> bool| answers.iter().filter(|(answer, _)| wanted(answer)).map(|(_, n)| n).sum::<usize>();
    let (taken, refused) = (count(&|a| a.status == 200), count(&|a| a.status == 503));
    times.sort_by(f64::total_cmp);
    let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or(f64::NAN);
    println!(
        "flood, {CONNECTIONS} connections for {seconds} s      {:>9.0} MiB  resident at its peak ({before:.0} before, {:.0} in the first half, {:.0} in the second, {after:.0} after)",
        peak(&resident),
        peak(first),
        peak(second)
    );
    println!(
        "  answers                             {:>9.0} /s   {all} in all: {:.1} % 200, {:.1} % 503, {} others; CPU {cpu:.0} % of one core",
        all as f64 / start.elapsed().as_secs_f64(),
        100.0 * taken as f64 / all as f64,
        100.0 * refused as f64 / all as f64,
        all - taken - refused
    );
    println!(
        "  503 that say when to come again     {:>9.1} %",
        100.0 * count(&|a| a.status == 503 && a.says_when) as f64 / refused.max(1) as f64
    );
    println!("  p99 of a 200                        {p99:>9.1} ms");
    let Ok(daemon) = Arc::try_unwrap(daemon) else { unreachable!("every worker has ended") };
    daemon.stop().await;
}
