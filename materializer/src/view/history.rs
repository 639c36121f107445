//! [pure] What ever happened to a name or a node, a part at a time, from either end.
//!
//! The index reads forward only. The newest rows below an index are found by looking at ranges of
//! indexes that grow until they hold something, and shrink where they hold more than is wanted: a
//! few reads, however long the history is.

use super::namespace::volume_root;
use super::past::{self, PastName};
use super::read::TreeView;
use super::table::{self, InodeRow, NameRow, Row};
use crate::tree::{Node, NodeKind, ROOT, Tree};
use aber_log::env::Kv;
use aber_log::env::kv::{KvProblem, prefix_end};
use aber_proto::{FileId, PartitionId, Place, RelPath, VolumeId, limit};
use bytes::Bytes;

/// Rows read at once.
const PAGE: usize = 256;
/// Indexes looked at first, from the newest down.
const NARROW: u64 = 64;
/// By how much a range grows or shrinks.
const STEP: u64 = 8;

/// A node that had a name in a directory, and between which entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tenure {
    /// Who had it.
    pub id: FileId,
    /// The entry that put it there.
    pub since: u64,
    /// The entry that took it away from there; `None`: it still stands there.
    pub until: Option<u64>,
}

impl Tenure {
    /// Whether it was there at some time between two entries, its own ends included.
    fn meets(&self, (first, last): (u64, u64)) -> bool {
        self.since <= last && self.until.is_none_or(|until| until >= first)
    }
}

impl<K: Kv> TreeView<K> {
    /// The entries from `range.0` to `range.1`, both included, that changed a node after it was
    /// made, at most `limit`: the newest, newest first, or the oldest, oldest first.
    ///
    /// # Errors
    /// The index failed.
    pub fn changes_within(
        &self,
        id: FileId,
        range: (u64, u64),
        newest_first: bool,
        limit: usize,
    ) -> Result<Vec<u64>, KvProblem> {
        let rows = self.indexed(&past::node_prefix(id), range, newest_first, limit)?;
        Ok(rows.into_iter().map(|(index, ..)| index).collect())
    }

    /// Who had a name in a directory between two entries of its partition, both included, at most
    /// `limit`: the newest first, or the oldest first. Only of what history tells.
    ///
    /// # Errors
    /// The index failed.
    pub fn tenures(
        &self,
        (directory, name): (FileId, &str),
        range: (u64, u64),
        newest_first: bool,
        limit: usize,
    ) -> Result<Vec<Tenure>, KvProblem> {
        let Some(partition) = self.content_partition(directory)? else {
            return Ok(Vec::new());
        };
        let (first, last) = range;
        // Of now before those of the past, as everywhere.
        let present = self.present_tenure(partition, directory, name)?;
        let prefix = past::name_prefix(partition, directory, name);
        // Who had it at the end of the range may have lost it only later.
        let over_the_end = self.indexed(&prefix, (last.saturating_add(1), u64::MAX), false, 1)?;
        let over_the_end = tenures_of(&over_the_end)?.pop();
        let end = over_the_end.or(present).filter(|end| end.meets(range));
        let within = self.indexed(&prefix, (first, last), newest_first, limit)?;
        let mut found = tenures_of(&within)?;
        if newest_first {
            found.splice(0..0, end);
        } else {
            found.extend(end);
        }
        found.truncate(limit);
        Ok(found)
    }

    fn present_tenure(
        &self,
        partition: PartitionId,
        directory: FileId,
        name: &str,
    ) -> Result<Option<Tenure>, KvProblem> {
        let present: Option<NameRow> = self.row(&table::name_key(partition, directory, name))?;
        let Some(row) = present else { return Ok(None) };
        let node: Option<InodeRow> = self.row(&table::inode_key(row.id))?;
        Ok(node.map(|node| Tenure {
            id: row.id,
            since: node.moved,
            until: None,
        }))
    }

    /// The partition that holds a directory's names, or did while it existed.
    ///
    /// # Errors
    /// The index failed.
    pub fn content_partition(&self, directory: FileId) -> Result<Option<PartitionId>, KvProblem> {
        if directory == ROOT || directory.partition != PartitionId::CONTROL {
            return Ok(Some(directory.partition));
        }
        let present: Option<InodeRow> = self.row(&table::inode_key(directory))?;
        let row = match present {
            Some(row) => Some(row),
            None => {
                let rows = self.indexed(&past::node_prefix(directory), (0, u64::MAX), true, 1)?;
                let damaged = |key: &Bytes| table::damaged(key);
                rows.first()
                    .map(|(_, key, value)| {
                        InodeRow::read_without_content(directory, value).map_err(|_| damaged(key))
                    })
                    .transpose()?
            }
        };
        Ok(row.and_then(|row| match row.node.kind {
            NodeKind::Volume(partition) => Some(partition),
            _ => None,
        }))
    }

    /// Where a node stands, as events name it: its volume and the path below that, whether the
    /// volume still has a name or not. A volume is its own root. `None` if it is gone.
    ///
    /// # Errors
    /// The index failed.
    pub fn place_of(&self, node: &Node) -> Result<Option<Place>, KvProblem> {
        let mut names = Vec::new();
        let mut at = node.clone();
        let volume = loop {
            if matches!(at.kind, NodeKind::Volume(_)) {
                break VolumeId::made_by(at.id);
            }
            names.push(at.name);
            if at.parent == ROOT {
                break VolumeId::ROOT;
            }
            if at.parent.partition == PartitionId::CONTROL {
                // Only volumes have children and are of the control partition.
                break VolumeId::made_by(at.parent);
            }
            let above = self.node(at.parent)?;
            match above.filter(|_| names.len() <= limit::PATH_DEPTH) {
                Some(above) => at = above,
                None => return Ok(None),
            }
        };
        names.reverse();
        let path = RelPath::parse(&names.join("/")).ok();
        Ok(path.map(|path| Place { volume, path }))
    }

    /// What stands at a place, as events name it; `None` for the root and for nothing.
    ///
    /// # Errors
    /// The index failed.
    pub fn at_place(&self, place: &Place) -> Result<Option<Node>, KvProblem> {
        let mut directory = volume_root(place.volume);
        let Some(partition) = self.content_partition(directory)? else {
            return Ok(None);
        };
        let mut found = None;
        for name in place.path.components() {
            let Some(row) = self.name_then(partition, directory, name)? else {
                return Ok(None);
            };
            directory = row.id;
            found = Some(row.id);
        }
        match found {
            Some(id) => self.node(id),
            None if place.volume == VolumeId::ROOT => Ok(None),
            None => self.node(directory),
        }
    }

    /// Rows whose keys are this prefix and an index of the range, at most `limit`.
    fn indexed(
        &self,
        prefix: &[u8],
        (first, last): (u64, u64),
        newest_first: bool,
        limit: usize,
    ) -> Result<Vec<(u64, Bytes, Bytes)>, KvProblem> {
        let key = |index: u64| {
            let mut key = prefix.to_vec();
            past::push_index(&mut key, index);
            key
        };
        let end = |high: u64| match high {
            u64::MAX => prefix_end(prefix),
            high => key(high),
        };
        let mut found = Vec::new();
        if !newest_first {
            let mut from = key(first);
            let to = end(last.saturating_add(1));
            while found.len() < limit {
                let wanted = PAGE.min(limit - found.len());
                let page = self.kv.scan(&from, &to, wanted)?;
                if let Some((last, _)) = page.last() {
                    from = [last, [0].as_slice()].concat();
                }
                let is_all = page.len() < wanted;
                append(&mut found, page);
                if is_all {
                    break;
                }
            }
            return Ok(found);
        }
        // All rows from `high` on are found or too new.
        let mut high = last.saturating_add(1);
        let mut width = NARROW;
        while found.len() < limit && high > first {
            let low = high.saturating_sub(width).max(first);
            let page = self.kv.scan(&key(low), &end(high), PAGE)?;
            let span = high - low;
            if page.len() >= PAGE && span > PAGE as u64 {
                width = (span / STEP).max(PAGE as u64);
                continue;
            }
            append(&mut found, page.into_iter().rev().collect());
            high = low;
            width = width.saturating_mul(STEP);
        }
        found.truncate(limit);
        Ok(found)
    }
}

fn append(found: &mut Vec<(u64, Bytes, Bytes)>, page: Vec<(Bytes, Bytes)>) {
    let rows = page
        .into_iter()
        .filter_map(|(key, value)| Some((past::index_of(&key)?, key, value)));
    found.extend(rows);
}

fn tenures_of(rows: &[(u64, Bytes, Bytes)]) -> Result<Vec<Tenure>, KvProblem> {
    rows.iter()
        .map(|(until, key, value)| {
            let past = PastName::decode(key, value).map_err(|_| table::damaged(key))?;
            Ok(Tenure {
                id: past.row.id,
                since: past.since,
                until: Some(*until),
            })
        })
        .collect()
}
