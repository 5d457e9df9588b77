//! Archives that somebody made to do harm: their tables of contents lie, their names and links lead elsewhere. They are refused before
//! anything is written; nothing panics, and no figure in them makes us take memory.

use std::{fs, io::Seek as _, path::Path};

use echopilot_archive::{
    Archive, Error, Result,
    entry::{Entry, Type, padding},
    limits::Limits,
    member::{FOOTER_SIZE, Footer, Packer, toc_piece},
    restore::{self, Conflict, Links},
    toc::{Member, Sums, Writer},
    verify,
};

use crate::memory::{Bytes, restore_bytes, scratch, wrong};

/// An archive before its table of contents is written, with everything that can be lied about.
pub(crate) struct Forged {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    members: Vec<Member>,
    sums: Sums,
}

pub(crate) fn entry(path: &str, kind: Type, link: &str) -> Entry {
    let (path, link) = (path.into(), link.into());
    Entry { path, kind, size: 0, mode: 0o644, uid: 0, gid: 0, mtime: 1_700_000_000, ns: 0, link, data: 0, blake3: String::new() }
}

pub(crate) fn file(path: &str) -> (Entry, Vec<u8>) {
    (entry(path, Type::File, ""), format!("content of {path}").into_bytes())
}

pub(crate) fn other(path: &str, kind: Type, link: &str) -> (Entry, Vec<u8>) {
    (entry(path, kind, link), Vec::new())
}

/// Entries and their contents.
type Parts = Vec<(Entry, Vec<u8>)>;

/// A true archive of these entries, each in a member of its own.
pub(crate) fn forge(parts: Parts) -> Forged {
    let mut forged = Forged { bytes: Vec::new(), entries: Vec::new(), members: Vec::new(), sums: Sums::default() };
    let mut tar = 0;
    for (mut entry, content) in parts {
        entry.size = content.len() as u64;
        if entry.kind == Type::File {
            entry.blake3 = blake3::hash(&content).to_hex().to_string();
        }
        let mut all = entry.header();
        entry.data = tar + all.len() as u64;
        all.extend(&content);
        all.resize(all.len() + padding(entry.size), 0);
        tar += all.len() as u64;
        forged.sums.entries += 1;
        forged.sums.files += u64::from(entry.kind == Type::File);
        forged.sums.bytes += entry.size;
        forged.entries.push(entry);
        forged.member(&all);
    }
    forged.member(&[0; 1024]);
    forged
}

impl Forged {
    fn member(&mut self, content: &[u8]) {
        let mut packed = Vec::new();
        Packer::default().pack(content, &mut packed);
        let digest = |bytes: &[u8]| *blake3::hash(bytes).as_bytes();
        self.members.push(Member {
            offset: self.bytes.len() as u64,
            size: u32::try_from(packed.len()).unwrap(),
            content: u32::try_from(content.len()).unwrap(),
            key: digest(content),
            sum: digest(&packed),
        });
        self.sums.members += 1;
        self.sums.tar += content.len() as u64;
        self.bytes.extend(packed);
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        let mut toc = Writer::new(tempfile::tempfile().unwrap()).unwrap();
        for n in 0..self.entries.len().max(self.members.len()) {
            if let Some(entry) = self.entries.get(n) {
                toc.entry(entry.clone()).unwrap();
            }
            if let Some(member) = self.members.get(n) {
                toc.member(member).unwrap();
            }
        }
        let at = self.bytes.len() as u64;
        let mut out = |bytes: &[u8]| -> Result<()> {
            self.bytes.extend_from_slice(bytes);
            Ok(())
        };
        toc.finish(self.sums, at, &mut out).unwrap();
        self.bytes
    }
}

/// Tries every way to read it; answers why it was not restored.
fn refused(bytes: &[u8]) -> String {
    refused_unless(bytes, true)
}

/// The same; a salvage may take what is left.
fn refused_unless(bytes: &[u8], also_salvage: bool) -> String {
    let folder = scratch();
    let target = folder.path().join("in/target");
    if let Ok(archive) = Archive::open(Bytes(bytes.to_vec())) {
        for entry in archive.entries().flatten() {
            let _ = archive.cat(&entry.path, &mut std::io::sink()); // what counts is that it ends
        }
    }
    assert!(wrong(bytes).is_some(), "verify finds nothing");
    let mut why = String::new();
    for (conflict, salvage) in [(Conflict::Refuse, false), (Conflict::Overwrite, false), (Conflict::Skip, true)] {
        let options = restore::Options { conflict, salvage, links: Links::Allow, ..restore::Options::default() };
        if salvage && !also_salvage {
            let _ = restore_bytes(bytes.to_vec(), &folder.path().join("in/salvaged"), &options); // it ends
            continue;
        }
        match restore_bytes(bytes.to_vec(), &target, &options) {
            Err(error @ (Error::Damaged(_) | Error::Refused(_))) => why = error.to_string(),
            other => panic!("{other:?}"),
        }
        assert!(fs::read_dir(folder.path()).unwrap().all(|e| e.unwrap().file_name() == "in"));
        assert!(!target.exists() || fs::read_dir(&target).unwrap().next().is_none(), "something was written");
    }
    why
}

#[test]
fn a_forged_archive_that_tells_the_truth_is_restored() {
    // Or else the tests below would show nothing.
    let folder = scratch();
    let parts = vec![other("d", Type::Dir, ""), file("d/a"), other("d/s", Type::Symlink, "a"), other("d/l", Type::Link, "d/a"), file("b")];
    let bytes = forge(parts).finish();
    assert_eq!(wrong(&bytes), None);
    let restored = restore_bytes(bytes, &folder.path().join("t"), &restore::Options::default()).unwrap();
    assert_eq!((restored.files, restored.others), (2, 3));
    assert_eq!(fs::read(folder.path().join("t/d/l")).unwrap(), b"content of d/a");
}

#[test]
fn names_that_lead_out_or_stand_in_each_others_way_are_refused() {
    let long = "x/".repeat(2100) + "y";
    let wide = "w".repeat(256);
    let cases: Vec<(&str, Parts)> = vec![
        ("leads out", vec![file("../x")]),
        ("leads out", vec![file("a/../../x")]),
        ("absolute", vec![file("/tmp/echopilot-escaped")]),
        ("empty name", vec![file("")]),
        ("canonical", vec![file("./a")]),
        ("canonical", vec![file("a//b")]),
        ("canonical", vec![other("a/", Type::Dir, "")]),
        ("NUL", vec![file("a%00b")]),
        ("canonical", vec![file("%61")]),
        ("4095", vec![file(&long)]),
        ("255", vec![file(&wide)]),
        ("there twice", vec![file("a"), file("a")]),
        ("no directory", vec![file("a"), file("a/b")]),
        ("both a directory", vec![file("a/b"), file("a")]),
        ("both a directory", vec![other("a", Type::Dir, ""), file("a")]),
        ("no directory", vec![other("a", Type::Symlink, "/tmp"), file("a/b")]),
        ("no directory", vec![file("f"), other("a", Type::Link, "f"), file("a/b")]),
        ("there twice", vec![other("a", Type::Symlink, "/tmp"), file("a")]),
        ("leads out", vec![other("a", Type::Link, "../../etc/passwd")]),
        ("absolute", vec![other("a", Type::Link, "/etc/passwd")]),
        ("link to itself", vec![other("a", Type::Link, "a")]),
    ];
    for (why, parts) in cases {
        let names: Vec<String> = parts.iter().map(|(e, _)| e.path.chars().take(20).collect()).collect();
        let text = refused(&forge(parts).finish());
        assert!(text.contains(why), "{names:?}: {text}");
    }
    assert!(!Path::new("/tmp/echopilot-escaped").exists());
}

#[test]
fn a_hard_link_to_what_is_not_in_the_archive_is_left_out_and_named() {
    // The machine has a file of that name beside the target; it must not be linked.
    let folder = scratch();
    fs::write(folder.path().join("secret"), "s").unwrap();
    let target = folder.path().join("t");
    let bytes = forge(vec![other("a", Type::Link, "secret"), file("b")]).finish();
    fs::create_dir(&target).unwrap();
    fs::write(target.join("secret"), "s").unwrap();
    let options = restore::Options { conflict: Conflict::Overwrite, ..restore::Options::default() };
    let restored = restore_bytes(bytes, &target, &options).unwrap();
    assert_eq!(restored.left_out.len(), 1, "{restored:?}");
    assert!(!target.join("a").exists());
}

#[test]
fn symbolic_links_that_leave_the_archive_are_refused_left_out_or_made_as_asked() {
    for target in ["/etc/passwd", "../x", "b/../../x", "../../..", "%00", ""] {
        let bytes = forge(vec![other("a", Type::Symlink, target), file("b")]).finish();
        let folder = scratch();
        let to = folder.path().join("t");
        let error = restore_bytes(bytes.clone(), &to, &restore::Options::default()).unwrap_err();
        assert!(matches!(error, Error::Refused(_)) && error.to_string().contains("link \"a\""), "{error}");
        assert!(!to.exists());
        let skip = restore::Options { links: Links::Skip, ..restore::Options::default() };
        let restored = restore_bytes(bytes.clone(), &to, &skip).unwrap();
        assert_eq!((restored.left_out.len(), restored.files), (1, 1), "{restored:?}");
        assert!(fs::symlink_metadata(to.join("a")).is_err());
        fs::remove_dir_all(&to).unwrap();
        let allow = restore::Options { links: Links::Allow, ..restore::Options::default() };
        if !target.is_empty() && target != "%00" {
            restore_bytes(bytes, &to, &allow).unwrap();
            assert_eq!(fs::read_link(to.join("a")).unwrap(), Path::new(target));
        } else {
            restore_bytes(bytes, &to, &allow).unwrap_err();
        }
    }
}

#[test]
fn tables_of_contents_that_lie_about_the_archive_are_refused() {
    type Lie = (&'static str, fn(&mut Forged));
    let lies: [Lie; 25] = [
        ("a member is missing", |f| f.members.retain(|m| m.offset == 0)),
        ("members overlap", |f| f.members[1].offset -= 1),
        ("a member begins late", |f| f.members[1].offset += 1),
        ("a member is far away", |f| f.members[2].offset = u64::MAX - 3),
        ("members change places", |f| f.members.swap(0, 1)),
        ("a member is there twice", |f| f.members.insert(1, f.members[1])),
        ("a member is larger", |f| f.members[1].size += 1),
        ("a member is of 4 GiB", |f| f.members[1].size = u32::MAX),
        ("a member is empty", |f| f.members[1].size = 0),
        ("a content is larger", |f| f.members[1].content += 512),
        ("a content is smaller", |f| f.members[1].content -= 512),
        ("a content is of 4 GiB", |f| f.members[1].content = u32::MAX),
        ("two contents trade bytes", |f| {
            (f.members[0].content, f.members[1].content) = (f.members[0].content + 512, f.members[1].content - 512);
        }),
        ("a key is another", |f| f.members[1].key[0] ^= 1),
        ("a sum is another", |f| f.members[1].sum[0] ^= 1),
        ("an entry is missing", |f| drop(f.entries.remove(1))),
        ("an entry is more", |f| f.entries.push(entry("z", Type::Dir, ""))),
        ("a file is larger", |f| f.entries[1].size += 512),
        ("a file is endless", |f| f.entries[1].size = u64::MAX),
        ("a file is nearly endless", |f| (f.entries[2].size, f.sums.bytes) = (u64::MAX - 600, u64::MAX)),
        ("a file begins elsewhere", |f| f.entries[1].data = u64::MAX),
        ("a digest is none", |f| f.entries[1].blake3 = "zz".repeat(31)),
        ("the sums are others", |f| f.sums.tar = u64::MAX),
        ("the mode is more than a mode", |f| f.entries[1].mode = 0o100_644),
        ("a time is more than a time", |f| f.entries[1].ns = u32::MAX),
    ];
    for (what, lie) in lies {
        let mut forged = forge(vec![other("d", Type::Dir, ""), file("d/a"), file("d/b"), file("d/c")]);
        lie(&mut forged);
        let why = refused_unless(&forged.finish(), false);
        assert!(!why.is_empty(), "{what}");
    }
}

#[test]
fn a_table_that_names_other_things_than_the_tar_is_refused() {
    // Standard tools read the tar and we the table: they must say the same.
    let lies: [fn(&mut Entry); 7] = [
        |e| e.path = "d/x".into(),
        |e| e.mode = 0o4755,
        |e| e.uid = 7,
        |e| e.mtime += 1,
        |e| e.ns = 5,
        |e| (e.kind, e.blake3, e.size) = (Type::Dir, String::new(), 0),
        |e| e.blake3 = "ab".repeat(32),
    ];
    for (n, lie) in lies.into_iter().enumerate() {
        let mut forged = forge(vec![other("d", Type::Dir, ""), file("d/a"), file("d/b")]);
        lie(&mut forged.entries[1]);
        let bytes = forged.finish();
        let folder = scratch();
        let restored = restore_bytes(bytes.clone(), &folder.path().join("t"), &restore::Options::default());
        assert!(matches!(restored, Err(Error::Damaged(_))), "{n}: {restored:?}");
        assert!(!folder.path().join("t").exists());
        // A digest of a whole file is compared where the file is put together: the members' digests cover its bytes.
        assert!(n == 6 || wrong(&bytes).is_some());
    }
}

#[test]
fn figures_in_the_footer_take_no_memory() {
    let whole = forge(vec![file("a")]).finish();
    let true_footer = Footer::decode(&whole[whole.len() - FOOTER_SIZE..]).unwrap().unwrap();
    let numbers = [0, 1, 7999, 8000, 8001, u64::from(u32::MAX), u64::MAX / 2, u64::MAX - 1, u64::MAX];
    for a in numbers {
        for b in numbers {
            for (toc_offset, toc_compressed, toc_bytes) in
                [(a, b, true_footer.toc_bytes), (true_footer.toc_offset, a, b), (a, true_footer.toc_compressed, b)]
            {
                let mut bytes = whole[..whole.len() - FOOTER_SIZE].to_vec();
                let footer = Footer { toc_offset, toc_compressed, toc_bytes, ..true_footer.clone() };
                bytes.extend(footer.encode());
                assert!(footer == true_footer || wrong(&bytes).is_some(), "{footer:?}");
            }
        }
    }
}

#[test]
fn a_table_of_contents_that_is_a_bomb_is_refused_before_it_is_large() {
    // Blanks without end: no line is that long, so nothing is kept.
    let mut spool = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(9));
    for _ in 0..16 {
        std::io::Write::write_all(&mut spool, &vec![b' '; 1 << 20]).unwrap();
    }
    let toc = spool.finish().unwrap();
    let mut bytes = Vec::new();
    toc.chunks(8000).for_each(|piece| toc_piece(piece, &mut bytes));
    let mut sha = [0; 32];
    sha.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, &toc).as_ref());
    bytes.extend(Footer { toc_offset: 0, toc_compressed: toc.len() as u64, toc_bytes: 16 << 20, toc_sha256: sha }.encode());
    assert!(refused(&bytes).contains("table of contents"));
}

#[test]
fn folders_that_only_names_speak_of_are_counted() {
    // Each of these names stands for two thousand folders.
    let parts = (0..20).map(|n| file(&format!("{n}{}", "/x".repeat(1900)))).collect();
    let bytes = forge(parts).finish();
    let why = Archive::open(Bytes(bytes)).unwrap().sums(&Limits::default()).unwrap_err();
    assert!(why.to_string().contains("too many folders"), "{why}");
}

#[test]
fn what_is_more_than_the_limits_is_refused_with_the_figures() {
    let folder = scratch();
    let bytes = || forge(vec![file("a"), file("b"), (entry("c", Type::File, ""), vec![b'c'; 3 << 20])]).finish();
    let cases = [
        (Limits { max_entries: 2, ..Limits::default() }, "3 entries are more than the 2 allowed"),
        (Limits { max_total_bytes: 1 << 20, ..Limits::default() }, "are more than the 1048576 allowed"),
        (Limits { max_ratio: 10, ..Limits::default() }, "are more than 10 to 1"),
    ];
    for (limits, why) in cases {
        let verified = Archive::open(Bytes(bytes())).unwrap().verify(&verify::Options { limits, ..verify::Options::default() });
        let restored = restore_bytes(bytes(), &folder.path().join("t"), &restore::Options { limits, ..restore::Options::default() });
        for error in [verified.unwrap_err(), restored.unwrap_err()] {
            assert!(error.to_string().contains(why), "{error}");
        }
        assert!(!folder.path().join("t").exists());
    }
    // And what is allowed is restored by every policy, the limits of a verification on the way included.
    let wide = Limits { max_total_bytes: u64::MAX, max_ratio: u64::MAX, max_entries: u64::MAX };
    for conflict in [Conflict::Refuse, Conflict::Overwrite, Conflict::Skip] {
        let options = restore::Options { limits: wide, conflict, ..restore::Options::default() };
        restore_bytes(bytes(), &folder.path().join(format!("{conflict:?}")), &options).unwrap();
    }
}

#[test]
fn an_archive_of_another_format_is_refused_with_both_versions() {
    let whole = forge(vec![file("a")]).finish();
    let mut bytes = whole.clone();
    let at = whole.len() - FOOTER_SIZE + 16 + 8;
    bytes[at] = 2;
    let Err(error) = Archive::open(Bytes(bytes)) else { panic!("it was opened") };
    assert!(matches!(&error, Error::Refused(text) if text.contains("version 2") && text.contains("reads 1")), "{error}");
    let mut empty = tempfile::tempfile().unwrap();
    empty.rewind().unwrap();
    assert!(matches!(Archive::open(empty), Err(Error::Damaged(_))));
}
