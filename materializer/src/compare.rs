//! [pure] What differs between two moments: the nodes that entries between them touched, compared
//! at both.
//!
//! It costs what changed, not what stands there. A directory that was renamed is told once: what
//! lies below it moved with it. What stands where something of its kind was removed is told as
//! changed, whatever its id: programs save by writing a new file over the old one's name.

use crate::tree::{Node, NodeKind, Tree};
use crate::view::{Found, Moment, TreeView};
use aber_log::env::Kv;
use aber_log::env::kv::KvProblem;
use aber_proto::{ChunkHash, ChunkRef, FileId, PartitionId, TreePath};
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;

/// Rows of changed nodes that are looked at in one step.
const PAGE: usize = 256;

/// In what a node differs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// It is not in the first tree.
    Added,
    /// It is not in the second.
    Removed,
    /// Its content or target; of a directory that stands where another stood: nothing that shows.
    Changed,
    /// Its path, and with a directory's the paths of all below.
    Renamed,
    /// Mode or modification time alone.
    Attributes,
}

/// A node and its path at a moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Its path there.
    pub path: TreePath,
    /// The node there.
    pub node: Node,
}

/// A difference. What was renamed and changed is told as both.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// In what.
    pub kind: Kind,
    /// In the first tree; of what was added: none.
    pub before: Option<Standing>,
    /// In the second; of what was removed: none.
    pub after: Option<Standing>,
}

/// A comparison of two moments, a step at a time.
pub struct Comparison<K> {
    before: TreeView<K>,
    after: TreeView<K>,
    /// Partitions to look at, and which of their entries: after the first, up to the second.
    ranges: VecDeque<(PartitionId, (u64, u64))>,
    last: Option<(u64, FileId)>,
    path: TreePath,
}

impl<K: Kv> Comparison<K> {
    /// Compares the tree at two moments, either of which may be the later one, at a path and below
    /// it: what is there at either of them.
    ///
    /// # Errors
    /// The index failed.
    pub fn new(
        tree: &TreeView<K>,
        (from, to): (Arc<Moment>, Arc<Moment>),
        path: TreePath,
    ) -> Result<Self, KvProblem> {
        let partitions: BTreeSet<PartitionId> = from.0.keys().chain(to.0.keys()).copied().collect();
        let mut ranges: VecDeque<_> = partitions
            .into_iter()
            .map(|partition| {
                let (a, b) = (from.index(partition), to.index(partition));
                (partition, (a.min(b), a.max(b)))
            })
            .collect();
        let (before, after) = (tree.at(from), tree.at(to));
        if let Some(top) = path.components().next() {
            let mut among = BTreeSet::from([PartitionId::CONTROL]);
            for tree in [&before, &after] {
                let child = tree.child(crate::tree::ROOT, top)?;
                if let Some(NodeKind::Volume(partition)) = child.map(|node| node.kind) {
                    among.insert(partition);
                }
            }
            ranges.retain(|(partition, _)| among.contains(partition));
        }
        Ok(Self {
            before,
            after,
            ranges,
            last: None,
            path,
        })
    }

    /// The next differences, maybe none; `None`: that was all. In order of the entries that changed
    /// a node last, partition after partition.
    ///
    /// # Errors
    /// The index failed.
    pub fn more(&mut self) -> Result<Option<Vec<Difference>>, KvProblem> {
        let Some((partition, range)) = self.ranges.front().copied() else {
            return Ok(None);
        };
        let rows = self.after.changed(partition, range, self.last, PAGE)?;
        self.last = rows.last().copied();
        if rows.len() < PAGE {
            self.ranges.pop_front();
            self.last = None;
        }
        let mut found = Vec::new();
        for (index, id) in rows {
            let later = (index.saturating_add(1), range.1);
            let is_last =
                index >= range.1 || self.after.changes_within(id, later, false, 1)?.is_empty();
            if is_last {
                self.compare(id, &mut found)?;
            }
        }
        Ok(Some(found))
    }

    fn compare(&self, id: FileId, found: &mut Vec<Difference>) -> Result<(), KvProblem> {
        let standing = |tree: &TreeView<K>| -> Result<Option<Standing>, KvProblem> {
            let Some(node) = tree.node(id)? else {
                return Ok(None);
            };
            let path = tree.path_of(id)?;
            Ok(path.map(|path| Standing { path, node }))
        };
        let (before, after) = (standing(&self.before)?, standing(&self.after)?);
        let is_here = |standing: &Option<Standing>| {
            let path = standing.as_ref().map(|standing| &standing.path);
            path.is_some_and(|path| path.is_within(&self.path))
        };
        if !is_here(&before) && !is_here(&after) {
            return Ok(());
        }
        let mut tell = |kind, before: &Option<Standing>, after: &Option<Standing>| {
            found.push(Difference {
                kind,
                before: before.clone(),
                after: after.clone(),
            });
        };
        match (&before, &after) {
            (None, None) => {}
            (None, Some(new)) => match counterpart(new, &self.before, &self.after)? {
                Some(old) => {
                    let old = Some(Standing {
                        path: new.path.clone(),
                        node: old,
                    });
                    tell(Kind::Changed, &old, &after);
                }
                None => tell(Kind::Added, &None, &after),
            },
            (Some(old), None) => {
                // Told with what stands there instead.
                if counterpart(old, &self.after, &self.before)?.is_none() {
                    tell(Kind::Removed, &before, &None);
                }
            }
            (Some(old), Some(new)) => {
                // Another directory may stand where its own did: then nobody sees that it moved.
                let is_moved = old.path != new.path
                    && (old.node.parent, &old.node.name) != (new.node.parent, &new.node.name);
                let attributes = |node: &Node| (node.mode, node.mtime);
                if is_moved {
                    tell(Kind::Renamed, &before, &after);
                }
                if old.node.kind != new.node.kind {
                    tell(Kind::Changed, &before, &after);
                } else if attributes(&old.node) != attributes(&new.node) {
                    tell(Kind::Attributes, &before, &after);
                }
            }
        }
        Ok(())
    }
}

/// Of a node that stands in one tree alone: what stands at its path in the other, if that is of the
/// same kind and in that tree alone.
fn counterpart<K: Kv>(
    of: &Standing,
    there: &TreeView<K>,
    here: &TreeView<K>,
) -> Result<Option<Node>, KvProblem> {
    let Found::Node(other) = there.lookup(&of.path)? else {
        return Ok(None);
    };
    let is_alike = matches!(
        (&of.node.kind, &other.kind),
        (NodeKind::File(_), NodeKind::File(_))
            | (NodeKind::Symlink(_), NodeKind::Symlink(_))
            | (NodeKind::Directory, NodeKind::Directory)
    );
    Ok(if is_alike && here.node(other.id)?.is_none() {
        Some(other)
    } else {
        None
    })
}

/// Bytes of a content whose chunks are not in another one: about how much was written anew.
#[must_use]
pub fn changed_bytes(before: &[ChunkRef], after: &[ChunkRef]) -> u64 {
    let known: BTreeSet<&ChunkHash> = before.iter().map(|chunk| &chunk.hash).collect();
    let new = after.iter().filter(|chunk| !known.contains(&chunk.hash));
    new.map(|chunk| u64::from(chunk.length)).sum()
}

#[cfg(test)]
mod tests;
