//! Files that grow, are rotated, cut and rewritten while they are read.

use std::{fs, io::Write as _, path::Path};

use super::*;

/// Reads a folder again and again and keeps every line.
struct Reader {
    folder: tempfile::TempDir,
    places: BTreeMap<String, Place>,
    lines: Vec<String>,
}

impl Reader {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), places: BTreeMap::new(), lines: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn look(&mut self) -> Scan {
        self.look_at_most(1 << 30)
    }

    fn look_at_most(&mut self, bytes: u64) -> Scan {
        let lines = &mut self.lines;
        let mut take = |_: &str, block: &[u8]| lines.extend(String::from_utf8_lossy(block).lines().map(str::to_owned));
        let scan =
            scan(self.folder.path(), &|name| Path::new(name).extension().is_some_and(|e| e == "log"), &self.places, bytes, &mut take)
                .unwrap();
        // As the database gives it back.
        self.places = serde_json::from_str(&serde_json::to_string(&scan.places).unwrap()).unwrap();
        scan
    }

    fn new_lines(&mut self) -> Vec<String> {
        self.look();
        std::mem::take(&mut self.lines)
    }
}

fn append(path: &Path, text: &str) {
    fs::OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

#[test]
fn only_whole_new_lines_are_read_and_nothing_twice() {
    let mut reader = Reader::new();
    let log = reader.path("a.log");
    append(&log, "one\ntwo\nthr");
    append(&reader.path("other.txt"), "not wanted\n");
    assert_eq!(reader.new_lines(), ["one", "two"]);
    assert_eq!(reader.look().lag_bytes, 3);
    append(&log, "ee\n");
    assert_eq!(reader.new_lines(), ["three"]);
    let scan = reader.look();
    assert_eq!((scan.bytes, scan.lag_bytes), (0, 0), "cost grows with new bytes only");
}

#[test]
fn rotation_by_renaming_loses_nothing_even_if_it_happened_more_than_once() {
    let mut reader = Reader::new();
    let log = reader.path("a.log");
    append(&log, "one\ntwo\n");
    reader.new_lines();
    append(&log, "three\n");
    fs::rename(&log, reader.path("a.log.1")).unwrap();
    append(&log, "four\n");
    assert_eq!(reader.new_lines(), ["three", "four"]);
    append(&log, "five\n");
    fs::rename(reader.path("a.log.1"), reader.path("a.log.2")).unwrap();
    fs::rename(&log, reader.path("a.log.1")).unwrap();
    append(&log, "six\n");
    fs::rename(reader.path("a.log.2"), reader.path("a.log.3")).unwrap();
    fs::rename(reader.path("a.log.1"), reader.path("a.log.2")).unwrap();
    fs::rename(&log, reader.path("a.log.1")).unwrap();
    append(&log, "seven\n");
    let scan = reader.look();
    assert_eq!(std::mem::take(&mut reader.lines), ["five", "six", "seven"]);
    assert_eq!((scan.changes, scan.lost.len()), (vec![("a.log".to_owned(), Became::Replaced)], 0));
}

#[test]
fn copying_and_truncating_loses_nothing() {
    let mut reader = Reader::new();
    let log = reader.path("a.log");
    append(&log, "one\ntwo\n");
    reader.new_lines();
    append(&log, "three\n");
    fs::copy(&log, reader.path("a.log.1")).unwrap();
    fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(0).unwrap();
    append(&log, "four\n");
    assert_eq!(reader.new_lines(), ["three", "four"]);
    // Grown beyond the old place before anybody looked.
    append(&log, "five\n");
    fs::copy(&log, reader.path("a.log.1")).unwrap();
    fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(0).unwrap();
    append(&log, "six and much more than there was before\n");
    let scan = reader.look();
    assert_eq!(std::mem::take(&mut reader.lines), ["five", "six and much more than there was before"]);
    assert_eq!(scan.changes, [("a.log".to_owned(), Became::Rewritten)]);
}

#[test]
fn a_file_that_was_cut_or_written_anew_is_read_from_its_start_and_what_is_lost_is_said() {
    let mut reader = Reader::new();
    let log = reader.path("a.log");
    append(&log, "one\ntwo\n");
    reader.new_lines();
    fs::write(&log, "x\n").unwrap();
    let scan = reader.look();
    assert_eq!((std::mem::take(&mut reader.lines), scan.lost.as_slice()), (vec!["x".to_owned()], ["a.log".to_owned()].as_slice()));
    assert_eq!(scan.changes, [("a.log".to_owned(), Became::Truncated)]);
    fs::write(&log, "y, longer than before\n").unwrap();
    assert_eq!(reader.new_lines(), ["y, longer than before"]);
    fs::remove_file(&log).unwrap();
    assert!(reader.look().places.is_empty());
    append(&log, "z\n");
    assert_eq!(reader.new_lines(), ["z"]);
}

#[test]
fn a_line_that_is_too_long_is_cut_and_the_next_is_whole() {
    let mut reader = Reader::new();
    let log = reader.path("a.log");
    append(&log, &format!("before\n{}", "x".repeat(CHUNK + 100)));
    let scan = reader.look();
    assert_eq!((scan.long_lines, reader.lines.len(), reader.lines[1].len()), (1, 2, LONGEST_LINE));
    append(&log, &format!("{}\nafter\n", "y".repeat(CHUNK * 2)));
    reader.lines.clear();
    assert_eq!(reader.new_lines(), ["after"]);
}

#[test]
fn what_is_read_in_one_look_is_limited_shared_and_made_up_for() {
    let mut reader = Reader::new();
    let line = format!("{}\n", "l".repeat(999));
    for name in ["a.log", "b.log"] {
        append(&reader.path(name), &line.repeat(1000));
    }
    let scan = reader.look_at_most(600_000);
    assert!(scan.bytes <= 600_000 && scan.lag_bytes >= 1_400_000, "{} {}", scan.bytes, scan.lag_bytes);
    assert!(scan.places["a.log"].offset >= 290_000 && scan.places["b.log"].offset >= 290_000, "each has its share");
    let mut looks = 1;
    while reader.look_at_most(600_000).lag_bytes > 0 {
        looks += 1;
    }
    assert_eq!((reader.lines.len(), looks), (2000, 3));
    assert!(reader.lines.iter().all(|l| l.len() == 999));
}

#[test]
fn a_rest_that_is_over_the_limit_is_read_at_the_next_look_although_the_file_was_rotated() {
    let mut reader = Reader::new();
    let log = reader.path("a.log");
    append(&log, "first\n");
    reader.new_lines();
    let line = format!("{}\n", "l".repeat(999));
    append(&log, &line.repeat(600));
    fs::rename(&log, reader.path("a.log.1")).unwrap();
    append(&log, "last\n");
    for _ in 0..5 {
        reader.look_at_most(300_000);
    }
    assert_eq!((reader.lines.len(), reader.lines.last().map(String::as_str)), (601, Some("last")));
}
