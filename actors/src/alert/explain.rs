//! What only the store knows about the alerts of a message: what else changed shortly before, the payments at risk, and the signed
//! links. Called by the book when a message was decided. What cannot be found out is left out: a message never waits for it.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::ExposeSecret as _;

use super::settings;
use crate::{
    domain::{
        alert_rule::Alert,
        notify::{Action, Line, Links, Message, Risk, link},
    },
    env::Env,
    error::Result,
    store::AlertEventFilter,
};

/// How long before an alert began something may have changed that explains it.
const BEFORE: TimeDelta = TimeDelta::minutes(30);
/// For so many alerts of a message it is looked up, and so many changes are named.
const EXPLAINED: usize = 5;
const CHANGES: usize = 6;
/// Of changed settings so many are named.
const SETTINGS: usize = 8;
/// Payments are looked at from this long before the alert, so many at most.
const RISK_BEFORE: TimeDelta = TimeDelta::minutes(5);
const PAYMENTS: i64 = 10_000;
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) async fn complete(env: &Env, alerts: &BTreeMap<String, Alert>, message: &mut Message) {
    message.url = format!("{}/alerts", env.public_url());
    for (n, line) in message.alerts.iter_mut().enumerate() {
        if line.resolved {
            continue;
        }
        line.links = links(env, line);
        if n >= EXPLAINED {
            continue;
        }
        line.changed = in_time(changes(env, alerts, line)).await;
        if about_money(env, line) {
            line.risk = in_time(risk(env, line.since)).await;
        }
    }
}

async fn in_time<T>(work: impl Future<Output = Result<Vec<T>>>) -> Vec<T> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            tracing::debug!(actor = super::NOUN, %error, "a message says less than it could");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}

fn links(env: &Env, line: &Line) -> Links {
    let (base, secret) = (env.public_url(), env.secrets().links.expose_secret());
    let expires = (env.now() + TimeDelta::try_hours(env.config().notify.links_h).unwrap_or(TimeDelta::hours(72))).timestamp();
    let to = |action, about: &str| Some(link(&base, secret, action, about, expires));
    let task = env.config().rules.of(&line.name).and_then(|rule| rule.task.as_deref());
    Links {
        acknowledge: to(Action::Acknowledge, &line.alert),
        snooze: to(Action::Snooze, &line.alert),
        run_now: task.and_then(|task| to(Action::Run, task)),
    }
}

async fn changes(env: &Env, alerts: &BTreeMap<String, Alert>, line: &Line) -> Result<Vec<String>> {
    let from = line.since - BEFORE;
    let mut changes: Vec<(DateTime<Utc>, String)> = Vec::new();
    let started = env.started_at();
    if started >= from && started <= env.now() {
        changes.push((started, format!("this program (version {}) was started", env!("CARGO_PKG_VERSION"))));
    }
    if let Some((at, keys)) = settings::last_change(env).await?.filter(|(at, _)| *at >= from) {
        let more = keys.len().saturating_sub(SETTINGS);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        changes.push((at, format!("settings were changed: {}{more}", keys[..keys.len().min(SETTINGS)].join(", "))));
    }
    let filter = AlertEventFilter { since: Some(from), until: Some(env.now()), ..AlertEventFilter::default() };
    for (_, event) in env.store().alert_events(&filter, 100).await? {
        let turned = matches!(event.kind.as_str(), "fired" | "escalated" | "resolved");
        if let (true, Some(other)) = (turned && event.fingerprint != line.fingerprint, alerts.get(&event.fingerprint)) {
            changes.push((event.at, format!("{} {}: {}", other.name, event.kind, event.detail["reason"].as_str().unwrap_or_default())));
        }
    }
    if let Ok(tree) = env.tree() {
        for child in tree.status().await? {
            let at = child.last_failure_at.as_deref().and_then(|at| at.parse::<DateTime<Utc>>().ok());
            if let (Some(at), Some(why)) = (at.filter(|at| *at >= from), child.last_failure) {
                changes.push((at, format!("the part {} failed: {why}", child.name)));
            }
        }
    }
    changes.sort();
    let newest = changes.len().saturating_sub(CHANGES);
    Ok(changes.split_off(newest).into_iter().map(|(at, text)| format!("{} {text}", at.format("%H:%M:%S UTC"))).collect())
}

fn about_money(env: &Env, line: &Line) -> bool {
    let system = line.labels.get("system").map(String::as_str).unwrap_or_default();
    matches!(env.config().rules.component(&line.name, system), "payments" | "webhooks" | "recon" | "provider")
}

async fn risk(env: &Env, since: DateTime<Utc>) -> Result<Vec<Risk>> {
    let mut by_currency: BTreeMap<String, (i64, u64, std::collections::BTreeSet<String>)> = BTreeMap::new();
    for (currency, amount, customer) in env.store().payments_in_doubt(since - RISK_BEFORE, env.now(), PAYMENTS).await? {
        let (total, payments, customers) = by_currency.entry(currency).or_default();
        *total = total.saturating_add(amount);
        *payments += 1;
        if !customer.is_empty() {
            customers.insert(customer);
        }
    }
    let risk = |(currency, (amount_minor, payments, customers)): (String, (i64, u64, std::collections::BTreeSet<String>))| Risk {
        currency,
        amount_minor,
        payments,
        customers: customers.len() as u64,
    };
    Ok(by_currency.into_iter().map(risk).collect())
}
