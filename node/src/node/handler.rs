//! [adapter] Requests of other nodes, handed to who answers them.

use super::heads::Heads;
use super::proposals::Proposals;
use aber_log::content::NodeContent;
use aber_log::env::{Env, Runtime};
use aber_log::history::History;
use aber_log::mesh::{Answer, Handler, Method};
use aber_log::partition::{Partition, answer_beats};
use aber_log::watch::Watched;
use aber_materializer::mirror::MirrorHandle;
use aber_proto::generated::rpc;
use aber_proto::{NodeId, PartitionId};
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;

pub(super) struct NodeHandler<E: Env> {
    pub(super) partitions: BTreeMap<PartitionId, Partition<E>>,
    pub(super) content: NodeContent<E>,
    pub(super) history: History<E>,
    pub(super) applied: BTreeMap<PartitionId, Watched<Option<u64>>>,
    pub(super) mirror: Option<MirrorHandle>,
    pub(super) heads: Heads<E>,
    pub(super) proposals: Proposals<E>,
}

pub(super) fn refuse(why: impl std::fmt::Display) -> Answer {
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
            | Method::Follow
            | Method::Body => {
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
            Method::Propose => self.proposals.receive(from, payload),
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
