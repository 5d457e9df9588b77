//! What we write, everybody reads: archives of a tree with everything odd in it are listed and extracted by GNU tar, bsdtar, busybox,
//! Python, pigz and Node, and what comes out is compared with the source file by file, metadata included. What a reader cannot do is
//! stated beside it. A second reader of the table of contents, written from the document alone, agrees with ours.

#![allow(clippy::unwrap_used, reason = "all of it is tests, the functions between them too")]

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::{Seek as _, SeekFrom, Write as _},
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64},
    time::{Duration, SystemTime},
};

use echopilot_archive::{
    Archive, ReadAt as _,
    pattern::Patterns,
    restore::{self, restore},
    scan::Root,
    write::{self, Written},
};
use integration_tests::{Output, command, node, peer, python, run_to_end, sha256};

const LIMIT: Duration = Duration::from_mins(5);

/// What can be seen of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    kind: char,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    content: String,
    /// The first of the names that are the same file.
    first: Vec<u8>,
}

type Tree = BTreeMap<Vec<u8>, Seen>;

/// Everything below `root` that can be in an archive.
fn look(root: &Path) -> Tree {
    let (mut tree, mut first) = (Tree::new(), BTreeMap::<(u64, u64), Vec<u8>>::new());
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        let kind = meta.file_type();
        let (kind, content) = if kind.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            ('d', String::new())
        } else if kind.is_symlink() {
            ('l', fs::read_link(&path).unwrap().as_os_str().as_bytes().escape_ascii().to_string())
        } else if kind.is_file() {
            let earlier = first.entry((meta.dev(), meta.ino())).or_insert_with(|| name.clone());
            *earlier = earlier.clone().min(name.clone());
            ('f', sha256(&fs::read(&path).unwrap()))
        } else {
            assert!(kind.is_socket() || kind.is_fifo() || kind.is_char_device());
            continue;
        };
        let owner = (meta.uid(), meta.gid());
        tree.insert(
            name,
            Seen { kind, mode: meta.mode() & 0o7777, owner, mtime: (meta.mtime(), meta.mtime_nsec()), content, first: vec![] },
        );
    }
    for (name, seen) in tree.iter_mut().filter(|(_, seen)| seen.kind == 'f') {
        let meta = fs::symlink_metadata(root.join(OsStr::from_bytes(name))).unwrap();
        seen.first.clone_from(&first[&(meta.dev(), meta.ino())]);
    }
    tree
}

#[track_caller]
fn ran(command: Command) -> Output {
    let output = run_to_end(command, LIMIT);
    assert_eq!(output.code, Some(0), "{}\n{}\n{}", output.what, output.stdout, output.stderr);
    output
}

fn program(name: &str, arguments: &[&dyn AsRef<OsStr>]) -> Command {
    let mut command = command(name);
    command.args(arguments.iter().map(AsRef::as_ref)).env("LC_ALL", "C");
    command
}

fn am_root() -> bool {
    ran(program("id", &[&"-u"])).stdout.trim() == "0"
}

/// One of everything. Times last, folders after what is in them.
fn hostile_tree(root: &Path) {
    let deep = (0..14).fold(root.join("deep"), |path, n| path.join(format!("{n}-{}", "d".repeat(220))));
    fs::create_dir_all(&deep).unwrap();
    fs::create_dir_all(root.join("empty")).unwrap();
    let file = |name: &[u8], size: usize, step: usize| {
        let content: Vec<u8> = (0..size).map(|n| u8::try_from((n / 7 * step) % 251).unwrap()).collect();
        let path = root.join(OsStr::from_bytes(name));
        fs::write(&path, content).unwrap();
        path
    };
    for size in [0, 1, 511, 512, 513, 262_143, 262_144, 262_145, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (4 << 20) + 7] {
        file(format!("size-{size}").as_bytes(), size, size | 1);
    }
    file(b"no-text-\xff\xfe\x80", 10, 1);
    file(b"line\nbreak\tand tab", 10, 2);
    file(b"percent%41%", 10, 3);
    file("\"quoted\" back\\slash é \u{2028}".as_bytes(), 10, 4);
    for length in [99, 100, 101, 255] {
        file(&[&b"long-"[..], &vec![b'n'; length - 5]].concat(), length, 5);
    }
    fs::write(deep.join("at the bottom"), "deep").unwrap();
    symlink("size-1", root.join("link")).unwrap();
    symlink("../../outside", root.join("link out")).unwrap();
    symlink("/etc/passwd", root.join("link absolute")).unwrap();
    symlink("nowhere/".repeat(40), root.join("link long")).unwrap();
    symlink(OsStr::from_bytes(b"\xff\n"), root.join("link odd")).unwrap();
    fs::hard_link(root.join("size-513"), root.join("twin of small")).unwrap();
    fs::hard_link(root.join("size-1048577"), root.join("twin of large")).unwrap();
    fs::hard_link(deep.join("at the bottom"), root.join("twin of deep")).unwrap();
    let mut sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.seek(SeekFrom::Start(20 << 20)).unwrap();
    sparse.write_all(b"end").unwrap();
    ran(program("mkfifo", &[&root.join("pipe")]));
    drop(UnixListener::bind(root.join("socket")).unwrap());
    let mode = |name: &str, mode: u32| fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    if am_root() {
        ran(program("mknod", &[&root.join("device"), &"c", &"1", &"3"]));
        std::os::unix::fs::lchown(root.join("size-511"), Some(3_000_000), Some(4_000_000_000)).unwrap();
        std::os::unix::fs::lchown(root.join("link"), Some(1000), Some(1000)).unwrap();
        std::os::unix::fs::chown(root.join("empty"), Some(1), Some(2)).unwrap();
    }
    for (name, bits) in [("size-0", 0), ("size-1", 0o4755), ("size-511", 0o2750), ("size-512", 0o777), ("empty", 0o1777)] {
        mode(name, bits);
    }
    let touch = |name: &str, seconds: i64, nanoseconds: u32| {
        let since = Duration::new(seconds.unsigned_abs(), 0);
        let epoch = SystemTime::UNIX_EPOCH;
        let time = if seconds < 0 { epoch - since } else { epoch + since } + Duration::from_nanos(nanoseconds.into());
        fs::File::open(root.join(name)).unwrap().set_modified(time).unwrap();
    };
    touch("size-1", 1_700_000_000, 0);
    touch("size-512", 1_700_000_000, 123_456_789);
    touch("size-513", 8_589_934_592 + 5, 1); // more than eleven octal digits hold
    touch("size-262144", -5, 0);
    touch("size-262145", -2, 500_000_000);
    touch("empty", 1_600_000_000, 999_999_999);
}

struct Sample {
    folder: tempfile::TempDir,
    written: Written,
    tree: Tree,
}

impl Sample {
    fn new(make: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("tree");
        fs::create_dir(&source).unwrap();
        make(&source);
        let written = write(&folder.path().join("archive.tar.gz"), &source);
        Self { tree: if written.content_bytes < 1 << 30 { look(&source) } else { Tree::new() }, folder, written }
    }

    fn hostile() -> Self {
        Self::new(hostile_tree)
    }

    fn archive(&self) -> PathBuf {
        self.folder.path().join("archive.tar.gz")
    }

    /// Has `extract` put the files into a new folder and compares. `reads` says what the reader makes of an entry; what differs from
    /// the source there is what it cannot do.
    #[track_caller]
    fn extracted(&self, reader: &str, extract: impl FnOnce(&Path) -> Command, reads: impl Fn(&mut Seen)) {
        let folder = tempfile::tempdir().unwrap();
        ran(extract(folder.path()));
        let mut wanted = self.tree.clone();
        let mut got = look(&folder.path().join("tree"));
        if !am_root() {
            got.values_mut().chain(wanted.values_mut()).for_each(|seen| seen.owner = (0, 0));
        }
        wanted.values_mut().for_each(&reads);
        got.values_mut().for_each(&reads);
        let names: std::collections::BTreeSet<&Vec<u8>> = wanted.keys().chain(got.keys()).collect();
        let different: Vec<String> = names
            .into_iter()
            .filter(|name| wanted.get(*name) != got.get(*name))
            .map(|name| {
                let shown = name.escape_ascii().to_string();
                format!("{:.100}\n  wanted {:?}\n  got    {:?}", shown, wanted.get(name), got.get(name))
            })
            .collect();
        assert!(different.is_empty(), "{reader} differs in {} of {}:\n{}", different.len(), wanted.len(), different.join("\n"));
    }
}

fn write(target: &Path, source: &Path) -> Written {
    let (stop, read) = (AtomicBool::new(false), AtomicU64::new(0));
    let options =
        write::Options { exclude: Patterns::default(), never: &[], previous: None, threads: 0, stop: &stop, read: &read, mode: 0o600 };
    let roots = [Root { name: "tree".into(), path: source.to_owned(), required: true }];
    let written = write::write(target, &roots, options).unwrap();
    assert!(written.problems.is_empty(), "{:?}", written.problems);
    written
}

fn open(path: &Path) -> Archive<fs::File> {
    Archive::open(fs::File::open(path).unwrap()).unwrap()
}

/// Owners and all bits if we may set them.
fn as_root() -> &'static str {
    if am_root() { "--same-owner" } else { "--no-same-owner" }
}

#[test]
fn what_is_no_file_is_left_out_and_named() {
    let sample = Sample::hostile();
    let skipped: Vec<_> = sample.written.skipped.iter().map(|note| (note.path.as_str(), note.what.as_str())).collect();
    let wanted = [("tree/device", "a device"), ("tree/pipe", "a pipe"), ("tree/socket", "a socket")];
    assert_eq!(skipped, &wanted[usize::from(!am_root())..]);
}

#[test]
fn our_own_restore_brings_everything_back() {
    let sample = Sample::hostile();
    let folder = tempfile::tempdir().unwrap();
    let options = restore::Options { links: restore::Links::Allow, owners: am_root(), setuid: true, ..restore::Options::default() };
    restore(&open(&sample.archive()), &folder.path().join("to"), &options).unwrap();
    assert_eq!(look(&folder.path().join("to/tree")), sample.tree);
}

#[test]
fn gnu_tar_extracts_everything_to_the_nanosecond() {
    let sample = Sample::hostile();
    let archive = sample.archive();
    sample.extracted("GNU tar", |to| program("tar", &[&"-xpf", &archive, &"-C", &to, &as_root(), &"--numeric-owner"]), |_| {});
}

#[test]
fn bsdtar_extracts_everything_to_the_nanosecond_since_1970() {
    let sample = Sample::hostile();
    let archive = sample.archive();
    sample.extracted(
        "bsdtar",
        |to| program("bsdtar", &[&"-xpf", &archive, &"-C", &to, &as_root(), &"--numeric-owner"]),
        |seen| {
            // It takes the sign of a pax time for the seconds alone: -1.5 becomes half a second after -1.
            if seen.mtime.0 < 0 {
                seen.mtime.0 = 0;
            }
        },
    );
}

#[test]
fn busybox_extracts_everything_but_nanoseconds_and_times_of_folders_and_links() {
    let sample = Sample::hostile();
    let archive = sample.archive();
    sample.extracted(
        "busybox tar",
        |to| program("busybox", &[&"tar", &"-xpzf", &archive, &"-C", &to]),
        |seen| {
            // It knows no pax records: the nanoseconds are lost. A folder's time is set before its files are put into it. Links get
            // neither time nor owner.
            seen.mtime = if seen.kind == 'f' { (seen.mtime.0, 0) } else { (0, 0) };
            if seen.kind == 'l' {
                seen.owner = (0, 0);
            }
        },
    );
}

#[test]
fn python_extracts_everything_but_times_finer_than_a_float_and_of_links() {
    let sample = Sample::hostile();
    let archive = sample.archive();
    let extract = |to: &Path| {
        let mut command = python();
        command.arg(peer("extract_tar.py")).arg(&archive).arg(to);
        command
    };
    sample.extracted("Python", extract, |seen| {
        // Its times are floating-point numbers, good for about a microsecond; times of links stay those of the extraction.
        let total = i128::from(seen.mtime.0) * 1_000_000_000 + i128::from(seen.mtime.1);
        let near = (total + 2_000) / 4_000 * 4_000;
        seen.mtime = if seen.kind == 'l' { (0, 0) } else { (i64::try_from(near / 1_000_000_000).unwrap(), 0) };
    });
}

#[test]
fn pigz_and_node_decompress_it_whole_and_gzip_finds_it_sound() {
    let sample = Sample::hostile();
    let archive = sample.archive();
    ran(program("gzip", &[&"-t", &archive]));
    ran(program("pigz", &[&"-t", &archive]));
    let mut node = node("gunzip.mjs");
    node.arg(&archive);
    let by_node = ran(node).stdout;
    let by_gzip = ran(program("sh", &[&"-c", &"gzip -dc \"$0\" | sha256sum", &archive])).stdout;
    let tar = open(&archive).sums(&echopilot_archive::limits::Limits::default()).unwrap().tar;
    assert_eq!(by_node.trim(), format!("{tar} {}", by_gzip.split(' ').next().unwrap()));
    let script = format!("pigz -dc \"$0\" | tar -xpf - -C \"$1\" {} --numeric-owner", as_root());
    sample.extracted("pigz | tar", |to| program("sh", &[&"-c", &script, &archive, &to]), |_| {});
}

#[test]
fn gnu_tar_and_python_agree_entry_by_entry() {
    let sample = Sample::hostile();
    let mut command = python();
    command.arg(peer("tar_agree.py")).arg(sample.archive());
    assert_eq!(ran(command).stdout.trim(), sample.written.entries.to_string());
    for (reader, arguments) in [("bsdtar", &["-tf"][..]), ("busybox", &["tar", "-tzf"])] {
        let mut command = program(reader, &[]);
        command.args(arguments).arg(sample.archive());
        // A name with a newline may take two lines.
        let lines = ran(command).stdout.lines().count() as u64;
        assert!((sample.written.entries..=sample.written.entries + 2).contains(&lines), "{reader}: {lines}");
    }
}

fn second_reader(arguments: &[&dyn AsRef<OsStr>]) -> Output {
    let mut command = python();
    command.arg(peer("read_archive.py")).args(arguments.iter().map(AsRef::as_ref));
    run_to_end(command, LIMIT)
}

#[test]
fn a_reader_written_from_the_document_alone_reads_the_table_of_contents() {
    let sample = Sample::hostile();
    let archive = open(&sample.archive());
    let listed = second_reader(&[&"list", &sample.archive()]);
    let theirs: Vec<serde_json::Value> = listed.expect(0).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ours: Vec<serde_json::Value> = archive.entries().map(|entry| serde_json::to_value(entry.unwrap()).unwrap()).collect();
    assert_eq!(theirs, ours);
    let sums = second_reader(&[&"check", &sample.archive()]).json(0);
    let expected = archive.sums(&echopilot_archive::limits::Limits::default()).unwrap();
    assert_eq!(sums, serde_json::to_value(expected).unwrap());
    for name in ["tree/size-4194311", "tree/twin of large", "tree/size-1"] {
        let cat = second_reader(&[&"cat", &sample.archive(), &name]);
        let content = fs::read(sample.folder.path().join(name)).unwrap();
        assert_eq!(cat.expect(0).len(), String::from_utf8_lossy(&content).len());
        let read: u64 = cat.stderr.trim().parse().unwrap();
        assert!(read < archive.source().size().unwrap() / 2 + 100_000, "{name}: {read}");
    }
    // What it is handed damaged, it refuses too.
    let whole = fs::read(sample.archive()).unwrap();
    for n in 1..20 {
        let mut bad = whole.clone();
        let at = whole.len() * n / 20;
        bad[at] ^= 1;
        let path = sample.folder.path().join("bad");
        fs::write(&path, bad).unwrap();
        assert_eq!(second_reader(&[&"check", &path]).code, Some(1), "byte {at}");
    }
}

#[test]
fn a_file_of_more_than_eight_gibibytes_is_read_by_everybody() {
    // Its size does not fit into the octal digits. It is a hole, so the archive is small; it is listed and not extracted.
    const SIZE: u64 = (8 << 30) + 5;
    let sample = Sample::new(|root| {
        let mut file = fs::File::create(root.join("huge")).unwrap();
        file.seek(SeekFrom::Start(SIZE - 3)).unwrap();
        file.write_all(b"end").unwrap();
        fs::write(root.join("after"), "after").unwrap();
    });
    let archive = sample.archive();
    assert!(sample.written.size_bytes < 12 << 20, "{:?}", sample.written);
    assert_eq!(open(&archive).entry("tree/huge").unwrap().size, SIZE);
    let listed = ran(program("tar", &[&"-tvf", &archive])).stdout;
    assert!(listed.contains(&format!(" {SIZE} ")) && listed.lines().count() == 3, "{listed}");
    let mut agree = python();
    agree.arg(peer("tar_agree.py")).arg(&archive);
    assert_eq!(ran(agree).stdout.trim(), "3");
    let name = PathBuf::from(std::ffi::OsString::from_vec(b"tree/after".to_vec()));
    let mut out = Vec::new();
    open(&archive).cat(name.to_str().unwrap(), &mut out).unwrap();
    assert_eq!(out, b"after");
}
