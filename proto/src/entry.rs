//! [pure] A slot of a partition's log, its bytes, and the chain that proves it.
//!
//! `h(i) = BLAKE3(h(i-1) ‖ header ‖ BLAKE3(body))`, so that retention can drop a body and the chain
//! still proves what stood around it (promise I2). The chain of a partition starts from a hash of
//! cluster and partition.

use crate::hash::ChainHash;
use crate::id::{ClusterId, PartitionId};
use crate::limit;
use crate::unit::Timestamp;
use bytes::{BufMut, Bytes, BytesMut};
use std::fmt;

/// Raft's name for a place in the log: compared by term, then index.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LogId {
    /// The term of the leader that wrote it.
    pub term: u64,
    /// The place.
    pub index: u64,
}

/// What an entry's body is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum EntryKind {
    /// Nothing: a leader's first entry of its term. Empty body.
    Blank = 0,
    /// A signed change.
    Change = 1,
    /// Raft's voters and learners.
    Membership = 2,
}

/// An entry with its place in the chain.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The partition whose log holds it.
    pub partition: PartitionId,
    /// Its place.
    pub log_id: LogId,
    /// The leader's clock; `apply` clamps it so that it never falls.
    pub order_time: Timestamp,
    /// The control partition's index at which the leader judged author and policy.
    pub control_index: u64,
    /// What the body is.
    pub kind: EntryKind,
    /// The body, verbatim.
    pub body: Bytes,
    /// The chain hash at this entry.
    pub chain: ChainHash,
}

/// Why bytes were refused as an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EntryProblem {
    /// Cut short, or longer than its fields say.
    #[error("an entry of the wrong length")]
    Length,
    /// A version this program does not know.
    #[error("an entry of format {0}")]
    Format(u8),
    /// A kind this program does not know.
    #[error("an entry of kind {0}")]
    Kind(u8),
    /// The hash at this entry does not follow from the one before it.
    #[error("the chain is broken at index {index}")]
    ChainBroken {
        /// Where.
        index: u64,
    },
}

const FORMAT: u8 = 1;
/// Bytes before the body: format, kind, partition, index, term, order time, control index, chain.
pub const HEADER_BYTES: usize = 1 + 1 + 4 + 8 + 8 + 8 + 8 + 32;

impl EntryKind {
    fn from_byte(byte: u8) -> Result<Self, EntryProblem> {
        match byte {
            0 => Ok(Self::Blank),
            1 => Ok(Self::Change),
            2 => Ok(Self::Membership),
            other => Err(EntryProblem::Kind(other)),
        }
    }
}

impl Entry {
    /// The entry that follows `previous` in the chain.
    #[must_use]
    pub fn following(previous: &ChainHash, mut entry: Self) -> Self {
        entry.chain = entry.chain_after(previous);
        entry
    }

    /// What the chain hash at this entry must be, after `previous`.
    #[must_use]
    pub fn chain_after(&self, previous: &ChainHash) -> ChainHash {
        let mut hasher = blake3::Hasher::new_derive_key("aber 2026 chain v1");
        hasher
            .update(&previous.0)
            .update(&self.header())
            .update(blake3::hash(&self.body).as_bytes());
        ChainHash(*hasher.finalize().as_bytes())
    }

    /// Checks the chain hash against the one before it.
    ///
    /// # Errors
    /// [`EntryProblem::ChainBroken`].
    pub fn verify(&self, previous: &ChainHash) -> Result<(), EntryProblem> {
        if self.chain_after(previous) == self.chain {
            Ok(())
        } else {
            Err(EntryProblem::ChainBroken {
                index: self.log_id.index,
            })
        }
    }

    fn header(&self) -> [u8; HEADER_BYTES - 32] {
        let mut header = [0; HEADER_BYTES - 32];
        let mut rest = header.as_mut_slice();
        rest.put_u8(FORMAT);
        rest.put_u8(self.kind as u8);
        rest.put_u32_le(self.partition.0);
        rest.put_u64_le(self.log_id.index);
        rest.put_u64_le(self.log_id.term);
        rest.put_i64_le(self.order_time.0);
        rest.put_u64_le(self.control_index);
        header
    }

    /// Appends header, chain hash and body. The length is not in it: whoever frames it knows.
    pub fn encode(&self, out: &mut BytesMut) {
        assert!(
            self.body.len() <= limit::ENTRY_BYTES,
            "{self:?} could not be decoded again"
        );
        out.reserve(HEADER_BYTES + self.body.len());
        out.put_slice(&self.header());
        out.put_slice(&self.chain.0);
        out.put_slice(&self.body);
    }

    /// The encoded entry by itself.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        self.encode(&mut bytes);
        bytes.freeze()
    }

    /// The inverse of [`Entry::encode`]; shares the bytes.
    ///
    /// # Errors
    /// Anything that is not one whole entry.
    pub fn decode(bytes: &Bytes) -> Result<Self, EntryProblem> {
        if bytes.len() < HEADER_BYTES || bytes.len() > HEADER_BYTES + limit::ENTRY_BYTES {
            return Err(EntryProblem::Length);
        }
        let mut head = bytes.slice(..HEADER_BYTES);
        let format = bytes::Buf::get_u8(&mut head);
        if format != FORMAT {
            return Err(EntryProblem::Format(format));
        }
        let kind = EntryKind::from_byte(bytes::Buf::get_u8(&mut head))?;
        let partition = PartitionId(bytes::Buf::get_u32_le(&mut head));
        let index = bytes::Buf::get_u64_le(&mut head);
        let term = bytes::Buf::get_u64_le(&mut head);
        let order_time = Timestamp(bytes::Buf::get_i64_le(&mut head));
        let control_index = bytes::Buf::get_u64_le(&mut head);
        let chain = ChainHash::from_slice(&head).ok_or(EntryProblem::Length)?;
        let body = bytes.slice(HEADER_BYTES..);
        let log_id = LogId { term, index };
        Ok(Self {
            partition,
            log_id,
            order_time,
            control_index,
            kind,
            body,
            chain,
        })
    }
}

impl ChainHash {
    /// Where the chain of a partition starts: before its first entry.
    #[must_use]
    pub fn genesis(cluster: &ClusterId, partition: PartitionId) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("aber 2026 chain genesis v1");
        hasher.update(&cluster.0).update(&partition.0.to_le_bytes());
        Self(*hasher.finalize().as_bytes())
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.term, self.index)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            partition,
            log_id,
            kind,
            body,
            chain,
            ..
        } = self;
        write!(
            f,
            "Entry({partition}:{log_id} {kind:?} {} B {chain:?})",
            body.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        let start = ChainHash::genesis(&ClusterId([1; 32]), PartitionId(3));
        let log_id = LogId { term: 2, index: 9 };
        let body = Bytes::from_static(b"body");
        let (order_time, control_index) = (Timestamp(-5), 77);
        let (kind, chain) = (EntryKind::Change, ChainHash::default());
        Entry::following(
            &start,
            Entry {
                partition: PartitionId(3),
                log_id,
                order_time,
                control_index,
                kind,
                body,
                chain,
            },
        )
    }

    #[test]
    fn an_entry_comes_back_and_bad_bytes_do_not() {
        let mut out = BytesMut::new();
        entry().encode(&mut out);
        let bytes = out.freeze();
        assert_eq!(Entry::decode(&bytes), Ok(entry()));
        assert_eq!(Entry::decode(&bytes.slice(..40)), Err(EntryProblem::Length));
        let mut other = bytes.to_vec();
        other[0] = 9;
        assert_eq!(Entry::decode(&other.into()), Err(EntryProblem::Format(9)));
    }

    /// B2: too little and too much are refused by their length alone.
    #[test]
    fn a_cut_or_overlong_entry_is_refused() {
        let longest = Entry {
            body: vec![0; limit::ENTRY_BYTES].into(),
            ..entry()
        };
        let mut out = BytesMut::new();
        longest.encode(&mut out);
        let bytes = out.clone().freeze();
        assert_eq!(Entry::decode(&bytes), Ok(longest));
        for length in 0..HEADER_BYTES {
            let problem = Entry::decode(&bytes.slice(..length));
            assert_eq!(problem, Err(EntryProblem::Length));
        }
        out.put_u8(0);
        assert_eq!(Entry::decode(&out.freeze()), Err(EntryProblem::Length));
    }

    /// I2: no field can change without breaking the chain.
    #[test]
    fn the_chain_covers_every_field() {
        let start = ChainHash::genesis(&ClusterId([1; 32]), PartitionId(3));
        assert_eq!(entry().verify(&start), Ok(()));
        let mut out = BytesMut::new();
        entry().encode(&mut out);
        for position in 1..out.len() {
            let mut bytes = out.to_vec();
            bytes[position] ^= 1;
            if let Ok(changed) = Entry::decode(&bytes.into()) {
                assert!(changed.verify(&start).is_err(), "byte {position}");
            }
        }
    }
}
