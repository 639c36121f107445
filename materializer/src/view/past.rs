//! [pure] The past of a partition: what its names and nodes were before each entry.
//!
//! The view's rows say what is now. Beside them stands, for each row that an entry replaced, what it
//! was before, under the row's key and the entry's index: what a name or node was just after entry
//! `m` is the first such row above `m`, or else the row of now. So any moment is read directly, at
//! the cost of what is asked, without a snapshot and without replay (decision 0012).
//!
//! What came from nothing is not noted: a node's id is the entry that made it, and a name says since
//! when it has stood. A file's content is not noted either: versions keep it.
//!
//! Keys: `H`, the partition (u32, big-endian), the table's byte, and the fields named at the table.
//! Derived from the log, on each node for itself: not in the view's digest, not in snapshots.

use super::code::{Cursor, Damaged, Writer};
use super::namespace::Fold;
use super::outcome::{EntryResult, Rejection};
use super::table::{self, InodeRow, Kind, NameRow, Row, Table};
use aber_log::env::Kv;
use aber_log::env::kv::KvProblem;
use aber_proto::{EventId, FileId, NodeId, PartitionId, PlanId, Timestamp, ViewDigest};
use bytes::Bytes;
use std::collections::BTreeMap;

/// First byte of every key of the past.
pub(crate) const PAST: u8 = b'H';

/// A table of the past.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum PastTable {
    /// One row: [`StartRow`], until the past from before a snapshot is told (`backfill.rs`). Without
    /// it the tree can be told from the beginning.
    Start = 1,
    /// index u64: [`Happened`].
    Entry = 2,
    /// index u64, node (index, ordinal): empty. What an entry made, changed or took away.
    Changed = 3,
    /// node (index, ordinal), index u64: the node before that entry, without content; empty if it was
    /// gone, and the entry revived it.
    Node = 4,
    /// parent (16 bytes), name, 0, index u64: [`PastName`], what stood there before that entry.
    Name = 5,
    /// plan (8 bytes), index u64: empty. The applied changes of one action.
    Plan = 6,
    /// volume u64: how far back its names can be told (`prune.rs`).
    Horizon = 7,
    /// One row: versions that were replaced up to this entry may be gone (`prune.rs`).
    Passed = 8,
    /// index u64: [`DigestRow`], at each entry whose view nodes compare.
    Digest = 9,
}

#[expect(clippy::big_endian_bytes, reason = "keys sort by bytes")]
pub(crate) fn push_index(key: &mut Vec<u8>, index: u64) {
    key.extend_from_slice(&index.to_be_bytes());
}

fn push_local(key: &mut Vec<u8>, id: EventId) {
    let [_, _, _, _, local @ ..] = id.to_key();
    key.extend_from_slice(&local);
}

/// What all keys of a partition's past start with.
#[expect(clippy::big_endian_bytes, reason = "keys sort by bytes")]
pub(crate) fn past_prefix(partition: PartitionId) -> Vec<u8> {
    let mut key = Vec::with_capacity(64);
    key.push(PAST);
    key.extend_from_slice(&partition.0.to_be_bytes());
    key
}

/// The key of the table with one row, or what all keys of a table start with.
pub(crate) fn past_table(partition: PartitionId, table: PastTable) -> Vec<u8> {
    let mut key = past_prefix(partition);
    key.push(table as u8);
    key
}

/// Key of what became of an entry.
pub(crate) fn entry_key(partition: PartitionId, index: u64) -> Vec<u8> {
    let mut key = past_table(partition, PastTable::Entry);
    push_index(&mut key, index);
    key
}

/// What the keys of all nodes that an entry changed start with.
pub(crate) fn changed_prefix(partition: PartitionId, index: u64) -> Vec<u8> {
    let mut key = past_table(partition, PastTable::Changed);
    push_index(&mut key, index);
    key
}

/// Key of one node that an entry changed.
pub(crate) fn changed_key(index: u64, id: FileId) -> Vec<u8> {
    let mut key = changed_prefix(id.partition, index);
    push_local(&mut key, id);
    key
}

/// Index and node of a key made by [`changed_key`].
pub(crate) fn changed_of(partition: PartitionId, key: &[u8]) -> Option<(u64, FileId)> {
    let fields = key.get(table::PREFIX_BYTES..)?;
    let (index, local) = fields.split_first_chunk::<8>()?;
    let mut whole = [0; EventId::BYTES];
    whole.get_mut(4..)?.copy_from_slice(local.get(..12)?);
    let id = EventId::from_key(whole);
    Some((from_big(*index), EventId { partition, ..id }))
}

/// What the keys of a node's past start with.
pub(crate) fn node_prefix(id: FileId) -> Vec<u8> {
    let mut key = past_table(id.partition, PastTable::Node);
    push_local(&mut key, id);
    key
}

/// Key of a node before an entry.
pub(crate) fn node_key(id: FileId, index: u64) -> Vec<u8> {
    let mut key = node_prefix(id);
    push_index(&mut key, index);
    key
}

/// What the keys of the past of all names in a directory start with.
pub(crate) fn names_prefix(partition: PartitionId, parent: FileId) -> Vec<u8> {
    let mut key = past_table(partition, PastTable::Name);
    key.extend_from_slice(&parent.to_key());
    key
}

/// What the keys of one name's past start with. No name holds a zero byte.
pub(crate) fn name_prefix(partition: PartitionId, parent: FileId, name: &str) -> Vec<u8> {
    let mut key = names_prefix(partition, parent);
    key.extend_from_slice(name.as_bytes());
    key.push(0);
    key
}

/// Key of a name before an entry.
pub(crate) fn name_key(partition: PartitionId, parent: FileId, name: &str, index: u64) -> Vec<u8> {
    let mut key = name_prefix(partition, parent, name);
    push_index(&mut key, index);
    key
}

/// What the keys of all changes of one action start with.
pub(crate) fn plan_prefix(partition: PartitionId, plan: PlanId) -> Vec<u8> {
    let mut key = past_table(partition, PastTable::Plan);
    key.extend_from_slice(&plan.0);
    key
}

/// The name in a key made by [`name_key`].
pub(crate) fn name_of(key: &[u8]) -> Option<&str> {
    let end = key.len().checked_sub(9)?;
    let name = key.get(table::PREFIX_BYTES + EventId::BYTES..end)?;
    std::str::from_utf8(name).ok()
}

/// The index at the end of a key.
pub(crate) fn index_of(key: &[u8]) -> Option<u64> {
    key.last_chunk::<8>().map(|bytes| from_big(*bytes))
}

#[expect(clippy::big_endian_bytes, reason = "keys sort by bytes")]
fn from_big(bytes: [u8; 8]) -> u64 {
    u64::from_be_bytes(bytes)
}

/// What an entry came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It holds no change.
    Nothing,
    /// All its events took effect.
    Applied,
    /// Its request was answered before: no effect.
    Repeat,
    /// None of its events took effect; of one that failed, its position.
    Rejected(Rejection, Option<u32>),
}

/// An entry that was applied, as history remembers it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Happened {
    /// Clamped, so that it never falls from one index to the next.
    pub order_time: Timestamp,
    /// Who made its change, if it holds one that could be read.
    pub author: Option<NodeId>,
    /// What it came to.
    pub fate: Fate,
}

impl Row for Happened {
    fn write(&self, out: &mut Writer) {
        out.signed(self.order_time.0);
        out.number(self.author.map_or(0, |author| author.0.saturating_add(1)));
        match self.fate {
            Fate::Nothing => out.byte(0),
            Fate::Applied => out.byte(1),
            Fate::Repeat => out.byte(2),
            Fate::Rejected(reason, event) => {
                out.byte(3);
                out.byte(reason.code());
                out.number(event.map_or(0, |event| u64::from(event) + 1));
            }
        }
    }

    fn read(_: &[u8], cursor: &mut Cursor<'_>) -> Result<Self, Damaged> {
        let order_time = Timestamp(cursor.signed()?);
        let author = cursor.number()?.checked_sub(1).map(NodeId);
        let fate = match cursor.byte()? {
            0 => Fate::Nothing,
            1 => Fate::Applied,
            2 => Fate::Repeat,
            3 => {
                let reason = Rejection::from_code(cursor.byte()?).ok_or(Damaged)?;
                let event = cursor.number()?.checked_sub(1);
                let event = event.map(u32::try_from).transpose().map_err(|_| Damaged)?;
                Fate::Rejected(reason, event)
            }
            _ => return Err(Damaged),
        };
        Ok(Self {
            order_time,
            author,
            fate,
        })
    }
}

/// What a name pointed to before an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PastName {
    pub(crate) row: NameRow,
    /// The entry that put it there: before that there was something else, or nothing.
    pub(crate) since: u64,
}

impl Row for PastName {
    fn write(&self, out: &mut Writer) {
        self.row.write(out);
        out.number(self.since);
    }

    fn read(key: &[u8], cursor: &mut Cursor<'_>) -> Result<Self, Damaged> {
        Ok(Self {
            row: NameRow::read(key, cursor)?,
            since: cursor.number()?,
        })
    }
}

/// The oldest entry after which the tree can be told: the last one of a snapshot.
pub(crate) struct StartRow {
    pub(crate) index: u64,
    /// Of the view at that entry.
    pub(crate) digest: ViewDigest,
}

impl Row for StartRow {
    fn write(&self, out: &mut Writer) {
        out.number(self.index);
        out.raw(&self.digest.0);
    }

    fn read(_: &[u8], cursor: &mut Cursor<'_>) -> Result<Self, Damaged> {
        Ok(Self {
            index: cursor.number()?,
            digest: ViewDigest(cursor.array()?),
        })
    }
}

/// Key of the digest after an entry.
pub(crate) fn digest_key(partition: PartitionId, index: u64) -> Vec<u8> {
    let mut key = past_table(partition, PastTable::Digest);
    push_index(&mut key, index);
    key
}

/// The view's digest after an entry.
pub(crate) struct DigestRow(pub(crate) ViewDigest);

impl Row for DigestRow {
    fn write(&self, out: &mut Writer) {
        out.raw(&self.0.0);
    }

    fn read(_: &[u8], cursor: &mut Cursor<'_>) -> Result<Self, Damaged> {
        Ok(Self(ViewDigest(cursor.array()?)))
    }
}

impl<K: Kv> Fold<K> {
    /// Notes what the present entry came to, and what it replaced.
    pub(crate) fn note_past(
        &mut self,
        author: Option<NodeId>,
        plan: Option<PlanId>,
        result: &EntryResult,
    ) -> Result<(), KvProblem> {
        let (partition, index) = (self.partition, self.index());
        if matches!(result, EntryResult::Applied(_)) {
            if let Some(plan) = plan {
                let mut key = plan_prefix(partition, plan);
                push_index(&mut key, index);
                self.rows.put_new(key, Vec::new());
            }
            let before = self.rows.before(is_told)?;
            for (key, value) in &before {
                let is_same = self.rows.get(key)? == *value;
                match Table::of(key) {
                    Some(Table::Inode) if is_same => {}
                    Some(Table::Inode) => self.note_node(key, value.as_ref())?,
                    _ => self.note_name(&before, key, value.as_ref(), is_same)?,
                }
            }
        }
        let happened = Happened {
            order_time: self.applied.order_time,
            author,
            fate: fate_of(result),
        };
        self.rows
            .put_new(entry_key(partition, index), happened.encode());
        Ok(())
    }

    fn note_node(&mut self, key: &[u8], before: Option<&Bytes>) -> Result<(), KvProblem> {
        let index = self.index();
        let id = table::inode_of(key).map_err(|_| table::damaged(key))?;
        self.rows.put_new(changed_key(index, id), Vec::new());
        let mut out = Writer::default();
        if let Some(value) = before {
            let row = InodeRow::decode(key, value).map_err(|_| table::damaged(key))?;
            row.write_without_content(&mut out);
        } else if id.index == index {
            // What it was before it was made needs no row.
            return Ok(());
        }
        self.rows.put_new(node_key(id, index), out.0);
        Ok(())
    }

    fn note_name(
        &mut self,
        all: &BTreeMap<Bytes, Option<Bytes>>,
        key: &Bytes,
        before: Option<&Bytes>,
        is_same: bool,
    ) -> Result<(), KvProblem> {
        let Some(value) = before else { return Ok(()) };
        let damaged = || table::damaged(key);
        let row = NameRow::decode(key, value).map_err(|_| damaged())?;
        // A name that went was its node's: the node was changed with it.
        let node_key = table::inode_key(row.id);
        let now = self.rows.get(&node_key)?;
        let then = match all.get(node_key.as_slice()) {
            Some(value) => value.clone(),
            None => now.clone(),
        };
        let moved = |value: &Option<Bytes>| match value {
            Some(value) => InodeRow::decode(&node_key, value)
                .map(|row| Some(row.moved))
                .map_err(|_| damaged()),
            None => Ok(None),
        };
        let since = moved(&then)?.ok_or_else(damaged)?;
        // Away and back again in one change: the name says the same, but has stood since now.
        if is_same && moved(&now)? == Some(since) {
            return Ok(());
        }
        let fields = key.get(table::PREFIX_BYTES..).unwrap_or_default();
        let mut past = past_table(self.partition, PastTable::Name);
        past.extend_from_slice(fields);
        past.push(0);
        push_index(&mut past, self.index());
        self.rows.put_new(past, PastName { row, since }.encode());
        Ok(())
    }
}

/// Whether the past of a row is kept.
fn is_told(key: &[u8]) -> bool {
    key.first() == Some(&table::VIEW) && matches!(Table::of(key), Some(Table::Inode | Table::Name))
}

fn fate_of(result: &EntryResult) -> Fate {
    match result {
        EntryResult::Nothing => Fate::Nothing,
        EntryResult::Applied(_) => Fate::Applied,
        EntryResult::Repeat { .. } => Fate::Repeat,
        EntryResult::Rejected(rejected) => Fate::Rejected(rejected.reason, rejected.event),
    }
}

/// Whether the content of a node is with its version.
pub(crate) fn is_file(row: &InodeRow) -> bool {
    Kind::of(&row.node.kind) == Kind::File
}
