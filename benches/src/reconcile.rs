//! `echopilot reconcile` on files of a million balance transactions and as many ledger rows, beside the same joins and checks in DuckDB
//! on the same files, in turns; and how time grows from a hundred thousand rows to five million. Both find the same, or this panics.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value as Json;

const ROUNDS: usize = 3;
const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;
/// Balance transactions in a payout, its own among them.
const PER_PAYOUT: usize = 350;

/// What a run took.
struct Took {
    seconds: f64,
    peak_mib: f64,
    output: Json,
}

pub(crate) fn figures(program: &str, quick: bool) {
    let python = std::env::var("ECHOPILOT_BENCH_PYTHON").expect("benches/run makes a Python with DuckDB and names it");
    let rows = if quick { 100_000 } else { 1_000_000 };
    let folder = Files::write(rows);
    println!("reconciling {rows} balance transactions with {rows} ledger rows, from files ({:.0} MB):", folder.megabytes());
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        theirs.push(folder.duckdb(&python));
        ours.push(folder.echopilot(program));
        same(&ours[ours.len() - 1].output, &theirs[theirs.len() - 1].output);
    }
    let median = |of: fn(&Took) -> f64, runs: &[Took]| crate::median(runs.iter().map(of).collect());
    let (time, their_time) = (median(|t| t.seconds, &ours), median(|t| t.seconds, &theirs));
    let (memory, their_memory) = (median(|t| t.peak_mib, &ours), median(|t| t.peak_mib, &theirs));
    println!("echopilot reconcile                   {time:>9.2} s");
    println!("  DuckDB, the same joins and checks   {their_time:>9.2} s    ratio {:.2}", time / their_time);
    println!("peak memory (resident)                {memory:>9.0} MiB");
    println!("  DuckDB                              {their_memory:>9.0} MiB  ratio {:.2}", memory / their_memory);
    drop(folder);
    let sizes: &[usize] = if quick { &[20_000, 100_000, 500_000] } else { &[100_000, 1_000_000, 5_000_000] };
    for rows in sizes {
        let folder = Files::write(*rows);
        let took = folder.echopilot(program);
        println!(
            "  {rows:>9} + {rows:<9} rows           {:>9.0} ns   for each row ({:.2} s, {:.0} MiB, {:.0} bytes for each row)",
            took.seconds * 1e9 / (2 * rows) as f64,
            took.seconds,
            took.peak_mib,
            took.peak_mib * 1_048_576.0 / (2 * rows) as f64
        );
    }
}

/// Both count the same rows in the same states, and the same payouts that do not add up.
fn same(ours: &Json, theirs: &Json) {
    let (counted, expected) = (&ours["summary"]["transactions"], &theirs["transactions"]);
    for (status, count) in counted.as_object().expect("a summary has counts").iter().filter(|(status, _)| *status != "total") {
        assert_eq!(count.as_u64(), Some(expected[status].as_u64().unwrap_or(0)), "{status}: {counted} against {expected}");
    }
    assert_eq!(ours["summary"]["payouts"]["unbalanced"], theirs["unbalanced"]);
    assert_eq!(ours["totals"][0]["unexplained"], theirs["unexplained"]);
}

/// The three files of one size, the same for the same size.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn write(rows: usize) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let open = |name: &str| BufWriter::with_capacity(1 << 20, File::create(folder.path().join(name)).expect("a file can be made"));
        let (mut payouts, mut transactions, mut ledger) = (open("payouts"), open("transactions"), open("ledger"));
        let (mut n, mut payout, mut seed) = (0, 0, 1_u64);
        while n < rows {
            let (po, at) = (id("po", payout), NOW - 400 * DAY + i64::try_from(payout).expect("small") * 3600);
            let mut sum = 0;
            for _ in 0..(PER_PAYOUT - 1).min(rows - n) {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                sum += movement(&mut transactions, &mut ledger, n, &po, at, i64::try_from(seed >> 51).expect("13 bits") + 500);
                n += 1;
            }
            let amount = if payout % 50 == 7 { sum + 7 } else { sum };
            let own = format!("txn_{po}");
            write(&mut transactions, &transaction(&own, "payout", &po, -amount, 0, at, &po));
            write(&mut ledger, &line(&format!("le_{po}"), "payout", &po, -amount, "usd", at));
            write(
                &mut payouts,
                &format!(
                    r#"{{"id":"{po}","object":"payout","amount":{amount},"arrival_date":{},"automatic":true,"balance_transaction":"{own}","created":{at},"currency":"usd","failure_balance_transaction":null,"method":"standard","reconciliation_status":"completed","status":"paid"}}"#,
                    at + DAY
                ),
            );
            (payout, n) = (payout + 1, n + 1);
        }
        for file in [&mut payouts, &mut transactions, &mut ledger] {
            file.flush().expect("the disk has room");
        }
        drop((payouts, transactions, ledger));
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn megabytes(&self) -> f64 {
        let size = |name: &str| std::fs::metadata(self.path(name)).map_or(0, |m| m.len()) as f64;
        ["payouts", "transactions", "ledger"].map(size).iter().sum::<f64>() / 1e6
    }

    fn echopilot(&self, program: &str) -> Took {
        let mut command = Command::new(program);
        command.args(["--json", "reconcile", "--now", &NOW.to_string()]);
        for (option, name) in
            [("--payouts", "payouts"), ("--balance-transactions", "transactions"), ("--ledger", "ledger"), ("--out", "report.json")]
        {
            command.arg(option).arg(self.path(name));
        }
        run(command, 1) // there are exceptions, planted ones
    }

    fn duckdb(&self, python: &str) -> Took {
        let mut command = Command::new(python);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/duckdb_reconcile.py"));
        command.args(["payouts", "transactions", "ledger"].map(|name| self.path(name))).arg(NOW.to_string());
        run(command, 0)
    }
}

/// A row on both sides; now and then one of them is not as it should be. Answers its net.
fn movement(transactions: &mut impl std::io::Write, ledger: &mut impl std::io::Write, n: usize, po: &str, at: i64, size: i64) -> i64 {
    let (category, prefix) = if n % 20 == 7 { ("refund", "re") } else { ("charge", "ch") };
    let (amount, fee) = if category == "refund" { (-size / 2, 0) } else { (size, 30 + size * 29 / 1000) };
    let (bt, source, le) = (id("txn", n), id(prefix, n), format!("le_{n:032x}"));
    let mut row = transaction(&bt, category, &source, amount, fee, at, po);
    let (mut booked, mut currency, mut copies) = (amount, "usd", 1);
    match n % 5000 {
        13 => booked += 1,
        113 => copies = 0,
        213 => copies = 2,
        313 => currency = "eur",
        413 => row = row.replace(&format!(r#""fee":{fee},"#), &format!(r#""fee":{},"#, fee + 1)),
        513 => write(transactions, &row),
        613 => write(ledger, &line(&format!("le_ghost{n}"), "charge", &id("ch_ghost", n), 500, "usd", NOW - 11 * DAY)),
        713 => write(ledger, &line(&format!("le_young{n}"), "charge", &id("ch_young", n), 500, "usd", NOW - 9 * DAY)),
        _ => {}
    }
    write(transactions, &row);
    for copy in 0..copies {
        write(ledger, &line(&if copy == 0 { le.clone() } else { format!("{le}x") }, category, &source, booked, currency, at));
    }
    amount - fee
}

/// As the provider makes them: a prefix and 24 characters.
fn id(prefix: &str, n: usize) -> String {
    format!("{prefix}_1R{:022}", (n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

fn transaction(id: &str, category: &str, source: &str, amount: i64, fee: i64, at: i64, payout: &str) -> String {
    let details = if fee == 0 {
        String::new()
    } else {
        format!(r#"{{"amount":{fee},"application":null,"currency":"usd","description":"Processing fees","type":"stripe_fee"}}"#)
    };
    format!(
        r#"{{"id":"{id}","object":"balance_transaction","amount":{amount},"available_on":{at},"balance_type":"payments","created":{at},"currency":"usd","description":null,"exchange_rate":null,"fee":{fee},"fee_details":[{details}],"net":{},"reporting_category":"{category}","source":"{source}","status":"available","type":"{category}","payout":"{payout}"}}"#,
        amount - fee
    )
}

fn line(id: &str, kind: &str, source: &str, amount: i64, currency: &str, at: i64) -> String {
    format!(r#"{{"id":"{id}","kind":"{kind}","source":"{source}","amount":{amount},"currency":"{currency}","at":{at}}}"#)
}

fn write(file: &mut impl std::io::Write, line: &str) {
    file.write_all(line.as_bytes()).and_then(|()| file.write_all(b"\n")).expect("the disk has room");
}

/// Runs a program to its end; its memory is the highest the kernel saw (proc_pid_status(5)), looked at every few milliseconds.
fn run(mut command: Command, expected: i32) -> Took {
    let start = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
    let mut stdout = child.stdout.take().expect("it was asked for");
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stdout, &mut text).map(|_| text)
    });
    let mut peak_kib = 0.0_f64;
    let status = loop {
        peak_kib = peak_kib.max(highest_kib(child.id()));
        if let Some(status) = child.try_wait().expect("the kernel tells") {
            break status;
        }
        std::thread::sleep(Duration::from_millis(3));
    };
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(status.code(), Some(expected), "a reconciliation ended otherwise than it must");
    let text = reader.join().expect("reading does not panic").expect("a pipe can be read");
    Took { seconds, peak_mib: peak_kib / 1024.0, output: serde_json::from_str(&text).expect("both print JSON") }
}

fn highest_kib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or(0.0)
}
