//! `echopilot check`: what would fail at the start, before it does. One line per thing looked at, each with what to do. It changes
//! nothing: secrets that the first start would make are not made here.

use std::{
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use echopilot_actors::{
    backup,
    channels::{self, Channel},
    config::{Config, ProviderMode, Secrets},
    daemon,
    domain::archive::date_of_archive,
    error::{Error, Result},
    providers::stripe::{Client, Lacking},
    store::{MIGRATIONS, database_file},
};
use secrecy::ExposeSecret as _;
use serde::Serialize;
use serde_json::json;

use super::{
    Invocation, exit,
    exit::Outcome,
    output::{state, table},
};

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    name: String,
    /// `ok` or `fail`.
    state: &'static str,
    /// What was found; for a failure also what to do.
    detail: String,
}

fn fine(name: &str, detail: impl Into<String>) -> Finding {
    Finding { name: name.to_owned(), state: "ok", detail: detail.into() }
}

fn fail(name: &str, detail: impl Into<String>) -> Finding {
    Finding { name: name.to_owned(), state: "fail", detail: detail.into() }
}

pub(crate) async fn run(invocation: &Invocation) -> Result<Outcome> {
    let mut findings = Vec::new();
    let mut broken = false;
    match invocation.config() {
        Ok(config) => {
            findings.push(fine("configuration", format!("valid; provider mode {}", config.provider.mode.as_str())));
            findings.extend(directories(&config));
            findings.extend(backups(&config));
            findings.extend(addresses(&config));
            findings.push(database(&config));
            findings.extend(secret_files(&config));
            match environment_secrets(invocation, &config) {
                Ok(secrets) => {
                    findings.push(provider(&config, &secrets).await);
                    findings.push(told_by(&config, &secrets));
                }
                Err(error) => {
                    broken = error.reason == "configuration";
                    findings.push(fail("secrets", error.message));
                }
            }
        }
        Err(error) => {
            broken = true;
            findings.extend(error.message.split("; ").map(|problem| fail("configuration", problem)));
        }
    }
    let ok = findings.iter().all(|f| f.state == "ok");
    let answer = json!({"ok": ok, "checks": findings});
    invocation.print(&answer, || {
        let rows: Vec<Vec<String>> = findings.iter().map(|f| vec![state(f.state), f.name.clone(), f.detail.clone()]).collect();
        table(&["STATE", "WHAT", "FOUND"], &rows)
    });
    Ok(if broken { Outcome::Error(exit::CONFIGURATION) } else { Outcome::of(ok) })
}

fn directories(config: &Config) -> Vec<Finding> {
    let paths = &config.paths;
    let named = [("data", &paths.data), ("logs", &paths.logs), ("backups", &paths.backups)];
    named.iter().map(|(name, path)| directory(&format!("directory {name}"), path)).collect()
}

/// A file can be written in it, or it can be made.
fn directory(name: &str, path: &Path) -> Finding {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let Some(existing) = whole.ancestors().find(|p| p.exists()) else { return fail(name, format!("{} cannot be found", path.display())) };
    match tempfile::tempfile_in(existing) {
        Ok(_) if existing == whole => fine(name, format!("{} can be written", path.display())),
        Ok(_) => fine(name, format!("{} will be made at the first start", path.display())),
        Err(error) => {
            let key = name.rsplit(' ').next().unwrap_or(name);
            let what = format!("{} cannot be written: {error}; make it writable for this user or set paths.{key}", existing.display());
            fail(name, what)
        }
    }
}

/// What the next backup needs: a folder to write to, recipients that are some, folders that are there, room on the disk.
fn backups(config: &Config) -> Vec<Finding> {
    let folder = config.paths.backups.join("daily");
    let mut findings = Vec::new();
    if folder.exists()
        && let Err(error) = tempfile::tempfile_in(&folder)
    {
        findings
            .push(fail("directory backups", format!("{} cannot be written: {error}; make it writable for this user", folder.display())));
    }
    let sizes = std::fs::read_dir(&folder).into_iter().flatten().flatten().filter_map(|entry| {
        let date = date_of_archive(&entry.file_name().to_string_lossy())?;
        Some((date, entry.metadata().ok()?.len()))
    });
    let last = sizes.max().map(|(_, bytes)| bytes);
    findings.extend(backup::outlook(config, last).into_iter().map(|outlook| match outlook.found {
        Ok(found) => fine(outlook.what, found),
        Err(problem) => fail(outlook.what, problem),
    }));
    findings
}

fn addresses(config: &Config) -> Vec<Finding> {
    if let Some(running) = daemon::running(&config.paths.data) {
        return vec![fine("addresses", format!("a daemon runs here as process {} on {}", running.pid, running.address))];
    }
    let mut findings = vec![address("server.listen", config.server.listen)];
    if config.provider.mode == ProviderMode::Sandbox {
        findings.push(address("sandbox.listen", config.sandbox.listen));
    }
    findings
}

fn address(key: &str, address: SocketAddr) -> Finding {
    match TcpListener::bind(address) {
        Ok(_) => fine(key, if address.port() == 0 { format!("{address}: a free port is picked") } else { format!("{address} is free") }),
        Err(error) => fail(key, format!("{address}: {error}; stop what uses it or set {key} to another port")),
    }
}

fn database(config: &Config) -> Finding {
    let (name, path) = ("database", config.database_path());
    if !path.exists() {
        return fine(name, format!("{} will be made at the first start", path.display()));
    }
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let looked = database_file::schema_version(&path).and_then(|version| database_file::check_integrity(&path).map(|()| version));
    match looked {
        Ok(version) if version > known => {
            fail(name, format!("{} has schema {version}, this program knows {known}: use the newer program", path.display()))
        }
        Ok(version) => fine(name, format!("{} is whole, schema {version} of {known}", path.display())),
        Err(error) => {
            let what = format!("{}: {error}; move it away, or restore one with `echopilot backup restore`", path.display());
            fail(name, what)
        }
    }
}

/// Secrets on disk are for the daemon's user alone.
/// Which ways of telling a person are on.
fn told_by(config: &Config, secrets: &Secrets) -> Finding {
    let mail = Channel::named("email").map(|channel| channel.missing(config, secrets)).unwrap_or_default();
    if !config.channels.email.host.is_empty() && !mail.is_empty() {
        return fail("channels", format!("e-mail has a server and still needs {}", mail.join(", ")));
    }
    let on: Vec<&str> = channels::ALL.iter().filter(|channel| channel.is_on(config, secrets)).map(|channel| channel.name).collect();
    match on.as_slice() {
        [] => fine("channels", "none is on: alerts are shown here and told to nobody (docs/channels.md)"),
        on => fine("channels", format!("on: {}", on.join(", "))),
    }
}

fn secret_files(config: &Config) -> Vec<Finding> {
    let names = ["dash_key", "portal_secret", "cookie_secret", "webhook_secret", "links_secret", "push_key"];
    let findings = names.iter().filter_map(|name| {
        let path = config.paths.data.join(name);
        let mode = std::fs::metadata(&path).ok()?.permissions().mode() & 0o777;
        let shown = path.display();
        Some(if mode & 0o077 != 0 {
            fail(
                name,
                format!(
                    "{shown} can be read by others (mode {mode:o}): chmod 600 {shown}, and replace the secret if it may have been read"
                ),
            )
        } else if std::fs::read_to_string(&path).is_ok_and(|text| text.trim().is_empty()) {
            fail(name, format!("{shown} is empty: remove it and a new one is made, or restore it"))
        } else {
            fine(name, format!("{shown}, mode {mode:o}"))
        })
    });
    findings.collect()
}

/// The secrets as the start would find them, with a scratch folder in place of the data directory for those it would make.
fn environment_secrets(invocation: &Invocation, config: &Config) -> Result<Secrets> {
    let scratch = tempfile::tempdir()?;
    let mut config = config.clone();
    scratch.path().clone_into(&mut config.paths.data);
    Secrets::load(&config, &invocation.environment)
}

/// Reachable, the key accepted, and what it lacks, found out by reads that change nothing.
async fn provider(config: &Config, secrets: &Secrets) -> Finding {
    let name = "provider";
    if config.provider.mode == ProviderMode::Sandbox {
        return fine(name, "built in: the sandbox, no money moves");
    }
    let asked = async {
        let http = Client::http_client()?;
        Client::new(&config.provider.base_url, secrets.provider.expose_secret(), http).lacking_permissions().await
    };
    let base = &config.provider.base_url;
    match asked.await {
        Ok(lacking) if lacking.is_empty() => {
            fine(name, format!("{base} answers, accepts the key and lets it read all that is needed (what it may write is not tried)"))
        }
        Ok(lacking) => {
            let named = |l: &Lacking| l.permission.as_ref().map_or_else(|| l.resource.to_owned(), |p| format!("{} ({p})", l.resource));
            let all: Vec<String> = lacking.iter().map(named).collect();
            fail(
                name,
                format!("{base} accepts the key, which lacks permissions: {}; give them to it in the provider's dashboard", all.join(", ")),
            )
        }
        Err(Error { code: echopilot_actors::error::Code::Forbidden, message, .. }) => {
            fail(name, format!("{base} refuses the key: {message}; check STRIPE_SECRET_KEY"))
        }
        Err(error) => fail(name, format!("{base}: {error}; check the network and provider.base_url")),
    }
}
