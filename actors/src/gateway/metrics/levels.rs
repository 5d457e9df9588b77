//! The figures of every objective. What is not known (no events, no expectation) is absent, so that a rule can tell it from zero.

use super::Board;
use crate::{env::Env, error::Result, slo};

const STATES: [&str; 3] = ["PASS", "FAIL", "NO_DATA"];

pub(super) async fn levels(board: &Board, env: &Env) -> Result<()> {
    let (_, standings) = slo::standings(env).await?;
    let by = ["objective", "indicator"];
    let status = board.gauges("echopilot_slo_status", "1 for the verdict on an objective, 0 for the others.", &["objective", "status"])?;
    let target = board.fractions("echopilot_slo_target_ratio", "The share of events that must be good.", &by)?;
    let sli = board.fractions("echopilot_slo_sli_ratio", "The share of events that were good in the window.", &by)?;
    let used =
        board.fractions("echopilot_slo_budget_used_ratio", "The share of the error budget that is used; above 1 when overspent.", &by)?;
    let burn = board.fractions(
        "echopilot_slo_burn_rate",
        "How fast the error budget burns in a window; 1 uses it up exactly.",
        &["objective", "indicator", "window"],
    )?;
    let firing = board.gauges("echopilot_slo_firing", "1 while a clause of this severity fires.", &["objective", "severity"])?;
    let excluded = board.gauges("echopilot_slo_excluded_seconds", "Time of the window that does not count.", &["objective"])?;
    for standing in &standings {
        let name = standing.level.name.as_str();
        for state in STATES {
            status.with_label_values(&[name, state]).set(i64::from(standing.verdict.status.as_str() == state));
        }
        for severity in ["page", "ticket"] {
            firing.with_label_values(&[name, severity]).set(i64::from(standing.severity() == Some(severity)));
        }
        excluded.with_label_values(&[name]).set(standing.excluded.iter().map(|e| (e.until - e.from) * 60).sum());
        for objective in &standing.report.objectives {
            target.with_label_values(&[name, objective.name]).set(objective.target_ppm as f64 / 1e6);
            if let Some(ratio) = objective.sli {
                sli.with_label_values(&[name, objective.name]).set(ratio);
            }
            if let Some(ratio) = objective.budget.used_ratio {
                used.with_label_values(&[name, objective.name]).set(ratio);
            }
            for window in ["5m", "30m", "1h", "2h", "6h", "1d", "3d"] {
                if let Some(rate) = objective.burn.get(window) {
                    burn.with_label_values(&[name, objective.name, window]).set(rate);
                }
            }
        }
    }
    let up = board.gauges(
        "echopilot_probe_up",
        "1 if the latest probe was answered as it should be, 0 if not; absent while it is not known.",
        &["probe"],
    )?;
    for probe in env.store().probes().await?.iter().filter(|p| p.state != "unknown" && env.config().probes.contains_key(&p.name)) {
        up.with_label_values(&[&probe.name]).set(i64::from(probe.state == "up"));
    }
    Ok(())
}
