//! One Raft group a partition: ordering changes, and saying what is ordered.
//!
//! The invariant, in the order in which its parts become true:
//! `purged ≤ snapshot ≤ applied ≤ committed ≤ last`, and a reader is given only what is both
//! committed and durable here. What entries mean is none of this module's business.

pub mod log_store;
pub mod raft_types;
pub mod router;
pub mod state_machine;

use crate::env::{Env, Runtime};
use crate::mesh::{Mesh, Method};
use crate::planted::{Bug, is_on};
use crate::reader::{ReadProblem, Reader, SnapshotManifest, SnapshotSource};
use crate::segment::{PartitionState, SegmentLog};
use crate::watch::Watched;
use aber_proto::{ChainHash, Entry, LogId, NodeId, PartitionId, Timestamp};
use bytes::Bytes;
use futures::TryStreamExt;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal};
use openraft::impls::BasicNode;
use openraft::{Config, SnapshotPolicy};
use raft_types::{C, Proposal, decode_membership, to_raft_id};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// openraft's handle of one group.
pub type Raft<E> = openraft::Raft<C, state_machine::StateMachine<E>>;

/// Changes that wait for the leader's hand at most; beyond, the proposer is told to come again.
const PROPOSALS_WAITING: usize = 4096;
/// Changes handed to Raft in one call.
const PROPOSALS_AT_ONCE: usize = 64;
/// The exit code of a node whose log cannot be read or written.
const EXIT_GROUP: i32 = 74;

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

/// What a group needs to start.
pub struct PartitionOptions<E: Env> {
    /// The world.
    pub env: E,
    /// This node.
    pub me: NodeId,
    /// The partition.
    pub partition: PartitionId,
    /// The voters of the genesis, with their addresses.
    pub voters: BTreeMap<NodeId, String>,
    /// The other members of the genesis; the leader adds them as learners.
    pub learners: BTreeMap<NodeId, String>,
    /// How patient Raft is.
    pub timing: Timing,
    /// Entries between two snapshots; Raft keeps twice as many beyond the newest one.
    pub snapshot_every: u64,
    /// The node's log.
    pub log: SegmentLog<E>,
    /// The node's links.
    pub mesh: Mesh<E>,
    /// Snapshots of the view.
    pub snapshots: Arc<dyn SnapshotSource>,
}

pub(crate) struct Shared<E: Env> {
    runtime: E::Runtime,
    partition: PartitionId,
    log: SegmentLog<E>,
    snapshots: Arc<dyn SnapshotSource>,
    committed: Watched<Option<LogId>>,
    installed: Mutex<Option<(LogId, ChainHash)>>,
}

impl<E: Env> Shared<E> {
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

/// One partition of this node.
pub struct Partition<E: Env> {
    raft: Raft<E>,
    shared: Arc<Shared<E>>,
    proposals: mpsc::Sender<Waiting>,
    me: NodeId,
}

impl<E: Env> Clone for Partition<E> {
    fn clone(&self) -> Self {
        Self {
            raft: self.raft.clone(),
            shared: Arc::clone(&self.shared),
            proposals: self.proposals.clone(),
            me: self.me,
        }
    }
}

fn config(options: &Timing, snapshot_every: u64) -> Result<Config, openraft::ConfigError> {
    Config {
        cluster_name: "aber".to_owned(),
        heartbeat_interval: options.heartbeat_ms,
        heartbeat_min_interval: Some(options.heartbeat_ms * 4 / 5),
        election_timeout_min: options.election_min_ms,
        election_timeout_max: options.election_max_ms,
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        snapshot_policy: SnapshotPolicy::Never,
        replication_lag_threshold: snapshot_every * 2,
        max_in_snapshot_log_to_keep: snapshot_every * 2,
        max_payload_entries: 64,
        max_append_entries: Some(64),
        api_batch_capacity: 64,
        api_channel_size: Some(256),
        state_machine_channel_size: Some(64),
        ..Config::default()
    }
    .validate()
}

impl<E: Env> Partition<E> {
    /// Starts the group from what log and snapshots hold. On a voter whose log is empty the group
    /// is initialised with the genesis' voters, the same on each of them.
    ///
    /// # Errors
    /// What openraft says: the storage failed, or the settings contradict each other.
    pub async fn start(options: PartitionOptions<E>) -> Result<Self, String> {
        let partition = options.partition;
        let newest = options.snapshots.newest(partition);
        let (applied, membership) = match &newest {
            Some(snapshot) => {
                let membership = decode_membership(&snapshot.membership);
                let membership = membership.map_err(|problem| problem.to_string())?;
                (Some(to_raft_id(snapshot.log_id)), membership)
            }
            None => Default::default(),
        };
        let shared = Arc::new(Shared {
            runtime: options.env.runtime().clone(),
            partition,
            log: options.log,
            snapshots: options.snapshots,
            committed: Watched::new(newest.map(|snapshot| snapshot.log_id)),
            installed: Mutex::new(None),
        });
        let config = config(&options.timing, options.snapshot_every).map_err(|e| e.to_string())?;
        let router = router::Router { mesh: options.mesh };
        let factory = router::Factory { router, partition };
        let store = log_store::LogStore {
            shared: Arc::clone(&shared),
        };
        let machine = state_machine::StateMachine {
            shared: Arc::clone(&shared),
            applied,
            membership,
        };
        let raft = Raft::new(options.me.0, Arc::new(config), factory, store, machine);
        let raft = raft.await.map_err(|error| error.to_string())?;
        let (proposals, waiting) = mpsc::channel(PROPOSALS_WAITING);
        let this = Self {
            raft,
            shared,
            proposals,
            me: options.me,
        };
        this.initialize(&options.voters).await?;
        let runtime = options.env.runtime();
        runtime.spawn("proposer", this.clone().order_all(waiting));
        runtime.spawn("group", this.clone().end_with_group());
        if !options.learners.is_empty() {
            runtime.spawn("learners", this.clone().keep_learners(options.learners));
        }
        Ok(this)
    }

    async fn initialize(&self, voters: &BTreeMap<NodeId, String>) -> Result<(), String> {
        let is_initialized = self
            .raft
            .is_initialized()
            .await
            .map_err(|error| error.to_string())?;
        if is_initialized || !voters.contains_key(&self.me) {
            return Ok(());
        }
        let nodes: BTreeMap<u64, BasicNode> = voters
            .iter()
            .map(|(node, address)| (node.0, BasicNode::new(address)))
            .collect();
        match self.raft.initialize(nodes).await {
            // Another voter was quicker: its entry is the same as ours would have been.
            Err(openraft::errors::RaftError::APIError(_)) | Ok(()) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// A group that stopped over a failure takes the node with it (promise D4): a voter that looks
    /// alive and neither votes nor follows would stay behind for ever.
    async fn end_with_group(self) {
        let mut metrics = self.raft.metrics();
        loop {
            let state = metrics.borrow_watched().running_state.clone();
            match state {
                Err(Fatal::Stopped) => return,
                Err(fatal) => {
                    let partition = self.shared.partition;
                    let why = format!("partition {partition} stopped: {fatal}");
                    return self.shared.runtime.fail(EXIT_GROUP, &why);
                }
                Ok(()) if metrics.changed().await.is_err() => return,
                Ok(()) => {}
            }
        }
    }

    async fn keep_learners(self, learners: BTreeMap<NodeId, String>) {
        loop {
            self.shared.runtime.sleep(Duration::from_secs(1)).await;
            if !self.is_leader() {
                continue;
            }
            let known: Vec<u64> = self.members();
            for (node, address) in learners.iter().filter(|(node, _)| !known.contains(&node.0)) {
                let added = self
                    .raft
                    .add_learner(node.0, BasicNode::new(address), false)
                    .await;
                if added.is_err() {
                    break;
                }
            }
        }
    }

    fn members(&self) -> Vec<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics
            .membership_config
            .membership()
            .nodes()
            .map(|(node, _)| *node)
            .collect()
    }

    /// The partition's id.
    pub fn id(&self) -> PartitionId {
        self.shared.partition
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
            if leader != Some(self.me) {
                let _gone = answer.send(Err(ProposeProblem::NotLeader { leader }));
            } else if let Err(refused) = self.proposals.try_send(Waiting {
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

    async fn order_all(self, mut waiting: mpsc::Receiver<Waiting>) {
        let mut last_time = Timestamp::default();
        let mut batch = Vec::with_capacity(PROPOSALS_AT_ONCE);
        while waiting.recv_many(&mut batch, PROPOSALS_AT_ONCE).await > 0 {
            last_time = last_time.max(self.shared.runtime.wall_clock());
            let (mut proposals, mut answers) = (Vec::new(), Vec::new());
            for one in batch.drain(..) {
                let (control_index, body) = (one.control_index, one.change);
                proposals.push(Proposal {
                    order_time: last_time,
                    control_index,
                    body,
                    chain: None,
                });
                answers.push(one.answer);
            }
            match self.raft.client_write_many(proposals).await {
                Ok(results) => {
                    self.shared
                        .runtime
                        .spawn("proposals", tell_results(results, answers));
                }
                Err(fatal) => {
                    for answer in answers {
                        let _gone = answer.send(Err(ProposeProblem::Unknown(fatal.to_string())));
                    }
                }
            }
        }
    }

    /// Whether this node leads the group, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.leader() == Some(self.me)
    }

    /// Who leads the group, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.raft
            .metrics()
            .borrow_watched()
            .current_leader
            .map(NodeId)
    }

    /// The group's term as this node knows it.
    pub fn term(&self) -> u64 {
        self.raft.metrics().borrow_watched().current_term
    }

    /// The present voters.
    pub fn voters(&self) -> Vec<NodeId> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics
            .membership_config
            .membership()
            .voter_ids()
            .map(NodeId)
            .collect()
    }

    /// The last committed entry this node knows of.
    pub fn committed(&self) -> Watched<Option<LogId>> {
        self.shared.committed.clone()
    }

    /// What the log holds of this partition.
    pub fn log_state(&self) -> PartitionState {
        self.shared.log.state(self.shared.partition)
    }

    /// Tells Raft that a newer snapshot is there, so that it may forget what the snapshot covers.
    pub async fn snapshot_made(&self) {
        // A group that stops meanwhile needs no snapshot.
        let _stopping = self.raft.trigger().snapshot().await.is_err();
    }

    /// Asks another voter to lead.
    pub async fn transfer_leader(&self, to: NodeId) {
        let _stopping = self.raft.trigger().transfer_leader(to.0).await.is_err();
    }

    /// Answers a Raft message from another node.
    ///
    /// # Errors
    /// A malformed message, or one in somebody else's name.
    pub async fn answer(
        self,
        from: NodeId,
        method: Method,
        payload: Bytes,
    ) -> Result<Bytes, String> {
        router::answer(self, from, method, payload).await
    }

    /// Ends the group; its log stays open.
    pub async fn stop(&self) {
        let _panicked = self.raft.shutdown().await.is_err();
    }
}

type Results =
    futures::stream::BoxStream<'static, Result<openraft::raft::WriteResult<C>, Fatal<C>>>;

async fn tell_results(
    mut results: Results,
    answers: Vec<oneshot::Sender<Result<u64, ProposeProblem>>>,
) {
    for answer in answers {
        let result = match results.try_next().await {
            Ok(Some(Ok(done))) => Ok(done.log_id.index),
            Ok(Some(Err(ClientWriteError::ForwardToLeader(forward)))) => {
                Err(ProposeProblem::NotLeader {
                    leader: forward.leader_id.map(NodeId),
                })
            }
            Ok(Some(Err(other))) => Err(ProposeProblem::Unknown(other.to_string())),
            Ok(None) => Err(ProposeProblem::Unknown("the group stopped".to_owned())),
            Err(fatal) => Err(ProposeProblem::Unknown(fatal.to_string())),
        };
        let _gone = answer.send(result);
    }
}

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
        let of = |p: &Partition<E>| (p.shared.partition, Arc::clone(&p.shared));
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
        let last = if is_on(Bug::ReadUncommitted) {
            u64::MAX
        } else {
            committed.until(ready).await.map_or(0, |id| id.index)
        };
        let durable = flushed.until(|index| *index >= from).await;
        let last = last.min(durable);
        let damaged =
            |problem: crate::segment::SegmentProblem| ReadProblem::Damaged(problem.to_string());
        let entries = shared
            .log
            .read(partition, from, last + 1, bytes)
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
