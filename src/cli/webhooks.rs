//! `echopilot webhooks`: the events that were received, one of them whole, processing them again, and what the provider had told that
//! never came. With a running daemon it is asked; without one the work is done here.

use std::time::Duration;

use chrono::{DateTime, Utc};
use echopilot_actors::{
    error::{Error, Result},
    ingest,
    operations::replay_events::{self, Which},
    store::EventFilter,
};
use serde_json::{Value as Json, json};

use super::{
    Invocation,
    door::{ASKED_BY, Door},
    exit::Outcome,
    output::{state, table, text},
    task::members,
};
use crate::client::segment;

/// Without a daemon nobody else does the work: it has this long.
const HERE: Duration = Duration::from_mins(5);
const LOOK: Duration = Duration::from_millis(50);
const STATUSES: [&str; 4] = ["received", "processed", "failed", "ignored"];

/// Which events.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct Chosen {
    /// Of this type, e.g. charge.succeeded.
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    #[arg(long, value_parser = STATUSES)]
    status: Option<String>,
    /// About this object, e.g. ch_...
    #[arg(long, value_name = "ID")]
    object_id: Option<String>,
    /// Received at or after, e.g. 2026-03-01T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    since: Option<DateTime<Utc>>,
    /// Received before.
    #[arg(long, value_name = "TIME")]
    until: Option<DateTime<Utc>>,
    /// At most so many, newest first.
    #[arg(long, short = 'n', value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub(crate) enum Command {
    /// List what was received, newest first.
    List(Chosen),
    /// Show one event with the body that was delivered.
    Show {
        /// Its id, evt_...
        id: String,
    },
    /// Process events again: those named, or those that a filter chooses. What was processed already changes nothing.
    Replay {
        /// Their ids, evt_...
        ids: Vec<String>,
        #[command(flatten)]
        chosen: Chosen,
        /// Only say which.
        #[arg(long)]
        dry_run: bool,
    },
    /// Compare what was received with the provider's own list now, and fill what is missing.
    Gaps {
        /// Only say what is missing.
        #[arg(long)]
        dry_run: bool,
    },
}

pub(crate) async fn run(invocation: &Invocation, command: Command) -> Result<Outcome> {
    if let Command::Replay { ids, chosen, .. } = &command {
        let by_filter = Chosen { limit: None, ..chosen.clone() } != Chosen::default();
        if ids.is_empty() != by_filter {
            return Err(Error::invalid(
                "usage",
                "say which events: either their ids, or --type, --status, --object-id, --since or --until",
            ));
        }
    }
    let door = Door::open(invocation).await?;
    let result = through(&door, invocation, command).await;
    door.close(result).await
}

async fn through(door: &Door, invocation: &Invocation, command: Command) -> Result<Outcome> {
    match command {
        Command::List(chosen) => {
            let answer = list(door, &chosen).await?;
            invocation.print(&answer, || events(&answer, "webhooks"));
        }
        Command::Show { id } => {
            let answer = show(door, &id).await?;
            invocation.print(&answer, || serde_json::to_string_pretty(&answer["webhook"]).unwrap_or_default());
        }
        Command::Replay { ids, chosen, dry_run } => {
            let answer = replay(door, ids, &chosen, dry_run).await?;
            let said = if dry_run { "would be processed again" } else { "are processed again" };
            let count = if dry_run { &answer["matched"] } else { &answer["replayed"] };
            invocation.print(&answer, || format!("{}\n{count} {said}", events(&answer, "events")));
        }
        Command::Gaps { dry_run } => {
            let answer = scan(door, dry_run).await?;
            let left = answer["last"]["not_filled"].as_u64().unwrap_or(0);
            invocation.print(&answer, || found(&answer));
            return Ok(Outcome::of(left == 0));
        }
    }
    Ok(Outcome::Fine)
}

async fn list(door: &Door, chosen: &Chosen) -> Result<Json> {
    match door {
        Door::Daemon(client) => client.get(&format!("/api/payments/webhooks?{}", chosen.query())).await,
        Door::Here(daemon) => {
            let rows = daemon.env.store().events(&chosen.filter(20)).await?;
            let webhooks: Vec<Json> = rows.iter().map(replay_events::view).collect();
            Ok(json!({"ok": true, "count": webhooks.len(), "webhooks": webhooks, "next": null}))
        }
    }
}

async fn show(door: &Door, id: &str) -> Result<Json> {
    match door {
        Door::Daemon(client) => client.get(&format!("/api/payments/webhooks/{}", segment(id))).await,
        Door::Here(daemon) => {
            let found = daemon.env.store().event(id).await?;
            let (event, body) = found.ok_or_else(|| Error::not_found(format!("there is no event {id}")))?;
            let mut webhook = replay_events::view(&event);
            webhook["body"] = serde_json::from_str(&body).unwrap_or(Json::String(body));
            Ok(json!({"ok": true, "webhook": webhook}))
        }
    }
}

async fn replay(door: &Door, ids: Vec<String>, chosen: &Chosen, dry_run: bool) -> Result<Json> {
    match door {
        Door::Daemon(client) if ids.is_empty() => {
            let mut body = json!({"limit": chosen.limit.unwrap_or(100), "dry_run": dry_run});
            for (name, value) in chosen.members() {
                body[name] = value.into();
            }
            client.post("/api/payments/webhooks/replay", Some(&body)).await
        }
        Door::Daemon(client) => {
            let (mut events, mut replayed, mut waiting) = (Vec::new(), 0, 0);
            for id in &ids {
                let path = format!("/api/payments/webhooks/{}/replay", segment(id));
                let answer = client.post(&path, Some(&json!({"dry_run": dry_run}))).await?;
                replayed += answer["replayed"].as_u64().unwrap_or(0);
                waiting += answer["waiting"].as_u64().unwrap_or(0);
                events.extend(members(&answer, "events").cloned());
            }
            let matched = events.len();
            Ok(json!({"ok": true, "matched": matched, "replayed": replayed, "waiting": waiting, "dry_run": dry_run, "events": events}))
        }
        Door::Here(daemon) => {
            let which = if ids.is_empty() { Which::Filter(chosen.filter(100)) } else { Which::Ids(ids) };
            let answer = replay_events::replay(&daemon.env, &which, dry_run, ASKED_BY).await?;
            // They are processed by this process: they would wait for the next one if it ended now.
            let start = std::time::Instant::now();
            while !dry_run && start.elapsed() < HERE && daemon.env.store().overdue_events(daemon.env.now(), daemon.env.now()).await?.0 > 0 {
                tokio::time::sleep(LOOK).await;
            }
            Ok(answer)
        }
    }
}

async fn scan(door: &Door, dry_run: bool) -> Result<Json> {
    match door {
        Door::Daemon(client) => {
            let mut answer = client.post("/api/payments/gaps/scan", Some(&json!({"dry_run": dry_run}))).await?;
            while answer["state"] == "scanning" {
                tokio::time::sleep(LOOK * 10).await;
                answer = client.get("/api/payments/gaps?limit=1").await?;
            }
            Ok(answer)
        }
        Door::Here(daemon) => {
            let last = ingest::scan(&daemon.env, dry_run, HERE).await?;
            Ok(json!({"ok": true, "state": "done", "last": last}))
        }
    }
}

impl Chosen {
    fn members(&self) -> Vec<(&'static str, String)> {
        let time = |at: &DateTime<Utc>| at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        let all = [
            ("type", self.event_type.clone()),
            ("status", self.status.clone()),
            ("object_id", self.object_id.clone()),
            ("since", self.since.as_ref().map(time)),
            ("until", self.until.as_ref().map(time)),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    fn query(&self) -> String {
        let limit = self.limit.unwrap_or(20).min(100).to_string();
        let pairs = self.members().into_iter().chain([("limit", limit)]);
        pairs.map(|(name, value)| format!("{name}={}", segment(&value))).collect::<Vec<_>>().join("&")
    }

    fn filter(&self, limit: u16) -> EventFilter {
        let micros = |at: Option<DateTime<Utc>>| at.map_or(0, |at| at.timestamp_micros());
        EventFilter {
            event_type: self.event_type.clone().unwrap_or_default(),
            status: self.status.clone().unwrap_or_default(),
            object_id: self.object_id.clone().unwrap_or_default(),
            since: micros(self.since),
            until: micros(self.until),
            limit: self.limit.unwrap_or(limit).into(),
            ..EventFilter::default()
        }
    }
}

fn events(answer: &Json, member: &str) -> String {
    let row = |e: &Json| {
        let [id, kind, object, received, tries] = ["event_id", "event_type", "object_id", "received_at", "attempts"].map(|m| text(e, m));
        vec![id, kind, state(&text(e, "status")), object, received, tries, text(e, "error").chars().take(60).collect()]
    };
    let rows: Vec<Vec<String>> = members(answer, member).map(row).collect();
    if rows.is_empty() {
        "no such events".to_owned()
    } else {
        table(&["EVENT", "TYPE", "STATUS", "OBJECT", "RECEIVED", "TRIES", "ERROR"], &rows)
    }
}

fn found(answer: &Json) -> String {
    let last = &answer["last"];
    let row = |g: &Json| ["id", "class", "event_type", "object_id", "state", "error"].map(|m| text(g, m)).to_vec();
    let rows: Vec<Vec<String>> = members(last, "gaps").map(row).collect();
    let number = |name: &str| last[name].as_u64().unwrap_or(0);
    let summary = format!(
        "looked at {} events: {} never delivered, {} failed here, {} objects changed outside; {} could not be filled",
        number("looked_at"),
        number("never_delivered"),
        number("failed_here"),
        number("changed_outside"),
        number("not_filled")
    );
    if rows.is_empty() { summary } else { format!("{}\n{summary}", table(&["ID", "CLASS", "TYPE", "OBJECT", "STATE", "ERROR"], &rows)) }
}
