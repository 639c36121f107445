//! [pure] Domain types <-> bytes.
use crate::change::{Change, ChangeProblem, SignedChange};
use crate::member::{Genesis, GenesisProblem};
use bytes::Bytes;

/// Encodes the body of a change; these bytes are what is signed.
#[must_use]
pub fn encode_change(_change: &Change) -> Bytes {
    unimplemented!()
}
/// Decodes and checks ([`Change::check`], limits) a body.
/// # Errors
/// The first rule that is broken.
pub fn decode_change(_body: &Bytes) -> Result<Change, ChangeProblem> {
    unimplemented!()
}
/// Encodes body and signature: the body of an entry of kind change.
#[must_use]
pub fn encode_signed(_change: &SignedChange) -> Bytes {
    unimplemented!()
}
/// The inverse of [`encode_signed`].
/// # Errors
/// Anything that is not one whole signed change.
pub fn decode_signed(_bytes: &Bytes) -> Result<SignedChange, ChangeProblem> {
    unimplemented!()
}
/// Encodes a genesis.
#[must_use]
pub fn encode_genesis(_genesis: &Genesis) -> Vec<u8> {
    unimplemented!()
}
/// Decodes and checks a genesis.
/// # Errors
/// The first rule that is broken.
pub fn decode_genesis(_bytes: &[u8]) -> Result<Genesis, GenesisProblem> {
    unimplemented!()
}
