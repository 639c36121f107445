//! [pure] Ed25519 keys, and one signature for a batch of changes.
//!
//! Signing each change would cost more than the rest of its life (29 µs to sign, 55 µs to verify,
//! several times). So a node signs a batch: the leaves are [`ChangeHash`]es, a Merkle tree is
//! built over them as in RFC 9162 §2.1 (domain-separated leaves and nodes), its root is signed
//! once, and each change carries the root's signature and its own inclusion path. A verifier that
//! remembers the last good (key, root) pays a few hashes for all others of the batch.
//! `docs/decisions/0002-batch-signatures.md` has the reasons.

use crate::hash::ChangeHash;
use crate::limit;
use ring::signature::{self, Ed25519KeyPair, KeyPair};
use std::fmt;

const CONTEXT: &[u8] = b"aber 2026 signature v1";
/// What TLS 1.3 signs opens with this (RFC 8446 §4.4.3), which nothing under [`CONTEXT`] does.
const TLS_START: &[u8] =
    b"                                                                TLS 1.3, ";

/// A node's public key: Ed25519, 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// A node's key pair.
pub struct SecretKey {
    pair: Ed25519KeyPair,
}

/// What is signed; part of the signed bytes, so that a signature serves one purpose only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Root of a batch of changes.
    Changes,
    /// A head: what a leader or voter says is committed.
    Head,
    /// The greeting of a link without TLS.
    Link,
    /// That somebody has a ticket's secret, on one connection.
    Ticket,
    /// The announcement of a parcel.
    Parcel,
}

/// One change's share of a batch signature.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchSignature {
    /// Signature over the root.
    pub root_signature: [u8; 64],
    /// Position of this change in the batch.
    pub position: u32,
    /// Changes in the batch.
    pub count: u32,
    /// Hashes beside the way from this change to the root, lowest first.
    pub path: Vec<[u8; 32]>,
}

/// Why a signature was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SignatureProblem {
    /// A position outside its batch, or a path of the wrong length.
    #[error("the signature's inclusion path has the wrong shape")]
    Shape,
    /// The signature does not match key and content.
    #[error("the signature does not match")]
    Mismatch,
    /// The key bytes are no Ed25519 seed.
    #[error("the key is damaged")]
    Key,
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

fn signed_bytes(purpose: Purpose, message: &[u8]) -> Vec<u8> {
    let tag = match purpose {
        Purpose::Changes => 1,
        Purpose::Head => 2,
        Purpose::Link => 3,
        Purpose::Ticket => 4,
        Purpose::Parcel => 5,
    };
    let mut bytes = Vec::with_capacity(CONTEXT.len() + 1 + message.len());
    bytes.extend_from_slice(CONTEXT);
    bytes.push(tag);
    bytes.extend_from_slice(message);
    bytes
}

impl SecretKey {
    /// The key pair of a 32-byte seed.
    ///
    /// # Errors
    /// [`SignatureProblem::Key`] if the seed is not accepted.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, SignatureProblem> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| SignatureProblem::Key)?;
        Ok(Self { pair })
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.pair.public_key().as_ref());
        PublicKey(bytes)
    }

    /// Signs `message` for one purpose.
    #[must_use]
    pub fn sign(&self, purpose: Purpose, message: &[u8]) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes.copy_from_slice(self.pair.sign(&signed_bytes(purpose, message)).as_ref());
        bytes
    }

    /// Signs what TLS 1.3 asks for in a handshake (its `CertificateVerify`, and nothing else), so
    /// that the node's key can be its TLS key and the seed stays here.
    ///
    /// `None` if `message` is not of that kind.
    #[must_use]
    pub fn sign_tls13(&self, message: &[u8]) -> Option<[u8; 64]> {
        if !message.starts_with(TLS_START) {
            return None;
        }
        let mut bytes = [0; 64];
        bytes.copy_from_slice(self.pair.sign(message).as_ref());
        Some(bytes)
    }

    /// Signs a batch of up to [`limit::BATCH_CHANGES`] changes with one signature: one share for
    /// each, in their order.
    #[must_use]
    pub fn sign_batch(&self, changes: &[ChangeHash]) -> Vec<BatchSignature> {
        assert!(
            changes.len() <= limit::BATCH_CHANGES,
            "a batch above its limit"
        );
        if changes.is_empty() {
            return Vec::new();
        }
        let leaves: Vec<[u8; 32]> = changes.iter().map(leaf).collect();
        let mut paths = vec![Vec::with_capacity(limit::BATCH_DEPTH); leaves.len()];
        let root = grow(&leaves, &mut paths);
        let root_signature = self.sign(Purpose::Changes, &root);
        let count = u32::try_from(leaves.len()).expect("bounded by the limit");
        (0..count)
            .zip(paths)
            .map(|(position, path)| BatchSignature {
                root_signature,
                position,
                count,
                path,
            })
            .collect()
    }
}

impl PublicKey {
    /// Checks a signature made by [`SecretKey::sign`].
    ///
    /// # Errors
    /// [`SignatureProblem::Mismatch`].
    pub fn verify(
        &self,
        purpose: Purpose,
        message: &[u8],
        bytes: &[u8; 64],
    ) -> Result<(), SignatureProblem> {
        signature::UnparsedPublicKey::new(&signature::ED25519, &self.0)
            .verify(&signed_bytes(purpose, message), bytes)
            .map_err(|_| SignatureProblem::Mismatch)
    }
}

fn leaf(change: &ChangeHash) -> [u8; 32] {
    *blake3::Hasher::new()
        .update(&[0])
        .update(&change.0)
        .finalize()
        .as_bytes()
}

fn node(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    *blake3::Hasher::new()
        .update(&[1])
        .update(left)
        .update(right)
        .finalize()
        .as_bytes()
}

/// The greatest power of two below `count`, which is at least 2.
fn split(count: usize) -> usize {
    1 << (usize::BITS - 1 - (count - 1).leading_zeros())
}

/// The root over `leaves`, each node hashed once; adds to each leaf's path what stands beside its
/// way to that root. Both slices have the same length.
fn grow(leaves: &[[u8; 32]], paths: &mut [Vec<[u8; 32]>]) -> [u8; 32] {
    match leaves {
        [] => [0; 32],
        [one] => *one,
        more => {
            let at = split(more.len());
            let (left, right) = more.split_at(at);
            let (left_paths, right_paths) = paths.split_at_mut(at);
            let (left, right) = (grow(left, left_paths), grow(right, right_paths));
            left_paths.iter_mut().for_each(|path| path.push(right));
            right_paths.iter_mut().for_each(|path| path.push(left));
            node(&left, &right)
        }
    }
}

impl BatchSignature {
    /// The root this change's path leads to.
    ///
    /// # Errors
    /// [`SignatureProblem::Shape`] if position, count and path do not fit each other.
    pub fn root(&self, change: &ChangeHash) -> Result<[u8; 32], SignatureProblem> {
        let count = usize::try_from(self.count).unwrap_or(usize::MAX);
        let position = usize::try_from(self.position).unwrap_or(usize::MAX);
        if count > limit::BATCH_CHANGES || position >= count {
            return Err(SignatureProblem::Shape);
        }
        climb(leaf(change), position, count, &self.path)
    }

    /// Checks the signature of `change` by `key`.
    ///
    /// # Errors
    /// Shape or mismatch.
    pub fn verify(&self, key: &PublicKey, change: &ChangeHash) -> Result<(), SignatureProblem> {
        key.verify(Purpose::Changes, &self.root(change)?, &self.root_signature)
    }
}

fn climb(
    start: [u8; 32],
    position: usize,
    count: usize,
    path: &[[u8; 32]],
) -> Result<[u8; 32], SignatureProblem> {
    if count == 1 {
        return if path.is_empty() {
            Ok(start)
        } else {
            Err(SignatureProblem::Shape)
        };
    }
    let (beside, below) = path.split_last().ok_or(SignatureProblem::Shape)?;
    let at = split(count);
    if position < at {
        Ok(node(&climb(start, position, at, below)?, beside))
    } else {
        Ok(node(
            beside,
            &climb(start, position - at, count - at, below)?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S1: each change of a batch verifies alone, and no other does.
    #[test]
    fn every_member_of_a_batch_verifies_and_nothing_else_does() {
        let key = SecretKey::from_seed(&[7; 32]).expect("seed");
        let other = SecretKey::from_seed(&[8; 32]).expect("seed").public();
        assert_eq!(key.sign_batch(&[]), []);
        for count in [1_usize, 2, 3, 5, 8, 100, limit::BATCH_CHANGES] {
            let changes: Vec<_> = (0..count)
                .map(|n| ChangeHash::of(&n.to_string().into_bytes()))
                .collect();
            let signatures = key.sign_batch(&changes);
            assert_eq!(signatures.len(), count);
            for (change, signature) in changes.iter().zip(signatures) {
                assert_eq!(signature.verify(&key.public(), change), Ok(()));
                assert!(signature.path.len() <= limit::BATCH_DEPTH);
                let strange = ChangeHash::of(b"x");
                assert!(signature.verify(&key.public(), &strange).is_err());
                assert!(signature.verify(&other, change).is_err());
                let longer = BatchSignature {
                    path: [signature.path.clone(), vec![[0; 32]]].concat(),
                    ..signature
                };
                assert_eq!(
                    longer.verify(&key.public(), change),
                    Err(SignatureProblem::Shape)
                );
            }
        }
    }

    /// S1: what TLS has signed is never a change, and the other way about.
    #[test]
    fn a_handshake_of_tls_signs_nothing_else() {
        let key = SecretKey::from_seed(&[7; 32]).expect("seed");
        let asked = [TLS_START, b"server CertificateVerify\0", &[9; 32]].concat();
        let bytes = key.sign_tls13(&asked).expect("signed");
        let raw = signature::UnparsedPublicKey::new(&signature::ED25519, key.public().0);
        assert!(raw.verify(&asked, &bytes).is_ok());
        assert_eq!(TLS_START.len(), 64 + 9);
        for purpose in [Purpose::Changes, Purpose::Head, Purpose::Link] {
            assert_eq!(key.sign_tls13(&signed_bytes(purpose, &asked)), None);
        }
    }

    #[test]
    fn a_signature_serves_one_purpose() {
        let key = SecretKey::from_seed(&[7; 32]).expect("seed");
        let signature = key.sign(Purpose::Head, b"m");
        assert!(key.public().verify(Purpose::Head, b"m", &signature).is_ok());
        assert!(
            key.public()
                .verify(Purpose::Changes, b"m", &signature)
                .is_err()
        );
    }
}
