//! A naive view: a map from whole paths, where every operation does the obvious thing.

use crate::view::Rejection;
use aber_proto::{Content, Event, EventId, FileId, Operation};
use aber_proto::{PartitionId, Place, Precondition, Revived};
use std::collections::BTreeMap;

/// Volume and path below it.
pub(crate) type Key = (u64, String);

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Thing {
    Directory,
    File(Content),
    Symlink(String),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Item {
    pub(crate) id: EventId,
    pub(crate) thing: Thing,
    pub(crate) mode: u16,
    pub(crate) version: EventId,
    pub(crate) previous: Option<EventId>,
    pub(crate) changed: u64,
    pub(crate) moved: u64,
}

/// `Some(true)` did something, `Some(false)` did nothing.
type Step = Result<bool, Rejection>;

/// A data partition.
#[derive(Clone, Default, Debug)]
pub(crate) struct Model {
    pub(crate) items: BTreeMap<Key, Item>,
}

fn key(place: &Place) -> Key {
    (place.volume.0, place.path.as_str().to_owned())
}

pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(head, _)| head)
}

pub(crate) fn is_below(path: &str, directory: &str) -> bool {
    directory.is_empty() || path.starts_with(&format!("{directory}/"))
}

impl Model {
    /// All events, or none.
    pub(crate) fn apply(
        &mut self,
        partition: u32,
        index: u64,
        events: &[Event],
    ) -> Result<Vec<bool>, (u32, Rejection)> {
        let before = self.clone();
        let mut done = Vec::new();
        for (ordinal, event) in (0..).zip(events) {
            let id = EventId {
                partition: PartitionId(partition),
                index,
                ordinal,
            };
            match self.step(event, id) {
                Ok(did) => done.push(did),
                Err(reason) => {
                    *self = before;
                    return Err((ordinal, reason));
                }
            }
        }
        Ok(done)
    }

    fn step(&mut self, event: &Event, id: EventId) -> Step {
        let guard = &event.precondition;
        match &event.operation {
            Operation::Put {
                place,
                content,
                attributes,
                parents,
            } => {
                let thing = Thing::File(content.clone());
                let mode = attributes.mode;
                self.make(&key(place), guard, (id, thing, mode), *parents)
            }
            Operation::MakeDirectory { place, parents } => {
                self.make(&key(place), guard, (id, Thing::Directory, None), *parents)
            }
            Operation::MakeSymlink {
                place,
                target,
                parents,
            } => {
                let thing = Thing::Symlink(target.clone());
                self.make(&key(place), guard, (id, thing, None), *parents)
            }
            Operation::Rename {
                from,
                to,
                replace,
                target,
            } => self.rename(&key(from), &key(to), (guard, target), *replace, id.index),
            Operation::Copy {
                to,
                content,
                attributes,
                replace,
                ..
            } => self.copy(&key(to), guard, (id, content, attributes.mode), *replace),
            Operation::Remove {
                place,
                recursive,
                base,
            } => self.remove(&key(place), guard, recursive.then_some(*base)),
            Operation::SetAttributes { place, mode, .. } => {
                let at = key(place);
                self.walk(&at)?;
                self.guard(&at, guard)?;
                if at.1.is_empty() {
                    return Err(Rejection::IsADirectory);
                }
                let item = self.items.get_mut(&at).ok_or(Rejection::NotFound)?;
                let mode = mode.unwrap_or(item.mode);
                if mode == item.mode || matches!(item.thing, Thing::Symlink(_)) {
                    return Ok(false);
                }
                item.mode = mode;
                item.changed = id.index;
                Ok(true)
            }
            Operation::Revive {
                file,
                previous,
                place,
                what,
                attributes,
            } => {
                let (old, mode) = ((*file, *previous), attributes.mode);
                self.revive(&key(place), guard, old, (id, what, mode))
            }
            other => panic!("not of a data partition: {other:?}"),
        }
    }

    /// Makes something that has the id of what is gone.
    fn revive(
        &mut self,
        at: &Key,
        guard: &Precondition,
        (file, previous): (FileId, EventId),
        (id, what, mode): (EventId, &Revived, Option<u16>),
    ) -> Step {
        let parent_exists = self.walk(at)?;
        self.guard(at, guard)?;
        let thing = match what {
            Revived::File(content) => Thing::File(content.clone()),
            Revived::Symlink(target) => Thing::Symlink(target.clone()),
            Revived::Directory => Thing::Directory,
        };
        let is_older = |old: EventId| old.partition == id.partition && old.index < id.index;
        if !is_older(file) || !is_older(previous) {
            return Err(Rejection::Malformed);
        }
        let is_taken = at.1.is_empty() || self.items.contains_key(at);
        if is_taken || self.items.values().any(|item| item.id == file) {
            return Err(Rejection::Exists);
        }
        if !parent_exists {
            return Err(Rejection::NoParent);
        }
        // Nobody sets the mode of a symlink.
        let mode = mode.filter(|_| !matches!(thing, Thing::Symlink(_)));
        let is_file = matches!(thing, Thing::File(_));
        self.insert(at.clone(), id, thing, mode);
        let item = self.items.get_mut(at).expect("it was inserted");
        item.id = file;
        item.previous = is_file.then_some(previous);
        Ok(true)
    }

    /// Whether the directory that holds the last name exists.
    fn walk(&self, (volume, path): &Key) -> Result<bool, Rejection> {
        let mut at = String::new();
        for name in parent(path).split('/').filter(|name| !name.is_empty()) {
            if !at.is_empty() {
                at.push('/');
            }
            at.push_str(name);
            match self.items.get(&(*volume, at.clone())) {
                None => return Ok(false),
                Some(item) if item.thing == Thing::Directory => {}
                Some(_) => return Err(Rejection::NotADirectory),
            }
        }
        Ok(true)
    }

    fn below<'m>(&'m self, (volume, path): &'m Key) -> impl Iterator<Item = (&'m Key, &'m Item)> {
        self.items
            .iter()
            .filter(move |(key, _)| key.0 == *volume && is_below(&key.1, path))
    }

    fn guard(&self, at: &Key, guard: &Precondition) -> Result<(), Rejection> {
        let found = self.items.get(at);
        if guard.absent && (found.is_some() || at.1.is_empty()) {
            return Err(Rejection::Exists);
        }
        if guard.etag.is_some() && guard.etag != found.map(|item| item.version) {
            return Err(Rejection::Stale);
        }
        let newer = |since| {
            let below = self.below(at).map(|(_, item)| item);
            found
                .into_iter()
                .chain(below)
                .any(|item| item.changed > since)
        };
        if guard.unchanged_since.is_some_and(newer) {
            return Err(Rejection::Stale);
        }
        Ok(())
    }

    fn insert(&mut self, at: Key, id: EventId, thing: Thing, mode: Option<u16>) {
        let usual = match thing {
            Thing::Directory => 0o755,
            Thing::File(_) => 0o644,
            Thing::Symlink(_) => 0o777,
        };
        let item = Item {
            id,
            thing,
            mode: mode.unwrap_or(usual),
            version: id,
            previous: None,
            changed: id.index,
            moved: id.index,
        };
        self.items.insert(at, item);
    }

    fn make(
        &mut self,
        at: &Key,
        guard: &Precondition,
        (id, thing, mode): (EventId, Thing, Option<u16>),
        parents: bool,
    ) -> Step {
        let parent_exists = self.walk(at)?;
        self.guard(at, guard)?;
        if at.1.is_empty() {
            return match thing {
                Thing::Directory => Ok(false),
                Thing::File(_) => Err(Rejection::IsADirectory),
                Thing::Symlink(_) => Err(Rejection::Exists),
            };
        }
        if let Some(item) = self.items.get_mut(at) {
            return match (&item.thing, thing) {
                (Thing::Directory, Thing::Directory) => Ok(false),
                (Thing::Directory, Thing::File(_)) => Err(Rejection::IsADirectory),
                (Thing::File(_), new @ Thing::File(_)) => {
                    item.thing = new;
                    item.previous = Some(item.version);
                    item.version = id;
                    item.mode = mode.unwrap_or(item.mode);
                    item.changed = id.index;
                    Ok(true)
                }
                _ => Err(Rejection::Exists),
            };
        }
        if !parent_exists && !parents {
            return Err(Rejection::NoParent);
        }
        let names: Vec<_> = at.1.split('/').collect();
        let mut made = 0;
        for depth in 1..names.len() {
            let directory = (at.0, names[..depth].join("/"));
            if !self.items.contains_key(&directory) {
                made += 1;
                let ordinal = id.ordinal + 1024 * made;
                self.insert(directory, EventId { ordinal, ..id }, Thing::Directory, None);
            }
        }
        self.insert(at.clone(), id, thing, mode);
        Ok(true)
    }

    fn make_room(&mut self, at: &Key, replace: bool) -> Result<(), Rejection> {
        match self.items.get(at) {
            None => Ok(()),
            Some(_) if !replace => Err(Rejection::Exists),
            Some(item) if item.thing == Thing::Directory => Err(Rejection::IsADirectory),
            Some(_) => {
                self.items.remove(at);
                Ok(())
            }
        }
    }

    fn copy(
        &mut self,
        to: &Key,
        guard: &Precondition,
        (id, content, mode): (EventId, &Content, Option<u16>),
        replace: bool,
    ) -> Step {
        let parent_exists = self.walk(to)?;
        self.guard(to, guard)?;
        if to.1.is_empty() {
            return Err(Rejection::IsADirectory);
        }
        self.make_room(to, replace || guard.etag.is_some())?;
        if !parent_exists {
            return Err(Rejection::NoParent);
        }
        self.insert(to.clone(), id, Thing::File(content.clone()), mode);
        Ok(true)
    }

    fn rename(
        &mut self,
        from: &Key,
        to: &Key,
        (guard, target): (&Precondition, &Precondition),
        replace: bool,
        index: u64,
    ) -> Step {
        self.walk(from)?;
        self.guard(from, guard)?;
        if from.1.is_empty() {
            return Err(Rejection::IsADirectory);
        }
        let item = self.items.get(from).cloned().ok_or(Rejection::NotFound)?;
        let parent_exists = self.walk(to)?;
        self.guard(to, target)?;
        if from == to {
            return Ok(false);
        }
        if from.0 == to.0 && is_below(&to.1, &from.1) {
            return Err(Rejection::Cycle);
        }
        if to.1.is_empty() {
            return Err(Rejection::IsADirectory);
        }
        if !parent_exists {
            return Err(Rejection::NoParent);
        }
        let taken = self.items.contains_key(to);
        self.make_room(to, replace || target.etag.is_some())?;
        if taken && item.thing == Thing::Directory {
            return Err(Rejection::NotADirectory);
        }
        let below: Vec<_> = self.below(from).map(|(key, _)| key.clone()).collect();
        for old in below {
            let item = self.items.remove(&old).expect("listed");
            let new = format!("{}{}", to.1, &old.1[from.1.len()..]);
            self.items.insert((to.0, new), item);
        }
        self.items.remove(from);
        let item = Item {
            changed: index,
            moved: index,
            ..item
        };
        self.items.insert(to.clone(), item);
        Ok(true)
    }

    fn remove(&mut self, at: &Key, guard: &Precondition, base: Option<u64>) -> Step {
        self.walk(at)?;
        self.guard(at, guard)?;
        if !at.1.is_empty() && !self.items.contains_key(at) {
            return Err(Rejection::NotFound);
        }
        let before = self.items.len();
        match base {
            None if self.below(at).next().is_some() => return Err(Rejection::NotEmpty),
            None => {
                self.items.remove(at);
            }
            Some(base) => self.remove_older(at, base),
        }
        Ok(self.items.len() < before)
    }

    /// What goes: older things with nothing newer below, and no directory above, up to what is
    /// removed, that came to its place after the base.
    fn remove_older(&mut self, top: &Key, base: u64) {
        let within = |path: &str| path == top.1 || is_below(path, &top.1);
        let new_here: Vec<_> = self
            .items
            .iter()
            .filter(|(key, item)| {
                let directory = item.thing == Thing::Directory;
                key.0 == top.0 && within(&key.1) && directory && item.moved > base
            })
            .map(|(key, _)| key.1.clone())
            .collect();
        let stays: Vec<_> = self
            .items
            .iter()
            .filter(|(key, item)| {
                let sheltered = new_here.iter().any(|above| is_below(&key.1, above));
                key.0 == top.0 && within(&key.1) && (item.changed > base || sheltered)
            })
            .map(|(key, _)| key.1.clone())
            .collect();
        self.items.retain(|key, _| {
            let outside = key.0 != top.0 || !within(&key.1);
            outside
                || stays
                    .iter()
                    .any(|path| *path == key.1 || is_below(path, &key.1))
        });
    }
}
