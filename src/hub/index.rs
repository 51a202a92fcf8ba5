//! Hash index that finds a table entry by its key without storing the key a second time.
//!
//! The index holds only the entry's place in the table and one byte of its hash. The hash is keyed
//! (like that of the standard library's map), because clients choose the keys.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::protocol::IdKey;

/// Places of a table's entries by their keys.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: HashTable<u32>,
    hasher: RandomState,
}

impl Index {
    /// Returns the place of this key's entry.
    pub(super) fn find<'a>(&self, key: &IdKey, key_at: impl Fn(u32) -> &'a IdKey) -> Option<u32> {
        let found = self.entries.find(hash(&self.hasher, key), |ix| key_at(*ix) == key);
        found.copied()
    }

    /// Adds the place of a key that is not in the index.
    pub(super) fn insert<'a>(&mut self, ix: u32, key_at: impl Fn(u32) -> &'a IdKey) {
        let hash_at = |ix: &u32| hash(&self.hasher, key_at(*ix));
        self.entries.insert_unique(hash_at(&ix), ix, hash_at);
    }

    /// Removes a key.
    pub(super) fn remove(&mut self, ix: u32, key: &IdKey) {
        let found = self.entries.find_entry(hash(&self.hasher, key), |other| *other == ix);
        debug_assert!(found.is_ok(), "an entry is removed once");
        if let Ok(found) = found {
            found.remove();
        }
    }

    /// Returns how many entries there are.
    pub(super) fn count(&self) -> usize {
        self.entries.len()
    }
}

fn hash(hasher: &RandomState, key: &IdKey) -> u64 {
    match key {
        IdKey::Number(number) => hasher.hash_one(number),
        IdKey::Text(text) => hasher.hash_one(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_found_until_removed() {
        let keys: Vec<IdKey> = (0..1_000)
            .map(|n| match n % 2 {
                0 => IdKey::Number(n),
                _ => IdKey::Text(format!("user {n}").into()),
            })
            .collect();
        let key_at = |ix: u32| &keys[ix as usize];
        let mut index = Index::default();
        for ix in 0..1_000 {
            assert_eq!(index.find(key_at(ix), key_at), None);
            index.insert(ix, key_at);
        }
        for ix in (0..1_000).step_by(3) {
            index.remove(ix, key_at(ix));
        }
        for ix in 0..1_000 {
            let there = (ix % 3 != 0).then_some(ix);
            assert_eq!(index.find(key_at(ix), key_at), there);
        }
        assert_eq!(index.count(), 666);
    }

    #[test]
    fn two_tables_hash_differently() {
        let (one, other) = (Index::default(), Index::default());
        let key = IdKey::Number(7);
        assert_ne!(
            hash(&one.hasher, &key),
            hash(&other.hasher, &key),
            "a client could predict the hash"
        );
    }
}
