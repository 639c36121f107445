//! Differences, applied to the first tree, give the second.

use super::*;
use crate::testing::{World, at, make_dir, put, remove, rename};
use crate::view::tests::fold::{all, build, plans, world};
use crate::view::tests::model::Thing;
use proptest::prelude::*;
use std::collections::BTreeMap;

const V: u64 = 1 << 10;
const DATA: PartitionId = PartitionId(1);

/// Kind and mode by path.
type Listing = BTreeMap<TreePath, (Thing, u16)>;

fn moment(index: u64) -> Arc<Moment> {
    Arc::new(Moment([(PartitionId::CONTROL, 1), (DATA, index)].into()))
}

fn differences(world: &World, from: u64, to: u64, path: &str) -> Vec<Difference> {
    let path = TreePath::parse(path).expect("a path");
    let moments = (moment(from), moment(to));
    let mut comparison = Comparison::new(&world.tree(), moments, path).expect("works");
    let mut found = Vec::new();
    while let Some(more) = comparison.more().expect("works") {
        found.extend(more);
    }
    found
}

fn listing(world: &World, index: u64) -> Listing {
    let items = all(&world.tree().at(moment(index))).into_iter();
    let item = |((volume, path), item): ((u64, String), crate::view::tests::model::Item)| {
        let volume = if volume == V { "v" } else { "w" };
        let path = TreePath::parse(&format!("/{volume}/{path}")).expect("a path");
        (path, (item.thing, item.mode))
    };
    items.map(item).collect()
}

fn thing(node: &Node) -> (Thing, u16) {
    let thing = match &node.kind {
        NodeKind::Directory | NodeKind::Volume(_) => Thing::Directory,
        NodeKind::File(content) => Thing::File(content.clone()),
        NodeKind::Symlink(target) => Thing::Symlink(target.clone()),
    };
    (thing, node.mode)
}

/// A path after all renames: that of the deepest one at or above it.
fn moved(path: &TreePath, renames: &BTreeMap<TreePath, TreePath>) -> TreePath {
    let above = renames.keys().filter(|from| path.is_within(from));
    let Some(from) = above.max_by_key(|from| from.as_str().len()) else {
        return path.clone();
    };
    let rest = &path.as_str()[from.as_str().len()..];
    TreePath::parse(&format!("{}{rest}", renames[from])).expect("a path")
}

fn apply(before: &Listing, differences: &[Difference]) -> Listing {
    let path = |standing: &Option<Standing>| standing.as_ref().expect("there").path.clone();
    let is_other = |it: &Difference| {
        let id = |standing: &Option<Standing>| standing.as_ref().map(|it| it.node.id);
        id(&it.before) != id(&it.after)
    };
    let mut left = before.clone();
    for it in differences {
        if it.kind == Kind::Removed || it.kind == Kind::Changed && is_other(it) {
            left.remove(&path(&it.before)).expect("was there");
        }
    }
    let renames = differences.iter().filter(|it| it.kind == Kind::Renamed);
    let renames = renames
        .map(|it| (path(&it.before), path(&it.after)))
        .collect();
    let left = left.into_iter();
    let mut after: Listing = left
        .map(|(path, it)| (moved(&path, &renames), it))
        .collect();
    for it in differences {
        if let (Some(new), false) = (&it.after, it.kind == Kind::Renamed) {
            let stood = after.insert(new.path.clone(), thing(&new.node)).is_some();
            let is_new = it.kind == Kind::Added || is_other(it);
            assert_eq!(stood, !is_new, "{it:?}");
        }
    }
    after
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// The differences from one tree to another are enough to make one of the other, in either
    /// direction; there are none between a tree and itself.
    #[test]
    fn differences_lead_from_one_tree_to_the_other(
        plans in plans(),
        (from, to) in (0..50_u64, 0..50_u64),
    ) {
        let world = build(&plans);
        let end = world.log.index;
        let (from, to) = (from % (end + 1), to % (end + 1));
        let found = differences(&world, from, to, "/");
        prop_assert_eq!(apply(&listing(&world, from), &found), listing(&world, to));
        prop_assert!(differences(&world, to, to, "/").is_empty());
        // Of one directory, what is there at either moment.
        let there = |it: &Difference| [&it.before, &it.after].into_iter().flatten().any(|it| {
            it.path.is_within(&TreePath::parse("/v/a").expect("a path"))
        });
        let mut below = found;
        below.retain(there);
        prop_assert_eq!(differences(&world, from, to, "/v/a"), below);
    }
}

fn told(found: &[Difference]) -> Vec<String> {
    let path = |standing: &Option<Standing>| {
        let path = standing.as_ref().map(|it| it.path.to_string());
        path.unwrap_or_default()
    };
    let line = |it: &Difference| format!("{:?} {} {}", it.kind, path(&it.before), path(&it.after));
    let mut lines: Vec<String> = found.iter().map(line).collect();
    lines.sort();
    lines
}

#[test]
fn a_renamed_directory_is_told_once_and_a_saved_file_as_changed() {
    let mut world = world();
    world.done(vec![make_dir(at(V, "d"))]); // 1
    world.done(vec![put(at(V, "d/f"), "one")]); // 2
    world.done(vec![put(at(V, "d/g"), "one")]); // 3
    world.done(vec![rename(at(V, "d"), at(V, "e"), false)]); // 4
    world.done(vec![put(at(V, "e/f.new"), "two")]); // 5
    world.done(vec![rename(at(V, "e/f.new"), at(V, "e/f"), true)]); // 6
    world.done(vec![put(at(V, "short"), "lived")]); // 7
    world.done(vec![remove(at(V, "short"), None)]); // 8
    assert_eq!(
        told(&differences(&world, 3, 8, "/")),
        ["Added  /v/e/f", "Removed /v/d/f ", "Renamed /v/d /v/e"]
    );
    assert_eq!(
        told(&differences(&world, 4, 8, "/")),
        ["Changed /v/e/f /v/e/f"]
    );
    assert_eq!(
        told(&differences(&world, 8, 4, "/")),
        ["Changed /v/e/f /v/e/f"]
    );
}

#[test]
fn bytes_are_new_where_their_chunk_is() {
    let chunk = |byte, length| ChunkRef {
        hash: ChunkHash([byte; 32]),
        length,
    };
    let before = [chunk(1, 10), chunk(2, 20)];
    let after = [chunk(2, 20), chunk(3, 30), chunk(1, 10), chunk(4, 5)];
    assert_eq!(changed_bytes(&before, &after), 35);
    assert_eq!(changed_bytes(&after, &before), 0);
}
