//! The program's cron schedules against somebody else's: `peers/cron_oracle.py` makes random expressions, zones and starts, most of them
//! close to a change of the clock, and says what is due. `ECHOPILOT_CRON_CASES` and `ECHOPILOT_CRON_SEED` ask for more or for the same again.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use echopilot_actors::domain::schedule::{Schedule, TIME_ZONE_DATABASE};
use integration_tests::{now_unix, peer, python, run_to_end};
use serde_json::Value as Json;

fn setting(name: &str, otherwise: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return otherwise };
    text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}"))
}

fn at(seconds: &Json) -> DateTime<Utc> {
    seconds.as_i64().and_then(|s| DateTime::from_timestamp(s, 0)).unwrap_or_else(|| panic!("{seconds} is an instant"))
}

/// What the schedule says otherwise than the oracle, in any of the ways it can be asked.
fn difference(case: &Json) -> Result<(), String> {
    let word = |name: &str| case[name].as_str().unwrap_or_else(|| panic!("{name} in {case}"));
    let schedule = Schedule::cron_in(word("expression"), word("zone"))?;
    let (after, until) = (at(&case["after"]), at(&case["until"]));
    let expected: Vec<_> = case["next"].as_array().into_iter().flatten().map(at).collect();
    let slots = schedule.slots(after, until, usize::MAX);
    if slots != expected {
        return Err(format!("slots {slots:?} instead of {expected:?}"));
    }
    let count = schedule.count_between(after, until);
    if count != expected.len() as u64 {
        return Err(format!("{count} slots are counted instead of {}", expected.len()));
    }
    let mut before = None;
    for slot in expected {
        let a_moment_ago = slot - TimeDelta::milliseconds(1);
        if schedule.last_through(slot) != Some(slot) || schedule.next_after(a_moment_ago) != slot {
            return Err(format!("{slot} is not found from close by"));
        }
        let previous = schedule.last_through(a_moment_ago);
        if previous >= Some(slot) || before.map_or(previous > Some(after), |b| previous != Some(b)) {
            return Err(format!("before {slot} there is {previous:?} instead of {before:?}"));
        }
        before = Some(slot);
    }
    Ok(())
}

#[test]
fn slots_are_those_of_an_independent_implementation_over_zones_years_and_changes_of_the_clock() {
    let cases = setting("ECHOPILOT_CRON_CASES", 6000);
    let seed = setting("ECHOPILOT_CRON_SEED", now_unix().unsigned_abs());
    let mut oracle = python();
    oracle.env("PYTHONTZPATH", ""); // the pinned time zone database, not the machine's
    oracle.arg(peer("cron_oracle.py")).args([seed.to_string(), cases.to_string()]);
    let output = run_to_end(oracle, Duration::from_secs(120 + cases / 50));
    let mut lines = output.expect(0).lines().map(|line| serde_json::from_str::<Json>(line).unwrap_or_else(|e| panic!("{line}: {e}")));
    let database = lines.next().unwrap_or_default();
    assert_eq!(
        database["database"], TIME_ZONE_DATABASE,
        "both sides need the same time zone database: pin another `tzdata` in integration-tests/run"
    );
    let (mut wrong, mut checked) = (Vec::new(), BTreeMap::<String, u64>::new());
    for case in lines {
        *checked.entry(case["oracle"].to_string()).or_default() += 1;
        if let Err(why) = difference(&case) {
            wrong.push(format!("{} {} after {}, {}: {why}", case["expression"], case["zone"], at(&case["after"]), case["oracle"]));
        }
    }
    let again = format!("ECHOPILOT_CRON_SEED={seed} ECHOPILOT_CRON_CASES={cases}");
    assert_eq!(checked.values().sum::<u64>(), cases, "{again}: every case was looked at: {checked:?}");
    assert!(cases < 1000 || (checked.len() == 2 && checked.values().all(|n| *n > cases / 20)), "{again}: both oracles spoke: {checked:?}");
    let shown: Vec<_> = wrong.iter().take(20).cloned().collect();
    assert!(wrong.is_empty(), "{again}: {} of {cases} differ\n{}", wrong.len(), shown.join("\n"));
}
