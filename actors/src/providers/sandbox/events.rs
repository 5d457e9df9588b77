//! Events: one for every change, stored with the change, and one delivery row per endpoint that wants it. Called by the
//! handlers and by the clock. Nothing is sent from here: `webhooks.rs` sends what the rows say.

use serde_json::{Value as Json, json};

use super::documents::{Kind, Tx, id_of, public};
use crate::providers::stripe::API_VERSION;

impl Tx<'_> {
    /// Records that an object changed, with the old values of the members that did.
    pub(super) fn emit_change(&mut self, kind: &str, before: &Json, after: &Json) {
        let changed = |(name, value): &(&String, &Json)| !name.starts_with('_') && after[name.as_str()] != **value;
        let previous = before.as_object().map(|map| map.iter().filter(changed).map(|(k, v)| (k.clone(), v.clone())).collect());
        self.emit(kind, after, previous);
    }

    /// Records that `object` changed. `previous` holds the old values of changed members, for `*.updated`.
    pub(super) fn emit(&mut self, kind: &str, object: &Json, previous: Option<Json>) {
        let endpoints: Vec<String> =
            self.endpoints().iter().filter(|e| wants(e, kind)).map(|endpoint| id_of(endpoint).to_owned()).collect();
        let id = Kind::Event.new_id();
        let mut data = json!({ "object": public(object.clone(), &self.base()) });
        if let Some(previous) = previous {
            data["previous_attributes"] = previous;
        }
        self.put(json!({
            "id": id,
            "object": "event",
            "api_version": API_VERSION,
            "created": self.now,
            "data": data,
            "livemode": false,
            "pending_webhooks": endpoints.len(),
            "request": { "id": self.origin.request, "idempotency_key": self.origin.key },
            "type": kind,
        }));
        if endpoints.is_empty() {
            return;
        }
        // One decision per event, so that its retries share its fate.
        let dropped = super::chance(self.chaos.drop_webhook);
        let copies = if super::chance(self.chaos.duplicate_webhook) { 2 } else { 1 };
        let due = self.now + self.chaos.delay_webhook_s;
        for endpoint in endpoints {
            self.also(
                "INSERT INTO delivery (event, endpoint, attempts, due, state, copies) VALUES (?1, ?2, 0, ?3, ?4, ?5)",
                vec![
                    id.as_str().into(),
                    endpoint.into(),
                    due.into(),
                    if dropped { "dropped" } else { "pending" }.into(),
                    i64::from(copies).into(),
                ],
            );
        }
    }
}

fn wants(endpoint: &Json, kind: &str) -> bool {
    endpoint["status"] == "enabled"
        && endpoint["enabled_events"].as_array().is_some_and(|events| events.iter().any(|e| e == "*" || e == kind))
}
