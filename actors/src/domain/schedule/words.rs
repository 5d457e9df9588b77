//! Schedules as a person writes and reads them: `every 90 s`, `daily 23:50`, `Mon 00:30 Europe/Berlin`, or a cron expression. What
//! [`Schedule::describe`] says, [`Schedule::parse`] understands.

use super::{Schedule, zone};

/// The weekdays in the numbering of cron.
pub(super) const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];

impl Schedule {
    /// Reads `every 90 s`, `every 10 min`, `every 6 h`, `daily 23:50`, `Mon 00:30` or a cron expression, the latter three on the clock of
    /// `time_zone` (UTC without one) or of the zone named at their end. The error is a sentence.
    pub fn parse(text: &str, time_zone: Option<&str>) -> Result<Self, String> {
        let mut words: Vec<&str> = text.split_whitespace().collect();
        let Some(first) = words.first().map(|word| word.to_ascii_lowercase()) else {
            return Err("a schedule is empty: write for example \"every 10 min\" or \"daily 23:50\"".to_owned());
        };
        if first == "every" {
            return match time_zone {
                Some(name) => Err(format!("schedule \"{text}\": an interval has no time zone, so it cannot have {name}")),
                None => interval(text, &words[1..]),
            };
        }
        let at_its_end = if words.len() > 1 { words.pop_if(|word| zone::looks_like_one(word)) } else { None };
        let time_zone = one_zone(text, time_zone, at_its_end)?;
        let day = if first == "daily" { Some("*".to_owned()) } else { weekday(&first).map(|day| day.to_string()) };
        let Some(day) = day else { return Self::on_clock(&words.join(" "), time_zone) };
        let time = match words[..] {
            [_, time] => time_of_day(time).filter(|minutes| *minutes < 24 * 60),
            _ => None,
        };
        let minutes = time.ok_or_else(|| format!("schedule \"{text}\": write it like \"daily 23:50\" or \"Mon 00:30 Europe/Berlin\""))?;
        Self::on_clock(&format!("{} {} * * {day}", minutes % 60, minutes / 60), time_zone)
    }

    /// For a person: `every 60 s`, `every 6 h`, `daily 23:50 UTC`, `Mon 00:30 Europe/Berlin`, or the expression followed by the zone.
    pub fn describe(&self) -> String {
        match self {
            Self::Every { seconds } if seconds % 3600 == 0 => format!("every {} h", seconds / 3600),
            Self::Every { seconds } if seconds % 60 == 0 && *seconds > 60 => format!("every {} min", seconds / 60),
            Self::Every { seconds } => format!("every {seconds} s"),
            Self::Cron(expression) => {
                let zone = zone::name(expression.zone());
                let text = expression.as_str();
                format!("{} {zone}", in_words(text).unwrap_or_else(|| text.to_owned()))
            }
        }
    }
}

/// `daily 23:50` for `50 23 * * *`, `Mon 00:30` for `30 0 * * 1`; `None` for anything else.
fn in_words(expression: &str) -> Option<String> {
    let fields: Vec<&str> = expression.split_whitespace().collect();
    let [minute, hour, "*", "*", day] = fields[..] else { return None };
    let (minute, hour) = (minute.parse::<u8>().ok()?, hour.parse::<u8>().ok()?);
    let day = match day {
        "*" => "daily",
        _ => DAYS[day.parse::<usize>().ok().or_else(|| weekday(day)).filter(|day| *day <= 7)? % 7],
    };
    Some(format!("{day} {hour:02}:{minute:02}"))
}

fn interval(text: &str, words: &[&str]) -> Result<Schedule, String> {
    let joined = words.concat();
    let (number, unit) = joined.split_at(joined.find(|c: char| !c.is_ascii_digit()).unwrap_or(joined.len()));
    let unit_s = match unit.to_ascii_lowercase().as_str() {
        "s" | "sec" | "second" | "seconds" => Some(1),
        "min" | "minute" | "minutes" => Some(60),
        "h" | "hour" | "hours" => Some(3600),
        _ => None,
    };
    let seconds = unit_s.and_then(|unit| number.parse::<u32>().ok().map(|number| i64::from(number) * unit));
    match seconds {
        Some(seconds) if seconds > 0 => Ok(Schedule::every(seconds)),
        Some(_) => Err(format!("schedule \"{text}\": the shortest interval is 1 s")),
        None => Err(format!("schedule \"{text}\": write an interval like \"every 90 s\", \"every 10 min\" or \"every 6 h\"")),
    }
}

/// The zone of an entry that may name one at its end, in a setting beside it, or in both if they agree.
pub(super) fn one_zone(text: &str, beside: Option<&str>, at_its_end: Option<&str>) -> Result<Option<chrono_tz::Tz>, String> {
    let refused = |why: String| format!("\"{text}\": {why}");
    let named = |name: Option<&str>| name.map(zone::named).transpose().map_err(refused);
    match (named(beside)?, named(at_its_end)?) {
        (Some(a), Some(b)) if a != b => Err(refused(format!("two time zones, {} and {}", zone::name(a), zone::name(b)))),
        (a, b) => Ok(a.or(b).flatten()),
    }
}

/// The number of a weekday by the first three letters of its name, any case; Sunday is 0.
pub(super) fn weekday(word: &str) -> Option<usize> {
    DAYS.iter().position(|day| day.eq_ignore_ascii_case(word))
}

/// `HH:MM` in minutes, up to 24:00; the hour may have one digit.
pub(super) fn time_of_day(word: &str) -> Option<u16> {
    let (hour, minute) = word.split_once(':')?;
    let digits = |text: &str, lengths: &[usize]| {
        let plain = lengths.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        if plain { text.parse::<u16>().ok() } else { None }
    };
    let (hour, minute) = (digits(hour, &[1, 2])?, digits(minute, &[2])?);
    Some(hour * 60 + minute).filter(|minutes| minute < 60 && *minutes <= 24 * 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cron(text: &str) -> Schedule {
        Schedule::cron(text).unwrap()
    }

    fn zoned(text: &str, zone: &str) -> Schedule {
        Schedule::cron_in(text, zone).unwrap()
    }

    #[test]
    fn schedules_describe_themselves() {
        let cases = [
            (Schedule::every(60), "every 60 s"),
            (Schedule::every(600), "every 10 min"),
            (Schedule::every(90), "every 90 s"),
            (Schedule::every(3600), "every 1 h"),
            (Schedule::every(0), "every 1 s"),
            (cron("50 23 * * *"), "daily 23:50 UTC"),
            (cron("30 0 * * 1"), "Mon 00:30 UTC"),
            (cron("30 0 * * MON"), "Mon 00:30 UTC"),
            (cron("30 0 * * 7"), "Sun 00:30 UTC"),
            (cron("*/5 9-17 * * 1-5"), "*/5 9-17 * * 1-5 UTC"),
            (zoned("30 2 * * *", "Europe/Berlin"), "daily 02:30 Europe/Berlin"),
            (zoned("30 2 * * 6", "Asia/Kathmandu"), "Sat 02:30 Asia/Kathmandu"),
            (zoned("0 * * * *", "America/New_York"), "0 * * * * America/New_York"),
        ];
        for (schedule, expected) in cases {
            assert_eq!(schedule.describe(), expected);
        }
    }

    #[test]
    fn a_schedule_is_read_as_a_person_writes_it() {
        let berlin = Some("Europe/Berlin");
        let cases = [
            ("every 90 s", None, Schedule::every(90)),
            ("every 90s", None, Schedule::every(90)),
            ("Every 10 min", None, Schedule::every(600)),
            ("every 6 h", None, Schedule::every(21_600)),
            ("every 2 hours", None, Schedule::every(7200)),
            ("daily 23:50", None, cron("50 23 * * *")),
            ("daily 23:50 UTC", None, cron("50 23 * * *")),
            (" daily  9:05 ", berlin, zoned("5 9 * * *", "Europe/Berlin")),
            ("daily 09:05 Europe/Berlin", None, zoned("5 9 * * *", "Europe/Berlin")),
            ("daily 09:05 Europe/Berlin", berlin, zoned("5 9 * * *", "Europe/Berlin")),
            ("mon 00:30", None, cron("30 0 * * 1")),
            ("*/5 9-17 * * MON-FRI", berlin, zoned("*/5 9-17 * * MON-FRI", "Europe/Berlin")),
            ("*/5 9-17 * * MON-FRI Europe/Berlin", None, zoned("*/5 9-17 * * MON-FRI", "Europe/Berlin")),
            ("15 */5 9-17 * * 1 CET", None, zoned("15 */5 9-17 * * 1", "CET")),
            ("0 0 1 * *", Some("Etc/UTC"), cron("0 0 1 * *")),
            ("@daily", None, cron("@daily")),
        ];
        for (text, zone, expected) in cases {
            assert_eq!(Schedule::parse(text, zone), Ok(expected), "{text} {zone:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_a_sentence_that_names_it() {
        let cases = [
            ("", None, "is empty"),
            ("every", None, "write an interval like"),
            ("every 5 m", None, "write an interval like"),
            ("every -5 s", None, "write an interval like"),
            ("every 0 s", None, "the shortest interval is 1 s"),
            ("every 99999999999 s", None, "write an interval like"),
            ("every 5 min", Some("Europe/Berlin"), "an interval has no time zone"),
            ("every 5 min UTC", None, "write an interval like"),
            ("daily", None, "write it like"),
            ("daily 24:00", None, "write it like"),
            ("daily 25:00", None, "write it like"),
            ("daily 12:60", None, "write it like"),
            ("daily 12:+5", None, "write it like"),
            ("daily 12:00 13:00", None, "write it like"),
            ("daily 12:00 Berlin", None, "did you mean Europe/Berlin?"),
            ("daily 12:00 Europe/Berlin", Some("UTC"), "two time zones, UTC and Europe/Berlin"),
            ("0 12 * * *", Some("Europe/Berln"), "did you mean Europe/Berlin?"),
            ("0 12 * * * Europe/Berln", None, "did you mean Europe/Berlin?"),
            ("0 12 * *", None, "cron expression \"0 12 * *\""),
            ("0 0 30 2 *", Some("Europe/Berlin"), "no date ever matches it"),
            ("soon", None, "cron expression \"soon\""),
        ];
        for (text, zone, expected) in cases {
            let error = Schedule::parse(text, zone).unwrap_err();
            assert!(error.contains(expected), "{text} {zone:?}: {error}");
        }
    }

    fn any_field(min: u8, max: u8) -> impl Strategy<Value = String> {
        prop_oneof![
            Just("*".to_owned()),
            (min..=max).prop_map(|n| n.to_string()),
            (min..=max, min..=max).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
            (min..=max, min..=max).prop_map(|(a, b)| format!("{a},{b}")),
            (2u8..10).prop_map(|n| format!("*/{n}")),
        ]
    }

    proptest! {
        #[test]
        fn what_a_schedule_says_of_itself_is_read_back_as_the_same(
            fields in (any_field(0, 59), any_field(0, 23), prop_oneof![Just("*".to_owned()), any_field(1, 28)], any_field(0, 6)),
            zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Etc/GMT+5", "CET"]),
            seconds in 1i64..1_000_000, start in 0i64..4_000_000_000,
        ) {
            let every = Schedule::every(seconds);
            prop_assert_eq!(Schedule::parse(&every.describe(), None), Ok(every));
            let schedule = zoned(&format!("{} {} {} * {}", fields.0, fields.1, fields.2, fields.3), zone);
            let again = Schedule::parse(&schedule.describe(), None);
            prop_assert_eq!(again.as_ref(), Ok(&schedule));
            let start = chrono::DateTime::from_timestamp(start, 0).unwrap();
            prop_assert!(schedule.next_after(start) > start);
        }

        #[test]
        fn no_text_makes_reading_panic(text in "\\PC{0,40}", zone in prop::option::of("\\PC{0,12}")) {
            let _ = Schedule::parse(&text, zone.as_deref());
            let _ = Schedule::parse(&format!("daily {text}"), zone.as_deref());
            let _ = Schedule::parse(&format!("every {text}"), None);
        }
    }
}
