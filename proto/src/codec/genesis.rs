//! [pure] The genesis and its members <-> messages of `store.proto`.

use super::{FORMAT, UNKNOWN_FORMAT};
use crate::generated::store;
use crate::id::NodeId;
use crate::key::PublicKey;
use crate::member::{Genesis, GenesisProblem, Member, Role};
use crate::unit::Timestamp;
use bytes::Bytes;

pub(super) fn to_message(genesis: &Genesis) -> store::Genesis {
    let Genesis {
        name,
        created,
        members,
        voters,
        partitions,
        min_copies,
    } = genesis;
    store::Genesis {
        format: FORMAT,
        name: name.clone(),
        created_ms: created.0,
        members: members.iter().map(member_to_message).collect(),
        voters: voters.iter().map(|node| node.0).collect(),
        partitions: *partitions,
        min_copies: *min_copies,
    }
}

pub(super) fn from_message(message: store::Genesis) -> Result<Genesis, GenesisProblem> {
    if message.format != FORMAT {
        return Err(GenesisProblem::Encoding(UNKNOWN_FORMAT));
    }
    let members = message.members.into_iter().map(member_from_message);
    Ok(Genesis {
        name: message.name,
        created: Timestamp(message.created_ms),
        members: members.collect::<Result<_, _>>()?,
        voters: message.voters.into_iter().map(NodeId).collect(),
        partitions: message.partitions,
        min_copies: message.min_copies,
    })
}

pub(super) fn role_to_message(role: Role) -> store::Role {
    match role {
        Role::Reader => store::Role::Reader,
        Role::Writer => store::Role::Writer,
        Role::Admin => store::Role::Admin,
    }
}

pub(super) fn role_from_message(role: i32) -> Result<Role, &'static str> {
    match store::Role::try_from(role) {
        Ok(store::Role::Reader) => Ok(Role::Reader),
        Ok(store::Role::Writer) => Ok(Role::Writer),
        Ok(store::Role::Admin) => Ok(Role::Admin),
        Ok(store::Role::Unspecified) | Err(_) => Err("a role this version does not know"),
    }
}

fn member_to_message(member: &Member) -> store::Member {
    let Member {
        node,
        name,
        key,
        role,
        address,
    } = member;
    store::Member {
        node: node.0,
        name: name.clone(),
        key: Bytes::copy_from_slice(&key.0),
        role: role_to_message(*role).into(),
        address: address.clone(),
    }
}

fn member_from_message(message: store::Member) -> Result<Member, GenesisProblem> {
    let role = role_from_message(message.role).map_err(GenesisProblem::Encoding)?;
    let key = message.key.as_ref().try_into();
    Ok(Member {
        node: NodeId(message.node),
        name: message.name,
        key: PublicKey(key.map_err(|_| GenesisProblem::Encoding("a key is 32 bytes"))?),
        role,
        address: message.address,
    })
}
