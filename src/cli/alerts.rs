//! `echopilot alerts`: what is wrong, what happened, and what is said about it. A running daemon is asked; without one the store is.

use chrono::{DateTime, Utc};
use echopilot_actors::{
    alert::{self, NewSilence, Response},
    domain::notify::Matcher,
    env::rfc3339,
    error::{Error, Result},
    store::AlertEventFilter,
};
use serde_json::{Value as Json, json};

use super::{
    Invocation,
    door::{ASKED_BY, Door},
    exit::Outcome,
    output::{state, table, text},
    replay,
    task::{future, members, past},
};
use crate::client::segment;

#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub(crate) enum Command {
    /// List them; the exit code is 1 if one fires.
    List {
        /// firing, pending, resolved, acknowledged or all; without it what goes on.
        #[arg(long, default_value = "")]
        state: String,
        /// info, warning or critical.
        #[arg(long, default_value = "")]
        severity: String,
    },
    /// Show one with its timeline and every message about it.
    Show { id: String },
    /// You look after it: not told again until it is over or gets worse.
    Ack {
        id: String,
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Take an acknowledgement back.
    Unack { id: String },
    /// Not told again for a while, unless it gets worse.
    Snooze {
        id: String,
        /// A time, or how long: 30m, 2h.
        #[arg(long, value_name = "WHEN", default_value = "1h", value_parser = future)]
        until: DateTime<Utc>,
    },
    /// What happened to alerts.
    History {
        /// From when: a time, or how long ago.
        #[arg(long, value_name = "WHEN", default_value = "7d", value_parser = past)]
        since: DateTime<Utc>,
        /// Only of this rule.
        #[arg(long, default_value = "")]
        name: String,
        #[arg(long, short = 'n', default_value_t = 50)]
        limit: u8,
    },
    /// List silences.
    Silences,
    /// Nobody is told about alerts that all matchers match: system=backup, alertname!=disk, probe=~"shop.*".
    Silence {
        #[arg(required = true)]
        matchers: Vec<String>,
        #[arg(long)]
        reason: String,
        /// A time, or how long: 2h, 1d.
        #[arg(long, value_name = "WHEN", value_parser = future)]
        until: DateTime<Utc>,
        #[arg(long, default_value = ASKED_BY)]
        author: String,
    },
    /// End a silence before its time.
    Unsilence { id: String },
    /// When rules would have fired on what was recorded.
    Replay(replay::Arguments),
}

pub(crate) async fn run(invocation: &Invocation, command: Command) -> Result<Outcome> {
    if let Command::Replay(arguments) = command {
        return replay::run(invocation, arguments).await;
    }
    let door = Door::open(invocation).await?;
    let result = answer(&door, &command).await;
    let answer = door.close(result).await?;
    invocation.print(&answer, || match &command {
        Command::List { .. } => list(&answer),
        Command::Show { .. } => show(&answer),
        Command::History { .. } => history(&answer),
        Command::Silences => silences(members(&answer, "silences")),
        Command::Silence { .. } | Command::Unsilence { .. } => silences(std::iter::once(&answer["silence"])),
        _ => one(&answer["alert"]),
    });
    let fires = matches!(command, Command::List { .. }) && members(&answer, "alerts").any(|a| a["state"] == "firing");
    Ok(Outcome::of(!fires))
}

async fn answer(door: &Door, command: &Command) -> Result<Json> {
    match door {
        Door::Daemon(client) => {
            let alert = |id: &str, verb: &str| format!("/api/alerts/{}/{verb}", segment(id));
            match command {
                Command::List { state, severity } => {
                    client.all(&format!("/api/alerts?state={}&severity={}", segment(state), segment(severity)), "alerts", usize::MAX).await
                }
                Command::Show { id } => client.get(&format!("/api/alerts/{}", segment(id))).await,
                Command::Ack { id, note } => client.post(&alert(id, "ack"), Some(&json!({"note": note}))).await,
                Command::Unack { id } => client.post(&alert(id, "unack"), None).await,
                Command::Snooze { id, until } => client.post(&alert(id, "snooze"), Some(&json!({"until": rfc3339(*until)}))).await,
                Command::History { since, name, limit } => {
                    let since = segment(&rfc3339(*since));
                    client.get(&format!("/api/alerts/history?since={since}&name={}&limit={limit}", segment(name))).await
                }
                Command::Silences => client.all("/api/silences?", "silences", usize::MAX).await,
                Command::Silence { matchers, reason, until, author } => {
                    let body = json!({"matchers": matchers, "reason": reason, "ends_at": rfc3339(*until), "author": author});
                    client.post("/api/silences", Some(&body)).await
                }
                Command::Unsilence { id } => client.post(&format!("/api/silences/{}/end", segment(id)), None).await,
                Command::Replay(_) => Err(Error::internal("a replay has its own way")),
            }
        }
        Door::Here(daemon) => {
            let env = &daemon.env;
            let answered = |alert: Json| json!({"ok": true, "alert": alert});
            match command {
                Command::List { state, severity } => {
                    let alerts = alert::overview(env, state, severity).await?;
                    Ok(json!({"ok": true, "count": alerts.len(), "alerts": alerts, "next": null}))
                }
                Command::Show { id } => alert::get(env, id).await,
                Command::Ack { id, note } => {
                    alert::respond(env, id, Response::Acknowledge { note: note.clone() }, ASKED_BY).await.map(answered)
                }
                Command::Unack { id } => alert::respond(env, id, Response::Unacknowledge, ASKED_BY).await.map(answered),
                Command::Snooze { id, until } => alert::respond(env, id, Response::Snooze { until: *until }, ASKED_BY).await.map(answered),
                Command::History { since, name, limit } => {
                    let filter = AlertEventFilter { since: Some(*since), name: name.clone(), ..AlertEventFilter::default() };
                    let (events, next) = alert::history(env, &filter, usize::from(*limit)).await?;
                    Ok(json!({"ok": true, "count": events.len(), "events": events, "next": next}))
                }
                Command::Silences => {
                    let silences = alert::silences(env).await?;
                    Ok(json!({"ok": true, "count": silences.len(), "silences": silences, "next": null}))
                }
                Command::Silence { matchers, reason, until, author } => {
                    let parsed = matchers.iter().map(|m| Matcher::parse(m)).collect::<Result<Vec<_>, _>>();
                    let matchers = parsed.map_err(|why| Error::field("matchers", why))?;
                    let (author, reason) = (author.clone(), reason.clone());
                    let new = NewSilence { matchers, starts_at: None, ends_at: *until, author, reason };
                    Ok(json!({"ok": true, "silence": alert::silence(env, new).await?}))
                }
                Command::Unsilence { id } => Ok(json!({"ok": true, "silence": alert::end_silence(env, id, ASKED_BY).await?})),
                Command::Replay(_) => Err(Error::internal("a replay has its own way")),
            }
        }
    }
}

fn list(answer: &Json) -> String {
    let rows: Vec<_> = members(answer, "alerts")
        .map(|a| {
            let mut how = text(a, "state");
            if !a["acknowledged"].is_null() {
                how.push_str(", acknowledged");
            }
            if !a["effect_of"].is_null() {
                how.push_str(", follows from another");
            }
            if !a["waits_for"].is_null() {
                how.push_str(", waits for another");
            }
            vec![state(&text(a, "severity")), text(a, "id"), text(a, "name"), how, text(a, "since"), text(a, "reason")]
        })
        .collect();
    if rows.is_empty() { "Nothing is wrong.".to_owned() } else { table(&["", "id", "alert", "state", "since", "why"], &rows) }
}

fn one(a: &Json) -> String {
    let mut lines = vec![format!("{} ({}), {}: {}", text(a, "name"), text(a, "severity"), text(a, "state"), text(a, "reason"))];
    for name in ["id", "episode", "since", "until", "value", "threshold", "snoozed_until", "maintenance", "owner", "runbook"] {
        if !a[name].is_null() {
            lines.push(format!("{name:<16}{}", text(a, name)));
        }
    }
    if let Some(by) = a["acknowledged"]["by"].as_str() {
        lines.push(format!("{:<16}by {by}: {}", "acknowledged", text(&a["acknowledged"], "note")));
    }
    lines.join("\n")
}

fn show(answer: &Json) -> String {
    let mut lines = vec![one(&answer["alert"])];
    lines.extend(members(answer, "timeline").map(|e| format!("{}  {}", text(e, "at"), text(e, "kind"))));
    lines.extend(members(answer, "deliveries").map(|d| {
        format!("{}  {} over {}: {} ({})", text(d, "created_at"), text(d, "kind"), text(d, "channel"), text(d, "title"), text(d, "state"))
    }));
    lines.join("\n")
}

fn history(answer: &Json) -> String {
    let rows: Vec<_> = members(answer, "events")
        .map(|e| vec![text(e, "at"), text(e, "kind"), text(e, "episode"), text(&e["detail"], "name"), text(&e["detail"], "reason")])
        .collect();
    if rows.is_empty() { "Nothing happened.".to_owned() } else { table(&["at", "what", "episode", "alert", "why"], &rows) }
}

fn silences<'a>(all: impl Iterator<Item = &'a Json>) -> String {
    let rows: Vec<_> = all
        .map(|s| {
            let matches: Vec<&str> = s["matches"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
            vec![text(s, "state"), text(s, "id"), matches.join(" and "), text(s, "ends_at"), text(s, "author"), text(s, "reason")]
        })
        .collect();
    if rows.is_empty() { "Nothing is silenced.".to_owned() } else { table(&["", "id", "matches", "until", "by", "why"], &rows) }
}
