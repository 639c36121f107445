//! [pure] What callers and the writer share, behind one short lock.
//!
//! A call changes the *live* state at once and leaves records in the queue; the writer takes
//! records, makes them durable, and then [`Core::complete`] brings ledger and index up to them.
//! An entry is readable from `recent` until its place is in the index, and as long after as the
//! cache has room. A truncation takes effect on readers at once although entries it removes may
//! still be on their way to the disk: `cuts` remembers it until its own record is durable, so that
//! such entries never come back.

mod complete;
mod history;
mod notes;

use super::index::Index;
use super::ledger::{Ledger, Marks};
use super::record::{Place, Record};
use super::{PartitionState, SegmentProblem, Vote};
use crate::watch::Watched;
use aber_proto::{ChainHash, Entry, LogId, PartitionId, entry};
use std::collections::{BTreeMap, VecDeque};

/// Called once a record is durable, or never will be.
pub(super) type Done = Box<dyn FnOnce(Result<(), SegmentProblem>) + Send>;

/// What waits for the writer.
pub(super) struct Item {
    /// What to write; `None` only waits for its turn.
    pub record: Option<Record>,
    /// Whom to tell.
    pub done: Option<Done>,
}

/// What the writer does next.
pub(super) enum Take {
    /// Write these in one frame.
    Batch(Vec<Item>, usize),
    /// Wait.
    Nothing,
    /// End.
    Stop,
}

/// Whether calls are taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Status {
    /// Yes.
    Open,
    /// No; what waits is written.
    Closing,
    /// No.
    Closed,
    /// No: a write or sync failed.
    Failed(String),
}

/// Sizes that follow from the options.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Limits {
    /// Records of one frame, together; also the longest record.
    pub frame_bytes: usize,
    /// Live notes in a checkpoint, together.
    pub notes_bytes: usize,
}

struct Live {
    marks: Marks,
    /// Not yet in the index, or cached.
    recent: BTreeMap<u64, Entry>,
    /// The last index that is durable.
    flushed: Option<u64>,
    /// Truncations and restarts that are not durable yet: the last index each keeps.
    cuts: VecDeque<Option<u64>>,
    watch: Watched<u64>,
}

/// A read: entries in memory and places of the others, consecutive.
pub(super) enum Found {
    /// In memory.
    Entry(Entry),
    /// On disk, with the index it must have.
    At(u64, Place),
}

/// See the module.
pub(super) struct Core {
    /// What is durable.
    pub ledger: Ledger,
    /// Where durable entries stand.
    pub index: Index,
    /// Whether calls are taken.
    pub status: Status,
    /// Bytes of records not durable yet.
    pub waiting_bytes: usize,
    cluster: aber_proto::ClusterId,
    limits: Limits,
    live: BTreeMap<PartitionId, Live>,
    queue: VecDeque<Item>,
    is_urgent: bool,
    committed_waiting: BTreeMap<PartitionId, LogId>,
    notes_waiting_bytes: usize,
    evictable: VecDeque<(PartitionId, u64)>,
    recent_bytes: usize,
}

fn entry_bytes(entry: &Entry) -> usize {
    entry::HEADER_BYTES + entry.body.len()
}

impl Core {
    /// From what recovery found; all of it is durable.
    pub(super) fn new(
        cluster: aber_proto::ClusterId,
        limits: Limits,
        ledger: Ledger,
        index: Index,
    ) -> Self {
        let mut core = Self {
            ledger,
            index,
            status: Status::Open,
            waiting_bytes: 0,
            cluster,
            limits,
            live: BTreeMap::new(),
            queue: VecDeque::new(),
            is_urgent: false,
            committed_waiting: BTreeMap::new(),
            notes_waiting_bytes: 0,
            evictable: VecDeque::new(),
            recent_bytes: 0,
        };
        let partitions: Vec<_> = core.ledger.partitions.keys().copied().collect();
        for partition in partitions {
            core.live(partition);
        }
        core
    }

    fn live(&mut self, partition: PartitionId) -> &mut Live {
        let (ledger, cluster) = (&self.ledger, &self.cluster);
        self.live.entry(partition).or_insert_with(|| {
            let known = ledger.partitions.get(&partition).copied();
            let mut marks = known.unwrap_or_else(|| Marks::new(cluster, partition));
            // Saved ahead of the entry it names: what is there of it is committed all the same.
            marks.committed = marks.committed.min(marks.last);
            let flushed = marks.last.map(|last| last.index);
            Live {
                marks,
                recent: BTreeMap::new(),
                flushed,
                cuts: VecDeque::new(),
                watch: Watched::new(flushed.unwrap_or(0)),
            }
        })
    }

    /// An error unless calls are taken.
    pub(super) fn check_open(&self) -> Result<(), SegmentProblem> {
        match &self.status {
            Status::Open => Ok(()),
            Status::Closing | Status::Closed => Err(SegmentProblem::Closed),
            Status::Failed(why) => Err(SegmentProblem::Poisoned { why: why.clone() }),
        }
    }

    /// An error if a write or sync failed.
    pub(super) fn check_alive(&self) -> Result<(), SegmentProblem> {
        match &self.status {
            Status::Failed(why) => Err(SegmentProblem::Poisoned { why: why.clone() }),
            _ => Ok(()),
        }
    }

    /// The partitions that have anything here.
    pub(super) fn partitions(&self) -> Vec<PartitionId> {
        self.live.keys().copied().collect()
    }

    /// What a partition is at.
    pub(super) fn state(&mut self, partition: PartitionId) -> PartitionState {
        let on_disk = self.index.oldest(partition);
        let live = self.live(partition);
        let in_memory = live.recent.first_key_value().map(|(index, _)| *index);
        let oldest = [on_disk, in_memory].into_iter().flatten().min();
        // What stands below is not known to be of this chain: see `find_kept`.
        let oldest = oldest.map(|oldest| oldest.max(live.marks.first));
        let oldest = oldest.filter(|oldest| live.marks.last.is_some_and(|l| *oldest <= l.index));
        PartitionState {
            vote: live.marks.vote,
            committed: live.marks.committed,
            purged: live.marks.purged,
            last: live.marks.last,
            last_chain: live.marks.last_chain,
            oldest,
            first: live.marks.first,
            below: live.marks.below,
            flushed: live.flushed.unwrap_or(0),
        }
    }

    /// The watched durable index of a partition.
    pub(super) fn watch(&mut self, partition: PartitionId) -> Watched<u64> {
        self.live(partition).watch.clone()
    }

    fn push(&mut self, record: Record, done: Option<Done>) {
        self.waiting_bytes += record.size();
        let record = Some(record);
        self.queue.push_back(Item { record, done });
    }

    /// Entries come in. `done` is taken if they are accepted.
    pub(super) fn append(
        &mut self,
        partition: PartitionId,
        entries: Vec<Entry>,
        done: &mut Option<Done>,
    ) -> Result<(), SegmentProblem> {
        self.check_open()?;
        let mut marks = self.live(partition).marks;
        for entry in &entries {
            let what = if entry.partition == partition {
                marks.check_append(entry).err()
            } else {
                Some("the entry belongs to another partition")
            };
            if let Some(what) = what {
                return Err(SegmentProblem::Contradiction {
                    partition,
                    index: entry.log_id.index,
                    what,
                });
            }
            self.check_size(&Record::Append(entry.clone()))?;
            marks.append(entry);
        }
        self.live(partition).marks = marks;
        for entry in entries {
            self.recent_bytes += entry_bytes(&entry);
            let index = entry.log_id.index;
            self.push(Record::Append(entry.clone()), None);
            self.live(partition).recent.insert(index, entry);
        }
        let (record, done) = (None, done.take());
        self.queue.push_back(Item { record, done });
        self.is_urgent = true;
        Ok(())
    }

    fn check_size(&self, record: &Record) -> Result<(), SegmentProblem> {
        let (size_bytes, limit_bytes) = (record.size(), self.limits.frame_bytes);
        if size_bytes > limit_bytes {
            return Err(SegmentProblem::TooLong {
                size_bytes,
                limit_bytes,
            });
        }
        Ok(())
    }

    /// A vote comes in.
    pub(super) fn vote(
        &mut self,
        partition: PartitionId,
        vote: Vote,
        done: &mut Option<Done>,
    ) -> Result<(), SegmentProblem> {
        self.check_open()?;
        let live = self.live(partition);
        if live.marks.vote.is_some_and(|old| vote.term < old.term) {
            return Err(SegmentProblem::Contradiction {
                partition,
                index: 0,
                what: "the vote's term falls",
            });
        }
        live.marks.vote = Some(vote);
        self.push(Record::Vote(partition, vote), done.take());
        self.is_urgent = true;
        Ok(())
    }

    /// The commit index moves; written with the next batch.
    pub(super) fn committed(
        &mut self,
        partition: PartitionId,
        log_id: LogId,
    ) -> Result<(), SegmentProblem> {
        self.check_open()?;
        self.live(partition).marks.committed = Some(log_id);
        self.committed_waiting.insert(partition, log_id);
        Ok(())
    }

    /// Which entry a truncation leaves as the last one: `Ok(None)` if nothing changes, else the
    /// index, or `None` for an empty log.
    pub(super) fn truncate_target(
        &mut self,
        partition: PartitionId,
        upto: Option<u64>,
    ) -> Result<Option<Option<u64>>, SegmentProblem> {
        self.check_open()?;
        let marks = self.live(partition).marks;
        let pointer = marks.purged.map(|(log_id, _)| log_id.index);
        let target = upto.filter(|index| *index >= marks.first).or(pointer);
        let Some(last) = marks.last else {
            return Ok(None);
        };
        let refused = |index, what| SegmentProblem::Contradiction {
            partition,
            index,
            what,
        };
        if target.is_some_and(|index| index >= last.index) {
            return Ok(None);
        }
        let is_below = |bound: Option<u64>| bound.is_some() && target < bound;
        if is_below(pointer) || (upto.is_some() && upto < pointer) {
            return Err(refused(
                upto.unwrap_or(0),
                "a truncation below the purge pointer",
            ));
        }
        if is_below(marks.committed.map(|log_id| log_id.index)) {
            return Err(refused(
                upto.unwrap_or(0),
                "a truncation below the commit index",
            ));
        }
        Ok(Some(target))
    }

    /// Entries after `last` are gone.
    pub(super) fn truncate(&mut self, partition: PartitionId, last: Option<(LogId, ChainHash)>) {
        let start = ChainHash::genesis(&self.cluster, partition);
        let keep = last.map(|(log_id, _)| log_id.index);
        self.live(partition).marks.truncate(last, start);
        self.cut(partition, keep, keep, keep);
        self.push(Record::Truncate(partition, last), None);
    }

    /// Readers see nothing after `keep` any more; nothing after `flushed_max` counts as durable,
    /// and nothing after `kept_max` may be history.
    fn cut(
        &mut self,
        partition: PartitionId,
        keep: Option<u64>,
        flushed_max: Option<u64>,
        kept_max: Option<u64>,
    ) {
        let behind = |index: Option<u64>| index.map_or(0, |index| index.saturating_add(1));
        self.index.cut(partition, behind(kept_max));
        let live = self.live(partition);
        let gone = live.recent.split_off(&behind(keep));
        live.flushed = live.flushed.min(flushed_max);
        live.cuts.push_back(keep);
        live.watch.set(live.flushed.unwrap_or(0));
        self.recent_bytes -= gone.values().map(entry_bytes).sum::<usize>();
    }

    /// The purge pointer moves. `is_restart`: the log goes on after it and forgets what was.
    /// Answers whether that waits for the writer.
    pub(super) fn purge(
        &mut self,
        partition: PartitionId,
        upto: LogId,
        chain: ChainHash,
        is_restart: bool,
    ) {
        let marks = &mut self.live(partition).marks;
        if !is_restart && marks.purged.is_some_and(|(old, _)| old.index >= upto.index) {
            return;
        }
        marks.purge(upto, chain, is_restart);
        if is_restart {
            self.cut(partition, None, Some(upto.index), Some(upto.index));
            self.is_urgent = true;
        }
        let record = Record::Purge {
            partition,
            upto,
            chain,
            is_restart,
        };
        self.push(record, None);
    }

    /// The last log id of a partition.
    pub(super) fn last(&mut self, partition: PartitionId) -> Option<LogId> {
        self.live(partition).marks.last
    }

    /// The log id and chain hash at the purge pointer, if it stands at `index`.
    pub(super) fn pointer_at(
        &mut self,
        partition: PartitionId,
        index: u64,
    ) -> Option<(LogId, ChainHash)> {
        let pointer = self.live(partition).marks.purged;
        pointer.filter(|(log_id, _)| log_id.index == index)
    }

    /// Where these entries are, at least one entry if there is one, about `max_bytes` at most.
    pub(super) fn find(
        &mut self,
        partition: PartitionId,
        range: std::ops::Range<u64>,
        max_bytes: usize,
    ) -> Vec<Found> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        let first = self.live(partition).marks.first;
        for index in range {
            let live = self.live(partition);
            let (next, size) = if let Some(entry) = live.recent.get(&index) {
                (Found::Entry(entry.clone()), entry_bytes(entry))
            } else if let Some(place) = self.index.get(partition, index) {
                (Found::At(index, place), super::frame::wide(place.length))
            } else {
                break;
            };
            if index < first || (bytes + size > max_bytes && !found.is_empty()) {
                break;
            }
            bytes += size;
            found.push(next);
        }
        found
    }

    /// What the writer does next.
    pub(super) fn take(&mut self) -> Take {
        let is_closing = match &self.status {
            Status::Open => false,
            Status::Closing => true,
            Status::Closed | Status::Failed(_) => return Take::Stop,
        };
        let has_work = !self.queue.is_empty() || !self.committed_waiting.is_empty();
        if !has_work || !(self.is_urgent || is_closing) {
            return if is_closing {
                Take::Stop
            } else {
                Take::Nothing
            };
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(item) = self.queue.front() {
            let size = item.record.as_ref().map_or(0, Record::size);
            if bytes + size > self.limits.frame_bytes && bytes > 0 {
                break;
            }
            bytes += size;
            batch.extend(self.queue.pop_front());
        }
        self.is_urgent = !self.queue.is_empty();
        let has_record = batch.iter().any(|item| item.record.is_some());
        if has_record || is_closing {
            for (partition, log_id) in std::mem::take(&mut self.committed_waiting) {
                let (record, done) = (Record::Committed(partition, log_id), None);
                self.waiting_bytes += record.size();
                bytes += record.size();
                let record = Some(record);
                batch.push(Item { record, done });
            }
        }
        Take::Batch(batch, bytes)
    }

    /// Everything that waits will not be written.
    pub(super) fn fail(&mut self, why: &str) -> Vec<Item> {
        self.status = Status::Failed(why.to_owned());
        self.queue.drain(..).collect()
    }
}
