//! `echopilot run`: the daemon in the foreground, until SIGTERM or SIGINT, or until a critical part cannot be kept running.
//! Writes the ready file and the short block of what a person needs once everything serves.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use echopilot_actors::{
    config::ProviderMode,
    daemon::{Daemon, Mode},
    env::{Clock, Env, blocking},
    error::{Error, Result},
    files, logging,
    operations::demo,
};
use serde_json::{Value as Json, json};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    Invocation,
    exit::Outcome,
    guard::Guard,
    output::{Progress, say},
    systemd,
};

#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Arguments {
    /// Fill the built-in sandbox with a year of a small business, so that every page has something true to show.
    #[arg(long)]
    pub(crate) demo: bool,
    /// Another year than the usual one: the same number gives the same customers, amounts and days.
    #[arg(long, value_name = "N", default_value_t = demo::SEED, requires = "demo")]
    pub(crate) demo_seed: u64,
    /// A shorter story, for tests.
    #[arg(long, value_name = "N", default_value_t = demo::DAYS, requires = "demo", hide = true, value_parser = clap::value_parser!(i64).range(40..=365))]
    pub(crate) demo_days: i64,
    /// Write one line of JSON to this file when everything serves: pid, address, sandbox_address, dash_key_file.
    #[arg(long, value_name = "PATH")]
    pub(crate) ready_file: Option<PathBuf>,
}

/// Serves until it is told to stop.
pub(crate) async fn run(invocation: &Invocation, arguments: Arguments) -> Result<Outcome> {
    let config = invocation.config()?;
    if arguments.demo && config.provider.mode != ProviderMode::Sandbox {
        let mode = config.provider.mode.as_str();
        return Err(Error::invalid(
            "configuration",
            format!(
                "--demo makes up payments and works in sandbox mode only, but the provider mode is {mode}: leave out --demo or unset STRIPE_MODE"
            ),
        ));
    }
    let mut signals = Signals::listen()?;
    if let Some(path) = &arguments.ready_file {
        let _ = std::fs::remove_file(path); // one that is left over would speak for a daemon that is gone
    }
    logging::start(&config)?;
    let _guard = Guard::start(tokio::runtime::Handle::current(), systemd::time_to_heal(&config.supervisor))?;
    let daemon = tokio::select! {
        started = Daemon::start(config, &invocation.environment, Mode::Serve, Clock::default()) => started?,
        () = signals.next() => return Ok(Outcome::Fine),
    };
    let ended = tokio::select! {
        ended = serve(&daemon, &arguments) => ended,
        () = signals.next() => Ok(Outcome::Fine),
        () = systemd::feed(&daemon.env) => Ok(Outcome::Fine), // it never ends
    };
    systemd::stopping(daemon.stop_limit());
    if let Some(path) = &arguments.ready_file {
        let _ = std::fs::remove_file(path); // never written or already gone is fine
    }
    tokio::select! {
        stopped = daemon.stop() => stopped?,
        () = signals.next() => {
            tracing::warn!("a second signal: leaving at once");
            std::process::exit(130);
        }
    }
    ended
}

/// Fills, announces, and waits for the end of a critical part.
async fn serve(daemon: &Daemon, arguments: &Arguments) -> Result<Outcome> {
    let story = if arguments.demo {
        Some(tell(&daemon.env, demo::Plot { seed: arguments.demo_seed, days: arguments.demo_days }).await?)
    } else {
        None
    };
    if let Some(path) = arguments.ready_file.clone() {
        let env = &daemon.env;
        let line = ready_line(env.server_address(), env.sandbox_address(), env.secrets().dash_key_file.as_deref());
        let line = format!("{line}\n");
        blocking(move || files::replace(&path, line.as_bytes(), files::MODE_REPORT)).await?;
    }
    systemd::ready();
    say(block(&daemon.env, story.as_deref()));
    let why = daemon.fatal().await;
    eprintln!("echopilot: {why}; stopping");
    Ok(Outcome::Fatal)
}

/// Makes the demo's business and says in one sentence what there is now.
async fn tell(env: &Env, plot: demo::Plot) -> Result<String> {
    let progress = Progress::new("a small business, day by day");
    let told = demo::seed(env, plot, &|day, days| progress.at(day, days)).await.map_err(|e| e.context("the demo could not be made"))?;
    drop(progress);
    Ok(told.to_string())
}

/// What scripts read: addresses as `127.0.0.1:PORT`; null where there is none.
fn ready_line(address: SocketAddr, sandbox_address: Option<SocketAddr>, dash_key_file: Option<&Path>) -> Json {
    json!({
        "pid": std::process::id(),
        "address": address.to_string(),
        "sandbox_address": sandbox_address.map(|a| a.to_string()),
        "dash_key_file": dash_key_file,
    })
}

/// The short block on standard output.
fn block(env: &Env, story: Option<&str>) -> String {
    let mode = match env.config().provider.mode {
        ProviderMode::Sandbox => "TEST MODE, built-in sandbox: no money moves".to_owned(),
        ProviderMode::Test => "TEST MODE, the provider's test data: no money moves".to_owned(),
        ProviderMode::Live => "LIVE MODE: real money".to_owned(),
    };
    let key = match &env.secrets().dash_key_file {
        Some(path) => format!("in {}", path.display()),
        None => "from DASHBOARD_KEY".to_owned(),
    };
    let mut lines = vec![
        format!("EchoPilot {} is ready. {mode}", env!("CARGO_PKG_VERSION")),
        format!("  dashboard  http://{}/", env.server_address()),
        format!("  key        {key}"),
    ];
    lines.extend(env.sandbox_address().map(|address| format!("  sandbox    http://{address}")));
    lines.extend(story.map(|story| format!("  demo       {story}")));
    lines.join("\n")
}

/// The signals that end the daemon.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_is_one_line_with_null_where_there_is_nothing() {
        let (server, sandbox) = ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
        let pid = std::process::id();
        let all = ready_line(server, Some(sandbox), Some(Path::new("data/dash_key"))).to_string();
        assert_eq!(
            all,
            format!(r#"{{"pid":{pid},"address":"127.0.0.1:1","sandbox_address":"127.0.0.1:2","dash_key_file":"data/dash_key"}}"#)
        );
        let least = ready_line(server, None, None);
        assert!(least["sandbox_address"].is_null() && least["dash_key_file"].is_null());
    }
}
