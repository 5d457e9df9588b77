//! What became of an event's deliveries: every try with its time and the endpoint's answer. Written by the sender, read by
//! `/_control/events`; kept as long as the events.

use serde_json::{Value as Json, json};

use super::{
    Inner,
    documents::{Kind, Origin, Tx},
};
use crate::{
    error::{Error, Result},
    store::engine::Engine as _,
};

/// How a try ended.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// The endpoint answered with this status.
    Answered(u16),
    /// There was no answer, for this reason.
    Silent(String),
}

impl Outcome {
    pub(super) fn delivered(&self) -> bool {
        matches!(self, Self::Answered(200..=299))
    }

    /// Adds the try to the transaction that records what follows from it.
    pub(super) fn write(&self, tx: &mut Tx<'_>, event: &str, endpoint: &str, at: i64) {
        let (code, error) = match self {
            Self::Answered(code) => (Some(i64::from(*code)), None),
            Self::Silent(why) => (None, Some(why.as_str())),
        };
        tx.also(
            "INSERT INTO attempt (event, endpoint, at, code, error) VALUES (?1, ?2, ?3, ?4, ?5)",
            vec![event.into(), endpoint.into(), at.into(), code.into(), error.into()],
        );
    }
}

/// `{"events":[{"id","type","created","pending_webhooks"}]}`, the newest hundred first.
pub(super) async fn newest(inner: &Inner) -> Result<Json> {
    let rows = inner.engine.read("SELECT body FROM object WHERE kind = 'event' ORDER BY seq DESC LIMIT 100", Vec::new()).await?;
    let bodies = rows.iter().map(|row| row.json(0)).collect::<Result<Vec<Json>>>()?;
    Ok(json!({ "events": bodies.iter().map(head).collect::<Vec<_>>() }))
}

fn head(event: &Json) -> Json {
    json!({
        "id": event["id"], "type": event["type"], "created": event["created"], "object": event["data"]["object"]["id"],
        "pending_webhooks": event["pending_webhooks"],
    })
}

/// The event's head with `deliveries`: per endpoint its `state` (`delivered | pending | failed | dropped`), the next try in
/// virtual time and every try so far.
pub(super) async fn of_event(inner: &Inner, id: &str) -> Result<Json> {
    let tx = inner.begin(Origin::default()).await;
    let event = tx.get(Kind::Event, id).await?.ok_or_else(|| Error::not_found(format!("there is no event {id}")))?;
    let waiting = tx.read("SELECT endpoint, state, due FROM delivery WHERE event = ?1 ORDER BY id", vec![id.into()]).await?;
    let tries = tx.read("SELECT endpoint, at, code, error FROM attempt WHERE event = ?1 ORDER BY id", vec![id.into()]).await?;
    let mut deliveries: Vec<Json> = Vec::new();
    for row in &waiting {
        deliveries.push(json!({ "endpoint": row.text(0)?, "state": row.text(1)?, "next_at": row.opt_int(2)?, "attempts": [] }));
    }
    for row in &tries {
        let endpoint = row.text(0)?;
        let attempt = json!({ "at": row.int(1)?, "code": row.opt_int(2)?, "error": row.opt_text(3)? });
        let known = deliveries.iter().position(|d| d["endpoint"] == endpoint);
        let place = known.unwrap_or_else(|| {
            // The row of a delivery goes when the endpoint has it.
            deliveries.push(json!({ "endpoint": endpoint, "state": "delivered", "next_at": null, "attempts": [] }));
            deliveries.len() - 1
        });
        if let Some(list) = deliveries[place]["attempts"].as_array_mut() {
            list.push(attempt);
        }
    }
    for delivery in deliveries.iter_mut().filter(|d| d["state"] != "pending") {
        delivery["next_at"] = Json::Null;
    }
    let mut answer = head(&event);
    answer["deliveries"] = deliveries.into();
    Ok(answer)
}
