//! [pure] Reads the bytes of a snapshot as they come, and checks all of it.

use super::{HASH_CONTEXT, SnapshotHeader, SnapshotProblem};
use crate::tree::NodeKind;
use crate::view::code::{Cursor, Damaged};
use crate::view::digest::Buckets;
use crate::view::table::{self, AppliedRow, InodeRow, Row, Table};
use aber_proto::limit;
use bytes::Bytes;

/// No key, value, header or end is longer; the longest value is a manifest of 1,024 chunks.
pub(super) const PART_BYTES: usize = 64 * 1024;

/// A row as a snapshot holds it: key of the index, and value.
pub(super) type KvRow = (Bytes, Bytes);

/// Reads the bytes of a snapshot as they come, and checks all of it.
pub(super) struct Decoder {
    buffer: Vec<u8>,
    hasher: blake3::Hasher,
    pub(super) header: Option<SnapshotHeader>,
    last_key: Vec<u8>,
    rows: u64,
    ended: bool,
    buckets: Buckets,
    applied: Option<KvRow>,
    counted: Counted,
}

/// What the rows say in sum.
#[derive(Default)]
struct Counted {
    files: u64,
    bytes: u64,
    inodes: u64,
    names: u64,
    members: usize,
    tickets: usize,
    tags: usize,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self {
            buffer: Vec::new(),
            hasher: blake3::Hasher::new_derive_key(HASH_CONTEXT),
            header: None,
            last_key: Vec::new(),
            rows: 0,
            ended: false,
            buckets: Buckets::new(),
            applied: None,
            counted: Counted::default(),
        }
    }

    fn damaged<T>(&self, what: &'static str) -> Result<T, SnapshotProblem> {
        let row = self.rows;
        Err(SnapshotProblem::Damaged { row, what })
    }

    /// Takes bytes; the rows that are whole now, the applied row left out.
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<Vec<KvRow>, SnapshotProblem> {
        self.buffer.extend_from_slice(piece);
        let buffer = std::mem::take(&mut self.buffer);
        let mut rows = Vec::new();
        let mut cursor = Cursor(&buffer);
        while !self.ended {
            let before = cursor.0;
            let part = match self.header {
                None => SnapshotHeader::read(&mut cursor).map(Part::Header),
                Some(_) => read_part(&mut cursor),
            };
            let Ok(part) = part else {
                cursor.0 = before;
                if before.len() > 3 * PART_BYTES {
                    return self.damaged("a part is malformed or too long");
                }
                break;
            };
            let taken = before.len() - cursor.0.len();
            self.hasher.update(before.get(..taken).unwrap_or_default());
            match part {
                Part::Header(header) => self.header = Some(header),
                Part::Row(key, value) => rows.extend(self.take_row(key, value)?),
                Part::End(count) => {
                    if count != self.rows {
                        return self.damaged("rows are missing");
                    }
                    self.ended = true;
                }
            }
        }
        self.buffer = cursor.0.to_vec();
        if self.ended && self.buffer.len() > blake3::OUT_LEN {
            return self.damaged("bytes follow its end");
        }
        Ok(rows)
    }

    fn take_row(&mut self, key: &[u8], value: &[u8]) -> Result<Option<KvRow>, SnapshotProblem> {
        let Some(header) = self.header.clone() else {
            return self.damaged("a row before the header");
        };
        let partition = header.partition;
        let key = [table::view_prefix(partition).as_slice(), key].concat();
        let table = Table::of(&key).filter(|table| table.is_in_snapshots());
        let Some(table) = table else {
            return self.damaged("a row of an unknown table");
        };
        if key <= self.last_key {
            return self.damaged("rows out of order");
        }
        if !table.fits(partition) || table::check_row(&key, value).is_err() {
            return self.damaged("a malformed row");
        }
        self.last_key.clone_from(&key);
        self.rows += 1;
        if table.is_digested() {
            self.buckets.add(&key, value);
        }
        self.count(table, &key, value);
        if self.counted.tags > limit::TAGS {
            return self.damaged("more tags than there may be");
        }
        // They are kept in memory.
        if self.counted.members > limit::MEMBERS_EVER || self.counted.tickets > limit::TICKETS {
            return self.damaged("more members or tickets than there may be");
        }
        let row = (Bytes::from(key), Bytes::copy_from_slice(value));
        if table != Table::Applied {
            return Ok(Some(row));
        }
        match AppliedRow::decode(&row.0, &row.1) {
            Ok(applied) if header.fits(&applied) => self.applied = Some(row),
            _ => return self.damaged("the header contradicts the rows"),
        }
        Ok(None)
    }

    fn count(&mut self, table: Table, key: &[u8], value: &[u8]) {
        match table {
            Table::Name => self.counted.names += 1,
            Table::Member => self.counted.members += 1,
            Table::Ticket => self.counted.tickets += 1,
            Table::Tag => self.counted.tags += 1,
            Table::Inode => {
                self.counted.inodes += 1;
                if let Ok(row) = InodeRow::decode(key, value)
                    && let NodeKind::File(content) = row.node.kind
                {
                    self.counted.files += 1;
                    self.counted.bytes = self.counted.bytes.wrapping_add(content.size());
                }
            }
            _ => {}
        }
    }

    /// Checks what only the whole can show; the applied row and the buckets.
    pub(super) fn finish(self) -> Result<(KvRow, Buckets), SnapshotProblem> {
        let hash = self.hasher.finalize();
        if !self.ended || self.buffer != hash.as_bytes() {
            return self.damaged("it is cut short, or its hash is wrong");
        }
        let Some((header, applied)) = self.header.as_ref().zip(self.applied.clone()) else {
            return self.damaged("the applied row is missing");
        };
        let counted = &self.counted;
        if (counted.files, counted.bytes) != (header.files, header.bytes)
            || counted.names != counted.inodes
        {
            return self.damaged("counts differ from the rows");
        }
        if self.buckets.digest() != header.digest {
            return self.damaged("the digest differs from the rows");
        }
        Ok((applied, self.buckets))
    }
}

/// One part of the stream.
enum Part<'b> {
    Header(SnapshotHeader),
    Row(&'b [u8], &'b [u8]),
    End(u64),
}

fn read_part<'b>(cursor: &mut Cursor<'b>) -> Result<Part<'b>, Damaged> {
    let key = cursor.sized()?;
    if key.is_empty() {
        return Ok(Part::End(cursor.number()?));
    }
    let value = cursor.sized()?;
    if key.len() > PART_BYTES || value.len() > PART_BYTES {
        return Err(Damaged);
    }
    Ok(Part::Row(key, value))
}
