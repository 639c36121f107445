//! [driver] Changes that other nodes hand in: made whole, checked, then queued for the leader or passed
//! on towards it.
//!
//! Nothing is checked or queued before the bodies that a message names are in place. A message
//! without such is queued when it is received, so that those of a link stay in their order; one with
//! such is the only one of its author and partition that is under way, as the author waits for its
//! answer.

use super::collaborator::pass_on;
use super::handler::refuse;
use aber_log::env::Env;
use aber_log::mesh::{Answer, Mesh};
use aber_log::partition::{Partition, ProposeProblem};
use aber_log::watch::Watched;
use aber_materializer::judge::Judge;
use aber_materializer::members::Members;
use aber_materializer::view::{Rejection, Verdict};
use aber_proto::generated::rpc;
use aber_proto::{NodeId, PartitionId};
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What it takes to judge a proposal.
pub(super) struct Proposals<E: Env> {
    pub(super) mesh: Mesh<E>,
    pub(super) partitions: BTreeMap<PartitionId, Partition<E>>,
    pub(super) control: Watched<Option<u64>>,
    pub(super) members: Watched<Arc<Members>>,
    pub(super) judge: Arc<Mutex<Judge>>,
}

impl<E: Env> Clone for Proposals<E> {
    fn clone(&self) -> Self {
        Self {
            mesh: self.mesh.clone(),
            partitions: self.partitions.clone(),
            control: self.control.clone(),
            members: self.members.clone(),
            judge: Arc::clone(&self.judge),
        }
    }
}

impl<E: Env> Proposals<E> {
    /// Takes a proposal; what it names is waited for in the answer.
    pub(super) fn receive(&self, from: NodeId, payload: Bytes) -> Answer {
        let request = match rpc::ProposeRequest::decode(payload) {
            Ok(request) => request,
            Err(problem) => return refuse(problem),
        };
        let Some(group) = self.partitions.get(&PartitionId(request.partition)) else {
            return refuse("there is no such partition");
        };
        if request.bodies.is_empty() {
            let changes = request.changes.clone();
            return self.take(from, group, request, changes);
        }
        let (this, group) = (self.clone(), group.clone());
        Box::pin(async move {
            let filled = group.fill_changes(request.changes.clone(), &request.bodies);
            let Some(changes) = filled.await.map_err(|problem| problem.to_string())? else {
                let response = rpc::ProposeResponse {
                    lacks_bodies: true,
                    ..rpc::ProposeResponse::default()
                };
                return Ok(response.encode_to_vec().into());
            };
            this.take(from, &group, request, changes).await
        })
    }

    /// Queues the changes in the order they came; what is not by a member is not ordered at all.
    fn take(
        &self,
        from: NodeId,
        group: &Partition<E>,
        request: rpc::ProposeRequest,
        changes: Vec<Bytes>,
    ) -> Answer {
        // First the index that entries are stamped with, then members that are not behind it: so the
        // judgement here is the one that every replay comes to.
        let control_index = self.control.get().unwrap_or(0);
        let members = self.members.get();
        let at = match group.id() {
            PartitionId::CONTROL => u64::MAX,
            _ => control_index,
        };
        let is_bad = |change: &&Bytes| !self.is_good(change, &members, at);
        if let Some(bad) = changes.iter().find(is_bad) {
            return refuse(format_args!(
                "node {from} proposed {} bytes that are no signed change of a member",
                bad.len()
            ));
        }
        if !group.is_leader() && request.hops > 0 {
            let (mesh, group) = (self.mesh.clone(), group.clone());
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
        let answers = group.propose(changes, control_index);
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
}
