//! Objects that changed without an event: those on their way are looked up at the provider, some at every look of the gap finder, and
//! what differs is taken over as far as it can follow. It never takes a state back.

use std::collections::HashSet;

use serde_json::{Value as Json, json};

use super::gaps::{Found, OVERLAP_S};
use crate::{
    domain::ledger,
    env::Env,
    error::{Code, Result},
    providers::{
        STRIPE,
        stripe::{Client, OpenObject},
    },
    store::{GapRow, OpenObjectRow, Origin},
};

/// Objects fetched per kind and look; the next look goes on behind them.
const OBJECTS: i64 = 10;
const CURSOR: &str = "gaps.cursor";

/// Looks at some of the objects that are on their way: one whose state at the provider differs from ours, without an event that is missing
/// or still to come, was changed by something that tells no events.
pub(super) async fn compare_objects(
    env: &Env,
    provider: &Client,
    (until, now): (i64, i64),
    dry_run: bool,
    found: &mut Found,
) -> Result<()> {
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
            "failed".clone_into(&mut gap.state);
        }
    }
    found.note(&gap);
    if dry_run {
        return Ok(());
    }
    let data = json!({"class": gap.class, "kind": row.kind, "ours": row.status, "theirs": status, "error": gap.error});
    store.insert_gap(&gap, env.fact("gap.found", &gap.id, data)).await.map(|_| ())
}
