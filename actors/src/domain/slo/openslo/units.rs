//! Lengths and shares as OpenSLO writes them, as what we count in. Called by the import only.

use crate::domain::slo::PPM;

/// `90m`, `24h`, `30d`, `4w` in minutes.
pub(super) fn minutes(text: &str) -> Option<i64> {
    let unit = text.chars().last()?;
    let n: i64 = text[..text.len() - unit.len_utf8()].parse().ok()?;
    let minutes = match unit {
        'm' => 1,
        'h' => 60,
        'd' => 1440,
        'w' => 10_080,
        _ => return None,
    };
    n.checked_mul(minutes)
}

/// A share in [0, 1) in ppm.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and a million")]
pub(super) fn ppm(share: f64) -> Option<u64> {
    (0.0..1.0).contains(&share).then(|| (share * PPM as f64).round() as u64)
}
