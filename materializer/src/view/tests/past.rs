//! The past, against the model at every prefix.

mod rollback;

use super::fold::{all, plans, without_moved, world};
use super::model::Model;
use crate::testing::{World, at, made_at as id, make_dir, put, remove, rename};
use crate::tree::Tree;
use crate::view::{Fate, Moment, Rejection, Verdict};
use aber_log::env::kv::KvBatch;
use aber_proto::{Entry, FileId, PartitionId, Timestamp, TreePath};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

const V: u64 = 1 << 10;
const DATA: PartitionId = PartitionId(1);

/// All of the control partition, and this much of partition 1.
fn moment(index: u64) -> Arc<Moment> {
    Arc::new(Moment(
        [(PartitionId::CONTROL, u64::MAX), (DATA, index)].into(),
    ))
}

/// Every node that an entry of this range changed, in pages of two.
fn changed(world: &World, after: u64, to: u64) -> BTreeSet<FileId> {
    let (tree, mut found, mut last) = (world.tree(), BTreeSet::new(), None);
    loop {
        let page = tree.changed(DATA, (after, to), last, 2).expect("works");
        let Some(end) = page.last() else { return found };
        last = Some(*end);
        found.extend(page.into_iter().map(|(_, id)| id));
    }
}

/// The tree at each prefix of the log is the model after as many entries.
fn every_prefix_is_the_model(world: &World, models: &[Model]) {
    let tree = world.tree();
    for (index, model) in (0..).zip(models) {
        let then = tree.at(moment(index));
        assert_eq!(all(&then), without_moved(model), "after {index}");
        for (key, item) in &model.items {
            let volume = if key.0 == V { "v" } else { "w" };
            let path = TreePath::parse(&format!("/{volume}/{}", key.1)).expect("a path");
            assert_eq!(then.path_of(item.id), Ok(Some(path)), "after {index}");
        }
    }
}

/// What an entry changed is what is another node, or none, after it.
fn only_what_differs_changed(world: &World, models: &[Model]) {
    let tree = world.tree();
    for (before, pair) in (0..).zip(models.windows(2)) {
        let after = before + 1;
        let items = pair.iter().flat_map(|model| model.items.values());
        let mut seen: BTreeSet<_> = items.map(|item| item.id).collect();
        // What lies below something that was renamed has another path, and is not changed.
        seen.retain(|id| {
            let node = |index| tree.at(moment(index)).node(*id).expect("works");
            node(before) != node(after)
        });
        assert_eq!(changed(world, before, after), seen, "by {after}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(384))]

    /// The tree at each prefix of the log is the model at that prefix, however the entries were
    /// batched, and what differs between two prefixes is among what their entries changed.
    #[test]
    fn every_moment_is_the_replay_of_a_prefix(
        plans in plans(),
        cuts in proptest::collection::vec(1..9_usize, 40),
    ) {
        let mut world = world();
        let mut model = Model::default();
        let mut models = vec![model.clone()];
        let mut entries: Vec<(Entry, Verdict)> = Vec::new();
        for change in &plans {
            let index = world.log.index;
            let events: Vec<_> = change.iter().map(|plan| plan.event(&model, index)).collect();
            entries.push((world.log.write(events.clone()), Verdict::Allowed));
            let _rejected = model.apply(1, index + 1, &events).is_err();
            models.push(model.clone());
        }
        let mut cuts = cuts.into_iter();
        while !entries.is_empty() {
            let count = cuts.next().unwrap_or(5).min(entries.len());
            let batch: Vec<_> = entries.drain(..count).collect();
            world.view.apply_batch(&batch, KvBatch::default()).expect("works");
        }
        every_prefix_is_the_model(&world, &models);
        only_what_differs_changed(&world, &models);
    }
}

#[test]
fn a_name_tells_who_had_it_and_a_node_what_changed_it() {
    let mut world = world();
    world.done(vec![put(at(V, "a"), "one")]); // 1
    world.done(vec![put(at(V, "a"), "two")]); // 2
    world.done(vec![rename(at(V, "a"), at(V, "b"), false)]); // 3
    world.done(vec![put(at(V, "a"), "other")]); // 4
    world.done(vec![remove(at(V, "a"), None)]); // 5
    world.done(vec![remove(at(V, "b"), None)]); // 6
    let tree = world.tree();
    let volume = tree.volumes().expect("works")[0].file;
    assert_eq!(tree.holders_of_name(volume, "a"), Ok(vec![id(1), id(4)]));
    assert_eq!(tree.holders_of_name(volume, "b"), Ok(vec![id(1)]));
    assert_eq!(tree.holders_of_name(volume, "c"), Ok(vec![]));
    assert_eq!(tree.changes_of(id(1), 0), Ok(vec![2, 3, 6]));
    assert_eq!(tree.changes_of(id(1), 2), Ok(vec![3, 6]));
    assert_eq!(tree.changes_of(id(4), 0), Ok(vec![5]));
}

/// Away and back in one change: the name says the same before and after, and stood all the time.
#[test]
fn a_name_that_left_and_came_back_at_once_stood_before() {
    let mut world = world();
    world.done(vec![put(at(V, "a"), "one")]); // 1
    let mv = |from, to| rename(at(V, from), at(V, to), false);
    world.done(vec![mv("a", "b"), mv("b", "a")]); // 2
    for index in [1, 2] {
        let then = world.tree().at(moment(index));
        let path = TreePath::parse("/v/a").expect("a path");
        let found = then.lookup(&path).expect("works");
        assert!(
            matches!(found, crate::view::Found::Node(_)),
            "after {index}"
        );
    }
}

/// Order times never fall in history, whatever leaders said; a time picks the last entry at or
/// before it.
#[test]
fn a_time_picks_the_last_entry_that_is_not_later() {
    let mut world = world();
    for (name, ahead_ms) in [("a", 0), ("b", 1000), ("c", -1000), ("d", 0)] {
        world.log.ahead_ms = ahead_ms;
        world.done(vec![put(at(V, name), "x")]);
    }
    let tree = world.tree();
    let clamped: Vec<_> = (1..=4)
        .map(|index| tree.happened(DATA, index).expect("works").expect("applied"))
        .map(|happened| happened.order_time.0)
        .collect();
    assert_eq!(clamped, [1000, 3000, 3000, 4000]);
    for (time, index) in [
        (999, 0),
        (1000, 1),
        (2999, 1),
        (3000, 3),
        (3999, 3),
        (4000, 4),
    ] {
        assert_eq!(
            tree.index_at(DATA, Timestamp(time)),
            Ok(Some(index)),
            "{time}"
        );
    }
    assert_eq!(tree.index_at(PartitionId(2), Timestamp(5)), Ok(None));
}

#[test]
fn what_became_of_an_entry_is_remembered() {
    let mut world = world();
    world.done(vec![make_dir(at(V, "d"))]);
    world.refused(vec![put(at(V, "e"), "x"), remove(at(V, "x"), None)]);
    let change = world.log.change(vec![make_dir(at(V, "f"))]);
    let entry = world.log.order(&change);
    world.apply(entry, Verdict::Refused(Rejection::NotAllowed));
    let fate = |index| world.tree().happened(DATA, index).expect("works");
    let told = |index| fate(index).map(|happened| happened.fate);
    assert_eq!(told(1), Some(Fate::Applied));
    assert_eq!(told(2), Some(Fate::Rejected(Rejection::NotFound, Some(1))));
    assert_eq!(told(3), Some(Fate::Rejected(Rejection::NotAllowed, None)));
    assert_eq!(told(4), None);
    assert_eq!(
        fate(1).and_then(|happened| happened.author),
        Some(change.author)
    );
}
