//! Alert state, so that a restart neither forgets nor repeats an alert: what one look of the alert actor changed is one commit.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::Value as Json;

use super::{
    NewNotification, Store,
    engine::{Batch, Fact, Row},
};
use crate::{
    domain::{
        alert_rule::Alert,
        notify::{Group, Silence},
    },
    error::{Error, Result},
};

/// Something that happened to an alert.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertEvent {
    pub at: DateTime<Utc>,
    /// The episode: `al_...`.
    pub alert: String,
    pub fingerprint: String,
    /// `fired`, `escalated`, `resolved`, `acknowledged`, `unacknowledged`, `snoozed`, `silenced`, `maintenance`, `inhibited`,
    /// `uninhibited` or `told`.
    pub kind: String,
    pub by: Option<String>,
    pub detail: Json,
}

/// What is written together.
#[derive(Clone, Debug, Default)]
pub struct AlertCommit {
    /// By fingerprint, each with the time of the look.
    pub alerts: BTreeMap<String, (Alert, DateTime<Utc>)>,
    pub events: Vec<AlertEvent>,
    /// By key; `None` is over.
    pub groups: BTreeMap<String, Option<Group>>,
    /// By id.
    pub silences: BTreeMap<String, Silence>,
    /// Fingerprint, value and time of what was fine.
    pub good: Vec<(String, String, DateTime<Utc>)>,
    pub facts: Vec<Fact>,
    pub messages: Vec<NewNotification>,
    /// Of these, rows that are known to have been told already: while nothing could be written they went out all the same.
    pub told: BTreeMap<String, DateTime<Utc>>,
}

impl AlertCommit {
    pub fn is_empty(&self) -> bool {
        let Self { alerts, events, groups, silences, good, facts, messages, told } = self;
        let maps = alerts.is_empty() && groups.is_empty() && silences.is_empty() && told.is_empty();
        maps && events.is_empty() && good.is_empty() && facts.is_empty() && messages.is_empty()
    }

    /// This one, and after it what came later.
    #[must_use]
    pub fn then(mut self, later: Self) -> Self {
        let Self { alerts, events, groups, silences, good, facts, messages, told } = later;
        self.alerts.extend(alerts);
        self.events.extend(events);
        self.groups.extend(groups);
        self.silences.extend(silences);
        self.good.extend(good);
        self.facts.extend(facts);
        self.messages.extend(messages);
        self.told.extend(told);
        self
    }
}

/// Which events are wanted.
#[derive(Clone, Debug, Default)]
pub struct AlertEventFilter {
    /// An episode; empty is any.
    pub alert: String,
    /// The rule; empty is any.
    pub name: String,
    pub since: Option<DateTime<Utc>>,
    pub until: Option<DateTime<Utc>>,
    /// Only older ones than this (their `n`); 0 is none.
    pub before: i64,
}

impl Store {
    /// Every alert that is pending or firing, and those resolved since `since` (microseconds).
    pub async fn alerts(&self, since: i64) -> Result<Vec<Alert>> {
        let sql = "SELECT body FROM alert WHERE state <> 'resolved' OR changed >= ?1 ORDER BY since DESC";
        let rows = self.engine.read(sql, vec![since.into()]).await?;
        rows.iter().map(|r| Ok(serde_json::from_str(r.text(0)?)?)).collect()
    }

    /// Writes what one look changed, with its journal entries and the messages about it, in one commit.
    pub async fn commit_alerts(&self, commit: &AlertCommit) -> Result<()> {
        let mut batch = commit.alerts.values().try_fold(Batch::new(), |batch, (alert, at)| put_alert(batch, alert, *at))?;
        for event in &commit.events {
            let sql = "INSERT INTO alert_event (at, alert, fingerprint, kind, by, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            let AlertEvent { at, alert, fingerprint, kind, by, detail } = event;
            batch = batch.sql(sql, vec![(*at).into(), alert.into(), fingerprint.into(), kind.into(), by.clone().into(), detail.into()]);
        }
        for (key, group) in &commit.groups {
            batch = match group {
                None => batch.sql("DELETE FROM notify_group WHERE key = ?1", vec![key.into()]),
                Some(group) => {
                    let sql = "INSERT INTO notify_group (key, body) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET body = excluded.body";
                    batch.sql(sql, vec![key.into(), (&serde_json::to_value(group)?).into()])
                }
            };
        }
        batch = commit.silences.values().try_fold(batch, put_silence)?;
        for (fingerprint, value, at) in &commit.good {
            let sql = "INSERT INTO alert_good (fingerprint, value, at) VALUES (?1, ?2, ?3)
                ON CONFLICT (fingerprint) DO UPDATE SET value = excluded.value, at = excluded.at";
            batch = batch.sql(sql, vec![fingerprint.into(), value.into(), (*at).into()]);
        }
        batch = commit.messages.iter().try_fold(batch, |batch, message| message.put(batch))?;
        for (id, at) in &commit.told {
            let sql = "UPDATE notification SET state = 'sent', sent_at = ?2, attempts = 1 WHERE id = ?1 AND state = 'queued'";
            batch = batch.sql(sql, vec![id.into(), (*at).into()]);
        }
        batch = commit.facts.iter().cloned().fold(batch, Batch::journal);
        if batch.0.is_empty() { Ok(()) } else { self.engine.write(batch).await.map(|_| ()) }
    }

    /// Takes a link as used; false if it was before. `expires` is in Unix seconds.
    pub async fn use_link(&self, name: &str, expires: i64, fact: Fact) -> Result<bool> {
        let sql = "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO NOTHING";
        let batch = Batch::new().guard(sql, vec![name.into(), format!("{expires:012}").into()]).journal(fact);
        Ok(self.engine.write(batch).await?.affected(0) == 1)
    }

    /// What it was to do did not work: it can be used again.
    pub async fn link_not_used(&self, name: &str) -> Result<()> {
        let sql = "DELETE FROM meta WHERE key = ?1 AND key LIKE 'link.%'";
        self.engine.write(Batch::new().sql(sql, vec![name.into()])).await.map(|_| ())
    }

    pub async fn link_used(&self, name: &str) -> Result<bool> {
        Ok(self.meta(name).await?.is_some())
    }

    /// (channel, state, number) of the messages that are remembered.
    pub async fn notification_counts(&self) -> Result<Vec<(String, String, i64)>> {
        let rows = self.engine.read("SELECT channel, state, COUNT(*) FROM notification GROUP BY channel, state", vec![]).await?;
        rows.iter().map(|r| Ok((r.text(0)?.to_owned(), r.text(1)?.to_owned(), r.int(2)?))).collect()
    }

    pub async fn notify_groups(&self) -> Result<Vec<Group>> {
        let rows = self.engine.read("SELECT body FROM notify_group", vec![]).await?;
        rows.iter().map(|r| Ok(serde_json::from_str(r.text(0)?)?)).collect()
    }

    /// Silences that end or ended after `since`, newest first.
    pub async fn silences(&self, since: DateTime<Utc>) -> Result<Vec<Silence>> {
        let sql = "SELECT id, matchers, starts_at, ends_at, author, reason, created_at, ended_at, ended_by FROM silence
            WHERE ends_at > ?1 ORDER BY created_at DESC, id DESC";
        self.engine.read(sql, vec![since.into()]).await?.iter().map(silence).collect()
    }

    /// What was fine when it was looked at last, by fingerprint.
    pub async fn good_values(&self) -> Result<Vec<(String, String, DateTime<Utc>)>> {
        let rows = self.engine.read("SELECT fingerprint, value, at FROM alert_good", vec![]).await?;
        rows.iter().map(|r| Ok((r.text(0)?.to_owned(), r.text(1)?.to_owned(), r.time(2)?))).collect()
    }

    /// Newest first, each with its number.
    pub async fn alert_events(&self, filter: &AlertEventFilter, limit: i64) -> Result<Vec<(i64, AlertEvent)>> {
        let sql = "SELECT n, at, alert, fingerprint, kind, by, detail FROM alert_event
            WHERE (?1 = '' OR alert = ?1) AND (?2 = '' OR fingerprint IN (SELECT fingerprint FROM alert WHERE name = ?2))
            AND at >= ?3 AND at <= ?4 AND (?5 = 0 OR n < ?5) ORDER BY n DESC LIMIT ?6";
        let micros = |at: Option<DateTime<Utc>>, without: i64| at.map_or(without, |at| at.timestamp_micros());
        let AlertEventFilter { alert, name, since, until, before } = filter;
        let (since, until) = (micros(*since, 0), micros(*until, i64::MAX));
        let params = vec![alert.into(), name.into(), since.into(), until.into(), (*before).into(), limit.into()];
        let event = |r: &Row| {
            let (at, alert, fingerprint) = (r.time(1)?, r.text(2)?.to_owned(), r.text(3)?.to_owned());
            let event = AlertEvent { at, alert, fingerprint, kind: r.text(4)?.to_owned(), by: r.opt_text(5)?, detail: r.json(6)? };
            Ok((r.int(0)?, event))
        };
        self.engine.read(sql, params).await?.iter().map(event).collect()
    }

    /// Forgets what happened to alerts before `before`, silences that ended and resolved alerts that were quiet since.
    pub async fn forget_alerts(&self, before: DateTime<Utc>) -> Result<()> {
        let batch = Batch::new()
            .sql("DELETE FROM alert_event WHERE at < ?1", vec![before.into()])
            .sql("DELETE FROM silence WHERE ends_at < ?1", vec![before.into()])
            .sql("DELETE FROM alert WHERE state = 'resolved' AND changed < ?1", vec![before.into()])
            .sql("DELETE FROM alert_good WHERE at < ?1", vec![before.into()])
            .sql("DELETE FROM meta WHERE key LIKE 'link.%' AND value < ?1", vec![format!("{:012}", before.timestamp()).into()]);
        self.engine.write(batch).await.map(|_| ())
    }

    /// Payments of a time, by currency: what was charged, and what was delivered and could not be booked: (currency, amount, customer).
    pub async fn payments_in_doubt(&self, from: DateTime<Utc>, to: DateTime<Utc>, limit: i64) -> Result<Vec<(String, i64, String)>> {
        let charged = "SELECT currency, amount, COALESCE(customer, '') FROM ledger WHERE kind = 'charge' AND recorded_at >= ?1 AND recorded_at <= ?2 LIMIT ?3";
        let waiting = "SELECT body FROM webhook_event WHERE status IN ('received', 'failed') AND received_at >= ?1 AND received_at <= ?2
            AND event_type IN ('charge.succeeded', 'charge.captured') LIMIT ?3";
        let params = || vec![from.into(), to.into(), limit.into()];
        let rows = self.engine.read(charged, params()).await?;
        let mut found = rows.iter().map(|r| Ok((r.text(0)?.to_owned(), r.int(1)?, r.text(2)?.to_owned()))).collect::<Result<Vec<_>>>()?;
        for row in self.engine.read(waiting, params()).await? {
            let charge = &row.json(0)?["data"]["object"];
            let text = |name: &str| charge[name].as_str().unwrap_or_default().to_owned();
            found.push((text("currency"), charge["amount"].as_i64().unwrap_or_default(), text("customer")));
        }
        Ok(found)
    }
}

fn put_alert(batch: Batch, alert: &Alert, at: DateTime<Utc>) -> Result<Batch> {
    let sql = "INSERT INTO alert (fingerprint, name, state, severity, since, changed, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
        ON CONFLICT (fingerprint) DO UPDATE SET state = excluded.state, severity = excluded.severity, since = excluded.since,
        changed = CASE WHEN alert.state <> excluded.state THEN excluded.changed ELSE alert.changed END, body = excluded.body";
    let body = serde_json::to_value(alert)?;
    let (fingerprint, name) = (alert.fingerprint.as_str().into(), alert.name.as_str().into());
    let (state, severity) = (alert.state.as_str().into(), alert.severity.as_str().into());
    Ok(batch.sql(sql, vec![fingerprint, name, state, severity, alert.since.into(), at.into(), (&body).into()]))
}

fn put_silence(batch: Batch, silence: &Silence) -> Result<Batch> {
    let sql = "INSERT INTO silence (id, matchers, starts_at, ends_at, author, reason, created_at, ended_at, ended_by)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (id) DO UPDATE SET ended_at = excluded.ended_at, ended_by = excluded.ended_by";
    let params = vec![
        silence.id.as_str().into(),
        serde_json::to_string(&silence.matchers)?.into(),
        silence.starts_at.into(),
        silence.ends_at.into(),
        silence.author.as_str().into(),
        silence.reason.as_str().into(),
        silence.created_at.into(),
        silence.ended_at.into(),
        silence.ended_by.clone().into(),
    ];
    Ok(batch.sql(sql, params))
}

fn silence(r: &Row) -> Result<Silence> {
    let silence = Silence {
        id: r.text(0)?.to_owned(),
        matchers: serde_json::from_str(r.text(1)?)?,
        starts_at: r.time(2)?,
        ends_at: r.time(3)?,
        author: r.text(4)?.to_owned(),
        reason: r.text(5)?.to_owned(),
        created_at: r.time(6)?,
        ended_at: r.opt_time(7)?,
        ended_by: r.opt_text(8)?,
    };
    silence.ready().map_err(Error::internal)
}
