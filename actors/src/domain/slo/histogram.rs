//! Latencies in fixed logarithmic buckets: merging is adding integers, so it is commutative and survives a restart bit for bit, and every
//! percentile is within half a percent of a measured value. Kept per minute by the slo actor, stored as a few hundred bytes.

/// The relative error of every quantile for values from 1 microsecond to 1 hour.
pub const ERROR_BOUND: f64 = 0.005;

const GAMMA: f64 = (1.0 + ERROR_BOUND) / (1.0 - ERROR_BOUND);
const LARGEST_US: u64 = 3_600_000_000;
/// Indices 0 (up to 1 us) to 2201 (1 h and more).
const BUCKETS: u32 = 2202;
const VERSION: u8 = 1;

/// Counters per bucket: bucket `i` holds values in (g^(i-1), g^i] microseconds with g = 1.005 / 0.995 (the index of DDSketch).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// (bucket, count), by bucket, counts above zero.
    counts: Vec<(u32, u64)>,
    count: u64,
}

impl Histogram {
    pub fn new() -> Self {
        Self::default()
    }

    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds one value in microseconds. Less than 1 us counts as 1 us, more than an hour as an hour.
    pub fn record(&mut self, us: u64) {
        self.add(index(us), 1);
    }

    /// Adds the same value `n` times.
    pub fn record_many(&mut self, us: u64, n: u64) {
        if n > 0 {
            self.add(index(us), n);
        }
    }

    fn add(&mut self, bucket: u32, n: u64) {
        match self.counts.binary_search_by_key(&bucket, |(b, _)| *b) {
            Ok(at) => self.counts[at].1 = self.counts[at].1.saturating_add(n),
            Err(at) => self.counts.insert(at, (bucket, n)),
        }
        self.count = self.count.saturating_add(n);
    }

    /// Adds all values of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, n) in &other.counts {
            self.add(*bucket, *n);
        }
    }

    /// The nearest-rank quantile in microseconds: the value with rank ceil(share * n), off by at most [`ERROR_BOUND`]. `share_ppm` in parts
    /// per million (950 000 = p95); `None` when nothing was recorded.
    pub fn quantile_us(&self, share_ppm: u64) -> Option<f64> {
        let rank = rank(self.count, share_ppm)?;
        let mut below = 0u64;
        let (bucket, _) = self.counts.iter().find(|(_, n)| {
            below = below.saturating_add(*n);
            below >= rank
        })?;
        Some(value_us(*bucket))
    }

    /// [`quantile_us`](Self::quantile_us) in milliseconds, rounded to a microsecond: what is shown.
    pub fn quantile_ms(&self, share_ppm: u64) -> Option<f64> {
        self.quantile_us(share_ppm).map(|us| us.round() / 1000.0)
    }

    /// A version byte, then (bucket difference, count) as LEB128 pairs. Nothing recorded is the version byte alone.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        let mut previous = 0;
        for (bucket, n) in &self.counts {
            put(&mut bytes, u64::from(bucket - previous));
            put(&mut bytes, *n);
            previous = *bucket;
        }
        bytes
    }

    /// The inverse of [`encode`](Self::encode). The error says what is wrong with the bytes; no bytes make it panic.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let Some((&VERSION, mut rest)) = bytes.split_first() else {
            return Err("histogram: empty or of an unknown version".to_owned());
        };
        let mut histogram = Self::default();
        let mut bucket = 0u32;
        while !rest.is_empty() {
            let step = u32::try_from(take(&mut rest)?).map_err(|_| "histogram: bucket out of range")?;
            let n = take(&mut rest)?;
            let first = histogram.counts.is_empty();
            bucket = bucket.checked_add(step).filter(|b| *b < BUCKETS).ok_or("histogram: bucket out of range")?;
            if n == 0 || (step == 0 && !first) {
                return Err("histogram: an empty or repeated bucket".to_owned());
            }
            histogram.count = histogram.count.checked_add(n).ok_or("histogram: more values than can be counted")?;
            histogram.counts.push((bucket, n));
        }
        Ok(histogram)
    }
}

/// ceil(share * n), at least 1; `None` for n = 0.
fn rank(n: u64, share_ppm: u64) -> Option<u64> {
    if n == 0 {
        return None;
    }
    let exact = (u128::from(n) * u128::from(share_ppm.min(super::PPM))).div_ceil(u128::from(super::PPM));
    Some(u64::try_from(exact).expect("a share of at most one").max(1))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 2201")]
fn index(us: u64) -> u32 {
    let us = us.clamp(1, LARGEST_US) as f64;
    ((us.ln() / GAMMA.ln()).ceil() as u32).min(BUCKETS - 1)
}

/// The value that is within the error bound of everything in the bucket.
fn value_us(bucket: u32) -> f64 {
    if bucket == 0 {
        return 1.0;
    }
    2.0 * (f64::from(bucket) * GAMMA.ln()).exp() / (GAMMA + 1.0)
}

pub(super) fn put(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push((value & 0x7f) as u8);
}

pub(super) fn take(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or("histogram: cut short")?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            break;
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("histogram: a number of more than 64 bits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::new();
        values.iter().copied().for_each(|us| histogram.record(us));
        histogram
    }

    #[test]
    fn the_range_has_exactly_the_documented_buckets() {
        assert_eq!((index(0), index(1), index(LARGEST_US), index(u64::MAX)), (0, 0, BUCKETS - 1, BUCKETS - 1));
        assert_eq!((index(2), index(1_000), index(1_000_000)), (70, 691, 1382));
    }

    #[test]
    fn the_rank_is_the_nearest_one_without_float_noise() {
        let cases =
            [(1, 950_000, 1), (20, 950_000, 19), (21, 950_000, 20), (100, 70_000, 7), (100, 950_000, 95), (3, 0, 1), (3, 1_000_000, 3)];
        for (n, ppm, expected) in cases {
            assert_eq!(rank(n, ppm), Some(expected), "{n} at {ppm} ppm");
        }
        assert_eq!(rank(0, 500_000), None);
    }

    #[test]
    fn nothing_recorded_has_no_quantile() {
        assert_eq!(Histogram::new().quantile_ms(950_000), None);
        assert_eq!(Histogram::decode(&Histogram::new().encode()), Ok(Histogram::new()));
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let cases: [&[u8]; 8] = [
            &[],
            &[2],
            &[1, 5],
            &[1, 5, 0],
            &[1, 5, 1, 0, 1],
            &[1, 0x9a, 0x11, 1],
            &[1, 0x80],
            &[1, 1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2],
        ];
        for bytes in cases {
            assert!(Histogram::decode(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_busy_minute_takes_few_bytes() {
        let values: Vec<u64> = (0..1000u64).map(|n| 20_000 + n * n).collect();
        assert!(of(&values).encode().len() < 1200);
    }

    proptest! {
        #[test]
        fn every_quantile_is_within_the_bound_of_the_exact_one(values in prop::collection::vec(1u64..=LARGEST_US, 1..200), ppm in 0u64..=1_000_000) {
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let exact = sorted[usize::try_from(rank(values.len() as u64, ppm).unwrap()).unwrap() - 1] as f64;
            let shown = of(&values).quantile_us(ppm).unwrap();
            prop_assert!((shown - exact).abs() <= exact * ERROR_BOUND * (1.0 + 1e-9), "{shown} for {exact}");
        }

        #[test]
        fn small_values_are_within_the_bound_too(us in 1u64..5000) {
            let shown = of(&[us]).quantile_us(500_000).unwrap();
            prop_assert!((shown - us as f64).abs() <= us as f64 * ERROR_BOUND * (1.0 + 1e-9));
        }

        #[test]
        fn merging_is_commutative_and_equals_recording_everything(a in prop::collection::vec(any::<u64>(), 0..60), b in prop::collection::vec(1u64..100_000, 0..60)) {
            let (mut ab, mut ba) = (of(&a), of(&b));
            ab.merge(&of(&b));
            ba.merge(&of(&a));
            prop_assert_eq!(&ab, &ba);
            prop_assert_eq!(ab, of(&[a, b].concat()));
        }

        #[test]
        fn encoding_loses_nothing(values in prop::collection::vec(any::<u64>(), 0..200)) {
            let histogram = of(&values);
            prop_assert_eq!(Histogram::decode(&histogram.encode()), Ok(histogram));
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(histogram) = Histogram::decode(&bytes) {
                prop_assert_eq!(histogram.quantile_us(500_000).is_some(), histogram.count() > 0);
            }
        }
    }
}
