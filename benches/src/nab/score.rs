//! The scoring rules of the Numenta Anomaly Benchmark, from its published description: per labelled window the earliest detection counts, the
//! earlier the more; every detection elsewhere costs, the more the further it is from a window; one threshold for all series. Called by
//! `nab.rs`; it knows no detector.

/// A series with its labelled windows, as indexes, both ends included.
pub(crate) struct Series {
    pub(crate) name: String,
    /// Unix seconds.
    pub(crate) times: Vec<i64>,
    pub(crate) values: Vec<f64>,
    pub(crate) windows: Vec<(usize, usize)>,
}

impl Series {
    /// The first values, in which nothing is scored: 15 %, at most 750.
    pub(crate) fn probation(&self) -> usize {
        (self.values.len() * 15 / 100).min(750)
    }
}

/// What mistakes cost.
#[derive(Clone, Copy)]
pub(crate) struct Profile {
    pub(crate) name: &'static str,
    pub(crate) false_alarm: f64,
    pub(crate) miss: f64,
}

pub(crate) const PROFILES: [Profile; 3] = [
    Profile { name: "standard", false_alarm: 0.11, miss: 1.0 },
    Profile { name: "few false alarms", false_alarm: 0.22, miss: 1.0 },
    Profile { name: "few misses", false_alarm: 0.11, miss: 2.0 },
];

/// From 1 well before through 0 to -1 well after.
fn sigmoid(position: f64) -> f64 {
    if position > 3.0 { -1.0 } else { 2.0 / (1.0 + (5.0 * position).exp()) - 1.0 }
}

/// For each value the window it is in, and what a detection there is worth.
fn worth(series: &Series, profile: Profile) -> Vec<(Option<usize>, f64)> {
    let most = sigmoid(-1.0);
    let (mut out, mut before, mut next) = (Vec::new(), None::<(usize, f64)>, 0);
    for i in 0..series.values.len() {
        match series.windows.get(next) {
            Some((left, right)) if i >= *left => {
                let width = (right - left + 1) as f64;
                out.push((Some(next), sigmoid(-((right - i + 1) as f64) / width) / most));
                if i == *right {
                    (before, next) = (Some((*right, width)), next + 1);
                }
            }
            _ => {
                let cost = before.map_or(-1.0, |(right, width)| sigmoid((i - right) as f64 / (width - 1.0)));
                out.push((None, cost * profile.false_alarm));
            }
        }
    }
    out
}

/// Detections of one series, one score for each value.
pub(crate) type Scores = Vec<f64>;

/// The best threshold over these series, and the score with it.
pub(crate) fn tune(all: &[Series], scores: &[Scores], of: &[usize], profile: Profile) -> (f64, f64) {
    let (mut points, mut windows) = (Vec::new(), 0);
    for at in of {
        let series = &all[*at];
        let worth = worth(series, profile);
        let counted = (series.probation()..series.values.len()).map(|i| (scores[*at][i], worth[i].0.map(|w| windows + w), worth[i].1));
        points.extend(counted);
        windows += series.windows.len();
    }
    points.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut found: Vec<Option<f64>> = vec![None; windows];
    let mut raw = -profile.miss * windows as f64;
    let (mut best, mut i) = ((f64::INFINITY, raw), 0);
    while i < points.len() {
        let threshold = points[i].0;
        while let Some((_, window, worth)) = points.get(i).filter(|point| point.0 >= threshold) {
            match window {
                None => raw += worth,
                Some(window) => {
                    let had = found[*window];
                    if had.is_none_or(|had| *worth > had) {
                        raw += worth - had.unwrap_or(-profile.miss);
                        found[*window] = Some(*worth);
                    }
                }
            }
            i += 1;
        }
        if raw > best.1 {
            best = (threshold, raw);
        }
    }
    (best.0, normal(best.1, windows, profile))
}

/// The score of these series with a threshold that was found elsewhere.
pub(crate) fn score(all: &[Series], scores: &[Scores], of: &[usize], profile: Profile, threshold: f64) -> f64 {
    let (mut raw, mut windows) = (0.0, 0);
    for at in of {
        let series = &all[*at];
        let mut found: Vec<Option<f64>> = vec![None; series.windows.len()];
        for (i, (window, worth)) in worth(series, profile).into_iter().enumerate().skip(series.probation()) {
            if scores[*at][i] >= threshold {
                match window {
                    None => raw += worth,
                    Some(window) => found[window] = Some(found[window].map_or(worth, |had: f64| had.max(worth))),
                }
            }
        }
        windows += found.len();
        raw += found.into_iter().map(|found| found.unwrap_or(-profile.miss)).sum::<f64>();
    }
    normal(raw, windows, profile)
}

/// 0 for silence, 100 for the first value of every window and nothing else.
fn normal(raw: f64, windows: usize, profile: Profile) -> f64 {
    let silence = -profile.miss * windows as f64;
    100.0 * (raw - silence) / (windows as f64 - silence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hundred() -> Vec<Series> {
        let values = vec![0.0; 100];
        vec![Series { name: "x".into(), times: (0..100).collect(), values, windows: vec![(40, 49), (70, 79)] }]
    }

    fn scored(detections: &[usize], profile: Profile) -> f64 {
        let scores = vec![(0..100).map(|i| f64::from(u8::from(detections.contains(&i)))).collect()];
        score(&hundred(), &scores, &[0], profile, 0.5)
    }

    #[test]
    fn silence_is_0_and_the_first_value_of_every_window_is_100() {
        assert!(scored(&[], PROFILES[0]).abs() < 1e-9);
        assert!((scored(&[40, 70], PROFILES[0]) - 100.0).abs() < 1e-9);
        assert!((scored(&[40, 41, 49, 70, 75], PROFILES[2]) - 100.0).abs() < 1e-9, "only the earliest of a window counts");
        assert!(scored(&[3, 14], PROFILES[0]).abs() < 1e-9, "nothing counts in the first 15 of 100");
    }

    #[test]
    fn a_late_detection_a_miss_and_a_false_alarm_are_worth_what_they_are_by_hand() {
        // In the middle of the first window: position -5/10, (2/(1+e^-2.5)-1)/(2/(1+e^-5)-1) = 0.848284/0.986614 = 0.859793; the other is missed.
        let expected = 100.0 * (0.859_793 - 1.0 + 2.0) / 4.0;
        assert!((scored(&[45], PROFILES[0]) - expected).abs() < 1e-3, "{}", scored(&[45], PROFILES[0]));
        // Before any window a false alarm costs 0.11 whole; 3 past a window of 10 it is 2/(1+e^(5*3/9))-1 = -0.682277 of that.
        let whole = 100.0 * (2.0 - 0.11 + 2.0) / 4.0;
        assert!((scored(&[20, 40, 70], PROFILES[0]) - whole).abs() < 1e-6);
        let near = 100.0 * (2.0 - 0.682_277 * 0.22 + 2.0) / 4.0;
        assert!((scored(&[40, 52, 70], PROFILES[1]) - near).abs() < 1e-3, "{}", scored(&[40, 52, 70], PROFILES[1]));
        // A miss costs twice in the last profile, and so does silence.
        assert!((scored(&[40], PROFILES[2]) - 100.0 * (1.0 - 2.0 + 4.0) / 6.0).abs() < 1e-6);
    }

    #[test]
    fn the_best_threshold_is_found() {
        let mut scores = vec![0.0; 100];
        for (at, score) in [(40, 0.9), (70, 0.8), (20, 0.7), (25, 0.6)] {
            scores[at] = score;
        }
        let (threshold, best) = tune(&hundred(), &[scores.clone()], &[0], PROFILES[0]);
        assert!((threshold - 0.8).abs() < 1e-9 && (best - 100.0).abs() < 1e-9);
        assert!((score(&hundred(), &[scores], &[0], PROFILES[0], threshold) - best).abs() < 1e-9);
    }
}
