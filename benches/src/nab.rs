//! The sentinel's methods on the Numenta Anomaly Benchmark, beside published scores: thresholds are tuned on one half of the series and scored
//! on the other. Called by `main.rs`; the folder (`data/`, `labels/combined_windows.json`) is named by `ECHOPILOT_NAB`, because the series are
//! not ours to ship.

mod score;

use std::{collections::BTreeMap, path::Path};

use echopilot_actors::domain::anomaly::{HALF_HOUR_S, Rest, Season, Shape, center, fading};

use self::score::{PROFILES, Scores, Series, score, tune};

/// Values that distances are taken from.
const WINDOW: usize = 1000;
/// From which score on a shape is told; which one is tuned too.
const LIMITS: [f64; 3] = [0.99, 0.9965, 1.0];
/// Published, with the threshold tuned on all series: standard, few false alarms, few misses.
const PUBLISHED: [(&str, [f64; 3]); 8] = [
    ("ARTime", [74.9, 65.1, 80.4]),
    ("Numenta HTM", [70.1, 62.6, 75.2]),
    ("CAD OSE", [69.9, 67.0, 73.2]),
    ("KNN-CAD", [58.0, 43.4, 64.8]),
    ("relative entropy", [54.6, 47.6, 58.8]),
    ("random cut forest", [51.7, 38.4, 59.7]),
    ("Twitter ADVec", [47.1, 33.6, 53.5]),
    ("windowed Gaussian", [39.6, 20.9, 47.4]),
];

pub(crate) fn figures() {
    let Some(folder) = std::env::var_os("ECHOPILOT_NAB") else {
        println!("anomaly detection: NOT RUN. Set ECHOPILOT_NAB to a copy of the Numenta Anomaly Benchmark (folders data and labels).");
        return;
    };
    let all = load(Path::new(&folder));
    let windows: usize = all.iter().map(|series| series.windows.len()).sum();
    println!(
        "anomaly detection, Numenta benchmark ({} series, {windows} windows); by name in turns, one half tunes, the other is scored:",
        all.len()
    );
    println!("  {:<38}{:>9}{:>14}{:>14}", "standard profile", "all tuned", "1st half -> 2nd", "2nd -> 1st");
    let methods: [(&str, Vec<Vec<Scores>>); 4] = [
        ("shape, told once a burst", LIMITS.iter().map(|limit| all.iter().map(|s| shape(s, *limit)).collect()).collect()),
        ("distance from the median", vec![all.iter().map(|s| bursts(s, &distances(s, center))).collect()]),
        ("distance from the fading mean", vec![all.iter().map(|s| bursts(s, &distances(s, fading))).collect()]),
        ("distance from the usual at that time", vec![all.iter().map(|s| bursts(s, &seasonal(s))).collect()]),
    ];
    let every: Vec<usize> = (0..all.len()).collect();
    let (first, second): (Vec<usize>, Vec<usize>) = every.iter().partition(|i| *i % 2 == 0);
    for (name, variants) in &methods {
        let line = |profile| {
            let best = variants.iter().map(|scores| tune(&all, scores, &every, profile).1).fold(f64::MIN, f64::max);
            let across = |tuned: &[usize], scored: &[usize]| {
                let tuned = variants.iter().map(|scores| (tune(&all, scores, tuned, profile), scores));
                let ((threshold, _), scores) = tuned.max_by(|a, b| a.0.1.total_cmp(&b.0.1)).expect("there is a variant");
                score(&all, scores, scored, profile, threshold)
            };
            (best, across(&first, &second), across(&second, &first))
        };
        let (all_tuned, there, back) = line(PROFILES[0]);
        println!("  {name:<38}{all_tuned:>9.1}{there:>14.1}{back:>14.1}");
        for profile in &PROFILES[1..] {
            let (all_tuned, there, back) = line(*profile);
            println!("    {:<36}{all_tuned:>9.1}{there:>14.1}{back:>14.1}", profile.name);
        }
    }
    println!("  published, tuned on all series:       standard   few false alarms   few misses");
    for (name, [standard, few_false, few_misses]) in PUBLISHED {
        println!("    {name:<36}{standard:>8.1}{few_false:>19.1}{few_misses:>13.1}");
    }
}

fn load(folder: &Path) -> Vec<Series> {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let labels: BTreeMap<String, Vec<[String; 2]>> =
        serde_json::from_str(&read(&folder.join("labels/combined_windows.json"))).expect("the labels are lists of pairs of times");
    let series = |(name, labels): (String, Vec<[String; 2]>)| {
        let text = read(&folder.join("data").join(&name));
        let rows = text.lines().skip(1).filter_map(|line| line.split_once(','));
        let (times, values): (Vec<i64>, Vec<f64>) = rows.map(|(t, v)| (time(t), v.trim().parse::<f64>().expect("a value"))).unzip();
        let at = |text: &str| times.iter().position(|t| *t == time(text)).expect("a window begins and ends at a value");
        let windows = labels.iter().map(|[from, to]| (at(from), at(to))).collect();
        Series { name, times, values, windows }
    };
    let all: Vec<Series> = labels.into_iter().map(series).collect();
    assert!(all.windows(2).all(|pair| pair[0].name < pair[1].name), "in the order of their names");
    all
}

fn time(text: &str) -> i64 {
    let whole = text.split('.').next().unwrap_or(text);
    chrono::NaiveDateTime::parse_from_str(whole, "%Y-%m-%d %H:%M:%S").expect("a time").and_utc().timestamp()
}

fn shape(series: &Series, limit: f64) -> Scores {
    let mut shape = Shape::new(series.probation());
    let mut rest = Rest::new(series.probation() / 5, limit);
    series.values.iter().map(|value| shape.push(*value).map_or(0.0, |strange| rest.pass(strange.score()))).collect()
}

/// A distance and its scale of a value after its past.
type Judge = fn(&[f64], f64) -> Option<(f64, f64)>;

fn distances(series: &Series, of: Judge) -> Scores {
    let values = &series.values;
    let distance = |i: usize| {
        let (expected, scale) = of(&values[i.saturating_sub(WINDOW)..i], 1e-9)?;
        Some(((values[i] - expected) / scale).abs())
    };
    (0..values.len()).map(|i| distance(i).unwrap_or(0.0)).collect()
}

fn seasonal(series: &Series) -> Scores {
    let mut halves: BTreeMap<i64, (f64, f64)> = BTreeMap::new();
    let (mut residuals, mut out): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
    let (mut season, mut half_hour) = (Season::default(), i64::MIN);
    for (at, value) in series.times.iter().zip(&series.values) {
        if at.div_euclid(HALF_HOUR_S) != half_hour {
            half_hour = at.div_euclid(HALF_HOUR_S);
            season = Season::new(halves.iter().map(|(half, (sum, n))| (*half, sum / n)).collect());
        }
        let residual = season.usual(*at).map(|usual| value - usual);
        let from = residuals.len().saturating_sub(WINDOW);
        let scale = center(&residuals[from..], value.abs() / 100.0 + 1e-9);
        out.push(residual.zip(scale).map_or(0.0, |(residual, (shift, scale))| ((residual - shift) / scale).abs()));
        residuals.extend(residual);
        let sum = halves.entry(half_hour).or_default();
        *sum = (sum.0 + value, sum.1 + 1.0);
    }
    out
}

/// Only the first of a burst: silence for a third of the probation unless a higher score comes.
fn bursts(series: &Series, scores: &[f64]) -> Scores {
    let rest = series.probation() / 3;
    let quiet = |i: usize| scores[i.saturating_sub(rest)..i].iter().any(|before| *before >= scores[i]);
    (0..scores.len()).map(|i| if quiet(i) { 0.0 } else { scores[i] }).collect()
}
