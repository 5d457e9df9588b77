//! Every byte of an archive is covered: a changed bit, wherever it lies, is found; a restore refuses, or leaves out exactly what the
//! damage hit and names it.

use std::{collections::BTreeSet, fs, path::Path};

use echopilot_archive::{
    Archive, Error,
    entry::{Entry, Type},
    member::{FOOTER_SIZE, HEAD},
    restore,
    toc::{Member, Row},
    verify,
};

use crate::{
    memory::{Bytes, faithful, restore_bytes, scratch, write, wrong},
    tree::{Fill, content, look},
};

/// A folder with one file of each kind, and its archive.
fn archive(folder: &Path, large: bool) -> Vec<u8> {
    let source = folder.join("source");
    fs::create_dir_all(source.join("empty")).unwrap();
    fs::write(source.join("a.json"), b"{\"a\":1}").unwrap();
    fs::write(source.join("nothing"), b"").unwrap();
    fs::hard_link(source.join("a.json"), source.join("b.json")).unwrap();
    std::os::unix::fs::symlink("a.json", source.join("link")).unwrap();
    if large {
        for n in 0..100 {
            fs::write(source.join(format!("small-{n:03}")), content(Fill::Noise, n, 5000)).unwrap();
        }
        fs::write(source.join("big-1"), content(Fill::Lines, 1, (4 << 20) + 5)).unwrap();
        fs::write(source.join("big-2"), content(Fill::Zeros, 1, (3 << 20) + 1)).unwrap();
        fs::write(source.join("big-3"), content(Fill::Database, 1, 300_000)).unwrap();
    }
    write(&folder.join("archive"), &source, None, 2);
    fs::read(folder.join("archive")).unwrap()
}

fn rows(bytes: &[u8]) -> (Vec<Member>, Vec<Entry>) {
    let archive = Archive::open(Bytes(bytes.to_vec())).unwrap();
    let (mut members, mut entries) = (Vec::new(), Vec::new());
    for row in archive.rows() {
        match row.unwrap() {
            Row::Member(m) => members.push(m),
            Row::Entry(e) => entries.push(e),
            Row::End(_) | Row::Skipped => {}
        }
    }
    (members, entries)
}

fn place(n: u64) -> usize {
    usize::try_from(n).unwrap()
}

#[test]
fn a_changed_bit_in_any_byte_of_an_archive_is_found() {
    let folder = scratch();
    let whole = archive(folder.path(), false);
    assert_eq!(wrong(&whole), None);
    for at in 0..whole.len() {
        for bit in [at % 8, (at + 3) % 8] {
            let mut bad = whole.clone();
            bad[at] ^= 1 << bit;
            assert!(wrong(&bad).is_some(), "byte {at} of {}, bit {bit}", whole.len());
        }
    }
}

#[test]
fn an_archive_that_is_cut_off_anywhere_or_has_more_after_it_is_found() {
    let folder = scratch();
    let whole = archive(folder.path(), false);
    for length in 0..whole.len() {
        assert!(wrong(&whole[..length]).is_some(), "{length} bytes of {}", whole.len());
    }
    assert!(wrong(&[&whole[..], &[0]].concat()).is_some());
    assert!(wrong(&[&whole[..], &whole[..]].concat()).is_some());
    assert!(wrong(&[&[0; 7], &whole[..]].concat()).is_some());
}

/// Places in every region of the archive, with the name of the region: ends and middle of each.
fn places(bytes: &[u8]) -> Vec<(&'static str, usize)> {
    let (members, _) = rows(bytes);
    let archive = Archive::open(Bytes(bytes.to_vec())).unwrap();
    let mut found = Vec::new();
    let mut region = |name: &'static str, from: usize, to: usize| {
        if from < to {
            found.extend([from, usize::midpoint(from, to), to - 1].map(|at| (name, at)));
        }
    };
    let mut at = 0;
    for m in &members {
        let (from, to) = (place(m.offset), place(m.offset) + m.size as usize);
        region("padding", at, from);
        region("head", from, from + HEAD);
        region("data", from + HEAD, to - 8);
        region("trailer", to - 8, to);
        at = to;
    }
    let toc = place(archive.footer().toc_offset);
    region("padding", at, toc);
    region("table of contents", toc, toc + 16);
    region("table of contents", toc + 16, bytes.len() - FOOTER_SIZE);
    region("footer", bytes.len() - FOOTER_SIZE, bytes.len());
    found
}

#[test]
fn a_changed_bit_in_each_region_of_a_larger_archive_is_found_and_stops_a_restore() {
    let folder = scratch();
    let whole = archive(folder.path(), true);
    let places = places(&whole);
    let regions: BTreeSet<_> = places.iter().map(|(name, _)| *name).collect();
    assert_eq!(regions.len(), 6, "{regions:?}");
    let target = folder.path().join("target");
    for (n, (region, at)) in places.into_iter().enumerate() {
        let mut bad = whole.clone();
        bad[at] ^= 1 << (n % 8);
        assert!(wrong(&bad).is_some(), "{region}, byte {at}");
        if n % 3 == 0 {
            let error = restore_bytes(bad, &target, &faithful()).unwrap_err();
            assert!(matches!(error, Error::Damaged(_)), "{region}, byte {at}: {error}");
            assert!(!target.exists(), "{region}, byte {at}");
        }
    }
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_damaged_member_costs_the_files_in_it_and_no_other() {
    let folder = scratch();
    let whole = archive(folder.path(), true);
    let (members, entries) = rows(&whole);
    let source = look(&folder.path().join("source"));
    let target = folder.path().join("target");
    let mut at = 0;
    for m in &members {
        let (from, to) = (at, at + u64::from(m.content));
        at = to;
        // The content of these lies in the member; what stands in the table of contents alone is not lost with it.
        let lost: BTreeSet<&str> = entries
            .iter()
            .filter(|e| e.kind == Type::File && e.size > 0 && e.data < to && e.data + e.size > from)
            .map(|e| e.path.as_str())
            .collect();
        let mut bad = whole.clone();
        bad[place(m.offset) + m.size as usize / 2] ^= 16;
        let restored = restore_bytes(bad, &target, &restore::Options { salvage: true, ..faithful() }).unwrap();
        let named: BTreeSet<&str> = restored.damaged.iter().map(|note| note.path.as_str()).collect();
        assert_eq!(named, lost, "member at byte {}", m.offset);
        assert_eq!(restored.damage.len(), 1);
        assert!(restored.damage[0].contains(&format!("byte {}", m.offset)), "{:?}", restored.damage);
        let got = look(&target.join("data"));
        let mut wanted = source.clone();
        let gone = |name: &str| wanted.keys().find(|key| format!("data/{}", String::from_utf8_lossy(key)) == name).cloned();
        let gone: Vec<_> = lost.iter().filter_map(|name| gone(name)).collect();
        assert_eq!(gone.len(), lost.len());
        for name in gone {
            wanted.remove(&name);
        }
        // Another name of what is lost cannot be there either, and is named.
        for note in &restored.left_out {
            assert!(note.path == "data/b.json" && lost.contains("data/a.json"), "{note:?}");
            wanted.remove(&b"b.json"[..]);
        }
        assert_eq!(crate::tree::difference(&wanted, &got), None, "member at byte {}", m.offset);
        fs::remove_dir_all(&target).unwrap();
    }
}

#[test]
fn a_sample_reads_a_part_and_another_seed_another_part() {
    let folder = scratch();
    let archive = Archive::open(Bytes(archive(folder.path(), true))).unwrap();
    let read = |seed| {
        let options = verify::Options { sample_ppm: 300_000, seed, ..verify::Options::default() };
        archive.verify(&options).unwrap()
    };
    let all = archive.verify(&verify::Options::default()).unwrap();
    assert_eq!(all.members_read, all.sums.members);
    let counts: Vec<u64> = (0..20).map(|seed| read(seed).members_read).collect();
    assert!(counts.iter().all(|n| *n < all.sums.members), "{counts:?}");
    assert!(counts.iter().sum::<u64>() > all.sums.members * 3, "{counts:?}");
    assert!(counts.iter().collect::<BTreeSet<_>>().len() > 1, "{counts:?}");
}
