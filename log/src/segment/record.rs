//! [pure] Records: what a frame's body is made of.
//!
//! A record is `kind | length | payload`, little-endian; `docs/format.md` lists the kinds. What is
//! read again later by its place — entries and values of notes — carries a checksum of its own in
//! front, so that reading one does not need the whole frame. Kinds are never used again.

mod field;

use self::field::{get_bytes, get_chain, get_chained, get_log_id, get_option, get_partition};
use self::field::{get_vote, put_chained, put_checked, put_log_id, put_option, put_vote};
use super::Vote;
use super::frame::{SegmentKey, narrow, wide};
use super::ledger::Marks;
use aber_proto::{ChainHash, Entry, LogId, PartitionId, entry};
use bytes::{Buf, BufMut, Bytes, BytesMut, TryGetError};

/// Kind and length before each payload.
const RECORD_HEADER_BYTES: usize = 1 + 4;
/// The checksum before bytes that are read by their place.
pub(super) const CHECKSUM_BYTES: usize = 4;
const LOG_ID_BYTES: usize = 16;
const CHAIN_BYTES: usize = 32;
const VOTE_BYTES: usize = 17;

const APPEND: u8 = 1;
const VOTE: u8 = 2;
const TRUNCATE: u8 = 3;
const PURGE: u8 = 4;
const COMMITTED: u8 = 5;
const NOTES: u8 = 6;
const STATE: u8 = 7;
const CHECKPOINT_END: u8 = 8;
const HISTORY: u8 = 9;

const NOTE_REMOVED: u8 = 0;
const NOTE_BYTES: u8 = 1;
const NOTE_AT: u8 = 2;

/// Where bytes with a checksum in front stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// The segment's number.
    pub segment: u32,
    /// Where the checksum starts.
    pub offset: u32,
    /// Bytes after the checksum.
    pub length: u32,
}

/// A note's value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum NoteValue {
    /// The value itself.
    Bytes(Bytes),
    /// Where it stands.
    At(Place),
}

/// One thing that happened to the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Record {
    /// An entry after the last one of its partition.
    Append(Entry),
    /// A new vote.
    Vote(PartitionId, Vote),
    /// Entries after this one are gone; `None`: all.
    Truncate(PartitionId, Option<(LogId, ChainHash)>),
    /// The purge pointer moved. With `is_restart` the log goes on after it, whatever stood there.
    Purge {
        /// Of which partition.
        partition: PartitionId,
        /// The pointer.
        upto: LogId,
        /// The chain hash there.
        chain: ChainHash,
        /// Whether older entries are forgotten.
        is_restart: bool,
    },
    /// The commit index, as far as it was known.
    Committed(PartitionId, LogId),
    /// Notes set or removed, all or none.
    Notes(Vec<(Bytes, Option<NoteValue>)>),
    /// A partition's state at the start of a segment.
    State(PartitionId, Marks),
    /// The state at the start of a segment is complete.
    CheckpointEnd,
    /// Entries that other nodes gave back: right below the oldest one, or in place of damaged ones.
    History {
        /// The chain hash before the first of them.
        previous: ChainHash,
        /// Consecutive entries of one partition, at least one.
        entries: Vec<Entry>,
    },
}

/// A record and where its entry or its notes' values stand, in their order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Written {
    /// The record.
    pub record: Record,
    /// One for each entry, one for each [`NoteValue::Bytes`], none else.
    pub places: Vec<Place>,
}

/// Why a body with the right checksum is refused: another program wrote it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum RecordProblem {
    /// A field is missing.
    #[error("a record is cut short")]
    Short,
    /// Bytes are left over.
    #[error("a record is longer than its fields")]
    Long,
    /// A kind or tag that this format does not have.
    #[error("a record of unknown kind {0}")]
    Kind(u8),
    /// The entry does not decode.
    #[error(transparent)]
    Entry(#[from] aber_proto::EntryProblem),
}

impl From<TryGetError> for RecordProblem {
    fn from(_: TryGetError) -> Self {
        Self::Short
    }
}

impl Record {
    /// Encoded bytes, header included.
    pub(super) fn size(&self) -> usize {
        RECORD_HEADER_BYTES + self.payload_size()
    }

    fn payload_size(&self) -> usize {
        match self {
            Self::Append(entry) => CHECKSUM_BYTES + entry::HEADER_BYTES + entry.body.len(),
            Self::Vote(..) => 4 + VOTE_BYTES,
            Self::Truncate(_, None) => 4 + 1,
            Self::Truncate(_, Some(_)) => 4 + 1 + LOG_ID_BYTES + CHAIN_BYTES,
            Self::Purge { .. } => 4 + 1 + LOG_ID_BYTES + CHAIN_BYTES,
            Self::Committed(..) => 4 + LOG_ID_BYTES,
            Self::Notes(notes) => notes.iter().map(note_size).sum::<usize>() + 4,
            Self::State(_, marks) => {
                let options = usize::from(marks.vote.is_some()) * VOTE_BYTES
                    + usize::from(marks.committed.is_some()) * LOG_ID_BYTES
                    + usize::from(marks.purged.is_some()) * (LOG_ID_BYTES + CHAIN_BYTES)
                    + usize::from(marks.last.is_some()) * LOG_ID_BYTES;
                4 + 8 + CHAIN_BYTES + CHAIN_BYTES + 4 + options
            }
            Self::CheckpointEnd => 0,
            Self::History { entries, .. } => {
                let bytes = entries.iter().map(history_bytes).sum::<usize>();
                CHAIN_BYTES + 4 + bytes
            }
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Append(_) => APPEND,
            Self::Vote(..) => VOTE,
            Self::Truncate(..) => TRUNCATE,
            Self::Purge { .. } => PURGE,
            Self::Committed(..) => COMMITTED,
            Self::Notes(_) => NOTES,
            Self::State(..) => STATE,
            Self::CheckpointEnd => CHECKPOINT_END,
            Self::History { .. } => HISTORY,
        }
    }

    /// Appends the record; byte 0 of `out` will stand at `base` in the segment.
    pub(super) fn encode(self, key: &SegmentKey, base: u32, out: &mut BytesMut) -> Written {
        out.put_u8(self.kind());
        out.put_u32_le(narrow(self.payload_size()));
        let mut places = Vec::new();
        match &self {
            Self::Append(entry) => {
                places.push(put_checked(key, base, out, |out| entry.encode(out)))
            }
            Self::Vote(partition, vote) => {
                out.put_u32_le(partition.0);
                put_vote(out, vote);
            }
            Self::Truncate(partition, last) => {
                out.put_u32_le(partition.0);
                put_option(out, last.as_ref(), put_chained);
            }
            Self::Purge {
                partition,
                upto,
                chain,
                is_restart,
            } => {
                out.put_u32_le(partition.0);
                out.put_u8((*is_restart).into());
                put_chained(out, &(*upto, *chain));
            }
            Self::Committed(partition, log_id) => {
                out.put_u32_le(partition.0);
                put_log_id(out, log_id);
            }
            Self::Notes(notes) => {
                out.put_u32_le(narrow(notes.len()));
                for note in notes {
                    places.extend(put_note(key, base, out, note));
                }
            }
            Self::State(partition, marks) => {
                out.put_u32_le(partition.0);
                out.put_u64_le(marks.first);
                out.put_slice(&marks.below.0);
                out.put_slice(&marks.last_chain.0);
                put_option(out, marks.vote.as_ref(), put_vote);
                put_option(out, marks.committed.as_ref(), put_log_id);
                put_option(out, marks.purged.as_ref(), put_chained);
                put_option(out, marks.last.as_ref(), put_log_id);
            }
            Self::CheckpointEnd => {}
            Self::History { previous, entries } => {
                out.put_slice(&previous.0);
                out.put_u32_le(narrow(entries.len()));
                for entry in entries {
                    out.put_u32_le(narrow(entry::HEADER_BYTES + entry.body.len()));
                    places.push(put_checked(key, base, out, |out| entry.encode(out)));
                }
            }
        }
        Written {
            record: self,
            places,
        }
    }

    /// Decodes a frame's body, which stands at `offset`.
    pub(super) fn decode_all(
        key: &SegmentKey,
        offset: u32,
        body: &Bytes,
    ) -> Result<Vec<Written>, RecordProblem> {
        let mut records = Vec::new();
        let mut at = 0;
        while at < body.len() {
            let mut head = body.get(at..).unwrap_or_default();
            let (kind, length) = (head.try_get_u8()?, wide(head.try_get_u32_le()?));
            at += RECORD_HEADER_BYTES;
            let end = at.checked_add(length).filter(|end| *end <= body.len());
            let payload = body.slice(at..end.ok_or(RecordProblem::Short)?);
            records.push(decode(key, kind, offset + narrow(at), payload)?);
            at += length;
        }
        Ok(records)
    }
}

fn decode(
    key: &SegmentKey,
    kind: u8,
    offset: u32,
    mut rest: Bytes,
) -> Result<Written, RecordProblem> {
    let mut places = Vec::new();
    let whole = rest.len();
    let record = match kind {
        APPEND => {
            let length = rest.len();
            let length = length
                .checked_sub(CHECKSUM_BYTES)
                .ok_or(RecordProblem::Short)?;
            places.push(Place {
                segment: key.number,
                offset,
                length: narrow(length),
            });
            let entry = Entry::decode(&rest.split_off(CHECKSUM_BYTES))?;
            rest.clear();
            Record::Append(entry)
        }
        VOTE => Record::Vote(get_partition(&mut rest)?, get_vote(&mut rest)?),
        TRUNCATE => Record::Truncate(
            get_partition(&mut rest)?,
            get_option(&mut rest, get_chained)?,
        ),
        PURGE => {
            let partition = get_partition(&mut rest)?;
            let is_restart = rest.try_get_u8()? != 0;
            let (upto, chain) = get_chained(&mut rest)?;
            Record::Purge {
                partition,
                upto,
                chain,
                is_restart,
            }
        }
        COMMITTED => Record::Committed(get_partition(&mut rest)?, get_log_id(&mut rest)?),
        NOTES => {
            let mut notes = Vec::new();
            for _ in 0..rest.try_get_u32_le()? {
                let at = offset + narrow(whole - rest.len());
                notes.push(get_note(key, at, &mut rest, &mut places)?);
            }
            Record::Notes(notes)
        }
        STATE => get_state(&mut rest)?,
        CHECKPOINT_END => Record::CheckpointEnd,
        HISTORY => {
            let previous = get_chain(&mut rest)?;
            let mut entries = Vec::new();
            for _ in 0..rest.try_get_u32_le()? {
                let at = offset + narrow(whole - rest.len());
                entries.push(get_entry(key, at, &mut rest, &mut places)?);
            }
            Record::History { previous, entries }
        }
        other => return Err(RecordProblem::Kind(other)),
    };
    if rest.has_remaining() {
        return Err(RecordProblem::Long);
    }
    Ok(Written { record, places })
}

/// Bytes that an entry takes in a [`Record::History`].
pub(super) fn history_bytes(entry: &Entry) -> usize {
    4 + CHECKSUM_BYTES + entry::HEADER_BYTES + entry.body.len()
}

fn get_entry(
    key: &SegmentKey,
    offset: u32,
    rest: &mut Bytes,
    places: &mut Vec<Place>,
) -> Result<Entry, RecordProblem> {
    let length = rest.try_get_u32_le()?;
    places.push(Place {
        segment: key.number,
        offset: offset + 4,
        length,
    });
    rest.try_get_u32_le()?;
    Ok(Entry::decode(&get_bytes(rest, wide(length))?)?)
}

/// Bytes that a note takes in a record.
pub(super) fn note_size((key, value): &(Bytes, Option<NoteValue>)) -> usize {
    2 + key.len()
        + 1
        + match value {
            None => 0,
            Some(NoteValue::Bytes(bytes)) => 4 + CHECKSUM_BYTES + bytes.len(),
            Some(NoteValue::At(_)) => 12,
        }
}

fn put_note(
    key: &SegmentKey,
    base: u32,
    out: &mut BytesMut,
    (name, value): &(Bytes, Option<NoteValue>),
) -> Option<Place> {
    out.put_u16_le(u16::try_from(name.len()).expect("keys were checked when they came in"));
    out.put_slice(name);
    match value {
        None => out.put_u8(NOTE_REMOVED),
        Some(NoteValue::Bytes(bytes)) => {
            out.put_u8(NOTE_BYTES);
            out.put_u32_le(narrow(bytes.len()));
            return Some(put_checked(key, base, out, |out| out.put_slice(bytes)));
        }
        Some(NoteValue::At(place)) => {
            out.put_u8(NOTE_AT);
            out.put_u32_le(place.segment);
            out.put_u32_le(place.offset);
            out.put_u32_le(place.length);
        }
    }
    None
}

fn get_note(
    key: &SegmentKey,
    offset: u32,
    rest: &mut Bytes,
    places: &mut Vec<Place>,
) -> Result<(Bytes, Option<NoteValue>), RecordProblem> {
    let before = rest.len();
    let length = usize::from(rest.try_get_u16_le()?);
    let name = get_bytes(rest, length)?;
    let value = match rest.try_get_u8()? {
        NOTE_REMOVED => None,
        NOTE_BYTES => {
            let length = rest.try_get_u32_le()?;
            places.push(Place {
                segment: key.number,
                offset: offset + narrow(before - rest.len()),
                length,
            });
            rest.try_get_u32_le()?;
            Some(NoteValue::Bytes(get_bytes(rest, wide(length))?))
        }
        NOTE_AT => Some(NoteValue::At(Place {
            segment: rest.try_get_u32_le()?,
            offset: rest.try_get_u32_le()?,
            length: rest.try_get_u32_le()?,
        })),
        other => return Err(RecordProblem::Kind(other)),
    };
    Ok((name, value))
}

fn get_state(rest: &mut Bytes) -> Result<Record, RecordProblem> {
    let partition = get_partition(rest)?;
    let first = rest.try_get_u64_le()?;
    let (below, last_chain) = (get_chain(rest)?, get_chain(rest)?);
    let vote = get_option(rest, get_vote)?;
    let committed = get_option(rest, get_log_id)?;
    let purged = get_option(rest, get_chained)?;
    let last = get_option(rest, get_log_id)?;
    let marks = Marks {
        vote,
        committed,
        purged,
        last,
        last_chain,
        first,
        below,
    };
    Ok(Record::State(partition, marks))
}
