//! [driver] Being part of a partition's Raft group: entering it, ordering, deciding who votes.
//!
//! A node outside the group holds a prefix of its committed entries, which is what Raft's log of a
//! new learner is: so it enters with the log it has, once the leader sends it entries, and leaves
//! with the log it has. That it is part of the group is noted before Raft starts: a voter that forgot
//! it would follow others, and its acknowledgements would count for nothing.

use super::beats::next_beat;
use super::raft_types::{C, Proposal, decode_membership, to_raft_id};
use super::votes::{self, Look, Standing, Step, Word};
use super::{Partition, ProposeProblem, Raft, Timing, Waiting, lock};
use super::{log_store, router, state_machine};
use crate::env::{Env, Runtime};
use crate::mesh::Method;
use aber_proto::generated::rpc;
use aber_proto::{NodeId, PartitionId, Timestamp};
use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::join_all;
use openraft::alias::StoredMembershipOf;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal};
use openraft::impls::BasicNode;
use openraft::{ChangeMembers, Config, SnapshotPolicy};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Changes handed to Raft in one call.
const PROPOSALS_AT_ONCE: usize = 64;
/// The exit code of a node whose log cannot be read or written.
const EXIT_GROUP: i32 = 74;
/// The notes that say that this node is part of a group.
const GROUP_PREFIX: &[u8] = b"r/";
/// Between looks at who should vote.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// For one change of the voters; a majority may be away.
const CHANGE_TIME: Duration = Duration::from_secs(10);
/// For asking whether the group goes on without this node.
const ASK_TIME: Duration = Duration::from_secs(60);
/// For a learner's word on how far it is.
const STATUS_TIME: Duration = Duration::from_secs(2);
/// Looks without a vote and without a word until this node leaves the group.
const LOOKS_OUTSIDE: u32 = 3;
/// Looks without a word until this node asks whether the group goes on without it.
const LOOKS_ALONE: u32 = 8;

fn config(options: &Timing, snapshot_every: u64) -> Result<Config, openraft::ConfigError> {
    Config {
        cluster_name: "aber".to_owned(),
        heartbeat_interval: options.heartbeat_ms,
        // By `Partition::beat`, at the same time as all other groups.
        enable_heartbeat: false,
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

fn group_key(partition: PartitionId) -> Bytes {
    [GROUP_PREFIX, &partition.0.to_le_bytes()].concat().into()
}

impl<E: Env> Partition<E> {
    /// Starts as what this node was last.
    pub(super) async fn enter(&self) -> Result<(), String> {
        let inner = &self.inner;
        let note = inner.shared.log.note(&group_key(self.id()));
        let was_part = note.map_err(|problem| problem.to_string())?.is_some();
        let is_new = self.log_state().last.is_none();
        if was_part || (is_new && inner.founders.contains(&inner.me)) {
            let raft = self.join().await?;
            return self.initialize(&raft).await;
        }
        // Not all that a follower has was committed: it may have left the group with a tail.
        if let Some(committed) = self.log_state().committed {
            self.recall_membership();
            inner.shared.publish_committed(committed);
        }
        self.start_following();
        Ok(())
    }

    pub(super) fn start_following(&self) {
        let turn = self.inner.follow_turns.fetch_add(1, SeqCst) + 1;
        self.inner.is_following.set(true);
        let runtime = self.inner.env.runtime();
        runtime.spawn("follow", self.clone().follow_group(turn));
    }

    /// Becomes part of the group, if it is not yet.
    pub(super) async fn join(&self) -> Result<Raft<E>, String> {
        let inner = &self.inner;
        let _turn = inner.turn.lock().await;
        if let Some(raft) = self.raft() {
            return Ok(raft);
        }
        inner.is_following.set(false);
        self.set_way(None);
        let note = vec![(group_key(self.id()), Some(Bytes::from_static(b"1")))];
        let noted = inner.shared.log.write_notes(note).await;
        noted.map_err(|problem| problem.to_string())?;
        let newest = inner.shared.snapshots.newest(self.id());
        let (applied, membership) = match &newest {
            Some(snapshot) => {
                let membership = decode_membership(&snapshot.membership);
                let membership = membership.map_err(|problem| problem.to_string())?;
                (Some(to_raft_id(snapshot.log_id)), membership)
            }
            None => Default::default(),
        };
        let config = config(&inner.timing, inner.snapshot_every).map_err(|e| e.to_string())?;
        let factory = router::Factory {
            router: router::Router {
                runtime: inner.env.runtime().clone(),
                mesh: inner.mesh.clone(),
                bodies: inner.bodies.clone(),
                beats: None,
            },
            beats: inner.beats.clone(),
            partition: self.id(),
        };
        let store = log_store::LogStore {
            shared: Arc::clone(&inner.shared),
        };
        let machine = state_machine::StateMachine {
            shared: Arc::clone(&inner.shared),
            applied,
            membership,
        };
        let raft = Raft::new(inner.me.0, Arc::new(config), factory, store, machine);
        let raft = raft.await.map_err(|error| error.to_string())?;
        *lock(&inner.group) = Some(raft.clone());
        let runtime = inner.env.runtime();
        runtime.trace(format_args!("group {}: part of it", self.id()));
        runtime.spawn("group", self.clone().end_with_group(raft.clone()));
        runtime.spawn("beats", self.clone().beat(raft.clone()));
        runtime.spawn("voters", self.clone().mind_voters(raft.clone()));
        Ok(raft)
    }

    /// Leaves the group, with the log as it is, and follows it. What the log holds beyond what is
    /// committed goes once a committed entry stands in its place, not before.
    async fn leave(&self) {
        let inner = &self.inner;
        let _turn = inner.turn.lock().await;
        let Some(raft) = self.raft() else { return };
        let _panicked = raft.shutdown().await.is_err();
        *lock(&inner.group) = None;
        let note = vec![(group_key(self.id()), None)];
        // A log that failed stops the node by itself.
        let _failed = inner.shared.log.write_notes(note).await.is_err();
        let runtime = inner.env.runtime();
        runtime.trace(format_args!("group {}: left", self.id()));
        self.start_following();
    }

    async fn initialize(&self, raft: &Raft<E>) -> Result<(), String> {
        let is_initialized = raft
            .is_initialized()
            .await
            .map_err(|error| error.to_string())?;
        if is_initialized || !self.inner.founders.contains(&self.inner.me) {
            return Ok(());
        }
        let founders = self.inner.founders.iter();
        let nodes: BTreeMap<u64, BasicNode> = founders
            .map(|node| (node.0, BasicNode::default()))
            .collect();
        match raft.initialize(nodes).await {
            // Another voter was quicker: its entry is the same as ours would have been.
            Err(openraft::errors::RaftError::APIError(_)) | Ok(()) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// A group that stopped over a failure takes the node with it (promise D4): a voter that looks
    /// alive and neither votes nor follows would stay behind for ever.
    async fn end_with_group(self, raft: Raft<E>) {
        let mut metrics = raft.metrics();
        loop {
            let state = metrics.borrow_watched().running_state.clone();
            match state {
                Err(Fatal::Stopped) => return,
                Err(fatal) => {
                    let partition = self.id();
                    let why = format!("partition {partition} stopped: {fatal}");
                    return self.inner.shared.runtime.fail(EXIT_GROUP, &why);
                }
                Ok(()) if metrics.changed().await.is_err() => return,
                Ok(()) => {}
            }
        }
    }

    /// As long as this Raft runs: the leader says that it leads, whenever all groups of this node do.
    async fn beat(self, raft: Raft<E>) {
        let every = Duration::from_millis(self.inner.timing.heartbeat_ms);
        let runtime = self.inner.env.runtime();
        let mut at = runtime.now();
        loop {
            // Nothing is made up for that was missed.
            at = next_beat(at.max(runtime.now()), every);
            runtime.sleep_until(at).await;
            let (is_running, leads) = {
                let metrics = raft.metrics();
                let metrics = metrics.borrow_watched();
                (metrics.running_state.is_ok(), metrics.state.is_leader())
            };
            if !is_running || (leads && raft.trigger().heartbeat().await.is_err()) {
                return;
            }
        }
    }

    pub(super) async fn order_all(self, mut waiting: mpsc::Receiver<Waiting>) {
        let mut last_time = Timestamp::default();
        let mut batch = Vec::with_capacity(PROPOSALS_AT_ONCE);
        while waiting.recv_many(&mut batch, PROPOSALS_AT_ONCE).await > 0 {
            last_time = last_time.max(self.inner.shared.runtime.wall_clock());
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
            let Some(raft) = self.raft() else {
                for answer in answers {
                    let leader = self.leader();
                    let _gone = answer.send(Err(ProposeProblem::NotLeader { leader }));
                }
                continue;
            };
            match raft.client_write_many(proposals).await {
                Ok(results) => {
                    self.inner
                        .shared
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

    /// As long as this Raft runs: the leader brings in who should vote and lets go of who should
    /// not; everybody else notices that the group goes on without it.
    async fn mind_voters(self, raft: Raft<E>) {
        // Whom Raft takes for the leader says nothing: that may be from before a restart.
        let (mut outside, mut alone, mut heard) = (0, 0, u64::MAX);
        let (mut asked, mut unasked) = (u64::MAX, 0);
        loop {
            self.inner.env.runtime().sleep(LOOK_EVERY).await;
            let (is_running, leads, membership) = {
                let metrics = raft.metrics();
                let metrics = metrics.borrow_watched();
                (
                    metrics.running_state.is_ok(),
                    metrics.state.is_leader(),
                    Arc::clone(&metrics.membership_config),
                )
            };
            if !is_running {
                return;
            }
            if leads {
                let change = self.set_voters(&raft);
                // A majority may be away: then the next look tries again.
                let runtime = self.inner.env.runtime();
                let _late = runtime.timeout(CHANGE_TIME, change).await.is_none();
                continue;
            }
            let hears = self.inner.heard_count.load(SeqCst);
            alone = if hears == heard { alone + 1 } else { 0 };
            heard = hears;
            let questions = self.inner.asked_count.load(SeqCst);
            unasked = if questions == asked { unasked + 1 } else { 0 };
            asked = questions;
            let votes = votes(&membership, self.inner.me);
            let is_needed = votes || unasked < self.looks_asked();
            outside = if is_needed || alone == 0 {
                0
            } else {
                outside + 1
            };
            // Candidates may ask without end because nobody tells them either: then it is the entries
            // that others have which say who is part of the group.
            let is_alone = alone >= LOOKS_ALONE && alone.is_multiple_of(LOOKS_ALONE);
            let goes_on_without =
                outside >= LOOKS_OUTSIDE || (is_alone && self.is_known_to_be_out().await);
            if goes_on_without {
                return self.leave().await;
            }
        }
    }

    /// Asks the others, for a while.
    async fn is_known_to_be_out(&self) -> bool {
        let asking = self.group_goes_on_without_me();
        let answer = self.inner.env.runtime().timeout(ASK_TIME, asking).await;
        answer.unwrap_or(false)
    }

    /// Looks after a candidate's question until this node may leave the group. The candidate counts on
    /// its vote, and may be the only one to know why; a Raft that has just started refuses it for the
    /// length of a lease, and it asks again after up to three times the longest timeout.
    fn looks_asked(&self) -> u32 {
        let again = Duration::from_millis(self.inner.timing.election_max_ms) * 4;
        u32::try_from(again.as_secs() / LOOK_EVERY.as_secs()).unwrap_or(u32::MAX)
    }

    /// One look at who should vote, and what follows from it (`votes`).
    async fn set_voters(&self, raft: &Raft<E>) {
        let mut words = BTreeMap::new();
        loop {
            let look = self.look(raft, &words);
            match votes::next_step(&look) {
                Step::Wait => return,
                Step::Ask(nodes) => words.extend(self.ask_applied(nodes).await),
                Step::LetGo(spare) => {
                    let spare = spare.into_iter().map(|node| node.0).collect();
                    let change = ChangeMembers::RemoveNodes(spare);
                    let _later = raft.change_membership(change, false).await.is_err();
                    return;
                }
                Step::TakeIn(nodes) => {
                    for node in nodes {
                        let added = raft.add_learner(node.0, BasicNode::default(), false);
                        if added.await.is_err() {
                            return;
                        }
                    }
                    return;
                }
                Step::Change => {
                    let wanted: BTreeSet<u64> = look.wanted.iter().map(|node| node.0).collect();
                    let runtime = self.inner.env.runtime();
                    runtime.trace(format_args!("group {}: voters {wanted:?}", self.id()));
                    let _later = raft.change_membership(wanted, true).await.is_err();
                    return;
                }
            }
        }
    }

    /// What is known now, with what was said since this look began.
    fn look(&self, raft: &Raft<E>, words: &BTreeMap<NodeId, Word>) -> Look {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let stored = &metrics.membership_config;
        let voters: BTreeSet<NodeId> = stored.membership().voter_ids().map(NodeId).collect();
        let present: Vec<NodeId> = voters.iter().copied().collect();
        let nodes = stored.membership().nodes().map(|(node, _)| NodeId(*node));
        let known: BTreeSet<NodeId> = nodes.collect();
        let replication = metrics.replication.as_ref();
        let standing = |node: NodeId| {
            let matched = replication.and_then(|all| all.get(&node.0));
            let standing = Standing {
                is_up: self.inner.mesh.is_up(node),
                matched: matched.and_then(|id| id.as_ref()).map(|id| id.index),
                word: words.get(&node).copied().unwrap_or_default(),
            };
            (node, standing)
        };
        Look {
            me: self.inner.me,
            wanted: self.inner.council.voters(&present).into_iter().collect(),
            voters,
            is_joint: stored.membership().get_joint_config().len() > 1,
            told: stored.log_id().map_or(0, |id| id.index),
            last: metrics.last_log_index.unwrap_or(0),
            standings: known.iter().copied().map(standing).collect(),
            known,
        }
    }

    /// Asks learners how far they have applied the log.
    async fn ask_applied(&self, nodes: BTreeSet<NodeId>) -> Vec<(NodeId, Word)> {
        let asking = nodes.into_iter().map(async |node| {
            let payload = Bytes::from(rpc::StatusRequest::default().encode_to_vec());
            let mesh = &self.inner.mesh;
            let answer = mesh.call(node, Method::Status, payload, STATUS_TIME).await;
            let Ok(Ok(answer)) = answer.map(rpc::StatusResponse::decode) else {
                return (node, Word::Silent);
            };
            let committed = self.inner.shared.committed.get().map_or(0, |id| id.index);
            let mut positions = answer.positions.iter();
            let own = positions.find(|position| position.partition == self.id().0);
            let word = own.map_or(Word::Silent, |position| Word::Applied {
                applied: position.applied,
                committed,
            });
            (node, word)
        });
        join_all(asking).await
    }
}

/// Whether a node votes in a group that was told who does.
fn votes(membership: &StoredMembershipOf<C>, node: NodeId) -> bool {
    let mut voters = membership.membership().voter_ids();
    membership.log_id().is_none() || voters.any(|known| known == node.0)
}

/// Whether a node votes or learns in a group. A group that nobody told anything yet has room for
/// everybody.
pub(super) fn is_part(membership: &StoredMembershipOf<C>, node: NodeId) -> bool {
    let mut nodes = membership.membership().nodes();
    membership.log_id().is_none() || nodes.any(|(known, _)| *known == node.0)
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
