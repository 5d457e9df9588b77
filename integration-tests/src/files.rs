//! Looking at what the daemon leaves on disk.

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::Value as Json;

/// A file of JSON that must be there.
#[track_caller]
pub fn json_file(path: &Path) -> Json {
    let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{} is not JSON: {e}", path.display()))
}

/// A history: one whole JSON object a line, with a newline at its end.
#[track_caller]
pub fn json_lines(path: &Path) -> Vec<Json> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(text.is_empty() || text.ends_with('\n'), "{} ends in the middle of a line", path.display());
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{}: {e}: {line}", path.display()))).collect()
}

/// Every file below `root` by its path relative to it, with its bytes.
pub fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    walk(root, &mut |path| {
        if let (Ok(relative), Ok(bytes)) = (path.strip_prefix(root), std::fs::read(path)) {
            found.insert(relative.to_string_lossy().into_owned(), bytes);
        }
    });
    found
}

/// Every path below `root`, files and folders.
pub fn names(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                folders.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The permission bits of a file that must be there.
#[track_caller]
pub fn modes(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).permissions().mode() & 0o777
}

fn walk(root: &Path, visit: &mut dyn FnMut(&Path)) {
    for path in names(root) {
        if path.is_file() {
            visit(&path);
        }
    }
}

/// The files below `root` that hold a text, wherever in them.
#[track_caller]
pub fn files_hold(root: &Path, text: &str) -> Vec<String> {
    let holds = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    tree(root).into_iter().filter(|(_, bytes)| holds(bytes)).map(|(name, _)| name).collect()
}
