//! Levels as OpenSLO documents: an SLO for each promise with its SLI inline, an AlertPolicy and an AlertCondition for each tier. A tier has
//! two windows and OpenSLO one, so the short one is an annotation.

use serde_json::{Map, Value, json};

use super::{API, MIN_EVENTS, NO_DATA, OBJECTIVE, SERVICE, SHORT_WINDOW};
use crate::domain::slo::{Level, Slices, Tier, Unit, Window};

/// The documents of these levels, one YAML text.
pub fn export(levels: &[Level]) -> Result<String, String> {
    let mut documents: Vec<Value> = Vec::new();
    for level in levels {
        documents.extend(slos(level));
    }
    let mut seen: Vec<(String, i64)> = Vec::new();
    for level in levels {
        let (name, days) = (level.window.name(), level.window.days());
        if !seen.iter().any(|(known, _)| *known == name) {
            documents.extend(Tier::ALL.iter().filter(|tier| tier.long_minutes <= days * 1440).flat_map(|tier| alert(&name, days, tier)));
            seen.push((name, days));
        }
    }
    let texts: Result<Vec<String>, String> =
        documents.iter().map(|document| serde_saphyr::to_string(document).map_err(|error| error.to_string())).collect();
    Ok(texts?.iter().map(|text| format!("{}\n", text.trim_end())).collect::<Vec<_>>().join("---\n"))
}

fn slos(level: &Level) -> Vec<Value> {
    let source = |events: &str| json!({"metricSource": {"type": "EchoPilot", "spec": {"service": level.service, "events": events}}});
    let mut documents = Vec::new();
    if let Some(success_ppm) = level.success_ppm {
        let metric = json!({"ratioMetric": {"counter": true, "good": source("good"), "total": source("total")}});
        documents.push(slo(level, &level.name, &metric, objective("success", success_ppm, level.slices)));
    }
    if let Some(latency) = level.latency {
        let metric = json!({"thresholdMetric": source("latency_ms")});
        let mut objective = objective("latency", latency.share_ppm, level.slices);
        objective.insert("op".to_owned(), "lte".into());
        objective.insert("value".to_owned(), latency.ms.into());
        let name = if level.success_ppm.is_some() { format!("{}-latency", level.name) } else { level.name.clone() };
        documents.push(slo(level, &name, &metric, objective));
    }
    documents
}

fn objective(name: &str, share_ppm: u64, slices: Option<Slices>) -> Map<String, Value> {
    let mut objective = Map::new();
    objective.insert("displayName".to_owned(), name.into());
    objective.insert("target".to_owned(), share(share_ppm));
    if let Some(slices) = slices {
        objective.insert("timeSliceTarget".to_owned(), share(slices.share_ppm));
        objective.insert("timeSliceWindow".to_owned(), format!("{}m", slices.minutes).into());
    }
    objective
}

fn slo(level: &Level, name: &str, metric: &Value, objective: Map<String, Value>) -> Value {
    let window = level.window.name();
    let policies: Vec<String> =
        Tier::ALL.iter().filter(|tier| tier.long_minutes <= level.window.days() * 1440).map(|tier| tier_name(&window, tier)).collect();
    json!({
        "apiVersion": API,
        "kind": "SLO",
        "metadata": {"name": name, "annotations": {
            OBJECTIVE: level.name, SERVICE: level.service, MIN_EVENTS: level.min_events.to_string(), NO_DATA: level.no_data.to_string(),
        }},
        "spec": {
            "service": level.service.rsplit(':').next().unwrap_or_default(),
            "indicator": {"metadata": {"name": format!("{name}-sli")}, "spec": metric},
            "timeWindow": [time_window(&level.window)],
            "budgetingMethod": if level.slices.is_some() { "Timeslices" } else { "Occurrences" },
            "objectives": [objective],
            "alertPolicies": policies,
        },
    })
}

fn time_window(window: &Window) -> Value {
    let Window::Calendar { unit, zone } = window else {
        return json!({"duration": window.name(), "isRolling": true});
    };
    // 2024 began on a Monday: the first day of a week, a month and a quarter.
    let duration = match unit {
        Unit::Week => "1w",
        Unit::Month => "1M",
        Unit::Quarter => "1Q",
    };
    json!({"duration": duration, "isRolling": false, "calendar": {"startTime": "2024-01-01 00:00:00", "timeZone": zone.name()}})
}

fn tier_name(window: &str, tier: &Tier) -> String {
    format!("burn-{window}-{}-{}", tier.long, tier.short)
}

fn alert(window: &str, days: i64, tier: &Tier) -> [Value; 2] {
    let name = tier_name(window, tier);
    [
        json!({
            "apiVersion": API, "kind": "AlertPolicy", "metadata": {"name": name},
            "spec": {"alertWhenBreaching": true, "alertWhenResolved": true, "conditions": [{"conditionRef": name}]},
        }),
        json!({
            "apiVersion": API, "kind": "AlertCondition",
            "metadata": {"name": name, "annotations": {SHORT_WINDOW: tier.short}},
            "spec": {"severity": tier.severity, "condition": {
                "kind": "burnrate", "op": "gt", "threshold": tier.factor(days * 1440), "lookbackWindow": tier.long, "alertAfter": "0m",
            }},
        }),
    ]
}

/// The shortest decimal of a share.
fn share(ppm: u64) -> Value {
    json!(ppm as f64 / 1e6)
}
