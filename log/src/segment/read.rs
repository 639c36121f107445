//! [driver] Reading entries back, and remembering that one was damaged.

use super::core::Found;
use super::record::Place;
use super::store::damaged;
use super::{SegmentLog, SegmentProblem};
use crate::env::{Env, Runtime};
use crate::watch::Watched;
use aber_proto::{ChainHash, Entry, LogId, PartitionId};
use std::ops::Range;
use std::time::Duration;

/// How long a read waits for damage to be mended.
const MEND_TIME: Duration = Duration::from_secs(30);

/// An entry that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Its partition.
    pub partition: PartitionId,
    /// Its index.
    pub index: u64,
    /// What a read met.
    pub problem: SegmentProblem,
    /// There is no other node that could have it.
    pub is_final: bool,
}

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
            self.note_damage(partition, from..to_exclusive, problem);
        }
        read
    }

    /// Like [`SegmentLog::read`], but damage is waited for a while: another node may have what is
    /// damaged here (promise D5).
    ///
    /// # Errors
    /// `Damaged`, `Disk`.
    pub async fn read_mended(
        &self,
        partition: PartitionId,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, SegmentProblem> {
        let patience = async {
            loop {
                match self.read(partition, range.start, range.end, max_bytes) {
                    Err(SegmentProblem::Damaged { .. }) => {}
                    other => return other,
                }
                let mut damage = self.shared.damage.clone();
                let settled = |damage: &Option<Damage>| damage.as_ref().is_none_or(|d| d.is_final);
                if damage.until(settled).await.is_some() {
                    return self.read(partition, range.start, range.end, max_bytes);
                }
            }
        };
        let runtime = self.shared.env.runtime();
        match runtime.timeout(MEND_TIME, patience).await {
            Some(read) => read,
            None => self.read(partition, range.start, range.end, max_bytes),
        }
    }

    /// Damage that a read has met and nobody has mended.
    #[must_use]
    pub fn damage(&self) -> Option<Damage> {
        self.shared.damage.get()
    }

    /// The same, to be waited for.
    #[must_use]
    pub fn watch_damage(&self) -> Watched<Option<Damage>> {
        self.shared.damage.clone()
    }

    /// What was damaged can be read again.
    pub fn is_mended(&self) {
        self.shared.damage.set(None);
    }

    /// What is damaged stays so: nobody else has it.
    pub fn is_lost(&self) {
        let damage = &self.shared.damage;
        damage.update(|damage| {
            if let Some(damage) = damage {
                damage.is_final = true;
            }
        });
    }

    fn note_damage(&self, partition: PartitionId, range: Range<u64>, problem: &SegmentProblem) {
        // Reads go over entries that stand together: which of them it is decides what is asked for.
        let found = self.shared.core().find(partition, range, usize::MAX);
        let index = found.iter().find_map(|found| match found {
            Found::At(index, place) => self.shared.store.read(*place).err().map(|_| *index),
            Found::Entry(_) => None,
        });
        let Some(index) = index else {
            return;
        };
        let problem = problem.clone();
        self.shared.damage.update(|damage| {
            damage.get_or_insert(Damage {
                partition,
                index,
                problem,
                is_final: false,
            });
        });
    }

    fn read_entries(
        &self,
        partition: PartitionId,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, SegmentProblem> {
        let found = self.shared.core().find(partition, range, max_bytes);
        self.load(partition, found)
    }

    /// Reads what was found.
    pub(super) fn load(
        &self,
        partition: PartitionId,
        found: Vec<Found>,
    ) -> Result<Vec<Entry>, SegmentProblem> {
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
