//! heartbeat: says every minute that the daemon lives and what comes next. It pings the configured dead-man URL and the systemd
//! watchdog only if every critical part answered, so silence means trouble.

use serde_json::json;

use crate::{
    domain::schedule::Schedule,
    env::{Env, rfc3339},
    error::{Error, Result},
    task::{Record, Run, TaskSpec},
    timer,
};

pub(super) fn spec() -> TaskSpec {
    TaskSpec::new("heartbeat", "timer", Schedule::every(60), "Says that the daemon lives, what its parts do and what is due next.")
        .runs(|run| Box::pin(work(run)))
        .leaves(Some("heartbeat.json"), None)
        .timeout_s(30)
}

async fn work(run: Run) -> Result<Record> {
    let env = &run.env;
    let parts = env.tree()?.status().await?;
    let answered = env.tree()?.probe_critical().await;
    // While the daemon stops the timer waits for the runs and lists nothing; the beat is no failure for that.
    let tasks = timer::list(env).await.or_else(|error| if error.is_retryable() { Ok(Vec::new()) } else { Err(error) })?;
    let mut next: Vec<_> = tasks.into_iter().filter_map(|t| Some((t.next?, t.name))).collect();
    next.sort();
    next.truncate(5);
    let mut record = Record::new();
    record.insert("ok".into(), answered.is_ok().into());
    record.insert("version".into(), env!("CARGO_PKG_VERSION").into());
    record.insert("started_at".into(), rfc3339(env.started_at()).into());
    record.insert("uptime_s".into(), env.uptime().as_secs().into());
    record.insert("mode".into(), env.config().provider.mode.as_str().into());
    record.insert("parts".into(), json!(parts));
    record.insert("next".into(), next.into_iter().map(|(at, task)| json!({"task": task, "at": at})).collect());
    let ping = match &answered {
        Ok(()) => {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]); // not under systemd: nothing to feed
            ping(env).await
        }
        Err(error) => json!({"sent": false, "reason": error.message}),
    };
    record.insert("ping".into(), ping);
    Ok(record)
}

/// A ping that fails is written down and fails nothing: the switch at the other end is there for exactly that.
async fn ping(env: &Env) -> serde_json::Value {
    let url = &env.config().heartbeat.url;
    if url.is_empty() {
        return json!({"sent": false, "reason": "not_configured"});
    }
    let sent = env.http().get(url).timeout(std::time::Duration::from_secs(10)).send().await;
    match sent.and_then(reqwest::Response::error_for_status) {
        Ok(_) => json!({"sent": true}),
        Err(error) => {
            // The URL is a secret of sorts (it silences the switch) and stays out of the text.
            let error = Error::unavailable("ping", error.without_url().to_string());
            tracing::warn!(task = "heartbeat", %error, "the dead-man URL did not take the ping");
            json!({"sent": false, "reason": error.message})
        }
    }
}
