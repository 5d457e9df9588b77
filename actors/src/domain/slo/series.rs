//! The counters of one service level indicator, minute by minute, as running sums: any window costs two look-ups, so that every closed
//! minute since the last evaluation can be replayed. Built by `burn.rs` only.

use super::{Minute, Objective};

/// Bad and total events of minutes `start..start + len`.
pub(super) struct Series {
    start: i64,
    /// (bad, total) of all minutes before index `i`.
    sums: Vec<(u64, u64)>,
    first_seen: Option<i64>,
    observed: u64,
}

impl Series {
    /// `pick` turns a minute into (bad, total). Minutes outside [from, to) are ignored; several rows of one minute add up.
    pub(super) fn new<'a>(minutes: impl IntoIterator<Item = &'a Minute>, from: i64, to: i64, pick: impl Fn(&Minute) -> (u64, u64)) -> Self {
        let len = usize::try_from(to.saturating_sub(from)).unwrap_or(0);
        let mut cells: Vec<Option<(u64, u64)>> = vec![None; len];
        for minute in minutes {
            let Some(cell) = usize::try_from(minute.minute.saturating_sub(from)).ok().and_then(|at| cells.get_mut(at)) else { continue };
            let (bad, total) = pick(minute);
            let (b, t) = cell.unwrap_or((0, 0));
            *cell = Some((b.saturating_add(bad), t.saturating_add(total)));
        }
        let first_seen = cells.iter().position(Option::is_some).and_then(|at| from.checked_add_unsigned(at as u64));
        let observed = cells.iter().flatten().count() as u64;
        let mut sums = Vec::with_capacity(len + 1);
        sums.push((0u64, 0u64));
        for cell in cells {
            let (bad, total) = sums[sums.len() - 1];
            let (b, t) = cell.unwrap_or((0, 0));
            sums.push((bad.saturating_add(b), total.saturating_add(t)));
        }
        Self { start: from, sums, first_seen, observed }
    }

    /// (bad, total) of the `window` minutes before `end`, which itself is not in it. What lies outside the series counts as nothing.
    pub(super) fn window(&self, end: i64, window: i64) -> (u64, u64) {
        let last = self.sums.len() - 1;
        let index = |minute: i64| usize::try_from(minute.saturating_sub(self.start)).unwrap_or(0).min(last);
        let ((b1, t1), (b2, t2)) = (self.sums[index(end.saturating_sub(window))], self.sums[index(end)]);
        (b2 - b1, t2 - t1)
    }

    /// The first minute that was observed.
    pub(super) fn first_seen(&self) -> Option<i64> {
        self.first_seen
    }

    /// Minutes that were observed / minutes of the series, 0..1.
    pub(super) fn coverage(&self) -> f64 {
        let len = self.sums.len() - 1;
        if len == 0 { 0.0 } else { self.observed as f64 / len as f64 }
    }
}

/// Which counters an objective is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Indicator {
    Availability,
    Latency,
}

impl Indicator {
    pub(super) const ALL: [Self; 2] = [Self::Availability, Self::Latency];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Availability => "availability",
            Self::Latency => "latency",
        }
    }

    pub(super) fn counters(self, minute: &Minute) -> (u64, u64) {
        match self {
            Self::Availability => (minute.bad, minute.total),
            Self::Latency => (minute.slow, minute.succeeded()),
        }
    }

    pub(super) fn budget_ppm(self, objective: &Objective) -> u64 {
        match self {
            Self::Availability => objective.error_budget_ppm(),
            Self::Latency => objective.slow_budget_ppm(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_window_is_the_sum_of_its_minutes(
            rows in prop::collection::vec((0i64..60, 0u64..9, 0u64..9), 0..80), end in -5i64..70, window in 0i64..80,
        ) {
            let minutes: Vec<Minute> = rows.iter().map(|(minute, bad, more)| Minute { minute: *minute, bad: *bad, total: bad + more, ..Minute::default() }).collect();
            let series = Series::new(&minutes, 10, 50, |m| Indicator::Availability.counters(m));
            let inside = |m: &&Minute| (10..50).contains(&m.minute) && m.minute < end && m.minute >= end - window;
            let expected = minutes.iter().filter(inside).fold((0, 0), |(bad, total), m| (bad + m.bad, total + m.total));
            prop_assert_eq!(series.window(end, window), expected);
        }
    }
}
