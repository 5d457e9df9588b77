//! The house rules as a test, each with its reason. A rule that has to go is deleted here and explained in ARCHITECTURE.md; it is
//! never worked around.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A file may ship more lines than this only if it is listed with its reason.
const FILE_LINES: usize = 400;
const LONG_FILES: &[(&str, &str)] = &[("actors/src/supervisor.rs", "one state machine; splitting it would hide the order of its steps")];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above the package").to_owned()
}

/// Every Rust file of the workspace, as (path from the root, text).
fn rust_files() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = ["src", "actors", "archive", "integration-tests", "benches"].iter().map(|p| root().join(p)).collect();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).expect("a source folder can be read").flatten() {
            let path = entry.path();
            if path.is_dir() {
                if !["target", ".venv", "node_modules", "out", "fuzz"].iter().any(|skip| path.ends_with(skip)) {
                    open.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
                found.push((name, fs::read_to_string(&path).expect("source is text")));
            }
        }
    }
    found.sort();
    found
}

/// Whether a whole file is compiled for tests only.
fn is_for_tests(name: &str) -> bool {
    name.ends_with("tests.rs") || name.ends_with("/testing.rs") || name.contains("/simulation/")
}

/// The part of a file that ships: everything before its test module.
fn shipped(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

/// Lines that are code, without comments.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    shipped(text).lines().enumerate().map(|(n, l)| (n + 1, l)).filter(|(_, l)| !l.trim_start().starts_with("//"))
}

#[test]
fn arrows_point_down() {
    // Who may not mention whom: the import table of ARCHITECTURE.md. It keeps decisions testable without a runtime, SQL in one
    // room, and makes an actor replaceable without touching the others.
    let forbidden: &[(&str, &[&str])] = &[
        ("archive/src/", &["async fn", "tokio::", "ractor", "warp::", "SystemTime::now", "Utc::now"]),
        (
            "actors/src/domain/",
            &["async fn", "tokio::", "ractor", "warp::", "reqwest", "rusqlite", "std::fs", "Utc::now", "crate::env", "crate::store"],
        ),
        ("actors/src/config", &["ractor", "warp::"]),
        ("actors/src/error.rs", &["ractor", "warp::"]),
        ("actors/src/env.rs", &["ractor", "warp::"]),
        ("actors/src/store/", &["ractor", "warp::", "reqwest"]),
        ("actors/src/providers/", &["ractor"]),
        ("actors/src/channels/", &["ractor", "warp::", "rusqlite", "crate::store", "crate::operations"]),
        ("actors/src/replica/", &["ractor", "warp::", "rusqlite", "crate::store", "crate::operations"]),
        ("actors/src/tasks/", &["ractor", "warp::", "rusqlite", "SELECT ", "INSERT ", "UPDATE "]),
        ("actors/src/operations/", &["ractor", "warp::", "rusqlite", "SELECT ", "INSERT ", "UPDATE "]),
        ("actors/src/gateway/", &["rusqlite", "SELECT ", "INSERT ", "UPDATE "]),
    ];
    let mut broken = Vec::new();
    for (name, text) in rust_files() {
        for (room, words) in forbidden.iter().filter(|(room, _)| name.starts_with(room)) {
            for (n, line) in code(&text) {
                broken.extend(words.iter().filter(|w| line.contains(**w)).map(|w| format!("{name}:{n}: {room} must not use {w}")));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn only_the_daemon_knows_supervisor_tasks_and_gateway() {
    // The task table and the child list are handed down as values: otherwise timer and tasks would need each other.
    let words = ["crate::supervisor", "crate::tasks", "crate::gateway"];
    let mut broken = Vec::new();
    for (name, text) in rust_files().into_iter().filter(|(n, _)| n.starts_with("actors/src/") && !is_for_tests(n)) {
        for word in words {
            let room = word.trim_start_matches("crate::");
            let own = name.contains(&format!("/{room}/")) || name.ends_with(&format!("/{room}.rs"));
            if !own && !name.ends_with("/daemon.rs") && code(&text).any(|(_, l)| l.contains(word)) {
                broken.push(format!("{name} uses {word}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_file_says_what_it_is() {
    // The first thing a reader needs is what the file is for, who calls it and what it must never do.
    let silent: Vec<_> = rust_files().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(name, _)| name).collect();
    assert!(silent.is_empty(), "files without a //! comment: {silent:?}");
}

#[test]
fn nothing_shipped_is_unfinished_or_unwraps() {
    // A stub that runs at night is worse than a missing feature, and an unwrap is a crash without a reason.
    let words = [".unwrap()", "todo!(", "unimplemented!(", "dbg!(", "panic = \"abort\""];
    let mut broken = Vec::new();
    for (name, text) in
        rust_files().into_iter().filter(|(n, _)| n.starts_with("src/") || n.starts_with("actors/src/") || n.starts_with("archive/src/"))
    {
        if is_for_tests(&name) {
            continue;
        }
        for (n, line) in code(&text) {
            broken.extend(words.iter().filter(|w| line.contains(**w)).map(|w| format!("{name}:{n}: {w}")));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn rooms_have_names_that_say_something() {
    // A file called after nothing collects everything.
    let empty = ["utils", "util", "helpers", "helper", "manager", "common", "misc"];
    let bad: Vec<_> = rust_files()
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| Path::new(name).file_stem().and_then(|s| s.to_str()).is_some_and(|stem| empty.contains(&stem)))
        .collect();
    assert!(bad.is_empty(), "{bad:?}");
}

#[test]
fn long_files_have_a_reason() {
    let long: Vec<_> = rust_files()
        .into_iter()
        .filter(|(name, text)| {
            shipped(text).lines().count() > FILE_LINES && !is_for_tests(name) && !LONG_FILES.iter().any(|(listed, _)| listed == name)
        })
        .map(|(name, text)| format!("{name}: {} lines", shipped(&text).lines().count()))
        .collect();
    assert!(long.is_empty(), "does each hold two things?\n{}", long.join("\n"));
}

#[test]
fn tests_are_never_switched_off() {
    // A test that does not run is not a test.
    let mark = concat!("#[", "ignore");
    let off: Vec<_> = rust_files().into_iter().filter(|(_, text)| text.contains(mark)).map(|(name, _)| name).collect();
    assert!(off.is_empty(), "{off:?}");
}

#[test]
fn no_dependency_brings_a_second_tls_stack_or_a_foreign_licence() {
    // One crypto provider (ring): with two of them rustls panics at first use. Licences are those of deny.toml.
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .expect("cargo runs, it started this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let allowed = [
        "MIT",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "ISC",
        "Zlib",
        "Unicode-3.0",
        "0BSD",
        "Unlicense",
        "CC0-1.0",
        "CDLA-Permissive-2.0",
        "BSL-1.0",
        "MIT-0",
    ];
    let mut broken = BTreeSet::new();
    let nodes: BTreeSet<&str> = metadata["resolve"]["nodes"].as_array().into_iter().flatten().filter_map(|n| n["id"].as_str()).collect();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let (name, id) = (package["name"].as_str().unwrap_or_default(), package["id"].as_str().unwrap_or_default());
        if !nodes.contains(id) {
            continue;
        }
        if ["aws-lc-sys", "aws-lc-rs", "openssl-sys", "native-tls"].contains(&name) {
            broken.insert(format!("{name} is banned"));
        }
        let licence = package["license"].as_str().unwrap_or("none");
        // Enough that one side of every OR is allowed; AND parts are each looked at.
        let fine = licence.split(" AND ").all(|part| {
            part.trim_matches(['(', ')'])
                .split(" OR ")
                .any(|l| allowed.contains(&l.trim_matches(['(', ')', ' ']).trim_end_matches(" WITH LLVM-exception")))
                || part.split('/').any(|l| allowed.contains(&l.trim()))
        });
        if !fine {
            broken.insert(format!("{name}: licence {licence}"));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_documents_name_the_commands_that_work() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let readme = read("README.md");
    assert!(readme.contains("cargo run --release -- run --demo") && readme.contains("./integration-tests/run"));
    assert!(read(".ci/run").contains("integration-tests/run"));
    let architecture = read("ARCHITECTURE.md");
    for name in fs::read_dir(root().join("actors/src")).expect("it is there").flatten() {
        let name = name.file_name().to_string_lossy().trim_end_matches(".rs").to_owned();
        assert!(name == "lib" || architecture.contains(&name), "ARCHITECTURE.md does not mention {name}");
    }
}

#[test]
fn panics_unwind_in_every_profile() {
    // Supervision catches panics; `panic = "abort"` would turn every one into the end of the process.
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("it is there");
    assert!(!manifest.contains("panic ="));
}
