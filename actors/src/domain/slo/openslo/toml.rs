//! Levels as sections of the configuration, as a person would write them. Used by `echopilot slo import`.

use std::fmt::Write as _;

use crate::domain::slo::{Level, Window};

/// One section for each level.
pub fn to_toml(levels: &[Level]) -> String {
    levels.iter().map(section).collect::<Vec<_>>().join("\n")
}

fn section(level: &Level) -> String {
    if let Some(seed) = seed(level) {
        return seed;
    }
    let mut text = format!("[objectives.{}]\nservice = {}\n", key(&level.name), quoted(&level.service));
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key} = {value}"); // into a String: cannot fail
    };
    line("target", share(level.success_ppm.unwrap_or(0)));
    line("window", quoted(&level.window.name()));
    if let Window::Calendar { zone, .. } = level.window {
        line("zone", quoted(zone.name()));
    }
    if let Some(latency) = level.latency {
        line("latency_ms", latency.ms.to_string());
        line("latency_share", share(latency.share_ppm));
    }
    if let Some(slices) = level.slices {
        line("timeslice_s", (slices.minutes * 60).to_string());
        line("timeslice_target", share(slices.share_ppm));
    }
    line("min_events", level.min_events.to_string());
    line("no_data", level.no_data.to_string());
    text
}

/// The objective of the own API is the section `[slo]`, as far as that can say it.
fn seed(level: &Level) -> Option<String> {
    let (Window::Rolling { days }, Some(latency), Some(success_ppm)) = (level.window, level.latency, level.success_ppm) else {
        return None;
    };
    let is_seed = level.name == "api" && level.service == "api" && latency.share_ppm == 950_000 && level.slices.is_none();
    is_seed.then(|| {
        let (ms, share, min_events) = (latency.ms, share(success_ppm), level.min_events);
        format!("[slo]\np95_ms = {ms}\nsuccess_rate = {share}\nmin_events = {min_events}\nperiod_days = {days}\n")
    })
}

/// A float in TOML has a point.
fn share(ppm: u64) -> String {
    let text = (ppm as f64 / 1e6).to_string();
    if text.contains('.') { text } else { format!("{text}.0") }
}

fn key(name: &str) -> String {
    let is_bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if is_bare { name.to_owned() } else { quoted(name) }
}

/// A basic string of TOML: JSON's escapes are its own.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
