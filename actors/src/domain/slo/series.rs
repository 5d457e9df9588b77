//! The counters of one service level indicator, minute by minute, as running sums: any window costs two look-ups, so that every closed
//! minute since the last evaluation can be replayed. Built by `burn.rs` only.

use super::{Counts, Level, PPM, level::Slices};

/// Bad and total events of minutes `start..start + len`.
pub(super) struct Series {
    start: i64,
    /// (bad, total) of all minutes before index `i`.
    sums: Vec<(u64, u64)>,
    first_seen: Option<i64>,
    observed: u64,
}

impl Series {
    /// `pick` turns a minute into (bad, total). Minutes outside [from, to) are ignored; several rows of one minute add up. With slices
    /// each whole slice with events is one event, at its last minute.
    pub(super) fn new(
        minutes: impl IntoIterator<Item = Counts>,
        from: i64,
        to: i64,
        slices: Option<Slices>,
        pick: impl Fn(&Counts) -> (u64, u64),
    ) -> Self {
        let len = usize::try_from(to.saturating_sub(from)).unwrap_or(0);
        let mut cells: Vec<Option<(u64, u64)>> = vec![None; len];
        for minute in minutes {
            let Some(cell) = usize::try_from(minute.minute.saturating_sub(from)).ok().and_then(|at| cells.get_mut(at)) else { continue };
            let (bad, total) = pick(&minute);
            let (b, t) = cell.unwrap_or((0, 0));
            *cell = Some((b.saturating_add(bad), t.saturating_add(total)));
        }
        let first_seen = cells.iter().position(Option::is_some).and_then(|at| from.checked_add_unsigned(at as u64));
        let observed = cells.iter().flatten().count() as u64;
        if let Some(slices) = slices {
            cut(&mut cells, from, slices);
        }
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
        (b2.saturating_sub(b1), t2.saturating_sub(t1))
    }

    /// The first minute that the series can tell about.
    pub(super) fn start(&self) -> i64 {
        self.start
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

/// Replaces the minutes by one event for each whole slice that has any. Slices begin at multiples of their length, whatever the series does.
fn cut(cells: &mut [Option<(u64, u64)>], from: i64, slices: Slices) {
    let length = usize::try_from(slices.minutes).unwrap_or(1).max(1);
    let skip = usize::try_from((-from).rem_euclid(slices.minutes.max(1))).unwrap_or(0).min(cells.len());
    let (before, whole) = cells.split_at_mut(skip);
    before.fill(None);
    for slice in whole.chunks_mut(length) {
        let (bad, total) =
            slice.iter().flatten().fold((0u64, 0u64), |(b, t), (bad, total)| (b.saturating_add(*bad), t.saturating_add(*total)));
        let whole = slice.len() == length && total > 0;
        let good = u128::from(total.saturating_sub(bad)) * u128::from(PPM) >= u128::from(slices.share_ppm) * u128::from(total);
        slice.fill(None);
        if let Some(last) = slice.last_mut().filter(|_| whole) {
            *last = Some((u64::from(!good), 1));
        }
    }
}

/// Which counters an objective is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Indicator {
    Availability,
    Latency,
}

impl Indicator {
    /// What the level promises.
    pub(super) fn of(level: &Level) -> Vec<Self> {
        let promised = [(Self::Availability, level.success_ppm.is_some()), (Self::Latency, level.latency.is_some())];
        promised.into_iter().filter(|(_, is_promised)| *is_promised).map(|(indicator, _)| indicator).collect()
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Availability => "availability",
            Self::Latency => "latency",
        }
    }

    pub(super) fn counters(self, minute: &Counts) -> (u64, u64) {
        match self {
            Self::Availability => (minute.bad, minute.total),
            Self::Latency => (minute.slow, minute.succeeded()),
        }
    }

    pub(super) fn budget_ppm(self, level: &Level) -> u64 {
        let share = match self {
            Self::Availability => level.success_ppm,
            Self::Latency => level.latency.map(|latency| latency.share_ppm),
        };
        PPM.saturating_sub(share.unwrap_or(PPM))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_slice_is_one_event_at_its_last_minute_and_an_unfinished_one_is_none() {
        let minutes = [(10, 1, 100), (13, 0, 1), (14, 1, 1), (15, 0, 50), (20, 9, 9)].map(|(minute, bad, total)| Counts {
            minute,
            bad,
            total,
            slow: 0,
        });
        let slices = Slices { minutes: 5, share_ppm: 980_000 };
        let series = Series::new(minutes, 8, 22, Some(slices), |m| (m.bad, m.total));
        // [10, 15) has 2 bad of 102: exactly 98.04 % good. [15, 20) is good. [20, 25) has not ended.
        assert_eq!(
            (series.window(14, 100), series.window(15, 100), series.window(20, 100), series.window(22, 100)),
            ((0, 0), (0, 1), (0, 2), (0, 2))
        );
        let strict = Series::new(minutes, 8, 22, Some(Slices { share_ppm: 981_000, ..slices }), |m| (m.bad, m.total));
        assert_eq!(strict.window(22, 100), (1, 2));
    }

    proptest! {
        #[test]
        fn a_window_is_the_sum_of_its_minutes(
            rows in prop::collection::vec((0i64..60, 0u64..9, 0u64..9), 0..80), end in -5i64..70, window in 0i64..80,
        ) {
            let minutes: Vec<Counts> = rows.iter().map(|(minute, bad, more)| Counts { minute: *minute, bad: *bad, total: bad + more, slow: 0 }).collect();
            let series = Series::new(minutes.iter().copied(), 10, 50, None, |m| Indicator::Availability.counters(m));
            let inside = |m: &&Counts| (10..50).contains(&m.minute) && m.minute < end && m.minute >= end - window;
            let expected = minutes.iter().filter(inside).fold((0, 0), |(bad, total), m| (bad + m.bad, total + m.total));
            prop_assert_eq!(series.window(end, window), expected);
        }
    }
}
