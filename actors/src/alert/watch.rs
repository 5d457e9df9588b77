//! Looks every few seconds at what cannot wait for `production_alerts`: the database, the oldest webhook, and whether that task runs at
//! all. Started by the alert actor and ended with it; what it sees goes through the same rules.

use std::time::Duration;

use super::{evaluate, figures};
use crate::env::Env;

/// Looks until it is aborted. At a fixed rate: a slow look delays no other.
pub(super) async fn run(env: Env) {
    let every = Duration::from_secs(env.config().alert.watch_every_s);
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    ticks.tick().await; // the first is at once, and the daemon is just starting
    let mut complained = false;
    loop {
        ticks.tick().await;
        let checks = figures::at_once(&env).await.checks(&env);
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
