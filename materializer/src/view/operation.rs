//! [pure] The file operations: one function each (rules TR-1 to TR-10, CO-1).
//!
//! What the rules leave open: a put on a symlink, or a symlink on anything, is rejected as
//! existing, since a change of type is a remove and a make in one change (TR-9). A recursive
//! remove keeps, besides what is newer than its base, all below a directory that was made or moved
//! there after the base: its author never saw it at that place. A volume's root always exists, has
//! no version and no attributes; removing it recursively empties the volume.

use super::namespace::{Fold, Outcome, Stop, Walk, check_sane, reject, volume_root};
use super::outcome::{EventOutcome, Idle, Rejection};
use super::table::{self, FileRow, InodeRow, Kind, NameRow, Row};
use crate::effect::{Effect, Link};
use crate::tree::{Node, NodeKind, ROOT};
use aber_log::env::Kv;
use aber_proto::{Attributes, Content, Event, EventId, FileId, FileTime, NodeId, Operation};
use aber_proto::{Place, Precondition, VolumeId};

/// Permission bits of a file that was given none.
const FILE_MODE: u16 = 0o644;
/// Permission bits of a symlink.
const SYMLINK_MODE: u16 = 0o777;

/// A rename's two ends.
struct Move<'e> {
    from: &'e Place,
    to: &'e Place,
    replace: bool,
    target: &'e Precondition,
}

impl<K: Kv> Fold<K> {
    /// Applies one event. On a rejection the caller takes back what it did.
    pub(crate) fn apply_event(&mut self, event: &Event, id: EventId, author: NodeId) -> Outcome {
        let guard = &event.precondition;
        match &event.operation {
            Operation::Put { place, .. }
            | Operation::MakeDirectory { place, .. }
            | Operation::MakeSymlink { place, .. }
            | Operation::Copy { to: place, .. }
            | Operation::Remove { place, .. }
            | Operation::SetAttributes { place, .. }
            | Operation::Revive { place, .. } => {
                let walk = self.walk(place)?;
                self.guard(guard, &walk)?;
                self.apply_at(&walk, event, id)
            }
            Operation::Rename {
                from,
                to,
                replace,
                target,
            } => {
                let replace = *replace;
                let ends = Move {
                    from,
                    to,
                    replace,
                    target,
                };
                self.rename(&ends, guard)
            }
            Operation::MakeVolume { name, partition } => {
                self.make_volume(guard, id, name, *partition)
            }
            Operation::RenameVolume { volume, name } => self.rename_volume(guard, *volume, name),
            Operation::RemoveVolume { volume } => self.remove_volume(guard, *volume),
            Operation::Invite { .. }
            | Operation::RevokeTicket { .. }
            | Operation::Admit { .. }
            | Operation::SetMember { .. }
            | Operation::RemoveMember { .. } => self.apply_membership(&event.operation, author),
            Operation::SetTag { .. }
            | Operation::RemoveTag { .. }
            | Operation::SetRetention { .. } => self.apply_history(&event.operation, author),
        }
    }

    /// The operations with one path, whose guard held.
    fn apply_at(&mut self, walk: &Walk<'_>, event: &Event, id: EventId) -> Outcome {
        match &event.operation {
            Operation::Put {
                content,
                attributes,
                parents,
                ..
            } => self.put(walk, id, (content, *attributes), *parents),
            Operation::MakeDirectory { parents, .. } => self.make_dir(walk, id, *parents),
            Operation::MakeSymlink {
                target, parents, ..
            } => self.make_symlink(walk, id, target, *parents),
            Operation::Copy {
                content,
                attributes,
                replace,
                ..
            } => {
                let replace = *replace || event.precondition.etag.is_some();
                self.copy(walk, id, (content, *attributes), replace)
            }
            Operation::Remove {
                recursive, base, ..
            } => self.remove(walk, recursive.then_some(*base)),
            Operation::SetAttributes { mode, mtime, .. } => {
                self.set_attributes(walk, *mode, *mtime)
            }
            Operation::Revive {
                file,
                previous,
                what,
                attributes,
                ..
            } => self.revive(walk, id, (*file, *previous), (what, *attributes)),
            Operation::Rename { .. }
            | Operation::MakeVolume { .. }
            | Operation::RenameVolume { .. }
            | Operation::RemoveVolume { .. }
            | Operation::Invite { .. }
            | Operation::RevokeTicket { .. }
            | Operation::Admit { .. }
            | Operation::SetMember { .. }
            | Operation::RemoveMember { .. }
            | Operation::SetTag { .. }
            | Operation::RemoveTag { .. }
            | Operation::SetRetention { .. } => reject(Rejection::Malformed, walk.place),
        }
    }

    fn put(
        &mut self,
        walk: &Walk<'_>,
        event: EventId,
        what: (&Content, Attributes),
        parents: bool,
    ) -> Outcome {
        let Some(child) = walk.child else {
            if walk.is_root() {
                return reject(Rejection::IsADirectory, walk.place);
            }
            self.admit(walk)?;
            let parent = self.parent_for(walk, event, parents)?;
            return Ok(self.create_file(walk, event, parent, what));
        };
        match child.kind {
            Kind::Directory | Kind::Volume => reject(Rejection::IsADirectory, walk.place),
            Kind::Symlink => reject(Rejection::Exists, walk.place),
            Kind::File => self.put_version(child.id, event, what),
        }
    }

    fn put_version(
        &mut self,
        file: FileId,
        event: EventId,
        (content, attributes): (&Content, Attributes),
    ) -> Outcome {
        let InodeRow { mut node, moved } = self.load(file)?;
        if let NodeKind::File(before) = &node.kind {
            self.count_out(before);
            self.archive(&node, before);
        }
        self.count_in(content);
        node.previous = Some(node.version);
        node.version = event;
        node.mtime = attributes.mtime;
        node.mode = attributes.mode.unwrap_or(node.mode);
        node.kind = NodeKind::File(content.clone());
        node.changed = event.index;
        self.rows
            .put_new(table::version_file_key(event), FileRow(file).encode());
        self.effects.push(Effect::Put {
            file,
            version: event,
            link: Link {
                parent: node.parent,
                name: node.name.clone(),
            },
        });
        self.save(&InodeRow { node, moved });
        Ok(EventOutcome::Done(file))
    }

    fn create_file(
        &mut self,
        walk: &Walk<'_>,
        id: FileId,
        parent: FileId,
        (content, attributes): (&Content, Attributes),
    ) -> EventOutcome {
        self.create_node(Node {
            id,
            parent,
            name: walk.name().to_owned(),
            kind: NodeKind::File(content.clone()),
            mode: attributes.mode.unwrap_or(FILE_MODE),
            mtime: attributes.mtime,
            version: id,
            previous: None,
            changed: id.index,
        });
        self.effects.push(Effect::Put {
            file: id,
            version: id,
            link: super::namespace::link(parent, walk.name()),
        });
        EventOutcome::Done(id)
    }

    fn make_dir(&mut self, walk: &Walk<'_>, event: EventId, parents: bool) -> Outcome {
        if walk.is_root() {
            let root = volume_root(walk.place.volume);
            return Ok(EventOutcome::Idle(root, Idle::Exists));
        }
        match walk.child {
            Some(child) if matches!(child.kind, Kind::Directory | Kind::Volume) => {
                return Ok(EventOutcome::Idle(child.id, Idle::Exists));
            }
            Some(_) => return reject(Rejection::Exists, walk.place),
            None => {}
        }
        if walk.parent() == Some(ROOT) {
            return reject(Rejection::NameNotAllowed, walk.place);
        }
        self.admit(walk)?;
        let parent = self.parent_for(walk, event, parents)?;
        self.make_directory(event, parent, walk.name());
        Ok(EventOutcome::Done(event))
    }

    fn make_symlink(
        &mut self,
        walk: &Walk<'_>,
        event: EventId,
        target: &str,
        parents: bool,
    ) -> Outcome {
        if walk.exists() {
            return reject(Rejection::Exists, walk.place);
        }
        self.admit(walk)?;
        let parent = self.parent_for(walk, event, parents)?;
        let kind = NodeKind::Symlink(target.to_owned());
        self.create(event, parent, walk.name(), kind, SYMLINK_MODE);
        self.effects.push(Effect::Link {
            file: event,
            link: super::namespace::link(parent, walk.name()),
        });
        Ok(EventOutcome::Done(event))
    }

    fn rename(&mut self, ends: &Move<'_>, guard: &Precondition) -> Outcome {
        let from = self.walk(ends.from)?;
        self.guard(guard, &from)?;
        let moved = self.named(&from)?;
        let to = self.walk(ends.to)?;
        self.guard(ends.target, &to)?;
        if to.child.is_some_and(|child| child.id == moved.id) {
            return Ok(EventOutcome::Idle(moved.id, Idle::Same));
        }
        if to.passes(moved.id) {
            return reject(Rejection::Cycle, ends.to);
        }
        if to.is_root() {
            return reject(Rejection::IsADirectory, ends.to);
        }
        let Some(parent) = to.parent() else {
            return reject(Rejection::NoParent, ends.to);
        };
        let directory = moved.kind == Kind::Directory;
        if directory && parent == ROOT {
            return reject(Rejection::NameNotAllowed, ends.to);
        }
        self.admit(&to)?;
        if directory {
            self.admit_subtree(moved.id, &from, &to)?;
        }
        if let Some(target) = to.child {
            let replace = ends.replace || ends.target.etag.is_some();
            self.make_room(target, &to, replace)?;
            if directory {
                return reject(Rejection::NotADirectory, ends.to);
            }
        }
        let row = self.load(moved.id)?;
        self.effects.push(Effect::Rename {
            file: moved.id,
            from: super::namespace::link(row.node.parent, &row.node.name),
            to: super::namespace::link(parent, to.name()),
        });
        self.relink(row, parent, to.name());
        Ok(EventOutcome::Done(moved.id))
    }

    /// What a path names: a file, symlink or directory of this partition.
    fn named(&self, walk: &Walk<'_>) -> Result<NameRow, Stop> {
        match walk.child {
            Some(child) if child.kind == Kind::Volume => {
                reject(Rejection::CrossPartition, walk.place)
            }
            Some(child) => Ok(child),
            None if walk.is_root() => reject(Rejection::IsADirectory, walk.place),
            None => reject(Rejection::NotFound, walk.place),
        }
    }

    /// Takes away what stands where something else is to go, if that was asked for.
    fn make_room(&mut self, target: NameRow, to: &Walk<'_>, replace: bool) -> Result<(), Stop> {
        if !replace {
            return reject(Rejection::Exists, to.place);
        }
        if matches!(target.kind, Kind::Directory | Kind::Volume) {
            return reject(Rejection::IsADirectory, to.place);
        }
        self.remove_one(target.id)
    }

    fn copy(
        &mut self,
        to: &Walk<'_>,
        event: EventId,
        what: (&Content, Attributes),
        replace: bool,
    ) -> Outcome {
        if to.is_root() {
            return reject(Rejection::IsADirectory, to.place);
        }
        if let Some(target) = to.child {
            self.make_room(target, to, replace)?;
        }
        self.admit(to)?;
        let parent = self.parent_for(to, event, false)?;
        Ok(self.create_file(to, event, parent, what))
    }

    fn remove(&mut self, walk: &Walk<'_>, base: Option<u64>) -> Outcome {
        if walk.is_root() {
            return self.empty_volume(walk, base);
        }
        let child = self.named(walk)?;
        let Some(base) = base else {
            if child.kind == Kind::Directory && !self.is_empty(child.id)? {
                return reject(Rejection::NotEmpty, walk.place);
            }
            self.remove_one(child.id)?;
            return Ok(EventOutcome::Done(child.id));
        };
        let before = self.effects.len();
        self.remove_tree(child, base, 0)?;
        Ok(done_if(child.id, self.effects.len() > before))
    }

    fn empty_volume(&mut self, walk: &Walk<'_>, base: Option<u64>) -> Outcome {
        let root = volume_root(walk.place.volume);
        if walk.place.volume == VolumeId::ROOT {
            return reject(Rejection::CrossPartition, walk.place);
        }
        let Some(base) = base else {
            return if self.is_empty(root)? {
                Ok(EventOutcome::Idle(root, Idle::Same))
            } else {
                reject(Rejection::NotEmpty, walk.place)
            };
        };
        let before = self.effects.len();
        self.each_name(root, |fold, _, child| {
            fold.remove_tree(child, base, 0).map(|_| ())
        })?;
        Ok(done_if(root, self.effects.len() > before))
    }

    /// Removes all that is not newer than `base`; whether nothing is left (rule TR-8).
    fn remove_tree(&mut self, child: NameRow, base: u64, depth: usize) -> Result<bool, Stop> {
        check_sane(depth, child.id)?;
        let row = self.load(child.id)?;
        let mut gone = row.node.changed <= base;
        if child.kind == Kind::Directory {
            if row.moved > base {
                return Ok(false);
            }
            self.each_name(child.id, |fold, _, below| {
                gone &= fold.remove_tree(below, base, depth + 1)?;
                Ok(())
            })?;
        }
        if gone {
            self.remove_one(child.id)?;
        }
        Ok(gone)
    }

    fn set_attributes(
        &mut self,
        walk: &Walk<'_>,
        mode: Option<u16>,
        mtime: Option<FileTime>,
    ) -> Outcome {
        let Some(child) = walk.child else {
            return if walk.is_root() {
                reject(Rejection::IsADirectory, walk.place)
            } else {
                reject(Rejection::NotFound, walk.place)
            };
        };
        let mut row = self.load(child.id)?;
        let before = (row.node.mode, row.node.mtime);
        // A symlink has no permissions of its own, and times are kept of files only.
        if let (Some(mode), false) = (mode, child.kind == Kind::Symlink) {
            row.node.mode = mode;
        }
        if let (Some(mtime), Kind::File) = (mtime, child.kind) {
            row.node.mtime = mtime;
        }
        if before == (row.node.mode, row.node.mtime) {
            return Ok(EventOutcome::Idle(child.id, Idle::Same));
        }
        row.node.changed = self.index();
        self.save(&row);
        self.effects.push(Effect::SetAttributes { file: child.id });
        Ok(EventOutcome::Done(child.id))
    }
}

fn done_if(file: FileId, did: bool) -> EventOutcome {
    if did {
        EventOutcome::Done(file)
    } else {
        EventOutcome::Idle(file, Idle::Newer)
    }
}
