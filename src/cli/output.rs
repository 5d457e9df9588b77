//! What commands print: text, JSON, aligned tables, colour and progress on a terminal only. A reader that went away (`| head`)
//! is no error.

use std::io::{IsTerminal as _, Write as _};

use serde_json::Value as Json;

/// Prints to standard output.
pub(crate) fn say(text: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", text.as_ref().trim_end()); // nobody reads any more
    let _ = out.flush();
}

/// Prints one JSON value, for scripts.
pub(crate) fn say_json(value: &Json) {
    say(serde_json::to_string_pretty(value).unwrap_or_default());
}

/// Colours that are used only on a terminal.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Colour {
    Green,
    Red,
    Yellow,
    Dim,
}

/// Coloured for standard output, if it is a terminal and nobody said NO_COLOR.
pub(crate) fn coloured(colour: Colour, text: &str) -> String {
    if !std::io::stdout().is_terminal() || std::env::var_os("NO_COLOR").is_some() {
        return text.to_owned();
    }
    let number = match colour {
        Colour::Green => 32,
        Colour::Red => 31,
        Colour::Yellow => 33,
        Colour::Dim => 2,
    };
    format!("\x1b[{number}m{text}\x1b[0m")
}

/// The colour of a state word, by what it means for a person.
pub(crate) fn state(word: &str) -> String {
    let colour = match word {
        "running" | "succeeded" | "ok" | "passed" | "scheduled" => Colour::Green,
        "failed" | "fail" | "timed_out" | "quarantined" | "cancelled" | "damaged" | "missing" => Colour::Red,
        "restarting" | "skipped" | "missed" | "starting" | "partial" | "unrecorded" => Colour::Yellow,
        _ => Colour::Dim,
    };
    coloured(colour, word)
}

/// An aligned table with a heading line.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|h| h.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(visible(cell));
        }
    }
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(c, w)| format!("{c}{}", " ".repeat(w - visible(c)))).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(heading.to_vec())];
    lines.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
    lines.join("\n")
}

/// Characters on the screen: colour sequences take no room.
fn visible(text: &str) -> usize {
    let mut count = 0;
    let mut in_sequence = false;
    for c in text.chars() {
        match (in_sequence, c) {
            (false, '\x1b') => in_sequence = true,
            (true, 'm') => in_sequence = false,
            (true, _) => {}
            (false, _) => count += 1,
        }
    }
    count
}

/// A line that is rewritten in place on a terminal and does not exist elsewhere.
#[derive(Debug)]
pub(crate) struct Progress {
    shown: bool,
    what: &'static str,
}

impl Progress {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { shown: std::io::stderr().is_terminal(), what }
    }

    /// Draws `done` of `total`.
    pub(crate) fn at(&self, done: u64, total: u64) {
        if self.shown {
            self.draw("", done, total, &format!("{done}/{total}"));
        }
    }

    /// Draws `done` of `total` bytes; a total of 0 is one that is not known.
    pub(crate) fn bytes(&self, done: u64, total: u64) {
        self.phase("", done, total);
    }

    /// The same with what is done just now.
    pub(crate) fn phase(&self, phase: &str, done: u64, total: u64) {
        if self.shown {
            let text = |bytes: u64| size(&bytes.into());
            let figures = if total == 0 { text(done) } else { format!("{} of {}", text(done.min(total)), text(total)) };
            self.draw(phase, done, total, &figures);
        }
    }

    fn draw(&self, phase: &str, done: u64, total: u64, figures: &str) {
        const WIDTH: u64 = 30;
        let filled = (done.saturating_mul(WIDTH)).checked_div(total).unwrap_or(0).min(WIDTH);
        let bar: String = (0..WIDTH).map(|i| if i < filled { '#' } else { '.' }).collect();
        let gap = if phase.is_empty() { "" } else { ", " };
        let _ = write!(std::io::stderr(), "\r{}{gap}{phase} [{bar}] {figures}\x1b[K", self.what); // drawing is a courtesy
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K"); // the line makes room for the result
        }
    }
}

/// "1.4 MiB"; `-` for what is no size.
pub(crate) fn size(bytes: &Json) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let Some(bytes) = bytes.as_u64() else { return "-".to_owned() };
    let (mut figure, mut unit) = (bytes as f64, 0);
    while figure >= 1024.0 && unit < UNITS.len() - 1 {
        (figure, unit) = (figure / 1024.0, unit + 1);
    }
    if unit == 0 || figure >= 100.0 { format!("{figure:.0} {}", UNITS[unit]) } else { format!("{figure:.1} {}", UNITS[unit]) }
}

/// "0.31 s", "12 s", "3 min", "5 h", "2 d".
pub(crate) fn length(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.2} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

/// A member of a JSON object as text; `-` if it is absent or null.
pub(crate) fn text(value: &Json, member: &str) -> String {
    match &value[member] {
        Json::Null => "-".to_owned(),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_lengths_are_short_and_have_their_unit() {
        let sizes = [0, 1023, 1024, 1_500_000, 250 << 20, 5 << 40].map(|bytes: u64| size(&bytes.into()));
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.4 MiB", "250 MiB", "5.0 TiB"]);
        assert_eq!(size(&Json::Null), "-");
        assert_eq!([0.314, 45.0, 600.0, 36_000.0, 864_000.0].map(length), ["0.31 s", "45 s", "10 min", "10 h", "10 d"]);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_colour_takes_no_room() {
        let rows = vec![vec!["a".into(), "\x1b[32mok\x1b[0m".into(), "x".into()], vec!["long one".into(), "failed".into(), "y".into()]];
        let lines = table(&["NAME", "STATE", "Z"], &rows);
        assert_eq!(lines, "NAME      STATE   Z\na         \x1b[32mok\x1b[0m      x\nlong one  failed  y");
    }
}
