//! The rebuildable index: ordered bytes to bytes.
//!
//! Holds only what the log can rebuild. A commit is atomic, not durable: after a crash the index
//! may be older than the last commit, never torn between two.

use bytes::Bytes;
use std::future::Future;

/// The index failed: an operator sees the text, the code moves the index aside and rebuilds it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the index failed: {what}")]
pub struct KvProblem {
    /// What failed.
    pub what: String,
}

/// Puts and removals that take effect together. A later one of the same key wins.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KvBatch {
    /// Key, and value or removal, in order of the keys.
    pub rows: std::collections::BTreeMap<Bytes, Option<Bytes>>,
}

impl KvBatch {
    /// Sets a row.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.rows.insert(key.into(), Some(value.into()));
    }

    /// Removes a row.
    pub fn remove(&mut self, key: impl Into<Bytes>) {
        self.rows.insert(key.into(), None);
    }
}

/// An ordered index. Cheap to clone; all clones are the same index.
pub trait Kv: Clone + Send + Sync + 'static {
    /// The value of a key.
    ///
    /// # Errors
    /// [`KvProblem`].
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvProblem>;
    /// Rows with `from <= key < to`, in order, at most `limit`.
    ///
    /// # Errors
    /// [`KvProblem`].
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, KvProblem>;
    /// Applies a batch, all or nothing.
    ///
    /// # Errors
    /// [`KvProblem`].
    fn commit(&self, batch: KvBatch) -> Result<(), KvProblem>;
    /// Writes out what was committed, as far as the index can; used at shutdown and checkpoints.
    fn flush(&self) -> impl Future<Output = Result<(), KvProblem>> + Send;
}

/// The first key after all keys that start with `prefix`.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![u8::MAX; 64]
}
