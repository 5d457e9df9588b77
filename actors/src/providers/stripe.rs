//! stub (not committed)
use crate::error::Result;
use serde_json::Value;
pub const API_VERSION: &str = "2026-10-28.endive";
#[derive(Clone, Debug)]
pub struct Client;
#[derive(Clone, Debug)]
pub struct Answer {
    pub body: Value,
    pub provider_now: chrono::DateTime<chrono::Utc>,
    pub request_id: Option<String>,
    pub replayed: bool,
}
#[allow(unused_variables, clippy::unused_async)]
impl Client {
    pub fn new(base_url: &str, key: &str, http: reqwest::Client) -> Self {
        Self
    }
    pub async fn get(&self, path: &str, params: &[(&str, String)]) -> Result<Answer> {
        todo!()
    }
    pub async fn post(&self, path: &str, params: &[(&str, String)], key: &str) -> Result<Answer> {
        todo!()
    }
    pub async fn list_all(&self, path: &str, params: &[(&str, String)]) -> Result<Vec<Value>> {
        todo!()
    }
    pub async fn now(&self) -> Result<chrono::DateTime<chrono::Utc>> {
        todo!()
    }
    pub async fn customers_by_email(&self, email: &str) -> Result<Vec<Value>> {
        todo!()
    }
    pub async fn create_customer(&self, email: &str, key: &str) -> Result<Value> {
        todo!()
    }
    pub async fn create_invoice(&self, customer: &str, currency: &str, description: Option<&str>, key: &str) -> Result<Value> {
        todo!()
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
        todo!()
    }
    pub async fn finalize_invoice(&self, id: &str, key: &str) -> Result<Value> {
        todo!()
    }
    pub async fn invoices_of_customer(&self, customer: &str) -> Result<Vec<Value>> {
        todo!()
    }
    pub async fn invoice_payments(&self, invoice: &str) -> Result<Vec<Value>> {
        todo!()
    }
    pub async fn charges(&self, limit: u32) -> Result<Vec<Value>> {
        todo!()
    }
    pub async fn charge(&self, id: &str) -> Result<Value> {
        todo!()
    }
    pub async fn create_refund(&self, charge: &str, amount: Option<i64>, reason: Option<&str>, key: &str) -> Result<Answer> {
        todo!()
    }
    pub async fn payouts(&self, from: i64, to: i64) -> Result<Vec<Value>> {
        todo!()
    }
    pub async fn balance_transactions_of_payout(&self, payout: &str) -> Result<Vec<Value>> {
        todo!()
    }
    pub async fn balance_transactions(&self, from: i64, to: i64) -> Result<Vec<Value>> {
        todo!()
    }
}
