//! Thirty days of fifty service levels: what they take in memory, and what judging all of them once costs. Every minute has events, the worst
//! case; beside it the same minutes kept as they are counted, without packing.

use std::time::Instant;

use echopilot_actors::domain::slo::{Counts, Level, Minute, Objective, Track, stand};

const LEVELS: usize = 50;
const MINUTES: i64 = 43_200;
const ROUNDS: usize = 5;

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
}

/// One service: busy days, quiet nights, an error now and then.
fn filled(which: usize) -> Track {
    let mut track = Track::new();
    for minute in 0..MINUTES {
        let is_day = (420..1260).contains(&(minute % 1440));
        let seed = u64::try_from(minute)
            .unwrap_or(0)
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(which as u64 * 1_442_695_040_888_963_407)
            >> 33;
        let total = if is_day { 40 + seed % 300 } else { 1 + seed % 5 };
        track.add(&Minute { total, bad: u64::from(seed % 97 == 0), slow: seed % 3, ..Minute::new(minute) });
    }
    track
}

/// What the kernel says this process has, in kB.
fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse().ok()).unwrap_or(0)
}
