//! [adapter] openraft's types for our groups, and their translation to ours.
//!
//! No openraft type is ever a wire or disk format: entries are [`Entry`], memberships and requests
//! are messages of `rpc.proto`.

use crate::life::Rt;
use crate::reader::SnapshotManifest;
use crate::segment::Vote;
use aber_proto::entry::EntryKind;
use aber_proto::generated::rpc;
use aber_proto::{ChainHash, ChunkList, ContentHash, Entry, LogId, Manifest};
use aber_proto::{PartitionId, Timestamp, ViewDigest, manifest};
use bytes::Bytes;
use openraft::EntryPayload;
use openraft::alias::{LogIdOf, SnapshotMetaOf, StoredMembershipOf, VoteOf};
use openraft::impls::BasicNode;
use openraft::vote::RaftLeaderId as _;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a leader appends: the fields of an [`Entry`] that Raft does not know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proposal {
    /// The leader's clock.
    pub order_time: Timestamp,
    /// Where the leader judged author and policy.
    pub control_index: u64,
    /// A signed change.
    pub body: Bytes,
    /// The chain hash, where the entry was read from a log; checked when it is appended again.
    pub chain: Option<ChainHash>,
}

/// The index an entry was applied at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position(pub u64);

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "change of {} bytes", self.body.len())
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

openraft::declare_raft_types!(
    /// The types of our Raft groups.
    pub TypeConfig:
        D = Proposal,
        R = Position,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = Rt
);

/// Short for the type configuration.
pub type C = TypeConfig;
/// openraft's membership.
pub type MembershipOf = openraft::Membership<u64, BasicNode>;
/// openraft's entry.
pub type RaftEntry = <C as openraft::RaftTypeConfig>::Entry;

/// A message of another node, or a stored one, that is not what it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a malformed Raft message: {0}")]
pub struct Malformed(pub &'static str);

/// openraft's log id of ours.
pub fn to_raft_id(id: LogId) -> LogIdOf<C> {
    LogIdOf::<C>::new_term_index(id.term, id.index)
}

/// Our log id of openraft's.
pub fn from_raft_id(id: &LogIdOf<C>) -> LogId {
    LogId {
        term: id.committed_leader_id().term,
        index: id.index,
    }
}

/// openraft's vote of ours.
pub fn to_raft_vote(vote: Vote) -> VoteOf<C> {
    if vote.is_committed {
        VoteOf::<C>::new_committed(vote.term, vote.node.0)
    } else {
        VoteOf::<C>::new(vote.term, vote.node.0)
    }
}

/// Our vote of openraft's.
pub fn from_raft_vote(vote: &VoteOf<C>) -> Vote {
    let leader = vote.leader_id();
    Vote {
        term: leader.term(),
        node: aber_proto::NodeId(*leader.node_id()),
        is_committed: vote.is_committed(),
    }
}

/// A log id as a message.
pub fn id_message(id: &LogIdOf<C>) -> rpc::LogId {
    let id = from_raft_id(id);
    rpc::LogId {
        term: id.term,
        index: id.index,
    }
}

/// The inverse of [`id_message`].
pub fn id_of(message: rpc::LogId) -> LogIdOf<C> {
    to_raft_id(LogId {
        term: message.term,
        index: message.index,
    })
}

/// A vote as a message.
pub fn vote_message(vote: &VoteOf<C>) -> rpc::Vote {
    let vote = from_raft_vote(vote);
    rpc::Vote {
        term: vote.term,
        node: vote.node.0,
        committed: vote.is_committed,
    }
}

/// The inverse of [`vote_message`].
///
/// # Errors
/// If it is missing.
pub fn vote_of(message: Option<rpc::Vote>) -> Result<VoteOf<C>, Malformed> {
    let message = message.ok_or(Malformed("no vote"))?;
    Ok(to_raft_vote(Vote {
        term: message.term,
        node: aber_proto::NodeId(message.node),
        is_committed: message.committed,
    }))
}

/// A membership as bytes, with the log id of its entry where that is known.
pub fn encode_membership(id: Option<&LogIdOf<C>>, membership: &MembershipOf) -> Bytes {
    membership_message(id, membership).encode_to_vec().into()
}

fn membership_message(id: Option<&LogIdOf<C>>, membership: &MembershipOf) -> rpc::Membership {
    let configs = membership.get_joint_config().iter();
    rpc::Membership {
        log_id: id.map(id_message),
        configs: configs
            .map(|set| rpc::VoterSet {
                voters: set.iter().copied().collect(),
            })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(node, info)| rpc::RaftNode {
                node: *node,
                address: info.addr.clone(),
            })
            .collect(),
    }
}

/// The inverse of [`encode_membership`].
///
/// # Errors
/// Bytes that are no membership.
pub fn decode_membership(bytes: &[u8]) -> Result<StoredMembershipOf<C>, Malformed> {
    membership_of(rpc::Membership::decode(bytes).map_err(|_| Malformed("membership"))?)
}

fn membership_of(message: rpc::Membership) -> Result<StoredMembershipOf<C>, Malformed> {
    let configs: Vec<BTreeSet<u64>> = message
        .configs
        .into_iter()
        .map(|set| set.voters.into_iter().collect())
        .collect();
    let nodes: BTreeMap<u64, BasicNode> = message
        .nodes
        .into_iter()
        .map(|n| (n.node, BasicNode::new(n.address)))
        .collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(StoredMembershipOf::<C>::default());
    }
    let membership =
        MembershipOf::new(configs, nodes).map_err(|_| Malformed("a voter is no member"))?;
    Ok(StoredMembershipOf::<C>::new(
        message.log_id.map(id_of),
        membership,
    ))
}

/// Our entry of openraft's, before it has its place in the chain.
pub fn from_raft_entry(partition: PartitionId, entry: RaftEntry) -> (Entry, Option<ChainHash>) {
    let log_id = from_raft_id(&entry.log_id);
    let (kind, body, order_time, control_index, chain) = match entry.payload {
        EntryPayload::Blank => (EntryKind::Blank, Bytes::new(), Timestamp(0), 0, None),
        EntryPayload::Normal(p) => (
            EntryKind::Change,
            p.body,
            p.order_time,
            p.control_index,
            p.chain,
        ),
        EntryPayload::Membership(membership) => {
            let body = encode_membership(None, &membership);
            (EntryKind::Membership, body, Timestamp(0), 0, None)
        }
    };
    let unchained = ChainHash::default();
    let entry = Entry {
        partition,
        log_id,
        order_time,
        control_index,
        kind,
        body,
        chain: unchained,
    };
    (entry, chain)
}

/// openraft's entry of ours.
///
/// # Errors
/// A membership entry whose body is none.
pub fn to_raft_entry(entry: Entry) -> Result<RaftEntry, Malformed> {
    let payload = match entry.kind {
        EntryKind::Blank => EntryPayload::Blank,
        EntryKind::Change => EntryPayload::Normal(Proposal {
            order_time: entry.order_time,
            control_index: entry.control_index,
            body: entry.body,
            chain: Some(entry.chain),
        }),
        EntryKind::Membership => {
            EntryPayload::Membership(decode_membership(&entry.body)?.membership().clone())
        }
    };
    Ok(RaftEntry {
        log_id: to_raft_id(entry.log_id),
        payload,
    })
}

/// openraft's description of a snapshot.
///
/// # Errors
/// A membership that is none.
pub fn snapshot_meta(snapshot: &SnapshotManifest) -> Result<SnapshotMetaOf<C>, Malformed> {
    Ok(SnapshotMetaOf::<C> {
        last_log_id: Some(to_raft_id(snapshot.log_id)),
        last_membership: decode_membership(&snapshot.membership)?,
    })
}

/// A snapshot's description as a message: for the wire and for the node's notes.
pub fn snapshot_message(snapshot: &SnapshotManifest) -> rpc::Snapshot {
    let content = &snapshot.content;
    rpc::Snapshot {
        partition: snapshot.partition.0,
        log_id: Some(rpc::LogId {
            term: snapshot.log_id.term,
            index: snapshot.log_id.index,
        }),
        chain: Bytes::copy_from_slice(&snapshot.chain.0),
        digest: Bytes::copy_from_slice(&snapshot.digest.0),
        membership: rpc::Membership::decode(snapshot.membership.clone()).ok(),
        size: content.size,
        blake3: Bytes::copy_from_slice(&content.blake3.0),
        average: content.average,
        indirect: matches!(content.chunks, ChunkList::Indirect(_)),
        rows: manifest::encode_list(content.chunks.rows()).into(),
    }
}

/// The inverse of [`snapshot_message`].
///
/// # Errors
/// The first field that is not what it should be.
pub fn snapshot_of(message: rpc::Snapshot) -> Result<SnapshotManifest, Malformed> {
    let id = message
        .log_id
        .ok_or(Malformed("a snapshot without log id"))?;
    let rows = manifest::decode_list(&message.rows).map_err(|_| Malformed("chunk rows"))?;
    let chunks = if message.indirect {
        ChunkList::Indirect(rows)
    } else {
        ChunkList::Direct(rows)
    };
    let blake3 = ContentHash::from_slice(&message.blake3).ok_or(Malformed("content hash"))?;
    let content = Manifest {
        size: message.size,
        blake3,
        average: message.average,
        chunks,
    };
    content.check().map_err(|_| Malformed("manifest"))?;
    let membership = message.membership.unwrap_or_default().encode_to_vec();
    decode_membership(&membership)?;
    Ok(SnapshotManifest {
        partition: PartitionId(message.partition),
        log_id: LogId {
            term: id.term,
            index: id.index,
        },
        chain: ChainHash::from_slice(&message.chain).ok_or(Malformed("chain hash"))?,
        digest: ViewDigest::from_slice(&message.digest).ok_or(Malformed("digest"))?,
        membership: membership.into(),
        content,
    })
}
