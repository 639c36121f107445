//! Links: ordered streams of frames between two nodes.
//!
//! A link is reliable and ordered until it breaks; then both ends learn it sooner or later, and
//! frames on the way are lost. The remote end is known by the link, not by what it says.

use aber_proto::{NodeId, PublicKey};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::future::Future;

/// What a link is for: heartbeats and votes must not queue behind content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LinkClass {
    /// Raft, proposals, small questions.
    Control,
    /// Chunks, snapshots.
    Bulk,
}

/// Why a link could not be made or broke.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LinkProblem {
    /// Nobody answers.
    #[error("node {node} cannot be reached: {why}")]
    Unreachable {
        /// Whom.
        node: NodeId,
        /// What the system said.
        why: String,
    },
    /// The other end answered and refused: another cluster, version or node.
    #[error("node {node} refused the link: {why}")]
    Refused {
        /// Whom.
        node: NodeId,
        /// What it said.
        why: String,
    },
    /// The other end knows no member with this node's key: it was removed, or the other has not
    /// heard of it yet.
    #[error("node {node} refused the link: {why}")]
    NotAMember {
        /// Whom.
        node: NodeId,
        /// What it said.
        why: String,
    },
    /// The link is gone.
    #[error("the link is closed")]
    Closed,
}

/// One connection. Both methods take `&self`: one task may send while another receives.
pub trait Link: Send + Sync + 'static {
    /// Hands a frame (at most [`aber_proto::limit::MESSAGE_BYTES`] less 1 KiB) to the link; waits
    /// while it is full.
    fn send(&self, frame: Bytes) -> impl Future<Output = Result<(), LinkProblem>> + Send;
    /// The next frame.
    fn receive(&self) -> impl Future<Output = Result<Bytes, LinkProblem>> + Send;
    /// Who is at the other end.
    fn remote(&self) -> NodeId;
    /// What it is for.
    fn class(&self) -> LinkClass;
}

/// Another member, as links know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its key: what proves that it is this member, whatever address it calls from.
    pub key: PublicKey,
    /// Where it listens, as `host:port` or `[::1]:7787`, tried in turn; of more than
    /// [`PEER_ADDRESSES`] the rest is never tried.
    pub addresses: Vec<String>,
}

/// Addresses of a member that are tried.
pub const PEER_ADDRESSES: usize = 8;

/// Makes and takes links.
pub trait Network: Clone + Send + Sync + 'static {
    /// A link.
    type Link: Link;
    /// Opens a link to a node.
    fn dial(
        &self,
        to: NodeId,
        class: LinkClass,
    ) -> impl Future<Output = Result<Self::Link, LinkProblem>> + Send;
    /// The next link another node opened to this one.
    fn accept(&self) -> impl Future<Output = Result<Self::Link, LinkProblem>> + Send;
    /// Replaces the table of members: whom links are opened to and taken from. Links of a key that
    /// does not stand for its node any more end.
    fn set_peers(&self, peers: BTreeMap<NodeId, Peer>);
    /// Where a node was reached the last time, for people; `None` if that is not known.
    fn reached_at(&self, _node: NodeId) -> Option<String> {
        None
    }
}
