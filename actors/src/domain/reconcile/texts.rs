//! Each different text of a reconciliation once, behind a number of four bytes: a million rows name two million ids, and comparing or
//! looking one up is then a matter of integers. Used by `reconcile` only. A number says nothing about order: it is the order of arrival,
//! so nothing that is written out may be sorted by it.

use hashbrown::{DefaultHashBuilder, HashTable};
use std::{hash::BuildHasher, num::NonZeroU32};

/// Stands for a text of one [`Texts`]: equal texts have equal names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name(NonZeroU32);

impl Name {
    /// From 0, without gaps: for tables by name.
    pub(super) fn index(self) -> usize {
        self.0.get() as usize - 1
    }

    fn at(index: usize) -> Self {
        let number = u32::try_from(index + 1).ok().and_then(NonZeroU32::new);
        Self(number.expect("four thousand million different ids do not fit into memory"))
    }
}

/// The texts, one after the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Texts {
    bytes: String,
    /// Where each text ends; it begins where the one before ends.
    ends: Vec<usize>,
    table: HashTable<Name>,
    hasher: DefaultHashBuilder,
}

impl Texts {
    /// The text's name; a new one if it was not there.
    pub(super) fn name(&mut self, text: &str) -> Name {
        let Self { bytes, ends, table, hasher } = self;
        let hash = hasher.hash_one(text);
        let entry = table.entry(hash, |name| slice(bytes, ends, *name) == text, |name| hasher.hash_one(slice(bytes, ends, *name)));
        match entry {
            hashbrown::hash_table::Entry::Occupied(there) => *there.get(),
            hashbrown::hash_table::Entry::Vacant(free) => {
                let name = Name::at(ends.len());
                free.insert(name);
                bytes.push_str(text);
                ends.push(bytes.len());
                name
            }
        }
    }

    pub(super) fn get(&self, name: Name) -> &str {
        slice(&self.bytes, &self.ends, name)
    }

    /// How many there are: every `Name::index` is below it.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// All names, in no order that means anything.
    pub(super) fn names(&self) -> impl Iterator<Item = Name> + use<> {
        (0..self.len()).map(Name::at)
    }
}

fn slice<'a>(bytes: &'a str, ends: &[usize], name: Name) -> &'a str {
    let at = name.index();
    let start = if at == 0 { 0 } else { ends[at - 1] };
    &bytes[start..ends[at]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_have_equal_names_and_say_what_they_said() {
        let mut texts = Texts::default();
        let names: Vec<Name> = (0..5000).map(|n| texts.name(&format!("txn_{}", n % 2500))).collect();
        assert_eq!((texts.len(), names[7] == names[2507], names[7] == names[8]), (2500, true, false));
        assert!(names.iter().enumerate().all(|(n, name)| texts.get(*name) == format!("txn_{}", n % 2500)));
        let empty = texts.name("");
        assert_eq!((texts.get(empty), texts.names().count()), ("", 2501));
    }
}
