//! incident_scanner: every five minutes the new lines of the logs, the service level, the exceptions of the reconciliations and the firing
//! alerts (the sentinel's among them) are looked at; what belongs together is one incident with its timeline and the payments in its time.
//! It tells nobody: the alerts it reads have done that.

mod logs;

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value as Json, json};

use crate::{
    alert,
    config::ProviderMode,
    domain::{
        alert_rule::{self, Severity},
        incident::{self, Changes, Finding, Incident, Settings, State},
        money,
        schedule::Schedule,
        slo::Status,
    },
    env::{Env, blocking},
    error::Result,
    slo,
    store::ExceptionRow,
    task::{Record, Run, TaskSpec},
};

/// When logs were looked at for the first time and the last, in `meta`.
const FIRST: &str = "incidents.first_look";
const LAST: &str = "incidents.last_look";
/// Payments from so long before an incident was opened are in its time: it is found later than it begins.
const BEFORE: TimeDelta = TimeDelta::minutes(5);

pub(super) fn spec() -> TaskSpec {
    TaskSpec::new("incident_scanner", "alert", Schedule::every(300), "Opens, updates and closes incidents from logs, levels and alerts.")
        .runs(|run| Box::pin(work(run)))
        .leaves(None, Some("incidents.ndjson"))
        .timeout_s(120)
}

async fn work(run: Run) -> Result<Record> {
    let env = &run.env;
    let (store, now) = (env.store(), env.now());
    let limits = &env.config().incidents;
    let settings =
        Settings { quiet: TimeDelta::minutes(limits.quiet_min), reopen: TimeDelta::hours(limits.reopen_h), max_open: limits.max_open };
    let known = store.live_incidents(now - settings.reopen).await?;
    let (first, last) = (time(env, FIRST).await?, time(env, LAST).await?);
    let open: BTreeSet<String> = known.iter().filter(|i| i.state == State::Open).flat_map(|i| i.signals.keys().cloned()).collect();
    let seen = logs::Known { places: store.log_places().await?, templates: store.log_templates().await?, open, first, last };
    let looking = env.clone();
    let looked = blocking(move || logs::look(&looking, seen)).await?;

    // What cannot be asked just now is named, and is no reason to close anything: it was not looked at.
    let (mut findings, mut unasked) = (looked.findings, Vec::new());
    let mut take = |source: &str, found: Result<Vec<Finding>>| match found {
        Ok(found) => findings.extend(found),
        Err(error) => unasked.push(format!("{source}: {error}")),
    };
    take("alerts", alerts(env, now).await);
    take("levels", levels(env, now).await);
    take("reconciliation", exceptions(env, now).await);

    let causes = |component: &str| env.config().rules.causes_of(component).into_iter().map(str::to_owned).collect();
    let mut new_id = || format!("inc_{}", uuid::Uuid::now_v7().simple());
    let mut changes = incident::step(&known, &findings, &causes, settings, now, &mut new_id);
    if !unasked.is_empty() {
        keep_open(&mut changes, &known);
    }
    if let Err(error) = add_money(env, &known, &mut changes).await {
        unasked.push(format!("payments: {error}"));
    }
    let facts = changes.events.iter().filter_map(|event| {
        let kind = match event.kind {
            "opened" => "incident.opened",
            "reopened" => "incident.reopened",
            "escalated" => "incident.escalated",
            "closed" => "incident.closed",
            _ => return None,
        };
        Some(env.fact(kind, &event.incident, json!({"text": event.text})))
    });
    store.put_scan(&changes, &looked.state, facts.collect()).await?;
    if first.is_none() {
        store.set_meta(FIRST, &now.timestamp().to_string()).await?;
    }
    store.set_meta(LAST, &now.timestamp().to_string()).await?;
    store.prune_incidents(now - TimeDelta::days(limits.keep_days)).await?;
    Ok(record(&known, &changes, looked.figures, unasked))
}

fn record(known: &[Incident], changes: &Changes, figures: Json, unasked: Vec<String>) -> Record {
    let ids = |kind: &str| -> Json { changes.events.iter().filter(|e| e.kind == kind).map(|e| json!(e.incident)).collect() };
    let changed = |id: &str| changes.incidents.iter().find(|i| i.id == id);
    let now_open = known.iter().map(|i| changed(&i.id).unwrap_or(i)).filter(|i| i.state == State::Open).count()
        + changes.incidents.iter().filter(|i| i.state == State::Open && !known.iter().any(|k| k.id == i.id)).count();
    let shown = changes.incidents.iter().map(|i| {
        let Incident { id, key, title, count, .. } = i;
        json!({"id": id, "key": key, "state": i.state, "severity": i.severity, "title": title, "count": count, "money": i.money})
    });
    let mut record = Record::new();
    record.insert("open".into(), json!(now_open));
    for kind in ["opened", "reopened", "escalated", "closed"] {
        record.insert(kind.into(), ids(kind));
    }
    record.insert("incidents".into(), shown.collect());
    record.insert("logs".into(), figures);
    record.insert("unasked".into(), json!(unasked));
    record
}

async fn time(env: &Env, key: &str) -> Result<Option<DateTime<Utc>>> {
    let text = env.store().meta(key).await?;
    Ok(text.and_then(|text| DateTime::from_timestamp(text.parse().ok()?, 0)))
}

/// Takes back what was closed for being quiet: not everything was asked.
fn keep_open(changes: &mut Changes, known: &[Incident]) {
    let quiet: BTreeSet<String> = changes.events.iter().filter(|e| e.kind == "closed").map(|e| e.incident.clone()).collect();
    changes.events.retain(|event| event.kind != "closed");
    changes.incidents.retain(|i| !(quiet.contains(&i.id) && known.iter().any(|k| k.id == i.id)));
}

/// Alerts that fire now; the sentinel's are among them.
async fn alerts(env: &Env, now: DateTime<Utc>) -> Result<Vec<Finding>> {
    let firing = alert::list(env).await?.into_iter().filter(|alert| alert.state == alert_rule::State::Firing);
    let found = firing.map(|alert| {
        let component = env.config().rules.component(&alert.name, &alert.system).to_owned();
        Finding {
            signal: format!("alert:{}", alert.fingerprint),
            key: component.clone(),
            component,
            source: if alert.system == "sentinel" { "sentinel" } else { "alert" },
            severity: alert.severity,
            title: alert.name.replace('_', " "),
            text: incident::redact(&alert.reason),
            count: 1,
            samples: Vec::new(),
            at: now,
        }
    });
    Ok(found.collect())
}

/// The service level, if it fails and whatever the alerts make of it.
async fn levels(env: &Env, now: DateTime<Utc>) -> Result<Vec<Finding>> {
    let judged = slo::judged(env, "incidents").await?;
    if judged.verdict.status != Status::Fail {
        return Ok(Vec::new());
    }
    let component = env.config().rules.component("slo_burn", "levels").to_owned();
    Ok(vec![Finding {
        signal: "slo:api".into(),
        key: component.clone(),
        component,
        source: "slo",
        severity: Severity::Critical,
        title: "the service level is not kept".into(),
        text: format!("the service level fails: {} of {} requests were bad", judged.verdict.bad, judged.verdict.n),
        count: 1,
        samples: Vec::new(),
        at: now,
    }])
}

/// The serious exceptions that nobody has looked at: one finding for each reconciliation.
async fn exceptions(env: &Env, now: DateTime<Utc>) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (scope, rule) in [("payouts", "recon_exceptions"), ("finance", "finance_exceptions")] {
        let open = env.store().open_exceptions(scope).await?;
        let serious: Vec<&ExceptionRow> = open.iter().filter(|e| e.status == "open" && e.severity == "high").collect();
        if serious.is_empty() {
            continue;
        }
        let mut risk = std::collections::BTreeMap::new();
        for exception in &serious {
            *risk.entry(exception.currency.as_str()).or_insert(0_i64) += exception.risk.abs();
        }
        let risk: Vec<String> = risk.into_iter().filter(|(c, _)| !c.is_empty()).map(|(c, minor)| money::display(minor, c)).collect();
        let component = env.config().rules.component(rule, "recon").to_owned();
        findings.push(Finding {
            signal: format!("recon:{scope}"),
            key: component.clone(),
            component,
            source: "recon",
            severity: Severity::Warning,
            title: "what we booked and what the provider says differ".into(),
            text: format!("{} serious exceptions of {scope} are open ({})", serious.len(), risk.join(", ")),
            count: serious.len() as u64,
            samples: serious
                .iter()
                .take(incident::SAMPLES)
                .map(|e| incident::redact(e.body["explanation"].as_str().unwrap_or(&e.kind)))
                .collect(),
            at: now,
        });
    }
    Ok(findings)
}

/// Looks up the payments in the time of every incident that is open or was until now.
async fn add_money(env: &Env, known: &[Incident], changes: &mut Changes) -> Result<()> {
    let untouched = known.iter().filter(|k| k.state == State::Open && !changes.incidents.iter().any(|i| i.id == k.id)).cloned();
    let candidates: Vec<Incident> = changes.incidents.iter().cloned().chain(untouched.collect::<Vec<_>>()).collect();
    if candidates.is_empty() {
        return Ok(());
    }
    let config = env.config();
    // The sandbox has a clock of its own.
    let ahead = if config.provider.mode == ProviderMode::Sandbox && env.sandbox().is_some() {
        env.provider().now().await? - env.now()
    } else {
        TimeDelta::zero()
    };
    for candidate in candidates {
        let (from, to) = (candidate.opened_at - BEFORE + ahead, candidate.closed_at.unwrap_or_else(|| env.now()) + ahead);
        let money = env.store().money_between(config.provider.mode.is_live(), from.timestamp(), to.timestamp()).await?;
        if money != candidate.money {
            match changes.incidents.iter_mut().find(|i| i.id == candidate.id) {
                Some(changed) => changed.money = money,
                None => changes.incidents.push(Incident { money, ..candidate }),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
