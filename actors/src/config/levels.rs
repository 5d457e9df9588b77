//! The objectives as the settings describe them: `[slo]` is the objective `api`, `[objectives.NAME]` the others. Asked when the settings are
//! read (what is wrong is refused with its key), by the slo actor and by the meter, which must know what is slow.

use std::collections::BTreeMap;

use chrono_tz::Tz;

use super::{Config, ObjectiveSettings};
use crate::domain::{
    slo::{Latency, Level, Objective, Slices, Window},
    spelling::distance,
};

/// The services whose events the daemon counts by itself.
pub const SERVICES: [&str; 5] = ["api", "webhooks", "provider", "tasks", "canary"];
/// The objective of `[slo]`.
const SEED: &str = "api";
/// Minutes are kept for so many days, and longer if a window is longer.
const KEEP_DAYS: i64 = 35;

impl Config {
    /// The seed's pair of thresholds: success and speed of the daemon's own API.
    pub fn objective(&self) -> Objective {
        let slo = &self.slo;
        Objective {
            p95_ms: slo.p95_ms,
            success_ppm: ppm(slo.success_rate),
            latency_share_ppm: 950_000,
            window_minutes: slo.window_minutes,
            min_events: slo.min_events,
            period_days: slo.period_days,
        }
    }

    /// Every objective that is on, `api` first. What cannot be judged was refused when the settings were read.
    pub fn levels(&self) -> Vec<Level> {
        let own = self.objectives.iter().filter(|(_, settings)| settings.enabled);
        let others = own.filter_map(|(name, settings)| level(name, settings).ok());
        std::iter::once(self.objective().level()).chain(others).collect()
    }

    /// How long minutes are kept.
    pub fn keep_days(&self) -> i64 {
        self.levels().iter().map(|level| level.window.days() + 4).max().unwrap_or(0).max(KEEP_DAYS)
    }

    /// What is slow, by service, in milliseconds.
    pub fn thresholds(&self) -> BTreeMap<String, u64> {
        let mut thresholds = BTreeMap::from([("canary".to_owned(), self.canary.slow_ms)]);
        for level in self.levels() {
            if let Some(latency) = level.latency {
                thresholds.insert(level.service, latency.ms);
            }
        }
        thresholds
    }

    /// What of the objectives will not do what one may expect, each a sentence.
    pub fn level_warnings(&self) -> Vec<String> {
        self.levels().iter().flat_map(Level::warnings).map(|w| w.replacen("objectives.api.target", "slo.success_rate", 1)).collect()
    }

    /// What of the objectives is wrong, each a sentence with its key.
    pub(super) fn level_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut slow: BTreeMap<&str, (u64, &str)> = BTreeMap::from([(SEED, (self.slo.p95_ms, "slo.p95_ms"))]);
        for (name, settings) in &self.objectives {
            let mut wrong = |key: &str, what: &str| problems.push(format!("objectives.{name}.{key} {what}"));
            let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            if name == SEED {
                wrong("service", "must not be set: the objective of the own API is [slo]");
                continue;
            }
            if name.is_empty() || name.len() > 64 || !name.chars().all(is_word) {
                wrong("service", "belongs to a name that must be up to 64 letters, digits, \"_\", \"-\" and \".\"");
            }
            if let Err(what) = self.service(&settings.service) {
                wrong("service", &what);
            }
            match level(name, settings) {
                Err((key, what)) => wrong(key, &what),
                Ok(level) => level.problems().iter().for_each(|(key, what)| wrong(key, what)),
            }
            if settings.enabled && settings.latency_ms > 0 {
                match slow.get(settings.service.as_str()) {
                    Some((ms, other)) if *ms != settings.latency_ms => {
                        let what = format!("must be {ms} as in {other}: what is slow is counted once for each service");
                        wrong("latency_ms", &what);
                    }
                    _ => drop(slow.insert(&settings.service, (settings.latency_ms, name))),
                }
            }
        }
        problems
    }

    /// Whether a service can be meant; the error is what is wrong with it.
    fn service(&self, service: &str) -> Result<(), String> {
        match service.split_once(':') {
            None if SERVICES.contains(&service) => Ok(()),
            Some(("push", name)) if !name.is_empty() => Ok(()),
            Some(("probe", name)) if self.probes.contains_key(name) => Ok(()),
            Some(("probe", name)) => Err(format!("is probe:{name}, but there is no [probes.{name}]")),
            _ => {
                let near = SERVICES.iter().min_by_key(|known| distance(known, service)).filter(|known| distance(known, service) <= 2);
                let hint = near.map(|near| format!(", did you mean {near}?")).unwrap_or_default();
                Err(format!("must be {}, probe:NAME or push:NAME, not \"{service}\"{hint}", SERVICES.join(", ")))
            }
        }
    }
}

/// The level that these settings describe; the error is the key and what is wrong with it.
fn level(name: &str, settings: &ObjectiveSettings) -> Result<Level, (&'static str, String)> {
    let zone: Tz = settings.zone.parse().map_err(|_| ("zone", format!("\"{}\" is not known", settings.zone)))?;
    let window = Window::parse(&settings.window, zone).map_err(|what| ("window", format!("must be a window: {what}")))?;
    let share = |key, share: f64| {
        if (0.0..=1.0).contains(&share) { Ok(ppm(share)) } else { Err((key, format!("must be between 0 and 1, e.g. 0.99, not {share}"))) }
    };
    let target = share("target", settings.target)?;
    let latency_share = share("latency_share", settings.latency_share)?;
    let slice_share = share("timeslice_target", settings.timeslice_target)?;
    if !settings.timeslice_s.is_multiple_of(60) || settings.timeslice_s > 3600 {
        return Err(("timeslice_s", "must be whole minutes up to an hour: 60, 120, ... 3600".to_owned()));
    }
    let slices = i64::try_from(settings.timeslice_s / 60).ok().filter(|minutes| *minutes > 0);
    Ok(Level {
        name: name.to_owned(),
        service: settings.service.clone(),
        success_ppm: (target > 0).then_some(target),
        latency: (settings.latency_ms > 0).then_some(Latency { ms: settings.latency_ms, share_ppm: latency_share }),
        window,
        min_events: settings.min_events,
        slices: slices.map(|minutes| Slices { minutes, share_ppm: slice_share }),
        no_data: settings.no_data,
    })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share between 0 and 1, else it is cut there")]
fn ppm(share: f64) -> u64 {
    (share * 1e6).round().clamp(0.0, 1e6) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    fn load(pairs: &[(&str, &str)]) -> Result<Config, String> {
        let mut all: Environment = pairs.iter().map(|(k, v)| (format!("ECHOPILOT__{k}"), (*v).to_owned())).collect();
        all.insert("ECHOPILOT__PATHS__CONFIGS".into(), "no-such-folder".into());
        Config::load(None, &all).map_err(|e| e.message)
    }

    #[test]
    fn the_built_in_objectives_are_there_and_the_seeds_pair_is_the_first() {
        let config = load(&[]).unwrap();
        let names: Vec<_> = config.levels().into_iter().map(|level| level.name).collect();
        assert_eq!(names, ["api", "payment_canary", "provider", "tasks", "webhooks"]);
        assert_eq!(config.thresholds().get("api"), Some(&1200));
        assert_eq!(config.thresholds().get("canary"), Some(&10_000));
        assert_eq!(config.keep_days(), 35);
        assert!(config.level_warnings().is_empty(), "{:?}", config.level_warnings());
    }

    #[test]
    fn an_objective_is_set_key_by_key_and_switched_off() {
        let config = load(&[
            ("OBJECTIVES__SHOP__SERVICE", "push:shop"),
            ("OBJECTIVES__SHOP__TARGET", "0.999"),
            ("OBJECTIVES__SHOP__WINDOW", "quarter"),
            ("OBJECTIVES__SHOP__ZONE", "Europe/Berlin"),
            ("OBJECTIVES__TASKS__ENABLED", "false"),
        ])
        .unwrap();
        let levels = config.levels();
        let shop = levels.iter().find(|level| level.name == "shop").unwrap();
        assert_eq!((shop.success_ppm, shop.window.name().as_str(), shop.latency), (Some(999_000), "quarter", None));
        assert!(levels.iter().all(|level| level.name != "tasks"));
        assert_eq!(config.keep_days(), 96);
    }

    #[test]
    fn what_is_wrong_with_an_objective_is_named_with_its_key() {
        let cases = [
            ("SHOP__TARGET", "1.0", "objectives.shop.target must be below 100 %: a target of 100 % leaves no budget"),
            ("SHOP__TARGET", "1.5", "objectives.shop.target must be between 0 and 1"),
            ("SHOP__TARGET", "0.0", "objectives.shop.target is missing, and so is latency_ms"),
            ("SHOP__WINDOW", "93d", "objectives.shop.window must be a window: 93 days"),
            ("SHOP__ZONE", "Mars", "objectives.shop.zone \"Mars\" is not known"),
            ("SHOP__TIMESLICE_S", "90", "objectives.shop.timeslice_s must be whole minutes"),
            ("SHOP__SERVICE", "webhook", "did you mean webhooks?"),
            ("SHOP__SERVICE", "probe:x", "there is no [probes.x]"),
            ("API__TARGET", "0.9", "the objective of the own API is [slo]"),
            ("SHOP__TRAGET", "0.9", "traget"),
        ];
        for (key, value, says) in cases {
            let key = format!("OBJECTIVES__{key}");
            let mut pairs = vec![(key.as_str(), value)];
            if !key.ends_with("SHOP__SERVICE") {
                pairs.push(("OBJECTIVES__SHOP__SERVICE", "push:shop"));
            }
            let message = load(&pairs).unwrap_err();
            assert!(message.contains(says), "{key}={value}: {message}");
        }
        let two = [("OBJECTIVES__A__SERVICE", "api"), ("OBJECTIVES__A__LATENCY_MS", "300")];
        assert!(load(&two).unwrap_err().contains("objectives.a.latency_ms must be 1200 as in slo.p95_ms"));
    }

    #[test]
    fn a_tier_that_can_never_fire_is_warned_about() {
        let config = load(&[("OBJECTIVES__SHOP__SERVICE", "push:shop"), ("OBJECTIVES__SHOP__TARGET", "0.9")]).unwrap();
        let warnings = config.level_warnings();
        assert!(warnings.iter().any(|w| w.starts_with("objectives.shop.target: the tier 1h/5m (page) can never fire")), "{warnings:?}");
    }
}
