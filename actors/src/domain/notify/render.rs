//! A message in words: what every channel shows, before each gives it its form and its limits. Called by the channels; pure. It leaves
//! nothing out: cutting is the channel's.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};

use super::{Kind, Line, Message};
use crate::domain::money;

/// One thing to know about an alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    pub label: &'static str,
    pub text: String,
}

/// One line that says which kind of message it is: the subject of a mail, the title of a push.
pub fn subject(message: &Message) -> String {
    let word = match message.kind {
        Kind::Resolved => "resolved".to_owned(),
        Kind::Test => "test".to_owned(),
        Kind::Repeat => format!("still {}", message.severity.as_str()),
        Kind::Firing | Kind::Digest => message.severity.as_str().to_owned(),
    };
    format!("[{word}] {}", one_line(&message.title))
}

/// What comes above the alerts: when, and for what kind of message.
pub fn byline(message: &Message) -> String {
    let what = match message.kind {
        Kind::Firing => "began",
        Kind::Repeat => "lasts on",
        Kind::Resolved => "is over",
        Kind::Digest => "came together, because there were too many messages",
        Kind::Test => "is a test: somebody asked whether messages arrive here",
    };
    format!("This {what}. Written at {}.", at(message.at))
}

/// An alert's name with what tells it from others of the same rule: `probe (probe=shop)`.
pub fn name(line: &Line) -> String {
    let own: Vec<_> = line.labels.iter().filter(|(n, _)| *n != "alertname" && *n != "system").map(|(n, v)| format!("{n}={v}")).collect();
    if own.is_empty() { line.name.clone() } else { format!("{} ({})", line.name, own.join(", ")) }
}

/// All there is to know about an alert, in the order in which one asks.
pub fn facts(line: &Line, now: DateTime<Utc>) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut add = |label, text: String| {
        if !text.is_empty() {
            facts.push(Fact { label, text });
        }
    };
    add("What", line.what.clone());
    add("Reason", line.reason.clone());
    match line.until.filter(|_| line.resolved) {
        Some(until) => add("When", format!("from {} to {}, {}", at(line.since), at(until), span((until - line.since).num_seconds()))),
        None => add("Since", format!("{}, for {}", at(line.since), span((now - line.since).num_seconds()))),
    }
    add("Value", line.value.clone().unwrap_or_default());
    add("Fine would be", line.threshold.clone());
    add("Last good", line.last_good.as_ref().map(|(value, when)| format!("{value} at {}", at(*when))).unwrap_or_default());
    add("What changed", line.changed.join("; "));
    let counted = |n: u64, one: &str| if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") };
    let risk = line.risk.iter().map(|r| {
        let (payments, customers) = (counted(r.payments, "payment"), counted(r.customers, "customer"));
        format!("{} in {payments} of {customers}", money::display(r.amount_minor, &r.currency))
    });
    add("At risk", risk.collect::<Vec<_>>().join("; "));
    let effects = line.effects.iter().map(|e| format!("{}: {} (since {})", e.name, e.reason, at(e.since)));
    add(if line.resolved { "Not over yet" } else { "Follows from it" }, effects.collect::<Vec<_>>().join("; "));
    if !line.resolved {
        add("What to do", line.runbook.clone());
    }
    add("Who", line.owner.clone());
    facts
}

/// What a reader can do about an alert: a word and an address each.
pub fn links(line: &Line) -> Vec<(&'static str, &str)> {
    let all = [("Acknowledge", &line.links.acknowledge), ("Snooze", &line.links.snooze), ("Run now", &line.links.run_now)];
    all.into_iter().filter_map(|(word, link)| Some((word, link.as_deref()?))).collect()
}

/// The message as plain text.
pub fn text(message: &Message) -> String {
    // Writing to a String cannot fail.
    let mut out = format!("{}\n\n{}\n", one_line(&message.title), byline(message));
    for line in &message.alerts {
        let state = if line.resolved { "resolved" } else { line.severity.as_str() };
        let _ = writeln!(out, "\n{} - {state}", name(line));
        for Fact { label, text } in facts(line, message.at) {
            let _ = writeln!(out, "  {label}: {text}");
        }
        for (word, link) in links(line) {
            let _ = writeln!(out, "  {word}: {link}");
        }
    }
    if message.more > 0 {
        let _ = writeln!(out, "\nand {} more", message.more);
    }
    if !message.url.is_empty() {
        let _ = writeln!(out, "\nAll of it: {}", message.url);
    }
    out
}

/// At most `max` characters, with a sign where something is missing.
pub fn cut(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    text.chars().take(max.saturating_sub(1)).chain(['…']).collect()
}

/// As many whole lines as fit into `max`, measured by `length`; where some are missing a last line says so. Markup stays balanced if each
/// line's is.
pub fn fit(lines: impl IntoIterator<Item = String>, max: usize, length: fn(&str) -> usize) -> String {
    const MISSING: &str = "…";
    let mut out = String::new();
    let mut lines = lines.into_iter().peekable();
    while let Some(line) = lines.next() {
        let tail = if lines.peek().is_some() { length(MISSING) + 1 } else { 0 };
        let more = length(&line) + usize::from(!out.is_empty());
        if length(&out) + more + tail > max {
            if !out.is_empty() {
                out.push('\n');
            }
            out.push_str(MISSING);
            break;
        }
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(&line);
    }
    out
}

/// For HTML text and for Slack's markup, which escape the same three characters.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c => out.push(c),
        }
    }
    out
}

/// A length of time in its two largest units: `45 s`, `10 min`, `2 h 5 min`, `3 d 4 h`.
pub fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let two = |n: i64, unit: &str, m: i64, smaller: &str| if m == 0 { format!("{n} {unit}") } else { format!("{n} {unit} {m} {smaller}") };
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, m) => two(m, "min", seconds % 60, "s"),
        (0, h, m) => two(h, "h", m, "min"),
        (d, h, _) => two(d, "d", h, "h"),
    }
}

fn at(when: DateTime<Utc>) -> String {
    when.format("%Y-%m-%d %H:%M UTC").to_string()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::domain::{
        alert_rule::Severity,
        notify::{Effect, Links, Risk},
    };

    pub(crate) fn line(name: &str) -> Line {
        Line {
            alert: format!("al_{name}"),
            fingerprint: "82c49c0f364187ad".into(),
            name: name.into(),
            labels: [("alertname", name), ("system", "resources"), ("mount", "/srv")].map(|(n, v)| (n.to_owned(), v.to_owned())).into(),
            severity: Severity::Critical,
            resolved: false,
            since: "2026-03-01T10:00:00Z".parse().unwrap(),
            until: None,
            what: "a disk is nearly full".into(),
            value: Some("97.0 %".into()),
            threshold: "<= 85 %".into(),
            reason: "the disk is 97.0 % full".into(),
            last_good: Some(("81.0 %".into(), "2026-03-01T09:55:00Z".parse().unwrap())),
            changed: vec!["backup began at 09:56".into()],
            risk: vec![
                Risk { currency: "usd".into(), amount_minor: 9900, payments: 3, customers: 1 },
                Risk { currency: "jpy".into(), amount_minor: 500, payments: 1, customers: 1 },
            ],
            owner: "Whoever runs this program.".into(),
            runbook: "Make room: `du -x /srv`.".into(),
            effects: vec![Effect { name: "backup".into(), reason: "no room".into(), since: "2026-03-01T10:01:00Z".parse().unwrap() }],
            links: Links {
                acknowledge: Some("https://ops.example/a?x=1&y=2".into()),
                snooze: Some("https://ops.example/s".into()),
                run_now: None,
            },
        }
    }

    pub(crate) fn message(kind: Kind, alerts: Vec<Line>) -> Message {
        Message {
            id: "ntf_0190".into(),
            kind,
            severity: Severity::Critical,
            group: "system=resources".into(),
            title: "Disk <nearly> full & Ümläut".into(),
            at: "2026-03-01T12:05:00Z".parse().unwrap(),
            alerts,
            more: 0,
            url: "https://ops.example/alerts".into(),
        }
    }

    #[test]
    fn a_message_says_what_since_when_how_bad_what_it_costs_and_what_to_do() {
        let text = text(&message(Kind::Firing, vec![line("disk")]));
        for part in [
            "disk (mount=/srv) - critical",
            "What: a disk is nearly full",
            "Since: 2026-03-01 10:00 UTC, for 2 h 5 min",
            "Value: 97.0 %",
            "Fine would be: <= 85 %",
            "Last good: 81.0 % at 2026-03-01 09:55 UTC",
            "What changed: backup began at 09:56",
            "At risk: 99.00 USD in 3 payments of 1 customer; 500 JPY in 1 payment of 1 customer",
            "Follows from it: backup: no room (since 2026-03-01 10:01 UTC)",
            "What to do: Make room: `du -x /srv`.",
            "Acknowledge: https://ops.example/a?x=1&y=2",
            "All of it: https://ops.example/alerts",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn the_end_of_an_alert_says_how_long_it_lasted_and_asks_for_nothing() {
        let over = Line { resolved: true, until: Some("2026-03-01T10:30:00Z".parse().unwrap()), ..line("disk") };
        let text = text(&message(Kind::Resolved, vec![over]));
        assert!(text.contains("When: from 2026-03-01 10:00 UTC to 2026-03-01 10:30 UTC, 30 min") && !text.contains("What to do"), "{text}");
    }

    #[test]
    fn the_subject_is_one_line_and_says_the_kind() {
        for (kind, start) in [
            (Kind::Firing, "[critical] Disk"),
            (Kind::Repeat, "[still critical] "),
            (Kind::Resolved, "[resolved] "),
            (Kind::Test, "[test] "),
        ] {
            assert!(subject(&message(kind, Vec::new())).starts_with(start));
        }
        let broken = Message { title: "a\r\nBcc: b".into(), ..message(Kind::Firing, Vec::new()) };
        assert_eq!(subject(&broken), "[critical] a Bcc: b");
    }

    #[test]
    fn spans_have_two_units_at_most() {
        let cases =
            [(-5, "0 s"), (45, "45 s"), (60, "1 min"), (61, "1 min 1 s"), (7500, "2 h 5 min"), (86_400, "1 d"), (90_000, "1 d 1 h")];
        for (seconds, expected) in cases {
            assert_eq!(span(seconds), expected);
        }
        let lines = ["aaaa", "bbbb", "cccc"].map(str::to_owned);
        for (max, expected) in [(14, "aaaa\nbbbb\ncccc"), (13, "aaaa\nbbbb\n…"), (11, "aaaa\nbbbb\n…"), (10, "aaaa\n…"), (4, "…")] {
            assert_eq!(fit(lines.clone(), max, |t| t.chars().count()), expected, "{max}");
        }
        assert_eq!((cut("äöü", 3), cut("äöüß", 3)), ("äöü".to_owned(), "äö…".to_owned()));
    }
}
