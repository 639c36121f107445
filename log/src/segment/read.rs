//! [driver] Reading entries back, and remembering that one was damaged.

use super::core::Found;
use super::record::Place;
use super::store::damaged;
use super::{SegmentLog, SegmentProblem};
use crate::env::Env;
use aber_proto::{ChainHash, Entry, LogId, PartitionId};
use std::sync::{MutexGuard, PoisonError};

impl<E: Env> SegmentLog<E> {
    /// Entries from `from` on below `to_exclusive`, consecutive, about `max_bytes` at most but at
    /// least one if it is here. Checksums are checked (promise I2). Empty if `from` is not here.
    ///
    /// # Errors
    /// `Damaged`, `Disk`.
    pub fn read(
        &self,
        partition: PartitionId,
        from: u64,
        to_exclusive: u64,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, SegmentProblem> {
        let read = self.read_entries(partition, from..to_exclusive, max_bytes);
        if let Err(problem @ SegmentProblem::Damaged { .. }) = &read {
            let mut damage = self.damage_lock();
            damage.get_or_insert_with(|| problem.clone());
        }
        read
    }

    /// The first damage that a read has met since the log was opened.
    #[must_use]
    pub fn damage(&self) -> Option<SegmentProblem> {
        self.damage_lock().clone()
    }

    fn damage_lock(&self) -> MutexGuard<'_, Option<SegmentProblem>> {
        let damage = &self.shared.damage;
        damage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_entries(
        &self,
        partition: PartitionId,
        range: std::ops::Range<u64>,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, SegmentProblem> {
        let found = self
            .shared
            .core()
            .find(partition, range.start, range.end, max_bytes);
        let places: Vec<Place> = found
            .iter()
            .filter_map(|found| match found {
                Found::At(_, place) => Some(*place),
                Found::Entry(_) => None,
            })
            .collect();
        let mut bytes = self.shared.store.read_all(&places)?.into_iter();
        let mut entries = Vec::with_capacity(found.len());
        for found in found {
            entries.push(match found {
                Found::Entry(entry) => entry,
                Found::At(index, place) => {
                    let entry = Entry::decode(&bytes.next().unwrap_or_default());
                    let entry = entry.map_err(|problem| damaged(&place, &problem.to_string()))?;
                    if entry.partition != partition || entry.log_id.index != index {
                        return Err(damaged(&place, "another entry stands there"));
                    }
                    entry
                }
            });
        }
        Ok(entries)
    }

    /// Log id and chain hash at an index: of the entry, or of the purge pointer.
    ///
    /// # Errors
    /// `Damaged`, `Disk`.
    pub fn chain_at(
        &self,
        partition: PartitionId,
        index: u64,
    ) -> Result<Option<(LogId, ChainHash)>, SegmentProblem> {
        let pointer = self.shared.core().pointer_at(partition, index);
        if pointer.is_some() {
            return Ok(pointer);
        }
        let entries = self.read(partition, index, index.saturating_add(1), 0)?;
        Ok(entries.first().map(|entry| (entry.log_id, entry.chain)))
    }
}
