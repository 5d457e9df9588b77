//! `/metrics`, read as strictly as Prometheus reads it: the text format, the conventions of names and units, counters that only grow,
//! and figures that agree with the other endpoints.

#![expect(clippy::float_cmp, reason = "the figures are counts, or what another endpoint wrote")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use integration_tests::{Answer, SHORT, TestDaemon, until, yesterday};
use serde_json::{Value as Json, json};

use crate::setup;

/// A metric family: its type, and its samples by their own name and labels.
#[derive(Debug)]
struct Family {
    kind: String,
    samples: BTreeMap<(String, BTreeMap<String, String>), f64>,
}

type Families = BTreeMap<String, Family>;

fn is_name(text: &str, more: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || more.contains(c);
    !text.is_empty() && !text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(fits)
}

/// `name="value",...` up to the closing brace; answers the labels and what follows.
fn labels(mut rest: &str) -> (BTreeMap<String, String>, &str) {
    let mut found = BTreeMap::new();
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return (found, after);
        }
        let (name, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("a label: {rest}"));
        assert!(is_name(name, ""), "a label's name: {name}");
        let (mut value, mut end) = (String::new(), None);
        let mut chars = after.char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    end = Some(i + 1);
                    break;
                }
                '\\' => value.push(match chars.next() {
                    Some((_, 'n')) => '\n',
                    Some((_, c @ ('\\' | '"'))) => c,
                    other => panic!("no such escape: {other:?}"),
                }),
                _ => value.push(c),
            }
        }
        rest = &after[end.unwrap_or_else(|| panic!("a label's value ends: {after}"))..];
        assert!(found.insert(name.to_owned(), value).is_none(), "the label {name} is there twice");
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}

/// Reads the text format 0.0.4 and refuses whatever it does not allow.
fn parse(text: &str) -> Families {
    assert!(text.ends_with('\n'), "the last line ends");
    let mut families = Families::new();
    let mut help: Option<String> = None;
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, sentence) = rest.split_once(' ').unwrap_or_else(|| panic!("a help: {line}"));
            assert!(is_name(name, ":") && !sentence.trim().is_empty(), "{line}");
            help = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or_else(|| panic!("a type: {line}"));
            assert_eq!(help.as_deref(), Some(name), "help comes before type");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            name.clone_into(&mut current);
            let family = Family { kind: kind.to_owned(), samples: BTreeMap::new() };
            assert!(families.insert(current.clone(), family).is_none(), "{name} is one block");
        } else {
            let at = line.find(['{', ' ']).unwrap_or_else(|| panic!("a sample: {line}"));
            let (name, rest) = line.split_at(at);
            let (labels, rest) = rest.strip_prefix('{').map_or_else(|| (BTreeMap::new(), rest), labels);
            let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("a space before the value: {line}"));
            let value = value.parse::<f64>().unwrap_or_else(|_| panic!("a number and no time stamp: {line}"));
            let family = families.get_mut(&current).unwrap_or_else(|| panic!("a type before {line}"));
            let own = match family.kind.as_str() {
                "histogram" => name.strip_prefix(&*current).is_some_and(|end| ["_bucket", "_sum", "_count"].contains(&end)),
                _ => name == current,
            };
            assert!(own, "{name} is a sample of {current}");
            assert!(family.samples.insert((name.to_owned(), labels), value).is_none(), "{line} is there twice");
        }
    }
    families
}

/// What Prometheus' conventions ask of names and figures.
fn check(families: &Families) {
    for (name, family) in families {
        assert!(name.starts_with("echopilot_"), "{name} says whose it is");
        assert_eq!(family.kind == "counter", name.ends_with("_total"), "{name} is a {}", family.kind);
        for unit in ["_ms", "_milliseconds", "_us", "_minutes", "_percent", "_kb"] {
            assert!(!name.contains(unit), "{name} is in base units");
        }
        assert!(!family.samples.is_empty(), "{name} has samples");
        for ((sample, labels), value) in &family.samples {
            assert!(value.is_finite() && (family.kind == "gauge" || *value >= 0.0), "{sample} {labels:?} {value}");
        }
        if family.kind == "histogram" {
            check_histogram(name, family);
        }
    }
}

fn check_histogram(name: &str, family: &Family) {
    let mut buckets: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
    for ((sample, labels), value) in family.samples.iter().filter(|((sample, _), _)| sample.ends_with("_bucket")) {
        let mut labels = labels.clone();
        let bound = labels.remove("le").unwrap_or_else(|| panic!("{sample} has a bound"));
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().expect("a number") };
        buckets.entry(labels).or_default().push((bound, *value));
    }
    for (labels, mut series) in buckets {
        series.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(series.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{name} {labels:?} is cumulative: {series:?}");
        let last = series.last().expect("a bucket");
        assert!(last.0.is_infinite(), "{name} {labels:?} ends with +Inf");
        let count = family.samples[&(format!("{name}_count"), labels.clone())];
        assert_eq!((last.1, family.samples.contains_key(&(format!("{name}_sum"), labels))), (count, true), "{name}");
    }
}

fn scrape(daemon: &TestDaemon) -> (Families, Answer) {
    // An answer may be a second old.
    std::thread::sleep(Duration::from_millis(1050));
    let answer = daemon.request("GET", "/metrics", &[], b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let families = parse(&answer.text());
    check(&families);
    (families, answer)
}

#[track_caller]
fn value(families: &Families, name: &str, labels: &[(&str, &str)]) -> f64 {
    let family = name.strip_suffix("_count").filter(|_| !families.contains_key(name)).unwrap_or(name);
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let samples = &families.get(family).unwrap_or_else(|| panic!("{family} is there")).samples;
    *samples.get(&(name.to_owned(), labels)).unwrap_or_else(|| panic!("the sample of {name} is in {samples:?}"))
}

fn number(json: &Json) -> f64 {
    json.as_f64().unwrap_or_else(|| panic!("a number: {json}"))
}

#[test]
fn metrics_are_strict_text_and_agree_with_the_other_endpoints() {
    let daemon = setup().drills().start();
    let range = json!({"from": yesterday(60), "to": yesterday(300)});
    daemon.run_task("heartbeat");
    let (before, answer) = scrape(&daemon);
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(value(&before, "echopilot_task_runs_total", &[("task", "heartbeat"), ("state", "succeeded")]), 1.0);
    assert_eq!(value(&before, "echopilot_task_slots_total", &[("task", "heartbeat"), ("outcome", "late")]), 0.0, "it begins at zero");

    // Slots made up for are late ones; a pause is a gauge; a crash counts a restart.
    daemon.post("/api/tasks/heartbeat/backfill", &range).ok();
    daemon.post("/api/tasks/slo_guard/pause", &json!({"reason": "a test"})).ok();
    daemon.post("/api/supervisor/slo/drill", &Json::Null).ok();
    until("the slots and the restart", SHORT, || {
        let done = daemon.setup().count("SELECT COUNT(*) FROM task_run WHERE cause = 'backfill' AND state = 'succeeded'") == 5;
        (done && daemon.part("slo")["restarts"] == 1 && daemon.part("slo")["state"] == "running").then_some(())
    });
    let (after, _) = scrape(&daemon);
    for (name, family) in before.iter().filter(|(_, f)| f.kind != "gauge") {
        for (sample, value) in &family.samples {
            assert!(after[name].samples[sample] >= *value, "{sample:?} only grows");
        }
    }

    // The whole ledger is of this process, so the window that holds all of it says the same.
    let level = daemon.get("/api/schedule/level?hours=48").ok();
    let one = |member: &str, task: &str| {
        let level = &level["tasks"][task][member];
        if level.is_null() { 0.0 } else { number(level) }
    };
    let tasks = daemon.get("/api/tasks").ok();
    let built: BTreeSet<&str> =
        tasks["tasks"].as_array().expect("a list").iter().filter(|t| t["state"] != "planned").filter_map(|t| t["name"].as_str()).collect();
    assert!(built.len() >= 10, "{built:?}");
    for task in &built {
        for (outcome, member) in [("on_time", "on_time"), ("late", "late"), ("missed", "missed")] {
            let counted = value(&after, "echopilot_task_slots_total", &[("task", task), ("outcome", outcome)]);
            assert_eq!(counted, one(member, task), "{task} {outcome}: {level}");
        }
        let paused = value(&after, "echopilot_task_paused", &[("task", task)]);
        assert_eq!(paused, f64::from(u8::from(*task == "slo_guard")), "{task}");
        assert_eq!(value(&after, "echopilot_task_runs_open", &[("task", task), ("state", "running")]), 0.0);
    }
    let heartbeat = [("task", "heartbeat")];
    assert_eq!(value(&after, "echopilot_task_slots_total", &[("task", "heartbeat"), ("outcome", "late")]), 5.0);
    assert_eq!(value(&after, "echopilot_task_start_lateness_seconds_count", &heartbeat), 5.0);
    assert_eq!(value(&after, "echopilot_task_runs_total", &[("task", "heartbeat"), ("state", "succeeded")]), 6.0);
    let now = integration_tests::now_unix() as f64;
    let success = value(&after, "echopilot_task_last_success_timestamp_seconds", &heartbeat);
    assert!((now - 30.0..=now + 1.0).contains(&success), "{success} and now {now}");
    assert!(value(&after, "echopilot_task_last_duration_seconds", &heartbeat) < 30.0);
    assert_eq!(value(&after, "echopilot_schedule_objective_ratio", &[]), number(&level["objective"]));

    let status = daemon.get("/api/supervisor/status").ok();
    for child in status["tree"].as_array().expect("a list") {
        let label = ("child", child["name"].as_str().expect("a name"));
        assert_eq!(value(&after, "echopilot_child_restarts_total", &[label]), number(&child["restarts"]), "{child}");
        assert_eq!(value(&after, "echopilot_child_generation", &[label]), number(&child["generation"]), "{child}");
        assert!(value(&after, "echopilot_child_handler_longest_seconds", &[label]) >= 0.0);
        assert!(value(&after, "echopilot_child_mailbox_depth", &[label]) < 100.0);
        assert!(number(&child["handled"]) >= value(&after, "echopilot_child_messages_handled_total", &[label]), "{child}");
        assert_eq!(value(&after, "echopilot_child_state", &[label, ("state", "running")]), 1.0, "{child}");
        let states = &after["echopilot_child_state"].samples;
        assert_eq!(states.iter().filter(|((_, l), v)| l["child"] == label.1 && **v == 1.0).count(), 1, "one state at a time");
    }
    for source in ["supervisor", "timer", "level", "backup", "ledger"] {
        assert_eq!(value(&after, "echopilot_scrape_source_up", &[("source", source)]), 1.0, "{source}");
    }
    assert!(value(&after, "echopilot_uptime_seconds", &[]) > value(&before, "echopilot_uptime_seconds", &[]));
    assert_eq!(value(&after, "echopilot_store_queue_depth", &[]), 0.0);
    assert_eq!(after["echopilot_build_info"].samples.values().copied().collect::<Vec<_>>(), [1.0]);
}

#[test]
fn the_newest_archive_and_its_proof_are_figures() {
    let daemon = setup().start();
    let (before, _) = scrape(&daemon);
    assert_eq!(value(&before, "echopilot_backup_archives", &[]), 0.0);
    assert!(!before.contains_key("echopilot_backup_last_proof_timestamp_seconds"), "a rule can tell that there is none");
    daemon.task_result("daily_backup");
    let (after, _) = scrape(&daemon);
    let list = daemon.get("/api/backups").ok();
    let (row, proof) = (&list["backups"][0], &list["last_proof"]);
    let figure = |name: &str| value(&after, &format!("echopilot_backup_{name}"), &[]);
    let unix = |time: &Json| {
        let at = chrono::DateTime::parse_from_rfc3339(time.as_str().expect("a time")).expect("RFC 3339");
        at.timestamp() as f64
    };
    assert_eq!((figure("archives"), figure("last_partial")), (1.0, 0.0));
    assert_eq!((figure("last_timestamp_seconds"), figure("last_proof_timestamp_seconds")), (unix(&row["made_at"]), unix(&proof["at"])));
    assert_eq!((figure("last_size_bytes"), figure("last_content_bytes")), (number(&row["size_bytes"]), number(&row["content_bytes"])));
    assert_eq!(figure("last_reused_bytes"), number(&row["reused_bytes"]));
    assert_eq!(
        (figure("last_duration_seconds"), figure("restore_duration_seconds")),
        (number(&row["took_ms"]) / 1e3, number(&proof["restore_ms"]) / 1e3)
    );
    assert_eq!(figure("proof_max_age_seconds"), number(&list["proof_max_age_s"]));
}

#[test]
fn metrics_need_no_key_tell_no_secret_and_are_not_counted_as_service() {
    let daemon = setup().start();
    let requests = || daemon.get("/api/slo/status").ok()["details"]["n"].as_u64().unwrap_or_default();
    let before = requests();
    let began = Instant::now();
    let first = daemon.request("GET", "/metrics", &[], b"").text();
    for _ in 0..50 {
        assert_eq!(daemon.request("GET", "/metrics", &[], b"").status, 200);
    }
    if began.elapsed() < Duration::from_millis(900) {
        assert_eq!(daemon.request("GET", "/metrics", &[], b"").text(), first, "asked often, it is gathered once a second");
    }
    assert!(requests() <= before + 1, "scrapes say nothing about the service");
    assert!(!first.contains(&daemon.key) && !first.contains("whsec") && !first.contains('@'));
    assert_eq!(daemon.request("POST", "/metrics", &[], b"").status, 405);
    assert_eq!(daemon.request("HEAD", "/metrics", &[], b"").status, 200);
}
