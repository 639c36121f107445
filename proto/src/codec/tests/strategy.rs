//! Arbitrary values that keep every rule, and damage to their bytes.

use crate::change::{Change, SignedChange};
use crate::event::{Event, Operation, Place, Precondition, Revived};
use crate::hash::{ChangeHash, ChunkHash, ContentHash, TicketId};
use crate::id::{ClusterId, EventId, NodeId, PartitionId, RequestId, VolumeId};
use crate::keep::Retention;
use crate::key::{BatchSignature, PublicKey};
use crate::limit;
use crate::manifest::{Attributes, ChunkList, ChunkRef, Content, Manifest};
use crate::member::{Genesis, Member, Rates, Role};
use crate::origin::{Act, Action, Origin, PlanId};
use crate::path::{RelPath, check_name};
use crate::unit::{FileTime, Timestamp};
use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn name() -> impl Strategy<Value = String> {
    "[a-cA-C0-9 ._é~-]{1,12}".prop_filter("a good name", |name| check_name(name).is_ok())
}

fn rel_path() -> impl Strategy<Value = RelPath> {
    vec(name(), 0..5).prop_map(|names| RelPath::parse(&names.join("/")).expect("good names"))
}

fn place() -> impl Strategy<Value = Place> {
    (any::<u64>(), rel_path()).prop_map(|(volume, path)| Place {
        volume: VolumeId(volume),
        path,
    })
}

fn event_id() -> impl Strategy<Value = EventId> {
    (any::<u32>(), any::<u64>(), any::<u32>()).prop_map(|(partition, index, ordinal)| EventId {
        partition: PartitionId(partition),
        index,
        ordinal,
    })
}

fn precondition() -> impl Strategy<Value = Precondition> {
    let parts = (
        option::of(event_id()),
        any::<bool>(),
        option::of(any::<u64>()),
    );
    let set = parts.prop_map(|(etag, absent, unchanged_since)| Precondition {
        etag,
        absent,
        unchanged_since,
    });
    prop_oneof![Just(Precondition::default()), set]
}

fn file_time() -> impl Strategy<Value = FileTime> {
    (any::<i64>(), 0..1_000_000_000_u32).prop_map(|(seconds, nanos)| FileTime { seconds, nanos })
}

fn mode() -> impl Strategy<Value = Option<u16>> {
    option::of(0..=0o777_u16)
}

fn attributes() -> impl Strategy<Value = Attributes> {
    (file_time(), mode()).prop_map(|(mtime, mode)| Attributes { mtime, mode })
}

/// Rows whose lengths are multiples of `unit`.
pub(super) fn rows(
    count: std::ops::Range<usize>,
    unit: u32,
) -> impl Strategy<Value = Vec<ChunkRef>> {
    let max = u32::try_from(limit::CHUNK_MAX_BYTES).expect("small") / unit;
    let row = (any::<[u8; 32]>(), 1..=max).prop_map(move |(hash, units)| ChunkRef {
        hash: ChunkHash(hash),
        length: units * unit,
    });
    vec(row, count)
}

fn manifest() -> impl Strategy<Value = Manifest> {
    let direct = rows(0..8, 1).prop_map(|rows| {
        let size = rows.iter().map(|row| u64::from(row.length)).sum();
        (size, ChunkList::Direct(rows))
    });
    let indirect =
        (any::<u64>(), rows(1..8, 36)).prop_map(|(size, rows)| (size, ChunkList::Indirect(rows)));
    let averages = [16, 32, 64, 128, 256].map(|kib| kib * 1024);
    let parts = (
        any::<[u8; 32]>(),
        proptest::sample::select(averages.to_vec()),
        prop_oneof![direct, indirect],
    );
    parts.prop_map(|(blake3, average, (size, chunks))| Manifest {
        size,
        blake3: ContentHash(blake3),
        average,
        chunks,
    })
}

pub(super) fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        vec(any::<u8>(), 0..=40).prop_map(|bytes| Content::Inline(bytes.into())),
        Just(Content::Inline(Bytes::from_static(&[7; 1024]))),
        manifest().prop_map(Content::Chunks),
    ]
}

fn revived() -> impl Strategy<Value = Revived> {
    prop_oneof![
        content().prop_map(Revived::File),
        "[a-z/.é]{1,30}".prop_map(Revived::Symlink),
        Just(Revived::Directory),
    ]
}

fn file_operation() -> impl Strategy<Value = Operation> {
    let flag = any::<bool>;
    prop_oneof![
        (place(), content(), attributes(), flag()).prop_map(
            |(place, content, attributes, parents)| Operation::Put {
                place,
                content,
                attributes,
                parents
            }
        ),
        (place(), flag()).prop_map(|(place, parents)| Operation::MakeDirectory { place, parents }),
        (place(), "[a-z/.é]{1,30}", flag()).prop_map(|(place, target, parents)| {
            Operation::MakeSymlink {
                place,
                target,
                parents,
            }
        }),
        (place(), place(), flag(), precondition()).prop_map(|(from, to, replace, target)| {
            Operation::Rename {
                from,
                to,
                replace,
                target,
            }
        }),
        (event_id(), place(), content(), attributes(), flag()).prop_map(
            |(source, to, content, attributes, replace)| Operation::Copy {
                source,
                to,
                content,
                attributes,
                replace
            }
        ),
        (place(), flag(), any::<u64>()).prop_map(|(place, recursive, base)| Operation::Remove {
            place,
            recursive,
            base
        }),
        (event_id(), event_id(), place(), revived(), attributes()).prop_map(
            |(file, previous, place, what, attributes)| Operation::Revive {
                file,
                previous,
                place,
                what,
                attributes,
            }
        ),
        (place(), mode(), option::of(file_time()))
            .prop_map(|(place, mode, mtime)| Operation::SetAttributes { place, mode, mtime }),
    ]
}

fn volume_operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (name(), any::<u32>()).prop_map(|(name, partition)| Operation::MakeVolume {
            name,
            partition: PartitionId(partition)
        }),
        (any::<u64>(), name()).prop_map(|(volume, name)| Operation::RenameVolume {
            volume: VolumeId(volume),
            name
        }),
        any::<u64>().prop_map(|volume| Operation::RemoveVolume {
            volume: VolumeId(volume)
        }),
    ]
}

pub(super) fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Reader), Just(Role::Writer), Just(Role::Admin)]
}

fn member_name() -> impl Strategy<Value = String> {
    "[a-z0-9-]{1,32}"
}

fn addresses() -> impl Strategy<Value = Vec<String>> {
    vec("[a-z0-9.]{1,20}:[0-9]{1,5}", 0..=limit::MEMBER_ADDRESSES)
}

fn ticket_id() -> impl Strategy<Value = TicketId> {
    any::<[u8; 32]>().prop_map(TicketId)
}

fn admission() -> impl Strategy<Value = Operation> {
    (ticket_id(), any::<[u8; 32]>(), member_name(), addresses()).prop_map(
        |(ticket, key, name, addresses)| Operation::Admit {
            ticket,
            key: PublicKey(key),
            name,
            addresses,
        },
    )
}

fn set_member() -> impl Strategy<Value = Operation> {
    let neighbours = proptest::collection::btree_set(any::<u64>(), 0..5);
    let flags = (any::<u64>(), option::of(member_name()), option::of(role()));
    let rest = (
        option::of(any::<bool>()),
        option::of(addresses()),
        option::of(any::<(u64, u64)>()),
        option::of(any::<u64>()),
        option::of(neighbours),
    );
    (flags, rest).prop_map(
        |((node, name, role), (eligible, addresses, uplink, usable_up, neighbours))| {
            Operation::SetMember {
                node: NodeId(node),
                name,
                role,
                is_voter_eligible: eligible,
                addresses,
                uplink: uplink.map(|(up, down)| Rates { up, down }),
                usable_up,
                neighbours: neighbours.map(|nodes| nodes.into_iter().map(NodeId).collect()),
            }
        },
    )
}

fn membership_operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (
            ticket_id(),
            role(),
            any::<bool>(),
            option::of(member_name()),
            any::<i64>()
        )
            .prop_map(|(ticket, role, is_voter_eligible, name, expires)| {
                Operation::Invite {
                    ticket,
                    role,
                    is_voter_eligible,
                    name,
                    expires: Timestamp(expires),
                }
            }),
        ticket_id().prop_map(|ticket| Operation::RevokeTicket { ticket }),
        set_member(),
        any::<u64>().prop_map(|node| Operation::RemoveMember { node: NodeId(node) }),
    ]
}

fn history_operation() -> impl Strategy<Value = Operation> {
    let name = || "[a-z][a-z0-9._-]{0,63}";
    let moment =
        proptest::collection::btree_map((0..256_u32).prop_map(PartitionId), 1..u64::MAX, 0..6);
    let retention = prop_oneof![
        Just(Retention::Forever),
        (1..=u64::MAX).prop_map(Retention::Age),
        (1..=u64::MAX).prop_map(Retention::Versions),
        any::<u64>().prop_map(Retention::Size),
    ];
    prop_oneof![
        (name(), moment, "[ -~é]{0,60}").prop_map(|(name, moment, comment)| Operation::SetTag {
            name,
            moment,
            comment,
        }),
        name().prop_map(|name| Operation::RemoveTag { name }),
        (any::<u64>(), retention).prop_map(|(volume, retention)| Operation::SetRetention {
            volume: VolumeId(volume),
            retention,
        }),
    ]
}

fn unguarded(operation: Operation) -> Event {
    Event {
        precondition: Precondition::default(),
        operation,
    }
}

fn events(operation: impl Strategy<Value = Operation>) -> impl Strategy<Value = Vec<Event>> {
    let event = (precondition(), operation).prop_map(|(precondition, operation)| Event {
        precondition,
        operation,
    });
    vec(event, 1..5)
}

fn origin() -> impl Strategy<Value = Origin> {
    let plan = || any::<[u8; 8]>().prop_map(PlanId);
    let takes_back = prop_oneof![
        plan().prop_map(Action::Plan),
        any::<(u32, u64)>()
            .prop_map(|(partition, index)| Action::Entry(PartitionId(partition), index)),
    ];
    let act = proptest::sample::select(Act::ALL.to_vec());
    (act, plan(), option::of(takes_back)).prop_map(|(act, plan, takes_back)| Origin {
        act,
        plan,
        takes_back,
    })
}

pub(super) fn change() -> impl Strategy<Value = Change> {
    let placed = prop_oneof![
        (1..=u32::MAX, events(file_operation())),
        (
            Just(0),
            events(prop_oneof![file_operation(), volume_operation()])
        ),
        (
            Just(0),
            vec(membership_operation().prop_map(unguarded), 1..5)
        ),
        (Just(0), vec(history_operation().prop_map(unguarded), 1..5)),
        (
            Just(0),
            admission().prop_map(|admit| vec![unguarded(admit)])
        ),
    ];
    let ids = (any::<[u8; 32]>(), any::<[u8; 32]>(), any::<[u8; 16]>());
    let numbers = (any::<u64>(), any::<u64>(), any::<i64>());
    let texts = (".{0,40}", "[a-z:]{0,20}", option::of(origin()));
    (placed, ids, numbers, texts).prop_map(
        |((partition, events), (cluster, previous, request), numbers, (comment, via, origin))| {
            Change {
                cluster: ClusterId(cluster),
                partition: PartitionId(partition),
                author: NodeId(numbers.0),
                author_sequence: numbers.1,
                previous: ChangeHash(previous),
                request: RequestId(request),
                wall_time: Timestamp(numbers.2),
                comment,
                via,
                origin,
                events,
            }
        },
    )
}

pub(super) fn signed() -> impl Strategy<Value = SignedChange> {
    let signature = (
        any::<[u8; 64]>(),
        any::<u32>(),
        any::<u32>(),
        vec(any::<[u8; 32]>(), 0..=limit::BATCH_DEPTH),
    );
    (vec(any::<u8>(), 0..200), signature).prop_map(
        |(body, (root_signature, position, count, path))| SignedChange {
            body: body.into(),
            signature: BatchSignature {
                root_signature,
                position,
                count,
                path,
            },
        },
    )
}

pub(super) fn genesis() -> impl Strategy<Value = Genesis> {
    let member = (any::<[u8; 32]>(), role(), "[a-z0-9.]{0,20}:[0-9]{1,5}");
    let numbers = (any::<i64>(), 2..=256_u32, 0..3_usize, any::<u64>());
    (vec(member, 1..8), ".{0,30}", numbers).prop_map(
        |(members, name, (created, partitions, votes, first))| {
            let mut node = first;
            let members: Vec<_> = members
                .into_iter()
                .map(|(mut key, role, address)| {
                    node = node.wrapping_add(1);
                    key[..8].copy_from_slice(&node.to_le_bytes());
                    Member {
                        node: NodeId(node),
                        name: format!("node-{node}"),
                        key: PublicKey(key),
                        role,
                        address,
                    }
                })
                .collect();
            let votes = (2 * votes + 1).min((members.len() - 1) / 2 * 2 + 1).min(5);
            let voters = members.iter().rev().take(votes).map(|member| member.node);
            Genesis {
                name,
                created: Timestamp(created),
                voters: voters.collect(),
                partitions,
                min_copies: u32::try_from(members.len()).expect("few"),
                members,
            }
        },
    )
}

/// Bytes after some damage: bytes changed, cut out or put in.
pub(super) fn damaged(bytes: &[u8], damage: &[(usize, u8, u8)]) -> Bytes {
    let mut bytes = bytes.to_vec();
    for (at, value, how) in damage {
        let at = at % (bytes.len() + 1);
        match how % 4 {
            0 => bytes.insert(at, *value),
            1 => bytes.truncate(bytes.len() - usize::from(*value).min(bytes.len()) / 8),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= value;
                }
            }
        }
    }
    bytes.into()
}

pub(super) fn damage() -> impl Strategy<Value = Vec<(usize, u8, u8)>> {
    vec(any::<(usize, u8, u8)>(), 1..4)
}
