//! Thirty days of fifty service levels: what they take in memory, and what judging all of them once costs. Every minute has events, the worst
//! case; beside it the same minutes kept as they are counted, without packing. And what one of them takes on disk, with its latencies.

use std::{sync::Arc, time::Instant};

use echopilot_actors::{
    domain::slo::{Counts, Level, Minute, Objective, Track, stand},
    store::Store,
};

const LEVELS: usize = 50;
const MINUTES: i64 = 43_200;
const ROUNDS: usize = 5;
/// Minutes whose latencies are kept each by itself; of older ones by the hour.
const UNFOLDED: i64 = 72 * 60;
const DAY: usize = 1440;

pub(crate) fn figures() {
    let before = resident_kb();
    let began = Instant::now();
    let tracks: Vec<Track> = (0..LEVELS).map(filled).collect();
    let took = began.elapsed().as_secs_f64();
    let after = resident_kb();
    let packed: usize = tracks.iter().map(Track::packed_bytes).sum();
    let plain = LEVELS * usize::try_from(MINUTES).unwrap_or(0) * size_of::<Counts>();
    let megabytes = |bytes: usize| bytes as f64 / 1e6;
    println!(
        "levels, 30 days of {LEVELS} in memory        {:>9.1} MB   (resident; packed {:.1} MB, unpacked they would be {:.1} MB: {:.0} times; filled in {took:.1} s)",
        after.saturating_sub(before) as f64 / 1e3,
        megabytes(packed),
        megabytes(plain),
        plain as f64 / packed.max(1) as f64
    );
    let level = Level { no_data: true, ..Objective::default().level() };
    let now = MINUTES;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let bad: u64 = tracks.iter().map(|track| stand(&level, track.counts(0, now), &[], 0, now).verdict.bad).sum();
        assert!(bad > 0, "something was judged");
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let all = crate::median(times);
    println!(
        "levels, judging all {LEVELS} once               {all:>9.1} ms   ({:.2} ms each: 2 indicators, 4 tiers, budget, silence)",
        all / LEVELS as f64
    );
    let (on_disk, events) = tokio::runtime::Runtime::new().expect("a runtime").block_on(on_disk());
    println!(
        "levels, 30 days of one on disk        {:>9.1} MB   ({events} events, every one with its latency, every minute with some)",
        megabytes(on_disk)
    );
}

/// Bytes of a database that holds one busy service, more than of an empty one; and its events.
async fn on_disk() -> (usize, u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut sizes = Vec::new();
    let mut events = 0;
    for name in ["empty.db", "filled.db"] {
        let path = folder.path().join(name);
        let store = Store::open(&path, "bench").expect("a store");
        if name == "filled.db" {
            let service: Arc<str> = "push:shop".into();
            let all: Vec<_> = minutes(0).map(|minute| (service.clone(), with_latencies(minute))).collect();
            events = all.iter().map(|(_, minute)| minute.total).sum();
            for day in all.chunks(DAY) {
                store.put_minutes(day).await.expect("written");
            }
            store.fold_minutes(MINUTES - UNFOLDED).await.expect("folded");
        }
        store.close().await.expect("closed");
        // What deleted rows left is used again by the days to come: a copy has only what is there.
        let copy = folder.path().join(format!("{name}.copy"));
        let connection = rusqlite::Connection::open(&path).expect("it opens");
        connection.execute("VACUUM INTO ?1", [copy.to_str().expect("a path")]).expect("copied");
        sizes.push(std::fs::metadata(copy).map_or(0, |m| usize::try_from(m.len()).unwrap_or(0)));
    }
    (sizes[1].saturating_sub(sizes[0]), events)
}

/// Between 20 ms and 2 s, few of them long.
fn with_latencies(minute: Minute) -> Minute {
    let mut whole = Minute::new(minute.minute);
    for n in 0..minute.total {
        let seed = (n + 1).wrapping_mul(2_654_435_761).wrapping_add(u64::try_from(minute.minute).unwrap_or(0).wrapping_mul(40_503)) % 1000;
        let latency_us = 20_000 + seed * seed * seed / 505;
        whole.record_many(latency_us, n < minute.bad, 1200, 1);
    }
    whole
}

fn filled(which: usize) -> Track {
    let mut track = Track::new();
    minutes(which).for_each(|minute| track.add(&minute));
    track
}

/// One service: busy days, quiet nights, an error now and then.
fn minutes(which: usize) -> impl Iterator<Item = Minute> {
    (0..MINUTES).map(move |minute| {
        let is_day = (420..1260).contains(&(minute % 1440));
        let seed = u64::try_from(minute)
            .unwrap_or(0)
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(which as u64 * 1_442_695_040_888_963_407)
            >> 33;
        let total = if is_day { 40 + seed % 300 } else { 1 + seed % 5 };
        Minute { total, bad: u64::from(seed % 97 == 0), slow: seed % 3, ..Minute::new(minute) }
    })
}

/// What the kernel says this process has, in kB.
fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse().ok()).unwrap_or(0)
}
