//! [pure] The past from before a snapshot: told once all entries are here.
//!
//! A view that began with a snapshot knows what is, not what was. When the entries that the snapshot
//! skipped have come back, they are folded once more from the genesis, beside the view: rows of the
//! present go to a place of their own and are removed in the end; rows of the past, versions and
//! chunk references go where a view that had replayed all of it would have put them. Then every
//! moment reads the same here as on a node that was there from the beginning (promise I3).
//!
//! The fold ends with the view that the snapshot was. Another digest proves that the snapshot said
//! what the log does not give (promise M4): the index is to be rebuilt, from the log this time.
//!
//! Invariant: until the last commit history starts at the snapshot, and no moment before it is told;
//! what is written is of entries up to it, which no moment after it reads.

use super::outcome::Verdict;
use super::past::{self, PastTable, StartRow};
use super::table::{self, Row, Table};
use super::{View, ViewProblem};
use crate::members::Members;
use aber_log::env::Kv;
use aber_log::env::kv::{KvBatch, KvProblem, prefix_end};
use aber_proto::{Entry, Genesis, PartitionId};
use bytes::Bytes;
use std::sync::Arc;

/// First byte of every key of a view that is folded beside the present one; the view's key follows.
pub(crate) const ASIDE: u8 = b'B';
/// Rows removed in one commit.
const BATCH_ROWS: usize = 1024;

/// What keys of a partition's view beside the present one start with.
pub(crate) fn aside_prefix(partition: PartitionId) -> Vec<u8> {
    beside(&table::view_prefix(partition))
}

fn beside(key: &[u8]) -> Vec<u8> {
    [&[ASIDE], key].concat()
}

fn is_of_view(key: &[u8]) -> bool {
    key.first() == Some(&table::VIEW)
}

/// The index, with the rows of the view elsewhere.
#[derive(Clone)]
struct Aside<K>(K);

impl<K: Kv> Kv for Aside<K> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvProblem> {
        match is_of_view(key) {
            true => self.0.get(&beside(key)),
            false => self.0.get(key),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, KvProblem> {
        if !is_of_view(from) {
            return self.0.scan(from, to, limit);
        }
        let rows = self.0.scan(&beside(from), &beside(to), limit)?;
        let plain = rows.into_iter();
        Ok(plain.map(|(key, value)| (key.slice(1..), value)).collect())
    }

    fn commit(&self, batch: KvBatch) -> Result<(), KvProblem> {
        let mut split = KvBatch::default();
        for (key, value) in batch.rows {
            if !is_of_view(&key) {
                split.rows.insert(key, value);
                continue;
            }
            // A fold writes versions once, and never takes one back: they are the past, too.
            let is_version = matches!(Table::of(&key), Some(Table::Version | Table::VersionFile));
            if is_version {
                split.rows.insert(key.clone(), value.clone());
            }
            split.rows.insert(beside(&key).into(), value);
        }
        self.0.commit(split)
    }

    fn flush(&self) -> impl Future<Output = Result<(), KvProblem>> + Send {
        self.0.flush()
    }
}

/// Why the past cannot be told.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BackfillProblem {
    /// The index failed, or an entry does not follow.
    #[error(transparent)]
    View(#[from] ViewProblem),
    /// The snapshot that the view began with is not what the log gives.
    #[error(
        "the snapshot that partition {partition} began with, at index {index}, is not what its log gives"
    )]
    OtherView {
        /// Of which partition.
        partition: PartitionId,
        /// The last entry that the snapshot covers.
        index: u64,
    },
}

impl From<KvProblem> for BackfillProblem {
    fn from(problem: KvProblem) -> Self {
        Self::View(problem.into())
    }
}

/// A second fold of a partition, up to where its view began.
pub struct Backfill<K: Kv> {
    kv: K,
    view: View<Aside<K>>,
    start: StartRow,
}

impl<K: Kv> Backfill<K> {
    /// Goes on where an earlier one was; `None` if the view began with the first entry, or has been
    /// told of what came before. Then what one left is removed.
    ///
    /// # Errors
    /// The index failed.
    pub fn of(present: &View<K>, genesis: &Genesis) -> Result<Option<Self>, BackfillProblem> {
        let (kv, partition) = (present.kv.clone(), present.partition);
        let key = past::past_table(partition, PastTable::Start);
        let Some(value) = kv.get(&key)? else {
            remove_all(&kv, &aside_prefix(partition), &[])?;
            return Ok(None);
        };
        let start = StartRow::decode(&key, &value).map_err(|_| table::damaged(&key))?;
        let mut view = View::open(Aside(kv.clone()), partition, genesis)?;
        view.compare_every(present.digest_every);
        Ok(Some(Self { kv, view, start }))
    }

    /// The entry it needs next.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.view.applied_index().map_or(0, |index| index + 1)
    }

    /// The members as of the entry before that; of the control partition alone.
    #[must_use]
    pub fn members(&self) -> Option<&Arc<Members>> {
        self.view.members()
    }

    /// Folds entries from [`Backfill::next`] on, each with the reader's verdict; whether that was
    /// the last. What is beyond the snapshot is left out.
    ///
    /// # Errors
    /// See [`BackfillProblem`]. After `OtherView` the index is to be rebuilt.
    pub fn apply(&mut self, mut entries: Vec<(Entry, Verdict)>) -> Result<bool, BackfillProblem> {
        entries.retain(|(entry, _)| entry.log_id.index <= self.start.index);
        let every = self.view.digest_every;
        let ends = |(entry, _): &(Entry, Verdict)| entry.log_id.index.is_multiple_of(every);
        for part in entries.split_inclusive(ends) {
            self.view.apply_batch(part, KvBatch::default())?;
        }
        if self.view.applied_index() < Some(self.start.index) {
            return Ok(false);
        }
        let partition = self.view.partition();
        if self.view.digest() != self.start.digest {
            let index = self.start.index;
            return Err(BackfillProblem::OtherView { partition, index });
        }
        let mut batch = KvBatch::default();
        batch.remove(past::past_table(partition, PastTable::Start));
        self.kv.commit(batch)?;
        remove_all(&self.kv, &aside_prefix(partition), &[])?;
        Ok(true)
    }
}

/// Takes all rows under a prefix away, but one.
pub(crate) fn remove_all<K: Kv>(kv: &K, prefix: &[u8], stays: &[u8]) -> Result<(), KvProblem> {
    let (mut from, to) = (prefix.to_vec(), prefix_end(prefix));
    loop {
        let page = kv.scan(&from, &to, BATCH_ROWS)?;
        let Some((last, _)) = page.last() else {
            return Ok(());
        };
        from = [last, [0].as_slice()].concat();
        let mut batch = KvBatch::default();
        for (key, _) in page {
            if key != stays {
                batch.remove(key);
            }
        }
        kv.commit(batch)?;
    }
}
