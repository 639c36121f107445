//! Changes that do not count, and logs that contradict themselves.

use crate::testing::{Log, MemKv, World, at, genesis, make_dir, put, remove};
use crate::view::{EntryResult, Rejection, RequestOutcome, Verdict, View, ViewProblem};
use aber_log::env::kv::KvBatch;
use aber_proto::{ChainHash, Change, ClusterId, Entry, EntryKind, NodeId, PartitionId, RequestId};
use aber_proto::{Genesis, Timestamp, VolumeId};
use bytes::Bytes;
use proptest::prelude::*;

const V: u64 = 1 << 10;

fn reason(result: &EntryResult) -> Option<Rejection> {
    match result {
        EntryResult::Rejected(rejected) => Some(rejected.reason),
        _ => None,
    }
}

fn apply(world: &mut World, change: &Change, verdict: Verdict) -> EntryResult {
    let entry = world.log.order(change);
    world.apply(entry, verdict).0
}

/// D3: a repeated request answers what the first did, whoever sends it, and does nothing.
#[test]
fn d3_a_repeated_request_answers_what_the_first_did() {
    let mut world = World::new(1);
    let first = world.log.change(vec![make_dir(at(V, "d"))]);
    apply(&mut world, &first, Verdict::Allowed);
    let bad = world.log.change(vec![remove(at(V, "x"), None)]);
    apply(&mut world, &bad, Verdict::Allowed);
    let rows = world.tree_rows();
    for (request, index, outcome) in [
        (first.request, 1, RequestOutcome::Applied),
        (
            bad.request,
            2,
            RequestOutcome::Rejected(Rejection::NotFound),
        ),
    ] {
        let again = Change {
            request,
            author: NodeId(9),
            ..world.log.change(vec![put(at(V, "other"), "")])
        };
        let result = apply(&mut world, &again, Verdict::Allowed);
        assert_eq!(result, EntryResult::Repeat { index, outcome });
    }
    assert_eq!(rows, world.tree_rows());
}

/// D3: a sequence number that is not above the last one is void for ever; gaps are not.
#[test]
fn d3_a_falling_sequence_is_void() {
    let mut world = World::new(1);
    let numbered = |world: &mut World, author, sequence, name: &str| Change {
        author: NodeId(author),
        author_sequence: sequence,
        ..world.log.change(vec![put(at(V, name), "")])
    };
    for (author, sequence, void) in [
        (1, 5, false),
        (1, 5, true),
        (1, 4, true),
        (2, 4, false),
        (1, 9, false),
        (1, 0, true),
        (3, 0, true),
        (3, u64::MAX, false),
        (3, u64::MAX, true),
    ] {
        let change = numbered(&mut world, author, sequence, "f");
        let result = apply(&mut world, &change, Verdict::Allowed);
        assert_eq!(reason(&result), void.then_some(Rejection::Void));
        // A void change does not use up its request id.
        let known = world.tree().request(PartitionId(1), change.request);
        assert_eq!(known.expect("works").is_none(), void);
    }
    // A rejected change counts.
    let mut change = numbered(&mut world, 4, 1, "none/f");
    assert!(reason(&apply(&mut world, &change, Verdict::Allowed)).is_some());
    change.request = RequestId([9; 16]);
    let result = apply(&mut world, &change, Verdict::Allowed);
    assert_eq!(reason(&result), Some(Rejection::Void));
}

/// D3: the very same change ordered twice is answered, not void.
#[test]
fn d3_a_change_ordered_twice_takes_effect_once() {
    let mut world = World::new(1);
    let change = world.log.change(vec![make_dir(at(V, "d"))]);
    apply(&mut world, &change, Verdict::Allowed);
    let rows = world.tree_rows();
    let (index, outcome) = (1, RequestOutcome::Applied);
    for verdict in [Verdict::Allowed, Verdict::Refused(Rejection::NotAllowed)] {
        let result = apply(&mut world, &change, verdict);
        assert_eq!(result, EntryResult::Repeat { index, outcome });
    }
    assert_eq!(rows, world.tree_rows());
}

/// S2: a forged change uses up neither sequence number nor request id; a forbidden one both.
#[test]
fn s2_refused_changes_do_nothing() {
    let mut world = World::new(1);
    let change = world.log.change(vec![make_dir(at(V, "d"))]);
    for forged in [Rejection::BadSignature, Rejection::NotAMember] {
        let result = apply(&mut world, &change, Verdict::Refused(forged));
        assert_eq!(reason(&result), Some(forged));
    }
    assert!(world.tree_rows().is_empty());
    let result = apply(&mut world, &change, Verdict::Allowed);
    assert_eq!(reason(&result), None);

    let change = world.log.change(vec![make_dir(at(V, "e"))]);
    let forbidden = Verdict::Refused(Rejection::NotAllowed);
    let result = apply(&mut world, &change, forbidden);
    assert_eq!(reason(&result), Some(Rejection::NotAllowed));
    let outcome = RequestOutcome::Rejected(Rejection::NotAllowed);
    let index = 4;
    let result = apply(&mut world, &change, Verdict::Allowed);
    assert_eq!(result, EntryResult::Repeat { index, outcome });
    let renamed = Change {
        request: RequestId([9; 16]),
        ..change.clone()
    };
    let result = apply(&mut world, &renamed, Verdict::Allowed);
    assert_eq!(reason(&result), Some(Rejection::Void));
    let answer = world.tree().request(PartitionId(1), change.request);
    assert_eq!(answer, Ok(Some((4, outcome))));
}

/// S2: a control index that falls is rejected; its author may propose the same change again.
#[test]
fn s2_a_falling_control_index_rejects() {
    let mut world = World::new(1);
    world.log.control_index = 7;
    world.done(vec![make_dir(at(V, "d"))]);
    world.log.control_index = 6;
    let change = world.log.change(vec![make_dir(at(V, "e"))]);
    let result = apply(&mut world, &change, Verdict::Allowed);
    assert_eq!(reason(&result), Some(Rejection::ControlIndexFell));
    assert_eq!(world.view.applied().control_index, 7);
    world.log.control_index = 7;
    let result = apply(&mut world, &change, Verdict::Allowed);
    assert_eq!(reason(&result), None);
}

#[test]
fn a_change_for_another_cluster_or_partition_is_rejected() {
    let mut world = World::new(1);
    let change = world.log.change(vec![make_dir(at(V, "d"))]);
    let strange = Change {
        cluster: ClusterId([8; 32]),
        ..change.clone()
    };
    let elsewhere = Change {
        partition: PartitionId(2),
        ..change.clone()
    };
    for wrong in [strange, elsewhere] {
        let result = apply(&mut world, &wrong, Verdict::Allowed);
        assert_eq!(reason(&result), Some(Rejection::OtherCluster));
    }
    assert_eq!(reason(&apply(&mut world, &change, Verdict::Allowed)), None);
}

#[test]
fn entries_without_a_change_only_advance() {
    let mut world = World::new(1);
    let body = Bytes::from_static(b"voters");
    for (kind, body) in [
        (EntryKind::Blank, Bytes::new()),
        (EntryKind::Membership, body),
    ] {
        let entry = world.log.entry(kind, body);
        let chain = entry.chain;
        let (result, effects) = world.apply(entry, Verdict::Allowed);
        assert_eq!((result, effects), (EntryResult::Nothing, Vec::new()));
        assert_eq!(world.view.applied().chain, chain);
    }
    assert_eq!(world.view.applied().log_id.index, 2);
}

/// The leader's clock is clamped so that order time never falls.
#[test]
fn order_time_never_falls() {
    let mut world = World::new(1);
    let mut last = i64::MIN;
    for time in [-5, 100, 50, 101] {
        let mut entry = world.log.entry(EntryKind::Blank, Bytes::new());
        let before = world.view.applied().chain;
        entry.order_time = Timestamp(time);
        entry = Entry::following(&before, entry);
        world.log.chain = entry.chain;
        world.apply(entry, Verdict::Allowed);
        last = last.max(time);
        assert_eq!(world.view.applied().order_time, Timestamp(last));
    }
}

/// I2: an entry that does not follow from the chain stops the view; nothing is committed.
#[test]
fn i2_entries_must_follow_from_the_chain() {
    let mut world = World::new(1);
    world.done(vec![make_dir(at(V, "d"))]);
    let rows = world.kv.rows();
    let good = world.log.write(vec![make_dir(at(V, "e"))]);
    let later = world.log.write(vec![make_dir(at(V, "f"))]);
    let mut forged = good.clone();
    forged.body = Bytes::from_static(b"forged");
    let mut elsewhere = good.clone();
    elsewhere.partition = PartitionId(2);
    let mut unchained = good.clone();
    unchained.chain = ChainHash::default();
    let jump = Log {
        index: 7,
        chain: world.view.applied().chain,
        ..Log::new(1)
    }
    .entry(EntryKind::Blank, Bytes::new());
    for wrong in [forged, elsewhere, unchained, later.clone(), jump] {
        let batch = [(good.clone(), Verdict::Allowed), (wrong, Verdict::Allowed)];
        let (single, pair) = (&batch[1..], &batch[..]);
        for entries in [single, pair] {
            if entries.len() == 2 && entries[1].0 == later {
                continue;
            }
            let result = world.view.apply_batch(entries, KvBatch::default());
            assert!(matches!(result, Err(ViewProblem::ChainBroken { .. })));
            assert_eq!(rows, world.kv.rows());
        }
    }
    assert_eq!(world.view.applied().log_id.index, 1);
}

#[test]
fn extra_rows_are_committed_with_the_batch_in_one_go() {
    let mut world = World::new(1);
    let entry = world.log.write(vec![make_dir(at(V, "d"))]);
    let mut extra = KvBatch::default();
    extra.put(b"X".as_slice(), b"1".as_slice());
    let commits = world.kv.commits();
    let batch = [(entry, Verdict::Allowed)];
    world.view.apply_batch(&batch, extra).expect("works");
    assert_eq!(world.kv.commits(), commits + 1);
    assert!(world.kv.rows().contains_key(b"X".as_slice()));
}

/// D3: only so many requests are remembered, and no row of a forgotten one stays.
#[test]
fn d3_the_oldest_requests_are_forgotten() {
    let mut world = World::new(1);
    world.view.requests_most = 3;
    let mut requests = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        let change = world.log.change(vec![make_dir(at(V, name))]);
        requests.push(change.request);
        apply(&mut world, &change, Verdict::Allowed);
    }
    let known: Vec<_> = requests
        .iter()
        .map(|request| world.tree().request(PartitionId(1), *request))
        .map(|answer| answer.expect("works").is_some())
        .collect();
    assert_eq!(known, [false, false, true, true, true]);
    let rows = world.kv.rows();
    let of_requests = rows.keys().filter(|key| matches!(key.get(5), Some(4 | 5)));
    assert_eq!(of_requests.count(), 6);
}

#[test]
fn rows_of_another_cluster_or_format_are_refused() {
    let mut world = World::new(1);
    world.done(vec![make_dir(at(V, "d"))]);
    let partition = PartitionId(1);
    let open = |kv: &MemKv, genesis: &Genesis| View::open(kv.clone(), partition, genesis).err();
    let another = Genesis {
        partitions: 5,
        ..genesis()
    };
    let foreign = Some(ViewProblem::Foreign(partition));
    assert_eq!(open(&world.kv, &another), foreign);
    let (key, value) = world
        .kv
        .present_rows()
        .into_iter()
        .next()
        .expect("the applied row");
    let mut other = value.to_vec();
    other[0] += 1;
    let mut batch = KvBatch::default();
    batch.put(key, other);
    aber_log::env::Kv::commit(&world.kv, batch).expect("works");
    assert_eq!(open(&world.kv, &genesis()), foreign);
}

/// A log whose first index is 0 works, but a change there would make a file with the root's id.
#[test]
fn index_zero_makes_nothing() {
    let mut world = World::new(0);
    let event = crate::testing::make_volume("music", 1);
    let mut entry = world.log.write(vec![event]);
    entry.log_id.index = 0;
    let entry = Entry::following(&world.view.applied().chain, entry);
    let (result, _) = world.apply(entry, Verdict::Allowed);
    assert_eq!(reason(&result), Some(Rejection::Malformed));
    assert_eq!(world.tree().volumes(), Ok(Vec::new()));
    assert_eq!(VolumeId::ROOT.0, 0);
}

#[test]
fn rejections_have_stable_numbers() {
    for reason in Rejection::ALL {
        assert_eq!(Rejection::from_code(reason.code()), Some(reason));
        let is_unnamed = matches!(reason.code(), 202..=205 | 207 | 209);
        assert_eq!(reason.reason().is_none(), is_unnamed);
    }
    assert_eq!(Rejection::from_code(0), None);
    let codes = Rejection::ALL.map(Rejection::code);
    assert!(codes.is_sorted_by(|a, b| a < b), "no number twice");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// C8: whatever the bytes, the entry is rejected and the view goes on.
    #[test]
    fn c8_any_bytes_are_rejected(bodies in proptest::collection::vec(any::<Vec<u8>>(), 1..5)) {
        let mut world = World::new(1);
        for body in bodies {
            let entry = world.log.entry(EntryKind::Change, body.into());
            let (result, _) = world.apply(entry, Verdict::Allowed);
            prop_assert_eq!(reason(&result), Some(Rejection::Malformed));
        }
        world.done(vec![make_dir(at(V, "d"))]);
    }

    /// C8: a change with any byte changed is applied or rejected, never worse.
    #[test]
    fn c8_a_damaged_change_is_applied_or_rejected(position: usize, flip in 1..=255_u8) {
        let mut world = World::new(1);
        let events = vec![make_dir(at(V, "d")), put(at(V, "d/f"), "text"), remove(at(V, "d"), Some(9))];
        let mut good = Log::new(1).write(events).body.to_vec();
        let length = good.len();
        good[position % length] ^= flip;
        let entry = world.log.entry(EntryKind::Change, good.into());
        world.apply(entry, Verdict::Allowed);
        world.log.sequence = u64::MAX - 1;
        world.write(vec![make_dir(at(V, "d"))]);
    }
}
