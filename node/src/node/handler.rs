//! [adapter] Requests of other nodes, handed to who answers them.

use super::collaborator::pass_on;
use super::heads::Heads;
use aber_log::content::NodeContent;
use aber_log::env::{Env, Runtime};
use aber_log::history::History;
use aber_log::mesh::{Answer, Handler, Method};
use aber_log::partition::{Partition, ProposeProblem, answer_beats};
use aber_log::watch::Watched;
use aber_materializer::judge::Judge;
use aber_materializer::members::Members;
use aber_materializer::mirror::MirrorHandle;
use aber_materializer::view::{Rejection, Verdict};
use aber_proto::generated::rpc;
use aber_proto::{NodeId, PartitionId};
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

pub(super) struct NodeHandler<E: Env> {
    pub(super) partitions: BTreeMap<PartitionId, Partition<E>>,
    pub(super) content: NodeContent<E>,
    pub(super) history: History<E>,
    pub(super) control: Watched<Option<u64>>,
    pub(super) applied: BTreeMap<PartitionId, Watched<Option<u64>>>,
    pub(super) members: Watched<Arc<Members>>,
    pub(super) judge: Mutex<Judge>,
    pub(super) mirror: Option<MirrorHandle>,
    pub(super) heads: Heads<E>,
}

fn refuse(why: impl std::fmt::Display) -> Answer {
    let why = why.to_string();
    Box::pin(async move { Err(why) })
}

/// The first field of every Raft message is its partition.
#[derive(Clone, PartialEq, prost::Message)]
struct PartitionOnly {
    #[prost(uint32, tag = "1")]
    partition: u32,
}

impl<E: Env> Handler for NodeHandler<E> {
    fn receive(&self, from: NodeId, method: Method, payload: Bytes) -> Answer {
        match method {
            Method::Append
            | Method::Vote
            | Method::PreVote
            | Method::Snapshot
            | Method::Transfer
            | Method::Follow => {
                let Ok(head) = PartitionOnly::decode(payload.clone()) else {
                    return refuse("a malformed Raft message");
                };
                match self.partitions.get(&PartitionId(head.partition)).cloned() {
                    Some(partition) => Box::pin(partition.answer(from, method, payload)),
                    None => refuse("there is no such partition"),
                }
            }
            Method::Beat => {
                let (env, groups) = (self.heads.env.clone(), self.partitions.clone());
                Box::pin(answer_beats(env, groups, from, payload))
            }
            Method::Propose => self.propose(from, payload),
            Method::Hold | Method::Chunks | Method::Held | Method::Push | Method::Relay => {
                Box::pin(self.content.clone().answer(from, method, payload))
            }
            Method::Status => self.status(payload),
            Method::Entries => {
                let answer = self.history.answer(payload);
                Box::pin(async move { answer })
            }
        }
    }
}

impl<E: Env> NodeHandler<E> {
    /// Queues the changes in the order they came; what is not by a member is not ordered at all.
    fn propose(&self, from: NodeId, payload: Bytes) -> Answer {
        let request = match rpc::ProposeRequest::decode(payload) {
            Ok(request) => request,
            Err(problem) => return refuse(problem),
        };
        let partition = PartitionId(request.partition);
        let Some(group) = self.partitions.get(&partition) else {
            return refuse("there is no such partition");
        };
        // First the index that entries are stamped with, then members that are not behind it: so the
        // judgement here is the one that every replay comes to.
        let control_index = self.control.get().unwrap_or(0);
        let members = self.members.get();
        let at = match partition {
            PartitionId::CONTROL => u64::MAX,
            _ => control_index,
        };
        let is_bad = |change: &&Bytes| !self.is_good(change, &members, at);
        if let Some(bad) = request.changes.iter().find(is_bad) {
            return refuse(format_args!(
                "node {from} proposed {} bytes that are no signed change of a member",
                bad.len()
            ));
        }
        if !group.is_leader() && request.hops > 0 {
            let (mesh, group) = (self.heads.mesh.clone(), group.clone());
            return Box::pin(async move {
                let passed = pass_on(&mesh, &group, from, request).await;
                let response = passed.unwrap_or_else(|| rpc::ProposeResponse {
                    not_leader: true,
                    leader: group.leader().map_or(0, |leader| leader.0),
                    ..rpc::ProposeResponse::default()
                });
                Ok(response.encode_to_vec().into())
            });
        }
        let answers = group.propose(request.changes, control_index);
        Box::pin(async move {
            let mut response = rpc::ProposeResponse::default();
            for answer in answers {
                match answer.await {
                    Ok(Ok(index)) => response.indexes.push(index),
                    Ok(Err(ProposeProblem::NotLeader { leader })) => {
                        response.not_leader = true;
                        response.leader = leader.map_or(0, |leader| leader.0);
                    }
                    Ok(Err(problem)) => response.problem = problem.to_string(),
                    Err(_) => "the node is stopping".clone_into(&mut response.problem),
                }
            }
            Ok(response.encode_to_vec().into())
        })
    }

    /// A change beyond its author's role is ordered and then rejected: so a member whose role was
    /// lowered learns what became of the changes that waited in its outbox.
    fn is_good(&self, change: &Bytes, members: &Members, control_index: u64) -> bool {
        let mut judge = self.judge.lock().unwrap_or_else(PoisonError::into_inner);
        let judged = judge.judge_change(change, members, control_index);
        let is_of_member = matches!(
            judged.verdict,
            Verdict::Allowed | Verdict::Refused(Rejection::NotAllowed)
        );
        judged.change.is_some() && is_of_member
    }

    fn status(&self, payload: Bytes) -> Answer {
        let request = match rpc::StatusRequest::decode(payload) {
            Ok(request) => request,
            Err(problem) => return refuse(problem),
        };
        let mirrored = self
            .mirror
            .as_ref()
            .map(|mirror| mirror.status.get().positions);
        let mirrored = mirrored.unwrap_or_default();
        let position = |(id, partition): (&PartitionId, &Partition<E>)| rpc::PartitionPosition {
            partition: id.0,
            committed: partition.committed().get().map_or(0, |id| id.index),
            applied: self.applied.get(id).and_then(Watched::get).unwrap_or(0),
            mirrored: mirrored.get(id).copied().unwrap_or(0),
        };
        let positions = self.partitions.iter().map(position).collect();
        let heads = self.heads.of_led(&request.reached);
        let response = rpc::StatusResponse {
            positions,
            missing_chunks: 0,
            heads,
            wall_ms: self.heads.env.runtime().wall_clock().0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            digests: self.heads.digests(),
        };
        Box::pin(async move { Ok(response.encode_to_vec().into()) })
    }
}
