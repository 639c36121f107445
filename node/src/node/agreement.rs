//! [pure] Whether the views of the nodes are the same after the same entries (promise M4).
//!
//! Each node tells the digest of its view at every so many entries. One that differs from a majority
//! of the voters, who agree among themselves, is wrong by all that can be known here; one that differs
//! from fewer is only told of. What was told of entries that are not applied here yet is kept until
//! they are, the newest few of each node.

use aber_proto::generated::rpc;
use aber_proto::{NodeId, PartitionId, ViewDigest};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Digests of one partition that are kept of one node.
const KEPT: usize = 4;

/// What the others told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Agreement {
    told: BTreeMap<(PartitionId, NodeId), VecDeque<(u64, ViewDigest)>>,
}

/// Others have another view than this node has, after the same entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Disagreement {
    /// The entry.
    pub(super) index: u64,
    /// This node's digest after it.
    pub(super) own: ViewDigest,
    /// Who says otherwise.
    pub(super) others: BTreeSet<NodeId>,
    /// A majority of the voters agree on another one.
    pub(super) is_outvoted: bool,
}

/// What a message says.
pub(super) fn digest_of(message: &rpc::ViewDigest) -> Option<(PartitionId, u64, ViewDigest)> {
    let digest = message.digest.as_ref().try_into().ok()?;
    let partition = PartitionId(message.partition);
    Some((partition, message.index, ViewDigest(digest)))
}

impl Agreement {
    /// Takes note of what a node said of its own view.
    pub(super) fn hear(&mut self, node: NodeId, told: (PartitionId, u64, ViewDigest)) {
        let (partition, index, digest) = told;
        let of_node = self.told.entry((partition, node)).or_default();
        // It may have built its view anew, and says otherwise now.
        of_node.retain(|(known, _)| *known != index);
        of_node.push_back((index, digest));
        while of_node.len() > KEPT {
            of_node.pop_front();
        }
    }

    /// Forgets what nodes said that are no members any more.
    pub(super) fn keep(&mut self, is_member: impl Fn(NodeId) -> bool) {
        self.told.retain(|(_, node), _| is_member(*node));
    }

    /// The entries of a partition of which something was told.
    pub(super) fn indexes(&self, partition: PartitionId) -> BTreeSet<u64> {
        let of_partition = self.told.iter().filter(|((p, _), _)| *p == partition);
        let told = of_partition.flat_map(|(_, told)| told.iter());
        told.map(|(index, _)| *index).collect()
    }

    /// Compares what was told of an entry with this node's own digest.
    pub(super) fn compare(
        &self,
        partition: PartitionId,
        (index, own): (u64, ViewDigest),
        voters: &BTreeSet<NodeId>,
    ) -> Option<Disagreement> {
        let mut others = BTreeSet::new();
        let mut votes: BTreeMap<ViewDigest, usize> = BTreeMap::new();
        for ((of, node), told) in &self.told {
            let there = told.iter().find(|(known, _)| *known == index);
            let Some((_, digest)) = there.filter(|(_, digest)| *of == partition && *digest != own)
            else {
                continue;
            };
            others.insert(*node);
            if voters.contains(node) {
                *votes.entry(*digest).or_default() += 1;
            }
        }
        let most = votes.values().copied().max().unwrap_or(0);
        (!others.is_empty()).then_some(Disagreement {
            index,
            own,
            others,
            is_outvoted: most > voters.len() / 2,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(2);

    fn digest(seed: u8) -> ViewDigest {
        ViewDigest([seed; 32])
    }

    fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn told(all: &[(u64, u64, u8)]) -> Agreement {
        let mut agreement = Agreement::default();
        for (node, index, seed) in all {
            agreement.hear(NodeId(*node), (P, *index, digest(*seed)));
        }
        agreement
    }

    /// M4: two of three voters who agree are right; one of them is not, nor are two who differ.
    #[test]
    fn m4_a_majority_of_the_voters_is_right() {
        let voters = nodes(&[1, 2, 3]);
        let compare = |all: &[(u64, u64, u8)]| told(all).compare(P, (8, digest(1)), &voters);
        assert_eq!(compare(&[(2, 8, 1), (3, 8, 1)]), None);
        let one = compare(&[(2, 8, 7), (3, 8, 1)]).expect("a difference");
        assert_eq!((one.others, one.is_outvoted), (nodes(&[2]), false));
        let both = compare(&[(2, 8, 7), (3, 8, 7)]).expect("a difference");
        assert_eq!((both.others, both.is_outvoted), (nodes(&[2, 3]), true));
        let apart = compare(&[(2, 8, 7), (3, 8, 6)]).expect("a difference");
        assert!(!apart.is_outvoted);
    }

    /// However many who do not vote say otherwise: nobody else vouches for them.
    #[test]
    fn followers_outvote_nobody() {
        let agreement = told(&[(4, 8, 7), (5, 8, 7), (6, 8, 7)]);
        let found = agreement.compare(P, (8, digest(1)), &nodes(&[1, 2, 3]));
        assert!(!found.expect("a difference").is_outvoted);
        let alone = told(&[(1, 8, 7)]).compare(P, (8, digest(1)), &nodes(&[1]));
        assert!(alone.expect("a difference").is_outvoted, "one voter");
    }

    /// Only the same entry of the same partition is compared, and the last word of a node counts.
    #[test]
    fn like_is_compared_with_like() {
        let mut agreement = told(&[(2, 8, 7), (3, 16, 7)]);
        assert_eq!(agreement.compare(P, (24, digest(1)), &nodes(&[2, 3])), None);
        let other = PartitionId(3);
        assert_eq!(agreement.compare(other, (8, digest(1)), &nodes(&[2])), None);
        agreement.hear(NodeId(2), (P, 8, digest(1)));
        assert_eq!(agreement.compare(P, (8, digest(1)), &nodes(&[2])), None);
        assert_eq!(agreement.indexes(P), [8, 16].into());
        agreement.keep(|node| node != NodeId(3));
        assert_eq!(agreement.indexes(P), [8].into());
    }

    /// B1: whatever is told, little is kept.
    #[test]
    fn b1_little_is_kept_of_each() {
        let all: Vec<_> = (1..100).map(|index| (2, index, 1)).collect();
        assert_eq!(told(&all).indexes(P), [96, 97, 98, 99].into());
    }
}
