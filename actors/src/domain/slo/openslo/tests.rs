//! Round trips of any levels through YAML, files as others write them, and what is wrong with bad ones.

use chrono_tz::Tz;
use proptest::prelude::*;

use super::*;
use crate::domain::slo::{Latency, Level, Slices, Unit, Window};

fn levels() -> impl Strategy<Value = Vec<Level>> {
    let window = prop_oneof![
        (1i64..=92).prop_map(|days| Window::Rolling { days }),
        (prop::sample::select(Unit::ALL.to_vec()), prop::sample::select(vec![Tz::UTC, Tz::Europe__Berlin, Tz::America__New_York]))
            .prop_map(|(unit, zone)| Window::Calendar { unit, zone }),
    ];
    let share = 1u64..1_000_000;
    let latency = prop::option::of((1u64..3_600_000, share.clone()).prop_map(|(ms, share_ppm)| Latency { ms, share_ppm }));
    let slices = prop::option::of((1i64..=60, share.clone()).prop_map(|(minutes, share_ppm)| Slices { minutes, share_ppm }));
    let service = prop::sample::select(vec!["api", "webhooks", "push:shop", "probe:home", "canary", "push:ümlaut: x"]);
    let level = (service, prop::option::of(share), latency, window, 0u64..1000, slices, any::<bool>()).prop_map(
        |(service, success_ppm, latency, window, min_events, slices, no_data)| Level {
            name: String::new(),
            service: service.to_owned(),
            success_ppm: if latency.is_none() { success_ppm.or(Some(990_000)) } else { success_ppm },
            latency,
            window,
            min_events,
            slices,
            no_data,
        },
    );
    prop::collection::vec(level, 1..6).prop_map(|mut levels| {
        levels.iter_mut().enumerate().for_each(|(n, level)| level.name = format!("level-{n}"));
        levels
    })
}

proptest! {
    #[test]
    fn what_is_exported_is_imported_again(levels in levels()) {
        let text = export(&levels).unwrap();
        let imported = import(&text).map_err(|errors| TestCaseError::fail(format!("{errors:?}\n{text}")))?;
        prop_assert_eq!(&imported.levels, &levels, "{}", text);
        prop_assert!(imported.notes.is_empty(), "{:?}\n{}", imported.notes, text);
    }

    #[test]
    fn no_text_makes_it_panic(text in "(apiVersion|kind|spec|SLO|openslo/v1|:|-|\n| |\\[|\\]|\\{|\\}|[a-z0-9.%&*]){0,60}") {
        drop(import(&text));
    }
}

/// An SLO as others write them, with what EchoPilot has not.
const FOREIGN: &str = "apiVersion: openslo/v1
kind: SLI
metadata:
  name: checkout-success
spec:
  ratioMetric:
    counter: true
    good:
      metricSource:
        type: Prometheus
        metricSourceRef: thanos
        spec:
          query: sum(rate(http_requests_total{code!~\"5..\"}[5m]))
    total:
      metricSource:
        type: Prometheus
        spec:
          query: sum(rate(http_requests_total[5m]))
---
apiVersion: openslo/v1
kind: SLO
metadata:
  name: checkout
  labels:
    team: shop
spec:
  description: people can pay
  service: shop
  indicatorRef: checkout-success
  timeWindow:
    - duration: 1M
      isRolling: false
      calendar:
        startTime: 2026-01-01 00:00:00
        timeZone: Europe/Berlin
  budgetingMethod: Timeslices
  objectives:
    - displayName: good minutes
      targetPercent: 99.5
      timeSliceTarget: 0.95
      timeSliceWindow: 5m
      compositeWeight: 2
  alertPolicies:
    - fast
---
apiVersion: openslo/v1
kind: AlertCondition
metadata:
  name: fast
spec:
  severity: page
  condition:
    kind: burnrate
    op: gte
    threshold: 10
    lookbackWindow: 2h
    alertAfter: 5m
";

#[test]
fn a_file_of_others_is_read_and_what_is_left_out_is_named_with_its_place() {
    let imported = import(FOREIGN).unwrap();
    assert_eq!(
        imported.levels,
        [Level {
            name: "checkout".into(),
            service: "push:shop".into(),
            success_ppm: Some(995_000),
            latency: None,
            window: Window::Calendar { unit: Unit::Month, zone: Tz::Europe__Berlin },
            min_events: 20,
            slices: Some(Slices { minutes: 5, share_ppm: 950_000 }),
            no_data: true,
        }]
    );
    let starts = [
        "line 25: document 2 (SLO checkout): metadata.labels: not supported",
        "line 53: document 3 (AlertCondition fast): spec.condition: gte 10 over 2h, page, after 5m: not supported",
        "line 27: document 2 (SLO checkout): spec.description: not supported",
        "line 10: SLI checkout-success: spec.ratioMetric.good.metricSource: not supported",
        "line 16: SLI checkout-success: spec.ratioMetric.total.metricSource: not supported",
        "line 42: document 2 (SLO checkout): spec.objectives[0].compositeWeight: not supported",
    ];
    for start in starts {
        assert!(imported.notes.iter().any(|note| note.starts_with(start)), "{start}\n{:#?}", imported.notes);
    }
    assert_eq!(imported.notes.len(), starts.len(), "{:#?}", imported.notes);
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let cases = [
        ("    timeZone: Europe/Berlin", "    timeZone: Mars/Olympus", "timeWindow[0].calendar.timeZone: Mars/Olympus is not known"),
        ("duration: 1M", "duration: 5M", "spec.timeWindow[0].duration: a calendar window is 1w, 1M or 1Q, not 5M"),
        ("2026-01-01", "2026-01-02", "calendar.startTime: must be the first day of a month"),
        ("targetPercent: 99.5", "targetPercent: 100", "spec.objectives[0].target: must be at least 0 and below 1: a target of 100 %"),
        ("targetPercent: 99.5", "target: high", "spec.objectives[0].target: must be a number"),
        ("      targetPercent: 99.5\n", "", "spec.objectives[0].target: is missing"),
        ("budgetingMethod: Timeslices", "budgetingMethod: RatioTimeslices", "RatioTimeslices is not supported"),
        ("indicatorRef: checkout-success", "indicatorRef: nothing", "there is no SLI named nothing"),
        ("timeSliceWindow: 5m", "timeSliceWindow: 2h", "timeSliceWindow: must be 1m to 60m"),
        ("kind: SLO\n", "kind: Wish\n", "Wish is none of OpenSLO v1"),
        ("openslo/v1\nkind: SLO\n", "openslo/v2\nkind: SLO\n", "apiVersion: must be openslo/v1, not openslo/v2"),
        ("kind: burnrate", "kind: latency", "spec.condition.kind: must be burnrate"),
        ("  objectives:\n", "  objectives: [\n", "line "),
        ("metadata:\n  name: checkout\n", "metadata:\n\tname: checkout\n", "line "),
    ];
    for (from, to, says) in cases {
        assert!(FOREIGN.contains(from), "{from}");
        let errors = import(&FOREIGN.replacen(from, to, 1)).expect_err(to);
        assert!(errors.iter().all(|e| e.starts_with("line ") && !e.contains('\n')), "{errors:?}");
        assert!(errors.iter().any(|e| e.contains(says)), "{to}: {errors:?}");
    }
    assert!(import("").unwrap_err()[0].contains("no document"));
    assert!(import("- a\n- b\n").unwrap_err()[0].contains("must be a mapping"));
}

#[test]
fn success_and_latency_of_one_objective_come_together_and_the_sections_are_toml() {
    let level = Level {
        name: "shop".into(),
        service: "push:shop".into(),
        success_ppm: Some(999_000),
        latency: Some(Latency { ms: 400, share_ppm: 950_000 }),
        window: Window::Calendar { unit: Unit::Quarter, zone: Tz::UTC },
        min_events: 30,
        slices: None,
        no_data: false,
    };
    let text = export(std::slice::from_ref(&level)).unwrap();
    assert_eq!(text.matches("kind: SLO").count(), 2);
    assert!(text.contains("lookbackWindow: 1h") && text.contains("short-window") && text.contains("Occurrences"), "{text}");
    assert_eq!(import(&text).unwrap().levels, std::slice::from_ref(&level));
    let sections = to_toml(&[level]);
    let expected = "[objectives.shop]\nservice = \"push:shop\"\ntarget = 0.999\nwindow = \"quarter\"\nzone = \"UTC\"\nlatency_ms = 400\nlatency_share = 0.95\nmin_events = 30\nno_data = false\n";
    assert_eq!(sections, expected);
}
