//! Incidents with their timelines, how far the logs were read, the kinds of lines learned, and the payments of an incident's time. Called by the
//! incident scanner and by `operations/incidents.rs`. An incident changes in one commit with its timeline and its journal entry.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Value as Json, json};

use super::{
    Store,
    engine::{Batch, Fact},
};
use crate::{
    domain::{
        incident::{Changes, Event, Incident, Money},
        log_place::Place,
        log_template::Template,
    },
    error::{Error, Result},
};

const PUT: &str =
    "INSERT INTO incident (id, key, state, severity, title, source, opened_at, updated_at, closed_at, acknowledged_by, count, body)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
    ON CONFLICT (id) DO UPDATE SET state = excluded.state, severity = excluded.severity, updated_at = excluded.updated_at,
    closed_at = excluded.closed_at, acknowledged_by = excluded.acknowledged_by, count = excluded.count, body = excluded.body";
const SAY: &str = "INSERT INTO incident_event (incident, at, kind, text, by) VALUES (?1, ?2, ?3, ?4, ?5)";
const PUT_TEMPLATE: &str = "INSERT INTO log_template (id, source, template, first_seen, last_seen, count, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
    ON CONFLICT (id) DO UPDATE SET template = excluded.template, last_seen = excluded.last_seen, count = excluded.count, body = excluded.body";

/// What one look at the logs leaves, beside incidents.
#[derive(Debug, Default)]
pub struct LogState {
    pub places: BTreeMap<String, Place>,
    /// Files that are not there any more.
    pub gone: Vec<String>,
    /// Templates that are new or were seen again.
    pub seen: Vec<Template>,
    /// Ids of templates that there was no more room for.
    pub forgotten: Vec<String>,
}

/// Which incidents to list.
#[derive(Clone, Debug, Default)]
pub struct IncidentFilter {
    /// `open`, `closed` or empty.
    pub state: String,
    /// Only those last changed before: the cursor of a list, microseconds; 0: from the newest.
    pub before: i64,
    pub limit: i64,
}

impl Store {
    /// Incidents that are open, and those closed since `since`: what the next look works on.
    pub async fn live_incidents(&self, since: DateTime<Utc>) -> Result<Vec<Incident>> {
        let sql = "SELECT body FROM incident WHERE state = 'open' OR closed_at >= ?1 ORDER BY opened_at, id";
        self.read_incidents(sql, vec![since.into()]).await
    }

    /// Newest change first.
    pub async fn incidents(&self, filter: &IncidentFilter) -> Result<Vec<Incident>> {
        let sql = "SELECT body FROM incident WHERE (?1 = '' OR state = ?1) AND (?2 = 0 OR updated_at < ?2) ORDER BY updated_at DESC, id DESC LIMIT ?3";
        self.read_incidents(sql, vec![filter.state.as_str().into(), filter.before.into(), filter.limit.into()]).await
    }

    async fn read_incidents(&self, sql: &'static str, params: Vec<super::engine::Value>) -> Result<Vec<Incident>> {
        let rows = self.engine.read(sql, params).await?;
        rows.iter().map(|row| Ok(serde_json::from_str(row.text(0)?)?)).collect()
    }

    pub async fn incident(&self, id: &str) -> Result<Option<Incident>> {
        Ok(self.read_incidents("SELECT body FROM incident WHERE id = ?1", vec![id.into()]).await?.pop())
    }

    /// The timeline of an incident, oldest first.
    pub async fn incident_events(&self, id: &str) -> Result<Vec<Json>> {
        let sql = "SELECT at, kind, text, by FROM incident_event WHERE incident = ?1 ORDER BY n";
        let rows = self.engine.read(sql, vec![id.into()]).await?;
        let event = |row: &super::engine::Row| {
            Ok(json!({"at": crate::env::rfc3339(row.time(0)?), "kind": row.text(1)?, "text": row.text(2)?, "by": row.opt_text(3)?}))
        };
        rows.iter().map(event).collect()
    }

    /// What one look at everything came to, in one commit: the files are not read again if the incidents are written, and the other way round.
    pub async fn put_scan(&self, changes: &Changes, logs: &LogState, facts: Vec<Fact>) -> Result<()> {
        let mut batch = put(Batch::new(), &changes.incidents, &changes.events)?;
        for path in &logs.gone {
            batch = batch.sql("DELETE FROM log_place WHERE path = ?1", vec![path.as_str().into()]);
        }
        for (path, place) in &logs.places {
            let sql = "INSERT INTO log_place (path, body) VALUES (?1, ?2) ON CONFLICT (path) DO UPDATE SET body = excluded.body";
            batch = batch.sql(sql, vec![path.as_str().into(), (&serde_json::to_value(place)?).into()]);
        }
        for t in &logs.seen {
            let params = vec![
                t.id.as_str().into(),
                t.source.as_str().into(),
                t.text.as_str().into(),
                t.first_seen.into(),
                t.last_seen.into(),
                i64::try_from(t.count).unwrap_or(i64::MAX).into(),
                (&serde_json::to_value(t)?).into(),
            ];
            batch = batch.sql(PUT_TEMPLATE, params);
        }
        for id in &logs.forgotten {
            batch = batch.sql("DELETE FROM log_template WHERE id = ?1", vec![id.as_str().into()]);
        }
        self.engine.write(facts.into_iter().fold(batch, Batch::journal)).await.map(|_| ())
    }

    /// What a person did to one incident. False if it changed meanwhile, so that what was decided was decided about something else.
    pub async fn decide_incident(&self, before: &Incident, after: &Incident, event: &Event, fact: Fact) -> Result<bool> {
        let sql = "UPDATE incident SET updated_at = updated_at WHERE id = ?1 AND state = ?2 AND updated_at = ?3";
        let guard = vec![before.id.as_str().into(), before.state.as_str().into(), before.updated_at.into()];
        let batch = put(Batch::new().guard(sql, guard), std::slice::from_ref(after), std::slice::from_ref(event))?;
        Ok(self.engine.write(batch.journal(fact)).await?.affected(0) == 1)
    }

    /// Incidents closed before `before` are forgotten with their timelines.
    pub async fn prune_incidents(&self, before: DateTime<Utc>) -> Result<()> {
        let batch = Batch::new()
            .sql(
                "DELETE FROM incident_event WHERE incident IN (SELECT id FROM incident WHERE state = 'closed' AND closed_at < ?1)",
                vec![before.into()],
            )
            .sql("DELETE FROM incident WHERE state = 'closed' AND closed_at < ?1", vec![before.into()]);
        self.engine.write(batch).await.map(|_| ())
    }

    pub async fn log_places(&self) -> Result<BTreeMap<String, Place>> {
        let rows = self.engine.read("SELECT path, body FROM log_place", vec![]).await?;
        rows.iter().map(|row| Ok((row.text(0)?.to_owned(), serde_json::from_str(row.text(1)?)?))).collect()
    }

    pub async fn log_templates(&self) -> Result<Vec<Template>> {
        let rows = self.engine.read("SELECT body FROM log_template ORDER BY first_seen, id", vec![]).await?;
        rows.iter().map(|row| Ok(serde_json::from_str(row.text(0)?)?)).collect()
    }

    /// Payments between two times (Unix seconds, the provider's clock), per currency: those that are not through, and those that are.
    pub async fn money_between(&self, livemode: bool, from: i64, to: i64) -> Result<Vec<Money>> {
        // A payment intent and its charge are one payment: the charge counts only where there is no intent.
        let open = "SELECT currency, CAST(SUM(amount) AS BIGINT), COUNT(*), COUNT(DISTINCT customer) FROM provider_object
            WHERE livemode = ?1 AND event_created >= ?2 AND event_created <= ?3 AND (kind = 'payment_intent'
            AND status IN ('requires_payment_method', 'requires_confirmation', 'requires_action', 'processing', 'requires_capture')
            OR kind = 'charge' AND status IN ('failed', 'pending') AND parent IS NULL) GROUP BY currency";
        let paid = "SELECT currency, CAST(SUM(amount) AS BIGINT), COUNT(*) FROM ledger
            WHERE livemode = ?1 AND at >= ?2 AND at <= ?3 AND kind = 'charge' AND corrects IS NULL GROUP BY currency";
        let params = || vec![livemode.into(), from.into(), to.into()];
        let mut all: BTreeMap<String, Money> = BTreeMap::new();
        let count = |n: i64| u64::try_from(n).unwrap_or_default();
        let named = |currency: &str| Money { currency: currency.to_owned(), ..Money::default() };
        for row in self.engine.read(open, params()).await? {
            let money = all.entry(row.text(0)?.to_owned()).or_insert_with_key(|currency| named(currency));
            (money.at_risk_minor, money.at_risk_payments, money.customers) = (row.int(1)?, count(row.int(2)?), count(row.int(3)?));
        }
        for row in self.engine.read(paid, params()).await? {
            let money = all.entry(row.text(0)?.to_owned()).or_insert_with_key(|currency| named(currency));
            (money.paid_minor, money.paid_payments) = (row.int(1)?, count(row.int(2)?));
        }
        Ok(all.into_values().collect())
    }
}

fn put(mut batch: Batch, incidents: &[Incident], events: &[Event]) -> Result<Batch, Error> {
    for i in incidents {
        let params = vec![
            i.id.as_str().into(),
            i.key.as_str().into(),
            i.state.as_str().into(),
            i.severity.as_str().into(),
            i.title.as_str().into(),
            i.source.as_str().into(),
            i.opened_at.into(),
            i.updated_at.into(),
            i.closed_at.into(),
            i.acknowledged_by.clone().into(),
            i64::try_from(i.count).unwrap_or(i64::MAX).into(),
            (&serde_json::to_value(i)?).into(),
        ];
        batch = batch.sql(PUT, params);
    }
    for e in events {
        let params = vec![e.incident.as_str().into(), e.at.into(), e.kind.into(), e.text.as_str().into(), e.by.clone().into()];
        batch = batch.sql(SAY, params);
    }
    Ok(batch)
}
