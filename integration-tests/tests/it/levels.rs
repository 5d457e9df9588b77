//! Service levels from outside: burn rates and alert verdicts against `promtool test rules`, intervals against scipy, quantiles against
//! numpy, the table of few events, documents of OpenSLO there and back, pushed events, maintenance, `promtool check metrics`.

use std::{path::PathBuf, process::Command, time::Duration};

use integration_tests::{LONG, Output, SHORT, command, fed, peer, python, run_to_end, until};
use serde_json::{Value as Json, json};

use crate::setup;

/// Midnight, in minutes since the epoch.
const START: i64 = 29_000_160;

/// Debian's promtool, from the folder that the run script unpacks.
fn promtool() -> Command {
    let unpacked = std::env::var("ECHOPILOT_TEST_PEERS").map(|folder| PathBuf::from(folder).join("usr/bin/promtool"));
    command(unpacked.ok().filter(|path| path.exists()).unwrap_or_else(|| "promtool".into()))
}

fn oracle(arguments: &[&str]) -> Command {
    let mut command = python();
    command.arg(peer("levels_oracle.py")).args(arguments);
    command
}

fn rows(output: &Output) -> Vec<Json> {
    output.expect(0).lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect()
}

fn rfc3339(minute: i64) -> String {
    let time = chrono::DateTime::from_timestamp(minute * 60, 0).expect("a time");
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

#[test]
fn burn_rates_and_alert_verdicts_are_those_of_promtool() {
    let setup = setup();
    let folder = setup.root().to_str().expect("a path").to_owned();
    let minutes = setup.root().join("minutes.ndjson");
    let made = run_to_end(oracle(&["series", minutes.to_str().expect("a path"), &folder, &START.to_string(), "6"]), LONG).json(0);
    let instants: Vec<i64> = made["instants"].as_array().expect("a list").iter().filter_map(Json::as_i64).collect();
    let times: Vec<String> = instants.iter().map(|minute| rfc3339(START + minute)).collect();
    let mut arguments = vec!["slo", "judge", "--minutes", minutes.to_str().expect("a path"), "--target", "0.999"];
    arguments.extend(times.iter().flat_map(|time| ["--at", time]));
    let judged = setup.cli(&arguments);
    let wanted: Vec<String> = rows(&judged).iter().map(Json::to_string).collect();
    assert_eq!(wanted.len(), instants.len());
    let counted: Json = serde_json::from_str(&fed(oracle(&["test", &folder]), wanted.join("\n").as_bytes())).expect("JSON");
    assert!(counted["ratios"].as_u64() > Some(700) && counted["firing"].as_u64() > Some(20), "{counted}");
    let mut test = promtool();
    test.args(["test", "rules"]).arg(setup.root().join("test.json"));
    let said = run_to_end(test, Duration::from_mins(3));
    said.expect(0);
    assert!(said.stdout.contains("SUCCESS"), "{} {}", said.stdout, said.stderr);
    println!("promtool agrees: {counted}");
}

#[test]
fn the_table_of_few_events_has_the_verdicts_that_the_statistics_allow() {
    let setup = setup();
    // (events, bad of them) within the last hour at 99.9 % -> verdict and rule.
    let table = [
        (0, 0, "NO_DATA", "no_data"),
        (1, 1, "PASS", "within_objective"),
        (2, 2, "PASS", "within_objective"),
        (3, 3, "FAIL", "success_rate_small_sample"),
        (10, 1, "PASS", "within_objective"),
        (10, 2, "PASS", "within_objective"),
        (10, 3, "FAIL", "success_rate_small_sample"),
        (19, 3, "FAIL", "success_rate_small_sample"),
        (20, 1, "FAIL", "success_rate"),
        (999, 1, "FAIL", "success_rate"),
        (1000, 1, "PASS", "within_objective"),
        (1001, 2, "FAIL", "success_rate"),
    ];
    let mut intervals = Vec::new();
    for (n, bad, status, rule) in table {
        let file = setup.root().join("few.ndjson");
        let line = json!({"minute": START, "total": n, "bad": bad}).to_string();
        std::fs::write(&file, if n == 0 { String::new() } else { line }).expect("written");
        let at = rfc3339(START + 5);
        let said = setup.cli(&["slo", "judge", "--minutes", file.to_str().expect("a path"), "--target", "0.999", "--at", &at, "--json"]);
        let body: Json = serde_json::from_str(&said.stdout).expect("JSON");
        let verdict = &body["verdict"];
        assert_eq!(
            (&verdict["status"], &verdict["rule"], &verdict["n"]),
            (&json!(status), &json!(rule), &json!(n)),
            "{bad} of {n}: {verdict}"
        );
        assert_eq!(said.code, Some(i32::from(status == "FAIL")), "{bad} of {n}");
        assert!(!verdict["clause"].as_str().unwrap_or_default().is_empty());
        if let Some(interval) = verdict["error_rate_interval"].as_array() {
            intervals.push(format!("{bad} {n} {} {}", interval[0], interval[1]));
        }
    }
    let checked: Json = serde_json::from_str(&fed(oracle(&["wilson"]), intervals.join("\n").as_bytes())).expect("JSON");
    assert_eq!(checked["checked"], 11);
    // The limits of silence: chance alone leaves out so many expected events once in a million, and in a hundred thousand.
    let odds = run_to_end(oracle(&["poisson"]), LONG).json(0);
    assert!(odds["page"].as_f64().is_some_and(|p| (0.9e-6..1.1e-6).contains(&p)), "{odds}");
    assert!(odds["ticket"].as_f64().is_some_and(|p| (0.9e-5..1.1e-5).contains(&p)), "{odds}");
}

#[test]
fn pushed_latencies_have_the_quantiles_of_numpy_within_the_stated_bound() {
    let daemon =
        setup().env("ECHOPILOT__OBJECTIVES__SHOP__SERVICE", "push:shop").env("ECHOPILOT__OBJECTIVES__SHOP__LATENCY_MS", "400").start();
    // Two humps and a long tail, from a fixed seed.
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    let values: Vec<f64> = (0..4000)
        .map(|i| {
            let base = if i % 3 == 0 { 380.0 } else { 45.0 };
            let value = base * (1.0 + next()) + if next() > 0.98 { 4000.0 * next() } else { 0.0 };
            (value * 1000.0).round() / 1000.0
        })
        .collect();
    for chunk in values.chunks(1000) {
        let events: Vec<Json> = chunk.iter().map(|ms| json!({"service": "shop", "ok": true, "latency_ms": ms})).collect();
        daemon.post("/api/slo/events", &json!({"events": events})).ok();
    }
    // A closed minute is judged.
    let seen = until("the minute to be closed and written", Duration::from_secs(90), || {
        let seen = daemon.get("/api/slo/objectives/shop").ok();
        (seen["latency"]["n"] == 4000 && seen["verdict"]["n"] == 4000).then_some(seen)
    });
    let slow = values.iter().filter(|ms| **ms > 400.0).count();
    assert_eq!(seen["verdict"]["slow"], slow, "exact, from the counters");
    let mut body = seen["latency"].clone();
    body["values"] = values.into();
    let compared: Json = serde_json::from_str(&fed(oracle(&["quantiles"]), body.to_string().as_bytes())).expect("JSON");
    println!("quantiles: {compared}");
}

#[test]
fn objectives_go_to_openslo_and_back_and_what_is_wrong_has_its_line() {
    let setup = setup().env("ECHOPILOT__OBJECTIVES__SHOP__SERVICE", "push:shop").env("ECHOPILOT__OBJECTIVES__SHOP__WINDOW", "month");
    let file = setup.root().join("levels.yaml");
    let path = file.to_str().expect("a path").to_owned();
    setup.cli(&["slo", "export", "--out", &path]).expect(0);
    let text = std::fs::read_to_string(&file).expect("written");
    assert!(text.contains("apiVersion: openslo/v1") && text.matches("---\n").count() > 8, "{text}");
    let said = setup.cli(&["slo", "import", &path]);
    let sections = said.expect(0);
    for expected in ["[slo]\np95_ms = 1200", "[objectives.shop]\nservice = \"push:shop\"", "window = \"month\"", "[objectives.webhooks]"] {
        assert!(sections.contains(expected), "{expected}\n{sections}");
    }
    // What was printed is a configuration.
    let config = setup.root().join("imported.toml");
    setup.cli(&["slo", "import", &path, "--out", config.to_str().expect("a path")]).expect(0);
    let again = setup.cli(&["--config", config.to_str().expect("a path"), "slo", "export"]);
    assert_eq!(again.expect(0).trim(), text.trim());
    let dry = setup.cli(&["slo", "import", &path, "--dry-run", "--json"]).json(0);
    assert_eq!((&dry["dry_run"], dry["left_out"].as_array().map(Vec::len)), (&json!(true), Some(0)), "{dry}");
    std::fs::write(&file, text.replacen("target: 0.98", "target: 1.5", 1)).expect("written");
    let refused = setup.cli(&["slo", "import", &path]);
    assert!(
        refused.code != Some(0) && refused.stderr.contains("line ") && refused.stderr.contains("spec.objectives[0].target"),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_target_of_all_events_is_refused_and_maintenance_is_entered_and_ended() {
    let refused =
        setup().env("ECHOPILOT__OBJECTIVES__SHOP__SERVICE", "push:shop").env("ECHOPILOT__OBJECTIVES__SHOP__TARGET", "1.0").start_refused();
    assert!(refused.stderr.contains("objectives.shop.target must be below 100 %"), "{}", refused.stderr);
    let daemon = setup().start();
    let made = daemon.cli(&["maintenance", "start", "--minutes", "30", "--reason", "new disk", "--json"]).json(0);
    assert_eq!(made["maintenance"]["state"], "active");
    let id = made["maintenance"]["id"].as_str().expect("an id").to_owned();
    let twice = daemon.cli(&["maintenance", "start", "--minutes", "30", "--reason", "again"]);
    assert!(twice.code != Some(0) && twice.stderr.contains("lies within"), "{}", twice.stderr);
    let report = daemon.get("/api/slo/report").ok();
    assert_eq!(report["objectives"][0]["excluded"][0]["reason"], "new disk", "{report}");
    daemon.cli(&["maintenance", "end", &id]).expect(0);
    assert!(daemon.cli(&["maintenance", "list"]).expect(0).contains("over"));
    daemon.cli(&["slo", "report"]).expect(0);
    daemon.cli(&["slo", "objective", "webhooks"]).expect(0);
    let record = daemon.run_task("slo_guard");
    assert!(record["result"]["error_budgets"].as_array().is_some_and(|b| b.len() >= 6), "{record}");
}

#[test]
fn promtool_finds_nothing_to_say_about_our_metrics() {
    let daemon = setup().start();
    daemon.get("/api/slo/status").ok();
    let text = until("the figures of the objectives", SHORT, || {
        let text = daemon.get("/metrics").text();
        text.contains("echopilot_slo_status{").then_some(text)
    });
    for expected in
        ["echopilot_slo_target_ratio{", "echopilot_slo_status{objective=\"api\"", "echopilot_scrape_source_up{source=\"objectives\"} 1"]
    {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    let mut check = promtool();
    check.args(["check", "metrics"]);
    assert_eq!(fed(check, text.as_bytes()).trim(), "");
}
