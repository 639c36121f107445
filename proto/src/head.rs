//! [pure] Heads: what a leader says is committed, signed.
//!
//! A head names an index, its term and its chain hash, and so proves everything before it. It is
//! signed only at or below the commit index and after the signer's own fsync, so that a truncation
//! that Raft allows never looks like loss. Two heads of one index that differ prove two histories
//! (promise I4).

use crate::entry::LogId;
use crate::hash::ChainHash;
use crate::id::{ClusterId, NodeId, PartitionId};
use crate::key::{PublicKey, Purpose, SecretKey, SignatureProblem};

/// What is committed, by one node's word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The partition.
    pub partition: PartitionId,
    /// The last committed entry.
    pub log_id: LogId,
    /// The chain hash there.
    pub chain: ChainHash,
}

/// A head with its signer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SignedHead {
    /// What is said.
    pub head: Head,
    /// Who says it.
    pub signer: NodeId,
    /// The signature over cluster, signer and head.
    pub signature: [u8; 64],
}

impl Head {
    /// What is signed: cluster, signer, partition, term, index, chain hash; little-endian.
    #[must_use]
    pub fn message(&self, cluster: &ClusterId, signer: NodeId) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(32 + 8 + 4 + 8 + 8 + 32);
        bytes.extend_from_slice(&cluster.0);
        bytes.extend_from_slice(&signer.0.to_le_bytes());
        bytes.extend_from_slice(&self.partition.0.to_le_bytes());
        bytes.extend_from_slice(&self.log_id.term.to_le_bytes());
        bytes.extend_from_slice(&self.log_id.index.to_le_bytes());
        bytes.extend_from_slice(&self.chain.0);
        bytes
    }

    /// Signs it.
    #[must_use]
    pub fn sign(self, cluster: &ClusterId, signer: NodeId, key: &SecretKey) -> SignedHead {
        let signature = key.sign(Purpose::Head, &self.message(cluster, signer));
        SignedHead {
            head: self,
            signer,
            signature,
        }
    }
}

impl SignedHead {
    /// Checks the signature.
    ///
    /// # Errors
    /// [`SignatureProblem::Mismatch`].
    pub fn verify(&self, cluster: &ClusterId, key: &PublicKey) -> Result<(), SignatureProblem> {
        key.verify(
            Purpose::Head,
            &self.head.message(cluster, self.signer),
            &self.signature,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S1: a head says one thing, of one cluster, by one node.
    #[test]
    fn no_part_of_a_signed_head_can_change() {
        let (cluster, other) = (ClusterId([1; 32]), ClusterId([2; 32]));
        let key = SecretKey::from_seed(&[7; 32]).expect("seed");
        let log_id = LogId { term: 3, index: 9 };
        let head = Head {
            partition: PartitionId(1),
            log_id,
            chain: ChainHash([5; 32]),
        };
        let signed = head.sign(&cluster, NodeId(1), &key);
        assert_eq!(signed.verify(&cluster, &key.public()), Ok(()));
        assert!(signed.verify(&other, &key.public()).is_err());
        let moved = SignedHead {
            signer: NodeId(2),
            ..signed
        };
        assert!(moved.verify(&cluster, &key.public()).is_err());
        let later = Head {
            log_id: LogId { term: 3, index: 10 },
            ..head
        };
        assert!(
            SignedHead {
                head: later,
                ..signed
            }
            .verify(&cluster, &key.public())
            .is_err()
        );
    }
}
