//! [pure] The volume that something is in, or was in when it went.

use crate::tree::ROOT;
use crate::view::past;
use crate::view::read::TreeView;
use crate::view::table::{self, InodeRow, Kind};
use aber_log::env::Kv;
use aber_log::env::kv::KvProblem;
use aber_proto::{FileId, PartitionId, VolumeId, limit};
use std::collections::BTreeMap;

/// Directories that are remembered; beyond that all are forgotten.
const REMEMBERED: usize = 16 * 1024;

/// Finds volumes, and remembers those of directories.
pub(super) struct Homes<'t, K> {
    tree: &'t TreeView<K>,
    known: BTreeMap<FileId, Option<VolumeId>>,
}

impl<'t, K: Kv> Homes<'t, K> {
    pub(super) fn new(tree: &'t TreeView<K>) -> Self {
        Self {
            tree,
            known: BTreeMap::new(),
        }
    }

    /// The volume of a node; `None` if what it was below cannot be told any more.
    pub(super) fn of(&mut self, id: FileId) -> Result<Option<VolumeId>, KvProblem> {
        let mut way = Vec::new();
        let mut at = id;
        let home = loop {
            if at == ROOT {
                break Some(VolumeId::ROOT);
            }
            if let Some(known) = self.known.get(&at) {
                break *known;
            }
            // A data partition knows a volume's root by its id alone.
            if at.partition == PartitionId::CONTROL && id.partition != PartitionId::CONTROL {
                break Some(VolumeId::made_by(at));
            }
            if way.len() > limit::PATH_DEPTH {
                break None;
            }
            way.push(at);
            let Some(row) = last_row(self.tree, at)? else {
                break None;
            };
            if Kind::of(&row.node.kind) == Kind::Volume {
                break Some(VolumeId::made_by(at));
            }
            at = row.node.parent;
        };
        if self.known.len() > REMEMBERED {
            self.known.clear();
        }
        // The first is what was asked for: mostly a file, which nobody asks for again.
        self.known
            .extend(way.into_iter().skip(1).map(|at| (at, home)));
        Ok(home)
    }
}

/// A node as it is, or was last.
pub(super) fn last_row<K: Kv>(
    tree: &TreeView<K>,
    id: FileId,
) -> Result<Option<InodeRow>, KvProblem> {
    if let Some(row) = tree.row(&table::inode_key(id))? {
        return Ok(Some(row));
    }
    let Some(last) = tree.changes_of(id, 0)?.pop() else {
        return Ok(None);
    };
    let key = past::node_key(id, last);
    let Some(value) = tree.kv.get(&key)? else {
        return Ok(None);
    };
    let row = InodeRow::read_without_content(id, &value);
    row.map(Some).map_err(|_| table::damaged(&key))
}
