//! What rules would have done on recorded history: every observation is judged and stepped through the very functions that the alert
//! actor uses. Called by `alerts replay`. The same input gives the same answer, whenever it is asked.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{Alert, Catalogue, Patience, Sample, Severity, State, Transition, fingerprint, judge, step};

/// One time that a rule would have fired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Episode {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// The worst it became.
    pub severity: Severity,
    /// The first bad observation of it.
    pub since: DateTime<Utc>,
    pub fired_at: DateTime<Utc>,
    /// `None`: it still fires at the end of the history.
    pub resolved_at: Option<DateTime<Utc>>,
    /// At the moment of firing.
    pub value: Option<String>,
    pub threshold: String,
    pub reason: String,
}

/// How a rule fared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fared {
    pub name: String,
    pub episodes: usize,
    /// Seconds that it would have fired in all.
    pub firing_s: i64,
    /// Observations that had its figure.
    pub judged: u64,
    pub bad: u64,
}

/// A replay of a history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Replay {
    pub observations: u64,
    pub from: Option<DateTime<Utc>>,
    pub until: Option<DateTime<Utc>>,
    /// By the time of firing, then by name and labels.
    pub episodes: Vec<Episode>,
    /// Of every rule that names a figure, in the order of names.
    pub rules: Vec<Fared>,
    /// Rules that the daemon's parts raise: there is no figure to judge again.
    pub not_replayed: Vec<String>,
}

/// Replays observations, oldest first. `patience` holds where a rule says nothing of its own.
pub fn replay<E>(
    catalogue: &Catalogue,
    patience: Patience,
    observations: impl IntoIterator<Item = Result<(DateTime<Utc>, Vec<Sample>), E>>,
) -> Result<Replay, E> {
    let mut fared: BTreeMap<&str, Fared> = BTreeMap::new();
    for rule in catalogue.rules().filter(|rule| rule.figure.is_some()) {
        fared.insert(&rule.name, Fared { name: rule.name.clone(), ..Fared::default() });
    }
    let not_replayed = catalogue.rules().filter(|rule| rule.figure.is_none()).map(|rule| rule.name.clone()).collect();
    let (mut alerts, mut open): (BTreeMap<String, Alert>, BTreeMap<String, usize>) = Default::default();
    let mut all = Replay { observations: 0, from: None, until: None, episodes: Vec::new(), rules: Vec::new(), not_replayed };
    for observation in observations {
        let (at, samples) = observation?;
        all.observations += 1;
        (all.from, all.until) = (all.from.or(Some(at)), Some(at));
        for check in judge(catalogue.rules(), &samples) {
            let Some(rule) = catalogue.of(&check.name) else { continue };
            if let Some(fared) = fared.get_mut(check.name.as_str()) {
                fared.judged += u64::from(check.ok.is_some());
                fared.bad += u64::from(check.ok == Some(false));
            }
            let id = fingerprint(&check.labels());
            let (alert, transition) = step(alerts.get(&id), &check, at, patience.of(Some(rule)));
            match (&alert, transition) {
                (Some(alert), Some(Transition::Fired)) => {
                    open.insert(id.clone(), all.episodes.len());
                    all.episodes.push(episode(alert, at));
                }
                (Some(alert), Some(Transition::Escalated)) => {
                    if let Some(i) = open.get(&id) {
                        all.episodes[*i].severity = alert.severity;
                    }
                }
                (Some(_), Some(Transition::Resolved)) => {
                    if let Some(i) = open.remove(&id) {
                        all.episodes[i].resolved_at = Some(at);
                    }
                }
                _ => {}
            }
            match alert {
                Some(alert) if alert.state != State::Resolved || alert.fire_count > 0 => drop(alerts.insert(id, alert)),
                _ => drop(alerts.remove(&id)),
            }
        }
    }
    for episode in &all.episodes {
        if let (Some(fared), Some(until)) = (fared.get_mut(episode.name.as_str()), episode.resolved_at.or(all.until)) {
            fared.episodes += 1;
            fared.firing_s += (until - episode.fired_at).num_seconds();
        }
    }
    all.episodes.sort_by(|a, b| (a.fired_at, &a.name, &a.labels).cmp(&(b.fired_at, &b.name, &b.labels)));
    all.rules = fared.into_values().collect();
    Ok(all)
}

fn episode(alert: &Alert, at: DateTime<Utc>) -> Episode {
    let Alert { name, labels, severity, since, value, threshold, reason, .. } = alert.clone();
    Episode { name, labels, severity, since, fired_at: at, resolved_at: None, value, threshold, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULES: &str = "[rules.hot]\nsystem = \"own\"\nfigure = \"heat\"\nabove = 50\nfire_after = 2\nresolve_after = 2\nwhat = \"w\"\nowner = \"o\"\nrunbook = \"r\"\n[rules.told]\nsystem = \"own\"\nwhat = \"w\"\nowner = \"o\"\nrunbook = \"r\"\n";

    fn at(n: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(n * 300, 0).unwrap()
    }

    fn replayed(heat: &[Option<f64>]) -> Replay {
        let catalogue = Catalogue::read(RULES, None).unwrap();
        let observations = heat.iter().zip(0..).map(|(value, n)| Ok::<_, ()>((at(n), vec![Sample::new("heat", *value)])));
        replay(&catalogue, Patience::new(1, 2), observations).unwrap()
    }

    #[test]
    fn an_episode_has_its_beginning_its_firing_and_its_end() {
        let heat = [10.0, 60.0, 10.0, 70.0, 80.0, 10.0, 10.0, 10.0, 90.0].map(Some);
        let all = replayed(&heat);
        assert_eq!(all.episodes.len(), 1, "{:?}", all.episodes);
        let first = &all.episodes[0];
        assert_eq!((first.since, first.fired_at, first.resolved_at), (at(1), at(3), Some(at(6))));
        assert_eq!((first.value.as_deref(), &*first.threshold), (Some("70"), "<= 50"));
        let fared = &all.rules[0];
        assert_eq!((fared.episodes, fared.firing_s, fared.judged, fared.bad), (1, 900, 9, 4));
        assert_eq!(all.not_replayed, ["told"]);
    }

    #[test]
    fn what_still_fires_at_the_end_has_no_end_and_no_data_changes_nothing() {
        let all = replayed(&[Some(60.0), None, Some(60.0), None, None]);
        assert_eq!(all.episodes.len(), 1);
        assert_eq!((all.episodes[0].fired_at, all.episodes[0].resolved_at), (at(2), None));
        assert_eq!(all.rules[0].judged, 2);
    }

    proptest! {
        #[test]
        fn a_replay_is_the_same_every_time_and_its_episodes_do_not_overlap(heat in prop::collection::vec(prop::option::of(0f64..100.0), 0..80)) {
            let (one, two) = (replayed(&heat), replayed(&heat));
            prop_assert_eq!(&one, &two);
            for pair in one.episodes.windows(2) {
                prop_assert!(pair[0].resolved_at.is_some_and(|end| end < pair[1].fired_at));
            }
        }
    }
}
