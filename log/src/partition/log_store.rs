//! [adapter] openraft's log and vote on the node's one segment log.
//!
//! An entry gets its chain hash here, when it is appended: the hash before it is that of the log's
//! last entry. An entry that comes from another log brings its hash along, and one that does not
//! follow from ours is refused (promise I2).

use super::Shared;
use super::raft_types::{C, RaftEntry, from_raft_entry, from_raft_id, from_raft_vote};
use super::raft_types::{to_raft_entry, to_raft_id, to_raft_vote};
use crate::env::Env;
use crate::segment::SegmentProblem;
use aber_proto::Entry;
use openraft::alias::{LogIdOf, VoteOf};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

/// Bytes of entries sent in one message to a follower; at least one entry always goes.
const SEND_BYTES: usize = 256 * 1024;

/// Log and vote of one group.
pub struct LogStore<E: Env> {
    pub(super) shared: Arc<Shared<E>>,
}

impl<E: Env> Clone for LogStore<E> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

fn failed(problem: SegmentProblem) -> io::Error {
    io::Error::other(problem)
}

impl<E: Env> LogStore<E> {
    async fn read(&self, from: u64, to: u64, max_bytes: usize) -> io::Result<Vec<RaftEntry>> {
        let Shared { log, partition, .. } = &*self.shared;
        let entries = log.read_mended(*partition, from..to, max_bytes).await;
        let entries = entries.map_err(failed)?;
        entries
            .into_iter()
            .map(|entry| to_raft_entry(entry).map_err(io::Error::other))
            .collect()
    }

    fn chained(&self, entries: impl Iterator<Item = RaftEntry>) -> io::Result<Vec<Entry>> {
        let mut chain = self.shared.log.state(self.shared.partition).last_chain;
        let mut chained = Vec::new();
        for entry in entries {
            let (entry, expected) = from_raft_entry(self.shared.partition, entry);
            let entry = Entry::following(&chain, entry);
            if expected.is_some_and(|expected| expected != entry.chain) {
                let index = entry.log_id.index;
                let problem = aber_proto::EntryProblem::ChainBroken { index };
                return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
            }
            chain = entry.chain;
            chained.push(entry);
        }
        Ok(chained)
    }
}

impl<E: Env> RaftLogReader<C> for LogStore<E> {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<RaftEntry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let mut entries: Vec<RaftEntry> = Vec::new();
        let mut next = from;
        while next < to {
            let more = self.read(next, to, usize::MAX).await?;
            let Some(last) = more.last() else { break };
            next = last.log_id.index + 1;
            entries.extend(more);
        }
        Ok(entries)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        self.read(start, end, SEND_BYTES).await
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<C>>, io::Error> {
        Ok(self
            .shared
            .log
            .state(self.shared.partition)
            .vote
            .map(to_raft_vote))
    }
}

impl<E: Env> RaftLogStorage<C> for LogStore<E> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<C>, io::Error> {
        let state = self.shared.log.state(self.shared.partition);
        Ok(LogState {
            last_purged_log_id: state.purged.map(|(id, _)| to_raft_id(id)),
            last_log_id: state.last.map(to_raft_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<C>) -> Result<(), io::Error> {
        let vote = from_raft_vote(vote);
        self.shared
            .log
            .save_vote(self.shared.partition, vote)
            .await
            .map_err(failed)
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<C>>) -> Result<(), io::Error> {
        match committed {
            Some(id) => {
                let id = from_raft_id(&id);
                self.shared
                    .log
                    .set_committed(self.shared.partition, id)
                    .map_err(failed)
            }
            None => Ok(()),
        }
    }

    async fn read_committed(&mut self) -> Result<Option<LogIdOf<C>>, io::Error> {
        let state = self.shared.log.state(self.shared.partition);
        // What is committed may have been noted before the entries themselves were synced.
        let known = state
            .committed
            .filter(|id| state.last.is_some_and(|last| *id <= last));
        Ok(known.map(to_raft_id))
    }

    async fn append<I>(&mut self, entries: I, done: IOFlushed<C>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = self.chained(entries.into_iter())?;
        let done =
            move |result: Result<(), SegmentProblem>| done.io_completed(result.map_err(failed));
        self.shared
            .log
            .append(self.shared.partition, entries, done)
            .map_err(failed)
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<C>>) -> Result<(), io::Error> {
        let last = last.map(|id| id.index);
        self.shared
            .log
            .truncate_after(self.shared.partition, last)
            .map_err(failed)
    }

    async fn purge(&mut self, upto: LogIdOf<C>) -> Result<(), io::Error> {
        let id = from_raft_id(&upto);
        let Shared { log, partition, .. } = &*self.shared;
        let here = log.chain_at(*partition, id.index).map_err(failed)?;
        let chain = match here.filter(|(found, _)| *found == id) {
            Some((_, chain)) => chain,
            None => self.shared.chain_of_installed(id).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("no chain hash at {id} to purge to"),
                )
            })?,
        };
        log.purge(*partition, id, chain).map_err(failed)
    }
}
