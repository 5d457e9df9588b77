//! Alert state, so that a restart neither forgets nor repeats an alert.

use super::{
    NewNotification, Store,
    engine::{Batch, Fact},
};
use crate::{domain::alert_rule::Alert, error::Result};

impl Store {
    /// Every alert that is pending or firing, and those resolved since `since` (microseconds).
    pub async fn alerts(&self, since: i64) -> Result<Vec<Alert>> {
        let sql = "SELECT body FROM alert WHERE state <> 'resolved' OR changed >= ?1 ORDER BY since DESC";
        let rows = self.engine.read(sql, vec![since.into()]).await?;
        rows.iter().map(|r| Ok(serde_json::from_str(r.text(0)?)?)).collect()
    }

    /// Writes the alerts of one evaluation with the journal entries of what fired or resolved and the messages about it, in one commit.
    pub async fn put_alerts(
        &self,
        alerts: &[Alert],
        at: chrono::DateTime<chrono::Utc>,
        facts: Vec<Fact>,
        messages: &[NewNotification],
    ) -> Result<()> {
        let sql = "INSERT INTO alert (fingerprint, name, state, severity, since, changed, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
            ON CONFLICT (fingerprint) DO UPDATE SET state = excluded.state, severity = excluded.severity, since = excluded.since,
            changed = CASE WHEN alert.state <> excluded.state THEN excluded.changed ELSE alert.changed END, body = excluded.body";
        let mut batch = Batch::new();
        for alert in alerts {
            let body = serde_json::to_value(alert)?;
            let params = vec![
                alert.fingerprint.as_str().into(),
                alert.name.as_str().into(),
                alert.state.as_str().into(),
                alert.severity.as_str().into(),
                alert.since.into(),
                at.into(),
                (&body).into(),
            ];
            batch = batch.sql(sql, params);
        }
        for message in messages {
            batch = message.put(batch)?;
        }
        for fact in facts {
            batch = batch.journal(fact);
        }
        if batch.0.is_empty() { Ok(()) } else { self.engine.write(batch).await.map(|_| ()) }
    }
}
