//! [pure] Members and the genesis: what a cluster starts from.

use crate::id::{ClusterId, NodeId, PartitionId};
use crate::key::PublicKey;
use crate::limit;
use crate::unit::Timestamp;
use std::collections::BTreeSet;

/// What a member may do; each role includes those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Reads and mirrors.
    Reader,
    /// Writes too.
    Writer,
    /// Changes membership and policy too.
    Admin,
}

/// A node's row in the membership.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its number, never used again.
    pub node: NodeId,
    /// `[a-z0-9-]{1,32}`, unique.
    pub name: String,
    /// Its key; changes and heads are signed with it.
    pub key: PublicKey,
    /// What it may do.
    pub role: Role,
    /// `host:port` where other nodes reach it; a node may be told others.
    pub address: String,
}

/// What a connection carries, as declared; 0: not declared, to be measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rates {
    /// Bytes a second away from the node.
    pub up: u64,
    /// Bytes a second to the node.
    pub down: u64,
}

/// What a cluster starts from. Its BLAKE3 is the [`ClusterId`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Genesis {
    /// For people.
    pub name: String,
    /// When it was made; makes the id unique together with the keys.
    pub created: Timestamp,
    /// The first members.
    pub members: Vec<Member>,
    /// Those of them that vote, in every partition: 1, 3 or 5.
    pub voters: Vec<NodeId>,
    /// Partitions, the control partition included.
    pub partitions: u32,
    /// Nodes that must hold content before a change that needs it is ordered (promise D2). Never
    /// more than there are members.
    pub min_copies: u32,
}

/// Why a genesis was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GenesisProblem {
    /// The bytes are no genesis.
    #[error("the bytes are no genesis: {0}")]
    Encoding(&'static str),
    /// 1, 3 or 5 members vote, never 2.
    #[error("{0} voters; there must be 1, 3 or 5")]
    VoterCount(usize),
    /// A voter that is no member, or a number, name or key used twice.
    #[error("member {0} is named twice, or votes without being a member")]
    Member(NodeId),
    /// A name outside `[a-z0-9-]{1,32}`.
    #[error("{0:?} is no member name: 1 to 32 of a-z, 0-9 and '-'")]
    Name(String),
    /// No members, too many, or too many partitions.
    #[error("{0} is out of bounds")]
    Bounds(&'static str),
}

impl Genesis {
    /// Checks the rules above.
    ///
    /// # Errors
    /// The first that is broken.
    pub fn check(&self) -> Result<(), GenesisProblem> {
        if self.name.len() > limit::CLUSTER_NAME_BYTES {
            return Err(GenesisProblem::Bounds("the name of the cluster"));
        }
        if self.members.is_empty() || self.members.len() > limit::MEMBERS {
            return Err(GenesisProblem::Bounds("the number of members"));
        }
        if self.partitions < 2 || self.partitions as usize > limit::PARTITIONS {
            return Err(GenesisProblem::Bounds("the number of partitions"));
        }
        if self.min_copies == 0 || self.min_copies as usize > self.members.len() {
            return Err(GenesisProblem::Bounds("min_copies"));
        }
        if ![1, 3, 5].contains(&self.voters.len()) {
            return Err(GenesisProblem::VoterCount(self.voters.len()));
        }
        let nodes = self.check_members()?;
        let mut voters = BTreeSet::new();
        for voter in &self.voters {
            if !nodes.contains(voter) || !voters.insert(voter) {
                return Err(GenesisProblem::Member(*voter));
            }
        }
        Ok(())
    }

    fn check_members(&self) -> Result<BTreeSet<NodeId>, GenesisProblem> {
        let (mut nodes, mut names) = (BTreeSet::new(), BTreeSet::new());
        let mut keys = BTreeSet::new();
        for member in &self.members {
            if !is_member_name(&member.name) {
                return Err(GenesisProblem::Name(member.name.clone()));
            }
            if member.address.len() > limit::ADDRESS_BYTES {
                return Err(GenesisProblem::Bounds("the address of a member"));
            }
            // A key used twice would let one member speak as another (promise S3).
            if !nodes.insert(member.node)
                || !names.insert(member.name.as_str())
                || !keys.insert(member.key)
            {
                return Err(GenesisProblem::Member(member.node));
            }
        }
        Ok(nodes)
    }

    /// The row of a node.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.node == node)
    }

    /// All partitions, the control partition first.
    pub fn partition_ids(&self) -> impl Iterator<Item = PartitionId> + use<> {
        (0..self.partitions).map(PartitionId)
    }

    /// The cluster's id: BLAKE3 of the encoded genesis.
    #[must_use]
    pub fn cluster_id(&self) -> ClusterId {
        ClusterId(blake3::derive_key(
            "aber 2026 genesis v1",
            &crate::codec::encode_genesis(self),
        ))
    }
}

/// Whether `name` is 1 to 32 of `a-z`, `0-9` and `-`.
#[must_use]
pub fn is_member_name(name: &str) -> bool {
    (1..=limit::MEMBER_NAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}
