//! Growth policy of tables and lists that limits unused memory.
//!
//! Doubling leaves a table half empty. The large tables have an entry for each connection, user or
//! thread and grow by a quarter; a list that has become short releases its spare memory.

use slab::Slab;
use smallvec::SmallVec;

/// A list that usually has one or two entries, which are stored without a heap allocation.
pub(super) type SmallList<T> = SmallVec<[T; 2]>;

/// Extends a table so that it has an entry for this connection slot.
pub(super) fn ensure_slot<T: Default>(table: &mut Vec<T>, slot: u32) {
    let (len, needed) = (table.len(), slot as usize + 1);
    if needed > table.capacity() {
        table.reserve_exact(needed - len + len / 4);
    }
    if needed > len {
        table.resize_with(needed, T::default);
    }
}

/// Inserts an entry and returns its place.
pub(super) fn insert<T>(table: &mut Slab<T>, entry: T) -> u32 {
    let len = table.len();
    if len == table.capacity() {
        table.reserve_exact(len / 4 + 4);
    }
    table.insert(entry) as u32
}

/// Releases spare memory when a list has shrunk to a quarter of its capacity.
pub(super) fn shrink<T>(list: &mut SmallList<T>) {
    if list.spilled() && list.len() * 4 <= list.capacity() {
        list.grow(list.len() * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_table_keeps_at_most_a_fifth_spare() {
        let (mut table, mut slab) = (Vec::<u32>::new(), Slab::new());
        for slot in 0..20_000 {
            ensure_slot(&mut table, slot);
            insert(&mut slab, slot);
            if slot >= 100 {
                assert!(table.capacity() - table.len() <= table.capacity() / 5, "{slot}");
                assert!(slab.capacity() - slab.len() <= slab.capacity() / 5 + 4, "{slot}");
            }
        }
        ensure_slot(&mut table, 5);
        assert_eq!(table.len(), 20_000, "an earlier slot does not change the length");
    }

    #[test]
    fn shrunk_list_returns_to_inline_storage() {
        let mut list: SmallList<u64> = (0..1_000).collect();
        while list.len() > 1 {
            list.pop();
            shrink(&mut list);
            assert!(list.capacity() <= (list.len() * 4).max(2), "{}", list.len());
        }
        assert!(!list.spilled());
        assert_eq!(list.as_slice(), [0]);
    }
}
