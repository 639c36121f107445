//! [adapter] Raft's messages of all groups over the mesh.
//!
//! Outgoing: a request message, a deadline of ours, and `Unreachable` for whatever went wrong, so
//! that openraft backs off. Incoming: the sender is the link's node, and a message in which
//! another one speaks is refused (promise S3).

use super::raft_types::{C, Malformed, from_raft_vote, id_message, id_of, snapshot_message};
use super::raft_types::{from_raft_entry, snapshot_of, to_raft_entry, vote_message, vote_of};
use super::{Beats, Bodies, Partition, Raft, bodies};
use crate::env::{Env, Runtime};
use crate::mesh::{Mesh, Method};
use crate::reader::SnapshotManifest;
use aber_proto::generated::rpc;
use aber_proto::{Entry, NodeId, PartitionId};
use bytes::Bytes;
use openraft::OptionalSend;
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::BasicNode;
use openraft::network::{RPCOption, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse};
use openraft::raft::{TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse};
use openraft_multi::{GroupNetworkAdapter, GroupRouter};
use prost::Message;
use std::future::Future;
use std::io;
use std::time::Duration;

/// A message without entries.
const SMALL_DEADLINE: Duration = Duration::from_secs(2);
/// A message with entries.
const APPEND_DEADLINE: Duration = Duration::from_secs(10);
/// One whose bodies are to be found first.
const REFERENCE_DEADLINE: Duration = Duration::from_secs(20);
/// Who lacks bodies and does not get them says so before the append is given up.
const _: () = assert!(bodies::FILL_TIME.as_secs() < REFERENCE_DEADLINE.as_secs());
/// The target fetches and installs before it answers.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(600);

/// Sends the messages of all groups of this node.
pub struct Router<E: Env> {
    pub(super) runtime: E::Runtime,
    pub(super) mesh: Mesh<E>,
    pub(super) bodies: Bodies,
    /// Of what sends heartbeats alone: they go with those of other groups.
    pub(super) beats: Option<Beats<E>>,
}

impl<E: Env> Clone for Router<E> {
    fn clone(&self) -> Self {
        Self {
            runtime: self.runtime.clone(),
            mesh: self.mesh.clone(),
            bodies: self.bodies.clone(),
            beats: self.beats.clone(),
        }
    }
}

fn unreachable(problem: impl std::error::Error + 'static) -> Unreachable<C> {
    Unreachable::new(&problem)
}

impl<E: Env> Router<E> {
    async fn ask<T: Message + Default>(
        &self,
        to: u64,
        method: Method,
        message: &impl Message,
        deadline: Duration,
    ) -> Result<T, Unreachable<C>> {
        let payload = Bytes::from(message.encode_to_vec());
        let answer = self.mesh.call(NodeId(to), method, payload, deadline).await;
        T::decode(answer.map_err(unreachable)?).map_err(unreachable)
    }

    async fn ask_vote(
        &self,
        to: u64,
        method: Method,
        partition: PartitionId,
        request: VoteRequest<C>,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        let message = rpc::VoteRequest {
            partition: partition.0,
            vote: Some(vote_message(&request.vote)),
            last: request.last_log_id.as_ref().map(id_message),
            transfer: request.leadership_transfer,
        };
        let answer: rpc::VoteResponse = self.ask(to, method, &message, SMALL_DEADLINE).await?;
        let vote = vote_of(answer.vote).map_err(unreachable)?;
        Ok(VoteResponse {
            vote,
            vote_granted: answer.granted,
            last_log_id: answer.last.map(id_of),
        })
    }

    fn append_message(
        &self,
        to: NodeId,
        partition: PartitionId,
        request: AppendEntriesRequest<C>,
    ) -> rpc::AppendRequest {
        let entries = request.entries.into_iter().map(|entry| {
            let (mut entry, chain) = from_raft_entry(partition, entry);
            entry.chain = chain.unwrap_or_default();
            entry
        });
        let (entries, bodies) = self.bodies.send(to, entries, self.runtime.now());
        rpc::AppendRequest {
            partition: partition.0,
            vote: Some(vote_message(&request.vote)),
            previous: request.prev_log_id.as_ref().map(id_message),
            commit: request.leader_commit.as_ref().map(id_message),
            entries,
            bodies,
        }
    }
}

impl<E: Env> GroupRouter<C, PartitionId> for Router<E> {
    type SnapshotData = SnapshotManifest;

    async fn append_entries(
        &self,
        target: u64,
        group: PartitionId,
        request: AppendEntriesRequest<C>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<C>, RPCError<C>> {
        let is_empty = request.entries.is_empty();
        let message = self.append_message(NodeId(target), group, request);
        let answer = match &self.beats {
            Some(beats) if is_empty => {
                let answer = beats.send(NodeId(target), &message).await;
                answer.map_err(unreachable)?
            }
            _ => {
                let deadline = match (is_empty, message.bodies.is_empty()) {
                    (true, _) => SMALL_DEADLINE,
                    (false, true) => APPEND_DEADLINE,
                    (false, false) => REFERENCE_DEADLINE,
                };
                let answer = self.ask(target, Method::Append, &message, deadline).await;
                if answer.is_err() && !message.bodies.is_empty() {
                    // Whatever went wrong: references are not what it fails of again.
                    self.bodies.lacks(NodeId(target), self.runtime.now());
                }
                answer?
            }
        };
        append_answer(answer).map_err(|problem| RPCError::Unreachable(unreachable(problem)))
    }

    async fn vote(
        &self,
        target: u64,
        group: PartitionId,
        request: VoteRequest<C>,
        _option: RPCOption,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        self.ask_vote(target, Method::Vote, group, request).await
    }

    async fn pre_vote(
        &self,
        target: u64,
        group: PartitionId,
        request: VoteRequest<C>,
        _option: RPCOption,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        self.ask_vote(target, Method::PreVote, group, request).await
    }

    async fn full_snapshot(
        &self,
        target: u64,
        group: PartitionId,
        vote: VoteOf<C>,
        snapshot: SnapshotOf<C, SnapshotManifest>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        let message = rpc::SnapshotRequest {
            partition: group.0,
            vote: Some(vote_message(&vote)),
            snapshot: Some(snapshot_message(&snapshot.snapshot)),
        };
        let ask = self.ask::<rpc::SnapshotResponse>(
            target,
            Method::Snapshot,
            &message,
            SNAPSHOT_DEADLINE,
        );
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = ask => {
                let answer = answer.map_err(StreamingError::Unreachable)?;
                let vote = vote_of(answer.vote);
                let vote = vote.map_err(|p| StreamingError::Unreachable(unreachable(p)))?;
                Ok(SnapshotResponse::new(vote))
            }
        }
    }

    async fn transfer_leader(
        &self,
        target: u64,
        group: PartitionId,
        request: TransferLeaderRequest<C>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<C>, RPCError<C>> {
        let message = rpc::TransferRequest {
            partition: group.0,
            from: Some(vote_message(request.from_leader())),
            to: *request.to_node_id(),
            last: request.last_log_id().map(id_message),
        };
        let _done: rpc::SnapshotResponse = self
            .ask(target, Method::Transfer, &message, SMALL_DEADLINE)
            .await?;
        Ok(Ok(()))
    }
}

fn append_request(
    message: &rpc::AppendRequest,
    entries: Vec<Entry>,
) -> Result<AppendEntriesRequest<C>, Malformed> {
    let entries = entries.into_iter().map(to_raft_entry);
    Ok(AppendEntriesRequest {
        vote: vote_of(message.vote)?,
        prev_log_id: message.previous.map(id_of),
        entries: entries.collect::<Result<_, _>>()?,
        leader_commit: message.commit.map(id_of),
    })
}

fn entries_of(message: &rpc::AppendRequest) -> Result<Vec<Entry>, Malformed> {
    let partition = PartitionId(message.partition);
    let mut entries = Vec::with_capacity(message.entries.len());
    for bytes in &message.entries {
        let entry = Entry::decode(bytes).map_err(|_| Malformed("entry"))?;
        if entry.partition != partition {
            return Err(Malformed("an entry of another partition"));
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn append_response(response: AppendEntriesResponse<C>) -> rpc::AppendResponse {
    use rpc::append_response::Kind;
    let (kind, log_id, vote) = match response {
        AppendEntriesResponse::Success => (Kind::Success, None, None),
        AppendEntriesResponse::PartialSuccess(id) => (Kind::Partial, id, None),
        AppendEntriesResponse::Conflict => (Kind::Conflict, None, None),
        AppendEntriesResponse::HigherVote(vote) => (Kind::HigherVote, None, Some(vote)),
    };
    rpc::AppendResponse {
        kind: kind.into(),
        log_id: log_id.as_ref().map(id_message),
        vote: vote.as_ref().map(vote_message),
    }
}

fn append_answer(answer: rpc::AppendResponse) -> Result<AppendEntriesResponse<C>, Malformed> {
    use rpc::append_response::Kind;
    match answer.kind() {
        Kind::Success => Ok(AppendEntriesResponse::Success),
        Kind::Partial => Ok(AppendEntriesResponse::PartialSuccess(
            answer.log_id.map(id_of),
        )),
        Kind::Conflict => Ok(AppendEntriesResponse::Conflict),
        Kind::HigherVote => Ok(AppendEntriesResponse::HigherVote(vote_of(answer.vote)?)),
        Kind::Unspecified => Err(Malformed("an append answer of no kind")),
    }
}

/// Makes the clients of one group.
pub(super) struct Factory<E: Env> {
    pub(super) router: Router<E>,
    pub(super) beats: Beats<E>,
    pub(super) partition: PartitionId,
}

impl<E: Env> RaftNetworkFactory<C> for Factory<E> {
    type Network = GroupNetworkAdapter<C, PartitionId, Router<E>>;

    async fn new_client(&mut self, target: u64, _node: &BasicNode) -> Self::Network {
        GroupNetworkAdapter::new(self.router.clone(), target, self.partition)
    }

    async fn new_heartbeat_client(&mut self, target: u64, _node: &BasicNode) -> Self::Network {
        let router = Router {
            beats: Some(self.beats.clone()),
            ..self.router.clone()
        };
        GroupNetworkAdapter::new(router, target, self.partition)
    }
}

/// A Raft message without entries: checked that `from` speaks as itself, handed to its group.
///
/// # Errors
/// A message that is malformed, in somebody else's name, or that the group could not take.
pub(super) async fn answer<E: Env>(
    raft: Raft<E>,
    from: NodeId,
    method: Method,
    payload: Bytes,
) -> Result<Bytes, String> {
    let raft = &raft;
    let answer = match method {
        Method::Vote | Method::PreVote => answer_vote(raft, from, method, payload).await,
        Method::Snapshot => answer_snapshot(raft, from, payload).await,
        Method::Transfer => answer_transfer(raft, from, payload).await,
        _ => Err(io::Error::other("not a Raft message")),
    };
    answer.map_err(|problem| problem.to_string())
}

fn check_sender(vote: &VoteOf<C>, from: NodeId) -> io::Result<()> {
    if from_raft_vote(vote).node == from {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "a vote in another node's name",
        ))
    }
}

fn reply(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

impl<E: Env> Partition<E> {
    /// Entries from the leader, handed to Raft once their bodies are in place. Until then nothing of
    /// the group waits for them: heartbeats and votes are messages of their own.
    pub(super) async fn answer_append(
        &self,
        raft: Raft<E>,
        from: NodeId,
        payload: Bytes,
    ) -> Result<Bytes, String> {
        let text = |problem: Malformed| problem.to_string();
        let message = rpc::AppendRequest::decode(payload).map_err(|error| error.to_string())?;
        let vote = vote_of(message.vote).map_err(text)?;
        check_sender(&vote, from).map_err(|error| error.to_string())?;
        let entries = entries_of(&message).map_err(text)?;
        let entries = self.fill(from, entries, &message.bodies).await;
        let entries = entries.map_err(|problem| {
            let runtime = self.inner.env.runtime();
            runtime.trace(format_args!("append {}: {problem}", self.id()));
            problem.to_string()
        })?;
        let request = append_request(&message, entries).map_err(text)?;
        let response = raft.append_entries(request).await;
        let response = response.map_err(|error| error.to_string())?;
        Ok(reply(&append_response(response)))
    }
}

async fn answer_vote<E: Env>(
    raft: &Raft<E>,
    from: NodeId,
    method: Method,
    payload: Bytes,
) -> io::Result<Bytes> {
    let message = rpc::VoteRequest::decode(payload)?;
    let vote = vote_of(message.vote).map_err(io::Error::other)?;
    check_sender(&vote, from)?;
    let mut request = VoteRequest::new(vote, message.last.map(id_of));
    request.leadership_transfer = message.transfer;
    let response = if method == Method::PreVote {
        raft.pre_vote(request).await.map_err(io::Error::other)?
    } else {
        raft.vote(request).await.map_err(io::Error::other)?
    };
    Ok(reply(&rpc::VoteResponse {
        vote: Some(vote_message(&response.vote)),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(id_message),
    }))
}

async fn answer_snapshot<E: Env>(
    raft: &Raft<E>,
    from: NodeId,
    payload: Bytes,
) -> io::Result<Bytes> {
    let message = rpc::SnapshotRequest::decode(payload)?;
    let vote = vote_of(message.vote).map_err(io::Error::other)?;
    check_sender(&vote, from)?;
    let snapshot = message
        .snapshot
        .ok_or_else(|| io::Error::other("no snapshot"))?;
    let snapshot = snapshot_of(snapshot).map_err(io::Error::other)?;
    let meta = super::raft_types::snapshot_meta(&snapshot).map_err(io::Error::other)?;
    let snapshot = SnapshotOf::<C, SnapshotManifest> { meta, snapshot };
    let response = raft
        .install_full_snapshot(vote, snapshot)
        .await
        .map_err(io::Error::other)?;
    Ok(reply(&rpc::SnapshotResponse {
        vote: Some(vote_message(&response.vote)),
    }))
}

async fn answer_transfer<E: Env>(
    raft: &Raft<E>,
    from: NodeId,
    payload: Bytes,
) -> io::Result<Bytes> {
    let message = rpc::TransferRequest::decode(payload)?;
    let vote = vote_of(message.from).map_err(io::Error::other)?;
    check_sender(&vote, from)?;
    let request = TransferLeaderRequest::new(vote, message.to, message.last.map(id_of));
    let taken = raft
        .handle_transfer_leader(request)
        .await
        .map_err(io::Error::other)?;
    taken.map_err(io::Error::other)?;
    Ok(reply(&rpc::SnapshotResponse { vote: None }))
}
