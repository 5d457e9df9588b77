//! The gap finder: compares what was received with the provider's own list of events (the objects are in `outside.rs`), and
//! fills what is missing through the same path that deliveries go. Owned by the ingest actor, at work in tasks of its own, so that
//! questions are answered meanwhile. A list that could not be read is an error and never "nothing is missing".

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value as Json, json};
use tokio::{sync::Mutex, task::JoinSet};

use super::{NOUN, outside, read, wake};
use crate::{
    actor::{Reply, respond},
    alert,
    domain::alert_rule::{Check, Severity},
    env::{Env, rfc3339},
    error::{Error, Result},
    operations::resume_refunds,
    providers::stripe::Client,
    store::GapRow,
};

/// How long the provider keeps events, and how long we keep answered calls.
const KEPT: TimeDelta = TimeDelta::days(30);
/// A look begins this long before where the last one ended: an event may appear in the list late.
pub(super) const OVERLAP_S: i64 = 3600;
/// The whole list is looked at this often.
const FULL: TimeDelta = TimeDelta::days(1);
/// After a look that failed the next comes sooner than usual.
const AGAIN: Duration = Duration::from_secs(30);
/// How often one failed event is put back by looks; after that it is a person's.
const ATTEMPTS: i64 = 3;
/// After so long without a look nobody knows what is missing, and somebody is told.
const BLIND: TimeDelta = TimeDelta::hours(1);
/// What was filled is processed within this time, or the next look sees what became of it.
const PROCESSING: Duration = Duration::from_secs(10);
/// Gaps that one answer lists.
const LISTED: usize = 100;
/// Looks that may wait for each other.
const WAITING: usize = 8;

const LAST: &str = "gaps.last";
const LOOKED_UNTIL: &str = "gaps.looked_until";
const FULL_AT: &str = "gaps.full_at";

/// The tasks of the finder; they end with it.
#[derive(Debug)]
pub(super) struct Finder {
    env: Env,
    /// The one that looks by itself, if it does.
    looker: JoinSet<()>,
    /// Those that were asked for.
    work: JoinSet<()>,
    at_work: Arc<Mutex<()>>,
}

impl Finder {
    /// Looks by itself from now on, if it is to.
    pub(super) fn start(env: &Env, by_itself: bool) -> Self {
        let mut finder = Self { env: env.clone(), looker: JoinSet::new(), work: JoinSet::new(), at_work: Arc::default() };
        if by_itself {
            finder.looker.spawn(keep_looking(env.clone(), finder.at_work.clone()));
        }
        finder
    }

    /// Looks at the whole list, after whatever look is going on.
    pub(super) fn scan(&mut self, dry_run: bool, reply: Reply<Json>) {
        while self.work.try_join_next().is_some() {}
        if self.work.len() >= WAITING {
            return respond(reply, Err(Error::unavailable("scan_running", "so many looks wait already")));
        }
        let (env, at_work) = (self.env.clone(), self.at_work.clone());
        self.work.spawn(async move {
            let _at_work = at_work.lock().await;
            respond(reply, look(&env, true, dry_run).await);
        });
    }

    /// Errors: `internal` if the task that looks by itself has ended, which it never does of its own accord: the actor starts anew then.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.looker.try_join_next() {
            Some(end) => Err(Error::internal(format!("the gap finder has ended: {end:?}"))),
            None => Ok(()),
        }
    }

    pub(super) fn is_scanning(&self) -> bool {
        self.at_work.try_lock().is_err()
    }
}

async fn keep_looking(env: Env, at_work: Arc<Mutex<()>>) {
    let every = Duration::from_secs(env.config().recon.gap_every_s);
    let (mut first, mut complained) = (true, false);
    loop {
        let result = {
            let _at_work = at_work.lock().await;
            match is_full_due(&env).await {
                Ok(due) => look(&env, first || due, false).await,
                Err(error) => Err(error),
            }
        };
        let wait = match result {
            Ok(_) => {
                (first, complained) = (false, false);
                every
            }
            Err(error) => {
                if !complained {
                    tracing::warn!(actor = NOUN, %error, "the events received could not be compared with the provider's");
                }
                complained = true;
                if let Err(error) = say_if_blind(&env, &error).await {
                    tracing::warn!(actor = NOUN, %error, "the alerts were not told that nothing can be compared");
                }
                AGAIN.min(every)
            }
        };
        tokio::time::sleep(wait).await;
    }
}

async fn say_if_blind(env: &Env, error: &Error) -> Result<()> {
    let last: Option<Json> = env.store().meta(LAST).await?.and_then(|t| serde_json::from_str(&t).ok());
    let last = last.and_then(|l| l["at"].as_str()?.parse::<DateTime<Utc>>().ok());
    let since = last.map_or(env.started_at(), |at| at.max(env.started_at()));
    let limit = BLIND.max(TimeDelta::seconds(i64::try_from(3 * env.config().recon.gap_every_s).unwrap_or(i64::MAX / 1000)));
    if env.now() - since > limit {
        alert::evaluate(env, vec![sight(Some((since, error)))]).await?;
    }
    Ok(())
}

/// Whether the provider's events can be compared with ours; `blind` is since when not, and why.
fn sight(blind: Option<(DateTime<Utc>, &Error)>) -> Check {
    Check {
        name: "webhook_gap_finder".into(),
        system: "payments",
        ok: Some(blind.is_none()),
        severity: Severity::Critical,
        value: None,
        threshold: format!("a look within {} min", BLIND.num_minutes()),
        reason: blind.map_or_else(
            || "the provider's events are compared with ours".into(),
            |(since, error)| format!("the provider's events could not be compared with ours since {}: {}", rfc3339(since), error.message),
        ),
        ..Check::default()
    }
}

async fn is_full_due(env: &Env) -> Result<bool> {
    let last = env.store().meta(FULL_AT).await?.and_then(|at| at.parse::<DateTime<Utc>>().ok());
    Ok(last.is_none_or(|at| at > env.now() || env.now() - at >= FULL))
}

/// What one look has found so far.
#[derive(Debug, Default)]
pub(super) struct Found {
    looked_at: usize,
    never_delivered: usize,
    failed_here: usize,
    changed_outside: usize,
    listed: Vec<Json>,
}

impl Found {
    pub(super) fn note(&mut self, gap: &GapRow) {
        match gap.class.as_str() {
            "never_delivered" => self.never_delivered += 1,
            "failed_here" => self.failed_here += 1,
            _ => self.changed_outside += 1,
        }
        if self.listed.len() < LISTED {
            self.listed.push(view(gap));
        }
    }
}

/// One look. With `dry_run` it changes nothing and is not remembered.
async fn look(env: &Env, full: bool, dry_run: bool) -> Result<Json> {
    let store = env.store();
    let provider = env.provider().background();
    let now = provider.now().await?.timestamp();
    let until = now - env.config().recon.gap_grace_s;
    let oldest = now - KEPT.num_seconds();
    let looked_until = store.meta(LOOKED_UNTIL).await?.and_then(|t| t.parse::<i64>().ok()).filter(|t| *t <= now);
    let (from, full) = match looked_until {
        Some(looked) if !full => ((looked - OVERLAP_S).max(oldest), false),
        _ => (oldest, true), // a clock that went back is another provider: its whole list is looked at
    };
    let mut found = Found::default();
    compare_events(env, &provider, (from, until), dry_run, &mut found).await?;
    if !dry_run {
        wake(env);
        await_processing(env).await?;
    }
    outside::compare_objects(env, &provider, (until, now), dry_run, &mut found).await?;
    if !dry_run {
        resume_refunds::follow_pending(env).await?;
    }
    let failed = settle(env, dry_run).await?;
    let report = json!({
        "at": rfc3339(env.now()), "provider_now": now, "from": from, "until": until, "full": full, "dry_run": dry_run,
        "looked_at": found.looked_at, "never_delivered": found.never_delivered, "failed_here": found.failed_here,
        "changed_outside": found.changed_outside, "not_filled": failed, "gaps": found.listed,
    });
    if dry_run {
        return Ok(report);
    }
    store.set_meta(LOOKED_UNTIL, &until.to_string()).await?;
    if full {
        store.set_meta(FULL_AT, &rfc3339(env.now())).await?;
        store.prune_calls(env.now() - KEPT).await?;
    }
    store.set_meta(LAST, &report.to_string()).await?;
    if let Err(error) = alert::evaluate(env, vec![check(failed), sight(None)]).await {
        tracing::warn!(actor = NOUN, %error, "the alerts were not told of the gaps");
    }
    Ok(report)
}

fn check(failed: usize) -> Check {
    Check {
        name: "webhook_gaps".into(),
        system: "payments",
        ok: Some(failed == 0),
        severity: Severity::Critical,
        value: Some(format!("{failed} gaps")),
        threshold: "0 gaps that could not be filled".into(),
        reason: if failed == 0 {
            "every event of the provider has been processed here".into()
        } else {
            format!("{failed} events or changes at the provider could not be processed here: `echopilot webhooks gaps` names them")
        },
        ..Check::default()
    }
}

/// Compares the provider's list with ours, page by page, and puts in what is missing.
async fn compare_events(env: &Env, provider: &Client, (from, until): (i64, i64), dry_run: bool, found: &mut Found) -> Result<()> {
    let mut pages = provider.event_pages(from, until);
    while let Some(page) = pages.next().await? {
        let times = || page.iter().filter_map(|e| e["created"].as_i64());
        let (Some(first), Some(last)) = (times().min(), times().max()) else { continue };
        let known: HashMap<String, String> = env.store().event_statuses(first, last).await?.into_iter().collect();
        found.looked_at += page.len();
        for event in &page {
            match event["id"].as_str().and_then(|id| known.get(id)).map(String::as_str) {
                None => fill(env, event, dry_run, found).await?,
                Some("failed") => put_back(env, event, dry_run, found).await?,
                Some(_) => {}
            }
        }
    }
    Ok(())
}

fn gap(env: &Env, class: &str, event: &Json) -> GapRow {
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    GapRow {
        id: text(&event["id"]),
        class: class.to_owned(),
        event_type: text(&event["type"]),
        object_id: event["data"]["object"]["id"].as_str().map(str::to_owned),
        created: event["created"].as_i64().unwrap_or_default(),
        state: "found".to_owned(),
        attempts: 1,
        error: None,
        detail: None,
        found_at: env.now(),
        ended_at: None,
    }
}

/// An event that never came: stored as if it had, with its origin.
async fn fill(env: &Env, event: &Json, dry_run: bool, found: &mut Found) -> Result<()> {
    let gap = gap(env, "never_delivered", event);
    found.note(&gap);
    if dry_run {
        return Ok(());
    }
    let (store, body) = (env.store(), event.to_string());
    // First what is missing, then that it is there: a crash between the two leaves a gap that the next look closes.
    store.insert_gap(&gap, env.fact("gap.found", &gap.id, json!({"class": gap.class, "type": gap.event_type}))).await?;
    let new = match read(event) {
        Ok(new) if new.livemode == env.config().provider.mode.is_live() => new,
        Ok(_) => return refuse(env, &gap, "its livemode does not agree with the provider mode").await,
        Err(error) => return refuse(env, &gap, &error.message).await,
    };
    let new = crate::store::NewEvent { received_at: env.now(), origin: "backfill", body, ..new };
    store.insert_event(new, env.fact("webhook.backfilled", &gap.id, json!({"type": gap.event_type}))).await?;
    Ok(())
}

async fn refuse(env: &Env, gap: &GapRow, why: &str) -> Result<()> {
    let fact = env.fact("gap.failed", &gap.id, json!({"error": why}));
    env.store().set_gap(&gap.id, "failed", Some(why), env.now(), fact).await.map(|_| ())
}

/// An event that came and failed here: it gets its attempts back, a few times in all.
async fn put_back(env: &Env, event: &Json, dry_run: bool, found: &mut Found) -> Result<()> {
    let (store, gap) = (env.store(), gap(env, "failed_here", event));
    found.note(&gap);
    if dry_run {
        return Ok(());
    }
    let new = store.insert_gap(&gap, env.fact("gap.found", &gap.id, json!({"class": gap.class, "type": gap.event_type}))).await?;
    if !new {
        match store.gap(&gap.id).await? {
            Some(before) if before.attempts < ATTEMPTS => store.try_gap(&gap.id).await?,
            _ => return Ok(()),
        }
    }
    store.replay_event(&gap.id, env.now(), env.fact("webhook.replayed", &gap.id, json!({"by": "gap finder"}))).await?;
    Ok(())
}

/// Waits until what was put in has been dealt with, for a while.
async fn await_processing(env: &Env) -> Result<()> {
    let start = tokio::time::Instant::now();
    while start.elapsed() < PROCESSING {
        let open = env.store().open_gaps(1000).await?;
        if !open.iter().any(|(gap, event, _)| gap.state == "found" && event.as_deref() == Some("received")) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Writes down what became of the gaps that were found; answers how many could not be filled.
async fn settle(env: &Env, dry_run: bool) -> Result<usize> {
    let store = env.store();
    let mut failed = 0;
    for (gap, event, error) in store.open_gaps(10_000).await? {
        let (state, error) = match event.as_deref() {
            Some("processed" | "ignored") => ("filled", None),
            Some("failed") => ("failed", error.or(gap.error.clone())),
            None if has_gone_on(env, &gap).await? => ("filled", None),
            _ => (gap.state.as_str(), gap.error.clone()),
        };
        failed += usize::from(state == "failed");
        if !dry_run && (state != gap.state || error != gap.error) {
            let kind = if state == "filled" { "gap.filled" } else { "gap.failed" };
            let fact = env.fact(kind, &gap.id, json!({"class": gap.class, "error": error}));
            store.set_gap(&gap.id, state, error.as_deref(), env.now(), fact).await?;
        }
    }
    Ok(failed)
}

/// Whether an object whose change could not be taken over has left the state in which it stood here then.
async fn has_gone_on(env: &Env, gap: &GapRow) -> Result<bool> {
    let Some(id) = gap.object_id.as_deref().filter(|_| gap.class == "changed_outside") else { return Ok(false) };
    let ours = gap.detail.as_ref().and_then(|d| d["ours"].as_str());
    Ok(env.store().object(&gap.event_type, id).await?.is_some_and(|object| Some(object.status.as_str()) != ours))
}

/// A gap as the API and the command line show it.
pub fn view(gap: &GapRow) -> Json {
    json!({
        "id": gap.id, "class": gap.class, "event_type": gap.event_type, "object_id": gap.object_id, "created": gap.created,
        "state": gap.state, "attempts": gap.attempts, "error": gap.error, "detail": gap.detail, "found_at": rfc3339(gap.found_at),
        "ended_at": gap.ended_at.map(rfc3339),
    })
}

/// Where the finder stands.
pub(super) async fn state(env: &Env, scanning: bool) -> Result<Json> {
    let store = env.store();
    let last: Option<Json> = store.meta(LAST).await?.and_then(|t| serde_json::from_str(&t).ok());
    let every = TimeDelta::seconds(i64::try_from(env.config().recon.gap_every_s).unwrap_or(i64::MAX / 1_000_000));
    let at = last.as_ref().and_then(|l| l["at"].as_str()).and_then(|at| at.parse::<DateTime<Utc>>().ok());
    let mut counts = json!({"never_delivered": {}, "failed_here": {}, "changed_outside": {}});
    for (class, state, count) in store.gap_counts().await? {
        counts[class][state] = count.into();
    }
    let word = if scanning {
        "scanning"
    } else if last.is_some() {
        "idle"
    } else {
        "never"
    };
    Ok(json!({"ok": true, "state": word, "last": last, "next_at": at.map(|at| rfc3339(at + every)), "counts": counts}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, until};

    #[tokio::test]
    async fn a_finder_whose_task_has_ended_says_so_and_one_that_was_never_to_look_does_not() {
        let fixture = testing::fixture("2026-03-01T10:00:00Z");
        let mut finder = Finder::start(&fixture.env, false);
        assert!(finder.check().is_ok());
        finder.looker.spawn(async {});
        let finder = std::cell::RefCell::new(finder);
        until("its end is noticed", || async { finder.borrow_mut().check().is_err() }).await;
    }

    #[tokio::test]
    async fn a_provider_that_does_not_answer_is_an_error_and_nothing_is_remembered_as_looked_at() {
        let fixture = testing::fixture("2026-03-01T10:00:00Z"); // nobody answers at its provider's address
        let error = look(&fixture.env, true, false).await.unwrap_err();
        assert_eq!(error.reason, "provider_unavailable");
        for key in [LAST, LOOKED_UNTIL, FULL_AT] {
            assert_eq!(fixture.env.store().meta(key).await.unwrap(), None, "{key}");
        }
        assert_eq!(state(&fixture.env, false).await.unwrap()["state"], "never");
    }
}
