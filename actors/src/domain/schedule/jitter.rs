//! Spreading tasks that are due at the same moment. Asked by the timer: a slot keeps its nominal time, which is its identity; only the
//! start is later by the jitter.

use chrono::TimeDelta;

/// By how much a task starts after its slots: at least 0 and less than `max_s` seconds, in whole milliseconds, always the same for a
/// name. It is taken from the SHA-256 of the name (its first eight bytes, big-endian, as a fraction of 2^64), so it is the same in every
/// process, on every node and in every version, and a larger `max_s` only stretches it.
pub fn jitter(task: &str, max_s: u32) -> TimeDelta {
    let digest = ring::digest::digest(&ring::digest::SHA256, task.as_bytes());
    let hash = digest.as_ref().iter().take(8).fold(0u64, |hash, byte| hash << 8 | u64::from(*byte));
    let milliseconds = (u128::from(hash) * u128::from(max_s) * 1000) >> 64;
    TimeDelta::milliseconds(i64::try_from(milliseconds).expect("less than 2^32 seconds"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_jitter_of_a_name_never_changes() {
        // Figures computed outside of this program: a change of them would move every task of every installation.
        let cases = [("heartbeat", 60, 25_108), ("daily_backup", 60, 31_330), ("", 3600, 3_201_897)];
        for (task, max_s, expected) in cases {
            assert_eq!(jitter(task, max_s).num_milliseconds(), expected, "{task} {max_s}");
        }
        assert_eq!(jitter("heartbeat", 0), TimeDelta::zero());
    }

    #[test]
    fn names_are_spread_over_the_whole_of_it() {
        let mut quarters = [0; 4];
        for n in 0..1000 {
            quarters[usize::try_from(jitter(&format!("task_{n}"), 60).num_milliseconds() / 15_000).unwrap()] += 1;
        }
        assert!(quarters.iter().all(|count| (200..300).contains(count)), "{quarters:?}");
    }

    proptest! {
        #[test]
        fn it_stays_inside_and_stretches_with_the_limit(task in "\\PC{0,30}", max_s: u32) {
            let jitter_ms = jitter(&task, max_s).num_milliseconds();
            prop_assert!(jitter_ms >= 0 && (jitter_ms < i64::from(max_s) * 1000 || max_s == 0));
            prop_assert!(jitter(&task, max_s / 2) <= jitter(&task, max_s));
        }
    }
}
