//! Ways back among random changes: view, model and a second view, at every prefix.
//!
//! What a way back is to lead to is worked out here once more, from two states of the model: the
//! nodes that are meant stand as they stood, all others as they stand.

use super::{DATA, V, changed, every_prefix_is_the_model, moment, only_what_differs_changed};
use crate::revert::{self, Plan, VolumeRef, Wish};
use crate::testing::{MemKv, World, genesis};
use crate::tree::{Node, Tree};
use crate::view::tests::fold::{self, all, change, told_by, without_moved};
use crate::view::tests::model::{Item, Key, Model, Thing, is_below, parent};
use crate::view::{Verdict, View};
use aber_log::env::kv::KvBatch;
use aber_proto::{Entry, Event, FileId, TreePath, ViewDigest};
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::{BTreeMap, BTreeSet};

/// What is done next.
#[derive(Clone, Debug)]
enum Deed {
    Change(Vec<fold::Plan>),
    /// Back to a prefix: all, or one path, with what is or was below it.
    Back(Index, Option<Index>),
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let top = proptest::option::weighted(0.7, any::<Index>());
    let back = (any::<Index>(), top).prop_map(|(prefix, top)| Deed::Back(prefix, top));
    let deed = prop_oneof![6 => change().prop_map(Deed::Change), 1 => back];
    proptest::collection::vec(deed, 1..50)
}

/// A node as people see it, and by what it is held.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Stand {
    holder: Holder,
    name: String,
    thing: Thing,
    mode: u16,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Holder {
    Volume(u64),
    Directory(FileId),
}

type Stands = BTreeMap<FileId, Stand>;

fn stands(model: &Model) -> Stands {
    let stand = |(key, item): (&Key, &Item)| {
        let above = (key.0, parent(&key.1).to_owned());
        let name = key.1.rsplit('/').next().unwrap_or_default();
        let holder = match model.items.get(&above) {
            Some(directory) => Holder::Directory(directory.id),
            None => Holder::Volume(key.0),
        };
        let stand = Stand {
            holder,
            name: name.to_owned(),
            thing: item.thing.clone(),
            mode: item.mode,
        };
        (item.id, stand)
    };
    model.items.iter().map(stand).collect()
}

/// Where a node stands; `None` if in nothing, or in itself.
fn place(stands: &Stands, id: FileId) -> Option<Key> {
    let (mut at, mut names) = (id, Vec::new());
    for _ in 0..stands.len() {
        let stand = stands.get(&at)?;
        names.push(stand.name.as_str());
        match stand.holder {
            Holder::Directory(above) => at = above,
            Holder::Volume(volume) => {
                names.reverse();
                return Some((volume, names.join("/")));
            }
        }
    }
    None
}

fn is_within(key: &Key, top: Option<&Key>) -> bool {
    top.is_none_or(|top| key.0 == top.0 && (key.1 == top.1 || is_below(&key.1, &top.1)))
}

/// What is or was at a path, or below it.
fn meant(then: &Model, now: &Model, top: Option<&Key>) -> BTreeSet<FileId> {
    let items = then.items.iter().chain(&now.items);
    let inside = items.filter(|(key, _)| is_within(key, top));
    inside.map(|(_, item)| item.id).collect()
}

/// What people see: no ids, no versions.
type Seen = BTreeMap<Key, (Thing, u16)>;

fn seen(model: &Model) -> Seen {
    let items = model.items.iter();
    items
        .map(|(key, item)| (key.clone(), (item.thing.clone(), item.mode)))
        .collect()
}

/// What a way back leads to; `None` if it cannot be had whole: two nodes would have one place, or
/// one would have none.
fn wanted(then: &Model, now: &Model, meant: &BTreeSet<FileId>) -> Option<Seen> {
    let mut wanted = stands(now);
    wanted.retain(|id, _| !meant.contains(id));
    let back = stands(then).into_iter();
    wanted.extend(back.filter(|(id, _)| meant.contains(id)));
    let mut found = Seen::new();
    for (id, stand) in &wanted {
        let place = place(&wanted, *id)?;
        let other = found.insert(place, (stand.thing.clone(), stand.mode));
        if other.is_some() {
            return None;
        }
    }
    Some(found)
}

/// A view and a model that are told the same, and what they were after each entry.
struct Twins {
    world: World,
    entries: Vec<(Entry, Verdict)>,
    /// After as many entries.
    models: Vec<Model>,
    digests: Vec<ViewDigest>,
}

impl Twins {
    fn new(world: World) -> Self {
        Self {
            digests: vec![world.view.digest()],
            models: vec![Model::default()],
            entries: Vec::new(),
            world,
        }
    }

    fn now(&self) -> &Model {
        self.models.last().expect("the one before all entries")
    }

    /// Orders a change, and applies it: whether it was not rejected, by both.
    fn write(&mut self, events: Vec<Event>) -> bool {
        let mut model = self.now().clone();
        let entry = self.world.log.write(events.clone());
        let said = model.apply(1, self.world.log.index, &events);
        let (result, _) = self.world.apply(entry.clone(), Verdict::Allowed);
        assert_eq!(told_by(&result), said, "{events:?}");
        assert_eq!(all(&self.world.tree()), without_moved(&model));
        self.entries.push((entry, Verdict::Allowed));
        self.models.push(model);
        self.digests.push(self.world.view.digest());
        said.is_ok()
    }

    fn take(&mut self, deed: &Deed) {
        match deed {
            Deed::Change(plans) => {
                let (model, index) = (self.now(), self.world.log.index);
                let events = plans.iter().map(|plan| plan.event(model, index));
                let events = events.collect();
                self.write(events);
            }
            Deed::Back(prefix, top) => {
                let prefix = prefix.index(self.models.len());
                let top = top.map(|top| self.top(prefix, top));
                self.go_back(prefix, top.as_ref());
            }
        }
    }

    /// A path that is or was, or a volume.
    fn top(&self, prefix: usize, drawn: Index) -> Key {
        let items = self.models[prefix].items.iter().chain(&self.now().items);
        let mut paths: BTreeSet<Key> = items.map(|(key, _)| key.clone()).collect();
        paths.extend([V, V | 1].map(|volume| (volume, String::new())));
        let paths: Vec<Key> = paths.into_iter().collect();
        paths[drawn.index(paths.len())].clone()
    }

    /// What the product plans, given what a node finds out for it (see `aber-node`, rollback).
    fn plan(&self, prefix: u64, top: Option<&Key>) -> Plan {
        let top = top.map(|(volume, path)| {
            let name = if *volume == V { "v" } else { "w" };
            let path = format!("/{name}/{path}");
            TreePath::parse(path.trim_end_matches('/')).expect("a path")
        });
        let now = self.world.tree();
        let then = now.at(moment(prefix));
        let state = |node: &Node| (node.parent, node.name.clone(), node.kind.clone(), node.mode);
        let mut wishes = BTreeMap::new();
        for id in changed(&self.world, prefix, self.world.log.index) {
            let wish = Wish {
                then: then.node(id).expect("works"),
                now: now.node(id).expect("works"),
            };
            let is_inside = [&then, &now].into_iter().any(|tree| {
                let path = tree.path_of(id).expect("works");
                path.is_some_and(|path| top.as_ref().is_none_or(|top| path.is_within(top)))
            });
            if is_inside && wish.then.as_ref().map(state) != wish.now.as_ref().map(state) {
                wishes.insert(id, wish);
            }
        }
        let volumes = now.volumes().expect("works").into_iter();
        let known = volumes.map(|volume| (volume.file, VolumeRef::Known(volume.id, volume.file)));
        revert::plan(&now, DATA, &wishes, &known.collect()).expect("works")
    }

    /// Nothing is left out that can be had, what is not meant stays, and the change is taken.
    fn go_back(&mut self, prefix: usize, top: Option<&Key>) {
        let plan = self.plan(u64::try_from(prefix).expect("small"), top);
        let (then, now) = (self.models[prefix].clone(), self.now().clone());
        let meant = meant(&then, &now, top);
        let wanted = wanted(&then, &now, &meant);
        if top.is_none() {
            assert_eq!(wanted, Some(seen(&then)));
        }
        let events: Vec<_> = plan.steps.iter().map(|step| step.event.clone()).collect();
        let is_done = events.is_empty() || self.write(events);
        assert!(is_done, "to {prefix} at {top:?}: {plan:#?}");
        if let Some(wanted) = wanted {
            assert_eq!(plan.skipped, [], "to {prefix} at {top:?}: {now:#?}");
            assert_eq!(
                seen(self.now()),
                wanted,
                "to {prefix} at {top:?}: {plan:#?}"
            );
        }
        let others = |model: &Model| {
            let mut stands = stands(model);
            stands.retain(|id, _| !meant.contains(id));
            stands
        };
        let (mut after, before) = (others(self.now()), others(&now));
        // What came back where its old id was in use is new.
        let last = self.world.log.index;
        after.retain(|id, _| before.contains_key(id) || id.index != last);
        assert_eq!(after, before, "to {prefix} at {top:?}: {plan:#?}");
    }

    /// Another node's view, opened anew for each batch, is the same all the time.
    fn replay(&self, other: &MemKv, cuts: &[usize]) {
        let mut rest = self.entries.as_slice();
        for cut in cuts.iter().cycle() {
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            let mut view = View::open(other.clone(), DATA, &genesis()).expect("opens");
            view.apply_batch(now, KvBatch::default()).expect("works");
            let index = self.entries.len() - later.len();
            assert_eq!(view.digest(), self.digests[index], "after {index}");
            if later.is_empty() {
                break;
            }
            rest = later;
        }
        assert_eq!(self.world.kv.rows(), other.rows());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// C8, M4: random trees, renames, removes, and ways back from anywhere to any prefix. View and
    /// model say the same to every change; a way back leads to where the model's past says; and
    /// the tree at every prefix is the model at that prefix, on each of two nodes.
    #[test]
    fn a_past_with_ways_back_is_the_replay_of_its_prefixes(
        deeds in deeds(),
        cuts in proptest::collection::vec(1..9_usize, 1..20),
    ) {
        let world = fold::world();
        let other = world.kv.fork();
        let mut twins = Twins::new(world);
        for deed in &deeds {
            twins.take(deed);
        }
        twins.replay(&other, &cuts);
        for world in [&twins.world, &World::over(other, DATA.0)] {
            every_prefix_is_the_model(world, &twins.models);
        }
        only_what_differs_changed(&twins.world, &twins.models);
    }
}
