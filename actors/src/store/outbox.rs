//! Messages on their way to people: written down in the commit that decides about them, sent afterwards, kept with every attempt.

use super::engine::Batch;
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
