//! What is different between two archives, from their tables of contents alone.

use std::collections::BTreeMap;

use crate::{
    entry::{Entry, Type},
    error::Result,
    read::{Archive, ReadAt},
};

/// One name that is not the same in both.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    pub path: String,
    /// `added`, `removed`, `changed` (its content or kind) or `metadata` (owner, mode or time alone).
    pub change: &'static str,
    /// Bytes before and after; null where it is not there.
    pub before: Option<u64>,
    pub after: Option<u64>,
}

/// Every name that is not the same in both archives, by name.
pub fn diff<A: ReadAt, B: ReadAt>(before: &Archive<A>, after: &Archive<B>) -> Result<Vec<Difference>> {
    let mut old: BTreeMap<String, Entry> = BTreeMap::new();
    for entry in before.entries() {
        let entry = entry?;
        old.insert(entry.path.clone(), entry);
    }
    let mut found = Vec::new();
    for entry in after.entries() {
        let new = entry?;
        let change = match old.remove(&new.path) {
            None => ("added", None),
            Some(old) => match compare(&old, &new) {
                Some(change) => (change, Some(old.size)),
                None => continue,
            },
        };
        found.push(Difference { path: new.path, change: change.0, before: change.1, after: Some(new.size) });
    }
    found.extend(old.into_values().map(|e| Difference { path: e.path, change: "removed", before: Some(e.size), after: None }));
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn compare(old: &Entry, new: &Entry) -> Option<&'static str> {
    // A file with several names is archived under the first: which one that is, is no change.
    let is_file = |e: &Entry| matches!(e.kind, Type::File | Type::Link);
    let same_content = old.kind == new.kind && old.blake3 == new.blake3 && old.link == new.link;
    let other_first_name = is_file(old) && is_file(new) && old.kind != new.kind && (old.mtime, old.ns) == (new.mtime, new.ns);
    if !same_content && !other_first_name {
        return Some("changed");
    }
    let metadata = |e: &Entry| (e.mode, e.uid, e.gid, e.mtime, e.ns);
    (metadata(old) != metadata(new)).then_some("metadata")
}
