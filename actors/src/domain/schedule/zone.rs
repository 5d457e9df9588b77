//! Named time zones: from the name a person wrote to its rules, with a hint for a misspelt one. The rules are compiled in, so a
//! schedule means the same on every machine; a newer time zone database comes with a newer program.

use chrono_tz::{TZ_VARIANTS, Tz};

use crate::domain::spelling::distance;

/// The zone of that name; `None` is UTC. The error is a sentence naming the zone.
pub(super) fn named(name: &str) -> Result<Option<Tz>, String> {
    let name = name.trim();
    match name.parse() {
        Ok(Tz::UTC | Tz::Etc__UTC) => Ok(None),
        Ok(zone) => Ok(Some(zone)),
        Err(_) => {
            let hint = nearest(name).map(|near| format!(", did you mean {near}?")).unwrap_or_default();
            Err(format!("time zone \"{name}\" is not known{hint}"))
        }
    }
}

/// How a zone is written.
pub(super) fn name(zone: Option<Tz>) -> &'static str {
    zone.map_or("UTC", Tz::name)
}

/// Whether a word can only be meant as the name of a zone where the other choice is the weekday field of a cron expression.
pub(super) fn looks_like_one(word: &str) -> bool {
    let upper = word.to_ascii_uppercase();
    let a_day = ["MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"].iter().any(|day| upper.starts_with(day));
    word.parse::<Tz>().is_ok() || (word.len() > 3 && !a_day && word.starts_with(|c: char| c.is_ascii_alphabetic()))
}

/// A zone that differs in case only, else one whose city was given alone, else one at most two letters away.
fn nearest(name: &str) -> Option<&'static str> {
    let wanted = name.to_ascii_lowercase().replace(' ', "_");
    if wanted.is_empty() {
        return None;
    }
    let rank = |known: &str| {
        let known = known.to_ascii_lowercase();
        let city = known.rsplit('/').next().unwrap_or_default();
        if known == wanted {
            0
        } else if city == wanted {
            1
        } else {
            2 + distance(&known, &wanted)
        }
    };
    let ranked = TZ_VARIANTS.iter().map(|zone| (rank(zone.name()), zone.name()));
    ranked.min().filter(|(rank, _)| *rank <= 4 && wanted.len() > 3).map(|(_, near)| near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_found_by_its_name_and_a_misspelt_one_gets_a_hint() {
        assert_eq!(named("UTC"), Ok(None));
        assert_eq!(named("Etc/UTC"), Ok(None));
        assert_eq!(named(" Europe/Berlin "), Ok(Some(Tz::Europe__Berlin)));
        let cases = [
            ("europe/berlin", Some("Europe/Berlin")),
            ("Berlin", Some("Europe/Berlin")),
            ("new york", Some("America/New_York")),
            ("Europe/Berln", Some("Europe/Berlin")),
            ("Mars/Olympus", None),
            ("x", None),
            ("", None),
        ];
        for (wrong, near) in cases {
            let hint = near.map(|near| format!(", did you mean {near}?")).unwrap_or_default();
            assert_eq!(named(wrong), Err(format!("time zone \"{wrong}\" is not known{hint}")));
        }
    }

    #[test]
    fn a_weekday_is_not_a_zone() {
        for day in ["*", "1-5", "*/2", "MON", "mon-fri", "FRI#2", "SUNL", "5L", "SAT,SUN"] {
            assert!(!looks_like_one(day), "{day}");
        }
        for zone in ["UTC", "CET", "Europe/Berlin", "Europe/Berln", "Berlin", "Etc/GMT+5"] {
            assert!(looks_like_one(zone), "{zone}");
        }
    }
}
