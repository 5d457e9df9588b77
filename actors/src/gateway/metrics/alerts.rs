//! Alerts by state and severity, and messages by state and channel.

use std::collections::BTreeMap;

use super::{Board, whole};
use crate::{alert, channels, domain::alert_rule::Alert, env::Env, error::Result};

const SEVERITIES: [&str; 3] = ["info", "warning", "critical"];
const STATES: [&str; 4] = ["queued", "sent", "dead", "dropped"];

pub(super) async fn alerts(board: &Board, env: &Env) -> Result<()> {
    let all = alert::list(env).await?;
    let help = "Alerts; those that somebody looks after are apart.";
    let gauge = board.gauges("echopilot_alerts", help, &["state", "severity"])?;
    for state in ["pending", "firing", "acknowledged"] {
        for severity in SEVERITIES {
            let word = |a: &Alert| if a.acknowledged.is_some() { "acknowledged" } else { a.state.as_str() };
            let n = all.iter().filter(|a| a.severity.as_str() == severity && word(a) == state).count();
            gauge.with_label_values(&[state, severity]).set(whole(n));
        }
    }
    let counts: BTreeMap<(String, String), i64> =
        env.store().notification_counts().await?.into_iter().map(|(c, s, n)| ((c, s), n)).collect();
    let gauge = board.gauges("echopilot_notifications", "Messages that are remembered.", &["channel", "state"])?;
    for channel in &channels::ALL {
        for state in STATES {
            let n = counts.get(&(channel.name.to_owned(), state.to_owned())).copied().unwrap_or_default();
            gauge.with_label_values(&[channel.name, state]).set(n);
        }
    }
    Ok(())
}
