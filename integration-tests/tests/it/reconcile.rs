//! Reconciling from files: no daemon, no database, no provider. What the report says does not depend on the order of the input; what is
//! wrong with it is told by file and line; memory does not grow with the files; DuckDB counts the same.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use integration_tests::{Output, Setup, command, python, run_to_end};
use serde_json::{Value as Json, json};

use crate::setup;

const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

/// The lines of the three files.
#[derive(Clone, Default)]
struct Files {
    payouts: Vec<Json>,
    transactions: Vec<Json>,
    ledger: Vec<Json>,
}

impl Files {
    /// Payouts of twenty charges and a refund each, in two currencies, agreeing on both sides.
    fn good(payouts: usize) -> Self {
        let mut files = Self::default();
        for p in 0..payouts {
            let (id, at) = (format!("po_{p}"), NOW - 100 * DAY + i64::try_from(p).expect("small") * DAY);
            let currency = ["usd", "jpy"][p % 2];
            let mut sum = 0;
            for n in 0..21 {
                let (kind, source, amount, fee) =
                    if n == 20 { ("refund", format!("re_{p}"), -400, 0) } else { ("charge", format!("ch_{p}_{n}"), 1000 + n, 59) };
                sum += amount - fee;
                files.row(kind, &source, amount, fee, currency, at + n, Some(&id));
            }
            files.row("payout", &id, -sum, 0, currency, at, Some(&id));
            files.payouts.push(
                json!({"id": id, "amount": sum, "currency": currency, "status": "paid", "created": at, "arrival_date": at + DAY,
                "automatic": true, "reconciliation_status": "completed", "balance_transaction": format!("txn_payout_{id}"),
                "failure_balance_transaction": null}),
            );
        }
        files
    }

    fn row(&mut self, kind: &str, source: &str, amount: i64, fee: i64, currency: &str, at: i64, payout: Option<&str>) {
        let details = if fee == 0 { json!([]) } else { json!([{"amount": fee, "type": "stripe_fee"}]) };
        self.transactions.push(json!({"id": format!("txn_{kind}_{source}"), "object": "balance_transaction", "amount": amount, "fee": fee,
            "net": amount - fee, "currency": currency, "created": at, "available_on": at, "reporting_category": kind, "type": kind,
            "source": source, "fee_details": details, "payout": payout, "status": "available"}));
        self.ledger.push(
            json!({"id": format!("le_{kind}_{source}"), "kind": kind, "source": source, "amount": amount, "currency": currency, "at": at}),
        );
    }

    fn transaction(&mut self, id: &str) -> &mut Json {
        self.transactions.iter_mut().find(|t| t["id"] == id).expect("it is there")
    }

    fn reversed(mut self) -> Self {
        [&mut self.payouts, &mut self.transactions, &mut self.ledger].into_iter().for_each(|lines| lines.reverse());
        self
    }

    fn write(&self, folder: &Path) {
        for (name, lines) in [("payouts", &self.payouts), ("transactions", &self.transactions), ("ledger", &self.ledger)] {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            std::fs::write(folder.join(name), text).expect("a file can be written");
        }
    }
}

/// Runs the command on the files of the folder, with further arguments.
#[track_caller]
fn reconcile(setup: &Setup, more: &[&str]) -> Output {
    let now = NOW.to_string();
    let mut arguments = vec!["reconcile", "--payouts", "payouts", "--balance-transactions", "transactions", "--ledger", "ledger"];
    arguments.extend(["--now", &now, "--out", "report.json"]);
    arguments.extend(more);
    setup.cli(&arguments)
}

/// The report without the time it was made at.
#[track_caller]
fn report(setup: &Setup) -> String {
    let text = std::fs::read_to_string(setup.root().join("report.json")).expect("the report is there");
    text.lines().filter(|line| !line.contains("\"generated_at\"") && !line.contains("\"ts\"")).collect::<Vec<_>>().join("\n")
}

fn kinds(setup: &Setup) -> Vec<String> {
    let report: Json = serde_json::from_slice(&std::fs::read(setup.root().join("report.json")).expect("it is there")).expect("JSON");
    report["exceptions"].as_array().expect("a list").iter().map(|e| e["kind"].as_str().expect("a kind").to_owned()).collect()
}

#[test]
fn the_same_input_in_any_order_packed_or_piped_gives_the_same_report() {
    let setup = setup();
    let files = Files::good(8);
    files.write(setup.root());
    let said = reconcile(&setup, &[]);
    assert!(said.expect(0).contains("Reconciled: no exceptions.") && said.stdout.contains("JPY"), "{}", said.stdout);
    let first = report(&setup);
    assert!(!setup.data("echopilot.db").exists(), "no database was needed");

    files.clone().reversed().write(setup.root());
    reconcile(&setup, &[]).expect(0);
    assert_eq!(report(&setup), first, "in another order");

    for name in ["transactions", "ledger"] {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&std::fs::read(setup.root().join(name)).expect("it is there")).expect("memory takes it");
        std::fs::write(setup.root().join(format!("{name}.gz")), packed.finish().expect("memory takes it")).expect("a file can be written");
    }
    let now = NOW.to_string();
    let packed = ["reconcile", "--payouts", "payouts", "--balance-transactions", "transactions.gz", "--ledger", "ledger.gz", "--now", &now];
    setup.cli(&[&packed[..], &["--out", "report.json"]].concat()).expect(0);
    assert_eq!(report(&setup), first, "packed");

    let mut piped = command("sh");
    piped.args(["-c", "gzip -dc transactions.gz | \"$0\" reconcile --payouts payouts --balance-transactions - --ledger ledger --now \"$1\" --out report.json"]);
    piped.arg(env!("CARGO_BIN_EXE_echopilot-under-test")).arg(&now).current_dir(setup.root());
    run_to_end(piped, Duration::from_secs(60)).expect(0);
    assert_eq!(report(&setup), first, "from standard input");
    let summary = reconcile(&setup, &["--json"]).json(0);
    assert_eq!((&summary["ok"], &summary["rows"]["ledger"], &summary["summary"]["matched"]), (&json!(true), &json!(8 * 22), &json!(8)));
}

#[test]
fn exceptions_are_named_and_the_exit_code_is_1() {
    let setup = setup();
    let mut files = Files::good(6);
    files.transaction("txn_charge_ch_1_3")["amount"] = json!(1004);
    files.transaction("txn_charge_ch_1_3")["net"] = json!(945);
    files.payouts[1]["amount"] = json!(files.payouts[1]["amount"].as_i64().expect("an amount") + 1);
    files.ledger.retain(|l| l["source"] != "ch_2_2");
    let again = files.ledger[0].clone();
    files.ledger.push(again);
    files.ledger.push(json!({"id": "le_x", "kind": "charge", "source": "ch_x", "amount": 5, "currency": "usd", "at": NOW - 11 * DAY}));
    files.ledger.push(json!({"id": "le_y", "kind": "charge", "source": "py_y", "amount": 5, "currency": "usd", "at": NOW - 11 * DAY,
        "payment_method_type": "sepa_debit"}));
    files.write(setup.root());
    let said = reconcile(&setup, &[]);
    assert!(said.expect(1).contains("exceptions:"), "{}", said.stdout);
    let mut found = kinds(&setup);
    found.sort_unstable();
    // The payout was booked with the amount that it had, so that it differs from the ledger too.
    assert_eq!(found, ["amount_mismatch", "amount_mismatch", "duplicate_local", "missing_in_ledger", "missing_provider"]);
    reconcile(&setup, &["--grace-days", "12"]).expect(1);
    assert!(!kinds(&setup).contains(&"missing_provider".to_owned()));
    // A low one alone is one all the same.
    let mut odd = Files::good(1);
    odd.row("obligation", "x", 5, 0, "usd", NOW, None);
    odd.ledger.pop();
    odd.write(setup.root());
    reconcile(&setup, &[]).expect(1);
    assert_eq!(kinds(&setup), ["unclassified"]);
}

#[test]
fn every_bad_line_is_told_by_file_and_number_and_nothing_is_written() {
    let setup = setup();
    Files::good(3).write(setup.root());
    let append = |name: &str, text: &str| {
        let mut file = std::fs::OpenOptions::new().append(true).open(setup.root().join(name)).expect("it is there");
        file.write_all(text.as_bytes()).expect("the disk has room");
    };
    append("payouts", "\n{\"id\":\"po_9\",\"amount\":1.5,\"currency\":\"usd\",\"created\":1}\n");
    append(
        "transactions",
        "{\"id\":\"txn_9\",\"amount\":1,\"created\":1}\nnot json\n[]\n{\"id\":\"txn_8\",\"amount\":9223372036854775807,\"currency\":\"usd\",\"created\":1}\n",
    );
    append("ledger", "{\"id\":\"le_9\",\"kind\":\"charge\",\"source\":\"\",\"amount\":1,\"currency\":\"usd\",\"at\":1}\n{\"id\":\"le_8\"");
    let said = reconcile(&setup, &[]);
    said.expect(2);
    for told in [
        "payouts, line 5: amount is not an integer",
        "transactions, line 67: currency is missing",
        "transactions, line 68: this is not JSON",
        "transactions, line 69: this is not a JSON object",
        "transactions, line 70: amount is out of range",
        "ledger, line 67: source is not a text",
        "ledger, line 68: this is not JSON",
    ] {
        assert!(said.stderr.contains(told), "{told} is in:\n{}", said.stderr);
    }
    assert!(!setup.root().join("report.json").exists());
    let problems = reconcile(&setup, &["--json"]).json(2);
    assert_eq!((&problems["problems"][0]["line"], problems["problems"].as_array().map(Vec::len)), (&json!(5), Some(7)), "{problems}");

    std::fs::remove_file(setup.root().join("ledger")).expect("it was there");
    assert!(reconcile(&setup, &[]).stderr.contains("ledger: cannot be read"), "a file that is not there");
    std::fs::write(setup.root().join("ledger.gz"), b"not packed").expect("a file can be written");
    let packed = setup.cli(&["reconcile", "--csv", "x", "--ledger", "ledger.gz", "--now", "5"]);
    packed.expect(2);
    assert!(
        packed.stderr.contains("ledger.gz, line 1: cannot be read") && packed.stderr.contains("x: cannot be read"),
        "{}",
        packed.stderr
    );
    for wrong in [&["reconcile", "--ledger", "ledger", "--now", "5"][..], &["reconcile", "--payouts", "p"], &["reconcile", "--now", "5"]] {
        setup.cli(wrong).expect(2);
    }
}

#[test]
fn the_providers_own_reports_stand_in_for_its_objects() {
    let setup = setup();
    let csv = |name: &str, text: &str| std::fs::write(setup.root().join(name), text).expect("a file can be written");
    csv(
        "payouts.csv",
        "reporting_category,unknown,automatic_payout_id,automatic_payout_effective_at,balance_transaction_id,created_utc,currency,gross,fee,net,source_id,customer_facing_amount,customer_facing_currency\n\
         charge,\"a, b\",po_1,2026-01-05,txn_1,2026-01-02 10:00:00,USD,10.00,0.59,9.41,ch_1,10.00,usd\n\
         charge,,po_1,2026-01-05,txn_2,2026-01-02 11:00:00,usd,22.00,1.00,21.00,ch_2,20.00,eur\n\
         refund,,po_1,2026-01-05,txn_3,2026-01-03 10:00:00,usd,-4.00,0.00,-4.00,re_1,,\n",
    );
    csv(
        "balance.csv",
        "balance_transaction_id,created,available_on,currency,gross,fee,net,reporting_category,source_id\n\
         txn_1,2026-01-02T10:00:00,2026-01-04,usd,10.00,0.59,9.41,charge,ch_1\n\
         txn_p,2026-01-04 00:00:00,2026-01-04,usd,-26.41,0.00,-26.41,payout,po_1\n\
         txn_4,2026-01-08 00:00:00,2026-01-10,jpy,500,20,480,charge,ch_4\n",
    );
    let lines = [
        ("charge", "ch_1", 1000, "usd"),
        ("charge", "ch_2", 2000, "eur"),
        ("refund", "re_1", -400, "usd"),
        ("charge", "ch_4", 500, "jpy"),
        ("payout", "po_1", -2641, "usd"),
    ];
    let ledger: String = lines
        .iter()
        .map(|(kind, source, amount, currency)| {
            format!("{}\n", json!({"id": format!("le_{source}"), "kind": kind, "source": source, "amount": amount, "currency": currency, "at": 1_767_400_000}))
        })
        .collect();
    csv("ledger", &ledger);
    let run = |files: &[&str]| {
        let mut arguments = vec!["reconcile", "--json", "--ledger", "ledger", "--now", "1770000000", "--out", "report.json"];
        files.iter().for_each(|file| arguments.extend(["--csv", file]));
        setup.cli(&arguments)
    };
    let fine = run(&["payouts.csv", "balance.csv"]).json(0);
    assert_eq!((&fine["summary"]["matched"], &fine["totals"][0]["payout_amount"]), (&json!(1), &json!(2641)), "{fine}");
    assert_eq!(fine["summary"]["transactions"]["matched_pending_payout"], 1, "the yen are not paid out yet");
    let first = report(&setup);
    run(&["balance.csv", "payouts.csv"]).expect(0);
    assert_eq!(report(&setup), first, "in either order");

    let alone = run(&["payouts.csv"]);
    alone.expect(2);
    assert!(alone.stdout.contains("payout po_1 is named, and no report has its own row"), "{}", alone.stdout);
    csv("bad.csv", "balance_transaction_id,created,currency,gross,fee,reporting_category\n");
    csv(
        "worse.csv",
        "balance_transaction_id,created,currency,gross,fee,net,reporting_category\ntxn_1,2026-01-02,usd,1.234,0,1,charge\ntxn_2,soon,usd,1,0,1,charge\ntxn_3,2026-01-02,usd,1\n",
    );
    let bad = run(&["bad.csv", "worse.csv"]);
    bad.expect(2);
    for told in ["there is no column net", "gross: '1.234' is not an amount in USD", "'soon' is not a time", "this is not a row"] {
        assert!(bad.stdout.contains(told), "{told} is in {}", bad.stdout);
    }
}

/// The highest memory that a run needed, in MiB, as the kernel saw it (proc_pid_status(5)).
fn peak_mib(mut command: Command) -> f64 {
    let mut child = command.stdout(Stdio::null()).spawn().expect("the program starts");
    let path = format!("/proc/{}/status", child.id());
    let mut peak = 0.0_f64;
    integration_tests::until("the reconciliation to end", Duration::from_secs(120), || {
        let status = std::fs::read_to_string(&path).unwrap_or_default();
        let now = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
        peak = peak.max(now.unwrap_or(0.0) / 1024.0);
        child.try_wait().ok().flatten().map(|status| assert_eq!(status.code(), Some(0)))
    });
    peak
}

#[test]
fn memory_holds_the_rows_and_never_a_file() {
    let setup = setup();
    let command = |setup: &Setup| {
        let now = NOW.to_string();
        setup.program(&["reconcile", "--payouts", "payouts", "--balance-transactions", "transactions", "--ledger", "ledger", "--now", &now])
    };
    let mut files = Files::good(100);
    files.write(setup.root());
    let lean = peak_mib(command(&setup));
    // The same rows in a file of more than a hundred megabytes.
    let padding = "x".repeat(60_000);
    files.transactions.iter_mut().for_each(|t| t["description"] = json!(padding));
    files.write(setup.root());
    let size = std::fs::metadata(setup.root().join("transactions")).expect("it is there").len() >> 20;
    let padded = peak_mib(command(&setup));
    assert!(size > 100 && padded < lean + 40.0, "{lean} MiB, and {padded} MiB with a file of {size} MiB");
}

#[test]
fn duckdb_counts_the_same() {
    let setup = setup();
    let mut files = Files::good(40);
    for (n, transaction) in files.transactions.iter_mut().enumerate() {
        match n % 97 {
            3 => transaction["amount"] = json!(transaction["amount"].as_i64().expect("an amount") + 1),
            50 => transaction["currency"] = json!("eur"),
            _ => {}
        }
    }
    for line in files.ledger.iter_mut().skip(5).step_by(83).filter(|line| line["kind"] == "charge") {
        line["amount"] = json!(line["amount"].as_i64().expect("an amount") + 1);
    }
    for n in (0..files.ledger.len()).step_by(71) {
        let again = files.ledger[n].clone();
        files.ledger.push(again);
    }
    files.ledger.retain(|l| !l["source"].as_str().is_some_and(|source| source.ends_with("_13")));
    for age in [9, 11] {
        files.ledger.push(json!({"id": format!("le_{age}"), "kind": "charge", "source": format!("ch_{age}"), "amount": 5, "currency": "usd", "at": NOW - age * DAY}));
    }
    files.transactions.extend_from_within(10..40);
    files.payouts[7]["amount"] = json!(1);
    files.write(setup.root());
    let ours = reconcile(&setup, &["--json"]).json(1);
    let mut command: Command = python();
    let script: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/peers/duckdb_reconcile.py");
    command.arg(script).args(["payouts", "transactions", "ledger", &NOW.to_string()]).current_dir(setup.root());
    let theirs = run_to_end(command, Duration::from_secs(60)).json(0);
    for (status, count) in ours["summary"]["transactions"].as_object().expect("counts").iter().filter(|(status, _)| *status != "total") {
        assert_eq!(count.as_u64(), Some(theirs["transactions"][status].as_u64().unwrap_or(0)), "{status}: {ours} against {theirs}");
    }
    for status in [
        "amount_mismatch",
        "currency_mismatch",
        "duplicate_local",
        "missing_in_ledger",
        "missing_provider",
        "pending_provider",
        "provider_inconsistent",
    ] {
        assert!(ours["summary"]["transactions"][status].as_u64() > Some(0), "{status} is among them: {ours}");
    }
}

#[test]
fn without_files_it_reconciles_now_with_and_without_a_daemon() {
    let setup = setup();
    let run = setup.cli(&["reconcile", "--json"]).json(0);
    assert_eq!((&run["task"], &run["state"], &run["result"]["ok"]), (&json!("payout_recon"), &json!("succeeded"), &json!(true)), "{run}");
    let daemon = setup.start();
    daemon.cli(&["reconcile"]).expect(0);
    assert_eq!(daemon.setup().count("SELECT COUNT(*) FROM recon_run WHERE kind = 'payouts'"), 2);
}
