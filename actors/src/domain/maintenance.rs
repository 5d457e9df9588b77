//! Times that count neither for nor against: maintenance, planned beforehand, and corrections, found out afterwards. What a person asks for is
//! looked at here before it is written down; the entries are kept in the store for good.

use chrono::{DateTime, TimeDelta, Utc};

use super::slo::Excluded;

/// Nothing may be excluded for longer than this at once.
pub const LONGEST: TimeDelta = TimeDelta::days(7);
/// How far ahead maintenance may be planned, and how far back a correction may reach.
const AHEAD: TimeDelta = TimeDelta::days(366);
const BACK: TimeDelta = TimeDelta::days(92);
/// Maintenance may begin a little before it is entered.
const LATE: TimeDelta = TimeDelta::minutes(5);

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maintenance {
    pub id: String,
    /// `maintenance` or `correction`.
    pub kind: String,
    /// Whose events do not count; empty: of all.
    pub service: String,
    /// Whose alerts are kept quiet; empty: all. A correction keeps none quiet.
    pub systems: Vec<String>,
    pub starts_at: DateTime<Utc>,
    pub ends_at: DateTime<Utc>,
    pub reason: String,
    pub author: String,
    pub created_at: DateTime<Utc>,
    /// Ended early or withdrawn, and by whom.
    pub ended_at: Option<DateTime<Utc>>,
    pub ended_by: Option<String>,
}

impl Maintenance {
    /// When it really ends or ended.
    pub fn until(&self) -> DateTime<Utc> {
        self.ended_at.map_or(self.ends_at, |ended| ended.min(self.ends_at))
    }

    /// `planned`, `active` or `over`; a correction is over from the start, `withdrawn` if it was.
    pub fn state(&self, now: DateTime<Utc>) -> &'static str {
        if self.kind == "correction" {
            return if self.ended_at.is_some() { "withdrawn" } else { "over" };
        }
        if now < self.starts_at && self.ended_at.is_none() {
            "planned"
        } else if now < self.until() {
            "active"
        } else {
            "over"
        }
    }

    /// Whether it keeps alerts of this system quiet now.
    pub fn quiets(&self, system: &str, now: DateTime<Utc>) -> bool {
        self.state(now) == "active" && (self.systems.is_empty() || self.systems.iter().any(|s| s == system))
    }

    /// The whole minutes that do not count: every one that it touches. `None` if it was withdrawn, or ended before it began.
    pub fn excluded(&self) -> Option<Excluded> {
        if self.kind == "correction" && self.ended_at.is_some() {
            return None;
        }
        let from = self.starts_at.timestamp().div_euclid(60);
        let until = (self.until() + TimeDelta::seconds(59)).timestamp().div_euclid(60);
        let (id, kind, reason, author) = (self.id.clone(), self.kind.clone(), self.reason.clone(), self.author.clone());
        (until > from).then_some(Excluded { id, kind, from, until, reason, author })
    }

    /// Refuses what cannot be meant: (field, sentence). `others` are the entries that are not withdrawn.
    pub fn check(&self, now: DateTime<Utc>, others: &[Self]) -> Result<(), (&'static str, String)> {
        let (from, to) = (self.starts_at, self.ends_at);
        if self.reason.trim().is_empty() {
            return Err(("reason", "reason must say why: it stays visible in every report".to_owned()));
        }
        if to <= from {
            return Err(("ends_at", "ends_at must be after starts_at".to_owned()));
        }
        if to - from > LONGEST {
            return Err(("ends_at", format!("ends_at must be at most {} days after starts_at", LONGEST.num_days())));
        }
        if self.kind == "correction" {
            if to > now {
                return Err(("ends_at", "ends_at must be past: a correction is about what was; what is to come is maintenance".to_owned()));
            }
            if from < now - BACK {
                return Err(("starts_at", format!("starts_at must be at most {} days ago: older minutes are not kept", BACK.num_days())));
            }
        } else {
            if to <= now {
                return Err(("ends_at", "ends_at must be to come: what is past is a correction".to_owned()));
            }
            if from < now - LATE {
                return Err(("starts_at", "starts_at must not be past: the time before now is a correction".to_owned()));
            }
            if from > now + AHEAD {
                return Err(("starts_at", "starts_at must be at most a year ahead".to_owned()));
            }
        }
        let same = |other: &&Self| other.kind == self.kind && other.service == self.service && other.id != self.id;
        let overlaps = |other: &&Self| other.starts_at < to && other.until() > from;
        match others.iter().filter(same).find(overlaps) {
            None => Ok(()),
            Some(other) => Err(("starts_at", format!("starts_at lies within {} ({}): end that one first", other.id, other.reason))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        format!("2026-03-{text}Z").parse().unwrap()
    }

    fn entry(kind: &str, from: &str, to: &str) -> Maintenance {
        Maintenance {
            id: format!("mnt_{from}"),
            kind: kind.into(),
            service: String::new(),
            systems: vec![],
            starts_at: at(from),
            ends_at: at(to),
            reason: "move".into(),
            author: "kim".into(),
            created_at: at("10T12:00:00"),
            ended_at: None,
            ended_by: None,
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_field() {
        let now = at("10T12:00:00");
        let cases = [
            ("maintenance", "10T12:00:00", "10T13:00:00", Ok(())),
            ("maintenance", "10T11:56:00", "10T13:00:00", Ok(())),
            ("maintenance", "10T11:54:00", "10T13:00:00", Err("starts_at")),
            ("maintenance", "10T13:00:00", "10T13:00:00", Err("ends_at")),
            ("maintenance", "10T14:00:00", "10T13:00:00", Err("ends_at")),
            ("maintenance", "10T13:00:00", "17T13:00:01", Err("ends_at")),
            ("maintenance", "09T13:00:00", "09T14:00:00", Err("ends_at")),
            ("correction", "09T13:00:00", "09T14:00:00", Ok(())),
            ("correction", "10T11:00:00", "10T12:00:01", Err("ends_at")),
        ];
        for (kind, from, to, expected) in cases {
            assert_eq!(entry(kind, from, to).check(now, &[]).map_err(|(field, _)| field), expected, "{kind} {from} {to}");
        }
        let silent = Maintenance { reason: "  ".into(), ..entry("correction", "09T13:00:00", "09T14:00:00") };
        assert_eq!(silent.check(now, &[]).unwrap_err().0, "reason");
        let far = Maintenance {
            starts_at: now + TimeDelta::days(400),
            ends_at: now + TimeDelta::days(401),
            ..entry("maintenance", "10T12:00:00", "10T13:00:00")
        };
        assert_eq!(far.check(now, &[]).unwrap_err().0, "starts_at");
    }

    #[test]
    fn two_of_one_service_do_not_overlap() {
        let now = at("10T12:00:00");
        let first = entry("maintenance", "10T12:00:00", "10T13:00:00");
        let second = entry("maintenance", "10T12:59:59", "10T14:00:00");
        let (field, what) = second.check(now, std::slice::from_ref(&first)).unwrap_err();
        assert!(field == "starts_at" && what.contains("lies within mnt_10T12:00:00 (move)"), "{what}");
        assert_eq!(entry("maintenance", "10T13:00:00", "10T14:00:00").check(now, std::slice::from_ref(&first)), Ok(()));
        let other = Maintenance { service: "api".into(), ..second.clone() };
        assert_eq!(other.check(now, std::slice::from_ref(&first)), Ok(()));
        let ended = Maintenance { ended_at: Some(at("10T12:30:00")), ..first };
        assert_eq!(second.check(now, &[ended]), Ok(()));
    }

    #[test]
    fn it_is_active_until_it_ends_and_excludes_every_minute_it_touches() {
        let mut entry = entry("maintenance", "10T12:00:30", "10T13:00:30");
        entry.systems = vec!["api".into()];
        assert_eq!(entry.state(at("10T12:00:00")), "planned");
        assert!(entry.quiets("api", at("10T12:30:00")) && !entry.quiets("jobs", at("10T12:30:00")));
        let minutes = |e: &Maintenance| e.excluded().map(|x| x.until - x.from);
        assert_eq!(minutes(&entry), Some(61));
        entry.ended_at = Some(at("10T12:10:00"));
        assert_eq!((entry.state(at("10T12:30:00")), minutes(&entry)), ("over", Some(10)));
        entry.ended_at = Some(at("10T11:00:00"));
        assert_eq!(minutes(&entry), None);
        entry.kind = "correction".into();
        assert_eq!((entry.state(at("10T12:30:00")), minutes(&entry)), ("withdrawn", None));
    }
}
