//! Messages on their way to people: written down in the commit that decides about them, sent afterwards, kept with every attempt.

use chrono::{DateTime, Utc};
use serde_json::{Value as Json, json};

use super::{
    Store,
    engine::{Batch, Fact, Row, Value},
};
use crate::{domain::notify::Message, error::Result};

/// A message for one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNotification {
    /// The channel's name: `email`, `slack`, ...
    pub channel: &'static str,
    pub message: Message,
}

impl NewNotification {
    /// The row's key: of the message and the channel, so that the same decision made twice is one message.
    pub fn id(&self) -> String {
        format!("{}.{}", self.message.id, self.channel)
    }

    /// Adds the row to a commit; if it is there already nothing changes.
    pub(super) fn put(&self, batch: Batch) -> Result<Batch> {
        let Message { group, kind, severity, at, .. } = &self.message;
        let sql = "INSERT INTO notification (id, group_key, channel, kind, severity, state, created_at, next_at, message)
            VALUES (?1, ?2, ?3, ?4, ?5, 'queued', ?6, ?6, ?7) ON CONFLICT (id) DO NOTHING";
        let message = serde_json::to_value(&self.message)?;
        let params = vec![
            self.id().into(),
            group.as_str().into(),
            self.channel.into(),
            kind.as_str().into(),
            severity.as_str().into(),
            (*at).into(),
            (&message).into(),
        ];
        Ok(batch.sql(sql, params))
    }
}

/// A message for one channel, with what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotificationRow {
    pub id: String,
    pub group: String,
    pub channel: String,
    pub kind: String,
    pub severity: String,
    /// `queued`, `sent`, `dead` (given up) or `dropped` (told in a digest, or not wanted any more).
    pub state: String,
    pub created_at: DateTime<Utc>,
    pub next_at: DateTime<Utc>,
    pub attempts: u32,
    pub sent_at: Option<DateTime<Utc>>,
    /// What the other side calls it, or the digest that has it.
    pub reference: Option<String>,
    pub error: Option<String>,
    /// Recipients who have it although others do not.
    pub accepted: Vec<String>,
    pub message: Message,
}

/// One attempt to hand a message over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryAttempt {
    pub attempt: u32,
    pub at: DateTime<Utc>,
    pub took_ms: i64,
    pub ok: bool,
    pub status: Option<u16>,
    pub error: Option<String>,
}

/// What an attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivered {
    Sent {
        reference: Option<String>,
    },
    /// Again at this time.
    Again {
        next_at: DateTime<Utc>,
        accepted: Vec<String>,
    },
    /// Given up.
    Dead,
}

/// How a channel stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelRow {
    pub channel: String,
    pub queued: i64,
    /// Of those queued, how long the oldest that was tried waits.
    pub failing_since: Option<DateTime<Utc>>,
    pub dead: i64,
    /// Given up after the last success.
    pub dead_since_success: i64,
    pub last_success: Option<DateTime<Utc>>,
    pub last_error: Option<(DateTime<Utc>, String)>,
}

/// Which messages are wanted; an empty text is any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotificationFilter {
    pub state: String,
    pub channel: String,
    /// An episode's id.
    pub alert: String,
    /// The row after which the list goes on.
    pub after: String,
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT n.id, n.group_key, n.channel, n.kind, n.severity, n.state, n.created_at, n.next_at, n.attempts, n.sent_at, n.reference, n.error,
            n.accepted, n.message FROM notification n ",
            $rest
        )
    };
}

impl Store {
    /// Writes a message down together with its only attempt.
    pub async fn put_ended_notification(&self, message: &NewNotification, attempt: &DeliveryAttempt, came_to: &Delivered) -> Result<()> {
        let batch = attempted(message.put(Batch::new())?, &message.id(), attempt, came_to);
        self.engine.write(batch).await.map(|_| ())
    }

    /// What is due for a channel, oldest first. Of one group only the oldest: what ends must not be told before what began. One that some
    /// recipients have already keeps nothing back from them, and one that fails again and again nothing critical.
    pub async fn due_notifications(&self, channel: &str, now: DateTime<Utc>, limit: i64) -> Result<Vec<NotificationRow>> {
        let sql = select!(
            "WHERE n.channel = ?1 AND n.state = 'queued' AND n.next_at <= ?2 AND ((n.severity = 'critical' AND n.kind = 'firing' AND EXISTS
            (SELECT 1 FROM notification s WHERE s.channel = n.channel AND s.state = 'queued' AND s.group_key = n.group_key AND s.attempts >= 3))
            OR NOT EXISTS (SELECT 1 FROM notification e WHERE e.channel = n.channel
            AND e.state = 'queued' AND e.group_key = n.group_key AND e.accepted = '[]'
            AND (e.created_at < n.created_at OR (e.created_at = n.created_at AND e.id < n.id))))
            ORDER BY n.created_at, n.id LIMIT ?3"
        );
        let rows = self.engine.read(sql, vec![channel.into(), now.into(), limit.into()]).await?;
        rows.iter().map(notification).collect()
    }

    /// When the next message of a channel is due.
    pub async fn next_notification_at(&self, channel: &str) -> Result<Option<DateTime<Utc>>> {
        let sql = "SELECT MIN(next_at) FROM notification WHERE channel = ?1 AND state = 'queued'";
        let rows = self.engine.read(sql, vec![channel.into()]).await?;
        rows.first().map_or(Ok(None), |row| row.opt_time(0))
    }

    /// Writes an attempt down with what it came to, in one commit with the journal. An end that was written before stays.
    pub async fn delivery_attempted(&self, id: &str, attempt: &DeliveryAttempt, came_to: &Delivered) -> Result<()> {
        self.engine.write(attempted(Batch::new(), id, attempt, came_to)).await.map(|_| ())
    }

    /// Puts messages together in one: they and it change in one commit.
    pub async fn merge_notifications(&self, ids: &[String], digest: &NewNotification) -> Result<()> {
        let mut batch = digest.put(Batch::new())?;
        for id in ids {
            let sql = "UPDATE notification SET state = 'dropped', reference = ?2, error = 'too many at once: told in the digest' WHERE id = ?1 AND state = 'queued'";
            batch = batch.sql(sql, vec![id.into(), digest.id().into()]);
        }
        self.engine.write(batch).await.map(|_| ())
    }

    /// A message that is not to be sent, and why.
    pub async fn drop_notification(&self, id: &str, why: &str) -> Result<()> {
        let sql = "UPDATE notification SET state = 'dropped', error = ?2 WHERE id = ?1 AND state = 'queued'";
        self.engine.write(Batch::new().sql(sql, vec![id.into(), why.into()])).await.map(|_| ())
    }

    /// Drops what waits for a channel that is off.
    pub async fn drop_notifications_of(&self, channel: &str, why: &str) -> Result<u64> {
        let sql = "UPDATE notification SET state = 'dropped', error = ?2 WHERE channel = ?1 AND state = 'queued'";
        Ok(self.engine.write(Batch::new().sql(sql, vec![channel.into(), why.into()])).await?.affected(0))
    }

    /// Queues a message again that was given up; false if it was not.
    pub async fn retry_notification(&self, id: &str, now: DateTime<Utc>, fact: Fact) -> Result<bool> {
        let sql = "UPDATE notification SET state = 'queued', next_at = ?2, created_at = ?2 WHERE id = ?1 AND state = 'dead'";
        Ok(self.engine.write(Batch::new().guard(sql, vec![id.into(), now.into()]).journal(fact)).await?.affected(0) == 1)
    }

    pub async fn notification(&self, id: &str) -> Result<Option<NotificationRow>> {
        self.engine.read(select!("WHERE n.id = ?1"), vec![id.into()]).await?.first().map(notification).transpose()
    }

    /// Newest first.
    pub async fn notifications(&self, filter: &NotificationFilter, limit: i64) -> Result<Vec<NotificationRow>> {
        let sql = select!(
            "WHERE (?1 = '' OR n.state = ?1) AND (?2 = '' OR n.channel = ?2) AND (?3 = '' OR n.message LIKE ?4)
            AND (?5 = '' OR EXISTS (SELECT 1 FROM notification a WHERE a.id = ?5 AND (n.created_at < a.created_at
                OR (n.created_at = a.created_at AND n.id < a.id))))
            ORDER BY n.created_at DESC, n.id DESC LIMIT ?6"
        );
        let alert = format!("%{}%", json!(filter.alert));
        let NotificationFilter { state, channel, alert: id, after } = filter;
        let params: Vec<Value> = vec![state.into(), channel.into(), id.into(), alert.into(), after.into(), limit.into()];
        self.engine.read(sql, params).await?.iter().map(notification).collect()
    }

    /// The attempts of a message, first to last.
    pub async fn delivery_attempts(&self, id: &str) -> Result<Vec<DeliveryAttempt>> {
        let sql = "SELECT attempt, at, took_ms, ok, status, error FROM delivery_attempt WHERE notification = ?1 ORDER BY attempt";
        let attempt = |r: &Row| {
            Ok(DeliveryAttempt {
                attempt: u32::try_from(r.int(0)?).unwrap_or(u32::MAX),
                at: r.time(1)?,
                took_ms: r.int(2)?,
                ok: r.int(3)? != 0,
                status: r.opt_int(4)?.and_then(|s| u16::try_from(s).ok()),
                error: r.opt_text(5)?,
            })
        };
        self.engine.read(sql, vec![id.into()]).await?.iter().map(attempt).collect()
    }

    /// How a channel stands.
    pub async fn channel_row(&self, channel: &str) -> Result<ChannelRow> {
        let sql = "SELECT COUNT(CASE WHEN state = 'queued' THEN 1 END), MIN(CASE WHEN state = 'queued' AND attempts > 0 THEN created_at END),
            COUNT(CASE WHEN state = 'dead' THEN 1 END),
            COUNT(CASE WHEN state = 'dead' AND next_at > COALESCE((SELECT MAX(s.sent_at) FROM notification s WHERE s.channel = ?1), 0) THEN 1 END),
            MAX(sent_at) FROM notification WHERE channel = ?1";
        let error = "SELECT a.at, COALESCE(a.error, '') FROM delivery_attempt a JOIN notification n ON n.id = a.notification
            WHERE n.channel = ?1 AND a.ok = 0 ORDER BY a.at DESC LIMIT 1";
        let rows = self.engine.read(sql, vec![channel.into()]).await?;
        let errors = self.engine.read(error, vec![channel.into()]).await?;
        let mut row = ChannelRow { channel: channel.to_owned(), ..ChannelRow::default() };
        if let Some(r) = rows.first() {
            (row.queued, row.failing_since, row.dead) = (r.int(0)?, r.opt_time(1)?, r.int(2)?);
            (row.dead_since_success, row.last_success) = (r.int(3)?, r.opt_time(4)?);
        }
        row.last_error = errors.first().map(|r| Ok::<_, crate::error::Error>((r.time(0)?, r.text(1)?.to_owned()))).transpose()?;
        Ok(row)
    }

    /// What was sent about each group that has not ended, oldest first, for a channel that must be told again what lasts.
    pub async fn lasting_notifications(&self, channel: &str, since: DateTime<Utc>) -> Result<Vec<Message>> {
        let sql = "SELECT n.message FROM notification n WHERE n.channel = ?1 AND n.state = 'sent' AND n.created_at >= ?2
            AND n.kind IN ('firing', 'repeat') AND NOT EXISTS (SELECT 1 FROM notification l WHERE l.channel = n.channel
            AND l.group_key = n.group_key AND l.state = 'sent' AND l.kind = 'resolved' AND l.created_at >= n.created_at)
            ORDER BY n.created_at, n.id";
        let rows = self.engine.read(sql, vec![channel.into(), since.into()]).await?;
        rows.iter().map(|r| Ok(serde_json::from_str(r.text(0)?)?)).collect()
    }

    /// Forgets messages older than `before` that are not on their way, with their attempts.
    pub async fn forget_notifications(&self, before: DateTime<Utc>) -> Result<u64> {
        let attempts =
            "DELETE FROM delivery_attempt WHERE notification IN (SELECT id FROM notification WHERE created_at < ?1 AND state <> 'queued')";
        let rows = "DELETE FROM notification WHERE created_at < ?1 AND state <> 'queued'";
        let batch = Batch::new().sql(attempts, vec![before.into()]).sql(rows, vec![before.into()]);
        Ok(self.engine.write(batch).await?.affected(1))
    }
}

fn attempted(batch: Batch, id: &str, attempt: &DeliveryAttempt, came_to: &Delivered) -> Batch {
    let (state, next_at, reference, accepted) = match came_to {
        Delivered::Sent { reference } => ("sent", attempt.at, reference.clone(), None),
        Delivered::Again { next_at, accepted } => ("queued", *next_at, None, Some(json!(accepted))),
        Delivered::Dead => ("dead", attempt.at, None, None),
    };
    let update = "UPDATE notification SET state = ?2, next_at = ?3, attempts = ?4, sent_at = ?5, reference = ?6, error = ?7,
        accepted = COALESCE(?8, accepted) WHERE id = ?1 AND state = 'queued'";
    let params = vec![
        id.into(),
        state.into(),
        next_at.into(),
        attempt.attempt.into(),
        attempt.ok.then_some(attempt.at).into(),
        reference.into(),
        attempt.error.clone().into(),
        accepted.as_ref().into(),
    ];
    let row = "INSERT INTO delivery_attempt (notification, attempt, at, took_ms, ok, status, error) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
        ON CONFLICT (notification, attempt) DO NOTHING";
    let values = vec![
        id.into(),
        attempt.attempt.into(),
        attempt.at.into(),
        attempt.took_ms.into(),
        attempt.ok.into(),
        attempt.status.map(i64::from).into(),
        attempt.error.clone().into(),
    ];
    let batch = batch.guard(update, params).sql(row, values);
    let kind = match came_to {
        Delivered::Sent { .. } => "notification.sent",
        Delivered::Dead => "notification.given_up",
        Delivered::Again { .. } => return batch,
    };
    let data = json!({"attempt": attempt.attempt, "status": attempt.status, "error": attempt.error});
    batch.journal(Fact { at: attempt.at, kind, subject: id.to_owned(), data })
}

fn notification(r: &Row) -> Result<NotificationRow> {
    let accepted: Json = r.json(12)?;
    Ok(NotificationRow {
        id: r.text(0)?.to_owned(),
        group: r.text(1)?.to_owned(),
        channel: r.text(2)?.to_owned(),
        kind: r.text(3)?.to_owned(),
        severity: r.text(4)?.to_owned(),
        state: r.text(5)?.to_owned(),
        created_at: r.time(6)?,
        next_at: r.time(7)?,
        attempts: u32::try_from(r.int(8)?).unwrap_or(u32::MAX),
        sent_at: r.opt_time(9)?,
        reference: r.opt_text(10)?,
        error: r.opt_text(11)?,
        accepted: serde_json::from_value(accepted)?,
        message: serde_json::from_str(r.text(13)?)?,
    })
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::{
        domain::{alert_rule::Severity, notify::Kind},
        store::AlertCommit,
        testing::fixture,
    };

    #[tokio::test]
    async fn a_message_that_does_not_get_through_keeps_back_no_more_than_it_must() {
        let fixture = fixture("2026-03-02T12:00:00Z");
        let (store, now) = (fixture.env.store(), fixture.env.now());
        let message = |id: &str, severity, after_s: i64| NewNotification {
            channel: "email",
            message: Message {
                id: id.into(),
                kind: Kind::Firing,
                severity,
                group: "payments".into(),
                title: id.into(),
                at: now + TimeDelta::seconds(after_s),
                alerts: Vec::new(),
                more: 0,
                url: String::new(),
            },
        };
        let messages =
            vec![message("ntf_1", Severity::Critical, 0), message("ntf_2", Severity::Warning, 1), message("ntf_3", Severity::Critical, 2)];
        store.commit_alerts(&AlertCommit { messages, ..AlertCommit::default() }).await.unwrap();
        let later = now + TimeDelta::seconds(10);
        let due = async || store.due_notifications("email", later, 9).await.unwrap().into_iter().map(|row| row.id).collect::<Vec<_>>();
        let attempted = async |number: u32, accepted: &[&str]| {
            let attempt = DeliveryAttempt { attempt: number, at: now, took_ms: 1, ok: false, status: None, error: Some("452".into()) };
            let accepted = accepted.iter().map(|who| (*who).to_owned()).collect();
            let came_to = Delivered::Again { next_at: now + TimeDelta::hours(1), accepted };
            store.delivery_attempted("ntf_1.email", &attempt, &came_to).await.unwrap();
        };
        assert_eq!(due().await, ["ntf_1.email"], "the order of one group");
        attempted(1, &[]).await;
        assert!(due().await.is_empty(), "it is tried again first");
        attempted(2, &[]).await;
        attempted(3, &[]).await;
        assert_eq!(due().await, ["ntf_3.email"], "what is critical does not wait for one that fails again and again");
        attempted(4, &["anna@example.com"]).await;
        assert_eq!(due().await, ["ntf_2.email", "ntf_3.email"], "somebody has it");
    }
}
