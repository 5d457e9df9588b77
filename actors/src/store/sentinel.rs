//! What the sentinel measured: samples of a day, and half hours of four weeks. Called by `ops_sentinel` only.

use std::collections::BTreeMap;

use super::{Store, engine::Batch};
use crate::{
    domain::anomaly::{HALF_HOUR_S, Sample, Season},
    error::Result,
};

const DAY_S: i64 = 86_400;
const KEPT_HALF_HOURS: i64 = 28 * 48 + 1;

/// A new sample of a figure.
#[derive(Clone, Debug)]
pub struct NewSample {
    pub figure: &'static str,
    pub sample: Sample,
}

impl Store {
    /// The samples of the last day, oldest first, by figure.
    pub async fn figure_samples(&self, now: i64) -> Result<BTreeMap<String, Vec<Sample>>> {
        let sql = "SELECT figure, at, micros, odd, left_out FROM figure_sample WHERE at > ?1 AND at < ?2 ORDER BY figure, at";
        let mut all: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
        for row in self.engine.read(sql, vec![(now - DAY_S).into(), now.into()]).await? {
            let sample = Sample { at: row.int(1)?, value: row.int(2)? as f64 / 1e6, odd: row.int(3)? != 0, left_out: row.int(4)? != 0 };
            all.entry(row.text(0)?.to_owned()).or_default().push(sample);
        }
        Ok(all)
    }

    /// What is usual at each time, by figure.
    pub async fn figure_seasons(&self) -> Result<BTreeMap<String, Season>> {
        let rows = self.engine.read("SELECT figure, half_hour, sum_micros, count FROM figure_half_hour", vec![]).await?;
        let mut all: BTreeMap<String, BTreeMap<i64, f64>> = BTreeMap::new();
        for row in rows {
            let mean = row.int(2)? as f64 / 1e6 / row.int(3)?.max(1) as f64;
            all.entry(row.text(0)?.to_owned()).or_default().insert(row.int(1)?, mean);
        }
        Ok(all.into_iter().map(|(figure, means)| (figure, Season::new(means))).collect())
    }

    /// Adds samples of one time and forgets what is too old. What was left out is no part of its half hour.
    pub async fn put_figures(&self, samples: &[NewSample], now: i64) -> Result<()> {
        let mut batch = Batch::new();
        for NewSample { figure, sample } in samples {
            #[expect(clippy::cast_possible_truncation, reason = "clamped and whole")]
            let micros = (sample.value * 1e6).round().clamp(-9e18, 9e18) as i64;
            let sql = "INSERT INTO figure_sample (figure, at, micros, odd, left_out) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (figure, at) DO NOTHING";
            batch = batch.sql(sql, vec![(*figure).into(), sample.at.into(), micros.into(), sample.odd.into(), sample.left_out.into()]);
            if !sample.left_out {
                let sql = "INSERT INTO figure_half_hour (figure, half_hour, sum_micros, count) VALUES (?1, ?2, ?3, 1)
                    ON CONFLICT (figure, half_hour) DO UPDATE SET sum_micros = figure_half_hour.sum_micros + excluded.sum_micros, count = figure_half_hour.count + 1";
                batch = batch.sql(sql, vec![(*figure).into(), sample.at.div_euclid(HALF_HOUR_S).into(), micros.into()]);
            }
        }
        batch = batch
            .sql("DELETE FROM figure_sample WHERE at <= ?1", vec![(now - DAY_S).into()])
            .sql("DELETE FROM figure_half_hour WHERE half_hour < ?1", vec![(now.div_euclid(HALF_HOUR_S) - KEPT_HALF_HOURS).into()]);
        self.engine.write(batch).await.map(|_| ())
    }
}
