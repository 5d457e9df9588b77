//! How many messages a channel takes in a minute, and what becomes of the others: they are put together in one, and nothing is dropped
//! without being told. Called by the delivery for each channel. Pure.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::{Kind, Line, Message};
use crate::domain::alert_rule::Severity;

/// Alerts that a digest lists.
const LISTED: usize = 50;

/// What a channel does now with what waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// This one, by its place.
    Send(usize),
    /// All of these in one.
    Merge(Vec<usize>),
    /// Until there is room again.
    Wait,
}

/// Decides what is sent next. `waiting`: of each message that is due, oldest first, whether it is critical: such a one is never held back.
/// `room`: how many messages still fit into this minute; the last place is for what does not fit any more. `merges`: false where each
/// message opens or closes something of its own, which then waits instead.
pub fn next(waiting: &[bool], room: usize, merges: bool) -> Next {
    let plain: Vec<usize> = (0..waiting.len()).filter(|i| !waiting[*i]).collect();
    if room > 1 || (room == 1 && (plain.len() < 2 || !merges)) {
        return if waiting.is_empty() { Next::Wait } else { Next::Send(0) };
    }
    match waiting.iter().position(|critical| *critical) {
        Some(critical) => Next::Send(critical),
        None if room == 1 => Next::Merge(plain),
        None => Next::Wait,
    }
}

/// Several messages as one: of every alert its latest state, what fires first.
pub fn digest(messages: &[Message], id: String, at: DateTime<Utc>) -> Message {
    let mut latest: BTreeMap<&str, &Line> = BTreeMap::new();
    for line in messages.iter().flat_map(|m| &m.alerts) {
        latest.insert(&line.alert, line);
    }
    let mut lines: Vec<&Line> = latest.into_values().collect();
    lines.sort_by(|a, b| (a.resolved, b.severity, a.since).cmp(&(b.resolved, a.severity, b.since)));
    let firing = lines.iter().filter(|line| !line.resolved).count();
    let cut = lines.len().saturating_sub(LISTED);
    Message {
        id,
        kind: Kind::Digest,
        severity: messages.iter().map(|m| m.severity).max().unwrap_or(Severity::Info),
        group: "digest".to_owned(),
        title: format!("{} messages in one: {firing} alerts fire, {} are over", messages.len(), lines.len() - firing),
        at,
        alerts: lines.into_iter().take(LISTED).cloned().collect(),
        more: messages.iter().map(|m| m.more).sum::<u64>() + cut as u64,
        url: messages.last().map(|m| m.url.clone()).unwrap_or_default(),
    }
}

/// The message without what a channel cannot be told: that it does not work itself. `None` if nothing is left.
pub fn without(message: &Message, channel: &str) -> Option<Message> {
    let own = |line: &Line| line.name == "delivery" && line.labels.get("channel").is_some_and(|c| c == channel);
    if !message.alerts.iter().any(own) {
        return Some(message.clone());
    }
    let rest = Message { alerts: message.alerts.iter().filter(|line| !own(line)).cloned().collect(), ..message.clone() };
    (!rest.alerts.is_empty() || rest.more > 0).then_some(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::notify::render::tests::{line, message};

    #[test]
    fn the_last_place_of_a_minute_is_for_all_that_does_not_fit() {
        let many = [false; 5];
        for (waiting, room, expected) in [
            (&many[..0], 3, Next::Wait),
            (&many[..], 3, Next::Send(0)),
            (&many[..], 1, Next::Merge(vec![0, 1, 2, 3, 4])),
            (&many[..1], 1, Next::Send(0)),
            (&many[..], 0, Next::Wait),
            (&[false, true, false], 0, Next::Send(1)),
            (&[false, true, false], 1, Next::Send(1)),
        ] {
            assert_eq!(next(waiting, room, true), expected, "{waiting:?} {room}");
        }
        assert_eq!((next(&many, 1, false), next(&many, 0, false)), (Next::Send(0), Next::Wait));
    }

    #[test]
    fn a_digest_has_the_latest_state_of_every_alert_and_counts_the_rest() {
        let over = Line { resolved: true, ..line("disk") };
        let all = [
            message(Kind::Firing, vec![line("disk"), line("cpu")]),
            Message { more: 4, ..message(Kind::Resolved, vec![over]) },
            message(Kind::Firing, (0..60).map(|n| line(&format!("probe{n}"))).collect()),
        ];
        let digest = digest(&all, "ntf_d".into(), all[0].at);
        assert_eq!(digest.title, "3 messages in one: 61 alerts fire, 1 are over");
        assert_eq!((digest.alerts.len(), digest.more), (LISTED, 16));
        assert!(digest.alerts.iter().all(|l| !l.resolved), "what fires comes first");
    }

    #[test]
    fn a_channel_is_not_told_that_it_does_not_work() {
        let mut own = line("delivery");
        own.labels.insert("channel".into(), "email".into());
        let both = message(Kind::Firing, vec![own.clone(), line("disk")]);
        assert_eq!(without(&both, "email").map(|m| m.alerts.len()), Some(1));
        assert_eq!(without(&both, "slack").map(|m| m.alerts.len()), Some(2));
        assert_eq!(without(&message(Kind::Resolved, vec![own]), "email"), None);
        assert!(without(&message(Kind::Test, Vec::new()), "email").is_some());
    }

    proptest! {
        #[test]
        fn everything_is_told_and_no_minute_has_more_than_its_places(critical in prop::collection::vec(any::<bool>(), 0..60), per_minute in 1usize..12) {
            let (mut waiting, mut told, mut minutes) = (critical.clone(), 0, 0);
            while !waiting.is_empty() {
                let mut room = per_minute;
                loop {
                    match next(&waiting, room, true) {
                        Next::Send(i) => {
                            prop_assert!(waiting.remove(i) || room > 0);
                            told += 1;
                        }
                        Next::Merge(all) => {
                            told += all.len();
                            waiting.retain(|critical| *critical);
                        }
                        Next::Wait => break,
                    }
                    room = room.saturating_sub(1);
                }
                minutes += 1;
                prop_assert!(minutes < 3, "the rest of one minute is told in it, or in the next");
            }
            prop_assert_eq!(told, critical.len());
        }
    }
}
