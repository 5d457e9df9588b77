//! Retention beside restic's: the same history and the same rules keep the same snapshots.

use std::{collections::BTreeSet, path::Path, process::Command, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use echopilot_actors::domain::retention::{Archive, Policy, State, plan};
use integration_tests::{command, run_to_end};
use serde_json::Value as Json;

const LIMIT: Duration = Duration::from_mins(2);
/// Without a day now and then, over three years, with two weeks and a spring missing: what a real history looks like.
const SNAPSHOTS: usize = 120;

fn restic(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = command("restic");
    command.args(["--no-cache", "--quiet", "--repo"]).arg(folder.join("repository")).args(arguments);
    command.env("RESTIC_PASSWORD", "of a test").env("TZ", "UTC").current_dir(folder);
    command
}

/// The times of the snapshots, newest first.
fn history() -> Vec<DateTime<Utc>> {
    let newest: DateTime<Utc> = "2026-03-10T00:30:00Z".parse().expect("a time");
    let mut days_ago: Vec<i64> = (0..70).filter(|n| n % 9 != 4 && !(20..34).contains(n)).collect();
    days_ago.extend((70..400).step_by(7).filter(|n| !(200..260).contains(n)));
    days_ago.extend((400..1100).step_by(29));
    days_ago.truncate(SNAPSHOTS);
    assert!(days_ago.len() > 110, "{}", days_ago.len());
    days_ago.into_iter().map(|n| newest - TimeDelta::days(n)).collect()
}

/// restic's flags for a policy. Its `--keep-within` counts from the newest snapshot, ours from now: here both are the same time.
fn flags(policy: &Policy) -> Vec<String> {
    let counts = [
        ("last", policy.keep_last),
        ("daily", policy.keep_daily),
        ("weekly", policy.keep_weekly),
        ("monthly", policy.keep_monthly),
        ("yearly", policy.keep_yearly),
    ];
    let mut flags: Vec<String> =
        counts.iter().filter(|(_, n)| *n > 0).flat_map(|(name, n)| [format!("--keep-{name}"), n.to_string()]).collect();
    if policy.keep_within_days > 0 {
        flags.extend(["--keep-within".to_owned(), format!("{}d", policy.keep_within_days)]);
    }
    flags
}

fn kept_by_restic(folder: &Path, policy: &Policy) -> BTreeSet<DateTime<Utc>> {
    let mut arguments = vec!["forget".to_owned(), "--dry-run".into(), "--json".into(), "--group-by".into(), String::new()];
    arguments.extend(flags(policy));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let groups = run_to_end(restic(folder, &arguments), LIMIT).json(0);
    let time = |snapshot: &Json| snapshot["time"].as_str().and_then(|t| t.parse::<DateTime<Utc>>().ok()).expect("a snapshot has a time");
    groups[0]["keep"].as_array().expect("a list").iter().map(time).collect()
}

#[test]
fn the_same_rules_keep_the_same_snapshots_as_restic_does() {
    let folder = tempfile::tempdir().expect("a directory");
    let history = history();
    run_to_end(restic(folder.path(), &["init"]), LIMIT).expect(0);
    std::fs::write(folder.path().join("content"), "x").expect("a file");
    for at in &history {
        let time = at.format("%Y-%m-%d %H:%M:%S").to_string();
        run_to_end(restic(folder.path(), &["backup", "--time", &time, "content"]), LIMIT).expect(0);
    }
    let archives: Vec<Archive> = history
        .iter()
        .map(|at| Archive { date: at.date_naive(), made_at: *at, size_bytes: 1, state: State::Proven, pinned: None })
        .collect();
    let policy = |[last, daily, weekly, monthly, yearly]: [usize; 5], within| Policy {
        keep_last: last,
        keep_within_days: within,
        keep_daily: daily,
        keep_weekly: weekly,
        keep_monthly: monthly,
        keep_yearly: yearly,
        max_removed: usize::MAX,
    };
    // Each rule alone, the default of configs/echopilot.toml, and unions of them. None asks for more periods than there are, where newer
    // versions of restic keep the oldest snapshot besides; we do not: a rule keeps the newest of a period, and nothing else.
    let policies = [
        policy([1, 0, 0, 0, 0], 0),
        policy([10, 0, 0, 0, 0], 0),
        policy([0, 7, 0, 0, 0], 0),
        policy([0, 30, 0, 0, 0], 0),
        policy([0, 0, 5, 0, 0], 0),
        policy([0, 0, 30, 0, 0], 0),
        policy([0, 0, 0, 12, 0], 0),
        policy([0, 0, 0, 0, 3], 0),
        policy([0, 0, 0, 0, 0], 25),
        policy([3, 7, 5, 12, 3], 2),
        policy([1, 3, 2, 1, 0], 40),
        policy([5, 0, 0, 20, 2], 0),
    ];
    for policy in policies {
        let ours: BTreeSet<_> = plan(&archives, &policy, history[0]).into_iter().filter(|d| d.keep).map(|d| d.archive.made_at).collect();
        let theirs = kept_by_restic(folder.path(), &policy);
        assert_eq!(ours, theirs, "{policy:?}");
    }
}
