//! What a person says about an alert that fires: I look after it, or not now. Called by the alert actor; the state machine forgets
//! both when the alert resolves or gets worse.

use chrono::{DateTime, TimeDelta, Utc};

use super::{Alert, State};

/// The longest snooze.
const LONGEST: TimeDelta = TimeDelta::days(7);

/// Who looks after an alert.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Acknowledged {
    pub by: String,
    pub at: DateTime<Utc>,
    pub note: String,
}

impl Alert {
    /// The error is a sentence: only what fires can be acknowledged.
    pub fn acknowledge(&mut self, by: &str, note: &str, now: DateTime<Utc>) -> Result<(), String> {
        self.must_fire()?;
        self.acknowledged = Some(Acknowledged { by: by.to_owned(), at: now, note: note.to_owned() });
        Ok(())
    }

    /// The error is a sentence.
    pub fn unacknowledge(&mut self) -> Result<(), String> {
        self.must_fire()?;
        self.acknowledged = None;
        Ok(())
    }

    /// Quiet until a time; a time that is not in the future ends a snooze. The error is a sentence.
    pub fn snooze(&mut self, until: DateTime<Utc>, now: DateTime<Utc>) -> Result<(), String> {
        self.must_fire()?;
        if until - now > LONGEST {
            return Err("a snooze is at most 7 days; make a silence for longer".to_owned());
        }
        self.snoozed_until = (until > now).then_some(until);
        Ok(())
    }

    /// Whether a person asked for quiet about it.
    pub fn is_quiet(&self, now: DateTime<Utc>) -> bool {
        self.acknowledged.is_some() || self.snoozed_until.is_some_and(|until| until > now)
    }

    pub(super) fn forget_response(&mut self) {
        (self.acknowledged, self.snoozed_until) = (None, None);
    }

    fn must_fire(&self) -> Result<(), String> {
        if self.state == State::Firing { Ok(()) } else { Err(format!("{} does not fire, it is {}", self.name, self.state.as_str())) }
    }
}
