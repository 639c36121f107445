//! [pure] Paths, subtrees and names of one partition: what the operations are made of.
//!
//! Invariants: a name row and the inode it points to name each other; every directory's parent is
//! a directory, a volume's root or the root; no path is above a limit, whatever its volume is
//! called; nothing but files, symlinks and volumes stands directly at the root.

use super::outcome::{EventOutcome, Rejection};
use super::overlay::Overlay;
use super::table::{self, AppliedRow, InodeRow, Kind, NameRow, Row, VersionRow, VolumeRow};
use crate::effect::{Effect, Link};
use crate::members::Members;
use crate::tree::{Node, NodeKind, ROOT};
use aber_log::env::Kv;
use aber_log::env::kv::{KvProblem, prefix_end};
use aber_proto::{Content, EventId, FileId, PartitionId, Place, RelPath, VolumeId, limit};
use std::sync::Arc;

/// Longest path below a volume's root: with the longest volume name it fits the limit.
pub(crate) const RELATIVE_BYTES: usize = limit::PATH_BYTES - limit::NAME_BYTES - 2;
/// Deepest path below a volume's root.
pub(crate) const RELATIVE_DEPTH: usize = limit::PATH_DEPTH - 1;
/// Names read from the index at once.
const PAGE: usize = 256;

/// Why an operation stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The change is rejected, for a path where it is about one.
    Reject(Rejection, Option<Place>),
    /// The index failed: the batch is thrown away.
    Kv(KvProblem),
}

impl From<KvProblem> for Stop {
    fn from(problem: KvProblem) -> Self {
        Self::Kv(problem)
    }
}

pub(crate) fn reject<T>(reason: Rejection, place: &Place) -> Result<T, Stop> {
    Err(Stop::Reject(reason, Some(place.clone())))
}

/// Rejects what is not about a path.
pub(crate) fn refuse<T>(reason: Rejection) -> Result<T, Stop> {
    Err(Stop::Reject(reason, None))
}

/// What an operation gives.
pub(crate) type Outcome = Result<EventOutcome, Stop>;

/// A batch being folded.
pub(crate) struct Fold<K> {
    pub(crate) partition: PartitionId,
    pub(crate) rows: Overlay<K>,
    pub(crate) applied: AppliedRow,
    pub(crate) effects: Vec<Effect>,
    /// Members and tickets as the batch left them; of the control partition alone.
    pub(crate) members: Option<Arc<Members>>,
}

/// Where a path leads.
pub(crate) struct Walk<'p> {
    pub(crate) place: &'p Place,
    names: Vec<&'p str>,
    /// The directories on the way that exist, the volume's root first.
    dirs: Vec<FileId>,
    /// What the whole path names. The root is nobody's child.
    pub(crate) child: Option<NameRow>,
}

impl<'p> Walk<'p> {
    pub(crate) fn is_root(&self) -> bool {
        self.names.is_empty()
    }

    pub(crate) fn exists(&self) -> bool {
        self.is_root() || self.child.is_some()
    }

    /// The last name; empty for the root.
    pub(crate) fn name(&self) -> &'p str {
        self.names.last().copied().unwrap_or_default()
    }

    /// The directory that holds the last name, if it exists and the path is not the root.
    pub(crate) fn parent(&self) -> Option<FileId> {
        if self.dirs.len() == self.names.len() {
            self.dirs.last().copied()
        } else {
            None
        }
    }

    /// Whether the way leads through this directory.
    pub(crate) fn passes(&self, directory: FileId) -> bool {
        self.dirs.contains(&directory)
    }

    fn depth(&self) -> usize {
        self.names.len()
    }
}

/// The node of a volume: its content's parent, in whatever partition.
pub(crate) fn volume_root(volume: VolumeId) -> FileId {
    if volume == VolumeId::ROOT {
        return ROOT;
    }
    FileId {
        partition: PartitionId::CONTROL,
        index: volume.0 >> 10,
        ordinal: u32::try_from(volume.0 & 1023).unwrap_or(0),
    }
}

impl<K: Kv> Fold<K> {
    pub(crate) fn index(&self) -> u64 {
        self.applied.log_id.index
    }

    /// Follows a path as far as it exists.
    pub(crate) fn walk<'p>(&mut self, place: &'p Place) -> Result<Walk<'p>, Stop> {
        self.check_volume(place)?;
        let mut walk = Walk {
            place,
            names: place.path.components().collect(),
            dirs: vec![volume_root(place.volume)],
            child: None,
        };
        let mut directory = volume_root(place.volume);
        for (position, name) in walk.names.iter().enumerate() {
            let Some(child) = self.child(directory, name)? else {
                return Ok(walk);
            };
            if position + 1 == walk.names.len() {
                walk.child = Some(child);
            } else if child.kind == Kind::Directory {
                walk.dirs.push(child.id);
                directory = child.id;
            } else {
                // Said of what stands in the way.
                let above = walk.names.get(..=position).unwrap_or_default().join("/");
                let path = RelPath::parse(&above).unwrap_or_default();
                let volume = place.volume;
                return reject(Rejection::NotADirectory, &Place { volume, path });
            }
        }
        Ok(walk)
    }

    /// A data partition cannot know its volumes. The control partition does, and must look: the
    /// id of any of its nodes, packed as a volume's, would be a way around all names and limits.
    fn check_volume(&mut self, place: &Place) -> Result<(), Stop> {
        let root = place.volume == VolumeId::ROOT;
        if self.partition != PartitionId::CONTROL && root {
            return reject(Rejection::CrossPartition, place);
        }
        if self.partition != PartitionId::CONTROL || root {
            return Ok(());
        }
        match self.rows.row(&table::volume_key(place.volume))? {
            Some(VolumeRow(PartitionId::CONTROL)) => Ok(()),
            Some(VolumeRow(_)) => reject(Rejection::CrossPartition, place),
            None => reject(Rejection::NotFound, place),
        }
    }

    pub(crate) fn child(
        &mut self,
        parent: FileId,
        name: &str,
    ) -> Result<Option<NameRow>, KvProblem> {
        self.rows
            .row(&table::name_key(self.partition, parent, name))
    }

    /// The inode of a name: it must be there.
    pub(crate) fn load(&mut self, id: FileId) -> Result<InodeRow, KvProblem> {
        let key = table::inode_key(id);
        self.rows.row(&key)?.ok_or_else(|| table::damaged(&key))
    }

    pub(crate) fn save(&mut self, row: &InodeRow) {
        self.rows.put(table::inode_key(row.node.id), row.encode());
    }

    /// Names of a directory after one, in order, a page at a time.
    pub(crate) fn page(
        &self,
        directory: FileId,
        after: Option<&str>,
        count: usize,
    ) -> Result<Vec<(String, NameRow)>, KvProblem> {
        let prefix = table::names_prefix(self.partition, directory);
        let mut from = prefix.clone();
        if let Some(after) = after {
            from.extend_from_slice(after.as_bytes());
            from.push(0);
        }
        self.rows
            .scan(&from, &prefix_end(&prefix), count)?
            .into_iter()
            .map(|(key, value)| {
                let name = table::name_of(&key).ok_or_else(|| table::damaged(&key))?;
                let row = NameRow::decode(&key, &value).map_err(|_| table::damaged(&key))?;
                Ok((name.to_owned(), row))
            })
            .collect()
    }

    /// Calls `visit` for each name in a directory; it may take names away.
    pub(crate) fn each_name(
        &mut self,
        directory: FileId,
        mut visit: impl FnMut(&mut Self, &str, NameRow) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let mut after: Option<String> = None;
        loop {
            let page = self.page(directory, after.as_deref(), PAGE)?;
            for (name, row) in &page {
                visit(self, name, *row)?;
            }
            match page.into_iter().next_back() {
                Some((last, _)) => after = Some(last),
                None => return Ok(()),
            }
        }
    }

    pub(crate) fn is_empty(&self, directory: FileId) -> Result<bool, KvProblem> {
        Ok(self.page(directory, None, 1)?.is_empty())
    }

    /// Checks that a path may be made or kept under its volume, and remembers how long it is.
    pub(crate) fn admit(&mut self, walk: &Walk<'_>) -> Result<(), Stop> {
        self.check_limits(walk, 0, 0)?;
        let length = walk.place.path.as_str().len() as u64;
        self.applied.longest_bytes = self.applied.longest_bytes.max(length);
        self.applied.deepest = self.applied.deepest.max(walk.depth() as u64);
        Ok(())
    }

    fn check_limits(&self, walk: &Walk<'_>, bytes: usize, depth: usize) -> Result<(), Stop> {
        if walk.place.volume == VolumeId::ROOT {
            return Ok(());
        }
        if walk.place.path.as_str().len() + bytes > RELATIVE_BYTES {
            return reject(Rejection::PathTooLong, walk.place);
        }
        if walk.depth() + depth > RELATIVE_DEPTH {
            return reject(Rejection::PathTooDeep, walk.place);
        }
        Ok(())
    }

    /// Checks that all below a directory may be moved from one path to another (rule TR-3). What
    /// is known of the longest and deepest path of the partition answers the common case.
    pub(crate) fn admit_subtree(
        &mut self,
        directory: FileId,
        from: &Walk<'_>,
        to: &Walk<'_>,
    ) -> Result<(), Stop> {
        let (from_bytes, to_bytes) = (from.place.path.as_str().len(), to.place.path.as_str().len());
        let bound = |known: u64, before: usize| {
            usize::try_from(known)
                .unwrap_or(usize::MAX)
                .saturating_sub(before)
        };
        let below = (
            bound(self.applied.longest_bytes, from_bytes),
            bound(self.applied.deepest, from.depth()),
        );
        let (bytes, depth) = match self.check_limits(to, below.0, below.1) {
            Ok(()) => below,
            Err(_) => {
                let exact = self.measure(directory, 0)?;
                self.check_limits(to, exact.0, exact.1)?;
                exact
            }
        };
        let longest = (to_bytes + bytes) as u64;
        let deepest = (to.depth() + depth) as u64;
        self.applied.longest_bytes = self.applied.longest_bytes.max(longest);
        self.applied.deepest = self.applied.deepest.max(deepest);
        Ok(())
    }

    /// The longest path below a directory, its leading slash included, and the deepest.
    fn measure(&mut self, directory: FileId, depth: usize) -> Result<(usize, usize), Stop> {
        check_sane(depth, directory)?;
        let mut most = (0, 0);
        self.each_name(directory, |fold, name, child| {
            let mut below = (0, 0);
            if child.kind == Kind::Directory {
                below = fold.measure(child.id, depth + 1)?;
            }
            most.0 = most.0.max(name.len() + 1 + below.0);
            most.1 = most.1.max(1 + below.1);
            Ok(())
        })?;
        Ok(most)
    }

    /// The directory that is to hold the last name of a path; made, with those above it, if asked.
    pub(crate) fn parent_for(
        &mut self,
        walk: &Walk<'_>,
        event: EventId,
        parents: bool,
    ) -> Result<FileId, Stop> {
        if let Some(parent) = walk.parent() {
            return Ok(parent);
        }
        let missing = walk.names.len() - walk.dirs.len();
        let mut parent = walk.dirs.last().copied().unwrap_or(ROOT);
        if !parents || parent == ROOT {
            return reject(Rejection::NoParent, walk.place);
        }
        let names = walk.names.iter().skip(walk.dirs.len() - 1).take(missing);
        for (count, name) in (1_u32..).zip(names) {
            // Beyond the ordinals of events, so that no other node has this id.
            let id = EventId {
                ordinal: event.ordinal | count << 10,
                ..event
            };
            self.make_directory(id, parent, name);
            parent = id;
        }
        Ok(parent)
    }

    pub(crate) fn make_directory(&mut self, id: FileId, parent: FileId, name: &str) {
        self.create(id, parent, name, NodeKind::Directory, 0o755);
        self.effects.push(Effect::MakeDir {
            file: id,
            link: link(parent, name),
        });
    }

    /// Makes a node with a new id. The caller tells the effect, and the mtime of a file.
    pub(crate) fn create(
        &mut self,
        id: FileId,
        parent: FileId,
        name: &str,
        kind: NodeKind,
        mode: u16,
    ) {
        let node = Node {
            id,
            parent,
            name: name.to_owned(),
            kind,
            mode,
            mtime: aber_proto::FileTime::default(),
            version: id,
            previous: None,
            changed: id.index,
        };
        self.create_node(node);
    }

    pub(crate) fn create_node(&mut self, node: Node) {
        assert_eq!(
            node.id.partition, self.partition,
            "a node of this partition"
        );
        if let NodeKind::File(content) = &node.kind {
            self.count_in(content);
        }
        self.link(&node);
        let row = InodeRow {
            moved: node.changed,
            node,
        };
        let key = table::inode_key(row.node.id);
        self.rows.put_new(key, row.encode());
    }

    /// Makes a node whose id was used before: its row may have been there when the batch began.
    pub(crate) fn stand_again(&mut self, node: Node) {
        if let NodeKind::File(content) = &node.kind {
            self.count_in(content);
        }
        self.link(&node);
        let moved = node.changed;
        self.save(&InodeRow { node, moved });
    }

    fn link(&mut self, node: &Node) {
        let row = NameRow {
            id: node.id,
            kind: Kind::of(&node.kind),
        };
        let key = table::name_key(self.partition, node.parent, &node.name);
        self.rows.put(key, row.encode());
    }

    /// Gives a node another name.
    pub(crate) fn relink(&mut self, mut row: InodeRow, parent: FileId, name: &str) {
        let old = table::name_key(self.partition, row.node.parent, &row.node.name);
        self.rows.remove(old);
        row.node.parent = parent;
        name.clone_into(&mut row.node.name);
        row.node.changed = self.index();
        row.moved = self.index();
        self.link(&row.node);
        self.save(&row);
    }

    /// Takes a node and its name away; its content goes to history. The caller tells the effect.
    pub(crate) fn erase(&mut self, node: &Node) {
        if let NodeKind::File(content) = &node.kind {
            self.count_out(content);
            self.archive(node, content);
        }
        let name = table::name_key(self.partition, node.parent, &node.name);
        self.rows.remove(name);
        self.rows.remove(table::inode_key(node.id));
    }

    /// Takes a file, symlink or empty directory away.
    pub(crate) fn remove_one(&mut self, id: FileId) -> Result<(), Stop> {
        let node = self.load(id)?.node;
        self.erase(&node);
        self.effects.push(Effect::Remove {
            file: id,
            directory: node.is_directory(),
            link: Link {
                parent: node.parent,
                name: node.name,
            },
        });
        Ok(())
    }

    /// Puts the present version of a file among the earlier ones.
    pub(crate) fn archive(&mut self, node: &Node, content: &Content) {
        let row = VersionRow {
            previous: node.previous,
            mode: node.mode,
            mtime: node.mtime,
            content: content.clone(),
        };
        let key = table::version_key(node.id, node.version);
        self.rows.put_new(key, row.encode());
    }

    pub(crate) fn count_in(&mut self, content: &Content) {
        for row in content.rows() {
            self.rows.put(table::reference_key(&row.hash), Vec::new());
        }
        self.applied.files = self.applied.files.wrapping_add(1);
        self.applied.bytes = self.applied.bytes.wrapping_add(content.size());
    }

    pub(crate) fn count_out(&mut self, content: &Content) {
        self.applied.files = self.applied.files.wrapping_sub(1);
        self.applied.bytes = self.applied.bytes.wrapping_sub(content.size());
    }
}

pub(crate) fn link(parent: FileId, name: &str) -> Link {
    Link {
        parent,
        name: name.to_owned(),
    }
}

/// No tree that was made by events is deeper than its limit; one in a damaged index may be.
pub(crate) fn check_sane(depth: usize, directory: FileId) -> Result<(), KvProblem> {
    if depth > limit::PATH_DEPTH {
        return Err(table::damaged(&table::inode_key(directory)));
    }
    Ok(())
}
