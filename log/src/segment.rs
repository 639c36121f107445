//! [driver] One write-ahead log a node for all its partitions.
//!
//! Everything a node must not forget goes through one queue into one sequence of frames: entries,
//! votes, truncations, purge pointers, commit indexes, and small notes of the node itself. A frame
//! is one write and one `fdatasync` for all that waited, whatever their partitions; it stands in
//! pre-written segments, so that no commit changes a file's size. `docs/format.md` has
//! the bytes, [`recovery`] the rules for damage.
//!
//! Invariants: one order for everything; nobody is told "durable" before the sync returned; after
//! the first failed write or sync nobody is told anything but the failure (promise D4); entries of
//! a partition follow each other without gap and their chain holds (promise I2); a purge never
//! deletes. Not here: compression of full segments, retention.

mod core;
mod frame;
mod history;
mod index;
mod ledger;
mod open;
mod problem;
mod read;
mod record;
mod recovery;
mod seal;
mod store;
mod writer;

pub use self::history::{STRETCH_BYTES, Stretch};
pub use self::problem::SegmentProblem;
pub use self::read::Damage;

use self::core::{Core, Done, Item, Limits, Status};
use self::record::NoteValue;
use self::store::Store;
use crate::env::{Env, Runtime};
use crate::watch::Watched;
use aber_proto::{ChainHash, ClusterId, Entry, LogId, NodeId, PartitionId};
use bytes::Bytes;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, oneshot};

/// The exit code after a failed write or sync: `EX_IOERR`.
const EXIT_CODE: i32 = 74;
/// Bytes that may wait for the disk before [`SegmentLog::room`] waits.
const QUEUE_BYTES: usize = 16 << 20;

/// Whose log it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogIdentity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
}

/// Sizes. A segment that exists keeps its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentOptions {
    /// Bytes of a segment: 32 KiB to 1 GiB, a multiple of 512. A quarter of it bounds a frame, a
    /// record, and the live notes.
    pub segment_bytes: u64,
    /// Bytes of a frame at most.
    pub batch_bytes: usize,
}

impl Default for SegmentOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 16 << 20,
            batch_bytes: 4 << 20,
        }
    }
}

/// Raft's vote.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Vote {
    /// The term.
    pub term: u64,
    /// For whom.
    pub node: NodeId,
    /// Whether a majority granted it.
    pub is_committed: bool,
}

/// What a partition's log is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartitionState {
    /// Raft's vote.
    pub vote: Option<Vote>,
    /// The commit index that was saved last; after a start never above `last`.
    pub committed: Option<LogId>,
    /// The purge pointer and the chain hash there. Older entries may still be readable.
    pub purged: Option<(LogId, ChainHash)>,
    /// The last entry, else the purge pointer.
    pub last: Option<LogId>,
    /// The chain hash at `last`, else where the partition's chain starts.
    pub last_chain: ChainHash,
    /// The oldest readable entry, those below the purge pointer included.
    pub oldest: Option<u64>,
    /// Entries from here on are here, or on their way to the disk.
    pub first: u64,
    /// The chain hash before the entry at `first`: where the partition's chain starts if nothing is
    /// missing.
    pub below: ChainHash,
    /// The last index known to be durable; 0 if none is.
    pub flushed: u64,
}

/// What all handles, the writer and its helpers share.
struct Shared<E: Env> {
    env: E,
    identity: LogIdentity,
    segment_bytes: u32,
    limits: Limits,
    store: Store<E>,
    core: Mutex<Core>,
    /// Rings for the writer.
    bell: Notify,
    /// Rings when records became durable.
    room: Notify,
    failure: Watched<Option<String>>,
    has_ended: Watched<bool>,
    /// Damage that was read and is not mended.
    damage: Watched<Option<Damage>>,
}

impl<E: Env> Shared<E> {
    fn new(
        env: E,
        identity: LogIdentity,
        store: Store<E>,
        (core, segment_bytes, limits): (Core, u32, Limits),
    ) -> Self {
        Self {
            env,
            identity,
            segment_bytes,
            limits,
            store,
            core: Mutex::new(core),
            bell: Notify::new(),
            room: Notify::new(),
            failure: Watched::new(None),
            has_ended: Watched::new(false),
            damage: Watched::new(None),
        }
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first failure ends the log: all who wait are told, and the node stops.
    fn poison(&self, problem: &SegmentProblem, waiting: Vec<Done>) {
        let (why, queued) = {
            let mut core = self.core();
            match &core.status {
                Status::Failed(why) => (why.clone(), None),
                _ => (problem.to_string(), Some(core.fail(&problem.to_string()))),
            }
        };
        let is_first = queued.is_some();
        let queued = queued
            .into_iter()
            .flatten()
            .filter_map(|item: Item| item.done);
        for done in waiting.into_iter().chain(queued) {
            done(Err(SegmentProblem::Poisoned { why: why.clone() }));
        }
        self.room.notify_waiters();
        self.bell.notify_one();
        if is_first {
            self.failure.set(Some(why.clone()));
            self.env.runtime().fail(EXIT_CODE, &why);
        }
    }

    /// The writer ended.
    fn ended(&self) {
        {
            let mut core = self.core();
            if core.status == Status::Closing {
                core.status = Status::Closed;
            }
        }
        self.room.notify_waiters();
        self.has_ended.set(true);
    }
}

/// The log of a node. Cheap to clone; all clones are the same log.
pub struct SegmentLog<E: Env> {
    shared: Arc<Shared<E>>,
}

impl<E: Env> Clone for SegmentLog<E> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<E: Env> SegmentLog<E> {
    /// Opens the log below `log/`, made if missing, and starts its writer.
    ///
    /// What was torn by a crash is cut, what may not have been durable is written and synced anew.
    ///
    /// # Errors
    /// [`SegmentProblem::Damaged`], `OtherCluster`, `NewerFormat`, `Disk`, `Options`. Nothing that
    /// was durable is ever cut.
    pub async fn open(
        env: E,
        identity: LogIdentity,
        options: SegmentOptions,
    ) -> Result<Self, SegmentProblem> {
        let (shared, writer) = open::open(env, identity, options).await?;
        shared.env.runtime().spawn("log-writer", writer.run());
        Ok(Self { shared })
    }

    /// Whose log it is.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.shared.identity.cluster
    }

    /// What a partition is at.
    #[must_use]
    pub fn state(&self, partition: PartitionId) -> PartitionState {
        self.shared.core().state(partition)
    }

    /// The partitions that have anything here.
    #[must_use]
    pub fn partitions(&self) -> Vec<PartitionId> {
        self.shared.core().partitions()
    }

    /// Appends entries right after the last one. They are readable on return; `done` is called
    /// exactly once: when they are durable, in the order of the log over all partitions, or with
    /// the error, also if this call returns it. It runs in the writer and must be short.
    ///
    /// Never waits: callers that are not bounded by something else call [`SegmentLog::room`] first.
    ///
    /// # Errors
    /// `Contradiction` if an entry does not follow, `TooLong`, `Poisoned`, `Closed`. Nothing was
    /// appended then.
    pub fn append(
        &self,
        partition: PartitionId,
        entries: Vec<Entry>,
        done: impl FnOnce(Result<(), SegmentProblem>) + Send + 'static,
    ) -> Result<(), SegmentProblem> {
        let mut done: Option<Done> = Some(Box::new(done));
        let outcome = self.shared.core().append(partition, entries, &mut done);
        self.shared.bell.notify_one();
        if let (Err(problem), Some(done)) = (&outcome, done) {
            done(Err(problem.clone()));
        }
        outcome
    }

    /// Waits until less than 16 MiB wait for the disk.
    ///
    /// # Errors
    /// `Poisoned`, `Closed`.
    pub async fn room(&self) -> Result<(), SegmentProblem> {
        loop {
            let mut heard = std::pin::pin!(self.shared.room.notified());
            heard.as_mut().enable();
            {
                let core = self.shared.core();
                core.check_open()?;
                if core.waiting_bytes < QUEUE_BYTES {
                    return Ok(());
                }
            }
            heard.await;
        }
    }

    /// Saves a vote; durable on return, in one order with appends.
    ///
    /// # Errors
    /// `Contradiction` if its term is below that of the vote before, `Poisoned`, `Closed`.
    pub async fn save_vote(
        &self,
        partition: PartitionId,
        vote: Vote,
    ) -> Result<(), SegmentProblem> {
        self.durably(|core, done| core.vote(partition, vote, done))
            .await
    }

    async fn durably(
        &self,
        call: impl FnOnce(&mut Core, &mut Option<Done>) -> Result<(), SegmentProblem>,
    ) -> Result<(), SegmentProblem> {
        let (tell, told) = oneshot::channel();
        let mut done: Option<Done> = Some(Box::new(move |outcome| {
            let _ = tell.send(outcome);
        }));
        call(&mut self.shared.core(), &mut done)?;
        self.shared.bell.notify_one();
        told.await.unwrap_or(Err(SegmentProblem::Closed))
    }

    /// Removes the entries after `last`, all above the purge pointer if `None`. Readers see it at
    /// once; it is written with the next batch, and nothing later is durable without it.
    ///
    /// # Errors
    /// `Contradiction` below the purge pointer or the commit index, `Damaged`, `Disk`, `Poisoned`,
    /// `Closed`.
    pub fn truncate_after(
        &self,
        partition: PartitionId,
        last: Option<u64>,
    ) -> Result<(), SegmentProblem> {
        let target = self.shared.core().truncate_target(partition, last)?;
        let Some(target) = target else {
            return Ok(());
        };
        let kept = match target {
            None => None,
            Some(index) => {
                let found = self.chain_at(partition, index)?;
                Some(found.ok_or(SegmentProblem::Contradiction {
                    partition,
                    index,
                    what: "a truncation to an entry that is not here",
                })?)
            }
        };
        self.shared.core().truncate(partition, kept);
        Ok(())
    }

    /// Moves the purge pointer; nothing is deleted, older entries stay readable as history. Above
    /// the last entry, or where the entry there is another one, the log starts anew after the
    /// pointer and forgets what stood there: so after a snapshot was installed.
    ///
    /// # Errors
    /// `Damaged`, `Disk`, `Poisoned`, `Closed`.
    pub fn purge(
        &self,
        partition: PartitionId,
        upto: LogId,
        chain: ChainHash,
    ) -> Result<(), SegmentProblem> {
        self.shared.core().check_open()?;
        let last = self.shared.core().last(partition);
        let is_known = match last {
            Some(last) if last.index >= upto.index => {
                let here = self.chain_at(partition, upto.index)?;
                here.is_none_or(|(log_id, _)| log_id == upto)
            }
            _ => false,
        };
        self.shared.core().purge(partition, upto, chain, !is_known);
        self.shared.bell.notify_one();
        Ok(())
    }

    /// Saves the commit index; written with the next batch.
    ///
    /// # Errors
    /// `Poisoned`, `Closed`.
    pub fn set_committed(
        &self,
        partition: PartitionId,
        committed: LogId,
    ) -> Result<(), SegmentProblem> {
        self.shared.core().committed(partition, committed)
    }

    /// The last durable index of a partition, as it moves; 0 if none is. A truncation lowers it.
    #[must_use]
    pub fn watch_flushed(&self, partition: PartitionId) -> Watched<u64> {
        self.shared.core().watch(partition)
    }

    /// Sets notes, or removes them (`None`): all or none, durable on return. The newest of a key
    /// wins, and survives everything.
    ///
    /// # Errors
    /// `TooLong`, `NotesFull`, `Poisoned`, `Closed`.
    pub async fn write_notes(
        &self,
        notes: Vec<(Bytes, Option<Bytes>)>,
    ) -> Result<(), SegmentProblem> {
        self.durably(|core, done| core.notes(notes, done)).await
    }

    /// Bytes of notes, keys and values together, that one call of [`SegmentLog::write_notes`] takes
    /// for sure, if a few bytes are added for each note.
    #[must_use]
    pub fn notes_at_once(&self) -> usize {
        self.shared.limits.frame_bytes / 2
    }

    /// A note's value, once it is durable.
    ///
    /// # Errors
    /// `Damaged`, `Disk`.
    pub fn note(&self, key: &[u8]) -> Result<Option<Bytes>, SegmentProblem> {
        let value = self.shared.core().ledger.notes.get(key).cloned();
        value.map(|value| self.value(value)).transpose()
    }

    fn value(&self, value: NoteValue) -> Result<Bytes, SegmentProblem> {
        match value {
            NoteValue::Bytes(bytes) => Ok(bytes),
            NoteValue::At(place) => self.shared.store.read(place),
        }
    }

    /// All durable notes whose key starts with `prefix`, sorted by key.
    ///
    /// # Errors
    /// `Damaged`, `Disk`.
    pub fn notes(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, SegmentProblem> {
        let found = self.shared.core().notes_with(prefix);
        let values = found.into_iter();
        values
            .map(|(key, value)| Ok((key, self.value(value)?)))
            .collect()
    }

    /// Writes out what waits, then refuses. Repeating it is harmless.
    ///
    /// # Errors
    /// `Poisoned`.
    pub async fn close(&self) -> Result<(), SegmentProblem> {
        {
            let mut core = self.shared.core();
            if core.status == Status::Open {
                core.status = Status::Closing;
            }
        }
        self.shared.bell.notify_one();
        self.shared.has_ended.clone().until(|ended| *ended).await;
        self.shared.core().check_alive()
    }

    /// Becomes the reason once a write or sync failed.
    #[must_use]
    pub fn failure(&self) -> Watched<Option<String>> {
        self.shared.failure.clone()
    }
}

#[cfg(test)]
mod tests;
