//! Measures what the alert rules are judged on. Called by `production_alerts` for everything and by the watch for what is cheap and cannot
//! wait. It decides nothing: `domain/alert_rule/figure.rs` does, by the rules of `configs/alerts.toml`.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    backup,
    config::ProviderMode,
    domain::{
        alert_rule::{Check, Part, Sample, Severity, judge, parts},
        slo::Status,
    },
    env::{Env, blocking},
    error::{Error, Result},
    measure, slo,
};

/// A run that goes on for so long beyond anything it was allowed is stuck.
const STUCK_S: i64 = 3600;
/// How far back the disk's pace is looked at, and how much of it is needed to say anything.
const PACE: TimeDelta = TimeDelta::hours(6);
const PACE_MIN: TimeDelta = TimeDelta::hours(1);
/// How long the database may take for a simple question.
const PATIENCE: Duration = Duration::from_secs(10);
/// What was verified of the journal, in `meta`.
const VERIFIED: &str = "journal_verified";

/// Everything that was found out at one moment.
#[derive(Debug, Default)]
pub struct Measured {
    pub samples: Vec<Sample>,
    /// What is no figure, or could not be measured at all.
    pub raised: Vec<Check>,
}

impl Measured {
    /// The checks of all rules, those without a figure last.
    pub fn checks(&self, env: &Env) -> Vec<Check> {
        let mut checks = judge(env.config().rules.rules(), &self.samples);
        checks.extend(self.raised.iter().cloned());
        checks
    }

    fn take(&mut self, source: &str, measured: Result<Vec<Sample>>) {
        let samples = self.answered(source, measured);
        self.samples.extend(samples.into_iter().flatten());
    }

    /// What a source has to say. Whether it answers at all is a check of its own, which ends when it does again.
    fn answered<T>(&mut self, source: &str, answer: Result<T>) -> Option<T> {
        let why = answer.as_ref().err().map(|error| error.message.clone());
        self.raised.push(Check {
            name: "measuring".into(),
            labels: BTreeMap::from([("source".to_owned(), source.to_owned())]),
            system: "alerts",
            ok: Some(why.is_none()),
            severity: Severity::Critical,
            threshold: "an answer".into(),
            reason: why.map_or_else(|| format!("{source}: measured"), |why| format!("{source}: no figures: {why}")),
            ..Check::default()
        });
        answer.ok()
    }
}

/// What is cheap: the database, the disk below it, the queue of webhooks, and when the rules were last evaluated as a whole.
pub async fn at_once(env: &Env) -> Measured {
    let mut all = Measured { samples: database(env).await, raised: Vec::new() };
    let data = env.config().paths.data.clone();
    if let Ok(room) = blocking(move || Ok(measure::room(&data))).await {
        all.samples.extend([used("disk_percent", "disk", room.percent), used("inodes_percent", "files of the disk", room.inodes_percent)]);
    }
    let now = env.now();
    all.samples.push(provider(env));
    let (open, last) = (in_time(env.store().open_event_count()).await, in_time(env.store().newest_observation()).await);
    if let (Ok((waiting, oldest)), Ok(last)) = (open, last) {
        all.samples.push(oldest_webhook(waiting, oldest, now));
        // The first evaluation after a start is not late before its time.
        let age_s = last.map(|at| (now - at.max(env.started_at())).num_seconds());
        all.samples.push(Sample::new("evaluation_age_s", age_s.map(|s| s as f64)));
    }
    all
}

/// Everything. Something that gives no answer is an alert of its own.
pub async fn everything(env: &Env) -> Measured {
    let mut all = Measured { samples: database(env).await, raised: Vec::new() };
    if let Some(judged) = all.answered("levels", slo::judged(env, "alerts").await) {
        all.samples.extend(api(judged.verdict.n, judged.verdict.bad, judged.verdict.p95_ms));
        all.raised.push(api_level(judged.verdict.status, &judged.verdict.clause));
    }
    all.samples.push(provider(env));
    all.take("jobs", jobs(env).await);
    all.take("resources", resources(env).await);
    all.take("payments", money(env).await);
    let proof = all.answered("backups", backup::proof_age_check(env, env.now()).await);
    let journal = all.answered("journal", journal(env).await);
    all.raised.extend(proof.into_iter().chain(journal));
    let states = all.answered("parts", part_states(env).await);
    all.raised.extend(states.iter().flat_map(|states| parts(states)));
    all
}

fn api(requests: u64, failed: u64, p95_ms: Option<f64>) -> Vec<Sample> {
    let percent = (requests > 0).then(|| failed.min(requests) as f64 * 100.0 / requests as f64);
    let speed = p95_ms.map_or("no answer to measure".to_owned(), |ms| format!("95 % of the answers took at most {ms:.0} ms"));
    vec![
        Sample::new("api_failed_percent", percent).words(format!("{failed} of {requests} requests failed")),
        Sample::new("api_failed", Some(failed as f64)),
        Sample::new("api_requests", Some(requests as f64)),
        Sample::new("api_p95_ms", p95_ms).words(speed),
    ]
}

/// The check of the seed's service level.
pub(crate) fn api_level(status: Status, clause: &str) -> Check {
    Check {
        name: "api_slo".into(),
        system: "api",
        ok: match status {
            Status::Pass => Some(true),
            Status::Fail => Some(false),
            Status::NoData => None,
        },
        severity: Severity::Critical,
        value: Some(status.as_str().to_owned()),
        threshold: "not FAIL".to_owned(),
        reason: format!("the service level is {}: {clause}", status.as_str()),
        ..Check::default()
    }
}

/// A database that hangs does not answer; whoever waits for it would say nothing.
async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Error::unavailable("store_unavailable", format!("no answer within {} s", PATIENCE.as_secs()));
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|e| Err(late(e)))
}

async fn database(env: &Env) -> Vec<Sample> {
    let start = Instant::now();
    let answers = in_time(env.store().ping()).await;
    let latency_ms = answers.is_ok().then(|| start.elapsed().as_secs_f64() * 1e3);
    let words = match &answers {
        Ok(()) => "the database answers".to_owned(),
        Err(error) => format!("the database does not answer: {}", error.message),
    };
    let queue = env.store().depth();
    vec![
        Sample::new("database_up", Some(f64::from(u8::from(answers.is_ok())))).words(words),
        Sample::new("database_latency_ms", latency_ms),
        Sample::new("database_queue", Some(queue as f64)).words(format!("{queue} writes wait for the database")),
    ]
}

/// How many of the last calls to the provider failed, each with its retries.
fn provider(env: &Env) -> Sample {
    let failed = env.meter().failed_in_a_row("provider");
    let words = match failed {
        None => "the provider was not asked yet".to_owned(),
        Some(0) => "the provider answers".to_owned(),
        Some(n) => format!("the last {n} calls to the provider failed"),
    };
    Sample::new("provider_failed_in_a_row", failed.map(|n| n as f64)).words(words)
}

fn oldest_webhook(waiting: i64, oldest: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Sample {
    // The age decides, not the number: a burst that drains is fine, a single event that nobody takes is not.
    let age_s = oldest.filter(|_| waiting > 0).map_or(0, |at| (now - at).num_seconds().max(0));
    let words = match waiting {
        0 => "no webhook event waits".to_owned(),
        n => format!("{n} webhook events wait, the oldest for {age_s} s"),
    };
    Sample::new("webhook_oldest_s", Some(age_s as f64)).words(words)
}

async fn jobs(env: &Env) -> Result<Vec<Sample>> {
    let (store, now) = (env.store(), env.now());
    let (failed, missed) = store.bad_runs(now - TimeDelta::hours(1)).await?;
    let (waiting, oldest) = store.open_event_count().await?;
    let running = store.latest_runs().await?;
    let stuck: Vec<&str> = running
        .iter()
        .filter(|r| r.state == "running" && r.started_at.is_some_and(|at| (now - at).num_seconds() > STUCK_S))
        .map(|r| r.task.as_str())
        .collect();
    let stuck_words = if stuck.is_empty() { "no run is stuck".to_owned() } else { format!("stuck: {}", stuck.join(", ")) };
    let failures = store.webhook_failures(now - TimeDelta::minutes(5)).await?;
    Ok(vec![
        Sample::new("runs_failed_1h", Some(failed as f64)).words(format!("{failed} runs failed within the last hour")),
        Sample::new("slots_missed_1h", Some(missed as f64)).words(format!("{missed} slots were missed within the last hour")),
        Sample::new("runs_stuck", Some(stuck.len() as f64)).words(stuck_words),
        oldest_webhook(waiting, oldest, now),
        Sample::new("webhooks_waiting", Some(waiting as f64)),
        Sample::new("webhook_failures_5m", Some(failures as f64)).words(format!("{failures} webhooks failed within 5 minutes")),
    ])
}

fn used(figure: &'static str, what: &str, percent: Option<f64>) -> Sample {
    Sample::new(figure, percent).words(percent.map_or(format!("{what}: not measured"), |p| format!("{what}: {p:.1} % used")))
}

async fn resources(env: &Env) -> Result<Vec<Sample>> {
    let usage = measure::usage(env).await?;
    let free = usage.disk_free_bytes.map(|bytes| bytes as f64);
    let full_in_h = match free {
        Some(free) => full_in_h(&free_before(env).await?, (env.now(), free)),
        None => None,
    };
    let pace = full_in_h
        .map_or("the disk does not lose room".to_owned(), |h| format!("at the pace of the last hours the disk is full in {h:.1} h"));
    let mut samples = vec![
        used("cpu_percent", "CPU", usage.cpu_percent),
        used("memory_percent", "memory", usage.memory_percent),
        used("disk_percent", "disk", usage.disk_percent),
        Sample::new("disk_free_bytes", free),
        // With no end in sight it is far away, not unknown: an alert has to resolve.
        Sample::new("disk_full_in_h", free.map(|_| full_in_h.unwrap_or(24_000.0))).words(pace),
        used("inodes_percent", "files of the disk", usage.inodes_percent),
        used("open_files_percent", "open files", usage.open_files_percent()),
    ];
    if env.config().provider.mode != ProviderMode::Sandbox {
        let skew_s = measure::clock_skew_s(env).await; // the sandbox's clock is virtual: it has no such figure
        samples.push(Sample::new("clock_skew_s", skew_s.map(|s| s.abs() as f64)));
    }
    Ok(samples)
}

/// (when, free bytes) of the observations of the last hours.
async fn free_before(env: &Env) -> Result<Vec<(DateTime<Utc>, f64)>> {
    let now = env.now();
    let past = env.store().observations(now - PACE, now, 1000).await?;
    let free = |samples: &[Sample]| samples.iter().find(|s| s.figure == "disk_free_bytes").and_then(|s| s.value);
    Ok(past.iter().filter_map(|(at, samples)| Some((*at, free(samples)?))).collect())
}

/// Hours until the disk is full at the pace since the oldest observation; `None` if it does not lose room or too little is known.
fn full_in_h(past: &[(DateTime<Utc>, f64)], (now, free): (DateTime<Utc>, f64)) -> Option<f64> {
    let (then, before) = past.first().copied().filter(|(at, _)| now - *at >= PACE_MIN)?;
    let lost_per_h = (before - free) / ((now - then).num_seconds() as f64 / 3600.0);
    // Less than a thousandth of what is free an hour is the ordinary to and fro of files.
    (lost_per_h > free / 1000.0).then(|| free / lost_per_h)
}

async fn money(env: &Env) -> Result<Vec<Sample>> {
    let (store, live) = (env.store(), env.config().provider.mode.is_live());
    // By the provider's clock, which a sandbox may have put ahead.
    let now = store.newest_event_created().await?.unwrap_or(0).max(env.now().timestamp());
    let (succeeded, failed) = store.payments_between(live, now - 3600, now + 1).await?;
    let all = succeeded + failed;
    let percent = (all > 0).then(|| failed as f64 * 100.0 / all as f64);
    let mut samples = vec![
        Sample::new("payment_failed_percent_1h", percent).words(format!("{failed} of {all} payments failed within the last hour")),
        Sample::new("payments_failed_1h", Some(failed as f64)),
    ];
    // The last two whole days of UTC.
    let midnight = now - now.rem_euclid(86_400);
    let day = |n: i64| store.revenue_between(live, midnight - n * 86_400, midnight - (n - 1) * 86_400);
    let (yesterday, before) = (day(1).await?, day(2).await?);
    for earlier in before.iter().filter(|r| r.amount_minor > 0) {
        let later = yesterday.iter().find(|r| r.currency == earlier.currency).map_or(0, |r| r.amount_minor);
        let change = (later - earlier.amount_minor) as f64 * 100.0 / earlier.amount_minor as f64;
        let money = |minor| crate::domain::money::display(minor, &earlier.currency);
        let words =
            format!("revenue went from {} to {} from one day to the next ({change:+.0} %)", money(earlier.amount_minor), money(later));
        samples.push(Sample::new("revenue_change_percent", Some(change)).label("currency", &earlier.currency).words(words));
        samples.push(Sample::new("revenue_payments_before", Some(earlier.payments as f64)).label("currency", &earlier.currency));
    }
    Ok(samples)
}

/// Verifies what was appended to the journal since the last look.
async fn journal(env: &Env) -> Result<Check> {
    let seen: BTreeMap<String, (i64, String)> =
        env.store().meta(VERIFIED).await?.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let (report, marks) = env.store().verify_journal_after(&seen).await?;
    if report.ok {
        env.store().set_meta(VERIFIED, &serde_json::to_string(&marks)?).await?;
    }
    let reason = match report.breaks.first() {
        Some(broken) => format!("the journal does not verify: chain {} at {}: {}", broken.writer, broken.seq, broken.explanation),
        None => format!("the journal verifies, {} entries", report.entries),
    };
    Ok(Check {
        name: "journal_broken".into(),
        system: "journal",
        ok: Some(report.ok),
        severity: Severity::Critical,
        value: Some(format!("{} breaks", report.breaks.len())),
        threshold: "0 breaks".into(),
        reason,
        ..Check::default()
    })
}

async fn part_states(env: &Env) -> Result<Vec<Part>> {
    let children = env.tree()?.status().await?;
    Ok(children.into_iter().map(|c| Part { name: c.name, down: c.down }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_answers_again_ends_the_alert_that_it_did_not() {
        let mut all = Measured::default();
        all.take("jobs", Err(Error::unavailable("store_unavailable", "locked")));
        all.take("jobs", Ok(vec![Sample::new("runs_stuck", None)]));
        let [bad, good] = &all.raised[..] else { panic!("{:?}", all.raised) };
        assert_eq!((bad.ok, good.ok, bad.labels()), (Some(false), Some(true), good.labels()));
        assert!(bad.reason.contains("locked") && all.samples.len() == 1, "{}", bad.reason);
    }

    fn at(hours: f64) -> DateTime<Utc> {
        #[expect(clippy::cast_possible_truncation, reason = "a few hours")]
        let seconds = (hours * 3600.0) as i64;
        DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn the_pace_of_the_disk_says_when_it_is_full() {
        let gb = 1e9;
        let now = (at(0.0), 20.0 * gb);
        assert_eq!(full_in_h(&[(at(-2.0), 30.0 * gb)], now), Some(4.0), "5 GB an hour of 20");
        for (past, why) in [
            (vec![(at(-0.5), 30.0 * gb)], "half an hour is too little to tell"),
            (vec![(at(-2.0), 20.0 * gb)], "it stays"),
            (vec![(at(-2.0), 19.0 * gb)], "it grows"),
            (vec![(at(-2.0), 20.001 * gb)], "the ordinary to and fro"),
            (vec![], "nothing is known"),
        ] {
            assert_eq!(full_in_h(&past, now), None, "{why}");
        }
    }
}
