//! Kinds of log lines: lines of known kinds are grouped by our miner and by drain3 (PyPI), with its defaults and with masks like ours, and each
//! is scored against what is known. Grouping accuracy as in the literature: a line counts if its group is exactly the lines of its kind.

use std::{collections::BTreeMap, fs, time::Duration};

use chrono::DateTime;
use echopilot_actors::domain::log_template::{Miner, Settings};
use integration_tests::{peer, python, run_to_end};

const LINES: usize = 6000;

/// A generator of its own: the same lines everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        let n = self.below(words.len() as u64);
        words[usize::try_from(n).expect("small")]
    }

    /// What stands for `{...}` in a kind.
    fn fill(&mut self, what: &str) -> String {
        let n = self.below(1 << 31);
        match what {
            "num" => format!("{}", n % 10_000),
            "ms" => format!("{}ms", n % 5000),
            "amount" => format!("{}.{:02}", n % 900, n % 100),
            "ip" => format!("10.{}.{}.{}", n % 200, n / 7 % 250, n / 31 % 250),
            "evt" => format!("evt_1Q{n:010x}7"),
            "ch" => format!("ch_3P{n:010x}9"),
            "uuid" => format!("{n:08x}-1234-4abc-8def-{:012x}", n * 77),
            "email" => format!("{}{}@{}.example", self.of(&["ana", "bo", "cy"]), n % 500, self.of(&["shop", "mail"])),
            "path" => format!("/var/lib/{}/{}-{n:x}.db", self.of(&["shop", "echopilot"]), self.of(&["data", "copy"])),
            "url" => format!("https://api.example/v1/{}?page={n}", self.of(&["charges", "payouts"])),
            "hex" => format!("0x{n:08x}"),
            "user" => self.of(&["ana", "bo", "cyril", "dora", "emil", "fatima", "gus", "hana", "ivo", "jun"]).to_owned(),
            "task" => self.of(&["heartbeat", "daily_backup", "payout_recon", "slo_guard", "replica_sync"]).to_owned(),
            other => panic!("{other}"),
        }
    }

    fn line(&mut self, kind: &str) -> String {
        let mut out = String::new();
        for (n, part) in kind.split(['{', '}']).enumerate() {
            if n % 2 == 0 { out.push_str(part) } else { out.push_str(&self.fill(part)) }
        }
        out
    }
}

/// What our own programs, and a shop's, may say.
const KINDS: [&str; 28] = [
    "webhook {evt} was refused by {ip}: signature does not match",
    "webhook {evt} was applied in {ms}",
    "webhook {evt} could not be applied: charge {ch} is unknown",
    "cannot reach {url}: timed out after {ms}",
    "cannot reach {url}: connection refused",
    "payment {ch} of {amount} usd failed: card was declined",
    "payment {ch} of {amount} usd succeeded",
    "refund of {amount} eur for {ch} is pending since {num} s",
    "run {uuid} of task {task} failed after {num} attempts",
    "run {uuid} of task {task} ended after {ms}",
    "the database does not answer: disk i/o error in {path}",
    "cannot open {path}: permission denied",
    "cannot write {path}: no space left on device",
    "user {user} signed in from {ip}",
    "user {user} could not sign in from {ip}: wrong key",
    "mail to {email} was not accepted: 550 mailbox unavailable",
    "mail to {email} was sent in {ms}",
    "{num} of {num} rows do not agree",
    "{num} rows were reconciled in {ms}",
    "GET {url} answered 503 after {ms}",
    "POST {url} answered 429 after {ms}, trying again",
    "thread {num} panicked at {hex}: index out of bounds",
    "segment {hex} of {path} is damaged",
    "lease {uuid} was taken over from {ip}",
    "order {num} of {email} was shipped",
    "stock of article {num} is below {num}",
    "certificate of {url} ends in {num} days",
    "connection from {ip} closed after {num} bytes",
];

fn accuracy<T: Ord>(truth: &[usize], found: &[T]) -> f64 {
    let mut groups: BTreeMap<&T, BTreeMap<usize, usize>> = BTreeMap::new();
    let mut sizes: BTreeMap<usize, usize> = BTreeMap::new();
    for (kind, group) in truth.iter().zip(found) {
        *groups.entry(group).or_default().entry(*kind).or_default() += 1;
        *sizes.entry(*kind).or_default() += 1;
    }
    let right: usize = groups
        .values()
        .filter(|kinds| kinds.len() == 1)
        .flat_map(BTreeMap::iter)
        .filter(|(kind, n)| sizes[*kind] == **n)
        .map(|(_, n)| *n)
        .sum();
    right as f64 / truth.len() as f64
}

#[test]
fn lines_of_known_kinds_are_grouped_at_least_as_well_as_by_drain3() {
    let mut random = Random(2017);
    let (mut truth, mut lines) = (Vec::new(), Vec::new());
    for _ in 0..LINES {
        let kind = usize::try_from(random.below(KINDS.len() as u64)).expect("small");
        truth.push(kind);
        lines.push(random.line(KINDS[kind]));
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("lines.log");
    fs::write(&file, lines.join("\n")).expect("the lines are written");
    let mut theirs = python();
    theirs.arg(peer("drain_templates.py")).arg(&file);
    let theirs = run_to_end(theirs, Duration::from_mins(2)).json(0);
    let group = |name: &str| -> Vec<u64> { theirs[name].as_array().into_iter().flatten().filter_map(serde_json::Value::as_u64).collect() };
    let (defaults, masked) = (group("defaults"), group("masked"));
    assert_eq!((defaults.len(), masked.len()), (LINES, LINES));

    let now = DateTime::from_timestamp(1_790_000_000, 0).expect("a time");
    let mut miner = Miner::new("x", Settings::default(), Vec::new());
    let ours: Vec<usize> = lines.iter().map(|line| miner.learn(line, now).template).collect();
    let (ours, defaults, masked) = (accuracy(&truth, &ours), accuracy(&truth, &defaults), accuracy(&truth, &masked));
    println!(
        "grouping accuracy over {LINES} lines of {} kinds: ours {ours:.3}, drain3 {defaults:.3}, drain3 with masks {masked:.3}",
        KINDS.len()
    );
    assert!(ours >= defaults && ours >= masked && ours > 0.95, "ours {ours}, drain3 {defaults}, with masks {masked}");
}
