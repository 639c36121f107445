//! [pure] Seals: the note that a frame was made durable.
//!
//! A seal is written after the fdatasync of its frame returned, without a sync of its own: alone if
//! nothing waits, and in any case as the start of the next frame's block. It tells rot from a torn
//! write: a bad frame that a seal covers was once whole (`docs/format.md`). It carries the
//! frame's votes, which must not be lost with the frame.

use super::Vote;
use super::frame::{SegmentKey, narrow};
use aber_proto::{NodeId, PartitionId};
use bytes::{Buf, BufMut, BytesMut};

const MAGIC: u32 = u32::from_le_bytes(*b"aSEL");
/// Magic, checksum, sequence, segment, end, number of votes.
const FIXED_BYTES: usize = 4 + 4 + 8 + 4 + 4 + 4;
/// Partition, term, node, committed or not.
const VOTE_BYTES: usize = 4 + 8 + 8 + 1;
/// Most votes a seal carries; one a partition.
const VOTES: usize = aber_proto::limit::PARTITIONS;

/// That all frames up to `sequence` were durable when it was written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Seal {
    /// The frame it covers; 0 in the first block of a log.
    pub sequence: u64,
    /// The segment of that frame.
    pub segment: u32,
    /// Where that frame's block ends.
    pub end: u32,
    /// The votes that frame holds, the last of each partition.
    pub votes: Vec<(PartitionId, Vote)>,
}

impl Seal {
    /// Encoded bytes.
    pub(super) fn size(&self) -> usize {
        FIXED_BYTES + self.votes.len().min(VOTES) * VOTE_BYTES
    }

    /// Appends the seal, which will stand at `offset`; `out` must be empty before it.
    pub(super) fn encode(&self, key: &SegmentKey, offset: u32, out: &mut BytesMut) {
        assert!(out.is_empty(), "a seal is the start of a block");
        let votes = self.votes.get(..VOTES).unwrap_or(&self.votes);
        out.put_u32_le(MAGIC);
        out.put_u32_le(0);
        out.put_u64_le(self.sequence);
        out.put_u32_le(self.segment);
        out.put_u32_le(self.end);
        out.put_u32_le(narrow(votes.len()));
        for (partition, vote) in votes {
            out.put_u32_le(partition.0);
            out.put_u64_le(vote.term);
            out.put_u64_le(vote.node.0);
            out.put_u8(vote.is_committed.into());
        }
        let crc = key.checksum(offset, &[out.get(8..).unwrap_or_default()]);
        if let Some(place) = out.get_mut(4..8) {
            place.copy_from_slice(&crc.to_le_bytes());
        }
    }

    /// Reads a seal that stands at `offset`, and its length; `None` if none stands there whole.
    pub(super) fn decode(key: &SegmentKey, offset: u32, bytes: &[u8]) -> Option<(Self, usize)> {
        let mut head = bytes.get(..FIXED_BYTES)?;
        if head.get_u32_le() != MAGIC {
            return None;
        }
        let crc = head.get_u32_le();
        let (sequence, segment) = (head.get_u64_le(), head.get_u32_le());
        let (end, count) = (head.get_u32_le(), usize::try_from(head.get_u32_le()).ok()?);
        if count > VOTES {
            return None;
        }
        let length = FIXED_BYTES + count * VOTE_BYTES;
        let whole = bytes.get(..length)?;
        if crc != key.checksum(offset, &[whole.get(8..)?]) {
            return None;
        }
        let mut rest = whole.get(FIXED_BYTES..)?;
        let mut votes = Vec::with_capacity(count);
        for _ in 0..count {
            let partition = PartitionId(rest.get_u32_le());
            let (term, node) = (rest.get_u64_le(), NodeId(rest.get_u64_le()));
            let is_committed = rest.get_u8() != 0;
            votes.push((
                partition,
                Vote {
                    term,
                    node,
                    is_committed,
                },
            ));
        }
        let seal = Self {
            sequence,
            segment,
            end,
            votes,
        };
        Some((seal, length))
    }
}
