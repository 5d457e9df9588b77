//! Lists of numbers by key in two flat tables: which rows have a source, which are in a payout. Used by `reconcile` only, because a
//! million small vectors would take more memory than the rows themselves.

const NONE: u32 = u32::MAX;

/// For each key the items put under it, the last one first.
#[derive(Debug)]
pub(super) struct Chains {
    head: Vec<u32>,
    next: Vec<u32>,
}

impl Chains {
    /// Keys are below `keys`, items below `items`; an item is put under one key at most.
    pub(super) fn new(keys: usize, items: usize) -> Self {
        Self { head: vec![NONE; keys], next: vec![NONE; items] }
    }

    pub(super) fn push(&mut self, key: usize, item: u32) {
        self.next[item as usize] = self.head[key];
        self.head[key] = item;
    }

    pub(super) fn of(&self, key: usize) -> impl Iterator<Item = u32> + '_ {
        let found = |at: u32| (at != NONE).then_some(at);
        std::iter::successors(found(self.head[key]), move |at| found(self.next[*at as usize]))
    }

    pub(super) fn is_empty(&self, key: usize) -> bool {
        self.head[key] == NONE
    }
}

/// An index as it is kept in tables of rows.
pub(super) fn small(index: usize) -> u32 {
    u32::try_from(index).ok().filter(|n| *n != NONE).expect("four thousand million rows do not fit into memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_found_under_their_key_only() {
        let mut chains = Chains::new(3, 10);
        for (key, item) in [(0, 4), (2, 0), (0, 9), (0, 1)] {
            chains.push(key, item);
        }
        let of = |key| chains.of(key).collect::<Vec<u32>>();
        assert_eq!((of(0), of(1), of(2)), (vec![1, 9, 4], vec![], vec![0]));
        assert_eq!((chains.is_empty(1), chains.is_empty(2)), (true, false));
    }
}
