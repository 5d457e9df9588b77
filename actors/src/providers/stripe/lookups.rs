//! Reads by which the gap finder and the refunds look after single objects, and the list of events. Over the client's `get` and `pages`;
//! nothing here changes anything at the provider.

use serde_json::Value;

use super::{Answer, Client, Pages};
use crate::error::Result;

/// The kinds of objects whose state goes on by itself, and where they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenObject {
    Invoice,
    Refund,
    Payout,
    Dispute,
}

impl OpenObject {
    pub const ALL: [Self; 4] = [Self::Invoice, Self::Refund, Self::Payout, Self::Dispute];

    /// The name in the store.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Invoice => "invoice",
            Self::Refund => "refund",
            Self::Payout => "payout",
            Self::Dispute => "dispute",
        }
    }
}

impl Client {
    /// Events created in the window, both ends included, newest first; the provider keeps them for 30 days.
    pub fn event_pages(&self, created_gte: i64, created_lte: i64) -> Pages {
        self.pages("/v1/events", &[("created[gte]", created_gte.to_string()), ("created[lte]", created_lte.to_string())])
    }

    /// One object as it is now. Errors: `not_found` if the provider does not have it any more.
    pub async fn object(&self, kind: OpenObject, id: &str) -> Result<Answer> {
        self.get(&format!("/v1/{}s/{id}", kind.kind()), &[]).await
    }

    /// `amount` none: all that is left. `reason` is one of the provider's three words. The refund carries the intent's id, by which it is
    /// recognised whatever became of the answer, and which is the idempotency key too.
    pub async fn create_intended_refund(&self, charge: &str, amount: Option<i64>, reason: Option<&str>, intent: &str) -> Result<Answer> {
        let mut params = vec![("charge", charge.to_owned()), ("metadata[echopilot_intent]", intent.to_owned())];
        params.extend(amount.map(|a| ("amount", a.to_string())));
        params.extend(reason.map(|r| ("reason", r.to_owned())));
        self.post("/v1/refunds", &params, intent).await
    }
}

/// The intent that a refund of ours was made for.
pub fn intent_of(refund: &Value) -> Option<&str> {
    refund["metadata"]["echopilot_intent"].as_str().filter(|id| !id.is_empty())
}
