//! Judges what was measured by the rules that name a figure: each series is a check of its own. Called by the alert actor's watch, by
//! `production_alerts` and by the replay of recorded observations, so that the three cannot disagree. It measures nothing.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
};

use serde::{Deserialize, Serialize};

use super::{Check, Limit, Rule, Severity};

/// One figure at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// `disk_percent`, `webhook_failures_5m`, ...: the unit is in the name.
    pub figure: String,
    /// What tells this series from others of the figure.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `None`: it could not be measured, or there was nothing to measure.
    pub value: Option<f64>,
    /// The same as a sentence for a person, if there is more to say than the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<String>,
}

impl Sample {
    pub fn new(figure: &str, value: Option<f64>) -> Self {
        Self { figure: figure.to_owned(), value: value.filter(|v| v.is_finite()), ..Self::default() }
    }

    #[must_use]
    pub fn words(mut self, words: impl Into<String>) -> Self {
        self.words = Some(words.into());
        self
    }

    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }
}

/// A check for each series of each rule, in the order of the rules. A rule whose figure is not among the samples gives none.
pub fn judge<'r>(rules: impl IntoIterator<Item = &'r Rule>, samples: &[Sample]) -> Vec<Check> {
    let mut by_figure: HashMap<&str, Vec<&Sample>> = HashMap::new();
    for sample in samples {
        by_figure.entry(&sample.figure).or_default().push(sample);
    }
    let mut checks = Vec::new();
    for rule in rules {
        let series = rule.figure.as_deref().and_then(|figure| by_figure.get(figure));
        let fits = |sample: &&&Sample| rule.matches.iter().all(|(name, value)| sample.labels.get(name) == Some(value));
        for sample in series.into_iter().flatten().filter(fits) {
            checks.extend(judged(rule, sample, &by_figure));
        }
    }
    checks
}

fn judged(rule: &Rule, sample: &Sample, all: &HashMap<&str, Vec<&Sample>>) -> Option<Check> {
    let against = |limit: &Option<Limit>| sample.value.zip(limit.as_ref()?.number());
    let above = |limit: &Option<Limit>| against(limit).map(|(value, limit)| value > limit);
    let below = |limit: &Option<Limit>| against(limit).map(|(value, limit)| value < limit);
    let bad = above(&rule.above).or(below(&rule.below)).or(below(&rule.at_least).map(|below| !below));
    let enough = || rule.also.iter().all(|also| also_holds(also.at_least.number(), all.get(&*also.figure), sample));
    let critical = [above(&rule.critical_above), below(&rule.critical_below)].contains(&Some(true));
    Some(Check {
        name: rule.name.clone(),
        labels: sample.labels.clone(),
        system: rule.known_system()?,
        ok: bad.map(|bad| !(bad && enough())),
        severity: if critical { Severity::Critical } else { rule.severity },
        value: sample.value.map(|value| with_unit(value, &rule.unit)),
        threshold: threshold(rule),
        reason: sample.words.clone().unwrap_or_else(|| in_words(rule, sample)),
    })
}

/// Whether the other figure of the same series, or the one without labels, is at least the limit.
fn also_holds(limit: Option<f64>, series: Option<&Vec<&Sample>>, of: &Sample) -> bool {
    let same = |sample: &&&Sample| sample.labels == of.labels || sample.labels.is_empty();
    let value = series.and_then(|all| all.iter().filter(same).max_by_key(|s| s.labels.len())).and_then(|s| s.value);
    value.zip(limit).is_some_and(|(value, limit)| value >= limit)
}

fn in_words(rule: &Rule, sample: &Sample) -> String {
    let figure = sample.figure.replace('_', " ");
    let mut words = match sample.value {
        Some(value) => format!("{figure}: {}", with_unit(value, &rule.unit)),
        None => format!("{figure}: not measured"),
    };
    for (name, value) in &sample.labels {
        let _ = write!(words, ", {name} {value}"); // a String takes everything
    }
    words
}

fn threshold(rule: &Rule) -> String {
    let one = |limit: &Option<Limit>, sign: &str| {
        limit.as_ref().and_then(Limit::number).map(|number| format!("{sign} {}", with_unit(number, &rule.unit)))
    };
    one(&rule.above, "<=").or_else(|| one(&rule.below, ">=")).or_else(|| one(&rule.at_least, "<")).unwrap_or_default()
}

/// Whole numbers as such, others with one decimal.
fn with_unit(value: f64, unit: &str) -> String {
    let number = if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") };
    if unit.is_empty() { number } else { format!("{number} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::alert_rule::Catalogue;

    const RULES: &str = r#"
        [rules.disk]
        system = "resources"
        figure = "disk_percent"
        unit = "%"
        above = 85
        critical_above = 95
        what = "w"
        owner = "o"
        runbook = "r"
        [rules.errors]
        system = "api"
        figure = "failed_percent"
        at_least = 5
        also = [{ figure = "failed", at_least = 3 }]
        what = "w"
        owner = "o"
        runbook = "r"
        [rules.low]
        system = "own"
        severity = "info"
        figure = "stock"
        below = 10
        where = { shop = "a" }
        what = "w"
        owner = "o"
        runbook = "r"
    "#;

    fn checks(samples: &[Sample]) -> Vec<(String, Option<bool>, Severity, String)> {
        let catalogue = Catalogue::read(RULES, None).unwrap();
        judge(catalogue.rules(), samples).into_iter().map(|c| (c.name, c.ok, c.severity, c.reason)).collect()
    }

    #[test]
    fn a_limit_itself_is_fine_and_beyond_it_is_not() {
        for (value, ok, severity) in [
            (Some(85.0), Some(true), Severity::Warning),
            (Some(85.1), Some(false), Severity::Warning),
            (Some(95.5), Some(false), Severity::Critical),
            (None, None, Severity::Warning),
            (Some(f64::NAN), None, Severity::Warning),
        ] {
            let found = checks(&[Sample::new("disk_percent", value)]);
            assert_eq!((found[0].1, found[0].2), (ok, severity), "{value:?}");
        }
    }

    #[test]
    fn a_percentage_of_few_says_nothing() {
        let of = |failed: f64| checks(&[Sample::new("failed_percent", Some(50.0)), Sample::new("failed", Some(failed))])[0].1;
        assert_eq!((of(2.0), of(3.0)), (Some(true), Some(false)));
        assert_eq!(
            checks(&[Sample::new("failed_percent", Some(50.0))])[0].1,
            Some(true),
            "without the other figure it says nothing either"
        );
    }

    #[test]
    fn each_series_is_a_check_and_only_the_ones_meant() {
        let stock = |shop: &str, value| Sample::new("stock", Some(value)).label("shop", shop);
        let found = checks(&[stock("a", 9.0), stock("b", 1.0), stock("a", 10.0)]);
        assert_eq!(found.iter().map(|c| c.1).collect::<Vec<_>>(), [Some(false), Some(true)]);
        assert_eq!(found[0].3, "stock: 9, shop a");
        assert_eq!(found[0].2, Severity::Info);
    }

    #[test]
    fn the_threshold_and_the_value_have_their_unit() {
        let catalogue = Catalogue::read(RULES, None).unwrap();
        let check = &judge(catalogue.rules(), &[Sample::new("disk_percent", Some(91.26)).words("nearly full")])[0];
        assert_eq!((check.value.as_deref(), &*check.threshold, &*check.reason), (Some("91.3 %"), "<= 85 %", "nearly full"));
    }
}
