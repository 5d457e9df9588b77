//! Lets stored events be processed again, one by one or by a filter. Called by the gateway and the command line. They go the way that
//! every event goes, so one that was processed changes nothing; one that failed gets all its attempts back. Who asked is in the journal.

use serde_json::{Value as Json, json};

use crate::{
    env::{Env, rfc3339},
    error::{Error, Result},
    ingest,
    store::{EventFilter, EventRow},
};

/// Events replayed by one request, at most.
pub const MOST: i64 = 1000;

/// Which events.
#[derive(Clone, Debug)]
pub enum Which {
    /// These; one that is not there is an error.
    Ids(Vec<String>),
    /// Those that a list with this filter shows.
    Filter(EventFilter),
}

/// Replays: `{"ok","matched","replayed","waiting","dry_run","events":[{"event_id",...}]}`; `waiting` are those that wait to be processed
/// anyway. With `dry_run` nothing is done. Errors: `not_found`, naming the first id that is not there.
pub async fn replay(env: &Env, which: &Which, dry_run: bool, asked_by: &str) -> Result<Json> {
    let store = env.store();
    let events = match which {
        Which::Filter(filter) => store.events(filter).await?,
        Which::Ids(ids) => {
            let mut events = Vec::new();
            for id in ids {
                let found = store.event(id).await?.ok_or_else(|| Error::not_found(format!("there is no event {id}")))?;
                events.push(found.0);
            }
            events
        }
    };
    let mut replayed = 0;
    // Oldest first, as they came; the order does not matter for what they come to.
    for event in events.iter().rev().filter(|_| !dry_run) {
        let data = json!({"by": asked_by, "type": event.event_type, "was": event.status});
        let fact = env.fact("webhook.replayed", &event.event_id, data);
        replayed += usize::from(store.replay_event(&event.event_id, env.now(), fact).await?);
    }
    if replayed > 0 {
        ingest::wake(env);
    }
    let waiting = if dry_run { events.iter().filter(|e| e.status == "received").count() } else { events.len() - replayed };
    let views: Vec<Json> = events.iter().map(view).collect();
    Ok(json!({"ok": true, "matched": events.len(), "replayed": replayed, "waiting": waiting, "dry_run": dry_run, "events": views}))
}

/// An event as the API and the command line show it; its body is not among it.
pub fn view(event: &EventRow) -> Json {
    json!({
        "event_id": event.event_id, "event_type": event.event_type, "created": event.created, "received_at": rfc3339(event.received_at),
        "livemode": event.livemode, "status": event.status, "attempts": event.attempts, "error": event.error,
        "object_id": event.object_id, "object_state": event.object_state, "duplicates": event.duplicates, "origin": event.origin,
        "same_fact_as": event.same_fact_as,
    })
}
