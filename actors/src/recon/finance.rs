//! Reconciling invoices, payments and the balance: fetches both sides, asks `domain/finance`, keeps the result and from where the next
//! run measures the balance. A fetch that failed makes the run incomplete and is never taken for an empty list.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io::Write as _,
};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value as Json;

use super::{Outcome, provider};
use crate::{
    alert,
    domain::{
        alert_rule::{Check, Severity},
        finance::{self, Anchor, Charge, Dispute, Entry, Input, Invoice, InvoicePayment, Movement, Provider, Refund, Report, reconcile},
        reconcile::Severity as Weight,
    },
    env::{Env, blocking, rfc3339},
    error::{Code, Error, Result},
    providers::stripe::API_VERSION,
    store::Finding,
    task::{Record, Run},
};

/// Where the store keeps the anchor: each mode of the provider is an account of its own.
fn anchor_key(env: &Env) -> String {
    format!("finance.anchor.{}", env.config().provider.mode.as_str())
}

/// Objects read one by one in a run, at most: the invoices that matter and are in no list.
const SINGLY: usize = 500;
/// How often the balance is read until it stands still.
const LOOKS: u32 = 5;
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// How far before the anchor movements are read to match ledger rows just after it, and ledger rows to match movements.
const MOVEMENTS_MARGIN: i64 = 2 * DAY;
const LEDGER_MARGIN: i64 = 40 * DAY;

/// Reconciles what the window holds and what is open, and writes the result down.
pub(super) async fn run(run: &Run) -> Result<Record> {
    as_of(run, provider(&run.env).now().await?).await
}

/// The same at a moment of the provider's clock, which is now.
pub(super) async fn as_of(run: &Run, now: DateTime<Utc>) -> Result<Record> {
    let env = &run.env;
    let mut reading = Reading { env, now, input: Input::default(), looked_at: BTreeSet::new(), anchored: false };
    reading.everything().await?;
    let Reading { input, looked_at, anchored, .. } = reading;
    // Seconds of work for a large business: not on the threads that answer others.
    let (input, inputs, mut report, anchor) = blocking(move || {
        let (report, anchor) = reconcile(&input);
        let inputs = compressed(&input)?;
        Ok((input, inputs, report, anchor))
    })
    .await?;
    let generated_at = rfc3339(env.now());
    (report.ts, report.run_id, report.generated_at) = (Some(generated_at.clone()), Some(run.run_id.clone()), Some(generated_at));
    let json = serde_json::to_value(&report)?;
    let outcome = Outcome {
        scope: "finance",
        recon_id: &report.recon_id,
        input_digest: &report.input_digest,
        complete: report.complete,
        ok: report.ok,
        inputs,
        report: &json,
        findings: findings(&report),
    };
    let open = super::keep(run, outcome, |body| was_looked_at(&input, &looked_at, body)).await?;
    if input.complete && anchored {
        env.store().set_meta(&anchor_key(env), &serde_json::to_string(&anchor)?).await?;
    }
    alert::evaluate(env, vec![check(&report, &open)]).await?;
    match json {
        Json::Object(map) => Ok(map),
        other => Err(Error::internal(format!("a report is an object, not {other}"))),
    }
}

fn findings(report: &Report) -> Vec<Finding> {
    let finding = |e: &finance::Exception| Finding {
        id: e.id.clone(),
        kind: e.kind.as_str(),
        severity: e.severity.as_str(),
        currency: e.currency.clone(),
        risk: e.at_risk_minor,
        sides: e.sides(),
        body: serde_json::to_value(e).unwrap_or_default(),
    };
    report.exceptions.iter().map(finding).collect()
}

/// Whether this run would have found an exception again: it saw the invoice and the charge, and what was compared with the ledger is not too
/// old for that. A missing number is found when somebody has it.
fn was_looked_at(input: &Input, looked_at: &BTreeSet<String>, body: &Json) -> bool {
    use finance::ExceptionKind as Kind;
    let text = |name: &str| body[name].as_str();
    if body["kind"] == Kind::NumberGap.as_str() {
        let numbers = input.invoices.iter().map(|i| &i.number).chain(input.local.iter().map(|l| &l.number));
        return numbers.flatten().any(|number| Some(number.as_str()) == text("source_id"));
    }
    let seen = |name: &str| text(name).is_none_or(|id| looked_at.contains(id));
    let in_ledger = [Kind::MissingInLedger, Kind::AmountMismatch].iter().any(|kind| body["kind"] == kind.as_str());
    let compared = |id: &str| input.charges.iter().any(|c| c.id == id && c.created >= input.window_from);
    seen("invoice_id") && seen("charge_id") && text("charge_id").filter(|_| in_ledger).is_none_or(compared)
}

/// The input, so that the run can be repeated without the provider.
fn compressed(input: &Input) -> Result<Vec<u8>> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&serde_json::to_vec(input)?)?;
    Ok(gzip.finish()?)
}

fn check(report: &Report, open: &HashSet<String>) -> Check {
    let serious: Vec<_> = report.exceptions.iter().filter(|e| e.severity != Weight::Low && open.contains(&e.id)).collect();
    let severity = if serious.iter().any(|e| e.severity == Weight::High) { Severity::Critical } else { Severity::Warning };
    let serious: Vec<&str> = serious.iter().map(|e| e.explanation.as_str()).collect();
    super::exceptions_check("finance_exceptions", &serious, report.complete, severity, "invoices, payments and balances agree")
}

/// Both sides as they are being read.
struct Reading<'a> {
    env: &'a Env,
    now: DateTime<Utc>,
    input: Input,
    /// Ids of invoices and charges that were seen, or are gone.
    looked_at: BTreeSet<String>,
    /// There is a ledger to measure from.
    anchored: bool,
}

impl Reading<'_> {
    async fn everything(&mut self) -> Result<()> {
        let (env, now) = (self.env, self.now.timestamp());
        let recon = &env.config().recon;
        let livemode = env.config().provider.mode.is_live();
        let from = (self.now - TimeDelta::days(recon.window_days)).timestamp();
        let name = env.config().provider.mode.as_str().to_owned();
        (self.input.now, self.input.window_from, self.input.grace_s) = (now, from, recon.gap_grace_s);
        self.input.provider = Provider { name, api_version: API_VERSION.to_owned(), livemode };
        self.lists(from, now).await;
        self.singly(livemode, from).await?;
        self.ours(livemode, from).await?;
        for id in self.input.invoices.iter().map(|i| &i.id).chain(self.input.charges.iter().map(|c| &c.id)) {
            self.looked_at.insert(id.clone());
        }
        self.input.complete = self.input.errors.is_empty();
        Ok(())
    }

    /// What came of a list; a failure is noted, and so is an object that cannot be read.
    fn take<T>(&mut self, what: &str, list: Result<Vec<Json>>, read: impl Fn(&Json) -> Result<T, String>) -> Vec<T> {
        match list {
            Ok(list) => {
                let mut all = Vec::with_capacity(list.len());
                for object in &list {
                    match read(object) {
                        Ok(object) => all.push(object),
                        Err(why) => self.input.errors.push(format!("{what}: {}: {why}", object["id"].as_str().unwrap_or("an object"))),
                    }
                }
                all
            }
            Err(error) => {
                self.input.errors.push(format!("{what}: {}", error.message));
                Vec::new()
            }
        }
    }

    /// Everything the provider lists by time or state.
    async fn lists(&mut self, from: i64, now: i64) {
        let provider = provider(self.env);
        for list in
            [provider.invoices(from, now).await, provider.invoices_in_state("open").await, provider.invoices_in_state("draft").await]
        {
            let invoices = self.take("invoices", list, Invoice::from_json);
            let known: BTreeSet<String> = self.input.invoices.iter().map(|i| i.id.clone()).collect();
            self.input.invoices.extend(invoices.into_iter().filter(|i| !known.contains(&i.id)));
        }
        let list = provider.invoice_payments_created(from, now).await;
        self.input.payments = self.take("invoice payments", list, InvoicePayment::from_json);
        let list = provider.charges_created(from, now).await;
        self.input.charges = self.take("charges", list, Charge::from_json);
        let list = provider.refunds_created(from, now).await;
        self.input.refunds = self.take("refunds", list, Refund::from_json);
        let list = provider.disputes(from, now).await;
        self.input.disputes = self.take("disputes", list, Dispute::from_json);
        let list = provider.payouts(from, now).await;
        for (status, currency, amount) in self.take("payouts", list, read_payout) {
            if matches!(status.as_str(), "pending" | "in_transit") {
                *self.input.in_transit.entry(currency).or_default() += amount;
            }
        }
    }

    /// Charges older than the window that were refunded or disputed in it; answers the invoices they were for.
    async fn old_charges(&mut self) -> BTreeSet<String> {
        let known: BTreeSet<&str> = self.input.charges.iter().map(|c| c.id.as_str()).collect();
        let touched = self.input.refunds.iter().map(|r| &r.charge).chain(self.input.disputes.iter().map(|d| &d.charge)).flatten();
        let old: BTreeSet<String> = touched.filter(|id| !known.contains(id.as_str())).cloned().collect();
        let mut invoices = BTreeSet::new();
        if old.len() > SINGLY {
            self.input.errors.push(format!("{} old charges would have to be read one by one", old.len()));
            return invoices;
        }
        for id in old {
            let charge = provider(self.env).charge(&id).await.map(|c| vec![c]);
            let charge = self.take("charge", charge, Charge::from_json);
            for intent in charge.iter().filter_map(|c| c.payment_intent.as_deref()) {
                let list = provider(self.env).invoice_payments_of_intent(intent).await;
                let payments = self.take("invoice payments", list, InvoicePayment::from_json);
                invoices.extend(payments.into_iter().map(|p| p.invoice));
            }
            self.input.charges.extend(charge);
        }
        invoices
    }

    /// Invoices that matter and are older than the window: paid in it or in part, refunded, disputed, or with an exception that is open.
    async fn singly(&mut self, livemode: bool, from: i64) -> Result<()> {
        let store = self.env.store();
        let refunded = self.old_charges().await;
        let mut wanted: BTreeSet<String> = store.invoices_paid_since(livemode, from).await?.into_iter().collect();
        wanted.extend(self.input.payments.iter().map(|p| p.invoice.clone()).chain(refunded));
        let may_be_over = ["open_past_due", "stale_draft", "status_mismatch", "payment_without_invoice"];
        let open = store.open_exceptions("finance").await?.into_iter().filter(|e| may_be_over.contains(&e.kind.as_str()));
        wanted.extend(open.filter_map(|e| e.body["invoice_id"].as_str().map(str::to_owned)));
        let known: BTreeSet<&str> = self.input.invoices.iter().map(|i| i.id.as_str()).collect();
        wanted.retain(|id| !known.contains(id.as_str()));
        let in_part = self.input.invoices.iter().filter(|i| i.created < from && i.amount_paid > 0).map(|i| i.id.clone());
        let in_part: Vec<String> = in_part.collect();
        if wanted.len() + in_part.len() > SINGLY {
            self.input.errors.push(format!("{} invoices would have to be read one by one", wanted.len() + in_part.len()));
            return Ok(());
        }
        for id in wanted {
            match provider(self.env).invoice(&id).await {
                Err(error) if error.code == Code::NotFound => _ = self.looked_at.insert(id), // a draft that was deleted
                invoice => {
                    let invoice = self.take("invoice", invoice.map(|i| vec![i]), Invoice::from_json);
                    self.input.invoices.extend(invoice);
                    self.payments_of(&id).await;
                }
            }
        }
        for id in in_part {
            self.payments_of(&id).await;
        }
        Ok(())
    }

    async fn payments_of(&mut self, invoice: &str) {
        let list = provider(self.env).invoice_payments(invoice).await;
        let payments = self.take("invoice payments", list, InvoicePayment::from_json);
        for intent in payments.iter().filter(|p| p.status == "paid").filter_map(|p| p.payment_intent.as_deref()) {
            if !self.input.charges.iter().any(|c| c.payment_intent.as_deref() == Some(intent)) {
                let list = provider(self.env).charges_of_intent(intent).await;
                let charges = self.take("charges", list, Charge::from_json);
                self.input.charges.extend(charges);
            }
        }
        let known: BTreeSet<String> = self.input.payments.iter().map(|p| p.id.clone()).collect();
        self.input.payments.extend(payments.into_iter().filter(|p| !known.contains(&p.id)));
    }

    /// Our own side, after the provider's, so that what came meanwhile is ours alone; and the balance with its movements.
    async fn ours(&mut self, livemode: bool, from: i64) -> Result<()> {
        let store = self.env.store();
        let kept: Option<Anchor> = store.meta(&anchor_key(self.env)).await?.map(|text| serde_json::from_str(&text)).transpose()?;
        let first = store.ledger_begin(livemode).await?;
        let begin = kept.as_ref().map(|a| a.through - MOVEMENTS_MARGIN).or(first.map(|at| at - HOUR)).unwrap_or(self.input.now);
        self.balance(begin.min(from)).await;
        let oldest = kept.as_ref().map(|a| a.through).or(first).unwrap_or(self.input.now);
        let ledger_from = oldest.min(from) - LEDGER_MARGIN;
        // Rows by the provider's clock, up to those that came while we were reading.
        let lines = store.ledger_lines(livemode, ledger_from, self.input.now + DAY).await?;
        let entry = |l: crate::domain::reconcile::LedgerLine| Entry {
            id: l.id,
            kind: l.kind,
            source: l.source,
            amount: l.amount,
            currency: l.currency,
            at: l.at,
        };
        self.input.ledger = lines.into_iter().map(entry).collect();
        self.anchored = kept.is_some() || first.is_some();
        let input = &mut self.input;
        input.anchor = kept.unwrap_or_else(|| Anchor::begin(first.unwrap_or(input.now), &input.movements, &input.ledger, &input.balances));
        input.ledger_before = store.ledger_sums(livemode, input.anchor.since, ledger_from).await?;
        input.local = store.local_invoices(livemode, from).await?;
        let known: BTreeSet<String> = input.local.iter().map(|l| l.id.clone()).collect();
        for invoice in input.invoices.iter().filter(|i| i.created < from && !known.contains(&i.id)) {
            input.local.extend(store.local_invoice(livemode, &invoice.id).await?);
        }
        Ok(())
    }

    /// The balance and every movement that made it. Money that moves meanwhile is read again, until nothing moved between two looks.
    async fn balance(&mut self, from: i64) {
        let mut since = from;
        let mut before = self.look().await;
        for _ in 0..LOOKS {
            let list = provider(self.env).balance_transactions(since, self.input.now + DAY).await;
            let movements = self.take("balance transactions", list, Movement::from_json);
            let known: BTreeSet<String> = self.input.movements.iter().filter(|m| m.created >= since).map(|m| m.id.clone()).collect();
            since = movements.iter().map(|m| m.created).max().unwrap_or(since);
            self.input.movements.extend(movements.into_iter().filter(|m| !known.contains(&m.id)));
            let after = self.look().await;
            match (before, after) {
                (Some(one), Some(two)) if one == two => {
                    self.input.balances = two;
                    return;
                }
                (_, None) | (None, _) => return, // and the error is noted
                (_, after) => before = after,
            }
        }
        self.input.errors.push(format!("the balance did not stand still in {LOOKS} looks"));
    }

    /// Available plus pending, per currency.
    async fn look(&mut self) -> Option<BTreeMap<String, i64>> {
        let balance = match provider(self.env).balance().await {
            Ok(balance) => balance,
            Err(error) => {
                self.input.errors.push(format!("balance: {}", error.message));
                return None;
            }
        };
        let mut sums = BTreeMap::new();
        for part in ["available", "pending"].iter().flat_map(|name| balance[*name].as_array().into_iter().flatten()) {
            match (part["currency"].as_str(), part["amount"].as_i64()) {
                (Some(currency), Some(amount)) => *sums.entry(currency.to_lowercase()).or_insert(0) += amount,
                _ => self.input.errors.push("balance: an amount cannot be read".into()),
            }
        }
        Some(sums)
    }
}

fn read_payout(payout: &Json) -> Result<(String, String, i64), String> {
    let text = |name: &str| payout[name].as_str().map(str::to_lowercase).ok_or_else(|| format!("{name} is missing"));
    Ok((text("status")?, text("currency")?, payout["amount"].as_i64().ok_or("amount is missing")?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_too_old_to_be_compared_is_not_over() {
        let charge = |id: &str, created| Charge { id: id.into(), created, ..Charge::default() };
        let input = Input { charges: vec![charge("ch_old", 5), charge("ch_new", 15)], window_from: 10, ..Input::default() };
        let looked_at: BTreeSet<String> = ["ch_old", "ch_new", "in_1"].map(str::to_owned).into();
        let over = |kind: &str, invoice: Option<&str>, charge: Option<&str>| {
            was_looked_at(&input, &looked_at, &json!({"kind": kind, "invoice_id": invoice, "charge_id": charge}))
        };
        assert!(over("missing_in_ledger", Some("in_1"), Some("ch_new")) && !over("missing_in_ledger", Some("in_1"), Some("ch_old")));
        assert!(over("disputed_paid", Some("in_1"), Some("ch_old")) && !over("payment_without_invoice", Some("in_1"), Some("ch_gone")));
        assert!(
            over("open_past_due", Some("in_1"), None) && !over("open_past_due", Some("in_2"), None) && over("balance_drift", None, None)
        );
    }
}
