//! [pure] The tree as the steps so far would leave it.

use super::steps::{Kind, Shape, Step, Touched};
use super::{VolumeRef, Volumes};
use crate::tree::{Node, NodeKind, ROOT, Tree};
use aber_log::env::kv::KvProblem;
use aber_log::outbox::item::PENDING_VOLUME;
use aber_proto::{Attributes, Event, FileId, Operation, PartitionId, Place, Precondition};
use aber_proto::{RelPath, Revived, VolumeId, limit};
use std::collections::{BTreeMap, BTreeSet};

/// Children read at once.
const PAGE: usize = 256;
const DIRECTORY_MODE: u16 = 0o755;

/// Something in the scene.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Handle {
    /// A volume's root, or the root.
    Root(VolumeRef),
    /// A node that is there now.
    Node(FileId),
    /// One that a step makes.
    New(u32),
}

impl Handle {
    /// The node that is there now.
    pub(super) fn node(&self) -> Option<FileId> {
        match self {
            Self::Node(id) => Some(*id),
            _ => None,
        }
    }
}

/// The tree now, and what was done to it.
pub(super) struct Scene<T> {
    now: T,
    partition: PartitionId,
    volumes: Volumes,
    /// Where things were put that are not where they are now.
    places: BTreeMap<Handle, (Handle, String)>,
    /// Names that say something else than now.
    names: BTreeMap<(Handle, String), Option<Handle>>,
    gone: BTreeSet<FileId>,
    made: Vec<Shape>,
    /// Nodes that a step has touched: their guards held before it.
    touched: BTreeSet<FileId>,
}

impl<T: Tree> Scene<T> {
    pub(super) fn new(now: T, partition: PartitionId, volumes: Volumes) -> Self {
        Self {
            now,
            partition,
            volumes,
            places: BTreeMap::new(),
            names: BTreeMap::new(),
            gone: BTreeSet::new(),
            made: Vec::new(),
            touched: BTreeSet::new(),
        }
    }

    /// If this is the root or a volume: its root, or `None` if there is none and will be none.
    pub(super) fn root(&self, directory: FileId) -> Option<Option<Handle>> {
        if directory == ROOT {
            return Some(Some(Handle::Root(VolumeRef::Known(VolumeId::ROOT, ROOT))));
        }
        if let Some(volume) = self.volumes.get(&directory) {
            return Some(Some(Handle::Root(volume.clone())));
        }
        let is_volume = directory.partition != self.partition;
        is_volume.then_some(None)
    }

    fn handle_of(&self, directory: FileId) -> Handle {
        match self.root(directory) {
            Some(Some(root)) => root,
            // A volume that is there now and is not among those that were.
            Some(None) => Handle::Root(VolumeRef::Known(VolumeId::made_by(directory), directory)),
            None => Handle::Node(directory),
        }
    }

    pub(super) fn is_alive(&self, id: FileId) -> Result<bool, KvProblem> {
        Ok(!self.gone.contains(&id) && self.now.node(id)?.is_some())
    }

    pub(super) fn kind(&self, handle: &Handle) -> Result<Option<Shape>, KvProblem> {
        Ok(match handle {
            Handle::Root(_) => Some(Shape::Volume),
            Handle::New(number) => self.made.get(*number as usize).copied(),
            Handle::Node(id) => self.now.node(*id)?.as_ref().map(Shape::of),
        })
    }

    pub(super) fn child(&self, parent: &Handle, name: &str) -> Result<Option<Handle>, KvProblem> {
        if let Some(known) = self.names.get(&(parent.clone(), name.to_owned())) {
            return Ok(known.clone());
        }
        let directory = match parent {
            Handle::Root(VolumeRef::Known(_, file)) => *file,
            Handle::Node(id) => *id,
            Handle::Root(VolumeRef::Pending(_)) | Handle::New(_) => return Ok(None),
        };
        let child = self.now.child(directory, name)?;
        Ok(child.map(|child| Handle::Node(child.id)))
    }

    /// All that is in a directory that is there now.
    pub(super) fn children(&self, id: FileId) -> Result<Vec<Handle>, KvProblem> {
        let directory = self.handle_of_any(id);
        let mut found = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.now.children(id, after.as_deref(), PAGE)?;
            let Some(last) = page.last() else { break };
            after = Some(last.name.clone());
            for child in page {
                let key = (directory.clone(), child.name);
                if !self.names.contains_key(&key) {
                    found.push(Handle::Node(child.id));
                }
            }
        }
        let first = (directory.clone(), String::new());
        let changed = self.names.range(first..);
        let inside = changed.take_while(|((parent, _), _)| *parent == directory);
        found.extend(inside.filter_map(|(_, child)| child.clone()));
        Ok(found)
    }

    fn handle_of_any(&self, id: FileId) -> Handle {
        let is_volume = id.partition != self.partition || self.volumes.contains_key(&id);
        if is_volume {
            self.handle_of(id)
        } else {
            Handle::Node(id)
        }
    }

    /// Something that is in a directory and stays.
    pub(super) fn some_child(&self, id: FileId) -> Result<Option<FileId>, KvProblem> {
        Ok(self.children(id)?.iter().find_map(Handle::node))
    }

    pub(super) fn place_of(&self, handle: &Handle) -> Result<Option<(Handle, String)>, KvProblem> {
        if let Some(place) = self.places.get(handle) {
            return Ok(Some(place.clone()));
        }
        let Some(id) = handle.node() else {
            return Ok(None);
        };
        let node = self.now.node(id)?;
        Ok(node.map(|node| (self.handle_of(node.parent), node.name)))
    }

    /// Where a node is now, before any step.
    pub(super) fn first_place(&self, id: FileId) -> Result<Option<(Handle, String)>, KvProblem> {
        let node = self.now.node(id)?;
        Ok(node.map(|node| (self.handle_of(node.parent), node.name)))
    }

    /// Whether one thing is another, or below it.
    pub(super) fn is_within(&self, handle: &Handle, above: &Handle) -> Result<bool, KvProblem> {
        let mut at = handle.clone();
        for _ in 0..=limit::PATH_DEPTH {
            if at == *above {
                return Ok(true);
            }
            match self.place_of(&at)? {
                Some((parent, _)) => at = parent,
                None => return Ok(false),
            }
        }
        Ok(false)
    }

    /// Volume, and path below it.
    fn path(&self, handle: &Handle) -> Result<(VolumeRef, RelPath), KvProblem> {
        let mut names = Vec::new();
        let mut at = handle.clone();
        while let Some((parent, name)) = self.place_of(&at)? {
            if names.len() > limit::PATH_DEPTH {
                break;
            }
            names.push(name);
            at = parent;
        }
        names.reverse();
        let volume = match at {
            Handle::Root(volume) => volume,
            Handle::Node(_) | Handle::New(_) => VolumeRef::Known(VolumeId::ROOT, ROOT),
        };
        Ok((volume, RelPath::parse(&names.join("/")).unwrap_or_default()))
    }

    fn place(&self, handle: &Handle) -> Result<Spot, KvProblem> {
        let (volume, path) = self.path(handle)?;
        Ok(Spot { volume, path })
    }

    fn put_at(&mut self, handle: &Handle, parent: &Handle, name: &str) {
        self.places
            .insert(handle.clone(), (parent.clone(), name.to_owned()));
        let key = (parent.clone(), name.to_owned());
        self.names.insert(key, Some(handle.clone()));
    }

    fn take_from(&mut self, handle: &Handle) -> Result<(), KvProblem> {
        if let Some(place) = self.place_of(handle)? {
            self.names.insert(place, None);
        }
        Ok(())
    }

    /// What must still hold of a node before the first step that touches it.
    fn guard(&mut self, node: &Node) -> Precondition {
        if self.touched.insert(node.id) {
            Precondition {
                etag: Some(node.version),
                ..Precondition::default()
            }
        } else {
            Precondition::default()
        }
    }

    pub(super) fn rename(
        &mut self,
        id: FileId,
        parent: &Handle,
        name: &str,
        kind: Kind,
    ) -> Result<Option<Step>, KvProblem> {
        let handle = Handle::Node(id);
        let Some(node) = self.now.node(id)? else {
            return Ok(None);
        };
        let from = self.place(&handle)?;
        self.take_from(&handle)?;
        self.put_at(&handle, parent, name);
        let to = self.place(&handle)?;
        let guard = self.guard(&node);
        let operation = match (&node.kind, &from.volume) {
            (NodeKind::Volume(_), _) => Operation::RenameVolume {
                volume: VolumeId::made_by(id),
                name: name.to_owned(),
            },
            _ => Operation::Rename {
                from: from.place(),
                to: to.place(),
                replace: false,
                target: absent(),
            },
        };
        Ok(Some(step(operation, guard, &[from, to], kind, id)))
    }

    pub(super) fn make(
        &mut self,
        id: FileId,
        parent: &Handle,
        then: &Node,
    ) -> Result<(Handle, Vec<Step>), KvProblem> {
        let number = u32::try_from(self.made.len()).unwrap_or(u32::MAX);
        self.made.push(Shape::of(then));
        let handle = Handle::New(number);
        self.put_at(&handle, parent, &then.name);
        let at = self.place(&handle)?;
        let place = at.place();
        let attributes = Attributes {
            mtime: then.mtime,
            mode: Some(then.mode),
        };
        let mut more = None;
        // Its id is in use elsewhere: what comes back is another one.
        let alive = self.now.node(id)?.is_some();
        let operation = match &then.kind {
            NodeKind::Volume(partition) => {
                let (name, partition) = (then.name.clone(), *partition);
                Operation::MakeVolume { name, partition }
            }
            NodeKind::Directory if alive => {
                if then.mode != DIRECTORY_MODE {
                    more = Some(Operation::SetAttributes {
                        place: place.clone(),
                        mode: Some(then.mode),
                        mtime: None,
                    });
                }
                let parents = false;
                Operation::MakeDirectory { place, parents }
            }
            NodeKind::Symlink(target) if alive => {
                let (target, parents) = (target.clone(), false);
                Operation::MakeSymlink {
                    place,
                    target,
                    parents,
                }
            }
            NodeKind::File(content) if alive => Operation::Copy {
                source: then.version,
                to: place,
                content: content.clone(),
                attributes,
                replace: false,
            },
            kind => Operation::Revive {
                file: id,
                previous: then.version,
                place,
                what: match kind {
                    NodeKind::File(content) => Revived::File(content.clone()),
                    NodeKind::Symlink(target) => Revived::Symlink(target.clone()),
                    NodeKind::Directory | NodeKind::Volume(_) => Revived::Directory,
                },
                attributes,
            },
        };
        let guard = absent();
        let spots = [at];
        let mut steps = vec![step(operation, guard, &spots, Kind::Returned, id)];
        if let Some(operation) = more {
            let guard = Precondition::default();
            steps.push(step(operation, guard, &spots, Kind::Between, id));
        }
        Ok((handle, steps))
    }

    /// A new version of a file, with the content and attributes of an old one.
    pub(super) fn put(
        &mut self,
        handle: &Handle,
        file: FileId,
        then: &Node,
    ) -> Result<Option<Step>, KvProblem> {
        let node = match handle.node() {
            Some(id) => self.now.node(id)?,
            None => None,
        };
        let (Some(node), NodeKind::File(content)) = (node, &then.kind) else {
            return Ok(None);
        };
        let at = self.place(handle)?;
        let guard = self.guard(&node);
        let operation = Operation::Put {
            place: at.place(),
            content: content.clone(),
            attributes: Attributes {
                mtime: then.mtime,
                mode: Some(then.mode),
            },
            parents: false,
        };
        Ok(Some(step(operation, guard, &[at], Kind::Replaced, file)))
    }

    pub(super) fn set_attributes(
        &mut self,
        id: FileId,
        then: &Node,
        now: &Node,
    ) -> Result<Option<Step>, KvProblem> {
        let is_file = Shape::of(now) == Shape::File;
        let mode = (then.mode != now.mode).then_some(then.mode);
        let mtime = (is_file && then.mtime != now.mtime).then_some(then.mtime);
        let differs = Shape::of(now) != Shape::Symlink && (mode.is_some() || mtime.is_some());
        // A volume's attributes are no events.
        if !differs || Shape::of(now) == Shape::Volume || !self.is_alive(id)? {
            return Ok(None);
        }
        let at = self.place(&Handle::Node(id))?;
        let guard = self.guard(now);
        let place = at.place();
        let operation = Operation::SetAttributes { place, mode, mtime };
        Ok(Some(step(operation, guard, &[at], Kind::Attributes, id)))
    }

    /// Gives a directory that stands for another one its mode.
    pub(super) fn set_mode(&mut self, id: FileId, mode: u16) -> Result<Option<Step>, KvProblem> {
        let Some(now) = self.now.node(id)? else {
            return Ok(None);
        };
        let then = Node {
            mode,
            ..now.clone()
        };
        self.set_attributes(id, &then, &now)
    }

    pub(super) fn remove(&mut self, id: FileId) -> Result<Option<Step>, KvProblem> {
        let handle = Handle::Node(id);
        let Some(node) = self.now.node(id)? else {
            return Ok(None);
        };
        let at = self.place(&handle)?;
        self.take_from(&handle)?;
        self.gone.insert(id);
        let guard = self.guard(&node);
        let operation = match node.kind {
            NodeKind::Volume(_) => Operation::RemoveVolume {
                volume: VolumeId::made_by(id),
            },
            _ => Operation::Remove {
                place: at.place(),
                recursive: false,
                base: 0,
            },
        };
        Ok(Some(step(operation, guard, &[at], Kind::Removed, id)))
    }
}

/// A path in a volume that is there or will be.
struct Spot {
    volume: VolumeRef,
    path: RelPath,
}

impl Spot {
    fn place(&self) -> Place {
        let volume = match self.volume {
            VolumeRef::Known(volume, _) => volume,
            VolumeRef::Pending(_) => PENDING_VOLUME,
        };
        Place {
            volume,
            path: self.path.clone(),
        }
    }
}

fn absent() -> Precondition {
    Precondition {
        absent: true,
        ..Precondition::default()
    }
}

fn step(
    operation: Operation,
    precondition: Precondition,
    spots: &[Spot],
    kind: Kind,
    file: FileId,
) -> Step {
    let pending = spots.iter().find_map(|spot| match &spot.volume {
        VolumeRef::Pending(name) => Some(name.clone()),
        VolumeRef::Known(..) => None,
    });
    let touches = spots.iter().map(|spot| {
        let volume = match &spot.volume {
            VolumeRef::Known(volume, _) => Touched::Volume(*volume),
            VolumeRef::Pending(name) => Touched::Pending(name.clone()),
        };
        (volume, spot.path.clone())
    });
    Step {
        event: Event {
            precondition,
            operation,
        },
        pending,
        touches: touches.collect(),
        kind,
        file,
    }
}
