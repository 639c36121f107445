//! [adapter] What the outbox needs of the rest of the node.

use aber_log::chunk::ChunkPin;
use aber_log::content::NodeContent;
use aber_log::env::{Env, Runtime};
use aber_log::mesh::{Mesh, Method};
use aber_log::outbox::item::Item;
use aber_log::outbox::state::Outcome;
use aber_log::outbox::{Boxed, Collaborator, Seen};
use aber_log::partition::Partition;
use aber_log::watch::Watched;
use aber_materializer::members::Members;
use aber_materializer::view::{RequestOutcome, TreeView};
use aber_proto::generated::rpc;
use aber_proto::{NodeId, PartitionId, RequestId, VolumeId, limit};
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// For the leader to order a batch: several heartbeats, since it may wait for a slow follower.
const PROPOSE_DEADLINE: Duration = Duration::from_secs(10);

/// Nodes asked who leads, where none is known here.
const ASKED_AROUND: usize = 3;

pub(super) struct NodeCollaborator<E: Env> {
    pub(super) env: E,
    pub(super) me: NodeId,
    /// What the genesis asks for.
    pub(super) min_copies: u32,
    pub(super) members: Watched<Arc<Members>>,
    pub(super) mesh: Mesh<E>,
    pub(super) content: NodeContent<E>,
    pub(super) partitions: BTreeMap<PartitionId, Partition<E>>,
    pub(super) tree: TreeView<E::Kv>,
    pub(super) control: Watched<Option<u64>>,
}

impl<E: Env> Collaborator for NodeCollaborator<E> {
    fn volume(&self, name: &str) -> Option<(VolumeId, PartitionId)> {
        // An index that fails is rebuilt by the replay, which learns of it first.
        self.tree.volume(name).ok().flatten()
    }

    fn seen(&self, partition: PartitionId, request: RequestId) -> Seen {
        let found = self.tree.request(partition, request).ok().flatten();
        let outcome = found.map(|(index, outcome)| Outcome {
            partition,
            index,
            rejected: match outcome {
                RequestOutcome::Applied => None,
                RequestOutcome::Rejected(reason) => Some((reason.code(), String::new())),
            },
        });
        let last = self.tree.author(partition, self.me).ok().flatten();
        let last_sequence = last.map_or(0, |(sequence, _)| sequence);
        Seen {
            outcome,
            last_sequence,
        }
    }

    fn pin(&self, item: &Item) -> ChunkPin {
        self.content.store().pin(item.rows().map(|row| row.hash))
    }

    fn hold(&self, item: Item) -> Boxed<Result<(), String>> {
        let content = self.content.clone();
        let present = self.members.get().present_count();
        let copies = super::control::min_copies(self.min_copies, present);
        let copies = copies.max(item.min_copies as usize);
        let copies = copies.min(self.mesh.peers().len() + 1);
        Box::pin(async move {
            let mut chunks = Vec::new();
            for event in &item.change.events {
                if let Some(of_event) = event.operation.content() {
                    let found = content.chunks_of(of_event).await;
                    chunks.extend(found.map_err(|problem| problem.to_string())?);
                }
            }
            content.hold(item.request(), &chunks, copies).await
        })
    }

    fn propose(&self, partition: PartitionId, changes: Vec<Bytes>) -> Boxed<Result<(), String>> {
        let Some(group) = self.partitions.get(&partition).cloned() else {
            return Box::pin(async move { Err(format!("there is no partition {partition}")) });
        };
        let control_index = self.control.get().unwrap_or(0);
        let (mesh, me) = (self.mesh.clone(), self.me);
        match group.leader() {
            Some(leader) if leader == me => {
                let answers = group.propose(changes, control_index);
                let runtime = self.env.runtime().clone();
                Box::pin(async move {
                    let all = async {
                        for answer in answers {
                            let answer = answer.await;
                            let answer = answer.map_err(|_| "the node is stopping".to_owned())?;
                            answer.map_err(|problem| problem.to_string())?;
                        }
                        Ok(())
                    };
                    let ordered = runtime.timeout(PROPOSE_DEADLINE, all).await;
                    ordered.unwrap_or_else(|| Err("a majority of the voters is away".to_owned()))
                })
            }
            Some(leader) if mesh.is_up(leader) => Box::pin(async move {
                match forward(&mesh, leader, partition, changes, 0).await? {
                    Forwarded::Ordered => Ok(()),
                    Forwarded::NotLeader(_) => Err("the leader changed".to_owned()),
                }
            }),
            _ => Box::pin(ask_around(mesh, me, group, changes)),
        }
    }
}

/// What became of changes that were handed to somebody.
enum Forwarded {
    Ordered,
    /// Who leads instead, if it knows.
    NotLeader(Option<NodeId>),
}

/// Hands changes up: to whom this node follows, who passes them on. Else to whoever leads by the word
/// of others. A voter that moved to another address hears of no leader until its new address is
/// ordered, and that is such a change.
async fn ask_around<E: Env>(
    mesh: Mesh<E>,
    me: NodeId,
    group: Partition<E>,
    changes: Vec<Bytes>,
) -> Result<(), String> {
    let (partition, upstream) = (group.id(), group.upstream());
    let others = mesh.peers_up().into_iter();
    let others = others.filter(|peer| Some(*peer) != upstream);
    let hops = limit::HOPS;
    for peer in upstream.into_iter().chain(others).take(ASKED_AROUND) {
        let leader = match forward(&mesh, peer, partition, changes.clone(), hops).await {
            Ok(Forwarded::Ordered) => return Ok(()),
            Ok(Forwarded::NotLeader(Some(leader))) if leader != me && leader != peer => leader,
            _ => continue,
        };
        let forwarded = forward(&mesh, leader, partition, changes.clone(), 0).await;
        if matches!(forwarded, Ok(Forwarded::Ordered)) {
            return Ok(());
        }
    }
    Err("no leader: a majority of the voters is away".to_owned())
}

/// Passes a proposal of somebody else on towards the leader: to the leader itself where it can be
/// reached, else to whom this node follows. `None` if there is nobody to pass it to, or it was
/// passed on too often.
pub(super) async fn pass_on<E: Env>(
    mesh: &Mesh<E>,
    group: &Partition<E>,
    from: NodeId,
    request: rpc::ProposeRequest,
) -> Option<rpc::ProposeResponse> {
    let hops = request.hops.min(u32::try_from(limit::HOPS).unwrap_or(0));
    let hops = hops.checked_sub(1)?;
    let leader = group.leader().filter(|leader| mesh.is_up(*leader));
    let to = leader.or_else(|| group.upstream())?;
    if to == from {
        return None;
    }
    let request = rpc::ProposeRequest { hops, ..request };
    let payload = Bytes::from(request.encode_to_vec());
    let answer = mesh.call(to, Method::Propose, payload, PROPOSE_DEADLINE);
    rpc::ProposeResponse::decode(answer.await.ok()?).ok()
}

async fn forward<E: Env>(
    mesh: &Mesh<E>,
    to: NodeId,
    partition: PartitionId,
    changes: Vec<Bytes>,
    hops: usize,
) -> Result<Forwarded, String> {
    let request = rpc::ProposeRequest {
        partition: partition.0,
        changes,
        hops: u32::try_from(hops).unwrap_or(0),
    };
    let payload = Bytes::from(request.encode_to_vec());
    let answer = mesh.call(to, Method::Propose, payload, PROPOSE_DEADLINE);
    let answer = answer.await.map_err(|problem| problem.to_string())?;
    let answer = rpc::ProposeResponse::decode(answer).map_err(|problem| problem.to_string())?;
    if answer.not_leader {
        let leader = Some(answer.leader).filter(|leader| *leader != 0);
        return Ok(Forwarded::NotLeader(leader.map(NodeId)));
    }
    if answer.problem.is_empty() {
        Ok(Forwarded::Ordered)
    } else {
        Err(answer.problem)
    }
}
