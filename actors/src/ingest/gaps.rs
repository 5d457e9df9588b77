//! The gap finder: compares what was received with the provider's own list of events and with the objects that are on their way, and
//! fills what is missing through the same path that deliveries go. Owned by the ingest actor, at work in tasks of its own, so that
//! questions are answered meanwhile. A list that could not be read is an error and never "nothing is missing".

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value as Json, json};
use tokio::{sync::Mutex, task::JoinSet};

use super::{NOUN, read, wake};
use crate::{
    actor::{Reply, respond},
    alert,
    domain::{
        alert_rule::{Check, Severity},
        ledger,
    },
    env::{Env, rfc3339},
    error::{Code, Error, Result},
    operations::resume_refunds,
    providers::{
        STRIPE,
        stripe::{Client, OpenObject},
    },
    store::{GapRow, OpenObjectRow, Origin},
};

/// How long the provider keeps events, and how long we keep answered calls.
const KEPT: TimeDelta = TimeDelta::days(30);
/// A look begins this long before where the last one ended: an event may appear in the list late.
const OVERLAP_S: i64 = 3600;
/// The whole list is looked at this often.
const FULL: TimeDelta = TimeDelta::days(1);
/// After a look that failed the next comes sooner than usual.
const AGAIN: Duration = Duration::from_secs(30);
/// How often one failed event is put back by looks; after that it is a person's.
const ATTEMPTS: i64 = 3;
/// Objects fetched per kind and look; the next look goes on behind them.
const OBJECTS: i64 = 10;
/// What was filled is processed within this time, or the next look sees what became of it.
const PROCESSING: Duration = Duration::from_secs(10);
/// Gaps that one answer lists.
const LISTED: usize = 100;
/// Looks that may wait for each other.
const WAITING: usize = 8;

const LAST: &str = "gaps.last";
const LOOKED_UNTIL: &str = "gaps.looked_until";
const FULL_AT: &str = "gaps.full_at";
const CURSOR: &str = "gaps.cursor";

/// The tasks of the finder; they end with it.
#[derive(Debug)]
pub(super) struct Finder {
    env: Env,
    work: JoinSet<()>,
    at_work: Arc<Mutex<()>>,
}

impl Finder {
    /// Looks by itself from now on, if it is to.
    pub(super) fn start(env: &Env, by_itself: bool) -> Self {
        let mut finder = Self { env: env.clone(), work: JoinSet::new(), at_work: Arc::default() };
        if by_itself {
            finder.work.spawn(keep_looking(env.clone(), finder.at_work.clone()));
        }
        finder
    }

    /// Looks at the whole list, after whatever look is going on.
    pub(super) fn scan(&mut self, dry_run: bool, reply: Reply<Json>) {
        while self.work.try_join_next().is_some() {}
        if self.work.len() > WAITING {
            return respond(reply, Err(Error::unavailable("scan_running", "so many looks wait already")));
        }
        let (env, at_work) = (self.env.clone(), self.at_work.clone());
        self.work.spawn(async move {
            let _at_work = at_work.lock().await;
            respond(reply, look(&env, true, dry_run).await);
        });
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
                AGAIN.min(every)
            }
        };
        tokio::time::sleep(wait).await;
    }
}

async fn is_full_due(env: &Env) -> Result<bool> {
    let last = env.store().meta(FULL_AT).await?.and_then(|at| at.parse::<DateTime<Utc>>().ok());
    Ok(last.is_none_or(|at| at > env.now() || env.now() - at >= FULL))
}

/// What one look has found so far.
#[derive(Debug, Default)]
struct Found {
    looked_at: usize,
    never_delivered: usize,
    failed_here: usize,
    changed_outside: usize,
    listed: Vec<Json>,
}

impl Found {
    fn note(&mut self, gap: &GapRow) {
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
    compare_objects(env, &provider, (until, now), dry_run, &mut found).await?;
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
    if let Err(error) = alert::evaluate(env, vec![check(failed)]).await {
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

/// Looks at some of the objects that are on their way: one whose state at the provider differs from ours, without an event that is missing
/// or still to come, was changed by something that tells no events.
async fn compare_objects(env: &Env, provider: &Client, (until, now): (i64, i64), dry_run: bool, found: &mut Found) -> Result<()> {
    let store = env.store();
    let livemode = env.config().provider.mode.is_live();
    let mut cursors: Json = store.meta(CURSOR).await?.and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_else(|| json!({}));
    let mut talked_of = None;
    for kind in OpenObject::ALL {
        let after = cursors[kind.kind()].as_str().unwrap_or_default().to_owned();
        let rows = store.open_objects(kind.kind(), livemode, until, &after, OBJECTS).await?;
        let is_last = i64::try_from(rows.len()).unwrap_or(OBJECTS) < OBJECTS;
        cursors[kind.kind()] = rows.last().filter(|_| !is_last).map_or("", |row| &row.id).into();
        for row in &rows {
            let theirs = match provider.object(kind, &row.id).await {
                Ok(answer) if answer.body["deleted"] == true => None,
                Ok(answer) if answer.body["status"] == row.status.as_str() => continue,
                Ok(answer) => Some(answer),
                Err(error) if error.code == Code::NotFound => None,
                Err(error) => return Err(error),
            };
            if talked_of.is_none() {
                talked_of = Some(young_objects(provider, until, now).await?);
            }
            let is_young = talked_of.as_ref().is_some_and(|young| young.contains(&row.id));
            let same = store.object(&row.kind, &row.id).await?.is_some_and(|ours| ours.status == row.status);
            if same && !is_young {
                adopt(env, row, theirs.as_ref().map(|a| (&a.body, a.provider_now.timestamp())), now, dry_run, found).await?;
            }
        }
    }
    if dry_run { Ok(()) } else { store.set_meta(CURSOR, &cursors.to_string()).await }
}

/// The objects that events within the grace are about.
async fn young_objects(provider: &Client, until: i64, now: i64) -> Result<HashSet<String>> {
    let (mut ids, mut pages) = (HashSet::new(), provider.event_pages(until, now.saturating_add(OVERLAP_S)));
    while let Some(page) = pages.next().await? {
        ids.extend(page.iter().filter_map(|e| e["data"]["object"]["id"].as_str()).map(str::to_owned));
    }
    Ok(ids)
}

/// Takes over the state that the provider has, as far as it can follow ours, and writes down that it came without an event.
async fn adopt(env: &Env, row: &OpenObjectRow, theirs: Option<(&Json, i64)>, now: i64, dry_run: bool, found: &mut Found) -> Result<()> {
    let store = env.store();
    let status = theirs.map(|(body, _)| body["status"].as_str().unwrap_or_default().to_owned());
    let mut gap = GapRow {
        id: format!("{}/{}/{}", row.kind, row.id, status.as_deref().unwrap_or("gone")),
        class: "changed_outside".to_owned(),
        event_type: row.kind.clone(),
        object_id: Some(row.id.clone()),
        created: now,
        state: "filled".to_owned(),
        attempts: 1,
        error: None,
        detail: Some(json!({"ours": row.status, "theirs": status})),
        found_at: env.now(),
        ended_at: Some(env.now()),
    };
    if store.gap(&gap.id).await?.is_some() {
        return Ok(()); // known: it is said once
    }
    if let (Some((body, at)), false) = (theirs, dry_run) {
        let livemode = env.config().provider.mode.is_live();
        let origin = Origin { provider: STRIPE, livemode, event_id: None, origin: "backfill", at, now: env.now() };
        match ledger::from_answer(body, at) {
            Ok(Some(applied)) => store.book(&applied, &origin).await?,
            Ok(None) => {}
            Err(field) => gap.error = Some(format!("the provider's {}: {field}", row.kind)),
        }
        let ours = store.object(&row.kind, &row.id).await?.map(|o| o.status);
        if ours != status && gap.error.is_none() {
            gap.error = Some(format!("{} cannot follow {}", status.as_deref().unwrap_or("nothing"), row.status));
        }
        if gap.error.is_some() {
            gap.state = "failed".to_owned();
        }
    }
    found.note(&gap);
    if dry_run {
        return Ok(());
    }
    let data = json!({"class": gap.class, "kind": row.kind, "ours": row.status, "theirs": status, "error": gap.error});
    store.insert_gap(&gap, env.fact("gap.found", &gap.id, data)).await.map(|_| ())
}

/// Writes down what became of the gaps that were found; answers how many could not be filled.
async fn settle(env: &Env, dry_run: bool) -> Result<usize> {
    let store = env.store();
    let mut failed = 0;
    for (gap, event, error) in store.open_gaps(10_000).await? {
        let (state, error) = match event.as_deref() {
            Some("processed" | "ignored") => ("filled", None),
            Some("failed") => ("failed", error.or(gap.error.clone())),
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
