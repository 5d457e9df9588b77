//! The rules of alerts: what there is, what each means, and what they would have done on recorded history.

use chrono::TimeDelta;
use serde_json::{Value as Json, json};
use warp::{filters::BoxedFilter, http::Method, reply::Response};

use super::{
    Shell,
    auth::Scope,
    respond,
    route::{Call, any_of, api, body_time},
};
use crate::{
    domain::alert_rule::Rule,
    error::{Error, Result},
    operations::replay_alerts,
};

/// How far back a replay goes unless asked otherwise.
const SINCE: TimeDelta = TimeDelta::days(30);

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // Every rule with owner, runbook, limits and causes.
        api(shell, Method::GET, "/api/rules", Scope::Read, list),
        // When these rules would have fired.
        api(shell, Method::POST, "/api/rules/replay", Scope::Read, replay),
    ])
}

async fn list(call: Call) -> Result<Response> {
    let catalogue = &call.env().config().rules;
    let rules: Vec<Json> =
        catalogue.rules().map(|rule| view(rule, &catalogue.causes_of(&rule.component).into_iter().collect::<Vec<_>>())).collect();
    Ok(respond::json(&json!({"ok": true, "count": rules.len(), "rules": rules})))
}

fn view(rule: &Rule, causes: &[&str]) -> Json {
    json!({
        "name": rule.name, "system": rule.system, "component": rule.component, "causes": causes, "severity": rule.severity,
        "figure": rule.figure, "unit": rule.unit, "above": limit(rule.above.as_ref()), "below": limit(rule.below.as_ref()),
        "at_least": limit(rule.at_least.as_ref()), "critical_above": limit(rule.critical_above.as_ref()),
        "critical_below": limit(rule.critical_below.as_ref()), "for_s": rule.for_s, "aftermath_s": rule.aftermath_s, "fire_after": rule.fire_after,
        "resolve_after": rule.resolve_after, "what": rule.what, "owner": rule.owner, "runbook": rule.runbook, "task": rule.task,
    })
}

fn limit(limit: Option<&crate::domain::alert_rule::Limit>) -> Option<f64> {
    limit.and_then(crate::domain::alert_rule::Limit::number)
}

async fn replay(call: Call) -> Result<Response> {
    let env = call.env();
    let body = call.request.json()?;
    let rules = match &body["rules"] {
        Json::Null => None,
        Json::String(text) => Some(text.as_str()),
        _ => return Err(Error::field("rules", "rules must be the text of a file of rules")),
    };
    let until = body_time(&body, "until")?.unwrap_or_else(|| env.now());
    let since = body_time(&body, "since")?.unwrap_or(until - SINCE);
    Ok(respond::json(&replay_alerts::run(env, rules, since, until).await?))
}
