//! The catalogue of alerts: for each its severity, what it is about, who looks after it and what to do. Read from `configs/alerts.toml`,
//! which is embedded and so is the default; asked by the alert actor for every check. It only describes: `figure.rs` judges figures.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use toml::{Table, Value};

use super::Severity;

/// A limit of a rule: a number, or the name of the setting that holds it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Limit {
    Number(f64),
    Setting(String),
}

impl Limit {
    /// The number; `None` for the name of a setting that was not looked up ([`Catalogue::settle`]).
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Setting(_) => None,
        }
    }
}

/// The systems that alerts are grouped by; `own` is for rules of the user's.
const SYSTEMS: [&str; 17] = [
    "alerts",
    "api",
    "backup",
    "database",
    "jobs",
    "journal",
    "levels",
    "network",
    "own",
    "parts",
    "payments",
    "payouts",
    "probes",
    "pushes",
    "recon",
    "resources",
    "sentinel",
];

/// A further condition of a rule.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Also {
    pub figure: String,
    pub at_least: Limit,
}

/// One rule; `configs/alerts.toml` has each key's sentence.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// From the table's key; a `*` at its end stands for any rest.
    #[serde(skip)]
    pub name: String,
    pub system: String,
    pub component: String,
    pub severity: Severity,
    pub figure: Option<String>,
    pub unit: String,
    pub above: Option<Limit>,
    pub below: Option<Limit>,
    pub at_least: Option<Limit>,
    pub critical_above: Option<Limit>,
    pub critical_below: Option<Limit>,
    #[serde(rename = "where")]
    pub matches: BTreeMap<String, String>,
    pub also: Vec<Also>,
    /// It fires only after it was bad for so long.
    pub for_s: i64,
    /// So long it may still be bad when the cause it follows from has ended, seconds.
    pub aftermath_s: Option<i64>,
    /// `None`: as configured in `[alert]`.
    pub fire_after: Option<u32>,
    pub resolve_after: Option<u32>,
    pub what: String,
    pub owner: String,
    pub runbook: String,
    /// The task that a message offers to run.
    pub task: Option<String>,
    /// A rule of the defaults that is not wanted.
    pub off: bool,
    /// Of a rule without a figure: the severity that the user's file says. Else whoever raises it knows.
    #[serde(skip)]
    pub wanted: Option<Severity>,
}

/// All rules, and what can be the cause of what.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalogue {
    rules: BTreeMap<String, Rule>,
    /// Component -> components that can be its cause.
    causes: BTreeMap<String, BTreeSet<String>>,
}

impl Catalogue {
    /// Reads `defaults` and lays `over` (a copy of the user's) over it. Errors are sentences that name the rule and the key.
    pub fn read(defaults: &str, over: Option<&str>) -> Result<Self, String> {
        let mut table: Table = defaults.parse().map_err(|e: toml::de::Error| e.to_string().trim().to_owned())?;
        let over: Table = match over {
            Some(over) => over.parse().map_err(|e: toml::de::Error| e.to_string().trim().to_owned())?,
            None => Table::new(),
        };
        let changed = over.get("rules").and_then(Value::as_table).cloned().unwrap_or_default();
        if let Some(Value::Table(rules)) = table.get_mut("rules") {
            inherit(rules, &changed);
        }
        overlay(&mut table, over);
        let mut all = Self::from_table(table)?;
        let is_said = |name: &str| changed.get(name).and_then(Value::as_table).is_some_and(|rule| rule.contains_key("severity"));
        for rule in all.rules.values_mut().filter(|rule| rule.figure.is_none() && is_said(&rule.name)) {
            rule.wanted = Some(rule.severity);
        }
        Ok(all)
    }

    fn from_table(table: Table) -> Result<Self, String> {
        let (mut all, mut problems) = (Self::default(), Vec::new());
        for (section, value) in table {
            let Value::Table(entries) = value else {
                problems.push(format!("{section}: only the sections [causes] and [rules.NAME] are known"));
                continue;
            };
            match section.as_str() {
                "causes" => {
                    for (component, causes) in entries {
                        match causes.try_into::<BTreeSet<String>>() {
                            Ok(causes) => drop(all.causes.insert(component, causes)),
                            Err(_) => problems.push(format!("causes.{component}: must be a list of components")),
                        }
                    }
                }
                "rules" => {
                    for (name, value) in entries {
                        match value.try_into::<Rule>() {
                            Ok(rule) => {
                                let rule = Rule { name: name.clone(), ..rule };
                                problems.extend(rule.problems());
                                all.rules.insert(name, rule);
                            }
                            Err(error) => problems.push(format!("rules.{name}: {}", error.message())),
                        }
                    }
                }
                _ => problems.push(format!("{section}: only the sections [causes] and [rules.NAME] are known")),
            }
        }
        if let Some(circle) = all.circle() {
            problems.push(format!("causes: {circle} is a cause of itself"));
        }
        if problems.is_empty() { Ok(all) } else { Err(problems.join("; ")) }
    }

    /// Puts numbers in the place of settings' names. Errors name the rule and the setting that is not there or no number.
    pub fn settle(&mut self, setting: impl Fn(&str) -> Option<f64>) -> Result<(), String> {
        let mut problems = Vec::new();
        for rule in self.rules.values_mut() {
            let name = rule.name.clone();
            for limit in rule.limits_mut() {
                if let Limit::Setting(path) = limit {
                    match setting(path) {
                        Some(number) => *limit = Limit::Number(number),
                        None => problems.push(format!("rules.{name}: there is no setting {path} that is a number")),
                    }
                }
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
    }

    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.values().filter(|rule| !rule.off)
    }

    /// The rule of a check: of exactly its name, else the longest that ends in `*` and begins like it.
    pub fn of(&self, name: &str) -> Option<&Rule> {
        self.rules.get(name).or_else(|| {
            let fits = |rule: &&Rule| rule.name.strip_suffix('*').is_some_and(|start| name.starts_with(start));
            self.rules.values().filter(fits).max_by_key(|rule| rule.name.len())
        })
    }

    /// What an alert is about, by its rule; without one, its system.
    pub fn component<'a>(&'a self, name: &str, system: &'a str) -> &'a str {
        self.of(name).map(|rule| rule.component.as_str()).filter(|c| !c.is_empty()).unwrap_or(system)
    }

    /// Every component that can be the cause of `component`, directly or through others; not itself.
    pub fn causes_of<'a>(&'a self, component: &str) -> BTreeSet<&'a str> {
        let mut found = BTreeSet::new();
        let mut open: Vec<&str> = self.causes.get(component).into_iter().flatten().map(String::as_str).collect();
        while let Some(next) = open.pop() {
            if found.insert(next) {
                open.extend(self.causes.get(next).into_iter().flatten().map(String::as_str));
            }
        }
        found
    }

    fn circle(&self) -> Option<&str> {
        self.causes.keys().find(|component| self.causes_of(component).contains(component.as_str())).map(String::as_str)
    }
}

impl Rule {
    /// The rule's system as the name that checks carry.
    pub fn known_system(&self) -> Option<&'static str> {
        SYSTEMS.into_iter().find(|known| *known == self.system)
    }

    fn limits_mut(&mut self) -> impl Iterator<Item = &mut Limit> {
        let Self { above, below, at_least, critical_above, critical_below, also, .. } = self;
        let own = [above, below, at_least, critical_above, critical_below].into_iter().flatten();
        own.chain(also.iter_mut().map(|also| &mut also.at_least))
    }

    fn problems(&self) -> Vec<String> {
        let name = &self.name;
        let limits = [&self.above, &self.below, &self.at_least].into_iter().flatten().count();
        let mut problems = Vec::new();
        if self.what.is_empty() || self.owner.is_empty() || self.runbook.is_empty() {
            problems.push(format!("rules.{name}: what, owner and runbook are needed: whoever is woken wants to know"));
        }
        if self.figure.is_some() != (limits == 1) {
            problems.push(format!("rules.{name}: a figure needs one of above, below and at_least, and these need a figure"));
        }
        if self.known_system().is_none() {
            problems.push(format!("rules.{name}: system must be one of {}, not \"{}\"", SYSTEMS.join(", "), self.system));
        }
        if !(0..=86_400).contains(&self.for_s) {
            problems.push(format!("rules.{name}: for_s must be 0 to 86400"));
        }
        if !(0..=86_400).contains(&self.aftermath_s.unwrap_or(0)) {
            problems.push(format!("rules.{name}: aftermath_s must be 0 to 86400"));
        }
        if self.fire_after.is_some_and(|n| !(1..=11).contains(&n)) || self.resolve_after == Some(0) {
            problems.push(format!("rules.{name}: fire_after must be 1 to 11 and resolve_after at least 1"));
        }
        problems
    }
}

/// Lays tables over tables, key by key.
/// A rule for one of the alerts that a rule with a `*` is for begins as that one.
fn inherit(rules: &mut Table, changed: &Table) {
    for (name, rule) in changed {
        if rules.contains_key(name) || rule.as_table().is_some_and(|rule| rule.contains_key("figure")) {
            continue;
        }
        let fits = |(pattern, _): &(&String, &Value)| pattern.strip_suffix('*').is_some_and(|start| name.starts_with(start));
        if let Some(whole) = rules.iter().filter(fits).max_by_key(|(pattern, _)| pattern.len()).map(|(_, rule)| rule.clone()) {
            rules.insert(name.clone(), whole);
        }
    }
}

fn overlay(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (value, under.get_mut(&key)) {
            (Value::Table(inner), Some(Value::Table(known))) => overlay(known, inner),
            (value, _) => drop(under.insert(key, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: &str = include_str!("../../../../configs/alerts.toml");

    fn refused(over: &str) -> String {
        Catalogue::read(DEFAULTS, Some(over)).expect_err("refused")
    }

    #[test]
    fn every_rule_of_the_defaults_says_what_to_do_and_has_a_place_in_the_graph() {
        let all = Catalogue::read(DEFAULTS, None).unwrap();
        assert!(all.rules().count() >= 40);
        for rule in all.rules() {
            assert!(!rule.component.is_empty() && rule.runbook.ends_with('.') && rule.owner.ends_with('.'), "{}", rule.name);
        }
    }

    #[test]
    fn a_rule_is_found_by_its_name_and_else_by_its_beginning() {
        let all = Catalogue::read(DEFAULTS, None).unwrap();
        let of = |name: &str| all.of(name).map(|rule| rule.name.as_str());
        assert_eq!((of("disk"), of("part_slo"), of("backup_proof"), of("nonsense")), (Some("disk"), Some("part_*"), Some("backup*"), None));
        assert_eq!((all.component("disk_low", "backup"), all.component("nonsense", "of_its_own")), ("disk", "of_its_own"));
    }

    #[test]
    fn limits_that_are_settings_are_looked_up() {
        let mut all = Catalogue::read(DEFAULTS, Some("[rules.disk]\nabove = \"alert.warn\"\n")).unwrap();
        let problem = all.settle(|path| path.starts_with("alert.warn_").then_some(85.0)).expect_err("some are not there");
        assert!(problem.contains("rules.disk: there is no setting alert.warn that is a number"), "{problem}");
        assert_eq!(all.of("cpu").unwrap().above, Some(Limit::Number(85.0)));
    }

    #[test]
    fn causes_are_followed_through_others() {
        let all = Catalogue::read(DEFAULTS, None).unwrap();
        let causes = all.causes_of("backup");
        assert!(causes.contains("disk") && causes.contains("database") && !causes.contains("backup") && !causes.contains("provider"));
        assert!(all.causes_of("recon").contains("disk"), "through the database");
        assert!(all.causes_of("disk").is_empty());
    }

    #[test]
    fn a_users_file_changes_adds_and_switches_off() {
        let over = "[rules.disk]\nabove = 70\n[rules.cpu]\noff = true\n[rules.mine]\nsystem = \"own\"\nfigure = \"queue\"\nat_least = 5\nwhat = \"w\"\nowner = \"o\"\nrunbook = \"r\"\n[causes]\nmine = [\"disk\"]\n";
        let all = Catalogue::read(DEFAULTS, Some(over)).unwrap();
        assert_eq!(all.of("disk").unwrap().above, Some(Limit::Number(70.0)));
        assert_eq!(all.of("disk").unwrap().unit, "%", "the rest stays");
        assert!(all.rules().all(|rule| rule.name != "cpu") && all.rules().any(|rule| rule.name == "mine"));
        assert!(all.causes_of("mine").contains("disk"));
    }

    #[test]
    fn one_of_the_alerts_of_a_pattern_is_changed_alone_and_a_severity_is_taken_for_what_is_raised() {
        let over = "[rules.backup_age]\noff = true\n[rules.certificate]\nseverity = \"critical\"\n[rules.disk]\nseverity = \"info\"\n";
        let all = Catalogue::read(DEFAULTS, Some(over)).unwrap();
        assert!(all.of("backup_age").unwrap().off && !all.of("backup_made").unwrap().off);
        assert_eq!(all.component("backup_age", "x"), "backup");
        assert_eq!(all.of("certificate").unwrap().wanted, Some(Severity::Critical));
        assert_eq!((all.of("disk").unwrap().wanted, all.of("probe").unwrap().wanted), (None, None), "a figure's rule has its own");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (over, expected) in [
            ("[rules.disk]\nabvoe = 3\n", "rules.disk: unknown field `abvoe`"),
            ("[rules.disk]\nbelow = 3\n", "rules.disk: a figure needs one of"),
            ("[rules.mine]\nsystem = \"own\"\n", "rules.mine: what, owner and runbook"),
            ("[rules.disk]\nsystem = \"disc\"\n", "rules.disk: system must be one of alerts, api"),
            ("[rules.disk]\nfire_after = 0\n", "rules.disk: fire_after"),
            ("[causes]\ndisk = [\"backup\"]\n", "is a cause of itself"),
            ("[causes]\ndisk = 3\n", "causes.disk: must be a list"),
            ("[rule.disk]\nabove = 3\n", "rule: only the sections"),
            ("above = 3\n", "above: only the sections"),
            ("[rules.disk\n", "TOML"),
        ] {
            assert!(refused(over).contains(expected), "{over}: {}", refused(over));
        }
    }
}
