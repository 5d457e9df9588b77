//! Differences that the demo plants by the sandbox's own switches, so that a reconciliation has something to find: each of another
//! kind, and each noted with what must be found. Called by `mod.rs` on their days. A switch is on only for the call that it is for.

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::trade::{Trade, id_of};
use crate::{error::Result, store::ExceptionRow};

/// What a reconciliation must find: the kind of its exception, and the object that it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Planted {
    kind: String,
    /// The payment, the refund or the payout.
    source: String,
}

impl Planted {
    fn new(kind: &str, source: String) -> Self {
        Self { kind: kind.to_owned(), source }
    }

    pub(super) fn is_found_by(&self, exception: &ExceptionRow) -> bool {
        let names = |member: &str| exception.body[member].as_str() == Some(&self.source);
        self.kind == exception.kind && (names("source_id") || names("payout_id"))
    }
}

/// Days before the end on which payments go wrong at the provider.
const WRONG_AMOUNT: i64 = 21;
const WRONG_CURRENCY: i64 = 17;
const GHOST: i64 = 13;
/// From this day on, until a payout has been made that is less than its movements.
const RESIDUAL: i64 = 9;
/// Payouts that the bank returns, which then are part of the next: no difference, if it is booked.
const RETURNED: [i64; 2] = [160, 26];

impl Trade<'_> {
    /// What goes wrong today; `planted` is what was noted before.
    pub(super) async fn plant(&self, day: i64, planted: &[Planted]) -> Result<Vec<Planted>> {
        let left = self.business.days - day;
        if RETURNED.contains(&left) {
            self.sandbox.set_chaos(&json!({ "payout_fail": 1 })).await?;
        }
        Ok(match left {
            WRONG_AMOUNT => vec![Planted::new("amount_mismatch", self.wrong_sale(day, 7300, "skew_amount").await?)],
            WRONG_CURRENCY => vec![Planted::new("currency_mismatch", self.wrong_sale(day, 8200, "skew_currency").await?)],
            GHOST => {
                let sale = self.wrong_sale(day, 6400, "ghost_balance_transaction").await?;
                vec![Planted::new("missing_in_ledger", self.ghost_of(&sale).await?)]
            }
            ..=RESIDUAL if !planted.iter().any(|p| p.kind == "unbalanced_payout") => self.residual(day, left == RESIDUAL).await?,
            _ => Vec::new(),
        })
    }

    /// Webhooks that are lost, at the very end: what is younger than a quarter of an hour nobody looks for yet.
    pub(super) async fn lose(&self, day: i64) -> Result<Vec<Planted>> {
        let lost = self.while_on(&json!({ "drop_webhook": 1 }), &json!({ "drop_webhook": 0 }), self.sale(day, 5100, "lost")).await?;
        let sale = self.sale(day, 9900, "returned goods").await?;
        let refund = async {
            id_of(
                &self
                    .provider
                    .create_refund(&sale, Some(2500), Some("requested_by_customer"), &format!("demo-{day}-lost-refund"))
                    .await?
                    .body,
            )
        };
        let refund = self.while_on(&json!({ "drop_webhook": 1 }), &json!({ "drop_webhook": 0 }), refund).await?;
        Ok(vec![Planted::new("missing_in_ledger", lost), Planted::new("missing_in_ledger", refund)])
    }

    /// Does something with a switch on, and turns it off whatever came of it.
    async fn while_on<T>(&self, on: &Json, off: &Json, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.sandbox.set_chaos(on).await?;
        let done = work.await;
        self.sandbox.set_chaos(off).await?;
        done
    }

    async fn wrong_sale(&self, day: i64, amount: i64, switch: &str) -> Result<String> {
        self.while_on(&json!({ switch: 1 }), &json!({ switch: 0 }), self.sale(day, amount, switch)).await
    }

    /// A sale over the counter: a payment without customer or invoice. Answers its charge.
    async fn sale(&self, day: i64, amount: i64, what: &str) -> Result<String> {
        let params = [
            ("amount", amount.to_string()),
            ("currency", "usd".to_owned()),
            ("payment_method", "pm_card_visa".to_owned()),
            ("confirm", "true".to_owned()),
            ("description", "Sale over the counter".to_owned()),
        ];
        let intent = self.provider.post("/v1/payment_intents", &params, &format!("demo-{day}-sale-{what}")).await?.body;
        Ok(intent["latest_charge"].as_str().unwrap_or_default().to_owned())
    }

    /// The source of the movement that came with a sale and that nobody made.
    async fn ghost_of(&self, sale: &str) -> Result<String> {
        let real = self.provider.charge(sale).await?;
        let from = real["created"].as_i64().unwrap_or_default();
        let params = [("type", "charge".to_owned()), ("created[gte]", from.to_string())];
        let movements = self.provider.list_all("/v1/balance_transactions", &params).await?;
        let ghost = movements.iter().find(|m| m["amount"] == real["amount"] && m["source"] != sale && m["created"] == real["created"]);
        Ok(ghost.and_then(|m| m["source"].as_str()).unwrap_or_default().to_owned())
    }

    /// On the first day sets the switch; later looks for the payout that it hit.
    async fn residual(&self, day: i64, first: bool) -> Result<Vec<Planted>> {
        if first {
            self.sandbox.set_chaos(&json!({ "payout_residual": 1 })).await?;
            return Ok(Vec::new());
        }
        let since = self.sandbox.now().await - (day - (self.business.days - RESIDUAL) + 1) * super::DAY_S;
        for payout in self.provider.payouts(since, i64::MAX).await?.into_iter().filter(|p| p["reconciliation_status"] == "completed") {
            let members = self.provider.balance_transactions_of_payout(&id_of(&payout)?).await?;
            if members.iter().filter_map(|m| m["net"].as_i64()).sum::<i64>() != 0 {
                return Ok(vec![Planted::new("unbalanced_payout", id_of(&payout)?)]);
            }
        }
        Ok(Vec::new())
    }
}
