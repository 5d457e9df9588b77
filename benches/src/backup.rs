//! Our archives beside GNU tar | gzip, tar | pigz, restic and borg, in one run on one corpus, in turns: first backup, after 1 % was
//! appended, nothing changed, one file out, everything out, verification. Then how time and memory grow with the corpus.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
};

const ROUNDS: usize = 3;
const LOGS: usize = 66;
const SMALL: u64 = 4_000;
const PAYOUTS: u64 = 200;
const BLOBS: u64 = 8;

/// What a command took.
#[derive(Clone, Copy, Default)]
struct Took {
    seconds: f64,
    cpu: f64,
    peak_mib: f64,
    /// Bytes on the disk afterwards.
    stored: u64,
}

pub(crate) fn figures(quick: bool) {
    let megabytes = if quick { 100 } else { 1_000 };
    let folder = tempfile::tempdir().expect("a folder for the corpus");
    let corpus = Corpus::write(&folder.path().join("corpus"), megabytes);
    println!(
        "backups of {:.0} MB in {} files: {LOGS} logs, {SMALL} small files, {PAYOUTS} payouts, {BLOBS} blobs, a database",
        corpus.megabytes(),
        Corpus::files()
    );
    println!("(each with its files synced at the end; restic and borg do that themselves, tar is told to)");
    let tools = tools(folder.path());
    compare(&tools, &corpus);
    drop(corpus);
    grow(folder.path(), quick);
}

/// A way to make backups, as commands of the shell. `{n}` is the number of the backup, `{p}` the one before.
struct Tool {
    name: &'static str,
    prepare: String,
    backup: String,
    cat: String,
    restore: String,
    verify: String,
    store: PathBuf,
}

fn tools(folder: &Path) -> Vec<Tool> {
    let program = std::env::var("ECHOPILOT_BENCH_ARCHIVE").expect("benches/run builds the archive program and names it");
    let at = |name: &str| folder.join(name).display().to_string();
    let (from, ours, gzip, pigz, restic, borg) = (at(""), at("ours"), at("gzip"), at("pigz"), at("restic"), at("borg"));
    let fresh = |store: &str| format!("rm -rf {store} && mkdir {store}");
    let tar = |name: &'static str, store: &str, pack: &str, unpack: &str| Tool {
        name,
        prepare: fresh(store),
        backup: format!("tar -C {from} -cf - corpus | {pack} > {store}/{{n}}.tar.gz && sync {store}/{{n}}.tar.gz"),
        cat: format!("{unpack} -dc {store}/{{n}}.tar.gz | tar -xOf - corpus/{{file}}"),
        restore: format!("mkdir out && {unpack} -dc {store}/{{n}}.tar.gz | tar -xf - -C out && sync -f out"),
        verify: format!("{unpack} -t {store}/{{n}}.tar.gz"),
        store: store.into(),
    };
    let restic_env = format!("export RESTIC_PASSWORD=x RESTIC_CACHE_DIR={restic}.cache RESTIC_REPOSITORY={restic};");
    let borg_env =
        format!("export BORG_BASE_DIR={borg}.base BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes BORG_RELOCATED_REPO_ACCESS_IS_OK=yes;");
    vec![
        Tool {
            name: "EchoPilot",
            prepare: fresh(&ours),
            backup: format!(
                "{program} create {ours}/{{n}}.tar.gz $(test -e {ours}/{{p}}.tar.gz && echo --prev {ours}/{{p}}.tar.gz) {from}corpus"
            ),
            cat: format!("{program} cat {ours}/{{n}}.tar.gz corpus/{{file}}"),
            restore: format!("{program} extract {ours}/{{n}}.tar.gz out"),
            verify: format!("{program} verify {ours}/{{n}}.tar.gz"),
            store: ours.into(),
        },
        tar("tar | gzip", &gzip, "gzip", "gzip"),
        tar("tar | pigz", &pigz, "pigz", "pigz"),
        Tool {
            name: "restic",
            prepare: format!("{restic_env} rm -rf {restic} {restic}.cache && restic init"),
            backup: format!("{restic_env} cd {from} && restic backup corpus"),
            cat: format!("{restic_env} restic dump latest /corpus/{{file}}"),
            restore: format!("{restic_env} restic restore latest --target out && sync -f out"),
            verify: format!("{restic_env} restic check --read-data"),
            store: restic.into(),
        },
        Tool {
            name: "borg zstd,3",
            prepare: format!("{borg_env} rm -rf {borg} {borg}.base && borg init -e none {borg}"),
            backup: format!("{borg_env} cd {from} && borg create -C zstd,3 {borg}::{{n}} corpus"),
            cat: format!("{borg_env} borg extract --stdout {borg}::{{n}} corpus/{{file}}"),
            restore: format!("{borg_env} mkdir out && cd out && borg extract {borg}::{{n}} && sync -f ."),
            verify: format!("{borg_env} borg check --verify-data {borg}"),
            store: borg.into(),
        },
    ]
}

impl Tool {
    fn run(&self, command: &str, number: usize, file: &str) -> Took {
        let command = command.replace("{n}", &number.to_string()).replace("{p}", &number.wrapping_sub(1).to_string());
        let folder = self.store.parent().expect("it is below the folder of the run");
        let out = folder.join("out");
        if out.exists() {
            fs::remove_dir_all(&out).expect("what was restored can be removed");
        }
        let took = measured(&command.replace("{file}", file), folder);
        Took { stored: size_of(&self.store), ..took }
    }
}

fn measured(command: &str, folder: &Path) -> Took {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/measured.py");
    let output = Command::new("python3").arg(script).arg(command).current_dir(folder).output().expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let took: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it prints JSON");
    let figure = |name: &str| took[name].as_f64().expect("a figure");
    Took { seconds: figure("seconds"), cpu: figure("cpu"), peak_mib: figure("peak_mib"), stored: 0 }
}

fn compare(tools: &[Tool], corpus: &Corpus) {
    let mut number = 0;
    // A B C in turns; answers the median of each.
    let mut turns = |what: &str, before: &dyn Fn(), each: &dyn Fn(&Tool, usize) -> Took, step: usize| {
        let mut all = vec![Vec::new(); tools.len()];
        for _ in 0..ROUNDS {
            before();
            number += step;
            for (tool, took) in tools.iter().zip(&mut all) {
                took.push(each(tool, number));
            }
        }
        println!("{what}");
        let median = |of: fn(&Took) -> f64, runs: &[Took]| crate::median(runs.iter().map(of).collect());
        let medians: Vec<Took> = all
            .iter()
            .map(|runs| Took {
                seconds: median(|t| t.seconds, runs),
                cpu: median(|t| t.cpu, runs),
                peak_mib: median(|t| t.peak_mib, runs),
                stored: runs[runs.len() - 1].stored,
            })
            .collect();
        for (tool, took) in tools.iter().zip(&medians) {
            let ratio = if tool.name == tools[0].name { String::new() } else { format!("ratio {:.3}", medians[0].seconds / took.seconds) };
            println!(
                "  {:<12} {:>9.3} s {:>8.2} s of CPU {:>7.0} MiB {:>8.1} MB stored   {ratio}",
                tool.name,
                took.seconds,
                took.cpu,
                took.peak_mib,
                took.stored as f64 / 1e6
            );
        }
        medians
    };
    let nothing = || {};
    let first = turns(
        "first backup",
        &nothing,
        &|tool, n| {
            measured(&tool.prepare, tool.store.parent().expect("a folder"));
            tool.run(&tool.backup, n, "")
        },
        1,
    );
    let appended = turns("after 1 % was appended to the logs", &|| corpus.append(), &|tool, n| tool.run(&tool.backup, n, ""), 1);
    let same = turns("nothing changed", &nothing, &|tool, n| tool.run(&tool.backup, n, ""), 1);
    let small = turns("one small file out", &nothing, &|tool, n| tool.run(&tool.cat, n, "state/2/2222.json"), 0);
    let large = turns("one large file out", &nothing, &|tool, n| tool.run(&tool.cat, n, "logs/log-65.ndjson"), 0);
    let restore = turns("everything out", &nothing, &|tool, n| tool.run(&tool.restore, n, ""), 0);
    let verify = turns(
        "verification of every byte (restic and borg: of all their backups, which share what is the same)",
        &nothing,
        &|tool, n| tool.run(&tool.verify, n, ""),
        0,
    );

    println!("wanted of the figures above (how many times as fast as the other):");
    let speed = |what: &str, of: &[Took], tool: usize, least: f64| {
        let times = of[tool].seconds / of[0].seconds;
        let verdict = if times >= least { "reached" } else { "missed" };
        println!("  {what:<44} {times:>7.1} x   wanted {least:>4} x   {verdict}");
    };
    speed("first backup: tar | gzip", &first, 1, 2.0);
    speed("first backup: tar | pigz", &first, 2, 1.0);
    speed("first backup: restic", &first, 3, 1.0);
    speed("first backup: borg zstd,3", &first, 4, 1.0);
    speed("after 1 %: tar | gzip", &appended, 1, 15.0);
    speed("after 1 %: restic", &appended, 3, 5.0);
    speed("one small file: restic", &small, 3, 50.0);
    speed("verification: gzip -t", &verify, 1, 4.0);
    let size = first[0].stored as f64 / first[1].stored as f64;
    println!(
        "  size of the first, of tar | gzip's           {size:>7.3}     wanted <= 1    {}",
        if size <= 1.0 { "reached" } else { "missed" }
    );
    let peak = [&first, &appended, &same, &small, &large, &restore, &verify].iter().map(|of| of[0].peak_mib).fold(0.0, f64::max);
    println!(
        "  peak memory                                  {peak:>7.0} MiB wanted <  100  {}",
        if peak < 100.0 { "reached" } else { "missed" }
    );
}

fn grow(folder: &Path, quick: bool) {
    let sizes: &[u64] = if quick { &[20, 100] } else { &[100, 1_000, 10_000] };
    println!("EchoPilot's time and memory as the corpus grows:");
    for megabytes in sizes {
        let corpus = Corpus::write(&folder.join("corpus"), *megabytes);
        let ours = &tools(folder)[0];
        measured(&ours.prepare, folder);
        let (first, same) = (ours.run(&ours.backup, 1, ""), ours.run(&ours.backup, 2, ""));
        let verify = ours.run(&ours.verify, 2, "");
        let per_byte = |took: Took| took.seconds * 1e9 / (corpus.megabytes() * 1e6);
        println!(
            "  {:>6.0} MB   first {:>6.2} ns for each byte ({:.0} MiB), nothing changed {:>5.2} ({:.0} MiB), verification {:>5.2} ({:.0} MiB)",
            corpus.megabytes(),
            per_byte(first),
            first.peak_mib,
            per_byte(same),
            same.peak_mib,
            per_byte(verify),
            verify.peak_mib
        );
        fs::remove_dir_all(&ours.store).expect("our archives can be removed");
    }
}

fn size_of(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    if !meta.is_dir() {
        return meta.len();
    }
    fs::read_dir(path).expect("a folder can be listed").flatten().map(|entry| size_of(&entry.path())).sum()
}

/// What is backed up: mostly logs of very different sizes, many small files, blobs that do not compress, a database. The same for the
/// same size. It goes when it is dropped.
struct Corpus {
    path: PathBuf,
}

impl Drop for Corpus {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path); // the folder around it goes anyway
    }
}

impl Corpus {
    fn write(path: &Path, megabytes: u64) -> Self {
        let total = megabytes * 1_000_000;
        let corpus = Self { path: path.to_owned() };
        let mut dice = Dice(0x5eed);
        // Each log is 12 % larger than the one before: from a few hundred bytes of a thousand to a tenth of all.
        let shares: Vec<u128> = std::iter::successors(Some(1 << 20), |share| Some(share * 112 / 100)).take(LOGS).collect();
        let all: u128 = shares.iter().sum();
        for (n, share) in shares.iter().enumerate() {
            let bytes = u64::try_from(u128::from(total) * 80 / 100 * share / all).expect("less than all");
            corpus.file(&format!("logs/log-{n:02}.ndjson"), |out| lines(out, &mut dice, bytes));
        }
        for n in 0..SMALL {
            let bytes = 500 + dice.below(2 * total * 3 / 100 / SMALL);
            corpus.file(&format!("state/{}/{n}.json", n / 1000), |out| lines(out, &mut dice, bytes));
        }
        for n in 0..PAYOUTS {
            corpus.file(&format!("payouts/po_{n:05}.json"), |out| lines(out, &mut dice, total * 4 / 100 / PAYOUTS));
        }
        for n in 0..BLOBS {
            corpus.file(&format!("blobs/{n}.bin"), |out| {
                (0..total * 8 / 100 / BLOBS / 8).try_for_each(|_| out.write_all(&dice.next().to_le_bytes()))
            });
        }
        corpus.database(&mut dice, total * 5 / 100);
        corpus
    }

    fn file(&self, name: &str, fill: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>) {
        let path = self.path.join(name);
        fs::create_dir_all(path.parent().expect("it is below the corpus")).expect("a folder of the corpus");
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path).expect("a file of the corpus"));
        fill(&mut out).and_then(|()| out.flush()).expect("there is room for the corpus");
    }

    fn database(&self, dice: &mut Dice, bytes: u64) {
        let mut database = rusqlite::Connection::open(self.path.join("echopilot.db")).expect("a database");
        let transaction = database.transaction().expect("a transaction");
        transaction.execute_batch("CREATE TABLE event (id TEXT PRIMARY KEY, at INTEGER, body TEXT)").expect("a table");
        {
            let mut insert = transaction.prepare("INSERT INTO event VALUES (?, ?, ?)").expect("an insertion");
            for at in 0..bytes / 420 {
                let mut body = Vec::new();
                line(&mut body, dice).expect("memory takes it");
                let id = format!("evt_{:016x}", dice.next());
                insert.execute((id, i64::try_from(at).expect("few rows"), String::from_utf8(body).expect("text"))).expect("a row");
            }
        }
        transaction.commit().expect("the rows are written");
    }

    /// One hundredth of the corpus more, over all logs by their size.
    fn append(&self) {
        let mut dice = Dice(size_of(&self.path));
        for entry in fs::read_dir(self.path.join("logs")).expect("the logs").flatten() {
            let more = entry.metadata().expect("a log").len() / 80;
            let file = File::options().append(true).open(entry.path()).expect("a log can be opened");
            let mut out = BufWriter::new(file);
            lines(&mut out, &mut dice, more).and_then(|()| out.flush()).expect("there is room for more");
        }
    }

    fn megabytes(&self) -> f64 {
        size_of(&self.path) as f64 / 1e6
    }

    fn files() -> u64 {
        LOGS as u64 + SMALL + PAYOUTS + BLOBS + 1
    }
}

/// Whole lines, at least so many bytes of them.
fn lines(out: &mut impl Write, dice: &mut Dice, bytes: u64) -> std::io::Result<()> {
    let (mut written, mut one) = (0, Vec::new());
    while written < bytes {
        one.clear();
        line(&mut one, dice)?;
        written += one.len() as u64;
        out.write_all(&one)?;
    }
    Ok(())
}

/// What a daemon that takes payments writes down: ids nobody can guess among words that repeat.
fn line(out: &mut Vec<u8>, dice: &mut Dice) -> std::io::Result<()> {
    const KINDS: [&str; 6] =
        ["charge.succeeded", "charge.failed", "payout.paid", "invoice.paid", "charge.refunded", "customer.subscription.updated"];
    const LEVELS: [&str; 4] = ["INFO", "INFO", "INFO", "WARN"];
    let (a, b) = (dice.next(), dice.next());
    let kind = KINDS[usize::try_from(a % 6).expect("six")];
    let level = LEVELS[usize::try_from(b % 4).expect("four")];
    let at = 1_700_000_000_000 + dice.below(100_000_000);
    writeln!(
        out,
        "{{\"at\":{at},\"level\":\"{level}\",\"event\":\"evt_{a:016x}\",\"type\":\"{kind}\",\"object\":\"ch_{b:016x}\",\"amount\":{},\"currency\":\"eur\",\"status\":\"succeeded\",\"took_ms\":{},\"livemode\":false,\"message\":\"the event was applied to the ledger\"}}",
        dice.below(200_000),
        dice.below(300)
    )
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
