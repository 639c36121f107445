//! Round trips of arbitrary values, and what is refused: broken limits, damage, other encodings.

mod members;
mod strategy;

use super::*;
use crate::event::{Event, Operation, Place, Precondition};
use crate::hash::{ChangeHash, ChunkHash, ContentHash};
use crate::id::{ClusterId, NodeId, PartitionId, RequestId, VolumeId};
use crate::key::{BatchSignature, PublicKey, SignatureProblem};
use crate::manifest::{
    Attributes, ChunkList, ChunkRef, Manifest, ManifestProblem, decode_list, encode_list,
};
use crate::member::{Member, Role};
use crate::path::{PathProblem, RelPath};
use crate::unit::{FileTime, Timestamp};
use proptest::collection::vec;
use proptest::prelude::*;
use strategy::{change, content, damage, damaged, genesis, rows, signed};

proptest! {
    #[test]
    fn a_change_comes_back(change in change()) {
        let body = encode_checked(&change).expect("a valid change");
        prop_assert_eq!(decode_change(&body), Ok(change));
    }

    #[test]
    fn a_signed_change_comes_back(change in signed()) {
        let bytes = encode_signed(&change);
        prop_assert_eq!(decode_signed(&bytes), Ok(change));
    }

    #[test]
    fn a_content_comes_back(content in content()) {
        let bytes = encode_content(&content);
        prop_assert_eq!(decode_content(&bytes), Ok(content));
    }

    #[test]
    fn a_chunk_list_comes_back(rows in rows(0..40, 1)) {
        prop_assert_eq!(decode_list(&encode_list(&rows)), Ok(rows));
    }

    #[test]
    fn a_genesis_comes_back(genesis in genesis()) {
        prop_assert_eq!(decode_genesis(&encode_genesis(&genesis)), Ok(genesis));
    }

    /// S1: a body has one reading, and a value one body: what is accepted is what would be written.
    #[test]
    fn a_damaged_change_is_refused_or_is_another_whole_one(
        change in change(), damage in damage(),
    ) {
        let bytes = damaged(&encode_change(&change), &damage);
        if let Ok(read) = decode_change(&bytes) {
            prop_assert_eq!(read.check(), Ok(()));
            prop_assert_eq!(encode_change(&read), bytes);
        }
    }

    #[test]
    fn damaged_signed_changes_and_geneses_are_refused_or_whole(
        change in signed(), genesis in genesis(), damage in damage(),
    ) {
        let bytes = damaged(&encode_signed(&change), &damage);
        if let Ok(read) = decode_signed(&bytes) {
            prop_assert_eq!(encode_signed(&read), bytes);
        }
        let bytes = damaged(&encode_genesis(&genesis), &damage);
        if let Ok(read) = decode_genesis(&bytes) {
            prop_assert_eq!(read.check(), Ok(()));
            prop_assert_eq!(encode_genesis(&read), bytes);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        let bytes = Bytes::from(bytes);
        let _ = decode_change(&bytes);
        let _ = decode_signed(&bytes);
        let _ = decode_content(&bytes);
        let _ = decode_genesis(&bytes);
        let _ = decode_list(&bytes);
    }
}

fn make_directory(path: &str) -> Operation {
    Operation::MakeDirectory {
        place: Place {
            volume: VolumeId(1024),
            path: RelPath::parse(path).expect("good path"),
        },
        parents: false,
    }
}

fn change_of(operations: impl IntoIterator<Item = Operation>) -> Change {
    Change {
        cluster: ClusterId([1; 32]),
        partition: PartitionId(1),
        author: NodeId(3),
        author_sequence: 4,
        previous: ChangeHash::default(),
        request: RequestId([5; 16]),
        wall_time: Timestamp(6),
        comment: String::new(),
        via: String::new(),
        origin: None,
        events: operations
            .into_iter()
            .map(|operation| Event {
                precondition: Precondition::default(),
                operation,
            })
            .collect(),
    }
}

fn put(content: Content) -> Operation {
    let Operation::MakeDirectory { place, parents } = make_directory("f") else {
        panic!("make_directory makes one")
    };
    Operation::Put {
        place,
        content,
        attributes: Attributes::default(),
        parents,
    }
}

/// Encodes without checking, as a modified member would.
fn refused(change: &Change) -> ChangeProblem {
    decode_change(&encode_change(change)).expect_err("it breaks a rule")
}

/// B2: the number of events is known before any of them is built.
#[test]
fn too_many_events_are_refused_before_they_are_parsed() {
    let events = limit::CHANGE_EVENTS;
    let change = change_of((0..events).map(|n| make_directory(&n.to_string())));
    assert_eq!(decode_change(&encode_change(&change)), Ok(change));
    let change = change_of((0..=events).map(|n| make_directory(&n.to_string())));
    let events = events + 1;
    assert_eq!(refused(&change), ChangeProblem::TooManyEvents { events });
    // An empty event is two bytes: tag 11 of wire type 2, length 0.
    let many = Bytes::from([0x5a, 0].repeat(100_000));
    let events = 100_000;
    assert_eq!(
        decode_change(&many),
        Err(ChangeProblem::TooManyEvents { events })
    );
    assert_eq!(refused(&change_of([])), ChangeProblem::Empty);
}

/// B2: lengths are checked before anything is read.
#[test]
fn long_bodies_are_refused_on_both_sides() {
    let bytes = limit::CHANGE_BYTES + 1;
    let long = Bytes::from(vec![0; bytes]);
    assert_eq!(decode_change(&long), Err(ChangeProblem::TooLong { bytes }));
    let signature = BatchSignature {
        root_signature: [0; 64],
        position: 0,
        count: 1,
        path: Vec::new(),
    };
    let signed = SignedChange {
        body: long,
        signature,
    };
    assert_eq!(
        decode_signed(&encode_signed(&signed)),
        Err(ChangeProblem::TooLong { bytes })
    );
    let bytes = limit::ENTRY_BYTES + 1;
    assert_eq!(
        decode_signed(&vec![0; bytes].into()),
        Err(ChangeProblem::TooLong { bytes })
    );
    let inline = || put(Content::Inline(Bytes::from_static(&[0; 1024])));
    let change = change_of((0..300).map(|_| inline()));
    assert!(matches!(
        encode_checked(&change),
        Err(ChangeProblem::TooLong { .. })
    ));
}

/// The longest body, with the longest signature, is a legal entry.
#[test]
fn the_longest_change_fits_its_envelope() {
    let signed = SignedChange {
        body: vec![1; limit::CHANGE_BYTES].into(),
        signature: BatchSignature {
            root_signature: [2; 64],
            position: u32::MAX,
            count: u32::MAX,
            path: vec![[3; 32]; limit::BATCH_DEPTH],
        },
    };
    let bytes = encode_signed(&signed);
    assert!(bytes.len() <= limit::ENTRY_BYTES);
    assert_eq!(decode_signed(&bytes), Ok(signed.clone()));
    let mut deep = signed;
    deep.signature.path.push([0; 32]);
    assert_eq!(
        decode_signed(&encode_signed(&deep)),
        Err(SignatureProblem::Shape.into())
    );
}

/// NA-1, NA-7, LI-1, LI-5, LI-6: each rule, broken by a member that does not check.
#[test]
fn each_rule_is_checked_on_the_way_in() {
    let mut change = change_of([Operation::MakeVolume {
        name: "a".to_owned(),
        partition: PartitionId(1),
    }]);
    assert_eq!(
        refused(&change),
        ChangeProblem::WrongPartition(PartitionId(1))
    );
    change.partition = PartitionId::CONTROL;
    assert_eq!(decode_change(&encode_change(&change)), Ok(change.clone()));
    change.comment = "x".repeat(201);
    assert!(matches!(refused(&change), ChangeProblem::TextTooLong(_)));

    let target = "x".repeat(4096);
    let Operation::MakeDirectory { place, parents } = make_directory("a") else {
        panic!("make_directory makes one")
    };
    let link = Operation::MakeSymlink {
        place: place.clone(),
        target,
        parents,
    };
    assert_eq!(refused(&change_of([link])), ChangeProblem::SymlinkTarget);

    let set = |mode, mtime| {
        change_of([Operation::SetAttributes {
            place: place.clone(),
            mode,
            mtime,
        }])
    };
    let problem = refused(&set(Some(0o4755), None));
    assert_eq!(problem, ChangeProblem::Mode(0o4755));
    let late = FileTime {
        seconds: 0,
        nanos: 1_000_000_000,
    };
    let problem = refused(&set(None, Some(late)));
    assert!(matches!(problem, ChangeProblem::Encoding(_)));

    let inline = put(Content::Inline(vec![0; 1025].into()));
    assert_eq!(
        refused(&change_of([inline])),
        ChangeProblem::Manifest(ManifestProblem::InlineTooLong(1025))
    );
}

/// Messages that no encoder of ours writes, by way of the generated types.
fn refused_message(alter: impl FnOnce(&mut store::ChangeBody)) -> ChangeProblem {
    let mut message = change::to_message(&change_of([make_directory("a/b")]));
    alter(&mut message);
    decode_change(&message.encode_to_vec().into()).expect_err("no encoder writes this")
}

#[test]
fn a_bad_path_is_named_with_its_rule() {
    let bad = |text: &str| {
        let place = Some(store::Place {
            volume: 0,
            path: text.to_owned(),
        });
        let remove = store::Remove {
            place,
            ..store::Remove::default()
        };
        refused_message(|body| {
            body.events[0].operation = Some(store::event::Operation::Remove(remove));
        })
    };
    let cases = [
        ("/a", PathProblem::EmptyName),
        ("a/../b", PathProblem::Dots),
        ("a/.Aber/b", PathProblem::Reserved),
    ];
    for (path, problem) in cases {
        let path = path.to_owned();
        assert_eq!(bad(&path), ChangeProblem::Path { path, problem });
    }
    let ChangeProblem::Path { path, problem } = bad(&"é".repeat(100_000)) else {
        panic!("an overlong path is a path problem")
    };
    assert_eq!(problem, PathProblem::PathTooLong);
    assert_eq!(path.len(), limit::PATH_BYTES);
}

#[test]
fn other_formats_lengths_and_gaps_are_refused() {
    let encoding = ChangeProblem::Encoding;
    assert_eq!(
        refused_message(|body| body.format = 2),
        encoding(UNKNOWN_FORMAT)
    );
    assert_eq!(
        refused_message(|body| body.format = 0),
        encoding(UNKNOWN_FORMAT)
    );
    let cut = Bytes::from_static(&[1; 31]);
    let alterations: [fn(&mut store::ChangeBody, Bytes); 5] = [
        |body, cut| body.cluster = cut,
        |body, cut| body.previous = cut,
        |body, cut| body.request = cut,
        |body, _| body.events[0].operation = None,
        |body, _| {
            let make = store::MakeDirectory::default();
            let operation = store::event::Operation::MakeDirectory(make);
            body.events[0].operation = Some(operation);
        },
    ];
    for alter in alterations {
        let problem = refused_message(|body| alter(body, cut.clone()));
        assert!(matches!(problem, ChangeProblem::Encoding(_)), "{problem}");
    }
    // A precondition that says nothing is left out, never empty.
    let empty = Some(store::Precondition::default());
    assert_eq!(
        refused_message(|body| body.events[0].precondition = empty),
        encoding(NOT_OURS)
    );
    let mode = 0o200_644;
    let attributes = store::SetAttributes {
        mode: Some(mode),
        place: Some(store::Place::default()),
        mtime: None,
    };
    let set = store::event::Operation::SetAttributes(attributes);
    assert_eq!(
        refused_message(|body| body.events[0].operation = Some(set)),
        ChangeProblem::Mode(mode)
    );
}

/// S1: what a later version might add to format 1 is refused, not skipped.
#[test]
fn unknown_and_repeated_fields_are_refused() {
    let body = encode_change(&change_of([make_directory("a")]));
    // Fields 13 (unknown), 3 (a second time) and 9 (empty, so never written), each a varint or
    // length of one byte.
    for extra in [[0x68, 1], [0x18, 1], [0x4a, 0]] {
        let bytes = Bytes::from([&body[..], &extra].concat());
        let problem = decode_change(&bytes);
        assert_eq!(problem, Err(ChangeProblem::Encoding(NOT_OURS)));
    }
}

/// B2: a manifest's rows are counted before they are read.
#[test]
fn manifests_are_checked_on_the_way_in() {
    let rows = |count: usize, length| {
        let row = ChunkRef {
            hash: ChunkHash([1; 32]),
            length,
        };
        vec![row; count]
    };
    let manifest = |size, chunks| {
        let manifest = Manifest {
            size,
            blake3: ContentHash::default(),
            average: 64 * 1024,
            chunks,
        };
        decode_content(&encode_content(&Content::Chunks(manifest)))
    };
    let refused = |size, chunks| match manifest(size, chunks) {
        Err(ChangeProblem::Manifest(problem)) => problem,
        other => panic!("{other:?}"),
    };
    assert!(manifest(1024, ChunkList::Direct(rows(1024, 1))).is_ok());
    assert_eq!(
        refused(1025, ChunkList::Direct(rows(1025, 1))),
        ManifestProblem::TooManyChunks(1025)
    );
    assert_eq!(
        refused(1, ChunkList::Direct(rows(2, 1))),
        ManifestProblem::SizeDiffers { said: 1, found: 2 }
    );
    assert_eq!(
        refused(0, ChunkList::Direct(rows(1, 0))),
        ManifestProblem::ChunkLength(0)
    );
    assert!(manifest(1 << 40, ChunkList::Indirect(rows(2, 18 * 36))).is_ok());
    assert_eq!(
        refused(1, ChunkList::Indirect(rows(1, 37))),
        ManifestProblem::ListLength(37)
    );
    assert_eq!(
        refused(1, ChunkList::Indirect(Vec::new())),
        ManifestProblem::ListLength(0)
    );
}

/// Inline content is a view into the body it came with, not a copy.
#[test]
fn inline_content_shares_the_body() {
    let body = encode_change(&change_of([put(Content::Inline(vec![9; 1000].into()))]));
    let change = decode_change(&body).expect("valid");
    let Some(Content::Inline(bytes)) = change.events[0].operation.content() else {
        panic!("inline")
    };
    assert!(body.as_ptr_range().contains(&bytes.as_ptr()));
}

#[test]
fn a_genesis_is_checked_on_the_way_in() {
    let key = |node: u64| {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&node.to_le_bytes());
        PublicKey(key)
    };
    let member = |node: u64| Member {
        node: NodeId(node),
        name: format!("n{node}"),
        key: key(node),
        role: Role::Admin,
        address: "h:1".to_owned(),
    };
    let genesis = Genesis {
        name: "home".to_owned(),
        created: Timestamp(1),
        members: (1..=5000).map(member).collect(),
        voters: vec![NodeId(1)],
        partitions: 4,
        min_copies: 2,
    };
    let refused = |alter: fn(&mut Genesis)| {
        let mut genesis = genesis.clone();
        alter(&mut genesis);
        decode_genesis(&encode_genesis(&genesis)).expect_err("it breaks a rule")
    };
    assert_eq!(
        decode_genesis(&encode_genesis(&genesis)).as_ref(),
        Ok(&genesis)
    );
    let bounds: [fn(&mut Genesis); 7] = [
        |genesis| genesis.members.extend(genesis.members.clone()),
        |genesis| genesis.members.clear(),
        |genesis| genesis.voters = (0..60).map(NodeId).collect(),
        |genesis| genesis.partitions = 257,
        |genesis| genesis.min_copies = 0,
        |genesis| genesis.name = "x".repeat(256),
        |genesis| genesis.members[4999].address = "x".repeat(300),
    ];
    for alter in bounds {
        let problem = refused(alter);
        assert!(matches!(problem, GenesisProblem::Bounds(_)), "{problem}");
    }
    assert_eq!(
        refused(|genesis| genesis.members[7].name = "n1".to_owned()),
        GenesisProblem::Member(NodeId(8))
    );
    assert_eq!(
        refused(|genesis| genesis.members[7].key = genesis.members[0].key),
        GenesisProblem::Member(NodeId(8))
    );
    assert_eq!(
        refused(|genesis| genesis.voters = [1, 2, 2].map(NodeId).to_vec()),
        GenesisProblem::Member(NodeId(2))
    );
    assert_eq!(
        refused(|genesis| genesis.voters.push(NodeId(2))),
        GenesisProblem::VoterCount(2)
    );
    let mut message = genesis::to_message(&genesis);
    message.members[0].role = 9;
    assert!(matches!(
        decode_genesis(&message.encode_to_vec()),
        Err(GenesisProblem::Encoding(_))
    ));
    assert_eq!(
        decode_genesis(&vec![0; limit::GENESIS_BYTES + 1]),
        Err(GenesisProblem::Bounds("the length of the genesis"))
    );
}
