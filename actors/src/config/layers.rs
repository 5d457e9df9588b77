//! Settings laid over settings: files and variables over the defaults, whose types they must have. What does not exist or does not fit is
//! named with where it was set and, if something like it exists, what was meant.

use std::{collections::BTreeMap, path::Path};

use toml::{Table, Value};

use super::{DEFAULTS, secrets};
use crate::{
    domain::spelling::distance,
    error::{Context as _, Error, Result},
};

/// Sections whose keys are names of the user's choice, or of tasks.
const NAMED: [&str; 4] = ["tasks", "objectives", "probes", "pushes"];

/// Names from the seed that stand for a setting.
pub(super) const SEED_NAMES: [(&str, &str); 9] = [
    ("STRIPE_MODE", "provider.mode"),
    ("SLO_P95_MS", "slo.p95_ms"),
    ("SLO_SUCCESS_RATE", "slo.success_rate"),
    ("SMTP_HOST", "channels.email.host"),
    ("SMTP_PORT", "channels.email.port"),
    ("SMTP_USER", "channels.email.user"),
    ("SMTP_FROM", "channels.email.from"),
    ("REPORTS_TO", "channels.email.to"),
    ("TELEGRAM_CHAT_ID", "channels.telegram.chat_id"),
];

pub(super) fn flatten(table: &Table, prefix: &str, flat: &mut BTreeMap<String, Value>) {
    for (key, value) in table {
        let path = format!("{prefix}{key}");
        match value {
            Value::Table(inner) => flatten(inner, &format!("{path}."), flat),
            value => drop(flat.insert(path, value.clone())),
        }
    }
}

pub(super) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Float(number) => Some(*number),
        #[expect(clippy::cast_precision_loss, reason = "a limit of an alert")]
        Value::Integer(number) => Some(*number as f64),
        _ => None,
    }
}

/// Lays a file over the settings and answers what is wrong in it; an error if it cannot be read at all.
pub(super) fn overlay_file(settings: &mut Table, schema: &Table, file: &Path) -> Result<Vec<Error>> {
    let text = std::fs::read_to_string(file).context(format!("cannot read {}", file.display()))?;
    let table: Table = text
        .parse()
        .map_err(|e: toml::de::Error| Error::invalid("configuration", format!("{}: {}", file.display(), e.to_string().trim())))?;
    let mut problems = Vec::new();
    overlay(settings, schema, table, "", &file.display().to_string(), &mut problems);
    Ok(problems)
}

fn overlay(settings: &mut Table, schema: &Table, over: Table, prefix: &str, origin: &str, problems: &mut Vec<Error>) {
    for (key, value) in over {
        let path = format!("{prefix}{key}");
        let Some(known) = schema.get(&key) else {
            problems.push(unknown_key(&path, origin));
            continue;
        };
        match (value, settings.get_mut(&key), known) {
            // Any name will do; its keys are looked at when the whole is read, the name of a task where the tasks are known.
            (Value::Table(inner), Some(Value::Table(target)), _) if NAMED.contains(&&*path) => overlay_named(target, inner),
            (Value::Table(inner), Some(Value::Table(target)), Value::Table(schema)) => {
                overlay(target, schema, inner, &format!("{path}."), origin, problems);
            }
            (value, _, _) => {
                settings.insert(key, value);
            }
        }
    }
}

fn overlay_named(target: &mut Table, over: Table) {
    for (name, value) in over {
        match (value, target.get_mut(&name)) {
            (Value::Table(inner), Some(Value::Table(known))) => known.extend(inner),
            (value, _) => drop(target.insert(name, value)),
        }
    }
}

/// Sets `path` from text, which is read as the type the default has.
pub(super) fn set_text(settings: &mut Table, schema: &Table, path: &str, text: &str, origin: &str) -> Result<()> {
    let parts: Vec<&str> = path.split('.').collect();
    if let [section, name, key] = parts[..]
        && NAMED.contains(&section)
    {
        // Read as TOML if it is that (a number, a list, a quoted text), else as text.
        let parsed = format!("v = {text}").parse::<Table>().ok().and_then(|mut t| t.remove("v"));
        let inner = Table::from_iter([(key.to_owned(), parsed.unwrap_or_else(|| Value::String(text.to_owned())))]);
        if let Some(Value::Table(target)) = settings.get_mut(section) {
            overlay_named(target, Table::from_iter([(name.to_owned(), Value::Table(inner))]));
        }
        return Ok(());
    }
    let (key, sections) = parts.split_last().ok_or_else(|| unknown_key(path, origin))?;
    let holder = sections.iter().try_fold(schema, |table, section| table.get(*section)?.as_table());
    let default = holder.filter(|_| !sections.is_empty()).and_then(|table| table.get(*key)).filter(|value| !value.is_table());
    let Some(default) = default else { return Err(unknown_key(path, origin)) };
    let bad = |expected: &str| Error::invalid("configuration", format!("{origin}: {path} must be {expected}, not \"{text}\""));
    let value = match default {
        Value::Integer(_) => Value::Integer(text.trim().parse().map_err(|_| bad("a whole number"))?),
        Value::Float(_) => Value::Float(text.trim().parse().map_err(|_| bad("a number"))?),
        Value::Boolean(_) => Value::Boolean(text.trim().parse().map_err(|_| bad("true or false"))?),
        Value::Array(_) => list(text).ok_or_else(|| bad("a list, as in [\"a\", \"b\"] or a,b"))?,
        _ => Value::String(text.to_owned()),
    };
    let holder = sections.iter().try_fold(settings, |table, section| table.get_mut(*section)?.as_table_mut());
    if let Some(table) = holder {
        table.insert((*key).to_owned(), value);
    }
    Ok(())
}

/// A list from the environment: as TOML writes it, or texts with commas between them.
fn list(text: &str) -> Option<Value> {
    if text.trim_start().starts_with('[') {
        return format!("v = {text}").parse::<Table>().ok()?.remove("v").filter(Value::is_array);
    }
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    Some(Value::Array(items.map(|item| Value::String(item.to_owned())).collect()))
}

fn unknown_key(path: &str, origin: &str) -> Error {
    if let Some(variable) = secrets::variable_of(path) {
        let what = format!("{origin}: {path} is a secret and is not set here: use the environment variable {variable}");
        return Error::invalid("configuration", what);
    }
    let hint = nearest(path).map(|near| format!(", did you mean {near}?")).unwrap_or_default();
    Error::invalid("configuration", format!("{origin}: unknown key {path}{hint}"))
}

/// The known key or section closest to `path`, if one is close.
fn nearest(path: &str) -> Option<String> {
    let schema: Table = DEFAULTS.parse().ok()?;
    let mut known: Vec<String> = Vec::new();
    let mut open: Vec<(String, &Table)> = vec![(String::new(), &schema)];
    while let Some((prefix, table)) = open.pop() {
        for (key, value) in table {
            let name = format!("{prefix}{key}");
            open.extend(value.as_table().map(|inner| (format!("{name}."), inner)));
            known.push(name);
        }
    }
    known.into_iter().map(|k| (distance(&k, path), k)).min().filter(|(d, k)| *d <= 1 + k.len() / 4).map(|(_, k)| k)
}
