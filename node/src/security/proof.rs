//! [pure] The proof that a joiner has a ticket's secret, bound to one connection.
//!
//! The secret itself never travels. What does is a keyed hash over the connection's exporter, both
//! keys and the cluster: somebody who reads or repeats it elsewhere has nothing.

use aber_proto::{ClusterId, PublicKey};
use zeroize::Zeroizing;

const CONTEXT: &str = "aber 2026 ticket proof v1";

/// The proof for one connection.
#[must_use]
pub fn proof(
    secret: &[u8],
    exporter: &[u8; 32],
    joiner: &PublicKey,
    inviter: &PublicKey,
    cluster: &ClusterId,
) -> [u8; 32] {
    *hash(secret, exporter, joiner, inviter, cluster).as_bytes()
}

/// Whether `proof` is that of somebody who has the secret. Takes the same time for each wrong one.
#[must_use]
pub fn verify_proof(
    proof: &[u8; 32],
    secret: &[u8],
    exporter: &[u8; 32],
    joiner: &PublicKey,
    inviter: &PublicKey,
    cluster: &ClusterId,
) -> bool {
    // Hashes of blake3 are compared in constant time.
    hash(secret, exporter, joiner, inviter, cluster) == blake3::Hash::from_bytes(*proof)
}

fn hash(
    secret: &[u8],
    exporter: &[u8; 32],
    joiner: &PublicKey,
    inviter: &PublicKey,
    cluster: &ClusterId,
) -> blake3::Hash {
    let key = Zeroizing::new(blake3::derive_key(CONTEXT, secret));
    let parts = [&exporter[..], &joiner.0, &inviter.0, &cluster.0];
    blake3::keyed_hash(&key, &parts.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S3: a proof is good for one secret, connection, pair of keys and cluster.
    #[test]
    fn a_proof_is_bound_to_everything_it_is_made_of() {
        let (joiner, inviter) = (PublicKey([1; 32]), PublicKey([2; 32]));
        let cluster = ClusterId([3; 32]);
        let made = proof(b"secret", &[4; 32], &joiner, &inviter, &cluster);
        let check = |secret: &[u8], exporter, joiner, inviter, cluster| {
            verify_proof(&made, secret, exporter, joiner, inviter, cluster)
        };
        assert!(check(b"secret", &[4; 32], &joiner, &inviter, &cluster));
        assert!(!check(b"other", &[4; 32], &joiner, &inviter, &cluster));
        assert!(!check(b"secret", &[5; 32], &joiner, &inviter, &cluster));
        assert!(!check(b"secret", &[4; 32], &inviter, &joiner, &cluster));
        let other = ClusterId([4; 32]);
        assert!(!check(b"secret", &[4; 32], &joiner, &inviter, &other));
    }

    /// The proof is a format: both ends compute it.
    #[test]
    fn a_proof_stays_what_it_is() {
        let (joiner, inviter) = (PublicKey([1; 32]), PublicKey([2; 32]));
        let made = proof(b"secret", &[4; 32], &joiner, &inviter, &ClusterId([3; 32]));
        assert_eq!(
            data_encoding::HEXLOWER.encode(&made),
            "ab9f38c65c3657539b7d049ac0528c0db8d09af5a0693336aa2e68af8b3d218f"
        );
    }
}
