//! What happened to names and nodes, against a list of all that happened.

use super::fold::{all, build, plans, world};
use crate::testing::{World, at, made_at as id, put, remove, rename};
use crate::tree::Tree;
use crate::view::{Moment, Tenure};
use aber_proto::{FileId, PartitionId};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

const V: u64 = 1 << 10;
const DATA: PartitionId = PartitionId(1);

fn volume(world: &World) -> FileId {
    world.tree().volumes().expect("works")[0].file
}

#[test]
fn a_name_tells_who_had_it_when() {
    let mut world = world();
    world.done(vec![put(at(V, "a"), "one")]); // 1
    world.done(vec![put(at(V, "a"), "two")]); // 2
    world.done(vec![rename(at(V, "a"), at(V, "b"), false)]); // 3
    world.done(vec![put(at(V, "a"), "other")]); // 4
    world.done(vec![remove(at(V, "a"), None)]); // 5
    world.done(vec![put(at(V, "a"), "new")]); // 6
    let (tree, volume) = (world.tree(), volume(&world));
    let tenure = |index, since, until| Tenure {
        id: id(index),
        since,
        until,
    };
    let [first, second, third] = [
        tenure(1, 1, Some(3)),
        tenure(4, 4, Some(5)),
        tenure(6, 6, None),
    ];
    let had = |range, newest, limit| tree.tenures((volume, "a"), range, newest, limit);
    assert_eq!(had((0, 9), true, 9), Ok(vec![third, second, first]));
    assert_eq!(had((0, 9), false, 9), Ok(vec![first, second, third]));
    assert_eq!(had((0, 9), true, 2), Ok(vec![third, second]));
    assert_eq!(had((0, 9), false, 1), Ok(vec![first]));
    // A range that ends in somebody's time, or begins in it.
    assert_eq!(had((0, 2), true, 9), Ok(vec![first]));
    assert_eq!(had((2, 4), true, 9), Ok(vec![second, first]));
    assert_eq!(had((2, 4), false, 9), Ok(vec![first, second]));
    assert_eq!(had((5, 5), true, 9), Ok(vec![second]));
    assert_eq!(had((7, 9), false, 9), Ok(vec![third]));
    assert_eq!(tree.tenures((volume, "x"), (0, 9), true, 9), Ok(vec![]));
}

/// The newest changes of a node are found by a few reads, wherever in a long history they are.
#[test]
fn the_history_of_one_node_is_not_a_walk_over_all() {
    let mut world = world();
    world.done(vec![put(at(V, "old"), "x")]); // 1
    world.done(vec![put(at(V, "old"), "y")]); // 2
    for count in 0..2000 {
        world.done(vec![put(at(V, "busy"), &count.to_string())]); // 3..=2002
    }
    let tree = world.tree();
    let within = |id, range, newest, limit| {
        // So many reads may be done, not one more.
        world.kv.fail_after(Some(16));
        let found = tree.changes_within(id, range, newest, limit);
        world.kv.fail_after(None);
        found.expect("few reads")
    };
    assert_eq!(within(id(1), (0, 1_000_000), true, 50), [2]);
    assert_eq!(within(id(1), (0, 2002), true, 50), [2]);
    assert_eq!(within(id(1), (3, 2002), true, 50), []);
    let newest: Vec<u64> = (1953..=2002).rev().collect();
    assert_eq!(within(id(3), (0, 2002), true, 50), newest);
    let oldest: Vec<u64> = (4..=53).collect();
    assert_eq!(within(id(3), (0, 2002), false, 50), oldest);
    assert_eq!(within(id(3), (100, 101), false, 50), [100, 101]);
    assert_eq!(within(id(3), (100, 101), true, 50), [101, 100]);
    let all: Vec<u64> = (4..=2002).rev().collect();
    assert_eq!(tree.changes_within(id(3), (0, 5000), true, 5000), Ok(all));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Parts of a range, from either end, are what the whole says; places name what stands there.
    #[test]
    fn parts_are_of_the_whole(plans in plans(), (first, last) in (0..60_u64, 0..60_u64)) {
        let world = build(&plans);
        let (tree, end) = (world.tree(), world.log.index);
        let ids: BTreeSet<FileId> = tree
            .changed(DATA, (0, end), None, usize::MAX)
            .expect("works")
            .into_iter()
            .map(|(_, id)| id)
            .collect();
        for id in ids {
            let mut wanted = tree.changes_of(id, 0).expect("works");
            wanted.retain(|index| (first..=last).contains(index));
            let forward = tree.changes_within(id, (first, last), false, 100);
            prop_assert_eq!(forward, Ok(wanted.clone()));
            wanted.reverse();
            prop_assert_eq!(tree.changes_within(id, (first, last), true, 100), Ok(wanted.clone()));
            wanted.truncate(2);
            prop_assert_eq!(tree.changes_within(id, (first, last), true, 2), Ok(wanted));
        }
        for index in 0..=end {
            let moment = Moment([(PartitionId::CONTROL, u64::MAX), (DATA, index)].into());
            let then = tree.at(Arc::new(moment));
            for ((volume, path), item) in all(&then) {
                let place = at(volume, &path);
                let node = then.at_place(&place).expect("works").expect("stands there");
                prop_assert_eq!(node.id, item.id);
                prop_assert_eq!(then.place_of(&node), Ok(Some(place.clone())));
                let node = then.node(item.id).expect("works").expect("stands there");
                let root = volume_of(volume);
                if !path.contains('/') {
                    let had = tree.tenures((root, &path), (index, index), true, 9).expect("works");
                    let holds = |had: &Tenure| had.since <= index
                        && had.until.is_none_or(|until| until > index);
                    let holder: Vec<_> = had.iter().filter(|had| holds(had)).collect();
                    prop_assert_eq!(holder.len(), 1, "{:?}", had);
                    prop_assert_eq!(holder[0].id, node.id);
                }
            }
        }
    }
}

fn volume_of(volume: u64) -> FileId {
    FileId {
        partition: PartitionId::CONTROL,
        index: volume >> 10,
        ordinal: u32::try_from(volume & 1023).expect("small"),
    }
}
