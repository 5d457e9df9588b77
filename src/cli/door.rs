//! The way to the work: a running daemon is asked over HTTP; without one the same functions run in this process, under the same
//! lock on the data directory. Both answer the same JSON. Used by every command that needs the daemon's state.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use echopilot_actors::{
    backup,
    config::{Config, Environment},
    daemon::{self, Daemon, Mode},
    env::{Clock, rfc3339},
    error::{Context as _, Error, Result},
    logging,
    operations::{keys, portal_link},
    store::Pause,
    tasks,
    timer::{self, Backfill},
};
use serde_json::{Value as Json, json};

use super::Invocation;
use crate::client::{Client, segment};

const LOOK: Duration = Duration::from_millis(50);
/// Who asks, in the journal.
pub(crate) const ASKED_BY: &str = "command line";

/// Close it when done: a daemon in this process stops in order.
#[derive(Debug)]
pub(crate) enum Door {
    Daemon(Client),
    Here(Box<Daemon>),
}

/// The client of the daemon that serves from this data directory, if one does.
pub(crate) fn running(config: &Config, environment: &Environment) -> Result<Option<Client>> {
    let Some(whereabouts) = daemon::running(&config.paths.data) else { return Ok(None) };
    let file = config.paths.data.join("dash_key");
    let key = match environment.get("DASHBOARD_KEY").map(|k| k.trim()).filter(|k| !k.is_empty()) {
        Some(key) => key.to_owned(),
        None => std::fs::read_to_string(&file)
            .context(format!("the daemon's key is needed: set DASHBOARD_KEY, or make {} readable", file.display()))?
            .trim()
            .to_owned(),
    };
    Client::new(whereabouts.address, key).map(Some)
}

impl Door {
    /// Errors: `conflict` with reason `data_directory_in_use` if another command is at work.
    pub(crate) async fn open(invocation: &Invocation) -> Result<Self> {
        let config = invocation.config()?;
        if let Some(client) = running(&config, &invocation.environment)? {
            return Ok(Self::Daemon(client));
        }
        logging::start_quiet(&config)?;
        let daemon = Daemon::start(config, &invocation.environment, Mode::Offline, Clock::default()).await?;
        Ok(Self::Here(Box::new(daemon)))
    }

    /// Ends what `open` began and hands the work's result on.
    pub(crate) async fn close<T>(self, result: Result<T>) -> Result<T> {
        if let Self::Here(daemon) = self {
            let stopped = daemon.stop().await;
            return result.and_then(|value| stopped.map(|()| value));
        }
        result
    }

    /// `{"tasks":[...]}`, each with its `last_run`.
    pub(crate) async fn tasks(&self) -> Result<Json> {
        match self {
            Self::Daemon(client) => client.get("/api/tasks").await,
            Self::Here(daemon) => {
                let mut all = timer::overview(&daemon.env).await?;
                let pauses = daemon.env.store().pauses(daemon.env.now()).await?;
                show_pauses(&mut all, &pauses);
                Ok(all)
            }
        }
    }

    /// Runs a task now and waits for its end: the run with its `result`.
    pub(crate) async fn run_task(&self, task: &str) -> Result<Json> {
        self.run_task_telling(task, &mut |_| {}).await
    }

    /// The same; what the run looks like meanwhile is told.
    pub(crate) async fn run_task_telling(&self, task: &str, tell: &mut (dyn FnMut(&Json) + Send)) -> Result<Json> {
        let run_id = match self {
            Self::Daemon(client) => {
                let accepted = client.post(&format!("/api/tasks/{}/run", segment(task)), None).await?;
                accepted["run_id"].as_str().map(str::to_owned).ok_or_else(|| Error::internal("the daemon's answer has no run_id"))?
            }
            Self::Here(daemon) => timer::run_now(&daemon.env, task, ASKED_BY).await?,
        };
        loop {
            let run = self.run(&run_id).await?;
            if !matches!(run["state"].as_str(), Some("pending" | "running")) {
                return Ok(run);
            }
            tell(&run);
            tokio::time::sleep(LOOK).await;
        }
    }

    /// `{"runs":[...]}`, newest first.
    pub(crate) async fn runs(&self, task: &str, limit: u32) -> Result<Json> {
        match self {
            Self::Daemon(client) => client.get(&format!("/api/tasks/{}/runs?limit={limit}", segment(task))).await,
            Self::Here(daemon) => {
                known(task)?;
                let rows = daemon.env.store().runs(task, None, 0, limit.into()).await?;
                Ok(json!({"ok": true, "count": rows.len(), "runs": rows.iter().map(timer::run_view).collect::<Vec<_>>(), "next": null}))
            }
        }
    }

    /// A run with its failed attempts and its `result`.
    pub(crate) async fn run(&self, run_id: &str) -> Result<Json> {
        match self {
            Self::Daemon(client) => client.get(&format!("/api/runs/{}", segment(run_id))).await,
            Self::Here(daemon) => {
                let mut run = timer::whole_run(&daemon.env, run_id).await?;
                backup::add_progress(&daemon.env, &mut run).await;
                Ok(run)
            }
        }
    }

    /// A task with its policies, its pause and its `last_run`.
    pub(crate) async fn task(&self, name: &str) -> Result<Json> {
        match self {
            Self::Daemon(client) => client.get(&format!("/api/tasks/{}", segment(name))).await,
            Self::Here(_) => {
                let all = self.tasks().await?;
                let found = all["tasks"].as_array().into_iter().flatten().find(|t| t["name"] == name);
                found.cloned().ok_or_else(|| Error::not_found(format!("there is no task called {name}")))
            }
        }
    }

    /// The task as it is after it.
    pub(crate) async fn pause(&self, name: &str, why: Option<&str>, until: Option<DateTime<Utc>>) -> Result<Json> {
        match self {
            Self::Daemon(client) => {
                let body = json!({"reason": why, "until": until.map(rfc3339)});
                client.post(&format!("/api/tasks/{}/pause", segment(name)), Some(&body)).await
            }
            Self::Here(daemon) => {
                timer::pause(&daemon.env, name, ASKED_BY, why.unwrap_or("by hand"), until).await?;
                self.task(name).await
            }
        }
    }

    /// The task as it is after it.
    pub(crate) async fn resume(&self, name: &str) -> Result<Json> {
        match self {
            Self::Daemon(client) => client.post(&format!("/api/tasks/{}/resume", segment(name)), None).await,
            Self::Here(daemon) => {
                timer::resume(&daemon.env, name, ASKED_BY).await?;
                self.task(name).await
            }
        }
    }

    /// `{"state":"cancelled|cancelling"}`.
    pub(crate) async fn cancel(&self, run_id: &str) -> Result<Json> {
        match self {
            Self::Daemon(client) => client.post(&format!("/api/runs/{}/cancel", segment(run_id)), None).await,
            Self::Here(daemon) => {
                let state = timer::cancel(&daemon.env, run_id, ASKED_BY).await?;
                Ok(json!({"ok": true, "run_id": run_id, "state": state}))
            }
        }
    }

    /// `{"slots","queued","kept","dry_run"}`. A daemon runs them by and by; without one they have run when this answers.
    pub(crate) async fn backfill(
        &self,
        name: &str,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        redo_failed: bool,
        dry_run: bool,
    ) -> Result<Json> {
        match self {
            Self::Daemon(client) => {
                let body = json!({"from": rfc3339(from), "to": rfc3339(to), "redo_failed": redo_failed, "dry_run": dry_run});
                client.post(&format!("/api/tasks/{}/backfill", segment(name)), Some(&body)).await
            }
            Self::Here(daemon) => {
                let ask = Backfill { task: name.to_owned(), from, to, redo_failed, dry_run, asked_by: ASKED_BY.to_owned() };
                let done = timer::backfill(&daemon.env, ask).await?;
                // The runs are ours: they would be cut off if this process ended now.
                while !dry_run && daemon.env.store().open_runs().await?.iter().any(|run| run.task == name) {
                    tokio::time::sleep(LOOK).await;
                }
                Ok(with_ok(serde_json::to_value(done)?))
            }
        }
    }

    /// The schedule's service level.
    pub(crate) async fn level(&self, hours: u16) -> Result<Json> {
        match self {
            Self::Daemon(client) => client.get(&format!("/api/schedule/level?hours={hours}")).await,
            Self::Here(daemon) => {
                let since = daemon.env.now() - TimeDelta::hours(hours.into());
                Ok(with_ok(serde_json::to_value(timer::level(&daemon.env, since).await?)?))
            }
        }
    }

    /// `{"backups":[...],"unrecorded":[...],"last_proof":{...}}`, newest first.
    pub(crate) async fn backups(&self) -> Result<Json> {
        match self {
            Self::Daemon(client) => client.all("/api/backups?", "backups", usize::MAX).await,
            Self::Here(daemon) => {
                let (backups, mut answer) = backup::listing(&daemon.env, false).await?;
                answer["count"] = backups.len().into();
                answer["backups"] = backups.into();
                answer["next"] = Json::Null;
                Ok(with_ok(answer))
            }
        }
    }

    /// What a backup would do now.
    pub(crate) async fn preview_backup(&self) -> Result<Json> {
        match self {
            Self::Daemon(client) => client.post("/api/backup/run", Some(&json!({"dry_run": true}))).await,
            Self::Here(daemon) => backup::preview(&daemon.env).await,
        }
    }

    /// Every archive with what the retention rules say of it; without `dry_run` those that go are gone.
    pub(crate) async fn prune(&self, dry_run: bool) -> Result<Json> {
        match self {
            Self::Daemon(client) => client.post("/api/backups/prune", Some(&json!({"dry_run": dry_run}))).await,
            Self::Here(daemon) => {
                let decisions = backup::prune(&daemon.env, dry_run).await?;
                let removed = decisions.iter().filter(|d| !d.keep).count();
                Ok(json!({"ok": true, "dry_run": dry_run, "removed": removed, "count": decisions.len(), "archives": decisions}))
            }
        }
    }

    pub(crate) async fn portal_link(&self, email: &str) -> Result<Json> {
        match self {
            Self::Daemon(client) => client.get(&format!("/api/customer/signed-url/{}", segment(email))).await,
            Self::Here(daemon) => {
                let server = &daemon.env.config().server;
                if server.public_url.is_empty() && server.listen.port() == 0 {
                    let message = "no daemon runs and server.listen has port 0, so a link would lead nowhere: start the daemon or set server.public_url";
                    return Err(Error::invalid("configuration", message));
                }
                portal_link::mint(&daemon.env, email, ASKED_BY).await
            }
        }
    }

    pub(crate) async fn keys(&self) -> Result<Json> {
        match self {
            Self::Daemon(client) => client.get("/api/keys?limit=100").await,
            Self::Here(daemon) => {
                let keys = keys::list(&daemon.env).await?;
                Ok(json!({"ok": true, "count": keys.len(), "keys": keys, "next": null}))
            }
        }
    }

    pub(crate) async fn create_key(&self, name: &str, scope: &str) -> Result<Json> {
        match self {
            Self::Daemon(client) => client.post("/api/keys", Some(&json!({"name": name, "scope": scope}))).await,
            Self::Here(daemon) => keys::create(&daemon.env, name, scope, None, ASKED_BY).await,
        }
    }

    pub(crate) async fn revoke_key(&self, id: &str) -> Result<Json> {
        match self {
            Self::Daemon(client) => client.post(&format!("/api/keys/{}/revoke", segment(id)), None).await,
            Self::Here(daemon) => keys::revoke(&daemon.env, id, ASKED_BY).await,
        }
    }
}

/// A timer that has just begun may not have read yet what is paused: the store knows.
fn show_pauses(overview: &mut Json, pauses: &[Pause]) {
    for task in overview["tasks"].as_array_mut().into_iter().flatten() {
        let pause = pauses.iter().find(|p| task["name"] == p.task.as_str());
        match task["state"].as_str() {
            Some("scheduled") if pause.is_some() => task["state"] = "paused".into(),
            Some("paused") if pause.is_none() => task["state"] = "scheduled".into(),
            _ => {}
        }
        let view = |p: &Pause| json!({"at": rfc3339(p.at), "by": p.by, "why": p.why, "until": p.until.map(rfc3339)});
        task["paused"] = pause.map_or(Json::Null, view);
    }
}

fn with_ok(mut answer: Json) -> Json {
    answer["ok"] = true.into();
    answer
}

/// Errors: `not_found` if the table has no such task.
pub(crate) fn known(task: &str) -> Result<()> {
    if tasks::table().iter().any(|t| t.name == task) {
        Ok(())
    } else {
        Err(Error::not_found(format!("there is no task called {task}; `echopilot task list` shows all")))
    }
}
