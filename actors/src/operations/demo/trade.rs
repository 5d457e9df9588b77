//! Does what the business does, through the provider's `/v1`: each deed is a few calls whose keys are the same the second time, so
//! that an interrupted day can be done again. Called by `mod.rs`, day by day. It looks up what it does not know, because the one who
//! began the day may have been another process.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::Value as Json;

use super::business::{Act, Business, CURRENCIES, Customer, Deed, PLANS, Rate};
use crate::{
    error::{Code, Error, Result},
    providers::{sandbox::Sandbox, stripe::Client},
};

/// Customers who are served at the same time.
const AT_ONCE: usize = 8;

/// The business at the provider.
pub(super) struct Trade<'a> {
    pub(super) provider: &'a Client,
    pub(super) sandbox: &'a Sandbox,
    pub(super) business: &'a Business,
    /// Price ids by their nicknames.
    prices: HashMap<String, String>,
    known: Mutex<HashMap<usize, Account>>,
}

/// A customer at the provider.
#[derive(Clone)]
struct Account {
    customer: String,
    subscription: String,
    item: String,
}

impl<'a> Trade<'a> {
    /// Opens for business: makes the products and prices that are not there yet.
    pub(super) async fn open(provider: &'a Client, sandbox: &'a Sandbox, business: &'a Business) -> Result<Self> {
        let mut prices = HashMap::new();
        for price in provider.list_all("/v1/prices", &[]).await? {
            if let Some(nickname) = price["nickname"].as_str() {
                prices.insert(nickname.to_owned(), id_of(&price)?);
            }
        }
        for (plan, terms) in PLANS.iter().enumerate() {
            let wanted = CURRENCIES.iter().flat_map(|currency| [false, true].map(|yearly| (*currency, Rate { plan, yearly })));
            let missing: Vec<_> = wanted.filter(|(currency, rate)| !prices.contains_key(&nickname(*rate, currency))).collect();
            if missing.is_empty() {
                continue;
            }
            let key = format!("demo-product-{}", terms.name);
            let product = id_of(&provider.post("/v1/products", &[("name", format!("{} plan", terms.name))], &key).await?.body)?;
            for (currency, rate) in missing {
                let monthly = if currency == "usd" { terms.usd } else { terms.eur };
                let name = nickname(rate, currency);
                let params = [
                    ("product", product.clone()),
                    ("currency", currency.to_owned()),
                    ("unit_amount", (if rate.yearly { monthly * 10 } else { monthly }).to_string()),
                    ("recurring[interval]", if rate.yearly { "year" } else { "month" }.to_owned()),
                    ("nickname", name.clone()),
                ];
                let price = provider.post("/v1/prices", &params, &format!("demo-price-{name}")).await?.body;
                prices.insert(name, id_of(&price)?);
            }
        }
        Ok(Self { provider, sandbox, business, prices, known: Mutex::default() })
    }

    /// Everything that the customers do on a day.
    pub(super) async fn live_through(&self, day: i64) -> Result<()> {
        let mut by_customer: Vec<Vec<&Deed>> = Vec::new();
        for deed in self.business.on(day) {
            match by_customer.last_mut().filter(|deeds| deeds[0].customer == deed.customer) {
                Some(deeds) => deeds.push(deed),
                None => by_customer.push(vec![deed]),
            }
        }
        let served = by_customer.into_iter().map(|deeds| async move {
            for deed in deeds {
                self.act(deed).await?;
            }
            Ok(())
        });
        stream::iter(served).buffer_unordered(AT_ONCE).try_collect::<()>().await
    }

    async fn act(&self, deed: &Deed) -> Result<()> {
        let customer = &self.business.customers[deed.customer];
        let key = |what: &str| format!("demo-{}-{}-{what}", deed.day, deed.customer);
        if let Act::Join { rate, trial } = deed.act {
            return self.join(deed.customer, customer, rate, trial, &key).await;
        }
        let account = self.account(deed.customer).await?;
        match deed.act {
            Act::Change { rate, at_once } => {
                let behaviour = if at_once { "always_invoice" } else { "create_prorations" };
                let params = [
                    ("items[0][id]", account.item.clone()),
                    ("items[0][price]", self.price(rate, customer.currency)?),
                    ("proration_behavior", behaviour.to_owned()),
                ];
                self.change(&account, &params, &key("change")).await
            }
            Act::Leave { at_once: true } => self.provider.cancel_subscription(&account.subscription).await.or_else(is_gone),
            Act::Leave { at_once: false } => {
                let params = [("cancel_at_period_end", "true".to_owned()), ("cancellation_details[feedback]", "unused".to_owned())];
                self.change(&account, &params, &key("leave")).await
            }
            Act::CardFails => self.card(&account, "pm_card_chargeCustomerFail", &key("bad-card")).await,
            Act::NewCard => self.new_card(&account, customer, &key).await,
            Act::OneOff { what, amount } => self.one_off(&account, customer, what, amount, &key).await,
            Act::Refund { percent } => self.refund(&account, percent, &key("refund")).await,
            Act::Dispute { outcome } => self.dispute(&account, outcome).await,
            Act::Join { .. } => Ok(()),
        }
    }

    async fn join(&self, n: usize, customer: &Customer, rate: Rate, trial: bool, key: &(dyn Fn(&str) -> String + Sync)) -> Result<()> {
        let params = [
            ("email", customer.email.clone()),
            ("name", customer.name.clone()),
            ("invoice_settings[default_payment_method]", customer.card.to_owned()),
        ];
        let id = id_of(&self.provider.post("/v1/customers", &params, &key("join")).await?.body)?;
        let mut params = vec![("customer", id), ("items[0][price]", self.price(rate, customer.currency)?)];
        if trial {
            params.push(("trial_period_days", "14".to_owned()));
        }
        let subscription = self.provider.post("/v1/subscriptions", &params, &key("subscribe")).await?.body;
        self.remember(n, &subscription).map(drop)
    }

    fn remember(&self, n: usize, subscription: &Json) -> Result<Account> {
        let account = Account {
            customer: subscription["customer"].as_str().unwrap_or_default().to_owned(),
            subscription: id_of(subscription)?,
            item: id_of(&subscription["items"]["data"][0])?,
        };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(n, account.clone());
        Ok(account)
    }

    async fn account(&self, n: usize) -> Result<Account> {
        if let Some(account) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&n) {
            return Ok(account.clone());
        }
        let email = &self.business.customers[n].email;
        let gone = || Error::internal(format!("the demo's customer {email} is gone"));
        let customer = self.provider.customers_by_email(email).await?;
        let customer = id_of(customer.first().ok_or_else(gone)?)?;
        let params = [("customer", customer), ("status", "all".to_owned())];
        let subscriptions = self.provider.list_all("/v1/subscriptions", &params).await?;
        self.remember(n, subscriptions.first().ok_or_else(gone)?)
    }

    fn price(&self, rate: Rate, currency: &str) -> Result<String> {
        let name = nickname(rate, currency);
        self.prices.get(&name).cloned().ok_or_else(|| Error::internal(format!("the demo has no price {name}")))
    }

    /// A subscription that an unpaid invoice has ended meanwhile is left as it is.
    async fn change(&self, account: &Account, params: &[(&str, String)], key: &str) -> Result<()> {
        let path = format!("/v1/subscriptions/{}", account.subscription);
        match self.provider.post(&path, params, key).await {
            Err(error) if error.code == Code::Invalid && error.message.contains("canceled subscription") => Ok(()),
            answer => answer.map(drop),
        }
    }

    async fn card(&self, account: &Account, card: &str, key: &str) -> Result<()> {
        self.provider.attach_payment_method(&account.customer, card, key).await.map(drop)
    }

    /// A new card pays what is open.
    async fn new_card(&self, account: &Account, customer: &Customer, key: &(dyn Fn(&str) -> String + Sync)) -> Result<()> {
        self.card(account, customer.card, &key("new-card")).await?;
        for invoice in self.provider.invoices_of_customer(&account.customer).await?.iter().filter(|i| i["status"] == "open") {
            let invoice = id_of(invoice)?;
            self.pay(&invoice, &key(&format!("pay-{invoice}"))).await?;
        }
        Ok(())
    }

    async fn one_off(
        &self,
        account: &Account,
        customer: &Customer,
        what: &str,
        amount: i64,
        key: &(dyn Fn(&str) -> String + Sync),
    ) -> Result<()> {
        let invoice = self.provider.create_invoice(&account.customer, customer.currency, what, &key("invoice")).await?;
        let invoice = id_of(&invoice)?;
        self.provider.create_invoice_item(&invoice, &account.customer, amount, customer.currency, what, &key("item")).await?;
        self.provider.finalize_invoice(&invoice, &key("finalize")).await?;
        self.pay(&invoice, &key("pay")).await
    }

    /// A declined card is part of the story.
    async fn pay(&self, invoice: &str, key: &str) -> Result<()> {
        match self.provider.pay_invoice(invoice, &[], key).await {
            Err(error) if error.code != Code::Conflict => Err(error),
            _ => Ok(()),
        }
    }

    async fn refund(&self, account: &Account, percent: Option<i64>, key: &str) -> Result<()> {
        let charges = self.charges(account).await?;
        // Already refunded under this key before an interruption: the newest payment says so.
        let Some(charge) = charges.first().filter(|c| c["amount_refunded"] == 0 && c["disputed"] == false) else { return Ok(()) };
        let amount = percent.map(|percent| charge["amount"].as_i64().unwrap_or_default() * percent / 100);
        self.provider.create_refund(&id_of(charge)?, amount, Some("requested_by_customer"), key).await.map(drop)
    }

    async fn dispute(&self, account: &Account, outcome: &str) -> Result<()> {
        let charges = self.charges(account).await?;
        let opens = outcome == "open";
        if opens && charges.iter().any(|c| c["disputed"] == true) {
            return Ok(());
        }
        let found = charges.iter().find(|c| if opens { c["amount_refunded"] == 0 } else { c["disputed"] == true });
        let Some(charge) = found else { return Ok(()) };
        match self.sandbox.dispute(&id_of(charge)?, outcome).await {
            Err(error) if error.reason != "dispute" => Err(error),
            _ => Ok(()), // closed already, before an interruption
        }
    }

    /// A customer's payments, newest first.
    async fn charges(&self, account: &Account) -> Result<Vec<Json>> {
        let mut charges = self.provider.list_all("/v1/charges", &[("customer", account.customer.clone())]).await?;
        charges.retain(|charge| charge["status"] == "succeeded");
        Ok(charges)
    }
}

/// "solo-usd-month": how a price is found again.
fn nickname(rate: Rate, currency: &str) -> String {
    format!("{}-{currency}-{}", PLANS[rate.plan].name.to_lowercase(), if rate.yearly { "year" } else { "month" })
}

/// Ended already, before an interruption or because nobody paid.
fn is_gone(error: Error) -> Result<()> {
    if error.code == Code::NotFound { Ok(()) } else { Err(error) }
}

pub(super) fn id_of(object: &Json) -> Result<String> {
    object["id"].as_str().map(str::to_owned).ok_or_else(|| Error::internal("an object of the sandbox has no id"))
}
