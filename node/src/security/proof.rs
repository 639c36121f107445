//! [pure] The proof that a joiner has a ticket's secret, bound to one connection.
//!
//! The secret itself never travels, and nobody else needs to know it: the log has the public half of
//! the key that is made of it, and the proof is a signature by the other half, over the
//! connection's exporter, both keys and the cluster. Somebody who reads the log, or repeats the proof
//! elsewhere, has nothing.

use aber_proto::key::Purpose;
use aber_proto::{ClusterId, PublicKey, TicketId, TicketSecret};

/// Bytes of a proof.
pub const PROOF_BYTES: usize = 64;

/// The proof for one connection.
#[must_use]
pub fn proof(
    secret: &TicketSecret,
    exporter: &[u8; 32],
    joiner: &PublicKey,
    inviter: &PublicKey,
    cluster: &ClusterId,
) -> [u8; PROOF_BYTES] {
    let bytes = signed(exporter, joiner, inviter, cluster);
    secret.key().sign(Purpose::Ticket, &bytes)
}

/// Whether `proof` is that of somebody who has the ticket's secret. Nothing secret takes part.
#[must_use]
pub fn verify_proof(
    proof: &[u8; PROOF_BYTES],
    ticket: TicketId,
    exporter: &[u8; 32],
    joiner: &PublicKey,
    inviter: &PublicKey,
    cluster: &ClusterId,
) -> bool {
    let bytes = signed(exporter, joiner, inviter, cluster);
    let verified = ticket.key().verify(Purpose::Ticket, &bytes, proof);
    verified.is_ok()
}

fn signed(
    exporter: &[u8; 32],
    joiner: &PublicKey,
    inviter: &PublicKey,
    cluster: &ClusterId,
) -> Vec<u8> {
    [&exporter[..], &joiner.0, &inviter.0, &cluster.0].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: TicketSecret = TicketSecret([7; 16]);

    /// S3: a proof is good for one secret, connection, pair of keys and cluster.
    #[test]
    fn a_proof_is_bound_to_everything_it_is_made_of() {
        let (joiner, inviter) = (PublicKey([1; 32]), PublicKey([2; 32]));
        let cluster = ClusterId([3; 32]);
        let made = proof(&SECRET, &[4; 32], &joiner, &inviter, &cluster);
        let check = |secret: [u8; 16], exporter, joiner, inviter, cluster| {
            let ticket = TicketId::of_secret(&TicketSecret(secret));
            verify_proof(&made, ticket, exporter, joiner, inviter, cluster)
        };
        assert!(check([7; 16], &[4; 32], &joiner, &inviter, &cluster));
        assert!(!check([8; 16], &[4; 32], &joiner, &inviter, &cluster));
        assert!(!check([7; 16], &[5; 32], &joiner, &inviter, &cluster));
        assert!(!check([7; 16], &[4; 32], &inviter, &joiner, &cluster));
        let other = ClusterId([4; 32]);
        assert!(!check([7; 16], &[4; 32], &joiner, &inviter, &other));
    }

    /// The proof is a format: both ends compute it.
    #[test]
    fn a_proof_stays_what_it_is() {
        let (joiner, inviter) = (PublicKey([1; 32]), PublicKey([2; 32]));
        let made = proof(&SECRET, &[4; 32], &joiner, &inviter, &ClusterId([3; 32]));
        let hash = blake3::hash(&made).to_hex();
        assert_eq!(
            hash.as_str(),
            "c252c8bf6789ea883a5ab90c0f756904c0ea554485426d3c363ef7513f18b08d"
        );
    }
}
