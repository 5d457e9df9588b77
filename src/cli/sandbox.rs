//! `echopilot sandbox`: what the built-in sandbox of the running daemon can be told that the real provider cannot. It speaks to the
//! sandbox's own address, which the daemon's note in the data directory names, and never to a real provider.

use std::{net::SocketAddr, time::Duration};

use echopilot_actors::{
    daemon,
    env::rfc3339,
    error::{Code, Error, Result},
};
use reqwest::Method;
use serde_json::{Map, Value as Json, json};

use super::{
    Invocation,
    exit::Outcome,
    output::{table, text},
    task::members,
};

/// A year with its webhooks takes a while.
const LONGEST: Duration = Duration::from_mins(30);

#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub(crate) enum Command {
    /// Show the faults that are switched on, or change some: `chaos drop_webhook=0.2 skew_amount=1`.
    Chaos {
        /// NAME=VALUE: a probability from 0 to 1, or how many of the next objects or calls to hit, or a time; 0 switches off.
        #[arg(value_name = "NAME=VALUE", value_parser = switch)]
        switches: Vec<(String, String)>,
    },
    /// Show the virtual clock, or move it.
    Clock {
        #[command(subcommand)]
        change: Option<ClockChange>,
    },
    /// Open a dispute over a charge, or decide the one that is open.
    Dispute {
        /// The charge's id.
        charge: String,
        /// What the bank says in the end, or that it has not said it yet.
        #[arg(long, default_value = "open", value_parser = ["open", "won", "lost"])]
        outcome: String,
    },
    /// Forget everything but the daemon's webhook endpoint; the clock shows real time again. The daemon's own ledger is not touched.
    Reset,
    /// List the newest events, or show every delivery of one with its tries.
    Events {
        /// The event's id.
        id: Option<String>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub(crate) enum ClockChange {
    /// Move the clock forward and wait until everything that fell due was done and delivered.
    Advance {
        /// How far: 45s, 90m, 2h, 3d.
        #[arg(value_parser = length)]
        length: i64,
    },
}

fn switch(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a switch is set as NAME=VALUE")?;
    if value.parse::<f64>().is_err() {
        return Err(format!("'{value}' is not a number"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Seconds.
fn length(text: &str) -> std::result::Result<i64, String> {
    let seconds = || {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let unit = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return None,
        };
        number.parse::<u32>().ok().map(|number| i64::from(number) * unit)
    };
    seconds().ok_or_else(|| format!("'{text}' is not a length like 45s, 90m, 2h or 3d"))
}

pub(crate) async fn run(invocation: &Invocation, command: Command) -> Result<Outcome> {
    let control = Control::of(invocation)?;
    match command {
        Command::Chaos { switches } => {
            let answer = match changes(&switches)? {
                Json::Null => control.call(Method::GET, "chaos", None).await?,
                changes => control.call(Method::PUT, "chaos", Some(&changes)).await?,
            };
            invocation.print(&answer, || faults(&answer));
        }
        Command::Clock { change: None } => {
            let answer = control.call(Method::GET, "clock", None).await?;
            invocation.print(&answer, || clock(&answer));
        }
        Command::Clock { change: Some(ClockChange::Advance { length }) } => {
            let answer = control.call(Method::POST, "clock", Some(&json!({ "advance_seconds": length }))).await?;
            invocation.print(&answer, || clock(&answer));
        }
        Command::Dispute { charge, outcome } => {
            let answer = control.call(Method::POST, "dispute", Some(&json!({ "charge": charge, "outcome": outcome }))).await?;
            invocation.print(&answer, || format!("{} of {charge} is {}", text(&answer, "id"), text(&answer, "status")));
        }
        Command::Reset => {
            let answer = control.call(Method::POST, "reset", None).await?;
            invocation.print(&answer, || "the sandbox is empty; the daemon's own ledger keeps what it heard".to_owned());
        }
        Command::Events { id: None } => {
            let answer = control.call(Method::GET, "events", None).await?;
            invocation.print(&answer, || events(&answer));
        }
        Command::Events { id: Some(id) } => {
            let answer = control.call(Method::GET, &format!("events/{}", crate::client::segment(&id)), None).await?;
            invocation.print(&answer, || deliveries(&answer));
        }
    }
    Ok(Outcome::Fine)
}

/// Null without any.
fn changes(switches: &[(String, String)]) -> Result<Json> {
    let mut changes = Map::new();
    for (name, value) in switches {
        let value: Json = serde_json::from_str(value).map_err(|_| Error::field(name.clone(), format!("'{value}' is not a number")))?;
        changes.insert(name.clone(), value);
    }
    Ok(if changes.is_empty() { Json::Null } else { Json::Object(changes) })
}

/// The way to the sandbox's controls.
struct Control {
    address: SocketAddr,
    http: reqwest::Client,
}

impl Control {
    fn of(invocation: &Invocation) -> Result<Self> {
        let data = invocation.config()?.paths.data;
        let daemon = daemon::running(&data).ok_or_else(|| {
            let message = format!("no daemon runs on {}, so there is no sandbox: start one with `echopilot run`", data.display());
            Error::unavailable("not_running", message)
        })?;
        let address = daemon.sandbox_address.ok_or_else(|| {
            Error::forbidden("sandbox_only", "the daemon has a provider and no sandbox: this works only without STRIPE_MODE test or live")
        })?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(Duration::from_secs(3))
            .timeout(LONGEST)
            .build()
            .map_err(Error::internal)?;
        Ok(Self { address, http })
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Json>) -> Result<Json> {
        let silent = |e: reqwest::Error| Error::unavailable("sandbox_unreachable", format!("the sandbox at {}: {e}", self.address));
        let mut request = self.http.request(method, format!("http://{}/_control/{path}", self.address));
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(silent)?;
        let status = response.status();
        let answer: Json = response.json().await.map_err(silent)?;
        if status.is_success() {
            return Ok(answer);
        }
        let code = match status.as_u16() {
            404 => Code::NotFound,
            400..=499 => Code::Invalid,
            _ => Code::Internal,
        };
        let error = &answer["error"];
        Err(Error::new(code, text(error, "reason"), text(error, "message")))
    }
}

fn faults(answer: &Json) -> String {
    let rows: Vec<Vec<String>> = answer.as_object().into_iter().flatten().map(|(name, _)| vec![name.clone(), text(answer, name)]).collect();
    table(&["SWITCH", "VALUE"], &rows)
}

fn clock(answer: &Json) -> String {
    let days = answer["offset_seconds"].as_i64().unwrap_or_default() / 86_400;
    format!("{} ({days} days from real time)", moment(&answer["now"]))
}

fn moment(seconds: &Json) -> String {
    let at = seconds.as_i64().and_then(|s| chrono::DateTime::from_timestamp(s, 0));
    at.map_or_else(|| "-".to_owned(), rfc3339)
}

fn events(answer: &Json) -> String {
    let rows: Vec<Vec<String>> = members(answer, "events")
        .map(|e| vec![moment(&e["created"]), text(e, "id"), text(e, "type"), text(e, "object"), text(e, "pending_webhooks")])
        .collect();
    table(&["CREATED", "EVENT", "TYPE", "OBJECT", "UNDELIVERED"], &rows)
}

fn deliveries(answer: &Json) -> String {
    let mut lines = vec![format!("{} {} at {}", text(answer, "id"), text(answer, "type"), moment(&answer["created"]))];
    for delivery in members(answer, "deliveries") {
        let next = if delivery["next_at"].is_null() { String::new() } else { format!(", next try at {}", moment(&delivery["next_at"])) };
        lines.push(format!("  to {}: {}{next}", text(delivery, "endpoint"), text(delivery, "state")));
        for attempt in members(delivery, "attempts") {
            let how = if attempt["code"].is_null() { text(attempt, "error") } else { text(attempt, "code") };
            lines.push(format!("    {} {how}", moment(&attempt["at"])));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_switches_are_read_or_refused_with_a_reason() {
        for (text, seconds) in [("45s", 45), ("90m", 5_400), ("2h", 7_200), ("3d", 259_200), ("0s", 0)] {
            assert_eq!(length(text), Ok(seconds), "{text}");
        }
        for text in ["", "d", "-1d", "1w", "1.5h", "1d2h", "ü"] {
            assert!(length(text).is_err(), "{text}");
        }
        assert_eq!(switch("drop_webhook=0.2"), Ok(("drop_webhook".to_owned(), "0.2".to_owned())));
        assert!(switch("drop_webhook").is_err_and(|e| e.contains("NAME=VALUE")));
        assert!(switch("slow_ms=much").is_err_and(|e| e.contains("not a number")));
        let changes = changes(&[("slow_ms".into(), "5".into()), ("drop_webhook".into(), "0.5".into())]).unwrap();
        assert_eq!(changes, json!({"slow_ms": 5, "drop_webhook": 0.5}));
    }

    #[test]
    fn a_delivery_shows_every_try() {
        let answer = json!({"id": "evt_1", "type": "charge.succeeded", "created": 1_790_000_000, "deliveries": [
            {"endpoint": "we_1", "state": "pending", "next_at": 1_790_000_010,
             "attempts": [{"at": 1_790_000_000, "code": 503, "error": null}, {"at": 1_790_000_005, "code": null, "error": "no connection"}]}]});
        let shown = deliveries(&answer);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[1].ends_with("pending, next try at 2026-09-21T14:13:30Z"), "{shown}");
        assert!(lines[2].ends_with(" 503") && lines[3].ends_with(" no connection"), "{shown}");
    }
}
