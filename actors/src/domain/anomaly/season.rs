//! What is usual at this time: the same half hour of other weeks, or of other days while there are not enough weeks. Called by `mod.rs`
//! with half-hour means that the sentinel keeps for four weeks.

use std::{cell::RefCell, collections::BTreeMap};

use super::robust::median;

/// Seconds of a half hour; its number is the Unix time divided by this.
pub const HALF_HOUR_S: i64 = 1800;
const PER_DAY: i64 = 48;
const PER_WEEK: i64 = 7 * PER_DAY;
/// Fewer other days or weeks than this say nothing about a season.
const LEAST: usize = 3;
const DAYS: i64 = 14;
const WEEKS: i64 = 4;

/// Means of half hours, by number.
#[derive(Clone, Debug, Default)]
pub struct Season {
    means: BTreeMap<i64, f64>,
    /// What was asked for already: a day's samples ask for the same 48.
    usual: RefCell<BTreeMap<i64, Option<f64>>>,
}

impl Season {
    pub fn new(means: BTreeMap<i64, f64>) -> Self {
        Self { means, usual: RefCell::default() }
    }

    /// What is usual at `at` (Unix seconds), from before it only.
    pub fn usual(&self, at: i64) -> Option<f64> {
        let half_hour = at.div_euclid(HALF_HOUR_S);
        *self.usual.borrow_mut().entry(half_hour).or_insert_with(|| {
            let before = |step: i64, times: i64| -> Vec<f64> {
                (1..=times).filter_map(|n| self.means.get(&(half_hour - n * step)).copied()).collect()
            };
            let mut weeks = before(PER_WEEK, WEEKS);
            if weeks.len() >= LEAST {
                return Some(median(&mut weeks));
            }
            let mut days = before(PER_DAY, DAYS);
            (days.len() >= LEAST).then(|| median(&mut days))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_half_hour_of_other_weeks_counts_before_that_of_other_days() {
        let days = |n: i64| -> BTreeMap<i64, f64> {
            // Busy at every noon, and most of all on the first day of the week.
            (1..=n * PER_DAY)
                .map(|back| {
                    let half_hour = 100_000 - back;
                    let noon = half_hour % PER_DAY == 100_000 % PER_DAY;
                    let monday = back % PER_WEEK == 0;
                    (
                        half_hour,
                        if monday {
                            90.0
                        } else if noon {
                            50.0
                        } else {
                            10.0
                        },
                    )
                })
                .collect()
        };
        let at = 100_000 * HALF_HOUR_S + 7;
        assert_eq!(Season::new(days(2)).usual(at), None);
        assert_eq!(Season::new(days(4)).usual(at), Some(50.0));
        assert_eq!(Season::new(days(4)).usual(at + HALF_HOUR_S), Some(10.0));
        assert_eq!(Season::new(days(22)).usual(at), Some(90.0));
    }
}
