//! Looks every few seconds at what cannot wait for `production_alerts`: the database, its disk, the provider, the oldest webhook, and
//! whether that task runs at all. Started by the alert actor and ended with it; what it sees goes through the same rules.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::{evaluate, figures};
use crate::env::Env;

/// Looks until it is aborted. At a fixed rate: a slow look delays no other.
pub(super) async fn run(env: Env) {
    let every = Duration::from_secs(env.config().alert.watch_every_s);
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    ticks.tick().await; // the first is at once, and the daemon is just starting
    let mut complained = false;
    let mut asked: Option<JoinHandle<()>> = None;
    loop {
        ticks.tick().await;
        let checks = figures::at_once(&env).await.checks(&env);
        // A call that failed says little while no other follows: another tells a moment from an outage.
        let fails = env.meter().failed_in_a_row("provider").is_some_and(|failed| failed > 0);
        if fails && asked.as_ref().is_none_or(JoinHandle::is_finished) {
            let env = env.clone();
            asked = Some(tokio::spawn(async move { drop(env.provider().now().await) })); // its outcome is counted like that of any call
        }
        match evaluate(&env, checks).await {
            Ok(_) => complained = false,
            Err(error) if !complained => {
                complained = true;
                tracing::error!(actor = super::NOUN, %error, "what was seen could not be put to the alerts");
            }
            Err(_) => {}
        }
    }
}
