//! Counts of rare things: how likely so many are if so many were expected. Called for low counts, where a distance in deviations says
//! nothing, by the sentinel and for the rate of log templates.

/// The probability of `k` or more events where `expected` are expected.
pub fn at_least(k: u64, expected: f64) -> f64 {
    if k == 0 {
        return 1.0;
    }
    if expected <= 0.0 || expected.is_nan() {
        return 0.0;
    }
    let k = k as f64;
    if k <= expected {
        return 1.0 - below(k, expected);
    }
    // Above the mean the terms fall off quickly: they are added up from `k` on, so that a tiny tail keeps its digits.
    let mut term = (k * expected.ln() - expected - ln_factorial(k)).exp();
    let (mut sum, mut next) = (0.0, k);
    while term > sum * 1e-15 && term > 0.0 {
        sum += term;
        next += 1.0;
        term *= expected / next;
    }
    f64::min(sum, 1.0)
}

/// The probability of fewer than `k`, for `k` up to the mean.
fn below(k: f64, expected: f64) -> f64 {
    let (mut sum, mut at) = (0.0, k - 1.0);
    let mut term = (at * expected.ln() - expected - ln_factorial(at)).exp();
    while at >= 0.0 && term > sum * 1e-15 && term > 0.0 {
        sum += term;
        term *= at / expected;
        at -= 1.0;
    }
    sum
}

/// Stirling's series from 10 on, exact below.
fn ln_factorial(n: f64) -> f64 {
    if n < 10.0 {
        let (mut product, mut i) = (1.0, 2.0);
        while i <= n {
            product *= i;
            i += 1.0;
        }
        return product.ln();
    }
    n * n.ln() - n + 0.5 * (std::f64::consts::TAU * n).ln() + 1.0 / (12.0 * n) - 1.0 / (360.0 * n.powi(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_those_of_the_tables() {
        // Summed in double precision from the definition.
        for (k, expected, tail) in [
            (1, 1.0, 0.632_120_558_828_557_7),
            (5, 1.0, 0.003_659_846_827_343_713),
            (10, 2.0, 4.649_807_501_726_381e-5),
            (30, 10.0, 2.509_951_201_527_92e-7),
            (3, 10.0, 0.997_230_604_284_488_4),
            (100, 100.0, 0.513_298_798_279_2),
        ] {
            let found = at_least(k, expected);
            assert!((found / tail - 1.0).abs() < 1e-4, "{k} of {expected}: {found:e} against {tail:e}");
        }
        assert_eq!((at_least(0, 3.0).to_bits(), at_least(2, 0.0).to_bits()), (1.0f64.to_bits(), 0.0f64.to_bits()));
        assert!(at_least(1000, 10.0) > 0.0 || at_least(1000, 10.0).to_bits() == 0);
    }
}
