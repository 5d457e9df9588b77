//! Webhooks: the endpoints, and the sender. A delivery is a row until the endpoint has answered 2xx, so nothing is lost over a
//! restart; what is about one object is sent in the order of creation, signed with real time, and tried again by virtual time.

use std::collections::HashMap;

use futures_util::{StreamExt as _, stream};
use serde_json::{Value as Json, json};

use super::{
    Inner, chance,
    documents::{Kind, Origin, Query, Tx, id_of},
    failure::{Api, Failure},
    form::Params,
    history::Outcome,
};
use crate::{domain::signature, error::Result, store::engine::Row};

/// After the first try: seconds of virtual time until the next ones.
const RETRY_AFTER_S: [i64; 3] = [10, 300, 3600];
/// How long the old secret signs as well after a change.
const ROLL_S: i64 = 86_400;
/// Deliveries read, sent and written down together.
const BATCH: i64 = 500;
/// Deliveries under way at once.
const AT_ONCE: usize = 32;

pub(super) fn create(tx: &mut Tx<'_>, p: Params<'_>) -> Api<Json> {
    p.only(&["url", "enabled_events", "api_version", "description", "metadata", "connect"])?;
    let url = valid_url(p.required("url")?)?;
    let events = p.list("enabled_events");
    if events.is_empty() {
        return Err(Failure::missing_parameter("enabled_events"));
    }
    let secret = format!("whsec_{}", super::random_text(32));
    let mut body = endpoint(tx.now, url, &secret);
    body["enabled_events"] = json!(events);
    p.copy_texts(&mut body, &["description", "api_version"]);
    p.merge_metadata(&mut body);
    tx.put(body.clone());
    // The only time the secret is shown.
    body["secret"] = secret.into();
    Ok(body)
}

fn endpoint(now: i64, url: &str, secret: &str) -> Json {
    json!({
        "id": Kind::WebhookEndpoint.new_id(), "object": "webhook_endpoint", "api_version": null, "application": null, "created": now,
        "description": null, "enabled_events": ["*"], "livemode": false, "metadata": {}, "status": "enabled", "url": url, "_secret": secret,
    })
}

pub(super) async fn update(tx: &mut Tx<'_>, id: &str, p: Params<'_>) -> Api<Json> {
    p.only(&["url", "enabled_events", "disabled", "description", "metadata"])?;
    let mut body = tx.need(Kind::WebhookEndpoint, id, "id").await?;
    if let Some(url) = p.text("url") {
        body["url"] = valid_url(url)?.into();
    }
    let events = p.list("enabled_events");
    if !events.is_empty() {
        body["enabled_events"] = json!(events);
    }
    if let Some(disabled) = p.boolean("disabled")? {
        body["status"] = if disabled { "disabled" } else { "enabled" }.into();
    }
    p.copy_texts(&mut body, &["description"]);
    p.merge_metadata(&mut body);
    tx.put(body.clone());
    Ok(body)
}

pub(super) async fn delete(tx: &mut Tx<'_>, id: &str) -> Api<Json> {
    tx.need(Kind::WebhookEndpoint, id, "id").await?;
    tx.delete(id);
    tx.also("DELETE FROM delivery WHERE endpoint = ?1", vec![id.into()]);
    Ok(json!({ "id": id, "object": "webhook_endpoint", "deleted": true }))
}

fn valid_url(url: &str) -> Api<&str> {
    match reqwest::Url::parse(url) {
        Ok(parsed) if matches!(parsed.scheme(), "http" | "https") && parsed.has_host() => Ok(url),
        _ => Err(Failure::parameter("url_invalid", "url", "Invalid URL: An explicit scheme (such as https) must be provided.")),
    }
}

pub(super) async fn set_daemon_endpoint(tx: &mut Tx<'_>, url: &str, secret: &str) -> Result<()> {
    let found = tx.find(&Query { second: Some("daemon".into()), ..Query::of(Kind::WebhookEndpoint) }).await?.into_iter().next();
    let mut body = found.unwrap_or_else(|| endpoint(tx.now, url, secret));
    body["_daemon"] = true.into();
    body["url"] = url.into();
    roll_secret(&mut body, secret, tx.now);
    tx.put(body);
    Ok(())
}

/// Both secrets sign until the old one has had its time.
pub(super) fn roll_secret(endpoint: &mut Json, secret: &str, now: i64) {
    if endpoint["_secret"] != secret {
        endpoint["_old_secret"] = endpoint["_secret"].take();
        endpoint["_old_secret_until"] = (now + ROLL_S).into();
        endpoint["_secret"] = secret.into();
    }
}

fn secrets(endpoint: &Json, now: i64) -> Vec<&str> {
    let old = endpoint["_old_secret"].as_str().filter(|_| endpoint["_old_secret_until"].as_i64().is_some_and(|until| now < until));
    endpoint["_secret"].as_str().into_iter().chain(old).collect()
}

/// One event on its way to one endpoint.
#[derive(Clone, Debug)]
struct Delivery {
    id: i64,
    event: String,
    endpoint: String,
    attempts: i64,
    copies: i64,
    /// The event as it is sent; none if it is too old to be kept.
    body: Option<String>,
    /// The object that the event is about.
    object: Option<String>,
}

impl Delivery {
    fn of(row: &Row) -> Result<Self> {
        Ok(Self {
            id: row.int(0)?,
            event: row.text(1)?.into(),
            endpoint: row.text(2)?.into(),
            attempts: row.int(3)?,
            copies: row.int(4)?,
            body: row.opt_text(5)?,
            object: row.opt_text(6)?,
        })
    }
}

const DUE: &str =
    "SELECT d.id, d.event, d.endpoint, d.attempts, d.copies, o.body, o.link FROM delivery d LEFT JOIN object o ON o.id = d.event
 WHERE d.state = 'pending' AND d.due <= ?1 ORDER BY d.id LIMIT ?2";
const DELIVERED: &str =
    "UPDATE object SET body = json_set(body, '$.pending_webhooks', max(json_extract(body, '$.pending_webhooks') - 1, 0)),
 status = CASE WHEN json_extract(body, '$.pending_webhooks') > 1 THEN 'false' ELSE 'true' END WHERE id = ?1 AND kind = 'event'";

impl Inner {
    /// Sends everything that is due until nothing is. Many at once, as the provider does; what is about one object goes to an
    /// endpoint one after the other, in the order of creation.
    pub(super) async fn deliver_due(&self) -> Result<()> {
        let _delivering = self.delivering.lock().await;
        loop {
            let (now, reorder, endpoints) = {
                let mut state = self.state.lock().await;
                (self.virtual_now(&mut state), state.chaos.reorder_webhook, state.endpoints.clone())
            };
            let rows = self.engine.read_here(DUE, vec![now.into(), BATCH.into()]).await?;
            if rows.is_empty() {
                return Ok(());
            }
            let mut queue = rows.iter().map(Delivery::of).collect::<Result<Vec<_>>>()?;
            for i in 1..queue.len() {
                if chance(reorder) {
                    queue.swap(i - 1, i);
                }
            }
            // In the order of the first of each, so that an early event is not sent last.
            let mut lanes: Vec<Vec<Delivery>> = Vec::new();
            let mut places: HashMap<(String, String), usize> = HashMap::new();
            for delivery in queue {
                let object = delivery.object.clone().unwrap_or_else(|| delivery.event.clone());
                let place = *places.entry((delivery.endpoint.clone(), object)).or_insert(lanes.len());
                if place == lanes.len() {
                    lanes.push(Vec::new());
                }
                lanes[place].push(delivery);
            }
            let sent = lanes.into_iter().map(|lane| self.deliver_lane(lane, &endpoints, now));
            let tried: Vec<Vec<(Delivery, Vec<Outcome>)>> = stream::iter(sent).buffer_unordered(AT_ONCE).collect().await;
            self.record(tried.into_iter().flatten()).await?;
        }
    }

    async fn deliver_lane(&self, lane: Vec<Delivery>, endpoints: &[Json], now: i64) -> Vec<(Delivery, Vec<Outcome>)> {
        let mut tried = Vec::with_capacity(lane.len());
        for delivery in lane {
            let endpoint = endpoints.iter().find(|e| id_of(e) == delivery.endpoint);
            let outcomes = match (endpoint, &delivery.body) {
                (Some(endpoint), Some(body)) => self.send(&delivery, endpoint, body, now).await,
                _ => Vec::new(),
            };
            tried.push((delivery, outcomes));
        }
        tried
    }

    /// One try, or as many as there are copies; the first that the endpoint does not answer with 2xx is the last.
    async fn send(&self, delivery: &Delivery, endpoint: &Json, body: &str, now: i64) -> Vec<Outcome> {
        let Some(url) = endpoint["url"].as_str().filter(|_| endpoint["status"] == "enabled") else { return Vec::new() };
        let mut outcomes = Vec::new();
        for _ in 0..delivery.copies {
            let header = signature::header(&secrets(endpoint, now), self.real_now(), body.as_bytes());
            let answer = self
                .client()
                .post(url)
                .header("content-type", "application/json; charset=utf-8")
                .header("user-agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)")
                .header("stripe-signature", header)
                .body(body.to_owned())
                .send()
                .await;
            let outcome = match answer {
                Ok(answer) => Outcome::Answered(answer.status().as_u16()),
                Err(error) => Outcome::Silent(if error.is_timeout() { "no answer in time" } else { "no connection" }.to_owned()),
            };
            tracing::debug!(target: "sandbox", event = delivery.event, ?outcome, "a webhook was sent");
            let ended = !outcome.delivered();
            outcomes.push(outcome);
            if ended {
                break;
            }
        }
        outcomes
    }

    /// Writes down what became of a batch, in one commit: one that is lost is sent again, which the endpoint must bear.
    async fn record(&self, tried: impl Iterator<Item = (Delivery, Vec<Outcome>)>) -> Result<()> {
        let mut tx = self.begin(Origin::default()).await;
        let at = tx.now;
        for (delivery, outcomes) in tried {
            for outcome in &outcomes {
                outcome.write(&mut tx, &delivery.event, &delivery.endpoint, at);
            }
            if outcomes.last().is_some_and(Outcome::delivered) {
                tx.also("DELETE FROM delivery WHERE id = ?1", vec![delivery.id.into()]);
                tx.also(DELIVERED, vec![delivery.event.into()]);
            } else {
                let wait = usize::try_from(delivery.attempts).ok().and_then(|attempt| RETRY_AFTER_S.get(attempt));
                let due = wait.map(|wait| at + wait);
                tx.also(
                    "UPDATE delivery SET attempts = attempts + 1, due = ?2, state = ?3 WHERE id = ?1",
                    vec![delivery.id.into(), due.into(), if due.is_some() { "pending" } else { "failed" }.into()],
                );
            }
        }
        tx.commit().await
    }
}
