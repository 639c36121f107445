//! [pure] Going back: the events that make nodes what they were (design, history).
//!
//! A *wish* names a node, what it is to be and what it is. The planner turns the wishes of one
//! partition into steps, each an event that can be applied after those before it, with the guard
//! that holds only while nothing has changed since. What cannot be had is skipped, with a reason:
//! never half done, never at the cost of what somebody else has there.
//!
//! Order: whatever is to stand somewhere is placed, those above it first, and what stands in its way
//! before that, with a name in between only where places are exchanged in a circle. Then contents
//! and attributes; last goes what was not there then, the deepest first. A file that comes back to
//! a place where a file is to go becomes a version of that one: no bytes move, the line of
//! versions stays whole.

mod scene;
mod steps;

pub use steps::{Kind, Step, Touched};

use crate::tree::{Node, NodeKind, Tree};
use aber_log::env::kv::KvProblem;
use aber_proto::{FileId, PartitionId, VolumeId};
use scene::{Handle, Scene};
use std::collections::BTreeMap;

/// How many moves in a row make room for one another before a name in between is used.
const DEPTH: usize = 100;

/// What a node is to be, and what it is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wish {
    /// As it was; `None`: it was not there, and is to go.
    pub then: Option<Node>,
    /// As it is; `None`: it is gone.
    pub now: Option<Node>,
}

/// Where a volume is, or will be.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum VolumeRef {
    /// It is there.
    Known(VolumeId, FileId),
    /// It will be made under this name.
    Pending(String),
}

/// Why something is left as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Skip {
    /// Something that stays has its place, or is in it.
    InTheWay(FileId),
    /// The directory it was in does not come back.
    NoParent,
}

/// What to do, in order, and what is left out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// Events, in order.
    pub steps: Vec<Step>,
    /// What was wished and cannot be had.
    pub skipped: Vec<(FileId, Skip)>,
}

/// Where volumes are, by the file id they had.
pub type Volumes = BTreeMap<FileId, VolumeRef>;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Status {
    /// Being placed: met again, it is part of a circle.
    Doing,
    /// This stands for it from here on.
    Done(Handle),
    Skipped,
}

/// Plans one partition: `now` is the tree as it is, of all partitions.
///
/// # Errors
/// The index failed.
pub fn plan<T: Tree>(
    now: &T,
    partition: PartitionId,
    wishes: &BTreeMap<FileId, Wish>,
    volumes: &Volumes,
) -> Result<Plan, KvProblem> {
    let mut planner = Planner {
        scene: Scene::new(now.clone(), partition, volumes.clone()),
        wishes,
        status: BTreeMap::new(),
        plan: Plan::default(),
        between: Vec::new(),
    };
    for (id, wish) in wishes {
        if wish.then.is_some() {
            let settled = planner.settle(*id, 0)?;
            if matches!(settled, Settled::Circle) {
                planner.skip(*id, Skip::InTheWay(*id));
            }
        }
    }
    for id in wishes.keys() {
        planner.restore_content(*id)?;
    }
    planner.remove_doomed()?;
    planner.end_between()?;
    Ok(planner.plan)
}

struct Planner<'w, T> {
    scene: Scene<T>,
    wishes: &'w BTreeMap<FileId, Wish>,
    status: BTreeMap<FileId, Status>,
    plan: Plan,
    /// What was given a name in between.
    between: Vec<FileId>,
}

/// What came of placing a node.
enum Settled {
    /// This stands for it.
    Here(Handle),
    /// Nothing does, and nothing will.
    Nowhere,
    /// What it is to be in is being placed itself, and waits for it.
    Circle,
}

impl<T: Tree> Planner<'_, T> {
    fn skip(&mut self, id: FileId, why: Skip) {
        self.status.insert(id, Status::Skipped);
        self.plan.skipped.push((id, why));
    }

    /// Whether a node is there, is to go, and has not gone yet.
    fn is_doomed(&self, id: FileId) -> bool {
        let wished = self
            .wishes
            .get(&id)
            .is_some_and(|wish| wish.then.is_none() && wish.now.is_some());
        wished && !self.status.contains_key(&id)
    }

    fn as_it_is(&self, id: FileId) -> Result<Settled, KvProblem> {
        Ok(if self.scene.is_alive(id)? {
            Settled::Here(Handle::Node(id))
        } else {
            Settled::Nowhere
        })
    }

    /// Brings a node to the place it is to have.
    fn settle(&mut self, id: FileId, depth: usize) -> Result<Settled, KvProblem> {
        match self.status.get(&id) {
            Some(Status::Done(handle)) => return Ok(Settled::Here(handle.clone())),
            Some(Status::Doing) if !self.scene.is_alive(id)? => return Ok(Settled::Circle),
            Some(Status::Doing | Status::Skipped) => return self.as_it_is(id),
            None => {}
        }
        let Some(wish) = self.wishes.get(&id).cloned() else {
            return self.as_it_is(id);
        };
        let Some(then) = wish.then else {
            return Ok(Settled::Nowhere);
        };
        self.status.insert(id, Status::Doing);
        let parent = match self.scene.root(then.parent) {
            Some(Some(root)) => Settled::Here(root),
            Some(None) => Settled::Nowhere,
            None => self.settle(then.parent, depth + 1)?,
        };
        let placed = match parent {
            Settled::Nowhere => Err(Skip::NoParent),
            Settled::Circle => {
                self.status.remove(&id);
                return Ok(Settled::Circle);
            }
            Settled::Here(parent) if wish.now.is_some() => {
                match self.move_to(id, &parent, &then.name, depth)? {
                    Some(placed) => placed,
                    None => {
                        self.status.remove(&id);
                        return Ok(Settled::Circle);
                    }
                }
            }
            Settled::Here(parent) => self.bring_back(id, &parent, &then, depth)?,
        };
        match placed {
            Ok(handle) => {
                self.status.insert(id, Status::Done(handle.clone()));
                Ok(Settled::Here(handle))
            }
            Err(why) => {
                self.skip(id, why);
                self.as_it_is(id)
            }
        }
    }

    /// Gives a node its place; `None` if it would lie in itself as things stand.
    fn move_to(
        &mut self,
        id: FileId,
        parent: &Handle,
        name: &str,
        depth: usize,
    ) -> Result<Option<Result<Handle, Skip>>, KvProblem> {
        let handle = Handle::Node(id);
        let wanted = (parent.clone(), name.to_owned());
        if self.scene.place_of(&handle)?.as_ref() == Some(&wanted) {
            return Ok(Some(Ok(handle)));
        }
        if let Err(why) = self.make_room(parent, name, depth)? {
            return Ok(Some(Err(why)));
        }
        if self.scene.is_within(parent, &handle)? {
            return Ok(None);
        }
        self.rename(id, parent, name, Kind::Renamed)?;
        Ok(Some(Ok(handle)))
    }

    /// What was given a name in between and found no place goes back to its own, or near it.
    fn end_between(&mut self) -> Result<(), KvProblem> {
        for id in std::mem::take(&mut self.between) {
            if !matches!(self.status.get(&id), Some(Status::Skipped)) {
                continue;
            }
            let Some((parent, mut name)) = self.scene.first_place(id)? else {
                continue;
            };
            while self.scene.child(&parent, &name)?.is_some() {
                name.push_str("~kept");
            }
            self.rename(id, &parent, &name, Kind::Renamed)?;
        }
        Ok(())
    }

    fn rename(
        &mut self,
        id: FileId,
        parent: &Handle,
        name: &str,
        kind: Kind,
    ) -> Result<(), KvProblem> {
        let step = self.scene.rename(id, parent, name, kind)?;
        self.plan.steps.extend(step);
        Ok(())
    }

    /// Makes a node that is gone, or lets what stands at its place be it.
    fn bring_back(
        &mut self,
        id: FileId,
        parent: &Handle,
        then: &Node,
        depth: usize,
    ) -> Result<Result<Handle, Skip>, KvProblem> {
        let occupant = self.scene.child(parent, &then.name)?;
        if let Some(there) = &occupant {
            let is_doomed = there.node().is_some_and(|id| self.is_doomed(id));
            let kind = self.scene.kind(there)?;
            let stays = there
                .node()
                .and_then(|id| self.wishes.get(&id))
                .is_none_or(|wish| wish.then.is_none());
            match (&then.kind, kind) {
                (NodeKind::Directory | NodeKind::Volume(_), Some(kind))
                    if kind.is_directory() && stays =>
                {
                    self.spare(there);
                    if let (true, Some(id)) = (is_doomed, there.node()) {
                        let step = self.scene.set_mode(id, then.mode)?;
                        self.plan.steps.extend(step);
                    }
                    return Ok(Ok(there.clone()));
                }
                (NodeKind::File(_), Some(steps::Shape::File)) if is_doomed => {
                    self.spare(there);
                    let step = self.scene.put(there, id, then)?;
                    self.plan.steps.extend(step);
                    return Ok(Ok(there.clone()));
                }
                _ => {}
            }
            if let Err(why) = self.make_room(parent, &then.name, depth)? {
                return Ok(Err(why));
            }
        }
        let (handle, made) = self.scene.make(id, parent, then)?;
        self.plan.steps.extend(made);
        Ok(Ok(handle))
    }

    /// A node that was to go stays: it stands for another one.
    fn spare(&mut self, handle: &Handle) {
        if let Some(id) = handle.node().filter(|id| self.is_doomed(*id)) {
            self.status.insert(id, Status::Done(handle.clone()));
        }
    }

    /// Frees a name, if what has it may go or has another place to go to.
    fn make_room(
        &mut self,
        parent: &Handle,
        name: &str,
        depth: usize,
    ) -> Result<Result<(), Skip>, KvProblem> {
        let Some(there) = self.scene.child(parent, name)? else {
            return Ok(Ok(()));
        };
        let Some(id) = there.node() else {
            return Ok(Err(Skip::NoParent));
        };
        if self.is_doomed(id) {
            if self.remove_tree(id, 0)? {
                return Ok(Ok(()));
            }
            // What is in it, and will leave it, may be what needs the place.
            if !self.will_go(id, 0)? {
                return Ok(Err(Skip::InTheWay(id)));
            }
            return self.step_aside(id, parent).map(Ok);
        }
        let moves = self.wishes.get(&id).is_some_and(|wish| wish.then.is_some());
        if !moves {
            return Ok(Err(Skip::InTheWay(id)));
        }
        let is_placed = match self.status.get(&id) {
            None if depth < DEPTH => !matches!(self.settle(id, depth + 1)?, Settled::Circle),
            None | Some(Status::Doing) => false,
            Some(Status::Done(_) | Status::Skipped) => true,
        };
        if !is_placed {
            self.step_aside(id, parent)?;
        }
        match self.scene.child(parent, name)? {
            None => Ok(Ok(())),
            Some(still) => Ok(Err(Skip::InTheWay(still.node().unwrap_or(id)))),
        }
    }

    /// Gives a node a name in between.
    fn step_aside(&mut self, id: FileId, parent: &Handle) -> Result<(), KvProblem> {
        let name = self.free_name(parent)?;
        self.rename(id, parent, &name, Kind::Between)?;
        self.between.push(id);
        Ok(())
    }

    /// Whether nothing is in a directory that stays there.
    fn will_go(&self, id: FileId, depth: usize) -> Result<bool, KvProblem> {
        if depth > aber_proto::limit::PATH_DEPTH {
            return Ok(false);
        }
        for child in self.scene.children(id)? {
            let Some(child) = child.node() else {
                return Ok(false);
            };
            let leaves = match self.status.get(&child) {
                Some(Status::Doing) => true,
                Some(Status::Done(_) | Status::Skipped) => false,
                None if self.is_doomed(child) => self.will_go(child, depth + 1)?,
                None => self
                    .wishes
                    .get(&child)
                    .and_then(|wish| wish.then.as_ref())
                    .is_some_and(|then| then.parent != id),
            };
            if !leaves {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn free_name(&mut self, parent: &Handle) -> Result<String, KvProblem> {
        let mut number = self.between.len();
        loop {
            let name = format!("~aber-{number}");
            if self.scene.child(parent, &name)?.is_none() {
                return Ok(name);
            }
            number += 1;
        }
    }

    /// Content and attributes of a node that lives.
    fn restore_content(&mut self, id: FileId) -> Result<(), KvProblem> {
        let Some(Wish {
            then: Some(then),
            now: Some(now),
        }) = self.wishes.get(&id)
        else {
            return Ok(());
        };
        if matches!(self.status.get(&id), Some(Status::Skipped)) {
            return Ok(());
        }
        let (then, now) = (then.clone(), now.clone());
        let step = match (&then.kind, &now.kind) {
            (NodeKind::File(before), NodeKind::File(after)) if before != after => {
                self.scene.put(&Handle::Node(id), id, &then)?
            }
            _ => self.scene.set_attributes(id, &then, &now)?,
        };
        self.plan.steps.extend(step);
        Ok(())
    }

    fn remove_doomed(&mut self) -> Result<(), KvProblem> {
        // What is below something that goes goes with it, in one walk.
        for id in self.wishes.keys() {
            if self.is_doomed(*id) && !self.remove_tree(*id, 0)? {
                let why = self.scene.some_child(*id)?.unwrap_or(*id);
                self.skip(*id, Skip::InTheWay(why));
            }
        }
        Ok(())
    }

    /// Removes a node that is to go, with all below it that is; whether it is gone.
    fn remove_tree(&mut self, id: FileId, depth: usize) -> Result<bool, KvProblem> {
        if depth > aber_proto::limit::PATH_DEPTH {
            return Ok(false);
        }
        // Whoever wishes a volume away has seen to what is in it, in its own partition.
        let is_volume = self.scene.kind(&Handle::Node(id))? == Some(steps::Shape::Volume);
        let children = if is_volume {
            Vec::new()
        } else {
            self.scene.children(id)?
        };
        for child in children {
            let goes = match child.node() {
                Some(child) if self.is_doomed(child) => self.remove_tree(child, depth + 1)?,
                _ => false,
            };
            if !goes {
                return Ok(false);
            }
        }
        let step = self.scene.remove(id)?;
        self.plan.steps.extend(step);
        self.status.insert(id, Status::Done(Handle::Node(id)));
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
