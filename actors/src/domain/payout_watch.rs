//! The payout watch: which payouts are coming, when and over how much, and which are late, short, a debit or returned by the bank. Called by
//! the recon actor every few minutes with what the provider shows now and what the look before remembered. Pure; it must never judge a
//! payout by what was only seen after it was made.

use crate::domain::{alert_rule::Severity, money::display};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

const DAY: i64 = 86_400;
/// A movement this much older than a look may have been made after it: clocks are told in whole seconds.
const SLACK: i64 = 60;
/// What can no longer be followed is dropped after this.
const FORGET: i64 = 14 * DAY;
/// Rows named in a sentence.
const NAMED: usize = 5;

/// A payout; money in minor units, negative for a debit of our bank account; times in Unix seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payout {
    pub id: String,
    pub amount: i64,
    pub currency: String,
    /// `pending | in_transit | paid | failed | canceled`.
    pub status: String,
    pub created: i64,
    pub arrival_date: i64,
    pub automatic: bool,
    pub failure_balance_transaction: Option<String>,
    pub failure_code: Option<String>,
    pub failure_message: Option<String>,
}

/// A balance transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Movement {
    pub id: String,
    pub net: i64,
    pub currency: String,
    pub created: i64,
    pub available_on: i64,
    pub pending: bool,
    /// The object that moved the money.
    pub source: Option<String>,
}

/// What the provider shows now.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// The provider's clock.
    pub now: i64,
    pub available: BTreeMap<String, i64>,
    /// All since `movements_from`.
    pub movements: Vec<Movement>,
    pub movements_from: i64,
    pub payouts: Vec<Payout>,
    /// Rows (id, net) of payouts, where they were asked for; a payout's own row is not among them.
    pub members: BTreeMap<String, Vec<(String, i64)>>,
    /// An automatic payout that has not arrived so many days after its date is late.
    pub late_days: i64,
}

/// What a look remembers for the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    pub at: i64,
    available: BTreeMap<String, i64>,
    pending: Vec<Row>,
    /// Movements of the last moment before the look.
    recent: BTreeSet<String>,
    payouts: BTreeSet<String>,
    /// What short payouts left behind, per currency: it is not expected again.
    left: BTreeMap<String, i64>,
    short: Vec<Problem>,
}

/// Money that will be available.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    id: String,
    net: i64,
    currency: String,
    available_on: i64,
}

/// A payout that is coming.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    pub currency: String,
    /// None: not made yet.
    pub payout: Option<String>,
    /// Negative: money will be debited.
    pub amount: i64,
    /// When it is made.
    pub made_at: i64,
    /// When it is in the bank.
    pub arrives_at: i64,
    /// Movements it will consist of, the available balance not counted.
    pub rows: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    Late,
    Short,
    Negative,
    Failed,
}

/// What is wrong with one payout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub kind: Trouble,
    pub payout: String,
    pub currency: String,
    pub amount: i64,
    /// When the payout was made.
    pub created: i64,
    /// What is missing, for a short one.
    pub short_by: Option<i64>,
    /// The rows that explain it.
    pub rows: Vec<String>,
    /// The later payout that a failed one's money is in.
    pub rolled_into: Option<String>,
    pub reason: String,
}

impl Problem {
    /// The alert's name: one per payout and kind of trouble.
    pub fn name(&self) -> String {
        let kind = match self.kind {
            Trouble::Late => "late",
            Trouble::Short => "short",
            Trouble::Negative => "negative",
            Trouble::Failed => "failed",
        };
        format!("payout_{kind}_{}", self.payout)
    }

    pub fn severity(&self) -> Severity {
        if self.kind == Trouble::Failed { Severity::Critical } else { Severity::Warning }
    }

    fn new(kind: Trouble, p: &Payout, reason: String) -> Self {
        Self {
            kind,
            payout: p.id.clone(),
            currency: p.currency.clone(),
            amount: p.amount,
            created: p.created,
            short_by: None,
            rows: Vec::new(),
            rolled_into: None,
            reason,
        }
    }
}

/// What a look came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    pub expected: Vec<Expected>,
    pub problems: Vec<Problem>,
    pub memory: Memory,
}

/// The payouts whose rows the look needs: those made since the look before, and those that may hold a returned payout's money.
pub fn wanted<'a>(payouts: &'a [Payout], before: Option<&Memory>) -> Vec<&'a Payout> {
    let new = |p: &&Payout| p.automatic && before.is_some_and(|m| !m.payouts.contains(&p.id));
    let follows =
        |p: &&Payout| p.automatic && payouts.iter().any(|f| f.status == "failed" && later(f, p) && p.created < f.created + FORGET);
    payouts.iter().filter(|p| new(p) || follows(p)).collect()
}

fn later(first: &Payout, then: &Payout) -> bool {
    first.currency == then.currency && then.created >= first.created && then.id != first.id
}

/// One look.
pub fn look(shown: &Shown, before: Option<&Memory>) -> Looked {
    let mut problems = Vec::new();
    for p in &shown.payouts {
        problems.extend(late(shown, p).into_iter().chain(negative(p)).chain(failed(shown, p)));
    }
    let (short, left) = before.map(|before| judge_new(shown, before)).unwrap_or_default();
    problems.extend(short.iter().cloned());
    problems.sort_by(|a, b| (a.kind, &a.payout).cmp(&(b.kind, &b.payout)));
    let pending = shown.movements.iter().filter(|m| m.pending);
    let row = |m: &Movement| Row { id: m.id.clone(), net: m.net, currency: m.currency.clone(), available_on: m.available_on };
    let memory = Memory {
        at: shown.now,
        available: shown.available.clone(),
        pending: pending.map(row).collect(),
        recent: shown.movements.iter().filter(|m| m.created >= shown.now - SLACK).map(|m| m.id.clone()).collect(),
        payouts: shown.payouts.iter().map(|p| p.id.clone()).collect(),
        left,
        short,
    };
    Looked { expected: expected(shown, &memory), problems, memory }
}

fn late(shown: &Shown, p: &Payout) -> Option<Problem> {
    let over = shown.now - p.arrival_date;
    if !matches!(p.status.as_str(), "pending" | "in_transit") || over <= shown.late_days * DAY {
        return None;
    }
    let amount = display(p.amount, &p.currency);
    let reason = format!("Payout {} over {amount} should have arrived {} days ago and is still {}.", p.id, over / DAY, word(&p.status));
    Some(Problem::new(Trouble::Late, p, reason))
}

fn word(status: &str) -> String {
    status.replace('_', " ")
}

fn negative(p: &Payout) -> Option<Problem> {
    if p.amount >= 0 || !matches!(p.status.as_str(), "pending" | "in_transit") {
        return None;
    }
    let amount = display(-p.amount, &p.currency);
    let reason = format!("Payout {} is a debit: {amount} will be taken from the bank account, because the balance is below zero.", p.id);
    Some(Problem::new(Trouble::Negative, p, reason))
}

/// A payout that the bank returned, until the one that its money went into has arrived.
fn failed(shown: &Shown, p: &Payout) -> Option<Problem> {
    if p.status != "failed" {
        return None;
    }
    let back = p.failure_balance_transaction.as_deref();
    let holds = |q: &&Payout| back.is_some_and(|back| shown.members.get(&q.id).is_some_and(|rows| rows.iter().any(|(id, _)| id == back)));
    let into = shown.payouts.iter().filter(|q| later(p, q)).find(holds);
    // One that was returned as well is a problem of its own, and carries this money on.
    if into.is_some_and(|q| matches!(q.status.as_str(), "paid" | "failed")) || (into.is_none() && p.created + FORGET < shown.now) {
        return None;
    }
    let why = match (&p.failure_message, &p.failure_code) {
        (Some(message), Some(code)) => format!("{} ({code})", message.trim_end_matches('.')),
        (Some(text), None) | (None, Some(text)) => text.trim_end_matches('.').to_owned(),
        (None, None) => "the bank gave no reason".to_owned(),
    };
    let then = match into {
        Some(q) => format!("its money is in payout {}, which is {}", q.id, word(&q.status)),
        None => "its money will be in a later payout".to_owned(),
    };
    let reason = format!("Payout {} over {} failed: {why}; {then}.", p.id, display(p.amount, &p.currency));
    Some(Problem { rolled_into: into.map(|q| q.id.clone()), ..Problem::new(Trouble::Failed, p, reason) })
}

/// Judges the payouts made since the look before by what was expected then and what moved until they were made. Answers those that are short, with the
/// earlier ones that no full payout has followed yet, and what they left behind.
fn judge_new(shown: &Shown, before: &Memory) -> (Vec<Problem>, BTreeMap<String, i64>) {
    let mut left = before.left.clone();
    let mut new: Vec<&Payout> = shown.payouts.iter().filter(|p| !before.payouts.contains(&p.id)).collect();
    new.sort_by_key(|p| (p.created, &p.id));
    // A gap in what was read would look like missing money.
    let followed = before.at - SLACK >= shown.movements_from;
    let (mut found, mut full) = (Vec::new(), BTreeSet::new());
    for p in new.into_iter().filter(|p| p.automatic && followed) {
        let rows = became_available(shown, before, p);
        let still = left.entry(p.currency.clone()).or_default();
        let expected = before.available.get(&p.currency).copied().unwrap_or(0) - *still + rows.iter().map(|(_, net)| net).sum::<i64>();
        let short_by = expected - p.amount;
        *still = (*still + short_by).max(0);
        if short_by > 0 {
            found.push(short(shown, p, expected, &rows));
        } else {
            full.insert(p.currency.as_str());
        }
    }
    let kept = before.short.iter().filter(|s| !full.contains(s.currency.as_str()) && shown.now < s.created + FORGET / 2).cloned();
    (kept.chain(found).collect(), left)
}

/// Rows that became available after the look before and until the payout was made: id and net.
fn became_available(shown: &Shown, before: &Memory, p: &Payout) -> Vec<(String, i64)> {
    let foreseen = before.pending.iter().filter(|row| row.currency == p.currency && row.available_on <= p.created);
    let known: BTreeSet<&str> = before.pending.iter().map(|row| row.id.as_str()).collect();
    let new = shown.movements.iter().filter(|m| {
        m.currency == p.currency
            && m.created >= before.at - SLACK
            && m.created <= p.created
            && m.available_on <= p.created
            && m.source.as_deref() != Some(&p.id)
            && !known.contains(m.id.as_str())
            && !before.recent.contains(&m.id)
    });
    foreseen.map(|row| (row.id.clone(), row.net)).chain(new.map(|m| (m.id.clone(), m.net))).collect()
}

fn short(shown: &Shown, p: &Payout, expected: i64, rows: &[(String, i64)]) -> Problem {
    let show = |amount| display(amount, &p.currency);
    let members = shown.members.get(&p.id);
    // What is in another payout is not missing from this one, nor is that payout itself.
    let paid_out: BTreeSet<&str> = shown.members.values().flatten().map(|(id, _)| id.as_str()).collect();
    let is_payout = |m: &&Movement| shown.payouts.iter().any(|q| m.source.as_deref() == Some(&q.id) && m.net == -q.amount);
    let payouts: BTreeSet<&str> = shown.movements.iter().filter(is_payout).map(|m| m.id.as_str()).collect();
    let is_out = |id: &str| members.is_some() && !paid_out.contains(id) && !payouts.contains(id);
    let out: Vec<&(String, i64)> = rows.iter().filter(|(id, _)| is_out(id)).collect();
    let names = out.iter().take(NAMED).map(|(id, net)| format!("{id} ({})", show(*net))).collect::<Vec<_>>().join(", ");
    let why = match members.map(|rows| rows.iter().map(|(_, net)| net).sum::<i64>()) {
        None => "its rows cannot be listed".to_owned(),
        Some(sum) if sum != p.amount => format!("its own rows add up to {}", show(sum)),
        Some(_) if out.is_empty() => "no row that became available is missing from it".to_owned(),
        Some(_) if out.len() > NAMED => format!("{} rows are not in it: {names} and others", out.len()),
        Some(_) => format!("not in it: {names}"),
    };
    let reason = format!(
        "Payout {} over {} is {} less than the {} that had become available: {why}.",
        p.id,
        show(p.amount),
        show(expected - p.amount),
        show(expected)
    );
    let rows = out.iter().map(|(id, _)| id.clone()).collect();
    Problem { short_by: Some(expected - p.amount), rows, ..Problem::new(Trouble::Short, p, reason) }
}

/// The coming payouts: those that are made, by their own date; then what is available by each next time, as often as payouts are made.
fn expected(shown: &Shown, memory: &Memory) -> Vec<Expected> {
    let mut all: Vec<Expected> = Vec::new();
    for p in shown.payouts.iter().filter(|p| matches!(p.status.as_str(), "pending" | "in_transit")) {
        all.push(Expected {
            currency: p.currency.clone(),
            payout: Some(p.id.clone()),
            amount: p.amount,
            made_at: p.created,
            arrives_at: p.arrival_date,
            rows: shown.members.get(&p.id).map_or(0, |rows| rows.len() as u64),
        });
    }
    let currencies: BTreeSet<&String> = shown.available.keys().chain(memory.pending.iter().map(|row| &row.currency)).collect();
    for currency in currencies {
        let rhythm = Rhythm::of(shown, currency);
        let mut by_time: BTreeMap<i64, (i64, u64)> = BTreeMap::new();
        for row in memory.pending.iter().filter(|row| row.currency == *currency) {
            let slot = by_time.entry(rhythm.at(row.available_on.max(shown.now))).or_default();
            *slot = (slot.0 + row.net, slot.1 + 1);
        }
        let now = shown.available.get(currency).copied().unwrap_or(0) - memory.left.get(currency).copied().unwrap_or(0);
        if now != 0 {
            let next = by_time.keys().next().copied().filter(|_| rhythm.last.is_none());
            by_time.entry(next.unwrap_or_else(|| rhythm.at(shown.now))).or_default().0 += now;
        }
        let (mut sum, mut rows) = (0, 0);
        let last = by_time.keys().next_back().copied();
        for (at, (amount, count)) in by_time {
            (sum, rows) = (sum + amount, rows + count);
            // Less than nothing is carried on, until a payout covers it or there is none to come.
            if sum > 0 || (sum < 0 && Some(at) == last) {
                let arrives_at = at + rhythm.on_its_way;
                all.push(Expected { currency: currency.clone(), payout: None, amount: sum, made_at: at, arrives_at, rows });
                (sum, rows) = (0, 0);
            }
        }
    }
    all.sort_by(|a, b| (a.arrives_at, &a.currency, &a.payout).cmp(&(b.arrives_at, &b.currency, &b.payout)));
    all
}

/// How often payouts of a currency are made, as observed.
struct Rhythm {
    last: Option<i64>,
    every: i64,
    on_its_way: i64,
}

impl Rhythm {
    fn of(shown: &Shown, currency: &str) -> Self {
        let own: Vec<&Payout> = shown.payouts.iter().filter(|p| p.automatic && p.currency == currency).collect();
        let days: Vec<i64> = own.iter().map(|p| p.created.div_euclid(DAY)).collect::<BTreeSet<_>>().into_iter().collect();
        // The shortest gap: days without sales and weekends only make longer ones.
        let gap = days.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap_or(1);
        let newest = own.iter().max_by_key(|p| (p.created, &p.id));
        Self { last: newest.map(|p| p.created), every: gap * DAY, on_its_way: newest.map_or(DAY, |p| (p.arrival_date - p.created).max(0)) }
    }

    /// When money that is available then is paid out.
    fn at(&self, available: i64) -> i64 {
        let Some(last) = self.last else { return available };
        let times = (available - last + self.every - 1).div_euclid(self.every).max(1);
        last + times * self.every
    }
}

#[cfg(test)]
#[path = "payout_watch_tests.rs"]
mod tests;
