//! Whether we are connected ourselves: connects to two or three things that are always there. Asked before a probe blames its target; one
//! answer serves all that ask within a few seconds. With nothing configured we are taken to be online.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    net::TcpStream,
    sync::Mutex,
    time::{Instant, timeout},
};

use crate::{
    alert,
    config::host_and_port,
    domain::alert_rule::{Check, Severity},
    env::Env,
};

/// So long one answer serves.
const FRESH: Duration = Duration::from_secs(5);
/// How often it is looked at of its own accord: while offline, and to say that it is over.
const EVERY: Duration = Duration::from_secs(20);

pub struct Connectivity {
    env: Env,
    last: Mutex<Option<(Instant, bool)>>,
}

impl Connectivity {
    pub fn new(env: &Env) -> Self {
        Self { env: env.clone(), last: Mutex::new(None) }
    }

    pub fn is_configured(&self) -> bool {
        !self.env.config().connectivity.check.is_empty()
    }

    /// None of the targets takes a connection.
    pub async fn is_offline(&self) -> bool {
        if !self.is_configured() {
            return false;
        }
        let mut last = self.last.lock().await;
        if let Some((at, offline)) = *last
            && at.elapsed() < FRESH
        {
            return offline;
        }
        let settings = &self.env.config().connectivity;
        let limit = Duration::from_secs(settings.timeout_s);
        let reached = join_all(settings.check.iter().map(|target| reaches(target, limit))).await;
        let offline = reached.iter().all(|reached| !reached);
        *last = Some((Instant::now(), offline));
        offline
    }

    /// Puts what it finds to the alerts.
    pub async fn watch(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            let offline = self.is_offline().await;
            if let Err(error) = alert::evaluate(&self.env, vec![self.check(offline)]).await {
                tracing::warn!(target: "probe", %error, "the alerts were not told whether this machine is connected");
            }
        }
    }

    fn check(&self, offline: bool) -> Check {
        let targets = self.env.config().connectivity.check.join(", ");
        Check {
            name: "connectivity".into(),
            system: "network",
            ok: Some(!offline),
            severity: Severity::Critical,
            value: None,
            threshold: "one of the targets takes a connection".into(),
            reason: if offline { format!("none of {targets} takes a connection") } else { format!("connected ({targets})") },
            ..Check::default()
        }
    }
}

async fn reaches(target: &str, limit: Duration) -> bool {
    let Some((host, port)) = host_and_port(target) else { return false };
    matches!(timeout(limit, TcpStream::connect((host, port))).await, Ok(Ok(_)))
}
