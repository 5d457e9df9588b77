//! slo_guard: looks at the burn of every error budget at every closed minute since its last run, raises alerts, and writes the error-budget
//! report. A burst that began and ended between two runs is found all the same.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use crate::{
    alert::{self, figures},
    domain::{
        alert_rule::{Check, Severity},
        schedule::Schedule,
        slo::{Fired, Minute, Standing},
    },
    env::{Env, rfc3339},
    error::Result,
    slo,
    task::{Record, Run, TaskSpec},
};

/// The minute up to which the last run looked.
const THROUGH: &str = "slo_guard.through";
/// It looks no further back than this.
const BACK_MINUTES: i64 = 1440;

pub(super) fn spec() -> TaskSpec {
    TaskSpec::new("slo_guard", "slo", Schedule::every(600), "Measures how fast the error budgets burn and raises an alert on a breach.")
        .runs(|run| Box::pin(work(run)))
        .leaves(Some("slo_report.json"), Some("slo_report.ndjson"))
        .timeout_s(30)
        .retries(2)
}

async fn work(run: Run) -> Result<Record> {
    let env = &run.env;
    let judged = slo::judged(env, "guard").await?;
    let (verdict, report) = (&judged.verdict, &judged.report);
    let breach = verdict.breach || report.breach;
    let why = match (&report.worst, verdict.breach) {
        (Some(worst), false) => format!("the error budget for {} burns too fast over {}", worst.objective, worst.windows),
        _ => verdict.clause.clone(),
    };
    let (now, standings) = slo::standings(env).await?;
    let (since, until) = (looked_through(env, Minute::of(now)).await?, Minute::of(now));
    let fired: BTreeMap<String, Vec<Fired>> = slo::fired(env, since).await?.into_iter().collect();
    let watched_since = Minute::of(env.started_at());
    let checks = standings.iter().flat_map(|standing| {
        let fired = fired.get(&standing.level.name).map_or(&[][..], Vec::as_slice);
        checks(standing, fired, watched_since)
    });
    // With the levels, so that what follows from the API is told with it.
    let api = figures::api_level(verdict.status, &verdict.clause);
    alert::evaluate(env, checks.chain([api]).collect()).await?;
    env.store().set_meta(THROUGH, &until.to_string()).await?;
    let levels = slo::report_of(env, now, &standings);
    let mut record = Record::new();
    record.insert("status".into(), verdict.status.as_str().into());
    record.insert("breach".into(), breach.into());
    record.insert("reason".into(), why.into());
    record.insert("p95_ms".into(), json!(verdict.p95_ms));
    record.insert("success_rate".into(), json!(verdict.success_rate));
    record.insert("verdict".into(), json!(verdict));
    record.insert("report".into(), json!(report));
    record.insert("since".into(), json!(chrono::DateTime::from_timestamp(since * 60, 0).map(rfc3339)));
    record.insert("fired".into(), json!(fired));
    record.insert("error_budgets".into(), standings.iter().flat_map(budgets).collect());
    record.insert("counts".into(), levels["counts"].clone());
    record.insert("objectives".into(), levels["objectives"].clone());
    record.insert("warnings".into(), levels["warnings"].clone());
    Ok(record)
}

async fn looked_through(env: &Env, now: i64) -> Result<i64> {
    let known = env.store().meta(THROUGH).await?.and_then(|text| text.parse::<i64>().ok());
    Ok(known.unwrap_or(now - 10).clamp(now - BACK_MINUTES, now))
}

/// One line of the error-budget report for each indicator.
fn budgets(standing: &Standing) -> Vec<Json> {
    let line = |o: &crate::domain::slo::ObjectiveReport| {
        json!({
            "objective": standing.level.name, "indicator": o.name, "window": standing.level.window.name(), "n": o.n, "allowed": o.budget.total,
            "used": o.budget.used, "remaining": o.budget.remaining, "used_ratio": o.budget.used_ratio, "exhausted": o.budget.exhausted,
            "exhausts_at": o.budget.exhausts_at.map(rfc3339),
        })
    };
    standing.report.objectives.iter().map(line).collect()
}

/// The alerts of one objective: its fast burn, its slow burn, its budget, its silence.
fn checks(standing: &Standing, fired: &[Fired], watched_since: i64) -> Vec<Check> {
    let (name, report) = (&standing.level.name, &standing.report);
    let check = |rule: &str, ok: Option<bool>, severity, value, threshold: String, reason: String| Check {
        name: rule.to_owned(),
        labels: BTreeMap::from([("objective".to_owned(), name.clone())]),
        system: "levels",
        ok,
        severity,
        value,
        threshold,
        reason: format!("{name}: {reason}"),
    };
    let has_data = report.objectives.iter().any(|o| o.n > 0);
    let known = |bad: bool| (has_data || bad).then_some(!bad);
    let burst = |severity: &str| {
        let found = fired.iter().find(|f| f.severity == severity);
        found.map(|f| format!("{} burned over {}/{} for {} min, until a moment ago", f.objective, f.long, f.short, f.minutes))
    };
    let tiers = |severity: &str| {
        let firing = report.objectives.iter().flat_map(|o| o.tiers.iter().filter(move |t| t.firing).map(move |t| (o.name, t)));
        firing
            .filter(|(_, t)| t.severity == severity)
            .map(|(name, t)| format!("{name}: {} of {} bad in {}, and in {} as fast", t.bad, t.n, t.long, t.short))
            .next()
    };
    let absolute = report.objectives.iter().find(|o| o.absolute.firing);
    let absolute =
        absolute.map(|o| format!("{}: {} bad and only {} good in {}", o.name, o.absolute.bad, o.absolute.good, o.absolute.window));
    let page = tiers("page").or(absolute).or_else(|| burst("page"));
    let ticket = tiers("ticket").or_else(|| burst("ticket"));
    let spent = report.objectives.iter().find(|o| o.budget.exhausted);
    let budget = spent.map(|o| {
        format!("the {} budget of {} is used up: {} bad of {} allowed", o.name, standing.level.window.name(), o.budget.used, o.budget.total)
    });
    let fine = || standing.verdict.clause.clone();
    let rate = standing.verdict.success_rate.map(|rate| format!("{rate} good"));
    let target = standing.level.success_ppm.or(standing.level.latency.map(|l| l.share_ppm)).unwrap_or_default() as f64 / 1e6;
    let worst_burn = |window: &str| {
        let rates = report.objectives.iter().filter_map(|o| o.burn.get(window));
        rates
            .fold(None, |worst: Option<f64>, rate| Some(worst.map_or(rate, |w| w.max(rate))))
            .map(|rate| format!("{rate:.1} times the budget in {window}"))
    };
    let used =
        report.objectives.iter().filter_map(|o| o.budget.used_ratio).reduce(f64::max).map(|ratio| format!("{:.0} % used", ratio * 100.0));
    let absence = &standing.absence;
    let is_silent = absence.severity.is_some();
    // After a restart silence says nothing until there was time for an event: what fired goes on firing.
    let since_watched = absence.last_minute.is_some_and(|last| last >= watched_since)
        || absence.silent_minutes == 0 && absence.expected.is_some_and(|e| e > 0.0);
    let silence = if is_silent { Some(false) } else { since_watched.then_some(true) };
    let silence_severity = if absence.severity == Some("page") { Severity::Critical } else { Severity::Warning };
    vec![
        check(
            "slo_burn",
            known(page.is_some()),
            Severity::Critical,
            rate.or_else(|| worst_burn("1h")),
            format!(">= {target}"),
            page.unwrap_or_else(fine),
        ),
        check(
            "slo_ticket",
            known(ticket.is_some()),
            Severity::Warning,
            worst_burn("1d"),
            "no ticket tier burns".into(),
            ticket.unwrap_or_else(fine),
        ),
        check("slo_budget", known(budget.is_some()), Severity::Critical, used, "< 100 %".into(), budget.unwrap_or_else(fine)),
        check(
            "slo_no_data",
            silence,
            silence_severity,
            Some(format!("{} min without an event", absence.silent_minutes)),
            "events as usual".into(),
            absence.clause.clone(),
        ),
    ]
}
