//! One Raft group a partition: ordering changes, and saying what is ordered.
//!
//! The invariant, in the order in which its parts become true:
//! `purged ≤ snapshot ≤ applied ≤ committed ≤ last`, and a reader is given only what is both
//! committed and durable here. What entries mean is none of this module's business.

mod beats;
mod bodies;
mod follow;
mod group;
mod log_reader;
pub mod log_store;
pub mod raft_types;
pub mod router;
pub mod state_machine;
mod votes;

pub use beats::{BeatTimes, Beats, LIMITS_MS as BEAT_LIMITS_MS, answer as answer_beats};
pub use bodies::{Bodies, BodyProblem, BodySource, NoBodies};
pub use log_reader::LogReader;

use crate::env::{Env, Runtime};
use crate::mesh::{Mesh, Method};
use crate::reader::SnapshotSource;
use crate::segment::{PartitionState, SegmentLog, SegmentProblem};
use crate::watch::Watched;
use aber_proto::generated::rpc;
use aber_proto::{ChainHash, Head, LogId, NodeId, PartitionId, SignedHead};
use bytes::Bytes;
use openraft::RaftMetrics;
use openraft::alias::StoredMembershipOf;
use openraft::async_runtime::WatchReceiver;
use prost::Message;
use raft_types::{C, decode_membership};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};

/// openraft's handle of one group.
pub type Raft<E> = openraft::Raft<C, state_machine::StateMachine<E>>;

/// Changes that wait for the leader's hand at most; beyond, the proposer is told to come again.
const PROPOSALS_WAITING: usize = 4096;

const NO_PART: &str = "this node is not part of the group";

/// How patient Raft is. All voters of a cluster use the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// Between heartbeats, in milliseconds.
    pub heartbeat_ms: u64,
    /// Least election timeout, in milliseconds.
    pub election_min_ms: u64,
    /// Greatest election timeout, in milliseconds; also the leader's lease.
    pub election_max_ms: u64,
}

impl Timing {
    /// Between nodes that share a LAN or a machine.
    pub const LAN: Self = Self {
        heartbeat_ms: 250,
        election_min_ms: 1000,
        election_max_ms: 2000,
    };
    /// Over ADSL.
    pub const ADSL: Self = Self {
        heartbeat_ms: 1000,
        election_min_ms: 5000,
        election_max_ms: 10_000,
    };
}

/// What a group asks of those who know the members. Defined here, implemented above, so that the
/// log never learns what a member is.
pub trait Council: Send + Sync + 'static {
    /// Whether a node is a member that may vote, and so lead, append and sign heads (promise S3).
    fn may_vote(&self, node: NodeId) -> bool;
    /// Who should vote in a group where these vote now; never two.
    fn voters(&self, present: &[NodeId]) -> Vec<NodeId>;
    /// Signs what this node knows to be committed and has durable.
    fn sign(&self, head: Head) -> SignedHead;
    /// Whether a head is signed by a member that may vote.
    fn is_good(&self, head: &SignedHead) -> bool;
    /// Above this node in the tree that entries go down from `leader`: its parent first, `leader`
    /// last. Empty if there is no way, or this node is `leader`.
    fn parents(&self, leader: NodeId) -> Vec<NodeId>;
}

/// What a partition needs to start.
pub struct PartitionOptions<E: Env> {
    /// The world.
    pub env: E,
    /// This node.
    pub me: NodeId,
    /// The partition.
    pub partition: PartitionId,
    /// The voters of the genesis; who votes later is told by the log.
    pub founders: BTreeSet<NodeId>,
    /// How patient Raft is.
    pub timing: Timing,
    /// Entries between two snapshots; Raft keeps twice as many beyond the newest one.
    pub snapshot_every: u64,
    /// The node's log.
    pub log: SegmentLog<E>,
    /// The node's links.
    pub mesh: Mesh<E>,
    /// The heartbeats of all its groups.
    pub beats: Beats<E>,
    /// Snapshots of the view.
    pub snapshots: Arc<dyn SnapshotSource>,
    /// Who knows the members.
    pub council: Arc<dyn Council>,
    /// Large bodies, those of all groups of the node.
    pub bodies: Bodies,
}

pub(crate) struct Shared<E: Env> {
    runtime: E::Runtime,
    partition: PartitionId,
    log: SegmentLog<E>,
    snapshots: Arc<dyn SnapshotSource>,
    committed: Watched<Option<LogId>>,
    installed: Mutex<Option<(LogId, ChainHash)>>,
    /// As of the last committed entry known here.
    membership: Watched<StoredMembershipOf<C>>,
}

impl<E: Env> Shared<E> {
    /// The chain hash before the partition's first entry.
    fn start_chain(&self) -> ChainHash {
        ChainHash::genesis(&self.log.cluster(), self.partition)
    }

    /// Whether the log leads to what is known to be committed. It may not for a moment: a snapshot
    /// is installed before Raft lets go of what it took the place of, and that may hold entries
    /// which were never committed.
    fn leads_to(&self, committed: LogId) -> Result<bool, SegmentProblem> {
        let found = self.log.chain_at(self.partition, committed.index)?;
        Ok(found.is_some_and(|(id, _)| id == committed))
    }

    fn publish_committed(&self, id: LogId) {
        self.committed
            .update(|present| *present = (*present).max(Some(id)));
    }

    fn remember_installed(&self, id: LogId, chain: ChainHash) {
        *self
            .installed
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some((id, chain));
    }

    fn chain_of_installed(&self, id: LogId) -> Option<ChainHash> {
        let installed = *self
            .installed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let installed = installed
            .filter(|(found, _)| *found == id)
            .map(|(_, chain)| chain);
        installed.or_else(|| {
            self.snapshots
                .newest(self.partition)
                .filter(|s| s.log_id == id)
                .map(|s| s.chain)
        })
    }
}

/// Why a change was not ordered. It may be, later, unless it says that nothing was done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProposeProblem {
    /// This node does not lead; nothing was done.
    #[error("another node leads")]
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// Too much waits already; nothing was done.
    #[error("too many changes wait for the leader")]
    Overloaded,
    /// The outcome is unknown.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
}

struct Waiting {
    change: Bytes,
    control_index: u64,
    answer: oneshot::Sender<Result<u64, ProposeProblem>>,
}

/// One partition of this node: part of its Raft group, or following it.
pub struct Partition<E: Env> {
    inner: Arc<Inner<E>>,
}

struct Inner<E: Env> {
    env: E,
    me: NodeId,
    founders: BTreeSet<NodeId>,
    timing: Timing,
    snapshot_every: u64,
    mesh: Mesh<E>,
    beats: Beats<E>,
    council: Arc<dyn Council>,
    bodies: Bodies,
    shared: Arc<Shared<E>>,
    proposals: mpsc::Sender<Waiting>,
    /// Raft, while this node is part of the group.
    group: Mutex<Option<Raft<E>>>,
    /// One change between the two at a time.
    turn: AsyncMutex<()>,
    is_following: Watched<bool>,
    /// How often this node began to follow.
    follow_turns: AtomicU64,
    /// Who leads, by the word of whom this node follows.
    told_leader: Mutex<Option<NodeId>>,
    /// Whom this node follows, whom that one follows, up to a voter; `None` while nobody feeds it.
    way: Watched<Option<Vec<NodeId>>>,
    /// Under which this node believed what it followed.
    heads: Mutex<follow::KeptHeads>,
    /// How far others said they are.
    positions: Watched<follow::Positions>,
    /// Entries and heartbeats that came from leaders.
    heard_count: AtomicU64,
    /// Candidates' questions.
    asked_count: AtomicU64,
}

impl<E: Env> Clone for Partition<E> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<E: Env> Partition<E> {
    /// Starts the partition from what log and snapshots hold: in the group if this node was part of
    /// it, or is a voter of the genesis that starts for the first time; else behind it.
    ///
    /// # Errors
    /// What openraft says: the storage failed, or the settings contradict each other.
    pub async fn start(options: PartitionOptions<E>) -> Result<Self, String> {
        let PartitionOptions { partition, log, .. } = options;
        let newest = options.snapshots.newest(partition);
        let membership = match &newest {
            Some(snapshot) => {
                decode_membership(&snapshot.membership).map_err(|problem| problem.to_string())?
            }
            None => StoredMembershipOf::<C>::default(),
        };
        let shared = Arc::new(Shared {
            runtime: options.env.runtime().clone(),
            partition,
            log,
            snapshots: options.snapshots,
            committed: Watched::new(newest.map(|snapshot| snapshot.log_id)),
            installed: Mutex::new(None),
            membership: Watched::new(membership),
        });
        let (proposals, waiting) = mpsc::channel(PROPOSALS_WAITING);
        let inner = Inner {
            env: options.env,
            me: options.me,
            founders: options.founders,
            timing: options.timing,
            snapshot_every: options.snapshot_every,
            mesh: options.mesh,
            beats: options.beats,
            council: options.council,
            bodies: options.bodies,
            shared,
            proposals,
            group: Mutex::new(None),
            turn: AsyncMutex::new(()),
            is_following: Watched::new(false),
            follow_turns: AtomicU64::new(0),
            told_leader: Mutex::new(None),
            way: Watched::new(None),
            heads: Mutex::default(),
            positions: Watched::new(follow::Positions::default()),
            heard_count: AtomicU64::new(0),
            asked_count: AtomicU64::new(0),
        };
        let this = Self {
            inner: Arc::new(inner),
        };
        this.enter().await?;
        let runtime = this.inner.env.runtime();
        runtime.spawn("proposer", this.clone().order_all(waiting));
        Ok(this)
    }

    fn raft(&self) -> Option<Raft<E>> {
        lock(&self.inner.group).clone()
    }

    /// What openraft says of the group; `None` while this node follows it from outside.
    fn metrics<T>(&self, of: impl FnOnce(&RaftMetrics<C>) -> T) -> Option<T> {
        let raft = self.raft()?;
        Some(of(&raft.metrics().borrow_watched()))
    }

    /// The partition's id.
    pub fn id(&self) -> PartitionId {
        self.inner.shared.partition
    }

    /// Queues changes for ordering, in this order; returns at once. The answers come when each is
    /// committed. Only the leader orders.
    pub fn propose(
        &self,
        changes: Vec<Bytes>,
        control_index: u64,
    ) -> Vec<oneshot::Receiver<Result<u64, ProposeProblem>>> {
        let mut answers = Vec::with_capacity(changes.len());
        let leader = self.leader();
        for change in changes {
            let (answer, receiver) = oneshot::channel();
            answers.push(receiver);
            if leader != Some(self.inner.me) {
                let _gone = answer.send(Err(ProposeProblem::NotLeader { leader }));
            } else if let Err(refused) = self.inner.proposals.try_send(Waiting {
                change,
                control_index,
                answer,
            }) {
                let _gone = refused
                    .into_inner()
                    .answer
                    .send(Err(ProposeProblem::Overloaded));
            }
        }
        answers
    }

    /// Whether this node leads the group, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.metrics(|metrics| metrics.state.is_leader()) == Some(true)
    }

    /// Who leads the group, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        let me = self.inner.me.0;
        let said = self.metrics(|metrics| {
            // One that led before it was restarted does not lead, whatever its vote says.
            let leads = metrics.state.is_leader();
            metrics
                .current_leader
                .filter(|leader| *leader != me || leads)
        });
        match said {
            Some(leader) => leader.map(NodeId),
            None => *lock(&self.inner.told_leader),
        }
    }

    /// How long the heartbeats of this node took to be answered: those of all its groups.
    #[must_use]
    pub fn beat_times(&self) -> BeatTimes {
        self.inner.beats.times()
    }

    /// The group's term as this node knows it.
    pub fn term(&self) -> u64 {
        let term = self.metrics(|metrics| metrics.current_term);
        let here = self.inner.shared.committed.get();
        term.unwrap_or_else(|| here.map_or(0, |id| id.term))
    }

    /// The present voters, as far as this node knows.
    pub fn voters(&self) -> Vec<NodeId> {
        let of = |membership: &StoredMembershipOf<C>| -> Vec<_> {
            membership.membership().voter_ids().map(NodeId).collect()
        };
        let voters = self.metrics(|metrics| of(&metrics.membership_config));
        voters.unwrap_or_else(|| of(&self.inner.shared.membership.get()))
    }

    /// Whether this node votes in the group.
    pub fn votes(&self) -> bool {
        self.raft().is_some() && self.voters().contains(&self.inner.me)
    }

    /// Whom this node follows; `None` while it is part of the group, or nobody feeds it.
    pub fn upstream(&self) -> Option<NodeId> {
        self.inner.way.get()?.first().copied()
    }

    /// Notes how far another node says it is: one that is followed and lags behind others is left.
    pub fn heard_of(&self, node: NodeId, committed_index: u64) {
        let now = self.inner.env.runtime().now();
        let note = |all: &mut follow::Positions| all.put(node, committed_index, now);
        self.inner.positions.update(note);
    }

    /// The last committed entry this node knows of.
    pub fn committed(&self) -> Watched<Option<LogId>> {
        self.inner.shared.committed.clone()
    }

    /// What the log holds of this partition.
    pub fn log_state(&self) -> PartitionState {
        self.inner.shared.log.state(self.id())
    }

    /// Tells Raft that a newer snapshot is there, so that it may forget what the snapshot covers.
    pub async fn snapshot_made(&self) {
        if let Some(raft) = self.raft() {
            // A group that stops meanwhile needs no snapshot.
            let _stopping = raft.trigger().snapshot().await.is_err();
        }
    }

    /// Asks another voter to lead.
    pub async fn transfer_leader(&self, to: NodeId) {
        if let Some(raft) = self.raft() {
            let _stopping = raft.trigger().transfer_leader(to.0).await.is_err();
        }
    }

    /// Answers a Raft message from another node, or one that follows the group. A node outside the
    /// group that is sent entries or asked for its vote becomes part of it.
    ///
    /// # Errors
    /// A malformed message, one in somebody else's name, or by one who may not vote.
    pub async fn answer(
        self,
        from: NodeId,
        method: Method,
        payload: Bytes,
    ) -> Result<Bytes, String> {
        match method {
            Method::Follow => return self.answer_follow(from, payload).await,
            Method::Body => return self.answer_bodies(from, payload),
            _ => {}
        }
        if !self.inner.council.may_vote(from) {
            return Err(format!("node {from} may not vote"));
        }
        let raft = match self.raft() {
            Some(raft) => raft,
            None if method == Method::Transfer => return Err(NO_PART.to_owned()),
            // A candidate that lacks what is committed cannot win. Entries tell it what it lacks, and
            // this node passes them on only while it follows.
            None if self.is_behind(method, &payload) => return Err(NO_PART.to_owned()),
            // Another may count on a vote that this node does not know it has: the change that gave
            // it may have reached nobody else before its leader died.
            None => self.join().await?,
        };
        match method {
            Method::Append | Method::Snapshot => &self.inner.heard_count,
            _ => &self.inner.asked_count,
        }
        .fetch_add(1, SeqCst);
        match method {
            Method::Append => self.answer_append(raft, from, payload).await,
            _ => router::answer(raft, from, method, payload).await,
        }
    }

    /// Whether a candidate's log ends before what is known here to be committed.
    fn is_behind(&self, method: Method, payload: &Bytes) -> bool {
        let is_candidate = matches!(method, Method::Vote | Method::PreVote);
        let Ok(request) = rpc::VoteRequest::decode(payload.clone()) else {
            return false;
        };
        let last = request.last.map(|id| LogId {
            term: id.term,
            index: id.index,
        });
        is_candidate && last < self.inner.shared.committed.get()
    }

    /// Ends the partition; its log stays open.
    pub async fn stop(&self) {
        self.inner.is_following.set(false);
        self.set_way(None);
        let raft = self.raft();
        if let Some(raft) = raft {
            let _panicked = raft.shutdown().await.is_err();
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
