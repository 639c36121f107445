//! [driver] Content between nodes: who holds it before it is ordered, and fetching what lacks.
//!
//! `hold`: another node is asked to fetch, verify and sync what a change refers to; only its answer
//! counts as a copy (promise D2). `want`: what lacks is asked for of all peers at once (`plan`);
//! what is read, of one peer after the other. All of it is verified before it is stored (promise I1).
//! Every node that has a chunk serves it.

mod ahead;
mod answer;
mod body;
mod plan;
mod turn;

use crate::chunk::store::PackStore;
use crate::chunk::{ChunkProblem, ChunkStore};
use crate::env::{Env, Runtime};
use crate::ingest::{self, ContentProblem};
use crate::mesh::{CallProblem, Mesh, Method};
use crate::relay::{Holders, Relay, Roster, fold};
use crate::watch::Watched;
use aber_proto::generated::rpc;
use aber_proto::{ChunkHash, ChunkList, ChunkRef, Content, NodeId, RequestId, limit, manifest};
use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use plan::Plan;
use prost::Message;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// For one group of chunks, at the slowest rate we serve.
const CHUNKS_DEADLINE: Duration = Duration::from_secs(60);
/// A node that says nothing for so long may be cut off: the next one is asked too.
const PATIENCE: Duration = Duration::from_secs(15);
/// And for so many bytes a millisecond more: it may have a slow uplink.
const PATIENT_BYTES_PER_MS: u64 = 32;
/// For a parcel to be fetched, verified and synced by another node.
const HOLD_DEADLINE: Duration = Duration::from_secs(300);
/// A peer that does not hold content after so long may hang: the next one is asked as well.
const HOLD_PATIENCE: Duration = Duration::from_secs(1);
/// And for so many bytes a millisecond more: a slow uplink is no reason to send content twice.
const HOLD_BYTES_PER_MS: u64 = 64;
/// Raw bytes asked for in one group: compressed or not, it fits one message, and it comes in time over
/// the slowest uplink that is paced.
const GROUP_BYTES: u64 = 256 * 1024;
/// Waits between rounds over all peers.
const ROUND_PAUSE: Duration = Duration::from_millis(500);
/// Rounds before a read gives up.
const READ_ROUNDS: usize = 3;
/// Bytes of frames in one answer.
const ANSWER_BYTES: usize = limit::MESSAGE_BYTES - 64 * 1024;

/// The content of this node, backed by that of the others.
pub struct NodeContent<E: Env> {
    inner: Arc<Inner<E>>,
}

struct Inner<E: Env> {
    env: E,
    me: NodeId,
    store: PackStore<E>,
    mesh: Mesh<E>,
    fetching: Mutex<BTreeSet<ChunkHash>>,
    fetched: Watched<u64>,
    /// What lacks, and who is asked for it.
    plan: Mutex<Plan>,
    /// It may have something new to say.
    news: Watched<u64>,
    relay: Relay<E>,
}

impl<E: Env> Inner<E> {
    fn fetching(&self) -> std::sync::MutexGuard<'_, BTreeSet<ChunkHash>> {
        self.fetching.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Chunks that one task fetches and others wait for; given up when it ends, however it ends.
struct Claim<E: Env> {
    inner: Arc<Inner<E>>,
    chunks: Vec<ChunkRef>,
}

impl<E: Env> Drop for Claim<E> {
    fn drop(&mut self) {
        {
            let mut fetching = self.inner.fetching();
            for chunk in &self.chunks {
                fetching.remove(&chunk.hash);
            }
        }
        self.inner.fetched.update(|count| *count += 1);
    }
}

impl<E: Env> Clone for NodeContent<E> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<E: Env> ChunkStore for NodeContent<E> {
    async fn get(&self, chunk: ChunkRef) -> Result<Bytes, ChunkProblem> {
        match self.inner.store.read(chunk) {
            Err(ChunkProblem::Missing { .. } | ChunkProblem::Damaged { .. }) => {}
            answer => return answer,
        }
        // What is on its way comes by itself, once.
        self.inner.relay.wait_for(&chunk.hash).await;
        for round in 0..READ_ROUNDS {
            match self.inner.store.read(chunk) {
                Err(ChunkProblem::Missing { .. } | ChunkProblem::Damaged { .. }) => {}
                answer => return answer,
            }
            if round > 0 {
                self.inner.env.runtime().sleep(ROUND_PAUSE).await;
            }
            self.fetch_group(&[chunk], self.peer_for(chunk)).await?;
        }
        self.inner.store.read(chunk)
    }
}

impl<E: Env> NodeContent<E> {
    /// Content over a store and the links of a node.
    pub fn start(
        env: E,
        me: NodeId,
        store: PackStore<E>,
        mesh: Mesh<E>,
        roster: Arc<dyn Roster>,
    ) -> Self {
        let relay = Relay::start(env.clone(), me, store.clone(), mesh.clone(), roster);
        let (fetching, fetched) = (Mutex::default(), Watched::new(0));
        let (plan, news) = (Mutex::new(Plan::new(me)), Watched::new(0));
        let runtime = env.runtime().clone();
        let inner = Inner {
            env,
            me,
            store,
            mesh,
            fetching,
            fetched,
            plan,
            news,
            relay,
        };
        let this = Self {
            inner: Arc::new(inner),
        };
        runtime.spawn("fetch ahead", this.clone().fetch_ahead());
        this
    }

    /// The node's own store.
    pub fn store(&self) -> &PackStore<E> {
        &self.inner.store
    }

    /// What spreads content down the trees.
    pub fn relay(&self) -> &Relay<E> {
        &self.inner.relay
    }

    /// Fetches what lacks of `chunks` from the peers, each once, beginning with `first` or with
    /// the one after this node. Chunks that another task fetches are waited for.
    async fn fetch_group(
        &self,
        chunks: &[ChunkRef],
        first: Option<NodeId>,
    ) -> Result<(), ChunkProblem> {
        let lacking = self.inner.store.missing(chunks)?;
        let (claim, others) = self.claim(&lacking);
        let missing = || self.inner.store.missing(&claim.chunks);
        let missing = &missing;
        let is_done = || missing().map(|chunks| chunks.is_empty());
        let ask = |peer| async move {
            if let Ok(wanted) = missing() {
                // The next peer is asked for what this one could not give.
                let _failed = self.fetch_from(peer, wanted).await.is_err();
            }
        };
        let (runtime, peers) = (self.inner.env.runtime(), self.peers_from(first));
        let bytes: u64 = lacking.iter().map(|chunk| u64::from(chunk.length)).sum();
        let patience = PATIENCE + Duration::from_millis(bytes / PATIENT_BYTES_PER_MS);
        turn::in_turn(runtime, patience, peers, is_done, ask).await?;
        drop(claim);
        self.wait_for(&others).await;
        Ok(())
    }

    fn claim(&self, chunks: &[ChunkRef]) -> (Claim<E>, Vec<ChunkRef>) {
        let mut fetching = self.inner.fetching();
        let (chunks, others) = chunks.iter().partition(|chunk| fetching.insert(chunk.hash));
        let inner = Arc::clone(&self.inner);
        (Claim { inner, chunks }, others)
    }

    async fn wait_for(&self, chunks: &[ChunkRef]) {
        let mut fetched = self.inner.fetched.clone();
        let wait = async {
            while chunks
                .iter()
                .any(|chunk| self.inner.fetching().contains(&chunk.hash))
            {
                fetched.changed().await;
            }
        };
        let _late = self
            .inner
            .env
            .runtime()
            .timeout(CHUNKS_DEADLINE, wait)
            .await;
    }

    /// Who is asked first for a chunk that is read: not the same for all chunks, nor here and elsewhere.
    fn peer_for(&self, chunk: ChunkRef) -> Option<NodeId> {
        let word = chunk.hash.0.first_chunk().copied().map(u64::from_le_bytes);
        let up = self.inner.mesh.peers_up().into_iter();
        up.min_by_key(|peer| fold([self.inner.me.0, peer.0, word.unwrap_or(0)]))
    }

    /// Reachable peers in ring order: `first`, or the one after this node, comes first.
    fn peers_from(&self, first: Option<NodeId>) -> Vec<NodeId> {
        let start = first.unwrap_or(NodeId(self.inner.me.0 + 1));
        let up = self.inner.mesh.peers_up();
        let (after, before): (Vec<_>, Vec<_>) = up.into_iter().partition(|peer| *peer >= start);
        after.into_iter().chain(before).collect()
    }

    async fn fetch_from(
        &self,
        peer: NodeId,
        mut wanted: Vec<ChunkRef>,
    ) -> Result<(), FetchProblem> {
        while !wanted.is_empty() {
            let (got, lacking) = self.ask_chunks(peer, &wanted).await?;
            if got.is_empty() {
                return Ok(());
            }
            wanted.retain(|chunk| !got.contains(chunk) && !lacking.contains(&chunk.hash));
        }
        Ok(())
    }

    /// Asks a node for chunks: those that came, verified and stored, and those it lacks. It may leave
    /// out what does not fit one message.
    async fn ask_chunks(
        &self,
        peer: NodeId,
        wanted: &[ChunkRef],
    ) -> Result<(Vec<ChunkRef>, BTreeSet<ChunkHash>), FetchProblem> {
        let hashes = wanted.iter();
        let hashes = hashes.map(|chunk| Bytes::copy_from_slice(&chunk.hash.0));
        let request = rpc::ChunksRequest {
            hashes: hashes.collect(),
        };
        let answer: rpc::ChunksResponse = self
            .ask(peer, Method::Chunks, &request, CHUNKS_DEADLINE)
            .await?;
        let mut got = Vec::new();
        for frame in answer.frames {
            let chunk = self.inner.store.put_frame(&frame)?;
            if !wanted.contains(&chunk) {
                return Err(FetchProblem::Lied(peer));
            }
            self.inner.relay.stored(chunk.hash, Some(peer));
            got.push(chunk);
        }
        let lacking = answer.missing.iter();
        let lacking = lacking.filter_map(|hash| ChunkHash::from_slice(hash));
        Ok((got, lacking.collect()))
    }

    async fn ask<T: Message + Default>(
        &self,
        peer: NodeId,
        method: Method,
        message: &impl Message,
        deadline: Duration,
    ) -> Result<T, FetchProblem> {
        let payload = Bytes::from(message.encode_to_vec());
        let answer = self
            .inner
            .mesh
            .call(peer, method, payload, deadline)
            .await?;
        T::decode(answer).map_err(|_| FetchProblem::Lied(peer))
    }

    /// All chunks that `content` consists of, those of a stored list first. A list that is not
    /// here is fetched.
    ///
    /// # Errors
    /// The list cannot be had.
    pub async fn chunks_of(&self, content: &Content) -> Result<Vec<ChunkRef>, ContentProblem> {
        match content {
            Content::Inline(_) => Ok(Vec::new()),
            Content::Chunks(manifest) => {
                let mut chunks = match &manifest.chunks {
                    ChunkList::Direct(_) => Vec::new(),
                    ChunkList::Indirect(list) => list.clone(),
                };
                chunks.extend(ingest::resolve_chunks(self, manifest).await?);
                Ok(chunks)
            }
        }
    }

    /// Makes `copies` nodes, this one included, hold these chunks.
    ///
    /// # Errors
    /// What hinders it, as a sentence; what was reached stays.
    pub async fn hold(
        &self,
        request: RequestId,
        chunks: &[ChunkRef],
        copies: usize,
    ) -> Result<(), String> {
        self.inner
            .store
            .sync()
            .await
            .map_err(|problem| problem.to_string())?;
        let holding = self.inner.relay.holding(request, chunks);
        if chunks.is_empty() || self.inner.relay.hold(request, chunks, copies).await.is_ok() {
            holding.end(Holders::Relayed);
            return Ok(());
        }
        self.ask_for_copies(chunks, copies).await?;
        holding.end(match copies {
            0 | 1 => Holders::Relayed,
            _ => Holders::Asked,
        });
        Ok(())
    }

    /// Where the relay does not get on: others are asked to fetch what they lack.
    async fn ask_for_copies(&self, chunks: &[ChunkRef], copies: usize) -> Result<(), String> {
        let (mut holders, mut problems) = (1, Vec::new());
        let mut peers = self.peers_from(None).into_iter();
        let mut asked = FuturesUnordered::new();
        let bytes: u64 = chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
        let patience = HOLD_PATIENCE + Duration::from_millis(bytes / HOLD_BYTES_PER_MS);
        while holders < copies {
            // No more are asked than copies are wanted, unless one does not answer.
            if holders + asked.len() < copies
                && let Some(peer) = peers.next()
            {
                asked.push(self.ask_to_hold(peer, chunks));
                continue;
            }
            let runtime = self.inner.env.runtime();
            match runtime.timeout(patience, asked.next()).await {
                Some(Some(Ok(()))) => holders += 1,
                Some(Some(Err(problem))) => problems.push(problem.to_string()),
                Some(None) => break,
                None => asked.extend(peers.next().map(|peer| self.ask_to_hold(peer, chunks))),
            }
        }
        if holders >= copies {
            return Ok(());
        }
        problems.insert(0, format!("{holders} of {copies} nodes hold the content"));
        Err(problems.join("; "))
    }

    async fn ask_to_hold(&self, peer: NodeId, chunks: &[ChunkRef]) -> Result<(), FetchProblem> {
        for parcel in chunks.chunks(limit::PARCEL_CHUNKS) {
            let request = rpc::HoldRequest {
                rows: manifest::encode_list(parcel).into(),
            };
            let answer: rpc::HoldResponse = self
                .ask(peer, Method::Hold, &request, HOLD_DEADLINE)
                .await?;
            if !answer.held {
                return Err(FetchProblem::NotHeld {
                    peer,
                    why: answer.problem,
                });
            }
        }
        Ok(())
    }

    /// How many bytes of these chunks `peer` says it holds; `None` if it cannot be asked.
    pub async fn held_by(&self, peer: NodeId, chunks: &[ChunkRef]) -> Option<u64> {
        let mut held_bytes = 0;
        for parcel in chunks.chunks(limit::PARCEL_CHUNKS) {
            let request = rpc::HeldRequest {
                rows: manifest::encode_list(parcel).into(),
            };
            let answer: rpc::HeldResponse = self
                .ask(peer, Method::Held, &request, CHUNKS_DEADLINE)
                .await
                .ok()?;
            held_bytes += answer.held_bytes;
        }
        Some(held_bytes)
    }
}

/// Cuts a list of chunks into groups that are asked for together.
fn groups(chunks: Vec<ChunkRef>) -> Vec<Vec<ChunkRef>> {
    let mut groups: Vec<Vec<ChunkRef>> = Vec::new();
    let mut bytes = u64::MAX;
    for chunk in chunks {
        let is_full = groups
            .last()
            .is_none_or(|group| group.len() >= limit::PARCEL_CHUNKS);
        if is_full || bytes.saturating_add(u64::from(chunk.length)) > GROUP_BYTES {
            groups.push(Vec::new());
            bytes = 0;
        }
        bytes += u64::from(chunk.length);
        if let Some(group) = groups.last_mut() {
            group.push(chunk);
        }
    }
    groups
}

/// Why a peer did not give or hold content.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
enum FetchProblem {
    #[error(transparent)]
    Call(#[from] CallProblem),
    #[error(transparent)]
    Store(#[from] ChunkProblem),
    #[error("node {0} sent something malformed, or content that was not asked for")]
    Lied(NodeId),
    #[error("node {peer} could not hold the content: {why}")]
    NotHeld { peer: NodeId, why: String },
}

#[cfg(test)]
mod tests;
