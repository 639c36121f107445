//! Pruning against brute force: every moment is looked at before and after (promise D8).

use super::fold::{Plan, plans};
use super::model::Model;
use crate::testing::{MemKv, World, at, chunked, event, make_volume, put, remove};
use crate::tree::{Node, NodeKind, Tree};
use crate::view::table::{self, Table};
use crate::view::{Moment, Release, TreeView, Volume, is_forgotten};
use aber_log::env::kv::KvProblem;
use aber_proto::{Attributes, ChunkHash, Content, Event, EventId, FileId, Operation, PartitionId};
use aber_proto::{Retention, Timestamp, VolumeId};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const V: u64 = 1 << 10;
const DATA: PartitionId = PartitionId(1);
const NOW: Timestamp = Timestamp(77);

fn tag(name: &str, index: u64) -> Event {
    event(Operation::SetTag {
        name: name.to_owned(),
        moment: (index > 0).then_some((DATA, index)).into_iter().collect(),
        comment: String::new(),
    })
}

fn keep(volume: u64, retention: Retention) -> Event {
    event(Operation::SetRetention {
        volume: VolumeId(volume),
        retention,
    })
}

/// The control partition with two volumes, and partition 1, which holds both.
fn worlds() -> (World, World) {
    let kv = MemKv::default();
    let mut control = World::over(kv.clone(), 0);
    control.done(vec![make_volume("v", 1), make_volume("w", 1)]);
    (control, World::over(kv, 1))
}

fn moment(index: u64) -> Arc<Moment> {
    Arc::new(Moment(
        [(PartitionId::CONTROL, u64::MAX), (DATA, index)].into(),
    ))
}

/// Everything in a volume, by path, as of a moment.
fn look(
    tree: &TreeView<MemKv>,
    index: u64,
    volume: &Volume,
) -> Result<BTreeMap<String, Node>, KvProblem> {
    let then = tree.at(moment(index));
    let mut found = BTreeMap::new();
    let mut open = vec![(volume.file, String::new())];
    while let Some((directory, above)) = open.pop() {
        for node in then.children(directory, None, 1000)? {
            let path = format!("{above}/{}", node.name);
            if node.kind == NodeKind::Directory {
                open.push((node.id, path.clone()));
            }
            found.insert(path, node);
        }
    }
    Ok(found)
}

/// As a node does it.
fn prune(tree: &TreeView<MemKv>) -> Result<u64, KvProblem> {
    let plan = tree.plan_prune(DATA, None)?;
    let (mut from, mut count) = (None, 0);
    loop {
        let pruned = tree.prune_page(&plan, from, NOW)?;
        count += pruned.versions;
        from = pruned.next;
        if from.is_none() {
            break;
        }
    }
    let mut names = tree.prune_names(&plan);
    while names.next_page()?.is_some() {}
    Ok(count)
}

type Versions = BTreeMap<(FileId, EventId), u64>;

/// Versions that are not present, and their bytes.
fn versions(kv: &MemKv) -> Versions {
    let prefix = table::table_key(DATA, Table::Version);
    let rows = kv.rows();
    let rows = rows.iter().filter(|(key, _)| key.starts_with(&prefix));
    rows.map(|(key, value)| {
        let mut file = [0; EventId::BYTES];
        file[3] = 1;
        file[4..].copy_from_slice(&key[6..18]);
        let version = table::version_of(DATA, key).expect("a good key");
        let row: table::VersionRow = table::Row::decode(key, value).expect("a good row");
        ((EventId::from_key(file), version), row.content.size())
    })
    .collect()
}

/// What is known of a version by looking at every moment.
struct Seen {
    shown: BTreeSet<u64>,
    replaced: u64,
    volume: Option<u64>,
}

/// Where something is, or its last directory is or was.
fn home(tree: &TreeView<MemKv>, last: u64, id: FileId) -> Option<u64> {
    if id.partition == PartitionId::CONTROL {
        return Some(VolumeId::made_by(id).0);
    }
    let mut moments = (0..=last).rev().map(|index| tree.at(moment(index)));
    let node = moments.find_map(|then| then.node(id).expect("works"))?;
    home(tree, last, node.parent)
}

fn seen(tree: &TreeView<MemKv>, last: u64, file: FileId, version: EventId) -> Seen {
    let mut seen = Seen {
        shown: BTreeSet::new(),
        replaced: version.index,
        volume: home(tree, last, file),
    };
    for index in 0..=last {
        let then = tree.at(moment(index));
        let Some(node) = then.node(file).expect("works") else {
            continue;
        };
        if node.version == version {
            seen.shown.insert(index);
            seen.replaced = index + 1;
        }
    }
    seen
}

/// What is to be left, by the words of the policy.
fn expected(
    (all, seen): (&Versions, &BTreeMap<(FileId, EventId), Seen>),
    present: &BTreeSet<(FileId, EventId)>,
    (kept, cuts): (&[(u64, Retention); 2], &BTreeMap<u64, u64>),
    tags: &BTreeSet<u64>,
) -> Versions {
    let tagged = |key: &(FileId, EventId)| seen[key].shown.intersection(tags).next().is_some();
    let goes = |key: &(FileId, EventId)| {
        let known = &seen[key];
        let Some(volume) = known.volume else {
            let both: Option<Vec<u64>> = kept.iter().map(|(v, _)| cuts.get(v).copied()).collect();
            return both.is_some_and(|both| known.replaced <= both[0].min(both[1]));
        };
        let (_, retention) = kept
            .iter()
            .find(|(id, _)| *id == volume)
            .expect("one of two");
        match retention {
            Retention::Forever => false,
            Retention::Age(_) => known.replaced <= cuts[&volume],
            Retention::Versions(count) => {
                let newer = all.keys().chain(present).filter(|other| other.0 == key.0);
                newer.filter(|other| other.1 > key.1).count() as u64 >= *count
            }
            Retention::Size(bytes) => {
                // All that is as new or newer, and whatever a tag shows, has to fit.
                let counted = all
                    .iter()
                    .filter(|(other, _)| seen[*other].volume == Some(volume));
                let counted = counted
                    .filter(|(other, _)| tagged(other) || seen[*other].replaced >= known.replaced);
                counted.map(|(_, bytes)| *bytes).sum::<u64>() > *bytes
            }
        }
    };
    let stays = |key: &(FileId, EventId)| tagged(key) || !goes(key);
    let left = all.iter().filter(|(key, _)| stays(key));
    left.map(|(key, bytes)| (*key, *bytes)).collect()
}

fn retention() -> impl Strategy<Value = Retention> {
    prop_oneof![
        1 => Just(Retention::Forever),
        8 => (1..40_000_u64).prop_map(Retention::Age),
        2 => (1..4_u64).prop_map(Retention::Versions),
        2 => (0..12_u64).prop_map(Retention::Size),
    ]
}

fn build(
    plans: &[Vec<Plan>],
    tags: &[u64],
    kept: &[(u64, Retention); 2],
) -> (World, BTreeSet<u64>) {
    let (mut control, mut world) = worlds();
    let mut model = Model::default();
    for change in plans {
        let index = world.log.index;
        let events: Vec<_> = change
            .iter()
            .map(|plan| plan.event(&model, index))
            .collect();
        let entry = world.log.write(events.clone());
        world.apply(entry, crate::view::Verdict::Allowed);
        let _rejected = model.apply(1, index + 1, &events).is_err();
    }
    let places: BTreeSet<u64> = tags.iter().map(|tag| tag % (world.log.index + 1)).collect();
    let named = places.iter().map(|place| tag(&format!("t{place}"), *place));
    let kept = kept
        .iter()
        .map(|(volume, retention)| keep(*volume, *retention));
    control.done(named.chain(kept).collect());
    (world, places)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// What the policy or a tag keeps stays, all else goes; what is present, and the digest, are as
    /// before; each moment shows what it showed, or says that it is forgotten and is rightly so; and
    /// whoever stops anywhere gets there the next time.
    #[test]
    fn d8_only_what_retention_lets_go_goes(
        plans in plans(),
        tags in proptest::collection::vec(any::<u64>(), 0..3),
        (one, other) in (retention(), retention()),
        fails in 0..60_u64,
    ) {
        let kept = [(V, one), (V + 1, other)];
        let (world, tags) = build(&plans, &tags, &kept);
        let (tree, last) = (world.tree(), world.log.index);
        let volumes = tree.volumes().expect("works");
        let before: Vec<Vec<_>> = (0..=last)
            .map(|index| volumes.iter().map(|volume| look(&tree, index, volume).expect("all is there")).collect())
            .collect();
        let all = versions(&world.kv);
        let known: BTreeMap<_, _> = all.keys().map(|key| (*key, seen(&tree, last, key.0, key.1))).collect();
        let present = before.iter().rev().take(1).flatten().flat_map(BTreeMap::values);
        let present = present.map(|node| (node.id, node.version)).collect();
        let newest = world.view.applied().order_time.0;
        let cuts: BTreeMap<u64, u64> = kept.iter().filter_map(|(volume, retention)| match retention {
            // The last entry that is as old as the age says.
            Retention::Age(age) => Some((*volume, (0..=last).rev().find(|index| {
                let happened = tree.happened(DATA, *index).expect("works");
                happened.is_none_or(|happened| happened.order_time.0 <= newest - age.cast_signed())
            }).unwrap_or(0))),
            _ => None,
        }).collect();
        let left = expected((&all, &known), &present, (&kept, &cuts), &tags);

        let torn = TreeView::new(world.kv.fork());
        world.kv.fail_after(None);
        let count = prune(&tree).expect("works");
        let known = known.iter().map(|(key, seen)| (key, (&seen.shown, seen.replaced, seen.volume))).collect::<Vec<_>>();
        prop_assert_eq!(versions(&world.kv), left.clone(), "{:?} {:?} {:?} {:?}", kept, cuts, tags, known);
        prop_assert_eq!(count, (all.len() - left.len()) as u64);
        for (index, before) in (0..).zip(&before) {
            for (volume, before) in volumes.iter().zip(before) {
                let after = look(&tree, index, volume);
                let horizon = cuts.get(&volume.id.0).copied().unwrap_or(0);
                let shows_gone = before.values().any(|node| {
                    let key = (node.id, node.version);
                    all.contains_key(&key) && !left.contains_key(&key)
                });
                let may_fail = !tags.contains(&index) && (index < horizon || shows_gone);
                match after {
                    Ok(after) => prop_assert_eq!(&after, before, "{} at {}", volume.name, index),
                    Err(problem) => prop_assert!(may_fail && is_forgotten(&problem), "{} at {}: {}", volume.name, index, problem),
                }
                if may_fail && index < horizon {
                    prop_assert!(look(&tree, index, volume).is_err());
                }
            }
        }
        let digest = crate::view::View::open(world.kv.clone(), DATA, &crate::testing::genesis());
        prop_assert_eq!(digest.expect("opens").digest(), world.view.digest());
        let rows = world.kv.rows();
        prop_assert_eq!(prune(&tree), Ok(0));
        prop_assert_eq!(world.kv.rows(), rows.clone());

        torn.kv.fail_after(Some(fails));
        let _stopped = prune(&torn).is_err();
        torn.kv.fail_after(None);
        prune(&torn).expect("works");
        prop_assert_eq!(torn.kv.rows(), rows);
    }
}

fn put_chunk(path: &str, seed: u8) -> Event {
    event(Operation::Put {
        place: at(V, path),
        content: chunked(seed, 5000),
        attributes: Attributes::default(),
        parents: false,
    })
}

fn referenced(tree: &TreeView<MemKv>, seeds: std::ops::Range<u8>) -> Vec<u8> {
    let is_there = |seed: &u8| tree.is_referenced(&ChunkHash([*seed; 32])).expect("works");
    seeds.filter(is_there).collect()
}

fn contents(tree: &TreeView<MemKv>) -> Vec<Content> {
    tree.contents(DATA, None, 1000).expect("works").0
}

/// D8: a chunk loses its reference when no version is left that has it, after the time of grace, and
/// one that a change names meanwhile has it again.
#[test]
fn d8_references_go_when_nothing_has_the_chunk() {
    let (mut control, mut world) = worlds();
    let versions = [1, 2, 3, 6].map(|seed| ("a", seed));
    for (path, seed) in versions.into_iter().chain([("b", 1), ("c", 4), ("c", 5)]) {
        world.done(vec![put_chunk(path, seed)]);
    }
    control.done(vec![keep(V, Retention::Versions(1))]);
    let tree = world.tree();
    assert_eq!(prune(&tree), Ok(4));
    assert_eq!(tree.gone(None, 10).expect("works").0.len(), 4);
    assert_eq!(referenced(&tree, 0..9), [1, 2, 3, 4, 5, 6], "in grace");
    let early = tree.begin_release(Timestamp(NOW.0 - 1), 100);
    assert!(early.expect("works").is_empty());
    let mut release = tree.begin_release(NOW, 100).expect("works");
    let look = |release: &mut Release| -> Vec<_> {
        let all = contents(&tree);
        all.iter()
            .flat_map(|content| release.spare(content))
            .collect()
    };
    assert_eq!(look(&mut release), [ChunkHash([1; 32])], "b has it still");
    // Changes name one chunk before the references go, and one afterwards.
    world.done(vec![put_chunk("d", 4)]);
    tree.drop_references(&release).expect("works");
    world.done(vec![put_chunk("e", 2)]);
    assert_eq!(referenced(&tree, 0..9), [1, 2, 5, 6]);
    let again = look(&mut release);
    assert_eq!(again, [4, 2].map(|seed| ChunkHash([seed; 32])));
    tree.refer(again).expect("works");
    assert_eq!(tree.end_release(release), Ok(1));
    assert_eq!(referenced(&tree, 0..9), [1, 2, 4, 5, 6]);
    assert!(tree.gone(None, 10).expect("works").0.is_empty());
}

/// A tag that is set after the names it would show went does not bring them back, and one that was
/// removed keeps nothing any more.
#[test]
fn a_horizon_stays_where_it_is() {
    let (mut control, mut world) = worlds();
    for text in ["one", "two"] {
        world.done(vec![put(at(V, "a"), text)]);
    }
    world.done(vec![remove(at(V, "a"), None)]);
    world.done(vec![put(at(V, "b"), "x")]);
    let short = [V, V + 1].map(|volume| keep(volume, Retention::Age(1)));
    control.done([vec![tag("first", 1)], short.to_vec()].concat());
    let tree = world.tree();
    let volume = tree.volumes().expect("works")[0].clone();
    let shows = |index| look(&tree, index, &volume).map(|found| found.into_keys().collect());
    let names = |names: &[&str]| {
        Ok(names
            .iter()
            .map(|name| format!("/{name}"))
            .collect::<Vec<_>>())
    };
    assert_eq!(prune(&tree), Ok(1));
    assert_eq!(shows(1), names(&["a"]));
    assert_eq!((shows(3), shows(4)), (names(&[]), names(&["b"])));
    control.done(vec![tag("late", 2)]);
    assert_eq!(prune(&tree), Ok(0));
    assert!(shows(2).is_err_and(|problem| is_forgotten(&problem)));
    assert_eq!(shows(1), names(&["a"]));
    let gone = event(Operation::RemoveTag {
        name: "first".to_owned(),
    });
    control.done(vec![gone]);
    assert_eq!(prune(&tree), Ok(1));
    assert!(shows(1).is_err_and(|problem| is_forgotten(&problem)));
    control.done(vec![keep(V, Retention::Forever)]);
    assert_eq!(prune(&tree), Ok(0));
    assert!(shows(1).is_err(), "what went does not come back");
}
