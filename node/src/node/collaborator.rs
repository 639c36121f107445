//! [adapter] What the outbox needs of the rest of the node.

use aber_log::body;
use aber_log::chunk::ChunkPin;
use aber_log::content::NodeContent;
use aber_log::env::{Env, Runtime};
use aber_log::mesh::{Mesh, Method};
use aber_log::outbox::item::Item;
use aber_log::outbox::state::Outcome;
use aber_log::outbox::{Boxed, Collaborator, Seen};
use aber_log::partition::{Bodies, Partition, ProposeProblem};
use aber_log::watch::Watched;
use aber_materializer::members::Members;
use aber_materializer::view::{RequestOutcome, TreeView};
use aber_proto::generated::rpc;
use aber_proto::{NodeId, PartitionId, RequestId, VolumeId, limit};
use bytes::Bytes;
use prost::Message;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// For the leader to order a batch: several heartbeats, since it may wait for a slow follower.
const PROPOSE_DEADLINE: Duration = Duration::from_secs(10);
/// The same, where it finds the bodies first.
const REFERENCE_DEADLINE: Duration = Duration::from_secs(20);
const _: () = assert!(body::MOST.as_secs() < REFERENCE_DEADLINE.as_secs());

/// Large changes of one message that go by reference, the longest; the others go whole. Each is a
/// parcel, and others take 64 unfinished ones of a writer, those of its content among them.
const REFERENCES: usize = 32;

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
    pub(super) bodies: Bodies,
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
        let tree = self.tree.clone();
        Box::pin(async move {
            let mut chunks = Vec::new();
            for event in &item.change.events {
                if let Some(of_event) = event.operation.content() {
                    let found = content.chunks_of(of_event).await;
                    chunks.extend(found.map_err(|problem| problem.to_string())?);
                }
            }
            // What a committed version has was held when that was committed, and all others have it or
            // fetch it: going back moves no content.
            chunks.retain(|chunk| !tree.is_referenced(&chunk.hash).unwrap_or(false));
            content.hold(item.request(), &chunks, copies).await
        })
    }

    fn propose(&self, partition: PartitionId, changes: Vec<Bytes>) -> Boxed<Result<(), String>> {
        let Some(group) = self.partitions.get(&partition).cloned() else {
            return Box::pin(async move { Err(format!("there is no partition {partition}")) });
        };
        let control = self.control.clone();
        let (mesh, me) = (self.mesh.clone(), self.me);
        let runtime = self.env.runtime().clone();
        let spreading = spread_bodies(
            runtime.clone(),
            self.content.clone(),
            self.bodies.clone(),
            changes.clone(),
        );
        Box::pin(async move {
            let references = spreading.await;
            let leader = group.leader();
            if leader == Some(me) {
                let answers = group.propose(changes, control.get().unwrap_or(0));
                return ordered(&runtime, answers).await;
            }
            let proposal = Proposal {
                partition,
                changes,
                references,
            };
            match leader.filter(|leader| mesh.is_up(*leader)) {
                Some(leader) => match forward(&mesh, leader, &proposal, 0).await? {
                    Forwarded::Ordered => Ok(()),
                    Forwarded::NotLeader(_) => Err("the leader changed".to_owned()),
                },
                None => ask_around(mesh, me, group, proposal).await,
            }
        })
    }
}

type Answers = Vec<oneshot::Receiver<Result<u64, ProposeProblem>>>;

/// Waits until changes that this node orders itself are committed.
async fn ordered(runtime: &impl Runtime, answers: Answers) -> Result<(), String> {
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
}

/// Large changes go down the trees, each as a parcel of its own, before anybody is told of them:
/// what stands for them in a message.
async fn spread_bodies<E: Env>(
    runtime: E::Runtime,
    content: NodeContent<E>,
    bodies: Bodies,
    changes: Vec<Bytes>,
) -> Vec<rpc::BodyRef> {
    let mut references = Vec::new();
    for place in longest(&changes) {
        let Some(change) = usize::try_from(place).ok().and_then(|at| changes.get(at)) else {
            continue;
        };
        // Without room in the store it goes whole.
        if let Ok(Some(body)) = content.offer_body(change) {
            references.push(body.to_message(place));
            bodies.offered(body, runtime.now());
            tokio::task::yield_now().await;
        }
    }
    references
}

/// The places of the changes that are spread, in their order.
fn longest(changes: &[Bytes]) -> Vec<u64> {
    let large = (0..).zip(changes);
    let large = large.filter(|(_, change)| change.len() > limit::BODY_BYTES);
    let mut large: Vec<(usize, u64)> = large.map(|(at, change)| (change.len(), at)).collect();
    large.sort_unstable_by_key(|(length, at)| (Reverse(*length), *at));
    large.truncate(REFERENCES);
    let mut places: Vec<u64> = large.into_iter().map(|(_, at)| at).collect();
    places.sort_unstable();
    places
}

/// Changes for the leader, and what stands for the large ones among them.
struct Proposal {
    partition: PartitionId,
    changes: Vec<Bytes>,
    references: Vec<rpc::BodyRef>,
}

impl Proposal {
    fn whole(&self, hops: u32) -> rpc::ProposeRequest {
        rpc::ProposeRequest {
            partition: self.partition.0,
            changes: self.changes.clone(),
            hops,
            bodies: Vec::new(),
        }
    }

    fn by_reference(&self, hops: u32) -> rpc::ProposeRequest {
        let mut request = self.whole(hops);
        for body in &self.references {
            let place = usize::try_from(body.index).unwrap_or(usize::MAX);
            if let Some(change) = request.changes.get_mut(place) {
                *change = Bytes::new();
            }
        }
        request.bodies.clone_from(&self.references);
        request
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
    proposal: Proposal,
) -> Result<(), String> {
    let upstream = group.upstream();
    let others = mesh.peers_up().into_iter();
    let others = others.filter(|peer| Some(*peer) != upstream);
    let hops = limit::HOPS;
    for peer in upstream.into_iter().chain(others).take(ASKED_AROUND) {
        let leader = match forward(&mesh, peer, &proposal, hops).await {
            Ok(Forwarded::Ordered) => return Ok(()),
            Ok(Forwarded::NotLeader(Some(leader))) if leader != me && leader != peer => leader,
            _ => continue,
        };
        let forwarded = forward(&mesh, leader, &proposal, 0).await;
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
    ask(mesh, to, &request).await.ok()
}

/// Hands changes to a node: the large ones by reference, and all of them whole where it, or one on
/// the way to the leader, does not find those.
async fn forward<E: Env>(
    mesh: &Mesh<E>,
    to: NodeId,
    proposal: &Proposal,
    hops: usize,
) -> Result<Forwarded, String> {
    let hops = u32::try_from(hops).unwrap_or(0);
    let mut answer = ask(mesh, to, &proposal.by_reference(hops)).await?;
    if answer.lacks_bodies {
        answer = ask(mesh, to, &proposal.whole(hops)).await?;
    }
    if answer.not_leader {
        let leader = Some(answer.leader).filter(|leader| *leader != 0);
        return Ok(Forwarded::NotLeader(leader.map(NodeId)));
    }
    if answer.problem.is_empty() && !answer.lacks_bodies {
        Ok(Forwarded::Ordered)
    } else {
        Err(answer.problem)
    }
}

async fn ask<E: Env>(
    mesh: &Mesh<E>,
    to: NodeId,
    request: &rpc::ProposeRequest,
) -> Result<rpc::ProposeResponse, String> {
    let payload = Bytes::from(request.encode_to_vec());
    let deadline = match request.bodies.is_empty() {
        true => PROPOSE_DEADLINE,
        false => REFERENCE_DEADLINE,
    };
    let answer = mesh.call(to, Method::Propose, payload, deadline).await;
    let answer = answer.map_err(|problem| problem.to_string())?;
    rpc::ProposeResponse::decode(answer).map_err(|problem| problem.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B2: of many large changes the longest are spread, in their order.
    #[test]
    fn the_longest_changes_are_spread() {
        let changes = |lengths: &[usize]| -> Vec<Bytes> {
            let lengths = lengths.iter();
            lengths.map(|length| vec![0; *length].into()).collect()
        };
        let large = limit::BODY_BYTES + 1;
        let some = changes(&[5, large, large - 1, 9 * large]);
        assert_eq!(longest(&some), [1, 3]);
        let mut many = vec![large; 2 * REFERENCES];
        many[7] = 2 * large;
        many[2 * REFERENCES - 1] = 2 * large;
        let places = longest(&changes(&many));
        assert_eq!(places.len(), REFERENCES);
        assert!(places.is_sorted() && places.contains(&7));
        assert_eq!(places.last(), Some(&(2 * REFERENCES as u64 - 1)));
    }
}
