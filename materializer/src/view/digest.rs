//! [pure] The digest of a view: equal for equal rows, whatever the way to them (promise M4).
//!
//! Each row is hashed with its key and added to one of 256 buckets, which its key's hash picks; a
//! bucket is a sum of four wrapping u64. So a row that changes costs one subtraction and one
//! addition, and the order does not matter. The root is a hash over the buckets. It tells honest
//! nodes apart that differ by accident; against forgery stand the chain and signed heads.

use super::table::{self, Table};
use aber_log::env::Kv;
use aber_log::env::kv::{KvBatch, KvProblem, prefix_end};
use aber_proto::{PartitionId, ViewDigest};
use std::collections::BTreeSet;

const ROW_KEY: &[u8; 32] = b"aber 2026 view digest row v1 \0\0\0";

/// Buckets, summed over rows.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Buckets {
    sums: Vec<[u64; 4]>,
    dirty: BTreeSet<u8>,
}

impl Buckets {
    pub(crate) fn new() -> Self {
        Self {
            sums: vec![[0; 4]; 256],
            dirty: BTreeSet::new(),
        }
    }

    /// The buckets as stored.
    pub(crate) fn read<K: Kv>(kv: &K, partition: PartitionId) -> Result<Self, KvProblem> {
        let prefix = table::table_key(partition, Table::Bucket);
        let mut buckets = Self::new();
        for (key, value) in kv.scan(&prefix, &prefix_end(&prefix), 256)? {
            let place = key.get(table::PREFIX_BYTES).map(|byte| usize::from(*byte));
            let sum = place.and_then(|place| buckets.sums.get_mut(place));
            let found = sum.zip(from_bytes(&value));
            let (sum, value) = found.ok_or_else(|| table::damaged(&key))?;
            *sum = value;
        }
        Ok(buckets)
    }

    pub(crate) fn add(&mut self, key: &[u8], value: &[u8]) {
        self.change(key, value, u64::wrapping_add);
    }

    pub(crate) fn subtract(&mut self, key: &[u8], value: &[u8]) {
        self.change(key, value, u64::wrapping_sub);
    }

    fn change(&mut self, key: &[u8], value: &[u8], operation: fn(u64, u64) -> u64) {
        let mut hasher = blake3::Hasher::new_keyed(ROW_KEY);
        hasher.update(&(key.len() as u64).to_le_bytes());
        hasher.update(key).update(value);
        let Some(row) = from_bytes(hasher.finalize().as_bytes()) else {
            return;
        };
        let bucket = bucket_of(key);
        if let Some(sum) = self.sums.get_mut(usize::from(bucket)) {
            for (part, add) in sum.iter_mut().zip(row) {
                *part = operation(*part, add);
            }
            self.dirty.insert(bucket);
        }
    }

    /// Writes the buckets that changed since they were read or last written. One of no rows has no
    /// row itself, so that equal views are equal rows.
    pub(crate) fn write_changed(&mut self, partition: PartitionId, batch: &mut KvBatch) {
        for bucket in std::mem::take(&mut self.dirty) {
            let key = table::bucket_key(partition, bucket);
            match self.sums.get(usize::from(bucket)) {
                Some(sum) if *sum != [0; 4] => batch.put(key, to_bytes(sum).to_vec()),
                _ => batch.remove(key),
            }
        }
    }

    pub(crate) fn digest(&self) -> ViewDigest {
        let mut hasher = blake3::Hasher::new_derive_key("aber 2026 view digest v1");
        for sum in &self.sums {
            hasher.update(&to_bytes(sum));
        }
        ViewDigest(*hasher.finalize().as_bytes())
    }
}

/// A row keeps its bucket when its value changes, so that a difference can be narrowed down.
fn bucket_of(key: &[u8]) -> u8 {
    let [first, ..] = *blake3::hash(key).as_bytes();
    first
}

fn to_bytes(sum: &[u64; 4]) -> [u8; 32] {
    let mut bytes = [0; 32];
    let (parts, _) = bytes.as_chunks_mut::<8>();
    for (part, value) in parts.iter_mut().zip(sum) {
        *part = value.to_le_bytes();
    }
    bytes
}

fn from_bytes(bytes: &[u8]) -> Option<[u64; 4]> {
    let (parts, rest) = bytes.as_chunks::<8>();
    let parts: &[[u8; 8]; 4] = parts.try_into().ok().filter(|_| rest.is_empty())?;
    Some(parts.map(u64::from_le_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// M4: the digest depends on the rows alone, not on the way to them.
        #[test]
        fn order_and_detours_do_not_matter(
            rows in proptest::collection::btree_map(
                proptest::collection::vec(any::<u8>(), 0..8), any::<Vec<u8>>(), 0..20),
            detour: Vec<u8>,
        ) {
            let mut one = Buckets::new();
            let mut other = Buckets::new();
            for (key, value) in &rows {
                one.add(key, value);
            }
            for (key, value) in rows.iter().rev() {
                other.add(key, &detour);
                other.add(key, value);
                other.subtract(key, &detour);
            }
            prop_assert_eq!(one.digest(), other.digest());
            other.add(b"more", b"");
            prop_assert_ne!(one.digest(), other.digest());
        }
    }
}
