//! Whether a figure is unlike its own past, by several methods at once and with the reason in words. Used by `ops_sentinel` beside the
//! fixed limits. One method alone is never believed, one value alone never raises, and what was seen during an alarm is not taken for
//! ordinary: the past would learn the outage. It judges; it keeps nothing.

mod poisson;
mod robust;
mod season;
mod shape;

pub use poisson::at_least;
pub use robust::{center, fading, median};
pub use season::{HALF_HOUR_S, Season};
pub use shape::{Rest, Shape, Strange, WIDTH};

/// Fewer values than this say nothing.
pub const WARM_UP: usize = 30;
/// Deviations that are still ordinary.
pub const LIMIT: f64 = 4.0;
/// Values that the shape is learned from before it has a vote.
const SHAPE_WARM_UP: usize = 120;
/// How often as strange as the strangest known a stretch must be.
const STRANGE: f64 = 2.0;
/// An alarm needs so many odd values among so many.
const ODD: usize = 2;
const AMONG: usize = 3;
/// And ends after so many that are not odd, in a row.
const CALM: usize = 5;
/// Left-out values in a row after which they are the new ordinary: something changed for good.
pub const REBASE: usize = 160;
/// Counts whose mean is below this are judged by how likely they are.
const FEW: f64 = 30.0;
/// How unlikely a count must be to be odd.
const UNLIKELY: f64 = 1e-5;

/// How a figure's values behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A level, such as a percentage.
    Level,
    /// A time: its logarithm is judged, since twice as slow is the same news at any speed.
    Latency,
    /// Events in an interval.
    Count,
}

/// What is judged.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    pub kind: Kind,
    /// The least difference that matters, in the figure's unit.
    pub floor: f64,
}

/// One earlier value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Unix seconds.
    pub at: i64,
    pub value: f64,
    /// It was odd when it was judged.
    pub odd: bool,
    /// An alarm was on, or an incident about it open: not part of what is ordinary.
    pub left_out: bool,
}

/// What one method says.
#[derive(Clone, Debug, PartialEq)]
pub struct Vote {
    /// `median`, `mean`, `season`, `shape` or `count`.
    pub method: &'static str,
    /// Deviations from what it expects; for the shape, four times its score; for a count, 4 is the border of the unlikely.
    pub distance: f64,
    pub beyond: bool,
    words: String,
}

/// How a value compares with the past.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// At least two methods find it unlike the past (for a low count, the one that applies).
    pub odd: bool,
    /// Odd often enough, or not calm for long enough yet.
    pub alarm: bool,
    /// 0 to 1, 0.5 at five deviations.
    pub score: f64,
    /// Why, in words; also when all is ordinary.
    pub reason: String,
    pub votes: Vec<Vote>,
}

/// Judges `value` at `at` by the samples of the last day (oldest first) and the season. `was_alarm`: an alarm was on before.
pub fn judge(figure: Figure, past: &[Sample], season: &Season, at: i64, value: f64, was_alarm: bool) -> Judgement {
    let base = baseline(past);
    let quiet = |reason: String| Judgement { odd: false, alarm: false, score: 0.0, reason, votes: Vec::new() };
    if !value.is_finite() {
        return quiet("no value".into());
    }
    if base.len() < WARM_UP {
        return quiet(format!("{} earlier values are too few to compare with", base.len()));
    }
    let values: Vec<f64> = base.iter().map(|sample| sample.value).collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let votes = if figure.kind == Kind::Count && mean < FEW {
        vec![count(mean, value)]
    } else {
        measured(figure, &base, &values, season, at, value)
    };
    let beyond: Vec<&Vote> = votes.iter().filter(|vote| vote.beyond).collect();
    let odd = beyond.len() >= 2.min(votes.len());
    let alarm = alarm(past, odd, was_alarm);
    let distance = votes.iter().map(|vote| vote.distance.abs()).fold(0.0, f64::max);
    let said: Vec<&str> = beyond.iter().map(|vote| vote.words.as_str()).collect();
    let n = values.len();
    let reason = match (odd, said.is_empty()) {
        (true, _) => format!("{value:.2} is unlike the last {n} values: {}", said.join(", ")),
        (false, true) => format!("{value:.2} is like the last {n} values"),
        (false, false) => format!("{value:.2} is {}, but by one method only", said.join(", ")),
    };
    Judgement { odd, alarm, score: distance / (distance + 5.0), reason, votes }
}

/// A figure that had values and has none any more: `missing` in a row at the end, after at least as many values as warm up.
pub fn gone(known: usize, missing: usize) -> Option<String> {
    (known >= WARM_UP && missing >= AMONG).then(|| format!("no value for {missing} times in a row, after {known} values"))
}

/// What counts as ordinary: everything but what was left out. What was left out for so long that it is ordinary now counts, and what was
/// before it does not any more.
fn baseline(past: &[Sample]) -> Vec<Sample> {
    let finite: Vec<Sample> = past.iter().filter(|sample| sample.value.is_finite()).copied().collect();
    let (mut run, mut settled) = (0, 0..0);
    for (n, sample) in finite.iter().enumerate() {
        run = if sample.left_out { run + 1 } else { 0 };
        if run >= REBASE {
            settled = n + 1 - run..n + 1;
        }
    }
    let counts = |(n, sample): &(usize, &Sample)| settled.contains(n) || (*n >= settled.end && !sample.left_out);
    finite.iter().enumerate().filter(counts).map(|(_, sample)| *sample).collect()
}

fn alarm(past: &[Sample], odd: bool, was: bool) -> bool {
    let last = |n: usize| past.iter().rev().take(n - 1).filter(|sample| sample.odd).count() + usize::from(odd);
    if was { last(CALM) > 0 || past.len() + 1 < CALM } else { last(AMONG) >= ODD }
}

fn measured(figure: Figure, base: &[Sample], values: &[f64], season: &Season, at: i64, value: f64) -> Vec<Vote> {
    let see = |v: f64| if figure.kind == Kind::Level { v } else { v.max(0.0).ln_1p() };
    let seen: Vec<f64> = values.iter().map(|v| see(*v)).collect();
    let shown = |v: f64| if figure.kind == Kind::Level { v } else { v.exp_m1() };
    // The least difference, as it is where the values are.
    let floor_at = |v: f64| see(shown(v) + figure.floor) - v;
    let now = see(value);
    let mut votes = Vec::new();
    let mut vote = |method: &'static str, expected: f64, scale: f64, what: &str| {
        let distance = (now - expected) / scale.max(floor_at(expected));
        let words = format!("{:.1} deviations {} {what} {:.2}", distance.abs(), side(distance), shown(expected));
        votes.push(Vote { method, distance, beyond: distance.abs() > LIMIT, words });
    };
    if let Some((median, scale)) = center(&seen, 0.0) {
        vote("median", median, scale, "the median");
    }
    // Where a season is known, what it explains is taken out before the others look: else a busy noon hides a busy midnight.
    let usual = season.usual(at).map(see);
    let residuals: Vec<f64> = match usual {
        Some(_) => base.iter().zip(&seen).filter_map(|(sample, seen)| Some(seen - see(season.usual(sample.at)?))).collect(),
        None => Vec::new(),
    };
    if let Some(usual) = usual.filter(|_| residuals.len() >= WARM_UP) {
        if let Some((shift, scale)) = center(&residuals, usual.abs() / 100.0) {
            vote("season", usual + shift, scale, "what is usual at this time,");
        }
        if let Some((shift, scale)) = fading(&residuals, usual.abs() / 100.0) {
            vote("mean", usual + shift, scale, "that and the fading mean,");
        }
    } else if let Some((mean, scale)) = fading(&seen, 0.0) {
        vote("mean", mean, scale, "the fading mean");
    }
    // It alone decides nothing, so it is asked only where another one is beyond.
    if votes.iter().any(|vote| vote.beyond) {
        votes.extend(shape_vote(&seen, now, floor_at(now)));
    }
    votes
}

fn shape_vote(seen: &[f64], now: f64, floor: f64) -> Option<Vote> {
    if seen.len() < SHAPE_WARM_UP + WIDTH {
        return None;
    }
    // In steps of the least difference that matters: what is below it is no shape.
    let floor = floor.max(1e-9);
    let mut shape = Shape::new(SHAPE_WARM_UP);
    for value in seen {
        shape.push((value / floor).round());
    }
    let strange = shape.push((now / floor).round())?;
    // Beyond everything known by far: by its construction something is the strangest ever once in a while.
    let score = strange.score() / STRANGE;
    let words = format!("the last {WIDTH} values together are {:.1} times as strange as any before", strange.ratio);
    Some(Vote { method: "shape", distance: (score * LIMIT).min(1e6), beyond: score > 1.0, words })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count: clamped, whole, and far below 2^63")]
fn count(expected: f64, value: f64) -> Vote {
    let k = value.clamp(0.0, 1e15).round() as u64;
    let up = at_least(k, expected);
    let down = 1.0 - at_least(k + 1, expected);
    let (chance, distance) = if k as f64 >= expected { (up, 1.0) } else { (down.max(0.0), -1.0) };
    let words = format!("{k} where {expected:.1} are usual has a chance of {chance:.0e}");
    // 4 at the border, more the less likely.
    let far = LIMIT * (chance.max(1e-300).ln() / UNLIKELY.ln());
    Vote { method: "count", distance: distance * far, beyond: chance < UNLIKELY, words }
}

fn side(distance: f64) -> &'static str {
    if distance > 0.0 { "above" } else { "below" }
}

#[cfg(test)]
mod tests;
