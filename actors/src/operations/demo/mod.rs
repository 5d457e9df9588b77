//! The demo: a year of a small business, made only through the provider's `/v1` and the webhooks it sends, in virtual time that ends
//! now, with a few differences planted for the reconciliation to find. Called by `run --demo`. A second call on the same data
//! changes nothing, and one that was interrupted is continued: which day it is says the sandbox's clock, and every call carries a
//! key that is the same the second time.

mod business;
mod planted;
mod trade;

use std::{fmt, time::Duration};

use chrono::DateTime;
use tokio::time::{Instant, sleep};

pub use self::business::{DAYS, SEED};
use self::{business::Business, planted::Planted, trade::Trade};
use crate::{
    env::Env,
    error::{Error, Result},
    providers::sandbox::Sandbox,
    timer,
};

const DAY_S: i64 = 86_400;
/// The shortest story that has room for what is planted.
const SHORTEST: i64 = 40;
/// Where the store remembers how far the demo is: absent or empty, `begun SEED DAYS` or `done`.
const MARK: &str = "demo.seeded";
/// Where it remembers what was planted.
const PLANTED: &str = "demo.planted";
/// How long it may be until one more webhook was applied, and how long each task may take.
const PATIENCE: Duration = Duration::from_mins(1);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// What finds the planted differences; it runs first.
const FINDER: &str = "payout_recon";
/// What runs after it, so that every page has something true to show.
const TASKS: &[&str] =
    &["payment_recon_nightly", "slo_monitor", "slo_guard", "production_alerts", "ops_sentinel", "observability_snapshot", "daily_backup"];

/// Which story is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plot {
    pub seed: u64,
    /// From 40; a year by default.
    pub days: i64,
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Story {
    Made(Box<Made>),
    /// The demo is there already.
    There,
    /// The sandbox holds something else.
    Occupied,
}

/// A story that was told to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    pub customers: usize,
    pub days: i64,
    /// Webhooks received and applied, and the time that took with everything that caused them.
    pub events: i64,
    pub took: Duration,
    pub planted: usize,
    /// How many of them the first reconciliation found.
    pub found: usize,
    /// What else it reported.
    pub others: usize,
    /// Tasks that did not end well.
    pub failed: Vec<String>,
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Made(made) => made.fmt(f),
            Self::There => f.write_str("made at an earlier start; nothing changed"),
            Self::Occupied => f.write_str("not made, because the sandbox holds other data; use a new data directory for it"),
        }
    }
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { customers, days, events, took, planted, found, others, failed } = self;
        write!(f, "{customers} customers and {days} days of business up to now: {events} events in {:.1} s; ", took.as_secs_f64())?;
        write!(f, "{planted} differences planted, {found} of them found")?;
        if *others > 0 {
            write!(f, " and {others} others")?;
        }
        if failed.is_empty() { Ok(()) } else { write!(f, "; not well: {}", failed.join(", ")) }
    }
}

/// Whether the story is being told just now: the sandbox's clock is in the past then.
pub async fn is_being_made(env: &Env) -> Result<bool> {
    Ok(env.store().meta(MARK).await?.is_some_and(|mark| mark.starts_with("begun")))
}

/// Makes the story, calling `progress` with the day and the number of days. Only with the sandbox. One that was begun is continued
/// as it was begun, whatever `plot` says.
pub async fn seed(env: &Env, plot: Plot, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Story> {
    let sandbox = env.sandbox().ok_or_else(|| Error::forbidden("sandbox_only", "the demo needs the built-in sandbox"))?;
    if plot.days < SHORTEST {
        return Err(Error::invalid("days", format!("the demo needs at least {SHORTEST} days")));
    }
    let store = env.store();
    let mark = store.meta(MARK).await?.unwrap_or_default();
    if mark == "done" {
        return Ok(Story::There);
    }
    let begun = Plot::parse(&mark);
    let plot = begun.unwrap_or(plot);
    store.set_meta(MARK, &plot.mark()).await?;
    if !sandbox.start_in_past(plot.days * DAY_S).await? && begun.is_none() {
        store.set_meta(MARK, "").await?;
        return Ok(Story::Occupied);
    }
    let business = Business::new(plot.seed, plot.days);
    let started = Instant::now();
    live(env, sandbox, &business, progress).await?;
    processed(env).await?;
    let took = started.elapsed();
    let events = store.event_counts(DateTime::UNIX_EPOCH).await?.iter().map(|(_, count)| count).sum();
    let mut failed = Vec::from_iter(ran_well(env, FINDER).await?);
    let planted = noted(env).await?;
    let exceptions = store.open_exceptions("payouts").await?;
    let found = planted.iter().filter(|p| exceptions.iter().any(|e| p.is_found_by(e))).count();
    let others = exceptions.iter().filter(|e| !planted.iter().any(|p| p.is_found_by(e))).count();
    for task in TASKS {
        failed.extend(ran_well(env, task).await?);
    }
    store.set_meta(MARK, "done").await?;
    let (customers, days, planted) = (business.customers.len(), plot.days, planted.len());
    Ok(Story::Made(Box::new(Made { customers, days, events, took, planted, found, others, failed })))
}

impl Plot {
    fn mark(self) -> String {
        format!("begun {} {}", self.seed, self.days)
    }

    fn parse(mark: &str) -> Option<Self> {
        let (seed, days) = mark.strip_prefix("begun ")?.split_once(' ')?;
        Some(Self { seed: seed.parse().ok()?, days: days.parse().ok()? })
    }
}

/// Day after day until the sandbox's clock shows now.
async fn live(env: &Env, sandbox: &Sandbox, business: &Business, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<()> {
    let days = business.days;
    let trade = Trade::open(env.provider(), sandbox, business).await?;
    loop {
        let (_, offset) = sandbox.advance(0).await?;
        // An interrupted advance stands between two days: it is finished first, because its morning is done.
        let rest = (-offset).rem_euclid(DAY_S);
        if rest > 0 && offset < 0 {
            sandbox.advance(rest).await?;
            continue;
        }
        let day = days + offset.div_euclid(DAY_S);
        if day > days {
            return Ok(());
        }
        progress(day.unsigned_abs(), days.unsigned_abs());
        trade.live_through(day).await?;
        let mut planted = noted(env).await?;
        let mut new = trade.plant(day, &planted).await?;
        if day == days {
            new.extend(trade.lose(day).await?);
        }
        if !new.is_empty() {
            planted.extend(new.into_iter().filter(|p| !planted.contains(p)).collect::<Vec<_>>());
            env.store().set_meta(PLANTED, &serde_json::to_string(&planted)?).await?;
        }
        sandbox.advance(if day < days { DAY_S } else { 0 }).await?;
        if day == days {
            return Ok(());
        }
    }
}

/// What was planted so far.
async fn noted(env: &Env) -> Result<Vec<Planted>> {
    let text = env.store().meta(PLANTED).await?;
    Ok(text.map(|text| serde_json::from_str(&text)).transpose()?.unwrap_or_default())
}

/// Waits until every webhook that came in has been applied, as long as it goes on.
async fn processed(env: &Env) -> Result<()> {
    let (mut least, mut deadline) = (i64::MAX, Instant::now() + PATIENCE);
    loop {
        let open = env.store().open_event_count().await?.0;
        if open == 0 {
            return Ok(());
        }
        if open < least {
            (least, deadline) = (open, Instant::now() + PATIENCE);
        }
        if Instant::now() > deadline {
            tracing::warn!(open, "some of the demo's events are still waiting to be applied");
            return Ok(());
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Runs a task to its end; its name, if it did not end well.
async fn ran_well(env: &Env, task: &str) -> Result<Option<String>> {
    let run_id = match timer::run_now(env, task, "demo").await {
        Ok(run_id) => run_id,
        Err(error) if error.reason == "already_running" => return Ok(None),
        Err(error) => return Err(error),
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        match env.store().run(&run_id).await? {
            Some(run) if !matches!(run.state.as_str(), "pending" | "running") => {
                return Ok((run.state != "succeeded").then(|| task.to_owned()));
            }
            _ if Instant::now() > deadline => return Ok(Some(task.to_owned())),
            _ => sleep(LOOK_AGAIN).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_that_was_begun_is_continued_with_its_own_seed() {
        let plot = Plot { seed: u64::MAX, days: 90 };
        assert_eq!(Plot::parse(&plot.mark()), Some(plot));
        for mark in ["", "done", "begun", "begun 1", "begun x 3"] {
            assert_eq!(Plot::parse(mark), None, "{mark}");
        }
    }

    #[test]
    fn the_result_is_one_sentence_with_its_figures() {
        let mut made = Made {
            customers: 2,
            days: 40,
            events: 900,
            took: Duration::from_millis(1234),
            planted: 6,
            found: 6,
            others: 0,
            failed: Vec::new(),
        };
        let text = |made: &Made| Story::Made(Box::new(made.clone())).to_string();
        assert_eq!(
            text(&made),
            "2 customers and 40 days of business up to now: 900 events in 1.2 s; 6 differences planted, 6 of them found"
        );
        (made.others, made.failed) = (1, vec!["slo_guard".into()]);
        assert!(text(&made).ends_with("6 of them found and 1 others; not well: slo_guard"));
    }
}
