//! [driver] Committed entries as history: given to other nodes, and taken back from them.
//!
//! A node that installed a snapshot lacks what came before it, and a damaged entry is as good as
//! lost. Both come back from any node that has them, backwards: the chain hash before an entry that
//! is here proves the entry before it, so nobody needs to be believed (promise I2).

use super::record::history_bytes;
use super::{PartitionState, SegmentLog, SegmentProblem};
use crate::env::Env;
use aber_proto::{ChainHash, Entry, EntryProblem, PartitionId, limit};

/// Entries of a stretch at most.
const STRETCH_ENTRIES: u64 = 256;

/// Consecutive entries, with the chain hash before them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// The chain hash before the first entry.
    pub previous: ChainHash,
    /// The entries.
    pub entries: Vec<Entry>,
}

impl Stretch {
    /// Checks that these are the entries of a partition right before `end`, whose own chain starts
    /// at `chain`.
    ///
    /// # Errors
    /// They are not.
    pub fn verify(
        &self,
        partition: PartitionId,
        end: u64,
        chain: &ChainHash,
    ) -> Result<(), EntryProblem> {
        let broken = || EntryProblem::ChainBroken {
            index: end.saturating_sub(1),
        };
        let count = u64::try_from(self.entries.len()).unwrap_or(u64::MAX);
        let first = end.checked_sub(count).ok_or_else(broken)?;
        let mut last = self.previous;
        for (index, entry) in (first..).zip(&self.entries) {
            if entry.partition != partition || entry.log_id.index != index {
                return Err(broken());
            }
            entry.verify(&last)?;
            last = entry.chain;
        }
        if last == *chain && !self.entries.is_empty() {
            Ok(())
        } else {
            Err(broken())
        }
    }

    /// Without the entries before `index`; all of them if none would be left.
    #[must_use]
    pub fn starting_at(mut self, index: u64) -> Self {
        let gone = self
            .entries
            .iter()
            .take_while(|entry| entry.log_id.index < index)
            .count();
        if gone < self.entries.len() {
            for entry in self.entries.drain(..gone) {
                self.previous = entry.chain;
            }
        }
        self
    }

    /// Leaves out the oldest entries until the rest takes `max_bytes` at most, but one.
    fn shorten(&mut self, max_bytes: usize) {
        let mut bytes: usize = self.entries.iter().map(history_bytes).sum();
        let mut gone = 0;
        for entry in &self.entries {
            if bytes <= max_bytes || gone + 1 == self.entries.len() {
                break;
            }
            bytes -= history_bytes(entry);
            self.previous = entry.chain;
            gone += 1;
        }
        self.entries.drain(..gone);
    }
}

impl<E: Env> SegmentLog<E> {
    /// The entries right before `end`, as many as go into `max_bytes` but at least one; `None` if
    /// the one before `end` is not here.
    ///
    /// # Errors
    /// `Damaged`, `Disk`.
    pub fn stretch(
        &self,
        partition: PartitionId,
        end: u64,
        max_bytes: usize,
    ) -> Result<Option<Stretch>, SegmentProblem> {
        let state = self.state(partition);
        let oldest = state.first.max(state.oldest.unwrap_or(u64::MAX));
        let mut from = oldest.max(end.saturating_sub(STRETCH_ENTRIES));
        // What is read goes on from its start, and it is the end that is wanted.
        while from < end {
            let entries = self.read(partition, from, end, max_bytes.max(1))?;
            let reaches = entries
                .last()
                .is_some_and(|last| last.log_id.index + 1 == end);
            if reaches {
                let previous = self.chain_before(partition, from)?;
                let stretch = previous.map(|previous| Stretch { previous, entries });
                return Ok(stretch);
            }
            from = (from + end).div_ceil(2).max(from + 1);
        }
        Ok(None)
    }

    /// Entries right before `end`, which is the oldest one here: some that were here before a
    /// snapshot took their place, where they are of the same chain. No other node is needed then.
    #[must_use]
    pub fn kept(&self, partition: PartitionId, max_bytes: usize) -> Option<Stretch> {
        let PartitionState { first, below, .. } = self.state(partition);
        let from = first.saturating_sub(STRETCH_ENTRIES);
        let found = self
            .shared
            .core()
            .find_kept(partition, from..first, max_bytes);
        // Damaged ones are as good as none.
        let mut entries = self.load(partition, found).ok()?;
        let start = ChainHash::genesis(&self.shared.identity.cluster, partition);
        let oldest = entries.first()?;
        let previous = if oldest.verify(&start).is_ok() {
            start
        } else {
            // What came before it is not here; it tells what comes before the next one.
            entries.remove(0).chain
        };
        let stretch = Stretch { previous, entries };
        stretch.verify(partition, first, &below).ok()?;
        Some(stretch)
    }

    /// The chain hash before the entry at `index`.
    fn chain_before(
        &self,
        partition: PartitionId,
        index: u64,
    ) -> Result<Option<ChainHash>, SegmentProblem> {
        let state = self.state(partition);
        if index == state.first {
            return Ok(Some(state.below));
        }
        let Some(before) = index.checked_sub(1) else {
            return Ok(None);
        };
        if before < state.first {
            return Ok(None);
        }
        Ok(self.chain_at(partition, before)?.map(|(_, chain)| chain))
    }

    /// Puts entries back that were verified: below the oldest entry here, or in place of damaged
    /// ones. Durable on return.
    ///
    /// # Errors
    /// `Contradiction` if they do not fit, `Poisoned`, `Closed`.
    pub async fn restore(
        &self,
        partition: PartitionId,
        mut stretch: Stretch,
    ) -> Result<(), SegmentProblem> {
        // A record is bounded by its segment; what is left out is asked for again.
        stretch.shorten(self.shared.limits.frame_bytes / 2);
        let Stretch { previous, entries } = stretch;
        self.durably(|core, done| core.history(partition, previous, entries, done))
            .await
    }
}

/// Bytes of entries in one answer to another node.
pub const STRETCH_BYTES: usize = limit::MESSAGE_BYTES / 4;
