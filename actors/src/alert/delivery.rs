//! Delivery hands the messages of the outbox to their channels: each channel by itself, so that none delays another, oldest first, within
//! its rate, and again until it is taken or given up. The alert actor spawns `run` and wakes it after a commit. It holds nothing that is
//! not in the store: cut off anywhere, what was being sent is sent again under the same id.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::FutureExt as _;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::Instant,
};

use super::{NOUN, evaluate, pushes};
use crate::{
    channels::{self, Channel, Context, Failure, Receipt},
    domain::{
        alert_rule::{Check, Severity, State},
        notify::{self, Line, Next},
    },
    env::Env,
    error::Result,
    files,
    store::{ChannelRow, Delivered, DeliveryAttempt, NewNotification, NotificationRow},
};

/// The outbox is looked at this often also if nobody wakes us: a message may have been queued again by hand.
const POLL: Duration = Duration::from_secs(5);
/// Looked at together; there are more only in a storm, which is put together in one.
const LOOK: i64 = 500;
const MINUTE: Duration = Duration::from_mins(1);
/// No channel takes longer, whatever its own limits are.
const LONGEST: Duration = Duration::from_mins(5);
/// How often the channels themselves and the pushes are judged.
const JUDGE: Duration = Duration::from_secs(30);
const TIDY: Duration = Duration::from_hours(1);
/// A channel that takes nothing for so long is an alert.
const FAILING: TimeDelta = TimeDelta::minutes(10);

/// Delivers until it is aborted.
pub(super) async fn run(env: Env, wake: Arc<Notify>) {
    let (tell, told) = watch::channel(());
    let mut rooms = JoinSet::new();
    for channel in &channels::ALL {
        if channel.is_on(env.config(), env.secrets()) {
            let (env, told) = (env.clone(), told.clone());
            rooms.spawn(kept(channel.name, move || deliver(env.clone(), channel, told.clone())));
        }
    }
    let looks = env.clone();
    rooms.spawn(kept("looks", move || look_on(looks.clone())));
    loop {
        wake.notified().await;
        tell.send_replace(());
    }
}

/// Runs it for ever: a panic in one channel is no reason to be silent on it, or on the others.
async fn kept<F: Future<Output = ()>>(name: &'static str, start: impl Fn() -> F) {
    loop {
        if AssertUnwindSafe(start()).catch_unwind().await.is_err() {
            tracing::error!(actor = NOUN, channel = name, "a part of the delivery panicked and begins again");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What a channel did in the last minute, and how it answers. Lost at a restart: then it begins with a free minute.
#[derive(Debug, Default)]
struct Pace {
    sent: VecDeque<Instant>,
    failures: u32,
    not_before: Option<Instant>,
}

impl Pace {
    fn room(&mut self, per_minute: usize, now: Instant) -> usize {
        while self.sent.front().is_some_and(|first| now.duration_since(*first) >= MINUTE) {
            self.sent.pop_front();
        }
        per_minute.saturating_sub(self.sent.len())
    }
}

async fn deliver(env: Env, channel: &'static Channel, mut told: watch::Receiver<()>) {
    let mut pace = Pace::default();
    let mut troubled = false;
    loop {
        let wait = match round(&env, channel, &mut pace).await {
            Ok(wait) => {
                troubled = false;
                wait
            }
            Err(error) => {
                if !troubled {
                    tracing::warn!(actor = NOUN, channel = channel.name, %error, "the outbox cannot be read; trying on");
                }
                troubled = true;
                POLL
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            Ok(()) = told.changed() => {}
        }
    }
}

/// Sends what can be sent now, and answers how long to wait.
async fn round(env: &Env, channel: &'static Channel, pace: &mut Pace) -> Result<Duration> {
    loop {
        if let Some(wait) = pace.not_before.map(|at| at.saturating_duration_since(Instant::now())).filter(|wait| !wait.is_zero()) {
            return Ok(wait.min(POLL));
        }
        let mut due = env.store().due_notifications(channel.name, env.now(), LOOK).await?;
        if due.is_empty() {
            return until_next(env, channel).await;
        }
        let critical: Vec<bool> = due.iter().map(|row| row.message.severity == Severity::Critical).collect();
        let room = pace.room(channel.per_minute(env.config()), Instant::now());
        match notify::next(&critical, room, channel.merges) {
            Next::Send(i) => attempt(env, channel, pace, due.swap_remove(i)).await?,
            Next::Merge(all) => {
                let merged: Vec<_> = due.into_iter().enumerate().filter(|(i, _)| all.contains(i)).map(|(_, row)| row).collect();
                if let Some(row) = merge(env, channel, merged).await? {
                    attempt(env, channel, pace, row).await?;
                }
            }
            Next::Wait => {
                let free = pace.sent.front().map_or(Duration::ZERO, |first| (*first + MINUTE).saturating_duration_since(Instant::now()));
                return Ok(free.clamp(Duration::from_millis(10), POLL));
            }
        }
    }
}

async fn until_next(env: &Env, channel: &Channel) -> Result<Duration> {
    let next = env.store().next_notification_at(channel.name).await?;
    // What is due waits for an older one of its group, which is not due.
    let wait = next.map_or(POLL, |at| (at - env.now()).to_std().unwrap_or_default());
    Ok(wait.clamp(Duration::from_millis(10), POLL))
}

/// Puts messages together in one, durably, before that is sent.
async fn merge(env: &Env, channel: &'static Channel, rows: Vec<NotificationRow>) -> Result<Option<NotificationRow>> {
    let ids: Vec<String> = rows.iter().map(|row| row.id.clone()).collect();
    let messages: Vec<_> = rows.into_iter().map(|row| row.message).collect();
    let id = format!("ntf_{}", uuid::Uuid::now_v7().simple());
    let digest = NewNotification { channel: channel.name, message: notify::digest(&messages, id, env.now()) };
    tracing::warn!(actor = NOUN, channel = channel.name, messages = ids.len(), "more messages than fit: told in one");
    env.store().merge_notifications(&ids, &digest).await?;
    env.store().notification(&digest.id()).await
}

async fn attempt(env: &Env, channel: &Channel, pace: &mut Pace, row: NotificationRow) -> Result<()> {
    let Some(message) = notify::without(&row.message, channel.name) else {
        return env.store().drop_notification(&row.id, "it is about this channel itself: told over the others").await;
    };
    let started = Instant::now();
    let context = Context { http: env.http(), config: env.config(), secrets: env.secrets(), now: env.now(), accepted: &row.accepted };
    let sending = AssertUnwindSafe(channels::send(context, channel.name, &message)).catch_unwind();
    let sent = match tokio::time::timeout(LONGEST, sending).await {
        Ok(Ok(sent)) => sent,
        Ok(Err(_)) => Err(failure(true, "the channel panicked; the panic is in the log")),
        Err(_) => Err(failure(true, "no end after five minutes")),
    };
    pace.sent.push_back(Instant::now());
    let (attempt, came_to) = judge(env, pace, &row, sent, started);
    match &came_to {
        Delivered::Sent { .. } => tracing::info!(actor = NOUN, channel = channel.name, id = row.id, attempt = attempt.attempt, "sent"),
        Delivered::Again { .. } => {
            tracing::warn!(
                actor = NOUN,
                channel = channel.name,
                id = row.id,
                attempt = attempt.attempt,
                error = attempt.error,
                "not sent; trying again"
            );
        }
        Delivered::Dead => {
            tracing::error!(
                actor = NOUN,
                channel = channel.name,
                id = row.id,
                attempt = attempt.attempt,
                error = attempt.error,
                "not sent; given up"
            );
        }
    }
    // What arrived must be written down before anything else is done: another attempt would tell it twice.
    let mut told = false;
    while let Err(error) = env.store().delivery_attempted(&row.id, &attempt, &came_to).await {
        if !told {
            tracing::error!(actor = NOUN, channel = channel.name, id = row.id, %error, "the outcome of an attempt cannot be written down; trying on");
        }
        told = true;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

fn failure(retryable: bool, error: &str) -> Failure {
    Failure { retryable, error: error.to_owned(), ..Failure::default() }
}

/// What an attempt came to, and what it says about the channel.
fn judge(
    env: &Env,
    pace: &mut Pace,
    row: &NotificationRow,
    sent: Result<Receipt, Failure>,
    started: Instant,
) -> (DeliveryAttempt, Delivered) {
    let (at, unit) = (env.now(), files::random_unit());
    let took_ms = i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
    let attempt = DeliveryAttempt { attempt: row.attempts.saturating_add(1), at, took_ms, ok: sent.is_ok(), status: None, error: None };
    match sent {
        Ok(receipt) => {
            (pace.failures, pace.not_before) = (0, None);
            let attempt = DeliveryAttempt { status: receipt.status, error: receipt.note, ..attempt };
            (attempt, Delivered::Sent { reference: receipt.reference })
        }
        Err(failure) => {
            let number = attempt.attempt;
            let attempt = DeliveryAttempt { status: failure.status, error: Some(failure.error), ..attempt };
            if !failure.retryable {
                (pace.failures, pace.not_before) = (0, None); // it answered: what is wrong is this message, or the settings
                return (attempt, Delivered::Dead);
            }
            // Who takes the message for some recipients is there: the others are asked again without a pause for all.
            if failure.accepted.is_empty() && row.accepted.is_empty() {
                pace.failures = pace.failures.saturating_add(1);
                pace.not_before = Some(Instant::now() + notify::hold(pace.failures, failure.retry_after, unit));
            }
            let came_to = match notify::again(number, row.created_at, at, failure.retry_after, unit) {
                Some(wait) => Delivered::Again { next_at: at + wait, accepted: failure.accepted },
                None => Delivered::Dead,
            };
            (attempt, came_to)
        }
    }
}

/// What has to be looked at now and then: the channels themselves, the pushes, an Alertmanager that forgets, rows that are old.
async fn look_on(env: Env) {
    let mut tidied: Option<Instant> = None;
    let mut refreshed: Option<Instant> = None;
    loop {
        tokio::time::sleep(JUDGE).await;
        let mut checks = Vec::new();
        for result in [channel_checks(&env).await, pushes::checks(&env).await] {
            match result {
                Ok(found) => checks.extend(found),
                Err(error) => tracing::warn!(actor = NOUN, %error, "channels and pushes could not be judged"),
            }
        }
        if !checks.is_empty()
            && let Err(error) = evaluate(&env, checks).await
        {
            tracing::warn!(actor = NOUN, %error, "what was found about channels and pushes could not be told; trying again");
        }
        if refreshed.is_none_or(|at| at.elapsed() + JUDGE / 2 >= channels::REFRESH) {
            refreshed = Some(Instant::now());
            refresh(&env).await;
        }
        if tidied.is_none_or(|at| at.elapsed() >= TIDY) {
            tidied = Some(Instant::now());
            let before = env.now() - TimeDelta::days(env.config().alert.history_days);
            if let Err(error) = env.store().forget_notifications(before).await {
                tracing::warn!(actor = NOUN, %error, "old messages could not be removed");
            }
        }
    }
}

async fn channel_checks(env: &Env) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    for channel in &channels::ALL {
        let row = env.store().channel_row(channel.name).await?;
        if channel.is_on(env.config(), env.secrets()) {
            checks.push(channel_check(env, &row));
        } else if row.last_success.is_some() || row.last_error.is_some() || row.queued > 0 {
            env.store().drop_notifications_of(channel.name, "the channel is off").await?;
            checks.push(Check { ok: Some(true), reason: format!("{} is off", channel.name), ..channel_check(env, &row) });
        }
    }
    Ok(checks)
}

fn channel_check(env: &Env, row: &ChannelRow) -> Check {
    let failing = row.failing_since.filter(|since| env.now() - *since > FAILING);
    let last = row.last_error.as_ref().map(|(_, error)| format!("; its last error: {error}")).unwrap_or_default();
    let minutes = |since: DateTime<Utc>| notify::span((env.now() - since).num_seconds());
    let (ok, value, reason) = if row.dead_since_success > 0 {
        let n = row.dead_since_success;
        (false, format!("{n} given up"), format!("{}: {n} of its messages were given up and none arrived since{last}", row.channel))
    } else if let Some(since) = failing {
        (false, minutes(since), format!("{}: nothing arrives for {}{last}", row.channel, minutes(since)))
    } else {
        (true, "0 given up".to_owned(), format!("{}: nothing that it was given did not arrive", row.channel))
    };
    Check {
        name: "delivery".into(),
        labels: [("channel".to_owned(), row.channel.clone())].into(),
        system: "alerts",
        ok: Some(ok),
        severity: env.config().rules.of("delivery").map_or(Severity::Critical, |rule| rule.severity),
        value: Some(value),
        threshold: "nothing given up, nothing late by more than 10 min".into(),
        reason,
    }
}

/// Tells an Alertmanager again what it was told and what still fires.
async fn refresh(env: &Env) {
    let Some(channel) = Channel::named("alertmanager").filter(|channel| channel.is_on(env.config(), env.secrets())) else { return };
    let told = async {
        let since = env.now() - TimeDelta::days(env.config().alert.history_days);
        let messages = env.store().lasting_notifications(channel.name, since).await?;
        if messages.is_empty() {
            return Ok(());
        }
        let alerts = env.store().alerts(i64::MAX).await?;
        let firing: HashSet<&str> = alerts.iter().filter(|a| a.state == State::Firing).map(|a| a.fingerprint.as_str()).collect();
        // As it was told last.
        let told: BTreeMap<String, Line> =
            messages.into_iter().flat_map(|message| message.alerts).map(|line| (line.fingerprint.clone(), line)).collect();
        let lines: Vec<Line> = told.into_values().filter(|line| !line.resolved && firing.contains(line.fingerprint.as_str())).collect();
        if lines.is_empty() {
            return Ok(());
        }
        let context = Context { http: env.http(), config: env.config(), secrets: env.secrets(), now: env.now(), accepted: &[] };
        if let Err(failure) = channels::refresh(context, &lines, &format!("{}/alerts", env.public_url())).await {
            tracing::warn!(actor = NOUN, channel = channel.name, error = failure.error, "what lasts could not be told again");
        }
        Ok::<_, crate::error::Error>(())
    };
    if let Err(error) = told.await {
        tracing::warn!(actor = NOUN, channel = channel.name, %error, "what lasts could not be read");
    }
}
