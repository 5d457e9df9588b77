//! What the new lines of the logs say: patterns that were found, errors of a kind never seen before, and known ones that come far more often
//! than usual. Called by the incident scanner, off the async threads. Its cost grows with the new bytes only.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value as Json, json};

use crate::{
    domain::{
        alert_rule::Severity,
        anomaly::at_least,
        incident::{Finding, SAMPLES, redact},
        log_line::{self, Level, Line, Patterns},
        log_place::Place,
        log_template::{Miner, Settings, Template},
    },
    env::Env,
    error::{Error, Result},
    logscan::{self, LONGEST_LINE, Scan},
    store::LogState,
};

/// Our own history: what was found is not found again.
const OWN: &str = "incidents.ndjson";
/// A rate this unlikely is a burst.
const UNLIKELY: f64 = 1e-6;
/// Lines that are no JSON where all should be: so many and more than a tenth are a finding.
const BROKEN: u64 = 20;
/// The component of what nobody gave one: anything can be the cause of an error in a log.
const LOGS: &str = "logs";

/// What is known before the look.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) places: BTreeMap<String, Place>,
    pub(super) templates: Vec<Template>,
    /// Kinds of lines that an open incident is about.
    pub(super) open: BTreeSet<String>,
    /// When logs were looked at for the first time; `None`: never.
    pub(super) first: Option<DateTime<Utc>>,
    /// When they were last.
    pub(super) last: Option<DateTime<Utc>>,
}

/// What one look came to.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) findings: Vec<Finding>,
    pub(super) state: LogState,
    /// For the record.
    pub(super) figures: Json,
}

/// What was seen of one kind of line, or of one pattern.
#[derive(Debug, Default)]
struct Tally {
    count: u64,
    samples: Vec<String>,
    files: BTreeSet<String>,
    is_new: bool,
    level: Option<Level>,
}

impl Tally {
    fn add(&mut self, file: &str, line: &[u8], level: Level) {
        self.count += 1;
        if self.samples.len() < SAMPLES {
            self.samples.push(redact(&String::from_utf8_lossy(&line[..line.len().min(LONGEST_LINE)])));
        }
        if !self.files.contains(file) {
            self.files.insert(file.to_owned());
        }
        self.level = self.level.max(Some(level));
    }
}

/// Counts of one look.
#[derive(Debug, Default)]
struct Reader {
    miners: BTreeMap<String, Miner>,
    patterns: BTreeMap<usize, Tally>,
    /// By source and index of the template.
    kinds: BTreeMap<(String, usize), Tally>,
    /// By file: lines, and of these the broken ones.
    lines: BTreeMap<String, (u64, u64)>,
}

pub(super) fn look(env: &Env, known: Known) -> Result<Looked> {
    let settings = &env.config().incidents;
    let now = env.now();
    let patterns = Patterns::new(&settings.patterns).map_err(|e| Error::invalid("configuration", format!("incidents.patterns: {e}")))?;
    let wanted = |name: &str| {
        let is_log = extension(name).is_some_and(|end| end == "log" || end == "ndjson");
        is_log && name != OWN && !settings.ignore.iter().any(|ignored| ignored == name)
    };
    let mut reader = Reader::default();
    let mut by_source: BTreeMap<String, Vec<Template>> = BTreeMap::new();
    for template in known.templates {
        by_source.entry(template.source.clone()).or_default().push(template);
    }
    let ids_before: BTreeSet<String> = by_source.values().flatten().map(|t| t.id.clone()).collect();
    for (source, templates) in by_source {
        let miner = Miner::new(&source, Settings::default(), templates);
        reader.miners.insert(source, miner);
    }
    let scan = logscan::scan(&env.config().paths.logs, &wanted, &known.places, settings.max_mb << 20, &mut |file, block| {
        reader.block(&patterns, file, block, now);
    })?;
    let warm = known.first.is_some_and(|first| now - first >= TimeDelta::hours(settings.warm_up_h));
    let since_s = known.last.map_or(300.0, |last| (now - last).num_seconds().clamp(60, 86_400) as f64);
    let mut findings = reader.found_patterns(&patterns, now);
    findings.extend(reader.found_kinds(&known.open, warm, since_s, settings.burst_min, now));
    findings.extend(reader.found_broken(now));
    let seen = reader.kinds.keys().map(|(source, at)| reader.miners[source].template(*at).clone()).collect();
    let ids_now: BTreeSet<&str> = reader.miners.values().flat_map(Miner::templates).map(|t| t.id.as_str()).collect();
    let forgotten = ids_before.iter().filter(|id| !ids_now.contains(id.as_str())).cloned().collect();
    let gone = known.places.keys().filter(|name| !scan.places.contains_key(*name)).cloned().collect();
    let figures = figures(&scan, &reader, ids_now.len(), warm);
    let state = LogState { places: scan.places, gone, seen, forgotten };
    Ok(Looked { findings, state, figures })
}

fn figures(scan: &Scan, reader: &Reader, templates: usize, warm: bool) -> Json {
    let (lines, broken) = reader.lines.values().fold((0, 0), |(lines, broken), (l, b)| (lines + l, broken + b));
    let rotated: Vec<Json> = scan.changes.iter().map(|(file, became)| json!({"file": file, "became": became})).collect();
    let unreadable: Vec<Json> = scan.unreadable.iter().map(|(file, error)| json!({"file": file, "error": error})).collect();
    json!({
        "files": scan.places.len(), "bytes": scan.bytes, "lines": lines, "broken_lines": broken, "long_lines": scan.long_lines,
        "lag_bytes": scan.lag_bytes, "templates": templates, "warm": warm, "rotated": rotated, "lost": scan.lost, "unreadable": unreadable,
    })
}

impl Reader {
    fn block(&mut self, patterns: &Patterns, file: &str, block: &[u8], now: DateTime<Utc>) {
        let structured = extension(file).is_some_and(|end| end == "ndjson");
        // Where the lines with a pattern begin: they are told by it, and not by their kind as well.
        let mut told = BTreeSet::new();
        patterns.find(block, &mut |line, which| {
            if log_line::read(line, structured) != Line::Own {
                told.insert(line.as_ptr() as usize);
                for at in which {
                    self.patterns.entry(*at).or_default().add(file, line, Level::Plain);
                }
            }
        });
        if !self.lines.contains_key(file) {
            self.lines.insert(file.to_owned(), (0, 0));
        }
        for line in block.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let read = log_line::read(&line[..line.len().min(LONGEST_LINE)], structured && line.len() <= LONGEST_LINE);
            if let Some((lines, broken)) = self.lines.get_mut(file) {
                *lines += 1;
                *broken += u64::from(read == Line::Broken);
            }
            match read {
                Line::Text { level, text } if level > Level::Plain && !text.is_empty() && !told.contains(&(line.as_ptr() as usize)) => {
                    self.learn(file, line, level, &text, now);
                }
                _ => {}
            }
        }
    }

    fn learn(&mut self, file: &str, line: &[u8], level: Level, text: &str, now: DateTime<Utc>) {
        let miner = self.miners.entry(file.to_owned()).or_insert_with(|| Miner::new(file, Settings::default(), Vec::new()));
        let before = miner.templates().count();
        let seen = miner.learn(text, now);
        if seen.is_new && miner.templates().count() <= before {
            // One was let go to make room, so the numbers of the others moved: what was counted of this file so far is told by none.
            self.kinds.retain(|(source, _), _| source != file);
        }
        let tally = self.kinds.entry((file.to_owned(), seen.template)).or_default();
        tally.is_new |= seen.is_new;
        tally.add(file, line, level);
    }

    fn found_patterns(&self, patterns: &Patterns, now: DateTime<Utc>) -> Vec<Finding> {
        let found = |(at, tally): (&usize, &Tally)| {
            let pattern = patterns.get(*at);
            let signal = format!("pattern:{}", pattern.regex);
            let files: Vec<&str> = tally.files.iter().map(String::as_str).collect();
            let named = !pattern.component.is_empty();
            Finding {
                component: if named { pattern.component.clone() } else { LOGS.into() },
                key: if named { pattern.component.clone() } else { signal.clone() },
                source: "log",
                severity: pattern.severity,
                title: format!("the logs say {}", plain(&pattern.regex)),
                text: format!("{} of {} with {}", lines(tally.count), files.join(", "), plain(&pattern.regex)),
                count: tally.count,
                samples: tally.samples.clone(),
                at: now,
                signal,
            }
        };
        self.patterns.iter().map(found).collect()
    }

    /// Errors of a new kind, bursts of known ones, and what an open incident is about already.
    fn found_kinds(&mut self, open: &BTreeSet<String>, warm: bool, since_s: f64, burst_min: u64, now: DateTime<Utc>) -> Vec<Finding> {
        let mut findings = Vec::new();
        for ((source, at), tally) in &self.kinds {
            let Some(miner) = self.miners.get_mut(source) else { continue };
            let signal = format!("template:{}", miner.template(*at).id);
            let expected = miner.rate_mut(*at).expected(now, since_s);
            let level = tally.level.unwrap_or(Level::Plain);
            let burst = expected.filter(|expected| tally.count >= burst_min && at_least(tally.count, *expected) < UNLIKELY);
            let is_open = open.contains(&signal);
            // What comes in a burst does not make the next one ordinary.
            if burst.is_none() {
                miner.rate_mut(*at).add(tally.count, now);
            }
            let template = miner.template(*at);
            let text = match burst {
                Some(expected) => format!("{} of {source} where {expected:.1} are usual: {}", lines(tally.count), template.text),
                None if tally.is_new && warm && level >= Level::Error => format!("an error of a new kind in {source}: {}", template.text),
                None if is_open => format!("{} of {source}, still: {}", lines(tally.count), template.text),
                None => continue,
            };
            findings.push(Finding {
                component: LOGS.into(),
                key: signal.clone(),
                source: "log",
                severity: if level == Level::Fatal { Severity::Critical } else { Severity::Warning },
                title: redact(&template.text),
                text: redact(&text),
                count: tally.count,
                samples: tally.samples.clone(),
                at: now,
                signal,
            });
        }
        findings
    }

    fn found_broken(&self, now: DateTime<Utc>) -> Vec<Finding> {
        let bad = self.lines.iter().filter(|(_, (lines, broken))| *broken >= BROKEN && broken * 10 > *lines);
        let found = |(file, (lines, broken)): (&String, &(u64, u64))| {
            let signal = format!("broken:{file}");
            Finding {
                component: LOGS.into(),
                key: signal.clone(),
                source: "log",
                severity: Severity::Warning,
                title: format!("{file} has lines that are no JSON"),
                text: format!("{broken} of {lines} lines of {file} are no JSON"),
                count: *broken,
                samples: Vec::new(),
                at: now,
                signal,
            }
        };
        bad.map(found).collect()
    }
}

fn extension(name: &str) -> Option<&str> {
    std::path::Path::new(name).extension().and_then(|end| end.to_str())
}

fn lines(n: u64) -> String {
    if n == 1 { "1 line".to_owned() } else { format!("{n} lines") }
}

/// A pattern for a person.
fn plain(regex: &str) -> &str {
    regex.trim_start_matches("(?i)").trim()
}
