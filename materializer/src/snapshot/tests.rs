//! Snapshots: round trips, damage, crashes.

use super::{SnapshotInstall, SnapshotProblem, SnapshotWriter, clear};
use crate::testing::{MemKv, World, at, chunked, event, genesis, make_dir, put, remove};
use crate::view::tests::fold::{build, plans};
use crate::view::{View, ViewProblem};
use aber_proto::{Attributes, Genesis, Operation, PartitionId};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

const V: u64 = 1 << 10;
const P: PartitionId = PartitionId(1);

fn encode(kv: &MemKv) -> Vec<u8> {
    let mut writer = SnapshotWriter::begin(kv.clone(), P).expect("a view");
    let mut bytes = Vec::new();
    while let Some(piece) = writer.next_piece().expect("works") {
        bytes.extend_from_slice(&piece);
    }
    bytes
}

fn install(kv: &MemKv, bytes: &[u8], piece: usize) -> Result<View<MemKv>, SnapshotProblem> {
    let mut install = SnapshotInstall::new(kv.clone(), P, Arc::new(genesis()));
    for piece in bytes.chunks(piece) {
        install.push(piece)?;
    }
    install.finish()
}

/// Rows of the view of partition 1 and chunk references.
fn rows(kv: &MemKv) -> BTreeMap<Bytes, Bytes> {
    let mut rows = kv.rows();
    rows.retain(|key, _| key.starts_with(b"V\0\0\0\x01") || key.starts_with(b"R"));
    rows
}

fn past_rows(kv: &MemKv) -> usize {
    kv.rows().len() - kv.present_rows().len()
}

fn small() -> World {
    let mut world = World::new(1);
    let big = |path: &str, seed| {
        event(Operation::Put {
            place: at(V, path),
            content: chunked(seed, 5000),
            attributes: Attributes::default(),
            parents: false,
        })
    };
    world.done(vec![
        make_dir(at(V, "d")),
        big("d/f", 1),
        put(at(V, "g"), "g"),
    ]);
    world.done(vec![big("d/f", 2)]);
    world.done(vec![put(at(V, "g"), "g2")]);
    world.done(vec![remove(at(V, "g"), None)]);
    world
}

/// What another cluster started from.
fn another() -> Genesis {
    Genesis {
        partitions: 5,
        ..genesis()
    }
}

/// Another view of the same partition, to be replaced.
fn other() -> World {
    let mut world = World::new(1);
    world.done(vec![make_dir(at(V, "old")), put(at(V, "old/x"), "x")]);
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// I2, M4: what is decoded is what was encoded, and encodes to the same bytes.
    #[test]
    fn a_snapshot_comes_back(plans in plans(), piece in 1..5000_usize) {
        let world = build(&plans);
        let bytes = encode(&world.kv);
        let target = other();
        let view = install(&target.kv, &bytes, piece).expect("a good snapshot");
        prop_assert_eq!(rows(&target.kv), rows(&world.kv));
        prop_assert_eq!(view.digest(), world.view.digest());
        prop_assert_eq!(view.applied(), world.view.applied());
        prop_assert_eq!(encode(&target.kv), bytes);
    }

    /// C8: bytes that are no snapshot are refused without a panic.
    #[test]
    fn any_bytes_are_refused(bytes: Vec<u8>, flips in proptest::collection::vec(any::<(usize, u8)>(), 1..4)) {
        let kv = MemKv::default();
        prop_assert!(install(&kv, &bytes, 64).is_err());
        let mut damaged = encode(&small().kv);
        let good = damaged.clone();
        for (position, flip) in flips {
            let length = damaged.len();
            damaged[position % length] ^= flip;
        }
        prop_assert_eq!(install(&kv, &damaged, 64).is_ok(), damaged == good);
    }
}

#[test]
fn history_and_chunk_references_travel_along() {
    let world = small();
    let target = MemKv::default();
    install(&target, &encode(&world.kv), 100).expect("a good snapshot");
    assert_eq!(target.present_rows(), world.kv.present_rows());
    assert_eq!(past_rows(&target), 1, "where history starts");
    let tree = crate::view::TreeView::new(target);
    let applied = world.view.applied().log_id.index;
    assert_eq!(tree.history_start(P), Ok(applied));
    assert_eq!(world.tree().history_start(P), Ok(0));
    for seed in [1, 2] {
        let chunk = aber_proto::ChunkHash([seed; 32]);
        assert_eq!(tree.is_referenced(&chunk), Ok(true));
    }
}

#[test]
fn every_cut_and_every_changed_byte_is_found() {
    let bytes = encode(&small().kv);
    for end in 0..bytes.len() {
        assert!(install(&MemKv::default(), &bytes[..end], 4096).is_err());
    }
    for position in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[position] ^= 0x41;
        assert!(install(&MemKv::default(), &damaged, 4096).is_err());
    }
    let longer = [bytes.as_slice(), b"x"].concat();
    assert!(install(&MemKv::default(), &longer, 4096).is_err());
}

#[test]
fn a_foreign_snapshot_leaves_everything_alone() {
    let target = other();
    let before = target.kv.rows();
    let bytes = encode(&small().kv);
    for (partition, genesis) in [(PartitionId(2), genesis()), (P, another())] {
        let genesis = Arc::new(genesis);
        let mut install = SnapshotInstall::new(target.kv.clone(), partition, genesis);
        let result = install.push(&bytes);
        assert!(matches!(result, Err(SnapshotProblem::Foreign(_))));
        assert_eq!(target.kv.rows(), before);
    }
}

/// After a crash at any point the old view opens, or the half-installed one does not; installing
/// again ends well.
#[test]
fn a_crash_while_installing_is_noticed_and_repeated() {
    let bytes = encode(&small().kv);
    let good = small().kv.present_rows();
    for calls in 0.. {
        let target = other();
        let before = target.view.digest();
        target.kv.fail_after(Some(calls));
        let result = install(&target.kv, &bytes, 300);
        target.kv.fail_after(None);
        match View::open(target.kv.clone(), P, &genesis()) {
            Ok(view) => {
                assert!(result.is_ok() || [before, small().view.digest()].contains(&view.digest()))
            }
            Err(problem) => assert_eq!(problem, ViewProblem::Installing(P)),
        }
        assert!(
            !matches!(SnapshotWriter::begin(target.kv.clone(), P), Ok(writer)
            if ![before, small().view.digest()].contains(&writer.header().digest))
        );
        let done = result.is_ok();
        install(&target.kv, &bytes, 300).expect("the second time it works");
        assert_eq!(target.kv.present_rows(), good);
        assert_eq!(past_rows(&target.kv), 1, "nothing of the view before");
        if done {
            assert!(calls > 5, "calls did fail");
            break;
        }
    }
}

#[test]
fn a_view_that_moves_on_spoils_its_snapshot() {
    let mut world = small();
    let mut writer = SnapshotWriter::begin(world.kv.clone(), P).expect("a view");
    world.done(vec![put(at(V, "h"), "")]);
    let moved = SnapshotProblem::Moved { was: 4 };
    assert_eq!(writer.next_piece(), Err(moved));
    let empty = SnapshotWriter::begin(MemKv::default(), P).err();
    assert_eq!(empty, Some(SnapshotProblem::Empty(P)));
}

#[test]
fn clearing_leaves_an_empty_view() {
    let world = small();
    clear(&world.kv, P).expect("works");
    let view = View::open(world.kv.clone(), P, &genesis()).expect("opens");
    assert_eq!(view.digest(), World::new(1).view.digest());
    assert_eq!(view.applied().log_id.index, 0);
}

/// Many rows: pieces stay bounded, and the count of commits too.
#[test]
fn a_large_view_travels_in_bounded_pieces() {
    let mut world = World::new(1);
    for change in 0..8 {
        let events = (0..1000)
            .map(|n| put(at(V, &format!("{change}-{n}-{}", "n".repeat(60))), "x"))
            .collect();
        world.done(events);
    }
    let mut writer = SnapshotWriter::begin(world.kv.clone(), P).expect("a view");
    let target = MemKv::default();
    let mut install = SnapshotInstall::new(target.clone(), P, Arc::new(genesis()));
    let mut pieces = 0;
    while let Some(piece) = writer.next_piece().expect("works") {
        assert!(piece.len() < super::PIECE_BYTES + 1024 * 1024);
        install.push(&piece).expect("good");
        pieces += 1;
    }
    let view = install.finish().expect("good");
    assert!(pieces > 3);
    assert_eq!(view.digest(), world.view.digest());
    assert_eq!(target.present_rows(), world.kv.present_rows());
    assert_eq!(past_rows(&target), 1, "where history starts");
}
