//! What the reconciliations found as CSV, for a spreadsheet or an accountant. Called by the gateway. The rows have the columns of the provider's
//! own itemized payout report, so that the two can be laid side by side, and `echopilot reconcile --csv` reads them again. Amounts are decimals of
//! their currency; a text that a spreadsheet would take for a formula is quoted as text.

use chrono::DateTime;
use serde_json::Value as Json;

use crate::{
    domain::{money, reconcile::JudgedRow},
    env::Env,
    error::{Error, Result},
    recon,
    store::ExceptionFilter,
};

/// What can be exported.
pub const WHAT: [&str; 4] = ["exceptions", "payouts", "rows", "totals"];

/// The table as CSV (RFC 4180) with a header. Errors: `invalid` naming `what`; `not_found` before the first reconciliation.
pub async fn csv(env: &Env, what: &str) -> Result<String> {
    match what {
        "exceptions" => {
            let all = super::exceptions::list(env, &ExceptionFilter::default()).await?;
            table(&EXCEPTIONS, all.iter().map(|e| EXCEPTIONS.map(|name| exception(e, name))))
        }
        "payouts" => {
            let report = latest(env).await?;
            table(&PAYOUTS, list(&report, "payouts").iter().map(|p| PAYOUTS.map(|name| cell(p, name, &AMOUNTS))))
        }
        "totals" => {
            let report = latest(env).await?;
            table(&TOTALS, list(&report, "totals").iter().map(|t| TOTALS.map(|name| cell(t, name, &AMOUNTS))))
        }
        "rows" => table(&ROWS, recon::latest_rows(env).await?.iter().map(row)),
        _ => Err(Error::field("what", format!("what is one of {}", WHAT.join(", ")))),
    }
}

const EXCEPTIONS: [&str; 18] = [
    "id",
    "scope",
    "kind",
    "severity",
    "status",
    "currency",
    "expected",
    "actual",
    "difference",
    "at_risk",
    "payout_id",
    "balance_transaction_id",
    "source_id",
    "invoice_id",
    "first_seen",
    "last_seen",
    "explanation",
    "decision",
];
const PAYOUTS: [&str; 12] = [
    "id",
    "status",
    "provider_status",
    "created",
    "arrival_date",
    "currency",
    "amount",
    "items",
    "sum_net",
    "residual",
    "automatic",
    "trace_id",
];
const TOTALS: [&str; 9] = ["currency", "gross", "refunds", "disputes", "fees", "other", "net", "payout_amount", "unexplained"];
/// Those of the provider's report `payout_reconciliation.itemized.5`, and our state.
const ROWS: [&str; 11] = [
    "automatic_payout_id",
    "balance_transaction_id",
    "created_utc",
    "available_on_utc",
    "currency",
    "gross",
    "fee",
    "net",
    "reporting_category",
    "source_id",
    "status",
];
/// Members that are money.
const AMOUNTS: [&str; 10] = ["amount", "sum_net", "residual", "gross", "refunds", "disputes", "fees", "other", "net", "payout_amount"];

async fn latest(env: &Env) -> Result<Json> {
    let report = env.store().latest_recon("payouts").await?;
    report.ok_or_else(|| Error::not_found("payouts have not been reconciled yet"))
}

fn list(report: &Json, name: &str) -> Vec<Json> {
    report[name].as_array().cloned().unwrap_or_default()
}

fn exception(e: &Json, name: &str) -> String {
    match name {
        "at_risk" => money::format_minor(e["at_risk_minor"].as_i64().unwrap_or_default(), e["currency"].as_str().unwrap_or_default()),
        _ => cell(e, name, &["expected", "actual", "difference"]),
    }
}

fn cell(value: &Json, name: &str, amounts: &[&str]) -> String {
    match &value[name] {
        Json::Null => String::new(),
        Json::Number(n) if amounts.contains(&name) || name == "unexplained" => {
            money::format_minor(n.as_i64().unwrap_or_default(), value["currency"].as_str().unwrap_or_default())
        }
        Json::Number(n) if matches!(name, "created" | "arrival_date") => utc(n.as_i64().unwrap_or_default()),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn row(row: &JudgedRow) -> [String; 11] {
    let amount = |minor| money::format_minor(minor, &row.currency);
    [
        row.payout.clone().unwrap_or_default(),
        row.id.clone(),
        utc(row.created),
        utc(row.available_on),
        row.currency.clone(),
        amount(row.gross),
        amount(row.fee),
        amount(row.net),
        row.reporting_category.clone(),
        row.source.clone().unwrap_or_default(),
        row.status.as_str().to_owned(),
    ]
}

/// As the provider writes it: `2026-01-31 08:00:00`.
fn utc(at: i64) -> String {
    DateTime::from_timestamp(at, 0).map(|at| at.format("%Y-%m-%d %H:%M:%S").to_string()).unwrap_or_default()
}

fn table<const N: usize>(header: &[&str; N], rows: impl Iterator<Item = [String; N]>) -> Result<String> {
    let broken = |error: csv::Error| Error::internal(format!("CSV: {error}"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(header).map_err(broken)?;
    for row in rows {
        writer.write_record(row.iter().map(|text| harmless(text))).map_err(broken)?;
    }
    let bytes = writer.into_inner().map_err(|error| Error::internal(format!("CSV: {error}")))?;
    String::from_utf8(bytes).map_err(|error| Error::internal(format!("CSV: {error}")))
}

/// What begins like a formula and is no number would be computed by a spreadsheet: a customer's text must not be.
fn harmless(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']) && text.parse::<f64>().is_err();
    if formula { format!("'{text}") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_looks_like_a_formula_stays_text_and_a_number_stays_one() {
        for (text, expected) in [("=1+1", "'=1+1"), ("@x", "'@x"), ("-12.50", "-12.50"), ("-x", "'-x"), ("a,b", "a,b"), ("", "")] {
            assert_eq!(harmless(text), expected);
        }
        let csv = table(&["a", "b"], [["x,\"y\"".to_owned(), "=z".to_owned()]].into_iter()).unwrap();
        assert_eq!(csv, "a,b\n\"x,\"\"y\"\"\",'=z\n");
    }

    #[test]
    fn amounts_have_the_digits_of_their_currency() {
        let total = serde_json::json!({"currency": "jpy", "gross": 500, "unexplained": -3, "payout_amount": null});
        assert_eq!(TOTALS.map(|name| cell(&total, name, &AMOUNTS))[..3], ["jpy", "500", ""].map(str::to_owned));
        assert_eq!(cell(&serde_json::json!({"currency": "kwd", "amount": 1500}), "amount", &AMOUNTS), "1.500");
    }
}
