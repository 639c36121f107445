//! [driver] Committed entries for views and followers: what is committed *and* durable here, so that
//! after a power cut no view stands ahead of its log (promises C3, M2).

use super::{Partition, Shared};
use crate::env::Env;
use crate::planted::{Bug, is_on};
use crate::reader::{ReadProblem, Reader, SnapshotManifest};
use aber_proto::{Entry, LogId, PartitionId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Reads what is committed and durable here, of all partitions.
pub struct LogReader<E: Env> {
    partitions: Arc<BTreeMap<PartitionId, Arc<Shared<E>>>>,
}

impl<E: Env> Clone for LogReader<E> {
    fn clone(&self) -> Self {
        Self {
            partitions: Arc::clone(&self.partitions),
        }
    }
}

impl<E: Env> LogReader<E> {
    /// A reader over these partitions.
    pub fn new<'a>(partitions: impl IntoIterator<Item = &'a Partition<E>>) -> Self {
        let of = |p: &Partition<E>| (p.id(), Arc::clone(&p.inner.shared));
        Self {
            partitions: Arc::new(partitions.into_iter().map(of).collect()),
        }
    }

    fn shared(&self, partition: PartitionId) -> Result<&Arc<Shared<E>>, ReadProblem> {
        let shared = self.partitions.get(&partition);
        shared.ok_or_else(|| ReadProblem::Closed(format!("there is no partition {partition}")))
    }
}

impl<E: Env> Reader for LogReader<E> {
    async fn read(
        &self,
        partition: PartitionId,
        from: u64,
        bytes: usize,
    ) -> Result<Vec<Entry>, ReadProblem> {
        let shared = self.shared(partition)?;
        let mut committed = shared.committed.clone();
        let mut flushed = shared.log.watch_flushed(partition);
        let ready = |id: &Option<LogId>| id.is_some_and(|id| id.index >= from);
        let damaged =
            |problem: crate::segment::SegmentProblem| ReadProblem::Damaged(problem.to_string());
        let last = if is_on(Bug::ReadUncommitted) {
            u64::MAX
        } else {
            let last = committed.until(ready).await;
            if let Some(id) = last
                && !shared.leads_to(id).map_err(damaged)?
            {
                let (wanted, oldest) = (from, id.index + 1);
                return Err(ReadProblem::Forgotten {
                    partition,
                    wanted,
                    oldest,
                });
            }
            last.map_or(0, |id| id.index)
        };
        let durable = flushed.until(|index| *index >= from).await;
        let last = last.min(durable);
        let entries = shared
            .log
            .read_mended(partition, from..last + 1, bytes)
            .await
            .map_err(damaged)?;
        match entries.first() {
            Some(first) if first.log_id.index == from => Ok(entries),
            _ => {
                let oldest = shared.log.state(partition).oldest.unwrap_or(u64::MAX);
                Err(ReadProblem::Forgotten {
                    partition,
                    wanted: from,
                    oldest,
                })
            }
        }
    }

    async fn newest_snapshot(
        &self,
        partition: PartitionId,
    ) -> Result<Option<SnapshotManifest>, ReadProblem> {
        Ok(self.shared(partition)?.snapshots.newest(partition))
    }
}
