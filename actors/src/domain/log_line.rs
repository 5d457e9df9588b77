//! What one line of a log says: how bad it is, and the text that its kind is told by. Called by the incident scanner for every new line.
//! Structured lines are never mined as they are: only what a person would read of them. Also here: the patterns that the user looks for.

use std::sync::LazyLock;

use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use serde_json::Value as Json;

use super::alert_rule::Severity;

/// How bad a line calls itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Also a line that says nothing about it.
    Plain,
    Warning,
    Error,
    Fatal,
}

/// A line as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    Text {
        level: Level,
        /// Who says what: `task message: error`.
        text: String,
    },
    /// About alerts, incidents or the sentinel: what is told there already is not found a second time.
    Own,
    /// It should be JSON and is not.
    Broken,
}

/// Names of tasks and parts whose lines are what was found already.
const OWN: [&str; 4] = ["incident_scanner", "ops_sentinel", "production_alerts", "alert"];
/// Bytes that tell a kind of line from another.
const ENOUGH: usize = 2000;

static WORDS: LazyLock<Regex> = LazyLock::new(|| {
    let words = r"(?P<fatal>\b(?:FATAL|CRITICAL|CRIT|EMERG|ALERT|PANIC)\b|panicked at )|(?P<error>\b(?:ERROR|ERR|SEVERE)\b|^(?:error|failed)\b|\bException\b)|(?P<warn>\b(?:WARN|WARNING)\b)";
    Regex::new(words).expect("the words are tested")
});

/// Reads a line without its end; `structured`: every line of that file is to be JSON.
pub fn read(line: &[u8], structured: bool) -> Line {
    let start = line.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(line.len());
    if line.get(start) == Some(&b'{') {
        return match serde_json::from_slice::<Json>(line) {
            Ok(value) => structured_line(&value),
            Err(_) => Line::Broken,
        };
    }
    if structured && start < line.len() {
        return Line::Broken;
    }
    let seen = &line[..line.len().min(ENOUGH)];
    let level = WORDS.captures(&seen[..seen.len().min(300)]).map_or(Level::Plain, |found| {
        if found.name("fatal").is_some() {
            Level::Fatal
        } else if found.name("error").is_some() {
            Level::Error
        } else {
            Level::Warning
        }
    });
    Line::Text { level, text: String::from_utf8_lossy(seen).trim().to_owned() }
}

fn structured_line(value: &Json) -> Line {
    let text = |names: &[&str]| names.iter().find_map(|name| value[*name].as_str()).unwrap_or_default();
    let who = text(&["task", "actor", "event", "target", "logger"]);
    if OWN.contains(&who) {
        return Line::Own;
    }
    let level = match text(&["level", "severity", "levelname"]).to_ascii_lowercase().as_str() {
        "fatal" | "critical" | "panic" | "emergency" | "alert" => Level::Fatal,
        "error" | "err" | "severe" => Level::Error,
        "warn" | "warning" => Level::Warning,
        _ => Level::Plain,
    };
    let (what, why) = (text(&["message", "msg"]), text(&["error", "err", "reason", "exception"]));
    let parts: Vec<&str> = [who, what, why].into_iter().filter(|part| !part.is_empty()).collect();
    let mut text = parts.join(": ");
    if let Some((end, _)) = text.char_indices().nth(ENOUGH) {
        text.truncate(end);
    }
    Line::Text { level, text }
}

/// One pattern of the settings: `critical/disk no space left on device`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    pub severity: Severity,
    /// A component of the alerts' graph of causes; empty if none is named.
    pub component: String,
    pub regex: String,
}

/// All patterns, looked for at once.
#[derive(Clone, Debug)]
pub struct Patterns {
    list: Vec<Pattern>,
    /// Any of them: quick, and most lines end here.
    any: Option<Regex>,
    each: RegexSet,
}

/// Bytes that all compiled patterns together may take.
const COMPILED: usize = 16 << 20;

impl Patterns {
    /// Errors are sentences that name the pattern.
    pub fn new(texts: &[String]) -> Result<Self, String> {
        let list = texts.iter().map(|text| pattern(text)).collect::<Result<Vec<_>, _>>()?;
        let compiled = |regex: &str| RegexBuilder::new(regex).multi_line(true).size_limit(COMPILED).build();
        for pattern in &list {
            let regex = compiled(&pattern.regex).map_err(|error| format!("{:?}: {}", pattern.regex, plain(&error)))?;
            if regex.is_match(b"") {
                return Err(format!("{:?}: it is in every line", pattern.regex));
            }
        }
        let together = list.iter().map(|pattern| format!("(?:{})", pattern.regex)).collect::<Vec<_>>().join("|");
        let any = if list.is_empty() { None } else { Some(compiled(&together).map_err(|e| plain(&e))?) };
        let each = RegexSetBuilder::new(list.iter().map(|p| p.regex.as_str())).multi_line(true).size_limit(COMPILED).build();
        Ok(Self { any, each: each.map_err(|e| plain(&e))?, list })
    }

    /// Calls `hit` for every line of the block in which a pattern is, with all that are.
    pub fn find<'a>(&self, block: &'a [u8], hit: &mut dyn FnMut(&'a [u8], &[usize])) {
        let Some(any) = &self.any else { return };
        let mut from = 0;
        while let Some(found) = any.find_at(block, from) {
            let start = block[..found.start()].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let end = block[found.start()..].iter().position(|byte| *byte == b'\n').map_or(block.len(), |at| found.start() + at);
            let line = &block[start..end];
            let which: Vec<usize> = self.each.matches(line).into_iter().collect();
            // None: what was found reached over the end of the line, and a line is what is looked at.
            if !which.is_empty() {
                hit(line, &which);
            }
            from = end + 1;
            if from > block.len() {
                break;
            }
        }
    }

    pub fn get(&self, at: usize) -> &Pattern {
        &self.list[at]
    }
}

fn pattern(text: &str) -> Result<Pattern, String> {
    let wrong =
        || format!("{text:?}: a pattern is \"SEVERITY REGEX\" or \"SEVERITY/COMPONENT REGEX\", with info, warning or critical first");
    let (first, regex) = text.trim().split_once(char::is_whitespace).ok_or_else(wrong)?;
    let (severity, component) = first.split_once('/').unwrap_or((first, ""));
    let severity = match severity {
        "info" => Severity::Info,
        "warning" => Severity::Warning,
        "critical" => Severity::Critical,
        _ => return Err(wrong()),
    };
    Ok(Pattern { severity, component: component.to_owned(), regex: regex.trim().to_owned() })
}

/// The last line of the library's message: the ones before repeat the pattern.
fn plain(error: &regex::Error) -> String {
    error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(level: Level, text: &str) -> Line {
        Line::Text { level, text: text.into() }
    }

    #[test]
    fn a_line_is_read_for_its_level_and_for_what_a_person_reads_of_it() {
        for (line, structured, expected) in [
            (
                r#"{"level":"ERROR","task":"heartbeat","message":"a run failed","error":"no answer"}"#,
                true,
                text(Level::Error, "heartbeat: a run failed: no answer"),
            ),
            (r#"{"severity":"warning","msg":"slow","n":3}"#, false, text(Level::Warning, "slow")),
            (r#"{"ok":false,"ts":"2026-01-01T00:00:00Z"}"#, true, text(Level::Plain, "")),
            (r#"{"level":"WARN","actor":"alert","alert":"disk","message":"fired"}"#, true, Line::Own),
            (r#"{"level":"ERROR","mess"#, true, Line::Broken),
            (r#"{"level":50,"msg":"numbers are no words"}"#, true, text(Level::Plain, "numbers are no words")),
            ("not json", true, Line::Broken),
            ("", true, text(Level::Plain, "")),
            ("2026-01-01 ERROR cannot connect", false, text(Level::Error, "2026-01-01 ERROR cannot connect")),
            ("thread 'main' panicked at src/main.rs:3", false, text(Level::Fatal, "thread 'main' panicked at src/main.rs:3")),
            ("an errorless line", false, text(Level::Plain, "an errorless line")),
            ("[WARN] low", false, text(Level::Warning, "[WARN] low")),
        ] {
            assert_eq!(read(line.as_bytes(), structured), expected, "{line}");
        }
    }

    #[test]
    fn patterns_are_found_by_line_with_all_that_are_in_it() {
        let patterns = Patterns::new(&["critical/disk (?i)no space left".into(), "warning ^slow".into(), "info space".into()]).unwrap();
        let block = b"fine\nNo Space Left on device, space\nnot slow\nslow one\nlast space";
        let mut found = Vec::new();
        patterns.find(block, &mut |line, which| found.push((String::from_utf8_lossy(line).into_owned(), which.to_vec())));
        let expected = [("No Space Left on device, space", vec![0, 2]), ("slow one", vec![1]), ("last space", vec![2])];
        assert_eq!(found, expected.map(|(line, which)| (line.to_owned(), which)));
        assert_eq!((patterns.get(0).severity, patterns.get(0).component.as_str()), (Severity::Critical, "disk"));
        Patterns::new(&[]).unwrap().find(block, &mut |_, _| panic!("nothing to find"));
    }

    #[test]
    fn what_is_wrong_with_a_pattern_is_said() {
        for (pattern, expected) in [
            ("no space", "a pattern is \"SEVERITY REGEX\""),
            ("critical", "a pattern is"),
            ("critical (unclosed", "unclosed group"),
            ("critical x*", "it is in every line"),
        ] {
            let error = Patterns::new(&[pattern.into()]).unwrap_err();
            assert!(error.contains(expected), "{pattern}: {error}");
        }
    }
}
