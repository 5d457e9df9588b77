//! How much an archive may contain before it is taken for an attack on the disk. Checked while reading, not only at the end.

/// What deflate can expand to at most: more is a forged figure.
pub const DEFLATE_MAX_RATIO: u64 = 1032;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub max_entries: u64,
    /// Bytes of all files together.
    pub max_total_bytes: u64,
    /// Bytes out for one byte in.
    pub max_ratio: u64,
}

impl Default for Limits {
    /// Ten million entries, 1 TiB, the ratio of deflate.
    fn default() -> Self {
        Self { max_entries: 10_000_000, max_total_bytes: 1 << 40, max_ratio: DEFLATE_MAX_RATIO }
    }
}

impl Limits {
    /// Checks what was read so far: `compressed` bytes in, `uncompressed` bytes out, `entries` members. The sentence of the error has
    /// the numbers.
    pub fn check(&self, compressed: u64, uncompressed: u64, entries: u64) -> Result<(), String> {
        if entries > self.max_entries {
            return Err(format!("{entries} entries are more than the {} allowed", self.max_entries));
        }
        if uncompressed > self.max_total_bytes {
            return Err(format!("{uncompressed} bytes are more than the {} allowed", self.max_total_bytes));
        }
        if u128::from(uncompressed) > u128::from(compressed) * u128::from(self.max_ratio) {
            return Err(format!("{uncompressed} bytes out of {compressed} are more than {} to 1", self.max_ratio));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_at_the_edge() {
        let limits = Limits { max_entries: 10, max_total_bytes: 1_000_000, max_ratio: DEFLATE_MAX_RATIO };
        let cases = [
            ((0, 0, 0), true),
            ((1000, 1_000_000, 10), true),
            ((1000, 1_000_001, 10), false),
            ((1000, 1_000, 11), false),
            ((100, 103_200, 1), true),
            ((100, 103_201, 1), false),
            ((u64::MAX, 5, 1), true),
        ];
        for ((compressed, uncompressed, entries), fine) in cases {
            assert_eq!(limits.check(compressed, uncompressed, entries).is_ok(), fine, "{compressed} {uncompressed} {entries}");
        }
    }
}
