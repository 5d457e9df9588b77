//! Which of the permissions that EchoPilot needs a key lacks, found out by reads of one object each that change nothing. Called by
//! `echopilot check`. Whether a key may write cannot be read; what it may not even read it may not write.

use super::Client;
use crate::error::{Code, Error, Result};

/// What is read and, as the provider's dashboard words it, what for.
const NEEDED: [(&str, &str); 10] = [
    ("Balance", "/v1/balance"),
    ("Balance transactions", "/v1/balance_transactions"),
    ("Charges", "/v1/charges"),
    ("Customers", "/v1/customers"),
    ("Disputes", "/v1/disputes"),
    ("Events", "/v1/events"),
    ("Invoices", "/v1/invoices"),
    ("PaymentIntents", "/v1/payment_intents"),
    ("Payouts", "/v1/payouts"),
    ("Refunds", "/v1/refunds"),
];

/// A permission that the key lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacking {
    /// As the provider's dashboard calls it.
    pub resource: &'static str,
    /// The provider's own word, e.g. `rak_payout_read`, if it gave one.
    pub permission: Option<String>,
}

impl Client {
    /// Every permission the key lacks. Errors: `forbidden` if the key is not accepted at all, `unavailable` if the provider does not answer.
    pub async fn lacking_permissions(&self) -> Result<Vec<Lacking>> {
        let (mut lacking, mut last) = (Vec::new(), None::<Error>);
        for (resource, path) in NEEDED {
            let one = [("limit", "1".to_owned())];
            let params: &[_] = if path == "/v1/balance" { &[] } else { &one };
            match self.get(path, params).await {
                Ok(_) => {}
                Err(error) if error.code == Code::Forbidden && error.reason != "unknown_key" && !not_accepted(&error) => {
                    let permission = error.extra.get("permission").and_then(|p| p.as_str()).map(str::to_owned);
                    lacking.push(Lacking { resource, permission });
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        match last {
            // Refused everywhere: it is the key, and not a permission of it.
            Some(error) if lacking.len() == NEEDED.len() && lacking.iter().all(|l| l.permission.is_none()) => Err(error),
            _ => Ok(lacking),
        }
    }
}

/// Another answer than "not with this key's permissions": 401, or an object of the other mode.
fn not_accepted(error: &Error) -> bool {
    error.extra.get("provider_status").is_some_and(|status| status == 401) || error.reason == "livemode_mismatch"
}
