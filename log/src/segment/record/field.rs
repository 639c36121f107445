//! [pure] Fields of records.

use super::super::Vote;
use super::super::frame::{SegmentKey, narrow};
use super::{CHAIN_BYTES, CHECKSUM_BYTES, Place, RecordProblem};
use aber_proto::{ChainHash, LogId, NodeId, PartitionId};
use bytes::{Buf, BufMut, Bytes, BytesMut};

pub(super) fn put_checked(
    key: &SegmentKey,
    base: u32,
    out: &mut BytesMut,
    put: impl FnOnce(&mut BytesMut),
) -> Place {
    let start = out.len();
    let offset = base + narrow(start);
    out.put_u32_le(0);
    put(out);
    let bytes = out.get(start + CHECKSUM_BYTES..).unwrap_or_default();
    let (crc, length) = (key.checksum(offset, &[bytes]), narrow(bytes.len()));
    if let Some(place) = out.get_mut(start..start + CHECKSUM_BYTES) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
    Place {
        segment: key.number,
        offset,
        length,
    }
}

pub(super) fn get_bytes(rest: &mut Bytes, length: usize) -> Result<Bytes, RecordProblem> {
    if length > rest.len() {
        return Err(RecordProblem::Short);
    }
    Ok(rest.split_to(length))
}

pub(super) fn put_option<T>(
    out: &mut BytesMut,
    value: Option<&T>,
    put: impl FnOnce(&mut BytesMut, &T),
) {
    out.put_u8(value.is_some().into());
    if let Some(value) = value {
        put(out, value);
    }
}

pub(super) fn get_option<T>(
    rest: &mut Bytes,
    get: impl FnOnce(&mut Bytes) -> Result<T, RecordProblem>,
) -> Result<Option<T>, RecordProblem> {
    match rest.try_get_u8()? {
        0 => Ok(None),
        1 => get(rest).map(Some),
        other => Err(RecordProblem::Kind(other)),
    }
}

pub(super) fn put_log_id(out: &mut BytesMut, log_id: &LogId) {
    out.put_u64_le(log_id.term);
    out.put_u64_le(log_id.index);
}

pub(super) fn get_log_id(rest: &mut Bytes) -> Result<LogId, RecordProblem> {
    Ok(LogId {
        term: rest.try_get_u64_le()?,
        index: rest.try_get_u64_le()?,
    })
}

pub(super) fn put_chained(out: &mut BytesMut, (log_id, chain): &(LogId, ChainHash)) {
    put_log_id(out, log_id);
    out.put_slice(&chain.0);
}

pub(super) fn get_chained(rest: &mut Bytes) -> Result<(LogId, ChainHash), RecordProblem> {
    Ok((get_log_id(rest)?, get_chain(rest)?))
}

pub(super) fn get_chain(rest: &mut Bytes) -> Result<ChainHash, RecordProblem> {
    let mut chain = [0; CHAIN_BYTES];
    rest.try_copy_to_slice(&mut chain)?;
    Ok(ChainHash(chain))
}

pub(super) fn put_vote(out: &mut BytesMut, vote: &Vote) {
    out.put_u64_le(vote.term);
    out.put_u64_le(vote.node.0);
    out.put_u8(vote.is_committed.into());
}

pub(super) fn get_vote(rest: &mut Bytes) -> Result<Vote, RecordProblem> {
    Ok(Vote {
        term: rest.try_get_u64_le()?,
        node: NodeId(rest.try_get_u64_le()?),
        is_committed: rest.try_get_u8()? != 0,
    })
}

pub(super) fn get_partition(rest: &mut Bytes) -> Result<PartitionId, RecordProblem> {
    Ok(PartitionId(rest.try_get_u32_le()?))
}
