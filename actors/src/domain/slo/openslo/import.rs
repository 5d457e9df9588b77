//! OpenSLO documents as levels. An error names the line and the field; what is understood but not supported is a note with its place. What
//! an SLI asks of another system cannot be asked here: such an objective counts the events that are pushed under its service's name.

use std::collections::BTreeMap;

use chrono_tz::Tz;

use super::{
    API, MIN_EVENTS, NO_DATA, OBJECTIVE, SERVICE, SHORT_WINDOW,
    node::{At, Fields, Node},
    units::{minutes, ppm},
};
use crate::domain::slo::{Latency, Level, Slices, Tier, Unit, Window, level::MAX_WINDOW_DAYS};

/// What a file of documents says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    pub levels: Vec<Level>,
    /// What was left out, each with its place.
    pub notes: Vec<String>,
}

/// The services whose events the daemon counts itself.
const OWN: [&str; 5] = ["api", "webhooks", "provider", "tasks", "canary"];
const MIN_EVENTS_DEFAULT: u64 = 20;

/// Reads all documents of `text`. The errors are sentences, each with its line.
pub fn import(text: &str) -> Result<Imported, Vec<String>> {
    let options = serde_saphyr::options! { with_snippet: false };
    let documents: Vec<At> = serde_saphyr::from_multiple_with_options(text, options).map_err(|error| vec![syntax(&error)])?;
    let mut import = Import::default();
    for (index, document) in documents.iter().enumerate() {
        if let Err(error) = import.collect(document, index + 1) {
            import.errors.push(error);
        }
    }
    let slos = std::mem::take(&mut import.slos);
    for (name, place, spec, annotations) in slos {
        if let Err(error) = import.slo(&name, &place, spec, &annotations) {
            import.errors.push(error);
        }
    }
    if documents.is_empty() {
        import.errors.push("line 1: there is no document".to_owned());
    }
    if import.errors.is_empty() { Ok(Imported { levels: import.levels, notes: import.notes }) } else { Err(import.errors) }
}

fn syntax(error: &serde_saphyr::Error) -> String {
    let line = error.location().map_or(1, |location| location.line());
    let text = error.to_string();
    format!("line {line}: {}", text.lines().next().unwrap_or_default().trim())
}

type Annotations = BTreeMap<String, String>;

#[derive(Default)]
struct Import<'a> {
    slis: BTreeMap<String, &'a At>,
    slos: Vec<(String, String, &'a At, Annotations)>,
    levels: Vec<Level>,
    notes: Vec<String>,
    errors: Vec<String>,
}

/// The target in ppm, the latency and the slices of one objective.
type Read = (Option<u64>, Option<Latency>, Option<Slices>);

impl<'a> Import<'a> {
    /// Sorts a document by its kind.
    fn collect(&mut self, document: &'a At, number: usize) -> Result<(), String> {
        let mut fields = Fields::of(document, format!("document {number} ()"))?;
        fields.place = format!("(document {number})");
        match fields.text("apiVersion")? {
            Some(API) => {}
            Some(other) => return Err(fields.error("apiVersion", &format!("must be {API}, not {other}"))),
            None => return Err(fields.error("apiVersion", &format!("is missing: must be {API}"))),
        }
        let kind = fields.text("kind")?.ok_or_else(|| fields.error("kind", "is missing"))?;
        let mut metadata = fields.map("metadata")?.ok_or_else(|| fields.error("metadata", "is missing"))?;
        let name = metadata.text("name")?.ok_or_else(|| metadata.error("name", "is missing"))?;
        fields.place = format!("document {number} ({kind} {name})");
        metadata.place = fields.path("metadata");
        let annotations = self.annotations(&mut metadata)?;
        for unused in ["displayName", "labels"] {
            if metadata.get(unused).is_some() {
                self.notes.push(metadata.error(unused, "not supported, left out"));
            }
        }
        metadata.rest(&mut self.notes);
        let spec = fields.get("spec");
        fields.rest(&mut self.notes);
        let spec = spec.ok_or_else(|| fields.error("spec", "is missing"))?;
        match kind {
            "SLO" => self.slos.push((name.to_owned(), fields.path("spec"), spec, annotations)),
            "SLI" => drop(self.slis.insert(name.to_owned(), spec)),
            "AlertCondition" => self.condition(&mut fields, spec, &annotations)?,
            "AlertPolicy" => self.policy(&fields, spec)?,
            "Service" | "DataSource" | "AlertNotificationTarget" => {
                let what = "not supported, left out: services, sources and channels are settings of their own";
                self.notes.push(fields.error("kind", what));
            }
            other => return Err(fields.error("kind", &format!("{other} is none of OpenSLO v1"))),
        }
        Ok(())
    }

    fn annotations(&mut self, metadata: &mut Fields<'a>) -> Result<Annotations, String> {
        let place = metadata.path("annotations");
        let Some(at) = metadata.get("annotations") else { return Ok(Annotations::new()) };
        let Node::Map(entries) = &at.node else { return Err(format!("line {}: {place}: must be a mapping", at.line)) };
        let mut annotations = Annotations::new();
        for (name, value) in entries {
            let text = match &value.node {
                Node::Text(text) => text.clone(),
                Node::Bool(flag) => flag.to_string(),
                Node::Number(number) => number.to_string(),
                _ => return Err(format!("line {}: {place}.{name}: must be a text", value.line)),
            };
            if [OBJECTIVE, SERVICE, MIN_EVENTS, NO_DATA, SHORT_WINDOW].contains(&name.as_str()) {
                annotations.insert(name.clone(), text);
            } else {
                self.notes.push(format!("line {}: {place}.{name}: not supported, left out", value.line));
            }
        }
        Ok(annotations)
    }

    /// A condition is not taken over: the tiers are fixed. One that is none of them is named.
    fn condition(&mut self, fields: &mut Fields<'a>, spec: &'a At, annotations: &Annotations) -> Result<(), String> {
        let mut spec = Fields::of(spec, fields.path("spec"))?;
        let severity = spec.text("severity")?.unwrap_or_default();
        if spec.text("description")?.is_some() {
            self.notes.push(spec.error("description", "not supported, left out"));
        }
        let mut condition = spec.map("condition")?.ok_or_else(|| spec.error("condition", "is missing"))?;
        spec.rest(&mut self.notes);
        match condition.text("kind")? {
            Some("burnrate") => {}
            _ => return Err(condition.error("kind", "must be burnrate")),
        }
        let op = condition.text("op")?.unwrap_or("gt");
        let (threshold, _) = condition.number("threshold")?.ok_or_else(|| condition.error("threshold", "is missing"))?;
        let lookback = condition.text("lookbackWindow")?.ok_or_else(|| condition.error("lookbackWindow", "is missing"))?;
        let after = condition.text("alertAfter")?.unwrap_or("0m");
        condition.rest(&mut self.notes);
        let is_ours = Tier::ALL.iter().any(|tier| {
            let fits = (1..=MAX_WINDOW_DAYS).any(|days| (tier.factor(days * 1440) - threshold).abs() < 1e-9);
            let short = annotations.get(SHORT_WINDOW).is_none_or(|short| short == tier.short);
            tier.long == lookback && tier.severity == severity && fits && short
        });
        if !is_ours || !matches!(op, "gt") || !matches!(after, "0m" | "0s" | "0h") {
            let tiers: Vec<String> =
                Tier::ALL.iter().map(|t| format!("{} {}/{} {} %", t.severity, t.long, t.short, t.budget_percent)).collect();
            let what = format!(
                "{op} {threshold} over {lookback}, {severity}, after {after}: not supported, left out; the tiers are {}",
                tiers.join(", ")
            );
            self.notes.push(spec.error("condition", &what));
        }
        Ok(())
    }

    fn policy(&mut self, fields: &Fields<'a>, spec: &'a At) -> Result<(), String> {
        let mut spec = Fields::of(spec, fields.path("spec"))?;
        for (key, always) in [("alertWhenBreaching", true), ("alertWhenResolved", true)] {
            if spec.flag(key)?.is_some_and(|wanted| wanted != always) {
                self.notes.push(spec.error(key, "not supported, left out: breaching and resolved are always told"));
            }
        }
        if spec.flag("alertWhenNoData")?.is_some() {
            self.notes.push(spec.error("alertWhenNoData", "left out: no_data of the objective says so"));
        }
        let conditions = spec.list("conditions")?;
        if conditions.len() > 1 {
            return Err(spec.error("conditions", "must be one at most"));
        }
        for condition in conditions {
            let mut reference = Fields::of(condition, spec.path("conditions[0]"))?;
            if reference.text("conditionRef")?.is_none() {
                self.notes.push(format!("line {}: {}: an inline condition is not supported, left out", condition.line, reference.place));
            }
        }
        for key in ["description", "notificationTargets"] {
            if spec.get(key).is_some() {
                self.notes.push(spec.error(key, "not supported, left out"));
            }
        }
        spec.rest(&mut self.notes);
        Ok(())
    }

    fn slo(&mut self, name: &str, place: &str, spec: &'a At, annotations: &Annotations) -> Result<(), String> {
        let mut spec = Fields::of(spec, place)?;
        let service = match (annotations.get(SERVICE), spec.text("service")?) {
            (Some(service), _) => service.clone(),
            (None, Some(service)) if OWN.contains(&service) || service.contains(':') => service.to_owned(),
            (None, Some(service)) => format!("push:{service}"),
            (None, None) => return Err(spec.error("service", "is missing")),
        };
        if spec.text("description")?.is_some() {
            self.notes.push(spec.error("description", "not supported, left out"));
        }
        let window = time_window(&mut spec)?;
        let with_slices = match spec.text("budgetingMethod")? {
            Some("Occurrences") => false,
            Some("Timeslices") => true,
            Some("RatioTimeslices") => {
                return Err(spec.error("budgetingMethod", "RatioTimeslices is not supported: Occurrences or Timeslices"));
            }
            _ => return Err(spec.error("budgetingMethod", "must be Occurrences or Timeslices")),
        };
        let is_threshold = self.indicator(&mut spec, annotations.contains_key(SERVICE))?;
        let objectives = spec.list("objectives")?;
        if objectives.is_empty() {
            return Err(spec.error("objectives", "must have one at least"));
        }
        spec.ignore("alertPolicies"); // each is a document of its own
        spec.rest(&mut self.notes);
        let min_events = match annotations.get(MIN_EVENTS).map(|text| text.parse()) {
            None => MIN_EVENTS_DEFAULT,
            Some(Ok(min_events)) => min_events,
            Some(Err(_)) => return Err(spec.error("service", &format!("the annotation {MIN_EVENTS} must be a whole number"))),
        };
        let no_data = annotations.get(NO_DATA).is_none_or(|text| text == "true");
        for (index, objective) in objectives.iter().enumerate() {
            let mut objective = Fields::of(objective, format!("{}[{index}]", spec.path("objectives")))?;
            let (success_ppm, latency, slices) = self.objective(&mut objective, is_threshold, with_slices)?;
            let own_name = if objectives.len() == 1 { name.to_owned() } else { format!("{name}-{}", index + 1) };
            let name = annotations.get(OBJECTIVE).cloned().unwrap_or(own_name);
            let level = Level { name, service: service.clone(), success_ppm, latency, window, min_events, slices, no_data };
            if let Some((key, what)) = level.problems().into_iter().find(|(key, _)| *key != "latency_ms" || is_threshold) {
                return Err(objective.error("target", &format!("{key} {what}")));
            }
            self.add(level, &mut objective)?;
        }
        Ok(())
    }

    /// Success and latency of one objective are two SLOs of one name.
    fn add(&mut self, level: Level, objective: &mut Fields<'a>) -> Result<(), String> {
        let Some(known) = self.levels.iter_mut().find(|known| known.name == level.name) else {
            self.levels.push(level);
            return Ok(());
        };
        let apart = known.success_ppm.is_some() != level.success_ppm.is_some() && known.latency.is_some() != level.latency.is_some();
        if !apart || (known.service.as_str(), known.window, known.slices) != (level.service.as_str(), level.window, level.slices) {
            return Err(objective.error("target", &format!("there is another objective named {}", level.name)));
        }
        known.success_ppm = known.success_ppm.or(level.success_ppm);
        known.latency = known.latency.or(level.latency);
        Ok(())
    }

    /// Whether the SLI is a threshold.
    fn indicator(&mut self, spec: &mut Fields<'a>, is_ours: bool) -> Result<bool, String> {
        let mut metric = match (spec.map("indicator")?, spec.text("indicatorRef")?) {
            (Some(mut indicator), None) => {
                indicator.ignore("metadata");
                let metric = indicator.map("spec")?.ok_or_else(|| indicator.error("spec", "is missing"))?;
                indicator.rest(&mut self.notes);
                metric
            }
            (None, Some(name)) => {
                let sli = self.slis.get(name).copied();
                Fields::of(
                    sli.ok_or_else(|| spec.error("indicatorRef", &format!("there is no SLI named {name}")))?,
                    format!("SLI {name}: spec"),
                )?
            }
            (Some(_), Some(_)) => return Err(spec.error("indicatorRef", "must not stand beside indicator")),
            (None, None) => return Err(spec.error("indicator", "is missing, and so is indicatorRef")),
        };
        metric.ignore("description");
        let threshold = metric.map("thresholdMetric")?;
        let ratio = metric.map("ratioMetric")?;
        metric.rest(&mut self.notes);
        match (threshold, ratio) {
            (Some(_), Some(_)) => Err(metric.error("ratioMetric", "must not stand beside thresholdMetric")),
            (None, None) => Err(metric.error("ratioMetric", "is missing, and so is thresholdMetric")),
            (Some(mut threshold), None) => {
                self.source(&mut threshold, is_ours);
                threshold.rest(&mut self.notes);
                Ok(true)
            }
            (None, Some(mut ratio)) => {
                ratio.ignore("counter");
                for key in ["good", "bad", "total", "raw"] {
                    if let Some(mut part) = ratio.map(key)? {
                        self.source(&mut part, is_ours);
                        part.rest(&mut self.notes);
                    }
                }
                ratio.ignore("rawType");
                ratio.rest(&mut self.notes);
                Ok(false)
            }
        }
    }

    fn source(&mut self, part: &mut Fields<'a>, is_ours: bool) {
        if part.get("metricSource").is_some() && !is_ours {
            let what = "not supported, left out: the events are those that are counted here or pushed to POST /api/slo/events";
            self.notes.push(part.error("metricSource", what));
        }
    }

    fn objective(&mut self, objective: &mut Fields<'a>, is_threshold: bool, with_slices: bool) -> Result<Read, String> {
        objective.ignore("displayName");
        let share_ppm = match (objective.number("target")?, objective.number("targetPercent")?) {
            (Some((target, _)), None) => ppm(target),
            (None, Some((percent, _))) => ppm(percent / 100.0),
            (Some(_), Some(_)) => return Err(objective.error("targetPercent", "must not stand beside target")),
            (None, None) => return Err(objective.error("target", "is missing, and so is targetPercent")),
        };
        let share_ppm =
            share_ppm.ok_or_else(|| objective.error("target", "must be at least 0 and below 1: a target of 100 % leaves no budget"))?;
        let slice_target = objective.number("timeSliceTarget")?;
        let slice_window = objective.text("timeSliceWindow")?;
        let slices = if with_slices {
            let target = slice_target.ok_or_else(|| objective.error("timeSliceTarget", "is missing"))?.0;
            let share_ppm = ppm(target).ok_or_else(|| objective.error("timeSliceTarget", "must be above 0 and below 1"))?;
            let minutes = slice_window.and_then(minutes).filter(|minutes| (1..=60).contains(minutes));
            let minutes = minutes.ok_or_else(|| objective.error("timeSliceWindow", "must be 1m to 60m"))?;
            Some(Slices { minutes, share_ppm })
        } else {
            for key in ["timeSliceTarget", "timeSliceWindow"] {
                if objective.get(key).is_some() {
                    self.notes.push(objective.error(key, "left out: the budgeting method is Occurrences"));
                }
            }
            None
        };
        let (op, value) = (objective.text("op")?, objective.number("value")?);
        let latency = if is_threshold {
            if !matches!(op, Some("lte" | "lt")) {
                return Err(objective.error("op", "must be lte or lt: good is what is fast"));
            }
            let (value, _) = value.ok_or_else(|| objective.error("value", "is missing"))?;
            if !(1.0..=3_600_000.0).contains(&value) || value.fract() != 0.0 {
                return Err(objective.error("value", "must be whole milliseconds, 1 to 3600000"));
            }
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number in this range")]
            let ms = value as u64 - u64::from(op == Some("lt"));
            Some(Latency { ms, share_ppm })
        } else {
            for (key, is_there) in [("op", op.is_some()), ("value", value.is_some())] {
                if is_there {
                    self.notes.push(objective.error(key, "left out: it is for a thresholdMetric"));
                }
            }
            None
        };
        objective.rest(&mut self.notes);
        Ok(((!is_threshold).then_some(share_ppm), latency, slices))
    }
}

fn time_window(spec: &mut Fields<'_>) -> Result<Window, String> {
    let [at] = spec.list("timeWindow")? else { return Err(spec.error("timeWindow", "must be a list with exactly one window")) };
    let mut window = Fields::of(at, spec.path("timeWindow[0]"))?;
    let duration = window.text("duration")?.ok_or_else(|| window.error("duration", "is missing"))?;
    let calendar = window.map("calendar")?;
    if window.flag("isRolling")?.unwrap_or(calendar.is_none()) {
        let days = minutes(duration).filter(|minutes| minutes % 1440 == 0).map(|minutes| minutes / 1440);
        let days = days.filter(|days| (1..=MAX_WINDOW_DAYS).contains(days));
        let days =
            days.ok_or_else(|| window.error("duration", &format!("must be 1d to {MAX_WINDOW_DAYS}d in whole days, not {duration}")))?;
        return Ok(Window::Rolling { days });
    }
    let unit = match duration {
        "1w" | "7d" => Unit::Week,
        "1M" => Unit::Month,
        "1Q" | "3M" => Unit::Quarter,
        other => return Err(window.error("duration", &format!("a calendar window is 1w, 1M or 1Q, not {other}"))),
    };
    let mut calendar = calendar.ok_or_else(|| window.error("calendar", "is missing: the window does not roll"))?;
    let zone = calendar.text("timeZone")?.unwrap_or("UTC");
    let zone = zone.parse::<Tz>().map_err(|_| calendar.error("timeZone", &format!("{zone} is not known")))?;
    let start = calendar.text("startTime")?.unwrap_or_default();
    let day = start.get(..10).and_then(|day| day.parse::<chrono::NaiveDate>().ok());
    let begins = day.is_some_and(|day| {
        use chrono::Datelike as _;
        match unit {
            Unit::Week => day.weekday() == chrono::Weekday::Mon,
            Unit::Month => day.day() == 1,
            Unit::Quarter => day.day() == 1 && day.month0() % 3 == 0,
        }
    });
    if !begins {
        let what = format!("must be the first day of a {} (YYYY-MM-DD 00:00:00), a week being from Monday on", unit.as_str());
        return Err(calendar.error("startTime", &what));
    }
    Ok(Window::Calendar { unit, zone })
}
