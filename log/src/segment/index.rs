//! [pure] Where entries stand: in memory for all segments, and in a file beside each full one.
//!
//! Eight bytes an entry: runs of consecutive entries of one partition in one segment. An index
//! file is only a copy of what a scan of its segment finds; a missing or bad one is made anew.
//! Runs of later segments replace what they overlap and all behind it, and the partition's marks
//! cut the rest, so a truncation needs no row of its own. Entries that other nodes gave back are
//! runs apart: they replace what they overlap and nothing else.

use super::frame::{HEADER_BYTES, SegmentKey, narrow, wide};
use super::record::{Place, Record, Written};
use aber_proto::PartitionId;
use bytes::{Buf, BufMut};
use std::collections::BTreeMap;

const MAGIC: u32 = u32::from_le_bytes(*b"aIDX");
const FORMAT: u32 = 1;
/// Magic, format, checksum, first and last sequence, end, numbers of runs.
const FIXED_BYTES: usize = 4 + 4 + 4 + 8 + 8 + 4 + 4 + 4;

#[derive(Clone, PartialEq, Eq, Debug)]
struct Run {
    segment: u32,
    /// Offset and length.
    places: Vec<(u32, u32)>,
}

/// Places of entries by partition and index.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Index {
    runs: BTreeMap<PartitionId, BTreeMap<u64, Run>>,
}

fn end_of(first: u64, run: &Run) -> u64 {
    first.saturating_add(u64::try_from(run.places.len()).unwrap_or(u64::MAX))
}

impl Index {
    /// Where an entry stands.
    pub(super) fn get(&self, partition: PartitionId, index: u64) -> Option<Place> {
        let runs = self.runs.get(&partition)?;
        let (first, run) = runs.range(..=index).next_back()?;
        let (offset, length) = *run.places.get(usize::try_from(index - first).ok()?)?;
        Some(Place {
            segment: run.segment,
            offset,
            length,
        })
    }

    /// The oldest index of a partition.
    pub(super) fn oldest(&self, partition: PartitionId) -> Option<u64> {
        let runs = self.runs.get(&partition)?;
        runs.first_key_value().map(|(first, _)| *first)
    }

    /// Sets an entry's place; it and those after it are forgotten before.
    pub(super) fn put(&mut self, partition: PartitionId, index: u64, place: Place) {
        self.cut(partition, index);
        let runs = self.runs.entry(partition).or_default();
        if let Some(mut last) = runs.last_entry() {
            let first = *last.key();
            let run = last.get_mut();
            if run.segment == place.segment && end_of(first, run) == index {
                run.places.push((place.offset, place.length));
                return;
            }
        }
        let run = Run {
            segment: place.segment,
            places: vec![(place.offset, place.length)],
        };
        runs.insert(index, run);
    }

    /// Forgets `index` and all after it.
    pub(super) fn cut(&mut self, partition: PartitionId, index: u64) {
        let Some(runs) = self.runs.get_mut(&partition) else {
            return;
        };
        while let Some(mut last) = runs.last_entry() {
            let first = *last.key();
            if first >= index {
                last.remove();
                continue;
            }
            let kept = usize::try_from(index - first).unwrap_or(usize::MAX);
            last.get_mut().places.truncate(kept);
            return;
        }
    }

    /// Adds the runs of a later segment.
    pub(super) fn merge(&mut self, later: SegmentIndex) {
        for (partition, runs) in later.entries.runs {
            for (first, run) in runs {
                self.cut(partition, first);
                self.runs.entry(partition).or_default().insert(first, run);
            }
        }
        for (partition, runs) in later.history.runs {
            for (first, run) in runs {
                self.lay(partition, first, run);
            }
        }
    }

    /// Entries that came back stand here; those before and after stay.
    pub(super) fn put_history(&mut self, partition: PartitionId, first: u64, places: &[Place]) {
        let Some(segment) = places.first().map(|place| place.segment) else {
            return;
        };
        let places = places.iter().map(|place| (place.offset, place.length));
        let places = places.collect();
        self.lay(partition, first, Run { segment, places });
    }

    fn lay(&mut self, partition: PartitionId, first: u64, run: Run) {
        let runs = self.runs.entry(partition).or_default();
        let end = end_of(first, &run);
        let under: Vec<u64> = runs.range(..end).map(|(start, _)| *start).collect();
        for start in under.into_iter().rev() {
            let Some(mut old) = runs.remove(&start) else {
                continue;
            };
            let old_end = end_of(start, &old);
            if old_end > end {
                let behind = usize::try_from(end - start).unwrap_or(usize::MAX);
                let places = old.places.split_off(behind.min(old.places.len()));
                let segment = old.segment;
                runs.insert(end, Run { segment, places });
            }
            if start < first {
                let before = usize::try_from(first - start).unwrap_or(usize::MAX);
                old.places.truncate(before);
                runs.insert(start, old);
            }
            if old_end <= first {
                break;
            }
        }
        runs.insert(first, run);
    }

    fn count(&self) -> usize {
        self.runs.values().map(BTreeMap::len).sum()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        for (partition, runs) in &self.runs {
            for (first, run) in runs {
                out.put_u32_le(partition.0);
                out.put_u64_le(*first);
                out.put_u32_le(narrow(run.places.len()));
                for (offset, length) in &run.places {
                    out.put_u32_le(*offset);
                    out.put_u32_le(*length);
                }
            }
        }
    }

    fn decode(segment: u32, end: u32, count: u32, rest: &mut &[u8]) -> Option<Self> {
        let mut entries = Self::default();
        for _ in 0..count {
            let partition = PartitionId(rest.try_get_u32_le().ok()?);
            let first = rest.try_get_u64_le().ok()?;
            let length = wide(rest.try_get_u32_le().ok()?);
            let mut rows = rest.get(..length.checked_mul(8)?)?;
            *rest = rest.get(rows.len()..)?;
            let mut places = Vec::with_capacity(length);
            while rows.has_remaining() {
                let (offset, bytes) = (rows.get_u32_le(), rows.get_u32_le());
                if offset < HEADER_BYTES || offset.checked_add(bytes)? > end {
                    return None;
                }
                places.push((offset, bytes));
            }
            let runs = entries.runs.entry(partition).or_default();
            runs.insert(first, Run { segment, places });
        }
        Some(entries)
    }
}

/// What an index file says of its segment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct SegmentIndex {
    /// The first frame's sequence.
    pub first_sequence: u64,
    /// The last frame's sequence.
    pub last_sequence: u64,
    /// Where the last frame's block ends.
    pub end: u32,
    /// The segment's entries.
    pub entries: Index,
    /// Entries that other nodes gave back.
    pub history: Index,
}

impl SegmentIndex {
    /// One more frame.
    pub(super) fn add_frame(&mut self, sequence: u64, end: u32, records: &[Written]) {
        if self.first_sequence == 0 {
            self.first_sequence = sequence;
        }
        self.last_sequence = sequence;
        self.end = end;
        for written in records {
            match (&written.record, written.places.first()) {
                (Record::Append(entry), Some(place)) => {
                    self.entries
                        .put(entry.partition, entry.log_id.index, *place);
                }
                (Record::History { entries, .. }, Some(_)) => {
                    if let Some(first) = entries.first() {
                        let (partition, index) = (first.partition, first.log_id.index);
                        self.history.put_history(partition, index, &written.places);
                    }
                }
                _ => {}
            }
        }
    }

    /// The index file.
    pub(super) fn encode(&self, key: &SegmentKey) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u32_le(MAGIC);
        out.put_u32_le(FORMAT);
        out.put_u32_le(0);
        out.put_u64_le(self.first_sequence);
        out.put_u64_le(self.last_sequence);
        out.put_u32_le(self.end);
        out.put_u32_le(narrow(self.entries.count()));
        out.put_u32_le(narrow(self.history.count()));
        self.entries.encode(&mut out);
        self.history.encode(&mut out);
        let crc = key.checksum(0, &[out.get(12..).unwrap_or_default()]);
        if let Some(place) = out.get_mut(8..12) {
            place.copy_from_slice(&crc.to_le_bytes());
        }
        out
    }

    /// The inverse of [`SegmentIndex::encode`]; `None` for anything else.
    pub(super) fn decode(key: &SegmentKey, bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let (magic, format) = (rest.try_get_u32_le().ok()?, rest.try_get_u32_le().ok()?);
        let crc = rest.try_get_u32_le().ok()?;
        let is_known = magic == MAGIC && format == FORMAT && bytes.len() >= FIXED_BYTES;
        if !is_known || crc != key.checksum(0, &[rest]) {
            return None;
        }
        let (first_sequence, last_sequence) = (rest.get_u64_le(), rest.get_u64_le());
        let end = rest.get_u32_le();
        let (count, history) = (rest.get_u32_le(), rest.get_u32_le());
        let entries = Index::decode(key.number, end, count, &mut rest)?;
        let history = Index::decode(key.number, end, history, &mut rest)?;
        Some(Self {
            first_sequence,
            last_sequence,
            end,
            entries,
            history,
        })
    }
}
