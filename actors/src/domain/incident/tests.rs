//! The life of incidents.

use super::*;

const SETTINGS: Settings = Settings { quiet: TimeDelta::minutes(30), reopen: TimeDelta::hours(24), max_open: 5 };

fn at(minute: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000 + 60 * minute, 0).unwrap()
}

/// Disk is the cause of database, both of backup.
fn causes(component: &str) -> BTreeSet<String> {
    let of: &[&str] = match component {
        "database" => &["disk"],
        "backup" => &["disk", "database"],
        _ => &[],
    };
    of.iter().map(|c| (*c).to_owned()).collect()
}

fn finding(signal: &str, component: &str, minute: i64) -> Finding {
    Finding {
        signal: signal.into(),
        component: component.into(),
        key: if component.is_empty() { signal } else { component }.into(),
        source: "alert",
        severity: Severity::Warning,
        title: format!("title of {signal}"),
        text: format!("text of {signal}"),
        count: 1,
        samples: Vec::new(),
        at: at(minute),
    }
}

/// A run of looks, with what is known after each.
#[derive(Default)]
struct Story {
    known: Vec<Incident>,
    timeline: Vec<String>,
    ids: u32,
}

impl Story {
    fn look(&mut self, minute: i64, findings: &[Finding]) {
        let ids = &mut self.ids;
        let mut new_id = || {
            *ids += 1;
            format!("inc_{ids}")
        };
        let changes = step(&self.known, findings, &causes, SETTINGS, at(minute), &mut new_id);
        self.timeline.extend(changes.events.iter().map(|e| format!("{minute} {} {}", e.incident, e.kind)));
        self.keep(changes.incidents);
    }

    fn keep(&mut self, changed: Vec<Incident>) {
        for incident in changed {
            self.known.retain(|known| known.id != incident.id);
            self.known.push(incident);
        }
        self.known.sort_by(|a, b| a.id.cmp(&b.id));
    }

    fn one(&self, id: &str) -> &Incident {
        self.known.iter().find(|i| i.id == id).expect("it is known")
    }
}

#[test]
fn an_incident_opens_counts_closes_when_quiet_and_opens_again_within_a_day() {
    let mut story = Story::default();
    for minute in [0, 5, 10] {
        story.look(minute, &[finding("alert:disk", "disk", minute)]);
    }
    assert_eq!((story.one("inc_1").count, story.one("inc_1").key.as_str()), (3, "disk"));
    story.look(39, &[]);
    story.look(40, &[]);
    let closed = story.one("inc_1").clone();
    assert_eq!((closed.state, closed.close_reason.as_deref()), (State::Closed, Some("quiet")));
    story.look(600, &[finding("alert:disk", "disk", 600)]);
    assert_eq!((story.one("inc_1").state, story.one("inc_1").reopened, story.one("inc_1").opened_at), (State::Open, 1, at(0)));
    story.look(700, &[]);
    // A day and more later it is another one.
    story.look(700 + 1441, &[finding("alert:disk", "disk", 700 + 1441)]);
    assert_eq!(story.timeline, ["0 inc_1 opened", "40 inc_1 closed", "600 inc_1 reopened", "700 inc_1 closed", "2141 inc_2 opened"]);
}

#[test]
fn one_cause_is_one_incident_with_its_effects_inside() {
    let mut story = Story::default();
    let all = [finding("alert:backup_age", "backup", 0), finding("log:full", "disk", 0), finding("alert:database_connect", "database", 0)];
    story.look(0, &all);
    assert_eq!(story.known.len(), 1);
    let incident = story.one("inc_1");
    assert_eq!((incident.key.as_str(), incident.signals.len()), ("disk", 3));
    assert!(incident.signals["alert:backup_age"].is_effect && !incident.signals["log:full"].is_effect);
    // The same from another source is the same cause; something else is not.
    story.look(5, &[finding("alert:disk_low", "disk", 5), finding("template:abc", "", 5)]);
    assert_eq!(story.known.len(), 2);
    assert_eq!(story.one("inc_2").key, "template:abc");
    assert_eq!(story.timeline, ["0 inc_1 opened", "0 inc_1 effect", "0 inc_1 effect", "5 inc_1 signal", "5 inc_2 opened"]);
}

#[test]
fn an_effect_stays_with_its_cause_and_one_that_came_first_stays_what_it_is() {
    let mut story = Story::default();
    story.look(0, &[finding("alert:database_connect", "database", 0)]);
    story.look(5, &[finding("alert:disk_low", "disk", 5), finding("alert:database_connect", "database", 5)]);
    assert_eq!(story.known.len(), 2, "it was open before its cause was known");
    story.look(10, &[finding("alert:backup_age", "backup", 10)]);
    assert!(story.one("inc_1").signals.contains_key("alert:backup_age"), "the one that has been open for longer");
}

#[test]
fn getting_worse_is_said_once_and_takes_the_acknowledgement_away() {
    let mut story = Story::default();
    story.look(0, &[finding("alert:disk", "disk", 0)]);
    let (acknowledged, event) = acknowledge(story.one("inc_1"), "ana", at(1)).unwrap();
    assert_eq!((acknowledged.acknowledged_by.as_deref(), event.kind), (Some("ana"), "acknowledged"));
    story.keep(vec![acknowledged]);
    story.look(5, &[finding("alert:disk", "disk", 5)]);
    assert_eq!(story.one("inc_1").acknowledged_by.as_deref(), Some("ana"));
    for minute in [10, 15] {
        story.look(minute, &[Finding { severity: Severity::Critical, ..finding("alert:disk", "disk", minute) }]);
    }
    assert_eq!((story.one("inc_1").severity, &story.one("inc_1").acknowledged_by), (Severity::Critical, &None));
    assert_eq!(story.timeline, ["0 inc_1 opened", "10 inc_1 escalated"]);
}

#[test]
fn a_person_closes_with_a_reason_and_it_opens_again_if_it_is_not_over() {
    let mut story = Story::default();
    story.look(0, &[finding("alert:disk", "disk", 0)]);
    let (closed, event) = close(story.one("inc_1"), "ana", "a false alarm", at(1)).unwrap();
    assert_eq!((closed.closed_by.as_deref(), event.text.as_str()), (Some("ana"), "a false alarm"));
    assert!(close(&closed, "ana", "again", at(2)).unwrap_err().contains("closed already"));
    assert!(acknowledge(&closed, "ana", at(2)).is_err());
    story.keep(vec![closed]);
    story.look(5, &[finding("alert:disk", "disk", 5)]);
    assert_eq!((story.known.len(), story.one("inc_1").state), (1, State::Open));
}

#[test]
fn open_incidents_are_capped_and_the_rest_is_one_more() {
    let mut story = Story::default();
    let many: Vec<Finding> = (0..500).map(|n| finding(&format!("template:{n:04}"), "", 0)).collect();
    story.look(0, &many);
    story.look(5, &many);
    assert_eq!(story.known.len(), SETTINGS.max_open + 1);
    let rest = story.known.iter().find(|i| i.key == OVERFLOW).unwrap();
    assert!(rest.signals.len() == SIGNALS && rest.count == 2 * 495, "{} {}", rest.signals.len(), rest.count);
    assert!(story.timeline.len() <= 6 + SIGNALS, "{}", story.timeline.len());
}

#[test]
fn the_first_sample_and_the_latest_are_kept() {
    let mut story = Story::default();
    for minute in 0..6 {
        story.look(minute, &[Finding { samples: vec![format!("line {minute}"), "always".into()], ..finding("template:a", "", minute) }]);
    }
    assert_eq!(story.one("inc_1").samples, ["line 0", "always", "line 5"]);
}

#[test]
fn the_order_of_findings_makes_no_difference() {
    let all = [
        finding("alert:backup_age", "backup", 0),
        finding("alert:disk", "disk", 0),
        finding("log:x", "", 0),
        finding("alert:db", "database", 0),
    ];
    let ends: Vec<Vec<Incident>> = (0..all.len())
        .map(|turn| {
            let mut story = Story::default();
            let mut findings = all.to_vec();
            findings.rotate_left(turn);
            story.look(0, &findings);
            story.known
        })
        .collect();
    assert!(ends.windows(2).all(|pair| pair[0] == pair[1]));
}
