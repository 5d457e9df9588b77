//! Whether a value is unlike its recent past: distance from the median in robust standard deviations. Used by `ops_sentinel` beside the
//! fixed limits. The caller leaves points under an open incident out of the series, else the baseline learns the outage.

/// Fewer values than this say nothing.
pub const WARM_UP: usize = 30;
/// Robust standard deviations that are still ordinary.
const LIMIT: f64 = 4.0;
/// Makes the median absolute deviation comparable to a standard deviation.
const MAD_TO_SIGMA: f64 = 1.4826;

/// Why `value` is unusual for `series` (any order; values that are not finite are ignored), or `None`. The scale is never taken smaller than 1 %
/// of the median and `quantum`, the least difference that matters in the metric's unit (5 for a percentage): a flat series has no spread.
pub fn anomaly(series: &[f64], value: f64, quantum: f64) -> Option<String> {
    let mut known: Vec<f64> = series.iter().copied().filter(|v| v.is_finite()).collect();
    if known.len() < WARM_UP || !value.is_finite() {
        return None;
    }
    let median = median(&mut known);
    let mut deviations: Vec<f64> = known.iter().map(|v| (v - median).abs()).collect();
    let spread = MAD_TO_SIGMA * self::median(&mut deviations);
    let scale = spread.max(median.abs() / 100.0).max(quantum).max(f64::MIN_POSITIVE);
    let distance = (value - median) / scale;
    let n = known.len();
    (distance.abs() > LIMIT).then(|| {
        let direction = if distance > 0.0 { "above" } else { "below" };
        format!("{value:.2} is {:.1} deviations {direction} the median {median:.2} of the last {n} values", distance.abs())
    })
}

/// The lower median of a non-empty list; reorders it.
fn median(values: &mut [f64]) -> f64 {
    let middle = (values.len() - 1) / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wave(n: u32) -> Vec<f64> {
        (0..n).map(|i| 40.0 + f64::from(i % 7)).collect()
    }

    #[test]
    fn only_what_is_far_from_the_recent_past_is_reported() {
        let flat = vec![10.0; 100];
        let with_outliers: Vec<f64> = [wave(90), vec![1e9; 10]].concat();
        let cases = [
            (wave(100), 46.0, 1.0, false),
            (wave(100), 55.0, 1.0, true),
            (wave(100), 20.0, 1.0, true),
            (wave(100), 55.0, 5.0, false),
            (wave(29), 1e9, 1.0, false),
            (flat.clone(), 10.3, 0.0, false),
            (flat.clone(), 10.5, 0.0, true),
            (flat, 12.0, 1.0, false),
            (with_outliers, 90.0, 1.0, true),
            (vec![0.0; 50], 0.0, 0.0, false),
            (vec![f64::NAN; 50], 1.0, 0.0, false),
            (wave(100), f64::NAN, 0.0, false),
        ];
        for (series, value, quantum, unusual) in cases {
            let reason = anomaly(&series, value, quantum);
            assert_eq!(reason.is_some(), unusual, "{value} with quantum {quantum}: {reason:?}");
        }
        assert_eq!(anomaly(&vec![10.0; 50], 30.0, 1.0).unwrap(), "30.00 is 20.0 deviations above the median 10.00 of the last 50 values");
    }

    proptest! {
        #[test]
        fn the_median_is_the_middle_of_the_sorted_list(values in prop::collection::vec(-1e6f64..1e6, 1..60)) {
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            prop_assert_eq!(median(&mut values.clone()).to_bits(), sorted[(sorted.len() - 1) / 2].to_bits());
        }
    }
}
