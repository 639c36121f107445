//! Format 1, byte for byte: fixed values against the files in `tests/testdata/format/v1/`.
//!
//! A file that differs means that nodes would no longer read or prove what is on their disks. The
//! files are never edited; a new format gets a folder of its own. Where there are none yet,
//! `ABER_BLESS=1 cargo test -p aber-proto golden` writes them.

use super::*;
use crate::entry::{Entry, EntryKind, LogId};
use crate::event::{Event, Operation, Place, Precondition, Revived};
use crate::hash::{ChainHash, ChangeHash, ChunkHash, ContentHash, KeyPin, TicketId};
use crate::id::{ClusterId, EventId, NodeId, PartitionId, RequestId, VolumeId};
use crate::keep::Retention;
use crate::key::SecretKey;
use crate::manifest::{
    Attributes, ChunkList, ChunkRef, Content, Manifest, decode_list, encode_list,
};
use crate::member::{Member, Rates, Role};
use crate::origin::{Act, Action, Origin, PlanId};
use crate::path::RelPath;
use crate::ticket::{Ticket, TicketAddress, TicketSecret};
use crate::unit::{FileTime, Timestamp};
use bytes::BytesMut;
use std::collections::BTreeMap;
use std::path::PathBuf;

fn file(name: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/testdata/format/v1");
    PathBuf::from(folder).join(name)
}

/// Compares with the file, and hands back the file's bytes.
#[expect(
    clippy::disallowed_methods,
    reason = "golden files are on the real disk, whatever is simulated"
)]
fn compared(name: &str, bytes: &[u8]) -> Bytes {
    let path = file(name);
    if std::env::var_os("ABER_BLESS").is_some_and(|value| value == "1") {
        std::fs::write(&path, bytes).expect("the folder of golden files can be written");
    }
    let golden = std::fs::read(&path).expect("a golden file; ABER_BLESS=1 writes it");
    assert!(
        golden == bytes,
        "{name} differs from what is written today:\n file {}\n code {}",
        data_encoding::HEXLOWER.encode(&golden),
        data_encoding::HEXLOWER.encode(bytes)
    );
    golden.into()
}

fn some_ticket() -> TicketId {
    TicketId(blake3::derive_key("aber 2026 ticket v1", &[5; 16]))
}

fn key() -> SecretKey {
    SecretKey::from_seed(&[7; 32]).expect("any 32 bytes are a seed")
}

fn genesis() -> Genesis {
    let member = |node, name: &str, seed: u8, role| Member {
        node: NodeId(node),
        name: name.to_owned(),
        key: SecretKey::from_seed(&[seed; 32]).expect("a seed").public(),
        role,
        address: format!("{name}.example:7700"),
    };
    Genesis {
        name: "Kêr ar mor".to_owned(),
        created: Timestamp(1_780_000_000_123),
        members: vec![
            member(1, "anna", 7, Role::Admin),
            member(2, "barge-2", 8, Role::Writer),
            member(300, "c", 9, Role::Reader),
        ],
        voters: vec![NodeId(1), NodeId(300), NodeId(2)],
        partitions: 4,
        min_copies: 2,
    }
}

fn place(volume: u64, path: &str) -> Place {
    Place {
        volume: VolumeId(volume),
        path: RelPath::parse(path).expect("a good path"),
    }
}

fn rows(count: u8) -> Vec<ChunkRef> {
    let row = |n: u8| ChunkRef {
        hash: ChunkHash::of(&[n]),
        length: 5040 + 36 * u32::from(n),
    };
    (0..count).map(row).collect()
}

fn manifest(chunks: ChunkList, size: u64) -> Content {
    Content::Chunks(Manifest {
        size,
        blake3: ContentHash::of(b"whole"),
        average: 64 * 1024,
        chunks,
    })
}

fn event_id() -> EventId {
    EventId {
        partition: PartitionId(2),
        index: 1841,
        ordinal: 6,
    }
}

/// Each operation of a data partition, and each optional field both set and not.
fn file_operations() -> Vec<Operation> {
    let attributes = Attributes {
        mtime: FileTime {
            seconds: -2_208_988_800,
            nanos: 999_999_999,
        },
        mode: Some(0o750),
    };
    vec![
        Operation::Put {
            place: place(1024, "notes/été.txt"),
            content: Content::Inline(Bytes::from_static(b"bonjour\n")),
            attributes,
            parents: true,
        },
        Operation::Put {
            place: place(1024, "film.mkv"),
            content: manifest(ChunkList::Direct(rows(2)), 2 * 5040 + 36),
            attributes: Attributes::default(),
            parents: false,
        },
        Operation::MakeDirectory {
            place: place(1025, "a/b/c"),
            parents: true,
        },
        Operation::MakeSymlink {
            place: place(1025, "link"),
            target: "../elsewhere".to_owned(),
            parents: false,
        },
        Operation::Rename {
            from: place(1025, "a"),
            to: place(1024, "z"),
            replace: true,
            target: Precondition {
                etag: Some(event_id()),
                ..Precondition::default()
            },
        },
        Operation::Copy {
            source: event_id(),
            to: place(u64::MAX, "copy"),
            content: manifest(ChunkList::Indirect(rows(3)), 1 << 40),
            attributes,
            replace: false,
        },
        Operation::Remove {
            place: place(1024, ""),
            recursive: true,
            base: 1800,
        },
        Operation::SetAttributes {
            place: place(1024, "x"),
            mode: Some(0),
            mtime: None,
        },
        Operation::SetAttributes {
            place: place(1024, "x"),
            mode: None,
            mtime: Some(FileTime::default()),
        },
    ]
}

fn volume_operations() -> Vec<Operation> {
    vec![
        Operation::MakeVolume {
            name: "music".to_owned(),
            partition: PartitionId(3),
        },
        Operation::RenameVolume {
            volume: VolumeId(1024),
            name: "Musik".to_owned(),
        },
        Operation::RemoveVolume {
            volume: VolumeId(1025),
        },
    ]
}

/// Every operation there is, in the control partition, where all of them are allowed.
fn change() -> Change {
    let guards = [
        Precondition::default(),
        Precondition {
            absent: true,
            ..Precondition::default()
        },
        Precondition {
            etag: Some(event_id()),
            absent: false,
            unchanged_since: Some(0),
        },
    ];
    let operations = file_operations().into_iter().chain(volume_operations());
    Change {
        cluster: genesis().cluster_id(),
        partition: PartitionId::CONTROL,
        author: NodeId(1),
        author_sequence: 42,
        previous: ChangeHash::of(b"the one before"),
        request: RequestId(*b"sixteen bytes..."),
        wall_time: Timestamp(-1),
        comment: "tout à la fois".to_owned(),
        via: "cli".to_owned(),
        origin: None,
        events: operations
            .zip(guards.into_iter().cycle())
            .map(|(operation, precondition)| Event {
                precondition,
                operation,
            })
            .collect(),
    }
}

/// Every operation on members but the admission, which is alone in its change.
fn membership() -> Vec<Operation> {
    let ticket = some_ticket();
    vec![
        Operation::Invite {
            ticket,
            role: Role::Writer,
            is_voter_eligible: true,
            name: Some("yann".to_owned()),
            expires: Timestamp(1_780_086_400_000),
        },
        Operation::Invite {
            ticket: TicketId([6; 32]),
            role: Role::Reader,
            is_voter_eligible: false,
            name: None,
            expires: Timestamp(-1),
        },
        Operation::RevokeTicket { ticket },
        Operation::SetMember {
            node: NodeId(300),
            name: Some("malo".to_owned()),
            role: Some(Role::Admin),
            is_voter_eligible: Some(false),
            addresses: Some(vec!["[fd00::1]:7787".to_owned()]),
            uplink: Some(Rates {
                up: 137_500,
                down: 0,
            }),
            usable_up: Some(24_576),
            neighbours: Some(vec![NodeId(1), NodeId(2)]),
        },
        Operation::SetMember {
            node: NodeId(2),
            name: None,
            role: None,
            is_voter_eligible: None,
            addresses: Some(Vec::new()),
            uplink: None,
            usable_up: Some(0),
            neighbours: Some(Vec::new()),
        },
        Operation::RemoveMember { node: NodeId(2) },
    ]
}

fn change_of(operations: Vec<Operation>) -> Change {
    let event = |operation| Event {
        precondition: Precondition::default(),
        operation,
    };
    Change {
        events: operations.into_iter().map(event).collect(),
        ..change()
    }
}

#[test]
fn golden_membership() {
    let change = change_of(membership());
    let bytes = compared("membership.bin", &encode_change(&change));
    assert_eq!(decode_change(&bytes), Ok(change));
}

/// Tags, and every form of retention.
#[test]
fn golden_keep() {
    let set = |retention| Operation::SetRetention {
        volume: VolumeId(1024),
        retention,
    };
    let moment = [(PartitionId(0), 7), (PartitionId(3), 1842)];
    let change = change_of(vec![
        Operation::SetTag {
            name: "before-the-party".to_owned(),
            moment: moment.into_iter().collect(),
            comment: "tout est là".to_owned(),
        },
        Operation::SetTag {
            name: "empty".to_owned(),
            moment: BTreeMap::new(),
            comment: String::new(),
        },
        Operation::RemoveTag {
            name: "v1.0_b".to_owned(),
        },
        set(Retention::Forever),
        set(Retention::Age(31_536_000_000)),
        set(Retention::Versions(10)),
        set(Retention::Size(0)),
        Operation::SetRetention {
            volume: VolumeId::ROOT,
            retention: Retention::Size(10 << 30),
        },
    ]);
    let bytes = compared("keep.bin", &encode_change(&change));
    assert_eq!(decode_change(&bytes), Ok(change));
}

#[test]
fn golden_admission() {
    let change = change_of(vec![Operation::Admit {
        ticket: some_ticket(),
        key: key().public(),
        name: "yann".to_owned(),
        addresses: vec!["yann.example:7787".to_owned(), "192.0.2.7:1".to_owned()],
    }]);
    let bytes = compared("admission.bin", &encode_change(&change));
    assert_eq!(decode_change(&bytes), Ok(change));
}

/// S5: tickets outlive the program that printed them.
#[test]
fn golden_ticket() {
    let addresses = ["192.0.2.7:7787", "[fd42:10::1]:7787", "enora.example:80"];
    let ticket = Ticket {
        cluster: genesis().cluster_id(),
        inviter: KeyPin::of(&key().public()),
        addresses: addresses
            .iter()
            .filter_map(|text| TicketAddress::parse(text))
            .collect(),
        secret: TicketSecret([5; 16]),
        expires_seconds: 1_780_086_400,
    };
    let bytes = compared("ticket.txt", ticket.to_text().as_bytes());
    let text = std::str::from_utf8(&bytes).expect("a ticket is text");
    assert_eq!(Ticket::parse(text), Ok(ticket));
}

/// The second of three changes signed together.
fn signed() -> SignedChange {
    let body = encode_checked(&change()).expect("a valid change");
    let others = [ChangeHash::of(b"first"), ChangeHash::of(b"third")];
    let batch = [others[0], ChangeHash::of(&body), others[1]];
    let signature = key().sign_batch(&batch).swap_remove(1);
    SignedChange { body, signature }
}

#[test]
fn golden_change() {
    let bytes = compared("change.bin", &encode_change(&change()));
    assert_eq!(decode_change(&bytes), Ok(change()));
}

/// A change that is part of an action, and takes another one back.
#[test]
fn golden_origin() {
    let [by_entry, by_plan] = [
        Action::Entry(PartitionId(3), 1842),
        Action::Plan(PlanId(*b"the plan")),
    ]
    .map(|taken| {
        let origin = Origin {
            act: Act::Undo,
            plan: PlanId(*b"one plan"),
            takes_back: Some(taken),
        };
        Change {
            origin: Some(origin),
            ..change()
        }
    });
    for (name, change) in [("origin-entry.bin", by_entry), ("origin-plan.bin", by_plan)] {
        let bytes = compared(name, &encode_change(&change));
        assert_eq!(decode_change(&bytes), Ok(change));
    }
}

/// Nodes that stand again, of each kind.
#[test]
fn golden_revive() {
    let inline = Content::Inline(Bytes::from_static(b"again"));
    let whats = [
        Revived::File(inline),
        Revived::Symlink("../there".to_owned()),
        Revived::Directory,
    ];
    let change = Change {
        events: whats
            .map(|what| Event {
                precondition: Precondition::default(),
                operation: Operation::Revive {
                    file: event_id(),
                    previous: EventId {
                        index: 1843,
                        ..event_id()
                    },
                    place: Place {
                        volume: VolumeId(1024),
                        path: RelPath::parse("d/f").expect("good path"),
                    },
                    what,
                    attributes: Attributes::default(),
                },
            })
            .into(),
        ..change()
    };
    let bytes = compared("revive.bin", &encode_change(&change));
    assert_eq!(decode_change(&bytes), Ok(change));
}

/// S1: the signature is part of the format.
#[test]
fn golden_signed_change() {
    let bytes = compared("signed-change.bin", &encode_signed(&signed()));
    let read = decode_signed(&bytes).expect("a golden file is valid");
    assert_eq!(read, signed());
    assert_eq!(read.verify(&key().public()), Ok(()));
}

#[test]
fn golden_genesis() {
    let bytes = compared("genesis.bin", &encode_genesis(&genesis()));
    assert_eq!(decode_genesis(&bytes), Ok(genesis()));
    assert_eq!(
        genesis().cluster_id().to_string(),
        "b12e66e2810bffc329467d88c819df0cf6b10667c58497c2fa6201ecdec95ca0"
    );
}

#[test]
fn golden_manifest_list() {
    let bytes = compared("manifest-list.bin", &encode_list(&rows(5)));
    assert_eq!(decode_list(&bytes), Ok(rows(5)));
}

/// I2: the chain is part of the format.
#[test]
fn golden_entry() {
    let start = ChainHash::genesis(&genesis().cluster_id(), PartitionId::CONTROL);
    let entry = Entry {
        partition: PartitionId::CONTROL,
        log_id: LogId {
            term: 3,
            index: 1842,
        },
        order_time: Timestamp(1_780_000_000_456),
        control_index: 1841,
        kind: EntryKind::Change,
        body: encode_signed(&signed()),
        chain: ChainHash::default(),
    };
    let entry = Entry::following(&start, entry);
    let mut bytes = BytesMut::new();
    entry.encode(&mut bytes);
    let read = Entry::decode(&compared("entry.bin", &bytes)).expect("a golden file is valid");
    assert_eq!(read, entry);
    assert_eq!(read.verify(&start), Ok(()));
    assert_eq!(decode_signed(&read.body), Ok(signed()));
}

/// Hashes and signatures of fixed bytes, for whoever writes a second implementation.
#[test]
fn golden_hashes() {
    let cluster = ClusterId([1; 32]);
    let chain = ChainHash::genesis(&cluster, PartitionId(3)).to_string();
    assert_eq!(
        chain,
        "bdd6dc6342b73731ebf0ea96edc21ac54fb2ab30f43727f9493a8b53b0672e73"
    );
    let change = ChangeHash::of(b"aber").to_string();
    assert_eq!(
        change,
        "c72fbc442199a71642f8eef8b3850a0781411c3a067e9537032d1461c8d19de7"
    );
}
