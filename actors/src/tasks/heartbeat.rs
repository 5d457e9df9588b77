//! heartbeat: says every minute that the daemon lives and what comes next. It pings the configured dead-man URL and the systemd
//! watchdog only if every critical part answered, so silence means trouble.

use std::time::Duration;

use serde_json::json;

use crate::{
    domain::schedule::Schedule,
    env::{Env, rfc3339},
    error::Result,
    ping::{self, Signal},
    task::{Record, Run, TaskSpec},
    timer,
};

/// How long a run waits for the outcome of its ping; the ping goes on by itself.
const ANSWER: Duration = Duration::from_secs(5);

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
    if answered.is_ok() {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]); // not under systemd: nothing to feed
    }
    record.insert("ping".into(), tell(env, answered).await);
    Ok(record)
}

/// The switch outside is told that all is well only if every critical part answered, and else why not. A ping that fails is written down
/// and fails nothing: the switch at the other end is there for exactly that.
async fn tell(env: &Env, answered: Result<()>) -> serde_json::Value {
    let url = &env.config().heartbeat.url;
    if url.is_empty() {
        return json!({"sent": false, "reason": "not_configured"});
    }
    let (signal, body) = match answered {
        Ok(()) => (Signal::Success, format!("{} runs since {}", env!("CARGO_PKG_VERSION"), rfc3339(env.started_at()))),
        Err(error) => (Signal::Fail, error.message),
    };
    let word = if signal == Signal::Success { "success" } else { "fail" };
    let outcome = ping::tell(env, url, signal, None, body);
    match tokio::time::timeout(ANSWER, outcome).await {
        Ok(Ok(Ok(()))) => json!({"sent": true, "signal": word}),
        Ok(Ok(Err(error))) => json!({"sent": false, "signal": word, "reason": error}),
        _ => json!({"sent": null, "signal": word, "reason": "still trying"}),
    }
}
