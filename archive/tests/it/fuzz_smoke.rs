//! The targets of the fuzzer on real archives that were changed at random, a bounded number of times from one seed. Another seed:
//! ECHOPILOT_FUZZ=SEED; more turns: ECHOPILOT_FUZZ_TURNS=N.

use std::{fs, panic::AssertUnwindSafe};

use crate::{
    hostile::{file, forge, other},
    memory::{scratch, write},
    targets,
};
use echopilot_archive::entry::Type;

struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit.max(1) as u64).unwrap()
    }
}

/// Flips, overwrites, cuts out, doubles or exchanges a few pieces; in text also puts in what a parser may stumble over.
fn change(bytes: &mut Vec<u8>, dice: &mut Dice) {
    const WORDS: [&str; 16] = [
        "0",
        "-1",
        "18446744073709551615",
        "4294967295",
        "1e9",
        "\"\"",
        "..",
        "%2F",
        "%00",
        "/",
        "\n",
        "{\"end\":{}}\n",
        "null",
        "[",
        "\"link\"",
        "99999999999999999999",
    ];
    for _ in 0..=dice.below(4) {
        if bytes.is_empty() {
            return;
        }
        let at = dice.below(bytes.len());
        let end = (at + 1 + dice.below(40)).min(bytes.len());
        match dice.below(7) {
            0 => bytes[at] ^= 1 << dice.below(8),
            1 => bytes[at] = u8::try_from(dice.below(256)).unwrap(),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            4 => {
                let other = dice.below(bytes.len());
                bytes.swap(at, other);
            }
            5 => {
                // A number gives way to another.
                let from = bytes[at..].iter().position(u8::is_ascii_digit).map_or(at, |n| at + n);
                let to = bytes[from..].iter().position(|byte| !byte.is_ascii_digit()).map_or(bytes.len(), |n| from + n);
                bytes.splice(from..to, WORDS[dice.below(5)].bytes());
            }
            _ => drop(bytes.splice(at..at, WORDS[dice.below(WORDS.len())].bytes()).collect::<Vec<_>>()),
        }
    }
}

/// Does it so many times, and says from which seed and turn a failure comes.
fn turns(most: u64, mut one: impl FnMut(&mut Dice)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("ECHOPILOT_FUZZ").unwrap_or(0x00e9_8a1c);
    for turn in 0..number("ECHOPILOT_FUZZ_TURNS").unwrap_or(most) {
        let own = seed.wrapping_add(turn.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1;
        let done = std::panic::catch_unwind(AssertUnwindSafe(|| one(&mut Dice(own))));
        if let Err(panic) = done {
            eprintln!("turn {turn} of ECHOPILOT_FUZZ={seed} failed");
            std::panic::resume_unwind(panic);
        }
    }
}

fn archives() -> Vec<Vec<u8>> {
    let folder = scratch();
    let source = folder.path().join("source");
    fs::create_dir_all(source.join("d")).unwrap();
    fs::write(source.join("d/a"), vec![b'a'; 700]).unwrap();
    fs::hard_link(source.join("d/a"), source.join("d/b")).unwrap();
    fs::write(source.join("large"), vec![b'x'; 300_000]).unwrap();
    std::os::unix::fs::symlink("d/a", source.join("s")).unwrap();
    write(&folder.path().join("archive"), &source, None, 1);
    let forged = forge(vec![other("d", Type::Dir, ""), file("d/a"), other("d/h", Type::Link, "d/a"), other("d/s", Type::Symlink, "a")]);
    vec![fs::read(folder.path().join("archive")).unwrap(), forged.finish()]
}

#[test]
fn changed_archives_are_read_without_a_panic() {
    let archives = archives();
    turns(1500, |dice| {
        let mut bytes = archives[dice.below(archives.len())].clone();
        change(&mut bytes, dice);
        targets::reader(&bytes);
    });
}

#[test]
fn changed_tables_of_contents_are_read_without_a_panic() {
    let apart: Vec<_> = archives().iter().map(|archive| targets::taken_apart(archive).unwrap()).collect();
    let whole = targets::with_contents(apart[0].0.clone(), &apart[0].1);
    assert_eq!(targets::rows(&whole), apart[0].1.split(|byte| *byte == b'\n').count() - 3, "or else nothing is tried");
    turns(1500, |dice| {
        let (members, mut text) = apart[dice.below(apart.len())].clone();
        change(&mut text, dice);
        targets::reader(&targets::with_contents(members, &text));
        targets::contents(&text);
    });
}

#[test]
fn changed_entries_have_headers_that_say_the_same() {
    let (_, text) = targets::taken_apart(&archives()[0]).unwrap();
    let entries: Vec<Vec<u8>> =
        text.split(|byte| *byte == b'\n').filter_map(|line| Some(line.strip_prefix(b"{\"e\":")?.strip_suffix(b"}")?.to_vec())).collect();
    assert_eq!(entries.len(), 6);
    turns(5000, |dice| {
        let mut entry = entries[dice.below(entries.len())].clone();
        change(&mut entry, dice);
        targets::header(&entry);
    });
}

#[test]
fn patterns_of_anything_end() {
    turns(3000, |dice| {
        let length = dice.below(300);
        let data: Vec<u8> = (0..length).map(|_| b"**/?a.\n"[dice.below(7)]).collect();
        targets::pattern(&data);
    });
}
