//! `echopilot reconcile`: payouts against the ledger. From files it works alone, without a database, a daemon or a provider, and its
//! report depends on what is in the files, not on the order it is in. Without files the daemon reconciles now, or this process does it
//! under the daemon's locks.

mod csv_report;
mod files;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use echopilot_actors::{
    domain::{
        money::{display, format_minor},
        reconcile::{ProviderInfo, Report, Settings, Sides, judge},
    },
    env::{Clock, blocking, rfc3339},
    error::{Error, Result},
    files::{MODE_REPORT, replace},
    providers::stripe::API_VERSION,
};
use serde_json::json;

use super::{
    Invocation,
    door::Door,
    exit::Outcome,
    output::{Colour, coloured, say, say_json, table},
    task::told,
};
use files::{Input, Problems};

/// Exceptions shown in the text for a person; the report has all.
const SHOWN: usize = 10;
/// Bad input, as the specification has it.
const BAD_INPUT: u8 = 2;

#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Arguments {
    /// The provider's payouts, one JSON object per line; `-` is standard input, `.gz` is unpacked.
    #[arg(long, value_name = "FILE", requires = "ledger")]
    payouts: Option<PathBuf>,
    /// The provider's balance transactions, one JSON object per line, each with the `payout` it is in.
    #[arg(long, value_name = "FILE", requires = "ledger")]
    balance_transactions: Option<PathBuf>,
    /// The provider's itemized payout reconciliation or balance report as downloaded; may be given more than once.
    #[arg(long, value_name = "FILE", requires = "ledger")]
    csv: Vec<PathBuf>,
    /// Our ledger, one JSON object per line: id, kind, source, amount, currency, at.
    #[arg(long, value_name = "FILE", requires = "now")]
    ledger: Option<PathBuf>,
    /// The time by which grace is judged, in Unix seconds.
    #[arg(long, value_name = "UNIX", requires = "ledger", value_parser = clap::value_parser!(i64).range(0..1 << 40))]
    now: Option<i64>,
    /// Where to write the report.
    #[arg(long, value_name = "REPORT.json", requires = "ledger")]
    out: Option<PathBuf>,
    /// How many days the provider may take to book what the ledger knows; bank debits have at least 21.
    #[arg(long, value_name = "DAYS", default_value_t = 10, value_parser = clap::value_parser!(i64).range(0..=3650))]
    grace_days: i64,
}

pub(crate) async fn run(invocation: &Invocation, arguments: Arguments) -> Result<Outcome> {
    let (Some(ledger), Some(now)) = (arguments.ledger.clone(), arguments.now) else {
        return now_with_the_provider(invocation).await;
    };
    if arguments.csv.is_empty() && (arguments.payouts.is_none() || arguments.balance_transactions.is_none()) {
        return Err(Error::invalid(
            "missing_input",
            "the provider's side is incomplete: give --payouts and --balance-transactions, or its report with --csv",
        ));
    }
    let quiet = invocation.json;
    let read = blocking(move || Ok(read(&arguments, &ledger, quiet).map(|sides| (sides, arguments)))).await?;
    let (sides, arguments) = match read {
        Ok(read) => read,
        Err(problems) => return Ok(refused(invocation, &problems)),
    };
    let counts = sides.counts();
    let settings = Settings { now, grace_days: arguments.grace_days, complete: true, provider: provider(), ..Settings::default() };
    let mut report = blocking(move || Ok(reconciled(sides, &settings))).await?;
    let generated_at = rfc3339(Clock::default().now());
    (report.ts, report.generated_at) = (Some(generated_at.clone()), Some(generated_at));
    if let Some(out) = &arguments.out {
        write(out, &report)?;
    }
    if invocation.json {
        say_json(&json!({
            "ok": report.ok, "recon_id": report.recon_id, "input_digest": report.input_digest, "summary": report.summary,
            "totals": report.totals, "out": arguments.out, "rows": {"payouts": counts[0], "balance_transactions": counts[1], "ledger": counts[2]},
            "exceptions": report.exceptions.iter().take(SHOWN).collect::<Vec<_>>(),
        }));
    } else {
        say(summary(&report, counts, arguments.out.as_deref()));
    }
    Ok(Outcome::of(report.exceptions.is_empty()))
}

/// The exit code is 1 unless the run succeeded and found everything in order.
async fn now_with_the_provider(invocation: &Invocation) -> Result<Outcome> {
    let door = Door::open(invocation).await?;
    let result = door.run_task("payout_recon").await;
    let run = door.close(result).await?;
    invocation.print(&run, || told(&run));
    Ok(Outcome::of(run["state"] == "succeeded" && run["result"]["ok"] == true))
}

fn provider() -> ProviderInfo {
    ProviderInfo { name: "files".to_owned(), api_version: API_VERSION.to_owned(), livemode: false }
}

/// Reads every input to its end, so that all that is wrong is told at once.
fn read(arguments: &Arguments, ledger: &Path, quiet: bool) -> std::result::Result<Sides, Problems> {
    let (mut sides, mut problems) = (Sides::default(), Problems::default());
    let inputs = [
        (arguments.payouts.as_deref(), Input::Payouts),
        (arguments.balance_transactions.as_deref(), Input::Transactions),
        (Some(ledger), Input::Ledger),
    ];
    for (path, input) in inputs {
        if let Some(path) = path {
            sides = files::read(path, input, sides, &mut problems, quiet);
        }
    }
    csv_report::read(&arguments.csv, arguments.payouts.is_some(), &mut sides, &mut problems);
    if problems.is_empty() { Ok(sides) } else { Err(problems) }
}

/// The digest and the judgement do not need each other.
fn reconciled(mut sides: Sides, settings: &Settings) -> Report {
    let digests = sides.take_digests();
    let (digest, report) = std::thread::scope(|scope| {
        let digest = scope.spawn(|| digests.finish(settings));
        let report = judge(&sides, settings);
        (digest.join().expect("sorting and hashing do not panic"), report)
    });
    report.identified(&digest)
}

fn write(out: &Path, report: &Report) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(report)?;
    bytes.push(b'\n');
    replace(out, &bytes, MODE_REPORT)
}

fn refused(invocation: &Invocation, problems: &Problems) -> Outcome {
    if invocation.json {
        say_json(&json!({"ok": false, "error": {"code": "invalid", "reason": "bad_input"}, "problems": problems.to_json()}));
    } else {
        for line in problems.lines() {
            eprintln!("echopilot: {line}");
        }
    }
    Outcome::Error(BAD_INPUT)
}

fn summary(report: &Report, [payouts, transactions, ledger]: [usize; 3], out: Option<&Path>) -> String {
    let present = |counts: &BTreeMap<&'static str, u64>, what: &str| -> Vec<Vec<String>> {
        let some = counts.iter().filter(|(name, count)| **name != "total" && **count > 0);
        some.map(|(name, count)| vec![what.to_owned(), (*name).to_owned(), count.to_string()]).collect()
    };
    let mut statuses = present(&report.summary.payouts, "payouts");
    statuses.extend(present(&report.summary.transactions, "transactions"));
    let mut lines = vec![
        format!("{payouts} payouts, {transactions} balance transactions, {ledger} ledger rows: {}", report.recon_id),
        String::new(),
        table(&["WHAT", "STATUS", "COUNT"], &statuses),
    ];
    if !report.totals.is_empty() {
        let heading = ["CURRENCY", "PAID OUT", "GROSS", "FEES", "REFUNDS", "DISPUTES", "OTHER", "NET", "UNEXPLAINED"];
        let row = |t: &echopilot_actors::domain::reconcile::Total| {
            let money = [t.payout_amount, t.gross, t.fees, t.refunds, t.disputes, t.other, t.net, t.unexplained];
            let mut cells = vec![t.currency.to_uppercase()];
            cells.extend(money.map(|amount| format_minor(amount, &t.currency)));
            cells
        };
        lines.extend([String::new(), table(&heading, &report.totals.iter().map(row).collect::<Vec<_>>())]);
    }
    if !report.unsettled.is_empty() {
        let unsettled: Vec<String> =
            report.unsettled.iter().map(|u| format!("{} in {} rows", display(u.net, &u.currency), u.count)).collect();
        lines.extend([String::new(), format!("not paid out yet: {}", unsettled.join(", "))]);
    }
    lines.push(String::new());
    let count = report.exceptions.len();
    if count == 0 {
        lines.push(coloured(Colour::Green, "Reconciled: no exceptions."));
    } else {
        lines.push(coloured(Colour::Red, &format!("{count} exceptions:")));
        lines.extend(
            report.exceptions.iter().take(SHOWN).map(|e| format!("  {} {}  {}", e.severity.as_str(), e.kind.as_str(), e.explanation)),
        );
        if count > SHOWN {
            lines.push(format!("  and {} more", count - SHOWN));
        }
    }
    lines.extend(out.map(|out| format!("The report is in {}.", out.display())));
    lines.join("\n")
}
