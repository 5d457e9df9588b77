//! All the minutes of one service in memory: counters packed hour by hour (a few bytes for each minute with events), latencies of the last
//! ones only. The slo actor holds one for each service, and the store keeps the same packed hours. Nothing is lost in packing: the minutes
//! that come out are those that went in.

use std::collections::BTreeMap;

use super::{
    Counts, Histogram, Minute,
    histogram::{put, take},
};

const VERSION: u8 = 1;
const HOUR: i64 = 60;

/// The hour that a minute belongs to, in hours since the Unix epoch.
pub fn hour_of(minute: i64) -> i64 {
    minute.div_euclid(HOUR)
}

/// The counters of one hour as bytes: a version, then (minute of the hour, total, bad, slow) of each minute with events.
pub fn pack(counts: &[Counts]) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    for c in counts {
        for value in [c.minute.rem_euclid(HOUR).unsigned_abs(), c.total, c.bad, c.slow] {
            put(&mut bytes, value);
        }
    }
    bytes
}

/// The inverse of [`pack`] for the hour of that number. The error says what is wrong with the bytes; no bytes make it panic.
pub fn unpack(hour: i64, bytes: &[u8]) -> Result<Vec<Counts>, String> {
    let Some((&VERSION, mut rest)) = bytes.split_first() else {
        return Err("counters of an hour: empty or of an unknown version".to_owned());
    };
    let mut counts: Vec<Counts> = Vec::new();
    while !rest.is_empty() {
        let offset = i64::try_from(take(&mut rest)?).ok().filter(|offset| *offset < HOUR);
        let offset = offset.ok_or("counters of an hour: a minute above 59")?;
        let (total, bad, slow) = (take(&mut rest)?, take(&mut rest)?, take(&mut rest)?);
        let minute = hour.saturating_mul(HOUR).saturating_add(offset);
        if counts.last().is_some_and(|last| last.minute >= minute) {
            return Err("counters of an hour: minutes are not in order".to_owned());
        }
        counts.push(Counts { minute, total, bad, slow });
    }
    Ok(counts)
}

/// The minutes of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Track {
    hours: BTreeMap<i64, Box<[u8]>>,
    latencies: BTreeMap<i64, Histogram>,
}

impl Track {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the events of a minute to what is known of it.
    pub fn add(&mut self, minute: &Minute) {
        let counts = minute.counts();
        let mut known = self.hour(hour_of(minute.minute));
        match known.binary_search_by_key(&minute.minute, |c| c.minute) {
            Ok(at) => {
                let sum = &mut known[at];
                sum.total = sum.total.saturating_add(counts.total);
                sum.bad = sum.bad.saturating_add(counts.bad);
                sum.slow = sum.slow.saturating_add(counts.slow);
            }
            Err(at) => known.insert(at, counts),
        }
        self.hours.insert(hour_of(minute.minute), pack(&known).into());
        if minute.latency.count() > 0 {
            self.latencies.entry(minute.minute).or_default().merge(&minute.latency);
        }
    }

    /// Takes over an hour as the store keeps it, instead of what is known of it.
    pub fn put_hour(&mut self, hour: i64, bytes: &[u8]) -> Result<(), String> {
        unpack(hour, bytes)?;
        self.hours.insert(hour, bytes.into());
        Ok(())
    }

    fn hour(&self, hour: i64) -> Vec<Counts> {
        // Only bytes that could be read were put in.
        self.hours.get(&hour).and_then(|bytes| unpack(hour, bytes).ok()).unwrap_or_default()
    }

    /// The counters of the minutes in [from, to), oldest first.
    pub fn counts(&self, from: i64, to: i64) -> impl Iterator<Item = Counts> + '_ {
        let hours = if from < to { hour_of(from)..hour_of(to).saturating_add(1) } else { 0..0 };
        let all = self.hours.range(hours).flat_map(|(hour, bytes)| unpack(*hour, bytes).unwrap_or_default());
        all.filter(move |c| c.minute >= from && c.minute < to)
    }

    /// The minutes in [from, to) with their latencies, as far as those are still here.
    pub fn minutes(&self, from: i64, to: i64) -> impl Iterator<Item = Minute> + '_ {
        self.counts(from, to).map(|c| {
            let latency = self.latencies.get(&c.minute).cloned().unwrap_or_default();
            Minute { minute: c.minute, total: c.total, bad: c.bad, slow: c.slow, latency }
        })
    }

    /// One minute, if it had events.
    pub fn minute(&self, minute: i64) -> Option<Minute> {
        self.minutes(minute, minute.saturating_add(1)).next()
    }

    /// The latest minute with events.
    pub fn last(&self) -> Option<i64> {
        self.hours.keys().next_back().and_then(|hour| self.hour(*hour).last().map(|c| c.minute))
    }

    /// Forgets latencies before `latency_before` and everything of hours that ended before `before`.
    pub fn forget(&mut self, before: i64, latency_before: i64) {
        self.hours = self.hours.split_off(&hour_of(before));
        self.latencies = self.latencies.split_off(&latency_before);
    }

    /// Bytes of the packed counters, without what the map itself takes.
    pub fn packed_bytes(&self) -> usize {
        self.hours.values().map(|bytes| bytes.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn minutes_add_up_and_old_ones_are_forgotten() {
        let mut track = Track::new();
        let mut minute = Minute::new(125);
        minute.record(1000, false, 1);
        minute.record(1001, false, 1);
        track.add(&minute);
        track.add(&minute);
        track.add(&Minute { total: 3, bad: 3, ..Minute::new(59) });
        let known = track.minute(125).unwrap();
        assert_eq!((known.total, known.slow, known.latency.count()), (4, 2, 4));
        assert_eq!(track.counts(0, 1000).map(|c| c.minute).collect::<Vec<_>>(), [59, 125]);
        assert_eq!((track.last(), track.counts(60, 125).count(), track.counts(9, 5).count()), (Some(125), 0, 0));
        track.forget(60, 126);
        assert_eq!((track.counts(0, 1000).count(), track.minute(125).unwrap().latency.count()), (1, 0));
    }

    #[test]
    fn damaged_bytes_are_told() {
        for wrong in [&[][..], &[9], &[1, 60, 1, 0, 0], &[1, 3, 1, 0], &[1, 3, 1, 0, 0, 3, 1, 0, 0]] {
            assert!(unpack(0, wrong).unwrap_err().starts_with("counters of an hour") || wrong.len() == 4, "{wrong:?}");
        }
        assert!(Track::new().put_hour(0, &[9]).is_err());
    }

    #[test]
    fn a_month_of_busy_minutes_takes_little() {
        let mut track = Track::new();
        for minute in 0..43_200 {
            track.add(&Minute { total: 70, bad: u64::from(minute % 50 == 0), slow: 1, ..Minute::new(minute) });
        }
        assert!(track.packed_bytes() < 180_000, "{}", track.packed_bytes());
    }

    proptest! {
        #[test]
        fn what_was_added_comes_out(rows in prop::collection::vec((-200i64..400, 0u64..1000, 0u64..9, 0u64..9), 0..60)) {
            let mut track = Track::new();
            let mut sums: BTreeMap<i64, Counts> = BTreeMap::new();
            for (minute, total, bad, slow) in rows {
                track.add(&Minute { total, bad, slow, ..Minute::new(minute) });
                let sum = sums.entry(minute).or_insert(Counts { minute, ..Counts::default() });
                (sum.total, sum.bad, sum.slow) = (sum.total + total, sum.bad + bad, sum.slow + slow);
            }
            prop_assert_eq!(track.counts(-1000, 1000).collect::<Vec<_>>(), sums.into_values().collect::<Vec<_>>());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..40), hour in any::<i64>()) {
            drop(unpack(hour, &bytes));
        }
    }
}
