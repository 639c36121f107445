//! [pure] Domain types <-> bytes: the only place that knows how durable values are written.
//!
//! The messages are those of `store.proto`; `docs/format.md` says how they are versioned.
//! - Encoding is deterministic: one value, one sequence of bytes.
//! - Decoding is strict: it checks every limit before it allocates for what the limit bounds, every
//!   rule that needs no view, and at last that the bytes are those the encoder writes. So no field
//!   is silently skipped, and two nodes never read the same bytes differently.
//! - What was signed or hashed is still kept as bytes and passed on as bytes.
//! - Inline content shares the buffer it was decoded from.

mod change;
mod genesis;
#[cfg(test)]
mod golden;
mod operation;
#[cfg(test)]
mod tests;

use crate::change::{Change, ChangeProblem, SignedChange};
use crate::generated::store;
use crate::limit;
use crate::manifest::Content;
use crate::member::{Genesis, GenesisProblem};
use bytes::Bytes;
use prost::Message;
use prost::encoding::{DecodeContext, decode_key, skip_field};

/// The version of the encoding of [`Change`] and [`Genesis`].
pub const FORMAT: u32 = 1;

const NOT_PROTOBUF: &str = "no well-formed protobuf";
const NOT_OURS: &str = "an encoding that our encoder does not write";
const UNKNOWN_FORMAT: &str = "a format this version does not know";

/// Encodes the body of a change; these bytes are what is signed. Whoever makes a change uses
/// [`encode_checked`]: this one takes anything.
#[must_use]
pub fn encode_change(change: &Change) -> Bytes {
    change::to_message(change).encode_to_vec().into()
}

/// Checks a change and encodes it: what [`decode_change`] takes back, and nothing else.
///
/// # Errors
/// The first rule that is broken, the length of the body included.
pub fn encode_checked(change: &Change) -> Result<Bytes, ChangeProblem> {
    change.check()?;
    let body = encode_change(change);
    check_length(&body, limit::CHANGE_BYTES)?;
    Ok(body)
}

/// Decodes and checks ([`Change::check`], limits) a body.
///
/// # Errors
/// The first rule that is broken.
pub fn decode_change(body: &Bytes) -> Result<Change, ChangeProblem> {
    check_length(body, limit::CHANGE_BYTES)?;
    let events = tally(body, EVENTS_FIELD)
        .map_err(ChangeProblem::Encoding)?
        .count;
    if events > limit::CHANGE_EVENTS {
        return Err(ChangeProblem::TooManyEvents { events });
    }
    let message: store::ChangeBody = parse(body.clone()).map_err(ChangeProblem::Encoding)?;
    let change = change::from_message(message)?;
    change.check()?;
    if encode_change(&change) != body {
        return Err(ChangeProblem::Encoding(NOT_OURS));
    }
    Ok(change)
}

/// Encodes body and signature: the body of an entry of kind change.
#[must_use]
pub fn encode_signed(change: &SignedChange) -> Bytes {
    change::signed_to_message(change).encode_to_vec().into()
}

/// The inverse of [`encode_signed`]. Shares the bytes; looks neither into the body
/// ([`decode_change`]) nor at whether the signature fits ([`SignedChange::verify`]).
///
/// # Errors
/// Anything that is not one whole signed change.
pub fn decode_signed(bytes: &Bytes) -> Result<SignedChange, ChangeProblem> {
    check_length(bytes, limit::ENTRY_BYTES)?;
    let message: store::SignedChange = parse(bytes.clone()).map_err(ChangeProblem::Encoding)?;
    let change = change::signed_from_message(message)?;
    check_length(&change.body, limit::CHANGE_BYTES)?;
    if encode_signed(&change) != bytes {
        return Err(ChangeProblem::Encoding(NOT_OURS));
    }
    Ok(change)
}

/// Encodes a content alone, as it stands in an event: for rows that repeat it.
#[must_use]
pub fn encode_content(content: &Content) -> Bytes {
    change::content_to_message(content).encode_to_vec().into()
}

/// The inverse of [`encode_content`]; shares inline bytes.
///
/// # Errors
/// The first rule that is broken.
pub fn decode_content(bytes: &Bytes) -> Result<Content, ChangeProblem> {
    check_length(bytes, limit::CHANGE_BYTES)?;
    let message: store::Content = parse(bytes.clone()).map_err(ChangeProblem::Encoding)?;
    let content = change::content_from_message(message)?;
    content.check()?;
    if encode_content(&content) != bytes {
        return Err(ChangeProblem::Encoding(NOT_OURS));
    }
    Ok(content)
}

/// Encodes a genesis.
#[must_use]
pub fn encode_genesis(genesis: &Genesis) -> Vec<u8> {
    genesis::to_message(genesis).encode_to_vec()
}

/// Decodes and checks a genesis.
///
/// # Errors
/// The first rule that is broken.
pub fn decode_genesis(bytes: &[u8]) -> Result<Genesis, GenesisProblem> {
    if bytes.len() > limit::GENESIS_BYTES {
        return Err(GenesisProblem::Bounds("the length of the genesis"));
    }
    let members = tally(bytes, MEMBERS_FIELD).map_err(GenesisProblem::Encoding)?;
    if members.count > limit::MEMBERS {
        return Err(GenesisProblem::Bounds("the number of members"));
    }
    let voters = tally(bytes, VOTERS_FIELD).map_err(GenesisProblem::Encoding)?;
    if voters.value_bytes > VOTERS_BYTES {
        return Err(GenesisProblem::Bounds("the number of voters"));
    }
    let message: store::Genesis = parse(bytes).map_err(GenesisProblem::Encoding)?;
    let genesis = genesis::from_message(message)?;
    genesis.check()?;
    if encode_genesis(&genesis) != bytes {
        return Err(GenesisProblem::Encoding(NOT_OURS));
    }
    Ok(genesis)
}

/// `ChangeBody.events`.
const EVENTS_FIELD: u32 = 11;
/// `Genesis.members`.
const MEMBERS_FIELD: u32 = 4;
/// `Genesis.voters`.
const VOTERS_FIELD: u32 = 5;
/// Five numbers of at most ten bytes, packed: more cannot be 1, 3 or 5 voters.
const VOTERS_BYTES: usize = 1 + 5 * 10;

fn check_length(bytes: &Bytes, limit_bytes: usize) -> Result<(), ChangeProblem> {
    if bytes.len() > limit_bytes {
        let bytes = bytes.len();
        return Err(ChangeProblem::TooLong { bytes });
    }
    Ok(())
}

fn parse<M: Message + Default>(bytes: impl bytes::Buf) -> Result<M, &'static str> {
    M::decode(bytes).map_err(|_| NOT_PROTOBUF)
}

/// How often a field occurs in a message, and in how many bytes.
struct Tally {
    count: usize,
    value_bytes: usize,
}

/// Counts a field without building anything: a repeated message of two bytes on the wire takes
/// hundreds in memory, so the count is checked before the message is parsed (promise B2).
fn tally(message: &[u8], wanted: u32) -> Result<Tally, &'static str> {
    let (mut count, mut value_bytes) = (0, 0);
    let mut rest = message;
    while !rest.is_empty() {
        let (field, wire_type) = decode_key(&mut rest).map_err(|_| NOT_PROTOBUF)?;
        let before = rest.len();
        skip_field(wire_type, field, &mut rest, DecodeContext::default())
            .map_err(|_| NOT_PROTOBUF)?;
        if field == wanted {
            count += 1;
            value_bytes += before - rest.len();
        }
    }
    Ok(Tally { count, value_bytes })
}
