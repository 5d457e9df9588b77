//! Any tree under any changes: what is restored is what was there, and the archive that takes members over is, byte for byte, the one
//! that is made from scratch.

use std::{
    fs,
    io::{Seek as _, SeekFrom, Write as _},
    path::Path,
};

use echopilot_archive::{diff::diff, layout::CHUNK, previous::Previous, restore::restore, toc::Row, verify};
use proptest::{prelude::*, test_runner::TestCaseError};

use crate::{
    memory::{faithful, open, scratch, write, write_with},
    tree::{Fill, Op, any_edit, any_making, apply, content, difference, look},
};

fn check_rounds(making: &[Op], rounds: &[Vec<Op>]) -> Result<(), TestCaseError> {
    let folder = scratch();
    let at = |name: String| folder.path().join(name);
    let source = at("source".into());
    fs::create_dir(&source).unwrap();
    for op in making {
        apply(&source, op);
    }
    write(&at("inc-0".into()), &source, None, 1);
    for (n, edits) in rounds.iter().enumerate() {
        for op in edits {
            apply(&source, op);
        }
        let (before, incremental) = (at(format!("inc-{n}")), at(format!("inc-{}", n + 1)));
        write(&incremental, &source, Some(&before), [5, 1, 2][n % 3]);
        let made = fs::read(&incremental).unwrap();
        for threads in [1, 2, 5] {
            let scratch = at(format!("scratch-{threads}"));
            let written = write(&scratch, &source, None, threads);
            prop_assert_eq!(written.reused_members, 0);
            prop_assert!(fs::read(&scratch).unwrap() == made, "{} threads from scratch make another archive", threads);
            fs::remove_file(scratch).unwrap();
        }
        let changes = diff(&open(&before), &open(&incremental)).unwrap();
        prop_assert!(!edits.is_empty() || changes.is_empty(), "{:?}", changes);
        fs::remove_file(before).unwrap();
        let archive = open(&incremental);
        let report = archive.verify(&verify::Options::default()).unwrap();
        prop_assert!(report.is_whole(), "{}", report.sentence());
        let target = at("restored".into());
        let restored = restore(&archive, &target, &faithful()).unwrap();
        prop_assert!(restored.damaged.is_empty() && restored.left_out.is_empty() && restored.kept.is_empty(), "{:?}", restored);
        prop_assert_eq!(difference(&look(&source), &look(&target.join("data"))), None);
        fs::remove_dir_all(target).unwrap();
    }
    Ok(())
}

/// Few, because each writes and restores several archives; PROPTEST_CASES asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn restore_equals_source_and_the_incremental_archive_is_the_one_from_scratch(
        making in prop::collection::vec(any_making(), 1..25),
        rounds in prop::collection::vec(prop::collection::vec(any_edit(), 0..8), 1..4),
    ) {
        check_rounds(&making, &rounds)?;
    }
}

#[test]
fn every_odd_file_at_once_survives_every_change() {
    // One of each, whatever the dice of the property test say.
    use crate::tree::Name::{Long, Newline, NoText, Percent, Plain, Quoted};
    let mut making = Vec::new();
    for (n, size) in [0, 1, 511, 512, 513, 262_143, 262_144, 262_145, CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK + 5].into_iter().enumerate() {
        let fill = [Fill::Lines, Fill::Noise, Fill::Database][n % 3];
        making.push(Op::File { into: 0, name: Plain(u8::try_from(n).unwrap()), fill, size, seed: n as u64 });
    }
    making.push(Op::File { into: 0, name: Plain(90), fill: Fill::Hole, size: 8 * CHUNK + 100, seed: 1 });
    making.push(Op::Folder { into: 0, name: Plain(99) });
    making.push(Op::Deep { into: 0, levels: 16 });
    for (n, name) in [NoText(1), Newline(1), Percent(1), Quoted(1), Long(1, 100), Long(2, 101), Long(3, 255)].into_iter().enumerate() {
        making.push(Op::File { into: 999, name, fill: Fill::Lines, size: 100 * n, seed: 9 });
        making.push(Op::Link { into: 0, name, of: 10 + n });
        making.push(Op::Symlink { into: 1, name, target: b"t/".repeat(1 + 300 * n) });
    }
    let rounds = [
        vec![],
        (0..40u32).map(|n| Op::Touch { of: n as usize, seconds: i64::from(u32::MAX) * (i64::from(n) - 2), ns: i64::from(7 * n) }).collect(),
        (0..40u32).map(|n| Op::Mode { of: n as usize, mode: 0o7777 & (n * 7919) }).collect(),
        vec![
            Op::Append { of: 3, size: 300_000, seed: 3 },
            Op::Insert { of: 7, at: 99_999, seed: 1 },
            Op::Cut { of: 5, at: 1000, size: 5000 },
        ],
        vec![
            Op::Rename { of: 6, into: 3, name: Plain(200) },
            Op::Delete { of: 2 },
            Op::Replace { of: 4, fill: Fill::Noise, size: 800_000, seed: 5 },
        ],
    ];
    check_rounds(&making, &rounds).unwrap();
}

fn append(path: &Path, bytes: &[u8]) {
    fs::File::options().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

#[test]
fn a_log_that_grows_reuses_everything_before_its_last_chunk() {
    let folder = scratch();
    let source = folder.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("big.ndjson"), content(Fill::Lines, 1, 8 * CHUNK + 1000)).unwrap();
    for n in 0..200 {
        fs::write(source.join(format!("small-{n}.json")), content(Fill::Lines, n, 3000)).unwrap();
    }
    let (one, two, three) = (folder.path().join("1"), folder.path().join("2"), folder.path().join("3"));
    let first = write(&one, &source, None, 2);
    let same = write(&two, &source, Some(&one), 2);
    assert_eq!((same.new_members, same.reused_members), (0, first.new_members), "nothing changed, nothing is made");
    append(&source.join("big.ndjson"), &content(Fill::Lines, 2, 50_000));
    let grown = write(&three, &source, Some(&two), 2);
    // Its header and its last chunk; the end of the tar and all groups are as they were.
    assert_eq!((grown.new_members, grown.reused_members), (2, first.new_members - 2), "{grown:?}");
    assert!(grown.reused_bytes * 100 > grown.size_bytes * 70, "{grown:?}");
}

#[test]
fn a_new_small_file_leaves_the_other_groups_alone() {
    let folder = scratch();
    let source = folder.path().join("source");
    fs::create_dir(&source).unwrap();
    for n in 0..1000 {
        fs::write(source.join(format!("payout-{n:04}.json")), content(Fill::Lines, n, 3000)).unwrap();
    }
    let (one, two) = (folder.path().join("1"), folder.path().join("2"));
    let first = write(&one, &source, None, 2);
    fs::write(source.join("payout-0500-b.json"), b"{}").unwrap();
    let second = write(&two, &source, Some(&one), 2);
    assert!(first.new_members >= 10, "{first:?}");
    // The group with the folder's own entry, whose time changed, and the one with the new file.
    assert!(second.new_members <= 4, "{second:?}");
}

/// Content members of an archive: place and size.
fn members(path: &Path) -> Vec<(u64, u32)> {
    let archive = open(path);
    archive.rows().filter_map(|row| if let Row::Member(m) = row.unwrap() { Some((m.offset, m.size)) } else { None }).collect()
}

#[test]
fn damage_in_the_archive_before_does_not_go_on() {
    let folder = scratch();
    let source = folder.path().join("source");
    fs::create_dir(&source).unwrap();
    for n in 0..60 {
        fs::write(source.join(format!("small-{n}.json")), content(Fill::Noise, n, 9000)).unwrap();
    }
    fs::write(source.join("big.ndjson"), content(Fill::Lines, 1, 5 * CHUNK)).unwrap();
    let (one, two, scratch) = (folder.path().join("1"), folder.path().join("2"), folder.path().join("scratch"));
    let written = write(&one, &source, None, 2);
    write(&scratch, &source, None, 2);
    let places = members(&one);
    for (offset, size) in places.iter().step_by(2) {
        for at in [0, 17, 24, size / 2, size - 1] {
            let mut file = fs::File::options().read(true).write(true).open(&one).unwrap();
            let mut all = fs::read(&one).unwrap();
            let place = usize::try_from(*offset + u64::from(at)).unwrap();
            all[place] ^= 4;
            file.seek(SeekFrom::Start(place as u64)).unwrap();
            file.write_all(&all[place..=place]).unwrap();
            let previous = Previous { path: one.clone(), toc_sha256: Some(written.toc_sha256.clone()) };
            let next = write_with(&two, &source, Some(previous), 2).unwrap();
            assert_eq!(next.damaged_before, [format!("the member at byte {offset}")]);
            assert_eq!(next.new_members, 1);
            assert!(fs::read(&two).unwrap() == fs::read(&scratch).unwrap());
            fs::remove_file(&two).unwrap();
            file.seek(SeekFrom::Start(place as u64)).unwrap();
            file.write_all(&[all[place] ^ 4]).unwrap();
        }
    }
}

#[test]
fn an_archive_before_that_is_not_the_recorded_one_is_refused_and_named() {
    let folder = scratch();
    let source = folder.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("a"), b"a").unwrap();
    let at = |name: &str| folder.path().join(name);
    let first = write(&at("1"), &source, None, 1);
    fs::write(source.join("a"), b"b").unwrap();
    write(&at("2"), &source, None, 1);
    fs::write(at("junk"), b"no archive").unwrap();
    let cases = [
        (at("2"), Some(first.toc_sha256), "its table of contents is another one"),
        (at("junk"), None, "no table of contents"),
        (at("absent"), None, "cannot open"),
    ];
    for (n, (path, toc_sha256, why)) in cases.into_iter().enumerate() {
        let target = at(&format!("new-{n}"));
        let written = write_with(&target, &source, Some(Previous { path, toc_sha256 }), 1).unwrap();
        let refused = written.previous_refused.unwrap();
        assert!(refused.contains(why), "{refused}");
        assert_eq!(written.reused_members, 0);
        assert!(fs::read(&target).unwrap() == fs::read(at("2")).unwrap());
    }
}
