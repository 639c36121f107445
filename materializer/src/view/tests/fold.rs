//! Random changes: the view against the model, and against itself in other batches.

use super::model::{Item, Key, Model, Thing};
use crate::testing::{MemKv, World, at, copy, event, genesis, make_volume};
use crate::tree::{NodeKind, ROOT, Tree};
use crate::view::digest::Buckets;
use crate::view::table::{Table, inode_of, table_key};
use crate::view::{EntryResult, EventOutcome, Found, Rejection, TreeView, Verdict, View};
use aber_log::env::kv::KvBatch;
use aber_proto::{Attributes, Content, Entry, Event, EventId, FileId, Operation, PartitionId};
use aber_proto::{Place, Precondition, VolumeId};
use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::BTreeMap;

const VOLUMES: [u64; 2] = [1 << 10, 1 << 10 | 1];

/// How an event is guarded; told in terms of what is there when its change is made.
#[derive(Clone, Debug)]
pub(crate) enum Guard {
    Nothing,
    Absent,
    Etag,
    WrongEtag,
    Since(u64),
}

/// An event to be.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    what: u8,
    place: Place,
    other: Place,
    flag: bool,
    guard: Guard,
    back: u64,
    text: String,
    /// Mostly something that exists is meant, and a free name in a directory that exists.
    pick: Option<Index>,
    under: Option<Index>,
}

fn place() -> impl Strategy<Value = Place> {
    let names = proptest::collection::vec(proptest::sample::select(vec!["a", "b", "c"]), 0..5);
    let volume = proptest::sample::select(VOLUMES.to_vec());
    (volume, names).prop_map(|(volume, names)| at(volume, &names.join("/")))
}

fn guard() -> impl Strategy<Value = Guard> {
    prop_oneof![
        12 => Just(Guard::Nothing),
        1 => Just(Guard::Absent),
        4 => Just(Guard::Etag),
        1 => Just(Guard::WrongEtag),
        2 => (0..9_u64).prop_map(Guard::Since),
    ]
}

fn plan() -> impl Strategy<Value = Plan> {
    let paths = (place(), place(), likely(), likely());
    let rest = (0..12_u8, any::<bool>(), guard(), 0..6_u64, "[a-c]{0,3}");
    (paths, rest).prop_map(|((place, other, pick, under), rest)| {
        let (what, flag, guard, back, text) = rest;
        Plan {
            what,
            place,
            other,
            flag,
            guard,
            back,
            text,
            pick,
            under,
        }
    })
}

fn likely() -> impl Strategy<Value = Option<Index>> {
    proptest::option::weighted(0.7, any::<Index>())
}

/// The events of one change.
pub(crate) fn change() -> impl Strategy<Value = Vec<Plan>> {
    proptest::collection::vec(plan(), 1..3)
}

pub(crate) fn plans() -> impl Strategy<Value = Vec<Vec<Plan>>> {
    proptest::collection::vec(change(), 1..50)
}

impl Plan {
    /// The paths that are meant, now that it is known what exists.
    fn aimed(&self, model: &Model) -> Self {
        let mut aimed = self.clone();
        let existing: Vec<_> = model.items.keys().collect();
        let directories: Vec<_> = model
            .items
            .iter()
            .filter(|(_, item)| item.thing == Thing::Directory)
            .map(|(key, _)| key)
            .collect();
        if let Some(index) = self.under.filter(|_| !directories.is_empty()) {
            let (volume, path) = directories[index.index(directories.len())];
            let name = self.other.path.name().unwrap_or("a");
            aimed.other = at(*volume, &format!("{path}/{name}"));
        }
        // What makes something is aimed at the free name; the rest at what exists.
        match self.pick.filter(|_| !existing.is_empty()) {
            Some(index) if self.what > 5 || self.flag => {
                let (volume, path) = existing[index.index(existing.len())];
                aimed.place = at(*volume, path);
            }
            Some(_) => aimed.place = aimed.other.clone(),
            None => {}
        }
        aimed
    }

    fn precondition(&self, model: &Model, place: &Place, index: u64) -> Precondition {
        let mut precondition = Precondition::default();
        let key = (place.volume.0, place.path.as_str().to_owned());
        match self.guard {
            Guard::Nothing => {}
            Guard::Absent => precondition.absent = true,
            Guard::Etag => precondition.etag = model.items.get(&key).map(|item| item.version),
            Guard::WrongEtag => precondition.etag = Some(EventId::default()),
            Guard::Since(back) => precondition.unchanged_since = Some(index.saturating_sub(back)),
        }
        precondition
    }

    pub(crate) fn event(&self, model: &Model, index: u64) -> Event {
        self.aimed(model).to_event(model, index)
    }

    fn to_event(&self, model: &Model, index: u64) -> Event {
        let (place, to, flag) = (self.place.clone(), self.other.clone(), self.flag);
        let content = Content::Inline(Bytes::copy_from_slice(self.text.as_bytes()));
        let attributes = Attributes {
            mode: flag.then_some(0o600),
            ..Attributes::default()
        };
        let mut guarded = &self.place;
        let operation = match self.what {
            0..=3 => Operation::Put {
                place,
                content,
                attributes,
                parents: self.back > 1,
            },
            4 => Operation::MakeDirectory {
                place,
                parents: flag,
            },
            5 => Operation::MakeSymlink {
                place,
                target: "t".to_owned(),
                parents: flag,
            },
            6..=8 => Operation::Rename {
                from: place,
                to,
                replace: flag,
                target: if self.back == 0 {
                    self.precondition(model, &self.other, index)
                } else {
                    Precondition::default()
                },
            },
            9 => {
                guarded = &self.other;
                copy(to, &self.text, flag).operation
            }
            10 => Operation::Remove {
                place,
                recursive: flag,
                base: index.saturating_sub(self.back),
            },
            _ => Operation::SetAttributes {
                place,
                mode: Some(if flag { 0o600 } else { 0o700 }),
                mtime: None,
            },
        };
        Event {
            precondition: self.precondition(model, guarded, index),
            operation,
        }
    }
}

/// A control partition with the two volumes, and partition 1 over the same index.
pub(crate) fn world() -> World {
    let kv = MemKv::default();
    let mut control = World::over(kv.clone(), 0);
    control.done(vec![make_volume("v", 1), make_volume("w", 1)]);
    World::over(kv, 1)
}

/// Entries of these plans, and what the model says to each.
pub(crate) fn history(world: &mut World, plans: &[Vec<Plan>]) -> (Vec<(Entry, Verdict)>, Model) {
    let mut model = Model::default();
    let mut entries = Vec::new();
    for change in plans {
        let index = world.log.index;
        let events: Vec<_> = change
            .iter()
            .map(|plan| plan.event(&model, index))
            .collect();
        entries.push((world.log.write(events.clone()), Verdict::Allowed));
        let _ = model.apply(1, index + 1, &events);
    }
    (entries, model)
}

/// Applies all plans; for tests that need some view.
pub(crate) fn build(plans: &[Vec<Plan>]) -> World {
    let mut world = world();
    let (entries, _) = history(&mut world, plans);
    let batch = world.view.apply_batch(&entries, KvBatch::default());
    assert!(batch.is_ok(), "{batch:?}");
    world
}

fn list(tree: &TreeView<MemKv>, volume: u64, directory: FileId, above: &str) -> Vec<(Key, Item)> {
    let mut items = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = tree
            .children(directory, after.as_deref(), 2)
            .expect("works");
        let Some(last) = page.last() else {
            return items;
        };
        after = Some(last.name.clone());
        for node in page {
            assert_eq!(node.parent, directory);
            let path = format!("{above}{}", node.name);
            if node.is_directory() {
                items.extend(list(tree, volume, node.id, &format!("{path}/")));
            }
            let thing = match node.kind {
                NodeKind::Directory | NodeKind::Volume(_) => Thing::Directory,
                NodeKind::File(content) => Thing::File(content),
                NodeKind::Symlink(target) => Thing::Symlink(target),
            };
            let item = Item {
                id: node.id,
                thing,
                mode: node.mode,
                version: node.version,
                previous: node.previous,
                changed: node.changed,
                moved: 0,
            };
            items.push(((volume, path), item));
        }
    }
}

pub(crate) fn all(tree: &TreeView<MemKv>) -> BTreeMap<Key, Item> {
    let mut items = BTreeMap::new();
    for volume in tree.volumes().expect("works") {
        items.extend(list(tree, volume.id.0, volume.file, ""));
    }
    items
}

/// Each inode of the world's partition is what its path names.
fn every_node_has_its_path(world: &World) {
    let tree = world.tree();
    let prefix = table_key(world.log.partition, Table::Inode);
    let rows = world.kv.rows();
    for (key, _) in rows.iter().filter(|(key, _)| key.starts_with(&prefix)) {
        let id = inode_of(key).expect("a good key");
        let path = tree.path_of(id).expect("works").expect("has a path");
        let found = tree.lookup(&path).expect("works");
        assert!(
            matches!(&found, Found::Node(node) if node.id == id),
            "{id} at {path}: {found:?}"
        );
    }
}

pub(crate) fn without_moved(model: &Model) -> BTreeMap<Key, Item> {
    let blank = |(key, item): (&Key, &Item)| {
        let item = Item {
            moved: 0,
            ..item.clone()
        };
        (key.clone(), item)
    };
    model.items.iter().map(blank).collect()
}

/// What a view says to a change, as the model would.
pub(crate) fn told_by(result: &EntryResult) -> Result<Vec<bool>, (u32, Rejection)> {
    match result {
        EntryResult::Applied(outcomes) => {
            let did = |outcome: &EventOutcome| matches!(outcome, EventOutcome::Done(_));
            Ok(outcomes.iter().map(did).collect())
        }
        EntryResult::Rejected(why) => Err((why.event.expect("an event"), why.reason)),
        other => panic!("{other:?}"),
    }
}

/// The digest over the rows as they stand.
pub(crate) fn digest_of_rows(kv: &MemKv) -> aber_proto::ViewDigest {
    let mut buckets = Buckets::new();
    for (key, value) in kv.rows() {
        let of_view = key[..5] == *b"V\0\0\0\x01";
        if of_view && Table::of(&key).is_some_and(Table::is_digested) {
            buckets.add(&key, &value);
        }
    }
    buckets.digest()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// C8, CO-1, TR-1 to TR-10: outcomes and trees are the model's.
    #[test]
    fn c8_the_view_does_what_the_model_does(plans in plans()) {
        let mut world = world();
        let mut model = Model::default();
        for change in &plans {
            let index = world.log.index;
            let events: Vec<_> = change.iter().map(|plan| plan.event(&model, index)).collect();
            let said = model.apply(1, index + 1, &events);
            let found = told_by(&world.write(events.clone()));
            prop_assert_eq!(found, said, "{:?}", events);
        }
        let tree = world.tree();
        prop_assert_eq!(all(&tree), without_moved(&model));
        every_node_has_its_path(&world);
        let sizes: Vec<u64> = model.items.values().filter_map(|item| match &item.thing {
            Thing::File(content) => Some(content.size()),
            _ => None,
        }).collect();
        prop_assert_eq!(world.view.applied().files, sizes.len() as u64);
        prop_assert_eq!(world.view.applied().bytes, sizes.iter().sum::<u64>());
    }

    /// C8, M4: rows and digest do not depend on how entries are batched, nor on restarts between.
    #[test]
    fn m4_batches_do_not_matter(plans in plans(), cuts in proptest::collection::vec(1..9_usize, 40)) {
        let mut one = world();
        let other = one.kv.fork();
        let (entries, _) = history(&mut one, &plans);
        for entry in &entries {
            let single = std::slice::from_ref(entry);
            one.view.apply_batch(single, KvBatch::default()).expect("works");
        }
        let mut rest = entries.as_slice();
        let mut digest = None;
        for cut in cuts {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            let mut view = View::open(other.clone(), PartitionId(1), &genesis()).expect("opens");
            view.apply_batch(now, KvBatch::default()).expect("works");
            prop_assert!(now.is_empty() || digest != Some(view.digest()));
            digest = Some(view.digest());
            rest = later;
        }
        prop_assert_eq!(one.kv.rows(), other.rows());
        prop_assert_eq!(Some(one.view.digest()), digest);
        prop_assert_eq!(digest_of_rows(&other), one.view.digest());
    }

    /// An index that fails at any call leaves view and rows as they were.
    #[test]
    fn a_failing_index_fails_the_whole_batch(plans in plans(), calls in 0..200_u64) {
        let mut world = world();
        let (entries, _) = history(&mut world, &plans);
        let (first, second) = entries.split_at(entries.len() / 2);
        world.view.apply_batch(first, KvBatch::default()).expect("works");
        let (rows, applied) = (world.kv.rows(), world.view.applied().clone());
        let digest = world.view.digest();
        world.kv.fail_after(Some(calls));
        let failed = world.view.apply_batch(second, KvBatch::default());
        world.kv.fail_after(None);
        if failed.is_err() {
            prop_assert_eq!(&rows, &world.kv.rows());
            prop_assert_eq!(&applied, world.view.applied());
            prop_assert_eq!(digest, world.view.digest());
            world.view.apply_batch(second, KvBatch::default()).expect("works");
        }
        prop_assert_eq!(digest_of_rows(&world.kv), world.view.digest());
    }

    /// C8, S2: events of the control partition in any order, mixed with those of files.
    #[test]
    fn c8_a_control_partition_takes_anything(
        steps in proptest::collection::vec((0..6_u8, 0..4_u64, "[a-c]", "[a-c](/[a-c])?"), 1..40),
    ) {
        let mut world = World::new(0);
        for (what, volume, name, path) in steps {
            let id = VolumeId(volume << 10);
            let operation = match what {
                0 => make_volume(&name, u32::try_from(volume).expect("small")).operation,
                1 => Operation::RenameVolume { volume: id, name },
                2 => Operation::RemoveVolume { volume: id },
                3 => crate::testing::put(at(volume << 10, &path), "x").operation,
                4 => crate::testing::make_dir(at(volume << 10, &path)).operation,
                _ => crate::testing::rename(at(volume << 10, &name), at(0, &path), true).operation,
            };
            world.write(vec![event(operation)]);
            let tree = world.tree();
            let top = tree.children(ROOT, None, 99).expect("works");
            let volumes = tree.volumes().expect("works");
            let named = top.iter().filter(|node| node.is_directory()).count();
            prop_assert_eq!(named, volumes.len());
            prop_assert!(top.iter().all(|node| node.kind != NodeKind::Directory));
            every_node_has_its_path(&world);
        }
    }
}
