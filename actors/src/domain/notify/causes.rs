//! Which alert is the effect of which: from the graph of causes in the catalogue, and from what each part of the daemon does. Called
//! by the engine for the alerts that fire. An effect never counts for more than its cause: a warning does not hide a critical alert,
//! because whoever is only woken by critical ones would not be told.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::alert_rule::{Alert, Catalogue, State};

/// What stands still when a part of the daemon does: the components that it serves.
const SERVES: [(&str, &[&str]); 8] = [
    ("part_gateway", &["api", "webhooks"]),
    ("part_ingest", &["webhooks"]),
    ("part_timer", &["jobs", "backup", "replica", "recon"]),
    ("part_recon", &["recon"]),
    ("part_backup", &["backup"]),
    ("part_slo", &["levels"]),
    ("part_sandbox", &["provider"]),
    ("part_insight", &[]),
];

/// For each effect (by fingerprint) the fingerprint of the alert that is told in its place; that one is no effect itself. `counts` says
/// whether the first, which need not fire any more, can be the cause of the second at this time.
pub(super) fn effects(firing: &[&Alert], catalogue: &Catalogue, counts: impl Fn(&Alert, &Alert) -> bool) -> BTreeMap<String, String> {
    let about: Vec<&str> = firing.iter().map(|alert| catalogue.component(&alert.name, &alert.system)).collect();
    // By component: only few alerts can be a cause of one, also when thousands fire.
    let (mut by_component, mut of_parts): (BTreeMap<&str, Vec<usize>>, Vec<usize>) = (BTreeMap::new(), Vec::new());
    let mut systems: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (i, alert) in firing.iter().enumerate() {
        if alert.name.starts_with("part_") {
            of_parts.push(i);
        } else {
            by_component.entry(about[i]).or_default().push(i);
        }
        systems.entry(about[i]).or_default().insert(&alert.system);
    }
    let causes_of: BTreeMap<&str, BTreeSet<&str>> = by_component.keys().chain(&["parts"]).map(|c| (*c, catalogue.causes_of(c))).collect();
    // At the root of the graph (the disk, the network) alerts of two systems are about one thing; the worse, then the older one is told.
    let one_thing = |component: &str| causes_of[component].is_empty() && systems[component].len() > 1;
    let possible: BTreeMap<&str, Vec<usize>> = causes_of
        .iter()
        .map(|(component, causes)| {
            let own = systems.contains_key(component) && one_thing(component);
            let of = causes.iter().copied().chain(own.then_some(*component));
            let mut found: Vec<usize> = of.filter_map(|c| by_component.get(c)).flatten().chain(&of_parts).copied().collect();
            found.sort_unstable();
            (*component, found)
        })
        .collect();
    let above = |cause: usize, effect: usize| {
        let (a, b) = (firing[cause], firing[effect]);
        if cause == effect || a.severity < b.severity {
            return false;
        }
        let causes = &causes_of[about[effect]];
        let is_above = if a.name.starts_with("part_") {
            let serves = SERVES.iter().find(|(name, _)| *name == a.name).map(|(_, serves)| *serves).unwrap_or_default();
            !b.name.starts_with("part_") && serves.iter().any(|s| *s == about[effect] || causes.contains(s))
        } else if causes.contains(about[cause]) {
            true
        } else {
            a.system != b.system && (b.severity, a.since, &a.fingerprint) < (a.severity, b.since, &b.fingerprint)
        };
        is_above && counts(a, b)
    };
    let direct: BTreeMap<usize, Vec<usize>> = (0..firing.len())
        .filter_map(|effect| {
            let causes: Vec<usize> = possible[about[effect]].iter().copied().filter(|&cause| above(cause, effect)).collect();
            (!causes.is_empty()).then_some((effect, causes))
        })
        .collect();
    let root = |effect: usize| {
        let mut at = effect;
        for _ in 0..firing.len() {
            let Some(causes) = direct.get(&at) else { break };
            // One that is told itself, else the way up through another.
            at = *causes.iter().find(|cause| !direct.contains_key(cause)).unwrap_or(&causes[0]);
        }
        at
    };
    // The way up may end at one that has nothing to do with this effect any more: that began after its end.
    let told = direct
        .keys()
        .map(|&effect| (effect, root(effect)))
        .filter(|&(effect, cause)| effect != cause && (firing[cause].state != State::Resolved || counts(firing[cause], firing[effect])));
    told.map(|(effect, cause)| (firing[effect].fingerprint.clone(), firing[cause].fingerprint.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::alert_rule::{Check, Patience, Severity, step};

    fn alert(name: &str, system: &'static str, severity: Severity, minute: i64) -> Alert {
        let at = chrono::DateTime::from_timestamp(minute * 60, 0).unwrap();
        step(None, &Check { name: name.into(), system, ok: Some(false), severity, ..Check::default() }, at, Patience::new(1, 1)).0.unwrap()
    }

    fn told(alerts: &[Alert]) -> Vec<&str> {
        let catalogue = Catalogue::read(include_str!("../../../../configs/alerts.toml"), None).unwrap();
        let effects = effects(&alerts.iter().collect::<Vec<_>>(), &catalogue, |_, _| true);
        for cause in effects.values() {
            assert!(!effects.contains_key(cause), "a cause is told itself");
        }
        alerts.iter().filter(|a| !effects.contains_key(&a.fingerprint)).map(|a| a.name.as_str()).collect()
    }

    #[test]
    fn of_a_chain_of_failures_only_its_beginning_is_told() {
        use Severity::{Critical, Warning};
        let disk = alert("disk", "resources", Critical, 1);
        let database = alert("database_connect", "database", Critical, 1);
        let backup = alert("backup_made", "backup", Critical, 2);
        let webhooks = alert("webhooks_unprocessed", "jobs", Warning, 2);
        let part = alert("part_ingest", "parts", Critical, 2);
        let recon = alert("recon_exceptions", "recon", Critical, 3);
        let all = [disk.clone(), database.clone(), backup.clone(), webhooks.clone(), part.clone(), recon.clone()];
        assert_eq!(told(&all), ["disk"]);
        assert_eq!(told(&all[1..]), ["database_connect"]);
        assert_eq!(told(&[part.clone(), webhooks.clone(), recon.clone()]), ["part_ingest"], "webhooks are a cause of what recon finds");
        assert_eq!(
            told(&[alert("part_slo", "parts", Critical, 1), webhooks.clone(), backup.clone()]),
            ["part_slo", "webhooks_unprocessed", "backup_made"]
        );
        assert_eq!(told(&[recon, backup]), ["recon_exceptions", "backup_made"], "neither is the other's cause");
    }

    #[test]
    fn a_warning_hides_nothing_that_is_critical() {
        use Severity::{Critical, Warning};
        let (low, full) = (alert("disk", "resources", Warning, 1), alert("disk", "resources", Critical, 1));
        let (backup, late) = (alert("backup_made", "backup", Critical, 2), alert("webhooks_unprocessed", "jobs", Warning, 2));
        assert_eq!(told(&[low, backup.clone(), late.clone()]), ["disk", "backup_made"]);
        assert_eq!(told(&[full, backup, late]), ["disk"]);
    }

    #[test]
    fn two_alerts_about_the_disk_are_one() {
        use Severity::{Critical, Warning};
        let (disk, low) = (alert("disk", "resources", Critical, 5), alert("disk_low", "backup", Critical, 3));
        assert_eq!(told(&[disk.clone(), low.clone()]), ["disk_low"], "the older one");
        assert_eq!(told(&[alert("disk", "resources", Warning, 1), low.clone()]), ["disk_low"], "the worse one");
        assert_eq!(told(&[alert("disk", "resources", Critical, 3), low]).len(), 1, "of the same time");
        assert_eq!(told(&[disk, alert("cpu", "resources", Warning, 1)]).len(), 2);
    }
}
