//! Ways back, against the tree they lead to.

use super::*;
use crate::testing::{World, at, chmod, make_dir, put, remove, rename, symlink};
use crate::view::tests::fold::{all, build, plans};
use crate::view::tests::model::{Key, Thing};
use crate::view::{EntryResult, Moment};
use aber_proto::Event;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

const V: u64 = 1 << 10;
const DATA: PartitionId = PartitionId(1);

fn moment(index: u64) -> Arc<Moment> {
    Arc::new(Moment(
        [(PartitionId::CONTROL, u64::MAX), (DATA, index)].into(),
    ))
}

/// What every node that changed since an entry is to be, and is.
fn wishes(world: &World, since: u64) -> BTreeMap<FileId, Wish> {
    let tree = world.tree();
    let last = world.log.index;
    let changed = tree.changed(DATA, (since, last), None, usize::MAX >> 1);
    let ids: BTreeSet<FileId> = changed
        .expect("works")
        .into_iter()
        .map(|(_, id)| id)
        .collect();
    let then = tree.at(moment(since));
    ids.into_iter()
        .map(|id| {
            let wish = Wish {
                then: then.node(id).expect("works"),
                now: tree.node(id).expect("works"),
            };
            (id, wish)
        })
        .filter(|(_, wish)| wish.then.is_some() || wish.now.is_some())
        .collect()
}

fn volumes(world: &World) -> Volumes {
    let volumes = world.tree().volumes().expect("works");
    let known = volumes
        .into_iter()
        .map(|volume| (volume.file, VolumeRef::Known(volume.id, volume.file)));
    known.collect()
}

fn way_back(world: &World, since: u64) -> Plan {
    let (tree, volumes) = (world.tree(), volumes(world));
    plan(&tree, DATA, &wishes(world, since), &volumes).expect("works")
}

fn events(plan: &Plan) -> Vec<Event> {
    plan.steps.iter().map(|step| step.event.clone()).collect()
}

/// What people see: no ids, no versions.
fn seen(world: &World, index: Option<u64>) -> BTreeMap<Key, (Thing, u16)> {
    let tree = match index {
        Some(index) => world.tree().at(moment(index)),
        None => world.tree(),
    };
    let items = all(&tree).into_iter();
    items
        .map(|(key, item)| (key, (item.thing, item.mode)))
        .collect()
}

/// Goes back to an entry, whole.
fn goes_back(world: &mut World, since: u64) -> Plan {
    let plan = way_back(world, since);
    assert_eq!(plan.skipped, [], "{plan:#?}");
    let result = if plan.steps.is_empty() {
        EntryResult::Applied(Vec::new())
    } else {
        world.write(events(&plan))
    };
    assert!(
        matches!(result, EntryResult::Applied(_)),
        "{result:?}: {plan:#?}"
    );
    assert_eq!(seen(world, None), seen(world, Some(since)), "{plan:#?}");
    plan
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// From whatever happened one way leads back to every moment, in one change; and from there
    /// another one to where it came from: a rollback can be rolled back.
    #[test]
    fn every_moment_can_be_gone_back_to(plans in plans(), back in any::<prop::sample::Index>()) {
        let mut world = build(&plans);
        let last = world.log.index;
        let since = u64::try_from(back.index(usize::try_from(last).expect("small") + 1)).expect("small");
        let end = seen(&world, None);
        goes_back(&mut world, since);
        prop_assert_eq!(seen(&world, Some(last)), end.clone(), "the past stays what it was");
        goes_back(&mut world, last);
        prop_assert_eq!(seen(&world, None), end);
    }
}

#[test]
fn what_was_removed_comes_back_under_its_name() {
    let mut world = crate::view::tests::fold::world();
    world.done(vec![
        make_dir(at(V, "d")),
        put(at(V, "d/f"), "one"),
        symlink(at(V, "d/l")),
    ]);
    world.done(vec![chmod(at(V, "d"), 0o700)]);
    let since = world.log.index;
    world.done(vec![remove(at(V, "d"), Some(99))]);
    let plan = goes_back(&mut world, since);
    let kinds: Vec<Kind> = plan.steps.iter().map(|step| step.kind).collect();
    assert_eq!(kinds, [Kind::Returned; 3]);
    let tree = world.tree();
    for step in &plan.steps {
        assert!(
            tree.node(step.file).expect("works").is_some(),
            "the same nodes"
        );
    }
}

/// A file that came back by hand, or was written anew by somebody, gets the content as a version:
/// its line of versions goes on.
#[test]
fn a_file_in_its_place_gets_the_old_content_as_a_version() {
    let mut world = crate::view::tests::fold::world();
    world.done(vec![put(at(V, "f"), "one")]);
    let since = world.log.index;
    world.done(vec![remove(at(V, "f"), None)]);
    world.done(vec![put(at(V, "f"), "two")]);
    let plan = goes_back(&mut world, since);
    assert_eq!(plan.steps.len(), 1);
    assert_eq!(plan.steps[0].kind, Kind::Replaced);
}

/// Places exchanged in a circle, a directory with what is in it among them.
#[test]
fn circles_are_undone() {
    let mut world = crate::view::tests::fold::world();
    world.done(vec![
        put(at(V, "a"), "a"),
        put(at(V, "b"), "b"),
        make_dir(at(V, "d")),
    ]);
    world.done(vec![make_dir(at(V, "d/e")), put(at(V, "d/e/f"), "f")]);
    let since = world.log.index;
    let mv = |from, to| rename(at(V, from), at(V, to), false);
    world.done(vec![mv("a", "t"), mv("b", "a"), mv("t", "b")]);
    // d/e becomes d, and d goes into it.
    world.done(vec![mv("d/e", "x"), mv("d", "x/d"), mv("x", "d")]);
    goes_back(&mut world, since);
}

/// A directory made since has the place of one that was in it, and goes once that has left it.
#[test]
fn what_is_to_go_steps_aside_for_what_is_in_it() {
    let mut world = crate::view::tests::fold::world();
    world.done(vec![make_dir(at(V, "d")), put(at(V, "d/f"), "f")]);
    let since = world.log.index;
    let mv = |from, to| rename(at(V, from), at(V, to), false);
    world.done(vec![mv("d", "t"), make_dir(at(V, "d")), mv("t", "d/e")]);
    goes_back(&mut world, since);
}

/// A directory that was made anew by hand stands for the one that was removed, mode included.
#[test]
fn a_directory_made_anew_gets_the_mode_it_had() {
    let mut world = crate::view::tests::fold::world();
    world.done(vec![make_dir(at(V, "d")), put(at(V, "d/f"), "f")]);
    world.done(vec![chmod(at(V, "d"), 0o700)]);
    let since = world.log.index;
    world.done(vec![remove(at(V, "d"), Some(99))]);
    world.done(vec![make_dir(at(V, "d"))]);
    goes_back(&mut world, since);
}

/// The guards hold only while nothing has changed.
#[test]
fn a_plan_that_went_stale_does_nothing() {
    for spoil in [
        put(at(V, "f"), "three"),
        remove(at(V, "f"), None),
        put(at(V, "gone"), "again"),
        make_dir(at(V, "new/inside")),
    ] {
        let mut world = crate::view::tests::fold::world();
        world.done(vec![put(at(V, "f"), "one"), put(at(V, "gone"), "x")]);
        let since = world.log.index;
        world.done(vec![
            put(at(V, "f"), "two"),
            remove(at(V, "gone"), None),
            make_dir(at(V, "new")),
        ]);
        let plan = way_back(&world, since);
        assert_eq!(plan.skipped, []);
        world.done(vec![spoil]);
        let before = seen(&world, None);
        let result = world.write(events(&plan));
        assert!(matches!(result, EntryResult::Rejected(_)), "{result:?}");
        assert_eq!(seen(&world, None), before);
    }
}

/// What is not wished away is never touched, whatever is in whose way.
#[test]
fn what_stays_is_not_touched() {
    let mut world = crate::view::tests::fold::world();
    world.done(vec![make_dir(at(V, "d")), put(at(V, "d/f"), "one")]);
    let since = world.log.index;
    world.done(vec![remove(at(V, "d"), Some(99))]);
    world.done(vec![put(at(V, "d"), "a file in the way")]);
    let in_the_way = world.log.index;
    let mut wishes = wishes(&world, since);
    let id = FileId {
        partition: DATA,
        index: in_the_way,
        ordinal: 0,
    };
    assert!(wishes.remove(&id).is_some());
    let volumes = volumes(&world);
    let plan = plan(&world.tree(), DATA, &wishes, &volumes).expect("works");
    assert_eq!(plan.steps, []);
    let why: Vec<Skip> = plan.skipped.iter().map(|(_, why)| *why).collect();
    assert_eq!(why, [Skip::InTheWay(id), Skip::NoParent]);
}
