//! The demo: three weeks of a small business, made only through the provider's `/v1` and the webhooks it sends, in virtual time
//! that ends now. Called by `run --demo`. A second call on the same data changes nothing, and one that was interrupted is
//! continued: which day it is says the sandbox's clock, and every call carries a key that is the same the second time.

use std::{fmt, time::Duration};

use serde_json::Value as Json;
use tokio::time::{Instant, sleep};

use crate::{
    env::Env,
    error::{Code, Error, Result},
    providers::{sandbox::Sandbox, stripe::Client},
    timer,
};

const DAY_S: i64 = 86_400;
/// How far back the story begins.
const DAYS: i64 = 21;
/// Where the store remembers how far the demo is: absent or empty, `begun` or `done`.
const MARK: &str = "demo.seeded";
/// How long the last webhooks, and each task, may take.
const PATIENCE: Duration = Duration::from_mins(1);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// What runs at the end, so that every page has something true to show.
const TASKS: &[&str] = &[
    "payout_recon",
    "payment_recon_nightly",
    "slo_monitor",
    "slo_guard",
    "production_alerts",
    "ops_sentinel",
    "observability_snapshot",
    "daily_backup",
];

struct Customer {
    name: &'static str,
    email: &'static str,
    currency: &'static str,
    /// Day of the first invoice; a further one every `every` days.
    joins: i64,
    every: i64,
    plan: &'static str,
    amount: i64,
    card: Card,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Card {
    Good,
    /// Declined until the customer brings another one, that many days after joining.
    Replaced(i64),
    /// Declined for good: the invoice stays open.
    Bad,
}

const fn customer(
    who: (&'static str, &'static str),
    currency: &'static str,
    when: (i64, i64),
    plan: (&'static str, i64),
    card: Card,
) -> Customer {
    Customer { name: who.0, email: who.1, currency, joins: when.0, every: when.1, plan: plan.0, amount: plan.1, card }
}

const STARTER: (&str, i64) = ("Starter plan, one week", 1900);
const TEAM: (&str, i64) = ("Team plan, one week", 4900);
const STUDIO: (&str, i64) = ("Studio plan, two weeks", 12_900);
const WORKSHOP: (&str, i64) = ("Workshop day", 45_000);

const CUSTOMERS: &[Customer] = &[
    customer(("Harbour Books", "orders@harbourbooks.example"), "usd", (0, 7), TEAM, Card::Good),
    customer(("Ana Ribeiro", "ana@ribeiro.example"), "eur", (0, 7), STARTER, Card::Good),
    customer(("Copper & Pine", "office@copperpine.example"), "usd", (0, 14), STUDIO, Card::Good),
    customer(("Lindqvist Ljud", "faktura@lindqvist.example"), "eur", (1, 7), TEAM, Card::Good),
    customer(("Maple Street Yoga", "hello@mapleyoga.example"), "usd", (1, 7), STARTER, Card::Good),
    customer(("Tomás Herrera", "tomas@herrera.example"), "usd", (2, 7), STARTER, Card::Replaced(3)),
    customer(("Bakkerij De Vries", "info@devries.example"), "eur", (2, 7), TEAM, Card::Good),
    customer(("Northlight Dental", "billing@northlight.example"), "usd", (3, 14), STUDIO, Card::Good),
    customer(("Priya Natarajan", "priya@natarajan.example"), "usd", (3, 7), STARTER, Card::Good),
    customer(("Atelier Moreau", "contact@moreau.example"), "eur", (4, 14), STUDIO, Card::Good),
    customer(("Redwood Cycles", "shop@redwoodcycles.example"), "usd", (5, 7), TEAM, Card::Good),
    customer(("Otto Brandt", "otto@brandt.example"), "eur", (6, 7), STARTER, Card::Bad),
    customer(("Saltmarsh Ceramics", "studio@saltmarsh.example"), "usd", (7, 7), STARTER, Card::Good),
    customer(("Fernbank School", "accounts@fernbank.example"), "usd", (8, 30), WORKSHOP, Card::Good),
    customer(("Giulia Conti", "giulia@conti.example"), "eur", (9, 7), STARTER, Card::Good),
    customer(("Blue Door Realty", "pay@bluedoor.example"), "usd", (11, 7), TEAM, Card::Good),
    customer(("Kestrel Analytics", "ap@kestrel.example"), "usd", (13, 30), WORKSHOP, Card::Good),
    customer(("Juno Park", "juno@park.example"), "usd", (16, 7), STARTER, Card::Replaced(2)),
    customer(("Veldhuis Fotografie", "mail@veldhuis.example"), "eur", (18, 7), TEAM, Card::Good),
    customer(("Orchard Row Clinic", "desk@orchardrow.example"), "usd", (DAYS, 7), STUDIO, Card::Good),
];

/// Refunds: the day, whose newest payment, and how much of it (none: all).
const REFUNDS: &[(i64, usize, Option<i64>)] = &[(6, 4, None), (10, 0, Some(1500)), (15, 6, Some(900)), (19, 15, None)];

/// What there is after the seeding, as one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Story {
    Made {
        customers: usize,
        days: i64,
        failed: Vec<String>,
    },
    /// It was made before; nothing changed.
    There,
    /// The sandbox holds other things; nothing changed.
    Occupied,
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Made { customers, days, failed } => {
                write!(f, "{customers} customers and {days} days of business up to now")?;
                if failed.is_empty() { Ok(()) } else { write!(f, "; not well: {}", failed.join(", ")) }
            }
            Self::There => f.write_str("made at an earlier start; nothing changed"),
            Self::Occupied => f.write_str("not made, because the sandbox holds other data; use a new data directory for it"),
        }
    }
}

/// Makes the story, calling `progress` with the day and the number of days. Only with the sandbox.
pub async fn seed(env: &Env, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Story> {
    let sandbox = env.sandbox().ok_or_else(|| Error::forbidden("sandbox_only", "the demo needs the built-in sandbox"))?;
    let store = env.store();
    let mark = store.meta(MARK).await?;
    if mark.as_deref() == Some("done") {
        return Ok(Story::There);
    }
    store.set_meta(MARK, "begun").await?;
    let from_the_start = sandbox.start_in_past(DAYS * DAY_S).await?;
    if !from_the_start && mark.as_deref() != Some("begun") {
        store.set_meta(MARK, "").await?;
        return Ok(Story::Occupied);
    }
    live(&env.provider().as_others(), sandbox, progress).await?;
    processed(env).await?;
    let mut failed = Vec::new();
    for task in TASKS {
        failed.extend(ran_well(env, task).await?);
    }
    store.set_meta(MARK, "done").await?;
    Ok(Story::Made { customers: CUSTOMERS.len(), days: DAYS, failed })
}

/// Day after day until the sandbox's clock shows now.
async fn live(provider: &Client, sandbox: &Sandbox, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<()> {
    loop {
        let (_, offset) = sandbox.advance(0).await?;
        // An interrupted advance stands between two days: it is finished first, because its morning is done.
        let rest = (-offset).rem_euclid(DAY_S);
        if rest > 0 && offset < 0 {
            sandbox.advance(rest).await?;
            continue;
        }
        let day = DAYS + offset.div_euclid(DAY_S);
        if day > DAYS {
            return Ok(());
        }
        progress(day.unsigned_abs(), DAYS.unsigned_abs());
        for (n, customer) in CUSTOMERS.iter().enumerate() {
            Business { provider, customer, n, day }.live_through().await?;
        }
        for (_, n, amount) in REFUNDS.iter().filter(|(on, _, _)| *on == day) {
            Business { provider, customer: &CUSTOMERS[*n], n: *n, day }.refund(*amount).await?;
        }
        sandbox.advance(if day < DAYS { DAY_S } else { 0 }).await?;
        if day == DAYS {
            return Ok(());
        }
    }
}

/// One customer's day.
struct Business<'a> {
    provider: &'a Client,
    customer: &'a Customer,
    n: usize,
    day: i64,
}

impl Business<'_> {
    fn key(&self, what: &str) -> String {
        format!("demo-{}-{}-{what}", self.day, self.n)
    }

    async fn live_through(&self) -> Result<()> {
        let customer = self.customer;
        let age = self.day - customer.joins;
        if age < 0 {
            return Ok(());
        }
        let id = if age == 0 { self.join().await? } else { self.id().await? };
        if customer.card == Card::Replaced(age) {
            self.provider.attach_payment_method(&id, "pm_card_visa", &self.key("new-card")).await?;
            for invoice in self.invoices(&id, "open").await? {
                self.pay(&invoice).await?;
            }
        }
        if age % customer.every == 0 && !(customer.card == Card::Bad && age > 0) {
            self.bill(&id).await?;
        }
        Ok(())
    }

    async fn join(&self) -> Result<String> {
        let params = [("email", self.customer.email.to_owned()), ("name", self.customer.name.to_owned())];
        let id = id_of(&self.provider.post("/v1/customers", &params, &self.key("join")).await?.body)?;
        let card = if self.customer.card == Card::Good { "pm_card_visa" } else { "pm_card_chargeCustomerFail" };
        self.provider.attach_payment_method(&id, card, &self.key("card")).await?;
        Ok(id)
    }

    async fn id(&self) -> Result<String> {
        let found = self.provider.customers_by_email(self.customer.email).await?;
        found.first().map(id_of).ok_or_else(|| Error::internal(format!("the demo's customer {} is gone", self.customer.email)))?
    }

    async fn bill(&self, id: &str) -> Result<()> {
        let (provider, c) = (self.provider, self.customer);
        let invoice = provider.create_invoice(id, c.currency, c.plan, &self.key("invoice")).await?;
        let invoice = id_of(&invoice)?;
        provider.create_invoice_item(&invoice, id, c.amount, c.currency, c.plan, &self.key("item")).await?;
        provider.finalize_invoice(&invoice, &self.key("finalize")).await?;
        // What is not paid at once shows what an open invoice looks like.
        if self.day == DAYS && self.n.is_multiple_of(3) { Ok(()) } else { self.pay(&invoice).await }
    }

    /// A declined card is part of the story.
    async fn pay(&self, invoice: &str) -> Result<()> {
        match self.provider.pay_invoice(invoice, &[], &self.key(&format!("pay-{invoice}"))).await {
            Err(error) if error.code != Code::Conflict => Err(error),
            _ => Ok(()),
        }
    }

    async fn refund(&self, amount: Option<i64>) -> Result<()> {
        let id = self.id().await?;
        let Some(invoice) = self.invoices(&id, "paid").await?.into_iter().next() else { return Ok(()) };
        let payments = self.provider.invoice_payments(&invoice).await?;
        let Some(intent) = payments.iter().find_map(|p| p["payment"]["payment_intent"].as_str()) else { return Ok(()) };
        let mut params = vec![("payment_intent", intent.to_owned()), ("reason", "requested_by_customer".to_owned())];
        params.extend(amount.map(|a| ("amount", a.to_string())));
        self.provider.post("/v1/refunds", &params, &self.key("refund")).await.map(drop)
    }

    /// Ids of the customer's invoices in that state, newest first.
    async fn invoices(&self, id: &str, status: &str) -> Result<Vec<String>> {
        let all = self.provider.invoices_of_customer(id).await?;
        all.iter().filter(|i| i["status"] == status).map(id_of).collect()
    }
}

fn id_of(object: &Json) -> Result<String> {
    object["id"].as_str().map(str::to_owned).ok_or_else(|| Error::internal("an object of the sandbox has no id"))
}

/// Waits until every webhook that came in has been applied.
async fn processed(env: &Env) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while env.store().open_event_count().await?.0 > 0 {
        if Instant::now() > deadline {
            tracing::warn!("some of the demo's events are still waiting to be applied");
            break;
        }
        sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Runs a task to its end; its name, if it did not end well.
async fn ran_well(env: &Env, task: &str) -> Result<Option<String>> {
    let run_id = match timer::run_now(env, task, "demo").await {
        Ok(run_id) => run_id,
        Err(error) if error.reason == "already_running" => return Ok(None),
        Err(error) => return Err(error),
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        match env.store().run(&run_id).await? {
            Some(run) if !matches!(run.state.as_str(), "pending" | "running") => {
                return Ok((run.state != "succeeded").then(|| task.to_owned()));
            }
            _ if Instant::now() > deadline => return Ok(Some(task.to_owned())),
            _ => sleep(LOOK_AGAIN).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_story_has_its_customers_currencies_and_troubles() {
        assert!((15..=25).contains(&CUSTOMERS.len()));
        assert_eq!(CUSTOMERS.iter().map(|c| c.currency).collect::<HashSet<_>>(), HashSet::from(["usd", "eur"]));
        assert_eq!(CUSTOMERS.iter().map(|c| c.email).collect::<HashSet<_>>().len(), CUSTOMERS.len());
        for c in CUSTOMERS {
            assert!((0..=DAYS).contains(&c.joins) && c.every > 0, "{}", c.name);
        }
        for (day, n, amount) in REFUNDS {
            let c = &CUSTOMERS[*n];
            assert!(c.card == Card::Good && c.joins < *day && amount.is_none_or(|a| a < c.amount), "{}", c.name);
        }
    }
}
