//! Distances that a few wild values do not spoil: from the median in median absolute deviations, and from a fading mean. Called by `mod.rs`
//! for every sample. The scale is never smaller than what matters in the figure's unit: a flat series has no spread.

/// Makes the median absolute deviation comparable to a standard deviation.
const MAD_TO_SIGMA: f64 = 1.4826;
/// How much the newest value counts in the fading mean.
const ALPHA: f64 = 0.01;

/// The lower median of a non-empty list; reorders it.
pub fn median(values: &mut [f64]) -> f64 {
    let middle = (values.len() - 1) / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// Median and robust scale of values, at least `floor` and 1 % of the median; `None` of none.
pub fn center(values: &[f64], floor: f64) -> Option<(f64, f64)> {
    if values.is_empty() {
        return None;
    }
    let mut values = values.to_vec();
    let median = self::median(&mut values);
    for value in &mut values {
        *value = (*value - median).abs();
    }
    let spread = MAD_TO_SIGMA * self::median(&mut values);
    Some((median, spread.max(median.abs() / 100.0).max(floor).max(f64::MIN_POSITIVE)))
}

/// Fading mean and scale of values, oldest first, with the same least scale; `None` of none.
pub fn fading(values: &[f64], floor: f64) -> Option<(f64, f64)> {
    let (first, rest) = values.split_first()?;
    let (mut mean, mut variance) = (*first, 0.0);
    for (n, value) in rest.iter().enumerate() {
        // The first values are a plain mean: a fading one would cling to the very first.
        let alpha = ALPHA.max(1.0 / (n as f64 + 2.0));
        let off = value - mean;
        mean += alpha * off;
        variance = (1.0 - alpha) * (variance + alpha * off * off);
    }
    Some((mean, variance.sqrt().max(mean.abs() / 100.0).max(floor).max(f64::MIN_POSITIVE)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_flat_series_has_the_least_scale_and_outliers_do_not_move_the_median() {
        assert_eq!(center(&[10.0; 40], 0.0), Some((10.0, 0.1)));
        assert_eq!(center(&[10.0; 40], 5.0), Some((10.0, 5.0)));
        let wild: Vec<f64> = (0..90).map(|i| 40.0 + f64::from(i % 7)).chain([1e9; 10]).collect();
        let (median, scale) = center(&wild, 1.0).unwrap();
        assert!((40.0..46.0).contains(&median) && scale < 5.0, "{median} {scale}");
        assert_eq!(center(&[], 1.0), None);
        assert_eq!(fading(&[], 1.0), None);
        let (mean, _) = fading(&[10.0; 200], 1.0).unwrap();
        assert!((mean - 10.0).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn the_median_is_the_middle_of_the_sorted_list(values in prop::collection::vec(-1e6f64..1e6, 1..60)) {
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            prop_assert_eq!(median(&mut values.clone()).to_bits(), sorted[(sorted.len() - 1) / 2].to_bits());
        }

        #[test]
        fn the_fading_mean_lies_within_the_values(values in prop::collection::vec(-1e6f64..1e6, 1..300)) {
            let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
            let (mean, scale) = fading(&values, 0.0).unwrap();
            prop_assert!(mean >= low - 1e-6 && mean <= high + 1e-6 && scale > 0.0);
        }
    }
}
