//! Events that the provider has and we had not, or could not process, and objects that changed without one: found, filled or failed.

use chrono::{DateTime, Utc};
use serde_json::Value as Json;

use super::{
    Store,
    engine::{Batch, Fact, Row},
};
use crate::error::Result;

/// Something that was missing.
#[derive(Clone, Debug)]
pub struct GapRow {
    /// The event's id; for an object that changed outside `KIND/ID/STATE`.
    pub id: String,
    /// `never_delivered`, `failed_here` or `changed_outside`.
    pub class: String,
    /// The object's kind for `changed_outside`.
    pub event_type: String,
    pub object_id: Option<String>,
    /// Unix seconds, the provider's clock.
    pub created: i64,
    /// `found`, `filled` or `failed`.
    pub state: String,
    pub attempts: i64,
    pub error: Option<String>,
    pub detail: Option<Json>,
    pub found_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, class, event_type, object_id, created, state, attempts, error, detail, found_at, ended_at FROM event_gap ",
            $rest
        )
    };
}

impl Store {
    /// Writes down what is missing, once, with its fact; false if it was known.
    pub async fn insert_gap(&self, gap: &GapRow, fact: Fact) -> Result<bool> {
        let sql = "INSERT INTO event_gap (id, class, event_type, object_id, created, state, attempts, error, detail, found_at, ended_at)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT (id) DO NOTHING";
        let params = vec![
            gap.id.as_str().into(),
            gap.class.as_str().into(),
            gap.event_type.as_str().into(),
            gap.object_id.clone().into(),
            gap.created.into(),
            gap.state.as_str().into(),
            gap.attempts.into(),
            gap.error.clone().into(),
            gap.detail.as_ref().into(),
            gap.found_at.into(),
            gap.ended_at.into(),
        ];
        Ok(self.engine.write(Batch::new().guard(sql, params).journal(fact)).await?.affected(0) == 1)
    }

    /// Moves a gap on, with its fact; false if it is in that state already.
    pub async fn set_gap(&self, id: &str, state: &str, error: Option<&str>, now: DateTime<Utc>, fact: Fact) -> Result<bool> {
        let sql = "UPDATE event_gap SET state = ?2, error = ?3, ended_at = ?4 WHERE id = ?1 AND (state <> ?2 OR COALESCE(error, '') <> COALESCE(?3, ''))";
        let batch = Batch::new().guard(sql, vec![id.into(), state.into(), error.into(), now.into()]).journal(fact);
        Ok(self.engine.write(batch).await?.affected(0) == 1)
    }

    /// Counts an attempt to fill a gap; what it came to is seen later.
    pub async fn try_gap(&self, id: &str) -> Result<()> {
        let sql = "UPDATE event_gap SET state = 'found', attempts = attempts + 1, ended_at = NULL WHERE id = ?1";
        self.engine.write(Batch::new().sql(sql, vec![id.into()])).await.map(|_| ())
    }

    pub async fn gap(&self, id: &str) -> Result<Option<GapRow>> {
        self.engine.read(select!("WHERE id = ?1"), vec![id.into()]).await?.first().map(gap_row).transpose()
    }

    /// Gaps that are not filled, oldest first, with the state and the error that their event has here by now.
    pub async fn open_gaps(&self, limit: i64) -> Result<Vec<(GapRow, Option<String>, Option<String>)>> {
        let sql = "SELECT g.id, g.class, g.event_type, g.object_id, g.created, g.state, g.attempts, g.error, g.detail, g.found_at, g.ended_at,
            e.status, e.error FROM event_gap g LEFT JOIN webhook_event e ON e.event_id = g.id WHERE g.state <> 'filled' ORDER BY g.found_at LIMIT ?1";
        let rows = self.engine.read(sql, vec![limit.into()]).await?;
        rows.iter().map(|r| Ok((gap_row(r)?, r.opt_text(11)?, r.opt_text(12)?))).collect()
    }

    /// Newest first; `state` empty means any, `before` is the last row's `found_at` in microseconds and its id.
    pub async fn gaps(&self, state: &str, before: (i64, &str), limit: i64) -> Result<Vec<GapRow>> {
        let sql = select!(
            "WHERE (?1 = '' OR state = ?1) AND (?2 = 0 OR found_at < ?2 OR (found_at = ?2 AND id < ?3)) ORDER BY found_at DESC, id DESC LIMIT ?4"
        );
        let params = vec![state.into(), before.0.into(), before.1.into(), limit.into()];
        self.engine.read(sql, params).await?.iter().map(gap_row).collect()
    }

    /// (class, state, number).
    pub async fn gap_counts(&self) -> Result<Vec<(String, String, i64)>> {
        let rows =
            self.engine.read("SELECT class, state, COUNT(*) FROM event_gap GROUP BY class, state ORDER BY class, state", vec![]).await?;
        rows.iter().map(|r| Ok((r.text(0)?.to_owned(), r.text(1)?.to_owned(), r.int(2)?))).collect()
    }
}

fn gap_row(row: &Row) -> Result<GapRow> {
    Ok(GapRow {
        id: row.text(0)?.to_owned(),
        class: row.text(1)?.to_owned(),
        event_type: row.text(2)?.to_owned(),
        object_id: row.opt_text(3)?,
        created: row.int(4)?,
        state: row.text(5)?.to_owned(),
        attempts: row.int(6)?,
        error: row.opt_text(7)?,
        detail: row.opt_text(8)?.map(|t| serde_json::from_str(&t)).transpose()?,
        found_at: row.time(9)?,
        ended_at: row.opt_time(10)?,
    })
}
