//! The calls that EchoPilot makes, by name, over the client's `get`, `post` and `list_all`. A new call is a method here.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{Answer, Client, Params};
use crate::error::{Error, Result};

/// What EchoPilot asks the provider for, by name. Times are Unix seconds, amounts minor units.
impl Client {
    /// The provider's clock.
    pub async fn now(&self) -> Result<DateTime<Utc>> {
        Ok(self.get("/v1/balance", &[]).await?.provider_now)
    }

    /// Available and pending, per currency.
    pub async fn balance(&self) -> Result<Value> {
        Ok(self.get("/v1/balance", &[]).await?.body)
    }

    /// All customers with exactly this address; the provider compares case-sensitively and allows several.
    pub async fn customers_by_email(&self, email: &str) -> Result<Vec<Value>> {
        self.list_all("/v1/customers", &[("email", email.into())]).await
    }

    /// A customer of whom only the address is known.
    pub async fn create_customer(&self, email: &str, key: &str) -> Result<Value> {
        Ok(self.post("/v1/customers", &[("email", email.into())], key).await?.body)
    }

    /// Makes a card the one a customer's invoices are paid with; test mode ids such as `pm_card_visa` make a new one.
    pub async fn attach_payment_method(&self, customer: &str, method: &str, key: &str) -> Result<Value> {
        let attached = self.post(&format!("/v1/payment_methods/{method}/attach"), &[("customer", customer.into())], key).await?.body;
        let id = attached["id"].as_str().unwrap_or(method).to_owned();
        let params = [("invoice_settings[default_payment_method]", id)];
        self.post(&format!("/v1/customers/{customer}"), &params, &format!("{key}-default")).await?;
        Ok(attached)
    }

    /// A draft that waits for its items: nothing is collected on its own.
    pub async fn create_invoice(&self, customer: &str, currency: &str, description: &str, key: &str) -> Result<Value> {
        let params = [
            ("customer", customer.into()),
            ("currency", currency.into()),
            ("description", description.into()),
            ("auto_advance", "false".into()),
            ("collection_method", "send_invoice".into()),
            ("days_until_due", "30".into()),
            ("pending_invoice_items_behavior", "exclude".into()),
        ];
        Ok(self.post("/v1/invoices", &params, key).await?.body)
    }

    /// A draft that carries a mark, paid with the customer's card when asked.
    pub async fn create_trial_invoice(&self, customer: &str, currency: &str, mark: (&str, &str), key: &str) -> Result<Value> {
        let name = format!("metadata[{}]", mark.0);
        let params = [
            ("customer", customer.into()),
            ("currency", currency.into()),
            ("auto_advance", "false".into()),
            ("pending_invoice_items_behavior", "exclude".into()),
            (name.as_str(), mark.1.into()),
        ];
        Ok(self.post("/v1/invoices", &params, key).await?.body)
    }

    pub async fn create_invoice_item(
        &self,
        invoice: &str,
        customer: &str,
        amount: i64,
        currency: &str,
        description: &str,
        key: &str,
    ) -> Result<Value> {
        let params = [
            ("invoice", invoice.into()),
            ("customer", customer.into()),
            ("amount", amount.to_string()),
            ("currency", currency.into()),
            ("description", description.into()),
        ];
        Ok(self.post("/v1/invoiceitems", &params, key).await?.body)
    }

    /// Gives a draft its number and its page: status `open`.
    pub async fn finalize_invoice(&self, id: &str, key: &str) -> Result<Value> {
        Ok(self.post(&format!("/v1/invoices/{id}/finalize"), &[("auto_advance", "false".into())], key).await?.body)
    }

    /// `params` may name a `payment_method`; a declined card is `conflict` with reason `card_declined`.
    pub async fn pay_invoice(&self, id: &str, params: Params<'_>, key: &str) -> Result<Value> {
        Ok(self.post(&format!("/v1/invoices/{id}/pay"), params, key).await?.body)
    }

    /// Makes an open or uncollectible invoice void: nothing is owed any more.
    pub async fn void_invoice(&self, id: &str, key: &str) -> Result<Value> {
        Ok(self.post(&format!("/v1/invoices/{id}/void"), &[], key).await?.body)
    }

    /// One invoice by its id.
    pub async fn invoice(&self, id: &str) -> Result<Value> {
        Ok(self.get(&format!("/v1/invoices/{id}"), &[]).await?.body)
    }

    /// All of a customer's invoices, newest first, drafts among them.
    pub async fn invoices_of_customer(&self, customer: &str) -> Result<Vec<Value>> {
        self.list_all("/v1/invoices", &[("customer", customer.into())]).await
    }

    /// Ends a subscription now. `not_found` if it has ended already.
    pub async fn cancel_subscription(&self, id: &str) -> Result<()> {
        self.delete(&format!("/v1/subscriptions/{id}")).await.map(drop)
    }

    /// The payments of an invoice: the only link from it to a payment intent.
    pub async fn invoice_payments(&self, invoice: &str) -> Result<Vec<Value>> {
        self.list_all("/v1/invoice_payments", &[("invoice", invoice.into())]).await
    }

    /// One payment intent by its id; `latest_charge` names its charge.
    pub async fn payment_intent(&self, id: &str) -> Result<Value> {
        Ok(self.get(&format!("/v1/payment_intents/{id}"), &[]).await?.body)
    }

    /// The newest charges, newest first; `limit` from 1 to 100.
    pub async fn charges(&self, limit: u32) -> Result<Vec<Value>> {
        let mut page = self.get("/v1/charges", &[("limit", limit.clamp(1, 100).to_string())]).await?.body;
        match page["data"].take() {
            Value::Array(charges) => Ok(charges),
            _ => Err(Error::unavailable("provider_unavailable", "the provider's answer to /v1/charges is not a list")),
        }
    }

    /// Puts a mark into a charge's metadata.
    pub async fn mark_charge(&self, id: &str, mark: (&str, &str), key: &str) -> Result<Value> {
        let name = format!("metadata[{}]", mark.0);
        Ok(self.post(&format!("/v1/charges/{id}"), &[(name.as_str(), mark.1.into())], key).await?.body)
    }

    /// One charge by its id.
    pub async fn charge(&self, id: &str) -> Result<Value> {
        Ok(self.get(&format!("/v1/charges/{id}"), &[]).await?.body)
    }

    /// `amount` none: all that is left. `reason` is one of the provider's three words.
    pub async fn create_refund(&self, charge: &str, amount: Option<i64>, reason: Option<&str>, key: &str) -> Result<Answer> {
        let mut params = vec![("charge", charge.to_owned())];
        params.extend(amount.map(|a| ("amount", a.to_string())));
        params.extend(reason.map(|r| ("reason", r.to_owned())));
        self.post("/v1/refunds", &params, key).await
    }

    /// All refunds of a charge, newest first.
    pub async fn refunds_of_charge(&self, charge: &str) -> Result<Vec<Value>> {
        self.list_all("/v1/refunds", &[("charge", charge.into())]).await
    }

    /// Payouts created in the window, both ends included.
    pub async fn payouts(&self, created_gte: i64, created_lte: i64) -> Result<Vec<Value>> {
        self.list_all("/v1/payouts", &window(created_gte, created_lte)).await
    }

    /// One payout by its id.
    pub async fn payout(&self, id: &str) -> Result<Value> {
        Ok(self.get(&format!("/v1/payouts/{id}"), &[]).await?.body)
    }

    /// Payouts in one state, whenever they were made until `created_lte`.
    pub async fn payouts_in_state(&self, status: &str, created_lte: i64) -> Result<Vec<Value>> {
        self.list_all("/v1/payouts", &[("status", status.into()), ("created[lte]", created_lte.to_string())]).await
    }

    /// What one object (`ch_`, `re_`, `po_`, ...) moved, until `created_lte`.
    pub async fn balance_transactions_of_source(&self, source: &str, created_lte: i64) -> Result<Vec<Value>> {
        let until = ("created[lte]", created_lte.to_string());
        self.list_all("/v1/balance_transactions", &[("source", source.into()), until, with_source()]).await
    }

    /// The movements of an automatic payout, its own among them.
    pub async fn balance_transactions_of_payout(&self, payout: &str) -> Result<Vec<Value>> {
        self.list_all("/v1/balance_transactions", &[("payout", payout.into()), with_source()]).await
    }

    /// Movements created in the window, both ends included.
    pub async fn balance_transactions(&self, created_gte: i64, created_lte: i64) -> Result<Vec<Value>> {
        let [from, to] = window(created_gte, created_lte);
        self.list_all("/v1/balance_transactions", &[from, to, with_source()]).await
    }

    /// Disputes created in the window, both ends included.
    pub async fn disputes(&self, created_gte: i64, created_lte: i64) -> Result<Vec<Value>> {
        self.list_all("/v1/disputes", &window(created_gte, created_lte)).await
    }

    /// Events since then, newest first; the provider keeps them for 30 days.
    pub async fn events(&self, created_gte: i64) -> Result<Vec<Value>> {
        self.list_all("/v1/events", &[("created[gte]", created_gte.to_string())]).await
    }

    /// Invoices created in the window, both ends included, drafts among them.
    pub async fn invoices(&self, created_gte: i64, created_lte: i64) -> Result<Vec<Value>> {
        self.list_all("/v1/invoices", &window(created_gte, created_lte)).await
    }

    /// All invoices in one state, of any age: `draft`, `open`, `paid`, `void` or `uncollectible`.
    pub async fn invoices_in_state(&self, status: &str) -> Result<Vec<Value>> {
        self.list_all("/v1/invoices", &[("status", status.into())]).await
    }

    /// Payments of invoices created in the window, both ends included: made when the invoice was finalized, not when it was paid.
    pub async fn invoice_payments_created(&self, created_gte: i64, created_lte: i64) -> Result<Vec<Value>> {
        self.list_all("/v1/invoice_payments", &window(created_gte, created_lte)).await
    }

    /// Charges created in the window, both ends included, declined ones among them.
    pub async fn charges_created(&self, created_gte: i64, created_lte: i64) -> Result<Vec<Value>> {
        self.list_all("/v1/charges", &window(created_gte, created_lte)).await
    }

    /// The attempts to charge a payment intent, newest first.
    pub async fn charges_of_intent(&self, intent: &str) -> Result<Vec<Value>> {
        self.list_all("/v1/charges", &[("payment_intent", intent.into())]).await
    }

    /// Refunds created in the window, both ends included.
    pub async fn refunds_created(&self, created_gte: i64, created_lte: i64) -> Result<Vec<Value>> {
        self.list_all("/v1/refunds", &window(created_gte, created_lte)).await
    }
}

/// With the object that moved the money: its presentment currency is on it, not on the balance transaction.
fn with_source() -> (&'static str, String) {
    ("expand[]", "data.source".to_owned())
}

fn window(gte: i64, lte: i64) -> [(&'static str, String); 2] {
    [("created[gte]", gte.to_string()), ("created[lte]", lte.to_string())]
}
