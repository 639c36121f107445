//! [driver] Keeps the log whole: fetches what a snapshot skipped and what is damaged here.
//!
//! Every node that keeps history has all of it (design, promise D5): after a snapshot took the
//! place of entries, they are fetched in the background, the newest first, and an entry that
//! cannot be read is fetched while its reader waits. Any node is asked; the chain proves the answer
//! (`segment::history`). Small: one stretch at a time, so that it takes little of a slow line.

use crate::env::{Env, Runtime};
use crate::mesh::{CallProblem, Mesh, Method};
use crate::segment::{Damage, STRETCH_BYTES, SegmentLog, SegmentProblem, Stretch};
use aber_proto::generated::rpc;
use aber_proto::{ChainHash, ClusterId, Entry, NodeId, PartitionId};
use bytes::Bytes;
use prost::Message;
use std::time::Duration;

/// For one stretch, at the slowest rate we serve.
const STRETCH_DEADLINE: Duration = Duration::from_secs(60);
/// Between looks at what is missing, and between rounds over all nodes.
const PAUSE: Duration = Duration::from_secs(10);
/// Between attempts to mend, while a reader waits.
const MEND_PAUSE: Duration = Duration::from_millis(500);
/// Damaged entries in a row that are mended together at most.
const DAMAGED_AT_ONCE: u64 = 4096;

/// Fetches and gives entries that are history.
pub struct History<E: Env> {
    env: E,
    cluster: ClusterId,
    log: SegmentLog<E>,
    mesh: Mesh<E>,
}

impl<E: Env> Clone for History<E> {
    fn clone(&self) -> Self {
        Self {
            env: self.env.clone(),
            cluster: self.cluster,
            log: self.log.clone(),
            mesh: self.mesh.clone(),
        }
    }
}

/// Why a stretch was not had from a node.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
enum FetchProblem {
    #[error(transparent)]
    Call(#[from] CallProblem),
    #[error("no other node can be asked")]
    Alone,
    #[error("node {0} does not have the entries")]
    NotThere(NodeId),
    #[error("node {0} sent something malformed, or other entries than were asked for")]
    Lied(NodeId),
    #[error(transparent)]
    Log(#[from] SegmentProblem),
}

impl<E: Env> History<E> {
    /// Mends and fetches from now on, over links that are dialled elsewhere.
    pub fn start(env: E, cluster: ClusterId, log: SegmentLog<E>, mesh: Mesh<E>) -> Self {
        let this = Self {
            env,
            cluster,
            log,
            mesh,
        };
        let runtime = this.env.runtime();
        runtime.spawn("history", this.clone().fetch_all());
        runtime.spawn("mend", this.clone().mend_all());
        this
    }

    async fn fetch_all(self) {
        loop {
            for partition in self.log.partitions() {
                while self.lacks(partition) {
                    if let Err(problem) = self.fetch_below(partition).await {
                        self.trace(partition, &problem);
                        break;
                    }
                }
            }
            self.env.runtime().sleep(PAUSE).await;
        }
    }

    /// Fetches the entries before the oldest one here.
    async fn fetch_below(&self, partition: PartitionId) -> Result<(), FetchProblem> {
        let state = self.log.state(partition);
        let stretch = match self.log.kept(partition, STRETCH_BYTES) {
            Some(stretch) => stretch,
            None => {
                let is_it = |chain: &ChainHash| *chain == state.below;
                self.fetch(partition, state.first, is_it).await?
            }
        };
        self.restore(partition, stretch).await
    }

    fn trace(&self, partition: PartitionId, problem: &FetchProblem) {
        let runtime = self.env.runtime();
        runtime.trace(format_args!("history {partition}: {problem}"));
    }

    /// Whether a snapshot took the place of entries that are not back yet.
    pub fn lacks(&self, partition: PartitionId) -> bool {
        let start = ChainHash::genesis(&self.cluster, partition);
        self.log.state(partition).below != start
    }

    async fn mend_all(self) {
        let mut damage = self.log.watch_damage();
        loop {
            let found = damage.until(Option::is_some).await;
            let Some(found) = found else { continue };
            match self.mend(&found).await {
                Ok(()) => {
                    let (partition, index) = (found.partition, found.index);
                    let runtime = self.env.runtime();
                    runtime.trace(format_args!("mended {partition}:{index}"));
                    tracing::warn!(%partition, index, "a damaged entry was fetched again");
                    self.log.is_mended();
                }
                Err(problem) => {
                    self.trace(found.partition, &problem);
                    if self.mesh.peers().is_empty() {
                        self.log.is_lost();
                    }
                    self.env.runtime().sleep(MEND_PAUSE).await;
                }
            }
        }
    }

    /// Replaces a damaged entry, and those damaged right behind it.
    async fn mend(&self, damage: &Damage) -> Result<(), FetchProblem> {
        let (partition, index) = (damage.partition, damage.index);
        let (mut end, mut next) = self.good_after(partition, index)?;
        while end > index {
            let state = self.log.state(partition);
            let stretch = self.fetch(partition, end, |chain| match &next {
                Some(entry) => entry.verify(chain).is_ok(),
                None => state.last_chain == *chain,
            });
            let stretch = stretch.await?.starting_at(index);
            next = stretch.entries.first().cloned();
            let first = next.as_ref().map(|entry| entry.log_id.index);
            end = first.filter(|first| *first < end).unwrap_or(index);
            self.restore(partition, stretch).await?;
        }
        Ok(())
    }

    /// The first index behind the damage, and the entry there unless the log ends.
    fn good_after(
        &self,
        partition: PartitionId,
        index: u64,
    ) -> Result<(u64, Option<Entry>), SegmentProblem> {
        let last = self.log.state(partition).last.map_or(0, |last| last.index);
        let mut end = index + 1;
        while end <= last && end - index < DAMAGED_AT_ONCE {
            match self.log.read(partition, end, end + 1, 1) {
                Ok(entries) => return Ok((end, entries.into_iter().next())),
                Err(SegmentProblem::Damaged { .. }) => end += 1,
                Err(problem) => return Err(problem),
            }
        }
        Ok((end, None))
    }

    async fn restore(&self, partition: PartitionId, stretch: Stretch) -> Result<(), FetchProblem> {
        Ok(self.log.restore(partition, stretch).await?)
    }

    /// The entries right before `end` from the first node that has them; `is_it` knows the chain
    /// hash there.
    async fn fetch(
        &self,
        partition: PartitionId,
        end: u64,
        is_it: impl Fn(&ChainHash) -> bool,
    ) -> Result<Stretch, FetchProblem> {
        let mut problem = FetchProblem::Alone;
        for peer in self.mesh.peers_up() {
            match self.ask(peer, partition, end).await {
                Ok(stretch) => {
                    let chain = stretch.entries.last().map(|entry| entry.chain);
                    let chain = chain.unwrap_or_default();
                    if is_it(&chain) && stretch.verify(partition, end, &chain).is_ok() {
                        return Ok(stretch);
                    }
                    tracing::warn!(node = %peer, %partition, end, "other entries than ours");
                    problem = FetchProblem::Lied(peer);
                }
                Err(failed) => problem = failed,
            }
        }
        Err(problem)
    }

    async fn ask(
        &self,
        peer: NodeId,
        partition: PartitionId,
        end: u64,
    ) -> Result<Stretch, FetchProblem> {
        let request = rpc::EntriesRequest {
            partition: partition.0,
            end,
        };
        let payload = Bytes::from(request.encode_to_vec());
        let answer = self
            .mesh
            .call(peer, Method::Entries, payload, STRETCH_DEADLINE)
            .await?;
        let lied = || FetchProblem::Lied(peer);
        let answer = rpc::EntriesResponse::decode(answer).map_err(|_| lied())?;
        if answer.entries.is_empty() {
            return Err(FetchProblem::NotThere(peer));
        }
        let previous = ChainHash::from_slice(&answer.previous).ok_or_else(lied)?;
        let entries = answer.entries.iter().map(Entry::decode);
        let entries = entries.collect::<Result<_, _>>().map_err(|_| lied())?;
        Ok(Stretch { previous, entries })
    }

    /// Answers another node: the entries right before one, of what is committed and durable here.
    ///
    /// # Errors
    /// A malformed question, or a log that cannot be read.
    pub fn answer(&self, payload: Bytes) -> Result<Bytes, String> {
        let request = rpc::EntriesRequest::decode(payload).map_err(|error| error.to_string())?;
        let partition = PartitionId(request.partition);
        let state = self.log.state(partition);
        let committed = state.committed.map_or(0, |committed| committed.index);
        let mut response = rpc::EntriesResponse::default();
        if request.end <= committed.min(state.flushed).saturating_add(1) {
            let stretch = self.log.stretch(partition, request.end, STRETCH_BYTES);
            let stretch = stretch.map_err(|problem| problem.to_string())?;
            if let Some(stretch) = stretch {
                response.previous = stretch.previous.0.to_vec().into();
                response.entries = stretch.entries.iter().map(Entry::to_bytes).collect();
            }
        }
        Ok(response.encode_to_vec().into())
    }
}
