//! Which alert is the effect of which: from the graph of causes in the catalogue, and from what each part of the daemon does. Called
//! by the engine for the alerts that fire. An effect never counts for more than its cause: a warning does not hide a critical alert,
//! because whoever is only woken by critical ones would not be told.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::alert_rule::{Alert, Catalogue};

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
    let mut causes_of: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for component in &about {
        causes_of.entry(component).or_insert_with(|| catalogue.causes_of(component));
    }
    // Only few alerts can be a cause, also when thousands fire.
    let mut systems: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (component, alert) in about.iter().zip(firing) {
        systems.entry(component).or_default().insert(&alert.system);
    }
    let named: BTreeSet<&str> = causes_of.values().flatten().copied().collect();
    let one_of_several = |component: &str| causes_of[component].is_empty() && systems[component].len() > 1;
    let mut possible: Vec<usize> = (0..firing.len()).collect();
    possible.retain(|&i| firing[i].name.starts_with("part_") || named.contains(about[i]) || one_of_several(about[i]));
    let above = |cause: usize, effect: usize| {
        let (a, b) = (firing[cause], firing[effect]);
        if cause == effect || a.severity < b.severity || !counts(a, b) {
            return false;
        }
        let causes = &causes_of[about[effect]];
        if a.name.starts_with("part_") {
            let serves = SERVES.iter().find(|(name, _)| *name == a.name).map(|(_, serves)| *serves).unwrap_or_default();
            return !b.name.starts_with("part_") && serves.iter().any(|s| *s == about[effect] || causes.contains(s));
        }
        // At the root of the graph (the disk, the network) two alerts are about one thing; the worse, then the older one is told.
        let one_thing = about[cause] == about[effect] && causes.is_empty() && a.system != b.system;
        let first = (b.severity, a.since, &a.fingerprint) < (a.severity, b.since, &b.fingerprint);
        causes.contains(about[cause]) || (one_thing && first)
    };
    let direct: BTreeMap<usize, Vec<usize>> = (0..firing.len())
        .filter_map(|effect| {
            let causes: Vec<usize> = possible.iter().copied().filter(|&cause| above(cause, effect)).collect();
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
    let pair = |effect: &usize| (firing[*effect].fingerprint.clone(), firing[root(*effect)].fingerprint.clone());
    direct.keys().map(pair).filter(|(effect, cause)| effect != cause).collect()
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
