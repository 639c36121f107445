//! [pure] Operations <-> messages of `store.proto`: one arm each way for each of them.

use super::change::{
    Result, attributes_from_message, attributes_to_message, content_to_message, event_content,
    event_id_from_message, event_id_to_message, file_time_from_message, file_time_to_message,
    fixed, mode_from_message, place_from_message, place_to_message, precondition_from_message,
    precondition_to_message, required,
};
use super::genesis::role_to_message;
use crate::change::ChangeProblem;
use crate::event::{Operation, Revived};
use crate::generated::store;
use crate::generated::store::event::Operation as OperationMessage;
use crate::hash::TicketId;
use crate::id::{NodeId, PartitionId, VolumeId};
use crate::keep::Retention;
use crate::key::PublicKey;
use crate::limit;
use crate::member::{Rates, Role};
use crate::unit::Timestamp;
use bytes::Bytes;
use std::collections::BTreeMap;

#[expect(
    clippy::too_many_lines,
    reason = "one arm for each operation and nothing else"
)]
pub(super) fn to_message(operation: &Operation) -> OperationMessage {
    match operation {
        Operation::Put {
            place,
            content,
            attributes,
            parents,
        } => OperationMessage::Put(store::Put {
            place: place_to_message(place),
            content: Some(content_to_message(content)),
            attributes: Some(attributes_to_message(*attributes)),
            parents: *parents,
        }),
        Operation::MakeDirectory { place, parents } => {
            OperationMessage::MakeDirectory(store::MakeDirectory {
                place: place_to_message(place),
                parents: *parents,
            })
        }
        Operation::MakeSymlink {
            place,
            target,
            parents,
        } => OperationMessage::MakeSymlink(store::MakeSymlink {
            place: place_to_message(place),
            target: target.clone(),
            parents: *parents,
        }),
        Operation::Rename {
            from,
            to,
            replace,
            target,
        } => OperationMessage::Rename(store::Rename {
            from: place_to_message(from),
            to: place_to_message(to),
            replace: *replace,
            target: precondition_to_message(target),
        }),
        Operation::Copy {
            source,
            to,
            content,
            attributes,
            replace,
        } => OperationMessage::Copy(store::Copy {
            source: Some(event_id_to_message(*source)),
            to: place_to_message(to),
            content: Some(content_to_message(content)),
            attributes: Some(attributes_to_message(*attributes)),
            replace: *replace,
        }),
        Operation::Remove {
            place,
            recursive,
            base,
        } => OperationMessage::Remove(store::Remove {
            place: place_to_message(place),
            recursive: *recursive,
            base: *base,
        }),
        Operation::SetAttributes { place, mode, mtime } => {
            OperationMessage::SetAttributes(store::SetAttributes {
                place: place_to_message(place),
                mode: mode.map(u32::from),
                mtime: mtime.map(file_time_to_message),
            })
        }
        Operation::Revive { .. } => revive_to_message(operation),
        Operation::MakeVolume { name, partition } => {
            OperationMessage::MakeVolume(store::MakeVolume {
                name: name.clone(),
                partition: partition.0,
            })
        }
        Operation::RenameVolume { volume, name } => {
            OperationMessage::RenameVolume(store::RenameVolume {
                volume: volume.0,
                name: name.clone(),
            })
        }
        Operation::RemoveVolume { volume } => {
            OperationMessage::RemoveVolume(store::RemoveVolume { volume: volume.0 })
        }
        Operation::Invite {
            ticket,
            role,
            is_voter_eligible,
            name,
            expires,
        } => OperationMessage::Invite(store::Invite {
            ticket: ticket_to_message(*ticket),
            role: role_to_message(*role).into(),
            voter_eligible: *is_voter_eligible,
            name: name.clone(),
            expires_ms: expires.0,
        }),
        Operation::RevokeTicket { ticket } => OperationMessage::RevokeTicket(store::RevokeTicket {
            ticket: ticket_to_message(*ticket),
        }),
        Operation::Admit {
            ticket,
            key,
            name,
            addresses,
        } => OperationMessage::Admit(store::Admit {
            ticket: ticket_to_message(*ticket),
            key: Bytes::copy_from_slice(&key.0),
            name: name.clone(),
            addresses: addresses.clone(),
        }),
        Operation::SetMember {
            node,
            name,
            role,
            is_voter_eligible,
            addresses,
            uplink,
            usable_up,
            neighbours,
        } => OperationMessage::SetMember(store::SetMember {
            node: node.0,
            name: name.clone(),
            role: role.map(|role| role_to_message(role).into()),
            voter_eligible: *is_voter_eligible,
            addresses: addresses
                .clone()
                .map(|addresses| store::Addresses { addresses }),
            uplink: uplink.map(|Rates { up, down }| store::Rates { up, down }),
            usable_up: *usable_up,
            neighbours: neighbours.as_ref().map(|nodes| store::Neighbours {
                nodes: nodes.iter().map(|node| node.0).collect(),
            }),
        }),
        Operation::RemoveMember { node } => {
            OperationMessage::RemoveMember(store::RemoveMember { node: node.0 })
        }
        Operation::SetTag {
            name,
            moment,
            comment,
        } => OperationMessage::SetTag(store::SetTag {
            name: name.clone(),
            moment: moment_to_message(moment),
            comment: comment.clone(),
        }),
        Operation::RemoveTag { name } => {
            OperationMessage::RemoveTag(store::RemoveTag { name: name.clone() })
        }
        Operation::SetRetention { volume, retention } => {
            OperationMessage::SetRetention(store::SetRetention {
                volume: volume.0,
                keep: retention_to_message(*retention),
            })
        }
    }
}

#[expect(
    clippy::too_many_lines,
    reason = "one arm for each operation and nothing else"
)]
pub(super) fn from_message(message: OperationMessage) -> Result<Operation> {
    Ok(match message {
        OperationMessage::Put(put) => Operation::Put {
            place: place_from_message(put.place)?,
            content: event_content(put.content)?,
            attributes: attributes_from_message(put.attributes)?,
            parents: put.parents,
        },
        OperationMessage::MakeDirectory(make) => Operation::MakeDirectory {
            place: place_from_message(make.place)?,
            parents: make.parents,
        },
        OperationMessage::MakeSymlink(make) => Operation::MakeSymlink {
            place: place_from_message(make.place)?,
            target: make.target,
            parents: make.parents,
        },
        OperationMessage::Rename(rename) => Operation::Rename {
            from: place_from_message(rename.from)?,
            to: place_from_message(rename.to)?,
            replace: rename.replace,
            target: precondition_from_message(rename.target),
        },
        OperationMessage::Copy(copy) => Operation::Copy {
            source: event_id_from_message(required(copy.source, "a copy without a source")?),
            to: place_from_message(copy.to)?,
            content: event_content(copy.content)?,
            attributes: attributes_from_message(copy.attributes)?,
            replace: copy.replace,
        },
        OperationMessage::Remove(remove) => Operation::Remove {
            place: place_from_message(remove.place)?,
            recursive: remove.recursive,
            base: remove.base,
        },
        OperationMessage::SetAttributes(set) => Operation::SetAttributes {
            place: place_from_message(set.place)?,
            mode: mode_from_message(set.mode)?,
            mtime: set.mtime.map(file_time_from_message),
        },
        OperationMessage::Revive(revive) => revive_from_message(revive)?,
        OperationMessage::MakeVolume(make) => Operation::MakeVolume {
            name: make.name,
            partition: PartitionId(make.partition),
        },
        OperationMessage::RenameVolume(rename) => Operation::RenameVolume {
            volume: VolumeId(rename.volume),
            name: rename.name,
        },
        OperationMessage::RemoveVolume(remove) => Operation::RemoveVolume {
            volume: VolumeId(remove.volume),
        },
        OperationMessage::Invite(invite) => Operation::Invite {
            ticket: ticket_from_message(&invite.ticket)?,
            role: role_from_message(invite.role)?,
            is_voter_eligible: invite.voter_eligible,
            name: invite.name,
            expires: Timestamp(invite.expires_ms),
        },
        OperationMessage::RevokeTicket(revoke) => Operation::RevokeTicket {
            ticket: ticket_from_message(&revoke.ticket)?,
        },
        OperationMessage::Admit(admit) => Operation::Admit {
            ticket: ticket_from_message(&admit.ticket)?,
            key: PublicKey(fixed(&admit.key, "a key is 32 bytes")?),
            name: admit.name,
            addresses: admit.addresses,
        },
        OperationMessage::SetMember(set) => Operation::SetMember {
            node: NodeId(set.node),
            name: set.name,
            role: set.role.map(role_from_message).transpose()?,
            is_voter_eligible: set.voter_eligible,
            addresses: set.addresses.map(|list| list.addresses),
            uplink: set
                .uplink
                .map(|store::Rates { up, down }| Rates { up, down }),
            usable_up: set.usable_up,
            neighbours: set
                .neighbours
                .map(|list| list.nodes.into_iter().map(NodeId).collect()),
        },
        OperationMessage::RemoveMember(remove) => Operation::RemoveMember {
            node: NodeId(remove.node),
        },
        OperationMessage::SetTag(set) => Operation::SetTag {
            name: set.name,
            moment: moment_from_message(&set.moment)?,
            comment: set.comment,
        },
        OperationMessage::RemoveTag(remove) => Operation::RemoveTag { name: remove.name },
        OperationMessage::SetRetention(set) => Operation::SetRetention {
            volume: VolumeId(set.volume),
            retention: retention_from_message(set.keep),
        },
    })
}

fn revive_to_message(operation: &Operation) -> OperationMessage {
    use store::revive::What;
    let mut message = store::Revive::default();
    if let Operation::Revive {
        file,
        previous,
        place,
        what,
        attributes,
    } = operation
    {
        message = store::Revive {
            file: Some(event_id_to_message(*file)),
            previous: Some(event_id_to_message(*previous)),
            place: place_to_message(place),
            what: Some(match what {
                Revived::File(content) => What::Content(content_to_message(content)),
                Revived::Symlink(target) => What::Target(target.clone()),
                Revived::Directory => What::Directory(true),
            }),
            attributes: Some(attributes_to_message(*attributes)),
        };
    }
    OperationMessage::Revive(message)
}

fn revive_from_message(message: store::Revive) -> Result<Operation> {
    use store::revive::What;
    let what = match required(message.what, "a revival of nothing")? {
        What::Content(content) => Revived::File(event_content(Some(content))?),
        What::Target(target) => Revived::Symlink(target),
        What::Directory(true) => Revived::Directory,
        What::Directory(false) => {
            return Err(ChangeProblem::Encoding("a directory that is none"));
        }
    };
    let file = required(message.file, "a revival without a node")?;
    let previous = required(message.previous, "a revival without a version")?;
    Ok(Operation::Revive {
        file: event_id_from_message(file),
        previous: event_id_from_message(previous),
        place: place_from_message(message.place)?,
        what,
        attributes: attributes_from_message(message.attributes)?,
    })
}

fn moment_to_message(moment: &BTreeMap<PartitionId, u64>) -> Vec<store::EntryRef> {
    let place = |(partition, index): (&PartitionId, &u64)| store::EntryRef {
        partition: partition.0,
        index: *index,
    };
    moment.iter().map(place).collect()
}

/// What is out of order, or twice, is not what the encoder writes.
fn moment_from_message(places: &[store::EntryRef]) -> Result<BTreeMap<PartitionId, u64>> {
    if places.len() > limit::PARTITIONS {
        return Err(ChangeProblem::Encoding("a tag of too many partitions"));
    }
    let place = |place: &store::EntryRef| (PartitionId(place.partition), place.index);
    Ok(places.iter().map(place).collect())
}

fn retention_to_message(retention: Retention) -> Option<store::set_retention::Keep> {
    use store::set_retention::Keep;
    match retention {
        Retention::Forever => None,
        Retention::Age(milliseconds) => Some(Keep::AgeMs(milliseconds)),
        Retention::Versions(count) => Some(Keep::Versions(count)),
        Retention::Size(bytes) => Some(Keep::Bytes(bytes)),
    }
}

fn retention_from_message(keep: Option<store::set_retention::Keep>) -> Retention {
    use store::set_retention::Keep;
    match keep {
        None => Retention::Forever,
        Some(Keep::AgeMs(milliseconds)) => Retention::Age(milliseconds),
        Some(Keep::Versions(count)) => Retention::Versions(count),
        Some(Keep::Bytes(bytes)) => Retention::Size(bytes),
    }
}

fn ticket_to_message(ticket: TicketId) -> Bytes {
    Bytes::copy_from_slice(&ticket.0)
}

fn ticket_from_message(ticket: &Bytes) -> Result<TicketId> {
    Ok(TicketId(fixed(ticket, "a ticket's hash is 32 bytes")?))
}

fn role_from_message(role: i32) -> Result<Role> {
    super::genesis::role_from_message(role).map_err(ChangeProblem::Encoding)
}
