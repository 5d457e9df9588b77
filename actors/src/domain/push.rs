//! Jobs of the user's own that report to us: whether one is well, by what it reported and when it should have. Called by the gateway for
//! each report and by the alert actor's room at every look. Pure: the plan, the reports and `now` go in, the verdict comes out.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{notify::span, schedule::Schedule};

/// Runs of one job that are remembered as begun; of more, the oldest are what matters.
const OPEN: usize = 100;

/// When a job is to report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    when: When,
    grace: TimeDelta,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum When {
    /// So long after the report before.
    Every(TimeDelta),
    At(Schedule),
}

impl Plan {
    /// `schedule` wins over `every_s`. The error is a sentence.
    pub fn new(every_s: u64, schedule: Option<&str>, zone: Option<&str>, grace_s: u64) -> Result<Self, String> {
        let span = |name: &str, seconds: u64| {
            let usable = i64::try_from(seconds).ok().filter(|s| (1..=366 * 86_400).contains(s));
            usable.map(TimeDelta::seconds).ok_or_else(|| format!("{name} must be 1 to {}", 366 * 86_400))
        };
        let when = match schedule {
            Some(text) => When::At(Schedule::parse(text, zone)?),
            None if zone.is_some() => return Err("a zone belongs to a schedule, and there is none".to_owned()),
            None => When::Every(span("every_s", every_s)?),
        };
        Ok(Self { when, grace: span("grace_s", grace_s)? })
    }

    /// When a job that last reported at `last` is to report again.
    pub fn due_after(&self, last: DateTime<Utc>) -> DateTime<Utc> {
        match &self.when {
            When::Every(span) => last.checked_add_signed(*span).unwrap_or(DateTime::<Utc>::MAX_UTC),
            When::At(schedule) => schedule.next_after(last),
        }
    }

    pub fn describe(&self) -> String {
        let when = match &self.when {
            When::Every(every) => format!("every {}", span(every.num_seconds())),
            When::At(schedule) => schedule.describe(),
        };
        format!("{when}, {} of grace", span(self.grace.num_seconds()))
    }
}

/// Whether a name can stand in a URL as it is.
pub fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'))
}

/// What a report says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Start,
    Success,
    Fail,
    /// An exit status: 0 is a success.
    Exit(u8),
    /// Kept, and nothing else.
    Log,
}

impl Signal {
    /// The last segment of the ping URL.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "start" => Some(Self::Start),
            "fail" => Some(Self::Fail),
            "log" => Some(Self::Log),
            digits if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok().map(Self::Exit),
            _ => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Success | Self::Exit(0) => "success",
            Self::Fail | Self::Exit(_) => "fail",
            Self::Log => "log",
        }
    }

    pub fn exit_status(self) -> Option<u8> {
        if let Self::Exit(status) = self { Some(status) } else { None }
    }
}

/// A run that began and has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// The `rid` it gave.
    pub run: Option<String>,
    pub at: DateTime<Utc>,
}

/// What a job reported so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reports {
    /// When the daemon first saw the setting: a job that never reports is late from here.
    pub first_seen: DateTime<Utc>,
    pub last_start: Option<DateTime<Utc>>,
    /// Success or failure.
    pub last_end: Option<DateTime<Utc>>,
    pub last_ok: Option<DateTime<Utc>>,
    /// Its last end was a failure.
    pub failed: bool,
    pub exit_status: Option<u8>,
    /// Of the last run that gave both its start and its end.
    pub duration_ms: Option<i64>,
    pub open: Vec<Open>,
}

impl Reports {
    pub fn new(first_seen: DateTime<Utc>) -> Self {
        Self {
            first_seen,
            last_start: None,
            last_end: None,
            last_ok: None,
            failed: false,
            exit_status: None,
            duration_ms: None,
            open: Vec::new(),
        }
    }

    /// Takes a report in, and answers how long the run took that it ends.
    pub fn take(&mut self, signal: Signal, run: Option<&str>, at: DateTime<Utc>) -> Option<i64> {
        let ok = match signal {
            Signal::Log => return None,
            Signal::Start => {
                self.last_start = Some(at);
                if self.open.len() < OPEN {
                    self.open.push(Open { run: run.map(str::to_owned), at });
                }
                return None;
            }
            Signal::Success | Signal::Exit(0) => true,
            Signal::Fail | Signal::Exit(_) => false,
        };
        // Of several starts without a name it is the last that ends.
        let begun = self.open.iter().rposition(|open| open.run.as_deref() == run).map(|i| self.open.remove(i));
        let duration = begun.as_ref().map(|open| (at - open.at).num_milliseconds().max(0));
        if ok {
            // Runs that began before this one are gone, whatever became of them: the job is well again. One that began after it goes on,
            // if names tell them apart.
            let since = begun.filter(|open| open.run.is_some()).map_or(at, |open| open.at);
            self.open.retain(|open| open.at > since);
            self.last_ok = Some(at);
        }
        (self.last_end, self.failed, self.exit_status, self.duration_ms) = (Some(at), !ok, signal.exit_status(), duration);
        duration
    }
}

/// How a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It never reported, and need not have yet.
    New,
    Up,
    /// A run is going on.
    Started,
    /// Its report is due; the grace time runs.
    Late,
    Down,
}

/// The verdict with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub state: State,
    /// A sentence for a person, true also when all is well.
    pub reason: String,
    /// When the next report is due.
    pub due: DateTime<Utc>,
    /// When it is down unless it reports.
    pub alarm: DateTime<Utc>,
}

/// Judges a job. `up_since`: before that this program was not there to take reports.
pub fn judge(plan: &Plan, reports: &Reports, up_since: DateTime<Utc>, now: DateTime<Utc>) -> Verdict {
    let due = plan.due_after(reports.last_end.unwrap_or(reports.first_seen));
    let after = |at: DateTime<Utc>| at.checked_add_signed(plan.grace).unwrap_or(DateTime::<Utc>::MAX_UTC);
    let grace = span(plan.grace.num_seconds());
    let late = after(due);
    let oldest = reports.open.iter().map(|open| open.at).min();
    let verdict = |state, alarm, reason| Verdict { state, reason, due, alarm };
    if let (true, Some(at)) = (reports.failed, reports.last_end) {
        let how = reports.exit_status.map_or_else(|| "it reported a failure".to_owned(), |s| format!("it ended with exit status {s}"));
        return verdict(State::Down, at, format!("{how} at {}", shown(at)));
    }
    if let Some(start) = oldest.filter(|start| after(*start) < now) {
        return verdict(State::Down, after(start), format!("it began at {} and did not end within {grace}", shown(start)));
    }
    // A run that began in time is no late report; one that began after the alarm does not end it.
    if let Some(start) = oldest.filter(|start| *start <= late) {
        return verdict(State::Started, after(start), format!("it runs since {}", shown(start)));
    }
    let last = reports.last_end.map_or_else(|| "it never reported".to_owned(), |at| format!("it last reported at {}", shown(at)));
    if now <= due {
        let state = if reports.last_end.is_some() { State::Up } else { State::New };
        return verdict(state, late, format!("{last} and is due at {}", shown(due)));
    }
    if now <= late {
        return verdict(State::Late, late, format!("{last} and was due at {}; it has until {}", shown(due), shown(late)));
    }
    let absent = if due < up_since {
        format!("; this program runs since {} only, so a report may have found nobody", shown(up_since))
    } else {
        String::new()
    };
    verdict(State::Down, late, format!("{last} and was due at {}, with {grace} of grace{absent}", shown(due)))
}

fn shown(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn t(minutes: i64) -> DateTime<Utc> {
        "2026-03-01T00:00:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::minutes(minutes)
    }

    /// Every hour with ten minutes of grace.
    fn hourly() -> Plan {
        Plan::new(3600, None, None, 600).unwrap()
    }

    fn after(signals: &[(i64, Signal, Option<&str>)]) -> Reports {
        let mut reports = Reports::new(t(0));
        for (at, signal, run) in signals {
            reports.take(*signal, *run, t(*at));
        }
        reports
    }

    fn state(signals: &[(i64, Signal, Option<&str>)], now: i64) -> State {
        judge(&hourly(), &after(signals), t(0), t(now)).state
    }

    #[test]
    fn a_job_that_never_reports_is_late_from_the_first_time_its_setting_was_seen() {
        for (now, expected) in [(0, State::New), (60, State::New), (61, State::Late), (70, State::Late), (71, State::Down)] {
            assert_eq!(state(&[], now), expected, "minute {now}");
        }
        let verdict = judge(&hourly(), &after(&[]), t(0), t(71));
        assert!(verdict.reason.starts_with("it never reported and was due at 2026-03-01T01:00:00Z"), "{}", verdict.reason);
        assert_eq!((verdict.due, verdict.alarm), (t(60), t(70)));
    }

    #[test]
    fn the_state_follows_the_reports() {
        use Signal::{Exit, Fail, Log, Start, Success};
        type Reports<'a> = &'a [(i64, Signal, Option<&'a str>)];
        let cases: &[(Reports<'_>, i64, State)] = &[
            (&[(5, Success, None)], 65, State::Up),
            (&[(5, Success, None)], 66, State::Late),
            (&[(5, Success, None)], 76, State::Down),
            (&[(5, Success, None), (70, Success, None)], 76, State::Up),
            (&[(5, Fail, None)], 6, State::Down),
            (&[(5, Exit(0), None)], 6, State::Up),
            (&[(5, Exit(3), None)], 6, State::Down),
            (&[(5, Exit(3), None), (8, Success, None)], 9, State::Up),
            // A start does not make good what failed.
            (&[(5, Exit(3), None), (8, Start, None)], 9, State::Down),
            (&[(5, Start, None)], 15, State::Started),
            (&[(5, Start, None)], 16, State::Down),
            (&[(5, Start, None), (14, Success, None)], 16, State::Up),
            // A start in time is no late report, and its run has its own grace.
            (&[(5, Success, None), (74, Start, None)], 80, State::Started),
            (&[(5, Success, None), (74, Start, None)], 85, State::Down),
            // One after the alarm does not end it.
            (&[(5, Success, None), (80, Start, None)], 81, State::Down),
            // A job that dies at every run is down until one ends well.
            (&[(5, Success, None), (65, Start, None), (125, Start, None)], 126, State::Down),
            (&[(5, Success, None), (65, Start, None), (125, Start, None), (126, Success, None)], 127, State::Up),
            // A log line is no sign of life.
            (&[(5, Success, None), (60, Log, None)], 80, State::Down),
        ];
        for (signals, now, expected) in cases {
            assert_eq!(state(signals, *now), *expected, "{signals:?} at {now}");
        }
    }

    #[test]
    fn runs_are_paired_by_their_ids() {
        use Signal::{Start, Success};
        // A ends, B hangs: the end of one does not hide the other.
        let two = [(0, Start, Some("a")), (1, Start, Some("b")), (5, Success, Some("a"))];
        let reports = after(&two);
        assert_eq!((reports.duration_ms, reports.open.len()), (Some(300_000), 1));
        assert_eq!((state(&two, 10), state(&two, 12)), (State::Started, State::Down));
        // B ends: what began before it is over.
        let reports = after(&[(0, Start, Some("a")), (1, Start, Some("b")), (5, Success, Some("b"))]);
        assert_eq!((reports.duration_ms, reports.open.len()), (Some(240_000), 0));
        // An end that nobody began has no duration.
        let reports = after(&[(0, Start, Some("a")), (5, Success, Some("c"))]);
        assert_eq!((reports.duration_ms, reports.open.len()), (None, 0));
        // A failed run ends, and the others go on.
        let reports = after(&[(0, Start, Some("a")), (1, Start, Some("b")), (5, Signal::Exit(1), Some("a"))]);
        assert_eq!((reports.open.len(), reports.exit_status, reports.failed), (1, Some(1), true));
    }

    #[test]
    fn a_schedule_is_on_the_clock_of_its_zone_also_when_that_changes() {
        let plan = Plan::new(0, Some("daily 02:30"), Some("Europe/Berlin"), 1800).unwrap();
        let mut reports = Reports::new("2026-03-28T00:00:00Z".parse().unwrap());
        reports.take(Signal::Success, None, "2026-03-28T01:31:00Z".parse().unwrap());
        // On the 29th there is no 02:30: the slot is at 03:00 summer time, 01:00 UTC.
        let verdict = judge(&plan, &reports, reports.first_seen, "2026-03-29T00:59:00Z".parse().unwrap());
        assert_eq!((verdict.state, shown(verdict.due)), (State::Up, "2026-03-29T01:00:00Z".to_owned()));
        let at = |text: &str| judge(&plan, &reports, reports.first_seen, text.parse().unwrap()).state;
        assert_eq!((at("2026-03-29T01:20:00Z"), at("2026-03-29T01:31:00Z")), (State::Late, State::Down));
        assert_eq!(plan.describe(), "daily 02:30 Europe/Berlin, 30 min of grace");
    }

    #[test]
    fn who_was_not_there_says_so() {
        let reports = after(&[(5, Signal::Success, None)]);
        assert!(judge(&hourly(), &reports, t(0), t(100)).reason.ends_with("with 10 min of grace"));
        assert!(judge(&hourly(), &reports, t(90), t(100)).reason.contains("a report may have found nobody"));
    }

    #[test]
    fn settings_that_cannot_be_are_refused_with_a_sentence() {
        use Signal::{Exit, Fail, Log, Start};
        assert!(Plan::new(0, None, None, 60).unwrap_err().starts_with("every_s must be"));
        assert!(Plan::new(60, None, None, 0).unwrap_err().starts_with("grace_s must be"));
        assert!(Plan::new(60, None, Some("UTC"), 60).unwrap_err().contains("belongs to a schedule"));
        assert!(Plan::new(60, Some("soon"), None, 60).unwrap_err().contains("cron expression"));
        for (name, fine) in [("nightly-backup_2.x", true), ("", false), ("A", false), ("a/b", false), ("a b", false)] {
            assert_eq!(is_name(name), fine, "{name}");
        }
        let words = ["start", "fail", "log", "0", "255", "256", "", "-1", "stop", "007"].map(Signal::parse);
        assert_eq!(words, [Some(Start), Some(Fail), Some(Log), Some(Exit(0)), Some(Exit(255)), None, None, None, None, Some(Exit(7))]);
    }

    proptest! {
        #[test]
        fn silence_always_ends_in_an_alarm_and_a_success_always_ends_it(
            signals in prop::collection::vec((0i64..500, 0u8..6, 0u8..3), 0..40), quiet in 71i64..10_000,
        ) {
            let mut reports = Reports::new(t(0));
            let mut signals = signals;
            signals.sort_unstable();
            let last = signals.last().map_or(0, |s| s.0);
            for (at, which, run) in signals {
                let signal = [Signal::Start, Signal::Success, Signal::Fail, Signal::Exit(0), Signal::Exit(9), Signal::Log][usize::from(which)];
                let run = [None, Some("a"), Some("b")][usize::from(run)];
                reports.take(signal, run, t(at));
            }
            prop_assert_eq!(judge(&hourly(), &reports, t(0), t(last + quiet)).state, State::Down);
            reports.take(Signal::Success, None, t(last + quiet));
            prop_assert_eq!(judge(&hourly(), &reports, t(0), t(last + quiet)).state, State::Up);
        }
    }
}
