//! [pure] What the records of a log add up to, without the entries.
//!
//! The same transitions run three times: when a call comes in (what readers see), when its frame
//! is durable (what a checkpoint says), and when the log is opened. A checkpoint is the ledger as
//! records: it stands at the start of each segment, so that opening reads one segment only.

use super::Vote;
use super::record::{NoteValue, Record, Written, note_size};
use aber_proto::{ChainHash, ClusterId, Entry, LogId, PartitionId};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Values up to this stand in memory and in each checkpoint; longer ones stay where they are.
pub(super) const INLINE_NOTE_BYTES: usize = 256;

/// The state of one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Marks {
    /// Raft's vote.
    pub vote: Option<Vote>,
    /// The commit index, as far as it was written.
    pub committed: Option<LogId>,
    /// The purge pointer and the chain hash there.
    pub purged: Option<(LogId, ChainHash)>,
    /// The last entry, else the purge pointer.
    pub last: Option<LogId>,
    /// The chain hash at `last`, or where the chain starts.
    pub last_chain: ChainHash,
    /// The oldest index that may be readable.
    pub first: u64,
    /// The chain hash before the entry at `first`.
    pub below: ChainHash,
}

impl Marks {
    /// Those of a partition without a record.
    pub(super) fn new(cluster: &ClusterId, partition: PartitionId) -> Self {
        let start = ChainHash::genesis(cluster, partition);
        Self {
            vote: None,
            committed: None,
            purged: None,
            last: None,
            last_chain: start,
            first: 0,
            below: start,
        }
    }

    /// Whether `entry` may come next: no gap, no falling term, the chain holds (promise I2).
    pub(super) fn check_append(&self, entry: &Entry) -> Result<(), &'static str> {
        let follows = match self.last {
            Some(last) => entry.log_id.index == last.index.saturating_add(1),
            // Raft counts from 0; a log whose owner counts from 1 is as good.
            None => entry.log_id.index <= 1,
        };
        if !follows {
            Err("the index does not follow the last one")
        } else if self.last.is_some_and(|last| entry.log_id.term < last.term) {
            Err("the term falls")
        } else if entry.verify(&self.last_chain).is_err() {
            Err("the chain is broken")
        } else {
            Ok(())
        }
    }

    /// `entry` came next.
    pub(super) fn append(&mut self, entry: &Entry) {
        if self.last.is_none() {
            self.first = entry.log_id.index;
        }
        self.last = Some(entry.log_id);
        self.last_chain = entry.chain;
    }

    /// Entries after `last` are gone; `start` is where the partition's chain starts.
    pub(super) fn truncate(&mut self, last: Option<(LogId, ChainHash)>, start: ChainHash) {
        self.last = last.map(|(log_id, _)| log_id);
        self.last_chain = last.map_or(start, |(_, chain)| chain);
    }

    /// The purge pointer moves; with `is_restart` the log goes on after it.
    pub(super) fn purge(&mut self, upto: LogId, chain: ChainHash, is_restart: bool) {
        self.purged = Some((upto, chain));
        if is_restart {
            self.last = Some(upto);
            self.last_chain = chain;
            self.first = upto.index.saturating_add(1);
            self.below = chain;
        }
    }

    /// Whether these entries, whose chain starts at `previous`, may be put below the oldest entry
    /// or in the place of entries that are there. That the latter are the same entries is known to
    /// who read their neighbours.
    pub(super) fn check_history(
        &self,
        previous: &ChainHash,
        entries: &[Entry],
    ) -> Result<(), &'static str> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Err("no entries");
        };
        let (mut chain, mut index) = (*previous, first.log_id.index);
        for entry in entries {
            if entry.partition != first.partition || entry.log_id.index != index {
                return Err("the entries are not consecutive");
            }
            if entry.verify(&chain).is_err() {
                return Err("the chain is broken");
            }
            (chain, index) = (entry.chain, index.saturating_add(1));
        }
        let is_below = index == self.first;
        let is_within = first.log_id.index >= self.first
            && self
                .last
                .is_some_and(|here| last.log_id.index <= here.index);
        if is_below && chain != self.below {
            Err("the chain does not lead to the oldest entry")
        } else if is_below || is_within {
            Ok(())
        } else {
            Err("the entries do not reach what is here")
        }
    }

    /// Entries came back.
    pub(super) fn history(&mut self, previous: &ChainHash, entries: &[Entry]) {
        if let Some(first) = entries.first().map(|entry| entry.log_id.index)
            && first < self.first
        {
            self.first = first;
            self.below = *previous;
        }
    }
}

/// The state of all partitions, and the notes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Ledger {
    cluster: ClusterId,
    /// By partition.
    pub partitions: BTreeMap<PartitionId, Marks>,
    /// The live notes.
    pub notes: BTreeMap<Bytes, NoteValue>,
    /// Bytes the notes take in a checkpoint.
    pub notes_bytes: usize,
}

impl Ledger {
    /// That of a log without a record.
    pub(super) fn new(cluster: ClusterId) -> Self {
        Self {
            cluster,
            partitions: BTreeMap::new(),
            notes: BTreeMap::new(),
            notes_bytes: 0,
        }
    }

    /// A partition's state.
    pub(super) fn marks(&mut self, partition: PartitionId) -> &mut Marks {
        let cluster = &self.cluster;
        self.partitions
            .entry(partition)
            .or_insert_with(|| Marks::new(cluster, partition))
    }

    /// Applies a record that was read, after checking that it may come next.
    pub(super) fn replay(&mut self, written: &Written) -> Result<(), &'static str> {
        if let Record::Append(entry) = &written.record {
            self.marks(entry.partition).check_append(entry)?;
        }
        if let Record::History { previous, entries } = &written.record
            && let Some(first) = entries.first()
        {
            self.marks(first.partition)
                .check_history(previous, entries)?;
        }
        self.apply(written);
        Ok(())
    }

    /// Applies a record.
    pub(super) fn apply(&mut self, written: &Written) {
        match &written.record {
            Record::Append(entry) => self.marks(entry.partition).append(entry),
            Record::Vote(partition, vote) => self.marks(*partition).vote = Some(*vote),
            Record::Truncate(partition, last) => {
                let start = ChainHash::genesis(&self.cluster, *partition);
                self.marks(*partition).truncate(*last, start);
            }
            Record::Purge {
                partition,
                upto,
                chain,
                is_restart,
            } => self.marks(*partition).purge(*upto, *chain, *is_restart),
            Record::Committed(partition, log_id) => {
                self.marks(*partition).committed = Some(*log_id);
            }
            Record::Notes(notes) => self.apply_notes(notes, written),
            Record::State(partition, marks) => *self.marks(*partition) = *marks,
            Record::CheckpointEnd => {}
            Record::History { previous, entries } => {
                if let Some(first) = entries.first() {
                    self.marks(first.partition).history(previous, entries);
                }
            }
        }
    }

    fn apply_notes(&mut self, notes: &[(Bytes, Option<NoteValue>)], written: &Written) {
        let mut places = written.places.iter();
        for (key, value) in notes {
            let kept = match value {
                None => None,
                Some(NoteValue::At(place)) => Some(NoteValue::At(*place)),
                Some(NoteValue::Bytes(bytes)) => {
                    let place = places.next().expect("each value has its place");
                    Some(if bytes.len() <= INLINE_NOTE_BYTES {
                        // A copy: a slice would keep the whole segment or request in memory.
                        NoteValue::Bytes(Bytes::copy_from_slice(bytes))
                    } else {
                        NoteValue::At(*place)
                    })
                }
            };
            self.set_note(key, kept);
        }
    }

    fn set_note(&mut self, key: &Bytes, value: Option<NoteValue>) {
        let Some(value) = value else {
            if let Some((key, old)) = self.notes.remove_entry(key) {
                self.notes_bytes -= note_size(&(key, Some(old)));
            }
            return;
        };
        let key = Bytes::copy_from_slice(key);
        self.notes_bytes += note_size(&(key.clone(), Some(value.clone())));
        if let Some(old) = self.notes.insert(key.clone(), value) {
            self.notes_bytes -= note_size(&(key, Some(old)));
        }
    }

    /// The ledger as records, those of notes about `part_bytes` long at most.
    pub(super) fn checkpoint(&self, part_bytes: usize) -> Vec<Record> {
        let mut records: Vec<_> = self
            .partitions
            .iter()
            .map(|(partition, marks)| Record::State(*partition, *marks))
            .collect();
        let (mut part, mut bytes) = (Vec::new(), 0);
        for (key, value) in &self.notes {
            let note = (key.clone(), Some(value.clone()));
            let size = note_size(&note);
            if bytes + size > part_bytes && !part.is_empty() {
                records.push(Record::Notes(std::mem::take(&mut part)));
                bytes = 0;
            }
            bytes += size;
            part.push(note);
        }
        if !part.is_empty() {
            records.push(Record::Notes(part));
        }
        records.push(Record::CheckpointEnd);
        records
    }
}
