//! `echopilot ledger`: its rows, what they come to per currency, and corrections. With a running daemon it is asked; without one the
//! work is done here.

use chrono::{DateTime, Utc};
use echopilot_actors::{
    error::Result,
    files,
    operations::correct_ledger::{self, Asked},
    store::LedgerFilter,
};
use serde_json::{Value as Json, json};

use super::{
    Invocation,
    door::{ASKED_BY, Door},
    exit::Outcome,
    output::{table, text},
    task::members,
};
use crate::client::segment;

#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub(crate) enum Command {
    /// List rows, newest first.
    List {
        /// charge, refund, payout, ...
        #[arg(long)]
        kind: Option<String>,
        /// The provider's object, e.g. ch_...
        #[arg(long)]
        source: Option<String>,
        #[arg(long, short = 'n', default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=100))]
        limit: u16,
    },
    /// What the rows come to, per currency and kind, in minor units.
    Balances {
        /// Only what had happened by then, by the provider's clock, e.g. 2026-03-01T00:00:00Z.
        #[arg(long, value_name = "TIME")]
        as_of: Option<DateTime<Utc>>,
    },
    /// Append a row that corrects another.
    Correct {
        /// The row's id, le_...
        id: String,
        /// What is added to it, in minor units of its currency; may be negative.
        #[arg(long, allow_negative_numbers = true)]
        amount: i64,
        /// Why; it is kept with the row and in the journal.
        #[arg(long)]
        reason: String,
        /// Only say what would come of it.
        #[arg(long)]
        dry_run: bool,
        /// The same key appends once, however often it is asked; made up if it is not given.
        #[arg(long)]
        idempotency_key: Option<String>,
    },
}

pub(crate) async fn run(invocation: &Invocation, command: Command) -> Result<Outcome> {
    let door = Door::open(invocation).await?;
    let result = through(&door, invocation, command).await;
    door.close(result).await
}

async fn through(door: &Door, invocation: &Invocation, command: Command) -> Result<Outcome> {
    match command {
        Command::List { kind, source, limit } => {
            let answer = list(door, kind.unwrap_or_default(), source.unwrap_or_default(), limit).await?;
            invocation.print(&answer, || {
                let row =
                    |e: &Json| ["id", "kind", "source", "amount_minor", "currency", "origin", "corrects"].map(|m| text(e, m)).to_vec();
                let rows: Vec<Vec<String>> = members(&answer, "entries").map(row).collect();
                if rows.is_empty() {
                    "no such rows".to_owned()
                } else {
                    table(&["ID", "KIND", "SOURCE", "AMOUNT (MINOR)", "CURRENCY", "ORIGIN", "CORRECTS"], &rows)
                }
            });
        }
        Command::Balances { as_of } => {
            let as_of = as_of.map(|at| at.timestamp());
            let answer = match door {
                Door::Daemon(client) => {
                    let query = as_of.map(|at| format!("?as_of={at}")).unwrap_or_default();
                    client.get(&format!("/api/ledger/balances{query}")).await?
                }
                Door::Here(daemon) => correct_ledger::balances(&daemon.env, as_of).await?,
            };
            invocation.print(&answer, || balances(&answer));
        }
        Command::Correct { id, amount, reason, dry_run, idempotency_key } => {
            let key = idempotency_key.unwrap_or_else(|| format!("cli-{}", files::random_hex(16)));
            let body = json!({"corrects": id, "amount_minor": amount, "reason": reason, "dry_run": dry_run});
            let answer = match door {
                Door::Daemon(client) => client.post_once("/api/ledger/corrections", &body, &key).await?,
                Door::Here(daemon) => correct_ledger::correct(&daemon.env, &Asked::from_json(&body, ASKED_BY)?, &key, dry_run).await?,
            };
            invocation.print(&answer, || {
                let said = if dry_run { "would come to" } else { "comes to" };
                format!("{id} {said} {} {} (before: {})", answer["after_minor"], text(&answer, "currency"), answer["before_minor"])
            });
        }
    }
    Ok(Outcome::Fine)
}

async fn list(door: &Door, kind: String, source: String, limit: u16) -> Result<Json> {
    match door {
        Door::Daemon(client) => client.get(&format!("/api/ledger?limit={limit}&kind={}&source={}", segment(&kind), segment(&source))).await,
        Door::Here(daemon) => {
            let livemode = daemon.env.config().provider.mode.is_live();
            let filter = LedgerFilter { livemode, kind, source, limit: limit.into(), ..LedgerFilter::default() };
            let rows = daemon.env.store().ledger_rows(&filter).await?;
            let entries: Vec<Json> = rows.iter().map(correct_ledger::view).collect();
            Ok(json!({"ok": true, "count": entries.len(), "entries": entries, "next": null}))
        }
    }
}

fn balances(answer: &Json) -> String {
    let mut rows = Vec::new();
    for balance in members(answer, "balances") {
        let currency = text(balance, "currency");
        for (kind, sum) in balance["kinds"].as_object().into_iter().flatten() {
            rows.push(vec![currency.clone(), kind.clone(), text(sum, "amount_minor"), text(sum, "count")]);
        }
        rows.push(vec![currency, "total".to_owned(), text(balance, "total_minor"), text(balance, "count")]);
    }
    if rows.is_empty() { "the ledger is empty".to_owned() } else { table(&["CURRENCY", "KIND", "AMOUNT (MINOR)", "ROWS"], &rows) }
}
