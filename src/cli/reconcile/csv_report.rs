//! Reads the provider's own reports as downloaded: the itemized payout reconciliation and the itemized balance report, in place of its
//! API's objects. Columns are found by name, in any order; amounts are decimals by the currency's digits, times are UTC. A payout is
//! known by its own row in the balance report.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime};
use csv::{Reader, StringRecord};
use echopilot_actors::domain::{
    money::parse_decimal,
    reconcile::{Payout, Sides, TransactionView},
};

use super::files::{self, Problems};

/// Each with the names it has in one report or the other; without the ones marked nothing can be reconciled. Their places follow.
const COLUMNS: [(&[&str], bool); 13] = [
    (&["balance_transaction_id"], true),
    (&["created_utc", "created"], true),
    (&["available_on_utc", "available_on"], false),
    (&["currency"], true),
    (&["gross"], true),
    (&["fee"], true),
    (&["net"], true),
    (&["reporting_category"], true),
    (&["source_id"], false),
    (&["automatic_payout_id", "payout_id"], false),
    (&["automatic_payout_effective_at_utc", "automatic_payout_effective_at"], false),
    (&["customer_facing_amount"], false),
    (&["customer_facing_currency"], false),
];
const ID: usize = 0;
const CREATED: usize = 1;
const AVAILABLE_ON: usize = 2;
const CURRENCY: usize = 3;
const GROSS: usize = 4;
const FEE: usize = 5;
const NET: usize = 6;
const CATEGORY: usize = 7;
const SOURCE: usize = 8;
const PAYOUT: usize = 9;
const EFFECTIVE_AT: usize = 10;
const FACING_AMOUNT: usize = 11;
const FACING_CURRENCY: usize = 12;

/// What the reports say about payouts.
#[derive(Default)]
struct Payouts {
    /// By id, from their own rows.
    known: HashMap<String, Payout>,
    /// With which transaction a failed one's money came back.
    returned: HashMap<String, String>,
    /// Those that rows are in, each with the first file and line that says so.
    named: HashMap<String, (String, u64)>,
}

/// Reads the reports into `sides`; their payouts only if they were `given` in no other file.
pub(super) fn read(paths: &[PathBuf], given: bool, sides: &mut Sides, problems: &mut Problems) {
    let mut payouts = Payouts::default();
    for path in paths {
        let mut found = Vec::new();
        if let Err(problem) = one(path, sides, &mut payouts, &mut found) {
            found.push(problem);
        }
        problems.add(&files::name(path), found);
    }
    if given || paths.is_empty() {
        return;
    }
    let unknown: HashSet<String> = sides.unknown_payouts().into_iter().collect();
    for (id, (file, line)) in &payouts.named {
        if unknown.contains(id) && !payouts.known.contains_key(id) {
            let what = format!("payout {id} is named, and no report has its own row: add the itemized balance report, or --payouts");
            problems.add(file, vec![(*line, what)]);
        }
    }
    for (id, mut payout) in payouts.known {
        let automatic = payouts.named.contains_key(&id);
        payout.automatic = automatic;
        payout.reconciliation_status = Some(if automatic { "completed" } else { "not_applicable" }.to_owned());
        if let Some(back) = payouts.returned.remove(&id) {
            payout.status = "failed".to_owned();
            payout.failure_balance_transaction = Some(back);
        }
        sides.payout(payout);
    }
}

/// Where each of `COLUMNS` is in a file.
struct Header([Option<usize>; COLUMNS.len()]);

impl Header {
    fn of(record: &StringRecord) -> Result<Self, String> {
        let place = |names: &[&str]| {
            let is = |column: &str, name: &str| column.trim_start_matches('\u{feff}').trim().eq_ignore_ascii_case(name);
            names.iter().find_map(|name| record.iter().position(|column| is(column, name)))
        };
        let missing: Vec<&str> =
            COLUMNS.iter().filter(|(names, needed)| *needed && place(names).is_none()).map(|(names, _)| names[0]).collect();
        if !missing.is_empty() {
            return Err(format!("there is no column {}", missing.join(", and none ")));
        }
        Ok(Self(COLUMNS.map(|(names, _)| place(names))))
    }

    /// A cell that is there and not empty.
    fn cell<'a>(&self, record: &'a StringRecord, column: usize) -> Option<&'a str> {
        record.get(self.0[column]?).map(str::trim).filter(|text| !text.is_empty())
    }

    fn needed<'a>(&self, record: &'a StringRecord, column: usize) -> Result<&'a str, String> {
        self.cell(record, column).ok_or_else(|| format!("{} is empty", COLUMNS[column].0[0]))
    }

    fn money(&self, record: &StringRecord, column: usize, currency: &str) -> Result<i64, String> {
        decimal(self.needed(record, column)?, currency).map_err(|what| format!("{}: {what}", COLUMNS[column].0[0]))
    }
}

fn one(path: &Path, sides: &mut Sides, payouts: &mut Payouts, found: &mut Vec<(u64, String)>) -> Result<(), (u64, String)> {
    let unreadable = |error: &dyn std::fmt::Display| (0, format!("cannot be read: {error}"));
    let (reader, _, _) = files::open(path).map_err(|e| unreadable(&e))?;
    let mut rows = Reader::from_reader(reader);
    let header = Header::of(rows.headers().map_err(|e| unreadable(&e))?).map_err(|what| (1, what))?;
    let mut record = StringRecord::new();
    loop {
        match rows.read_record(&mut record) {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            Err(error) if error.is_io_error() => return Err(unreadable(&error)),
            Err(error) => {
                found.push((error.position().map_or(0, csv::Position::line), format!("this is not a row: {error}")));
                continue;
            }
        }
        let line = record.position().map_or(0, csv::Position::line);
        match row(&header, &record) {
            Ok(row) => row.keep(&files::name(path), line, sides, payouts),
            Err(what) => found.push((line, what)),
        }
    }
}

struct Row<'a> {
    view: TransactionView<'a>,
    effective_at: Option<i64>,
}

fn row<'a>(header: &Header, record: &'a StringRecord) -> Result<Row<'a>, String> {
    let cell = |column| header.cell(record, column);
    let currency = header.needed(record, CURRENCY)?.to_lowercase();
    let created = time(header.needed(record, CREATED)?)?;
    let presentment = match (cell(FACING_AMOUNT), cell(FACING_CURRENCY)) {
        (Some(amount), Some(facing)) if !facing.eq_ignore_ascii_case(&currency) => {
            let facing = facing.to_lowercase();
            Some((decimal(amount, &facing)?.abs(), facing.into()))
        }
        _ => None,
    };
    let view = TransactionView {
        id: header.needed(record, ID)?.into(),
        amount: header.money(record, GROSS, &currency)?,
        fee: header.money(record, FEE, &currency)?,
        net: header.money(record, NET, &currency)?,
        category: header.needed(record, CATEGORY)?.into(),
        source: cell(SOURCE).map(Into::into),
        created,
        available_on: cell(AVAILABLE_ON).map_or(Ok(created), time)?,
        fee_details: None,
        presentment,
        payout: cell(PAYOUT).map(Into::into),
        currency: currency.into(),
    };
    Ok(Row { view, effective_at: cell(EFFECTIVE_AT).map(time).transpose()? })
}

impl Row<'_> {
    fn keep(self, file: &str, line: u64, sides: &mut Sides, payouts: &mut Payouts) {
        let view = self.view;
        match (view.category.as_ref(), view.source.as_deref().or(view.payout.as_deref())) {
            ("payout", Some(id)) => {
                let payout = Payout {
                    id: id.to_owned(),
                    amount: -view.net,
                    currency: view.currency.to_string(),
                    status: "paid".to_owned(),
                    created: view.created,
                    arrival_date: self.effective_at.unwrap_or(view.available_on),
                    automatic: true,
                    method: "standard".to_owned(),
                    reconciliation_status: None,
                    balance_transaction: Some(view.id.to_string()),
                    failure_balance_transaction: None,
                    trace_id: None,
                };
                payouts.known.insert(id.to_owned(), payout);
            }
            ("payout_reversal", Some(id)) => _ = payouts.returned.insert(id.to_owned(), view.id.to_string()),
            _ => {}
        }
        // A payout's own row names it too, also where nothing else does: that alone does not make it an automatic one.
        if let Some(payout) = view.payout.as_deref().filter(|_| view.category != "payout") {
            payouts.named.entry(payout.to_owned()).or_insert_with(|| (file.to_owned(), line));
        }
        let digest = view.digest();
        sides.transaction(&view, digest);
    }
}

/// Zeros that a currency has no digits for say nothing.
fn decimal(text: &str, currency: &str) -> Result<i64, String> {
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text };
    parse_decimal(text, currency)
}

/// A date, or a date with a time, in UTC; in whole seconds.
fn time(text: &str) -> Result<i64, String> {
    let at_midnight = |date: NaiveDate| date.and_time(NaiveTime::MIN);
    let naive = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S")
        .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S"))
        .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M"))
        .or_else(|_| NaiveDate::parse_from_str(text, "%Y-%m-%d").map(at_midnight));
    match naive {
        Ok(naive) => Ok(naive.and_utc().timestamp()),
        Err(_) => DateTime::parse_from_rfc3339(text)
            .map(|at| at.timestamp())
            .map_err(|_| format!("'{text}' is not a time like 2026-11-22 18:00:03")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_and_times_are_read_as_the_reports_write_them() {
        for (text, currency, minor) in
            [("12.34", "usd", 1234), ("-0.5", "eur", -50), ("500.00", "jpy", 500), ("7", "usd", 700), ("1.250", "kwd", 1250)]
        {
            assert_eq!(decimal(text, currency), Ok(minor), "{text}");
        }
        assert!(decimal("1.5", "jpy").is_err() && decimal("1,000.00", "usd").is_err() && decimal("", "usd").is_err());
        for text in ["2026-11-22 18:00:03", "2026-11-22T18:00:03", "2026-11-22T19:00:03+01:00"] {
            assert_eq!(time(text), Ok(1_795_370_403), "{text}");
        }
        assert_eq!(time("2026-11-22"), Ok(1_795_305_600));
        assert!(time("22.11.2026").is_err_and(|what| what.contains("22.11.2026")));
    }
}
