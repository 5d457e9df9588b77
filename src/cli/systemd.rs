//! What systemd is told (`Type=notify`): ready, stopping, how things stand, and the watchdog's food, which it gets only if every
//! critical part and the supervisor answered. Without systemd nobody listens and nothing is lost. `packaging/` has the unit.

use std::time::Duration;

use echopilot_actors::{config::Supervisor, env::Env, error::Result};
use sd_notify::NotifyState;

/// Tells it; not under systemd there is nobody to tell.
fn tell(state: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(state);
}

/// Everything serves.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// The stop began and takes `limit` at most: whatever the unit says, it is not to be cut short.
pub(crate) fn stopping(limit: Duration) {
    let limit_us = u32::try_from(limit.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(limit_us), NotifyState::Status("stopping")]);
}

/// Feeds the watchdog, if there is one, three times as often as it wants; never ends.
pub(crate) async fn feed(env: &Env) {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else { return std::future::pending().await };
    let healing = time_to_heal(&env.config().supervisor);
    if limit <= healing {
        let (limit_ms, healing_ms) = (limit.as_millis(), healing.as_millis());
        tracing::warn!(
            limit_ms,
            healing_ms,
            "WatchdogSec is shorter than it takes to notice a part that hangs and to restart it: systemd will end the process first"
        );
    }
    let mut ticks = tokio::time::interval(limit / 3);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match look(env).await {
            Ok(status) => tell(&[NotifyState::Watchdog, NotifyState::Status(&status)]),
            Err(error) => {
                tracing::warn!(%error, "the watchdog is not fed");
                tell(&[NotifyState::Status(&format!("not well: {error}"))]);
            }
        }
    }
}

/// How long it takes, at most, until a part that hangs was noticed and killed.
pub(crate) fn time_to_heal(limits: &Supervisor) -> Duration {
    Duration::from_millis(limits.ping_every_ms.saturating_add(limits.ping_limit_ms).saturating_add(limits.kill_limit_ms))
}

/// How things stand, if every critical part and the supervisor answer.
async fn look(env: &Env) -> Result<String> {
    let tree = env.tree()?;
    tree.probe_critical().await?;
    let children = tree.status().await?;
    let down: Vec<_> = children.iter().filter(|c| c.down.is_some()).map(|c| c.name).collect();
    Ok(if down.is_empty() { "serving".to_owned() } else { format!("serving without {}", down.join(", ")) })
}
