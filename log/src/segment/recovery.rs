//! [pure] Telling a torn tail from damage (promise D5; `docs/format.md`, recovery of the log).
//!
//! Frames have rising numbers, and frame k+1 is written only after the fdatasync of frame k
//! returned. So the log is the longest run of whole frames from its start, and what comes after it
//! is judged by what it says itself: a whole seal or frame further on proves that something between
//! was once whole and durable, which is damage and never cut. Without such a proof the rest is the
//! one frame that was being written when the node died; nobody was told that it was durable, and
//! it is cut.

use super::frame::{HEADER_BYTES, SegmentKey, decode_block, narrow, wide};
use super::index::SegmentIndex;
use super::record::{Record, RecordProblem, Written};
use super::seal::Seal;
use super::{Vote, frame::BLOCK_BYTES};
use aber_proto::PartitionId;
use bytes::Bytes;
use std::collections::BTreeMap;

/// A whole frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Frame {
    /// Where its block starts.
    pub offset: u32,
    /// Where its block ends.
    pub end: u32,
    /// Its number.
    pub sequence: u64,
    /// The seal at the start of its block.
    pub seal: Seal,
    /// Its records.
    pub records: Vec<Written>,
}

/// What one segment holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Scan {
    /// The segment.
    pub key: SegmentKey,
    /// The whole frames from its start.
    pub frames: Vec<Frame>,
    /// Where the first block stands that is not whole.
    pub stop: u32,
    /// Bytes of a seal that stands alone at `stop`.
    pub stop_seal_bytes: u32,
    /// The highest frame that a seal covers, those after `stop` included.
    pub sealed: u64,
    /// After the last byte that is not zero, at least `stop`.
    pub dirty_end: u32,
}

/// A frame with the right checksum and records that make no sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ScanProblem {
    /// Where.
    pub offset: u32,
    /// What.
    pub problem: RecordProblem,
}

/// Reads a whole segment.
pub(super) fn scan(key: SegmentKey, bytes: &Bytes) -> Result<Scan, ScanProblem> {
    let mut frames: Vec<Frame> = Vec::new();
    let (mut stop, mut sealed) = (HEADER_BYTES, 0);
    while let Some(block) = decode_block(&key, stop, bytes) {
        let follows = frames.last().is_none_or(|last| {
            block.sequence == last.sequence + 1
                && (block.seal.sequence, block.seal.segment, block.seal.end)
                    == (last.sequence, key.number, last.end)
        });
        if !follows {
            break;
        }
        let offset = stop;
        let records = block
            .records(&key)
            .map_err(|problem| ScanProblem { offset, problem })?;
        stop = block.end;
        sealed = block.seal.sequence;
        frames.push(Frame {
            offset,
            end: stop,
            sequence: block.sequence,
            seal: block.seal,
            records,
        });
    }
    let rest = bytes.get(wide(stop)..).unwrap_or_default();
    let stop_seal = Seal::decode(&key, stop, rest);
    let mut at = stop;
    for place in rest.chunks(BLOCK_BYTES) {
        let whole = bytes.get(wide(at)..).unwrap_or_default();
        if let Some((seal, _)) = Seal::decode(&key, at, whole) {
            sealed = sealed.max(seal.sequence);
        }
        at += narrow(place.len());
    }
    let dirty = rest
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    Ok(Scan {
        key,
        frames,
        stop,
        stop_seal_bytes: stop_seal.map_or(0, |(_, bytes)| narrow(bytes)),
        sealed,
        dirty_end: stop + narrow(dirty),
    })
}

impl Scan {
    /// Whether the state at the segment's start is whole.
    pub(super) fn has_checkpoint(&self) -> bool {
        let mut records = self.frames.iter().flat_map(|frame| &frame.records);
        records.any(|written| written.record == Record::CheckpointEnd)
    }

    /// What an index file of this segment says.
    pub(super) fn index(&self) -> SegmentIndex {
        let mut index = SegmentIndex::default();
        for frame in &self.frames {
            index.add_frame(frame.sequence, frame.end, &frame.records);
        }
        index
    }

    /// What [`judge`] wants to know.
    pub(super) fn part(&self) -> Part {
        Part {
            number: self.key.number,
            first: self.frames.first().map(|frame| frame.sequence),
            first_seal: self.frames.first().map(|frame| frame.seal.clone()),
            last: self.frames.last().map_or(0, |frame| frame.sequence),
            end: self.stop,
            sealed: self.sealed,
        }
    }
}

/// One segment, as far as [`judge`] cares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Part {
    /// The segment.
    pub number: u32,
    /// The first frame; `None` if there is no whole one.
    pub first: Option<u64>,
    /// The seal before it, where it was read.
    pub first_seal: Option<Seal>,
    /// The last frame.
    pub last: u64,
    /// Where the last frame's block ends.
    pub end: u32,
    /// The highest frame that is proven to have been durable.
    pub sealed: u64,
}

impl Part {
    /// From an index file. One is written only after the first frame of the next segment was
    /// durable, so it proves that frame too.
    pub(super) fn indexed(number: u32, index: &SegmentIndex) -> Self {
        Self {
            number,
            first: Some(index.first_sequence),
            first_seal: None,
            last: index.last_sequence,
            end: index.end,
            sealed: index.last_sequence + 1,
        }
    }
}

/// Where the log ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tail {
    /// The segment.
    pub number: u32,
    /// Where the next block goes.
    pub offset: u32,
    /// The last whole frame; 0 if there is none.
    pub sequence: u64,
    /// Whether the last frame is known to have been durable.
    pub is_sealed: bool,
}

/// A frame that was durable is not whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Damage {
    /// The segment.
    pub number: u32,
    /// Where the frame should stand.
    pub offset: u32,
    /// The frame.
    pub sequence: u64,
    /// What proves it.
    pub what: &'static str,
}

/// Finds the end of the log, or the damage in it. `parts` are all segments in order.
pub(super) fn judge(parts: &[Part]) -> Result<Tail, Damage> {
    let mut tail = Tail {
        number: parts.first().map_or(1, |part| part.number),
        offset: HEADER_BYTES,
        sequence: 0,
        is_sealed: true,
    };
    let damage = |tail: &Tail, what| Damage {
        number: tail.number,
        offset: tail.offset,
        sequence: tail.sequence + 1,
        what,
    };
    let mut has_ended = false;
    for part in parts {
        let Some(first) = part.first else {
            has_ended = true;
            continue;
        };
        let links = part.first_seal.as_ref().is_none_or(|seal| {
            let end = if tail.sequence == 0 {
                (0, 0)
            } else {
                (tail.number, tail.offset)
            };
            seal.sequence == tail.sequence && (seal.segment, seal.end) == end
        });
        if has_ended || first != tail.sequence + 1 || !links {
            return Err(damage(
                &tail,
                "a frame in a later segment does not follow it",
            ));
        }
        tail.number = part.number;
        tail.offset = part.end;
        tail.sequence = part.last;
    }
    let sealed = parts.iter().map(|part| part.sealed).max().unwrap_or(0);
    if sealed > tail.sequence {
        return Err(damage(&tail, "a seal says that it was durable"));
    }
    if parts
        .last()
        .is_some_and(|part| part.number > tail.number + 1)
    {
        // A segment is prepared only once the one before it has a durable frame.
        return Err(damage(&tail, "a segment after the next one exists"));
    }
    tail.is_sealed = sealed == tail.sequence;
    Ok(tail)
}

/// The last vote of each partition in a frame: what its seal carries.
pub(super) fn votes_of(records: &[Written]) -> Vec<(PartitionId, Vote)> {
    let votes: BTreeMap<_, _> = records
        .iter()
        .filter_map(|written| match &written.record {
            Record::Vote(partition, vote) => Some((*partition, *vote)),
            _ => None,
        })
        .collect();
    votes.into_iter().collect()
}

#[cfg(test)]
mod tests;
