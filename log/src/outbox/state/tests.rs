//! The order of changes, and when each may go.

use super::*;
use aber_proto::{
    Attributes, Change, ChangeHash, ChunkHash, ChunkList, ChunkRef, ClusterId, Content,
    ContentHash, Event, Manifest, NodeId, Operation, Place, Precondition, RelPath, Timestamp,
    VolumeId,
};
use bytes::Bytes;
use proptest::prelude::*;

fn content(is_chunked: bool) -> Content {
    if !is_chunked {
        return Content::Inline(Bytes::from_static(b"x"));
    }
    let rows = vec![ChunkRef {
        hash: ChunkHash([1; 32]),
        length: 5000,
    }];
    Content::Chunks(Manifest {
        size: 5000,
        blake3: ContentHash::default(),
        average: 16 * 1024,
        chunks: ChunkList::Direct(rows),
    })
}

fn item(number: u8, paths: &[&str], is_chunked: bool) -> Item {
    let place = Place {
        volume: VolumeId(1),
        path: RelPath::parse("a").expect("good path"),
    };
    let operation = Operation::Put {
        place,
        content: content(is_chunked),
        attributes: Attributes::default(),
        parents: true,
    };
    let precondition = Precondition::default();
    Item {
        change: Change {
            cluster: ClusterId([0; 32]),
            partition: PartitionId(1),
            author: NodeId(1),
            author_sequence: 0,
            previous: ChangeHash::default(),
            request: RequestId([number; 16]),
            wall_time: Timestamp(0),
            comment: String::new(),
            via: String::new(),
            origin: None,
            events: vec![Event {
                precondition,
                operation,
            }],
        },
        volume: None,
        paths: paths
            .iter()
            .map(|path| TreePath::parse(path).expect("good path"))
            .collect(),
        min_copies: 0,
        is_in_train: false,
        signed: None,
    }
}

fn sign(state: &mut State, sequence: Sequence, number: u64) {
    let item = state.item_mut(sequence).expect("item");
    item.signed = Some((number, Bytes::from_static(b"signed")));
}

const NOW: Instant = Instant(1_000_000_000_000);
const ALL: usize = usize::MAX;

/// C7: what touches the same path, or one above it, waits; what does not overtakes.
#[test]
fn related_paths_keep_their_order_and_others_overtake() {
    let mut state = State::default();
    let directory = state.add(item(1, &["/v/d"], false), None);
    let below = state.add(item(2, &["/v/d/x"], false), None);
    let beside = state.add(item(3, &["/v/dx"], false), None);
    let above = state.add(item(4, &["/v"], false), None);
    assert_eq!(state.to_propose(NOW, ALL), [directory, beside]);
    state.finished(RequestId([1; 16]));
    assert_eq!(state.to_propose(NOW, ALL), [below, beside]);
    state.finished(RequestId([2; 16]));
    assert_eq!(state.to_propose(NOW, ALL), [beside]);
    state.finished(RequestId([3; 16]));
    assert_eq!(state.to_propose(NOW, ALL), [above]);
}

/// D2: content must be held before a change can be proposed.
#[test]
fn a_change_with_chunks_waits_for_its_copies() {
    let mut state = State::default();
    let sequence = state.add(item(1, &["/v/a"], true), None);
    assert_eq!(state.to_copy(), [sequence]);
    assert!(state.to_propose(NOW, ALL).is_empty());
    state.held(sequence);
    assert!(state.to_copy().is_empty());
    assert_eq!(state.to_propose(NOW, ALL), [sequence]);
}

/// D6: a change leaves only when its outcome was seen, whatever the leader said.
#[test]
fn what_was_sent_is_sent_again_until_its_outcome_is_seen() {
    let mut state = State::default();
    let sequence = state.add(item(1, &["/v/a"], false), None);
    sign(&mut state, sequence, 1);
    state.sent(PartitionId(1), &[sequence]);
    assert!(state.to_propose(NOW, ALL).is_empty());
    assert_eq!(state.next_wake(), None);
    state.answered(PartitionId(1), &[sequence], NOW, None);
    assert!(state.to_propose(NOW, ALL).is_empty());
    let later = NOW + PROPOSE_AGAIN;
    assert_eq!(state.next_wake(), Some(later));
    assert_eq!(state.to_propose(later, ALL), [sequence]);
    state.sent(PartitionId(1), &[sequence]);
    state.answered(PartitionId(1), &[sequence], later, Some("no leader"));
    assert_eq!(state.next_wake(), Some(later + REFUSED_PAUSE));
    assert_eq!(state.len(), 1);
    assert!(state.finished(RequestId([1; 16])).is_some());
    assert!(state.is_empty() && state.next_wake().is_none());
}

#[test]
fn one_batch_of_a_partition_is_under_way_at_a_time() {
    let mut state = State::default();
    let first = state.add(item(1, &["/v/a"], false), None);
    sign(&mut state, first, 1);
    state.sent(PartitionId(1), &[first]);
    let second = state.add(item(2, &["/v/b"], false), None);
    assert!(state.to_propose(NOW, ALL).is_empty());
    state.answered(PartitionId(1), &[first], NOW, None);
    assert_eq!(state.to_propose(NOW, ALL), [second]);
}

/// D3: only the number that was void is replaced.
#[test]
fn a_void_number_is_signed_anew_once() {
    let mut state = State::default();
    let sequence = state.add(item(1, &["/v/a"], false), None);
    sign(&mut state, sequence, 7);
    state.sent(PartitionId(1), &[sequence]);
    state.void(RequestId([1; 16]), 6);
    assert!(state.item(sequence).expect("item").signed.is_some());
    state.void(RequestId([1; 16]), 7);
    assert!(state.item(sequence).expect("item").signed.is_none());
    state.answered(PartitionId(1), &[sequence], NOW, None);
    assert_eq!(state.to_propose(NOW, ALL), [sequence]);
}

proptest! {
    /// A5, C7: whatever the paths, everything gets its turn, and of two related changes the earlier
    /// one is gone before the later one starts.
    #[test]
    fn everything_gets_its_turn_in_order(
        paths in proptest::collection::vec(
            proptest::collection::vec("(/[ab]){1,3}", 1..3), 1..12),
    ) {
        let mut state = State::default();
        for (number, paths) in (0_u8..).zip(&paths) {
            let paths: Vec<_> = paths.iter().map(String::as_str).collect();
            state.add(item(number, &paths, number % 2 == 0), None);
        }
        let mut gone: Vec<usize> = Vec::new();
        while !state.is_empty() {
            for sequence in state.to_copy() {
                state.held(sequence);
            }
            let ready = state.to_propose(NOW, ALL);
            prop_assert!(!ready.is_empty(), "nothing can go on");
            let one = *ready.last().expect("not empty");
            let taken = state.item(one).expect("item").clone();
            let number = usize::from(taken.request().0[0]);
            for (earlier, before) in paths.iter().enumerate().take(number) {
                let related = before.iter().any(|a| taken.paths.iter().any(|b| {
                    let a = TreePath::parse(a).expect("good path");
                    a.is_within(b) || b.is_within(&a)
                }));
                prop_assert!(!related || gone.contains(&earlier));
            }
            state.finished(taken.request());
            gone.push(number);
        }
    }

    /// D6: an item reads back as it was written.
    #[test]
    fn an_item_comes_back(number: u8, is_chunked: bool, signed in proptest::option::of(any::<u64>())) {
        let mut item = item(number, &["/v/a", "/v/b"], is_chunked);
        item.signed = signed.map(|number| (number, Bytes::from_static(b"s")));
        item.volume = is_chunked.then(|| "v".to_owned());
        prop_assert_eq!(Item::decode(item.encode()), Ok(item));
    }
}

/// A2: a change that becomes ready because another is found to be answered is not forgotten.
#[test]
fn what_becomes_ready_is_looked_at_at_once() {
    let mut state = State::default();
    let first = state.add(item(1, &["/v/a"], false), None);
    state.add(item(2, &["/v/a/b"], false), None);
    sign(&mut state, first, 1);
    state.sent(PartitionId(1), &[first]);
    state.answered(PartitionId(1), &[first], NOW, None);
    assert_eq!(state.next_wake(), Some(NOW + PROPOSE_AGAIN));
    state.finished(RequestId([1; 16]));
    assert_eq!(state.next_wake(), Some(Instant(0)));
}
