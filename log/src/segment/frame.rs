//! [pure] The layout of a segment file: header, blocks, checksums.
//!
//! A segment starts with a header block of 512 bytes. Then come frames, one a group commit, each in
//! a block of its own that starts at a multiple of 512 bytes: the [`Seal`] of the frame before it,
//! the frame, zeros up to the next multiple. So bytes that are durable never share a sector with
//! bytes written later, and one bad sector cannot take both a frame and its seal.
//!
//! Every checksum also covers a salt made of cluster, node and segment number, and the offset:
//! stale or misplaced bytes never pass. Formats later than this one keep the header's first 16
//! bytes and what its checksum covers, so that they are told from damage.

use super::LogIdentity;
use super::record::{Record, RecordProblem, Written};
use super::seal::Seal;
use aber_proto::{ClusterId, NodeId};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Blocks start at multiples of this; the sector of old disks.
pub(super) const BLOCK_BYTES: usize = 512;
/// Bytes of a segment's header, which is a block.
pub(super) const HEADER_BYTES: u32 = 512;
/// Bytes of a frame before its body: magic, checksum, body length, sequence.
pub(super) const FRAME_HEADER_BYTES: usize = 4 + 4 + 4 + 8;

const HEADER_MAGIC: &[u8; 8] = b"aber-log";
const FORMAT: u32 = 1;
const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"aFRM");

/// A 32-bit number as a length in memory.
pub(super) fn wide(number: u32) -> usize {
    usize::try_from(number).expect("memory has at least 32 bits of addresses")
}

/// A length below a segment's size as it is stored.
pub(super) fn narrow(length: usize) -> u32 {
    u32::try_from(length).expect("a segment has at most 1 GiB")
}

/// The next multiple of a block.
pub(super) fn padded(length: usize) -> usize {
    length.next_multiple_of(BLOCK_BYTES)
}

/// What binds checksums to one segment of one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentKey {
    /// The segment's number, from 1.
    pub number: u32,
    salt: [u8; 16],
}

impl SegmentKey {
    /// The key of a segment.
    pub(super) fn new(identity: &LogIdentity, number: u32) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("aber 2026 segment v1");
        hasher
            .update(&identity.cluster.0)
            .update(&identity.node.0.to_le_bytes())
            .update(&number.to_le_bytes());
        let mut salt = [0; 16];
        hasher.finalize_xof().fill(&mut salt);
        Self { number, salt }
    }

    /// The checksum of bytes that stand at `offset`.
    pub(super) fn checksum(&self, offset: u32, parts: &[&[u8]]) -> u32 {
        let start = crc32c::crc32c_append(crc32c::crc32c(&self.salt), &offset.to_le_bytes());
        parts
            .iter()
            .fold(start, |crc, part| crc32c::crc32c_append(crc, part))
    }
}

/// What a segment says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    /// Whose log it belongs to.
    pub identity: LogIdentity,
    /// Its number.
    pub number: u32,
    /// Its size; a shorter file lost its end.
    pub segment_bytes: u32,
}

/// Why bytes are no header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HeaderProblem {
    /// A program after this one wrote it.
    Newer(u32),
    /// Not what anybody wrote.
    Damaged,
}

impl Header {
    /// The header block.
    pub(super) fn encode(&self) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        let mut rest = block.as_mut_slice();
        rest.put_slice(HEADER_MAGIC);
        rest.put_u32_le(FORMAT);
        rest.put_u32_le(0);
        rest.put_slice(&self.identity.cluster.0);
        rest.put_u64_le(self.identity.node.0);
        rest.put_u32_le(self.number);
        rest.put_u32_le(self.segment_bytes);
        let crc = header_checksum(&block);
        if let Some(place) = block.get_mut(12..16) {
            place.copy_from_slice(&crc.to_le_bytes());
        }
        block
    }

    /// The inverse of [`Header::encode`].
    pub(super) fn decode(block: &[u8]) -> Result<Self, HeaderProblem> {
        let whole: &[u8; BLOCK_BYTES] = block.try_into().map_err(|_| HeaderProblem::Damaged)?;
        let mut rest = block;
        let mut magic = [0; 8];
        rest.copy_to_slice(&mut magic);
        let (format, crc) = (rest.get_u32_le(), rest.get_u32_le());
        if &magic != HEADER_MAGIC || crc != header_checksum(whole) {
            return Err(HeaderProblem::Damaged);
        }
        if format != FORMAT {
            return Err(HeaderProblem::Newer(format));
        }
        let mut cluster = [0; 32];
        rest.copy_to_slice(&mut cluster);
        let (cluster, node) = (ClusterId(cluster), NodeId(rest.get_u64_le()));
        Ok(Self {
            identity: LogIdentity { cluster, node },
            number: rest.get_u32_le(),
            segment_bytes: rest.get_u32_le(),
        })
    }
}

fn header_checksum(block: &[u8; BLOCK_BYTES]) -> u32 {
    let (head, tail) = (block.get(..12), block.get(16..));
    crc32c::crc32c_append(
        crc32c::crc32c(head.unwrap_or_default()),
        tail.unwrap_or_default(),
    )
}

/// A block that was read: the seal before the frame, and the frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Block {
    /// The seal of the frame before this one.
    pub seal: Seal,
    /// This frame's number; one more than that of the frame before it, across segments.
    pub sequence: u64,
    /// Where the block ends, padding included.
    pub end: u32,
    body: Bytes,
    body_offset: u32,
}

/// Bytes of a block with `record_bytes` of records, padding included.
pub(super) fn block_bytes(seal: &Seal, record_bytes: usize) -> usize {
    padded(seal.size() + FRAME_HEADER_BYTES + record_bytes)
}

/// Encodes a block that will stand at `offset`, and tells where its records' bytes will be.
pub(super) fn encode_block(
    key: &SegmentKey,
    offset: u32,
    seal: &Seal,
    sequence: u64,
    records: Vec<Record>,
) -> (BytesMut, Vec<Written>) {
    let record_bytes = records.iter().map(Record::size).sum();
    let mut out = BytesMut::with_capacity(block_bytes(seal, record_bytes));
    seal.encode(key, offset, &mut out);
    let seal_bytes = out.len();
    out.put_u32_le(FRAME_MAGIC);
    out.put_u32_le(0);
    out.put_u32_le(narrow(record_bytes));
    out.put_u64_le(sequence);
    let written = records
        .into_iter()
        .map(|record| record.encode(key, offset, &mut out))
        .collect();
    assert_eq!(
        out.len(),
        seal_bytes + FRAME_HEADER_BYTES + record_bytes,
        "a record's size is what it encodes to"
    );
    let crc = frame_checksum(key, offset, &out, seal_bytes);
    if let Some(place) = out.get_mut(seal_bytes + 4..seal_bytes + 8) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
    let padded_bytes = padded(out.len());
    out.resize(padded_bytes, 0);
    (out, written)
}

fn frame_checksum(key: &SegmentKey, offset: u32, block: &[u8], seal_bytes: usize) -> u32 {
    let seal = block.get(..seal_bytes).unwrap_or_default();
    let frame = block.get(seal_bytes + 8..).unwrap_or_default();
    key.checksum(offset, &[seal, frame])
}

/// Reads the block at `offset`; `bytes` is the whole segment. `None` if none stands there whole.
pub(super) fn decode_block(key: &SegmentKey, offset: u32, bytes: &Bytes) -> Option<Block> {
    let rest = bytes.get(wide(offset)..)?;
    let (seal, seal_bytes) = Seal::decode(key, offset, rest)?;
    let mut head = rest.get(seal_bytes..seal_bytes + FRAME_HEADER_BYTES)?;
    let (magic, crc) = (head.get_u32_le(), head.get_u32_le());
    let (body_bytes, sequence) = (wide(head.get_u32_le()), head.get_u64_le());
    let body_start = seal_bytes + FRAME_HEADER_BYTES;
    let block = rest.get(..body_start.checked_add(body_bytes)?)?;
    if magic != FRAME_MAGIC || crc != frame_checksum(key, offset, block, seal_bytes) {
        return None;
    }
    let body_offset = wide(offset) + body_start;
    Some(Block {
        seal,
        sequence,
        end: offset + narrow(padded(block.len())),
        body: bytes.slice(body_offset..body_offset + body_bytes),
        body_offset: narrow(body_offset),
    })
}

impl Block {
    /// The frame's records.
    pub(super) fn records(&self, key: &SegmentKey) -> Result<Vec<Written>, RecordProblem> {
        Record::decode_all(key, self.body_offset, &self.body)
    }
}
