//! [pure] What log and views hold, as messages of the API.

use aber_materializer::tree::{Node, NodeKind};
use aber_materializer::view::Rejection;
use aber_proto::generated::v1;
use aber_proto::{
    Act, Change, Event, EventId, FileTime, NodeId, Operation, PartitionId, Place, Rates, RelPath,
    Role, TicketId, Timestamp, VolumeId,
};
use aber_proto::{Attributes, Revived};
use bytes::Bytes;

pub(super) fn entry_text(entry: &v1::EntryId) -> String {
    format!("{}:{}", entry.partition, entry.index)
}

pub(super) fn entry_id(partition: PartitionId, index: u64) -> v1::EntryId {
    v1::EntryId {
        partition: partition.0,
        index,
    }
}

pub(super) fn event_id(id: EventId) -> v1::EventId {
    let entry = Some(entry_id(id.partition, id.index));
    v1::EventId {
        entry,
        number: id.ordinal.saturating_add(1),
    }
}

pub(super) fn time_message(time: FileTime) -> prost_types::Timestamp {
    let nanos = i32::try_from(time.nanos).unwrap_or(0);
    prost_types::Timestamp {
        seconds: time.seconds,
        nanos,
    }
}

pub(super) fn stamp_message(time: Timestamp) -> prost_types::Timestamp {
    time_message(time.to_file_time())
}

/// A time as callers give it; nanoseconds out of range count as none.
pub(super) fn file_time(time: &prost_types::Timestamp) -> FileTime {
    let nanos = u32::try_from(time.nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000);
    FileTime {
        seconds: time.seconds,
        nanos: nanos.unwrap_or(0),
    }
}

/// An item without what only the log knows of it (author, order time).
pub(super) fn item(path: String, node: &Node) -> v1::Item {
    let (kind, size, blake3, target) = match &node.kind {
        NodeKind::Directory | NodeKind::Volume(_) => {
            (v1::ItemKind::Directory, 0, Bytes::new(), String::new())
        }
        NodeKind::File(content) => {
            let blake3 = Bytes::copy_from_slice(&content.blake3().0);
            (v1::ItemKind::File, content.size(), blake3, String::new())
        }
        NodeKind::Symlink(target) => (v1::ItemKind::Symlink, 0, Bytes::new(), target.clone()),
    };
    let is_file = kind == v1::ItemKind::File;
    v1::Item {
        path,
        kind: kind.into(),
        size,
        etag: node.version.to_string(),
        blake3,
        modify_time: is_file.then(|| time_message(node.mtime)),
        mode: node.mode.into(),
        symlink_target: target,
        entry: Some(entry_id(node.version.partition, node.version.index)),
        file_id: Some(event_id(node.id)),
        ..v1::Item::default()
    }
}

/// The root, which has no node.
pub(super) fn root_item() -> v1::Item {
    v1::Item {
        path: "/".to_owned(),
        kind: v1::ItemKind::Directory.into(),
        mode: 0o755,
        ..v1::Item::default()
    }
}

/// Names volumes and members in what is rendered.
pub(super) trait Names {
    /// The name of a volume, the last one if it is gone; `None` if history does not tell it.
    fn volume(&self, volume: VolumeId) -> Option<String>;
    /// The name of a member.
    fn member(&self, node: NodeId) -> String;
}

/// A path of the tree as people know it. A volume whose name nobody remembers is shown by its number.
pub(super) fn place_text(place: &Place, names: &impl Names) -> String {
    if place.volume == VolumeId::ROOT {
        return format!("/{}", place.path);
    }
    let volume = names.volume(place.volume);
    let volume = volume.unwrap_or_else(|| format!("(removed volume {})", place.volume.0 >> 10));
    if place.path.is_root() {
        format!("/{volume}")
    } else {
        format!("/{volume}/{}", place.path)
    }
}

fn precondition(
    guard: &aber_proto::Precondition,
    partition: PartitionId,
) -> Option<v1::Precondition> {
    if *guard == aber_proto::Precondition::default() {
        return None;
    }
    Some(v1::Precondition {
        etag: guard.etag.map(|etag| etag.to_string()),
        absent: guard.absent,
        unchanged_since: guard
            .unchanged_since
            .map(|index| entry_id(partition, index)),
    })
}

/// A node that stands again is told as what it is.
fn revived(path: String, what: &Revived, attributes: Attributes) -> v1::event::Operation {
    use v1::event::Operation as Told;
    match what {
        Revived::File(content) => Told::Put(v1::Put {
            path,
            modify_time: Some(time_message(attributes.mtime)),
            mode: attributes.mode.map(u32::from),
            parents: false,
            size: content.size(),
            blake3: Bytes::copy_from_slice(&content.blake3().0),
            source: None,
        }),
        Revived::Symlink(target) => Told::MakeSymlink(v1::MakeSymlink {
            path,
            target: target.clone(),
            parents: false,
        }),
        Revived::Directory => Told::MakeDirectory(v1::MakeDirectory {
            path,
            parents: false,
        }),
    }
}

#[expect(clippy::too_many_lines, reason = "one arm an operation")]
pub(super) fn event(event: &Event, partition: PartitionId, names: &impl Names) -> v1::Event {
    use v1::event::Operation as Told;
    let text = |place: &Place| place_text(place, names);
    let operation = match &event.operation {
        Operation::Put {
            place,
            content,
            attributes,
            parents,
        } => Told::Put(v1::Put {
            path: text(place),
            modify_time: Some(time_message(attributes.mtime)),
            mode: attributes.mode.map(u32::from),
            parents: *parents,
            size: content.size(),
            blake3: Bytes::copy_from_slice(&content.blake3().0),
            source: None,
        }),
        Operation::Revive {
            place,
            what,
            attributes,
            ..
        } => revived(text(place), what, *attributes),
        Operation::MakeDirectory { place, parents } => Told::MakeDirectory(v1::MakeDirectory {
            path: text(place),
            parents: *parents,
        }),
        Operation::MakeSymlink {
            place,
            target,
            parents,
        } => Told::MakeSymlink(v1::MakeSymlink {
            path: text(place),
            target: target.clone(),
            parents: *parents,
        }),
        Operation::Rename {
            from,
            to,
            replace,
            target,
        } => Told::Rename(v1::Rename {
            from_path: text(from),
            to_path: text(to),
            replace: *replace,
            target: precondition(target, partition),
        }),
        Operation::Copy {
            source,
            to,
            replace,
            ..
        } => Told::Copy(v1::Copy {
            from_path: format!("version {source}"),
            to_path: text(to),
            replace: *replace,
            target: None,
        }),
        Operation::Remove {
            place,
            recursive,
            base,
        } => Told::Remove(v1::Remove {
            path: text(place),
            recursive: *recursive,
            base: recursive.then(|| entry_id(partition, *base)),
        }),
        Operation::SetAttributes { place, mode, mtime } => Told::SetAttributes(v1::SetAttributes {
            path: text(place),
            mode: mode.map(u32::from),
            modify_time: mtime.map(time_message),
        }),
        Operation::MakeVolume { name, partition } => {
            control(name, format!("made /{name}, in partition {partition}"))
        }
        Operation::RenameVolume { volume, name } => control(
            name,
            format!("renamed volume {} to /{name}", volume.0 >> 10),
        ),
        Operation::RemoveVolume { volume } => {
            let number = (volume.0 >> 10).to_string();
            match names.volume(*volume) {
                Some(name) => control(&name, format!("removed /{name}")),
                None => control(&number, format!("removed volume {number}")),
            }
        }
        Operation::Invite { .. }
        | Operation::RevokeTicket { .. }
        | Operation::Admit { .. }
        | Operation::SetMember { .. }
        | Operation::RemoveMember { .. } => member(&event.operation, names),
        Operation::SetTag { .. } | Operation::RemoveTag { .. } | Operation::SetRetention { .. } => {
            super::tags::event(&event.operation)
        }
    };
    v1::Event {
        precondition: precondition(&event.precondition, partition),
        operation: Some(operation),
        number: 0,
        outcome: None,
    }
}

fn control(subject: &str, text: String) -> v1::event::Operation {
    v1::event::Operation::Control(v1::ControlEvent {
        kind: v1::ControlKind::Volume.into(),
        subject: subject.to_owned(),
        text,
    })
}

/// An event on members or tickets. A ticket is shown by the start of its hash.
fn member(operation: &Operation, names: &impl Names) -> v1::event::Operation {
    let short = |ticket: &TicketId| ticket.to_string().get(..8).unwrap_or_default().to_owned();
    let (subject, text) = match operation {
        Operation::Invite {
            ticket,
            role,
            name,
            expires,
            ..
        } => {
            let guest = name.as_deref().unwrap_or("anybody");
            let text = format!("invited {guest} as {} until {expires}", role_text(*role));
            (short(ticket), text)
        }
        Operation::RevokeTicket { ticket } => {
            let ticket = short(ticket);
            (ticket.clone(), format!("revoked ticket {ticket}"))
        }
        Operation::Admit { name, ticket, .. } => {
            let text = format!("let {name} in with ticket {}", short(ticket));
            (name.clone(), text)
        }
        Operation::SetMember { node, .. } => {
            let member = names.member(*node);
            (
                member.clone(),
                format!("set {}", set_text(operation, &member)),
            )
        }
        Operation::RemoveMember { node } => {
            let member = names.member(*node);
            (member.clone(), format!("removed {member}"))
        }
        _ => (String::new(), String::new()),
    };
    v1::event::Operation::Control(v1::ControlEvent {
        kind: v1::ControlKind::Member.into(),
        subject,
        text,
    })
}

/// What was set of a member.
fn set_text(operation: &Operation, member: &str) -> String {
    let Operation::SetMember {
        name,
        role,
        is_voter_eligible,
        addresses,
        uplink,
        usable_up,
        neighbours,
        ..
    } = operation
    else {
        return String::new();
    };
    let mut parts = Vec::new();
    if let Some(name) = name {
        parts.push(format!("name {name}"));
    }
    if let Some(role) = role {
        parts.push(format!("role {}", role_text(*role)));
    }
    if let Some(eligible) = is_voter_eligible {
        let word = if *eligible { "may" } else { "may not" };
        parts.push(format!("{word} vote"));
    }
    if let Some(addresses) = addresses {
        parts.push(format!("addresses {}", addresses.join(" ")));
    }
    if let Some(Rates { up, down }) = uplink {
        parts.push(format!("uplink {up} B/s, downlink {down} B/s"));
    }
    match usable_up {
        Some(0) => parts.push("all of its uplink usable".to_owned()),
        Some(usable) => parts.push(format!("{usable} B/s of its uplink usable for now")),
        None => {}
    }
    if let Some(neighbours) = neighbours {
        parts.push(format!("{} neighbours", neighbours.len()));
    }
    format!("{member}: {}", parts.join(", "))
}

pub(super) fn role_text(role: Role) -> &'static str {
    match role {
        Role::Reader => "reader",
        Role::Writer => "writer",
        Role::Admin => "admin",
    }
}

/// The paths of the tree an event touches, as people know them.
pub(super) fn paths_of(event: &Event, names: &impl Names) -> Vec<String> {
    let top = |name: &str| vec![format!("/{name}")];
    match &event.operation {
        Operation::Put { place, .. }
        | Operation::MakeDirectory { place, .. }
        | Operation::MakeSymlink { place, .. }
        | Operation::Remove { place, .. }
        | Operation::SetAttributes { place, .. }
        | Operation::Revive { place, .. } => vec![place_text(place, names)],
        Operation::Rename { from, to, .. } => vec![place_text(from, names), place_text(to, names)],
        Operation::Copy { to, .. } => vec![place_text(to, names)],
        Operation::MakeVolume { name, .. } => top(name),
        Operation::RenameVolume { volume, name } => {
            let old = Place {
                volume: *volume,
                path: RelPath::root(),
            };
            vec![place_text(&old, names), format!("/{name}")]
        }
        Operation::RemoveVolume { volume } => {
            vec![place_text(
                &Place {
                    volume: *volume,
                    path: RelPath::root(),
                },
                names,
            )]
        }
        Operation::Invite { .. }
        | Operation::RevokeTicket { .. }
        | Operation::Admit { .. }
        | Operation::SetMember { .. }
        | Operation::RemoveMember { .. }
        | Operation::SetTag { .. }
        | Operation::RemoveTag { .. }
        | Operation::SetRetention { .. } => Vec::new(),
    }
}

/// A change with those of its events, by their places from 0.
pub(super) fn change(change: &Change, shown: &[usize], names: &impl Names) -> v1::Change {
    let told = |position: &usize| {
        let told = event(change.events.get(*position)?, change.partition, names);
        Some(v1::Event {
            number: u32::try_from(*position).map_or(0, |position| position.saturating_add(1)),
            ..told
        })
    };
    v1::Change {
        author: names.member(change.author),
        author_sequence: change.author_sequence,
        request_id: change.request.to_string(),
        wall_time: Some(stamp_message(change.wall_time)),
        comment: change.comment.clone(),
        via: change.via.clone(),
        events: shown.iter().filter_map(told).collect(),
        events_total: u32::try_from(change.events.len()).unwrap_or(u32::MAX),
        plan_id: change
            .origin
            .map_or_else(String::new, |origin| origin.plan.to_string()),
        act: change
            .origin
            .map_or_else(String::new, |origin| act(origin.act)),
        takes_back: change
            .origin
            .and_then(|origin| origin.takes_back)
            .map_or_else(String::new, |action| action.to_string()),
    }
}

/// The word for an action; none for something new.
fn act(act: Act) -> String {
    match act {
        Act::Write => String::new(),
        other => other.word().to_owned(),
    }
}

/// The API's reason for a rejection.
pub(super) fn reason(rejection: Rejection) -> v1::ErrorReason {
    let name = rejection.reason().unwrap_or("CHANGE_REJECTED");
    v1::ErrorReason::from_str_name(&format!("ERROR_REASON_{name}"))
        .unwrap_or(v1::ErrorReason::ChangeRejected)
}
