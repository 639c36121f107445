//! [pure] Rows that say how far back a partition can be told, and how those beyond it go.

use super::{PAGE, PrunePlan};
use crate::view::code::{Cursor, Damaged, Writer};
use crate::view::past::{self, PastTable};
use crate::view::read::TreeView;
use crate::view::table::{self, Row};
use aber_log::env::Kv;
use aber_log::env::kv::{KvBatch, KvProblem, prefix_end};
use aber_proto::{EventId, FileId, PartitionId, VolumeId, limit};
use bytes::Bytes;
use std::collections::BTreeSet;

/// How far back the names of a volume can be told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct HorizonRow {
    /// Moments from this entry on can be told; 0: all.
    pub(crate) index: u64,
    /// So can these before it: tags named them when the rest went.
    pub(crate) kept: BTreeSet<u64>,
}

impl HorizonRow {
    pub(crate) fn tells(&self, index: u64) -> bool {
        index >= self.index || self.kept.contains(&index)
    }
}

impl Row for HorizonRow {
    fn write(&self, out: &mut Writer) {
        out.number(self.index);
        out.number(self.kept.len() as u64);
        for index in &self.kept {
            out.number(*index);
        }
    }

    fn read(_: &[u8], cursor: &mut Cursor<'_>) -> Result<Self, Damaged> {
        let (index, count) = (cursor.number()?, cursor.number()?);
        if count > limit::TAGS as u64 {
            return Err(Damaged);
        }
        let kept: Result<BTreeSet<u64>, Damaged> = (0..count).map(|_| cursor.number()).collect();
        Ok(Self { index, kept: kept? })
    }
}

/// The highest entry that replaced a version which went.
pub(super) struct PassedRow(pub(super) u64);

impl Row for PassedRow {
    fn write(&self, out: &mut Writer) {
        out.number(self.0);
    }

    fn read(_: &[u8], cursor: &mut Cursor<'_>) -> Result<Self, Damaged> {
        Ok(Self(cursor.number()?))
    }
}

/// Key of a volume's horizon in a partition.
#[expect(clippy::big_endian_bytes, reason = "keys sort by bytes")]
pub(crate) fn horizon_key(partition: PartitionId, volume: VolumeId) -> Vec<u8> {
    let mut key = past::past_table(partition, PastTable::Horizon);
    key.extend_from_slice(&volume.0.to_be_bytes());
    key
}

/// Key of the one row that says up to where versions went.
pub(crate) fn passed_key(partition: PartitionId) -> Vec<u8> {
    past::past_table(partition, PastTable::Passed)
}

/// The node whose local id begins the fields of a key.
pub(super) fn file_of(partition: PartitionId, key: &[u8]) -> Option<FileId> {
    let mut whole = [0; EventId::BYTES];
    let local = key.get(table::PREFIX_BYTES..table::PREFIX_BYTES + 12)?;
    whole.get_mut(4..)?.copy_from_slice(local);
    let id = EventId::from_key(whole);
    Some(EventId { partition, ..id })
}

/// What a row of the past is about, and its index.
fn about(key: &[u8]) -> Option<(&[u8], u64)> {
    let subject = key.get(..key.len().checked_sub(8)?)?;
    Some((subject, past::index_of(key)?))
}

/// Lets what names and nodes were before the horizons go, a page at a time.
pub struct NamePrune<'t, K> {
    tree: &'t TreeView<K>,
    plan: &'t PrunePlan,
    /// The tables left, the present one last.
    tables: Vec<PastTable>,
    last: Option<Bytes>,
}

impl<'t, K: Kv> NamePrune<'t, K> {
    pub(super) fn new(tree: &'t TreeView<K>, plan: &'t PrunePlan) -> Self {
        let tables = match plan.all.index {
            0 => Vec::new(),
            _ => vec![PastTable::Node, PastTable::Name],
        };
        Self {
            tree,
            plan,
            tables,
            last: None,
        }
    }

    /// Goes on by a page; the rows that went, or `None` at the end.
    ///
    /// # Errors
    /// The index failed: what was committed is committed, do it again.
    pub fn next_page(&mut self) -> Result<Option<u64>, KvProblem> {
        let Some(table) = self.tables.last() else {
            return Ok(None);
        };
        let prefix = past::past_table(self.plan.partition, *table);
        let from = match &self.last {
            Some(key) => [key, [0].as_slice()].concat(),
            None => prefix.clone(),
        };
        let page = self.tree.kv.scan(&from, &prefix_end(&prefix), PAGE)?;
        let mut batch = KvBatch::default();
        for (key, _) in &page {
            if self.is_beyond(key)? {
                batch.remove(key.clone());
            }
            self.last = Some(key.clone());
        }
        if page.len() < PAGE {
            self.tables.pop();
            self.last = None;
        }
        let count = batch.rows.len() as u64;
        if count > 0 {
            self.tree.kv.commit(batch)?;
        }
        Ok(Some(count))
    }

    fn is_beyond(&mut self, key: &Bytes) -> Result<bool, KvProblem> {
        let (subject, index) = about(key).ok_or_else(|| table::damaged(key))?;
        // Without a row before it, it says what was since the beginning.
        let before = match self.last.as_deref().and_then(about) {
            Some((same, before)) if same == subject => before,
            _ => 0,
        };
        Ok(self.plan.is_beyond(before, index))
    }
}
