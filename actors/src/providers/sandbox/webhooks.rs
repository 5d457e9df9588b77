//! Webhooks: the endpoints, and the sender. A delivery is a row until the endpoint has answered 2xx, so nothing is lost over a
//! restart; it is sent in the order of creation per endpoint, signed with real time, and tried again by virtual time.

use futures_util::future::join_all;
use serde_json::{Value as Json, json};

use super::{
    Inner, chance,
    documents::{Kind, Origin, Query, Tx, id_of},
    failure::{Api, Failure},
    form::Params,
    history::Outcome,
};
use crate::{domain::signature, error::Result, store::engine::Engine as _};

/// After the first try: seconds of virtual time until the next ones.
const RETRY_AFTER_S: [i64; 3] = [10, 300, 3600];
/// How long the old secret signs as well after a change.
const ROLL_S: i64 = 86_400;
const BATCH: i64 = 200;

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

#[derive(Clone, Debug)]
struct Delivery {
    id: i64,
    event: String,
    endpoint: String,
    attempts: i64,
    copies: i64,
}

impl Inner {
    /// Sends everything that is due, endpoint by endpoint in parallel, until nothing is.
    pub(super) async fn deliver_due(&self) -> Result<()> {
        let _delivering = self.delivering.lock().await;
        loop {
            let now = {
                let mut state = self.state.lock().await;
                self.virtual_now(&mut state)
            };
            let rows = self
                .engine
                .read(
                    "SELECT id, event, endpoint, attempts, copies FROM delivery WHERE state = 'pending' AND due <= ?1 ORDER BY id LIMIT ?2",
                    vec![now.into(), BATCH.into()],
                )
                .await?;
            if rows.is_empty() {
                return Ok(());
            }
            let mut queues: Vec<(String, Vec<Delivery>)> = Vec::new();
            for row in rows {
                let d = Delivery {
                    id: row.int(0)?,
                    event: row.text(1)?.into(),
                    endpoint: row.text(2)?.into(),
                    attempts: row.int(3)?,
                    copies: row.int(4)?,
                };
                match queues.iter_mut().find(|(endpoint, _)| *endpoint == d.endpoint) {
                    Some((_, queue)) => queue.push(d),
                    None => queues.push((d.endpoint.clone(), vec![d])),
                }
            }
            for result in join_all(queues.into_iter().map(|(_, queue)| self.deliver_queue(queue))).await {
                result?;
            }
        }
    }

    async fn deliver_queue(&self, mut queue: Vec<Delivery>) -> Result<()> {
        let reorder = self.state.lock().await.chaos.reorder_webhook;
        for i in 1..queue.len() {
            if chance(reorder) {
                queue.swap(i - 1, i);
            }
        }
        for delivery in queue {
            let outcomes = self.send(&delivery).await?;
            self.record(delivery, &outcomes).await?;
        }
        Ok(())
    }

    /// One try, or as many as there are copies; the first that the endpoint does not answer with 2xx is the last.
    async fn send(&self, delivery: &Delivery) -> Result<Vec<Outcome>> {
        let (endpoint, event, now) = {
            let tx = self.begin(Origin::default()).await;
            (tx.get(Kind::WebhookEndpoint, &delivery.endpoint).await?, tx.get(Kind::Event, &delivery.event).await?, tx.now)
        };
        let (Some(endpoint), Some(event)) = (endpoint, event) else { return Ok(Vec::new()) };
        let Some(url) = endpoint["url"].as_str().filter(|_| endpoint["status"] == "enabled") else { return Ok(Vec::new()) };
        let body = event.to_string();
        let mut outcomes = Vec::new();
        for _ in 0..delivery.copies {
            let header = signature::header(&secrets(&endpoint, now), self.real_now(), body.as_bytes());
            let answer = self
                .client()
                .post(url)
                .header("content-type", "application/json; charset=utf-8")
                .header("user-agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)")
                .header("stripe-signature", header)
                .body(body.clone())
                .send()
                .await;
            let outcome = match answer {
                Ok(answer) => Outcome::Answered(answer.status().as_u16()),
                Err(error) => Outcome::Silent(if error.is_timeout() { "no answer in time" } else { "no connection" }.to_owned()),
            };
            tracing::debug!(target: "sandbox", event = id_of(&event), ?outcome, "a webhook was sent");
            let ended = !outcome.delivered();
            outcomes.push(outcome);
            if ended {
                break;
            }
        }
        Ok(outcomes)
    }

    async fn record(&self, delivery: Delivery, outcomes: &[Outcome]) -> Result<()> {
        let mut tx = self.begin(Origin::default()).await;
        let at = tx.now;
        for outcome in outcomes {
            outcome.write(&mut tx, &delivery.event, &delivery.endpoint, at);
        }
        if outcomes.last().is_some_and(Outcome::delivered) {
            tx.also("DELETE FROM delivery WHERE id = ?1", vec![delivery.id.into()]);
            if let Some(mut event) = tx.get(Kind::Event, &delivery.event).await? {
                event["pending_webhooks"] = (event["pending_webhooks"].as_i64().unwrap_or(1) - 1).max(0).into();
                tx.put(event);
            }
        } else {
            let wait = usize::try_from(delivery.attempts).ok().and_then(|attempt| RETRY_AFTER_S.get(attempt));
            let due = wait.map(|wait| tx.now + wait);
            tx.also(
                "UPDATE delivery SET attempts = attempts + 1, due = ?2, state = ?3 WHERE id = ?1",
                vec![delivery.id.into(), due.into(), if due.is_some() { "pending" } else { "failed" }.into()],
            );
        }
        tx.commit().await
    }
}
