//! The user's own jobs as checks: one that is down is an alert with the label `push`. Called at every look of the delivery. What a job
//! reports comes in by the gateway; the verdict is `domain/push.rs`.

use std::time::Duration;

use crate::{
    domain::{
        alert_rule::{Check, Severity},
        push::State,
    },
    env::Env,
    error::Result,
    operations::pushes,
};

/// What a job reported that is not configured any more is forgotten when its alert had time to resolve.
const FORGET: Duration = Duration::from_mins(10);

pub(super) async fn checks(env: &Env) -> Result<Vec<Check>> {
    let rule = env.config().rules.of("push").map_or(Severity::Critical, |rule| rule.severity);
    let check = |name: &str, ok, value: Option<String>, threshold: String, reason: String| Check {
        name: "push".into(),
        labels: [("push".to_owned(), name.to_owned())].into(),
        system: "pushes",
        ok: Some(ok),
        severity: rule,
        value,
        threshold,
        reason,
    };
    let mut checks = Vec::new();
    for job in pushes::standing(env).await? {
        let down = job.verdict.state == State::Down;
        let value = job.row.reports.exit_status.filter(|status| *status != 0).map(|status| format!("exit status {status}"));
        checks.push(check(&job.row.name, !down, value, job.plan.describe(), format!("{}: {}", job.row.name, job.verdict.reason)));
    }
    for row in env.store().push_checks().await? {
        if !env.config().pushes.contains_key(&row.name) {
            checks.push(check(&row.name, true, None, String::new(), format!("{} is not configured any more", row.name)));
            if env.uptime() > FORGET {
                env.store().forget_push(&row.name).await?;
            }
        }
    }
    Ok(checks)
}
