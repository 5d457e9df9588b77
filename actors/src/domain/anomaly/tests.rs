//! Judging generated series: what must be found, and how often something is found that is not there.

use std::collections::BTreeMap;

use super::*;

const STEP_S: i64 = 180;
const DAY: usize = 480;
const START: i64 = 1_790_000_000 / 86_400 * 86_400;
const LEVEL: Figure = Figure { kind: Kind::Level, floor: 1.0 };

/// A generator of its own, so that a series is the same everywhere.
struct Noise(u64);

impl Noise {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// About normal: mean 0, deviation 1.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }

    fn poisson(&mut self, mean: f64) -> f64 {
        let (limit, mut product, mut k) = ((-mean).exp(), self.unit(), 0.0);
        while product > limit {
            product *= self.unit();
            k += 1.0;
        }
        k
    }
}

/// Judges a whole series as the sentinel does; answers the indexes at which an alarm began, and the last judgement.
fn alarms(figure: Figure, series: &[f64]) -> (Vec<usize>, Judgement) {
    let (mut past, mut began, mut was, mut last): (Vec<Sample>, Vec<usize>, bool, Option<Judgement>) =
        (Vec::new(), Vec::new(), false, None);
    let mut halves: BTreeMap<i64, (f64, f64)> = BTreeMap::new();
    for (n, value) in series.iter().enumerate() {
        let at = START + STEP_S * i64::try_from(n).unwrap();
        let season = Season::new(halves.iter().map(|(h, (sum, count))| (*h, sum / count)).collect());
        let from = past.len().saturating_sub(DAY);
        let judged = judge(figure, &past[from..], &season, at, *value, was);
        if judged.alarm && !was {
            began.push(n);
        }
        was = judged.alarm;
        past.push(Sample { at, value: *value, odd: judged.odd, left_out: judged.alarm });
        if !judged.alarm {
            let half = halves.entry(at / HALF_HOUR_S).or_default();
            *half = (half.0 + value, half.1 + 1.0);
        }
        last = Some(judged);
    }
    (began, last.expect("a series has values"))
}

fn noisy(days: usize, seed: u64, of: impl Fn(usize) -> f64) -> Vec<f64> {
    let mut noise = Noise(seed);
    (0..days * DAY).map(|n| of(n) + 2.0 * noise.normal()).collect()
}

fn daily(n: usize) -> f64 {
    40.0 + 15.0 * ((n % DAY) as f64 / DAY as f64 * std::f64::consts::TAU).sin()
}

#[test]
fn a_jump_to_another_level_is_found_at_the_second_value_and_its_reason_is_said() {
    let mut series = noisy(3, 1, |_| 40.0);
    let jump = 2 * DAY + 100;
    for value in &mut series[jump..jump + 20] {
        *value += 40.0;
    }
    let (began, _) = alarms(LEVEL, &series);
    assert_eq!(began, [jump + 1]);
    let (_, during) = alarms(LEVEL, &series[..jump + 3]);
    assert!(during.reason.contains("deviations above the median ") && during.alarm, "{}", during.reason);
    assert!(during.score > 0.5);
}

#[test]
fn a_single_spike_is_odd_and_no_alarm() {
    let mut series = noisy(2, 2, |_| 40.0);
    let spike = series.len() - 1;
    series[spike] = 95.0;
    let (began, last) = alarms(LEVEL, &series);
    assert!(began.is_empty() && last.odd && !last.alarm, "{began:?} {}", last.reason);
}

#[test]
fn a_short_spike_of_two_values_is_found_in_any_series() {
    for seed in 0..10 {
        let mut series = noisy(5, seed, daily);
        let spike = 4 * DAY + 37 * usize::try_from(seed).unwrap();
        series[spike] = 99.0;
        series[spike + 1] = 97.0;
        assert!(alarms(LEVEL, &series).0.contains(&(spike + 1)), "seed {seed}");
    }
}

#[test]
fn a_drift_of_two_hours_is_found_on_its_way() {
    let mut series = noisy(3, 3, |_| 40.0);
    let (start, drift) = (2 * DAY, 40);
    for (n, value) in series[start..].iter_mut().enumerate() {
        *value += 40.0 * n.min(drift) as f64 / drift as f64;
    }
    let (began, _) = alarms(LEVEL, &series);
    let found = began.iter().find(|n| **n >= start).copied().expect("the drift is found");
    assert!(found < start + drift, "{} values after it began", found - start);
}

#[test]
fn an_ordinary_value_at_an_unusual_hour_is_found_once_the_season_is_known() {
    let mut series = noisy(6, 4, daily);
    // At the daily low, the daily peak: nothing that the day has not seen.
    let low = 5 * DAY + 3 * DAY / 4;
    for value in &mut series[low..low + 20] {
        *value += 25.0;
    }
    let (began, _) = alarms(LEVEL, &series);
    assert!(began.iter().any(|n| (low..low + 20).contains(n)), "{began:?}");
}

#[test]
fn false_alarms_are_few_over_a_hundred_days_of_noise() {
    let mut false_alarms = 0;
    for seed in 10..20 {
        false_alarms += alarms(LEVEL, &noisy(5, seed, |_| 40.0)).0.len();
        false_alarms += alarms(LEVEL, &noisy(5, seed, daily)).0.len();
    }
    assert!(false_alarms <= 5, "{false_alarms} in 100 days");
}

#[test]
fn an_outage_is_not_learned_and_a_change_for_good_is_after_eight_hours() {
    let mut series = noisy(3, 5, |_| 40.0);
    let (jump, end) = (2 * DAY, 2 * DAY + 100);
    for value in &mut series[jump..end] {
        *value += 40.0;
    }
    let (began, _) = alarms(LEVEL, &series[..end + 20]);
    assert_eq!(began, [jump + 1], "going back is not another alarm");
    let mut series = noisy(4, 6, |_| 40.0);
    for value in &mut series[jump..] {
        *value += 40.0;
    }
    let (_, after) = alarms(LEVEL, &series[..jump + REBASE - 5]);
    assert!(after.alarm);
    let (_, after) = alarms(LEVEL, &series[..jump + REBASE + 20]);
    assert!(!after.alarm, "{}", after.reason);
}

#[test]
fn times_are_judged_by_their_ratio_and_low_counts_by_their_chance() {
    let latency = Figure { kind: Kind::Latency, floor: 20.0 };
    let mut noise = Noise(7);
    let mut series: Vec<f64> = (0..2 * DAY).map(|_| 100.0 * (0.3 * noise.normal()).exp()).collect();
    assert!(alarms(latency, &series).0.is_empty(), "a skewed figure is ordinary");
    series.extend([2000.0, 2100.0]);
    assert!(alarms(latency, &series).1.alarm);

    let rare = Figure { kind: Kind::Count, floor: 1.0 };
    let mut series: Vec<f64> = (0..2 * DAY).map(|_| noise.poisson(0.3)).collect();
    assert!(alarms(rare, &series).0.is_empty());
    series.extend([9.0, 8.0]);
    let (_, last) = alarms(rare, &series);
    assert!(last.alarm && last.reason.contains("8 where 0.3 are usual"), "{}", last.reason);
}

#[test]
fn a_flat_series_tolerates_what_does_not_matter_and_no_more() {
    let flat = vec![10.0; 300];
    let judged = |value: f64| judge(LEVEL, &samples(&flat), &Season::default(), START, value, false);
    assert!(!judged(10.9).odd && !judged(13.0).odd && judged(20.0).odd);
    assert!(!judged(f64::NAN).odd && judged(f64::NAN).reason == "no value");
    let few = judge(LEVEL, &samples(&flat[..29]), &Season::default(), START, 1e9, false);
    assert_eq!((few.odd, few.reason.as_str()), (false, "29 earlier values are too few to compare with"));
}

#[test]
fn a_figure_that_is_missing_is_a_finding_of_its_own() {
    assert_eq!(gone(100, 2), None);
    assert_eq!(gone(5, 50), None);
    assert_eq!(gone(100, 3).unwrap(), "no value for 3 times in a row, after 100 values");
}

fn samples(values: &[f64]) -> Vec<Sample> {
    let of = |(n, value): (usize, &f64)| Sample {
        at: START - STEP_S * i64::try_from(values.len() - n).unwrap(),
        value: *value,
        odd: false,
        left_out: false,
    };
    values.iter().enumerate().map(of).collect()
}
