//! Whether the last values together look like nothing before, although each alone may be ordinary: the conformal k-nearest-neighbour
//! detector of Burnaev and Ishimtsev (arXiv 1608.04585). Called by `mod.rs` with the recent past, and measured on the Numenta benchmark by
//! `benches`. It learns from the first `training` windows and slides; it never looks ahead.

use std::collections::VecDeque;

/// Values that make one shape.
pub const WIDTH: usize = 19;
/// Neighbours whose distances are summed.
const NEIGHBOURS: usize = 27;
/// Keeps the matrix regular where the series is flat.
const RIDGE: f64 = 1e-12;

/// How a stretch of values compares with those before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Strange {
    /// Share of the stretches before that were less strange, 0 to 1.
    pub rank: f64,
    /// How often as strange as the strangest of them.
    pub ratio: f64,
}

impl Strange {
    /// One number that grows with both: the rank, and above everything known the ratio, so that 1 is the border of the known.
    pub fn score(self) -> f64 {
        if self.rank >= 1.0 { self.ratio.clamp(1.0, 1e6) } else { self.rank }
    }
}

/// The detector over one series.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Windows it is compared with, and those that wait to become so.
    training: usize,
    recent: VecDeque<f64>,
    known: VecDeque<[f64; WIDTH]>,
    /// The same, as the distance sees them.
    seen: VecDeque<[f64; WIDTH]>,
    waiting: VecDeque<[f64; WIDTH]>,
    scores: VecDeque<f64>,
    factor: Vec<[f64; WIDTH]>,
    pushed: usize,
}

impl Shape {
    /// Silent for the first `warm_up` values, which it learns from: at least 60.
    pub fn new(warm_up: usize) -> Self {
        let mut factor = vec![[0.0; WIDTH]; WIDTH];
        for (i, row) in factor.iter_mut().enumerate() {
            row[i] = 1.0;
        }
        Self {
            training: warm_up.max(60) - WIDTH,
            recent: VecDeque::new(),
            known: VecDeque::new(),
            seen: VecDeque::new(),
            waiting: VecDeque::new(),
            scores: VecDeque::new(),
            factor,
            pushed: 0,
        }
    }

    /// Learns the next value; `None` while it warms up.
    pub fn push(&mut self, value: f64) -> Option<Strange> {
        self.pushed += 1;
        self.recent.push_back(value);
        if self.recent.len() > WIDTH {
            self.recent.pop_front();
        }
        if self.recent.len() < WIDTH {
            return None;
        }
        let window: [f64; WIDTH] = std::array::from_fn(|i| self.recent[i]);
        if self.known.len() < self.training && self.scores.is_empty() {
            self.known.push_back(window);
            return None;
        }
        let period = self.training + WIDTH;
        let phase = self.pushed % period;
        if self.scores.is_empty() || phase == 0 || phase == period / 2 {
            self.fit();
        }
        if self.scores.is_empty() {
            self.scores = self.seen.iter().map(|known| self.distance(known, NEIGHBOURS + 1)).collect();
        }
        let distance = self.distance(&whiten(&self.factor, &window), NEIGHBOURS);
        let below = self.scores.iter().filter(|score| **score < distance).count();
        let most = self.scores.iter().copied().fold(0.0, f64::max);
        let ratio = if most > 0.0 {
            distance / most
        } else if distance > 0.0 {
            f64::INFINITY
        } else {
            0.0
        };
        let rank = below as f64 / self.scores.len() as f64;
        // What is seen now becomes what others are compared with only a whole warm-up later: an outage must not excuse itself.
        if self.waiting.len() >= period
            && let Some(old) = self.waiting.pop_front()
        {
            self.known.pop_front();
            self.seen.pop_front();
            self.seen.push_back(whiten(&self.factor, &old));
            self.known.push_back(old);
        }
        self.waiting.push_back(window);
        self.scores.pop_front();
        self.scores.push_back(distance);
        Some(Strange { rank, ratio })
    }

    /// The sum of the squared distances to the nearest known windows.
    fn distance(&self, window: &[f64; WIDTH], neighbours: usize) -> f64 {
        let mut all: Vec<f64> =
            self.seen.iter().map(|known| known.iter().zip(window).map(|(a, b)| (a - b) * (a - b)).sum::<f64>()).collect();
        let n = neighbours.min(all.len());
        if n < all.len() {
            all.select_nth_unstable_by(n, f64::total_cmp);
        }
        all[..n].iter().sum()
    }

    /// Takes the known windows' second moments as the measure of distance (Mahalanobis, not centred).
    fn fit(&mut self) {
        let mut moments = vec![[0.0; WIDTH]; WIDTH];
        for window in &self.known {
            for (i, row) in moments.iter_mut().enumerate() {
                for (j, cell) in row.iter_mut().enumerate().take(i + 1) {
                    *cell += window[i] * window[j];
                }
            }
        }
        let ridge = RIDGE * (0..WIDTH).map(|i| moments[i][i]).sum::<f64>() / WIDTH as f64 + f64::MIN_POSITIVE;
        for (i, row) in moments.iter_mut().enumerate() {
            row[i] += ridge;
        }
        if let Some(factor) = cholesky(&moments) {
            self.factor = factor;
        }
        self.seen = self.known.iter().map(|window| whiten(&self.factor, window)).collect();
    }
}

/// The lower triangle L with L * L^T = `moments`; `None` if they are not positive.
fn cholesky(moments: &[[f64; WIDTH]]) -> Option<Vec<[f64; WIDTH]>> {
    let mut lower = vec![[0.0; WIDTH]; WIDTH];
    for i in 0..WIDTH {
        for j in 0..=i {
            let rest = moments[i][j] - (0..j).map(|k| lower[i][k] * lower[j][k]).sum::<f64>();
            lower[i][j] = if i == j {
                if rest <= 0.0 || !rest.is_finite() {
                    return None;
                }
                rest.sqrt()
            } else {
                rest / lower[j][j]
            };
        }
    }
    Some(lower)
}

/// L^-1 * `window`: between two of these the plain distance is the fitted one.
fn whiten(lower: &[[f64; WIDTH]], window: &[f64; WIDTH]) -> [f64; WIDTH] {
    let mut out = [0.0; WIDTH];
    for i in 0..WIDTH {
        let known: f64 = (0..i).map(|k| lower[i][k] * out[k]).sum();
        out[i] = (window[i] - known) / lower[i][i];
    }
    out
}

/// After something strange was told, this many values are quiet: the rest of a burst is the same news.
#[derive(Clone, Copy, Debug)]
pub struct Rest {
    values: usize,
    left: usize,
    /// From this score on something is told.
    limit: f64,
}

impl Rest {
    pub fn new(values: usize, limit: f64) -> Self {
        Self { values, left: 0, limit }
    }

    /// The score, or half the limit while it rests.
    pub fn pass(&mut self, score: f64) -> f64 {
        if self.left > 0 {
            self.left -= 1;
            return self.limit / 2.0;
        }
        if score >= self.limit {
            self.left = self.values;
        }
        score
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A day of 96 values that repeats, with a little noise that is the same every time.
    fn daily(n: usize) -> f64 {
        let noise = ((n * 7919 % 101) as f64 - 50.0) / 50.0;
        50.0 + 20.0 * (n as f64 * std::f64::consts::TAU / 96.0).sin() + noise
    }

    #[test]
    fn an_ordinary_value_at_the_wrong_time_is_strange() {
        let mut shape = Shape::new(400);
        let mut before: f64 = 0.0;
        for n in 0..800 {
            before = before.max(shape.push(daily(n)).filter(|_| n > 500).map_or(0.0, Strange::score));
        }
        // The daily peak stays away: each value alone is among those of every night.
        let during = (800..840).filter_map(|_| shape.push(31.0)).map(Strange::score).fold(0.0, f64::max);
        assert!(during > 1.0 && during > 2.0 * before, "{during} after {before}");
    }

    #[test]
    fn it_is_silent_while_it_learns_and_a_flat_series_is_never_strange() {
        let mut shape = Shape::new(100);
        assert!((0..99).all(|_| shape.push(7.0).is_none()));
        assert!((0..300).filter_map(|_| shape.push(7.0)).all(|strange| strange.rank < 1e-9));
    }

    #[test]
    fn a_burst_is_told_once() {
        let mut rest = Rest::new(3, 1.0);
        let told: Vec<bool> = [0.2, 1.5, 1.6, 1.7, 1.1, 2.0, 0.1].into_iter().map(|score| rest.pass(score) >= 1.0).collect();
        assert_eq!(told, [false, true, false, false, false, true, false]);
    }
}
