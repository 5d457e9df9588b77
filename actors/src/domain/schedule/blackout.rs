//! Windows in which a task must not start: `Sat 22:00-Sun 06:00`, `daily 02:00-03:00`, `Mon-Fri 09:00-17:00`. Asked by the timer before
//! it starts a slot.
//!
//! A window is a set of local clock times of the week, its end not included; it may run over midnight and over the end of the week. An
//! instant is inside when the local clock then shows a time of the set. So on the days on which the clock changes: a time that is shown
//! twice is inside both times, one that is skipped is simply not there, and a window changes its length by what was skipped or repeated.

use chrono::{DateTime, Datelike, Timelike, Utc};
use chrono_tz::Tz;

use super::{
    wall::wall,
    words::{DAYS, one_zone, time_of_day, weekday},
    zone,
};

const DAY: u16 = 24 * 60;
const WEEK: u16 = 7 * DAY;

/// A window of the week, on the clock of a zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blackout {
    text: String,
    /// `None` is UTC.
    zone: Option<Tz>,
    /// (first minute, length) in minutes since Sunday 00:00; a span may run over the end of the week.
    spans: Vec<(u16, u16)>,
}

impl Blackout {
    /// Reads `DAY HH:MM-DAY HH:MM` (one span), `daily HH:MM-HH:MM` or `DAY-DAY HH:MM-HH:MM` (a span on each of the days; an end that is not
    /// later than its start is on the following day), on the clock of `time_zone` (UTC without one) or of the zone named at the end.
    /// 24:00 is the end of a day. The error is a sentence.
    pub fn parse(text: &str, time_zone: Option<&str>) -> Result<Self, String> {
        let text = text.trim();
        let refused = |why: &str| format!("blackout \"{text}\": {why}");
        let mut words: Vec<&str> = text.split_whitespace().collect();
        let at_its_end = if words.len() > 1 { words.pop_if(|word| zone::looks_like_one(word) && !word.contains(':')) } else { None };
        let zone = one_zone(text, time_zone, at_its_end).map_err(|why| format!("blackout {why}"))?;
        // "22:00 - 06:00" and "22:00-06:00" are the same.
        let joined = words.join(" ").replace(" - ", "-").replace("- ", "-").replace(" -", "-");
        let spans = spans(&joined).map_err(|why| refused(&why))?;
        if (0..WEEK).all(|minute| covers(&spans, minute)) {
            return Err(refused("it covers the whole week, nothing would ever run; pause the task instead"));
        }
        Ok(Self { text: text.to_owned(), zone, spans })
    }

    /// Whether the local clock shows a time of the window at that instant.
    pub fn contains(&self, at: DateTime<Utc>) -> bool {
        let local = match self.zone {
            None => Some(at),
            Some(zone) => wall(zone, at),
        };
        local.is_some_and(|local| {
            let minutes = local.weekday().num_days_from_sunday() * u32::from(DAY) + local.hour() * 60 + local.minute();
            covers(&self.spans, u16::try_from(minutes).expect("less than a week"))
        })
    }

    /// The times of the window from minute `from` to before minute `until`, minutes since the epoch: (first, end).
    pub fn between(&self, from: i64, until: i64) -> Vec<(i64, i64)> {
        let mut found: Vec<(i64, i64)> = Vec::new();
        let inside = |minute: &i64| DateTime::from_timestamp(minute * 60, 0).is_some_and(|at| self.contains(at));
        for minute in (from..until).filter(inside) {
            match found.last_mut() {
                Some((_, end)) if *end == minute => *end += 1,
                _ => found.push((minute, minute + 1)),
            }
        }
        found
    }

    /// The window as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The name of the zone whose clock it is read on.
    pub fn zone(&self) -> &'static str {
        zone::name(self.zone)
    }
}

fn covers(spans: &[(u16, u16)], minute: u16) -> bool {
    spans.iter().any(|(first, length)| (minute + WEEK - first) % WEEK < *length)
}

const LIKE: &str = "write it like \"Sat 22:00-Sun 06:00\", \"daily 02:00-03:00\" or \"Mon-Fri 09:00-17:00\"";

fn spans(text: &str) -> Result<Vec<(u16, u16)>, String> {
    let words: Vec<&str> = text.split(' ').collect();
    match words[..] {
        // Sat 22:00-Sun 06:00
        [day, middle, end] => {
            let (start, end_day) = middle.split_once('-').ok_or(LIKE)?;
            let first = named_day(day)? * DAY + time(start)?;
            let last = named_day(end_day)? * DAY + time(end)?;
            let length = (last + WEEK - first % WEEK) % WEEK;
            if length == 0 { Err("it starts and ends at the same time".to_owned()) } else { Ok(vec![(first % WEEK, length)]) }
        }
        // daily 02:00-03:00, Mon-Fri 09:00-17:00, Sun 22:00-06:00
        [days, times] => {
            let (start, end) = times.split_once('-').ok_or(LIKE)?;
            let (start, end) = (time(start)?, time(end)?);
            if start == DAY {
                return Err("a window cannot start at 24:00, write 00:00 of the next day".to_owned());
            }
            if start == end {
                return Err("it starts and ends at the same time".to_owned());
            }
            let length = if end > start { end - start } else { end + DAY - start };
            Ok(named_days(days)?.into_iter().map(|day| (day * DAY + start, length)).collect())
        }
        _ => Err(LIKE.to_owned()),
    }
}

fn time(word: &str) -> Result<u16, String> {
    time_of_day(word).ok_or_else(|| format!("\"{word}\" is not a time of day like 06:00; {LIKE}"))
}

fn named_day(word: &str) -> Result<u16, String> {
    let day = weekday(word).and_then(|day| u16::try_from(day).ok());
    day.ok_or_else(|| format!("\"{word}\" is not a weekday ({}); {LIKE}", DAYS.join(", ")))
}

/// `daily`, `Sat`, `Mon-Fri`, also over the end of the week: `Fri-Mon`.
fn named_days(word: &str) -> Result<Vec<u16>, String> {
    if word.eq_ignore_ascii_case("daily") {
        return Ok((0..7).collect());
    }
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    let (first, last) = (named_day(first)?, named_day(last)?);
    Ok((0..=(last + 7 - first) % 7).map(|n| (first + n) % 7).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;
    use proptest::prelude::*;

    fn t(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn its_times_are_found_also_across_an_end_of_what_is_asked_and_a_change_of_the_clock() {
        let window = Blackout::parse("daily 23:00-01:00 Europe/Berlin", None).unwrap();
        let minute = |text: &str| t(text).timestamp() / 60;
        let found = window.between(minute("2026-03-27T23:30:00Z"), minute("2026-03-29T23:30:00Z"));
        // In winter 23:00 is 22:00 UTC, in summer 21:00.
        let expected = [
            ("2026-03-27T23:30:00Z", "2026-03-28T00:00:00Z"),
            ("2026-03-28T22:00:00Z", "2026-03-29T00:00:00Z"),
            ("2026-03-29T21:00:00Z", "2026-03-29T23:00:00Z"),
        ];
        assert_eq!(found, expected.map(|(from, until)| (minute(from), minute(until))));
    }

    fn window(text: &str) -> Blackout {
        Blackout::parse(text, None).unwrap()
    }

    #[test]
    fn a_window_holds_its_start_and_not_its_end() {
        // 2026-07-04 is a Saturday.
        let cases = [
            ("daily 02:00-03:00", "2026-07-04T01:59:59.999Z", false),
            ("daily 02:00-03:00", "2026-07-04T02:00:00Z", true),
            ("daily 02:00-03:00", "2026-07-04T02:59:59.999Z", true),
            ("daily 02:00-03:00", "2026-07-04T03:00:00Z", false),
            ("daily 22:00-06:00", "2026-07-04T23:00:00Z", true),
            ("daily 22:00-06:00", "2026-07-05T05:59:00Z", true),
            ("daily 22:00-06:00", "2026-07-05T06:00:00Z", false),
            ("Sat 22:00-Sun 06:00", "2026-07-04T21:59:59Z", false),
            ("Sat 22:00-Sun 06:00", "2026-07-04T22:00:00Z", true),
            ("Sat 22:00-Sun 06:00", "2026-07-05T00:00:00Z", true),
            ("Sat 22:00-Sun 06:00", "2026-07-05T06:00:00Z", false),
            ("Sat 22:00-Sun 06:00", "2026-07-05T22:00:00Z", false),
            ("Sun 06:00-Sat 22:00", "2026-07-05T06:00:00Z", true),
            ("Sun 06:00-Sat 22:00", "2026-07-05T05:59:00Z", false),
            ("Sat 22:00 - Sat 21:00", "2026-07-08T12:00:00Z", true),
            ("Sat 22:00 - Sat 21:00", "2026-07-04T21:30:00Z", false),
            ("mon-fri 09:00-17:00", "2026-07-04T12:00:00Z", false),
            ("Mon-Fri 09:00-17:00", "2026-07-06T12:00:00Z", true),
            ("Mon-Fri 09:00-17:00", "2026-07-10T16:59:00Z", true),
            ("Fri-Mon 00:00-24:00", "2026-07-05T12:00:00Z", true),
            ("Fri-Mon 00:00-24:00", "2026-07-06T23:59:00Z", true),
            ("Fri-Mon 00:00-24:00", "2026-07-07T00:00:00Z", false),
            ("Sun 22:00-06:00", "2026-07-06T05:00:00Z", true),
            ("Sun 22:00-06:00", "2026-07-05T05:00:00Z", false),
        ];
        for (text, at, inside) in cases {
            assert_eq!(window(text).contains(t(at)), inside, "{text} at {at}");
        }
    }

    #[test]
    fn a_window_is_read_on_the_clock_of_its_zone() {
        let berlin = Blackout::parse("daily 02:00-03:00", Some("Europe/Berlin")).unwrap();
        assert_eq!((berlin.as_str(), berlin.zone()), ("daily 02:00-03:00", "Europe/Berlin"));
        assert_eq!(Blackout::parse("daily 02:00-03:00 Europe/Berlin", None).unwrap().zone(), "Europe/Berlin");
        assert_eq!(window("daily 02:00-03:00").zone(), "UTC");
        let minutes = |day: &str| (0..DAY).filter(|n| berlin.contains(t(day) + TimeDelta::minutes((*n).into()))).count();
        let lengths = ["2026-07-04T00:00:00Z", "2026-03-29T00:00:00Z", "2026-10-25T00:00:00Z"].map(minutes);
        assert_eq!(lengths, [60, 0, 120], "an ordinary day, the clock skips the window, the clock shows it twice");
    }

    #[test]
    fn a_window_that_cannot_be_read_is_refused_with_a_sentence() {
        let cases = [
            ("", "write it like"),
            ("02:00-03:00", "write it like"),
            ("daily", "write it like"),
            ("daily 02:00", "write it like"),
            ("daily 02:00-25:00", "\"25:00\" is not a time of day"),
            ("daily 2-3", "\"2\" is not a time of day"),
            ("daily 24:00-03:00", "cannot start at 24:00"),
            ("Samstag 22:00-Sun 06:00", "\"Samstag\" is not a weekday"),
            ("Mon-Freitag 09:00-17:00", "\"Freitag\" is not a weekday"),
            ("daily 02:00-02:00", "starts and ends at the same time"),
            ("Sat 22:00-Sat 22:00", "starts and ends at the same time"),
            ("daily 00:00-24:00", "covers the whole week"),
            ("Sun-Sat 00:00-24:00", "covers the whole week"),
            ("daily 02:00-03:00 Europe/Berln", "did you mean Europe/Berlin?"),
        ];
        for (text, expected) in cases {
            let error = Blackout::parse(text, None).unwrap_err();
            assert!(error.starts_with("blackout \"") && error.contains(expected), "{text}: {error}");
        }
        assert!(Blackout::parse("daily 02:00-03:00", Some("Nowhere")).unwrap_err().contains("time zone \"Nowhere\" is not known"));
    }

    proptest! {
        #[test]
        fn a_span_and_its_reverse_share_the_week(a in 0u16..WEEK, b in 0u16..WEEK, at in 0i64..4_000_000_000) {
            prop_assume!(a != b);
            let name = |minute: u16| format!("{} {:02}:{:02}", DAYS[usize::from(minute / DAY)], minute % DAY / 60, minute % 60);
            let (there, back) = (window(&format!("{}-{}", name(a), name(b))), window(&format!("{}-{}", name(b), name(a))));
            let at = DateTime::from_timestamp(at, 0).unwrap();
            prop_assert!(there.contains(at) != back.contains(at));
        }

        #[test]
        fn no_text_makes_reading_panic(text in "\\PC{0,40}", days in "[A-Za-z-]{0,9}", times in "[0-9: -]{0,14}") {
            let _ = Blackout::parse(&text, None);
            let _ = Blackout::parse(&format!("{days} {times}"), None);
            let _ = Blackout::parse(&format!("Sat {times}Sun {times}"), Some(&days));
        }
    }
}
