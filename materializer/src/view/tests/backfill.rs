//! The past from before a snapshot, told afterwards (promises I3, M4).

use super::fold::{history, plans, world};
use crate::snapshot::{SnapshotInstall, SnapshotWriter};
use crate::testing::{MemKv, World, at, genesis, make_dir, put};
use crate::view::{Backfill, BackfillProblem, Moment, Verdict, View, ViewProblem};
use aber_log::env::kv::KvBatch;
use aber_proto::{Entry, PartitionId};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

const P: PartitionId = PartitionId(1);
const V: u64 = 1 << 10;

/// Entries between two digests, in these tests.
const COMPARED: u64 = 4;

type Judged = Vec<(Entry, Verdict)>;

/// Applies entries in batches that end where views are compared.
fn apply(view: &mut View<MemKv>, entries: &[(Entry, Verdict)]) {
    view.compare_every(COMPARED);
    let ends = |(entry, _): &(Entry, Verdict)| entry.log_id.index.is_multiple_of(COMPARED);
    for part in entries.split_inclusive(ends) {
        let applied = view.apply_batch(part, KvBatch::default());
        applied.expect("good entries");
    }
}

/// An index that began with a snapshot of another.
fn from_snapshot(kv: &MemKv) -> (MemKv, View<MemKv>) {
    let mut writer = SnapshotWriter::begin(kv.clone(), P).expect("a view");
    let target = MemKv::default();
    let mut install = SnapshotInstall::new(target.clone(), P, Arc::new(genesis()));
    while let Some(piece) = writer.next_piece().expect("works") {
        install.push(&piece).expect("good");
    }
    (target, install.finish().expect("good"))
}

/// All rows but those of the control partition, which lies in the same index at some.
fn rows(kv: &MemKv) -> BTreeMap<Bytes, Bytes> {
    let mut rows = kv.rows();
    rows.retain(|key, _| key.get(1..5) != Some(&[0; 4]));
    rows
}

fn open(kv: &MemKv) -> Option<Backfill<MemKv>> {
    let mut view = View::open(kv.clone(), P, &genesis()).expect("opens");
    view.compare_every(COMPARED);
    Backfill::of(&view, &genesis()).expect("the index works")
}

fn from(entries: &Judged, index: u64, count: usize) -> Judged {
    let wanted = entries
        .iter()
        .filter(|(entry, _)| entry.log_id.index >= index);
    wanted.take(count).cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Wherever the snapshot was made, however the entries come back, whatever is applied meanwhile
    /// and however often it is interrupted: in the end the rows are those of who replayed it all.
    #[test]
    fn a_view_of_a_snapshot_ends_as_one_of_the_log(
        plans in plans(),
        cut in any::<proptest::sample::Index>(),
        steps in proptest::collection::vec((1..7_usize, any::<bool>()), 1..20),
    ) {
        let mut whole = world();
        let (entries, _) = history(&mut whole, &plans);
        let cut = 1 + cut.index(entries.len());
        apply(&mut whole.view, &entries[..cut]);
        let (kv, mut view) = from_snapshot(&whole.kv);
        apply(&mut whole.view, &entries[cut..]);
        let start = entries[cut - 1].0.log_id.index;
        let tree = crate::view::TreeView::new(kv.clone());
        let mut fold = open(&kv).expect("a snapshot skipped something");
        let mut later = cut;
        for (count, is_reopened) in steps.iter().cycle() {
            prop_assert_eq!(tree.history_start(P), Ok(start));
            if later < entries.len() {
                let end = (later + count).min(entries.len());
                apply(&mut view, &entries[later..end]);
                later = end;
            }
            if fold.apply(from(&entries, fold.next(), *count)).expect("follows") {
                break;
            }
            if *is_reopened {
                fold = open(&kv).expect("not at its end");
            }
        }
        apply(&mut view, &entries[later..]);
        prop_assert_eq!(rows(&kv), rows(&whole.kv));
        prop_assert!(open(&kv).is_none());
    }
}

fn small() -> (World, Judged) {
    let mut world = World::new(1);
    let mut entries = Vec::new();
    for events in [
        vec![make_dir(at(V, "d")), put(at(V, "d/f"), "one")],
        vec![put(at(V, "d/f"), "two")],
        vec![put(at(V, "d/g"), "three")],
    ] {
        let entry = world.log.write(events);
        entries.push((entry.clone(), Verdict::Allowed));
        world.apply(entry, Verdict::Allowed);
    }
    (world, entries)
}

/// After a crash at any commit it goes on, and ends the same.
#[test]
fn a_crash_in_the_middle_costs_nothing_but_time() {
    let (world, entries) = small();
    for calls in 0.. {
        let (kv, view) = from_snapshot(&world.kv);
        kv.fail_after(Some(calls));
        let fold = || -> Result<(), BackfillProblem> {
            while let Some(mut fold) = Backfill::of(&view, &genesis())? {
                fold.apply(from(&entries, fold.next(), 1))?;
            }
            Ok(())
        };
        let result = fold();
        kv.fail_after(None);
        fold().expect("the second time it works");
        assert_eq!(rows(&kv), rows(&world.kv));
        if result.is_ok() {
            assert!(calls > 10, "calls did fail");
            break;
        }
    }
}

#[test]
fn moments_before_the_snapshot_are_told_then() {
    let (world, entries) = small();
    let (kv, view) = from_snapshot(&world.kv);
    let mut fold = open(&kv).expect("skipped");
    assert_eq!(fold.apply(entries), Ok(true));
    let tree = crate::view::TreeView::new(kv);
    assert_eq!(tree.history_start(P), Ok(0));
    let then = tree.at(Arc::new(Moment(BTreeMap::from([(P, 1)]))));
    let d = view.nodes(None, 1).expect("works")[0];
    let names = |tree: &crate::view::TreeView<MemKv>| -> Vec<String> {
        let nodes = crate::tree::Tree::children(tree, d, None, 9).expect("works");
        nodes.into_iter().map(|node| node.name).collect()
    };
    assert_eq!(names(&then), ["f"]);
    assert_eq!(names(&tree), ["f", "g"]);
}

/// M4: a snapshot that says what the log does not give is found out.
#[test]
fn another_view_than_the_logs_is_found_out() {
    let (world, _) = small();
    // The same chain, judged otherwise by whoever made the snapshot.
    let (mut liar, entries) = (World::new(1), small().1);
    for (number, (entry, _)) in entries.iter().enumerate() {
        let verdict = match number {
            1 => Verdict::Refused(crate::view::Rejection::NotAMember),
            _ => Verdict::Allowed,
        };
        liar.apply(entry.clone(), verdict);
    }
    assert_eq!(liar.view.applied().chain, world.view.applied().chain);
    let (kv, _) = from_snapshot(&liar.kv);
    let mut fold = open(&kv).expect("skipped");
    let (partition, index) = (P, 3);
    let other = BackfillProblem::OtherView { partition, index };
    assert_eq!(fold.apply(entries), Err(other));
    let tree = crate::view::TreeView::new(kv);
    assert_eq!(tree.history_start(P), Ok(3), "it is not told");
}

#[test]
fn entries_of_another_chain_are_refused() {
    let (world, _) = small();
    let (kv, _) = from_snapshot(&world.kv);
    let mut other = World::new(1);
    let entry = other.log.write(vec![make_dir(at(V, "x"))]);
    let second = other.log.write(vec![make_dir(at(V, "y"))]);
    let mut fold = open(&kv).expect("skipped");
    fold.apply(vec![(entry, Verdict::Allowed)])
        .expect("nobody can tell yet");
    assert_eq!(fold.next(), 2);
    let gap = small().1.pop().expect("three").0;
    let broken = fold.apply(vec![(gap, Verdict::Allowed)]);
    let is_broken = matches!(
        broken,
        Err(BackfillProblem::View(ViewProblem::ChainBroken { .. }))
    );
    assert!(is_broken, "{broken:?}");
    assert_eq!(fold.apply(vec![(second, Verdict::Allowed)]), Ok(false));
}
