//! A customer's invoices, over every customer with that address, as the operator and the customer's own page see them. Called by the
//! gateway. The provider is asked and the local copies fill in: without it the answer is the local one, marked `stale`. Drafts are
//! shown to nobody (the provider has no number and no page for them), and an unknown address looks like one without invoices.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::DateTime;
use serde_json::{Value as Json, json};

use super::by_provider;
use crate::{
    domain::{money, portal},
    env::Env,
    error::{Error, Result},
};

/// How long the provider may take before the local copies are answered.
const PATIENCE: Duration = Duration::from_secs(5);
/// Paid invoices whose refunds the provider is asked about, when no local object tells: the newest ones.
const ASK_ABOUT: usize = 20;

/// The invoices of an address, newest first: `{"ok","email","invoices":[{"id","number","date","status","currency","amount_minor",
/// "amount","amount_paid_minor","amount_remaining_minor","refunded_minor","hosted_invoice_url","description"}]}` and `"stale":true`
/// if the provider did not answer. Errors: `invalid` naming `email`; `unavailable` if the store does not answer.
pub async fn customer_invoices(env: &Env, email: &str) -> Result<Json> {
    let raw = email.trim_matches(' ');
    let email = portal::canonical_email(email).map_err(|why| Error::field("email", why))?;
    let livemode = env.config().provider.mode.is_live();
    let known: BTreeSet<String> = env.store().customers_by_email(&email, livemode).await?.into_iter().collect();
    let asked = tokio::time::timeout(PATIENCE, from_provider(env, &email, raw, &known)).await;
    let fetched = match asked {
        Ok(Ok(fetched)) => Some(fetched),
        Ok(Err(error)) => {
            tracing::warn!(target: "gateway", %error, "invoices are answered from the local copies");
            None
        }
        Err(_) => {
            tracing::warn!(target: "gateway", "invoices are answered from the local copies: the provider is slow");
            None
        }
    };
    let stale = fetched.is_none();
    let mut invoices = match fetched {
        Some(invoices) => invoices,
        None => from_store(env, &known).await?,
    };
    invoices.retain(|_, invoice| shown(invoice));
    let mut views = Vec::new();
    for (id, invoice) in &invoices {
        let asked_about = if stale { 0 } else { ASK_ABOUT };
        let refunded = refunded(env, id, invoice, views.len() < asked_about).await?;
        views.push((invoice["created"].as_i64().unwrap_or_default(), view(env, invoice, refunded)));
    }
    views.sort_by_key(|(created, _)| std::cmp::Reverse(*created));
    let mut answer = json!({"ok": true, "email": email, "invoices": views.into_iter().map(|(_, v)| v).collect::<Vec<_>>()});
    if stale {
        answer["stale"] = true.into();
    }
    Ok(answer)
}

/// By invoice id, over all customers: the provider compares addresses by case, and several customers may share one.
async fn from_provider(env: &Env, email: &str, raw: &str, known: &BTreeSet<String>) -> Result<BTreeMap<String, Json>> {
    let provider = env.provider();
    let mut customers = known.clone();
    let spellings: BTreeSet<&str> = [email, raw].into();
    for spelling in spellings {
        let listed = provider.customers_by_email(spelling).await.map_err(by_provider)?;
        customers.extend(listed.iter().filter(|c| c["deleted"] != true).filter_map(|c| c["id"].as_str()).map(str::to_owned));
    }
    let mut invoices = BTreeMap::new();
    for customer in &customers {
        let listed = match provider.invoices_of_customer(customer).await {
            Err(error) if error.code == crate::error::Code::NotFound => Vec::new(), // known here, gone there
            listed => listed.map_err(by_provider)?,
        };
        invoices.extend(listed.into_iter().filter_map(|i| Some((i["id"].as_str()?.to_owned(), i))));
    }
    Ok(invoices)
}

async fn from_store(env: &Env, customers: &BTreeSet<String>) -> Result<BTreeMap<String, Json>> {
    let mut invoices = BTreeMap::new();
    for customer in customers {
        let rows = env.store().objects_of_customer("invoice", customer).await?;
        invoices.extend(rows.into_iter().map(|row| (row.id, row.body)));
    }
    Ok(invoices)
}

fn shown(invoice: &Json) -> bool {
    invoice["status"].as_str().is_some_and(|s| s != "draft" && s != "deleted")
}

/// What was given back of an invoice's payments: by the local copies, else (`ask`) by the provider.
async fn refunded(env: &Env, id: &str, invoice: &Json, ask: bool) -> Result<i64> {
    if invoice["amount_paid"].as_i64().unwrap_or_default() == 0 {
        return Ok(0);
    }
    let rows = env.store().objects_of_parent("invoice_payment", id).await?;
    let mut payments: Vec<Json> = rows.into_iter().map(|row| row.body).collect();
    if payments.is_empty() && ask {
        // Not knowing shows as nothing refunded; the provider's own page tells the rest.
        payments = tokio::time::timeout(PATIENCE, env.provider().invoice_payments(id)).await.ok().and_then(Result::ok).unwrap_or_default();
    }
    let intents: BTreeSet<&str> = payments.iter().filter_map(|p| p["payment"]["payment_intent"].as_str()).collect();
    let mut total = 0;
    for intent in intents {
        let charges = env.store().objects_of_parent("charge", intent).await?;
        total += charges.iter().map(|c| c.body["amount_refunded"].as_i64().unwrap_or_default()).sum::<i64>();
    }
    Ok(total)
}

fn view(env: &Env, invoice: &Json, refunded_minor: i64) -> Json {
    let number = |name: &str| invoice[name].as_i64().unwrap_or_default();
    let currency = invoice["currency"].as_str().unwrap_or("usd");
    let amount_minor = invoice["total"].as_i64().unwrap_or_else(|| number("amount_due"));
    let date = DateTime::from_timestamp(number("created"), 0).map(|at| at.date_naive().to_string());
    let line = invoice.pointer("/lines/data/0/description");
    let description = [Some(&invoice["description"]), line].into_iter().flatten().find(|d| d.is_string());
    json!({
        "id": invoice["id"],
        "number": invoice["number"],
        "date": date,
        "status": invoice["status"],
        "currency": currency,
        "amount_minor": amount_minor,
        "amount": money::format_minor(amount_minor, currency),
        "amount_paid_minor": number("amount_paid"),
        "amount_remaining_minor": number("amount_remaining"),
        "refunded_minor": refunded_minor,
        "hosted_invoice_url": invoice["hosted_invoice_url"].as_str().filter(|url| is_ours(env, url)),
        "description": description,
    })
}

/// Only the provider's own pages are linked: https, or the sandbox on its loopback address.
fn is_ours(env: &Env, url: &str) -> bool {
    url.starts_with("https://") || env.sandbox_address().is_some_and(|a| url.starts_with(&format!("http://{a}/")))
}
